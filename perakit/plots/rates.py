"""Cost at every learning rate that was tried: one U an arm."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, median_low
from typing import TYPE_CHECKING, Any

import numpy as np

from perakit.errors import PerakitError, short
from perakit.plots.style import layer, legend_below, mark_measured, new_axes, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

COLOURED = 7  # arms that one Axes can tell apart: as many as the palette has colours
GREY: dict[str, Any] = {"color": "0.75", "linewidth": 0.8, "marker": ".", "zorder": 1}
APART = 8.0  # points between the marks of two arms on the upper edge

Curve = Sequence[tuple[float, Sequence[float | None]]]  # (rate, the seeds' values)


@styled
def plot_rates(
    curves: Mapping[str, Curve],
    *,
    best: Mapping[str, Iterable[float]] | None = None,
    shown: Sequence[str] | None = None,
    top: float | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Cost against learning rate: an arm's mean over seeds as a line, lowest to highest as a band.

    A mean above `top` is a triangle on the upper edge. Where a seed diverged there is no mean but a
    cross on that edge, and the seeds that did not diverge are dots.

    curves: arm -> (rate, one cost a seed), None for a seed that diverged; one seed has no band.
    best: arm -> the rates that tuning cannot tell from its best; their marks are filled, those of
    other rates hollow. None fills all.
    shown: arms in colours, at most 7; all others are grey. None = the first 7. For more arms draw
    all curves on several Axes, each with its own `shown`: the scale is the same on all.
    top: upper end of the axis; None = at least half of every arm's rates are below it.
    Raises PerakitError for no arms, an arm without rates or seeds, a rate that is not positive or
    there twice, a cost that is not finite, and a name that is no arm's.
    Source: arXiv 2602.04998, which compares methods by such curves.

    >>> from perakit import plots
    >>> lora = [(0.003, [1.98, 1.99]), (0.006, [1.96, 1.97]), (0.048, [3.78, None])]
    >>> ax = plots.plot_rates({"LoRA": lora}, best={"LoRA": [0.006]})
    >>> [text.get_text() for text in ax.get_legend().get_texts()][1:3]
    ['a seed diverged', 'filled: a possible rate']
    """
    names = coloured(curves, shown)
    check_known(curves, best or ())
    for label, curve in curves.items():
        check_rates(label, curve)
    ax = ax or new_axes()
    means = {label: _means(curve) for label, curve in curves.items()}
    edge = _upper_end(means.values()) if top is None else top
    for label in curves:
        if label not in names:
            (line,) = ax.plot(*zip(*sorted(means[label].items()), strict=True), **GREY)
            _mark_edge(ax, curves[label], edge, line, 0)
    for k, label in enumerate(names):
        possible = None if best is None else set(best.get(label, ()))
        line = _draw_line(ax, means[label], possible, label, layer(k, len(names)))
        _draw_seeds(ax, curves[label], line)
        _mark_edge(ax, curves[label], edge, line, APART * (k - (len(names) - 1) / 2))
    explain_others(ax, len(curves) - len(names))
    _explain_marks(ax, best is not None)
    ax.set_xscale("log")
    mark_measured(ax, {rate for curve in curves.values() for rate, _ in curve})
    low = min((min(_finite(seeds), default=edge) for c in curves.values() for _, seeds in c))
    ax.set_ylim(low - 0.05 * (edge - low or 1), edge)
    ax.set(xlabel="learning rate", ylabel="validation bits per byte")
    ax.set_title("Cost against learning rate", pad=12)
    legend_below(ax, columns=3)
    return ax


def _finite(seeds: Sequence[float | None]) -> list[float]:
    return [value for value in seeds if value is not None]


def _means(curve: Curve) -> dict[float, float]:
    """Rate -> mean of the seeds; NaN, a gap in the line, where one diverged."""
    return {rate: np.nan if None in seeds else fmean(_finite(seeds)) for rate, seeds in curve}


def _draw_line(
    ax: Axes, values: Mapping[float, float], possible: set[float] | None, label: str, look: Any
) -> Line2D:
    """A value for each x, with filled marks where x is possible, None everywhere."""
    x = sorted(values)
    (line,) = ax.plot(x, [values[at] for at in x], label=label, zorder=3, **look)
    if possible is not None:
        line.set_markerfacecolor("white")
        filled = [at for at in x if at in possible]
        same = {"marker": look["marker"], "markersize": look["markersize"], "zorder": 3}
        ax.plot(filled, [values[at] for at in filled], linestyle="", color=line.get_color(), **same)
    return line


