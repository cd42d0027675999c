"""Every figure: a function of numbers that draws on an Axes and returns it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

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


LINES = ("-", "--", ":", "-.")  # curves that coincide stay visible


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


def _finish(ax: Axes) -> None:
    ax.locator_params(axis="x", integer=True)
    ax.legend()


def _new_axes() -> Axes:
    import matplotlib.pyplot as plt

    with plt.style.context(STYLE):
        _, ax = plt.subplots()
    return ax


def _cycle(count: int) -> list[str]:
    return [LINES[k % len(LINES)] for k in range(count)]
