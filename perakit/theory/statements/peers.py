"""Claims about what PERA's peers can and cannot express: DoRA's rank, MoRA, DeLoRA, LoHa, and a
layer that is no matrix.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from perakit import formulas, strategies
from perakit.theory import symbolic
from perakit.theory.claims import claims
from perakit.theory.exact import exact_rank
from perakit.theory.findings import Finding, verified
from perakit.theory.statements.arguments import SHAPES, fails, symbolically, weights_and_factors

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
    verdict="verified",
    about=formulas.dora,
)
def _dora_rank(formula: Any, seed: int, examples: int) -> Finding:
    """DoRA's update without the row scalings has rank at most r, exactly; with them, 5 at r = 1."""

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

    found = verified(
        weights_and_factors(),
        low_rank_inside,
        seed,
        examples,
        "without the row scalings the rank is at most r, exactly",
    )
    generator = np.random.default_rng(seed)
    W0, A = _whole(generator, 7, 5), _whole(generator, 1, 5)
    reached = exact_rank(
        np.rint(formula(W0, np.zeros((7, 1), dtype=int), A, magnitude(W0)[1])).astype(int)
    )
    summary = f"{found.summary}; a 7 x 5 update at r = 1, B = 0 has rank {reached}"
    holds = found.holds and exact_rank(W0) == reached == 5
    return Finding(holds, summary, {"rank at B = 0": reached}, found.examples, found.counterexample)


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
    verdict="verified",
    about=formulas.mora,
)
def _mora_rank(formula: Any, seed: int, examples: int) -> Finding:
    found = verified(
        _tiled(9),
        lambda M, m, n: exact_rank(formula(M, m, n)) <= min(m, n, len(M)),
        seed,
        examples,
        "the rank is at most min(m, n, r̂), exactly, on whole numbers",
    )
    generator, reached = np.random.default_rng(seed), {}
    for m, n, rank in ((11, 13, 2), (17, 19, 1), (3, 7, 2)):
        size = formulas.mora_size(m, n, rank)
        reached[f"{m} x {n}, r = {rank}"] = (
            exact_rank(formula(_whole(generator, size, size), m, n)),
            min(m, n, size),
        )
    shown = ", ".join(f"{rank} of {bound} at {where}" for where, (rank, bound) in reached.items())
    attained = all(rank == bound for rank, bound in reached.values())
    return Finding(
        found.holds and attained,
        f"{found.summary}; reached: {shown}",
        {},
        found.examples,
        found.counterexample,
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
    about=formulas.mora,
)
def _mora_repeats(formula: Any, seed: int, examples: int) -> Finding:
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
        "in symbols at 5 x 7 r̂ = 2, 4 x 3 r̂ = 3, 2 x 5 r̂ = 3: equal rows and columns, and every"
        " entry of M in reach is read",
    )


