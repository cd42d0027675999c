"""The paper's Theorem 1, refuted exactly, and the inequality that takes its place.

Let S(r) be the set of PERA updates of rank r and K = r(r+3)/2. Theorem 1 of arXiv 2604.11841 says
that min over S(r) of ‖ΔW − E‖₂ <= σ_{K+1}(E) for every E. The inclusion S(r) ⊂ {rank <= K}, from
which it is derived, gives >= instead. Here, for r = 1 and 3 x 3 matrices: a matrix of rank 2
outside the closure of S(1) by exact algebra (`certificate`; how far outside:
`perakit.theory.distance`), a matrix that is in the closure and not in S(1) (`limit`); for every r
the count of dimensions (`dimensions`) and the corrected theorem (`sandwich`).

Notation for r = 1: ΔW = u + h u∘u with u = b aᵀ, so t = h u satisfies t² + t = h ΔW entry by entry,
and has rank one.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations
from typing import Any

import numpy as np

from perakit import formulas
from perakit.errors import PerakitError
from perakit.formulas import Array
from perakit.theory.exact import exact_rank
from perakit.theory.families import check_layer, check_matrix, evaluate, of_rule
from perakit.theory.rank import spectrum, tail

Matrix = tuple[tuple[Fraction, ...], ...]
Rule = Callable[[Array, Array, Array], Array]

COUNTEREXAMPLE = ((1, 2, 3), (4, 5, 7), (5, 7, 10))  # the third row is the sum of the others
# b, a, h: the best factors found for it
NEAREST = ((-1.5734, 2.6857, 3.1569), (0.1299, -0.16314, -0.19357), 28.249)
# entries, row by row
MINORS = [
    (i + j, i + q, p + j, p + q)
    for i, p in combinations((0, 3, 6), 2)
    for j, q in combinations(range(3), 2)
]


# --- (a) outside the closure, by resultants -------------------------------------------------------


@functools.cache
def quintic() -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Q(h; w) = 0: one 2 x 2 minor (w11, w12, w21, w22) of a member of S(1) imposes it on its h.

    The norm N of t11 t22 − t12 t21 over the two roots t of each t² + t = h w has degree 16 in h and
    is divisible by h¹¹: Q = N/h¹¹.
    Returns (coefficients of Q in h, degree 5 first; the symbols w).
    """
    import sympy as sp

    _, *gens = sp.ring("t11 t12 t21 t22 h w11 w12 w21 w22", sp.ZZ)
    t, h, w = gens[:4], gens[4], gens[5:]
    # zero, and lead with t²
    squares = [root**2 + root - h * value for root, value in zip(t, w, strict=True)]
    norm = t[0] * t[3] - t[1] * t[2]
    # One t after the other: over the roots of t² + t = h w, p + q t has norm p² − pq − q² h w
    for root, value in zip(t, w, strict=True):
        q = norm.diff(root)  # the norm so far is linear in every t
        p = norm - q * root
        norm = (p**2 - p * q - q**2 * h * value).rem(squares)
    # Divided by h¹¹ with symbols: at some w the coefficient of h¹¹ vanishes, and a numeric N,
    # divided by its higher power of h, would lose the root h = 0
    N = sp.Poly(norm.as_expr(), h.as_expr())
    lowest = N.monoms()[-1][0]
    # Part of the proof: it rests on this shape
    if (N.degree(), lowest, norm.content()) != (16, 11, 1):
        raise AssertionError(
            f"the norm has degree {N.degree()}, order {lowest} and content {norm.content()} where"
            " 16, 11 and 1 are due"
        )
    return tuple(N.coeff_monomial(N.gen**k) for k in range(16, 10, -1)), tuple(
        value.as_expr() for value in w
    )


@functools.cache
def _evaluator() -> Callable[..., list[Any]]:
    import sympy as sp

    coefficients, w = quintic()
    # Plain + and *: exact on Fractions
    evaluate: Callable[..., list[Any]] = sp.lambdify(w, coefficients, modules=[])
    return evaluate


