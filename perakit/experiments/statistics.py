"""Intervals for a handful of seeds: the bootstrap's, and Student's beside it where something is decided."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from perakit.errors import PerakitError, short

RESAMPLES = 10_000


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % bootstrap interval; `clear` says on which side of zero it lies by Student's t as well: -1, 0 or 1.

    The percentile bootstrap of five values is too narrow (tests/experiments/test_statistics.py measures how often it
    covers); hence the second opinion before anything is called a difference.
    """

    mean: float
    low: float
    high: float
    seeds: int
    clear: int

    def __str__(self) -> str:
        return f"{self.mean:.4f} [{self.low:.4f}, {self.high:.4f}]"

    @property
    def signed(self) -> str:
        """As a difference."""
        return f"{self.mean:+.5f} [{self.low:+.5f}, {self.high:+.5f}]"


def interval(values: Sequence[float]) -> Interval:
    """Mean x̄ of one value a seed, and the 2.5 and 97.5 percentiles of the means of N values drawn from them with replacement.

    values: (N,), N >= 2, finite. The draws are the same for the same N, so that one set of numbers has one interval.
    Raises PerakitError for a single value: no result goes without its interval. Source: Efron and Tibshirani, 1993, chapter 13.
    """
    from scipy.stats import t

    x = np.asarray(values, dtype=float)
    if x.ndim != 1 or len(x) < 2 or not np.isfinite(x).all():
        raise PerakitError(f"{short(list(values))} has no interval: it takes two finite values at least, one a seed")
    draws = np.random.default_rng(0).integers(len(x), size=(RESAMPLES, len(x)))
    low, high = np.percentile(x[draws].mean(1), [2.5, 97.5])
    half = t.ppf(0.975, len(x) - 1) * x.std(ddof=1) / np.sqrt(len(x))
    sure = min(abs(x.mean()) - half, low if x.mean() > 0 else -high) > 0
    return Interval(float(x.mean()), float(low), float(high), len(x), int(np.sign(x.mean())) if sure else 0)


def paired(first: Sequence[float], second: Sequence[float]) -> Interval:
    """The interval of first - second, seed by seed: both ran on the same batches."""
    if len(first) != len(second):
        raise PerakitError(f"{len(first)} values against {len(second)}: a pair for every seed is needed")
    return interval(np.subtract(first, second).tolist())
