"""Gradients of the update rules in closed form, for arrays of any kind."""

from __future__ import annotations

import math

from perakit import formulas
from perakit.errors import PerakitError
from perakit.formulas import Array
from perakit.theory.families import products


def lora_gradients(G: Array, B: Array, A: Array) -> dict[str, Array]:
    """LoRA's gradients: ∂L/∂B = G Aᵀ, ∂L/∂A = Bᵀ G.

    G = ∂L/∂ΔW (m, n), B (m, r), A (r, n), arrays of any one kind. Returns {"B", "A"}. Source:
    derivative of arXiv 2106.09685, Eq. 3.
    """
    _check_gradient(G, formulas.lora(B, A).shape)
    return {"B": G @ A.T, "A": B.T @ G}


def pera_gradients(
    G: Array, B: Array, A: Array, h: Array, terms: str = "full", degree: int = 2
) -> dict[str, Array]:
    """PERA's gradients in closed form, LoRA's plus one term for each product.

        ∂L/∂h_ij = (b_i∘b_j)ᵀ G (a_i∘a_j)
        ∂L/∂B = G Aᵀ + Σ_{i<=j} h_ij ( [G(a_i∘a_j) ∘ b_j] e_iᵀ + [G(a_i∘a_j) ∘ b_i] e_jᵀ )

    and ∂L/∂A likewise from Gᵀ. At degree d each of a product's d factors is left out in turn.

    G = ∂L/∂ΔW (m, n), B (m, r), A (r, n), h (K - r,): arrays of one kind, NumPy floats, object
    arrays of sympy expressions or torch tensors. terms, degree: as in `formulas.pera`.
    Returns {"B" (m, r), "A" (r, n), "h" (K - r,)}.
    Raises PerakitError for shapes that do not match. Source: derivative of arXiv 2604.11841, Eq. 9.

    >>> import numpy as np
    >>> from perakit import theory
    >>> one = np.ones((1, 1))
    >>> theory.pera_gradients(G=one, B=2 * one, A=3 * one, h=np.ones(1))
    {'B': array([[39.]]), 'A': array([[26.]]), 'h': array([36.])}
    """
    rank = int(A.shape[0])
    P, _ = formulas.expand(B, A, h, terms, degree)  # (m, K)
    # (n, K): the products of A without their coefficients
    Q, _ = formulas.expand(A.T, B.T, h, terms, degree)
    _check_gradient(G, (B.shape[0], A.shape[1]))
    rows = products(rank, terms, degree)
    by_P, by_Q = G @ Q, G.T @ P  # (m, K), (n, K): by feature, before its coefficient
    return {
        "B": _through_products(by_P, B, h, rows),
        "A": _through_products(by_Q, A.T, h, rows).T,
        "h": (P * by_P).sum(0)[rank:],
    }


def _through_products(C: Array, X: Array, h: Array, rows: list[tuple[int, ...]]) -> Array:
    """Gradient by X (m, r), from C (m, K).

    C is the gradient by the features [X, products of X] without their coefficients [1, h].
    """
    rank = X.shape[1]
    gradient = C[:, :rank] * 1  # a copy, whatever the kind of array
    for k, row in enumerate(rows):
        for left_out, i in enumerate(row):
            others = [X[:, j] for j in row[:left_out] + row[left_out + 1 :]]
            gradient[:, i] = gradient[:, i] + h[k] * C[:, rank + k] * math.prod(
                others[1:], start=others[0]
            )
    return gradient


def _check_gradient(G: Array, shape: tuple[int, ...]) -> None:
    if tuple(G.shape) != tuple(shape):
        raise PerakitError(
            f"G has shape {tuple(G.shape)} where the update has {tuple(shape)}: pass ∂L/∂ΔW, one"
            " entry per weight"
        )
