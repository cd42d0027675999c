"""How long the theory takes.

`python -m perakit.bench.theory docs` writes theory-speed.json and theory-speed.md there. Each task
runs several times, each time in a process of its own. The time is that of the whole process,
imports included; the memory is its peak. Targets are what the project asks of 2 CPU cores. Some
tasks also time their parts, from within.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from perakit.bench.measured import as_json, in_process, in_words, machine, made_from
from perakit.bench.models import SEED, SHAPE
from perakit.files import write_atomically
from perakit.table import Table
from perakit.toy import GPT2
from perakit.toy.memory import peak_bytes

SLOWEST = 10  # parts of a task that are shown


@dataclass(frozen=True)
class Answer:
    """What a task found, as text, and the seconds of its parts, by name."""

    text: str
    parts: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Task:
    """A title, what to run, and the most seconds and MiB that it may take.

    None: no target, the task is there to compare others with.
    """

    title: str
    run: Callable[[], Answer]
    seconds: float | None
    mebibytes: float | None = None


def _verify() -> Answer:
    from perakit.theory import verify

    report = verify()
    seconds = {evidence.claim: evidence.seconds for evidence in report.evidence}
    return Answer(f"{len(report.failed)} fail", seconds)


def _dimension(size: int) -> Answer:
    from perakit.theory import measured_dimension

    return Answer(str(measured_dimension(size, size, 8)))


def _staircases(largest: int) -> Answer:
    from perakit.formulas import TERMS
    from perakit.theory import jacobian_rank, staircase

    met, total = 0, 0
    for terms in TERMS:
        for rank in range(1, largest + 1):
            for m, n in staircase.corners(rank, terms):
                met, total = met + jacobian_rank(m, n, rank, terms).proved, total + 1
    return Answer(f"{met} of {total} proved")


def _symbolic() -> Answer:
    from perakit.theory.symbolic import expansion

    return Answer(str(expansion(4, 4, 3).holds))


def _approximation() -> Answer:
    from perakit.theory import best_approximation, families, targets

    found = best_approximation(targets(32, 32)["gaussian"], families.pera(2))
    return Answer(f"{found.error_fro:.4f}")


def _recovery(size: int, rank: int) -> Answer:
    from perakit.adapters import PERA
    from perakit.theory import recover

    method = PERA(rank)
    rng = np.random.default_rng(SEED)
    factors = {name: rng.normal(size=shape) for name, shape in method.shapes(size, size).items()}
    update = method.update(None, **factors)
    start = time.perf_counter()
    found = recover(update, method)
    seconds = time.perf_counter() - start
    return Answer(f"member: {found.member}", {f"{size} x {size}, r = {rank}": seconds})


def _adapted(rank: int) -> GPT2:
    """A random GPT-2 of the 124M model's shape, with PERA on all projections, off its start."""
    from perakit.adapters import PERA
    from perakit.models import attach
    from perakit.strategies import move

    torch.manual_seed(SEED)
    model = GPT2(SHAPE).eval()
    attach(model, PERA(rank), "all-linear")
    move(model, SEED)
    return model


def _spectra(rank: int) -> Answer:
    from perakit.theory import layer_spectra

    model = _adapted(rank)
    start = time.perf_counter()
    ranks = [one.rank.rank for one in layer_spectra(model).layers.values()]
    seconds = time.perf_counter() - start
    return Answer(_ranks(ranks), {f"{len(ranks)} layers, by the K x K core": seconds})


def _dense_spectra(rank: int) -> Answer:
    from perakit.models import delta_weights
    from perakit.theory import numerical_rank

    model = _adapted(rank)
    start = time.perf_counter()
    ranks = [numerical_rank(delta).rank for delta in delta_weights(model).values()]
    seconds = time.perf_counter() - start
    return Answer(_ranks(ranks), {f"{len(ranks)} layers, by the singular values of ΔW": seconds})


def _ranks(ranks: list[int]) -> str:
    return f"rank {', '.join(map(str, sorted(set(ranks))))}"


TASKS = {
    "verify": Task("perakit verify, all claims", _verify, 60),
    "dimension-256": Task("measured_dimension(256, 256, 8)", lambda: _dimension(256), 30, 2048),
    "dimension-64": Task("measured_dimension(64, 64, 8)", lambda: _dimension(64), 5),
    "staircases": Task("corners of all staircases, r <= 8", lambda: _staircases(8), 90),
    "symbolic": Task("Eq. 9 in symbols, m = n = 4, r = 3", _symbolic, 5),
    "approximation": Task("best PERA of rank 2 of a 32 x 32 Gaussian target", _approximation, 20),
    "recovery": Task("factors and h of a 64 x 64 PERA update, r = 4", lambda: _recovery(64, 4), 10),
    "spectra-8": Task(
        "rank and spectra of every layer, 124M GPT-2, PERA r = 8", lambda: _spectra(8), 20
    ),
    "spectra-16": Task(
        "rank and spectra of every layer, 124M GPT-2, PERA r = 16", lambda: _spectra(16), 20
    ),
    "dense-8": Task("the same from ΔW itself, PERA r = 8", lambda: _dense_spectra(8), None),
}


