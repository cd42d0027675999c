"""LoRA, arXiv 2106.09685."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from perakit import formulas
from perakit.adapters.base import Additive, Method


class LoRAAdapter(Additive):
    def factors(self) -> tuple[Tensor, Tensor]:
        return self.method.scale * self.B, self.A


@dataclass(frozen=True)
class LoRA(Method):
    """Low-rank adaptation: ΔW = s B A, s = α/r (or α/√r), with B (m, r) and A (r, n).

    Arguments as in `Method`; r(m+n) trainable parameters a layer. Rule: `formulas.lora`.

    >>> LoRA(rank=8, alpha=16).scale, LoRA(rank=8).count(768, 768)
    (2.0, 12288)
    """

    name = "lora"
    adapter = LoRAAdapter

    # Declared again so that LoRA, which has no options of its own, takes them by position too.
    scaling: str = "standard"
    dropout: float = 0.0
    init: str = "zero_B"

    def update(self, W0: Any, **factors: Any) -> Any:
        return self.scale * formulas.lora(**factors)
