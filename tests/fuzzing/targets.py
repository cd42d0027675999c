"""The models that the loading fuzzer loads onto, and what it compares of them before and after."""

import random
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from mutations import Draft
from torch import nn

import perakit as pk
from perakit.adapters import LoRA, Method
from perakit.models.adapted import adapted_layers
from perakit.models.quantize import NF4
from perakit.models.stand_in import Block
from perakit.models.trained import trained_modules
from perakit.toy.gpt2 import Conv1D

SHAPES = {"0": (5, 7), "1.0": (3, 5), "1.1": (3, 1), "2": (5, 5)}
LAYERS = tuple(SHAPES)


def bare(seed: int = 1, dtype: torch.dtype = torch.float32, wide: int = 7) -> nn.Sequential:
    """Linear and Conv1D, no two sides alike but in one square layer, one side 1."""
    torch.manual_seed(seed)
    middle = nn.ModuleList([Conv1D(3, 5), nn.Linear(1, 3)])
    return nn.Sequential(nn.Linear(wide, 5), middle, nn.Linear(5, 5, bias=False)).to(dtype)


class Source(NamedTuple):
    """An adapter to spoil, and what the model has that it fits."""

    draft: Callable[[], Draft]
    methods: dict[str, Method]
    quantize: NF4 | None = None
    train: tuple[str, ...] = ()


def adapt(model: nn.Module, source: Source, seed: int = 2, name: str = "default") -> nn.Module:
    """Attach each method to its layer, with every factor off its start."""
    for number, (layer, method) in enumerate(source.methods.items()):
        pk.attach(
            model,
            method,
            lambda at, _, layer=layer: at == layer,
            name=name,
            quantize=source.quantize,
            train=() if number else source.train,
        )
    torch.manual_seed(seed)
    with torch.no_grad():
        for own in (*pk.adapters(model, name).values(), *trained_modules(model, name).values()):
            for parameter in own.parameters():
                parameter.copy_(torch.randn(parameter.shape) + 3)
    return model


def worn(model: nn.Module) -> nn.Module:
    """A model in use: evaluation mode, a part frozen, a gradient, hooks."""
    model.eval()
    model[1].train()  # type: ignore[index]
    parameters = list(model.parameters())
    parameters[0].requires_grad_(False)
    parameters[-1].grad = torch.ones_like(parameters[-1])
    model.register_forward_hook(lambda *_: None)
    model[1].register_forward_pre_hook(lambda *_: None)  # type: ignore[index]
    return model


def merged(model: nn.Module) -> nn.Module:
    pk.merge(model)
    return model


def off(model: nn.Module) -> nn.Module:
    """As within `with pk.disabled(model)`."""
    block = Block()
    block.on = True
    for layer in adapted_layers(model).values():
        layer.blocks = (block,)
    return model


TARGETS: dict[str, tuple[int, Callable[[Source], nn.Module]]] = {
    "bare": (8, lambda source: bare()),
    "bare, in use": (3, lambda source: worn(bare())),
    "bare, float64": (2, lambda source: bare(dtype=torch.float64)),
    "bare, bfloat16": (2, lambda source: bare(dtype=torch.bfloat16)),
    "bare, another width": (1, lambda source: bare(wide=6)),
    "adapted": (5, lambda source: adapt(bare(), source)),
    "adapted, in use": (2, lambda source: worn(adapt(bare(), source))),
    "adapted, disabled": (1, lambda source: off(adapt(bare(), source))),
    "adapted, merged": (1, lambda source: merged(adapt(bare(), mergeable(source)))),
    "adapted in part": (
        1,
        lambda source: adapt(
            bare(), source._replace(methods=dict(list(source.methods.items())[:2]))
        ),
    ),
    "adapted otherwise": (
        1,
        lambda source: adapt(bare(), Source(source.draft, dict.fromkeys(LAYERS, LoRA(7)))),
    ),
    "another name": (2, lambda source: adapt(bare(), source, name="other")),
    "another name, merged": (
        2,
        lambda source: merged(adapt(bare(), mergeable(source), name="other")),
    ),
    "another name, in part": (
        2,
        lambda source: adapt(
            bare(), Source(source.draft, {"0": LoRA(7), "1.0": LoRA(7)}), name="other"
        ),
    ),
    "4-bit": (2, lambda source: quantised(bare(), source)),
    "adapted, 4-bit": (1, lambda source: adapt(bare(), source._replace(quantize=NF4()))),
}


def mergeable(source: Source) -> Source:
    """The source without methods whose update is no matrix."""
    return Source(
        source.draft,
        {name: m for name, m in source.methods.items() if m.mergeable} or {"0": LoRA(2)},
    )


def quantised(model: nn.Module, source: Source) -> nn.Module:
    pk.quantize(model, list(source.methods)[1:], source.quantize or NF4())
    return model


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def fingerprint(model: nn.Module) -> list[Any]:
    """Modules by identity with their plain attributes and hooks, tensors by identity and bits, and
    the generators.
    """
    found: list[Any] = [
        bits(torch.get_rng_state()),
        random.getstate(),
        np.random.get_state()[1].tobytes(),
    ]  # type: ignore[union-attr]
    found += [torch.get_default_dtype(), torch.is_grad_enabled()]
    for name, module in model.named_modules(remove_duplicate=False):
        found.append((name, id(module), type(module)))
        for key, value in vars(module).items():
            if key in ("_parameters", "_buffers"):
                found += [
                    (key, k, id(p), p.requires_grad, p.dtype, bits(p))
                    for k, p in value.items()
                    if p is not None
                ]
                found += [
                    (key, k, "grad", bits(p.grad))
                    for k, p in value.items()
                    if p is not None and p.grad is not None
                ]
            elif isinstance(value, dict):
                found.append((key, [(k, id(v)) for k, v in value.items()]))
            else:
                found.append((key, repr(value)))
    return found


def base_bits(model: nn.Module) -> dict[str, bytes]:
    """What a load must not touch, by the name it has without adapters: all but the adapter that is
    loaded.
    """
    mine = (
        {id(p) for adapter in pk.adapters(model, "default").values() for p in adapter.parameters()}
        if loaded_name(model)
        else set()
    )
    state = [
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    ]
    return {
        name.replace(".base.", "."): bits(p)
        for name, p in state
        if id(p) not in mine and ".adapters.default." not in name
    }


def loaded_name(model: nn.Module) -> bool:
    """Has any layer an adapter of the name that is loaded?"""
    return any("default" in layer.adapters for layer in adapted_layers(model).values())
