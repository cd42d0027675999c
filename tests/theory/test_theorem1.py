"""The refutation of Theorem 1: that it proves what it says, and that it can fail."""

from fractions import Fraction
from itertools import product

import numpy as np
import pytest
import scipy.optimize

from perakit import formulas
from perakit.errors import PerakitError
from perakit.theory import distance, theorem1
from perakit.theory.intervals import ONE, Interval

E = theorem1.COUNTEREXAMPLE
IN_CLOSURE = [[1, 2, 3], [4, 5, 6], [7, 8, 9]]


def fractions(*values):
    return np.array([Fraction(v) for v in values], dtype=object)


def member(b, a, h):
    """Written out, not by the library's formula."""
    u = np.multiply.outer(b, a)
    return u + h * u * u


def searches(target, starts, scale=1.0, seed=0):
    """Distances at which BFGS on (b, a, h) stops, from Gaussian starts."""
    rng = np.random.default_rng(seed)

    def loss(p):
        return np.sum((member(p[:3], p[3:6], p[6]) - target) ** 2)

    return sorted(
        float(np.sqrt(scipy.optimize.minimize(loss, scale * rng.normal(size=7)).fun))
        for _ in range(starts)
    )


# --- certificate ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def proof():
    return theorem1.certificate()


def test_the_counterexample(proof):
    assert proof.holds
    assert (proof.rank, proof.nonzero, len(proof.resultants)) == (2, 36, 36)
    assert "Theorem 1 fails" in str(proof)


def test_the_quintic_vanishes_for_each_choice_of_roots():
    """Choose t with t11 t22 = t12 t21 and any h, put w = (t² + t)/h: then h is a root of Q(h;
    w).
    """
    for t11, t12, t21, h in product((-3, 2), (5, Fraction(1, 2)), (-7, 4), (Fraction(3, 5), -2)):
        t = fractions(t11, t12, t21, Fraction(t12 * t21) / t11)
        values = theorem1._evaluator()(*((t * t + t) / h))
        assert sum(c * h ** (5 - k) for k, c in enumerate(values)) == 0


def test_the_lowest_and_highest_coefficient():
    import sympy as sp

    coefficients, (a, b, c, d) = theorem1.quintic()
    assert sp.expand(coefficients[0] - (a * d - b * c) ** 8) == 0
    trap = a - b - c + d
    assert (
        sp.expand(
            coefficients[-1]
            + a * b * c * d * (a - b) * (a - c) * (b - d) * (c - d) * (a * d - b * c) * trap
        )
        == 0
    )


@pytest.mark.parametrize(
    "target",
    [E, [fractions(1, "2/3", 3), fractions(4, "5/7", 7), fractions("1/2", 7, "-10/9")]],
    ids=["whole", "not"],
)
def test_the_resultants_are_those_of_sympy(target):
    """Where no leading coefficient vanishes the formal resultant is the ordinary one."""
    import sympy as sp

    h = sp.Symbol("h")
    p, q = (
        sp.Poly([sp.Rational(c.numerator, c.denominator) for c in form], h)
        for form in theorem1.quintics(target)[:2]
    )
    assert p.degree() == q.degree() == 5
    assert sp.resultant(p, q) == theorem1.resultants(target)[0] != 0


def test_a_rounded_norm_agrees():
    """N(h) = h¹¹ Q(h) as a product over the 16 choices of complex roots, in floats."""
    h, w = 0.7, (1.3, -0.4, 2.1, 0.9)
    roots = [np.roots([1, 1, -h * v]) for v in w]
    norm = np.prod([p * s - q * r for p, q, r, s in product(*roots)])
    assert norm == pytest.approx(h**11 * np.polyval(theorem1._evaluator()(*w), h), rel=1e-10)


