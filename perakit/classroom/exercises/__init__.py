"""Self-checks of the notebooks' exercises: right or wrong, and never the answer.

A lesson's checks stand in `lessonNN.py`, one function an exercise. It gets the student's answer and
says by `expect` or `fail` what does not hold yet.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

from perakit.classroom.checks import Wrong
from perakit.classroom.exercises.fold import folded
from perakit.errors import PerakitError, printable, short

__all__ = ["folded", "self_check"]


def self_check(exercise: str, answer: Any = ...) -> None:
    """Print whether the answer to an exercise of a notebook is right; the answer is never shown.

    exercise: "01.2" is exercise 2 of notebook 01; answer: what the exercise asks for; `...`, its
    default, is an exercise that nobody has begun. A wrong answer is no error, so that a notebook
    runs to its end. Raises PerakitError for an exercise that there is not.

    >>> self_check("01.1")
    Exercise 1: not answered yet.
    """
    lesson, _, number = str(exercise).partition(".")
    home = f"{__name__}.lesson{lesson}"
    checks = import_module(home).CHECKS if lesson.isdigit() and find_spec(home) else {}
    if not number.isdigit() or int(number) not in checks:
        raise PerakitError(
            f"no exercise {short(exercise)}: give notebook and exercise as the cell had it, such as"
            ' "01.2"'
        )
    if answer is ...:
        print(f"Exercise {number}: not answered yet.")
        return
    try:
        checks[int(number)](answer)
    except Wrong as error:
        said = str(error)
    except Exception as error:  # the answer is a function that raises, or has another type
        said = f"{type(error).__name__}: {error}"
    else:
        print(f"Exercise {number}: right.")
        return
    print(printable(f"Exercise {number}: not yet. {said}")[:600])
