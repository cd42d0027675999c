"""A rule read once more: with arrays modulo a prime, and the derivatives that they carry along.

What is polynomial can be read so: + - * @ **, einsum, division by constants, indexing,
concatenation. The rest (exp, a root, division by a factor, a comparison, a write into a factor) is
refused by `NotPolynomialError`, which names it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from perakit.errors import PerakitError, short
from perakit.theory.field import product, reduce_, residues

TORCH_NAMES = {"dim": "axis", "keepdim": "keepdims"}


class NotPolynomialError(PerakitError):
    """The rule does what a prime field has not, or what `Residues` do not answer."""

    def __init__(self, operation: str) -> None:
        super().__init__(
            f"{operation} cannot be read modulo a prime: exact answers need a polynomial rule, of"
            " + - * @ **, indexing, np.concatenate, np.stack, np.einsum"
        )
        self.operation = operation


@dataclass(eq=False)
class Residues(np.lib.mixins.NDArrayOperatorsMixin):
    """An array of residues, its derivatives along `count` directions, and its degree.

    value: of any shape; prime: the modulus; along (count, *shape): the derivatives, None where they
    are zero; degree: at most this, as a polynomial in what was drawn.
    """

    value: np.ndarray
    prime: int
    along: np.ndarray | None = None
    degree: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        """As `ndarray.shape`."""
        return self.value.shape

    @property
    def ndim(self) -> int:
        """As `ndarray.ndim`."""
        return self.value.ndim

    @property
    def size(self) -> int:
        """As `ndarray.size`."""
        return self.value.size

    @property
    def T(self) -> Residues:
        """As `ndarray.T`."""
        return self.transpose()

    def transpose(self, *axes: Any) -> Residues:
        """As `ndarray.transpose`, or as torch's, which swaps two axes."""
        order = list(range(self.ndim))[::-1] if axes in ((), (None,)) else list(_flat(axes))
        if len(axes) == 2:
            first, second = order
            order = list(range(self.ndim))
            order[first], order[second] = order[second], order[first]
        back = (0, *(axis % self.ndim + 1 for axis in order))
        return self._moved(lambda x: x.transpose(order), lambda x: x.transpose(back))._read_only()

    def reshape(self, *shape: Any) -> Residues:
        """As `ndarray.reshape`."""
        new = self.value.reshape(_flat(shape)).shape
        found = self._moved(lambda x: x.reshape(new), lambda x: x.reshape(len(x), *new))
        return found._read_only()

    def ravel(self) -> Residues:
        """As `ndarray.ravel`."""
        return self.reshape(-1)

    def flatten(self) -> Residues:
        """As `ndarray.flatten`."""
        return self.ravel().copy()

    def copy(self) -> Residues:
        """As `ndarray.copy`."""
        return self._moved(np.copy, np.copy)

    def sum(self, axis: Any = None, keepdims: bool = False) -> Residues:
        """As `ndarray.sum`."""
        own = tuple(range(self.ndim)) if axis is None else _flat((axis,))
        after = tuple(k + 1 if k >= 0 else k for k in own)
        return self._moved(
            lambda x: reduce_(np.array(x.sum(own, keepdims=keepdims)), self.prime),
            lambda x: reduce_(np.array(x.sum(after, keepdims=keepdims)), self.prime),
        )

    def double(self) -> Residues:
        """Itself: residues have one precision."""
        return self

    def __len__(self) -> int:
        return len(self.value)

    def __getitem__(self, index: Any) -> Residues:
        parts = index if isinstance(index, tuple) else (index,)
        if any(isinstance(part, Residues) for part in parts):
            raise NotPolynomialError("an index that is a factor")
        found = np.asarray(self.value[index])
        if self.along is None:
            return self._like(found, None)._read_only()
        # Directions go last meanwhile: NumPy may put the axes of index arrays first
        if any(part is Ellipsis for part in parts):
            parts = (*parts, slice(None))
        return self._like(found, np.moveaxis(np.moveaxis(self.along, 0, -1)[parts], -1, 0))

    def __setitem__(self, index: Any, entries: Any) -> None:
        other = lifted(entries, self.prime)
        if not self.value.flags.writeable or self.along is not None or other.along is not None:
            raise NotPolynomialError("a write into a factor's array or a part of one (x[...] = y)")
        self.value[index] = other.value
        self.degree = max(self.degree, other.degree)

    # --- arithmetic -------------------------------------------------------------------------------

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        if "out" in options:  # x += y would change what other names and views see
            raise NotPolynomialError(f"np.{ufunc.__name__} in place (x += y for x = x + y)")
        known = _OPERATIONS.get(ufunc.__name__)
        if known is None or method != "__call__" or options:
            raise NotPolynomialError(f"np.{ufunc.__name__}{'' if known is None else ' so called'}")
        return known(*inputs)

    def __array_function__(self, function: Any, types: Any, arguments: Any, options: Any) -> Any:
        return _call(f"np.{function.__name__}", function.__name__, arguments, options)

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Any, arguments: Any = (), options: Any = None
    ) -> Any:
        name = function.__name__
        operator = _OPERATORS.get(name)
        if operator is not None and not options:
            return operator(*arguments)
        return _call(f"torch.{name}", name, arguments, options or {})

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise NotPolynomialError(
            "a factor's entries in an array of numbers (np.array([...]) or x[...] = y for np.stack)"
        )

    def __bool__(self) -> bool:
        raise NotPolynomialError("a branch on a factor's value")

    def __float__(self) -> float:
        raise NotPolynomialError("a factor as one Python number")

    __int__ = __index__ = __complex__ = __float__

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # what libraries ask of one another's objects
            raise AttributeError(name)
        raise NotPolynomialError(f".{name}")

    # --- how --------------------------------------------------------------------------------------

    def _read_only(self) -> Residues:
        """A part of an array: written to, it would change the whole, as in NumPy, or not."""
        self.value = self.value.view()
        self.value.setflags(write=False)
        return self

    def _like(self, value: np.ndarray, along: np.ndarray | None) -> Residues:
        return Residues(value, self.prime, along, self.degree)

    def _moved(
        self,
        value: Callable[[np.ndarray], np.ndarray],
        along: Callable[[np.ndarray], np.ndarray],
    ) -> Residues:
        """A linear change of the value, and the same of every derivative."""
        return self._like(value(self.value), None if self.along is None else along(self.along))


