"""Hypothesis strategies for the objects of this field, to import into your own tests.

from hypothesis import given
from perakit import strategies

@given(strategies.factors())
def test_my_formula(factors):
    B, A, h = factors

Every bound is in the strategy and in its docstring, none in an `assume`. Large tensors are drawn by (shape, seed),
not entry by entry: a seed says more in a failure report than a thousand numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import nn

from perakit import formulas
from perakit.adapters import Method
from perakit.adapters.base import INITS, SCALINGS
from perakit.models import adapters
from perakit.models.quantize import NF4, NF4Layer
from perakit.toy.gpt2 import Conv1D

SIZES = (1, 2, 3, 5, 7, 11)
# Never square, so that no transposed product fits by accident; except 1 x 1, the smallest layer there is.
SHAPES = sorted(((m, n) for m in SIZES for n in SIZES if m != n or m == 1), key=lambda shape: (shape[0] * shape[1], shape))
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)

# What a method takes besides the arguments of `Method`. A registered method that is not here is drawn with its defaults.
# Powers of two as feature scale: exact in any binary float, so that exact readings stay comparable.
OPTIONS: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "pera": {
        "terms": st.sampled_from(formulas.TERMS),
        "degree": st.sampled_from((2, 3)),
        "feature_scale": st.sampled_from((1.0, 0.5, 8.0)),
    },
    "delora": {"lam": st.sampled_from((15.0, 1.0))},
    "mora": {"init": st.just(INITS[0])},
    "quadratic": {"init": st.just(INITS[0])},
}


def seeds() -> st.SearchStrategy[int]:
    """A seed for `torch.Generator`: 0 ... 2^16 - 1, shrinks to 0."""
    return st.integers(0, 2**16 - 1)


def shapes(max_rank: int = 4) -> st.SearchStrategy[tuple[int, int, int]]:
    """(m, n, r): a layer that cannot lie, and a rank.

    m and n are 1 or a prime up to 11, never equal but at 1 x 1; r is 1 ... max_rank, also above min(m, n). Shrinks to (1, 1, 1).
    """
    return st.tuples(st.sampled_from(SHAPES), st.integers(1, max_rank)).map(lambda drawn: (*drawn[0], drawn[1]))


@st.composite
def factors(
    draw: st.DrawFn,
    shape: st.SearchStrategy[tuple[int, int, int]] | None = None,
    terms: str = "full",
    degree: int = 2,
    integers: bool = False,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(B (m, r), A (r, n), h (K - r,)) of a PERA update, as NumPy arrays drawn entry by entry.

    shape: strategy of (m, n, r), by default `shapes()`; terms, degree: as in `formulas.pera`; they set the length of h.
    integers: False draws float64 in [-10, 10] without subnormals, wide enough to find errors and too narrow to overflow;
    True draws int64 in -3 ... 3, for which every update is exact. Entries shrink to 0.
    """
    m, n, rank = draw(shapes() if shape is None else shape)
    count = formulas.rank_bound(rank, terms, degree) - rank
    entries: st.SearchStrategy[Any] = st.integers(-3, 3) if integers else st.floats(-10, 10, allow_subnormal=False)
    dtype = np.int64 if integers else np.float64
    B, A, h = (draw(hnp.arrays(dtype, size, elements=entries)) for size in ((m, rank), (rank, n), (count,)))
    return B, A, h


@st.composite
def methods(draw: st.DrawFn, *names: str, max_rank: int = 4, dropout: Sequence[float] = (0.0, 0.5)) -> Method:
    """A method: `LoRA(...)`, `PERA(...)`, or any other that is registered when the example is drawn.

    names: registered names to draw from, by default all, so that a new method is tested by itself; max_rank: ranks are
    1 ... max_rank; alpha is None, 1, 0.5 or 8; dropout: the values to draw from. Shrinks to rank 1 and the defaults.
    """
    cls = Method.registry[draw(st.sampled_from(names or sorted(Method.registry)))]
    common: dict[str, st.SearchStrategy[Any]] = {
        "rank": st.integers(1, max_rank),
        "alpha": st.sampled_from((None, 1, 0.5, 8.0)),
        "scaling": st.sampled_from(SCALINGS),
        "dropout": st.sampled_from(tuple(dropout)),
        "init": st.sampled_from(INITS),
    }
    for parent in reversed(cls.__mro__[:-1]):  # a method that derives from another takes its options too
        common |= OPTIONS.get(getattr(parent, "name", ""), {})
    return draw(st.builds(cls, **common))


def _linear(m: int, n: int, bias: bool) -> nn.Module:
    return nn.Linear(n, m, bias=bias)


def _conv1d(m: int, n: int, bias: bool) -> nn.Module:
    return Conv1D(m, n)


# Name -> how to make a layer of that kind from (m, n, bias). Conv1D always has a bias; NF4 is a Linear put into 4 bits.
LAYERS: dict[str, Callable[[int, int, bool], nn.Module]] = {"Linear": _linear, "Conv1D": _conv1d, "NF4": _linear}


def make_layer(
    kind: str | Callable[[int, int, bool], nn.Module], m: int, n: int, bias: bool = True, dtype: torch.dtype = torch.float32, seed: int = 0
) -> nn.Module:
    """A layer x (..., n) -> (..., m) with weights N(0, 1/n) and bias N(0, 1) from `seed`: the same on every call.

    NF4 rounds those weights to 4 bits.
    kind: a name in `LAYERS`, or a constructor (m, n, bias) -> module, for example of transformers' Conv1D.
    """
    with torch.random.fork_rng(devices=[]):  # constructors draw weights of their own
        layer = (LAYERS[kind] if isinstance(kind, str) else kind)(m, n, bias)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / (n**0.5 if name == "weight" else 1.0))
    layer = layer.to(dtype)
    return NF4Layer.of(layer, NF4()) if kind == "NF4" else layer


def layers(
    kinds: Sequence[str | Callable[[int, int, bool], nn.Module]] = tuple(LAYERS), dtypes: Sequence[torch.dtype] = DTYPES
) -> st.SearchStrategy[nn.Module]:
    """A bare layer of one of `kinds` and `dtypes`, of a shape of `shapes()`, with and without bias, entries by seed.

    Shrinks to a 1 x 1 layer of the first kind and dtype.
    """

    def build(kind: Any, shape: tuple[int, int], bias: bool, dtype: torch.dtype, seed: int) -> nn.Module:
        return make_layer(kind, *shape, bias, dtype, seed)

    return st.builds(build, st.sampled_from(tuple(kinds)), st.sampled_from(SHAPES), st.booleans(), st.sampled_from(tuple(dtypes)), seeds())


def move(model: nn.Module, seed: int = 0, size: float = 0.3) -> nn.Module:
    """Put every adapter parameter of `model` off its initial value, from `seed`; returns the model.

    Magnitudes are uniform in [size/2, 3 size/2], signs random: no entry near zero, so the update differs from none and
    from LoRA's, and none large, so float tolerances mean what they say. A method's start (B = 0, h = 0) tests nothing.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for adapter in adapters(model).values():
            for parameter in adapter.parameters():
                magnitude = size * (0.5 + torch.rand(parameter.shape, generator=generator))
                sign = 2 * torch.randint(0, 2, parameter.shape, generator=generator) - 1
                parameter.copy_(sign * magnitude)
    return model
