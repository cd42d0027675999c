"""Intervals: against a loop, against the distribution they speak of, and what they refuse."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from perakit.errors import PerakitError
from perakit.experiments.statistics import interval, paired

values = st.lists(st.floats(-100, 100, allow_subnormal=False), min_size=2, max_size=6)


@given(values)
def test_the_interval_holds_the_mean_and_stays_within_the_values(x):
    found = interval(x)
    assert min(x) - 1e-9 <= found.low <= found.mean + 1e-9
    assert found.mean - 1e-9 <= found.high <= max(x) + 1e-9
    assert found.mean == pytest.approx(sum(x) / len(x), abs=1e-9)
    assert found.seeds == len(x)


def test_it_is_that_of_all_resamples():
    x = [0.1, 0.4, 0.2, 0.9]
    # Each as likely as any other
    means = sorted(sum(draw) / 4 for draw in itertools.product(x, repeat=4))
    found = interval(x)
    assert found.low == pytest.approx(np.percentile(means, 2.5), abs=0.03)
    assert found.high == pytest.approx(np.percentile(means, 97.5), abs=0.03)


@given(values)
def test_the_second_opinion_is_students(x):
    found = interval(x)
    if np.std(x) > 1e-6:
        low, high = stats.t.interval(0.95, len(x) - 1, np.mean(x), stats.sem(x))
        assert (found.mean - found.half, found.mean + found.half) == pytest.approx(
            (low, high), abs=1e-6
        )
    assert found.least <= found.low <= found.high <= found.most
    assert found.clear == (1 if found.least > 0 else -1 if found.most < 0 else 0)


def test_five_values_cover_less_than_they_say_and_a_clear_difference_is_rarely_false():
    rng = np.random.default_rng(0)
    found = [interval(rng.normal(size=5).tolist()) for _ in range(400)]
    covered = np.mean([one.low <= 0 <= one.high for one in found])
    assert 0.75 < covered < 0.9  # of 0.95: hence the second opinion
    assert np.mean([one.clear != 0 for one in found]) < 0.08  # of 0.05


@given(values, st.floats(-5, 5))
def test_paired_differences_do_not_see_what_both_share(x, shift):
    other = [value + shift for value in x]
    found = paired(other, x)
    assert found.mean == pytest.approx(shift, abs=1e-9)
    assert found.high - found.low == pytest.approx(0, abs=1e-9)


def test_the_sign_is_clear_only_where_both_intervals_say_so():
    assert interval([1.0, 1.1, 0.9]).clear == 1
    assert interval([-1.0, -1.1, -0.9]).clear == -1
    assert interval([1.0, -1.0, 0.5]).clear == 0
    narrow = interval([0.2, 1.0])  # the bootstrap is sure, Student's t with two values is not
    assert narrow.low > 0
    assert narrow.clear == 0


@pytest.mark.parametrize("wrong", [[], [1.0], [1.0, float("nan")], [1.0, float("inf")]])
def test_a_single_value_has_no_interval(wrong):
    with pytest.raises(
        PerakitError, match="has no interval: it takes two finite values at least, one a seed"
    ):
        interval(wrong)


def test_pairs_are_pairs():
    with pytest.raises(PerakitError, match="2 values against 3: a pair for every seed is needed"):
        paired([1.0, 2.0], [1.0, 2.0, 3.0])


def test_it_prints_with_its_interval():
    found = interval([1.0, 1.0])
    assert str(found) == "1.0000 [1.0000, 1.0000]"
    assert found.signed == "+1.00000 [+1.00000, +1.00000]"
