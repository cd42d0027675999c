"""The adapted product as one function: it keeps x and the parameters, and makes the rest again."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from perakit.fast.plans import LARGE, Plan
from perakit.fast.sources import Factors, Source


class AdaptedProduct(torch.autograd.Function):
    """x (T, n) -> x W0ᵀ + b + x ΔWᵀ (T, m), by a plan; W0 None: x ΔWᵀ alone, in the factors' dtype.

    Keeps x, the parameters; where neither the output nor the factor gradients are dense,
    z = x Âᵀ (T, K); and the factors, if the source says so.
    """

    @staticmethod
    def forward(
        ctx: Any,
        source: Source,
        plan: Plan,
        x: Tensor,
        W0: Tensor | None,
        bias: Tensor | None,
        *parameters: Tensor,
    ) -> Tensor:
        factors = source.value(*parameters)
        y, z = multiply(plan.output, x, W0, bias, factors)
        ctx.source, ctx.plan, ctx.count = source, plan, 4 + len(parameters)
        z = None if plan.factors else z
        ctx.save_for_backward(z, x, W0, bias, *parameters, *(factors if source.keep else ()))
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        (z, *tensors), kept = saved[: ctx.count], saved[ctx.count :]
        needs = ctx.needs_input_grad[2:]
        # Someone wants the gradient's gradient, or many gradients at once: torch finds them in the
        # formula.
        if torch.is_grad_enabled() or (not torch.compiler.is_compiling() and batched(g)):
            return None, None, *by_autograd(ctx.source, needs, g, *tensors)
        # Autocast may be on now, and not have been in the forward pass.
        with torch.autocast(g.device.type, enabled=False) if autocasts(g) else nullcontext():
            made = Factors(*kept) if kept else None
            return None, None, *_by_hand(ctx.source, ctx.plan, made, needs, g, z, *tensors)


def multiply(
    dense: bool, x: Tensor, W0: Tensor | None, bias: Tensor | None, factors: Factors
) -> tuple[Tensor, Tensor | None]:
    """The output of `AdaptedProduct` (T, m), and z = x Âᵀ (T, K) where it was made."""
    B_hat, A_hat, weight, _ = factors
    x = x.to(A_hat.dtype)
    if dense:
        right = A_hat if weight is None else (A_hat.T * weight).T
        return F.linear(x, merged(W0, B_hat, right), bias), None
    z = matmul(x, A_hat.T)  # (T, n) @ (n, K) -> (T, K)
    weighted = z if weight is None else z * weight
    if W0 is None:
        return F.linear(weighted, B_hat), z
    # In place: a large tensor costs more to allocate than to add.
    return F.linear(x, W0, bias).addmm_(weighted, B_hat.T), z


def merged(W0: Tensor | None, *factors: Tensor) -> Tensor:
    """W0 + ΔW in W0's memory layout, so that ΔW = 0 changes no bit of what is made with it.

    W0 (m, n), or None: ΔW alone; factors: (B_hat (m, K), A_hat (K, n)), or (ΔW,).
    """
    if W0 is None:
        return factors[0] if len(factors) == 1 else factors[0] @ factors[1]
    m, n = W0.shape
    if W0.stride() == (1, m) != (n, 1):  # a Conv1D's, whose transpose is what lies in memory
        return merged(W0.T, *(factor.T for factor in reversed(factors))).T
    # In place: addmm would write a copy of W0 first, and add to that.
    return W0 + factors[0] if len(factors) == 1 else (factors[0] @ factors[1]).add_(W0)


# --- the backward pass ----------------------------------------------------------------------------


def _by_hand(
    source: Source,
    plan: Plan,
    made: Factors | None,
    needs: Sequence[bool],
    g: Tensor,
    z: Tensor | None,
    x: Tensor,
    W0: Tensor | None,
    bias: Tensor | None,
    *parameters: Tensor,
) -> tuple[Tensor | None, ...]:
    """The gradients by x, W0, bias and the parameters, of those that are needed.

    made: the factors, if they were kept.
    """
    factors = made or source.value(*parameters)
    B_hat, A_hat, weight, _ = factors
    wide, g = x.to(A_hat.dtype), g.contiguous()
    to_x = to_W0 = to_bias = weighted = None
    to_parameters: tuple[Tensor | None, ...] = (None,) * len(parameters)
    to_factors = any(needs[3:])
    if (needs[0] and not plan.input) or (to_factors and not plan.factors):
        u = matmul(g, B_hat)  # (T, m) @ (m, K) -> (T, K)
    if needs[0] and plan.input:
        left = B_hat if weight is None else B_hat * weight
        to_x = matmul(g, merged(W0, left, A_hat))
    elif needs[0]:
        weighted = u if weight is None else u * weight
        to_x = weighted @ A_hat if W0 is None else matmul(g, W0).addmm_(weighted, A_hat)
    if needs[1]:
        to_W0 = g.T @ wide
    if needs[2]:
        to_bias = g.sum(0)
    if to_factors and plan.factors:
        G = g.T @ wide if to_W0 is None else to_W0  # (m, n)
        found = _to_factors(factors, A_hat.T, G.T, B_hat, G)
        to_parameters = source.gradients(parameters, factors, *found)
    elif to_factors:
        z = matmul(wide, A_hat.T) if z is None else z  # (T, n) @ (n, K) -> (T, K)
        if weight is None or wide.shape[0] >= wide.shape[1]:
            found = _to_factors(factors, z, g, u, wide)
        else:
            # Few tokens: these take the weight. Nobody needs factors that were made here any more,
            # so their memory takes the gradients.
            to_weight = torch.linalg.vecdot(z, u, dim=0)
            weighted = u * weight if weighted is None else weighted
            places = (None, None) if made else (B_hat.T, A_hat)
            to_left = _over_tokens(z * weight, g, places[0])
            found = to_left, _over_tokens(weighted, wide, places[1]), to_weight
        to_parameters = source.gradients(parameters, factors, *found)
    return None if to_x is None else to_x.to(x.dtype), to_W0, to_bias, *to_parameters


def _to_factors(
    factors: Factors, z: Tensor, g: Tensor, u: Tensor, x: Tensor
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The gradients by B̂ᵀ (K, m), Â (K, n) and the weight (K,).

    z, g, u, x: such that without a weight the first two are zᵀg and uᵀx.
    """
    to_left, to_right = _over_tokens(z, g), _over_tokens(u, x)
    if factors.weight is None:
        return to_left, to_right, None
    to_weight, column = (to_right * factors.A_hat).sum(1), factors.weight[:, None]
    return to_left.mul_(column), to_right.mul_(column), to_weight


