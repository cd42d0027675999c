"""The plane that B's columns span, found in the column space V of an update.

Of V only a linear combination of the b_i has its powers in V; see `perakit.theory.recovery`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from perakit.theory.merged import Merged, Monomial, Rule, features, rest_of

Pool = list[tuple[float, np.ndarray]]  # vectors c (k,) of V, and what leaves V of their products

BATCH = 25  # starts, of which the best few go on
CHOSEN = 3
ROWS = 8  # times K, or 64: as many rows of a tall V tell a plane from its neighbours
WORST = 1e4  # condition of V on those rows; beyond it all rows are read
LARGEST = 2**25  # entries of the Jacobian of a plane, up to which it is improved
EXACT = 1e-10  # what leaves V, of products of size 1, where they do not


@dataclass(frozen=True)
class Basis:
    """V: `Q` (rows, k) orthonormal on some rows of the layer, and on all of them `whole`."""

    Q: np.ndarray
    whole: np.ndarray


def basis_of(side: Merged, k: int, rule: Rule, rng: np.random.Generator) -> Basis:
    """V of the first k singular vectors, on all rows of the side, or as many as are enough."""
    U, rows = side.U[:, :k], max(64, ROWS * rule.K)
    if len(U) > rows:
        Q, R = np.linalg.qr(U[rng.choice(len(U), rows, replace=False)])
        if np.linalg.cond(R) < WORST:
            return Basis(Q, np.linalg.solve(R.T, U.T).T)
    return Basis(U, U)


def _closed(
    Q: np.ndarray, C: np.ndarray, monomials: Sequence[Monomial], orthogonal: bool
) -> tuple[np.ndarray, float]:
    """C (k, s) for which the products of X = Q C stay in the column space V of Q (m, k).

    By damped Gauss-Newton steps from C, on columns of length 1, or orthogonal ones. Returns C and
    the sum of squares of what leaves V.
    """
    m, (k, s) = len(Q), C.shape
    Q = Q * math.sqrt(m)  # entries of size 1, so that products of any degree are of one size

    def outside(Z: np.ndarray) -> np.ndarray:
        return (Z - Q @ (Q.T @ Z) / m) / math.sqrt(m)

    def normal(C: np.ndarray) -> np.ndarray:
        return np.linalg.qr(C)[0] if orthogonal else C / np.linalg.norm(C, axis=0)

    C = normal(C)
    error = outside(features(Q @ C, monomials))
    value, damping = float((error**2).sum()), 0.1
    for _ in range(60):
        X, J = Q @ C, np.zeros((k, s, m, len(monomials)))
        for column, t in enumerate(monomials):
            for i in set(t):
                count, rest = rest_of(t, i)
                J[:, i, :, column] = outside(count * X[:, list(rest)].prod(1)[:, None] * Q).T
        flat = J.reshape(k * s, -1)
        JJ, gradient = flat @ flat.T, flat @ error.ravel()
        scale = np.trace(JJ) / len(JJ) or 1.0
        # Along C, or C times a matrix, nothing changes but the length
        fixed = (
            np.kron(C @ C.T, np.eye(s))
            if orthogonal
            else np.einsum("ai,bi,ij->aibj", C, C, np.eye(s)).reshape(k * s, k * s)
        )
        step = np.linalg.solve(
            JJ + scale * (damping * np.eye(k * s) + len(JJ) * fixed), gradient
        ).reshape(k, s)
        trial = normal(C - step)
        left = outside(features(Q @ trial, monomials))
        reached = float((left**2).sum())
        if reached < value:
            slow = reached > (1 - 1e-6) * value
            C, error, value, damping = trial, left, reached, max(0.2 * damping, 1e-12)
            if slow:
                break
        else:
            damping *= 4
        if value < 1e-28 or damping > 1e8:
            break
    return C, value


def planes(
    basis: Basis, rule: Rule, rng: np.random.Generator, batches: int
) -> Iterator[list[np.ndarray]]:
    """Batch after batch: columns X (m, r) that may span those of B."""
    Q, k = basis.Q, basis.Q.shape[1]
    if rule.is_full and k == rule.K:
        found = (_by_partners(Q, rule, rng) for _ in range(batches))
    else:
        pools: tuple[Pool, Pool] = ([], [])
        found = (_by_pool(Q, rule, rng, pools[turn % 2], turn % 2) for turn in range(batches))
    for planes in found:
        yield [basis.whole @ C for C in planes]


def _by_partners(Q: np.ndarray, rule: Rule, rng: np.random.Generator) -> list[np.ndarray]:
    """One vector whose powers stay in V, and its partners: the best of a batch, each improved."""
    guesses = []
    for _ in range(BATCH):
        C = _partners(Q, _power_closed(Q, rule, rng)[1], rule)
        leaving = _leaving(Q, C, rule)
        if leaving < EXACT:
            return [C]
        guesses.append((leaving, C))
    guesses.sort(key=lambda guess: guess[0])
    planes = [C for _, C in guesses[:CHOSEN]]
    if Q.size * rule.r * len(rule.products) > LARGEST:
        return planes
    return [_closed(Q, C, rule.products, orthogonal=True)[0] for C in planes]


def _by_pool(
    Q: np.ndarray, rule: Rule, rng: np.random.Generator, pool: Pool, pairs: int
) -> list[np.ndarray]:
    """As many independent vectors as it takes, of those with powers in V, or of pairs x, y with x∘y
    in V; where there are no squares, columns with all of their products in V too.
    """
    k, mixed = Q.shape[1], any(len(set(t)) == 2 for t in rule.products)
    squares = any(len(set(t)) == 1 for t in rule.products)
    whole = []
    for turn in range(BATCH):
        if squares and not (pairs and mixed):
            value, c = _power_closed(Q, rule, rng)
            pool.append((value, c[:, 0]))
        elif squares or turn % 2:
            C, value = _closed(Q, rng.normal(size=(k, 2)), [(0, 1)], orthogonal=False)
            pool.extend((value, c) for c in C.T)
        else:
            C, value = _closed(Q, rng.normal(size=(k, rule.r)), rule.products, orthogonal=False)
            whole.append((value, C))
    found = [C for _, C in sorted(whole, key=lambda guess: guess[0])[:CHOSEN]]
    if pool:
        pool.sort(key=lambda entry: entry[0])
        found.append(_independent(pool, rule.r))
    return found


def _power_closed(Q: np.ndarray, rule: Rule, rng: np.random.Generator) -> tuple[float, np.ndarray]:
    """c (k, 1) with the powers of Q c in V, up to the degree, from a random start."""
    powers = [(0,) * d for d in range(2, rule.degree + 1)]
    C, value = _closed(Q, rng.normal(size=(Q.shape[1], 1)), powers, orthogonal=False)
    return value, C


def _partners(Q: np.ndarray, c: np.ndarray, rule: Rule) -> np.ndarray:
    """The r directions y of V for which x∘y, x∘x∘y, ... leave V the least; x = Q c."""
    x = Q @ c * math.sqrt(len(Q))
    products = [x**d * Q for d in range(1, rule.degree)]
    leaving = np.concatenate([P - Q @ (Q.T @ P) for P in products])
    return np.asarray(np.linalg.svd(leaving, full_matrices=True)[2][-rule.r :].T)


def _leaving(Q: np.ndarray, C: np.ndarray, rule: Rule) -> float:
    P = features(Q @ C * math.sqrt(len(Q)), rule.products)
    return float(np.linalg.norm(P - Q @ (Q.T @ P)))


def _independent(pool: Pool, r: int) -> np.ndarray:
    """The first r vectors of the pool that are clearly independent; random ones where too few."""
    chosen: list[np.ndarray] = []
    basis = np.zeros((len(pool[0][1]), 0))
    for _, c in pool:
        rest = c - basis @ (basis.T @ c)
        if np.linalg.norm(rest) > 0.03:
            chosen.append(c)
            basis = np.linalg.qr(np.array(chosen).T)[0]
        if len(chosen) == r:
            return np.array(chosen).T
    return np.concatenate([basis, np.linalg.svd(basis)[0][:, len(chosen) : r]], axis=1)
