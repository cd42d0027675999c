"""Who is measured: adapters on one frozen layer, all with the same weights, factors and inputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib.util import find_spec
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perakit import formulas
from perakit.adapters import PERA, LoRA, Method
from perakit.adapters.pera import PERAAdapter
from perakit.bench.timing import Step
from perakit.fast.expanded import Expanded
from perakit.fast.plans import PLANS, Plan, choose, flop, use_plan
from perakit.fast.product import ONEDNN
from perakit.fast.seam import RULES
from perakit.fast.seam import forward as fast_forward
from perakit.fast.sources import Factors as Sides
from perakit.models import adapters, attach, merge
from perakit.models.layers import Conv1D, kind_of


class Factors(NamedTuple):
    """B (m, r), A (r, n) and h (r(r+1)/2,), of which LoRA takes the first two."""

    B: Tensor
    A: Tensor
    h: Tensor


def draw(m: int, n: int, rank: int, like: Tensor, seed: int) -> Factors:
    """Random factors off their start, on the device of `like`, as precise as its adapters'."""
    generator = torch.Generator().manual_seed(seed)
    # Adapters are in float32 at least
    dtype = torch.promote_types(like.dtype, torch.float32)
    B, A, h = (
        torch.randn(*shape, generator=generator)
        for shape in ((m, rank), (rank, n), (rank * (rank + 1) // 2,))
    )
    return Factors(
        *(factor.to(like.device, dtype) for factor in (B / math.sqrt(m), A / math.sqrt(n), h))
    )


@dataclass(frozen=True)
class Contender:
    """One who is measured: a name of BUILDERS, at rank r.

    rank: for the base that of the adapters beside it; plan: forced on perakit's own layers, None:
    they choose.
    """

    name: str
    rank: int
    plan: Plan | None = None

    @property
    def inner(self) -> int:
        """K, the columns of the factors that x is multiplied with."""
        if self.name == "base":
            return 0
        linear = self.name in ("plain lora", "lora", "peft r")
        return self.rank if linear else formulas.rank_bound(self.rank)

    @property
    def forced(self) -> Plan | Literal["reference"] | None:
        """What its step is told to follow."""
        return "reference" if self.name == "pera plain" else self.plan

    def build(self, base: nn.Module, factors: Factors) -> nn.Module:
        """The adapted layer. It shares `base`, which is frozen and may carry any number of them."""
        return BUILDERS[self.name](base, factors)

    def flop(self, T: int, m: int, n: int, fused: bool) -> int:
        """Counted operations of the adapter's forward and backward pass, without its base's.

        Arguments are those of `plans.flop`.
        """
        if self.name not in OURS:
            return 6 * self.inner * (m + n) * T
        return flop(self.plan or choose(T, m, n, self.inner, fused), T, m, n, self.inner, fused)

    def forward_flop(self, T: int, m: int, n: int, fused: bool) -> int:
        """As `flop`, of the forward pass alone."""
        one = 2 * self.inner * (m + n) * T
        if self.name == "merged":
            return 0
        # Through the factors, or through W0 + ΔW where that is cheaper
        return min(one, 2 * m * n * self.inner) if fused and self.name != "plain lora" else one

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON."""
        plan = str(self.plan) if self.plan else "auto" if self.name in OURS else None
        return {"contender": self.name, "rank": self.rank, "inner": self.inner, "plan": plan}


# --- how each is built ----------------------------------------------------------------------------


class _Beside(nn.Module):
    """base(x) + B̂ (Â x) by plain autograd, rounded once to the base's dtype."""

    B: nn.Parameter
    A: nn.Parameter

    def __init__(self, base: nn.Module, **factors: Tensor) -> None:
        super().__init__()
        self.base = base
        for name, factor in factors.items():
            self.register_parameter(name, nn.Parameter(factor.clone()))

    def factors(self) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        B_hat, A_hat = self.factors()
        y = self.base(x)
        return (y + F.linear(F.linear(x.to(A_hat.dtype), A_hat), B_hat)).to(y.dtype)


class PlainLoRA(_Beside):
    """LoRA as anybody would write it."""

    def factors(self) -> tuple[Tensor, Tensor]:
        """(B, A)."""
        return self.B, self.A


class Authors(_Beside):
    """PERA by the authors' algorithm, written from its description.

    It makes all r² products of pairs, and takes the upper triangle.
    """

    h: nn.Parameter
    pairs: Tensor

    def __init__(self, base: nn.Module, B: Tensor, A: Tensor, h: Tensor) -> None:
        super().__init__(base, B=B, A=A, h=h)
        self.register_buffer(
            "pairs", torch.triu_indices(B.shape[1], B.shape[1], device=B.device), persistent=False
        )

    def factors(self) -> tuple[Tensor, Tensor]:
        """(B̂ (m, K), Â (K, n)), with an (m, r, r) and an (n, r, r) tensor on the way."""
        B, A = self.B, self.A.T  # (m, r), (n, r)
        i, j = self.pairs
        of_B = (B[:, :, None] * B[:, None, :])[:, i, j]  # (m, r, r) -> (m, K - r)
        of_A = (A[:, :, None] * A[:, None, :])[:, i, j]  # (n, r, r) -> (n, K - r)
        return torch.cat([B, of_B], 1), torch.cat([A, self.h * of_A], 1).T


@cache
def _pairs(device: torch.device, rank: int) -> tuple[Tensor, Tensor]:
    i, j = torch.triu_indices(rank, rank, device=device)
    return i, j


def gathered(
    B: Tensor, A: Tensor, h: Tensor, terms: str = "full", degree: int = 2
) -> tuple[Tensor, Tensor]:
    """PERA's factors (B̂ (m, K), Â (K, n)) as perakit's prototype made them, by `index_select`."""
    i, j = _pairs(B.device, B.shape[1])
    of_B = B.index_select(1, i) * B.index_select(1, j)
    of_A = A.index_select(0, i) * A.index_select(0, j)
    return torch.cat([B, of_B], 1), torch.cat([A, h[:, None] * of_A])


@dataclass(frozen=True)
class Gathered(Expanded):
    """The factors of `gathered`, whose gradients autograd makes."""

    def plain(self, *parameters: Tensor) -> tuple[Tensor, Tensor]:
        """(B̂ (m, K), Â (K, n))."""
        B, A, h = parameters
        return gathered(B, A, h)

    def value(self, *parameters: Tensor) -> Sides:
        """The same."""
        return Sides(*self.plain(*parameters))

    def gradients(
        self,
        parameters: Sequence[Tensor],
        factors: Sides,
        to_left: Tensor,
        to_right: Tensor,
        to_weight: Tensor | None,
    ) -> tuple[Tensor, ...]:
        """By autograd, through the expansion made once more."""
        leaves = [parameter.detach().requires_grad_() for parameter in parameters]
        with torch.enable_grad():
            return torch.autograd.grad(self.plain(*leaves), leaves, (to_left.T, to_right))


RULES[gathered] = (Gathered, 3)


class GatheredAdapter(PERAAdapter):
    """PERA's parameters under the prototype's rule."""

    rule = staticmethod(gathered)


class Prototype(nn.Module):
    """PERA with perakit's function and plans, but with the expansion of its prototype.

    perakit's own expansion is measured against it.
    """

    def __init__(self, base: nn.Module, B: Tensor, A: Tensor, h: Tensor) -> None:
        super().__init__()
        self.base, self.kind = base, kind_of(base)
        self.adapter = GatheredAdapter(PERA(A.shape[0]), B @ A)
        with torch.no_grad():
            for name, factor in {"B": B, "A": A, "h": h}.items():
                self.adapter.get_parameter(name).copy_(factor)

    def forward(self, x: Tensor) -> Tensor:
        """As an adapted layer's."""
        base: Any = self.base
        assert self.kind is not None
        y = fast_forward(x, self.kind.weight(base), base.bias, F.linear, [self.adapter])
        assert y is not None, "the prototype is measured where nothing watches"
        return y


def _attached(method: type[Method], base: nn.Module, factors: Factors) -> nn.Sequential:
    """perakit's adapter on the one layer of a model."""
    model = nn.Sequential(base)
    attach(model, method(factors.A.shape[0]), "all-linear")
    with torch.no_grad():
        for name, parameter in adapters(model)["0"].named_parameters():
            parameter.copy_(getattr(factors, name))
    return model


def _merged(base: nn.Module, factors: Factors) -> nn.Module:
    model = _attached(PERA, base, factors)
    merge(model)
    return model[0]


def _peft(base: nn.Module, B: Tensor, A: Tensor) -> nn.Module:
    """PEFT's LoRA layer with these factors: alone, as it stands in a model that PEFT adapted."""
    import peft

    rank = A.shape[0]
    config = peft.LoraConfig(
        r=rank, lora_alpha=rank, target_modules=["0"], fan_in_fan_out=Conv1D.fits(base)
    )
    layer: Any = peft.get_peft_model(nn.Sequential(base), config).get_submodule(
        "base_model.model.0"
    )
    with torch.no_grad():
        layer.lora_A["default"].weight.copy_(A)
        layer.lora_B["default"].weight.copy_(B)
    return layer


BUILDERS: dict[str, Callable[[nn.Module, Factors], nn.Module]] = {
    "base": lambda base, _: base,
    "plain lora": lambda base, factors: PlainLoRA(base, B=factors.B, A=factors.A),
    "lora": lambda base, factors: _attached(LoRA, base, factors)[0],
    "pera": lambda base, factors: _attached(PERA, base, factors)[0],
    # And `by_mkl` for its steps
    "pera mkl": lambda base, factors: _attached(PERA, base, factors)[0],
    # And under use_plan("reference")
    "pera plain": lambda base, factors: _attached(PERA, base, factors)[0],
    "prototype": lambda base, factors: Prototype(base, *factors),
    "authors": lambda base, factors: Authors(base, *factors),
    "peft r": lambda base, factors: _peft(base, factors.B, factors.A),
    "peft K": lambda base, factors: _peft(base, *formulas.expand(*factors)),
    "merged": _merged,
    "pera cached": lambda base, factors: _attached(PERA, base, factors)[0].eval(),
    # a layer that trains keeps no expansion
    "pera expanded": lambda base, factors: _attached(PERA, base, factors)[0].train(),
}
# Contenders whose products are made by a plan
OURS = ("lora", "pera", "pera mkl", "prototype", "pera cached", "pera expanded")


def contenders(part: str, ranks: Iterable[int], mkl: bool = False) -> list[Contender]:
    """Who takes part in a measurement of layers.

    part: "layers", "plans" or "inference". PEFT's LoRA takes part where PEFT is installed.
    mkl: part "layers" also has PERA by MKL's products alone, which shows what oneDNN's save; not
    where torch has no oneDNN to choose.
    """
    if part == "plans":
        return [
            Contender(name, rank, plan)
            for rank in ranks
            for name in ("lora", "pera")
            for plan in (None, *PLANS)
        ]
    ours = ("lora", "pera", "pera mkl") if mkl and ONEDNN else ("lora", "pera")
    names = {
        "layers": ("base", "plain lora", *ours, "prototype", "authors", *PEFT),
        "inference": ("base", "merged", "pera cached", "pera expanded", "plain lora"),
    }
    return [Contender(name, rank) for rank in ranks for name in installed(names[part])]


PEFT = ("peft r", "peft K")


def installed(names: Iterable[str]) -> list[str]:
    """The names of contenders that can take part here."""
    return [name for name in names if name not in PEFT or find_spec("peft")]


# --- the steps that are timed ---------------------------------------------------------------------


def steps(
    contenders: Sequence[Contender],
    m: int,
    n: int,
    tokens: int,
    dtype: torch.dtype,
    device: str,
    seed: int,
    training: bool = True,
) -> dict[Contender, Step]:
    """A step of each contender on one (m, n) layer, all with the same W0, bias, factors and inputs.

    training: y = layer(x) and y.backward(g), with gradients of x and the factors; old gradients are
    dropped before, off the clock. False: y alone, without gradients. Factors are in float32 at
    least, on a bfloat16 base too.
    """
    generator = torch.Generator().manual_seed(seed)
    base = nn.Linear(n, m)
    with torch.no_grad():
        for parameter in base.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / math.sqrt(n))
    base.requires_grad_(False).to(device, dtype)
    x, g = (torch.randn(tokens, width, generator=generator).to(device, dtype) for width in (n, m))
    factors = {
        rank: draw(m, n, rank, base.weight, seed) for rank in {one.rank for one in contenders}
    }
    layers = {one: one.build(base, factors[one.rank]) for one in contenders}
    if training:
        x.requires_grad_()
        steps = {one: training_step(layer, one.forced, x, g) for one, layer in layers.items()}
        mkl = {one: by_mkl(step) for one, step in steps.items() if one.name == "pera mkl"}
        return steps | mkl
    return {one: Step(torch.no_grad()(partial(layer, x))) for one, layer in layers.items()}


def training_step(
    layer: nn.Module, plan: Plan | Literal["reference"] | None, x: Tensor, g: Tensor
) -> Step:
    """Forward and backward of one layer; the gradients are left in x and in its parameters."""

    def run() -> None:
        layer(x).backward(g)

    def planned() -> None:
        with use_plan(plan):
            y = layer(x)
        y.backward(g)

    leaves = [x, *(one for one in layer.parameters() if one.requires_grad)]

    def reset() -> None:
        for leaf in leaves:
            leaf.grad = None

    # A block around nothing is a twentieth of the smallest step
    return Step(planned if plan else run, reset)


def by_mkl(step: Step) -> Step:
    """The same step with oneDNN switched off, as `torch.backends.mkldnn.enabled = False` does."""

    def run() -> None:
        before = torch._C._get_mkldnn_enabled()
        torch._C._set_mkldnn_enabled(False)
        try:
            step.run()
        finally:
            torch._C._set_mkldnn_enabled(before)

    return Step(run, step.reset)
