"""The mathematics: one short function a rule, with its paper's equation as its body.

The same function reads NumPy arrays (the reference), torch tensors (the layer) and object arrays of
sympy symbols (the derivation); NumPy is all that this file imports. Shapes: W0 and ΔW (m, n) =
(d_out, d_in), B (m, r), A (r, n). Updates are unscaled: alpha belongs to the layer. What makes a
rule quick stands in `perakit.fast`, never here. Sources: LoRA arXiv 2106.09685; PERA arXiv
2604.11841, whose equations are cited below.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from perakit.errors import PerakitError, short

Array = Any  # numpy.ndarray (of floats or of sympy expressions) or torch.Tensor
Rule = TypeVar("Rule", bound=Callable[..., Any])

TERMS = ("full", "square", "cross")
LARGEST_RANK, LARGEST_DEGREE = 2**20, 64  # beyond these a number is a mistake, or a file that lies


# --- PERA and LoRA --------------------------------------------------------------------------------

_counts: dict[str, Callable[..., int]] = {}


def trainable(count: Callable[..., int]) -> Callable[[Rule], Rule]:
    """State, beside a rule, how many parameters it trains, from (m, n, rank, **options)."""

    def remember(rule: Rule) -> Rule:
        _counts[rule.__name__] = count
        return rule

    return remember


@trainable(lambda m, n, rank: rank * (m + n))
def lora(B: Array, A: Array) -> Array:
    """LoRA: ΔW = B A.

    B (m, r), A (r, n). Returns ΔW (m, n), unscaled.
    Source: arXiv 2106.09685, Eq. 3; arXiv 2604.11841, Eq. 8.

    >>> lora(np.array([[1], [2]]), np.array([[3, 4, 5]]))
    array([[ 3,  4,  5],
           [ 6,  8, 10]])
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
    in the order of `monomials`; h = 0 is LoRA.
    terms: "full", "square" (i = j, Eq. 10) or "cross" (i < j, Eq. 11); degree: highest degree of a
    product, 2 in the paper; K: `rank_bound(r, terms, degree)`.
    Polynomial in the parameters, linear in the layer's input. Returns ΔW (m, n), unscaled.
    Source: arXiv 2604.11841, Eq. 9.

    >>> pera(np.array([[1], [-1]]), np.array([[1, -1]]), np.array([1]))  # rank 2 from r = 1
    array([[2, 0],
           [0, 2]])
    """
    *_, highest = _products(B, A, h, terms, degree)
    if degree > 2:
        below = h.shape[0] - highest.shape[1]
        b, a = _multiplied(B.T, highest), _multiplied(A, highest)
        return pera(B, A, h[:below], terms, degree - 1) + b.T @ (h[below:, None] * a)
    i, j = highest
    return B @ A + (B[:, i] * B[:, j]) @ (h[:, None] * A[i] * A[j])


def expand(
    B: Array, A: Array, h: Array, terms: str = "full", degree: int = 2
) -> tuple[Array, Array]:
    """PERA's factors: Poly(B) = [b_i ; b_i∘b_j] and Poly_H(A) = [a_i ; h_ij (a_i∘a_j)].

    B (m, r), A (r, n), h (K - r,); terms, degree: as in `pera`. Linear features come first.
    Returns (B_hat (m, K), A_hat (K, n)), whose product is `pera(B, A, h, terms, degree)`.
    Source: arXiv 2604.11841, Eq. 2-5.

    >>> B_hat, A_hat = expand(np.array([[2], [3]]), np.array([[1, 5]]), np.array([10]))
    >>> B_hat, A_hat
    (array([[2, 4],
           [3, 9]]), array([[  1,   5],
           [ 10, 250]]))
    """
    concatenate: Callable[..., Array] = np.concatenate
    if not isinstance(B, np.ndarray):
        from torch import cat as concatenate
    left, right, start = [B], [A], 0
    for rows in _products(B, A, h, terms, degree):
        b, a, stop = B[:, rows[0]], A[rows[0]], start + rows.shape[1]
        for row in rows[1:]:
            b, a = b * B[:, row], a * A[row]
        left.append(b)  # (m, K_d)
        right.append(h[start:stop, None] * a)  # (K_d, n)
        start = stop
    return concatenate(left, 1), concatenate(right, 0)


def monomials(rank: int, terms: str = "full", degree: int = 2) -> list[np.ndarray]:
    """Which columns are multiplied: for each d = 2 ... degree an index array (d, K_d).

    rank: r, the number of columns; terms: "full" takes every monomial of degree d, "square" those
    with all indices equal (b_i∘b_i, and b_i∘b_i∘b_i at degree 3), "cross" the others; degree: the
    highest d. Each array is in lexicographic order.

    >>> monomials(2, degree=3)[1].T.tolist()
    [[0, 0, 0], [0, 0, 1], [0, 1, 1], [1, 1, 1]]
    """
    check_count("rank", rank, most=LARGEST_RANK)
    check_count("degree", degree, least=2, most=LARGEST_DEGREE)
    if terms not in TERMS:
        raise PerakitError(f"terms={terms!r} is unknown: choose from {', '.join(map(repr, TERMS))}")
    # Each monomial, times each column from its last one on. Plain loops, since torch.compile, which
    # reads the rule as it stands, does not follow itertools.
    found: list[np.ndarray] = []
    shorter: list[tuple[int, ...]] = list(zip(range(rank)))  # (0,), (1,), ...: degree 1
    for d in range(2, degree + 1):
        longer, kept = [], []
        for row in shorter:
            for i in range(row[-1], rank):
                longer.append((*row, i))
                if terms == "full" or (row[0] == i) == (terms == "square"):
                    kept.append((*row, i))
        found.append(np.array(kept, dtype=np.int64).reshape(-1, d).T)
        shorter = longer
    return found


def pairs(rank: int, terms: str = "full") -> tuple[np.ndarray, np.ndarray]:
    """Index arrays (i, j) of the products b_i∘b_j, in `np.triu_indices`' order, which is h's.

    rank: r; terms: "full" i <= j (r(r+1)/2 pairs), "square" i = j (r), "cross" i < j (r(r-1)/2).

    >>> i, j = pairs(3, "cross")
    >>> i.tolist(), j.tolist()
    ([0, 0, 1], [1, 2, 2])
    """
    i, j = monomials(rank, terms)[0]
    return i, j


def rank_bound(rank: int, terms: str = "full", degree: int = 2) -> int:
    """K, the number of rank-one terms of a PERA update, hence a bound on its rank.

    rank, terms, degree: as in `monomials`. K = C(r+k, k) - 1 at degree k (full), so r(r+3)/2 at
    k = 2; rk (square only); C(r+k, k) - 1 - r(k-1) (cross only). LoRA's bound is r itself.

    >>> [rank_bound(r) for r in (1, 2, 4, 8, 16, 32)]
    [2, 5, 14, 44, 152, 560]
    """
    check_count("rank", rank, most=LARGEST_RANK)
    check_count("degree", degree, least=2, most=LARGEST_DEGREE)
    rank, degree = int(rank), int(degree)  # NumPy's small integers wrap
    full, square = math.comb(rank + degree, degree) - 1, rank * degree
    bounds = {"full": full, "square": square, "cross": full - square + rank}
    if not isinstance(terms, str) or terms not in bounds:
        known = ", ".join(map(repr, TERMS))
        raise PerakitError(f"terms={short(terms)} is unknown: choose from {known}")
    return bounds[terms]


def parameter_count(m: int, n: int, rank: int, method: str, **options: Any) -> int:
    """Trainable parameters of a method on one (m, n) layer.

    m, n, rank: whole numbers; method: the name of its rule here, "lora", "pera" ...; options: what
    the rule takes besides arrays (PERA: terms, degree).

    >>> parameter_count(768, 768, 8, "lora"), parameter_count(768, 768, 8, "pera")
    (12288, 12324)
    """
    if not isinstance(method, str) or method not in _counts:
        raise PerakitError(
            f"unknown method {short(method)}: choose from {', '.join(sorted(_counts))}"
        )
    for name, value in (("m", m), ("n", n), ("rank", rank)):
        check_count(name, value)
    try:
        # NumPy's small integers wrap
        return _counts[method](int(m), int(n), int(rank), **options)
    except TypeError as error:
        raise PerakitError(
            f"{method} does not take the options {', '.join(options)}: pass those of its rule"
        ) from error


# --- other methods --------------------------------------------------------------------------------


@trainable(lambda m, n, rank: rank * (m + n))
def hira(W0: Array, B: Array, A: Array) -> Array:
    """HiRA: ΔW = W0∘(B A).

    W0 (m, n) frozen, B (m, r), A (r, n). Returns ΔW (m, n), of rank up to rank(W0)·r.
    Source: HiRA, ICLR 2025.

    >>> hira(np.array([[0, 2], [3, 4]]), np.array([[1], [1]]), np.array([[5, 10]]))
    array([[ 0, 20],
           [15, 40]])
    """
    _check_factors(B, A)
    _check_weight(W0, B, A)
    return W0 * (B @ A)


@trainable(lambda m, n, rank: rank * (m + n) + m)
def dora(
    W0: Array,
    B: Array,
    A: Array,
    magnitude: Array,
    scale: float = 1,
    norm: Array | None = None,
) -> Array:
    """DoRA: ΔW = diag(g / ‖V‖_row) V - W0 with V = W0 + s B A.

    W0 (m, n) frozen, B (m, r), A (r, n), magnitude (m,): g, the length of each row of the new
    weight; scale: s; norm (m,): the row lengths of V, where a caller holds them constant (DoRA
    detaches them in its gradient); None computes them. A zero row stays zero. Returns ΔW (m, n).
    Source: arXiv 2402.09353, Eq. 5, rows as PEFT has them.

    >>> W0, zero = np.array([[3.0, 4.0]]), np.zeros((1, 2))
    >>> dora(W0, np.zeros((1, 1)), zero, np.array([10.0]))  # the row gets the length 10
    array([[3., 4.]])
    """
    _check_factors(B, A)
    _check_weight(W0, B, A)
    V = W0 + scale * (B @ A)
    length = row_norm(V) if norm is None else norm
    rows = (V.shape[0],)
    if _shape("magnitude", magnitude) != rows or _shape("norm", length) != rows:
        raise PerakitError(
            f"magnitude {tuple(magnitude.shape)} and norm {tuple(length.shape)} need one entry per"
            f" row: {rows}"
        )
    return (magnitude / length)[:, None] * V - W0


def row_norm(V: Array, floor: float = 1e-36) -> Array:
    """Euclidean length of each row, √max(Σ v², floor).

    V (m, n); floor: of the square, so that a zero row, of length 1e-18, can be divided by.
    Squared and added in float64, whatever V is: squares of 1e20 overflow in float32, those of 12 in
    int8, and 1e-36 is 0 in float16.
    Returns (m,), in V's precision, but float32 at least.

    >>> row_norm(np.array([[3.0, 4.0], [0.0, 2.0]]))
    array([5., 2.])
    """
    if not isinstance(V, np.ndarray):
        import torch

        wide = V.double()
        lengths = (wide * wide).sum(1).clamp(min=floor).sqrt()
        return lengths.to(torch.promote_types(V.dtype, torch.float32))
    if V.dtype == object:
        import sympy

        least = sympy.Rational(str(floor))
        exact = [sympy.sympify(square) for square in (V * V).sum(1)]
        floored = [sympy.Max(x, least) if x.is_number else x for x in exact]
        return np.array([sympy.sqrt(x) for x in floored], dtype=object)
    wide = V.astype(np.result_type(V.dtype, np.float64))
    lengths = np.sqrt(np.maximum((wide * wide).sum(1), floor))
    narrow = np.result_type(V.dtype, np.float32)
    return lengths.astype(narrow) if V.dtype.kind == "f" else lengths


@trainable(lambda m, n, rank: mora_size(m, n, rank) ** 2)
def mora(M: Array, m: int, n: int) -> Array:
    """MoRA: ΔW[p, q] = M[p mod r̂, q mod r̂], the square matrix M repeated over the layer.

    M (r̂, r̂), of size r̂ = `mora_size(m, n, rank)`; m, n: the layer. Where r̂ > m or r̂ > n, the
    entries of M beyond m rows or n columns are not read.
    Returns ΔW (m, n), unscaled, of rank up to min(m, n, r̂): inputs are summed over q ≡ l, outputs
    repeated. Source: arXiv 2405.12130, the form that shares rows and columns.

    >>> mora(np.array([[1, 2], [3, 4]]), 3, 4)
    array([[1, 2, 1, 2],
           [3, 4, 3, 4],
           [1, 2, 1, 2]])
    """
    size = _check_square(M, m, n)
    return M[np.arange(m) % size][:, np.arange(n) % size]


def tile(M: Array, m: int, n: int) -> tuple[Array, Array]:
    """MoRA's factors: the rows M[p mod r̂], and a 1 where q mod r̂ is the row's number.

    M (r̂, r̂); m, n: as in `mora`. Returns (tall (m, r̂), selection (r̂, n)), whose product is
    `mora(M, m, n)`; the selection adds nothing but zeros.

    >>> tall, selection = tile(np.array([[1, 2], [3, 4]]), 3, 4)
    >>> selection
    array([[1, 0, 1, 0],
           [0, 1, 0, 1]])
    """
    size = _check_square(M, m, n)
    selection = np.arange(size)[:, None] == np.arange(n) % size
    return M[np.arange(m) % size], _of_kind(M, selection)


def mora_size(m: int, n: int, rank: int) -> int:
    """r̂ = floor(√((m+n) r) + 1/2), the side of the square with about LoRA's r(m+n) entries.

    m, n, rank: whole numbers, and nothing is rounded on the way.

    >>> mora_size(768, 768, 8)
    111
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
    from λ and W0's column lengths alone. Returns ΔW (m, n).
    Source: arXiv 2503.18225; as PEFT, which measures the columns of W0, not the whole.

    >>> W0, B, A = np.array([[3.0], [4.0]]), np.array([[0.0], [7.0]]), np.array([[9.0]])
    >>> delora(W0, B, A, np.array([2.0]))  # λ times 5, the length of W0's column, along b
    array([[ 0.],
           [10.]])
    """
    B_hat, A_hat = normalise(W0, B, A, lam)
    return B_hat @ A_hat


def normalise(W0: Array, B: Array, A: Array, lam: Array) -> tuple[Array, Array]:
    """DeLoRA's factors: columns (λ/r) b_i / (‖b_i‖‖a_i‖), and A with W0's lengths on its columns.

    W0 (m, n), B (m, r), A (r, n), lam (1,): as in `delora`. The *squares* are kept above 1e-8,
    before the root, whose slope at 0 is infinite.
    Returns (B_hat (m, r), A_hat (r, n)), whose product is `delora(W0, B, A, lam)`.

    >>> W0, B, A = np.array([[3.0], [4.0]]), np.array([[0.0], [7.0]]), np.array([[9.0]])
    >>> B_hat, A_hat = normalise(W0, B, A, np.array([2.0]))
    >>> A_hat  # 9 times 5
    array([[45.]])
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

    B1 (m, r), A1 (r, n), B2 (m, r), A2 (r, n). Returns ΔW (m, n), unscaled, of rank up to r².
    Source: arXiv 2108.06098, Proposition 1.

    >>> b, a = np.array([[1], [2]]), np.array([[3, 4]])
    >>> loha(b, a, b, a)
    array([[ 9, 16],
           [36, 64]])
    """
    _check_two(B1, A1, B2, A2)
    return (B1 @ A1) * (B2 @ A2)


def khatri_rao(B1: Array, A1: Array, B2: Array, A2: Array) -> tuple[Array, Array]:
    """LoHa's factors: the columns b1_i∘b2_j and the rows a1_i∘a2_j, j running fastest.

    B1 (m, r), A1 (r, n), B2 (m, r), A2 (r, n): as in `loha`.
    Returns (B_hat (m, r²), A_hat (r², n)), whose product is `loha(B1, A1, B2, A2)`.

    >>> B_hat, _ = khatri_rao(np.array([[1, 2]]), np.eye(2), np.array([[3, 5]]), np.eye(2))
    >>> B_hat
    array([[ 3,  5,  6, 10]])
    """
    rank = _check_two(B1, A1, B2, A2)
    B_hat = B1[:, :, None] * B2[:, None, :]  # (m, r, r)
    A_hat = A1[:, None, :] * A2[None, :, :]  # (r, r, n)
    return B_hat.reshape(-1, rank * rank), A_hat.reshape(rank * rank, -1)


@trainable(lambda m, n, rank: rank * (m + n))
def quadratic(x: Array, U: Array, P: Array) -> Array:
    """A contrast, polynomial in the input: P((U x)∘(U x)), which no matrix does to x.

    x (..., n): the layer's input; U (r, n), P (m, r), as A and B of LoRA. Twice the input gives
    four times the answer, so there is no ΔW: nothing to merge or export.
    Returns what is added to the output (..., m), unscaled. Source: none; made to compare.

    >>> U, P = np.array([[1, 1]]), np.array([[1]])
    >>> quadratic(np.array([1, 2]), U, P), quadratic(np.array([2, 4]), U, P)
    (array([9]), array([36]))
    """
    _check_factors(P, U, ("P", "U"))
    if _shape("x", x)[-1:] != tuple(U.shape[1:]):
        raise PerakitError(
            f"x {tuple(x.shape)} and U {tuple(U.shape)} do not match: need (..., n) and (r, n)"
        )
    z = x @ U.T  # (..., n) @ (n, r) -> (..., r)
    return (z * z) @ P.T  # (..., r) @ (r, m) -> (..., m)


# --- what stands behind the rules: products of rows, and what is refused --------------------------


def _multiplied(X: Array, rows: np.ndarray) -> Array:
    """The products (K_d, n) of X's rows that the columns of `rows` (d, K_d) name."""
    product = X[rows[0]]
    for row in rows[1:]:
        product = product * X[row]
    return product


