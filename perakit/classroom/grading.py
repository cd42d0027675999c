"""Grade a submission: every check in a process of its own.

The report is one that a student can learn from.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import platform
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from perakit.classroom.assignment import Assignment, assignment_of, hidden_checks
from perakit.classroom.checks import Check
from perakit.classroom.examination import SEED, OutOfTime, examine, limited
from perakit.classroom.submission import Work, read
from perakit.errors import PerakitError, printable

STARTING = 120.0  # seconds that importing torch may take on a slow disk


@dataclass(frozen=True)
class Outcome:
    """One check: what it was worth, and what the student got.

    said: why it failed, empty if it did not; hidden: from the teacher's own file.
    """

    id: str
    title: str
    points: float
    of: float
    said: str = ""
    hint: str = ""
    hidden: bool = False
    printed: int = 0

    def __str__(self) -> str:
        line = f"{'FAIL' if self.said else 'PASS'} {self.points:g}/{self.of:g} {self.title}"
        if self.said:
            line += f" · {self.said}" + (f" · hint: {self.hint}" if self.hint else "")
        return _one_line(line)


@dataclass(frozen=True)
class Report:
    """All outcomes of one submission.

    problems: what went wrong when its cells ran; facts: what the result was made from.
    """

    file: str
    assignment: str
    outcomes: Sequence[Outcome]
    problems: Sequence[str]
    facts: dict[str, Any]

    @property
    def points(self) -> float:
        """The sum."""
        return sum(outcome.points for outcome in self.outcomes)

    @property
    def of(self) -> float:
        """The sum of what could be had."""
        return sum(outcome.of for outcome in self.outcomes)

    def __str__(self) -> str:
        lines = [
            *map(str, self.outcomes),
            *(_one_line(f"note: a cell did not run: {problem}") for problem in self.problems),
        ]
        printed = sum(outcome.printed > 0 for outcome in self.outcomes)
        if printed:
            lines.append(
                "note: your file prints while it is graded; that costs nothing, and is not shown"
                " here"
            )
        return "\n".join([*lines, f"{self.assignment}: {self.points:g} of {self.of:g} points"])

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON."""
        head = {
            "file": self.file,
            "assignment": self.assignment,
            "points": self.points,
            "of": self.of,
        }
        return head | {
            "checks": [asdict(outcome) for outcome in self.outcomes],
            "problems": list(self.problems),
            "facts": self.facts,
        }

    def gradescope(self) -> dict[str, Any]:
        """As Gradescope's results.json."""
        tests = [
            {
                "name": outcome.title,
                "number": outcome.id,
                "score": outcome.points,
                "max_score": outcome.of,
                "status": "failed" if outcome.said else "passed",
                "output": str(outcome),
                "visibility": "after_published" if outcome.hidden else "visible",
            }
            for outcome in self.outcomes
        ]
        return {
            "score": self.points,
            "output": "\n".join(self.problems),
            "visibility": "visible",
            "tests": tests,
        }


def _one_line(text: str) -> str:
    r"""As it is safe to show: what a submission says has neither ESC nor a line of its own, such as
    `PASS 2/2`.
    """
    return printable(text).replace("\n", "\\n")


def grade(
    path: str | Path,
    assignment: str | None = None,
    hidden: str | Path | None = None,
    progress: Callable[[Outcome], None] = lambda outcome: None,
) -> Report:
    """Grade one submission, a .py or .ipynb file, which is read and never written.

    assignment: its id; None reads it from the submission; hidden: a teacher's Python file with
    checks of its own, added to the assignment's; progress: called after each check. Returns a
    Report. A submission can cost a check, never the grading; PerakitError is for a file that cannot
    be read or does not say what it is. Not a security sandbox.
    """
    with Grader(assignment, hidden) as grader:
        return grader.grade(path, progress)


class Grader:
    """Grades one submission after another in the same process; see `grade`.

    So the libraries are imported once.
    with Grader() as grader:
        reports = [grader.grade(path) for path in paths]
    """

    def __init__(self, assignment: str | None = None, hidden: str | Path | None = None) -> None:
        self.assignment = assignment
        self.hidden = None if hidden is None else Path(os.path.abspath(hidden))
        self.worker = _Worker()

    def __enter__(self) -> Grader:
        return self

    def __exit__(self, *_: object) -> None:
        self.worker.close()

    def grade(
        self, path: str | Path, progress: Callable[[Outcome], None] = lambda outcome: None
    ) -> Report:
        """The report of one submission."""
        path = Path(path)
        cells = read(path)
        task = assignment_of(cells, self.assignment)
        own = [] if self.hidden is None else hidden_checks(self.hidden)
        clash = {check.id for check in task.checks} & {check.id for check in own}
        if clash:
            raise PerakitError(
                f"hidden check {', '.join(sorted(clash))} is also one of {task.id}: give it another"
                " name"
            )
        submission = [asdict(cell) for cell in cells]
        outcomes: list[Outcome] = []
        problems: list[str] = []
        for check in (*task.checks, *own):
            request = {
                "assignment": task.id,
                "check": check.id,
                "hidden": self.hidden and str(self.hidden),
                "cells": submission,
            }
            result = self.worker.ask(request, check.seconds)
            if "refused" in result:  # the hidden checks: no fault of the submission
                raise PerakitError(result["refused"])
            problems = problems or result["problems"]
            outcomes.append(outcome_of(check, result["said"], check in own, result["printed"]))
            progress(outcomes[-1])
        return Report(path.as_posix(), task.id, outcomes, problems, _facts(path))


