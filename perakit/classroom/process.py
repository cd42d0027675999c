"""A student's process as the judge sees it: started, asked, limited, ended.

The judge sends a call and waits for the reply that carries the call's own nonce. Whatever else
comes along that line was written by the submission itself: it is noticed, and ends the process.
Nothing that comes is taken for more than it may be, and nothing is waited for without an end.
"""

from __future__ import annotations

import json
import os
import queue
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from perakit.classroom.cells import Cell
from perakit.classroom.clock import PATIENCE
from perakit.classroom.folder import FILES, ROOM, Folder
from perakit.classroom.wire import LARGEST

Message = dict[str, Any]

RUNNING = 30.0  # seconds of computing for all cells, an import of PyTorch among them
GRACE = 2.0  # seconds on the clock after a limit of time, before the process is killed
STARTING = 60.0  # seconds on the clock until Python and NumPy have come from a slow disk
STARTS = 2  # times as long may all starts take together, where each check ends the process
LOOKS = 0.5  # seconds between two looks at the folder while the judge waits
ROUNDS = 50  # of killing what still runs
ASKED = 2**16  # bytes with which a student's function may call one of the check's
FORK = hasattr(os, "fork")
# A start without the `__init__` of perakit and of its classroom, which import the checks
BOOT = """\
import sys, types
_, folder, *places = sys.argv
for name, place in zip(("perakit", "perakit.classroom"), places):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [place]
from perakit.classroom.student import main
del sys.argv[1:]
main(folder)
"""
# What the process gets of the judge's environment: where libraries are, and no secret
PASSED = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "SYSTEMROOT", "WINDIR")


class EndedError(Exception):
    """The student's process has ended, or was killed: says why."""


class Process:
    """One submission in a process, a folder and an environment of its own.

    cells: of the submission, all of them; fork: whether each check has a copy of the process. It is
    started when it is first asked, and again after it has ended.
    imports: the libraries that the cells name; problems: of the cells that did not run; refused:
    what was refused while they ran; printed: bytes so far.
    """

    def __init__(self, cells: Sequence[Cell], fork: bool = FORK) -> None:
        self.cells, self.fork = cells, fork
        self.imports: list[str] = []
        self.problems: list[str] = []
        self.refused, self.failed, self.printed = "", "", 0
        self._process: subprocess.Popen[bytes] | None = None
        self._left = 0.0  # seconds that this check may still keep the judge waiting
        self._starting = STARTS * (STARTING + PATIENCE * RUNNING)  # and all starts
        self._size = 0  # bytes of the message that came last
        self._begun, self._open = "", False  # the nonce of the check, and whether it has not ended

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- one check --------------------------------------------------------------------------------

    def begin(self, functions: Sequence[str], seconds: float) -> str:
        """Begin a check of these functions; which of them are missing, in a sentence.

        seconds: of computing, for all calls together. Raises EndedError.
        """
        if self.failed:  # its cells do not come to an end: they would not the next time
            raise EndedError(self.failed)
        if self._process is None:
            self._start()
        self._left = PATIENCE * seconds + GRACE
        request = {"do": "begin", "functions": list(functions), "seconds": seconds}
        self._begun = self._send(request)
        said = _text(self._receive(self._begun).get("missing"), 2000)
        self._open = True
        return said

    def answer(self, request: Message, ask: Any) -> Message:
        """The reply to a call; functions of the judge's are called meanwhile. Raises EndedError."""
        nonce = self._send({"do": "call"} | request)
        while True:
            reply = self._receive(nonce)
            if "ask" not in reply:
                return reply
            if self._size > ASKED:
                raise self._ended("it calls a function that it was given with a very large value")
            start = time.monotonic()
            answered = ask(reply)
            self._left -= time.monotonic() - start  # else it might ask for ever
            self._send(answered)

    def end(self) -> None:
        """End the check; what comes now and is no end was written by the submission itself."""
        if self._open:
            self._open = False
            try:
                self._send({"do": "end"})
                self._receive(self._begun)
            except EndedError as error:
                self.refused = self.refused or (FORGED if str(error) == FORGED else "")

    # --- the line ---------------------------------------------------------------------------------

    def _send(self, request: Message) -> str:
        nonce = secrets.token_hex(8)
        if self._process is None:
            raise EndedError(ENDED)
        data = json.dumps(request | {"nonce": nonce}).encode() + b"\n"
        try:
            self._requests.put(data, timeout=max(self._left, 0.0))
        except queue.Full as error:
            raise self._ended(LATE) from error
        return nonce

    def _receive(self, nonce: str) -> Message:
        """The next message, which has to carry this nonce, or to say that a check's copy ended."""
        line = self._line()
        if not line:
            raise self._ended(ENDED)
        self._size = len(line)
        try:
            message = dict(json.loads(line))
            theirs = message.pop("nonce")
        except (ValueError, TypeError, KeyError, RecursionError, MemoryError) as error:
            raise self._ended(FORGED) from error
        if theirs == self._begun and nonce != theirs and "ended" in message:
            self._open = False
            raise EndedError(_text(message["ended"]) or ENDED)
        if theirs != nonce:
            raise self._ended(FORGED)
        return message

    def _line(self) -> bytes:
        """The next line, empty at the end. Meanwhile the folder is looked at now and then."""
        end = time.monotonic() + self._left
        while True:
            self._left = end - time.monotonic()
            try:
                line = self._lines.get(timeout=min(max(self._left, 0.0), LOOKS))
            except queue.Empty as error:
                if self._left <= 0:
                    raise self._ended(LATE) from error
                self._look()
                continue
            self._left = end - time.monotonic()
            return line

    def _look(self) -> None:
        if self._folder.full:
            raise self._ended(
                f"it fills its folder: more than {ROOM // 2**20} MiB, or than {FILES:,} files"
            )

    # --- the process ------------------------------------------------------------------------------

    def _start(self) -> None:
        self._folder = Folder()
        folder = self._folder.path
        classroom = Path(__file__).parent
        environment = {name: os.environ[name] for name in PASSED if name in os.environ} | {
            "HOME": folder,
            "TMPDIR": folder,
            "MPLCONFIGDIR": folder,
            "MPLBACKEND": "Agg",
            "OMP_NUM_THREADS": "1",  # a process with one thread can be forked safely
            "MKL_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "PYTHONIOENCODING": "utf-8",
            "PYTHONHASHSEED": "0",
            "LANG": "C.UTF-8",
        }
        self._process = subprocess.Popen(
            # -P: else a file beside the submission may be taken for a library
            [sys.executable, "-P", "-c", BOOT, folder, classroom.parent, classroom],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env=environment,
            start_new_session=True,
        )
        # What a pipe does not take, or brings, waits in a queue and keeps a thread, not the judge
        self._lines: queue.Queue[bytes] = queue.Queue(maxsize=4)
        self._requests: queue.Queue[bytes] = queue.Queue(maxsize=4)
        self._closed = threading.Event()
        given = (self._process, self._lines, self._requests, self._closed)
        for work in (_listen, _speak):
            threading.Thread(target=work, args=given, daemon=True).start()
        start = time.monotonic()
        self._begun, self._left = "", min(STARTING + PATIENCE * RUNNING, self._starting)
        request = {
            "do": "run",
            "cells": [asdict(cell) for cell in self.cells],
            "seconds": RUNNING,
            "fork": self.fork,
        }
        try:
            nonce = self._send(request)
            about = self._receive(nonce)  # sent before any of the cells has run
            self.imports = [_text(name, 80) for name in _listed(about.get("imports"))]
            reply = self._receive(nonce)
            self._look()
        except EndedError as error:
            self.failed = f"while its cells ran, {error}"
            raise EndedError(self.failed) from error
        finally:
            self._starting -= time.monotonic() - start
        self.problems = [_text(text) for text in _listed(reply.get("problems"))]
        self.refused = _text(reply.get("refused"))
        if reply.get("late"):
            self.failed = (
                f"your file did not finish within {RUNNING:g} s: an endless loop, or a sleep,"
                " outside of the functions? A long experiment belongs into a cell with the tag"
                " `experiment`"
            )
            self.close()
            raise EndedError(self.failed)

    def _ended(self, why: str) -> EndedError:
        self.close()
        return EndedError(why)

    def close(self) -> None:
        """End the process, and all that it started; its folder goes with it."""
        if self._process is None:
            return
        process, self._process, self._open = self._process, None, False
        self._closed.set()
        _kill(process.pid)
        process.kill()
        process.wait()
        with suppress(queue.Full):  # then the thread is writing, and finds the pipe broken
            self._requests.put_nowait(b"")
        with suppress(OSError):
            self.printed += os.lstat(os.path.join(self._folder.path, "printed")).st_size
        self._folder.remove()


