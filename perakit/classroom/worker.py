"""The process in which student code runs: `python -m perakit.classroom.worker`.

One request a line, one answer a line.
Each request is answered by a forked child, which may crash, loop or eat memory; where there is no
fork, by this process itself, which then ends, and the grader starts another. Limits of time, memory
and writing keep an accident from costing more than its check. They are **no security sandbox**: who
wants to break out can.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from perakit.classroom.assignment import Assignment, hidden_checks
from perakit.classroom.checks import Check
from perakit.classroom.examination import PATIENCE, OutOfTime, examine, limited
from perakit.classroom.submission import Cell, ForbiddenError, Work, run
from perakit.errors import PerakitError

MEMORY = 2 * 2**30  # bytes above what the libraries take
WRITTEN = 16 * 2**20  # bytes that a check may print, or write to a file
GRACE = 2.0  # seconds after a check's own, before the child is killed
POSIX = hasattr(os, "fork")

# What a submission has no reason to do, by CPython's audit events; it gets an exception that says
# so.
FORBIDDEN = {
    "os.fork": "it starts another process (os.fork)",
    "os.forkpty": "it starts another process (os.forkpty)",
    "os.exec": "it replaces Python by another program (os.exec)",
    "os.posix_spawn": "it starts another program (os.posix_spawn)",
    "os.spawn": "it starts another program (os.spawn)",
    "os.system": "it starts another program (os.system)",
    "subprocess.Popen": "it starts another program (subprocess)",
    "os.kill": "it sends a signal to a process (os.kill)",
    "os.killpg": "it sends a signal to processes (os.killpg)",
    "socket.connect": "it uses the network",
    "socket.bind": "it uses the network",
    "socket.sendto": "it uses the network",
    "socket.sendmsg": "it uses the network",
}
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
        "shutil.rmtree",
    ),
    1,
)
CHANGES |= {"os.rename": 2, "os.link": 2, "os.symlink": 2, "sqlite3.connect": 1}


class _Guard:
    """An audit hook that keeps student code within this check's own empty folder.

    It refuses other processes, the network, and writing elsewhere.
    """

    def __init__(self, folder: str) -> None:
        self.folder, self.seen = os.path.realpath(folder), ""
        self.active = True

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.active:
            return
        said = FORBIDDEN.get(event, "")
        if (
            event == "open"
            and isinstance(arguments[2], int)
            and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        ):
            said = self._outside(arguments[0])
        for path in arguments[: CHANGES.get(event, 0)]:
            said = said or self._outside(path)
        if said:
            self.seen = self.seen or said
            raise ForbiddenError(said)

    def _outside(self, path: Any) -> str:
        # An open file's number: it was let through before
        if not isinstance(path, str | bytes | os.PathLike):
            return ""
        where = os.path.realpath(os.fsdecode(path))
        inside = where.startswith(self.folder + os.sep) or where in (os.devnull, "/dev/tty")
        return (
            ""
            if inside
            else (
                f"it changes a file outside its own folder ({os.path.basename(where)}): a"
                " submission only computes"
            )
        )


def answer(request: dict[str, Any], checks: dict[str, Check]) -> dict[str, Any]:
    """Run the submission, then the check, in an empty folder.

    Says why it fails (nothing if it holds), and what was printed.
    """
    check = checks[request["check"]]
    cells = [Cell(**cell | {"tags": tuple(cell["tags"])}) for cell in request["cells"]]
    home = os.getcwd()
    with (
        tempfile.TemporaryDirectory(dir=home) as folder,
        open(Path(folder) / "printed", "w+b") as printed,
    ):
        guard = _prepare(home, folder, printed.fileno())
        said = ""
        work = Work({}, [], {})
        try:
            with limited(check.seconds):
                work = run(cells, OutOfTime)
                said = examine(check, work)
        except OutOfTime:
            said = (
                f"your file did not finish within {check.seconds:g} s: an endless loop, or a sleep,"
                " outside of the functions?"
            )
            said += " A long experiment belongs into a cell with the tag `experiment`"
        guard.active = False
        if guard.seen and guard.seen not in said:
            said = f"{guard.seen}; {said}" if said else guard.seen
        size = os.fstat(printed.fileno()).st_size
        os.chdir(home)
    return {
        "said": said[:4000],
        "printed": size,
        "problems": [problem[:400] for problem in work.problems[:5]],
    }


def _prepare(home: str, folder: str, printed: int) -> _Guard:
    """Into the folder, with output to a file of limited size, memory limited, and a guard."""
    os.chdir(folder)
    sys.stdout.flush()
    for stream in (1, 2):
        os.dup2(printed, stream)
    with open(os.devnull) as nothing:
        # The grader's requests come that way: `input()` must not read them
        os.dup2(nothing.fileno(), 0)
    # An import that is the first of its module would be taken for a change of files
    sys.dont_write_bytecode = True
    if POSIX:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (WRITTEN, resource.RLIM_INFINITY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        statm = Path("/proc/self/statm")
        if statm.exists():
            used = int(statm.read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, resource.RLIM_INFINITY))
    guard = _Guard(home)  # where the libraries, too, may keep something
    sys.addaudithook(guard)
    return guard


def _in_a_child(request: dict[str, Any], checks: dict[str, Check]) -> dict[str, Any]:
    """`answer` in a forked process: whatever happens to it, there is an answer."""
    reading, writing = os.pipe()
    limit = time.monotonic() + PATIENCE * checks[request["check"]].seconds + GRACE
    pid = os.fork()
    if pid == 0:
        os.setsid()  # what it starts is in its group, and is killed with it
        mine = os.getpid()
        try:
            result = json.dumps(answer(request, checks)).encode()
            if os.getpid() == mine:  # a copy that the submission forked has nothing to say
                os.write(writing, result)
        finally:
            os._exit(0)
    os.close(writing)
    status: int | None = None
    while status is None and time.monotonic() < limit:
        done, code = os.waitpid(pid, os.WNOHANG)
        if done:
            status = code
        else:
            time.sleep(0.002)
    _kill(pid)
    if status is None:
        os.waitpid(pid, 0)
    os.set_blocking(reading, False)
    try:
        data = os.read(reading, 2**16)
    except BlockingIOError:
        data = b""
    os.close(reading)
    return json.loads(data) if data else {"said": _death(status), "printed": 0, "problems": []}


def _kill(group: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def _death(status: int | None) -> str:
    if status is None:
        return (
            "it did not finish in time and could not be interrupted: an endless loop that catches"
            " every exception?"
        )
    if os.WIFSIGNALED(status):
        return (
            f"it made Python crash ({signal.Signals(os.WTERMSIG(status)).name}): out of memory, or"
            " a library was misused"
        )
    return "it ended the Python process (os._exit): return instead"


def _warm_up() -> None:
    """Do once what each child would do again.

    Import what a submission may import, and let Hypothesis look around.
    """
    import matplotlib.pyplot as plt
    import torch  # noqa: F401
    from hypothesis import strategies as st

    from perakit import models, plots, theory, toy  # noqa: F401
    from perakit.theory.claims import search

    plt.close()
    search(
        st.fixed_dictionaries({"x": st.floats() | st.integers() | st.text()}),
        lambda x: x != x,
        0,
        5,
    )


def main() -> int:
    """Answer requests from stdin until it ends."""
    checks: dict[tuple[str, str | None], dict[str, Check]] = {}
    _warm_up()
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        for line in sys.stdin:
            request = json.loads(line)
            key = (request["assignment"], request["hidden"])
            try:
                if key not in checks:
                    own = hidden_checks(Path(key[1])) if key[1] else []
                    found = [*Assignment.load(key[0]).checks, *own]
                    checks[key] = {check.id: check for check in found}
            # Where the grader could run them: they read a file of its folder, say
            except PerakitError as error:
                print(json.dumps({"refused": str(error)}), file=answers, flush=True)
                continue
            result = _in_a_child(request, checks[key]) if POSIX else answer(request, checks[key])
            print(json.dumps(result), file=answers, flush=True)
            if not POSIX:
                break
    return 0


if __name__ == "__main__":
    sys.exit(main())
