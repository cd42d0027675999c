"""A small table: plain text in a terminal, HTML in a notebook, Markdown in a report."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

from perakit.errors import printable


@dataclass(frozen=True)
class Table:
    """columns: their titles; rows: one string a cell; foot: lines below, or empty.

    Cells may have the names of files and layers, with any character: each dress shows a line break
    and other control characters as escapes.

    numbers: columns after the first are numbers, to the right and never broken; False: words, to
    the left as the first.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    foot: str = ""
    numbers: bool = True

    def __str__(self) -> str:
        lines = self._lines()
        widths = [max(len(line[c]) for line in lines) for c in range(len(self.columns))]
        text = [
            "  ".join(self._pad(line[c], widths[c], c) for c in range(len(widths))).rstrip()
            for line in lines
        ]
        text.insert(1, "  ".join("-" * width for width in widths))
        return "\n".join([*text, printable(self.foot)] if self.foot else text)

    def markdown(self) -> str:
        """The table for a Markdown page."""
        rule = ["--:" if self._right(c) else ":--" for c in range(len(self.columns))]
        columns, *rows = self._lines()
        lines = [
            "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |"
            for line in (columns, rule, *rows)
        ]
        # Two blanks: a new line
        foot = printable(self.foot).replace("\n", "  \n")
        return "\n".join([*lines, "", foot] if foot else lines)

    def _repr_html_(self) -> str:
        def row(cells: Sequence[str], tag: str) -> str:
            return (
                "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"
            )

        columns, *rows = self._lines()
        body = row(columns, "th") + "".join(row(cells, "td") for cells in rows)
        return f"<table>{body}</table>" + "".join(
            f"<p>{html.escape(line)}</p>" for line in printable(self.foot).splitlines()
        )

    def _lines(self) -> list[list[str]]:
        """Columns and rows, as they are safe to show."""
        return [
            [printable(cell).replace("\n", "\\n") for cell in line]
            for line in (self.columns, *self.rows)
        ]

    def _right(self, column: int) -> bool:
        return self.numbers and column > 0

    def _pad(self, cell: str, width: int, column: int) -> str:
        return cell.rjust(width) if self._right(column) else cell.ljust(width)
