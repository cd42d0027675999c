"""Checks inside of a notebook's kernel, which otter-grader and nbgrader start themselves."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from perakit.classroom.assignment import Assignment
from perakit.classroom.examination import examine
from perakit.classroom.report import Outcome
from perakit.classroom.student import Room, Work
from perakit.errors import PerakitError


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
    work = Work(dict(zip(wanted, functions, strict=True)))
    with _plain_exit(functions):
        return Outcome.of_check(found[id], examine(found[id], Room(work, found[id].seconds).answer))


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
