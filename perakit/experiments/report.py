"""From results to a page: tables with intervals, a figure, verdicts, and their origin."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from perakit.experiments.arms import FULL
from perakit.experiments.rates import BEHIND, CHANCE, Pair
from perakit.experiments.results import Results, What
from perakit.experiments.statistics import Interval, interval, unknown
from perakit.files import write_atomically
from perakit.plots import STYLE, plot_rates
from perakit.plots.pictures import new_figure, png
from perakit.table import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MARGIN = 0.01  # of LoRA's gain over the unadapted model: a smaller advantage is called none
REPRODUCED, NOT_REPRODUCED, INCONCLUSIVE = "reproduced", "not reproduced", "inconclusive"
REVERSED, UNSIZED = "not reproduced: the reverse", "inconclusive: a gain is clear, its size is not"
# The words where no paper makes the claim
HOLDS = {
    REPRODUCED: "holds",
    NOT_REPRODUCED: "does not hold",
    REVERSED: "does not hold: the reverse",
}
PANEL = 5  # most arms in colours in a panel of cost against rate; the others are grey there
NO_RATES = "no rate was tuned"
PERA_PAPER, LORA_PAPER, OURS = "PERA's paper", "LoRA's paper", "neither: asked here"


@dataclass(frozen=True)
class Finding:
    """A claim beside what was measured.

    paper: the number there, None where no paper makes the claim; ours: the number here, with its
    interval; rates: what it is over all learning rates that tuning could not tell apart; arms:
    what it compares, where it is no more than two.
    """

    claim: str
    paper: str | None
    ours: str
    verdict: str
    source: str = PERA_PAPER
    rates: str = NO_RATES
    arms: tuple[str, ...] = ()

    @property
    def told(self) -> str:
        """The verdict as a reader sees it: only what a paper claims can be reproduced."""
        return self.verdict if self.paper else HOLDS.get(self.verdict, self.verdict)

    @property
    def claimant(self) -> str:
        """Whose claim it is."""
        return self.source if self.paper else OURS


@dataclass(frozen=True)
class Picture:
    """A figure of a page: NAME-`name`.png, drawn onto a figure of `size` inches."""

    name: str
    draw: Callable[[Figure], None]
    caption: str
    size: tuple[float, float] = (7.2, 4.4)


@dataclass(frozen=True)
class Report:
    """What an experiment shows.

    draw: onto a figure of `size` inches; notes: what a reader should know before quoting it; more:
    figures besides, that of cost against rate left aside, which every tuned experiment has; cost:
    what rates were chosen by, and its unit.
    """

    tables: Sequence[tuple[str, Table]]
    draw: Callable[[Figure], None]
    findings: Sequence[Finding]
    caption: str
    notes: Sequence[str] = ()
    size: tuple[float, float] = (7.2, 4.4)
    more: Sequence[Picture] = ()
    cost: tuple[str, str] = ("validation bits per byte", "bits")


def verdict(gain: Interval, margin: float) -> str:
    """The verdict on the claim that there is a gain.

    Reproduced: the gain is clear and at least `margin`. Not reproduced: both intervals end below
    `margin`. The reverse: a loss is clear and at least `margin`. Inconclusive: everything else,
    also a gain that is clear but may be smaller than `margin`.
    """
    if gain.clear > 0 and gain.mean >= margin:
        return REPRODUCED
    if gain.clear < 0 and gain.mean <= -margin:
        return REVERSED
    if gain.most < margin:
        return NOT_REPRODUCED
    return UNSIZED if gain.clear > 0 else INCONCLUSIVE


def below(found: Interval, bound: float) -> str:
    """The verdict on the claim that something is at most `bound`."""
    return (
        REPRODUCED
        if found.most <= bound
        else NOT_REPRODUCED
        if found.least > bound
        else INCONCLUSIVE
    )


def everywhere(verdicts: Iterable[str]) -> str:
    """The verdict on the claim that there is a gain in each of several cases."""
    found = set(verdicts)
    if found == {REPRODUCED}:
        return REPRODUCED
    # One case without is enough against it
    return NOT_REPRODUCED if found & {NOT_REPRODUCED, REVERSED} else INCONCLUSIVE


def weakest(verdicts: Iterable[str]) -> str:
    """The verdict that holds at every possible rate, from those at each of them."""
    found = set(verdicts)
    if len(found) == 1:
        return found.pop()
    if found == {REVERSED, NOT_REPRODUCED}:
        return NOT_REPRODUCED
    return UNSIZED if found == {REPRODUCED, UNSIZED} else INCONCLUSIVE


def in_each(cases: Iterable[Mapping[Pair, Interval]], least: float) -> str:
    """The verdict on a gain in each of several cases, which has to hold at all pairs of rates.

    cases: of each, the gain at every possible pair of rates.
    """
    return everywhere(weakest(verdict(gain, least) for gain in gains.values()) for gains in cases)


def span(found: Mapping[Any, Interval], spec: str = "+.5f", unit: str = "bits") -> str:
    """The least and the largest of several means, and of how many rates or pairs of rates."""
    # Where both diverged there is no mean, and no order of means
    means = [-math.inf if math.isnan(one.mean) else one.mean for one in found.values()]
    pairs = isinstance(next(iter(found)), tuple)
    if len(means) == 1:
        return "one pair of rates" if pairs else "one rate"
    low, high = (
        f"{end:{spec}}" if math.isfinite(end) else "diverged" for end in (min(means), max(means))
    )
    return f"{low} ... {high} {unit}, {len(means)} {'pairs of rates' if pairs else 'rates'}"


def compared(
    results: Results,
    claim: str,
    label: str,
    over: str,
    least: float,
    paper: str | None = None,
    what: What = "new",
    judge: Callable[[Interval, float], str] = verdict,
    source: str = PERA_PAPER,
    role: str = "judged",
) -> Finding:
    """The finding on a claim that `label`'s cost is lower than `over`'s by `least`.

    The number is that at the best rates, the verdict the weakest over all possible pairs of them.
    """
    gains = results.gains(label, over, what, role)
    return Finding(
        claim,
        paper,
        results.gain(label, over, what, role).shown("+.5f", " bits"),
        weakest(judge(gain, least) for gain in gains.values()),
        source,
        span(gains),
        (label, over),
    )


def margin(results: Results, reference: str, start: str = "unadapted") -> float:
    """MARGIN in bits per byte."""
    # A seed on which the reference diverged has no gain
    reached = [cost for cost in results.scores(reference) if math.isfinite(cost)]
    before: float = results.one(start)["new"]
    return MARGIN * (before - np.mean(reached).item()) if reached else 0.0


def comparison(
    results: Results, reference: str, labels: Sequence[str] | None = None, start: str = "unadapted"
) -> Table:
    """The arms, a row each, with differences to `reference` seed by seed.

    start: the label of the model without an adapter.
    """
    rows = []
    for label in labels or results.labels():
        trainable = results.arm(label)[0]["measured"].get("trainable", 0)
        shown = order_share(results.scores(label, "share"))
        lrs = [lr for lr in results.rates(label) if lr != results.lr(label)]
        rates = f"{results.lr(label):g}" + "*" * results.edge(label)
        rates += f" ({', '.join(f'{lr:g}' for lr in lrs)})" if lrs else ""
        same = label == reference
        gain = "" if same else results.gain(label, reference).signed
        over = "" if same else span(results.gains(label, reference))
        rows.append([label, str(results.mean(label)), gain, over, shown, rates, f"{trainable:,}"])
    before = results.one(start)["new"]
    rows.insert(0, [start, f"{before:.4f}", "", "", "", "", "0"])
    columns = (
        "arm",
        "held-out bits per byte",
        f"better than {reference} by",
        "over possible rates",
        "order share",
        "learning rate",
        "trainable",
    )
    return Table(columns, rows, _foot(results))


def recovery(results: Results, start: str = "unadapted") -> Table:
    """Each arm's gain over the unadapted model as a share of full fine-tuning's, seed by seed."""
    before = results.one(start)["new"]

    def share(label: str, rates: Pair) -> Interval:
        mine, full = (
            results.scores(one, lr=lr) for one, lr in zip((label, FULL), rates, strict=True)
        )
        if math.inf in (*mine, *full):
            return unknown(len(full))
        gains = zip(mine, full, strict=True)
        return interval([100 * (before - one) / (before - other) for one, other in gains])

    found = {
        label: share(label, (results.lr(label), results.lr(FULL))) for label in results.labels()
    }
    rows = []
    for label in sorted(found, key=lambda label: -np.nan_to_num(found[label].mean, nan=-np.inf)):
        trainable = results.arm(label)[0]["measured"]["trainable"]
        best = found[label]
        at = {rates: share(label, rates) for rates in results.pairs(label, FULL)}
        shown = best.shown(".1f", " %")
        rows.append([label, f"{trainable:,}", shown, span(at, ".1f", "%")])
    return Table(("arm", "trainable", "share of the gain", "over possible rates"), rows)


def order_share(values: Sequence[float | None]) -> str:
    """Order shares of the seeds, in per cent.

    "-": the update has no such parts; "0": it has the linear part only.
    """
    shares = [100 * value for value in values if value is not None and value < math.inf]
    if not shares or not max(shares):
        return "0" if shares else "-"
    # The only one of several seeds that did not diverge has no interval
    return interval(shares).shown(".3g", " %") if len(shares) > 1 else f"{shares[0]:.3g} %"


def _foot(results: Results) -> str:
    options = results.options
    edge = any(results.edge(label) for label in results.labels())
    lines = [
        (
            f"Mean of {options.seeds} seeds [95 % bootstrap interval]; better by: paired"
            " differences, positive is better; +0.00000 is below the five decimals shown."
        ),
        (
            "Learning rate: the best of"
            f" {', '.join(f'{rate:g}' for rate in results.tried())}, or of those that the grid"
            " reaches for this arm, on validation text; in brackets the others that one more"
            " tuning seed might choose."
            + (" *: the first or last that was tried, a better one may lie beyond." if edge else "")
        ),
        (
            "Order share: ‖high-order part‖ / ‖linear part‖ of the update; -: its update has no"
            " such parts."
        ),
    ]
    return "\n".join(lines)


def publish(
    name: str, title: str, question: str, results: Results, report: Report, folder: Path
) -> None:
    """Write NAME.md and NAME.png beside NAME.jsonl."""
    from matplotlib import style

    first = Picture("", report.draw, report.caption, report.size)
    with style.context(STYLE):
        for one in (first, *pictures(results, report)):
            figure = new_figure(*one.size)
            one.draw(figure)
            write_atomically(folder / file_of(name, one), png(figure))
    data = folder / f"{name}.jsonl"
    write_atomically(
        folder / f"{name}.md", page(name, title, question, results, report, data).encode()
    )


def pictures(results: Results, report: Report) -> list[Picture]:
    """The figures of a page after its first: those of the report, and cost against rate."""
    return [*report.more, *([_rates(results, report.cost[0])] if results.tuning else [])]


def file_of(name: str, picture: Picture) -> str:
    """The file of a figure of the page `name`."""
    return f"{name}-{picture.name}.png" if picture.name else f"{name}.png"


def _rates(results: Results, cost: str) -> Picture:
    """Cost against learning rate: what the rates were chosen by."""
    curves = {
        label: [
            (lr, [None if math.isinf(cost) else cost for cost in costs[lr].values()])
            for lr in sorted(costs)
        ]
        for label, costs in results.tuning.items()
    }

    labels, count = list(curves), -(-len(curves) // PANEL)
    panels = [list(part) for part in np.array_split(labels, count)]
    columns = min(count, 2)
    rows = -(-count // columns)

    def draw(figure: Figure) -> None:
        axes = figure.subplots(rows, columns, squeeze=False).flatten()
        possible = {label: results.rates(label) for label in curves}
        for ax, shown in zip(axes, panels, strict=False):
            plot_rates(curves, best=possible, shown=shown, ax=ax)
            ax.set(xlabel="learning rate", ylabel=cost, title="")
        for ax in axes[len(panels) :]:
            ax.axis("off")

    seeds = results.tuning_seeds
    caption = (
        f"What rates were chosen by, against learning rate, on {seeds} tuning"
        f" seed{'s' if seeds > 1 else ''}; filled: the rates that are possible. A rate far from the"
        " best ran on one seed only"
    )
    return Picture("rates", draw, caption, (7.2 if columns == 1 else 13.0, 5.2 * rows))


def page(name: str, title: str, question: str, results: Results, report: Report, data: Path) -> str:
    """The page of an experiment."""
    lines = [f"# {title}", "", question, ""]
    if results.options.small:
        lines += [
            (
                "**Small setting**: a few steps on little text. It shows that the experiment runs"
                " and says nothing about methods."
            ),
            "",
        ]
    if report.findings:
        lines += [findings_table(report.findings).markdown(), ""]
    for heading, table in report.tables:
        lines += [f"## {heading}", "", table.markdown(), ""]
    lines += [f"![{report.caption}]({name}.png)", "", report.caption, ""]
    for one in pictures(results, report):
        lines += [f"![{one.caption}]({file_of(name, one)})", "", one.caption, ""]
    if notes := [*report.notes, *_tuning_notes(results, report.cost[1])]:
        lines += ["## Before you quote it", "", *[f"- {note}" for note in notes], ""]
    return "\n".join(lines + provenance(name, results, data)) + "\n"


def _tuning_notes(results: Results, unit: str) -> list[str]:
    """What the tuning of this page can and cannot say."""
    seeds = results.tuning_seeds
    if not results.tuning:
        return []
    if seeds < 3:
        return [
            f"Learning rates were chosen on {seeds} tuning seed{'s' if seeds > 1 else ''}. Three or"
            " more are needed to say which rates tuning cannot tell apart: a verdict here may be"
            " the rate's and not the method's."
        ]
    return [
        f"Each rate that lies within {BEHIND:g} {unit} of the best on the first tuning seed ran on"
        f" {seeds}. A pair of rates is possible where one more such seed would choose it in at"
        f" least {CHANCE:.0%} of cases (Student's predictive distribution, the same seed for both"
        " arms). A verdict is the weakest over all possible pairs. Best rates differ between"
        " methods, ranks and batches (arXiv 2602.04998), so that a comparison at one rate says"
        " little."
    ]


def findings_table(findings: Sequence[Finding]) -> Table:
    """Claims and verdicts."""
    rows = [[one.claim, one.told, one.ours, one.rates, one.paper or "-"] for one in findings]
    columns = ("claim", "verdict at this scale", "here", "over possible rates", "in the paper")
    return Table(columns, rows, numbers=False)


def provenance(name: str, results: Results, data: Path) -> list[str]:
    """What the numbers were made from."""
    options, rows = results.options, results.rows
    machines = sorted({f"{row['machine']['cpu']}, {options.device}" for row in rows})
    versions = sorted(
        {
            ", ".join(f"{key} {value}" for key, value in row["machine"]["versions"].items())
            for row in rows
        }
    )
    texts = sorted({row["data"] for row in rows if row["data"]})
    seconds = sum(
        row["measured"].get("seconds", 0.0)
        for row in rows
        if isinstance(row["measured"].get("seconds"), float)
    )
    lines = ["## What this was made from", "", f"- `{command(name, results)}`"]
    lines += [
        f"- {len(rows)} run{'s' if len(rows) > 1 else ''}"
        + (f", {seconds / 60:.0f} minutes of training on one thread each" if seconds else "")
    ]
    if texts:
        judged = results.of("judged") or results.rows
        first = judged[0]["settings"]
        lines += [
            f"- Text: {first['text']}"
            + (f", old domain {first['old']}" if first["old"] else "")
            + "; hash "
            + ", ".join(map(_short, texts))
        ]
    if models := sorted({row["model"] for row in rows if row.get("model")}):
        lines.append(f"- Model: {options.model}; hash {', '.join(map(_short, models))}")
    numerics = ", ".join(sorted({str(row.get("numerics", "unknown")) for row in rows}))
    digest = hashlib.sha256(data.read_bytes()).hexdigest()
    seeds = f"Seeds 0 to {options.seeds - 1}; numerics" if len(rows) > 1 else "Numerics"
    lines.append(
        f"- {seeds} version {numerics}; results [{data.name}]({data.name}), SHA-256"
        f" {_short(digest)}"
    )
    # Version 0.1 kept a hash of its sources. "was", where a row has it, is of those that made the
    # row, and "code" is then of later ones that were found to give the same.
    if sources := sorted({row.get("was", row["code"]) for row in rows if "code" in row}):
        lines.append(f"- Made by sources {', '.join(sources)} of version 0.1")
    return lines + [f"- {one}" for one in (*machines, *versions)]


def command(name: str, results: Results) -> str:
    """The command that makes these results."""
    options, usual = results.options, type(results.options)()
    parts = [f"perakit experiment {name}", f"--seeds {options.seeds}"]
    parts += [
        f"--{key} {getattr(options, key) or 'none'}"
        for key in ("device", "model", "text", "old")
        if getattr(options, key) != getattr(usual, key)
    ]
    return " ".join(parts + (["--small"] if options.small else []))


def _short(digest: str) -> str:
    return digest[:16]
