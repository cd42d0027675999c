"""How sharply the training loss curves in what trains: the largest eigenvalue of its Hessian.

A step of gradient descent grows a deviation along that direction where its rate is above 2/λmax.
Adam rescales directions, so its rate is not bound by that number: whether best rates follow it is
asked in arXiv 2602.04998, and here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from perakit.errors import PerakitError
from perakit.experiments.tuning import adapted, texts
from perakit.toy.pretrained import tokenizer
from perakit.toy.training import Recipe

TOLERANCE = 1e-3  # of the residual, relative to λmax
BASIS = 10  # Lanczos vectors before a restart: with more, easy cases take more products


def sharpness(settings: Mapping[str, Any], folder: Path | None = None) -> dict[str, Any]:
    """λmax of the training loss's Hessian in the trainable parameters, at their start.

    The loss is the one that is trained on, in nats a token, over settings["windows"] windows spread
    evenly over the training text. Returns λmax as "lambda", the Hessian-vector products that it
    took, and the residual ‖Hv - λv‖ / |λ|.
    """
    recipe, model = Recipe(**settings["recipe"]), adapted(settings)
    text = texts(settings["text"], settings["old"], settings["limit"]).train.train
    ids = tokenizer(settings["model"], model).encode(text)
    if len(ids) <= recipe.context:
        raise PerakitError(
            f"the training text has {len(ids)} tokens, a window needs {recipe.context + 1}: bring a"
            " longer text"
        )
    starts = torch.linspace(0, len(ids) - recipe.context - 1, settings["windows"]).long()
    rows = ids[starts[:, None] + torch.arange(recipe.context + 1)].long().to(settings["device"])
    with sdpa_kernel(SDPBackend.MATH):  # the only attention that has a second derivative
        loss = F.cross_entropy(model(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())
        trained = [p for p in model.parameters() if p.requires_grad]
        value, products, residual = largest(loss, trained, recipe.seed)
    return {"lambda": value, "iterations": products, "residual": residual}


def largest(loss: Tensor, parameters: Sequence[Tensor], seed: int) -> tuple[float, int, float]:
    """The largest eigenvalue of a scalar's Hessian in `parameters`, by Lanczos iterations.

    The largest with its sign. Where the most negative one is larger in size, a power iteration
    would find that; so it would at LoRA's start, whose Hessian is indefinite: with B = 0 nothing
    depends on A alone, and on A and B together it does.
    Returns the eigenvalue, the number of products with the Hessian, and the residual.
    """
    first = torch.autograd.grad(loss, parameters, create_graph=True, materialize_grads=True)
    gradient = torch.cat([one.flatten() for one in first])
    if not gradient.isfinite().all():
        raise PerakitError(
            f"the loss, {loss.item():g}, has a gradient that is not finite: its curvature is no"
            " number there; choose a smaller feature scale"
        )
    products = 0

    def product(v: np.ndarray) -> np.ndarray:
        nonlocal products
        products += 1
        along = torch.from_numpy(v.ravel()).to(gradient)
        second = torch.autograd.grad(
            gradient, parameters, along, retain_graph=True, materialize_grads=True
        )
        return torch.cat([one.flatten() for one in second]).cpu().double().numpy()

    size = gradient.numel()
    hessian = LinearOperator((size, size), product, dtype=np.float64)
    start = np.random.default_rng(seed).normal(size=size)
    values, vectors = eigsh(hessian, k=1, which="LA", v0=start, tol=TOLERANCE, ncv=min(BASIS, size))
    value, v = float(values[0]), vectors[:, 0]
    return value, products, float(np.linalg.norm(product(v) - value * v) / abs(value))
