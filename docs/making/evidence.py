"""The page that sums up, docs/evidence.md, and the pages of docs/results.

`python docs/making/evidence.py docs` makes them again, from the numbers in docs/results.
"""

from __future__ import annotations

import json
import math
import sys
from collections import Counter
from pathlib import Path
from statistics import fmean, median, stdev

from perakit.bench.measured import renewed
from perakit.experiments import EXPERIMENTS
from perakit.experiments.arms import TUNING_SEEDS
from perakit.experiments.jobs import read
from perakit.experiments.rates import BEHIND
from perakit.experiments.report import LORA_PAPER, OURS, PERA_PAPER, findings_table, publish
from perakit.files import write_atomically
from perakit.table import Table

COMMAND = "make evidence"
RECOVERY = "What of full fine-tuning's gain each recovers"  # the heading of its table
ONE_SEED = "verdicts-one-seed.json"  # experiment -> [claim, verdict, number] of the first edition


def write(docs: Path) -> None:
    """Draw all pages of `docs/results` from their numbers; put all findings into `evidence.md`."""
    for name, experiment in EXPERIMENTS.items():
        path = docs / "results" / f"{name}.jsonl"
        if path.exists():
            publish(
                name, experiment.title, experiment.question, *experiment.read(path), path.parent
            )
    folder = docs / "results"
    for page, made in (
        (docs / "evidence.md", summary(folder)),
        (docs.parent / "README.md", headline(folder)),
    ):
        write_atomically(page, renewed(page.read_text(encoding="utf-8"), COMMAND, made).encode())


def headline(folder: Path) -> str:
    """What came out, in three lines, from the numbers of `components` and the verdicts of all."""
    experiment = EXPERIMENTS["components"]
    results, report = experiment.read(folder / "components.jsonl")
    found = {one.claim: one for one in report.findings}
    tie = found["PERA beats LoRA at equal rank"]
    share = 100 * results.mean("PERA", "share").mean
    recovered = {row[0]: row[2] for row in dict(report.tables)[RECOVERY].rows}
    exported = next(label for label in recovered if label.startswith("LoRA, r = "))
    lines = (
        f"PERA as published ends where LoRA does: better by {tie.ours.split(' [')[0]} bits a byte,"
        f" and so at every learning rate that tuning leaves open ({tie.rates}). Its polynomial part"
        f" is {share:.2g} % of the update.",
        f"LoRA of rank 8 recovers {recovered['LoRA']} of what full fine-tuning gains,"
        f" {exported.replace(', r =', ' of rank')}, which an exported PERA is,"
        f" {recovered[exported]}.",
        _turned(folder),
    )
    return "\n".join(f"- {line}" for line in lines) + "\n"


def _turned(folder: Path) -> str:
    """How many verdicts the learning rate had decided."""
    rows, kept, _ = compare(folder)
    return (
        f"{len(rows)} of {len(rows) + kept} verdicts were the learning rate's: they changed when"
        " every rate was asked that tuning cannot tell from the best."
    )


def summary(folder: Path) -> str:
    """All findings of the results in a folder, and how many of them came out how."""
    parts: list[str] = []
    counts: dict[str, Counter[str]] = {
        claimant: Counter() for claimant in (PERA_PAPER, LORA_PAPER, OURS)
    }
    for name, experiment in EXPERIMENTS.items():
        path = folder / f"{name}.jsonl"
        if not path.exists():
            parts += [
                f"## {experiment.title}",
                "",
                f"Not run yet: `perakit experiment {name}`.",
                "",
            ]
            continue
        _, report = experiment.read(path)
        parts += [
            f"## {experiment.title}",
            "",
            f"{experiment.question} [Numbers and figure](results/{name}.md).",
            "",
        ]
        parts += [findings_table(report.findings).markdown(), ""]
        for finding in report.findings:
            counts[finding.claimant][finding.told] += 1
    changed = changes(folder)
    rows = [
        [claimant, ", ".join(f"{told} {count}" for told, count in sorted(found.items()))]
        for claimant, found in counts.items()
    ]
    counted = Table(("whose claim", "verdicts below"), rows, numbers=False).markdown()
    return "\n".join([counted, "", *tuning(folder), *changed, *parts])


