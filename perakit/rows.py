"""Rows of JSON in a file, one a line, each with a checksum of itself.

So a row is what was written or it is refused, and a kill can cut off no more than the last one.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perakit.errors import PerakitError
from perakit.files import read_plain

# Bytes of a file of rows, where its reader knows no closer limit: 40,000 results of experiments
LIMIT = 64 * 2**20
# Bytes of a row without a checksum, or of one that was cut off. The longest so far has 8,000. What
# is longer is not even parsed: JSON becomes twenty times as large in memory.
LONGEST = 2**20
SEALED = re.compile(rb'(.*), "sha": "([0-9a-f]{16})"\}', re.DOTALL)


@dataclass(frozen=True)
class Row:
    """A row as it was found.

    place: where, in words; values: without the checksum; line: its bytes, as they are; vouched:
    whether it has a checksum; those of version 0.1 and its successors have none.
    """

    place: str
    values: dict[str, Any]
    line: bytes
    vouched: bool


def sealed(values: Mapping[str, Any]) -> bytes:
    """The line of a row, not empty, with a checksum of it in "sha".

    >>> from perakit.rows import sealed
    >>> sealed({"step": 3})
    b'{"step": 3, "sha": "a76b25b15faff287"}\\n'
    """
    text = json.dumps(values).encode()
    return text[:-1] + b', "sha": "' + _checksum(text) + b'"}\n'


def unsealed(line: bytes, place: str, remedy: str) -> Row:
    """The row of a line, without its end.

    place: what begins the message, in words; remedy: ends it. Raises PerakitError where the
    checksum is another, or, without one, where it is no row of JSON.
    """
    found = SEALED.fullmatch(line)
    text = found[1] + b"}" if found else line
    if found and _checksum(text) != found[2]:
        raise PerakitError(f"{place} is damaged (its checksum is another): {remedy}")
    try:
        values = json.loads(text.decode()) if found or len(line) <= LONGEST else None
    except (ValueError, RecursionError) as error:
        why = "nested too deep" if isinstance(error, RecursionError) else str(error)
        raise PerakitError(f"{place} is damaged ({why}): {remedy}") from error
    if not isinstance(values, dict):
        raise PerakitError(f"{place} is no row: {remedy}")
    return Row(place, values, line, bool(found))


def read_rows(path: Path, limit: int, remedy: str) -> Iterator[Row]:
    """The rows of a plain file of at most `limit` bytes.

    A last row that was cut off is left out. Raises PerakitError for a file that cannot be read and
    for any other row that is not as it was written; remedy: ends the message.
    """
    *lines, rest = read_plain(path, limit, remedy).split(b"\n")
    if rest and not _cut_off(rest):
        lines.append(rest)
    for number, line in enumerate(lines, 1):
        yield unsealed(line, f"line {number} of {str(path)!r}", remedy)


def append(path: Path, values: Mapping[str, Any], remedy: str, synced: bool = True) -> None:
    """Add a row to a file of rows: the whole of it or, where the system refuses, nothing.

    synced: it is on the disk afterwards; False: as soon as the system likes. Raises PerakitError;
    remedy: ends its message.
    """
    rest = sealed(values)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "ab", buffering=0) as file:
            end = file.tell()
            try:
                while rest:
                    rest = rest[file.write(rest) :]
                if synced:
                    os.fsync(file.fileno())
            except OSError:
                file.truncate(end)
                raise
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        reason = getattr(error, "strerror", None) or error
        raise PerakitError(f"cannot write {str(path)!r}: {reason}; {remedy}") from error


def _cut_off(line: bytes) -> bool:
    """Whether a last line without an end is the beginning of a row, and no more."""
    if not line.startswith(b"{") or len(line) > LONGEST:
        return False
    try:
        json.JSONDecoder().raw_decode(line.decode())
    except (ValueError, RecursionError):
        return True
    return False  # a whole row, which may be followed by what was once the end of its line


def _checksum(text: bytes) -> bytes:
    return hashlib.sha256(text).hexdigest()[:16].encode()
