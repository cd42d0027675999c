"""Elimination in rationals: against SymPy, and where floats lie."""

import math
from fractions import Fraction

import numpy as np
import pytest
import sympy
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import perakit as pk
from perakit.theory import exact_rank


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


@given(
    hnp.arrays(
        np.int64, hnp.array_shapes(min_dims=2, max_dims=2, max_side=6), elements=st.integers(-2, 2)
    )
)
def test_the_rank_is_sympys(matrix):
    assert exact_rank(matrix) == sympy.Matrix(matrix.tolist()).rank()


def test_exact_rank_reads_any_rational():
    assert exact_rank([[Fraction(1, 3), 1], [1, 3]]) == 1
    assert exact_rank([[sympy.Rational(1, 3), sympy.Integer(1)], [1, 3]]) == 1
    assert exact_rank([[1 / 3, 1.0], [1.0, 3.0]]) == 2  # 1/3 as a float is another number
    assert exact_rank(np.array([[0.1 + 0.2, 0.3]])) == 1
    assert exact_rank(np.zeros((2, 3))) == 0
    assert exact_rank(np.array([[10**40, 1], [10**40 + 1, 1]], dtype=object)) == 2


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
