"""What every method is: a frozen description (Method), and its parameters on a layer (Adapter).

An adapter is a map W0 -> W0 + ΔW. Where ΔW is a product of two factors (Additive), a method names
the rule that makes them; where ΔW depends on W0 it defines `delta(W0)`. Forward, merge, save and
reports follow from that one.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perakit.errors import PerakitError, short
from perakit.formulas import LARGEST_RANK, check_count

SCALINGS = ("standard", "rslora")
INITS = ("zero_B", "zero_A")


@dataclass(frozen=True)
class Method:
    """How to adapt a layer; the arguments that all methods share.

    rank: r, columns of B and rows of A.
    alpha: the update is multiplied by alpha/rank; None = rank, which is scale 1. In DoRA it is B A
    that is multiplied, inside V and before the rows are normalised.
    scaling: "standard" alpha/r, or "rslora" alpha/√r (arXiv 2312.03732).
    dropout: chance that an input feature of the update (not of W0) is dropped in training.
    init: which factor starts at zero, so that ΔW does: "zero_B" with Kaiming-uniform A (LoRA, PEFT,
    PERA's released code), or "zero_A" with Gaussian B (PERA's paper).
    """

    # Each subclass, in perakit.adapters or of a user's own, is found by its name: files and the
    # command line ask here.
    registry: ClassVar[dict[str, type[Method]]] = {}
    name: ClassVar[str]
    adapter: ClassVar[type[Adapter]]

    listed: ClassVar[bool] = True  # False: no name finds it, it is made of another method

    # What the laws (perakit.laws) ask of a method; docs/adding-a-method.md says when one is False.
    mergeable: ClassVar[bool] = True  # False: the update is not linear in the input, so no matrix
    proportional: ClassVar[bool] = True  # False: the scale acts inside a normalisation
    exact_gradient: ClassVar[bool] = True  # False: backward holds a part of the rule constant
    exact_in_float64: ClassVar[bool] = True  # False: a part keeps the parameters' first dtype

    rank: int
    alpha: float | None = None
    scaling: str = field(default="standard", kw_only=True)
    dropout: float = field(default=0.0, kw_only=True)
    init: str = field(default="zero_B", kw_only=True)

    def __init_subclass__(cls) -> None:
        name = cls.__dict__.get("name")
        other = Method.registry.get(str(name))
        place = (cls.__module__, cls.__qualname__)
        taken = other is not None and (other.__module__, other.__qualname__) != place
        if not isinstance(name, str) or taken:
            raise PerakitError(
                f"{cls.__qualname__} needs a name of its own, a string, not {name!r}: files find"
                " the method by it"
            )
        if cls.listed:
            Method.registry[name] = cls

    def __post_init__(self) -> None:
        check_count("rank", self.rank, most=LARGEST_RANK)
        if self.alpha is not None:
            check_positive("alpha", self.alpha, "or None, which means alpha = rank")
        check_choice("scaling", self.scaling, SCALINGS)
        check_choice("init", self.init, INITS)
        if not 0 < self.scale < math.inf:
            raise PerakitError(
                f"alpha={self.alpha!r} makes the scale {self.scale!r}: choose one nearer to the"
                f" rank {self.rank}"
            )
        if not _is_number(self.dropout) or not 0 <= self.dropout < 1:
            raise PerakitError(
                f"dropout={short(self.dropout)} must be a number in [0, 1): the share of inputs to"
                " drop"
            )

    @property
    def scale(self) -> float:
        """Factor of the update (in DoRA of the B A inside it): α/r, or α/√r for rsLoRA."""
        alpha = self.rank if self.alpha is None else self.alpha
        return float(alpha) / (self.rank if self.scaling == "standard" else math.sqrt(self.rank))

    def shapes(self, m: int, n: int) -> dict[str, tuple[int, ...]]:
        """Name and shape of every trainable parameter on an (m, n) layer."""
        return {"A": (self.rank, n), "B": (m, self.rank)}

    def count(self, m: int, n: int) -> int:
        """Trainable parameters on an (m, n) layer."""
        return sum(map(math.prod, self.shapes(m, n).values()))

    def rank_bound(self, m: int, n: int) -> int:
        """The largest rank that ΔW can have by construction."""
        return min(m, n, self.rank)

    def update(self, W0: Any, **factors: Any) -> Any:
        """ΔW (m, n), scale included, by the rule in `perakit.formulas`: what theory and tests read.

        W0: the frozen weight (m, n), or None where the rule does not depend on it; factors: arrays
        of any kind, named as in `shapes`.
        """
        raise NotImplementedError(
            f"{type(self).__name__} must define update(W0, **factors) -> (m, n)"
        )

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON, with the method's name; `from_dict` reads it back."""
        plain = {
            key: value.item() if isinstance(value, np.generic) else value
            for key, value in asdict(self).items()
        }
        return {"method": self.name, **plain}

    @staticmethod
    def from_dict(config: Any) -> Method:
        """The method that `to_dict` wrote; PerakitError on anything unknown."""
        options = dict(config) if isinstance(config, dict) else {}
        name = options.pop("method", None)
        if not isinstance(name, str) or name not in Method.registry:
            raise PerakitError(
                f"unknown method {name!r}: known here are {', '.join(sorted(Method.registry))}"
            )
        known = [f.name for f in fields(Method.registry[name])]
        unknown = [str(option) for option in options if option not in known]
        if unknown or "rank" not in options:
            wrong = f"has no option {', '.join(unknown)}" if unknown else "needs a rank"
            raise PerakitError(f"method {name!r} {wrong}: it takes {', '.join(known)}")
        return Method.registry[name](**options)


