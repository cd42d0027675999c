"""Law 3: the forward pass is the dense formula, with the scale that the method says."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from perakit import models
from perakit.adapters import Method
from perakit.laws.cases import ADDS, adapted, adapted_layer, added, inputs, scaled
from perakit.laws.comparing import close, same_bits, wide
from perakit.laws.dense import check_dense
from perakit.laws.oracles import Formula
from perakit.strategies import move


def law_3_dense_forward(
    method: Method, layer: nn.Module, seed: int = 0, formula: Formula | None = None
) -> None:
    """Law 3: the forward pass is (W0 + ΔW) x + b in float64.

    An oracle makes ΔW from the raw parameters. The output follows the parameters: after they
    change, nothing that an earlier pass without gradients computed is left.
    """
    method = scaled(method)
    model = adapted(method, layer, seed)
    check_dense(model, seed, formula, "law 3, forward = dense formula")
    # Such a method must be so: what it adds for a sum of inputs is not the sum of what it adds
    if not method.mergeable:
        _check_not_linear(adapted(method, copy.deepcopy(layer).double(), seed), seed)
    fresh = adapted(method, layer, seed)
    move(fresh, seed + 1)
    _check_nothing_kept(model, fresh, seed)


def law_3_scale(method: Method, layer: nn.Module, seed: int = 0) -> None:
    """Law 3, its scale: alpha three times as large, ΔW three times as large.

    Without ΔW, what is added. Not of a method that says `proportional = False`.
    """
    # DoRA normalises after it scales
    if not method.proportional:
        return
    wider = copy.deepcopy(layer).double()
    once = adapted(replace(method, alpha=float(method.rank)), wider, seed)
    thrice = adapted(replace(method, alpha=3.0 * method.rank), wider, seed)
    W0 = adapted_layer(once).W0
    if method.mergeable:
        what, place = "ΔW", "factors() or delta()"
        one, three = (wide(models.delta_weights(model)["0"]) for model in (once, thrice))
    else:
        what, place, x = "the update", ADDS, inputs(wider, seed)
        one, three = (wide(added(adapted_layer(model).adapter, x, W0)) for model in (once, thrice))
    law = (
        f"law 3, {what} is proportional to method.scale (is the scale in {place}; or is"
        " proportional = False meant?)"
    )
    # W0 is in the scale since the terms of ΔW may cancel, all but their rounding
    close(three, 3 * one, np.abs(three).max() + np.abs(wide(W0)).max(), 1e-12, law)


@torch.no_grad()
def _check_nothing_kept(model: nn.Sequential, fresh: nn.Sequential, seed: int) -> None:
    """The model, once it has the parameters of `fresh`, answers as `fresh` does, to the bit.

    Without gradients, since that is where an adapter may keep what it computed.
    """
    mergeable, x = adapted_layer(model).adapter.method.mergeable, inputs(model[0], seed)
    for _ in range(2):  # computed before the parameters change; and after
        y, delta = model(x), models.delta_weights(model)["0"] if mergeable else None
        move(model, seed + 1)
    changed = "after the parameters have changed (is something cached?)"
    same_bits(y, fresh(x), f"law 3, the output {changed}")
    if delta is not None:
        same_bits(delta, models.delta_weights(fresh)["0"], f"law 3, ΔW {changed}")


def _check_not_linear(model: nn.Sequential, seed: int) -> None:
    """f(x + y) is not f(x) + f(y), in float64: what is linear is a matrix, and can be merged.

    Not f(2x) alone: a ReLU between two factors passes a factor 2 on, and is no matrix.
    """
    layer = adapted_layer(model)
    x, y = (inputs(layer, seed + k, (64,)) for k in (0, 1))
    one, other, both = (added(layer.adapter, z, layer.W0).detach() for z in (x, y, x + y))
    apart = (both - one - other).abs().max()
    assert apart > 1e-9 * both.abs().max(), (
        "law 3: mergeable = False, but the update is linear in the input: give delta(W0), and merge"
    )
