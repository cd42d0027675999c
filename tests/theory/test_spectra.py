"""Ranks and spectra against NumPy, hand-made cases and rotations; the predicted share against
random factors and a training run.
"""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

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
from perakit.theory.rank import tail


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
    assert subspace_similarity(X, Q[:, 3:], 2, 4) == pytest.approx(0, abs=1e-15)
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


# --- numbers of any size --------------------------------------------------------------------------

whole = hnp.arrays(
    np.float64,
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=5),
    elements=st.integers(-3, 3).map(float),
)
exponents = st.integers(-1072, 1021)


def in_float64(values, exponent):
    """values · 2^exponent, or None where that is above 1.8e308."""
    with np.errstate(over="ignore"):
        found = np.ldexp(values, exponent)
    return found if np.isfinite(found).all() else None


def has_spectrum(update, expected):
    if expected is None:
        with pytest.raises(
            pk.PerakitError, match=r" float64 ends at 2\^1024: divide by a power of"
        ):
            spectrum(update)
    else:
        np.testing.assert_array_equal(spectrum(update), expected)


@given(whole, exponents)
@example(np.ones((3, 3)), 1021)
@example(np.ones((3, 3)), -1072)
def test_a_power_of_two_changes_nothing_but_the_size(matrix, exponent):
    """Against exact elimination, and against the numbers as they were, to the last bit."""
    large = np.ldexp(matrix, exponent)
    rank, before = numerical_rank(large), numerical_rank(matrix)
    assert rank.rank == pk.theory.exact_rank(matrix)
    assert (rank.clear, rank.gap) == (before.clear, before.gap)
    assert rank.tolerance == np.ldexp(before.tolerance, exponent)
    has_spectrum(large, in_float64(spectrum(matrix), exponent))
    for measure in (stable_rank, effective_rank):
        assert measure(large) == measure(matrix)


@given(
    strategies.shapes(),
    strategies.seeds(),
    st.lists(st.integers(-250, 250), min_size=6, max_size=6),
    st.integers(-1300, 1300),
)
def test_factors_of_any_size_are_those_of_their_product(shape, seed, offsets, exponent):
    """Column k of B is multiplied by 2^p_k and row k of A by 2^(e - p_k): e is all that is left."""
    m, n, rank = shape
    generator = np.random.default_rng(seed)
    B, A = generator.normal(size=(m, rank)), generator.normal(size=(rank, n))
    p = exponent // 2 + np.resize(offsets, rank)
    q = exponent - p
    B_hat, A_hat = np.ldexp(B, p), np.ldexp(A, q[:, None])
    large, before = numerical_rank((B_hat, A_hat)), numerical_rank((B, A))
    assert (large.rank, large.gap) == (before.rank, before.gap)
    has_spectrum((B_hat, A_hat), in_float64(spectrum((B, A)), exponent))
    for measure in (stable_rank, effective_rank):
        assert measure((B_hat, A_hat)) == measure((B, A))


@given(st.lists(st.tuples(exponents, exponents), min_size=1, max_size=5))
def test_terms_of_different_size_add_up(sizes):
    """Diagonal factors: the singular values are 2^(p + q), by hand."""
    p, q = (np.array(side) for side in zip(*sizes, strict=True))
    factors = np.diag(np.ldexp(1.0, p)), np.diag(np.ldexp(1.0, q))
    values = sorted((p + q).tolist(), reverse=True)
    relative = [math.ldexp(1.0, max(e - values[0], -1100)) for e in values]
    size = p.size
    assert numerical_rank(factors).rank == sum(share > size * 2.0**-52 for share in relative)
    assert stable_rank(factors) == pytest.approx(sum(share**2 for share in relative))
    if values[0] - values[-1] < 1000:
        has_spectrum(
            factors,
            None if values[0] >= 1024 else np.array([math.ldexp(1.0, e) for e in values]),
        )


def test_factors_whose_product_no_float_holds():
    B, A = np.diag([1e200, 1e199]), np.eye(2)
    for power, bound, text in (
        (1e200, math.inf, "what float64 holds"),
        (1e-200, 1e200, "1.0e+200"),
    ):
        found = numerical_rank((B, power * A), None if bound == math.inf else bound)
        assert found.rank == (2 if power > 1 else 0)
        assert found.tolerance == bound
        assert str(found).startswith(f"rank {found.rank} (singular values above {text}, gap ")
    tiny = 1e-200 * A, 1e-200 * A
    assert numerical_rank(tiny).rank == 2
    assert numerical_rank(tiny, tolerance=1e-300).rank == 0
    assert stable_rank(tiny) == 2.0
    assert not spectrum(tiny).any()
    assert numerical_rank((B, 1e200 * A), tolerance=1e300).rank == 2
    assert numerical_rank((np.array([[1e300, 0]]), np.array([[0.0], [1e300]]))).rank == 0


