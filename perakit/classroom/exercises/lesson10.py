"""Notebook 10: fine-tuning GPT-2. Two exercises read stored results, docs/results/NAME.jsonl."""

from __future__ import annotations

from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

import perakit
from perakit import theory
from perakit.classroom.checks import expect, fail
from perakit.classroom.exercises.answers import array, number, whole
from perakit.errors import PerakitError
from perakit.experiments.jobs import read
from perakit.experiments.results import Results

__all__ = ["CHECKS", "possible_rates", "stored", "tuned"]

PARAMETERS = ("B", "A", "h")


@cache
def stored(name: str) -> Results:
    """The stored results of an experiment; they come with perakit's repository.

    name: of the experiment, such as "rank". They are looked for beside the package, then in the
    working folder and those above it. Raises PerakitError where they are not there.

    >>> from perakit.classroom.exercises.lesson10 import stored
    >>> stored("rank").labels()[:2]
    ['LoRA r=1', 'PERA r=1']
    """
    here = Path.cwd()
    for folder in (Path(perakit.__file__).parents[1], here, *here.parents):
        path = folder / "docs" / "results" / f"{name}.jsonl"
        if path.is_file():
            return Results(*read(path))
    raise PerakitError(
        f"docs/results/{name}.jsonl is not here: it comes with perakit's repository, so start the"
        " notebook somewhere inside of it"
    )


def tuned(name: str) -> dict[str, dict[float, float]]:
    """What one tuning seed found: arm -> learning rate -> validation cost, in bits per byte.

    name: of an experiment, as in `stored`. The seed is the first of its tuning seeds, on which
    every rate was tried: this is what a study with a single one sees. Infinite where the run
    diverged. Learning rates ascend.

    >>> from perakit.classroom.exercises.lesson10 import tuned
    >>> list(tuned("rank")["LoRA r=8"])
    [0.003, 0.006, 0.012, 0.024, 0.048]
    """
    return {
        label: {rate: by_rate[rate][min(by_rate[rate])] for rate in sorted(by_rate)}
        for label, by_rate in stored(name).tuning.items()
    }


def possible_rates(name: str, label: str) -> list[float]:
    """The learning rates of an arm that its tuning cannot tell from the best.

    name: of an experiment, as in `stored`; label: of an arm. Their cost is at most one standard
    deviation above the lowest: that of the validation costs of the arm's judged seeds, at the rate
    of the lowest. This is the rule of exercise 4; the pages of docs/results ask three tuning seeds.

    >>> from perakit.classroom.exercises.lesson10 import possible_rates
    >>> 0.048 in possible_rates("forgetting", "LoRA")
    False
    """
    costs = tuned(name)[label]
    best = min(costs, key=costs.__getitem__)
    scatter = np.std(stored(name).scores(label, "validation", lr=best), ddof=1)
    return [rate for rate, cost in costs.items() if cost <= min(costs.values()) + scatter]


def first_step(answer: Any) -> None:
    """The parameters whose gradient is zero before the first step."""
    if isinstance(answer, str) or not isinstance(answer, set | frozenset | list | tuple):
        fail('The answer is to be a set of letters out of "B", "A", "h".')
    expect(set(answer) <= set(PARAMETERS), 'Only the letters "B", "A" and "h" may stand in it.')
    m, n, rank = 5, 7, 2
    rng = np.random.default_rng(0)
    gradients = theory.pera_gradients(
        rng.normal(size=(m, n)), np.zeros((m, rank)), rng.normal(size=(rank, n)), np.zeros(3)
    )
    zero = {name for name in PARAMETERS if not gradients[name].any()}
    expect(not set(answer) - zero, "One of these has a gradient that is not zero.")
    expect(set(answer) == zero, "One is missing whose gradient is zero.")


def forecast(answer: Any) -> None:
    """The upper end of the band that is forecast for the large model."""
    value, band = number(answer), theory.predicted_share(n=4096, rank=16, lr=1e-4, steps=1000)
    expect(0 < value < 1, "The share of this forecast is a number between 0 and 1, no percentage.")
    expect(abs(value / band.high - 1) < 0.05, "That is not the upper end of the band.")


def rates_that_turn_it_round(answer: Any) -> None:
    """The rates of the grid at which rank 1 ends below rank 32."""
    costs = tuned("rank")
    low, high = costs["LoRA r=1"], costs["LoRA r=32"]
    rates = _rates(answer, set(low))
    right = {rate for rate in low if low[rate] < high[rate]}
    expect(rates <= right, "At one of these rates, at least, rank 32 has the lower cost.")
    expect(rates == right, "A rate is missing at which rank 1 has the lower cost.")


def pairs_to_judge(answer: Any) -> None:
    """The pairs (LoRA's rate, DoRA's rate) that tuning leaves possible."""
    if not isinstance(answer, set | frozenset | list | tuple) or not answer:
        fail("The answer is to be a set of pairs, (LoRA's rate, DoRA's rate).")
    pairs = {tuple(array(pair, "A pair", (2,)).tolist()) for pair in answer}
    for which, label in enumerate(("LoRA", "DoRA")):
        rates, possible = {pair[which] for pair in pairs}, set(possible_rates("forgetting", label))
        expect(
            rates <= set(tuned("forgetting")[label]),
            f"{label} was not tried at all of these rates.",
        )
        expect(
            rates <= possible,
            f"One of {label}'s rates costs more than the best one and the scatter together.",
        )
        expect(rates == possible, f"A possible rate of {label} is missing.")
    expect(
        pairs == set(product(*(possible_rates("forgetting", label) for label in ("LoRA", "DoRA")))),
        "The rates are right, but not all of their pairs are there.",
    )


def _rates(answer: Any, grid: set[float]) -> set[float]:
    """An answer that is a set of rates of the grid."""
    if not isinstance(answer, set | frozenset | list | tuple):
        fail("The answer is to be a set of learning rates.")
    rates = {number(rate, "A learning rate") for rate in answer}
    expect(rates <= grid, "Only rates of the grid may stand in it.")
    return rates


def seeds_of_one_sign(answer: Any) -> None:
    """The fewest seeds of one sign that coins show in fewer than one case of twenty."""
    seeds = whole(answer)
    expect(seeds >= 1, "It takes one seed at least.")
    expect(2 * 0.5**seeds < 1 / 20, "So many coins show the same side more often than that.")
    expect(2 * 0.5 ** (seeds - 1) >= 1 / 20, "Fewer seeds are enough.")


CHECKS = {
    1: first_step,
    2: forecast,
    3: rates_that_turn_it_round,
    4: pairs_to_judge,
    5: seeds_of_one_sign,
}
