"""What a step costs (Table 5): time of training and of unmerged inference, and bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from perakit.experiments import paper
from perakit.experiments.arms import RANK, Options
from perakit.experiments.experiment import Experiment
from perakit.experiments.jobs import Job
from perakit.experiments.lab import Lab
from perakit.experiments.loss import METHODS
from perakit.experiments.report import INCONCLUSIVE, REPRODUCED, REVERSED, Finding, Report, below
from perakit.experiments.results import Results
from perakit.experiments.statistics import Interval, interval
from perakit.experiments.tuning import pace, untaught
from perakit.plots import plot_gains
from perakit.table import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def _collect(lab: Lab, options: Options) -> None:
    arms = {"unadapted": None} | {
        label: {"method": method.to_dict()} for label, method in METHODS.items()
    }
    settings = untaught(options.settings()) | {"arms": arms, "rounds": 3 if options.small else 61}
    lab.run([Job("cost", "other", pace, settings, 20 * settings["rounds"], alone=True)])


def ratio(times: Sequence[float], to: Sequence[float]) -> Interval:
    """The ratio of times, round by round: in a round both were timed a moment apart."""
    return interval([one / other for one, other in zip(times, to, strict=True)])


def quicker(found: Interval) -> str:
    """The verdict on the claim that a ratio of times is below 1."""
    return REPRODUCED if found.most < 1 else REVERSED if found.least > 1 else INCONCLUSIVE


def _report(results: Results) -> Report:
    found = results.one("cost")
    kinds = ("training", "inference")
    findings = []
    for place, kind in enumerate(kinds):
        for other in ("LoRA", "DoRA", "HiRA"):
            one, told = (
                ratio(found[kind]["PERA"], found[kind][other]),
                paper.COST["PERA"][place] / paper.COST[other][place],
            )
            if other == "LoRA":
                claim, decided = (
                    f"PERA's {kind} takes {told:.2f} times LoRA's, or less",
                    below(one, told),
                )
            else:
                claim, decided = f"PERA's {kind} takes less time than {other}'s", quicker(one)
            findings.append(
                Finding(claim, f"{told:.2f} times", f"{one.shown('.3f')} times", decided)
            )
    rows = []
    for label in METHODS:
        train, infer = (
            interval([1000 * second for second in found[kind][label]]) for kind in kinds
        )
        size = found["bytes"][label]
        rows.append(
            [
                label,
                train.shown(".1f"),
                infer.shown(".1f"),
                f"{size['saved'] / 2**20:.1f}",
                f"{size['trained'] / 2**20:.2f}",
            ]
        )
    plain = interval([1000 * second for second in found["inference"]["unadapted"]])
    rows.insert(0, ["unadapted", "", plain.shown(".1f"), "", ""])
    columns = (
        "model",
        "training step, ms",
        "inference, ms",
        "kept for backward, MiB",
        "trained, MiB",
    )
    foot = (
        "Mean of the rounds [95 % bootstrap interval]. Kept: by autograd for one step.\nTrained:"
        " parameters, gradients and AdamW's moments."
    )

    def draw(figure: Figure) -> None:
        ax = figure.subplots()
        longer = {
            f"{label}, {kind}": interval(
                [
                    100 * (one / lora - 1)
                    for one, lora in zip(found[kind][label], found[kind]["LoRA"], strict=True)
                ]
            )
            for label in METHODS
            if label != "LoRA"
            for kind in kinds
        }
        plot_gains(longer, what="mean of the rounds, 95 % bootstrap interval", ax=ax)
        ax.set(xlabel="% longer than LoRA's", title="A step, rounds in turn")

    notes = [
        (
            "Times are of this machine, a small model and one thread. On a large layer the adapters"
            " are a smaller part of the whole: [What it costs](../performance.md) has those sizes."
        ),
        (
            "Unmerged, as in the paper. A merged PERA costs nothing in inference; the paper's code"
            " cannot merge."
        ),
        (
            f"Intervals are over {len(found['inference']['LoRA'])} rounds of one process, not over"
            f" machines. Rank {RANK}; the paper's is 4."
        ),
    ]
    caption = "How much longer a training step and inference take than LoRA's in the same round"
    return Report([("A step", Table(columns, rows, foot))], draw, findings, caption, notes)


EXPERIMENT = Experiment(
    "cost",
    "What a step costs",
    "The paper's Table 5: PERA trains nearly as fast as LoRA, faster than DoRA and HiRA (arXiv"
    " 2604.11841).",
    _collect,
    _report,
)
