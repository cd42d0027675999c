"""The mathematics, written once: each update rule is a pure function of arrays.

Read with NumPy floats a rule is the reference, with torch tensors the layer, with object arrays of
sympy symbols the derivation. Shapes: W0 and ΔW (m, n) = (d_out, d_in), B (m, r), A (r, n). Updates
are unscaled: alpha belongs to the layer. Sources: LoRA arXiv 2106.09685; PERA arXiv 2604.11841,
whose equations are cited below.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import reduce
from itertools import combinations_with_replacement
from typing import Any, TypeVar

import numpy as np

from perakit.errors import PerakitError, short

Array = Any  # numpy.ndarray (of floats or of sympy expressions) or torch.Tensor
Index = Sequence[Array]  # as of `monomials`
Rule = TypeVar("Rule", bound=Callable[..., Any])

TERMS = ("full", "square", "cross")
LARGEST_RANK, LARGEST_DEGREE = 2**20, 64  # beyond these a number is a mistake, or a file that lies
BLOCK = 2**20  # entries of a tensor that are squared in float64 at a time
_counts: dict[str, Callable[..., int]] = {}


def trainable(count: Callable[..., int]) -> Callable[[Rule], Rule]:
    """State, beside an update rule, how many parameters it trains: a function of (m, n, rank,
    **options).
    """

    def remember(rule: Rule) -> Rule:
        _counts[rule.__name__] = count
        return rule

    return remember


def parameter_count(m: int, n: int, rank: int, method: str, **options: Any) -> int:
    """Trainable parameters of `method` on one (m, n) layer.

    method: the name of its rule here, "lora", "pera" ...; options: what the rule takes besides
    arrays (PERA: terms, degree). LoRA has r(m+n), PERA r(m+n) + r(r+1)/2.
    """
    if not isinstance(method, str) or method not in _counts:
        raise PerakitError(
            f"unknown method {short(method)}: choose from {', '.join(sorted(_counts))}"
        )
    for name, value in (("m", m), ("n", n), ("rank", rank)):
        check_count(name, value)
    try:
        return _counts[method](m, n, rank, **options)
    except TypeError as error:
        raise PerakitError(
            f"{method} does not take the options {', '.join(options)}: pass those of its rule"
        ) from error


# --- monomials ------------------------------------------------------------------------------------


def monomials(rank: int, terms: str = "full", degree: int = 2) -> list[np.ndarray]:
    """Which columns are multiplied: for each d = 2 ... degree an index array (d, K_d), in
    lexicographic order.

    terms: "full" takes every monomial of degree d, "square" those with all indices equal (b_i∘b_i,
    and b_i∘b_i∘b_i at degree 3), "cross" the others.
    """
    _check_terms(rank, terms, degree)
    found = []
    for d in range(2, degree + 1):
        rows = [
            row
            for row in combinations_with_replacement(range(rank), d)
            if terms == "full" or (row[0] == row[-1]) == (terms == "square")
        ]
        found.append(np.array(rows, dtype=np.int64).reshape(-1, d).T)
    return found


def pairs(rank: int, terms: str = "full") -> tuple[np.ndarray, np.ndarray]:
    """Index arrays (i, j) of the products b_i∘b_j, in the order of `np.triu_indices`: the order of
    h.

    terms: "full" i <= j (r(r+1)/2 pairs), "square" i = j (r), "cross" i < j (r(r-1)/2).
    """
    i, j = monomials(rank, terms)[0]
    return i, j


def rank_bound(rank: int, terms: str = "full", degree: int = 2) -> int:
    """K, the number of rank-one terms of a PERA update, hence a bound on its rank.

    K = C(r+k, k) - 1 at degree k (full), so r(r+3)/2 at k = 2; rk (square only); C(r+k, k) - 1 -
    r(k-1) (cross only). LoRA's bound is r itself.
    """
    _check_terms(rank, terms, degree)
    full, square = math.comb(rank + degree, degree) - 1, rank * degree
    return {"full": full, "square": square, "cross": full - square + rank}[terms]


def _check_terms(rank: int, terms: str, degree: int) -> None:
    check_count("rank", rank, most=LARGEST_RANK)
    check_count("degree", degree, least=2, most=LARGEST_DEGREE)
    if terms not in TERMS:
        raise PerakitError(f"terms={terms!r} is unknown: choose from {', '.join(map(repr, TERMS))}")


def check_count(name: str, value: Any, least: int = 1, most: int | None = None) -> None:
    """Refuse anything but an integer from `least` to `most`: 4.0 and True are not ranks."""
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or value < least:
        raise PerakitError(f"{name}={short(value)} must be an integer >= {least}")
    if most is not None and value > most:
        raise PerakitError(f"{name}={short(value)} must be an integer <= {most}")


# --- update rules ---------------------------------------------------------------------------------


@trainable(lambda m, n, rank: rank * (m + n))
def lora(B: Array, A: Array) -> Array:
    """LoRA: ΔW = B A.

    B (m, r), A (r, n); returns ΔW (m, n), unscaled. Source: arXiv 2106.09685, Eq. 3; arXiv
    2604.11841, Eq. 8.
    """
    _check_factors(B, A)
    return B @ A


@trainable(
    lambda m, n, rank, terms="full", degree=2: (
        rank * (m + n) + rank_bound(rank, terms, degree) - rank
    )
)
def pera(B: Array, A: Array, h: Array, terms: str = "full", degree: int = 2) -> Array:
    """PERA: ΔW = B A + Σ_{i<=j} h_ij (b_i∘b_j)(a_i∘a_j)ᵀ.

    B (m, r) with columns b_i, A (r, n) with rows a_i, h (K - r,) one coefficient for each product,
    in the order of `monomials`; h = 0 is LoRA. terms: "full", "square" (Eq. 10) or "cross" (Eq.
    11); degree: highest degree of a product, 2 in the paper. Polynomial in the parameters, linear
    in the layer's input.
    Returns ΔW (m, n), unscaled. Source: arXiv 2604.11841, Eq. 9.
    """
    B_hat, A_hat = expand(B, A, h, terms, degree)
    return B_hat @ A_hat


def expand(
    B: Array, A: Array, h: Array, terms: str = "full", degree: int = 2, index: Index | None = None
) -> tuple[Array, Array]:
    """PERA's factors: Poly(B) = [b_i ; b_i∘b_j] (m, K) and Poly_H(A) = [a_i ; h_ij (a_i∘a_j)] (K,
    n).

    Arguments as in `pera`; linear features come first. index: `monomials(rank, terms, degree)` as
    arrays of B's kind, for callers that keep them (a compiled layer); None computes them.
    Returns (B_hat (m, K), A_hat (K, n)), whose product is `pera(B, A, h)`. Source: arXiv
    2604.11841, Eq. 2-5.
    """
    index = _index(B, A, h, terms, degree, index)
    m = B.shape[0]
    # Side by side, since both are expanded alike; as rows, which lie together in memory
    rows = _join([B.T, A], axis=1)
    products = [(_product(rows, block), h[where, None]) for where, block in _blocks(index)]
    return _join([B.T, *(P[:, :m] for P, _ in products)]).T, _join(
        [A, *(c * P[:, m:] for P, c in products)]
    )


def expand_gradients(
    B: Array,
    A: Array,
    h: Array,
    to_B_hat: Array,
    to_A_hat: Array,
    terms: str = "full",
    degree: int = 2,
    index: Index | None = None,
) -> tuple[Array, Array, Array]:
    """The gradients by B, A and h, from those by the factors of `expand`.

    ∂L/∂b_i = ĝ_i + Σ_j ĝ_ij∘b_j (j = i counts twice), ∂L/∂a_i likewise with h_ij ĝ_ij, ∂L/∂h_ij =
    Σ_q (a_i∘a_j∘ĝ_ij)_q, where ĝ are the columns of to_B_hat (m, K) and the rows of to_A_hat (K,
    n); at degree d each of a product's d factors is left out in turn. Other arguments as in
    `expand`. Returns gradients in the shapes of B, A and h. Source: derivative of arXiv 2604.11841,
    Eq. 2-5.
    """
    index = _index(B, A, h, terms, degree, index)
    to_B, _ = _through_features(B.T, None, to_B_hat.T, index)
    to_A, to_h = _through_features(A, h, to_A_hat, index)
    return to_B.T, to_A, to_h


def _through_features(
    X: Array, h: Array | None, to_features: Array, index: Index
) -> tuple[Array, Array]:
    """The gradients by the rows X (r, n) and by h, from those by [x_i ; h_ij (x_i∘x_j)] (K, n); h
    None is 1, and has none.
    """
    rank = X.shape[0]
    to_X, to_h = to_features[:rank], []
    for where, block in _blocks(index):
        to_products = to_features[rank:][where]
        for left_out, row in enumerate(block):
            partial = (
                _product(X, [other for place, other in enumerate(block) if place != left_out])
                * to_products
            )
            if h is not None and left_out == 0:
                to_h.append((_take(X, row) * partial).sum(1))
            # a matrix of zeros and ones, since on CUDA index_add adds in an order that threads
            # decide
            to_X = to_X + _selection(X, row) @ (partial if h is None else partial * h[where, None])
    return to_X, None if h is None else _join(to_h)


def _index(B: Array, A: Array, h: Array, terms: str, degree: int, index: Index | None) -> Any:
    """Which rows of Bᵀ and A are multiplied, once the shapes of all three are seen to fit."""
    rank = _check_factors(B, A)
    count = rank_bound(rank, terms, degree) - rank
    if _shape("h", h) != (count,):
        raise PerakitError(
            f"h has shape {tuple(h.shape)}: rank {rank}, terms={terms!r}, degree {degree} need"
            f" ({count},)"
        )
    return monomials(rank, terms, degree) if index is None else index


def _blocks(index: Index) -> Iterator[tuple[slice, Array]]:
    """Each degree's products: where they stand in h, and which rows are multiplied."""
    start = 0
    for block in index:
        count = block[0].shape[0]
        yield slice(start, start + count), block
        start += count


