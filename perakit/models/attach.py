"""Put adapters on a model's layers, and take them off again."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from perakit.adapters import Method
from perakit.errors import PerakitError
from perakit.models import fused, trained
from perakit.models.adapted import (
    AdaptedLayer,
    adapted_layers,
    check_model,
    check_names,
    names,
    plain,
    shared_weights,
    stand_ins,
    unwrapped,
    walk,
)
from perakit.models.layers import kind_of
from perakit.models.numbers import missing
from perakit.models.parts import Parts
from perakit.models.quantize import NF4, NF4Layer, parse
from perakit.models.stand_in import Block, StandIn
from perakit.models.targets import DEFAULT, Targets, check_free, require_kind, select
from perakit.models.trained import TrainedModule
from perakit.models.untouched import Untouched, untouched
from perakit.models.whole import whole
from perakit.models.wrappers import too_late
from perakit.table import Table

ADAPTER_NAME = re.compile(r"[A-Za-z0-9_-]{1,100}")
SHOWN = 4  # lines of a report about weights that are not adapted
MEMORY = "_perakit_trainable"  # on the model: the parameters that required grad before attach


@dataclass(frozen=True)
class AttachReport:
    """What attach did, layer by layer.

    rows: (layer, kind, (m, n), rank, rank bound K, trainable parameters); base: parameters of the
    model without adapters. Percentages are trainable / (base + trainable), as in the papers'
    tables.
    trained: (module, parameters) that train in full; left: weights that are not adapted, as
    `untouched` finds them, the largest first.
    """

    rows: list[tuple[str, str, tuple[int, int], int, int, int]]
    base: int
    trained: list[tuple[str, int]] = field(default_factory=list)
    left: list[Untouched] = field(default_factory=list)

    @property
    def trainable(self) -> int:
        """Trainable parameters, over all layers and modules."""
        return sum(row[-1] for row in self.rows) + sum(count for _, count in self.trained)

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
        for place, count in self.trained:
            foot += f"\n{place}: trains in full, {count:,} parameters"
        if self.left:
            shown = [str(one) for one in self.left[:SHOWN]]
            more = len(self.left) - SHOWN
            foot += "\n".join(["\nnot adapted:", *shown]) + (f"\n  and {more} more" * (more > 0))
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
    train: str | Iterable[str] | None = None,
) -> AttachReport:
    """Give every targeted layer an adapter, in place, and freeze everything else.

    method: `pk.LoRA(rank=8)`, `pk.PERA(rank=8)` ...; targets: a list of exact names or dotted
    suffixes (["c_attn", "mlp.c_proj"]), a regular expression that must match the full name,
    "all-linear" (every Linear and Conv1D but the output head and layers that share their weight),
    or a predicate (name, module) -> bool. In a list, "c_attn[q,v]" means the rows of q and v in
    GPT-2's fused layer, each with factors of its own. The new layers start as a no-op and inherit
    device and training mode; `detach` undoes all of it.
    name: of the adapter: a layer can carry several, and the one that is attached is the one in
    effect until `activate` says otherwise; quantize: "nf4" or `pk.NF4(...)` first keeps the
    targeted weights in 4 bits, as `pk.quantize` does (the original bits are gone then, also after
    `detach`), None leaves them.
    train: modules that train in full beside the adapter, by name or dotted suffix: a classifier's
    head, resized embeddings, a LayerNorm. The adapter has a copy of each, which is saved, loaded
    and exported with it; "all-linear" leaves them out. Nothing by default. Returns a report to
    print, which ends with what was not adapted.
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
    modules = trained.select(model, train, name)
    methods = fused.methods(model, method, targets, name)
    if targets == "all-linear":
        for layer in list(methods):
            if trained.within(layer, modules):
                del methods[layer]
    if not methods:
        raise PerakitError(f"train={modules!r} leaves no layer to adapt: leave one of them out")
    adapt(model, methods, name, parse(quantize), modules)
    return report(model)


def adapt(
    model: nn.Module,
    methods: Mapping[str, Method],
    name: str = DEFAULT,
    quantize: str | NF4 | Mapping[str, NF4] | None = None,
    train: Sequence[str] = (),
    numbers: Mapping[str, Mapping[str, Tensor]] | None = None,
    precision: Mapping[str, torch.dtype] | None = None,
) -> None:
    """Attach to layers by exact name, each with a method of its own.

    name: of the adapter; quantize: as in `attach`, or a configuration for each layer that it
    concerns; train: modules by exact name; numbers: layer or module -> its tensors, in place of a
    start that is drawn; precision: layer -> that in which these began.
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
    trained.check_outside(model, (*methods, *train))
    both = [layer for layer in methods if trained.within(layer, train)]
    if both:
        raise PerakitError(
            f"{both[0]!r} is to train in full and to carry an adapter: leave it out of targets or"
            " of train"
        )
    fresh: dict[str, nn.Module] = {}
    for layer, method in methods.items():
        kind = kind_of(bases[layer])
        assert kind is not None
        W0 = kind.weight(bases[layer])
        if lacks := missing(W0):
            raise PerakitError(f"layer {layer!r} cannot be adapted: its weight {lacks}")
        adapter = fresh[layer] = method.adapter(method, W0).train(modules[layer].training)
        if numbers is None:
            adapter.reset(W0)
        if precision is not None:
            adapter.began_in(precision[layer])
    fresh |= trained.copies(model, train)
    fill(fresh, numbers or {})
    standing = {place: _standing(modules[place], bases.get(place)) for place in fresh}
    with whole(model):
        _freeze(model, modules)
        _replace(model, {id(modules[place]): module for place, module in standing.items()})
        for place, module in standing.items():
            module.adapters[name] = fresh[place]
        _activate(model, (name,))


@torch.no_grad()
def fill(modules: Mapping[str, nn.Module], numbers: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Give the parameters and buffers of each module its numbers, in place: all, and to the bit.

    modules, numbers: by the name in the model. Raises PerakitError where a tensor is none of the
    module's, and where two differ that are one in the model.
    """
    own = {place: dict(module.state_dict(keep_vars=True)) for place, module in modules.items()}
    for place, tensors in numbers.items():
        for key, tensor in tensors.items():
            if key not in own[place]:
                raise PerakitError(
                    f"'{place}.{key}' is no parameter and cannot be given numbers: remove its"
                    " parametrization first (torch.nn.utils.parametrize.remove_parametrizations)"
                )
            own[place][key].copy_(tensor)
    for place, tensors in numbers.items():
        for key, tensor in tensors.items():
            if not _same(own[place][key], tensor):
                raise PerakitError(
                    f"'{place}.{key}' shares its numbers with another tensor of the model, and in"
                    " the file they differ: load it onto the model it was saved from"
                )


