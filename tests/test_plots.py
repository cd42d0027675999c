"""Figures draw the numbers they are given, on the Axes they are given, and change nothing else."""

from itertools import pairwise
from typing import NamedTuple

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_hex

from perakit import PerakitError, plots, theory
from perakit.models.merge import MergeReport
from perakit.theory import OrderShare, gauge_path, predicted_share
from perakit.toy import Run


@pytest.fixture
def runs():
    def run(shift):
        rows = [{"step": k, "loss": shift + 1 / k} for k in range(1, 31)]
        return Run(
            [
                {"step": 0, "heldout_bits_per_byte": 3.0},
                *rows,
                {"step": 30, "heldout_bits_per_byte": 2.0 + shift},
            ]
        )

    return {"LoRA": run(0.0), "PERA": run(0.5)}


def test_loss_curves_are_running_means_of_the_metrics(runs):
    before = dict(matplotlib.rcParams)
    _, given = plt.subplots()
    ax = plots.plot_loss(runs, window=10, ax=given)
    assert ax is given
    assert [line.get_label() for line in ax.lines] == ["LoRA", "PERA"]
    assert len({line.get_linestyle() for line in ax.lines}) == 2
    x, y = ax.lines[1].get_data()
    assert list(x) == list(range(10, 31))
    assert y[0] == pytest.approx(0.5 + np.mean([1 / k for k in range(1, 11)]))
    assert dict(matplotlib.rcParams) == before


def test_heldout_points_are_the_evaluations(runs):
    ax = plots.plot_heldout(runs)
    assert [tuple(line.get_ydata()) for line in ax.lines] == [(3.0, 2.0), (3.0, 2.5)]
    assert ax.get_ylabel() == "bits per byte"


def test_the_training_figure_needs_no_pyplot_state(runs):
    figure = plots.training_figure(runs)
    assert len(figure.axes) == 2
    assert plt.get_fignums() == []


# --- theory ---------------------------------------------------------------------------------------


class Ends(NamedTuple):
    mean: float
    low: float
    high: float


class Fit(NamedTuple):
    rank: int
    parameters: int
    error: float


def tail(values, k):
    return sum(value**2 for value in values[k:]) ** 0.5


def gauge(h, X):
    rng = np.random.default_rng(0)
    return gauge_path(
        rng.normal(size=(5, 2)),
        rng.normal(size=(2, 3)),
        np.asarray(h, dtype=float),
        X,
        [-0.5, 0.0, 0.5],
    )


def group(h):
    rng = np.random.default_rng(0)
    B, A = rng.integers(1, 9, (9, 3)), rng.integers(1, 9, (3, 9))
    return theory.gauge((B, A, np.array(h)))


TURN = [[0.0, 1.0], [-1.0, 0.0]]
ROUNDING = MergeReport(
    [
        ("a", "bfloat16", 0.1, 0.02, 0.0),
        ("b", "bfloat16", 0.01, 0.3, 0.5),
        ("c", "bfloat16", 0.0, 0.0, 0.0),
    ]
)
U = {
    "LoRA": [(0.003, [2.1, 2.0]), (0.006, [1.9, 1.8]), (0.012, [2.0, 2.0]), (0.024, [3.7, 3.9])],
    "PERA": [(0.003, [2.1, 2.0]), (0.006, [1.9, 1.8]), (0.012, [2.0, 2.0]), (0.024, [3.7, None])],
}
CURVES = {"LoRA": [Fit(1, 7, 0.5), Fit(2, 14, 0.25)], "PERA": [Fit(1, 8, 0.4), Fit(2, 17, 0.1)]}
DRAWN = {
    "spectra": lambda ax: plots.plot_spectra({"LoRA": [2.0, 1.0, 0.0]}, rank=1, bound=2, ax=ax),
    "dimension": lambda ax: plots.plot_dimension(5, 7, [1, 2], ax=ax),
    "sandwich": lambda ax: plots.plot_sandwich([3.0, 2.0, 1.0], [1, 2], [2.1, 0.5], ax=ax),
    "approximation": lambda ax: plots.plot_approximation(CURVES, ax=ax),
    "capture": lambda ax: plots.plot_capture({"LoRA": {4: [0.2, 0.3]}}, entries=20, ax=ax),
    "interaction": lambda ax: plots.plot_interaction(np.eye(3), ax=ax),
    "matrix": lambda ax: plots.plot_matrix([[1.0, -2.0, 0.0]], ax=ax),
    "along the input": lambda ax: plots.plot_along_input(
        [-1.0, 1.0], {"PERA": [-2.0, 2.0], "quadratic": [3.0, 3.0]}, ax=ax
    ),
    "levels": lambda ax: plots.plot_levels([-1.0, 0.1, 0.2], {"NF4": [-1.0, 0.0, 1.0]}, ax=ax),
    "entry polynomial": lambda ax: plots.plot_entry_polynomial([0.5, -1.0, 0.5], ax=ax),
    "step time": lambda ax: plots.plot_step_time(
        {"base": [(4, 0.1), (8, 0.2)]}, floor=[(4, 0.1)], ax=ax
    ),
    "ratio": lambda ax: plots.plot_ratio(
        {"r = 8": [(256, (1.2, 1.1, 1.4))]}, counted={"r = 8": [(256, 1.1)]}, ax=ax
    ),
    "scores": lambda ax: plots.plot_scores(
        {"LoRA": [2.3, 2.4], "PERA": [2.2, 2.5]}, baseline=3.0, ax=ax
    ),
    "order share": lambda ax: plots.plot_order_share(OrderShare({"a": 0.1, "b": 0.0}, 0.07), ax=ax),
    "share of steps": lambda ax: plots.plot_share_of_steps(
        {"PERA": [(0, 0.0), (9, 0.1)]}, predicted=[predicted_share(8, 2, 1e-2, 9)], ax=ax
    ),
    "gauge": lambda ax: plots.plot_gauge({"LoRA": gauge([0, 0, 0], TURN)}, ax=ax),
    "gauge dimension": lambda ax: plots.plot_gauge_dimension({"h = 0": group([0] * 6)}, ax=ax),
    "rounding": lambda ax: plots.plot_rounding({"bf16": ROUNDING}, ax=ax),
    "rates": lambda ax: plots.plot_rates(U, best={"LoRA": [0.006]}, ax=ax),
    "plane": lambda ax: plots.plot_plane(
        {"LoRA": [(0.003, Ends(0.1, 0.0, 0.2), Ends(0.3, 0.2, 0.4))]}, start=(0, 0), ax=ax
    ),
    "entry polynomial, rank 1": lambda ax: plots.plot_entry_polynomial([0.5], 1, ax=ax),
}


