"""Every law of every method where the layer is; the oracles are NumPy's, in float64 on the CPU."""

import copy

import pytest
import torch

import perakit as pk
from perakit import laws, strategies
from perakit.adapters import Method

NAMES = sorted(
    name for name, cls in Method.registry.items() if cls.__module__.startswith("perakit.")
)
METHODS = [
    *(Method.registry[name](rank=3) for name in NAMES),
    pk.PERA(rank=4, terms="square", alpha=7),
    pk.PERA(rank=3, terms="cross", feature_scale=30.0, scaling="rslora"),
    pk.PERA(rank=2, degree=3),
]


def layers(device):
    """On CUDA every kind, dtype and edge; on a CPU, where tests/adapters has all, each dtype once
    and each kind.
    """
    every = list(laws.every_layer(seed=3))
    if device == "cpu":
        every = [every[k] for k in (0, 3, 5, 10)]
        assert len({where.split()[-1] for where, _ in every}) == len(strategies.DTYPES)
        assert len({where.split()[-2] for where, _ in every}) == len(strategies.LAYERS)
    return [(where, layer.to(device)) for where, layer in every]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: f"{method.name}-{method.rank}")
def test_every_law(method, device):
    for where, layer in layers(device):
        for law in laws.LAWS:
            slow = law is laws.law_12_compile  # a whole model is compiled in test_steps.py
            if slow and (device == "cpu" or "float32" not in where):
                continue
            try:
                law(method, layer, seed=3)
            except Exception as error:
                error.add_note(f"{law.__name__} on {where}, {device}")
                raise


@pytest.mark.parametrize("kind", strategies.LAYERS)
def test_an_adapter_is_where_its_layer_is(kind, device):
    """Made there, or moved there: the same bits, and an output that is the CPU's to rounding."""
    layer = strategies.make_layer(kind, 29, 37, seed=3)
    x = laws.inputs(layer, seed=3, leading=(7,))
    here, moved = copy.deepcopy(layer).to(device), laws.adapted(pk.PERA(rank=3), layer)
    there = laws.adapted(pk.PERA(rank=3), here)
    for model in (there, moved.to(device)):
        tensors = [*model.parameters(), *model.buffers(), model[0].W0]
        assert {tensor.device.type for tensor in tensors} == {device}
    y = there(x.to(device))
    assert torch.equal(moved(x.to(device)), y)
    torch.testing.assert_close(y.cpu(), moved.cpu()(x), rtol=1e-5, atol=1e-5)
