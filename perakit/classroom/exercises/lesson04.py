"""Notebook 04: rank."""

from __future__ import annotations

from typing import Any

import numpy as np

from perakit.classroom.checks import expect
from perakit.classroom.exercises.answers import array, number, several, whole
from perakit.formulas import expand, parameter_count, rank_bound
from perakit.theory import dimension, exact_rank, numerical_rank

WIDTH = 768  # of the layer that the first exercise asks about


def no_limit(answer: Any) -> None:
    """The least r with K >= 768, and PERA's parameters there as a share of the layer's."""
    first, second = several(answer, "r", "share")
    rank, share = whole(first, "r"), number(second, "The share")
    expect(
        rank > 1 and rank_bound(rank) >= WIDTH,
        "At this r the bound K is still below the width of the layer.",
    )
    expect(rank_bound(rank - 1) < WIDTH, "A smaller r has a K that is large enough, too.")
    right = parameter_count(WIDTH, WIDTH, rank, "pera") / WIDTH**2
    expect(
        not np.isclose(share, 100 * right, rtol=1e-2),
        "r is right. The share is asked for as a number between 0 and 1, not in percent.",
    )
    expect(
        np.isclose(share, right, rtol=5e-3),
        "r is right, the share is not: count both factors and the coefficients.",
    )


def closed_under_products(answer: Any) -> None:
    """A matrix of rank 3 whose columns' products bring nothing new: rank [b_i, b_i∘b_j] = 3.

    The columns of every update are mixtures of these, and of generic A and h they are all needed.
    """
    B = array(answer)
    expect(
        B.ndim == 2 and B.shape[1] == 3 and B.shape[0] >= 4,
        f"The answer is a matrix with three columns and at least four rows, not {B.shape}.",
    )
    expect(B.any(axis=1).all(), "A row of B is zero: that was excluded.")
    expect(_rank(B) == 3, "The columns of B are not linearly independent: that was excluded.")
    polynomial, _ = expand(B, np.ones((3, 1)), np.ones(6))  # (m, 9)
    expect(
        _rank(polynomial) == 3,
        "Some A and h give an update of a larger rank: a product of two columns of B is no mixture"
        " of the three columns.",
    )


def _rank(M: Any) -> int:
    whole = np.array_equal(M, np.rint(M)) and np.abs(M).max() < 1e9
    return int(exact_rank(M.astype(int)) if whole else numerical_rank(M).rank)


def rank_is_not_dimension(answer: Any) -> None:
    """The dimensions of LoRA of rank 14 and PERA of rank 4 on a 64 x 48 layer."""
    given = several(answer, "LoRA of rank 14", "PERA of rank 4")
    for name, value, method, right in (
        ("LoRA", given[0], ("lora", 14), dimension(64, 48, 14, "none")),
        ("PERA", given[1], ("pera", 4), dimension(64, 48, 4)),
    ):
        (kind, rank), got = method, whole(value, f"The number of {name}")
        expect(
            got != parameter_count(64, 48, rank, kind),
            f"{name}: that is how many parameters are trained. Some of them do the same work.",
        )
        expect(
            got == right,
            f"{name}: another number says how many different updates there are, in directions.",
        )


CHECKS = {1: no_limit, 2: closed_under_products, 3: rank_is_not_dimension}
