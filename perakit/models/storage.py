"""Adapters on disk: one JSON file that says what they are, one safetensors file that holds the numbers.

`adapter.json` is the commit point: it names the tensor file by its content and carries a checksum of its own, so
that a folder holds either the old adapter or the new one, whole, and an altered byte is noticed. Nothing is
unpickled, and nothing is allocated that the two files and the model have not agreed on first.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as from_safetensors
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

from perakit.adapters import Method
from perakit.errors import PerakitError
from perakit.files import write_atomically
from perakit.models.adapted import AdaptedLayer, adapted_layers, check_model, require_adapters, walk
from perakit.models.attach import AttachReport, adapt, report
from perakit.models.layers import DTYPES, kind_of

FORMAT, VERSION = "perakit-adapter", 1
JSON_NAME = "adapter.json"
TENSORS_NAME = re.compile(r"adapter-[0-9a-f]{16}\.safetensors")
# Tensors of an adapter that was replaced, and what a killed save left behind.
LEFTOVER = re.compile(rf"{TENSORS_NAME.pattern}|\.adapter(-[0-9a-f]{{16}}\.safetensors|\.json)\.\d+\.tmp")
JSON_LIMIT = 16 * 2**20  # bytes; a model of 10,000 adapted layers needs 2 MiB
HEADER_ALLOWANCE = 512  # bytes of safetensors header granted to each tensor


def save(model: nn.Module, folder: str | Path) -> Path:
    """Write the adapters of `model` to `folder`: adapter.json and adapter-<hash>.safetensors.

    Merged or not, disabled or not, the files are the same. An adapter that is in the folder already is replaced in
    one step, or stays whole where writing fails (PerakitError). Returns the folder.
    """
    layers = require_adapters(model)
    folder = Path(folder)
    tensors = {
        f"{name}.{key}": parameter.detach().cpu().contiguous()
        for name, layer in layers.items()
        for key, parameter in layer.adapter.named_parameters()
    }
    data = to_safetensors(tensors, {"format": "pt"})
    digest = hashlib.sha256(data).hexdigest()
    config = {
        "format": FORMAT,
        "version": VERSION,
        "written_with": {"torch": str(torch.__version__)},
        "tensors": f"adapter-{digest[:16]}.safetensors",
        "sha256": digest,
        "layers": {  # kind is for the reader: the same adapter fits a Linear and a Conv1D of its shape
            name: {"kind": layer.kind.name, "shape": list(layer.W0.shape), **layer.adapter.method.to_dict()}
            for name, layer in layers.items()
        },
    }
    write_atomically(folder / str(config["tensors"]), data)
    text = json.dumps(config | {"checksum": _checksum(config)}, indent=2) + "\n"
    write_atomically(folder / JSON_NAME, text.encode())
    with suppress(OSError):  # the new adapter is in place; an old file that stays does no harm
        for old in folder.iterdir():
            if LEFTOVER.fullmatch(old.name) and old.name != config["tensors"]:
                old.unlink()
    return folder


def load(model: nn.Module, folder: str | Path) -> AttachReport:
    """Read the adapters in `folder` into `model`, attaching them first where the model is bare.

    Strict: layers, shapes and methods must be exactly the model's; a file that is cut, altered or of a newer
    format is refused. Which weights the base has is not checked. Raises PerakitError with the model untouched;
    returns the report on what is attached.
    """
    check_model(model)
    folder = Path(folder)
    config = _read_config(folder / JSON_NAME)
    methods = {name: Method.from_dict(_options(entry)) for name, entry in config["layers"].items()}
    layers = adapted_layers(model)
    _check_layers(model, layers, config["layers"], methods)
    expected = {
        f"{name}.{key}": shape for name, method in methods.items() for key, shape in method.shapes(*config["layers"][name]["shape"]).items()
    }
    tensors = _read_tensors(folder / config["tensors"], config.get("sha256"), expected)
    for name, method in methods.items():
        target = torch.promote_types(_weight(model, name).dtype, torch.float32)
        for key in method.shapes(*config["layers"][name]["shape"]):
            stored = tensors[f"{name}.{key}"].dtype
            if torch.promote_types(stored, target) != target:
                raise PerakitError(f"adapter tensor '{name}.{key}' is {stored}, the model would round it to {target}: use model.double()")
    if not layers:
        adapt(model, methods, draw=False)
    with torch.no_grad():
        for name, layer in adapted_layers(model).items():
            for key, parameter in layer.adapter.named_parameters():
                parameter.copy_(tensors[f"{name}.{key}"])
    return report(model)


def _checksum(config: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(config, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _options(entry: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if key not in ("kind", "shape")}


def _read(path: Path, limit: int) -> bytes:
    """The bytes of a file of at most `limit` bytes."""
    try:
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size > limit:
                raise PerakitError(
                    f"{str(path)!r} is larger than the {limit:,} bytes that its adapter needs: it was not written by pk.save"
                )
            return file.read()
    except OSError as error:
        raise PerakitError(f"cannot read {str(path)!r}: {error.strerror}; is this a folder that pk.save wrote?") from error


def _read_config(path: Path) -> dict[str, Any]:
    """The parsed adapter.json, of this format, unaltered, with every field in place."""
    damaged = f"{str(path)!r} is cut short or altered: copy the adapter again from where it was saved"
    try:
        config = json.loads(_read(path, JSON_LIMIT))
        checksum = config.pop("checksum", None) if isinstance(config, dict) else None
        unaltered = checksum == _checksum(config)
    except (ValueError, RecursionError) as error:
        raise PerakitError(f"{damaged} ({type(error).__name__})") from error
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise PerakitError(f"{str(path)!r} is not a perakit adapter: pass a folder that pk.save wrote")
    version = config.get("version")
    if type(version) is int and version > VERSION:
        raise PerakitError(f"{str(path)!r} has format version {version}, this perakit reads up to {VERSION}: upgrade perakit")
    if not unaltered or type(version) is not int or version != VERSION:
        raise PerakitError(damaged)
    layers = config.get("layers")
    if not isinstance(layers, dict) or not layers or not all(map(_is_entry, layers.values())):
        raise PerakitError(damaged)
    if not isinstance(config.get("tensors"), str) or not TENSORS_NAME.fullmatch(config["tensors"]):
        raise PerakitError(f"{damaged}: its tensor file is {config.get('tensors')!r}")
    return config


def _is_entry(entry: Any) -> bool:
    shape = entry.get("shape") if isinstance(entry, dict) else None
    return isinstance(shape, list) and len(shape) == 2 and all(type(size) is int and size > 0 for size in shape)


def _weight(model: nn.Module, name: str) -> Tensor:
    """The frozen (m, n) weight of an adapted layer, or of one that can be."""
    module = dict(walk(model))[name]
    if isinstance(module, AdaptedLayer):
        return module.W0
    kind = kind_of(module)
    assert kind is not None
    return kind.weight(module)


def _check_layers(model: nn.Module, layers: dict[str, AdaptedLayer], saved: dict[str, Any], methods: dict[str, Method]) -> None:
    """Refuse an adapter of another model, with every name and shape that does not fit."""
    modules = dict(walk(model))
    here = set(layers) if layers else {name for name, module in modules.items() if name in saved and name and kind_of(module)}
    missing, unexpected = sorted(here - set(saved)), sorted(set(saved) - here)
    problems = []
    if unexpected:
        problems.append(f"the file has layers that the model lacks: {_listed(unexpected)}")
    if missing:
        problems.append(f"the model has adapters that the file lacks: {_listed(missing)}")
    for name in sorted(here & set(saved)):
        m, n = _weight(model, name).shape
        if [m, n] != saved[name]["shape"]:
            problems.append(f"layer {name!r} is {m} x {n}, in the file {' x '.join(map(str, saved[name]['shape']))}")
        elif layers and layers[name].adapter.method != methods[name]:
            problems.append(f"layer {name!r} carries {layers[name].adapter.method}, the file {methods[name]}")
    if problems:
        raise PerakitError(f"this adapter belongs to another model: {'; '.join(problems[:6])}. Load it onto the model it was saved from")
    merged = [name for name, layer in layers.items() if layer.merged is not None]
    if merged:
        raise PerakitError(f"layer {merged[0]!r} is merged, loading would leave it stale: pk.unmerge(model) first")


def _listed(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _read_tensors(path: Path, sha256: Any, expected: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """The tensors of a file whose size, hash, names and shapes are what adapter.json announced."""
    limit = sum(8 * math.prod(shape) for shape in expected.values()) + HEADER_ALLOWANCE * (len(expected) + 1)
    limit += sum(map(len, expected))
    data = _read(path, limit)
    damaged = f"{str(path)!r} is cut short or altered: copy the adapter again from where it was saved"
    if hashlib.sha256(data).hexdigest() != sha256:
        raise PerakitError(damaged)
    try:
        tensors = from_safetensors(data)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise PerakitError(f"{damaged} ({error})") from error
    found = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    if found != expected or not all(tensor.dtype in DTYPES for tensor in tensors.values()):
        odd = sorted(set(found.items()) ^ set(expected.items()))
        raise PerakitError(f"{str(path)!r} does not hold the tensors that {JSON_NAME} announces: {odd[:4]}; save the adapter again")
    return tensors
