"""A student's own copies of the notebooks: python notebooks/mine.py [FOLDER] (my-notebooks).

Whatever lies in the folder is the student's: nothing in it is written over or removed. A lesson
that is missing there is delivered; a newer one comes beside the older, as 01_name-2.ipynb.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path

from make import HERE, SOURCES, lesson, notebook, text

from perakit.errors import PerakitError
from perakit.files import alone, read_plain, write_atomically

__all__ = ["deliver"]

MINE = HERE.parent / "my-notebooks"
LARGEST = 2**28  # bytes of a notebook with outputs; no larger one is looked into


def deliver(sources: Sequence[Path], folder: Path) -> list[Path]:
    """Write each lesson of which the folder has no copy yet; returns what was written.

    A copy is known by the lesson that it began as, which it carries with it: not by its name, nor
    by its age. Each file comes whole or not at all. Raises PerakitError where nothing can be
    written, or where another process delivers.
    """
    written = []
    with alone(folder):
        there = set(lessons(folder))
        for source in sources:
            made = notebook(source)
            if made.metadata["perakit"]["lesson"] not in there:
                written.append(free(folder, source.stem))
                write_atomically(written[-1], text(made).encode())
    return written


def lessons(folder: Path) -> Iterator[str | None]:
    """What the notebooks in the folder began as."""
    for path in folder.glob("*.ipynb"):
        try:
            yield lesson(read_plain(path, LARGEST, "it is left as it is"))
        except PerakitError as error:  # a folder, say: not ours, and its name is taken
            print(f"mine.py: {error}", file=sys.stderr)


def free(folder: Path, stem: str) -> Path:
    """The first of NAME.ipynb, NAME-2.ipynb, NAME-3.ipynb ... that nothing has."""
    paths = (folder / f"{stem}{f'-{k}' if k > 1 else ''}.ipynb" for k in count(1))
    return next(path for path in paths if not os.path.lexists(path))


def main(argv: Sequence[str] | None = None) -> int:
    """Deliver, and say what is new."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, nargs="?", default=MINE)
    folder = parser.parse_args(argv).folder
    if folder.resolve() == HERE:
        parser.error("notebooks/ has the lessons themselves: name another folder")
    try:
        written = deliver(SOURCES, folder)
    except PerakitError as error:
        print(f"mine.py: {error}", file=sys.stderr)
        return 1
    if written:
        print(f"new in {folder.name}:", ", ".join(path.name for path in written))
    return 0


if __name__ == "__main__":
    sys.exit(main())
