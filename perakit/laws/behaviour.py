"""Law 12: an adapted layer behaves as any torch module does.

Asked of copies, dtypes, state dicts, torch.compile and tied weights.
"""

from __future__ import annotations

import copy
import pickle

import torch
from torch import nn

from perakit import models
from perakit.adapters import Method
from perakit.errors import PerakitError
from perakit.laws.cases import adapted, adapted_layer, inputs, merge, weight
from perakit.laws.comparing import TOLERANCE, close, largest, same_bits, wide
from perakit.laws.dense import check_dense, dense
from perakit.strategies import move


def law_12_copies(method: Method, layer: nn.Module, seed: int = 0) -> None:
    """Law 12, copies: pickle and deepcopy give an equal model with memory of its own.

    They do so merged or not.
    """
    x = inputs(layer, seed)
    for merged in (False, True) if method.mergeable else (False,):
        model = adapted(method, layer, seed)
        if merged:
            merge(model)
        before = model(x)
        for twin in (_pickled(model), copy.deepcopy(model)):
            same_bits(twin(x), before, "law 12, copies")
            assert models.adapters(twin)["0"].method == method, (
                "law 12: the copy has another method"
            )
            models.unmerge(move(twin, seed + 1))
            same_bits(model(x), before, "law 12, the original after its copy moved")


def law_12_dtypes(method: Method, layer: nn.Module, seed: int = 0) -> None:
    """Law 12, dtypes: adapters are in promote(base, float32), at the start and wherever it goes.

    In float64 they compute as exactly as the model, or
    as the dtype that they come from where `exact_in_float64 = False`.
    """
    for low in (torch.float16, torch.bfloat16):
        _check_moved_down(adapted(method, layer, seed), low, seed)
    start = torch.promote_types(weight(layer).dtype, torch.float32)
    model = adapted(method, layer, seed).to(torch.float64)
    there = {p.dtype for p in (*model.parameters(), adapted_layer(model).W0)}
    assert there == {torch.float64}, "law 12: .to(float64) left something behind"
    tolerance = 0.0 if method.exact_in_float64 else TOLERANCE[start]
    check_dense(model, seed, None, "law 12, forward after .to(float64)", tolerance)


def law_12_state_dict(method: Method, layer: nn.Module, seed: int = 0) -> None:
    """Law 12, state dict: merged, disabled or plain, it has the same keys and bits.

    Loading it into a merged model takes effect.
    """
    model, x = adapted(method, layer, seed), inputs(layer, seed)
    plain = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    if method.mergeable:
        merge(model)
    merged = model.state_dict()
    assert list(merged) == list(plain), (
        f"law 12: keys of the merged state dict {list(merged)} are not {list(plain)}"
    )
    for name, tensor in plain.items():
        same_bits(merged[name], tensor, f"law 12, state dict, {name}")
    with models.disabled(model):
        assert list(model.state_dict()) == list(plain), "law 12: disabled changes the state dict"
    other = adapted(method, layer, seed + 1)
    if method.mergeable:
        merge(other)
    other.load_state_dict(plain)
    same_bits(other(x), model(x), "law 12, load_state_dict into a merged model")


def law_12_compile(method: Method, layer: nn.Module, seed: int = 0) -> None:
    """Law 12, torch.compile: one graph, with the output and gradients of the plain layer."""
    model, x = adapted(method, layer, seed), inputs(layer, seed)
    tolerance = TOLERANCE[adapted_layer(model).W0.dtype]
    torch._dynamo.reset()  # or the layers of earlier calls would count towards its limit
    # "aot_eager" traces both passes as every backend does, and needs no C++ compiler
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    expected, scale = dense(model, x, None)
    actual = compiled(x)
    close(wide(actual), expected, scale, tolerance, "law 12, compiled forward")
    parameters = [p for p in adapted_layer(model).adapter.parameters() if p.numel()]
    gradients = (torch.autograd.grad(y.float().sum(), parameters) for y in (actual, model(x)))
    for a, e in zip(*gradients, strict=True):
        close(wide(a), wide(e), largest(wide(e)), tolerance, "law 12, compiled gradient")


def law_12_tied(method: Method, layer: nn.Module, seed: int = 0) -> None:
    """Law 12, tied weights: a weight that another module uses is not merged.

    The error names both, and nothing is merged.
    """
    # A 4-bit layer's codes are its own, and some updates are never merged
    if "weight" not in layer._parameters or not method.mergeable:
        return
    model = nn.Sequential(copy.deepcopy(layer), copy.deepcopy(layer)).eval()
    model[1].weight = model[0].weight
    models.attach(model, method, ["0"])
    move(model, seed)
    try:
        merge(model)
    except PerakitError as error:
        said = str(error)
    else:
        raise AssertionError("law 12: a tied weight was merged")
    assert "cannot merge layer '0'" in said, f"law 12: {said!r} does not name the layer"
    assert "shared with '1'" in said, f"law 12: {said!r} does not name the module it is tied to"
    assert model[0].merged is None, "law 12: merged in spite of the error"


def _check_moved_down(model: nn.Sequential, low: torch.dtype, seed: int) -> None:
    """After .to(`low`) the base is in it, and the adapter in float32, with the bits of before.

    One that was in float64 is rounded once.
    """
    layer = adapted_layer(model)
    start = torch.promote_types(layer.W0.dtype, torch.float32)
    before = dict(copy.deepcopy(layer.adapter).named_parameters())
    model.to(low)
    assert layer.W0.dtype == low, f"law 12: .to({low}) left the base in {layer.W0.dtype}"
    for name, parameter in layer.adapter.named_parameters():
        assert before[name].dtype == start, f"law 12: {name} starts in {before[name].dtype}"
        kept = before[name].to(torch.float32)
        same_bits(parameter, kept, f"law 12, adapter parameter {name} after .to({low})")
    check_dense(model, seed, None, f"law 12, forward after .to({low})")


def _pickled(model: nn.Module) -> nn.Module:
    try:
        return pickle.loads(pickle.dumps(model))
    except (AttributeError, pickle.PicklingError) as error:
        remedy = (
            "pickle finds a class by its name in a module, so define the class at module level, not"
            " inside a function"
        )
        raise AssertionError(f"law 12: {error}; {remedy}") from error
