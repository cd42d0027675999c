"""The gradient of `formulas.expand` by hand, for any degree and terms."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from perakit import formulas
from perakit.fast.product import recorded


def expand_gradients(
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
    index = _rows_on(A.device, A.shape[0], terms, degree)
    to_B, _ = _through_features(B.T, None, to_B_hat.T, index)
    to_A, to_h = _through_features(A, h, to_A_hat, index)
    assert to_h is not None
    return to_B.T, to_A, to_h


def _through_features(
    X: Tensor, h: Tensor | None, to_features: Tensor, index: Sequence[Tensor]
) -> tuple[Tensor, Tensor | None]:
    """The gradients by the rows X (r, n) and by h, from those by [x_i ; h_ij (x_i∘x_j)] (K, n).

    h None is 1, and has no gradient.
    """
    to_X, to_h, start = to_features[: X.shape[0]], [], X.shape[0]
    for rows in index:
        stop = start + rows.shape[1]
        to_products, start_of_h = to_features[start:stop], start - X.shape[0]
        for left_out, row in enumerate(rows):
            others = [other for place, other in enumerate(rows) if place != left_out]
            partial = to_products
            for other in others:
                partial = partial * X.index_select(0, other)
            if h is not None:
                if left_out == 0:
                    to_h.append((X.index_select(0, row) * partial).sum(1))
                partial = partial * h[start_of_h : start_of_h + rows.shape[1], None]
            # A matrix of zeros and ones, since on CUDA index_add adds in an order that threads
            # decide.
            numbers = torch.arange(X.shape[0], device=X.device)
            to_X = to_X + (numbers[:, None] == row[None]).to(X.dtype) @ partial
        start = stop
    return to_X, None if h is None else torch.cat(to_h)


def _rows_on(device: torch.device, rank: int, terms: str, degree: int) -> list[Tensor]:
    """`formulas.monomials` as tensors on a device."""
    found = _rows if recorded() else _remembered_rows
    return found(device, rank, terms, degree)


def _rows(device: torch.device, rank: int, terms: str, degree: int) -> list[Tensor]:
    return [
        torch.as_tensor(rows, device=device) for rows in formulas.monomials(rank, terms, degree)
    ]


# Not while recorded: torch.compile follows no cache, and a tensor made under one of torch's modes
# must not be found by others.
_remembered_rows = cache(_rows)
