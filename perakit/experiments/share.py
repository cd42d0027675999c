"""How much of PERA's update is high-order, what decides it, and whether the outcome follows it."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from perakit.adapters import PERA, LoRA
from perakit.experiments.arms import RANK, RATES, Arm, Options, arm, judged, unadapted
from perakit.experiments.experiment import Experiment
from perakit.experiments.jobs import Job
from perakit.experiments.lab import Lab
from perakit.experiments.regression import imitate
from perakit.experiments.report import Report, compared, comparison, margin, order_share
from perakit.experiments.results import Results
from perakit.experiments.statistics import Interval, interval
from perakit.plots import plot_gains, plot_intervals
from perakit.table import Table
from perakit.theory import predicted_share
from perakit.toy.language import sizes
from perakit.toy.pretrained import load
from perakit.toy.training import Recipe

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RANKS = (2, 32)  # beside RANK
WIDTHS = (16, 64, 256, 1024)  # inputs of a single layer
ROWS, TEACHER_RANK, WIDTH_RATE = 16, 4, 0.01
FIXED = RATES[::2]  # learning rates at which LoRA and PERA are compared as well
FRESH = 2000  # the first seed of the last comparison: these seeds chose nothing


def scales(n: int) -> tuple[float, ...]:
    """Feature scales to try, for layers of n inputs: 1 (the paper's), √n, n, 10 n, 100 n."""
    return (1.0, float(round(n**0.5)), float(n), 10.0 * n, 100.0 * n)


def _arms(options: Options) -> list[Arm]:
    n = sizes(load(options.model)).width
    found = [
        arm("LoRA", LoRA(RANK)),
        arm("PERA", PERA(RANK)),
        arm("LoRA, A = 0", LoRA(RANK, init="zero_A")),
    ]
    found += [arm("PERA, A = 0", PERA(RANK, init="zero_A"))]
    found += [
        arm(f"PERA, scale {scale:g}", PERA(RANK, feature_scale=scale)) for scale in scales(n)[1:]
    ]
    found += [arm("PERA, h ~ N(0, 1)", PERA(RANK), h_std=1.0)]
    found += [arm(f"PERA r={rank}", PERA(rank)) for rank in RANKS]
    for lr in FIXED:
        found += [
            arm(f"LoRA, lr {lr:g}", LoRA(RANK), lr=lr),
            arm(f"PERA, lr {lr:g}", PERA(RANK), lr=lr),
        ]
    return found


def _collect(lab: Lab, options: Options) -> None:
    steps = 20 if options.small else 200
    base: dict[str, Any] = {
        "m": ROWS,
        "target": "low rank",
        "teacher_rank": TEACHER_RANK,
        "rates": [WIDTH_RATE],
        "steps": steps,
    }
    method = PERA(RANK).to_dict()
    widths = [
        Job(
            f"n = {n}",
            "width",
            imitate,
            base | {"n": n, "seed": seed, "methods": [method]},
            steps / 20,
        )
        for n in WIDTHS
        for seed in range(options.seeds)
    ]
    lab.run([unadapted(options), *widths])
    arms, seeds = (
        {one.label: one for one in _arms(options)},
        range(FRESH, FRESH + 4 * options.seeds),
    )
    last = 2 * len(seeds) * arms["LoRA"].job(options, 0, 1e-3, "fresh").work
    results = Results(
        {"options": asdict(options)}, judged(lab, list(arms.values()), options, after=last)
    )
    pair = "LoRA", best(results)
    lab.run(
        [
            arms[label].job(options, seed, lr, "fresh")
            for seed in seeds
            for label in pair
            for lr in results.rates(label)
        ]
    )


def best(results: Results) -> str:
    """The PERA arm of LoRA's rank and a chosen rate with the lowest cost on validation text."""
    labels = [
        label
        for label in results.labels()
        if label.startswith("PERA") and "r=" not in label and ", lr" not in label
    ]
    return min(labels, key=lambda label: results.mean(label, "validation").mean)


def share_of(results: Results, label: str) -> float:
    """The mean order share of an arm's runs that did not diverge, 0 where all did."""
    found = [one for one in results.scores(label, "share") if one < math.inf]
    return sum(found) / len(found) if found else 0.0


def mean_rate(recipe: Recipe, done: int) -> float:
    """Mean learning rate of the first steps."""
    return sum(recipe.lr_at(step) for step in range(done)) / done


def forecast(results: Results, label: str) -> tuple[float, float] | None:
    """The lowest and the highest order share that sizes alone predict at an arm's end.

    They are over the widths of its layers. None where it starts otherwise than the published code.
    """
    settings = results.arm(label)[0]["settings"]
    method, recipe = settings["method"], Recipe(**settings["recipe"])
    # `predicted_share` is about the published start, with h = 0 and A random
    if method["method"] != "pera" or method["init"] != "zero_B" or settings.get("h_std"):
        return None
    rate = mean_rate(recipe, recipe.steps)
    seen = [row["measured"]["share_by_inputs"] for row in results.arm(label)]
    if not (widths := next(filter(None, seen), None)):
        return None  # all of its runs diverged
    found = [
        predicted_share(
            int(n), method["rank"], rate, recipe.steps, method["feature_scale"], method["terms"]
        )
        for n in widths
    ]
    return min(one.low for one in found), max(one.high for one in found)


def _report(results: Results) -> Report:
    least = margin(results, "LoRA")
    pera = [label for label in results.labels() if label.startswith("PERA")]
    rival = {
        label: label.replace("PERA", "LoRA") if ", lr" in label or "A = 0" in label else "LoRA"
        for label in pera
    }
    same_rank = [label for label in pera if "r=" not in label]
    rows = []
    for label in pera:
        share, expected = results.mean(label, "share"), forecast(results, label)
        better = results.gain(label, rival[label]).signed if label in same_rank else "other rank"
        shown = order_share(results.scores(label, "share"))
        rows.append([label, better, rival[label], shown, _band(expected), _hit(share, expected)])
    columns = ("arm", "better by, bits per byte", "than", "order share", "predicted", "within")
    foot = (
        "Predicted: `theory.predicted_share`, from n, r, learning rate, steps and feature scale"
        " alone, over the widths of the model's\nlayers: an order of magnitude and more wide, so"
        " that to lie within it is a weak test; -: it is about the start h = 0, A random."
    )
    table = Table(columns, rows, foot)
    widths = _widths(results)
    largest = max(same_rank, key=lambda label: share_of(results, label))
    usual, woken = (order_share(results.scores(label, "share")) for label in ("PERA", largest))
    chosen = best(results)
    fresh, count = results.gain(chosen, "LoRA", role="fresh"), len(results.arm(chosen, "fresh"))
    parts = order_share(results.scores(chosen, "share", "fresh"))
    claimed = "the paper credits the high-order terms"
    findings = [
        compared(
            results,
            f"PERA as published beats LoRA (share {usual})",
            "PERA",
            "LoRA",
            least,
            claimed,
        ),
        compared(
            results,
            f"PERA beats LoRA where the share is largest ({largest}: {woken})",
            largest,
            rival[largest],
            least,
        ),
        compared(
            results,
            f"PERA beats LoRA in the arm that validation text prefers ({chosen}: {parts}), on"
            f" {count} seeds that chose nothing",
            chosen,
            "LoRA",
            least,
            role="fresh",
        ),
    ]

    def draw(figure: Figure) -> None:
        left, right = figure.subplots(1, 2)
        tuned = sorted(
            (label for label in same_rank if ", lr" not in label),
            key=lambda label: share_of(results, label),
        )
        shares = [100 * share_of(results, label) for label in tuned]
        named = {
            f"{label}: {at:.3g} %": results.gain(label, rival[label])
            for at, label in zip(shares, tuned, strict=True)
        }
        named[f"{chosen}, fresh seeds"] = fresh
        plot_gains(named, margin=least, ax=left)
        left.set(
            xlabel="bits per byte better than LoRA from the same start",
            title="Does the outcome follow the share?",
        )
        curves = {}
        for label in tuned:
            # A run that diverged has none
            points = [one for one in results.scores(label, "shares") if one]
            if len(points) > 1:
                curves[label] = [
                    (step, interval([100 * one[k][1] for one in points]))
                    for k, (step, _) in enumerate(points[0])
                ]
        if curves:
            plot_intervals(curves, log=False, ax=right)
        right.set(
            xlabel="step", ylabel="order share, %", yscale="log", title="The share in training"
        )

    notes = [
        (
            "The order share is ‖high-order part‖ / ‖linear part‖ of the update. Adam moves a"
            " parameter by its learning rate whatever the size of its gradient, so a feature scale"
            " s is, up to clipping and Adam's ε, a learning rate of h that is s times as high."
        ),
        f"Called a gain: a clear one of at least {least:.4f} bits per byte.",
        (
            f"The last comparison: LoRA and {chosen} once more, each at its possible rates, on"
            f" {count} seeds of their own. {chosen} is the arm with the lowest cost on validation"
            " text, so neither these seeds nor the test text had a part in choosing it."
        ),
        "All of this is about one model, one text and one length of training.",
    ]
    caption = (
        "Left: gain over LoRA, in the order of the share, grey: too small to count. Right: the"
        " share in the course of training"
    )
    tables = [
        ("Share and outcome", table),
        ("The share against the width of a layer", widths),
        ("All arms", comparison(results, "LoRA")),
    ]
    return Report(tables, draw, findings, caption, notes, (10.8, 5.4))


def _widths(results: Results) -> Table:
    rows = []
    for n in WIDTHS:
        found = [row for row in results.of("width") if row["label"] == f"n = {n}"]
        shares, steps = [row["measured"]["share"] for row in found], found[0]["settings"]["steps"]
        # The rate falls linearly to zero
        expected = predicted_share(n, RANK, WIDTH_RATE / 2, steps)
        band = expected.low, expected.high
        rows.append([str(n), order_share(shares), _band(band), _hit(interval(shares), band)])
    foot = (
        f"One layer of {ROWS} outputs, PERA of rank {RANK}, {TEACHER_RANK} the rank of its target,"
        f" Adam at {WIDTH_RATE:g}."
    )
    return Table(("inputs n", "order share", "predicted", "within"), rows, foot)


def _band(expected: tuple[float, float] | None) -> str:
    return "-" if expected is None else f"{100 * expected[0]:.3g} ... {100 * expected[1]:.3g} %"


def _hit(share: Interval, expected: tuple[float, float] | None) -> str:
    return "-" if expected is None else "yes" if expected[0] <= share.mean <= expected[1] else "no"


EXPERIMENT = Experiment(
    "share",
    "How much of the update is high-order",
    "The paper credits PERA's gain to its high-order terms and does not report how large they are"
    " (arXiv 2604.11841, section 4).",
    _collect,
    _report,
)