@pytest.mark.parametrize("name", DRAWN)
def test_the_axes_given_are_used_and_nothing_else_changes(name):
    before = dict(matplotlib.rcParams)
    figure, given = plt.subplots()
    assert DRAWN[name](given) is given
    assert plt.get_fignums() == [figure.number]
    assert given.get_title(loc="left") + given.get_title()
    assert given.get_xlabel()
    assert given.get_ylabel()
    new = DRAWN[name](None)
    assert new.figure.number != figure.number
    assert dict(matplotlib.rcParams) == before
    figure.canvas.draw()  # labels that mathtext cannot read fail here
    new.figure.canvas.draw()


@pytest.mark.parametrize("given", [True, False])
def test_lines_have_the_colours_and_legends_of_the_style(given):
    """Okabe and Ito's palette and no frame, also on Axes that the caller made with another
    style.
    """
    ax = plots.plot_approximation(CURVES, ax=plt.subplots()[1] if given else None)
    assert [to_hex(line.get_color()) for line in ax.lines] == ["#0072b2", "#d55e00"]
    assert not ax.get_legend().get_frame_on()


def lines(ax):
    return {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in ax.lines}


def test_spectra_are_drawn_as_given():
    ax = plots.plot_spectra(
        {"LoRA": [8.0, 1e-16], "PERA": [4.0, 2.0, 0.0], "none": [0.0, 0.0]}, rank=1, bound=2
    )
    drawn = lines(ax)
    assert drawn["LoRA"] == ([1, 2], [8.0, 1e-16])
    assert drawn["PERA"] == ([1, 2, 3], [4.0, 2.0, 0.0])
    assert drawn["none (all zero)"] == ([1, 2], [0.0, 0.0])
    assert ax.get_yscale() == "log"
    assert ax.get_ylim()[0] < 1e-16
    assert [line.get_xdata()[0] for line in ax.lines[3:]] == [1.5, 2.5]
    assert [text.get_text().strip() for text in ax.texts] == ["r = 1", "K = 2"]


def test_nothing_but_zeros_can_be_drawn():
    for ax in (
        plots.plot_spectra({"start": [0.0, 0.0]}),
        plots.plot_sandwich([0.0, 0.0], [1], [0.0]),
        plots.plot_approximation({"LoRA": [Fit(1, 7, 0.0)]}),
    ):
        ax.figure.canvas.draw()
        assert ax.get_yscale() == "linear"
        assert ax.get_ylim()[0] <= 0 <= ax.get_ylim()[1]
    assert plots.plot_interaction(np.zeros((2, 2))).images[0].get_clim() == (0.0, 1.0)


def test_dimensions_are_the_closed_forms():
    """On 5 x 7: K = 2, 5, so r(m+n) + r(r-1)/2 and its relatives; from K = 5 on every matrix has
    rank <= K.
    """
    ax = plots.plot_dimension(5, 7, [1, 2, 3])
    drawn = {name: y for name, (x, y) in lines(ax).items() if x == [1, 2, 3]}
    assert drawn == {
        "PERA": [12, 25, 35],
        "PERA, squares only": [12, 24, 35],
        "PERA, cross terms only": [11, 23, 35],
        "LoRA": [11, 20, 27],
        "all of rank ≤ K, K = r(r+3)/2": [2 * (5 + 7 - 2), 35, 35],
    }
    assert list(ax.lines[0].get_ydata()) == [35, 35]
    assert ax.texts[0].get_text() == "all matrices: mn = 35"
    styles = [(line.get_linestyle(), line.get_linewidth()) for line in ax.lines[2:]]
    assert len({style for style, _ in styles}) == 4
    assert [width for _, width in styles] == sorted({width for _, width in styles}, reverse=True)


def test_captured_shares_are_drawn_against_parameters_per_entry():
    shares = {"LoRA": {4: [0.2, 0.4], 8: [0.5, 0.5]}, "PERA": {5: [0.3, 0.6]}}
    drawn = lines(plots.plot_capture(shares, entries=20))
    assert drawn["LoRA"][0] == [0.2, 0.4]
    assert drawn["LoRA"][1] == pytest.approx([0.3, 0.5])
    assert drawn["PERA"][1] == pytest.approx([0.45])
    assert drawn["a linear family"] == ([0, 0.4], [0, 0.4])
    with pytest.raises(PerakitError, match="entries=0 must be"):
        plots.plot_capture(shares, entries=0)


