"""Student work as cells: read from a script or a notebook, and written back as either."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from perakit.classroom.cells import Cell
from perakit.errors import PerakitError
from perakit.files import open_plain

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
MARKER = re.compile(r"^# %%(?P<markdown> \[markdown\])?(?:.*\btags=(?P<tags>\[[^\[\]]*\]))?.*$")


def contents(path: Path) -> bytes:
    """What is in a .py or .ipynb file; PerakitError for what is neither."""
    if path.suffix not in PARSERS:
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
    return data


def parse(path: Path, data: bytes) -> list[Cell]:
    """The cells of a file with these contents; PerakitError for what has none."""
    try:
        return PARSERS[path.suffix](data.decode("utf-8-sig"))
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
    if isinstance(notebook, dict) and "worksheets" in notebook:
        raise ValueError("it has format 3 or older")
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


PARSERS = {".py": parse_percent, ".ipynb": parse_notebook}


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
