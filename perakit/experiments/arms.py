"""The protocol that every fine-tuning experiment shares, so that no method gets more than another.

An arm is a method with where and on what it trains. All arms try the same learning rates with the
same budget, on a seed that no comparison uses, and validation text chooses the best rate. With that
rate an arm then runs on every seed. Arms with the same seed see the same batches and start from the
same factors where shapes agree. The test text comes from other files than the training and the
validation text.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from perakit.adapters import Method
from perakit.errors import PerakitError
from perakit.experiments.jobs import Job
from perakit.experiments.lab import Lab
from perakit.experiments.statistics import Interval, interval, paired
from perakit.experiments.tuning import before, methods, tune
from perakit.formulas import check_count
from perakit.toy.pretrained import load
from perakit.toy.training import Recipe

RATES = (3e-3, 6e-3, 1.2e-2, 2.4e-2, 4.8e-2)
TUNING_SEED = 1000  # no comparison uses it
RANK = 8
LIMIT = 1_000_000  # bytes of training and validation text


@dataclass(frozen=True)
class Options:
    """What a user chooses.

    small: few steps and two rates; this shows that an experiment runs, and says nothing about
    methods.
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
        return 10.0 * load(self.model).config.n_embd


@dataclass(frozen=True)
class Arm:
    """One contender.

    changes: settings that differ from the usual ones; steps: where they are not the usual number;
    lr: where it is fixed instead of chosen.
    """

    label: str
    method: Method
    changes: Mapping[str, Any]
    steps: int | None = None
    lr: float | None = None

    def job(self, options: Options, seed: int, lr: float, role: str) -> Job:
        """One run of it."""
        settings = options.settings() | {
            "method": self.method.to_dict(),
            "judge": role != "tuning",
            **self.changes,
        }
        recipe = settings["recipe"] | {"seed": seed, "lr": lr}
        if self.steps:
            recipe |= {"steps": self.steps, "eval_every": self.steps}
        settings["recipe"] = recipe
        if role == "tuning":
            settings["interaction"] = None
        return Job(
            self.label, role, tune, settings, recipe["steps"] * (1.1 if role == "tuning" else 1.4)
        )


def arm(
    label: str, method: Method, steps: int | None = None, lr: float | None = None, **changes: Any
) -> Arm:
    """An Arm, with its changes by name."""
    return Arm(label, method, changes, steps, lr)


def judged(
    lab: Lab, arms: Sequence[Arm], options: Options, more: Sequence[float] = (), after: float = 0.0
) -> list[dict[str, Any]]:
    """Choose every arm's learning rate, then run every seed. Returns the rows of those runs.

    more: learning rates that all arms try besides the usual ones; after: work that is still to
    come, for the estimate.
    """
    check(arms, options)
    rates = {one.label: (*more, *options.rates) if one.lr is None else () for one in arms}
    tuning = [
        one.job(options, TUNING_SEED, lr, "tuning") for one in arms for lr in rates[one.label]
    ]
    later = sum(one.job(options, 0, 1e-3, "judged").work for one in arms) * options.seeds + after
    best = choose(lab.run(tuning, later))
    lrs = {one.label: best[one.label] if one.lr is None else one.lr for one in arms}
    return lab.run(
        [
            one.job(options, seed, lrs[one.label], "judged")
            for seed in range(options.seeds)
            for one in arms
        ]
    )


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


def choose(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Label -> the learning rate with the lowest validation cost; one that diverged comes last."""
    best: dict[str, tuple[float, float]] = {}
    for row in rows:
        cost = row["measured"]["validation"]
        found = math.inf if cost is None else cost, row["settings"]["recipe"]["lr"]
        best[row["label"]] = min(best.get(row["label"], found), found)
    for label, (cost, lr) in best.items():
        if cost == math.inf:
            raise PerakitError(
                f"{label} diverged at every learning rate, also at {lr:g}: it cannot be compared"
                " here"
            )
    return {label: lr for label, (_, lr) in best.items()}


class Results:
    """The rows of an experiment, found by their labels."""

    def __init__(self, header: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> None:
        self.header, self.rows = header, rows
        self.options = Options(**header["options"])

    def of(self, role: str) -> list[Mapping[str, Any]]:
        """Rows of one role, in their order."""
        return [row for row in self.rows if row["role"] == role]

    def one(self, label: str) -> Mapping[str, Any]:
        """What was measured by the job of that label."""
        found: Mapping[str, Any] = next(
            row["measured"] for row in self.rows if row["label"] == label
        )
        return found

    def labels(self) -> list[str]:
        """Arms that were judged."""
        return list(dict.fromkeys(row["label"] for row in self.of("judged")))

    def arm(self, label: str, role: str = "judged") -> list[Mapping[str, Any]]:
        """The rows of an arm, one a seed."""
        found: dict[int, Mapping[str, Any]] = {}
        for row in self.of(role):
            if row["label"] == label:
                # Of several the first: rows of earlier plans stand further down
                found.setdefault(row["settings"]["recipe"]["seed"], row)
        return [found[seed] for seed in sorted(found)]

    def scores(
        self,
        label: str,
        what: str | Callable[[Mapping[str, Any]], float] = "new",
        role: str = "judged",
    ) -> list[Any]:
        """One number a seed. what: the name of a measured quantity, or a function of them all."""
        return [
            row["measured"][what] if isinstance(what, str) else what(row["measured"])
            for row in self.arm(label, role)
        ]

    def mean(
        self, label: str, what: str | Callable[[Mapping[str, Any]], float] = "new"
    ) -> Interval:
        """Their mean, with its interval."""
        return interval(self.scores(label, what))

    def gain(
        self,
        label: str,
        over: str,
        what: str | Callable[[Mapping[str, Any]], float] = "new",
        role: str = "judged",
    ) -> Interval:
        """How much lower `label`'s cost is than `over`'s, seed by seed: positive is better."""
        return paired(self.scores(over, what, role), self.scores(label, what, role))

    def lr(self, label: str) -> float:
        """The learning rate of an arm."""
        lr: float = self.arm(label)[0]["settings"]["recipe"]["lr"]
        return lr

    def rates(self) -> list[float]:
        """All learning rates that were tried, in rising order."""
        return sorted({row["settings"]["recipe"]["lr"] for row in self.of("tuning")})

    def edge(self, label: str) -> bool:
        """Whether the learning rate is the lowest or highest tried: a better may lie beyond."""
        tried = [
            row["settings"]["recipe"]["lr"] for row in self.of("tuning") if row["label"] == label
        ]
        return bool(tried) and self.lr(label) in (min(tried), max(tried))
