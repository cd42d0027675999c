"""The spectra of a model's layers: against the SVD of an update that another rule made, and where
digits are at stake exactly.
"""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import perakit as pk
from perakit import strategies, testing
from perakit.adapters import Additive, DeLoRA, DoRA, HiRA, LoHa, MoRA, Quadratic
from perakit.models.adapted import adapted_layers
from perakit.models.layers import kind_of
from perakit.theory import (
    effective_rank,
    layer_spectra,
    numerical_rank,
    order_share,
    spectrum,
    stable_rank,
)

METHODS = {
    pk.LoRA(2, alpha=3): testing.hadamard_lora,
    pk.PERA(2): testing.hadamard_pera,
    pk.PERA(3, terms="cross", feature_scale=5.0): testing.hadamard_pera,
    pk.PERA(2, degree=3, alpha=7): testing.hadamard_pera,
    DoRA(2): testing.rows_dora,
    HiRA(2): testing.pattern_hira,
    MoRA(2): testing.entries_mora,
    DeLoRA(2): testing.outer_delora,
    LoHa(2): testing.hadamard_loha,
}


def by_another_rule(model, formula):
    """ΔW (m, n) of the only layer, in float64, by a rule that does not use `formulas`."""
    (layer,) = adapted_layers(model).values()
    parameters = {
        name: parameter.detach().double().numpy()
        for name, parameter in layer.adapter.named_parameters()
    }
    return formula(layer.adapter.method, parameters, layer.W0.detach().double().numpy())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("kind", ["Linear", "Conv1D", "NF4"])
@pytest.mark.parametrize("method", METHODS, ids=str)
def test_it_is_the_svd_of_the_update(method, kind, dtype):
    if kind == "NF4" and dtype == torch.float64:
        dtype = torch.bfloat16  # no 4-bit base is in float64, and this one's adapter is in float32
    model = testing.adapted(method, strategies.make_layer(kind, 13, 7, dtype=dtype), seed=3)
    (found,) = layer_spectra(model).layers.values()
    delta = by_another_rule(model, METHODS[method])
    expected = np.linalg.svd(delta, compute_uv=False)
    precision = torch.finfo(torch.promote_types(dtype, torch.float32)).eps
    np.testing.assert_allclose(
        found.values, expected[: found.values.size], rtol=0, atol=50 * precision * expected[0]
    )
    assert expected[found.values.size :].max(initial=0) <= 1e-12 * expected[0]
    assert (found.shape, found.bound) == ((13, 7), method.rank_bound(13, 7))
    assert found.rank.rank == np.linalg.matrix_rank(delta, tol=1e-10 * expected[0]) <= found.bound
    assert found.rank.tolerance == pytest.approx(13 * 2.0**-52 * expected[0], rel=1e-5)
    assert found.rank.clear
    assert found.stable_rank == pytest.approx(stable_rank(delta), rel=100 * precision)
    assert found.effective_rank == pytest.approx(effective_rank(delta), rel=100 * precision)
    assert isinstance(method, pk.PERA | pk.LoRA) == (found.share is not None)
    if found.share is not None:
        assert found.share == float(order_share(model))


@given(strategies.shapes(), strategies.seeds())
def test_factors_say_the_same_as_a_model(shape, seed):
    m, n, rank = shape
    model = testing.adapted(
        pk.PERA(rank), strategies.make_layer("Linear", m, n, dtype=torch.float64), seed
    )
    (found,) = layer_spectra(model).layers.values()
    B_hat, A_hat = pk.adapters(model)["0"].factors()
    np.testing.assert_array_equal(found.values, spectrum((B_hat, A_hat)))
    assert found.values.size == min(m, n, pk.PERA(rank).rank_bound(m, n))
    assert found.rank == numerical_rank((B_hat, A_hat), tolerance=found.rank.tolerance)


@pytest.mark.parametrize("size", [1e-3, 1e-6])
def test_products_far_below_the_adapters_precision_count(size):
    """ΔW in float32 would have lost them to rounding; the factors, which are in float32 too, have
    not.
    """
    model = testing.adapted(pk.PERA(2), strategies.make_layer("Linear", 13, 7), seed=3)
    adapter = pk.adapters(model)["0"]
    before = layer_spectra(model).layers["0"]
    with torch.no_grad():
        adapter.h *= size
    found = layer_spectra(model).layers["0"]
    assert (found.rank.rank, found.rank.clear) == (5, True)
    assert found.share == pytest.approx(size * before.share, rel=1e-6)
    with torch.no_grad():
        adapter.h.zero_()
    found = layer_spectra(model).layers["0"]
    assert (found.rank.rank, found.rank.clear, found.share) == (2, True, 0.0)


