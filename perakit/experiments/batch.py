"""Whether the batch size decides who is better: LoRA and PERA from 1 to 32 windows a step."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from perakit.adapters import PERA, LoRA, Method
from perakit.experiments.arms import RANK, Arm, Options, arm, judged, unadapted
from perakit.experiments.experiment import Experiment
from perakit.experiments.lab import Lab
from perakit.experiments.report import (
    INCONCLUSIVE,
    NOT_REPRODUCED,
    REPRODUCED,
    Finding,
    Picture,
    Report,
    comparison,
    in_each,
    margin,
    span,
)
from perakit.experiments.results import Results
from perakit.experiments.statistics import Interval
from perakit.plots import plot_intervals

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BATCHES = (1, 2, 4, 8, 16, 32)
USUAL = 4


def contenders(options: Options) -> dict[str, Method]:
    """LoRA, PERA as published, and PERA awake."""
    scale = options.waking
    return {
        "LoRA": LoRA(RANK),
        "PERA": PERA(RANK),
        f"PERA, scale {scale:g}": PERA(RANK, feature_scale=scale),
    }


def _arms(options: Options) -> list[Arm]:
    return [
        arm(f"{name}, batch {batch}", method, recipe(options, batch))
        for batch in BATCHES
        for name, method in contenders(options).items()
    ]


def recipe(options: Options, batch: int) -> dict[str, int]:
    """As many windows in all as usual, `batch` of them a step."""
    usual = options.recipe
    steps, warmup = (USUAL * count // batch for count in (usual.steps, usual.warmup))
    return {"batch": batch, "steps": max(steps, 1), "warmup": max(warmup, 1)}


def _collect(lab: Lab, options: Options) -> None:
    lab.run([unadapted(options)])
    judged(lab, _arms(options), options)


def grows(first: list[float], last: list[float]) -> str:
    """The verdict on the claim that the best rate doubles at least.

    first, last: the rates that are possible at the smallest batch, and at the largest.
    """
    if min(last) >= 2 * max(first):
        return REPRODUCED
    return NOT_REPRODUCED if max(last) < 2 * min(first) else INCONCLUSIVE


def _report(results: Results) -> Report:
    usual = f"LoRA, batch {USUAL}"
    least, (lora, *others) = margin(results, usual), contenders(results.options)
    findings = []
    for name in others:
        gains = {
            batch: results.gain(f"{name}, batch {batch}", f"{lora}, batch {batch}")
            for batch in BATCHES
        }
        cases = {
            batch: results.gains(f"{name}, batch {batch}", f"{lora}, batch {batch}")
            for batch in BATCHES
        }
        at = {(batch, *rates): gain for batch in BATCHES for rates, gain in cases[batch].items()}
        best = max(gains, key=lambda batch: gains[batch].mean)
        findings.append(
            Finding(
                f"{name} beats LoRA at every batch size",
                None,
                f"at most {gains[best].signed} bits, batch {best}",
                in_each(cases.values(), least),
                rates=span(at),
            )
        )
    ends = [f"{lora}, batch {batch}" for batch in (BATCHES[0], BATCHES[-1])]
    possible = [results.rates(label) for label in ends]
    findings.append(
        Finding(
            f"LoRA's best rate doubles at least from batch {BATCHES[0]} to {BATCHES[-1]}",
            None,
            " to ".join(f"{results.lr(label):g}" for label in ends),
            grows(*possible),
            rates=" to ".join(" or ".join(f"{lr:g}" for lr in rates) for rates in possible),
        )
    )

    def lines(
        point: Callable[[str], Interval], names: list[str]
    ) -> dict[str, list[tuple[float, Interval]]]:
        return {
            name: [(batch, point(f"{name}, batch {batch}")) for batch in BATCHES] for name in names
        }

    def draw(figure: Figure) -> None:
        ax = figure.subplots()
        plot_intervals(lines(results.mean, [lora, *others]), ax=ax)
        ax.set(
            xlabel="windows a step",
            ylabel="held-out bits per byte",
            title="The same text in all, each batch size at its own learning rate",
        )

    def draw_rates(figure: Figure) -> None:
        ax = figure.subplots()
        plot_intervals(lines(results.reach, [lora]), ax=ax)
        ax.set(
            xlabel="windows a step",
            ylabel="learning rate",
            yscale="log",
            title="LoRA's best rate",
        )

    notes = [
        (
            f"Every arm reads {USUAL * results.options.recipe.steps} windows of"
            f" {results.options.recipe.context} bytes, or as many as divide into whole steps: a"
            " larger batch takes fewer steps. The warm-up is a tenth of them."
        ),
        f"Called a gain: a clear one of at least {least:.4f} bits per byte.",
    ]
    said = "LoRA's best learning rate against batch size, with the range of the possible ones"
    return Report(
        [("All batch sizes", comparison(results, usual))],
        draw,
        findings,
        "Held-out cost against batch size, mean and 95 % bootstrap interval",
        notes,
        more=[Picture("best-rates", draw_rates, said)],
    )


EXPERIMENT = Experiment(
    "batch",
    "Whether the batch size decides",
    "A comparison at one batch size may be that batch size's (arXiv 2602.04998).",
    _collect,
    _report,
)
