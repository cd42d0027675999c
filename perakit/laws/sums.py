"""The law of sums: adapters that are active together do not know of one another."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import nn

from perakit import models
from perakit.adapters import LoRA, Method
from perakit.laws.cases import SUMS, adapted_layer, inputs, merge, scaled, weight
from perakit.laws.comparing import TOLERANCE, close, wide
from perakit.laws.dense import dense, dense_base
from perakit.laws.oracles import Formula
from perakit.strategies import move


def law_sum(
    method: Method, layer: nn.Module, seed: int = 0, formula: Formula | None = None
) -> None:
    """Beside a LoRA, in either order: the output is W0 x + b and the two updates.

    Each update is as if alone. Merged, the output is the same.
    """
    both: dict[str, Method] = {"a": LoRA(rank=2, alpha=6), "b": scaled(method)}
    model = nn.Sequential(copy.deepcopy(layer)).eval()
    x, alone = inputs(layer, seed), list[tuple[np.ndarray, np.ndarray]]()
    for name, one in both.items():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            models.attach(model, one, ["0"], name=name)
        move(model, seed + len(alone))  # the one attached last is the active one
        alone.append(dense(model, x, formula if name == "b" else None))
    (one_y, one_scale), (other_y, other_scale) = alone
    base, bare = dense_base(adapted_layer(model), x)
    # Both outputs have the base in them, so one base too many
    expected, scale = one_y + other_y - base, one_scale + other_scale - bare
    tolerance = TOLERANCE[weight(layer).dtype]
    for order in (("a", "b"), ("b", "a")):
        models.activate(model, *order)
        law = f"sum, {' + '.join(both[name].name for name in order)}"
        close(wide(model(x)), expected, scale, tolerance, f"{law} {SUMS}")
        if method.mergeable:
            merge(model)
            close(wide(model(x)), expected, scale, tolerance, f"{law}, merged")
            models.unmerge(model)
