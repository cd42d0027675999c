"""A PEFT LoRA or DoRA adapter, read from its two files as pk.LoRA or pk.DoRA.

Exactly that adapter, or one clear refusal.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as from_safetensors
from torch import Tensor, nn

from perakit.adapters import DoRA, LoRA, Method
from perakit.errors import PerakitError, listed, short
from perakit.files import as_folder, open_plain
from perakit.models import hosted
from perakit.models.adapted import check_model, names, plain, walk
from perakit.models.attach import AttachReport, adapt, report
from perakit.models.export import CONFIG_NAME, PREFIX, SERVED, TENSORS_NAME, covers
from perakit.models.layers import kind_of, why_not
from perakit.models.patterns import compile_all
from perakit.models.storage import check_types, check_width
from perakit.models.tensors import FLOATS, read_header
from perakit.models.trained import check

# Settings that are read here, and settings that say nothing about the function (of a start they say
# how it was made): any other one that is set is refused.
READ = {
    "peft_type", "r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora",
    "lora_dropout", "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern",
    "bias", "init_lora_weights", "modules_to_save",
}  # fmt: skip
HARMLESS = {
    "auto_mapping", "base_model_name_or_path", "corda_config", "eva_config", "fan_in_fan_out",
    "inference_mode", "loftq_config", "lora_ga_config", "megatron_core", "merge_weights",
    "peft_version", "qalora_group_size", "revision", "runtime_config", "task_type",
}  # fmt: skip
# The same of what `perakit.peft` had PEFT write
OWN_READ = {
    *hosted.OPTIONS, "peft_type", "method", "rank_pattern", "alpha_pattern", "target_modules",
    "exclude_modules", "layers_to_transform", "layers_pattern", "modules_to_save",
}  # fmt: skip
# Of training ("mica" also freezes lora_B); the others rewrite the base's weights
STARTS = (True, False, None, "gaussian", "orthogonal", "eva", "mica")
# perakit's name -> PEFT's
KEYS = {"A": "lora_A.weight", "B": "lora_B.weight", "magnitude": "lora_magnitude_vector"}
OWN = re.compile(r"\.(lora_|pera_adapters\.|perakit_adapters\.)")  # in the name of a factor
JSON_LIMIT = 2**20  # bytes; parsed, hostile JSON takes 40 times its size
HEADER_ALLOWANCE = 512  # bytes of safetensors header granted to each tensor, besides its name
METADATA_ALLOWANCE = 2**16  # bytes


def import_peft(model: nn.Module, folder: str | Path, name: str = "default") -> AttachReport:
    """Attach the LoRA or DoRA adapter that PEFT saved in `folder`, or one of `perakit.peft`.

    It becomes a pk.LoRA or pk.DoRA of the same function, or the method that it is; PEFT's
    modules_to_save train in full.
    model: bare, or with adapters of other names, and the base that the adapter was trained on
    (which weights it has is not checked); name: of the new adapter, which is then the active one.
    Rank, alpha, rslora and patterns are read per layer. Strict: the layers that the configuration
    targets must be exactly those in the file, and those of the model. Returns the report on what is
    attached.
    Raises PerakitError, with the model untouched, for any other peft_type, an option that would
    change the function, pickled weights, and files that are cut, altered or larger than the adapter
    needs.

    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 5))
    >>> report = pk.attach(model, pk.LoRA(rank=2), ["0"])
    >>> report = pk.export_peft(model, "my-adapter-peft")
    >>> other = torch.nn.Sequential(torch.nn.Linear(3, 5))
    >>> pk.import_peft(other, "my-adapter-peft").rows
    [('0', 'Linear', (5, 3), 2, 2, 16)]
    """
    check_model(model)
    if name in names(model):
        raise PerakitError(
            f"the model has an adapter {name!r} already: pass another name=, or pk.delete(model,"
            f" {name!r}) first"
        )
    folder = as_folder(folder)
    config = _read_config(folder / CONFIG_NAME)
    shapes = _targets(model, config)
    if config["peft_type"] == "LORA":
        methods, keys = _methods(config, shapes), KEYS
    else:
        methods = hosted.methods_of(config, list(shapes), _values)
        place = hosted.PLACES[config["peft_type"]]
        keys = {key: f"{place}.{key}" for one in methods.values() for key in one.shapes(1, 1)}
    in_full = _in_full(model, config, name)
    modules = dict(walk(model))
    expected = {
        f"{PREFIX}{layer}.{keys[key]}": shape
        for layer, method in methods.items()
        for key, shape in method.shapes(*shapes[layer]).items()
    } | {
        f"{PREFIX}{place}.{key}": tuple(value.shape)
        for place in in_full
        for key, value in plain(modules[place]).state_dict().items()
    }
    tensors = _read_tensors(folder, expected)
    numbers = {
        layer: {key: tensors[f"{PREFIX}{layer}.{keys[key]}"] for key in method.shapes(1, 1)}
        for layer, method in methods.items()
    }
    for layer, own in numbers.items():
        _check_values(layer, plain(modules[layer]), {keys[key]: own[key] for key in own})
    for place in in_full:
        start = f"{PREFIX}{place}."
        own = {k.removeprefix(start): value for k, value in tensors.items() if k.startswith(start)}
        check_types(place, own, plain(modules[place]))
        numbers[place] = own
    adapt(model, methods, name, train=in_full, numbers=numbers)
    return report(model)


# --- adapter_config.json --------------------------------------------------------------------------


def _read_config(path: Path) -> dict[str, Any]:
    """The parsed adapter_config.json, of which every field that is read has the right type."""
    try:
        with open_plain(path) as file:
            text = file.read(JSON_LIMIT + 1)
        config = json.loads(text) if len(text) <= JSON_LIMIT else None
    except OSError as error:
        raise PerakitError(
            f"cannot read {str(path)!r}: {error.strerror}; is this a folder that PEFT's"
            " save_pretrained wrote?"
        ) from error
    except (ValueError, RecursionError) as error:
        raise PerakitError(
            f"{str(path)!r} is damaged ({type(error).__name__}): copy the adapter again"
        ) from error
    if not isinstance(config, dict):
        raise PerakitError(
            f"{str(path)!r} is not an adapter's configuration: pass a folder that PEFT's"
            " save_pretrained wrote"
        )
    kind = config.get("peft_type")
    own = isinstance(kind, str) and kind in hosted.PLACES
    if not own and kind != "LORA":
        raise PerakitError(
            f"peft_type={short(kind)} cannot be imported: perakit reads LORA, with or without"
            f" use_dora, and its own, {' and '.join(hosted.PLACES)}"
        )
    if not own:
        _check_lora(config)
    known = OWN_READ if own else READ
    odd = sorted(key for key, value in config.items() if value and key not in known | HARMLESS)
    if odd:
        shown = ", ".join(f"{key}={short(config[key])}" for key in odd[:3])
        reads = (
            f"the options of {kind}" if own else "plain LoRA and DoRA, which this option changes"
        )
        raise PerakitError(f"{shown} cannot be imported: perakit reads {reads}")
    for field, (fits, what) in FIELDS.items():
        if field in config and not fits(config[field]):
            raise PerakitError(
                f"{field}={short(config[field])} in {str(path)!r} must be {what}: copy the adapter"
                " again"
            )
    for field in ("target_modules",) if own else ("r", "lora_alpha", "target_modules"):
        if config.get(field) is None:
            raise PerakitError(
                f"{str(path)!r} has no {field}, for which PEFT would take a default: write the"
                " value of the training run"
            )
    blocks = [
        field
        for field in ("layers_to_transform", "layers_pattern")
        if config.get(field) is not None
    ]
    if blocks and isinstance(config["target_modules"], str):
        raise PerakitError(
            f"{blocks[0]} beside a target_modules that is a regular expression, PEFT refuses too:"
            " put the numbers into it"
        )
    if blocks == ["layers_pattern"] and config["layers_pattern"]:
        raise PerakitError(
            f"layers_pattern={short(config['layers_pattern'])} without layers_to_transform, PEFT"
            " refuses too: remove it"
        )
    return config


def _check_lora(config: Mapping[str, Any]) -> None:
    """Refuse what PEFT's LoRA has and perakit's has not."""
    if config.get("bias", "none") != "none":
        raise PerakitError(
            f"bias={short(config['bias'])} cannot be imported: perakit trains no bias; train with"
            " bias='none'"
        )
    if not any(
        config.get("init_lora_weights") is start or config.get("init_lora_weights") == start
        for start in STARTS
    ):
        raise PerakitError(
            f"init_lora_weights={short(config['init_lora_weights'])} cannot be imported: it changes"
            " the base's weights; save with PEFT's path_initial_model_for_weight_conversion, which"
            " makes a plain LoRA of it"
        )


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def _is_names(value: Any) -> bool:
    return isinstance(value, str) or (
        isinstance(value, list) and all(isinstance(item, str) for item in value)
    )


def _is_pattern(value: Any) -> bool:
    return value is None or (isinstance(value, dict) and all(map(_is_number, value.values())))


def _is_indices(value: Any) -> bool:
    return (
        value is None
        or type(value) is int
        or (isinstance(value, list) and all(type(item) is int for item in value))
    )


FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "r": (lambda value: type(value) is int, "an integer"),
    "lora_alpha": (_is_number, "a number"),
    "lora_dropout": (_is_number, "a number"),
    "use_rslora": (lambda value: type(value) is bool, "true or false"),
    "use_dora": (lambda value: type(value) is bool, "true or false"),
    "target_modules": (_is_names, "a list of names or a regular expression"),
    "exclude_modules": (
        lambda value: value is None or _is_names(value),
        "a list of names or a regular expression",
    ),
    "layers_to_transform": (_is_indices, "an integer or a list of them"),
    "layers_pattern": (lambda value: value is None or _is_names(value), "a name or a list of them"),
    "modules_to_save": (lambda value: value is None or _is_names(value), "a list of names"),
    "rank_pattern": (_is_pattern, "an object of numbers"),
    "alpha_pattern": (_is_pattern, "an object of numbers"),
}


def _targets(model: nn.Module, config: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """Layer -> (m, n), of every module that PEFT would adapt.

    Each is a layer that perakit can adapt.
    """
    found: dict[str, tuple[int, int]] = {}
    modules = {name: module for name, module in walk(model) if name}
    target, excluded = (
        _matcher(config["target_modules"], list(modules)),
        _matcher(config.get("exclude_modules") or [], list(modules)),
    )
    in_block = _blocks(config, list(modules))
    for name, module in modules.items():
        if excluded(name) or not target(name) or not in_block(name):
            continue
        base = plain(module)
        kind = kind_of(base)
        if kind is None:
            raise PerakitError(
                f"the adapter targets {name!r} ({type(base).__name__}), which cannot be adapted:"
                f" {why_not(base)}"
            )
        found[name] = kind.shape(base)
    if not found:
        raise PerakitError(
            f"target_modules={short(config['target_modules'])} matches no layer: this adapter"
            " belongs to another model"
        )
    return found


def _in_full(model: nn.Module, config: Mapping[str, Any], name: str) -> list[str]:
    """The modules that PEFT would have trained in full: it compares the ends of names.

    One that matches none says nothing: for a classifier PEFT writes classifier and score.
    """
    ends = config.get("modules_to_save") or []
    ends = [ends] if isinstance(ends, str) else ends
    places = [place for place, _ in walk(model) if place]
    chosen = [place for place in places if any(place.endswith(end) for end in ends)]
    check(model, chosen, name)
    return chosen


def _matcher(targets: str | list[str], modules: Sequence[str]) -> Callable[[str], bool]:
    """PEFT's rule for names, as a predicate.

    A string is a regular expression for the whole name, a list holds names or dotted suffixes.
    """
    if isinstance(targets, str):
        (pattern,) = compile_all([targets], modules)
        return lambda name: pattern.fullmatch(name) is not None
    return lambda name: any(covers(target, name) for target in targets)


def _blocks(config: Mapping[str, Any], modules: Sequence[str]) -> Callable[[str], bool]:
    """PEFT's layers_to_transform: is the number of the block in a name one of these?

    Names that are written out in full need not have such a number.
    """
    wanted = config.get("layers_to_transform")
    wanted = [wanted] if type(wanted) is int else wanted
    if not wanted:
        return lambda name: True
    blocks = config.get("layers_pattern")
    blocks = [blocks] if isinstance(blocks, str) and blocks else blocks
    within = r"(?:^|.*?\.){}\.(?P<idx>\d+)\." if blocks else r".*?\.{}\.(?P<idx>\d+)\."
    patterns = compile_all(blocks or ["[^.]*"], modules, within)

    def chosen(name: str) -> bool:
        match = next(filter(None, (pattern.match(name) for pattern in patterns)), None)
        return name in config["target_modules"] or (
            match is not None and int(match["idx"]) in wanted
        )

    return chosen


def _methods(config: Mapping[str, Any], shapes: Mapping[str, tuple[int, int]]) -> dict[str, Method]:
    """Layer -> the method on it: its rank and alpha, after PEFT's patterns."""
    ranks = _values(config.get("rank_pattern"), list(shapes), config["r"])
    alphas = _values(config.get("alpha_pattern"), list(shapes), config["lora_alpha"])
    return {
        layer: _method(config, layer, shape, rank, alpha)
        for (layer, shape), rank, alpha in zip(shapes.items(), ranks, alphas, strict=True)
    }


