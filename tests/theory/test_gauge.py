"""The group of some factors: its directions, its size, and what is said where no theorem speaks."""

import math
from fractions import Fraction
from itertools import permutations

import numpy as np
import pytest
import torch

import perakit as pk
from perakit import formulas
from perakit.theory import curvature, exact_rank, gauge, gauge_orbit
from perakit.theory.families import pera
from perakit.theory.gauge import column_classes


def whole(seed, *shapes):
    generator = np.random.default_rng(seed)
    return tuple(generator.integers(1, 30, s) * generator.choice((-1, 1), s) for s in shapes)


def form(h, rank):
    """H of a full h."""
    H, (i, j) = np.zeros((rank, rank), dtype=object), formulas.pairs(rank)
    H[i, j] = H[j, i] = [Fraction(int(x), 1 + (a != b)) for x, a, b in zip(h, i, j, strict=True)]
    return H


def set_partitions(items):
    if not items:
        yield []
        return
    first, *rest = items
    for parts in set_partitions(rest):
        yield [[first], *parts]
        for k in range(len(parts)):
            yield [*parts[:k], [first, *parts[k]], *parts[k + 1 :]]


@pytest.mark.parametrize("parts", list(set_partitions([0, 1, 2, 3])), ids=str)
def test_every_partition_of_four_columns(parts):
    """H is made with these classes; the count at random whole factors is exact."""
    place = {k: c for c, part in enumerate(parts) for k in part}
    i, j = formulas.pairs(4)
    # 1, 2, 3 ... for each pair of classes: different rows for different classes
    small = np.arange(16).reshape(4, 4) + np.arange(16).reshape(4, 4).T
    h = np.array([small[place[a], place[b]] * (1 + (a != b)) for a, b in zip(i, j, strict=True)])
    B, A = whole(len(parts), (15, 4), (4, 14))
    found = gauge((B, A, h))
    assert sorted(map(list, found.classes)) == sorted(sorted(part) for part in parts)
    assert found.kernel == found.dimension == sum(len(part) ** 2 for part in parts)
    assert found.how == "null space of the derivative, a rank modulo primes"
    assert found.holds


