"""MoRA, a square matrix in place of two factors, arXiv 2405.12130."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from perakit import formulas
from perakit.adapters.base import Additive, Method, check_default_init
from perakit.errors import PerakitError


class MoRAAdapter(Additive):
    rule = staticmethod(formulas.tile)
    linear = False

    M: nn.Parameter

    def __init__(self, method: MoRA, W0: Tensor) -> None:
        super().__init__(method, W0)
        self.shape = tuple(W0.shape)  # M itself does not say how often it is repeated

    def arguments(self) -> tuple[Any, ...]:
        return self.M, *self.shape

    def reset(self, W0: Tensor) -> None:
        nn.init.zeros_(self.M)


@dataclass(frozen=True)
class MoRA(Method):
    """One square matrix, repeated over the layer: ΔW[p, q] = s M[p mod r̂, q mod r̂].

    M (r̂, r̂) with r̂ = floor(√((m+n) r) + 1/2) starts at zero. Arguments as in `Method`, but not
    `init`, which has nothing to choose. r̂² trainable parameters a layer, about LoRA's r(m+n), and
    rank up to r̂, not r; rows p and p + r̂ of ΔW are equal, and so are columns. Where r̂ > m or
    r̂ > n only the entries of M in its first m rows and n columns are trained to any effect: the
    others are counted, and never read. This is the sharing form, linear in the input; the paper's
    rotating form is not here. Rule: `formulas.mora`.

    >>> MoRA(rank=8).shapes(768, 768), MoRA(rank=8).rank_bound(768, 768)
    ({'M': (111, 111)}, 111)
    """

    name = "mora"
    adapter = MoRAAdapter

    def __post_init__(self) -> None:
        super().__post_init__()
        check_default_init(self, "its one matrix M starts at zero")

    def shapes(self, m: int, n: int) -> dict[str, tuple[int, ...]]:
        size = formulas.mora_size(m, n, self.rank)
        return {"M": (size, size)}

    def rank_bound(self, m: int, n: int) -> int:
        return min(m, n, formulas.mora_size(m, n, self.rank))

    def update(self, W0: Any, **factors: Any) -> Any:
        """As any method's; of W0 only the shape is read."""
        if W0 is None:
            raise PerakitError(
                "W0=None has no shape: MoRA reads no more of it; pass any array (m, n)"
            )
        return self.scale * formulas.mora(**factors, m=W0.shape[0], n=W0.shape[1])