def test_what_is_zero_has_no_size_and_what_is_negative_has():
    """A term that vanishes does not push the others out of sight, however large its other half."""
    large_and_small = np.array([[2.0**1000], [2.0**-300]])
    for b in (1.0, 2.0**-300):
        assert spectrum((np.array([[0.0, b]]), large_and_small)) == [b * 2.0**-300]
    negative = np.array([[-(2.0**700)], [2.0**-700]])
    assert stable_rank((negative, np.array([[2.0**700, 1.0]]))) == 1.0


def test_the_tolerance_knows_a_matrix_of_rows_and_a_precision_finer_than_its_own():
    """A tuple of rows is no pair of factors; what is finer than float64 is read as float64."""
    for rows in (((1.0, 2.0, 4.0), (2.0, 3.0, 5.0)), ((1.0, 2.0), (2.0, 3.0), (4.0, 5.0))):
        assert numerical_rank(rows) == numerical_rank(np.array(rows))
    assert numerical_rank(np.eye(2, dtype=np.longdouble)) == numerical_rank(np.eye(2))


@given(st.integers(-1060, 1010), st.integers(0, 4))
def test_a_tail_of_any_size(exponent, rank):
    values = np.array([8.0, 4.0, 4.0, 1.0])
    fro, spec = (np.ldexp(x, exponent) for x in tail(values, rank))
    assert tail(np.ldexp(values, exponent), rank) == (fro, spec)
    assert tail(values, 1)[0] == pytest.approx(math.sqrt(33), rel=1e-15)


def test_a_tail_that_no_float_holds_is_refused():
    with pytest.raises(pk.PerakitError, match=r"^the Frobenius distance is .* ends at 2\^1024"):
        tail(np.array([1.7e308, 1.7e308]), 0)


@given(exponents, exponents)
def test_amplification_is_a_quotient_of_sizes(a, b):
    delta, W0 = np.diag([4.0, 2.0, 1.0]), np.diag([1.0, 3.0, 2.0])
    expected = math.sqrt(21) / math.sqrt(10)
    with np.errstate(over="ignore"):
        expected = float(np.ldexp(expected, a - b))
    assert amplification(np.ldexp(delta, a), np.ldexp(W0, b), 2) == pytest.approx(
        expected, rel=1e-12, abs=5e-324
    )
    assert subspace_similarity(np.ldexp(delta, a), np.ldexp(W0, b), 2, 1) == pytest.approx(1)


@given(st.integers(-950, 1000), strategies.seeds())
def test_directions_that_are_tied_at_the_cut_do_not_exist(exponent, seed):
    tied = np.ldexp(with_values([4, 2, 2, 1, 0], seed=seed), exponent)
    other = with_values([5, 4, 3, 2, 1], seed=seed + 2)
    for call, name in (
        (lambda k: subspace_similarity(tied, other, k, 1), "i"),
        (lambda k: subspace_similarity(other, tied, 1, k), "j"),
        (lambda k: amplification(tied, other, k), "rank"),
    ):
        for k in (1, 3, 4):
            assert math.isfinite(call(k))
        with pytest.raises(
            pk.PerakitError,
            match=rf"^{name}=2 cuts .* equal to rounding \(σ_2 = .*, σ_3 = .*\): .*;"
            rf" choose {name}=1 or {name}=3$",
        ):
            call(2)


