"""An adapter in PEFT's file format: a standard LoRA that other libraries and servers load.

Every ΔW that does not depend on the input is a product of two factors, hence a LoRA, of a larger
rank. Format of huggingface/peft: adapter_config.json, and adapter_model.safetensors with lora_A (K,
n) and lora_B (m, K) per layer.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

from perakit.adapters import Adapter
from perakit.errors import PerakitError
from perakit.files import as_folder, write_synced
from perakit.formulas import check_count
from perakit.models import gather, hosted
from perakit.models.adapted import (
    AdaptedLayer,
    everywhere,
    plain,
    require_adapters,
    shared_weights,
    unwrapped,
    walk,
)
from perakit.models.adapted import adapters as named_adapters
from perakit.models.merge import check_finite
from perakit.models.trained import check_finite as check_modules
from perakit.models.trained import check_taken, numbers_of, trained_modules
from perakit.models.truncation import Factored, factorise
from perakit.table import Table

CONFIG_NAME, TENSORS_NAME = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."  # a key without it loads in PEFT and does nothing
SERVED = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # ranks that vLLM takes
STAGE = ".export."  # how folders begin in which the files are made
STALE = 3600  # seconds after which such a folder is of an export that was killed
CLASSIFIERS = {"ForSequenceClassification": "SEQ_CLS", "ForTokenClassification": "TOKEN_CLS"}
CAUSAL = ("ForCausalLM", "LMHeadModel")  # how transformers' classes of causal language models end


@dataclass(frozen=True)
class ExportReport:
    """What export_peft wrote, layer by layer.

    rows: (layer, (m, n), K, rank, cut, error, sigma): K columns make up ΔW, rank of them are in the
    file (zero padding included); cut is ‖ΔW - nearest‖/‖ΔW‖ in Frobenius norm for the nearest
    matrix of that rank, 0 where nothing was cut; error is the same for the factors in the file,
    against ΔW in float64; sigma is the spectral norm of what was cut, the first singular value left
    out. folder, size: where the two files are, and their bytes; trained: modules that train in
    full, which are in the file as PEFT's modules_to_save.
    """

    rows: list[tuple[str, tuple[int, int], int, int, float, float, float]]
    folder: Path
    size: int
    trained: list[str] = field(default_factory=list)

    @property
    def rank(self) -> int:
        """The largest rank in the file, which a server must allow."""
        return max(row[3] for row in self.rows)

    @property
    def worst(self) -> float:
        """The largest error of a layer."""
        return max(row[5] for row in self.rows)

    def table(self) -> Table:
        """The report as a table, to print or to show in a notebook."""
        columns = ("layer", "shape", "K", "rank", "cut off", "error", "spectral")
        cells = [
            [name, f"{m} x {n}", str(K), str(rank), f"{cut:.2e}", f"{error:.2e}", f"{sigma:.2e}"]
            for name, (m, n), K, rank, cut, error, sigma in self.rows
        ]
        layers = "1 layer" if len(self.rows) == 1 else f"{len(self.rows)} layers"
        foot = (
            f"{layers}, rank up to {self.rank}, {self.size:,} bytes in {self.folder}\ncut off: the"
            " least that any matrix of this rank leaves out of ΔW; error: of the numbers in the"
            " file; both / ‖ΔW‖"
        )
        if self.trained:
            foot += f"\nin full, as modules_to_save: {', '.join(self.trained)}"
        return Table(columns, cells, foot)

    def __str__(self) -> str:
        return str(self.table())

    def _repr_html_(self) -> str:
        return self.table()._repr_html_()


def export_peft(
    model: nn.Module,
    folder: str | Path,
    rank: int | None = None,
    pad: bool = False,
    name: str | None = None,
    expand: bool = True,
) -> ExportReport:
    """Write the adapters of `model` to `folder` as one PEFT LoRA adapter.

    ΔW = lora_B lora_A, with scale 1.
    rank: None is exact, K columns a layer, or min(m, n) where K is more or the method gives no
    factors (DoRA, HiRA); a number cuts layers that have more to the nearest matrix of that rank,
    and the report says what was lost;
    pad: zeros up to one rank for all layers, the next that servers take (1, 8, 16, 32, 64, 128,
    256, 320, 512);
    name: of one adapter, None writes the sum of the active ones. Modules that it trains in full are
    written as PEFT's modules_to_save;
    expand: False writes the method itself with its own parameters, for a PEFT that has imported
    `perakit.peft`, where it trains on. Merged or disabled changes
    nothing. Load it onto the same base with `peft.PeftModel.from_pretrained(base, folder)`: a ΔW
    that depends on W0 belongs to that W0, which is the dequantised one where the base is in 4 bits.
    Everything is computed first, and read back and compared before an older adapter in `folder`
    gives way. Raises PerakitError, with the files in the folder as they were, where a rank cannot
    be had, a number is not finite, ΔW is no matrix, a layer's weight is shared with another, a
    parameter requires grad that would not be in the file, or the system refuses to write. Only a
    kill between the last two steps leaves numbers without their configuration, which nobody loads.
    DTensors are gathered: then every process has to call it.

    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 5))
    >>> report = pk.attach(model, pk.PERA(rank=1), ["0"])
    >>> report = pk.export_peft(model, "my-adapter-peft")
    >>> report.rank, report.worst  # K = 2 columns make up ΔW, and nothing is lost
    (2, 0.0)
    """
    folder = as_folder(folder)
    layers = _chosen(model, name)
    check_taken(model, "export")
    in_full = trained_modules(model, name)
    _check_saved_modules(model, in_full)
    check_modules("export", in_full)
    if not expand:
        if rank is not None or pad:
            raise PerakitError(
                "rank and pad are about the expanded update: leave them out, or leave expand out"
            )
        return _as_they_are(model, folder, layers, in_full)
    if rank is not None:
        check_count("rank", rank)
    factored: dict[str, Factored] = {}
    for key, (layer, adapters) in layers.items():
        W0 = gather.weight("export", key, layer)
        adapters = [gather.adapter("export", key, layer, one) for one in adapters]
        check_finite("export", key, W0, adapters)
        factored[key] = factorise(adapters, W0, rank)
        _check_factors(key, factored[key], adapters)
    most = max(min(part.K, *layers[key][0].W0.shape) for key, part in factored.items())
    if rank is not None and rank > most:
        raise PerakitError(
            f"rank={rank} is more than any layer has: choose 1 to {most}, or leave rank out, which"
            " is exact"
        )
    width = _padded(max(part.B.shape[1] for part in factored.values())) if pad else None
    tensors = {
        key: _pad(part, part.B.shape[1] if width is None else width)
        for key, part in factored.items()
    }
    config = _config(
        model,
        {key: layer for key, (layer, _) in layers.items()},
        {key: A.shape[0] for key, (_, A) in tensors.items()},
        list(in_full),
    )
    flat: dict[str, Tensor] = {}
    for key, (B, A) in tensors.items():
        flat |= {f"{PREFIX}{key}.lora_A.weight": A, f"{PREFIX}{key}.lora_B.weight": B}
    size = _write(folder, config, flat | _of_modules(in_full))
    rows = [_row(key, part, tensors[key][0].shape[1]) for key, part in factored.items()]
    return ExportReport(rows, folder, size, list(in_full))


def _as_they_are(
    model: nn.Module,
    folder: Path,
    layers: Mapping[str, tuple[AdaptedLayer, list[Adapter]]],
    in_full: Mapping[str, nn.Module],
) -> ExportReport:
    """Write one adapter a layer, with its own parameters."""
    several = [key for key, (_, found) in layers.items() if len(found) > 1]
    if several:
        raise PerakitError(
            f"layer {several[0]!r} has several active adapters, whose sum is none of them: name one"
        )
    own = {
        key: gather.adapter("export", key, layer, found[0])
        for key, (layer, found) in layers.items()
    }
    method = hosted.configuration({key: adapter.method for key, adapter in own.items()})
    flat: dict[str, Tensor] = {}
    for key, adapter in own.items():
        check_finite("export", key, gather.weight("export", key, layers[key][0]), [adapter])
        for name, value in adapter.state_dict().items():
            place = f"{PREFIX}{key}.{hosted.PLACES[method['peft_type']]}.{name}"
            flat[place] = value.detach().cpu().contiguous()
    config = _about(model, list(layers), list(in_full)) | method
    size = _write(folder, config, flat | _of_modules(in_full))
    rows = [
        (key, (m, n), (K := own[key].method.rank_bound(m, n)), K, 0.0, 0.0, 0.0)
        for key, (layer, _) in layers.items()
        for m, n in [layer.kind.shape(layer.base)]
    ]
    return ExportReport(rows, folder, size, list(in_full))


def _of_modules(in_full: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """The tensors of the modules that train in full, by the names that PEFT gives them."""
    return {
        f"{PREFIX}{place}.{key}": value.cpu().contiguous()
        for place, module in in_full.items()
        for key, value in numbers_of(place, module).items()
    }


def _row(
    name: str, part: Factored, rank: int
) -> tuple[str, tuple[int, int], int, int, float, float, float]:
    size = part.size or 1.0
    return (
        name,
        (part.B.shape[0], part.A.shape[1]),
        part.K,
        rank,
        part.tail / size,
        part.distance / size,
        part.sigma,
    )


def _chosen(model: nn.Module, name: str | None) -> dict[str, tuple[AdaptedLayer, list[Adapter]]]:
    """The layers and adapters to write; each can be."""
    found = require_adapters(model)
    if name is None:
        layers = {
            key: (layer, layer.active_adapters) for key, layer in found.items() if layer.active
        }
    else:
        layers = {
            key: (found[key], [adapter]) for key, adapter in named_adapters(model, name).items()
        }
    if not layers:
        raise PerakitError("no adapter is active: pk.activate(model, name) first, or pass name=")
    places = Counter(id(module) for _, module in everywhere(model))
    shared = shared_weights(model)
    for key, (layer, adapters) in layers.items():
        other = shared.get(id(layer.base))
        if other is not None:
            raise PerakitError(
                f"cannot export layer {key!r}: its weight is shared with {other!r}, which merging"
                " in PEFT would change too; untie them (give the layer a clone of the weight)"
            )
        if places[id(layer)] > 1:
            raise PerakitError(
                f"layer {key!r} stands at {places[id(layer)]} places of the model, of which PEFT"
                " would fill one: untie them"
            )
        for adapter in adapters:
            if not adapter.method.mergeable:
                raise PerakitError(
                    f"cannot export layer {key!r}: the update of {adapter.method.name!r} is not"
                    " linear in the input, so it is no matrix; choose another method to export"
                )
    return layers


def _check_factors(name: str, part: Factored, adapters: list[Adapter]) -> None:
    dtype = part.B.dtype
    if not part.B.isfinite().all() or not part.A.isfinite().all():
        raise PerakitError(
            f"cannot export layer {name!r}: its ΔW overflows {dtype}; train with a lower lr or"
            " scale"
        )
    if not part.explained:
        share = (
            f"its factors in {dtype} miss the ΔW of float64 by a share of"
            f" {part.distance / (part.size or 1):.1e}"
        )
        least = min(
            parameter[parameter != 0].abs().min().item()
            for adapter in adapters
            for parameter in adapter.parameters()
            if parameter.any()
        )
        if least**2 < torch.finfo(dtype).tiny:
            raise PerakitError(
                f"cannot export layer {name!r}: {share}: the square of {least:.0e} underflows"
                f" {dtype}; use model.double()"
            )
        raise PerakitError(
            f"cannot export layer {name!r}: {share}, more than rounding can: correct the method's"
            " product()"
        )


def _padded(rank: int) -> int:
    """The least rank >= `rank` that servers take."""
    fitting = [served for served in SERVED if served >= rank]
    if not fitting:
        raise PerakitError(
            f"pad=True: the largest rank is {rank}, servers take {SERVED[-1]} at most: pass"
            f" rank={SERVED[-1]}"
        )
    return fitting[0]


def _pad(part: Factored, rank: int) -> tuple[Tensor, Tensor]:
    """The factors with zero columns and rows up to `rank`."""
    more = rank - part.B.shape[1]
    pad = nn.functional.pad
    return pad(part.B, (0, more)).contiguous(), pad(part.A, (0, 0, 0, more)).contiguous()


# --- adapter_config.json --------------------------------------------------------------------------


def _config(
    model: nn.Module,
    layers: Mapping[str, AdaptedLayer],
    ranks: Mapping[str, int],
    in_full: list[str],
) -> dict[str, Any]:
    """What PEFT needs to know about the factors and modules in the file."""
    r = max(ranks.values())  # servers reserve room for r, so it is the largest
    pattern = {f"^{re.escape(name)}": rank for name, rank in ranks.items() if rank != r}
    return _about(model, list(layers), in_full) | {
        "peft_type": "LORA",
        "r": r,
        # So that the scale is 1 also where a server reads only `r`; PEFT's default is 8
        "lora_alpha": r,
        "rank_pattern": pattern,
        "alpha_pattern": pattern,
        "fan_in_fan_out": any(map(_transposed, layers.values())),
        "lora_dropout": 0.0,
        "bias": "none",
    }


def _about(model: nn.Module, layers: list[str], in_full: list[str]) -> dict[str, Any]:
    """What every configuration of PEFT says: the base, and which of its modules are meant."""
    model = unwrapped(model)
    base = getattr(getattr(model, "config", None), "_name_or_path", None) or None
    return {
        "task_type": _task(model, in_full),
        "base_model_name_or_path": base,
        "inference_mode": True,
        "target_modules": target_modules([name for name, _ in walk(model)], layers),
    } | ({"modules_to_save": in_full} if in_full else {})


def _task(model: nn.Module, in_full: list[str]) -> str | None:
    """PEFT's name for what the model does, where its class says it.

    Of a classifier only with its head: PEFT expects that in the file then.
    """
    if _is_causal(model):
        return "CAUSAL_LM"
    name = type(unwrapped(model)).__name__
    tasks = [task for ending, task in CLASSIFIERS.items() if name.endswith(ending)]
    return tasks[0] if tasks and set(in_full) & {"classifier", "score"} else None


def _check_saved_modules(model: nn.Module, in_full: Iterable[str]) -> None:
    """Refuse a module that PEFT would not find, or not alone: it compares the ends of names."""
    places = Counter(id(plain(module)) for _, module in everywhere(model))
    modules = dict(walk(model))
    for place in in_full:
        if places[id(plain(modules[place]))] > 1:
            raise PerakitError(
                f"{place!r}, which trains in full, stands at several places of the model, of which"
                " PEFT would fill one: untie them"
            )
        ends = [one for one in modules if one.endswith(place)]
        if ends != [place]:
            other = next(one for one in ends if one != place)
            raise PerakitError(
                f"cannot export {place!r}, which trains in full: PEFT compares the ends of names"
                f" and would take {other!r} for it too; rename one of them"
            )


def _is_causal(model: nn.Module) -> bool:
    """Is this a causal language model, by the name of its class?

    Or by that of the class that its config says it stands for.
    """
    describe: Callable[[], dict[str, Any]] = getattr(
        getattr(model, "config", None), "to_dict", dict
    )
    described = (describe().get("architectures") or ()) if hasattr(model, "lm_head") else ()
    return any(str(name).endswith(CAUSAL) for name in (type(model).__name__, *described))


def _transposed(layer: AdaptedLayer) -> bool:
    """Does the layer store its weight as (n, m)?"""
    W = torch.empty(tuple(layer.kind.shape(layer.base)), device="meta")
    stored = layer.kind.stored(layer.base, W)
    return (stored.shape, stored.stride()) != (W.shape, W.stride())


def covers(target: str, name: str) -> bool:
    """PEFT's rule for a list of targets: the name itself, or a dotted suffix of it."""
    return name == target or name.endswith(f".{target}")


