"""A rank that rounding cannot change: elimination in rationals.

For elimination modulo a prime see `field`.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np

from perakit.errors import PerakitError, short


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
