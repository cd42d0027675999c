"""Notebook 05: the theorem that is not one."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np

from perakit.classroom.checks import expect, fail, show
from perakit.classroom.exercises.answers import array, several
from perakit.theory import exact_rank, theorem1

GOES_INTO_ITSELF = {"multiple", "transpose", "order"}  # c b, a, h/c; b and a; other orders of them
NAMES = GOES_INTO_ITSELF | {"diagonal"}  # (D b)∘(D b) is not D (b∘b)


def wrong_step(answer: Any) -> None:
    """The step that turns the inequality, and the sign that holds in it."""
    step, sign = several(answer, "number of the step", "sign")
    expect(
        step == 3,
        "This step is right. Ask of each: does it follow from those before it, or from a theorem"
        " that it names?",
    )
    expect(
        sign in ("<=", ">=", "=="),
        "The step is right. The sign is one of the three that the exercise names, as a string.",
    )
    expect(
        sign == ">=",
        "The step is right, the sign is not: whose error is the smaller one, that of the smaller or"
        " that of the larger set?",
    )


def exact_identity(answer: Any) -> None:
    """Fractions b, a, h with b aᵀ + h (b∘b)(a∘a)ᵀ equal to the 2 x 2 identity, exactly."""
    b, a, h = several(answer, "b", "a", "h")
    expect(
        array(b, "b").size == array(a, "a").size == 2 and array(h, "h").size == 1,
        "b and a are two numbers each, h is one number.",
    )
    column, row = ([_fraction(value) for value in part] for part in (b, a))
    coefficient = _fraction(h)
    update = [[p * q + coefficient * (p * q) ** 2 for q in row] for p in column]
    expect(
        update == [[1, 0], [0, 1]] or not np.allclose(np.array(update, dtype=float), np.eye(2)),
        "With these numbers the update is the identity but for rounding: take whole numbers and"
        " fractions, so that it is exact.",
    )
    made = [", ".join(map(str, line)) for line in update]
    expect(
        update == [[1, 0], [0, 1]],
        f"With these numbers the update is [[{made[0]}], [{made[1]}]], which is not the identity.",
    )


def _fraction(value: Any) -> Fraction:
    if isinstance(value, np.generic):
        value = value.item()
    return Fraction(str(value)) if hasattr(value, "is_Rational") else Fraction(value)


def another_counterexample(answer: Any) -> None:
    """A 3 x 3 matrix of rank 2 other than E with a certificate; the changes that S(1) allows."""
    matrix, names = several(answer, "matrix", "names")
    E = array(matrix, "The matrix", (3, 3))
    expect((np.rint(E) == E).all(), "The entries of the matrix are whole numbers.")
    whole = [[int(value) for value in row] for row in E]
    expect(
        whole != [list(row) for row in theorem1.COUNTEREXAMPLE],
        "This is E itself: find another matrix.",
    )
    rank = exact_rank(np.array(whole, dtype=object))
    expect(
        rank == 2, f"The matrix {show(E)} has rank {rank}: about it Theorem 1 says something else."
    )
    expect(
        theorem1.certificate(whole).holds,
        "The certificate proves nothing about this matrix: try others.",
    )
    if isinstance(names, str) or not np.iterable(names) or not set(names) <= NAMES:
        fail(f"The second of the two is a set of some of the names {', '.join(sorted(NAMES))}.")
    expect(
        set(names) == GOES_INTO_ITSELF,
        "The matrix is right, the names are not: write each changed member as b aᵀ and its square"
        " again, or see that it cannot be done.",
    )


CHECKS = {1: wrong_step, 2: exact_identity, 3: another_counterexample}
