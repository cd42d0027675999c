"""A student's process as the judge sees it: started, asked, limited, ended.

The judge sends a call and waits for the reply that carries the call's own nonce. Whatever else
comes along that line was written by the submission itself: it is noticed, and ends the process.
"""

from __future__ import annotations

import json
import os
import queue
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from perakit.classroom.cells import Cell
from perakit.classroom.clock import PATIENCE
from perakit.classroom.wire import LARGEST

Message = dict[str, Any]

RUNNING = 30.0  # seconds of computing for all cells, an import of PyTorch among them
GRACE = 2.0  # seconds on the clock after a limit of time, before the process is killed
STARTING = 60.0  # seconds on the clock until Python and NumPy have come from a slow disk
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
        said = str(self._receive(self._begun).get("missing", ""))[:2000]
        self._open = True
        return said

    def answer(self, request: Message, ask: Any) -> Message:
        """The reply to a call; functions of the judge's are called meanwhile. Raises EndedError."""
        nonce = self._send({"do": "call"} | request)
        while True:
            reply = self._receive(nonce)
            if "ask" not in reply:
                return reply
            self._send(ask(reply))

    def end(self) -> None:
        """End the check."""
        if self._open:
            self._open = False
            with suppress(EndedError):
                self._send({"do": "end"})
                self._receive(self._begun)

    # --- the line ---------------------------------------------------------------------------------

    def _send(self, request: Message) -> str:
        nonce = secrets.token_hex(8)
        if self._process is None:
            raise EndedError("it ended the process that runs it")
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request | {"nonce": nonce}).encode() + b"\n")
            self._process.stdin.flush()
        except OSError as error:
            raise self._ended("it ended the process that runs it") from error
        return nonce

    def _receive(self, nonce: str) -> Message:
        """The next message, which has to carry this nonce, or to say that a check's copy ended."""
        start = time.monotonic()
        try:
            line = self._lines.get(timeout=max(self._left, 0.0))
        except queue.Empty as error:
            raise self._ended(
                "it did not finish in time and could not be interrupted: an endless loop that"
                " catches every exception?"
            ) from error
        self._left -= time.monotonic() - start
        if not line:
            raise self._ended("it ended the process that runs it")
        try:
            message = json.loads(line)
            theirs = dict(message).pop("nonce")
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise self._ended(FORGED) from error
        if theirs == self._begun and nonce != theirs and "ended" in message:
            self._open = False
            raise EndedError(str(message["ended"])[:400] or "it ended the process that runs it")
        if theirs != nonce:
            raise self._ended(FORGED)
        return dict(message)

    def _listen(self, process: subprocess.Popen[bytes], lines: queue.Queue[bytes]) -> None:
        assert process.stdout is not None
        with process.stdout as stream:
            while line := stream.readline(LARGEST):
                lines.put(line if line.endswith(b"\n") else b"too long")
        lines.put(b"")

    # --- the process ------------------------------------------------------------------------------

    def _start(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="submission-", ignore_cleanup_errors=True)
        classroom = Path(__file__).parent
        environment = {name: os.environ[name] for name in PASSED if name in os.environ} | {
            "HOME": self._folder.name,
            "TMPDIR": self._folder.name,
            "MPLCONFIGDIR": self._folder.name,
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
            [sys.executable, "-P", "-c", BOOT, self._folder.name, classroom.parent, classroom],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=self._folder.name,
            env=environment,
            start_new_session=True,
        )
        self._lines: queue.Queue[bytes] = queue.Queue(maxsize=4)
        threading.Thread(
            target=self._listen, args=(self._process, self._lines), daemon=True
        ).start()
        self._begun, self._left = "", STARTING + PATIENCE * RUNNING
        request = {
            "do": "run",
            "cells": [asdict(cell) for cell in self.cells],
            "seconds": RUNNING,
            "fork": self.fork,
        }
        try:
            reply = self._receive(self._send(request))
        except EndedError as error:
            self.failed = f"while its cells ran, {error}"
            raise EndedError(self.failed) from error
        self.imports = [str(name)[:80] for name in _listed(reply.get("imports"))]
        self.problems = [str(text)[:400] for text in _listed(reply.get("problems"))]
        self.refused = str(reply.get("refused", ""))[:400]
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
        _kill(process.pid)
        process.kill()
        process.wait()
        with suppress(OSError):
            self.printed += os.stat(os.path.join(self._folder.name, "printed")).st_size
        with suppress(OSError):
            assert process.stdin is not None
            process.stdin.close()
        with suppress(queue.Empty):  # so that nothing holds the thread that listens
            while self._lines.get(timeout=1):
                pass
        self._folder.cleanup()


FORGED = "it wrote on the line to the grader itself: what a function returns goes there by itself"


def _listed(value: Any) -> list[Any]:
    return list(value)[:40] if isinstance(value, list) else []


def _kill(leader: int) -> None:
    """Kill the leader's group, and what the leader's children have started outside of it."""
    if hasattr(os, "killpg"):
        for process in _descendants(leader):
            with suppress(ProcessLookupError, PermissionError):
                os.kill(process, signal.SIGKILL)
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(leader, signal.SIGKILL)


def _descendants(leader: int) -> list[int]:
    """The processes below this one, where /proc lists them."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, ValueError, IndexError):
            # After the name, which may have brackets of its own: state, parent
            parents[int(entry.parent.name)] = int(entry.read_bytes().rpartition(b")")[2].split()[1])
    found = [leader]
    for process in found:
        found += [child for child, parent in parents.items() if parent == process]
    return found[1:]