def target_modules(modules: list[str], adapted: list[str]) -> list[str] | str:
    """The shortest names that PEFT's rule reads as exactly the layers `adapted`.

    modules: all names of the model, among which they are told apart.
    Each layer takes its shortest dotted suffix that no other module has; where even a full name is
    the suffix of another module, a regular expression for the whole name says it all.
    """
    endings = Counter(ending for name in modules for ending in _endings(name))
    wanted = Counter(ending for name in adapted for ending in _endings(name))
    chosen: list[str] = []
    for name in adapted:
        if any(covers(target, name) for target in chosen):
            continue
        safe = next(
            (ending for ending in _endings(name) if endings[ending] == wanted[ending]), None
        )
        if safe is None:
            return "|".join(map(re.escape, adapted))
        # Never the end of one chosen before, which would have taken this shorter one
        chosen.append(safe)
    return chosen


def _endings(name: str) -> list[str]:
    """The dotted suffixes of a name, from the shortest to the name itself."""
    parts = name.split(".")
    return [".".join(parts[k:]) for k in reversed(range(len(parts)))]


# --- files ----------------------------------------------------------------------------------------


def _write(folder: Path, config: dict[str, Any], flat: dict[str, Tensor]) -> int:
    """Write both files beside the old ones, read them back, then let them take their place.

    flat: the tensors by the names that PEFT gives them. Returns their bytes.
    """
    data = to_safetensors(flat, {"format": "pt"})
    text = (json.dumps(config, indent=2) + "\n").encode()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        stage = Path(tempfile.mkdtemp(prefix=STAGE, dir=folder))
        try:
            write_synced(stage / TENSORS_NAME, data)
            write_synced(stage / CONFIG_NAME, text)
            _verify(stage, folder, text, flat)
            _replace(stage, folder)
        finally:
            shutil.rmtree(stage, ignore_errors=True)
    except (OSError, ValueError) as error:  # ValueError: a name that no folder can have
        raise PerakitError(
            f"cannot write {str(folder)!r}: {getattr(error, 'strerror', None) or error}; choose a"
            f" folder that can be written and has room for {len(data) + len(text):,} bytes"
        ) from error
    _remove_stale(folder)
    return len(data) + len(text)


