"""DoRA, weight-decomposed low-rank adaptation, arXiv 2402.09353."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from perakit import formulas
from perakit.adapters.base import Adapter, Method, start_factors


class DoRAAdapter(Adapter):
    A: nn.Parameter
    B: nn.Parameter
    magnitude: nn.Parameter

    def length(self, W0: Tensor) -> Tensor:
        """Row lengths (m,) of V = W0 + s B A, held constant in the backward pass (section 4.3)."""
        V = W0.detach() + self.method.scale * (self.B.detach() @ self.A.detach())
        # Contiguous: one order of summing, however W0 is stored. At the start the magnitude has
        # these very bits, and their ratio is 1; rounded to the precision that the magnitude began
        # in, so also where the layer was moved to float64, or widened for merging.
        wide = formulas.row_norm(V.double().contiguous())
        return wide.to(self.precision).to(V.dtype)

    def delta(self, W0: Tensor) -> Tensor:
        length = self.length(W0)
        return formulas.dora(W0, self.B, self.A, self.magnitude, self.method.scale, length)

    def reset(self, W0: Tensor) -> None:
        start_factors(self.method, self.B, self.A)
        with torch.no_grad():
            self.magnitude.copy_(self.length(W0.to(self.magnitude.dtype)))


@dataclass(frozen=True)
class DoRA(Method):
    """Direction and length apart: W0 + ΔW = diag(g / ‖V‖_row) V with V = W0 + s B A, g trained.

    Arguments as in `Method`; r(m+n) + m trainable parameters a layer, g (m,) named `magnitude`. It
    starts at the row lengths of W0. A row is an output: PEFT measures rows too, other code the
    columns. ‖V‖ is held constant in the gradient (section 4.3 of the paper), which is therefore not
    that of the function. With c = g/‖V‖ and G the gradient by W0 + ΔW, a row of V gets c G_p here,
    and c (G_p - (G_p·v) v), v = V_p/‖V_p‖, by the chain rule: the part of the step along the row,
    which changes no direction, is left in. Gradients by g and by the input are exact.
    Rule: `formulas.dora`.

    >>> DoRA(rank=8).count(768, 768)
    13056
    """

    name = "dora"
    adapter = DoRAAdapter
    proportional = False  # the scale is inside V
    exact_gradient = False  # ‖V‖ is held constant
    exact_in_float64 = False  # ‖V‖ is rounded as the magnitude was

    def shapes(self, m: int, n: int) -> dict[str, tuple[int, ...]]:
        return super().shapes(m, n) | {"magnitude": (m,)}

    def rank_bound(self, m: int, n: int) -> int:
        """min(m, n): rescaling the rows of W0 alone reaches it."""
        return min(m, n)

    def update(self, W0: Any, **factors: Any) -> Any:
        return formulas.dora(W0, **factors, scale=self.scale)
