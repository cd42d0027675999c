"""An assignment: one file with the text, a reference solution between markers, and the checks."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from perakit.classroom.cells import Cell
from perakit.classroom.checks import Check
from perakit.classroom.clock import OutOfTime, limited
from perakit.classroom.submission import LARGEST, parse_percent
from perakit.errors import PerakitError, short
from perakit.files import read_plain
from perakit.table import Table

FOLDER = Path(__file__).with_name("assignments")
# The markers that otter-grader and nbgrader both read.
SOLUTION = re.compile(
    r"^([ \t]*)# BEGIN SOLUTION\n(.*?)^[ \t]*# END SOLUTION[ \t]*$", flags=re.DOTALL | re.MULTILINE
)
STUB = "raise NotImplementedError  # your code here"
MARK = re.compile(r"perakit assignment `(\w+)`")
OURS = ("checks", "instructor")  # tags of cells that a student does not get
SECONDS = 30.0  # of computing, for a file that only defines checks


@dataclass(frozen=True)
class Assignment:
    """One assignment, read from its file.

    id: its name on the command line; title; cells: of its file, all of them; checks: in order.
    """

    id: str
    title: str
    cells: Sequence[Cell]
    checks: Sequence[Check]

    @staticmethod
    @cache
    def load(id: str) -> Assignment:
        """The assignment of that name; PerakitError lists those there are."""
        paths = {path.stem.partition("_")[2]: path for path in sorted(FOLDER.glob("week*_*.py"))}
        if id not in paths:
            raise PerakitError(f"no assignment {short(id)}: choose from {', '.join(paths)}")
        cells = parse_percent(paths[id].read_text(encoding="utf-8"))
        checks = _checks_of(_joined(cells, "checks"), paths[id])
        title = next(
            line.removeprefix("# ")
            for cell in cells
            for line in cell.source.split("\n")
            if line.startswith("# ")
        )
        return Assignment(id, title, cells, checks)

    @property
    def points(self) -> float:
        """What all its checks are worth."""
        return sum(check.points for check in self.checks)

    @property
    def mark(self) -> Cell:
        """The cell by which the grader knows whose work this is; it says what is checked."""
        rows = [
            [check.title, ", ".join(f"`{name}`" for name in check.functions), f"{check.points:g}"]
            for check in self.checks
        ]
        text = (
            f"*This is perakit assignment `{self.id}`; keep this line.* What is checked, with"
            " `perakit grade` and the name of this file:"
        )
        table = Table(
            ("property", "of", "points"),
            rows,
            f"Together {self.points:g} points, and those of the rubric.",
        )
        return Cell("markdown", f"{text}\n\n{table.markdown()}")

    def solution(self) -> list[Cell]:
        """The student's cells with the reference solution."""
        cells = [cell for cell in self.cells if not set(cell.tags) & set(OURS)]
        return [cells[0], self.mark, *cells[1:]]

    def starter(self) -> list[Cell]:
        """What a student begins with: the same, with a stub in place of each solution."""
        return [
            replace(cell, source=SOLUTION.sub(rf"\1{STUB}", cell.source))
            for cell in self.solution()
        ]

    def notes(self) -> str:
        """What a teacher should know: Markdown."""
        return "\n\n".join(cell.source for cell in self.cells if "instructor" in cell.tags)

    def rubric(self) -> str:
        """How the written answers are marked: Markdown."""
        return "\n\n".join(cell.source for cell in self.cells if "rubric" in cell.tags)


def assignments() -> dict[str, Assignment]:
    """All assignments by id, in the order of the weeks."""
    return {
        path.stem.partition("_")[2]: Assignment.load(path.stem.partition("_")[2])
        for path in sorted(FOLDER.glob("week*_*.py"))
    }


def assignment_of(cells: Sequence[Cell], given: str | None = None) -> Assignment:
    """Whose work these cells are: the given one, or the one that their text names."""
    found = {name for cell in cells for name in MARK.findall(cell.source)}
    if given is None and len(found) != 1:
        said = (
            f"names several assignments ({', '.join(sorted(found))})"
            if found
            else "does not say which assignment it is"
        )
        raise PerakitError(f"the file {said}: pass --assignment, one of {', '.join(assignments())}")
    return Assignment.load(found.pop() if given is None else given)


def hidden_checks(path: Path) -> list[Check]:
    """The checks in a teacher's own Python file, which is run as it is, for `SECONDS` at most."""
    data = read_plain(path, LARGEST, "give a Python file with the hidden checks")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise PerakitError(
            f"the hidden checks in {str(path)!r} are not UTF-8 text ({error.reason} at byte"
            f" {error.start}): save the file as UTF-8"
        ) from error
    try:
        with limited(SECONDS):
            return _checks_of([Cell("code", text)], path)
    except OutOfTime as error:
        raise PerakitError(
            f"the checks in {str(path)!r} do not end within {SECONDS:g} s: the file only defines"
            " them, work belongs into a check"
        ) from error


def _joined(cells: Sequence[Cell], tag: str) -> list[Cell]:
    return [cell for cell in cells if tag in cell.tags]


def _checks_of(cells: Sequence[Cell], path: Path) -> list[Check]:
    """The checks that there are once the cells have run, in the order in which they are written."""
    names: dict[str, object] = {"__name__": f"perakit.classroom.assignments.{path.stem}"}
    for cell in cells:
        # So that a traceback has the file's own line numbers
        code = "\n" * (cell.line - 1) + cell.source
        try:
            exec(compile(code, str(path), "exec", dont_inherit=True), names)
        except (KeyboardInterrupt, OutOfTime):
            raise
        except BaseException as error:  # also SystemExit, which would end the grading in silence
            raise PerakitError(
                f"the checks in {str(path)!r} do not run: {type(error).__name__}: {error}"
            ) from error
    found = [value for value in names.values() if isinstance(value, Check)]
    if not found:
        raise PerakitError(
            f"{str(path)!r} defines no checks: write @check(points, title, function) above a"
            " property"
        )
    return found
