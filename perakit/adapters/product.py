"""The adapted product as one differentiable function, which keeps x and the parameters and makes the rest again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from perakit.adapters.plans import Plan

# torch multiplies float32 matrices on a CPU by MKL where it has that. oneDNN, which it then has too, was faster at matrices that leave
# a core's cache: docs/performance.md.
ONEDNN = torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()
LARGE = 2**18  # numbers in the largest matrix of such a product: 1 MiB
NARROW = 4  # times narrower than the other is a side with which it was so where tokens are summed over


class Rule(Protocol):
    """How parameters become the factors (B_hat (m, K), A_hat (K, n)), and how gradients go back through that."""

    @property
    def settings(self) -> object:
        """What the factors depend on besides the parameters; equal where they are the same."""

    def __call__(self, *parameters: Tensor) -> tuple[Tensor, Tensor]:
        """The factors, by operations that autograd can follow."""

    def value(self, *parameters: Tensor) -> tuple[Tensor, Tensor]:
        """The same factors where nobody asks for a derivative, by whatever operations are fast."""

    def shape(self, *parameters: Tensor) -> tuple[int, int]:
        """(m, K), the shape of B_hat."""

    def gradients(self, parameters: Sequence[Tensor], to_B_hat: Tensor, to_A_hat: Tensor) -> tuple[Tensor, ...]:
        """The gradients by the parameters, from those by the factors."""


class Given:
    """The rule of factors that are parameters themselves."""

    settings = None

    def __call__(self, *parameters: Tensor) -> tuple[Tensor, Tensor]:
        B_hat, A_hat = parameters
        return B_hat, A_hat

    value = __call__

    def shape(self, *parameters: Tensor) -> tuple[int, int]:
        m, K = parameters[0].shape
        return m, K

    def gradients(self, parameters: Sequence[Tensor], to_B_hat: Tensor, to_A_hat: Tensor) -> tuple[Tensor, ...]:
        return to_B_hat, to_A_hat


class Expansion(Sequence[Tensor]):
    """(B_hat, A_hat) as a rule and the parameters it reads: expanded where somebody looks, so that nobody need keep them.

    kept: where the last expansion may be found again, for a forward pass that asks for no derivative; None makes it each time.
    """

    def __init__(self, rule: Rule, *parameters: Tensor, kept: Kept | None = None) -> None:
        self.rule, self.parameters, self.kept = rule, parameters, kept
        self.shape = rule.shape(*parameters)  # (m, K)

    def value(self) -> tuple[Tensor, Tensor]:
        """The factors where nobody asks for a derivative."""
        # A comparison would make a GPU wait, and a compiled graph break.
        if self.kept is None or self.parameters[0].device.type != "cpu" or _recorded():
            return self.rule.value(*self.parameters)
        return self.kept.factors(self.rule, self.parameters)

    def __len__(self) -> int:
        return 2

    def __getitem__(self, place: Any) -> Any:
        return self.rule(*self.parameters)[place]

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.rule(*self.parameters))


class Kept:
    """The last expansion, beside a copy of what it was made of; a copy of this, or a pickle, is empty.

    Compared by value at each use, since a parameter can be written in ways that leave no trace (`p.data.copy_`): r (m + n) numbers
    are read where K (m + n) would be written.
    """

    def __init__(self) -> None:
        self.last: tuple[object, tuple[Tensor, ...], tuple[Tensor, Tensor]] | None = None

    def clear(self) -> None:
        """Free the memory."""
        self.last = None

    def factors(self, rule: Rule, parameters: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """The factors of these parameters, made again only if anything is different."""
        last = self.last  # read once and written whole: another thread may ask meanwhile
        if last is None or last[0] != rule.settings or not all(map(_same, last[1], parameters)):
            copies = tuple(parameter.detach().clone() for parameter in parameters)
            last = self.last = rule.settings, copies, rule.value(*copies)
        return last[2]

    def __reduce__(self) -> tuple[type[Kept], tuple[()]]:
        return Kept, ()


def _recorded() -> bool:
    """Whether operations are compiled or watched, by those who know torch's usual ones."""
    return torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack() > 0


def _same(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one, other)


def plain(rule: Rule, x: Tensor, W0: Tensor | None, bias: Tensor | None, *parameters: Tensor) -> Tensor:
    """The formula, W0 x + b + B̂ (Â x), as a reader would write it: what the function below must agree with."""
    B_hat, A_hat = rule(*parameters)
    update = F.linear(F.linear(x.to(A_hat.dtype), A_hat), B_hat)
    return update if W0 is None else F.linear(x, W0, bias) + update


def merged(W0: Tensor | None, *factors: Tensor) -> Tensor:
    """W0 + ΔW in W0's memory layout, so that ΔW = 0 changes no bit of what is made with it; without W0 ΔW alone.

    factors: (B_hat, A_hat), or (ΔW,).
    """
    if W0 is None:
        return factors[0] if len(factors) == 1 else factors[0] @ factors[1]
    m, n = W0.shape
    if W0.stride() == (1, m) != (n, 1):  # a Conv1D's, whose transpose is what lies in memory
        return merged(W0.T, *(factor.T for factor in reversed(factors))).T
    return W0 + factors[0] if len(factors) == 1 else torch.addmm(W0, *factors)


