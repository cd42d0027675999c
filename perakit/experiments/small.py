"""The main comparison on a larger model, the one of `make small`: LoRA, PERA asleep and awake.

And LoRA of rank K, which is what an exported PERA is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perakit.adapters import PERA, LoRA
from perakit.errors import PerakitError
from perakit.experiments import paper
from perakit.experiments.arms import FULL, RANK, Arm, Options, arm, in_full, judged, unadapted
from perakit.experiments.experiment import Experiment
from perakit.experiments.jobs import Job
from perakit.experiments.lab import Lab
from perakit.experiments.report import Finding, Report, compared, comparison, margin, recovery
from perakit.experiments.results import Results
from perakit.experiments.statistics import paired
from perakit.files import read_plain
from perakit.formulas import rank_bound
from perakit.plots import plot_gains
from perakit.table import Table
from perakit.toy import small
from perakit.toy.pretrained import load

if TYPE_CHECKING:
    from matplotlib.figure import Figure

K = rank_bound(RANK)  # the rank of an exported PERA
HIGH_RANK = f"LoRA r={K}"
CARD_LIMIT = 2**20  # bytes


def _arms(options: Options) -> list[Arm]:
    scales = options.waking / 10, options.waking  # the width, and ten times the width
    return [
        arm("LoRA", LoRA(RANK)),
        arm("PERA", PERA(RANK)),
        *(arm(f"PERA, scale {scale:g}", PERA(RANK, feature_scale=scale)) for scale in scales),
        arm(HIGH_RANK, LoRA(K)),
        in_full()[FULL],
    ]


def describe(settings: Mapping[str, Any], folder: Path | None = None) -> dict[str, Any]:
    """The model: its size, and its card, in which is what it was made of."""
    model, path = load(settings["model"]), small.folder() / small.CARD
    try:
        card = json.loads(read_plain(path, CARD_LIMIT, f"make it again with {small.COMMAND}"))
    except (ValueError, RecursionError) as error:
        raise PerakitError(
            f"{str(path)!r} is damaged ({error}): make it again with {small.COMMAND}"
        ) from error
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "width": model.config.n_embd,
        "layers": model.config.n_layer,
        "card": card,
    }


def _collect(lab: Lab, options: Options) -> None:
    arms = _arms(options)
    about = Job("the model", "other", describe, {"model": options.model}, 0)
    lab.run([about, unadapted(options)])
    judged(lab, arms, options)


def _at_each_rate(results: Results) -> Table:
    """How much better than LoRA every arm is at every rate, LoRA at the same."""
    lora, rows = results.tuning["LoRA"], []
    for label in results.labels():
        if label != "LoRA":
            tried = results.tuning[label]
            cells = [_difference(lora[lr], tried.get(lr, {})) for lr in sorted(lora)]
            rows.append([label, *cells])
    foot = (
        "Validation bits per byte, LoRA's less the arm's, paired over the tuning seeds, with their"
        " bootstrap interval; positive is better. -: the arm did not try that rate."
    )
    return Table(("arm", *(f"at {lr:g}" for lr in sorted(lora))), rows, foot)


def _difference(lora: Mapping[int, float], other: Mapping[int, float]) -> str:
    seeds = sorted(lora.keys() & other.keys())
    if len(seeds) < 2:  # one seed has a difference, and no interval
        return "".join(f"{lora[seed] - other[seed]:+.5f}" for seed in seeds) or "-"
    return paired([lora[seed] for seed in seeds], [other[seed] for seed in seeds]).signed


def _report(results: Results) -> Report:
    least = margin(results, "LoRA")
    awake = [label for label in results.labels() if label.startswith("PERA, scale")]
    both = f"{paper.COMPONENTS['PERA']:.2f} against {paper.COMPONENTS['LoRA']:.2f} accuracy, r = 16"

    def finding(claim: str, label: str, told: str | None = None, what: str = "new") -> Finding:
        return compared(results, claim, label, "LoRA", least, told, what)

    findings = [
        finding("PERA beats LoRA at equal rank", "PERA", both),
        *(finding(f"{label}: beats LoRA", label) for label in (*awake, HIGH_RANK, FULL)),
    ]
    tables = [
        ("All arms", comparison(results, "LoRA")),
        ("What of full fine-tuning's gain each recovers", recovery(results)),
        ("Better than LoRA at each rate", _at_each_rate(results)),
    ]
    if results.options.old:
        findings += [
            finding(f"{label}: forgets less than LoRA", label, what="old")
            for label in results.labels()
            if label != "LoRA"
        ]
        tables.append(("What the old domain costs afterwards", _old(results)))
    tables.append(("The model", _model(results)))

    gains = {label: results.gain(label, "LoRA") for label in results.labels() if label != "LoRA"}

    def draw(figure: Figure) -> None:
        ax = figure.subplots()
        plot_gains(gains, margin=least, ax=ax)
        ax.set(xlabel="held-out bits per byte better than LoRA", title="Each at its best rate")

    notes = [
        (
            "The model is not shipped: `make small` makes it of text on the user's disk, so that"
            " another machine has another one. The rows have its hash and its card."
        ),
        (
            f"Feature scales are 1, the model's width and ten times that. {HIGH_RANK} has the rank"
            f" of a PERA of rank {RANK} that was exported as a LoRA, and more parameters."
        ),
        f"Called a gain: a clear one of at least {least:.4f} bits per byte.",
    ]
    caption = "How much better than LoRA each arm is, seed by seed; grey: too small to count"
    return Report(tables, draw, findings, caption, notes)


def _old(results: Results) -> Table:
    start = results.one("unadapted")["old"]
    rows = [["unadapted", f"{start:.4f}", ""]]
    for label in results.labels():
        worse = results.mean(label, lambda one: one["old"] - start)
        rows.append([label, str(results.mean(label, "old")), worse.signed])
    columns = ("arm", f"{results.options.old}, bits per byte", "worse than unadapted by")
    return Table(columns, rows, "Mean of the seeds [95 % bootstrap interval].")


def _model(results: Results) -> Table:
    found = results.one("the model")
    card = found["card"]
    rows = [
        ["parameters", f"{found['parameters']:,}"],
        ["width, layers", f"{found['width']}, {found['layers']}"],
        *([text, f"{cost} bits per byte"] for text, cost in card["heldout_bits_per_byte"].items()),
        ["trained", f"{card['recipe']['steps']} steps of {card['recipe']['batch']} windows"],
        ["in", f"{card['training_seconds']} s, {card['arithmetic']}, {card['hardware']}"],
        ["on", f"{card['data']['train_bytes']:,} bytes, hash {card['data']['sha256'][:16]}"],
        ["of", card["data"]["source"]],
        ["weights", f"hash {card['weights_sha256'][:16]}"],
    ]
    return Table(("", "its card says"), rows, numbers=False)


EXPERIMENT = Experiment(
    "small",
    "The main comparison on a larger model",
    "Whether the outcome of `components` is that of a very small model: the same arms on the model"
    " of `make small` (the paper's models have 7 to 8 billion parameters, arXiv 2604.11841,"
    " section 4).",
    _collect,
    _report,
    {"model": small.NAME},
)