def tuning(folder: Path) -> list[str]:
    """What tuning has cost, and by how much the differences scatter that it decides by."""
    arms: dict[str, dict[float, dict[int, float]]] = {}
    for name in EXPERIMENTS:
        path = folder / f"{name}.jsonl"
        for row in read(path)[1] if path.exists() else []:
            recipe, cost = row["settings"].get("recipe", {}), row["measured"].get("validation")
            if row["role"] == "tuning" and row["compute"] == "tuning.tune":
                other = {key: value for key, value in recipe.items() if key not in ("lr", "seed")}
                arm = json.dumps(row["settings"] | {"recipe": other}, sort_keys=True)
                at = arms.setdefault(arm, {}).setdefault(recipe["lr"], {})
                at[recipe["seed"]] = math.inf if cost is None else cost
    seeds = max(len(at) for costs in arms.values() for at in costs.values())
    run = sum(len(at) for costs in arms.values() for at in costs.values())
    whole = seeds * sum(map(len, arms.values()))
    scatter = []
    for costs in arms.values():
        kept = [at for at in costs.values() if len(at) == seeds > 1]
        lowest = min(kept, key=lambda at: fmean(at.values()), default={})
        for at in kept:
            if at is not lowest and all(map(math.isfinite, (*at.values(), *lowest.values()))):
                scatter.append(stdev(at[seed] - lowest[seed] for seed in lowest))
    if not scatter:
        return []
    return [
        f"Tuning: {run} runs of {len(arms)} arms, where every rate on {seeds} seeds would have been"
        f" {whole}. From seed to seed the difference between a near rate and the best one scatters"
        f" by {median(scatter):.4f} bits (standard deviation, median of the arms; at most"
        f" {max(scatter):.4f}); a rate {BEHIND:g} behind on the first seed is not run on the"
        " others.",
        "",
    ]


def compare(folder: Path) -> tuple[list[list[str]], int, list[str]]:
    """Verdicts that one tuning seed and one rate gave otherwise; how many they gave as they are.

    And the experiments that still have one tuning seed.
    """
    before = json.loads((folder / ONE_SEED).read_text(encoding="utf-8"))
    rows, kept, waiting = [], 0, []
    for name, experiment in EXPERIMENTS.items():
        if name not in before or not (folder / f"{name}.jsonl").exists():
            continue
        results, report = experiment.read(folder / f"{name}.jsonl")
        if results.tuning and results.tuning_seeds < len(TUNING_SEEDS):
            waiting.append(name)
            continue
        found = {_stem(one.claim): one for one in report.findings}
        for claim, told, ours in before[name]:
            one = found[_stem(claim)]
            if one.told == told:
                kept += 1
            else:
                claim = f"{one.claim} ([{name}](results/{name}.md))"
                now = f"{one.told}: {one.ours}; {one.rates}"
                rows.append([claim, f"{told}: {ours}", now])
    return rows, kept, waiting


def changes(folder: Path) -> list[str]:
    """The verdicts that one tuning seed and one rate gave otherwise, as a part of the page."""
    rows, kept, waiting = compare(folder)
    columns = ("claim", "one tuning seed, one rate an arm", "every possible rate")
    return [
        "## What the learning rate had decided",
        "",
        "The first edition of this page chose each arm's rate on a single tuning seed and judged it"
        " at that rate alone. Three tuning seeds and every possible rate change these verdicts; the"
        f" other {kept} are as they were. In `teacher` and `function` one more thing has changed:"
        " one rate now serves all targets, where each had its own best."
        + (f" Not run again yet, and still of one seed: {', '.join(waiting)}." if waiting else ""),
        "",
        Table(columns, rows, numbers=False).markdown(),
        "",
    ]


def _stem(claim: str) -> str:
    """A claim without the shares that it quotes."""
    return claim.split(" (")[0]


if __name__ == "__main__":
    write(Path(sys.argv[1]))