@pytest.mark.parametrize(
    ("options", "bounds"), [({}, (2, 5)), ({"terms": "cross"}, (1, 3)), ({"degree": 3}, (3, 9))]
)
def test_the_sandwich_is_eckart_and_young(options, bounds):
    values = [8.0, 4.0, 2.0, 1.0, 0.5, 0.25]
    ax = plots.plot_sandwich(values, [1, 2], [5.0, 1.5], **options)
    drawn = lines(ax)
    assert drawn["upper bound: best of rank r (LoRA)"][1] == pytest.approx(
        [tail(values, 1), tail(values, 2)]
    )
    assert drawn["lower bound: best of rank K"][1] == pytest.approx(
        [tail(values, K) for K in bounds]
    )
    assert drawn["best PERA found"] == ([1, 2], [5.0, 1.5])
    (band,) = ax.collections
    corners = {(x, round(y, 9)) for x, y in band.get_paths()[0].vertices}
    assert {(2, round(tail(values, 2), 9)), (1, round(tail(values, bounds[0]), 9))} <= corners


def test_what_a_log_axis_cannot_show_is_written():
    """An exact fit, and a lower bound of 0, since K = 5 > 3: both at the foot, as numbers, and not
    squeezing the rest.
    """
    ax = plots.plot_sandwich([4.0, 2.0, 1.0], [1, 2], [1.5, 2e-15])
    assert [text.get_text() for text in ax.texts] == ["↓ 2e-15", "↓ 0"]
    assert {text.get_position()[0] for text in ax.texts} == {2}
    assert 1e-10 < ax.get_ylim()[0] < 1e-8


@pytest.mark.parametrize(
    ("against", "x"), [("rank", [[1, 2], [1, 2]]), ("parameters", [[7, 14], [8, 17]])]
)
def test_approximation_curves_are_the_fits(against, x):
    ax = plots.plot_approximation(CURVES, against=against)
    drawn = lines(ax)
    assert list(drawn) == ["LoRA", "PERA"]
    assert [drawn["LoRA"][0], drawn["PERA"][0]] == x
    assert [drawn["LoRA"][1], drawn["PERA"][1]] == [[0.5, 0.25], [0.4, 0.1]]
    assert against in ax.get_title(loc="left")
    assert ax.get_yscale() == "log"


def test_approximation_against_something_else():
    with pytest.raises(
        PerakitError, match="against='time' is unknown: choose 'rank' or 'parameters'"
    ):
        plots.plot_approximation(CURVES, against="time")


def test_the_heat_map_is_the_matrix():
    strength = np.array([[1.0, 2.0], [2.0, 0.0]])
    ax = plots.plot_interaction(strength)
    assert np.array_equal(ax.images[0].get_array(), strength)
    assert ax.images[0].get_clim() == (0.0, 2.0)
    assert "S_{ij}" in ax.images[0].colorbar.ax.get_ylabel()


def polynomial(h, u, v):
    return u + v + h[0] * u * u + h[1] * u * v + h[2] * v * v


def test_contours_are_level_sets():
    """On each drawn PERA contour φ_h = 0, on each of LoRA's lines u + v is one of the levels; h = 0
    makes them meet.
    """
    h = (0.5, -1.0, 0.25)
    ax = plots.plot_entry_polynomial(h, span=1.5)
    _, zero, plane = ax.collections
    points = np.concatenate([path.vertices for path in zero.get_paths()])
    assert len(points) > 20
    assert np.abs(polynomial(h, *points.T)).max() < 1e-2
    straight = [path.vertices.sum(1) for path in plane.get_paths() if len(path.vertices)]
    assert len(straight) > 3
    assert max(np.ptp(sums) for sums in straight) < 1e-9
    assert np.abs(points).max() <= 1.5
    lora = plots.plot_entry_polynomial((0, 0, 0)).collections[1]
    assert np.abs(lora.get_paths()[0].vertices.sum(1)).max() < 1e-9


def test_a_surface_and_its_plane(monkeypatch):
    h = (0.5, -1.0, 0.25)
    given, surfaces = plt.figure().add_subplot(projection="3d"), []
    plot_surface = given.plot_surface
    monkeypatch.setattr(
        given,
        "plot_surface",
        lambda *xyz, **style: surfaces.append(xyz) or plot_surface(*xyz, **style),
    )
    ax = plots.plot_entry_polynomial(h, ax=given)
    assert ax is given
    (u, v, phi), (x, y, plane) = surfaces
    assert np.ptp(u) == np.ptp(v) == 4.0
    assert np.allclose(phi, polynomial(h, u, v))
    assert np.allclose(plane, x + y)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [
        "PERA",
        "LoRA (h = 0): a plane",
    ]


@pytest.mark.parametrize(
    ("options", "h"), [({}, [0.5]), ({"degree": 3}, [0.5, 0.0]), ({"terms": "square"}, [0.5])]
)
def test_rank_one_is_two_curves(options, h):
    drawn = lines(plots.plot_entry_polynomial(h, 1, **options))
    (u, phi), (v, flat) = drawn["PERA"], drawn["LoRA (h = 0)"]
    assert u == v == flat
    assert np.allclose(phi, np.array(u) + 0.5 * np.array(u) ** 2)


