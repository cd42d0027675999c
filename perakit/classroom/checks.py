"""What an assignment checks: properties of the functions that a student writes, each worth points.

    @check(2, "scaling is alpha/r", "update", examples=factors_and_alpha(), hint="r is the number of rows of A")
    def scaling(work, B, A, alpha):
        expect_equal(work.update(B, A, alpha), alpha / A.shape[0] * (B @ A))

A property calls the student's functions as attributes of `work` and says what it expects. Hypothesis looks for an input
that breaks it, and the student sees the smallest. That none was found is not a proof: it is what a grader can do.
"""

from __future__ import annotations

import builtins
import copy
import math
import signal
import threading
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NoReturn

import numpy as np
from hypothesis import strategies as st
from hypothesis.errors import HypothesisException

from perakit.classroom.submission import Work, explain, sentence
from perakit.errors import PerakitError
from perakit.formulas import check_count
from perakit.theory.claims import search

SEED, EXAMPLES, SECONDS = 0, 60, 6.0
MODULES = ("np", "numpy", "torch", "nn", "pk", "perakit", "math", "plt")  # names that mean a library in every assignment
AGAIN = 8  # times that the smallest input is tried once more: does it always fail?
SHOWN = 24  # entries of an array that a message shows


class Wrong(Exception):  # noqa: N818 - it is an answer, not an error
    """A property that does not hold: says so in a sentence."""


class NotWritten(BaseException):
    """The student has not begun: no input says more about it, so Hypothesis, which would look for one, is passed by."""


class OutOfTime(BaseException):
    """The check's time is over. No `except Exception` of a student's stops it.

    rang: whether it is; Hypothesis may make another exception of one that reaches it while it draws an example.
    """

    rang = False


@dataclass(frozen=True)
class Check:
    """One property of some functions, and what it is worth.

    id: its name in the assignment; points: all or none; title: what holds, in a few words; functions: the names that a
    submission has to define for it; test: the property, (work, **example) -> None, which calls `expect...`;
    examples: a Hypothesis strategy of dicts, the arguments of `test`; hint: what
    to think about after a failure; count: how many examples; seconds: after which it ends with no points.
    """

    id: str
    points: float
    title: str
    functions: tuple[str, ...]
    test: Callable[..., None]
    examples: st.SearchStrategy[dict[str, Any]]
    hint: str = ""
    count: int = EXAMPLES
    seconds: float = SECONDS


def check(
    points: float,
    title: str,
    *functions: str,
    examples: st.SearchStrategy[dict[str, Any]] | None = None,
    hint: str = "",
    count: int = EXAMPLES,
    seconds: float = SECONDS,
) -> Callable[[Callable[..., None]], Check]:
    """Make a property, a function (work, **example), into a `Check` that has its name; the arguments are those of `Check`.

    examples: by default the property is called once, with `work` alone.
    """
    if not functions or not all(isinstance(name, str) for name in functions):
        raise PerakitError(f"check {title!r} names no function: after the title come the names that a submission has to define")
    if isinstance(points, bool) or not isinstance(points, int | float) or not points >= 0:
        raise PerakitError(f"check {title!r} is worth {points!r} points: give a number >= 0")
    check_count(f"count of check {title!r}", count)

    def decorate(test: Callable[..., None]) -> Check:
        return Check(test.__name__, points, title, functions, test, st.just({}) if examples is None else examples, hint, count, seconds)

    return decorate


# --- examples: small and whole, so that they are exact, and can be read in a message --------------------------------

LARGEST = {"m": 2, "n": 3, "r": 3}  # of the sizes that shapes name; others go up to 2


@st.composite
def arrays(draw: st.DrawFn, /, **arguments: Any) -> dict[str, Any]:
    """Arguments for a property: `arrays(B="m r", A="r n", alpha=st.integers(1, 8))`.

    A string is the shape of a float64 array with whole entries in -3 ... 3; its letters are sizes, the same in all shapes,
    1 ... `LARGEST`. Anything else is a strategy. Shrinks to the size 1 and to zeros.
    """
    shapes = {name: argument.split() for name, argument in arguments.items() if isinstance(argument, str)}
    letters = sorted({letter for shape in shapes.values() for letter in shape})
    sizes = {letter: draw(st.integers(1, LARGEST.get(letter, 2))) for letter in letters}
    drawn = {}
    for name, argument in arguments.items():
        if name in shapes:
            # Drawn in full size and cut, so that the entries stay where they are while a size shrinks; and turned round,
            # since Hypothesis likes its last entries to be the ones that are not zero.
            full = np.flip(draw(_whole(*(LARGEST.get(letter, 2) for letter in shapes[name]))))
            drawn[name] = full[tuple(slice(sizes[letter]) for letter in shapes[name])].copy()
        else:
            drawn[name] = draw(argument)
    return drawn


