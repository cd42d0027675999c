"""A layer with an adapter, and how to find such layers in a model."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perakit.adapters import Adapter
from perakit.errors import PerakitError
from perakit.models.layers import LayerKind
from perakit.models.numbers import missing, spans
from perakit.models.shown import shown
from perakit.models.stand_in import StandIn
from perakit.models.wrappers import inside

# Without the folder every layer goes the plain way. Looked for, not tried: an error inside is one.
fast = import_module("perakit.fast") if find_spec("perakit.fast") else None


class AdaptedLayer(StandIn):
    """Stands where `base` stood: W0 x + b + ΔW x, with ΔW summed over the active adapters.

    base: the original layer, whose W0 is never written; kind: how base stores W0; merged: W0 + ΔW
    once merged, else None. It is no buffer: what averages or copies models pairs their buffers.
    """

    def __init__(self, base: nn.Module, kind: type[LayerKind]) -> None:
        super().__init__(base)
        self.kind = kind
        self.merged: Tensor | None = None
        self.register_load_state_dict_post_hook(_merge_again)

    @property
    def W0(self) -> Tensor:
        """The frozen weight (m, n); of a 4-bit base what its codes stand for."""
        return self.kind.weight(self.base)

    @property
    def adapter(self) -> Adapter:
        """The adapter in effect, where there is exactly one."""
        if len(self.active) != 1:
            raise PerakitError(not_one(self.active, self.adapters))
        return self.adapters[self.active[0]]  # type: ignore[return-value]

    @property
    def active_adapters(self) -> list[Adapter]:
        """The adapters in effect, in the order of their sum."""
        return [self.adapters[name] for name in self.active]  # type: ignore[misc]

    @property
    def weight(self) -> Tensor:
        """The weight in effect, stored as base stores it.

        It is for code that reads a layer's weight instead of calling it; writing to it is refused.
        """
        if not self.enabled or not self.active:
            return self.base.weight  # type: ignore[return-value]
        W = (self.W0 + self.delta).to(self.W0.dtype) if self.merged is None else self.merged
        return shown(self.kind.stored(self.base, W))

    @property
    def delta(self) -> Tensor:
        """ΔW (m, n), scale included, in the adapters' dtype."""
        W0 = self.W0
        return _sum(self.active_adapters, W0.to(torch.promote_types(W0.dtype, torch.float32)))

    @property
    def bias(self) -> Tensor | None:
        """The base's bias (m,), or None."""
        return self.base.bias  # type: ignore[return-value]

    def forward(self, x: Tensor) -> Tensor:
        """y = W0 x + b + Σ ΔW x over the active adapters: (..., n) -> (..., m)."""
        # The module's own tables: an attribute that is in none of them would be asked of the base.
        modules: dict[str, Any] = self._modules
        base, adapters = modules["base"], modules["adapters"]
        for block in self.blocks:
            if block.on:
                return base(x)
        merged = self.merged
        if merged is not None:  # and an adapter is active, since nothing may change a merged sum
            return F.linear(x, merged.to(x.device), base.bias)  # a replica's x is on another GPU
        active = []
        for name in self.wanted:
            if name in adapters:
                active.append(adapters[name])
        if not active:
            return base(x)
        kind, W0 = self.kind, self.kind.weight(base, active)
        if fast is not None and not fast.plans.switched_off:
            y = fast.forward(x, W0, base.bias, kind.product(base), active)
            if y is not None:
                return y
        y, updates = base(x), 0
        for adapter in active:
            updates = updates + adapter(x, W0)
        return (y + updates).to(y.dtype)  # summed as precisely as adapters are, and rounded once

    def __getattr__(self, name: str) -> Any:
        """What the layer itself lacks (in_features, nf ...) is read from the base."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            # Not there yet while a copy is being made; and the base's special methods would answer
            # for the base alone.
            if name in ("base", "_modules") or name.startswith("__"):
                raise
            return getattr(self.base, name)

    def __setattr__(self, name: str, value: Any) -> None:
        """Refuse a new weight: it would be neither the base's nor the adapter's."""
        if name in ("weight", "bias") or isinstance(value, nn.Parameter):
            raise PerakitError(
                f"{name} cannot be set on a layer with an adapter: set it (or tie it) before"
                f" pk.attach, or set layer.base.{name}, which the adapter is added to"
            )
        super().__setattr__(name, value)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> AdaptedLayer:
        """Move as torch does; a merged layer that comes to another dtype merges again."""
        super()._apply(fn, recurse)
        if self.merged is not None:
            moved = fn(self.merged)
            # A rounded sum cannot be unrounded
            same = moved.dtype == self.merged.dtype
            self.merged = moved if same else self.sum_with(self.exact_delta())
        return self

    @torch.no_grad()
    def exact_delta(self) -> Tensor:
        """ΔW (m, n) in float64 on a CPU, in float32 at least elsewhere.

        It is expanded and multiplied in that precision.
        """
        W0 = self.W0
        wide = (
            torch.float64
            if W0.device.type == "cpu"
            else torch.promote_types(W0.dtype, torch.float32)
        )
        return _sum([adapter.widened(wide) for adapter in self.active_adapters], W0.to(wide))

    @torch.no_grad()
    def sum_with(self, delta: Tensor) -> Tensor:
        """W0 + `delta`, added in delta's precision and rounded once to W0's dtype.

        It has W0's memory layout.
        """
        W0 = self.W0
        return torch.empty_like(W0).copy_(_to_odd(W0.to(delta.dtype) + delta, W0.dtype))


def _sum(adapters: Sequence[Adapter], W0: Tensor) -> Tensor:
    """Σ ΔW (m, n), each as if it were alone on W0; zero for no adapters."""
    if not adapters:
        return torch.zeros_like(W0)
    first, *rest = (adapter.delta(W0) for adapter in adapters)
    for other in rest:
        first = first + other
    return first


def _to_odd(total: Tensor, dtype: torch.dtype) -> Tensor:
    """`total` such that copying it to `dtype` rounds once.

    torch goes from float64 to a half precision by way of float32, which rounds twice where the
    first step lands on a tie. Rounding that step to the neighbour with an odd last bit keeps the
    side on which `total` was.
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
        raise PerakitError(
            f"the first argument is the model, a torch.nn.Module, not {_short(model)}"
        )


