"""PERA's products of two rows without gathering them: round a circle, as windows that slide along
the rows written twice.

Of r rows, {i, i + d mod r} with d = 0, 1, ..., r/2 are all pairs, each once (of d = r/2, where r is
even, the first half). In the rows written twice, one below the other, the rows i + d lie together
for every d: one multiplication makes the products of all d, and each d goes back to its rows in two
additions. The rule is `formulas.expand`; this is the same where nobody asks for a derivative, with
h left apart and the products in the order of `circle`.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor

from perakit import formulas

# Columns that a product takes at once, with AVX-512; the last take as long where they are fewer
TILE = 16


def circle(rank: int, terms: str) -> np.ndarray:
    """The place in h of each product, in their order here: one d after the other, i running
    fastest.
    """
    start, stop, half = _distances(rank, terms)
    pairs = [(i, (i + d) % rank) for d in range(start, stop) for i in range(rank)] + [
        (i, i + half) for i in range(half)
    ]
    places = {
        pair: k
        for k, pair in enumerate(
            zip(*(index.tolist() for index in formulas.pairs(rank, terms)), strict=True)
        )
    }
    return np.array([places[min(i, j), max(i, j)] for i, j in pairs], dtype=np.int64)


@cache
def _distances(rank: int, terms: str) -> tuple[int, int, int]:
    """(start, stop, half): each d from start to stop - 1 has r pairs, and d = r/2, where it is
    whole, has half = r/2 of them.
    """
    start, stop = int(terms == "cross"), 1 if terms == "square" else (rank + 1) // 2
    return start, max(start, stop), 0 if terms == "square" or rank % 2 else rank // 2


@cache
def count(rank: int, terms: str) -> int:
    """How many features there are: K, filled up towards a multiple of TILE by the pairs that the
    window of d = r/2 has twice.
    """
    K = formulas.rank_bound(rank, terms)
    return min(_made(rank, terms) * rank + rank, -(-K // TILE) * TILE)


def _made(rank: int, terms: str) -> int:
    """How many windows are multiplied: that of d = r/2 is whole, though its second half is the
    first half once more.
    """
    start, stop, half = _distances(rank, terms)
    return stop - start + (half > 0)


def expand(B: Tensor, A: Tensor, terms: str) -> tuple[Tensor, Tensor]:
    """(room, features) of B (m, r) and A (r, n): the features (`count`, m+n) are the rows of [Bᵀ A]
    and below them their products in the order of `circle`; beyond K are products that are there
    already.

    room: the memory in which the features lie. Above them it has the rows twice, then r rows that
    are free.
    """
    r, width = A.shape[0], B.shape[0] + A.shape[1]
    start, made = _distances(r, terms)[0], _made(r, terms)
    room = B.new_empty(((4 + made) * r, width))
    twice, _, rows, products = room.split_with_sizes((2 * r, r, r, made * r))
    torch.cat((B.T, A), 1, out=rows)
    twice.view(2, r, width).copy_(rows)
    torch.mul(rows, _windows(room, 0, r, start, start + made), out=products.view(made, r, width))
    return room, room[3 * r : 3 * r + count(r, terms)]


def gradients(room: Tensor, r: int, m: int, terms: str) -> tuple[Tensor, Tensor]:
    """The gradients by B (m, r) and A (r, n), from those by the features; room: that of `expand`,
    with these in the features' place.

    Those by what is there already are not looked at.
    """
    start, stop, half = _distances(r, terms)
    width = room.shape[1]
    rows, _, lower, upper, *of_distance = room.view(-1, r, width).unbind()
    # Lower and upper: the gradients by the rows written twice, above those by the products
    lower.zero_()
    windows, to_windows = (
        _windows(room, 0, r, 0, stop + 1).unbind(),
        _windows(room, 2 * r, r, 0, stop).unbind(),
    )
    for d, of_d in zip(range(start, stop), of_distance, strict=False):
        # a square is the same from either side
        lower.addcmul_(of_d, windows[d], value=1 if d else 2)
        if d:
            to_windows[d].addcmul_(of_d, rows)
    if half:  # the first half of the rows by the second, and the other way round
        lower.view(2, half, width).addcmul_(
            of_distance[-1][:half], windows[half].view(2, half, width)
        )
    to_B, to_A = lower.add_(upper).split_with_sizes((m, width - m), 1)
    return to_B.T, to_A


def _windows(room: Tensor, first: int, r: int, start: int, stop: int) -> Tensor:
    """(stop - start, r, w): for d = start, ..., stop - 1 the rows first + d, ..., first + d + r - 1
    of `room`, seen and not copied.
    """
    width = room.shape[1]
    return room.as_strided((stop - start, r, width), (width, width, 1), (first + start) * width)
