"""The explorer: its numbers without widgets, its widgets without a browser, and what a page without
a kernel shows.
"""

import base64
import math
import subprocess
import sys

import matplotlib.pyplot as plt
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perakit import PerakitError, explorer, formulas

# --- numbers and figure ---------------------------------------------------------------------------


@given(st.data(), st.integers(1, 4), st.sampled_from(formulas.TERMS), st.integers(0, 9))
def test_numbers_are_those_of_the_theory(data, rank, terms, seed):
    """Of generic factors with no h zero the rank is min(m, n, K), whatever the draw; the share is
    that of the same factors.
    """
    count = formulas.rank_bound(rank, terms) - rank
    h = data.draw(
        st.lists(st.sampled_from([-2.0, -0.25, 0.1, 1.0]), min_size=count, max_size=count)
    )
    numbers = explorer.compute(rank, h, terms, 7, 5, seed)
    B, A = explorer._factors(rank, 7, 5, seed)
    delta = formulas.pera(B, A, np.array(h), terms)
    assert (numbers.rank, numbers.bound, numbers.shape) == (rank, rank + count, (7, 5))
    assert numbers.exact_rank == min(7, 5, rank + count)
    assert numbers.exact_rank >= numbers.measured_rank
    assert numbers.spectrum == pytest.approx(np.linalg.svd(delta, compute_uv=False), abs=1e-12)
    assert numbers.lora == pytest.approx(np.linalg.svd(B @ A, compute_uv=False), abs=1e-12)
    high, low = delta - B @ A, B @ A
    assert numbers.order_share == pytest.approx(
        np.linalg.norm(high) / np.linalg.norm(low), abs=1e-12
    )


def test_rounding_hides_a_rank_that_the_exact_one_sees():
    numbers = explorer.compute(1, [1e-18])
    assert (numbers.exact_rank, numbers.measured_rank) == (2, 1)
    assert str(numbers) == f"r = 1, rank(ΔW) = 2, K = 2; order share {numbers.order_share:.2g}"


def test_h_zero_is_lora():
    numbers = explorer.compute(2, [0, 0, 0])
    assert (numbers.exact_rank, numbers.order_share) == (2, 0)
    assert np.array_equal(numbers.spectrum, numbers.lora)


def test_a_larger_rank_keeps_the_columns_that_were_there():
    (B, A), (wider, taller) = (explorer._factors(rank, 11, 13, 3) for rank in (2, 3))
    assert np.array_equal(wider[:, :2], B)
    assert np.array_equal(taller[:2], A)
    assert not np.array_equal(explorer._factors(2, 11, 13, 4)[0], B)
    assert 1 / 64 <= np.abs(wider).min() <= np.abs(wider).max() <= 99 / 64


@pytest.mark.parametrize(
    ("rank", "h", "terms"),
    [
        (1, [0.5], "full"),
        (2, [0.5, -1, 0.5], "full"),
        (4, [1] * 10, "full"),
        (3, [1] * 3, "cross"),
        (1, [], "cross"),
    ],
)
def test_the_figure_shows_the_numbers_and_is_not_pyplots(rank, h, terms):
    before = dict(plt.rcParams)
    figure, numbers = explorer.figure(rank, h, terms)
    spectrum, ranks, polynomial, *_ = figure.axes
    drawn = {line.get_label(): list(line.get_ydata()) for line in spectrum.lines}
    assert drawn["PERA"] == numbers.spectrum.tolist()
    assert drawn["LoRA (h = 0)"] == numbers.lora.tolist()
    assert [bar.get_width() for bar in ranks.patches] == [rank, numbers.exact_rank, numbers.bound]
    assert [label.get_text() for label in ranks.get_yticklabels()] == ["r", "rank of ΔW", "K"]
    assert ranks.get_xlabel() == f"order share: {numbers.order_share:.2g}"
    assert r"\varphi_h" in polynomial.get_title(loc="left")
    marks = [text.get_text().strip() for text in spectrum.texts]
    assert marks == [f"r = {rank}"] + [f"K = {numbers.bound}"] * (numbers.bound <= 11)
    figure.canvas.draw()
    assert plt.get_fignums() == []
    assert dict(plt.rcParams) == before


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: explorer.figure(2, [0.5]),
            r"^h has shape \(1,\): rank 2, terms='full', degree 2 need \(3,\)$",
        ),
        (lambda: explorer.figure(0, []), "^rank=0 must be an integer >= 1$"),
        (
            lambda: explorer.figure(6, [0.0] * 21, m=5),
            r"^rank=6 is above min\(m, n\) = 5 of a 5 x 13 layer: choose a smaller rank$",
        ),
        (
            lambda: explorer.compute(1, [math.inf]),
            r"^h=\[inf\] makes entries of ΔW that are not finite: choose finite, smaller ones$",
        ),
        (
            lambda: explorer.figure(1, [1e300]),
            r"^h=\[1e\+300\] makes singular values up to .*, and no axis goes beyond 1e\+200",
        ),
        (lambda: explorer.compute(1, [0.5], "half"), "^terms='half' is unknown"),
        (lambda: explorer.compute(1, [0.5], seed=-1), "^seed=-1 must be an integer >= 0$"),
    ],
)
def test_what_cannot_be_drawn_is_refused(call, message):
    with pytest.raises(PerakitError, match=message):
        call()


# --- widgets --------------------------------------------------------------------------------------


def made(*args, **options):
    pytest.importorskip("ipywidgets")
    return explorer.explore(*args, **options)


