"""Intervals of real numbers in integer arithmetic: what they enclose is certain, not rounded."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

BITS = 40  # numbers are integers in units of 2^-BITS, every operation rounded outward
ONE = 1 << BITS


@dataclass(slots=True)  # not frozen: many thousands are made
class Interval:
    """All reals between lo and hi, both in units of 2^-BITS."""

    lo: int
    hi: int

    def __add__(self, other: Interval) -> Interval:
        return Interval(self.lo + other.lo, self.hi + other.hi)

    def __sub__(self, other: Interval) -> Interval:
        return Interval(self.lo - other.hi, self.hi - other.lo)

    def __mul__(self, other: Interval) -> Interval:
        ends = (self.lo * other.lo, self.lo * other.hi, self.hi * other.lo, self.hi * other.hi)
        return Interval(min(ends) >> BITS, -(-max(ends) >> BITS))

    def inverse(self) -> Interval:
        """1/x of positive numbers."""
        return Interval(ONE * ONE // self.hi, -(-ONE * ONE // self.lo))

    @property
    def largest(self) -> int:
        """The largest absolute value."""
        return max(abs(self.lo), abs(self.hi))

    @property
    def smallest(self) -> int:
        """The smallest absolute value."""
        return max(self.lo, -self.hi, 0)

    @property
    def middle(self) -> int:
        """A number in the middle, rounded."""
        return (self.lo + self.hi) // 2

    def halves(self) -> tuple[Interval, Interval]:
        """Left and right of the middle."""
        return Interval(self.lo, self.middle), Interval(self.middle, self.hi)


def point(number: int) -> Interval:
    """A number in units of 2^-BITS, alone."""
    return Interval(number, number)


def around(number: Fraction) -> Interval:
    """The narrowest interval with the number in it."""
    return Interval(math.floor(number * ONE), math.ceil(number * ONE))


class Jet(NamedTuple):
    """A function of one variable on an interval: its values, slopes and second derivatives."""

    value: Interval
    slope: Interval
    bend: Interval

    def __add__(self, other: Jet) -> Jet:  # type: ignore[override]
        return Jet(*(a + b for a, b in zip(self, other, strict=True)))

    def __sub__(self, other: Jet) -> Jet:
        return Jet(*(a - b for a, b in zip(self, other, strict=True)))

    def __mul__(self, other: Jet) -> Jet:  # type: ignore[override]
        cross = self.slope * other.slope
        return Jet(
            self.value * other.value,
            self.slope * other.value + self.value * other.slope,
            self.bend * other.value + cross + cross + self.value * other.bend,
        )

    def times(self, number: Interval) -> Jet:
        """Multiplied by a constant."""
        return Jet(*(part * number for part in self))

    def inverse(self) -> Jet:
        """1/f of a positive function with f″ = 0."""
        inverse = self.value.inverse()
        slope = inverse * inverse * self.slope
        bend = slope * inverse * self.slope
        return Jet(inverse, Interval(-slope.hi, -slope.lo), bend + bend)


def constant(number: Interval) -> Jet:
    """A function that does not change."""
    return Jet(number, point(0), point(0))
