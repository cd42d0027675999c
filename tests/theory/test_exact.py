"""Elimination in rationals and modulo a prime, against SymPy, against each other, and where floats
lie.
"""

import math
from fractions import Fraction

import numpy as np
import pytest
import sympy
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import perakit as pk
from perakit.theory import exact
from perakit.theory.exact import PRIME, echelon, exact_rank, modular_rank, null_space

matrices = hnp.arrays(
    np.int64, hnp.array_shapes(min_dims=2, max_dims=2, max_side=6), elements=st.integers(-2, 2)
)


def test_the_trap_where_floating_point_lies():
    """diag(1, 1e-17) and diag(1e-17, 1) look like rank 1, and their product, 1e-17 times the
    identity, like rank 2.
    """
    left, right = np.diag([1.0, 1e-17]), np.diag([1e-17, 1.0])
    assert [int(np.linalg.matrix_rank(matrix)) for matrix in (left, right, left @ right)] == [
        1,
        1,
        2,
    ]
    assert [exact_rank(matrix) for matrix in (left, right, left @ right)] == [2, 2, 2]


@given(matrices)
def test_both_ranks_are_sympys(matrix):
    expected = sympy.Matrix(matrix.tolist()).rank()
    assert exact_rank(matrix) == expected
    assert modular_rank(matrix) == expected


@given(matrices)
def test_the_null_space_is_one(matrix):
    U, pivots = echelon(matrix.astype(np.float64))
    vectors = null_space(U, pivots)
    assert vectors.shape == (matrix.shape[1], matrix.shape[1] - len(pivots))
    assert not (matrix.astype(object) @ vectors.astype(np.int64).astype(object) % PRIME).any()
    assert modular_rank(vectors) == vectors.shape[1]


@pytest.mark.parametrize(
    ("m", "n", "rank"),
    [(300, 200, 170), (140, 300, 129), (257, 257, 257), (130, 129, 1), (3, 400, 3)],
)
def test_blocks_of_columns_join(m, n, rank):
    """Sizes beyond one block; residues as large as they come, products in Python's integers."""
    generator = np.random.default_rng(m + n)
    left, right = (
        generator.integers(0, PRIME, size).astype(object) for size in ((m, rank), (rank, n))
    )
    matrix = left @ right % PRIME
    U, pivots = echelon(matrix.astype(np.float64))
    assert len(pivots) == rank
    vectors = null_space(U, pivots).astype(np.int64).astype(object)
    assert not (matrix @ vectors % PRIME).any()
    # The check can fail
    assert (matrix @ generator.integers(1, PRIME, (n, 1)).astype(object) % PRIME).any()


def test_a_multiple_of_the_prime_is_zero_modulo_it_only():
    """The lower bound is a lower bound: this is the accident that it allows."""
    assert modular_rank(np.array([[PRIME]])) == 0
    assert exact_rank(np.array([[PRIME]])) == 1


def test_exact_rank_reads_any_rational():
    assert exact_rank([[Fraction(1, 3), 1], [1, 3]]) == 1
    assert exact_rank([[sympy.Rational(1, 3), sympy.Integer(1)], [1, 3]]) == 1
    assert exact_rank([[1 / 3, 1.0], [1.0, 3.0]]) == 2  # 1/3 as a float is another number
    assert exact_rank(np.array([[0.1 + 0.2, 0.3]])) == 1
    assert exact_rank(np.zeros((2, 3))) == 0
    assert exact_rank(np.array([[10**40, 1], [10**40 + 1, 1]], dtype=object)) == 2


@given(hnp.arrays(np.float64, 9, elements=st.integers(-(2**52), 2**52).map(float)))
def test_residues(values):
    residues = values.copy()
    exact.reduce_(residues)
    assert np.abs(residues).max() <= PRIME // 2
    assert [(int(a) - int(b)) % PRIME for a, b in zip(values, residues, strict=True)] == [0] * 9


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (
            [[1.0, math.nan]],
            (
                r"the entry nan is no rational number: exact rank needs finite integers, fractions"
                r" or floats"
            ),
        ),
        ([[1.0, math.inf]], r"the entry inf is no rational number"),
        ([[sympy.sqrt(2)]], r"the entry sqrt\(2\) is no rational number"),
        ([1, 2], r"\[1, 2\] is no matrix: pass an array \(m, n\)"),
        (3, r"3 is no matrix"),
        ([[1, 2], [3]], r"\[\[1, 2\], \[3\]\] is no matrix"),
    ],
)
def test_what_is_no_matrix_is_refused(matrix, message):
    with pytest.raises(pk.PerakitError, match="^" + message):
        exact_rank(matrix)
