"""HiRA, Hadamard high-rank adaptation, ICLR 2025."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from perakit import formulas
from perakit.adapters.base import Adapter, Method, start_factors


class HiRAAdapter(Adapter):
    A: nn.Parameter
    B: nn.Parameter

    def reset(self, W0: Tensor) -> None:
        start_factors(self.method, self.B, self.A)


@dataclass(frozen=True)
class HiRA(Method):
    """The update takes the pattern of the weight: ΔW = s W0∘(B A), with B (m, r) and A (r, n).

    Arguments as in `Method`; r(m+n) trainable parameters a layer. Published without a scale, which
    is s = 1, alpha's default. Its rank reaches min(m, n) already at r = 1 where W0 has that rank.
    Where W0 is zero, or small, so is ΔW: a weight that is zero stays zero. Rule: `formulas.hira`.

    >>> HiRA(rank=8).count(768, 768), HiRA(rank=8).rank_bound(768, 768)
    (12288, 768)
    """

    name = "hira"
    adapter = HiRAAdapter

    def rank_bound(self, m: int, n: int) -> int:
        """min(m, n): the bound rank(W0) r is no smaller for a W0 of full rank."""
        return min(m, n)

    def update(self, W0: Any, **factors: Any) -> Any:
        return self.scale * formulas.hira(W0, **factors)
