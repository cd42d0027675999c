"""Claims about what the update is: the paper's numbered equations, and three ways to read them."""

from __future__ import annotations

import functools
from itertools import pairwise
from typing import Any

import numpy as np

from perakit import formulas
from perakit.theory import field, symbolic
from perakit.theory.claims import claims
from perakit.theory.families import products
from perakit.theory.findings import Finding, equal, factors, same
from perakit.theory.gradients import pera_gradients
from perakit.theory.residues import Residues
from perakit.theory.statements.arguments import (
    AT,
    DEGREES,
    PAPER,
    SHAPES,
    Case,
    asked,
    beyond_lora,
    cases,
    derived,
    every,
    fails,
    identical,
    is_the_loop,
    moved,
    symbolically,
    written_out,
)

MERSENNE = 2**31 - 1  # beyond every update that small whole numbers make


@claims.register(
    "expanded-factors",
    title="The expanded factors multiply to the update",
    statement=(
        r"$\mathrm{Poly}(B)\,\mathrm{Poly}_H(A) = \Delta W$, with $(m, K)$ and $(K, n)$ factors,"
        r" linear features first"
    ),
    source=f"{PAPER}, Eq. 2-5",
    verdict="proved",
    range="all sizes, terms and degrees",
    about=formulas.expand,
)
def _expanded_factors(formula: Any, seed: int, examples: int) -> Finding:
    r"""A product of two matrices is the sum, over $k$, of column $k$ of the first times row $k$ of
    the second. Here column $k$ is $b_i$ or a product $b_i\circ b_j$, and row $k$ is $a_i$ or
    $h_{ij}\,(a_i\circ a_j)$, in the same order. So the sum is Eq. 9, term by term.
    """
    found = cases(formula, seed)

    def shapes(case: Case, k: int, **drawn: Any) -> Any:
        return np.array([np.shape(x) for x in formula(*drawn.values(), **case.options)])

    def due(case: Case, k: int, **drawn: Any) -> Any:
        K = formulas.rank_bound(case.rank, case.terms, case.degree)
        return np.array([[case.m, K], [K, case.n]])

    def first(case: Case, k: int, **drawn: Any) -> Any:
        B_hat, A_hat = formula(*drawn.values(), **case.options)
        return np.concatenate([B_hat[:, : case.rank].ravel(), A_hat[: case.rank].ravel()])

    return every(
        lambda: identical(found, seed, shapes, due, "the factors are (m, K) and (K, n)"),
        lambda: identical(
            found,
            seed,
            first,
            lambda case, k, B, A, h: np.concatenate([B.ravel(), A.ravel()]),
            "the linear features come first",
        ),
        lambda: is_the_loop(_multiplied(formula), seed),
        lambda: _in_symbols(
            lambda made: _multiplied(formula)(*made.values()),
            lambda made: formulas.pera(**made),
        ),
    )


def _multiplied(expand: Any) -> Any:
    """The rule whose factors a rule like `formulas.expand` gives."""

    @functools.wraps(expand)
    def product(B: Any, A: Any, h: Any, **options: Any) -> Any:
        B_hat, A_hat = expand(B, A, h, **options)
        return B_hat @ A_hat

    return product


def _in_symbols(left: Any, right: Any) -> Finding:
    """Whether two functions of the symbols B, A, h agree at the shapes of SHAPES."""
    for m, n, rank in SHAPES:
        made = symbolic.symbols(m, n, rank)
        if (difference := symbolic.difference(left(made), right(made))) != 0:
            return fails(f"not equal in symbols at {m} x {n}, r = {rank}", {"gap": difference})
    return symbolically("the difference is zero")


@claims.register(
    "lora-equation",
    title="Without coefficients PERA is LoRA",
    statement=r"$h = 0 \;\Rightarrow\; \Delta W = B A$",
    source=f"{PAPER}, Eq. 8",
    verdict="proved",
    range="all sizes, terms and degrees",
    about=formulas.pera,
)
def _lora_equation(formula: Any, seed: int, examples: int) -> Finding:
    r"""Every product in Eq. 9 carries a coefficient of $h$. Without them $\sum_i b_i a_i^\top = BA$
    is left.
    """

    def without_h(case: Case, k: int, B: Any, A: Any, h: Any) -> Any:
        return formula(B, A, 0 * h, **case.options)

    if (difference := beyond_lora(formula)) != 0:
        return fails("an entry differs from that of B A", {"difference": difference})
    return every(
        symbolically("the difference is zero"),
        lambda: identical(
            cases(formula, seed),
            seed,
            without_h,
            lambda case, k, B, A, h: B @ A,
            "h = 0 gives B A",
        ),
    )


