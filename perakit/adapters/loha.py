"""LoHa, the Hadamard product of two low-rank updates, arXiv 2108.06098."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from perakit import formulas
from perakit.adapters.base import Additive, Method


class LoHaAdapter(Additive):
    rule = staticmethod(formulas.khatri_rao)
    linear = False

    A1: nn.Parameter
    B1: nn.Parameter
    A2: nn.Parameter
    B2: nn.Parameter

    def arguments(self) -> tuple[Any, ...]:
        return self.B1, self.A1, self.B2, self.A2

    @torch.no_grad()
    def reset(self, W0: Tensor) -> None:
        """B2 zero ("zero_B") or A2 ("zero_A", as PEFT), the other three Kaiming-uniform, as PEFT.

        That is in ±1/√n for A and ±1/√r for B.
        """
        for factor in (self.B1, self.A1, self.B2, self.A2):
            nn.init.kaiming_uniform_(factor, a=5**0.5)
        (self.B2 if self.method.init == "zero_B" else self.A2).zero_()


@dataclass(frozen=True)
class LoHa(Method):
    """Two LoRA updates multiplied entry by entry: ΔW = s (B1 A1)∘(B2 A2), B (m, r) and A (r, n).

    Arguments as in `Method`; 2r(m+n) trainable parameters a layer, and rank up to r² (LoRA of rank
    2r has as many, and rank 2r). init: "zero_B" starts B2 at zero, "zero_A" A2. Unmerged, a token
    costs r²(m+n) multiply-adds. Rule: `formulas.loha`.

    >>> LoHa(rank=8).count(768, 768), LoHa(rank=8).rank_bound(768, 768)
    (24576, 64)
    """

    name = "loha"
    adapter = LoHaAdapter

    def shapes(self, m: int, n: int) -> dict[str, tuple[int, ...]]:
        return {
            "A1": (self.rank, n),
            "B1": (m, self.rank),
            "A2": (self.rank, n),
            "B2": (m, self.rank),
        }

    def rank_bound(self, m: int, n: int) -> int:
        return min(m, n, self.rank**2)

    def update(self, W0: Any, **factors: Any) -> Any:
        return self.scale * formulas.loha(**factors)
