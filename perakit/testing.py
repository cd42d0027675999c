"""The laws of an adapter, one function each: call them on your own method, or all at once.

from perakit.testing import assert_adapter_laws
assert_adapter_laws(MyMethod(rank=2))  # or MyMethod, or MyAdapter, which mean the same

Each law takes (method, layer, seed): a method, a bare layer (`strategies.layers()` draws some), and
a seed from which inputs and factors are drawn. It raises AssertionError with the law's name. The
layer itself is copied, never changed. `formula(method, parameters, W0) -> ΔW`, scale included, is
an oracle for a method that perakit does not know; without one the laws that need a second opinion
compare the layer with its own `delta`, in float64. What a correct method may do otherwise than most
it says in class attributes: `proportional`, `exact_gradient`, `exact_in_float64`, `mergeable`
(docs/adding-a-method.md); no law asks for a method's name. A method that is not `mergeable` has no
ΔW: its oracle is `formula(method, parameters, x) -> what it adds to the output`, and the laws on ΔW
and merging become one, that all of it is refused with the reason and nothing has changed.
"""

from __future__ import annotations

import copy
import pickle
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from perakit import models
from perakit.adapters import Adapter, Additive, LoRA, Method
from perakit.errors import PerakitError, listed, short
from perakit.models.adapted import AdaptedLayer
from perakit.models.layers import kind_of
from perakit.strategies import DTYPES, LAYERS, make_layer, move
from perakit.theory.exact import exact_rank

Formula = Callable[[Any, dict[str, Any], Any], Any]

# Largest error, as a share of the scale of the output: |x| (|W0| + |ΔW|) + |b|. About 100 units in
# the last place for float64 with room for sums, 5 for the half precisions, in which the base alone
# already rounds.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 4e-2, torch.float16: 5e-3}
# Leading shapes of x: a batch, (batch, T), one vector, nothing
INPUTS: tuple[tuple[int, ...], ...] = ((4,), (2, 3), (), (0,))


# --- oracles: a second opinion that does not use `formulas` ---------------------------------------


def hadamard_lora(method: Any, parameters: dict[str, Any], W0: Any) -> Any:
    """s Σ_i M_i with M_i = b_i a_iᵀ: outer products, no matrix product."""
    return method.scale * sum(_outer(parameters, i) for i in range(method.rank))


def hadamard_pera(method: Any, parameters: dict[str, Any], W0: Any) -> Any:
    """s (Σ M_i + Σ h M_i∘M_j ...) with M_i = b_i a_iᵀ: PERA as a Hadamard series, never expanded
    into factors.
    """
    total = sum(_outer(parameters, i) for i in range(method.rank))
    indices = []
    for d in range(2, method.degree + 1):
        rows = [row for row in product(range(method.rank), repeat=d) if list(row) == sorted(row)]
        squares = [len(set(row)) == 1 for row in rows]
        wanted = {
            "full": [True] * len(rows),
            "square": squares,
            "cross": [not square for square in squares],
        }[method.terms]
        indices += [row for row, take in zip(rows, wanted, strict=True) if take]
    assert len(parameters["h"]) == len(indices), (
        f"h has {len(parameters['h'])} entries for {len(indices)} products"
    )
    for coefficient, row in zip(parameters["h"], indices, strict=True):
        term = method.feature_scale * coefficient
        for i in row:
            term = term * _outer(parameters, i)
        total = total + term
    return method.scale * total


def rows_dora(method: Any, parameters: dict[str, Any], W0: Any) -> Any:
    """Row by row: g_p v / ‖v‖ - w, with v = w + s Σ_i B[p,i] a_i and its length taken out of the
    gradient.
    """
    B, A, g = parameters["B"], parameters["A"], parameters["magnitude"]
    rows = []
    for p in range(len(W0)):
        v = W0[p]
        for i in range(method.rank):
            v = v + method.scale * B[p, i] * A[i]
        rows.append(g[p] * v / _length(v) - W0[p])
    return _stack(rows)


def pattern_hira(method: Any, parameters: dict[str, Any], W0: Any) -> Any:
    """s Σ_i diag(b_i) W0 diag(a_i): W0 rescaled from both sides, r times."""
    return method.scale * sum(
        parameters["B"][:, i, None] * W0 * parameters["A"][None, i] for i in range(method.rank)
    )


