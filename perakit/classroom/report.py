"""What came out: of one check, of one submission, and of a class as CSV.

What a submission says is escaped wherever it is shown: it has neither ESC nor a line of its own,
such as `PASS 2/2`, and no formula for a spreadsheet.
"""

from __future__ import annotations

import csv
import io
import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from perakit.classroom.checks import Check
from perakit.classroom.examination import Finding
from perakit.errors import printable

COLOURS = {"PASS": "\x1b[32m", "FAIL": "\x1b[31m"}
PLAIN = "\x1b[0m"


@dataclass(frozen=True)
class Outcome:
    """One check: what it was worth, and what the student got.

    said: why it failed, empty if it did not; hint: after a wrong answer; hidden: from the teacher's
    own file.
    """

    id: str
    title: str
    points: float
    of: float
    said: str = ""
    hint: str = ""
    hidden: bool = False

    @staticmethod
    def of_check(check: Check, finding: Finding, hidden: bool = False) -> Outcome:
        """The outcome of a check, from why it failed."""
        return Outcome(
            check.id,
            check.title,
            0 if finding.said else check.points,
            check.points,
            finding.said[:4000],
            check.hint if finding.said and finding.begun else "",
            hidden,
        )

    def __str__(self) -> str:
        line = f"{'FAIL' if self.said else 'PASS'} {self.points:g}/{self.of:g} {self.title}"
        if self.said:
            line += f" · {self.said}" + (f" · hint: {self.hint}" if self.hint else "")
        return one_line(line)


@dataclass(frozen=True)
class Report:
    """All outcomes of one submission.

    problems: what went wrong when its cells ran; imports: the libraries that it names, besides
    NumPy and those of the starter; printed: bytes; refused: what its cells were not allowed to do;
    facts: what the result was made from; error: why the file could not be graded, if so.
    """

    file: str
    assignment: str = ""
    outcomes: Sequence[Outcome] = ()
    problems: Sequence[str] = ()
    imports: Sequence[str] = ()
    printed: int = 0
    refused: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    error: str = ""

    @property
    def points(self) -> float:
        """The sum."""
        return sum(outcome.points for outcome in self.outcomes)

    @property
    def of(self) -> float:
        """The sum of what could be had."""
        return sum(outcome.of for outcome in self.outcomes)

    @property
    def lines(self) -> list[str]:
        """The report, a line for each thing to say."""
        if self.error:
            return [one_line(f"not graded: {self.error}")]
        notes = [f"a cell did not run: {problem}" for problem in self.problems]
        if self.refused:
            notes.append(f"while your file ran, this was refused: {self.refused}")
        if self.imports:
            notes.append(f"it imports {', '.join(self.imports)}")
        if self.printed:
            notes.append(
                "your file prints while it is graded; that costs nothing, and is not shown here"
            )
        return [
            *map(str, self.outcomes),
            *(one_line(f"note: {note}") for note in notes),
            f"{self.assignment}: {self.points:g} of {self.of:g} points",
        ]

    def __str__(self) -> str:
        return "\n".join(self.lines)

    def laid_out(self, width: int, colour: bool = True) -> str:
        """The report for a terminal of that many columns: lines wrapped, PASS and FAIL coloured."""
        wrapped = [_wrapped(line, width) for line in self.lines]
        return "\n".join(map(_coloured, wrapped) if colour else wrapped)

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON."""
        return {
            "file": self.file,
            "assignment": self.assignment,
            "points": self.points,
            "of": self.of,
            "error": self.error,
            "checks": [asdict(outcome) for outcome in self.outcomes],
            "problems": list(self.problems),
            "imports": list(self.imports),
            "refused": self.refused,
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
        said = [*self.problems, *([self.error] if self.error else [])]
        return {
            "score": self.points,
            "output": "\n".join(map(one_line, said)),
            "output_format": "text",  # by default it is read as HTML
            "visibility": "visible",
            "tests": tests,
            # For the teacher alone
            "extra_data": {
                "imports": list(map(one_line, self.imports)),
                "refused": one_line(self.refused),
            },
        }


def one_line(text: str) -> str:
    """`text` as it is safe to show in a line of its own."""
    return printable(text).replace("\n", "\\n")


def _wrapped(line: str, width: int) -> str:
    return textwrap.fill(line, max(width, 40), subsequent_indent="     ", break_on_hyphens=False)


def _coloured(text: str) -> str:
    word = text[:4]
    return f"{COLOURS[word]}{word}{PLAIN}{text[4:]}" if word in COLOURS else text


def marks(reports: Sequence[Report]) -> str:
    """One line a submission as CSV.

    File, assignment, points, each check's points, imports, and why it was not graded.
    """
    ids = list(dict.fromkeys(outcome.id for report in reports for outcome in report.outcomes))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["file", "assignment", "points", "of", *ids, "imports", "error"])
    for report in reports:
        got = {outcome.id: f"{outcome.points:g}" for outcome in report.outcomes}
        sums = ["", ""] if report.error else [f"{report.points:g}", f"{report.of:g}"]
        cells = [report.file, report.assignment, *sums, *(got.get(id, "") for id in ids)]
        cells += [" ".join(report.imports), report.error]
        writer.writerow(map(_cell, cells))
    return text.getvalue()


def _cell(text: str) -> str:
    """A cell that no spreadsheet takes for a formula."""
    return f"'{one_line(text)}" if text.startswith(("=", "+", "-", "@")) else one_line(text)