def by_autograd(
    source: Source, needs: Sequence[bool], g: Tensor, *tensors: Tensor
) -> tuple[Tensor | None, ...]:
    """As `_by_hand`, by operations that can be differentiated again."""
    wanted = [place for place, need in enumerate(needs) if need]

    def formula(*moving: Tensor) -> Tensor:
        at = dict(zip(wanted, moving, strict=True))
        return plain(source, *(at.get(place, tensor) for place, tensor in enumerate(tensors)))

    _, pull, *_ = torch.func.vjp(formula, *(tensors[place] for place in wanted))
    found = dict(zip(wanted, pull(g), strict=True))
    return tuple(found.get(place) for place in range(len(needs)))


def plain(
    source: Source, x: Tensor, W0: Tensor | None, bias: Tensor | None, *parameters: Tensor
) -> Tensor:
    """W0 x + b + B̂ (Â x), as a reader would write it: what `AdaptedProduct` must agree with."""
    B_hat, A_hat = source.plain(*parameters)
    update = F.linear(F.linear(x.to(A_hat.dtype), A_hat), B_hat)
    return update if W0 is None else F.linear(x, W0, bias) + update


# --- who else looks at operations -----------------------------------------------------------------


def recorded() -> bool:
    """Whether operations are compiled or watched, by those who know torch's usual ones only."""
    return torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack() > 0


def batched(g: Tensor) -> bool:
    """Whether many gradients are asked for at once."""
    return (
        torch._C._are_functorch_transforms_active()
        or torch._C._functorch.is_legacy_batchedtensor(g)
    )


def autocasts(x: Tensor) -> bool:
    """Whether autocast is on where x lies."""
    kind = x.device.type
    return torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)


# --- who multiplies -------------------------------------------------------------------------------


def _processor() -> str:
    """What the system says of the first processor."""
    try:
        with Path("/proc/cpuinfo").open() as file:
            return file.read(1000)
    except OSError:
        return platform.processor()


def _onednn(processor: str) -> bool:
    """Whether oneDNN is to have large float32 products on a CPU, which torch gives to MKL."""
    here = torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()
    return here and "Intel" not in processor


# Measured with torch 2.13, 2 cores, in 2026 (docs/performance.md, "Who multiplies"). AMD EPYC:
# oneDNN takes a third to two thirds of MKL's time once a matrix leaves a core's cache. Intel Xeon,
# where MKL is at home: even at best, an eighth longer at 3072 x 768. Doubt it on ARM, and with a
# torch that is built on another BLAS.
ONEDNN = _onednn(_processor())

# Of products that sum over tokens, (K, T) @ (T, n), oneDNN is asked where n is at least this many
# times K: on the same AMD EPYC it was quicker from there on. Doubt it together with ONEDNN.
NARROW = 4


def matmul(left: Tensor, right: Tensor, out: Tensor | None = None) -> Tensor:
    """left right (M, N), of (M, L) and (L, N), where nobody asks for a derivative.

    out (M, N): where the product is written, if given. oneDNN or MKL is chosen by size, dtype and
    device, so that the same product is rounded in the same way every time.
    """
    (M, L), N = left.shape, right.shape[1]
    if not ONEDNN or L == 0 or max(M * L, L * N, M * N) < LARGE:
        return torch.mm(left, right, out=out)
    mine = torch.backends.mkldnn.enabled and not recorded()
    if not mine or left.dtype != torch.float32 or left.device.type != "cpu":
        return torch.mm(left, right, out=out)
    weight = right.T
    # Rows that lie apart make it a hundred times slower.
    if not (weight.is_contiguous() or right.is_contiguous()):
        weight = weight.contiguous()
    product: Tensor = torch.ops.mkldnn._linear_pointwise(left, weight, None, "none", [], "")
    return product if out is None else out.copy_(product)


def _over_tokens(narrow: Tensor, wide: Tensor, out: Tensor | None = None) -> Tensor:
    """narrowᵀ wide (K, n), of (T, K) and (T, n), written into `out` if that is given."""
    if wide.shape[1] < NARROW * narrow.shape[1]:
        return torch.mm(narrow.T, wide, out=out)
    return matmul(narrow.T, wide, out)