@pytest.mark.parametrize(
    "target",
    [
        member(fractions(1, 2, -3), fractions("1/2", 5, 7), Fraction(2, 3)),
        member(fractions(1, -1, 4), fractions(3, 0, 2), Fraction(-1, 5)),
        member(fractions(1, 2, 3), fractions(1, -1, 2), 0),
        IN_CLOSURE,
        np.zeros((3, 3)),
    ],
    ids=["member", "with a zero column", "LoRA", "limit", "zero"],
)
def test_nothing_is_proved_about_the_closure(target):
    refused = theorem1.certificate(target)
    assert not refused.holds
    assert refused.nonzero == 0
    assert refused.identity
    assert refused.controls
    itself = "E is in S(1) itself" in str(refused)
    assert itself is (refused.rank <= 1)
    assert itself or str(refused).endswith("no resultant tells it from a member")


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ([[1, 2, 3], [4, 5, 7], [5, 7, 11]], "outside the closure of S(1); σ₃ > 0, so E says"),
        (np.eye(3), "about where E lies: no resultant tells it from a member; σ₃ > 0, so E says"),
    ],
)
def test_full_rank_is_no_counterexample(target, said):
    refused = theorem1.certificate(target)
    assert not refused.holds
    assert refused.rank == 3
    assert str(refused).endswith(f"{said} nothing of Theorem 1")


def h_squared(B, A, h):
    return formulas.pera(B, A, h * h)


def cubic(B, A, h):
    return B @ A + (B**3) @ (h[:, None] * A**3)


def sign(B, A, h):
    return formulas.pera(B, A, -h)


@pytest.mark.parametrize("formula", [h_squared, cubic, sign])
def test_a_wrong_formula_is_found_out(formula):
    assert not theorem1.certificate(formula=formula).holds
    assert distance.lower_bound(formula=formula).distance == 0
    assert not theorem1.limit(formula=formula).holds


def test_the_cubic_fails_the_controls_too():
    assert not theorem1.certificate(formula=cubic).controls


# --- common roots ---------------------------------------------------------------------------------


def test_common_roots():
    none = theorem1.common_roots(E)
    assert (none.zero, none.infinity, none.elsewhere) == (0, 0, 0)
    assert str(none).endswith("none")
    assert theorem1.common_roots(IN_CLOSURE) == theorem1.CommonRoots(1, 0, 0)
    own = theorem1.common_roots(member(fractions(1, 2, -3), fractions("1/2", 5, 7), Fraction(2, 3)))
    assert own.elsewhere >= 1
    assert theorem1.common_roots(member(fractions(1, 2, 3), fractions(1, 3, 2), 0)).zero
    assert theorem1.common_roots(np.zeros((3, 3))).elsewhere == 5


# --- lower bound ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def nearest():
    b, a, h = theorem1.NEAREST
    return member(np.array(b), np.array(a), h) - np.array(E)


@pytest.mark.parametrize(
    ("norm", "least", "order"),
    [("frobenius", "0.33024226", None), ("spectral", "0.2", 2), ("max", "0.14", "max")],
)
def test_lower_bound(norm, least, order, nearest):
    bound = distance.lower_bound(norm=norm, digits=len(least) - 2)
    assert bound.distance == Fraction(least)
    assert bound.pieces > 0
    best = abs(nearest).max() if order == "max" else np.linalg.norm(nearest, order)
    assert bound.distance < bound.nearest < best + 1e-4
    if norm == "frobenius":  # enclosed to eight digits
        assert bound.nearest < bound.distance + Fraction(1, 10**8)
        assert "0.33024226, on" in str(bound)
    assert distance.excluded(E, Fraction(best) + Fraction(1, 1000), norm) == 0


def test_no_search_comes_below_the_bound():
    assert searches(E, 12)[0] > 0.3302
    b, a, h = theorem1.NEAREST
    polished = scipy.optimize.minimize(
        lambda p: np.sum((member(p[:3], p[3:6], p[6]) - np.array(E)) ** 2), [*b, *a, h]
    )
    assert np.sqrt(polished.fun) == pytest.approx(0.33024, abs=1e-5)


def test_bounds_at_other_matrices_are_below_what_a_search_finds():
    for draw in range(3):
        target = np.random.default_rng(draw).integers(1, 9, (3, 3))
        bound = distance.lower_bound(target, digits=1)
        assert bound.distance <= min(searches(target, 6)[0], bound.nearest)


MEMBERS = {
    "h < 0": ((1, 2.5, 4), (0.5, 1, 2), -0.05),
    "small roots, h < 1": ((1, 2.5, 4), (0.5, 1, 2), 0.3),
    "small roots, h > 1": ((1, 2.5, 4), (0.5, 1, 2), 7),
    "a row of large roots, h < 1": ((-21, 2, 5), (1, 1.02, 1.05), 0.05),
    "a row of large roots, h > 1": ((-2, 2.5, 4), (1, 0.6, 1.2), 3),
    "rows and a column of large roots": ((-2, 1, -3), (1, -1.5, 1.2), 3),
    "rows of large roots, h < 1": ((-21, 2, -22), (1, 1.02, 1.05), 0.05),
}


