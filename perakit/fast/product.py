"""The adapted product as one differentiable function, which keeps x and the parameters and makes
the rest again.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from perakit.adapters.plans import Plan


def _processor() -> str:
    """What the system says of the first processor."""
    try:
        with Path("/proc/cpuinfo").open() as file:
            return file.read(1000)
    except OSError:
        return platform.processor()


def _onednn(processor: str) -> bool:
    """Whether oneDNN is to have large float32 products on a CPU.

    torch gives them to MKL where it has that. oneDNN, which it then has too, was faster on AMD's
    processors at matrices that leave a core's cache, and slower on Intel's, where MKL is at home:
    docs/performance.md.
    """
    return (
        torch.backends.mkl.is_available()
        and torch.backends.mkldnn.is_available()
        and "Intel" not in processor
    )


ONEDNN = _onednn(_processor())
LARGE = 2**18  # numbers in the largest matrix of such a product: 1 MiB
# Times narrower than the other is a side with which it was so where tokens are summed over
NARROW = 4


class Factors(NamedTuple):
    """ΔW = B̂ diag(weight) Â, of B_hat (m, K), A_hat (K, n) and weight (K,).

    weight: None is all ones; where there is one, B_hat and A_hat are memory of their own, in which
    their gradients may be written, and K may be larger than the rule's `shape` says, by columns
    that have no weight.
    made_of: what the rule wants back beside those.
    """

    B_hat: Tensor
    A_hat: Tensor
    weight: Tensor | None = None
    made_of: Tensor | None = None


class Rule(Protocol):
    """How parameters become the factors (B_hat (m, K), A_hat (K, n)), and how gradients go back
    through that.
    """

    @property
    def settings(self) -> object:
        """What the factors depend on besides the parameters; equal where they are the same."""

    def __call__(self, *parameters: Tensor) -> tuple[Tensor, Tensor]:
        """The factors, by operations that autograd can follow."""

    def value(self, *parameters: Tensor) -> Factors:
        """Factors of the same ΔW where nobody asks for a derivative, by whatever operations are
        fast.
        """

    def shape(self, *parameters: Tensor) -> tuple[int, int]:
        """(m, K), the shape of B_hat."""

    def gradients(
        self,
        parameters: Sequence[Tensor],
        factors: Factors,
        to_left: Tensor,
        to_right: Tensor,
        to_weight: Tensor | None,
    ) -> tuple[Tensor, ...]:
        """The gradients by the parameters, from those by B_hatᵀ (K, m), A_hat (K, n) and weight
        (K,) of `factors`, its `value`.
        """


class Given:
    """The rule of factors that are parameters themselves."""

    settings = None

    def __call__(self, *parameters: Tensor) -> tuple[Tensor, Tensor]:
        B_hat, A_hat = parameters
        return B_hat, A_hat

    def value(self, *parameters: Tensor) -> Factors:
        return Factors(*parameters)

    def shape(self, *parameters: Tensor) -> tuple[int, int]:
        m, K = parameters[0].shape
        return m, K

    def gradients(
        self,
        parameters: Sequence[Tensor],
        factors: Factors,
        to_left: Tensor,
        to_right: Tensor,
        to_weight: Tensor | None,
    ) -> tuple[Tensor, ...]:
        return to_left.T, to_right


class Expansion(Sequence[Tensor]):
    """(B_hat, A_hat) as a rule and the parameters it reads: expanded where somebody looks, so that
    nobody need keep them.

    kept: where the last expansion may be found again, for a forward pass that asks for no
    derivative; None makes it each time.
    """

    def __init__(self, rule: Rule, *parameters: Tensor, kept: Kept | None = None) -> None:
        self.rule, self.parameters, self.kept = rule, parameters, kept
        self.shape = rule.shape(*parameters)  # (m, K)

    def value(self) -> Factors:
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
    """The last expansion, beside a copy of what it was made of; a copy of this, or a pickle, is
    empty.

    Compared by value at each use, since a parameter can be written in ways that leave no trace
    (`p.data.copy_`): r (m + n) numbers are read where K (m + n) would be written.
    """

    def __init__(self) -> None:
        self.last: tuple[object, tuple[Tensor, ...], Factors] | None = None

    def clear(self) -> None:
        """Free the memory."""
        self.last = None

    def factors(self, rule: Rule, parameters: Sequence[Tensor]) -> Factors:
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


def plain(
    rule: Rule, x: Tensor, W0: Tensor | None, bias: Tensor | None, *parameters: Tensor
) -> Tensor:
    """The formula, W0 x + b + B̂ (Â x), as a reader would write it: what the function below must
    agree with.
    """
    B_hat, A_hat = rule(*parameters)
    update = F.linear(F.linear(x.to(A_hat.dtype), A_hat), B_hat)
    return update if W0 is None else F.linear(x, W0, bias) + update


def merged(W0: Tensor | None, *factors: Tensor) -> Tensor:
    """W0 + ΔW in W0's memory layout, so that ΔW = 0 changes no bit of what is made with it; without
    W0 ΔW alone.

    factors: (B_hat, A_hat), or (ΔW,).
    """
    if W0 is None:
        return factors[0] if len(factors) == 1 else factors[0] @ factors[1]
    m, n = W0.shape
    if W0.stride() == (1, m) != (n, 1):  # a Conv1D's, whose transpose is what lies in memory
        return merged(W0.T, *(factor.T for factor in reversed(factors))).T
    # In place: addmm would write a copy of W0 first, and add to that.
    return W0 + factors[0] if len(factors) == 1 else (factors[0] @ factors[1]).add_(W0)


class AdaptedProduct(torch.autograd.Function):
    """x (T, n) -> x W0ᵀ + b + x ΔWᵀ (T, m), by a plan; W0 None: x ΔWᵀ alone, in the factors' dtype.

    Keeps x, the parameters and, where neither the output nor the factor gradients are dense, z = x
    Âᵀ (T, K).
    """

    @staticmethod
    def forward(
        ctx: Any,
        rule: Rule,
        plan: Plan,
        x: Tensor,
        W0: Tensor | None,
        bias: Tensor | None,
        *parameters: Tensor,
    ) -> Tensor:
        y, z = multiply(plan.output, x, W0, bias, rule.value(*parameters))
        ctx.rule, ctx.plan = rule, plan
        ctx.save_for_backward(None if plan.factors else z, x, W0, bias, *parameters)
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        z, *tensors = ctx.saved_tensors
        needs = ctx.needs_input_grad[2:]
        # Someone wants the gradient's gradient, or many gradients at once: torch finds them in the
        # formula.
        if torch.is_grad_enabled() or (not torch.compiler.is_compiling() and _batched(g)):
            return None, None, *_of_the_formula(ctx.rule, needs, g, *tensors)
        # On now, and not in the forward pass
        with torch.autocast(g.device.type, enabled=False) if autocasts(g) else nullcontext():
            return None, None, *_gradients(ctx.rule, ctx.plan, needs, g, z, *tensors)


def _batched(g: Tensor) -> bool:
    return (
        torch._C._are_functorch_transforms_active()
        or torch._C._functorch.is_legacy_batchedtensor(g)
    )


def autocasts(x: Tensor) -> bool:
    """Whether autocast is on where x lies."""
    return torch.amp.is_autocast_available(x.device.type) and torch.is_autocast_enabled(
        x.device.type
    )


def multiply(
    dense: bool, x: Tensor, W0: Tensor | None, bias: Tensor | None, factors: Factors
) -> tuple[Tensor, Tensor | None]:
    """The output of `AdaptedProduct` (T, m), and z = x Âᵀ (T, K) where it was made."""
    B_hat, A_hat, weight, _ = factors
    x = x.to(A_hat.dtype)
    if dense:
        return F.linear(x, merged(W0, B_hat, _weighted(A_hat.T, weight).T), bias), None
    z = _times(x, A_hat.T)
    weighted = _weighted(z, weight)
    if W0 is None:
        return F.linear(weighted, B_hat), z
    # In place: a large tensor costs more to allocate than to add
    return F.linear(x, W0, bias).addmm_(weighted, B_hat.T), z


def _weighted(X: Tensor, weight: Tensor | None) -> Tensor:
    """The columns of X (..., K), each times its weight; X itself where there is none."""
    return X if weight is None else X * weight


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
    factors = rule.value(*parameters)
    B_hat, A_hat, weight, _ = factors
    wide, g = x.to(A_hat.dtype), g.contiguous()
    to_x = to_W0 = to_bias = weighted = None
    to_parameters: tuple[Tensor | None, ...] = (None,) * len(parameters)
    to_factors = any(needs[3:])
    if (needs[0] and not plan.input) or (to_factors and not plan.factors):
        u = _times(g, B_hat)  # (T, m) @ (m, K) -> (T, K)
    if needs[0] and plan.input:
        to_x = _times(g, merged(W0, _weighted(B_hat, weight), A_hat))
    elif needs[0]:
        weighted = _weighted(u, weight)
        to_x = weighted @ A_hat if W0 is None else _times(g, W0).addmm_(weighted, A_hat)
    if needs[1]:
        to_W0 = g.T @ wide
    if needs[2]:
        to_bias = g.sum(0)
    if to_factors and plan.factors:
        G = g.T @ wide if to_W0 is None else to_W0  # (m, n)
        to_parameters = rule.gradients(
            parameters, factors, *_to_factors(factors, A_hat.T, G.T, B_hat, G)
        )
    elif to_factors:
        z = _times(wide, A_hat.T) if z is None else z  # (T, n) @ (n, K) -> (T, K)
        if weight is None or wide.shape[0] >= wide.shape[1]:
            found = _to_factors(factors, z, g, u, wide)
        # Few tokens: they are weighted themselves, and nobody needs the factors any more, whose
        # memory is at hand
        else:
            to_weight = torch.linalg.vecdot(z, u, dim=0)
            weighted = _weighted(u, weight) if weighted is None else weighted
            found = (
                _across(_weighted(z, weight), g, B_hat.T),
                _across(weighted, wide, A_hat),
                to_weight,
            )
        to_parameters = rule.gradients(parameters, factors, *found)
    return None if to_x is None else to_x.to(x.dtype), to_W0, to_bias, *to_parameters


def _to_factors(
    factors: Factors, z: Tensor, g: Tensor, u: Tensor, x: Tensor
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The gradients by B̂ᵀ (K, m), Â (K, n) and the weight (K,); z, g, u, x: such that without a
    weight the first two are zᵀg and uᵀx.
    """
    to_left, to_right = _across(z, g), _across(u, x)
    if factors.weight is None:
        return to_left, to_right, None
    to_weight, column = (to_right * factors.A_hat).sum(1), factors.weight[:, None]
    return to_left.mul_(column), to_right.mul_(column), to_weight


