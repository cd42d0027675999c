"""Pieces of arguments: small exact examples to draw, symbolic differences, comparisons."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from perakit import formulas
from perakit.theory import symbolic
from perakit.theory.derivation import Derivation, plain
from perakit.theory.findings import Finding, factors

PAPER = "arXiv 2604.11841"
SHAPES = ((2, 3, 2), (3, 1, 1), (1, 2, 3))  # of symbolic identities: (m, n, r), none square
AT = "in symbols at " + ", ".join(f"{m} x {n} r = {rank}" for m, n, rank in SHAPES)


def layers(largest: int, rank: int) -> st.SearchStrategy[dict[str, int]]:
    """{m, n, rank}: sizes 1 ... largest, ranks 1 ... min(m, n, rank)."""

    def with_rank(shape: tuple[int, int]) -> st.SearchStrategy[dict[str, int]]:
        m, n = shape
        return st.integers(1, min(m, n, rank)).map(lambda drawn: {"m": m, "n": n, "rank": drawn})

    return st.tuples(st.integers(1, largest), st.integers(1, largest)).flatmap(with_rank)


def weights_and_factors() -> st.SearchStrategy[dict[str, np.ndarray]]:
    """{W0, B, A} of small whole numbers."""

    def with_weight(drawn: dict[str, np.ndarray]) -> st.SearchStrategy[dict[str, np.ndarray]]:
        shape = (drawn["B"].shape[0], drawn["A"].shape[1])
        weights = hnp.arrays(np.int64, shape, elements=st.integers(-3, 3))
        return weights.map(lambda W0: {"W0": W0, "B": drawn["B"], "A": drawn["A"]})

    return factors().flatmap(with_weight)


def fails(summary: str, counterexample: Mapping[Any, Any] | None = None) -> Finding:
    """The verdict does not stand, and on what."""
    shown = {
        name: plain(value) if hasattr(value, "free_symbols") else value
        for name, value in (counterexample or {}).items()
    }
    return Finding(False, summary, counterexample=shown or None)


def symbolically(what: str) -> Finding:
    """An identity that was found to be so in every shape of SHAPES."""
    return Finding(True, f"{what}, {AT}")


def beyond_lora(formula: Callable[..., Any]) -> Any:
    """Where h = 0 does not give LoRA: the first difference in the shapes of SHAPES, or 0."""
    for m, n, rank in SHAPES:
        B, A, h = symbolic.symbols(m, n, rank).values()
        if (difference := symbolic.difference(formula(B, A, 0 * h), formulas.lora(B, A))) != 0:
            return difference
    return 0


def beyond_rank_K(formula: Callable[..., Any]) -> Any:
    """Where ΔW is not the product of the factors (m, K) and (K, n) of `formulas.expand`, or 0."""
    for m, n, rank in SHAPES:
        B, A, h = symbolic.symbols(m, n, rank).values()
        B_hat, A_hat = formulas.expand(B, A, h)
        if B_hat.shape[1] != rank * (rank + 3) // 2:
            return f"expand gives {B_hat.shape[1]} terms at r = {rank}"
        if (difference := symbolic.difference(formula(B, A, h), B_hat @ A_hat)) != 0:
            return difference
    return 0


def derived(derivations: Iterable[Derivation], what: str) -> Finding:
    """Every derivation holds, or the first step that fails."""
    for derivation in derivations:
        for step in derivation.steps:
            if step.holds is False:
                return fails(
                    f"fails: {step.text}", {str(plain(step.expression.lhs)): step.expression.rhs}
                )
    return Finding(True, what)
