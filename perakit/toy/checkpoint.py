"""The files of a GPT-2 in a folder: each tensor is used, or named in a refusal.

A file is believed only as far as its length, its header and config.json agree.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from perakit.errors import PerakitError, listed
from perakit.files import open_plain, read_plain
from perakit.models.gpt2 import GPT2, Config
from perakit.models.tensors import FLOATS, read_header

CONFIG, SINGLE, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
JSON_LIMIT = 2**20  # bytes; parsed, hostile JSON takes 40 times its size
HEADER_LIMIT = 2**20  # bytes; that of gpt2-xl has 70,000
EMBEDDING, HEAD = "transformer.wte.weight", "lm_head.weight"
MASK = re.compile(r"transformer\.h\.(\d+)\.attn\.(?:masked_)?bias")  # old checkpoints store them
MASKED = -9e3  # a masked score in old checkpoints is -1e4, in bfloat16 -9984, or lower


@dataclass(frozen=True)
class Stored:
    """A tensor in a file: where it is, under which key, and what the header says of it."""

    file: Path
    key: str
    shape: tuple[int, ...]
    type: str


def is_whole(folder: Path) -> bool:
    """Whether a folder has the two files."""
    return all(os.path.exists(folder / name) for name in (CONFIG, SINGLE))


def read(folder: Path, source: str) -> GPT2:
    """The GPT-2 of a folder, in eval mode, float32, on the CPU; source: its name in messages."""
    config = Config.from_dict(_config(folder, source))
    found = _headers(_files(folder, source), source)
    if config.tie_word_embeddings and EMBEDDING not in found and HEAD in found:
        # safetensors' save_model writes one of two names that share a tensor, the first of the
        # alphabet
        found[EMBEDDING] = found.pop(HEAD)
    masks = {name: found.pop(name) for name in _masks(found, config)}
    _check(found, config, source)
    try:
        for name, mask in _values(masks):
            if not _causal(mask, config):
                raise PerakitError(
                    f"{name} of {source!r} is not GPT-2's mask of the future, the only one"
                    " implemented here: load the model with the code that made it"
                )
        state = {name: _weight(name, tensor, source) for name, tensor in _values(found)}
    except (OSError, SafetensorError) as error:
        raise PerakitError(f"{_damaged(source)} ({error})") from error
    if config.tie_word_embeddings and HEAD in state:
        if torch.equal(state[HEAD], state[EMBEDDING]):
            del state[HEAD]
        else:  # the tensors count, as in transformers: config.json says the same of every GPT-2
            config = replace(config, tie_word_embeddings=False)
    with torch.device("meta"):
        model = GPT2(config)
    model.load_state_dict(state, strict=False, assign=True)
    model.tie_weights()
    return model.eval()


def _damaged(source: str) -> str:
    return f"the checkpoint in {source!r} is damaged: copy it again"


def _config(folder: Path, source: str) -> dict[str, Any]:
    if not os.path.exists(folder / CONFIG):
        raise PerakitError(_incomplete(source, CONFIG))
    return _object(folder / CONFIG, source)


def _incomplete(source: str, missing: str) -> str:
    return (
        f"{source!r} is not a checkpoint folder (no {missing}): it needs config.json and"
        " model.safetensors"
    )


def _object(path: Path, source: str) -> dict[str, Any]:
    """A JSON object."""
    try:
        found = json.loads(read_plain(path, JSON_LIMIT, "copy the checkpoint again"))
    except (ValueError, RecursionError) as error:
        raise PerakitError(f"{_damaged(source)} ({path.name}: {error})") from error
    if not isinstance(found, dict):
        raise PerakitError(
            f"{path.name} in {source!r} is not a JSON object: copy the checkpoint again"
        )
    return found


def _files(folder: Path, source: str) -> list[Path]:
    """The files that hold the weights: one, or the shards that an index names."""
    single, shards = folder / SINGLE, _shards(folder, source)
    whole = os.path.exists(single)
    # An index alone is what a second save leaves of the first
    if whole and any(map(os.path.exists, shards)):
        raise PerakitError(
            f"{source!r} has its weights twice, in {SINGLE} and in the shards of {INDEX}: move one"
            " of the two away"
        )
    if whole:
        return [single]
    if not shards:
        if os.path.exists(folder / "pytorch_model.bin"):
            raise PerakitError(
                f"the weights in {source!r} are a pickle, pytorch_model.bin, which can run code:"
                " save them with transformers' save_pretrained as model.safetensors"
            )
        raise PerakitError(_incomplete(source, SINGLE))
    missing = [path.name for path in shards if not os.path.exists(path)]
    if missing:
        raise PerakitError(
            f"{source!r} lacks {listed(missing)}, which {INDEX} names: copy the checkpoint again"
        )
    return shards


def _shards(folder: Path, source: str) -> list[Path]:
    if not os.path.exists(folder / INDEX):
        return []
    named = _object(folder / INDEX, source).get("weight_map")
    names = list(named.values()) if isinstance(named, dict) else []
    if not names or not all(isinstance(name, str) and _plain(name) for name in names):
        raise PerakitError(f"{_damaged(source)} ({INDEX} names no files)")
    return [folder / name for name in sorted(set(names))]


def _plain(name: str) -> bool:
    """A file of the folder itself."""
    return name.endswith(".safetensors") and os.path.basename(name) == name


def _headers(files: list[Path], source: str) -> dict[str, Stored]:
    """Every tensor of the files, under its name in a GPT2.

    GPT2Model, without a head, writes the names without `transformer.`.
    """
    found: dict[str, Stored] = {}
    for path in files:
        try:
            with open_plain(path) as file:
                header = read_header(file, HEADER_LIMIT, _damaged(source))
        except OSError as error:
            raise PerakitError(
                f"cannot read {str(path)!r}: {error.strerror or error}; a checkpoint's weights are"
                " plain files"
            ) from error
        for key, shape in header.shapes.items():
            name = key if key.startswith(("transformer.", "lm_head.")) else f"transformer.{key}"
            if name in found:
                raise PerakitError(
                    f"the weights of {source!r} have {name} twice, also as {key!r}: keep one"
                )
            found[name] = Stored(path, key, shape, header.types[key])
    return found


def _masks(found: Mapping[str, Stored], config: Config) -> list[str]:
    """The names that are masks of the model's layers; the layer is compared as text, not parsed."""
    layers = set(map(str, range(min(config.n_layer, len(found)))))
    matches = ((name, MASK.fullmatch(name)) for name in found)
    return [name for name, match in matches if match and match[1] in layers]


