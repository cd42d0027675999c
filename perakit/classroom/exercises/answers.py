"""What an answer has to be before anyone can judge it: a number, an array, several values.

Each function returns the answer in that form, or fails with a sentence that says the form.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perakit.classroom.checks import expect, fail

__all__ = ["array", "arrays", "function", "number", "several", "whole"]


def number(answer: Any, what: str = "The answer") -> float:
    """A finite real number; also an array of one entry.

    what: begins the sentence where it is none, which is raised as `checks.Wrong`.

    >>> from perakit.classroom.exercises.answers import number
    >>> number([0.5])
    0.5
    """
    values = array(answer, what)
    if values.size != 1 or isinstance(answer, bool):
        fail(f"{what} is to be one number.")
    return float(values.reshape(()))


def whole(answer: Any, what: str = "The answer") -> int:
    """A whole number, such as a rank or a count.

    what: begins the sentence where it is none, which is raised as `checks.Wrong`.

    >>> from perakit.classroom.exercises.answers import whole
    >>> whole(3.0)
    3
    """
    value = number(answer, what)
    expect(value == math.floor(value), f"{what} is to be a whole number.")
    return int(value)


def array(
    answer: Any, what: str = "The answer", shape: tuple[int, ...] | None = None
) -> NDArray[np.float64]:
    """An array of finite real numbers, as float64: of lists, an array, a tensor or fractions.

    what: begins the sentence where it is none, which is raised as `checks.Wrong`; shape: what it
    has to have, None for any.

    >>> from perakit.classroom.exercises.answers import array
    >>> array([[1, 2]], shape=(1, 2))
    array([[1., 2.]])
    """
    try:
        found = np.asarray(answer.detach() if hasattr(answer, "detach") else answer)
        # The cast would drop a part of a complex number
        values = np.array(found.real if found.dtype.kind == "c" else found, dtype=np.float64)
    except (TypeError, ValueError):
        fail(f"{what} is to be made of numbers.")
    if found.dtype.kind == "c" or not np.isfinite(values).all():
        fail(f"{what} is to be made of finite real numbers.")
    if shape is not None and values.shape != shape:
        fail(f"{what} has the shape {values.shape}, and is to have {shape}.")
    return values


def arrays(answer: Any, **shapes: tuple[int, ...] | None) -> list[NDArray[np.float64]]:
    """Several arrays, as `array` reads each, in the order of their names.

    shapes: by the name of an array, None for any.

    >>> from perakit.classroom.exercises.answers import arrays
    >>> b, a = arrays(([[1], [2]], [[3, 4]]), b=(2, 1), a=None)
    >>> b @ a
    array([[3., 4.],
           [6., 8.]])
    """
    found = several(answer, *shapes)
    return [array(value, name, shapes[name]) for name, value in zip(shapes, found, strict=True)]


def several(answer: Any, *names: str) -> Sequence[Any]:
    """As many values as there are names: a tuple or a list.

    names: one for each value, as the sentence says them where it is none (`checks.Wrong`).

    >>> from perakit.classroom.exercises.answers import several
    >>> several((1, "two"), "a number", "a word")
    (1, 'two')
    """
    if not isinstance(answer, tuple | list) or len(answer) != len(names):
        fail(f"The answer is to be {len(names)} values: ({', '.join(names)}).")
    return answer


def function(answer: Any, arguments: str) -> Callable[..., Any]:
    """A function, which the check calls on inputs of its own.

    arguments: as the sentence says them where it is none (`checks.Wrong`).

    >>> from perakit.classroom.exercises.answers import function
    >>> function(len, "(values)")([1, 2])
    2
    """
    if not callable(answer):
        fail(f"The answer is to be a function of {arguments}: give its name, and do not call it.")
    return answer
