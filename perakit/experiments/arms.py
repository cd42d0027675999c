"""The protocol that every fine-tuning experiment shares, so that no method gets more than another.

An arm is a method with where and on what it trains. All arms try learning rates by the same rule
(`rates.wanted`), with the same budget, on seeds that no comparison uses, and validation text says
which rates are possible. At each of these an arm then runs on every seed. Arms with the same seed
see the same batches and start from the same factors where shapes agree. The test text comes from
other files than the training and the validation text.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from perakit.adapters import LoRA, Method
from perakit.errors import PerakitError
from perakit.experiments.jobs import Job
from perakit.experiments.lab import Lab
from perakit.experiments.rates import REACH, Costs, possible, wanted
from perakit.experiments.tuning import before, methods, tune
from perakit.formulas import check_count
from perakit.toy.language import sizes
from perakit.toy.pretrained import load
from perakit.toy.training import Recipe

RATES = (3e-3, 6e-3, 1.2e-2, 2.4e-2, 4.8e-2)
TUNING_SEEDS = (1000, 1001, 1002)  # no comparison uses them
RANK = 8
FULL = "full fine-tuning"
LIMIT = 1_000_000  # bytes of training and validation text


@dataclass(frozen=True)
class Options:
    """What a user chooses.

    small: few steps, two rates and one tuning seed; this shows that an experiment runs, and says
    nothing about methods.
    """

    seeds: int = 5
    small: bool = False
    device: str = "cpu"
    model: str = "tiny"
    text: str = "code"
    old: str | None = "prose"

    def __post_init__(self) -> None:
        check_count("seeds", self.seeds, least=2)  # a single value has no interval

    @property
    def rates(self) -> tuple[float, ...]:
        """Learning rates that every arm tries."""
        return RATES[1:3] if self.small else RATES

    @property
    def tuning_seeds(self) -> tuple[int, ...]:
        """Seeds on which rates are chosen."""
        return TUNING_SEEDS[: 1 if self.small else None]

    @property
    def recipe(self) -> Recipe:
        """How every run trains, learning rate and seed aside."""
        if self.small:
            return Recipe(
                steps=8,
                batch=2,
                context=64,
                warmup=2,
                eval_every=8,
                checkpoint_every=8,
                eval_windows=4,
            )
        return Recipe(
            steps=100,
            batch=4,
            context=128,
            warmup=10,
            eval_every=100,
            checkpoint_every=50,
            eval_windows=64,
        )

    def settings(self) -> dict[str, Any]:
        """Settings of a run, before an arm changes them."""
        return {
            "model": self.model,
            "device": self.device,
            "text": self.text,
            "old": self.old,
            "limit": 200_000 if self.small else LIMIT,
            "fraction": 1.0,
            "targets": "all-linear",
            "matched": False,
            "interaction": None,
            "judge": True,
            "recipe": asdict(self.recipe),
        }

    @property
    def waking(self) -> float:
        """A feature scale at which PERA's high-order terms are no longer negligible."""
        # Ten times the width: docs/results/share.md
        return 10.0 * sizes(load(self.model)).width


@dataclass(frozen=True)
class Arm:
    """One contender.

    changes: settings that differ from the usual ones; recipe: what differs in how it trains; lr:
    the learning rate, where it is fixed instead of chosen.
    """

    label: str
    method: Method
    changes: Mapping[str, Any]
    recipe: Mapping[str, Any]
    lr: float | None = None

    def job(self, options: Options, seed: int, lr: float, role: str) -> Job:
        """One run of it."""
        settings = options.settings() | {
            "method": self.method.to_dict(),
            "judge": not role.startswith("tuning"),
            **self.changes,
        }
        recipe = settings["recipe"] | self.recipe | {"seed": seed, "lr": lr}
        settings["recipe"] = recipe = recipe | {"eval_every": recipe["steps"]}
        if not settings["judge"]:
            settings["interaction"] = None
        work = recipe["steps"] * (1.4 if settings["judge"] else 1.1)
        return Job(self.label, role, tune, settings, work)


