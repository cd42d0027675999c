"""The paper's Theorem 1, and what is true in its place."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import strategies as st

from perakit import formulas
from perakit.strategies import seeds
from perakit.theory import distance, symbolic, theorem1
from perakit.theory.approximation import best_approximation
from perakit.theory.claims import claims
from perakit.theory.families import of_rule
from perakit.theory.findings import Finding, verified
from perakit.theory.statements.arguments import (
    AT,
    PAPER,
    beyond_lora,
    beyond_rank_K,
    derived,
    fails,
)


@claims.register(
    "theorem-1",
    title="The paper's Theorem 1",
    statement=(
        r"$\min_{\Delta W \in S_{\mathrm{PERA}}(r)} \lVert \Delta W - E\rVert_2 \le"
        r" \sigma_{K+1}(E)$ for every $E$"
    ),
    source=f"{PAPER}, Theorem 1",
    verdict="refuted",
    about=formulas.pera,
)
def _theorem_1(formula: Any, seed: int, examples: int) -> Finding:
    found = theorem1.certificate(formula=formula)
    if not found.holds:
        return fails(str(found))
    bound = distance.lower_bound(formula=formula, norm="spectral")
    summary = (
        f"r = 1, E of rank {found.rank}, so σ_3 = 0; {found.nonzero} of 36 resultants that vanish"
        " on the closure of S_PERA(1) are nonzero at E; the spectral distance is at least"
        f" {float(bound.distance):.2f}, by interval arithmetic"
    )
    numbers = {
        "nonzero resultants": found.nonzero,
        "spectral distance at least": float(bound.distance),
    }
    return Finding(
        bound.distance > 0,
        summary,
        numbers,
        0,
        {"E": [list(map(int, row)) for row in found.target]},
    )


@claims.register(
    "theorem-1-generically",
    title="Theorem 1 fails for almost every target of rank K",
    statement=(
        r"For $K \le \min(m,n)$, but $r = 1, m = n = 2$, almost every $E$ of rank $K$ has"
        r" $\sigma_{K+1}(E) = 0 < \inf "
        r"\lVert\Delta W - E\rVert$"
    ),
    source="dimension count",
    verdict="proved",
    about=formulas.pera,
)
def _theorem_1_generically(formula: Any, seed: int, examples: int) -> Finding:
    """The closure of S(r) has too low a dimension: it misses almost all of {rank <= K}."""
    # Dim <= P - r
    invariant = derived(
        (symbolic.gauge(m, n, rank, formula=formula) for m, n, rank in ((3, 4, 1), (4, 5, 2))), ""
    )
    # The closure of a semialgebraic set has its dimension, and a closed set of lower dimension
    # misses almost all of {rank <= K}
    counts = [theorem1.dimensions(m, n, rank) for m, n, rank in ((3, 3, 1), (6, 5, 2), (9, 10, 3))]
    if not invariant.holds or not all(count.theorem_fails for count in counts):
        return replace(invariant, holds=False)
    return Finding(
        True,
        f"r scalings leave ΔW, so the set of updates is too small: {'; '.join(map(str, counts))}",
    )


@claims.register(
    "sandwich",
    title="The corrected Theorem 1",
    statement=(
        r"$\operatorname{dist}(E, \operatorname{rank}\le K) \le \operatorname{dist}(E,"
        r" S_{\mathrm{PERA}}(r)) \le "
        r"\operatorname{dist}(E, \operatorname{rank}\le r)$"
        r" in every unitarily invariant norm; in the spectral norm $\sigma_{K+1} \le \inf \le"
        r" \sigma_{r+1}$"
    ),
    source="two inclusions and Eckart-Young-Mirsky",
    verdict="proved",
    about=formulas.pera,
)
def _sandwich(formula: Any, seed: int, examples: int) -> Finding:
    for what, difference in (
        ("h = 0 must give LoRA", beyond_lora(formula)),
        ("the update must be that of expand", beyond_rank_K(formula)),
    ):
        if difference != 0:
            return fails(f"an inclusion is not shown: {what}", {"difference": difference})

    def between(draw: int) -> bool:
        E = np.random.default_rng(draw).normal(size=(4, 3))
        low, high = theorem1.sandwich(E, 1, 2).frobenius
        return (
            low - 1e-9
            <= best_approximation(E, of_rule(formula, 1), seed=draw, starts=2).error_fro
            <= high + 1e-9
        )

    found = verified(
        st.fixed_dictionaries({"draw": seeds()}),
        between,
        seed,
        min(examples, 5),
        "optimised errors lie between the bounds",
    )
    return Finding(
        found.holds,
        f"both inclusions, {AT}; {found.summary}",
        {},
        found.examples,
        found.counterexample,
    )


@claims.register(
    "infimum-not-attained",
    title="A best PERA approximation need not exist",
    statement=(
        r"$E = x\mathbf 1^\top + \mathbf 1y^\top$ is a limit of rank-1 PERA updates with $h \to 0$"
        r" and diverging factors;"
        r" for $E = [[1,2,3],[4,5,6],[7,8,9]]$ the infimum 0 is not attained"
    ),
    source="the sequence $u = (1/ε)(1-εx)(1-εy)^\\top$, $h = -ε$",
    verdict="proved",
    about=formulas.pera,
)
def _infimum_not_attained(formula: Any, seed: int, examples: int) -> Finding:
    import sympy

    x, y = sympy.symbols("x:3"), sympy.symbols("y:3")
    eps = sympy.Symbol("eps", positive=True)
    gap = formula(*theorem1.limit_sequence(x, y, eps)) - np.add.outer(x, y)
    terms = [
        term for entry in gap.flat for term in sympy.Add.make_args(sympy.expand(entry)) if term != 0
    ]
    if not all(term.as_coeff_exponent(eps)[1] > 0 for term in terms):
        return fails(
            "the sequence does not converge to x1ᵀ + 1yᵀ", {"distance": sympy.expand(gap[0, 0])}
        )
    found = theorem1.limit(formula=formula)
    if not found.holds or found.attained is not False:
        return fails(str(found))
    return Finding(
        True,
        f"ΔW → x1ᵀ + 1yᵀ along the sequence, in symbols; at the example {found.roots}, where"
        " members have rank one: E is no member",
    )


@claims.register(
    "optimisers-stop",
    title="An optimiser's best value is an upper bound only",
    statement=(
        r"At $[[1,2,3],[4,5,6],[7,8,9]]$ the best local solves from ordinary starts stop at 0.4943,"
        r" and the infimum is 0"
    ),
    source="measured; the infimum by infimum-not-attained",
    verdict="verified",
    about=formulas.pera,
)
def _optimisers_stop(formula: Any, seed: int, examples: int) -> Finding:
    """A trust region method, with the derivative that the rule has in symbols."""
    import sympy
    from scipy.optimize import least_squares

    E, made = np.arange(1, 10).reshape(3, 3), symbolic.symbols(3, 3, 1)
    theta = [symbol for array in made.values() for symbol in array.flat]
    gaps = (formula(*made.values()) - E).ravel().tolist()
    slopes = [[sympy.diff(gap, symbol) for symbol in theta] for gap in gaps]
    residual, jacobian = (
        sympy.lambdify([theta], what, modules="numpy", cse=True) for what in (gaps, slopes)
    )
    starts, generator = min(examples, 24), np.random.default_rng(seed)
    solved = [
        least_squares(residual, generator.normal(size=7), jacobian, max_nfev=200)
        for _ in range(starts)
    ]
    best = min(math.sqrt(2 * one.cost) for one in solved)
    reached = formula(*theorem1.limit_sequence((0.0, 3.0, 6.0), (1.0, 2.0, 3.0), 1e-6))
    near = float(np.linalg.norm(np.asarray(reached, dtype=float) - E))
    summary = (
        f"best of {starts} Gaussian starts: {best:.4f}; the explicit sequence reaches {near:.1e} at"
        " ε = 1e-6"
    )
    return Finding(
        best > 0.494 and near < 1e-3,
        summary,
        {"best of the starts": best, "sequence reaches": near},
        starts,
    )
