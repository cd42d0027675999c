"""The sizes at which an exact rank settles the dimension of PERA on every layer, for one rank r.

Two facts make a finite number of layers enough. Let the null space of the Jacobian at generic
factors have dimension r at (m, n): then it has at (m + 1, n). For a null vector at the larger layer
is, on the first m rows, one of the scalings; less that scaling it moves the new row of B alone, by
a vector δ with Σ_i δ_i v_i = 0, v_i = ∂ΔW_row/∂B_i, and near a new row of zeros v_i is a_i: r
independent vectors. So δ = 0. And let the Jacobian be onto at (m, n): then it is on every smaller
layer, which is a corner of this one. Both hold for columns alike, by transposition. The first fact
starts where mn >= P - r, the second where mn <= P - r: the corners of this staircase are enough.
"""

from __future__ import annotations

from perakit import formulas

__all__ = ["corners", "step"]


def step(rank: int, terms: str = "full", degree: int = 2) -> int:
    """c, with mn >= P - r exactly where (m - r)(n - r) >= c: r² - 2r + K.

    >>> from perakit.theory import staircase
    >>> [staircase.step(r) for r in (1, 2, 3)]
    [1, 5, 12]
    """
    return rank * rank - 2 * rank + formulas.rank_bound(rank, terms, degree)


def corners(rank: int, terms: str = "full", degree: int = 2) -> list[tuple[int, int]]:
    """The corners (m, n), m <= n, of the staircase: least above it, and largest below it.

    rank: r; terms, degree: as in `formulas.pera`. A layer with min(m, n) = r needs none: there the
    square factor is invertible, so the Jacobian is onto.

    >>> from perakit.theory import staircase
    >>> staircase.corners(2)
    [(3, 7), (4, 4), (4, 5)]
    """
    c, found = step(rank, terms, degree), set()
    for up in range(1, c + 1):
        # at m = r + up: the least n - r above the staircase, and the largest below it
        found |= {(up, -(-c // up)), (up, c // up)}
    least = {(a, b) for a, b in found if a * b >= c and (a - 1) * b < c and a * (b - 1) < c}
    largest = {(a, b) for a, b in found if 0 < a * b <= c and (a + 1) * b > c and a * (b + 1) > c}
    return sorted((rank + a, rank + b) for a, b in least | largest if a <= b) or [(rank, rank)]