def _whole(*shape: int) -> st.SearchStrategy[np.ndarray]:
    size = math.prod(shape)
    entries = st.lists(st.integers(-3, 3), min_size=size, max_size=size)
    return entries.map(lambda values: np.array(values, dtype=np.float64).reshape(shape))


# --- what a property says --------------------------------------------------------------------------------------------


def fail(sentence: str) -> NoReturn:
    """The property does not hold, because of `sentence`."""
    raise Wrong(sentence)


def expect(condition: Any, sentence: str) -> None:
    """Fail with `sentence` unless `condition` holds."""
    if not condition:
        fail(sentence)


def expect_equal(got: Any, expected: Any, tolerance: float = 1e-9, what: str = "") -> None:
    """Fail unless `got` has the shape of `expected` and its entries, to `tolerance` of the largest of them (1 at least).

    what: a few words on which value this is, where a property compares several.
    """
    of = f"{what}: " if what else ""
    if got is None:
        fail(f"{of}expected {show(expected)} got None: is a `return` missing?")
    try:
        if np.iscomplexobj(got):
            raise TypeError("complex")  # the cast would drop a part of it
        mine, theirs = np.asarray(_plain(expected), dtype=float), np.asarray(_plain(got), dtype=float)
    except (TypeError, ValueError):
        fail(f"{of}expected {show(expected)} got {type(got).__name__} {show(got)}")
    if theirs.shape != mine.shape:
        fail(f"{of}expected {show(expected)} of shape {mine.shape} got {show(got)} of shape {theirs.shape}")
    scale = max(1.0, np.abs(mine).max(initial=0))
    if not (np.abs(mine - theirs) <= tolerance * scale).all():  # so that nan fails
        fail(f"{of}expected {show(expected)} got {show(got)}")


def show(value: Any) -> str:
    """A value as one line: [[1,0],[2,3]], numbers to six digits, large arrays by their shape."""
    value = _plain(value)
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, np.ndarray):
        if value.size > SHOWN:
            return f"an array of shape {value.shape}"
        if value.dtype.kind not in "biuf":
            return repr(value.tolist())[:200]
        text = np.array2string(value, separator=",", precision=6, max_line_width=10**6)
        return text.replace("\n", "").replace(" ", "")
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        return " ".join(f"{name}={show(entry)}" for name, entry in value.items())
    if isinstance(value, list | tuple):
        return f"{'[' if isinstance(value, list) else '('}{', '.join(map(show, value))}{']' if isinstance(value, list) else ')'}"
    return repr(value)[:200]


def _plain(value: Any) -> Any:
    """A tensor as an array; the rest as it is."""
    return value.detach().numpy() if hasattr(value, "detach") else value


# --- the student's functions -----------------------------------------------------------------------------------------


class Functions:
    """The functions of a submission as attributes: called with copies, and what they raise is a `Wrong` that says where."""

    def __init__(self, work: Work) -> None:
        self._work = work

    def __getattr__(self, name: str) -> Callable[..., Any]:
        function = self._work.names[name]

        def call(*arguments: Any, **options: Any) -> Any:
            given = [_copy(value) for value in arguments], {key: _copy(value) for key, value in options.items()}
            try:
                got = function(*given[0], **given[1])
            except (OutOfTime, Wrong):
                raise
            except NotImplementedError:
                raise NotWritten(f"{name} is not written yet: it still raises NotImplementedError") from None
            except BaseException as error:
                raise Wrong(f"{name}: {explain(error, self._work)}{shadowed(self._work)}") from None
            for before, after in zip([*arguments, *options.values()], [*given[0], *given[1].values()], strict=True):
                if not _same(before, after):
                    fail(f"{name} changes its argument {show(before)} in place, to {show(after)}: copy it first")
            return got

        return call


def _copy(value: Any) -> Any:
    return value.detach().clone() if hasattr(value, "detach") else copy.deepcopy(value)