def _series(formula: Any, seed: int, terms: str, degrees: Any) -> Finding:
    """A rule is the Hadamard series of its terms: modulo primes, then in symbols."""
    degree = min(degrees)
    return every(
        lambda: is_the_loop(formula, seed, [terms], degrees),
        lambda: derived(
            (symbolic.expansion(*shape, terms, degree, formula=formula) for shape in SHAPES),
            f"the update minus its Hadamard series is zero, {AT}",
        ),
    )


@claims.register(
    "hadamard-series",
    title="The update is a Hadamard series",
    statement=(
        r"$\Delta W = \sum_i M_i + \sum_{i\le j} h_{ij}\, M_i\circ M_j$ with $M_i = b_i a_i^\top$"
    ),
    source=f"{PAPER}, Eq. 9",
    verdict="proved",
    range="all sizes; at degree d with the products of up to d columns",
    about=formulas.pera,
)
def _hadamard_series(formula: Any, seed: int, examples: int) -> Finding:
    r"""$(b_i\circ b_j)(a_i\circ a_j)^\top = (b_i a_i^\top)\circ(b_j a_j^\top)$: entry $(p, q)$ of
    both is $B_{pi}B_{pj}A_{iq}A_{jq}$. Apply this to each product of Eq. 9.
    """
    return _series(formula, seed, "full", DEGREES)


@claims.register(
    "square-only",
    title="Square terms only",
    statement=r"$\Delta W = \sum_i M_i + \sum_i h_{ii}\, M_i\circ M_i$",
    source=f"{PAPER}, Eq. 10",
    verdict="proved",
    range="all sizes; at degree d the powers up to the d-th",
    about=formulas.pera,
)
def _square_only(formula: Any, seed: int, examples: int) -> Finding:
    """As `hadamard-series`, with the products of one column only."""
    return _series(formula, seed, "square", DEGREES)


@claims.register(
    "cross-only",
    title="Cross terms only",
    statement=r"$\Delta W = \sum_i M_i + \sum_{i<j} h_{ij}\, M_i\circ M_j$",
    source=f"{PAPER}, Eq. 11",
    verdict="proved",
    range="all sizes; at degree d the products of up to d columns, not all the same",
    about=formulas.pera,
)
def _cross_only(formula: Any, seed: int, examples: int) -> Finding:
    """As `hadamard-series`, without the products of one column."""
    return _series(formula, seed, "cross", DEGREES)


@claims.register(
    "degree-three",
    title="The same at degree three and above",
    statement=(
        r"$\Delta W = \sum_i M_i + \sum_{i\le j} h_{ij}\, M_i\circ M_j + \sum_{i\le j\le k}"
        r" h_{ijk}\, M_i\circ M_j\circ M_k + \dots$"
    ),
    source=f"extends {PAPER}, Eq. 9, which leaves degrees above 2 open",
    verdict="proved",
    range="all sizes and degrees",
    about=formulas.pera,
)
def _degree_three(formula: Any, seed: int, examples: int) -> Finding:
    """As `hadamard-series`: an elementwise product of rank-one matrices is the rank-one matrix of
    the elementwise products, however many there are.
    """
    return _series(formula, seed, "full", DEGREES[1:])


