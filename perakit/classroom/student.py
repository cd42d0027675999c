"""The student's process: it runs a submission's cells, and then answers calls of its functions.

    python -c BOOT FOLDER        (see process.py)

A line of JSON comes in, a line of JSON goes out: the name of a function and its arguments, what it
returned. This process knows no check, no expected value and no other submission. It imports NumPy
and Python's own, so that a submission finds nothing here to read or to change. Where there is fork,
each check is answered by a copy of the process in which the cells have run.
"""

from __future__ import annotations

import ast
import asyncio
import builtins
import inspect
import json
import os
import re
import signal
import sys
import time
import types
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from perakit.classroom.calls import refuse
from perakit.classroom.cells import Cell
from perakit.classroom.clock import PATIENCE, OutOfTime, limited
from perakit.classroom.guard import MEMORY, ForbiddenError, Guard, Places, guard, limit_memory
from perakit.classroom.wire import Encoder, NotPlainError, Reference, decode

Message = dict[str, Any]
Ask = Callable[[Message], Message]  # a function of the judge's, called from here

# Names that mean a library in every assignment
MODULES = ("np", "numpy", "torch", "nn", "pk", "perakit", "math", "plt")
DONE = 77  # how a copy of the process ends that has answered its check


# --- running the cells ----------------------------------------------------------------------------


@dataclass
class Work:
    """What a submission defines once it has run, and what went wrong on the way.

    left_out: the text of cells that were not run.
    """

    names: dict[str, Any]
    problems: list[str] = field(default_factory=list)
    sources: dict[str, Cell] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)


class Shell:
    """What `get_ipython()` is here: `%time` and the like run their code, the rest does nothing."""

    def __init__(self, run: Callable[[str], None]) -> None:
        self._run = run

    def run_line_magic(self, name: str, line: str, *_: object) -> None:
        """`%time line` runs it; of another magic nothing is left."""
        if name == "time":
            self._run(line)

    def run_cell_magic(self, name: str, line: str, body: str) -> None:
        """`%%time`, `%%capture` and `%%prun` run the cell; of another magic nothing is left."""
        if name in ("time", "capture", "prun"):
            self._run("\n" + body)  # so that its lines have the numbers that the student sees

    def getoutput(self, *_: object, **__: object) -> list[str]:
        """`x = !ls` finds nothing here."""
        return []

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_, **__: None


def python(source: str) -> str:
    """A cell's text as Python: `%time`, `!ls`, `f?` and the like by IPython's own rules.

    Text that is Python stays as it is.
    """
    try:
        ast.parse(source)
    except (SyntaxError, ValueError):
        with suppress(ImportError):  # then its lines are reported as no Python, as they are
            from IPython.core.inputtransformer2 import TransformerManager

            return TransformerManager().transform_cell(source)
    return source


def run(cells: Iterable[Cell]) -> Work:
    """Run the code cells one after another, as a notebook does.

    A cell that fails is noted, and the next ones still run. Cells with the tags "experiment" and
    "grading" are left out.
    """
    module = types.ModuleType("submission")
    sys.modules["submission"] = module  # where a dataclass looks for what its annotations mean
    work = Work(vars(module))
    for number, cell in enumerate(cells, 1):
        if not cell.graded:
            work.left_out += [cell.source] if cell.kind == "code" else []
            continue
        file = f"<submission {number}>"
        work.sources[file] = cell

        def execute(text: str, file: str = file) -> None:
            flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
            code = compile(text, file, "exec", flags, dont_inherit=True)
            waiting = eval(code, work.names)  # running it is what this process is for
            if inspect.iscoroutine(waiting):
                asyncio.run(waiting)

        work.names["get_ipython"] = lambda execute=execute: Shell(execute)
        try:
            execute(python(cell.source))
        except OutOfTime:
            raise
        except SyntaxError as error:
            work.problems.append(
                f"{cell.where(error.lineno or 1)} is not Python ({error.msg}):"
                f" {(error.text or '').strip()[:200]!r}"
            )
        except BaseException as error:
            work.problems.append(explain(error, work))
    return work


def imports(cells: Iterable[Cell]) -> list[str]:
    """The libraries that the cells import by their text, and `__import__` if that is called."""
    found: set[str] = set()
    for cell in cells:
        nodes: Iterable[ast.AST] = ()
        if cell.graded:
            with suppress(Exception):  # whatever the text may be: running it says what is wrong
                nodes = ast.walk(ast.parse(python(cell.source)))
        for node in nodes:
            if isinstance(node, ast.Import):
                found |= {name.name.partition(".")[0] for name in node.names}
            if isinstance(node, ast.ImportFrom):
                found.add((node.module or ".").partition(".")[0])
            if isinstance(node, ast.Name) and node.id == "__import__":
                found.add(node.id)
    return sorted(found - {"__future__"})


# --- what student code raised, in a sentence ------------------------------------------------------