def _method(
    config: Mapping[str, Any], layer: str, shape: tuple[int, int], rank: Any, alpha: Any
) -> Method:
    most = max(*shape, SERVED[-1])
    if type(rank) is not int or rank < 1 or rank > most:
        raise PerakitError(
            f"rank {short(rank)} of layer {layer!r}, {shape[0]} x {shape[1]}, must be an integer"
            f" from 1 to {most}"
        )
    if not 0 < alpha < math.inf:
        raise PerakitError(
            f"lora_alpha {short(alpha)} of layer {layer!r} must be a finite number > 0: a minus"
            " sign can go into its lora_B, and a layer with 0 can be left out"
        )
    scaling = "rslora" if config.get("use_rslora") else "standard"
    cls = DoRA if config.get("use_dora") else LoRA
    return cls(rank, alpha=alpha, scaling=scaling, dropout=config.get("lora_dropout", 0.0))


def _values(patterns: Mapping[str, Any] | None, layers: Sequence[str], default: Any) -> list[Any]:
    """For each layer the value of the first pattern that the end of its name matches.

    PEFT reads them in the same order.
    """
    compiled = list(
        zip(
            compile_all(list(patterns or {}), layers, r"(.*\.)?({})$"),
            (patterns or {}).values(),
            strict=True,
        )
    )
    return [
        next((value for pattern, value in compiled if pattern.match(layer)), default)
        for layer in layers
    ]


