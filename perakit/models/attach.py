"""Put adapters on a model's layers, and take them off again."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.nn.parameter import UninitializedParameter

from perakit.adapters import Adapter, Method
from perakit.errors import PerakitError
from perakit.models.adapted import (
    AdaptedLayer,
    adapted_layers,
    check_model,
    check_names,
    plain,
    shared_weights,
    unwrapped,
    walk,
)
from perakit.models.layers import kind_of
from perakit.models.numbers import missing
from perakit.models.quantize import NF4, NF4Layer, parse
from perakit.models.targets import DEFAULT, Targets, check_free, require_kind, select
from perakit.models.wrappers import too_late
from perakit.table import Table

ADAPTER_NAME = re.compile(r"[A-Za-z0-9_-]{1,100}")
MEMORY = "_perakit_trainable"  # on the model: the parameters that required grad before attach


@dataclass(frozen=True)
class AttachReport:
    """What attach did, layer by layer.

    rows: (layer, kind, (m, n), rank, rank bound K, trainable parameters); base: parameters of the
    model without adapters. Percentages are trainable / (base + trainable), as in the papers'
    tables.
    """

    rows: list[tuple[str, str, tuple[int, int], int, int, int]]
    base: int

    @property
    def trainable(self) -> int:
        """Trainable parameters, over all layers."""
        return sum(row[-1] for row in self.rows)

    @property
    def percent(self) -> float:
        """100 trainable / (base + trainable)."""
        return 100 * self.trainable / (self.base + self.trainable)

    def table(self) -> Table:
        """The report as a table, to print or to show in a notebook."""
        total = self.base + self.trainable
        cells = [
            [
                name,
                kind,
                f"{m} x {n}",
                str(rank),
                str(bound),
                f"{count:,}",
                f"{100 * count / total:.4f}",
            ]
            for name, kind, (m, n), rank, bound, count in self.rows
        ]
        layers = "1 layer" if len(self.rows) == 1 else f"{len(self.rows)} layers"
        foot = (
            f"{layers}: {self.trainable:,} trainable of {total:,} parameters ({self.percent:.4f}"
            " %)\nK: the largest rank that ΔW can have"
        )
        return Table(("layer", "kind", "shape", "rank", "K", "trainable", "percent"), cells, foot)

    def __str__(self) -> str:
        return str(self.table())

    def _repr_html_(self) -> str:
        return self.table()._repr_html_()


def attach(
    model: nn.Module,
    method: Method,
    targets: Targets,
    name: str = DEFAULT,
    quantize: str | NF4 | None = None,
) -> AttachReport:
    """Give every targeted layer an adapter, in place, and freeze everything else.

    method: `pk.LoRA(rank=8)`, `pk.PERA(rank=8)` ...; targets: a list of exact names or dotted
    suffixes (["c_attn", "mlp.c_proj"]), a regular expression that must match the full name,
    "all-linear" (every Linear and Conv1D but the output head and layers that share their weight),
    or a predicate (name, module) -> bool. The new layers start as a no-op and inherit device and
    training mode; `detach` undoes all of it.
    name: of the adapter: a layer can carry several, and the one that is attached is the one in
    effect until `activate` says otherwise; quantize: "nf4" or `pk.NF4(...)` first keeps the
    targeted weights in 4 bits, as `pk.quantize` does (the original bits are gone then, also after
    `detach`), None leaves them. Returns a report to print.
    Raises PerakitError, with the model untouched, where nothing matches or a match cannot be
    adapted.

    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 5))
    >>> report = pk.attach(model, pk.PERA(rank=2), "all-linear")
    >>> report.rows, round(report.percent, 1)
    ([('0', 'Linear', (5, 3), 2, 3, 19)], 48.7)
    """
    check_model(model)
    if not isinstance(method, Method) or type(method) is Method:
        raise PerakitError(f"method={method!r} is not a method: pass one such as pk.PERA(rank=8)")
    adapt(
        model,
        dict.fromkeys(select(model, targets, name), method),
        name=name,
        quantize=parse(quantize),
    )
    return report(model)


def adapt(
    model: nn.Module,
    methods: Mapping[str, Method],
    draw: bool = True,
    name: str = DEFAULT,
    quantize: str | NF4 | Mapping[str, NF4] | None = None,
) -> None:
    """Attach to layers by exact name, each with a method of its own.

    draw: False leaves the factors at zero, for a caller that fills them.
    name: of the adapter; quantize: as in `attach`, or a configuration for each layer that it
    concerns.
    """
    check_name(name)
    _check_unmerged(model, (name,))
    if late := too_late(model):
        raise PerakitError(late)
    modules = dict(walk(model))
    lazy = [
        key
        for key, parameter in model.named_parameters()
        if isinstance(parameter, UninitializedParameter)
    ]
    if lazy:
        raise PerakitError(
            f"parameter {lazy[0]!r} has no shape yet: pass one batch through the model first"
        )
    four_bit = (
        quantize if isinstance(quantize, Mapping) else dict.fromkeys(methods, parse(quantize))
    )
    for layer in methods:
        if isinstance(module := modules[layer], AdaptedLayer):
            check_free(layer, module, name)
    shared = shared_weights(model) if any(four_bit.values()) else {}
    bases = {layer: _base(layer, modules[layer], four_bit.get(layer), shared) for layer in methods}
    fresh: dict[str, Adapter] = {}
    for layer, method in methods.items():
        kind = kind_of(bases[layer])
        assert kind is not None
        W0 = kind.weight(bases[layer])
        if lacks := missing(W0):
            raise PerakitError(f"layer {layer!r} cannot be adapted: its weight {lacks}")
        fresh[layer] = method.adapter(method, W0)
        if draw:
            fresh[layer].reset(W0)
    # All adapters are made: from here on nothing can fail.
    _freeze(model, modules)
    new = {id(modules[layer]): _adapted(modules[layer], bases[layer]) for layer in methods}
    _replace(model, new)
    for layer, adapter in fresh.items():
        wrapped = new[id(modules[layer])]
        wrapped.adapters[name] = adapter.train(wrapped.training)
    _activate(model, (name,))


def activate(model: nn.Module, *names: str) -> None:
    """Put one adapter into effect, or the sum of several: y = W0 x + b + Σ ΔW_i x.

    Each ΔW_i is what it would be alone on W0.
    names: as given to `attach`, in the order of the sum. The adapters that are named train, the
    others are frozen and keep their numbers; nothing else is written or copied. Within `disabled`
    it only takes effect after the block.
    Raises PerakitError for an unknown name, and while merged, where the merged weight would go on
    answering.

    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 5))
    >>> for name in ("law", "medicine"):
    ...     report = pk.attach(model, pk.LoRA(rank=1), ["0"], name=name)
    >>> pk.active(model)
    ('medicine',)
    >>> pk.activate(model, "law", "medicine")
    >>> pk.active(model)
    ('law', 'medicine')
    """
    check_model(model)
    if not names:
        raise PerakitError(
            "no adapter is named: pass one name or more, or use pk.disabled(model) for the base"
            " alone"
        )
    check_names(model, names)
    if len(set(names)) < len(names):
        raise PerakitError(f"names={names!r} holds a name twice: an adapter is in the sum once")
    _check_unmerged(model, names)
    _activate(model, names)


def delete(model: nn.Module, name: str) -> None:
    """Take the adapter called `name` off for good.

    A layer that has no other is the original layer again.
    What was active besides it stays active; where it was the only one, nothing is, and the base
    answers until `activate` names another. Deleting the last adapter is `detach`. Raises
    PerakitError for an unknown name and for an adapter that is part of a merged weight, with
    nothing changed.

    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 5))
    >>> for name in ("law", "medicine"):
    ...     report = pk.attach(model, pk.LoRA(rank=1), ["0"], name=name)
    >>> pk.delete(model, "law")
    >>> list(pk.adapters(model, "medicine")), pk.active(model)
    (['0'], ('medicine',))
    """
    check_model(model)
    check_names(model, [name])
    layers = adapted_layers(model)
    for layer_name, layer in layers.items():
        if name in layer.active:
            _check_plain(layer_name, layer)
    if all(set(layer.adapters) == {name} for layer in layers.values()):
        return detach(model)
    for layer in layers.values():
        if name in layer.adapters:
            del layer.adapters[name]
        layer.wanted = tuple(other for other in layer.wanted if other != name)
    return _replace(
        model, {id(layer): layer.base for layer in layers.values() if not layer.adapters}
    )


def quantize(
    model: nn.Module, targets: Targets = "all-linear", config: str | NF4 = "nf4"
) -> dict[str, float]:
    """Keep the weights of the targeted layers in 4 bits from now on, in place.

    Adapters can be attached on top.
    targets: as in `attach`; config: "nf4", or `pk.NF4(block=..., double=...)`. Returns layer -> ‖W
    - deq(Q(W))‖/‖W‖, the relative error that this made. Raises PerakitError, with the model
    untouched, where a layer cannot be.

    >>> model = torch.nn.Sequential(torch.nn.Linear(64, 1, bias=False))
    >>> _ = model[0].weight.data.copy_(torch.linspace(-1, 1, 64))
    >>> {layer: round(error, 3) for layer, error in pk.quantize(model).items()}
    {'0': 0.091}
    """
    check_model(model)
    how, modules, shared = parse(config), dict(walk(model)), shared_weights(model)
    if how is None:
        raise PerakitError(
            f"config={config!r} names no quantisation: pass 'nf4' or pk.NF4(block=64, double=True)"
        )
    new = {
        layer: _base(layer, modules[layer], how, shared)
        for layer in select(model, targets, adapter=None)
    }
    _replace(
        model,
        {
            id(modules[layer]): module
            for layer, module in new.items()
            if module is not plain(modules[layer])
        },
    )
    return {
        layer: module.error.item() for layer, module in new.items() if isinstance(module, NF4Layer)
    }


def check_name(name: Any) -> None:
    """Refuse a name that an adapter cannot have."""
    if (
        not isinstance(name, str)
        or not ADAPTER_NAME.fullmatch(name)
        or name in dir(nn.ModuleDict())
    ):
        raise PerakitError(
            f"name={name!r} cannot name an adapter: use letters, digits, '_' and '-', and no name"
            " of a dict's methods"
        )


def _check_unmerged(model: nn.Module, names: tuple[str, ...]) -> None:
    """Refuse to put `names` into effect where a merged weight holds another sum."""
    for layer_name, layer in adapted_layers(model).items():
        if layer.active != tuple(name for name in names if name in layer.adapters):
            _check_plain(layer_name, layer)


def _check_plain(name: str, layer: AdaptedLayer) -> None:
    """Refuse to change the sum of a layer whose merged weight would go on answering."""
    if layer.merged is not None:
        said = " + ".join(layer.active)
        raise PerakitError(
            f"layer {name!r} is merged with {said}, which would go on answering: pk.unmerge(model)"
            " first"
        )


def _activate(model: nn.Module, names: tuple[str, ...]) -> None:
    for layer in adapted_layers(model).values():
        layer.activate(names)


def _base(name: str, module: nn.Module, config: NF4 | None, shared: Mapping[int, str]) -> nn.Module:
    """What the adapter of layer `name` is to stand on: the layer, or a 4-bit copy of it.

    shared: `shared_weights`.
    """
    base = plain(module)
    if not isinstance(module, AdaptedLayer):
        require_kind(name, module)
    if config is None or (isinstance(base, NF4Layer) and base.config == config):
        return base
    if isinstance(base, NF4Layer) or isinstance(module, AdaptedLayer):
        state = (
            f"is {base.config} already"
            if isinstance(base, NF4Layer)
            else "carries adapters on its full weight"
        )
        raise PerakitError(
            f"layer {name!r} {state}, it cannot become {config}: load the base model again and"
            " quantise it first"
        )
    if id(module) in shared:
        raise PerakitError(
            f"cannot quantise layer {name!r}: its weight is shared with {shared[id(module)]!r};"
            " leave it out of the targets"
        )
    try:
        return NF4Layer.of(module, config)
    except PerakitError as error:
        raise PerakitError(f"cannot quantise layer {name!r}: {error}") from error


def _adapted(module: nn.Module, base: nn.Module) -> AdaptedLayer:
    """The adapted layer that stands, or will stand, in the place of `module`."""
    if isinstance(module, AdaptedLayer):
        return module
    kind = kind_of(base)
    assert kind is not None
    return AdaptedLayer(base, kind)


def _freeze(model: nn.Module, modules: dict[str, nn.Module]) -> None:
    """Freeze all but adapters, and remember what was trainable."""
    root = unwrapped(model)
    frozen = set(getattr(root, MEMORY, ()))
    for name, module in modules.items():
        for key, parameter in plain(module)._parameters.items():
            if parameter is not None and parameter.requires_grad:
                frozen.add(f"{name}.{key}" if name else key)
    _require_grad(model, frozen, False)
    setattr(root, MEMORY, tuple(sorted(frozen)))


def detach(model: nn.Module) -> None:
    """Take all adapters off: the original layers, keys, bits and `requires_grad` are back.

    A bare model stays as it is.
    A layer that was quantised stays in 4 bits: its original weight is not kept.

    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 5))
    >>> layer = model[0]
    >>> report = pk.attach(model, pk.PERA(rank=2), ["0"])
    >>> model[0] is layer
    False
    >>> pk.detach(model)
    >>> model[0] is layer, layer.weight.requires_grad
    (True, True)
    """
    layers = adapted_layers(model)
    _replace(model, {id(layer): layer.base for layer in layers.values()})
    for _, module in walk(model):
        _require_grad(module, module.__dict__.pop(MEMORY, ()), True)


@contextmanager
def disabled(model: nn.Module) -> Iterator[None]:
    """Within the block the model answers as if no adapter were there, bitwise; may be nested.

    A layer that gets its first adapter within the block answers with it.

    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 5))
    >>> x = torch.ones(1, 3)
    >>> before = model(x)
    >>> report = pk.attach(model, pk.LoRA(rank=1), ["0"])
    >>> _ = torch.nn.init.ones_(pk.adapters(model)["0"].B)
    >>> torch.equal(model(x), before)
    False
    >>> with pk.disabled(model):
    ...     torch.equal(model(x), before)
    True
    """
    layers = list(adapted_layers(model).values())
    before = [layer.enabled for layer in layers]
    for layer in layers:
        layer.enabled = False
    try:
        yield
    finally:
        for layer, enabled in zip(layers, before, strict=True):
            layer.enabled = enabled


def report(model: nn.Module) -> AttachReport:
    """The report on the adapters that are in effect in `model` now."""
    rows = []
    for name, layer in adapted_layers(model).items():
        m, n = layer.kind.shape(layer.base)
        for adapter in layer.active_adapters:
            method, count = adapter.method, sum(p.numel() for p in adapter.parameters())
            rows.append(
                (name, layer.kind.name, (m, n), method.rank, method.rank_bound(m, n), count)
            )
    return AttachReport(rows, _base_size(model))


def _base_size(model: nn.Module) -> int:
    """Parameters of the model without its adapters; a weight in 4 bits counts by its entries."""
    size, seen = 0, set[int]()
    for _, module in walk(model):
        base = plain(module)
        size += base.out_features * base.in_features if isinstance(base, NF4Layer) else 0
        for parameter in base._parameters.values():
            if parameter is not None and id(parameter) not in seen:
                seen.add(id(parameter))
                size += parameter.numel()
    return size


def _replace(model: nn.Module, new: dict[int, nn.Module] | dict[int, AdaptedLayer]) -> None:
    """Put new[id(child)] in the place of child, at every place where the model holds it."""
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if id(child) in new:
                parent._modules[name] = new[id(child)]


def _require_grad(model: nn.Module, names: Iterable[str], required: bool) -> None:
    """Set `requires_grad` of parameters by the names they have without adapters.

    A weight that is in 4 bits by now is no parameter, and is passed by.
    """
    modules = dict(walk(model))
    for name in names:
        path, _, key = name.rpartition(".")
        parameter = plain(modules[path])._parameters.get(key)
        if parameter is not None:
            parameter.requires_grad_(required)
