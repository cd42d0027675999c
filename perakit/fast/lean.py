"""The adapted product by the fewest calls, where calls take longer than arithmetic.

That is so on a GPU for all but the largest layers, and on a CPU for the smallest. Everything is
factored. Factors that are parameters need no function of ours: torch's own is the quickest.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from perakit.fast import gathered
from perakit.fast.expanded import Expanded
from perakit.fast.gathered import Index
from perakit.fast.product import autocasts, batched, by_autograd


def by_graph(
    x: Tensor, W0: Tensor, bias: Tensor | None, scale: float, B: Tensor, A: Tensor
) -> Tensor:
    """x W0ᵀ + b + scale x Aᵀ Bᵀ (T, m), as precise as x (T, n) is; autograd differentiates it."""
    if A.dtype != x.dtype:
        B, A = B.to(x.dtype), A.to(x.dtype)
    return F.linear(x, W0, bias).addmm_(x.mm(A.T), B.T, alpha=scale)


class LeanProduct(torch.autograd.Function):
    """x (T, n) -> x W0ᵀ + b + x ΔWᵀ (T, m), of PERA's ΔW; W0 and b do not train.

    Products with x are as precise as x; the expansion and its gradient as the parameters are. Keeps
    x, the parameters, z = x Âᵀ (T, K) and, if asked to, what was expanded.
    """

    @staticmethod
    def forward(
        ctx: Any,
        source: Expanded,
        keep: bool,
        x: Tensor,
        W0: Tensor,
        bias: Tensor | None,
        B: Tensor,
        A: Tensor,
        h: Tensor,
    ) -> Tensor:
        index = gathered.index(x.device, A.dtype, A.shape[0], source.terms)
        features, weight = made = expanded(source, x.dtype, B, A, h, index)
        left, right = features.split_with_sizes(W0.shape, 1)  # (K, m), (K, n)
        z = F.linear(x, right)
        ctx.source, ctx.index = source, index
        ctx.save_for_backward(z, x, W0, bias, B, A, h, *(made if keep else ()))
        return F.linear(x, W0, bias).addmm_(z * weight, left)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        if autocasts(g):  # now, and not in the forward pass
            with torch.autocast(g.device.type, enabled=False):
                return LeanProduct.backward(ctx, g)
        z, x, W0, bias, B, A, h, *made = ctx.saved_tensors
        source, needs = ctx.source, ctx.needs_input_grad
        if torch.is_grad_enabled() or batched(g):
            return None, None, *by_autograd(source, needs[2:], g, x, W0, bias, B, A, h)
        features, weight = made or expanded(source, x.dtype, B, A, h, ctx.index)
        (m, n), r, g = W0.shape, A.shape[0], g.contiguous()
        left, right = features.split_with_sizes((m, n), 1)
        u = F.linear(g, left)
        weighted = u * weight
        to_x = g.mm(W0).addmm_(weighted, right) if needs[2] else None
        to_features = torch.cat(((z * weight).T.mm(g), weighted.T.mm(x)), 1)
        to_h = (z * u).sum(0)[r:]
        if source.scale != 1:
            to_h = source.scale * to_h
        rows = features[:r] if x.dtype == A.dtype else torch.cat((B.T, A), 1)
        to_features = to_features.to(A.dtype)
        to_B, to_A = gathered.gradients(rows, to_features, m, source.terms, ctx.index)
        return None, None, to_x, None, None, to_B, to_A, to_h


def expanded(
    source: Expanded, dtype: torch.dtype, B: Tensor, A: Tensor, h: Tensor, index: Index
) -> tuple[Tensor, Tensor]:
    """The features (K, m+n) and their weights (K,), in `dtype`."""
    features, weight = gathered.features(B, A, index), torch.cat((index.ones, h))
    if source.scale != 1:
        weight = source.scale * weight
    return (features, weight) if A.dtype == dtype else (features.to(dtype), weight.to(dtype))