@pytest.fixture(autouse=True)
def _forget():
    explorer._last.clear()
    yield
    explorer._last.clear()
    assert plt.get_fignums() == []


def test_a_slider_moves_the_numbers_and_the_picture():
    shown = made()
    before, picture = shown.numbers, shown.picture
    assert picture.startswith(b"\x89PNG")
    assert list(shown.sliders) == ["h₁₁", "h₁₂", "h₂₂"]
    shown.sliders["h₁₂"].value = 2.0
    assert shown.numbers.h.tolist() == [0.5, 2.0, 0.5]
    assert not np.allclose(shown.numbers.spectrum, before.spectrum)
    assert shown.picture != picture
    for slider in shown.sliders.values():
        slider.value = 0.0
    assert (shown.numbers.exact_rank, shown.numbers.order_share) == (2, 0)
    shown.draw.value = 7
    assert np.array_equal(shown.numbers.lora, explorer.compute(2, [0, 0, 0], seed=7).lora)


def test_rank_and_terms_change_the_sliders_and_keep_their_places():
    shown = made()
    shown.sliders["h₂₂"].value = -2.0
    shown.rank.value = 3
    assert list(shown.sliders) == ["size of h"]
    assert (shown.numbers.rank, shown.numbers.bound, shown.numbers.exact_rank) == (3, 9, 9)
    full = shown.numbers.h
    shown.sliders["size of h"].value = 0.5
    assert np.array_equal(shown.numbers.h, full / 2)
    shown.terms.value = "square"
    assert len(shown.numbers.h) == 3
    shown.rank.value = 2
    assert [(name, slider.value) for name, slider in shown.sliders.items()] == [
        ("h₁₁", 0.5),
        ("h₂₂", -2.0),
    ]
    shown.terms.value, shown.rank.value = "cross", 1
    assert shown.sliders == {}
    assert shown.coefficients.children == ()
    assert shown.numbers.h.shape == (0,)


def test_run_again_it_stands_where_it_stood_unless_fresh():
    shown = made()
    shown.sliders["h₁₁"].value, shown.draw.value = -1.5, 3
    shown.terms.value = "square"
    again = made()
    assert again.numbers.h.tolist() == shown.numbers.h.tolist() == [-1.5, 0.5]
    assert (again.terms.value, again.draw.value) == ("square", 3)
    assert made(seed=1).numbers.h.tolist() == [0.5, -1.0, 0.5]
    assert made(fresh=True).numbers.h.tolist() == [0.5, -1.0, 0.5]


def test_each_slider_redraws_once(monkeypatch):
    shown, calls, draw = made(), [], explorer.figure
    monkeypatch.setattr(
        explorer, "figure", lambda *arguments: calls.append(arguments) or draw(*arguments)
    )
    shown.rank.value = 4
    shown.sliders["size of h"].value = 0.25
    shown.draw.value = 1
    assert [arguments[0] for arguments in calls] == [4, 4, 4]


def test_the_slider_of_r_ends_at_what_the_layer_allows():
    assert (made(3, 2).rank.max, made(3, 1).rank.value, made().rank.max) == (2, 1, 4)
    with pytest.raises(PerakitError, match=r"^m=0 must be an integer >= 1$"):
        made(0, 3)
    with pytest.raises(PerakitError, match=r"^seed=-1 must be an integer >= 0$"):
        made(seed=-1)


def test_without_ipywidgets_the_error_says_what_to_install(monkeypatch):
    def missing(name):
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(explorer, "import_module", missing)
    with pytest.raises(
        PerakitError,
        match=(
            r"^the explorer needs ipywidgets \(No module named \'ipywidgets\'\): pip install"
            r' "perakit\[notebooks\]"'
        ),
    ):
        explorer.explore()
    assert explorer.figure(1, [0.5])[1].bound == 2


def test_an_executed_notebook_keeps_the_picture(tmp_path):
    """Two cells: the explorer, displayed; then a slider moved by code, which replaces the picture
    where it stands. No warning.
    """
    for name in ("ipywidgets", "ipykernel"):
        pytest.importorskip(name)
    nbformat, nbclient = (pytest.importorskip(name) for name in ("nbformat", "nbclient"))
    cells = [
        "from perakit import explorer\nx = explorer.explore()\nx",
        "x.sliders['h₁₁'].value = 2.0\nprint(x.numbers.h)",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    notebook.metadata["kernelspec"] = {
        "name": "python3",
        "display_name": "Python 3",
        "language": "python",
    }
    nbclient.NotebookClient(
        notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    outputs = [output for cell in notebook.cells for output in cell.outputs]
    assert [output.get("text") for output in outputs if output.output_type == "stream"] == [
        "[ 2.  -1.   0.5]\n"
    ]
    assert [output.output_type for output in outputs] == ["display_data", "display_data", "stream"]
    controls, picture, printed = outputs
    assert "application/vnd.jupyter.widget-view+json" in controls.data
    assert printed.name == "stdout"
    assert printed.text == "[ 2.  -1.   0.5]\n"
    moved = made(fresh=True)
    moved.sliders["h₁₁"].value = 2.0
    assert base64.b64decode(picture.data["image/png"]) == moved.picture


def test_the_module_loads_no_widgets():
    code = (
        "import sys; import perakit.explorer; sys.exit(any(name in sys.modules for name in"
        " ('ipywidgets', 'IPython', 'matplotlib.pyplot')))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
