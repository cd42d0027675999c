"""Of what rank an update is, what its spectrum looks like, and how much of it is high-order."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from perakit import formulas
from perakit.adapters.base import check_positive
from perakit.errors import PerakitError, short
from perakit.formulas import check_count
from perakit.theory.families import as_float64, check_matrix
from perakit.theory.scaled import (
    Columns,
    Scaled,
    Triangles,
    expanded,
    hypot,
    norm,
    quotient,
    representable,
    scaled,
    singular_values,
    triangles,
    unscaled,
)

# Directions of singular values below this share of the largest mean nothing in a float32 update
ROUNDING = 1e-7
# a numerical rank is called clear where the last counted singular value is this much larger than
# the next
GAP = 1e3

# --- rank -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class NumericalRank:
    """How many singular values lie above a tolerance, and how clear that is.

    rank; tolerance: the bound, absolute (inf or 0 where it is outside float64, which the rank does
    not mind); gap: last counted singular value over the next, or over the tolerance where none is
    left (inf where the next is 0); clear: gap >= 1000. Where it is not clear the number depends on
    the tolerance.
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
        bound = "what float64 holds" if self.tolerance == math.inf else f"{self.tolerance:.1e}"
        return f"rank {self.rank} (singular values above {bound}, gap {self.gap:.1e}{doubt})"


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
    values, exponent = _singular_values(update)
    if tolerance is None:
        parts = update if _is_pair(update) else (update,)
        size = max(max(np.shape(part)) for part in parts)
        return count_above(
            values, rounding(values, size, max(map(machine_epsilon, parts))), exponent
        )
    bound = _bound(tolerance)
    found = count_above(values, float(unscaled(bound, -exponent)))
    return NumericalRank(found.rank, bound, found.gap)


def _bound(tolerance: Any) -> float:
    """A tolerance as a float; refused unless it is a finite number >= 0, and True is none."""
    number = isinstance(tolerance, int | float | np.integer | np.floating)
    try:
        bound = float(tolerance) if number and not isinstance(tolerance, bool) else math.nan
    except OverflowError:
        bound = math.inf
    if not 0 <= bound < math.inf:
        raise PerakitError(
            f"tolerance={short(tolerance)} must be a finite number >= 0: an absolute bound on"
            " singular values"
        )
    return bound


def count_above(values: np.ndarray, tolerance: float, exponent: int = 0) -> NumericalRank:
    """The numerical rank of a matrix with the singular values `values` · 2^exponent.

    values: in falling order; tolerance: also to be multiplied by 2^exponent.
    """
    rank = int((values > tolerance).sum())
    following = float(values[rank]) if rank < values.size else tolerance
    last = float(values[rank - 1]) if rank else tolerance
    return NumericalRank(
        rank, float(unscaled(tolerance, exponent)), last / following if following else math.inf
    )


def rounding(values: np.ndarray, size: int, epsilon: float) -> float:
    """What rounding may do to singular values: size · ε · σ₁, `size` being the longer side."""
    return size * epsilon * float(values[0])


def machine_epsilon(array: Any) -> float:
    """The machine epsilon of an array's dtype; float64's for a finer one, and for what is no float.

    Whatever comes is read as float64.
    """
    dtype, epsilon = getattr(array, "dtype", None), 0.0
    if isinstance(dtype, np.dtype) and dtype.kind == "f":
        epsilon = float(np.finfo(dtype).eps)
    elif isinstance(dtype, torch.dtype) and dtype.is_floating_point:
        epsilon = float(torch.finfo(dtype).eps)
    return max(epsilon, 2.0**-52)


# --- spectra --------------------------------------------------------------------------------------


def spectrum(update: Any) -> np.ndarray:
    """Singular values, in falling order.

    update: a matrix (m, n), which gives min(m, n) of them; or its factors (B_hat (m, K), A_hat (K,
    n)), which give min(m, n, K) without the product being formed: those of the (K, K) core R_B R_Aᵀ
    of two thin QR decompositions. Powers of two are set aside first, so a product need not fit
    float64, but the values must: those below 5e-324, or 1e-308 of the largest, come as 0, and one
    above 1.8e308 raises PerakitError. `numerical_rank`, `stable_rank`, `effective_rank` and
    `order_share` do not need that.

    >>> from perakit import theory
    >>> theory.spectrum([[3, 0], [0, -4]])
    array([4., 3.])
    """
    return representable("a singular value", *_singular_values(update))


