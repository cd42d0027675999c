r"""The factors found again: from a merged update ΔW back to B, A and h.

Let K < min(m, n) be the number of features [b_i ; b_i∘b_j ...]. They span the column space V of ΔW
where no h is zero, and b_i can be told from b_i∘b_j inside V: **only a linear combination x of the
b_i has all its powers x∘x, ..., up to the degree of the rule, in V.** So:

1. *One vector.* Find x in V with x∘x in V: a least-squares problem in K unknowns, whose solutions
   are a whole plane L = span(b_1 ... b_r), easily met from random starts.
2. *The plane.* The y in V with x∘y in V are L again, for almost every x of L: a null space.
3. *The other side is linear.* With a basis X of L and X₂ its products, ΔW = X Y + X₂ Z₂ has one
   solution. Y spans the a_i, and Z₂ = G Y₂ with the products Y₂ of Y.
4. *Order and scale.* B = X S and A = S⁻¹ Y for one r x r matrix S, so G = Σ H_ij (s_i s_j)(t_i t_j)
   with the columns s_i of S and the rows t_i of S⁻¹. Contract one index of each pair:
   τ(G) = S diag(d) S⁻¹, d_i = (H_ii + Σ_j H_ij)/2. Its eigenvectors are S.
5. *h* is linear then, and damped Gauss-Newton steps on all factors remove rounding, or noise.

Where some h are zero V is smaller, and L is put together from several such x, or from pairs with
x∘y in V. Every step is tested by the last: a residual at rounding level.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from perakit import formulas
from perakit.errors import PerakitError, short
from perakit.theory.families import Family, check_family
from perakit.theory.merged import (
    Factors,
    Merged,
    Rule,
    features,
    monomials_of,
    read_merged,
    read_rule,
    update,
)
from perakit.theory.planes import BATCH, basis_of, planes
from perakit.theory.refinement import refine

STARTS = 200
NEAR = 1e-2  # of ‖ΔW‖: a distance below it that two batches end at is that of the noise
GAP = 30.0  # of neighbouring singular values, that makes a rank below K worth trying
DIVERGING = 100.0  # times ‖ΔW‖: terms of that size that cancel
EQUAL = 1e-6  # rows of H nearer to each other than this, relative to the largest, are one row
WIDEST = 2**11  # products whose independence is looked at


@dataclass(frozen=True)
class Recovery:
    """Factors of a merged update, and how well they reproduce it.

    B (m, r), A (r, n), h (K - r,): with the method's own scale, `method.update(None, B=B, A=A,
    h=h)` is ΔW; h is None where the method has none. Of the many equal factors these are the ones
    with ‖b_i‖ = ‖a_i‖, in falling order of it, the largest entry of each b_i positive.
    residual: ‖update - ΔW‖_F; relative: the same over ‖ΔW‖_F; tolerance: what rounding explains of
    `relative`.
    unique: True where no other factors but reordered and rescaled ones make ΔW, False where others
    do, None where neither is known; reason: why, in words.
    proof: why ΔW is no member, where that is certain; else empty. cancelling: (‖B A‖ + ‖products‖)
    / ‖ΔW‖; where it is large, ΔW is near a limit of updates whose factors grow without end.
    """

    B: np.ndarray = field(repr=False)
    A: np.ndarray = field(repr=False)
    h: np.ndarray | None = field(repr=False)
    residual: float
    relative: float
    tolerance: float
    unique: bool | None
    reason: str
    proof: str
    cancelling: float
    starts: int
    seed: int

    @property
    def member(self) -> bool:
        """Whether the factors make ΔW to rounding. If not, that is no proof, but for `proof`."""
        return self.relative <= self.tolerance

    @property
    def factors(self) -> dict[str, np.ndarray]:
        """The factors by name, as `method.update` takes them."""
        found = {"B": self.B, "A": self.A}
        return found if self.h is None else found | {"h": self.h}

    def __str__(self) -> str:
        if self.member:
            return (
                f"a member: ΔW is reproduced to {self.relative:.1e} (rounding explains"
                f" {self.tolerance:.1e}); unique: {self.reason}"
            )
        why = self.proof or "which proves nothing: no better factors were found"
        if self.cancelling > DIVERGING:
            why += f"; terms {self.cancelling:.2g} times as large cancel: the factors may diverge"
        return f"the nearest found leaves {self.relative:.3g} of ΔW ({self.residual:.4g}), {why}"


def recover(
    delta: Any,
    method: Family,
    seed: int = 0,
    starts: int = STARTS,
    tolerance: float | None = None,
) -> Recovery:
    """The factors B, A and h of a merged update, for PERA and LoRA.

    ΔW = s (B A + f Σ h_ij (b_i∘b_j)(a_i∘a_j)ᵀ), solved for B, A and h.

    delta: ΔW (m, n), or two factors of it, (left (m, k), right (k, n)). method: `perakit.PERA(2)`,
    `perakit.LoRA(2)`, or any family with factors B, A and h that makes such updates, of any terms
    and degree; its scale s and feature scale f are read from what it does. seed: of the starts;
    starts: how many to try at most, a few of which usually do.
    tolerance: of the relative residual up to which ΔW is called a member; None means 4 K max(m, n)
    ε, with ε of the dtype that ΔW comes in: what rounding explains.

    Needs K < min(m, n), but where ΔW has rank <= r: then h = 0 and the truncated SVD do. With m or
    n >= 2K - r nearly every exact member is found, in about a second; from K + r on many. Noise is
    met by the nearest factors that damped Gauss-Newton steps reach (up to 2048 numbers in all), an
    upper bound on the distance; LoRA's are the nearest of all (Eckart-Young).
    Raises PerakitError for a method without such products (DoRA, HiRA, MoRA), K >= min(m, n), a
    rank above min(m, n), and bad arrays.

    Source: the column space as an algebra of polynomials; docs/theory.md tells it.

    >>> import perakit as pk
    >>> rng = np.random.default_rng(0)
    >>> B, A, h = rng.normal(size=(8, 2)), rng.normal(size=(2, 9)), rng.normal(size=3)
    >>> found = pk.theory.recover(pk.formulas.pera(B, A, h), pk.PERA(2))
    >>> found.member, np.allclose(sorted(found.h), sorted(h))
    (True, True)
    """
    formulas.check_count("seed", seed, least=0)
    formulas.check_count("starts", starts)
    merged = read_merged(delta)
    rule = read_rule(check_family(method), *merged.shape)
    if tolerance is None:
        tolerance = 4 * rule.K * max(merged.shape) * merged.epsilon
    elif (
        isinstance(tolerance, bool)
        or not isinstance(tolerance, int | float | np.number)
        or not 0 <= tolerance < math.inf
    ):
        raise PerakitError(
            f"tolerance={short(tolerance)} must be a finite number >= 0, of ‖ΔW‖: None is rounding"
        )
    m, n = merged.shape
    if rule.products and min(m, n) <= rule.K and merged.rank > rule.r:
        raise PerakitError(
            f"K = {rule.K} is not below min(m, n) = {min(m, n)} of this {m} x {n} update: its"
            " column space says nothing about the factors; search with theory.best_approximation,"
            " take a lower rank, or a wider layer"
        )
    rng = np.random.default_rng(seed)
    factors = _search(merged, rule, rng, starts, float(tolerance)) if rule.products else None
    if factors is None:
        factors = _truncated(merged, rule)
    return _report(merged, rule, factors, float(tolerance), starts, seed)


# --- the search ----------------------------------------------------------------------------------


def _search(
    merged: Merged, rule: Rule, rng: np.random.Generator, starts: int, tolerance: float
) -> Factors | None:
    """Factors of W; None where the truncated SVD, with h = 0, is nearer than what was found."""
    if merged.rank <= rule.r:
        return None
    batches = math.ceil(starts / BATCH)
    streams = [
        (side, planes(basis_of(side, k, rule, rng), rule, rng, batches))
        for k in _ranks(merged, rule)
        for side in _sides(merged, rule)
    ]
    norm = float(np.linalg.norm(merged.W))
    best, least = None, float(np.linalg.norm(merged.sigma[rule.r :]))
    for turn in range(batches):
        side, stream = streams[turn % len(streams)]
        guesses = [
            factors
            for X in next(stream)
            for factors in _factors_of(side.W, X, rule)
            if all(np.isfinite(part).all() for part in factors)
        ]
        if not guesses:
            continue
        nearest = min(guesses, key=lambda factors: _distance(side.W, factors, rule))
        found = refine(side.W, nearest, rule)
        reached = _distance(side.W, found, rule)
        again = abs(reached - least) <= EQUAL * least
        if reached < least:
            B, A, h = found
            best, least = (found if side is merged else (A.T, B.T, h)), reached
        # Two batches that end at one distance have found what there is to find
        if least <= tolerance * norm or (again and least <= NEAR * norm):
            break
    return None if best is None else refine(merged.W, best, rule, patience=1e-12)


def _distance(W: np.ndarray, factors: Factors, rule: Rule) -> float:
    return float(np.linalg.norm(update(*factors, rule) - W))


def _ranks(merged: Merged, rule: Rule) -> list[int]:
    """Dimensions that V may have: the numerical rank, or K and where the spectrum falls steeply."""
    if merged.rank <= rule.K:
        return [merged.rank]
    falls = merged.sigma[rule.r - 1 : rule.K - 1] / merged.sigma[rule.r : rule.K]
    steepest = int(falls.argmax())
    return [rule.K] + ([rule.r + steepest] if steepest and falls[steepest] > GAP else [])


def _sides(merged: Merged, rule: Rule) -> list[Merged]:
    """The longer side first; the other too, if it has equations enough."""
    m, n = merged.shape
    longer, shorter = (merged, merged.transposed) if m >= n else (merged.transposed, merged)
    return [longer] + ([shorter] if min(m, n) >= rule.K + rule.r else [])


# --- from the plane to the factors ----------------------------------------------------------------


def _factors_of(W: np.ndarray, X: np.ndarray, rule: Rule) -> Iterator[Factors]:
    """Guesses of B, A and h from columns X (m, r) that span those of B."""
    X = X * (math.sqrt(len(X)) / np.linalg.norm(X, axis=0))
    yield _directly(W, X, rule)  # X may be B itself
    whole = rule.without_terms()
    if len(W) < whole.K:
        return
    Z = np.linalg.lstsq(features(X, whole.monomials), W, rcond=None)[0]
    Y = Z[: rule.r]
    squares = [t for t in whole.products if len(t) == 2]
    Z2, Y2 = Z[rule.r : rule.r + len(squares)], features(Y.T, squares)
    G = np.linalg.lstsq(Y2, Z2.T, rcond=None)[0].T  # Z2 = G Y2ᵀ
    for power in (1, 2):
        yield _directly(W, X @ _common_eigenvectors(G, squares, rule.r, power), rule)


def _directly(W: np.ndarray, B: np.ndarray, rule: Rule) -> Factors:
    """A and h, given B up to the scale of its columns: both are linear then."""
    rows = np.linalg.lstsq(features(B, rule.monomials), W, rcond=None)[0]
    A = rows[: rule.r]
    products = features(A.T, rule.products).T
    lengths = (products**2).sum(1)
    h = (rows[rule.r :] * products).sum(1) / np.where(lengths > 0, lengths, 1.0)
    return B, A, h


def _common_eigenvectors(
    G: np.ndarray, squares: Sequence[tuple[int, ...]], r: int, power: int
) -> np.ndarray:
    """S (r, r) of G = Σ H_ij (s_i s_j)(t_i t_j); power 2 reads the squares of H instead."""
    T = np.zeros((r, r, r, r))
    for row, (k, o) in enumerate(squares):
        for column, (p, q) in enumerate(squares):
            value = G[row, column] / ((1 + (k != o)) * (1 + (p != q)))
            T[k, o, p, q] = T[o, k, p, q] = T[k, o, q, p] = T[o, k, q, p] = value
    if power == 2:
        T = np.einsum("klab,abpq->klpq", T, T)
    _values, S = np.linalg.eig(np.einsum("klpl->kp", T))
    if np.iscomplexobj(S):  # of equal rows of H, by rounding: any basis of their plane does
        S = np.linalg.svd(np.concatenate([S.real, S.imag], axis=1))[0]
    return np.asarray(S)


# --- what is said --------------------------------------------------------------------------------


def _truncated(merged: Merged, rule: Rule) -> Factors:
    root = np.sqrt(merged.sigma[: rule.r])
    B, A = np.zeros((merged.shape[0], rule.r)), np.zeros((rule.r, merged.shape[1]))
    B[:, : len(root)] = merged.U[:, : rule.r] * root
    A[: len(root)] = root[:, None] * merged.Vt[: rule.r]
    return B, A, np.zeros(len(rule.products))


def _report(
    merged: Merged, rule: Rule, factors: Factors, tolerance: float, starts: int, seed: int
) -> Recovery:
    B, A, h = _canonical(*factors, rule)
    norm = float(np.linalg.norm(merged.W))
    residual = _distance(merged.W, (B, A, h), rule)
    relative = residual / norm if norm else residual
    linear = B @ A
    terms = float(np.linalg.norm(linear) + np.linalg.norm(update(B, A, h, rule) - linear))
    beyond = float(np.linalg.norm(merged.sigma[rule.K :]))
    proof = ""
    if beyond > tolerance * norm:
        proof = (
            f"and no matrix of rank <= {rule.K} is nearer than {beyond / norm:.3g} (Eckart-Young)"
        )
    unique, reason = (
        _uniqueness(B, A, h, merged.rank, rule)
        if relative <= tolerance
        else (None, "these factors do not make ΔW")
    )
    # W = ΔW / unit, and the method multiplies by its scale and its feature scale: ΔW is a cone
    c = merged.unit / rule.scale
    size = math.sqrt(abs(c))
    degrees = np.array([len(t) for t in rule.products])
    with np.errstate(over="ignore"):
        h = h * c ** (1.0 - degrees) / rule.features if len(h) else h
    if not np.isfinite(h).all():
        raise PerakitError(
            f"ΔW has entries of size {merged.unit:.1g}, for which h exceeds a float64: rescale it"
        )
    return Recovery(
        B=size * B,
        A=math.copysign(size, c) * A,
        h=h if rule.named else None,
        residual=residual * merged.unit,
        relative=relative,
        tolerance=tolerance,
        unique=unique,
        reason=reason,
        proof=proof,
        cancelling=terms / norm if norm else 0.0,
        starts=starts,
        seed=seed,
    )


def _canonical(B: np.ndarray, A: np.ndarray, h: np.ndarray, rule: Rule) -> Factors:
    """The equal factors with ‖b_i‖ = ‖a_i‖, falling, the largest entry of each b_i positive."""
    b, a = np.linalg.norm(B, axis=0), np.linalg.norm(A, axis=1)
    scale = np.sqrt(np.divide(a, b, out=np.ones_like(a), where=(a > 0) & (b > 0)))
    scale *= np.where(B[np.abs(B).argmax(0), np.arange(rule.r)] < 0, -1, 1)
    order = np.argsort(-b * a, kind="stable")
    place = {t: k for k, t in enumerate(rule.products)}
    moved = [place[tuple(sorted(order[list(t)]))] for t in rule.products]
    return (B * scale)[:, order], (A / scale[:, None])[order], h[moved]


def _uniqueness(
    B: np.ndarray, A: np.ndarray, h: np.ndarray, rank: int, rule: Rule
) -> tuple[bool | None, str]:
    """Whether other factors make the same ΔW, and why.

    If b' are others of the same V, they are polynomials of degree <= d in b whose products stay of
    degree <= d; where all products of degree <= 2d are independent on the rows, b' = bS is linear
    then. S turns H into H', and maps apart only rows of H that are equal.
    """
    r, d = rule.r, rule.degree
    if not rule.products or not h.any():
        if r == 1 and rank:
            if d == 1 or all(_independent_products(x, d) for x in (B, A.T)):
                return True, "up to scale, as every matrix of rank 1"
            return None, "not known: b∘b or a∘a is a multiple of b or a"
        return False, "no, B A = (B X)(X⁻¹ A) for every invertible X"
    H = np.zeros((r, r))
    for value, t in zip(h, rule.products, strict=True):
        if len(t) == 2:
            H[t] = H[t[::-1]] = value / (1 if t[0] == t[1] else 2)
    for i in range(r):
        for j in range(i):
            if d == 2 and np.abs(H[i] - H[j]).max() <= EQUAL * np.abs(H).max():
                return False, f"no, rows {j + 1} and {i + 1} of H are equal: they mix freely"
            if d > 2 and np.abs(H[i] - H[j]).max() <= EQUAL * np.abs(H).max():
                return None, "not known: rows of H are equal, and what the cubes say was not asked"
    if rank < rule.K:
        return None, f"not known: the rank {rank} is below K = {rule.K}, as where an h is zero"
    needed = math.comb(r + 2 * d, 2 * d) - 1
    wide = [
        x for x in (B, A.T) if needed <= min(len(x), WIDEST) and _independent_products(x, 2 * d)
    ]
    if wide and all(len(x) >= rule.K and _independent_products(x, d) for x in (B, A.T)):
        return True, "up to order and scale"
    return None, (
        f"not known: it is proved, up to order and scale, where the {needed} products of degree <="
        f" {2 * d} are independent on one side"
    )


def _independent_products(X: np.ndarray, degree: int) -> bool:
    products = features(X, Rule(X.shape[1], monomials_of(X.shape[1], "full", degree)).monomials)
    lengths = np.linalg.norm(products, axis=0)
    if products.shape[0] < products.shape[1] or not lengths.all():
        return False
    values = np.linalg.svd(products / lengths, compute_uv=False)
    return bool(values[-1] > 1e-10 * values[0])