def _product(X: Array, block: Iterable[Array]) -> Array:
    """The products of X's rows that `block` names."""
    return reduce(operator.mul, (_take(X, row) for row in block))


@trainable(lambda m, n, rank: rank * (m + n))
def hira(W0: Array, B: Array, A: Array) -> Array:
    """HiRA: ΔW = W0∘(B A).

    W0 (m, n) frozen, B (m, r), A (r, n); returns ΔW (m, n), of rank up to rank(W0)·r. Source: HiRA,
    ICLR 2025.
    """
    _check_factors(B, A)
    _check_weight(W0, B, A)
    return W0 * (B @ A)


@trainable(lambda m, n, rank: rank * (m + n) + m)
def dora(
    W0: Array, B: Array, A: Array, magnitude: Array, scale: float = 1, norm: Array | None = None
) -> Array:
    """DoRA: ΔW = diag(g / ‖V‖_row) V - W0 with V = W0 + s B A.

    W0 (m, n) frozen, B (m, r), A (r, n), magnitude g (m,): the length of each row of the new
    weight; scale: s;
    norm (m,): the row lengths of V, where a caller holds them constant (DoRA detaches them in its
    gradient); None computes them. A zero row stays zero. Returns ΔW (m, n). Source: arXiv
    2402.09353, Eq. 5, rows as PEFT has them.
    """
    _check_factors(B, A)
    _check_weight(W0, B, A)
    V = W0 + scale * (B @ A)
    length = row_norm(V) if norm is None else norm
    if _shape("magnitude", magnitude) != (V.shape[0],) or _shape("norm", length) != (V.shape[0],):
        raise PerakitError(
            f"magnitude {tuple(magnitude.shape)} and norm {tuple(length.shape)} need one entry per"
            f" row: ({V.shape[0]},)"
        )
    return (magnitude / length)[:, None] * V - W0


