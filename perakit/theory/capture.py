"""How much of a random target an update can capture: a theorem with constants, and measurements.

PERA's updates are a cone: c W is one whenever W is (claim `cone`). So the best of them at a target
E takes away the share max ⟨E, W⟩² / ‖W‖² ‖E‖² of ‖E‖²: its `captured` share, the square of the
cosine of the least angle between E and an update. Of a Gaussian E the bound of `capture_bound` is
proved in claim `capture-bound`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from perakit import formulas
from perakit.errors import PerakitError
from perakit.theory.approximation import best_approximation
from perakit.theory.families import Family, check_layer, check_matrix


@dataclass(frozen=True)
class CaptureBound:
    """What no PERA update captures more of, of a Gaussian m x n target. See `capture_bound`.

    parameters: P; by_parameters, by_rank: two bounds of the share, vacuous where they are 1 or
    more.
    """

    m: int
    n: int
    rank: int
    parameters: int
    by_parameters: float
    by_rank: float
    failure: float

    @property
    def share(self) -> float:
        """The smaller bound, at most 1: the whole target."""
        return min(1.0, self.by_parameters, self.by_rank)

    def __str__(self) -> str:
        vacuous = "; vacuous" if self.share == 1 else ""
        return (
            f"{self.m} x {self.n}, r = {self.rank}: share <= {self.by_parameters:.3f} by its"
            f" {self.parameters} parameters, <= {self.by_rank:.3f} by its rank{vacuous}"
        )


def capture_bound(
    m: int, n: int, rank: int, *, terms: str = "full", degree: int = 2, failure: float = 1e-6
) -> CaptureBound:
    """A bound of the share of a Gaussian target that any PERA update captures.

    ⟨E, W⟩² <= share ‖E‖² ‖W‖² for all updates W at once, with probability >= 1 − failure. By the P
    parameters: with k >= P draws, D(q) = log 2 + q log q + (1−q) log(1−q) and d the degree of the
    entries, share = k Φ⁻¹(q + 1/(2√k))² / (mn − 1) where k D(q) = P log(4 e d k/P) +
    log(4/failure), at the best k. By the rank K: K σ₁² / ‖E‖², with σ₁ <= √m + √n + √(2 log(2/
    failure)) and ‖E‖² >= mn − 2 √(mn log(2/failure)).

    m, n, rank: of the layer and the update; terms, degree: of PERA; failure: a probability.
    Sources: Warren 1968 (sign patterns), Davidson and Szarek 2001, Laurent and Massart 2000.
    Raises PerakitError for bad sizes or a failure outside (0, 1).

    >>> print(pk.theory.capture_bound(4096, 4096, 64))
    4096 x 4096, r = 64: share <= 0.884 by its 526368 parameters, <= 2.278 by its rank
    """
    check_layer(m, n, rank)
    if not 0 < failure < 1:
        raise PerakitError(f"failure={failure!r} is no probability: it must lie between 0 and 1")
    P = formulas.parameter_count(m, n, rank, "pera", terms=terms, degree=degree)
    by_parameters = min(
        _by_signs(m * n, P, 2 * degree + 1, math.ceil(P * 1.05**step), math.log(failure))
        for step in range(40, 140)
    )
    K = min(formulas.rank_bound(rank, terms, degree), m, n)
    log = math.log(2 / failure)
    energy = m * n - 2 * math.sqrt(m * n * log)
    largest = math.sqrt(m) + math.sqrt(n) + math.sqrt(2 * log)
    by_rank = K * largest**2 / energy if energy > 0 else math.inf
    return CaptureBound(m, n, rank, P, by_parameters, by_rank, failure)


def _by_signs(entries: int, parameters: int, degree: int, draws: int, log_failure: float) -> float:
    """The share at a given number of draws, infinite where they are too few."""
    from scipy.optimize import brentq
    from scipy.special import ndtri

    log_patterns = parameters * math.log(4 * math.e * degree * draws / parameters)
    needed = (log_patterns + math.log(4) - log_failure) / draws

    def excess(q: float) -> float:
        return math.log(2) + q * math.log(q) + (1 - q) * math.log1p(-q) - needed

    if entries < 2 or excess(1 - 1e-15) <= 0:
        return math.inf
    q = brentq(excess, 0.5, 1 - 1e-15, xtol=1e-15) + 1 / (2 * math.sqrt(draws))
    return float(draws * ndtri(q) ** 2 / (entries - 1)) if q < 1 else math.inf


def closed_form(parameters: int) -> float:
    """C of share <= C P/(mn − 1) with probability >= 1 − 4e^−P, for PERA of degree 2: k = 60 P."""
    return _by_signs(parameters + 1, parameters, 5, 60 * parameters, math.log(4) - parameters)


def captured(E: Any, method: Family, seed: int = 0, starts: int | None = None) -> float:
    """The share ⟨E, W⟩² / ‖W‖² ‖E‖² of a target that the best update found captures.

    A lower bound of what can be captured; exact for LoRA, where it is Σ_{i<=r} σ_i² / Σ σ_i².

    E: target (m, n), not zero; method, seed, starts: as `best_approximation` has them.

    >>> import perakit as pk
    >>> round(pk.theory.captured(np.diag([2.0, 1.0]), pk.LoRA(1)), 6)
    0.8
    """
    E = check_matrix("E", E)
    if not E.any():
        raise PerakitError("E is zero: there is nothing to capture")
    W = best_approximation(E, method, seed=seed, starts=starts).delta
    size = np.linalg.norm(W) * np.linalg.norm(E)
    return float((np.vdot(E, W) / size) ** 2) if size else 0.0