def test_a_higher_rank_shows_its_first_two_coordinates():
    h = np.zeros(6)
    h[[0, 1, 3]] = 0.5, -1.0, 0.25  # the order of h at rank 3: 00 01 02 11 12 22
    zero = plots.plot_entry_polynomial(h, 3).collections[1]
    points = np.concatenate([path.vertices for path in zero.get_paths()])
    assert len(points) > 20
    assert np.abs(polynomial((0.5, -1.0, 0.25), *points.T)).max() < 1e-2


def test_h_must_fit_the_rank():
    with pytest.raises(PerakitError, match=r"h has shape \(2,\): rank 2"):
        plots.plot_entry_polynomial([1.0, 2.0])


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(
        PerakitError, match=r"^2 ranks and 1 errors do not match: give one error a rank$"
    ):
        plots.plot_sandwich([3, 2, 1], [1, 2], [0.5])
    with pytest.raises(
        PerakitError, match=r"^the matrix has shape \(1, 3\): interaction strength is \(d, d\)$"
    ):
        plots.plot_interaction(np.ones((1, 3)))


# --- methods side by side -------------------------------------------------------------------------


def test_a_matrix_has_zero_in_the_middle_of_its_colours():
    image = plots.plot_matrix([[1.0, -3.0], [0.0, 2.0], [0.5, 0.0]], title="ΔW").images[0]
    assert image.get_clim() == (-3.0, 3.0)
    assert image.get_array().shape == (3, 2)
    assert plots.plot_matrix(np.zeros((2, 3))).images[0].get_clim() == (-1.0, 1.0)
    with pytest.raises(PerakitError, match=r"the matrix has shape \(3,\): pass \(m, n\)"):
        plots.plot_matrix([1.0, 2.0, 3.0])


def test_along_the_input_draws_each_line_as_given():
    ax = plots.plot_along_input([-1.0, 0.0, 1.0], {"a": [-1.0, 0.0, 1.0], "b": [1.0, 0.0, 1.0]})
    drawn = {
        line.get_label(): list(line.get_ydata())
        for line in ax.lines
        if not line.get_label().startswith("_")
    }
    assert drawn == {"a": [-1.0, 0.0, 1.0], "b": [1.0, 0.0, 1.0]}


def test_levels_stand_below_the_density():
    ax = plots.plot_levels(np.linspace(-1, 1, 99), {"NF4": [-1.0, 0.0, 1.0], "equal": [-1.0, 1.0]})
    first, second = ax.lines
    assert list(first.get_xdata()) == [-1.0, 0.0, 1.0]
    assert 0 > first.get_ydata()[0] > second.get_ydata()[0]


def test_step_times_are_drawn_as_given_on_log_axes():
    ax = plots.plot_step_time(
        {"base": [(4096, 0.4), (256, 0.1)], "PERA": [(256, 0.2), (4096, 0.5)]},
        floor=[(256, 0.15), (4096, 0.45)],
    )
    assert lines(ax) == {
        "base": ([256, 4096], [0.1, 0.4]),
        "PERA": ([256, 4096], [0.2, 0.5]),
        "PERA, counted": ([256, 4096], [0.15, 0.45]),
    }
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["256", "4096"]
    wide = plots.plot_step_time({"base": [(768 * 768, 0.1)]}, xlabel="weights m n")
    assert [tick.get_text() for tick in wide.get_xticklabels()] == ["0.59M"]
    assert wide.get_xlabel() == "weights m n"


def test_ratios_have_their_quartiles_and_what_was_counted():
    ax = plots.plot_ratio(
        {"r = 8": [(256, (1.2, 1.1, 1.4)), (1024, (1.0, 0.9, 1.1))]},
        counted={"r = 8": [(256, 1.15), (1024, 0.95)]},
    )
    at_one, measured, counted, _ = ax.lines
    assert list(at_one.get_ydata()) == [1, 1]
    assert list(measured.get_ydata()) == [1.2, 1.0]
    assert list(counted.get_ydata()) == [1.15, 0.95]
    assert (counted.get_color(), counted.get_linestyle()) == (measured.get_color(), "--")
    band = ax.collections[0].get_paths()[0].vertices
    assert {(x, y) for x, y in band} == {(256, 1.1), (256, 1.4), (1024, 0.9), (1024, 1.1)}
    assert ax.get_xscale() == "log"
    assert [text.get_text() for text in ax.get_legend().texts] == ["r = 8", "counted"]
    assert len(plots.plot_ratio({"r = 8": [(256, (1.2, 1.1, 1.4))]}).lines) == 2


# --- runs, shares and tables ----------------------------------------------------------------------


def test_scores_are_dots_with_a_students_interval():
    """Of 1, 2, 3 the mean is 2, s = 1 and t = 4.302653, so the half-width is 4.302653 / √3 =
    2.484138.
    """
    ax = plots.plot_scores({"LoRA": [1.0, 2.0, 3.0], "PERA": [0.5, 0.5, 0.5]}, baseline=4.0)
    (dots,) = [line for line in ax.lines if line.get_label() == "one seed"]
    assert list(zip(*dots.get_data(), strict=True)) == [
        (1, 0),
        (2, 0),
        (3, 0),
        (0.5, 1),
        (0.5, 1),
        (0.5, 1),
    ]
    (bars,) = ax.collections
    (low, high), (left, right) = [segment[:, 0] for segment in bars.get_segments()]
    assert (low, high) == pytest.approx((2 - 2.484138, 2 + 2.484138))
    assert left == right == 0.5
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["LoRA", "PERA"]
    said = [text.get_text() for text in ax.get_legend().texts]
    assert said == [
        "one seed",
        "baseline: 4",
        "mean of N = 3 seeds and its 95 % interval (Student's t)",
    ]
    assert any(set(line.get_xdata()) == {4.0} and line.get_linestyle() == "--" for line in ax.lines)


