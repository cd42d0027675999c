"""How the training loss falls (Fig. 6): LoRA, DoRA, HiRA and PERA, each at its own learning rate."""

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
LAST = 5  # of the points of a curve, a fifth of the training


def _collect(lab: Lab, options: Options) -> None:
    lab.run([unadapted(options)])
    judged(lab, [arm(label, method) for label, method in METHODS.items()], options)


def final(measured: Mapping[str, Any]) -> float:
    """Training loss towards the end, in bits a token."""
    last = measured["loss"][-LAST:]
    return float(sum(loss for _, loss in last) / len(last))


def _report(results: Results) -> Report:
    least = margin(results, "LoRA")
    findings = []
    for other in ("LoRA", "DoRA", "HiRA"):
        trained, gain = results.gain("PERA", other, final), results.gain("PERA", other)
        told = f"{paper.METHODS['PERA']:.2f} against {paper.METHODS[other]:.2f} accuracy"
        findings.append(
            Finding(f"PERA's training loss ends below {other}'s", "a figure", f"{trained.signed} bits", verdict(trained, least))
        )
        findings.append(Finding(f"PERA beats {other} on held-out text", told, f"{gain.signed} bits", verdict(gain, least)))

    def draw(figure: Figure) -> None:
        left, right = figure.subplots(1, 2)
        lines, differences = {}, {}
        for label in results.labels():
            curves, beside = results.scores(label, "loss"), results.scores("LoRA", "loss")
            points = [(k, step) for k, (step, _) in enumerate(curves[0])]
            lines[label] = [(step, interval([curve[k][1] for curve in curves])) for k, step in points]
            pairs = list(zip(curves, beside, strict=True))
            differences[label] = [(step, interval([one[k][1] - other[k][1] for one, other in pairs])) for k, step in points]
        plot_intervals(lines, log=False, ax=left)
        left.set(xlabel="step", ylabel="training loss, bits per token", title="Each method alone")
        plot_intervals(differences, log=False, ax=right)
        right.axhline(0, color="0.45", linewidth=1, linestyle="--", zorder=0)
        right.set(xlabel="step", ylabel="bits per token above LoRA", title="Beside LoRA, on the same batches")

    notes = [
        "Every step draws new text: at this size the training loss is nearly a held-out loss, and nobody overfits.",
        "Intervals on the left are of each method alone and mostly show that batches differ; those on the right are paired.",
        f"Called a difference: a clear one of at least {least:.4f} bits.",
    ]
    caption = "Training loss of four methods, rank 8, each at its own learning rate; means and 95 % bootstrap intervals"
    return Report([("Held-out text", comparison(results, "LoRA"))], draw, findings, caption, notes, (10.8, 4.6))


EXPERIMENT = Experiment(
    "loss",
    "How the training loss falls",
    "The paper's Fig. 6 shows PERA's training loss below that of LoRA, DoRA and HiRA (arXiv 2604.11841).",
    _collect,
    _report,
)
