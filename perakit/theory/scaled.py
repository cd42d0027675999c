"""Arrays beside a power of two: no product, norm or spectrum over- or underflows on the way.

A pair (x, e) stands for x · 2^e. Powers of two round nothing: ordinary numbers come out as they
would without them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from perakit import formulas
from perakit.errors import PerakitError

Scaled = tuple[float, int]
NOTHING = -(2**24)  # exponent of what is zero: below that of any product of floats
SAFE = 200  # columns up to 2^±200 can be squared, added and multiplied in float64


def scaled(X: np.ndarray) -> tuple[np.ndarray, int]:
    """(X · 2^-e, e), its largest entry in [1/2, 1); e = 0 where all are zero."""
    exponent = int(np.frexp(np.abs(X).max(initial=0.0))[1])
    return np.ldexp(X, -exponent), exponent


def unscaled(X: Any, exponent: int) -> np.ndarray:
    """X · 2^exponent as float64: 0 below 5e-324, inf above 1.8e308."""
    with np.errstate(over="ignore"):
        return np.asarray(np.ldexp(X, exponent))


def representable(what: str, X: Any, exponent: int) -> np.ndarray:
    """X · 2^exponent as float64; refused where that is above 1.8e308."""
    found = unscaled(X, exponent)
    if not np.isfinite(found).all():
        mantissa, more = np.frexp(np.max(X))
        raise PerakitError(
            f"{what} is {mantissa:.2f} · 2^{more + exponent}, and float64 ends at 2^1024: divide by"
            " a power of two first (ranks, shares and stable ranks do not change)"
        )
    return found


def singular_values(X: np.ndarray, exponent: int = 0) -> tuple[np.ndarray, int]:
    """The singular values of X · 2^exponent, in falling order, beside a power of two."""
    mantissas, more = scaled(X)
    return np.linalg.svd(mantissas, compute_uv=False), exponent + more


def norm(X: np.ndarray, exponent: int = 0) -> Scaled:
    """The Frobenius norm of X · 2^exponent."""
    mantissas, more = scaled(X)
    return float(np.linalg.norm(mantissas)), exponent + more


def hypot(lengths: Iterable[Scaled]) -> Scaled:
    """√(Σ x²)."""
    # Zeros aside, since their exponents say nothing
    parts = [(*math.frexp(x), exponent) for x, exponent in lengths if x]
    top = max((own + exponent for _, own, exponent in parts), default=0)
    return math.hypot(*(math.ldexp(x, own + e - top) for x, own, e in parts)), top


def quotient(above: Scaled, below: Scaled) -> float:
    """above / below: 0 where both vanish, inf where only `below` does or the ratio is > 1.8e308."""
    if not below[0]:
        return math.inf if above[0] else 0.0
    (high, up), (low, down) = above, below
    return float(unscaled(high / low, up - down))


@dataclass(frozen=True)
class Columns:
    """A matrix whose column k is X[:, k] · 2^exponents[k], with all columns of X of ordinary size.

    X (m, K), exponents (K,); a column of zeros has the exponent NOTHING.
    """

    X: np.ndarray
    exponents: np.ndarray

    @classmethod
    def of(cls, X: np.ndarray) -> Columns:
        """X (m, K), each column over the power of two that brings its largest entry below 1.

        Where all columns are of ordinary size they stay as they are, and nothing is copied.
        """
        largest = np.maximum(X.max(0), -X.min(0))
        exponents = np.frexp(largest)[1]
        if (np.abs(exponents) <= SAFE).all():
            return cls(X, np.where(largest == 0, NOTHING, 0))
        half = exponents // 2  # in two steps, since 2^1073 is no float
        found = X * np.ldexp(1.0, -half)
        found *= np.ldexp(1.0, half - exponents)
        return cls(found, np.where(largest == 0, NOTHING, exponents))

    @classmethod
    def of_entries(cls, X: np.ndarray, exponents: np.ndarray) -> Columns:
        """X · 2^exponents, entry by entry: both (m, K)."""
        mantissas, own = np.frexp(X)
        total = np.where(mantissas == 0, NOTHING, own + exponents)
        top = total.max(0)
        return cls(np.ldexp(mantissas, np.where(mantissas == 0, 0, total - top)), top)


def expanded(
    B: np.ndarray, A: np.ndarray, h: np.ndarray, terms: str, degree: int
) -> tuple[Columns, Columns]:
    """`formulas.expand` of factors of any size: mantissas are multiplied, exponents added.

    B (m, r), A (r, n), h (K - r,).
    """
    (b, b_sizes), (a, a_sizes), (c, c_sizes) = map(np.frexp, (B, A, h))
    B_hat, A_hat = formulas.expand(b, a, c, terms, degree)
    features = formulas.monomials(A.shape[0], terms, degree)
    left = [b_sizes, *(b_sizes[:, rows].sum(1) for rows in features)]
    right = [a_sizes, *(a_sizes[rows].sum(0) for rows in features)]
    right_sizes = np.concatenate(right)
    right_sizes[A.shape[0] :] += c_sizes[:, None]
    return (
        Columns.of_entries(B_hat, np.concatenate(left, 1)),
        Columns.of_entries(A_hat.T, right_sizes.T),
    )


@dataclass(frozen=True)
class Triangles:
    """R_B and R_A of the thin QR decompositions of B_hat (m, K) and A_hatᵀ (n, K).

    left (min(m, K), K), right (min(n, K), K), and the exponents (K,) of their columns together.
    B_hat A_hat has the singular values of R_B R_Aᵀ, and what any of its K terms add up to those of
    the same columns. A column's rounding error is relative to that column, so a part that is 1e-12
    of the whole is as accurate as the whole.
    """

    left: np.ndarray
    right: np.ndarray
    exponents: np.ndarray

    def product(self, terms: slice = slice(None)) -> tuple[np.ndarray, int]:
        """R_B R_Aᵀ of these terms, (min(m, K), min(n, K)), beside its exponent."""
        exponents = self.exponents[terms]
        top = int(exponents.max(initial=2 * NOTHING))
        return np.ldexp(self.left[:, terms], exponents - top) @ self.right[:, terms].T, top


def triangles(left: Columns, right: Columns) -> Triangles:
    """The triangles of a product B_hat A_hat, given the columns of B_hat and of A_hatᵀ."""
    # NumPy's stubs do not know that mode="r" returns one array
    R_B, R_A = (np.linalg.qr(factor.X, mode="r") for factor in (left, right))
    return Triangles(R_B, R_A, left.exponents + right.exponents)  # type: ignore[arg-type]
