"""A merged update as it is given, the sum of products that a method makes, and its features."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from perakit import formulas
from perakit.errors import PerakitError, short
from perakit.theory.families import Family, check_layer, check_matrix, factor_rank
from perakit.theory.rank import machine_epsilon

Monomial = tuple[int, ...]
Factors = tuple[np.ndarray, np.ndarray, np.ndarray]  # B (m, r), A (r, n), h


@dataclass(frozen=True)
class Merged:
    """ΔW / unit, with its singular value decomposition; unit is a power of two near its size."""

    W: np.ndarray  # (m, n)
    unit: float
    U: np.ndarray
    sigma: np.ndarray
    Vt: np.ndarray
    epsilon: float

    @property
    def shape(self) -> tuple[int, int]:
        """(m, n)."""
        return self.W.shape[0], self.W.shape[1]

    @property
    def rank(self) -> int:
        """The numerical rank."""
        return int((self.sigma > max(self.shape) * self.epsilon * self.sigma[0]).sum())

    @property
    def transposed(self) -> Merged:
        """ΔWᵀ, whose factors are Aᵀ, Bᵀ and the same h."""
        return Merged(self.W.T, self.unit, self.Vt.T, self.sigma, self.U.T, self.epsilon)


def read_merged(delta: Any) -> Merged:
    """ΔW (m, n) or its factors ((m, k), (k, n)), checked, scaled and decomposed."""
    if isinstance(delta, tuple) and len(delta) == 2 and len(np.shape(delta[0])) == 2:
        left, right = (
            check_matrix(name, part) for name, part in zip(("left", "right"), delta, strict=True)
        )
        if left.shape[1] != right.shape[0]:
            raise PerakitError(
                f"left {left.shape} and right {right.shape} do not match: need (m, k) and (k, n)"
            )
        epsilon = max(map(machine_epsilon, delta))
        # Each with entries near 1, so that neither the product nor its SVD leaves float64
        units = [_unit(part) for part in (left, right)]
        left, right = left / units[0], right / units[1]
        W, unit = left @ right, units[0] * units[1]
        (Ql, Rl), (Qr, Rr) = np.linalg.qr(left), np.linalg.qr(right.T)
        u, sigma, vt = np.linalg.svd(Rl @ Rr.T)
        k = len(sigma)
        U, Vt = Ql @ u[:, :k], vt[:k] @ Qr.T
    else:
        W, epsilon = check_matrix("delta", delta), machine_epsilon(delta)
        unit = _unit(W)
        W = W / unit
        U, sigma, Vt = np.linalg.svd(W, full_matrices=False)
    if not 1e-100 < unit < 1e100:
        raise PerakitError(
            f"the entries of ΔW are of size {unit:.1g}: rescale it, its factors and their products"
            " must fit a float64"
        )
    return Merged(W, unit, U, sigma, Vt, epsilon)


def _unit(matrix: np.ndarray) -> float:
    largest = float(np.abs(matrix).max())
    return math.ldexp(1.0, math.frexp(largest)[1]) if largest else 1.0


@dataclass(frozen=True)
class Rule:
    """ΔW = scale (B A + features Σ h_t b_t a_tᵀ): the products t of degree >= 2, in h's order."""

    r: int
    products: tuple[Monomial, ...]
    scale: float = 1.0
    features: float = 1.0
    named: bool = True  # whether the method has an h at all

    @property
    def K(self) -> int:
        """The number of features."""
        return self.r + len(self.products)

    @property
    def degree(self) -> int:
        """Of the highest product; 1 without any."""
        return max(map(len, self.products), default=1)

    @property
    def monomials(self) -> list[Monomial]:
        """Of the K features, the linear ones first."""
        return [(i,) for i in range(self.r)] + list(self.products)

    def without_terms(self) -> Rule:
        """With every product up to the degree, whatever `terms` leaves out."""
        return Rule(self.r, monomials_of(self.r, "full", self.degree))

    @property
    def is_full(self) -> bool:
        """Whether no product up to the degree is left out."""
        return len(self.products) == math.comb(self.r + self.degree, self.degree) - 1 - self.r


def monomials_of(r: int, terms: str, degree: int) -> tuple[Monomial, ...]:
    """`formulas.monomials`, each as a tuple, in h's order."""
    return tuple(
        tuple(column)
        for index in formulas.monomials(r, terms, degree)
        for column in index.T.tolist()
    )


def read_rule(method: Family, m: int, n: int) -> Rule:
    """What a method does on an (m, n) layer, by trying it; refused where it has no such products.

    So a scale, a feature scale, or another name for the same rule need no list of known classes.
    """
    shapes = dict(method.shapes(m, n))
    r = factor_rank(method, m, n)
    names = set(shapes) - {"h"}
    refusal = PerakitError(
        f"{short(method)} is no sum of B A and products of the columns of B and A: recover reads"
        " perakit.PERA, perakit.LoRA and families of the same formula"
    )
    if r is None or names != {"A", "B"} or len(shapes.get("h", (0,))) != 1:
        raise refusal
    check_layer(m, n, r)
    rng = np.random.default_rng(0)
    tried = {name: rng.uniform(0.5, 1.5, shape) for name, shape in shapes.items()}
    count = shapes.get("h", (0,))[0]
    try:
        linear = np.asarray(method.update(None, **tried | ({"h": 0 * tried["h"]} if count else {})))
        whole = np.asarray(method.update(None, **tried))
    except Exception as error:  # a rule may raise anything where it wants a W0
        raise refusal from error
    scale = _multiple(linear, tried["B"] @ tried["A"])
    if not scale:
        raise refusal
    if not count:
        return Rule(r, (), scale, named="h" in shapes)
    for degree in range(2, min(count + 1, formulas.LARGEST_DEGREE) + 1):
        for terms in formulas.TERMS:
            if formulas.rank_bound(r, terms, degree) - r == count:
                plain = formulas.pera(**tried, terms=terms, degree=degree)
                features = _multiple(whole - linear, plain - tried["B"] @ tried["A"])
                if features:
                    return Rule(r, monomials_of(r, terms, degree), scale, features / scale)
    raise refusal


def _multiple(found: np.ndarray, plain: np.ndarray) -> float:
    """c with found = c plain, to rounding; 0 where there is none."""
    if found.shape != plain.shape or not np.isfinite(found).all():
        return 0.0
    c = float((found * plain).sum() / (plain**2).sum())
    return c if np.allclose(found, c * plain, rtol=1e-9, atol=1e-9 * abs(c)) else 0.0


def features(X: np.ndarray, monomials: Sequence[Monomial]) -> np.ndarray:
    """Products of the columns of X (m, r), one column a monomial."""
    if not monomials:
        return np.zeros((len(X), 0))
    return np.stack([X[:, list(t)].prod(1) for t in monomials], axis=1)


def rest_of(t: Monomial, i: int) -> tuple[int, Monomial]:
    """∂x_t/∂x_i = count · x_rest."""
    rest = list(t)
    rest.remove(i)
    return t.count(i), tuple(rest)


def update(B: np.ndarray, A: np.ndarray, h: np.ndarray, rule: Rule) -> np.ndarray:
    """B A + Σ h_t b_t a_tᵀ (m, n), without the method's scales."""
    products = rule.products
    return B @ A + (features(B, products) * h) @ features(A.T, products).T
