"""How files are spoiled: one small function a kind, each drawing from a seeded generator.

A Draft is a folder before it is written: its JSON and its tensors, or the lines of its records.
Kinds in CONTENT alter a draft, which is then written with checksums that are right (or, now and
then, not); kinds in FILES alter what stands in the folder.
"""

import contextlib
import hashlib
import json
import math
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

Entry = tuple[str, tuple[int, ...], bytes]  # safetensors dtype, shape, bytes
Files = dict[str, bytes | Callable[[Path], object]]  # name -> content, or what makes the file

SIZES = {
    "F64": 8,
    "F32": 4,
    "BF16": 2,
    "F16": 2,
    "I64": 8,
    "I32": 4,
    "U8": 1,
    "I8": 1,
    "BOOL": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "C64": 8,
}
VALUES = [
    *(
        None,
        True,
        False,
        -1,
        0,
        1,
        2,
        3,
        5,
        64,
        2**20,
        2**31,
        2**63,
        -(2**63),
        10**30,
        10**400,
        10**4000,
    ),
    *(
        -0.5,
        0.0,
        -0.0,
        0.5,
        1.0,
        2.0,
        1e-320,
        1e308,
        -1e308,
        float("nan"),
        float("inf"),
        float("-inf"),
    ),
    *(
        "",
        "x",
        "1",
        "lora",
        "LORA",
        "pera",
        "dora",
        "hira",
        "full",
        "standard",
        "rslora",
        "none",
        "all",
        "nf4",
        "all-linear",
        "../x",
        "/",
    ),
    *(
        "\0",
        "\ud800",
        "é" * 9,
        "a" * 10**5,
        [],
        [[]],
        [5, 7],
        [7, 5],
        [None],
        ["0", "1.0"],
        [0] * 10**4,
        {},
        {"": 0},
        {"rank": 2},
        {"0": {}},
    ),
]
NUMBERS = [
    value for value in VALUES if isinstance(value, int | float) and not isinstance(value, bool)
]
REDOS = [
    r"(\w+\.?)+!",
    r"(x+x+)+y",
    r"((.*)*)*$z",
    r"(.|.)*!",
    r"(?:a?){60}a{60}",
    "(" * 120 + "a" + ")" * 120,
    "(",
    "[",
    r"\1",
    "(?P<x>",
    ".{65000}{65000}",
]
ODD_NAMES = [
    "../x",
    "/etc/passwd",
    "",
    ".",
    "..",
    "adapter.json",
    "adapter-0123456789abcdef.safetensors\n",
    "\0",
    "a" * 300,
    "{own}/../{own}",
    "./{own}",
]

PLAIN = {"format": "pt"}


@dataclass
class Draft:
    """What is not written yet; text and data, once set, are used as they are."""

    config: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, Entry] = field(default_factory=dict)
    lines: list[bytes] = field(default_factory=list)  # without their ends
    text: bytes | None = None
    data: bytes | None = None
    tail: int = 0  # zeros after the tensor file, sparse
    name: str | None = None  # of the tensor file
    sha256: str = ""  # of the tensor file as it was saved
    extra: Files = field(default_factory=dict)

    @property
    def metadata(self) -> dict[str, str]:
        """What the tensor file says of itself."""
        return PLAIN


def pack(tensors: dict[str, Entry], metadata: dict[str, str]) -> bytes:
    """A safetensors file, written from its description."""
    header, body = describe(tensors, metadata)
    return frame(json.dumps(header).encode()) + body


