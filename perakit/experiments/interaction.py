"""Interaction strength of trained models (Fig. 5, Eq. 12)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from perakit.adapters import PERA, LoRA
from perakit.experiments.arms import RANK, Options, arm, judged, unadapted
from perakit.experiments.experiment import Experiment
from perakit.experiments.lab import Lab
from perakit.experiments.rates import Pair
from perakit.experiments.report import Finding, Report, order_share, span, verdict, weakest
from perakit.experiments.results import Results
from perakit.experiments.statistics import Interval, interval, unknown
from perakit.plots import plot_interaction
from perakit.table import Table
from perakit.toy.pretrained import load

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LABELS = ("LoRA", "PERA")
LEAST = 5  # % of LoRA's strength: a smaller difference is called none


def probe(options: Options) -> dict[str, Any]:
    """Where to measure: at the input of the middle block's first MLP projection."""
    names = (name for name, _ in load(options.model).named_modules())
    layers = [name for name in names if name.endswith(("mlp.c_fc", "mlp.up_proj"))]
    return {
        "layer": layers[len(layers) // 2],
        "windows": 2 if options.small else 16,
        "features": 4 if options.small else 16,
    }


def _collect(lab: Lab, options: Options) -> None:
    where = probe(options)
    lab.run([unadapted(options, interaction=where)])
    judged(
        lab,
        [
            arm(label, method, interaction=where)
            for label, method in zip(LABELS, (LoRA(RANK), PERA(RANK)), strict=True)
        ],
        options,
    )


def strength(measured: Mapping[str, Any]) -> float:
    """Mean S_ij of different features."""
    S = np.array(measured["interaction"])
    return float(S[~np.eye(len(S), dtype=bool)].mean())


def _report(results: Results) -> Report:
    plain = strength(results.one("unadapted"))

    def stronger(rates: Pair) -> Interval:
        both = (
            results.scores(label, strength, lr=lr)
            for label, lr in zip(("PERA", "LoRA"), rates, strict=True)
        )
        pera, lora = both
        if math.inf in (*pera, *lora):  # no strength, and so no ratio
            return unknown(len(pera))
        return interval([100 * (one / other - 1) for one, other in zip(pera, lora, strict=True)])

    more = stronger((results.lr("PERA"), results.lr("LoRA")))
    at = {rates: stronger(rates) for rates in results.pairs("PERA", "LoRA")}
    findings = [
        Finding(
            "PERA's features interact more strongly than LoRA's",
            "a figure",
            more.shown("+.5f", " %"),
            weakest(verdict(one, LEAST) for one in at.values()),
            rates=span(at, unit="%"),
        )
    ]
    rows = [
        [label, str(results.mean(label, strength)), order_share(results.scores(label, "share"))]
        for label in LABELS
    ]
    rows.insert(0, ["unadapted", f"{plain:.4f}", ""])
    foot = (
        "Mean of S_ij = E |∂²f/∂h_i∂h_j|, i ≠ j, f the log-probability of the likeliest next token"
        " (nats);\nmean of the seeds [95 % bootstrap interval]."
    )
    table = Table(("model", "interaction strength", "order share"), rows, foot)

    def draw(figure: Figure) -> None:
        axes = figure.subplots(1, 3)
        shown = {"unadapted": np.array(results.one("unadapted")["interaction"])}
        shown |= {
            label: np.mean(
                [S for S in results.scores(label, "interaction") if S is not math.inf], axis=0
            )
            for label in LABELS
        }
        for ax, (label, S) in zip(axes, shown.items(), strict=True):
            plot_interaction(S, ax=ax)
            ax.images[0].set_clim(0, max(other.max() for other in shown.values()))
            ax.set(title=label)
        for ax in axes[:-1]:
            ax.images[0].colorbar.remove()

    notes = [
        (
            "One adapted linear layer has no interactions whatever method adapted it: PERA is"
            " linear in its input. What is measured belongs to the nonlinear network around it"
            " ([claim](../claims.md#interaction-vanishes))."
        ),
        f"Called a difference: a clear one of at least {LEAST} % of LoRA's strength.",
    ]
    caption = (
        "Eq. 12 at the input of one layer of the trained models, mean over seeds, one scale of"
        " colours"
    )
    return Report([("Strength", table)], draw, findings, caption, notes, (10.8, 3.9))


EXPERIMENT = Experiment(
    "interaction",
    "Interaction strength of trained models",
    "The paper's Fig. 5 shows stronger interactions between features after PERA than after LoRA"
    " (arXiv 2604.11841, Eq. 12).",
    _collect,
    _report,
)