class AdaptedProduct(torch.autograd.Function):
    """x (T, n) -> x W0ᵀ + b + x ΔWᵀ (T, m), by a plan; W0 None: x ΔWᵀ alone, in the factors' dtype.

    Keeps x, the parameters and, where neither the output nor the factor gradients are dense, z = x Âᵀ (T, K).
    """

    @staticmethod
    def forward(ctx: Any, rule: Rule, plan: Plan, x: Tensor, W0: Tensor | None, bias: Tensor | None, *parameters: Tensor) -> Tensor:
        y, z = multiply(plan.output, x, W0, bias, *rule.value(*parameters))
        ctx.rule, ctx.plan = rule, plan
        ctx.save_for_backward(None if plan.factors else z, x, W0, bias, *parameters)
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        z, *tensors = ctx.saved_tensors
        needs = ctx.needs_input_grad[2:]
        # Someone wants the gradient's gradient, or many gradients at once: torch finds them in the formula.
        if torch.is_grad_enabled() or (not torch.compiler.is_compiling() and _batched(g)):
            return None, None, *_of_the_formula(ctx.rule, needs, g, *tensors)
        with torch.autocast(g.device.type, enabled=False) if autocasts(g) else nullcontext():  # on now, and not in the forward pass
            return None, None, *_gradients(ctx.rule, ctx.plan, needs, g, z, *tensors)


def _batched(g: Tensor) -> bool:
    return torch._C._are_functorch_transforms_active() or torch._C._functorch.is_legacy_batchedtensor(g)


def autocasts(x: Tensor) -> bool:
    """Whether autocast is on where x lies."""
    return torch.amp.is_autocast_available(x.device.type) and torch.is_autocast_enabled(x.device.type)


def multiply(dense: bool, x: Tensor, W0: Tensor | None, bias: Tensor | None, B_hat: Tensor, A_hat: Tensor) -> tuple[Tensor, Tensor | None]:
    """The output of `AdaptedProduct` (T, m), and z = x Âᵀ (T, K) where it was made."""
    x = x.to(A_hat.dtype)
    if dense:
        return F.linear(x, merged(W0, B_hat, A_hat), bias), None
    z = _times(x, A_hat.T)
    if W0 is None:
        return F.linear(z, B_hat), z
    return F.linear(x, W0, bias).addmm_(z, B_hat.T), z  # in place: a large tensor costs more to allocate than to add


def _gradients(
    rule: Rule,
    plan: Plan,
    needs: Sequence[bool],
    g: Tensor,
    z: Tensor | None,
    x: Tensor,
    W0: Tensor | None,
    bias: Tensor | None,
    *parameters: Tensor,
) -> tuple[Tensor | None, ...]:
    """The gradients by x, W0, bias and the parameters, of those that are needed."""
    B_hat, A_hat = rule.value(*parameters)
    wide, g = x.to(A_hat.dtype), g.contiguous()
    to_x = to_W0 = to_bias = u = None
    to_parameters: tuple[Tensor | None, ...] = (None,) * len(parameters)
    if needs[0] and plan.input:
        to_x = _times(g, B_hat @ A_hat if W0 is None else torch.addmm(W0, B_hat, A_hat))
    elif needs[0]:
        u = _times(g, B_hat)
        to_x = u @ A_hat if W0 is None else _times(g, W0).addmm_(u, A_hat)
    if needs[1]:
        to_W0 = g.T @ wide
    if needs[2]:
        to_bias = g.sum(0)
    if any(needs[3:]):
        if plan.factors:
            G = g.T @ wide if to_W0 is None else to_W0
            to_B_hat, to_A_hat = G @ A_hat.T, B_hat.T @ G
        else:
            z = _times(wide, A_hat.T) if z is None else z
            u = _times(g, B_hat) if u is None else u
            del B_hat, A_hat  # which the gradients are as large as
            to_B_hat, to_A_hat = _across(z, g).T, _across(u, wide)
        to_parameters = rule.gradients(parameters, to_B_hat, to_A_hat)
    return None if to_x is None else to_x.to(x.dtype), to_W0, to_bias, *to_parameters


def _times(left: Tensor, right: Tensor) -> Tensor:
    """left right (M, N), of (M, L) and (L, N), where nobody asks for a derivative: by oneDNN where that is faster.

    Who multiplies is decided by size, dtype and device, so that the same product is rounded in the same way.
    """
    if _recorded() or not (ONEDNN and torch.backends.mkldnn.enabled and left.dtype == torch.float32 and left.device.type == "cpu"):
        return left @ right
    (M, L), N = left.shape, right.shape[1]
    if L == 0 or max(M * L, L * N, M * N) < LARGE:
        return left @ right
    weight = right.T
    if not (weight.is_contiguous() or right.is_contiguous()):  # rows that lie apart make it a hundred times slower
        weight = weight.contiguous()
    product: Tensor = torch.ops.mkldnn._linear_pointwise(left, weight, None, "none", [], "")
    return product


def _across(narrow: Tensor, wide: Tensor) -> Tensor:
    """narrowᵀ wide (K, n), of (T, K) and (T, n)."""
    return _times(narrow.T, wide) if wide.shape[1] >= NARROW * narrow.shape[1] else narrow.T @ wide


def _of_the_formula(rule: Rule, needs: Sequence[bool], g: Tensor, *tensors: Tensor) -> tuple[Tensor | None, ...]:
    """As `_gradients`, by operations that can be differentiated again."""
    wanted = [place for place, need in enumerate(needs) if need]

    def formula(*moving: Tensor) -> Tensor:
        at = dict(zip(wanted, moving, strict=True))
        return plain(rule, *(at.get(place, tensor) for place, tensor in enumerate(tensors)))

    _, pull, *_ = torch.func.vjp(formula, *(tensors[place] for place in wanted))
    found = dict(zip(wanted, pull(g), strict=True))
    return tuple(found.get(place) for place in range(len(needs)))
