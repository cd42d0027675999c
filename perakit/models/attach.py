"""Put adapters on a model's layers, and take them off again."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import nn
from torch.nn.parameter import UninitializedParameter

from perakit.adapters import Method
from perakit.errors import PerakitError
from perakit.models.adapted import AdaptedLayer, adapted_layers, check_model, tied_to, walk
from perakit.models.layers import KINDS, LayerKind, kind_of
from perakit.table import Table

Targets = str | Iterable[str] | Callable[[str, nn.Module], bool]
HEADS = {"lm_head", "embed_out", "head", "score", "classifier"}  # parts of a name that mark an output head
MEMORY = "_perakit_trainable"  # on the model: the parameters that required grad before attach


@dataclass(frozen=True)
class AttachReport:
    """What attach did, layer by layer.

    rows: (layer, kind, (m, n), rank, rank bound K, trainable parameters); base: parameters of the model without
    adapters. Percentages are trainable / (base + trainable), as in the papers' tables.
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
            [name, kind, f"{m} x {n}", str(rank), str(bound), f"{count:,}", f"{100 * count / total:.4f}"]
            for name, kind, (m, n), rank, bound, count in self.rows
        ]
        layers = "1 layer" if len(self.rows) == 1 else f"{len(self.rows)} layers"
        foot = (
            f"{layers}: {self.trainable:,} trainable of {total:,} parameters ({self.percent:.4f} %)\nK: the largest rank that ΔW can have"
        )
        return Table(("layer", "kind", "shape", "rank", "K", "trainable", "percent"), cells, foot)

    def __str__(self) -> str:
        return str(self.table())

    def _repr_html_(self) -> str:
        return self.table()._repr_html_()


def attach(model: nn.Module, method: Method, targets: Targets) -> AttachReport:
    """Give every targeted layer an adapter, in place, and freeze everything else.

    method: `pk.LoRA(rank=8)`, `pk.PERA(rank=8)` ...; targets: a list of exact names or dotted suffixes
    (["c_attn", "mlp.c_proj"]), a regular expression that must match the full name, "all-linear" (every Linear and
    Conv1D but the output head and layers that share their weight), or a predicate (name, module) -> bool. The new
    layers start as a no-op and inherit device and training mode; `detach` undoes all of it. Returns a report to print.
    Raises PerakitError, with the model untouched, where nothing matches or a match cannot be adapted.
    """
    check_model(model)
    if not isinstance(method, Method) or type(method) is Method:
        raise PerakitError(f"method={method!r} is not a method: pass one such as pk.PERA(rank=8)")
    adapt(model, dict.fromkeys(select(model, targets), method))
    return report(model)


def adapt(model: nn.Module, methods: dict[str, Method], draw: bool = True) -> None:
    """Attach to layers by exact name, each with a method of its own; draw=False leaves the factors at zero."""
    modules = dict(walk(model))
    lazy = [name for name, parameter in model.named_parameters() if isinstance(parameter, UninitializedParameter)]
    if lazy:
        raise PerakitError(f"parameter {lazy[0]!r} has no shape yet: pass one batch through the model first")
    fresh: dict[int, AdaptedLayer] = {}
    for name, method in methods.items():
        module, kind = modules[name], _kind(name, modules[name])
        adapter = method.adapter(method, kind.weight(module))
        if draw:
            adapter.reset(kind.weight(module))
        fresh[id(module)] = AdaptedLayer(module, adapter, kind)
    # All layers are made: from here on nothing can fail.
    frozen = set(getattr(model, MEMORY, ()))
    for name, module in modules.items():
        for key, parameter in ({} if isinstance(module, AdaptedLayer) else module._parameters).items():
            if parameter is not None and parameter.requires_grad:
                frozen.add(f"{name}.{key}" if name else key)
    _replace(model, fresh)
    for name in frozen:
        _parameter(model, name).requires_grad_(False)
    setattr(model, MEMORY, tuple(sorted(frozen)))


def detach(model: nn.Module) -> None:
    """Take all adapters off: the original layers, keys, bits and `requires_grad` are back. A bare model stays as it is."""
    layers = adapted_layers(model)
    _replace(model, {id(layer): layer.base for layer in layers.values()})
    for _, module in walk(model):
        for name in module.__dict__.pop(MEMORY, ()):
            _parameter(module, name).requires_grad_(True)


@contextmanager
def disabled(model: nn.Module) -> Iterator[None]:
    """Within the block the model answers as if no adapter were there, bitwise; may be nested."""
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
    """The report on the adapters that `model` has now."""
    rows = []
    for name, layer in adapted_layers(model).items():
        m, n = layer.W0.shape
        method, count = layer.adapter.method, sum(p.numel() for p in layer.adapter.parameters())
        rows.append((name, layer.kind.name, (m, n), method.rank, method.rank_bound(m, n), count))
    total = sum(p.numel() for p in model.parameters())
    return AttachReport(rows, total - sum(row[-1] for row in rows))


