"""Notebook 02: polynomial expansion."""

from __future__ import annotations

from itertools import combinations_with_replacement
from typing import Any

import numpy as np

from perakit.classroom.checks import expect, show
from perakit.classroom.exercises.answers import arrays, number, several, whole
from perakit.formulas import pera


def identity(answer: Any) -> None:
    """Factors of rank 1 and a coefficient that make the 2 x 2 identity: u + h u∘u with u = b aᵀ."""
    b, a, h = arrays(answer, b=None, a=None, h=None)
    expect((b.size, a.size, h.size) == (2, 2, 1), "b and a are two numbers each, h is one number.")
    made = pera(b.reshape(2, 1), a.reshape(1, 2), h.reshape(1))
    expect(
        np.allclose(made, np.eye(2), rtol=0, atol=1e-6),
        f"With these numbers u + h u∘u is {show(made)}, which is not the identity.",
    )


def pieces(answer: Any) -> None:
    """The numbers of products of one, two and three of three columns."""
    counts = several(answer, "degree 1", "degree 2", "degree 3")
    for degree, name in ((1, "single columns"), (2, "pairs i <= j"), (3, "triples i <= j <= k")):
        right = len(list(combinations_with_replacement(range(3), degree)))
        expect(
            whole(counts[degree - 1]) == right,
            f"The {name} of three columns are another number: write them all down.",
        )


def additive(answer: Any) -> None:
    """f(0,0) + f(1,1) - f(0,1) - f(1,0), of a matrix with a bias, and of the exclusive-or."""
    stack, exclusive_or = several(answer, "for every stack", "for the exclusive-or")
    rng = np.random.default_rng(0)
    w, c = rng.normal(size=2), rng.normal()

    def combined(f: Any) -> float:
        return float(f(0, 0) + f(1, 1) - f(0, 1) - f(1, 0))

    expect(
        np.isclose(
            number(stack, "The first of the two"),
            combined(lambda x, y: w[0] * x + w[1] * y + c),
            atol=1e-9,
        ),
        "For a stack it is another number: such a stack is one matrix and one bias; put in the four"
        " inputs.",
    )
    expect(
        np.isclose(number(exclusive_or, "The second of the two"), combined(lambda x, y: x ^ y)),
        "For the exclusive-or it is another number: put in its four values, with their signs.",
    )


CHECKS = {1: identity, 2: pieces, 3: additive}
