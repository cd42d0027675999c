"""What a law is tried on: a layer, a model of one adapted layer, and its inputs.

Also how to ask the adapter.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from itertools import product

import torch
from torch import Tensor, nn

from perakit import models
from perakit.adapters import Adapter, Method
from perakit.models.adapted import AdaptedLayer
from perakit.models.layers import kind_of
from perakit.strategies import DTYPES, LAYERS, make_layer, move

# Leading shapes of x: a batch, (batch, T), one vector, nothing
INPUTS: tuple[tuple[int, ...], ...] = ((4,), (2, 3), (), (0,))

# How the messages of the laws name what `added` calls
ADDS = "forward()"
SUMS = "(forward()?)"


def added(adapter: Adapter, x: Tensor, W0: Tensor) -> Tensor:
    """What the adapter adds to the output for x (..., n): (..., m), in its own precision."""
    update: Tensor = adapter(x, W0)
    return update


def adapted(method: Method, layer: nn.Module, seed: int = 0, start: bool = False) -> nn.Sequential:
    """A model of one copy of `layer` with an adapter, in eval mode.

    It is moved off its start from `seed` (unless `start`).
    """
    model = nn.Sequential(copy.deepcopy(layer)).eval()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        models.attach(model, method, ["0"])
    return model if start else move(model, seed)  # type: ignore[return-value]


def adapted_layer(model: nn.Sequential) -> AdaptedLayer:
    """The one layer of a model that `adapted` made."""
    layer = model[0]
    assert isinstance(layer, AdaptedLayer), (
        f"attach left {type(layer).__name__} in place of an adapted layer"
    )
    return layer


def inputs(layer: nn.Module, seed: int, leading: tuple[int, ...] = (4,)) -> Tensor:
    """Standard normal x (*leading, n) in the layer's dtype, where it is, from `seed`."""
    W0 = weight(layer)
    # Not `seed` itself: the factors are drawn from that
    generator = torch.Generator().manual_seed(seed + 1)
    return torch.randn(*leading, W0.shape[1], generator=generator).to(W0)


def weight(layer: nn.Module) -> Tensor:
    """The frozen (m, n) weight of a layer, bare or adapted; if 4-bit, what it multiplies by."""
    bare = layer.base if isinstance(layer, AdaptedLayer) else layer
    kind = kind_of(bare)
    assert kind is not None, f"{type(bare).__name__} cannot be adapted"
    return kind.weight(bare)


def scaled(method: Method) -> Method:
    """The method, with a scale that is not 1: at 1 a scale that somebody forgot is not missed."""
    return replace(method, alpha=3.0 * method.rank) if method.scale == 1 else method


def merge(model: nn.Module) -> None:
    """Merge the model, a 4-bit layer into its dequantised weight."""
    models.merge(model, dequantize=True)


def every_layer(seed: int) -> Iterator[tuple[str, nn.Module]]:
    """Name and layer: every kind x dtype at 5 x 3; then, of two dtypes, the layers at the edge."""
    for kind, dtype in product(LAYERS, DTYPES):
        yield f"a 5 x 3 {kind}, {dtype}", make_layer(kind, 5, 3, True, dtype, seed)
    for dtype in (torch.float64, torch.bfloat16):
        for m, n in ((1, 3), (3, 1)):
            yield f"a {m} x {n} Linear, {dtype}", make_layer("Linear", m, n, True, dtype, seed)
        bare = make_layer("Linear", 5, 3, False, dtype, seed)
        yield f"a 5 x 3 Linear without bias, {dtype}", bare
        zeros = make_layer("Linear", 5, 3, True, dtype, seed)
        with torch.no_grad():
            zeros.get_parameter("weight")[1] = 0
            zeros.get_parameter("weight")[:, 2] = 0
        yield f"a 5 x 3 Linear with a row and a column of zeros, {dtype}", zeros
