"""PERA, Polynomial Expansion Rank Adaptation, arXiv 2604.11841."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from perakit import formulas
from perakit.adapters import windows
from perakit.adapters.base import Additive, Method, check_positive
from perakit.adapters.product import Expansion, Factors, Kept


@dataclass(eq=False)
class _Expand:
    """The rule that makes PERA's factors of B, A and h, the feature scale included.

    index: `formulas.monomials`; circle: that of `windows`, for products of two; None beyond them.
    """

    method: PERA
    index: formulas.Index
    circle: Tensor | None

    @property
    def settings(self) -> object:
        return self.method

    def __call__(self, *parameters: Tensor) -> tuple[Tensor, Tensor]:
        B, A, h = parameters
        method = self.method
        B_hat, A_hat = formulas.expand(B, A, h, method.terms, method.degree, self.index)
        return _times(method.scale, B_hat), A_hat

    def value(self, *parameters: Tensor) -> Factors:
        # a compiler finds out by itself what is fast
        if self.circle is None or torch.compiler.is_compiling():
            return Factors(*self(*parameters))
        B, A, h = parameters
        (m, r), n = B.shape, A.shape[1]
        room, features = windows.expand(B, A, self.method.terms)
        left, right = features.split_with_sizes((m, n), 1)
        again = features.shape[0] - r - h.shape[0]  # what is there already has no weight
        weight = torch.cat((h.new_ones(r), h.index_select(0, self.circle), h.new_zeros(again)))
        return Factors(left.T, right, _times(self.method.scale, weight), room)

    def shape(self, *parameters: Tensor) -> tuple[int, int]:
        B, _, h = parameters
        return B.shape[0], B.shape[1] + h.shape[0]

    def gradients(
        self,
        parameters: Sequence[Tensor],
        factors: Factors,
        to_left: Tensor,
        to_right: Tensor,
        to_weight: Tensor | None,
    ) -> tuple[Tensor, ...]:
        (B, A, h), method, room = parameters, self.method, factors.made_of
        if room is None or to_weight is None or self.circle is None:
            return formulas.expand_gradients(
                B,
                A,
                h,
                _times(method.scale, to_left.T),
                to_right,
                method.terms,
                method.degree,
                self.index,
            )
        if to_right is not factors.A_hat:  # they are not written over the features yet
            factors.B_hat.T.copy_(to_left)
            factors.A_hat.copy_(to_right)
        m, r = B.shape
        to_h = torch.empty_like(h).index_copy_(
            0, self.circle, _times(method.scale, to_weight[r : r + h.shape[0]])
        )
        return *windows.gradients(room, r, m, method.terms), to_h


def _times(factor: float, X: Tensor) -> Tensor:
    """factor X; X itself where the factor is 1, its default, since a copy takes time and memory."""
    return X if factor == 1 else factor * X


class PERAAdapter(Additive):
    h: nn.Parameter
    circle: Tensor | None

    def __init__(self, method: PERA, W0: Tensor) -> None:
        super().__init__(method, W0)
        for block in formulas.monomials(method.rank, method.terms, method.degree):
            self.register_buffer(
                f"index_{len(block)}", torch.as_tensor(block, device=W0.device), persistent=False
            )
        circle = (
            torch.as_tensor(windows.circle(method.rank, method.terms), device=W0.device)
            if method.degree == 2
            else None
        )
        self.register_buffer("circle", circle, persistent=False)
        self.kept = Kept()

    def product(self, W0: Tensor) -> Sequence[Tensor]:
        # a subclass may give others
        return self.expansion() if type(self).factors is PERAAdapter.factors else self.factors()

    def expansion(self) -> Expansion:
        """B_hat and A_hat, not yet made."""
        index = [getattr(self, f"index_{d}") for d in range(2, self.method.degree + 1)]
        kept, h = None if self.training else self.kept, _times(self.method.feature_scale, self.h)
        return Expansion(_Expand(self.method, index, self.circle), self.B, self.A, h, kept=kept)

    def train(self, mode: bool = True) -> PERAAdapter:
        self.kept.clear()
        return super().train(mode)

    def factors(self) -> tuple[Tensor, Tensor]:
        B_hat, A_hat = self.expansion()
        return B_hat, A_hat

    def reset(self, W0: Tensor) -> None:
        super().reset(W0)
        nn.init.zeros_(self.h)


@dataclass(frozen=True)
class PERA(Method):
    """Polynomial expansion of LoRA's factors: ΔW = s (B A + Σ_{i<=j} h_ij (b_i∘b_j)(a_i∘a_j)ᵀ).

    Polynomial in the parameters, linear in the input: ΔW is a fixed matrix of rank up to K =
    r(r+3)/2.
    terms: "full", "square" (i = j) or "cross" (i < j); degree: highest degree of a product, 2 in
    the paper;
    feature_scale: constant factor of the polynomial part, 1 in the paper (at 1 that part can be
    nearly inert: watch `perakit.theory.order_share`); the other arguments as in `Method`. h starts
    at zero and is trained: r(m+n) + r(r+1)/2 parameters a layer. Rule: `formulas.pera`.
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