def quintics(E: Any) -> list[list[Fraction]]:
    """Exact coefficients, degree 5 first, of Q_M(h; E) for the nine minors M of a 3 x 3 matrix."""
    entries = [v for row in exact_matrix(E) for v in row]
    return [[Fraction(c) for c in _evaluator()(*(entries[k] for k in minor))] for minor in MINORS]


def resultants(E: Any) -> list[Fraction]:
    """The 36 resultants of two Q_M, as 10 x 10 Sylvester determinants at formal degree 5.

    Each is a polynomial in the entries of E. It vanishes wherever the two Q_M share a root h,
    finite or infinite: on S(1), hence on its closure.
    """
    from sympy import ZZ
    from sympy.polys.matrices import DomainMatrix

    found = []
    for pair in combinations(map(_whole, quintics(E)), 2):
        sylvester = [
            [ZZ(0)] * k + [ZZ(c) for c in form] + [ZZ(0)] * (4 - k)
            for form, _ in pair
            for k in range(5)
        ]
        value = int(DomainMatrix(sylvester, (10, 10), ZZ).det())
        found.append(Fraction(value, math.prod(common**5 for _, common in pair)))
    return found


def _whole(form: list[Fraction]) -> tuple[list[int], int]:
    """The coefficients times their common denominator, and that denominator."""
    # Integers have faster determinants than fractions
    common = math.lcm(*(c.denominator for c in form))
    return [int(c * common) for c in form], common


@dataclass(frozen=True)
class CommonRoots:
    """The real h, infinity included, at which all nine quintics of a matrix vanish.

    A member of S(1) has its own h there.
    zero, infinity: multiplicities; elsewhere: how many other real roots. None at all: not in the
    closure of S(1). Only zero and infinity: not in S(1), unless of rank one.
    """

    zero: int
    infinity: int
    elsewhere: int

    def __str__(self) -> str:
        where = [
            f"{name} ({count}-fold)"
            for name, count in (("h = 0", self.zero), ("h = ∞", self.infinity))
            if count
        ]
        where += [f"{self.elsewhere} other real h"] if self.elsewhere else []
        return f"common roots of the nine quintics: {', '.join(where) or 'none'}"


def common_roots(E: Any) -> CommonRoots:
    """Which h the nine quintics share: by their greatest common divisor, without resultants."""
    import sympy as sp

    h = sp.Symbol("h")
    forms = quintics(E)
    if not any(map(any, forms)):
        return CommonRoots(5, 5, 5)  # zero forms vanish everywhere
    shared = sp.Poly(0, h, domain=sp.QQ)
    for form in forms:
        shared = sp.gcd(
            shared,
            sp.Poly([sp.Rational(c.numerator, c.denominator) for c in form], h, domain=sp.QQ),
        )
    zero = shared.monoms()[-1][0]
    infinity = min(next(k for k, c in enumerate(form) if c) for form in forms if any(form))
    return CommonRoots(zero, infinity, shared.count_roots() - (zero > 0))


