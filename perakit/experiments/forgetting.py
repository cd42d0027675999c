"""What the old domain costs after tuning on a new one, for two new domains."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from perakit.adapters import PERA, LoRA
from perakit.experiments.arms import (
    FULL,
    RANK,
    Arm,
    Options,
    arm,
    in_full,
    judged,
    tuning_costs,
    unadapted,
)
from perakit.experiments.experiment import Experiment
from perakit.experiments.lab import Lab
from perakit.experiments.loss import METHODS
from perakit.experiments.rates import Costs
from perakit.experiments.report import Picture, Report, compared, comparison, margin
from perakit.experiments.results import Results
from perakit.experiments.statistics import Interval, interval
from perakit.plots import plot_gains, plot_plane
from perakit.table import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PLANE = (*METHODS, FULL)  # arms whose every rate is a point of the plane
USELESS = 0.15  # bits; farther from the best an arm has learned next to nothing

PACKAGES = "package:sympy+package:matplotlib"


def _arms(options: Options) -> list[Arm]:
    found = [arm(label, method) for label, method in METHODS.items()]
    found.append(arm("LoRA, PERA's parameters", PERA(RANK), matched=True))
    return found + [
        arm(f"{label}, packages", method, text=PACKAGES)
        for label, method in (("LoRA", LoRA(RANK)), ("PERA", PERA(RANK)))
    ]


def _collect(lab: Lab, options: Options) -> None:
    options = options if options.old else replace(options, old="prose")
    lab.run(
        [
            unadapted(options),
            replace(unadapted(options, text=PACKAGES), label="unadapted, packages"),
        ]
    )
    arms = [*_arms(options), in_full()[FULL]]
    costs = tuning_costs(judged(lab, arms, options))
    lab.run(
        [
            one.job(options, seed, lr, "plane")
            for one in arms
            if one.label in PLANE
            for lr in learning(costs[one.label])
            for seed in range(min(options.seeds, 3))
        ]
    )


def learning(costs: Costs) -> list[float]:
    """The rates at which a run has learned: those not more than USELESS worse than the best."""
    first = {lr: found[min(found)] for lr, found in costs.items()}
    return sorted(lr for lr, cost in first.items() if cost <= min(first.values()) + USELESS)


def _report(results: Results) -> Report:
    least, start = margin(results, "LoRA"), results.one("unadapted")["old"]
    findings = []
    for label, over in (
        ("PERA", "LoRA"),
        ("PERA, packages", "LoRA, packages"),
        ("DoRA", "LoRA"),
        ("HiRA", "LoRA"),
        (FULL, "LoRA"),
    ):
        claim = f"{label}: forgets less than {over}"
        findings.append(compared(results, claim, label, over, least, what="old"))
    claim = "PERA beats LoRA on the packages' source"
    findings.append(compared(results, claim, "PERA, packages", "LoRA, packages", least))
    rows = [
        [
            label,
            str(results.mean(label, "old")),
            results.mean(label, lambda one: one["old"] - start).signed,
        ]
        for label in results.labels()
    ]
    rows.insert(0, ["unadapted", f"{start:.4f}", ""])
    old = Table(
        ("arm", "old domain, bits per byte", "worse than unadapted by"),
        rows,
        "Mean of the seeds [95 % bootstrap interval].",
    )

    def draw(figure: Figure) -> None:
        ax = figure.subplots()
        worse = {
            label: results.mean(label, lambda one: one["old"] - start) for label in results.labels()
        }
        plot_gains(worse, what="mean of the seeds, 95 % bootstrap interval", ax=ax)
        ax.set(
            xlabel="bits per byte that prose got worse",
            title="Forgetting, after the library's code or packages",
        )

    notes = [
        (
            "Learning rates were chosen for the new domain. Who learned more may have forgotten"
            " more: read both tables together."
        ),
        (
            "Who learns less forgets less (LoRA Learns Less and Forgets Less, arXiv 2405.09673):"
            " the plane below shows both at every rate."
        ),
        (
            "The arms on packages learn the source of sympy and matplotlib in place of the standard"
            " library's."
        ),
        f"Called a difference: a clear one of at least {least:.4f} bits per byte.",
    ]
    caption = "How much worse the old domain got, mean and 95 % bootstrap interval"
    packages = [label for label in results.labels() if "packages" in label]
    library = [label for label in results.labels() if label not in packages]
    tables = [
        ("Old domain", old),
        ("New domain: the standard library", comparison(results, "LoRA", library)),
        (
            "New domain: packages",
            comparison(results, "LoRA, packages", packages, "unadapted, packages"),
        ),
    ]

    def change(label: str, what: str, lr: float) -> Interval | None:
        """How much better the new domain got, or how much worse the old one."""
        before, side = results.one("unadapted")[what], -1 if what == "new" else 1
        found = [side * (cost - before) for cost in results.scores(label, what, "plane", lr)]
        return interval(found) if all(map(math.isfinite, found)) else None

    def draw_plane(figure: Figure) -> None:
        points = {
            label: [
                (lr, change(label, "new", lr), change(label, "old", lr))
                for lr in learning(results.tuning[label])
            ]
            for label in PLANE
        }
        plot_plane(points, start=(0, 0), ax=figure.subplots())

    said = (
        "What was learned and what was forgotten, every learning rate a point, 3 seeds; rates at"
        f" which an arm ends more than {USELESS:g} bits behind its best are left out"
    )
    plane = Picture("plane", draw_plane, said, (7.2, 5.6))
    return Report(tables, draw, findings, caption, notes, more=[plane])


EXPERIMENT = Experiment(
    "forgetting",
    "What the old domain costs afterwards",
    "The paper does not measure forgetting; whoever tunes a model wants to know (arXiv 2604.11841"
    " has no such table).",
    _collect,
    _report,
)