def explain(error: BaseException, work: Work) -> str:
    """What a student's code raised, in a sentence that says where."""
    place, trace = "", error.__traceback__
    while trace is not None:
        cell = work.sources.get(trace.tb_frame.f_code.co_filename)
        if cell is not None:
            lines = re.split(r"\r\n|\r|\n", cell.source)
            text = lines[trace.tb_lineno - 1].strip() if trace.tb_lineno <= len(lines) else ""
            place = f" ({cell.where(trace.tb_lineno)}: {text[:200]})"
        trace = trace.tb_next
    return f"{sentence(error)}{place}{_left_out(error, work)}"


def _left_out(error: BaseException, work: Work) -> str:
    """Of a name that is not there: whether a cell defines it that the grader does not run."""
    name = re.escape(error.name or "") if isinstance(error, NameError) else ""
    found = name and any(
        re.search(rf"^((def|class|import) +{name}\b|{name} *=)", text, re.MULTILINE)
        for text in work.left_out
    )
    return (
        f"; `{name}` is defined in an experiment cell, which the grader does not run: move it to a"
        " cell without that tag"
        if found
        else ""
    )


def sentence(error: BaseException) -> str:
    """An exception as a student should read it."""
    try:
        message = str(error)
    except Exception:  # its text is the student's, too
        message = ""
    if isinstance(error, ForbiddenError):
        return message
    if isinstance(error, SystemExit):
        return "it calls exit(), which ends Python: return instead"
    if (
        isinstance(error, MemoryError)
        or "allocate memory" in message
        or "Unable to allocate" in message
    ):
        return (
            "it asks for more memory than a check may use: is an array far too large, or a list"
            " that never stops growing?"
        )
    if isinstance(error, OSError) and error.errno == 27:
        return "it prints or writes without end: more than a check may write"
    if isinstance(error, RecursionError):
        return "it calls itself without end (RecursionError)"
    return (
        f"it raises {type(error).__name__}: {message[:300]}"
        if message
        else f"it raises {type(error).__name__}"
    )


def shadowed(names: dict[str, Any]) -> str:
    """A warning of names that the submission took from Python or a library; else nothing."""
    own = {name: value for name, value in names.items() if not name.startswith("_")}
    taken = [name for name, value in own.items() if name in vars(builtins) and not callable(value)]
    taken += [name for name in MODULES if not isinstance(own.get(name, types), types.ModuleType)]
    if not taken:
        return ""
    named = ", ".join(f"`{name}` (now {_brief(names[name])})" for name in taken)
    return f"; your file gives another meaning to {named}: rename that variable"


def _brief(value: Any) -> str:
    return repr(value)[:40]


def missing(functions: Sequence[str], work: Work) -> str:
    """Which of these functions the submission does not define, in a sentence; else nothing."""
    absent = [name for name in functions if not callable(work.names.get(name))]
    if not absent:
        return ""
    which = ", ".join(f"`{name}`" for name in absent)
    said = (
        f"{which} is no function: define it with `def`"
        if any(name in work.names for name in absent)
        else f"your file does not define {which}"
    )
    return f"{said}; {'; '.join(work.problems[:3])}" if work.problems else said


# --- answering ------------------------------------------------------------------------------------


class Room:
    """Answers the calls of one check, within its time.

    work: what the submission defines; seconds: of computing, for all calls together.
    """

    def __init__(self, work: Work, seconds: float, guard: Guard | None = None) -> None:
        self.work, self.guard = work, guard
        self.kept: list[Any] = []  # objects that stay here, by their number
        self.computing, self.waiting = seconds, PATIENCE * seconds

    def answer(self, request: Message, ask: Ask) -> Message:
        """The reply to one request: its value, or why there is none."""
        computed, waited = time.process_time(), time.monotonic()
        try:
            with limited(self.computing, self.waiting):
                reply = self._answer(request, ask)
        except OutOfTime:
            reply = {"late": True}
        self.computing -= time.process_time() - computed
        self.waiting -= time.monotonic() - waited
        if min(self.computing, self.waiting) <= 0:
            reply = {"late": True}
        if self.guard and self.guard.seen:
            reply["refused"], self.guard.seen = self.guard.seen, ""
        return reply

    def _answer(self, request: Message, ask: Ask) -> Message:
        name = request["of"]
        try:
            if "attribute" in request:
                name = request["attribute"]
                value = getattr(self.kept[request["of"]], name)
                return {"value": self._encode(value)}
            if isinstance(name, str) and (absent := missing([name], self.work)):
                return {"raised": absent}
            function = self.work.names[name] if isinstance(name, str) else self.kept[name]
            name = name if isinstance(name, str) else getattr(function, "__name__", "")
            return self._call(function, name, request, ask)
        except OutOfTime:
            raise
        except NotPlainError as error:
            return {"raised": f"{name} returns what cannot be compared: {error}"}
        except NotImplementedError:
            return {"unwritten": name if isinstance(request["of"], str) else ""}
        except BaseException as error:
            return {"raised": f"{name}: {explain(error, self.work)}{shadowed(self.work.names)}"}

    def _call(self, function: Any, name: str, request: Message, ask: Ask) -> Message:
        def theirs(reference: Reference) -> Any:
            if reference.number < 0:  # one of ours comes back
                return self.kept[-1 - reference.number]

            def called(*arguments: Any) -> Any:
                message = {"ask": reference.number, "arguments": self._encode(list(arguments))}
                reply = ask(message)
                if "raised" in reply:
                    raise TypeError(reply["raised"])
                return decode(reply["value"], theirs)

            return called

        given = decode(request["arguments"], theirs)
        options = decode(request["options"], theirs)
        both = [*given, *options.values()]
        before = [_text(value) for value in both]
        reply: Message = {"value": self._encode(function(*given, **options))}
        changed = [k for k, value in enumerate(both) if _text(value) != before[k]]
        if changed:
            reply["changed"] = [changed[0], name, self._encode(both[changed[0]])]
        return reply

    def _encode(self, value: Any) -> Any:
        return Encoder(self._keep)(value)

    def _keep(self, value: Any) -> int:
        self.kept.append(value)
        return len(self.kept) - 1