def test_one_seed_has_no_interval_and_the_number_of_seeds_is_said():
    ax = plots.plot_scores({"LoRA": [1.0], "PERA": [1.0, 2.0]})
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["LoRA (N = 1)", "PERA (N = 2)"]
    assert [segment[:, 1].tolist() for segment in ax.collections[0].get_segments()] == [[1, 1]]
    assert not plots.plot_scores({"LoRA": [1.0]}).collections


def test_the_share_of_each_layer_is_its_dot_and_zero_is_written():
    ax = plots.plot_order_share(OrderShare({"a": 0.1, "b": 0.0, "c": np.inf, "d": 1e-6}, 0.02))
    dots, whole = ax.lines
    x, rows = dots.get_data()
    assert x[[0, 3]].tolist() == [0.1, 1e-6]
    assert np.isnan(x[[1, 2]]).all()
    assert rows.tolist() == [0, 1, 2, 3]
    assert set(whole.get_xdata()) == {0.02}
    assert [(text.get_text(), text.xy) for text in ax.texts] == [("← 0", (0, 1)), ("∞ →", (1, 2))]
    assert (ax.get_xscale(), ax.yaxis_inverted()) == ("log", True)
    nothing = plots.plot_order_share(OrderShare({"a": 0.0, "b": 0.0}, 0.0))
    assert nothing.get_xscale() == "linear"
    assert [text.get_text() for text in nothing.texts] == ["← 0", "← 0"]
    assert nothing.get_legend().texts[1].get_text() == "whole model: 0"


@pytest.mark.parametrize("given", [True, False])
def test_forty_eight_layers_can_be_read(given):
    """No name is smaller than 5 points, none touches the next; on Axes that are too low every
    second is left out.
    """
    shares = {f"transformer.h.{k}.attn.c_attn": 10.0 ** -(k % 7) for k in range(48)}
    ax = plots.plot_order_share(
        OrderShare(shares, 0.1), ax=plt.subplots(layout="constrained")[1] if given else None
    )
    ax.figure.canvas.draw()
    boxes = [label.get_window_extent() for label in ax.get_yticklabels()]
    assert (len(boxes) < 48) == given
    assert all(above.y0 > below.y0 + 0.75 * below.height for above, below in pairwise(boxes))
    assert min(label.get_fontsize() for label in ax.get_yticklabels()) >= 5


def test_shares_of_steps_are_drawn_as_given_beside_their_band():
    bands = [predicted_share(96, 4, 3e-3, steps) for steps in (10, 100)]
    ax = plots.plot_share_of_steps(
        {"LoRA": [(0, 0.0), (10, 0.0)], "PERA": [(0, 0.0), (10, 1e-4)]}, predicted=bands
    )
    assert lines(ax) == {"LoRA (all zero)": ([0, 10], [0, 0]), "PERA": ([0, 10], [0, 1e-4])}
    corners = {tuple(vertex) for vertex in ax.collections[0].get_paths()[0].vertices}
    assert {(10, bands[0].low), (100, bands[1].high)} <= corners
    assert ax.get_yscale() == "log"
    assert plots.plot_share_of_steps({"LoRA": [(0, 0.0), (10, 0.0)]}).get_yscale() == "linear"


def test_gauge_paths_are_drawn_as_measured():
    paths = {"LoRA": gauge([0, 0, 0], TURN), "PERA": gauge([1, -1, 1], TURN)}
    ax = plots.plot_gauge(paths)
    for k, path in enumerate(paths.values()):
        update, factors = ax.lines[2 * k : 2 * k + 2]
        assert np.array_equal(update.get_xydata(), np.stack([path.t, path.update], axis=1))
        assert np.array_equal(factors.get_ydata(), path.factors)
        assert update.get_color() == factors.get_color()
    assert ax.lines[0].get_ydata().max() < 1e-12 < 0.1 < ax.lines[2].get_ydata().max()
    assert ax.lines[0].get_linestyle() != ax.lines[2].get_linestyle()


def test_each_class_is_a_bar_as_high_as_its_square_and_the_count_is_a_dot():
    gauges = {"2 + 1": group([1, 2, 6, 1, 6, 4]), "1 + 1 + 1": group([1, 2, 3, 4, 5, 6])}
    thin = theory.gauge((np.ones((30, 8)), np.ones((8, 3000)), np.arange(36)))  # not counted
    ax = plots.plot_gauge_dimension(gauges | {"large": thin})
    bars = [(round(bar.get_x() + 0.3), bar.get_y(), bar.get_height()) for bar in ax.patches[:5]]
    assert bars == [(0, 0, 4), (0, 4, 1), (1, 0, 1), (1, 1, 1), (1, 2, 1)]
    assert [text.get_text() for text in ax.texts[:3]] == ["2²", "1²", "1²"]
    assert ax.lines[0].get_xydata().tolist() == [[0.38, 5], [1.38, 3]]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["2 + 1", "1 + 1 + 1", "large"]


