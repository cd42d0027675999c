"""Each case of a door in a process of its own making: what it may take, and what came of it.

A door is a way in for files. Its sources are drafts of files that are right; a case spoils one and
brings it to the door. Then either a PerakitError comes and nothing is changed, or the result is
judged by readers of the door's own.

This process writes the folders; a forked one opens them, under a limit on its memory, and one that
hangs or dies is replaced.
"""

import contextlib
import ctypes
import gc
import hashlib
import json
import os
import random
import resource
import select
import shutil
import signal
import time
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from mutations import CONTENT, FILES, Draft, Files, write

import perakit as pk

MEMORY = 256 * 2**20  # bytes above what the process held before the case
SECONDS = 10  # of a case


# --- a door ---------------------------------------------------------------------------------------


class WrongError(Exception):
    """What was let in is not what the files say."""


def demand(true: bool, what: str) -> None:
    if not true:
        raise WrongError(what)


class Trial(NamedTuple):
    """One use of a door: what is done, the judge of its result, and, after a refusal, what changed.

    `right` raises where the result is wrong; `changed` says nothing where all is as it was.
    """

    use: Callable[[], Any]
    right: Callable[[Any], None]
    changed: Callable[[], str]


NOWHERE = {"": (1, None)}  # where it comes onto nothing


class Door:
    """What the runner asks of a door.

    opens: perakit's function, which a defect of `defects` breaks: name -> (what breaks it, how the
    runner calls it, cases that show it). targets: name -> (weight, what the door makes of it).
    """

    name = ""
    content: dict[str, tuple[int, Callable[[random.Random, Draft], None]]] = CONTENT
    damage: dict[str, tuple[int, Callable[[random.Random, Files, str], None]]] = FILES
    targets: dict[str, tuple[int, Any]] = NOWHERE
    defects: dict[str, tuple[Callable[..., Any], str, int]]
    opens: Callable[..., Any]

    def sources(self, scratch: Path) -> dict[str, Any]:
        """Name -> what has a method `draft()`; scratch: a folder for their files."""
        raise NotImplementedError

    def files(self, draft: Draft, sealed: bool) -> Files:
        """What a draft is written as; sealed: with checksums that fit, where the format has any."""
        raise NotImplementedError

    def trial(self, source: Any, target: str, folder: Path, opens: Callable[..., Any]) -> Trial:
        raise NotImplementedError


# --- one case -------------------------------------------------------------------------------------


class Case(NamedTuple):
    """What is drawn for one number, so that it can be done again."""

    number: int
    source: str
    target: str
    kinds: tuple[str, ...]


class Answer(NamedTuple):
    """What came of a case: outcome, message and its length, bytes and seconds it took."""

    outcome: str
    text: str = ""
    length: int = 0
    peak: int = 0
    seconds: float = 0.0
    written: str = ""  # a digest of the files

    @property
    def failed(self) -> bool:
        return self.outcome.startswith("FAILED")


# What a change meets where the one before took away what it needs
IN_THE_WAY = (LookupError, ValueError, TypeError, ArithmeticError, RecursionError, StopIteration)


def prepare(
    door: Door, sources: dict[str, Any], seed: int, number: int, folder: Path
) -> tuple[Case, str]:
    """Draw case `number` and write its folder; with a digest of what was written."""
    draw = random.Random(f"{seed}/{number}")
    source = draw.choice(list(sources))
    target = weighted(draw, door.targets)
    draft = sources[source].draft()
    every = door.content | door.damage
    kinds = [weighted(draw, every) for _ in range(draw.choice([1] * 6 + [2]))]
    kinds.sort(key=list(every).index)  # content before files
    for kind in kinds:
        if kind in door.content:
            with contextlib.suppress(*IN_THE_WAY):
                door.content[kind][1](draw, draft)
    files = door.files(draft, sealed=draw.random() < 0.88)
    for kind in kinds:
        if kind in door.damage and files:
            door.damage[kind][1](draw, files, draw.choice(list(files)))
    write(folder, files)
    written = "".join(
        f"{name!r} {data!r}" if isinstance(data, bytes) else repr(name)
        for name, data in files.items()
    )
    digest = hashlib.sha256(written.encode()).hexdigest()
    return Case(number, source, target, tuple(kinds)), digest


def warm_up(door: Door, sources: dict[str, Any], scratch: Path) -> None:
    """Bring every source to the door as it is, so that no case pays for what is made once."""
    for source in sources.values():
        folder = scratch / "whole" / "folder"
        write(folder, door.files(source.draft(), sealed=True))
        with contextlib.suppress(Exception):
            door.trial(source, next(iter(door.targets)), folder, door.opens).use()
        shutil.rmtree(folder.parent)


def weighted(draw: random.Random, table: dict[str, tuple[int, Any]]) -> str:
    return draw.choices(list(table), [weight for weight, _ in table.values()])[0]


def attempt(trial: Trial) -> Answer:
    """Use the door, and judge what came of it."""
    outcome, result, text, peak, seconds = measured(trial.use)
    try:
        if outcome == "right":
            trial.right(result)
        elif changed := trial.changed():
            outcome, text = "FAILED: half changed", f"{changed}; {outcome}; {text}"
    except WrongError as error:
        outcome, text = "FAILED: wrongly taken", str(error)
    except Exception:  # a judge that cannot read the files: they should not have been let in
        outcome, text = "FAILED: wrongly taken", traceback.format_exc()
    if peak > MEMORY:
        outcome, text = "FAILED: memory", f"{peak / 2**20:.0f} MiB; {outcome}; {text}"
    return Answer(outcome, short(text), len(text), peak, seconds)


