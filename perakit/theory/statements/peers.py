"""Claims about what PERA's peers can and cannot express: DoRA's rank, MoRA, DeLoRA, LoHa, and a layer that is no matrix."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from perakit import formulas, strategies
from perakit.theory import symbolic
from perakit.theory.claims import Finding, claims
from perakit.theory.exact import exact_rank
from perakit.theory.statements.arguments import SHAPES, fails, symbolically, verified, weights_and_factors

DELORA = "arXiv 2503.18225"


def _array(name: str, *shape: int) -> np.ndarray:
    """An object array of real symbols."""
    import sympy

    return np.array(sympy.symbols(f"{name}:{int(np.prod(shape))}", real=True), dtype=object).reshape(shape)


def _whole(generator: np.random.Generator, *shape: int) -> np.ndarray:
    return generator.integers(1, 100, shape)


@claims.register(
    "dora-rank",
    title="DoRA's update has any rank, and is a low-rank one only between its row scalings",
    statement=r"$\operatorname{rank}(\Delta W) = \min(m,n)$ is reached at $r = 1$: rescaling rows is enough. With $D = "
    r"\operatorname{diag}(g/\lVert V\rVert)$, $\operatorname{rank}(D^{-1}(W_0+\Delta W) - W_0) \le r$",
    source="follows from arXiv 2402.09353, Eq. 5",
    verdict="verified",
    about=formulas.dora,
)
def _dora_rank(formula: Any, seed: int, examples: int) -> Finding:
    """Row lengths are handed in as ones, so that everything is a whole number: D = diag(g)."""

    def low_rank_inside(W0: np.ndarray, B: np.ndarray, A: np.ndarray) -> bool:
        ones = np.ones(len(W0), dtype=int)
        g = 2 + np.arange(len(W0))
        new = W0 + formula(W0, B, A, g, 1, ones)  # D = diag(g)
        return bool((new % g[:, None] == 0).all()) and exact_rank(new // g[:, None] - W0) <= B.shape[1]

    found = verified(weights_and_factors(), low_rank_inside, seed, examples, "without the row scalings the rank is at most r, exactly")
    generator = np.random.default_rng(seed)
    W0, B, A, g = (_whole(generator, *shape) for shape in ((7, 5), (7, 1), (1, 5), (7,)))
    reached = exact_rank(formula(W0, B, A, 1 + g, 1, np.ones(7, dtype=int)))
    summary = f"{found.summary}; a 7 x 5 update at r = 1 has rank {reached}"
    return Finding(found.holds and reached == 5, summary, {"rank at r = 1": reached}, found.examples, found.counterexample)


def _tiled(largest: int) -> st.SearchStrategy[dict[str, Any]]:
    """{M, m, n} of whole numbers, M of MoRA's size at a rank of 1 ... 3."""

    def of_shape(shape: tuple[int, int, int]) -> st.SearchStrategy[dict[str, Any]]:
        m, n, rank = shape
        size = formulas.mora_size(m, n, rank)
        seeds = strategies.seeds().map(lambda seed: np.random.default_rng(seed).integers(-9, 10, (size, size)))
        return seeds.map(lambda M: {"M": M, "m": m, "n": n})

    return st.tuples(st.integers(1, largest), st.integers(1, largest), st.integers(1, 3)).flatmap(of_shape)


