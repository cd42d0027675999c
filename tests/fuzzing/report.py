"""What came of many cases, as tables for a reader and as figures for docs/reliability.md."""

import platform
from collections import Counter
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

from runner import MARKED, Case, Done, marks


def table(done: Done, row: Callable[[Case], str], outcome: Callable[[str], str] = str) -> str:
    """Counts of outcomes, by `row` of the case."""
    counts = Counter((row(case), outcome(answer.outcome)) for case, answer in done)
    rows = sorted({key for key, _ in counts})
    columns = [
        column for column, _ in Counter(outcome(answer.outcome) for _, answer in done).most_common()
    ]
    letters = [chr(ord("a") + i) for i in range(len(columns))]
    width = max(map(len, rows))

    def line(key: str, cells: list[Any]) -> str:
        return f"{key:{width}}" + "".join(f"{cell:>6}" for cell in cells)

    return "\n".join(
        [
            line("", letters),
            *(line(key, [counts[key, column] or "." for column in columns]) for key in rows),
            line("", [sum(counts[key, column] for key in rows) for column in columns]),
            *(f"  {letter}: {column}" for letter, column in zip(letters, columns, strict=True)),
        ]
    )


def report(done: Done, shown: int) -> None:
    """Print the tables and the failures."""
    print(table(done, lambda case: case.kinds[0] if len(case.kinds) == 1 else "two kinds"))
    for row in (lambda case: f"onto {case.target}", lambda case: f"from {case.source}"):
        print("\n" + table(done, row, lambda outcome: outcome.split()[0]))
    for case, answer in [one for one in done if one[1].failed][:shown]:
        print(
            f"\ncase {case.number}: {case.source}, onto {case.target},"
            f" {' + '.join(case.kinds)}: {answer.outcome}\n{answer.text}"
        )
    for what, key in (
        ("peak above the start, bytes", "peak"),
        ("longest message, letters", "length"),
    ):
        case, answer = max(done, key=lambda pair: getattr(pair[1], key))
        print(f"\n{what}: {getattr(answer, key):,} in case {case.number}, {answer.outcome}", end="")
    print(f"\nfolders of the first {MARKED} cases: {marks(done)}")


def figures(door: str, done: Done, seed: int, seconds: float, cpu_seconds: float) -> dict[str, Any]:
    """A run in one line of JSON."""
    answers = [answer for _, answer in done]
    failures = sum(answer.failed for answer in answers)
    right = sum(answer.outcome == "right" for answer in answers)
    packages = [name for name in ("torch", "safetensors", "transformers") if find_spec(name)]
    return {
        "door": door,
        "cases": len(done),
        "right": right,
        "refused": len(done) - right - failures,
        "failures": failures,
        "half_changed": sum(answer.outcome == "FAILED: half changed" for answer in answers),
        "worst_seconds": round(max(answer.seconds for answer in answers), 2),
        "worst_mib": round(max(answer.peak for answer in answers) / 2**20, 1),
        "seconds": round(seconds),
        "cpu_seconds": round(cpu_seconds),
        "seed": seed,
        "versions": {"python": platform.python_version()}
        | {package: version(package) for package in packages},
    }
