"""Every figure: a function of numbers that draws on an Axes and returns it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol

import numpy as np

from perakit import formulas
from perakit.errors import PerakitError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STYLE = str(Path(__file__).with_name("perakit.mplstyle"))


class Curves(Protocol):
    """What a training run shows of itself: (step, bits) points, as `perakit.toy.Run` has them."""

    @property
    def losses(self) -> Sequence[tuple[int, float]]:
        """Training loss."""

    @property
    def heldout(self) -> Sequence[tuple[int, float]]:
        """Held-out cost."""


class Trial(Protocol):
    """One fit of a target, as `perakit.theory` has them: an error, and what it was bought with."""

    @property
    def rank(self) -> int:
        """r."""

    @property
    def parameters(self) -> int:
        """Trainable parameters."""

    @property
    def error(self) -> float:
        """‖ΔW − E‖ / ‖E‖."""


LINES = ("-", "--", ":", "-.")  # curves that coincide stay visible
MARKERS = ("o", "s", "^", "D", "v")
SETS = {"full": "PERA", "square": "PERA, squares only", "cross": "PERA, cross terms only", "none": "LoRA"}
Figures = ParamSpec("Figures")


def styled(plot: Callable[Figures, Axes]) -> Callable[Figures, Axes]:
    """Draw in perakit's style, with its colours on Axes that are still empty; the global style stays as it was."""

    @wraps(plot)
    def draw(*args: Figures.args, **kwargs: Figures.kwargs) -> Axes:
        from matplotlib import style

        ax: Any = kwargs.get("ax")
        with style.context(STYLE):
            if ax is not None and not ax.lines:
                ax.set_prop_cycle(None)
            return plot(*args, **kwargs)

    return draw


# --- training --------------------------------------------------------------------------------------------------------


