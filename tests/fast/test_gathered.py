"""PERA's products by one gather, beside loops over pairs: on whole numbers, so exactly."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from perakit import formulas
from perakit.fast import gathered
from perakit.fast.expanded import Expanded, Gathered

every_terms = pytest.mark.parametrize("terms", formulas.TERMS)
every_rank = pytest.mark.parametrize("rank", range(1, 21))
SIZES = [(7, 5), (1, 3), (3, 1), (1, 1), (11, 13), (0, 2), (2, 0), (0, 0)]
CPU, WIDE = torch.device("cpu"), torch.float64


def whole(shape, seed):
    """Whole numbers from -3 to 3, as float64: sums of their products are exact."""
    return torch.from_numpy(np.random.default_rng(seed).integers(-3, 4, shape)).double()


def expansion(m, n, rank, terms, seed):
    B, A = whole((m, rank), seed), whole((rank, n), seed + 1)
    index = gathered.index(CPU, WIDE, rank, terms)
    return B, A, index, gathered.features(B, A, index)


def by_pairs(rows, to_features, terms):
    """The gradient of Σ to_features∘features, each product's two factors left out in turn."""
    r, expected = len(rows), to_features[: len(rows)].clone()
    pairs = zip(*formulas.pairs(r, terms), strict=True)
    for (i, j), to_product in zip(pairs, to_features[r:], strict=True):
        expected[i] += to_product * rows[j]
        expected[j] += to_product * rows[i]
    return expected


def test_ranks_lie_on_both_sides_of_small():
    assert 1 < gathered.SMALL < 20


@every_terms
@every_rank
def test_the_features_are_the_rows_and_their_products(rank, terms):
    for m, n in SIZES:
        B, A, _, features = expansion(m, n, rank, terms, seed=m + rank)
        rows = torch.cat([B.T, A], 1)
        pairs = zip(*formulas.pairs(rank, terms), strict=True)
        expected = [*rows, *(rows[i] * rows[j] for i, j in pairs)]
        assert torch.equal(features, torch.stack(expected))


@every_terms
@every_rank
def test_the_gradients_are_those_of_the_product_rule(rank, terms):
    """Nothing that was given is written to: what is kept serves a second backward pass."""
    for m, n in SIZES:
        B, A, index, features = expansion(m, n, rank, terms, seed=m + rank)
        to_features = whole(features.shape, n + rank)
        given = (B, A, features, to_features, *index)
        before = [tensor.clone() for tensor in given]
        expected = by_pairs(torch.cat([B.T, A], 1), to_features, terms)
        for _ in range(2):
            to_B, to_A = gathered.gradients(features[:rank], to_features, m, terms, index)
            assert torch.equal(to_B, expected[:, :m].T)
            assert torch.equal(to_A, expected[:, m:])
        assert all(map(torch.equal, given, before))


@every_terms
@settings(max_examples=20)
@given(rank=st.integers(1, 20), seed=st.integers(0, 2**16))
def test_as_a_source_it_is_the_windows(terms, rank, seed):
    """The same ΔW of whole numbers, and the same gradients of Σ g∘ΔW."""
    B, A = whole((7, rank), seed), whole((rank, 5), seed + 1)
    h = whole((formulas.rank_bound(rank, terms) - rank,), seed + 2)
    g = whole((7, 5), seed + 3)
    found = []
    for source in (Expanded(2.0, terms), Gathered(2.0, terms)):
        factors = source.value(B, A, h)
        left, right, weight, _ = factors
        # Of Σ g∘ΔW, by B̂ᵀ, by Â and by the weight
        to_left, to_right = weight[:, None] * (right @ g.T), weight[:, None] * (left.T @ g)
        to_weight = ((left.T @ g) * right).sum(1)
        delta = (left * weight) @ right
        gradients = source.gradients((B, A, h), factors, to_left, to_right, to_weight)
        found.append((delta, *gradients))
    assert all(map(torch.equal, *found))


@every_terms
def test_in_float32_a_gradient_has_the_same_bits_every_time(terms):
    for rank in (5, gathered.SMALL, gathered.SMALL + 1):
        B, A = (torch.randn(shape, generator=_seeded(rank)) for shape in ((37, rank), (rank, 41)))
        index = gathered.index(CPU, torch.float32, rank, terms)
        features = gathered.features(B, A, index)
        to_features = torch.randn(features.shape, generator=_seeded(1))
        one, *others = (
            gathered.gradients(features[:rank], to_features, 37, terms, index) for _ in range(5)
        )
        assert all(torch.equal(a, b) for other in others for a, b in zip(one, other, strict=True))


def _seeded(seed):
    return torch.Generator().manual_seed(seed)


def test_the_index_is_built_once_for_each_rank_terms_dtype_and_device(monkeypatch):
    gathered._remembered.cache_clear()
    built, pairs = [], formulas.pairs
    monkeypatch.setattr(formulas, "pairs", lambda *of: built.append(of) or pairs(*of))
    asked = [*itertools.product((2, 3, 17), formulas.TERMS)]
    for _ in range(3):
        for rank, terms in asked:
            assert gathered.index(CPU, WIDE, rank, terms) is gathered.index(CPU, WIDE, rank, terms)
    assert built == asked
    assert gathered.index(CPU, torch.float32, 3, "full").ones.dtype == torch.float32
    assert gathered.index(torch.device("meta"), WIDE, 3, "full").pairs.is_meta


def test_an_index_that_was_made_under_a_mode_of_torch_is_not_found_by_others():
    """Nor is one that others made found there: fake tensors do not mix with real ones."""
    for rank in (3, 17):
        gathered._remembered.cache_clear()
        with FakeTensorMode() as mode:
            fake = gathered.index(CPU, WIDE, rank, "full")
            assert all(tensor.fake_mode is mode for tensor in fake)
        real = gathered.index(CPU, WIDE, rank, "full")
        assert {type(tensor) for tensor in real} == {torch.Tensor}
        with FakeTensorMode():
            assert gathered.index(CPU, WIDE, rank, "full").pairs is not real.pairs
