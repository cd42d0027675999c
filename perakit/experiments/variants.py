"""The layers that PERA's authors tried, all of them, beside the one that was published."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perakit.adapters import PERA, LoRA, Method
from perakit.experiments import authors, paper
from perakit.experiments.arms import RANK, Arm, Options, arm, judged, unadapted
from perakit.experiments.experiment import Experiment
from perakit.experiments.jobs import Job
from perakit.experiments.lab import Lab
from perakit.experiments.report import Report, compared, comparison, margin, order_share
from perakit.experiments.results import Results
from perakit.experiments.tuning import tune
from perakit.plots import plot_gains
from perakit.table import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DROPOUT = 0.05  # the paper's, and the repository's default


@dataclass(frozen=True)
class Layer:
    """A layer of the first commit.

    weight: w of a product b_i∘b_j; start: of h, of v, or of both; told: its name in the paper's
    Table 4, None where the paper does not report it; rival: the LoRA to compare it with.
    """

    label: str
    method: Method
    file: str
    weight: str
    start: str
    told: str | None = None
    rival: str = "LoRA"


LAYERS = (
    Layer("PERA", PERA(RANK), "`lora_@final.py`, `lora_@1.py`", "h", "0", "PERA"),
    Layer(
        f"PERA, dropout {DROPOUT}",
        PERA(RANK, dropout=DROPOUT),
        "`lora_@final.py`",
        "h",
        "0",
        "PERA",
        f"LoRA, dropout {DROPOUT}",
    ),
    Layer(
        "LoRA + cross", PERA(RANK, terms="cross"), "cross terms trainable", "h, i < j", "0", "cross"
    ),
    Layer(
        "LoRA + square",
        PERA(RANK, terms="square"),
        "square terms trainable",
        "h, i = j",
        "0",
        "square",
    ),
    Layer("PERA, h from 1", authors.HOne(RANK), "`lora_@5.py`", "h", "1"),
    Layer("PERA, v from 0", authors.OnB(RANK), "`lora_@6.py`", "v", "0"),
    Layer("PERA, h v from 0", authors.BothZero(RANK), "`lora_@2.py`", "h v", "0 and 0"),
    Layer("PERA, h v from 1", authors.BothOne(RANK), "`lora_@4.py`", "h v", "1 and 1"),
    Layer("PERA, h from 0, v from 1", authors.Polynomial(RANK), "polynomial", "h v", "0 and 1"),
    Layer("Quadratic kernel", authors.Kernel(RANK), "`lora.py`", "1, or 2 for i < j", "fixed"),
    Layer("All weights 1", authors.Ones(RANK), "`lora_@3.py`", "1", "fixed"),
)


class Tried(Arm):
    """An arm whose method is one of `authors`."""

    def job(self, *given: Any) -> Job:
        """One run of it, by `tune_tried`."""
        return replace(super().job(*given), compute=tune_tried)


def tune_tried(settings: Mapping[str, Any], folder: Path | None = None) -> dict[str, Any]:
    """`tuning.tune`, which finds the authors' methods by their names."""
    with authors.known():
        return tune(settings, folder)


def _arms() -> list[Arm]:
    found = [arm("LoRA", LoRA(RANK)), arm(f"LoRA, dropout {DROPOUT}", LoRA(RANK, dropout=DROPOUT))]
    for one in LAYERS:
        kind = Tried if isinstance(one.method, authors.Variant) else Arm
        found.append(kind(one.label, one.method, {}, {}))
    return found


def _collect(lab: Lab, options: Options) -> None:
    lab.run([unadapted(options)])
    with authors.known():
        judged(lab, _arms(), options)