def test_an_update_that_has_factors_is_not_formed(monkeypatch):
    def refused(*arguments):
        raise AssertionError("ΔW was formed")

    model = testing.adapted(pk.PERA(2), strategies.make_layer("Linear", 13, 7), seed=3)
    monkeypatch.setattr(Additive, "delta", refused)
    assert layer_spectra(model).layers["0"].rank.rank == 5
    with pytest.raises(AssertionError, match="ΔW was formed"):
        pk.delta_weights(model)


@pytest.mark.parametrize("method", [*METHODS, pk.PERA(4)], ids=str)
def test_at_the_start_everything_is_zero(method):
    model = torch.nn.Sequential(strategies.make_layer("Linear", 5, 3))
    pk.attach(model, method, "all-linear")
    (found,) = layer_spectra(model).layers.values()
    assert (found.rank.rank, found.stable_rank, found.effective_rank) == (0, 0.0, 0.0)
    assert found.share in (0.0, None)
    assert not found.values.any()


def test_a_merged_or_disabled_model_is_read_as_well():
    model = testing.adapted(pk.PERA(2), strategies.make_layer("Conv1D", 5, 3), seed=1)
    before = layer_spectra(model).layers["0"].values
    pk.merge(model)
    with pk.disabled(model):
        np.testing.assert_array_equal(layer_spectra(model).layers["0"].values, before)


# --- digits ---------------------------------------------------------------------------------------


def norm_squared(B, A, terms):
    """‖Σ c (∏ b)(∏ a)ᵀ‖_F² over (c, columns), exactly; B (m, r), A (r, n): of Fractions."""
    total = Fraction(0)
    for row in B:
        for column in zip(*A, strict=True):
            total += (
                sum(c * math.prod(row[i] * column[i] for i in columns) for c, columns in terms) ** 2
            )
    return total


@given(
    st.integers(1, 6),
    st.integers(1, 6),
    st.integers(1, 3),
    st.sampled_from([1, Fraction(1, 10**6), Fraction(1, 10**12), Fraction(1, 10**30)]),
    strategies.seeds(),
)
def test_a_tiny_share_has_all_its_digits(m, n, rank, size, seed):
    """Against rationals. The share of a part 1e-12 (or 1e-30) of the whole is no difference of
    large numbers.
    """
    generator = np.random.default_rng(seed)
    B, A = (generator.integers(1, 10, shape).tolist() for shape in ((m, rank), (rank, n)))
    pairs = list(zip(*(index.tolist() for index in np.triu_indices(rank)), strict=True))
    h = [float(size * k) for k in generator.integers(1, 10, len(pairs)).tolist()]
    high = norm_squared(B, A, [(Fraction(c), pair) for c, pair in zip(h, pairs, strict=True)])
    linear = norm_squared(B, A, [(1, (i,)) for i in range(rank)])
    share = float(order_share((np.array(B, dtype=float), np.array(A, dtype=float), np.array(h))))
    assert share == pytest.approx(math.sqrt(high / linear), rel=1e-13, abs=0)
    if size < 1e-20:
        assert share < 1e-20


