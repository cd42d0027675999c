"""Claims about LoRA, DoRA and HiRA."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st

from perakit import formulas
from perakit.theory import field, symbolic
from perakit.theory.claims import claims
from perakit.theory.exact import exact_rank
from perakit.theory.families import products
from perakit.theory.findings import Finding, factors, verified
from perakit.theory.statements.arguments import (
    PAPER,
    SHAPES,
    Case,
    cases,
    every,
    fails,
    identical,
    is_the_loop,
    symbolically,
    weights_and_factors,
)

# --- other rules than PERA: their cases, and what they are compared with --------------------------


@dataclass(frozen=True)
class Drawn(Case):
    """A case of a rule that takes other arrays: their names, and the names of their sides."""

    terms: str = "none"
    arrays: tuple[tuple[str, str], ...] = ()

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of every array: m, n and r are the layer and the rank, h is how many pairs i <= j there
        are, s is the side of MoRA's square.
        """
        sides = {
            "m": self.m,
            "n": self.n,
            "r": self.rank,
            "h": self.rank * (self.rank + 1) // 2,
            "s": formulas.mora_size(self.m, self.n, self.rank),
        }
        return {name: tuple(sides[side] for side in of) for name, of in self.arrays}


def lora_cases(seed: int) -> list[Case]:
    """Every rank up to 12 on small layers, and large layers."""
    return cases(formulas.lora, seed, ("none",))


def drawn_cases(seed: int, **arrays: str) -> list[Case]:
    """The same of a rule that takes arrays of such sides: W0="mn", B="mr", A="rn"."""
    return [
        Drawn(case.m, case.n, case.rank, arrays=tuple(arrays.items())) for case in lora_cases(seed)
    ]


def multiplied(B: Any, A: Any, prime: int) -> np.ndarray:
    """B A of residues, term by term, in whole numbers."""
    B, A = (x.value.astype(np.int64) for x in (B, A))
    total = np.zeros((len(B), A.shape[1]), dtype=np.int64)
    for b, a in zip(B.T, A, strict=True):
        total = (total + np.multiply.outer(b, a)) % prime
    return total


def corners(
    found: Sequence[Case], made: Callable[[Case], tuple[np.ndarray, int]], what: str
) -> Finding:
    """Whether the first `side` rows and columns of (ΔW, side) = made(case) are I in every case."""
    for case in found:
        delta, side = made(case)
        if not np.array_equal(delta[:side, :side], np.eye(side)):
            return fails(
                f"the corner of side {side} is not I at {case}: {what}", {"case": str(case)}
            )
    return Finding(True, f"{what}: the corner is I, exactly, {at_sizes(found)}")


def pair_corner(
    m: int, n: int, s: int, r: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, int]:
    """U (m, s), V (s, n), B (m, r), A (r, n) with (UV)∘(BA) = I on the corner of the side returned.

    Row p of U and of V's transpose is the unit vector e_k, row p of B and of A's transpose e_i,
    where (k, i) is the p-th pair.
    """
    side = min(m, n, s * r)
    U, B = np.zeros((m, s), dtype=int), np.zeros((m, r), dtype=int)
    k, i = np.divmod(np.arange(side), r)
    U[np.arange(side), k] = B[np.arange(side), i] = 1
    V, A = np.zeros((s, n), dtype=int), np.zeros((r, n), dtype=int)
    V[k, np.arange(side)] = A[i, np.arange(side)] = 1
    return U, V, B, A, side


def is_hira(formula: Any, seed: int) -> Finding:
    """Whether a rule is W0∘(B A), modulo two primes."""
    return identical(
        drawn_cases(seed, W0="mn", B="mr", A="rn"),
        seed,
        lambda case, k, W0, B, A: formula(W0, B, A),
        lambda case, k, W0, B, A: W0.value.astype(np.int64) * multiplied(B, A, W0.prime) % W0.prime,
        "the rule is W0∘BA",
    )


