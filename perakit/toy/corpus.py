"""Text for small experiments, found on the reader's own disk: nothing is downloaded.

A corpus is bytes, UTF-8 and cut between characters, split by file into training and held-out text,
with a hash that every result carries.
"""

from __future__ import annotations

import ast
import codecs
import hashlib
import importlib.metadata
import importlib.util
import inspect
import io
import os
import platform
import random
import sysconfig
import tokenize
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perakit.errors import PerakitError, short
from perakit.files import read_plain

SKIPPED_FOLDERS = {
    "test",
    "tests",
    "idle_test",
    "encodings",
    "pydoc_data",
    "site-packages",
    "dist-packages",
    "__pycache__",
}
HELD_OUT_SHARE = 10  # one file in ten is held out
SHORTEST_DOCSTRING = 40  # characters; shorter ones are labels, not prose
LARGEST = 2**30  # bytes of a text file: it is held in memory a few times
LARGEST_SOURCE = 2**26  # bytes of a Python file, whose tree takes fifty times as much
# What a text begins with to say how it is written; UTF-32 first, whose mark begins as UTF-16's does
MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
    codecs.BOM_UTF8: "utf-8-sig",
}
SPECS = (
    "prose, code, prose:PACKAGE, package:PACKAGE, synthetic, product, sum (or synthetic:SEED, ...),"
    " several joined with '+', or a path to a text file"
)


@dataclass(frozen=True)
class Corpus:
    """Training and held-out text, as bytes, and where they come from.

    name: the spec that `load` was given; source: in words, with versions; sha256: of train and
    held-out text.
    """

    name: str
    train: bytes
    heldout: bytes
    source: str

    @property
    def sha256(self) -> str:
        """Hash of the training and held-out text together."""
        return hashlib.sha256(b"%d:" % len(self.train) + self.train + self.heldout).hexdigest()

    def describe(self) -> dict[str, str | int]:
        """The facts that go beside every number made from this text."""
        return {
            "text": self.name,
            "source": self.source,
            "train_bytes": len(self.train),
            "heldout_bytes": len(self.heldout),
            "sha256": self.sha256,
        }


def load(spec: str, limit: int | None = None) -> Corpus:
    """Read the text that `spec` names.

    spec: "prose" is the docstrings of the running Python's standard library, "code" its source
    without docstrings; "prose:NAME" and "package:NAME" are the same two of an installed package (it
    is read, never imported); "synthetic" or "synthetic:SEED" is a made-up sorting task; "product"
    and "sum" are lines of signs, each third sign the product or the sum's sign of two before it
    (0 counts as +); "a+b" joins two; anything else is a path.
    limit: keep at most this many bytes of training text, and a ninth of it of held-out text; None
    keeps all. Files, not passages, are held out, chosen by a hash of their path; a passage that
    stands in both is left out of the held-out text. A text file of the user's is cut once, its last
    tenth held out; it is UTF-8, or says what else it is by a byte order mark or a coding comment.
    All cuts are between characters, so that a part can be up to three bytes shorter. Raises
    PerakitError on a text that is not there, is larger than 1 GiB, is binary, or of an encoding
    that it does not say.
    """
    if not isinstance(spec, str):
        raise PerakitError(f"the text is a str, not {short(spec)}: give {SPECS}")
    if limit is not None and limit < 1:
        raise PerakitError(
            f"limit={limit!r} must be an integer >= 1: bytes of training text to keep"
        )
    found = (
        [_file(Path(spec))]
        if os.path.exists(spec) and not os.path.isdir(spec)
        else [_find(part, limit) for part in spec.split("+")]
    )
    trained = {passage for part in found for passage in part.train}
    train = [part.train for part in found]
    heldout = [[passage for passage in part.heldout if passage not in trained] for part in found]
    heldout_limit = None if limit is None else limit // (HELD_OUT_SHARE - 1)
    return Corpus(
        spec,
        _join(train, limit),
        _join(heldout, heldout_limit),
        "; ".join(part.source for part in found),
    )


@dataclass(frozen=True)
class _Passages:
    train: list[bytes]
    heldout: list[bytes]
    source: str