def _of_kind(X: Array, ones: np.ndarray) -> Array:
    """A matrix of zeros and ones as an array of X's kind, dtype and device."""
    if isinstance(X, np.ndarray):
        return ones.astype(np.int64 if X.dtype == object else X.dtype)
    import torch

    return torch.as_tensor(ones, dtype=X.dtype, device=X.device)


def check_count(name: str, value: Any, least: int = 1, most: int | None = None) -> None:
    """Refuse anything but an integer from `least` to `most`: 4.0 and True are not ranks."""
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or value < least:
        raise PerakitError(f"{name}={short(value)} must be an integer >= {least}")
    if most is not None and value > most:
        raise PerakitError(f"{name}={short(value)} must be an integer <= {most}")


def _products(B: Array, A: Array, h: Array, terms: str, degree: int) -> list[np.ndarray]:
    """The monomials of PERA's factors, once the shapes of all three are seen to fit."""
    found, count = monomials(_check_factors(B, A), terms, degree), 0
    for rows in found:
        count += rows.shape[1]
    if getattr(h, "shape", None) != (count,):
        raise PerakitError(
            f"h has shape {_shape('h', h)}: rank {A.shape[0]}, terms={terms!r}, degree {degree}"
            f" need ({count},)"
        )
    return found


def _check_factors(B: Array, A: Array, names: tuple[str, str] = ("B", "A")) -> int:
    """The rank r of B (m, r) and A (r, n)."""
    if not (hasattr(B, "shape") and hasattr(A, "shape")):
        _shape(names[0], B)
        _shape(names[1], A)
    if len(B.shape) != 2 or len(A.shape) != 2 or B.shape[1] != A.shape[0]:
        raise PerakitError(
            f"{names[0]} {tuple(B.shape)} and {names[1]} {tuple(A.shape)} do not match: need (m, r)"
            " and (r, n)"
        )
    return int(A.shape[0])


