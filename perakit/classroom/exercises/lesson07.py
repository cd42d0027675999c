"""Notebook 07: how well can it approximate?"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from perakit import formulas, theory
from perakit.classroom.checks import expect
from perakit.classroom.exercises.answers import arrays, function, number, several, whole

SIDE = 768  # of the layer of exercise 3


def spectral_norm(answer: Any) -> None:
    """Factors nearer to the Gaussian target than LoRA in one norm, and farther in the other."""
    E = theory.targets(8, 10, seed=4)["gaussian"]
    B, A, h = arrays(answer, B=(8, 1), A=(1, 10), h=(1,))
    left = np.linalg.svd(formulas.pera(B, A, h) - E, compute_uv=False)
    sigma = np.linalg.svd(E, compute_uv=False)
    expect(
        np.linalg.norm(left) < np.linalg.norm(sigma[1:]),
        "In Frobenius norm this update is no nearer to E than LoRA's best.",
    )
    expect(left[0] > sigma[1], "In spectral norm this update is as near to E as LoRA's best.")


def gradient_at_the_identity(answer: Any) -> None:
    """The gradient by h at B = v, A = vᵀ, h = 0."""
    v = np.array([[1.0], [-1.0]]) / np.sqrt(2)
    gradient = theory.pera_gradients(v @ v.T - np.eye(2), v, v.T, np.zeros(1))["h"][0]
    value = number(answer)
    expect(value != 0, "It is not zero at this v: b∘b and the residual meet.")
    expect(value < 0, "The sign is wrong: a positive h lowers the error here.")
    expect(abs(value - gradient) < 1e-6, "The sign is right, the size is not.")


def rank_of_one_more(answer: Any) -> None:
    """The first rank whose coefficients cost as much as a rank of LoRA."""
    rank, price = whole(answer), SIDE + SIDE
    expect(rank >= 1, "A rank is at least 1.")
    expect(rank * (rank + 1) // 2 >= price, "At this rank the coefficients still cost less.")
    expect((rank - 1) * rank // 2 < price, "A smaller rank is enough.")


def recovered_by_hand(answer: Any) -> None:
    """A function that finds b, a and h of a rank-1 PERA from W0 and the merged weight."""
    recover = function(answer, "(merged, W0)")
    for seed, m, n in ((0, 8, 10), (1, 13, 7), (2, 5, 5)):
        rng = np.random.default_rng(seed)
        W0, b, a, h = (rng.normal(size=size) for size in ((m, n), (m, 1), (1, n), (1,)))
        delta = formulas.pera(b, a, h)
        b, a, h = arrays(recover(W0 + delta, W0.copy()), b=None, a=None, h=None)
        expect(
            (b.size, a.size, h.size) == (m, n, 1),
            f"On a layer of {m} x {n} b is to have {m} entries, a {n}, and h one.",
        )
        again = formulas.pera(b.reshape(m, 1), a.reshape(1, n), h.reshape(1))
        gap = np.linalg.norm(again - delta) / np.linalg.norm(delta)
        expect(
            gap < 1e-6,
            f"On a layer of {m} x {n} the factors found make another update, {gap:.0%} of ΔW away.",
        )


def another_pair(answer: Any) -> None:
    """A function that gives other factors for the same update at h = (1, 2, 1)."""
    other, h = function(answer, "(B, A)"), np.array([1.0, 2.0, 1.0])
    for seed, m, n in ((0, 6, 7), (1, 9, 4)):
        rng = np.random.default_rng(seed)
        B, A = rng.normal(size=(m, 2)), rng.normal(size=(2, n))
        B2, A2 = arrays(other(B.copy(), A.copy()), B=(m, 2), A=(2, n))
        expect(
            np.allclose(formulas.pera(B2, A2, h), formulas.pera(B, A, h)),
            "With these factors and h = (1, 2, 1) the update is another one.",
        )
        expect(
            not _only_scaled(B, B2),
            "Each of these columns is one of the old ones, up to a factor: give a pair that a"
            " scaling and a reordering do not explain.",
        )


def _only_scaled(B: NDArray[np.float64], B2: NDArray[np.float64]) -> bool:
    """Whether every column of B2 is a multiple of a column of B."""
    unit, unit2 = (X / np.maximum(np.linalg.norm(X, axis=0), 1e-300) for X in (B, B2))
    return bool((abs(unit.T @ unit2).max(axis=0) > 1 - 1e-9).all())


def facts_of_the_report(answer: Any) -> None:
    """K and the numbers that PERA and LoRA of rank 4 train on 64 x 64."""
    names = ("The rank K", "PERA's count", "LoRA's count")
    values = [
        whole(value, name) for value, name in zip(several(answer, *names), names, strict=True)
    ]
    right = (
        formulas.rank_bound(4),
        formulas.parameter_count(64, 64, 4, "pera"),
        formulas.parameter_count(64, 64, 4, "lora"),
    )
    for value, expected, name in zip(values, right, names, strict=True):
        expect(value == expected, f"{name} is not right.")


CHECKS = {
    1: spectral_norm,
    2: gradient_at_the_identity,
    3: rank_of_one_more,
    4: recovered_by_hand,
    5: another_pair,
    6: facts_of_the_report,
}