@claims.register(
    "entry-polynomial",
    title="One polynomial, read at every entry",
    statement=(
        r"$\Delta W_{pq} = \varphi_h(B_{p\cdot}\circ A_{\cdot q})$ with $\varphi_h(u) = \sum_i u_i"
        r" + \sum_{i\le j} h_{ij} u_i u_j$, and higher monomials at higher degrees"
    ),
    source=f"follows from {PAPER}, Eq. 9",
    verdict="proved",
    range="all sizes, terms and degrees",
    about=formulas.pera,
)
def _entry_polynomial(formula: Any, seed: int, examples: int) -> Finding:
    r"""Entry $(p, q)$ of $M_i = b_i a_i^\top$ is $u_i = B_{pi}A_{iq}$. An elementwise product
    multiplies entries, so entry $(p, q)$ of the Hadamard series is $\varphi_h(u)$: it reads row $p$
    of $B$ and column $q$ of $A$, and the same $h$ everywhere.
    """

    def one_column(case: Case, k: int, B: Any, A: Any, h: Any) -> Any:
        u = (B[:, None, :] * A.T[None, :, :]).reshape(-1, case.rank)
        ones = Residues(np.ones((case.rank, 1)), field.PRIMES[k])
        return formula(u, ones, h, **case.options).reshape(case.m, case.n)

    return every(
        lambda: is_the_loop(formula, seed),
        lambda: identical(
            cases(formula, seed),
            seed,
            lambda case, k, **drawn: formula(*drawn.values(), **case.options),
            one_column,
            "an mn x 1 layer of all u has the same entries",
        ),
        lambda: derived(
            (symbolic.entry_polynomial(rank, formula=formula) for rank in (1, 2, 3)),
            "every entry minus φ_h of its row and column is zero, in symbols at 2 x 2, r = 1, 2, 3",
        ),
    )


@claims.register(
    "total-degree",
    title="Degree five in the parameters, two for LoRA",
    statement=(
        r"$\deg \Delta W_{pq} = 5$ in $(B, A, h)$ together: 2 + 2 + 1; at degree $k$ of the"
        r" products $k + k + 1$; for LoRA 2"
    ),
    source=f"follows from {PAPER}, Eq. 8 and 9",
    verdict="proved",
    range="all sizes and degrees",
    about=formulas.pera,
)
def _total_degree(formula: Any, seed: int, examples: int) -> Finding:
    r"""$h_{i\dots j}\,B_{pi}\cdots B_{pj}A_{iq}\cdots A_{jq}$ has degree $k$ in $B$, $k$ in $A$ and
    1 in $h$, when the product has $k$ factors, and no two monomials of $\varphi_h$ are the same, so
    none cancels. Checked along lines: scaled by $t$, an entry is a polynomial in $t$, and the
    differences of its values at $t = 0, 1, 2, \dots$ vanish after as many steps as its degree has.
    """
    import sympy

    found = [case for case in cases(formula, seed, ["full"], most=100) if case.m * case.n < 500]
    found += [Case(211, 101, 1)]
    for case in found:
        drawn = case.draw(seed, 0)
        degree = case.degree
        for names, due in (("B", degree), ("A", degree), ("h", 1), ("BAh", 2 * degree + 1)):
            line = _degree_along(formula, case, drawn, names)
            if line != due:
                return fails(
                    f"degree {line} in {', '.join(names)} where {due} is due, at {case}",
                    {"case": str(case)},
                )
    for rank in (1, 2):
        made = symbolic.symbols(1, 1, rank)
        delta = sympy.expand(formula(*made.values())[0, 0])
        degrees = {
            name: sympy.Poly(delta, *array.flat).total_degree() for name, array in made.items()
        }
        if degrees != {"B": 2, "A": 2, "h": 1}:
            return fails("other degrees: 2 in B, 2 in A, 1 in h are due", degrees)
    lora = symbolic.entry_polynomial(2, "none").total_degree
    return Finding(
        lora == 2,
        "k in B, k in A, 1 in h, 2k + 1 together, along lines modulo a prime at"
        f" {len(found)} sizes, k = 2 to {max(case.degree for case in found)}; LoRA {lora}; in"
        " symbols at 1 x 1, r = 1 and 2",
    )


def _degree_along(formula: Any, case: Case, drawn: Any, names: str) -> int:
    """The degree in t of the update, with the factors in `names` scaled by t."""
    values = [
        formula(
            *(t * value if name in names else value for name, value in drawn.items()),
            **case.options,
        )
        for t in range(2 * case.degree + 4)
    ]
    steps = 0
    while len(values) > 1 and any(value.value.any() for value in values):
        values = [after - before for before, after in pairwise(values)]
        steps += 1
    return steps - 1


