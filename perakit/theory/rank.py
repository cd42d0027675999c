"""How much of an update is high-order, and of what rank it is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from perakit import formulas
from perakit.errors import PerakitError


@dataclass(frozen=True)
class OrderShare:
    """‖high-order part‖_F / ‖linear part‖_F of ΔW; 0 where both vanish, inf where only the linear part does.

    layers: by layer name; overall: of all layers taken as one vector.
    """

    layers: dict[str, float]
    overall: float

    def __float__(self) -> float:
        return self.overall

    def __str__(self) -> str:
        lines = [f"{name}: {share:.4%}" for name, share in self.layers.items()]
        return "\n".join([*lines, f"overall: {self.overall:.4%}"])


def order_share(model_or_factors: Any, terms: str = "full", degree: int = 2) -> OrderShare:
    """How large the polynomial part of an update is beside its linear part B A.

    model_or_factors: a model with additive adapters (LoRA's share is 0), or PERA's factors (B (m, r), A (r, n),
    h (K - r,)) as arrays, with their `terms` and `degree`; a feature scale belongs into h. A share near 0 says that
    the update is LoRA's to that precision, whatever the method is called (arXiv 2604.11841 reports no such number).
    """
    if isinstance(model_or_factors, tuple | list):
        if len(model_or_factors) != 3:
            raise PerakitError(f"{len(model_or_factors)} factors given: pass (B, A, h), or a model with adapters")
        B, A, h = (_array(x) for x in model_or_factors)
        parts = {"factors": _norms(*formulas.expand(B, A, h, terms, degree), rank=B.shape[1])}
    else:
        parts = _model_norms(model_or_factors)
    linear, high = (math.hypot(*(pair[k] for pair in parts.values())) for k in (0, 1))
    return OrderShare({name: _ratio(*pair) for name, pair in parts.items()}, _ratio(linear, high))


def _model_norms(model: Any) -> dict[str, tuple[float, float]]:
    from perakit.adapters import Additive
    from perakit.models.adapted import require_adapters

    parts = {}
    for name, layer in require_adapters(model).items():
        adapter = layer.adapter
        if not isinstance(adapter, Additive):
            raise PerakitError(f"layer {name!r} carries {adapter.method}: its update has no linear and high-order part to compare")
        parts[name] = _norms(*adapter.factors(), rank=adapter.method.rank)
    return parts


def _norms(B_hat: Any, A_hat: Any, rank: int) -> tuple[float, float]:
    """Frobenius norms of the linear part, the first `rank` features, and of the rest."""
    B_hat, A_hat = _array(B_hat), _array(A_hat)
    linear, high = B_hat[:, :rank] @ A_hat[:rank], B_hat[:, rank:] @ A_hat[rank:]
    return float(np.linalg.norm(linear)), float(np.linalg.norm(high))


def _ratio(linear: float, high: float) -> float:
    if linear:
        return high / linear
    return math.inf if high else 0.0


def _array(x: Any) -> np.ndarray:
    detached = x.detach().cpu() if hasattr(x, "detach") else x
    return np.asarray(detached, dtype=np.float64)