def _times(left: Tensor, right: Tensor, out: Tensor | None = None) -> Tensor:
    """left right (M, N), of (M, L) and (L, N), where nobody asks for a derivative: by oneDNN where
    that is faster; into `out` if given.

    Who multiplies is decided by size, dtype and device, so that the same product is rounded in the
    same way.
    """
    if (
        not ONEDNN
        or _recorded()
        or not (
            torch.backends.mkldnn.enabled
            and left.dtype == torch.float32
            and left.device.type == "cpu"
        )
    ):
        return torch.mm(left, right, out=out)
    (M, L), N = left.shape, right.shape[1]
    if L == 0 or max(M * L, L * N, M * N) < LARGE:
        return torch.mm(left, right, out=out)
    weight = right.T
    # Rows that lie apart make it a hundred times slower
    if not (weight.is_contiguous() or right.is_contiguous()):
        weight = weight.contiguous()
    product: Tensor = torch.ops.mkldnn._linear_pointwise(left, weight, None, "none", [], "")
    return product if out is None else out.copy_(product)


def _across(narrow: Tensor, wide: Tensor, out: Tensor | None = None) -> Tensor:
    """narrowᵀ wide (K, n), of (T, K) and (T, n), written into `out` if that is given."""
    if wide.shape[1] < NARROW * narrow.shape[1]:
        return torch.mm(narrow.T, wide, out=out)
    return _times(narrow.T, wide, out)


def _of_the_formula(
    rule: Rule, needs: Sequence[bool], g: Tensor, *tensors: Tensor
) -> tuple[Tensor | None, ...]:
    """As `_gradients`, by operations that can be differentiated again."""
    wanted = [place for place, need in enumerate(needs) if need]

    def formula(*moving: Tensor) -> Tensor:
        at = dict(zip(wanted, moving, strict=True))
        return plain(rule, *(at.get(place, tensor) for place, tensor in enumerate(tensors)))

    _, pull, *_ = torch.func.vjp(formula, *(tensors[place] for place in wanted))
    found = dict(zip(wanted, pull(g), strict=True))
    return tuple(found.get(place) for place in range(len(needs)))