def test_what_counts_as_tied_is_the_precision_of_the_numbers():
    near, other = np.diag([1 + 2.0**-23, 1, 0.5]), np.diag([3.0, 2.0, 1.0])
    assert subspace_similarity(near, other, 1, 1) == pytest.approx(1)
    with pytest.raises(pk.PerakitError, match=r"^i=1 cuts .*; choose i=2$"):
        subspace_similarity(torch.tensor(near).float(), other, 1, 1)
    with pytest.raises(
        pk.PerakitError, match=r"^rank=1 asks for .* rounding chose: .* has 0 above"
    ):
        amplification(np.zeros((3, 3)), np.eye(3), 1)


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
        == "order share after 100 steps: forecast 1.30e-05 ... 1.88e-03, no bound"
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
    ("target", "steps", "side"), [("few entries", 50, "above"), ("rank 2", 200, "below")]
)
def test_training_leaves_the_band_on_both_sides(target, steps, side):
    """The forecast is no bound, as its docstring says: two of the targets on the page."""
    torch.manual_seed(0)
    m, n, rank, lr = 80, 96, 4, 2e-2
    if target == "rank 2":
        E = torch.randn(m, 2).double() @ torch.randn(2, n).double()
    else:
        E = torch.randn(m, n).double() * (torch.rand(m, n) < 0.02)
    E *= m**0.5 / E.norm()
    model = torch.nn.Sequential(torch.nn.Linear(n, m, bias=False)).double()
    pk.attach(model, pk.PERA(rank), "all-linear")
    W = model[0].weight.detach() + E
    optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr)
    for _ in range(steps):
        x = torch.randn(64, n).double()
        optimiser.zero_grad()
        (model(x) - x @ W.T).square().mean().backward()
        optimiser.step()
    band, share = predicted_share(n, rank, lr, steps), float(order_share(model))
    assert share > 1.5 * band.high if side == "above" else share < band.low / 3


def test_the_docstring_says_what_the_page_printed():
    words = "of 15 medians 4 above, by up to 2.5 times; 2 below, down to 1/160"
    assert words in " ".join(predicted_share.__doc__.split())
    assert words in (Path(__file__).parents[2] / "docs/theory.md").read_text(encoding="utf-8")


def test_a_forecast_of_extreme_sizes():
    ordinary = predicted_share(64, 4, 1e-3, 100)
    small = predicted_share(64, 4, 2.0**-600, 100, 2.0**600)
    assert small.high == pytest.approx(math.ldexp(ordinary.high / 1e-6, -600))
    assert predicted_share(np.int32(64), np.int8(4), np.float32(2.0**-10), np.int32(2**31 - 1)) == (
        predicted_share(64, 4, 2.0**-10, 2**31 - 1)
    )
    assert predicted_share(64, 100, 1e-3, 9) == predicted_share(64, np.int8(100), 1e-3, 9)


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

SIZES = {"n": 64, "rank": 4, "lr": 1e-3, "steps": 10}


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
        *(
            (
                lambda tolerance=tolerance: numerical_rank(np.eye(2), tolerance=tolerance),
                r"tolerance=.* must be a finite number >= 0",
            )
            for tolerance in (True, np.True_, 10**400, math.inf, 1j, np.complex128(1), "1")
        ),
        (lambda: predicted_share(64, 4, True, 10), r"lr=True must be a finite number > 0"),
        (
            lambda: predicted_share(64, 4, 1e-3, 10, feature_scale=True),
            r"feature_scale=True must be a finite number > 0",
        ),
        (lambda: predicted_share(64, True, 1e-3, 10), r"rank=True must be an integer >= 1"),
        (lambda: predicted_share(True, 4, 1e-3, 10), r"n=True must be an integer >= 1"),
        (lambda: predicted_share(64, 4, 1e-3, True), r"steps=True must be an integer >= 0"),
        *(
            (
                lambda numbers=numbers: predicted_share(**{**SIZES, **numbers}),
                r"n=.*, lr=.*: no float64 holds the forecast; choose smaller numbers",
            )
            for numbers in ({"lr": 1e200}, {"n": 10**700}, {"steps": 10**700})
        ),
        (
            lambda: subspace_similarity(np.eye(3), np.eye(3), True, 1),
            r"i=True must be an integer >= 1",
        ),
        (
            lambda: amplification(np.eye(3), np.eye(3), 2),
            r"rank=2 cuts between singular values that are equal to rounding \(σ_2 = 1, σ_3 = 1\)",
        ),
        (
            lambda: spectrum(1e308 * np.ones((3, 3))),
            r"a singular value is 0\.83 · 2\^1025, and float64 ends at 2\^1024",
        ),
        (
            lambda: order_share((["a"], [[1]], [1])),
            r"B is no matrix of real numbers",
        ),
        (lambda: order_share(([[1]], [[1]], ["a"])), r"h is no array of real numbers"),
        (lambda: order_share((np.ones((0, 1)), [[1]], [1])), r"B has shape \(0, 1\)"),
        (
            lambda: predicted_share(64, 4, "x", 10),
            r"lr='x' must be a finite number > 0",
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
            lambda: subspace_similarity(np.eye(3), np.ones((3, 3)), 3, 2),
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
            r"lr=0\.0 must be a finite number > 0",
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
