"""PERA's products of two rows by one gather, and their gradient by one product: few calls.

`windows` copies less; here less is called, which decides on a GPU and for small factors: there a
call takes longer than what it does. Row i of the gradient is the sum over the features in which row
i stands, each times the row that stands beside it, where a square counts twice. Products and sums
have one order: the same bits every time, on a GPU too.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from perakit import formulas
from perakit.fast.product import recorded

# Ranks up to which the gradient is one product with a matrix of zeros and ones, r (r+1) columns
# wide. It makes fewer calls than the sum, and r times its operations.
SMALL = 16


class Index(NamedTuple):
    """Where rows and features stand, of r rows and K features.

    pairs (2 (K - r),): the two rows of each product, all first ones before all second ones. ones
    (r,): of the weight. to_rows: up to the rank SMALL (r, 2 (K - r)), with a one where a row stands
    beside one of `pairs`; else (r (r+1),), for each row i the places of the features {i, 0} ...
    {i, r-1}, and of i itself; of a feature that the terms do not have, any.
    """

    pairs: Tensor
    ones: Tensor
    to_rows: Tensor


def features(B: Tensor, A: Tensor, index: Index) -> Tensor:
    """The features (K, m+n) of B (m, r) and A (r, n).

    The first r are the rows of [Bᵀ A]; below are their products in the order of `formulas.pairs`.
    """
    rows = torch.cat((B.T, A), 1)
    both = rows.index_select(0, index.pairs)
    one, other = both.split_with_sizes((both.shape[0] // 2,) * 2)
    return torch.cat((rows, one * other))


def gradients(
    rows: Tensor, to_features: Tensor, m: int, terms: str, index: Index
) -> tuple[Tensor, Tensor]:
    """The gradients by B (m, r) and A (r, n), from those by the features; rows (r, m+n): [Bᵀ A]."""
    r, width = rows.shape
    if r <= SMALL:
        beside = rows.index_select(0, index.pairs)
        beside.view(2, to_features.shape[0] - r, width).mul_(to_features[r:])
        of_B, of_A = beside.split_with_sizes((m, width - m), 1)
        to_B, to_A = to_features[:r].split_with_sizes((m, width - m), 1)
        return torch.addmm(to_B, index.to_rows, of_B).T, torch.addmm(to_A, index.to_rows, of_A)
    if terms == "square":
        to_rows = torch.addcmul(to_features[:r], to_features[r:], rows, value=2)
        to_B, to_A = to_rows.split_with_sizes((m, width - m), 1)
        return to_B.T, to_A
    found = to_features.index_select(0, index.to_rows).view(r, r + 1, width)
    beside = found[:, :r].mul_(rows)
    squares = beside.diagonal()
    squares.zero_() if terms == "cross" else squares.mul_(2)
    of_B, of_A = found.split_with_sizes((m, width - m), 2)
    return of_B.sum(1).T, of_A.sum(1)


def index(device: torch.device, dtype: torch.dtype, rank: int, terms: str) -> Index:
    """The `Index` of that rank and terms, on a device; dtype: of the ones."""
    # One that was made under torch's modes must not be found by others
    return (_index if recorded() else _remembered)(device, dtype, rank, terms)


def _index(device: torch.device, dtype: torch.dtype, rank: int, terms: str) -> Index:
    one, other = formulas.pairs(rank, terms)
    count = len(one)
    if rank <= SMALL:
        to_rows = np.zeros((rank, 2 * count))
        to_rows[np.concatenate([other, one]), np.arange(2 * count)] = 1
    else:
        to_rows = np.zeros((rank, rank + 1), dtype=np.int64)
        to_rows[one, other] = to_rows[other, one] = rank + np.arange(count)
        to_rows[:, rank] = np.arange(rank)
    return Index(
        torch.as_tensor(np.concatenate([one, other]), device=device),
        torch.ones(rank, device=device, dtype=dtype),
        torch.as_tensor(to_rows, device=device, dtype=dtype)
        if rank <= SMALL
        else torch.as_tensor(to_rows.ravel(), device=device),
    )


_remembered = cache(_index)
