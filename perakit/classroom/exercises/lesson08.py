"""Notebook 08: kernels and SVMs."""

from __future__ import annotations

from typing import Any

import numpy as np

from perakit import formulas
from perakit.classroom.checks import expect
from perakit.classroom.exercises.answers import array, arrays, function

CROSS = np.array([1.0, 1.0, -1.0])  # the coefficients of exercise 3


def cubic_coefficients(answer: Any) -> None:
    """A function that gives h for BA + c2 (BA)^2 + c3 (BA)^3, entry by entry."""
    coefficients = function(answer, "(rank, c2, c3)")
    for rank, c2, c3 in ((1, 2, 3), (2, 1, 0), (2, 0, 1), (3, -1, 2)):
        rng = np.random.default_rng(rank)
        B, A = rng.integers(-3, 4, (5, rank)), rng.integers(-3, 4, (rank, 6))
        count = sum(block.shape[1] for block in formulas.monomials(rank, "full", 3))
        h = array(coefficients(rank, c2, c3), "h", (count,))
        right = B @ A + c2 * (B @ A) ** 2 + c3 * (B @ A) ** 3
        expect(
            np.allclose(formulas.pera(B, A, h, degree=3), right),
            f"At rank {rank}, c2 = {c2}, c3 = {c3} the update is another one.",
        )


def kernel_with_a_constant(answer: Any) -> None:
    """A function that gives factors of rank 3 and h whose update is (1 + BA)^2."""
    build = function(answer, "(B, A)")
    for seed, m, n in ((0, 4, 5), (1, 3, 2)):
        rng = np.random.default_rng(seed)
        B, A = rng.integers(-3, 4, (m, 2)), rng.integers(-3, 4, (2, n))
        B3, A3, h = arrays(build(B.copy(), A.copy()), B=(m, 3), A=(3, n), h=(6,))
        expect(
            np.allclose(formulas.pera(B3, A3, h), (1 + B @ A) ** 2),
            "The update of these factors is not (1 + BA)∘(1 + BA).",
        )


def no_kernel(answer: Any) -> None:
    """Points at which the table of k_h has a negative eigenvalue, h = (1, 1, -1)."""
    X = array(answer)
    expect(X.ndim == 2 and X.shape[1] == 2 and len(X), "Give the points as rows of two numbers.")
    lowest = np.linalg.eigvalsh(formulas.pera(X, X.T, CROSS))[0]
    expect(
        lowest < -1e-9,
        "At these points the table has no negative eigenvalue: a kernel would pass, too.",
    )


def leaves_the_slice(answer: Any) -> None:
    """Whole numbers B, A, G for which a gradient step leaves the kernel's coefficients."""
    B, A, G = arrays(answer, B=None, A=None, G=None)
    expect(
        B.ndim == A.ndim == G.ndim == 2
        and B.shape[1] == len(A) == 2
        and G.shape == (len(B), A.shape[1]),
        "The shapes are to be (m, 2), (2, n) and (m, n).",
    )
    expect(
        all(np.array_equal(X, np.round(X)) for X in (B, A, G)), "Give whole numbers, to be exact."
    )
    i, j = formulas.pairs(2)
    step = ((B[:, i] * B[:, j]) * (G @ (A[i] * A[j]).T)).sum(0)
    expect(
        not (step[1] == 2 * step[0] and step[0] == step[2]),
        "With these numbers the step stays in the slice.",
    )


CHECKS = {
    1: cubic_coefficients,
    2: kernel_with_a_constant,
    3: no_kernel,
    4: leaves_the_slice,
}