def gathered(result: Any, prime: int) -> Residues:
    """What a rule returned as residues: an array of them, or an object array with one an entry."""
    if not isinstance(result, np.ndarray) or result.dtype != object:
        return lifted(result, prime)
    entries = [lifted(entry, prime).reshape(1) for entry in result.flat]
    return _concatenate(entries).reshape(result.shape)


def _flat(numbers: Any) -> tuple[int, ...]:
    """(2, 3) of f(2, 3) and of f((2, 3))."""
    only = numbers[0] if len(numbers) == 1 else numbers
    return tuple(only) if isinstance(only, list | tuple) else tuple(numbers)


def _pair(x: Any, y: Any) -> tuple[Residues, Residues]:
    prime = x.prime if isinstance(x, Residues) else y.prime
    return lifted(x, prime), lifted(y, prime)


def lifted(x: Any, prime: int) -> Residues:
    """A constant of the rule: a number, a NumPy array or a tensor."""
    if isinstance(x, Residues):
        return x
    numbers = x.detach().cpu().double().numpy() if hasattr(x, "detach") else x
    try:
        return Residues(residues(numbers, prime), prime)
    except ValueError as error:
        raise NotPolynomialError(f"a constant of the rule ({error})") from error


def _lifted_all(parts: Any) -> list[Residues]:
    parts = list(parts)
    prime = next(part.prime for part in parts if isinstance(part, Residues))
    return [lifted(part, prime) for part in parts]