def _text(value: Any) -> str:
    """An argument as text, to see whether it is still what it was; of other objects nothing."""
    plain = isinstance(value, list | tuple | dict | int | float | Fraction | str)
    if plain or hasattr(type(value), "__array__"):
        with suppress(NotPlainError):
            return json.dumps(Encoder(lambda _: 0)(value))
    return ""


# --- the process ----------------------------------------------------------------------------------


class Line:
    """The two pipes to the judge; what student code prints goes to a file of limited size."""

    def __init__(self, folder: str) -> None:
        self.requests, self.answers = os.fdopen(os.dup(0), "rb"), os.dup(1)
        nothing = os.open(os.devnull, os.O_RDWR)
        printed = os.open(os.path.join(folder, "printed"), os.O_RDWR | os.O_CREAT | os.O_APPEND)
        for stream, target in ((0, nothing), (1, printed), (2, nothing)):  # a warning is no print
            os.dup2(target, stream)
            os.close(target) if stream else None

    def read(self) -> Message:
        """The next request; an EOFError where there is none any more."""
        text = self.requests.readline()
        if not text.endswith(b"\n"):
            raise EOFError
        return dict(json.loads(text))

    def forget(self) -> None:
        """Make room for what the next check prints; a byte stays, to say that something was."""
        with suppress(OSError, ValueError):
            os.ftruncate(1, min(os.fstat(1).st_size, 1))
            sys.stdout.flush()

    def write(self, nonce: str, reply: Message) -> None:
        """Send a reply to the request that had this nonce."""
        data = json.dumps({"nonce": nonce} | reply).encode("ascii") + b"\n"
        while data:
            data = data[os.write(self.answers, data) :]


def serve(room: Room, line: Line) -> str:
    """Answer the calls of one check, until its end; nothing is wrong with that."""
    while True:
        request = line.read()
        if request["do"] == "end":
            return ""

        def ask(message: Message, nonce: str = request["nonce"]) -> Message:
            line.write(nonce, message)
            return line.read()

        line.write(request["nonce"], room.answer(request, ask))


def _in_a_copy(room: Room, line: Line) -> str:
    """`serve` in a copy of this process; how that ended, if it did not end as it should."""
    guard = room.guard
    assert guard is not None
    guard.resting = True
    pid = os.fork()
    guard.resting = False
    if pid == 0:
        code = 1
        try:
            limit_memory(MEMORY, guard.statm)
            refuse(forks=False)
            serve(room, line)
            with suppress(BaseException):
                sys.stdout.flush()
            code = DONE
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        name = signal.Signals(os.WTERMSIG(status)).name
        return f"it made Python crash ({name}): out of memory, or a library was misused"
    ended = os.WEXITSTATUS(status)
    return "" if ended == DONE else "it ended the Python process (os._exit): return instead"


def main(folder: str) -> None:
    """Run the cells that the first request brings; then answer one check after another."""
    line = Line(folder)
    sys.dont_write_bytecode = True
    os.chdir(folder)
    with suppress(EOFError):  # the judge has ended
        first = line.read()
        cells = [Cell(**cell | {"tags": tuple(cell["tags"])}) for cell in first["cells"]]
        # Sent while nothing of the submission has run that could change it
        line.write(first["nonce"], {"imports": imports(cells)})
        watch = guard(Places(folder, os.path.dirname(__file__)), first["fork"])
        # So that a submission's own `import perakit` finds the library, and none of its classroom
        for name in [name for name in sys.modules if name.partition(".")[0] == "perakit"]:
            del sys.modules[name]
        work = Work({})
        reply: Message = {"late": False}
        try:
            with limited(first["seconds"]):
                work = run(cells)
        except OutOfTime:
            reply["late"] = True
        reply |= {"problems": [text[:400] for text in work.problems[:5]], "refused": watch.seen}
        watch.seen = ""
        line.write(first["nonce"], reply)
        if not first["fork"]:  # else each copy has its own limit
            limit_memory(MEMORY, watch.statm)
        while True:
            request = line.read()
            if request["do"] != "begin":  # to a copy that has just ended
                continue
            room = Room(work, request["seconds"], watch)
            line.write(request["nonce"], {"missing": missing(request["functions"], work)})
            answered = _in_a_copy if first["fork"] else serve
            ended = answered(room, line)
            line.forget()
            line.write(request["nonce"], {"ended": ended})