@styled
def plot_loss(runs: Mapping[str, Curves], *, window: int = 10, ax: Axes | None = None) -> Axes:
    """Training loss (bits per token) against steps, a running mean over `window` steps (fewer for a short run)."""
    ax = ax or _new_axes()
    for (name, run), line in zip(runs.items(), _cycle(len(runs)), strict=True):
        steps, losses = np.array(run.losses).T
        width = min(window, max(1, len(losses) // 3))
        ax.plot(steps[width - 1 :], np.convolve(losses, np.ones(width) / width, "valid"), line, label=name)
    ax.set(xlabel="step", ylabel="bits per token", title=f"Training loss (mean of {width} steps)")
    _finish(ax)
    return ax


@styled
def plot_heldout(runs: Mapping[str, Curves], *, ax: Axes | None = None) -> Axes:
    """Held-out bits per byte against steps."""
    ax = ax or _new_axes()
    for (name, run), line in zip(runs.items(), _cycle(len(runs)), strict=True):
        steps, bits = np.array(run.heldout).T
        ax.plot(steps, bits, line, marker="o", markersize=4, label=name)
    ax.set(xlabel="step", ylabel="bits per byte", title="Held-out text")
    _finish(ax)
    return ax


def training_figure(runs: Mapping[str, Curves]) -> Figure:
    """Training loss beside held-out bits per byte."""
    from matplotlib import style
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with style.context(STYLE):
        figure = Figure(figsize=(9.6, 4.0))
        FigureCanvasAgg(figure)
        left, right = figure.subplots(1, 2)
        plot_loss(runs, ax=left)
        plot_heldout(runs, ax=right)
    return figure


# --- speed -----------------------------------------------------------------------------------------------------------


@styled
def plot_step_time(
    lines: Mapping[str, Sequence[tuple[float, float]]],
    *,
    floor: Sequence[tuple[float, float]] = (),
    xlabel: str = "tokens T",
    title: str = "Time of a step",
    ax: Axes | None = None,
) -> Axes:
    """How cost grows: seconds of a step on log axes, one line a contender.

    lines: name -> (x, seconds); floor: (x, seconds) that counting operations allows, a dashed grey line; xlabel: what x is.
    """
    from matplotlib.ticker import LogLocator, NullFormatter

    ax = ax or _new_axes()
    for k, (name, points) in enumerate(lines.items()):
        ax.plot(*zip(*sorted(points), strict=True), label=name, **_layer(k, len(lines)))
    if floor:
        ax.plot(*zip(*sorted(floor), strict=True), "--", color="0.45", label="PERA, counted", zorder=1)
    ax.set(xscale="log", yscale="log", xlabel=xlabel, ylabel="seconds", title=title)
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_formatter(NullFormatter())
    _mark_measured(ax, {x for points in lines.values() for x, _ in points})
    ax.legend(handlelength=2.8, fontsize="small")
    return ax


@styled
def plot_ratio(
    lines: Mapping[str, Sequence[tuple[float, tuple[float, float, float]]]],
    *,
    counted: Mapping[str, Sequence[tuple[float, float]]] | None = None,
    xlabel: str = "tokens T",
    title: str = "Time of a step, as a ratio",
    ax: Axes | None = None,
) -> Axes:
    """Ratios of step times, with a line at 1, where both take equally long; x on a log axis.

    lines: name -> (x, (median, lower quartile, upper quartile)), the quartiles as a band; counted: name -> (x, ratio of the
    counted operations), dashed in the colour of the line of that name.
    """
    ax = ax or _new_axes()
    ax.axhline(1, color="0.45", linewidth=1, zorder=0)
    for k, (name, points) in enumerate(lines.items()):
        x, spreads = zip(*sorted(points), strict=True)
        median, low, high = zip(*spreads, strict=True)
        (line,) = ax.plot(x, median, marker=MARKERS[k % len(MARKERS)], markersize=5, label=name)
        ax.fill_between(x, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
        if counted and name in counted:
            ax.plot(*zip(*sorted(counted[name]), strict=True), "--", color=line.get_color(), linewidth=1)
    if counted:
        ax.plot([], [], "--", color="0.45", linewidth=1, label="counted")
    ax.set(xscale="log", xlabel=xlabel, ylabel="ratio", title=title)
    _mark_measured(ax, {x for points in lines.values() for x, _ in points})
    ax.legend(handlelength=2.8, fontsize="small")
    return ax


# --- theory ----------------------------------------------------------------------------------------------------------


@styled
def plot_spectra(
    spectra: Mapping[str, Sequence[float]], *, rank: int | None = None, bound: int | None = None, ax: Axes | None = None
) -> Axes:
    """Singular values σ_1 >= σ_2 >= ... of updates on a log axis, one line each.

    rank, bound: r and K, marked by a vertical line between the last value that they allow and the next.
    """
    ax = ax or _new_axes()
    largest, smallest = 0.0, np.inf
    for k, (name, spectrum) in enumerate(spectra.items()):
        values = np.asarray(spectrum, dtype=float)
        label = name if values.any() else f"{name} (all zero)"
        ax.plot(np.arange(1, len(values) + 1), values, label=label, **_layer(k, len(spectra)))
        largest, smallest = max(largest, values.max()), min(smallest, values[values > 0].min(initial=np.inf))
    if largest:
        ax.set_yscale("log", nonpositive="clip")
        ax.set_ylim(max(smallest, largest * 1e-18) / 4, largest * 4)  # exact zeros leave through the floor
    for name, mark, height in (("r", rank, 0.98), ("K", bound, 0.91)):  # one below the other: they may be near
        if mark is not None:
            ax.axvline(mark + 0.5, color="0.45", linewidth=1, zorder=0)
            ax.text(mark + 0.5, height, f" {name} = {mark}", color="0.35", va="top", transform=ax.get_xaxis_transform())
    ax.set(xlabel="index i", ylabel="singular value $\\sigma_i$", title="Spectrum of ΔW: where it drops is its rank")
    _finish(ax)
    return ax


@styled
def plot_dimension(m: int, n: int, ranks: Sequence[int], *, ax: Axes | None = None) -> Axes:
    """How many dimensions of the mn-dimensional space of (m, n) matrices each set of updates fills, against r.

    Lines: LoRA, PERA with cross terms, squares or both, all matrices of rank <= K (K of full PERA), and mn.
    """
    from perakit.theory.manifold import dimension

    ax = ax or _new_axes()
    r = np.asarray(ranks)
    bounds = [min(m, n, formulas.rank_bound(int(k))) for k in r]
    ax.axhline(m * n, color="0.45", linewidth=1)
    name, ends = f"all matrices: mn = {m * n:,}", ax.get_yaxis_transform()
    ax.annotate(name, (1, m * n), (0, 6), xycoords=ends, textcoords="offset points", color="0.35", ha="right")
    ax.plot(r, [K * (m + n - K) for K in bounds], color="k", marker="x", label="all of rank ≤ K, K = r(r+3)/2")
    for k, (terms, name) in enumerate(SETS.items()):
        ax.plot(r, [dimension(m, n, int(rank), terms) for rank in r], label=name, **_layer(k, len(SETS)))
    ax.set(xlabel="rank r", ylabel="dimension", title=f"Dimension of each set of {m} × {n} updates", ylim=(0, 1.12 * m * n))
    ax.yaxis.set_major_formatter("{x:,.0f}")
    ax.locator_params(axis="x", integer=True)
    ax.legend(handlelength=2.8, fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
    return ax


@styled
def plot_sandwich(
    singular_values: Sequence[float],
    ranks: Sequence[int],
    errors: Sequence[float],
    *,
    terms: str = "full",
    degree: int = 2,
    ax: Axes | None = None,
) -> Axes:
    """Frobenius error of the best PERA update found, between what its rank permits and what LoRA reaches.

    singular_values: of the target E; ranks: r; errors: ‖ΔW − E‖_F of the best fit found at each rank, an upper bound on
    the infimum; terms, degree: of that fit, they set K. The bounds are Eckart and Young's (Σ_{i>k} σ_i²)^½, k = K and r.
    """
    from perakit.theory.rank import tail

    if len(ranks) != len(errors):
        raise PerakitError(f"{len(ranks)} ranks and {len(errors)} errors do not match: give one error a rank")
    ax = ax or _new_axes()
    values = np.sort(np.asarray(singular_values, dtype=float))[::-1]
    upper = np.array([tail(values, r)[0] for r in ranks])
    lower = np.array([tail(values, formulas.rank_bound(r, terms, degree))[0] for r in ranks])
    found = np.asarray(errors, dtype=float)
    drawn = np.concatenate([upper, lower, found])
    top = drawn.max() or 1.0
    floor = max(drawn[drawn > 0].min(initial=top) / 3, 1e-9 * top)
    ax.fill_between(
        ranks, np.where(lower > 0, lower, floor), upper, facecolor="0.88", edgecolor="0.6", linewidth=0.6, label="possible for PERA"
    )
    ax.plot(ranks, upper, "--", marker="s", label="upper bound: best of rank r (LoRA)")
    (line,) = ax.plot(ranks, found, "-", marker="o", label="best PERA found")
    _mark_below(ax, ranks, found, floor, line.get_color(), 0.09)
    (line,) = ax.plot(ranks, lower, ":", marker="^", label="lower bound: best of rank K")
    _mark_below(ax, ranks, lower, floor, line.get_color(), 0.02)
    if drawn.any():
        ax.set_yscale("log", nonpositive="mask")
        ax.set_ylim(floor, 2 * top)
    ax.set(xlabel="rank r", ylabel=r"Frobenius error $\|\Delta W - E\|_F$", title="PERA lies between rank K and rank r")
    _finish(ax)
    return ax


@styled
def plot_approximation(curves: Mapping[str, Sequence[Trial]], *, against: str = "rank", ax: Axes | None = None) -> Axes:
    """Relative error of the best fit that each family found, against its rank or its trainable parameters.

    curves: family -> its fits, such as `theory.error_curve(...).lines()`; against: "rank" or "parameters".
    """
    if against not in ("rank", "parameters"):
        raise PerakitError(f"against={against!r} is unknown: choose 'rank' or 'parameters'")
    ax = ax or _new_axes()
    for k, (name, fits) in enumerate(curves.items()):
        x = [getattr(fit, against) for fit in fits]
        ax.plot(x, [fit.error for fit in fits], label=name, **_layer(k, len(curves)))
    if any(fit.error > 0 for fits in curves.values() for fit in fits):
        ax.set_yscale("log", nonpositive="clip")
    ax.set(
        xlabel={"rank": "rank r", "parameters": "trainable parameters"}[against], ylabel="relative error $\\|\\Delta W - E\\| / \\|E\\|$"
    )
    ax.set_title(f"Error at equal {against}")
    _finish(ax)
    return ax


@styled
def plot_interaction(matrix: Any, *, ax: Axes | None = None) -> Axes:
    """Heat map of the interaction strength S_ij (d, d), as `theory.interaction_strength` returns it."""
    strength = np.asarray(matrix, dtype=float)
    if strength.ndim != 2 or strength.shape[0] != strength.shape[1]:
        raise PerakitError(f"the matrix has shape {strength.shape}: interaction strength is (d, d)")
    ax = ax or _new_axes()
    image = ax.imshow(strength, cmap="cividis", vmin=0, vmax=strength.max() or 1.0)
    ax.figure.colorbar(image, ax=ax, label=r"$S_{ij} = E\,|\partial^2 f / \partial h_i \partial h_j|$")
    ax.grid(False)
    ax.locator_params(integer=True)
    ax.set(xlabel="feature j", ylabel="feature i", title="Which features act together?")
    return ax


@styled
def plot_matrix(matrix: Any, *, title: str = "ΔW", ax: Axes | None = None) -> Axes:
    """Heat map of a real matrix (m, n), zero in the middle of the colours."""
    values = np.asarray(matrix, dtype=float)
    if values.ndim != 2:
        raise PerakitError(f"the matrix has shape {values.shape}: pass (m, n)")
    ax = ax or _new_axes()
    largest = np.abs(values).max(initial=0) or 1.0
    image = ax.imshow(values, cmap="PuOr", vmin=-largest, vmax=largest, aspect="auto", interpolation="nearest")
    ax.figure.colorbar(image, ax=ax)
    ax.grid(False)
    ax.locator_params(integer=True, nbins=6)
    ax.set(xlabel="input q", ylabel="output p", title=title)
    return ax


@styled
def plot_along_input(steps: Sequence[float], outputs: Mapping[str, Sequence[float]], *, ax: Axes | None = None) -> Axes:
    """An entry of the update's output at t x against t: a straight line through 0 for every update that is a matrix.

    steps: t; outputs: name -> the entry at each t.
    """
    ax = ax or _new_axes()
    for k, (name, values) in enumerate(outputs.items()):
        ax.plot(steps, values, LINES[k % len(LINES)], label=name)
    ax.axhline(0, color="0.6", linewidth=0.8, zorder=0)
    ax.set(xlabel="t", ylabel="what the update adds at the input t x", title="A matrix answers t times as much; a square does not")
    ax.legend(handlelength=2.8, fontsize="small")
    return ax


@styled
def plot_levels(weights: Any, levels: Mapping[str, Sequence[float]], *, ax: Axes | None = None) -> Axes:
    """Where weights lie, as shares of the largest in their block, and the levels that 4 bits offer them, a row of ticks a name."""
    ax = ax or _new_axes()
    ax.hist(np.ravel(weights), bins=80, density=True, color="0.75", label="weights / absmax of their block")
    top = ax.get_ylim()[1]
    for k, (name, values) in enumerate(levels.items()):
        height = -0.06 * top * (k + 1)
        ax.plot(values, np.full(len(values), height), "|", markersize=11, markeredgewidth=1.6, label=name)
    ax.set(xlabel="weight / absmax", ylabel="density", title="Sixteen levels, dense where weights are")
    ax.legend(fontsize="small", loc="upper left")
    return ax


@styled
def plot_entry_polynomial(
    h: Any, rank: int = 2, *, terms: str = "full", degree: int = 2, span: float = 2.0, ax: Axes | None = None
) -> Axes:
    """φ_h, the one polynomial that gives every entry: ΔW[p, q] = φ_h(u), u = B[p, :] ∘ A[:, q]; and φ_0, LoRA's.

    h: coefficients, as many as `formulas.pera` takes; u runs over [-span, span] in its first two coordinates, others
    are 0. Filled contours, with LoRA's plane as straight dashed lines at the same levels; on a 3-D Axes two surfaces;
    at rank 1 two curves.
    """
    h = np.asarray(h, dtype=float)
    side = np.linspace(-span, span, 81)
    u = np.zeros((side.size ** min(rank, 2), rank))
    u[:, :2] = np.stack([axis.ravel() for axis in np.meshgrid(*[side] * min(rank, 2))], axis=1)
    curved, flat = (formulas.pera(u, np.ones((rank, 1)), c, terms, degree)[:, 0] for c in (h, 0 * h))
    ax = ax or _new_axes()
    title = "An entry of ΔW as a function of $u_i = B_{pi} A_{iq}$"
    if rank == 1:
        ax.plot(side, curved, label="PERA")
        ax.plot(side, flat, "--", label="LoRA (h = 0)")
        ax.set(xlabel="$u_1$", ylabel=r"$\varphi_h(u)$", title=title)
        ax.legend()
        return ax
    X, Y, curved, flat = (x.reshape(side.size, -1) for x in (*u.T[:2], curved, flat))
    (_draw_surfaces if ax.name == "3d" else _draw_contours)(ax, X, Y, curved, flat)
    ax.set(xlabel="$u_1$", ylabel="$u_2$", title=title)
    return ax


def _draw_contours(ax: Axes, X: np.ndarray, Y: np.ndarray, curved: np.ndarray, flat: np.ndarray) -> None:
    from matplotlib.lines import Line2D

    largest = max(np.abs(curved).max(), np.abs(flat).max())
    levels = np.linspace(-largest, largest, 17)
    image = ax.contourf(X, Y, curved, levels, cmap="PuOr")
    ax.contour(X, Y, curved, [0], colors="k", linewidths=1.6)
    ax.contour(X, Y, flat, levels, colors="0.35", linewidths=0.8, linestyles="--")
    ax.figure.colorbar(image, ax=ax, label=r"$\varphi_h(u)$")
    ax.set_aspect("equal")
    ax.grid(False)
    handles = [Line2D([], [], color="k"), Line2D([], [], color="0.35", linewidth=0.8, linestyle="--")]
    ax.legend(handles, [r"PERA: $\varphi_h = 0$", "LoRA (h = 0): same levels"], loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2)


def _draw_surfaces(ax: Any, X: np.ndarray, Y: np.ndarray, curved: np.ndarray, flat: np.ndarray) -> None:
    from matplotlib.patches import Patch

    largest = max(np.abs(curved).max(), np.abs(flat).max())
    ax.plot_surface(X, Y, curved, cmap="PuOr", vmin=-largest, vmax=largest, alpha=0.9)
    ax.plot_surface(X, Y, flat, color="0.5", alpha=0.4)
    ax.set_zlabel(r"$\varphi_h(u)$")
    ax.locator_params(nbins=5)
    handles = [Patch(color="#7f63ab", label="PERA"), Patch(color="0.7", label="LoRA (h = 0): a plane")]
    ax.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, 1.02), ncols=2)


def _layer(k: int, count: int) -> dict[str, Any]:
    """Line k of `count`: thick and large below, thin and small above, so that lines that coincide stay visible."""
    above = (count - 1 - k) / max(count - 1, 1)
    style = {"linestyle": LINES[k % len(LINES)], "marker": MARKERS[k % len(MARKERS)]}
    return {**style, "linewidth": 1.4 + 2.4 * above, "markersize": 3.5 + 3.5 * above}


def _mark_below(ax: Axes, x: Sequence[int], values: np.ndarray, floor: float, color: Any, height: float) -> None:
    """Write what lies under the floor of a log axis at its foot, since it cannot be drawn."""
    for at, value in zip(x, values, strict=True):
        if value < floor:
            text = "↓ 0" if value == 0 else f"↓ {value:.0e}"
            box = {"facecolor": "white", "alpha": 0.7, "pad": 1, "edgecolor": "none"}
            ax.text(at, height, text, color=color, ha="center", transform=ax.get_xaxis_transform(), bbox=box)


def _mark_measured(ax: Axes, values: set[float]) -> None:
    """Ticks of a log axis at what was measured, and nowhere else."""
    ticks = sorted(values)
    ax.set_xticks(ticks, [f"{x:g}" if x < 1e5 else f"{x / 1e6:.2g}M" for x in ticks])
    ax.set_xticks([], minor=True)


def _finish(ax: Axes) -> None:
    ax.locator_params(axis="x", integer=True)
    ax.legend(handlelength=2.8, fontsize="small")


def _new_axes() -> Axes:
    import matplotlib.pyplot as plt

    with plt.style.context(STYLE):
        _, ax = plt.subplots()
    return ax


def _cycle(count: int) -> list[str]:
    return [LINES[k % len(LINES)] for k in range(count)]
