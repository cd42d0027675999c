"""Which projections to adapt (Table 3 and 10), for PERA and for LoRA.

Source for LoRA: arXiv 2106.09685, section 7.1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from perakit.adapters import PERA, LoRA
from perakit.experiments.arms import RANK, Arm, Options, arm, judged, unadapted
from perakit.experiments.experiment import Experiment
from perakit.experiments.lab import Lab
from perakit.experiments.report import (
    Finding,
    Report,
    compared,
    comparison,
    in_each,
    margin,
    span,
)
from perakit.experiments.results import Results
from perakit.plots import plot_gains

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# GPT-2 keeps q, k and v in one matrix.
PLACES: dict[str, str | list[str]] = {
    "qkv": ["attn.c_attn"],
    "out": ["attn.c_proj"],
    "up": ["mlp.c_fc"],
    "down": ["mlp.c_proj"],
    "qkv, up, down": ["attn.c_attn", "mlp.c_fc", "mlp.c_proj"],
    "all": "all-linear",
}
USUAL = "qkv, up, down"  # the paper's


def _arms() -> list[Arm]:
    both = (("LoRA", LoRA(RANK)), ("PERA", PERA(RANK)))
    return [
        arm(f"{name} on {place}", method, targets=targets)
        for place, targets in PLACES.items()
        for name, method in both
    ]


def _collect(lab: Lab, options: Options) -> None:
    lab.run([unadapted(options)])
    judged(lab, _arms(), options)


def _report(results: Results) -> Report:
    least = margin(results, f"LoRA on {USUAL}")
    gains = {place: results.gain(f"PERA on {place}", f"LoRA on {place}") for place in PLACES}
    best = max(gains, key=lambda place: gains[place].mean)
    cases = {place: results.gains(f"PERA on {place}", f"LoRA on {place}") for place in PLACES}
    at = {(place, *rates): gain for place in PLACES for rates, gain in cases[place].items()}
    every = in_each(cases.values(), least)
    usual, qkv, all_four = (f"PERA on {place}" for place in (USUAL, "qkv", "all"))
    size = {label: results.arm(label)[0]["measured"]["trainable"] for label in (usual, qkv)}
    times = f"{size[usual] / size[qkv]:.1f} times the parameters"
    findings = [
        compared(
            results,
            f"PERA is better on q, k, v, up and down than on q, k and v alone, with {times}",
            usual,
            qkv,
            least,
            "Table 3, 10",
        ),
        compared(
            results,
            "PERA on q, k, v, up and down beats PERA on all projections",
            usual,
            all_four,
            least,
        ),
        Finding(
            "PERA beats LoRA wherever both are placed",
            None,
            f"at most {gains[best].signed} bits, on {best}",
            every,
            rates=span(at),
        ),
        compared(
            results,
            "LoRA on all projections beats LoRA on q, k and v",
            "LoRA on all",
            "LoRA on qkv",
            least,
        ),
    ]

    def draw(figure: Figure) -> None:
        ax = figure.subplots()
        shown = {
            label: results.gain(label, f"LoRA on {USUAL}")
            for label in results.labels()
            if label != f"LoRA on {USUAL}"
        }
        plot_gains(shown, margin=least, ax=ax)
        ax.set(
            xlabel=f"held-out bits per byte better than LoRA on {USUAL}",
            title=f"{results.options.seeds} seeds, rank {RANK}",
        )

    notes = [
        (
            "The places differ in parameters: this says where to spend, not which is better for the"
            " same money."
        ),
        f"Called a gain: a clear one of at least {least:.4f} bits per byte.",
    ]
    caption = f"Every placement beside LoRA on {USUAL}; grey: too small to count"
    return Report(
        [("All placements", comparison(results, f"LoRA on {USUAL}"))],
        draw,
        findings,
        caption,
        notes,
        (7.2, 5.2),
    )


EXPERIMENT = Experiment(
    "placement",
    "Which projections to adapt",
    "The paper adapts q, k, v, up and down, the best of the places it compares (arXiv 2604.11841,"
    " Tables 3 and 10).",
    _collect,
    _report,
)
