"""The door of `perakit bench --out`: the cells that were measured before.

Nothing is measured here: a cell that is missing gets times that no other cell has.
"""

import json
import math
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

from defects import ANY
from lines import LINES, bare, contents, difference, plain, rows, unsealed, written
from mutations import Draft, Files
from runner import Door, Trial, demand

from perakit.bench import command, timing
from perakit.bench.settings import VISITS, Settings

FRESH = 7.5  # seconds of what is measured now
SETTINGS = Settings(layers=((2, 3),), tokens=(1,), ranks=(1,), repeats=6, parts=("layers",))


# Our code and machine stay as they are while we look
hashed, machine = cache(command._hash), cache(command._machine)


def measured(seconds: Callable[[int, int], float], folder: Path, settings: Settings) -> Any:
    """`perakit bench` with made up times: seconds(contender, round)."""

    def visited(task: Any, settings: Settings, update: object) -> dict[str, Any]:
        rounds = range(settings.rounds(task.part))
        results = [
            one.to_dict() | {"flop": flop, "seconds": [seconds(i, turn) for turn in rounds]}
            for i, (one, flop) in enumerate(task.flop.items())
        ]
        return task.cell | {"results": results}

    with ExitStack() as patched:
        patched.enter_context(patch.object(command, "_visited", visited))
        patched.enter_context(patch.object(timing, "speed", lambda *_: 1e9))
        patched.enter_context(patch.object(command, "_hash", lambda files: hashed(tuple(files))))
        patched.enter_context(patch.object(command, "_machine", machine))
        return command.run(settings, folder)


def opens(folder: Path) -> dict[str, Any]:
    """The same settings once more."""
    return measured(lambda *_: FRESH, folder, SETTINGS)


class Source(NamedTuple):
    """A file of cells as it was written."""

    data: bytes

    def draft(self) -> Draft:
        return Draft(lines=self.data.split(b"\n")[:-1])

    @property
    def cells(self) -> list[dict[str, Any]]:
        return [plain(json.loads(line)) for line in self.data.split(b"\n")[:-1]]


class Cells(Door):
    """cells.jsonl, with the cells that are asked for and one of other settings."""

    name = "cells"
    content = LINES
    opens = staticmethod(opens)

    def sources(self, scratch: Path) -> dict[str, Any]:
        for seed in (1, 0):  # the other settings first
            settings = Settings(**{**vars(SETTINGS), "seed": seed})
            made = iter(range(1, 10**6))
            measured(lambda *_, made=made, s=seed: (next(made) + s / 2) / 1024, scratch, settings)
        path = scratch / command.CELLS
        data = path.read_bytes()
        shutil.rmtree(scratch)
        return {
            "all": Source(data),
            "without checksums": Source(written(unsealed(data.split(b"\n")[:-1]))),
            "half": Source(data[: data.rindex(b"\n", 0, -1) + 1]),
        }

    def files(self, draft: Draft, sealed: bool) -> Files:
        return {command.CELLS: written(draft.lines), **draft.extra}

    def trial(self, source: Source, target: str, folder: Path, opens: Callable[..., Any]) -> Trial:
        before, path = contents(folder), folder / command.CELLS
        there, old = rows(path), bare(folder, command.CELLS)

        def right(document: dict[str, Any]) -> None:
            judge(source, [plain(row) for row in there], old, rows(path), document)

        return Trial(lambda: opens(folder), right, lambda: difference(folder, before))


def judge(
    source: Source,
    before: list[Any],
    old: list[Any],
    after: list[Any],
    document: dict[str, Any],
) -> None:
    """No time is another, and no cell is lost; old: the rows that were there without a checksum."""
    cells = source.cells
    asked = {row["key"] for row in cells[VISITS:]}
    kept = [plain(row) for row in after]
    lost = [row for row in before if row in cells and row not in kept]
    demand(not lost, f"lost: {[row['key'] for row in lost]}")
    new = [row for row in kept if all(times(row, lambda one: one == FRESH))]
    unseen = [
        row
        for row in kept
        if repr(row) in map(repr, old) and (row["key"] not in asked or all(times(row, is_time)))
    ]
    odd = [row["key"] for row in kept if row not in cells and row not in new + unseen]
    demand(not odd, f"cells that nobody measured: {odd}")
    (cell,) = document["layers"]
    demand(untimed(cell) in [untimed(row["cell"]) for row in cells], f"the cell {untimed(cell)}")
    visits = [row["cell"]["results"] for row in kept if row["key"] in asked or row in new]
    for at, result in enumerate(cell["results"]):
        demand(len(result["seconds"]) == SETTINGS.repeats, f"seconds {result['seconds']}")
        for visit in range(VISITS):
            part = result["seconds"][2 * visit : 2 * visit + 2]
            there = [results[at]["seconds"] for results in visits]
            demand(part in there, f"seconds {part} of visit {visit} are in no line of the file")


def times(row: dict[str, Any], good: Callable[[Any], bool]) -> list[bool]:
    """Of each time in a line: is it good? Not where there are no times."""
    try:
        return [good(one) for result in row["cell"]["results"] for one in result["seconds"]]
    except (KeyError, TypeError):
        return [False]


def untimed(cell: dict[str, Any]) -> dict[str, Any]:
    """A cell without its seconds."""
    return {**cell, "results": [{**result, "seconds": None} for result in cell["results"]]}


def is_time(value: Any) -> bool:
    return type(value) is float and 0 <= value < math.inf


def halved(opens: Callable[..., Any]) -> Callable[..., Any]:
    """Takes a time for another one."""

    def broken(folder: Path) -> dict[str, Any]:
        document = opens(folder)
        document["layers"][0]["results"][0]["seconds"][0] /= 2
        return document

    return broken


def tidy(opens: Callable[..., Any]) -> Callable[..., Any]:
    """Throws away what is not asked for."""

    def broken(folder: Path) -> dict[str, Any]:
        document = opens(folder)
        path = folder / command.CELLS
        path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[1:]))
        return document

    return broken


def eager(opens: Callable[..., Any]) -> Callable[..., Any]:
    """Writes before it refuses."""

    def broken(folder: Path) -> dict[str, Any]:
        try:
            return opens(folder)
        except Exception:
            (folder / "new").write_bytes(b"")
            raise

    return broken


Cells.defects = ANY | {
    "halved": (halved, "wrongly taken", 40),
    "tidy": (tidy, "wrongly taken", 40),
    "eager": (eager, "half changed", 30),
}
