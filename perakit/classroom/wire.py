"""Values as they cross from the judge to a student's process and back: plain data, as JSON.

A number, an array as dtype, shape and bytes, lists, tuples, dicts and fractions of those. What
comes out is what these words say and nothing of the student's: no class, no `__eq__`, no
`__array__`. Anything else stays where it is, and is sent as a `Reference`: its type, what it
prints, and a number by which it can be called.
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

DEEPEST, MOST = 40, 200_000  # levels of nesting, and values in one message
LARGEST = 16 * 2**20  # bytes of one message
# What takes a time that grows with the square: a fraction in lowest terms, keys of equal hashes.
# And Python writes no integer of more than 4300 decimal digits
DIGITS, KEYS = 3500, 1000  # of an integer, in base 16; of a dict
NUMBERS = re.compile(r"[<>|=][biufc]\d{1,2}")  # the dtypes whose bytes are numbers
SHOWN = 200  # characters that are sent of what another object prints


class NotPlainError(ValueError):
    """A value that cannot cross: says why."""


@dataclass(frozen=True)
class Reference:
    """An object that stays in the other process.

    number: its name there; kind: of its type; text: what it prints; callable: whether it is a
    function or a method.
    """

    number: int
    kind: str
    text: str
    callable: bool


# --- out ------------------------------------------------------------------------------------------


class Encoder:
    """Values into JSON's own types; `keep` gives a number to an object that has to stay."""

    def __init__(self, keep: Callable[[Any], int]) -> None:
        self.keep = keep

    def __call__(self, value: Any) -> Any:
        """`value` as JSON's own types; NotPlainError if it is too large, or nested too deep."""
        self.left, self.bytes = MOST, 0
        return self._encode(value, DEEPEST)

    def _encode(self, value: Any, depth: int) -> Any:
        self.left -= 1
        if depth == 0 or self.left < 0:
            raise NotPlainError(
                f"it has more than {MOST:,} values" if depth else f"it has {DEEPEST} levels or more"
            )
        # By the exact type: a subclass may say what it likes of itself
        kind = type(value)
        if value is None or kind is bool or kind is float:
            return value
        if kind is str:
            self._count(len(value))
            return value
        if kind is int:
            if value.bit_length() < 64:
                return value
            if value.bit_length() > 4 * DIGITS:
                raise NotPlainError(f"it has an integer of more than {4 * DIGITS:,} bits")
            return {"integer": hex(value)}
        if kind is complex:
            return {"complex": [value.real, value.imag]}
        if kind is Fraction:
            both = (int(value.numerator), int(value.denominator))
            return {"fraction": [self._encode(part, depth) for part in both]}
        if kind in (list, tuple, range):
            items = [self._encode(item, depth - 1) for item in value]
            return {"tuple" if kind is tuple else "list": items}
        if kind is dict:
            if len(value) > KEYS:
                raise NotPlainError(f"it is a dict of more than {KEYS:,} entries")
            pairs = [[self._encode(part, depth - 1) for part in pair] for pair in value.items()]
            return {"dict": pairs}
        if issubclass(kind, np.ndarray | np.generic) or hasattr(kind, "__array__"):
            return self._array(value, depth)
        plain: Any
        for plain in (int, float, str, list, tuple, dict):  # an IntEnum, a namedtuple, ...
            if issubclass(kind, plain):
                return self._encode(plain(value), depth)
        text = repr(value)[:SHOWN]
        return {"object": [self.keep(value), kind.__name__, text, callable(value)]}

    def _array(self, value: Any, depth: int) -> Any:
        if hasattr(value, "detach"):
            value = value.detach()  # torch: its numbers, without what made them
        array = np.asarray(value)
        if NUMBERS.fullmatch(array.dtype.str):
            self._count(array.nbytes)
            data = base64.b64encode(np.ascontiguousarray(array).tobytes()).decode("ascii")
            what = "scalar" if issubclass(type(value), np.generic) else "array"
            return {what: [array.dtype.str, list(array.shape), data]}
        if isinstance(value, np.generic):
            return self._encode(value.item(), depth - 1)
        items = [self._encode(item, depth - 1) for item in array.ravel().tolist()]
        return {"objects": [list(array.shape), items]}

    def _count(self, size: int) -> None:
        self.bytes += size
        if self.bytes > LARGEST // 2:  # in base 64 it is a third more
            raise NotPlainError(f"it is larger than {LARGEST // 2 // 2**20} MiB")


