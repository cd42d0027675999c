"""One check, put to what a submission defines.

The student's functions, a limit of time, and the answer in a sentence.
"""

from __future__ import annotations

import builtins
import copy
import signal
import threading
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from fractions import Fraction
from typing import Any

import numpy as np
from hypothesis.errors import HypothesisException

from perakit.classroom.checks import Check, Wrong, fail, plain, show, show_arguments
from perakit.classroom.submission import Work, explain, sentence
from perakit.theory.claims import search

SEED = 0
AGAIN = 8  # times that the smallest input is tried once more: does it always fail?
PATIENCE = 2  # seconds on the clock for each second of computing that a check has
# Names that mean a library in every assignment
MODULES = ("np", "numpy", "torch", "nn", "pk", "perakit", "math", "plt")


# No Exception, since Hypothesis would look for a simpler input of one
class NotWritten(BaseException):
    """The student has not begun, and no input says more about it."""


class OutOfTime(BaseException):
    """The check's time is over. No `except Exception` of a student's stops it.

    rang: whether it is; Hypothesis may make another exception of one that reaches it while it draws
    an example.
    """

    rang = False


# --- the student's functions ----------------------------------------------------------------------


class Functions:
    """The functions of a submission as attributes.

    They are called with copies, and what they raise is a `Wrong` that says where.
    """

    def __init__(self, work: Work) -> None:
        self._work = work

    def __getattr__(self, name: str) -> Callable[..., Any]:
        function = self._work.names[name]

        def call(*arguments: Any, **options: Any) -> Any:
            given = (
                [_copy(value) for value in arguments],
                {key: _copy(value) for key, value in options.items()},
            )
            try:
                got = function(*given[0], **given[1])
            except (OutOfTime, Wrong):
                raise
            except NotImplementedError:
                raise NotWritten(
                    f"{name} is not written yet: it still raises NotImplementedError"
                ) from None
            except BaseException as error:
                raise Wrong(f"{name}: {explain(error, self._work)}{shadowed(self._work)}") from None
            for before, after in zip(
                [*arguments, *options.values()], [*given[0], *given[1].values()], strict=True
            ):
                if not _same(before, after):
                    fail(
                        f"{name} changes its argument {show(before)} in place, to {show(after)}:"
                        " copy it first"
                    )
            return got

        return call


def _copy(value: Any) -> Any:
    return value.detach().clone() if hasattr(value, "detach") else copy.deepcopy(value)


def _same(before: Any, after: Any) -> bool:
    """Whether an argument is what it was: arrays, tensors, and lists of them.

    Of other objects nothing is said.
    """
    before, after = plain(before), plain(after)
    if isinstance(before, np.ndarray):
        return np.array_equal(before, after, equal_nan=before.dtype.kind in "fc")
    if isinstance(before, list | tuple):
        return (
            type(before) is type(after)
            and len(before) == len(after)
            and all(map(_same, before, after))
        )
    return not isinstance(before, int | float | Fraction) or before == after or before != before


def shadowed(work: Work) -> str:
    """A warning of names that the submission took from Python or a library; else nothing."""
    names = {name: value for name, value in work.names.items() if not name.startswith("_")}
    taken = [
        name for name, value in names.items() if name in vars(builtins) and not callable(value)
    ]
    taken += [name for name in MODULES if not isinstance(names.get(name, types), types.ModuleType)]
    if not taken:
        return ""
    named = ", ".join(f"`{name}` (now {show(work.names[name])[:40]})" for name in taken)
    return f"; your file gives another meaning to {named}: rename that variable"


# --- time -----------------------------------------------------------------------------------------


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise `OutOfTime` after that many seconds of computing.

    Or after `PATIENCE` times as many of sleeping.
    Only in the main thread, and where there are signals. On a busy machine computing takes longer,
    and costs nobody a point.
    """

    def ring(*_: object) -> None:
        OutOfTime.rang = True
        raise OutOfTime

    OutOfTime.rang = False
    if (
        not hasattr(signal, "setitimer")
        or threading.current_thread() is not threading.main_thread()
    ):
        yield
        return
    clocks = (
        (signal.ITIMER_PROF, signal.SIGPROF, seconds),
        (signal.ITIMER_REAL, signal.SIGALRM, PATIENCE * seconds),
    )
    before = [signal.signal(bell, ring) for _, bell, _ in clocks]
    try:
        for clock, _, after in clocks:
            # Again and again, for an `except:` that swallowed the first
            signal.setitimer(clock, after, 0.5)
        yield
    finally:
        for (clock, bell, _), handler in zip(clocks, before, strict=True):
            signal.setitimer(clock, 0)
            signal.signal(bell, handler)


# --- one check ------------------------------------------------------------------------------------


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
            raise NotWritten(
                f"{', '.join(check.functions)} is not written yet: a part still raises"
                " NotImplementedError"
            ) from None
        except Wrong as error:
            wrong["said"] = str(error)
        # In a method of the student's class; or in the check itself, on what it was given
        except Exception as error:
            where = explain(error, work)
            if where == sentence(error):  # no line of the submission is in it
                raise
            wrong["said"] = f"{where}{shadowed(work)}"
        if "said" in wrong:
            wrong["last"] = _said(example, wrong["said"], "an input that breaks it")
        return "said" not in wrong

    try:
        found, _ = search(check.examples, holds, SEED, check.count)
        steady = found is None or not any(holds(**found) for _ in range(AGAIN))
    except NotWritten as error:
        return str(error)
    except (OutOfTime, HypothesisException):
        if OutOfTime.rang:
            late = f"it did not finish within {check.seconds:g} s: an endless loop, or a sleep?"
            return wrong.get("last") or _said(current, late, "an input that breaks it")
        steady = False
    # Not the student's function: what the check itself relies on is broken
    except Exception as error:
        changed = "does your file put something of its own into a library, such as np.dot = ...?"
        return (
            f"the check itself stopped with {type(error).__name__}: {str(error)[:200]};"
            f" {changed}{shadowed(work)}"
        )
    if not steady:
        return (
            f"{', '.join(check.functions)} gives two answers for the same input: is something"
            " random, or remembered between calls?"
        )
    return "" if found is None else _said(found, wrong["said"])


def _said(
    example: Mapping[str, Any], sentence: str, which: str = "smallest input that breaks it"
) -> str:
    return f"{which}: {show_arguments(example)} · {sentence}" if example else sentence


def _missing(names: list[str], work: Work) -> str:
    which = ", ".join(f"`{name}`" for name in names)
    wrong = [name for name in names if name in work.names]
    said = (
        f"{which} is no function: define it with `def`"
        if wrong
        else f"your file does not define {which}"
    )
    return f"{said}; {'; '.join(work.problems[:3])}" if work.problems else said