def _verify(stage: Path, folder: Path, text: bytes, flat: dict[str, Tensor]) -> None:
    """Compare what is on disk with what was meant.

    That is the configuration, and every name, shape and number.
    """
    if (stage / CONFIG_NAME).read_bytes() != text:
        raise PerakitError(
            f"{CONFIG_NAME} was read back from {str(folder)!r} with other entries: check the disk"
            " and export again"
        )
    odd: set[str] | None = None
    with suppress(SafetensorError), safe_open(stage / TENSORS_NAME, framework="pt") as file:
        odd = set(file.keys()) ^ set(flat)
        odd |= {
            key
            for key in flat
            if key not in odd and not torch.equal(file.get_tensor(key), flat[key])
        }
    if odd is None or odd:
        what = f", {min(odd)!r} for one," if odd else ""
        raise PerakitError(
            f"{TENSORS_NAME} was read back from {str(folder)!r} with other numbers{what}: check the"
            " disk and export again"
        )


def _replace(stage: Path, folder: Path) -> None:
    """Put the files of `stage` in the place of the old ones, which come back where that fails."""
    old, placed = stage / "old", []
    old.mkdir()
    try:
        # From the first of these steps to the last, there is no configuration to load
        for name in (CONFIG_NAME, TENSORS_NAME):
            # Which would go with the stage
            if (folder / name).is_symlink() or not (folder / name).is_dir():
                with suppress(FileNotFoundError):
                    os.replace(folder / name, old / name)
        for name in (TENSORS_NAME, CONFIG_NAME):
            os.replace(stage / name, folder / name)
            placed.append(folder / name)
    except BaseException:
        for path in placed:
            path.unlink(missing_ok=True)
        for name in (TENSORS_NAME, CONFIG_NAME):
            with suppress(OSError):
                os.replace(old / name, folder / name)
        raise


def _remove_stale(folder: Path) -> None:
    """Remove what exports that were killed left behind.

    Younger folders may be of one that is running.
    """
    with suppress(OSError):
        for stage in folder.glob(f"{STAGE}*"):
            if stage.stat().st_mtime < time.time() - STALE:
                shutil.rmtree(stage, ignore_errors=True)
