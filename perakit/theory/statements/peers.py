"""Claims about what PERA's peers can and cannot express: DoRA's rank, MoRA, DeLoRA, LoHa, and a
layer that is no matrix.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from hypothesis import strategies as st

from perakit import formulas, strategies
from perakit.theory import field, symbolic
from perakit.theory.claims import claims
from perakit.theory.exact import exact_rank
from perakit.theory.findings import Finding, verified
from perakit.theory.statements.arguments import (
    SHAPES,
    Case,
    every,
    fails,
    identical,
    symbolically,
    weights_and_factors,
)
from perakit.theory.statements.relatives import (
    at_sizes,
    corners,
    drawn_cases,
    is_dora,
    lora_cases,
    multiplied,
    pair_corner,
    reaching,
)

DELORA = "arXiv 2503.18225"


def _array(name: str, *shape: int) -> np.ndarray:
    """An object array of real symbols."""
    import sympy

    return np.array(
        sympy.symbols(f"{name}:{int(np.prod(shape))}", real=True), dtype=object
    ).reshape(shape)


def _whole(generator: np.random.Generator, *shape: int) -> np.ndarray:
    return generator.integers(1, 100, shape)


@claims.register(
    "dora-rank",
    title="DoRA's update has any rank, and is a low-rank one only between its row scalings",
    statement=(
        r"$\operatorname{rank}(\Delta W) = \min(m,n)$ is reached even at $B = 0$, for $W_0$ of full"
        r" rank and each $g_p$ another than "
        r"its row's length: rescaling rows is enough. With $V = W_0 + BA$ and $D ="
        r" \operatorname{diag}(g/\lVert V\rVert)$, "
        r"$\operatorname{rank}(D^{-1}(W_0+\Delta W) - W_0) \le r$ where no $g_p$ is 0"
    ),
    source="follows from arXiv 2402.09353, Eq. 5",
    verdict="proved",
    range="all sizes",
    about=formulas.dora,
)
def _dora_rank(formula: Any, seed: int, examples: int) -> Finding:
    r"""At $B = 0$ the update is $(D - I)\,W_0$ with $D = \operatorname{diag}(g_p/\lVert
    W_{0,p}\rVert)$. If no $g_p$ is the length of its row, $D - I$ has no zero on its diagonal and
    is invertible, so the rank is that of $W_0$. (A zero row stays zero whatever its entry of $D$
    is: take 2.)

    $W_0 + \Delta W = D V$ for any $B$. Where no $g_p$ is 0, $D$ has an inverse, and $D^{-1}(W_0 +
    \Delta W) - W_0 = V - W_0 = BA$, of rank at most $r$.
    """

    # g is V's row lengths, as the rule measures them, times powers of two: so D^-1 (W0 + ΔW) is V,
    # in whole numbers
    def magnitude(V: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        scalings = 2.0 ** (1 + np.arange(len(V)) % 3)
        # a zero row has no length: any g
        return scalings, scalings * np.maximum(np.sqrt((V * V).sum(1)), 1)

    def low_rank_inside(W0: np.ndarray, B: np.ndarray, A: np.ndarray) -> bool:
        scalings, g = magnitude(W0 + B @ A)
        delta = np.asarray(formula(W0, B, A, g), dtype=float)
        if delta.shape != W0.shape:
            return False
        inside = (W0 + delta) / scalings[:, None] - W0
        whole = np.rint(inside)
        return (
            bool((abs(inside - whole) <= 1e-9 * (1 + abs(whole))).all())
            and exact_rank(whole.astype(int)) <= B.shape[1]
        )

    def at_zero() -> Finding:
        ranks, generator = {}, np.random.default_rng(seed)
        for m, n, rank in ((7, 5, 1), (13, 17, 7), (127, 131, 1)):
            W0, A = _whole(generator, m, n), _whole(generator, rank, n)
            delta = formula(W0, np.zeros((m, rank), dtype=int), A, magnitude(W0)[1])
            ranks[f"{m} x {n}, r = {rank}"] = (
                field.modular_rank(np.rint(delta).astype(int)),
                min(m, n),
            )
        return reaching(ranks)

    return every(
        lambda: is_dora(formula, seed),
        at_zero,
        lambda: verified(
            weights_and_factors(),
            low_rank_inside,
            seed,
            examples,
            "without the row scalings the rank is at most r, exactly",
        ),
    )


def _tiled(largest: int) -> st.SearchStrategy[dict[str, Any]]:
    """{M, m, n} of whole numbers, M of MoRA's size at a rank of 1 ... 3."""

    def of_shape(shape: tuple[int, int, int]) -> st.SearchStrategy[dict[str, Any]]:
        m, n, rank = shape
        size = formulas.mora_size(m, n, rank)
        seeds = strategies.seeds().map(
            lambda seed: np.random.default_rng(seed).integers(-9, 10, (size, size))
        )
        return seeds.map(lambda M: {"M": M, "m": m, "n": n})

    return st.tuples(st.integers(1, largest), st.integers(1, largest), st.integers(1, 3)).flatmap(
        of_shape
    )


