"""A method as `perakit.peft` writes it into PEFT's adapter_config.json, and reads it there."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from perakit.adapters import PERA, Method
from perakit.errors import PerakitError, listed, short

# peft_type -> where in a layer its adapters are
PLACES = {"PERA": "pera_adapters", "PERAKIT": "perakit_adapters"}
# PEFT's name -> that of pk.PERA; written out, where PERAKIT has the whole method in one field
OPTIONS = {
    "r": "rank",
    "alpha": "alpha",
    "terms": "terms",
    "degree": "degree",
    "feature_scale": "feature_scale",
    "scaling": "scaling",
    "dropout": "dropout",
    "init": "init",
}


def usual(config: Mapping[str, Any]) -> Method:
    """The method of a layer that no pattern of the configuration names."""
    if config["peft_type"] == "PERAKIT":
        return Method.from_dict(config.get("method"))
    if config.get("method") is not None:
        raise PerakitError(
            f"method={short(config['method'])} beside peft_type='PERA', which has its options one"
            " by one: remove it"
        )
    given = {OPTIONS[key]: config[key] for key in OPTIONS if key in config}
    return Method.from_dict({"method": PERA.name, "rank": 8, **given})


def configuration(methods: Mapping[str, Method]) -> dict[str, Any]:
    """peft_type, the method's fields, and patterns for the layers whose rank or alpha differs.

    methods: layer -> method. Raises PerakitError where they differ in more than that.
    """
    alphas = Counter(one.alpha for one in methods.values())
    common = replace(
        next(iter(methods.values())),
        rank=Counter(one.rank for one in methods.values()).most_common(1)[0][0],
        # A pattern can name a number, not None
        alpha=None if None in alphas else alphas.most_common(1)[0][0],
    )
    others = [
        layer
        for layer, method in methods.items()
        if type(method) is not type(common)
        or replace(method, rank=common.rank, alpha=common.alpha) != common
    ]
    if others:
        raise PerakitError(
            f"{listed(others)} differ from {common!r} in more than rank and alpha, which one"
            " configuration of PEFT cannot say: export the expanded update instead"
        )
    if not common.listed:
        raise PerakitError(
            f"{common!r} has no name that a file could find: export the expanded update instead"
        )
    patterns = {
        f"{name}_pattern": {
            f"^{re.escape(layer)}": getattr(one, name)
            for layer, one in methods.items()
            if getattr(one, name) != getattr(common, name)
        }
        for name in ("rank", "alpha")
    }
    plain = common.to_dict()
    if type(common) is PERA:
        told = {"peft_type": "PERA"} | {key: plain[name] for key, name in OPTIONS.items()}
    else:
        told = {"peft_type": "PERAKIT", "method": plain}
    return told | patterns


def methods_of(
    config: Mapping[str, Any],
    layers: Sequence[str],
    values: Callable[[Mapping[str, Any] | None, Sequence[str], Any], list[Any]],
) -> dict[str, Method]:
    """Layer -> method, by the configuration and its patterns.

    values: PEFT's rule, (pattern, layers, value where none fits) -> one value a layer.
    """
    method = usual(config)
    ranks = values(config.get("rank_pattern"), layers, method.rank)
    alphas = values(config.get("alpha_pattern"), layers, method.alpha)
    return {
        layer: replace(method, rank=rank, alpha=alpha)
        for layer, rank, alpha in zip(layers, ranks, alphas, strict=True)
    }