def test_rounding_marks_are_the_rows_of_the_reports():
    ax = plots.plot_rounding({"bf16": ROUNDING})
    marks = ax.lines[0]
    assert marks.get_xydata().tolist() == [[0.01, 0.3], [0.1, 0.02]]
    assert marks.get_label() == "bf16 (1 not shown)"
    empty = plots.plot_rounding({"float64": MergeReport([("a", "float64", 0.1, 0.0, 0.0)])})
    empty.figure.canvas.draw()
    assert empty.lines[0].get_label() == "float64 (1 not shown)"


def test_a_grid_shows_each_number_and_its_colour():
    values = np.array([[1.0, 1e-3, 0.0], [np.nan, 10.0, 0.5]])
    ax = plots.plot_grid(
        values,
        ["gaussian", "identity"],
        ["LoRA", "PERA", "DoRA"],
        log=True,
        label="error",
        title="Errors",
    )
    assert np.array_equal(ax.images[0].get_array().filled(np.nan), values, equal_nan=True)
    assert ax.images[0].get_clim() == (1e-3, 10.0)
    assert {text.get_position(): text.get_text() for text in ax.texts} == {
        (0, 0): "1",
        (1, 0): "0.001",
        (2, 0): "0",
        (1, 1): "10",
        (2, 1): "0.5",
    }
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["LoRA", "PERA", "DoRA"]
    assert ax.images[0].colorbar.ax.get_ylabel() == "error"
    ax.figure.canvas.draw()


def test_a_grid_of_answers_has_dots_and_no_scale():
    ax = plots.plot_grid(np.array([[True, False]]), ["mistake"], ["law 1", "law 2"])
    assert [text.get_text() for text in ax.texts] == ["●", ""]
    assert ax.images[0].colorbar is None
    assert plots.plot_grid([[3, 3]], ["a"], ["b", "c"], spec="d").images[0].get_clim() == (3, 4)
    assert plots.plot_grid([[2.0]], ["a"], ["b"], log=True).images[0].get_clim() == (0.2, 2.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: plots.plot_scores({}),
            "^scores is empty: give one method at least, with its scores$",
        ),
        (
            lambda: plots.plot_scores({"LoRA": []}),
            (
                r"^the scores of 'LoRA' are \[\]: give a finite number a seed, and leave out runs"
                r" that failed$"
            ),
        ),
        (
            lambda: plots.plot_scores({"LoRA": [1.0, np.nan]}),
            r"^the scores of 'LoRA' are \[1\.0, nan\]: give a finite number a seed",
        ),
        (
            lambda: plots.plot_order_share(OrderShare({}, 0.0)),
            "^the share has no layers: adapt some",
        ),
        (
            lambda: plots.plot_grid([[1.0]], ["a"], ["b", "c"]),
            r"^values \(1, 1\) float64: 1 rows and 2 columns need as many real numbers$",
        ),
        (lambda: plots.plot_grid([["x"]], ["a"], ["b"]), r"^values \(1, 1\) <U1: 1 rows"),
        (lambda: plots.plot_grid(np.zeros((0, 0)), [], []), r"^values \(0, 0\) float64: 0 rows"),
    ],
)
def test_numbers_that_make_no_picture_are_refused(call, message):
    with pytest.raises(PerakitError, match=message):
        call()
    assert plt.get_fignums() == []


def test_the_colours_are_okabe_and_itos():
    """Their palette without its yellow, which is hard to see on white: told apart by the
    colour-blind.
    """
    with matplotlib.style.context(plots.STYLE):
        cycle = matplotlib.rcParams["axes.prop_cycle"].by_key()["color"]
    assert {f"#{colour.lower().lstrip('#')}" for colour in cycle} == {
        "#0072b2",
        "#d55e00",
        "#009e73",
        "#cc79a7",
        "#e69f00",
        "#56b4e9",
        "#000000",
    }


@pytest.mark.parametrize(
    "draw",
    [
        lambda: plots.plot_spectra({name: [2.0, 1.0] for name in "abcd"}),
        lambda: plots.plot_approximation(dict.fromkeys("abcd", CURVES["LoRA"])),
        lambda: plots.plot_along_input([0.0, 1.0], {name: [0.0, 1.0] for name in "abcd"}),
        lambda: plots.plot_share_of_steps({name: [(0, 0.1), (1, 0.2)] for name in "abcd"}),
        lambda: plots.plot_heldout(
            {
                name: Run([{"step": k, "heldout_bits_per_byte": 2.0} for k in (0, 1)])
                for name in "abcd"
            }
        ),
    ],
)
def test_lines_that_coincide_differ_by_more_than_colour(draw):
    drawn = [line for line in draw().lines if len(line.get_label()) == 1]
    assert len(drawn) == 4
    assert len({(line.get_linestyle(), line.get_marker()) for line in drawn}) == 4


def test_intervals_are_drawn_at_their_ends_and_in_their_order():
    from perakit.experiments.statistics import interval

    one, other = interval([1.0, 2.0, 4.0]), interval([-1.0, -2.0, -4.0])
    ax = plots.plot_intervals({"a": [(1, one), (10, other)]})
    bar = ax.containers[0]
    assert list(bar.lines[0].get_ydata()) == [one.mean, other.mean]
    ends = np.array([segment[:, 1] for segment in bar.lines[2][0].get_segments()])
    assert np.allclose(ends, [[one.low, one.high], [other.low, other.high]])
    ax = plots.plot_gains({"up": one, "down": other}, margin=0.5)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["up", "down"]
    ends = np.array([segment[:, 0] for segment in ax.containers[0].lines[2][0].get_segments()])
    assert np.allclose(ends, [[one.low, one.high], [other.low, other.high]])
    with pytest.raises(PerakitError, match="lines is empty or has a line without points"):
        plots.plot_intervals({"a": []})
    with pytest.raises(PerakitError, match="gains is empty"):
        plots.plot_gains({})


