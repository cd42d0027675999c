"""From results to a page: tables with intervals, a figure, verdicts, and their origin."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from perakit.experiments.arms import Results
from perakit.experiments.statistics import Interval, interval
from perakit.files import write_atomically
from perakit.plots import STYLE
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
PERA_PAPER, LORA_PAPER, OURS = "PERA's paper", "LoRA's paper", "neither: asked here"


@dataclass(frozen=True)
class Finding:
    """A claim beside what was measured.

    paper: the number there, None where no paper makes the claim; ours: the number here, with its
    interval.
    """

    claim: str
    paper: str | None
    ours: str
    verdict: str
    source: str = PERA_PAPER

    @property
    def told(self) -> str:
        """The verdict as a reader sees it: only what a paper claims can be reproduced."""
        return self.verdict if self.paper else HOLDS.get(self.verdict, self.verdict)

    @property
    def claimant(self) -> str:
        """Whose claim it is."""
        return self.source if self.paper else OURS


@dataclass(frozen=True)
class Report:
    """What an experiment shows.

    draw: onto a figure of `size` inches; notes: what a reader should know before quoting it.
    """

    tables: Sequence[tuple[str, Table]]
    draw: Callable[[Figure], None]
    findings: Sequence[Finding]
    caption: str
    notes: Sequence[str] = ()
    size: tuple[float, float] = (7.2, 4.4)


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


def margin(results: Results, reference: str) -> float:
    """MARGIN in bits per byte."""
    before: float = results.one("unadapted")["new"]
    return MARGIN * (before - results.mean(reference).mean)


def comparison(
    results: Results, reference: str, labels: Sequence[str] | None = None, start: str = "unadapted"
) -> Table:
    """The arms, a row each, with differences to `reference` seed by seed.

    start: the label of the model without an adapter.
    """
    rows = []
    for label in labels or results.labels():
        trainable = results.arm(label)[0]["measured"]["trainable"]
        shown = order_share(results.scores(label, "share"))
        lr = f"{results.lr(label):g}" + ("*" if results.edge(label) else "")
        gain = "" if label == reference else results.gain(label, reference).signed
        rows.append([label, str(results.mean(label)), gain, shown, lr, f"{trainable:,}"])
    before = results.one(start)["new"]
    rows.insert(0, [start, f"{before:.4f}", "", "", "", "0"])
    columns = (
        "arm",
        "held-out bits per byte",
        f"better than {reference} by",
        "order share",
        "learning rate",
        "trainable",
    )
    return Table(columns, rows, _foot(results))


def order_share(values: Sequence[float | None]) -> str:
    """Order shares of the seeds, in per cent.

    "-": the update has no such parts; "0": it has the linear part only.
    """
    shares = [100 * value for value in values if value is not None]
    return "-" if not shares else f"{interval(shares).shown('.3g')} %" if max(shares) > 0 else "0"


def _foot(results: Results) -> str:
    options = results.options
    edge = any(results.edge(label) for label in results.labels())
    lines = [
        (
            f"Mean of {options.seeds} seeds [95 % bootstrap interval]; better by: paired"
            " differences, positive is better; +0.00000 is below the five decimals shown."
        ),
        "Learning rate: the best on validation text of"
        f" {', '.join(f'{rate:g}' for rate in results.rates())}, the same for all."
        + (" *: the first or last of them, a better one may lie beyond." if edge else ""),
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

    with style.context(STYLE):
        figure = new_figure(*report.size)
        report.draw(figure)
        picture = png(figure)
    write_atomically(folder / f"{name}.png", picture)
    data = folder / f"{name}.jsonl"
    write_atomically(
        folder / f"{name}.md", page(name, title, question, results, report, data).encode()
    )


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
    if report.notes:
        lines += ["## Before you quote it", "", *[f"- {note}" for note in report.notes], ""]
    return "\n".join(lines + provenance(name, results, data)) + "\n"


def findings_table(findings: Sequence[Finding]) -> Table:
    """Claims and verdicts."""
    rows = [[one.claim, one.told, one.ours, one.paper or "-"] for one in findings]
    return Table(("claim", "verdict at this scale", "here", "in the paper"), rows, numbers=False)


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
        f"--{key} {getattr(options, key)}"
        for key in ("device", "model", "text", "old")
        if getattr(options, key) != getattr(usual, key)
    ]
    return " ".join(parts + (["--small"] if options.small else []))


def _short(digest: str) -> str:
    return digest[:16]
