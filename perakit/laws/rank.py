"""Law 11: the rank of ΔW is what the method says."""

from __future__ import annotations

import copy
from dataclasses import replace
from fractions import Fraction

import numpy as np
import torch
from torch import nn

from perakit import models
from perakit.adapters import Additive, Method
from perakit.laws.cases import adapted, adapted_layer, added
from perakit.laws.comparing import wide
from perakit.models.adapted import AdaptedLayer
from perakit.strategies import move
from perakit.theory.exact import exact_rank


def law_11_rank(method: Method, layer: nn.Module, seed: int = 0) -> None:
    """Law 11: rank(ΔW) <= method.rank_bound(m, n), and equal for generic factors.

    It need not be equal where ΔW reads a W0 that has a row or column of zeros.

    Exact for additive methods: integer parameters, the factors read as the rationals they are,
    elimination in Fractions. Without ΔW the bound is on the dimension of what is added to the
    outputs of many inputs, and equal to it.
    """
    # A scale of 1, which keeps whole numbers whole
    method = replace(method, alpha=None, scaling="standard")
    model = adapted(method, copy.deepcopy(layer).double(), seed)
    one, generator = adapted_layer(model), np.random.default_rng(seed)
    bound = method.rank_bound(*one.W0.shape)
    if isinstance(one.adapter, Additive):
        inner = one.adapter.factors()[0].shape[1]
        assert min(*one.W0.shape, inner) == bound, (
            f"law 11: {inner} rank-one terms, the bound says {bound}"
        )
    exact = isinstance(one.adapter, Additive) or not method.mergeable
    attained = exact or bool(one.W0.any(0).all() and one.W0.any(1).all())
    rank = 0
    # a draw may be degenerate (a zero, two equal entries); ten in a row are not
    for attempt in range(10):
        move(model, seed + attempt)
        rank = max(rank, _exact_rank(one, generator) if exact else _float_rank(model))
        assert rank <= bound, f"law 11: rank {rank} above the bound {bound}"
        if rank == bound or not attained:
            return
    raise AssertionError(
        f"law 11: rank {rank} in ten draws, generic factors should attain rank_bound, {bound}"
    )


def _float_rank(model: nn.Sequential) -> int:
    return int(torch.linalg.matrix_rank(models.delta_weights(model)["0"].double()))


def _exact_rank(layer: AdaptedLayer, generator: np.random.Generator) -> int:
    """The rank of an update of random whole parameters, as an exact product."""
    adapter = layer.adapter
    for parameter in adapter.parameters():
        parameter.data.copy_(torch.as_tensor(generator.integers(-31, 32, parameter.shape)))
    # A rounded product may have a higher rank
    if isinstance(adapter, Additive):
        rational = np.vectorize(Fraction, otypes=[object])
        B_hat, A_hat = (rational(wide(factor)) for factor in adapter.factors())
        return exact_rank(B_hat @ A_hat)
    x = torch.as_tensor(generator.integers(-9, 10, (24, layer.W0.shape[1]))).to(layer.W0)
    return exact_rank(wide(added(adapter, x, layer.W0)))  # whole numbers, far below 2^53
