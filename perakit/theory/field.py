"""Arithmetic modulo a prime, in float64: products, elimination, ranks.

A minor that is not zero modulo a prime is not zero: so a rank modulo a prime is a proved lower
bound of the rank. Residues are whole numbers nearest to zero, so of size below 2^22. Their products
are below 2^44, and BLOCK of these add exactly in float64: matrices multiply at the speed of floats.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from numbers import Integral
from typing import Any

import numpy as np

from perakit.errors import PerakitError, short

PRIMES = (8_388_593, 8_388_587)  # the largest two below 2^23
BLOCK = 128
EXACT = 2.0**53  # whole numbers up to here are float64s


def modular_rank(matrix: Any, prime: int = PRIMES[0]) -> int:
    """Rank modulo a prime of whole numbers (m, n): a lower bound of their rank."""
    array = np.asarray(matrix)
    if array.dtype.kind == "f":
        whole = bool((np.abs(array) < EXACT).all() and (array == np.rint(array)).all())
    else:
        whole = all(isinstance(entry, Integral) for entry in array.flat)
    if array.ndim != 2 or not whole:
        raise PerakitError(
            f"an array of shape {array.shape} and type {array.dtype} is no matrix of whole numbers"
            " below 2^53"
        )
    return len(echelon(residues(array, prime), prime)[1])


def draw(generator: np.random.Generator, shape: tuple[int, ...], prime: int) -> np.ndarray:
    """Uniform residues, which nobody may write to."""
    half = prime // 2
    found = generator.integers(-half, half, shape, endpoint=True).astype(np.float64)
    found.setflags(write=False)
    return found


def residues(numbers: Any, prime: int) -> np.ndarray:
    """Real numbers as residues: whole ones, fractions, and floats as the dyadic numbers they are.

    Raises ValueError for what is no finite rational number, or has the prime in its denominator.
    """
    array = np.asarray(numbers)
    if array.dtype.kind in "iub":  # 64 bits, since a prime does not fit into 8 or 16
        wide_type = np.uint64 if array.dtype.kind == "u" else np.int64
        found = (array.astype(wide_type) % prime).astype(np.float64)
    elif array.dtype.kind == "f":
        wide = array.astype(np.float64)
        if not np.isfinite(wide).all():
            raise ValueError("an entry is not finite")
        mantissas, exponents = np.frexp(wide)
        powers = {int(e): pow(2, int(e) - 53, prime) for e in np.unique(exponents)}
        whole = (mantissas * EXACT).astype(np.int64) % prime
        scales = np.array([powers[int(e)] for e in exponents.flat], dtype=np.int64)
        found = (whole * scales.reshape(whole.shape) % prime).astype(np.float64)
    elif array.dtype == object:
        found = np.array([_residue(entry, prime) for entry in array.flat]).reshape(array.shape)
    else:
        raise ValueError(f"numbers of type {array.dtype} are not rational")
    return reduce_(np.asarray(found), prime)


def _residue(entry: Any, prime: int) -> float:
    try:
        exact = Fraction(entry) if not hasattr(entry, "q") else Fraction(int(entry.p), int(entry.q))
        return float(exact.numerator * pow(exact.denominator, -1, prime) % prime)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{short(entry)} has no residue modulo {prime}") from error


def product(X: np.ndarray, Y: np.ndarray, prime: int) -> np.ndarray:
    """X Y of residues: matrices, or stacks of them, as `np.matmul` multiplies."""
    inner = X.shape[-1]
    if inner <= BLOCK:
        total = np.matmul(X, Y)
        return reduce_(np.asarray(total), prime)
    parts = [product(X[..., at], Y[..., at, :], prime) for at in _slices(0, inner, BLOCK)]
    return reduce_(np.asarray(sum(parts)), prime)


def echelon(M: np.ndarray, prime: int = PRIMES[0]) -> tuple[np.ndarray, list[int]]:
    """Row echelon form of a float64 matrix of whole numbers, which it overwrites.

    Returns (U (rank, n), its pivot columns). Right-looking elimination by blocks of columns: within
    a block by rows, right of it by one exact matrix product.
    """
    reduce_(M, prime)
    rank, pivots, n = 0, [], M.shape[1]
    for start in range(0, n, BLOCK):
        stop, first = min(start + BLOCK, n), rank
        multipliers = np.zeros((M.shape[0] - first, BLOCK))
        for column in range(start, stop):
            # The others wait: a block's worth of products still adds exactly
            reduce_(M[rank:, column], prime)
            nonzero = np.flatnonzero(M[rank:, column])
            if not nonzero.size:
                continue
            swap = rank + int(nonzero[0])
            for X, shift in ((M[:, start:], 0), (multipliers, first)):
                X[[rank - shift, swap - shift]] = X[[swap - shift, rank - shift]]
            below = slice(rank + 1, None)
            ratio = M[below, column] * inverse(M[rank, column], prime)
            reduce_(ratio, prime)
            reduce_(M[rank, column:stop], prime)
            M[below, column] = 0
            M[below, column + 1 : stop] -= ratio[:, None] * M[rank, column + 1 : stop]
            multipliers[rank + 1 - first :, rank - first] = ratio
            pivots.append(column)
            rank += 1
        found = rank - first
        right = M[first:, stop:]
        for row in range(1, found):
            right[row] -= multipliers[row, :row] @ right[:row]
            reduce_(right[row], prime)
        for rows in _slices(found, right.shape[0], 1024):
            right[rows] -= multipliers[rows, :found] @ right[:found]
            reduce_(right[rows], prime)
    return M[:rank], pivots


def null_space(U: np.ndarray, pivots: list[int], prime: int = PRIMES[0]) -> np.ndarray:
    """The x (n, n - rank) with U x = 0, one per free column; U in echelon form."""
    n = U.shape[1]
    free = np.setdiff1d(np.arange(n), pivots)
    x = np.zeros((n, free.size))
    x[free, np.arange(free.size)] = 1
    for row in range(len(pivots) - 1, -1, -1):
        column = pivots[row]
        total = product(U[row : row + 1, column + 1 :], x[column + 1 :], prime)[0]
        x[column] = -total * inverse(U[row, column], prime)
        reduce_(x[column], prime)
    return x


def reduce_(X: np.ndarray, prime: int) -> np.ndarray:
    """Whole numbers |x| < 2^53 to residues nearest zero, in place; multiples of the prime to 0."""
    quotient = np.multiply(X, 1 / prime, out=np.empty_like(X))
    np.rint(quotient, out=quotient)
    quotient *= prime
    X -= quotient
    return X


def inverse(residue: float, prime: int) -> float:
    """The inverse of a residue that is not 0, as a residue."""
    found = pow(int(residue), -1, prime)
    return float(found - prime if found > prime // 2 else found)


def _slices(start: int, stop: int, step: int) -> Iterator[slice]:
    return (slice(at, min(at + step, stop)) for at in range(start, stop, step))
