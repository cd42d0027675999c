"""Trained GPT-2s: the tiny one that ships, a local checkpoint folder, or a named one of the hub."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from perakit.errors import PerakitError
from perakit.toy.gpt2 import GPT2, Config
from perakit.toy.tokens import Bytes, Pretrained, Tokenizer

TINY = Path(__file__).parent / "weights"
HUB_NAMES = ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")
MASKS = (".attn.bias", ".attn.masked_bias")  # causal masks that old checkpoints store as weights


def load(source: str | Path = "tiny") -> GPT2:
    """A GPT-2 in eval mode, float32, on the CPU.

    source: "tiny", the byte-level model that ships with perakit; a folder with `config.json` and
    `model.safetensors` of any GPT-2; or "gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl", which
    transformers (extra `hf`) fetches from its cache or the hub. Raises PerakitError where it is not
    there, damaged, or no GPT-2.

    >>> model = pk.toy.load("tiny")
    >>> sum(parameter.numel() for parameter in model.parameters())
    1878144
    """
    if source == "tiny":
        return _from_folder(TINY)
    if Path(source).is_dir():
        return _from_folder(Path(source))
    if source in HUB_NAMES:
        return _from_hub(str(source))
    raise PerakitError(
        f"no model {str(source)!r}: give 'tiny', a checkpoint folder, or one of"
        f" {', '.join(HUB_NAMES)}"
    )


def tokenizer(source: str | Path, model: GPT2) -> Tokenizer:
    """The tokenizer that belongs to `load(source)`: raw bytes where the vocabulary is 256.

    >>> tokenizer = pk.toy.tokenizer("tiny", pk.toy.load("tiny"))
    >>> [int(token) for token in tokenizer.encode(b"PERA")]
    [80, 69, 82, 65]
    """
    if model.config.vocab_size == Bytes.vocab_size:
        return Bytes()
    found = Pretrained(source)
    if found.vocab_size > model.config.vocab_size:
        raise PerakitError(
            f"the tokenizer of {str(source)!r} has {found.vocab_size} tokens, the model"
            f" {model.config.vocab_size}"
        )
    return found


def _from_folder(folder: Path) -> GPT2:
    try:
        config = json.loads((folder / "config.json").read_bytes())
        state = load_file(folder / "model.safetensors")
    except OSError as error:
        raise PerakitError(
            f"{str(folder)!r} is not a checkpoint folder ({error}): it needs config.json and"
            " model.safetensors"
        ) from error
    except (ValueError, RecursionError, SafetensorError) as error:
        raise PerakitError(
            f"the checkpoint in {str(folder)!r} is damaged ({error}): copy it again"
        ) from error
    if not isinstance(config, dict):
        raise PerakitError(
            f"config.json in {str(folder)!r} is not a JSON object: copy the checkpoint again"
        )
    return _build(Config.from_dict(config), state, str(folder))


def _from_hub(name: str) -> GPT2:
    try:
        from transformers import GPT2LMHeadModel
    except ImportError as error:
        raise PerakitError(
            f"model {name!r} comes through transformers: pip install 'perakit[hf]', or give a"
            " checkpoint folder"
        ) from error
    try:
        try:
            # The cache, without asking the hub
            theirs = GPT2LMHeadModel.from_pretrained(name, local_files_only=True)
        except OSError:
            theirs = GPT2LMHeadModel.from_pretrained(name)
    except OSError as error:
        raise PerakitError(
            f"model {name!r} is not in the local cache and the hub cannot be reached: give a"
            " checkpoint folder"
        ) from error
    return _build(Config.from_dict(theirs.config.to_dict()), theirs.state_dict(), name)


def _build(config: Config, state: dict[str, Tensor], source: str) -> GPT2:
    """A GPT2 around the tensors of a checkpoint, whose names and shapes must all fit."""
    if config.n_layer > len(state):  # before so many layers are made
        raise PerakitError(
            f"config.json of {source!r} claims {config.n_layer} layers, its weights are"
            f" {len(state)} tensors: copy it again"
        )
    with torch.device("meta"):
        model = GPT2(config)
    wanted = {
        name: tensor.shape
        for name, tensor in model.state_dict().items()
        if name != "lm_head.weight"
    }
    names = {
        key if key.startswith(("transformer.", "lm_head.")) else f"transformer.{key}": key
        for key in state
        if not key.endswith(MASKS)
    }
    found = {name: state[key].shape for name, key in names.items() if name != "lm_head.weight"}
    if found != wanted:
        odd = sorted(
            name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name)
        )
        shown = "; ".join(
            f"{name}: {_shape(found.get(name))}, config.json wants {_shape(wanted.get(name))}"
            for name in odd[:4]
        )
        raise PerakitError(f"the weights of {source!r} are not those of its config.json: {shown}")
    model.load_state_dict(
        {name: state[names[name]].float() for name in wanted}, strict=False, assign=True
    )
    model.tie_weights()
    return model.eval()


def _shape(shape: torch.Size | None) -> str:
    return "absent" if shape is None else " x ".join(map(str, shape))
