"""The adapted forward pass: the one place that decides in which order the matrices are
multiplied.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad

from perakit.adapters import plans
from perakit.adapters.product import (
    AdaptedProduct,
    Expansion,
    Given,
    autocasts,
    merged,
    multiply,
    plain,
)

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

    x (..., n); W0 (m, n); bias (m,) or None, used once, in the base; factors: (B_hat (m, K), A_hat
    (K, n)), an `Expansion` of them, or (ΔW,); dropped: x after dropout, which only the update sees
    (None: x itself); linear: how the base multiplies, for one that keeps fewer bits than W0 has;
    others: the updates (..., m) of further adapters. ΔW may be added to W0 only where it is the one
    update, and W0, x and their product are as precise as the factors. Elsewhere the updates are
    computed in the factors' precision, summed, added to the output and rounded once. Returns (...,
    m) in the base's dtype.
    """
    # Of strided rows, or of one alone, torch rounds otherwise than of flat ones: there the base
    # multiplies x as it came.
    flat = x.ndim == 2 or (x.ndim > 2 and x.is_contiguous())
    alone = linear is F.linear and dropped is None and not others and flat
    if alone and x.dtype == W0.dtype == _dtype(factors) and _exact(x):
        return _product(x, W0, bias, factors)
    return add_updates(
        linear(x, W0, bias), chain(x if dropped is None else dropped, factors), *others
    )


def chain(x: Tensor, factors: Sequence[Tensor]) -> Tensor:
    """The product of `factors` with x (..., n), in the factors' precision: (..., m)."""
    return _product(x, None, None, factors)


def add_updates(base: Tensor, *updates: Tensor) -> Tensor:
    """The base's output and all updates (..., m), summed in the updates' precision and rounded once
    to the base's dtype.
    """
    total = updates[0]
    for update in updates[1:]:
        total = total + update
    return (base + total).to(base.dtype)


def _dtype(factors: Sequence[Tensor]) -> torch.dtype:
    return (factors.parameters if isinstance(factors, Expansion) else factors)[-1].dtype


def _product(
    x: Tensor, W0: Tensor | None, bias: Tensor | None, factors: Sequence[Tensor]
) -> Tensor:
    """x W0ᵀ + b + x ΔWᵀ (..., m), by the plan; W0 None: x ΔWᵀ alone, in the factors' precision."""
    in_the_open = _in_the_open(x)
    if len(factors) == 1:
        if (
            W0 is not None
            and not in_the_open
            and W0.stride() in ((W0.shape[1], 1), (1, W0.shape[0]))
        ):
            return F.linear(x, merged(W0, *factors), bias)
        update = F.linear(x.to(_dtype(factors)), *factors)
        return update if W0 is None else F.linear(x, W0, bias) + update
    given = factors if isinstance(factors, Expansion) else Expansion(Given(), *factors)
    if in_the_open:
        return plain(given.rule, x, W0, bias, *given.parameters)
    (m, K), n = given.shape, x.shape[-1]
    choose = plans.choose if torch.compiler.is_compiling() else plans.chosen
    plan = plans.forced() or choose(x.numel() // max(1, n), m, n, K, W0 is not None)
    assert isinstance(plan, plans.Plan)
    # And back again out here: a function that returns a view forbids `y += 1`
    rows = x.flatten(0, -2) if x.ndim > 1 else x[None]
    if torch.is_grad_enabled():
        y = AdaptedProduct.apply(given.rule, plan, rows, W0, bias, *given.parameters)
        assert isinstance(y, Tensor)
    else:
        y, _ = multiply(plan.output, rows, W0, bias, given.value())
    return y if x.ndim == 2 else y.view(*x.shape[:-1], m)


def _in_the_open(x: Tensor) -> bool:
    """Whether the formula itself must run: where it is asked for; where operations are recorded or
    transformed, by torch.export, tracing, torch.func and forward mode; and under autocast, which
    would round W0 + ΔW before it multiplies."""
    if plans.forced() == plans.REFERENCE or torch.compiler.is_exporting() or autocasts(x):
        return True
    if torch.compiler.is_compiling():
        return False
    recorded = torch._C._get_tracing_state() is not None  # torch.jit.trace
    return recorded or torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def _exact(x: Tensor) -> bool:
    """Whether products in x's dtype keep its bits: not where TF32 or bfloat16 stand in for float32,
    which would round W0 + ΔW.
    """
    if x.dtype != torch.float32:
        return True
    if torch.compiler.is_compiling():  # which cannot look at the setting
        return x.device.type == "cpu"
    backend = torch.backends.cuda if x.device.type == "cuda" else torch.backends.mkldnn
    return backend.matmul.fp32_precision in ("ieee", "none")
