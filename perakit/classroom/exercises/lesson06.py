"""Notebook 06: the shape of the manifold."""

from __future__ import annotations

from typing import Any

import numpy as np

from perakit.classroom.checks import expect
from perakit.classroom.exercises.answers import arrays, several, whole
from perakit.theory import dimension, pera_gradients, tangent_dimension


def accounts(answer: Any) -> None:
    """At r = 4, dimensions over LoRA's paid for by h, and free: squares, then cross terms."""
    r = 4
    for terms, count, given in zip(
        ("squares", "cross terms"),
        (r, r * (r - 1) // 2),
        several(answer, "squares", "cross terms"),
        strict=True,
    ):
        paid, free = several(given, f"paid with {terms}", f"free with {terms}")
        expect(
            whole(paid) == count,
            f"With {terms} another number is paid for: count the coefficients.",
        )
        kind = {"squares": "square", "cross terms": "cross"}[terms]
        gained = dimension(11, 13, r, kind) - dimension(11, 13, r, "none")
        expect(
            whole(free) == gained - count,
            f"With {terms} the number that comes from broken symmetry is another one: how many of"
            " LoRA's null vectors are left?",
        )


def one_product(answer: Any) -> None:
    """The dimension of BA + c (BA)∘(BA) at r = 2, 5 x 7, and the rank of PERA's Jacobian there.

    The rule keeps all of GL(2): LoRA's dimension and one for c. PERA loses r² - r directions.
    """
    first, second = several(answer, "dimension of the rule", "rank of PERA's Jacobian")
    rule, jacobian = whole(first), whole(second)
    expect(
        rule == dimension(5, 7, 2, "none") + 1,
        "The rule has another dimension: parameters minus null vectors, and it reads BA alone.",
    )
    expect(
        jacobian == dimension(5, 7, 2) - (2**2 - 2),
        "The first number is right. PERA's Jacobian has another rank at these coefficients: which"
        " null vectors are there besides those of a generic point?",
    )


def two_starts(answer: Any) -> None:
    """Directions seen from B = 0 and from A = 0, and in how many of the two h has a gradient."""
    m, n, r = 5, 7, 2
    names = ("directions at B = 0", "directions at A = 0", "the number of starts")
    given = [whole(*pair) for pair in zip(several(answer, *names), names, strict=True)]
    expect(
        given[0] == tangent_dimension(m, n, r, at="start"),
        "At B = 0 it is another number: how many numbers are there in δB?",
    )
    expect(
        # the other start is this one of the transposed layer
        given[1] == tangent_dimension(n, m, r, at="start"),
        "At A = 0 it is another number: which of the factors moves the update there?",
    )
    expect(
        given[2] == _starts_that_move_h(),
        "The number of starts is another one: what is the derivative by h where a factor is zero?",
    )


def _starts_that_move_h() -> int:
    rng = np.random.default_rng(0)
    G, B, A, h = (rng.normal(size=shape) for shape in ((5, 7), (5, 2), (2, 7), 3))
    starts = ((0 * B, A), (B, 0 * A))
    return sum(bool(pera_gradients(G, *start, 0 * h)["h"].any()) for start in starts)


def gauge_classes(answer: Any) -> None:
    """Directions that three updates do not see, Σ r_c², and the one whose classes look alike."""
    which = ("first", "second", "third")
    names = (*(f"directions of the {name} update" for name in which), "number of that update")
    given = [whole(value) for value in several(answer, *names)]
    H = (
        np.array([[2, 2, 2], [2, 2, 2], [2, 2, 2]]),  # 2 h_kk on the diagonal, h_ij off it
        np.diag([0, 10, 0]),
        np.array([[0, 4, 4], [4, 0, 4], [4, 4, 0]]),
    )
    for matrix, got, name in zip(H, given[:3], which, strict=True):
        _, sizes = np.unique(matrix, axis=0, return_counts=True)
        expect(
            got == (sizes**2).sum(),
            f"The {name} update does not see another number of directions: which rows of its H are"
            " equal?",
        )
    expect(
        given[3] in (1, 2, 3) and _alike(H[given[3] - 1]),
        "The directions are right. In that update no two columns of different classes can change"
        " places with H left as it is.",
    )


def _alike(H: Any) -> bool:
    """Whether H stays when some two columns of different classes change places."""
    orders = ([1, 0, 2], [2, 1, 0], [0, 2, 1])
    return any(
        np.array_equal(H[np.ix_(order, order)], H) and not np.array_equal(H[order], H)
        for order in orders
    )


def moved_by_h(answer: Any) -> None:
    """Some b, a and G with (b∘b)ᵀ G (a∘a) not zero, at h = 0."""
    b, a, G = arrays(answer, b=None, a=None, G=None)
    expect(
        (b.size, a.size, G.shape) == (2, 2, (2, 2)),
        "b and a are two numbers each, and G is a 2 x 2 matrix.",
    )
    slope = pera_gradients(G, b.reshape(2, 1), a.reshape(1, 2), np.zeros(1))["h"]
    expect(
        np.isfinite(slope[0]) and slope[0] != 0,
        "Here the gradient by h is zero, so your friend will not be convinced.",
    )


CHECKS = {1: accounts, 2: one_product, 3: two_starts, 4: gauge_classes, 5: moved_by_h}
