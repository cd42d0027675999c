"""How every figure looks: colours, lines still seen where they coincide, what axes cannot show."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STYLE = str(Path(__file__).with_name("perakit.mplstyle"))
LINES = ("-", "--", ":", "-.")  # curves that coincide stay visible
MARKERS = ("o", "s", "^", "D", "v")
Figures = ParamSpec("Figures")


def styled(plot: Callable[Figures, Axes]) -> Callable[Figures, Axes]:
    """Draw in perakit's style, and leave the global style as it was."""

    @wraps(plot)
    def draw(*args: Figures.args, **kwargs: Figures.kwargs) -> Axes:
        from matplotlib import style

        ax: Any = kwargs.get("ax")
        if ax is None:
            # Loading its backend, Jupyter's makes pyplot interactive; inside of the context, that
            # would be undone at its end, and no later figure of the notebook would be shown.
            import matplotlib.pyplot as plt

            plt.draw_if_interactive()
        with style.context(STYLE):
            # perakit's colours on Axes that are still empty
            if ax is not None and not ax.lines:
                ax.set_prop_cycle(None)
            return plot(*args, **kwargs)

    return draw


def new_axes(height: float = 4.0) -> Axes:
    """A new figure of pyplot's, `height` inches high, with one Axes in perakit's style."""
    import matplotlib.pyplot as plt

    with plt.style.context(STYLE):
        _, ax = plt.subplots(figsize=(6.4, height))
    return ax


def layer(k: int, count: int) -> dict[str, Any]:
    """Line k of `count`: thick and large below, thin and small above, so none hides another."""
    above = (count - 1 - k) / max(count - 1, 1)
    style = {"linestyle": LINES[k % len(LINES)], "marker": MARKERS[k % len(MARKERS)]}
    return {**style, "linewidth": 1.4 + 2.4 * above, "markersize": 3.5 + 3.5 * above}


def cycle(count: int) -> list[str]:
    """The dashes of `count` lines of one width."""
    return [LINES[k % len(LINES)] for k in range(count)]


def finish(ax: Axes) -> None:
    """Whole numbers along x, and a legend whose lines are long enough to tell dashes apart."""
    ax.locator_params(axis="x", integer=True)
    ax.legend(handlelength=2.8, fontsize="small")


def legend_below(ax: Axes, columns: int = 1) -> None:
    """Under the label of x, 40 points below the Axes, where no row is."""
    points = ax.get_window_extent().height / ax.figure.dpi * 72
    ax.legend(
        fontsize="small",
        loc="upper left",
        bbox_to_anchor=(0, -40 / points),
        borderaxespad=0,
        ncols=columns,
    )


def name_rows(ax: Axes, names: Sequence[str]) -> None:
    """Row 0 on top, named in letters that fit its height."""
    height = ax.get_window_extent().height / ax.figure.dpi * 72 / max(len(names), 1)  # points
    # Below 6 points only every second name, or third ...
    every = int(np.ceil(6 / height))
    ax.set_yticks(
        range(0, len(names), every), names[::every], fontsize=min(10.0, 0.85 * height * every)
    )
    ax.set_ylim(len(names) - 0.5, -0.5)


def mark_below(
    ax: Axes, x: Sequence[int], values: np.ndarray, floor: float, color: Any, height: float
) -> None:
    """Write what lies under the floor of a log axis at its foot, since it cannot be drawn."""
    for at, value in zip(x, values, strict=True):
        if value < floor:
            text = "↓ 0" if value == 0 else f"↓ {value:.0e}"
            box = {"facecolor": "white", "alpha": 0.7, "pad": 1, "edgecolor": "none"}
            ax.text(
                at,
                height,
                text,
                color=color,
                ha="center",
                transform=ax.get_xaxis_transform(),
                bbox=box,
            )


def mark_beside(ax: Axes, row: float, text: str, right: bool = False) -> None:
    """Write at the left (or right) edge, in a row, what lies beyond it."""
    at, shift, side = (1, -3, "right") if right else (0, 3, "left")
    edge = ax.get_yaxis_transform()
    ax.annotate(
        text,
        (at, row),
        (shift, 0),
        xycoords=edge,
        textcoords="offset points",
        ha=side,
        va="center",
        fontsize="small",
    )


def mark_measured(ax: Axes, values: set[float]) -> None:
    """Ticks of a log axis at what was measured, and nowhere else."""
    ticks = sorted(values)
    ax.set_xticks(ticks, [f"{x:g}" if x < 1e5 else f"{x / 1e6:.2g}M" for x in ticks])
    ax.set_xticks([], minor=True)