def _check_two(B1: Array, A1: Array, B2: Array, A2: Array) -> int:
    """The rank of two pairs of factors of one shape."""
    rank = _check_factors(B1, A1, ("B1", "A1"))
    _check_factors(B2, A2, ("B2", "A2"))
    check_count("rank", rank)
    if tuple(B1.shape) != tuple(B2.shape) or tuple(A1.shape) != tuple(A2.shape):
        shapes = ", ".join(str(tuple(X.shape)) for X in (B1, A1, B2, A2))
        raise PerakitError(
            f"B1, A1, B2, A2 have shapes {shapes}: both pairs need (m, r) and (r, n)"
        )
    return rank


def _check_weight(W0: Array, B: Array, A: Array) -> None:
    shape = (B.shape[0], A.shape[1])
    if _shape("W0", W0, f"the frozen weight {shape}") != shape:
        raise PerakitError(f"W0 {tuple(W0.shape)} does not match B A, which is {shape}")


def _check_square(M: Array, m: int, n: int) -> int:
    """The side r̂ of MoRA's square matrix."""
    shape = _shape("M", M)
    if len(shape) != 2 or shape[0] != shape[1] or not shape[0]:
        wrong = "is empty" if 0 in shape else "is not square"
        raise PerakitError(
            f"M {shape} {wrong}: MoRA needs (r̂, r̂), formulas.mora_size(m, n, rank) on a side"
        )
    check_count("m", m)
    check_count("n", n)
    return int(shape[0])


def _shape(name: str, X: Any, wanted: str = "a NumPy array or a torch tensor") -> tuple[int, ...]:
    """The shape of an array; refuses what has none: a number, a list, None."""
    shape = getattr(X, "shape", None)
    if shape is None:
        raise PerakitError(f"{name}={short(X)} is no array: pass {wanted}")
    return tuple(shape)
