"""When two results count as equal: to a tolerance that comes from the dtype, or to the last bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

# Largest error, as a share of the scale of the output: |x| (|W0| + |ΔW|) + |b|. About 100 units in
# the last place for float64 with room for sums, 5 for the half precisions, in which the base alone
# already rounds.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 4e-2, torch.float16: 5e-3}


def wide(tensor: Tensor) -> np.ndarray:
    """The tensor as float64 NumPy: a copy, since what training moves must not move it."""
    return tensor.detach().to("cpu", torch.float64, copy=True).numpy()


def largest(array: np.ndarray) -> float:
    """The largest size of an entry, 1 at least: the scale of gradients and of readings."""
    return max(1.0, np.abs(array).max(initial=0.0))


def close(actual: Any, expected: Any, scale: Any, tolerance: float, law: str) -> None:
    """Same shape, and no entry further off than `tolerance` times the largest of `scale`."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape, f"{law}: shape {actual.shape}, expected {expected.shape}"
    if expected.size:
        error, bound = np.abs(actual - expected).max(), tolerance * np.max(scale)
        assert error <= bound, (
            f"{law}: error {error:.3g} above {bound:.3g}\ngot {actual}\nexpected {expected}"
        )


def same_bits(a: Tensor, b: Tensor, law: str) -> None:
    """Same dtype, shape and entries, with nothing allowed for rounding."""
    assert a.dtype == b.dtype, f"{law}: {a.dtype} is not {b.dtype}"
    if torch.equal(a, b):
        return
    a, b = a.detach(), b.detach()
    much = "shapes differ"
    if a.shape == b.shape:
        much = f"{int((a != b).sum())} of {a.numel()} entries differ, by up to"
        much += f" {(a - b).abs().max():.3g}"
    raise AssertionError(f"{law}: {much}\n{a}\n{b}")
