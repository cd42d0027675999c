"""Laws 4, 5 and 6: merged is unmerged, the way back is bitwise, and twice is once."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from perakit import models
from perakit.adapters import Method
from perakit.errors import PerakitError
from perakit.laws.cases import INPUTS, adapted, adapted_layer, inputs, merge, scaled, weight
from perakit.laws.comparing import TOLERANCE, same_bits, wide
from perakit.laws.dense import check_dense, expected_delta
from perakit.laws.oracles import Formula
from perakit.models.adapted import AdaptedLayer


def law_4_merge(
    method: Method, layer: nn.Module, seed: int = 0, formula: Formula | None = None
) -> None:
    """Law 4: merged and unmerged outputs agree.

    The merged weight is W0 + ΔW, formed in float64 (off the CPU, in float32 at least) and rounded
    once. An update that is no matrix cannot be merged: whatever needs its ΔW is refused.
    """
    model = adapted(scaled(method), layer, seed)
    if not method.mergeable:
        _check_refused(model, layer, seed)
        return
    merge(model)
    check_dense(model, seed, formula, "law 4, merged = unmerged")
    _check_rounded_once(model, formula)


def law_5_restore(method: Method, layer: nn.Module, seed: int = 0) -> None:
    """Law 5: unmerge is bitwise the state before merge; disabled is bitwise the bare layer.

    Disabled is so merged or not. W0 keeps its bits.
    """
    model, W0 = adapted(method, layer, seed), weight(layer)
    for leading in INPUTS:
        x = inputs(layer, seed, leading)
        base, before = layer(x), model(x)
        with models.disabled(model):
            same_bits(model(x), base, "law 5, disabled restores")
        if method.mergeable:
            merge(model)
            with models.disabled(model):
                same_bits(model(x), base, "law 5, disabled restores, merged")
        models.unmerge(model)
        same_bits(model(x), before, "law 5, unmerge restores")
        same_bits(adapted_layer(model).W0, W0, "law 5, W0 after unmerge")


def law_6_idempotent(method: Method, layer: nn.Module, seed: int = 0) -> None:
    """Law 6: a second merge, a second unmerge and a nested disabled change nothing."""
    model, x = adapted(method, layer, seed), inputs(layer, seed)
    before = merged = model(x)
    if method.mergeable:
        merge(model)
        merged = model(x)
        merge(model)
    same_bits(model(x), merged, "law 6, merge twice")
    with models.disabled(model):
        with models.disabled(model):
            same_bits(model(x), layer(x), "law 6, disabled twice")
        same_bits(model(x), layer(x), "law 6, after the inner disabled")
    same_bits(model(x), merged, "law 6, after disabled")
    models.unmerge(model)
    models.unmerge(model)
    same_bits(model(x), before, "law 6, unmerge twice")


def _check_rounded_once(model: nn.Sequential, formula: Formula | None) -> None:
    """No entry of the merged weight is further from W0 + ΔW than one rounding can put it.

    Off the CPU, where the sum is formed in float32 (`exact_delta`), than two can.
    """
    layer = adapted_layer(model)
    assert layer.merged is not None, "law 4: merge merged nothing"
    W0, delta = wide(layer.W0), expected_delta(model, formula)
    total = np.abs(W0 + delta)
    limits = torch.finfo(layer.W0.dtype)
    # Half a unit in the last place, or a little more
    half = limits.eps / 2 * np.maximum(total, limits.tiny)
    room = 1e-14 * (np.abs(W0).max() + np.abs(delta).max())  # float64 sums in another order
    if layer.W0.device.type != "cpu":
        wider = torch.promote_types(layer.W0.dtype, torch.float32)
        room = room + TOLERANCE[wider] * (np.abs(W0).max() + np.abs(delta).max())
    if not layer.adapter.method.exact_in_float64:
        # DoRA divides by a row length that is rounded to its magnitude's dtype, also when merging,
        # or a start that the magnitude holds in that dtype would not be a no-op: half an eps of W0
        # + ΔW, which is proportional to one over the length; and a little more.
        room = room + torch.finfo(next(layer.adapter.parameters()).dtype).eps * total
    error = np.abs(wide(layer.merged) - (W0 + delta))
    assert (error <= half + room).all(), (
        f"law 4: merging rounded more than once, error {error.max():.3g} against {half.max():.3g}"
    )


def _check_refused(model: nn.Sequential, layer: nn.Module, seed: int) -> None:
    """Laws 4 and 5 of an update that is no matrix: whatever needs ΔW is refused.

    The error says the reason, and nothing has changed.
    """
    x = inputs(layer, seed)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    before = model(x)
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "export"
        needs_delta: dict[str, Callable[[], Any]] = {
            "merge": lambda: merge(model),
            "bake": lambda: models.bake(model, dequantize=True),
            "delta_weights": lambda: models.delta_weights(model),
            "the weight in effect": lambda: adapted_layer(model).weight,
            "export": lambda: models.export_peft(model, target),
        }
        for what, call in needs_delta.items():
            said = _refusal(call)
            assert "in the input" in said, (
                f"law 4: {what} of an update that is no matrix must be refused with the reason, not"
                f" {said!r}"
            )
        assert not target.exists(), "law 4: the refused export left files"
    assert isinstance(model[0], AdaptedLayer), "law 4: a refusal took the adapter off"
    assert model[0].merged is None, "law 4: a refusal left something merged"
    same_bits(model(x), before, "law 4, after the refusals")
    for name, tensor in model.state_dict().items():
        same_bits(tensor, state[name], f"law 4, after the refusals, {name}")


def _refusal(call: Callable[[], Any]) -> str:
    """What the call says when it refuses."""
    try:
        call()
    except PerakitError as error:
        return str(error)
    return "nothing: it is done"
