"""Which layers of a model are meant: by name, by pattern, all linear ones, or by a predicate."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Callable, Iterable

from torch import nn

from perakit.errors import PerakitError
from perakit.models.adapted import AdaptedLayer, everywhere, plain, shared_weights, unwrapped, walk
from perakit.models.layers import KINDS, LayerKind, kind_of, why_not
from perakit.models.stand_in import StandIn

Targets = str | Iterable[str] | Callable[[str, nn.Module], bool]
# Parts of a name that mark an output head
HEADS = {"lm_head", "embed_out", "head", "score", "classifier"}
DEFAULT = "default"  # name of an adapter that was given none


def select(model: nn.Module, targets: Targets, adapter: str | None = DEFAULT) -> list[str]:
    """Names of the layers that `targets` means, in the model's order.

    All of them can take an adapter of that name, if one is given.
    """
    model = unwrapped(model)
    modules = dict(walk(model))
    bare = {name: plain(module) for name, module in modules.items()}
    layers = [name for name, module in bare.items() if kind_of(module)]
    if targets == "all-linear":
        in_full = [name for name, module in modules.items() if _trains_in_full(module)]
        head, shared = (
            getattr(model, "get_output_embeddings", lambda: None)(),
            shared_weights(model),
        )
        chosen = [
            name
            for name in layers
            if not (
                bare[name] is head
                or any(f"{name}.".startswith(f"{one}.") for one in in_full)
                or id(bare[name]) in shared
                or HEADS.intersection(name.split("."))
            )
        ]
    elif callable(targets) and not isinstance(targets, type):
        chosen = [name for name in _weighted(bare) if targets(name, bare[name])]
    elif isinstance(targets, str):
        try:
            pattern = re.compile(targets)
        except re.error as error:
            raise PerakitError(
                f"targets={targets!r} is no regular expression ({error}): mend it or pass a list of"
                " names"
            ) from error
        chosen = [name for name in _weighted(bare) if pattern.fullmatch(name)]
    else:
        first = {id(module): name for name, module in modules.items()}
        # What computes a weight is no layer of the model, whatever it is called
        names = {
            name: first[id(module)]
            for name, module in everywhere(model)
            if "parametrizations" not in name.split(".")
        }
        chosen = _named(names, layers, targets, bare)
    if not chosen:
        raise PerakitError(_no_match(targets, layers, bare))
    for name in chosen:
        module = modules[name]
        if not isinstance(module, AdaptedLayer):
            require_kind(name, module)
        elif adapter is not None:
            check_free(name, module, adapter)
    return chosen


def check_free(name: str, layer: AdaptedLayer, adapter: str) -> None:
    """Refuse a second adapter of the same name on one layer."""
    if adapter in layer.adapters:
        raise PerakitError(
            f"layer {name!r} has an adapter already: pk.detach(model) first, or bake it in with"
            " pk.bake(model), or keep it beside the new one with name=... (taken:"
            f" {', '.join(layer.adapters)})"
        )


def _named(
    names: dict[str, str], layers: list[str], targets: object, bare: dict[str, nn.Module]
) -> list[str]:
    """Layers whose name is, or ends in, one of `targets`; each target must match.

    names: every name that a module has -> its first name; a module may stand in two places; bare:
    as in `_no_match`.
    """
    wanted = list(targets) if isinstance(targets, Iterable) else [targets]
    found: set[str] = set()
    for target in wanted:
        if not isinstance(target, str) or not target:
            raise PerakitError(
                f"targets={targets!r}: pass layer names, a regular expression, 'all-linear' or a"
                " predicate"
            )
        matches = {
            first for name, first in names.items() if name == target or name.endswith(f".{target}")
        }
        if not matches:
            raise PerakitError(_no_match(target, layers, bare))
        found |= matches
    return [name for name in dict.fromkeys(names.values()) if name in found]


def _weighted(bare: dict[str, nn.Module]) -> list[str]:
    """Modules that a pattern may mean: those with a weight or parameters of their own.

    Their containers are none.
    """
    return [
        name
        for name, module in bare.items()
        if kind_of(module) or any(p is not None for p in module._parameters.values())
    ]


def _no_match(target: object, layers: list[str], bare: dict[str, nn.Module]) -> str:
    """The message where `target` means no layer.

    layers: names that could be meant; bare: all modules of the model without adapters, by name.
    """
    if not layers:
        return f"no layer matches {target!r}: {_none_to_adapt(bare)}"
    endings = list(dict.fromkeys(name.rsplit(".", 1)[-1] for name in layers))
    near = (
        difflib.get_close_matches(target, [*endings, *layers], n=3, cutoff=0.4)
        if isinstance(target, str)
        else []
    )
    text = f"no layer matches {target!r}"
    if isinstance(target, str) and target in endings:
        text += f" in full (a string is a regular expression for the whole name: use [{target!r}])"
    elif near:
        text += f"; nearest: {', '.join(near)}"
    shown = ", ".join(endings[:12]) + (" ..." if len(endings) > 12 else "")
    return f"{text}; layers that can be adapted: {shown}"


def _none_to_adapt(bare: dict[str, nn.Module]) -> str:
    """What stands in the way of all layers that look as if they could be adapted."""
    names = " or ".join(kind.name for kind in KINDS)
    reasons = Counter(why_not(module) for module in bare.values() if _looks_linear(module))
    if not reasons:
        return f"the model has no {names} layer to adapt"
    ((reason, count),), number = reasons.most_common(1), reasons.total()
    often = "" if len(reasons) == 1 else f" ({count} of them)"
    return f"{number} of {number} {names} layers cannot be adapted: {reason}{often}"


def _looks_linear(module: nn.Module) -> bool:
    """Would a reader call it a linear layer? Quantised ones of other libraries are so by name."""
    return any("Linear" in cls.__name__ or cls.__name__ == "Conv1D" for cls in type(module).__mro__)


def require_kind(name: str, module: nn.Module) -> type[LayerKind]:
    """The kind of a layer that is about to be wrapped, or the reason why it cannot be."""
    if _trains_in_full(module):
        raise PerakitError(
            f"layer {name!r} trains in full with an adapter, and can carry none: leave it out of"
            " targets"
        )
    kind, reason = kind_of(module), why_not(module)
    if kind is None or reason:
        inside = [
            child for child, part in walk(module) if isinstance(part, AdaptedLayer) or kind_of(part)
        ]
        remedy = f"target its layers {', '.join(inside[:4])}" if inside and not kind else reason
        raise PerakitError(f"layer {name!r} ({type(module).__name__}) cannot be adapted: {remedy}")
    if hooked([module]):
        raise PerakitError(
            f"layer {name!r} has hooks, which its adapter would pass by: remove them, and hook the"
            " layer after attach"
        )
    if not name:
        raise PerakitError(
            f"the model is itself a {kind.name}, which cannot be replaced in place: wrap it in"
            " torch.nn.Sequential"
        )
    return kind


def _trains_in_full(module: nn.Module) -> bool:
    """Does an adapter have a copy of it? Then it is a stand-in, and no layer with factors."""
    return isinstance(module, StandIn) and not isinstance(module, AdaptedLayer)


def hooked(modules: Iterable[nn.Module]) -> bool:
    """Does any of these modules have a hook of its passes?"""
    return any(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        for module in modules
    )