@dataclass(frozen=True)
class Certificate:
    """Is E, of rank <= 2, outside the closure of S(1)?

    `holds` says that every step of the proof went through.
    rank: of E, so σ₃(E) = 0 exactly when it is at most 2; resultants: 36, one nonzero suffices;
    identity: the formula satisfies t² + t = h ΔW; controls: all resultants vanish at members, at
    LoRA points and at limits of members.
    """

    target: Matrix
    rank: int
    resultants: tuple[Fraction, ...]
    identity: bool
    controls: bool

    @property
    def nonzero(self) -> int:
        """How many of the 36 resultants are nonzero."""
        return sum(value != 0 for value in self.resultants)

    @property
    def holds(self) -> bool:
        """Whether E refutes Theorem 1."""
        return self.rank <= 2 and self.nonzero > 0 and self.identity and self.controls

    def __str__(self) -> str:
        return "\n".join(
            [
                f"E = {show(self.target)} has rank {self.rank}",
                (
                    f"t² + t = h ΔW: {_yes(self.identity)}; resultants vanish at members, LoRA"
                    f" points and limits: {_yes(self.controls)}"
                ),
                f"resultants nonzero at E: {self.nonzero} of {len(self.resultants)}",
                self._conclusion(),
            ]
        )

    def _conclusion(self) -> str:
        if not (self.identity and self.controls):
            return "nothing is proved about E: the formula is not PERA's"
        if self.rank <= 1:
            return "E is in S(1) itself, with h = 0: nothing is proved against Theorem 1"
        place = "E is outside the closure of S(1)"
        if not self.nonzero:
            place = "nothing is proved about where E lies: no resultant tells it from a member"
        if self.rank == 3:
            return f"{place}; σ₃ > 0, so E says nothing of Theorem 1"
        return f"{place}: Theorem 1 fails" if self.nonzero else place


def certificate(E: Any = COUNTEREXAMPLE, *, formula: Rule | None = None) -> Certificate:
    """Prove that a 3 x 3 matrix of rank <= 2 is not in the closure of S(1): Theorem 1 fails for it.

    E: of integers, Fractions or floats (taken as the dyadic numbers they are). formula: (B, A, h)
    -> ΔW, default `formulas.pera`; with any other formula the proof's premises are tested and found
    wanting.

    >>> from perakit.theory import theorem1
    >>> theorem1.certificate(((1, 2, 3), (4, 5, 7), (5, 7, 10))).holds
    True
    """
    target, rule = exact_matrix(E), checked(formula)
    controls = all(not any(resultants(member)) for member in _controls(rule))
    return Certificate(
        target, exact_rank(target), tuple(resultants(target)), satisfies_identity(rule), controls
    )


def checked(formula: Rule | None) -> Rule:
    """The rule to examine, `formulas.pera` by default; PerakitError if it returns no ΔW (m, n)."""
    if formula is not None and not callable(formula):
        raise PerakitError(
            f"formula={formula!r} cannot be called: pass a rule like perakit.formulas.pera, or None"
        )
    family = of_rule(formula or formulas.pera, 1)
    return lambda B, A, h: evaluate(
        family, None, {"B": B, "A": A, "h": h}, (B.shape[0], A.shape[1])
    )


def satisfies_identity(rule: Rule) -> bool:
    """Whether t = h u solves t² + t = h ΔW, in symbols: the premise of every argument here."""
    import sympy as sp

    B, A, h = (np.array(sp.symbols(names), dtype=object) for names in ("b:3", "a:3", "h:1"))
    t = h[0] * B[:, None] * A[None, :]
    return all(
        sp.expand(gap) == 0 for gap in (t**2 + t - h[0] * rule(B[:, None], A[None, :], h)).flat
    )


def _controls(rule: Rule) -> Iterator[Array]:
    """Random rational members of S(1), LoRA points, and limits x1ᵀ + 1yᵀ."""
    rng = np.random.default_rng(0)

    def draw(*shape: int) -> Array:
        # Never 0
        return np.vectorize(lambda k: Fraction(int(k), 6) + Fraction(1, 12), otypes=[object])(
            rng.integers(-30, 30, shape)
        )

    for h in (draw(1), draw(1), np.array([Fraction(0)], dtype=object)):
        yield rule(draw(3, 1), draw(1, 3), h)
    yield draw(3, 1) + draw(1, 3)
    yield np.arange(1, 10).reshape(3, 3)


# --- (b) infimum and minimum ----------------------------------------------------------------------