def root(square, bits=400):
    """√ of a Fraction as a float, correct where its float exists; inf above."""
    shift = max(0, bits - square.numerator.bit_length() + square.denominator.bit_length())
    whole = math.isqrt((square.numerator << 2 * shift) // square.denominator)
    try:
        return float(Fraction(whole, 1 << shift))
    except OverflowError:
        return math.inf


@given(
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(1, 2),
    st.integers(2, 3),
    strategies.seeds(),
    st.integers(0, 400),
)
def test_the_share_of_factors_of_any_size(m, n, rank, degree, seed, spread):
    """Against rationals: every column, row and coefficient has a size of its own, up to 2^±400, and
    products of 2^±2000 that no float holds.
    """
    generator = np.random.default_rng(seed)

    def drawn(*shape):
        return np.ldexp(
            generator.integers(1, 10, shape).astype(float),
            generator.integers(-spread, spread + 1, shape),
        )

    columns = [(i,) for i in range(rank)] + [
        tuple(k) for rows in pk.formulas.monomials(rank, "full", degree) for k in rows.T.tolist()
    ]
    B, A, h = drawn(m, rank), drawn(rank, n), drawn(len(columns) - rank)
    exact = [[[Fraction(x) for x in row] for row in side.tolist()] for side in (B, A)]
    linear = norm_squared(*exact, [(1, k) for k in columns[:rank]])
    coefficients = [Fraction(c) for c in h.tolist()]
    high = norm_squared(*exact, list(zip(coefficients, columns[rank:], strict=True)))
    share = float(order_share((B, A, h), degree=degree))
    assert share == pytest.approx(root(high / linear), rel=1e-12, abs=5e-324)


def test_shares_that_products_of_floats_do_not_reach():
    """b = a = 2^k: the linear part has the size 2^2k, and the square, 2^4k, is 2^2k times that."""
    ones = np.ones((2, 1)), np.ones((1, 3))
    for k, expected in ((332, 2.0**664), (700, math.inf), (-332, 2.0**-664), (-700, 0.0)):
        B, A = (np.ldexp(factor, k) for factor in ones)
        assert float(order_share((B, A, np.ones(1)))) == pytest.approx(expected, rel=1e-15)
    h = np.array([2.0**-1000])
    share = float(order_share((2.0**700 * ones[0], 2.0**-100 * ones[1], h)))
    assert share == pytest.approx(2.0**-400, rel=1e-15)
    B, A = np.array([[2.0**-700], [0.0]]), np.ones((1, 1))
    assert float(order_share((B, A, np.array([2.0**1000])))) == 2.0**300
    assert str(order_share((1e100 * ones[0], 1e100 * ones[1], np.ones(1)))).endswith(
        "overall: 1.00e+200"
    )


@pytest.mark.parametrize(("left", "right"), [(-700, -400), (300, -700), (400, 400), (0, 0)])
def test_a_model_of_any_size(left, right):
    """Layer "0" is moved by 2^left and 2^right, and "1" by nothing: ranks and shares follow."""
    model = torch.nn.Sequential(torch.nn.Linear(7, 13), torch.nn.Linear(13, 5)).double()
    pk.attach(model, pk.LoRA(3), "all-linear")
    before = layer_spectra(strategies.move(model)).layers["0"]
    adapter = pk.adapters(model)["0"]
    with torch.no_grad():
        adapter.B.copy_(torch.from_numpy(np.ldexp(adapter.B.numpy(), left)))
        adapter.A.copy_(torch.from_numpy(np.ldexp(adapter.A.numpy(), right)))
    found = layer_spectra(model).layers["0"]
    assert (found.rank.rank, found.rank.gap, found.share) == (3, before.rank.gap, 0.0)
    assert found.stable_rank == before.stable_rank
    assert found.effective_rank == before.effective_rank
    np.testing.assert_array_equal(found.values, np.ldexp(before.values, left + right))
    assert order_share(model).overall == 0.0


def test_all_layers_as_one_vector_whatever_their_sizes():
    """The largest layer is all of the share: its squares would not fit a float."""
    model = torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)).double()
    pk.attach(model, pk.PERA(1), "all-linear")
    for name, b, h in (("0", 2.0**400, 2.0**-300), ("1", 2.0**-400, 1.0)):
        adapter = pk.adapters(model)[name]
        with torch.no_grad():
            adapter.B.fill_(b)
            adapter.A.fill_(1.0)
            adapter.h.fill_(h)
    assert order_share(model).layers == {"0": 2.0**100, "1": 2.0**-400}
    assert order_share(model).overall == 2.0**100


def test_singular_values_that_no_float_holds_are_refused_by_the_layers_name():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2)).double()
    pk.attach(model, pk.LoRA(1), "all-linear")
    with torch.no_grad():
        pk.adapters(model)["0"].B.fill_(1e200)
        pk.adapters(model)["0"].A.fill_(1e200)
    with pytest.raises(
        pk.PerakitError, match=r"^a singular value of layer '0' is .*divide by a power of two"
    ):
        layer_spectra(model)
    with torch.no_grad():
        pk.adapters(model)["0"].A[0, 1] = math.inf
    with pytest.raises(pk.PerakitError, match=r"^A_hat of layer '0'\[0, 1\] is inf"):
        order_share(model)


def test_columns_of_very_different_length_keep_their_digits():
    """Powers of two, exact by hand: B A is the identity, and the first square term, 2^-50 in one
    entry, all of the rest.
    """
    B, A = np.diag([2.0**-40, 1.0]), np.diag([2.0**40, 1.0])
    assert float(order_share((B, A, np.array([2.0**-50, 0, 0])))) == pytest.approx(
        2.0**-50 / math.sqrt(2), rel=1e-15
    )