# --- in -------------------------------------------------------------------------------------------


def decode(message: Any, refer: Callable[[Reference], Any]) -> Any:
    """The value that an `Encoder` wrote; NotPlainError for anything else.

    refer: what to put in the place of a `Reference`.
    """
    return _Decoder(refer).decode(message, DEEPEST)


class _Decoder:
    """The way back; it has the same limits, since nobody knows who wrote the message."""

    def __init__(self, refer: Callable[[Reference], Any]) -> None:
        self.refer, self.left = refer, MOST

    def decode(self, message: Any, depth: int) -> Any:
        self.left -= 1
        if depth == 0 or self.left < 0:
            raise NotPlainError("more values or levels than an `Encoder` writes")
        if message is None or isinstance(message, bool | int | float | str):
            return message
        if not isinstance(message, dict) or len(message) != 1:
            raise NotPlainError("a value is one of the kinds that this file names")
        (kind, content), *_ = message.items()
        try:
            return _DECODERS[kind](self, content, depth - 1)
        except NotPlainError:
            raise
        except (KeyError, TypeError, ValueError, OverflowError, ZeroDivisionError) as error:
            raise NotPlainError(f"{kind[:40]!r} with other contents") from error

    def items(self, contents: Any, depth: int) -> list[Any]:
        if not isinstance(contents, list):
            raise TypeError("a list")
        return [self.decode(item, depth) for item in contents]

    def integer(self, text: Any, _: int) -> int:
        if len(text) > DIGITS + 3:  # and -0x
            raise ValueError("an integer with so many digits")
        return int(text, 16)

    def complex(self, both: Any, _: int) -> complex:
        real, imaginary = map(float, both)
        return complex(real, imaginary)

    def fraction(self, both: Any, depth: int) -> Fraction:
        numerator, denominator = self.items(both, depth)
        if type(numerator) is not int or type(denominator) is not int:
            raise TypeError("a fraction of integers")
        return Fraction(numerator, denominator)

    def dict(self, pairs: Any, depth: int) -> Any:
        if len(pairs) > KEYS:
            raise ValueError("a dict of so many entries")
        return {self.decode(key, depth): self.decode(item, depth) for key, item in pairs}

    def array(self, content: Any, _: int) -> np.ndarray:
        dtype, shape, data = content
        if not NUMBERS.fullmatch(dtype):
            raise ValueError("a dtype that is no number")
        raw = base64.b64decode(data, validate=True)
        if dtype[1] == "b":  # whose bytes are 0 or 1, or NumPy calls equal what is not
            flat = np.frombuffer(raw, np.uint8) != 0
        else:
            flat = np.frombuffer(raw, np.dtype(dtype))
        return flat.reshape(_shape(shape)).copy()

    def scalar(self, content: Any, depth: int) -> Any:
        return self.array(content, depth)[()]

    def objects(self, content: Any, depth: int) -> np.ndarray:
        shape, items = content
        shape = _shape(shape)
        made = np.empty(len(items), dtype=object)
        for k, item in enumerate(self.items(items, depth)):
            made[k] = item
        return made.reshape(shape)

    def reference(self, content: Any, _: int) -> Any:
        number, kind, text, function = content
        if type(number) is not int or type(kind) is not str or type(text) is not str:
            raise ValueError("a number and two texts")
        return self.refer(Reference(number, kind[:SHOWN], text[:SHOWN], bool(function)))


def _shape(shape: Any) -> tuple[int, ...]:
    if not all(type(size) is int and size >= 0 for size in shape):
        raise ValueError("a shape of whole numbers")
    # Also of an empty array: (10**12, 0) times a matrix would be enormous
    if math.prod(max(size, 1) for size in shape) > LARGEST:
        raise ValueError("a shape that large")
    return tuple(shape)


_DECODERS: dict[str, Callable[[_Decoder, Any, int], Any]] = {
    "integer": _Decoder.integer,
    "complex": _Decoder.complex,
    "fraction": _Decoder.fraction,
    "list": _Decoder.items,
    "tuple": lambda decoder, items, depth: tuple(decoder.items(items, depth)),
    "dict": _Decoder.dict,
    "array": _Decoder.array,
    "scalar": _Decoder.scalar,
    "objects": _Decoder.objects,
    "object": _Decoder.reference,
}