def is_dora(formula: Any, seed: int) -> Finding:
    """Whether a rule is diag(g/‖V‖) V - W0 with V = W0 + B A: row by row, in float64."""
    found = lora_cases(seed)
    for case in found:
        generator = np.random.default_rng((seed, case.rank))
        W0, B, A = (
            generator.integers(1, 10, shape) * generator.choice((-1, 1), shape)
            for shape in ((case.m, case.n), (case.m, case.rank), (case.rank, case.n))
        )
        if case.m > 1:
            W0[0] = -(B[0] @ A)  # a row of V that is zero
        g = generator.integers(1, 100, case.m) * generator.choice((-1.0, 1.0), case.m)
        delta = np.asarray(formula(W0, B, A, g), dtype=float)
        if delta.shape != W0.shape:
            return fails(f"shape {delta.shape} where {W0.shape} is due", {"case": str(case)})
        for p in range(case.m):
            row = W0[p] + sum(B[p, i] * A[i] for i in range(case.rank))
            length = math.sqrt(sum(int(v) ** 2 for v in row))
            due = g[p] / length * row if length else 0.0 * row
            if not (abs(W0[p] + delta[p] - due) <= 1e-12 * abs(g[p])).all():
                return fails(f"row {p} of W0 + ΔW is not g V/‖V‖ at {case}", {"case": str(case)})
    return Finding(True, f"the rule is diag(g/‖V‖)V - W0 to 1e-12, row by row, {at_sizes(found)}")


def at_sizes(found: Sequence[Case]) -> str:
    """What a list of cases amounts to, for a summary."""
    ranks, largest = {case.rank for case in found}, max(found, key=lambda case: case.m * case.n)
    return (
        f"at {len(found)} sizes, r = {min(ranks)} to {max(ranks)}, up to {largest.m} x {largest.n}"
    )


# --- the claims -----------------------------------------------------------------------------------


@claims.register(
    "lora-rank",
    title="LoRA's update has rank at most r",
    statement=r"$\operatorname{rank}(BA) \le \min(m, n, r)$, reached by almost all $B$, $A$",
    source="arXiv 2106.09685, Eq. 3",
    verdict="proved",
    range="all sizes",
    about=formulas.lora,
)
def _lora_rank(formula: Any, seed: int, examples: int) -> Finding:
    r"""Every column of $BA$ is a combination of the $r$ columns of $B$, so the rank is at most $r$;
    and no $(m, n)$ matrix has a rank above $\min(m, n)$.

    Let $s = \min(m, n, r)$. The determinant of the first $s$ rows and columns of $BA$ is a
    polynomial in $B$ and $A$. It is 1 where $B$ and $A$ have ones on the diagonal and zeros
    elsewhere, so it is not the zero polynomial, and it vanishes only on a set of measure zero.
    Everywhere else the rank is $s$.
    """

    def at_ones(case: Case) -> tuple[np.ndarray, int]:
        m, n, rank = case.m, case.n, case.rank
        return formula(np.eye(m, rank, dtype=int), np.eye(rank, n, dtype=int)), min(m, n, rank)

    return every(
        lambda: is_the_loop(formula, seed, ("none",), [2]),
        lambda: corners(lora_cases(seed), at_ones, "min(m, n, r) is reached"),
        lambda: verified(
            factors(),
            lambda B, A, h: exact_rank(formula(B, A)) <= B.shape[1],
            seed,
            examples,
            "the rank is at most r, exactly, on whole numbers",
        ),
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
    r"""Linear in $B$, for a fixed $A$, is $V - W_0 = BA$, and row $p$ of $W_0 + \Delta W$ has the
    direction of $V_p$. But its length is $\lvert g_p\rvert$, whatever $B$ is. Take $W_0 = (1, 0)$,
    $A = (0, 1)$ and $g = 1$: then $\Delta W = (1, B)/\sqrt{1 + B^2} - (1, 0)$ is zero at $B = 0$
    only, and shorter than 2 everywhere. A linear function of $B$ that is bounded is zero. With
    zeros around them the same arrays show it on every layer with $n \ge 2$.
    """
    import sympy

    if not (same := is_dora(formula, seed)).holds:
        return same

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
    return Finding(True, f"{summary}; {same.summary}", {"ΔW(1)": one, "ΔW(2)": two})


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
    verdict="proved",
    range="all sizes; a row of V shorter than 1e-18 counts as so long",
    about=formulas.dora,
)
def _dora_row_lengths(formula: Any, seed: int, examples: int) -> Finding:
    r"""By the rule $W_0 + \Delta W = \operatorname{diag}(g/\lVert V\rVert)\,V$, so row $p$ is $c
    V_p$ with $c = g_p/\lVert V_p\rVert$. Then $\lVert c V_p\rVert = \lvert g_p\rvert$, and $c$ has
    the sign of $g_p$. A multiple of the zero row is zero.
    """

    def rescaled(W0: np.ndarray, B: np.ndarray, A: np.ndarray) -> bool:
        V = W0 + B @ A
        g = 1.0 + np.arange(len(V))
        size = np.linalg.norm(V, axis=1)
        due = V * np.divide(g, size, out=0 * size, where=size > 0)[:, None]
        for sign in (1, -1):
            delta = np.asarray(formula(W0, B, A, sign * g), dtype=float)
            if delta.shape != V.shape:
                return False
            if not (abs(W0 + delta - sign * due) <= 1e-12 * g[:, None]).all():
                return False
        return True

    return every(
        lambda: is_dora(formula, seed),
        lambda: verified(
            weights_and_factors(),
            rescaled,
            seed,
            examples,
            "each row is V's at length |g_p|, turned for g_p < 0, or was zero",
        ),
    )