def limit_sequence(x: Sequence[Any], y: Sequence[Any], eps: Any) -> tuple[Array, Array, Array]:
    """Factors (B (m, 1), A (1, n), h (1,)) of a member of S(1) at distance O(eps) from x1ᵀ + 1yᵀ.

    u = (1/ε)(1 − εx)(1 − εy)ᵀ and h = −ε: as ε -> 0 the factors diverge and h vanishes. Exact where
    x, y, eps are (Fractions, sympy), floats where they are.
    """
    if eps == 0:
        raise PerakitError("eps=0: the factors diverge there; pass a small number, or ask `limit`")
    dtype = np.float64 if isinstance(eps, float) else object
    B = np.array([[(1 - eps * v) / eps] for v in x], dtype=dtype)
    A = np.array([[1 - eps * v for v in y]], dtype=dtype)
    return B, A, np.array([-eps], dtype=dtype)


@dataclass(frozen=True)
class Limit:
    """x1ᵀ + 1yᵀ as a limit of members of S(1), and whether it is one.

    expansion: ΔW(ε) as {power of ε: coefficient matrix}; roots: what the quintics say of the limit;
    attained: False when they prove that it is no member, True when it has rank one, None when they
    leave it open.
    """

    target: Matrix
    expansion: dict[int, Matrix]
    roots: CommonRoots
    attained: bool | None

    @property
    def holds(self) -> bool:
        """Whether ΔW(ε) -> target."""
        return (
            min(self.expansion, default=0) >= 0
            and self.expansion.get(0, exact_matrix(np.zeros((3, 3)))) == self.target
        )

    def __str__(self) -> str:
        error = math.sqrt(sum(v * v for row in self.expansion.get(1, ()) for v in row))
        verdict = {None: "open", True: "yes", False: "no: infimum 0, no minimum"}[self.attained]
        gap = (
            f"distance {error:.1f} ε + O(ε²)"
            if self.holds
            else "not the limit of this formula's updates"
        )
        return f"{show(self.target)}: {gap}\n{self.roots}\nattained: {verdict}"


def limit(
    x: Sequence[Any] = (0, 3, 6), y: Sequence[Any] = (1, 2, 3), *, formula: Rule | None = None
) -> Limit:
    """Expand ΔW along `limit_sequence` in ε, exactly: is the limit x1ᵀ + 1yᵀ (3 x 3) attained?"""
    import sympy as sp

    eps = sp.Symbol("eps", positive=True)
    target = exact_matrix([[Fraction(p) + Fraction(q) for q in y] for p in x])
    rule = checked(formula)
    delta = rule(*limit_sequence([sp.Rational(v) for v in x], [sp.Rational(v) for v in y], eps))
    terms = [
        [
            dict(reversed(term.as_coeff_exponent(eps)) for term in sp.Add.make_args(sp.expand(v)))
            for v in row
        ]
        for row in delta
    ]
    powers = sorted(
        {int(power) for row in terms for entry in row for power, c in entry.items() if c}
    )
    expansion = {
        k: exact_matrix([[entry.get(k, 0) for entry in row] for row in terms]) for k in powers
    }
    roots = common_roots(target)
    decided = not roots.elsewhere and satisfies_identity(rule)
    attained = True if exact_rank(target) <= 1 else False if decided else None
    return Limit(target, expansion, roots, attained)


# --- (c) why it is no accident --------------------------------------------------------------------


@dataclass(frozen=True)
class Dimensions:
    """members: an upper bound of dim S(r); targets: dim {rank <= K}. See `dimensions`."""

    m: int
    n: int
    rank: int
    members: int
    targets: int

    @property
    def theorem_fails(self) -> bool:
        """Whether the count alone refutes Theorem 1, for almost every target of rank K."""
        # If it does not, the count says nothing
        return self.members < self.targets

    def __str__(self) -> str:
        sign = "<" if self.theorem_fails else "="
        return (
            f"{self.m} x {self.n}, r = {self.rank}: dim S(r) <= {self.members} {sign}"
            f" {self.targets} = dim {{rank <= K}}"
        )


