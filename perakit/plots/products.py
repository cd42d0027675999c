"""PERA's products: the polynomial of an entry, their share of ΔW, the symmetry that they break."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from perakit import formulas
from perakit.errors import PerakitError
from perakit.plots.style import (
    finish,
    layer,
    legend_below,
    mark_beside,
    name_rows,
    new_axes,
    styled,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from perakit.theory import Gauge, OrderShare
    from perakit.theory.manifold import GaugePath
    from perakit.theory.rank import PredictedShare


@styled
def plot_entry_polynomial(
    h: Any,
    rank: int = 2,
    *,
    terms: str = "full",
    degree: int = 2,
    span: float = 2.0,
    ax: Axes | None = None,
) -> Axes:
    """φ_h, the one polynomial that gives every entry of ΔW, beside LoRA's φ_0.

    ΔW[p, q] = φ_h(u), u = B[p, :] ∘ A[:, q].
    h: coefficients, as many as `formulas.pera` takes; u runs over [-span, span] in its first two
    coordinates, others are 0. Filled contours, with LoRA's plane as straight dashed lines at the
    same levels; on a 3-D Axes two surfaces; at rank 1 two curves.
    """
    h = np.asarray(h, dtype=float)
    side = np.linspace(-span, span, 81)
    u = np.zeros((side.size ** min(rank, 2), rank))
    u[:, :2] = np.stack([axis.ravel() for axis in np.meshgrid(*[side] * min(rank, 2))], axis=1)
    curved, flat = (
        formulas.pera(u, np.ones((rank, 1)), c, terms, degree)[:, 0] for c in (h, 0 * h)
    )
    ax = ax or new_axes()
    title = "An entry of ΔW as a function of $u_i = B_{pi} A_{iq}$"
    if rank == 1:
        ax.plot(side, curved, label="PERA")
        ax.plot(side, flat, "--", label="LoRA (h = 0)")
        ax.set(xlabel="$u_1$", ylabel=r"$\varphi_h(u)$", title=title)
        ax.legend()
        return ax
    X, Y, curved, flat = (x.reshape(side.size, -1) for x in (*u.T[:2], curved, flat))
    (_draw_surfaces if ax.name == "3d" else _draw_contours)(ax, X, Y, curved, flat)
    ax.set(xlabel="$u_1$", ylabel="$u_2$", title=title)
    return ax


def _draw_contours(
    ax: Axes, X: np.ndarray, Y: np.ndarray, curved: np.ndarray, flat: np.ndarray
) -> None:
    from matplotlib.lines import Line2D

    largest = max(np.abs(curved).max(), np.abs(flat).max())
    levels = np.linspace(-largest, largest, 17)
    image = ax.contourf(X, Y, curved, levels, cmap="PuOr")
    ax.contour(X, Y, curved, [0], colors="k", linewidths=1.6)
    ax.contour(X, Y, flat, levels, colors="0.35", linewidths=0.8, linestyles="--")
    ax.figure.colorbar(image, ax=ax, label=r"$\varphi_h(u)$")
    ax.set_aspect("equal")
    ax.grid(False)
    handles = [
        Line2D([], [], color="k"),
        Line2D([], [], color="0.35", linewidth=0.8, linestyle="--"),
    ]
    ax.legend(
        handles,
        [r"PERA: $\varphi_h = 0$", "LoRA (h = 0): same levels"],
        loc="upper center",
        bbox_to_anchor=(0.5, -0.14),
        ncols=2,
    )


def _draw_surfaces(
    ax: Any, X: np.ndarray, Y: np.ndarray, curved: np.ndarray, flat: np.ndarray
) -> None:
    from matplotlib.patches import Patch

    largest = max(np.abs(curved).max(), np.abs(flat).max())
    ax.plot_surface(X, Y, curved, cmap="PuOr", vmin=-largest, vmax=largest, alpha=0.9)
    ax.plot_surface(X, Y, flat, color="0.5", alpha=0.4)
    ax.set_zlabel(r"$\varphi_h(u)$")
    ax.locator_params(nbins=5)
    handles = [
        Patch(color="#7f63ab", label="PERA"),
        Patch(color="0.7", label="LoRA (h = 0): a plane"),
    ]
    ax.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, 1.02), ncols=2)


@styled
def plot_order_share(share: OrderShare, *, ax: Axes | None = None) -> Axes:
    """How large each layer's high-order part is beside its linear part, a dot each on a log axis.

    A dashed line marks the whole model. What a log axis cannot show is written at its edge: "← 0",
    the update is LoRA's; "∞ →", its linear part vanishes. A new figure is as high as its layers
    need; on Axes that are too low for all names some are left out.

    share: as `theory.order_share` returns it.
    """
    from matplotlib.ticker import NullFormatter

    layers, overall = share.layers, share.overall
    if not layers:
        raise PerakitError(
            "the share has no layers: adapt some, then call theory.order_share(model)"
        )
    ax = ax or new_axes(height=max(4.0, 1.4 + 0.17 * len(layers)))
    values = np.array([*layers.values()], dtype=float)
    seen = np.isfinite(values) & (values > 0)
    drawn = seen if seen.any() else values == 0
    ax.plot(np.where(drawn, values, np.nan), np.arange(len(values)), "o", label="one layer")
    for row in np.flatnonzero(~seen):
        mark_beside(ax, float(row), "← 0" if values[row] == 0 else "∞ →", right=values[row] > 0)
    dashes: dict[str, Any] = {
        "color": "0.35",
        "linewidth": 1,
        "linestyle": "--",
        "label": f"whole model: {overall:.2g}",
    }
    if 0 < overall < np.inf:
        ax.axvline(overall, **dashes)
    else:
        ax.plot([], [], **dashes)
    if seen.any():
        ax.set_xscale("log")
        ax.xaxis.set_minor_formatter(NullFormatter())
        marked = [*values[seen], *([overall] if 0 < overall < np.inf else [])]
        ax.set_xlim(min(marked) / 4, max(marked) * 4)
    else:
        ax.set_xlim(0, 1)
    name_rows(ax, list(layers))
    ax.set(
        xlabel=r"$\|$high-order part$\|_F\;/\;\|$linear part$\|_F$ of ΔW",
        ylabel="layer",
        title="How much of the update is high-order?",
    )
    legend_below(ax, columns=2)
    return ax


@styled
def plot_share_of_steps(
    runs: Mapping[str, Sequence[tuple[int, float]]],
    *,
    predicted: Sequence[PredictedShare] = (),
    ax: Axes | None = None,
) -> Axes:
    """The order share of ΔW against steps of training, a line a run, on a log axis.

    A share of 0 leaves through the floor: LoRA's always, PERA's until the second step; a run that
    is all zero says so.

    runs: name -> (step, `theory.order_share(model).overall`); predicted: `theory.predicted_share`
    at some steps, a grey band.
    """
    ax = ax or new_axes()
    shares = [share for points in runs.values() for _, share in points] + [
        end for band in predicted for end in (band.low, band.high)
    ]
    for k, (name, points) in enumerate(runs.items()):
        steps, values = zip(*points, strict=True)
        ax.plot(
            steps,
            values,
            label=name if any(values) else f"{name} (all zero)",
            **layer(k, len(runs)),
        )
    if predicted:
        steps, low, high = zip(
            *((band.steps, band.low, band.high) for band in predicted), strict=True
        )
        ax.fill_between(
            steps,
            low,
            high,
            facecolor="0.85",
            edgecolor="none",
            label="predicted from sizes alone",
            zorder=0,
        )
    positive = [share for share in shares if 0 < share < np.inf]
    if positive:
        ax.set_yscale("log", nonpositive="clip")
        ax.set_ylim(min(positive) / 4, max(positive) * 4)
    ax.set(
        xlabel="step",
        ylabel=r"$\|$high-order part$\|_F\;/\;\|$linear part$\|_F$",
        title="How much of the update is high-order, by step",
    )
    finish(ax)
    return ax


@styled
def plot_gauge(paths: Mapping[str, GaugePath], *, ax: Axes | None = None) -> Axes:
    """How far ΔW moves along B exp(tX), exp(-tX) A: nowhere, if X is a symmetry.

    Dotted: how far the factors do.
    paths: name -> what `theory.gauge_path` returns. With h = 0 (LoRA) every X is a symmetry, with
    a generic h only a diagonal one.
    """
    ax = ax or new_axes()
    for k, (name, path) in enumerate(paths.items()):
        look = layer(k, len(paths)) | {"linestyle": ("-", "--", "-.")[k % 3], "marker": ""}
        (line,) = ax.plot(path.t, path.update, label=name, **look)
        ax.plot(path.t, path.factors, ":", linewidth=1, color=line.get_color(), label="_factors")
    ax.plot([], [], ":", linewidth=1, color="0.35", label="the factors of each")
    ax.set(
        xlabel="t",
        ylabel="Frobenius distance from t = 0",
        title="ΔW along $B\\,e^{tX},\\; e^{-tX}A$",
    )
    ax.legend(handlelength=2.8, fontsize="small")
    return ax


@styled
def plot_gauge_dimension(gauges: Mapping[str, Gauge], *, ax: Axes | None = None) -> Axes:
    """How many directions of the factors ΔW does not see, by the classes of columns.

    A bar of r_c² for each class, one on another; a dot beside them: as many as were counted at
    those factors, where they were.
    gauges: name -> what `theory.gauge` returns.
    """
    ax = ax or new_axes()
    for place, found in enumerate(gauges.values()):
        foot = 0
        for size in sorted((len(members) for members in found.classes), reverse=True):
            ax.bar(place, size**2, bottom=foot, width=0.6, color="0.85", edgecolor="0.35")
            ax.text(place, foot + size**2 / 2, f"{size}²", ha="center", va="center")
            foot += size**2
    ax.plot(
        [place + 0.38 for place, found in enumerate(gauges.values()) if found.kernel is not None],
        [found.kernel for found in gauges.values() if found.kernel is not None],
        "o",
        label="counted: null space of the derivative",
    )
    ax.set_xticks(range(len(gauges)), list(gauges))
    ax.grid(False, axis="x")
    ax.locator_params(axis="y", integer=True)
    ax.set(
        xlabel="columns with equal rows of H stand together",
        ylabel="directions of the factors",
        title="What ΔW does not see: $\\sum_c r_c^2$",
    )
    ax.set_ylim(0, None)
    ax.legend(fontsize="small")
    return ax
