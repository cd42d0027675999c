"""The proof on one interval of h: its inequality holds, and it is the one that is claimed."""

import math
from fractions import Fraction
from itertools import product

import numpy as np
import pytest

from perakit.theory import separation
from perakit.theory.intervals import ONE, Interval, Jet, around, constant, point

E = np.array([1.0, 2, 3, 4, 5, 7, 5, 7, 10])


def near(value, width=0.0):
    return Interval(math.floor((value - width) * ONE), math.ceil((value + width) * ONE))


def test_a_jet_encloses_a_function_and_its_derivatives():
    """f = (v² − 3) v + 2/v at 1.5, and on 1.4 ... 1.6."""
    for width in (0, 0.1):
        v = Jet(near(1.5, width), point(ONE), point(0))
        f = (v * v - constant(point(3 * ONE))) * v + v.inverse().times(point(2 * ONE))
        for p in np.linspace(1.5 - width, 1.5 + width, 5):
            values = p**3 - 3 * p + 2 / p, 3 * p * p - 3 - 2 / p**2, 6 * p + 4 / p**3
            for part, value in zip(f, values, strict=True):
                assert part.lo - 9 <= value * ONE <= part.hi + 9
                assert width or part.hi - part.lo < 99


@pytest.mark.parametrize("norm", separation.NORMS)
def test_q_is_below_the_norm(norm):
    found = separation.fit(0.2, 1.0, E, (True, False, True) * 3, norm)
    q, rng = separation._quadratic(found), np.random.default_rng(0)
    for X in (*rng.normal(size=(50, 3, 3)), found.gap.reshape(3, 3)):
        value = sum(
            float(w) * x * x + float(b) * x
            for w, b, x in zip(q.weights, q.linear, X.ravel(), strict=True)
        ) + float(q.constant)
        order = {"frobenius": None, "spectral": 2}.get(norm)
        size = abs(X).max() if norm == "max" else np.linalg.norm(X, order)
        assert value <= float(q.scale) * size**2 * (1 + 1e-9)
    assert value == pytest.approx(found.provable**2 * float(q.scale), rel=1e-6)
    assert found.provable <= found.distance * (1 + 1e-9)


def test_multipliers_cancel_in_every_row_and_column():
    found = separation.fit(0.2, 1.0, E, (True, False, True) * 3, "frobenius")
    lam = np.array(separation._multipliers(found, 0.2, 1.0), dtype=object).reshape(3, 3)
    assert not any(lam.sum(0))
    assert not any(lam.sum(1))
    assert np.any(lam)


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("lam", [-0.3, 0.3])
def test_a_summand_is_below_what_it_stands_for(power, lam):
    """Q(e − E) + 2λ log(v/c) − s · drift at every v and s; equal at v = c, s = 0."""
    x, y, weight, linear, drift, delta, c, target = -0.2, 1.0, 0.7, 0.3, 0.4, 0.05, 1.1, 1.2
    summand = separation._Summand(
        *map(near, (target, x, y, weight, linear)),
        power,
        near(drift),
        near(0, delta),
        near(lam),
        near(c),
    )

    def stands_for(v, s):
        gap = x * v + y * v * v + s * v**power - target
        return weight * gap**2 + linear * gap + 2 * lam * math.log(v / c) - s * drift

    ranges = near(0.9, 0.0), near(1.1, 0.3), near(1.6, 0.4), near(0.5, 0.1)
    for v in ranges:
        ends = v.lo / ONE, v.hi / ONE
        values = [
            stands_for(*at)
            for at in product(np.linspace(*ends, 41), (-delta, -delta / 2, 0, delta / 2, delta))
        ]
        assert summand.least(v) / ONE <= min(values) + 1e-9
        assert summand.jet(v).value.lo / ONE <= min(values) + 1e-9
    # Where f is least at c, as with Lagrange's multipliers, it is met: f(c) for s = 0
    gap = x * c + y * c * c - target
    best = -(weight * gap + linear / 2) * (x + 2 * y * c) * c
    still = summand._replace(moves=point(0), lam=near(best))
    exactly = stands_for(c, 0)  # the logarithm is 0 there
    assert still.least(near(c, 0.2)) / ONE == pytest.approx(exactly, abs=1e-6)


def exact(E):
    return [around(Fraction(v)) for v in E]


def test_the_least_of_a_parabola_is_its_minimum():
    """f = (v − 1.2)² − 0.6 (v/1.1 − 1), least at 1.2 + 0.3/1.1 and not at c."""
    numbers = map(near, (1.2, 1.0, 0.0, 1.0, 0.0))
    summand = separation._Summand(*numbers, 1, point(0), point(0), near(-0.3), near(1.1))
    v = 1.2 + 0.3 / 1.1
    least = (v - 1.2) ** 2 - 0.6 * (v / 1.1 - 1)
    assert summand.least(near(1.3, 0.9)) / ONE == pytest.approx(least, abs=1e-9)


@pytest.mark.parametrize("norm", separation.NORMS)
@pytest.mark.parametrize("moving", ["x", "y"])
@pytest.mark.parametrize("half", [0.01, 0.15])
def test_a_member_within_reach_is_never_separated(norm, moving, half):
    """Even with every range as narrow as its own |u|, at either end of the interval, and when the
    floats are wrong: what a fit promises, the gap that it found.
    """
    scale, middle = (1, (0.2, 1.0)) if moving == "x" else (3, (1.0, 0.5))
    u = scale * np.multiply.outer([-0.8, 1.0, 1.3], [-1.4, 1.2, 1.5]).ravel()
    X = np.random.default_rng(3).normal(size=9)
    sizes = {"frobenius": np.linalg.norm(X), "max": abs(X).max()}
    X *= half / 10 / sizes.get(norm, np.linalg.norm(X.reshape(3, 3), 2))
    for shift in (-half, 0.0, half):
        x, y = (middle[0] + shift, 1.0) if moving == "x" else (1.0, middle[1] + shift)
        target = x * u + y * u * u + X
        interval = [near(v, half) if v < 1 else point(ONE) for v in middle]
        found = separation.fit(*middle, target, u < 0, norm)
        ranges = [near(v, 1e-6) for v in abs(u)]
        reach = math.ceil((half / 10 + 1e-6) * ONE)
        for wrong in ({}, {"provable": 9.0}, {"provable": 9.0, "gap": 0 * found.gap}):
            fitted = found._replace(**wrong)
            assert not separation.separated(*interval, exact(target), u < 0, ranges, fitted, reach)


def test_at_the_nearest_h_the_distance_itself_is_proved():
    large = (True, False, False, False, True, True, False, True, True)
    h = 28.2537540
    found = separation.fit(h**-0.5, 1.0, E, large, "frobenius")
    ranges = [near(v, 0.2) for v in abs(found.u)]
    interval = near(h**-0.5, 1e-6), point(ONE)
    for distance, proved in ((0.33024, True), (0.33025, False)):
        reach = math.ceil(distance * ONE)
        assert separation.separated(*interval, exact(E), large, ranges, found, reach) is proved
