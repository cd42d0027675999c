"""How a file of records is spoiled, each record a line of JSON, and what became of a folder."""

import contextlib
import hashlib
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from mutations import CONTENT, Draft

Kind = Callable[[Random, Draft], None]


def within(kind: Kind) -> Kind:
    """What a kind does to the JSON of a folder, done to one line."""

    def spoil(draw: Random, draft: Draft) -> None:
        at = draw.randrange(len(draft.lines))
        line = Draft(config=json.loads(draft.lines[at]))
        kind(draw, line)
        draft.lines[at] = json.dumps(line.config).encode() if line.text is None else line.text

    return spoil


def drop(draw: Random, draft: Draft) -> None:
    del draft.lines[draw.randrange(len(draft.lines))]


def repeat(draw: Random, draft: Draft) -> None:
    draft.lines.insert(draw.randrange(len(draft.lines) + 1), draw.choice(draft.lines))


def move(draw: Random, draft: Draft) -> None:
    line = draft.lines.pop(draw.randrange(len(draft.lines)))
    draft.lines.insert(draw.randrange(len(draft.lines) + 1), line)


def join(draw: Random, draft: Draft) -> None:
    """Two lines without the end between them."""
    at = draw.randrange(len(draft.lines) - 1)
    draft.lines[at : at + 2] = [draft.lines[at] + draft.lines[at + 1]]


def split(draw: Random, draft: Draft) -> None:
    at = draw.randrange(len(draft.lines))
    line = draft.lines[at]
    cut = draw.randrange(len(line))
    draft.lines[at : at + 1] = [line[:cut], line[cut:]]


def insert(draw: Random, draft: Draft) -> None:
    """A line that is none."""
    odd = [b"", b" ", b"null", b"0", b"[]", b"{}", b'"x"', b"[1, 2]", b"\0", b"\xff", b"{", b"NaN"]
    draft.lines.insert(draw.randrange(len(draft.lines) + 1), draw.choice(odd))


def endings(draw: Random, draft: Draft) -> None:
    """Other ends of lines, and letters that some readers take for one."""
    end = draw.choice([b"\r", b" ", b"\x0b", b"\x0c", b"\x1c", b"\xc2\x85", b"\xe2\x80\xa8"])
    chosen = range(len(draft.lines)) if draw.random() < 0.5 else [draw.randrange(len(draft.lines))]
    for at in chosen:
        draft.lines[at] += end


def digit(draw: Random, draft: Draft) -> None:
    """One digit of one number is another: the damage that no parser sees."""
    at = draw.randrange(len(draft.lines))
    line = draft.lines[at]
    found = [place for place, byte in enumerate(line) if chr(byte).isdigit()]
    place = draw.choice(found)
    draft.lines[at] = line[:place] + b"%d" % draw.randrange(10) + line[place + 1 :]


def exchange(draw: Random, draft: Draft) -> None:
    """A value that stands under the same key in another line."""
    one, other = draw.sample(range(len(draft.lines)), 2)
    rows = [json.loads(draft.lines[at]) for at in (one, other)]
    key = draw.choice(sorted(rows[0].keys() & rows[1].keys()))
    rows[0][key], rows[1][key] = rows[1][key], rows[0][key]
    for at, row in zip((one, other), rows, strict=True):
        draft.lines[at] = json.dumps(row).encode()


LINES: dict[str, tuple[int, Kind]] = {
    "nothing": (2, lambda *_: None),
    **{
        f"line, {kind}": (weight, within(spoil))
        for kind, (weight, spoil) in CONTENT.items()
        if kind.startswith("json: ") and kind != "json: patterns"
    },
    "lines: digit": (8, digit),
    "lines: exchange": (6, exchange),
    "lines: gone": (4, drop),
    "lines: twice": (4, repeat),
    "lines: moved": (4, move),
    "lines: joined": (4, join),
    "lines: split": (4, split),
    "lines: none": (5, insert),
    "lines: ends": (5, endings),
}


def written(lines: list[bytes]) -> bytes:
    return b"".join(line + b"\n" for line in lines)


LOOKED_AT = 2**22  # bytes of a file: more is sparse, and nobody's writing
SEAL = "sha"  # what a row says about its own bytes


def plain(row: Any) -> Any:
    """A row without what it says about its own bytes."""
    return {key: row[key] for key in row if key != SEAL} if isinstance(row, dict) else row


def unsealed(lines: list[bytes]) -> list[bytes]:
    """Rows as they were written before they had checksums."""
    found = [json.loads(line) for line in lines]
    if not all(SEAL in row for row in found):
        raise ValueError("perakit writes rows without checksums: the judges would see too little")
    return [json.dumps(plain(row)).encode() for row in found]


def bare(folder: Path, pattern: str) -> list[Any]:
    """The rows of a folder's files that have no checksum: there, nobody sees an altered number."""
    found = [row for path in folder.glob(pattern) for row in rows(path)]
    return [row for row in found if isinstance(row, dict) and SEAL not in row]


def rows(path: Path) -> list[Any]:
    """The records of a file, by a reader of our own: None for a line that is no JSON.

    None at all where it is no file, or too large for us, or one of the system's that has no size.
    """
    if not path.is_file() or not 0 < path.stat().st_size < LOOKED_AT:
        return []
    return [parsed(line) for line in path.read_bytes().split(b"\n") if line.strip()]


def parsed(line: bytes) -> object:
    with contextlib.suppress(ValueError, RecursionError):
        return json.loads(line)
    return None


# --- what became of a folder ----------------------------------------------------------------------


def contents(folder: Path) -> dict[str, tuple[int, str]]:
    """Name -> kind, and what is in it or where it leads, of every entry of a folder."""
    return {entry.name: _content(Path(entry.path)) for entry in sorted(os.scandir(folder), key=_of)}


def _of(entry: os.DirEntry[str]) -> str:
    return entry.name


def _content(path: Path) -> tuple[int, str]:
    about = path.lstat()
    if stat.S_ISLNK(about.st_mode):
        return about.st_mode, os.readlink(path)
    if not stat.S_ISREG(about.st_mode):
        return about.st_mode, ""
    with open(path, "rb") as file:
        start = file.read(LOOKED_AT)
    return about.st_mode, f"{about.st_size} {hashlib.sha256(start).hexdigest()}"


def difference(folder: Path, before: dict[str, tuple[int, str]]) -> str:
    """The names whose content is not what it was."""
    after = contents(folder)
    odd = [name for name in before.keys() | after.keys() if before.get(name) != after.get(name)]
    return f"files {sorted(odd)}" if odd else ""