# --- every learning rate --------------------------------------------------------------------------


def edge_marks(ax):
    """(marker, rate, colour) on the upper edge."""
    return [
        (line.get_marker(), *line.get_xdata(), line.get_color())
        for line in ax.lines
        if not line.get_clip_on()
    ]


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_rates_are_means_with_a_band_from_the_lowest_to_the_highest_seed():
    ax = plots.plot_rates({"LoRA": [*U["LoRA"][:3], (0.024, [2.05])]})
    (line,) = [line for line in ax.lines if line.get_label() == "LoRA"]
    assert list(line.get_xdata()) == [0.003, 0.006, 0.012, 0.024]
    assert line.get_ydata() == pytest.approx([2.05, 1.85, 2.0, 2.05])
    band = {tuple(vertex) for vertex in ax.collections[0].get_paths()[0].vertices}
    assert {(0.003, 2.0), (0.003, 2.1), (0.006, 1.8), (0.006, 1.9), (0.024, 2.05)} <= band
    assert ax.get_xscale() == "log"
    assert [tick.get_text() for tick in ax.get_xticklabels()] == [
        "0.003",
        "0.006",
        "0.012",
        "0.024",
    ]
    assert legend(ax) == ["LoRA", "lowest to highest seed"]
    assert not plots.plot_rates({"LoRA": [(0.003, [2.0]), (0.006, [1.9])]}).collections


def test_what_costs_too_much_or_diverged_is_marked_on_the_upper_edge():
    """Two of four rates are at most 2.0 bits, 0.15 above the best; 2.05 is less than twice that."""
    ax = plots.plot_rates(U)
    low, high = ax.get_ylim()
    assert high == pytest.approx(2.05 + 0.08 * 0.2)
    assert low < 1.8
    blue, red = (line.get_color() for line in ax.lines if line.get_label() in U)
    assert edge_marks(ax) == [("^", 0.024, blue), ("x", 0.024, red)]
    (lora, pera) = [line.get_ydata() for line in ax.lines if line.get_label() in U]
    assert lora[-1] == pytest.approx(3.8)
    assert np.isnan(pera[-1])
    assert legend(ax) == [
        "LoRA",
        "PERA",
        "above the axis",
        "a seed diverged",
        "lowest to highest seed",
    ]
    dots = [line for line in ax.lines if line.get_marker() == "."]
    assert [(dot.get_xdata(), dot.get_ydata()) for dot in dots] == [([0.024], [3.7])]


def test_no_mark_of_an_arm_hides_another_on_the_edge():
    ax = plots.plot_rates({name: [(0.1, [1.0]), (0.2, [9.0])] for name in "abcdefg"})
    ax.figure.canvas.draw()
    marks = [line for line in ax.lines if not line.get_clip_on()]
    at = sorted(line.get_transform().transform((0.2, 1))[0] for line in marks)
    assert len(at) == 7
    assert min(right - left for left, right in pairwise(at)) > 6 * ax.figure.dpi / 72


def test_everything_is_shown_where_nothing_stands_out_or_top_says_so():
    flat = plots.plot_rates({"a": [(0.1, [1.0]), (0.2, [1.1]), (0.4, [1.11])]})
    assert edge_marks(flat) == []
    assert plots.plot_rates(U, top=4.0).get_ylim()[1] == 4.0
    assert edge_marks(plots.plot_rates({"LoRA": U["LoRA"]}, top=4.0)) == []
    assert plots.plot_rates({"a": [(0.1, [2.0])]}).get_ylim()[1] > 2.0
    nothing = plots.plot_rates({"a": [(0.1, [None]), (0.2, [None, None])]})
    assert [mark[:2] for mark in edge_marks(nothing)] == [("x", 0.1), ("x", 0.2)]
    nothing.figure.canvas.draw()


def test_possible_rates_are_filled_and_all_others_hollow():
    ax = plots.plot_rates(U, best={"LoRA": [0.006, 0.012]}, top=4.0)
    lora, filled, pera, none = [line for line in ax.lines if len(line.get_xdata())][:4]
    assert lora.get_markerfacecolor() == pera.get_markerfacecolor() == "white"
    assert list(filled.get_xdata()) == [0.006, 0.012]
    assert filled.get_markerfacecolor() == lora.get_color()
    assert "filled: a possible rate" in legend(ax)
    assert not any(list(line.get_xdata()) == [0.006] for line in (pera, none))
    usual = plots.plot_rates(U)
    assert usual.lines[0].get_markerfacecolor() == usual.lines[0].get_color()


