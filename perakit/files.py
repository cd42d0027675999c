"""Files that are either the old one or the new one, never half of each.

And files that are what they seem, and folders that one process has for itself.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from perakit.errors import PerakitError

LOCK = ".perakit-lock"
ATTEMPTS = 100  # to lock a file that others remove


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


def sync(path: Path) -> None:
    """Whatever was written to the file is on the disk afterwards."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` to `path` through a temporary file beside it.

    So a kill or a full disk loses nothing.
    Raises PerakitError where the system refuses, and for a device or a pipe, in whose place a file
    would come; what stood at `path` is then untouched.
    """
    if os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path):
        raise PerakitError(
            f"cannot write {str(path)!r}: it is a device or a pipe; choose the name of a file"
        )
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


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Within the block this is the only process that is in such a block for `folder`.

    The folder is made where there is none. A file in it, gone afterwards, is locked by the system,
    which lets go of it when the process ends, however it ends.
    Raises PerakitError where another process has it, with its number, or where nothing can be
    written. On a file system without locks it warns, and goes on.
    """
    path, made = folder / LOCK, not os.path.lexists(folder)
    try:
        file = _locked(path)
        # Nobody writes now: these are of a process that was killed while it did
        for stale in folder.glob(".*.*.tmp"):
            if stale.name.split(".")[-2].isdigit():
                stale.unlink(missing_ok=True)
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        reason = getattr(error, "strerror", None) or error
        raise PerakitError(
            f"cannot write {str(path)!r}: {reason}; choose a folder that can be written"
        ) from error
    try:
        yield
    finally:
        if os.name == "posix":  # before others can lock it: they look whether it is still there
            path.unlink(missing_ok=True)
        os.close(file)
        with suppress(OSError):
            if os.name != "posix":
                path.unlink(missing_ok=True)
            if made:
                folder.rmdir()  # if it is still empty


def _locked(path: Path) -> int:
    """The lock file, open and locked, with the number of this process in it."""
    for _ in range(ATTEMPTS):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:  # whoever had made the folder has taken it away
            continue
        try:
            _lock(file)
            with suppress(FileNotFoundError):
                # Else whoever had it has removed it, and the next may have made another
                if os.path.samestat(os.fstat(file), os.stat(path)):
                    os.ftruncate(file, 0)
                    os.write(file, str(os.getpid()).encode())
                    return file
        except (BlockingIOError, PermissionError) as error:
            holder = os.pread(file, 20, 0).decode(errors="replace") if os.name == "posix" else ""
            os.close(file)
            who = f"process {holder}" if holder.isdigit() else "another process"
            raise PerakitError(
                f"{str(path.parent)!r} is in use by {who}: wait for it, or choose another folder"
            ) from error
        except BaseException:
            os.close(file)
            raise
        os.close(file)
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))


def _lock(file: int) -> None:
    """Lock an open file for this process alone, or raise BlockingIOError or PermissionError."""
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        return
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP):
            raise
        warnings.warn("no locks on this file system: start nothing else there", stacklevel=2)