def _short(value: Any) -> str:
    """A value as an error shows it: a folder in full, a table of tensors by its type."""
    return (
        repr(value)
        if isinstance(value, str | int | float | None) or len(repr(value)) < 100
        else f"a {type(value).__name__}"
    )


def walk(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Every module once, by its name without wrappers; an AdaptedLayer is not entered.

    Of a TrainedModule the base is, under its names; its copies are not. Wrappers are what
    `perakit.models.wrappers` lists.
    """
    seen = set[int]()
    for name, module in everywhere(model, seen):
        seen.add(id(module))
        yield name, module


def everywhere(
    module: nn.Module, but: Container[int] = (), prefix: str = ""
) -> Iterator[tuple[str, nn.Module]]:
    """As `walk`, but a module that stands at several places comes once for each.

    but: ids of modules to pass by.
    """
    wrapped = inside(module)
    if wrapped is not None:
        yield from everywhere(wrapped, but, prefix)
    elif id(module) not in but:
        yield prefix, module
        if not isinstance(module, AdaptedLayer):
            for name, child in plain(module)._modules.items():
                if child is not None:
                    yield from everywhere(child, but, f"{prefix}.{name}" if prefix else name)


def unwrapped(model: nn.Module) -> nn.Module:
    """The model itself, inside of torch.compile's, parallel and other wrappers."""
    return next(walk(model))[1]


def plain(module: nn.Module) -> nn.Module:
    """The module itself, or what stands below its adapters."""
    return module.base if isinstance(module, StandIn) else module


def stand_ins(model: nn.Module) -> dict[str, StandIn]:
    """Name -> what stands in a module's place: adapted layers, and modules that train in full."""
    return {name: module for name, module in walk(model) if isinstance(module, StandIn)}


def adapted_layers(model: nn.Module) -> dict[str, AdaptedLayer]:
    """Name (without adapters) -> adapted layer, in the model's order."""
    return {name: module for name, module in walk(model) if isinstance(module, AdaptedLayer)}


def require_adapters(model: nn.Module) -> dict[str, AdaptedLayer]:
    """`adapted_layers`, of which there must be one."""
    check_model(model)
    layers = adapted_layers(model)
    if not layers:
        raise PerakitError(
            "the model has no adapter: pk.attach(model, pk.PERA(rank=8), targets) or pk.load(model,"
            " folder) first"
        )
    return layers


def adapters(model: nn.Module, name: str | None = None) -> dict[str, Adapter]:
    """Layer -> the adapter on it: the one called `name`, or the active one.

    A layer without it is left out. Raises PerakitError where several are active and no name is
    given, or none has the name.

    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 5))
    >>> report = pk.attach(model, pk.PERA(rank=2), ["0"])
    >>> {layer: tuple(adapter.h.shape) for layer, adapter in pk.adapters(model).items()}
    {'0': (3,)}
    """
    layers = adapted_layers(model)
    if name is None:
        if len(active(model)) > 1:
            raise PerakitError(not_one(active(model), names(model)))
        return {layer_name: layer.adapter for layer_name, layer in layers.items() if layer.active}
    if layers:
        check_names(model, [name])
    named: dict[str, Any] = {layer: adapted.adapters for layer, adapted in layers.items()}
    return {layer: adapters[name] for layer, adapters in named.items() if name in adapters}


def names(model: nn.Module) -> tuple[str, ...]:
    """Names of the adapters that `model` has, in the order of attaching."""
    return tuple(
        dict.fromkeys(name for module in stand_ins(model).values() for name in module.adapters)
    )


def active(model: nn.Module) -> tuple[str, ...]:
    """Names of the adapters in effect on some layer, in the order of their sum.

    Empty where the base answers alone.

    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 5))
    >>> report = pk.attach(model, pk.LoRA(rank=1), ["0"], name="law")
    >>> pk.active(model)
    ('law',)
    >>> pk.detach(model)
    >>> pk.active(model)
    ()
    """
    modules = stand_ins(model).values()
    order = dict.fromkeys(name for module in modules for name in module.wanted)
    return tuple(name for name in order if any(name in module.active for module in modules))


def not_one(active: Sequence[str], known: Iterable[str]) -> str:
    """The message where one adapter is asked for, and none or several are in effect."""
    return (
        f"active: {' + '.join(active) or 'none'}, of the adapters {', '.join(known)}, where one is"
        " needed: name it, or pk.activate one"
    )


def check_names(model: nn.Module, wanted: Sequence[str]) -> None:
    """Refuse names that no adapter of `model` has."""
    known = names(model)
    for name in wanted:
        if name not in known:
            raise PerakitError(
                f"no adapter is called {name!r}: the model has"
                f" {', '.join(map(repr, known)) or 'none'}"
            )


@torch.no_grad()
def delta_weights(model: nn.Module) -> dict[str, Tensor]:
    """Layer -> ΔW (d_out, d_in) of the active adapters, scale included, in the adapters' dtype.

    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 5))
    >>> report = pk.attach(model, pk.PERA(rank=2), ["0"])
    >>> {layer: (tuple(delta.shape), bool(delta.any())) for layer, delta in
    ...  pk.delta_weights(model).items()}  # a new adapter changes nothing
    {'0': ((5, 3), False)}
    """
    layers = adapted_layers(model)
    for name, layer in layers.items():
        for key, part in (
            named for one in layer.active_adapters for named in one.named_parameters()
        ):
            if lacks := missing(part):
                raise PerakitError(f"no ΔW of layer {name!r}: its {key} {lacks}")
    return {name: layer.delta for name, layer in layers.items()}


def shared_weights(model: nn.Module) -> dict[int, str]:
    """id of each bare layer whose weight is shared -> the name of the other module.

    Shared: it has bytes in common with a parameter of that module, or is the same object.
    """
    modules = [(name, plain(module)) for name, module in walk(model)]
    found = sorted(
        (*span, place, key)
        for place, (_, module) in enumerate(modules)
        for key, parameter in module._parameters.items()
        if parameter is not None
        for span in spans(parameter)
    )
    others: dict[int, int] = {}  # id of the layer -> the first place that shares with it
    for k, (device, _, end, place, key) in enumerate(found):
        for other in found[k + 1 :]:
            # In the order of their starts: no later one overlaps either
            if other[0] != device or other[1] >= end:
                break
            for mine, theirs, name in ((place, other[3], key), (other[3], place, other[4])):
                if mine != theirs and name == "weight":
                    others[id(modules[mine][1])] = min(
                        theirs, others.get(id(modules[mine][1]), theirs)
                    )
    return {layer: modules[place][0] for layer, place in others.items()}