def outcome_of(check: Check, said: str, hidden: bool = False, printed: int = 0) -> Outcome:
    """A check's outcome from why it failed."""
    return Outcome(
        check.id,
        check.title,
        0 if said else check.points,
        check.points,
        said,
        check.hint if said else "",
        hidden,
        printed,
    )


def points(check: str, *functions: Callable[..., Any]) -> float:
    """Points of one check for functions of this notebook, for nbgrader's partial credit.

    A float, and a line on stdout.
    check: "lora/scaling", the assignment and its check; functions: in the order that the check
    names them. Runs here, for no longer than the check may, and without a limit of memory.
    """
    outcome = check_functions(check, *functions)
    print(outcome)
    return float(outcome.points)


def require(check: str, *functions: Callable[..., Any]) -> None:
    """As `points`, but an AssertionError where the check fails.

    That is what otter-grader's test files expect.
    """
    outcome = check_functions(check, *functions)
    assert not outcome.said, str(outcome)


def check_functions(check: str, *functions: Callable[..., Any]) -> Outcome:
    """The outcome of one check for functions of this process."""
    name, _, id = str(check).partition("/")
    found = {check.id: check for check in Assignment.load(name).checks}
    if id not in found:
        raise PerakitError(
            f"{name} has no check {id!r}: choose from"
            f" {', '.join(f'{name}/{known}' for known in found)}"
        )
    wanted = found[id].functions
    if len(functions) != len(wanted):
        raise PerakitError(
            f"{check} takes {len(wanted)} functions, {', '.join(wanted)}, not {len(functions)}"
        )
    # Else a folder here
    os.environ.setdefault(
        "HYPOTHESIS_STORAGE_DIRECTORY", str(Path(tempfile.gettempdir()) / "hypothesis")
    )
    work = Work(dict(zip(wanted, functions, strict=True)), [], {})
    try:
        with limited(found[id].seconds), _plain_exit(functions):
            said = examine(found[id], work)
    except OutOfTime:  # after the answer was known
        said = f"it did not finish within {found[id].seconds:g} s"
    return outcome_of(found[id], said)


@contextmanager
def _plain_exit(functions: Sequence[Callable[..., Any]]) -> Iterator[None]:
    """Python's own `exit` for these functions.

    Jupyter's would end the kernel, and with it all that is still to be graded.
    """
    spaces = [
        space
        for function in functions
        if (space := getattr(function, "__globals__", None)) is not None
    ]
    kept = [
        (space, name, space[name]) for space in spaces for name in ("exit", "quit") if name in space
    ]
    for space, name, _ in kept:
        space[name] = sys.exit
    try:
        yield
    finally:
        for space, name, value in kept:
            space[name] = value


class _Worker:
    """The process that runs checks; started when it is needed, and again after one that ended."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[str] | None = None
        self.answers: queue.Queue[str] = queue.Queue()
        self.folder = tempfile.TemporaryDirectory()

    def close(self) -> None:
        """End it."""
        self._end()
        self.folder.cleanup()

    def ask(self, request: dict[str, Any], seconds: float) -> dict[str, Any]:
        """The answer to a request that may take so long; where none comes, one that says so."""
        if self.process is None or self.process.poll() is not None:
            self._start()
        assert self.process is not None
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            line = self.answers.get(timeout=STARTING + 3 * seconds)
        except (queue.Empty, OSError):
            line = ""
        if not line:
            self._end()
            said = f"it ended the process that runs it, or blocked it for more than {seconds:g} s"
            return {"said": said, "printed": 0, "problems": []}
        return dict(json.loads(line))

    def _start(self) -> None:
        """Start the worker from an empty folder, on one thread."""
        environment = os.environ | {
            "OMP_NUM_THREADS": "1",  # a process with one thread can be forked safely
            "MKL_NUM_THREADS": "1",
            "MPLBACKEND": "Agg",
            "PYTHONIOENCODING": "utf-8",
        }
        command = [sys.executable, "-P", "-m", "perakit.classroom.worker"]
        self.answers = queue.Queue()
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
            cwd=self.folder.name,  # else a file beside the submission may be taken for a library
            env=environment,
        )
        threading.Thread(
            target=self._listen, args=(self.process, self.answers), daemon=True
        ).start()

    @staticmethod
    def _listen(process: subprocess.Popen[str], answers: queue.Queue[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            answers.put(line)
        answers.put("")

    def _end(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            for stream in (self.process.stdin, self.process.stdout):
                if stream is not None:
                    with suppress(OSError):
                        stream.close()
            self.process = None


def _facts(path: Path) -> dict[str, Any]:
    versions = {"python": platform.python_version()} | {
        name: version(name) for name in ("perakit", "numpy", "torch", "hypothesis")
    }
    return {
        "seed": SEED,
        "versions": versions,
        "submission_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }


def marks(reports: Sequence[Report]) -> str:
    """One line a submission as CSV: file, points, then each check's."""
    ids = list(dict.fromkeys(outcome.id for report in reports for outcome in report.outcomes))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["file", "assignment", "points", "of", *ids])
    for report in reports:
        got = {outcome.id: f"{outcome.points:g}" for outcome in report.outcomes}
        writer.writerow(
            [
                report.file,
                report.assignment,
                f"{report.points:g}",
                f"{report.of:g}",
                *(got.get(id, "") for id in ids),
            ]
        )
    return text.getvalue()
