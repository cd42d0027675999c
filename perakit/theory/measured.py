"""Ranks that are measured, and what kind of answer each is: modulo primes, or in floats."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from perakit.errors import PerakitError
from perakit.formulas import check_count
from perakit.theory import field
from perakit.theory.families import (
    Factors,
    Family,
    as_family,
    as_float64,
    evaluate,
    held_factors,
    proved_rank,
)
from perakit.theory.rank import numerical_rank
from perakit.theory.residues import NotPolynomialError, Residues, lifted


class ModularRank(int):
    """A rank by elimination modulo primes: a proved lower bound of the generic rank.

    proved: it meets an upper bound that is proved, so it is the generic rank at `where`. chance:
    else, of being too small: deg/p a draw, with deg the degree of a minor that would show it; drawn
    twice, with two primes (Schwartz and Zippel; if that minor vanishes modulo neither). 0 where
    proved.

    >>> pk.theory.measured_rank(8, 9, 2)
    5 (proved at 8 x 9)
    """

    proved: bool
    chance: float
    where: str

    def __new__(  # noqa: D102
        cls, rank: int, proved: bool = False, chance: float = 1.0, where: str = ""
    ) -> ModularRank:
        self = super().__new__(cls, rank)
        self.proved, self.chance, self.where = proved, chance, where
        return self

    def __repr__(self) -> str:
        if self.proved:
            return f"{int(self)} (proved at {self.where})"
        return f"{int(self)} (at {self.where}, but for a chance of {self.chance:.0e})"

    __str__ = int.__repr__


class FloatRank(int):
    """A rank by singular values in float64, of a rule that cannot be read modulo a prime.

    gap: the last counted singular value over the next: the larger, the clearer. reason: what the
    rule does that a prime field has not.

    >>> found = pk.theory.measured_rank(8, 9, pk.DoRA(2))
    >>> found == 8, found.gap > 1e9, found.reason
    (True, True, '.clamp cannot be read modulo a prime')
    """

    gap: float
    reason: str

    def __new__(  # noqa: D102
        cls, rank: int, gap: float = math.inf, reason: str = ""
    ) -> FloatRank:
        self = super().__new__(cls, rank)
        self.gap, self.reason = gap, reason
        return self

    def __repr__(self) -> str:
        return f"{int(self)} (in float64, gap {self.gap:.0e}: {self.reason})"

    __str__ = __repr__


def measured_rank(
    m: int, n: int, rank: int | Family, terms: str = "full", degree: int = 2, seed: int = 0
) -> ModularRank | FloatRank:
    """Generic rank of ΔW, measured: the rule is read with random residues modulo a prime.

    m, n: the layer; rank: r, with `terms` ("none": LoRA) and `degree`, or any family; seed: of the
    draw. For PERA it is min(m, n, K). Returns an int that says how it was found: a `ModularRank`,
    or a `FloatRank` where the rule is no polynomial.

    >>> [int(pk.theory.measured_rank(8, 9, 2, terms)) for terms in ("full", "none")]
    [5, 2]
    """
    family = as_family(m, n, rank, terms, degree)
    check_count("seed", seed, least=0)
    proved = proved_rank(family, m, n)
    best = degree = 0
    for k, prime in enumerate(field.PRIMES):
        generator = np.random.default_rng((seed, k))
        try:
            delta = read(family, *drawn(family, m, n, prime, generator, None), (m, n))
        except PerakitError as error:
            return _in_floats(family, m, n, generator, reason(error))
        best = max(best, len(field.echelon(delta.value.copy(), prime)[1]))
        if best == proved:
            return ModularRank(best, True, 0.0, f"{m} x {n}")
        degree = max(degree, delta.degree)
    return ModularRank(best, False, chance(best, degree), f"{m} x {n}")


def drawn(
    family: Family,
    m: int,
    n: int,
    prime: int,
    generator: np.random.Generator,
    at: Factors | None,
) -> tuple[Residues, dict[str, Residues]]:
    """W0 and the factors as random residues; those in `at` are held."""
    held = held_factors(family, m, n, at)
    factors = {
        name: (
            Residues(field.residues(held[name], prime), prime)
            if name in held
            else Residues(field.draw(generator, shape, prime), prime, degree=1)
        )
        for name, shape in family.shapes(m, n).items()
    }
    return Residues(field.draw(generator, (m, n), prime), prime, degree=1), factors


def read(
    family: Family, W0: Residues, factors: Mapping[str, Residues], shape: tuple[int, int]
) -> Residues:
    """ΔW of residues; of a rule that ignores its factors too."""
    return lifted(evaluate(family, W0, factors, shape), W0.prime)


def chance(rank: int, degree: int) -> float:
    """The product over PRIMES of (rank + 1) · degree / p, of entries of `degree` at most."""
    # A constant of the rule is drawn by nobody, but counts as if it were
    minor = (rank + 1) * max(degree, 1)
    return math.prod(min(1.0, minor / prime) for prime in field.PRIMES)


def reason(error: PerakitError) -> str:
    """Why a rule was not read modulo a prime, in few words."""
    cause: BaseException | None = error
    while cause is not None:  # NumPy may put an error of its own on top
        if isinstance(cause, NotPolynomialError):
            return f"{cause.operation} cannot be read modulo a prime"
        cause = cause.__cause__
    return str(error).split(";")[0]


def _in_floats(
    family: Family, m: int, n: int, generator: np.random.Generator, reason: str
) -> FloatRank:
    factors: dict[str, Any] = {
        name: generator.standard_normal(shape) for name, shape in family.shapes(m, n).items()
    }
    delta = evaluate(family, generator.standard_normal((m, n)), factors, (m, n))
    found = numerical_rank(as_float64(delta))
    return FloatRank(found.rank, found.gap, reason)
