"""Claims about the rank of the update, and about which set of updates contains which."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from perakit import formulas
from perakit.theory import field, symbolic
from perakit.theory.claims import claims
from perakit.theory.exact import exact_rank
from perakit.theory.families import products
from perakit.theory.findings import Finding, factors, verified
from perakit.theory.manifold import dimension
from perakit.theory.residues import Residues
from perakit.theory.statements.arguments import (
    LARGE,
    PAPER,
    RANKS,
    SHAPES,
    Case,
    beyond_lora,
    beyond_rank_K,
    cases,
    directions,
    every,
    fails,
    identical,
    is_the_loop,
    ranks,
    symbolically,
    takes_options,
)


def around_K(formula: Any) -> list[Case]:
    """Layers just above and just below K: all ranks to 12, terms and degrees, and large ones."""
    found = []
    options = takes_options(formula)
    for terms in formulas.TERMS if options else ("full",):
        for degree in range(2, 7) if options else (2,):
            for rank in RANKS if degree == 2 else (1, 2, 3):
                K = formulas.rank_bound(rank, terms, degree)
                found.append(Case(max(K + 1, rank), max(K + 3, rank), rank, terms, degree))
                if rank + 1 < K:
                    found.append(Case(K - 1, K + 2, rank, terms, degree))
    return found + [Case(m, n, rank) for m, n, rank in LARGE]


def higher(formula: Any) -> list[Case]:
    """Rank 2 at degrees 3 to 6, for a rule that takes a degree."""
    return [Case(29, 31, 2, "full", degree) for degree in range(3, 7) if takes_options(formula)]


def least(case: Case) -> int:
    """min(m, n, K)."""
    return min(case.m, case.n, formulas.rank_bound(case.rank, case.terms, case.degree))


@claims.register(
    "lora-inside-pera",
    title="PERA contains LoRA, strictly",
    statement=(
        r"$S_{\mathrm{LoRA}}(r) \subsetneq S_{\mathrm{PERA}}(r)$ for $r < \min(m, n)$; at $r ="
        r" \min(m, n)$ both are all matrices"
    ),
    source=f"{PAPER}, section 3.3; strictness by generic-rank",
    verdict="proved",
    range="all sizes",
    about=formulas.pera,
)
def _lora_inside_pera(formula: Any, seed: int, examples: int) -> Finding:
    r"""$h = 0$ gives $BA$, so every LoRA update is a PERA update. For $r < \min(m, n)$ generic
    factors give rank $\min(m, n, K)$ ([generic-rank](#generic-rank)). As $K \ge 2r > r$ this is
    more than $r$, so it is no LoRA update. At $r = \min(m, n)$ one factor can be the identity, and
    the other any matrix.
    """
    if (difference := beyond_lora(formula)) != 0:
        return fails("h = 0 does not give LoRA: the inclusion fails", {"difference": difference})

    def without_h(case: Case, k: int, B: Any, A: Any, h: Any) -> Any:
        return formula(B, A, 0 * h, **case.options)

    steps = [Case(rank + 1, rank + 2, rank) for rank in RANKS] + higher(formula)
    return every(
        lambda: identical(
            cases(formula, seed),
            seed,
            without_h,
            lambda case, k, B, A, h: B @ A,
            "h = 0 gives every LoRA update",
        ),
        lambda: ranks(
            formula,
            [*steps, *(Case(*layer) for layer in LARGE)],
            seed,
            least,
            "an update has rank min(m, n, K) > r",
        ),
    )


@claims.register(
    "identity",
    title="The 2r x 2r identity is a PERA of rank r",
    statement=(
        r"$b_i = e_{2i-1} - e_{2i}$, $a_i = b_i^\top/2$, $h_{ii} = 2 \;\Rightarrow\; \Delta W ="
        r" I_{2r}$, of rank $2r$, for any other coefficients; at $r = 1$, $\Delta W = I_2$"
    ),
    source=f"example for {PAPER}, Eq. 9",
    verdict="proved",
    range="all r",
    about=formulas.pera,
)
def _identity(formula: Any, seed: int, examples: int) -> Finding:
    r"""$b_i a_i$ is $\frac12\begin{pmatrix}1 & -1\\ -1 & 1\end{pmatrix}$ on the $i$-th block of two
    rows and columns, and zero elsewhere. Its elementwise square is $\frac14$ in all four places. So
    $b_ia_i + 2\,(b_ia_i)\circ(b_ia_i)$ is the identity on the block. For $i \ne j$ the product
    $b_i\circ b_j$ is zero, since the blocks do not meet, and $h_{ij}$ has no effect.
    """
    import sympy

    for rank in (*RANKS, 64):
        for degree in range(2, 7) if rank < 4 and takes_options(formula) else (2,):
            if not _makes_the_identity(formula, Case(2 * rank, 2 * rank, rank, "full", degree)):
                return fails(f"ΔW is not the identity at r = {rank}, degree {degree}", {"r": rank})
    half = sympy.Rational(1, 2)
    b = np.array([[sympy.Integer(1)], [sympy.Integer(-1)]], dtype=object)
    delta = formula(b, b.T * half, np.array([sympy.Integer(2)], dtype=object))
    exact = symbolic.difference(delta, np.eye(2, dtype=int).astype(object)) == 0
    return Finding(
        exact,
        "ΔW = I exactly at r = 1, and modulo a prime at r = 2 to 12 and 64"
        if exact
        else "ΔW is not I",
        counterexample=None if exact else {"ΔW": delta},
    )


def _makes_the_identity(formula: Any, case: Case) -> bool:
    blocks = np.kron(np.eye(case.rank), [[1.0], [-1.0]])  # (2r, r)
    # any coefficients of products of two columns; above degree 2 those that are not zero have one
    h = [
        2 if row[0] == row[-1] and len(row) == 2 else (len(row) + row[0]) * (row[0] < row[-1])
        for row in products(case.rank, "full", case.degree)
    ]
    prime = field.PRIMES[0]
    B, A = Residues(blocks, prime), Residues(blocks.T.copy(), prime) / 2
    gap = formula(B, A, Residues(np.array(h, float), prime), **case.options) - np.eye(case.m)
    return not gap.value.any()


@claims.register(
    "rank-bound",
    title="The rank is at most K",
    statement=(
        r"$\operatorname{rank}\Delta W \le K = r(r+3)/2$; at degree $k$, $K_k = \binom{r+k}{k} - 1$"
    ),
    source=f"{PAPER}, section 3.3",
    verdict="proved",
    range="all sizes, terms and degrees",
    about=formulas.pera,
)
def _rank_bound(formula: Any, seed: int, examples: int) -> Finding:
    r"""$\Delta W$ is the product of an $(m, K)$ and a $(K, n)$ matrix
    ([expanded-factors](#expanded-factors)), and the rank of a product is at most that of a factor.
    $K$ counts the monomials of degree $1$ to $k$ in $r$ variables.
    """

    def bounded(B: np.ndarray, A: np.ndarray, h: np.ndarray) -> bool:
        return exact_rank(formula(B, A, h)) <= formulas.rank_bound(B.shape[1])

    def expanded(case: Case, k: int, **drawn: Any) -> Any:
        B_hat, A_hat = formulas.expand(**drawn, terms=case.terms, degree=case.degree)
        return B_hat @ A_hat

    found = every(
        symbolically("ΔW is a product of (m, K) and (K, n) factors")
        if beyond_rank_K(formula) == 0
        else Finding(False, "not in symbols"),
        lambda: identical(
            cases(formula, seed),
            seed,
            lambda case, k, **drawn: formula(*drawn.values(), **case.options),
            expanded,
            "it is the product of expand's factors",
        ),
    )
    if found.holds:
        return found
    searched = verified(
        factors(), bounded, seed, examples, "the rank is at most K, exactly, on whole numbers"
    )
    return replace(
        searched,
        holds=False,
        summary=(
            "the proof does not apply, the update is not that of expand(B, A, h):"
            f" {found.summary}; {searched.summary}"
        ),
    )


@claims.register(
    "generic-rank",
    title="Generic factors reach the bound",
    statement=(
        r"$\operatorname{rank}\Delta W = \min(m, n, K)$ for generic $B, A, h$; hence"
        r" $S_{\mathrm{PERA}}(r) \subset S_{\mathrm{LoRA}}(s)$ if and only if $s \ge \min(m, n, K)$"
    ),
    source=f"follows from {PAPER}, Eq. 9",
    verdict="proved",
    range="all sizes, terms and degrees",
    about=formulas.pera,
)
def _generic_rank(formula: Any, seed: int, examples: int) -> Finding:
    r"""Let $s = \min(m, n, K)$ and look at the upper left $s \times s$ corner of $\Delta W = \hat
    B\,\hat A$. By Cauchy-Binet its determinant is

    $$\sum_S \det\beta_S\,\det\alpha_S \prod_{I\in S} h_I,$$

    where $S$ runs through the sets of $s$ of the $K$ monomials, $\beta_S$ and $\alpha_S$ are the
    $s\times s$ matrices of these monomials at the first $s$ rows of $B$ and columns of $A$, and
    $h_I = 1$ for the linear ones. Fix a set $Q$ of products as large as possible, and look at the
    coefficient of $\prod_{I\in Q} h_I$. It is the sum of $\det\beta_S\det\alpha_S$ over the $S$
    with just these products. Put $A = B^\top$ on the corner. Then $\alpha_S = \beta_S^\top$, and
    the coefficient is a sum of squares $(\det\beta_S)^2$. Distinct monomials are linearly
    independent functions, so each $\det\beta_S$ is a polynomial that is not zero, and a sum of
    squares of real polynomials is not zero either. So the determinant is not the zero polynomial:
    the rank is at least $s$ for all factors but those on a set of measure zero. It is never more
    ([rank-bound](#rank-bound)). $\square$
    """
    return every(
        lambda: ranks(
            formula,
            around_K(formula),
            seed,
            least,
            "the rank of a random update, by elimination, is min(m, n, K)",
        ),
        lambda: is_the_loop(formula, seed),
    )


@claims.register(
    "hadamard-square-rank",
    title="Rank of an elementwise square",
    statement=r"$\operatorname{rank}\bigl((BA)\circ(BA)\bigr) \le r(r+1)/2$",
    source="classical (Khatri-Rao products)",
    verdict="proved",
    range="all sizes",
    about=formulas.lora,
)
def _hadamard_square_rank(formula: Any, seed: int, examples: int) -> Finding:
    r"""$(BA)\circ(BA) = \sum_{i,j} (b_i\circ b_j)(a_i\circ a_j)^\top$. The terms of $(i, j)$ and
    $(j, i)$ are the same, so there are $r(r+1)/2$ of them, each of rank at most one.
    """

    def features(B: Any, A: Any) -> Any:
        i, j = formulas.pairs(A.shape[0])
        return (B[:, i] * B[:, j]) @ ((1 + (i < j))[:, None] * A[i] * A[j])

    for m, n, rank in SHAPES:
        made = symbolic.symbols(m, n, rank, "none")
        if symbolic.difference(formula(*made.values()) ** 2, features(*made.values())) != 0:
            return fails("the square is no product of r(r+1)/2 features", {"shape": (m, n, rank)})
    return every(
        symbolically("(BA)∘(BA) is a product of r(r+1)/2 features"),
        lambda: identical(
            cases(formula, seed, ["none"], [2]),
            seed,
            lambda case, k, B, A: formula(B, A) ** 2,
            lambda case, k, B, A: features(B, A),
            "the same",
        ),
    )


@claims.register(
    "sign-factors",
    title="On special sets the bound is not reached",
    statement=(
        r"$B, A \in \{\pm1\} \;\Rightarrow\; \operatorname{rank}\Delta W \le r(r+1)/2 + 1 < K$ for"
        r" $r \ge 2$: every square is the all-ones matrix"
    ),
    source=f"follows from {PAPER}, Eq. 9",
    verdict="proved",
    range="all sizes",
    about=formulas.pera,
)
def _sign_factors(formula: Any, seed: int, examples: int) -> Finding:
    r"""$b_i\circ b_i$ is the vector of ones, whatever the signs, and so is $a_i\circ a_i$. The $r$
    squares add up to one matrix of rank one, $\sum_i h_{ii}\,\mathbf 1\mathbf 1^\top$. With the $r$
    linear terms and the $r(r-1)/2$ products of two columns this makes $r(r+1)/2 + 1$ matrices of
    rank one. $K - r(r+1)/2 - 1 = r - 1$.
    """

    def signs(case: Case, k: int) -> list[Any]:
        generator, prime = np.random.default_rng((seed, k, 3)), field.PRIMES[k]
        drawn = [
            Residues(generator.choice((-1.0, 1.0), shape), prime)
            for shape in ((case.m, case.rank), (case.rank, case.n))
        ]
        return [*drawn, Residues(field.draw(generator, case.shapes()["h"], prime), prime)]

    def reduced(case: Case, k: int, **drawn: Any) -> Any:
        B, A, h = signs(case, k)
        i, j = formulas.pairs(case.rank)
        squares, cross = h[np.flatnonzero(i == j)].sum(), np.flatnonzero(i < j)
        i, j = i[cross], j[cross]
        return B @ A + (B[:, i] * B[:, j]) @ (h[cross][:, None] * A[i] * A[j]) + squares

    return every(
        lambda: identical(
            cases(formula, seed, ["full"], [2]),
            seed,
            lambda case, k, **drawn: formula(*signs(case, k)),
            reduced,
            "factors of signs give r + r(r-1)/2 matrices of rank one and a multiple of the ones",
        ),
        lambda: is_the_loop(formula, seed, ["full"]),
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
    r"""By [generic-rank](#generic-rank): generic updates have rank $\min(m, n, K)$, and $K > r$."""
    found = [Case(97, 101, rank) for rank in RANKS] + [Case(*layer) for layer in LARGE]
    found += higher(formula)
    shown = ", ".join(f"{formulas.rank_bound(r)} at r = {r}" for r in (1, 2, 4, 8, 12))
    return ranks(
        formula,
        found,
        seed,
        least,
        f"true of the factors (r columns), not of the update: rank {shown} on 97 x 101",
    )


@claims.register(
    "pera-inside-rank-K",
    title="A PERA update is a LoRA update of rank K, not conversely",
    statement=(
        r"$S_{\mathrm{PERA}}(r) \subset S_{\mathrm{LoRA}}(K)$; for $K \le \min(m, n)$, but $r = 1$,"
        r" $m = n = 2$, they are not the same"
    ),
    source="inclusion by the expanded factors; strictness by dimension",
    verdict="proved",
    range="the inclusion: all sizes; strict: all m, n, r with K <= min(m, n)",
    about=formulas.expand,
)
def _pera_inside_rank_K(formula: Any, seed: int, examples: int) -> Finding:
    r"""$\Delta W = \hat B\,\hat A$ with $K$ columns and rows: a LoRA update of rank $K$. The other
    way round, for $K \le \min(m, n)$ the matrices of rank at most $K$ have dimension $K(m+n-K)$,
    and $S_{\mathrm{PERA}}(r)$ has a smaller one but for $r = 1$, $m = n = 2$
    ([dimension-gap](#dimension-gap)). A set of smaller dimension contains no larger one. (For $K
    \ge \min(m, n)$ LoRA of rank $K$ makes every matrix. At $r = 1$, $1 \times n$, so does PERA.)
    """
    from perakit.theory.theorem1 import dimensions

    def as_lora(case: Case, k: int, **drawn: Any) -> Any:
        B_hat, A_hat = formula(*drawn.values(), **case.options)
        K = formulas.rank_bound(case.rank, case.terms, case.degree)
        if (np.shape(B_hat), np.shape(A_hat)) != ((case.m, K), (K, case.n)):
            return np.zeros((1, 1))  # no factors of K columns: the shapes differ
        return formulas.lora(B_hat, A_hat)

    def update(case: Case, k: int, B: Any, A: Any, h: Any) -> Any:
        return formulas.pera(B, A, h, case.terms, case.degree)

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
    return every(
        symbolically("lora(*expand(B, A, h)) is the update and K its rank"),
        lambda: identical(cases(formula, seed), seed, as_lora, update, "the same"),
        Finding(count.theorem_fails, str(count)),
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
    r"""The first by [lora-inside-pera](#lora-inside-pera). At $r = 1$ is $K = 2$, and a matrix of
    rank 2 is out of reach ([theorem-1](#theorem-1)). For $r \ge 2$, $K > r + 1$, so PERA has
    updates of larger rank; and LoRA of rank $r+1$ has $(r+1)(m+n-r-1)$ dimensions, PERA at most
    $r(m+n) + r(r-1)/2$, which is less where $m + n > (r+1)^2 + r(r-1)/2$.
    """
    from perakit.theory import theorem1

    # a matrix of rank 2, and not in the closure of PERA's r = 1
    outside = theorem1.certificate(formula=formula)
    m, n = 131, 137
    large = [rank for rank in RANKS if rank > 1 and m + n > (rank + 1) ** 2 + rank * (rank - 1) / 2]
    members, lora = theorem1.dimensions(m, n, 2).members, dimension(m, n, 3, "none")
    counted = all(
        theorem1.dimensions(m, n, rank).members < dimension(m, n, rank + 1, "none")
        for rank in large
    )
    summary = (
        f"a matrix of rank 2 is outside the closure of PERA's r = 1 ({outside.nonzero} of 36"
        f" resultants nonzero); on {m} x {n} PERA has updates of rank K > r + 1, and fewer"
        f" dimensions than LoRA's r + 1, at r = {large[0]} to {large[-1]}"
        f" ({members} < {lora} at r = 2)"
    )
    if not (outside.holds and counted):
        return fails("not so of this rule")
    return every(
        lambda: ranks(formula, [Case(m, n, rank) for rank in large], seed, least, summary),
        lambda: directions(
            formula,
            [Case(40, 50, 2), Case(127, 131, 1)],
            seed,
            lambda case: dimension(case.m, case.n, case.rank),
            "and no more dimensions than counted",
        ),
        lambda: is_the_loop(formula, seed, ["full"]),
    )
