"""Whether a low rank is enough (Fig. 3, Table 9), for PERA and for LoRA.

Source for LoRA: arXiv 2106.09685, section 7.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from perakit.adapters import PERA, LoRA
from perakit.experiments import paper
from perakit.experiments.arms import (
    FULL,
    RANK,
    Arm,
    Options,
    arm,
    in_full,
    judged,
    tuned,
    unadapted,
)
from perakit.experiments.experiment import Experiment
from perakit.experiments.lab import Lab
from perakit.experiments.report import (
    INCONCLUSIVE,
    LORA_PAPER,
    NOT_REPRODUCED,
    PERA_PAPER,
    REPRODUCED,
    Finding,
    Picture,
    Report,
    below,
    compared,
    comparison,
    in_each,
    margin,
    recovery,
    span,
    weakest,
)
from perakit.experiments.results import Results
from perakit.experiments.statistics import Interval, interval
from perakit.plots import plot_intervals
from perakit.table import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RANKS = (1, 2, 4, 8, 16, 32)


def _arms() -> list[Arm]:
    return [
        arm(f"{name} r={rank}", method(rank))
        for rank in RANKS
        for name, method in (("LoRA", LoRA), ("PERA", PERA))
    ]


def constant(rank: int) -> str:
    """The arm of LoRA whose alpha is RANK at every rank; at RANK it is the usual one."""
    return f"LoRA r={rank}" + (f", alpha {RANK}" if rank != RANK else "")


def _collect(lab: Lab, options: Options) -> None:
    lab.run([unadapted(options)])
    judged(lab, [*_arms(), in_full()[FULL]], options)
    # Of these only the rate is asked
    others = [rank for rank in RANKS if rank != RANK]
    tuned(lab, [arm(constant(rank), LoRA(rank, alpha=RANK)) for rank in others], options)


def falls(first: Sequence[float], last: Sequence[float]) -> str:
    """The verdict on the claim that the best rate falls to a half or less.

    first, last: the rates that are possible at the first rank, and at the last.
    """
    if max(last) <= min(first) / 2:
        return REPRODUCED
    return NOT_REPRODUCED if min(last) > max(first) / 2 else INCONCLUSIVE


def stays(first: Sequence[float], last: Sequence[float]) -> str:
    """The verdict on the claim that the best rate changes by no more than a factor of 2."""
    low, high = min(last) / max(first), max(last) / min(first)
    if low >= 0.5 and high <= 2:
        return REPRODUCED
    return NOT_REPRODUCED if high < 0.5 or low > 2 else INCONCLUSIVE


def enough(gain: Interval, least: float) -> str:
    """The verdict on the claim that a higher rank gains nothing: it gains less than `least`."""
    if gain.most < least:
        return REPRODUCED
    return NOT_REPRODUCED if gain.clear > 0 and gain.mean >= least else INCONCLUSIVE


def _report(results: Results) -> Report:
    least = margin(results, "LoRA r=8")
    told = paper.RANKS
    findings = []
    for name, said in (
        ("PERA", f"{told[2]:.2f} at 2, {told[32]:.2f} at 32"),
        ("LoRA", "Wq and Wv: 73.4 at 1, 73.5 at 64 on WikiSQL (LoRA's Table 6)"),
    ):
        claim = (
            f"A low rank is enough for {name}: 32 gains no more than 2"
            if name == "PERA"
            else "The same for LoRA"
        )
        source = PERA_PAPER if name == "PERA" else LORA_PAPER
        high, low = f"{name} r=32", f"{name} r=2"
        found = compared(results, claim, high, low, least, said, judge=enough, source=source)
        findings.append(replace(found, ours=f"32 over 2: {found.ours}"))
    gains = {rank: results.gain(f"PERA r={rank}", f"LoRA r={rank}") for rank in RANKS}
    best = max(gains, key=lambda rank: gains[rank].mean)
    cases = {rank: results.gains(f"PERA r={rank}", f"LoRA r={rank}") for rank in RANKS}
    at = {(rank, *rates): gain for rank in RANKS for rates, gain in cases[rank].items()}
    every = in_each(cases.values(), least)
    findings.append(
        Finding(
            "PERA beats LoRA at every rank",
            None,
            f"at most {gains[best].signed} bits, r = {best}",
            every,
            rates=span(at),
        )
    )

    factor, chance = (
        results.mean("LoRA r=4", what) for what in ("amplification", "amplification_random")
    )
    factors = results.means("LoRA r=4", "amplification")
    ours = f"{factor.shown('.1f')} times; random directions: {chance.shown('.1f')}"
    claim = "At r = 4 LoRA's update amplifies what W0 has of its directions: more than once"
    other_way = {REPRODUCED: NOT_REPRODUCED, NOT_REPRODUCED: REPRODUCED}
    amplifies = weakest(other_way.get(below(one, 1), INCONCLUSIVE) for one in factors.values())
    said, rates = "21.5 times, r = 4 (LoRA's Table 7)", span(factors, ".1f", "times")
    findings.append(Finding(claim, said, ours, amplifies, LORA_PAPER, rates))

    for alpha, label, judge, claim in (
        ("α = r", "LoRA r={}".format, falls, "LoRA's best rate falls to half or less from r = 1"),
        (
            f"α = {RANK}",
            constant,
            stays,
            "LoRA's best rate stays, within a factor of 2, from r = 1",
        ),
    ):
        ends = [results.rates(label(rank)) for rank in (RANKS[0], RANKS[-1])]
        best_rates = " to ".join(f"{results.lr(label(rank)):g}" for rank in (RANKS[0], RANKS[-1]))
        possible = " to ".join(" or ".join(f"{lr:g}" for lr in end) for end in ends)
        claim = f"At {alpha}, {claim} to r = {RANKS[-1]}"
        findings.append(Finding(claim, None, best_rates, judge(*ends), rates=possible))

    def draw_rates(figure: Figure) -> None:
        ax = figure.subplots()
        lines = {
            name: [(rank, results.reach(label(rank))) for rank in RANKS]
            for name, label in (("α = r", "LoRA r={}".format), (f"α = {RANK}", constant))
        }
        plot_intervals(lines, ax=ax)
        ax.set(xlabel="rank r", ylabel="learning rate", yscale="log", title="LoRA's best rate")

    def draw(figure: Figure) -> None:
        ax = figure.subplots()
        lines = {
            name: [(rank, results.mean(f"{name} r={rank}")) for rank in RANKS]
            for name in ("LoRA", "PERA")
        }
        plot_intervals(lines, ax=ax)
        ax.set(
            xlabel="rank r",
            ylabel="held-out bits per byte",
            title="Each rank at its own learning rate",
        )

    def strengthened(label: str) -> list[str]:
        return [
            label,
            *(
                str(interval(results.scores(label, what)))
                for what in ("amplification", "amplification_random")
            ),
        ]

    foot = (
        "‖ΔW‖_F / ‖UᵀW0V‖_F with the first r singular directions of ΔW, and with random ones; mean"
        " over layers."
    )
    amplified = Table(
        ("arm", "of ΔW's directions", "of random directions"),
        [strengthened(f"LoRA r={rank}") for rank in RANKS],
        foot,
    )
    notes = [
        f"A difference counts from {least:.4f} bits per byte, 1 % of LoRA's gain at r = 8.",
        (
            "LoRA Without Regret (Thinking Machines Lab, 2025) reports that with α constant, and so"
            " a scale that falls as 1/r, the best rate hardly moves with rank. With α = r, as in"
            " PERA's paper, a higher rank has more terms that move at the same rate."
        ),
        "A hundred steps: what more training would do to the order of ranks is not seen here.",
        "The paper has PERA at all of these ranks but 1, and LoRA at 16 and 32 only.",
        (
            "LoRA's paper says that an update amplifies directions that W0 does not emphasise"
            " (arXiv 2106.09685, section 7.3). A factor below that of random directions says that"
            " W0 has more of ΔW's directions than of random ones."
        ),
    ]
    caption = "Held-out cost against rank"
    tables = [
        ("All ranks", comparison(results, "LoRA r=8")),
        ("What of full fine-tuning's gain each rank recovers", recovery(results)),
        ("What LoRA's update amplifies", amplified),
    ]
    said = "The best learning rate of LoRA against rank, and the range of those that are possible"
    return Report(
        tables, draw, findings, caption, notes, more=[Picture("best-rates", draw_rates, said)]
    )


EXPERIMENT = Experiment(
    "rank",
    "Whether a low rank is enough",
    "The paper finds PERA nearly as good at rank 2 as at rank 32 (arXiv 2604.11841, Fig. 3 and"
    " Table 9); LoRA's says the same of LoRA.",
    _collect,
    _report,
)
