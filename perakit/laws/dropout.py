"""The law of dropout: it drops inputs of the update, never of the base."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import Tensor, nn

from perakit import models
from perakit.adapters import Method
from perakit.laws.cases import adapted, adapted_layer
from perakit.laws.comparing import same_bits

P = 0.5  # the chance that an input is dropped


def law_dropout(method: Method, layer: nn.Module, seed: int = 0) -> None:
    """Dropout drops inputs of the update only, and only in training.

    In training y = W0 x + b + ΔW z, z being x with entries zeroed and the others divided by 1 - p.
    At ΔW = 0 nothing of it is seen.
    """
    method, wider = replace(method, dropout=P), copy.deepcopy(layer).double()
    model, start = adapted(method, wider, seed), adapted(method, wider, seed, start=True)
    # The identity as input, 40 times: a row has one entry that can be dropped, so its output is
    # W0 x + b and either nothing or the whole update of x / (1 - p).
    # (40 n, n): that all are kept has chance 2^-40 at n = 1
    W0 = adapted_layer(model).W0
    x = torch.eye(W0.shape[1]).to(W0).repeat(40, 1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        same_bits(start.train()(x), start.eval()(x), "dropout: the base sees dropped inputs")
        kept_all, dropped = model.eval()(x / (1 - P)), model.train()(x)
    with models.disabled(model):
        base, update = model(x), (kept_all - model(x / (1 - P))).detach()
    _check_all_or_nothing(dropped - base, update)


def _check_all_or_nothing(seen: Tensor, update: Tensor) -> None:
    """Each row of `seen` is that of `update`, or zero; and there are rows of both sorts."""
    moved = update.any(1)  # not where W0 has a column of zeros, and the update its pattern
    if not moved.any():
        return  # law 2 asks for an update
    seen, update = seen[moved], update[moved]
    factor = (seen * update).sum(1) / update.square().sum(1)  # 0 or 1
    close = torch.isclose(factor, factor.round().clamp(0, 1), rtol=0, atol=1e-8)
    assert close.all(), (
        f"dropout: shares of the update at x / (1 - p) are {factor.unique().tolist()}, not 0 or 1"
    )
    assert 0 < factor.round().count_nonzero() < len(factor), (
        "dropout: in training nothing, or everything, is dropped"
    )