def arm(
    label: str,
    method: Method,
    recipe: Mapping[str, Any] | None = None,
    lr: float | None = None,
    **changes: Any,
) -> Arm:
    """An Arm, with its changes by name."""
    return Arm(label, method, changes, recipe or {}, lr)


def in_full() -> dict[str, Arm]:
    """What adapters are measured by: the model's own parameters trained, all or a part of them."""
    # No method is asked for where the model itself trains
    parts = {FULL: "everything", "bias only": "biases", "last block": "last block"}
    return {label: arm(label, LoRA(RANK), train=part) for label, part in parts.items()}


def judged(
    lab: Lab, arms: Sequence[Arm], options: Options, after: float = 0.0
) -> list[dict[str, Any]]:
    """Tune every arm, then run every seed at each of its possible rates.

    after: work that is still to come, for the estimate. Returns the rows of tuning and of judging.
    """
    check(arms, options)
    later = sum(one.job(options, 0, 1e-3, "judged").work for one in arms) * options.seeds + after
    rows = tuned(lab, [one for one in arms if one.lr is None], options, later)
    fixed = {one.label: one.lr for one in arms if one.lr is not None}
    return rows + at_possible_rates(lab, arms, options, rows, fixed, after)


def at_possible_rates(
    lab: Lab,
    arms: Sequence[Contender],
    options: Options,
    rows: Sequence[Mapping[str, Any]],
    fixed: Mapping[str, float] | None = None,
    after: float = 0.0,
) -> list[dict[str, Any]]:
    """Every arm on every seed at each rate that its tuning `rows` leave possible.

    fixed: label -> the rate of an arm that was not tuned.
    """
    lrs = {label: possible(costs) for label, costs in tuning_costs(rows).items()}
    lrs |= {label: [lr] for label, lr in (fixed or {}).items()}
    return lab.run(
        [
            one.job(options, seed, lr, "judged")
            for seed in range(options.seeds)
            for one in arms
            for lr in lrs[one.label]
        ],
        after,
    )


class Contender(Protocol):
    """What is tuned: an `Arm`, or a layer on a made-up target."""

    @property
    def label(self) -> str:
        """Its name in the experiment."""

    def job(self, options: Options, seed: int, lr: float, role: str) -> Job:
        """One run of it."""


def tuned(
    lab: Lab,
    arms: Sequence[Contender],
    options: Options,
    later: float = 0.0,
    grid: Sequence[float] | None = None,
) -> list[dict[str, Any]]:
    """The tuning runs of all arms, as many as `rates.wanted` asks for.

    grid: learning rates; None: those of the options.
    """
    rows: list[dict[str, Any]] = []
    while True:
        costs = tuning_costs(rows)
        jobs = [
            one.job(options, seed, lr, "tuning")
            for one in arms
            for lr, seed in wanted(
                costs.get(one.label, {}),
                grid or options.rates,
                options.tuning_seeds,
                0 if options.small else REACH,
            )
        ]
        if not jobs:
            return rows
        rows += lab.run(jobs, later)


def tuning_costs(rows: Sequence[Mapping[str, Any]]) -> dict[str, Costs]:
    """Label -> rate -> tuning seed -> validation cost, infinite where the run diverged."""
    found: dict[str, dict[float, dict[int, float]]] = {}
    for row in rows:
        if row["role"] == "tuning":
            recipe, cost = row["settings"]["recipe"], row["measured"]["validation"]
            at = found.setdefault(row["label"], {}).setdefault(recipe["lr"], {})
            at.setdefault(recipe["seed"], math.inf if cost is None else cost)
    return dict(found)


def check(arms: Sequence[Arm], options: Options) -> None:
    """Refuse, before anything runs, an arm whose projections the model does not have."""
    model = load(options.model)
    for one in arms:
        try:
            methods(one.job(options, 0, 1e-3, "judged").settings, model)
        except PerakitError as error:
            raise PerakitError(f"{one.label} cannot run on {options.model!r}: {error}") from error


def unadapted(options: Options, **changes: Any) -> Job:
    """The model without an adapter."""
    return Job(
        "unadapted", "other", before, options.settings() | changes, 0.4 * options.recipe.steps
    )
