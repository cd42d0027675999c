"""PERA's expansion by hand, and the gradients through it, beside the formula and loops."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from perakit import formulas, strategies
from perakit.fast import rows

TERMS_AND_DEGREES = [(terms, degree) for terms in formulas.TERMS for degree in (2, 3, 4)]
every_expansion = pytest.mark.parametrize(("terms", "degree"), TERMS_AND_DEGREES)


def products(rank, terms, degree):
    """The multi-indices of PERA in order, by a filter on all tuples."""
    for d in range(2, degree + 1):
        for row in itertools.product(range(rank), repeat=d):
            ordered, same = all(a <= b for a, b in itertools.pairwise(row)), len(set(row)) == 1
            if ordered and (terms == "full" or same == (terms == "square")):
                yield row


def gradients_by_loops(B, A, h, to_B_hat, to_A_hat, terms, degree):
    """Of Σ to_B_hat∘B̂ + Σ to_A_hat∘Â: for each feature, and each of its factors, the product of
    the others.
    """
    rank = B.shape[1]
    to_B, to_A, to_h = (np.zeros(X.shape, dtype=object) for X in (B, A, h))
    for k, row in enumerate([(i,) for i in range(rank)] + list(products(rank, terms, degree))):
        for place, i in enumerate(row):
            others = row[:place] + row[place + 1 :]
            to_B[:, i] += to_B_hat[:, k] * math.prod(B[:, j] for j in others)
            to_A[i] += (
                to_A_hat[k] * math.prod(A[j] for j in others) * (1 if k < rank else h[k - rank])
            )
        if k >= rank:
            to_h[k - rank] = (to_A_hat[k] * math.prod(A[j] for j in row)).sum()
    return to_B, to_A, to_h


def with_gradients_of_the_factors(data, terms, degree):
    """B, A, h and gradients by B̂ and Â, whole numbers."""
    B, A, h = data.draw(strategies.factors(terms=terms, degree=degree, integers=True))
    K, generator = (
        formulas.rank_bound(B.shape[1], terms, degree),
        np.random.default_rng(data.draw(strategies.seeds())),
    )
    return (
        B,
        A,
        h,
        generator.integers(-3, 4, (B.shape[0], K)),
        generator.integers(-3, 4, (K, A.shape[1])),
    )


@every_expansion
@settings(max_examples=10)
@given(data=st.data())
def test_the_gradients_are_the_product_rule_exactly(terms, degree, data):
    """On whole numbers, with == and no tolerance, and as floats: sums of their products are exact.

    So they are on dyadic rationals, quarters and halves, of which float64 holds all that is made.
    """
    whole = with_gradients_of_the_factors(data, terms, degree)
    rationals = [X / q for X, q in zip(whole, (4, 2, 8, 4, 2), strict=True)]
    for arrays in (rationals, whole):
        expected = gradients_by_loops(*arrays, terms, degree)
        for kind in (torch.from_numpy, lambda X: torch.from_numpy(X).double()):
            found = rows.gradients(*map(kind, arrays), terms, degree)
            for one, right in zip(found, expected, strict=True):
                assert tuple(one.shape) == right.shape
                assert one.tolist() == right.tolist()


@every_expansion
@given(data=st.data())
def test_the_factors_have_the_bits_of_the_formula(terms, degree, data):
    """Products alone, in one order."""
    tensors = [torch.from_numpy(X) for X in data.draw(strategies.factors(None, terms, degree))]
    found = rows.factors(*tensors, terms, degree)
    for one, right in zip(found, formulas.expand(*tensors, terms, degree), strict=True):
        assert torch.equal(one, right)


def test_the_indices_of_a_layer_are_made_once(monkeypatch):
    """And are not found again by whoever records operations, nor the other way round."""
    made = []
    monkeypatch.setattr(
        formulas,
        "monomials",
        lambda *arguments, of=formulas.monomials: made.append(arguments) or of(*arguments),
    )
    B, A, h = torch.ones(5, 23), torch.ones(23, 3), torch.ones(23)
    rows._remembered.cache_clear()
    for _ in range(3):
        rows.factors(B, A, h, "square", 2)
    rows.gradients(B, A, h, torch.ones(5, 46), torch.ones(46, 3), "square", 2)
    assert made == [(23, "square", 2)]
    monkeypatch.setattr(rows, "recorded", lambda: True)
    rows.factors(B, A, h, "square", 2)
    rows.gradients(B, A, h, torch.ones(5, 46), torch.ones(46, 3), "square", 2)
    assert len(made) == 3
