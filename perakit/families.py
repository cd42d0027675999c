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
from perakit.errors import PerakitError, short
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
    -> largest possible rank; None means min(m, n). constants: fixed arrays that the rule also takes
    by name, such as the random matrices of VeRA; it gets each in the kind that the factors have.
    None means that there are none.

    >>> from perakit import formulas, theory
    >>> rule = theory.Formula(formulas.lora, lambda m, n: {"B": (m, 2), "A": (2, n)})
    >>> theory.measured_rank(7, 6, rule)
    2 (proved at 7 x 6)
    """

    rule: Callable[..., Array]
    factors: Callable[[int, int], Shapes]
    bound: Callable[[int, int], int] | None = None
    constants: Mapping[str, Array] | None = None

    def __post_init__(self) -> None:
        for name, value, wanted in (
            ("rule", self.rule, "a function of the factors by name"),
            ("factors", self.factors, "a function, as lambda m, n: {'B': (m, 2), 'A': (2, n)}"),
        ):
            if not callable(value):
                raise PerakitError(
                    f"{name}={short(value)} cannot be called: pass {wanted}, since sizes depend on"
                    " the layer"
                )

    def shapes(self, m: int, n: int) -> Shapes:
        """As `Family.shapes`."""
        return self.factors(m, n)

    def update(self, W0: Array, **factors: Array) -> Array:
        """As `Family.update`."""
        return self.rule(**factors, **self._constants(factors))

    def rank_bound(self, m: int, n: int) -> int:
        """As `Family.rank_bound`."""
        return min(m, n) if self.bound is None else min(m, n, self.bound(m, n))

    def _constants(self, factors: Mapping[str, Array]) -> Mapping[str, Array]:
        """The constants; as tensors of the factors' dtype and device where these are tensors."""
        if not self.constants:
            return {}
        import torch

        one = next(iter(factors.values()), None)
        if not isinstance(one, torch.Tensor):
            return self.constants
        return {
            name: torch.as_tensor(value, dtype=one.dtype, device=one.device)
            for name, value in self.constants.items()
        }


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
