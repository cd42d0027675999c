"""Files that are either the old one or the new one, never half of each."""

from __future__ import annotations

import os
from pathlib import Path

from perakit.errors import PerakitError


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` to `path` through a temporary file beside it, so that a kill or a full disk loses nothing.

    Raises PerakitError where the system refuses; a file that stood at `path` is then untouched.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        reason = getattr(error, "strerror", None) or error
        raise PerakitError(
            f"cannot write {str(path)!r}: {reason}; choose a folder that can be written and has room for {len(data):,} bytes"
        ) from error
