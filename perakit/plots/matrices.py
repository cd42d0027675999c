"""Matrices as heat maps, and tables of numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from perakit.errors import PerakitError
from perakit.plots.style import new_axes, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@styled
def plot_matrix(matrix: Any, *, title: str = "ΔW", ax: Axes | None = None) -> Axes:
    """Heat map of a real matrix (m, n), zero in the middle of the colours."""
    values = np.asarray(matrix, dtype=float)
    if values.ndim != 2:
        raise PerakitError(f"the matrix has shape {values.shape}: pass (m, n)")
    ax = ax or new_axes()
    largest = np.abs(values).max(initial=0) or 1.0
    image = ax.imshow(
        values, cmap="PuOr", vmin=-largest, vmax=largest, aspect="auto", interpolation="nearest"
    )
    ax.figure.colorbar(image, ax=ax)
    ax.grid(False)
    ax.locator_params(integer=True, nbins=6)
    ax.set(xlabel="input q", ylabel="output p", title=title)
    return ax


@styled
def plot_interaction(matrix: Any, *, ax: Axes | None = None) -> Axes:
    """Heat map of the interaction strength S_ij (d, d), from `theory.interaction_strength`."""
    strength = np.asarray(matrix, dtype=float)
    if strength.ndim != 2 or strength.shape[0] != strength.shape[1]:
        raise PerakitError(f"the matrix has shape {strength.shape}: interaction strength is (d, d)")
    ax = ax or new_axes()
    image = ax.imshow(strength, cmap="cividis", vmin=0, vmax=strength.max() or 1.0)
    ax.figure.colorbar(
        image, ax=ax, label=r"$S_{ij} = E\,|\partial^2 f / \partial x_i \partial x_j|$"
    )
    ax.grid(False)
    ax.locator_params(integer=True)
    ax.set(xlabel="feature j", ylabel="feature i", title="Which features act together?")
    return ax


@styled
def plot_grid(
    values: Any,
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    label: str = "value",
    title: str = "",
    spec: str = ".2g",
    log: bool = False,
    ax: Axes | None = None,
) -> Axes:
    """A table as a heat map, the number in each cell.

    For errors of methods on targets, or what a test sees of which mistake.
    values: (len(rows), len(columns)); NaN, not measured, is an empty cell. Of booleans, a dot where
    true and no scale of colours.
    label: what the numbers are, beside the scale; spec: format of the numbers; log: colours by the
    logarithm, for numbers of several magnitudes; what is not above 0 has the darkest colour.
    """
    from matplotlib.colors import ListedColormap, LogNorm, Normalize

    numbers = np.asarray(values)
    if (
        numbers.shape != (len(rows), len(columns))
        or not numbers.size
        or numbers.dtype.kind not in "biuf"
    ):
        raise PerakitError(
            f"values {numbers.shape} {numbers.dtype}: {len(rows)} rows and {len(columns)} columns"
            " need as many real numbers"
        )
    yes_or_no, shown = numbers.dtype.kind == "b", numbers.astype(float)
    low, high = _ends(shown, log)
    norm = (LogNorm if log else Normalize)(low, high, clip=True)
    ax = ax or new_axes(height=max(4.0, 1.2 + 0.3 * len(rows)))
    colours = ListedColormap(["0.95", "#56B4E9"]) if yes_or_no else "cividis"
    image = ax.imshow(shown, cmap=colours, norm=norm, aspect="auto", interpolation="nearest")
    for (row, column), value in np.ndenumerate(shown):
        if np.isfinite(value):
            text = "●" * bool(value) if yes_or_no else format(numbers[row, column], spec)
            colour = "black" if yes_or_no or norm(max(value, low)) > 0.55 else "white"
            ax.text(column, row, text, color=colour, ha="center", va="center", fontsize="small")
    if not yes_or_no:
        ax.figure.colorbar(image, ax=ax, label=label)
    slanted: dict[str, Any] = (
        {"rotation": 30, "ha": "right", "rotation_mode": "anchor"}
        if len(columns) * max(map(len, columns)) > 50
        else {}
    )
    ax.set_xticks(range(len(columns)), columns, **slanted)
    ax.set_yticks(range(len(rows)), rows)
    ax.grid(False)
    ax.set_title(title)
    return ax


def _ends(values: np.ndarray, log: bool) -> tuple[float, float]:
    """The smallest and the largest number with a colour of their own; always two different ones."""
    known = values[np.isfinite(values) & ((values > 0) | (not log))]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.1, 1.0)
    return (low, high) if low < high else (low / 10, high) if log else (low, low + 1)
