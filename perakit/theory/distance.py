"""How far a matrix is from PERA's updates of rank 1: a lower bound by interval arithmetic.

By branch and bound over h. The third proof that `theorem1.COUNTEREXAMPLE` is out of reach,
independent of the algebra of the others.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import count, product
from typing import Any, NamedTuple

import numpy as np

from perakit.errors import PerakitError
from perakit.formulas import check_count
from perakit.theory.intervals import BITS, ONE, Interval, around
from perakit.theory.separation import NORMS, Fit, fit, separated
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

CHOICES = list(product((False, True), repeat=9))  # of a root for each entry, True: the large one
# What each choice is on a minor
PATTERNS = {minor: [tuple(choice[k] for k in minor) for choice in CHOICES] for minor in MINORS}
FEW = 64


class _Entry(NamedTuple):
    """The roots of an entry, the small one w and the large one −(x + yw)/y as x + yw.

    small, large: at E; near: w and x + yw in the box around E; slope: a bound of dw/dE' there.
    """

    small: Interval
    large: Interval
    near: tuple[Interval, Interval]
    slope: int


@dataclass(frozen=True)
class LowerBound:
    """dist(E, closure of S(1)) >= distance in `norm`, by `pieces` intervals of h; 0 if unproved.

    nearest: the distance of a member that was met on the way, in floats: a bound from above.
    """

    target: Matrix
    norm: str
    distance: Fraction
    pieces: int
    nearest: float = math.inf

    def __str__(self) -> str:
        if not self.distance:
            return (
                f"{self.norm} distance from S(1) to {show(self.target)}: no positive lower bound"
                " was proved"
            )
        return (
            f"{self.norm} distance from S(1) to {show(self.target)} >= {float(self.distance):.12g},"
            f" on {self.pieces} intervals; a member is at {self.nearest:.10g}"
        )


def lower_bound(
    E: Any = COUNTEREXAMPLE,
    norm: str = "frobenius",
    *,
    digits: int = 4,
    formula: Rule | None = None,
) -> LowerBound:
    """The largest distance from a positive 3 x 3 matrix to S(1) that is proved: a few seconds.

    It is below the smallest entry of E, and it may be below the distance: near the least possible
    h, where the two roots of an entry meet, single minors have to do. norm: "frobenius", "spectral"
    or "max" (the largest entry); digits: decimals of the distance, from 1 to 10.

    >>> from perakit.theory import distance
    >>> float(distance.lower_bound(digits=3).distance)
    0.33
    """
    check_count("digits", digits, most=10)
    target, unit = exact_matrix(E), 10**digits
    least = min(map(min, target))
    if least <= 0:
        raise PerakitError(
            f"the smallest entry of E is {least}: the proof is for positive matrices"
        )
    low, high = 0, max(1, math.floor(unit * least)) if satisfies_identity(checked(formula)) else 1
    pieces, nearest, step = {0: 0}, math.inf, 0
    while high - low > 1:
        middle = max((low + high) // 2, high - step if step else 0)
        pieces[middle], met = _search(target, Fraction(middle, unit), norm, 12 + 3 * digits)
        if pieces[middle]:
            low = middle
        elif met is None:  # next time clearly below, or twice as far below
            high, step = middle, max(2 * step, middle // 20)
        else:  # next time a little below what this fit promises
            high, step = min(middle, math.floor(unit * met.provable) + 1), 1
            nearest = min(nearest, met.distance)
    return LowerBound(target, norm, Fraction(low, unit), pieces[low], nearest)


def excluded(E: Any, distance: Fraction, norm: str = "frobenius", depth: int = 20) -> int:
    """Prove that no E' in the closure of S(1) has ‖E' − E‖ <= distance.

    Returns the number of intervals used, 0 without proof. depth: how often an interval is halved.

    By real branch and bound, independent of the resultants. A member is x u + y u∘u with u of rank
    one and (x, y) = (1, h) for h <= 1, (1/√h, 1) for h >= 1, y = 1 and x = 0 being the limit h = ∞.
    So (x, y) runs through two segments. There each entry E' > 0 has a small root w = 2E'/(x + √(x²
    + 4yE')) and a large one −(x + yw)/y. For one of the 2⁹ choices of roots all minors of y u
    vanish, and still do after division by their powers of y; in this form the conditions pass to
    the limit of any sequence, h = 0 and ∞ included. Intervals of (x, y) are halved until each
    choice breaks one of them, or breaks a combination of them all (`perakit.theory.separation`).
    """
    return _search(exact_matrix(E), distance, norm, depth)[0]


def _search(target: Matrix, distance: Fraction, norm: str, depth: int) -> tuple[int, Fit | None]:
    """The intervals of a proof, or 0, then with a fit that promises no more, if one was met."""
    entries = [v for row in target for v in row]
    if norm not in NORMS:
        raise PerakitError(f"norm={norm!r} is unknown: choose from {', '.join(map(repr, NORMS))}")
    try:
        reach = math.ceil(Fraction(distance) * ONE)
    except (TypeError, ValueError, OverflowError) as error:
        raise PerakitError(
            f"distance={distance!r} is no number ({error}): pass a Fraction"
        ) from error
    E0 = [around(v) for v in entries]
    if not 0 < reach < min(v.lo for v in E0):
        least = min(entries)
        raise PerakitError(
            f"distance={distance} must lie between 0 and the smallest entry, {least}: the proof is"
            " for positive matrices"
        )
    one, unit = Interval(ONE, ONE), Interval(0, ONE)
    # h >= −1/(4 max E'), since x² + 4 y E' is a square
    first = -ONE * ONE // (4 * (max(v.lo for v in E0) - reach))
    order, pieces = count(), 0
    # The least promising first, then the deepest: where there is no proof the search ends soon
    todo: list[tuple[float, int, int, Interval, Interval, Sequence[int]]] = [
        (0.0, depth, next(order), x, y, range(len(CHOICES)))
        for x, y in ((one, Interval(first, 0)), (one, unit), (unit, one))
    ]
    while todo:
        _, left, _, x, y, choices = heapq.heappop(todo)
        choices, fits = _not_excluded(x, y, choices, E0, reach, norm)
        for large, found in fits:
            if found.provable * ONE <= reach:
                return 0, _nearest(x, y, large, E0, norm)
        promise = min((found.provable for _, found in fits), default=0.0)
        if not choices:
            pieces += 1
        elif left == 0:
            return 0, None
        else:
            moving = y if x is one else x
            for half in moving.halves():
                a, b = (x, half) if x is one else (half, y)
                heapq.heappush(todo, (promise, left - 1, next(order), a, b, choices))
    return pieces, None


def _nearest(
    x: Interval, y: Interval, large: tuple[bool, ...], E0: list[Interval], norm: str
) -> Fit:
    """The fit that proves least, near the middle of (x, y)."""
    from scipy.optimize import minimize_scalar

    E = np.array([v.lo for v in E0]) / ONE

    def at(t: float) -> Fit:
        return fit(t if x.lo < x.hi else 1.0, t if y.lo < y.hi else 1.0, E, large, norm)

    middle = (x if x.lo < x.hi else y).middle / ONE
    ends = sorted((middle / 2, min(1.0, 2 * middle)))
    found = at(float(minimize_scalar(lambda t: at(t).provable, bounds=ends, method="bounded").x))
    return min(found, at(middle), key=lambda one: one.provable)


def _not_excluded(
    x: Interval, y: Interval, choices: Sequence[int], E0: list[Interval], reach: int, norm: str
) -> tuple[Sequence[int], list[tuple[tuple[bool, ...], Fit]]]:
    """The choices that may have a member within reach, and the fits made to see it."""
    box = [Interval(v.lo - reach, v.hi + reach) for v in E0]
    if any(x.hi**2 + 4 * y.hi * v.lo < 0 for v in box):
        return [], []  # no real root
    entries = [_entry(x, y, v, wide) for v, wide in zip(E0, box, strict=True)]
    for minor, patterns in PATTERNS.items():
        if all(entries[k].slope for k in minor):
            corner = [entries[k] for k in minor]
            possible = {
                large: _may_vanish(x, y, corner, large, reach, norm)
                for large in {patterns[choice] for choice in choices}
            }
            choices = [choice for choice in choices if possible[patterns[choice]]]
    if len(choices) > FEW or y.lo <= 0 <= y.hi:
        return choices, []
    # |u| of the small root is w, of the large one (x + yw)/|y|
    size = Interval(min(abs(y.lo), abs(y.hi)), y.largest).inverse()
    middle = x.middle / ONE, y.middle / ONE, np.array([v.lo for v in E0]) / ONE
    left, fits = [], []
    for choice in choices:
        large = CHOICES[choice]
        found = fit(*middle, large, norm)
        fits.append((large, found))
        ranges = [
            entry.near[1] * size if far else entry.near[0]
            for entry, far in zip(entries, large, strict=True)
        ]
        if not separated(x, y, E0, large, ranges, found, reach):
            left.append(choice)
    return left, fits


def _entry(x: Interval, y: Interval, v: Interval, wide: Interval) -> _Entry:
    small, near = _small_root(x, y, v), _small_root(x, y, wide)
    return _Entry(small, x + y * small, (near, x + y * near), _slope(x, y, wide))


def _small_root(x: Interval, y: Interval, v: Interval) -> Interval:
    """w = 2v/(x + √(x² + 4yv)); a square root beyond the reals counts as 0."""
    # w increases in v > 0 and decreases in x and y
    low, high = (
        math.isqrt(max(0, a * a + 4 * b * c))
        for a, b, c in ((x.hi, y.hi, v.lo), (x.lo, y.lo, v.hi))
    )
    return Interval(2 * v.lo * ONE // (x.hi + low + 1), -(-2 * v.hi * ONE // (x.lo + high)))


def _slope(x: Interval, y: Interval, v: Interval) -> int:
    """An upper bound of dw/dv = 1/√(x² + 4yv), or 0 where there is none."""
    root = math.isqrt(max(0, x.lo * x.lo + 4 * min(y.lo * v.lo, y.lo * v.hi)))
    return -(-ONE * ONE // root) if root else 0


def _may_vanish(
    x: Interval,
    y: Interval,
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
                products[k] = Interval(-products[k].hi, -products[k].lo)
        f = products[0] - products[1]
    gradient = []
    for k in range(4):
        partner = entries[3 - k].near[large[3 - k]].largest
        for _ in range(2 - large[3 - k] - divided):
            partner = -(-partner * y.largest >> BITS)
        gradient.append(-(-partner * entries[k].slope >> BITS))
    squares = sum(g * g for g in gradient)
    # of a 2 x 2 matrix the nuclear norm, dual to the spectral, is at most √2 times the Frobenius
    # norm
    dual_squared = {"frobenius": squares, "spectral": 2 * squares, "max": sum(gradient) ** 2}[norm]
    return (f.smallest * ONE) ** 2 <= reach**2 * dual_squared
