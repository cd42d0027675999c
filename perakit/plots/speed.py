"""What a step costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from perakit.plots.style import MARKERS, layer, mark_measured, new_axes, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes


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

    lines: name -> (x, seconds); floor: (x, seconds) that counting operations allows, a dashed grey
    line; xlabel: what x is.
    """
    from matplotlib.ticker import LogLocator, NullFormatter

    ax = ax or new_axes()
    for k, (name, points) in enumerate(lines.items()):
        ax.plot(*zip(*sorted(points), strict=True), label=name, **layer(k, len(lines)))
    if floor:
        ax.plot(
            *zip(*sorted(floor), strict=True), "--", color="0.45", label="PERA, counted", zorder=1
        )
    ax.set(xscale="log", yscale="log", xlabel=xlabel, ylabel="seconds", title=title)
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_formatter(NullFormatter())
    mark_measured(ax, {x for points in lines.values() for x, _ in points})
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

    lines: name -> (x, (median, lower quartile, upper quartile)), the quartiles as a band; counted:
    name -> (x, ratio of the counted operations), dashed in the colour of the line of that name.
    """
    ax = ax or new_axes()
    ax.axhline(1, color="0.45", linewidth=1, zorder=0)
    for k, (name, points) in enumerate(lines.items()):
        x, spreads = zip(*sorted(points), strict=True)
        median, low, high = zip(*spreads, strict=True)
        (line,) = ax.plot(x, median, marker=MARKERS[k % len(MARKERS)], markersize=5, label=name)
        ax.fill_between(x, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
        if counted and name in counted:
            ax.plot(
                *zip(*sorted(counted[name]), strict=True), "--", color=line.get_color(), linewidth=1
            )
    if counted:
        ax.plot([], [], "--", color="0.45", linewidth=1, label="counted")
    ax.set(xscale="log", xlabel=xlabel, ylabel="ratio", title=title)
    mark_measured(ax, {x for points in lines.values() for x, _ in points})
    ax.legend(handlelength=2.8, fontsize="small")
    return ax
