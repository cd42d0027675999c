"""The layers that PERA's authors tried: those of their repository's first commit that PERA is not.

The repository is zhangwenhao6/PERA, the commit 3b9c930 of 12 April 2026. Each file there is PERA
with other numbers w in the place of h: ΔW = s (B A + Σ_{i<=j} w_ij (b_i∘b_j)(a_i∘a_j)ᵀ). Where a
file has a vector h on the products of A and a vector v on those of B, w is their product, since
(v b)(h a)ᵀ = h v b aᵀ. Nobody finds them by name outside of `known`: they are there to be compared.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from perakit import formulas
from perakit.adapters.base import Additive, Method


class VariantAdapter(Additive):
    """PERA's factors, with the method's weights in the place of h."""

    rule = staticmethod(formulas.expand)

    fixed: Tensor

    def __init__(self, method: Variant, W0: Tensor) -> None:
        super().__init__(method, W0)
        fixed = torch.tensor(method.fixed(), dtype=self.precision, device=W0.device)
        self.register_buffer("fixed", fixed, persistent=False)

    def arguments(self) -> tuple[Any, ...]:
        """Those of PERA, with w for h."""
        vectors = [getattr(self, name) for name in self.method.starts]
        return self.B, self.A, math.prod([self.fixed, *vectors]), "full", 2

    def reset(self, W0: Tensor) -> None:
        """A and B as everywhere, so ΔW = 0; each vector at the number it starts from."""
        super().reset(W0)
        for name, start in self.method.starts.items():
            nn.init.constant_(self.get_parameter(name), start)


class Variant(Method):
    """What the variants share; arguments as in `Method`. Rule: `formulas.pera`.

    w is the product of a fixed weight and of trained vectors, one entry a product b_i∘b_j each.
    cross: the fixed weight where i < j; it is 1 where i = j. starts: the vectors, and the number
    that each starts from: "h" stands on the products of A, "v" on those of B.
    """

    name = "pera-variant"
    listed = False
    adapter = VariantAdapter

    starts: ClassVar[Mapping[str, float]] = {}
    cross: ClassVar[int] = 1

    def fixed(self) -> np.ndarray:
        """The fixed weights (r(r+1)/2,), in the order of h."""
        i, j = formulas.pairs(self.rank)
        return np.where(i == j, 1, self.cross)

    def shapes(self, m: int, n: int) -> dict[str, tuple[int, ...]]:
        """A, B and the vectors, r(r+1)/2 long."""
        products = formulas.rank_bound(self.rank) - self.rank
        return super().shapes(m, n) | dict.fromkeys(self.starts, (products,))

    def rank_bound(self, m: int, n: int) -> int:
        """PERA's."""
        return min(m, n, formulas.rank_bound(self.rank))

    def update(self, W0: Any, **factors: Any) -> Any:
        """PERA's ΔW (m, n), with w for h."""
        B, A, vectors = factors.pop("B"), factors.pop("A"), factors.values()
        fixed = A.new_tensor(self.fixed()) if isinstance(A, Tensor) else self.fixed()
        return self.scale * formulas.pera(B, A, math.prod([fixed, *vectors]))


class Kernel(Variant):
    """`lora.py`: squares weigh 1 and crosses 2, which is ΔW = s (B A + (B A)∘(B A)).

    >>> Kernel(rank=8).count(768, 768), Kernel(rank=8).rank_bound(768, 768)  # LoRA's, and PERA's
    (12288, 44)
    """

    name = "pera-kernel"
    cross = 2


class Ones(Variant):
    """`lora_@3.py`: every product weighs 1."""

    name = "pera-ones"


class BothZero(Variant):
    """`lora_@2.py`: h and v both from 0, and each is multiplied by the other: neither ever moves.

    >>> BothZero(rank=8).count(768, 768)  # two vectors of 36
    12360
    """

    name = "pera-both-0"
    starts: ClassVar = {"h": 0, "v": 0}


class BothOne(Variant):
    """`lora_@4.py`: h and v both from 1."""

    name = "pera-both-1"
    starts: ClassVar = {"h": 1, "v": 1}


class HOne(Variant):
    """`lora_@5.py`: h from 1. The file also makes a v, which nothing reads: left out here."""

    name = "pera-h-1"
    starts: ClassVar = {"h": 1}


class OnB(Variant):
    """`lora_@6.py`: v from 0 and no h, which as a matrix is PERA."""

    name = "pera-v"
    starts: ClassVar = {"v": 0}


class Polynomial(Variant):
    """The file called "polynomial": h from 0, v from 1."""

    name = "pera-polynomial"
    starts: ClassVar = {"h": 0, "v": 1}


@contextmanager
def known() -> Iterator[None]:
    """The variants are in `Method.registry` here, so that files and the laws find them by name.

    >>> with known():
    ...     print(pk.Method.from_dict({"method": "pera-kernel", "rank": 2}).cross)
    2
    >>> "pera-kernel" in pk.Method.registry
    False
    """
    ours = {cls.name: cls for cls in Variant.__subclasses__() if cls.name not in Method.registry}
    Method.registry.update(ours)
    try:
        yield
    finally:
        for name in ours:
            del Method.registry[name]
