"""Claims about the rank of the update, and about which set of updates contains which."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import strategies as st

from perakit import formulas, strategies
from perakit.theory import symbolic
from perakit.theory.claims import claims
from perakit.theory.exact import exact_rank
from perakit.theory.families import of_rule
from perakit.theory.findings import Finding, factors, verified
from perakit.theory.jacobian import jacobian_rank
from perakit.theory.manifold import dimension
from perakit.theory.measured import measured_rank
from perakit.theory.statements.arguments import (
    AT,
    PAPER,
    SHAPES,
    beyond_lora,
    beyond_rank_K,
    fails,
    layers,
    symbolically,
)


@claims.register(
    "lora-inside-pera",
    title="PERA contains LoRA, strictly",
    statement=(
        r"$S_{\mathrm{LoRA}}(r) \subsetneq S_{\mathrm{PERA}}(r)$ for $r < \min(m, n)$; at $r ="
        r" \min(m, n)$ both are all matrices"
    ),
    source=f"{PAPER}, section 3.3; strictness by example",
    verdict="proved",
    about=formulas.pera,
)
def _lora_inside_pera(formula: Any, seed: int, examples: int) -> Finding:
    if (difference := beyond_lora(formula)) != 0:
        return fails("h = 0 does not give LoRA: the inclusion fails", {"difference": difference})
    found = {
        rank: measured_rank(rank + 1, rank + 2, of_rule(formula, rank), seed=seed)
        for rank in (1, 2, 3)
    }
    strict = all(found[rank] > rank for rank in found)
    shown = ", ".join(f"{value} at r = {rank}" for rank, value in found.items())
    return Finding(
        strict,
        f"h = 0 gives every LoRA update; on an (r+1) x (r+2) layer an update has rank {shown}",
        {"rank": found},
    )


def _identity_factors() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    import sympy

    half = sympy.sqrt(2) / 2
    return (
        np.array([[half], [-half]], dtype=object),
        np.array([[half, -half]], dtype=object),
        np.array([sympy.Integer(2)], dtype=object),
    )


@claims.register(
    "identity",
    title="The 2 x 2 identity is a PERA of rank 1",
    statement=r"$b = a = (1, -1)^\top/\sqrt2,\; h = 2 \;\Rightarrow\; \Delta W = I_2$, of rank 2",
    source=f"example for {PAPER}, Eq. 9",
    verdict="proved",
    about=formulas.pera,
)
def _identity(formula: Any, seed: int, examples: int) -> Finding:
    delta = formula(*_identity_factors())
    exact = symbolic.difference(delta, np.eye(2, dtype=int).astype(object)) == 0
    return Finding(
        exact,
        "ΔW = I exactly" if exact else "ΔW is not I",
        counterexample=None if exact else {"ΔW": delta},
    )


@claims.register(
    "rank-bound",
    title="The rank is at most K",
    statement=r"$\operatorname{rank}\Delta W \le K = r(r+3)/2$",
    source=f"{PAPER}, section 3.3",
    verdict="proved",
    about=formulas.pera,
)
def _rank_bound(formula: Any, seed: int, examples: int) -> Finding:
    if beyond_rank_K(formula) == 0:
        return symbolically("ΔW is a product of (m, K) and (K, n) factors")

    def bounded(B: np.ndarray, A: np.ndarray, h: np.ndarray) -> bool:
        return exact_rank(formula(B, A, h)) <= formulas.rank_bound(B.shape[1])

    found = verified(
        factors(), bounded, seed, examples, "the rank is at most K, exactly, on whole numbers"
    )
    return replace(
        found,
        holds=False,
        summary=(
            f"the proof does not apply, the update is not that of expand(B, A, h); {found.summary}"
        ),
    )


@claims.register(
    "generic-rank",
    title="Generic factors reach the bound",
    statement=r"$\operatorname{rank}\Delta W = \min(m, n, K)$ for generic $B, A, h$",
    source=f"follows from {PAPER}, Eq. 9",
    verdict="verified",
    about=formulas.pera,
)
def _generic_rank(formula: Any, seed: int, examples: int) -> Finding:
    def attained(m: int, n: int, rank: int) -> bool:
        return measured_rank(m, n, of_rule(formula, rank), seed=seed) == min(
            m, n, formulas.rank_bound(rank)
        )

    return verified(
        layers(40, 4),
        attained,
        seed,
        examples,
        "the rank of a random update, by exact elimination, is min(m, n, K)",
    )


@claims.register(
    "hadamard-square-rank",
    title="Rank of an elementwise square",
    statement=r"$\operatorname{rank}\bigl((BA)\circ(BA)\bigr) \le r(r+1)/2$",
    source="classical (Khatri-Rao products)",
    verdict="proved",
    about=formulas.lora,
)
def _hadamard_square_rank(formula: Any, seed: int, examples: int) -> Finding:
    for m, n, rank in SHAPES:
        made = symbolic.symbols(m, n, rank)
        i, j = formulas.pairs(rank)
        # (m, r(r+1)/2), (r(r+1)/2, n)
        features = (
            made["B"][:, i] * made["B"][:, j],
            (1 + (i < j))[:, None] * made["A"][i] * made["A"][j],
        )
        if symbolic.difference(formula(made["B"], made["A"]) ** 2, features[0] @ features[1]) != 0:
            return fails("the square is no product of r(r+1)/2 features", {"shape": (m, n, rank)})
    return symbolically("(BA)∘(BA) is a product of r(r+1)/2 features")


@claims.register(
    "sign-factors",
    title="On special sets the bound is not reached",
    statement=(
        r"$B, A \in \{\pm1\} \;\Rightarrow\; \operatorname{rank}\Delta W \le r(r+1)/2 + 1 < K$ for"
        r" $r \ge 2$: every square is "
        r"the all-ones matrix"
    ),
    source=f"follows from {PAPER}, Eq. 9",
    verdict="verified",
    about=formulas.pera,
)
def _sign_factors(formula: Any, seed: int, examples: int) -> Finding:
    signs = st.fixed_dictionaries(
        {
            "m": st.integers(1, 12),
            "n": st.integers(1, 12),
            "rank": st.integers(1, 3),
            "draw": strategies.seeds(),
        }
    )

    def short(m: int, n: int, rank: int, draw: int) -> bool:
        generator = np.random.default_rng(draw)
        B, A = generator.choice((-1, 1), (m, rank)), generator.choice((-1, 1), (rank, n))
        return (
            exact_rank(formula(B, A, generator.integers(-9, 10, rank * (rank + 1) // 2)))
            <= rank * (rank + 1) // 2 + 1
        )

    return verified(
        signs, short, seed, examples, "factors of signs give rank at most r(r+1)/2 + 1, exactly"
    )


@claims.register(
    "without-increasing-rank",
    title='"Without increasing rank"',
    statement=(
        r"The factors keep $r$ columns; the update's rank does not stay $\le r$: it is $\min(m, n,"
        r" K)$, $K = r(r+3)/2$"
    ),
    source=f"{PAPER}, abstract",
    verdict="qualified",
    about=formulas.pera,
)
def _without_increasing_rank(formula: Any, seed: int, examples: int) -> Finding:
    found = {rank: measured_rank(40, 50, of_rule(formula, rank), seed=seed) for rank in (1, 2, 4)}
    larger = all(found[rank] == formulas.rank_bound(rank) > rank for rank in found)
    summary = "true of the factors (r columns), not of the update: rank " + ", ".join(
        f"{k} at r = {r}" for r, k in found.items()
    )
    return Finding(
        larger,
        summary,
        {"rank of a 40 x 50 update": found},
        counterexample=None if larger else found,
    )


@claims.register(
    "pera-inside-rank-K",
    title="A PERA update is a LoRA update of rank K, not conversely",
    statement=(
        r"$S_{\mathrm{PERA}}(r) \subsetneq S_{\mathrm{LoRA}}(K)$ wherever $\dim"
        r" S_{\mathrm{PERA}}(r) < K(m+n-K)$"
    ),
    source="inclusion by the expanded factors; strictness by dimension",
    verdict="proved",
    about=formulas.expand,
)
def _pera_inside_rank_K(formula: Any, seed: int, examples: int) -> Finding:
    from perakit.theory.theorem1 import dimensions

    for m, n, rank in SHAPES:
        B, A, h = symbolic.symbols(m, n, rank).values()
        B_hat, A_hat = formula(B, A, h)
        inner = B_hat.shape[1]
        if (
            inner != formulas.rank_bound(rank)
            or symbolic.difference(formulas.lora(B_hat, A_hat), formulas.pera(B, A, h)) != 0
        ):
            return fails(
                f"lora(*expand(B, A, h)) is not the update, or its rank {inner} not K",
                {"m": m, "n": n, "r": rank},
            )
    count = dimensions(64, 48, 4)
    return Finding(
        count.theorem_fails, f"lora(*expand(B, A, h)) is the update and K its rank, {AT}; {count}"
    )


@claims.register(
    "more-than-lora",
    title='"Strictly greater representational power"',
    statement=(
        r"Than LoRA of rank $r < \min(m,n)$: yes. Than LoRA of rank $r+1$: at $r = 1$ less,"
        r" $S_{\mathrm{PERA}}(1) \subsetneq "
        r"S_{\mathrm{LoRA}}(2)$;"
        r" for $r \ge 2$ on large layers neither contains the other"
    ),
    source=f"{PAPER}, section 3.3 and abstract (enhanced expressive capacity)",
    verdict="qualified",
    about=formulas.pera,
)
def _more_than_lora(formula: Any, seed: int, examples: int) -> Finding:
    from perakit.theory import theorem1

    # a matrix of rank 2, and not in the closure of PERA's r = 1
    outside = theorem1.certificate(formula=formula)
    m, n, rank = 40, 50, 2
    # Beyond the rank of LoRA's r + 1
    reached = measured_rank(m, n, of_rule(formula, rank), seed=seed)
    # And LoRA's r + 1 is larger
    members, lora = theorem1.dimensions(m, n, rank).members, dimension(m, n, rank + 1, "none")
    holds = (
        outside.holds
        and reached > rank + 1
        and jacobian_rank(m, n, of_rule(formula, rank), seed=seed).rank <= members < lora
    )
    summary = (
        f"a matrix of rank 2 is outside the closure of PERA's r = 1 ({outside.nonzero} of 36"
        f" resultants nonzero); on {m} x {n}, r = 2, PERA has updates of rank {reached}, which"
        f" LoRA's r = 3 has not, and dimension {members} < {lora}, so LoRA's r = 3 has others"
    )
    return Finding(
        holds,
        summary if holds else "not so of this rule",
        {"nonzero resultants": outside.nonzero, "rank at r = 2": reached},
    )
