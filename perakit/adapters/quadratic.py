"""A contrast to PERA: polynomial in the layer's input, and so no matrix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perakit import formulas
from perakit.adapters.base import Adapter, Method, check_default_init, start_factors
from perakit.errors import PerakitError


class QuadraticAdapter(Adapter):
    U: nn.Parameter
    P: nn.Parameter

    def forward(self, x: Tensor, W0: Tensor) -> Tensor:
        method = self.method
        x = F.dropout(x, method.dropout, training=self.training and method.dropout > 0)
        return method.scale * formulas.quadratic(x.to(self.U.dtype), self.U, self.P)

    def product(self, W0: Tensor) -> Sequence[Tensor]:
        refuse()

    def delta(self, W0: Tensor) -> Tensor:
        refuse()

    def widened(self, dtype: torch.dtype) -> Adapter:
        refuse()

    def reset(self, W0: Tensor) -> None:
        start_factors(self.method, self.P, self.U)


@dataclass(frozen=True)
class Quadratic(Method):
    """A quadratic form of the input beside the layer: y = W0 x + b + s P((U x)∘(U x)).

    U (r, n), P (m, r). What PERA is not: PERA multiplies columns of its *factors*, and the layer
    stays W x with one matrix W. Here *inputs* are multiplied: twice x gives four times the update,
    so no ΔW exists, and merge, bake, export and delta_weights are refused with that reason. Attach,
    train, disable, save, load and detach work as for any method; the cost stays in every forward
    pass. Arguments as in `Method`, but `init`: P starts at zero and U is random. r(m+n) trainable
    parameters a layer. Large inputs are squared: watch half precision. Rule: `formulas.quadratic`.

    >>> Quadratic(rank=8).count(768, 768), Quadratic.mergeable
    (12288, False)
    """

    name = "quadratic"
    adapter = QuadraticAdapter
    mergeable = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_default_init(self, "with U = 0 both gradients are zero and nothing would ever train")

    def shapes(self, m: int, n: int) -> dict[str, tuple[int, ...]]:
        return {"U": (self.rank, n), "P": (m, self.rank)}

    def rank_bound(self, m: int, n: int) -> int:
        """The dimension of all that it can add to the output, min(m, r, n(n+1)/2); it has no ΔW."""
        return min(m, self.rank, n * (n + 1) // 2)

    def update(self, W0: Any, **factors: Any) -> Any:
        refuse()


def refuse() -> NoReturn:
    """Say why there is no ΔW, and what to do."""
    raise PerakitError(
        "Quadratic's update is polynomial in the input, not a matrix: there is no ΔW to merge,"
        " export or read; keep it attached, or use pk.PERA, which is polynomial in its parameters"
        " and merges"
    )
