"""A first-order against a polynomial fit (Fig. 1), and which of them PERA is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from perakit.adapters import PERA, LoRA, Method
from perakit.adapters.quadratic import Quadratic
from perakit.experiments.arms import Options, Results
from perakit.experiments.experiment import Experiment
from perakit.experiments.jobs import Job
from perakit.experiments.lab import Lab
from perakit.experiments.regression import fit
from perakit.experiments.report import Finding, Report, order_share, verdict
from perakit.experiments.statistics import Interval, interval, paired
from perakit.plots import plot_intervals
from perakit.table import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

M, N = 4, 8
CURVATURES = (0.0, 0.5, 1.0, 2.0)  # of the target: the weight of its quadratic part
# Each is large enough for any linear map, or any quadratic form, of this size.
STUDENTS: dict[str, list[Method]] = {
    "LoRA": [LoRA(M)],
    "PERA": [PERA(M)],
    "polynomial in the input": [LoRA(M), Quadratic(M * N)],
}
LEAST = 0.01  # of the variance


def _collect(lab: Lab, options: Options) -> None:
    effort: dict[str, Any] = (
        {"rates": [0.03], "steps": 50}
        if options.small
        else {"rates": [0.01, 0.03, 0.1], "steps": 1000}
    )
    jobs = []
    for curvature in CURVATURES:
        for seed in range(options.seeds):
            for label, parts in STUDENTS.items():
                settings = effort | {
                    "m": M,
                    "n": N,
                    "curvature": curvature,
                    "seed": seed,
                    "methods": [method.to_dict() for method in parts],
                }
                jobs.append(
                    Job(
                        f"{label}, {curvature:g}",
                        "measured",
                        fit,
                        settings,
                        effort["steps"] * len(effort["rates"]) / 30,
                    )
                )
    lab.run(jobs)


def explained(results: Results, label: str, what: str = "explained") -> list[Any]:
    """One a seed."""
    rows = [row for row in results.of("measured") if row["label"] == label]
    return [row["measured"][what] for row in sorted(rows, key=lambda row: row["settings"]["seed"])]


def _report(results: Results) -> Report:
    curved = CURVATURES[-1]
    findings = []
    for label, claim, told in (
        ("PERA", "PERA fits a curved function better than LoRA", "a sketch"),
        (
            "polynomial in the input",
            "A polynomial in the input, which PERA is not, fits it better than LoRA",
            None,
        ),
    ):
        gain = paired(
            explained(results, f"{label}, {curved:g}"), explained(results, f"LoRA, {curved:g}")
        )
        findings.append(
            Finding(claim, told, f"{gain.signed} of the variance", verdict(gain, LEAST))
        )
    means: dict[str, list[tuple[float, Interval]]] = {
        label: [
            (curvature, interval(explained(results, f"{label}, {curvature:g}")))
            for curvature in CURVATURES
        ]
        for label in STUDENTS
    }
    shares = {
        label: order_share(explained(results, f"{label}, {curved:g}", "share"))
        for label in STUDENTS
    }
    rows = [
        [label, *(one.shown(".3f") for _, one in points), shares[label]]
        for label, points in means.items()
    ]
    foot = (
        "Share of the variance of held-out samples that is explained, mean of the seeds [95 %"
        " bootstrap interval]."
    )
    table = Table(
        (
            "layer",
            *(f"curvature {curvature:g}" for curvature in CURVATURES),
            f"order share, {curved:g}",
        ),
        rows,
        foot,
    )

    def draw(figure: Figure) -> None:
        ax = figure.subplots()
        plot_intervals(means, log=False, ax=ax)
        ax.set(
            xlabel="weight of the quadratic part of the target",
            ylabel="variance explained",
            title="One adapted linear layer",
        )

    notes = [
        (
            "PERA is polynomial in its parameters and linear in its input"
            " ([claim](../claims.md#linear-in-the-input)): one layer fits what LoRA's fits. Fig. 1"
            " of the paper can be read as a statement about the input; of such a function no ΔW"
            " exists, and nothing could be merged."
        ),
        (
            "In a deep network both are parts of a nonlinear function; the other experiments are"
            " about that."
        ),
    ]
    caption = "How much of a function y = Lx + curvature · (xᵀQ_k x)_k each layer explains"
    return Report([("Variance explained", table)], draw, findings, caption, notes)


EXPERIMENT = Experiment(
    "function",
    "A first-order against a polynomial fit",
    "The paper's Fig. 1 sets a first-order fit beside a polynomial one, as LoRA beside PERA (arXiv"
    " 2604.11841).",
    _collect,
    _report,
)
