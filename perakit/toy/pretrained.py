"""Trained GPT-2s: the tiny one that ships, a local checkpoint folder, or a named one of the hub."""

from __future__ import annotations

import os
from pathlib import Path

from perakit.errors import PerakitError, short
from perakit.files import as_folder
from perakit.toy import checkpoint, hub
from perakit.toy.gpt2 import GPT2
from perakit.toy.tokens import Bytes, Pretrained, Tokenizer, tokenizer_files

TINY = Path(__file__).parent / "weights"
HUB_NAMES = ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")


def load(source: str | Path = "tiny") -> GPT2:
    """A GPT-2 in eval mode, float32, on the CPU.

    source: "tiny", the byte-level model that ships with perakit; a folder with `config.json` and
    `model.safetensors`, or its shards, of any GPT-2; or "gpt2", "gpt2-medium", "gpt2-large",
    "gpt2-xl", out of the cache of huggingface_hub (extra `hf`) or from the hub. An output head of
    its own is used, whatever config.json says of it. Raises PerakitError where it is not there,
    damaged, or no GPT-2, or where a tensor would go unused.

    >>> model = pk.toy.load("tiny")
    >>> sum(parameter.numel() for parameter in model.parameters())
    1878144
    """
    if source == "tiny":
        return checkpoint.read(TINY, "tiny")
    if isinstance(source, str | Path) and os.path.isdir(source):
        return checkpoint.read(Path(source), str(source))
    if source in HUB_NAMES:
        name = str(source)
        files = (checkpoint.CONFIG, checkpoint.SINGLE)
        return checkpoint.read(hub.fetch("model", name, files, checkpoint.is_whole), name)
    raise PerakitError(
        f"no model {short(str(source))}: give 'tiny', a checkpoint folder, or one of"
        f" {', '.join(HUB_NAMES)}"
    )


def tokenizer(source: str | Path, model: GPT2) -> Tokenizer:
    """The tokenizer that belongs to `load(source)`.

    It is the one in the folder, or in the hub's repository. Raw bytes are that of "tiny", and of a
    folder without a tokenizer whose model has a vocabulary of 256. Raises PerakitError where there
    is none, it is damaged, or it has more tokens than the model.

    >>> tokenizer = pk.toy.tokenizer("tiny", pk.toy.load("tiny"))
    >>> [int(token) for token in tokenizer.encode(b"PERA")]
    [80, 69, 82, 65]
    """
    vocab, folder = model.config.vocab_size, as_folder(source)
    alone = os.path.isdir(folder) and not tokenizer_files(folder)
    if source == "tiny" or (alone and vocab == Bytes.vocab_size):
        found: Tokenizer = Bytes()
    else:
        found = Pretrained(source)
    if found.vocab_size > vocab:
        raise PerakitError(
            f"the tokenizer of {str(source)!r} has {found.vocab_size} tokens, the model {vocab}"
        )
    return found
