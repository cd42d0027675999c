"""When the polynomial terms help: their share against the gain, over what could decide it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from perakit.adapters import PERA, LoRA
from perakit.experiments.arms import RANK, Arm, Options, arm, judged, unadapted
from perakit.experiments.experiment import Experiment
from perakit.experiments.forgetting import PACKAGES
from perakit.experiments.lab import Lab
from perakit.experiments.report import (
    INCONCLUSIVE,
    MARGIN,
    NOT_REPRODUCED,
    REPRODUCED,
    REVERSED,
    Report,
    compared,
    margin,
    order_share,
    span,
    verdict,
)
from perakit.experiments.results import Results
from perakit.experiments.share import scales, share_of
from perakit.experiments.statistics import Interval, interval, unknown
from perakit.plots import plot_intervals
from perakit.table import Table
from perakit.toy.language import sizes
from perakit.toy.pretrained import load

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class World:
    """One setting in which LoRA, PERA as published and PERA awake are compared.

    awake: what was predicted for PERA awake before any of its runs, "PERA" or "neither"; why: on
    what grounds.
    """

    rank: int
    awake: str
    why: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)


# Written on 1 December 2026, before any of these arms but those of "as usual" had run. For PERA as
# published the prediction is "neither" everywhere: its terms are under one per cent of the update.
WORLDS = {
    "as usual": World(RANK, "neither", "`share` had shown a gain, too small to count"),
    "rank 2": World(
        2, "PERA", "K = 5 for 2, and `rank` has LoRA gain from 2 to 4: a part of it is in reach"
    ),
    "rank 32": World(
        32, "neither", "K = 560 is beyond the width, and LoRA gains little from 16 to 32"
    ),
    "400 steps": World(
        RANK,
        "PERA",
        "the share grows with the steps, and more training needs more rank",
        recipe={"steps": 400},
    ),
    "packages": World(RANK, "neither", "as on the other code", {"text": PACKAGES}),
    "product": World(
        RANK,
        "neither",
        "ΔW is linear in its input: products of features are the network's to make",
        {"text": "product"},
    ),
    "sum": World(RANK, "neither", "the control of `product`", {"text": "sum"}),
}


def _arms(options: Options) -> list[Arm]:
    awake = options.waking
    found = []
    for name, world in WORLDS.items():
        methods = {
            "LoRA": LoRA(world.rank),
            "PERA": PERA(world.rank),
            "PERA awake": PERA(world.rank, feature_scale=awake),
        }
        if name == "as usual":
            n = sizes(load(options.model)).width
            others = [scale for scale in scales(n) if scale not in (1.0, awake)]
            methods |= {f"PERA x {one:g}": PERA(RANK, feature_scale=one) for one in others}
        found += [
            arm(f"{label}, {name}", method, world.recipe, **world.changes)
            for label, method in methods.items()
        ]
    return found


def _collect(lab: Lab, options: Options) -> None:
    lab.run(
        [
            replace(unadapted(options, **world.changes), label=f"unadapted, {name}")
            for name, world in WORLDS.items()
        ]
    )
    judged(lab, _arms(options), options)


def neither(gain: Interval, least: float) -> str:
    """The verdict on the prediction that the two differ by less than `least`."""
    if -least < gain.least and gain.most < least:
        return REPRODUCED
    return NOT_REPRODUCED if verdict(gain, least) in (REPRODUCED, REVERSED) else INCONCLUSIVE


def least_gain(results: Results, name: str) -> float:
    """MARGIN of what LoRA gains in this world, in bits per byte."""
    return margin(results, f"LoRA, {name}", f"unadapted, {name}")


def _report(results: Results) -> Report:
    findings, rows, lines = [], [], dict[str, list[tuple[float, Interval]]]()
    for name, world in WORLDS.items():
        lora, least = f"LoRA, {name}", least_gain(results, name)
        for label, predicted in (("PERA", "neither"), ("PERA awake", world.awake)):
            claim = f"{name}: predicted for {label} beside LoRA is {predicted}"
            if predicted == "PERA":
                claim = f"{name}: predicted is that {label} beats LoRA"
            judge = verdict if predicted == "PERA" else neither
            findings.append(compared(results, claim, f"{label}, {name}", lora, least, judge=judge))
        mine = [label for label in results.labels() if label.endswith(f", {name}")]
        for label in mine:
            shares = results.scores(label, "share")
            gain = "" if label == lora else results.gain(label, lora).signed
            over = "" if label == lora else span(results.gains(label, lora))
            cells = [str(results.mean(label)), gain, over, f"{least:.4f}", order_share(shares)]
            rows.append([label, *cells])
        per_cent = [
            (100 * share_of(results, label), _per_cent(results, label, lora, least))
            for label in mine
            if label != lora
        ]
        lines[name] = sorted(per_cent, key=lambda point: point[0])

    def draw(figure: Figure) -> None:
        ax = figure.subplots()
        plot_intervals(lines, ax=ax)
        ax.axhspan(-1, 1, color="0.9", zorder=0)
        ax.set_xticks([])
        ax.set(
            xlabel="order share, % (logarithmic)",
            ylabel="better than LoRA, % of LoRA's gain",
            title="What the terms bring, against how large they are; grey: too small to count",
        )

    columns = (
        "arm",
        "held-out bits per byte",
        "better than LoRA by",
        "over possible rates",
        "counts from",
        "order share",
    )
    foot = "Mean of the seeds [95 % bootstrap interval], each arm at its own learning rate."
    why = Table(
        ("setting", "predicted for PERA awake", "why"),
        [[name, world.awake, world.why] for name, world in WORLDS.items()],
        numbers=False,
    )
    notes = [
        (
            f"Awake: feature scale {results.options.waking:g}. The predictions were written into"
            " this experiment before its runs; those of `as usual` were known."
        ),
        (
            "`product`: lines of signs in triples, the third the product of two that are drawn."
            " `sum`: the third is + unless both are -. No model costs less than half a bit a byte"
            " on either."
        ),
        (
            "Where the target itself is the update of a PERA the terms win:"
            " [teacher](teacher.md) has that case, at equal rank and at equal parameters."
        ),
    ]
    return Report(
        [("Predictions", why), ("All arms", Table(columns, rows, foot))],
        draw,
        findings,
        "Gain over LoRA against order share: each line a setting, each point a feature scale",
        notes,
        (7.2, 5.0),
    )


def _per_cent(results: Results, label: str, lora: str, least: float) -> Interval:
    """The gain in per cent of LoRA's own."""
    mine, others = results.scores(label), results.scores(lora)
    if math.inf in (*mine, *others):
        return unknown(len(mine))
    pairs = zip(mine, others, strict=True)
    return interval([100 * MARGIN * (other - one) / least for one, other in pairs])


EXPERIMENT = Experiment(
    "terms",
    "When the terms help",
    "The paper credits PERA's gain to its high-order terms (arXiv 2604.11841, section 4); here is"
    " where they change the outcome, and where it was predicted.",
    _collect,
    _report,
)
