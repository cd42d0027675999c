"""Law 10: the layer, the NumPy reading and the sympy reading of the formula are the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from perakit import models
from perakit.adapters import Adapter, Method
from perakit.laws.cases import adapted, adapted_layer, added, scaled
from perakit.laws.comparing import TOLERANCE, close, largest, wide
from perakit.laws.dense import expected_added, expected_delta, parameters
from perakit.laws.oracles import ORACLES, Formula


def law_10_readings(
    method: Method, layer: nn.Module, seed: int = 0, formula: Formula | None = None
) -> None:
    """Law 10: ΔW is the formula read with NumPy floats, and with sympy rationals.

    The rationals are read at a rational point. Without ΔW: what is added for the rows of the
    identity and their sum.
    """
    method = scaled(method)
    model = adapted(method, layer, seed)
    formula = formula or _rule(method) or ORACLES.get(method.name)
    W0 = adapted_layer(model).W0
    x = torch.cat([torch.eye(W0.shape[1]), torch.ones(1, W0.shape[1])]).to(W0)
    given = wide(W0 if method.mergeable else x)
    for point in ("float", "rational"):
        if point == "rational":
            _make_rational(adapted_layer(model).adapter, seed)
        if formula is None:
            expected = _own(model, x)
        else:
            expected = np.asarray(formula(method, parameters(model), given))
        _check(_read(model, x), expected, f"law 10, NumPy reading at a {point} point")
    if formula is not None:
        named = {name: _symbols(value) for name, value in parameters(model).items()}
        exact = np.asarray(formula(method, named, _symbols(given))).astype(np.float64)
        _check(_read(model, x), exact, "law 10, sympy reading")


def _rule(method: Method) -> Formula | None:
    """The method's own rule in `formulas`, which takes any arrays, or None.

    None: the method does not say, or has no ΔW.
    """
    if not method.mergeable or type(method).update is Method.update:
        return None
    return lambda method, parameters, W0: method.update(W0, **parameters)


def _read(model: nn.Sequential, x: Tensor) -> Tensor:
    """The layer's ΔW (m, n); without one, what it adds for x."""
    layer = adapted_layer(model)
    if layer.adapter.method.mergeable:
        return models.delta_weights(model)["0"]
    return added(layer.adapter, x, layer.W0)


def _own(model: nn.Sequential, x: Tensor) -> np.ndarray:
    """The same by the adapter itself in float64, where no formula is known."""
    if adapted_layer(model).adapter.method.mergeable:
        return expected_delta(model, None)
    return expected_added(model, x, None)


def _make_rational(adapter: Adapter, seed: int) -> None:
    """Set the parameters to random quarters from -6/4 to 6/4."""
    generator = np.random.default_rng(seed)
    for parameter in adapter.parameters():
        # Floats of every dtype hold quarters exactly: sympy gets the parameters themselves
        parameter.data.copy_(torch.as_tensor(generator.integers(-6, 7, parameter.shape) / 4))


def _symbols(array: np.ndarray) -> Any:
    """An object array of sympy rationals, each equal to its float."""
    import sympy  # here: it takes longer to import than any other law needs to run

    # np.vectorize refuses an array without entries
    return np.vectorize(sympy.Rational, otypes=[object])(array) if array.size else array


def _check(actual: Tensor, expected: Any, law: str) -> None:
    expected = np.asarray(expected)
    close(wide(actual), expected, largest(expected), TOLERANCE[actual.dtype], law)
