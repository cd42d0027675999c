"""Which rates tuning tries, which it leaves open, and that no verdict hangs on one of them."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perakit.experiments.rates import BEHIND, REACH, best, complete, pairs, possible, wanted

GRID = (0.1, 0.2, 0.4)
SEEDS = (7, 8, 9)


def tuned(cost, reach=REACH, grid=GRID, seeds=SEEDS):
    """Costs after all that `wanted` asks for; cost: (rate, seed) -> cost."""
    costs, asked = {}, []
    while todo := wanted(costs, grid, seeds, reach):
        assert len(asked) < 100
        for lr, seed in todo:
            assert (lr, seed) not in asked
            asked.append((lr, seed))
            costs.setdefault(lr, {})[seed] = cost(lr, seed)
    return costs, asked


def bowl(centre, scatter=0.0):
    """A U over log2 of the rate; seeds move its bottom."""
    return lambda lr, seed: 2 + 0.02 * (math.log2(lr / centre) - scatter * (seed - 8)) ** 2


def test_first_the_grid_on_one_seed_then_what_is_near_on_the_others():
    _, asked = tuned(bowl(0.2))
    assert asked[:3] == [(lr, 7) for lr in GRID]
    assert set(asked[3:]) == {(lr, seed) for lr in GRID for seed in (8, 9)}


def test_a_rate_far_behind_runs_on_the_first_seed_only():
    costs, _ = tuned(lambda lr, seed: {0.1: 2.0 + BEHIND + 1e-6, 0.2: 2.0, 0.4: 2.0 + BEHIND}[lr])
    assert {lr: len(found) for lr, found in costs.items()} == {0.1: 1, 0.2: 3, 0.4: 3}
    assert complete(costs) == [0.2, 0.4]


@pytest.mark.parametrize(("centre", "expected"), [(0.05, 0.05), (0.8, 0.8), (1.6, 1.6)])
def test_a_grid_whose_best_is_an_edge_goes_on_by_factors_of_two(centre, expected):
    costs, _ = tuned(bowl(centre))
    assert best(costs) == pytest.approx(expected)
    assert min(costs) < best(costs) < max(costs)


def test_it_goes_on_so_far_and_no_farther():
    for sign in (1, -1):
        costs, _ = tuned(lambda lr, seed, sign=sign: 2 + sign * math.log2(lr))
        assert len(costs) == len(GRID) + REACH
    assert len(tuned(lambda lr, seed: 2 - math.log2(lr), reach=0)[0]) == len(GRID)


def test_an_edge_that_only_the_mean_of_the_seeds_prefers_is_followed_too():
    costs, _ = tuned(bowl(0.28, scatter=1.2))
    assert best(costs) < max(costs)


def test_rates_that_diverge_are_results_and_only_lower_ones_are_tried():
    costs, _ = tuned(lambda lr, seed: math.inf if lr > 0.06 else 2.0)
    assert best(costs) < 0.06
    assert math.isinf(costs[0.1][7])
    nothing, asked = tuned(lambda lr, seed: math.inf)
    assert len(asked) == len(GRID) + REACH
    assert possible(nothing) == [min(nothing)]


def test_a_rate_is_possible_where_the_seeds_disagree_and_not_where_they_agree():
    agree = {0.1: {1: 2.01, 2: 2.011, 3: 2.012}, 0.2: {1: 2.0, 2: 2.001, 3: 2.002}}
    assert possible(agree) == [0.2]
    differ = {0.1: {1: 2.004, 2: 1.999, 3: 2.003}, 0.2: {1: 2.0, 2: 2.001, 3: 2.002}}
    assert possible(differ) == [0.1, 0.2]


def test_one_seed_cannot_tell_and_names_one_rate():
    assert possible({0.1: {1: 2.0}, 0.2: {1: 2.0001}}) == [0.1]


def test_arms_that_agree_are_compared_at_equal_rates():
    costs = {0.1: {1: 2.004, 2: 1.999, 3: 2.003}, 0.2: {1: 2.0, 2: 2.001, 3: 2.002}}
    other = {lr: {seed: x + 1e-5 for seed, x in one.items()} for lr, one in costs.items()}
    assert pairs(costs, other) == [(0.1, 0.1), (0.2, 0.2)]


def test_arms_that_the_seeds_move_apart_are_compared_at_unequal_rates():
    one = {0.1: {1: 2.004, 2: 1.999, 3: 2.003}, 0.2: {1: 2.0, 2: 2.001, 3: 2.002}}
    two = {0.1: one[0.2], 0.2: one[0.1]}
    assert {(0.1, 0.2), (0.2, 0.1)} <= set(pairs(one, two))


def costs(draw_rates, rng, scatter):
    level = 2 + 0.02 * rng.normal(size=len(draw_rates))
    return {
        lr: {seed: float(x + scatter * rng.normal()) for seed in SEEDS}
        for lr, x in zip(draw_rates, level, strict=True)
    }


@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.003, 0.03]))
def test_every_possible_rate_is_in_a_pair_and_the_best_are_one(seed, scatter):
    rng = np.random.default_rng(seed)
    a, b = (costs(GRID, rng, scatter) for _ in range(2))
    found = pairs(a, b)
    assert (best(a), best(b)) in found
    assert {one for one, _ in found} == set(possible(a))
    assert {one for _, one in found} == set(possible(b))
    assert sorted((y, x) for x, y in found) == pairs(b, a)
    assert pairs(a, a) == [(lr, lr) for lr in possible(a)]


def test_the_possible_rates_hold_what_another_seed_chooses():
    """Of new seeds at most a few choose a rate that was not called possible."""
    rng, missed = np.random.default_rng(0), 0
    for _ in range(200):
        level = 2 + 0.006 * rng.normal(size=3)
        draw = lambda level=level: level + 0.004 * rng.normal(size=3)  # noqa: E731
        found = dict(zip(GRID, zip(*(draw() for _ in SEEDS), strict=True), strict=True))
        told = {lr: dict(zip(SEEDS, map(float, xs), strict=True)) for lr, xs in found.items()}
        missed += GRID[int(draw().argmin())] not in possible(told)
    assert missed <= 20
