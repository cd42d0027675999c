"""In which order an adapted layer multiplies its matrices: by counting, never by a clock.

A plan is a pure function of shapes and dtypes, so the same layer rounds the same way on every run.
Three products may each go through the factors, or through an (m, n) matrix:

    output           base(x) + (x Âᵀ) B̂ᵀ             or x Wᵀ, with W = W0 + B̂ Â
    input gradient   g W0 + (g B̂) Â                  or g W, with W made again
    factor gradients gᵀ(x Âᵀ), (g B̂)ᵀ x              or G Âᵀ, B̂ᵀ G, with G = gᵀ x
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import lru_cache
from itertools import product
from typing import Literal, NamedTuple

import torch

from perakit.errors import PerakitError, short


class Plan(NamedTuple):
    """For each of the three products: True, dense, through an (m, n) matrix; False, factored."""

    output: bool
    input: bool
    factors: bool

    def __str__(self) -> str:
        return "/".join("fd"[dense] for dense in self)


PLANS = tuple(Plan(*choices) for choices in product((False, True), repeat=3))


def flop(plan: Plan, T: int, m: int, n: int, K: int, fused: bool = True) -> int:
    """Multiply-adds × 2 of an adapter's two passes, beside the 4 m n T of its base.

    T: tokens; (m, n): the layer; K: columns of B̂; fused: ΔW may be added to W0, so that a dense
    product is the base's own; False: it is one more, (m, n) times T.
    """
    one, through, dense = 2 * K * (m + n) * T, 2 * m * n * K, 0 if fused else 2 * m * n * T
    output = through + dense if plan.output else one
    to_x = through + dense if plan.input else one
    if plan.factors:
        return output + to_x + 2 * m * n * T + 2 * through
    # x Âᵀ is at hand after a factored output, and g B̂ after a factored input gradient.
    again = (2 * K * n * T if plan.output else 0) + (2 * K * m * T if plan.input else 0)
    return output + to_x + one + again


def choose(T: int, m: int, n: int, K: int, fused: bool = True) -> Plan:
    """The plan with the fewest operations; arguments as in `flop`."""
    best, least = PLANS[0], flop(PLANS[0], T, m, n, K, fused)
    for plan in PLANS[1:]:  # no min(key=...), which torch.compile does not follow
        count = flop(plan, T, m, n, K, fused)
        if count < least:
            best, least = plan, count
    return best


# --- where calls take longer than arithmetic ------------------------------------------------------

# Numbers in a matrix from which it is large: 1 MiB of float32, about what a core's cache holds.
# Doubt it where the cache per core is much larger.
LARGE = 2**18

# Operations of a step, forward and backward, below which its calls take longer than its arithmetic:
# a call takes 1 to 3 µs on a CPU, and on a GPU 5 to 50 (on one H200, in 2026, plain LoRA's step of
# 10 calls took 0.6 to 0.7 ms in float32, whatever it computed, up to 2³⁴ operations).
FEW, FEW_ON_GPU = 2**24, 2**35


# Features that one gather makes quicker than windows do, on a CPU: up to here it was measured
GATHERED = 2**17


class Way(NamedTuple):
    """How the products of an adapted layer are made.

    plan: which of them are dense; lean: by the fewest calls (`perakit.fast.lean`), all factored;
    keep: PERA's features are gathered, and kept for the backward pass.
    """

    plan: Plan
    lean: bool = False
    keep: bool = False


def way(T: int, m: int, n: int, K: int, fused: bool = True, device: str = "cpu") -> Way:
    """The lean way where calls decide, else the plan with the fewest operations.

    T, m, n, K, fused: as in `flop`; device: its type. Calls decide where a step of the layer has
    few operations, on a CPU only where W0 is not large, since that takes longer to read. The K
    (m + n) features are kept where they are small: on the lean way a quarter of x, or 2 MiB; else
    a tenth of x.
    """
    few, features = FEW if device == "cpu" else FEW_ON_GPU, K * (m + n)
    if (4 * m * n + 6 * features) * T < few and (device != "cpu" or m * n < LARGE):
        plan = PLANS[0] if device != "cpu" else choose(T, m, n, K, fused)
        if plan == PLANS[0]:
            return Way(plan, lean=True, keep=features <= max(T * n // 4, 2 * LARGE))
    return Way(choose(T, m, n, K, fused), keep=small(T, m, n, K))


def small(T: int, m: int, n: int, K: int) -> bool:
    """Whether the K (m + n) features are few, and a tenth of x (T, n) at most."""
    return K * (m + n) <= min(T * n // 10, GATHERED)


# For those who ask again and again; torch.compile follows no cache. 1,024: lengths of batches vary
# without end, and what is kept must not.
chosen = lru_cache(1024)(way)


def asked(T: int, m: int, n: int, K: int, fused: bool, device: str) -> Way:
    """The way that `use_plan` asks for, or else the counted one."""
    if wanted is None:
        return (way if torch.compiler.is_compiling() else chosen)(T, m, n, K, fused, device)
    if isinstance(wanted, Plan):
        return Way(wanted, keep=small(T, m, n, K))
    return Way(PLANS[0], lean=True, keep=True)


# What `use_plan` asks for here. Module attributes, since every forward pass reads them.
wanted: Plan | Literal["lean"] | None = None
switched_off = False


@contextmanager
def use_plan(plan: Plan | Literal["reference", "lean"] | None) -> Iterator[None]:
    """Every adapted layer that is called within the block follows `plan`, in both passes.

    plan: a `Plan`; "reference": the formula as it stands, differentiated by autograd; "lean": by
    the fewest calls, as on a GPU; None: the counted choice, as without the block. For comparing and
    for teaching; results differ by rounding only. It holds for the whole process, all threads;
    where activations are checkpointed, the backward pass must run inside the block too.

    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 5))
    >>> report, x = pk.attach(model, pk.PERA(rank=2), ["0"]), torch.ones(4, 3)
    >>> with pk.use_plan("reference"):
    ...     plain = model(x)
    >>> torch.allclose(model(x), plain)
    True
    """
    global wanted, switched_off
    asked: Plan | Literal["lean"] | None = None
    plain = isinstance(plan, str) and plan == "reference"
    if isinstance(plan, str) and plan == "lean":
        asked = "lean"
    elif isinstance(plan, Plan) and plan in PLANS:
        asked = plan
    elif not plain and plan is not None:
        raise PerakitError(
            f"plan={short(plan)} is none: pass one of perakit.fast.plans.PLANS, 'reference', 'lean'"
            " or None"
        )
    before = wanted, switched_off
    wanted, switched_off = asked, plain
    try:
        yield
    finally:
        wanted, switched_off = before


def off() -> AbstractContextManager[None]:
    """The plain way within the block, base(x) + adapter(x) by autograd: `use_plan("reference")`.

    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 5))
    >>> report, x = pk.attach(model, pk.PERA(rank=2), ["0"]), torch.ones(4, 3)
    >>> with pk.fast.off():
    ...     plain = model(x)
    >>> torch.allclose(model(x), plain)
    True
    """
    return use_plan("reference")
