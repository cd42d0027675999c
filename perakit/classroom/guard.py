"""What keeps student code to computing: limits, refused events, and, under Linux, the kernel.

Nets, each behind the other. Limits of memory, writing and processes end an accident. An audit hook
refuses what Python itself would do to other files, programs and the network, and says so in a
sentence. Landlock (Linux 5.13 and later) refuses in the kernel what goes past Python: reading and
changing files outside the submission's folder, TCP, signals to and memory of other processes. A
filter of system calls (calls.py) refuses what Landlock has no say over. What none of them stops is
listed in docs/teaching.md.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from perakit.classroom.calls import drop_privileges, refuse

MEMORY = 2 * 2**30  # bytes above what the submission's own libraries take
LIBRARIES = 8 * 2**30  # bytes above Python's while its cells run: an import of torch maps much
WRITTEN = 16 * 2**20  # bytes that it may print, or write to a file
OPEN = 256  # files at a time: one that is open takes room on the disk even without a name
PROCESSES = 64  # threads and processes above those that the user has, where that can be counted

# What a submission has no reason to do, by CPython's audit events.
FORBIDDEN = {
    "os.fork": "it starts another process (os.fork)",
    "os.forkpty": "it starts another process (os.forkpty)",
    "os.exec": "it replaces Python by another program (os.exec)",
    "os.posix_spawn": "it starts another program (os.posix_spawn)",
    "os.spawn": "it starts another program (os.spawn)",
    "os.startfile": "it starts another program (os.startfile)",
    "os.system": "it starts another program (os.system)",
    "subprocess.Popen": "it starts another program (subprocess)",
    "os.kill": "it sends a signal to a process (os.kill)",
    "os.killpg": "it sends a signal to processes (os.killpg)",
    "signal.pthread_kill": "it sends a signal to a thread (signal.pthread_kill)",
    "socket.connect": "it uses the network",
    "socket.bind": "it uses the network",
    "socket.sendto": "it uses the network",
    "socket.sendmsg": "it uses the network",
}
# Of /etc, what libraries look at
SETTINGS = [
    f"/etc/{name}"
    for name in ("fonts", "ld.so.cache", "localtime", "mime.types", "os-release", "passwd")
]
# What changes files, and in how many places.
CHANGES = dict.fromkeys(
    (
        "os.remove",
        "os.rmdir",
        "os.truncate",
        "os.chmod",
        "os.chown",
        "os.utime",
        "os.mkdir",
        "os.setxattr",
        "os.removexattr",
        "shutil.rmtree",
        "sqlite3.connect",
    ),
    1,
)
CHANGES |= {"os.rename": 2, "os.link": 2, "os.symlink": 2}
# Families of sockets: one for asyncio's own pair, which leads nowhere, and one by number
LOCAL = (-1, 1)


class ForbiddenError(PermissionError):
    """Something that a submission has no reason to do: says what."""


class Places:
    """Where a submission may read, and where it may write.

    folder: its own; secret: a folder that it must not read although libraries lie around it.
    """

    def __init__(self, folder: str, secret: str) -> None:
        self.folder, self.secret = os.path.realpath(folder), os.path.realpath(secret)
        system = ["/usr", "/lib", "/lib64", "/proc/cpuinfo", "/proc/meminfo", "/sys", *SETTINGS]
        libraries = [sys.prefix, sys.base_prefix, os.path.dirname(os.__file__)]
        self.roots = sorted({os.path.realpath(path) for path in [*system, *libraries]})
        for path in map(os.path.realpath, sys.path):  # of an editable installation, say
            if not any(_beneath(path, root) for root in self.roots):
                self.roots += [entry for entry in _entries(path) if _importable(entry)]

    def readable(self, path: str) -> bool:
        """Whether a submission may read there."""
        if _beneath(path, self.secret):
            return False
        inside = any(_beneath(path, root) for root in (self.folder, *self.roots))
        return inside or path in (os.devnull, "/dev/urandom", "/dev/tty")

    def writable(self, path: str) -> bool:
        """Whether a submission may write there."""
        return _beneath(path, self.folder) or path in (os.devnull, "/dev/tty")

    def without_secret(self, root: str) -> Iterator[str]:
        """`root`, or so many parts of it that the secret folder is in none."""
        if root == self.secret:
            return
        if not _beneath(self.secret, root):
            yield root
            return
        for entry in _entries(root):
            yield from self.without_secret(entry)


def _beneath(path: str, root: str) -> bool:
    return path == root or path.startswith(root.rstrip(os.sep) + os.sep)


def _entries(folder: str) -> list[str]:
    with suppress(OSError):
        return sorted(entry.path for entry in os.scandir(folder))
    return []


def _importable(path: str) -> bool:
    return path.endswith((".py", ".so", ".pyd", "__pycache__")) or os.path.exists(
        f"{path}/__init__.py"
    )


# --- Python ---------------------------------------------------------------------------------------


class Guard:
    """An audit hook that refuses other processes, the network, and files outside of `places`.

    seen: what was refused first since it was last emptied; an `except` hides it from nobody.
    resting: while the process itself forks; statm: see `limit_memory`.
    """

    def __init__(self, places: Places, statm: int | None = None) -> None:
        self.places, self.statm, self.seen, self.resting = places, statm, "", False

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Raise ForbiddenError for an event that is refused."""
        if self.resting:
            return
        said = FORBIDDEN.get(event, "")
        if event == "open":
            said = self._opened(*arguments)
        if event == "socket.__new__" and arguments[1] not in LOCAL:
            said = "it uses the network"
        if event == "resource.prlimit" and arguments[0] not in (0, os.getpid()):
            said = "it changes the limits of another process (resource.prlimit)"
        for path in arguments[: CHANGES.get(event, 0)]:
            said = said or self._changed(path)
        if said:
            self.seen = self.seen or said
            raise ForbiddenError(said)

    def _opened(self, path: Any, mode: Any, flags: Any) -> str:
        if isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC):
            return self._changed(path)
        # An open file's number was let through before
        if isinstance(path, str | bytes | os.PathLike):
            where = os.path.realpath(os.fsdecode(path))
            # What is not there says so itself
            if not self.places.readable(where) and os.path.lexists(where):
                return (
                    f"it reads a file outside its own folder ({os.path.basename(where)}): what a"
                    " function needs is in its arguments"
                )
        return ""

    def _changed(self, path: Any) -> str:
        if not isinstance(path, str | bytes | os.PathLike):
            return ""
        where = os.path.realpath(os.fsdecode(path))
        if self.places.writable(where):
            return ""
        return (
            f"it changes a file outside its own folder ({os.path.basename(where)}): a submission"
            " only computes"
        )


