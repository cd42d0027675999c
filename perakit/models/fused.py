"""Targets that name parts of a fused layer: "c_attn[q,v]" are the rows of q and of v in it."""

from __future__ import annotations

import re
from collections.abc import Iterable

from torch import nn

from perakit.adapters import Method
from perakit.errors import PerakitError, short
from perakit.models.adapted import plain, walk
from perakit.models.layers import kind_of
from perakit.models.parts import NAMES, Parts
from perakit.models.targets import DEFAULT, Targets, select

TARGET = re.compile(r"(?P<name>[^\[\]]+)\[(?P<parts>[^\[\]]*)\]")
FUSED = "c_attn"  # the name of the layer whose rows are q, k and v, in GPT-2


def split(text: str) -> list[str]:
    """Targets that are written in one line: the commas within brackets are none between them.

    >>> from perakit.models.fused import split
    >>> split("c_attn[q,v],mlp.c_proj")
    ['c_attn[q,v]', 'mlp.c_proj']
    """
    return re.split(r",(?![^\[]*\])", text)


def methods(
    model: nn.Module, method: Method, targets: Targets, adapter: str | None = DEFAULT
) -> dict[str, Method]:
    """Layer -> the method on it, for the layers that `targets` means, as in `select`.

    A target of a list may end in parts, as in ["c_attn[q,v]", "mlp.c_proj"].
    """
    if isinstance(targets, str) or not isinstance(targets, Iterable):
        return dict.fromkeys(select(model, targets, adapter), method)
    whole, found = list(targets), dict[str, Method]()
    named = [match for one in whole if isinstance(one, str) and (match := TARGET.fullmatch(one))]
    for match in named:
        whole.remove(match[0])
        parts = [part.strip() for part in match["parts"].split(",")]
        wanted = [part for part in NAMES if part in parts]
        if sorted(parts) != sorted(wanted):
            raise PerakitError(
                f"target {short(match[0])} names parts that no layer has: write"
                f" {match['name'][:40]}[{','.join(NAMES)}] or fewer of them"
            )
        for layer in select(model, [match["name"]], adapter):
            _check_fused(model, layer, match[0])
            _once(layer, found, match[0])
            found[layer] = Parts.on(method, wanted)
    for layer in select(model, whole, adapter) if whole or not named else []:
        _once(layer, found, "the whole layer")
        found[layer] = method
    return {layer: found[layer] for layer, _ in walk(model) if layer in found}


def _check_fused(model: nn.Module, layer: str, target: str) -> None:
    """Refuse a layer whose rows are not known to be q, k and v."""
    base = plain(dict(walk(model))[layer])
    kind = kind_of(base)
    assert kind is not None
    m, n = kind.shape(base)
    if layer.rpartition(".")[2] != FUSED or m != len(NAMES) * n:
        raise PerakitError(
            f"target {short(target)}: layer {layer!r}, {m} x {n}, is not known to be q, k and v"
            f" above one another, as GPT-2's {FUSED} is: target it whole"
        )


def _once(layer: str, found: dict[str, Method], target: str) -> None:
    if layer in found:
        raise PerakitError(
            f"targets mean layer {layer!r} twice, once as {target}: name it once, with all its"
            " parts"
        )
