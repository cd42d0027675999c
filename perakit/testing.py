"""The laws of an adapter, one function each: call them on your own method, or all at once.

from perakit.testing import assert_adapter_laws
assert_adapter_laws(MyMethod(rank=2))

Each law takes (method, layer, seed): a method, a bare layer (`strategies.layers()` draws some), and a seed from which
inputs and factors are drawn. It raises AssertionError with the law's name. The layer itself is copied, never changed.
`formula(method, parameters, W0) -> ΔW`, scale included, is an oracle for a method that perakit does not know; without
one the laws that need a second opinion compare the layer with its own `delta`, in float64.
"""

from __future__ import annotations

import copy
import pickle
import tempfile
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from itertools import product
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from perakit import models
from perakit.adapters import Additive, Method
from perakit.errors import PerakitError
from perakit.models.adapted import AdaptedLayer
from perakit.models.layers import kind_of
from perakit.strategies import DTYPES, LAYERS, make_layer, move
from perakit.theory.exact import exact_rank

Formula = Callable[[Any, dict[str, Any], Any], Any]

# Largest error, as a share of the scale of the output: |x| (|W0| + |ΔW|) + |b|. About 100 units in the last place for
# float64 with room for sums, 5 for the half precisions, in which the base alone already rounds.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 4e-2, torch.float16: 5e-3}
INPUTS: tuple[tuple[int, ...], ...] = ((4,), (2, 3), (), (0,))  # leading shapes of x: a batch, (batch, T), one vector, nothing

# Methods whose gradient holds a part of the formula constant by definition (DoRA: the norm), so that differences disagree.
PARTIAL_GRADIENT = {"dora"}


# --- oracles: a second opinion that does not use `formulas` ----------------------------------------------------------


def hadamard_lora(method: Any, parameters: dict[str, Any], W0: Any) -> Any:
    """s Σ_i M_i with M_i = b_i a_iᵀ: outer products, no matrix product."""
    return method.scale * sum(_outer(parameters, i) for i in range(method.rank))


def hadamard_pera(method: Any, parameters: dict[str, Any], W0: Any) -> Any:
    """s (Σ M_i + Σ h M_i∘M_j ...) with M_i = b_i a_iᵀ: PERA as a Hadamard series, never expanded into factors."""
    total = sum(_outer(parameters, i) for i in range(method.rank))
    indices = []
    for d in range(2, method.degree + 1):
        rows = [row for row in product(range(method.rank), repeat=d) if list(row) == sorted(row)]
        squares = [len(set(row)) == 1 for row in rows]
        wanted = {"full": [True] * len(rows), "square": squares, "cross": [not square for square in squares]}[method.terms]
        indices += [row for row, take in zip(rows, wanted, strict=True) if take]
    assert len(parameters["h"]) == len(indices), f"h has {len(parameters['h'])} entries for {len(indices)} products"
    for coefficient, row in zip(parameters["h"], indices, strict=True):
        term = method.feature_scale * coefficient
        for i in row:
            term = term * _outer(parameters, i)
        total = total + term
    return method.scale * total


def _outer(parameters: dict[str, Any], i: int) -> Any:
    return parameters["B"][:, i, None] * parameters["A"][None, i]


ORACLES: dict[str, Formula] = {"lora": hadamard_lora, "pera": hadamard_pera}


# --- helpers ---------------------------------------------------------------------------------------------------------


def adapted(method: Method, layer: nn.Module, seed: int = 0, start: bool = False) -> nn.Sequential:
    """A model of one copy of `layer` with an adapter, in eval mode, moved off its start from `seed` (unless `start`)."""
    model = nn.Sequential(copy.deepcopy(layer)).eval()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        models.attach(model, method, ["0"])
    return model if start else move(model, seed)  # type: ignore[return-value]


