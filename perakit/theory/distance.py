"""How far a matrix is from PERA's updates of rank 1: a lower bound by interval arithmetic.

By branch and bound. The third proof that `theorem1.COUNTEREXAMPLE` is out of reach, independent
of the algebra of the others.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from itertools import product
from typing import Any, NamedTuple

from perakit.errors import PerakitError
from perakit.theory.theorem1 import (
    COUNTEREXAMPLE,
    MINORS,
    Matrix,
    Rule,
    checked,
    exact_matrix,
    satisfies_identity,
    show,
)

BITS = 40  # numbers below are integers in units of 2^-BITS, every operation rounded outward
ONE = 1 << BITS
CHOICES = list(product((False, True), repeat=9))  # of a root for each entry, True: the large one
# What each choice is on a minor
PATTERNS = {minor: [tuple(choice[k] for k in minor) for choice in CHOICES] for minor in MINORS}
NORMS = ("frobenius", "spectral", "max")


@dataclass(slots=True)  # not frozen: many thousands are made
class _Interval:
    lo: int
    hi: int

    def __add__(self, other: _Interval) -> _Interval:
        return _Interval(self.lo + other.lo, self.hi + other.hi)

    def __sub__(self, other: _Interval) -> _Interval:
        return _Interval(self.lo - other.hi, self.hi - other.lo)

    def __mul__(self, other: _Interval) -> _Interval:
        ends = (self.lo * other.lo, self.lo * other.hi, self.hi * other.lo, self.hi * other.hi)
        return _Interval(min(ends) >> BITS, -(-max(ends) >> BITS))

    @property
    def largest(self) -> int:
        return max(abs(self.lo), abs(self.hi))

    @property
    def smallest(self) -> int:
        return max(self.lo, -self.hi, 0)

    def halves(self) -> tuple[_Interval, _Interval]:
        middle = (self.lo + self.hi) // 2
        return _Interval(self.lo, middle), _Interval(middle, self.hi)


class _Entry(NamedTuple):
    """The roots of an entry, the small one w and the large one −(x + yw)/y as x + yw.

    small, large: at E; largest: of |w| and of |x + yw| in the box around E; slope: a bound of
    dw/dE' there.
    """

    small: _Interval
    large: _Interval
    largest: tuple[int, int]
    slope: int


@dataclass(frozen=True)
class LowerBound:
    """dist(E, closure of S(1)) >= distance in `norm`, by `pieces` intervals of h; 0 if unproved."""

    target: Matrix
    norm: str
    distance: Fraction
    pieces: int

    def __str__(self) -> str:
        if not self.distance:
            return (
                f"{self.norm} distance from S(1) to {show(self.target)}: no positive lower bound"
                " was proved"
            )
        return (
            f"{self.norm} distance from S(1) to {show(self.target)} >= {float(self.distance):.2f},"
            f" on {self.pieces} intervals"
        )


def lower_bound(
    E: Any = COUNTEREXAMPLE, norm: str = "frobenius", *, formula: Rule | None = None
) -> LowerBound:
    """The largest distance from a positive 3 x 3 matrix to S(1) that is proved: a few seconds.

    In hundredths, as `excluded` proves them.
    norm: "frobenius", "spectral" or "max" (the largest entry).
    """
    target, pieces = exact_matrix(E), {0: 0}
    least = min(map(min, target))
    if least <= 0:
        raise PerakitError(
            f"the smallest entry of E is {least}: the proof is for positive matrices"
        )
    low, high = 0, math.ceil(100 * least) if satisfies_identity(checked(formula)) else 1
    while high - low > 1:
        middle = (low + high) // 2
        pieces[middle] = excluded(target, Fraction(middle, 100), norm)
        low, high = (middle, high) if pieces[middle] else (low, middle)
    return LowerBound(target, norm, Fraction(low, 100), pieces[low])


def excluded(E: Any, distance: Fraction, norm: str = "frobenius", depth: int = 12) -> int:
    """Prove that no E' in the closure of S(1) has ‖E' − E‖ <= distance.

    Returns the number of intervals used, 0 without proof.

    By real branch and bound, independent of the resultants. A member is x u + y u∘u with u of rank
    one and (x, y) = (1, h) for h <= 1, (1/√h, 1) for h >= 1, y = 1 and x = 0 being the limit h = ∞.
    So (x, y) runs through two segments. There each entry E' > 0 has a small root w = 2E'/(x + √(x²
    + 4yE')) and a large one −(x + yw)/y. For one of the 2⁹ choices of roots all minors of y u
    vanish, and still do after division by their powers of y; in this form the conditions pass to
    the limit of any sequence, h = 0 and ∞ included. Intervals of (x, y) are halved until each
    choice breaks one of them.
    """
    target = exact_matrix(E)
    entries = [v for row in target for v in row]
    if norm not in NORMS:
        raise PerakitError(f"norm={norm!r} is unknown: choose from {', '.join(map(repr, NORMS))}")
    try:
        reach = math.ceil(Fraction(distance) * ONE)
    except (TypeError, ValueError, OverflowError) as error:
        raise PerakitError(
            f"distance={distance!r} is no number ({error}): pass a Fraction"
        ) from error
    E0 = [_Interval(math.floor(v * ONE), math.ceil(v * ONE)) for v in entries]
    if not 0 < reach < min(v.lo for v in E0):
        least = min(entries)
        raise PerakitError(
            f"distance={distance} must lie between 0 and the smallest entry, {least}: the proof is"
            " for positive matrices"
        )
    one, unit = _Interval(ONE, ONE), _Interval(0, ONE)
    # h >= −1/(4 max E'), since x² + 4 y E' is a square
    first = -ONE * ONE // (4 * (max(v.lo for v in E0) - reach))
    todo = [(one, _Interval(first, 0), depth), (one, unit, depth), (unit, one, depth)]
    pieces = 0
    while todo:
        x, y, left = todo.pop()
        if _no_member(x, y, E0, reach, norm):
            pieces += 1
        elif left == 0:
            return 0
        elif x is one:
            todo += [(x, half, left - 1) for half in y.halves()]
        else:
            todo += [(half, y, left - 1) for half in x.halves()]
    return pieces


def _no_member(x: _Interval, y: _Interval, E0: list[_Interval], reach: int, norm: str) -> bool:
    box = [_Interval(v.lo - reach, v.hi + reach) for v in E0]
    if any(x.hi**2 + 4 * y.hi * v.lo < 0 for v in box):
        return True  # no real root
    entries = [_entry(x, y, v, wide) for v, wide in zip(E0, box, strict=True)]
    left: Iterable[int] = range(len(CHOICES))
    for minor, patterns in PATTERNS.items():
        if all(entries[k].slope for k in minor):
            near = [entries[k] for k in minor]
            possible = {
                large: _may_vanish(x, y, near, large, reach, norm)
                for large in {patterns[choice] for choice in left}
            }
            left = [choice for choice in left if possible[patterns[choice]]]
    return not left


def _entry(x: _Interval, y: _Interval, v: _Interval, wide: _Interval) -> _Entry:
    small, around = _small_root(x, y, v), _small_root(x, y, wide)
    return _Entry(
        small, x + y * small, (around.largest, (x + y * around).largest), _slope(x, y, wide)
    )


def _small_root(x: _Interval, y: _Interval, v: _Interval) -> _Interval:
    """w = 2v/(x + √(x² + 4yv)); a square root beyond the reals counts as 0."""
    # w increases in v > 0 and decreases in x and y
    low, high = (
        math.isqrt(max(0, a * a + 4 * b * c))
        for a, b, c in ((x.hi, y.hi, v.lo), (x.lo, y.lo, v.hi))
    )
    return _Interval(2 * v.lo * ONE // (x.hi + low + 1), -(-2 * v.hi * ONE // (x.lo + high)))


def _slope(x: _Interval, y: _Interval, v: _Interval) -> int:
    """An upper bound of dw/dv = 1/√(x² + 4yv), or 0 where there is none."""
    root = math.isqrt(max(0, x.lo * x.lo + 4 * min(y.lo * v.lo, y.lo * v.hi)))
    return -(-ONE * ONE // root) if root else 0


def _may_vanish(
    x: _Interval,
    y: _Interval,
    entries: list[_Entry],
    large: tuple[bool, ...],
    reach: int,
    norm: str,
) -> bool:
    """Can the minor f, of the roots that `large` chooses, be zero within reach?

    By the mean value theorem not if |f(E)| > reach · dual norm of ∇f, with f at the centre and ∇f
    anywhere in the box.
    """
    roots = [entry.large if far else entry.small for entry, far in zip(entries, large, strict=True)]
    # Of y, in the two products of the minor
    powers = [2 - large[0] - large[3], 2 - large[1] - large[2]]
    divided = 1 if all(large) else min(powers)
    if all(large):  # (x + yw)(x + yw') − ...: x² cancels, and one y more
        a, b, c, d = (entry.small for entry in entries)
        f = x * (a + d - b - c) + y * (a * d - b * c)
    else:
        products = [roots[0] * roots[3], roots[1] * roots[2]]
        for k, power in enumerate(powers):
            for _ in range(power - divided):
                products[k] = products[k] * y
            if power == 1:  # one small, positive, and one large, negative
                products[k] = _Interval(-products[k].hi, -products[k].lo)
        f = products[0] - products[1]
    gradient = []
    for k in range(4):
        partner = entries[3 - k].largest[large[3 - k]]
        for _ in range(2 - large[3 - k] - divided):
            partner = -(-partner * y.largest >> BITS)
        gradient.append(-(-partner * entries[k].slope >> BITS))
    squares = sum(g * g for g in gradient)
    # of a 2 x 2 matrix the nuclear norm, dual to the spectral, is at most √2 times the Frobenius
    # norm
    dual_squared = {"frobenius": squares, "spectral": 2 * squares, "max": sum(gradient) ** 2}[norm]
    return (f.smallest * ONE) ** 2 <= reach**2 * dual_squared
