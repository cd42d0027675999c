"""Runs: how they went, and how methods compare over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from perakit.errors import PerakitError, short
from perakit.plots.style import STYLE, cycle, finish, legend_below, new_axes, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class Curves(Protocol):
    """What a training run shows of itself: (step, bits) points, as `perakit.toy.Run` has them."""

    @property
    def losses(self) -> Sequence[tuple[int, float]]:
        """Training loss."""

    @property
    def heldout(self) -> Sequence[tuple[int, float]]:
        """Held-out cost."""


@styled
def plot_loss(runs: Mapping[str, Curves], *, window: int = 10, ax: Axes | None = None) -> Axes:
    """Training loss (bits per token) against steps, a running mean over `window` steps."""
    ax = ax or new_axes()
    for (name, run), line in zip(runs.items(), cycle(len(runs)), strict=True):
        steps, losses = np.array(run.losses).T
        width = min(window, max(1, len(losses) // 3))  # fewer for a short run
        ax.plot(
            steps[width - 1 :],
            np.convolve(losses, np.ones(width) / width, "valid"),
            line,
            label=name,
        )
    ax.set(xlabel="step", ylabel="bits per token", title=f"Training loss (mean of {width} steps)")
    finish(ax)
    return ax


@styled
def plot_heldout(runs: Mapping[str, Curves], *, ax: Axes | None = None) -> Axes:
    """Held-out bits per byte against steps."""
    ax = ax or new_axes()
    for (name, run), line in zip(runs.items(), cycle(len(runs)), strict=True):
        steps, bits = np.array(run.heldout).T
        ax.plot(steps, bits, line, marker="o", markersize=4, label=name)
    ax.set(xlabel="step", ylabel="bits per byte", title="Held-out text")
    finish(ax)
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


@styled
def plot_scores(
    scores: Mapping[str, Sequence[float]],
    *,
    baseline: float | None = None,
    xlabel: str = "held-out bits per byte",
    title: str = "Each dot is one seed",
    ax: Axes | None = None,
) -> Axes:
    """Methods, a row each: a dot for every seed, and their mean x̄ with its 95 % interval.

    The interval is Student's, x̄ ± t s/√N, t the 0.975 quantile at N - 1 degrees of freedom, s the
    standard deviation of the N seeds; a method with one seed has its dot and no interval. It speaks
    of one method: two that ran on the same seeds are compared by their differences, whether or not
    their intervals overlap.

    scores: method -> one finite score a seed; baseline: a score to compare with, a dashed line,
    None draws none; xlabel: what is scored.
    """
    from scipy.stats import t

    for name, values in scores.items():
        if not len(values) or not np.isfinite(values).all():
            raise PerakitError(
                f"the scores of {name!r} are {short(list(values))}: give a finite number a seed,"
                " and leave out runs that failed"
            )
    if not scores:
        raise PerakitError("scores is empty: give one method at least, with its scores")
    ax = ax or new_axes()
    rows = [row for row, values in enumerate(scores.values()) for _ in values]
    ax.plot(
        np.concatenate([*scores.values()]),
        rows,
        "o",
        markersize=5,
        alpha=0.5,
        markeredgewidth=0,
        label="one seed",
        zorder=3,
    )
    several = [
        (row, np.asarray(values, dtype=float))
        for row, values in enumerate(scores.values())
        if len(values) > 1
    ]
    counts = sorted({len(values) for values in scores.values()})
    if several:
        half = [t.ppf(0.975, len(x) - 1) * x.std(ddof=1) / np.sqrt(len(x)) for _, x in several]
        seeds = f"N = {counts[0]}" if len(counts) == 1 else "N"
        label = f"mean of {seeds} seeds and its 95 % interval (Student's t)"
        ax.errorbar(
            [x.mean() for _, x in several],
            [row for row, _ in several],
            xerr=half,
            fmt="|",
            markersize=14,
            capsize=4,
            label=label,
        )
    if baseline is not None:
        ax.axvline(
            baseline,
            color="0.45",
            linewidth=1,
            linestyle="--",
            label=f"baseline: {baseline:.4g}",
            zorder=0,
        )
    names = (
        scores
        if len(counts) == 1
        else [f"{name} (N = {len(values)})" for name, values in scores.items()]
    )
    ax.set_yticks(range(len(scores)), list(names))
    ax.set(xlabel=xlabel, ylabel="method", title=title, ylim=(len(scores) - 0.5, -0.5))
    legend_below(ax)
    return ax