def inputs(layer: nn.Module, seed: int, leading: tuple[int, ...] = (4,)) -> Tensor:
    """Standard normal x (*leading, n) in the layer's dtype, from `seed`."""
    bare = layer.base if isinstance(layer, AdaptedLayer) else layer
    kind = kind_of(bare)
    assert kind is not None, f"{type(bare).__name__} cannot be adapted"
    W0 = kind.weight(bare)
    generator = torch.Generator().manual_seed(seed + 1)
    return torch.randn(*leading, W0.shape[1], generator=generator).to(W0.dtype)


def _reading(method: Method) -> Formula | None:
    """The method's own rule in `formulas`, which takes any arrays; None for a method that does not say."""
    return None if type(method).update is Method.update else lambda method, parameters, W0: method.update(W0, **parameters)


def _layer(model: nn.Sequential) -> AdaptedLayer:
    layer = model[0]
    assert isinstance(layer, AdaptedLayer), f"attach left {type(layer).__name__} in place of an adapted layer"
    return layer


def _wide(tensor: Tensor) -> np.ndarray:
    return tensor.detach().to(torch.float64, copy=True).numpy()  # a copy: what training moves must not move it


def _parameters(model: nn.Sequential) -> dict[str, np.ndarray]:
    return {name: _wide(parameter) for name, parameter in _layer(model).adapter.named_parameters()}


def _oracle(model: nn.Sequential, formula: Formula | None) -> np.ndarray:
    """ΔW in float64, by the formula or the method's oracle; else by the adapter itself, in float64."""
    layer = _layer(model)
    method = layer.adapter.method
    formula = formula or ORACLES.get(method.name)
    if formula is None:
        return _wide(copy.deepcopy(layer.adapter).double().delta(layer.W0.double()))
    return np.asarray(formula(method, _parameters(model), _wide(layer.W0)), dtype=np.float64)


def _close(actual: Any, expected: Any, scale: Any, tolerance: float, law: str) -> None:
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape, f"{law}: shape {actual.shape}, expected {expected.shape}"
    if expected.size:
        error, bound = np.abs(actual - expected).max(), tolerance * np.max(scale)
        assert error <= bound, f"{law}: error {error:.3g} above {bound:.3g}\ngot {actual}\nexpected {expected}"


def _same_bits(a: Tensor, b: Tensor, law: str) -> None:
    assert a.dtype == b.dtype, f"{law}: {a.dtype} is not {b.dtype}"
    if not torch.equal(a, b):
        a, b = a.detach(), b.detach()
        much = (
            f"{int((a != b).sum())} of {a.numel()} entries differ, by up to {(a - b).abs().max():.3g}"
            if a.shape == b.shape
            else "shapes differ"
        )
        raise AssertionError(f"{law}: {much}\n{a}\n{b}")


def _dense(model: nn.Sequential, x: Tensor, formula: Formula | None) -> tuple[np.ndarray, np.ndarray]:
    """(W0 + ΔW) x + b in float64 NumPy, and the scale of that sum."""
    layer, delta = _layer(model), _oracle(model, formula)
    W0, bias = _wide(layer.W0), 0.0 if layer.bias is None else _wide(layer.bias)
    expected = np.einsum("...n,mn->...m", _wide(x), W0 + delta) + bias
    return expected, np.einsum("...n,mn->...m", np.abs(_wide(x)), np.abs(W0) + np.abs(delta)) + np.abs(bias)


def _check_dense(model: nn.Sequential, seed: int, formula: Formula | None, law: str) -> None:
    dtype = _layer(model).W0.dtype
    for leading in INPUTS:
        x = inputs(_layer(model), seed, leading)
        y = model(x)
        assert y.dtype == dtype, f"{law}: a {dtype} layer answers in {y.dtype}"
        expected, scale = _dense(model, x, formula)
        _close(_wide(y), expected, scale if scale.size else 0.0, TOLERANCE[dtype], law)


# --- the laws --------------------------------------------------------------------------------------------------------