# --- limits ---------------------------------------------------------------------------------------


def limit_memory(more: int, statm: int | None, later: int = 0) -> None:
    """No more than `more` bytes above what is taken now, for ever but for `later` bytes.

    statm: the open file /proc/self/statm, or None where there is none, and no limit then.
    """
    if statm is not None:
        import resource

        used = int(os.pread(statm, 100, 0).split()[0]) * resource.getpagesize()
        _, most = resource.getrlimit(resource.RLIMIT_AS)
        wanted, last = (
            limit if most == resource.RLIM_INFINITY else min(limit, most)
            for limit in (used + more, used + more + later)
        )
        resource.setrlimit(resource.RLIMIT_AS, (wanted, last))


def limit_writing() -> None:
    """Files of no more than `WRITTEN` bytes, no core dumps, and so many files and processes."""
    with suppress(ImportError):
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (WRITTEN, WRITTEN))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = OPEN if most == resource.RLIM_INFINITY else min(OPEN, most)
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, wanted))
        if (others := _processes()) is not None:
            _, most = resource.getrlimit(resource.RLIMIT_NPROC)
            wanted = others + PROCESSES
            wanted = wanted if most == resource.RLIM_INFINITY else min(wanted, most)
            resource.setrlimit(resource.RLIMIT_NPROC, (wanted, wanted))


