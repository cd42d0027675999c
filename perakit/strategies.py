"""Hypothesis strategies for the objects of this field, to import into your own tests.

from hypothesis import given
from perakit import strategies

@given(strategies.factors())
def test_my_formula(factors):
    B, A, h = factors

Every bound is in the strategy and in its docstring, none in an `assume`. Large tensors are drawn by
(shape, seed), not entry by entry: a seed says more in a failure report than a thousand numbers.
Arguments are checked where a strategy is made; names of methods where an example is drawn, since
methods may be registered in between.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor, nn

from perakit import families, formulas
from perakit.adapters import Method
from perakit.adapters.base import INITS, SCALINGS, check_positive
from perakit.errors import PerakitError, short
from perakit.formulas import check_count
from perakit.models import adapters, attach
from perakit.models.adapted import require_adapters
from perakit.models.gpt2 import GPT2, Config, Conv1D
from perakit.models.quantize import NF4, NF4Layer

SIZES = (1, 2, 3, 5, 7, 11)
# Never square, so that no transposed product fits by accident; except 1 x 1, the smallest layer
# there is.
SHAPES = sorted(
    ((m, n) for m in SIZES for n in SIZES if m != n or m == 1),
    key=lambda shape: (shape[0] * shape[1], shape),
)
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
MODELS = ("mlp", "gpt2")
TARGETS = ("zeros", "identity", "low rank", "full rank", "pera", "power law")

# What a method takes besides the arguments of `Method`. A registered method that is not here is
# drawn with its defaults. Powers of two as feature scale: exact in any binary float, so that exact
# readings stay comparable.
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

Shapes = st.SearchStrategy[tuple[int, int, int]]
Kind = str | Callable[[int, int, bool], nn.Module]


# --- numbers --------------------------------------------------------------------------------------


def seeds() -> st.SearchStrategy[int]:
    """A seed for `torch.Generator`: 0 ... 2^16 - 1, shrinks to 0.

    >>> from hypothesis import find
    >>> from perakit import strategies
    >>> find(strategies.seeds(), lambda seed: seed > 3)
    4
    """
    return st.integers(0, 2**16 - 1)


def shapes(max_rank: int = 4) -> Shapes:
    """(m, n, r): a layer that cannot lie, and a rank.

    m and n are 1 or a prime up to 11, never equal but at 1 x 1; r is 1 ... max_rank, also above
    min(m, n). Shrinks to (1, 1, 1).

    >>> from hypothesis import find
    >>> from perakit import strategies
    >>> find(strategies.shapes(), lambda shape: shape[0] * shape[1] > 20)
    (3, 7, 1)
    """
    check_count("max_rank", max_rank)
    return st.tuples(st.sampled_from(SHAPES), st.integers(1, max_rank)).map(
        lambda drawn: (*drawn[0], drawn[1])
    )


def _array(shape: tuple[int, ...], integers: bool) -> st.SearchStrategy[np.ndarray]:
    """Entries one by one: float64 in [-10, 10], or int64 in -3 ... 3."""
    if integers:
        return hnp.arrays(np.int64, shape, elements=st.integers(-3, 3))
    return hnp.arrays(np.float64, shape, elements=st.floats(-10, 10, allow_subnormal=False))


def coefficients(
    rank: int, terms: str = "full", degree: int = 2, integers: bool = False
) -> st.SearchStrategy[np.ndarray]:
    """h (K - r,): a coefficient for each product of a PERA update, in `formulas.monomials`' order.

    rank, terms, degree: as in `formulas.pera`; none for "cross" at rank 1, an array (0,). integers:
    as in `factors`.
    Shrinks to zeros, which make PERA a LoRA.

    >>> from hypothesis import find
    >>> from perakit import strategies
    >>> find(strategies.coefficients(rank=2, integers=True), lambda h: True)
    array([0, 0, 0])
    """
    count = formulas.rank_bound(rank, terms, degree) - rank
    _check_flag("integers", integers)
    return _array((count,), integers)


def factors(
    shape: Shapes | None = None, terms: str = "full", degree: int = 2, integers: bool = False
) -> st.SearchStrategy[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(B (m, r), A (r, n), h (K - r,)) of a PERA update, as NumPy arrays drawn entry by entry.

    shape: strategy of (m, n, r), by default `shapes()`; terms, degree: as in `formulas.pera`; they
    set the length of h.
    integers: False draws float64 in [-10, 10] without subnormals, wide enough to find errors and
    too narrow to overflow; True draws int64 in -3 ... 3, for which every update is exact. Shrinks
    to the smallest shape, and to zeros.

    >>> from hypothesis import find
    >>> from perakit import strategies
    >>> B, A, h = find(strategies.factors(integers=True), lambda drawn: drawn[0].any())
    >>> B.tolist(), A.tolist(), h.tolist()
    ([[1]], [[0]], [0])
    """
    formulas.rank_bound(1, terms, degree)
    _check_flag("integers", integers)
    return _factors(_shape_strategy(shape), terms, degree, integers)


