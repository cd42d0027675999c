"""Two doors, for the two formats of adapters: sources to spoil, how a draft is written, and whether
what was loaded is in the files.

The judges read the files on their own and share no code with perakit's readers.
"""

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from defects import ADAPTERS, OWN_ADAPTERS
from mutations import Draft, Entry, Files, digest, pack, unpack
from runner import Door, Trial, demand
from targets import LAYERS, SHAPES, TARGETS, Source, adapt, bare, base_bits, fingerprint
from torch import nn

import perakit as pk
from perakit.adapters import DoRA, LoRA, Method
from perakit.models.adapted import adapted_layers, stand_ins
from perakit.models.import_peft import import_peft
from perakit.models.parts import Parts
from perakit.models.quantize import NF4, NF4Layer
from perakit.models.trained import trained_modules

# Where a name that is taken is refused before the files are read, few models have it.
FREE = {
    name: one
    for name, one in TARGETS.items()
    if not name.startswith("adapted,") and name != "adapted in part"
}


LARGEST = 1000  # a rank r that is tried: LoHa's factors have m r^2 numbers


class Adapters(Door):
    """A door through which adapters come onto a model."""

    defects = ADAPTERS

    def trial(self, source: Source, target: str, folder: Path, opens: Callable[..., Any]) -> Trial:
        model = self.targets[target][1](source)
        before, base, owned = fingerprint(model), base_bits(model), dict(model.named_parameters())

        def right(_: object) -> None:
            unmoved(model, base, owned)
            self.judge(model, folder)
            for layer in adapted_layers(model).values():
                if all(adapter.method.rank <= LARGEST for adapter in layer.adapters.values()):
                    layer(torch.ones(3, layer.W0.shape[1], dtype=layer.W0.dtype))

        def changed() -> str:
            return "" if fingerprint(model) == before else "the model"

        return Trial(lambda: opens(model, folder), right, changed)

    def judge(self, model: nn.Module, folder: Path) -> None:
        """Raises where the model has not the adapter of the files."""
        raise NotImplementedError


class Perakit(Adapters):
    """adapter.json, and the tensor file it names by its hash."""

    name = "adapter"
    targets = TARGETS
    defects = OWN_ADAPTERS
    opens = staticmethod(pk.load)

    def sources(self, scratch: Path) -> dict[str, Source]:
        """Every registered method on all layers, mixtures, parts, heads, and 4-bit bases."""
        methods = {
            name: dict.fromkeys(LAYERS, cls(rank=2))
            for name, cls in sorted(Method.registry.items())
        }
        every = [
            one for _, cls in sorted(Method.registry.items()) for one in (cls(rank=2), fancy(cls))
        ]
        for start in range(0, len(every), 3):
            methods[f"mixed {start}"] = {
                name: every[(start + i) % len(every)]
                for i, name in enumerate(LAYERS[: 2 + start % 3])
            }
        made = {
            name: Perakit._source(chosen, None, scratch / name) for name, chosen in methods.items()
        }
        parts = {"0": LoRA(rank=2), "1.0": Parts.on(DoRA(rank=2), "qv")}
        made["parts and a head"] = Perakit._source(parts, None, scratch / "parts", ("2",))
        for name, config in (("mixed 3", NF4()), ("mixed 6", NF4(block=32, double=False))):
            made[f"{name}, 4-bit"] = Perakit._source(methods[name], config, scratch / f"{name} 4")
        return made

    @staticmethod
    def _source(
        methods: dict[str, Method],
        quantize: NF4 | None,
        folder: Path,
        train: tuple[str, ...] = (),
    ) -> Source:
        source = Source(
            lambda: Draft(json.loads(text), unpack(data), sha256=sha256), methods, quantize, train
        )
        pk.save(adapt(bare(), source, seed=3), folder)
        config = json.loads((folder / "adapter.json").read_text())
        del config["checksum"]
        text, sha256, data = (
            json.dumps(config),
            config["sha256"],
            (folder / config["tensors"]).read_bytes(),
        )
        return source

    def files(self, draft: Draft, sealed: bool) -> Files:
        """The folder's content; unsealed, the old hash stays and the checksum is of something
        else.
        """
        old = draft.sha256
        data = pack(draft.tensors, draft.metadata) if draft.data is None else draft.data
        new = digest(data, draft.tail) if sealed and draft.tail <= 2**30 else old
        file_name = f"adapter-{new[:16]}.safetensors"
        if draft.name is not None:
            draft.config["tensors"] = draft.name.replace("{own}", file_name)
        text = json.dumps(draft.config).encode() if draft.text is None else draft.text
        text = text.replace(old.encode(), new.encode()).replace(
            old[:16].encode(), new[:16].encode()
        )
        with contextlib.suppress(ValueError, RecursionError):
            checksum = canonical(json.loads(text)) if sealed else "0" * 64
            text = text.rstrip()[:-1] + f', "checksum": "{checksum}"}}'.encode()
        return {"adapter.json": text, file_name: with_tail(data, draft.tail), **draft.extra}

    def judge(self, model: nn.Module, folder: Path) -> None:
        """Every number, option and shape of the files is in the model, and nothing else."""
        config = json.loads((folder / "adapter.json").read_bytes())
        demand(config.pop("checksum") == canonical(config), "the checksum does not fit")
        data = (folder / config["tensors"]).read_bytes()
        demand(hashlib.sha256(data).hexdigest() == config["sha256"], "the hash does not fit")
        layers, adapters = adapted_layers(model), pk.adapters(model, "default")
        demand(set(adapters) == set(config["layers"]), f"layers {sorted(adapters)}")
        found = {}
        for name, adapter in adapters.items():
            entry, base = config["layers"][name], layers[name].base
            options = adapter.method.to_dict()
            options |= {"kind": entry.get("kind"), "shape": list(layers[name].W0.shape)}
            options |= {"quantize": base.config.to_dict()} if isinstance(base, NF4Layer) else {}
            for key, value in entry.items():
                demand(options[key] == value, f"option {key} of {name} is {options[key]!r}")
            demand("quantize" in entry or "quantize" not in options, f"{name} is 4-bit")
            found |= {f"{name}.{key}": p for key, p in adapter.named_parameters()}
        in_full = trained_modules(model, "default")
        demand(set(in_full) == set(config.get("train", {})), f"in full {sorted(in_full)}")
        found |= numbers(in_full, "")
        compare(found, unpack(data))


