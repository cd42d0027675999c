"""What an experiment computes, under a name that depends on everything that decides its result; and
where results are kept.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import perakit
from perakit.errors import PerakitError, short
from perakit.experiments.tuning import text_hash
from perakit.files import write_atomically

FORMAT = 1
# The sources that decide a number, beside the one of the computation itself.
# Reports, figures and the command line may change without anything being run again.
DECIDING = (
    "formulas.py",
    "adapters/*.py",
    "models/adapted.py",
    "models/attach.py",
    "models/layers.py",
    "theory/approximation.py",
    "theory/curves.py",
    "theory/interaction.py",
    "theory/rank.py",
    "bench/memory.py",
    "bench/timing.py",
    "toy/corpus.py",
    "toy/finetune.py",
    "toy/gpt2.py",
    "toy/pretrained.py",
    "toy/tokens.py",
    "toy/training.py",
    "toy/weights/*",
)


@dataclass(frozen=True)
class Job:
    """One computation: `compute(settings, folder)` returns its numbers as JSON values.

    label, role: what it is in its experiment, in no way part of the result; settings: JSON values,
    text included where there is any; work: its length in training steps, for the estimate; alone:
    it is timed, so that nothing may run beside it.
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
        """Hash of the files of its model, where that is a folder; empty for a name: the weights
        that ship are among the sources.
        """
        name = self.settings.get("model", "tiny")
        return folder_hash(name) if name != "tiny" and Path(name).is_dir() else ""

    @property
    def name(self) -> str:
        """Module and function, `tuning.tune`."""
        return f"{self.compute.__module__.rpartition('.')[2]}.{self.compute.__name__}"

    @property
    def key(self) -> str:
        """Hash of computation, settings, code, text and model."""
        what = [
            self.name,
            dict(self.settings),
            code_version(self.name),
            self.data,
            *filter(None, [self.model]),
        ]
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:24]


@cache
def code_version(computation: str) -> str:
    """Hash of the sources that decide what `tuning.tune` or another computation of this package
    gives.
    """
    root, digest = Path(perakit.__file__).parent, hashlib.sha256()
    for pattern in (*DECIDING, f"experiments/{computation.partition('.')[0]}.py"):
        for path in sorted(root.glob(pattern)):
            if path.is_file():
                digest.update(f"{path.relative_to(root).as_posix()} ".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


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
    """The results of one experiment in `folder/NAME.jsonl`: a line that says what they are, then a
    line a job.

    Lines are appended as jobs finish, and a line that a kill or a full disk cut off is dropped when
    it is read again. What other experiments have put into the same folder is found as well.
    Raises PerakitError where the file is of another version or of other options; it is then
    untouched.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.path, self.name = folder / f"{name}.jsonl", name
        self.header, self.rows = read(self.path) if self.path.exists() else ({}, [])
        if self.header:
            _check(self.path, self.header, self.rows, name)
        self.mine = {_place(row) for row in self.rows}
        self.known = {row["key"]: row for row in self.rows}
        for path in sorted(folder.glob("*.jsonl")):
            if path != self.path:
                header, rows = read(path)
                if header.get("format") == FORMAT:  # a row of other code has another key
                    self.known = {row["key"]: row for row in rows} | self.known

    def begin(self, options: Mapping[str, Any]) -> None:
        """Write the line that says what the results are, above those that are there."""
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
        write_atomically(
            self.path, "".join(_line(row) for row in (self.header, *self.rows)).encode()
        )

    def add(self, row: Mapping[str, Any]) -> None:
        """Append a finished job; what was there before stays whatever happens."""
        self.known[row["key"]] = dict(row)
        if _place(row) in self.mine:
            return
        try:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(_line(row))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise PerakitError(
                f"cannot write {str(self.path)!r}: {error.strerror}; finished runs are kept, make"
                " room and run the same command again"
            ) from error
        self.mine.add(_place(row))
        self.rows.append(dict(row))

    def finish(self, plan: Sequence[Mapping[str, Any]]) -> None:
        """Put the lines into the order of the plan, whichever job was finished first; lines of
        other plans stay behind them.
        """
        places = [_place(row) for row in plan]
        self.rows.sort(
            key=lambda row: places.index(_place(row)) if _place(row) in places else len(places)
        )
        write_atomically(
            self.path, "".join(_line(row) for row in (self.header, *self.rows)).encode()
        )


def read(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The first line and the others of a results file; a last line that was cut off is left out."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise PerakitError(
            f"cannot read {str(path)!r} ({error}): it should be the results of an experiment"
        ) from error
    found = list(_parsed(lines, path))
    if not found:
        return {}, []
    return found[0], found[1:]


def _parsed(lines: list[str], path: Path) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(lines):
        try:
            row = json.loads(line)
        except ValueError as error:
            if number == len(lines) - 1:
                return
            raise PerakitError(
                f"line {number + 1} of {str(path)!r} is damaged ({error}): restore the file or move"
                " it away"
            ) from error
        if not isinstance(row, dict) or (number and "key" not in row):
            raise PerakitError(
                f"line {number + 1} of {str(path)!r} is no result: {short(line)}; restore the file"
                " or move it away"
            )
        yield row


def _check(
    path: Path, header: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], name: str
) -> None:
    found = [
        f"{key} {header.get(key)!r}, not {value!r}"
        for key, value in {"format": FORMAT, "experiment": name}.items()
        if header.get(key) != value
    ]
    if not found:
        codes = {(row["compute"], row["code"]) for row in rows}
        found = [
            f"{compute} of code {code}, not {code_version(compute)}"
            for compute, code in sorted(codes)
            if code != code_version(compute)
        ]
    if found:
        raise PerakitError(
            f"{str(path)!r} holds results of another version ({'; '.join(found)}): choose another"
            " --out or move it away"
        )


def _place(row: Mapping[str, Any]) -> tuple[str, str, str]:
    return row["key"], row["label"], row["role"]


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"
