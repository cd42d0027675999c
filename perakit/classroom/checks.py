"""What an assignment checks: properties of the functions that a student writes, each worth points.

    @check(2, "scaling is alpha/r", "update", examples=factors_and_alpha(), hint="r is the number of
    rows of A") def scaling(work, B, A, alpha):
        expect_equal(work.update(B, A, alpha), alpha / A.shape[0] * (B @ A))

A property calls the student's functions as attributes of `work` and says what it expects.
Hypothesis looks for an input that breaks it, and the student sees the smallest. That none was found
is not a proof: it is what a grader can do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
from hypothesis import strategies as st

from perakit.errors import PerakitError
from perakit.formulas import check_count

EXAMPLES, SECONDS = 60, 6.0
SHOWN = 24  # entries of an array that a message shows


class Wrong(Exception):  # noqa: N818 - it is an answer, not an error
    """A property that does not hold: says so in a sentence."""


@dataclass(frozen=True)
class Check:
    """One property of some functions, and what it is worth.

    id: its name in the assignment; points: all or none; title: what holds, in a few words;
    functions: the names that a submission has to define for it; test: the property, (work,
    **example) -> None, which calls `expect...`;
    examples: a Hypothesis strategy of dicts, the arguments of `test`; hint: what to think about
    after a failure; count: how many examples; seconds: of computing for the student's functions,
    after which it ends with no points; alone: whether a function that changes an argument in place
    fails (by default that is for other checks to find).
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
    alone: bool = False


def check(
    points: float,
    title: str,
    *functions: str,
    examples: st.SearchStrategy[dict[str, Any]] | None = None,
    hint: str = "",
    count: int = EXAMPLES,
    seconds: float = SECONDS,
    alone: bool = False,
) -> Callable[[Callable[..., None]], Check]:
    """Make a property, a function (work, **example), into a `Check` that has its name.

    The arguments are those of `Check`.
    examples: by default the property is called once, with `work` alone.
    """
    if not functions or not all(isinstance(name, str) for name in functions):
        raise PerakitError(
            f"check {title!r} names no function: after the title come the names that a submission"
            " has to define"
        )
    if isinstance(points, bool) or not isinstance(points, int | float) or not points >= 0:
        raise PerakitError(f"check {title!r} is worth {points!r} points: give a number >= 0")
    check_count(f"count of check {title!r}", count)

    def decorate(test: Callable[..., None]) -> Check:
        return Check(
            test.__name__,
            points,
            title,
            functions,
            test,
            st.just({}) if examples is None else examples,
            hint,
            count,
            seconds,
            alone,
        )

    return decorate


# --- examples: small and whole, so that they are exact, and can be read in a message --------------

LARGEST = {"m": 2, "n": 3, "r": 3}  # of the sizes that shapes name; others go up to 2


@st.composite
def arrays(draw: st.DrawFn, /, **arguments: Any) -> dict[str, Any]:
    """Arguments for a property: `arrays(B="m r", A="r n", alpha=st.integers(1, 8))`.

    A string is the shape of a float64 array with whole entries in -3 ... 3; its letters are sizes,
    the same in all shapes, 1 ... `LARGEST`. Anything else is a strategy. Shrinks to the size 1 and
    to zeros.
    """
    shapes = {
        name: argument.split() for name, argument in arguments.items() if isinstance(argument, str)
    }
    letters = sorted({letter for shape in shapes.values() for letter in shape})
    sizes = {letter: draw(st.integers(1, LARGEST.get(letter, 2))) for letter in letters}
    drawn = {}
    for name, argument in arguments.items():
        if name in shapes:
            # Drawn in full size and cut, so that the entries stay where they are while a size
            # shrinks; and turned round, since Hypothesis likes its last entries to be the ones that
            # are not zero.
            full = np.flip(draw(_whole(*(LARGEST.get(letter, 2) for letter in shapes[name]))))
            drawn[name] = full[tuple(slice(sizes[letter]) for letter in shapes[name])].copy()
        else:
            drawn[name] = draw(argument)
    return drawn


def _whole(*shape: int) -> st.SearchStrategy[np.ndarray]:
    size = math.prod(shape)
    entries = st.lists(st.integers(-3, 3), min_size=size, max_size=size)
    return entries.map(lambda values: np.array(values, dtype=np.float64).reshape(shape))


# --- what a property says -------------------------------------------------------------------------


def fail(sentence: str) -> NoReturn:
    """The property does not hold, because of `sentence`."""
    raise Wrong(sentence)


def expect(condition: Any, sentence: str) -> None:
    """Fail with `sentence` unless `condition` holds."""
    if not condition:
        fail(sentence)


def expect_equal(got: Any, expected: Any, tolerance: float = 1e-9, what: str = "") -> None:
    """Fail unless `got` has the shape of `expected`, and its entries.

    They may differ by `tolerance` of the largest of them (1 at least).
    what: a few words on which value this is, where a property compares several.
    """
    of = f"{what}: " if what else ""
    if got is None:
        fail(f"{of}expected {show(expected)} got None: is a `return` missing?")
    try:
        if np.iscomplexobj(got):
            raise TypeError("complex")  # the cast would drop a part of it
        mine, theirs = np.asarray(expected, dtype=float), np.asarray(got, dtype=float)
    except (TypeError, ValueError, OverflowError):
        fail(f"{of}expected {show(expected)} got {kind(got)} {show(got)}")
    if theirs.shape != mine.shape:
        fail(
            f"{of}expected {show(expected)} of shape {mine.shape} got {show(got)} of shape"
            f" {theirs.shape}"
        )
    scale = max(1.0, np.abs(mine).max(initial=0))
    if not (np.abs(mine - theirs) <= tolerance * scale).all():  # so that nan fails
        wanted, found = show(expected), show(got)
        gap = (
            f", which differs by {np.abs(mine - theirs).max():.1g}: was it rounded, to float32"
            " perhaps?"
            if wanted == found
            else ""
        )
        fail(f"{of}expected {wanted} got {found}{gap}")


def parts(got: Any, *names: str) -> Any:
    """What a function returned, as so many values; fails, with their names, if it is anything else.

    names: one for each value, as the message says them.
    """
    several = isinstance(got, tuple | list) or (isinstance(got, np.ndarray) and got.ndim > 0)
    if not several or len(got) != len(names):
        fail(
            f"expected {len(names)} values, ({', '.join(names)}), got {show(got)}: is the `return`"
            " complete?"
        )
    return got


def show(value: Any) -> str:
    """A value as one line: [[1,0],[2,3]], numbers to six digits, large arrays by their shape."""
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
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {show(entry)}" for name, entry in value.items()) + "}"
    if isinstance(value, list | tuple):
        inner = ", ".join(map(show, value))
        return f"[{inner}]" if isinstance(value, list) else f"({inner})"
    return repr(value)[:200]


def show_arguments(example: Mapping[str, Any]) -> str:
    """Arguments by name: A=[[1.]] alpha=2."""
    return " ".join(f"{name}={show(value)}" for name, value in example.items())


def kind(value: Any) -> str:
    """The name of a value's type, also of an object that is in the student's process."""
    return str(getattr(value, "kind", type(value).__name__))
