"""The dense answer that a law expects: (W0 + ΔW) x + b, from the raw parameters, in float64 NumPy.

ΔW comes from the formula that the caller gave, or from the method's oracle. A method that has
neither is asked itself, on a copy in float64: rounding and caches are seen then, a wrong rule is
not.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor, nn

from perakit.laws.cases import INPUTS, adapted_layer, added, inputs
from perakit.laws.comparing import TOLERANCE, close, wide
from perakit.laws.oracles import ORACLES, Formula
from perakit.models.adapted import AdaptedLayer


def parameters(model: nn.Sequential) -> dict[str, np.ndarray]:
    """The adapter's parameters by name, in float64: copies, which do not move when they do."""
    named = adapted_layer(model).adapter.named_parameters()
    return {name: wide(parameter) for name, parameter in named}


def expected_delta(model: nn.Sequential, formula: Formula | None) -> np.ndarray:
    """ΔW (m, n) in float64, by the formula or the method's oracle; else by the adapter itself."""
    layer = adapted_layer(model)
    method = layer.adapter.method
    formula = formula or ORACLES.get(method.name)
    if formula is None:
        return wide(copy.deepcopy(layer.adapter).double().delta(layer.W0.double()))
    return np.asarray(formula(method, parameters(model), wide(layer.W0)), dtype=np.float64)


def expected_added(model: nn.Sequential, x: Tensor, formula: Formula | None) -> np.ndarray:
    """What a method without ΔW adds to the output for x (..., n), in float64: (..., m)."""
    layer = adapted_layer(model)
    method = layer.adapter.method
    formula = formula or ORACLES.get(method.name)
    if formula is None:
        alone = copy.deepcopy(layer.adapter).double().eval()
        return wide(added(alone, x.double(), layer.W0.double()))
    return np.asarray(formula(method, parameters(model), wide(x)), dtype=np.float64)


def dense_base(layer: AdaptedLayer, x: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """W0 x + b in float64 NumPy, and its scale |W0| |x| + |b|."""
    W0, bias = wide(layer.W0), np.zeros(1) if layer.bias is None else wide(layer.bias)
    return _times(W0, wide(x)) + bias, _times(np.abs(W0), np.abs(wide(x))) + np.abs(bias)


def dense(
    model: nn.Sequential, x: Tensor, formula: Formula | None
) -> tuple[np.ndarray, np.ndarray]:
    """(W0 + ΔW) x + b in float64 NumPy, and the scale of that sum.

    Where there is no ΔW, W0 x + b and what is added.
    """
    layer = adapted_layer(model)
    base, size = dense_base(layer, x)
    if not layer.adapter.method.mergeable:
        update = expected_added(model, x, formula)
        return base + update, size + np.abs(update)
    delta = expected_delta(model, formula)
    return base + _times(delta, wide(x)), size + _times(np.abs(delta), np.abs(wide(x)))


def check_dense(
    model: nn.Sequential, seed: int, formula: Formula | None, law: str, tolerance: float = 0.0
) -> None:
    """The output is that of the dense formula, to `TOLERANCE` or to `tolerance` if that is more.

    With a graph and without one: an adapted layer may multiply in another way then.
    """
    layer = adapted_layer(model)
    dtype = layer.W0.dtype
    for leading in INPUTS:
        x = inputs(layer, seed, leading)
        expected, scale = dense(model, x, formula)
        for mode in (torch.enable_grad, torch.no_grad):
            with mode():
                y = model(x)
            assert y.dtype == dtype, f"{law}: a {dtype} layer answers in {y.dtype}"
            close(wide(y), expected, scale, max(tolerance, TOLERANCE[dtype]), law)


def _times(W: np.ndarray, x: np.ndarray) -> np.ndarray:
    """W (m, n), x (..., n) -> (..., m)."""
    return np.einsum("...n,mn->...m", x, W)
