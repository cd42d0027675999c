"""Claims about what the update is: the paper's numbered equations, and three ways to read them."""

from __future__ import annotations

from typing import Any

import numpy as np

from perakit import formulas
from perakit.theory import symbolic
from perakit.theory.claims import claims
from perakit.theory.findings import Finding, equal, factors
from perakit.theory.statements.arguments import (
    AT,
    PAPER,
    SHAPES,
    beyond_lora,
    derived,
    fails,
    symbolically,
)


@claims.register(
    "expanded-factors",
    title="The expanded factors multiply to the update",
    statement=(
        r"$\mathrm{Poly}_2(B)\,\mathrm{Poly}_{2,H}(A) = \Delta W$, with $(m, K)$ and $(K, n)$"
        r" factors, linear features first"
    ),
    source=f"{PAPER}, Eq. 2-5",
    verdict="proved",
    about=formulas.expand,
)
def _expanded_factors(formula: Any, seed: int, examples: int) -> Finding:
    for m, n, rank in SHAPES:
        made = symbolic.symbols(m, n, rank)
        B_hat, A_hat = formula(made["B"], made["A"], made["h"])
        K = formulas.rank_bound(rank)
        shapes = {"B_hat": B_hat.shape, "A_hat": A_hat.shape}
        if shapes != {"B_hat": (m, K), "A_hat": (K, n)}:
            return fails(f"the factors should be ({m}, {K}) and ({K}, {n})", shapes)
        linear = (B_hat[:, :rank] == made["B"]).all() and (A_hat[:rank] == made["A"]).all()
        difference = symbolic.difference(
            B_hat @ A_hat, formulas.pera(made["B"], made["A"], made["h"])
        )
        if not linear or difference != 0:
            return fails(
                "the product is not the update, or the linear features do not come first",
                {"difference": difference},
            )
    return symbolically("the difference is zero")


@claims.register(
    "lora-equation",
    title="Without coefficients PERA is LoRA",
    statement=r"$h = 0 \;\Rightarrow\; \Delta W = B A$",
    source=f"{PAPER}, Eq. 8",
    verdict="proved",
    about=formulas.pera,
)
def _lora_equation(formula: Any, seed: int, examples: int) -> Finding:
    difference = beyond_lora(formula)
    return (
        symbolically("the difference is zero")
        if difference == 0
        else fails("an entry differs from that of B A", {"difference": difference})
    )


def _expansions(formula: Any, terms: str, degree: int = 2) -> Finding:
    what = f"the update minus its Hadamard series is zero, {AT}"
    return derived(
        (symbolic.expansion(*shape, terms, degree, formula=formula) for shape in SHAPES), what
    )


@claims.register(
    "hadamard-series",
    title="The update is a Hadamard series",
    statement=(
        r"$\Delta W = \sum_i M_i + \sum_{i\le j} h_{ij}\, M_i\circ M_j$ with $M_i = b_i a_i^\top$"
    ),
    source=f"{PAPER}, Eq. 9",
    verdict="proved",
    about=formulas.pera,
)
def _hadamard_series(formula: Any, seed: int, examples: int) -> Finding:
    return _expansions(formula, "full")


@claims.register(
    "square-only",
    title="Square terms only",
    statement=r"$\Delta W = \sum_i M_i + \sum_i h_{ii}\, M_i\circ M_i$",
    source=f"{PAPER}, Eq. 10",
    verdict="proved",
    about=formulas.pera,
)
def _square_only(formula: Any, seed: int, examples: int) -> Finding:
    return _expansions(formula, "square")


@claims.register(
    "cross-only",
    title="Cross terms only",
    statement=r"$\Delta W = \sum_i M_i + \sum_{i<j} h_{ij}\, M_i\circ M_j$",
    source=f"{PAPER}, Eq. 11",
    verdict="proved",
    about=formulas.pera,
)
def _cross_only(formula: Any, seed: int, examples: int) -> Finding:
    return _expansions(formula, "cross")


