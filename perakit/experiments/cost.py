"""What a step costs (Table 5): time of training and of unmerged inference, and bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from perakit.experiments import paper
from perakit.experiments.arms import Options, Results
from perakit.experiments.experiment import Experiment
from perakit.experiments.jobs import Job
from perakit.experiments.lab import Lab
from perakit.experiments.loss import METHODS
from perakit.experiments.report import INCONCLUSIVE, NOT_REPRODUCED, REPRODUCED, Finding, Report
from perakit.experiments.statistics import Interval, interval
from perakit.experiments.tuning import pace
from perakit.plots import plot_intervals
from perakit.table import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def _collect(lab: Lab, options: Options) -> None:
    arms = {"unadapted": None} | {label: {"method": method.to_dict()} for label, method in METHODS.items()}
    settings = options.settings() | {"arms": arms, "rounds": 3 if options.small else 61}
    lab.run([Job("cost", "other", pace, settings, 20 * settings["rounds"], alone=True)])


def ratio(times: Sequence[float], to: Sequence[float]) -> Interval:
    """Round by round: both were timed a moment apart."""
    return interval([one / other for one, other in zip(times, to, strict=True)])


def below(found: Interval, bound: float) -> str:
    """Of the claim that a ratio is at most `bound`."""
    return REPRODUCED if found.high <= bound else NOT_REPRODUCED if found.low > bound else INCONCLUSIVE


def _report(results: Results) -> Report:
    found = results.one("cost")
    kinds = ("training", "inference")
    ratios = {kind: {label: ratio(found[kind][label], found[kind]["LoRA"]) for label in METHODS if label != "LoRA"} for kind in kinds}
    findings = []
    for place, kind in enumerate(kinds):
        for label, one in ratios[kind].items():
            told = paper.COST[label][place] / paper.COST["LoRA"][place]
            claim = f"{label}'s {kind} takes {told:.2f} times LoRA's, or less"
            findings.append(Finding(claim, f"{told:.2f}", f"{one.mean:.2f} [{one.low:.2f}, {one.high:.2f}]", below(one, told)))
    rows = []
    for label in METHODS:
        train, infer = (interval([1000 * second for second in found[kind][label]]) for kind in kinds)
        size = found["bytes"][label]
        cells = [f"{one.mean:.1f} [{one.low:.1f}, {one.high:.1f}]" for one in (train, infer)]
        rows.append([label, *cells, f"{size['saved'] / 2**20:.1f}", f"{size['trained'] / 2**20:.2f}"])
    plain = interval([1000 * second for second in found["inference"]["unadapted"]])
    rows.insert(0, ["unadapted", "", f"{plain.mean:.1f} [{plain.low:.1f}, {plain.high:.1f}]", "", ""])
    columns = ("model", "training step, ms", "inference, ms", "kept for backward, MiB", "trained, MiB")
    foot = (
        "Mean of the rounds [95 % bootstrap interval]. Kept: by autograd for one step.\nTrained: parameters, gradients and AdamW's moments."
    )

    def draw(figure: Figure) -> None:
        ax = figure.subplots()
        labels = list(ratios["training"])
        plot_intervals({kind: [(k, ratios[kind][label]) for k, label in enumerate(labels)] for kind in kinds}, log=False, ax=ax)
        for line in ax.lines:  # between two methods there is nothing
            line.set_linestyle("none")
        ax.axhline(1, color="0.45", linewidth=1, linestyle="--", zorder=0)
        ax.set_xticks(range(len(labels)), labels)
        ax.set(ylabel="time over LoRA's", title="A step, rounds in turn")

    notes = [
        "Times are of this machine, a small model and one thread. On a large layer the adapters are a smaller part of the whole:"
        " [What it costs](../performance.md) has those sizes.",
        "Unmerged, as in the paper. A merged PERA costs nothing in inference; the paper's code cannot merge.",
        "Intervals are over rounds of one process, not over machines.",
    ]
    caption = "Time of a training step and of inference, over LoRA's in the same round"
    return Report([("A step", Table(columns, rows, foot))], draw, findings, caption, notes)


EXPERIMENT = Experiment(
    "cost",
    "What a step costs",
    "The paper's Table 5: PERA trains nearly as fast as LoRA, faster than DoRA and HiRA (arXiv 2604.11841).",
    _collect,
    _report,
)
