"""The shapes that docstrings state, read and held to what functions take and return.

The grammar is the docstrings' own: `name (dims)` states an argument, and what follows "Returns" or
", returns" in the same sentence states the result.

    B (m, r), A (r, n), h (K - r,); returns ΔW (m, n)
    B1, B2 (m, r)      magnitude g (m,)      E: target (m, n)      G = ∂L/∂ΔW (m, n)
    Returns (B_hat (m, K), A_hat (K, n))      Returns {"B" (m, r), "h" (K - r,)}

A dim is a letter, a whole number, `...` (any number of axes), or arithmetic: K - r, 2r, r²,
r(r+1)/2, ceil(m n / block). The same letter is the same size throughout one call; the name of an
argument that is an integer is its value.
"""

from __future__ import annotations

import inspect
import math
import re
import sys
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

import numpy as np
import torch

Dim = Any  # compiled arithmetic, or Ellipsis
TOKEN = re.compile(r"\.\.\.|[0-9]+|[^\W\d_²](?:[^\W²]|\u0302)*|[-+*/(),²]")
FUNCTIONS = {"ceil": math.ceil, "floor": math.floor, "min": min, "max": max}
LETTER = re.compile(r"[^\W\d_]\u0302?(_\w+)?")  # m, K, r̂, n_in
RESULT = re.compile(r"\bReturns\b|(?<=[,;]) returns\b")
SENTENCE_END = re.compile(r"\.\s+(?=[A-Z])|\n\s*\n|\n(?=Raises)")
# Arguments that end here, in a list; or one with the letter that the formula has for it
NAMED = re.compile(r"(?:^|[\s({,;.:])((?:\w+, )*\w+)(?: = [^\s,;]+)?$")
WITH_LETTER = re.compile(r"(?:^|[\s({,;.:])(\w+) [^\W\d_]$")
CLAUSE = re.compile(r"(?:^|[\s;.])(\w+):(?: [^,;:()]*)?$")
PROSE = re.compile(r"\b(?:an?|the|one|each|of|by)$")  # an (m, n) layer


@dataclass(frozen=True)
class Shape:
    """One stated shape: what it is of, how it is written, and its dims."""

    name: str
    text: str
    dims: tuple[Dim, ...] = field(compare=False)


@dataclass(frozen=True)
class Stated:
    """What a docstring states: shapes of arguments, of results, and those that are of neither."""

    arguments: tuple[Shape, ...]
    results: tuple[Shape, ...]
    loose: tuple[str, ...]


class UnsolvableError(Exception):
    """A stated dim leaves more than one letter open, so that nobody can tell whether it holds."""


# --- from a docstring to what it states -----------------------------------------------------------


def stated(function: Callable[..., Any]) -> Stated:
    """Read the docstring of a function."""
    parameters = inspect.signature(function).parameters
    known, text = set(parameters), _without_examples(inspect.cleandoc(function.__doc__ or ""))
    # (m, rank) is a shape where rank is an integer, (B, A) is none where they are arrays
    whole = {name for name, parameter in parameters.items() if _is_int(parameter.annotation)}
    regions = [(m.start(), _sentence_end(text, m.end())) for m in RESULT.finditer(text)]
    takes: list[Shape] = []
    gives: list[Shape] = []
    prose: list[str] = []
    for start, end in _parentheses(text):
        dims = parse(text[start + 1 : end], whole, known - whole)
        before, written = text[:start].rstrip(), " ".join(text[start : end + 1].split())
        if dims is None or text[start - 1 : start].strip(" \n(["):  # no shape, or a call: f(v, v)
            continue
        if any(left < start < right for left, right in regions):
            label = re.search(r'([^\s"(){},]*)"?$', before)
            named = label is not None and label[1] not in ("Returns", "returns")
            gives.append(Shape(label[1] if label and named else "", written, dims))
        elif names := _argument(before, known):
            takes += [Shape(name, written, dims) for name in names]
        elif not PROSE.search(before):
            prose.append(written)
    claimed = {shape.text for shape in takes + gives}
    return Stated(tuple(takes), tuple(gives), tuple(p for p in prose if p not in claimed))


