"""What an experiment computes, and where results are kept.

A result is found again by its key, a hash of everything that decides its numbers.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from perakit.errors import PerakitError, short
from perakit.experiments.tuning import text_hash
from perakit.files import write_atomically
from perakit.rows import LIMIT, Row, append, read_rows, sealed
from perakit.toy import small, smollm2
from perakit.toy.pretrained import TINY

# The version of our arithmetic. Raise it by one when a change gives any computation other numbers,
# in the six digits that a ledger keeps, for the same settings, text and model: another start, order
# of batches, warm-up or order of h, another way to measure. All stored runs are then made again.
# Leave it alone where code only moves, gets quicker or reads better. tests/experiments/
# test_numerics.py computes stored rows again: where it fails, take the change back or raise this.
# A stored time (`tuning.pace`) stays that of the code that was timed. Another --out times today's.
NUMERICS = 1

# How a ledger is written. Format 1 is that of version 0.1: in place of `numerics` a row has a hash
# of the source files that made it. It has no hash of the shipped weights, which were among them.
FORMAT = 2
FORMAT_OF_0_1 = 1
# What 0.1 computes is numerics version 1 by declaration. These are its hashes, of `tuning` and of
# `regression`, and the hash of the weights that shipped with it.
CODES_OF_0_1 = ("74151beea90010c0", "561c134044f06558")
TINY_OF_0_1 = "ae506b9a3e9ccb89ea96f3283a7b818b62b132261ccc11dd287c7881c209450f"

# What a row of a ledger has, and what it may have besides; `was`: its key before it was renewed
HAS = {"key", "label", "role", "compute", "settings", "measured"}
MAY_HAVE = {"numerics", "data", "model", "machine", "code", "was"}
RESTORE = "restore the file or move it away"


@dataclass(frozen=True)
class Job:
    """One computation: `compute(settings, folder)` returns its numbers as JSON values.

    label, role: what it is in its experiment; they do not change its numbers. settings: JSON
    values; work: its length in training steps, for the estimate; alone: nothing may run beside it,
    since it is timed.
    """

    label: str
    role: str
    compute: Callable[[Mapping[str, Any], Path | None], dict[str, Any]]
    settings: Mapping[str, Any]
    work: float
    alone: bool = False

    @property
    def data(self) -> str:
        """Hash of the text that it reads; empty where it reads none."""
        return text_hash(self.settings) if "text" in self.settings else ""

    @property
    def model(self) -> str:
        """Hash of the files of its model: the shipped one, "small" or a folder.

        Empty where it reads none, and for a name on the hub. SmolLM2 is one file, installed or not.
        """
        name = self.settings.get("model")
        if name is None:
            return ""
        if name == smollm2.NAME:
            return smollm2.SHA256
        folder = {"tiny": TINY, small.NAME: small.folder()}.get(name, Path(name))
        return folder_hash(str(folder)) if folder.is_dir() else ""

    @property
    def name(self) -> str:
        """Module and function, `tuning.tune`."""
        return f"{self.compute.__module__.rpartition('.')[2]}.{self.compute.__name__}"

    @property
    def about(self) -> dict[str, Any]:
        """What decides its numbers, as a row of a ledger says it."""
        return {
            "numerics": NUMERICS,
            "data": self.data,
            "model": self.model,
            "compute": self.name,
            "settings": dict(self.settings),
        }

    @property
    def key(self) -> str:
        """Hash of what decides its numbers."""
        return key_of(self.about)


def key_of(row: Mapping[str, Any]) -> str:
    """The key of a row, or of what a job says about itself. No source file is part of it."""
    what = [row[name] for name in ("compute", "settings", "numerics", "data", "model")]
    return _hash(what)


def _hash(what: list[Any]) -> str:
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:24]


@cache
def folder_hash(folder: str) -> str:
    """Hash of the files of a checkpoint that `toy.load` and its tokenizer read."""
    digest = hashlib.sha256()
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        if (path := Path(folder) / name).is_file():
            with open(path, "rb") as file:
                digest.update(f"{name} ".encode() + hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


class Ledger:
    """The results of one experiment in `folder/NAME.jsonl`.

    The first line has its options. One line a job follows, appended when the job is finished. A
    last line that a kill or a full disk has cut off is left out at the next reading. Results of
    other experiments in the same folder are found as well.
    Raises PerakitError where the file is of another version or of other options, and leaves it
    untouched.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.path, self.name = folder / f"{name}.jsonl", name
        self.header, self.rows = read(self.path) if os.path.lexists(self.path) else ({}, [])
        if self.header:
            _check(self.path, self.header, self.rows, name)
        self.mine = {_place(row) for row in self.rows}
        self.known = {row["key"]: row for row in self.rows}
        for path in ledgers(folder):
            if path != self.path:
                header, rows = read(path)
                # A row of another version has another key
                if header.get("format") in (FORMAT, FORMAT_OF_0_1):
                    self.known = {row["key"]: row for row in rows} | self.known

    def begin(self, options: Mapping[str, Any]) -> None:
        """Write the first line, above the rows that are there."""
        fixed = {key: value for key, value in options.items() if key != "seeds"}
        before = {
            key: value for key, value in self.header.get("options", {}).items() if key != "seeds"
        }
        if self.header and before != fixed:
            changed = [key for key in fixed if before.get(key) != fixed[key]]
            told = ", ".join(
                f"{key}={before.get(key)!r} there, {fixed[key]!r} now" for key in changed
            )
            raise PerakitError(
                f"{str(self.path)!r} holds results of other options ({told}): choose another --out"
            )
        self.header = {"format": FORMAT, "experiment": self.name, "options": dict(options)}
        self._write()

    def add(self, row: Mapping[str, Any]) -> None:
        """Append a finished job. The rows before it stay, whatever happens."""
        self.known[row["key"]] = dict(row)
        if _place(row) in self.mine:
            return
        append(self.path, row, "finished runs are kept, make room and run the same command again")
        self.mine.add(_place(row))
        self.rows.append(dict(row))

    def finish(self, plan: Sequence[Mapping[str, Any]]) -> None:
        """Put the rows into the order of the plan; rows of other plans follow."""
        # They need not have been finished in that order
        places = [_place(row) for row in plan]
        self.rows.sort(
            key=lambda row: places.index(_place(row)) if _place(row) in places else len(places)
        )
        self._write()

    def _write(self) -> None:
        write_atomically(self.path, b"".join(map(sealed, (self.header, *self.rows))))


