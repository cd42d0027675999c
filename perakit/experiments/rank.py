"""Whether a low rank is enough (Fig. 3, Table 9), for PERA and for LoRA.

Source for LoRA: arXiv 2106.09685, section 7.2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from perakit.adapters import PERA, LoRA
from perakit.experiments import paper
from perakit.experiments.arms import Arm, Options, Results, arm, judged, unadapted
from perakit.experiments.experiment import Experiment
from perakit.experiments.lab import Lab
from perakit.experiments.report import (
    INCONCLUSIVE,
    LORA_PAPER,
    NOT_REPRODUCED,
    PERA_PAPER,
    REPRODUCED,
    Finding,
    Report,
    below,
    comparison,
    everywhere,
    margin,
    verdict,
)
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


def _collect(lab: Lab, options: Options) -> None:
    lab.run([unadapted(options)])
    judged(lab, _arms(), options)


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
        gain = results.gain(f"{name} r=32", f"{name} r=2")
        claim = (
            f"A low rank is enough for {name}: 32 gains no more than 2"
            if name == "PERA"
            else "The same for LoRA"
        )
        source = PERA_PAPER if name == "PERA" else LORA_PAPER
        findings.append(
            Finding(claim, said, f"32 over 2: {gain.signed} bits", enough(gain, least), source)
        )
    gains = {rank: results.gain(f"PERA r={rank}", f"LoRA r={rank}") for rank in RANKS}
    best = max(gains, key=lambda rank: gains[rank].mean)
    every = everywhere(verdict(gain, least) for gain in gains.values())
    findings.append(
        Finding(
            "PERA beats LoRA at every rank",
            None,
            f"at most {gains[best].signed} bits, r = {best}",
            every,
        )
    )

    factor, chance = (
        results.mean("LoRA r=4", what) for what in ("amplification", "amplification_random")
    )
    ours = f"{factor.shown('.1f')} times; random directions: {chance.shown('.1f')}"
    claim = "At r = 4 LoRA's update amplifies what W0 has of its directions: more than once"
    amplifies = {REPRODUCED: NOT_REPRODUCED, NOT_REPRODUCED: REPRODUCED}.get(
        below(factor, 1), INCONCLUSIVE
    )
    findings.append(
        Finding(claim, "21.5 times, r = 4 (LoRA's Table 7)", ours, amplifies, LORA_PAPER)
    )

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
        ("What LoRA's update amplifies", amplified),
    ]
    return Report(tables, draw, findings, caption, notes)


EXPERIMENT = Experiment(
    "rank",
    "Whether a low rank is enough",
    "The paper finds PERA nearly as good at rank 2 as at rank 32 (arXiv 2604.11841, Fig. 3 and"
    " Table 9); LoRA's says the same of LoRA.",
    _collect,
    _report,
)
