"""DeLoRA, decoupled low-rank adaptation, arXiv 2503.18225."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from perakit import formulas
from perakit.adapters.base import Adapter, Method, at_least_float32, check_positive, start_factors


class DeLoRAAdapter(Adapter):
    A: nn.Parameter
    B: nn.Parameter
    lam: nn.Parameter

    def product(self, W0: Tensor) -> Sequence[Tensor]:
        wide = W0.to(at_least_float32(W0.dtype))
        B_hat, A_hat = formulas.normalise(wide, self.B, self.A, self.lam)
        return self.method.scale * B_hat, A_hat

    def delta(self, W0: Tensor) -> Tensor:
        B_hat, A_hat = self.product(W0)
        return B_hat @ A_hat

    def reset(self, W0: Tensor) -> None:
        start_factors(self.method, self.B, self.A)
        nn.init.constant_(self.lam, self.method.lam)


@dataclass(frozen=True)
class DeLoRA(Method):
    """Directions and strength apart: ΔW = s Σ_i (λ/r) (b_i/‖b_i‖)(a_i/‖a_i‖)ᵀ diag(‖W0‖_col).

    lam: where λ, which is trained, starts: 15 as in PEFT, the one number that decides how large ΔW
    can be. The other arguments as in `Method` (alpha multiplies once more; scale 1 as published).
    r(m+n) + 1 trainable parameters a layer, λ named `lam`. Each of the r terms has a Frobenius norm
    of at most s λ/r times the longest column of W0, however large b_i and a_i grow. Lengths below
    1e-4 count as 1e-4, so ΔW is zero, and moves, at b_i = 0: there it is 1e4/‖a_i‖ times as steep
    as LoRA's, which asks for small first steps. Lengths of W0's columns are read from W0, not kept.
    Rule: `formulas.delora`.

    >>> DeLoRA(rank=8).count(768, 768)
    12289
    """

    name = "delora"
    adapter = DeLoRAAdapter

    lam: float = 15.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("lam", self.lam, "at which the strength λ starts")

    def shapes(self, m: int, n: int) -> dict[str, tuple[int, ...]]:
        return super().shapes(m, n) | {"lam": (1,)}

    def update(self, W0: Any, **factors: Any) -> Any:
        return self.scale * formulas.delora(W0, **factors)
