"""Which learning rates tuning tries, and which of them it cannot tell apart.

The best rate changes with the method, the batch and the rank (arXiv 2602.04998), and what one
tuning run prefers by chance can turn a comparison round. So every rate near the best runs on
several tuning seeds. A rate is *possible* where one more tuning seed might have chosen it, and two
arms are compared at every pair of rates that such a seed might have chosen for both.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

BEHIND = 0.02  # bits a byte; a rate this far behind on the first seed is not run on the others
REACH = 4  # times that the grid goes on, by a factor of 2, where the best is its first or last rate
CHANCE = 0.05  # a choice that a new seed makes less often is not possible
DRAWS = 4000

# Rate -> tuning seed -> validation cost in bits a byte, infinite for a run that diverged
Costs = Mapping[float, Mapping[int, float]]
Pair = tuple[float, float]


def wanted(
    costs: Costs, grid: Sequence[float], seeds: Sequence[int], reach: int = REACH
) -> list[tuple[float, int]]:
    """The (rate, seed) that tuning runs next; none when it is done.

    First every rate of the grid on the first seed. Where the best is the first or the last rate,
    the grid goes on beyond it. Then the rates that are not more than BEHIND the best run on the
    other seeds.
    """
    first = seeds[0]
    if missing := [(lr, first) for lr in grid if first not in costs.get(lr, {})]:
        return missing
    tried = {lr: found[first] for lr, found in costs.items() if first in found}
    lowest = min(tried, key=lambda lr: (tried[lr], lr))
    if more := _beyond(lowest, grid, tried, reach):
        return [(more, first)]
    if math.isinf(tried[lowest]):
        return []  # nothing trains: no other seed would say more
    near = [lr for lr, cost in tried.items() if cost <= tried[lowest] + BEHIND]
    todo = [(lr, seed) for lr in sorted(near) for seed in seeds if seed not in costs[lr]]
    if todo:
        return todo
    more = _beyond(best(costs), grid, tried, reach)
    return [(more, first)] if more else []


def _beyond(lr: float, grid: Sequence[float], tried: Mapping[float, float], reach: int) -> float:
    """The next rate beyond an edge of what was tried, 0 where `lr` is no edge or too far out."""
    # Where nothing trains the lowest rate is the best: only lower ones can help
    if lr == min(tried) and lr / 2 > min(grid) * 2.0 ** (-reach - 0.5):
        return lr / 2
    if lr == max(tried) and lr * 2 < max(grid) * 2.0 ** (reach + 0.5):
        return lr * 2
    return 0.0


def complete(costs: Costs) -> list[float]:
    """The rates that ran on as many tuning seeds as any, in rising order."""
    most = max(map(len, costs.values()))
    return sorted(lr for lr, found in costs.items() if len(found) == most)


def best(costs: Costs) -> float:
    """The rate of the lowest mean cost, among those that ran on all tuning seeds."""
    return min(complete(costs), key=lambda lr: (_mean(costs[lr]), lr))


def possible(costs: Costs) -> list[float]:
    """The rates that one more tuning seed might choose, in rising order; the best is among them."""
    return sorted({one for one, _ in pairs(costs, costs)})


def pairs(first: Costs, second: Costs) -> list[Pair]:
    """The pairs of rates that one more tuning seed might choose for two arms at once.

    The costs of a new seed are drawn from Student's predictive distribution: their mean x̄ over the
    T tuning seeds, with deviations Σ_s z_s (x_s - x̄) √((1 + 1/T) / χ²), z_s normal, χ² of T - 1
    degrees of freedom. It is the same seed for both arms, which see the same batches: arms that
    agree at every rate are compared at equal rates. A pair is possible where at least CHANCE of
    the draws choose it. A rate that so many draws choose is in one pair at least, and the two best
    rates are one.
    """
    top = best(first), best(second)
    seeds = sorted(first[top[0]].keys() & second[top[1]].keys())
    tables = [_table(costs, seeds) for costs in (first, second)]
    if len(seeds) < 2 or not all(rates for rates, _ in tables):
        return [top]  # a single seed cannot tell, and where nothing trains there is no choice
    drawn = list(zip(*_choices(tables, len(seeds)), strict=True))
    # Rates that are possible for each arm alone; a pair is of two such
    likely = [
        {lr for lr, count in Counter(side).items() if count >= CHANCE * DRAWS} | {one}
        for side, one in zip(zip(*drawn, strict=True), top, strict=True)
    ]
    chosen = Counter({top: 1}) + Counter(
        pair for pair in drawn if pair[0] in likely[0] and pair[1] in likely[1]
    )
    found = {top, *(pair for pair, count in chosen.items() if count >= CHANCE * DRAWS)}
    for side in (0, 1):
        for lr in likely[side] - {pair[side] for pair in found}:
            mine = [pair for pair in chosen if pair[side] == lr]
            alone = (lr, top[1]) if side == 0 else (top[0], lr)
            found.add(max(mine, key=lambda pair: (chosen[pair], pair), default=alone))
    return sorted(found)


def _table(costs: Costs, seeds: Sequence[int]) -> tuple[list[float], np.ndarray]:
    """Rates that never diverged, and their costs (seeds, rates)."""
    rates = [
        lr
        for lr in complete(costs)
        if all(math.isfinite(costs[lr].get(seed, math.inf)) for seed in seeds)
    ]
    return rates, np.array([[costs[lr][seed] for lr in rates] for seed in seeds])


def _choices(tables: Sequence[tuple[list[float], np.ndarray]], seeds: int) -> list[list[float]]:
    """What DRAWS new tuning seeds would choose, for each table."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=(DRAWS, seeds))
    spread = np.sqrt((1 + 1 / seeds) / rng.chisquare(seeds - 1, size=DRAWS))
    found = []
    for rates, x in tables:
        new = x.mean(0) + spread[:, None] * (z @ (x - x.mean(0)))
        found.append([rates[k] for k in new.argmin(1)])
    return found


def _mean(costs: Mapping[int, float]) -> float:
    return math.fsum(costs.values()) / len(costs)
