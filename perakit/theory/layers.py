"""The spectra of a model's updates by layer: the rank of each, and how much of it is high-order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from perakit.table import Table
from perakit.theory.families import check_matrix
from perakit.theory.rank import (
    NumericalRank,
    count_above,
    effective_rank_of,
    layer_triangles,
    machine_epsilon,
    part_norms,
    percent,
    rounding,
    stable_rank_of,
)
from perakit.theory.scaled import quotient, representable, singular_values


@dataclass(frozen=True)
class LayerSpectrum:
    """The singular values of one layer's ΔW, and what follows from them.

    shape: (m, n); bound: K, the largest rank that the method can have there; values: in falling
    order, min(m, n, K) of them, or min(m, n) where the update has no factors; rank: how many are
    above rounding, which is that of the way to them, in float64: the adapter's numbers count as
    they are; stable_rank: Σ σ² / σ₁², effective_rank: exp of the entropy of σ / Σ σ, both 0 for a
    zero update; share: ‖high-order part‖ / ‖linear part‖, as `order_share`, None where the update
    has no such parts. All but the values are right where a value is too small for float64.
    """

    shape: tuple[int, int]
    bound: int
    values: np.ndarray = field(repr=False)
    rank: NumericalRank
    stable_rank: float
    effective_rank: float
    share: float | None


@dataclass(frozen=True)
class LayerSpectra:
    """The spectrum of every adapted layer, by its name; prints as a table."""

    layers: Mapping[str, LayerSpectrum]

    def table(self) -> Table:
        """A row a layer, to print or to show in a notebook."""
        rows = []
        for name, one in self.layers.items():
            rank = f"{one.rank.rank}" if one.rank.clear else f"{one.rank.rank}?"
            share = "-" if one.share is None else percent(one.share)
            numbers = (
                f"{one.stable_rank:.2f}",
                f"{one.effective_rank:.2f}",
                f"{one.values[0]:.3g}",
                share,
            )
            rows.append((name, "{} x {}".format(*one.shape), str(one.bound), rank, *numbers))
        notes = ["K: the largest rank that ΔW can have"]
        if not all(one.rank.clear for one in self.layers.values()):
            notes.append(
                "?: the singular values fall through the tolerance without a gap, another tolerance"
                " gives another rank"
            )
        if any(one.share is None for one in self.layers.values()):
            notes.append("-: no part B A that the rest could be compared with")
        return Table(
            ("layer", "shape", "K", "rank", "stable rank", "effective rank", "σ₁", "order share"),
            rows,
            "\n".join(notes),
        )

    def __str__(self) -> str:
        return str(self.table())

    def _repr_html_(self) -> str:
        return self.table()._repr_html_()


@torch.no_grad()
def layer_spectra(model: Any) -> LayerSpectra:
    """Rank, spectrum and order share of the update of every adapted layer.

    model: with one adapter in effect, merged or not. Where ΔW is a product of (m, K) and (K, n)
    factors it is not formed: two thin QR decompositions leave a (K, K) matrix with its singular
    values, (m + n) K² operations in place of mn min(m, n). DoRA, HiRA and DeLoRA have no factors:
    there it is ΔW itself, in float64 (float32 where that is not on a CPU).
    Raises PerakitError for a model without adapters, several in effect, factors that are not
    finite, singular values above 1.8e308, or an update that is no matrix.

    >>> import torch, perakit as pk
    >>> from perakit import strategies
    >>> model = torch.nn.Sequential(torch.nn.Linear(5, 3))
    >>> report = pk.attach(model, pk.PERA(rank=1), ["0"])
    >>> pk.theory.layer_spectra(strategies.move(model)).layers["0"].rank.rank
    2
    """
    from perakit.models.adapted import require_adapters

    return LayerSpectra(
        {name: _layer_spectrum(name, layer) for name, layer in require_adapters(model).items()}
    )


def _layer_spectrum(name: str, layer: Any) -> LayerSpectrum:
    from perakit.adapters import Additive

    adapter, shape, share = layer.adapter, layer.kind.shape(layer.base), None
    if isinstance(adapter, Additive):
        found = layer_triangles(name, adapter)
        values, exponent = singular_values(*found.product())
        epsilon = machine_epsilon(found.left)
        if adapter.linear:
            linear, high = part_norms(found, adapter.method.rank)
            share = quotient(high, linear)
    else:
        delta = layer.exact_delta()
        values, exponent = singular_values(check_matrix(f"ΔW of layer {name!r}", delta))
        epsilon = machine_epsilon(delta)
    return LayerSpectrum(
        shape,
        adapter.method.rank_bound(*shape),
        representable(f"a singular value of layer {name!r}", values, exponent),
        count_above(values, rounding(values, max(shape), epsilon), exponent),
        stable_rank_of(values),
        effective_rank_of(values),
        share,
    )
