"""Notebook 03: Eq. 9 in symbols."""

from __future__ import annotations

from typing import Any

import numpy as np

from perakit.classroom.checks import expect, fail
from perakit.classroom.exercises.answers import array, function, whole
from perakit.formulas import pera
from perakit.theory import pera_gradients

RANKS = (1, 2, 3, 4)  # those the exercise asks about


def lower_triangle(answer: Any) -> None:
    """The ranks at which the pairs of the lower triangle come in the order of the upper one."""
    if isinstance(answer, str) or not np.iterable(answer):
        fail("The answer is a set of ranks, in braces.")
    given = {whole(rank, "Each rank") for rank in answer}
    expect(given <= set(RANKS), "Only the ranks that the exercise names are asked about.")
    for rank in RANKS:
        if (rank in given) != _same_order(rank):
            fail(
                "One rank at least is wrongly in the set, or is missing: write its pairs down in"
                " both orders, one below the other."
            )


def _same_order(rank: int) -> bool:
    upper = list(zip(*np.triu_indices(rank), strict=True))
    lower = [(j, i) for i, j in zip(*np.tril_indices(rank), strict=True)]
    return upper == lower


def nearest_coefficients(answer: Any) -> None:
    """A function (B, A, E) -> h with the least ‖ΔW - E‖.

    There the gradient by each h_ij is zero.
    """
    nearest = function(answer, "(B, A, E)")
    rng = np.random.default_rng(3)
    for m, n, r in ((5, 7, 1), (7, 5, 2), (6, 8, 3)):
        B, A, E = (rng.normal(size=shape) for shape in ((m, r), (r, n), (m, n)))
        h = array(nearest(B.copy(), A.copy(), E.copy()), "What the function returns")
        size = f"at r = {r}"
        expect(
            h.shape == (r * (r + 1) // 2,),
            f"Not one number for each pair i <= j in one row, {size}: its shape is {h.shape}.",
        )
        slopes = pera_gradients(pera(B, A, h) - E, B, A, h)["h"]
        expect(
            np.abs(slopes).max() < 1e-6,
            f"Another h comes nearer to E, {size}: the distance still has a slope at yours. Is BA"
            " taken from E first? Are the pairs in the order asked for?",
        )


CHECKS = {1: lower_triangle, 2: nearest_coefficients}
