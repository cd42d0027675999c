"""A first-order against a polynomial fit (Fig. 1), and which of them PERA is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from perakit.adapters import PERA, LoRA, Method
from perakit.adapters.quadratic import Quadratic
from perakit.experiments.arms import Options, at_possible_rates, tuned
from perakit.experiments.experiment import Experiment
from perakit.experiments.jobs import Job
from perakit.experiments.lab import Lab
from perakit.experiments.regression import fit_at
from perakit.experiments.report import Finding, Report, order_share, span, verdict, weakest
from perakit.experiments.results import Results
from perakit.experiments.statistics import Interval
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
RATES = (0.01, 0.03, 0.1)
LEAST = 0.01  # of the variance


@dataclass(frozen=True)
class Student:
    """A layer that fits functions of one curvature."""

    name: str
    methods: list[Method]
    curvature: float

    @property
    def label(self) -> str:
        """Its name in the experiment."""
        return f"{self.name}, {self.curvature:g}"

    def job(self, options: Options, seed: int, lr: float, role: str) -> Job:
        """One training of it."""
        steps = 50 if options.small else 1000
        settings = {
            "m": M,
            "n": N,
            "curvature": self.curvature,
            "methods": [method.to_dict() for method in self.methods],
            "recipe": {"lr": lr, "seed": seed, "steps": steps},
        }
        return Job(self.label, role, fit_at, settings, steps / 30)


def _collect(lab: Lab, options: Options) -> None:
    students = [
        Student(name, methods, curvature)
        for curvature in CURVATURES
        for name, methods in STUDENTS.items()
    ]
    rows = tuned(lab, students, options, grid=RATES[1:2] if options.small else RATES)
    at_possible_rates(lab, students, options, rows)


def unexplained(measured: Mapping[str, Any]) -> float:
    """Share of the variance of the test samples that a layer does not explain."""
    return 1 - float(measured["explained"])


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
        pair = f"{label}, {curved:g}", f"LoRA, {curved:g}"
        gain, at = results.gain(*pair, unexplained), results.gains(*pair, unexplained)
        found = weakest(verdict(one, LEAST) for one in at.values())
        rates = span(at, unit="of the variance")
        findings.append(Finding(claim, told, f"{gain.signed} of the variance", found, rates=rates))
    means: dict[str, list[tuple[float, Interval]]] = {
        label: [
            (curvature, results.mean(f"{label}, {curvature:g}", "explained"))
            for curvature in CURVATURES
        ]
        for label in STUDENTS
    }
    shares = {
        label: order_share(results.scores(f"{label}, {curved:g}", "share")) for label in STUDENTS
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
    cost = "variance that is not explained", "of the variance"
    return Report([("Variance explained", table)], draw, findings, caption, notes, cost=cost)


EXPERIMENT = Experiment(
    "function",
    "A first-order against a polynomial fit",
    "The paper's Fig. 1 sets a first-order fit beside a polynomial one, as LoRA beside PERA (arXiv"
    " 2604.11841).",
    _collect,
    _report,
)
