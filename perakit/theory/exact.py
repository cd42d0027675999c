"""Ranks that rounding cannot change: elimination in rationals, and in whole numbers modulo a prime.

Rank modulo a prime is a lower bound on the rank over the rationals, and equals it unless the prime
divides every minor of that size, which for a random matrix happens about once in PRIME draws.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np

from perakit.errors import PerakitError, short

# The largest below 2^23: products of residues of size <= 2^22 are below 2^44, so 2 BLOCK of them
# add exactly
PRIME = 8_388_593
BLOCK = 128
EXACT = 2.0**53  # whole numbers up to here are float64s


def exact_rank(matrix: Any) -> int:
    """Rank of a matrix of numbers, taken exactly, by elimination.

    matrix: (m, n), any array, tensor or nested list of integers, Fractions, Decimals, sympy's
    Rationals, or floats of any precision (NumPy's, torch's, sympy's Float), which are read as the
    rationals they are; True and False are 1 and 0. Every entry must be finite and rational: sympy's
    pi is refused. diag(1, 1e-17) has rank 2, and a product that was rounded to floats mostly has
    full rank. Slow above about 50 x 50.

    >>> from perakit import theory
    >>> theory.exact_rank([[1, 0], [0, 1e-17]])
    2
    """
    rows = [[_fraction(entry) for entry in row] for row in _nested(matrix)]
    rank = 0
    for column in range(len(rows[0]) if rows else 0):
        pivot = next((row for row in range(rank, len(rows)) if rows[row][column]), None)
        if pivot is None:
            continue
        rows[rank], rows[pivot] = rows[pivot], rows[rank]
        for row in range(rank + 1, len(rows)):
            ratio = rows[row][column] / rows[rank][column]
            if ratio:
                rows[row] = [a - ratio * b for a, b in zip(rows[row], rows[rank], strict=True)]
        rank += 1
    return rank


def modular_rank(matrix: Any) -> int:
    """Rank modulo PRIME of whole numbers (m, n): a lower bound, rarely below the rank (1/PRIME)."""
    array = np.asarray(matrix)
    whole = array.dtype.kind in "iuO" or (
        array.dtype.kind == "f"
        and (np.abs(array) < EXACT).all()
        and (array == np.rint(array)).all()
    )
    if array.ndim != 2 or not whole:
        raise PerakitError(
            f"an array of shape {array.shape} and type {array.dtype} is no matrix of whole numbers"
            " below 2^53"
        )
    return len(echelon(np.array(array % PRIME, dtype=np.float64))[1])


def echelon(M: np.ndarray) -> tuple[np.ndarray, list[int]]:
    """Row echelon form modulo PRIME of a float64 matrix of whole numbers, which it overwrites.

    Returns (U (rank, n), its pivot columns). Right-looking elimination by blocks of columns: within
    a block by rows, right of it by one exact matrix product.
    """
    reduce_(M)
    rank, pivots, n = 0, [], M.shape[1]
    for start in range(0, n, BLOCK):
        stop, first = min(start + BLOCK, n), rank
        multipliers = np.zeros((M.shape[0] - first, BLOCK))
        for column in range(start, stop):
            # The others wait: a block's worth of products still adds exactly
            reduce_(M[rank:, column])
            nonzero = np.flatnonzero(M[rank:, column])
            if not nonzero.size:
                continue
            swap = rank + int(nonzero[0])
            for X, shift in ((M[:, start:], 0), (multipliers, first)):
                X[[rank - shift, swap - shift]] = X[[swap - shift, rank - shift]]
            below = slice(rank + 1, None)
            ratio = M[below, column] * _inverse(M[rank, column])
            reduce_(ratio)
            reduce_(M[rank, column:stop])
            M[below, column] = 0
            M[below, column + 1 : stop] -= ratio[:, None] * M[rank, column + 1 : stop]
            multipliers[rank + 1 - first :, rank - first] = ratio
            pivots.append(column)
            rank += 1
        found = rank - first
        right = M[first:, stop:]
        for row in range(1, found):
            right[row] -= multipliers[row, :row] @ right[:row]
            reduce_(right[row])
        for rows in _slices(found, right.shape[0], 1024):
            right[rows] -= multipliers[rows, :found] @ right[:found]
            reduce_(right[rows])
    return M[:rank], pivots


def null_space(U: np.ndarray, pivots: list[int]) -> np.ndarray:
    """The x (n, n - rank) with U x = 0 modulo PRIME, one per free column; U in echelon form."""
    n = U.shape[1]
    free = np.setdiff1d(np.arange(n), pivots)
    x = np.zeros((n, free.size))
    x[free, np.arange(free.size)] = 1
    for row in range(len(pivots) - 1, -1, -1):
        column = pivots[row]
        total = modular_product(U[row : row + 1, column + 1 :], x[column + 1 :])[0]
        x[column] = -total * _inverse(U[row, column])
        reduce_(x[column])
    return x


def modular_product(X: np.ndarray, Y: np.ndarray) -> np.ndarray:
    """X Y modulo PRIME, of residues as float64."""
    total = np.zeros((X.shape[0], Y.shape[1]))
    for inner in _slices(0, X.shape[1], BLOCK):
        total += X[:, inner] @ Y[inner]
        reduce_(total)
    return total


def reduce_(X: np.ndarray) -> None:
    """Integers |x| < 2^53 to residues nearest zero, in place; multiples of PRIME to exactly 0."""
    quotient = X * (1 / PRIME)
    np.rint(quotient, out=quotient)
    quotient *= PRIME
    X -= quotient


def _inverse(residue: float) -> float:
    """The inverse modulo PRIME, as a residue of size <= PRIME/2."""
    inverse = pow(int(residue), -1, PRIME)
    return float(inverse - PRIME if inverse > PRIME // 2 else inverse)


def _slices(start: int, stop: int, step: int) -> Iterator[slice]:
    return (slice(at, min(at + step, stop)) for at in range(start, stop, step))


def _nested(matrix: Any) -> list[list[Any]]:
    try:
        if hasattr(matrix, "detach"):
            tensor = matrix.detach().cpu()
            # Exact for every float dtype; int64 is not exact in float64
            matrix = (tensor.double() if tensor.is_floating_point() else tensor).numpy()
        rows = np.asarray(matrix, dtype=object).tolist()
    except (TypeError, ValueError, RuntimeError):  # ragged, sparse, on the meta device
        rows = None
    if (
        not isinstance(rows, list)
        or not all(isinstance(row, list) for row in rows)
        or len(set(map(len, rows))) > 1
    ):
        raise PerakitError(f"{short(matrix)} is no matrix: pass an array (m, n)")
    return rows


def _fraction(entry: Any) -> Fraction:
    """The rational number that an entry is."""
    try:
        # A scalar of NumPy's or torch's as Python's number, which neither wraps nor rounds
        value = entry.item() if hasattr(entry, "item") else entry
        if hasattr(value, "_mpf_"):  # sympy's or mpmath's binary float: (-1)^sign · man · 2^exp
            sign, mantissa, exponent, _ = value._mpf_
            if exponent and not mantissa:
                raise ValueError("not finite")
            return (-1) ** sign * int(mantissa) * Fraction(2) ** exponent
        if hasattr(value, "q"):
            return Fraction(int(value.p), int(value.q))
        if hasattr(value, "as_integer_ratio"):
            return Fraction(*value.as_integer_ratio())
        raise TypeError(f"a {type(value).__name__}")
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise PerakitError(
            f"the entry {short(entry)} is no rational number: exact rank needs finite integers,"
            " fractions or floats; irrational and symbolic entries are sympy.Matrix(...).rank()'s"
        ) from error
