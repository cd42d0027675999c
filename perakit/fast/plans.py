"""In which order an adapted layer multiplies its matrices: chosen by counting operations, never by
a clock.

A plan is a pure function of shapes and dtypes, so the same layer rounds the same way on every run.
Three products may each go through the factors, or through an (m, n) matrix:

    output           base(x) + (x Âᵀ) B̂ᵀ             or x Wᵀ, with W = W0 + B̂ Â
    input gradient   g W0 + (g B̂) Â                  or g W, with W made again
    factor gradients gᵀ(x Âᵀ), (g B̂)ᵀ x              or G Âᵀ, B̂ᵀ G, with G = gᵀ x
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from itertools import product
from typing import Literal, NamedTuple

from perakit.errors import PerakitError, short


class Plan(NamedTuple):
    """For each of the three products: True through an (m, n) matrix, dense; False through the
    factors.
    """

    output: bool
    input: bool
    factors: bool

    def __str__(self) -> str:
        return "/".join("fd"[dense] for dense in self)


PLANS = tuple(Plan(*choices) for choices in product((False, True), repeat=3))


def flop(plan: Plan, T: int, m: int, n: int, K: int, fused: bool = True) -> int:
    """Multiply-adds × 2 of an adapter's forward and backward pass, beside the 4 m n T of its base.

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


# The same, for those who ask again and again; torch.compile does not follow a cache
chosen = lru_cache(1024)(choose)


REFERENCE = "reference"
_forced: Plan | Literal["reference"] | None = None


def forced() -> Plan | Literal["reference"] | None:
    """What `use_plan` asks for here."""
    return _forced


@contextmanager
def use_plan(plan: Plan | Literal["reference"] | None) -> Iterator[None]:
    """Every adapted layer that is called within the block follows `plan`, also in its backward
    pass.

    plan: a `Plan`; "reference": the formula as it stands, differentiated by autograd; None: the
    counted choice, as without the block. For comparing and for teaching; results differ by rounding
    only. It holds for the whole process, all threads; where activations are checkpointed, the
    backward pass must run inside the block too.
    """
    global _forced
    if not (
        plan is None
        or (isinstance(plan, Plan) and plan in PLANS)
        or (isinstance(plan, str) and plan == REFERENCE)
    ):
        raise PerakitError(
            f"plan={short(plan)} is none: pass one of perakit.adapters.plans.PLANS, 'reference' or"
            " None"
        )
    before, _forced = _forced, plan
    try:
        yield
    finally:
        _forced = before