class Adapter(nn.Module):
    """The parameters of one method on one layer, and the ΔW they make.

    method: the description; W0 (m, n): the frozen weight, which gives shape, dtype and device.
    Parameters have dtype `promote_types(W0.dtype, float32)`: an update is too small for half
    precision. precision: the one in which they began. A subclass overrides `reset`; and `delta`, or
    what an `Additive` needs.
    """

    def __init__(self, method: Any, W0: Tensor) -> None:
        super().__init__()
        self.method = method
        self.precision = at_least_float32(W0.dtype)
        for name, shape in method.shapes(*W0.shape).items():
            start = torch.zeros(shape, dtype=self.precision, device=W0.device)
            self.register_parameter(name, nn.Parameter(start))

    def reset(self, W0: Tensor) -> None:
        """Draw the start values, with which ΔW is exactly zero."""
        raise NotImplementedError(f"{type(self).__name__} must define reset(W0)")

    def delta(self, W0: Tensor) -> Tensor:
        """ΔW (m, n), scale included, for the frozen weight W0 (m, n), float32 at least."""
        return self.method.update(W0, **dict(self.named_parameters()))

    def product(self, W0: Tensor) -> Sequence[Tensor]:
        """Matrices whose product is ΔW: two factors where it has them, else ΔW alone."""
        return (self.delta(W0.to(at_least_float32(W0.dtype))),)

    def forward(self, x: Tensor, W0: Tensor) -> Tensor:
        """ΔW x (..., m), what the layer adds to W0 x + b, for x (..., n) and W0 (m, n).

        In the adapter's precision; dropout, in training, is on this x only.
        """
        product, dropout = self.product(W0), self.method.dropout
        x = F.dropout(x, dropout, training=self.training and dropout > 0).to(product[-1].dtype)
        for matrix in reversed(product):
            x = F.linear(x, matrix)
        return x

    def began_in(self, precision: torch.dtype) -> None:
        """Say in which dtype the parameters began; a method may round to it wherever they go."""
        for part in self.modules():
            if isinstance(part, Adapter):
                part.precision = precision

    def widened(self, dtype: torch.dtype) -> Adapter:
        """A copy in `dtype`, to compute `delta` in more precision than the parameters have."""
        return copy.deepcopy(self).to(dtype)

    def extra_repr(self) -> str:
        return repr(self.method)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Adapter:
        """`model.half()` and `.to(bfloat16)` move an adapter, but to float32 at least."""

        def keep(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            low = moved.is_floating_point() and moved.dtype.itemsize < 4
            return tensor.to(moved.device, torch.float32) if low else moved

        super()._apply(keep, recurse)
        return self


class Additive(Adapter):
    """An adapter whose ΔW = B_hat A_hat does not depend on W0.

    rule: the function of `perakit.formulas` that makes the two factors of `arguments()`; a method
    without one overrides `factors`. linear: the first `method.rank` features are those of B A, as
    `theory.order_share` reads them; False where ΔW has no such part.
    """

    rule: ClassVar[Callable[..., tuple[Tensor, Tensor]]]
    linear: ClassVar[bool] = True

    A: nn.Parameter
    B: nn.Parameter

    def arguments(self) -> tuple[Any, ...]:
        """What `rule` is called with."""
        raise NotImplementedError(f"{type(self).__name__} must define arguments() or factors()")

    def factors(self) -> tuple[Tensor, Tensor]:
        """(B_hat (m, K), A_hat (K, n)), whose product is ΔW, scale included."""
        arguments = self.arguments()
        B_hat, A_hat = self.rule(*arguments)
        return self.method.scale * B_hat, A_hat

    def delta(self, W0: Tensor | None = None) -> Tensor:
        B_hat, A_hat = self.factors()
        return B_hat @ A_hat

    def product(self, W0: Tensor) -> Sequence[Tensor]:
        return self.factors()

    def forward(self, x: Tensor, W0: Tensor) -> Tensor:
        (B_hat, A_hat), dropout = self.factors(), self.method.dropout
        x = F.dropout(x, dropout, training=self.training and dropout > 0).to(A_hat.dtype)
        return F.linear(F.linear(x, A_hat), B_hat)  # (..., n) -> (..., K) -> (..., m)

    def reset(self, W0: Tensor) -> None:
        """One factor random, the other zero: `start_factors`."""
        start_factors(self.method, self.B, self.A)


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    """The dtype of an adapter's parameters on a weight of `dtype`."""
    return torch.promote_types(dtype, torch.float32)


@torch.no_grad()
def start_factors(method: Method, B: Tensor, A: Tensor) -> None:
    """One factor random, the other zero, in place, so that B A = 0.

    method: its `init` chooses; B (m, r), A (r, n).
    "zero_B": A uniform in ±1/√n (Kaiming-uniform with a = √5, as LoRA's code); "zero_A": B Gaussian
    with the same variance, 1/(3m), which is our choice.
    """
    if method.init == "zero_B":
        nn.init.kaiming_uniform_(A, a=math.sqrt(5))
        B.zero_()
    else:
        B.normal_(std=1 / math.sqrt(3 * B.shape[0]))
        A.zero_()


def check_default_init(method: Method, why: str) -> None:
    """Refuse another `init` than the first, where a method has only one start."""
    if method.init != INITS[0]:
        raise PerakitError(
            f"init={method.init!r} does not apply to {type(method).__name__}: {why}; leave init out"
        )


def check_positive(name: str, value: Any, remedy: str = "") -> None:
    """Refuse anything but a finite number > 0."""
    if not _is_number(value) or not 0 < value < math.inf:
        raise PerakitError(f"{name}={short(value)} must be a finite number > 0 {remedy}".rstrip())


def _is_number(value: Any) -> bool:
    if isinstance(value, int):
        # A larger integer need not fit a float
        return not isinstance(value, bool) and abs(value) < 2**63
    return isinstance(value, float | np.integer | np.floating)


def check_choice(name: str, value: Any, choices: Sequence[str]) -> None:
    """Refuse anything but one of `choices`."""
    if value not in choices:
        choose = ", ".join(map(repr, choices))
        raise PerakitError(f"{name}={short(value)} is unknown: choose from {choose}")