@claims.register(
    "mora-rank",
    title="MoRA's rank goes up to the side of its square",
    statement=(
        r"$\operatorname{rank}(\Delta W) \le \hat r = \lfloor\sqrt{(m+n)r} + \tfrac12\rfloor$, and"
        r" generically $\min(m, n, \hat r)$"
    ),
    source="arXiv 2405.12130",
    verdict="proved",
    range="all sizes",
    about=formulas.mora,
)
def _mora_rank(formula: Any, seed: int, examples: int) -> Finding:
    r"""$\Delta W = S_m M S_n^\top$, where row $p$ of $S_m$ $(m, \hat r)$ is the unit vector with
    its one at $p \bmod \hat r$. A product has no larger rank than its factor $M$, which has at most
    $\hat r$, and an $(m, n)$ matrix at most $\min(m, n)$.

    Let $s = \min(m, n, \hat r)$. The first $s$ rows and columns of $\Delta W$ are those of $M$,
    whose determinant is a polynomial in $M$, and 1 at $M = I$. So it vanishes on a set of measure
    zero only.
    """

    def at_one(case: Case) -> tuple[np.ndarray, int]:
        size = formulas.mora_size(case.m, case.n, case.rank)
        made = formula(np.eye(size, dtype=int), case.m, case.n)
        return made, min(case.m, case.n, size)

    def generic() -> Finding:
        generator, ranks = np.random.default_rng(seed), {}
        for m, n, rank in ((11, 13, 2), (17, 19, 1), (3, 7, 2), (61, 67, 7), (127, 131, 5)):
            size = formulas.mora_size(m, n, rank)
            ranks[f"{m} x {n}, r = {rank}"] = (
                field.modular_rank(formula(_whole(generator, size, size), m, n)),
                min(m, n, size),
            )
        return reaching(ranks)

    return every(
        lambda: _is_mora(formula, seed),
        lambda: corners(lora_cases(seed), at_one, "min(m, n, r̂) is reached"),
        generic,
        lambda: verified(
            _tiled(9),
            lambda M, m, n: exact_rank(formula(M, m, n)) <= min(m, n, len(M)),
            seed,
            examples,
            "the rank is at most min(m, n, r̂), exactly, on whole numbers",
        ),
    )


