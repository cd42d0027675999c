"""One check, put to a submission: the student's functions, and the answer in a sentence.

The functions are somewhere else, in a student's process or in a notebook's kernel. Here are only
requests and plain values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from hypothesis.errors import HypothesisException

from perakit.classroom.checks import Check, Wrong, fail, show, show_arguments
from perakit.classroom.process import EndedError
from perakit.classroom.wire import Encoder, Reference, decode
from perakit.theory.claims import search

SEED = 0
AGAIN = 8  # times that the smallest input is tried once more: does it always fail?

Message = dict[str, Any]
# What answers a request; functions of the check's own that go with it are called by the second
Answer = Callable[[Message, Callable[[Message], Message]], Message]


@dataclass(frozen=True)
class Finding:
    """Why a check fails, in a sentence; empty if it holds.

    begun: False while the student has not written the function, and no hint helps.
    """

    said: str = ""
    begun: bool = True


# No Exception, since Hypothesis would look for a simpler input of one
class Stopped(BaseException):
    """No further input says more: the function is not written, is too slow, or has crashed.

    example: whether the input is of interest.
    """

    def __init__(self, finding: Finding, example: bool = True) -> None:
        super().__init__(finding.said)
        self.finding, self.example = finding, example


# --- the student's functions ----------------------------------------------------------------------


class Functions:
    """The functions of a submission as attributes.

    They are called with copies, and what they raise is a `Wrong` that says where.
    """

    def __init__(self, check: Check, answer: Answer) -> None:
        self._check, self._answer = check, answer
        self._kept: list[Any] = []  # functions of the check that a student's function may call
        self._refused = ""
        self._last: Any = None  # what came back last

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *arguments, **options: self._call(name, arguments, options)

    def _call(self, of: str | int, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        self._kept.clear()
        encode = Encoder(self._keep)
        request = {"arguments": encode(list(arguments)), "options": encode(options)}
        return self._request({"of": of} | request, [*arguments, *options.values()])

    def _request(self, request: Message, given: list[Any]) -> Any:
        try:
            reply = self._answer(request, self._asked)
        except EndedError as error:
            raise Stopped(Finding(str(error))) from error
        self._refused = self._refused or _text(reply.get("refused"), 400)
        if reply.get("late"):
            late = (
                f"it did not finish within {self._check.seconds:g} s: an endless loop, or a sleep?"
            )
            raise Stopped(Finding(late))
        if "unwritten" in reply:
            said = self._unwritten(_text(reply["unwritten"], 80))
            raise Stopped(Finding(said, begun=False), False)
        if "raised" in reply:
            fail(_text(reply["raised"], 2000) or "it raises something, and does not say what")
        try:
            value = decode(reply["value"], self._refer)
            if "changed" in reply and self._check.alone:
                place, name, after = reply["changed"]
                fail(
                    f"{_text(name, 80)} changes its argument {show(given[place])} in place, to"
                    f" {show(decode(after, self._refer))}: copy it first"
                )
        except (KeyError, ValueError, TypeError, IndexError, RecursionError) as error:
            raise Stopped(Finding("what it sent to the grader is no value")) from error
        self._last = value
        return value

    def _unwritten(self, name: str) -> str:
        if name:
            return f"{name} is not written yet: it still raises NotImplementedError"
        functions = ", ".join(self._check.functions)
        return f"{functions} is not written yet: a part still raises NotImplementedError"

    def _keep(self, value: Any) -> int:
        if isinstance(value, Remote):
            return -1 - value._reference.number
        self._kept.append(value)
        return len(self._kept) - 1

    def _refer(self, reference: Reference) -> Remote:
        return Remote(self, reference)

    def _asked(self, message: Message) -> Message:
        """What a check's function answers to the student's: a value, or why there is none."""
        try:
            function = self._kept[message["ask"]]
            value = function(*decode(message["arguments"], self._refer))
            return {"value": Encoder(self._keep)(value)}
        except Exception as error:
            return {"raised": f"{type(error).__name__}: {str(error)[:300]}"}


class Remote:
    """An object of the student's, such as an instance of a class.

    Its attributes and methods are those of the object; what they return is plain again.
    """

    def __init__(self, functions: Functions, reference: Reference) -> None:
        self._functions, self._reference = functions, reference

    def __getattr__(self, name: str) -> Any:
        # NumPy asks for such names; a student's object has no say, and an array crosses as one
        if name.startswith("__") or name == "dtype":
            raise AttributeError(name)
        if name == "kind":  # of its type, as `checks.kind` asks
            return self._reference.kind
        return self._functions._request({"of": self._reference.number, "attribute": name}, [])

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """What the object returns, if it is a function or a method."""
        return self._functions._call(self._reference.number, arguments, options)

    def __repr__(self) -> str:
        return self._reference.text


# --- one check ------------------------------------------------------------------------------------


def examine(check: Check, answer: Answer) -> Finding:
    """Why the check fails; an empty finding if it holds.

    The sentence has the smallest input that Hypothesis found, expected and got.
    """
    functions = Functions(check, answer)
    found = _searched(check, functions)
    if functions._refused and functions._refused not in found.said:
        said = f"{functions._refused}; {found.said}" if found.said else functions._refused
        return Finding(said)
    return found


def _searched(check: Check, functions: Functions) -> Finding:
    wrong: dict[str, str] = {}
    current: dict[str, Any] = {}

    def holds(**example: Any) -> bool:
        current.clear()
        current.update(example)
        wrong.pop("said", None)
        try:
            check.test(functions, **example)
        except Wrong as error:
            wrong["said"] = str(error) or "it does not hold"
        except Exception as error:  # in a line of the check, on what the function returned
            wrong["said"] = (
                f"the check itself stopped with {type(error).__name__}: {str(error)[:200]}, on what"
                f" it got: {show(functions._last)[:2000]}"
            )
        if "said" in wrong:
            wrong["last"] = _said(example, wrong["said"], "an input that breaks it")
        return "said" not in wrong

    try:
        found, _ = search(check.examples, holds, SEED, check.count)
        steady = found is None or not any(holds(**found) for _ in range(AGAIN))
    except Stopped as stop:
        if not stop.example:
            return stop.finding
        said = _said(current, stop.finding.said, "an input that breaks it")
        return Finding(wrong.get("last", said))
    except HypothesisException:
        steady = False
    if not steady:
        names = ", ".join(check.functions)
        return Finding(
            f"{names} gives two answers for the same input: is something random, or remembered"
            " between calls?"
        )
    return Finding() if found is None else Finding(_said(found, wrong["said"]))


def _text(value: Any, most: int) -> str:
    """What a submission's process says, if it is text."""
    return value[:most] if isinstance(value, str) else ""


def _said(
    example: Mapping[str, Any], sentence: str, which: str = "smallest input that breaks it"
) -> str:
    return f"{which}: {show_arguments(example)} · {sentence}" if example else sentence