def describe(tensors: dict[str, Entry], metadata: dict[str, str]) -> tuple[dict[str, Any], bytes]:
    """(header, body) of a safetensors file."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    body = b""
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {
            "dtype": dtype,
            "shape": list(shape),
            "data_offsets": [len(body), len(body) + len(data)],
        }
        body += data
    return header, body


def frame(header: bytes) -> bytes:
    """The header after its length, padded to 8 bytes."""
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header


def metadata(data: bytes) -> dict[str, str]:
    """What a safetensors file says of itself."""
    return json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]).get("__metadata__", {})


def unpack(data: bytes) -> dict[str, Entry]:
    """The tensors of a safetensors file, read without the library; ValueError or KeyError where it
    is none.
    """
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    body = data[8 + length :]
    header.pop("__metadata__", None)
    return {
        name: (entry["dtype"], tuple(entry["shape"]), body[slice(*entry["data_offsets"])])
        for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"])
    }


# --- the JSON -------------------------------------------------------------------------------------


def places(node: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) inside a JSON value."""
    items = (
        node.items()
        if isinstance(node, dict)
        else enumerate(node)
        if isinstance(node, list)
        else ()
    )
    return [place for key, value in list(items) for place in [(node, key), *places(value)]]


def place(draw: Random, draft: Draft) -> tuple[Any, Any]:
    """A (container, key) of the JSON, half the time at its top."""
    found = places(draft.config)
    return draw.choice(
        found if draw.random() < 0.7 else found[:1] + [(draft.config, key) for key in draft.config]
    )


def named(draw: Random, draft: Draft) -> tuple[dict[str, Any], str]:
    """A place in an object, which has a key to rename."""
    return draw.choice(
        [(node, key) for node, key in places(draft.config) if isinstance(node, dict)]
    )


def set_value(draw: Random, draft: Draft) -> None:
    node, key = place(draw, draft)
    node[key] = draw.choice(VALUES)


def set_number(draw: Random, draft: Draft) -> None:
    found = [(node, key) for node, key in places(draft.config) if type(node[key]) in (int, float)]
    node, key = draw.choice(found)
    old = node[key]
    node[key] = draw.choice(
        [
            *NUMBERS,
            old + 1,
            old - 1,
            -old,
            old * 2,
            float(old),
            str(old),
            old / 3,
            draw.randrange(10**6),
        ]
    )


def delete_key(draw: Random, draft: Draft) -> None:
    node, key = place(draw, draft)
    del node[key]


def rename_key(draw: Random, draft: Draft) -> None:
    node, key = named(draw, draft)
    others = [other for _, other in places(draft.config) if isinstance(other, str)]
    node[
        draw.choice(
            [
                f"{key}x",
                key.upper(),
                f"{key}.weight",
                "",
                f"model.{key}",
                "\ud800",
                key[:-1],
                *others,
            ]
        )
    ] = node.pop(key)


def new_key(draw: Random, draft: Draft) -> None:
    node = draw.choice(
        [
            draft.config,
            *[node[key] for node, key in places(draft.config) if isinstance(node[key], dict)],
        ]
    )
    options = [
        "new",
        "",
        "__class__",
        "quantize",
        "alpha",
        "lora_bias",
        "modules_to_save",
        "use_qalora",
        "megatron_config",
        "auto_mapping",
    ]
    node[draw.choice(options)] = draw.choice(VALUES)


def swap_values(draw: Random, draft: Draft) -> None:
    (one, a), (two, b) = (place(draw, draft) for _ in range(2))
    first, second = json.dumps(one[a]), json.dumps(two[b])  # copies: no cycle
    one[a], two[b] = json.loads(second), json.loads(first)


def nest(draw: Random, draft: Draft) -> None:
    """Depths around the recursion limit and far above it."""
    depth = draw.choice([3, 50, draw.randrange(80, 340), draw.randrange(840, 1010), 5000, 10**5])
    node, key = place(draw, draft)
    node[key] = "@"
    a, b = draw.choice([("[", "]"), ('{"a":', "}")])
    draft.text = json.dumps(draft.config).replace('"@"', f"{a * depth}0{b * depth}", 1).encode()


def duplicate_key(draw: Random, draft: Draft) -> None:
    """The same key twice, with the old and a new value, in either order."""
    node, key = named(draw, draft)
    new, old = json.dumps(draw.choice(VALUES)), json.dumps(node[key])
    pair = [f"{json.dumps(key)}: {value}" for value in (new, old)]
    node[key] = "@"
    text = json.dumps(draft.config)
    draft.text = text.replace(
        f'{json.dumps(key)}: "@"', ", ".join(draw.sample(pair, 2)), 1
    ).encode()