def read(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The first line of a results file, and its rows. A last line that was cut off is left out.

    Rows of version 0.1 are returned as this version would write them, with `numerics`, `model` and
    the key that follows. What they say about their code stays in them.
    """
    found = list(read_rows(path, LIMIT, RESTORE))
    if not found:
        return {}, []
    if not _is_header(found[0]):
        raise PerakitError(
            f"{found[0].place} does not begin the results of an experiment: {RESTORE}"
        )
    rows = dict[tuple[str, str, str], dict[str, Any]]()
    for row in found[1:]:
        if not _is_result(row):
            raise PerakitError(f"{row.place} is no result: {short(row.line.decode())}; {RESTORE}")
        if rows.setdefault(_place(row.values), row.values) != row.values:
            raise PerakitError(f"{row.place} is another result of a run that is above: {RESTORE}")
    return found[0].values, [_renewed(row) for row in rows.values()]


def ledgers(folder: Path) -> list[Path]:
    """The results files in a folder."""
    return sorted(folder.glob("*.jsonl"))


def vouched(path: Path) -> bool:
    """Whether every row of a results file has a checksum, and so is what an experiment found."""
    return all(row.vouched for row in read_rows(path, LIMIT, RESTORE))


def _renewed(row: dict[str, Any]) -> dict[str, Any]:
    """A row as this version would write it."""
    # A row of unknown code stays as it is: no job has its key
    if "numerics" in row or row.get("code") not in CODES_OF_0_1:
        return row
    shipped = TINY_OF_0_1 if row["settings"].get("model") == "tiny" else ""
    row = row | {"numerics": 1, "data": row.get("data", ""), "model": row.get("model", shipped)}
    return row | {"key": key_of(row)}


def _is_header(row: Row) -> bool:
    options = row.values.get("options")
    return row.values.keys() == {"format", "experiment", "options"} and isinstance(options, dict)


def _is_result(row: Row) -> bool:
    values = row.values
    return (
        values.keys() >= HAS
        and values.keys() <= HAS | MAY_HAVE
        and all(isinstance(values[name], str) for name in ("key", "label", "role", "compute"))
        and all(isinstance(values[name], dict) for name in ("settings", "measured"))
        and (row.vouched or _is_known(values))
    )


def _is_known(row: Mapping[str, Any]) -> bool:
    """As `_is_of_its_key`; a row that is too deep for JSON is of no key."""
    try:
        return _is_of_its_key(row)
    except RecursionError:
        return False


def _is_of_its_key(row: Mapping[str, Any]) -> bool:
    """Whether a row without a checksum has at least the settings that its key is a hash of."""
    if "numerics" in row:
        return {"data", "model"} <= row.keys() and row["key"] == key_of(row)
    if row.get("code") not in CODES_OF_0_1 or row["settings"].get("model", "tiny") != "tiny":
        return True  # it is of no job, or its key is of files too
    what = [row[name] for name in ("compute", "settings", "code")] + [row.get("data", "")]
    return row["key"] == _hash(what)


def _check(
    path: Path, header: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], name: str
) -> None:
    found = []
    if header.get("format") not in (FORMAT, FORMAT_OF_0_1):
        found.append(f"format {header.get('format')!r}, not {FORMAT}")
    if header.get("experiment") != name:
        found.append(f"experiment {header.get('experiment')!r}, not {name!r}")
    if not found:
        odd = {_told(row) for row in rows if row.get("numerics") != NUMERICS}
        found = [f"{told}, not numerics {NUMERICS}" for told in sorted(odd)]
    if found:
        raise PerakitError(
            f"{str(path)!r} holds results of another version ({'; '.join(found)}): choose another"
            " --out or move it away"
        )


def _told(row: Mapping[str, Any]) -> str:
    """A row of another version, as a message names it."""
    if "numerics" in row:
        return f"{row['compute']} of numerics {short(row['numerics'])}"
    return f"{row['compute']} of code {short(row.get('code'))}"


def _place(row: Mapping[str, Any]) -> tuple[str, str, str]:
    return row["key"], row["label"], row["role"]
