"""Student work as cells: read from a script or a notebook, run, and written back as either."""

from __future__ import annotations

import ast
import json
import re
import sys
import types
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from perakit.errors import PerakitError
from perakit.files import open_plain

# a cell with this tag is the student's laboratory: the grader does not run it
EXPERIMENT = "experiment"
OTHERS = "grading"  # and one with this tag calls another grader
LARGEST = 10 * 2**20  # bytes; a notebook with many pictures is smaller
HEADER = """\
# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---
"""
MARKER = re.compile(r"^# %%(?P<markdown> \[markdown\])?(?:.*\btags=(?P<tags>\[[^\]]*\]))?.*$")


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

    def where(self, number: int) -> str:
        """Line `number` of this cell, as a student finds it."""
        return f"{self.name}, line {number}" if self.name else f"line {number + self.line - 1}"


def read(path: Path) -> list[Cell]:
    """The cells of a .py or .ipynb file; PerakitError for what is neither."""
    parse = {".py": parse_percent, ".ipynb": parse_notebook}.get(path.suffix)
    if parse is None:
        raise PerakitError(
            f"{str(path)!r} is neither a .py nor an .ipynb file: grade the script or the notebook"
            " that was handed in"
        )
    try:
        with open_plain(path) as file:
            data = file.read(LARGEST + 1)
    except OSError as error:
        raise PerakitError(
            f"cannot read {str(path)!r}: {error.strerror}; pass the file that was handed in"
        ) from error
    if len(data) > LARGEST:
        raise PerakitError(
            f"{str(path)!r} has more than {LARGEST:,} bytes: clear its outputs, and grade it again"
        )
    try:
        return parse(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise PerakitError(
            f"{str(path)!r} is not UTF-8 text ({error.reason} at byte {error.start}): save it as"
            " UTF-8"
        ) from error
    except (ValueError, RecursionError) as error:
        raise PerakitError(
            f"{str(path)!r} is no notebook ({error}): open it in Jupyter, save it, and grade it"
            " again"
        ) from error


def parse_percent(text: str) -> list[Cell]:
    """The cells of a script in jupytext's percent format.

    A script without `# %%` lines is one code cell.
    """
    cells: list[Cell] = []
    kind, start = "code", 1
    tags: tuple[str, ...] = ()
    lines: list[str] = []

    def close() -> None:
        body = "\n".join(lines)
        source = _uncommented(body) if kind == "markdown" else body
        if source.strip():
            skipped = len(source) - len(source.lstrip("\n"))
            cells.append(Cell(kind, source.strip("\n"), tags, start + skipped))

    text = text.replace("\r\n", "\n")
    # jupytext's header says nothing about the work
    head = re.match(r"# ---\n(#.*\n)*?# ---\n", text)
    begin = head.group().count("\n") if head else 0
    for number, line in enumerate(text.split("\n")[begin:], begin + 1):
        marker = MARKER.match(line)
        if marker is None:
            lines.append(line)
            continue
        close()
        kind = "markdown" if marker["markdown"] else "code"
        tags, start, lines = tuple(_tags(marker["tags"])), number + 1, []
    close()
    return cells


def _tags(text: str | None) -> list[str]:
    try:
        return [str(tag) for tag in json.loads(text)] if text else []
    except ValueError:
        return []


def _uncommented(text: str) -> str:
    return "\n".join(re.sub(r"^# ?", "", line) for line in text.split("\n"))


def parse_notebook(text: str) -> list[Cell]:
    """The code and markdown cells of a notebook of format 4; ValueError for anything else."""
    notebook = json.loads(text)
    found = notebook.get("cells") if isinstance(notebook, dict) else None
    if not isinstance(found, list):
        raise ValueError("it has no list of cells")
    cells = []
    for number, cell in enumerate(found, 1):
        source = cell.get("source", "") if isinstance(cell, dict) else None
        if isinstance(source, list):
            source = "".join(map(str, source))
        if not isinstance(source, str):
            raise ValueError(f"cell {number} has no text")
        metadata = cell.get("metadata") if isinstance(cell.get("metadata"), dict) else {}
        tags = metadata.get("tags")
        if cell.get("cell_type") in ("code", "markdown") and source.strip():
            cells.append(
                Cell(
                    cell["cell_type"],
                    source,
                    tuple(map(str, tags)) if isinstance(tags, list) else (),
                    1,
                    f"cell {number}",
                )
            )
    return cells


def to_percent(cells: Iterable[Cell]) -> str:
    """The cells as a script, which `parse_percent` and jupytext read."""
    parts = [HEADER]
    for cell in cells:
        tags = f" tags={json.dumps(list(cell.tags))}" if cell.tags else ""
        if cell.kind == "markdown":
            body = "\n".join(f"# {line}".rstrip() for line in cell.source.split("\n"))
            parts.append(f"# %% [markdown]{tags}\n{body}\n")
        else:
            parts.append(f"# %%{tags}\n{cell.source}\n")
    return "\n".join(parts)


def to_notebook(cells: Iterable[Cell], metadata: Sequence[dict[str, Any]] = ()) -> str:
    """The cells as a notebook without outputs. metadata: one dict a cell, besides its tags."""
    listed = []
    for number, cell in enumerate(cells):
        extra = dict(metadata[number]) if metadata else {}
        extra |= {"tags": list(cell.tags)} if cell.tags else {}
        made: dict[str, Any] = {"cell_type": cell.kind, "id": f"cell-{number}", "metadata": extra}
        if cell.kind == "code":
            made |= {"execution_count": None, "outputs": []}
        listed.append(made | {"source": cell.source.splitlines(keepends=True)})
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    about = {"kernelspec": kernel, "language_info": {"name": "python"}}
    notebook = {"cells": listed, "metadata": about, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def without_magics(cell: Cell) -> Cell:
    """The cell, with IPython's own lines (`%time`, `!pip`) as `pass` if need be.

    A cell that is Python as it stands stays as it is.
    """
    try:
        ast.parse(cell.source)
    except (SyntaxError, ValueError):
        return replace(
            cell, source=re.sub(r"^(\s*)[%!].*$", r"\1pass", cell.source, flags=re.MULTILINE)
        )
    return cell


@dataclass
class Work:
    """What a submission defines once it has run, and what went wrong on the way.

    left_out: the text of cells that were not run.
    """

    names: dict[str, Any]
    problems: list[str]
    sources: dict[str, Cell]
    left_out: list[str] = field(default_factory=list)


def run(cells: Iterable[Cell], stop: type[BaseException]) -> Work:
    """Run the code cells one after another, as a notebook does.

    A cell that fails is noted, and the next ones still run.
    Cells with the tags "experiment" and "grading" are left out. stop: an exception that ends
    everything, such as time running out.
    """
    module = types.ModuleType("submission")
    sys.modules["submission"] = module  # where a dataclass looks for what its annotations mean
    work = Work(vars(module), [], {})
    for number, cell in enumerate(cells, 1):
        if cell.kind != "code" or {EXPERIMENT, OTHERS} & set(cell.tags):
            work.left_out += [cell.source] if cell.kind == "code" else []
            continue
        cell = without_magics(cell)
        file = f"<submission {number}>"
        work.sources[file] = cell
        try:
            exec(compile(cell.source, file, "exec", dont_inherit=True), work.names)
        except stop:
            raise
        except SyntaxError as error:
            work.problems.append(
                f"{cell.where(error.lineno or 1)} is not Python ({error.msg}):"
                f" {(error.text or '').strip()!r}"
            )
        except BaseException as error:
            work.problems.append(explain(error, work))
    return work


def explain(error: BaseException, work: Work) -> str:
    """What a student's code raised, in a sentence that says where."""
    place, trace = "", error.__traceback__
    while trace is not None:
        cell = work.sources.get(trace.tb_frame.f_code.co_filename)
        if cell is not None:
            text = re.split(r"\r\n|\r|\n", cell.source)[trace.tb_lineno - 1].strip()
            place = f" ({cell.where(trace.tb_lineno)}: {text[:200]})"
        trace = trace.tb_next
    return f"{sentence(error)}{place}{_left_out(error, work)}"


def _left_out(error: BaseException, work: Work) -> str:
    """Of a name that is not there: whether a cell defines it that the grader does not run."""
    name = re.escape(error.name or "") if isinstance(error, NameError) else ""
    found = name and any(
        re.search(rf"^((def|class|import) +{name}\b|{name} *=)", text, re.MULTILINE)
        for text in work.left_out
    )
    return (
        f"; `{name}` is defined in an experiment cell, which the grader does not run: move it to a"
        " cell without that tag"
        if found
        else ""
    )


class ForbiddenError(PermissionError):
    """Something that a submission has no reason to do: says what."""


def sentence(error: BaseException) -> str:
    """An exception as a student should read it."""
    message = str(error)
    if isinstance(error, ForbiddenError):
        return message
    if isinstance(error, SystemExit):
        return "it calls exit(), which ends Python: return instead"
    if (
        isinstance(error, MemoryError)
        or "allocate memory" in message
        or "Unable to allocate" in message
    ):
        return (
            "it asks for more memory than a check may use: is an array far too large, or a list"
            " that never stops growing?"
        )
    if isinstance(error, OSError) and error.errno == 27:
        return "it prints or writes without end: more than a check may write"
    if isinstance(error, RecursionError):
        return "it calls itself without end (RecursionError)"
    return (
        f"it raises {type(error).__name__}: {message[:300]}"
        if message
        else f"it raises {type(error).__name__}"
    )