@claims.register(
    "degree-three",
    title="The same at degree three",
    statement=(
        r"$\Delta W = \sum_i M_i + \sum_{i\le j} h_{ij}\, M_i\circ M_j + \sum_{i\le j\le k}"
        r" h_{ijk}\, M_i\circ M_j\circ M_k$"
    ),
    source=f"extends {PAPER}, Eq. 9, which leaves degrees above 2 open",
    verdict="proved",
    about=formulas.pera,
)
def _degree_three(formula: Any, seed: int, examples: int) -> Finding:
    return _expansions(formula, "full", 3)


@claims.register(
    "entry-polynomial",
    title="One polynomial, read at every entry",
    statement=(
        r"$\Delta W_{pq} = \varphi_h(B_{p\cdot}\circ A_{\cdot q})$ with $\varphi_h(u) = \sum_i u_i"
        r" + \sum_{i\le j} h_{ij} u_i u_j$"
    ),
    source=f"follows from {PAPER}, Eq. 9",
    verdict="proved",
    about=formulas.pera,
)
def _entry_polynomial(formula: Any, seed: int, examples: int) -> Finding:
    return derived(
        (symbolic.entry_polynomial(rank, formula=formula) for rank in (1, 2, 3)),
        "every entry minus φ_h of its row and column is zero, in symbols at 2 x 2, r = 1, 2, 3",
    )


@claims.register(
    "total-degree",
    title="Degree five in the parameters, two for LoRA",
    statement=r"$\deg \Delta W_{pq} = 5$ in $(B, A, h)$ together: 2 + 2 + 1; for LoRA 2",
    source=f"follows from {PAPER}, Eq. 8 and 9",
    verdict="proved",
    about=formulas.pera,
)
def _total_degree(formula: Any, seed: int, examples: int) -> Finding:
    import sympy

    for rank in (1, 2):
        made = symbolic.symbols(1, 1, rank)
        delta = sympy.expand(formula(*made.values())[0, 0])
        found = {
            name: sympy.Poly(delta, *array.flat).total_degree() for name, array in made.items()
        }
        found["together"] = symbolic.entry_polynomial(rank, formula=formula).total_degree
        if (
            found != {"B": 2, "A": 2, "h": 1, "together": 5}
            or symbolic.entry_polynomial(rank, "none").total_degree != 2
        ):
            return fails("other degrees: 2 in B, 2 in A, 1 in h, 5 together are due", found)
    return Finding(True, "2 in B, 2 in A, 1 in h, 5 together; LoRA 2; at r = 1 and 2")


@claims.register(
    "kernel",
    title="The quadratic kernel inside PERA",
    statement=(
        r"$h_{ii} = c,\; h_{ij} = 2c\ (i<j) \;\Rightarrow\; \Delta W = BA + c\,(BA)\circ(BA)$, the"
        r" inhomogeneous quadratic "
        r"kernel of the factor rows"
    ),
    source=f"a case of {PAPER}, Eq. 9, not stated there",
    verdict="proved",
    about=formulas.pera,
)
def _kernel(formula: Any, seed: int, examples: int) -> Finding:
    return derived(
        (symbolic.kernel(*shape, formula=formula) for shape in SHAPES),
        f"the update minus BA + c (BA)∘(BA) is zero, {AT}",
    )


@claims.register(
    "gradients",
    title="Gradients in closed form",
    statement=(
        r"$\partial L/\partial h_{ij} = (b_i\circ b_j)^\top G\,(a_i\circ a_j)$ with $G = \partial"
        r" L/\partial \Delta W$, and "
        r"likewise for $B$ and $A$"
    ),
    source=f"derivative of {PAPER}, Eq. 9",
    verdict="proved",
    about=formulas.pera,
)
def _gradients(formula: Any, seed: int, examples: int) -> Finding:
    return derived(
        (symbolic.gradients(*shape, formula=formula) for shape in SHAPES),
        f"closed form minus derivative is zero for B, A and h, {AT}",
    )


