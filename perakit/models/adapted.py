"""A layer with an adapter, and how to find such layers in a model."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perakit.adapters import Adapter
from perakit.errors import PerakitError
from perakit.models.layers import LayerKind


class AdaptedLayer(nn.Module):
    """Stands where `base` stood: W0 x + b + ΔW x.

    base: the original layer, whose W0 is never written; adapter: gives ΔW; kind: how base stores W0.
    enabled: False answers with base alone; merged: W0 + ΔW once merged, else None, kept out of the state dict.
    """

    merged: Tensor | None

    def __init__(self, base: nn.Module, adapter: Adapter, kind: type[LayerKind]) -> None:
        super().__init__()
        self.base, self.adapter, self.kind = base, adapter, kind
        self.enabled = True
        self.register_buffer("merged", None, persistent=False)
        self.register_load_state_dict_post_hook(_merge_again)
        self.train(base.training)

    @property
    def W0(self) -> Tensor:
        """The frozen weight (m, n)."""
        return self.kind.weight(self.base)

    @property
    def weight(self) -> Tensor:
        """The weight in effect, stored as base stores it, for code that reads a layer's weight instead of calling it."""
        if not self.enabled:
            return self.base.get_parameter("weight")
        W = (self.W0 + self.delta).to(self.W0.dtype) if self.merged is None else self.merged
        return self.kind.matrix(W)

    @property
    def delta(self) -> Tensor:
        """ΔW (m, n), scale included, in the adapter's dtype."""
        return self.adapter.delta(self.W0.to(torch.promote_types(self.W0.dtype, torch.float32)))

    @property
    def bias(self) -> Tensor | None:
        """The base's bias (m,), or None."""
        return self.kind.bias(self.base)

    def forward(self, x: Tensor) -> Tensor:
        """x (..., n) -> (..., m), by whichever of W0, W0 + ΔW and W0 with factors is in effect."""
        if not self.enabled:
            return self.base(x)
        if self.merged is not None:
            return F.linear(x, self.merged, self.bias)
        return self.adapter(x, self.W0, self.bias)

    def __getattr__(self, name: str) -> Any:
        """What the layer itself lacks (in_features, nf ...) is read from the base."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            # Not there yet while a copy is being made; and the base's special methods would answer for the base alone.
            if name in ("base", "_modules") or name.startswith("__"):
                raise
            return getattr(self.base, name)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> AdaptedLayer:
        """A merged layer that is moved to another dtype merges again: a rounded sum cannot be unrounded."""
        before = None if self.merged is None else self.merged.dtype
        super()._apply(fn, recurse)
        if self.merged is not None and self.merged.dtype != before:
            self.merged = self.sum_with(self.exact_delta())
        return self

    @torch.no_grad()
    def exact_delta(self) -> Tensor:
        """ΔW (m, n) in float64 on a CPU, in float32 at least elsewhere: expanded and multiplied in that precision."""
        W0 = self.W0
        wide = torch.float64 if W0.device.type == "cpu" else torch.promote_types(W0.dtype, torch.float32)
        return copy.deepcopy(self.adapter).to(wide).delta(W0.to(wide))

    @torch.no_grad()
    def sum_with(self, delta: Tensor) -> Tensor:
        """W0 + `delta`, added in delta's precision and rounded once to W0's dtype, in W0's memory layout."""
        return torch.empty_like(self.W0).copy_(_to_odd(self.W0.to(delta.dtype) + delta, self.W0.dtype))


def _to_odd(total: Tensor, dtype: torch.dtype) -> Tensor:
    """`total` such that copying it to `dtype` rounds once.

    torch goes from float64 to a half precision by way of float32, which rounds twice where the first step lands on
    a tie. Rounding that step to the neighbour with an odd last bit keeps the side on which `total` was.
    """
    if dtype.itemsize > 2 or total.dtype != torch.float64:
        return total
    near = total.float()
    other = near.nextafter(torch.where(total > near, torch.inf, -torch.inf).float())
    odd = near.view(torch.int32) % 2 != 0
    return torch.where((near == total) | odd, near, other)


def _merge_again(layer: nn.Module, _: Any) -> None:
    """After load_state_dict, a merged layer follows what was loaded."""
    assert isinstance(layer, AdaptedLayer)
    if layer.merged is not None:
        layer.merged = layer.sum_with(layer.exact_delta())


def check_model(model: Any) -> None:
    """Refuse what is not a model, such as a folder given first."""
    if not isinstance(model, nn.Module):
        raise PerakitError(f"the first argument is the model, a torch.nn.Module, not {_short(model)}")


def _short(value: Any) -> str:
    """A value as an error shows it: a folder in full, a table of tensors by its type."""
    return repr(value) if isinstance(value, str | int | float | None) or len(repr(value)) < 100 else f"a {type(value).__name__}"


def walk(module: nn.Module, prefix: str = "", seen: set[int] | None = None) -> Iterator[tuple[str, nn.Module]]:
    """Every module once, by the name it has without adapters; an AdaptedLayer is not entered."""
    seen = set() if seen is None else seen
    if id(module) in seen:
        return
    seen.add(id(module))
    yield prefix, module
    if not isinstance(module, AdaptedLayer):
        for name, child in module._modules.items():
            if child is not None:
                yield from walk(child, f"{prefix}.{name}" if prefix else name, seen)


def adapted_layers(model: nn.Module) -> dict[str, AdaptedLayer]:
    """Name (without adapters) -> adapted layer, in the model's order."""
    return {name: module for name, module in walk(model) if isinstance(module, AdaptedLayer)}


def require_adapters(model: nn.Module) -> dict[str, AdaptedLayer]:
    """`adapted_layers`, of which there must be one."""
    check_model(model)
    layers = adapted_layers(model)
    if not layers:
        raise PerakitError("the model has no adapter: pk.attach(model, pk.PERA(rank=8), targets) or pk.load(model, folder) first")
    return layers


def adapters(model: nn.Module) -> dict[str, Adapter]:
    """Name -> the adapter on it."""
    return {name: layer.adapter for name, layer in adapted_layers(model).items()}


@torch.no_grad()
def delta_weights(model: nn.Module) -> dict[str, Tensor]:
    """Name -> ΔW (d_out, d_in), scale included, in the adapter's dtype."""
    return {name: layer.delta for name, layer in adapted_layers(model).items()}


def tied_to(model: nn.Module, layer: nn.Module) -> str | None:
    """Name of another module that uses the weight of `layer`, or None."""
    weight = layer.get_parameter("weight")
    for name, module in walk(model):
        other = module.base if isinstance(module, AdaptedLayer) else module
        for parameter in other._parameters.values():
            if other is not layer and parameter is not None and _same_memory(parameter, weight):
                return name
    return None


def _same_memory(a: Tensor, b: Tensor) -> bool:
    """Do the bytes that the two tensors span overlap?"""
    if a is b or a.device != b.device or a.device.type == "meta" or not a.numel():
        return a is b
    return a.data_ptr() < _end(b) and b.data_ptr() < _end(a)


def _end(tensor: Tensor) -> int:
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.data_ptr() + (last + 1) * tensor.element_size()
