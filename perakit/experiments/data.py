"""Whether PERA does well with little data (Fig. 4, Table 11)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from perakit.adapters import PERA, LoRA
from perakit.experiments import paper
from perakit.experiments.arms import RANK, Arm, Options, arm, judged, unadapted
from perakit.experiments.experiment import Experiment
from perakit.experiments.lab import Lab
from perakit.experiments.report import Report, compared, comparison, margin
from perakit.experiments.results import Results
from perakit.experiments.tuning import PASSAGE
from perakit.plots import plot_intervals

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PERCENT = (10, 20, 50, 80, 100)
WHOLE = 50_000  # bytes, called all the data: a run reads about as many


def _arms(options: Options) -> list[Arm]:
    part = WHOLE / (0.9 * options.settings()["limit"]) / 100  # of the training text
    both = (("LoRA", LoRA(RANK)), ("PERA", PERA(RANK)))
    return [
        arm(f"{name}, {percent} %", method, fraction=round(part * percent, 6))
        for percent in PERCENT
        for name, method in both
    ]


def _collect(lab: Lab, options: Options) -> None:
    lab.run([unadapted(options)])
    judged(lab, _arms(options), options)


def _report(results: Results) -> Report:
    least = margin(results, "LoRA, 100 %")
    findings = []
    for percent in (10, 100):
        # No LoRA with less there
        told = (
            f"{paper.DATA[1.0]:.2f} against {paper.METHODS['LoRA']:.2f}" if percent == 100 else None
        )
        claim = f"With {percent} % of the data PERA beats LoRA"
        pera, lora = f"PERA, {percent} %", f"LoRA, {percent} %"
        findings.append(compared(results, claim, pera, lora, least, told))
    told = f"{paper.DATA[0.1]:.2f} against {paper.METHODS['LoRA']:.2f}"
    claim = "PERA with 10 % of the data beats LoRA with all"
    findings.append(compared(results, claim, "PERA, 10 %", "LoRA, 100 %", least, told))

    def draw(figure: Figure) -> None:
        ax = figure.subplots()
        plot_intervals(
            {
                name: [(p, results.mean(f"{name}, {p} %")) for p in PERCENT]
                for name in ("LoRA", "PERA")
            },
            ax=ax,
        )
        ax.set(
            xlabel="per cent of the text",
            ylabel="held-out bits per byte",
            title="Each amount at its own learning rate",
        )

    notes = [
        "Little text, read often, wants smaller steps: for the arms with little the grid goes on.",
        (
            f"All the data: {WHOLE:,} bytes, which the same number of steps reads about once; 10 %"
            f" of it, ten times. Each seed draws its own passages of {PASSAGE} bytes from all"
            " files, the same for both methods; a smaller part lies in the larger."
        ),
        f"Called a gain: a clear one of at least {least:.4f} bits per byte.",
    ]
    caption = "Held-out cost against the amount of training text"
    return Report(
        [("All amounts", comparison(results, "LoRA, 100 %"))], draw, findings, caption, notes
    )


EXPERIMENT = Experiment(
    "data",
    "Whether PERA does well with little data",
    "The paper reports that PERA keeps most of its accuracy with a tenth of the data (arXiv"
    " 2604.11841, Fig. 4 and Table 11).",
    _collect,
    _report,
)
