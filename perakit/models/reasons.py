"""Why a module is none of the layers that can be adapted, in words that name the remedy."""

from __future__ import annotations

import types
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils import parametrize, prune
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm
from torch.utils.weak import WeakTensorKeyDictionary

from perakit.models.numbers import can_dequantize, gathered, is_plain, missing

# Of weights that can be adapted
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
# Hooks that compute the weight before each forward pass, what they are called, and the way back
COMPUTING = {
    WeightNorm: ("weight_norm", "torch.nn.utils.remove_weight_norm(layer)"),
    SpectralNorm: ("spectral_norm", "torch.nn.utils.remove_spectral_norm(layer)"),
    prune.BasePruningMethod: ("prune", "torch.nn.utils.prune.remove(layer, 'weight')"),
}
FLOATING = "perakit adapts layers with a floating-point weight of 16 bits or more"
_tried = WeakTensorKeyDictionary()


def of_class(module: nn.Module) -> str:
    """Why no class of layer that is known fits a module whose forward and weight are its own."""
    kind = type(module).__name__
    parameters = {name: p for name, p in module._parameters.items() if p is not None}
    stacked = [f"{name} {tuple(p.shape)}" for name, p in parameters.items() if p.ndim > 2]
    if any(base.__module__.startswith("torch.ao.nn.quantized") for base in type(module).__mro__):
        return (
            "torch.ao keeps its weight packed in integers, and its product has no gradient: adapt"
            " the model before it is quantised"
        )
    if isinstance(module, nn.Linear):
        return (
            f"its class {kind} has a forward of its own, which need not be W x + b:"
            " target a plain Linear"
        )
    if isinstance(module, nn.modules.conv._ConvNd):
        return "a convolution multiplies by no matrix W x + b: target Linear and Conv1D layers"
    if isinstance(module, nn.Embedding | nn.EmbeddingBag):
        return "an embedding looks rows up and is no W x + b: target Linear and Conv1D layers"
    if stacked:
        return (
            f"its weights are stacked in 3 dimensions or more ({', '.join(stacked[:3])}), as"
            " those of experts are, and not the one matrix of W x + b: target Linear and Conv1D"
            " layers"
        )
    if isinstance(module, nn.MultiheadAttention):
        return "it keeps three matrices in one, in_proj_weight, for which there is no layer"
    if not parameters:
        return "it has no weight of its own: perakit adapts Linear and Conv1D layers"
    return "it is no W x + b that perakit knows: target Linear and Conv1D layers"


def of_state(module: nn.Module) -> str:
    """Why the weight that a layer shows is not what it multiplies by, or "" where it is."""
    if isinstance(module, LazyModuleMixin) and module.has_uninitialized_params():
        return f"{type(module).__name__} has no shape yet: pass one batch through the model first"
    forward = vars(module).get("forward")
    # Tools that put the old one back leave it on the object, where it is the class's all the same
    if forward is not None and forward != types.MethodType(type(module).forward, module):
        return _replaced(module)
    if "weight" not in module._parameters:
        return _computed(module)
    weight = module._parameters["weight"]
    return "its weight is None" if weight is None else of_weight(weight)


def of_weight(weight: Tensor) -> str:
    """Why a weight is no (m, n) matrix of floats by which torch multiplies, or "" where it is."""
    kept = str(weight.dtype).removeprefix("torch.")
    if weight.dtype not in DTYPES:
        if weight.is_complex():
            return f"its weight is {kept}, complex, and adapters are of real numbers: {FLOATING}"
        if weight.dtype.is_floating_point:
            return (
                f"its weight is {kept}, in which torch.nn.Linear does not multiply: {FLOATING};"
                " layer.to(torch.bfloat16) makes one"
            )
        return (
            f"its weight is {kept}, whole numbers that stand for others and have no gradient:"
            f" {FLOATING}; load the model without quantisation, and quantise with pk.quantize"
        )
    if weight.ndim != 2:
        return (
            f"its weight has shape {tuple(weight.shape)} and is no matrix (m, n); where FSDP or"
            " DeepSpeed keep a shard of it, attach before they wrap the model"
        )
    if weight.is_nested or weight.layout != torch.strided:
        layout = "nested" if weight.is_nested else str(weight.layout).removeprefix("torch.")
        return f"its weight is {layout}, no plain matrix: layer.weight.to_dense() makes one"
    return ""