def _check(found: Mapping[str, Stored], config: Config, source: str) -> None:
    """Refuse tensors that are not those of config.json, or of numbers that do not multiply."""
    if config.n_layer > len(found):  # before so many layers are named
        raise PerakitError(
            f"{CONFIG} of {source!r} claims {config.n_layer} layers, its weights are"
            f" {len(found)} tensors: copy it again"
        )
    wanted = _shapes(config)
    if config.tie_word_embeddings and HEAD not in found:
        del wanted[HEAD]
    shapes = {name: stored.shape for name, stored in found.items()}
    if shapes != wanted:
        odd = sorted(
            name for name in wanted.keys() | shapes.keys() if wanted.get(name) != shapes.get(name)
        )
        shown = "; ".join(
            f"{name}: {_shape(shapes.get(name))}, {CONFIG} wants {_shape(wanted.get(name))}"
            for name in odd[:4]
        )
        raise PerakitError(f"the weights of {source!r} are not those of its {CONFIG}: {shown}")
    for name, stored in found.items():
        if stored.type not in FLOATS:
            raise PerakitError(
                f"{name} of {source!r} has numbers of type {stored.type}, a GPT-2 computes with"
                f" {', '.join(FLOATS)}: save the model in one of these"
            )
    needed, memory = 4 * sum(map(math.prod, wanted.values())), _memory()
    if needed > memory:
        raise PerakitError(
            f"{source!r} needs {needed:,} bytes in float32, this machine has {memory:,}: load it on"
            " a larger one"
        )


def _memory() -> float:
    """Bytes of the machine's memory; infinite where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return math.inf


def _shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """The tensors of a GPT2, without its layers, whose number may be a lie."""
    with torch.device("meta"):
        state = GPT2(replace(config, n_layer=1)).state_dict()
    first = "transformer.h.0."
    wanted = {name: tuple(tensor.shape) for name, tensor in state.items()}
    block = {
        name.removeprefix(first): shape for name, shape in wanted.items() if name.startswith(first)
    }
    return wanted | {
        f"transformer.h.{layer}.{name}": shape
        for layer in range(config.n_layer)
        for name, shape in block.items()
    }


def _shape(shape: tuple[int, ...] | None) -> str:
    return "absent" if shape is None else " x ".join(map(str, shape))


def _values(found: Mapping[str, Stored]) -> Iterator[tuple[str, Tensor]]:
    """The tensors themselves, one after the other, in views of their files."""
    for path in dict.fromkeys(stored.file for stored in found.values()):
        with safe_open(path, framework="pt") as file:
            for name, stored in found.items():
                if stored.file == path:
                    yield name, file.get_tensor(stored.key)


def _weight(name: str, tensor: Tensor, source: str) -> Tensor:
    """A copy in float32: a view would change, or break, with its file."""
    weight = tensor.to(torch.float32, copy=True)
    if not all(bound.isfinite() for bound in weight.aminmax()):
        raise PerakitError(
            f"{name} of {source!r} has a number that is not finite in float32: its training went"
            " astray, or the file is damaged; take another checkpoint"
        )
    return weight


def _causal(mask: Tensor, config: Config) -> bool:
    """Whether a stored mask is the one that GPT-2's attention applies anyway."""
    if mask.ndim == 0 and mask.is_floating_point():
        return bool(mask.float() <= MASKED)
    if mask.is_complex() or mask.ndim != 4 or mask.shape[:2] != (1, 1):
        return False
    seen = config.n_positions
    part = mask[0, 0, :seen, :seen].double()  # bool, uint8 or a float, by the version that wrote it
    return torch.equal(part, torch.ones(seen, seen).double().tril())
