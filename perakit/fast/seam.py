"""The seam: the adapted forward pass, if there is a quicker way that is equal to the plain one."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad

from perakit import formulas
from perakit.adapters.base import Adapter, Additive
from perakit.adapters.lora import LoRAAdapter
from perakit.fast import kept, plans
from perakit.fast.expanded import Expanded, Gathered
from perakit.fast.lean import LeanProduct, by_graph
from perakit.fast.product import AdaptedProduct, autocasts, merged, multiply
from perakit.fast.sources import Dense, Given, Source

Linear = Callable[[Tensor, Tensor, Tensor | None], Tensor]  # (x, W0, bias) -> W0 x + b

# Rule -> its source, made of the scale and the rule's settings; and how many of the arguments are
# tensors, which come first. A method whose adapter names the rule goes this way by itself.
RULES: dict[Any, tuple[Callable[..., Source], int]] = {formulas.expand: (Expanded, 3)}

# The methods that a class has as long as nobody gives it others: an adapter with a forward, or with
# factors, of its own means it.
PLAIN = (Adapter.forward, Additive.forward)
BY_RULE, OF_LORA = Additive.factors, LoRAAdapter.factors


def forward(
    x: Tensor, W0: Tensor, bias: Tensor | None, linear: Linear, adapters: Sequence[Adapter]
) -> Tensor | None:
    """W0 x + b + Σ ΔW x (..., m) for x (..., n), or None where the plain way has to run.

    W0 (m, n); bias (m,) or None; linear: how the base multiplies, for one that keeps fewer bits
    than W0 has; adapters: those in effect, at least one.
    ΔW is added to W0 only where it is the one update, and W0, x and their product are as precise as
    the factors. Elsewhere the updates are computed in the factors' precision, summed, added to the
    output and rounded once.
    """
    if _watched(x):
        return None
    for adapter in adapters:
        before = adapter._forward_pre_hooks or adapter._backward_pre_hooks
        hooked = before or adapter._forward_hooks or adapter._backward_hooks
        if type(adapter).forward not in PLAIN or hooked:
            return None  # a forward of its own is meant, and a hook waits for the call
    first, *rest = adapters
    source, parameters = _source(first, W0)
    # Of strided rows, or of one alone, torch rounds otherwise than of flat ones: there the base
    # multiplies x as it came.
    flat = x.ndim == 2 or (x.ndim > 2 and x.is_contiguous())
    dropping = first.method.dropout > 0 and first.training
    if linear is F.linear and flat and not rest and not dropping and x.dtype == W0.dtype:
        y = _lean(x, W0, bias, first, source, parameters)
        if y is not None:
            return y
        if x.dtype == parameters[-1].dtype and _exact(x):  # a method may make its factors wider
            return _multiplied(x, W0, bias, first, source, parameters)
    base, updates = linear(x, W0, bias), []
    for adapter in adapters:
        if adapter is not first:
            source, parameters = _source(adapter, W0)
        dropout = adapter.method.dropout
        seen = F.dropout(x, dropout) if dropout > 0 and adapter.training else x
        updates.append(_multiplied(seen, None, None, adapter, source, parameters))
    return (base + reduce(operator.add, updates)).to(base.dtype)


def _lean(
    x: Tensor,
    W0: Tensor,
    bias: Tensor | None,
    adapter: Adapter,
    source: Source | Dense,
    parameters: tuple[Tensor, ...],
) -> Tensor | None:
    """x W0ᵀ + b + x ΔWᵀ (..., m) by the fewest calls, or None where that is not the way.

    source, parameters: as `_source` finds them for the adapter.
    """
    if isinstance(source, Dense):
        return None
    (m, K), n, dtype = source.shape(*parameters), x.shape[-1], parameters[-1].dtype
    way = plans.asked(x.numel() // max(1, n), m, n, K, x.dtype == dtype, x.device.type)
    if not (way.lean if x.dtype == dtype else _in_low_precision(x)):
        return None
    rows = x if x.ndim == 2 else x.flatten(0, -2)
    if isinstance(source, Given):
        B, A = parameters
        y = by_graph(rows, W0, bias, source.scale, B, A)
    elif type(source) is not Expanded or source.degree > 2 or torch.compiler.is_compiling():
        return None  # a compiler finds out by itself what is fast
    elif W0.requires_grad or (bias is not None and bias.requires_grad):
        return None
    elif torch.is_grad_enabled() or x.dtype != dtype:
        if adapter.training:
            kept.last.pop(adapter, None)  # it trains: the memory is free again
        y = LeanProduct.apply(source, way.keep, rows, W0, bias, *parameters)
    else:
        gathered = Gathered(source.scale, source.terms)
        y, _ = multiply(False, rows, W0, bias, kept.factors(adapter, gathered, parameters))
    return y if x.ndim == 2 else y.view(*x.shape[:-1], m)


def _in_low_precision(x: Tensor) -> bool:
    """Whether an adapter multiplies as its less precise base does: on a GPU, on its tensor cores.

    Not in float16: small numbers, as gradients are and products of two entries, are zero there.
    """
    return x.dtype == torch.bfloat16 and (x.device.type != "cpu" or plans.wanted == "lean")


def _multiplied(
    x: Tensor,
    W0: Tensor | None,
    bias: Tensor | None,
    adapter: Adapter,
    source: Source | Dense,
    parameters: tuple[Tensor, ...],
) -> Tensor:
    """x W0ᵀ + b + x ΔWᵀ (..., m), by the plan; W0 None: x ΔWᵀ alone, in the factors' precision.

    source, parameters: as `_source` finds them for the adapter.
    """
    if isinstance(source, Dense):
        (delta,) = parameters
        if W0 is not None and W0.stride() in ((W0.shape[1], 1), (1, W0.shape[0])):
            return F.linear(x, merged(W0, delta), bias)
        update = F.linear(x.to(delta.dtype), delta)
        return update if W0 is None else F.linear(x, W0, bias) + update
    (m, K), n, device = source.shape(*parameters), x.shape[-1], x.device.type
    way = plans.asked(x.numel() // max(1, n), m, n, K, W0 is not None, device)
    # Not for a compiler, which finds out by itself what is fast, and writes no product into a view
    gathers = (device != "cpu" or (way.keep and not way.lean)) and not torch.compiler.is_compiling()
    if gathers and type(source) is Expanded and source.degree == 2:
        source = Gathered(source.scale, source.terms, keep=way.keep)
    # Rows and back again out here: a function that returns a view forbids `y += 1`
    rows = x.flatten(0, -2) if x.ndim > 1 else x[None]
    if torch.is_grad_enabled():
        if not torch.compiler.is_compiling() and adapter.training:
            kept.last.pop(adapter, None)  # it trains: the memory is free again
        y = AdaptedProduct.apply(source, way.plan, rows, W0, bias, *parameters)
        assert isinstance(y, Tensor)
    else:
        factors = kept.factors(adapter, source, parameters)
        y, _ = multiply(way.plan.output, rows, W0, bias, factors)
    return y if x.ndim == 2 else y.view(*x.shape[:-1], m)


def _source(adapter: Adapter, W0: Tensor) -> tuple[Source | Dense, tuple[Tensor, ...]]:
    """Where the adapter's ΔW on W0 (m, n) comes from, and the tensors that it is made of."""
    if isinstance(adapter, Additive):
        kind, scale = type(adapter), adapter.method.scale
        if kind.factors is OF_LORA:  # the parameters themselves, no copy of them
            return Given(scale), (adapter.B, adapter.A)
        if kind.factors is BY_RULE and kind.rule in RULES:
            source, count = RULES[kind.rule]
            arguments = adapter.arguments()
            return source(scale, *arguments[count:]), arguments[:count]
        return Given(), adapter.factors()
    product = tuple(adapter.product(W0))
    return (Given() if len(product) == 2 else Dense()), product


def _watched(x: Tensor) -> bool:
    """Whether the formula itself must run.

    That is where operations are recorded or transformed, by torch.export, tracing, torch.func and
    forward mode; and under autocast, which would round W0 + ΔW before it multiplies.
    """
    if torch.compiler.is_compiling():
        return torch.compiler.is_exporting() or autocasts(x)
    return (
        (torch._C._is_any_autocast_enabled() and autocasts(x))
        or torch._C._get_tracing_state() is not None  # torch.jit.trace
        or torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
    )


def _exact(x: Tensor) -> bool:
    """Whether products in x's dtype keep its bits.

    They do not where TF32 or bfloat16 stand in for float32, which would round W0 + ΔW.
    """
    if x.dtype != torch.float32:
        return True
    if torch.compiler.is_compiling():  # which cannot look at the setting
        return x.device.type == "cpu"
    backend = torch.backends.cuda if x.device.type == "cuda" else torch.backends.mkldnn
    return backend.matmul.fp32_precision in ("ieee", "none")