ENDED = "it ended the process that runs it"
LATE = (
    "it did not finish in time and could not be interrupted: an endless loop that catches every"
    " exception?"
)
FORGED = "it wrote on the line to the grader itself: what a function returns goes there by itself"


def _text(value: Any, most: int = 400) -> str:
    return value[:most] if isinstance(value, str) else ""


def _listed(value: Any) -> list[Any]:
    return value[:40] if isinstance(value, list) else []


def _listen(
    process: subprocess.Popen[bytes],
    lines: queue.Queue[bytes],
    _: queue.Queue[bytes],
    closed: threading.Event,
) -> None:
    """What the process writes, line by line, until it ends; at the end an empty one."""
    assert process.stdout is not None
    with process.stdout as stream:
        line = b"\n"
        while line and not closed.is_set():
            line = stream.readline(LARGEST)
            whole = line if line.endswith(b"\n") or not line else b"too long"
            while not closed.is_set():
                with suppress(queue.Full):
                    lines.put(whole, timeout=LOOKS)
                    break


def _speak(
    process: subprocess.Popen[bytes],
    _: queue.Queue[bytes],
    requests: queue.Queue[bytes],
    closed: threading.Event,
) -> None:
    """Write the requests to the process, which may read them or not."""
    assert process.stdin is not None
    with suppress(OSError), process.stdin as stream:
        while (request := requests.get()) and not closed.is_set():
            stream.write(request)
            stream.flush()


def _kill(leader: int) -> None:
    """Kill the leader, its group, and what else is below it.

    Where the kernel refuses a new session or group (calls.py), the group is all there is.
    """
    if not hasattr(os, "killpg"):
        return
    with suppress(ProcessLookupError, PermissionError):
        os.kill(leader, signal.SIGSTOP)  # it starts no more, and inherits what its children started
        for _ in range(ROUNDS):
            below = _descendants(leader)
            for process in below:
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(process, signal.SIGKILL)
            if not below:
                break
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


def _descendants(leader: int) -> list[int]:
    """The processes below this one that still run, where /proc lists them."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, ValueError, IndexError):
            # After the name, which may have brackets of its own
            state, parent, *_ = entry.read_bytes().rpartition(b")")[2].split()
            if state not in b"ZX":
                parents[int(entry.parent.name)] = int(parent)
    found = [leader]
    for process in found:
        found += [child for child, parent in parents.items() if parent == process]
    return found[1:]