def _is_mora(formula: Any, seed: int) -> Finding:
    """Whether a rule is copies of M side by side, cut to the layer, modulo two primes."""

    def tiles(case: Case, k: int, M: Any) -> np.ndarray:
        size = len(M)
        copies = (case.m // size + 1, case.n // size + 1)
        return np.tile(M.value, copies)[: case.m, : case.n]

    return identical(
        drawn_cases(seed, M="ss"),
        seed,
        lambda case, k, M: formula(M, case.m, case.n),
        tiles,
        "the rule is copies of M side by side, cut to the layer",
    )


@claims.register(
    "mora-repeats",
    title="MoRA repeats its rows and columns",
    statement=(
        r"$\Delta W_{p+\hat r,\,q} = \Delta W_{p,\,q+\hat r} = \Delta W_{p,q}$ where $\hat r$ is"
        r" M's side: on a larger layer it "
        r"makes no matrix whose rows $p$ and $p + \hat r$ differ, and LoRA makes such matrices of"
        r" rank 1"
    ),
    source="follows from arXiv 2405.12130, the form that shares rows and columns",
    verdict="proved",
    range="all sizes",
    about=formulas.mora,
)
def _mora_repeats(formula: Any, seed: int, examples: int) -> Finding:
    r"""Entry $(p, q)$ is $M$'s at $(p \bmod \hat r,\ q \bmod \hat r)$, and $p + \hat r$ leaves the
    same remainder as $p$. So rows $p$ and $p + \hat r$ are equal, and columns alike. LoRA of rank 1
    makes the matrix with a single one in row $p$, where they differ.
    """
    if not (same := _is_mora(formula, seed)).holds:
        return same
    for m, n, size in ((5, 7, 2), (4, 3, 3), (2, 5, 3)):
        M = _array("M", size, size)
        delta = formula(M, m, n)
        for name, gap in (
            ("rows", delta[size:] - delta[:-size]),
            ("columns", delta[:, size:] - delta[:, :-size]),
        ):
            if gap.size and (difference := symbolic.difference(gap, 0 * gap)) != 0:
                return fails(
                    f"{name} p and p + r̂ differ on {m} x {n}, r̂ = {size}",
                    {"difference": difference},
                )
        read, due = len(set(delta.ravel())), min(m, size) * min(n, size)
        if read != due:
            return fails(
                f"{read} entries of M are read on {m} x {n}, r̂ = {size}, where {due} are in reach",
                {"ΔW": delta},
            )
    return Finding(
        True,
        f"{same.summary}; in symbols at 5 x 7 r̂ = 2, 4 x 3 r̂ = 3, 2 x 5 r̂ = 3: equal rows and"
        " columns, and every entry of M in reach is read",
    )


@claims.register(
    "delora-rank",
    title="DeLoRA's update has rank at most r",
    statement=(
        r"$\operatorname{rank}(\Delta W) \le r$: $\Delta W = (B\,\Xi)\,(A\,\operatorname{diag}"
        r"\lVert W_0\rVert_{\mathrm{col}})$ with $\Xi$ diagonal. It is $r$ where $B$ and $A$ have"
        r" rank $r$, $\lambda \ne 0$ and no column of $W_0$ is zero"
    ),
    source=f"{DELORA}; columns as PEFT has them",
    verdict="proved",
    range="all sizes",
    about=formulas.delora,
)
def _delora_rank(formula: Any, seed: int, examples: int) -> Finding:
    r"""Collect the numbers: $\Delta W = B\,\Xi\,A \operatorname{diag}(w)$ with $w_q = \lVert
    W_{0,:q}\rVert$ and $\Xi_{ii} = \lambda/(r \lVert b_i\rVert \lVert a_i\rVert)$, lengths below
    $10^{-4}$ counted as $10^{-4}$. $B$ has $r$ columns, so the rank is at most $r$.

    Where $\lambda \ne 0$ and no $w_q$ is 0, $\Xi$ and $\operatorname{diag}(w)$ are invertible. If
    $B$ and $A$ have rank $r$, then $B\,\Xi$ is injective and $A \operatorname{diag}(w)$ is onto, so
    their product has rank $r$.
    """

    # Lengths are roots, so this is numerical: Ξ by least squares, and singular values above 1e-10
    # of the largest
    def factored(W0: np.ndarray, B: np.ndarray, A: np.ndarray) -> bool:
        delta = np.asarray(formula(W0, B, A, np.array([15.0])), dtype=float)
        if delta.shape != W0.shape:
            return False
        # (r, m, n): b_i (a_i∘w)ᵀ
        terms = B.T[:, :, None] * (A * np.linalg.norm(W0, axis=0))[:, None, :]
        columns = terms.reshape(len(A), -1).T
        xi = np.linalg.lstsq(columns, delta.ravel(), rcond=1e-12)[0]
        return bool(np.linalg.norm(columns @ xi - delta.ravel()) <= 1e-9 * np.linalg.norm(delta))

    def reached() -> Finding:
        ranks = {}
        for m, n, rank in ((3, 4, 2), (11, 13, 7), (127, 131, 3)):
            B, A = np.eye(m, rank), np.eye(rank, n)
            delta = np.asarray(formula(np.ones((m, n)), B, A, np.array([15.0])), dtype=float)
            values = np.linalg.svd(delta, compute_uv=False)
            ranks[f"{m} x {n}, r = {rank}"] = (
                int((values > 1e-10 * max(values[0], 1e-300)).sum()),
                rank,
            )
        return reaching(ranks)

    return every(
        lambda: _is_delora(formula, seed),
        reached,
        lambda: verified(
            weights_and_factors(),
            factored,
            seed,
            examples,
            "ΔW is B Ξ A diag‖W0‖ with Ξ diagonal, so of rank at most r, up to rounding",
        ),
    )


def _is_delora(formula: Any, seed: int) -> Finding:
    """Whether a rule is Σ_i (λ/r)(b_i/‖b_i‖)(a_i/‖a_i‖)ᵀ diag(w), term by term, in float64."""
    found = lora_cases(seed)
    for case in found:
        generator = np.random.default_rng((seed, case.rank))
        W0, B, A = (
            generator.normal(size=shape)
            for shape in ((case.m, case.n), (case.m, case.rank), (case.rank, case.n))
        )
        lam = generator.normal(scale=10, size=1)
        B[:, 1:2] *= 1e-6  # where there are two: one too short to be measured
        w = np.array([math.hypot(*column) for column in W0.T])
        due = np.zeros((case.m, case.n))
        for b, a in zip(B.T, A, strict=True):
            size = max(math.hypot(*b), 1e-4) * max(math.hypot(*a), 1e-4)
            due += float(lam[0]) / case.rank / size * np.multiply.outer(b, a * w)
        delta = np.asarray(formula(W0, B, A, lam), dtype=float)
        if delta.shape != due.shape or not (abs(delta - due) <= 1e-12 * abs(lam) * w.max()).all():
            return fails(f"the rule is not DeLoRA's sum at {case}", {"case": str(case)})
    return Finding(True, f"the rule is DeLoRA's sum to 1e-12, term by term, {at_sizes(found)}")


def _decoupled_layers() -> st.SearchStrategy[dict[str, np.ndarray]]:
    """Whole W0, B, A, a strength lam of either sign, c > 0 for B's columns, d > 0 for A's rows."""

    def of(drawn: dict[str, Any]) -> dict[str, np.ndarray]:
        m, n, rank, generator = (
            drawn["m"],
            drawn["n"],
            drawn["rank"],
            np.random.default_rng(drawn["draw"]),
        )
        W0, B, A = (generator.integers(-3, 4, shape) for shape in ((m, n), (m, rank), (rank, n)))
        c, d = (generator.integers(1, 1000, rank) for _ in "cd")
        return {"W0": W0, "B": B, "A": A, "lam": np.array([drawn["lam"]]), "c": c, "d": d}

    sizes = {"m": st.integers(1, 7), "n": st.integers(1, 7), "rank": st.integers(1, 3)}
    return st.fixed_dictionaries(
        {"draw": strategies.seeds(), "lam": st.sampled_from((0.75, 2.0, -1.5)), **sizes}
    ).map(of)


@claims.register(
    "delora-bounded",
    title="DeLoRA's update cannot grow by its factors",
    statement=(
        r"$\lVert\Delta W\rVert_F \le \lvert\lambda\rvert \max_q w_q$ for all $B$ and $A$, $w_q ="
        r" \lVert W_{0,:q}\rVert$. Where each $b_i$ and $a_i$ is longer than $10^{-4}$, positive"
        r" factors that leave them so change nothing, and at $r = 1$ $\lVert\Delta W\rVert_F ="
        r" \lvert\lambda\rvert\,\lVert a\circ w\rVert / \lVert a\rVert$"
    ),
    source=DELORA,
    verdict="proved",
    range="all sizes",
    about=formulas.delora,
)
def _delora_bounded(formula: Any, seed: int, examples: int) -> Finding:
    r"""Let $\hat b_i = b_i/\lVert b_i\rVert$ and $\hat a_i = a_i/\lVert a_i\rVert$, with lengths
    below $10^{-4}$ counted as $10^{-4}$: neither is longer than 1. By the triangle inequality

    $$\lVert\Delta W\rVert_F \le \frac{\lvert\lambda\rvert}{r} \sum_i \lVert\hat b_i\rVert\,
    \lVert\hat a_i\circ w\rVert \le \lvert\lambda\rvert \max_q w_q .$$

    A vector that is longer than $10^{-4}$, and stays so when a positive number multiplies it, has
    the same $\hat b_i$ before and after. At $r = 1$ the sum has one term, of length
    $\lvert\lambda\rvert\, \lVert\hat b\rVert\, \lVert\hat a\circ w\rVert$ with $\lVert\hat b\rVert
    = 1$.
    """

    def update(W0: np.ndarray, B: np.ndarray, A: np.ndarray, lam: np.ndarray) -> np.ndarray:
        return np.asarray(formula(W0, B, A, lam), dtype=float)

    def decoupled(
        W0: np.ndarray, B: np.ndarray, A: np.ndarray, lam: np.ndarray, c: np.ndarray, d: np.ndarray
    ) -> bool:
        w, strength = np.linalg.norm(W0, axis=0), abs(float(lam[0]))
        bound = strength * float(w.max())
        delta, longer = update(W0, B, A, lam), update(W0, B * c, A * d[:, None], lam)
        if delta.shape != W0.shape or longer.shape != W0.shape:
            return False
        if np.linalg.norm(delta) > bound * (1 + 1e-9) or not np.allclose(
            delta, longer, rtol=1e-9, atol=1e-9 * bound
        ):
            return False
        b, a = B[:, :1], A[:1]  # and the first pair alone
        due = strength * np.linalg.norm(a * w) / np.linalg.norm(a) if a.any() and b.any() else 0.0
        return bool(
            np.isclose(np.linalg.norm(update(W0, b, a, lam)), due, rtol=1e-9, atol=1e-12 * bound)
        )

    what = (
        "‖ΔW‖ is at most |λ| times W0's longest column, and what it is due at r = 1; diag(c) and"
        " diag(d) on B and A change nothing"
    )
    return every(
        lambda: _is_delora(formula, seed),
        lambda: verified(_decoupled_layers(), decoupled, seed, examples, what),
    )


def _equal_diagonal(sigma: np.ndarray) -> np.ndarray:
    """An orthogonal Q (r, r) with all entries on the diagonal of Qᵀ diag(sigma) Q the same."""
    S, Q, mean = np.diag(sigma), np.eye(len(sigma)), sigma.mean()
    # Schur-Horn: r - 1 Givens rotations
    for _ in range(len(sigma) - 1):
        i, j = int(S.diagonal().argmin()), int(S.diagonal().argmax())
        low, high, c = mean - S[i, i], S[j, j] - mean, S[i, j]
        if min(low, high) <= 1e-15 * mean:
            break
        # Of the angle at which S_ii becomes the mean
        tangent = (np.sqrt(c * c + low * high) - c) / high
        cosine = 1 / np.sqrt(1 + tangent**2)
        G = np.eye(len(sigma))
        G[i, i], G[j, i], G[i, j], G[j, j] = cosine, tangent * cosine, -tangent * cosine, cosine
        S, Q = G.T @ S @ G, Q @ G
    return Q


@claims.register(
    "delora-is-loras-set",
    title="DeLoRA with a trained λ makes every matrix that LoRA makes",
    statement=(
        r"For $W_0$ without a zero column, $\{\Delta W\}$ over all $B, A, \lambda$ is"
        r" $\{\operatorname{rank} \le r\}$. Of a matrix "
        r"$E$ in it let $E \operatorname{diag}(1/w) = U\Sigma V^\top$, $w_q = \lVert"
        r" W_{0,:q}\rVert$. An orthogonal $Q$ makes the diagonal "
        r"of $Q^\top\Sigma Q$ constant (Schur-Horn), and $B = U\Sigma^{1/2}Q$, $A ="
        r" (V\Sigma^{1/2}Q)^\top$, both lengthened at will above "
        r"$10^{-4}$, and $\lambda = \operatorname{tr}\Sigma$ make $E$. A fixed $\lambda$ cuts the"
        r" set down (delora-bounded)"
    ),
    source=(
        "follows from arXiv 2503.18225 and the Schur-Horn theorem; the other inclusion is"
        " delora-rank"
    ),
    verdict="proved",
    range="all sizes",
    about=formulas.delora,
)
def _delora_is_loras_set(formula: Any, seed: int, examples: int) -> Finding:
    r"""No update leaves the set (`delora-rank`). For the other inclusion let $E$ have rank at most
    $r$, and $E \operatorname{diag}(1/w) = U\Sigma V^\top$ with $r$ singular values: where it has
    fewer, zeros fill up, with zero columns of $U$ and $V$. Let $t = \operatorname{tr}\Sigma$. For
    $E = 0$ take $\lambda = 0$.

    *An orthogonal $Q$ makes every diagonal entry of $Q^\top\Sigma Q$ equal to $t/r$* (Schur and
    Horn). Unless they all are, one entry $S_{ii}$ of $S = Q^\top\Sigma Q$ is below the mean and
    one, $S_{jj}$, above it. A rotation by an angle in the plane of $i$ and $j$ changes no other
    diagonal entry. A quarter of a turn exchanges the two, so at some angle between $S_{ii}$ is the
    mean. After at most $r - 1$ rotations all are.

    *Then* column $i$ of $B = U\Sigma^{1/2}Q$ and row $i$ of $A = (V\Sigma^{1/2}Q)^\top$ have the
    squared length $(Q^\top\Sigma Q)_{ii} = t/r$, so with $\lambda = t$

    $$\sum_i \frac{t}{r}\, \frac{b_i a_i^\top}{\lVert b_i\rVert\lVert a_i\rVert} = \sum_i b_i
    a_i^\top = U\Sigma^{1/2}\,Q Q^\top\,\Sigma^{1/2}V^\top = E \operatorname{diag}(1/w),$$

    and times $\operatorname{diag}(w)$ it is $E$. One number on all of $B$ and $A$ makes the lengths
    larger than $10^{-4}$ and changes nothing (`delora-bounded`).
    """

    def made(W0: np.ndarray, E: np.ndarray, rank: int) -> bool:
        w = np.linalg.norm(W0, axis=0)
        U, sigma, Vt = np.linalg.svd(E / w, full_matrices=False)
        sigma, unused = sigma[:rank], max(0, rank - len(sigma))  # r above min(m, n): zeros fill up
        sigma, U, V = (
            np.pad(sigma, (0, unused)),
            np.pad(U, ((0, 0), (0, unused))),
            np.pad(Vt.T, ((0, 0), (0, unused))),
        )
        root = np.sqrt(sigma)[:, None] * _equal_diagonal(sigma)
        length = np.sqrt(sigma.sum() / rank) or 1.0
        B, A = U[:, :rank] @ root / length, (V[:, :rank] @ root / length).T
        delta = np.asarray(formula(W0, B, A, np.array([sigma.sum()])), dtype=float)
        return delta.shape == E.shape and bool(
            np.linalg.norm((delta - E) / w) <= 1e-12 * sigma.sum()
        )

    def of(m: int, n: int, rank: int, draw: int) -> dict[str, Any]:
        generator = np.random.default_rng(draw)
        E = (
            generator.integers(-3, 4, (m, rank))
            @ np.diag(10 ** generator.integers(0, 4, rank))
            @ generator.integers(-3, 4, (rank, n))
        )
        return {"W0": _whole(generator, m, n), "E": E, "rank": rank}

    def constructed() -> Finding:
        found = lora_cases(seed)
        for case in found:
            if not made(**of(case.m, case.n, case.rank, seed)):
                return fails(f"the construction does not make E at {case}", {"case": str(case)})
        what = "the construction makes E, of rank at most r, to 1e-12"
        return Finding(True, f"{what}, {at_sizes(found)}")

    sizes = {"m": st.integers(1, 7), "n": st.integers(1, 7), "rank": st.integers(1, 4)}
    drawn = st.fixed_dictionaries({"draw": strategies.seeds(), **sizes})
    return every(
        lambda: _is_delora(formula, seed),
        constructed,
        lambda: verified(
            drawn.map(lambda sizes: of(**sizes)), made, seed, examples, "the construction makes E"
        ),
    )


@claims.register(
    "loha-rank",
    title="LoHa's rank goes up to r²",
    statement=(
        r"$\operatorname{rank}((B_1A_1)\circ(B_2A_2)) \le \min(m, n, r^2)$, reached by almost all"
        r" factors,"
        r" with $2r(m+n)$ parameters, for "
        r"which LoRA has rank $2r$"
    ),
    source="arXiv 2108.06098, Proposition 1",
    verdict="proved",
    range="all sizes",
    about=formulas.loha,
)
def _loha_rank(formula: Any, seed: int, examples: int) -> Finding:
    r"""The update is the sum of the $r^2$ matrices $(b^1_i\circ b^2_j)(a^1_i\circ a^2_j)^\top$,
    each of rank at most one.

    Let $c = \min(m, n, r^2)$. The determinant of the first $c$ rows and columns is a polynomial in
    the factors. Number the pairs $(i, j)$, and for $p \le c$ let row $p$ of $B_1$ and column $p$ of
    $A_1$ be the unit vector $e_i$, row $p$ of $B_2$ and column $p$ of $A_2$ the unit vector $e_j$,
    where $(i, j)$ is the $p$-th pair. Entry $(p, q)$ is then $(e_i\cdot e_{i'})(e_j\cdot e_{j'})$:
    1 if $p = q$ and else 0. So the determinant is 1 there, is not the zero polynomial, and vanishes
    on a set of measure zero only. Everywhere else the rank is $c$.
    """

    def bounded(draw: int, m: int, n: int, rank: int) -> bool:
        return exact_rank(formula(*_two_pairs(np.random.default_rng(draw), m, n, rank))) <= rank**2

    def at_units(case: Case) -> tuple[np.ndarray, int]:
        B1, A1, B2, A2, side = pair_corner(case.m, case.n, case.rank, case.rank)
        return formula(B1, A1, B2, A2), side

    def generic() -> Finding:
        generator, ranks = np.random.default_rng(seed), {}
        sizes = ((11, 10, 1), (11, 10, 2), (11, 10, 3), (61, 53, 7), (127, 131, 3))
        for m, n, rank in sizes:
            ranks[f"{m} x {n}, r = {rank}"] = (
                field.modular_rank(formula(*_two_pairs(generator, m, n, rank))),
                min(m, n, rank**2),
            )
        return reaching(ranks)

    sizes = {"m": st.integers(1, 7), "n": st.integers(1, 7), "rank": st.integers(1, 2)}
    drawn = st.fixed_dictionaries({"draw": strategies.seeds(), **sizes})
    return every(
        lambda: _is_loha(formula, seed),
        lambda: corners(lora_cases(seed), at_units, "min(m, n, r²) is reached"),
        generic,
        lambda: verified(
            drawn, bounded, seed, examples, "the rank is at most r², exactly, on whole numbers"
        ),
    )


def _is_loha(formula: Any, seed: int) -> Finding:
    """Whether a rule is (B1 A1)∘(B2 A2), modulo two primes."""
    return identical(
        drawn_cases(seed, B1="mr", A1="rn", B2="mr", A2="rn"),
        seed,
        lambda case, k, B1, A1, B2, A2: formula(B1, A1, B2, A2),
        lambda case, k, B1, A1, B2, A2: (
            multiplied(B1, A1, B1.prime) * multiplied(B2, A2, B1.prime) % B1.prime
        ),
        "the rule is (B1 A1)∘(B2 A2)",
    )


def _two_pairs(generator: np.random.Generator, m: int, n: int, rank: int) -> list[np.ndarray]:
    """B1, A1, B2, A2 of whole numbers."""
    return [_whole(generator, *shape) for shape in ((m, rank), (rank, n), (m, rank), (rank, n))]


@claims.register(
    "loha-and-pera",
    title="PERA's products are a LoHa whose two pairs are one",
    statement=(
        r"LoHa is the sum of $r^2$ terms $(b^1_i\circ b^2_j)(a^1_i\circ a^2_j)^\top$. With $B_1 ="
        r" B_2$, $A_1 = A_2$ at most "
        r"$r(r+1)/2$ of them are different, generically so many, and $(BA)\circ(BA) = \Delta"
        r" W_{\mathrm{PERA}} - BA$ "
        r"at $h_{ii} = 1$, $h_{ij} = 2$"
    ),
    source="arXiv 2108.06098; arXiv 2604.11841, Eq. 9",
    verdict="proved",
    range="all sizes",
    about=formulas.loha,
)
def _loha_and_pera(formula: Any, seed: int, examples: int) -> Finding:
    r"""Multiply out, with $M^1_i = b^1_i a^{1\top}_i$ and $M^2_j$ alike: $(\sum_i
    M^1_i)\circ(\sum_j M^2_j) = \sum_{i,j} M^1_i\circ M^2_j$, and $M^1_i\circ M^2_j = (b^1_i\circ
    b^2_j)(a^1_i\circ a^2_j)^\top$.

    Of one pair, $M_i\circ M_j = M_j\circ M_i$: at most $r(r+1)/2$ of the terms are different.
    Generically so many are, since their entries $u_i u_j$, $u_i = B_{pi} A_{iq}$, are different
    monomials. Those with $i = j$ come once and those with $i < j$ twice, which are PERA's products
    at $h_{ii} = 1$, $h_{ij} = 2$.
    """
    import sympy

    def of_one_pair(case: Case, k: int, B: Any, A: Any) -> Any:
        return formula(B, A, B, A)

    def pairs_of_products(case: Case, k: int, B: Any, A: Any) -> np.ndarray:
        total = np.zeros((case.m, case.n), dtype=np.int64)
        for i, j in zip(*np.triu_indices(case.rank), strict=True):
            one, other = (multiplied(B[:, [at]], A[[at]], B.prime) for at in (i, j))
            total = (total + (1 if i == j else 2) * (one * other % B.prime)) % B.prime
        return total

    same = every(
        lambda: _is_loha(formula, seed),
        lambda: identical(
            drawn_cases(seed, B="mr", A="rn"),
            seed,
            of_one_pair,
            pairs_of_products,
            "of one pair it is PERA's products at h = 1 and 2",
        ),
    )
    if not same.holds:
        return same
    for m, n, rank in SHAPES:
        B1, A1, B2, A2 = (
            _array(name, *shape)
            for name, shape in zip("bacd", ((m, rank), (rank, n)) * 2, strict=True)
        )
        terms = [
            np.outer(B1[:, i] * B2[:, j], A1[i] * A2[j]) for i in range(rank) for j in range(rank)
        ]
        if (difference := symbolic.difference(formula(B1, A1, B2, A2), sum(terms))) != 0:
            return fails(
                "two pairs do not make the sum of their r² terms", {"difference": difference}
            )
        i, j = formulas.pairs(rank)
        products = formulas.pera(B1, A1, np.where(i == j, 1, 2)) - formulas.lora(B1, A1)
        if (difference := symbolic.difference(formula(B1, A1, B1, A1), products)) != 0:
            return fails("LoHa of one pair is not PERA's products", {"difference": difference})
        once = [
            formula(B1[:, [i]], A1[[i]], B1[:, [j]], A1[[j]])
            for i in range(rank)
            for j in range(rank)
        ]
        different = len({tuple(sympy.expand(entry) for entry in term.flat) for term in once})
        if different != rank * (rank + 1) // 2:
            return fails(f"{different} of {rank**2} terms of one pair are different at r = {rank}")
    return every(
        same,
        symbolically("r(r+1)/2 of the terms of one pair are different, and all identities hold"),
    )


@claims.register(
    "quadratic-is-no-matrix",
    title="An update that is quadratic in the input is no matrix",
    statement=(
        r"$f(x) = P((Ux)\circ(Ux))$ has $f(cx) = c^2 f(x)$, so unless $f = 0$ no $\Delta W$ has"
        r" $f(x) = \Delta W x$: "
        r"it cannot be merged"
    ),
    source="a contrast to arXiv 2604.11841, which is polynomial in the factors alone",
    verdict="proved",
    range="all sizes",
    about=formulas.quadratic,
)
def _quadratic_is_no_matrix(formula: Any, seed: int, examples: int) -> Finding:
    r"""$U(cx) = c\,Ux$, and its elementwise square is $c^2\,(Ux)\circ(Ux)$, so $f(cx) = c^2 f(x)$.
    If $f(x) = \Delta W x$ for every $x$, then also $f(2x) = 2 f(x)$. Together $4 f(x) = 2 f(x)$, so
    $f(x) = 0$ for every $x$.
    """
    import sympy

    def written_out(case: Case, k: int, x: Any, U: Any, P: Any) -> np.ndarray:
        x, U, P, prime = *(array.value.astype(np.int64) for array in (x, U, P)), x.prime
        total = np.zeros(case.m, dtype=np.int64)
        for u, p in zip(U, P.T, strict=True):
            z = sum(a * b % prime for a, b in zip(u, x, strict=True)) % prime
            total = (total + p * (z * z % prime)) % prime
        return total

    same = identical(
        drawn_cases(seed, x="n", U="rn", P="mr"),
        seed,
        lambda case, k, x, U, P: formula(x, U, P),
        written_out,
        "the rule is P((Ux)∘(Ux))",
    )
    if not same.holds:
        return same
    c = sympy.Symbol("c", real=True)
    for m, n, rank in SHAPES:
        x, U, P = _array("x", n), _array("u", rank, n), _array("p", m, rank)
        once = formula(x, U, P)
        if (difference := symbolic.difference(formula(c * x, U, P), c**2 * once)) != 0:
            return fails("f(cx) is not c² f(x)", {"difference": difference})
        if symbolic.difference(once, 0 * once) == 0:
            return fails("f is zero, so it is the matrix 0")
    return every(
        same,
        symbolically(
            "f(cx) = c² f(x), and f is not zero: f(2x) = 2 f(x), as a matrix has it, fails"
        ),
    )
