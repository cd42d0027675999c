"""`perakit bench`: the time of all contenders side by side, and the memory of every method.

Contenders are the base, LoRA, PERA, the authors' algorithm and PEFT. They take turns, so that a
ratio is of times taken at the same moment. Each cell (a layer or a model, tokens, device, dtype) is
kept as soon as it is measured: after an interrupt the same command goes on from there. What is
measured here is drawn by `report`.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import torch
from tqdm.auto import tqdm

from perakit import formulas
from perakit.bench import host, memory, report, timing
from perakit.bench.cells import Task, tasks
from perakit.bench.contenders import Contender
from perakit.bench.measured import as_json, machine, plain, renewed
from perakit.bench.report import table
from perakit.bench.settings import DTYPES, MODELS, PARTS, VISITS, Settings, layer, usual
from perakit.bench.timing import interleave
from perakit.errors import PerakitError
from perakit.files import alone, read_plain, write_atomically
from perakit.plots.pictures import png
from perakit.rows import LIMIT, read_rows, sealed

__all__ = ["MODELS", "PARTS", "Settings", "layer", "page", "publish", "run", "table", "usual"]

CELLS, PAGE = "cells.jsonl", "performance.md"
REMOVE = "remove it, or choose another --out"
PACKAGE = Path(formulas.__file__).parent
# The code whose change makes a time another one: of this room, and whole rooms
TIMED = ("timing.py", "contenders.py", "models.py", "host.py")
ROOMS = ("adapters", "fast", "models")


def run(settings: Settings, out: Path) -> dict[str, Any]:
    """Measure what `out`/cells.jsonl does not have yet, and return the document with all parts.

    A cell is there only if this machine, code and versions made it. An estimate, and then progress,
    go to stderr.
    Raises PerakitError, before anything is measured, where `out` cannot be written, where another
    process is at work in it, or where its cells are not as they were written.
    """
    with alone(out):
        return _measured(settings, out / CELLS)


def _measured(settings: Settings, path: Path) -> dict[str, Any]:
    """The document, of the cells in `path` and of those that are missing there."""
    where = _machine(settings.device)
    found = tasks(settings)
    todo = {_key(task, visit, settings, where): task for visit in range(VISITS) for task in found}
    cells = _read(path)
    for key in cells.keys() & todo.keys():
        if not _is_of(todo[key], settings, cells[key]):
            raise PerakitError(
                f"{str(path)!r} has no times of {todo[key].title}, as it says it has: {REMOVE}"
            )
    _write(path, cells)
    missing = {key: task for key, task in todo.items() if key not in cells}
    _announce(settings, missing.values(), len(todo))
    total = sum(task.work(settings) for task in missing.values())
    with tqdm(total=total, unit="FLOP", unit_scale=True, disable=not missing) as bar:
        for key, task in missing.items():
            bar.set_description(task.title)
            cells[key] = _visited(task, settings, bar.update)
            _write(path, cells)
    parts: dict[str, list[dict[str, Any]]] = {part: [] for part in PARTS}
    for task in found:
        visits = [cells[_key(task, visit, settings, where)] for visit in range(VISITS)]
        parts[task.part].append(_joined(visits))
    if "memory" in settings.parts:
        parts["memory"] = memory.measure(settings.seed)
    made = {
        "seed": settings.seed,
        "repeats": settings.repeats,
        "machine": where,
        "formulas_sha256": _hash([Path(formulas.__file__)]),
        "command": settings.command,
    }
    return {"made_from": made, **parts}


def _visited(task: Task, settings: Settings, update: Callable[[int], object]) -> dict[str, Any]:
    """A cell as one visit measures it; update: told the counted operations after each round."""
    steps, seconds = task.steps(), dict[Contender, list[float]]()
    of_host = task.part == "host"
    with host.one_thread() if of_host else nullcontext():
        # Only contenders of one rank are compared: they take turns, with no other in between
        for rank in dict.fromkeys(one.rank for one in steps):
            beside = {one: step for one, step in steps.items() if one.rank == rank}
            advance = partial(update, sum(task.flop[one] for one in beside))
            how = (settings.rounds(task.part), task.cell["device"], advance)
            seconds |= interleave(beside, *how, 0.0 if of_host else None)
    results = [
        one.to_dict()
        | {"flop": task.flop[one], "seconds": plain(seconds[one])}
        | ({"operations": host.operations(steps[one])} if of_host else {})
        for one in task.flop
    ]
    return task.cell | {"results": results}


def _joined(visits: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One cell of its visits: the rounds of each contender one after the other."""
    results = zip(*(cell["results"] for cell in visits), strict=True)
    return visits[0] | {
        "results": [
            same[0] | {"seconds": [one for visit in same for one in visit["seconds"]]}
            for same in results
        ]
    }


def publish(document: Mapping[str, Any], out: Path, onto_page: bool = False) -> None:
    """Write the numbers and the figures into `out`, under the names of the document's device.

    onto_page: also write the tables into the performance.md that stands there now, into the part of
    that device.
    """
    device = report.device_of(document)
    files = {report.NUMBERS[device]: as_json(document)}
    files |= {name: png(figure) for name, figure in report.figures(dict(document)).items()}
    # Read when it is written: somebody may have worked at its prose while this was measured
    if onto_page:
        files[PAGE] = report.page(dict(document), page(out, device)).encode()
    for name, data in files.items():
        write_atomically(out / name, data)


