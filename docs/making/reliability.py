"""The measured part of docs/reliability.md, from the figures in docs/reliability.json.

    python tests/fuzzing/run.py --count 10000 --seed 1 > build/fuzzing.txt
    python tests/attacks/interrupts.py > build/interrupts.txt
    python docs/making/reliability.py docs build/*.txt

The JSON has the last run at every door, "fuzzing", and of tests/attacks, "others", one a promise.
Outputs of runs that are named take the place of older ones; without any, the page alone is renewed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from perakit.bench.measured import as_json, renewed
from perakit.errors import PerakitError
from perakit.files import write_atomically
from perakit.table import Table

COMMAND = "python docs/making/reliability.py docs"
FIGURES, PAGE = "reliability.json", "reliability.md"
FILES = "spoiled files, a seeded fuzzer"
# Door -> what is opened, and what is promised of it
DOORS = {
    "adapter": ("`pk.load`", "the adapter that was saved, or the model as it was"),
    "peft": ("`pk.import_peft`", "the adapter that PEFT would compute, or the model as it was"),
    "gpt2": ("`toy.load`", "the function of the checkpoint, every tensor used"),
    "tokenizer": ("`toy.tokenizer`", "the tokens of tokenizer.json, all known to the model"),
    "config": ("`perakit params --model`", "every weight of the configuration counted"),
    "checkpoint": ("`finetune --out`", "the bits of a run that was never stopped"),
    "ledger": ("`experiment --out`", "results as they were written, none lost"),
    "cells": ("`bench --out`", "times as they were measured, none lost"),
}


def write(docs: Path, outputs: Iterable[str] = ()) -> None:
    """Renew figures and page in `docs`; outputs: what runs of the fuzzers printed."""
    path, page = docs / FIGURES, docs / PAGE
    found = json.loads(path.read_text(encoding="utf-8"))
    runs = {run["door"]: run for run in found["fuzzing"]}
    others = {row["promised"]: row for row in found["others"]}
    for output in outputs:
        rows = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
        runs |= {row["door"]: row for row in rows if "door" in row}
        others |= {row["promised"]: row for row in rows if "promised" in row}
    if odd := sorted(runs.keys() - DOORS.keys()):
        raise PerakitError(f"no door is named {odd[0]!r}: choose of {', '.join(DOORS)}")
    found["fuzzing"] = [runs[door] for door in DOORS if door in runs]
    found["others"] = list(others.values())
    text = renewed(page.read_text(encoding="utf-8"), COMMAND, measured(found))
    write_atomically(path, as_json(found))
    write_atomically(page, text.encode())


def measured(found: Mapping[str, Any]) -> str:
    """What is promised and what came out, and the figures of the fuzzers."""
    tables = (attacks(found["fuzzing"], found["others"]), fuzzing(found["fuzzing"]))
    return "\n\n".join(table.markdown() for table in tables)


def attacks(runs: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, str]]) -> Table:
    """One row a promise."""
    rows = [
        [
            f"{DOORS[run['door']][0]}: {DOORS[run['door']][1]}",
            FILES,
            f"{run['cases']:,}",
            f"{run['right']:,} right, {run['refused']:,} refused by a PerakitError,"
            f" {run['failures']} failures",
        ]
        for run in runs
    ]
    columns = ("promised", "attacked", "times", "came_out")
    rows += [[row[column] for column in columns] for row in others]
    return Table(
        ("what is promised", "how it was attacked", "how often", "what came out"),
        rows,
        numbers=False,
    )


def fuzzing(runs: Sequence[Mapping[str, Any]]) -> Table:
    """One row a door."""
    rows = [
        [
            DOORS[run["door"]][0],
            f"{run['cases']:,}",
            f"{run['right']:,}",
            f"{run['refused']:,}",
            str(run["failures"]),
            str(run["half_changed"]),
            f"{run['worst_seconds']:.2f}",
            f"{run['worst_mib']:.1f}",
            str(run["seed"]),
        ]
        for run in runs
    ]
    versions = sorted({_told(run["versions"]) for run in runs})
    columns = ("cases", "right", "refused", "failures", "half changed", "worst s", "worst MiB")
    return Table(("door", *columns, "seed"), rows, "\n".join(versions))


def _told(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in versions.items())


if __name__ == "__main__":
    write(Path(sys.argv[1]), [Path(name).read_text(encoding="utf-8") for name in sys.argv[2:]])
