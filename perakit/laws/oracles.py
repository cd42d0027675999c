"""The oracles: a second opinion on each method's update, that does not use `perakit.formulas`.

A law that compares a layer with the library's own formula could not see a mistake in the formula.
So each rule is written here once more, in another way: outer products, rows or single entries in
place of matrix products. They take NumPy arrays, torch tensors and arrays of sympy rationals.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor

# (method, parameters by name, W0 (m, n)) -> ΔW (m, n), scale included. For a method without a ΔW:
# (method, parameters by name, inputs x (..., n)) -> what is added to the output (..., m).
Formula = Callable[[Any, dict[str, Any], Any], Any]


def hadamard_lora(method: Any, parameters: dict[str, Any], W0: Any) -> Any:
    """s Σ_i M_i with M_i = b_i a_iᵀ: outer products, no matrix product."""
    return method.scale * sum(_outer(parameters, i) for i in range(method.rank))


def hadamard_pera(method: Any, parameters: dict[str, Any], W0: Any) -> Any:
    """s (Σ M_i + Σ h M_i∘M_j ...) with M_i = b_i a_iᵀ: PERA as a Hadamard series.

    It is never expanded into factors.
    """
    total = sum(_outer(parameters, i) for i in range(method.rank))
    indices = _products(method.rank, method.terms, method.degree)
    assert len(parameters["h"]) == len(indices), (
        f"h has {len(parameters['h'])} entries for {len(indices)} products"
    )
    for coefficient, row in zip(parameters["h"], indices, strict=True):
        term = method.feature_scale * coefficient
        for i in row:
            term = term * _outer(parameters, i)
        total = total + term
    return method.scale * total


def rows_dora(method: Any, parameters: dict[str, Any], W0: Any) -> Any:
    """Row by row: g_p v / ‖v‖ - w, with v = w + s Σ_i B[p,i] a_i.

    The length of v is taken out of the gradient.
    """
    B, A, g = parameters["B"], parameters["A"], parameters["magnitude"]
    rows = []
    for p in range(len(W0)):
        v = W0[p]
        for i in range(method.rank):
            v = v + method.scale * B[p, i] * A[i]
        rows.append(g[p] * v / _length(v) - W0[p])
    return _stack(rows)


def pattern_hira(method: Any, parameters: dict[str, Any], W0: Any) -> Any:
    """s Σ_i diag(b_i) W0 diag(a_i): W0 rescaled from both sides, r times."""
    B, A = parameters["B"], parameters["A"]
    return method.scale * sum(B[:, i, None] * W0 * A[None, i] for i in range(method.rank))


def entries_mora(method: Any, parameters: dict[str, Any], W0: Any) -> Any:
    """s M[p mod r̂, q mod r̂], entry by entry."""
    M, (m, n) = parameters["M"], W0.shape
    size = len(M)
    # p - size * (p // size) is p mod size
    rows = [[M[p - size * (p // size), q - size * (q // size)] for q in range(n)] for p in range(m)]
    return method.scale * _stack([_stack(row) for row in rows])


def outer_delora(method: Any, parameters: dict[str, Any], W0: Any) -> Any:
    """s Σ_i (λ/r) (b_i/‖b_i‖)(a_i/‖a_i‖)ᵀ, column q times ‖W0[:, q]‖; lengths at least 1e-4."""
    B, A = parameters["B"], parameters["A"]
    strength = method.scale * parameters["lam"][0] / method.rank
    total = sum(
        strength * _outer(parameters, i) / (_floored(B[:, i]) * _floored(A[i]))
        for i in range(method.rank)
    )
    return _stack([total[:, q] * (W0[:, q] * W0[:, q]).sum() ** 0.5 for q in range(W0.shape[1])]).T


def hadamard_loha(method: Any, parameters: dict[str, Any], W0: Any) -> Any:
    """s (Σ_i b1_i a1_iᵀ)∘(Σ_j b2_j a2_jᵀ): two sums of outer products, multiplied entrywise."""
    first, second = (sum(_outer(parameters, i, k) for i in range(method.rank)) for k in "12")
    return method.scale * first * second


def sum_quadratic(method: Any, parameters: dict[str, Any], x: Any) -> Any:
    """s Σ_i (u_i·x)² p_i, what is added to the output for inputs x (..., n)."""
    U, P = parameters["U"], parameters["P"]
    squares = (((x * U[i]).sum(-1) ** 2)[..., None] for i in range(method.rank))
    return method.scale * sum(square * P[:, i] for i, square in enumerate(squares))


ORACLES: dict[str, Formula] = {
    "lora": hadamard_lora,
    "pera": hadamard_pera,
    "dora": rows_dora,
    "hira": pattern_hira,
    "mora": entries_mora,
    "delora": outer_delora,
    "loha": hadamard_loha,
    "quadratic": sum_quadratic,
}


def _products(rank: int, terms: str, degree: int) -> list[tuple[int, ...]]:
    """Which M_i PERA multiplies, i <= j <= ..., lowest degree first."""
    indices = []
    for d in range(2, degree + 1):
        # A count of its own: all index tuples are tried
        rows = [row for row in product(range(rank), repeat=d) if list(row) == sorted(row)]
        squares = [len(set(row)) == 1 for row in rows]
        wanted = {
            "full": [True] * len(rows),
            "square": squares,
            "cross": [not square for square in squares],
        }[terms]
        indices += [row for row, take in zip(rows, wanted, strict=True) if take]
    return indices


def _outer(parameters: dict[str, Any], i: int, k: str = "") -> Any:
    """b_i a_iᵀ (m, n), of the factors "B" and "A" with the ending k."""
    return parameters[f"B{k}"][:, i, None] * parameters[f"A{k}"][None, i]


def _length(v: Any) -> Any:
    """‖v‖, held constant in the gradient, as DoRA's paper has it."""
    length = (v * v).sum() ** 0.5
    return length.detach() if isinstance(length, Tensor) else length


def _floored(v: Any) -> Any:
    length = (v * v).sum() ** 0.5
    return length if length > 1e-4 else 1e-4


def _stack(parts: list[Any]) -> Any:
    return torch.stack(parts) if isinstance(parts[0], Tensor) else np.stack(parts)