def _same(before: Any, after: Any) -> bool:
    """Whether an argument is what it was: arrays, tensors, and lists of them; of other objects nothing is said."""
    before, after = _plain(before), _plain(after)
    if isinstance(before, np.ndarray):
        return np.array_equal(before, after, equal_nan=before.dtype.kind in "fc")
    if isinstance(before, list | tuple):
        return type(before) is type(after) and len(before) == len(after) and all(map(_same, before, after))
    return not isinstance(before, int | float | Fraction) or before == after or before != before


def shadowed(work: Work) -> str:
    """A warning of names that the submission took away from Python or from a library; else nothing."""
    names = {name: value for name, value in work.names.items() if not name.startswith("_")}
    taken = [name for name, value in names.items() if name in vars(builtins) and not callable(value)]
    taken += [name for name in MODULES if not isinstance(names.get(name, types), types.ModuleType)]
    if not taken:
        return ""
    named = ", ".join(f"`{name}` (now {show(work.names[name])[:40]})" for name in taken)
    return f"; your file gives another meaning to {named}: rename that variable"


# --- time ------------------------------------------------------------------------------------------------------------

PATIENCE = 2  # seconds on the clock for each second of computing that a check has


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise `OutOfTime` after that many seconds of computing, or `PATIENCE` times as many of sleeping.

    Only in the main thread, and where there are signals. On a busy machine computing takes longer, and costs nobody a point.
    """

    def ring(*_: object) -> None:
        OutOfTime.rang = True
        raise OutOfTime

    OutOfTime.rang = False
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return
    clocks = ((signal.ITIMER_PROF, signal.SIGPROF, seconds), (signal.ITIMER_REAL, signal.SIGALRM, PATIENCE * seconds))
    before = [signal.signal(bell, ring) for _, bell, _ in clocks]
    try:
        for clock, _, after in clocks:
            signal.setitimer(clock, after, 0.5)  # again and again, for an `except:` that swallowed the first
        yield
    finally:
        for (clock, bell, _), handler in zip(clocks, before, strict=True):
            signal.setitimer(clock, 0)
            signal.signal(bell, handler)


# --- one check -------------------------------------------------------------------------------------------------------


def examine(check: Check, work: Work) -> str:
    """Why the check fails, in a sentence; nothing if it holds.

    The sentence has the smallest input that Hypothesis found, expected and got.
    """
    missing = [name for name in check.functions if not callable(work.names.get(name))]
    if missing:
        return _missing(missing, work)
    functions = Functions(work)
    wrong: dict[str, str] = {}
    current: dict[str, Any] = {}

    def holds(**example: Any) -> bool:
        current.update(example)
        wrong.pop("said", None)
        try:
            check.test(functions, **example)
        except NotWritten:
            raise
        except NotImplementedError:  # a method of a class
            raise NotWritten(f"{', '.join(check.functions)} is not written yet: a part still raises NotImplementedError") from None
        except Wrong as error:
            wrong["said"] = str(error)
        except Exception as error:  # in a method of the student's class; or in the check itself, on what it was given
            where = explain(error, work)
            if where == sentence(error):  # no line of the submission is in it
                raise
            wrong["said"] = f"{where}{shadowed(work)}"
        if "said" in wrong:
            wrong["last"] = _said(example, wrong["said"])
        return "said" not in wrong

    try:
        found, _ = search(check.examples, holds, SEED, check.count)
        steady = found is None or not any(holds(**found) for _ in range(AGAIN))
    except NotWritten as error:
        return str(error)
    except (OutOfTime, HypothesisException):
        if OutOfTime.rang:
            late = f"it did not finish within {check.seconds:g} s: an endless loop, or a sleep?"
            return wrong.get("last") or _said(current, late)
        steady = False
    except Exception as error:  # not the student's function: what the check itself relies on is broken
        changed = "does your file put something of its own into a library, such as np.dot = ...?"
        return f"the check itself stopped with {type(error).__name__}: {str(error)[:200]}; {changed}{shadowed(work)}"
    if not steady:
        return f"{', '.join(check.functions)} gives two answers for the same input: is something random, or remembered between calls?"
    return "" if found is None else _said(found, wrong["said"])


def _said(example: Mapping[str, Any], sentence: str) -> str:
    return f"smallest input that breaks it: {show(example)} · {sentence}" if example else sentence


def _missing(names: list[str], work: Work) -> str:
    which = ", ".join(f"`{name}`" for name in names)
    wrong = [name for name in names if name in work.names]
    said = f"{which} is no function: define it with `def`" if wrong else f"your file does not define {which}"
    return f"{said}; {'; '.join(work.problems[:3])}" if work.problems else said
