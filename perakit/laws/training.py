"""Law 8: training moves the adapter, all of it, and nothing else."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor, nn

from perakit.adapters import Method
from perakit.laws.cases import adapted, adapted_layer, inputs, weight
from perakit.laws.comparing import same_bits, wide
from perakit.laws.dense import parameters


def law_8_gradients(method: Method, layer: nn.Module, seed: int = 0) -> None:
    """Law 8: every adapter parameter and the input get a gradient, and nothing else does.

    Training does not move W0. At the start all gradients are finite, and one is not zero: training
    can begin. The parameters are as many as `count` says.
    """
    _check_begins(adapted(method, layer, seed, start=True).train(), inputs(layer, seed))
    model = adapted(method, layer, seed).train()
    _check_count(method, layer, model)
    x, before, W0 = inputs(layer, seed).requires_grad_(), parameters(model), weight(layer)
    _take_two_steps(model, x)
    assert x.grad is not None, "law 8: the input has no gradient"
    for name, parameter in adapted_layer(model).base.named_parameters():
        assert parameter.grad is None, f"law 8: the frozen {name} has a gradient"
        assert not parameter.requires_grad, f"law 8: {name} is not frozen"
        same_bits(parameter, layer.get_parameter(name), f"law 8, {name} after two steps")
    same_bits(adapted_layer(model).W0, W0, "law 8, W0 after two steps")
    for name, parameter in adapted_layer(model).adapter.named_parameters():
        assert parameter.grad is not None, f"law 8: adapter parameter {name} has no gradient"
        if parameter.numel():  # cross terms of rank 1 have an empty h
            assert parameter.grad.any() or is_excused(method, layer, name, seed), (
                f"law 8: the gradient of adapter parameter {name} is zero"
            )
            assert not np.array_equal(before[name], wide(parameter)), (
                f"law 8: adapter parameter {name} does not move"
            )


def _loss(model: nn.Module, x: Tensor) -> Tensor:
    """Σ y²: any loss would do whose gradient depends on the output."""
    return model(x).float().square().sum()


def _check_begins(start: nn.Sequential, x: Tensor) -> None:
    _loss(start, x).backward()
    parameters = adapted_layer(start).adapter.parameters()
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    assert all(gradient.isfinite().all() for gradient in gradients), (
        "law 8: a gradient at the start is not finite"
    )
    assert any(gradient.any() for gradient in gradients), (
        "law 8: all gradients at the start are zero, so training never begins"
    )


def _check_count(method: Method, layer: nn.Module, model: nn.Sequential) -> None:
    m, n = weight(layer).shape
    said = method.count(m, n)
    there = sum(parameter.numel() for parameter in adapted_layer(model).adapter.parameters())
    assert said == there, f"law 8: count{(m, n)} is {said}, and the adapter has {there} parameters"


def _take_two_steps(model: nn.Module, x: Tensor) -> None:
    """Take two steps of AdamW."""
    # Weight decay moves whatever has a gradient, be it of zeros: a W0 not frozen shows
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        _loss(model, x).backward()
        optimizer.step()


def is_excused(method: Method, layer: nn.Module, name: str, seed: int) -> bool:
    """Whether a zero gradient is right: on a layer with m = 1 or n = 1 only.

    It is so in an unlucky draw, or where no more than a sign is read.
    """
    if 1 not in weight(layer).shape:
        return False
    # Unlucky: terms of one size and opposite signs cancel, and with them the gradient of what
    # multiplies them; not in nine draws
    for draw in range(seed + 1, seed + 9):
        model = adapted(method, layer, draw).train()
        _loss(model, inputs(layer, draw)).backward()
        gradient = adapted_layer(model).adapter.get_parameter(name).grad
        if gradient is not None and gradient.any():
            return True
    return only_a_sign(method, layer, name, seed)


def only_a_sign(method: Method, layer: nn.Module, name: str, seed: int) -> bool:
    """Whether the method reads no more of a vector of one entry than its sign.

    A method that normalises does so, and the gradient is truly zero. So it is where a parameter a
    little longer changes nothing, and one entry a thousand times as long, of one sign or the other,
    does.
    """
    model = adapted(method, copy.deepcopy(layer).double(), seed)
    parameter = adapted_layer(model).adapter.get_parameter(name)
    x = inputs(adapted_layer(model), seed)
    with torch.no_grad():
        before, start = model(x), parameter.clone()
        parameter.mul_(1.001)
        same = torch.allclose(model(x), before, rtol=1e-12, atol=1e-12)
        changed = []
        for factor in (-1000, 1000):
            parameter.copy_(start).view(-1)[0].mul_(factor)
            changed.append(not torch.allclose(model(x), before, rtol=1e-6, atol=1e-6))
    return same and any(changed)
