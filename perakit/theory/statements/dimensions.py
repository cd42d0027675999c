"""Claims about the size and the shape of the set of updates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from perakit import formulas
from perakit.theory.claims import claims
from perakit.theory.findings import Finding
from perakit.theory.manifold import dimension, tangent_dimension
from perakit.theory.staircase import corners
from perakit.theory.statements.arguments import (
    DEGREES,
    PAPER,
    RANKS,
    WIDE,
    Case,
    cases,
    directions,
    every,
    fails,
    identical,
    is_the_loop,
    takes_options,
)

STAIRS = 8  # every corner of the staircases of these ranks
# (degree, largest rank) of the staircases above degree 2
HIGHER = ((3, 4), (4, 3), (5, 3), (6, 2))
SETTLED = "all m, n, r with r(r+3)/2 <= min(m, n); all m, n for r <= 8"  # of the three families
# and of the full terms
FULL = (
    "all m, n, r with r(r+3)/2 <= min(m, n), with r(3r+1)/2 <= max(m, n), or with min(m, n) <="
    " r + 1; all m, n for r <= 8"
)


def stated(case: Case) -> int:
    """The closed form of the dimension."""
    return dimension(case.m, case.n, case.rank, case.terms, case.degree)


def _settled(formula: Any, terms: str, seed: int) -> Finding:
    """The staircases of a family, larger ranks, large layers."""
    stairs = [
        Case(m, n, rank, terms) for rank in range(1, STAIRS + 1) for m, n in corners(rank, terms)
    ]
    beyond = [Case(67, 71, 10, terms), *(Case(*layer, terms) for layer in WIDE)]
    if terms == "full":
        beyond.append(Case(10, 126, 9))  # (r + 1) x r(3r + 1)/2
    return every(
        lambda: is_the_loop(formula, seed, [terms]),
        lambda: directions(
            formula,
            stairs,
            seed,
            stated,
            f"the Jacobian meets its bound at all {len(stairs)} corners of the staircases",
        ),
        lambda: directions(formula, beyond, seed, stated, "and beyond them"),
    )


@claims.register(
    "dimension",
    title="Dimension of PERA",
    statement=r"$\dim S_{\mathrm{PERA}}(r) = \min(mn,\; r(m+n) + r(r-1)/2)$",
    source=f"follows from {PAPER}, Eq. 9",
    verdict="proved",
    range=FULL,
    about=formulas.pera,
)
def _dimension(formula: Any, seed: int, examples: int) -> Finding:
    r"""The dimension is the rank of the Jacobian at generic parameters. Let $P = r(m+n) + r(r+1)/2$
    be their number. *At most* $P - r$: multiplying $b_i$ and dividing $a_i$ by the same number
    leaves $\Delta W$, and gives $r$ directions that do not move it. And at most $mn$.

    *At least, where $r(r+3)/2 \le \min(m, n)$.* Write $\beta_i = b_i$, $\beta_{ij} = b_i\circ b_j$,
    $\alpha$ likewise. They are independent for generic $B$, $A$. Let $H$ be the symmetric matrix
    with $H_{ii} = h_{ii}$ and $H_{ij} = h_{ij}/2$, and put $h = \varepsilon\eta$. At $\varepsilon =
    0$ changes of $B$ and $A$ move $\Delta W$ in LoRA's tangent space $T$, of dimension $r(m+n) -
    r^2$, and $(BX, -XA)$ does not move it at all, for any $X$. Modulo $T$ the matrices
    $\beta_I\alpha_J^\top$ of products $I, J$ are independent, since the $\beta_I$ are so modulo the
    columns of $B$, and the $\alpha_J$ modulo the rows of $A$. Now look at what is left:

    - $\delta h_I$ moves $\Delta W$ by $\beta_I\alpha_I^\top$;
    - $(BX, -XA)$ with $X = E_{ks}$, $k \ne s$, which puts $b_k$ in column $s$ and $a_s$ in row $k$,
      moves $\Delta W$ by $\varepsilon \sum_j 2(H_{sj} - H_{kj})\,\beta_{kj}\alpha_{sj}^\top$, with
      the $H$ of $\eta$. Divide by $\varepsilon$.

    The first have equal indices, the second never, and no pair of indices $(kj, sj)$ belongs to two
    of the second: $j$ is what its two products share. Rows $k$ and $s$ of a generic $H$ differ, so
    none of the second is zero. So all $r(r+1)/2 + r^2 - r$ are independent modulo $T$, and together
    with $T$ this is $P - r$. Independent in the limit means independent for small $\varepsilon$.

    *At least, where $r(3r+1)/2 \le \max(m, n)$ or $r + 1 = \min(m, n)$.* By the staircase below one
    layer of each $r$ is enough, $(r + 1) \times D$ with $D = r(3r+1)/2$. Let $m = r + 1$. Then $B$
    and $h$ have $r(r+1) + r(r+1)/2 = D + r$ entries. A column of $\Delta W$ is $F(a) = Ba + Q(a)$,
    where $a$ is the column of $A$ and $Q_p(a) = (b_p\circ a)^\top H(b_p\circ a)$, $b_p$ row $p$ of
    $B$. Let $\nu(a)$ be orthogonal to the $r$ columns of $F'(a)$. If $\delta B$, $\delta h$ move
    $F$ by $\delta F$, then $\delta F(a) + F'(a)\,\delta a = 0$ has a solution exactly if
    $\nu(a)\cdot\delta F(a) = 0$: one equation for each column. If all columns together leave the
    $r$ scalings only, then so do $D$ generic ones; and it is enough that this is so for one $B$ and
    $h$.

    Let $B = \begin{pmatrix}I\\ t x^\top\end{pmatrix}$ with no $x_i = 0$ and $t$ small, and $H$ with
    $H_{pp}\ne 0$ and $H_{pp}\ne H_{ps}$. For $c = (tx, -1)$ it is $c^\top B = 0$. Near $a = 0$ the
    solution is a power series, $\delta a = y_1(a) + y_2(a) + \dots$, and

    $$\delta B\,a + B y_1 = 0,\qquad \delta Q + Q'y_1 + B y_2 = 0,\qquad Q'y_2 + B y_3 = 0.$$

    By the first, $\delta B = BX$ and $y_1 = -Xa$. In the second, $R(a) = \delta Q + Q'y_1$ has the
    rows $R_p = a_p\,(\delta H_{pp}\,a_p + \sum_{s\ne p} 2X_{ps}(H_{sp} - H_{pp})\,a_s)$, $p \le r$,
    so $y_2$ is their negative. Put $g_{ij} = \sum_p c_p b_{pi} b_{pj}$, which is $tx_i - t^2x_i^2$
    for $i = j$ and else $-t^2x_ix_j$. Multiply the second and the third equation by $c^\top$. At
    $a_p^2$ and at $a_p^2a_s$, $s \ne p$, this gives

    $$g_{pp}\,\delta H_{pp} = \sum_{k\ne p} 2X_{kp}(H_{kp} - H_{pp})\,g_{kp},$$

    $$2g_{pp}H_{pp}(H_{sp} - H_{pp})X_{ps} + g_{ps}H_{ps}\bigl(\delta H_{pp} + 2(H_{ps} -
    H_{ss})X_{sp}\bigr) = 0.$$

    By the first, $\delta H_{pp}$ is of order $tX$. Divide the second by $t$: it is
    $2x_pH_{pp}(H_{sp} - H_{pp})X_{ps}$, and terms of order $tX$. So for small $t$ all $X_{ps}$, $p
    \ne s$, are 0. Then $c^\top R = \sum \delta H_{ij}\,g_{ij}\,a_ia_j = 0$ makes $\delta H = 0$.
    What is left are the scalings.

    *At least, at every $m, n$, for one $r$.* Where $\min(m, n) \le r$ the Jacobian is onto: at $h =
    0$ all matrices are $B\,\delta A$, or all are $\delta B\,A$. If the null space has dimension
    $r$ at $(m, n)$, it has at $(m+1, n)$: less a scaling, a null vector there moves the new row
    of $B$ alone, by $\delta$ with $\sum_i \delta_i v_i = 0$, and near a new row of zeros the
    $v_i$ are near the rows of $A$, which are independent. If the Jacobian is onto at $(m, n)$,
    it is on smaller layers, which are corners of this one. So the corners of the staircase
    $(m-r)(n-r) = r(3r-1)/2$ are enough (`theory.staircase`). There the Jacobian is taken at
    random residues modulo a prime. A minor that is not zero modulo a prime is not the zero
    polynomial, so a rank that meets its upper bound is a proof.
    $\square$
    """
    return _settled(formula, "full", seed)


@claims.register(
    "dimension-square",
    title="Dimension with square terms only",
    statement=r"$\dim = \min(mn,\; r(m+n))$",
    source=f"follows from {PAPER}, Eq. 10",
    verdict="proved",
    range=SETTLED,
    about=formulas.pera,
)
def _dimension_square(formula: Any, seed: int, examples: int) -> Finding:
    r"""As [dimension](#dimension), with $H$ diagonal. Two of its rows differ unless both are zero,
    so the $r$ directions $\delta h$ and the $r^2 - r$ of $X$ are independent modulo $T$: together
    $r(m+n) - r^2 + r + r^2 - r$. The staircase is $(m-r)(n-r) = r^2$.
    """
    return _settled(formula, "square", seed)


@claims.register(
    "dimension-cross",
    title="Dimension with cross terms only",
    statement=r"$\dim = \min(mn,\; r(m+n) - r + r(r-1)/2)$",
    source=f"follows from {PAPER}, Eq. 11",
    verdict="proved",
    range=SETTLED,
    about=formulas.pera,
)
def _dimension_cross(formula: Any, seed: int, examples: int) -> Finding:
    r"""As [dimension](#dimension), with zeros on $H$'s diagonal. Rows $k$ and $s$ of a generic such
    $H$ differ, in column $k$ at least. So $r(r-1)/2 + r^2 - r$ directions are independent modulo
    $T$. The staircase is $(m-r)(n-r) = r^2 - r + r(r-1)/2$.
    """
    return _settled(formula, "cross", seed)


@claims.register(
    "dimension-lora",
    title="Dimension of LoRA",
    statement=r"$\dim S_{\mathrm{LoRA}}(r) = r(m+n) - r^2$ for $r \le \min(m, n)$",
    source=f"follows from {PAPER}, Eq. 8; classical",
    verdict="proved",
    range="all m, n, r <= min(m, n)",
    about=formulas.lora,
)
def _dimension_lora(formula: Any, seed: int, examples: int) -> Finding:
    r"""Let $B$ have independent columns and $A$ independent rows. $\delta B\,A + B\,\delta A = 0$
    means that every column of $\delta B$ is in the span of $B$'s: $\delta B = BX$. Then
    $B(XA + \delta A) = 0$, so $\delta A = -XA$. The null space has the $r^2$ dimensions of $X$.
    """
    found = [Case(rank + a, rank + b, rank, "none") for rank in RANKS for a, b in ((0, 1), (3, 2))]
    found += [Case(127, 131, 2, "none")]
    return directions(formula, found, seed, stated, "the Jacobian has rank r(m+n) - r²")


@claims.register(
    "dimension-degree-k",
    title="Dimension at higher degrees",
    statement=r"$\dim = \min(mn,\; r(m+n) + K_k - 2r)$ at degree $k$, $K_k = \binom{r+k}{k} - 1$",
    source=f"extends {PAPER}, Eq. 9, which leaves degrees above 2 open",
    verdict="proved",
    range=(
        "all m, n, r, k with K_k <= min(m, n); all m, n for"
        " k = 3, r <= 4; k = 4 and 5, r <= 3; k = 6, r <= 2"
    ),
    about=formulas.pera,
)
def _dimension_degree_k(formula: Any, seed: int, examples: int) -> Finding:
    r"""At most $P - r$, by the $r$ scalings. *At least, where $K_k \le \min(m, n)$.* Take a point
    at which the coefficients of degree 3 and above are zero, and the rest generic. There changes of
    $B$, $A$ and $h_{ij}$ move $\Delta W$ in $r(m+n) + r(r-1)/2$ directions, those of degree 2
    ([dimension](#dimension)). All of these are of the form $\hat B Y + X\hat A$, with the features
    of degree 1 and 2. A coefficient $h_I$ of higher degree moves $\Delta W$ by
    $\beta_I\alpha_I^\top$. All $K_k$ monomials are independent at generic points, so the
    $\beta_I\alpha_I^\top$ are independent modulo all $\hat B Y + X\hat A$. There are $K_k -
    r(r+3)/2$ of them. The sum is $r(m+n) + K_k - 2r$, and a generic point has no smaller rank. *At
    every $m, n$:* by the corners of the staircase, as in [dimension](#dimension).
    """
    stairs = [
        Case(m, n, rank, "full", degree)
        for degree, largest in HIGHER
        for rank in range(1, largest + 1)
        for m, n in corners(rank, "full", degree)
    ]
    large = [Case(127, 131, 1, "full", 4), Case(127, 131, 2, "full", 3)]
    return every(
        lambda: is_the_loop(formula, seed, ["full"], DEGREES),
        lambda: directions(
            formula,
            stairs,
            seed,
            stated,
            f"the Jacobian meets its bound at all {len(stairs)} corners of the staircases",
        ),
        lambda: directions(formula, large, seed, stated, "and beyond them"),
    )


@claims.register(
    "dimension-strip",
    title="Dimension of PERA on narrow layers, from rank 9 on",
    statement=(
        r"$\dim S_{\mathrm{PERA}}(r) = \min(mn,\; r(m+n) + r(r-1)/2)$ also for $r \ge 9$ and $r + 1"
        r" < \min(m, n) < r(r+3)/2$, $\max(m, n) < r(3r+1)/2$"
    ),
    source="what the proof of dimension leaves open",
    verdict="open",
    about=formulas.pera,
)
def _dimension_strip(formula: Any, seed: int, examples: int) -> Finding:
    r"""No argument of [dimension](#dimension) reaches these sizes: $K$ is too large for the
    first, $\max(m, n)$ too small for the second, and the other corners of the staircases of $r \ge
    9$ were not run. Wherever it was measured the equality holds.
    """
    found = [Case(14, 20, 9), Case(17, 17, 9), Case(13, 29, 10), Case(18, 20, 10)]
    return every(
        lambda: directions(
            formula,
            found,
            seed,
            stated,
            "not decided here; the Jacobian meets its bound where tried",
        ),
        lambda: is_the_loop(formula, seed, ["full"]),
    )


def _scalings(formula: Any, seed: int) -> Finding:
    """Whether B D, D⁻¹ A and h give the update of B, A and h."""

    def scaled(case: Case, k: int, B: Any, A: Any, h: Any) -> Any:
        D = 2.0 ** np.arange(1, case.rank + 1)
        return formula(B * D, A / D[:, None], h, **case.options)

    return identical(
        cases(formula, seed),
        seed,
        scaled,
        lambda case, k, **drawn: formula(*drawn.values(), **case.options),
        "r scalings of the columns leave ΔW",
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
    range="all m, n, r with K <= min(m, n)",
    about=formulas.pera,
)
def _dimension_gap(formula: Any, seed: int, examples: int) -> Finding:
    r"""$S_{\mathrm{PERA}}(r)$ has dimension at most $r(m+n) + r(r-1)/2$, since $r$ of the $r(m+n) +
    r(r+1)/2$ parameters are lost to scalings. The gap to $K(m+n-K)$ is $(K-r)(m+n) - K^2 -
    r(r-1)/2$. It grows with $m + n$, which is at least $2K$, where it is $(K-1)\,r(r-1)/2$:
    positive for $r \ge 2$. At $r = 1$ the gap is $m + n - 4$.
    """
    import sympy

    r, s = sympy.symbols("r s", positive=True)
    K = r * (r + 3) / 2
    gap = (K - r) * s - K**2 - r * (r - 1) / 2
    least = sympy.expand(gap.subs(s, 2 * K) - (K - 1) * r * (r - 1) / 2)
    at_one = sympy.expand(gap.subs(r, 1) - (s - 4))
    if least != 0 or at_one != 0:
        return fails("the gap is another", {"at m + n = 2K": least, "at r = 1": at_one})
    return every(
        lambda: _scalings(formula, seed),
        Finding(
            True,
            "the gap is (K-1) r(r-1)/2 or more, and m + n - 4 at r = 1, in symbols; 3 x 3, r = 1:"
            f" {dimension(3, 3, 1)} < {2 * (3 + 3 - 2)}",
        ),
    )


@claims.register(
    "free-dimensions",
    title="Of what PERA gains, h pays for part and broken symmetry gives the rest",
    statement=(
        r"$\dim S_{\mathrm{PERA}} - \dim S_{\mathrm{LoRA}} = r(3r-1)/2 = r(r+1)/2 + (r^2 - r)$"
        r" where the first is below $mn$"
    ),
    source="dimension count",
    verdict="proved",
    range=FULL,
    about=formulas.pera,
)
def _free_dimensions(formula: Any, seed: int, examples: int) -> Finding:
    r"""[dimension](#dimension) less [dimension-lora](#dimension-lora) is $r(r-1)/2 + r^2$. The
    $r(r+1)/2$ coefficients of $h$ are parameters that LoRA has not. The other $r^2 - r$ cost
    nothing: LoRA has a symmetry of $r^2$ dimensions, PERA one of $r$.
    """
    found = [Case(3 * rank + 3, 3 * rank + 5, rank) for rank in range(1, 11)]
    found += [Case(*layer) for layer in WIDE]
    return every(
        lambda: is_the_loop(formula, seed, ["full"]),
        lambda: directions(
            formula,
            found,
            seed,
            lambda case: (
                dimension(case.m, case.n, case.rank, "none") + case.rank * (3 * case.rank - 1) // 2
            ),
            "the Jacobian's rank is LoRA's dimension and r(3r-1)/2",
        ),
    )


@claims.register(
    "lora-is-critical",
    title="LoRA sits on a critical set of PERA's parametrisation",
    statement=(
        r"At $h = 0$ and generic $B, A$ the Jacobian has rank $\min(mn,\; r(m+n) - r^2 +"
        r" r(r+1)/2)$ for $r \le \min(m, n)$: "
        r"$r^2 - r$ short of the generic rank where that is below $mn$; at other degrees and terms,"
        r" with their number of products in place of $r(r+1)/2$"
    ),
    source=f"follows from {PAPER}, Eq. 9",
    verdict="proved",
    range="all m, n, r <= min(m, n), terms and degrees",
    about=formulas.pera,
)
def _lora_is_critical(formula: Any, seed: int, examples: int) -> Finding:
    r"""At $h = 0$ changes of $B$ and $A$ give LoRA's tangent space $T$, of dimension $r(m+n) -
    r^2$, and $\delta h_I$ gives $\beta_I\alpha_I^\top$. It remains to count these modulo $T$, where
    a grid of $(m-r)(n-r)$ entries is left: put $B = \begin{pmatrix}I\\ X\end{pmatrix}$, $A = (I,
    Y)$, with rows $x_p$ of $X$ and columns $y_q$ of $Y$. Then the entry $(p, q)$ of
    $\beta_I\alpha_I^\top$ on the grid is $f_I(x_p)f_I(y_q)$, where $f_I(x)$ is the monomial $x^I$,
    less $x_i$ if $I$ is a power of one $x_i$. Choose as many points of the grid as there are
    columns $I$, or as many columns as there are points, and look at that square matrix. Its
    determinant is a polynomial. Multiply all $x$ by $\lambda \to \infty$ and all $y$ likewise: its
    leading part is the determinant of $x_p^I y_q^I$. Put $x_p = (\xi_p^{w_1}, \dots, \xi_p^{w_r})$
    and $y_q = (\eta_q^{w_1}, \dots)$, with whole numbers $w$ such that distinct monomials have
    distinct weights $w(I)$. The matrix becomes $(\xi_p\eta_q)^{w(I)}$: a generalised Vandermonde
    matrix. It is invertible when the numbers $\xi_p\eta_q$ are positive and distinct. So the rank
    on the grid is the smaller of $(m-r)(n-r)$ and the number of products, and $r(m+n) - r^2 +
    (m-r)(n-r) = mn$. $\square$
    """
    found = [Case(rank + a, rank + b, rank) for rank in RANKS for a, b in ((1, 2), (3, 5))]
    found += [Case(37, 41, 7), *(Case(*layer) for layer in WIDE)]
    if takes_options(formula):
        found += [
            Case(11, 13, rank, terms, degree)
            for terms in formulas.TERMS
            for degree in range(2, 7)
            for rank in (1, 2, 3)
        ]
    return every(
        lambda: directions(
            formula,
            found,
            seed,
            lambda case: tangent_dimension(
                case.m, case.n, case.rank, case.terms, case.degree, at="lora"
            ),
            "at h = 0 the Jacobian has that rank",
            {"h": 0},
        ),
        lambda: is_the_loop(formula, seed),
    )


@claims.register(
    "start-directions",
    title="At the usual start only B is seen",
    statement=(
        r"At $B = 0,\ h = 0$ and generic $A$ the Jacobian has rank $mr$: the directions $\delta"
        r" B\,A$, those of LoRA; at $A = 0,\ h = 0$ and generic $B$ rank $nr$"
    ),
    source=f"follows from {PAPER}, Eq. 9",
    verdict="proved",
    range="all m, n, r <= min(m, n), terms and degrees",
    about=formulas.pera,
)
def _start_directions(formula: Any, seed: int, examples: int) -> Finding:
    r"""At $B = 0$ and $h = 0$ the derivative is $\delta B\,A$ ([first-step](#first-step)). The rows
    of a generic $A$ are independent, so $\delta B\,A = 0$ only for $\delta B = 0$: rank $mr$. At
    $A = 0$ it is $B\,\delta A$, of rank $nr$.
    """
    options = takes_options(formula)
    found = [Case(rank + 2, rank + 3, rank) for rank in RANKS]
    found += [Case(*layer) for layer in WIDE]
    found += [Case(5, 7, 2, "full", degree) for degree in range(3, 7) if options]

    def at(name: str, side: Callable[[Case], int], what: str) -> Finding:
        return directions(formula, found, seed, side, what, {name: 0, "h": 0})

    return every(
        lambda: at("B", lambda case: case.m * case.rank, "mr directions at B = 0, h = 0"),
        lambda: at("A", lambda case: case.n * case.rank, "nr at A = 0, h = 0"),
    )