def law_1_no_op_at_init(method: Method, layer: nn.Module, seed: int = 0) -> None:
    """An attached, untrained adapter changes no bit of the output, in training or out of it, and ΔW is exactly zero."""
    model = adapted(method, layer, seed, start=True)
    for training in (False, True):
        model.train(training)
        for leading in INPUTS:
            x = inputs(layer, seed, leading)
            _same_bits(model(x), layer(x), "law 1, no-op at init (is ΔW zero after reset(), is anything else added in forward()?)")
    assert not models.delta_weights(model)["0"].any(), "law 1: ΔW is not zero at the start"
    models.merge(model)
    _same_bits(_layer(model).weight, layer.get_parameter("weight"), "law 1, no-op at init, merged")


def law_2_differs(method: Method, layer: nn.Module, seed: int = 0) -> None:
    """Once the factors differ from their start, so does the output (on 64 inputs: one may round away in half precision)."""
    model, x = adapted(method, layer, seed), inputs(layer, seed, (64,))
    assert models.delta_weights(model)["0"].any(), "law 2: ΔW is zero though no factor is"
    assert not torch.equal(model(x), layer(x)), "law 2: the adapter has no effect on the output"


def law_3_dense_forward(method: Method, layer: nn.Module, seed: int = 0, formula: Formula | None = None) -> None:
    """The forward pass is (W0 + ΔW) x + b, with ΔW from the raw parameters by an oracle, in float64."""
    _check_dense(adapted(method, layer, seed), seed, formula, "law 3, forward = dense formula")


def law_3_scale(method: Method, layer: nn.Module, seed: int = 0) -> None:
    """The ΔW of an additive method is proportional to `method.scale`: alpha three times as large, ΔW three times as large."""
    wide = copy.deepcopy(layer).double()
    once = adapted(replace(method, alpha=float(method.rank)), wide, seed)
    thrice = adapted(replace(method, alpha=3.0 * method.rank), wide, seed)
    if isinstance(_layer(once).adapter, Additive):
        one, three = (_wide(models.delta_weights(model)["0"]) for model in (once, thrice))
        _close(three, 3 * one, np.abs(three).max(), 1e-12, "law 3, ΔW is proportional to method.scale (is the scale in factors()?)")


def law_4_merge(method: Method, layer: nn.Module, seed: int = 0, formula: Formula | None = None) -> None:
    """Merged and unmerged outputs agree; the merged weight is W0 + ΔW, formed in float64 and rounded once."""
    model = adapted(method, layer, seed)
    models.merge(model)
    _check_dense(model, seed, formula, "law 4, merged = unmerged")
    dtype, W0, delta = _layer(model).W0.dtype, _wide(_layer(model).W0), _oracle(model, formula)
    merged = _layer(model).merged
    assert merged is not None, "law 4: merge merged nothing"
    limits = torch.finfo(dtype)
    half = limits.eps / 2 * np.maximum(np.abs(W0 + delta), limits.tiny)  # half a unit in the last place, or a little more
    error = np.abs(_wide(merged) - (W0 + delta))
    room = 1e-14 * (np.abs(W0).max() + np.abs(delta).max())  # float64 sums in another order
    assert (error <= half + room).all(), f"law 4: merging rounded more than once, error {error.max():.3g} against {half.max():.3g}"


def law_5_restore(method: Method, layer: nn.Module, seed: int = 0) -> None:
    """unmerge is bitwise the state before merge; disabled is bitwise the bare layer, merged or not; W0 keeps its bits."""
    model = adapted(method, layer, seed)
    for leading in INPUTS:
        x = inputs(layer, seed, leading)
        base, before = layer(x), model(x)
        with models.disabled(model):
            _same_bits(model(x), base, "law 5, disabled restores")
        models.merge(model)
        with models.disabled(model):
            _same_bits(model(x), base, "law 5, disabled restores, merged")
        models.unmerge(model)
        _same_bits(model(x), before, "law 5, unmerge restores")
        _same_bits(_layer(model).base.get_parameter("weight"), layer.get_parameter("weight"), "law 5, W0 after unmerge")


