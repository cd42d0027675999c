"""How much of an update is high-order: closed cases, and the model against its own factors."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given

import perakit as pk
from perakit import strategies, testing
from perakit.theory import order_share


def model_of(method, m=5, n=3, seed=0):
    return testing.adapted(method, strategies.make_layer("Linear", m, n, dtype=torch.float64), seed)


def two_layers(method):
    model = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Linear(5, 2)).double()
    pk.attach(model, method, ["0", "1"])
    return strategies.move(model, seed=1)


def arrays(adapter):
    return tuple(getattr(adapter, name).detach().numpy() for name in ("B", "A", "h"))


@given(strategies.factors())
def test_no_coefficient_no_share(factors):
    B, A, h = factors
    assert float(order_share((B, A, 0 * h))) == 0.0


@given(strategies.factors())
def test_no_update_no_share(factors):
    """B = 0 makes both parts zero: 0, not 0/0."""
    B, A, h = factors
    assert float(order_share((0 * B, A, h))) == 0.0


def test_hand_computed():
    """b = (1, 2), a = (3, 1, 1), h = 1/2: the linear part has norm √5 √11, the square part 1/2 √17
    √83.
    """
    b, a = np.array([[1.0], [2.0]]), np.array([[3.0, 1.0, 1.0]])
    share = order_share((b, a, np.array([0.5])))
    assert share.overall == pytest.approx(0.5 * math.sqrt(17 * 83) / math.sqrt(5 * 11), rel=1e-14)
    assert share.layers == {"factors": share.overall}


def test_ones_of_any_rank():
    """All ones and h = 1: BA = r, the polynomial part = r(r+1)/2, so the share is (r+1)/2."""
    for rank in (1, 2, 5):
        share = order_share(
            (np.ones((3, rank)), np.ones((rank, 2)), np.ones(rank * (rank + 1) // 2))
        )
        assert float(share) == pytest.approx((rank + 1) / 2, rel=1e-14)


def test_a_linear_part_that_cancels_leaves_an_infinite_share():
    share = order_share(
        (np.array([[1.0, -1.0]]), np.array([[1.0], [1.0]]), np.array([1.0, 0.0, 1.0]))
    )
    assert float(share) == math.inf


def test_terms_and_degree_choose_the_products():
    """Rank 2, all ones: square has 2 products, cross 1, degree 3 has 3 + 4, beside a linear part of
    2.
    """
    B, A = np.ones((3, 2)), np.ones((2, 5))
    assert float(order_share((B, A, np.ones(2)), terms="square")) == pytest.approx(1.0)
    assert float(order_share((B, A, np.ones(1)), terms="cross")) == pytest.approx(0.5)
    assert float(order_share((B, A, np.ones(7)), degree=3)) == pytest.approx(3.5)


@given(strategies.methods("pera", max_rank=3), strategies.seeds())
def test_a_model_has_the_share_of_its_factors(method, seed):
    """Alpha falls out of the ratio, the feature scale does not: it belongs to h."""
    model = model_of(method, seed=seed)
    B, A, h = arrays(pk.adapters(model)["0"])
    expected = order_share((B, A, method.feature_scale * h), method.terms, method.degree)
    found = order_share(model)
    assert list(found.layers) == ["0"]
    assert float(found) == pytest.approx(float(expected), rel=1e-9, abs=1e-12)
    linear = pk.formulas.lora(B, A)
    high = testing.hadamard_pera(method, {"B": B, "A": A, "h": h}, None) / method.scale - linear
    assert float(found) == pytest.approx(
        np.linalg.norm(high) / np.linalg.norm(linear), rel=1e-9, abs=1e-12
    )


def test_feature_scale_multiplies_the_share():
    one, eight = (
        float(order_share(model_of(pk.PERA(rank=2, feature_scale=s)))) for s in (1.0, 8.0)
    )
    assert one > 0
    assert eight == pytest.approx(8 * one, rel=1e-12)


def test_lora_has_no_high_order_part():
    share = order_share(two_layers(pk.LoRA(rank=2)))
    assert share.layers == {"0": 0.0, "1": 0.0}
    assert share.overall == 0.0


def test_an_untrained_pera_has_none_either():
    model = torch.nn.Sequential(torch.nn.Linear(3, 5))
    pk.attach(model, pk.PERA(rank=2), "all-linear")
    assert float(order_share(model)) == 0.0


def test_overall_takes_all_layers_as_one_vector():
    model = two_layers(pk.PERA(rank=2))
    linear, high = 0.0, 0.0
    for adapter in pk.adapters(model).values():
        B, A, h = arrays(adapter)
        linear += np.square(B @ A).sum()
        high += np.square(pk.formulas.pera(B, A, h) - B @ A).sum()
    share = order_share(model)
    assert share.overall == pytest.approx(math.sqrt(high / linear), rel=1e-12)
    assert min(share.layers.values()) <= share.overall <= max(share.layers.values())
    assert str(share).splitlines()[-1] == f"overall: {share.overall:.4%}"
    assert [line.split(":")[0] for line in str(share).splitlines()] == ["0", "1", "overall"]


def test_merged_or_disabled_the_share_is_the_same():
    model = two_layers(pk.PERA(rank=2))
    before = order_share(model)
    pk.merge(model)
    with pk.disabled(model):
        assert order_share(model) == before


def test_a_model_without_adapters_is_refused():
    with pytest.raises(
        pk.PerakitError,
        match=(
            r"^the model has no adapter: pk\.attach\(model, pk\.PERA\(rank=8\), targets\) or"
            r" pk\.load\(model, folder\) first$"
        ),
    ):
        order_share(torch.nn.Sequential(torch.nn.Linear(3, 5)))


def test_wrong_factors_are_refused():
    with pytest.raises(pk.PerakitError, match=r"h has shape \(1,\)"):
        order_share((np.ones((5, 2)), np.ones((2, 3)), np.ones(1)))


class Multiplied(pk.Adapter):
    """ΔW = W0 ∘ (B A)."""

    def reset(self, W0):
        torch.nn.init.normal_(self.A)

    def delta(self, W0):
        return W0 * (self.B @ self.A)


def test_an_update_that_is_no_sum_of_orders_is_refused(monkeypatch):
    monkeypatch.setattr(pk.Method, "registry", dict(pk.Method.registry))

    @dataclass(frozen=True)
    class Multiply(pk.Method):
        name = "multiply-for-order-share"
        adapter = Multiplied

    with pytest.raises(
        pk.PerakitError,
        match=(
            r"^layer '0' carries .*Multiply\(rank=2.*its update has no linear and high-order part"
            r" to compare$"
        ),
    ):
        order_share(model_of(Multiply(rank=2)))


def test_two_factors_are_not_enough():
    with pytest.raises(pk.PerakitError, match=r"2 factors given: pass \(B, A, h\)"):
        pk.theory.order_share((np.ones((2, 1)), np.ones((1, 3))))
