"""PERA's products as windows, beside loops over pairs: on whole numbers, so exactly."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from perakit import formulas
from perakit.fast import windows

every_terms = pytest.mark.parametrize("terms", formulas.TERMS)
ranks, sizes = st.integers(1, 9), st.sampled_from([(7, 5), (1, 3), (3, 1), (1, 1), (11, 13)])


def whole(shape, seed):
    """Whole numbers from -3 to 3, as float64: sums of their products are exact."""
    return torch.from_numpy(np.random.default_rng(seed).integers(-3, 4, shape)).double()


def pairs_of(rank, terms):
    """The pairs in the order of the features: what `circle` says of h, read from the pairs
    themselves.
    """
    i, j = formulas.pairs(rank, terms)
    return [(int(i[k]), int(j[k])) for k in windows.circle(rank, terms)]


def expansion(m, n, rank, terms, seed):
    B, A = whole((m, rank), seed), whole((rank, n), seed + 1)
    room, features = windows.features(B, A, terms)
    return B, A, room, features


@every_terms
@pytest.mark.parametrize("rank", range(1, 18))
def test_every_pair_is_on_the_circle_once(rank, terms):
    circle = windows.circle(rank, terms)
    assert circle.dtype == np.int64
    assert sorted(circle.tolist()) == list(range(formulas.rank_bound(rank, terms) - rank))


@pytest.mark.parametrize(
    ("rank", "terms", "count"),
    [(8, "full", 48), (9, "full", 54), (32, "full", 560), (16, "square", 32), (24, "cross", 304)],
)
def test_pairs_that_are_there_already_fill_a_tile_and_no_more(rank, terms, count):
    """K is 44, 54 (no pair is there twice), 560 = 35 x 16 (of 576 that are made), 32 and 300 (of
    312).
    """
    _, features = windows.features(torch.ones(1, rank), torch.ones(rank, 1), terms)
    assert windows.count(rank, terms) == len(features) == count


@every_terms
@settings(max_examples=40)
@given(size=sizes, rank=ranks, seed=st.integers(0, 2**16))
def test_the_features_are_the_rows_and_their_products(terms, size, rank, seed):
    B, A, _, features = expansion(*size, rank, terms, seed)
    rows, K = torch.cat([B.T, A], 1), formulas.rank_bound(rank, terms)
    expected = [*rows, *(rows[i] * rows[j] for i, j in pairs_of(rank, terms))]
    assert torch.equal(features[:K], torch.stack(expected))
    # Pairs half a circle apart
    again, twice = features[K:], rank // 2 if rank % 2 == 0 and terms != "square" else 0
    assert len(again) == windows.count(rank, terms) - K == min(twice, -K % 16)
    assert torch.equal(again, features[K - twice :][: len(again)])


@every_terms
@settings(max_examples=40)
@given(size=sizes, rank=ranks, seed=st.integers(0, 2**16))
def test_the_gradients_are_those_of_the_product_rule(terms, size, rank, seed):
    """Of Σ to_features∘features, each product's two factors left out in turn; nothing that was
    given is written to.
    """
    B, A, room, features = expansion(*size, rank, terms, seed)
    K = formulas.rank_bound(rank, terms)
    before, rows = (B.clone(), A.clone()), torch.cat([B.T, A], 1)
    to_features = whole(features.shape, seed + 2)
    features.copy_(to_features)
    room[2 * rank : 3 * rank] = torch.nan  # free, whatever is in them
    features[K:] = torch.nan  # there once more, and nothing depends on it
    to_B, to_A = windows.gradients(room, rank, size[0], terms)
    expected = to_features[:rank].clone()
    for (i, j), to_product in zip(pairs_of(rank, terms), to_features[rank:K], strict=True):
        expected[i] += to_product * rows[j]
        expected[j] += to_product * rows[i]
    assert torch.equal(to_B, expected[:, : size[0]].T)
    assert torch.equal(to_A, expected[:, size[0] :])
    assert all(map(torch.equal, (B, A), before))


def test_the_products_are_made_in_one_multiplication():
    """Of whole windows, which are seen and not copied: nothing else of their size is made."""
    B, A = torch.randn(5, 8), torch.randn(8, 3)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        windows.features(B, A, "full")
    counts = {event.key: event.count for event in profile.key_averages()}
    assert (counts["aten::mul"], counts.get("aten::index_select", 0)) == (1, 0)
