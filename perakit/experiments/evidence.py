"""The page that sums up: `python -m perakit.experiments.evidence DOCS` renews DOCS/evidence.md from DOCS/results."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

from perakit.experiments import EXPERIMENTS
from perakit.experiments.report import findings_table, publish
from perakit.files import write_atomically
from perakit.toy.measured import renewed

COMMAND = "make evidence"


def write(docs: Path) -> None:
    """Draw every page of `docs/results` again from its numbers, and put all findings into `docs/evidence.md`."""
    parts: list[str] = []
    verdicts: Counter[str] = Counter()
    for name, experiment in EXPERIMENTS.items():
        path = docs / "results" / f"{name}.jsonl"
        if not path.exists():
            parts += [f"## {experiment.title}", "", f"Not run yet: `perakit experiment {name}`.", ""]
            continue
        results, report = experiment.read(path)
        publish(name, experiment.title, experiment.question, results, report, path.parent)
        parts += [f"## {experiment.title}", "", f"{experiment.question} [Numbers and figure](results/{name}.md).", ""]
        verdicts.update(finding.told for finding in report.findings)
        parts += [findings_table(report.findings).markdown(), ""]
    counted = ", ".join(f"{verdict} {count}" for verdict, count in sorted(verdicts.items()))
    parts[:0] = [f"{sum(verdicts.values())} claims and predictions below: {counted}.", ""]
    page = docs / "evidence.md"
    write_atomically(page, renewed(page.read_text(encoding="utf-8"), COMMAND, "\n".join(parts)).encode())


if __name__ == "__main__":
    write(Path(sys.argv[1]))