def parse(
    text: str, names: Iterable[str] = (), others: Iterable[str] = ()
) -> tuple[Dim, ...] | None:
    """The dims in a pair of parentheses, or None where it holds something else.

    names: words that stand for a size, besides letters; others: words that do not.
    """
    parts = [part.strip() for part in _split(text)]
    if text.strip() and len(parts) == 1 and parts != ["..."]:
        return None  # (m) is no shape, (m,) is one
    if parts[-1] == "":
        parts.pop()
    dims = [_dim(part, set(names), set(others)) for part in parts]
    return None if any(dim is None for dim in dims) else tuple(dims)


def _dim(text: str, names: set[str], others: set[str]) -> Dim | None:
    if text == "...":
        return ...
    text = text.replace("−", "-").replace("·", "*").replace("^", "**")
    tokens = TOKEN.findall(text)
    if not tokens or "".join(tokens) != re.sub(r"\s", "", text):
        return None
    if "," in tokens and not {"min", "max"} & set(tokens):
        return None
    for token in tokens:
        known = token in names or token in FUNCTIONS or not token[0].isalpha()
        if token in others or token == "..." or not (known or LETTER.fullmatch(token)):
            return None
    source, previous = "", ""
    for token in tokens:
        operand = token == "(" or (token[0].isalnum() and token != "²")
        # 2r, m n, r(r+1): a product, but for the parenthesis of ceil(...)
        ended = previous and (previous[-1].isalnum() or previous[-1] in ")²\u0302")
        if operand and ended and not (token == "(" and previous in FUNCTIONS):
            source += "*"
        source += "**2" if token == "²" else token
        previous = token
    try:
        return compile(source, source, "eval")
    except SyntaxError:
        return None