@claims.register(
    "mora-rank",
    title="MoRA's rank goes up to the side of its square",
    statement=r"$\operatorname{rank}(\Delta W) \le \hat r = \lfloor\sqrt{(m+n)r} + \tfrac12\rfloor$, and generically $\min(m, n, \hat r)$",
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
        reached[f"{m} x {n}, r = {rank}"] = (exact_rank(formula(_whole(generator, size, size), m, n)), min(m, n, size))
    shown = ", ".join(f"{rank} of {bound} at {where}" for where, (rank, bound) in reached.items())
    attained = all(rank == bound for rank, bound in reached.values())
    return Finding(found.holds and attained, f"{found.summary}; reached: {shown}", {}, found.examples, found.counterexample)


@claims.register(
    "mora-repeats",
    title="MoRA repeats its rows and columns",
    statement=r"$\Delta W_{p+\hat r,\,q} = \Delta W_{p,\,q+\hat r} = \Delta W_{p,q}$ where $\hat r$ is M's side: on a larger layer it "
    r"makes no matrix whose rows $p$ and $p + \hat r$ differ, and LoRA makes such matrices of rank 1",
    source="follows from arXiv 2405.12130, the form that shares rows and columns",
    verdict="proved",
    about=formulas.mora,
)
def _mora_repeats(formula: Any, seed: int, examples: int) -> Finding:
    for m, n, size in ((5, 7, 2), (4, 3, 3), (2, 5, 3)):
        M = _array("M", size, size)
        delta = formula(M, m, n)
        for name, gap in (("rows", delta[size:] - delta[:-size]), ("columns", delta[:, size:] - delta[:, :-size])):
            if gap.size and (difference := symbolic.difference(gap, 0 * gap)) != 0:
                return fails(f"{name} p and p + r̂ differ on {m} x {n}, r̂ = {size}", {"difference": difference})
        read, due = len(set(delta.ravel())), min(m, size) * min(n, size)
        if read != due:
            return fails(f"{read} entries of M are read on {m} x {n}, r̂ = {size}, where {due} are in reach", {"ΔW": delta})
    return Finding(
        True, "in symbols at 5 x 7 r̂ = 2, 4 x 3 r̂ = 3, 2 x 5 r̂ = 3: equal rows and columns, and every entry of M in reach is read"
    )


@claims.register(
    "delora-rank",
    title="DeLoRA's update has rank at most r",
    statement=r"$\operatorname{rank}(\Delta W) \le r$, attained: $\Delta W = (B\,\Xi)\,(A\,\operatorname{diag}"
    r"\lVert W_0\rVert_{\mathrm{col}})$ with $\Xi$ diagonal",
    source=f"{DELORA}; columns as PEFT has them",
    verdict="verified",
    about=formulas.delora,
)
def _delora_rank(formula: Any, seed: int, examples: int) -> Finding:
    """Lengths are roots, so this rank is numerical: singular values above 1e-10 of the largest."""

    def rank(W0: np.ndarray, B: np.ndarray, A: np.ndarray) -> int:
        values = np.linalg.svd(np.asarray(formula(W0, B, A, np.array([15.0])), dtype=float), compute_uv=False)
        return int((values > 1e-10 * max(values[0], 1e-300)).sum())

    def bounded(W0: np.ndarray, B: np.ndarray, A: np.ndarray) -> bool:
        return rank(W0, B, A) <= B.shape[1]

    found = verified(weights_and_factors(), bounded, seed, examples, "the rank is at most r, up to rounding")
    reached = rank(np.ones((3, 4)), np.eye(3, 2), np.eye(2, 4))
    summary = f"{found.summary}; {reached} is attained at r = 2"
    return Finding(found.holds and reached == 2, summary, {}, found.examples, found.counterexample)


@claims.register(
    "delora-bounded",
    title="DeLoRA's update cannot grow by its factors",
    statement=r"$\lVert\Delta W\rVert_F \le \lambda \max_q \lVert W_{0,:q}\rVert$ for all $B$ and $A$; a positive factor of any $b_i$ or "
    r"$a_i$ (longer than $10^{-4}$) changes nothing",
    source=DELORA,
    verdict="verified",
    about=formulas.delora,
)
def _delora_bounded(formula: Any, seed: int, examples: int) -> Finding:
    lam = np.array([0.75])

    def decoupled(draw: int, m: int, n: int, rank: int, c: int) -> bool:
        generator = np.random.default_rng(draw)
        W0, B, A = (generator.integers(-3, 4, shape) for shape in ((m, n), (m, rank), (rank, n)))
        delta, longer = (np.asarray(formula(W0, k * B, A, lam), dtype=float) for k in (1, c))
        bound = lam[0] * np.linalg.norm(W0, axis=0).max()
        return bool(np.linalg.norm(delta) <= bound * (1 + 1e-9) and np.allclose(delta, longer, rtol=1e-9, atol=1e-9 * bound))

    sizes = {"m": st.integers(1, 7), "n": st.integers(1, 7), "rank": st.integers(1, 3), "c": st.integers(1, 1000)}
    drawn = st.fixed_dictionaries({"draw": strategies.seeds(), **sizes})
    return verified(drawn, decoupled, seed, examples, "‖ΔW‖ is at most λ times W0's longest column, and c B gives the ΔW of B")


@claims.register(
    "loha-rank",
    title="LoHa's rank goes up to r²",
    statement=r"$\operatorname{rank}((B_1A_1)\circ(B_2A_2)) \le r^2$, and generically $\min(m, n, r^2)$, with $2r(m+n)$ parameters, for "
    r"which LoRA has rank $2r$",
    source="arXiv 2108.06098, Proposition 1",
    verdict="verified",
    about=formulas.loha,
)
def _loha_rank(formula: Any, seed: int, examples: int) -> Finding:
    def bounded(draw: int, m: int, n: int, rank: int) -> bool:
        return exact_rank(formula(*_two_pairs(np.random.default_rng(draw), m, n, rank))) <= rank**2

    sizes = {"m": st.integers(1, 7), "n": st.integers(1, 7), "rank": st.integers(1, 2)}
    drawn = st.fixed_dictionaries({"draw": strategies.seeds(), **sizes})
    found = verified(drawn, bounded, seed, examples, "the rank is at most r², exactly, on whole numbers")
    reached = [exact_rank(formula(*_two_pairs(np.random.default_rng(seed), 11, 10, rank))) for rank in (1, 2, 3)]
    summary = f"{found.summary}; on 11 x 10 a random update has rank {', '.join(map(str, reached))} at r = 1, 2, 3"
    return Finding(found.holds and reached == [1, 4, 9], summary, {"reached": reached}, found.examples, found.counterexample)


def _two_pairs(generator: np.random.Generator, m: int, n: int, rank: int) -> list[np.ndarray]:
    """B1, A1, B2, A2 of whole numbers."""
    return [_whole(generator, *shape) for shape in ((m, rank), (rank, n), (m, rank), (rank, n))]


@claims.register(
    "loha-and-pera",
    title="PERA's products are a LoHa whose two pairs are one",
    statement=r"$(BA)\circ(BA) = \Delta W_{\mathrm{PERA}} - BA$ at $h_{ii} = 1$, $h_{ij} = 2$: LoHa with $B_1 = B_2$, $A_1 = A_2$; of its "
    r"$r^2$ terms $r(r+1)/2$ are then different",
    source="arXiv 2108.06098; arXiv 2604.11841, Eq. 9",
    verdict="proved",
    about=formulas.loha,
)
def _loha_and_pera(formula: Any, seed: int, examples: int) -> Finding:
    for m, n, rank in SHAPES:
        B, A = _array("b", m, rank), _array("a", rank, n)
        i, j = formulas.pairs(rank)
        products = formulas.pera(B, A, np.where(i == j, 1, 2)) - formulas.lora(B, A)
        if (difference := symbolic.difference(formula(B, A, B, A), products)) != 0:
            return fails("LoHa of one pair is not PERA's products", {"difference": difference})
    return symbolically("LoHa of one pair twice is PERA's part beyond LoRA at h = 1 (squares) and 2 (cross terms)")


@claims.register(
    "quadratic-is-no-matrix",
    title="An update that is quadratic in the input is no matrix",
    statement=r"$f(x) = P((Ux)\circ(Ux))$ has $f(cx) = c^2 f(x)$, so unless $f = 0$ no $\Delta W$ has $f(x) = \Delta W x$: "
    r"it cannot be merged",
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
    return symbolically("f(cx) = c² f(x), and f is not zero: f(2x) = 2 f(x), as a matrix has it, fails")
