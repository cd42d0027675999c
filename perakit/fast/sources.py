"""Where an adapter's two factors come from.

A source turns parameters into factors (`value`), and gradients by the factors into gradients by the
parameters (`gradients`). It knows no tensor: they travel beside it, so that autograd can keep them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol

from torch import Tensor


class Factors(NamedTuple):
    """ΔW = B̂ diag(weight) Â, of B_hat (m, K), A_hat (K, n) and weight (K,).

    weight: None is all ones. Where there is one, the two factors are memory of their own, in which
    their gradients may be written, and K may be larger than the source's `shape` says, by columns
    that have no weight.
    room: that memory with what lies around it, which the source wants back.
    """

    B_hat: Tensor
    A_hat: Tensor
    weight: Tensor | None = None
    room: Tensor | None = None


class Source(Protocol):
    """How parameters become the factors (B_hat (m, K), A_hat (K, n)), and gradients go back.

    keep: the factors are kept for the backward pass, and not made again.
    """

    @property
    def keep(self) -> bool: ...

    def plain(self, *parameters: Tensor) -> tuple[Tensor, Tensor]:
        """The factors, by operations that autograd can follow."""

    def value(self, *parameters: Tensor) -> Factors:
        """Factors of the same ΔW where nobody asks for a derivative, by whatever is fast."""

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
        """The gradients by the parameters, from those by `factors`, which are `value`'s.

        to_left (K, m): by B_hatᵀ; to_right (K, n): by A_hat; to_weight (K,): by the weight.
        """


@dataclass(frozen=True)
class Given:
    """Two factors: parameters, or made of them by autograd; the first is multiplied by `scale`."""

    scale: float = 1.0
    keep: ClassVar[bool] = False

    def plain(self, *parameters: Tensor) -> tuple[Tensor, Tensor]:
        B_hat, A_hat = parameters
        return self.scale * B_hat, A_hat

    def value(self, *parameters: Tensor) -> Factors:
        B_hat, A_hat = parameters
        return Factors(B_hat if self.scale == 1 else self.scale * B_hat, A_hat)

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
        to_B_hat = to_left.T
        return (to_B_hat if self.scale == 1 else self.scale * to_B_hat), to_right


class Dense:
    """ΔW itself, of a method that has no factors."""