def page(folder: Path, device: str) -> str:
    """The text of performance.md in `folder`.

    Raises PerakitError where there is none, or none with a part to renew for that device.
    """
    path, remedy = folder / PAGE, "choose the folder that holds it, or leave --docs out"
    if not os.path.lexists(path):
        raise PerakitError(f"no page {str(path)!r} to renew: {remedy}")
    try:
        text = read_plain(path, LIMIT, remedy).decode()
    except UnicodeDecodeError as error:
        raise PerakitError(f"page {str(path)!r} is no text in UTF-8: {remedy}") from error
    renewed(text, report.COMMANDS[device], "")
    return text


def _announce(settings: Settings, missing: Iterable[Task], all_cells: int) -> None:
    """Say how long it takes at least, and who cannot take part."""
    missing = list(missing)
    if not find_spec("peft"):
        _say(
            "PEFT is not installed, its LoRA is left out: pip install 'perakit[hf]' to have it"
            " beside the others"
        )
    if len(missing) < all_cells:
        _say(f"{all_cells - len(missing)} of {all_cells} visits to cells are there already")
    if missing:
        rate = {
            name: timing.speed(settings.device, DTYPES[name])
            for name in dict.fromkeys(task.cell["dtype"] for task in missing)
        }
        seconds = sum(task.work(settings) / rate[task.cell["dtype"]] for task in missing)
        fast = ", ".join(f"{value / 1e9:,.0f} GFLOP/s in {name}" for name, value in rate.items())
        least = max(1, math.ceil(seconds / 60))
        _say(
            f"{len(missing)} visits to cells, at least {least} min: their FLOP at {fast}, as this"
            " machine multiplies now"
        )


def _machine(device: str) -> dict[str, Any]:
    """What it runs on, with the name of the GPU where there is one in use."""
    name = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    packages = [package for package in ("peft", "transformers") if find_spec(package)]
    return machine(*packages) | {"device": name}


# --- what is kept ---------------------------------------------------------------------------------


def _key(task: Task, visit: int, settings: Settings, where: Mapping[str, Any]) -> str:
    """A hash of all that a visit's numbers depend on, but the load of the machine."""
    code = [*(PACKAGE / "bench" / name for name in TIMED), PACKAGE / "formulas.py"]
    code += [file for room in ROOMS for file in sorted((PACKAGE / room).glob("*.py"))]
    facts = {
        "cell": [task.part, task.cell, [one.to_dict() for one in task.flop]],
        "settings": [settings.seed, settings.repeats, visit],
        "machine": {name: value for name, value in where.items() if name != "load"},
        "code": _hash(code),
    }
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _hash(files: Iterable[Path]) -> str:
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def _read(path: Path) -> dict[str, dict[str, Any]]:
    """Key -> cell, of every line of cells.jsonl; empty where there is no such file."""
    cells = dict[str, dict[str, Any]]()
    for row in read_rows(path, LIMIT, REMOVE) if os.path.lexists(path) else ():
        key, cell = row.values.get("key"), cast(dict[str, Any], row.values.get("cell"))
        if row.values.keys() != {"key", "cell"} or not isinstance(key, str) or not _is_cell(cell):
            raise PerakitError(f"{row.place} is not what perakit bench writes: {REMOVE}")
        if cells.setdefault(key, cell) != cell:
            raise PerakitError(f"{row.place} is another visit to a cell that is above: {REMOVE}")
    return cells


def _is_cell(cell: Any) -> bool:
    """Whether it has times of contenders, whatever they are."""
    results = cell.get("results") if isinstance(cell, dict) else None
    return (
        isinstance(results, list)
        and bool(results)
        and all(isinstance(one, dict) and isinstance(one.get("seconds"), list) for one in results)
        and all(
            type(time) is float and 0 <= time < math.inf
            for one in results
            for time in one["seconds"]
        )
    )


def _is_of(task: Task, settings: Settings, cell: dict[str, Any]) -> bool:
    """Whether a cell, read again, has times of this task's contenders, as many as rounds."""
    measured = {"seconds": list} | ({"operations": int} if task.part == "host" else {})
    results = cell["results"]
    rest = [{key: value for key, value in one.items() if key not in measured} for one in results]
    who = [one.to_dict() | {"flop": task.flop[one]} for one in task.flop]
    return cell | {"results": rest} == task.cell | {"results": who} and all(
        len(one["seconds"]) == settings.rounds(task.part)
        and all(type(one.get(key)) is kind for key, kind in measured.items())
        for one in results
    )


def _write(path: Path, cells: Mapping[str, dict[str, Any]]) -> None:
    lines = [sealed({"key": key, "cell": cell}) for key, cell in cells.items()]
    write_atomically(path, b"".join(lines))


def _say(text: str) -> None:
    print(f"perakit: {text}", file=sys.stderr)