def test_classes_are_equal_rows_at_degree_two():
    generator = np.random.default_rng(0)
    for _ in range(200):
        rank = int(generator.integers(1, 6))
        h = 2 * generator.integers(0, 2, rank * (rank + 1) // 2)
        rows = [tuple(row) for row in form(h, rank)]
        together = {tuple(k for k in range(rank) if rows[k] == row) for row in rows}
        assert set(column_classes(h, rank)) == together


# Of "degree 3" the entries are t + t² + 5 t³ with t = u_1 + u_2: one class
CASES = {
    "full": (2, "full", 2, [3, 1, 5]),
    "kernel": (2, "full", 2, [3, 6, 3]),
    "square": (3, "square", 2, [0, 2, 0]),
    "cross": (3, "cross", 2, [0, 4, 4]),
    "degree 3": (2, "full", 3, [1, 2, 1, 5, 15, 15, 5]),
    "LoRA": (2, "none", 2, []),
}


def derivative(family, given):
    """The Jacobian by differences of five points, exact for polynomials of degree 4: no torch."""
    columns = []
    for name, array in given.items():
        for place in np.ndindex(array.shape):
            step = np.zeros_like(array)
            step[place] = 1
            f = {
                t: family.update(None, **{**given, name: array + t * step}) for t in (-2, -1, 1, 2)
            }
            twelve = 8 * (f[1] - f[-1]) - (f[2] - f[-2])
            assert not (twelve % 12).any()
            columns.append((twelve // 12).ravel())
    return np.array(columns, dtype=object).T


@pytest.mark.parametrize("name", CASES)
def test_the_directions_are_a_basis_of_the_null_space(name):
    rank, terms, degree, h = CASES[name]
    m, n = (10, 9) if rank == 2 else (9, 10)
    shapes = pera(rank, terms, degree).shapes(m, n)
    B, A = whole(3, shapes["B"], shapes["A"])
    given = {"B": B, "A": A} | ({} if terms == "none" else {"h": np.array(h)})
    found = gauge(given, terms, degree)
    J = derivative(pera(rank, terms, degree), given)
    basis = np.array(
        [[int(x) for array in move.values() for x in array.flat] for move in found.directions()],
        dtype=object,
    ).T
    assert not (J @ basis).any()
    assert exact_rank(basis) == found.dimension == basis.shape[1]
    assert J.shape[1] - exact_rank(J) == found.dimension == found.kernel
    assert column_classes(np.array(h), rank, terms, degree) == found.classes


def test_a_class_is_acted_on_by_its_whole_linear_group():
    B, A = whole(1, (6, 3), (3, 5))
    h = np.array([2, 4, 3, 2, 3, 7])  # rows 0 and 1 of H are equal
    assert gauge((B, A, h)).classes == ((0, 1), (2,))
    X, back = np.eye(3, dtype=int), np.eye(3, dtype=int)
    X[:2, :2], back[:2, :2] = [[2, 1], [1, 1]], [[1, -1], [-1, 2]]
    assert (formulas.pera(B @ X, back @ A, h) == formulas.pera(B, A, h)).all()
    X, back = X[::-1, ::-1], back[::-1, ::-1]  # columns 1 and 2: not a class
    assert (formulas.pera(B @ X, back @ A, h) != formulas.pera(B, A, h)).any()


@pytest.mark.parametrize(
    ("rank", "terms", "h", "count"),
    [
        (3, "square", [5, 5, 5], 6),
        (3, "cross", [1, 1, 1], 6),
        (4, "cross", [1, 2, 1, 1, 2, 1], 8),  # a square's corners
        (4, "full", [1, 2, 0, 0, 1, 0, 0, 1, 2, 1], 2),  # two classes of two change places
        (3, "full", [1, 2, 3, 4, 5, 6], 1),
        (3, "full", [1, 2, 10, 1, 10, 1], 1),  # alike but for their sizes, 2 and 1
        (2, "none", [], 1),
    ],
)
def test_the_permutations_that_keep_h(rank, terms, h, count):
    """Against all r! of them: theirs, times the orders within the classes."""
    B, A = whole(2, (9, rank), (rank, 8))
    h = np.array(h, dtype=int)
    found = gauge((B, A) if terms == "none" else (B, A, h), terms)
    orders = list(found.permutations())
    assert len(orders) == count
    assert orders[0] == tuple(range(rank))
    if terms != "none":
        kept = {
            order
            for order in permutations(range(rank))
            if (gauge_orbit(B, A, h, np.ones(rank), order, terms)[2] == h).all()
        }
        assert set(orders) <= kept
        inside = math.prod(math.factorial(len(members)) for members in found.classes)
        assert len(kept) == count * inside


def test_where_the_theorem_does_not_speak_the_directions_are_counted():
    """1 + 2 h u = 0 at two entries of ΔW: there u does not move it, to first order."""
    B, A, h = np.array([[1], [2]]), np.array([[2, 1]]), np.array([-0.25])
    found = gauge((B, A, h))
    assert (found.dimension, found.kernel, found.holds) == (1, 2, False)
    assert "2, 1 more than the group has" in str(found)
    # K = 5 is above 4: all 16 entries move, and 19 parameters are there to move them
    small = gauge(whole(0, (4, 2), (2, 4), (3,)))
    assert (small.dimension, small.kernel, small.holds) == (2, 19 - 16, False)


def test_large_layers_are_decided_by_their_features_or_not_at_all():
    B, A, h = whole(4, (768, 8), (8, 700), (36,))
    for X in (B, B * np.pi):
        found = gauge((X, A, h))
        assert found.holds
        assert "164 features of degree 3" in found.how
    assert gauge((torch.tensor(B).float(), torch.tensor(A).float())).dimension == 64
    # Two equal columns, or rows: no features of full rank, and too large to count
    order = [0, 0, *range(2, 8)]
    assert gauge((B[:, order], A, h)).holds is None
    assert gauge((B, A[order], h)).holds is None
    thin = gauge(whole(5, (30, 8), (8, 3000), (36,)))
    assert thin.kernel is None
    assert "K = 44 is above min(m, n) = 30" in str(thin)
    wide = gauge(whole(6, (2000, 32), (32, 2000), (528,)))
    assert "generic factors, K = 560 <= min(m, n)" in str(wide)


def test_floats_are_compared_as_they_are():
    B, A = whole(7, (10, 2), (2, 10))
    assert gauge((B, A, np.array([0.1, 0.2, 0.1]))).dimension == 4
    almost = np.array([0.1, 0.2, 0.1 + 1e-15])
    assert gauge((B, A, almost)).dimension == 2
    assert gauge((B, A, almost.round(9))).dimension == 4
    thirds = np.array([Fraction(1, 3), Fraction(2, 3), Fraction(1, 3)])
    assert gauge((B, A, thirds)).dimension == 4


def test_it_prints_what_was_found():
    B, A = whole(8, (15, 4), (4, 15))
    assert str(gauge((B, A, np.array([1, 2, 0, 0, 1, 0, 0, 1, 2, 1])))) == (
        "PERA of rank 4 on a 15 x 15 layer: ΔW stays under GL(2)^2, of dimension 8\n"
        "classes of columns, from 0: {0, 1}, {2, 3}\n"
        "exchanges of whole classes that keep h: 2, with the identity\n"
        "directions without effect at these factors: 8 (null space of the derivative, a rank modulo"
        " primes)"
    )


@pytest.mark.parametrize("rank", [2, 3])
def test_curvature_at_points_of_lora(rank):
    """Zero on thin layers, whatever X: the counterexample; proportional to s on others."""
    generator = np.random.default_rng(rank)
    K = formulas.rank_bound(rank)
    for m, n, grows in ((rank + 1, K, False), (K, rank + 1, False), (K, K, True)):
        B, A, X = (generator.normal(size=s) for s in ((m, rank), (rank, n), (rank, rank)))
        h = generator.normal(size=K - rank)
        once, far = (
            curvature(
                pera(rank), {"B": B, "A": A, "h": 0 * h}, {"B": s * B @ X, "A": -s * X @ A, "h": h}
            )
            for s in (1, 8)
        )
        assert (once > 0) == grows
        assert far == pytest.approx(8 * once, rel=1e-5)


B, A, H = np.ones((3, 2)), np.ones((2, 4)), np.ones(3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: gauge(pk.PERA(2)), r"PERA is no set of factors: pass \(B, A, h\)"),
        (lambda: gauge((B,)), r"tuple is no set of factors"),
        (lambda: gauge({"B": B, "C": A}), r"the factors are named B, C: pass B, A and h"),
        (lambda: gauge((B, A, H[:2])), r"h has shape \(2,\): rank 2"),
        (lambda: gauge((B, A.T)), r"B \(3, 2\) and A \(4, 2\) do not match"),
        (
            lambda: gauge((B, A, H * np.nan)),
            r"h is no array of finite real numbers",
        ),
        (lambda: gauge((B, "A")), r"A is no array of finite real numbers"),
        (lambda: gauge((B, A, H), "diag"), r"terms='diag' is unknown"),
        (lambda: gauge((B, A, H), degree=1), r"degree=1 must be an integer >= 2"),
        (lambda: gauge((np.ones((3, 4)), np.ones((4, 3)))), r"rank=4 is above min\(m, n\) = 3"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(pk.PerakitError, match="^" + message):
        call()
