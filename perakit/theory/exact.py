"""A rank that rounding cannot change: elimination in rationals.

For elimination modulo a prime see `field`.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np

from perakit.errors import PerakitError


def exact_rank(matrix: Any) -> int:
    """Rank of a matrix of numbers, taken exactly, by elimination.

    matrix: (m, n), any array or nested list of integers, Fractions, sympy rationals or floats (read
    as the rationals they are); every entry must be a finite number. diag(1, 1e-17) has rank 2, and
    a product that was rounded to floats mostly has full rank. Slow above about 50 x 50.

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


def _nested(matrix: Any) -> list[list[Any]]:
    # Exact for every float dtype
    array = matrix.detach().cpu().double().numpy() if hasattr(matrix, "detach") else matrix
    try:
        rows = np.asarray(array, dtype=object).tolist()
    except ValueError:
        rows = None
    if (
        not isinstance(rows, list)
        or not all(isinstance(row, list) for row in rows)
        or len(set(map(len, rows))) > 1
    ):
        raise PerakitError(f"{matrix!r} is no matrix: pass an array (m, n)")
    return rows


def _fraction(entry: Any) -> Fraction:
    try:
        return Fraction(int(entry.p), int(entry.q)) if hasattr(entry, "q") else Fraction(entry)
    except (TypeError, ValueError, OverflowError) as error:
        raise PerakitError(
            f"the entry {entry!r} is no rational number: exact rank needs finite integers,"
            " fractions or floats"
        ) from error
