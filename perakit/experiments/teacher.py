"""Targets whose structure is known, where theory predicts who comes nearer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from perakit.adapters import PERA, LoRA, Method
from perakit.experiments.arms import Options, at_possible_rates, tuned
from perakit.experiments.experiment import Experiment
from perakit.experiments.jobs import Job
from perakit.experiments.lab import Lab
from perakit.experiments.regression import TARGETS, imitate_at, predict
from perakit.experiments.report import (
    INCONCLUSIVE,
    NOT_REPRODUCED,
    REPRODUCED,
    REVERSED,
    Finding,
    Report,
    order_share,
    span,
    verdict,
    weakest,
)
from perakit.experiments.results import Results
from perakit.experiments.statistics import Interval, interval, paired
from perakit.plots import plot_gains
from perakit.table import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

M, N, R = 10, 12, 2
# PERA(2) has 2 (m + n) + 3 parameters, LoRA(3) has 3 (m + n): the nearest LoRA with as many or
# more.
STUDENTS: dict[str, Method] = {
    "LoRA": LoRA(R),
    "PERA": PERA(R),
    "PERA, scale n": PERA(R, feature_scale=N),
    "LoRA, r = 3": LoRA(R + 1),
}
SPOKEN = {"the same": "neither", "open": "undecided"}
RATES = (0.003, 0.01, 0.03, 0.1, 0.3)
LEAST = 0.01  # of ‖ΔW*‖: with a smaller difference, they are called the same


@dataclass(frozen=True)
class Student:
    """A layer that learns one kind of target."""

    target: str
    name: str
    method: Method

    @property
    def label(self) -> str:
        """Its name in the experiment."""
        return f"{self.target}: {self.name}"

    def settings(self) -> dict[str, Any]:
        """What the target and the method are."""
        about = {"m": M, "n": N, "teacher_rank": R, "target": self.target}
        return about | {"methods": [self.method.to_dict()]}

    def job(self, options: Options, seed: int, lr: float, role: str) -> Job:
        """One training of it."""
        steps = 50 if options.small else 2000
        recipe = {"lr": lr, "seed": seed, "steps": steps}
        return Job(self.label, role, imitate_at, self.settings() | {"recipe": recipe}, steps / 40)


def _collect(lab: Lab, options: Options) -> None:
    students = [
        Student(target, name, method) for target in TARGETS for name, method in STUDENTS.items()
    ]
    starts = 4 if options.small else 16
    lab.run(
        [
            Job(
                one.label,
                "predicted",
                predict,
                one.settings() | {"seed": seed, "starts": starts},
                60,
            )
            for one in students
            if one.name != "PERA, scale n"  # the same set of updates as PERA's
            for seed in range(options.seeds)
        ]
    )
    rows = tuned(lab, students, options, grid=RATES[2:3] if options.small else RATES)
    at_possible_rates(lab, students, options, rows)


def reached(results: Results, label: str, what: str = "reached") -> list[float]:
    """What theory says of an arm's distance to its targets, one a seed."""
    # What a PERA of this rank has made, one can reach, whether a search finds it or not
    if (label, what) == ("PERA-generated: PERA", "reached"):
        return [0.0] * results.options.seeds
    rows = [row for row in results.of("predicted") if row["label"] == label]
    return [row["measured"][what] for row in sorted(rows, key=lambda row: row["settings"]["seed"])]


def call(difference: Interval) -> str:
    """Who is nearer, from LoRA's error minus PERA's."""
    if difference.clear and abs(difference.mean) >= LEAST:
        return "PERA" if difference.mean > 0 else "LoRA"
    return "the same" if max(-difference.least, difference.most) < LEAST else "open"


