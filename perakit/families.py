"""Families of updates: the set {ΔW = update(factors)} that a rule can make on an (m, n) layer.

Every method (`perakit.PERA(2)`) is one; `Formula` makes one of a rule of your own. The probes of
`perakit.theory` ask questions about families, and `perakit.strategies.rules` draws them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Protocol, runtime_checkable

from perakit import formulas
from perakit.errors import PerakitError
from perakit.formulas import Array

Shapes = Mapping[str, tuple[int, ...]]
FAMILIES = (*formulas.TERMS, "none")


@runtime_checkable
class Family(Protocol):
    """What a probe needs to know of an update rule; `perakit.Method` has it."""

    def shapes(self, m: int, n: int) -> Shapes:
        """Name and shape of every factor on an (m, n) layer."""

    def update(self, W0: Array, **factors: Array) -> Array:
        """ΔW (m, n) of arrays of any kind; W0 may be None where the rule does not read it."""

    def rank_bound(self, m: int, n: int) -> int:
        """The largest rank that ΔW can have by construction."""


@dataclass(frozen=True)
class Formula:
    """A rule of your own as a family: `Formula(my_rule, lambda m, n: {"B": (m, 2), "A": (2, n)})`.

    rule: takes the factors by name and returns ΔW (m, n); written with operators that NumPy and
    torch share, as in `perakit.formulas`. factors: (m, n) -> name and shape of each. bound: (m, n)
    -> largest possible rank; None means min(m, n). A rule that reads W0 takes it by
    `functools.partial`.

    >>> from perakit import formulas, theory
    >>> rule = theory.Formula(formulas.lora, lambda m, n: {"B": (m, 2), "A": (2, n)})
    >>> theory.measured_rank(7, 6, rule)
    2
    """

    rule: Callable[..., Array]
    factors: Callable[[int, int], Shapes]
    bound: Callable[[int, int], int] | None = None

    def shapes(self, m: int, n: int) -> Shapes:
        """As `Family.shapes`."""
        return self.factors(m, n)

    def update(self, W0: Array, **factors: Array) -> Array:
        """As `Family.update`."""
        return self.rule(**factors)

    def rank_bound(self, m: int, n: int) -> int:
        """As `Family.rank_bound`."""
        return min(m, n) if self.bound is None else min(m, n, self.bound(m, n))


def pera(rank: int, terms: str = "full", degree: int = 2) -> Formula:
    """`formulas.pera`'s family, unscaled; terms="none": `formulas.lora`'s, without products."""
    if terms == "none":
        formulas.check_count("rank", rank)
        return Formula(
            formulas.lora, lambda m, n: {"B": (m, rank), "A": (rank, n)}, lambda m, n: rank
        )
    if terms not in FAMILIES:
        raise PerakitError(
            f"terms={terms!r} is unknown: choose from {', '.join(map(repr, FAMILIES))}"
        )
    bound = formulas.rank_bound(rank, terms, degree)
    return Formula(
        partial(formulas.pera, terms=terms, degree=degree),
        lambda m, n: {"B": (m, rank), "A": (rank, n), "h": (bound - rank,)},
        lambda m, n: bound,
    )
