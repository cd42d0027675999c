"""Law 9: the backward pass is that of the dense formula."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from perakit.adapters import Method
from perakit.laws.cases import adapted, adapted_layer, added, inputs, scaled
from perakit.laws.comparing import TOLERANCE, close, largest, wide
from perakit.laws.oracles import ORACLES, Formula


def law_9_dense_gradients(
    method: Method, layer: nn.Module, seed: int = 0, formula: Formula | None = None
) -> None:
    """Law 9: in float64 the gradients by x and by every parameter are those of the dense formula.

    They are those of finite differences too, unless a method says `exact_gradient = False`.
    """
    model = adapted(scaled(method), copy.deepcopy(layer).double(), seed)
    x = inputs(adapted_layer(model), seed, (2,)).requires_grad_()
    _check_against_the_formula(model, x, formula, seed)
    # Else differences see what it holds constant (DoRA: the norm)
    if method.exact_gradient:
        _check_against_differences(model, x)


def _check_against_the_formula(
    model: nn.Sequential, x: Tensor, formula: Formula | None, seed: int
) -> None:
    """Gradients of one random sum of the outputs: with weights 1 a mistake could cancel."""
    m = adapted_layer(model).W0.shape[0]
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(2, m, generator=generator, dtype=torch.float64).to(x.device)
    names, parameters = zip(*adapted_layer(model).adapter.named_parameters(), strict=True)
    expected, actual = (
        torch.autograd.grad((y * weights).sum(), (x, *parameters), allow_unused=True)
        for y in (_dense(model, x, formula), model(x))
    )
    for name, a, e in zip(("x", *names), actual, expected, strict=True):
        assert a is not None, f"law 9: no gradient by {name}"
        e = torch.zeros_like(a) if e is None else e  # an empty h
        tolerance = TOLERANCE[torch.float64]
        close(wide(a), wide(e), largest(wide(e)), tolerance, f"law 9, gradient by {name}")


def _dense(model: nn.Sequential, x: Tensor, formula: Formula | None) -> Tensor:
    """(W0 + ΔW) x + b, ΔW from the parameters themselves: autograd goes through the formula."""
    layer = adapted_layer(model)
    adapter, W0, bias = layer.adapter, layer.W0, layer.bias
    formula = formula or ORACLES.get(adapter.method.name)
    named = dict(adapter.named_parameters())
    if adapter.method.mergeable:
        delta = adapter.delta(W0) if formula is None else formula(adapter.method, named, W0)
        return F.linear(x, W0 + delta, bias)
    update = added(adapter, x, W0) if formula is None else formula(adapter.method, named, x)
    return F.linear(x, W0, bias) + update


def _check_against_differences(model: nn.Sequential, x: Tensor) -> None:
    """Hold the gradients to finite differences, by torch's gradcheck."""
    own = {id(p) for p in adapted_layer(model).adapter.parameters() if p.numel()}
    filled = {name: p for name, p in model.named_parameters() if id(p) in own}
    values = [parameter.detach().clone().requires_grad_() for parameter in filled.values()]

    # gradcheck wants a function of tensors: the model, with its parameters put in
    def forward(x: Tensor, *values: Tensor) -> Any:
        return functional_call(model, dict(zip(filled, values, strict=True)), (x,))

    try:
        torch.autograd.gradcheck(forward, (x, *values))
    except RuntimeError as error:
        raise AssertionError(
            f"law 9: is a part held constant on purpose (exact_gradient = False)? {error}"
        ) from error