def unicode_text(draw: Random, draft: Draft) -> None:
    """An odd letter in a key or a string, and other encodings of the whole."""
    text = json.dumps(draft.config)
    quotes = [at for at, letter in enumerate(text) if letter == '"']
    at = draw.choice(quotes) + 1
    odd = draw.choice(
        [
            "\u0000",
            "\\u0000",
            "\\ud800",
            "é",
            "e\u0301",
            "\u202e",
            "\ufeff",
            "\U0001f600",
            "\\u0061",
            "\u0131",
            "\uff10",
            " ",
        ]
    )
    text = text[:at] + odd + text[at:]
    draft.text = text.encode(
        draw.choice(["utf-8"] * 6 + ["utf-8-sig", "utf-16", "utf-32"]), "surrogatepass"
    )


def json_bomb(draw: Random, draft: Draft) -> None:
    """Small text that parses into much: as large as the loader may accept to read."""
    size = draw.choice([2**20, 2**21 - 2**16, 2**22 - 2**16, 2**23 - 2**16, 2**24 - 2**16])
    unit = draw.choice(
        ["{},", "[0],", '{"":0},', '{"":' * 800 + "0" + "}" * 800 + ",", "0,", '"é",', "1e5,"]
    )
    node, key = draw.choice([(draft.config, "new"), place(draw, draft)])
    node[key] = "@"
    draft.text = (
        json.dumps(draft.config).replace('"@"', f"[{unit * (size // len(unit))}0]", 1).encode()
    )


def patterns(draw: Random, draft: Draft) -> None:
    """Names that are regular expressions in PEFT's files: hostile ones, and ones that fit several
    layers or none.
    """
    name = draw.choice(
        [
            *REDOS,
            ".*",
            r"\d",
            "0",
            "1",
            "1.0",
            "1..",
            r"1\.0",
            "^0",
            "nowhere",
            "base_model.model.0",
            "",
        ]
    )
    key = draw.choice(
        [
            "rank_pattern",
            "alpha_pattern",
            "target_modules",
            "exclude_modules",
            "layers_pattern",
            "layers",
        ]
    )
    patterned = key.endswith("_pattern") or key == "layers"
    draft.config[key] = (
        {name: draw.choice([1, 2, 3, 4, 0, "2", None])}
        if patterned
        else draw.choice([name, [name], [name, "0"]])
    )


# --- names, shapes and claims of both files together ----------------------------------------------


def another_layer(draw: Random, draft: Draft) -> None:
    """A layer renamed in both files alike."""
    old = draw.choice(["0", "1.0", "1.1", "2"])
    new = draw.choice(["9", "0.0", "1", "2", "0", "1.1", "", "1.0.base", "../0", "x" * 1000])
    draft.tensors = {
        name.replace(f"{old}.", f"{new}.", 1): entry for name, entry in draft.tensors.items()
    }
    text = json.dumps(draft.config)
    draft.config = json.loads(
        text.replace(f'"{old}":', f"{json.dumps(new)}:").replace(f'"{old}"', json.dumps(new))
    )


def is_first(name: str) -> bool:
    """Is this a factor (r, n), and not (m, r)?"""
    return name.removesuffix(".weight").rstrip("12").endswith("A")


