r"""One interval of h and one choice of roots: no member of S(1) is near, by a sum of logarithms.

A member is e = x u + y u∘u with u of rank one and no zero entry. Hence Σ λ_k log|u_k| = 0 for all
weights λ whose rows and columns sum to zero: *combinations* of the conditions that the 2 x 2 minors
express, and separable ones. Let c be positive and of rank one. Then Σ λ_k log(|u_k|/c_k) = 0 too,
and as 1 − 1/z <= log z <= z − 1,

    0 >= Σ λ_k ψ_k(|u_k|),   ψ_k(v) = 1 − c_k/v where λ_k > 0, v/c_k − 1 where λ_k < 0,

with equality at |u| = c. So with X = e − E, and Q quadratic with Q(X) <= ‖X‖², a member has

    ‖X‖² >= Q(X) + 2 Σ λ_k ψ_k(|u_k|) >= Σ_k min over v of (Q_k + 2 λ_k ψ_k)(v),

nine minima of rational functions in one variable each. Any c, λ and Q prove something. They are
chosen in floats, c as the nearest member at this h and λ as its Lagrange multipliers: where the
nine functions are convex the bound is then the distance itself. The inequality is checked in
integers that are rounded outward.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from perakit.theory.intervals import BITS, ONE, Interval, Jet, around, constant, point

NORMS = ("frobenius", "spectral", "max")
STEPS = {"frobenius": 8, "spectral": 20, "max": 40}  # of the fit
CONVEX = 0.1  # the weight of each X_k² in Q for the spectral norm, to keep it convex
# log|u| of a u of rank one is LOGS @ (logs of a column, logs of a row)
LOGS = np.hstack([np.repeat(np.eye(3), 3, 0), np.tile(np.eye(3), (3, 1))])


class Fit(NamedTuple):
    """The nearest member at given (x, y) and roots, in floats.

    logs: of its column and row; u, gap: nine entries, gap = x u + y u∘u − E; weights, mixed: of
    Q(X) = Σ w_k X_k² + tr(X R Xᵀ), R positive semidefinite; distance: ‖gap‖ in the norm; provable:
    the bound of it by Q.
    """

    norm: str
    logs: Any
    u: Any
    gap: Any
    weights: Any
    mixed: Any
    distance: float
    provable: float


def fit(x: float, y: float, E: Any, large: Any, norm: str) -> Fit:
    """Gauss-Newton steps on the logarithms, from the roots at E, with Q following the norm."""
    root = np.sqrt(np.maximum(0, x * x + 4 * y * E))
    start = np.where(large, -x - root, root - x) / (2 * y)
    sign, slope = np.sign(start), np.abs((x + 2 * y * start) * start)[:, None]
    logs = np.linalg.lstsq(LOGS * slope, np.log(np.abs(start)) * slope[:, 0], rcond=None)[0]
    weights = np.full(9, CONVEX if norm == "spectral" else 1.0)
    mixed = np.eye(3) * (norm == "spectral")
    for _ in range(STEPS[norm]):
        u = sign * np.exp(LOGS @ logs)
        gap = x * u + y * u * u - E
        if norm == "max":  # Lawson's rule: weight goes where the error is large
            weights = weights * np.abs(gap)
            weights = weights / weights.sum()
        if norm == "spectral":  # the same for singular values
            half, X = _power(mixed, 0.5), gap.reshape(3, 3)
            mixed = half @ _power(X.T @ X, 0.5) @ half
            mixed = mixed * (1 - 3 * CONVEX) / np.trace(mixed)
        metric = _power(np.diag(weights) + np.kron(np.eye(3), mixed), 0.5)
        change = metric @ (LOGS * ((x + 2 * y * u) * u)[:, None])
        move = np.linalg.lstsq(change, -metric @ gap, rcond=None)[0]
        logs = logs + move / max(1.0, np.abs(move).max())
    u = sign * np.exp(LOGS @ logs)
    gap = x * u + y * u * u - E
    X = gap.reshape(3, 3)
    distance = (
        np.abs(X).max() if norm == "max" else np.linalg.norm(X, 2 if norm == "spectral" else "fro")
    )
    Q = (weights * gap * gap).sum() + np.trace(X @ mixed @ X.T)
    provable = math.sqrt(Q / _scale(norm, weights, np.trace(mixed)))
    return Fit(norm, logs, u, gap, weights, mixed, float(distance), provable)


def _scale(norm: str, weights: Any, trace: Any) -> Any:
    """Q(X) <= scale · ‖X‖², with tr(X R Xᵀ) <= tr R · ‖X‖₂²."""
    if norm == "max":
        return sum(weights) + 9 * trace
    return max(weights) * (3 if norm == "spectral" else 1) + trace


def _power(M: Any, exponent: float) -> Any:
    values, vectors = np.linalg.eigh(M)
    return (vectors * np.maximum(values, 0) ** exponent) @ vectors.T


def separated(
    x: Interval,
    y: Interval,
    E: list[Interval],
    large: Sequence[bool],
    ranges: list[Interval],
    found: Fit,
    reach: int,
) -> bool:
    """Whether no member with (x, y) there, each |u_k| in its range, is within reach of E: a proof.

    x or y is a single number. ranges: positive; reach: of the distance, in units of 2^-BITS; found:
    a fit at the middle of x and y.
    """
    moving = x if x.lo < x.hi else y
    delta = max(moving.hi - moving.middle, moving.middle - moving.lo)
    # dQ/ds at c, s = x or y less its middle: off each summand and back on for all of them together
    power = 1 if moving is x else 2
    drifts = 2 * _pull(found) * found.u**power
    scale = _scale(found.norm, found.weights, np.trace(found.mixed))
    expected = found.provable**2 * scale - abs(drifts.sum()) * delta / ONE
    if not expected > scale * (reach / ONE) ** 2:
        return False  # not even if every summand were least at c; or no number
    quadratic = _quadratic(found)
    column, row = (
        [round(math.exp(v) * (1 << BITS // 2)) for v in part]
        for part in (found.logs[:3], found.logs[3:])
    )
    if min(column + row) <= 0 or min(v.lo for v in ranges) <= 0:
        return False
    lam = _multipliers(found, x.middle / ONE, y.middle / ONE)
    total, together = around(quadratic.constant).lo, 0
    for k in range(9):
        sign = -1 if large[k] and y.lo > 0 else 1
        drift = round(float(drifts[k]) * ONE)
        together += drift
        total += _Summand(
            E[k],
            point(sign * x.middle),
            point(y.middle),
            around(quadratic.weights[k]),
            around(quadratic.linear[k]),
            power,
            point(sign * drift if power == 1 else drift),
            Interval(-delta, delta),
            point(lam[k]),
            point(column[k // 3] * row[k % 3]),
        ).least(ranges[k])
    total -= -(-abs(together) * delta >> BITS)
    return total > around(quadratic.scale * Fraction(reach, ONE) ** 2).hi


class _Quadratic(NamedTuple):
    """Q(X) = Σ (w_k X_k² + l_k X_k) + constant <= scale · ‖X‖², exactly."""

    weights: list[Fraction]
    linear: list[Fraction]
    constant: Fraction
    scale: Fraction


def _quadratic(found: Fit) -> _Quadratic:
    """tr(X R Xᵀ) >= 2 tr(X R Cᵀ) − tr(C R Cᵀ) for every C, here the gap, as R is semidefinite."""
    weights = [_dyadic(v) for v in found.weights]
    if not found.mixed.any():
        return _Quadratic(weights, [Fraction()] * 9, Fraction(), _scale(found.norm, weights, 0))
    root = [[_dyadic(v) for v in row] for row in _power(found.mixed, 0.5)]
    R = [[sum((p * q for p, q in zip(a, b, strict=True)), Fraction()) for b in root] for a in root]
    gap = [_dyadic(v) for v in found.gap]
    linear = [
        2 * sum((gap[3 * i + k] * R[k][j] for k in range(3)), Fraction())
        for i in range(3)
        for j in range(3)
    ]
    constant = -sum((p * q for p, q in zip(gap, linear, strict=True)), Fraction()) / 2
    scale = _scale(found.norm, weights, R[0][0] + R[1][1] + R[2][2])
    return _Quadratic(weights, linear, constant, scale)


def _multipliers(found: Fit, x: float, y: float) -> list[int]:
    """λ, in units of 2^-BITS, rows and columns summing to zero exactly."""
    lam = (-_pull(found) * (x + 2 * y * found.u) * found.u).reshape(3, 3)
    lam = lam - lam.mean(0) - lam.mean(1)[:, None] + lam.mean()
    corner = [[round(float(v) * ONE) for v in row[:2]] for row in lam[:2]]
    rows = [[*row, -sum(row)] for row in corner]
    return [v for row in (*rows, [-sum(column) for column in zip(*rows, strict=True)]) for v in row]


def _pull(found: Fit) -> Any:
    """Half the gradient of Q at the gap."""
    return found.weights * found.gap + (found.gap.reshape(3, 3) @ found.mixed).ravel()


def _dyadic(value: Any) -> Fraction:
    return Fraction(round(float(value) * ONE), ONE)


class _Summand(NamedTuple):
    """One of the nine functions of v = |u|, at worst over all s in `moves`.

    e = x u + y u² + s g = e0 + s g with g = u (power 1) or u² (power 2). Q is convex in s, so Q(e −
    E) >= Q(e0 − E) + s g Q'(e0 − E), and f(v) = Q(e0 − E) + s (g Q'(e0 − E) − drift) + 2λ ψ(v).
    x, s and drift carry the sign of u; as `moves` is symmetric it does not matter to s.
    """

    E: Interval
    x: Interval
    y: Interval
    weight: Interval
    linear: Interval
    power: int
    drift: Interval
    moves: Interval
    lam: Interval
    c: Interval

    def jet(self, v: Interval) -> Jet:
        """Value, slope and second derivative for v in an interval."""
        one = constant(point(ONE))
        u = Jet(v, point(ONE), point(0))
        square = u * u
        gap = u.times(self.x) + square.times(self.y) - constant(self.E)
        half = gap.times(self.weight)
        line = constant(self.linear)
        shift = (square if self.power == 2 else u) * (half + half + line) - constant(self.drift)
        psi = (
            one - u.inverse().times(self.c) if self.lam.lo > 0 else u.times(self.c.inverse()) - one
        ).times(self.lam)
        return (half + line) * gap + shift.times(self.moves) + psi + psi

    def least(self, v: Interval) -> int:
        """A lower bound of f on v: by convexity, by monotony, or by the mean value theorem."""
        whole = self.jet(v)
        if (bend := whole.bend.lo) > 0:  # f(p + d) >= f(p) + f'(p) d + bend d²/2
            p = min(max(self.c.lo, v.lo), v.hi)
            there = self.jet(point(p))
            steep = max(0 if p == v.lo else there.slope.hi, 0 if p == v.hi else -there.slope.lo)
            return there.value.lo - (steep * steep // (2 * bend) + 1)
        if whole.slope.lo >= 0 or whole.slope.hi <= 0:
            return self.jet(point(v.lo if whole.slope.lo >= 0 else v.hi)).value.lo
        far = whole.slope.largest * (v.hi - v.lo + 1) >> BITS + 1
        return self.jet(point(v.middle)).value.lo - far - 1
