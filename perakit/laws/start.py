"""Laws 1 and 2: an adapter starts as nothing, and then it is something."""

from __future__ import annotations

import torch
from torch import nn

from perakit import models
from perakit.adapters import Method
from perakit.laws.cases import INPUTS, adapted, adapted_layer, inputs, merge, weight
from perakit.laws.comparing import same_bits


def law_1_no_op_at_init(method: Method, layer: nn.Module, seed: int = 0) -> None:
    """Law 1: a new adapter changes nothing, exactly.

    Attached and not yet trained, it changes no bit of the output, in training or out of it. ΔW is
    exactly zero, and merging leaves the bits of W0.

    >>> from perakit import LoRA
    >>> from perakit.strategies import make_layer
    >>> law_1_no_op_at_init(LoRA(rank=2), make_layer("Linear", 5, 3))  # it holds: nothing is said
    """
    model = adapted(method, layer, seed, start=True)
    said = "law 1, no-op at init (is ΔW zero after reset(), is anything else added in forward()?)"
    for training in (False, True):
        model.train(training)
        for leading in INPUTS:
            x = inputs(layer, seed, leading)
            same_bits(model(x), layer(x), said)
    if method.mergeable:
        assert not models.delta_weights(model)["0"].any(), "law 1: ΔW is not zero at the start"
        merge(model)
        merged = adapted_layer(model).merged
        assert merged is not None, "law 1: merge merged nothing"
        same_bits(merged, weight(layer), "law 1, no-op at init, merged")


def law_2_differs(method: Method, layer: nn.Module, seed: int = 0) -> None:
    """Law 2: once the factors differ from their start, so does the output.

    On a layer with a single row or column in one of nine draws at least: there a vector may be no
    more than its sign, and terms of one size and opposite signs cancel (DeLoRA, 1 x 1). On any
    other layer in the first draw.
    """
    # 64 inputs: on one alone a small update may round away in half precision
    x, said = inputs(layer, seed, (64,)), ""
    for draw in range(seed, seed + (9 if 1 in weight(layer).shape else 1)):
        model = adapted(method, layer, draw)
        if method.mergeable and not models.delta_weights(model)["0"].any():
            said = "law 2: ΔW is zero though no factor is"
        elif torch.equal(model(x), layer(x)):
            said = "law 2: the adapter has no effect on the output"
        else:
            return
    raise AssertionError(said)
