"""A figure into its file, and the numbers that it shows into numbers.json."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perakit.bench.measured import as_json, plain
from perakit.files import write_atomically
from perakit.plots import STYLE
from perakit.plots.pictures import png

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Drawn = tuple["Figure", dict[str, Any]]  # a figure, and every number in it


def draw_into(path: Path, make: Callable[[], Drawn]) -> dict[str, Any]:
    """Draw in perakit's style and write the PNG; returns the numbers."""
    from matplotlib import style

    with style.context(STYLE):
        figure, numbers = make()
        write_atomically(path, png(figure))
    return numbers


def write_numbers(folder: Path, record: dict[str, Any]) -> Path:
    """Write `record` into numbers.json of `folder`; returns its path."""
    path = folder / "numbers.json"
    write_atomically(path, as_json(plain(record)))
    return path
