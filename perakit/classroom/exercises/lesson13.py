"""Notebook 13: property-based testing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perakit import formulas
from perakit.classroom.checks import expect
from perakit.classroom.exercises.answers import arrays, function, number, several
from perakit.theory import exact_rank

Rule = Callable[[NDArray[Any], NDArray[Any], NDArray[Any]], NDArray[Any]]

MISSED, EXAMPLES = 1e-3, 100  # the share of inputs and the examples of exercise 4


def cancels(answer: Any) -> None:
    """Four numbers of a 1 x 1 layer on which a purely relative tolerance fails."""
    names = ("w0", "b", "a", "x")
    w0, b, a, x = (
        number(value, name) for value, name in zip(several(answer, *names), names, strict=True)
    )
    largest = max(map(abs, (w0, b, a, x)))
    expect(largest <= 10, "Your friend draws from [-10, 10]: one of the numbers lies outside.")
    merged, factored = (w0 + b * a) * x, w0 * x + b * (a * x)
    expect(
        not np.allclose(merged, factored, rtol=1e-9, atol=0),
        "On this layer the friend's comparison passes: there is not enough cancellation.",
    )
    expect(
        abs(merged - factored) <= 1e-14 * (abs(w0) + abs(b * a)) * abs(x),
        "The rounding error is not tiny beside the terms. Is a number too small for float64?",
    )


def relation(answer: Any) -> None:
    """A relation that holds for PERA's rule and not for the one with h halved."""
    holds, pool = function(answer, "(f, B, A, h)"), _pool()

    def halved(B: Any, A: Any, h: Any) -> Any:
        return formulas.pera(B, A, h / 2)

    def passes(rule: Rule) -> bool:
        return all(bool(holds(rule, B.copy(), A.copy(), h.copy())) for B, A, h in pool)

    expect(passes(formulas.pera), "The right formula breaks it, so it is no property of PERA.")
    expect(not passes(halved), "It does not notice that h is halved.")


def _pool() -> list[tuple[NDArray[Any], ...]]:
    """Whole factors of several shapes."""
    rng = np.random.default_rng(0)
    return [
        tuple(
            rng.integers(-3, 4, size) for size in ((m, rank), (rank, n), (rank * (rank + 1) // 2,))
        )
        for m, n, rank in ((1, 2, 1), (3, 5, 1), (5, 3, 2), (2, 7, 3), (3, 2, 2))
    ]


def hira_above_r(answer: Any) -> None:
    """W0, B, A for which HiRA's update has a rank above r."""
    W0, B, A = arrays(answer, W0=None, B=None, A=None)
    expect(
        W0.ndim == B.ndim == A.ndim == 2
        and B.shape[1] == len(A)
        and W0.shape == (len(B), A.shape[1]),
        "The shapes are to be (m, n), (m, r) and (r, n).",
    )
    expect(
        all(np.array_equal(X, np.round(X)) for X in (W0, B, A)),
        "Give whole numbers, so that the rank is exact.",
    )
    expect(exact_rank(formulas.hira(W0, B, A)) > B.shape[1], "This update has rank r at most.")


def all_miss(answer: Any) -> None:
    """The probability that a hundred examples miss what is wrong on one input in a thousand."""
    value = number(answer)
    expect(0 <= value <= 1, "A probability lies between 0 and 1.")
    expect(
        abs(value - (1 - MISSED) ** EXAMPLES) < 2e-3,
        "One example misses it with probability 0.999; all have to.",
    )


CHECKS = {1: cancels, 2: relation, 3: hira_above_r, 4: all_miss}