def row_norm(V: Array, floor: float = 1e-36) -> Array:
    """Euclidean length of each row of V (m, n), √max(Σ v², floor): of a zero row 1e-18, so that it
    can be divided by.

    Squared and added in float64, whatever V is: squares of 1e20 overflow in float32, those of 12 in
    int8, and floor is 0 in float16.
    Returns (m,), in V's precision, but float32 at least.
    """
    if not isinstance(V, np.ndarray):
        import torch

        # No copy of the whole in float64
        blocks = (rows.double() for rows in V.split(max(1, BLOCK // max(1, V.shape[1]))))
        squares = torch.cat([(wide * wide).sum(1) for wide in blocks])
        return squares.clamp(min=floor).sqrt().to(torch.promote_types(V.dtype, torch.float32))
    if V.dtype == object:
        import sympy

        least = sympy.Rational(str(floor))
        exact = [sympy.sympify(square) for square in (V * V).sum(1)]
        return np.array(
            [sympy.sqrt(sympy.Max(x, least) if x.is_number else x) for x in exact], dtype=object
        )
    wide = V.astype(np.result_type(V.dtype, np.float64))
    lengths = np.sqrt(np.maximum((wide * wide).sum(1), floor))
    return lengths.astype(np.result_type(V.dtype, np.float32)) if V.dtype.kind == "f" else lengths


@trainable(lambda m, n, rank: mora_size(m, n, rank) ** 2)
def mora(M: Array, m: int, n: int) -> Array:
    """MoRA: ΔW[p, q] = M[p mod r̂, q mod r̂], the square matrix M repeated over the layer.

    M (r̂, r̂), of size r̂ = `mora_size(m, n, rank)`; m, n: the layer. Where r̂ > m or r̂ > n, the
    entries of M beyond m rows or n columns are not read. Returns ΔW (m, n), unscaled, of rank up to
    min(m, n, r̂): inputs are summed over q ≡ l, outputs repeated. Source: arXiv 2405.12130, the
    form that shares rows and columns.
    """
    tall, selection = tile(M, m, n)
    return tall @ selection


def tile(M: Array, m: int, n: int, index: Sequence[Array] | None = None) -> tuple[Array, Array]:
    """MoRA's factors: the rows M[p mod r̂] (m, r̂), and a selection (r̂, n) with a 1 where q mod r̂
    is the row's number.

    Arguments as in `mora`; index: (k mod r̂ for k < m, and for k < n) as arrays of M's kind, for a
    compiled layer.
    Returns (tall (m, r̂), selection (r̂, n)), whose product is `mora(M, m, n)`; the selection adds
    nothing but zeros.
    """
    shape = _shape("M", M)
    if len(shape) != 2 or shape[0] != shape[1] or not shape[0]:
        wrong = "is empty" if 0 in shape else "is not square"
        raise PerakitError(
            f"M {shape} {wrong}: MoRA needs (r̂, r̂), formulas.mora_size(m, n, rank) on a side"
        )
    rows, columns = tile_index(int(M.shape[0]), m, n) if index is None else index
    return _take(M, rows), _selection(M, columns)


def tile_index(size: int, m: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Index arrays (p mod r̂ (m,), q mod r̂ (n,)) of a tiled matrix with `size` = r̂ rows."""
    check_count("m", m)
    check_count("n", n)
    return np.arange(m) % size, np.arange(n) % size


def mora_size(m: int, n: int, rank: int) -> int:
    """r̂ = floor(√((m+n) r) + 1/2), in whole numbers: the side of the square with about LoRA's
    r(m+n) entries.
    """
    for name, value in (("m", m), ("n", n), ("rank", rank)):
        check_count(name, value)
    area = (int(m) + int(n)) * int(rank)
    side = math.isqrt(area)
    return side + (area > side * (side + 1))  # √area >= side + 1/2


@trainable(lambda m, n, rank: rank * (m + n) + 1)
def delora(W0: Array, B: Array, A: Array, lam: Array) -> Array:
    """DeLoRA: ΔW = Σ_i (λ/r) (b_i/‖b_i‖)(a_i/‖a_i‖)ᵀ diag(‖W0‖_col).

    W0 (m, n) frozen, B (m, r), A (r, n), lam (1,): the one number λ; lengths below 1e-4 count as
    1e-4, which keeps values and gradients finite at b_i = 0. Directions come from B and A, the size
    from λ and W0's column lengths alone.
    Returns ΔW (m, n). Source: arXiv 2503.18225; as PEFT, which measures the columns of W0, not the
    whole.
    """
    B_hat, A_hat = normalise(W0, B, A, lam)
    return B_hat @ A_hat


def normalise(W0: Array, B: Array, A: Array, lam: Array) -> tuple[Array, Array]:
    """DeLoRA's factors: B with columns (λ/r) b_i / (‖b_i‖‖a_i‖) (m, r), and A with its columns
    times those lengths of W0 (r, n).

    Arguments as in `delora`. The *squares* are kept above 1e-8, before the root, whose slope at 0
    is infinite.
    Returns (B_hat (m, r), A_hat (r, n)), whose product is `delora(W0, B, A, lam)`.
    """
    rank = _check_factors(B, A)
    check_count("rank", rank)
    _check_weight(W0, B, A)
    if _shape("lam", lam) != (1,):
        raise PerakitError(f"lam has shape {tuple(lam.shape)}: DeLoRA trains one number, (1,)")
    lengths = row_norm(B.T, 1e-8) * row_norm(A, 1e-8)
    return B * (lam / rank / lengths), A * row_norm(W0.T, 0)


@trainable(lambda m, n, rank: 2 * rank * (m + n))
def loha(B1: Array, A1: Array, B2: Array, A2: Array) -> Array:
    """LoHa: ΔW = (B1 A1)∘(B2 A2).

    B1, B2 (m, r), A1, A2 (r, n); returns ΔW (m, n), unscaled, of rank up to r². Source: arXiv
    2108.06098, Proposition 1.
    """
    B_hat, A_hat = khatri_rao(B1, A1, B2, A2)
    return B_hat @ A_hat


def khatri_rao(B1: Array, A1: Array, B2: Array, A2: Array) -> tuple[Array, Array]:
    """LoHa's factors: the columns b1_i∘b2_j (m, r²) and the rows a1_i∘a2_j (r², n), j running
    fastest.

    Arguments as in `loha`. Returns (B_hat (m, r²), A_hat (r², n)), whose product is `loha(B1, A1,
    B2, A2)`.
    """
    rank = _check_factors(B1, A1, ("B1", "A1"))
    _check_factors(B2, A2, ("B2", "A2"))
    check_count("rank", rank)
    if tuple(B1.shape) != tuple(B2.shape) or tuple(A1.shape) != tuple(A2.shape):
        shapes = ", ".join(str(tuple(X.shape)) for X in (B1, A1, B2, A2))
        raise PerakitError(
            f"B1, A1, B2, A2 have shapes {shapes}: both pairs need (m, r) and (r, n)"
        )
    B_hat = B1[:, :, None] * B2[:, None, :]  # (m, r, r)
    A_hat = A1[:, None, :] * A2[None, :, :]  # (r, r, n)
    return B_hat.reshape(-1, rank * rank), A_hat.reshape(rank * rank, -1)


@trainable(lambda m, n, rank: rank * (m + n))
def quadratic(x: Array, U: Array, P: Array) -> Array:
    """A contrast, polynomial in the input: P((U x)∘(U x)), which no matrix does to x.

    x (..., n): the layer's input; U (r, n), P (m, r), as A and B of LoRA. Twice the input gives
    four times the answer, so there is no ΔW: nothing to merge or export. Returns what is added to
    the output (..., m), unscaled. Source: none; made to compare.
    """
    _check_factors(P, U, ("P", "U"))
    if _shape("x", x)[-1:] != tuple(U.shape[1:]):
        raise PerakitError(
            f"x {tuple(x.shape)} and U {tuple(U.shape)} do not match: need (..., n) and (r, n)"
        )
    z = x @ U.T  # (..., n) @ (n, r) -> (..., r)
    return (z * z) @ P.T  # (..., r) @ (r, m) -> (..., m)


def _check_weight(W0: Array, B: Array, A: Array) -> None:
    if _shape("W0", W0, f"the frozen weight ({B.shape[0]}, {A.shape[1]})") != (
        B.shape[0],
        A.shape[1],
    ):
        raise PerakitError(
            f"W0 {tuple(W0.shape)} does not match B A, which is ({B.shape[0]}, {A.shape[1]})"
        )


def _check_factors(B: Array, A: Array, names: tuple[str, str] = ("B", "A")) -> int:
    left, right = _shape(names[0], B), _shape(names[1], A)
    if len(left) != 2 or len(right) != 2 or left[1] != right[0]:
        raise PerakitError(
            f"{names[0]} {left} and {names[1]} {right} do not match: need (m, r) and (r, n)"
        )
    return int(right[0])


def _shape(name: str, X: Any, wanted: str = "a NumPy array or a torch tensor") -> tuple[int, ...]:
    """The shape of an array; refuses what has none: a number, a list, None."""
    shape = getattr(X, "shape", None)
    if shape is None:
        raise PerakitError(f"{name}={short(X)} is no array: pass {wanted}")
    return tuple(shape)


# The array operations whose name differs between NumPy and torch. Only a caller that holds a tensor
# reaches the torch branch, so this module imports without torch.


def _take(X: Array, row: Array) -> Array:
    """The rows of X that `row` names."""
    if isinstance(X, np.ndarray):
        return np.take(X, row, 0)
    import torch

    row = row if isinstance(row, torch.Tensor) else torch.as_tensor(row, device=X.device)
    # The backward of X[i] is slow and adds in an order that threads decide
    return torch.index_select(X, 0, row)


def _selection(X: Array, row: Array) -> Array:
    """The matrix (r, len(row)) with a 1 where an entry of `row` is the number of one of X's r rows,
    of X's kind.
    """
    if isinstance(X, np.ndarray):
        return (np.arange(X.shape[0])[:, None] == row[None]).astype(
            np.int64 if X.dtype == object else X.dtype
        )
    import torch

    return (
        torch.arange(X.shape[0], device=X.device)[:, None]
        == torch.as_tensor(row, device=X.device)[None]
    ).to(X.dtype)


def _join(parts: Sequence[Array], axis: int = 0) -> Array:
    if isinstance(parts[0], np.ndarray):
        return np.concatenate(parts, axis)
    import torch

    return torch.cat(list(parts), dim=axis)
