"""PERA's expansion and its gradient by hand, for any degree and terms, on rows.

The columns of B are read as rows of Bᵀ: rows lie together in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from perakit import formulas
from perakit.fast.product import recorded


def factors(B: Tensor, A: Tensor, h: Tensor, terms: str, degree: int) -> tuple[Tensor, Tensor]:
    """`formulas.expand`, of both factors side by side, since both are expanded alike.

    B (m, r), A (r, n), h (K - r,). Returns (B_hat (m, K), A_hat (K, n)).
    """
    (m, r), start = B.shape, 0
    both = torch.cat([B.T, A], 1)  # (r, m+n)
    left, right = [B.T], [A]
    for monomials in _monomials(A.device, r, terms, degree):
        made, stop = _multiplied(both, monomials), start + monomials.shape[1]
        left.append(made[:, :m])
        right.append(h[start:stop, None] * made[:, m:])
        start = stop
    return torch.cat(left).T, torch.cat(right)


def gradients(
    B: Tensor,
    A: Tensor,
    h: Tensor,
    to_B_hat: Tensor,
    to_A_hat: Tensor,
    terms: str = "full",
    degree: int = 2,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients by B, A and h, from those by the factors of `formulas.expand`.

    B (m, r), A (r, n), h (K - r,); to_B_hat (m, K), to_A_hat (K, n); terms, degree: as in `expand`.
    With ĝ the columns of to_B_hat and the rows of to_A_hat: ∂L/∂b_i = ĝ_i + Σ_j ĝ_ij∘b_j (j = i
    counts twice), ∂L/∂a_i likewise with h_ij ĝ_ij, ∂L/∂h_ij = Σ_q (a_i∘a_j∘ĝ_ij)_q; at degree d
    each of a product's d factors is left out in turn.
    Returns gradients in the shapes of B, A and h. Source: derivative of arXiv 2604.11841, Eq. 2-5.
    """
    index = _monomials(A.device, A.shape[0], terms, degree)
    ones = torch.ones_like(h)
    to_B, _ = _through_features(B.T, ones, to_B_hat.T, index)
    to_A, to_h = _through_features(A, h, to_A_hat, index)
    return to_B.T, to_A, to_h


def _through_features(
    X: Tensor, h: Tensor, to_features: Tensor, index: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """The gradients by the rows X (r, n) and by h, from those by [x_i ; h_ij (x_i∘x_j)] (K, n)."""
    r = X.shape[0]
    to_X, to_h, start = to_features[:r], [], 0
    for monomials in index:
        stop = start + monomials.shape[1]
        to_products, coefficient = to_features[r + start : r + stop], h[start:stop, None]
        for left_out, row in enumerate(monomials):
            others = [other for place, other in enumerate(monomials) if place != left_out]
            partial = _multiplied(X, others) * to_products
            if left_out == 0:
                to_h.append((X.index_select(0, row) * partial).sum(1))
            # A matrix of zeros and ones: on CUDA index_add adds in an order that threads decide.
            chosen = torch.arange(r, device=X.device)[:, None] == row[None]
            to_X = to_X + chosen.to(X.dtype) @ (partial * coefficient)
        start = stop
    return to_X, torch.cat(to_h)


def _multiplied(X: Tensor, monomials: Sequence[Tensor] | Tensor) -> Tensor:
    """The products (K_d, n) of X's rows: one from each of `monomials`, d index tensors (K_d,).

    index_select, since the backward pass of X[i] is slow, and on CUDA adds in any order.
    """
    first, *others = monomials
    product = X.index_select(0, first)
    for row in others:
        product = product * X.index_select(0, row)
    return product


def _index(device: torch.device, rank: int, terms: str, degree: int) -> list[Tensor]:
    """`formulas.monomials` as tensors on a device."""
    return [
        torch.as_tensor(block, device=device) for block in formulas.monomials(rank, terms, degree)
    ]


# Not while recorded: a tensor that was made under one of torch's modes must not be found by others.
_remembered = cache(_index)
# torch.compile follows no cache, and would follow a loop over all monomials: it is handed them, on
# their device, so that the graph of rank 64 is as small as that of rank 2 and copies nothing.
# torch.compiler.assume_constant_result says no more than this, and imports sympy to say it.
_index._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _monomials(device: torch.device, rank: int, terms: str, degree: int) -> list[Tensor]:
    """`_index`, made again only where it must be."""
    if torch.compiler.is_compiling():
        return _index(device, int(rank), terms, degree)
    return (_index if recorded() else _remembered)(device, rank, terms, degree)