def _split(text: str) -> list[str]:
    """At the commas that stand in no inner parenthesis."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter == "(") - (letter == ")")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def _parentheses(text: str) -> Iterator[tuple[int, int]]:
    """Where every pair opens and closes; what stands within a shape is not a pair of its own."""
    opened = []
    for place, letter in enumerate(text):
        if letter == "(":
            opened.append(place)
        elif letter == ")" and opened:
            yield opened.pop(), place


def _argument(before: str, known: set[str]) -> list[str]:
    """The arguments that a shape behind these words is of."""
    if match := NAMED.search(before):
        names = match[1].split(", ")
        # Of "where it is one, B1, B2" the names of arguments
        found = list(reversed(list(takewhile(known.__contains__, reversed(names)))))
        if found:
            return found
    for pattern in (WITH_LETTER, CLAUSE):
        if (match := pattern.search(before)) and match[1] in known:
            return [match[1]]
    return []


def _is_int(annotation: Any) -> bool:
    return annotation in (int, "int", "int | None")


def _sentence_end(text: str, start: int) -> int:
    match = SENTENCE_END.search(text, start)
    return match.start() if match else len(text)


def _without_examples(text: str) -> str:
    return re.sub(r"^\s*>>> .*?(?=\n\s*\n|\Z)", "", text, flags=re.MULTILINE | re.DOTALL)


# --- from what is stated to whether it holds ------------------------------------------------------


class Contract:
    """The docstring of one function, ready to be compared with a call."""

    def __init__(self, function: Callable[..., Any]) -> None:
        signature = inspect.signature(function)
        self.name = f"{function.__module__}.{function.__qualname__}"
        self.names = tuple(signature.parameters)
        self.defaults = {
            name: parameter.default
            for name, parameter in signature.parameters.items()
            if parameter.default is not parameter.empty
        }
        self.stated = stated(function)
        written = {name for shape in self.claims for dim in shape.dims for name in _names(dim)}
        self.sizes = tuple(name for name in self.names if name in written)
        self.seen: set[Any] = set()

    @property
    def claims(self) -> tuple[Shape, ...]:
        return self.stated.arguments + self.stated.results

    def lie(self, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any) -> str | None:
        """What the docstring says that this call shows to be wrong; None where all of it holds."""
        given = {**self.defaults, **dict(zip(self.names, args, strict=False)), **kwargs}
        sizes = {name: given[name] for name in self.sizes if type(given.get(name)) is int}
        found = self._found(given, result)
        if isinstance(found, str):
            return f"{self.name}: {found}"
        key = tuple(sizes.values()), tuple(found)
        if key in self.seen:
            return None
        try:
            wrong = disagreement(found, sizes)
        except UnsolvableError as error:
            wrong = str(error)
        if wrong is None:
            self.seen.add(key)
            return None
        return f"{self.name}: {wrong}"

    def checked(self, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any) -> set[Shape]:
        """The claims that this call puts to the test."""
        given = {**self.defaults, **dict(zip(self.names, args, strict=False)), **kwargs}
        found = self._found(given, result)
        return set() if isinstance(found, str) else {shape for shape, _ in found}

    def _found(
        self, given: Mapping[str, Any], result: Any
    ) -> list[tuple[Shape, tuple[int, ...]]] | str:
        """Every claim beside the shape that is there, or what is wrong with their number."""
        pairs = [(shape, actual(given.get(shape.name))) for shape in self.stated.arguments]
        claims = self.stated.results
        if claims and not (result is None or result is NotImplemented):
            if isinstance(result, dict):
                results = {str(key): value for key, value in result.items()}
                if {shape.name for shape in claims} != set(results):
                    return f"returns {sorted(results)}, documented {[s.name for s in claims]}"
                pairs += [(shape, actual(results[shape.name])) for shape in claims]
            else:
                several = result if isinstance(result, tuple) else (result,)
                shapes = [shape for shape in map(actual, several) if shape is not None]
                if shapes and len(shapes) != len(claims):
                    return f"returns {len(shapes)} arrays, documented {[s.text for s in claims]}"
                pairs += list(zip(claims, shapes, strict=False))
        return [(shape, size) for shape, size in pairs if size is not None]


def actual(value: Any) -> tuple[int, ...] | None:
    """The shape of an array or a nested list; None of what has none, or has symbols for sizes."""
    if isinstance(value, list):
        try:
            return np.shape(value)
        except ValueError:
            return None
    shape = getattr(value, "shape", None)
    whole = isinstance(shape, tuple) and all(isinstance(size, int) for size in shape)
    return tuple(shape) if whole else None


def disagreement(
    found: Iterable[tuple[Shape, tuple[int, ...]]], sizes: Mapping[str, int]
) -> str | None:
    """The first shape that does not fit the others, in words."""
    known: dict[str, Any] = dict(sizes)
    wanted: list[tuple[Shape, tuple[int, ...], Dim, int]] = []
    for shape, size in found:
        axes = _axes(shape, size, known)
        if axes is None:
            return _message(shape, size, known)
        wanted += [(shape, size, dim, axis) for dim, axis in axes]
    while wanted:
        entry = _next([dim for *_, dim, _ in wanted], set(known))
        shape, size, dim, axis = wanted.pop(entry)
        missing = _names(dim) - set(known)
        if len(missing) > 1:
            raise UnsolvableError(f"{shape.name} {shape.text} leaves {sorted(missing)} open")
        for letter in missing:
            known[letter] = _solve(dim, letter, known, axis)
        if _value(dim, known) != axis:
            return _message(shape, size, known)
    return None


def _axes(
    shape: Shape, size: tuple[int, ...], known: dict[str, Any]
) -> list[tuple[Dim, int]] | None:
    """Each dim beside the size of its axis, or None where their number differs."""
    if ... not in shape.dims:
        return list(zip(shape.dims, size, strict=True)) if len(size) == len(shape.dims) else None
    place, after = shape.dims.index(...), len(shape.dims) - shape.dims.index(...) - 1
    stop = len(size) - after
    if stop < place or known.setdefault("...", size[place:stop]) != size[place:stop]:
        return None
    dims = shape.dims[:place] + shape.dims[place + 1 :]
    return list(zip(dims, size[:place] + size[stop:], strict=True))


def _next(dims: Sequence[Dim], known: set[str]) -> int:
    """Which to look at next: a letter by itself says its size, arithmetic waits for the others."""
    missing = [len(_names(dim) - known) for dim in dims]
    ready = (i for i, dim in enumerate(dims) if _is_letter(dim) or missing[i] == 0)
    return next(ready, missing.index(min(missing)))


def _solve(dim: Dim, letter: str, known: Mapping[str, Any], wanted: int) -> float:
    """The letter's size: K of K - r, r of r²."""
    at_0, at_1 = (_value(dim, {**known, letter: value}) for value in (0, 1))
    if at_1 != at_0:
        linear = (wanted - at_0) / (at_1 - at_0)
        if _value(dim, {**known, letter: linear}) == wanted:
            return linear
    tried = range(wanted + 1)
    return next((v for v in tried if _value(dim, {**known, letter: v}) == wanted), 0)


