"""One linear layer on made-up targets, where theory says what a method can reach."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from perakit.adapters import Additive, Method
from perakit.models import adapters
from perakit.models.attach import activate, attach
from perakit.theory import order_share, targets
from perakit.theory.approximation import best_approximation
from perakit.theory.families import pera

TARGETS = ("low rank", "PERA-generated", "full rank", "power law")
# To train on; as many again to choose the learning rate, and as many to test
SAMPLES = 512


def target(kind: str, m: int, n: int, rank: int, seed: int) -> np.ndarray:
    """ΔW* (m, n) with ‖ΔW*‖_F = 1.

    By `kind`: a matrix of rank `rank`, the update of a PERA of that rank, a Gaussian matrix, or one
    with singular values 1/k.
    """
    rng = np.random.default_rng((seed, TARGETS.index(kind)))
    if kind == "low rank":
        E = rng.normal(size=(m, rank)) @ rng.normal(size=(rank, n))
    elif kind == "PERA-generated":
        family = pera(rank)
        E = family.update(
            None, **{name: rng.normal(size=shape) for name, shape in family.shapes(m, n).items()}
        )
    else:
        E = targets(m, n, seed)["gaussian" if kind == "full rank" else "power law"]
    found: np.ndarray = E / np.linalg.norm(E)
    return found


def imitate(settings: Mapping[str, Any], folder: Path | None = None) -> dict[str, Any]:
    """Train ΔW towards ΔW* with Adam, from the method's published start.

    Returns the relative error ‖ΔW - ΔW*‖_F and the order share, at the learning rate of least
    error.
    """
    m, n = settings["m"], settings["n"]
    E = torch.tensor(target(settings["target"], m, n, settings["teacher_rank"], settings["seed"]))

    def loss(layer: nn.Module) -> Tensor:
        return (
            (next(iter(adapters(layer).values())).delta(torch.zeros(m, n, dtype=torch.float64)) - E)
            .square()
            .sum()
        )

    found = [(*_descend(settings, lr, loss), lr) for lr in settings["rates"]]
    # The error is the loss, so there is nothing to overfit
    value, layer, lr = min(found, key=lambda one: one[0])
    trainable = sum(p.numel() for p in layer.parameters() if p.requires_grad)
    return {"error": value**0.5, "lr": lr, "share": _share(layer), "trainable": trainable}


def imitate_at(settings: Mapping[str, Any], folder: Path | None = None) -> dict[str, Any]:
    """`imitate` as a run that is tuned: at settings["recipe"]["lr"] and ["seed"].

    The error is the loss, so that it is its own validation cost.
    """
    found = imitate(_at_rate(settings))
    return found | {"validation": found["error"]}


def fit_at(settings: Mapping[str, Any], folder: Path | None = None) -> dict[str, Any]:
    """`fit` as a run that is tuned; its validation cost is what it leaves unexplained."""
    found = fit(_at_rate(settings))
    return found | {"validation": 1 - found["explained"]}


def _at_rate(settings: Mapping[str, Any]) -> dict[str, Any]:
    recipe = settings["recipe"]
    return {**settings, **recipe, "rates": [recipe["lr"]]}


def predict(settings: Mapping[str, Any], folder: Path | None = None) -> dict[str, Any]:
    """What theory says a method can reach on ΔW*.

    Returns an exact lower bound, and the best that a search found (an upper bound).
    """
    E = target(
        settings["target"], settings["m"], settings["n"], settings["teacher_rank"], settings["seed"]
    )
    (method,) = settings["methods"]
    found = best_approximation(
        E, Method.from_dict(method), seed=settings["seed"], starts=settings["starts"]
    )
    return {"reached": found.error, "lower": found.lower_fro}  # ‖ΔW*‖_F = 1


def fit(settings: Mapping[str, Any], folder: Path | None = None) -> dict[str, Any]:
    """Fit y = L x + (x·Q_k x)_k with one adapted linear layer.

    Returns the shares of the test's and of the training's variance that it explains, and the order
    share of its update if that is a single one.
    The learning rate is chosen on samples that are neither trained on nor tested.
    """
    m, n = settings["m"], settings["n"]
    rng = np.random.default_rng(settings["seed"])
    L, Q = rng.normal(size=(m, n)) / n**0.5, rng.normal(size=(m, n, n)) / n
    parts = []
    for _ in range(3):
        x = rng.normal(size=(SAMPLES, n))
        parts.append(
            (
                torch.tensor(x),
                torch.tensor(x @ L.T + settings["curvature"] * np.einsum("si,kij,sj->sk", x, Q, x)),
            )
        )

    def loss_on(part: int) -> Callable[[nn.Module], Tensor]:
        x, y = parts[part]
        y = y - y.mean(0)
        return lambda layer: (layer(x) - y).square().mean() / y.square().mean()

    found = []
    for lr in settings["rates"]:
        _, layer = _descend(settings, lr, loss_on(0))
        with torch.no_grad():
            found.append((loss_on(1)(layer).item(), lr, layer))
    _, lr, layer = min(found, key=lambda one: one[0])
    with torch.no_grad():
        fitted = {
            "explained": 1 - loss_on(2)(layer).item(),
            "explained_train": 1 - loss_on(0)(layer).item(),
        }
    return fitted | {"lr": lr, "share": _share(layer) if len(settings["methods"]) == 1 else None}


def _share(layer: nn.Module) -> float | None:
    adapter = next(iter(adapters(layer).values()))
    return order_share(layer).overall if isinstance(adapter, Additive) and adapter.linear else None


def _descend(
    settings: Mapping[str, Any], lr: float, loss: Callable[[nn.Module], Tensor]
) -> tuple[float, nn.Module]:
    """Run Adam, with a rate that falls linearly to zero.

    Returns the last loss, infinite where it diverged, and the layer.
    """
    torch.manual_seed(settings["seed"])
    layer = nn.Sequential(nn.Linear(settings["n"], settings["m"], bias=False, dtype=torch.float64))
    nn.init.zeros_(layer[0].weight)  # type: ignore[arg-type]
    methods = {
        f"part-{k}": Method.from_dict(method) for k, method in enumerate(settings["methods"])
    }
    for name, method in methods.items():
        attach(layer, method, "all-linear", name=name)
    activate(layer, *methods)
    parameters = [p for p in layer.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=lr)
    value = torch.zeros(())
    for step in range(settings["steps"] + 1):
        value = loss(layer)
        if step == settings["steps"] or not torch.isfinite(value):
            break
        optimizer.param_groups[0]["lr"] = lr * (1 - step / settings["steps"])
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    return (value.item() if torch.isfinite(value) else float("inf")), layer