def _same(own: Tensor, tensor: Tensor) -> bool:
    """Whether `own` has the numbers of `tensor`; one NaN is as good as another."""
    return torch.equal(own.cpu().nan_to_num(), tensor.to(own.dtype).nan_to_num())


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
    trained.check_one(model, names)
    with whole(model):
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
    for layer_name, layer in adapted_layers(model).items():
        if name in layer.active:
            _check_plain(layer_name, layer)
    if names(model) == (name,):
        detach(model)
        return
    modules = stand_ins(model).values()
    with whole(model):
        for module in modules:
            if name in module.adapters:
                del module.adapters[name]
            module.wanted = tuple(other for other in module.wanted if other != name)
        _replace(model, {id(one): one.base for one in modules if not one.adapters})


def quantize(
    model: nn.Module, targets: Targets = "all-linear", config: str | NF4 = "nf4"
) -> dict[str, float]:
    """Keep the weights of the targeted layers in 4 bits from now on, in place.

    Adapters can be attached on top.
    targets: as in `attach`, but whole layers; config: "nf4", or `pk.NF4(block=..., double=...)`.
    Returns layer -> ‖W - deq(Q(W))‖/‖W‖, the relative error that this made. Raises PerakitError,
    with the model untouched, where a layer cannot be.

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
    chosen = select(model, targets, adapter=None)
    trained.check_outside(model, chosen)
    new = {layer: _base(layer, modules[layer], how, shared) for layer in chosen}
    errors = {
        layer: module.error.item() for layer, module in new.items() if isinstance(module, NF4Layer)
    }
    changed = {
        id(modules[layer]): module
        for layer, module in new.items()
        if module is not plain(modules[layer])
    }
    with whole(model):
        _replace(model, changed)
    return errors


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
    for module in stand_ins(model).values():
        module.activate(names)


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


def _standing(module: nn.Module, base: nn.Module | None) -> StandIn:
    """What stands, or will stand, in the place of `module`.

    base: what its adapter is to stand on; None where it trains in full.
    """
    if isinstance(module, StandIn):
        return module
    if base is None:
        return TrainedModule(module)
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
    with whole(model):
        _replace(model, {id(module): module.base for module in stand_ins(model).values()})
        for _, module in walk(model):
            if frozen := module.__dict__.pop(MEMORY, ()):
                _require_grad(module, frozen, True)


@contextmanager
def disabled(model: nn.Module) -> Iterator[None]:
    """Within the block the model answers as if no adapter were there, bitwise.

    Blocks may be nested or overlap: the adapters answer again when the last one is left. A layer
    that gets its first adapter within the block answers with it.

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
    block = Block()
    try:
        try:
            for module in stand_ins(model).values():
                module.blocks = (*(other for other in module.blocks if other.on), block)
            block.on = True  # for all of them at once
            yield
        finally:
            block.on = False
    finally:  # an interrupt may have come before that line
        block.on = False
        # Forgotten, or what was compiled before the block would be compiled again after it
        for module in stand_ins(model).values():
            module.blocks = tuple(other for other in module.blocks if other is not block)


def report(model: nn.Module) -> AttachReport:
    """The report on the adapters that are in effect in `model` now."""
    rows = []
    for name, layer in adapted_layers(model).items():
        m, n = layer.kind.shape(layer.base)
        for adapter in layer.active_adapters:
            method, count = adapter.method, sum(p.numel() for p in adapter.parameters())
            parts = f"[{','.join(method.parts)}]" if isinstance(method, Parts) else ""
            rows.append(
                (name, layer.kind.name + parts, (m, n), method.rank, method.rank_bound(m, n), count)
            )
    in_full = [
        (place, sum(parameter.numel() for parameter in module.parameters()))
        for place, module in trained.trained_modules(model).items()
    ]
    return AttachReport(rows, _base_size(model), in_full, untouched(model))


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


def _replace(model: nn.Module, new: Mapping[int, nn.Module]) -> None:
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
        # A module that somebody took out meanwhile is passed by as well
        parameter = plain(modules[path])._parameters.get(key) if path in modules else None
        if parameter is not None:
            parameter.requires_grad_(required)