def _is_pair(update: Any) -> bool:
    """Whether an update comes as factors (B_hat, A_hat), and is no matrix of two rows."""
    return isinstance(update, tuple) and len(update) == 2 and len(np.shape(update[0])) == 2


def _singular_values(update: Any) -> tuple[np.ndarray, int]:
    """`spectrum` beside a power of two."""
    if not _is_pair(update):
        return singular_values(check_matrix("the matrix", update))
    B_hat, A_hat = (
        check_matrix(name, factor) for name, factor in zip(("B_hat", "A_hat"), update, strict=True)
    )
    if B_hat.shape[1] != A_hat.shape[0]:
        raise PerakitError(
            f"B_hat {B_hat.shape} and A_hat {A_hat.shape} do not match: need (m, K) and (K, n)"
        )
    return singular_values(*triangles(Columns.of(B_hat), Columns.of(A_hat.T)).product())


def tail(values: np.ndarray, rank: int) -> tuple[float, float]:
    """(Frobenius, spectral) distance from a matrix to the matrices of rank <= `rank`.

    values: its singular values, in falling order. Raises PerakitError where the distance is above
    1.8e308.
    Source: Eckart and Young 1936, Mirsky 1960.
    """
    rest = values[rank:]
    frobenius = float(representable("the Frobenius distance", *norm(rest)))
    return frobenius, float(rest[0]) if rest.size else 0.0


def stable_rank(update: Any) -> float:
    """‖ΔW‖_F² / ‖ΔW‖₂² = Σ σ² / σ₁²: small singular values do not move it.

    At most the rank; 0 for a zero matrix. update: as in `spectrum`, and of any size.

    >>> from perakit import theory
    >>> theory.stable_rank([[2, 0], [0, 1]])
    1.25
    """
    return stable_rank_of(_singular_values(update)[0])


def stable_rank_of(values: np.ndarray) -> float:
    """`stable_rank` of a matrix with these singular values, in falling order."""
    return float(np.sum(np.square(values / values[0]))) if values[0] else 0.0


def effective_rank(update: Any) -> float:
    """exp(-Σ p log p) with p = σ / Σ σ; 0 for a zero matrix.

    The number of equal singular values of the same entropy. update: as in `spectrum`, and of any
    size.
    Source: Roy and Vetterli, EUSIPCO 2007.

    >>> from perakit import theory
    >>> round(theory.effective_rank([[1, 0], [0, 1]]), 6)
    2.0
    """
    return effective_rank_of(_singular_values(update)[0])


def effective_rank_of(values: np.ndarray) -> float:
    """`effective_rank` of a matrix with these singular values, in falling order."""
    if not values[0]:
        return 0.0
    sizes, _ = scaled(values)
    p = sizes / sizes.sum()
    p = p[p > 0]
    return float(np.exp(-np.sum(p * np.log(p))))


def subspace_similarity(X: Any, Y: Any, i: int, j: int) -> float:
    """How much of the first i left singular directions of X lies in the first j of Y.

    ‖U_iᵀ V_j‖_F² / min(i, j), in [0, 1].
    X (m, k), Y (m, l): matrices with m rows; i, j: at most the number of singular values that
    rounding (1e-7 of the largest) does not reach, so that the directions exist, and no cut between
    two that are equal to rounding, where any rotation of both is as good. For the right singular
    directions of A, the LoRA paper's choice, pass Aᵀ. Raises PerakitError where such directions are
    asked for. Source: arXiv 2106.09685, Eq. 4.

    >>> from perakit import theory
    >>> X, Y = [[2, 0], [0, 1]], [[1, 0], [0, 2]]
    >>> [round(theory.subspace_similarity(X, Y, 1, j), 6) for j in (1, 2)]
    [0.0, 1.0]
    """
    epsilons = [machine_epsilon(matrix) for matrix in (X, Y)]
    X, Y = check_matrix("X", X), check_matrix("Y", Y)
    if X.shape[0] != Y.shape[0]:
        raise PerakitError(
            f"X {X.shape} and Y {Y.shape} must have as many rows: their columns are compared"
        )
    check_count("i", i, most=min(X.shape))
    check_count("j", j, most=min(Y.shape))
    U, _ = _first_directions("i", i, X, epsilons[0])
    V, _ = _first_directions("j", j, Y, epsilons[1])
    return float(np.sum(np.square(U.T @ V)) / min(i, j))


