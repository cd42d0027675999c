"""What sets a method apart from its peers: is it a matrix, and what are its numbers stored in?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from perakit.plots.style import LINES, MARKERS, new_axes, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from perakit.models.merge import MergeReport


@styled
def plot_along_input(
    steps: Sequence[float], outputs: Mapping[str, Sequence[float]], *, ax: Axes | None = None
) -> Axes:
    """An entry of the update's output at t x against t: a line through 0 if the update is a matrix.

    steps: t; outputs: name -> the entry at each t.
    """
    ax = ax or new_axes()
    for k, (name, values) in enumerate(outputs.items()):
        ax.plot(steps, values, LINES[k % len(LINES)], label=name)
    ax.axhline(0, color="0.6", linewidth=0.8, zorder=0)
    ax.set(
        xlabel="t",
        ylabel="what the update adds at the input t x",
        title="A matrix answers t times as much; a square does not",
    )
    ax.legend(handlelength=2.8, fontsize="small")
    return ax


@styled
def plot_levels(
    weights: Any, levels: Mapping[str, Sequence[float]], *, ax: Axes | None = None
) -> Axes:
    """Weights as shares of their block's largest, and 4-bit levels: a row of ticks a name."""
    ax = ax or new_axes()
    ax.hist(
        np.ravel(weights),
        bins=80,
        density=True,
        color="0.75",
        label="weights / absmax of their block",
    )
    top = ax.get_ylim()[1]
    for k, (name, values) in enumerate(levels.items()):
        height = -0.06 * top * (k + 1)
        ax.plot(
            values,
            np.full(len(values), height),
            "|",
            markersize=11,
            markeredgewidth=1.6,
            label=name,
        )
    ax.set(
        xlabel="weight / absmax", ylabel="density", title="Sixteen levels, dense where weights are"
    )
    ax.legend(fontsize="small", loc="upper left")
    return ax


@styled
def plot_rounding(reports: Mapping[str, MergeReport], *, ax: Axes | None = None) -> Axes:
    """How much of ΔW a merge loses to rounding, against the size of ΔW: a mark a layer.

    W0 + ΔW is rounded to the base's dtype.
    reports: name -> what `perakit.merge` returned, of several dtypes or sizes of update. 1 means
    that nothing of the update is left; layers with ΔW = 0, or without any rounding, have no place
    on log axes and are counted in the legend.
    """
    ax = ax or new_axes()
    for k, (name, report) in enumerate(reports.items()):
        points = np.array(
            sorted((size, lost) for _, _, size, lost, _ in report.rows if size > 0 and lost > 0)
        ).reshape(-1, 2)
        left_out = len(report.rows) - len(points)
        ax.plot(
            *points.T,
            linestyle="",
            marker=MARKERS[k % len(MARKERS)],
            label=f"{name} ({left_out} not shown)" if left_out else name,
        )
    # Before the line: log axes without marks need to start as such
    ax.set(xscale="log", yscale="log")
    ax.axhline(1, color="0.45", linewidth=1, zorder=0)
    ax.set(xlabel=r"$\|\Delta W\|_F\;/\;\|W_0\|_F$", ylabel="share of ΔW lost in rounding")
    ax.set_title("What merging loses")
    ax.legend(fontsize="small")
    return ax
