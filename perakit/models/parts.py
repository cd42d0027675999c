"""A method on parts of a fused layer, as on q and v of GPT-2's c_attn, LoRA's own choice."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from perakit.adapters.base import Adapter, Method, at_least_float32
from perakit.errors import PerakitError, short

NAMES = ("q", "k", "v")  # each a third of the layer's rows, from the first to the last
SHARED = ("rank", "alpha", "scaling", "dropout", "init")
LAWS = ("mergeable", "proportional", "exact_gradient", "exact_in_float64")


class PartsAdapter(Adapter):
    """One adapter a part, each with that part's rows for its W0."""

    def __init__(self, method: Parts, W0: Tensor) -> None:
        nn.Module.__init__(self)
        self.method, self.precision = method, at_least_float32(W0.dtype)
        for part in method.parts:
            self.add_module(part, method.of.adapter(method.of, rows(W0, part)))

    def each(self, W0: Tensor) -> list[tuple[Any, Tensor]]:
        """The adapter of each part, and its W0 (m/3, n)."""
        return [(self.get_submodule(part), rows(W0, part)) for part in self.method.parts]

    def reset(self, W0: Tensor) -> None:
        for adapter, part in self.each(W0):
            adapter.reset(part)

    def delta(self, W0: Tensor) -> Tensor:
        return stacked(self.method.parts, [adapter.delta(part) for adapter, part in self.each(W0)])

    def product(self, W0: Tensor) -> Sequence[Tensor]:
        products = [tuple(adapter.product(part)) for adapter, part in self.each(W0)]
        if not all(len(product) == 2 for product in products):
            return super().product(W0)
        B_hat = torch.block_diag(*(left for left, _ in products))  # (parts m/3, ΣK)
        A_hat = torch.cat([right for _, right in products])  # (ΣK, n)
        return stacked(self.method.parts, B_hat.chunk(len(products))), A_hat


@dataclass(frozen=True)
class Parts(Method):
    """Another method on some thirds of a layer's rows, each with factors of its own.

    of: that method; parts: of "q", "k", "v". ΔW is zero in the rows of the others. Rank, alpha and
    the other arguments of every method are those of each part. Made by `Parts.on`, or by
    `attach(model, method, ["c_attn[q,v]"])`. Source: arXiv 2106.09685, section 4.2.

    >>> Parts.on(pk.LoRA(rank=8), "qv").count(3 * 768, 768)  # two of 768 x 768
    24576
    """

    name = "parts"
    adapter = PartsAdapter
    listed = False  # it is a method only together with another

    of: Method = field(kw_only=True)
    parts: tuple[str, ...] = field(kw_only=True)

    @classmethod
    def on(cls, method: Method, parts: Iterable[str]) -> Parts:
        """`method` on these parts."""
        shared = {name: getattr(method, name) for name in SHARED}
        return cls(**shared, of=method, parts=tuple(parts))

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.parts or self.parts != tuple(name for name in NAMES if name in self.parts):
            raise PerakitError(
                f"parts={short(self.parts)}: name some of {', '.join(NAMES)}, in this order"
            )
        if not self.of.mergeable:
            raise PerakitError(
                f"{self.of.name!r} has no matrix ΔW, of which parts could be zero: target the whole"
                " layer"
            )
        same = replace(self.of, **{name: getattr(self, name) for name in SHARED})
        for name, value in (("of", same), *((law, getattr(same, law)) for law in LAWS)):
            object.__setattr__(self, name, value)

    def shapes(self, m: int, n: int) -> dict[str, tuple[int, ...]]:
        own = self.of.shapes(m // len(NAMES), n)
        return {f"{part}.{key}": shape for part in self.parts for key, shape in own.items()}

    def rank_bound(self, m: int, n: int) -> int:
        """The sum over the parts, as far as the layer has rows and columns.

        MoRA's parts share the space of their rows, and do not attain it.
        """
        return min(m, n, len(self.parts) * self.of.rank_bound(m // len(NAMES), n))

    def update(self, W0: Any, **factors: Any) -> Any:
        updates = []
        for part in self.parts:
            own = {key[2:]: value for key, value in factors.items() if key.startswith(f"{part}.")}
            updates.append(self.of.update(None if W0 is None else rows(W0, part), **own))
        return stacked(self.parts, updates)

    def to_dict(self) -> dict[str, Any]:
        return self.of.to_dict() | {"parts": list(self.parts)}


def rows(W0: Any, part: str) -> Any:
    """The rows (m/3, n) of a part."""
    size, place = W0.shape[0] // len(NAMES), NAMES.index(part)
    return W0[place * size : (place + 1) * size]


def stacked(parts: Sequence[str], updates: Sequence[Any]) -> Any:
    """The updates of the parts in their rows (m, ...), zeros in the others; arrays of any kind."""
    join: Any = torch.cat if isinstance(updates[0], Tensor) else np.concatenate
    found = dict(zip(parts, updates, strict=True))
    return join([found.get(name, 0 * updates[0]) for name in NAMES])
