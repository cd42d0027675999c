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
from perakit.adapters.forward import Product, add_updates
from perakit.errors import PerakitError


class QuadraticAdapter(Adapter):
    U: nn.Parameter
    P: nn.Parameter

    def contribution(self, x: Tensor, W0: Tensor) -> Tensor:
        dropped = self.dropped(x)
        x = (x if dropped is None else dropped).to(self.U.dtype)
        return self.method.scale * formulas.quadratic(x, self.U, self.P)

    def forward(
        self,
        x: Tensor,
        W0: Tensor,
        bias: Tensor | None,
        linear: Product = F.linear,
        others: Sequence[Tensor] = (),
    ) -> Tensor:
        return add_updates(linear(x, W0, bias), self.contribution(x, W0), *others)

    def delta(self, W0: Tensor) -> Tensor:
        refuse()

    def product(self, W0: Tensor) -> Sequence[Tensor]:
        refuse()

    def widened(self, dtype: torch.dtype) -> Adapter:
        refuse()

    def reset(self, W0: Tensor) -> None:
        start_factors(self.method, self.P, self.U)


@dataclass(frozen=True)
class Quadratic(Method):
    """A quadratic form of the input beside the layer: y = W0 x + b + s P((U x)∘(U x)), with U (r,
    n) and P (m, r).

    What PERA is not. PERA multiplies columns of its *factors*: the layer stays W x with one matrix
    W. Here *inputs* are multiplied: twice x gives four times the update, so no ΔW exists, and
    merge, bake, export and delta_weights are refused with that reason. Attach, train, disable,
    save, load and detach work as for any method, and the cost stays in every forward pass.
    Arguments as in `Method`, but `init`: P starts at zero and U is random, since with U = 0 both
    gradients vanish for good. r(m+n) trainable parameters a layer. Large inputs are squared: watch
    half precision. Rule: `formulas.quadratic`.
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
        """No ΔW, so no rank of one: the dimension of all that it can add to the output, min(m, r,
        n(n+1)/2), which may exceed n.
        """
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