def law_6_idempotent(method: Method, layer: nn.Module, seed: int = 0) -> None:
    """A second merge, a second unmerge and a nested disabled change nothing."""
    model, x = adapted(method, layer, seed), inputs(layer, seed)
    before = model(x)
    models.merge(model)
    merged = model(x)
    models.merge(model)
    _same_bits(model(x), merged, "law 6, merge twice")
    with models.disabled(model):
        with models.disabled(model):
            _same_bits(model(x), layer(x), "law 6, disabled twice")
        _same_bits(model(x), layer(x), "law 6, after the inner disabled")
    _same_bits(model(x), merged, "law 6, after disabled")
    models.unmerge(model)
    models.unmerge(model)
    _same_bits(model(x), before, "law 6, unmerge twice")


def law_7_save_load(method: Method, layer: nn.Module, seed: int = 0) -> None:
    """What save wrote, load puts on a bare model: same method, same bits, same output."""
    model, bare, x = adapted(method, layer, seed), nn.Sequential(copy.deepcopy(layer)).eval(), inputs(layer, seed)
    with tempfile.TemporaryDirectory() as folder:
        models.save(model, folder)
        models.load(bare, folder)
    assert models.adapters(bare)["0"].method == method, "law 7: another method came back"
    for name, tensor in model.state_dict().items():
        _same_bits(bare.state_dict()[name], tensor, f"law 7, save and load, {name}")
    _same_bits(bare(x), model(x), "law 7, save and load")


def law_8_gradients(method: Method, layer: nn.Module, seed: int = 0) -> None:
    """Every adapter parameter and the input get a gradient, nothing else does, and training does not move W0."""
    model = adapted(method, layer, seed).train()
    x = inputs(layer, seed).requires_grad_()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)
    before = _parameters(model)
    for _ in range(2):
        optimizer.zero_grad()
        model(x).float().square().sum().backward()
        optimizer.step()
    assert x.grad is not None, "law 8: the input has no gradient"
    for name, parameter in _layer(model).base.named_parameters():
        assert parameter.grad is None, f"law 8: the frozen {name} has a gradient"
        assert not parameter.requires_grad, f"law 8: {name} is not frozen"
        _same_bits(parameter, layer.get_parameter(name), f"law 8, {name} after two steps")
    for name, parameter in _layer(model).adapter.named_parameters():
        assert parameter.grad is not None, f"law 8: adapter parameter {name} has no gradient"
        if parameter.numel():  # cross terms of rank 1 have an empty h
            assert parameter.grad.any(), f"law 8: the gradient of adapter parameter {name} is zero"
            assert not np.array_equal(before[name], _wide(parameter)), f"law 8: adapter parameter {name} does not move"