class PEFT(Adapters):
    """adapter_config.json and adapter_model.safetensors, as PEFT writes them."""

    name = "peft"
    targets = FREE

    opens = staticmethod(import_peft)

    def sources(self, scratch: Path) -> dict[str, Source]:
        """LoRA and DoRA, with and without rsLoRA and patterns."""
        made = {}
        for dora in (False, True):
            for rslora in (False, True):
                for patterned in (False, True):
                    kind: Any = DoRA if dora else LoRA
                    scaling = {"scaling": "rslora"} if rslora else {}
                    methods = {
                        name: kind(rank=2, alpha=3, **scaling) for name in LAYERS[: 3 + patterned]
                    }
                    if patterned:
                        methods["1.0"] = kind(rank=3, alpha=5, **scaling)
                    kind_name = "dora" if dora else "lora"
                    name = f"{kind_name}{', rslora' * rslora}{', patterns' * patterned}"
                    made[name] = Source(
                        lambda m=methods, d=dora, r=rslora, p=patterned: PEFT._draft(m, d, r, p),
                        methods,
                    )  # type: ignore[misc]
        plain = made["lora"]
        made["lora, a head"] = Source(
            lambda: PEFT._with_head(plain.draft()), plain.methods, train=("2",)
        )
        return made

    @staticmethod
    def _with_head(draft: Draft) -> Draft:
        """Layer 2 not adapted but trained in full, as PEFT's modules_to_save."""
        shape = SHAPES["2"]
        kept = {name: entry for name, entry in draft.tensors.items() if ".2." not in name}
        data = np.random.default_rng(1).standard_normal(shape).astype("<f4").tobytes()
        draft.tensors = kept | {"base_model.model.2.weight": ("F32", shape, data)}
        draft.config |= {"modules_to_save": ["2"]}
        return draft

    @staticmethod
    def _draft(methods: dict[str, Method], dora: bool, rslora: bool, patterned: bool) -> Draft:
        config: dict[str, Any] = {
            "peft_type": "LORA",
            "peft_version": "0.21.2",
            "task_type": None,
            "auto_mapping": None,
        }
        config |= {
            "base_model_name_or_path": None,
            "r": 2,
            "lora_alpha": 3,
            "lora_dropout": 0.0,
            "bias": "none",
        }
        config |= {
            "use_dora": dora,
            "use_rslora": rslora,
            "fan_in_fan_out": False,
            "inference_mode": True,
            "init_lora_weights": True,
        }
        config |= {
            "rank_pattern": {"1.0": 3} if patterned else {},
            "alpha_pattern": {"1.0": 5} if patterned else {},
        }
        config |= {
            "target_modules": list(methods),
            "modules_to_save": None,
            "layers_to_transform": None,
            "loftq_config": {},
        }
        draw, tensors = np.random.default_rng(0), {}
        for name, (m, n) in SHAPES.items() if len(methods) == 4 else list(SHAPES.items())[:3]:
            r = methods[name].rank
            shapes = {"lora_A.weight": (r, n), "lora_B.weight": (m, r)} | (
                {"lora_magnitude_vector": (m,)} if dora else {}
            )
            for key, shape in shapes.items():
                numbers = (draw.standard_normal(shape) + 3).astype("<f4")
                tensors[f"base_model.model.{name}.{key}"] = ("F32", shape, numbers.tobytes())
        return Draft(config, tensors)

    def files(self, draft: Draft, sealed: bool) -> Files:
        data = pack(draft.tensors, draft.metadata) if draft.data is None else draft.data
        text = json.dumps(draft.config).encode() if draft.text is None else draft.text
        return {
            "adapter_config.json": text,
            draft.name or "adapter_model.safetensors": with_tail(data, draft.tail),
            **draft.extra,
        }

    def judge(self, model: nn.Module, folder: Path) -> None:
        """The factors are the file's, and the scale is what PEFT would compute from the same
        file.
        """
        config = json.loads((folder / "adapter_config.json").read_bytes())
        demand(
            config["peft_type"] == "LORA" and config.get("bias", "none") == "none",
            "another function",
        )
        found: dict[str, nn.Parameter] = {}
        keys = {"A": "lora_A.weight", "B": "lora_B.weight", "magnitude": "lora_magnitude_vector"}
        for name, adapter in pk.adapters(model, "default").items():
            method, parameters = adapter.method, dict(adapter.named_parameters())
            demand(
                ("magnitude" in parameters) == bool(config.get("use_dora", False)),
                f"DoRA or not, on {name}",
            )
            rank, alpha = (
                pattern(config.get(f"{key}_pattern") or {}, name, config.get(default, 8))
                for key, default in (("rank", "r"), ("alpha", "lora_alpha"))
            )
            demand(method.rank == rank, f"rank of {name}")
            scale = alpha / (rank**0.5 if config.get("use_rslora", False) else rank)
            demand(
                abs(method.scale - scale) <= 1e-12 * abs(scale),
                f"scale {method.scale} of {name}, PEFT has {scale}",
            )
            found |= {f"base_model.model.{name}.{keys[key]}": p for key, p in parameters.items()}
        found |= numbers(trained_modules(model, "default"), "base_model.model.")
        compare(found, unpack((folder / "adapter_model.safetensors").read_bytes()))


