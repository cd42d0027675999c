"""Pieces of arguments: cases to draw, identities modulo primes and in symbols, comparisons.

An identity of polynomials that holds at random residues holds but for a chance of at most deg/p a
draw (Schwartz and Zippel); each case is drawn with two primes. What it is compared with is `loop`,
the definition written out, which shares nothing with the rules.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from perakit import formulas
from perakit.errors import PerakitError
from perakit.theory import field, symbolic
from perakit.theory.derivation import Derivation, plain
from perakit.theory.families import check_update, of_rule
from perakit.theory.findings import Finding, factors
from perakit.theory.jacobian import jacobian_rank
from perakit.theory.measured import FloatRank, ModularRank, measured_rank
from perakit.theory.residues import Residues, gathered

PAPER = "arXiv 2604.11841"
SHAPES = ((2, 3, 2), (3, 1, 1), (1, 2, 3))  # of symbolic identities: (m, n, r), none square
AT = "in symbols at " + ", ".join(f"{m} x {n} r = {rank}" for m, n, rank in SHAPES)
RANKS = range(1, 13)
DEGREES = range(2, 7)
LARGE = ((311, 257, 1), (127, 131, 3))  # layers that no identity in symbols reaches
WIDE = ((127, 131, 1),)  # where a Jacobian is taken


# --- cases: a layer, a rank, and what a rule takes besides ----------------------------------------


@dataclass(frozen=True)
class Case:
    """A layer (m, n), a rank, and PERA's terms and degree; "none" is LoRA."""

    m: int
    n: int
    rank: int
    terms: str = "full"
    degree: int = 2

    def __str__(self) -> str:
        more = "" if self.terms == "none" else f", terms {self.terms}, degree {self.degree}"
        return f"{self.m} x {self.n}, r = {self.rank}{more}"

    @property
    def options(self) -> dict[str, Any]:
        """What a rule is called with besides arrays: nothing that is its default."""
        default = (self.terms, self.degree) in (("full", 2), ("none", 2))
        return {} if default else {"terms": self.terms, "degree": self.degree}

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of B, A and, for PERA, h."""
        made: dict[str, tuple[int, ...]] = {"B": (self.m, self.rank), "A": (self.rank, self.n)}
        if self.terms != "none":
            K = formulas.rank_bound(self.rank, self.terms, self.degree)
            made["h"] = (K - self.rank,)
        return made

    def draw(self, seed: int, k: int) -> dict[str, Residues]:
        """The factors as random residues modulo prime k."""
        prime, generator = field.PRIMES[k], np.random.default_rng((seed, k))
        return {
            name: Residues(field.draw(generator, shape, prime), prime, degree=1)
            for name, shape in self.shapes().items()
        }


def cases(
    formula: Callable[..., Any],
    seed: int,
    terms: Sequence[str] = formulas.TERMS,
    degrees: Sequence[int] = DEGREES,
    most: int = 2000,
) -> list[Case]:
    """Every rank up to 12 on small layers, degrees up to 6 (at ranks 1 to 4 and 7), large layers.

    A rule that takes no terms and degree is asked for what it is: "full", at degree 2, where this
    is among `terms` and `degrees`. most: the largest K at degrees above 2, where rank 12 has up to
    18,563 products.
    """
    generator = np.random.default_rng(seed)
    plain = [kind for kind in terms if kind in ("full", "none")]
    if plain and 2 in degrees and not takes_options(formula):
        terms, degrees = plain, [2]

    def small(rank: int) -> tuple[int, int]:
        # Narrow layers hide much: rank 7, which every degree has, gets none
        m, n = generator.choice((5, 7, 11, 13) if rank == 7 else (1, 2, 3, 5, 7, 11, 13), 2)
        return int(m), int(n)

    found = []
    for kind in terms:
        for degree in degrees:
            ranks: Iterable[int] = RANKS
            if degree > 2:
                ranks = (1, 2, 3, 4, 7)
            found += [
                Case(*small(rank), rank, kind, degree)
                for rank in ranks
                if degree == 2 or formulas.rank_bound(rank, kind, degree) <= most
            ]
        found += [Case(*layer, kind, min(degrees)) for layer in LARGE]
    return found


def takes_options(formula: Callable[..., Any]) -> bool:
    """Whether a rule can be called with terms and degree, as `formulas.pera`."""
    try:
        inspect.signature(formula).bind(*"BAh", terms="full", degree=2)
    except (TypeError, ValueError):
        return False
    return True


def asked(found: Sequence[Case], how: str = "modulo two primes") -> str:
    """What a list of cases amounts to, for a summary."""
    ranks, degrees = sorted({case.rank for case in found}), {case.degree for case in found}
    gaps = ranks != list(range(ranks[0], ranks[-1] + 1))
    r = ", ".join(map(str, ranks)) if gaps else f"{ranks[0]} to {ranks[-1]}"
    largest = max(found, key=lambda case: case.m * case.n)
    degree = f", degree {min(degrees)} to {max(degrees)}" if len(degrees) > 1 else ""
    return f"{how} at {len(found)} sizes, r = {r}{degree}, up to {largest.m} x {largest.n}"


@functools.lru_cache(512)
def loop(case: Case, seed: int, k: int) -> np.ndarray:
    """ΔW modulo prime k at `case.draw(seed, k)`."""
    drawn = {name: x.value.astype(np.int64) for name, x in case.draw(seed, k).items()}
    return written_out(case, field.PRIMES[k], **drawn)


def written_out(
    case: Case, prime: int, B: np.ndarray, A: np.ndarray, h: np.ndarray | None = None
) -> np.ndarray:
    """Eq. 9 to 11, product by product, in whole numbers modulo a prime."""
    delta = np.zeros((case.m, case.n), dtype=np.int64)
    for i in range(case.rank):
        delta = (delta + np.multiply.outer(B[:, i], A[i])) % prime
    if h is None:
        return delta
    coefficients = iter(h.tolist())
    for d in range(2, case.degree + 1):
        for row in combinations_with_replacement(range(case.rank), d):
            if case.terms != "full" and (len(set(row)) == 1) != (case.terms == "square"):
                continue
            b, a = B[:, row[0]], A[row[0]]
            for i in row[1:]:
                b, a = b * B[:, i] % prime, a * A[i] % prime
            a = a * next(coefficients) % prime
            delta = (delta + np.multiply.outer(b, a)) % prime
    return delta


def identical(
    found: Sequence[Case],
    seed: int,
    left: Callable[..., Any],
    right: Callable[..., Any],
    what: str,
) -> Finding:
    """Whether left(case, k, **factors) and right(...) agree modulo both primes in every case.

    Arrays of residues, or of whole numbers. The finding names the first case in which they do not.
    """
    sides = _Side(left), _Side(right)
    for case in found:
        for k, prime in enumerate(field.PRIMES):
            one, other = (side.read(case, k, case.draw(seed, k)) for side in sides)
            if one.shape != other.shape:
                return fails(
                    f"{what}: shape {one.shape} where {other.shape} is due, at {case}",
                    {"case": str(case)},
                )
            wrong = np.argwhere(one != other)
            if wrong.size:
                where = ", ".join(map(str, wrong[0].tolist()))
                return fails(
                    f"{what}: not so at {case}, entry ({where}), modulo {prime}",
                    {"case": str(case)},
                )
    return Finding(True, f"{what}, {asked(found)}")


class _Side:
    """One side of an identity, and whether it works entry by entry."""

    def __init__(self, rule: Callable[..., Any]) -> None:
        self.rule, self.entrywise = rule, False

    def read(self, case: Case, k: int, drawn: Mapping[str, Residues]) -> np.ndarray:
        """The residues that the rule makes of `drawn`."""
        if self.entrywise:
            # A residue of one entry is slow: Python's whole numbers say the same, unless the rule
            # has constants that are none
            whole = {name: x.value.astype(np.int64).astype(object) for name, x in drawn.items()}
            result = self.rule(case, k, **whole)
            if all(isinstance(entry, int) for entry in np.ravel(result)):
                return field.residues(np.asarray(result % field.PRIMES[k], int), field.PRIMES[k])
        result = self.rule(case, k, **drawn)
        self.entrywise = isinstance(result, np.ndarray) and result.dtype == object
        return settled(result, field.PRIMES[k])


def settled(result: Any, prime: int) -> np.ndarray:
    """An array of residues, as numbers nearest zero."""
    if isinstance(result, np.ndarray) and result.dtype != object:
        return field.residues(result, prime)
    value: np.ndarray = gathered(result, prime).value
    return value


def is_the_loop(
    formula: Callable[..., Any],
    seed: int,
    terms: Sequence[str] = formulas.TERMS,
    degrees: Sequence[int] = DEGREES,
) -> Finding:
    """Whether a rule is PERA: `loop`, at the cases of these terms and degrees."""

    def update(case: Case, k: int, **drawn: Any) -> Any:
        delta = formula(*drawn.values(), **case.options)
        check_update(delta, (case.m, case.n))
        return delta

    return identical(
        cases(formula, seed, terms, degrees),
        seed,
        update,
        lambda case, k, **drawn: loop(case, seed, k),
        "the rule is the sum of its products",
    )


def ranks(
    formula: Callable[..., Any],
    found: Sequence[Case],
    seed: int,
    due: Callable[[Case], int],
    what: str,
) -> Finding:
    """Whether the generic rank of a rule, modulo two primes, is `due` in every case."""
    for case in found:
        family = of_rule(formula, case.rank, case.terms, case.degree)
        got = exactly(measured_rank(case.m, case.n, family, seed=seed))
        if got != due(case):
            return fails(
                f"rank {got} where {due(case)} is due, at {case}", {"case": str(case), "rank": got}
            )
    return Finding(True, f"{what}, {asked(found)}")


def directions(
    formula: Callable[..., Any],
    found: Sequence[Case],
    seed: int,
    due: Callable[[Case], int],
    what: str,
    at: Mapping[str, Any] | None = None,
) -> Finding:
    """Whether the Jacobian of a rule, modulo two primes, has rank `due` in every case.

    at: factors that are held, as in `jacobian_rank`.
    """
    for case in found:
        family = of_rule(formula, case.rank, case.terms, case.degree)
        got = exactly(jacobian_rank(case.m, case.n, family, at=at, seed=seed).rank)
        if got != due(case):
            return fails(
                f"the Jacobian has rank {got} where {due(case)} is due, at {case}",
                {"case": str(case), "rank": got},
            )
    return Finding(True, f"{what}, {asked(found)}")


def exactly(rank: ModularRank | FloatRank) -> int:
    """A rank as a number; refused where it is a float answer, which decides nothing here."""
    if isinstance(rank, FloatRank):
        raise PerakitError(
            f"this claim needs an exact rank, and {rank.reason}: write the rule with + - * @ **,"
            " indexing and concatenation"
        )
    return int(rank)


def moved(
    drawn: Mapping[str, Residues], directions: Mapping[str, np.ndarray]
) -> dict[str, Residues]:
    """The factors, each with its derivative along one direction."""
    return {
        name: Residues(x.value, x.prime, directions[name][None], x.degree)
        for name, x in drawn.items()
    }


def every(*findings: Finding | Callable[[], Finding]) -> Finding:
    """All of them, or the first that fails; those given as functions run only if asked."""
    texts: list[str] = []
    numbers: dict[str, Any] = {}
    examples = 0
    for one in findings:
        finding = one if isinstance(one, Finding) else one()
        if not finding.holds:
            return finding
        texts.append(finding.summary)
        numbers |= dict(finding.numbers)
        examples += finding.examples
    return Finding(True, "; ".join(texts), numbers, examples)


# --- small whole numbers, symbols -----------------------------------------------------------------


def layers(largest: int, rank: int) -> st.SearchStrategy[dict[str, int]]:
    """{m, n, rank}: sizes 1 ... largest, ranks 1 ... min(m, n, rank)."""

    def with_rank(shape: tuple[int, int]) -> st.SearchStrategy[dict[str, int]]:
        m, n = shape
        return st.integers(1, min(m, n, rank)).map(lambda drawn: {"m": m, "n": n, "rank": drawn})

    return st.tuples(st.integers(1, largest), st.integers(1, largest)).flatmap(with_rank)


def weights_and_factors() -> st.SearchStrategy[dict[str, np.ndarray]]:
    """{W0, B, A} of small whole numbers."""

    def with_weight(drawn: dict[str, np.ndarray]) -> st.SearchStrategy[dict[str, np.ndarray]]:
        shape = (drawn["B"].shape[0], drawn["A"].shape[1])
        weights = hnp.arrays(np.int64, shape, elements=st.integers(-3, 3))
        return weights.map(lambda W0: {"W0": W0, "B": drawn["B"], "A": drawn["A"]})

    return factors().flatmap(with_weight)


def fails(summary: str, counterexample: Mapping[Any, Any] | None = None) -> Finding:
    """The verdict does not stand, and on what."""
    shown = {
        name: plain(value) if hasattr(value, "free_symbols") else value
        for name, value in (counterexample or {}).items()
    }
    return Finding(False, summary, counterexample=shown or None)


def symbolically(what: str) -> Finding:
    """An identity that was found to be so in every shape of SHAPES."""
    return Finding(True, f"{what}, {AT}")


def beyond_lora(formula: Callable[..., Any]) -> Any:
    """Where h = 0 does not give LoRA: the first difference in the shapes of SHAPES, or 0."""
    for m, n, rank in SHAPES:
        B, A, h = symbolic.symbols(m, n, rank).values()
        if (difference := symbolic.difference(formula(B, A, 0 * h), formulas.lora(B, A))) != 0:
            return difference
    return 0


def beyond_rank_K(formula: Callable[..., Any]) -> Any:
    """Where ΔW is not the product of the factors (m, K) and (K, n) of `formulas.expand`, or 0."""
    for m, n, rank in SHAPES:
        B, A, h = symbolic.symbols(m, n, rank).values()
        B_hat, A_hat = formulas.expand(B, A, h)
        if B_hat.shape[1] != rank * (rank + 3) // 2:
            return f"expand gives {B_hat.shape[1]} terms at r = {rank}"
        if (difference := symbolic.difference(formula(B, A, h), B_hat @ A_hat)) != 0:
            return difference
    return 0


def derived(derivations: Iterable[Derivation], what: str) -> Finding:
    """Every derivation holds, or the first step that fails."""
    for derivation in derivations:
        for step in derivation.steps:
            if step.holds is False:
                return fails(
                    f"fails: {step.text}", {str(plain(step.expression.lhs)): step.expression.rhs}
                )
    return Finding(True, what)
