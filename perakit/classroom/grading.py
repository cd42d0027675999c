"""Grade submissions: the judge, which asks a student's process and never runs a submission itself.

The report is one that a student can learn from.
"""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from perakit.classroom.assignment import Assignment, assignment_of, hidden_checks
from perakit.classroom.checks import Check
from perakit.classroom.clock import OutOfTime, limited
from perakit.classroom.examination import SEED, Finding, examine
from perakit.classroom.process import EndedError, Process
from perakit.classroom.report import Outcome, Report
from perakit.classroom.student import imports
from perakit.classroom.submission import contents, parse
from perakit.errors import PerakitError
from perakit.formulas import check_count

SAFE = "PYTHONSAFEPATH"  # as Python's option -P, for the processes below
OWN = 60.0  # seconds of computing that a check itself may take, beside the student's functions


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
    be read or does not say what it is. docs/teaching.md says what a submission's process can do.
    """
    return Grader(assignment, hidden).grade(path, progress)


class Grader:
    """Grades one submission after another; see `grade`.

    with Grader() as grader:
        reports = [grader.grade(path) for path in paths]
    """

    def __init__(self, assignment: str | None = None, hidden: str | Path | None = None) -> None:
        self.assignment = assignment
        self.hidden = [] if hidden is None else hidden_checks(Path(os.path.abspath(hidden)))

    def __enter__(self) -> Grader:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is left to close: each submission's process has ended with its report."""

    def grade(
        self, path: str | Path, progress: Callable[[Outcome], None] = lambda outcome: None
    ) -> Report:
        """The report of one submission."""
        path = Path(path)
        data = contents(path)
        cells = parse(path, data)
        task = assignment_of(cells, self.assignment)
        clash = {check.id for check in task.checks} & {check.id for check in self.hidden}
        if clash:
            raise PerakitError(
                f"hidden check {', '.join(sorted(clash))} is also one of {task.id}: give it another"
                " name"
            )
        outcomes: list[Outcome] = []
        with Process(cells) as process:
            for check in (*task.checks, *self.hidden):
                finding = _finding(check, process)
                outcomes.append(Outcome.of_check(check, finding, check in self.hidden))
                progress(outcomes[-1])
            process.close()
        return Report(
            path.as_posix(),
            task.id,
            outcomes,
            process.problems,
            sorted({*process.imports} - _usual(task)),
            process.printed,
            process.refused,
            _facts(data),
        )


def _finding(check: Check, process: Process) -> Finding:
    """Why the check fails in that process."""
    try:
        missing = process.begin(check.functions, check.seconds)
        if missing:
            return Finding(missing, begun=False)
        with limited(OWN + check.seconds, 10 * (OWN + check.seconds)):
            return examine(check, process.answer)
    except EndedError as error:
        return Finding(str(error))
    except OutOfTime:
        return Finding(f"the check itself did not finish within {OWN:g} s")
    finally:
        process.end()


def _usual(task: Assignment) -> set[str]:
    """What the assignment's own cells import."""
    return {"numpy", *imports(task.solution())}


def _facts(data: bytes) -> dict[str, Any]:
    versions = {"python": platform.python_version()} | {
        name: version(name) for name in ("perakit", "numpy", "torch", "hypothesis")
    }
    return {
        "seed": SEED,
        "versions": versions,
        "submission_sha256": hashlib.sha256(data).hexdigest(),
    }


# --- a class --------------------------------------------------------------------------------------


def grade_all(
    paths: Sequence[str | Path],
    assignment: str | None = None,
    hidden: str | Path | None = None,
    jobs: int = 1,
) -> Iterator[Report]:
    """The reports of many submissions, in their order, each as soon as it is known.

    paths, assignment, hidden: see `grade`; jobs: how many are graded at a time, each by a process
    of its own. A file that cannot be graded has a report that says why (`error`), and the rest goes
    on. PerakitError is for hidden checks that do not run.

    >>> list(grade_all([]))
    []
    """
    check_count("jobs", jobs)
    if jobs == 1 or len(paths) < 2:
        grader = Grader(assignment, hidden)
        for path in paths:
            yield _report(grader, path)
        return
    Grader(assignment, hidden)  # so that what is wrong with the hidden checks is said once
    workers = min(jobs, len(paths))
    with (
        _safe_path(),
        ProcessPoolExecutor(workers, get_context("spawn"), _hire, (assignment, hidden)) as pool,
    ):
        yield from pool.map(_graded, paths)


@contextmanager
def _safe_path() -> Iterator[None]:
    """Within the block, a new Python looks for no library in the folder where one is.

    That may be the folder of the hand-ins, and one of them be named array.py.
    """
    before = os.environ.get(SAFE)
    os.environ[SAFE] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[SAFE]
        else:
            os.environ[SAFE] = before


def _report(grader: Grader, path: str | Path) -> Report:
    try:
        return grader.grade(path)
    except PerakitError as error:
        return Report(Path(path).as_posix(), error=str(error))
    except Exception as error:  # a fault of the grader's own: the class goes on
        fault = f"the grader itself stopped with {type(error).__name__}: {error}; please report it"
        return Report(Path(path).as_posix(), error=str(PerakitError(fault)))


_hired: list[Grader] = []  # in a process of the pool: its grader


def _hire(assignment: str | None, hidden: str | Path | None) -> None:
    _hired.append(Grader(assignment, hidden))


def _graded(path: str | Path) -> Report:
    return _report(_hired[0], path)
