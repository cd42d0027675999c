"""All numbers of an adapted layer, on this process, or the reason why they are not to be had."""

from __future__ import annotations

import copy
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from perakit.adapters import Adapter
from perakit.errors import PerakitError
from perakit.models.adapted import AdaptedLayer
from perakit.models.numbers import GATHER, gathered, is_sharded, missing


def weight(doing: str, name: str, layer: AdaptedLayer) -> Tensor:
    """W0 (m, n) of the layer called `name`; gathered from all processes where it is a DTensor.

    Then every process has to ask. doing: what is refused, in words: "export". Raises PerakitError
    where the numbers are not here.
    """
    _shape(doing, name, layer)
    W0 = layer.W0
    if is_sharded(W0):
        return gathered(W0)
    if lacks := missing(W0):
        raise PerakitError(f"cannot {doing} layer {name!r}: its weight {lacks}")
    return W0


def adapter(doing: str, name: str, layer: AdaptedLayer, on: Adapter) -> Adapter:
    """The adapter `on` the layer with all its numbers: itself, or a copy that was gathered.

    As in `weight`; those of W0 need not be here.
    """
    shapes = on.method.shapes(*_shape(doing, name, layer))
    parts = {key: part for key in shapes if isinstance(part := _value(on, key), Tensor)}
    if set(parts) != set(shapes):
        raise PerakitError(
            f"cannot {doing} layer {name!r}: its {', '.join(sorted(set(shapes) - set(parts)))} are"
            f" no parameters now (FSDP's use_orig_params=False): {GATHER}"
        )
    for key, part in parts.items():
        lacks = "" if is_sharded(part) else missing(part, shapes[key])
        if lacks:
            raise PerakitError(f"cannot {doing} layer {name!r}: its {key} {lacks}")
    if not any(map(is_sharded, parts.values())):
        return on
    full = {
        id(part): nn.Parameter(gathered(part.detach()), part.requires_grad)
        for part in parts.values()
    }
    return copy.deepcopy(on, full)


def check(doing: str, name: str, layer: AdaptedLayer, adapters: Sequence[Adapter]) -> None:
    """Refuse where a number of the layer or of its `adapters` is not here, or only a part is."""
    if is_sharded(layer.W0):
        raise PerakitError(f"cannot {doing} layer {name!r}: its weight {missing(layer.W0)}")
    weight(doing, name, layer)
    for one in adapters:
        adapter(doing, name, layer, one)


def _value(on: Adapter, key: str) -> Tensor | None:
    """A parameter by its name, as in q.A; of a parametrized one its value."""
    path, _, name = key.rpartition(".")
    module = on.get_submodule(path)
    if is_parametrized(module, name):
        return getattr(module, name)
    return module._parameters.get(name)


def _shape(doing: str, name: str, layer: AdaptedLayer) -> tuple[int, int]:
    """(m, n) of the layer, of a weight that need have no numbers."""
    shape = layer.kind.shape(layer.base)
    if len(shape) != 2:
        raise PerakitError(
            f"cannot {doing} layer {name!r}: its weight has shape {shape} and is no matrix (an FSDP"
            f" or DeepSpeed shard): {GATHER}"
        )
    return shape