def of_tensor_class(weight: Tensor, multiplied: bool = True) -> str:
    """Why a weight of a class of its own cannot be adapted, or "" where it is plain, or can be.

    It can be where it says what numbers it stands for, and multiplies with a gradient for x. That
    is tried once for each weight. multiplied: False for a layer that has another product than
    torch.nn.Linear.
    """
    if is_plain(weight) or missing(weight):
        return ""
    if not multiplied:
        name = type(weight).__name__
        return f"its weight is a {name}: perakit adapts tensor classes in torch.nn.Linear alone"
    if weight not in _tried:
        _tried[weight] = _trial(weight)
    return cast(str, _tried[weight])


def _trial(weight: Tensor) -> str:
    name = type(weight).__name__
    if not can_dequantize(weight):
        return (
            f"its weight is a {name}, a tensor class that does not say by dequantize() what"
            " numbers it stands for: give the layer a plain weight"
        )
    try:
        plain = gathered(weight)
        with torch.enable_grad():
            x = torch.zeros(1, weight.shape[1], dtype=plain.dtype, device=plain.device)
            y = F.linear(x.requires_grad_(), weight)
            gradient = torch.autograd.grad(y.sum(), x)[0] if y.requires_grad else None
    except Exception as error:  # of code that is not ours
        return (
            f"its weight is a {name}, with which a product or dequantize() fails"
            f" ({type(error).__name__}): give the layer a plain weight"
        )
    if not is_plain(plain) or plain.shape != weight.shape or not is_plain(y):
        return (
            f"its weight is a {name}, whose product and numbers are no plain tensors: give the"
            " layer a plain weight"
        )
    if gradient is None:
        return (
            f"its weight is a {name}, whose product has no gradient for its input, so that nothing"
            " before it would train: quantise weights alone, not activations, or use pk.quantize"
        )
    return ""


def _replaced(module: nn.Module) -> str:
    """Why a forward that was set on the object, not on its class, is in the way."""
    hook = vars(module).get("_hf_hook")
    if hook is None:
        return (
            "its forward was replaced on the object, and need not be W x + b: del layer.forward,"
            " and put it back after attach"
        )
    offloads = any(getattr(part, "offload", False) for part in (hook, *getattr(hook, "hooks", ())))
    doing = "offloads its weight and" if offloads else "moves its input and"
    return (
        f"accelerate {doing} has replaced its forward on the object: load the model onto one"
        " device (device_map=None), or accelerate.hooks.remove_hook_from_module(model,"
        " recurse=True)"
    )


def _computed(module: nn.Module) -> str:
    """Why a layer whose weight is no parameter cannot be adapted."""
    if parametrize.is_parametrized(module, "weight"):
        tools = cast(nn.ModuleDict, module.parametrizations)["weight"].children()
        names = ", ".join(type(tool).__name__.lstrip("_") for tool in tools)
        return (
            f"its weight is computed from other parameters by a parametrization ({names}): first"
            " torch.nn.utils.parametrize.remove_parametrizations(layer, 'weight')"
        )
    for hook in module._forward_pre_hooks.values():
        for kind, (tool, remedy) in COMPUTING.items():
            if isinstance(hook, kind):
                return f"its weight is computed from other parameters by {tool}: {remedy} first"
    if isinstance(vars(module).get("weight"), Tensor):
        return (
            "its weight is a tensor and no parameter (FSDP's use_orig_params=False, or computed"
            " before each pass): attach before the model is wrapped, or make it a parameter"
        )
    return of_class(module)