@pytest.mark.parametrize("norm", distance.NORMS)
@pytest.mark.parametrize("factors", MEMBERS.values(), ids=MEMBERS)
def test_a_matrix_near_a_member_is_never_excluded(factors, norm):
    b, a, h = factors
    centre = member(np.array(b), np.array(a), h)
    assert (centre > 0.2).all()
    noise = np.random.default_rng(5).normal(size=(3, 3))
    size = {
        "frobenius": np.linalg.norm(noise),
        "spectral": np.linalg.norm(noise, 2),
        "max": abs(noise).max(),
    }[norm]
    assert distance.excluded(centre + 0.01 * noise / size, Fraction(101, 10000), norm) == 0


def test_a_limit_is_never_excluded():
    for radius in (Fraction(1, 100), Fraction(9, 10)):
        assert distance.excluded(IN_CLOSURE, radius) == 0


def test_limits_at_infinite_h_are_never_excluded():
    """√h u fixed and h -> ∞: squares of a rank-one matrix."""
    assert distance.excluded(np.outer([1, 4, 9], [1, 9, 4]), Fraction(1, 100)) == 0


def test_the_small_root_encloses():
    x, y, v = (Interval(*(int(z * ONE) for z in ends)) for ends in ((0.25, 0.5), (0.5, 1), (2, 3)))
    root, slope = distance._small_root(x, y, v), distance._slope(x, y, v) / ONE
    for p, q, s in product(np.linspace(0.25, 0.5, 4), np.linspace(0.5, 1, 4), np.linspace(2, 3, 4)):
        w = (np.sqrt(p * p + 4 * q * s) - p) / (2 * q)
        assert root.lo <= w * ONE <= root.hi
        assert 1 / np.sqrt(p * p + 4 * q * s) <= slope


# --- limit ----------------------------------------------------------------------------------------


def test_the_limit_and_its_expansion():
    found = theorem1.limit()
    assert found.holds
    assert found.attained is False
    assert np.array_equal(np.array(found.target), IN_CLOSURE)
    x, y = np.array([[0], [3], [6]]), np.array([[1, 2, 3]])
    assert np.array_equal(np.array(found.expansion[1]), -((x + y) ** 2 + x * y))
    assert sorted(found.expansion) == [0, 1, 2, 3]
    assert "no minimum" in str(found)


def test_a_limit_of_rank_one_is_attained():
    assert theorem1.limit((1, 1, 1), (0, 1, 2)).attained is True
    assert theorem1.limit((0, 0, 0), (0, 0, 0)).holds


@pytest.mark.parametrize(("eps", "distance"), [(1e-4, 1.5e-2), (1e-6, 1.5e-4)])
def test_the_sequence_converges_and_its_factors_diverge(eps, distance):
    exactly = formulas.pera(*theorem1.limit_sequence((0, 3, 6), (1, 2, 3), Fraction(eps)))
    in_floats = formulas.pera(*theorem1.limit_sequence((0, 3, 6), (1, 2, 3), eps))
    for delta in (exactly, in_floats):
        assert np.linalg.norm((delta - IN_CLOSURE).astype(float)) == pytest.approx(
            distance, rel=0.02
        )
    B, _, h = theorem1.limit_sequence((0, 3, 6), (1, 2, 3), eps)
    assert abs(B).max() > 0.9 / eps
    assert h == -eps


def test_ordinary_searches_stop_short_of_the_infimum():
    assert searches(IN_CLOSURE, 12)[0] == pytest.approx(0.4943, abs=1e-4)


