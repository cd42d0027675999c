"""Derivations: the update rules of `perakit.formulas`, read with symbols in place of numbers.

Nothing here states an update rule a second time. A derivation evaluates the rule on arrays of sympy
symbols, compares the result with what the paper says of it, and holds only if every difference is
exactly zero. Every function takes `formula=`, a rule of your own: hand it a wrong one and see which
step fails.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import permutations
from typing import Any

import numpy as np

from perakit import formulas
from perakit.errors import PerakitError
from perakit.formulas import Array
from perakit.theory import families
from perakit.theory.derivation import Derivation, Expr, Step, equation, first_nonzero, zero
from perakit.theory.families import Formula, check_layer, products
from perakit.theory.gradients import lora_gradients, pera_gradients
from perakit.theory.manifold import dimension, gauge_orbit, tangent_dimension

Rule = Callable[..., Array]

POINTS = ("generic", "lora", "start")
# Random points are whole numbers of this size at most, zero excluded: small, so that ranks stay
# quick
LARGEST_ENTRY = 30
EQUATIONS = {
    terms: f"arXiv 2604.11841, Eq. {number}"
    for terms, number in (("full", 9), ("square", 10), ("cross", 11), ("none", 8))
}


# --- what a derivation is -------------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class EntryPolynomial(Derivation):
    """The polynomial φ_h(u) that every entry of ΔW reads.

    polynomial: φ as a sympy expression in u_1 ... u_r and h; degree: its degree in u; total_degree:
    the degree of an entry of ΔW in all parameters B, A, h together.
    """

    polynomial: Expr
    degree: int
    total_degree: int


@dataclass(frozen=True)
class Jacobian:
    """The derivative of vec ΔW by all parameters, exact, at one point.

    matrix: sympy matrix (mn, P), a row for each entry of ΔW, row by row, a column for each
    parameter, in the order of `parameters`: B, A, h, each row by row. point: the value at which
    each parameter was taken.
    """

    matrix: Expr
    parameters: tuple[Expr, ...]
    point: Mapping[Expr, Expr]

    @cached_property
    def rank(self) -> int:
        """Number of independent directions in which ΔW moves, by elimination over the rationals."""
        return _rank(self.matrix)

    @property
    def nullity(self) -> int:
        """Number of independent directions of the parameters in which ΔW stands still."""
        return len(self.parameters) - self.rank


def difference(left: Array, right: Array) -> Expr:
    """The first entry in which two arrays of expressions differ: left - right multiplied out, or 0.

    Raises PerakitError where the shapes differ.
    """
    if np.shape(left) != np.shape(right):
        raise PerakitError(
            f"the formula returned shape {np.shape(left)} where {np.shape(right)} is due"
        )
    return first_nonzero(
        np.array([_exact(entry) for entry in np.subtract(left, right).flat], dtype=object)
    )


def symbols(
    m: int, n: int, rank: int, terms: str = "full", degree: int = 2
) -> dict[str, np.ndarray]:
    """Parameters as object arrays of real sympy symbols.

    B (m, r) of b_{p,i}, A (r, n) of a_{i,q}, h (K - r,) of h_{ij}.
    m, n: the layer; rank: r, which may exceed min(m, n) here. terms, degree: as in `formulas.pera`;
    "none" is LoRA, which has no h. Indices count from 1 and h_{ij} names the product it multiplies,
    h_{112} that of b_1, b_1 and b_2. Returns them by name, ready for `formulas.pera(**symbols(2, 3,
    1))`. Raises PerakitError for sizes that are no counts.

    >>> from perakit.theory import symbolic
    >>> symbolic.symbols(1, 2, 1)["A"].tolist()
    [[a_{1,1}, a_{1,2}]]
    """
    check_layer(m, n)
    shapes = families.pera(rank, terms, degree).shapes(m, n)
    made = {name: _matrix(name.lower(), shapes[name]) for name in ("B", "A")}
    if "h" in shapes:
        made["h"] = _array(
            [_symbol("h", *(i + 1 for i in row)) for row in products(rank, terms, degree)]
        )
    return made


# --- derivations ----------------------------------------------------------------------------------


def expansion(
    m: int = 2,
    n: int = 2,
    rank: int = 2,
    terms: str = "full",
    degree: int = 2,
    formula: Rule | None = None,
) -> Derivation:
    """Eq. 9 from Eq. 2-5: the product of the expanded factors is a Hadamard series.

    The series: Σ_i M_i + Σ_{i<=j} h_ij M_i∘M_j, with M_i = b_i a_iᵀ.
    m, n, rank: sizes; the defaults print on a page. terms: "full" (Eq. 9), "square" (Eq. 10),
    "cross" (Eq. 11), "none" (LoRA, Eq. 8); degree: highest degree of a product. formula: a rule
    called as `formulas.pera`, without terms and degree at their defaults; None takes the rule
    itself. Returns a Derivation. Raises PerakitError for bad sizes or a formula of another shape.
    Source: arXiv 2604.11841, Eq. 2-5 and 8-11.

    >>> from perakit.theory import symbolic
    >>> symbolic.expansion(2, 3, 1).holds
    True
    """
    made = symbols(m, n, rank, terms, degree)
    delta = _update(_family(rank, terms, degree, formula), made, m, n)
    B_hat, A_hat = (
        (made["B"], made["A"])
        if terms == "none"
        else formulas.expand(made["B"], made["A"], made["h"], terms, degree)
    )
    series = _hadamard_series(made, products(rank, terms, degree))
    steps = (
        Step(
            "The features of B: its columns, then their products.",
            equation(r"\mathrm{Poly}(B)", _sympy(B_hat)),
        ),
        Step(
            "The features of A: its rows, then their products, each with its coefficient.",
            equation(r"\mathrm{Poly}(A)", _sympy(A_hat)),
        ),
        Step(
            "Multiply. The first entry of the update is",
            equation(r"\Delta W_{1,1}", (B_hat @ A_hat)[0, 0]),
        ),
        zero("The product minus the Hadamard series, all entries:", B_hat @ A_hat - series),
        zero("The rule minus the Hadamard series, all entries:", delta - series),
    )
    return Derivation("The update as a Hadamard series", f"{EQUATIONS[terms]}, from Eq. 2-5", steps)


def entry_polynomial(
    rank: int = 2, terms: str = "full", degree: int = 2, formula: Rule | None = None
) -> EntryPolynomial:
    """One polynomial, read mn times: ΔW[p, q] = φ_h(B[p, :] ∘ A[:, q]).

    rank: r, the number of variables of φ. terms, degree, formula: as in `expansion`. φ is the rule
    itself on a 1 x 1 layer, at B = u and A = 1; a 2 x 2 layer shows that nothing else happens.
    Returns an EntryPolynomial: its degree in u is that of the products (LoRA 1), its total degree
    in B, A and h 2k + 1 at degree k (5 in the paper, LoRA 2). Raises PerakitError as `expansion`.
    Source: arXiv 2604.11841, Eq. 9.

    >>> from perakit.theory import symbolic
    >>> symbolic.entry_polynomial(rank=1).polynomial
    h_{11}*u_{1}**2 + u_{1}
    """
    import sympy

    made = symbols(2, 2, rank, terms, degree)
    family = _family(rank, terms, degree, formula)
    u, one = (
        _array([_symbol("u", i + 1) for i in range(rank)]),
        np.full((rank, 1), sympy.Integer(1), dtype=object),
    )
    phi = sympy.expand(_update(family, {**made, "B": u[None, :], "A": one}, 1, 1)[0, 0])
    delta = _update(family, made, 2, 2)

    def read(p: int, q: int) -> Expr:
        return phi.xreplace(dict(zip(u, made["B"][p] * made["A"][:, q], strict=True)))

    rows = products(rank, terms, degree)
    stated = sum(u) + sum(
        c * math.prod(u[i] for i in row) for c, row in zip(made.get("h", ()), rows, strict=True)
    )
    high = len(rows) > 0
    in_u, total = (
        _degree(phi, u),
        _degree(delta[0, 0], [s for array in made.values() for s in array.flat]),
    )
    steps = (
        Step("The rule at B = u and A = 1:", equation(r"\varphi(u)", phi)),
        zero(
            "That, minus the sum of u and of the products with their coefficients:",
            np.array([phi - stated], dtype=object),
        ),
        zero(
            "Every entry of a 2 x 2 update, minus this polynomial at u = a row of B times a column"
            " of A:",
            delta - np.array([[read(p, q) for q in range(2)] for p in range(2)], dtype=object),
        ),
        Step("Its degree in u:", equation(r"\deg_u", in_u), in_u == (degree if high else 1)),
        Step(
            "The degree of an entry in all parameters together:",
            equation(r"\deg", total),
            total == (2 * degree + 1 if high else 2),
        ),
    )
    return EntryPolynomial(
        "One polynomial for every entry", EQUATIONS[terms], steps, phi, in_u, total
    )


def gradients(
    m: int = 2,
    n: int = 2,
    rank: int = 2,
    terms: str = "full",
    degree: int = 2,
    formula: Rule | None = None,
) -> Derivation:
    """The closed forms of the gradients against sympy's derivative of Σ G∘ΔW.

    They are `pera_gradients`, and for "none" `lora_gradients`.
    Arguments, errors and source as in `expansion`; G = ∂L/∂ΔW is a matrix of symbols g_{p,q}, so
    that the derivative of Σ G∘ΔW by a parameter is that of any loss L. Returns a Derivation with
    one claim for each of B, A, h.
    """
    import sympy

    made, G = symbols(m, n, rank, terms, degree), _matrix("g", (m, n))
    loss = (G * _update(_family(rank, terms, degree, formula), made, m, n)).sum()
    closed = (
        lora_gradients(G, **made)
        if terms == "none"
        else pera_gradients(G, **made, terms=terms, degree=degree)
    )
    steps = []
    for name, array in made.items():
        if not array.size:
            continue
        first = sympy.collect(sympy.expand(closed[name].flat[0]), list(G.flat))
        steps.append(
            Step(
                f"The closed form for {name}; its first entry is",
                equation(rf"\partial L/\partial {array.flat[0]}", first),
            )
        )
        derivative = _array([sympy.diff(loss, s) for s in array.flat]).reshape(array.shape)
        steps.append(
            zero(
                f"The closed form minus the derivative by {name}, all entries:",
                closed[name] - derivative,
            )
        )
    return Derivation(
        "Gradients of the parameters",
        f"derivative of {EQUATIONS[terms]}; G is the gradient by the update",
        tuple(steps),
    )


def kernel(
    m: int = 2, n: int = 2, rank: int = 2, degree: int = 2, formula: Rule | None = None
) -> Derivation:
    """With multinomial coefficients PERA is a polynomial kernel of the factor rows.

    ΔW = BA + Σ_{d=2}^k c_d (BA)^{∘d}.
    At degree 2: h_ii = c, h_ij = 2c (i < j) give ΔW = BA + c (BA)∘(BA), the inhomogeneous quadratic
    kernel x·y + c (x·y)² of rows of B and columns of A. Degree d: h = c_d times
    d!/Π(multiplicities!). Arguments and errors as in `expansion`. Returns a Derivation. Source: a
    special case of arXiv 2604.11841, Eq. 9, not stated there.
    """
    made = symbols(m, n, rank, "full", degree)
    rows = products(rank, "full", degree)
    c = {d: _symbol("c", d) for d in range(2, degree + 1)}
    h = _array([c[len(row)] * multinomial(row) for row in rows])
    linear = formulas.lora(made["B"], made["A"])
    delta = _update(_family(rank, "full", degree, formula), {**made, "h": h}, m, n)
    powers = linear + sum(c[d] * linear**d for d in c)
    steps = (
        Step(
            "Take multinomial coefficients, one free number for each degree:",
            equation("h", _sympy(h[None, :])),
        ),
        Step(
            "Then powers of BA appear; the first entry of the update should be",
            equation(r"\Delta W_{1,1}", powers[0, 0]),
        ),
        zero("The rule minus that sum of elementwise powers, all entries:", delta - powers),
    )
    return Derivation("The polynomial kernel inside PERA", f"a case of {EQUATIONS['full']}", steps)


def gauge(
    m: int = 4,
    n: int = 5,
    rank: int = 2,
    terms: str = "full",
    degree: int = 2,
    formula: Rule | None = None,
) -> Derivation:
    """Which changes of parameters leave ΔW alone: LoRA's GL(r), PERA's scalings and permutations.

    Finite: B → B P D, A → D⁻¹ Pᵀ A with D diagonal, P a permutation and h renumbered by P,
    otherwise unchanged (every P up to rank 3, beyond it a swap and a cycle, which generate the
    rest); LoRA: B → B X, A → X⁻¹ A. Infinitesimal: the null space of the exact Jacobian at a random
    point is the span of δB = B X, δA = −X A, δh = 0, X diagonal (LoRA: any), of dimension r (LoRA
    r²), provided that mn is at least the number of parameters less r: a smaller layer has a larger
    null space, and the derivation says so. So near a generic point there is no other continuous
    symmetry. At special points there can be: with the coefficients of `kernel` ΔW depends on BA
    alone and all of GL(r) leaves it alone.

    m, n, rank: sizes, rank <= min(m, n). terms, degree, formula: as in `expansion`. Returns a
    Derivation. Raises PerakitError as `expansion`. Source: follows from arXiv 2604.11841, Eq. 9.
    """
    check_layer(m, n, rank)
    made = symbols(m, n, rank, terms, degree)
    update = partial(_update, _family(rank, terms, degree, formula), m=m, n=n)
    rows = products(rank, terms, degree)
    moves = list(
        _linear_changes(made) if terms == "none" else _monomial_changes(made, terms, degree)
    )
    steps = _first_entry(moves[-1][1]) if rows else []
    steps += [zero(text, update(moved) - update(made)) for text, moved in moves]
    steps += _null_space(
        jacobian(m, n, rank, terms, degree, formula=formula), m, n, rank, terms, degree
    )
    return Derivation(
        "Changes of the parameters that leave the update alone",
        f"follows from {EQUATIONS[terms]}",
        tuple(steps),
    )


def tangent_space(
    m: int = 4,
    n: int = 5,
    rank: int = 2,
    terms: str = "full",
    degree: int = 2,
    formula: Rule | None = None,
) -> Derivation:
    """In how many directions ΔW can move, at three points.

    They are: generic parameters, on top of LoRA (h = 0), at the start (B = h = 0).
    Generic: min(mn, r(m+n) + K - 2r). At h = 0: min(mn, r(m+n) - r² + K - r), at degree 2 r² - r
    fewer. At the start: mr, the directions δB A, those of LoRA. LoRA itself: r(m+n) - r² at both of
    the first.

    Arguments, errors and source as in `gauge`. Returns a Derivation with one claim for each point;
    ranks are exact, at one random point, hence proved lower bounds of the generic ones.
    """
    stated = _stated_ranks(m, n, rank, terms, degree)
    phi = entry_polynomial(rank, terms, degree, formula).polynomial
    steps = [
        Step(
            "The differential of one entry, u being a row of B times a column of A:",
            equation(r"d\varphi", _differential(phi)),
        )
    ]
    for at, text in _POINT_TEXTS.items():
        found = jacobian(m, n, rank, terms, degree, at, formula).rank
        steps.append(
            Step(
                f"{text} Directions (stated: {stated[at]}):",
                equation(r"\mathrm{rank}(J)", found),
                found == stated[at],
            )
        )
    return Derivation(
        f"Tangent spaces of rank {rank} on a {m} x {n} layer",
        f"follows from {EQUATIONS[terms]}",
        tuple(steps),
    )


# --- exact ranks ----------------------------------------------------------------------------------


def jacobian(
    m: int,
    n: int,
    rank: int,
    terms: str = "full",
    degree: int = 2,
    at: str = "generic",
    formula: Rule | None = None,
    seed: int = 0,
) -> Jacobian:
    """Exact Jacobian of vec ΔW by (B, A, h) at a random point of whole numbers.

    Sympy differentiates the rule itself.
    m, n, rank: sizes, rank <= min(m, n). terms, degree, formula: as in `expansion`. at: "generic"
    draws everything, "lora" sets h = 0, "start" sets B = 0 and h = 0. seed: of the draw. Its rank
    is a proved lower bound of the rank at a generic point; where it also is the number of
    parameters less the gauge directions (see `gauge`), or mn, it is that rank.
    Returns a Jacobian. Raises PerakitError for bad sizes, an unknown point, or a formula without a
    rational derivative there.
    Source: follows from arXiv 2604.11841, Eq. 9.
    """
    import sympy

    check_layer(m, n, rank)
    made = symbols(m, n, rank, terms, degree)
    point = _point(made, at, seed)
    others = {s: {t: value for t, value in point.items() if t is not s} for s in point}

    def partial_derivative(entry: Expr, s: Expr) -> Expr:
        if s not in entry.free_symbols:
            return sympy.Integer(0)
        # Before differentiating, which is then twice as fast
        in_one_variable = entry.xreplace(others[s])
        return _rational(sympy.diff(in_one_variable, s).xreplace(point))

    delta = _update(_family(rank, terms, degree, formula), made, m, n)
    rows = [[partial_derivative(entry, s) for s in point] for entry in delta.flat]
    return Jacobian(sympy.ImmutableMatrix(rows), tuple(point), point)


def generic_rank(
    m: int,
    n: int,
    rank: int,
    terms: str = "full",
    degree: int = 2,
    formula: Rule | None = None,
    seed: int = 0,
) -> int:
    """Rank of ΔW at random whole factors, by exact elimination: PERA min(m, n, K), LoRA r.

    Arguments and errors as in `jacobian`. A proved lower bound of the generic rank, and equal to it
    where it reaches `formulas.rank_bound` or min(m, n). Source: the bound K is that of arXiv
    2604.11841, Eq. 9.

    >>> from perakit.theory import symbolic
    >>> symbolic.generic_rank(3, 4, rank=1)
    2
    """
    check_layer(m, n, rank)
    made = symbols(m, n, rank, terms, degree)
    point = _point(made, "generic", seed)
    values = {
        name: _array([point[s] for s in array.flat]).reshape(array.shape)
        for name, array in made.items()
    }
    delta = _update(_family(rank, terms, degree, formula), values, m, n)
    return _rank(_sympy(_array([_rational(x) for x in delta.flat]).reshape(m, n)))


def _point(made: Mapping[str, np.ndarray], at: str, seed: int) -> dict[Expr, Expr]:
    import sympy

    if at not in POINTS:
        raise PerakitError(f"at={at!r} is unknown: choose from {', '.join(map(repr, POINTS))}")
    formulas.check_count("seed", seed, least=0)
    zero = {"generic": "", "lora": "h", "start": "Bh"}[at]
    generator = np.random.default_rng(seed)
    drawn: dict[Expr, Expr] = {}
    for name, array in made.items():
        sizes = (
            generator.integers(1, LARGEST_ENTRY + 1, array.size)
            * generator.choice([-1, 1], array.size)
            * (name not in zero)
        )
        drawn.update(zip(array.flat, map(sympy.Integer, sizes.tolist()), strict=True))
    return drawn


def _rank(matrix: Expr) -> int:
    from sympy import QQ
    from sympy.polys.matrices import DomainMatrix

    return int(DomainMatrix.from_Matrix(matrix).convert_to(QQ).rank())


def _rational(value: Expr) -> Expr:
    if not value.is_Rational:
        raise PerakitError(
            f"the formula gives {value} at a point of whole numbers: exact ranks need a rational"
            " function, finite there"
        )
    return value


_POINT_TEXTS = {
    "generic": "At generic parameters: every dB, dA, dh, less those that gauge directions cancel.",
    "lora": "Where h = 0, if there is an h: dB A + B dA, as in LoRA, and dh along the products.",
    "start": "At the start, B = 0 and h = 0: dB A only, as in LoRA.",
}


def _stated_ranks(m: int, n: int, rank: int, terms: str, degree: int) -> dict[str, int]:
    at = partial(tangent_dimension, m, n, rank, terms, degree)
    return {
        "generic": dimension(m, n, rank, terms, degree),
        "lora": at(at="lora"),
        "start": at(at="start"),
    }


# --- the rule and its parameters ------------------------------------------------------------------


def _family(rank: int, terms: str, degree: int, formula: Rule | None) -> Formula:
    if formula is not None and not callable(formula):
        raise PerakitError(
            f"formula={formula!r} cannot be called: pass a rule like perakit.formulas.pera, or None"
            " for that rule"
        )
    return (
        families.pera(rank, terms, degree)
        if formula is None
        else families.of_rule(formula, rank, terms, degree)
    )


def _update(family: Formula, factors: Mapping[str, np.ndarray], m: int, n: int) -> np.ndarray:
    delta = families.evaluate(family, None, factors, (m, n))
    return _array([_exact(entry) for entry in delta.flat]).reshape(m, n)


def _exact(entry: Any) -> Expr:
    """An entry of ΔW as a sympy expression; 0.5 in a formula is meant as 1/2."""
    import sympy

    expression = sympy.sympify(entry)
    if expression.has(sympy.zoo, sympy.oo, -sympy.oo, sympy.nan):
        raise PerakitError(
            f"the formula gives {expression} for an entry of ΔW: every entry must be a finite"
            " expression"
        )
    return sympy.nsimplify(expression, rational=True) if expression.has(sympy.Float) else expression


def _hadamard_series(made: Mapping[str, np.ndarray], rows: list[tuple[int, ...]]) -> np.ndarray:
    """Σ_i M_i + Σ h_ij M_i∘M_j with M_i = b_i a_iᵀ: what Eq. 9 states."""
    M = [np.outer(b, a) for b, a in zip(made["B"].T, made["A"], strict=True)]
    series: np.ndarray = np.sum(M, axis=0)
    for coefficient, row in zip(made.get("h", ()), rows, strict=True):
        series = series + coefficient * math.prod(M[i] for i in row)
    return series


def multinomial(row: tuple[int, ...]) -> int:
    """d!/Π(multiplicities!) of a monomial of degree d, given by its columns."""
    return math.factorial(len(row)) // math.prod(
        math.factorial(count) for count in Counter(row).values()
    )


def _differential(phi: Expr) -> Expr:
    import sympy

    return sum(
        sympy.diff(phi, s) * sympy.Symbol(f"d{s}", real=True)
        for s in sorted(phi.free_symbols, key=str)
    )


def _degree(expression: Expr, variables: Iterable[Expr]) -> int:
    import sympy

    variables = list(variables)
    if not expression.is_polynomial(*variables):
        raise PerakitError(
            f"the formula gives {expression}, no polynomial in its parameters: it has no degree"
        )
    return max(int(sum(powers)) for powers in sympy.Poly(expression, *variables).monoms())


# --- gauge ----------------------------------------------------------------------------------------


def _monomial_changes(
    made: Mapping[str, np.ndarray], terms: str, degree: int
) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """B → B P D, A → D⁻¹ Pᵀ A, h renumbered, D diagonal, each P: `gauge_orbit` in symbols."""
    import sympy

    rank = len(made["A"])
    d = _array([sympy.Symbol(f"d_{{{i + 1}}}", nonzero=True) for i in range(rank)])
    for order in _orders(rank):
        numbers = ", ".join(str(i + 1) for i in order)
        text = (
            f"Columns of B in the order {numbers} times d, rows of A likewise over d, h renumbered."
            " The update changes by"
        )
        yield (
            text,
            dict(
                zip(
                    "BAh",
                    gauge_orbit(made["B"], made["A"], made["h"], d, order, terms, degree),
                    strict=True,
                )
            ),
        )


def _first_entry(moved: Mapping[str, np.ndarray]) -> list[Step]:
    """What the first entry of ΔW reads after a change: d has cancelled, the rest changed places."""
    u = moved["B"][0] * moved["A"][:, 0]
    return [
        Step(
            "The first entry reads u = B[1,:] times A[:,1]. With columns and rows rescaled and in"
            " another order this is",
            equation("u'", _sympy(u[None, :])),
        ),
        Step(
            "and the coefficients, in the order of its products, are",
            equation("h'", _sympy(moved["h"][None, :])),
        ),
    ]


def _orders(rank: int) -> list[list[int]]:
    if rank <= 3:
        return [list(order) for order in permutations(range(rank))]
    # a swap and a cycle generate every permutation
    return [[1, 0, *range(2, rank)], [*range(1, rank), 0]]


def _linear_changes(made: Mapping[str, np.ndarray]) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """B → B X, A → X⁻¹ A for any invertible X."""
    import sympy

    X = _matrix("x", (len(made["A"]),) * 2)
    square = sympy.Matrix(X)
    inverse = np.array(square.adjugate(), dtype=object) / square.det()
    yield (
        "B X in place of B and the inverse of X times A in place of A. The update changes by",
        {"B": made["B"] @ X, "A": inverse @ made["A"]},
    )


def _null_space(J: Jacobian, m: int, n: int, rank: int, terms: str, degree: int) -> list[Step]:
    """The null space is the span of δB = B X, δA = −X A, δh = 0."""
    V, stated = (
        _gauge_directions(J, m, n, rank, diagonal=terms != "none"),
        len(J.parameters) - dimension(m, n, rank, terms, degree),
    )
    kind = "any" if terms == "none" else "diagonal"
    independent, nullity = _rank(V), J.nullity
    spans = (
        "they span the null space"
        if stated == V.shape[1]
        else "the layer is small, mn directions are all there are: a larger null space"
    )
    return [
        zero(
            f"The Jacobian times the directions dB = B X, dA = -X A, dh = 0, X {kind}:",
            np.array(J.matrix * V),
        ),
        Step(
            "Independent ones among these directions:",
            equation(r"\mathrm{rank}(V)", independent),
            independent == V.shape[1],
        ),
        Step(
            f"The null space of the Jacobian (stated: {stated}; {spans}):",
            equation(r"\dim\ker J", nullity),
            nullity == stated,
        ),
    ]


def _gauge_directions(J: Jacobian, m: int, n: int, rank: int, diagonal: bool) -> Expr:
    import sympy

    values = _array(list(J.point.values()))
    B, A = values[: m * rank].reshape(m, rank), values[m * rank : (m + n) * rank].reshape(rank, n)
    still = [0] * (len(values) - (m + n) * rank)
    generators = [(i, j) for i in range(rank) for j in range(rank) if i == j or not diagonal]
    columns = []
    for i, j in generators:
        X = np.zeros((rank, rank), dtype=int)
        X[i, j] = 1
        columns.append([*(B @ X).flat, *(-X @ A).flat, *still])
    return sympy.ImmutableMatrix(columns).T


# --- writing --------------------------------------------------------------------------------------


def _symbol(letter: str, *indices: int) -> Expr:
    """x_{1,2}; h_{12} without the comma, as the paper writes it, while that is unambiguous."""
    import sympy

    comma = "" if letter == "h" and max(indices) < 10 else ","
    return sympy.Symbol(f"{letter}_{{{comma.join(map(str, indices))}}}", real=True)


def _matrix(letter: str, shape: tuple[int, ...]) -> np.ndarray:
    return _array([_symbol(letter, i + 1, j + 1) for i, j in np.ndindex(*shape)]).reshape(shape)


def _array(entries: list[Expr]) -> np.ndarray:
    return np.array(entries, dtype=object)


def _sympy(array: np.ndarray) -> Expr:
    import sympy

    return sympy.ImmutableMatrix(*array.shape, list(array.flat))