def _join(parts: list[list[bytes]], limit: int | None) -> bytes:
    """The passages of all parts; each part gets an equal share of the limit."""
    texts = [b"\n\n".join(passages) for passages in parts]
    if limit is None:
        return b"\n\n".join(texts)
    share = -(-limit // len(parts))
    return _head(b"\n\n".join(_head(text, share) for text in texts), limit)


def _head(text: bytes, size: int) -> bytes:
    """The first `size` bytes of UTF-8, or up to three less: a character stays whole."""
    while size < len(text) and 0x80 <= text[size] < 0xC0:  # inside a character
        size -= 1
    return text[:size]


def _find(spec: str, limit: int | None) -> _Passages:
    kind, _, argument = spec.partition(":")
    if kind in TASKS:
        return _made_up(kind, argument)
    if kind == "package" and not argument:
        raise PerakitError("package: needs a name, for example package:sympy")
    if kind in ("prose", "code", "package"):
        root, source = _package(argument) if argument else _standard_library()
        return _python_text(root, source, prose=kind == "prose", limit=limit)
    raise PerakitError(f"no text file {spec!r}: give {SPECS}")


def _file(path: Path) -> _Passages:
    text = _utf8(read_plain(path, LARGEST, f"give {SPECS}"), str(path))
    train = _head(text, len(text) - len(text) // HELD_OUT_SHARE)
    return _Passages([train], [text[len(train) :]], f"file {path.name}, last tenth held out")


def _utf8(data: bytes, name: str) -> bytes:
    """A text of the user's as UTF-8 without a byte order mark; valid UTF-8 stays as it is.

    PerakitError for what is no text, or does not say which encoding it has.
    """
    mark = next((mark for mark in MARKS if data.startswith(mark)), b"")
    binary = f"{name!r} is a binary file (it has zero bytes), no text: give {SPECS}"
    try:
        text = data.decode(MARKS[mark] if mark else _declared(data))
        found = text.encode()
    except (UnicodeError, LookupError, SyntaxError) as error:
        if b"\0" in data and not mark:
            raise PerakitError(binary) from error
        raise PerakitError(
            f"text {name!r} is not UTF-8 and says no encoding that it has ({error}): convert it,"
            " for example with iconv -f latin1 -t utf-8"
        ) from error
    if "\0" in text:
        raise PerakitError(binary)
    return found


def _declared(data: bytes) -> str:
    """The encoding in a comment of the first two lines (PEP 263), if the text is not UTF-8."""
    try:
        data.decode()
    except UnicodeDecodeError:
        return tokenize.detect_encoding(io.BytesIO(data).readline)[0]
    return "utf-8"


def _standard_library() -> tuple[Path, str]:
    return (
        Path(sysconfig.get_paths()["stdlib"]),
        f"standard library of Python {platform.python_version()}",
    )


def _package(name: str) -> tuple[Path, str]:
    try:
        found = importlib.util.find_spec(name) if name.isidentifier() else None
    except ValueError:  # of a module that has no specification, such as __main__
        found = None
    if found is None or not found.submodule_search_locations:
        raise PerakitError(
            f"no installed package {name!r} with Python source: install it or name another"
        )
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        version = "of unknown version"
    return Path(next(iter(found.submodule_search_locations))), f"package {name} {version}"


def _python_text(root: Path, source: str, prose: bool, limit: int | None) -> _Passages:
    """Docstrings (prose) or docstring-free source (code) of the Python files below `root`."""
    # Held out? -> passages, each once, in order
    kept: dict[bool, dict[bytes, None]] = {False: {}, True: {}}
    size = {False: 0, True: 0}
    files = 0
    # In the order of a hash, so that a limit keeps a mixture of all files, not the first of the
    # alphabet.
    for digest, path in sorted(_files(root)):
        heldout = int(digest, 16) % HELD_OUT_SHARE == 0
        if limit is not None and size[heldout] > limit:
            continue
        passages = _passages(path, prose)
        kept[heldout].update(dict.fromkeys(passages))
        size[heldout] += sum(map(len, passages))
        files += bool(passages)
    if not kept[False] or not kept[True]:
        raise PerakitError(
            f"{root.name}: the {source} has too few Python source files on this machine: choose"
            f" another text ({SPECS})"
        )
    kind = "docstrings" if prose else "code without docstrings"
    return _Passages(
        list(kept[False]), list(kept[True]), f"{kind} of {files} files, {source}, split by file"
    )


def _files(root: Path) -> Iterator[tuple[str, Path]]:
    """Each source file below `root`, with the hash of its relative path."""
    for path in root.rglob("*.py"):
        relative = path.relative_to(root)
        if not SKIPPED_FOLDERS.intersection(relative.parts[:-1]):
            yield hashlib.sha256(relative.as_posix().encode()).hexdigest(), path


def _passages(path: Path, prose: bool) -> list[bytes]:
    """A file's docstrings, or its source without them as one passage; none where unreadable."""
    try:
        data = io.BytesIO(read_plain(path, LARGEST_SOURCE, "give Python source"))
        encoding, _ = tokenize.detect_encoding(data.readline)
        text = io.TextIOWrapper(io.BytesIO(data.getvalue()), encoding).read()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in other people's strings
            tree = ast.parse(text)
    # ValueError: zero bytes, and text that is not in the encoding that it says
    except (PerakitError, LookupError, SyntaxError, ValueError, RecursionError):
        return []
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    # A node that has a docstring begins with the expression statement that holds it.
    owners: list[Any] = [
        node
        for node in ast.walk(tree)
        if isinstance(node, documented) and ast.get_docstring(node, clean=False)
    ]
    if prose:
        cleaned = (inspect.cleandoc(owner.body[0].value.value) for owner in owners)
        # A docstring can hold half a surrogate pair, written as an escape: it stays one
        return [
            passage.encode(errors="backslashreplace")
            for passage in cleaned
            if len(passage) >= SHORTEST_DOCSTRING
        ]
    lines = text.encode().split(b"\n")  # bytes: the columns of ast count them
    for owner in owners:
        node = owner.body[0]
        first, last = node.lineno - 1, node.end_lineno - 1
        before, after = lines[first][: node.col_offset], lines[last][node.end_col_offset :]
        # Something must stand there
        needed = len(owner.body) == 1 or before.strip() or after.strip()
        lines[first : last + 1] = [before + (b"pass" if needed else b"") + after] + [b""] * (
            last - first
        )
    code = b"\n".join(line for line in lines if line.strip())
    return [code] if code else []


def _made_up(task: str, seed: str) -> _Passages:
    """Lines of a made-up task, the same for the same seed everywhere."""
    if seed and not (seed.isascii() and seed.isdigit() and len(seed) < 19):
        raise PerakitError(f"{task}:SEED needs a whole number below 10**18, not {short(seed)}")
    line, about = TASKS[task]
    draw = random.Random(int(seed or 0))
    train, heldout = ("".join(line(draw) for _ in range(count)).encode() for count in (6000, 600))
    return _Passages([train], [heldout], f"made-up {about} task, seed {seed or 0}")


def _sorted(draw: random.Random) -> str:
    """A line such as `sort 30412 -> 01234`: a task with an answer."""
    digits = [draw.choice("0123456789") for _ in range(draw.randint(3, 6))]
    return f"sort {''.join(digits)} -> {''.join(sorted(digits))}\n"


def _signs(rule: Callable[[int, int], int]) -> Callable[[random.Random], str]:
    """Lines of eight triples of signs such as `+--`: two that are drawn, and what a rule says.

    16 random bits in 32 bytes: no model costs less than half a bit a byte.
    """

    def line(draw: random.Random) -> str:
        pairs = [(draw.choice((1, -1)), draw.choice((1, -1))) for _ in range(8)]
        triples = ((a, b, rule(a, b)) for a, b in pairs)
        return " ".join("".join("-+"[x > 0] for x in three) for three in triples) + "\n"

    return line


# Task -> its line, and what it is about. The answer of `product` is the product of two features, no
# threshold of their sum; that of `sum` is such a threshold, with the same letters and lengths.
TASKS: dict[str, tuple[Callable[[random.Random], str], str]] = {
    "synthetic": (_sorted, "sorting"),
    "product": (_signs(lambda a, b: a * b), "product of signs"),
    "sum": (_signs(lambda a, b: 1 if a + b >= 0 else -1), "sum of signs"),
}