@dataclass(frozen=True)
class Measured:
    """What one task took and found.

    seconds: of each run; mebibytes: largest peak memory of a run; parts: seconds of each part in
    each run.
    """

    task: str
    seconds: list[float]
    mebibytes: float
    result: str
    parts: dict[str, list[float]]


def measure(name: str, repeats: int) -> Measured:
    """Run one task `repeats` times, each in a fresh process."""
    seconds, answers = [], []
    for _ in range(repeats):
        start = time.perf_counter()
        answers.append(in_process(__spec__.name, "--task", name))
        seconds.append(round(time.perf_counter() - start, 2))
    last = answers[-1]
    parts = {
        part: [round(answer["parts"][part], 3) for answer in answers] for part in last["parts"]
    }
    mebibytes = round(max(answer["peak_bytes"] for answer in answers) / 2**20)
    return Measured(name, seconds, mebibytes, last["text"], parts)


def table(found: list[Measured]) -> Table:
    """Median, spread and peak beside the targets."""
    columns = ("task", "seconds", "spread", "peak MiB", "target s", "result")
    return Table(columns, [_row(one) for one in found])


def _row(one: Measured) -> tuple[str, ...]:
    task, limit = TASKS[one.task], "-"
    if task.seconds is not None:
        limit = f"{task.seconds:g}" + (f", {task.mebibytes:g} MiB" if task.mebibytes else "")
    return (
        task.title,
        f"{statistics.median(one.seconds):.1f}",
        f"{min(one.seconds):.1f} ... {max(one.seconds):.1f}",
        f"{one.mebibytes:.0f}",
        limit,
        one.result,
    )


def parts(found: list[Measured]) -> Table:
    """Of each task with parts the slowest: median and spread."""
    rows = []
    for one in found:
        median = {part: statistics.median(seconds) for part, seconds in one.parts.items()}
        for part in sorted(median, key=lambda part: -median[part])[:SLOWEST]:
            spread = f"{min(one.parts[part]):.2f} ... {max(one.parts[part]):.2f}"
            rows.append((TASKS[one.task].title, part, f"{median[part]:.2f}", spread))
    return Table(("task", "part", "seconds", "spread"), rows)


def main() -> None:
    """Run one task (`--task`), or all of them and write what was measured."""
    parser = argparse.ArgumentParser(
        prog="python -m perakit.bench.theory", description="Time the theory toolkit."
    )
    parser.add_argument(
        "folder",
        nargs="?",
        type=Path,
        help="where theory-speed.json and theory-speed.md go; default: print only",
    )
    parser.add_argument(
        "--repeats", type=int, default=3, help="processes a task (default: %(default)s)"
    )
    parser.add_argument("--task", choices=TASKS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.task:
        answer = TASKS[arguments.task].run()
        print(json.dumps(asdict(answer) | {"peak_bytes": peak_bytes(torch.device("cpu"))}))
        return
    found = []
    for name, task in TASKS.items():
        print(f"benchmark: {task.title}", file=sys.stderr)
        found.append(measure(name, arguments.repeats))
    data = made_from(SEED) | {
        "machine": machine("numpy", "sympy"),
        "repeats": arguments.repeats,
        "tasks": [asdict(one) for one in found],
    }
    print(table(found), parts(found), sep="\n\n")
    if arguments.folder:
        text = page(found, data["machine"], arguments.repeats)
        write_atomically(arguments.folder / "theory-speed.json", as_json(data))
        write_atomically(arguments.folder / "theory-speed.md", text.encode())


def page(found: list[Measured], about: Mapping[str, Any], repeats: int) -> str:
    """docs/theory-speed.md."""
    return f"""# How long the theory takes

Generated by `python -m perakit.bench.theory docs`; not edited by hand. Whole processes, imports
included; median of {repeats} runs; {in_words(about)}.
Numbers: `theory-speed.json`.

{table(found).markdown()}

The same within a process, after imports: the slowest {SLOWEST} claims, and the spectra once the
model is there. Claims run in the order of the registry; what several of them need is counted with
the first.

{parts(found).markdown()}
"""


if __name__ == "__main__":
    main()
