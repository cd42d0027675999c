"""One cell of a submission, and the tags that say what it is for."""

from __future__ import annotations

from dataclasses import dataclass

# A cell with this tag is the student's laboratory: the grader does not run it
EXPERIMENT = "experiment"
OTHERS = "grading"  # and one with this tag calls another grader


@dataclass(frozen=True)
class Cell:
    """One cell of a submission.

    kind: "code" or "markdown"; its text, its tags, and where it stands, as a message says it.
    line: the number of its first line in a script; of a notebook's cell 1, and `name` says which
    cell.
    """

    kind: str
    source: str
    tags: tuple[str, ...] = ()
    line: int = 1
    name: str = ""

    @property
    def graded(self) -> bool:
        """Whether the grader runs it."""
        return self.kind == "code" and not {EXPERIMENT, OTHERS} & set(self.tags)

    def where(self, number: int) -> str:
        """Line `number` of this cell, as a student finds it."""
        return f"{self.name}, line {number}" if self.name else f"line {number + self.line - 1}"
