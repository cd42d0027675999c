"""How training loss falls (Fig. 6): LoRA, DoRA, HiRA and PERA, each at its own learning rate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from perakit.adapters import PERA, DoRA, HiRA, LoRA
from perakit.experiments import paper
from perakit.experiments.arms import RANK, Options, arm, judged, unadapted
from perakit.experiments.experiment import Experiment
from perakit.experiments.lab import Lab
from perakit.experiments.report import Report, compared, comparison, margin
from perakit.experiments.results import Results
from perakit.experiments.statistics import interval
from perakit.plots import plot_intervals

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METHODS = {"LoRA": LoRA(RANK), "DoRA": DoRA(RANK), "HiRA": HiRA(RANK), "PERA": PERA(RANK)}
LAST = 5  # of the points of a curve, a fifth of the training


def _collect(lab: Lab, options: Options) -> None:
    lab.run([unadapted(options)])
    judged(lab, [arm(label, method) for label, method in METHODS.items()], options)


def final(measured: Mapping[str, Any]) -> float:
    """Training loss towards the end, in bits a token."""
    last = measured["loss"][-LAST:]
    return float(sum(loss for _, loss in last) / len(last))


def mean(measured: Mapping[str, Any]) -> float:
    """Training loss over the whole run, in bits a token."""
    return sum(loss for _, loss in measured["loss"]) / len(measured["loss"])


def _report(results: Results) -> Report:
    least = margin(results, "LoRA")
    findings = []
    for other in ("LoRA", "DoRA", "HiRA"):
        rank = 16 if other == "LoRA" else 32
        told = (
            f"{paper.METHODS['PERA']:.2f} (r = 16) against {paper.METHODS[other]:.2f} (r = {rank})"
            " accuracy"
        )
        below = f"PERA's training loss lies below {other}'s, mean of the run"
        ends = f"PERA's training loss ends below {other}'s"
        beats = f"PERA beats {other} on held-out text"
        findings += [
            compared(results, below, "PERA", other, least, "a figure", mean),
            compared(results, ends, "PERA", other, least, "a figure", final),
            compared(results, beats, "PERA", other, least, told),
        ]

    def draw(figure: Figure) -> None:
        left, right = figure.subplots(1, 2)
        differences, beside = {}, results.scores("LoRA", "loss")
        curves = [curve for curve in beside if curve]  # a run that diverged has none
        points = [(k, step) for k, (step, _) in enumerate(curves[0])] if len(curves) > 1 else []
        alone = {"LoRA": [(step, interval([one[k][1] for one in curves])) for k, step in points]}
        for label in results.labels()[1:]:
            pairs = [
                (one, other)
                for one, other in zip(results.scores(label, "loss"), beside, strict=True)
                if one and other
            ]
            if len(pairs) > 1:
                differences[label] = [
                    (step, interval([one[k][1] - other[k][1] for one, other in pairs]))
                    for k, step in points
                ]
        if not differences:
            return
        plot_intervals(alone, log=False, ax=left)
        left.set(xlabel="step", ylabel="training loss, bits per token", title="LoRA's loss")
        plot_intervals(differences, log=False, ax=right)
        right.axhline(0, color="0.45", linewidth=1, linestyle="--", zorder=0)
        right.set(
            xlabel="step",
            ylabel="bits per token above LoRA",
            title="Beside LoRA, on the same batches",
        )

    notes = [
        (
            "The interval of one method alone is wide because batches differ; the others are shown"
            " beside LoRA on the same batches."
        ),
        (
            "The whole run and its last fifth were not chosen before the curves had been seen; both"
            " are given, since they can differ in sign."
        ),
        f"Called a difference: a clear one of at least {least:.4f} bits.",
    ]
    caption = (
        "Training loss of LoRA, and of three methods beside it, rank 8, each at its own learning"
        " rate; 95 % bootstrap intervals"
    )
    return Report(
        [("Held-out text", comparison(results, "LoRA"))],
        draw,
        findings,
        caption,
        notes,
        (10.8, 4.6),
    )


EXPERIMENT = Experiment(
    "loss",
    "How the training loss falls",
    "The paper's Fig. 6 shows PERA's training loss below that of LoRA, DoRA and HiRA (arXiv"
    " 2604.11841).",
    _collect,
    _report,
)
