"""Ranks and spectra against NumPy, hand-made cases and rotations; the predicted share against
random factors and a training run.
"""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import perakit as pk
from perakit import formulas, strategies
from perakit.adapters import DeLoRA, DoRA, HiRA, LoHa, MoRA, Quadratic
from perakit.theory import (
    Formula,
    amplification,
    effective_rank,
    measured_rank,
    numerical_rank,
    order_share,
    predicted_share,
    spectrum,
    stable_rank,
    subspace_similarity,
)


def orthogonal(size, seed):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(size, size)))[0]


def with_values(values, m=7, n=5, seed=0):
    """An (m, n) matrix with these singular values."""
    middle = np.zeros((m, n))
    np.fill_diagonal(middle, values)
    return orthogonal(m, seed) @ middle @ orthogonal(n, seed + 1)


def test_numerical_rank_says_how_clear_it_is():
    clear = numerical_rank(with_values([3, 2, 1, 0, 0]))
    assert (clear.rank, clear.clear) == (3, True)
    assert clear.tolerance == pytest.approx(7 * 2.0**-52 * 3, rel=1e-6)
    assert "not clear" not in str(clear)
    doubtful = numerical_rank(with_values([1, 1e-1, 1e-2, 1e-3, 1e-4]), tolerance=5e-3)
    assert (doubtful.rank, doubtful.clear) == (3, False)
    assert doubtful.gap == pytest.approx(10, rel=1e-9)
    doubt = "not clear: look at the spectrum of the factors, or take exact_rank of whole numbers"
    assert str(doubtful) == f"rank 3 (singular values above 5.0e-03, gap 1.0e+01; {doubt})"
    zero = numerical_rank(np.zeros((3, 2)))
    assert (zero.rank, zero.gap) == (0, math.inf)


def test_the_tolerance_follows_the_precision_of_the_numbers():
    """A float32 product of rank 14 has singular values of rounding noise, far above float64's
    tolerance.
    """
    generator = torch.Generator().manual_seed(0)
    B, A = torch.randn(192, 14, generator=generator), torch.randn(14, 60, generator=generator)
    assert (numerical_rank(B @ A).rank, numerical_rank(B @ A).clear) == (14, True)
    assert numerical_rank((B @ A).numpy()).rank == 14
    assert numerical_rank((B, A)).rank == 14
    assert numerical_rank((B @ A).double()).rank == 60
    assert numerical_rank((B @ A).bfloat16()).tolerance > numerical_rank(B @ A).tolerance
    assert spectrum(B.requires_grad_()).shape == (14,)


@given(strategies.factors(integers=True))
def test_the_measured_rank_bounds_any_exact_rank(factors):
    B, A, h = factors
    (m, rank), n = B.shape, A.shape[1]
    if rank <= min(m, n):
        assert pk.theory.exact_rank(formulas.pera(B, A, h)) <= measured_rank(m, n, rank)


def test_measured_rank_of_any_family():
    W0 = np.outer([1.0, 2, 3, 4, 5, 6, 7], [1.0, 1, 2, 3, 5, 8])
    hira = Formula(lambda B, A: formulas.hira(W0, B, A), lambda m, n: {"B": (m, 3), "A": (3, n)})
    assert measured_rank(7, 6, hira) == 3
    assert measured_rank(40, 50, pk.PERA(4)) == 14 == measured_rank(40, 50, 4)
    assert measured_rank(40, 50, pk.PERA(4, alpha=1.3)) == 14
    assert measured_rank(40, 50, pk.LoRA(4)) == 4
    assert measured_rank(40, 50, 2, degree=4) == math.comb(6, 4) - 1


@given(strategies.shapes(), strategies.seeds())
def test_the_spectrum_of_factors_is_that_of_their_product(shape, seed):
    m, n, rank = shape
    generator = np.random.default_rng(seed)
    B, A = generator.normal(size=(m, rank)), generator.normal(size=(rank, n))
    values = spectrum((B, A))
    expected = np.linalg.svd(B @ A, compute_uv=False)
    assert values.size == min(m, n, rank)
    np.testing.assert_allclose(values, expected[: values.size], rtol=1e-9, atol=1e-12 * expected[0])


def test_stable_and_effective_rank():
    matrix = with_values([2, 1, 1, 0, 0])
    assert stable_rank(matrix) == pytest.approx(6 / 4)
    p = np.array([1 / 2, 1 / 4, 1 / 4])
    assert effective_rank(matrix) == pytest.approx(math.exp(-(p * np.log(p)).sum()))
    for measure in (stable_rank, effective_rank):
        assert measure(with_values([3, 3, 3, 3, 0])) == pytest.approx(4)
        assert measure(np.zeros((3, 4))) == 0.0
        assert measure((np.ones((3, 1)), np.ones((1, 5)))) == pytest.approx(1)
        assert measure(torch.eye(3)) == pytest.approx(3)


