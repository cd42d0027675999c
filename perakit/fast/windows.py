"""PERA's products of two rows without gathering them: windows that slide along the rows.

Put r rows on a circle. The pairs {i, i + d mod r} with d = 0, 1, ..., r/2 are all pairs, each once;
of d = r/2, where r is even, only the first half is needed. Write the rows twice, one copy below the
other: then the rows i + d lie together for every d. So one multiplication makes the products of all
d, and in the backward pass each d goes back to its rows in two additions.

The rule is `formulas.expand`, with h left apart and the products in the order of `circle`. Few
numbers are copied, and calls are made for each d: `gathered` makes fewer, and copies more.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor

from perakit import formulas
from perakit.fast.product import recorded

# Columns that a product takes at once with AVX-512: MKL took 103-120 µs for 44 columns and 77 for
# 48 (256 tokens, 768 x 768, Intel Xeon, 2026). Doubt it on processors with shorter vectors.
TILE = 16


def circle(rank: int, terms: str) -> np.ndarray:
    """The place in h of each product, in their order here: one d after the other, i fastest."""
    start, stop, half = _distances(rank, terms)
    pairs = [(i, (i + d) % rank) for d in range(start, stop) for i in range(rank)]
    pairs += [(i, i + half) for i in range(half)]
    of_h = zip(*(index.tolist() for index in formulas.pairs(rank, terms)), strict=True)
    places = {pair: k for k, pair in enumerate(of_h)}
    return np.array([places[min(i, j), max(i, j)] for i, j in pairs], dtype=np.int64)


@cache
def _distances(rank: int, terms: str) -> tuple[int, int, int]:
    """(start, stop, half): each d from start to stop - 1 has r pairs, and d = r/2 has `half`.

    half is r/2, or 0 where that is no whole number.
    """
    start, stop = int(terms == "cross"), 1 if terms == "square" else (rank + 1) // 2
    return start, max(start, stop), 0 if terms == "square" or rank % 2 else rank // 2


@cache
def count(rank: int, terms: str) -> int:
    """How many features there are: K, and some pairs again towards a multiple of TILE.

    The window of d = r/2 holds its pairs twice. As many of the second ones stay in, without weight,
    as fill the last tile.
    """
    start, stop, half = _distances(rank, terms)
    K, made = formulas.rank_bound(rank, terms), stop - start + (half > 0)
    return min(made * rank + rank, -(-K // TILE) * TILE)


def order(device: torch.device, rank: int, terms: str) -> Tensor:
    """`circle` as a tensor on a device."""
    # One that was made under torch's modes must not be found by others
    return (_order if recorded() else _remembered)(device, rank, terms)


def _order(device: torch.device, rank: int, terms: str) -> Tensor:
    return torch.as_tensor(circle(rank, terms), device=device)


_remembered = cache(_order)


def features(B: Tensor, A: Tensor, terms: str) -> tuple[Tensor, Tensor]:
    """(room, features) of B (m, r) and A (r, n).

    The features (`count`, m+n) are the rows of [Bᵀ A], and below them their products in the order
    of `circle`; beyond K are products that are there already. room is the memory in which they lie:
    above them it has the rows twice, then r rows that are free.
    """
    r, width = A.shape[0], B.shape[0] + A.shape[1]
    start, stop, half = _distances(r, terms)
    made = stop - start + (half > 0)  # the window of d = r/2 is made whole
    room = B.new_empty(((4 + made) * r, width))
    twice, _, once, products = room.split_with_sizes((2 * r, r, r, made * r))
    torch.cat((B.T, A), 1, out=once)
    twice.view(2, r, width).copy_(once)
    windows = _windows(room, start, r, made)
    torch.mul(once, windows, out=products.view(made, r, width))
    return room, room[3 * r : 3 * r + count(r, terms)]


def gradients(room: Tensor, r: int, m: int, terms: str) -> tuple[Tensor, Tensor]:
    """The gradients by B (m, r) and A (r, n), from those by the features.

    room: that of `features`, with these gradients in the features' place. Gradients by the pairs
    that stand there twice are not read: those pairs have no weight.
    """
    start, stop, half = _distances(r, terms)
    width = room.shape[1]
    # once: the rows. lower, upper: the gradients by their two copies; of_distance: by the products.
    once, _, lower, upper, *of_distance = room.view(-1, r, width).unbind()
    lower.zero_()
    windows = _windows(room, 0, r, stop + 1).unbind()
    to_windows = _windows(room, 2 * r, r, stop).unbind()
    for d, of_d in zip(range(start, stop), of_distance, strict=False):
        # A square has the same row on either side, so it counts twice.
        lower.addcmul_(of_d, windows[d], value=1 if d else 2)
        if d:
            to_windows[d].addcmul_(of_d, once)
    if half:  # the first half of the rows by the second, and the other way round
        pairs = windows[half].view(2, half, width)
        lower.view(2, half, width).addcmul_(of_distance[-1][:half], pairs)
    to_B, to_A = lower.add_(upper).split_with_sizes((m, width - m), 1)
    return to_B.T, to_A


def _windows(room: Tensor, first: int, r: int, count: int) -> Tensor:
    """(count, r, w): for each d < count the r rows of `room` from first + d on, not copied."""
    width = room.shape[1]
    return room.as_strided((count, r, width), (width, width, 1), first * width)
