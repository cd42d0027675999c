"""What a set of updates contains: its ranks, its dimension, and how near it comes to a target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from perakit import formulas
from perakit.errors import PerakitError
from perakit.plots.style import finish, layer, mark_below, new_axes, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SETS = {
    "full": "PERA",
    "square": "PERA, squares only",
    "cross": "PERA, cross terms only",
    "none": "LoRA",
}


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


@styled
def plot_spectra(
    spectra: Mapping[str, Sequence[float]],
    *,
    rank: int | None = None,
    bound: int | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Singular values σ_1 >= σ_2 >= ... of updates on a log axis, one line each.

    rank, bound: r and K, marked by a vertical line between the last value that they allow and the
    next.
    """
    ax = ax or new_axes()
    largest, smallest = 0.0, np.inf
    for k, (name, spectrum) in enumerate(spectra.items()):
        values = np.asarray(spectrum, dtype=float)
        label = name if values.any() else f"{name} (all zero)"
        ax.plot(np.arange(1, len(values) + 1), values, label=label, **layer(k, len(spectra)))
        largest, smallest = (
            max(largest, values.max()),
            min(smallest, values[values > 0].min(initial=np.inf)),
        )
    if largest:
        ax.set_yscale("log", nonpositive="clip")
        # Exact zeros leave through the floor
        ax.set_ylim(max(smallest, largest * 1e-18) / 4, largest * 4)
    # One below the other: they may be near
    for name, mark, height in (("r", rank, 0.98), ("K", bound, 0.91)):
        if mark is not None:
            ax.axvline(mark + 0.5, color="0.45", linewidth=1, zorder=0)
            ax.text(
                mark + 0.5,
                height,
                f" {name} = {mark}",
                color="0.35",
                va="top",
                transform=ax.get_xaxis_transform(),
            )
    ax.set(
        xlabel="index i",
        ylabel="singular value $\\sigma_i$",
        title="Spectrum of ΔW: where it drops is its rank",
    )
    finish(ax)
    return ax


@styled
def plot_dimension(m: int, n: int, ranks: Sequence[int], *, ax: Axes | None = None) -> Axes:
    """How many of the mn dimensions of (m, n) matrices each set of updates fills, against r.

    Lines: LoRA, PERA with cross terms, squares or both, all matrices of rank <= K (K of full PERA),
    and mn.
    """
    from perakit.theory.manifold import dimension

    ax = ax or new_axes()
    r = np.asarray(ranks)
    bounds = [min(m, n, formulas.rank_bound(int(k))) for k in r]
    ax.axhline(m * n, color="0.45", linewidth=1)
    name, ends = f"all matrices: mn = {m * n:,}", ax.get_yaxis_transform()
    ax.annotate(
        name,
        (1, m * n),
        (0, 6),
        xycoords=ends,
        textcoords="offset points",
        color="0.35",
        ha="right",
    )
    ax.plot(
        r,
        [K * (m + n - K) for K in bounds],
        color="k",
        marker="x",
        label="all of rank ≤ K, K = r(r+3)/2",
    )
    for k, (terms, name) in enumerate(SETS.items()):
        ax.plot(
            r, [dimension(m, n, int(rank), terms) for rank in r], label=name, **layer(k, len(SETS))
        )
    ax.set(
        xlabel="rank r",
        ylabel="dimension",
        title=f"Dimension of each set of {m} × {n} updates",
        ylim=(0, 1.12 * m * n),
    )
    ax.yaxis.set_major_formatter("{x:,.0f}")
    ax.locator_params(axis="x", integer=True)
    ax.legend(
        handlelength=2.8, fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2
    )
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
    """Frobenius error of the best PERA found, between what its rank permits and what LoRA reaches.

    singular_values: of the target E; ranks: r; errors: ‖ΔW − E‖_F of the best fit found at each
    rank, an upper bound on the infimum; terms, degree: of that fit, they set K. The bounds are
    Eckart and Young's (Σ_{i>k} σ_i²)^½, k = K and r.
    """
    from perakit.theory.rank import tail

    if len(ranks) != len(errors):
        raise PerakitError(
            f"{len(ranks)} ranks and {len(errors)} errors do not match: give one error a rank"
        )
    ax = ax or new_axes()
    values = np.sort(np.asarray(singular_values, dtype=float))[::-1]
    upper = np.array([tail(values, r)[0] for r in ranks])
    lower = np.array([tail(values, formulas.rank_bound(r, terms, degree))[0] for r in ranks])
    found = np.asarray(errors, dtype=float)
    drawn = np.concatenate([upper, lower, found])
    top = drawn.max() or 1.0
    floor = max(drawn[drawn > 0].min(initial=top) / 3, 1e-9 * top)
    ax.fill_between(
        ranks,
        np.where(lower > 0, lower, floor),
        upper,
        facecolor="0.88",
        edgecolor="0.6",
        linewidth=0.6,
        label="possible for PERA",
    )
    ax.plot(ranks, upper, "--", marker="s", label="upper bound: best of rank r (LoRA)")
    (line,) = ax.plot(ranks, found, "-", marker="o", label="best PERA found")
    mark_below(ax, ranks, found, floor, line.get_color(), 0.09)
    (line,) = ax.plot(ranks, lower, ":", marker="^", label="lower bound: best of rank K")
    mark_below(ax, ranks, lower, floor, line.get_color(), 0.02)
    if drawn.any():
        ax.set_yscale("log", nonpositive="mask")
        ax.set_ylim(floor, 2 * top)
    ax.set(
        xlabel="rank r",
        ylabel=r"Frobenius error $\|\Delta W - E\|_F$",
        title="PERA lies between rank K and rank r",
    )
    finish(ax)
    return ax