def law_9_dense_gradients(method: Method, layer: nn.Module, seed: int = 0, formula: Formula | None = None) -> None:
    """In float64 the gradients by x and by every parameter are those of the dense formula, and of finite differences."""
    model = adapted(method, copy.deepcopy(layer).double(), seed)
    adapter, W0, bias = _layer(model).adapter, _layer(model).W0, _layer(model).bias
    x = inputs(_layer(model), seed, (2,)).requires_grad_()
    names, parameters = zip(*adapter.named_parameters(), strict=True)
    formula = formula or ORACLES.get(method.name)
    delta = adapter.delta(W0) if formula is None else formula(method, dict(adapter.named_parameters()), W0)
    weights = torch.randn(2, W0.shape[0], generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    expected = torch.autograd.grad((F.linear(x, W0 + delta, bias) * weights).sum(), (x, *parameters), allow_unused=True)
    actual = torch.autograd.grad((model(x) * weights).sum(), (x, *parameters), allow_unused=True)
    for name, a, e in zip(("x", *names), actual, expected, strict=True):
        assert a is not None, f"law 9: no gradient by {name}"
        e = torch.zeros_like(a) if e is None else e  # an empty h
        scale = max(1.0, np.abs(_wide(e)).max(initial=0.0))
        _close(_wide(a), _wide(e), scale, TOLERANCE[torch.float64], f"law 9, gradient by {name}")
    if method.name not in PARTIAL_GRADIENT:
        values = [p.detach().clone().requires_grad_() for p in parameters if p.numel()]
        keys = [f"0.adapter.{name}" for name, p in zip(names, parameters, strict=True) if p.numel()]

        def forward(x: Tensor, *values: Tensor) -> Any:
            return functional_call(model, dict(zip(keys, values, strict=True)), (x,))

        assert torch.autograd.gradcheck(forward, (x, *values)), "law 9: gradcheck"


def law_10_readings(method: Method, layer: nn.Module, seed: int = 0, formula: Formula | None = None) -> None:
    """delta_weights is the formula read with NumPy floats, and read with sympy rationals at a rational point."""
    import sympy

    model = adapted(method, layer, seed)
    formula = formula or _reading(method)
    for point in ("float", "rational"):
        if point == "rational":
            generator = np.random.default_rng(seed)
            for parameter in _layer(model).adapter.parameters():
                parameter.data.copy_(torch.as_tensor(generator.integers(-6, 7, parameter.shape) / 4))
        delta, W0 = models.delta_weights(model)["0"], _wide(_layer(model).W0)
        tolerance = TOLERANCE[delta.dtype]
        expected = _oracle(model, None) if formula is None else np.asarray(formula(method, _parameters(model), W0))
        _close(_wide(delta), expected, max(1.0, np.abs(expected).max()), tolerance, f"law 10, NumPy reading at a {point} point")
    if formula is None:
        return
    rational = np.vectorize(sympy.Rational, otypes=[object])
    exact = formula(method, {name: rational(value) if value.size else value for name, value in _parameters(model).items()}, rational(W0))
    expected = np.asarray(exact).astype(np.float64)
    _close(_wide(delta), expected, max(1.0, np.abs(expected).max()), tolerance, "law 10, sympy reading")


def law_11_rank(method: Method, layer: nn.Module, seed: int = 0) -> None:
    """rank(ΔW) <= method.rank_bound(m, n), and equal for generic factors of an additive method.

    Exact for additive methods: integer parameters, the factors read as the rationals they are, elimination in Fractions.
    """
    model = adapted(replace(method, alpha=None, scaling="standard"), copy.deepcopy(layer).double(), seed)
    layer_, generator = _layer(model), np.random.default_rng(seed)
    bound = method.rank_bound(*layer_.W0.shape)
    if not isinstance(layer_.adapter, Additive):
        rank = int(torch.linalg.matrix_rank(models.delta_weights(model)["0"].double()))
        assert rank <= bound, f"law 11: rank {rank} above the bound {bound}"
        return
    inner = layer_.adapter.factors()[0].shape[1]
    assert min(*layer_.W0.shape, inner) == bound, f"law 11: {inner} rank-one terms, the bound says {bound}"
    rank = 0
    for _ in range(10):  # a draw may be degenerate (a zero, two equal entries); ten in a row are not
        for parameter in layer_.adapter.parameters():
            parameter.data.copy_(torch.as_tensor(generator.integers(-31, 32, parameter.shape)))
        B_hat, A_hat = (np.vectorize(Fraction, otypes=[object])(_wide(factor)) for factor in layer_.adapter.factors())
        rank = max(rank, exact_rank(B_hat @ A_hat))  # of the exact product: a rounded one may have a higher rank
        assert rank <= bound, f"law 11: rank {rank} above the bound {bound}"
        if rank == bound:
            return
    raise AssertionError(f"law 11: rank {rank} in ten draws, generic factors should attain {bound}")


def law_12_copies(method: Method, layer: nn.Module, seed: int = 0) -> None:
    """pickle and deepcopy give an equal model with memory of its own, merged or not."""
    x = inputs(layer, seed)
    for merged in (False, True):
        model = adapted(method, layer, seed)
        if merged:
            models.merge(model)
        before = model(x)
        for twin in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
            _same_bits(twin(x), before, "law 12, copies")
            assert models.adapters(twin)["0"].method == method, "law 12: the copy has another method"
            models.unmerge(move(twin, seed + 1))
            _same_bits(model(x), before, "law 12, the original after its copy moved")


def law_12_dtypes(method: Method, layer: nn.Module, seed: int = 0) -> None:
    """Adapters start in promote(base, float32), go to float64 with the model, and stay as they are below float32."""
    dtype = layer.get_parameter("weight").dtype
    for low in (torch.float16, torch.bfloat16):
        model = adapted(method, layer, seed)
        before = dict(copy.deepcopy(_layer(model).adapter).named_parameters())
        model.to(low)
        assert _layer(model).W0.dtype == low, f"law 12: .to({low}) left the base in {_layer(model).W0.dtype}"
        for name, parameter in _layer(model).adapter.named_parameters():
            assert before[name].dtype == torch.promote_types(dtype, torch.float32), f"law 12: {name} starts in {before[name].dtype}"
            _same_bits(parameter, before[name], f"law 12, adapter parameter {name} after .to({low})")
        _check_dense(model, seed, None, f"law 12, forward after .to({low})")
    model = adapted(method, layer, seed).to(torch.float64)
    assert {p.dtype for p in model.parameters()} == {torch.float64}, "law 12: .to(float64) left something behind"
    _check_dense(model, seed, None, "law 12, forward after .to(float64)")


def law_12_state_dict(method: Method, layer: nn.Module, seed: int = 0) -> None:
    """Merged, disabled or plain, the state dict has the same keys and bits; loading it into a merged model takes effect."""
    model, x = adapted(method, layer, seed), inputs(layer, seed)
    plain = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    models.merge(model)
    merged = model.state_dict()
    assert list(merged) == list(plain), f"law 12: keys of the merged state dict {list(merged)} are not {list(plain)}"
    for name, tensor in plain.items():
        _same_bits(merged[name], tensor, f"law 12, state dict, {name}")
    with models.disabled(model):
        assert list(model.state_dict()) == list(plain), "law 12: disabled changes the state dict"
    other = adapted(method, layer, seed + 1)
    models.merge(other)
    other.load_state_dict(plain)
    _same_bits(other(x), model(x), "law 12, load_state_dict into a merged model")


def law_12_compile(method: Method, layer: nn.Module, seed: int = 0) -> None:
    """torch.compile takes the layer as one graph, and output and gradients are those of the plain layer."""
    model, x = adapted(method, layer, seed), inputs(layer, seed)
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    expected, scale = _dense(model, x, None)
    dtype = _layer(model).W0.dtype
    actual = compiled(x)
    _close(_wide(actual), expected, scale, TOLERANCE[dtype], "law 12, compiled forward")
    parameters = [p for p in _layer(model).adapter.parameters() if p.numel()]
    gradients = zip(
        torch.autograd.grad(actual.float().sum(), parameters), torch.autograd.grad(model(x).float().sum(), parameters), strict=True
    )
    for a, e in gradients:
        _close(_wide(a), _wide(e), max(1.0, np.abs(_wide(e)).max()), TOLERANCE[dtype], "law 12, compiled gradient")


def law_12_tied(method: Method, layer: nn.Module, seed: int = 0) -> None:
    """A weight that another module uses is not merged: the error names both, and nothing is merged."""
    model = nn.Sequential(copy.deepcopy(layer), copy.deepcopy(layer)).eval()
    model[1].weight = model[0].weight
    models.attach(model, method, ["0"])
    move(model, seed)
    try:
        models.merge(model)
    except PerakitError as error:
        said = str(error)
    else:
        raise AssertionError("law 12: a tied weight was merged")
    assert "cannot merge layer '0'" in said, f"law 12: {said!r} does not name the layer"
    assert "shared with '1'" in said, f"law 12: {said!r} does not name the module it is tied to"
    assert model[0].merged is None, "law 12: merged in spite of the error"


def law_dropout(method: Method, layer: nn.Module, seed: int = 0) -> None:
    """Dropout drops inputs of the update only, and only in training: at ΔW = 0 nothing of it is seen.

    In training y = W0 x + b + ΔW z, z being x with entries zeroed and the others divided by 1 - p; checked on the
    identity matrix as input, where z is diagonal, so each row is W0 + b plus a known multiple of a column of ΔW.
    """
    method, p = replace(method, dropout=0.5), 0.5
    model, start = adapted(method, copy.deepcopy(layer).double(), seed), adapted(method, copy.deepcopy(layer).double(), seed, start=True)
    n = _layer(model).W0.shape[1]
    x = torch.eye(n, dtype=torch.float64).repeat(40, 1)  # (40 n, n): all kept has chance 2^-40 at n = 1
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        _same_bits(start.train()(x), start.eval()(x), "dropout: the base sees dropped inputs")
        kept_all, dropped = model.eval()(x), model.train()(x)
    with models.disabled(model):
        base = model(x)
    update = (kept_all - base).detach()
    factor = ((dropped - base) * update).sum(1) / update.square().sum(1)  # 0 or 1 / (1 - p)
    close = torch.isclose(factor, torch.zeros(()).double(), atol=1e-8) | torch.isclose(factor, torch.tensor(1 / (1 - p)).double())
    assert close.all(), f"dropout: rows of the update are multiplied by {factor.unique().tolist()}, not by 0 or {1 / (1 - p)}"
    assert 0 < factor.count_nonzero() < len(factor), "dropout: in training nothing, or everything, is dropped"


LAWS: tuple[Callable[..., None], ...] = (
    law_1_no_op_at_init,
    law_2_differs,
    law_3_dense_forward,
    law_3_scale,
    law_4_merge,
    law_5_restore,
    law_6_idempotent,
    law_7_save_load,
    law_8_gradients,
    law_9_dense_gradients,
    law_10_readings,
    law_11_rank,
    law_12_copies,
    law_12_dtypes,
    law_12_state_dict,
    law_12_compile,
    law_12_tied,
    law_dropout,
)
WITH_FORMULA = (law_3_dense_forward, law_4_merge, law_9_dense_gradients, law_10_readings)


def assert_adapter_laws(method: Method, formula: Formula | None = None, seed: int = 0, compiled: bool = True) -> None:
    """Every law on every layer kind and dtype, for one method.

    formula: ΔW as a function (method, parameters, W0), scale included, of any arrays; compiled: False leaves out
    torch.compile, the slow one. Takes a few seconds; raises AssertionError at the first law that is broken, with the
    law, the layer kind and the dtype.
    """
    if not isinstance(method, Method):
        raise PerakitError(f"method={method!r} is not a method: pass one such as MyMethod(rank=2)")
    for kind, dtype in product(LAYERS, DTYPES):
        for law in LAWS:
            if law is law_12_compile and not (compiled and dtype is torch.float32):
                continue
            options = {"formula": formula} if law in WITH_FORMULA else {}
            try:
                law(method, make_layer(kind, 5, 3, True, dtype, seed), seed, **options)
            except Exception as error:  # a wrong adapter fails anywhere: say where, and keep what it said
                raise AssertionError(f"{law.__name__} on a 5 x 3 {kind}, {dtype}: {type(error).__name__}: {error}") from error