def judge(predicted: str, measured: str, difference: Interval) -> str:
    """Of the prediction; difference: LoRA's error minus PERA's."""
    if predicted == "PERA":
        return verdict(difference, LEAST)
    if predicted == "LoRA":
        return {"LoRA": REPRODUCED, "PERA": REVERSED, "the same": NOT_REPRODUCED}.get(
            measured, INCONCLUSIVE
        )
    if predicted == "open" or measured == "open":
        return INCONCLUSIVE
    return REPRODUCED if measured == predicted else NOT_REPRODUCED


def _report(results: Results) -> Report:
    rows, findings, shown = [], [], {}
    for target in TARGETS:
        for label in STUDENTS:
            name = f"{target}: {label}"
            rates = ", ".join(f"{lr:g}" for lr in results.rates(name)) + "*" * results.edge(name)
            share = order_share(results.scores(name, "share"))
            set_of = name.replace(", scale n", "")
            lower, best = (interval(reached(results, set_of, one)) for one in ("lower", "reached"))
            cells = [one.shown(".3f") for one in (lower, best, results.mean(name, "error"))]
            rows.append([name, *cells, rates, share])
        for rival, told in (("LoRA", "equal rank"), ("LoRA, r = 3", "LoRA of rank 3")):
            sets = [reached(results, f"{target}: {one}") for one in (rival, "PERA")]
            predicted = call(paired(*sets))
            for student in ("PERA", "PERA, scale n"):
                pair = f"{target}: {student}", f"{target}: {rival}"
                difference, at = results.gain(*pair, "error"), results.gains(*pair, "error")
                found = weakest(judge(predicted, call(one), one) for one in at.values())
                where = f"{target}, {told}" + (", scale n" if "scale" in student else "")
                shown[where] = difference
                claim = f"{where}: predicted nearer is {SPOKEN.get(predicted, predicted)}"
                measured = call(difference)
                ours = f"{SPOKEN.get(measured, measured)}: {difference.signed}"
                rates = span(at, unit="of ‖ΔW*‖")
                findings.append(Finding(claim, None, ours, found, rates=rates))
    foot = (
        "‖ΔW - ΔW*‖_F, where ‖ΔW*‖_F = 1: mean of the seeds [95 % bootstrap interval], each with"
        " its own target.\nLower bound: proved. Reachable: the best that"
        " `theory.best_approximation` found, an upper bound; 0 where a PERA made the"
        " target.\nTrained: Adam from the published start, at the best learning rate; given are all"
        " possible ones; *: the best is the first or\nlast that was tried, a better one may lie"
        " beyond."
    )
    columns = (
        "target and student",
        "lower bound",
        "reachable",
        "trained",
        "learning rates",
        "order share",
    )

    def draw(figure: Figure) -> None:
        ax = figure.subplots()
        plot_gains(shown, margin=LEAST, ax=ax)
        ax.set(xlabel="error of LoRA - error of PERA", title="PERA is nearer to the right of zero")

    notes = [
        (
            f"Targets are {M} x {N}; low rank: {R}; PERA-generated: by a PERA of rank {R} with"
            " Gaussian factors; power law: singular values 1/k."
        ),
        (
            "Predicted is the order of the best that a search found in each set, measured the order"
            " after training. They can differ: descent from h = 0 and B = 0 need not find what is"
            " there."
        ),
        (
            f"Errors that differ by less than {LEAST} are called the same. Equal rank: both {R}."
            " LoRA of rank 3 has the nearest number of parameters above PERA's. Scale n: PERA with"
            " that feature scale, which can reach the same updates."
        ),
    ]
    caption = "Who comes nearer to each kind of target, seed by seed"
    tables, cost = [("Errors", Table(columns, rows, foot))], ("‖ΔW - ΔW*‖_F", "of ‖ΔW*‖_F")
    return Report(tables, draw, findings, caption, notes, (8.2, 6.4), cost=cost)


EXPERIMENT = Experiment(
    "teacher",
    "Targets of known structure",
    "Where ΔW* is known, a search, with a proved bound below it, says which method can come nearer;"
    " here is whether training does.",
    _collect,
    _report,
)