@claims.register(
    "kernel",
    title="The quadratic kernel inside PERA",
    statement=(
        r"$h_{ii} = c,\; h_{ij} = 2c\ (i<j) \;\Rightarrow\; \Delta W = BA + c\,(BA)\circ(BA)$, the"
        r" inhomogeneous quadratic "
        r"kernel of the factor rows; at degree $k$ multinomial coefficients give $BA + \sum_d"
        r" c_d\,(BA)^{\circ d}$"
    ),
    source=f"a case of {PAPER}, Eq. 9, not stated there",
    verdict="proved",
    range="all sizes and degrees",
    about=formulas.pera,
)
def _kernel(formula: Any, seed: int, examples: int) -> Finding:
    r"""$(BA)_{pq} = \sum_i u_i$. By the multinomial theorem $(\sum_i u_i)^d$ is the sum of all
    monomials of degree $d$, each with $d!/(\mu_1!\,\mu_2!\cdots)$, $\mu_i$ the multiplicity of
    $u_i$. At $d = 2$ these are 1 for squares and 2 for products of two.
    """

    def at_multinomials(case: Case, k: int, B: Any, A: Any, h: Any) -> Any:
        rows = products(case.rank, "full", case.degree)
        numbers = [symbolic.multinomial(row) * (len(row) + 1) for row in rows]
        return formula(B, A, Residues(np.array(numbers, float), field.PRIMES[k]), **case.options)

    def powers(case: Case, k: int, B: Any, A: Any, h: Any) -> Any:
        L = B @ A
        return L + sum((d + 1) * L**d for d in range(2, case.degree + 1))

    return every(
        lambda: identical(
            cases(formula, seed, ["full"]),
            seed,
            at_multinomials,
            powers,
            "multinomial coefficients give BA + 3 (BA)∘(BA) + 4 (BA)∘(BA)∘(BA) + ...",
        ),
        lambda: derived(
            (symbolic.kernel(*shape, formula=formula) for shape in SHAPES),
            f"the update minus BA + c (BA)∘(BA) is zero, {AT}",
        ),
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
    range="all sizes, terms and degrees",
    about=formulas.pera,
)
def _gradients(formula: Any, seed: int, examples: int) -> Finding:
    r"""$dL = \sum_{pq} G_{pq}\, d\Delta W_{pq}$. $\Delta W$ is linear in $h_{ij}$, with the
    coefficient $(b_i\circ b_j)(a_i\circ a_j)^\top$: hence the first formula. By the product rule
    $d(b_i\circ b_j) = db_i\circ b_j + b_i\circ db_j$, so $\partial L/\partial b_i$ collects
    $G a_i + \sum_j h_{ij}\,G(a_i\circ a_j)\circ b_j$, and a square counts twice. $A$ by symmetry.
    """

    def derivative(case: Case, k: int, **drawn: Any) -> Any:
        G, directions = _loss(case, k, seed)
        along = formula(*moved(drawn, directions).values(), **case.options).along
        slope = 0 * G if along is None else Residues(along[0], field.PRIMES[k])
        return (G * slope).sum().reshape(1)

    def closed(case: Case, k: int, **drawn: Any) -> Any:
        G, directions = _loss(case, k, seed)
        gradients = pera_gradients(G, **drawn, terms=case.terms, degree=case.degree)
        prime = field.PRIMES[k]
        parts = [
            (gradients[name] * Residues(directions[name], prime)).sum().reshape(1) for name in drawn
        ]
        return sum(parts[1:], start=parts[0])

    return every(
        lambda: identical(
            cases(formula, seed, most=150),
            seed,
            derivative,
            closed,
            "the closed form is the derivative along random directions",
        ),
        lambda: derived(
            (symbolic.gradients(*shape, formula=formula) for shape in SHAPES),
            f"closed form minus derivative is zero for B, A and h, {AT}",
        ),
    )


def _loss(case: Case, k: int, seed: int) -> tuple[Residues, dict[str, np.ndarray]]:
    """G (m, n), and a direction of every factor, random modulo prime k."""
    prime, generator = field.PRIMES[k], np.random.default_rng((seed, k, 1))
    G = Residues(field.draw(generator, (case.m, case.n), prime), prime)
    return G, {name: field.draw(generator, shape, prime) for name, shape in case.shapes().items()}