def test_small_singular_values_of_ill_conditioned_factors():
    """B = U diag(s) with orthonormal U and V: the singular values are s, down to rounding of the
    largest.
    """
    generator = np.random.default_rng(0)
    U, V = (np.linalg.qr(generator.normal(size=(size, 4)))[0] for size in (40, 30))
    s = np.array([1.0, 1e-4, 1e-8, 1e-12])
    found = spectrum((U * s, V.T))
    np.testing.assert_allclose(found, s, rtol=0, atol=1e-15)
    np.testing.assert_allclose(found, s, rtol=1e-3)


# --- the report and what is refused ---------------------------------------------------------------


def hand_made():
    """b = (3, 4)ᵀ, a = (1, 0), h = 0 on the first layer; HiRA with W0 = 1 on the second."""
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)).double()
    pk.attach(model, pk.PERA(1), ["0"])
    pk.attach(model, HiRA(1), ["1"])
    layers = adapted_layers(model)
    with torch.no_grad():
        layers["1"].base.weight.fill_(1.0)
        for layer in layers.values():
            layer.adapter.B.copy_(torch.tensor([[3.0], [4.0]]))
            layer.adapter.A.copy_(torch.tensor([[1.0, 0.0]]))
    return model


def test_the_report():
    spectra = layer_spectra(hand_made())
    assert str(spectra) == "\n".join(
        [
            "layer  shape  K  rank  stable rank  effective rank  σ₁  order share",
            "-----  -----  -  ----  -----------  --------------  --  -----------",
            "0      2 x 2  2     1         1.00            1.00   5      0.0000%",
            "1      2 x 2  2     1         1.00            1.00   5            -",
            "K: the largest rank that ΔW can have",
            "-: no part B A that the rest could be compared with",
        ]
    )
    assert "<td>0.0000%</td>" in spectra._repr_html_()


def test_a_rank_that_is_not_clear_is_marked():
    """Two singular values, of which the second is ten times the tolerance."""
    model = torch.nn.Sequential(torch.nn.Linear(2, 2))
    pk.attach(model, pk.LoRA(2), "all-linear")
    with torch.no_grad():
        pk.adapters(model)["0"].A.copy_(torch.diag(torch.tensor([1.0, 20 * 2.0**-52])))
        pk.adapters(model)["0"].B.copy_(torch.eye(2))
    row, *notes = str(layer_spectra(model)).splitlines()[2:]
    assert row.split()[4:6] == ["2", "2?"]
    assert (
        notes[1]
        == "?: the singular values fall through the tolerance without a gap, another tolerance"
        " gives another rank"
    )


def test_what_cannot_be_read_is_refused():
    with pytest.raises(pk.PerakitError, match=r"^the model has no adapter: pk\.attach"):
        layer_spectra(torch.nn.Linear(3, 5))
    with pytest.raises(
        pk.PerakitError, match=r"^the first argument is the model, a torch\.nn\.Module, not 7"
    ):
        layer_spectra(7)
    model = testing.adapted(pk.LoRA(2), strategies.make_layer("Linear", 5, 3))
    pk.attach(model, pk.PERA(2), "all-linear", name="other")
    pk.activate(model, "default", "other")
    with pytest.raises(
        pk.PerakitError, match=r"^active: default \+ other, .*name it, or pk\.activate one$"
    ):
        layer_spectra(model)
    pk.activate(model, "other")
    assert layer_spectra(model).layers["0"].bound == 3
    with torch.no_grad():
        pk.adapters(model)["0"].A[1, 2] = math.nan
    with pytest.raises(
        pk.PerakitError, match=r"^A_hat of layer '0'\[1, 2\] is nan: every entry must be finite$"
    ):
        layer_spectra(model)
    with pytest.raises(
        pk.PerakitError, match=r"^Quadratic's update is polynomial in the input, not a matrix"
    ):
        layer_spectra(testing.adapted(Quadratic(2), strategies.make_layer("Linear", 5, 3)))


def test_every_method_that_has_an_update_is_tried():
    tried = {type(method).name for method in METHODS}
    assert {
        name
        for name, cls in pk.Method.registry.items()
        if cls.mergeable and cls.__module__.startswith("perakit.")
    } == tried
    assert kind_of(strategies.make_layer("NF4", 5, 3)).name == "NF4"
