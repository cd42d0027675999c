"""Claims about the size and the shape of the set of updates."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from hypothesis import strategies as st

from perakit import formulas
from perakit.theory import symbolic
from perakit.theory.claims import claims
from perakit.theory.families import of_rule
from perakit.theory.findings import Finding, equal, verified
from perakit.theory.jacobian import jacobian_rank
from perakit.theory.manifold import dimension, tangent_dimension
from perakit.theory.statements.arguments import PAPER, derived, layers

SIZES = layers(9, 3)
JACOBIAN = "the exact rank of the Jacobian at random factors is the closed form"


def _measured(
    formula: Any,
    terms: str,
    degree: int,
    seed: int,
    examples: int,
    at: dict[str, int] | None,
    stated: Callable[..., int],
) -> Finding:
    def measured(m: int, n: int, rank: int) -> int:
        return jacobian_rank(m, n, of_rule(formula, rank, terms, degree), at=at, seed=seed).rank

    return equal(SIZES, measured, stated, seed, examples, JACOBIAN)


def _dimension(id: str, title: str, terms: str, degree: int, statement: str, equation: str) -> None:
    @claims.register(
        id,
        title=title,
        statement=statement,
        source=f"follows from {PAPER}, {equation}",
        verdict="verified",
        about=formulas.lora if terms == "none" else formulas.pera,
    )
    def measured(formula: Any, seed: int, examples: int) -> Finding:
        return _measured(
            formula,
            terms,
            degree,
            seed,
            examples,
            None,
            lambda m, n, rank: dimension(m, n, rank, terms, degree),
        )


_dimension(
    "dimension",
    "Dimension of PERA",
    "full",
    2,
    r"$\dim S_{\mathrm{PERA}}(r) = \min(mn,\; r(m+n) + r(r-1)/2)$",
    "Eq. 9",
)
_dimension(
    "dimension-square",
    "Dimension with square terms only",
    "square",
    2,
    r"$\dim = \min(mn,\; r(m+n))$",
    "Eq. 10",
)
_dimension(
    "dimension-cross",
    "Dimension with cross terms only",
    "cross",
    2,
    r"$\dim = \min(mn,\; r(m+n) - r + r(r-1)/2)$",
    "Eq. 11",
)
_dimension(
    "dimension-lora",
    "Dimension of LoRA",
    "none",
    2,
    r"$\dim S_{\mathrm{LoRA}}(r) = r(m+n) - r^2$",
    "Eq. 8",
)


@claims.register(
    "dimension-degree-k",
    title="Dimension at higher degrees",
    statement=r"$\dim = \min(mn,\; r(m+n) + K_k - 2r)$ at degree $k$, $K_k = \binom{r+k}{k} - 1$",
    source=f"extends {PAPER}, Eq. 9, which leaves degrees above 2 open",
    verdict="verified",
    about=formulas.pera,
)
def _dimension_degree_k(formula: Any, seed: int, examples: int) -> Finding:
    def measured(m: int, n: int, rank: int, degree: int) -> int:
        return jacobian_rank(m, n, of_rule(formula, rank, "full", degree), seed=seed).rank

    drawn = st.tuples(SIZES, st.integers(3, 4)).map(lambda pair: pair[0] | {"degree": pair[1]})
    return equal(
        drawn,
        measured,
        partial(dimension, terms="full"),
        seed,
        examples,
        f"{JACOBIAN}, at degrees 3 and 4",
    )


@claims.register(
    "dimension-gap",
    title="Most matrices of rank K are out of reach",
    statement=(
        r"$\dim S_{\mathrm{PERA}}(r) < \dim\{\operatorname{rank}\le K\} = K(m+n-K)$ for $K \le"
        r" \min(m,n)$, except $r = 1$, $m "
        r"= n = 2$"
    ),
    source="dimension count",
    verdict="proved",
    about=formulas.pera,
)
def _dimension_gap(formula: Any, seed: int, examples: int) -> Finding:
    """The gap (K-r)(m+n) - K² - r(r-1)/2 is at least (K-1) r(r-1)/2, and m + n - 4 at r = 1."""
    import sympy

    r, s = sympy.symbols("r s", positive=True)
    K = r * (r + 3) / 2
    gap = (K - r) * s - K**2 - r * (r - 1) / 2
    # It grows with m + n >= 2K: least there, and zero at r = 1 only
    least = sympy.expand(gap.subs(s, 2 * K) - (K - 1) * r * (r - 1) / 2)
    at_one = sympy.expand(gap.subs(r, 1) - (s - 4))
    # Dim <= P - r
    invariant = derived(
        (symbolic.gauge(m, n, rank, formula=formula) for m, n, rank in ((3, 4, 1), (4, 5, 2))), ""
    )
    holds = least == 0 and at_one == 0 and invariant.holds
    summary = (
        "gap (K-1) r(r-1)/2 or more, and m + n - 4 at r = 1, in symbols; 3 x 3, r = 1:"
        f" {dimension(3, 3, 1)} < {2 * (3 + 3 - 2)}"
    )
    return Finding(
        holds,
        f"dim <= P - r by r scalings; {summary}" if holds else invariant.summary,
        counterexample=invariant.counterexample,
    )


@claims.register(
    "free-dimensions",
    title="Of what PERA gains, h pays for part and broken symmetry gives the rest",
    statement=(
        r"$\dim S_{\mathrm{PERA}} - \dim S_{\mathrm{LoRA}} = r(3r-1)/2 = r(r+1)/2 + (r^2 - r)$"
        r" while below $mn$"
    ),
    source="dimension count",
    verdict="verified",
    about=formulas.pera,
)
def _free_dimensions(formula: Any, seed: int, examples: int) -> Finding:
    def balanced(rank: int, more: int) -> bool:
        m, n = 4 * rank + more, 4 * rank + 1
        gain = (
            jacobian_rank(m, n, of_rule(formula, rank), seed=seed).rank
            - jacobian_rank(m, n, rank, "none", seed=seed).rank
        )
        return gain == rank * (3 * rank - 1) // 2 == rank * (rank + 1) // 2 + rank**2 - rank

    sizes = st.fixed_dictionaries({"rank": st.integers(1, 4), "more": st.integers(1, 8)})
    return verified(
        sizes, balanced, seed, min(examples, 30), "the measured gain over LoRA is r(3r-1)/2"
    )


@claims.register(
    "lora-is-critical",
    title="LoRA sits on a critical set of PERA's parametrisation",
    statement=(
        r"At $h = 0$ and generic $B, A$ the Jacobian has rank $\min(mn,\; r(m+n) - r^2 +"
        r" r(r+1)/2)$: "
        r"$r^2 - r$ short of generic while that is below $mn$"
    ),
    source=f"follows from {PAPER}, Eq. 9",
    verdict="verified",
    about=formulas.pera,
)
def _lora_is_critical(formula: Any, seed: int, examples: int) -> Finding:
    return _measured(
        formula,
        "full",
        2,
        seed,
        examples,
        {"h": 0},
        lambda m, n, rank: tangent_dimension(m, n, rank, at="lora"),
    )


@claims.register(
    "start-directions",
    title="At the usual start only B is seen",
    statement=(
        r"At $B = 0,\ h = 0$ the Jacobian has rank $mr$: the directions $\delta B\,A$, those of"
        r" LoRA; at $A = 0,\ h = 0$ rank $nr$"
    ),
    source=f"follows from {PAPER}, Eq. 9",
    verdict="verified",
    about=formulas.pera,
)
def _start_directions(formula: Any, seed: int, examples: int) -> Finding:
    zero_B = _measured(
        formula, "full", 2, seed, examples, {"B": 0, "h": 0}, lambda m, n, rank: m * rank
    )
    zero_A = _measured(
        formula, "full", 2, seed, examples, {"A": 0, "h": 0}, lambda m, n, rank: n * rank
    )
    return zero_A if zero_B.holds else zero_B