def dimensions(m: int, n: int, rank: int) -> Dimensions:
    """Count both sides: the dimension of S(r) against that of the targets of rank <= K.

    dim S(r) <= min(mn, r(m+n) + r(r−1)/2) against K(m+n−K), K capped at min(m, n).
    S(r) is a polynomial image of R^p, p = r(m+n) + r(r+1)/2; scaling b_i by d_i and a_i by 1/d_i
    moves the parameters and not ΔW, so generic fibres have dimension >= r and the image at most p −
    r. It is semialgebraic, and so is its closure, of the same dimension. {rank <= K} is
    irreducible, and in it a semialgebraic set of lower dimension is nowhere dense and of measure
    zero: σ_{K+1} = 0 and inf > 0 for almost every target. For K <= min(m, n) the count is strict
    unless r = 1, m = n = 2: as m + n >= 2K, the gap (K−r)(m+n) − K² − r(r−1)/2 is at least (K−1)
    r(r−1)/2, zero at r = 1 only, where the gap is m + n − 4.

    >>> from perakit.theory import theorem1
    >>> theorem1.dimensions(3, 3, rank=1)
    Dimensions(m=3, n=3, rank=1, members=6, targets=8)
    """
    check_layer(m, n, rank)
    K = min(formulas.rank_bound(rank), m, n)
    return Dimensions(
        m, n, rank, min(m * n, rank * (m + n) + rank * (rank - 1) // 2), K * (m + n - K)
    )


# --- (d) the corrected theorem --------------------------------------------------------------------


@dataclass(frozen=True)
class Sandwich:
    """(lower, upper) bounds of dist(E, S) in the spectral and in the Frobenius norm."""

    inner: int
    outer: int
    spectral: tuple[float, float]
    frobenius: tuple[float, float]

    def __str__(self) -> str:
        rows = (("spectral", self.spectral), ("Frobenius", self.frobenius))
        return "\n".join(
            f"{low:.4g} <= dist(E, S) <= {high:.4g} ({norm})" for norm, (low, high) in rows
        )


def sandwich(E: Any, inner: int, outer: int) -> Sandwich:
    """Bound the distance from E to any family S between {rank <= inner} and {rank <= outer}.

    For PERA these are r and K.
    dist(E, rank <= K) <= dist(E, S(r)) <= dist(E, rank <= r) in every unitarily invariant norm, by
    the inclusions S_LoRA(r) ⊂ S(r) ⊂ {rank <= K}; the ends are tails of singular values
    (Eckart–Young–Mirsky): σ_{K+1} and σ_{r+1} in the spectral norm, their root sums of squares in
    Frobenius'.

    >>> from perakit.theory import theorem1
    >>> theorem1.sandwich([[3, 0, 0], [0, 2, 0], [0, 0, 1]], inner=1, outer=2).spectral
    (1.0, 2.0)
    """
    formulas.check_count("inner", inner, least=0)
    formulas.check_count("outer", outer, least=inner)
    sigma = spectrum(check_matrix("E", E))
    lower, upper = tail(sigma, outer), tail(sigma, inner)
    return Sandwich(inner, outer, (lower[1], upper[1]), (lower[0], upper[0]))


# --- exact matrices -------------------------------------------------------------------------------


def exact_matrix(E: Any) -> Matrix:
    """A 3 x 3 matrix as Fractions; floats become the dyadic numbers they are."""
    try:
        rows = tuple(
            tuple(Fraction(int(v.numerator), int(v.denominator)) for v in map(Fraction, row))
            for row in E
        )
    except (TypeError, ValueError, OverflowError) as error:
        raise PerakitError(
            f"E is no matrix of rational numbers ({error}): pass integers, Fractions or finite"
            " floats"
        ) from error
    if len(rows) != 3 or any(len(row) != 3 for row in rows):
        raise PerakitError(
            f"E has rows of length {[len(row) for row in rows]}: the proof is for 3 x 3 matrices"
        )
    return rows


def show(E: Matrix) -> str:
    """As a nested list."""
    return "[" + ", ".join("[" + ", ".join(map(str, row)) + "]" for row in E) + "]"


def _yes(fact: bool) -> str:
    return "yes" if fact else "NO"
