"""`perakit bench`: the time of base, LoRA, PERA, the authors' algorithm and PEFT side by side, and
the memory of every method.

Contenders take turns, so that a ratio is of times taken at the same moment. Every cell (a layer or
a model, tokens, device, dtype) is kept as soon as it is measured: the same command goes on after
it. What is measured here is drawn by `report`.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from perakit import formulas
from perakit.adapters import plans
from perakit.bench import contenders, memory, models, report, timing
from perakit.bench.contenders import Contender
from perakit.bench.measured import machine, plain, renewed
from perakit.bench.ratios import place
from perakit.bench.report import table
from perakit.bench.timing import WARM_UP, Step, interleave
from perakit.errors import PerakitError, short
from perakit.files import write_atomically
from perakit.formulas import check_count
from perakit.models import layers as kinds
from perakit.plots.pictures import png

__all__ = ["MODELS", "PARTS", "Settings", "layer", "page", "publish", "run", "table", "usual"]

LAYER_PARTS = ("layers", "plans", "inference")
PARTS = (*LAYER_PARTS, "models", "memory")
MODELS = tuple(models.MODELS)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
# To each cell, with the others in between: every one finds other memory, and the machine in another
# mood
VISITS = 3
CELLS, DOCUMENT, PAGE = "cells.jsonl", "performance.json", "performance.md"


@dataclass(frozen=True)
class Settings:
    """What to measure.

    device: "cpu" or "cuda"; dtype: of the base and its inputs, of DTYPES; layers: (m, n) of each;
    tokens: T; ranks: of the layers' adapters; repeats: rounds that count, of all visits to a cell
    together, see `rounds`; parts: of PARTS; models: of `models.MODELS`;
    model_ranks: of their adapters; seed: of weights, factors and inputs. Raises PerakitError for
    what cannot be measured here.
    """

    device: str = "cpu"
    dtype: tuple[str, ...] = ("float32",)
    layers: tuple[tuple[int, int], ...] = ((768, 768), (3072, 768))
    tokens: tuple[int, ...] = (256, 1024, 4096)
    ranks: tuple[int, ...] = (4, 8, 16, 32)
    repeats: int = 9
    parts: tuple[str, ...] = PARTS
    models: tuple[str, ...] = MODELS
    model_ranks: tuple[int, ...] = (8,)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.device not in ("cpu", "cuda") or (
            self.device == "cuda" and not torch.cuda.is_available()
        ):
            raise PerakitError(f"device {self.device!r} is not available here: use --device cpu")
        for name, known in (("dtype", DTYPES), ("parts", PARTS), ("models", models.MODELS)):
            for value in getattr(self, name):
                if value not in known:
                    raise PerakitError(
                        f"{name}: {short(value)} is unknown, choose from {', '.join(known)}"
                    )
        for name in ("tokens", "ranks", "model_ranks"):
            for value in getattr(self, name):
                check_count(name, value)
        for size in (size for layer in self.layers for size in layer):
            check_count("layers", size)
        check_count("repeats", self.repeats)
        check_count("seed", self.seed, least=0, most=2**63 - 1)
        if "models" in self.parts and not find_spec("transformers"):
            others = " ".join(part for part in self.parts if part != "models")
            raise PerakitError(
                "the part models needs transformers: pip install 'perakit[hf]', or choose --parts"
                f" {others or 'layers'}"
            )

    def rounds(self, part: str) -> int:
        """How many rounds one visit to a cell of that part has: of inference twice as many, since
        what is promised of it is the closest, of plans, nine of each contender, a third."""
        share = {"inference": 2.0, "plans": 1 / 3}.get(part, 1.0)
        return math.ceil(share * self.repeats / VISITS)

    @property
    def command(self) -> str:
        """The command that measures this, in full."""
        words = asdict(self) | {"layers": [f"{m}x{n}" for m, n in self.layers]}
        options = [f"--{name.replace('_', '-')} {_words(value)}" for name, value in words.items()]
        return " ".join(["perakit bench", *options])


def usual(device: str) -> Settings:
    """What is measured where nothing is said: some minutes on 2 cores; on CUDA large layers, many
    tokens and the 124M GPT-2 too.
    """
    parts = tuple(
        part
        for part in PARTS
        if part != "plans" and (part != "models" or find_spec("transformers"))
    )
    if device == "cuda":
        layers, tokens = (*Settings.layers, (4096, 4096)), (*Settings.tokens, 16384)
        return Settings(device, layers=layers, tokens=tokens, parts=parts)
    return Settings(device, parts=parts, models=("tiny",))


def layer(text: str) -> tuple[int, int]:
    """(m, n) from "MxN"."""
    m, found, n = text.partition("x")
    if not found or not (m.isdecimal() and n.isdecimal()):
        raise PerakitError(
            f"layer {short(text)} is not written MxN, outputs and inputs: as in 3072x768"
        )
    return int(m), int(n)


# --- what is to be measured -----------------------------------------------------------------------


@dataclass(frozen=True)
class Task:
    """One cell: the part it belongs to, what it says of itself, the counted operations of everyone
    in it, and what makes their steps.
    """

    part: str
    cell: dict[str, Any]
    flop: dict[Contender, int]
    steps: Callable[[], Mapping[Contender, Step]]

    @property
    def title(self) -> str:
        """The cell in a few words."""
        return f"{self.part}: {place(self.cell)}, T={self.cell['tokens']}, {self.cell['dtype']}"


def tasks(settings: Settings) -> list[Task]:
    """All cells, in the order of the parts; memory has none, it is counted and not timed."""
    found = []
    for part, dtype in product(settings.parts, settings.dtype):
        if part in LAYER_PARTS:
            found += [
                _of_layer(part, settings, dtype, m, n, tokens)
                for (m, n), tokens in product(settings.layers, settings.tokens)
            ]
        elif part == "models":
            found += [
                _of_model(settings, dtype, name, rank)
                for name, rank in product(settings.models, settings.model_ranks)
            ]
    return found


def _of_layer(part: str, settings: Settings, dtype: str, m: int, n: int, tokens: int) -> Task:
    who = contenders.contenders(
        part, settings.ranks, mkl=(settings.device, dtype) == ("cpu", "float32")
    )
    training, fused, products = part != "inference", dtype == "float32", 2 * m * n * tokens
    if training:
        flop = {one: 2 * products + one.flop(tokens, m, n, fused) for one in who}
    else:
        flop = {one: products + one.forward_flop(tokens, m, n, fused) for one in who}
    steps = partial(
        contenders.steps, who, m, n, tokens, DTYPES[dtype], settings.device, settings.seed, training
    )
    return Task(
        part,
        {"device": settings.device, "dtype": dtype, "m": m, "n": n, "tokens": tokens},
        flop,
        steps,
    )


def _of_model(settings: Settings, dtype: str, name: str, rank: int) -> Task:
    model, who = models.MODELS[name], models.contenders(rank)
    cell = {
        "model": name,
        "tokens": model.batch * model.context,
        "batch": model.batch,
        "context": model.context,
        "rank": rank,
    }
    flop = {one: models.flop(one, model, dtype == "float32") for one in who}
    steps = partial(models.steps, who, model, DTYPES[dtype], settings.device, settings.seed)
    return Task("models", cell | {"device": settings.device, "dtype": dtype}, flop, steps)


# --- measuring ------------------------------------------------------------------------------------


def run(settings: Settings, out: Path) -> dict[str, Any]:
    """Measure what `out`/cells.jsonl does not have yet from this machine, code and versions;
    returns the document, all parts in it.

    An estimate, and then progress, go to stderr. Raises PerakitError, before anything is measured,
    where `out` cannot be written.
    """
    where = _machine(settings.device)
    found = tasks(settings)
    todo = {_key(task, visit, settings, where): task for visit in range(VISITS) for task in found}
    cells = _read(out / CELLS)
    _write(out / CELLS, cells)
    missing = {key: task for key, task in todo.items() if key not in cells}
    _announce(settings, missing.values(), len(todo))
    total = sum(_flop(task, settings) for task in missing.values())
    with tqdm(total=total, unit="FLOP", unit_scale=True, disable=not missing) as bar:
        for key, task in missing.items():
            bar.set_description(task.title)
            steps, seconds = task.steps(), dict[Contender, list[float]]()
            # Those who are compared take turns, and nobody else in between
            for rank in dict.fromkeys(one.rank for one in steps):
                beside = {one: step for one, step in steps.items() if one.rank == rank}
                advance = partial(bar.update, sum(task.flop[one] for one in beside))
                seconds |= interleave(beside, settings.rounds(task.part), settings.device, advance)
            results = [
                one.to_dict() | {"flop": task.flop[one], "seconds": plain(seconds[one])}
                for one in task.flop
            ]
            cells[key] = task.cell | {"results": results}
            _write(out / CELLS, cells)
    parts: dict[str, list[dict[str, Any]]] = {part: [] for part in PARTS}
    for task in found:
        parts[task.part].append(
            _joined([cells[_key(task, visit, settings, where)] for visit in range(VISITS)])
        )
    if "memory" in settings.parts:
        parts["memory"] = memory.measure(settings.seed)
    made = {
        "seed": settings.seed,
        "repeats": settings.repeats,
        "machine": where,
        "formulas_sha256": _hash([Path(formulas.__file__)]),
    }
    return {"made_from": made | {"command": settings.command}, **parts}


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
    """Write performance.json and the figures into `out`; onto_page: and the tables into the
    performance.md that stands there now.
    """
    files = {DOCUMENT: (json.dumps(document, indent=1) + "\n").encode()}
    files |= {name: png(figure) for name, figure in report.figures(dict(document)).items()}
    # Read when it is written: somebody may have worked at its prose while this was measured
    if onto_page:
        files[PAGE] = report.page(dict(document), page(out)).encode()
    for name, data in files.items():
        write_atomically(out / name, data)


def page(folder: Path) -> str:
    """The text of performance.md in `folder`; PerakitError where there is none, or none with a part
    to renew.
    """
    try:
        text = (folder / PAGE).read_text(encoding="utf-8")
    except OSError as error:
        raise PerakitError(
            f"no page {str(folder / PAGE)!r} to renew: choose the folder that holds it, or leave"
            " --docs out"
        ) from error
    renewed(text, report.COMMAND, "")
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
        seconds = sum(_flop(task, settings) / rate[task.cell["dtype"]] for task in missing)
        fast = ", ".join(f"{value / 1e9:,.0f} GFLOP/s in {name}" for name, value in rate.items())
        least = max(1, math.ceil(seconds / 60))
        _say(
            f"{len(missing)} visits to cells, at least {least} min: their FLOP at {fast}, as this"
            " machine multiplies now"
        )


def _flop(task: Task, settings: Settings) -> int:
    """Counted operations of a cell, all its rounds."""
    return (settings.rounds(task.part) + WARM_UP) * sum(task.flop.values())


def _machine(device: str) -> dict[str, Any]:
    """What it runs on, with the name of the GPU where there is one in use."""
    name = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    return machine(*(package for package in ("peft", "transformers") if find_spec(package))) | {
        "device": name
    }


# --- what is kept ---------------------------------------------------------------------------------


def _key(task: Task, visit: int, settings: Settings, where: Mapping[str, Any]) -> str:
    """A hash of all that a visit's numbers depend on, but the load of the machine."""
    code = [formulas, timing, contenders, models]
    timed = [
        *Path(str(plans.__file__)).parent.glob("*.py"),
        *Path(str(kinds.__file__)).parent.glob("*.py"),
    ]
    sources = [*(Path(str(module.__file__)) for module in code), *sorted(timed)]
    facts = {
        "cell": [task.part, task.cell, [one.to_dict() for one in task.flop]],
        "settings": [settings.seed, settings.repeats, visit],
        "machine": {name: value for name, value in where.items() if name != "load"},
        "code": _hash(sources),
    }
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _hash(files: Iterable[Path]) -> str:
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def _read(path: Path) -> dict[str, dict[str, Any]]:
    """Key -> cell, of every line of cells.jsonl; empty where there is no such file."""
    if not path.exists():
        return {}
    try:
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        return {row["key"]: row["cell"] for row in rows}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise PerakitError(
            f"{str(path)!r} is not what perakit bench writes: remove it, or choose another --out"
        ) from error


def _write(path: Path, cells: Mapping[str, dict[str, Any]]) -> None:
    lines = [json.dumps({"key": key, "cell": cell}) + "\n" for key, cell in cells.items()]
    write_atomically(path, "".join(lines).encode())


def _words(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple | list) else str(value)


def _say(text: str) -> None:
    print(f"perakit: {text}", file=sys.stderr)
