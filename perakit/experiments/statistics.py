"""Intervals for a handful of seeds: the bootstrap's, which is shown, and Student's.

A verdict asks both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from perakit.errors import PerakitError, short

RESAMPLES = 10_000


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % bootstrap interval, `low` to `high`, and half the width of Student's.

    The percentile bootstrap of five values is too narrow: tests/experiments/test_statistics.py
    measures how often it covers. So nothing is decided that one of the two intervals leaves open.
    """

    mean: float
    low: float
    high: float
    seeds: int
    half: float

    @property
    def least(self) -> float:
        """The lower end of the two intervals together."""
        return min(self.low, self.mean - self.half)

    @property
    def most(self) -> float:
        """Their upper end."""
        return max(self.high, self.mean + self.half)

    @property
    def clear(self) -> int:
        """The side of zero on which both intervals lie: -1, 1, or 0 for neither."""
        return (self.least > 0) - (self.most < 0)

    def __str__(self) -> str:
        return self.shown(".4f")

    @property
    def signed(self) -> str:
        """As a difference."""
        return self.shown("+.5f")

    def shown(self, spec: str, unit: str = "") -> str:
        """Mean and ends in the format `spec`, as ".1%", and their unit."""
        if not np.isfinite(self.mean):
            return "diverged on a seed"
        return f"{self.mean:{spec}} [{self.low:{spec}}, {self.high:{spec}}]{unit}"


def interval(values: Sequence[float]) -> Interval:
    """Mean x̄ of one value a seed, and its bootstrap and Student intervals.

    The bootstrap's is the 2.5 and 97.5 percentiles of the means of N values drawn from them with
    replacement.

    values: (N,), N >= 2, finite.
    Raises PerakitError for a single value: no result goes without its interval.
    Source: Efron and Tibshirani, 1993, chapter 13.
    """
    from scipy.stats import t

    x = np.asarray(values, dtype=float)
    if x.ndim != 1 or len(x) < 2 or not np.isfinite(x).all():
        raise PerakitError(
            f"{short(list(values))} has no interval: it takes two finite values at least, one a"
            " seed"
        )
    # The same draws for the same N, so that one set of numbers has one interval
    draws = np.random.default_rng(0).integers(len(x), size=(RESAMPLES, len(x)))
    low, high = np.percentile(x[draws].mean(1), [2.5, 97.5])
    half = t.ppf(0.975, len(x) - 1) * x.std(ddof=1) / np.sqrt(len(x))
    return Interval(float(x.mean()), float(low), float(high), len(x), float(half))


def averaged(values: Sequence[float]) -> Interval:
    """`interval` of costs, infinite where a run diverged: then their mean is infinite as well."""
    if np.isinf(values).any():
        return Interval(np.inf, np.inf, np.inf, len(values), 0.0)
    return interval(values)


def unknown(seeds: int) -> Interval:
    """The whole line, for a ratio of which a seed diverged."""
    return Interval(np.nan, -np.inf, np.inf, seeds, 0.0)


def paired(first: Sequence[float], second: Sequence[float]) -> Interval:
    """The interval of first - second, seed by seed: both ran on the same batches.

    Infinite values are costs of runs that diverged. Where all of one side did and none of the
    other, the difference is clear, and infinite. Otherwise the interval is the whole line.
    """
    if len(first) != len(second):
        raise PerakitError(
            f"{len(first)} values against {len(second)}: a pair for every seed is needed"
        )
    gone = [int(np.isinf(values).sum()) for values in (first, second)]
    if any(gone):
        # A run that diverged is worse than any that did not, by no number
        mean = np.sign(gone[0] - gone[1]) * np.inf if gone[0] != gone[1] else np.nan
        clear = sorted(gone) == [0, len(first)]
        low, high = (mean, mean) if clear else (-np.inf, np.inf)
        return Interval(float(mean), float(low), float(high), len(first), 0.0)
    return interval(np.subtract(first, second).tolist())
