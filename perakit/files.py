"""Files that are either the old one or the new one, never half of each.

And files that are what they seem.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

from perakit.errors import PerakitError


def as_folder(path: object) -> Path:
    """`path` as a Path, whether there is such a folder or not.

    PerakitError for what is no path, such as None.
    """
    if not isinstance(path, str | os.PathLike) or not isinstance(os.fspath(path), str):
        raise PerakitError(f"the folder is a path, a str or a Path, not {path!r:.80}")
    return Path(path)


def write_synced(path: Path, data: bytes) -> None:
    """Write `data` to `path` and to the disk below it; errors are those of the system."""
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` to `path` through a temporary file beside it.

    So a kill or a full disk loses nothing.
    Raises PerakitError where the system refuses; a file that stood at `path` is then untouched.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write_synced(temporary, data)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        reason = getattr(error, "strerror", None) or error
        raise PerakitError(
            f"cannot write {str(path)!r}: {reason}; choose a folder that can be written and has"
            f" room for {len(data):,} bytes"
        ) from error


def read_plain(path: Path, limit: int, remedy: str) -> bytes:
    """The bytes of a plain file of at most `limit` bytes: the one door through which files come in.

    remedy: ends every message, and says which file would do. Raises PerakitError where there is
    none, it cannot be read, it is larger, or it is a device, a pipe or a socket.
    """
    try:
        with open_plain(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size > limit:
                raise PerakitError(
                    f"{str(path)!r} is larger than the {limit:,} bytes that it can need ({size:,}):"
                    f" {remedy}"
                )
            return file.read(size)  # and no more: some files of the system say 0 and have no end
    except OSError as error:
        raise PerakitError(
            f"cannot read {str(path)!r}: {error.strerror or error}; {remedy}"
        ) from error


def open_plain(path: Path) -> BinaryIO:
    """Open a plain file to read it, by its name or through links.

    Raises PerakitError for a device, a pipe or a socket, which could give no end of bytes or make
    the reader wait for ever, and OSError as `open` does, also for a name that no file can have.
    """
    try:
        # Without O_NONBLOCK, opening a FIFO would wait until somebody writes to it.
        file = open(  # noqa: SIM115
            path,
            "rb",
            opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0)),
        )
    except ValueError as error:
        raise OSError(errno.EINVAL, str(error)) from error
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise PerakitError(f"{str(path)!r} is a device or a pipe, not a plain file: pass a file")
    return file