@claims.register(
    "first-step",
    title="The first step is LoRA's",
    statement=(
        r"At $B = 0$: $\partial L/\partial h = 0$, $\partial L/\partial A = 0$ and $\partial"
        r" L/\partial B = G A^\top$, for any $h$"
    ),
    source=f"follows from {PAPER}, Eq. 9, and the start of LoRA",
    verdict="proved",
    about=formulas.pera,
)
def _first_step(formula: Any, seed: int, examples: int) -> Finding:
    import sympy

    for m, n, rank in SHAPES:
        made = symbolic.symbols(m, n, rank)
        G = np.array(sympy.symbols(f"g:{m * n}"), dtype=object).reshape(m, n)
        loss = (G * formula(made["B"], made["A"], made["h"])).sum()
        zero = dict.fromkeys(made["B"].flat, 0)
        for name, expected in (("h", 0 * made["h"]), ("A", 0 * made["A"]), ("B", G @ made["A"].T)):
            found = np.array(
                [sympy.diff(loss, s).subs(zero) for s in made[name].flat], dtype=object
            ).reshape(made[name].shape)
            difference = symbolic.difference(found, expected)
            if difference != 0:
                return fails(
                    f"the gradient by {name} at B = 0 is another", {"difference": difference}
                )
    return symbolically("the three gradients are LoRA's")


def _layer(x: Any, B: Any, A: Any, h: Any) -> Any:
    return x @ formulas.pera(B, A, h).T


@claims.register(
    "linear-in-the-input",
    title="Polynomial in the parameters, linear in the input",
    statement=(
        r"$x \mapsto \Delta W x$ is linear in $x$: the layer stays $Wx$ for one fixed matrix $W$,"
        r" and merges"
    ),
    source=f"{PAPER} calls the update nonlinear: that is about its parameters",
    verdict="proved",
    about=_layer,
)
def _linear_in_the_input(formula: Any, seed: int, examples: int) -> Finding:
    import sympy

    for m, n, rank in SHAPES:
        made, (c, *xy) = symbolic.symbols(m, n, rank), sympy.symbols(f"c x:{n} y:{n}")
        x, y = np.array(xy[:n], dtype=object), np.array(xy[n:], dtype=object)
        difference = symbolic.difference(
            formula(x + c * y, *made.values()),
            formula(x, *made.values()) + c * formula(y, *made.values()),
        )
        if difference != 0:
            return fails("f(x + c y) is not f(x) + c f(y)", {"difference": difference})
    return symbolically("f(x + c y) = f(x) + c f(y)")


@claims.register(
    "readings",
    title="Another way to write it gives the same numbers",
    statement=(
        r"$\Delta W_{pq} = \sum_i B_{pi}A_{iq} + \sum_{i\le j} h_{ij} B_{pi}B_{pj}A_{iq}A_{jq}$, an"
        r" explicit loop"
    ),
    source=f"{PAPER}, Eq. 9",
    verdict="verified",
    about=formulas.pera,
)
def _readings(formula: Any, seed: int, examples: int) -> Finding:
    def loop(B: np.ndarray, A: np.ndarray, h: np.ndarray) -> np.ndarray:
        (m, rank), n = B.shape, A.shape[1]
        delta = np.zeros((m, n))
        for p in range(m):
            for q in range(n):
                u = [B[p, i] * A[i, q] for i in range(rank)]
                products = [u[i] * u[j] for i in range(rank) for j in range(i, rank)]
                delta[p, q] = sum(u) + sum(
                    c * product for c, product in zip(h, products, strict=True)
                )
        return delta

    return equal(
        factors(),
        lambda B, A, h: formula(B, A, h),
        loop,
        seed,
        examples,
        "the rule is the loop, on whole numbers",
    )