@claims.register(
    "hira-rank",
    title="HiRA's rank goes up to rank(W0) r",
    statement=(
        r"$\operatorname{rank}(W_0\circ BA) \le \min(m, n, \operatorname{rank}(W_0)\, r)$, reached"
        r" by almost all $B$, $A$ and $W_0$ of a given rank. For every $W_0$ it is reached at $r ="
        r" 1$, but for $m, n \ge 2$ not at $r \ge 2$: $E_{11}\circ BA$ has rank at most 1"
    ),
    source="classical (Hadamard products); HiRA, ICLR 2025",
    verdict="proved",
    range="all sizes and ranks of W0",
    about=formulas.hira,
)
def _hira_rank(formula: Any, seed: int, examples: int) -> Finding:
    r"""Let $W_0 = UV$ have rank $s$, $U$ with $s$ columns $u_k$ and $V$ with $s$ rows $v_k^\top$.
    Then $W_0\circ BA = \sum_{k,i} (u_k\circ b_i)(v_k\circ a_i)^\top$, a sum of $sr$ matrices of
    rank at most one.

    *Reached.* Let $c = \min(m, n, sr)$. The determinant of the first $c$ rows and columns is a
    polynomial in $U$, $V$, $B$, $A$, so it is enough that it is not zero somewhere. Number the
    pairs $(k, i)$. For $p \le c$ let row $p$ of $U$ and column $p$ of $V$ be the unit vector $e_k$,
    row $p$ of $B$ and column $p$ of $A$ the unit vector $e_i$, where $(k, i)$ is the $p$-th pair.
    Entry $(p, q)$ is then $(e_k\cdot e_{k'})(e_i\cdot e_{i'})$: 1 if $p = q$ and else 0. The corner
    is $I$, its determinant 1.

    *At $r = 1$* $W_0\circ b a^\top = \operatorname{diag}(b)\,W_0\operatorname{diag}(a)$ has the
    rank of $W_0$ wherever $b$ and $a$ have no zero.
    """

    def bounded(W0: np.ndarray, B: np.ndarray, A: np.ndarray) -> bool:
        return exact_rank(formula(W0, B, A)) <= exact_rank(W0) * B.shape[1]

    def reached() -> Finding:
        for s in (1, 2, 3):

            def at_units(case: Case, s: int = s) -> tuple[np.ndarray, int]:
                U, V, B, A, side = pair_corner(case.m, case.n, s, case.rank)
                return formula(U @ V, B, A), side

            finding = corners(
                lora_cases(seed), at_units, "rank(W0) r is reached for rank(W0) = 1, 2, 3"
            )
            if not finding.holds:
                break
        return finding

    def generic() -> Finding:
        generator, ranks = np.random.default_rng(seed), {}
        for m, n, s, rank in ((7, 6, 6, 1), (23, 29, 3, 7), (127, 131, 5, 4)):
            U, V, B, A = (
                generator.integers(1, 100, shape)
                for shape in ((m, s), (s, n), (m, rank), (rank, n))
            )
            ranks[f"{m} x {n}, rank(W0) = {s}, r = {rank}"] = (
                field.modular_rank(formula(U @ V, B, A)),
                min(m, n, s * rank),
            )
        return reaching(ranks)

    return every(
        lambda: is_hira(formula, seed),
        reached,
        generic,
        lambda: verified(
            weights_and_factors(),
            bounded,
            seed,
            examples,
            "the rank is at most rank(W0) r, exactly, on whole numbers",
        ),
    )


