"""Arithmetic modulo a prime: against Python's integers, SymPy, and elimination in rationals."""

import decimal
import math
from fractions import Fraction

import numpy as np
import pytest
import sympy
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import perakit as pk
from perakit.theory import exact_rank, field
from perakit.theory.field import PRIMES, echelon, modular_rank, null_space, product, reduce_

PRIME = PRIMES[0]
matrices = hnp.arrays(
    np.int64, hnp.array_shapes(min_dims=2, max_dims=2, max_side=6), elements=st.integers(-2, 2)
)
primes = pytest.mark.parametrize("prime", PRIMES)


def test_the_primes_are_the_largest_that_fit():
    """Products of residues below 2^22, a block of them added, are whole float64s."""
    assert [sympy.prevprime(2**23), sympy.prevprime(PRIME)] == list(PRIMES)
    assert field.BLOCK * (PRIME // 2 + 1) ** 2 < field.EXACT / 2


@primes
@given(matrix=matrices)
def test_the_rank_is_that_of_the_rationals(prime, matrix):
    assert modular_rank(matrix, prime) == exact_rank(matrix)
    assert modular_rank(matrix.astype(float), prime) == exact_rank(matrix)


@primes
@given(matrix=matrices)
def test_the_null_space_is_one(prime, matrix):
    U, pivots = echelon(matrix.astype(np.float64), prime)
    vectors = null_space(U, pivots, prime)
    assert vectors.shape == (matrix.shape[1], matrix.shape[1] - len(pivots))
    assert not (matrix.astype(object) @ vectors.astype(np.int64).astype(object) % prime).any()
    assert modular_rank(vectors, prime) == vectors.shape[1]


@pytest.mark.parametrize(
    ("m", "n", "rank"),
    [(300, 200, 170), (140, 300, 129), (257, 257, 257), (130, 129, 1), (3, 400, 3)],
)
def test_blocks_of_columns_join(m, n, rank):
    """Sizes beyond one block; residues as large as they come, products in Python's integers."""
    prime = PRIMES[m % 2]
    generator = np.random.default_rng(m + n)
    left, right = (
        generator.integers(0, prime, size).astype(object) for size in ((m, rank), (rank, n))
    )
    matrix = left @ right % prime
    multiplied = product(*(reduce_(x.astype(float), prime) for x in (left, right)), prime)
    assert not ((multiplied.astype(np.int64) - matrix) % prime).any()
    assert np.abs(multiplied).max() <= prime // 2 + 1
    U, pivots = echelon(matrix.astype(np.float64), prime)
    assert len(pivots) == rank
    vectors = null_space(U, pivots, prime).astype(np.int64).astype(object)
    assert not (matrix @ vectors % prime).any()
    # The check can fail
    assert (matrix @ generator.integers(1, prime, (n, 1)).astype(object) % prime).any()


def test_a_multiple_of_one_prime_is_zero_modulo_it_only():
    """The lower bound is a lower bound: this is the accident that it allows."""
    assert [modular_rank(np.array([[PRIME]]), prime) for prime in PRIMES] == [0, 1]
    assert exact_rank(np.array([[PRIME]])) == 1


@primes
@given(values=hnp.arrays(np.float64, 9, elements=st.integers(-(2**52), 2**52).map(float)))
def test_residues_are_nearest_zero(prime, values):
    found = reduce_(values.copy(), prime)
    assert np.abs(found).max() <= prime // 2 + 1
    assert [(int(a) - int(b)) % prime for a, b in zip(values, found, strict=True)] == [0] * 9


@primes
@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_float_is_the_dyadic_number_it_is(prime, number):
    found, exact = int(field.residues(number, prime)), Fraction(number)
    assert (found * exact.denominator - exact.numerator) % prime == 0


@pytest.mark.parametrize(
    ("number", "exact"),
    [
        (True, 1),
        (np.bool_(True), 1),
        (-3, -3),
        (np.int8(-3), -3),
        (np.uint64(2**64 - 1), 2**64 - 1),
        (2**200, 2**200),
        (np.float16(0.25), Fraction(1, 4)),
        (np.float32(0.1), Fraction(float(np.float32(0.1)))),
        (Fraction(-2, 7), Fraction(-2, 7)),
        (decimal.Decimal("0.1"), Fraction(1, 10)),
        (sympy.Rational(1, 3), Fraction(1, 3)),
        (sympy.Integer(5), 5),
    ],
)
def test_constants_of_any_kind(number, exact):
    for array in (number, np.array([number])):  # alone, and in an array
        found = field.residues(array, PRIME)
        assert found.dtype == np.float64
        assert found.shape == np.shape(array)
        assert np.abs(found) <= PRIME // 2 + 1
        assert (int(found.item()) * exact.denominator - exact.numerator) % PRIME == 0


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (math.nan, "an entry is not finite"),
        (sympy.sqrt(2), r"sqrt\(2\) has no residue modulo 8388593"),
        (Fraction(1, PRIME), r"Fraction\(1, 8388593\) has no residue modulo 8388593"),
        (1j, "numbers of type complex128 are not rational"),
        (None, "None has no residue"),
        ("1", "numbers of type <U1 are not rational"),
    ],
)
def test_what_has_no_residue(number, message):
    with pytest.raises(ValueError, match="^" + message):
        field.residues(number, PRIME)


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        ([[0.5]], r"an array of shape \(1, 1\) and type float64 is no matrix of whole numbers"),
        ([[2.0**53]], r"an array of shape \(1, 1\) and type float64"),
        ([[math.inf]], r"an array of shape \(1, 1\) and type float64"),
        ([[Fraction(1, 2)]], r"an array of shape \(1, 1\) and type object"),
        ([[None]], r"an array of shape \(1, 1\) and type object"),
        ([1, 2], r"an array of shape \(2,\) and type int64 is no matrix of whole numbers"),
    ],
)
def test_what_is_no_matrix_of_whole_numbers_is_refused(matrix, message):
    with pytest.raises(pk.PerakitError, match="^" + message):
        modular_rank(matrix)
