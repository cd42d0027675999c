"""The adapted forward pass: the one place that decides in which order the matrices are multiplied."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch.nn.functional as F
from torch import Tensor

Product = Callable[[Tensor, Tensor, Tensor | None], Tensor]  # (x, W0, bias) -> W0 x + b


def adapted_linear(
    x: Tensor,
    W0: Tensor,
    bias: Tensor | None,
    factors: Sequence[Tensor],
    dropped: Tensor | None = None,
    linear: Product = F.linear,
    others: Sequence[Tensor] = (),
) -> Tensor:
    """y = W0 x + b + ΔW x, with ΔW given as a product of matrices and never added to W0.

    x (..., n); W0 (m, n); bias (m,) or None, used once, in the base; factors: (B_hat (m, K), A_hat (K, n)), or
    (ΔW,); dropped: x after dropout, which only the update sees (None: x itself); linear: how the base multiplies, for
    one that keeps fewer bits than W0 has; others: the updates (..., m) of further adapters.
    The updates are computed in the factors' precision and rounded once: returns (..., m) in the base's dtype.
    """
    return add_updates(linear(x, W0, bias), chain(x if dropped is None else dropped, factors), *others)


def chain(x: Tensor, factors: Sequence[Tensor]) -> Tensor:
    """The product of `factors` with x (..., n), in the factors' precision: (..., m)."""
    x = x.to(factors[-1].dtype)
    for factor in reversed(factors):  # (..., n) @ (n, K) -> (..., K), then (..., K) @ (K, m) -> (..., m)
        x = F.linear(x, factor)
    return x


def add_updates(base: Tensor, *updates: Tensor) -> Tensor:
    """The base's output and all updates (..., m), summed in the updates' precision and rounded once to the base's dtype."""
    total = updates[0]
    for update in updates[1:]:
        total = total + update
    return (base + total).to(base.dtype)