def pattern(patterns: dict[str, Any], name: str, default: Any) -> Any:
    """PEFT's rule: the first pattern that is, or ends, the name."""
    return next(
        (value for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", name)), default
    )


def fancy(cls: type[Method]) -> Method:
    """The method with as many options as it takes."""
    for options in (
        {"alpha": 3, "dropout": 0.25, "scaling": "rslora"},
        {"alpha": 3, "dropout": 0.25},
        {"alpha": 3.5},
    ):
        with contextlib.suppress(pk.PerakitError, TypeError):
            return cls(rank=3, **options)  # type: ignore[arg-type]
    return cls(rank=3)


def canonical(config: Any) -> str:
    return hashlib.sha256(
        json.dumps(config, sort_keys=True, separators=(",", ":")).encode()
    ).hexdigest()


def with_tail(data: bytes, tail: int) -> Any:
    """`data`, or what writes it with a sparse tail."""
    return (
        (lambda path: (path.write_bytes(data), os.truncate(path, len(data) + tail)))
        if tail
        else data
    )


def compare(found: dict[str, nn.Parameter], stored: dict[str, Entry]) -> None:
    """Each parameter has the shape and, widened, the bits of its tensor; there are no others."""
    demand(set(found) == set(stored), f"parameters {sorted(set(found) ^ set(stored))}")
    for name, (dtype, shape, data) in stored.items():
        kind = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}[dtype]
        numbers = np.frombuffer(data, kind).reshape(shape)
        if dtype == "BF16":
            numbers = (numbers.astype("<u4") << 16).view("<f4")
        here = found[name].detach().numpy()
        demand(here.shape == shape, f"{name} is {here.shape}, stored {shape}")
        with np.errstate(invalid="ignore"):
            wide = numbers.astype(here.dtype)
        demand(
            np.array_equal(np.isnan(here), np.isnan(wide))
            and np.where(np.isnan(here), 0, here).tobytes()
            == np.where(np.isnan(wide), 0, wide).tobytes(),
            name,
        )


def numbers(modules: dict[str, nn.Module], prefix: str) -> dict[str, torch.Tensor]:
    """Name -> number, of what trains in full."""
    return {
        f"{prefix}{place}.{key}": value
        for place, module in modules.items()
        for key, value in module.state_dict().items()
    }


def unmoved(model: nn.Module, before: dict[str, bytes], owned: dict[str, nn.Parameter]) -> None:
    """All but the adapter is what and where it was, save weights that the file wants in 4 bits;
    nothing is stale.
    """
    layers = adapted_layers(model)
    small = {f"{name}.weight" for name, layer in layers.items() if isinstance(layer.base, NF4Layer)}
    after = base_bits(model)
    moved = [
        name for name, value in before.items() if after.get(name) != value and name not in small
    ]
    demand(not moved, f"changed: {moved}")
    here = {id(p) for p in model.parameters()}
    gone = [name for name, p in owned.items() if id(p) not in here and name not in small]
    demand(not gone, f"no longer in the model: {gone}")
    bound = {id(p) for one in stand_ins(model).values() for p in one.adapters.parameters()}
    free = [name for name, p in model.named_parameters() if p.requires_grad and id(p) not in bound]
    demand(not free, f"not frozen: {free}")
    for name, layer in layers.items():
        demand(
            layer.merged is None or torch.equal(layer.merged, layer.sum_with(layer.exact_delta())),
            f"{name} is merged and stale",
        )