def test_subspace_similarity():
    Q = orthogonal(7, 3)
    X, Y = Q[:, :3] * [3, 2, 1], Q[:, [2, 3, 4]] * [3, 2, 1]
    assert subspace_similarity(X, X, 3, 3) == pytest.approx(1)
    assert subspace_similarity(X, Q[:, 3:], 2, 2) == pytest.approx(0, abs=1e-15)
    # One direction of three is shared
    assert subspace_similarity(X, Y, 3, 3) == pytest.approx(1 / 3)
    assert subspace_similarity(X, Y, 3, 1) == pytest.approx(1)  # and it is Y's first
    assert subspace_similarity(X, Y, 2, 3) == pytest.approx(0, abs=1e-15)


def test_amplification():
    """W0 = diag(5, 1, 2), ΔW = 3 e₂e₂ᵀ: the update is 3 times what W0 has in its direction."""
    W0 = np.diag([5.0, 1.0, 2.0])
    delta = np.zeros((3, 3))
    delta[1, 1] = 3
    assert amplification(delta, W0, 1) == pytest.approx(3)
    assert amplification(delta, np.diag([5.0, 0.0, 2.0]), 1) == math.inf
    U, V = orthogonal(3, 1), orthogonal(3, 2)
    assert amplification(U @ delta @ V, U @ W0 @ V, 1) == pytest.approx(3)


# --- the predicted share --------------------------------------------------------------------------


@pytest.mark.parametrize("terms", formulas.TERMS)
def test_the_law_behind_the_prediction(terms):
    """Independent entries of the assumed sizes, B's and h's all of one size (κ_B = 1): root mean
    square of many draws.
    """
    generator, n, rank, lr, steps = np.random.default_rng(0), 200, 6, 1e-2, 26
    squares = []
    for _ in range(200):
        A = generator.uniform(-1, 1, (rank, n)) / math.sqrt(n)
        B = lr * math.sqrt(steps) * generator.choice((-1, 1), (100, rank))
        h = (
            lr
            * math.sqrt(steps - 1)
            * generator.choice((-1, 1), formulas.rank_bound(rank, terms) - rank)
        )
        squares.append(float(order_share((B, A, h), terms)) ** 2)
    assert predicted_share(n, rank, lr, steps, terms=terms).low == pytest.approx(
        math.sqrt(np.mean(squares)), rel=0.05
    )


def test_the_upper_end_assumes_gaussian_entries_that_drift():
    generator, n, rank, lr, steps = np.random.default_rng(1), 400, 6, 1e-3, 50
    A, B, h = (
        generator.uniform(-1, 1, (rank, n)) / math.sqrt(n),
        generator.normal(size=(2000, rank)),
        generator.choice((-1, 1), 21),
    )
    share = float(order_share((lr * steps * B, A, lr * (steps - 1) * h)))
    assert predicted_share(n, rank, lr, steps).high == pytest.approx(share, rel=0.1)


@given(st.integers(1, 4096), st.integers(1, 64), st.integers(2, 10**5))
def test_the_prediction_scales_as_it_says(n, rank, steps):
    base = predicted_share(n, rank, 1e-3, steps)
    assert 0 < base.low <= base.high
    for other, factor in (
        (predicted_share(4 * n, rank, 1e-3, steps), 1 / 2),
        (predicted_share(n, rank, 2e-3, steps), 4),
        (predicted_share(n, rank, 1e-3, steps, 8), 8),
    ):
        assert other.low == pytest.approx(factor * base.low)
        assert other.high == pytest.approx(factor * base.high)


def test_nothing_is_predicted_before_h_can_move():
    for steps in (0, 1):
        assert predicted_share(64, 4, 1e-3, steps) == pk.theory.rank.PredictedShare(steps, 0.0, 0.0)
    assert (
        str(predicted_share(64, 4, 1e-3, 100))
        == "order share after 100 steps: predicted 1.30e-05 ... 1.88e-03"
    )


def test_a_training_run_falls_into_the_band():
    """A linear layer learns another by Adam; the share is read along the way."""
    torch.manual_seed(0)
    n, rank, lr = 96, 4, 3e-3
    model = torch.nn.Sequential(torch.nn.Linear(n, 80))
    pk.attach(model, pk.PERA(rank), "all-linear")
    teacher = torch.randn(80, n) / math.sqrt(n)
    optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr)
    for step in range(1, 201):
        x = torch.randn(64, n)
        (model(x) - x @ teacher.T).square().mean().backward()
        optimiser.step()
        optimiser.zero_grad()
        predicted, share = predicted_share(n, rank, lr, step), float(order_share(model))
        if step == 1:
            assert share == 0 == predicted.high
        if step in (20, 50, 200):
            assert predicted.low < share < predicted.high, (step, share, predicted)


