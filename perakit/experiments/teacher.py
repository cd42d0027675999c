"""Targets whose structure is known, where theory predicts who comes nearer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from perakit.adapters import PERA, LoRA, Method
from perakit.experiments.arms import Options, Results
from perakit.experiments.experiment import Experiment
from perakit.experiments.jobs import Job
from perakit.experiments.lab import Lab
from perakit.experiments.regression import TARGETS, imitate, predict
from perakit.experiments.report import (
    INCONCLUSIVE,
    NOT_REPRODUCED,
    REPRODUCED,
    REVERSED,
    Finding,
    Report,
    order_share,
    verdict,
)
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
RATES = [0.003, 0.01, 0.03, 0.1, 0.3]
LEAST = 0.01  # of ‖ΔW*‖: with a smaller difference, they are called the same


def _collect(lab: Lab, options: Options) -> None:
    base: dict[str, Any] = {"m": M, "n": N, "teacher_rank": R}
    effort: dict[str, Any] = (
        {"rates": [0.03], "steps": 50} if options.small else {"rates": RATES, "steps": 2000}
    )
    starts = 4 if options.small else 16
    jobs = []
    for target in TARGETS:
        for seed in range(options.seeds):
            one = base | {"target": target, "seed": seed}
            for label, method in STUDENTS.items():
                work = effort["steps"] * len(effort["rates"]) / 40
                jobs.append(
                    Job(
                        f"{target}: {label}",
                        "measured",
                        imitate,
                        one | effort | {"methods": [method.to_dict()]},
                        work,
                    )
                )
                if label != "PERA, scale n":  # the same set of updates as PERA's
                    jobs.append(
                        Job(
                            f"{target}: {label}",
                            "predicted",
                            predict,
                            one | {"methods": [method.to_dict()], "starts": starts},
                            60,
                        )
                    )
    lab.run(jobs)


def errors(results: Results, label: str, role: str, what: str) -> list[float]:
    """One error a seed."""
    # What a PERA of this rank has made, one can reach, whether a search finds it or not
    if (label, what) == ("PERA-generated: PERA", "reached"):
        return [0.0] * results.options.seeds
    rows = [row for row in results.of(role) if row["label"] == label]
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
            error, share = (
                interval(errors(results, name, "measured", "error")),
                errors(results, name, "measured", "share"),
            )
            rates = sorted(set(errors(results, name, "measured", "lr")))
            tried = next(row["settings"]["rates"] for row in results.of("measured"))
            chosen = ", ".join(
                f"{rate:g}" + ("*" if rate in (tried[0], tried[-1]) else "") for rate in rates
            )
            set_of = name.replace(", scale n", "")
            reached, lower = (
                interval(errors(results, set_of, "predicted", what))
                for what in ("reached", "lower")
            )
            cells = [one.shown(".3f") for one in (lower, reached, error)]
            rows.append([name, *cells, chosen, order_share(share)])
        for rival, told in (("LoRA", "equal rank"), ("LoRA, r = 3", "LoRA of rank 3")):
            sets = [
                errors(results, f"{target}: {one}", "predicted", "reached")
                for one in (rival, "PERA")
            ]
            predicted = call(paired(*sets))
            for student in ("PERA", "PERA, scale n"):
                difference = paired(
                    *(
                        errors(results, f"{target}: {one}", "measured", "error")
                        for one in (rival, student)
                    )
                )
                measured = call(difference)
                where = f"{target}, {told}" + (", scale n" if "scale" in student else "")
                shown[where] = difference
                claim = f"{where}: predicted nearer is {SPOKEN.get(predicted, predicted)}"
                ours = f"{SPOKEN.get(measured, measured)}: {difference.signed}"
                findings.append(Finding(claim, None, ours, judge(predicted, measured, difference)))
    foot = (
        "‖ΔW - ΔW*‖_F, where ‖ΔW*‖_F = 1: mean of the seeds [95 % bootstrap interval], each with"
        " its own target.\nLower bound: proved. Reachable: the best that"
        " `theory.best_approximation` found, an upper bound; 0 where a PERA made the"
        " target.\nTrained: Adam from the published start, the best of the learning rates for each"
        " seed, which are given; *: the first or last that\nwas tried, a better one may lie beyond."
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
    return Report(
        [("Errors", Table(columns, rows, foot))], draw, findings, caption, notes, (8.2, 6.4)
    )


EXPERIMENT = Experiment(
    "teacher",
    "Targets of known structure",
    "Where ΔW* is known, a search, with a proved bound below it, says which method can come nearer;"
    " here is whether training does.",
    _collect,
    _report,
)
