"""Of what rank an update is, what its spectrum looks like, and how much of it is high-order."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from perakit import formulas
from perakit.errors import PerakitError
from perakit.formulas import check_count
from perakit.theory.families import as_float64, check_matrix

# Directions of singular values below this share of the largest mean nothing in a float32 update
ROUNDING = 1e-7
# a numerical rank is called clear where the last counted singular value is this much larger than
# the next
GAP = 1e3

# --- rank -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class NumericalRank:
    """How many singular values lie above a tolerance, and how clear that is.

    rank; tolerance: the bound, absolute; gap: last counted singular value over the next, or over
    the tolerance where none is left (inf where the next is 0); clear: gap >= 1000. Where it is not
    clear the number depends on the tolerance.
    """

    rank: int
    tolerance: float
    gap: float

    @property
    def clear(self) -> bool:
        """Whether another tolerance nearby would give the same rank."""
        return self.gap >= GAP

    def __str__(self) -> str:
        doubt = (
            ""
            if self.clear
            else (
                "; not clear: look at the spectrum of the factors, or take exact_rank of whole"
                " numbers"
            )
        )
        return (
            f"rank {self.rank} (singular values above {self.tolerance:.1e}, gap"
            f" {self.gap:.1e}{doubt})"
        )


def numerical_rank(update: Any, tolerance: float | None = None) -> NumericalRank:
    """Rank up to rounding: the number of singular values above `tolerance`.

    update: a matrix (m, n), or factors, as in `spectrum`. tolerance: absolute, None means max(m, n)
    · ε · σ₁ with ε the precision that the numbers come in (1.2e-7 for a float32 tensor, 2.2e-16 for
    lists and integers): what rounding may do. It cannot see diag(1, 1e-17) as rank 2; `exact_rank`
    can.

    >>> from perakit import theory
    >>> theory.numerical_rank([[1, 0], [0, 1e-17]]).rank
    1
    """
    values = spectrum(update)
    if tolerance is None:
        parts = update if isinstance(update, tuple) else (update,)
        tolerance = rounding(
            values, max(max(np.shape(part)) for part in parts), max(map(machine_epsilon, parts))
        )
    elif not isinstance(tolerance, int | float | np.number) or not 0 <= tolerance < math.inf:
        raise PerakitError(
            f"tolerance={tolerance!r} must be a finite number >= 0: an absolute bound on singular"
            " values"
        )
    return count_above(values, tolerance)


def count_above(values: np.ndarray, tolerance: float) -> NumericalRank:
    """The numerical rank of a matrix with these singular values, in falling order."""
    rank = int((values > tolerance).sum())
    following = values[rank] if rank < values.size else tolerance
    last = values[rank - 1] if rank else tolerance
    return NumericalRank(rank, float(tolerance), float(last / following) if following else math.inf)


def rounding(values: np.ndarray, size: int, epsilon: float) -> float:
    """What rounding may do to singular values: size · ε · σ₁, `size` being the longer side."""
    return size * epsilon * float(values[0])


def machine_epsilon(array: Any) -> float:
    """The machine epsilon of an array's dtype; float64's for anything that is no float."""
    dtype = getattr(array, "dtype", None)
    if isinstance(dtype, np.dtype) and dtype.kind == "f":
        return float(np.finfo(dtype).eps)
    return (
        float(torch.finfo(dtype).eps)
        if isinstance(dtype, torch.dtype) and dtype.is_floating_point
        else 2.0**-52
    )


# --- spectra --------------------------------------------------------------------------------------


def spectrum(update: Any) -> np.ndarray:
    """Singular values, in falling order.

    update: a matrix (m, n), which gives min(m, n) of them; or its factors (B_hat (m, K), A_hat (K,
    n)), which give min(m, n, K) without the product being formed: those of the (K, K) core R_B R_Aᵀ
    of two thin QR decompositions.

    >>> from perakit import theory
    >>> theory.spectrum([[3, 0], [0, -4]])
    array([4., 3.])
    """
    if isinstance(update, tuple) and len(update) == 2 and len(np.shape(update[0])) == 2:
        B_hat, A_hat = (
            check_matrix(name, factor)
            for name, factor in zip(("B_hat", "A_hat"), update, strict=True)
        )
        if B_hat.shape[1] != A_hat.shape[0]:
            raise PerakitError(
                f"B_hat {B_hat.shape} and A_hat {A_hat.shape} do not match: need (m, K) and (K, n)"
            )
        left, right = triangles(B_hat, A_hat)
        return np.linalg.svd(left @ right.T, compute_uv=False)
    return np.linalg.svd(check_matrix("the matrix", update), compute_uv=False)


def triangles(B_hat: np.ndarray, A_hat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """R_B and R_A of the thin QR decompositions of B_hat (m, K) and A_hatᵀ (n, K).

    They have min(m, K) and min(n, K) rows, K columns.
    B_hat A_hat has the singular values of R_B R_Aᵀ, and what any of its K terms add up to those of
    the same columns. A column's rounding error is relative to that column, so a part that is 1e-12
    of the whole is as accurate as the whole.
    """
    # NumPy's stubs do not know that mode="r" returns one array
    left, right = (np.linalg.qr(factor, mode="r") for factor in (B_hat, A_hat.T))
    return left, right  # type: ignore[return-value]


def tail(values: np.ndarray, rank: int) -> tuple[float, float]:
    """(Frobenius, spectral) distance from a matrix to the matrices of rank <= `rank`.

    values: its singular values, in falling order.
    Source: Eckart and Young 1936, Mirsky 1960.
    """
    rest = values[rank:]
    return float(np.linalg.norm(rest)), float(rest[0]) if rest.size else 0.0


def stable_rank(update: Any) -> float:
    """‖ΔW‖_F² / ‖ΔW‖₂² = Σ σ² / σ₁²: small singular values do not move it.

    At most the rank; 0 for a zero matrix. update: as in `spectrum`.

    >>> from perakit import theory
    >>> theory.stable_rank([[2, 0], [0, 1]])
    1.25
    """
    return stable_rank_of(spectrum(update))


def stable_rank_of(values: np.ndarray) -> float:
    """`stable_rank` of a matrix with these singular values, in falling order."""
    return float(np.sum(np.square(values / values[0]))) if values[0] else 0.0


def effective_rank(update: Any) -> float:
    """exp(-Σ p log p) with p = σ / Σ σ; 0 for a zero matrix.

    The number of equal singular values of the same entropy. update: as in `spectrum`.
    Source: Roy and Vetterli, EUSIPCO 2007.

    >>> from perakit import theory
    >>> round(theory.effective_rank([[1, 0], [0, 1]]), 6)
    2.0
    """
    return effective_rank_of(spectrum(update))


def effective_rank_of(values: np.ndarray) -> float:
    """`effective_rank` of a matrix with these singular values, in falling order."""
    p = values[values > 0] / values.sum() if values[0] else values[:0]
    return float(np.exp(-np.sum(p * np.log(p)))) if p.size else 0.0


def subspace_similarity(X: Any, Y: Any, i: int, j: int) -> float:
    """How much of the first i left singular directions of X lies in the first j of Y.

    ‖U_iᵀ V_j‖_F² / min(i, j), in [0, 1].
    X (m, k), Y (m, l): matrices with m rows; i, j: at most the number of singular values that
    rounding (1e-7 of the largest) does not reach, so that the directions exist. For the right
    singular directions of A, the LoRA paper's choice, pass Aᵀ. Source: arXiv 2106.09685, Eq. 4.

    >>> from perakit import theory
    >>> X, Y = [[2, 0], [0, 1]], [[1, 0], [0, 2]]
    >>> [round(theory.subspace_similarity(X, Y, 1, j), 6) for j in (1, 2)]
    [0.0, 1.0]
    """
    X, Y = check_matrix("X", X), check_matrix("Y", Y)
    if X.shape[0] != Y.shape[0]:
        raise PerakitError(
            f"X {X.shape} and Y {Y.shape} must have as many rows: their columns are compared"
        )
    chosen = []
    for name, count, matrix in (("i", i, X), ("j", j, Y)):
        check_count(name, count, most=min(matrix.shape))
        directions, values, _ = np.linalg.svd(matrix, full_matrices=False)
        above = int((values > ROUNDING * values[0]).sum())
        if count > above:
            raise PerakitError(
                f"{name}={count} asks for singular directions that rounding chose: the matrix has"
                f" {above} above it"
            )
        chosen.append(directions[:, :count])
    return float(np.sum(np.square(chosen[0].T @ chosen[1])) / min(i, j))


def amplification(delta: Any, W0: Any, rank: int) -> float:
    """How much an update amplifies directions that W0 hardly uses: ‖ΔW‖_F / ‖Uᵀ W0 V‖_F.

    delta, W0 (m, n); U (m, rank), V (n, rank): the first singular directions of ΔW; inf where W0
    has nothing there.
    Source: arXiv 2106.09685, section 7.3.

    >>> from perakit import theory
    >>> theory.amplification([[0, 0], [0, 1]], W0=[[4, 0], [0, 0.5]], rank=1)
    2.0
    """
    delta, W0 = check_matrix("delta", delta), check_matrix("W0", W0)
    if delta.shape != W0.shape:
        hint = ": transpose a Conv1D's weight" if delta.shape == W0.shape[::-1] else ""
        raise PerakitError(f"delta {delta.shape} and W0 {W0.shape} must have one shape{hint}")
    check_count("rank", rank, most=min(delta.shape))
    U, _, Vt = np.linalg.svd(delta, full_matrices=False)
    used = float(np.linalg.norm(U[:, :rank].T @ W0 @ Vt[:rank].T))
    return float(np.linalg.norm(delta)) / used if used else math.inf


# --- the share of high orders ---------------------------------------------------------------------


@dataclass(frozen=True)
class OrderShare:
    """‖high-order part‖_F / ‖linear part‖_F of ΔW.

    0 where both vanish, inf where only the linear part does.
    layers: by layer name; overall: of all layers taken as one vector.
    """

    layers: dict[str, float]
    overall: float

    def __float__(self) -> float:
        return self.overall

    def __str__(self) -> str:
        lines = [f"{name}: {percent(share)}" for name, share in self.layers.items()]
        return "\n".join([*lines, f"overall: {percent(self.overall)}"])


def order_share(model_or_factors: Any, terms: str = "full", degree: int = 2) -> OrderShare:
    """How large the polynomial part of an update is beside its linear part B A.

    model_or_factors: a model with adapters whose update begins with B A (LoRA's share is 0), or
    PERA's factors (B (m, r), A (r, n), h (K - r,)) as arrays, with their `terms` and `degree`; a
    feature scale belongs into h. A share near 0 says that the update is LoRA's to that precision,
    whatever the method is called (arXiv 2604.11841 reports no such number).

    >>> from perakit import theory
    >>> print(theory.order_share(([[1.0]], [[1.0]], [0.5])))
    factors: 50.0000%
    overall: 50.0000%
    """
    if isinstance(model_or_factors, tuple | list):
        if len(model_or_factors) != 3:
            raise PerakitError(
                f"{len(model_or_factors)} factors given: pass (B, A, h), or a model with adapters"
            )
        B, A, h = (as_float64(x) for x in model_or_factors)
        for name, x in zip("BAh", (B, A, h), strict=True):
            if not np.isfinite(x).all():
                raise PerakitError(
                    f"{name} has entries that are not finite: a share needs finite factors"
                )
        parts = {
            "factors": part_norms(
                *triangles(*formulas.expand(B, A, h, terms, degree)), rank=B.shape[1]
            )
        }
    else:
        parts = _model_norms(model_or_factors)
    linear, high = (math.hypot(*(pair[k] for pair in parts.values())) for k in (0, 1))
    return OrderShare({name: ratio(*pair) for name, pair in parts.items()}, ratio(linear, high))


def _model_norms(model: Any) -> dict[str, tuple[float, float]]:
    from perakit.adapters import Additive
    from perakit.models.adapted import require_adapters

    parts = {}
    for name, layer in require_adapters(model).items():
        adapter = layer.adapter
        if not isinstance(adapter, Additive) or not adapter.linear:
            raise PerakitError(
                f"layer {name!r} carries {adapter.method}: its update has no linear and high-order"
                " part to compare"
            )
        parts[name] = part_norms(
            *triangles(*map(as_float64, adapter.factors())), rank=adapter.method.rank
        )
    return parts


def part_norms(left: np.ndarray, right: np.ndarray, rank: int) -> tuple[float, float]:
    """Frobenius norms of the linear part, the first `rank` terms, and of the rest.

    left, right: `triangles` of the factors.
    """
    linear, high = left[:, :rank] @ right[:, :rank].T, left[:, rank:] @ right[:, rank:].T
    return float(np.linalg.norm(linear)), float(np.linalg.norm(high))


def percent(share: float) -> str:
    """As a percentage; below 0.1 % as a power of ten, so that small shares can be compared."""
    return f"{share:.4%}" if share == 0 or share >= 1e-3 else f"{share:.2e}"


def ratio(linear: float, high: float) -> float:
    """high / linear; 0 where both vanish, inf where only the linear part does."""
    if linear:
        return high / linear
    return math.inf if high else 0.0


@dataclass(frozen=True)
class PredictedShare:
    """A band for the order share after `steps` of Adam."""

    steps: int
    low: float  # entries drift at random
    high: float  # all entries go one way

    def __str__(self) -> str:
        return f"order share after {self.steps} steps: predicted {self.low:.2e} ... {self.high:.2e}"


def predicted_share(
    n: int, rank: int, lr: float, steps: int, feature_scale: float = 1.0, terms: str = "full"
) -> PredictedShare:
    """The order share to expect of PERA trained from its published start, from sizes alone.

    n: inputs of the layer; rank: r; lr: learning rate of Adam; steps: taken so far; feature_scale,
    terms: as in `perakit.PERA`, degree 2. lr: of a schedule, its mean.

    Entries of A keep their start, uniform of variance α² = 1/(3n). B and h start at zero and move
    by at most about lr a step; h only from the second step on: its gradient is zero while B is.
    So B has the size β = lr·steps^p and h the size χ = lr·(steps - 1)^p, with p = 1 if every step
    goes one way and p = 1/2 if they are a random walk. For independent entries

        share = feature_scale · χ β α √((r-1)/2 + κ)

    κ = 9/5 · κ_B comes from the fourth moments of the squares: κ_B = 1 (all entries of one size)
    for the low end, 3 (Gaussian) for the high one. Square terms only: √κ. Cross terms only:
    √((r-1)/2). At steps = 0 (or 1) it is zero.

    A forecast of size, not a bound: training may correlate h with the products, and the first few
    steps are smaller.

    >>> from perakit import theory
    >>> print(theory.predicted_share(n=768, rank=8, lr=1e-3, steps=100))
    order share after 100 steps: predicted 4.77e-06 ... 6.15e-04
    """
    check_count("n", n)
    check_count("rank", rank)
    check_count("steps", steps, least=0)
    formulas.rank_bound(rank, terms)
    if not all(
        isinstance(x, int | float | np.number) and 0 < x < math.inf for x in (lr, feature_scale)
    ):
        raise PerakitError(
            f"lr={lr!r} and feature_scale={feature_scale!r} must be finite numbers > 0"
        )

    def share(power: float, kurtosis: float) -> float:
        squares, products = {"full": (1, 1), "square": (1, 0), "cross": (0, 1)}[terms]
        size = lr**2 * steps**power * max(steps - 1, 0) ** power / math.sqrt(3 * n)
        return (
            feature_scale * size * math.sqrt(products * (rank - 1) / 2 + squares * 9 / 5 * kurtosis)
        )

    return PredictedShare(steps, share(0.5, 1.0), share(1.0, 3.0))
