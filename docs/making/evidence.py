"""The page that sums up, docs/evidence.md, and the pages of docs/results.

`python docs/making/evidence.py docs` makes them again, from the numbers in docs/results.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

from perakit.bench.measured import renewed
from perakit.experiments import EXPERIMENTS
from perakit.experiments.report import LORA_PAPER, OURS, PERA_PAPER, findings_table, publish
from perakit.files import write_atomically
from perakit.table import Table

COMMAND = "make evidence"


def write(docs: Path) -> None:
    """Draw all pages of `docs/results` from their numbers; put all findings into `evidence.md`."""
    for name, experiment in EXPERIMENTS.items():
        path = docs / "results" / f"{name}.jsonl"
        if path.exists():
            publish(
                name, experiment.title, experiment.question, *experiment.read(path), path.parent
            )
    page = docs / "evidence.md"
    write_atomically(
        page, renewed(page.read_text(encoding="utf-8"), COMMAND, summary(docs / "results")).encode()
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
    rows = [
        [claimant, ", ".join(f"{told} {count}" for told, count in sorted(found.items()))]
        for claimant, found in counts.items()
    ]
    return "\n".join(
        [Table(("whose claim", "verdicts below"), rows, numbers=False).markdown(), "", *parts]
    )


if __name__ == "__main__":
    write(Path(sys.argv[1]))