def _sum_of(x: np.ndarray | None, y: np.ndarray | None, prime: int) -> np.ndarray | None:
    if x is None or y is None:
        return y if x is None else x
    return reduce_(np.asarray(x + y), prime)


def _aligned(along: np.ndarray, ndim: int) -> np.ndarray:
    """Axes of size 1 after the directions, so that each derivative has `ndim` of its own."""
    more = ndim + 1 - along.ndim
    return along.reshape(along.shape[0], *(1,) * more, *along.shape[1:]) if more > 0 else along


def _spread(along: np.ndarray | None, shape: tuple[int, ...]) -> np.ndarray | None:
    """Derivatives broadcast to a sum's shape, since the other summand may be the larger."""
    if along is None:
        return None
    return np.broadcast_to(_aligned(along, len(shape)), (len(along), *shape))


def _add(x: Any, y: Any) -> Residues:
    x, y = _pair(x, y)
    value = reduce_(np.asarray(x.value + y.value), x.prime)
    shape = value.shape
    along = _sum_of(_spread(x.along, shape), _spread(y.along, shape), x.prime)
    return Residues(value, x.prime, along, max(x.degree, y.degree))


def _negative(x: Residues) -> Residues:
    return x._moved(np.negative, np.negative)


def _multiply(x: Any, y: Any) -> Residues:
    x, y = _pair(x, y)
    value = reduce_(np.asarray(x.value * y.value), x.prime)
    along = None
    for part, other in ((x, y), (y, x)):
        if part.along is not None:
            moved = np.asarray(_aligned(part.along, value.ndim) * other.value)
            along = moved if along is None else along + moved  # each below 2^44
    if along is not None:
        reduce_(along, x.prime)
    return Residues(value, x.prime, along, x.degree + y.degree)


def _matmul(x: Any, y: Any) -> Residues:
    x, y = _pair(x, y)
    if y.ndim == 1:
        return _matmul(x, y[:, None])[..., 0]
    if x.ndim == 1:
        return _matmul(x[None], y)[..., 0, :]
    value, along = product(x.value, y.value, x.prime), None
    if x.along is not None:
        along = product(_aligned(x.along, y.ndim), y.value, x.prime)
    if y.along is not None:
        moved = product(x.value, _aligned(y.along, x.ndim), x.prime)
        along = _sum_of(along, moved, x.prime)
    return Residues(value, x.prime, along, x.degree + y.degree)


def _dot(x: Any, y: Any) -> Residues:
    x, y = _pair(x, y)
    if max(x.ndim, y.ndim) > 2:
        raise NotPolynomialError("np.dot of more than two axes (x @ y is another product)")
    return _matmul(x, y) if min(x.ndim, y.ndim) else _multiply(x, y)


def _einsum(subscripts: str, *factors: Any) -> Residues:
    """One axis a letter, multiplied, and summed over those that the result has not."""
    inputs, arrow, output = subscripts.replace(" ", "").partition("->")
    letters = sorted({letter for letter in inputs if letter != ","})
    if not arrow:
        output = "".join(letter for letter in letters if inputs.count(letter) == 1)
    terms = inputs.split(",")
    if "." in subscripts or any(len(set(term)) < len(term) for term in terms):
        raise NotPolynomialError(f"einsum of {subscripts!r} (an ellipsis, or a letter twice)")
    axes = [*output, *(letter for letter in letters if letter not in output)]
    total: Any = 1
    for term, x in zip(terms, _lifted_all(factors), strict=True):
        moved = x.transpose([term.index(letter) for letter in axes if letter in term])
        total = total * moved[tuple(slice(None) if k in term else None for k in axes)]
    return total.sum(tuple(range(len(output), len(axes))))


