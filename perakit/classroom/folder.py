"""A folder for one submission, which it may fill as it likes, and which is removed all the same."""

from __future__ import annotations

import os
import secrets
import tempfile
from contextlib import suppress

ROOM, FILES = 128 * 2**20, 1000  # bytes, and entries of the folder and of those in it


class Folder:
    """A new folder for temporary files; `path` is where it is."""

    def __init__(self) -> None:
        self.path = os.path.realpath(tempfile.mkdtemp(prefix="submission-"))

    @property
    def full(self) -> bool:
        """Whether there is more in it than `ROOM` or `FILES`, or so deep that none can look."""
        size, files, waiting = 0, 0, [self.path]
        while waiting:
            try:
                with os.scandir(waiting.pop()) as entries:
                    for entry in entries:
                        size += entry.stat(follow_symlinks=False).st_size
                        files += 1
                        if size > ROOM or files > FILES:
                            return True
                        if entry.is_dir(follow_symlinks=False):
                            waiting.append(entry.path)
            except FileNotFoundError:  # it has gone since
                continue
            except OSError:
                return True
        return False

    def remove(self) -> None:
        """Remove it with all that is in it, once nobody works there any more.

        However deep that is: what is inside of a folder comes to the top before the folder goes.
        """
        with suppress(OSError):
            if os.path.islink(self.path):
                os.unlink(self.path)
                return
            number, unused = 0, secrets.token_hex(8)
            while entries := _entries(self.path):
                for entry in entries:
                    if not entry.is_dir(follow_symlinks=False):
                        os.unlink(entry.path)
                        continue
                    for inner in _entries(entry.path):
                        if inner.is_dir(follow_symlinks=False):
                            number += 1
                            os.chmod(inner.path, 0o700)
                            os.rename(inner.path, os.path.join(self.path, f"{unused}-{number}"))
                        else:
                            os.unlink(inner.path)
                    os.rmdir(entry.path)
            os.rmdir(self.path)


def _entries(folder: str) -> list[os.DirEntry[str]]:
    os.chmod(folder, 0o700)
    with os.scandir(folder) as entries:
        return list(entries)
