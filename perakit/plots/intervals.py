"""Results over seeds: means with their intervals, side by side or against what was varied."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from perakit.errors import PerakitError
from perakit.plots.style import layer, legend_below, mark_measured, new_axes, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Mean(Protocol):
    """A mean and its interval, as `perakit.experiments` has them."""

    @property
    def mean(self) -> float:
        """The mean."""

    @property
    def low(self) -> float:
        """Lower end."""

    @property
    def high(self) -> float:
        """Upper end."""


@styled
def plot_intervals(
    lines: Mapping[str, Sequence[tuple[float, Mean]]], *, log: bool = True, ax: Axes | None = None
) -> Axes:
    """Means against what was varied, a line each, with a bar from `low` to `high`.

    lines: name -> (x, mean with interval) points, in rising order of x; log: x on a logarithmic
    axis, marked where measured.
    """
    if not lines or not all(lines.values()):
        raise PerakitError(
            "lines is empty or has a line without points: give one point at least for every name"
        )
    ax = ax or new_axes()
    for k, (name, points) in enumerate(lines.items()):
        x = [at for at, _ in points]
        means = [one.mean for _, one in points]
        below, above = (
            [one.mean - one.low for _, one in points],
            [one.high - one.mean for _, one in points],
        )
        look = layer(k, len(lines)) | {"linewidth": 1.4, "markersize": 4.5}
        ax.errorbar(x, means, yerr=[below, above], capsize=3, label=name, **look)
    if log:
        ax.set_xscale("log")
        mark_measured(ax, {at for points in lines.values() for at, _ in points})
    legend_below(ax, columns=2)
    return ax


@styled
def plot_gains(
    gains: Mapping[str, Mean],
    *,
    margin: float | None = None,
    what: str = "mean of the paired differences, 95 % bootstrap interval",
    ax: Axes | None = None,
) -> Axes:
    """Differences, a row each, with their intervals and the line of no difference.

    margin: a grey band of what is too small to count; what: the points and bars, for the legend.
    """
    if not gains:
        raise PerakitError("gains is empty: give one difference at least")
    ax = ax or new_axes()
    rows = range(len(gains))
    means = [one.mean for one in gains.values()]
    spread = [
        [one.mean - one.low for one in gains.values()],
        [one.high - one.mean for one in gains.values()],
    ]
    ax.axvline(0, color="0.45", linewidth=1, linestyle="--", zorder=0)
    if margin is not None:
        ax.axvspan(-margin, margin, color="0.9", zorder=-1, label="too small to count")
    ax.errorbar(means, list(rows), xerr=spread, fmt="o", capsize=4, label=what)
    ax.set_yticks(list(rows), list(gains))
    ax.locator_params(axis="x", nbins=6)
    ax.set(xlabel="better by", ylim=(len(gains) - 0.5, -0.5))
    legend_below(ax)
    return ax
