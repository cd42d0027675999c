"""Damped Gauss-Newton steps on B, A and h together, towards a given update."""

from __future__ import annotations

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve

from perakit.theory.merged import Factors, Rule, features, rest_of, update

REFINED = 2**11  # numbers in the factors up to which the normal equations are solved
ROUNDED = 1e-15  # of ‖ΔW‖: nothing is left to gain


def refine(W: np.ndarray, factors: Factors, rule: Rule, patience: float = 1e-4) -> Factors:
    """Damped Gauss-Newton steps on B, A and h together; never worse than at the start.

    Left after three steps in a row that each lower the square of the error by less than `patience`.

    An entry of ΔW is φ(u), u = B[p, :] ∘ A[:, q]: JᵀJ is put together from the r matrices ∂φ/∂u_i,
    without J.
    """
    B, A, h = factors
    (m, r), n = B.shape, A.shape[1]
    if r * (m + n) + len(h) > REFINED:
        return factors
    error = update(B, A, h, rule) - W
    value, enough = float((error**2).sum()), float((ROUNDED * W**2 * ROUNDED).sum())
    damping, still, moved = 1e-3, 0, True
    for _ in range(100):
        if value <= enough or still >= 3 or damping > 1e8:
            break
        if moved:
            JJ, gradient = _normal_equations(B, A, h, rule, error)
            size = np.sqrt(JJ.diagonal())
            size[size == 0] = 1.0
            JJ /= size * size[:, None]
            gradient /= size
        damped = JJ.copy()
        damped[np.diag_indices_from(JJ)] += damping
        try:
            step = cho_solve(cho_factor(damped), gradient) / size
        except LinAlgError:
            damping, moved = 10 * damping, False
            continue
        trial = (
            B - step[: m * r].reshape(m, r),
            A - step[m * r : (m + n) * r].reshape(n, r).T,
            h - step[(m + n) * r :],
        )
        with np.errstate(over="ignore", invalid="ignore"):
            left = update(*trial, rule) - W
            reached = float((left**2).sum())
        moved = reached < value
        if moved:
            still = still + 1 if reached > (1 - patience) * value else 0
            (B, A, h), error, value = trial, left, reached
        damping = max(damping * (0.1 if moved else 10), 1e-14)
    return B, A, h


def _normal_equations(
    B: np.ndarray, A: np.ndarray, h: np.ndarray, rule: Rule, error: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """JᵀJ and Jᵀ error, the unknowns in the order B (m, r), Aᵀ (n, r), h."""
    (m, r), n, products = B.shape, A.shape[1], rule.products
    slope = np.ones((r, m, n))  # ∂φ/∂u_i
    for i in range(r):
        terms = [(h[k], *rest_of(t, i)) for k, t in enumerate(products) if i in t]
        if terms:
            rests = [rest for _, _, rest in terms]
            weights = np.array([value * count for value, count, _ in terms])
            slope[i] += (features(B, rests) * weights) @ features(A.T, rests).T
    by_B, by_A = slope * A[:, None, :], slope * B.T[:, :, None]  # ∂ΔW[p,q]/∂B[p,i], /∂A[i,q]
    features_B, features_A = features(B, products), features(A.T, products)
    JJ = np.zeros(((m + n) * r + len(h),) * 2)
    rows, columns, rest = slice(0, m * r), slice(m * r, (m + n) * r), slice((m + n) * r, None)
    same = JJ[rows, rows].reshape(m, r, m, r)
    same[np.arange(m), :, np.arange(m), :] = np.einsum("ipq,jpq->pij", by_B, by_B)
    same = JJ[columns, columns].reshape(n, r, n, r)
    same[np.arange(n), :, np.arange(n), :] = np.einsum("ipq,jpq->qij", by_A, by_A)
    JJ[rows, columns] = np.einsum("ipq,jpq->piqj", by_B, by_A).reshape(m * r, n * r)
    JJ[columns, rows] = JJ[rows, columns].T
    of_B = (by_B @ features_A) * features_B  # (r, m, products)
    of_A = (by_A.transpose(0, 2, 1) @ features_B) * features_A  # (r, n, products)
    JJ[rows, rest] = of_B.transpose(1, 0, 2).reshape(m * r, -1)
    JJ[columns, rest] = of_A.transpose(1, 0, 2).reshape(n * r, -1)
    JJ[rest, rows], JJ[rest, columns] = JJ[rows, rest].T, JJ[columns, rest].T
    JJ[rest, rest] = (features_B.T @ features_B) * (features_A.T @ features_A)
    gradient = np.concatenate(
        [
            (by_B * error).sum(2).T.ravel(),
            (by_A * error).sum(1).T.ravel(),
            ((features_B.T @ error) * features_A.T).sum(1),
        ]
    )
    return JJ, gradient