# --- dimensions -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("m", "n", "rank"),
    [(2, 2, 1), (3, 3, 1), (2, 5, 1), (5, 7, 2), (6, 5, 2), (4, 4, 2), (9, 10, 3)],
)
def test_dimensions_are_ranks_of_jacobians(m, n, rank):
    counted = theorem1.dimensions(m, n, rank)
    rng = np.random.default_rng(0)
    count = rank * (rank + 1) // 2
    parameters = rng.normal(size=rank * (m + n) + count)

    def update(p):
        B, A, h = np.split(p, [rank * m, rank * (m + n)])
        return formulas.pera(B.reshape(m, rank), A.reshape(rank, n), h).ravel()

    step = 1e-5 * np.eye(parameters.size)
    jacobian = np.array([(update(parameters + d) - update(parameters - d)) / 2e-5 for d in step])
    assert (
        np.linalg.matrix_rank(jacobian, tol=1e-6 * np.linalg.norm(jacobian, 2)) == counted.members
    )
    K = min(formulas.rank_bound(rank), m, n)
    P, Q = rng.normal(size=(m, K)), rng.normal(size=(K, n))
    tangent = [np.outer(e, row).ravel() for e in np.eye(m) for row in Q] + [
        np.outer(column, e).ravel() for column in P.T for e in np.eye(n)
    ]
    assert np.linalg.matrix_rank(np.array(tangent)) == counted.targets


def test_the_count_is_strict_with_one_exception():
    equal = []
    for rank in (1, 2, 3, 4):
        K = formulas.rank_bound(rank)
        equal += [
            (m, n, rank)
            for m in range(K, K + 9)
            for n in range(K, K + 9)
            if not theorem1.dimensions(m, n, rank).theorem_fails
        ]
    assert equal == [(2, 2, 1)]
    assert "<= 6 < 8" in str(theorem1.dimensions(3, 3, 1))


# --- sandwich -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("m", "n", "inner", "outer"),
    [(7, 5, 1, 2), (5, 11, 2, 5), (3, 3, 0, 0), (13, 11, 3, 9), (1, 1, 1, 2)],
)
def test_sandwich_against_truncated_svd(m, n, inner, outer):
    target = np.random.default_rng(m + n).normal(size=(m, n))
    U, s, V = np.linalg.svd(target, full_matrices=False)
    found = theorem1.sandwich(target, inner, outer)
    for rank, k in ((outer, 0), (inner, 1)):
        rest = target - (U[:, :rank] * s[:rank]) @ V[:rank]
        assert found.spectral[k] == pytest.approx(np.linalg.norm(rest, 2), abs=1e-13)
        assert found.frobenius[k] == pytest.approx(np.linalg.norm(rest), abs=1e-13)


def test_the_sandwich_holds_for_the_counterexample(nearest):
    low, high = theorem1.sandwich(E, 1, 2).frobenius
    assert low < 1e-14 < 0.3302 <= np.linalg.norm(nearest) <= high
    assert "spectral" in str(theorem1.sandwich(E, 1, 2))


# --- messages -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: theorem1.certificate([[1, 2], [3, 4]]),
            r"rows of length \[2, 2\]: the proof is for 3 x 3",
        ),
        (
            lambda: theorem1.certificate([[1, 2, 3], [4, 5, 6], [7, 8, float("nan")]]),
            "no matrix of rational numbers .*finite floats",
        ),
        (lambda: theorem1.certificate(7), "no matrix of rational numbers"),
        (
            lambda: distance.excluded(E, Fraction(1, 10), "nuclear"),
            "norm='nuclear' is unknown: choose from 'frobenius'",
        ),
        (
            lambda: distance.excluded(E, Fraction(2)),
            "distance=2 must lie between 0 and the smallest entry, 1",
        ),
        (lambda: distance.excluded(E, Fraction(0)), "distance=0 must lie"),
        (lambda: distance.excluded(E, "x"), "distance='x' is no number"),
        (lambda: theorem1.certificate(formula="x"), "formula='x' cannot be called"),
        (lambda: distance.lower_bound([[0, 2, 3], [4, 5, 7], [5, 7, 10]]), "positive"),
        (lambda: distance.lower_bound(norm="nuclear"), "norm='nuclear' is unknown"),
        (lambda: distance.lower_bound(digits=11), "digits=11 must be an integer <= 10"),
        (lambda: theorem1.limit_sequence((0, 1), (1, 2), 0), "eps=0: the factors diverge"),
        (lambda: theorem1.limit((0, 1), (1, 2, 3)), "3 x 3"),
        (lambda: theorem1.dimensions(3, 3, 4), "rank=4 is above"),
        (lambda: theorem1.sandwich(E, 2, 1), "outer=1 must be an integer >= 2"),
        (lambda: theorem1.sandwich([1, 2], 1, 2), r"E has shape \(2,\)"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(PerakitError, match=message):
        call()
