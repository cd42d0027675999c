"""A rule read once more: with arrays modulo a prime, and the derivatives that they carry along.

What is polynomial can be read so: + - * @ **, division by constants, indexing, concatenation. For
the rest (exp, a root, division by a factor, a comparison) a prime field has no meaning, and
`NotPolynomialError` names it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from perakit.errors import PerakitError
from perakit.theory.field import product, reduce_, residues


class NotPolynomialError(PerakitError):
    """The rule does what a prime field has not."""

    def __init__(self, operation: str) -> None:
        super().__init__(
            f"{operation} has no meaning modulo a prime: exact answers need a polynomial rule, of"
            " + - * @ **, indexing and concatenation"
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
        """As `ndarray.transpose`."""
        order = tuple(range(self.ndim))[::-1] if axes in ((), (None,)) else _flat(axes)
        back = (0, *(axis % self.ndim + 1 for axis in order))
        return self._moved(lambda x: x.transpose(order), lambda x: x.transpose(back))

    def reshape(self, *shape: Any) -> Residues:
        """As `ndarray.reshape`."""
        new = self.value.reshape(_flat(shape)).shape
        return self._moved(lambda x: x.reshape(new), lambda x: x.reshape(-1, *new))

    def ravel(self) -> Residues:
        """As `ndarray.ravel`."""
        return self.reshape(-1)

    flatten = ravel

    def copy(self) -> Residues:
        """As `ndarray.copy`."""
        return self._moved(np.copy, np.copy)

    def sum(self, axis: Any = None) -> Residues:
        """As `ndarray.sum`."""
        axes = range(self.ndim) if axis is None else np.atleast_1d(axis)
        own = tuple(int(k) % self.ndim for k in axes)
        after = tuple(k + 1 for k in own)
        return self._moved(
            lambda x: reduce_(np.array(x.sum(own)), self.prime),
            lambda x: reduce_(np.array(x.sum(after)), self.prime),
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
        # The directions come first, and stay there: NumPy moves what advanced indices of several
        # axes select to the front, in the value and in each derivative
        whole = (slice(None), *parts)
        found = self.value[index]
        if self.along is None:
            return self._like(np.array(found), None)
        along = self.along[whole]
        if along.shape[1:] != np.shape(found):
            along = np.array([each[index] for each in self.along])
        return self._like(np.array(found), along)

    def __setitem__(self, index: Any, entries: Any) -> None:
        other = _lifted(entries, self.prime)
        if self.along is not None or other.along is not None:
            raise NotPolynomialError("an assignment to entries, where derivatives are asked for,")
        self.value[index] = other.value
        self.degree = max(self.degree, other.degree)

    # --- arithmetic -------------------------------------------------------------------------------

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
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
        raise NotPolynomialError("an array of floats in place of a factor")

    def __bool__(self) -> bool:
        raise NotPolynomialError("a branch on a factor's value")

    def __float__(self) -> float:
        raise NotPolynomialError("float() of a factor")

    __int__ = __index__ = __complex__ = __float__

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise NotPolynomialError(f".{name}")

    # --- how --------------------------------------------------------------------------------------

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
        return _lifted(result, prime)
    entries = [_lifted(entry, prime).reshape(1) for entry in result.flat]
    return _concatenate(entries).reshape(result.shape)


def _flat(numbers: Any) -> tuple[int, ...]:
    """(2, 3) of f(2, 3) and of f((2, 3))."""
    only = numbers[0] if len(numbers) == 1 else numbers
    return tuple(only) if isinstance(only, list | tuple) else tuple(numbers)


def _pair(x: Any, y: Any) -> tuple[Residues, Residues]:
    prime = x.prime if isinstance(x, Residues) else y.prime
    return _lifted(x, prime), _lifted(y, prime)


def _lifted(x: Any, prime: int) -> Residues:
    """A constant of the rule: a number, a NumPy array or a tensor."""
    if isinstance(x, Residues):
        return x
    numbers = x.detach().cpu().double().numpy() if hasattr(x, "detach") else x
    try:
        return Residues(residues(numbers, prime), prime)
    except ValueError as error:
        raise NotPolynomialError(f"a constant that is no rational number ({error})") from error


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
    value, along = product(x.value, y.value, x.prime), None
    if x.along is not None:
        along = product(x.along, y.value, x.prime)
    if y.along is not None:
        if y.ndim == 1:  # each derivative is a column
            moved = product(x.value, y.along.T, x.prime)
            moved = np.moveaxis(moved, -1, 0)
        else:
            moved = product(x.value, y.along, x.prime)
        along = _sum_of(along, moved, x.prime)
    return Residues(value, x.prime, along, x.degree + y.degree)


def _power(x: Any, exponent: Any) -> Residues:
    if isinstance(exponent, Residues) or np.ndim(exponent) or exponent != int(exponent):
        raise NotPolynomialError(f"the exponent {exponent!r}")
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
        raise NotPolynomialError("division by zero")
    inverses = np.array([pow(int(v), -1, x.prime) for v in y.value.flat]).reshape(y.shape)
    return _multiply(x, inverses)


def _joined(parts: Any, axis: int, join: Callable[..., np.ndarray]) -> Residues:
    """Concatenated or stacked."""
    parts = list(parts)
    prime = next(part.prime for part in parts if isinstance(part, Residues))
    lifted = [_lifted(part, prime) for part in parts]
    value = join([part.value for part in lifted], axis)
    count = max((len(part.along) for part in lifted if part.along is not None), default=None)
    along = None
    if count is not None:
        arrays = [
            np.zeros((count, *part.shape)) if part.along is None else part.along for part in lifted
        ]
        along = join(arrays, axis + 1 if axis >= 0 else axis)
    return Residues(value, prime, along, max(part.degree for part in lifted))


def _concatenate(parts: Any, axis: int = 0) -> Residues:
    return _joined(parts, axis, np.concatenate)


def _stack(parts: Any, axis: int = 0) -> Residues:
    return _joined(parts, axis, np.stack)


def _outer(x: Any, y: Any) -> Residues:
    x, y = _pair(x, y)
    return _multiply(x.reshape(-1, 1), y.reshape(1, -1))


def _total(x: Residues, axis: Any = None) -> Residues:
    return x.sum(axis)


def _reflected(operation: Callable[..., Residues]) -> Callable[..., Residues]:
    return lambda x, y: operation(y, x)


_OPERATIONS: Mapping[str, Callable[..., Residues]] = {
    "add": _add,
    "subtract": lambda x, y: _add(x, _negative(_pair(x, y)[1])),
    "negative": _negative,
    "positive": lambda x: x,
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
    "dot": _matmul,
    "shape": lambda x: x.shape,
    "reshape": lambda x, *shape: x.reshape(*shape),
    "transpose": lambda x, *axes: x.transpose(*axes),
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
    renamed = {"axis" if key == "dim" else key: value for key, value in options.items()}
    try:
        return _FUNCTIONS[name](*arguments, **renamed)
    except TypeError as error:
        raise NotPolynomialError(f"{shown} so called ({error})") from error