def _power(x: Any, exponent: Any) -> Residues:
    if isinstance(exponent, Residues):
        raise NotPolynomialError("a factor as an exponent")
    if np.ndim(exponent) or exponent != int(exponent):
        raise NotPolynomialError(f"the exponent {short(exponent)}")
    if exponent < 0:
        raise NotPolynomialError(f"the exponent {exponent} (a division by a factor)")
    count = int(exponent)
    if count == 0:
        return Residues(np.ones(x.shape), x.prime)
    half = _power(x, count // 2)
    square = _multiply(half, half) if count > 1 else half
    return _multiply(square, x) if count % 2 else square


def _divide(x: Any, y: Any) -> Residues:
    x, y = _pair(x, y)
    if y.degree or y.along is not None:
        raise NotPolynomialError("division by a factor")
    if not y.value.all():
        raise NotPolynomialError(f"division by a multiple of {x.prime}")
    inverses = np.array([pow(int(v), -1, x.prime) for v in y.value.flat]).reshape(y.shape)
    return _multiply(x, inverses)


def _joined(parts: Any, axis: int, join: Callable[..., np.ndarray]) -> Residues:
    """Concatenated or stacked."""
    lifted = _lifted_all(parts)
    prime = lifted[0].prime
    value = join([part.value for part in lifted], axis)
    count = max((len(part.along) for part in lifted if part.along is not None), default=None)
    along = None
    if count is not None:
        arrays = [
            np.zeros((count, *part.shape)) if part.along is None else part.along for part in lifted
        ]
        along = join(arrays, axis + 1 if axis >= 0 else axis)
    return Residues(value, prime, along, max(part.degree for part in lifted))


def _concatenate(parts: Any, axis: int | None = 0) -> Residues:
    if axis is None:
        return _joined([part.ravel() for part in _lifted_all(parts)], 0, np.concatenate)
    return _joined(parts, axis, np.concatenate)


def _stack(parts: Any, axis: int = 0) -> Residues:
    return _joined(parts, axis, np.stack)


def _outer(x: Any, y: Any) -> Residues:
    x, y = _pair(x, y)
    return _multiply(x.reshape(-1, 1), y.reshape(1, -1))


def _total(x: Residues, axis: Any = None, keepdims: bool = False) -> Residues:
    return x.sum(axis, keepdims)


def _reflected(operation: Callable[..., Residues]) -> Callable[..., Residues]:
    return lambda x, y: operation(y, x)


_OPERATIONS: Mapping[str, Callable[..., Residues]] = {
    "add": _add,
    "subtract": lambda x, y: _add(x, _negative(_pair(x, y)[1])),
    "negative": _negative,
    "positive": lambda x: x.copy(),
    "multiply": _multiply,
    "matmul": _matmul,
    "square": lambda x: _power(x, 2),
    "power": _power,
    "float_power": _power,
    "divide": _divide,
    "true_divide": _divide,
}
_FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "concatenate": _concatenate,
    "cat": _concatenate,
    "concat": _concatenate,
    "stack": _stack,
    "sum": _total,
    "outer": _outer,
    "dot": _dot,
    "mm": _matmul,
    "einsum": _einsum,
    "reshape": lambda x, *shape: x.reshape(*shape),
    "transpose": lambda x, *axes: x.transpose(*axes),
    "shape": lambda x: x.shape,
    "ndim": lambda x: x.ndim,
    "size": lambda x: x.size,
}
# What Python asks of a tensor on the left: a constant of the rule, since factors are residues
_OPERATORS: Mapping[str, Callable[..., Residues]] = {
    "add": _add,
    "sub": _OPERATIONS["subtract"],
    "mul": _multiply,
    "matmul": _matmul,
    "div": _divide,
    "__rsub__": _reflected(_OPERATIONS["subtract"]),
}


def _call(shown: str, name: str, arguments: Any, options: Mapping[str, Any]) -> Any:
    if name not in _FUNCTIONS:
        raise NotPolynomialError(shown)
    renamed = {TORCH_NAMES.get(key, key): value for key, value in options.items()}
    try:
        return _FUNCTIONS[name](*arguments, **renamed)
    except TypeError as error:
        raise NotPolynomialError(f"{shown} so called ({error})") from error