@pytest.mark.parametrize(
    "cls", [DoRA, HiRA, MoRA, DeLoRA, LoHa, Quadratic], ids=lambda cls: cls.name
)
def test_a_method_whose_update_does_not_begin_with_b_a_has_no_share(cls):
    """Its first r features are no LoRA of the same factors, so a ratio of parts would be a number
    without a meaning.
    """
    model = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Linear(7, 3))
    pk.attach(model, pk.PERA(rank=2), ["0"])
    pk.attach(model, cls(rank=2), ["1"])
    with pytest.raises(
        pk.PerakitError,
        match=(
            rf"^layer '1' carries {cls.__name__}\(rank=2.*no linear and high-order part to compare$"
        ),
    ):
        order_share(model)


@pytest.mark.parametrize("cls", [DoRA, HiRA, MoRA, DeLoRA, LoHa], ids=lambda cls: cls.name)
@pytest.mark.parametrize(("m", "n", "rank"), [(11, 7, 1), (7, 13, 2), (5, 5, 3)])
def test_the_generic_rank_is_the_bound_of_each_method(cls, m, n, rank):
    assert measured_rank(m, n, cls(rank)) == cls(rank).rank_bound(m, n)


# --- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: numerical_rank([[1.0, math.nan]]),
            r"the matrix\[0, 1\] is nan: every entry must be finite",
        ),
        (
            lambda: numerical_rank(np.ones(3)),
            r"the matrix has shape \(3,\): pass a non-empty matrix \(m, n\)",
        ),
        (
            lambda: numerical_rank(np.ones((0, 3))),
            r"the matrix has shape \(0, 3\): pass a non-empty matrix",
        ),
        (lambda: numerical_rank([["a"]]), r"the matrix is no matrix of real numbers"),
        (
            lambda: numerical_rank(np.eye(2), tolerance=-1),
            r"tolerance=-1 must be a finite number >= 0",
        ),
        (
            lambda: numerical_rank(np.eye(2), tolerance="x"),
            r"tolerance='x' must be a finite number >= 0",
        ),
        (
            lambda: predicted_share(64, 4, "x", 10),
            r"lr='x' and feature_scale=1\.0 must be finite numbers > 0",
        ),
        (
            lambda: spectrum((np.ones((3, 2)), np.ones((3, 4)))),
            r"B_hat \(3, 2\) and A_hat \(3, 4\) do not match",
        ),
        (
            lambda: subspace_similarity(np.eye(3), np.eye(4), 1, 1),
            r"X \(3, 3\) and Y \(4, 4\) must have as many rows",
        ),
        (lambda: subspace_similarity(np.eye(3), np.eye(3), 4, 1), r"i=4 must be an integer <= 3"),
        (lambda: subspace_similarity(np.eye(3), np.eye(3), 1, 0), r"j=0 must be an integer >= 1"),
        (
            lambda: subspace_similarity(np.zeros((3, 3)), np.eye(3), 1, 1),
            r"i=1 asks for singular directions that rounding chose: .* has 0",
        ),
        (
            lambda: subspace_similarity(np.eye(3), np.ones((3, 3)), 1, 2),
            r"j=2 asks for singular directions that rounding chose: .* has 1",
        ),
        (
            lambda: order_share((np.ones((2, 1)), np.ones((1, 2)), np.array([math.nan]))),
            r"h has entries that are not finite",
        ),
        (lambda: spectrum(np.eye(2) * 1j), r"complex numbers were given: pass real ones"),
        (
            lambda: amplification(np.eye(3), np.eye(4), 1),
            r"delta \(3, 3\) and W0 \(4, 4\) must have one shape",
        ),
        (
            lambda: amplification(np.ones((3, 4)), np.ones((4, 3)), 1),
            r"delta .* must have one shape: transpose a Conv1D's weight",
        ),
        (lambda: amplification(np.eye(3), np.eye(3), 4), r"rank=4 must be an integer <= 3"),
        (
            lambda: predicted_share(64, 4, 0.0, 10),
            r"lr=0\.0 and feature_scale=1\.0 must be finite numbers > 0",
        ),
        (lambda: predicted_share(64, 4, 1e-3, -1), r"steps=-1 must be an integer >= 0"),
        (
            lambda: predicted_share(64, 4, 1e-3, 5, terms="none"),
            r"terms='none' is unknown: choose from 'full', 'square', 'cross'",
        ),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(pk.PerakitError, match="^" + message):
        call()
