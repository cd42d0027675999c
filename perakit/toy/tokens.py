"""Text to token ids and back: raw bytes for the tiny model, GPT-2's vocabulary when pretrained."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from perakit.errors import PerakitError, listed, short
from perakit.files import as_folder, read_plain
from perakit.toy import hub

LIMIT = 6 * 2**20  # bytes of a file; GPT-2's tokenizer.json has 3,600,000
SMALL = 2**16  # bytes of all but tokens and merges; theirs has some hundred
WHOLE, VOCABULARY, MERGES = "tokenizer.json", "vocab.json", "merges.txt"
SETTINGS, ADDED = "tokenizer_config.json", "added_tokens.json"
# Any of them says that a folder has a tokenizer, be it one that is not read here
FILES = (
    *(WHOLE, VOCABULARY, MERGES, SETTINGS, ADDED, "special_tokens_map.json"),
    *("encoder.json", "vocab.bpe", "vocab.txt", "spiece.model", "tokenizer.model"),
)
END = "<|endoftext|>"
STRAY = re.compile("([\udc80-\udcff]+)")
# The letter that byte-level vocabularies write for a byte: itself where it has a sign of its own
SIGNS = (*range(33, 127), *range(161, 173), *range(174, 256))
LETTERS = {byte: chr(byte) for byte in SIGNS} | {
    byte: chr(256 + n) for n, byte in enumerate(sorted(set(range(256)) - set(SIGNS)))
}


class Tokenizer(Protocol):
    """What the training loop asks of a tokenizer."""

    vocab_size: int

    def encode(self, text: bytes) -> Tensor:
        """Token ids (tokens,) of `text`."""

    def decode(self, ids: Tensor) -> str:
        """The text of token ids (tokens,)."""


class Bytes:
    """Every byte is a token: 256 of them, any text, nothing to download."""

    vocab_size = 256

    def encode(self, text: bytes) -> Tensor:
        # Widened to int64 a batch at a time
        return torch.tensor(bytearray(text), dtype=torch.uint8)

    def decode(self, ids: Tensor) -> str:
        # To be looked at, never encoded again: what a model samples need not be UTF-8
        return bytes(ids.tolist()).decode(errors="replace")


class Pretrained:
    """The tokenizer that lies beside a checkpoint, read by tokenizers (extra `hf`).

    source: a folder with `tokenizer.json`, or with GPT-2's `vocab.json` and `merges.txt`, or a
    repository of the hub; definition: the text of `tokenizer.json` where it is at hand, and source
    then only its name. vocab_size: one more than the largest id. Raises PerakitError where there is
    none, or it is damaged.
    """

    def __init__(self, source: str | Path, definition: str | None = None) -> None:
        try:
            import tokenizers
        except ImportError as error:
            raise PerakitError(
                f"the tokenizer of {str(source)!r} needs the package tokenizers: pip install"
                " 'perakit[hf]'"
            ) from error
        self._source, folder = str(source), as_folder(source)
        if definition is None and not os.path.isdir(folder):
            folder = hub.fetch("tokenizer", self._source, FILES, is_readable)
        try:
            if definition is None:
                definition = _definition(folder, self._source)
            _check_parts(json.loads(definition))
            self._tokenizer: Any = tokenizers.Tokenizer.from_str(definition)
            # Some files say to cut or to fill every text that they encode
            self._tokenizer.no_truncation()
            self._tokenizer.no_padding()
            ids = self._tokenizer.get_vocab(with_added_tokens=True)
            self._look_at(ids)
        except PerakitError:
            raise
        # its parser has one class for all that it meets, Exception, and panics with another
        except BaseException as error:
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise
            raise PerakitError(
                f"the tokenizer of {self._source!r} is damaged ({error}): copy it again"
            ) from error
        self.vocab_size = max(ids.values(), default=-1) + 1
        if not self.vocab_size:
            raise PerakitError(f"the tokenizer of {self._source!r} has no token: copy it again")
        if len(set(ids.values())) < len(ids):
            names = {number: name for name, number in ids.items()}
            twice = [name for name, number in ids.items() if names[number] != name]
            raise PerakitError(
                f"the tokenizer of {self._source!r} gives {short(twice[0])} and"
                f" {short(names[ids[twice[0]]])} one id: copy it again"
            )

    def _look_at(self, ids: dict[str, int]) -> None:
        """What becomes of a byte or a character of which the vocabulary knows nothing.

        drops: the model leaves it out in silence. letters: byte -> id, where tokens are written as
        letters for bytes. cuttable: a text is the tokens of its pieces, so that it may be cut
        anywhere, down to bytes.
        """
        from tokenizers import decoders, models

        model, plain = self._tokenizer.model, self._tokenizer.normalizer is None
        pairs = isinstance(model, models.BPE)
        self._drops = pairs and model.unk_token is None and not model.byte_fallback
        self._letters: dict[int, int] = {}
        if pairs and plain and isinstance(self._tokenizer.decoder, decoders.ByteLevel):
            self._letters = {byte: ids[sign] for byte, sign in LETTERS.items() if sign in ids}
        probe = "".join(chr(byte) for byte in self._letters if 32 < byte < 127)
        same = self._characters(self._tokenizer.encode(probe).ids) == probe
        self._cuttable = bool(probe) and same and not self._tokenizer.encode("").ids

    def encode(self, text: bytes) -> Tensor:
        """Token ids (tokens,) of `text`.

        A byte that is part of no character, as where a text was cut inside one, is the token that a
        byte-level vocabulary has for it. PerakitError where the tokenizer would leave anything out.
        """
        lost = sorted(set(text) - self._letters.keys()) if self._letters and self._drops else []
        if lost:
            raise self._no_token(f"the bytes {', '.join(map(hex, lost))}")
        try:
            characters = text.decode()
        except UnicodeDecodeError as error:
            if not self._cuttable or set(text) - self._letters.keys():
                raise PerakitError(
                    f"the text is not UTF-8 at byte {error.start:,}, and the tokenizer of"
                    f" {self._source!r} reads no bytes: pass text in UTF-8"
                ) from error
            characters = text.decode(errors="surrogateescape")
        ids = []
        # Odd pieces are the bytes between the characters, as surrogates
        for number, piece in enumerate(STRAY.split(characters)):
            if number % 2:
                ids += [self._letters[byte] for byte in piece.encode(errors="surrogateescape")]
            else:
                ids += self._ids(piece)
        return torch.tensor(ids, dtype=torch.int32)

    def decode(self, ids: Tensor) -> str:
        return self._characters(ids.tolist())

    def _characters(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=False))

    def _ids(self, text: str) -> list[int]:
        if self._drops and not self._letters:
            # What leaves no trace is one as it is two; spaces can be there to part words only
            once = {letter: self._tokenizer.encode(letter).ids for letter in set(text)}
            twice = {letter: self._tokenizer.encode(2 * letter).ids for letter in once}
            same = (letter for letter in sorted(once) if once[letter] == twice[letter])
            lost = [letter for letter in same if not letter.isspace()]
            if lost:
                raise self._no_token(listed(lost))
        return list(self._tokenizer.encode(text).ids)

    def _no_token(self, what: str) -> PerakitError:
        return PerakitError(
            f"the tokenizer of {self._source!r} has no token for {what}: pass text of its alphabet"
        )


def tokenizer_files(folder: Path) -> list[str]:
    """The files of a folder that belong to a tokenizer, also one that is not read here."""
    try:
        return sorted(set(FILES) & set(os.listdir(folder)))
    except OSError as error:
        raise PerakitError(
            f"cannot list {str(folder)!r}: {error.strerror}; give a folder that can be read"
        ) from error


def is_readable(folder: Path) -> bool:
    """Whether a folder has a tokenizer that is read here."""
    found = tokenizer_files(folder)
    return WHOLE in found or {VOCABULARY, MERGES} <= set(found)


def _definition(folder: Path, source: str) -> str:
    """A tokenizer as JSON, as `tokenizer.json` has it; PerakitError where there is none."""
    found = tokenizer_files(folder)
    if WHOLE in found:
        return _text(folder / WHOLE)
    if {VOCABULARY, MERGES} <= set(found):
        return json.dumps(_byte_pairs(folder, found, source))
    which = f", and {listed(found)} is not enough" if found else ""
    raise PerakitError(
        f"no tokenizer at {source!r}: put tokenizer.json beside the checkpoint{which}"
    )


def _check_parts(definition: Any) -> None:
    """Refuse, with a ValueError, what the parser would take a hundred times its size for.

    Only tokens and merges may be many, and each is a word, or two, with a number.
    """
    model = dict(definition["model"])
    tokens, merges = model.pop("vocab", {}), model.pop("merges", [])
    added = definition.get("added_tokens") or []
    rest = {key: part for key, part in definition.items() if key not in ("model", "added_tokens")}
    pairs = tokens.items() if isinstance(tokens, dict) else tokens
    if not (
        len(json.dumps([model, rest])) <= SMALL
        and all(len(pair) == 2 and isinstance(pair[0], str) for pair in pairs)
        and all(type(pair[1]) in (int, float) for pair in pairs)
        and all(isinstance(merge, str) or list(map(type, merge)) == [str, str] for merge in merges)
        and all(isinstance(token, dict) and len(json.dumps(token)) <= SMALL for token in added)
    ):
        raise ValueError("it has more than tokens and merges, or other ones")


def _byte_pairs(folder: Path, found: list[str], source: str) -> dict[str, Any]:
    """The tokenizer of GPT-2's own two files."""
    vocabulary = json.loads(_text(folder / VOCABULARY))
    merges = [
        line
        for number, line in enumerate(_text(folder / MERGES).split("\n"))
        if line and not (number == 0 and line.startswith("#version"))
    ]
    settings = json.loads(_text(folder / SETTINGS)) if SETTINGS in found else {}
    added = json.loads(_text(folder / ADDED)) if ADDED in found else {}
    named = [token["content"] for token in settings.get("added_tokens_decoder", {}).values()]
    beyond = [name for name in (*added, *named) if name not in vocabulary]
    framed = [key for key in ("add_bos_token", "add_eos_token") if settings.get(key)]
    if beyond or framed:
        raise PerakitError(
            f"the tokenizer of {source!r} has {listed(beyond + framed)} beside {VOCABULARY}: save"
            f" it with transformers as {WHOLE}"
        )
    special = {"special": True, "single_word": False, "lstrip": False, "rstrip": False}
    level = {"type": "ByteLevel", "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "added_tokens": [
            {"id": vocabulary[name], "content": name, "normalized": False} | special
            for name in sorted({END, *named, *added} & vocabulary.keys(), key=vocabulary.get)
        ],
        "pre_tokenizer": level | {"add_prefix_space": bool(settings.get("add_prefix_space"))},
        "decoder": level | {"add_prefix_space": False},
        "model": {"type": "BPE", "vocab": vocabulary, "merges": merges},
    }


def _text(path: Path) -> str:
    return read_plain(path, LIMIT, "copy the tokenizer again").decode()
