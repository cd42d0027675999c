"""Notebook 11: LoRA's family."""

from __future__ import annotations

from typing import Any

import numpy as np

from perakit import formulas
from perakit.adapters import Method
from perakit.classroom.checks import expect, fail
from perakit.classroom.exercises.answers import array, function, several, whole
from perakit.testing import assert_adapter_laws

RANK = 2  # of the method of exercise 3


def unplanned_zero(answer: Any) -> None:
    """Which target has a second zero, of which method, and from which rank on."""
    names = ("the target", "the method", "the rank")
    target, method, rank = several(answer, *names)
    expect(
        isinstance(target, str) and isinstance(method, str),
        "Target and method are to be given by their names in the picture.",
    )
    expect(target.strip().lower() == "rows scaled", "This target is not the one.")
    expect(
        method.strip().lower() != "dora",
        "For this method the target was made: which other one has a zero there?",
    )
    expect(method.strip().lower() == "hira", "This method has no zero on that target.")
    # diag(d) W0 = W0 ∘ (d 1ᵀ)
    expect(whole(rank, "The rank") == 1, "The rank is not the smallest that is enough.")


def best_mora(answer: Any) -> None:
    """A function that gives the square M whose tiling is nearest to E."""
    best = function(answer, "(E, side)")
    for seed, m, n, side in ((0, 8, 8, 3), (1, 7, 5, 4), (2, 6, 9, 3)):
        E = np.random.default_rng(seed).normal(size=(m, n))
        M = array(best(E.copy(), side), "M", (side, side))
        residual = formulas.mora(M, m, n) - E
        # It is the nearest if the residual is orthogonal to all tilings: its sums are zero
        sums = [residual[p::side, q::side].sum() for p in range(side) for q in range(side)]
        expect(
            np.abs(sums).max() < 1e-8,
            f"On a target of {m} x {n} with side {side} there is a square that comes nearer.",
        )


def method_of_ones_own(answer: Any) -> None:
    """A method with the update BA + c (BA)∘(BA), which obeys the laws."""
    if not isinstance(answer, Method):
        fail("The answer is to be a method, an instance of your class at rank 2.")
    expect(answer.rank == RANK, "The rank is to be 2.")
    shapes = answer.shapes(13, 17)
    others = [name for name in shapes if name not in ("B", "A")]
    expect(
        shapes.get("B") == (13, RANK) and shapes.get("A") == (RANK, 17) and len(others) == 1,
        "`shapes` is to name B, A and one more parameter.",
    )
    expect(tuple(shapes[others[0]]) == (1,), "The third parameter is to be one number.")
    rng = np.random.default_rng(0)
    B, A, c = (rng.normal(size=size) for size in ((13, RANK), (RANK, 17), (1,)))
    expect(
        np.allclose(
            answer.update(None, **{"B": B, "A": A, others[0]: c}),
            answer.scale * (B @ A + c * (B @ A) ** 2),
        ),
        "`update` is another matrix than scale · (BA + c (BA)∘(BA)).",
    )
    assert_adapter_laws(answer, compiled=False)


CHECKS = {1: unplanned_zero, 2: best_mora, 3: method_of_ones_own}