def amplification(delta: Any, W0: Any, rank: int) -> float:
    """How much an update amplifies directions that W0 hardly uses: ‖ΔW‖_F / ‖Uᵀ W0 V‖_F.

    delta, W0 (m, n); U (m, rank), V (n, rank): the first singular directions of ΔW, of which there
    must be as many: see `subspace_similarity`. inf where W0 has nothing there, or the ratio is
    above 1.8e308.
    Source: arXiv 2106.09685, section 7.3.

    >>> from perakit import theory
    >>> theory.amplification([[0, 0], [0, 1]], W0=[[4, 0], [0, 0.5]], rank=1)
    2.0
    """
    epsilon = machine_epsilon(delta)
    delta, W0 = check_matrix("delta", delta), check_matrix("W0", W0)
    if delta.shape != W0.shape:
        hint = ": transpose a Conv1D's weight" if delta.shape == W0.shape[::-1] else ""
        raise PerakitError(f"delta {delta.shape} and W0 {W0.shape} must have one shape{hint}")
    check_count("rank", rank, most=min(delta.shape))
    U, V = _first_directions("rank", rank, delta, epsilon)
    weight, exponent = scaled(W0)
    return quotient(norm(delta), norm(U.T @ weight @ V, exponent))


def _first_directions(
    name: str, count: int, matrix: np.ndarray, epsilon: float
) -> tuple[np.ndarray, np.ndarray]:
    """The first `count` singular directions of a matrix (m, k), left and right, if it has them.

    Returns (U (m, count), V (k, count)).
    """
    mantissas, exponent = scaled(matrix)
    U, values, Vt = np.linalg.svd(mantissas, full_matrices=False)
    above = int((values > ROUNDING * values[0]).sum())
    if count > above:
        raise PerakitError(
            f"{name}={count} asks for singular directions that rounding chose: the matrix has"
            f" {above} above it"
        )
    # What rounded the entries and the SVD turns the first k directions by its size over the gap
    # behind them
    size = epsilon * float(np.linalg.norm(values)) + rounding(values, max(matrix.shape), 2.0**-52)
    apart = values[:-1] - values[1:] > size
    cuts = [k for k in range(1, above + 1) if k == values.size or apart[k - 1]]
    if count not in cuts:
        tied = unscaled(values[count - 1 : count + 1], exponent)
        choice = " or ".join(
            f"{name}={k}"
            for k in (
                max((k for k in cuts if k < count), default=None),
                min((k for k in cuts if k > count), default=None),
            )
            if k
        )
        raise PerakitError(
            f"{name}={count} cuts between singular values that are equal to rounding"
            f" (σ_{count} = {tied[0]:.9g}, σ_{count + 1} = {tied[1]:.9g}): which directions come"
            f" first is undefined; choose {choice or 'another matrix'}"
        )
    return U[:, :count], Vt[:count].T


# --- the share of high orders ---------------------------------------------------------------------


@dataclass(frozen=True)
class OrderShare:
    """‖high-order part‖_F / ‖linear part‖_F of ΔW.

    0 where both vanish, inf where only the linear part does (or where the share is above 1.8e308).
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
        B, A = (check_matrix(*named) for named in zip("BA", model_or_factors[:2], strict=True))
        h = _coefficients(model_or_factors[2])
        factors = expanded(B, A, h, terms, degree)
        parts = {"factors": part_norms(triangles(*factors), rank=B.shape[1])}
    else:
        parts = _model_norms(model_or_factors)
    linear, high = (hypot(pair[k] for pair in parts.values()) for k in (0, 1))
    return OrderShare(
        {name: quotient(high, linear) for name, (linear, high) in parts.items()},
        quotient(high, linear),
    )


def _coefficients(h: Any) -> np.ndarray:
    try:
        array = as_float64(h)
    except (TypeError, ValueError, OverflowError) as error:
        raise PerakitError(f"h is no array of real numbers ({error}): pass (K - r,)") from error
    if not np.isfinite(array).all():
        raise PerakitError("h has entries that are not finite: a share needs finite factors")
    return array


def _model_norms(model: Any) -> dict[str, tuple[Scaled, Scaled]]:
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
        parts[name] = part_norms(layer_triangles(name, adapter), rank=adapter.method.rank)
    return parts


def layer_triangles(name: str, adapter: Any) -> Triangles:
    """`triangles` of the factors of one layer's adapter; refused unless they are finite."""
    B_hat, A_hat = (
        check_matrix(f"{which} of layer {name!r}", factor)
        for which, factor in zip(("B_hat", "A_hat"), adapter.factors(), strict=True)
    )
    return triangles(Columns.of(B_hat), Columns.of(A_hat.T))