def _draw_seeds(ax: Axes, curve: Curve, line: Line2D) -> None:
    """Their band, and those beside which another diverged as dots."""
    colour, ends = line.get_color(), []
    for rate, seeds in sorted(curve, key=lambda point: point[0]):
        kept = _finite(seeds)
        whole = len(kept) == len(seeds)
        ends.append((rate, min(kept), max(kept)) if whole else (rate, np.nan, np.nan))
        if not whole:
            ax.plot([rate] * len(kept), kept, ".", color=colour, markersize=5)
    if any(low < high for _, low, high in ends):
        x, low, high = zip(*ends, strict=True)
        ax.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0, zorder=2)


def _mark_edge(ax: Axes, curve: Curve, edge: float, line: Line2D, shift: float) -> None:
    """What has no place below the upper edge. shift: in points, so that no arm hides another."""
    from matplotlib.transforms import ScaledTranslation

    aside = ScaledTranslation(shift / 72, 0, ax.figure.dpi_scale_trans)
    for rate, mean in _means(curve).items():
        if not mean <= edge:
            ax.plot(
                [rate],
                [1],
                "x" if np.isnan(mean) else "^",
                color=line.get_color(),
                markersize=6,
                markeredgewidth=1.6,
                transform=ax.get_xaxis_transform() + aside,
                clip_on=False,
                zorder=4,
            )


def _upper_end(arms: Iterable[Mapping[float, float]]) -> float:
    """At which every arm shows half of its rates; what costs more may at most double the height."""
    found = [[mean for mean in arm.values() if not np.isnan(mean)] for arm in arms]
    found = [means for means in found if means] or [[0.0]]
    low, half = min(map(min, found)), max(map(median_low, found))
    highest = max(mean for means in found for mean in means if mean <= 2 * half - low)
    return highest + (0.08 * (highest - low) or 0.05 * abs(low) or 1.0)


def _explain_marks(ax: Axes, filled: bool) -> None:
    """What was drawn besides lines, for the legend."""
    drawn = {line.get_marker() for line in ax.lines if not line.get_clip_on()}
    for mark, words in (("^", "above the axis"), ("x", "a seed diverged")):
        if mark in drawn:
            ax.plot([], [], mark, color="0.35", label=words)
    if filled:
        ax.plot([], [], "o", color="0.35", label="filled: a possible rate")
    if ax.collections:
        ax.fill_between([], [], color="0.8", label="lowest to highest seed")


# --- what the plane of learning and forgetting has as well ----------------------------------------


def coloured(arms: Mapping[str, Any], shown: Sequence[str] | None) -> list[str]:
    """The arms in colours, in the order of the colours."""
    if not arms:
        raise PerakitError("there are no arms: give one at least, with its rates")
    names = list(arms)[:COLOURED] if shown is None else list(shown)
    check_known(arms, names)
    if len(names) > COLOURED:
        raise PerakitError(
            f"{len(names)} arms in colours: one Axes can tell {COLOURED} apart, draw the others on"
            " Axes of their own"
        )
    return names


def check_known(arms: Mapping[str, Any], names: Iterable[str]) -> None:
    """Refuse a name that is no arm's."""
    if unknown := [name for name in names if name not in arms]:
        raise PerakitError(f"{short(unknown[0])} is no arm: choose from {short(list(arms))}")


def check_rates(label: str, curve: Curve) -> None:
    """Refuse what has no place on a logarithmic axis of rates."""
    if not curve:
        raise PerakitError(f"{label!r} has no rates: give one at least, or leave it out")
    if len({rate for rate, _ in curve}) < len(curve):
        rates = sorted(rate for rate, _ in curve)
        raise PerakitError(f"{label!r} has a rate twice, of {short(rates)}: join its seeds")
    for rate, seeds in curve:
        if not 0 < rate < np.inf:
            raise PerakitError(f"{label!r} has the learning rate {rate!r}: rates are positive")
        if not len(seeds) or not np.isfinite(_finite(seeds)).all():
            raise PerakitError(
                f"{label!r} at {rate:g} has {short(list(seeds))}: give a finite number a seed, and"
                " None for one that diverged"
            )


def explain_others(ax: Axes, others: int) -> None:
    """A line of the legend for all grey arms together."""
    if others:
        ax.plot([], [], label=f"{others} other{'s' if others > 1 else ''}", **GREY)
