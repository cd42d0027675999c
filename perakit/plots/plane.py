"""What was learned and what was forgotten, at every learning rate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from perakit.plots.intervals import Mean
from perakit.plots.rates import GREY, check_rates, coloured, explain_others
from perakit.plots.style import layer, legend_below, new_axes, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Point = tuple[float, Mean | None, Mean | None]  # rate, learned, forgotten
Found = tuple[float, Mean, Mean]  # one that did not diverge


@styled
def plot_plane(
    points: Mapping[str, Sequence[Point]],
    *,
    start: tuple[float, float] | None = None,
    shown: Sequence[str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Forgotten against learned: a line an arm through its rates in order, with both intervals.

    Right and low is best. The frame holds every point that learned at least half as much as the
    best of its arm; where a run at too high a rate forgot everything, the line leaves the frame and
    the legend says the rate.

    points: arm -> (rate, learned, forgotten), means with intervals: by how much the new domain got
    better and the old one worse; None for both where the rate diverged, which the legend says too.
    start: the model without an adapter, (0, 0) as a rule: a cross. None draws none, and the frame
    is as close as the points allow.
    shown: arms in colours, at most 7; all others are grey. None = the first 7. A rate stands beside
    each point in colours, unless another rate is there.
    Raises PerakitError for no arms, an arm without rates, a rate that is not positive, a number
    that is not finite, and a name that is no arm's.
    Source: arXiv 2405.09673, which asks of a method how much it learns and how much it forgets.

    >>> from perakit import plots
    >>> from perakit.experiments.statistics import interval
    >>> lora = [(0.003, interval([0.16, 0.17]), interval([0.05, 0.06]))]
    >>> plots.plot_plane({"LoRA": lora}, start=(0, 0)).get_ylabel()
    'forgotten: bits per byte worse on the old domain'
    """
    names = coloured(points, shown)
    for label, path in points.items():
        check_rates(label, [(rate, _numbers(x) + _numbers(y)) for rate, x, y in path])
    ax = ax or new_axes(height=4.6)
    found = {label: _found(path) for label, path in points.items()}
    inside = {label: _inside(path) for label, path in found.items()}
    for label in points:
        if label not in names:
            ax.plot(
                [x.mean for _, x, _ in found[label]], [y.mean for *_, y in found[label]], **GREY
            )
    for k, label in enumerate(names):
        means, low, high = _ends(found[label])
        told = _told(label, points[label], inside[label])
        look = {**layer(k, len(names)), "label": told, "zorder": 3, "capsize": 2, "elinewidth": 1}
        (x, left, right), (y, below, above) = zip(means, means - low, high - means, strict=True)
        ax.errorbar(x, y, xerr=[left, right], yerr=[below, above], **look)
    explain_others(ax, len(points) - len(names))
    if start is not None:
        ax.plot(*start, "+", color="0.35", markersize=11, label="without an adapter", zorder=2)
    _frame(ax, list(chain(*inside.values())), start)
    ax.set(
        xlabel="learned: bits per byte better on the new domain",
        ylabel="forgotten: bits per byte worse on the old domain",
        title="Learned and forgotten, a point a learning rate",
    )
    legend_below(ax, columns=2)
    _name_rates(ax, [point for label in names for point in inside[label]])
    return ax


def _numbers(one: Mean | None) -> list[float | None]:
    return [None] if one is None else [one.mean, one.low, one.high]


def _found(path: Sequence[Point]) -> list[Found]:
    """The rates that did not diverge, in their order."""
    ordered = sorted(path, key=lambda point: point[0])
    return [(rate, x, y) for rate, x, y in ordered if x is not None and y is not None]


def _inside(path: Sequence[Found]) -> list[Found]:
    """What the frame must hold: the points that learned half as much as the best, at least."""
    most = max((x.mean for _, x, _ in path), default=0.0)
    return [point for point in path if point[1].mean >= min(most / 2, most)]


def _ends(path: Sequence[Found]) -> np.ndarray:
    """Means, lower and upper ends: (3, 2, points)."""
    one = [[[x.mean, x.low, x.high], [y.mean, y.low, y.high]] for _, x, y in path]
    return np.array(one).reshape(-1, 2, 3).T


def _told(label: str, path: Sequence[Point], inside: Sequence[Found]) -> str:
    """The arm's name, and what of it cannot be seen."""
    seen = {rate for rate, *_ in inside}
    lost = [f"{rate:g} diverged" for rate, x, _ in path if x is None]
    out = [f"{rate:g} outside" for rate, x, _ in path if x is not None and rate not in seen]
    return f"{label} ({', '.join(out + lost)})" if out + lost else label


def _frame(ax: Axes, points: Sequence[Found], start: tuple[float, float] | None) -> None:
    """Around the points with their intervals, the start, and a margin for the names."""
    corners = [_ends(points)[k].T for k in (1, 2)] + ([np.array([start])] if start else [])
    everything = np.concatenate(corners)
    if len(everything):
        low, high = everything.min(0), everything.max(0)
        margin = np.where(high > low, 0.08 * (high - low), 1.0)
        (left, bottom), (right, top) = low - margin, high + margin
        ax.set(xlim=(left, right), ylim=(bottom, top))


def _name_rates(ax: Axes, points: Sequence[Found]) -> None:
    """Write each rate beside its point, unless another name is there."""
    taken = list[np.ndarray]()
    room = np.array([30, 10]) * ax.figure.dpi / 72  # a name is some 30 points wide and 10 high
    for rate, x, y in points:
        at = ax.transData.transform((x.mean, y.mean))
        if all((abs(at - other) > room).any() for other in taken):
            taken.append(at)
            box = {"facecolor": "white", "alpha": 0.8, "pad": 0.5, "edgecolor": "none"}
            ax.annotate(
                f"{rate:g}",
                (x.mean, y.mean),
                (-5, 5),
                textcoords="offset points",
                ha="right",
                fontsize="x-small",
                color="0.25",
                bbox=box,
                zorder=4,
            )
