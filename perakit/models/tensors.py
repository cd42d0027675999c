"""Files of tensors, of which the header is read and believed only as far as the file is long."""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from typing import BinaryIO

from perakit.errors import PerakitError, short

# Bytes of a number, by the format's name for its type: safetensors 0.8
WIDTHS = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 8),
}
FLOATS = ("F64", "F32", "BF16", "F16")  # the types of numbers that a layer can multiply with


@dataclass(frozen=True)
class Header:
    """What a file says of its tensors: name -> shape, name -> type, and its metadata."""

    shapes: dict[str, tuple[int, ...]]
    types: dict[str, str]
    metadata: dict[str, str]


def read_header(file: BinaryIO, allowance: int, damaged: str) -> Header:
    """The header of an open safetensors file, at its start.

    allowance: bytes that a header may have here; damaged: begins every message. Raises PerakitError
    where it is no header, or where its tensors are not as long as the rest of the file. Then
    nothing else has been read, and nothing large.
    """
    length = os.fstat(file.fileno()).st_size
    size = int.from_bytes(file.read(8), "little")
    if size > min(allowance, length - 8):
        raise PerakitError(f"{damaged} (its header claims {size:,} bytes)")
    try:
        entries = json.loads(file.read(size))
        metadata = entries.pop("__metadata__", None) or {}
        shapes = {name: tuple(entry["shape"]) for name, entry in entries.items()}
        types = {name: entry["dtype"] for name, entry in entries.items()}
        needed = sum(WIDTHS[types[name]] * _count(shape) for name, shape in shapes.items())
        texts = all(isinstance(text, str) for text in metadata.values())
    except (ValueError, RecursionError, AttributeError, KeyError, TypeError) as error:
        raise PerakitError(f"{damaged} ({type(error).__name__} in its header)") from error
    if not texts:
        raise PerakitError(f"{damaged} (its metadata is no text)")
    if length != 8 + size + needed:
        raise PerakitError(
            f"{damaged} ({length:,} bytes, its tensors need {short(8 + size + needed)})"
        )
    return Header(shapes, types, metadata)


def _count(shape: tuple[int, ...]) -> int:
    if not all(type(size) is int and size >= 0 for size in shape):
        raise ValueError("a shape is of whole numbers")
    return math.prod(shape)
