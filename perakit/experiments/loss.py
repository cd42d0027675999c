"""How training loss falls (Fig. 6): LoRA, DoRA, HiRA and PERA, each at its own learning rate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from perakit.adapters import PERA, DoRA, HiRA, LoRA
from perakit.experiments import paper
from perakit.experiments.arms import RANK, Options, Results, arm, judged, unadapted
from perakit.experiments.experiment import Experiment
from perakit.experiments.lab import Lab
from perakit.experiments.report import Finding, Report, comparison, margin, verdict
from perakit.experiments.statistics import interval
from perakit.plots import plot_intervals

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METHODS = {"LoRA": LoRA(RANK), "DoRA": DoRA(RANK), "HiRA": HiRA(RANK), "PERA": PERA(RANK)}
HIGHER = (9.6e-2,)  # of the usual rates, HiRA's best is the highest
LAST = 5  # of the points of a curve, a fifth of the training


def _collect(lab: Lab, options: Options) -> None:
    lab.run([unadapted(options)])
    judged(
        lab,
        [arm(label, method) for label, method in METHODS.items()],
        options,
        () if options.small else HIGHER,
    )


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
        for claim, said, gain in (
            (
                f"PERA's training loss lies below {other}'s, mean of the run",
                "a figure",
                results.gain("PERA", other, mean),
            ),
            (
                f"PERA's training loss ends below {other}'s",
                "a figure",
                results.gain("PERA", other, final),
            ),
            (f"PERA beats {other} on held-out text", told, results.gain("PERA", other)),
        ):
            findings.append(Finding(claim, said, f"{gain.signed} bits", verdict(gain, least)))

    def draw(figure: Figure) -> None:
        left, right = figure.subplots(1, 2)
        differences, beside = {}, results.scores("LoRA", "loss")
        points = [(k, step) for k, (step, _) in enumerate(beside[0])]
        alone = {
            "LoRA": [(step, interval([curve[k][1] for curve in beside])) for k, step in points]
        }
        for label in results.labels()[1:]:
            pairs = list(zip(results.scores(label, "loss"), beside, strict=True))
            differences[label] = [
                (step, interval([one[k][1] - other[k][1] for one, other in pairs]))
                for k, step in points
            ]
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
