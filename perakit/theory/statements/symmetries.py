"""Claims about the changes of the factors that an update does not see."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch.func import jacfwd, jvp

from perakit import formulas
from perakit.theory import exact, field
from perakit.theory.claims import claims
from perakit.theory.families import as_float64, of_rule
from perakit.theory.findings import Finding, same
from perakit.theory.gauge import column_classes
from perakit.theory.jacobian import jacobian_rank
from perakit.theory.manifold import gauge_orbit
from perakit.theory.statements.arguments import PAPER, fails, is_the_loop

# (m, n, r): all ranks to 12, and layers with many outputs, many inputs, many of both
ENTRIES = (*((r + 1, r + 2, r) for r in range(1, 13)), (128, 3, 2), (3, 128, 2), (101, 103, 7))


def _coefficients(
    sizes: tuple[int, ...], generator: np.random.Generator, terms: str = "full"
) -> np.ndarray:
    """h at degree 2 of an H with classes of equal rows of these sizes (more may coincide)."""
    blocks = np.repeat(np.arange(len(sizes)), sizes)
    whole = generator.integers(-4, 5, (len(sizes),) * 2)
    H = (whole + whole.T)[np.ix_(blocks, blocks)]
    i, j = formulas.pairs(len(blocks), terms)
    return H[i, j] * np.where(i == j, 1, 2)


def partitions(rank: int, largest: int | None = None) -> Iterator[tuple[int, ...]]:
    """All ways to write `rank` as a sum of sizes that do not grow.

    >>> from perakit.theory.statements.symmetries import partitions
    >>> list(partitions(3))
    [(3,), (2, 1), (1, 1, 1)]
    """
    if rank == 0:
        yield ()
    for first in range(min(rank, largest or rank), 0, -1):
        yield from ((first, *rest) for rest in partitions(rank - first, first))


# --- the gauge theorem ----------------------------------------------------------------------------


@claims.register(
    "gauge-theorem",
    title="What ΔW does not see is decided by equal rows of H",
    statement=(
        r"For $K \le \min(m,n)$, generic $B, A$ and *every* $h$ the changes of the factors that"
        r" $\Delta W$ does not see to first order are $(BX, -XA, 0)$ with $X_{ik} = 0$ unless rows"
        r" $i$ and $k$ of $H$ are equal: $\sum_c r_c^2$ dimensions, $r_c$ the sizes of the classes"
        r" of equal rows; $\prod_c GL(r_c)$ acts"
    ),
    source=f"follows from {PAPER}, Eq. 9",
    verdict="proved",
    about=formulas.pera,
    range="all m, n, r, h and degrees with K <= min(m, n)",
)
def _gauge_theorem(formula: Any, seed: int, examples: int) -> Finding:
    r"""The tangent space of the fibre, for every $h$.

    **Words.** $\Delta W_{pq} = \varphi_h(u)$ with $u = B_{p\cdot}\circ A_{\cdot q}$, $\varphi_h(u)
    = \sum_i u_i + u^\top H u$, where $H_{ii} = h_{ii}$, $H_{ij} = h_{ij}/2$. Since
    $\partial\varphi_h/\partial u_i = 1 + 2 (Hu)_i$, rows $i$ and $k$ of $H$ are equal exactly if
    $\partial_i\varphi_h = \partial_k\varphi_h$; write $i\sim k$ then. The proof uses nothing else
    of $\varphi_h$, so it holds for every degree $d$, $\varphi_h(u) = \sum_i u_i + \sum_{2\le|I|\le
    d} h_I u^I$, with $\sim$ so defined. Square or cross terms only are an $h$ with zeros that stay
    zero ($\delta h$ is zero there too). $K$ is the number of all monomials of degree $1 \dots d$,
    whatever the terms: $r(r+3)/2$ at $d = 2$.

    **The group.** If $i\sim k$, $\varphi_h$ does not change along $e_i - e_k$. So it depends on the
    $u_i$ of a class $c$ only through their sum, which is an entry of $B_cA_c$ ($B_c$: the columns
    of the class, $A_c$: the rows). $B_c \to B_cS$, $A_c\to S^{-1}A_c$ leaves that product and
    $\Delta W$, for any $m$, $n$, $B$, $A$. So the directions that the theorem names are directions
    of the fibre, and $\sum_c r_c^2$ of them are independent where $B$ has rank $r$.

    **One identity.** Along $(BX, -XA, 0)$ the derivative of $\Delta W_{pq}$ is, with $b =
    B_{p\cdot}$, $a = A_{\cdot q}$,

    $$Q(X) = \sum_k \partial_k\varphi_h(u)\,\Bigl(\sum_i b_iX_{ik}a_k - b_k\sum_i X_{ki}a_i\Bigr) =
    \sum_{i\ne k} X_{ik}\; b_i a_k\,\bigl(\partial_k\varphi_h - \partial_i\varphi_h\bigr)(b\circ
    a).$$

    A monomial $c_L u^L$ of $\partial_k\varphi_h - \partial_i\varphi_h$ contributes
    $X_{ik}c_L\,b^{L+e_i}a^{L+e_k}$. From the two exponents, which differ, $L$ is read as their
    minimum, then $i$ and $k$: no two contributions meet. And no exponents are the same for $b$ and
    $a$.

    **Nothing else.** Let $B, A$ be such that the monomials of degree $1\dots d$ in the columns of
    $B$, as vectors of $\mathbb R^m$, are independent, and those in the rows of $A$. For
    $K\le\min(m,n)$ generic ones are (different monomials are independent functions, so some $K$
    points tell them apart). Then the matrices $\beta_I\alpha_J^\top$, $\beta_I$ and $\alpha_J$
    monomials of $B$ and of $A$, are independent. Put $h_I\varepsilon^{|I|-1}$ for $h_I$, and let
    $J(\varepsilon) = J_0 + \varepsilon J_2 + \varepsilon^2 J_3 + \dots$ be the derivative of
    $\Delta W$ there, $J_s$ the part of the monomials of degree $s$. Polynomial vectors
    $v(\varepsilon) = v_0 + \varepsilon v_1 + \dots$ with $J(\varepsilon)v(\varepsilon) = 0$ have a
    basis whose values $v_0$ at $\varepsilon = 0$ are independent (divide a combination that
    vanishes there by $\varepsilon$), and its length is the dimension of the kernel at all but
    finitely many $\varepsilon$. So look at $v_0$.

    - $J_0(\delta B, \delta A, \delta h) = \delta B\,A + B\,\delta A + \sum\delta h_I\,
      \beta_I\alpha_I^\top$, $|I|\ge2$. If it is zero, project along the columns of $B$ and the
      rows of $A$: $\delta h = 0$, as the $\beta_I$ and the $\alpha_I$ stay independent. Then
      $\delta B\,A = -B\,\delta A$, so $\delta B = BX$, $\delta A = -XA$.
    - Order by order, $v_s = (BX_s, -X_sA, 0)$: at order $\varepsilon^s$, $J_0v_s + J_2v_{s-1} +
      J_3v_{s-2} + \dots = 0$, where every $v_t$ with $t<s$ has that form. By the identity
      $J_{|L|+1}v_t$ is a sum of $\beta_{L+e_i}\alpha_{L+e_k}^\top$ with different exponents of
      degree $|L|+1\ge2$, each degree from one of the terms, and $J_0v_s$ has none of them. So each
      term is zero by itself, and $v_s$ is in the kernel of $J_0$.
    - In particular $J_2v_0 = J_3v_0 = \dots = 0$, that is $X_{ik}(\partial_k\varphi_h -
      \partial_i\varphi_h) = 0$ for $v_0 = (BX, -XA, 0)$: $X_{ik} = 0$ unless $i\sim k$.

    So the kernel has dimension at most $\sum_cr_c^2$ for all but finitely many $\varepsilon$. As
    $\Delta W(B, A, h_I\varepsilon^{|I|-1}) = \varepsilon^{-1}\Delta W(\varepsilon B, A, h)$, this
    is the kernel at $(\varepsilon B, A, h)$, its coordinates rescaled. The dimension of a
    kernel is least on an open dense set of $(B, A)$, and never below $\sum_cr_c^2$: there it is
    that number. $\square$

    **At given factors** no genericity is left to hope for where the monomials of degree $1\dots
    2d-1$ (of degree 3 for PERA) are independent, of $B$ and of $A$: with $F$, $G$ the features and
    $D = \mathrm{diag}(1, h)$, $\delta F\,DG + F\,\delta D\,G + FD\,\delta G = 0$ gives $\delta F\,D
    = FY$, $D\,\delta G = ZG$, $Y + \delta D + Z = 0$. So $\delta b_k$ is a polynomial of degree
    $\le d$ in $b$, and $h_I\delta(b^I)$ one of degree $\le 2d-1$ which has no monomial of degree
    below $|I|$; likewise for $a$. Hence $Z_{J,\{k\}} = 0$ and $Y_{J,\{k\}} = 0$ for $|J|\ge2$:
    $\delta B = BX$, $\delta A = -XA$, and the identity ends the proof. `theory.gauge` tests this.

    **Cases.** $h = 0$: one class, $r^2$, as LoRA. $H$ with different rows: $r$. $h_{ii} = c$,
    $h_{ij} = 2c$: all rows equal, $r^2$ again. Squares: $h_{ii} = 0$ for $z$ of the columns gives
    $z^2 + r - z$. Cross terms: rows $i$ and $k$ can only be equal if $h_{ik} = 0$.

    **What runs:** that the rule is $\varphi_h(u)$ at every entry, and exact kernels modulo a prime.
    A kernel modulo a prime is never too small, and the group's directions are always there, so
    equality is a proof at that size.
    """
    rule_is_pera = is_the_loop(formula, seed)
    if not rule_is_pera.holds:
        return rule_is_pera
    counted = 0
    for rank, terms, degree, h in _patterns(np.random.default_rng(seed)):
        K = formulas.rank_bound(rank, "full", degree)
        classes = column_classes(h, rank, terms, degree)
        stated = sum(len(members) ** 2 for members in classes)
        rule = of_rule(formula, rank, terms, degree)
        found = jacobian_rank(K, K + rank % 2, rule, at={"h": h}, seed=seed)
        counted += 1
        kernel = found.parameters - found.rank
        if kernel != stated:
            return fails(
                f"fails: {kernel} directions without effect, stated {stated}",
                {"rank": rank, "terms": terms, "degree": degree, "h": h},
            )
    return Finding(
        True,
        f"{rule_is_pera.summary}; the exact kernel has Σ r_c² dimensions in"
        f" {counted} patterns of h: every partition for r <= 5, others to r = 8, degrees to 4",
        {"patterns": counted},
    )


def _patterns(
    generator: np.random.Generator,
) -> Iterator[tuple[int, str, int, np.ndarray]]:
    """(rank, terms, degree, h) with every partition of r <= 5 into equal rows, and some beyond."""
    for rank in range(1, 6):
        for sizes in partitions(rank):
            yield rank, "full", 2, _coefficients(sizes, generator)
    for sizes in ((4, 2), (3, 2, 1, 1), (2, 2, 2, 1, 1)):
        yield sum(sizes), "full", 2, _coefficients(sizes, generator)
    yield 5, "full", 2, np.zeros(15, dtype=int)
    yield 4, "square", 2, np.array([0, 3, 0, 3])
    yield 7, "square", 2, np.array([1, 0, 2, 0, 0, 2, 1])
    yield 4, "cross", 2, np.array([0, 5, 2, 5, 2, 1])
    yield 6, "cross", 2, generator.integers(1, 9, 15)
    # (t_1 + ... )³: every class is one; and a generic one
    yield 2, "full", 3, np.array([1, 2, 1, 4, 12, 12, 4])
    yield 3, "full", 3, generator.integers(1, 9, 16)
    yield 2, "full", 4, np.array([1, 2, 1, 1, 3, 3, 1, 2, 8, 12, 8, 2])
    yield 2, "full", 4, generator.integers(1, 9, 12)


# --- its corollaries ------------------------------------------------------------------------------


@claims.register(
    "gauge-group",
    title="PERA's symmetries are r-dimensional, LoRA's r²",
    statement=(
        r"$B \to BPD,\ A \to D^{-1}P^\top A$, $h$ permuted, leaves $\Delta W$; near generic"
        r" factors no other continuous change does, where $K \le \min(m,n)$ and the rows of $H$"
        r" differ"
    ),
    source=f"follows from {PAPER}, Eq. 9",
    verdict="proved",
    about=formulas.pera,
    range="all m, n, r with K <= min(m, n); the invariance at all sizes",
)
def _gauge_group(formula: Any, seed: int, examples: int) -> Finding:
    r"""The gauge theorem where no two rows of $H$ are equal.

    **Invariance.** With column $k$ of $B$ replaced by $d_k b_{\pi(k)}$ and row $k$ of $A$ by
    $a_{\pi(k)}/d_k$, $u_k$ becomes $u_{\pi(k)}$ in every entry: $d_k$ cancels. So $\varphi_h(u) =
    \sum u_i + \sum_{i\le j} h_{ij}u_iu_j$ is read at a permuted $u$, and $h'_{ij} =
    h_{\pi(i)\pi(j)}$ undoes that. No size enters.

    **No other.** If the rows of $H$ differ, every class of the gauge theorem has one member, so for
    $K\le\min(m,n)$ and generic $B, A$ the kernel of the derivative is $\{(BX, -XA, 0): X$
    diagonal$\}$, of dimension $r$. A curve of factors with the same $\Delta W$ has its velocity in
    that kernel. Rows differ for all $h$ outside a union of $r(r-1)/2$ proper subspaces, so for
    generic $h$. $\square$

    LoRA's $r^2$ are claim `lora-gauge`. Where rows of $H$ are equal the group is larger: $\prod
    GL(r_c)$.
    """
    rule_is_pera = is_the_loop(formula, seed, ["full"])
    if not rule_is_pera.holds:
        return rule_is_pera
    generator = np.random.default_rng(seed)
    for m, n, rank in ENTRIES:
        B, A = (generator.integers(-3, 4, size) for size in ((m, rank), (rank, n)))
        h = generator.integers(-3, 4, rank * (rank + 1) // 2)
        # Powers of two: nothing is rounded
        scales = generator.choice((-2.0, -1.0, 0.5, 4.0), rank)
        moved = gauge_orbit(B, A, h, scales, generator.permutation(rank).tolist())
        if not np.array_equal(formula(*moved), formula(B, A, h)):
            return fails(f"fails: ΔW changes with order and scale, {m} x {n}, r = {rank}", {"h": h})
    for rank in (1, 2, 3, 4, 7):
        K = rank * (rank + 3) // 2
        found = jacobian_rank(K, K + 1, of_rule(formula, rank), seed=seed)
        if found.parameters - found.rank != rank:
            return fails(
                f"fails: {found.parameters - found.rank} directions without effect, not r = {rank}",
                {"m": K, "n": K + 1, "rank": rank},
            )
    return Finding(
        True,
        "ΔW is the same in another order and scale at r <= 12 and on layers to 128; the exact"
        " kernel has r dimensions at r = 1, 2, 3, 4, 7, m = K, n = K + 1",
    )


@claims.register(
    "lora-gauge",
    title="LoRA's factors are free up to GL(r)",
    statement=(
        r"$B \to BX,\ A \to X^{-1}A$ leaves $\Delta W$ for every invertible $X$, and where $B$ and"
        r" $A$ have rank $r$ every pair of factors of $\Delta W$ is one of these"
    ),
    source="arXiv 2106.09685, Eq. 3",
    verdict="proved",
    about=formulas.lora,
    range="all m, n, r <= min(m, n)",
)
def _lora_gauge(formula: Any, seed: int, examples: int) -> Finding:
    r"""Column spaces, and then one matrix.

    $(BX)(X^{-1}A) = BA$. Conversely let $B'A' = BA$ with $B, A$ of rank $r$, $B'$ $(m, r)$ and $A'$
    $(r, n)$. $BA$ has rank $r$, so $B'$ has, and both $B$ and $B'$ have the column space of $BA$.
    Hence $B' = BX$ with an invertible $X$, and $B(XA' - A) = 0$. $B$ has independent columns, so
    $A' = X^{-1}A$. $\square$

    To first order the kernel is $\{(BX, -XA)\}$, of dimension $r^2$: the case $h = 0$ of the gauge
    theorem, with $K = r$.
    """
    generator = np.random.default_rng(seed)
    for m, n, rank in ENTRIES:
        if rank > min(m, n):
            continue
        B, A = generator.integers(-3, 4, (m, rank)), generator.integers(-3, 4, (rank, n))
        # Triangular with ones: its inverse is whole
        X = np.eye(rank, dtype=int) + np.tril(generator.integers(-1, 2, (rank, rank)), -1)
        back = np.rint(np.linalg.inv(X)).astype(int)
        got, moved = formula(B, A), formula(B @ X, back @ A)
        loop = sum(np.outer(b, a) for b, a in zip(B.T, A, strict=True))
        if not (same(got, loop) and same(moved, got)):
            return fails(
                f"fails: ΔW is not B A, or not that of B X and the inverse of X times A, {m} x {n},"
                f" r = {rank}",
                {"m": m, "n": n, "rank": rank},
            )
    for m, n, rank in ((3, 4, 1), (4, 5, 2), (5, 5, 5), (8, 9, 7), (101, 7, 2)):
        found = jacobian_rank(m, n, of_rule(formula, rank, "none"), seed=seed)
        if found.parameters - found.rank != rank**2:
            return fails(
                f"fails: {found.parameters - found.rank} directions without effect, not r²",
                {"m": m, "n": n, "rank": rank},
            )
    return Finding(
        True,
        "ΔW is B A and stays under whole X at r <= 12 and on layers to 128; the exact kernel has r²"
        " dimensions at r = 1, 2, 5, 7",
    )


# --- finite changes -------------------------------------------------------------------------------


@claims.register(
    "identifiability",
    title="ΔW knows its factors, up to the gauge group",
    statement=(
        r"If all $h_{ij} \ne 0$ and $m, n \ge \binom{r+4}{4} - 1$, $B, A$ generic: all factors of"
        r" rank $r$ of $\Delta W$ are $B S, S^{-1}A$, with $S$ in $\prod_c GL(r_c)$ times a"
        r" permutation, $h$ permuted. If the rows of $H$ differ, unique up to order and scale"
    ),
    source=f"follows from {PAPER}, Eq. 9",
    verdict="proved",
    about=formulas.pera,
    range="all r, all m, n >= C(r+4, 4) - 1, no coefficient zero",
)
def _identifiability(formula: Any, seed: int, examples: int) -> Finding:
    r"""From the column space to the columns.

    **Given:** no $h_{ij}$ is zero (full terms); the monomials of degree $1\dots4$ in the columns of
    $B$ are independent vectors of $\mathbb R^m$, those in the rows of $A$ of $\mathbb R^n$:
    $\binom{r+4}4 - 1$ of them each, so generic ones are, if $m$ and $n$ are as large. **Let**
    $(B', A', h')$, of the same rank $r$, give the same $\Delta W$.

    **1. Linear.** $\Delta W = F D G = F'D'G'$ with features $F$ $(m, K)$, $G$ $(K, n)$ and $D =
    \mathrm{diag}(1, h)$. The first product has rank $K$. So $F'$ has rank $K$ and the column space
    of $F$. Hence $b'_i = g_i(b_1,\dots,b_r)$ with polynomials $g_i$ of degree $\le 2$ without
    constant, and $b'_i\circ b'_i = f_i(b_1, \dots, b_r)$ with such an $f_i$. $g_i^2 - f_i$ has
    degree $\le4$ and vanishes on the rows of $B$; as monomials of these degrees are independent
    there, $g_i^2 = f_i$. So $2\deg g_i\le2$: $g_i$ is linear, $B' = BS$. $S$ is invertible, since
    $B'$ has rank $r$. In the same way $A' = TA$.

    **2. One polynomial.** $\varphi_h(b\circ a) = \varphi_{h'}(S^\top b\circ Ta)$ holds at all pairs
    of a row $b$ of $B$ and a column $a$ of $A$, and both sides are combinations of monomials of
    degree $\le2$ in $b$ and in $a$; these are independent there, so it is an identity. Its linear
    part is $b^\top a = b^\top STa$: $T = S^{-1}$.

    **3. $S$ is monomial, up to the group.** For a diagonal $E$ put $X = SES^{-1}$. Insert
    $(I+tX^\top)b$ and $(I+tX)^{-1}a$ for $b$ and $a$ in the identity. On the right, $S^\top b$
    becomes $(I+tE)S^\top b$ and $S^{-1}a$ becomes $(I+tE)^{-1}S^{-1}a$: their product $\circ$ does
    not change. So the left does not either, and its derivative at $t = 0$ is the $Q(X)$ of the
    gauge theorem: $Q(X) = 0$, so $X_{ik} = 0$ unless $i\sim k$. $X$ is block diagonal in the
    classes of equal rows of $H$. Choose $E$ with different entries. $X$ has these as eigenvalues,
    and so, block by block, $X = R E' R^{-1}$ with $R\in\prod_cGL(r_c)$ and $E'$ a permutation of
    $E$. Then $R^{-1}S$ takes the eigenvectors of $E$, the axes, to those of $E'$: it is $PD$. $B' =
    B\,R\,P\,D$.

    **4. $h$.** $R$ and $D$ leave $h$ alone and $P$ permutes it (claim `gauge-group`): by the
    identity of step 2 there is one $h'$ for each $S$. If no two rows of $H$ are equal, $R$ is
    diagonal and $S$ monomial. $\square$

    **Square or cross terms only**, $h$ without zeros, against factors of the same kind: step 1
    holds with fewer features, for cross terms since $\deg g_i + \deg g_j\le2$ ($i\ne j$) and no
    $g_j$ is constant. Square: $g_i^2$ has no cross terms, so each column of $S$ has one entry.
    Cross ($r\ge2$): $g_ig_j$ has no squares, so each row has one. Either way unique up to order and
    scale at once.

    **Higher degree $d$**: the same with $\binom{r+d^2}{d^2}-1$ in place of $\binom{r+4}4-1$, since
    $g_i^d$ has degree at most $d^2$. **Not covered:** coefficients that are zero, where $\Delta W$
    has rank below $K$; smaller $m$, $n$, where step 1 has more products than places. LoRA's factors
    are never unique beyond $r = 1$ (claim `lora-gauge`).

    **What runs:** that entries read $\varphi_h$, that the monomials of degree 4 are independent at
    random points as soon as there are as many; that reordered factors give the same $\Delta W$
    with $h$ renumbered, columns with equal rows of $H$ may be mixed and others not; and that the
    exact kernel has $r$ dimensions at $m = n = \binom{r+4}4 - 1$, $r\le3$.
    """
    rule_is_pera = is_the_loop(formula, seed, ["full"])
    if not rule_is_pera.holds:
        return rule_is_pera
    generator = np.random.default_rng(seed)
    for rank in (1, 2, 3, 4, 7):
        count = math.comb(rank + 4, 4) - 1
        points = generator.integers(1, 1000, (count, rank)).astype(object)
        ones = np.ones(count - rank, dtype=int)
        if field.modular_rank(formulas.expand(points, points[:1].T, ones, degree=4)[0]) != count:
            return fails(f"fails: {count} monomials of degree <= 4 are dependent at random points")
        if not _moves_as_stated(formula, count, rank, generator):
            return fails(
                "fails: another order changes ΔW, or a mix of columns with different rows of H does"
                " not",
                {"m": count, "n": count, "rank": rank},
            )
        if rank <= 3:
            found = jacobian_rank(count, count, of_rule(formula, rank), seed=seed)
            if found.parameters - found.rank != rank:
                return fails("fails: ΔW does not see more than r directions", {"rank": rank})
    return Finding(
        True,
        "monomials of degree 4 are independent at random points, exactly, r = 1, 2, 3, 4, 7; order"
        " leaves ΔW, a mix of columns only where their rows of H are equal",
    )


def _moves_as_stated(
    formula: Callable[..., Any], size: int, rank: int, generator: np.random.Generator
) -> bool:
    """Whether ΔW stays under a permutation, and under a shear of two columns only if H allows."""
    B, A = (generator.integers(1, 9, shape) for shape in ((size, rank), (rank, size)))
    i, j = formulas.pairs(rank)
    alike, different = np.where(i == j, 1, 2), 1 + generator.permutation(i.size)
    order = generator.permutation(rank).tolist()
    moved = gauge_orbit(B, A, different, np.ones(rank, dtype=int), order)
    if not same(formula(*moved), formula(B, A, different)):
        return False
    if rank == 1:
        return True
    sheared_B, sheared_A = B.copy(), A.copy()
    sheared_B[:, -1] += B[:, 0]
    sheared_A[0] -= A[-1]
    stays = [same(formula(sheared_B, sheared_A, h), formula(B, A, h)) for h in (alike, different)]
    return stays == [True, False]


# --- curvature ------------------------------------------------------------------------------------


@claims.register(
    "lora-is-singular",
    title='"Curvature is unbounded at all points of LoRA"',
    statement=(
        r"At $h = 0$ along $(s\,BX, -s\,XA, \delta h)$ the velocity does not depend on $s$, the"
        r" normal curvature grows like $|s|$ unless $X$ is diagonal. *So it said here; it does not"
        r" grow for $m = r+1$ or $n = r+1$, nor where $\delta h$ keeps the symmetry $X$*"
    ),
    source="an earlier version of this page",
    verdict="refuted",
    about=formulas.pera,
)
def _lora_is_singular(formula: Any, seed: int, examples: int) -> Finding:
    r"""Two kinds of counterexamples.

    **Thin layers.** Let $m = r+1$ and $B, A$ be generic. Beyond the column space of $B$ there is
    one dimension of $\mathbb R^m$, in which $b_i\circ b_j$ has a coordinate $c_{ij}\ne0$. So
    modulo the tangent directions $\delta B\,A + B\,\delta A$ every $(b_i\circ b_j)(a_k\circ
    a_l)^\top$ is $c_{ij}/c_{kl}$ times $(b_k\circ b_l)(a_k\circ a_l)^\top$, the tangent direction
    of $\delta h_{kl}$. The acceleration is made of such products (claim `lora-curvature`), hence
    tangent: curvature 0, for every $X$, $\delta h$ and $s$. The same for $n = r+1$.

    **Symmetric $\delta h$.** For $\delta h = (1, 2, 1)$, $r = 2$, every $X$ is a symmetry of the
    whole line of $h$, the kernel's: curvature 0 on every layer.

    **What runs**, at $5\times6$, $8\times3$ and $3\times8$, $r = 2$, whole numbers, $X$ not
    diagonal: velocity and acceleration are not zero, and the acceleration lies in the tangent space
    by an exact rank over the rationals. Claim `lora-curvature` says what is right.
    """
    rule_is_pera = is_the_loop(formula, seed, ["full"])
    if not rule_is_pera.holds:
        return rule_is_pera
    X = np.array([[0, 1], [2, 0]])
    for m, n, h in ((5, 6, (1, 2, 1)), (8, 3, (1, 0, 0)), (3, 8, (1, 0, 0))):
        B, A = np.arange(1, 2 * m + 1).reshape(m, 2) ** 2 % 23, _columns(n)
        tangent, velocity, bend = _second_order(formula, B, A, X, np.array(h), 1)
        rank = exact.exact_rank(tangent.astype(int))
        lies = rank == exact.exact_rank(np.c_[tangent, bend].astype(int))
        if not (velocity.any() and bend.any() and lies):
            return fails(
                f"fails: no curvature 0 with a velocity and an acceleration at {m} x {n}, r = 2",
                {"B": B, "A": A, "X": X, "δh": np.array(h)},
            )
    return Finding(
        True,
        "X = (0, 1; 2, 0), s = 1: curvature exactly 0 at 3 x 8 and 8 x 3 for δh = (1, 0, 0), at 5 x"
        " 6 for δh = (1, 2, 1)",
        {"curvature": 0},
        counterexample={"B": B, "A": A, "X": X, "δh": np.array(h)},
    )


@claims.register(
    "lora-curvature",
    title="At points of LoRA the curvature is unbounded, but for symmetries",
    statement=(
        r"For $K \le \min(m,n)$, $h = 0$ and generic $B, A$, along $(s\,BX, -s\,XA, \delta h)$: the"
        r" velocity does not depend on $s$; the normal curvature is 0 if $X_{ks} = 0$ wherever rows"
        r" $k$ and $s$ of $\delta H$ differ, else $\kappa\,|s|$ with $\kappa > 0$"
    ),
    source=f"follows from {PAPER}, Eq. 9",
    verdict="proved",
    about=formulas.pera,
    range="all m, n, r with K <= min(m, n)",
)
def _lora_curvature(formula: Any, seed: int, examples: int) -> Finding:
    r"""Acceleration and tangent space in one basis.

    Let the $K$ features of $B$, and those of $A$, be independent: generic ones are for
    $K\le\min(m,n)$, and nothing more is asked. Then all products $\beta_I\alpha_J^\top$ of a
    feature of $B$ and one of $A$ are independent matrices.

    **Velocity.** On the line $B + tsBX$, $A - tsXA$, $t\,\delta h$: $\Delta W' = sBXA - sBXA +
    \sum\delta h_I\,\beta_I\alpha_I^\top$ at $t = 0$, $I$ over the pairs. No $s$ in it, and it is
    zero only for $\delta h = 0$.

    **Acceleration.** $\Delta W'' = -2s^2BX^2A + 2s\,Q$, where $Q$ is the derivative of
    $\sum\delta h_I\beta_I\alpha_I^\top$ along $(BX, -XA)$, by the identity of claim `gauge-theorem`

    $$Q = 2\sum_{i\ne k}\sum_l X_{ik}\,(\delta H_{kl} - \delta H_{il})\,(b_l\circ b_i)(a_l\circ
    a_k)^\top ,$$

    whose products are all different, and off the diagonal: the pairs $li$ and $lk$ differ.

    **Tangent space** at $h = 0$: $\delta B\,A + B\,\delta A$, and the diagonal products
    $\beta_I\alpha_I^\top$ of pairs. $BX^2A$ lies in it. A combination of off-diagonal products of
    pairs does only if it is zero: project along the columns of $B$ and the rows of $A$, which
    leaves the products of pairs independent.

    So the part of $\Delta W''$ that is orthogonal to the tangent space is $2s$ times that of $Q$,
    and zero exactly if $X_{ik}(\delta H_{kl} - \delta H_{il}) = 0$ for all $i, k, l$. Curvature is
    its length over $\lVert\Delta W'\rVert^2$ (if $\delta h = 0$ both are zero, and it is 0).
    $\square$

    With $\partial_k\varphi_{\delta h} - \partial_i\varphi_{\delta h}$ for the difference of rows
    the same proves it at every degree.

    **What runs**, in whole numbers modulo a prime: for partitions of $r$ into equal rows of $\delta
    H$, $r\le4$ and $r = 7$, $X$ inside the classes and across them: $\Delta W''$ is in the tangent
    space exactly where stated, $\Delta W''(3s) - 3\Delta W''(s)$ always, and $\Delta W'$ does not
    change.
    """
    rule_is_pera = is_the_loop(formula, seed, ["full"])
    if not rule_is_pera.holds:
        return rule_is_pera
    generator, seen = np.random.default_rng(seed), {True: 0, False: 0}
    for sizes in (*(p for rank in range(1, 5) for p in partitions(rank)), (3, 2, 1, 1)):
        rank = sum(sizes)
        K, h = rank * (rank + 3) // 2, _coefficients(sizes, generator)
        B, A = (generator.integers(-9, 10, size) for size in ((K, rank), (rank, K + 1)))
        inside = np.zeros((rank, rank), dtype=int)
        for members in column_classes(h, rank):
            inside[np.ix_(members, members)] = generator.integers(1, 3, (len(members),) * 2)
        across = generator.integers(1, 3, (rank, rank)) * (inside == 0)
        for X in (inside, inside + across):
            tangent, velocity, bend = _second_order(formula, B, A, X, h, 1)
            _, fast, thrice = _second_order(formula, B, A, X, h, 3)
            ranks = [
                field.modular_rank(np.c_[tangent, column])
                for column in (0 * bend, bend, thrice - 3 * bend)
            ]
            bends = bool((X * (inside == 0)).any())
            seen[bends] += 1
            # 3² - 3 of the part -2 s² B X² A is left, which is tangent
            if ranks != [ranks[0], ranks[0] + bends, ranks[0]] or (velocity != fast).any():
                return fails(
                    f"fails: the curvature along X is not as stated, r = {rank}",
                    {"rank": rank, "X": X, "δh": h},
                )
    return Finding(
        True,
        f"the acceleration is tangent in the {seen[False]} cases of X inside the classes, not in"
        f" the {seen[True]} across them, and then linear in s, exactly, r <= 4 and r = 7",
        {"inside": seen[False], "across": seen[True]},
    )


def _columns(n: int) -> np.ndarray:
    return np.array([[k * k % 19 + 1, 3 * k * k * k % 17 - 5] for k in range(1, n + 1)]).T


def _second_order(
    formula: Callable[..., Any],
    B: np.ndarray,
    A: np.ndarray,
    X: np.ndarray,
    h: np.ndarray,
    s: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """At h = 0 the columns of the Jacobian (mn, P), and ΔW', ΔW'' along (s B X, -s X A, h)."""
    point = tuple(torch.from_numpy(as_float64(x)) for x in (B, A, 0 * h))
    along = tuple(torch.from_numpy(as_float64(x)) for x in (s * B @ X, -s * X @ A, h))

    def velocity(*values: torch.Tensor) -> torch.Tensor:
        return jvp(formula, values, along)[1]

    speed, bend = jvp(velocity, point, along)[:2]
    parts = jacfwd(formula, (0, 1, 2))(*point)
    columns = [part.reshape(speed.numel(), -1).numpy() for part in parts]
    return np.concatenate(columns, axis=1), speed.numpy().ravel(), bend.numpy().ravel()
