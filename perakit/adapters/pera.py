"""PERA, Polynomial Expansion Rank Adaptation, arXiv 2604.11841."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from perakit import formulas
from perakit.adapters.base import Additive, Method, check_positive


class PERAAdapter(Additive):
    rule = staticmethod(formulas.expand)  # Poly(B) (m, K) and Poly_H(A) (K, n), Eq. 2-5

    h: nn.Parameter

    def arguments(self) -> tuple[Any, ...]:
        method, h = self.method, self.h
        if method.feature_scale != 1:
            h = method.feature_scale * h
        return self.B, self.A, h, method.terms, method.degree

    def reset(self, W0: Tensor) -> None:
        super().reset(W0)
        nn.init.zeros_(self.h)


@dataclass(frozen=True)
class PERA(Method):
    """Polynomial expansion of LoRA's factors: ΔW = s (B A + Σ_{i<=j} h_ij (b_i∘b_j)(a_i∘a_j)ᵀ).

    Polynomial in the parameters, linear in the input: ΔW is one matrix, of rank up to r(r+3)/2.
    terms: "full", "square" (i = j) or "cross" (i < j).
    degree: highest degree of a product, 2 in the paper.
    feature_scale: constant factor of the polynomial part, 1 in the paper; at 1 that part can be
    nearly inert: watch `perakit.theory.order_share`.
    The other arguments are those of `Method`. h starts at zero and is trained: r(m+n) + r(r+1)/2
    parameters a layer. Rule: `formulas.pera`.

    >>> method = PERA(rank=8)
    >>> method.count(768, 768), method.rank_bound(768, 768)  # parameters, and K
    (12324, 44)
    """

    name = "pera"
    adapter = PERAAdapter

    terms: str = "full"
    degree: int = 2
    feature_scale: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        formulas.rank_bound(self.rank, self.terms, self.degree)  # refuses unknown terms and degrees
        check_positive("feature_scale", self.feature_scale, "(for no polynomial part, use LoRA)")

    def shapes(self, m: int, n: int) -> dict[str, tuple[int, ...]]:
        products = formulas.rank_bound(self.rank, self.terms, self.degree) - self.rank
        return super().shapes(m, n) | {"h": (products,)}

    def rank_bound(self, m: int, n: int) -> int:
        return min(m, n, formulas.rank_bound(self.rank, self.terms, self.degree))

    def update(self, W0: Any, **factors: Any) -> Any:
        h = self.feature_scale * factors.pop("h")
        return self.scale * formulas.pera(**factors, h=h, terms=self.terms, degree=self.degree)