@pytest.mark.parametrize("plot", [plots.plot_rates, plots.plot_plane])
def test_arms_beyond_seven_are_grey_and_counted(plot):
    def values(k):
        one = Ends(0.1 * k, 0.0, 0.2 * k)
        return [(0.1, one, one)] if plot is plots.plot_plane else [(0.1, [1.0 + k])]

    arms = {f"arm {k}": values(k + 1) for k in range(20)}
    ax = plot(arms, shown=["arm 19", "arm 3"])
    assert "18 others" in legend(ax)
    assert [name for name in legend(ax) if name.startswith("arm")] == ["arm 19", "arm 3"]
    assert sum(line.get_color() == "0.75" and len(line.get_xdata()) > 0 for line in ax.lines) >= 18
    assert [name for name in legend(plot(arms)) if name in arms] == [f"arm {k}" for k in range(7)]
    assert "1 other" in legend(plot(dict([*arms.items()][:8])))
    coloured = {line.get_color() for line in plot(arms).lines} - {"0.75", "0.35"}
    assert len(coloured) == 7
    with pytest.raises(PerakitError, match=r"^8 arms in colours: one Axes can tell 7 apart, draw"):
        plot(arms, shown=[f"arm {k}" for k in range(8)])
    with pytest.raises(PerakitError, match=r"^'PERA' is no arm: choose from \['arm 0', "):
        plot(arms, shown=["PERA"])


PATH = [
    (0.012, Ends(0.18, 0.17, 0.20), Ends(0.12, 0.10, 0.13)),
    (0.003, Ends(0.17, 0.16, 0.18), Ends(0.06, 0.05, 0.07)),
    (0.048, Ends(-1.9, -2.0, -1.8), Ends(2.9, 2.8, 3.0)),
    (0.096, None, None),
]


def test_the_plane_has_a_point_a_rate_with_both_intervals():
    ax = plots.plot_plane({"LoRA": PATH}, start=(0, 0))
    line, across, along = ax.containers[0].lines[0], *ax.containers[0].lines[2]
    assert line.get_xydata().tolist() == [[0.17, 0.06], [0.18, 0.12], [-1.9, 2.9]]
    assert np.allclose(across.get_segments()[0], [[0.16, 0.06], [0.18, 0.06]])
    assert np.allclose(across.get_segments()[1], [[0.17, 0.12], [0.20, 0.12]])
    assert np.allclose(along.get_segments()[1], [[0.18, 0.10], [0.18, 0.13]])
    assert {text.get_text(): text.xy for text in ax.texts} == {
        "0.003": (0.17, 0.06),
        "0.012": (0.18, 0.12),
    }
    assert legend(ax) == ["without an adapter", "LoRA (0.048 outside, 0.096 diverged)"]


def test_the_frame_of_the_plane_holds_what_learned_and_the_start():
    ax = plots.plot_plane({"LoRA": PATH}, start=(0, 0))
    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    assert -0.1 < left < 0 < 0.20 < right < 0.3
    assert -0.1 < bottom < 0 < 0.13 < top < 0.2
    close = plots.plot_plane({"LoRA": PATH})
    assert close.get_xlim()[0] > 0.15
    assert close.get_ylim()[0] > 0.04
    assert legend(close) == ["LoRA (0.048 outside, 0.096 diverged)"]
    lost = plots.plot_plane({"LoRA": PATH[3:]})
    assert legend(lost) == ["LoRA (0.096 diverged)"]
    lost.figure.canvas.draw()


def test_arms_that_coincide_in_the_plane_have_one_name_a_rate():
    ax = plots.plot_plane({"LoRA": PATH[:2], "PERA": PATH[:2]})
    assert sorted(text.get_text() for text in ax.texts) == ["0.003", "0.012"]
    lora, pera = (bars.lines[0] for bars in ax.containers)
    assert lora.get_linewidth() > pera.get_linewidth()
    assert lora.get_linestyle() != pera.get_linestyle()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plots.plot_rates({}), "^there are no arms: give one at least, with its rates$"),
        (
            lambda: plots.plot_rates({"LoRA": []}),
            "^'LoRA' has no rates: give one at least, or leave it out$",
        ),
        (
            lambda: plots.plot_rates({"LoRA": [(0.0, [1.0])]}),
            r"^'LoRA' has the learning rate 0\.0: rates are positive$",
        ),
        (
            lambda: plots.plot_rates({"LoRA": [(0.1, [np.inf])]}),
            (
                r"^'LoRA' at 0\.1 has \[inf\]: give a finite number a seed, and None for one that"
                " diverged$"
            ),
        ),
        (
            lambda: plots.plot_rates({"LoRA": [(0.2, [1.0]), (0.1, [1.0]), (0.2, [None])]}),
            r"^'LoRA' has a rate twice, of \[0\.1, 0\.2, 0\.2\]: join its seeds$",
        ),
        (lambda: plots.plot_rates({"LoRA": [(0.1, [])]}), r"^'LoRA' at 0\.1 has \[\]: give a"),
        (
            lambda: plots.plot_rates({"LoRA": [(0.1, [1.0])]}, best={"PERA": [0.1]}),
            r"^'PERA' is no arm: choose from \['LoRA'\]$",
        ),
        (
            lambda: plots.plot_plane(
                {"LoRA": [(0.1, Ends(np.nan, 0.0, 1.0), Ends(0.0, 0.0, 0.0))]}
            ),
            r"^'LoRA' at 0\.1 has \[nan, 0\.0, 1\.0, 0\.0, 0\.0, 0\.0\]: give",
        ),
        (lambda: plots.plot_plane({}), "^there are no arms"),
    ],
)
def test_rates_that_make_no_picture_are_refused(call, message):
    with pytest.raises(PerakitError, match=message):
        call()
    assert plt.get_fignums() == []
