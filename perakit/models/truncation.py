"""ΔW as two factors of a rank that one chooses, exact or the nearest there are.

The error that this makes is told.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from perakit.adapters import Adapter

# Share of ‖B‖‖A‖ by which factors rounded to float32 may miss ΔW: some hundred roundings of 2^-24
EXACT = 1e-4


@dataclass(frozen=True)
class Factored:
    """ΔW ≈ B A, with what is known about the difference.

    B (m, r), A (r, n), in the adapter's dtype, on the CPU; K: the rank that ΔW has by construction;
    size: ‖ΔW‖ in Frobenius norm; distance: ‖B A - ΔW‖ in that norm, of B and A as they are, in
    float64; tail: the least distance that a matrix of rank r can have (0 where nothing was cut);
    sigma: the same in spectral norm, σ_{r+1}.
    """

    B: Tensor
    A: Tensor
    K: int
    size: float
    distance: float
    tail: float = 0.0
    sigma: float = 0.0

    @property
    def explained(self) -> bool:
        """Is the distance what cutting and rounding make?

        Or is it below the numbers that the dtype has?
        """
        rounding = (
            EXACT * (torch.linalg.norm(self.B.double()) * torch.linalg.norm(self.A.double())).item()
        )
        underflow = torch.finfo(self.B.dtype).tiny * math.sqrt(self.B.shape[0] * self.A.shape[1])
        return self.distance <= self.tail + rounding + underflow


@torch.no_grad()
def factorise(adapters: Sequence[Adapter], W0: Tensor, rank: int | None = None) -> Factored:
    """The sum of the ΔW of `adapters` on W0, as two factors of rank at most `rank`.

    W0 (m, n); rank: None is exact.
    K columns where every ΔW is a product and K <= min(m, n): the adapters' own factors, side by
    side. Else ΔW is formed in float64, rounded once, and stands beside an identity: rank min(m, n),
    and no rounding but that one. A rank below that is reached by a singular value decomposition in
    float64 of the factors' small core, which gives the nearest matrix of that rank (Eckart and
    Young 1936).
    """
    W0, adapters = (
        W0.detach().cpu(),
        [adapter.widened(_dtype(adapter)).cpu() for adapter in adapters],
    )
    dtype = max((_dtype(adapter) for adapter in adapters), key=lambda dtype: dtype.itemsize)
    target = _product([adapter.widened(torch.float64) for adapter in adapters], W0.double())
    m, n = W0.shape
    K, size = (
        (target[0].shape[1], _norm(*target))
        if len(target) == 2
        else (min(m, n), torch.linalg.norm(target[0]).item())
    )
    tail = sigma = 0.0
    # Else the caller says so
    if rank is not None and rank < min(K, m, n) and all(part.isfinite().all() for part in target):
        B, A, tail, sigma = _nearest(target, rank)
    elif len(target) == 2 and min(m, n) >= K:
        B, A = _product(adapters, W0.to(dtype))
    else:
        delta = target[0] if len(target) == 1 else target[0] @ target[1]
        eye = torch.eye(min(m, n), dtype=torch.float64)
        B, A = (eye, delta) if m <= n else (delta, eye)
    B, A = B.to(dtype).contiguous(), A.to(dtype).contiguous()
    return Factored(B, A, K, size, _distance(B.double(), A.double(), target), tail, sigma)


def _dtype(adapter: Adapter) -> torch.dtype:
    return next(adapter.parameters()).dtype


def _product(adapters: Sequence[Adapter], W0: Tensor) -> tuple[Tensor, ...]:
    """Two factors of ΣΔW where every ΔW has two, else ΣΔW itself."""
    products = [tuple(adapter.product(W0)) for adapter in adapters]
    if all(len(product) == 2 for product in products):
        return torch.cat([B for B, _ in products], 1), torch.cat([A for _, A in products], 0)
    total = torch.zeros_like(W0)
    for first, *rest in products:
        for matrix in rest:
            first = first @ matrix
        total = total + first
    return (total,)


def _nearest(target: tuple[Tensor, ...], rank: int) -> tuple[Tensor, Tensor, float, float]:
    """(B, A) nearest to the product of `target` among all of `rank`.

    And the distance in Frobenius and spectral norm.
    """
    left, right = target if len(target) == 2 else (None, target[0])
    if left is None:
        U, sigma, V = torch.linalg.svd(right, full_matrices=False)
    else:
        Q, R = torch.linalg.qr(left)  # (m, p), (p, K)
        P, S = torch.linalg.qr(right.T)  # (n, q), (q, K)
        U, sigma, V = torch.linalg.svd(R @ S.T, full_matrices=False)  # (p, q): the small core
        U, V = Q @ U, V @ P.T
    root = sigma[:rank].sqrt()  # each factor takes half, so that both round alike
    return (
        U[:, :rank] * root,
        root[:, None] * V[:rank],
        torch.linalg.norm(sigma[rank:]).item(),
        sigma[rank].item(),
    )


def _distance(B: Tensor, A: Tensor, target: tuple[Tensor, ...]) -> float:
    """‖B A - ΔW‖ in Frobenius norm."""
    if len(target) == 1:
        return torch.linalg.norm(B @ A - target[0]).item()
    # [B, -B_hat] [A; A_hat] is the difference
    return _norm(torch.cat([B, -target[0]], 1), torch.cat([A, target[1]], 0))


def _norm(left: Tensor, right: Tensor) -> float:
    """‖left right‖ in Frobenius norm, from the small core, without forming the product."""
    R, S = torch.linalg.qr(left, mode="r").R, torch.linalg.qr(right.T, mode="r").R
    return torch.linalg.norm(R @ S.T).item()