@claims.register(
    "delora-rank",
    title="DeLoRA's update has rank at most r",
    statement=(
        r"$\operatorname{rank}(\Delta W) \le r$, attained: $\Delta W ="
        r" (B\,\Xi)\,(A\,\operatorname{diag}"
        r"\lVert W_0\rVert_{\mathrm{col}})$ with $\Xi$ diagonal"
    ),
    source=f"{DELORA}; columns as PEFT has them",
    verdict="verified",
    about=formulas.delora,
)
def _delora_rank(formula: Any, seed: int, examples: int) -> Finding:
    """DeLoRA's update has rank at most r, and attains it."""

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

    what = "ΔW is B Ξ A diag‖W0‖ with Ξ diagonal, so of rank at most r, up to rounding"
    found = verified(weights_and_factors(), factored, seed, examples, what)
    values = np.linalg.svd(
        np.asarray(
            formula(np.ones((3, 4)), np.eye(3, 2), np.eye(2, 4), np.array([15.0])), dtype=float
        ),
        compute_uv=False,
    )
    reached = int((values > 1e-10 * max(values[0], 1e-300)).sum())
    summary = f"{found.summary}; {reached} is attained at r = 2"
    return Finding(found.holds and reached == 2, summary, {}, found.examples, found.counterexample)


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
        r" \lVert W_{0,:q}\rVert$; positive "
        r"factors of each $b_i$ and $a_i$ (longer than $10^{-4}$) change nothing; at $r = 1$,"
        r" $\lVert\Delta W\rVert_F = "
        r"\lvert\lambda\rvert\,\lVert a\circ w\rVert / \lVert a\rVert$"
    ),
    source=DELORA,
    verdict="verified",
    about=formulas.delora,
)
def _delora_bounded(formula: Any, seed: int, examples: int) -> Finding:
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
    return verified(_decoupled_layers(), decoupled, seed, examples, what)


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
    verdict="verified",
    about=formulas.delora,
)
def _delora_is_loras_set(formula: Any, seed: int, examples: int) -> Finding:
    """The construction, carried out: the columns of B and rows of A at length 1."""

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

    def of(drawn: dict[str, int]) -> dict[str, Any]:
        m, n, rank, generator = (
            drawn["m"],
            drawn["n"],
            drawn["rank"],
            np.random.default_rng(drawn["draw"]),
        )
        E = (
            generator.integers(-3, 4, (m, rank))
            @ np.diag(10 ** generator.integers(0, 4, rank))
            @ generator.integers(-3, 4, (rank, n))
        )
        return {"W0": _whole(generator, m, n), "E": E, "rank": rank}

    sizes = {"m": st.integers(1, 7), "n": st.integers(1, 7), "rank": st.integers(1, 4)}
    drawn = st.fixed_dictionaries({"draw": strategies.seeds(), **sizes}).map(of)
    return verified(
        drawn, made, seed, examples, "the construction makes E of rank at most r, to 1e-12"
    )


@claims.register(
    "loha-rank",
    title="LoHa's rank goes up to r²",
    statement=(
        r"$\operatorname{rank}((B_1A_1)\circ(B_2A_2)) \le r^2$, and generically $\min(m, n, r^2)$,"
        r" with $2r(m+n)$ parameters, for "
        r"which LoRA has rank $2r$"
    ),
    source="arXiv 2108.06098, Proposition 1",
    verdict="verified",
    about=formulas.loha,
)
def _loha_rank(formula: Any, seed: int, examples: int) -> Finding:
    def bounded(draw: int, m: int, n: int, rank: int) -> bool:
        return exact_rank(formula(*_two_pairs(np.random.default_rng(draw), m, n, rank))) <= rank**2

    sizes = {"m": st.integers(1, 7), "n": st.integers(1, 7), "rank": st.integers(1, 2)}
    drawn = st.fixed_dictionaries({"draw": strategies.seeds(), **sizes})
    found = verified(
        drawn, bounded, seed, examples, "the rank is at most r², exactly, on whole numbers"
    )
    reached = [
        exact_rank(formula(*_two_pairs(np.random.default_rng(seed), 11, 10, rank)))
        for rank in (1, 2, 3)
    ]
    summary = (
        f"{found.summary}; on 11 x 10 a random update has rank {', '.join(map(str, reached))} at r"
        " = 1, 2, 3"
    )
    return Finding(
        found.holds and reached == [1, 4, 9],
        summary,
        {"reached": reached},
        found.examples,
        found.counterexample,
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
    about=formulas.loha,
)
def _loha_and_pera(formula: Any, seed: int, examples: int) -> Finding:
    import sympy

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
    return symbolically(
        "LoHa is its r² terms; of one pair r(r+1)/2 of them are different, and make PERA's part"
        " beyond LoRA at h = 1 and 2"
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
    about=formulas.quadratic,
)
def _quadratic_is_no_matrix(formula: Any, seed: int, examples: int) -> Finding:
    import sympy

    c = sympy.Symbol("c", real=True)
    for m, n, rank in SHAPES:
        x, U, P = _array("x", n), _array("u", rank, n), _array("p", m, rank)
        once = formula(x, U, P)
        if (difference := symbolic.difference(formula(c * x, U, P), c**2 * once)) != 0:
            return fails("f(cx) is not c² f(x)", {"difference": difference})
        if symbolic.difference(once, 0 * once) == 0:
            return fails("f is zero, so it is the matrix 0")
    return symbolically(
        "f(cx) = c² f(x), and f is not zero: f(2x) = 2 f(x), as a matrix has it, fails"
    )
