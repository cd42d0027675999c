"""Adapters on disk: a JSON file says what they are, a safetensors file holds the numbers.

`adapter.json` is the commit point: it names the tensor file by its content and carries a checksum
of its own, so that a folder holds either the old adapter or the new one, whole, and an altered byte
is noticed. Nothing is unpickled, and nothing is allocated that the two files and the model have not
agreed on first.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as from_safetensors
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

from perakit.adapters import Adapter, Method
from perakit.errors import PerakitError, listed, short
from perakit.files import as_folder, read_plain, write_atomically
from perakit.models import gather
from perakit.models.adapted import (
    AdaptedLayer,
    active,
    adapted_layers,
    adapters,
    check_model,
    names,
    plain,
    require_adapters,
    walk,
)
from perakit.models.attach import AttachReport, activate, adapt, check_name, fill, report
from perakit.models.layers import DTYPES, kind_of
from perakit.models.numbers import missing
from perakit.models.parts import NAMES, Parts
from perakit.models.quantize import NF4, NF4Layer
from perakit.models.targets import DEFAULT
from perakit.models.trained import check, check_taken, numbers_of, trained_modules
from perakit.models.whole import whole

# Version 2: a base in 4 bits; 3: modules that train in full, parts of layers, or a precision. An
# adapter without these is written as version 1, which any perakit reads.
FORMAT, VERSION = "perakit-adapter", 3
JSON_NAME = "adapter.json"
TENSORS_NAME = re.compile(r"adapter-[0-9a-f]{16}\.safetensors")
# Tensors of an adapter that was replaced, and what a killed save left behind.
LEFTOVER = re.compile(
    rf"{TENSORS_NAME.pattern}|\.adapter(-[0-9a-f]{{16}}\.safetensors|\.json)\.\d+\.tmp"
)
# bytes, for 10,000 adapted layers; parsed, hostile JSON takes 40 times its size
JSON_LIMIT = 4 * 2**20
UNASKED = 2**26  # bytes of adapter that a bare model of any size takes on a file's word
ABOUT = ("kind", "shape", "quantize", "precision", "parts")  # what an entry says besides the method
PRECISIONS = {"float32": torch.float32, "float64": torch.float64}
SAVED = "is this a folder that pk.save wrote?"
HEADER_ALLOWANCE = 512  # bytes of safetensors header granted to each tensor


def save(model: nn.Module, folder: str | Path, name: str | None = None) -> Path:
    """Write one adapter of `model` to `folder`: adapter.json and adapter-<hash>.safetensors.

    name: which of several; None means the active one. Merged or not, disabled or not, the files are
    the same. How a 4-bit base was quantised is written down, its weights are not. An adapter that
    is in the folder already is replaced in one step, or stays whole where writing fails
    (PerakitError). Modules that the adapter trains in full are in the files too; refused is a model
    in which more than adapters requires grad, since that would be lost. DTensors are gathered: then
    every process has to call it. Returns the folder.

    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 5))
    >>> report = pk.attach(model, pk.PERA(rank=2), ["0"])
    >>> folder = pk.save(model, "my-adapter")
    >>> sorted(path.suffix for path in folder.iterdir())
    ['.json', '.safetensors']
    """
    layers = require_adapters(model)
    chosen = adapters(model, name)
    if not chosen:
        raise PerakitError(
            f"none of the adapters {', '.join(names(model))} is active: pass name=... to say which"
            " one to save"
        )
    check_taken(model, "save")
    chosen = {key: gather.adapter("save", key, layers[key], one) for key, one in chosen.items()}
    folder = as_folder(folder)
    in_full = {
        place: numbers_of(place, module) for place, module in trained_modules(model, name).items()
    }
    tensors = {
        f"{layer}.{key}": value
        for layer, adapter in chosen.items()
        for key, value in _values(layers[layer], adapter).items()
    }
    tensors |= {
        f"{place}.{key}": value for place, own in in_full.items() for key, value in own.items()
    }
    data = to_safetensors(
        {key: value.detach().cpu().contiguous() for key, value in tensors.items()},
        {"format": "pt"},
    )
    digest = hashlib.sha256(data).hexdigest()
    config: dict[str, Any] = {
        "format": FORMAT,
        "version": 1,
        "written_with": {"torch": str(torch.__version__)},
        "tensors": f"adapter-{digest[:16]}.safetensors",
        "sha256": digest,
        "layers": {
            layer: _describe(layers[layer].base) | adapter.method.to_dict() | _precision(adapter)
            for layer, adapter in chosen.items()
        },
    }
    if any("quantize" in entry for entry in config["layers"].values()):
        config["version"] = 2
    if in_full or any({"precision", "parts"} & set(entry) for entry in config["layers"].values()):
        config["version"] = VERSION
    if in_full:
        config["train"] = {
            place: {key: list(value.shape) for key, value in own.items()}
            for place, own in in_full.items()
        }
    text = (json.dumps(config | {"checksum": _checksum(config)}, indent=2) + "\n").encode()
    if len(text) > JSON_LIMIT:
        raise PerakitError(
            f"{len(chosen):,} layers are too many for one {JSON_NAME}: attach them under several"
            " names, and save each"
        )
    write_atomically(folder / str(config["tensors"]), data)
    write_atomically(folder / JSON_NAME, text)
    with suppress(OSError):  # the new adapter is in place; an old file that stays does no harm
        for old in folder.iterdir():
            if LEFTOVER.fullmatch(old.name) and old.name != config["tensors"]:
                old.unlink()
    return folder


def load(model: nn.Module, folder: str | Path, name: str = DEFAULT) -> AttachReport:
    """Read the adapter in `folder` into `model`.

    Where the model has no adapter of that name, it is attached first.
    name: to give it, or of the adapter whose numbers it replaces. An adapter that was trained on a
    4-bit base quantises a full one in the same way before it is attached.
    It is in effect then, and alone so unless it was already. Strict: layers, shapes, methods and
    4-bit storage must be exactly the model's; a file that is cut, altered or of a newer format is
    refused. Which weights the base has is not checked. Raises PerakitError with the model
    untouched; returns the report on what is active then.

    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 5))
    >>> report = pk.attach(model, pk.PERA(rank=2), ["0"])
    >>> folder = pk.save(model, "my-adapter")
    >>> other = torch.nn.Sequential(torch.nn.Linear(3, 5))
    >>> pk.load(other, "my-adapter").trainable
    19
    """
    check_model(model)
    check_name(name)
    folder = as_folder(folder)
    config = _read_config(folder / JSON_NAME)
    saved, in_full = config["layers"], config.get("train", {})
    methods = {layer: _method(entry) for layer, entry in saved.items()}
    four_bit = {
        layer: NF4.from_dict(entry["quantize"])
        for layer, entry in saved.items()
        if "quantize" in entry
    }
    present = {
        layer: adapted
        for layer, adapted in adapted_layers(model).items()
        if name in adapted.adapters
    }
    _check_layers(model, present, name, saved, methods, four_bit)
    _check_trained(model, name, in_full, bool(present))
    shapes = {layer: method.shapes(*saved[layer]["shape"]) for layer, method in methods.items()} | {
        place: {key: tuple(size) for key, size in own.items()} for place, own in in_full.items()
    }
    expected = {
        f"{place}.{key}": shape for place, own in shapes.items() for key, shape in own.items()
    }
    if not present:
        _check_size(model, expected)
    for layer, adapted in present.items():
        for key, parameter in adapted.adapters[name].named_parameters():
            if lacks := missing(parameter, expected.get(f"{layer}.{key}")):
                raise PerakitError(f"cannot load into layer {layer!r}: its {key} {lacks}")
    floats = [f"{layer}.{key}" for layer in methods for key in shapes[layer]]
    tensors = _read_tensors(folder / config["tensors"], config.get("sha256"), expected, floats)
    found = {
        place: {key: tensors[f"{place}.{key}"] for key in own} for place, own in shapes.items()
    }
    modules = dict(walk(model))
    for layer in methods:
        for key, tensor in found[layer].items():
            check_width(f"adapter tensor '{layer}.{key}'", tensor, modules[layer])
    for place in in_full:
        own_copy = trained_modules(model, name).get(place, plain(modules[place]))
        check_types(place, found[place], own_copy)
    precision = {layer: _precision_of(saved[layer], found[layer]) for layer in methods}
    if present:
        _put(model, name, found, precision)
    else:
        adapt(model, methods, name, four_bit, list(in_full), found, precision)
    return report(model)


def _put(
    model: nn.Module,
    name: str,
    found: Mapping[str, Mapping[str, Tensor]],
    precision: Mapping[str, torch.dtype],
) -> None:
    """Give adapter `name`, which the model has, other numbers, and put it into effect."""
    layers = adapters(model, name)
    own: dict[str, nn.Module] = {**layers, **trained_modules(model, name)}
    memo: dict[int, Any] = {}  # weights that modules share are one in the copies too
    copies = {place: copy.deepcopy(module, memo) for place, module in own.items()}
    fill(copies, found)
    new: dict[Tensor, Tensor] = {}
    for place, module in own.items():
        filled = copies[place].state_dict()
        new |= {
            tensor: filled[key].detach()
            for key, tensor in module.state_dict(keep_vars=True).items()
        }
    # The same parameters, which an optimiser may hold
    with whole(model, new):
        for tensor, data in new.items():
            tensor.data = data
        for layer, adapter in layers.items():
            adapter.began_in(precision[layer])
        if name not in active(model):
            activate(model, name)


def _describe(base: nn.Module) -> dict[str, Any]:
    """What the file says of the layer below an adapter."""
    kind = kind_of(base)
    assert kind is not None
    # kind is for the reader: the same adapter fits a Linear and a Conv1D of its shape
    about = {"kind": kind.name, "shape": list(kind.shape(base))}
    return about | ({"quantize": base.config.to_dict()} if isinstance(base, NF4Layer) else {})


def _values(layer: AdaptedLayer, adapter: Adapter) -> dict[str, Tensor]:
    """Name -> value of what a file holds of an adapter; a parametrized one has its value too."""
    shapes = adapter.method.shapes(*layer.kind.shape(layer.base))
    odd = [
        key
        for key, _ in adapter.named_parameters()
        if key not in shapes and "parametrizations." not in key
    ]
    if odd:
        raise PerakitError(
            f"cannot save an adapter with a parameter {odd[0]!r}, which {adapter.method!r} does not"
            " name: add it to shapes(m, n) of the method"
        )
    return {key: attrgetter(key)(adapter) for key in shapes}


def _precision(adapter: Adapter) -> dict[str, str]:
    """The precision that the parameters began with, where it is no longer theirs."""
    changed = any(parameter.dtype != adapter.precision for parameter in adapter.parameters())
    wanted = changed and not adapter.method.exact_in_float64
    return {"precision": str(adapter.precision).removeprefix("torch.")} if wanted else {}


def _precision_of(entry: dict[str, Any], tensors: Mapping[str, Tensor]) -> torch.dtype:
    """The precision in which the numbers of a layer began: as the file says, or their own."""
    said: str | None = entry.get("precision")
    return PRECISIONS[said] if said else next(iter(tensors.values())).dtype


def _checksum(config: dict[str, Any]) -> str:
    return hashlib.sha256(
        json.dumps(config, sort_keys=True, separators=(",", ":")).encode()
    ).hexdigest()


def _method(entry: dict[str, Any]) -> Method:
    """The method of a layer, on its parts where the file says which."""
    method = Method.from_dict({key: value for key, value in entry.items() if key not in ABOUT})
    if "parts" not in entry:
        return method
    if entry["shape"][0] % len(NAMES) or not isinstance(entry["parts"], list):
        raise PerakitError(
            f"parts {short(entry['parts'])} of a layer with {entry['shape'][0]} rows: save the"
            " adapter again"
        )
    return Parts.on(method, entry["parts"])


def _read_config(path: Path) -> dict[str, Any]:
    """The parsed adapter.json, of this format, unaltered, with every field in place."""
    damaged = (
        f"{str(path)!r} is cut short or altered: copy the adapter again from where it was saved"
    )
    try:
        config = json.loads(read_plain(path, JSON_LIMIT, SAVED))
        checksum = config.pop("checksum", None) if isinstance(config, dict) else None
        unaltered = checksum == _checksum(config)
    except (ValueError, RecursionError) as error:
        raise PerakitError(f"{damaged} ({type(error).__name__})") from error
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise PerakitError(
            f"{str(path)!r} is not a perakit adapter: pass a folder that pk.save wrote"
        )
    version = config.get("version")
    if type(version) is int and version > VERSION:
        raise PerakitError(
            f"{str(path)!r} has format version {short(version)}, this perakit reads up to"
            f" {VERSION}: upgrade perakit"
        )
    if not unaltered or type(version) is not int or version < 1:
        raise PerakitError(damaged)
    layers = config.get("layers")
    if not isinstance(layers, dict) or not layers or not all(map(_is_entry, layers.values())):
        raise PerakitError(damaged)
    train = config.get("train", {})
    if not isinstance(train, dict) or not all(map(_are_shapes, train.values())):
        raise PerakitError(damaged)
    if not isinstance(config.get("tensors"), str) or not TENSORS_NAME.fullmatch(config["tensors"]):
        raise PerakitError(f"{damaged}: its tensor file is {short(config.get('tensors'))}")
    return config


def _is_entry(entry: Any) -> bool:
    shape = entry.get("shape") if isinstance(entry, dict) else None
    return (
        isinstance(shape, list)
        and len(shape) == 2
        and all(type(size) is int and size > 0 for size in shape)
        and ("precision" not in entry or entry["precision"] in list(PRECISIONS))
    )


def _are_shapes(entry: Any) -> bool:
    shapes = list(entry.values()) if isinstance(entry, dict) else []
    return bool(shapes) and all(
        isinstance(shape, list) and all(type(size) is int and size >= 0 for size in shape)
        for shape in shapes
    )


def check_width(what: str, tensor: Tensor, module: nn.Module) -> None:
    """Refuse a tensor that an adapter on `module`, adapted or not, would round."""
    base = plain(module)
    kind = kind_of(base)
    assert kind is not None
    target = torch.promote_types(kind.dtype(base), torch.float32)
    if torch.promote_types(tensor.dtype, target) != target:
        raise PerakitError(
            f"{what} is {tensor.dtype}, the model would round it to {target}: use model.double()"
        )


def _check_layers(
    model: nn.Module,
    present: dict[str, AdaptedLayer],
    adapter: str,
    saved: dict[str, Any],
    methods: dict[str, Method],
    four_bit: dict[str, NF4],
) -> None:
    """Refuse an adapter of another model, with every name and shape that does not fit.

    present: the layers that have an adapter of that name already, which must then be all layers of
    the file.
    """
    modules = dict(walk(model))
    here = (
        set(present)
        if present
        else {
            name
            for name, module in modules.items()
            if name in saved and name and kind_of(plain(module))
        }
    )
    missing, unexpected = sorted(here - set(saved)), sorted(set(saved) - here)
    problems = []
    if unexpected:
        lacks = f"adapter {adapter!r} of the model" if present else "the model"
        problems.append(f"the file has layers that {lacks} lacks: {listed(unexpected)}")
    if missing:
        problems.append(f"the model has adapters that the file lacks: {listed(missing)}")
    for name in sorted(here & set(saved)):
        base = plain(modules[name])
        kind = kind_of(base)
        assert kind is not None
        m, n = kind.shape(base)
        if [m, n] != saved[name]["shape"]:
            problems.append(
                f"layer {name!r} is {m} x {n}, in the file"
                f" {' x '.join(map(str, saved[name]['shape']))}"
            )
        elif present and present[name].adapters[adapter].method != methods[name]:
            problems.append(
                f"layer {name!r} carries {present[name].adapters[adapter].method}, the file"
                f" {methods[name]}"
            )
        # a bare layer can still become what the file says
        elif isinstance(base, NF4Layer) or isinstance(modules[name], AdaptedLayer):
            has = base.config if isinstance(base, NF4Layer) else None
            if has != four_bit.get(name):
                problems.append(
                    f"layer {name!r} has {has or 'a full weight'}, the file"
                    f" {four_bit.get(name) or 'a full weight'}"
                )
    if problems:
        shown = "; ".join(problems[:4]) + (
            f"; and {len(problems) - 4} more such" if len(problems) > 4 else ""
        )
        remedy = "Load it onto the model it was saved from" + (
            ", or under another name=..." if present else ""
        )
        raise PerakitError(f"this adapter belongs to another model: {shown}. {remedy}")
    merged = [name for name, layer in present.items() if layer.merged is not None]
    if merged:
        raise PerakitError(
            f"layer {merged[0]!r} is merged, loading would leave it stale: pk.unmerge(model) first"
        )


def _check_trained(
    model: nn.Module, name: str, in_full: Mapping[str, Mapping[str, list[int]]], present: bool
) -> None:
    """Refuse a file whose modules that train in full are not those of the model.

    present: the model has an adapter of that name, which must then train just these.
    """
    modules, here = dict(walk(model)), trained_modules(model, name)
    if present and set(here) != set(in_full):
        odd = sorted(set(here) ^ set(in_full))
        raise PerakitError(
            f"{listed(odd)} trains in full in {'the model' if odd[0] in here else 'the file'} only:"
            " load the adapter onto the model it was saved from, or under another name=..."
        )
    absent = [place for place in in_full if not place or place not in modules]
    if absent:
        raise PerakitError(
            f"this adapter belongs to another model: it trains {listed(absent)} in full, which the"
            " model lacks. Load it onto the model it was saved from"
        )
    if not present:
        check(model, list(in_full), name)
    for place, shapes in in_full.items():
        own = {key: list(value.shape) for key, value in plain(modules[place]).state_dict().items()}
        odd = sorted(key for key in {*own, *shapes} if own.get(key) != shapes.get(key))
        if odd:
            has, wants = own.get(odd[0], "absent"), shapes.get(odd[0], "absent")
            raise PerakitError(
                f"this adapter belongs to another model: '{place}.{odd[0]}' is {has}, in the file"
                f" {wants}. Load it onto the model it was saved from"
            )


def check_types(place: str, tensors: Mapping[str, Tensor], module: nn.Module) -> None:
    """Refuse numbers that a module which trains in full could not hold as they are."""
    for key, own in module.state_dict().items():
        tensor = tensors[key]
        same = tensor.is_floating_point() == own.is_floating_point()
        if not same or torch.promote_types(tensor.dtype, own.dtype) != own.dtype:
            raise PerakitError(
                f"'{place}.{key}' is {tensor.dtype} and the module has {own.dtype}, which cannot"
                " hold it: train and load it in one dtype"
            )


def _check_size(model: nn.Module, expected: dict[str, tuple[int, ...]]) -> None:
    """Refuse an adapter that is far larger than the bare model.

    A rank that lies would take all memory.
    """
    needed = 8 * sum(map(math.prod, expected.values()))
    own = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
    if needed > max(UNASKED, 2 * own):
        raise PerakitError(
            f"this adapter can need {needed:,} bytes, the model itself has {own:,}: where that is"
            " meant, pk.attach(model, ...) it first, then load"
        )


def _read_tensors(
    path: Path, sha256: Any, expected: dict[str, tuple[int, ...]], floats: Iterable[str]
) -> dict[str, Tensor]:
    """The tensors of a file whose size, hash, names and shapes are what adapter.json announced.

    floats: those that must be floating-point numbers.
    """
    limit = sum(8 * math.prod(shape) for shape in expected.values()) + HEADER_ALLOWANCE * (
        len(expected) + 1
    )
    limit += sum(map(len, expected))
    data = read_plain(path, limit, SAVED)
    damaged = (
        f"{str(path)!r} is cut short or altered: copy the adapter again from where it was saved"
    )
    if hashlib.sha256(data).hexdigest() != sha256:
        raise PerakitError(damaged)
    try:
        tensors = from_safetensors(data)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise PerakitError(f"{damaged} ({error})") from error
    found = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    if found != expected or not all(tensors[key].dtype in DTYPES for key in floats):
        odd = sorted(set(found.items()) ^ set(expected.items()))
        raise PerakitError(
            f"{str(path)!r} does not hold the tensors that {JSON_NAME} announces: {odd[:4]}; save"
            " the adapter again"
        )
    return tensors
