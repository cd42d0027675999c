"""The adapted forward pass: the one place that decides in which order the matrices are multiplied."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad

from perakit.adapters import plans
from perakit.adapters.product import AdaptedProduct, Expansion, Given, merged, multiply, plain

Product = Callable[[Tensor, Tensor, Tensor | None], Tensor]  # (x, W0, bias) -> W0 x + b


def adapted_linear(
    x: Tensor,
    W0: Tensor,
    bias: Tensor | None,
    factors: Sequence[Tensor],
    dropped: Tensor | None = None,
    linear: Product = F.linear,
    others: Sequence[Tensor] = (),
) -> Tensor:
    """y = W0 x + b + ΔW x, with ΔW given as a product of matrices.

    x (..., n); W0 (m, n); bias (m,) or None, used once, in the base; factors: (B_hat (m, K), A_hat (K, n)), an `Expansion` of them, or
    (ΔW,); dropped: x after dropout, which only the update sees (None: x itself); linear: how the base multiplies, for
    one that keeps fewer bits than W0 has; others: the updates (..., m) of further adapters.
    ΔW may be added to W0 only where it is the one update, and W0 and x are as precise as the factors. Elsewhere the updates are
    computed in the factors' precision, summed, added to the output and rounded once. Returns (..., m) in the base's dtype.
    """
    if linear is F.linear and dropped is None and not others and x.dtype == W0.dtype == _dtype(factors):
        return _product(x, W0, bias, factors)
    return add_updates(linear(x, W0, bias), chain(x if dropped is None else dropped, factors), *others)


def chain(x: Tensor, factors: Sequence[Tensor]) -> Tensor:
    """The product of `factors` with x (..., n), in the factors' precision: (..., m)."""
    return _product(x, None, None, factors)


def add_updates(base: Tensor, *updates: Tensor) -> Tensor:
    """The base's output and all updates (..., m), summed in the updates' precision and rounded once to the base's dtype."""
    total = updates[0]
    for update in updates[1:]:
        total = total + update
    return (base + total).to(base.dtype)


def _dtype(factors: Sequence[Tensor]) -> torch.dtype:
    return (factors.parameters if isinstance(factors, Expansion) else factors)[-1].dtype


def _product(x: Tensor, W0: Tensor | None, bias: Tensor | None, factors: Sequence[Tensor]) -> Tensor:
    """x W0ᵀ + b + x ΔWᵀ (..., m), by the plan; W0 None: x ΔWᵀ alone, in the factors' precision."""
    in_the_open = _in_the_open(x)
    if len(factors) == 1:
        if W0 is not None and not in_the_open:
            return F.linear(x, merged(W0, *factors), bias)
        update = F.linear(x.to(_dtype(factors)), *factors)
        return update if W0 is None else F.linear(x, W0, bias) + update
    given = factors if isinstance(factors, Expansion) else Expansion(Given(), *factors)
    if in_the_open:
        return plain(given.rule, x, W0, bias, *given.parameters)
    (m, K), n = given.shape, x.shape[-1]
    plan = plans.forced() or plans.choose(x.numel() // max(1, n), m, n, K, W0 is not None)
    assert isinstance(plan, plans.Plan)
    if torch.is_grad_enabled():
        y = AdaptedProduct.apply(given.rule, plan, x, W0, bias, *given.parameters)
        assert isinstance(y, Tensor)
        return y
    return multiply(plan.output, x, W0, bias, *given.value())[0]


def _in_the_open(x: Tensor) -> bool:
    """Whether the formula itself must run: where it is asked for; under torch.func and forward mode, which want operations that they
    can see into; and under autocast, which would round W0 + ΔW before it multiplies."""
    if plans.forced() == plans.REFERENCE or torch.is_autocast_enabled(x.device.type):
        return True
    return not torch.compiler.is_compiling() and (torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0)