def entries_mora(method: Any, parameters: dict[str, Any], W0: Any) -> Any:
    """s M[p mod r̂, q mod r̂], entry by entry."""
    M, (m, n) = parameters["M"], W0.shape
    size = len(M)
    return method.scale * _stack(
        [
            _stack([M[p - size * (p // size), q - size * (q // size)] for q in range(n)])
            for p in range(m)
        ]
    )


def outer_delora(method: Any, parameters: dict[str, Any], W0: Any) -> Any:
    """s Σ_i (λ/r) (b_i/‖b_i‖)(a_i/‖a_i‖)ᵀ, then column q times ‖W0[:, q]‖; lengths at least
    1e-4.
    """
    B, A, strength = (
        parameters["B"],
        parameters["A"],
        method.scale * parameters["lam"][0] / method.rank,
    )
    total = sum(
        strength * _outer(parameters, i) / (_floored(B[:, i]) * _floored(A[i]))
        for i in range(method.rank)
    )
    return _stack([total[:, q] * (W0[:, q] * W0[:, q]).sum() ** 0.5 for q in range(W0.shape[1])]).T


def hadamard_loha(method: Any, parameters: dict[str, Any], W0: Any) -> Any:
    """s (Σ_i b1_i a1_iᵀ)∘(Σ_j b2_j a2_jᵀ): two sums of outer products, multiplied entry by
    entry.
    """
    first, second = (sum(_outer(parameters, i, k) for i in range(method.rank)) for k in "12")
    return method.scale * first * second


def sum_quadratic(method: Any, parameters: dict[str, Any], x: Any) -> Any:
    """s Σ_i (u_i·x)² p_i, what is added to the output for inputs x (..., n)."""
    U, P = parameters["U"], parameters["P"]
    squares = (((x * U[i]).sum(-1) ** 2)[..., None] for i in range(method.rank))
    return method.scale * sum(square * P[:, i] for i, square in enumerate(squares))


def _outer(parameters: dict[str, Any], i: int, k: str = "") -> Any:
    return parameters[f"B{k}"][:, i, None] * parameters[f"A{k}"][None, i]


def _length(v: Any) -> Any:
    squares = (v * v).sum() ** 0.5
    return squares.detach() if isinstance(squares, Tensor) else squares


def _floored(v: Any) -> Any:
    length = (v * v).sum() ** 0.5
    return length if length > 1e-4 else 1e-4


def _stack(parts: list[Any]) -> Any:
    return torch.stack(parts) if isinstance(parts[0], Tensor) else np.stack(parts)


ORACLES: dict[str, Formula] = {
    "lora": hadamard_lora,
    "pera": hadamard_pera,
    "dora": rows_dora,
    "hira": pattern_hira,
    "mora": entries_mora,
    "delora": outer_delora,
    "loha": hadamard_loha,
    "quadratic": sum_quadratic,
}


# --- helpers --------------------------------------------------------------------------------------


def adapted(method: Method, layer: nn.Module, seed: int = 0, start: bool = False) -> nn.Sequential:
    """A model of one copy of `layer` with an adapter, in eval mode, moved off its start from `seed`
    (unless `start`).
    """
    model = nn.Sequential(copy.deepcopy(layer)).eval()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        models.attach(model, method, ["0"])
    return model if start else move(model, seed)  # type: ignore[return-value]


def inputs(layer: nn.Module, seed: int, leading: tuple[int, ...] = (4,)) -> Tensor:
    """Standard normal x (*leading, n) in the layer's dtype, from `seed`."""
    W0 = _weight(layer)
    generator = torch.Generator().manual_seed(seed + 1)
    return torch.randn(*leading, W0.shape[1], generator=generator).to(W0.dtype)


def _weight(layer: nn.Module) -> Tensor:
    """The frozen (m, n) weight of a layer, bare or adapted: of a 4-bit one what it multiplies
    with.
    """
    bare = layer.base if isinstance(layer, AdaptedLayer) else layer
    kind = kind_of(bare)
    assert kind is not None, f"{type(bare).__name__} cannot be adapted"
    return kind.weight(bare)


def _merge(model: nn.Module) -> None:
    models.merge(model, dequantize=True)


def _reading(method: Method) -> Formula | None:
    """The method's own rule in `formulas`, which takes any arrays; None for a method that does not
    say, or has no ΔW.
    """
    if not method.mergeable or type(method).update is Method.update:
        return None
    return lambda method, parameters, W0: method.update(W0, **parameters)


def _scaled(method: Method) -> Method:
    """The method, with a scale that is not 1: at 1 a scale that somebody forgot is not missed."""
    return replace(method, alpha=3.0 * method.rank) if method.scale == 1 else method


def _layer(model: nn.Sequential) -> AdaptedLayer:
    layer = model[0]
    assert isinstance(layer, AdaptedLayer), (
        f"attach left {type(layer).__name__} in place of an adapted layer"
    )
    return layer


def _wide(tensor: Tensor) -> np.ndarray:
    # a copy: what training moves must not move it
    return tensor.detach().to(torch.float64, copy=True).numpy()


def _parameters(model: nn.Sequential) -> dict[str, np.ndarray]:
    return {name: _wide(parameter) for name, parameter in _layer(model).adapter.named_parameters()}


def _oracle(model: nn.Sequential, formula: Formula | None) -> np.ndarray:
    """ΔW in float64, by the formula or the method's oracle; else by the adapter itself, in
    float64.
    """
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
        assert error <= bound, (
            f"{law}: error {error:.3g} above {bound:.3g}\ngot {actual}\nexpected {expected}"
        )


def _same_bits(a: Tensor, b: Tensor, law: str) -> None:
    assert a.dtype == b.dtype, f"{law}: {a.dtype} is not {b.dtype}"
    if not torch.equal(a, b):
        a, b = a.detach(), b.detach()
        much = (
            f"{int((a != b).sum())} of {a.numel()} entries differ, by up to"
            f" {(a - b).abs().max():.3g}"
            if a.shape == b.shape
            else "shapes differ"
        )
        raise AssertionError(f"{law}: {much}\n{a}\n{b}")


def _added(model: nn.Sequential, x: Tensor, formula: Formula | None) -> np.ndarray:
    """What a method without ΔW adds to the output for x, in float64, by the formula or the method's
    oracle; else by itself.
    """
    adapter = _layer(model).adapter
    formula = formula or ORACLES.get(adapter.method.name)
    if formula is None:
        return _wide(
            copy.deepcopy(adapter)
            .double()
            .eval()
            .contribution(x.double(), _layer(model).W0.double())
        )
    return np.asarray(formula(adapter.method, _parameters(model), _wide(x)), dtype=np.float64)


def _dense(
    model: nn.Sequential, x: Tensor, formula: Formula | None
) -> tuple[np.ndarray, np.ndarray]:
    """(W0 + ΔW) x + b in float64 NumPy, and the scale of that sum; where there is no ΔW, W0 x + b
    and what is added.
    """
    layer = _layer(model)
    base, size = _dense_base(layer, x)
    if not layer.adapter.method.mergeable:
        added = _added(model, x, formula)
        return base + added, size + np.abs(added)
    delta = _oracle(model, formula)
    return base + _times(delta, _wide(x)), size + _times(np.abs(delta), np.abs(_wide(x)))


def _dense_base(layer: AdaptedLayer, x: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """W0 x + b in float64 NumPy, and its scale |W0| |x| + |b|."""
    W0, bias = _wide(layer.W0), np.zeros(1) if layer.bias is None else _wide(layer.bias)
    return _times(W0, _wide(x)) + bias, _times(np.abs(W0), np.abs(_wide(x))) + np.abs(bias)


def _times(W: np.ndarray, x: np.ndarray) -> np.ndarray:
    return np.einsum("...n,mn->...m", x, W)


def _check_dense(
    model: nn.Sequential, seed: int, formula: Formula | None, law: str, tolerance: float = 0.0
) -> None:
    """The output is that of the dense formula, to `TOLERANCE` or to `tolerance` if that is more."""
    dtype = _layer(model).W0.dtype
    for leading in INPUTS:
        x = inputs(_layer(model), seed, leading)
        y = model(x)
        assert y.dtype == dtype, f"{law}: a {dtype} layer answers in {y.dtype}"
        expected, scale = _dense(model, x, formula)
        _close(
            _wide(y), expected, scale if scale.size else 0.0, max(tolerance, TOLERANCE[dtype]), law
        )


# --- the laws -------------------------------------------------------------------------------------


def law_1_no_op_at_init(method: Method, layer: nn.Module, seed: int = 0) -> None:
    """An attached, untrained adapter changes no bit of the output, in training or out of it, and ΔW
    is exactly zero.
    """
    model = adapted(method, layer, seed, start=True)
    for training in (False, True):
        model.train(training)
        for leading in INPUTS:
            x = inputs(layer, seed, leading)
            _same_bits(
                model(x),
                layer(x),
                "law 1, no-op at init (is ΔW zero after reset(), is anything else added in"
                " forward()?)",
            )
    if method.mergeable:
        assert not models.delta_weights(model)["0"].any(), "law 1: ΔW is not zero at the start"
        _merge(model)
        merged = _layer(model).merged
        assert merged is not None, "law 1: merge merged nothing"
        _same_bits(merged, _weight(layer), "law 1, no-op at init, merged")


def law_2_differs(method: Method, layer: nn.Module, seed: int = 0) -> None:
    """Once the factors differ from their start, so does the output (on 64 inputs: one may round
    away in half precision).

    On a layer with a single row or column in one of nine draws at least: there a vector may be no
    more than its sign, and terms of one size and opposite signs cancel (DeLoRA, 1 x 1). On any
    other layer in the first draw.
    """
    x, said = inputs(layer, seed, (64,)), ""
    for draw in range(seed, seed + (9 if 1 in _weight(layer).shape else 1)):
        model = adapted(method, layer, draw)
        if method.mergeable and not models.delta_weights(model)["0"].any():
            said = "law 2: ΔW is zero though no factor is"
        elif torch.equal(model(x), layer(x)):
            said = "law 2: the adapter has no effect on the output"
        else:
            return
    raise AssertionError(said)


def law_3_dense_forward(
    method: Method, layer: nn.Module, seed: int = 0, formula: Formula | None = None
) -> None:
    """The forward pass is (W0 + ΔW) x + b, with ΔW from the raw parameters by an oracle, in
    float64.

    It follows the parameters: after they change, nothing that an earlier pass without gradients
    computed is left. A method that is not `mergeable` has to be so: what it adds for a sum of
    inputs is not the sum of what it adds.
    """
    method = _scaled(method)
    model = adapted(method, layer, seed)
    _check_dense(model, seed, formula, "law 3, forward = dense formula")
    if not method.mergeable:
        _check_not_linear(adapted(method, copy.deepcopy(layer).double(), seed), seed)
    fresh, x = move(adapted(method, layer, seed), seed + 1), inputs(layer, seed)
    with torch.no_grad():
        for _ in range(2):  # computed before the parameters change; and after
            y, delta = model(x), models.delta_weights(model)["0"] if method.mergeable else None
            move(model, seed + 1)
        _same_bits(
            y,
            fresh(x),
            "law 3, the output after the parameters have changed (is something cached?)",
        )
        if delta is not None:
            _same_bits(
                delta,
                models.delta_weights(fresh)["0"],
                "law 3, ΔW after the parameters have changed (is something cached?)",
            )


def _check_not_linear(model: nn.Sequential, seed: int) -> None:
    """f(x + y) is not f(x) + f(y), in float64: what is linear is a matrix, and can be merged.

    Not f(2x) alone: a ReLU between two factors passes a factor 2 on, and is no matrix.
    """
    adapter, W0 = _layer(model).adapter, _layer(model).W0
    x, y = (inputs(_layer(model), seed + k, (64,)) for k in (0, 1))
    one, other, both = (adapter.contribution(z, W0).detach() for z in (x, y, x + y))
    apart = (both - one - other).abs().max()
    assert apart > 1e-9 * both.abs().max(), (
        "law 3: mergeable = False, but the update is linear in the input: give delta(W0), and merge"
    )


def law_3_scale(method: Method, layer: nn.Module, seed: int = 0) -> None:
    """ΔW is proportional to `method.scale`: alpha three times as large, ΔW three times as large.
    Without ΔW, what is added.

    Not of a method that says `proportional = False`: DoRA, which normalises after it scales.
    """
    if not method.proportional:
        return
    wide = copy.deepcopy(layer).double()
    once = adapted(replace(method, alpha=float(method.rank)), wide, seed)
    thrice = adapted(replace(method, alpha=3.0 * method.rank), wide, seed)
    W0 = _layer(once).W0
    if method.mergeable:
        what, place = "ΔW", "factors() or delta()"
        one, three = (_wide(models.delta_weights(model)["0"]) for model in (once, thrice))
    else:
        what, place, x = "the update", "contribution()", inputs(wide, seed)
        one, three = (_wide(_layer(model).adapter.contribution(x, W0)) for model in (once, thrice))
    law = (
        f"law 3, {what} is proportional to method.scale (is the scale in {place}; or is"
        " proportional = False meant?)"
    )
    # W0: terms may cancel, all but their rounding
    _close(three, 3 * one, np.abs(three).max() + np.abs(_wide(W0)).max(), 1e-12, law)


def law_4_merge(
    method: Method, layer: nn.Module, seed: int = 0, formula: Formula | None = None
) -> None:
    """Merged and unmerged outputs agree; the merged weight is W0 + ΔW, formed in float64 and
    rounded once.
    """
    model = adapted(_scaled(method), layer, seed)
    if not method.mergeable:
        _check_refused(model, layer, seed)
        return
    _merge(model)
    _check_dense(model, seed, formula, "law 4, merged = unmerged")
    dtype, W0, delta = _layer(model).W0.dtype, _wide(_layer(model).W0), _oracle(model, formula)
    merged = _layer(model).merged
    assert merged is not None, "law 4: merge merged nothing"
    limits = torch.finfo(dtype)
    # Half a unit in the last place, or a little more
    half = limits.eps / 2 * np.maximum(np.abs(W0 + delta), limits.tiny)
    error = np.abs(_wide(merged) - (W0 + delta))
    room = 1e-14 * (np.abs(W0).max() + np.abs(delta).max())  # float64 sums in another order
    if not method.exact_in_float64:
        # DoRA divides by a row length that is rounded to its magnitude's dtype, also when merging,
        # or a start that the magnitude holds in that dtype would not be a no-op: half an eps of W0
        # + ΔW, which is proportional to one over the length; and a little more.
        room = room + torch.finfo(next(_layer(model).adapter.parameters()).dtype).eps * np.abs(
            W0 + delta
        )
    assert (error <= half + room).all(), (
        f"law 4: merging rounded more than once, error {error.max():.3g} against {half.max():.3g}"
    )


def law_5_restore(method: Method, layer: nn.Module, seed: int = 0) -> None:
    """unmerge is bitwise the state before merge; disabled is bitwise the bare layer, merged or not;
    W0 keeps its bits.
    """
    model, W0 = adapted(method, layer, seed), _weight(layer)
    for leading in INPUTS:
        x = inputs(layer, seed, leading)
        base, before = layer(x), model(x)
        with models.disabled(model):
            _same_bits(model(x), base, "law 5, disabled restores")
        if method.mergeable:
            _merge(model)
            with models.disabled(model):
                _same_bits(model(x), base, "law 5, disabled restores, merged")
        models.unmerge(model)
        _same_bits(model(x), before, "law 5, unmerge restores")
        _same_bits(_layer(model).W0, W0, "law 5, W0 after unmerge")


def law_6_idempotent(method: Method, layer: nn.Module, seed: int = 0) -> None:
    """A second merge, a second unmerge and a nested disabled change nothing."""
    model, x = adapted(method, layer, seed), inputs(layer, seed)
    before = merged = model(x)
    if method.mergeable:
        _merge(model)
        merged = model(x)
        _merge(model)
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
    model, bare, x = (
        adapted(method, layer, seed),
        nn.Sequential(copy.deepcopy(layer)).eval(),
        inputs(layer, seed),
    )
    with tempfile.TemporaryDirectory() as folder:
        models.save(model, folder)
        models.load(bare, folder)
    assert models.adapters(bare)["0"].method == method, "law 7: another method came back"
    for name, tensor in model.state_dict().items():
        _same_bits(bare.state_dict()[name], tensor, f"law 7, save and load, {name}")
    _same_bits(bare(x), model(x), "law 7, save and load")


def law_8_gradients(method: Method, layer: nn.Module, seed: int = 0) -> None:
    """Every adapter parameter and the input get a gradient, nothing else does, and training does
    not move W0.

    At the start all gradients are finite, and one is not zero: training can begin. The parameters
    are as many as `count` says.
    """
    start = adapted(method, layer, seed, start=True).train()
    start(inputs(layer, seed)).float().square().sum().backward()
    gradients = [
        parameter.grad
        for parameter in _layer(start).adapter.parameters()
        if parameter.grad is not None
    ]
    assert all(gradient.isfinite().all() for gradient in gradients), (
        "law 8: a gradient at the start is not finite"
    )
    assert any(gradient.any() for gradient in gradients), (
        "law 8: all gradients at the start are zero, so training never begins"
    )
    model = adapted(method, layer, seed).train()
    said, there = (
        method.count(*_weight(layer).shape),
        sum(parameter.numel() for parameter in _layer(model).adapter.parameters()),
    )
    assert said == there, (
        f"law 8: count{tuple(_weight(layer).shape)} is {said}, and the adapter has {there}"
        " parameters"
    )
    x = inputs(layer, seed).requires_grad_()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)
    before, W0 = _parameters(model), _weight(layer)
    for _ in range(2):
        optimizer.zero_grad()
        model(x).float().square().sum().backward()
        optimizer.step()
    assert x.grad is not None, "law 8: the input has no gradient"
    for name, parameter in _layer(model).base.named_parameters():
        assert parameter.grad is None, f"law 8: the frozen {name} has a gradient"
        assert not parameter.requires_grad, f"law 8: {name} is not frozen"
        _same_bits(parameter, layer.get_parameter(name), f"law 8, {name} after two steps")
    _same_bits(_layer(model).W0, W0, "law 8, W0 after two steps")
    for name, parameter in _layer(model).adapter.named_parameters():
        assert parameter.grad is not None, f"law 8: adapter parameter {name} has no gradient"
        if parameter.numel():  # cross terms of rank 1 have an empty h
            assert parameter.grad.any() or _is_excused(method, layer, name, seed), (
                f"law 8: the gradient of adapter parameter {name} is zero"
            )
            assert not np.array_equal(before[name], _wide(parameter)), (
                f"law 8: adapter parameter {name} does not move"
            )


def _is_excused(method: Method, layer: nn.Module, name: str, seed: int) -> bool:
    """A zero gradient is right on a layer with m = 1 or n = 1 only: in an unlucky draw, or where no
    more than a sign is read.

    Unlucky: terms of one size and opposite signs cancel, and with them the gradient of what
    multiplies them; not in nine draws.
    """
    if 1 not in _weight(layer).shape:
        return False
    for draw in range(seed + 1, seed + 9):
        model = adapted(method, layer, draw).train()
        model(inputs(layer, draw)).float().square().sum().backward()
        gradient = _layer(model).adapter.get_parameter(name).grad
        if gradient is not None and gradient.any():
            return True
    return _only_a_sign(method, layer, name, seed)


def _only_a_sign(method: Method, layer: nn.Module, name: str, seed: int) -> bool:
    """A method that normalises reads no more of a vector of one entry than its sign, and the
    gradient is truly zero.

    So it is where a parameter a little longer changes nothing, and one entry a thousand times as
    long, of one sign or the other, does.
    """
    model = adapted(method, copy.deepcopy(layer).double(), seed)
    x, parameter = inputs(_layer(model), seed), _layer(model).adapter.get_parameter(name)
    with torch.no_grad():
        before, start = model(x), parameter.clone()
        parameter.mul_(1.001)
        same = torch.allclose(model(x), before, rtol=1e-12, atol=1e-12)
        changed = []
        for factor in (-1000, 1000):
            parameter.copy_(start).view(-1)[0].mul_(factor)
            changed.append(not torch.allclose(model(x), before, rtol=1e-6, atol=1e-6))
    return same and any(changed)


def law_9_dense_gradients(
    method: Method, layer: nn.Module, seed: int = 0, formula: Formula | None = None
) -> None:
    """In float64 the gradients by x and by every parameter are those of the dense formula, and of
    finite differences.

    Not of differences where a method says `exact_gradient = False`: they see what it holds constant
    (DoRA: the norm).
    """
    method = _scaled(method)
    model = adapted(method, copy.deepcopy(layer).double(), seed)
    adapter, W0, bias = _layer(model).adapter, _layer(model).W0, _layer(model).bias
    x = inputs(_layer(model), seed, (2,)).requires_grad_()
    names, parameters = zip(*adapter.named_parameters(), strict=True)
    formula = formula or ORACLES.get(method.name)
    weights = torch.randn(
        2, W0.shape[0], generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    if method.mergeable:
        delta = (
            adapter.delta(W0)
            if formula is None
            else formula(method, dict(adapter.named_parameters()), W0)
        )
        dense = F.linear(x, W0 + delta, bias)
    else:
        added = (
            adapter.contribution(x, W0)
            if formula is None
            else formula(method, dict(adapter.named_parameters()), x)
        )
        dense = F.linear(x, W0, bias) + added
    expected = torch.autograd.grad((dense * weights).sum(), (x, *parameters), allow_unused=True)
    actual = torch.autograd.grad((model(x) * weights).sum(), (x, *parameters), allow_unused=True)
    for name, a, e in zip(("x", *names), actual, expected, strict=True):
        assert a is not None, f"law 9: no gradient by {name}"
        e = torch.zeros_like(a) if e is None else e  # an empty h
        scale = max(1.0, np.abs(_wide(e)).max(initial=0.0))
        _close(_wide(a), _wide(e), scale, TOLERANCE[torch.float64], f"law 9, gradient by {name}")
    if method.exact_gradient:
        values = [p.detach().clone().requires_grad_() for p in parameters if p.numel()]
        paths = {id(p): path for path, p in model.named_parameters()}
        keys = [paths[id(p)] for p in parameters if p.numel()]

        def forward(x: Tensor, *values: Tensor) -> Any:
            return functional_call(model, dict(zip(keys, values, strict=True)), (x,))

        try:
            torch.autograd.gradcheck(forward, (x, *values))
        except RuntimeError as error:
            raise AssertionError(
                f"law 9: is a part held constant on purpose (exact_gradient = False)? {error}"
            ) from error


def law_10_readings(
    method: Method, layer: nn.Module, seed: int = 0, formula: Formula | None = None
) -> None:
    """delta_weights is the formula read with NumPy floats, and read with sympy rationals at a
    rational point.

    Without ΔW: what is added for the rows of the identity and their sum.
    """
    import sympy

    method = _scaled(method)
    model = adapted(method, layer, seed)
    formula, W0, adapter = (
        formula or _reading(method) or ORACLES.get(method.name),
        _layer(model).W0,
        _layer(model).adapter,
    )
    x = torch.cat([torch.eye(W0.shape[1]), torch.ones(1, W0.shape[1])]).to(W0.dtype)
    given = _wide(W0 if method.mergeable else x)
    for point in ("float", "rational"):
        if point == "rational":
            generator = np.random.default_rng(seed)
            for parameter in adapter.parameters():
                parameter.data.copy_(
                    torch.as_tensor(generator.integers(-6, 7, parameter.shape) / 4)
                )
        delta = (
            models.delta_weights(model)["0"] if method.mergeable else adapter.contribution(x, W0)
        )
        tolerance = TOLERANCE[delta.dtype]
        oracle = _oracle if method.mergeable else lambda model, formula: _added(model, x, formula)
        expected = (
            oracle(model, None)
            if formula is None
            else np.asarray(formula(method, _parameters(model), given))
        )
        _close(
            _wide(delta),
            expected,
            max(1.0, np.abs(expected).max()),
            tolerance,
            f"law 10, NumPy reading at a {point} point",
        )
    if formula is None:
        return
    rational = np.vectorize(sympy.Rational, otypes=[object])
    exact = formula(
        method,
        {
            name: rational(value) if value.size else value
            for name, value in _parameters(model).items()
        },
        rational(given),
    )
    expected = np.asarray(exact).astype(np.float64)
    _close(
        _wide(delta), expected, max(1.0, np.abs(expected).max()), tolerance, "law 10, sympy reading"
    )


def law_11_rank(method: Method, layer: nn.Module, seed: int = 0) -> None:
    """rank(ΔW) <= method.rank_bound(m, n), and equal for generic factors; unless ΔW reads a W0 that
    has a row or column of zeros.

    Exact for additive methods: integer parameters, the factors read as the rationals they are,
    elimination in Fractions. Without ΔW the bound is on the dimension of what is added to the
    outputs of many inputs, and equal to it.
    """
    model = adapted(
        replace(method, alpha=None, scaling="standard"), copy.deepcopy(layer).double(), seed
    )
    layer_, generator = _layer(model), np.random.default_rng(seed)
    bound = method.rank_bound(*layer_.W0.shape)
    exact = isinstance(layer_.adapter, Additive) or not method.mergeable
    attained = exact or bool(layer_.W0.any(0).all() and layer_.W0.any(1).all())
    if isinstance(layer_.adapter, Additive):
        inner = layer_.adapter.factors()[0].shape[1]
        assert min(*layer_.W0.shape, inner) == bound, (
            f"law 11: {inner} rank-one terms, the bound says {bound}"
        )
    rank = 0
    # a draw may be degenerate (a zero, two equal entries); ten in a row are not
    for attempt in range(10):
        move(model, seed + attempt)
        rank = max(rank, _exact_rank(layer_, generator) if exact else _float_rank(model))
        assert rank <= bound, f"law 11: rank {rank} above the bound {bound}"
        if rank == bound or not attained:
            return
    raise AssertionError(
        f"law 11: rank {rank} in ten draws, generic factors should attain rank_bound, {bound}"
    )


def _float_rank(model: nn.Sequential) -> int:
    return int(torch.linalg.matrix_rank(models.delta_weights(model)["0"].double()))


def _exact_rank(layer: AdaptedLayer, generator: np.random.Generator) -> int:
    """Of an update of random whole parameters, as an exact product: a rounded one may have a higher
    rank.
    """
    adapter = layer.adapter
    for parameter in adapter.parameters():
        parameter.data.copy_(torch.as_tensor(generator.integers(-31, 32, parameter.shape)))
    if isinstance(adapter, Additive):
        B_hat, A_hat = (
            np.vectorize(Fraction, otypes=[object])(_wide(factor)) for factor in adapter.factors()
        )
        return exact_rank(B_hat @ A_hat)
    x = torch.as_tensor(generator.integers(-9, 10, (24, layer.W0.shape[1]))).double()
    return exact_rank(_wide(adapter.contribution(x, layer.W0)))  # whole numbers, far below 2^53


def law_12_copies(method: Method, layer: nn.Module, seed: int = 0) -> None:
    """pickle and deepcopy give an equal model with memory of its own, merged or not."""
    x = inputs(layer, seed)
    for merged in (False, True) if method.mergeable else (False,):
        model = adapted(method, layer, seed)
        if merged:
            _merge(model)
        before = model(x)
        for twin in (_pickled(model), copy.deepcopy(model)):
            _same_bits(twin(x), before, "law 12, copies")
            assert models.adapters(twin)["0"].method == method, (
                "law 12: the copy has another method"
            )
            models.unmerge(move(twin, seed + 1))
            _same_bits(model(x), before, "law 12, the original after its copy moved")


def _pickled(model: nn.Module) -> nn.Module:
    try:
        return pickle.loads(pickle.dumps(model))
    except (AttributeError, pickle.PicklingError) as error:
        remedy = (
            "pickle finds a class by its name in a module, so define the class at module level, not"
            " inside a function"
        )
        raise AssertionError(f"law 12: {error}; {remedy}") from error


def law_12_dtypes(method: Method, layer: nn.Module, seed: int = 0) -> None:
    """Adapters start in promote(base, float32), go to float64 with the model, and stay as they are
    below float32.

    In float64 they compute as exactly as it does, or as the dtype that they come from where
    `exact_in_float64 = False`.
    """
    dtype = _weight(layer).dtype
    for low in (torch.float16, torch.bfloat16):
        model = adapted(method, layer, seed)
        before = dict(copy.deepcopy(_layer(model).adapter).named_parameters())
        model.to(low)
        assert _layer(model).W0.dtype == low, (
            f"law 12: .to({low}) left the base in {_layer(model).W0.dtype}"
        )
        for name, parameter in _layer(model).adapter.named_parameters():
            assert before[name].dtype == torch.promote_types(dtype, torch.float32), (
                f"law 12: {name} starts in {before[name].dtype}"
            )
            _same_bits(
                parameter, before[name], f"law 12, adapter parameter {name} after .to({low})"
            )
        _check_dense(model, seed, None, f"law 12, forward after .to({low})")
    model = adapted(method, layer, seed).to(torch.float64)
    assert {p.dtype for p in (*model.parameters(), _layer(model).W0)} == {torch.float64}, (
        "law 12: .to(float64) left something behind"
    )
    tolerance = (
        0.0 if method.exact_in_float64 else TOLERANCE[torch.promote_types(dtype, torch.float32)]
    )
    _check_dense(model, seed, None, "law 12, forward after .to(float64)", tolerance)


def law_12_state_dict(method: Method, layer: nn.Module, seed: int = 0) -> None:
    """Merged, disabled or plain, the state dict has the same keys and bits; loading it into a
    merged model takes effect.
    """
    model, x = adapted(method, layer, seed), inputs(layer, seed)
    plain = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    if method.mergeable:
        _merge(model)
    merged = model.state_dict()
    assert list(merged) == list(plain), (
        f"law 12: keys of the merged state dict {list(merged)} are not {list(plain)}"
    )
    for name, tensor in plain.items():
        _same_bits(merged[name], tensor, f"law 12, state dict, {name}")
    with models.disabled(model):
        assert list(model.state_dict()) == list(plain), "law 12: disabled changes the state dict"
    other = adapted(method, layer, seed + 1)
    if method.mergeable:
        _merge(other)
    other.load_state_dict(plain)
    _same_bits(other(x), model(x), "law 12, load_state_dict into a merged model")


def law_12_compile(method: Method, layer: nn.Module, seed: int = 0) -> None:
    """torch.compile takes the layer as one graph, and output and gradients are those of the plain
    layer.
    """
    model, x = adapted(method, layer, seed), inputs(layer, seed)
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    expected, scale = _dense(model, x, None)
    dtype = _layer(model).W0.dtype
    actual = compiled(x)
    _close(_wide(actual), expected, scale, TOLERANCE[dtype], "law 12, compiled forward")
    parameters = [p for p in _layer(model).adapter.parameters() if p.numel()]
    gradients = zip(
        torch.autograd.grad(actual.float().sum(), parameters),
        torch.autograd.grad(model(x).float().sum(), parameters),
        strict=True,
    )
    for a, e in gradients:
        _close(
            _wide(a),
            _wide(e),
            max(1.0, np.abs(_wide(e)).max()),
            TOLERANCE[dtype],
            "law 12, compiled gradient",
        )


def law_12_tied(method: Method, layer: nn.Module, seed: int = 0) -> None:
    """A weight that another module uses is not merged: the error names both, and nothing is merged.

    Nothing to ask of a 4-bit layer, whose codes are its own, nor of an update that is never merged.
    """
    if "weight" not in layer._parameters or not method.mergeable:
        return
    model = nn.Sequential(copy.deepcopy(layer), copy.deepcopy(layer)).eval()
    model[1].weight = model[0].weight
    models.attach(model, method, ["0"])
    move(model, seed)
    try:
        _merge(model)
    except PerakitError as error:
        said = str(error)
    else:
        raise AssertionError("law 12: a tied weight was merged")
    assert "cannot merge layer '0'" in said, f"law 12: {said!r} does not name the layer"
    assert "shared with '1'" in said, f"law 12: {said!r} does not name the module it is tied to"
    assert model[0].merged is None, "law 12: merged in spite of the error"


def law_dropout(method: Method, layer: nn.Module, seed: int = 0) -> None:
    """Dropout drops inputs of the update only, and only in training: at ΔW = 0 nothing of it is
    seen.

    In training y = W0 x + b + ΔW z, z being x with entries zeroed and the others divided by 1 - p;
    checked on the identity matrix as input, where z is diagonal, so each row is W0 + b and either
    nothing or the update of x / (1 - p).
    """
    method, p = replace(method, dropout=0.5), 0.5
    model, start = (
        adapted(method, copy.deepcopy(layer).double(), seed),
        adapted(method, copy.deepcopy(layer).double(), seed, start=True),
    )
    n = _layer(model).W0.shape[1]
    # (40 n, n): all kept has chance 2^-40 at n = 1
    x = torch.eye(n, dtype=torch.float64).repeat(40, 1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        _same_bits(start.train()(x), start.eval()(x), "dropout: the base sees dropped inputs")
        kept_all, dropped = model.eval()(x / (1 - p)), model.train()(x)
    with models.disabled(model):
        base, update = model(x), (kept_all - model(x / (1 - p))).detach()
    moved = update.any(1)  # not where W0 has a column of zeros, and the update its pattern
    if not moved.any():
        return  # law 2 asks for an update
    base, update, dropped = base[moved], update[moved], dropped[moved]
    factor = ((dropped - base) * update).sum(1) / update.square().sum(1)  # 0 or 1
    close = torch.isclose(factor, factor.round().clamp(0, 1), rtol=0, atol=1e-8)
    assert close.all(), (
        f"dropout: shares of the update at x / (1 - p) are {factor.unique().tolist()}, not 0 or 1"
    )
    assert 0 < factor.round().count_nonzero() < len(factor), (
        "dropout: in training nothing, or everything, is dropped"
    )


def law_sum(
    method: Method, layer: nn.Module, seed: int = 0, formula: Formula | None = None
) -> None:
    """Beside a LoRA, in either order: the output is W0 x + b and the two updates, each as if alone;
    merged, it is the same.

    The first of the active adapters computes the layer, its `forward` given the `contribution` of
    the others.
    """
    method, beside = _scaled(method), LoRA(rank=2, alpha=6)
    model = nn.Sequential(copy.deepcopy(layer)).eval()
    x, alone = inputs(layer, seed), list[tuple[np.ndarray, np.ndarray]]()
    for name, one in (("a", beside), ("b", method)):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            models.attach(model, one, ["0"], name=name)
        move(model, seed + len(alone))
        alone.append(_dense(model, x, formula if name == "b" else None))
    (one_y, one_scale), (other_y, other_scale) = alone
    base, bare = _dense_base(_layer(model), x)
    expected, scale, tolerance = (
        one_y + other_y - base,
        one_scale + other_scale - bare,
        TOLERANCE[_weight(layer).dtype],
    )
    for order in (("a", "b"), ("b", "a")):
        models.activate(model, *order)
        law = f"sum, {' + '.join((beside if name == 'a' else method).name for name in order)}"
        _close(
            _wide(model(x)),
            expected,
            scale,
            tolerance,
            f"{law} (contribution(), or others in forward()?)",
        )
        if method.mergeable:
            _merge(model)
            _close(_wide(model(x)), expected, scale, tolerance, f"{law}, merged")
            models.unmerge(model)


def _check_refused(model: nn.Sequential, layer: nn.Module, seed: int) -> None:
    """Laws 4 and 5 of an update that is no matrix: whatever needs ΔW is refused with the reason,
    and nothing has changed.
    """
    x, state = (
        inputs(layer, seed),
        {name: tensor.clone() for name, tensor in model.state_dict().items()},
    )
    before = model(x)
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "export"
        needs_delta: dict[str, Callable[[], Any]] = {
            "merge": lambda: _merge(model),
            "bake": lambda: models.bake(model, dequantize=True),
            "delta_weights": lambda: models.delta_weights(model),
            "the weight in effect": lambda: _layer(model).weight,
            "export": lambda: models.export_peft(model, target),
        }
        for what, call in needs_delta.items():
            said = "nothing: it is done"
            try:
                call()
            except PerakitError as error:
                said = str(error)
            assert "in the input" in said, (
                f"law 4: {what} of an update that is no matrix must be refused with the reason, not"
                f" {said!r}"
            )
        assert not target.exists(), "law 4: the refused export left files"
    assert isinstance(model[0], AdaptedLayer), "law 4: a refusal took the adapter off"
    assert model[0].merged is None, "law 4: a refusal left something merged"
    _same_bits(model(x), before, "law 4, after the refusals")
    for name, tensor in model.state_dict().items():
        _same_bits(tensor, state[name], f"law 4, after the refusals, {name}")


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
    law_sum,
)
WITH_FORMULA = (law_3_dense_forward, law_4_merge, law_9_dense_gradients, law_10_readings, law_sum)


def assert_adapter_laws(
    method: Method | type[Method] | type[Adapter],
    formula: Formula | None = None,
    seed: int = 0,
    compiled: bool = True,
) -> None:
    """Every law on every layer kind and dtype, for one method; and on layers with one row, one
    column, no bias, or zeros.

    method: `MyMethod(rank=2)`, with the options to test; or the class `MyMethod`, which is tested
    at rank 2 with its defaults; or the class `MyAdapter`, which stands for the one registered
    method that names it as its `adapter` (of methods that derive from one another the last), at
    rank 2. formula: ΔW as a function (method, parameters, W0), scale included, of any arrays;
    without one the laws that need a second opinion compare the layer with its own `delta` and the
    method's `update`. seed: of layers, inputs and factors. compiled: False leaves out
    torch.compile, the slow one.

    Takes a few seconds. Raises AssertionError at the first law that is broken, with the law, the
    layer and the dtype; PerakitError where no method, or more than one, is meant.
    """
    method = _method_of(method)
    for where, layer in _layers(seed):
        for law in LAWS:
            if law is law_12_compile and not (compiled and where.endswith(", torch.float32")):
                continue
            options = {"formula": formula} if law in WITH_FORMULA else {}
            try:
                law(method, layer, seed, **options)
            # a wrong adapter fails anywhere: say where, and keep what it said
            except Exception as error:
                raise AssertionError(
                    f"{law.__name__} on {where}: {type(error).__name__}: {error}"
                ) from error


def _method_of(given: Any) -> Method:
    """The method that `assert_adapter_laws` was given: itself, its class at rank 2, or that of an
    adapter's class.
    """
    if isinstance(given, Method):
        return given
    if isinstance(given, type) and issubclass(given, Adapter):
        given = _method_with(given)
    if not isinstance(given, type) or not issubclass(given, Method) or given is Method:
        raise PerakitError(
            f"method={short(given)} is not a method: pass one such as MyMethod(rank=2), or its"
            " class, or its adapter's"
        )
    try:
        return given(rank=2)
    except (TypeError, PerakitError) as error:
        raise PerakitError(
            f"{given.__name__}(rank=2) is refused ({error}): pass the method itself,"
            f" {given.__name__}(...)"
        ) from error


def _method_with(adapter: type[Adapter]) -> type[Method]:
    """The one registered method that makes such adapters, and from which no other of them
    derives.
    """
    makers = [cls for cls in Method.registry.values() if getattr(cls, "adapter", None) is adapter]
    last = [
        cls
        for cls in makers
        if not any(other is not cls and issubclass(other, cls) for other in makers)
    ]
    if not last:
        raise PerakitError(
            f"no method makes {adapter.__name__}: define one, class MyMethod(perakit.Method) with"
            f" adapter = {adapter.__name__}"
        )
    if len(last) > 1:
        names = listed([cls.__name__ for cls in last])
        raise PerakitError(
            f"{adapter.__name__} is the adapter of {names}: pass the method that is meant,"
            f" {last[0].__name__}(rank=2)"
        )
    return last[0]


def _layers(seed: int) -> Iterator[tuple[str, nn.Module]]:
    """Every kind x dtype at 5 x 3; then, of two dtypes, the layers at the edge."""
    for kind, dtype in product(LAYERS, DTYPES):
        yield f"a 5 x 3 {kind}, {dtype}", make_layer(kind, 5, 3, True, dtype, seed)
    for dtype in (torch.float64, torch.bfloat16):
        for m, n in ((1, 3), (3, 1)):
            yield f"a {m} x {n} Linear, {dtype}", make_layer("Linear", m, n, True, dtype, seed)
        yield (
            f"a 5 x 3 Linear without bias, {dtype}",
            make_layer("Linear", 5, 3, False, dtype, seed),
        )
        zeros = make_layer("Linear", 5, 3, True, dtype, seed)
        with torch.no_grad():
            zeros.get_parameter("weight")[1] = 0
            zeros.get_parameter("weight")[:, 2] = 0
        yield f"a 5 x 3 Linear with a row and a column of zeros, {dtype}", zeros
