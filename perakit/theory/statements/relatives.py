"""Claims about LoRA, DoRA and HiRA."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from perakit import formulas
from perakit.theory import symbolic
from perakit.theory.claims import claims
from perakit.theory.exact import exact_rank
from perakit.theory.findings import Finding, factors, verified
from perakit.theory.statements.arguments import (
    PAPER,
    SHAPES,
    fails,
    symbolically,
    weights_and_factors,
)


@claims.register(
    "lora-rank",
    title="LoRA's update has rank at most r",
    statement=r"$\operatorname{rank}(BA) \le r$, attained",
    source="arXiv 2106.09685, Eq. 3",
    verdict="verified",
    about=formulas.lora,
)
def _lora_rank(formula: Any, seed: int, examples: int) -> Finding:
    found = verified(
        factors(),
        lambda B, A, h: exact_rank(formula(B, A)) <= B.shape[1],
        seed,
        examples,
        "the rank is at most r, exactly, on whole numbers",
    )
    attained = exact_rank(formula(np.eye(3, 2, dtype=int), np.eye(2, 4, dtype=int))) == 2
    return Finding(
        found.holds and attained,
        f"{found.summary}; 2 is attained at r = 2",
        {},
        found.examples,
        found.counterexample,
    )


@claims.register(
    "dora-is-not-linear",
    title='"DoRA keeps linear combinations"',
    statement=(
        r"$\Delta W(2B) \ne 2\,\Delta W(B)$ for DoRA: each row is normalised; linear only in"
        r" direction, before that"
    ),
    source=f"{PAPER}, related work; arXiv 2402.09353, Eq. 5",
    verdict="qualified",
    about=formulas.dora,
)
def _dora_is_not_linear(formula: Any, seed: int, examples: int) -> Finding:
    import sympy

    integers = np.vectorize(sympy.Integer, otypes=[object])
    W0, A, g = integers([[1, 0]]), integers([[0, 1]]), integers([1])
    none, one, two = (formula(W0, integers([[k]]), A, g) for k in (0, 1, 2))  # at B = 0, 1, 2
    if symbolic.difference(none, 0 * W0) != 0 or symbolic.difference(two, 2 * one) == 0:
        return fails(
            "not so: the update is linear in B, or not zero at B = 0",
            {"ΔW(0)": none, "ΔW(1)": one, "ΔW(2)": two},
        )
    summary = (
        f"W0 = (1, 0), A = (0, 1), g = 1: ΔW = {tuple(one[0])} at B = 1 and {tuple(two[0])} at B ="
        " 2, not twice that"
    )
    return Finding(True, summary, {"ΔW(1)": one, "ΔW(2)": two})


@claims.register(
    "dora-row-lengths",
    title="DoRA sets the length of every row",
    statement=(
        r"Row $p$ of $W_0 + \Delta W$ is $c V_p$ with $V = W_0 + BA$ and $c = g_p/\lVert"
        r" V_p\rVert$, so of length "
        r"$\lvert g_p\rvert$, the trained magnitude, and of $V_p$'s direction for $g_p > 0$; where"
        r" $V_p = 0$ it is zero"
    ),
    source="arXiv 2402.09353, Eq. 5; rows as PEFT has them",
    verdict="verified",
    about=formulas.dora,
)
def _dora_row_lengths(formula: Any, seed: int, examples: int) -> Finding:
    def lengths(W0: np.ndarray, B: np.ndarray, A: np.ndarray) -> bool:
        V = W0 + B @ A
        g = 1.0 + np.arange(len(V))
        size = np.linalg.norm(V, axis=1)
        for sign in (1, -1):
            delta = np.asarray(formula(W0, B, A, sign * g), dtype=float)
            if delta.shape != V.shape:
                return False
            new = W0 + delta
            reached = np.allclose(np.linalg.norm(new, axis=1), np.where(size > 0, g, 0), rtol=1e-12)
            # Cauchy-Schwarz with equality: parallel
            if not reached or not np.allclose((new * V).sum(1), sign * g * size, rtol=1e-12):
                return False
        return True

    return verified(
        weights_and_factors(),
        lengths,
        seed,
        examples,
        "each row is V's at length |g_p|, turned for g_p < 0, or was zero",
    )


@claims.register(
    "hira-rank",
    title="HiRA's rank goes up to rank(W0) r",
    statement=r"$\operatorname{rank}(W_0\circ BA) \le \operatorname{rank}(W_0)\, r$",
    source="classical (Hadamard products); HiRA, ICLR 2025",
    verdict="verified",
    about=formulas.hira,
)
def _hira_rank(formula: Any, seed: int, examples: int) -> Finding:
    def bounded(W0: np.ndarray, B: np.ndarray, A: np.ndarray) -> bool:
        return exact_rank(formula(W0, B, A)) <= exact_rank(W0) * B.shape[1]

    found = verified(
        weights_and_factors(),
        bounded,
        seed,
        examples,
        "the rank is at most rank(W0) r, exactly, on whole numbers",
    )
    generator = np.random.default_rng(seed)
    W0, B, A = (generator.integers(1, 100, size) for size in ((7, 6), (7, 1), (1, 6)))
    reached = exact_rank(formula(W0, B, A))
    holds = found.holds and reached == exact_rank(W0)
    return Finding(
        holds,
        f"{found.summary}; rank {reached} is reached at r = 1" if holds else found.summary,
        {"rank at r = 1": reached},
        found.examples,
        found.counterexample,
    )


@claims.register(
    "hira-is-bilinear",
    title='"HiRA stays linear in its parameters"',
    statement=(
        r"$W_0\circ BA$ is linear in $B$ and linear in $A$, as LoRA's $BA$ is: bilinear, of degree"
        r" 2 in both"
    ),
    source=f"{PAPER}, related work; HiRA, ICLR 2025",
    verdict="qualified",
    about=formulas.hira,
)
def _hira_is_bilinear(formula: Any, seed: int, examples: int) -> Finding:
    import sympy

    c = sympy.Symbol("c")
    for m, n, rank in SHAPES:
        made, other = symbolic.symbols(m, n, rank, "none"), symbolic.symbols(m, n, rank, "none")
        B, A = made["B"], made["A"]
        C = np.array([sympy.Symbol(f"C{k}") for k in range(B.size)], dtype=object).reshape(B.shape)
        D = np.array([sympy.Symbol(f"D{k}") for k in range(A.size)], dtype=object).reshape(
            other["A"].shape
        )
        W0 = np.array([sympy.Symbol(f"w{k}") for k in range(m * n)], dtype=object).reshape(m, n)
        in_B = symbolic.difference(
            formula(W0, B + c * C, A), formula(W0, B, A) + c * formula(W0, C, A)
        )
        in_A = symbolic.difference(
            formula(W0, B, A + c * D), formula(W0, B, A) + c * formula(W0, B, D)
        )
        both = symbolic.difference(formula(W0, c * B, c * A), c**2 * formula(W0, B, A))
        if (in_B, in_A, both) != (0, 0, 0):
            return fails("not bilinear", {"in B": in_B, "in A": in_A, "together": both})
    return symbolically("linear in each factor, degree 2 in both")


@claims.register(
    "orders",
    title=(
        "Orders: LoRA's part is of order two in the factors, PERA's products of order four and one"
        " in h"
    ),
    statement=(
        r"Scaling $B$ and $A$ by $c$ scales LoRA's part by $c^2$ and PERA's products by $c^4$;"
        r" scaling $h$ by $c$ scales the "
        r"products by $c$"
    ),
    source=f"follows from {PAPER}, Eq. 8 and 9",
    verdict="verified",
    about=formulas.pera,
)
def _orders(formula: Any, seed: int, examples: int) -> Finding:
    def scales(B: np.ndarray, A: np.ndarray, h: np.ndarray, c: int) -> bool:
        linear = formula(B, A, 0 * h)
        high = formula(B, A, h) - linear
        in_h = (formula(B, A, c * h) == linear + c * high).all()
        return bool(in_h and (formula(c * B, c * A, h) == c**2 * linear + c**4 * high).all())

    drawn = st.tuples(factors(), st.integers(-3, 3)).map(lambda pair: pair[0] | {"c": pair[1]})
    return verified(
        drawn,
        scales,
        seed,
        examples,
        "the linear part scales with c², the products with c⁴ and with h, on whole numbers",
    )
