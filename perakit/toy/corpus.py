"""Text for small experiments, found on the reader's own disk: nothing is downloaded.

A corpus is bytes, split by file into training and held-out text, with a hash that every result
carries.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import importlib.util
import inspect
import os
import platform
import random
import sysconfig
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perakit.errors import PerakitError

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
SPECS = (
    "prose, code, prose:PACKAGE, package:PACKAGE, synthetic, synthetic:SEED, several joined with"
    " '+', or a path to a text file"
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
    is read, never imported); "synthetic" or "synthetic:SEED" is a made-up sorting task; "a+b" joins
    two; anything else is a path.
    limit: keep at most this many bytes of training text, and a ninth of it of held-out text; None
    keeps all. Files, not passages, are held out, chosen by a hash of their path; a passage that
    stands in both is left out of the held-out text. A text file of the user's is cut once, its last
    tenth held out.
    """
    if limit is not None and limit < 1:
        raise PerakitError(
            f"limit={limit!r} must be an integer >= 1: bytes of training text to keep"
        )
    found = (
        [_file(Path(spec))]
        if os.path.isfile(spec)
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
    share = None if limit is None else -(-limit // len(parts))
    return b"\n\n".join(b"\n\n".join(passages)[:share] for passages in parts)[:limit]


def _find(spec: str, limit: int | None) -> _Passages:
    kind, _, argument = spec.partition(":")
    if kind == "synthetic":
        return _synthetic(argument)
    if kind == "package" and not argument:
        raise PerakitError("package: needs a name, for example package:sympy")
    if kind in ("prose", "code", "package"):
        root, source = _package(argument) if argument else _standard_library()
        return _python_text(root, source, prose=kind == "prose", limit=limit)
    raise PerakitError(f"no text file {spec!r}: give {SPECS}")


def _file(path: Path) -> _Passages:
    try:
        text = path.read_bytes()
    except OSError as error:
        raise PerakitError(
            f"cannot read text {str(path)!r}: {error.strerror}; give {SPECS}"
        ) from error
    cut = len(text) - len(text) // HELD_OUT_SHARE
    return _Passages([text[:cut]], [text[cut:]], f"file {path.name}, last tenth held out")


def _standard_library() -> tuple[Path, str]:
    return (
        Path(sysconfig.get_paths()["stdlib"]),
        f"standard library of Python {platform.python_version()}",
    )


def _package(name: str) -> tuple[Path, str]:
    found = importlib.util.find_spec(name) if name.isidentifier() else None
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
        text = path.read_text(encoding="utf-8")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in other people's strings
            tree = ast.parse(text)
    except (OSError, UnicodeDecodeError, SyntaxError, ValueError, RecursionError):
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
        return [passage.encode() for passage in cleaned if len(passage) >= SHORTEST_DOCSTRING]
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


def _synthetic(seed: str) -> _Passages:
    """Lines such as `sort 30412 -> 01234`: a task with an answer."""
    if seed and not (seed.isascii() and seed.isdigit()):
        raise PerakitError(f"synthetic:SEED needs a whole number, got {seed!r}")
    # The same for the same seed everywhere
    draw = random.Random(int(seed or 0))

    def lines(count: int) -> bytes:
        made = []
        for _ in range(count):
            digits = [draw.choice("0123456789") for _ in range(draw.randint(3, 6))]
            made.append(f"sort {''.join(digits)} -> {''.join(sorted(digits))}\n")
        return "".join(made).encode()

    return _Passages([lines(6000)], [lines(600)], f"made-up sorting task, seed {seed or 0}")