@claims.register(
    "first-step",
    title="The first step is LoRA's",
    statement=(
        r"At $B = 0$: $\partial L/\partial h = 0$, $\partial L/\partial A = 0$ and $\partial"
        r" L/\partial B = G A^\top$, for any $h$"
    ),
    source=f"follows from {PAPER}, Eq. 9, and the start of LoRA",
    verdict="proved",
    range="all sizes, terms and degrees",
    about=formulas.pera,
)
def _first_step(formula: Any, seed: int, examples: int) -> Finding:
    r"""At $B = 0$ every product $b_i\circ b_j$ is zero, and so is its derivative
    $db_i\circ b_j + b_i\circ db_j$. What moves is $BA$ alone: $d\Delta W = dB\,A$, whatever $h$ is.
    Hence $dL = \langle G, dB\,A\rangle = \langle GA^\top, dB\rangle$.
    """
    import sympy

    def slope(case: Case, k: int, **drawn: Any) -> Any:
        directions = _loss(case, k, seed)[1]
        at = drawn | {"B": Residues(0 * drawn["B"].value, field.PRIMES[k])}
        along = formula(*moved(at, directions).values(), **case.options).along
        return np.zeros((case.m, case.n)) if along is None else along[0]

    def of_lora(case: Case, k: int, B: Any, A: Any, h: Any) -> Any:
        return Residues(_loss(case, k, seed)[1]["B"], field.PRIMES[k]) @ A

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
    return every(
        symbolically("the three gradients are LoRA's"),
        lambda: identical(
            cases(formula, seed), seed, slope, of_lora, "at B = 0 the update moves by dB A"
        ),
    )


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
    range="all sizes",
    about=_layer,
)
def _linear_in_the_input(formula: Any, seed: int, examples: int) -> Finding:
    r"""$\Delta W$ is made of $B$, $A$ and $h$, and $x$ is not among them. So the layer multiplies
    by one matrix, and $\Delta W(x + cy) = \Delta Wx + c\,\Delta Wy$.
    """
    import sympy

    def inputs(case: Case, k: int) -> list[Residues]:
        prime, generator = field.PRIMES[k], np.random.default_rng((seed, k, 2))
        return [Residues(field.draw(generator, (case.n,), prime), prime) for _ in "xy"]

    def of_the_sum(case: Case, k: int, **drawn: Any) -> Any:
        x, y = inputs(case, k)
        return formula(x + 3 * y, *drawn.values())

    def sum_of_both(case: Case, k: int, **drawn: Any) -> Any:
        x, y = inputs(case, k)
        return formula(x, *drawn.values()) + 3 * formula(y, *drawn.values())

    for m, n, rank in SHAPES:
        made, (c, *xy) = symbolic.symbols(m, n, rank), sympy.symbols(f"c x:{n} y:{n}")
        x, y = np.array(xy[:n], dtype=object), np.array(xy[n:], dtype=object)
        difference = symbolic.difference(
            formula(x + c * y, *made.values()),
            formula(x, *made.values()) + c * formula(y, *made.values()),
        )
        if difference != 0:
            return fails("f(x + c y) is not f(x) + c f(y)", {"difference": difference})
    return every(
        symbolically("f(x + c y) = f(x) + c f(y)"),
        lambda: identical(
            cases(formula, seed, ["full"], [2]),
            seed,
            of_the_sum,
            sum_of_both,
            "f(x + 3y) = f(x) + 3 f(y)",
        ),
    )


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
    """Of numbers, so that any rule can be asked: small ones first, for the smallest counterexample,
    then every rank to 12, every degree to 6 and large layers.
    """

    def at(B: np.ndarray, A: np.ndarray) -> Case:
        return Case(B.shape[0], A.shape[1], A.shape[0])

    def small(case: Case) -> dict[str, np.ndarray]:
        generator = np.random.default_rng((seed, case.rank, case.degree))
        sizes = (-2, -1, 1, 2)  # a zero would hide the terms that it multiplies
        return {name: generator.choice(sizes, shape) for name, shape in case.shapes().items()}

    searched = equal(
        factors(),
        lambda B, A, h: formula(B, A, h),
        lambda B, A, h: nearest_zero(written_out(at(B, A), MERSENNE, B, A, h)),
        seed,
        examples,
        "the rule is the loop, on whole numbers",
    )
    if not searched.holds:
        return searched
    found = cases(formula, seed)
    for case in found:
        drawn = small(case)
        expected = nearest_zero(written_out(case, MERSENNE, **drawn))
        if not same(formula(*drawn.values(), **case.options), expected):
            return fails(f"falsified: not the loop at {case}", {"case": str(case)})
    return every(searched, Finding(True, f"and {asked(found, 'on whole numbers')}"))


def nearest_zero(residues: np.ndarray) -> np.ndarray:
    """Whole numbers below MERSENNE/2 in size, from their residues."""
    return np.where(residues > MERSENNE // 2, residues - MERSENNE, residues)
