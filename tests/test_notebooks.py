"""Every notebook runs, is what its source says, and leads somewhere."""

import importlib.util
import re
from itertools import pairwise
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[1]
spec = importlib.util.spec_from_file_location("notebooks_make", ROOT / "notebooks" / "make.py")
make = importlib.util.module_from_spec(spec)
spec.loader.exec_module(make)
LIMIT = 60  # seconds, on 2 cores; twice that where the other core is busy with another test


def test_there_are_thirteen_in_order():
    assert [source.stem[:2] for source in make.SOURCES] == [f"{k:02}" for k in range(1, 14)]


@pytest.mark.parametrize("source", make.SOURCES, ids=lambda source: source.stem)
def test_a_notebook_is_what_its_source_says_byte_for_byte(source):
    path = source.with_suffix(".ipynb")
    assert path.read_text(encoding="utf-8") == make.text(make.notebook(source)), (
        f"run: python notebooks/make.py {source.stem}"
    )
    assert not any(cell.get("outputs") for cell in nbformat.read(path, 4).cells)


# `make test` runs this one; all thirteen are run by `make docs`, and by `make test-rest`
QUICK = ("01",)


@pytest.mark.parametrize(
    "source",
    [
        pytest.param(
            source,
            id=source.stem,
            marks=[] if source.stem.startswith(QUICK) else pytest.mark.thorough,
        )
        for source in make.SOURCES
    ],
)
def test_a_notebook_runs_without_complaint(source):
    folder = ROOT / "build" / "notebooks"
    # `make docs` has run it, if it was made before: from this source, with this package
    if not make.is_fresh(source, folder):
        make.execute(source, folder)
    copy = nbformat.read(folder / f"{source.stem}.ipynb", 4)
    assert copy.metadata["perakit"]["seconds"] < 2 * LIMIT
    outputs = [output for cell in copy.cells for output in cell.get("outputs", [])]
    assert [
        output.text
        for output in outputs
        if output.output_type == "stream" and output.name == "stderr"
    ] == []
    assert [
        text
        for output in outputs
        for text in output.get("data", {}).get("text/plain", "").splitlines()
        if text.startswith("<Axes")
    ] == []
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 2, (
        "figures carry the argument"
    )


@pytest.mark.parametrize("source", make.SOURCES, ids=lambda source: source.stem)
def test_a_notebook_has_a_title_exercises_with_answers_and_a_way_on(source):
    cells = make.notebook(source).cells
    prose = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    headings = re.findall(r"^(#+) (.*)$", prose, flags=re.MULTILINE)
    assert headings[0] == ("#", headings[0][1])
    assert headings[0][1].startswith(source.stem[:2])
    levels = [len(marks) for marks, _ in headings]
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels)), (
        "no level of headings is skipped"
    )
    assert "Exercise" in prose
    hidden = [cell for cell in cells if "hide-cell" in cell.metadata.get("tags", [])]
    assert hidden or "<details>" in prose
    assert all(cell.metadata.get("jupyter", {}).get("source_hidden") for cell in hidden), (
        "closed in JupyterLab as on the site"
    )
    assert "assert" in "\n".join(cell.source for cell in cells if cell.cell_type == "code"), (
        "what it says is held to"
    )
    assert "Where to go next" in cells[-1].source


def anchors(path):
    """The places in a page or notebook that a link can name."""
    text = (
        path.read_text(encoding="utf-8")
        if path.suffix == ".md"
        else "\n".join(cell.source for cell in nbformat.read(path, 4).cells)
    )
    headings = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    slugs = {
        re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings
    }
    return slugs | set(re.findall(r'<a id="([^"]+)">', text))


@pytest.mark.parametrize("source", make.SOURCES, ids=lambda source: source.stem)
def test_the_links_of_a_notebook_lead_somewhere(source):
    prose = "\n".join(
        cell.source for cell in make.notebook(source).cells if cell.cell_type == "markdown"
    )
    targets = [
        target
        for target in re.findall(r"\]\(([^)\s]+)\)", prose)
        if not re.match(r"[a-z]+:", target)
    ]
    broken = []
    for target in targets:
        name, _, anchor = target.partition("#")
        path = (source.parent / name) if name else source.with_suffix(".ipynb")
        if not path.exists() or (anchor and anchor not in anchors(path)):
            broken.append(target)
    assert broken == []


def test_a_notebook_that_fails_is_noticed_and_leaves_no_copy(tmp_path):
    source = tmp_path / "99_broken.py"
    source.write_text("# %%\nassert 1 == 2\n")
    with pytest.raises(make.CellExecutionError, match="assert 1 == 2"):
        make.execute(source, tmp_path / "copies")
    assert not make.is_fresh(source, tmp_path / "copies")


def test_a_copy_is_fresh_until_its_source_changes(tmp_path):
    source = tmp_path / "99_small.py"
    source.write_text("# %%\n1 + 1\n")
    make.execute(source, tmp_path)
    assert make.is_fresh(source, tmp_path)
    source.write_text("# %%\n1 + 2\n")
    assert not make.is_fresh(source, tmp_path)


def test_what_follows_a_figure_of_ours_is_shown_too(tmp_path):
    """Jupyter's backend is loaded by the first figure; within a style's context it would be
    switched off again at the end.
    """
    source = tmp_path / "99_figures.py"
    cells = (
        "from perakit import plots",
        "_ = plots.plot_matrix([[1]])",
        "import matplotlib.pyplot as plt\n_ = plt.figure().gca()",
    )
    source.write_text("".join(f"# %%\n{cell}\n" for cell in cells))
    make.execute(source, tmp_path)
    executed = nbformat.read(tmp_path / "99_figures.ipynb", 4).cells
    assert [
        any("image/png" in output.get("data", {}) for output in cell.outputs) for cell in executed
    ] == [False, True, True]