def _value(dim: Dim, known: Mapping[str, Any]) -> float:
    return eval(dim, {"__builtins__": {}, **FUNCTIONS}, dict(known))


def _names(dim: Dim) -> set[str]:
    return set() if dim is ... else set(dim.co_names) - set(FUNCTIONS)


def _is_letter(dim: Dim) -> bool:
    return dim.co_names == (dim.co_filename,)


def _message(shape: Shape, size: Sequence[int], known: Mapping[str, Any] | None = None) -> str:
    letters = {k: int(v) if v == int(v) else v for k, v in (known or {}).items() if k != "..."}
    where = ", ".join(f"{name} = {value}" for name, value in letters.items())
    return f"{shape.name or 'result'} is documented {shape.text}, and is {tuple(size)}" + (
        f" where {where}" if where else ""
    )


# --- watching -------------------------------------------------------------------------------------

ROOMS = ("perakit.formulas", "perakit.models.nf4", "perakit.theory")


class Watch:
    """Every public function of ROOMS that states a shape, compared with each call of it.

    A function stays the object it is, since tables are keyed by functions, modules hold copies of
    them and pickles name them: what is exchanged is its code, and `resume` and `pause` take a
    millisecond. A lie is noted and not raised, since code under test may catch what is raised.
    """

    def __init__(self) -> None:
        self.lies: list[str] = []
        self.seen: set[types.FunctionType] = set()
        self.watched: dict[types.FunctionType, types.CodeType] = {}  # and the other code of each
        self.on = False
        self._modules = 0

    def resume(self) -> None:
        """Watch, also what has been imported since."""
        if len(sys.modules) != self._modules:
            self._modules = len(sys.modules)
            for function in documented():
                if function not in self.seen:
                    self.seen.add(function)
                    self._add(function)
        if not self.on:
            self.on = True
            for function in self.watched:
                _exchange(function, self.watched)

    def pause(self) -> None:
        """Leave every function as it was written."""
        if self.on:
            self.on = False
            for function in self.watched:
                _exchange(function, self.watched)

    def complaint(self) -> str:
        """What was noted since the last call, a line each."""
        noted, self.lies = list(dict.fromkeys(self.lies)), []
        return "\n".join(noted)

    def _add(self, function: types.FunctionType) -> None:
        """Make code for `function` that calls what it was, and compares."""
        contract = Contract(function)
        if not contract.claims or function.__code__.co_freevars or hasattr(function, "__wrapped__"):
            return
        original = types.FunctionType(
            function.__code__, function.__globals__, function.__name__, function.__defaults__
        )
        for name in ("__kwdefaults__", "__annotations__", "__doc__", "__module__", "__qualname__"):
            setattr(original, name, getattr(function, name))

        def watched(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            # torch.compile reads this as True, and nothing below
            if not torch.compiler.is_compiling():
                wrong = contract.lie(args, kwargs, result)
                if wrong is not None:
                    self.lies.append(wrong)
            return result

        watched.__wrapped__ = original  # type: ignore[attr-defined]
        function.__globals__.setdefault("__watched__", {})[function.__name__] = watched
        source = f"lambda *args, **kwargs: __watched__[{function.__name__!r}](*args, **kwargs)"
        shim = eval(compile(source, __file__, "eval")).__code__
        self.watched[function] = shim.replace(co_name=function.__name__)
        if self.on:
            _exchange(function, self.watched)


def _exchange(
    function: types.FunctionType, other: dict[types.FunctionType, types.CodeType]
) -> None:
    function.__code__, other[function] = other[function], function.__code__
    if hasattr(function, "__wrapped__"):
        del function.__wrapped__
    else:  # what `inspect.signature` and `inspect.getsource` follow
        function.__wrapped__ = function.__globals__["__watched__"][function.__name__].__wrapped__


def documented() -> Iterator[types.FunctionType]:
    """The public functions of ROOMS that are imported."""
    for name, module in list(sys.modules.items()):
        if name in ROOMS or name.startswith(ROOMS[-1] + "."):
            for function in list(vars(module).values()):
                own = isinstance(function, types.FunctionType) and function.__module__ == name
                if own and function.__doc__ and not function.__name__.startswith("_"):
                    yield function


WATCH = Watch()