def part_norms(found: Triangles, rank: int) -> tuple[Scaled, Scaled]:
    """Frobenius norms of the linear part, the first `rank` terms, and of the rest."""
    return norm(*found.product(slice(rank))), norm(*found.product(slice(rank, None)))


def percent(share: float) -> str:
    """As a percentage; far from 1 with a power of ten, so that such shares can be compared."""
    return f"{share:.4%}" if share == 0 or 1e-3 <= share < 1e6 else f"{share:.2e}"


@dataclass(frozen=True)
class PredictedShare:
    """A forecast of the order share after `steps` of Adam, between two assumptions about its steps.

    No bound: measured shares lie outside too, see `predicted_share`.
    """

    steps: int
    low: float  # if entries drift at random
    high: float  # if all of them go one way

    def __str__(self) -> str:
        return (
            f"order share after {self.steps} steps: forecast {self.low:.2e} ... {self.high:.2e}, no"
            " bound"
        )


def predicted_share(
    n: int, rank: int, lr: float, steps: int, feature_scale: float = 1.0, terms: str = "full"
) -> PredictedShare:
    """A forecast of the order share of PERA trained from its published start, from sizes alone.

    n: inputs of the layer; rank: r; lr: learning rate of Adam; steps: taken so far; feature_scale,
    terms: as in `perakit.PERA`, degree 2. lr: of a schedule, its mean.

    Entries of A keep their start, uniform of variance α² = 1/(3n). B and h start at zero and move
    by at most about lr a step; h only from the second step on: its gradient is zero while B is.
    So B has the size β = lr·steps^p and h the size χ = lr·(steps - 1)^p, with p = 1 if every step
    goes one way and p = 1/2 if they are a random walk. If entries are independent,

        share = feature_scale · χ β α √((r-1)/2 + κ)

    κ = 9/5 · κ_B comes from the fourth moments of the squares: κ_B = 1 (all entries of one size)
    for the low end, 3 (Gaussian) for the high one. Square terms only: √κ. Cross terms only:
    √((r-1)/2). At steps = 0 (or 1) it is zero.

    A forecast, no bound. In docs/theory.md one layer learns five targets, and the share is read at
    three steps: of 15 medians 4 above, by up to 2.5 times; 2 below, down to 1/160. Above: a target
    of few entries, or made of products, makes the entries of B, h and A go together, and A grows
    beyond its start. Below: once B A has reached the target nothing asks for products, and h goes
    back; the first few steps are smaller too.

    >>> from perakit import theory
    >>> print(theory.predicted_share(n=768, rank=8, lr=1e-3, steps=100))
    order share after 100 steps: forecast 4.77e-06 ... 6.15e-04, no bound
    """
    check_count("n", n)
    check_count("rank", rank)
    check_count("steps", steps, least=0)
    check_positive("lr", lr)
    check_positive("feature_scale", feature_scale)
    # NumPy's integers wrap, and its short floats round
    n, rank, steps = int(n), int(rank), int(steps)
    lr, feature_scale = float(lr), float(feature_scale)
    formulas.rank_bound(rank, terms)
    squares, products = {"full": (1, 1), "square": (1, 0), "cross": (0, 1)}[terms]

    def share(power: float, kurtosis: float) -> float:
        beta = lr * steps**power
        chi = feature_scale * lr * max(steps - 1, 0) ** power
        spread = products * (rank - 1) / 2 + squares * 9 / 5 * kurtosis
        return chi * beta * math.sqrt(spread / (3 * n))

    try:
        low, high = share(0.5, 1.0), share(1.0, 3.0)
    except OverflowError:  # of an integer that is no float64
        high = math.inf
    if high == math.inf:
        raise PerakitError(
            f"n={short(n)}, lr={lr!r}, steps={short(steps)}, feature_scale={feature_scale!r}: no"
            " float64 holds the forecast; choose smaller numbers"
        )
    return PredictedShare(steps, low, high)