def _processes() -> int | None:
    """Threads and processes of this user, where /proc lists them."""
    if not os.path.isdir("/proc/self/task"):
        return None
    mine = 0
    for entry in os.scandir("/proc"):
        with suppress(OSError):  # it has ended since
            if entry.name.isdigit() and entry.stat().st_uid == os.getuid():
                mine += len(os.listdir(f"/proc/{entry.name}/task"))
    return mine


# --- the kernel -----------------------------------------------------------------------------------

# Landlock's numbers, from linux/landlock.h
CREATE, ADD, RESTRICT = 444, 445, 446  # system calls, the same on all of Linux's 64-bit machines
WRITE_FILE, READ_FILE, READ_DIR = 1 << 1, 1 << 2, 1 << 3
OF_FILES = WRITE_FILE | READ_FILE | 1 << 14 | 1 << 15  # what a rule on a file may allow
ALL_FILES = (1 << 13, 1 << 14, 1 << 15, 1 << 15, 1 << 16)  # by version: one more than all bits
NO_NEW_PRIVILEGES, SUBREAPER = 38, 36  # of prctl


def landlock(places: Places) -> bool:
    """Let the kernel refuse what is outside of `places`, for ever; False where it cannot.

    It also refuses programs, TCP (version 4), and signals to others (version 6); other processes'
    memory and descriptors are closed to a process under Landlock.
    Source: docs.kernel.org/userspace-api/landlock.html.
    """
    if sys.platform != "linux" or struct.calcsize("P") != 8:
        return False
    call = ctypes.CDLL(None, use_errno=True).syscall
    version = call(CREATE, None, 0, 1)
    if version < 1:
        return False
    files = ALL_FILES[min(version, len(ALL_FILES)) - 1] - 1
    rules = struct.pack("=QQQ", files, 0b11 if version >= 4 else 0, 0b11 if version >= 6 else 0)
    size = 8 if version < 4 else 16 if version < 6 else 24
    ruleset = call(CREATE, rules[:size], size, 0)
    if ruleset < 0:
        return False
    for path, access in _rules(places, files):
        _allow(call, ruleset, path, access)
    control = ctypes.CDLL(None).prctl
    done = control(NO_NEW_PRIVILEGES, 1, 0, 0, 0) == 0 and call(RESTRICT, ruleset, 0) == 0
    os.close(ruleset)
    return bool(done)


def _rules(places: Places, files: int) -> Iterator[tuple[str, int]]:
    yield places.folder, files & ~1  # everything but programs
    yield os.devnull, files & OF_FILES
    yield "/dev/urandom", READ_FILE
    for root in (*places.roots, *map(os.path.realpath, sys.path)):
        yield root, READ_DIR  # where Python looks for a module it lists the names
    for root in places.roots:
        for path in places.without_secret(root):
            yield path, READ_FILE | READ_DIR


def _allow(call: Any, ruleset: int, path: str, access: int) -> None:
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:  # there is no /lib64 everywhere
        return
    access = access if os.path.isdir(path) else access & OF_FILES
    if access:
        call(ADD, ruleset, 1, struct.pack("=Qi", access, place), 0)
    os.close(place)


def guard(places: Places, forks: bool) -> Guard:
    """Put all of them up in this process; they stay.

    forks: whether the process itself starts copies of itself.
    """
    # Opened now, since later nothing of /proc can be
    statm = "/proc/self/statm"
    made = Guard(places, os.open(statm, os.O_RDONLY) if os.path.exists(statm) else None)
    limit_writing()
    limit_memory(LIBRARIES, made.statm, MEMORY)
    if sys.platform == "linux":  # what it starts stays below it, where the judge finds it
        ctypes.CDLL(None).prctl(SUBREAPER, 1, 0, 0, 0)
    drop_privileges()
    landlock(places)
    refuse(forks)
    sys.addaudithook(made)
    return made