def reaching(reached: dict[str, tuple[int, int]]) -> Finding:
    """Whether ranks modulo a prime, which are proved lower bounds, meet their upper bounds."""
    shown = ", ".join(f"{rank} of {bound} at {where}" for where, (rank, bound) in reached.items())
    holds = all(rank == bound for rank, bound in reached.values())
    return Finding(holds, f"{'reached' if holds else 'not reached'}: {shown}")


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
    r"""The elementwise product with $W_0$ is linear, and $BA$ is linear in $B$ for a fixed $A$, and
    in $A$ for a fixed $B$. In the pair $(B, A)$, which is trained, the update is not linear:
    scaling both by $c$ scales it by $c^2$. LoRA's is as little linear.
    """
    import sympy

    if not (same := is_hira(formula, seed)).holds:
        return same

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
    return every(same, symbolically("linear in each factor, degree 2 in both"))


@claims.register(
    "orders",
    title=(
        "Orders: LoRA's part is of order two in the factors, PERA's products of order four and one"
        " in h"
    ),
    statement=(
        r"Scaling $B$ and $A$ by $c$ scales LoRA's part by $c^2$ and a product of $d$ columns by"
        r" $c^{2d}$, so those of the paper by $c^4$; scaling $h$ by $c$ scales the products by $c$"
    ),
    source=f"follows from {PAPER}, Eq. 8 and 9",
    verdict="proved",
    range="all sizes, terms and degrees",
    about=formulas.pera,
)
def _orders(formula: Any, seed: int, examples: int) -> Finding:
    r"""An entry of a product of $d$ columns and $d$ rows, $h_{i_1\dots
    i_d}\,(b_{i_1}\circ\dots\circ b_{i_d})(a_{i_1}\circ\dots\circ a_{i_d})^\top$, is $d$ entries of
    $B$ times $d$ entries of $A$ times one of $h$. So the product is homogeneous of degree $2d$ in
    $(B, A)$, and linear in $h$. LoRA's part is that of $d = 1$, without $h$.
    """

    def scales(B: np.ndarray, A: np.ndarray, h: np.ndarray, c: int) -> bool:
        linear = formula(B, A, 0 * h)
        high = formula(B, A, h) - linear
        in_h = (formula(B, A, c * h) == linear + c * high).all()
        return bool(in_h and (formula(c * B, c * A, h) == c**2 * linear + c**4 * high).all())

    # Two whole numbers at random for c: of (B, A) and of h
    c, of_h = (int(k) for k in np.random.default_rng(seed).integers(2, 1000, 2))

    def powers(case: Case) -> np.ndarray:
        rows = products(case.rank, case.terms, case.degree)
        return np.array([c ** (2 * len(row) - 2) for row in rows], dtype=object)

    def scaled(case: Case, k: int, B: Any, A: Any, h: Any) -> Any:
        return formula(c * B, c * A, of_h * h, **case.options)

    def by_orders(case: Case, k: int, B: Any, A: Any, h: Any) -> Any:
        linear = formula(B, A, 0 * h, **case.options)
        high = formula(B, A, powers(case) * h, **case.options) - linear
        return c**2 * (linear + of_h * high)

    drawn = st.tuples(factors(), st.integers(-3, 3)).map(lambda pair: pair[0] | {"c": pair[1]})
    return every(
        lambda: is_the_loop(formula, seed),
        lambda: identical(
            cases(formula, seed, ["full"]),
            seed,
            scaled,
            by_orders,
            "a product of d columns scales with c^2d and with h",
        ),
        lambda: verified(
            drawn,
            scales,
            seed,
            examples,
            "the linear part scales with c², the products with c⁴ and with h, on whole numbers",
        ),
    )