def select(model: nn.Module, targets: Targets) -> list[str]:
    """Names of the layers that `targets` means, in the model's order; all of them can be adapted."""
    modules = dict(walk(model))
    plain = {name: module.base if isinstance(module, AdaptedLayer) else module for name, module in modules.items()}
    layers = [name for name, module in plain.items() if kind_of(module)]
    if targets == "all-linear":
        head = getattr(model, "get_output_embeddings", lambda: None)()
        chosen = [name for name in layers if not (plain[name] is head or _is_head(model, name, plain[name]))]
    elif callable(targets) and not isinstance(targets, type):
        chosen = [name for name in _weighted(plain) if targets(name, plain[name])]
    elif isinstance(targets, str):
        try:
            pattern = re.compile(targets)
        except re.error as error:
            raise PerakitError(f"targets={targets!r} is no regular expression ({error}): mend it or pass a list of names") from error
        chosen = [name for name in _weighted(plain) if pattern.fullmatch(name)]
    else:
        first = {id(module): name for name, module in modules.items()}
        names = {name: first[id(module)] for name, module in model.named_modules(remove_duplicate=False) if id(module) in first}
        chosen = _named(names, layers, targets)
    if not chosen:
        raise PerakitError(_no_match(targets, layers))
    for name in chosen:
        if isinstance(modules[name], AdaptedLayer):
            raise PerakitError(f"layer {name!r} has an adapter already: pk.detach(model) first, or bake it in with pk.bake(model)")
        _kind(name, plain[name])
    return chosen


def _named(names: dict[str, str], layers: list[str], targets: object) -> list[str]:
    """Layers whose name is, or ends in, one of `targets`; each target must match.

    names: every name that a module has -> its first name; a module may stand in two places.
    """
    wanted = list(targets) if isinstance(targets, Iterable) else [targets]
    found: set[str] = set()
    for target in wanted:
        if not isinstance(target, str) or not target:
            raise PerakitError(f"targets={targets!r}: pass layer names, a regular expression, 'all-linear' or a predicate")
        matches = {first for name, first in names.items() if name == target or name.endswith(f".{target}")}
        if not matches:
            raise PerakitError(_no_match(target, layers))
        found |= matches
    return [name for name in dict.fromkeys(names.values()) if name in found]


def _weighted(plain: dict[str, nn.Module]) -> list[str]:
    """Modules that a pattern may mean: those with parameters of their own, and not their containers."""
    return [name for name, module in plain.items() if any(p is not None for p in module._parameters.values())]


def _is_head(model: nn.Module, name: str, module: nn.Module) -> bool:
    return bool(HEADS.intersection(name.split("."))) or tied_to(model, module) is not None


def _no_match(target: object, layers: list[str]) -> str:
    if not layers:
        return f"no layer matches {target!r}: the model has no {' or '.join(kind.name for kind in KINDS)} layer to adapt"
    endings = list(dict.fromkeys(name.rsplit(".", 1)[-1] for name in layers))
    near = difflib.get_close_matches(target, [*endings, *layers], n=3, cutoff=0.4) if isinstance(target, str) else []
    text = f"no layer matches {target!r}"
    if isinstance(target, str) and target in endings:
        text += f" in full (a string is a regular expression for the whole name: use [{target!r}])"
    elif near:
        text += f"; nearest: {', '.join(near)}"
    shown = ", ".join(endings[:12]) + (" ..." if len(endings) > 12 else "")
    return f"{text}; layers that can be adapted: {shown}"


def _kind(name: str, module: nn.Module) -> type[LayerKind]:
    """The kind of a layer that is about to be wrapped, or the reason why it cannot be."""
    kind = kind_of(module)
    supported = " and ".join(kind.name for kind in KINDS)
    if kind is None:
        inside = [child for child, part in walk(module) if isinstance(part, AdaptedLayer) or kind_of(part)]
        remedy = (
            f"target its layers {', '.join(inside[:4])}" if inside else f"perakit adapts {supported} layers with a floating-point weight"
        )
        raise PerakitError(f"layer {name!r} ({type(module).__name__}) cannot be adapted: {remedy}")
    if module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks:
        raise PerakitError(f"layer {name!r} has hooks, which its adapter would pass by: remove them, and hook the layer after attach")
    if not name:
        raise PerakitError(f"the model is itself a {kind.name}, which cannot be replaced in place: wrap it in torch.nn.Sequential")
    return kind


def _replace(model: nn.Module, new: dict[int, nn.Module] | dict[int, AdaptedLayer]) -> None:
    """Put new[id(child)] in the place of child, at every place where the model holds it."""
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if id(child) in new:
                parent._modules[name] = new[id(child)]


def _parameter(model: nn.Module, name: str) -> nn.Parameter:
    """A parameter by the name it has without adapters."""
    path, _, key = name.rpartition(".")
    module = model
    for part in path.split(".") if path else ():
        child = module._modules[part]
        assert child is not None
        module = child
    parameter = (module.base if isinstance(module, AdaptedLayer) else module)._parameters[key]
    assert parameter is not None
    return parameter
