"""Add the update to the weight: for inference (merge, and bitwise back) or for good (bake).

The sum is formed in float64 (float32 off the CPU) and rounded once; W0 is kept, never recovered by
subtraction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from perakit.adapters import Adapter
from perakit.errors import PerakitError
from perakit.models import gather
from perakit.models.adapted import (
    AdaptedLayer,
    adapted_layers,
    names,
    require_adapters,
    shared_weights,
    stand_ins,
)
from perakit.models.attach import detach
from perakit.models.trained import TrainedModule
from perakit.models.trained import check_finite as check_modules
from perakit.models.whole import whole
from perakit.table import Table


@dataclass(frozen=True)
class MergeReport:
    """What the one rounding of W0 + ΔW to the base's dtype did, layer by layer.

    rows: (layer, dtype, ‖ΔW‖/‖W0‖, error, unchanged), W0 as the layer multiplies with it. error is
    ‖round(W0 + ΔW) − (W0 + ΔW)‖ / ‖ΔW‖, Frobenius: the share of the update that rounding lost (0
    where ΔW = 0); unchanged is the share of the weights that ΔW should move and rounding left where
    they were. Both are near 1 where a dtype is too coarse for the update.
    quantized: layer -> ‖W − W0‖/‖W‖ for a weight W that was put into 4 bits and merged as the W0
    that they stand for: an error that was made before training, and that the merged weight keeps.
    """

    rows: list[tuple[str, str, float, float, float]]
    quantized: dict[str, float] = field(default_factory=dict)

    @property
    def worst(self) -> float:
        """The largest error of a layer."""
        return max((row[3] for row in self.rows), default=0.0)

    def table(self) -> Table:
        """The report as a table, to print or to show in a notebook."""
        columns: tuple[str, ...] = (
            "layer",
            "dtype",
            "update / weight",
            "lost in rounding",
            "weights unchanged",
        )
        cells = [
            [name, dtype, f"{size:.2e}", f"{error:.2e}", f"{same:.2%}"]
            for name, dtype, size, error, same in self.rows
        ]
        if self.quantized:
            columns = (*columns, "4-bit error of W0")
            cells = [
                [*cell, f"{self.quantized[cell[0]]:.2e}" if cell[0] in self.quantized else ""]
                for cell in cells
            ]
        foot = "" if cells else "nothing to do: every adapter is merged already"
        return Table(columns, cells, foot)

    def __str__(self) -> str:
        return str(self.table())

    def _repr_html_(self) -> str:
        return self.table()._repr_html_()


def merge(model: nn.Module, dequantize: bool = False) -> MergeReport:
    """Answer with one matrix W0 + ΔW per layer, at the cost of the base model.

    To rounding the output is the same.
    ΔW is the sum of the active adapters. W0 stays, so `unmerge` is bitwise and a state dict or
    `save` is the same merged or not. Layers that are merged already are left alone. Training a
    merged model changes no layer: its factors are not in the forward pass. Before transformers'
    `save_pretrained`, use `bake`: a model with adapters has names that `from_pretrained` does not
    know.
    dequantize: must be True where a base is in 4 bits, to say that the merged weight is a full one
    (its dequantised W0 plus ΔW, in the dtype it is multiplied in); nothing is quantised again.
    False refuses such a base.
    Returns the rounding report. Raises PerakitError, with nothing merged, where factors are not
    finite, an update is no matrix, or a layer's weight is shared with another.

    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 5))
    >>> report = pk.attach(model, pk.LoRA(rank=1), ["0"])
    >>> _ = torch.nn.init.ones_(pk.adapters(model)["0"].B)
    >>> x = torch.ones(1, 3)
    >>> factored = model(x)
    >>> report = pk.merge(model)
    >>> torch.allclose(model(x), factored), report.worst < 1e-6
    (True, True)
    """
    layers = {name: layer for name, layer in _active_layers(model).items() if layer.merged is None}
    sums, report = _sums(model, layers, dequantize)
    with whole(model):
        for name, layer in layers.items():
            layer.merged = sums[name]
    return report


def unmerge(model: nn.Module) -> None:
    """Answer with W0 and the factors again, bitwise as before `merge`.

    Does nothing where nothing is merged.

    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 5))
    >>> report = pk.attach(model, pk.LoRA(rank=1), ["0"])
    >>> x = torch.ones(1, 3)
    >>> before = model(x)
    >>> report = pk.merge(model)
    >>> pk.unmerge(model)
    >>> torch.equal(model(x), before)
    True
    """
    with whole(model):
        for layer in adapted_layers(model).values():
            layer.merged = None


def bake(model: nn.Module, dequantize: bool = False) -> MergeReport:
    """Write W0 + ΔW into the plain layers for good and drop the adapters: the model that ships.

    dequantize: as in `merge`; a 4-bit layer becomes a full one of the class it was. Raises as
    `merge` does, and where an adapter that is not active would be lost, with nothing written;
    returns the same report.

    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 5))
    >>> report = pk.attach(model, pk.PERA(rank=2), ["0"])
    >>> report = pk.bake(model)
    >>> model
    Sequential(
      (0): Linear(in_features=3, out_features=5, bias=True)
    )
    """
    layers = _active_layers(model)
    idle = [
        name
        for module in stand_ins(model).values()
        for name in module.adapters
        if name not in module.active
    ]
    if idle:
        raise PerakitError(
            f"adapter {idle[0]!r} is not active and would be lost: pk.delete(model, {idle[0]!r}) or"
            " activate it too"
        )
    sums, report = _sums(model, layers, dequantize)
    in_full = {
        place: one
        for place, one in stand_ins(model).items()
        if isinstance(one, TrainedModule) and one.active
    }
    check_modules("bake", {place: one.chosen for place, one in in_full.items()})
    # The new weights are made; the old ones stay until all of the new are in place
    with whole(model, [p for layer in layers.values() for p in layer.base.parameters()]):
        new = {
            id(layer.base): layer.kind.written(layer.base, sums[name])
            for name, layer in layers.items()
        }
        for layer in layers.values():
            layer.base = new[id(layer.base)]
        for one in in_full.values():
            one.base = one.adapters[one.active[0]].requires_grad_(False)
        detach(model)
    return report


def _active_layers(model: nn.Module) -> dict[str, AdaptedLayer]:
    """The layers that an active adapter changes, of which there must be one."""
    layers = {name: layer for name, layer in require_adapters(model).items() if layer.active}
    if not layers:
        raise PerakitError(
            f"none of the adapters {', '.join(names(model))} is active: pk.activate(model,"
            f" {names(model)[0]!r}) first"
        )
    return layers


def _sums(
    model: nn.Module, layers: dict[str, AdaptedLayer], dequantize: bool
) -> tuple[dict[str, Tensor], MergeReport]:
    """round(W0 + ΔW) of every layer, and what the rounding did; nothing in the model changes."""
    sums, rows, quantized, shared = {}, [], {}, shared_weights(model)
    for name, layer in layers.items():
        other = shared.get(id(layer.base))
        if other is not None:
            raise PerakitError(
                f"cannot merge layer {name!r}: its weight is shared with {other!r}, which must not"
                " change; untie them (give the layer a clone of the weight) or leave the adapter"
                " unmerged"
            )
        gather.check("merge", name, layer, layer.active_adapters)
        lost = layer.kind.lost(layer.base)
        if lost is not None:
            if not dequantize:
                raise PerakitError(
                    f"cannot merge layer {name!r}: its weight is"
                    f" {layer.kind.kept(layer.base)}, which W0 + ΔW does not fit; say"
                    f" dequantize=True for a full {str(layer.W0.dtype).removeprefix('torch.')}"
                    " weight, or leave the adapter unmerged"
                )
            quantized[name] = lost
        check_finite("merge", name, layer.W0, layer.active_adapters)
        delta = layer.exact_delta()
        sums[name] = layer.sum_with(delta)
        if not sums[name].isfinite().all():
            raise PerakitError(
                f"cannot merge layer {name!r}: W0 + ΔW overflows {layer.W0.dtype}; move the model"
                " to a wider dtype first"
            )
        rows.append(
            (
                name,
                str(layer.W0.dtype).removeprefix("torch."),
                *_rounding(layer.W0, delta, sums[name]),
            )
        )
    return sums, MergeReport(rows, quantized)


def check_finite(doing: str, name: str, W0: Tensor, adapters: Sequence[Adapter]) -> None:
    """Refuse to go on with a layer whose adapters or weight W0 hold NaN or inf.

    doing: what is refused, in words: "merge", "export".
    """
    bad = [
        key
        for adapter in adapters
        for key, parameter in adapter.named_parameters()
        if not parameter.isfinite().all()
    ]
    if bad:
        raise PerakitError(
            f"cannot {doing} layer {name!r}: NaN or inf in {', '.join(bad)}; load a good adapter or"
            " train with a lower lr"
        )
    if not W0.isfinite().all():
        raise PerakitError(
            f"cannot {doing} layer {name!r}: NaN or inf in its own weight W0; load a good base"
            " model"
        )


def _rounding(W0: Tensor, delta: Tensor, rounded: Tensor) -> tuple[float, float, float]:
    """(‖ΔW‖/‖W0‖, ‖rounding error‖/‖ΔW‖, share of weights that should move and do not)."""
    wide = W0.to(delta.dtype)
    size, update = torch.linalg.norm(wide).item(), torch.linalg.norm(delta).item()
    error = torch.linalg.norm(rounded.to(delta.dtype) - (wide + delta)).item()
    moved = delta != 0
    same = ((rounded == W0) & moved).sum().item() / max(moved.sum().item(), 1)
    return update / size if size else 0.0, error / update if update else 0.0, same
