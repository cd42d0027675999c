"""Notebook 12: interaction strength, and what it measures."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from perakit.classroom.checks import expect
from perakit.classroom.exercises.answers import array, function, number, several

AT, STEP = 0.1, 0.5  # the point and the step of exercise 1
MORE = 1.3  # the report of exercise 3: 30 % more


def kink(answer: Any) -> None:
    """S_12 of relu(x1 + x2) at (0.1, 0.1), by autograd and by differences with step 0.5."""
    names = ("by autograd", "by differences")
    exact, rough = (
        number(value, name.capitalize())
        for value, name in zip(several(answer, *names), names, strict=True)
    )

    def f(x: float, y: float) -> float:
        return max(x + y, 0.0)

    up, down = AT + STEP, AT - STEP
    second = (f(up, up) - f(up, down) - f(down, up) + f(down, down)) / (4 * STEP**2)
    # The point is off the kink, where the function is linear
    expect(
        abs(exact) < 1e-12, "By autograd: what is the function near the point, within a small disc?"
    )
    expect(
        abs(abs(rough) - abs(second)) < 1e-6,
        "By differences: four values of the function, over 4 times the step squared.",
    )


def other_units(answer: Any) -> None:
    """A function that gives, for a diagonal d, the factors by which S changes."""
    factors = function(answer, "(d)")
    for d in ([2.0, 4.0], [0.5, 3.0, -1.0], [-2.0, 0.25, 5.0, 1.0]):
        found = array(factors(np.array(d)), "The table of factors", (len(d), len(d)))
        expect((found > 0).all(), "S is a mean of sizes, so no factor is zero or negative.")
        expect(
            np.allclose(found, 1 / np.abs(np.outer(d, d))),
            "With another diagonal the factors are different from these.",
        )


def thirty_percent(answer: Any) -> None:
    """The factor of all features that makes S 30 % larger, for the same function of the input."""
    factor = number(answer)
    expect(factor > 0, "Give a positive factor.")
    expect(factor < 1, "Larger numbers for the features make S smaller.")
    expect(
        abs(factor - 1 / math.sqrt(MORE)) < 2e-3,
        "S has the unit of a feature in its denominator: how often?",
    )


CHECKS = {1: kink, 2: other_units, 3: thirty_percent}
