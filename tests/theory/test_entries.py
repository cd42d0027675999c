"""What `exact_rank` reads as a number, and as which: [[1, x], [1, y]] has rank 1 where x = y."""

from decimal import Decimal
from fractions import Fraction

import mpmath
import numpy as np
import pytest
import sympy
import torch
from hypothesis import given
from hypothesis import strategies as st

import perakit as pk
from perakit.theory import exact_rank


def equal(x, y):
    """Whether exact_rank reads two entries as one number."""
    return exact_rank([[1, x], [1, y]]) == 1


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_float_is_the_fraction_it_is_in_every_library(x):
    for read in (float, np.float64, np.longdouble, Decimal, sympy.Float, mpmath.mpf):
        assert equal(read(x), Fraction(x))


@given(st.floats(allow_nan=False, allow_infinity=False, width=16))
def test_short_floats_are_exact(x):
    for read in (np.float16, np.float32, torch.tensor):
        assert equal(read(x), Fraction(x))
    assert exact_rank(torch.tensor([[1, x], [1, x]], dtype=torch.bfloat16)) == 1


def test_floats_are_the_dyadic_numbers_they_are():
    assert equal(sympy.Float(0.5), sympy.Rational(1, 2))
    assert not equal(sympy.Float(0.1), sympy.Rational(1, 10))
    assert not equal(sympy.Float("0.1", 50), 0.1)
    assert equal(Decimal("0.1"), Fraction(1, 10))
    assert not equal(np.float32(0.1), 0.1)
    third = sympy.Matrix([[sympy.Rational(1, 3), 1], [1, 3]])
    assert (exact_rank(third), exact_rank(third.evalf())) == (1, 2)


def test_integers_neither_wrap_nor_round():
    near = [[2**62, 3], [2**62 - 1, 3]]
    for matrix in (
        near,
        np.array(near),
        torch.tensor(near),
        [[np.int64(x) for x in row] for row in near],
        [[torch.tensor(x) for x in row] for row in near],
        [torch.tensor(row) for row in near],
    ):
        assert exact_rank(matrix) == 2
    wrapping = [[np.int8(100), np.int8(10)], [np.int8(10), np.int8(1)]]
    assert exact_rank(wrapping) == 1
    assert exact_rank(np.eye(3, dtype=bool)) == exact_rank(torch.eye(3).bool()) == 3


def test_tensors_of_every_kind():
    with torch.inference_mode():
        frozen = torch.eye(3)
    for matrix in (frozen, torch.eye(3, requires_grad=True), torch.eye(3).half()):
        assert exact_rank(matrix) == 3


@pytest.mark.parametrize(
    "entry",
    [
        sympy.pi,
        1 + sympy.sqrt(2),
        sympy.Symbol("x"),
        sympy.oo,
        sympy.nan,
        sympy.Float("inf"),
        sympy.Float("nan"),
        sympy.I,
        Decimal("NaN"),
        Decimal("inf"),
        np.longdouble("inf"),
        mpmath.inf,
        mpmath.nan,
        1j,
        torch.tensor(1j),
        "1/2",
        None,
    ],
    ids=repr,
)
def test_what_is_no_rational_number_is_refused(entry):
    with pytest.raises(
        pk.PerakitError,
        match=r"^the entry .* is no rational number: .* are sympy\.Matrix\(\.\.\.\)\.rank\(\)'s$",
    ):
        exact_rank([[1, entry]])


@pytest.mark.parametrize(
    "matrix",
    [torch.eye(2).to_sparse(), torch.ones(2, 2, device="meta"), "ab", {"a": 1}, None],
    ids=lambda matrix: type(matrix).__name__,
)
def test_what_is_no_matrix_is_refused(matrix):
    with pytest.raises(pk.PerakitError, match=r"is no matrix: pass an array \(m, n\)$"):
        exact_rank(matrix)
