"""How long the theory takes: `python -m perakit.toy.benchmark docs` writes theory-speed.json and theory-speed.md there.

Each task runs in a process of its own, several times; time is that of the whole process, imports included, memory its
peak. Targets are what the project asks of 2 CPU cores.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from perakit.files import write_atomically
from perakit.table import Table
from perakit.toy.measured import cpu
from perakit.toy.memory import peak_bytes


@dataclass(frozen=True)
class Task:
    """A title, what to run, and the most seconds (and MiB) that it may take."""

    title: str
    run: Callable[[], object]
    seconds: float
    mebibytes: float | None = None


def _verify() -> object:
    from perakit.theory import verify

    return f"{len(verify().failed)} fail"


def _dimension(size: int) -> object:
    from perakit.theory import measured_dimension

    return measured_dimension(size, size, 8)


def _symbolic() -> object:
    from perakit.theory.symbolic import expansion

    return expansion(4, 4, 3).holds


def _approximation() -> object:
    from perakit.theory import best_approximation, families, targets

    return best_approximation(targets(32, 32)["gaussian"], families.pera(2)).error_fro


TASKS = {
    "verify": Task("perakit verify, all claims", _verify, 60),
    "dimension-256": Task("measured_dimension(256, 256, 8)", lambda: _dimension(256), 60, 2048),
    "dimension-64": Task("measured_dimension(64, 64, 8)", lambda: _dimension(64), 5),
    "symbolic": Task("Eq. 9 in symbols, m = n = 4, r = 3", _symbolic, 5),
    "approximation": Task("best PERA of rank 2 of a 32 x 32 Gaussian target", _approximation, 20),
}


@dataclass(frozen=True)
class Measured:
    """One task: seconds of each run, peak memory of the largest, and what it returned."""

    task: str
    seconds: list[float]
    mebibytes: float
    result: str


def measure(name: str, repeats: int) -> Measured:
    """Run one task `repeats` times, each in a fresh process."""
    seconds, peaks, result = [], [], ""
    for _ in range(repeats):
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-m", __spec__.name, "--task", name], stdout=subprocess.PIPE, text=True, check=True)
        seconds.append(round(time.perf_counter() - start, 2))
        answer = json.loads(done.stdout)
        peaks.append(answer["peak_bytes"] / 2**20)
        result = answer["result"]
    return Measured(name, seconds, round(max(peaks)), result)


def table(found: list[Measured]) -> Table:
    """Median, spread and peak beside the targets."""
    rows = []
    for one in found:
        task = TASKS[one.task]
        limit = f"{task.seconds:g}" + (f", {task.mebibytes:g} MiB" if task.mebibytes else "")
        spread = f"{min(one.seconds):.1f} ... {max(one.seconds):.1f}"
        rows.append((task.title, f"{statistics.median(one.seconds):.1f}", spread, f"{one.mebibytes:.0f}", limit, one.result))
    return Table(("task", "seconds", "spread", "peak MiB", "target s", "result"), rows)


def main() -> None:
    """Run one task (`--task`), or all of them and write what was measured."""
    parser = argparse.ArgumentParser(prog="python -m perakit.toy.benchmark", description="Time the theory toolkit.")
    parser.add_argument("folder", nargs="?", type=Path, help="where theory-speed.json and theory-speed.md go; default: print only")
    parser.add_argument("--repeats", type=int, default=3, help="processes a task (default: %(default)s)")
    parser.add_argument("--task", choices=TASKS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.task:
        result = TASKS[arguments.task].run()
        print(json.dumps({"result": str(result), "peak_bytes": peak_bytes(torch.device("cpu"))}))
        return
    found = []
    for name, task in TASKS.items():
        print(f"benchmark: {task.title}", file=sys.stderr)
        found.append(measure(name, arguments.repeats))
    versions = {"python": platform.python_version()} | {name: version(name) for name in ("torch", "numpy", "sympy")}
    machine = {"cpu": cpu(), "cores": os.cpu_count(), "versions": versions}
    shown = table(found)
    print(shown)
    if arguments.folder:
        data = {"machine": machine, "repeats": arguments.repeats, "tasks": [asdict(one) for one in found]}
        write_atomically(arguments.folder / "theory-speed.json", (json.dumps(data, indent=2) + "\n").encode())
        write_atomically(arguments.folder / "theory-speed.md", page(shown, machine, arguments.repeats).encode())


def page(shown: Table, machine: Mapping[str, Any], repeats: int) -> str:
    """docs/theory-speed.md."""
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    return f"""# How long the theory takes

Generated by `python -m perakit.toy.benchmark docs`; not edited by hand. Whole processes, imports included; median
of {repeats} runs; {machine["cpu"]}, {machine["cores"]} cores; {versions}. Numbers: `theory-speed.json`.

{shown.markdown()}
"""


if __name__ == "__main__":
    main()
