"""The adapted forward pass: the one place that decides in which order the matrices are multiplied."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor


def adapted_linear(x: Tensor, W0: Tensor, bias: Tensor | None, factors: Sequence[Tensor], dropped: Tensor | None = None) -> Tensor:
    """y = W0 x + b + ΔW x, with ΔW given as a product of matrices and never added to W0.

    x (..., n); W0 (m, n); bias (m,) or None, used once, in the base; factors: (B_hat (m, K), A_hat (K, n)), or
    (ΔW,); dropped: x after dropout, which only the update sees (None: x itself).
    The update is computed in the factors' precision and rounded once: returns (..., m) in the base's dtype.
    """
    base = F.linear(x, W0, bias)  # (..., n) @ (n, m) -> (..., m)
    update = (x if dropped is None else dropped).to(factors[-1].dtype)
    for factor in reversed(factors):  # (..., n) @ (n, K) -> (..., K), then (..., K) @ (K, m) -> (..., m)
        update = F.linear(update, factor)
    return (base + update).to(base.dtype)