def another_rank(draw: Random, draft: Draft) -> None:
    """A rank that JSON and tensors agree on, right for every method whose factors are (r, n) and
    (m, r).
    """
    rank = draw.choice([1, 2, 3, 4, 5, 8, 17, 512, 1000])
    for node, key in places(draft.config):
        if key in ("rank", "r"):
            node[key] = rank
    if "rank_pattern" in draft.config:
        draft.config["rank_pattern"] = {}
    for name, (dtype, shape, data) in draft.tensors.items():
        if len(shape) == 2:
            shape = (rank, shape[1]) if is_first(name) else (shape[0], rank)
        elif name.endswith(".h"):
            shape = (rank * (rank + 1) // 2,)
        size = SIZES[dtype] * math.prod(shape)
        draft.tensors[name] = (dtype, shape, (data * (size // max(len(data), 1) + 1))[:size])


def huge_claims(draw: Random, draft: Draft) -> None:
    """Ranks and shapes far beyond the file, sometimes with a sparse file that keeps the promise."""
    huge = draw.choice(
        [10**4, 2**16, 2**20 - 1, 2**20, 2**20 + 1, 10**7, 10**12, 2**63, 10**30, 10**3000]
    )
    keys = draw.choice(
        [
            ("rank", "r"),
            ("rank", "r"),
            ("shape",),
            ("degree",),
            ("rank", "r", "degree"),
            ("rank", "r", "shape"),
        ]
    )
    for node, key in places(draft.config):
        if key in keys:
            node[key] = [huge, huge] if key == "shape" else huge
    draft.tail = draw.choice([0, 0, 2**20, 2**26, 2**28, 2**29, 2**40])
    if draw.random() < 0.5 and huge < 2**22:  # a header that agrees; the sparse tail is the body
        header, at = {}, 0
        for name, (dtype, shape, _) in draft.tensors.items():
            if len(shape) == 2:
                shape = (huge, shape[1]) if is_first(name) else (shape[0], huge)
            end = at + SIZES[dtype] * math.prod(shape)
            header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, end]}
            at = end
        draft.data, draft.tail = frame(json.dumps(header).encode()), at


# --- the tensors ----------------------------------------------------------------------------------


def tensor(draw: Random, draft: Draft) -> tuple[str, Entry]:
    name = draw.choice(list(draft.tensors))
    return name, draft.tensors[name]


def reshape(draw: Random, draft: Draft) -> None:
    """Another shape of as many numbers."""
    name, (dtype, shape, data) = tensor(draw, draft)
    count = math.prod(shape)
    shapes = [
        shape[::-1],
        (count,),
        (1, *shape),
        (*shape, 1),
        (count, 1),
        (1, count),
        (1,) * 70 + shape,
        (0, *shape),
        (),
    ]
    draft.tensors[name] = (dtype, draw.choice(shapes), data)


def resize(draw: Random, draft: Draft) -> None:
    """One side longer, shorter, zero or gone, and the bytes with it."""
    name, (dtype, shape, data) = tensor(draw, draft)
    sides = list(shape) or [1]
    sides[draw.randrange(len(sides))] = draw.choice([0, 1, 2, 3, 4, 5, 6, 7, 8, 100])
    data = (data * 300)[: SIZES[dtype] * math.prod(sides)]
    draft.tensors[name] = (dtype, tuple(sides), data.ljust(SIZES[dtype] * math.prod(sides), b"\0"))


def retype(draw: Random, draft: Draft) -> None:
    """Another dtype of as many numbers (now and then of as many bytes)."""
    every = draw.random() < 0.3
    dtype = draw.choice([*SIZES, "X9", "f32", ""])
    for name in list(draft.tensors) if every else [tensor(draw, draft)[0]]:
        _, shape, data = draft.tensors[name]
        size = SIZES.get(dtype, 4) * math.prod(shape)
        draft.tensors[name] = (
            dtype,
            shape,
            data if draw.random() < 0.1 else (data * 9)[:size].ljust(size, b"\0"),
        )


def rename_tensor(draw: Random, draft: Draft) -> None:
    name, _ = tensor(draw, draft)
    new = draw.choice(
        [
            f"x{name}",
            name.upper(),
            "",
            "__metadata__",
            f"../{name}",
            name[:-1],
            f"{name}.weight",
            name.replace(".", "/"),
            "\0",
            "é" * 200,
        ]
    )
    draft.tensors = {new if key == name else key: value for key, value in draft.tensors.items()}


def drop_tensor(draw: Random, draft: Draft) -> None:
    for _ in range(draw.choice([1, 1, 2, len(draft.tensors)])):
        if draft.tensors:
            del draft.tensors[tensor(draw, draft)[0]]


def add_tensor(draw: Random, draft: Draft) -> None:
    name, entry = tensor(draw, draft)
    many = draw.choice([1, 1, 1, 100])
    new = draw.choice(
        [
            "more",
            f"{name}.copy",
            "2.A",
            "base_model.model.9.lora_A.weight",
            f"{name}.base_layer.bias",
            "0.bias",
            "1.0.h",
        ]
    )
    draft.tensors |= {
        f"{new}{i or ''}": draw.choice([entry, ("F32", (), b"\0" * 4), ("F32", (0,), b"")])
        for i in range(many)
    }


def swap_tensors(draw: Random, draft: Draft) -> None:
    (a, one), (b, two) = tensor(draw, draft), tensor(draw, draft)
    draft.tensors[a], draft.tensors[b] = two, one


def odd_numbers(draw: Random, draft: Draft) -> None:
    """NaN, infinities, subnormal and negative zero where numbers stood."""
    name, (dtype, shape, data) = tensor(draw, draft)
    odd = bytes.fromhex(
        draw.choice(["0000c07f", "0000807f", "000080ff", "01000000", "00000080", "ffff7f7f"])
    )
    cut = 4 * draw.randrange(max(len(data) // 4, 1))
    draft.tensors[name] = (dtype, shape, (data[:cut] + odd + data[cut + 4 :])[: len(data)])


# --- the tensor file, below the tensors -----------------------------------------------------------


def header_length(draw: Random, draft: Draft) -> None:
    data = pack(draft.tensors, draft.metadata)
    true = int.from_bytes(data[:8], "little")
    lie = draw.choice(
        [
            0,
            1,
            true - 1,
            true - 8,
            true + 1,
            true + 8,
            len(data),
            len(data) - 8,
            10**8,
            10**8 + 1,
            2**31,
            2**32,
            2**63,
            2**64 - 8,
            2**64 - 1,
        ]
    )
    draft.data = lie.to_bytes(8, "little") + data[8:]


def header_offsets(draw: Random, draft: Draft) -> None:
    """Offsets that overlap, leave a hole, run backwards or leave the file."""
    header, body = describe(draft.tensors, draft.metadata)
    entry = header[draw.choice(list(draft.tensors))]
    begin, end = entry["data_offsets"]
    lies = [
        [begin, end + 4],
        [begin + 4, end],
        [end, begin],
        [0, end - begin],
        [-4, end],
        [begin, 2**63],
        [2**64 - 4, 2**64 - 1],
        [2**64, 2**65],
    ]
    entry["data_offsets"] = draw.choice(
        [
            *lies,
            [begin],
            [],
            None,
            [begin, end, end],
            [float(begin), end],
            ["0", end],
            [len(body), len(body) + end - begin],
        ]
    )
    draft.data = frame(json.dumps(header).encode()) + body


def header_values(draw: Random, draft: Draft) -> None:
    """Any value in the header, and other things the format forbids."""
    header, body = describe(draft.tensors, draft.metadata)
    node, key = draw.choice(places(header))
    node[key] = draw.choice(VALUES)
    draft.data = frame(json.dumps(header).encode()) + body


def header_shapes(draw: Random, draft: Draft) -> None:
    """Sides whose product overflows, or many of them."""
    header, body = describe(draft.tensors, draft.metadata)
    entry = header[draw.choice(list(draft.tensors))]
    entry["shape"] = draw.choice(
        [
            [2**32, 2**32],
            [2**63, 2],
            [2**62, 4, 0],
            [1] * 10**4,
            [0, 2**64 - 1],
            [-5, -7],
            [2**40, 7],
            [5.0, 7],
            [True, 35],
        ]
    )
    draft.data = frame(json.dumps(header).encode()) + body


def header_bytes(draw: Random, draft: Draft) -> None:
    data = bytearray(pack(draft.tensors, draft.metadata))
    for _ in range(draw.choice([1, 1, 1, 4])):
        data[draw.randrange(int.from_bytes(data[:8], "little") % len(data) + 8)] = draw.randrange(
            256
        )
    draft.data = bytes(data)


def header_bomb(draw: Random, draft: Draft) -> None:
    """A header that is large, deep, or says a name twice."""
    header, body = describe(draft.tensors, draft.metadata)
    text = json.dumps(header).encode()
    many = draw.choice([2**10, 2**16, 2**20, 2**24])
    padding = {
        "spaces": text + b" " * many,
        "metadata": text.replace(b'"pt"', b'"' + b"x" * many + b'"'),
        "keys": text.replace(
            b'{"format"', b"{" + b"".join(b'"%d":"",' % i for i in range(many // 12)) + b'"format"'
        ),
        "deep": text.replace(b'"pt"', b"[" * min(many, 10**6) + b"]" * min(many, 10**6)),
        "twice": text[:-1] + b", " + text[1:],
        "empty tensors": (
            text[:-1]
            + b"".join(
                b',"t%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}' % i
                for i in range(many // 64)
            )
            + b"}"
        ),
    }
    draft.data = frame(padding[draw.choice(list(padding))]) + body


def body_bytes(draw: Random, draft: Draft) -> None:
    """Flipped, cut and grown under a hash that is right again."""
    data = pack(draft.tensors, draft.metadata)
    at, change = draw.randrange(len(data)), draw.choice(["flip", "cut", "grow"])
    flipped = data[:at] + bytes([data[at] ^ (1 << draw.randrange(8))]) + data[at + 1 :]
    draft.data = {
        "flip": flipped,
        "cut": data[:at],
        "grow": data + draw.randbytes(draw.choice([1, 8, 1000])),
    }[change]


def tensor_name(draw: Random, draft: Draft) -> None:
    """The tensor file under another name, said in the JSON where the format says it; sometimes it
    is there.
    """
    draft.name = draw.choice(ODD_NAMES)
    if draw.random() < 0.5:
        draft.extra["../x"] = pack(draft.tensors, draft.metadata)


CONTENT: dict[str, tuple[int, Callable[[Random, Draft], None]]] = {
    "nothing": (2, lambda *_: None),
    "json: value": (12, set_value),
    "json: number": (10, set_number),
    "json: key gone": (5, delete_key),
    "json: key renamed": (5, rename_key),
    "json: new key": (4, new_key),
    "json: values swapped": (4, swap_values),
    "json: nested": (4, nest),
    "json: key twice": (5, duplicate_key),
    "json: unicode": (5, unicode_text),
    "json: bomb": (1, json_bomb),
    "json: patterns": (4, patterns),
    "both: layer renamed": (4, another_layer),
    "both: rank": (6, another_rank),
    "both: huge claims": (3, huge_claims),
    "tensors: reshaped": (5, reshape),
    "tensors: resized": (5, resize),
    "tensors: dtype": (6, retype),
    "tensors: renamed": (4, rename_tensor),
    "tensors: missing": (3, drop_tensor),
    "tensors: more": (3, add_tensor),
    "tensors: swapped": (4, swap_tensors),
    "tensors: odd numbers": (5, odd_numbers),
    "header: length": (4, header_length),
    "header: offsets": (5, header_offsets),
    "header: values": (5, header_values),
    "header: shapes": (3, header_shapes),
    "header: bytes": (6, header_bytes),
    "header: bomb": (2, header_bomb),
    "bytes, sealed": (7, body_bytes),
    "path: name in json": (3, tensor_name),
}


# --- the folder -----------------------------------------------------------------------------------


def flip(draw: Random, files: Files, name: str) -> None:
    data = bytearray(content(files, name))
    for _ in range(draw.choice([1, 1, 1, 8])):
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    files[name] = bytes(data)


def cut(draw: Random, files: Files, name: str) -> None:
    data = content(files, name)
    files[name] = data[: draw.choice([0, 1, 7, 8, 9, len(data) - 1, draw.randrange(len(data))])]


def grow(draw: Random, files: Files, name: str) -> None:
    data, at = content(files, name), draw.randrange(len(content(files, name)))
    more = draw.choice([b"\0", b" ", b"\n", b"}", b"{}", draw.randbytes(100), data, bytes(10**6)])
    files[name] = data[:at] + more + data[at:] if draw.random() < 0.5 else data + more


def rename_file(draw: Random, files: Files, name: str) -> None:
    """Gone, renamed, or with the other file's content."""
    data = files.pop(name)
    change = draw.choice(["gone", "renamed", "exchanged"])
    if change == "renamed":
        files[
            draw.choice(
                [
                    name.upper(),
                    f"{name}.bak",
                    "adapter_model.bin",
                    "adapter.json",
                    "adapter_config.json",
                ]
            )
        ] = data
    elif change == "exchanged" and files:
        other = draw.choice(list(files))
        files[name], files[other] = files[other], data


def replace_file(draw: Random, files: Files, name: str) -> None:
    """Something else in the place of a file; where it leads to the content itself, the load may be
    right.
    """
    data, make = content(files, name), KINDS_OF_FILE[draw.choice(list(KINDS_OF_FILE))]
    files[name] = lambda path: make(path, data)


def content(files: Files, name: str) -> bytes:
    data = files[name]
    return data if isinstance(data, bytes) and data else b"\0"


def _elsewhere(path: Path, data: bytes) -> None:
    other = path.parent.parent / "elsewhere"
    other.write_bytes(data)
    path.symlink_to(other)


def _socket(path: Path, _: bytes) -> None:
    # a long path cannot be bound
    with socket.socket(socket.AF_UNIX) as server, contextlib.suppress(OSError):
        server.bind(str(path))


def _sparse(path: Path, data: bytes, size: int = 2**40) -> None:
    path.write_bytes(data)
    os.truncate(path, size)


KINDS_OF_FILE: dict[str, Callable[[Path, bytes], object]] = {
    "FIFO": lambda path, _: os.mkfifo(path),
    "directory": lambda path, _: path.mkdir(),
    "socket": _socket,
    "sparse, 1 TiB": _sparse,
    "sparse, 300 MiB": lambda path, data: _sparse(path, data, 300 * 2**20),
    "link to the content": _elsewhere,
    "link to itself": lambda path, _: path.symlink_to(path),
    "link to nothing": lambda path, _: path.symlink_to("nowhere"),
    "link to its folder": lambda path, _: path.symlink_to("."),
    "link to /dev/zero": lambda path, _: path.symlink_to("/dev/zero"),
    "link to /dev/urandom": lambda path, _: path.symlink_to("/dev/urandom"),
    "link to /dev/null": lambda path, _: path.symlink_to("/dev/null"),
    "link to /dev/tty": lambda path, _: path.symlink_to("/dev/tty"),
    "link to /dev/stdin": lambda path, _: path.symlink_to("/dev/stdin"),
    "link to a file without a size": lambda path, _: path.symlink_to("/proc/self/environ"),
    "link to an endless file without a size": lambda path, _: path.symlink_to("/proc/self/pagemap"),
    "link to memory": lambda path, _: path.symlink_to("/proc/self/mem"),
    "not readable": lambda path, data: (path.write_bytes(data), path.chmod(0)),
}

FILES: dict[str, tuple[int, Callable[[Random, Files, str], None]]] = {
    "bytes: flipped": (12, flip),
    "bytes: cut": (8, cut),
    "bytes: grown": (6, grow),
    "path: file renamed": (4, rename_file),
    "path: file replaced": (14, replace_file),
}


def write(folder: Path, files: Files) -> None:
    """Put the files into a new folder; a name that cannot be written is left out."""
    folder.mkdir(parents=True)
    for name, data in files.items():
        path = folder / name
        with contextlib.suppress(OSError, ValueError):
            if isinstance(data, bytes):
                path.write_bytes(data)
            else:
                data(path)


def digest(data: bytes, tail: int = 0) -> str:
    """SHA-256 of `data` and as many zeros after it."""
    total = hashlib.sha256(data)
    zeros = bytes(2**20)
    for _ in range(tail // len(zeros)):
        total.update(zeros)
    total.update(zeros[: tail % len(zeros)])
    return total.hexdigest()