def measured(use: Callable[[], Any]) -> tuple[str, Any, str, int, float]:
    """Outcome, result, message, peak in bytes and seconds of what may take no more than MEMORY."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    held, outcome, result, text = status("VmRSS"), "right", None, ""
    resource.setrlimit(resource.RLIMIT_AS, (status("VmSize") + MEMORY, resource.RLIM_INFINITY))
    begun = time.monotonic()
    try:
        result = use()
    except pk.PerakitError as error:
        outcome, text = f"refused in {where(error)}", str(error)
    except BaseException as error:  # a panic of a library in Rust is no Exception
        outcome = f"FAILED: {type(error).__name__} in {where(error)}"
        text = traceback.format_exc()
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    return outcome, result, text, status("VmHWM") - held, time.monotonic() - begun


def status(key: str) -> int:
    """A line of /proc/self/status, in bytes."""
    return int(Path("/proc/self/status").read_text().split(f"{key}:")[1].split()[0]) * 1024


def where(error: BaseException) -> str:
    """The function of perakit that refused: how deep the case came."""
    inside = [
        frame.name
        for frame in traceback.extract_tb(error.__traceback__)
        if "perakit" in Path(frame.filename).parts
    ]
    return inside[-1] if inside else "?"


def short(text: str) -> str:
    return text if len(text) < 1500 else f"{text[:400]} ... {text[-1000:]}"


# --- the process that opens -----------------------------------------------------------------------


class Worker:
    """A forked process that opens one folder after the other and says what happened."""

    def __init__(self, door: Door, sources: dict[str, Any], defect: str | None) -> None:
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        (there, self.send), (self.receive, here) = os.pipe(), os.pipe()
        self.pid = os.fork()
        if not self.pid:
            os.close(self.send)
            os.close(self.receive)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # progress bars and warnings
            gc.freeze()
            with os.fdopen(there) as orders, os.fdopen(here, "w") as answers:
                opens = door.defects[defect][0](door.opens) if defect else door.opens
                self._serve(orders, answers, door, sources, opens)
            os._exit(0)
        os.close(there)
        os.close(here)

    @staticmethod
    def _serve(
        orders: Any, answers: Any, door: Door, sources: dict[str, Any], opens: Callable[..., Any]
    ) -> None:
        for line in orders:
            folder, source, target = json.loads(line)
            try:
                answer = attempt(door.trial(sources[source], target, Path(folder), opens))
            except Exception:  # in making the trial: a mistake of these files
                answer = Answer("FAILED: the fuzzer", traceback.format_exc())
            answers.write(json.dumps(answer) + "\n")
            answers.flush()

    def ask(self, case: Case, folder: Path, seconds: float) -> tuple[Answer, bool]:
        """The answer, and whether the worker is still there: it may have hung or died."""
        order = json.dumps([str(folder), case.source, case.target])
        os.write(self.send, (order + "\n").encode())
        answer, begun = b"", time.monotonic()
        while not answer.endswith(b"\n"):
            left = max(0.0, begun + seconds - time.monotonic())
            if not select.select([self.receive], [], [], left)[0]:
                self.stop()
                return Answer("FAILED: hang", f"no answer in {seconds} s", seconds=seconds), False
            piece = os.read(self.receive, 65536)
            if not piece:
                return Answer("FAILED: the process died", f"status {self.stop()}"), False
            answer += piece
        return Answer(*json.loads(answer)), True

    def stop(self) -> int:
        """End the process; its status."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        os.close(self.send)
        os.close(self.receive)
        return os.waitpid(self.pid, 0)[1]


Done = list[tuple[Case, Answer]]


def run(
    door: Door,
    sources: dict[str, Any],
    numbers: Iterable[int],
    seed: int,
    scratch: Path,
    seconds: float = SECONDS,
    defect: str | None = None,
    keep: Path | None = None,
) -> Done:
    """All cases, each with its answer; keep: where a copy of their folders goes."""
    done = []
    worker = Worker(door, sources, defect)
    for number in numbers:
        folder = scratch / "case" / "folder"
        case, written = prepare(door, sources, seed, number, folder)
        if keep:
            shutil.copytree(folder.parent, keep, symlinks=True, ignore=_no_plain_file)
        answer, there = worker.ask(case, folder, seconds)
        if not there:
            worker = Worker(door, sources, defect)
        done.append((case, answer._replace(written=written)))
        shutil.rmtree(folder.parent)
    worker.stop()
    return done


def _no_plain_file(at: str, names: list[str]) -> list[str]:
    """Of `names`, those that cannot be copied."""

    def plain(path: Path) -> bool:
        small = path.is_file() and path.stat().st_size < 2**30
        return path.is_symlink() or path.is_dir() or small

    return [name for name in names if not plain(Path(at) / name)]


MARKED = 20  # cases whose folders are in the mark


def marks(done: Done) -> str:
    """A digest of what was written: the same for the same seed, anywhere."""
    text = "".join(answer.written for _, answer in done[:MARKED])
    return hashlib.sha256(text.encode()).hexdigest()[:16]