def _report(results: Results) -> Report:
    least = margin(results, "LoRA")

    findings, numbers = [], paper.COMPONENTS
    for one in LAYERS:
        told = (
            one.told and f"{numbers[one.told]:.2f} against {numbers['LoRA']:.2f} accuracy, r = 16"
        )
        claim = f"{one.label} beats {one.rival}"
        findings.append(compared(results, claim, one.label, one.rival, least, told))
    best = min(
        (one.label for one in LAYERS if not one.told),
        key=lambda label: results.mean(label, "validation").mean,
    )
    claim = (
        f"Of those that the paper leaves out, the one that validation text prefers ({best}) beats"
        " PERA"
    )
    findings.append(compared(results, claim, best, "PERA", least))
    gains = {one.label: results.gain(one.label, one.rival) for one in LAYERS}
    rows = [
        [
            one.label,
            one.file,
            one.weight,
            one.start,
            "yes" if one.told else "no",
            str(results.mean(one.label)),
            gains[one.label].signed,
            order_share(results.scores(one.label, "share")),
        ]
        for one in LAYERS
    ]
    columns = (
        "arm",
        "file of the first commit",
        "weight of a product",
        "its start",
        "in the paper",
        "held-out bits per byte",
        "better than LoRA by",
        "order share",
    )
    foot = (
        "ΔW = B A + Σ_{i<=j} w_ij (b_i∘b_j)(a_i∘a_j)ᵀ. The weight w is made of h, a vector on the"
        " products of A, and of v, one on those of B; or it is fixed.\nPERA with dropout stands"
        " beside LoRA with dropout."
    )

    def draw(figure: Figure) -> None:
        ax = figure.subplots()
        plot_gains(gains, margin=least, ax=ax)
        ax.set(
            xlabel="held-out bits per byte better than LoRA",
            title=f"{results.options.seeds} seeds, rank {RANK}",
        )

    notes = [
        (
            "The repository is github.com/zhangwenhao6/PERA. Its first commit, 3b9c930 of 12 April"
            " 2026, holds eleven layers of PERA's kind and HiRA's. The eleven run, on layers"
            " without a bias. The one that its training script imports is `lora.py`, the quadratic"
            " kernel. Commit e05f7bf, a day later, deletes the others."
        ),
        (
            "HEAD's layer is PERA, and it does not run: its forward pass asks for h, and the line"
            " that creates h is commented out."
        ),
        (
            "The paper (arXiv 2604.11841) reports PERA with h from 0 and, in Table 4, the square"
            " and the cross terms alone. How these were chosen from the eleven is not known."
        ),
        (
            "Three files have Chinese names, which are translated here:"
            " `lora_@交叉项可训练.py` (cross terms trainable), `lora_@平方项可训练.py` (square"
            " terms trainable), `lora_多项式.py` (polynomial)."
        ),
        (
            "As a matrix, v from 0 is PERA. Where h and v both start from 0, each is multiplied by"
            " the other, so neither ever gets a gradient: that arm is LoRA with"
            f" {RANK * (RANK + 1)} more numbers a layer, which never move."
        ),
        (
            "`lora_@5.py` makes a v as well, which nothing reads. It is left out here, and the"
            " arm's parameters are counted without it."
        ),
        (
            "Dropout is 0.05 by default in that commit: on the adapter's input in `lora_@final.py`"
            " and in both ablations, on the base's input in `lora_@1.py` to `lora_@6.py`, nowhere"
            " in the other two. Here it is 0 but in the arms that name it. Dropout on the base's"
            " input changes the frozen model, which no adapter here may do; without it"
            " `lora_@1.py` is PERA."
        ),
        (
            f"Called a gain: a clear one of at least {least:.4f} bits per byte, 1 % of what LoRA"
            " gains over the unadapted model."
        ),
    ]
    caption = "How much better than LoRA each variant is, seed by seed; grey: too small to count"
    tables = [
        ("The layers of the first commit", Table(columns, rows, foot, numbers=False)),
        ("All arms", comparison(results, "LoRA")),
    ]
    return Report(tables, draw, findings, caption, notes)


EXPERIMENT = Experiment(
    "variants",
    "The variants that the authors tried",
    "The first commit of the authors' repository holds eleven layers; the paper reports PERA and"
    " two ablations of it (arXiv 2604.11841, Table 4).",
    _collect,
    _report,
)
