"""Whether the best learning rate follows the curvature of the loss in what trains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from perakit.adapters import PERA, LoRA
from perakit.experiments.arms import RANK, Arm, Options, arm, in_full, tuned
from perakit.experiments.experiment import Experiment
from perakit.experiments.jobs import Job
from perakit.experiments.lab import Lab
from perakit.experiments.rank import RANKS, constant
from perakit.experiments.report import (
    INCONCLUSIVE,
    NOT_REPRODUCED,
    REPRODUCED,
    Finding,
    Report,
)
from perakit.experiments.results import Results
from perakit.experiments.sharpness import sharpness
from perakit.experiments.statistics import Interval, interval
from perakit.plots import plot_intervals
from perakit.table import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SEEDS = 3  # starts at which the curvature is measured
WINDOWS = 4  # of text, as many as a training step has
LEAST = -0.5  # a rank correlation above it is called none


def groups(options: Options) -> dict[str, list[Arm]]:
    """Arms whose rates were tuned, in groups of a figure."""
    others = [rank for rank in RANKS if rank != RANK]
    return {
        "LoRA, α = r": [arm(f"LoRA r={rank}", LoRA(rank)) for rank in RANKS],
        f"LoRA, α = {RANK}": [arm(constant(rank), LoRA(rank, alpha=RANK)) for rank in others],
        "PERA r=8": [
            arm("PERA", PERA(RANK)),
            arm("PERA, awake", PERA(RANK, feature_scale=options.waking)),
        ],
        "the model itself": list(in_full().values()),
    }


def _collect(lab: Lab, options: Options) -> None:
    arms = [one for group in groups(options).values() for one in group]
    lab.run(
        [
            Job(
                one.label,
                "curvature",
                sharpness,
                {**one.job(options, seed, 1e-3, "curvature").settings, "windows": WINDOWS},
                100,
            )
            for one in arms
            for seed in range(1 if options.small else SEEDS)
        ]
    )
    tuned(lab, arms, options)


def curvatures(results: Results, label: str) -> list[float]:
    """λmax of an arm, one a start."""
    rows = [row for row in results.of("curvature") if row["label"] == label]
    return [row["measured"]["lambda"] for row in rows]


def correlations(
    results: Results, at: Mapping[str, float], labels: Sequence[str]
) -> dict[str, float]:
    """Spearman's rank correlation of λmax and rate: at the best, lowest and highest possible.

    0 where all rates are equal.
    """
    from scipy.stats import spearmanr

    rates = {
        "best": [results.lr(label) for label in labels],
        "lowest": [results.rates(label)[0] for label in labels],
        "highest": [results.rates(label)[-1] for label in labels],
    }
    curved = [at[label] for label in labels]
    # Rates that are all equal have no order
    return {
        name: float(spearmanr(curved, found).statistic) if len(set(found)) > 1 else 0.0
        for name, found in rates.items()
    }


def falls(found: Mapping[str, float]) -> str:
    """The verdict on the claim that the best rate falls as λmax grows."""
    if max(found.values()) <= LEAST:
        return REPRODUCED
    return NOT_REPRODUCED if min(found.values()) > LEAST else INCONCLUSIVE


def _report(results: Results) -> Report:
    arms = groups(results.options)
    at = {
        one.label: sum(values) / len(values)
        for group in arms.values()
        for one in group
        if (values := curvatures(results, one.label))
    }
    findings = []
    alpha_r = [one.label for one in arms["LoRA, α = r"]]
    for claim, labels in (
        ("Over all arms the best rate falls as λmax at the start grows", list(at)),
        ("Over LoRA's ranks, at α = r, the best rate falls as λmax grows", alpha_r),
    ):
        found = correlations(results, at, labels)
        ours = f"rank correlation {found['best']:+.2f} over {len(labels)} arms [no interval]"
        ends = (
            f"{min(found.values()):+.2f} ... {max(found.values()):+.2f}, lowest and highest rates"
        )
        findings.append(Finding(claim, None, ours, falls(found), rates=ends))
    rows = []
    for group, members in arms.items():
        for one in members:
            values = curvatures(results, one.label)
            shown = interval(values).shown(".3g") if len(values) > 1 else f"{values[0]:.3g}"
            possible = " or ".join(f"{lr:g}" for lr in results.rates(one.label))
            lr = f"{results.lr(one.label):g}" + "*" * results.edge(one.label)
            rows.append([group, one.label, shown, lr, possible])
    foot = (
        f"λmax of the Hessian of the training loss (nats a token, {WINDOWS} windows) in what"
        f" trains, at its start, mean of {SEEDS} starts [95 % bootstrap interval].\n*: the first"
        " or last rate that was tried."
    )
    table = Table(("group", "arm", "λmax", "best rate", "possible rates"), rows, foot)

    def draw(figure: Figure) -> None:
        ax = figure.subplots()
        lines: dict[str, list[tuple[float, Interval]]] = {
            group: sorted(
                ((at[one.label], results.reach(one.label)) for one in members),
                key=lambda point: point[0],
            )
            for group, members in arms.items()
        }
        plot_intervals(lines, ax=ax)
        ax.set_xticks([1, 10], ["1", "10"])
        ax.set(xlabel="λmax at the start", ylabel="learning rate", yscale="log")

    low, high = (at[label] for label in (alpha_r[0], alpha_r[-1]))
    notes = [
        (
            f"At α = r, λmax at the start is {high / low:.2f} times as large at rank {RANKS[-1]} as"
            f" at rank {RANKS[0]}, and the best rate goes from {results.lr(alpha_r[0]):g} to"
            f" {results.lr(alpha_r[-1]):g}. Each verdict is about an order of arms, not about a"
            " law for the size of the rate."
        ),
        (
            "Plain gradient descent is stable below 2/λmax. These runs use Adam, which rescales"
            " every direction, so that no such bound holds for its rate."
        ),
        (
            "With B = 0 the Hessian of LoRA has a zero block for A, and with h = 0 PERA's λmax is"
            " LoRA's at every feature scale. What the loss looks like later in training is not"
            " measured here."
        ),
        "The rates are those of `rank` and `components`: nothing was tuned for this page alone.",
    ]
    return Report(
        [("Curvature and rate", table)],
        draw,
        findings,
        "The best learning rate, with the range of the possible ones, against the curvature",
        notes,
    )


EXPERIMENT = Experiment(
    "curvature",
    "What the best rate follows",
    "Best rates differ between what trains. Learning Rate Matters (arXiv 2602.04998, abstract)"
    " attributes it to the largest eigenvalue of the Hessian.",
    _collect,
    _report,
)