# --- adapter_model.safetensors --------------------------------------------------------------------


def _read_tensors(folder: Path, expected: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """The tensors of a file that holds exactly `expected` (name -> shape).

    Nothing else is read into memory.
    """
    path = folder / TENSORS_NAME
    damaged = (
        f"{str(path)!r} is cut short or altered: copy the adapter again from where it was saved"
    )
    allowance = METADATA_ALLOWANCE + sum(
        HEADER_ALLOWANCE + len(name.encode("utf-8", "replace")) for name in expected
    )
    try:
        with open_plain(path) as file:
            header = read_header(file, allowance, damaged)
            _check_names(header.shapes, expected)
            odd = [
                name
                for name, kind in header.types.items()
                if OWN.search(name) and kind not in FLOATS
            ]
            if odd:
                raise PerakitError(f"{damaged} ({odd[0]!r} is {header.types[odd[0]]})")
            file.seek(0)
            data = file.read()
    except FileNotFoundError as error:
        pickled = (
            "; its adapter_model.bin is a pickle, which can run code"
            if (folder / "adapter_model.bin").exists()
            else ""
        )
        raise PerakitError(
            f"{str(folder)!r} has no {TENSORS_NAME}{pickled}: save it with PEFT as safetensors"
        ) from error
    except OSError as error:
        raise PerakitError(
            f"cannot read {str(path)!r}: {error.strerror}; is this a folder that PEFT's"
            " save_pretrained wrote?"
        ) from error
    try:
        tensors = from_safetensors(data)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise PerakitError(f"{damaged} ({error})") from error
    if {key: tuple(tensor.shape) for key, tensor in tensors.items()} != header.shapes:
        raise PerakitError(damaged)
    return tensors


def _check_names(
    found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]
) -> None:
    """Refuse a file whose tensors are not those that configuration and model agree on."""
    unexpected, missing = sorted(set(found) - set(expected)), sorted(set(expected) - set(found))
    problems = []
    base = [name for name in unexpected if not OWN.search(name)]
    if any(name.endswith((".base_layer.weight", ".base_layer.bias")) for name in base):
        raise PerakitError(
            f"the file has weights of the base beside the adapter: {listed(base)}; where they are"
            " not trained, save it with PEFT's save_pretrained(folder,"
            " save_embedding_layers=False)"
        )
    if unexpected:
        problems.append(f"the file has tensors that nothing asks for: {listed(unexpected)}")
    if missing:
        problems.append(f"the file lacks tensors that {CONFIG_NAME} speaks of: {listed(missing)}")
    wrong = [name for name in sorted(set(found) & set(expected)) if found[name] != expected[name]]
    problems += [
        f"{name!r} has shape {short(list(found[name]))}, the model and rank need"
        f" {list(expected[name])}"
        for name in wrong[:4]
    ]
    if problems:
        raise PerakitError(
            f"this adapter does not fit: {'; '.join(problems)}. Import it onto the model it was"
            " trained on"
        )


def _check_values(layer: str, base: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Refuse numbers that the adapter on `base` could not hold as they are."""
    for key, tensor in tensors.items():
        check_width(f"{key} of layer {layer!r}", tensor, base)
        if not tensor.isfinite().all():
            raise PerakitError(
                f"{key} of layer {layer!r} holds NaN or inf: import another checkpoint of"
                " this adapter"
            )