@styled
def plot_approximation(
    curves: Mapping[str, Sequence[Trial]], *, against: str = "rank", ax: Axes | None = None
) -> Axes:
    """Relative error of each family's best fit, against its rank or its trainable parameters.

    curves: family -> its fits, such as `theory.error_curve(...).lines()`; against: "rank" or
    "parameters".
    """
    if against not in ("rank", "parameters"):
        raise PerakitError(f"against={against!r} is unknown: choose 'rank' or 'parameters'")
    ax = ax or new_axes()
    for k, (name, fits) in enumerate(curves.items()):
        x = [getattr(fit, against) for fit in fits]
        ax.plot(x, [fit.error for fit in fits], label=name, **layer(k, len(curves)))
    if any(fit.error > 0 for fits in curves.values() for fit in fits):
        ax.set_yscale("log", nonpositive="clip")
    ax.set(
        xlabel={"rank": "rank r", "parameters": "trainable parameters"}[against],
        ylabel="relative error $\\|\\Delta W - E\\| / \\|E\\|$",
    )
    ax.set_title(f"Error at equal {against}")
    finish(ax)
    return ax


@styled
def plot_capture(
    shares: Mapping[str, Mapping[int, Sequence[float]]], *, entries: int, ax: Axes | None = None
) -> Axes:
    """Share of a random target that a family captures, against its parameters per entry.

    shares: family -> {trainable parameters: the share of each target drawn, in [0, 1]}: the mean as
    a line, the targets as dots; entries: mn. A linear family of P parameters captures P/mn on
    average: the grey line.
    """
    formulas.check_count("entries", entries)
    ax = ax or new_axes()
    for k, (name, found) in enumerate(shares.items()):
        x = [parameters / entries for parameters in found]
        (line,) = ax.plot(
            x, [np.mean(drawn) for drawn in found.values()], label=name, **layer(k, len(shares))
        )
        for at, drawn in zip(x, found.values(), strict=True):
            ax.plot([at] * len(drawn), drawn, ".", color=line.get_color(), alpha=0.5)
    top = max(
        (parameters / entries for found in shares.values() for parameters in found), default=1
    )
    ax.plot([0, top], [0, top], color="0.6", linewidth=1, label="a linear family")
    ax.set(
        xlabel="trainable parameters / mn",
        ylabel=r"captured share $\langle E, \Delta W\rangle^2 / \|\Delta W\|^2 \|E\|^2$",
        title="A Gaussian target",
        xlim=(0, None),
        ylim=(0, 1),
    )
    ax.legend(handlelength=2.8, fontsize="small")
    return ax