@st.composite
def _factors(
    draw: st.DrawFn, shape: Shapes, terms: str, degree: int, integers: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    m, n, rank = draw(shape)
    B, A = (draw(_array(size, integers)) for size in ((m, rank), (rank, n)))
    return B, A, draw(coefficients(rank, terms, degree, integers))


def targets(
    *kinds: str, shape: Shapes | None = None, integers: bool = False
) -> st.SearchStrategy[np.ndarray]:
    """A matrix E (m, n) to approximate, of one of `kinds`; by default of any.

    "zeros"; "identity": c on the diagonal, c = ±1, ±2 or ±3; "low rank": X Y with X (m, k), Y (k,
    n), k <= r; "full rank": L U with ones on the diagonals of L (m, k) and U (k, n), k = min(m, n),
    so of rank k, shrinks to ones on a diagonal; "pera": made by integer factors of rank r, every
    `terms`, degree 2 or 3; "power law": σ_k = k^-p, p = 1, 0.5 or 2, in random orthogonal bases.
    All but the last have whole entries, made of entries in -3 ... 3: float64 holds them exactly.

    shape: strategy of (m, n, r), by default `shapes()`. integers: False draws float64; True int64,
    for exact arithmetic, and leaves "power law" out. Shrinks to [[0]], where a kind has it, else to
    [[1]].

    >>> from hypothesis import find
    >>> from perakit import strategies
    >>> find(strategies.targets("identity", integers=True), lambda E: E.size == 6)
    array([[1, 0, 0],
           [0, 1, 0]])
    """
    _check_flag("integers", integers)
    _check_names("kind", kinds, TARGETS)
    chosen = [kind for kind in kinds or TARGETS if not (integers and kind == "power law")]
    if not chosen:
        raise PerakitError("kinds=('power law',) has no whole entries: leave integers=True out")
    return _targets(
        st.sampled_from(chosen),
        _shape_strategy(shape),
        np.dtype(np.int64 if integers else np.float64),
    )


@st.composite
def _targets(
    draw: st.DrawFn, kinds: st.SearchStrategy[str], shape: Shapes, dtype: np.dtype[Any]
) -> np.ndarray:
    kind, (m, n, rank) = draw(kinds), draw(shape)
    k = min(m, n)
    if kind == "power law":
        power, generator = (
            draw(st.sampled_from((1.0, 0.5, 2.0))),
            np.random.default_rng(draw(seeds())),
        )
        U, V = (np.linalg.qr(generator.normal(size=(size, k)))[0] for size in (m, n))
        return (U * np.arange(1.0, k + 1) ** -power) @ V.T  # (m, k) @ (k, n)
    if kind == "pera":
        terms, degree = draw(st.sampled_from(formulas.TERMS)), draw(st.sampled_from((2, 3)))
        E = formulas.pera(
            *draw(factors(st.just((m, n, rank)), terms, degree, integers=True)), terms, degree
        )
    elif kind == "full rank":
        L, U = draw(_array((m, k), True)), draw(_array((k, n), True))
        E = (np.tril(L, -1) + np.eye(m, k, dtype=np.int64)) @ (
            np.triu(U, 1) + np.eye(k, n, dtype=np.int64)
        )
    elif kind == "low rank":
        low = draw(st.integers(1, min(k, rank)))
        E = draw(_array((m, low), True)) @ draw(_array((low, n), True))
    else:
        E = np.eye(m, n) * (0 if kind == "zeros" else draw(st.sampled_from((1, -1, 2, -2, 3, -3))))
    return E.astype(dtype)


# --- methods and rules ----------------------------------------------------------------------------


@st.composite
def _methods(
    draw: st.DrawFn, names: tuple[str, ...], max_rank: int, dropout: tuple[float, ...]
) -> Method:
    _check_names("method", names, Method.registry)
    cls = Method.registry[draw(st.sampled_from(names or sorted(Method.registry)))]
    common: dict[str, st.SearchStrategy[Any]] = {
        "rank": st.integers(1, max_rank),
        "alpha": st.sampled_from((None, 1, 0.5, 8.0)),
        "scaling": st.sampled_from(SCALINGS),
        "dropout": st.sampled_from(dropout),
        "init": st.sampled_from(INITS),
    }
    # a method that derives from another takes its options too
    for parent in reversed(cls.__mro__[:-1]):
        common |= OPTIONS.get(getattr(parent, "name", ""), {})
    return draw(st.builds(cls, **common))


def methods(
    *names: str, max_rank: int = 4, dropout: Sequence[float] = (0.0, 0.5)
) -> st.SearchStrategy[Method]:
    """A method: `LoRA(...)`, `PERA(...)`, or any other that is registered when it is drawn.

    names: registered names to draw from, by default all, so that a new method is tested by itself;
    max_rank: ranks are 1 ... max_rank; alpha is None, 1, 0.5 or 8; dropout: the values to draw
    from. One name shrinks to rank 1, the first dropout and the defaults; of several the one with
    the fewest options is taken for the smallest.

    >>> from hypothesis import find
    >>> from perakit import strategies
    >>> find(strategies.methods("lora"), lambda method: method.rank > 1).rank
    2
    """
    check_count("max_rank", max_rank)
    if isinstance(dropout, str) or not isinstance(dropout, Sequence) or not dropout:
        raise PerakitError(
            f"dropout={short(dropout)} must be a sequence of values to draw from: pass (0.0,) for"
            " none"
        )
    return _methods(names, max_rank, tuple(dropout))


def rules(*names: str, max_rank: int = 2) -> st.SearchStrategy[families.Family]:
    """A family of updates, as the probes of `perakit.theory` take it: `measured_rank(m, n, rule)`.

    "lora" and "pera" are bare `theory.Formula`s, PERA with every `terms` and degree 2 or 3; another
    name is that registered method, unscaled, with its defaults. names: by default all whose update
    is a matrix. max_rank: ranks are 1 ... max_rank; the probes want r <= min(m, n). One name
    shrinks to rank 1, and PERA to "full" terms of degree 2.

    >>> from hypothesis import find
    >>> from perakit import strategies
    >>> find(strategies.rules("lora"), lambda rule: True).shapes(3, 2)
    {'B': (3, 1), 'A': (1, 2)}
    """
    check_count("max_rank", max_rank)
    return _rules(names, st.integers(1, max_rank))


@st.composite
def _rules(
    draw: st.DrawFn, names: tuple[str, ...], ranks: st.SearchStrategy[int]
) -> families.Family:
    matrices = sorted(name for name, cls in Method.registry.items() if cls.mergeable)
    _check_names("rule", names, matrices)
    name = draw(st.sampled_from(names or matrices))
    if name == "lora":
        return draw(st.builds(families.pera, ranks, terms=st.just("none")))
    if name == "pera":
        return draw(
            st.builds(
                families.pera,
                ranks,
                terms=OPTIONS["pera"]["terms"],
                degree=OPTIONS["pera"]["degree"],
            )
        )
    return draw(st.builds(Method.registry[name], ranks))


# --- layers and models ----------------------------------------------------------------------------


def _linear(m: int, n: int, bias: bool) -> nn.Module:
    return nn.Linear(n, m, bias=bias)


def _conv1d(m: int, n: int, bias: bool) -> nn.Module:
    return Conv1D(m, n)


# Name -> how to make a layer of that kind from (m, n, bias). Conv1D always has a bias; NF4 is a
# Linear put into 4 bits.
LAYERS: dict[str, Callable[[int, int, bool], nn.Module]] = {
    "Linear": _linear,
    "Conv1D": _conv1d,
    "NF4": _linear,
}


def make_layer(
    kind: Kind, m: int, n: int, bias: bool = True, dtype: torch.dtype = torch.float32, seed: int = 0
) -> nn.Module:
    """A layer x (..., n) -> (..., m), the same on every call.

    Weights N(0, 1/n) and bias N(0, 1) come from `seed`. NF4 rounds those weights to 4 bits.
    kind: a name in `LAYERS`, or a constructor (m, n, bias) -> module, for example of transformers'
    Conv1D.

    >>> from perakit import strategies
    >>> strategies.make_layer("Linear", 3, 5)
    Linear(in_features=5, out_features=3, bias=True)
    """
    _check_kinds((kind,))
    _check_dtypes((dtype,))
    for name, size in (("m", m), ("n", n)):
        check_count(name, size)
    with torch.random.fork_rng(devices=[]):  # constructors draw weights of their own
        layer = (LAYERS[kind] if isinstance(kind, str) else kind)(m, n, bias)
    _fill(layer, n, torch.Generator().manual_seed(seed))
    layer = layer.to(dtype)
    return NF4Layer.of(layer, NF4()) if kind == "NF4" else layer


@torch.no_grad()
def _fill(layer: nn.Module, n: int, generator: torch.Generator) -> None:
    """Weights N(0, 1/n), biases N(0, 1)."""
    for name, parameter in layer.named_parameters():
        parameter.copy_(
            torch.randn(parameter.shape, generator=generator)
            / (n**0.5 if name == "weight" else 1.0)
        )


def layers(
    kinds: Sequence[Kind] = tuple(LAYERS), dtypes: Sequence[torch.dtype] = DTYPES
) -> st.SearchStrategy[nn.Module]:
    """A bare layer of one of `kinds` and `dtypes`, of a shape of `shapes()`, with and without bias.

    Entries by seed. Shrinks to 1 x 1, the first kind and dtype, no bias where it can be.

    >>> from hypothesis import find
    >>> from perakit import strategies
    >>> find(strategies.layers(), lambda layer: True)
    Linear(in_features=1, out_features=1, bias=False)
    """
    _check_kinds(kinds)
    _check_dtypes(dtypes)

    def build(
        kind: Any, shape: tuple[int, int], bias: bool, dtype: torch.dtype, seed: int
    ) -> nn.Module:
        return make_layer(kind, *shape, bias, dtype, seed)

    return st.builds(
        build,
        st.sampled_from(tuple(kinds)),
        st.sampled_from(SHAPES),
        st.booleans(),
        st.sampled_from(tuple(dtypes)),
        seeds(),
    )


def models(
    *kinds: str,
    method: st.SearchStrategy[Method] | None = None,
    dtypes: Sequence[torch.dtype] = (torch.float32, torch.float64),
) -> st.SearchStrategy[tuple[nn.Module, Tensor]]:
    """(model, x): a small model in eval mode, and an input that it takes.

    "mlp": 1 to 3 Linear layers with tanh between them, widths prime and never equal to their
    neighbour's, with or without bias, x (3, n); "gpt2": a `perakit.toy` GPT-2 of 1 or 2 blocks and
    heads, 3 or 5 wide a head, 13 tokens, x (2, T) token ids, T = 1, 3 or 5, whose Conv1D layers are
    (3d, d), (d, d), (4d, d), (d, 4d). Weights N(0, 1/n), biases N(0, 1), by seed; embeddings as
    GPT-2's.

    kinds: by default both. method: None draws bare models; a strategy, `methods("pera")`, puts a
    drawn method on every layer but the output head, and moves its parameters off their start by
    `move`, so that ΔW is not zero. dtypes: of the whole model.
    Shrinks to the first kind, "mlp" to one Linear 2 -> 3 without bias, "gpt2" to one block with one
    head of width 3.

    >>> from hypothesis import find
    >>> from perakit import strategies
    >>> model, x = find(strategies.models("mlp"), lambda drawn: True)
    >>> x.shape, model(x).shape
    (torch.Size([3, 2]), torch.Size([3, 3]))
    """
    _check_names("kind", kinds, MODELS)
    _check_dtypes(dtypes)
    if method is not None and not isinstance(method, st.SearchStrategy):
        raise PerakitError(
            f"method={short(method)} is no strategy: pass strategies.methods('pera'), or"
            f" st.just({short(method)}) for this one"
        )
    return _models(st.sampled_from(kinds or MODELS), method, st.sampled_from(tuple(dtypes)))


@st.composite
def _models(
    draw: st.DrawFn,
    kinds: st.SearchStrategy[str],
    method: st.SearchStrategy[Method] | None,
    dtypes: st.SearchStrategy[torch.dtype],
) -> tuple[nn.Module, Tensor]:
    make = {"mlp": _mlp, "gpt2": _gpt2}[draw(kinds)]
    seed = draw(seeds())
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model, x = make(draw, generator)
        model = model.eval().to(draw(dtypes))
        if method is not None:
            attach(model, draw(method), "all-linear")
            move(model, seed)
    return model, x.to(next(model.parameters()).dtype) if x.is_floating_point() else x


def _mlp(draw: st.DrawFn, generator: torch.Generator) -> tuple[nn.Module, Tensor]:
    primes = SIZES[1:]
    widths = [draw(st.sampled_from(primes))]
    for _ in range(draw(st.integers(1, 3))):
        widths.append(draw(st.sampled_from([prime for prime in primes if prime != widths[-1]])))
    bias, parts = draw(st.booleans()), list[nn.Module]()
    for n, m in pairwise(widths):
        parts += [nn.Linear(n, m, bias=bias), nn.Tanh()]
        _fill(parts[-2], n, generator)
    return nn.Sequential(*parts[:-1]), torch.randn(3, widths[0], generator=generator)


def _gpt2(draw: st.DrawFn, generator: torch.Generator) -> tuple[nn.Module, Tensor]:
    blocks, heads, width, time = (
        draw(st.sampled_from(sizes)) for sizes in ((1, 2), (1, 2), (3, 5), (5, 1, 3))
    )
    model = GPT2(
        Config(vocab_size=13, n_positions=5, n_embd=heads * width, n_layer=blocks, n_head=heads)
    )
    for module in model.modules():
        if isinstance(module, Conv1D):
            _fill(module, module.nx, generator)
    return model, torch.randint(0, 13, (2, time), generator=generator)


def move(model: nn.Module, seed: int = 0, size: float = 0.3) -> nn.Module:
    """Put every adapter parameter of `model` off its initial value, from `seed`; returns the model.

    Magnitudes are uniform in [size/2, 3 size/2], signs random: no entry near zero, so the update
    differs from none and from LoRA's, and none large, so float tolerances mean what they say. A
    method's start (B = 0, h = 0) tests nothing, and neither does a model without adapters: it is
    refused.

    >>> import torch, perakit as pk
    >>> from perakit import strategies
    >>> model = torch.nn.Sequential(torch.nn.Linear(5, 3))
    >>> report = pk.attach(model, pk.PERA(rank=1), ["0"])
    >>> [bool(delta.any()) for delta in pk.delta_weights(strategies.move(model)).values()]
    [True]
    """
    check_positive("size", size)
    require_adapters(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for adapter in adapters(model).values():
            for parameter in adapter.parameters():
                magnitude = size * (0.5 + torch.rand(parameter.shape, generator=generator))
                sign = 2 * torch.randint(0, 2, parameter.shape, generator=generator) - 1
                parameter.copy_(sign * magnitude)
    return model


# --- arguments ------------------------------------------------------------------------------------


def _shape_strategy(shape: Any) -> Shapes:
    if shape is not None and not isinstance(shape, st.SearchStrategy):
        raise PerakitError(
            f"shape={short(shape)} is no strategy: pass strategies.shapes(), or"
            f" st.just({short(shape)}) for this one"
        )
    return shapes() if shape is None else shape


def _check_flag(name: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise PerakitError(f"{name}={short(value)} must be True or False")


def _check_names(what: str, names: Sequence[Any], known: Any) -> None:
    for name in names:
        if not isinstance(name, str) or name not in known:
            raise PerakitError(
                f"{what} {short(name)} is unknown: choose from"
                f" {', '.join(map(repr, sorted(known)))}"
            )


def _check_kinds(kinds: Any) -> None:
    if isinstance(kinds, str) or not isinstance(kinds, Sequence) or not kinds:
        raise PerakitError(
            f"kinds={short(kinds)} must be a sequence of layer kinds: pass ({short(kinds)},) or"
            " leave it out"
        )
    for kind in kinds:
        if not callable(kind) and kind not in LAYERS:
            raise PerakitError(
                f"kind={short(kind)} is unknown: choose from {', '.join(map(repr, LAYERS))}, or"
                " pass (m, n, bias) -> module"
            )


def _check_dtypes(dtypes: Any) -> None:
    if not isinstance(dtypes, Sequence) or not dtypes:
        raise PerakitError(
            f"dtypes={short(dtypes)} must be a sequence of dtypes: pass (torch.float32,)"
        )
    for dtype in dtypes:
        if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
            raise PerakitError(
                f"dtype={short(dtype)} is no real torch dtype: choose from"
                f" {', '.join(map(str, DTYPES))}"
            )
