"""PERA's factors, and back: the rule is `formulas.expand`, with h left apart where that is quicker.

Three ways to make the products: `windows` copies little, `gathered` calls little, and `rows` makes
those of any degree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from perakit import formulas
from perakit.fast import gathered, rows, windows
from perakit.fast.sources import Factors


@dataclass(frozen=True)
class Expanded:
    """The factors of `formulas.expand`, times `scale`, of the parameters B, A and h.

    keep: as in `Source`, for `Gathered` alone.
    """

    scale: float
    terms: str = "full"
    degree: int = 2
    keep: bool = field(default=False, compare=False)

    def plain(self, *parameters: Tensor) -> tuple[Tensor, Tensor]:
        B, A, h = parameters
        B_hat, A_hat = formulas.expand(B, A, h, self.terms, self.degree)
        return self.scale * B_hat, A_hat

    def value(self, *parameters: Tensor) -> Factors:
        B, A, h = parameters
        # Products of two; and a compiler finds out by itself what is fast
        if self.degree > 2 or torch.compiler.is_compiling():
            B_hat, A_hat = rows.factors(B, A, h, self.terms, self.degree)
            return Factors(self.scale * B_hat, A_hat)
        (m, r), n = B.shape, A.shape[1]
        room, made = windows.features(B, A, self.terms)
        order = windows.order(h.device, r, self.terms)
        again = made.shape[0] - r - h.shape[0]  # pairs that are there already have no weight
        weight = torch.cat((h.new_ones(r), h.index_select(0, order), h.new_zeros(again)))
        if self.scale != 1:
            weight = self.scale * weight
        left, right = made.split_with_sizes((m, n), 1)
        return Factors(left.T, right, weight, room)

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
        B, A, h = parameters
        room, (m, r) = factors.room, B.shape
        if room is None or to_weight is None:
            to_B_hat = self.scale * to_left.T
            return rows.gradients(B, A, h, to_B_hat, to_right, self.terms, self.degree)
        if to_right is not factors.A_hat:  # they are not written over the features yet
            factors.B_hat.T.copy_(to_left)
            factors.A_hat.copy_(to_right)
        order = windows.order(h.device, r, self.terms)
        by_place = self.scale * to_weight[r : r + h.shape[0]]
        to_h = torch.empty_like(h).index_copy_(0, order, by_place)
        return *windows.gradients(room, r, m, self.terms), to_h


@dataclass(frozen=True)
class Gathered(Expanded):
    """The same by `gathered`, for products of two: for a GPU, and for the lean way."""

    def value(self, *parameters: Tensor) -> Factors:
        B, A, h = parameters
        index = gathered.index(A.device, A.dtype, A.shape[0], self.terms)
        made, weight = gathered.features(B, A, index), torch.cat((index.ones, h))
        if self.scale != 1:
            weight = self.scale * weight
        left, right = made.split_with_sizes((B.shape[0], A.shape[1]), 1)
        return Factors(left.T, right, weight)

    def gradients(
        self,
        parameters: Sequence[Tensor],
        factors: Factors,
        to_left: Tensor,
        to_right: Tensor,
        to_weight: Tensor | None,
    ) -> tuple[Tensor, ...]:
        B, A, _ = parameters
        assert to_weight is not None
        r, rows = A.shape[0], torch.cat((B.T, A), 1)  # the gradients may be where the features were
        to_h = to_weight[r:] if self.scale == 1 else self.scale * to_weight[r:]
        to_features = torch.cat((to_left, to_right), 1)
        index = gathered.index(A.device, A.dtype, r, self.terms)
        return *gathered.gradients(rows, to_features, B.shape[0], self.terms, index), to_h
