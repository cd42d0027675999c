"""Notebook 01: low-rank adaptation."""

from __future__ import annotations

from typing import Any

import numpy as np

from perakit.classroom.checks import expect
from perakit.classroom.exercises.answers import number

PIECES = (3, 1)  # the singular values of the wanted change E of the notebook


def zeros(answer: Any) -> None:
    """The loss after many steps from two factors at zero.

    Nothing moves, so it is the loss of ΔW = 0, half of the squared pieces of E.
    """
    stuck = sum(size**2 for size in PIECES) / 2
    expect(
        np.isclose(number(answer), stuck, rtol=1e-3),
        "The loss where both factors are zero is another number: what do the two gradients there"
        " do to the factors, and what is the update then?",
    )


def doubling(answer: Any) -> None:
    """The growth of the first change of ΔW when alpha is doubled: s stands in it twice."""
    expect(
        np.isclose(number(answer), 2.0**2, rtol=1e-3),
        "The first step grows by another factor: count each place at which s stands between the"
        " gradient of B and the update.",
    )


CHECKS = {1: zeros, 2: doubling}
