"""The shape of a family of updates: its dimension, its symmetries, its curvature."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.func import jacfwd, jvp

from perakit import formulas
from perakit.errors import PerakitError
from perakit.formulas import Array
from perakit.theory.families import (
    Factors,
    Family,
    as_float64,
    check_family,
    check_layer,
    check_matrix,
    pera,
    products,
)
from perakit.theory.jacobian import jacobian_rank
from perakit.theory.measured import FloatRank, ModularRank

# Singular values of the Jacobian below this share of the largest span no tangent direction
TANGENT = 1e-9


def dimension(m: int, n: int, rank: int, terms: str = "full", degree: int = 2) -> int:
    """Dimension of the set of updates, in closed form.

    PERA: min(mn, r(m+n) + K - 2r), which at degree 2 is r(m+n) + r(r-1)/2 (full), r(m+n) (square)
    and r(m+n) - r + r(r-1)/2 (cross). LoRA, terms="none": r(m+n) - r².

    m, n: the layer, (m, n) = (d_out, d_in); rank: r <= min(m, n). Proved where the claims
    `dimension`, `dimension-square`, `dimension-cross`, `dimension-lora` and `dimension-degree-k`
    say so; elsewhere no exception is known.

    >>> from perakit import theory
    >>> theory.dimension(7, 6, rank=2), theory.dimension(7, 6, rank=2, terms="none")
    (27, 22)
    """
    check_layer(m, n, rank)
    bound = pera(rank, terms, degree).rank_bound(10**9, 10**9)
    return (
        rank * (m + n - rank) if terms == "none" else min(m * n, rank * (m + n) + bound - 2 * rank)
    )


def measured_dimension(
    m: int, n: int, rank: int | Family, terms: str = "full", degree: int = 2, seed: int = 0
) -> ModularRank | FloatRank:
    """Dimension of the set of updates: the rank of the rule's Jacobian at random factors.

    rank: r, with `terms` and `degree` as in `dimension`; or any family, `perakit.PERA(2)` or a
    `Formula` of your own.
    Returns `jacobian_rank(...).rank`, an int that says how it was found.

    >>> pk.theory.measured_dimension(7, 6, pk.PERA(2))
    27 (proved at 7 x 6)
    """
    return jacobian_rank(m, n, rank, terms, degree, seed=seed).rank


def tangent_dimension(
    m: int, n: int, rank: int, terms: str = "full", degree: int = 2, at: str = "lora"
) -> int:
    """How many directions the parameters of PERA can move ΔW in at a special point, in closed form.

    at: "lora", h = 0 and generic factors: min(mn, r(m+n) - r² + K - r), which at degree 2 is r² - r
    short of the dimension while that is below mn; "start", where B = 0 and h = 0: mr (nr where A is
    the factor that starts at zero). The other arguments as in `dimension`. Proved, at all sizes:
    claims `lora-is-critical` and `start-directions`.

    >>> from perakit import theory
    >>> theory.tangent_dimension(7, 6, rank=2), theory.tangent_dimension(7, 6, rank=2, at="start")
    (25, 14)
    """
    check_layer(m, n, rank)
    coefficients = len(products(rank, terms, degree))
    points = {"lora": min(m * n, rank * (m + n - rank) + coefficients), "start": m * rank}
    if at not in points:
        raise PerakitError(f"at={at!r} is unknown: choose from {', '.join(map(repr, points))}")
    return points[at]


# --- symmetries -----------------------------------------------------------------------------------


def gauge_orbit(
    B: Array,
    A: Array,
    h: Array,
    scales: Array,
    permutation: Sequence[int] | None = None,
    terms: str = "full",
    degree: int = 2,
) -> tuple[Array, Array, Array]:
    """Other factors of the same update: B P D, D⁻¹ Pᵀ A, and h reordered as its products are.

    B (m, r), A (r, n), h: PERA's factors; scales (r,): the diagonal of D, no entry zero;
    permutation: new column k is the old column permutation[k], None keeps the order; terms, degree:
    as in `formulas.pera`. Returns (B, A, h). A generic h has these r dimensions of symmetry and no
    other; `gauge` says what yours has.

    >>> import numpy as np
    >>> from perakit import formulas, theory
    >>> B, A, h = np.ones((1, 2)), np.ones((2, 1)), np.array([1.0, 2.0, 3.0])
    >>> moved = theory.gauge_orbit(B, A, h, scales=[2.0, 4.0])
    >>> moved[0].tolist(), formulas.pera(*moved) == formulas.pera(B, A, h)
    ([[2.0, 4.0]], array([[ True]]))
    """
    rank = A.shape[0]
    formulas.expand(B, A, h, terms, degree)  # refuses factors that do not match
    scales = np.asarray(scales)
    order = list(range(rank)) if permutation is None else [int(k) for k in permutation]
    if (
        sorted(order) != list(range(rank))
        or np.shape(scales) != (rank,)
        or any(not scale for scale in scales)
    ):
        raise PerakitError(
            f"scales {scales} and permutation {order} do not fit rank {rank}: need {rank} nonzero"
            " scales, each column once"
        )
    rows = products(rank, terms, degree)
    old = {row: k for k, row in enumerate(rows)}
    moved = [old[tuple(sorted(order[k] for k in row))] for row in rows]
    return B[:, order] * scales, A[order] / scales[:, None], h[moved]


@dataclass(frozen=True)
class GaugePath:
    """How far ΔW and its factors move along B exp(tX), exp(-tX) A.

    t (N,); factors (N,): Frobenius distance of the factors from their place; update (N,): that of
    ΔW.
    """

    t: np.ndarray
    factors: np.ndarray
    update: np.ndarray


def gauge_path(
    B: Array, A: Array, h: Array, X: Array, t: Sequence[float], terms: str = "full", degree: int = 2
) -> GaugePath:
    """How far factors and update move along a gauge direction of LoRA.

    B (m, r), A (r, n), h: factors as floats; X (r, r): the direction; t: where to look. With h = 0
    the update stays, for any X. With a generic h it stays for diagonal X only: PERA's products
    break the rest of LoRA's symmetry; `gauge` says which X another h leaves.

    >>> B, A, X = np.array([[1.0], [2.0]]), np.array([[3.0, 1.0]]), np.array([[1.0]])
    >>> path = pk.theory.gauge_path(B, A, np.array([0.0]), X, t=[0, 1])
    >>> path.factors.round(2), path.update  # the factors move, the update stays
    (array([0.  , 4.33]), array([0., 0.]))
    """
    from scipy.linalg import expm

    X = check_matrix("X", X)
    if X.shape != (A.shape[0],) * 2:
        raise PerakitError(
            f"X has shape {X.shape}: a direction of rank-{A.shape[0]} factors is ({A.shape[0]},"
            f" {A.shape[0]})"
        )
    B, A, h = as_float64(B), as_float64(A), as_float64(h)
    start = formulas.pera(B, A, h, terms, degree)
    factors, update = [], []
    times = np.atleast_1d(np.asarray(t, dtype=float))
    for time in times:
        moved_B, moved_A = B @ expm(time * X), expm(-time * X) @ A
        factors.append(np.hypot(np.linalg.norm(moved_B - B), np.linalg.norm(moved_A - A)))
        update.append(np.linalg.norm(formulas.pera(moved_B, moved_A, h, terms, degree) - start))
    return GaugePath(times, np.array(factors), np.array(update))


# --- curvature ------------------------------------------------------------------------------------


def curvature(
    family: Family, factors: Factors, direction: Factors, W0: Array | None = None
) -> float:
    """How sharply the set of updates bends along a direction: ‖N f''(v, v)‖_F / ‖f'(v)‖_F².

    f: the update as a function of the factors; v: `direction`, arrays shaped as `factors`; N: the
    part orthogonal to every f'(w). Returns inf where f'(v) = 0 but f'' leaves the tangent space, 0
    for a straight line. At a generic point of LoRA (h = 0) with v = (s B X, -s X A, δh) and K <=
    min(m, n), f'(v) does not depend on s, and the curvature grows like |s| without bound unless X
    mixes only columns whose rows of δh's H are equal; then it is 0, as it is for every X where m or
    n is r + 1 (claim "lora-curvature").

    >>> point = {"B": np.array([[1], [0]]), "A": np.array([[1, 0]])}
    >>> turn = {"B": np.array([[0], [1]]), "A": np.array([[0, 1]])}
    >>> round(pk.theory.curvature(pk.LoRA(1), point, turn), 6)  # as a circle of radius 1
    1.0
    """
    from scipy.linalg import orth

    check_family(family)
    shapes = {name: tuple(np.shape(value)) for name, value in factors.items()}
    if {name: tuple(np.shape(value)) for name, value in direction.items()} != shapes:
        raise PerakitError(
            f"direction { ({name: np.shape(value) for name, value in direction.items()}) } needs"
            f" the factors' shapes {shapes}"
        )
    point, v = (
        tuple(torch.as_tensor(as_float64(x[name])) for name in shapes) for x in (factors, direction)
    )

    def update(*values: torch.Tensor) -> torch.Tensor:
        return family.update(W0, **dict(zip(shapes, values, strict=True)))

    def velocity(*values: torch.Tensor) -> torch.Tensor:
        return jvp(update, values, v)[1]

    speed, acceleration = jvp(velocity, point, v)[:2]
    derivatives = jacfwd(update, tuple(range(len(point))))(*point)
    columns = np.concatenate([d.reshape(speed.numel(), -1).numpy() for d in derivatives], axis=1)
    tangent = orth(columns, rcond=TANGENT)
    bend = acceleration.numpy().ravel()
    normal = float(np.linalg.norm(bend - tangent @ (tangent.T @ bend)))
    if normal <= TANGENT * float(np.linalg.norm(bend)):
        return 0.0
    length = float(torch.linalg.norm(speed))
    return normal / length**2 if length > TANGENT * float(np.linalg.norm(columns)) else math.inf
