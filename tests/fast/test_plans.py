"""The counted plans, against a counter that watches the matrix products; and `use_plan`."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

import perakit as pk
from perakit import fast, strategies, testing
from perakit.fast import plans, seam
from perakit.fast.plans import PLANS, Plan, choose, flop, use_plan, way
from perakit.fast.product import AdaptedProduct

REFERENCE = "reference"
sizes = st.tuples(st.integers(1, 40), *3 * [st.sampled_from((1, 2, 3, 5, 7, 11))])  # T, m, n, K


class Counter(TorchDispatchMode):
    """Multiply-adds × 2 of every matrix product, in place or not."""

    flop = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        if function.overloadpacket._qualified_op_name.rstrip("_") in ("aten::mm", "aten::addmm"):
            self.flop += 2 * out.numel() * args[-1].shape[0]
        assert "bmm" not in str(function), "a product that is not counted"
        return out


def multiplied(call):
    """FLOP of the matrix products that `call` makes."""
    with Counter() as counter:
        call()
    return counter.flop


def given_factors(m, n, K):
    """An adapter whose factors are its parameters, all ones."""
    adapter = pk.LoRA.adapter(pk.LoRA(rank=K), torch.ones(m, n)).train()
    for parameter in adapter.parameters():
        torch.nn.init.ones_(parameter)
    return adapter


def multiplies_nothing(x, W0, bias):
    """A base of its own kind, to whose weight ΔW is not added."""
    return x.new_zeros(len(x), len(W0))


def step(plan, T, m, n, K, fused):
    """FLOP of one forward and backward pass, without the base's own."""
    x, linear = torch.ones(T, n, requires_grad=True), F.linear if fused else multiplies_nothing

    def run():
        with use_plan(plan):
            y = fast.forward(x, torch.ones(m, n), None, linear, [given_factors(m, n, K)])
        y.sum().backward()

    return multiplied(run) - (4 * m * n * T if fused else 0)


@pytest.mark.parametrize("plan", PLANS, ids=str)
@pytest.mark.parametrize("fused", [True, False], ids=["W0 + ΔW", "ΔW alone"])
@given(sizes=sizes)
def test_flop_is_what_a_step_multiplies(plan, fused, sizes):
    assert flop(plan, *sizes, fused) == step(plan, *sizes, fused)


@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_flop_is_what_a_step_of_pera_multiplies(plan):
    """The expansion and its gradients are no matrix products on a CPU."""
    T, m, n, rank, K = 19, 7, 11, 3, 9
    model = testing.adapted(pk.PERA(rank=rank), strategies.make_layer("Linear", m, n)).train()
    x = torch.ones(T, n, requires_grad=True)
    with use_plan(plan):
        assert multiplied(lambda: model(x).sum().backward()) == 4 * m * n * T + flop(
            plan, T, m, n, K
        )


@given(sizes=sizes, fused=st.booleans())
def test_the_choice_has_the_fewest_operations(sizes, fused):
    """Counted by hand here: each of three products once through the factors and once through the
    matrix.
    """
    T, m, n, K = sizes
    matrix, dense = m * n * K, m * n * T * (not fused)
    to_rows, to_columns, gradient = K * n * T, K * m * T, m * n * T
    costs = []
    for output, to_x, factors in itertools.product((False, True), repeat=3):
        cost = (matrix + dense if output else to_rows + to_columns) + (
            matrix + dense if to_x else to_rows + to_columns
        )
        cost += (
            gradient + 2 * matrix
            if factors
            else to_rows + to_columns + to_rows * output + to_columns * to_x
        )
        costs.append(2 * cost)
    assert flop(choose(T, m, n, K, fused), T, m, n, K, fused) == min(costs)
    assert choose(T, m, n, K, fused) == choose(T, m, n, K, fused)


@pytest.mark.parametrize(
    ("m", "n", "rank", "ratio"),
    [
        *(
            (768, 768, rank, ratio)
            for rank, ratio in ((4, 1.02), (8, 1.09), (16, 1.35), (32, 1.58))
        ),
        *(
            (3072, 768, rank, ratio)
            for rank, ratio in ((4, 1.02), (8, 1.06), (16, 1.24), (32, 1.65))
        ),
    ],
)
def test_the_counted_ratio_of_pera_to_lora(m, n, rank, ratio):
    """At 4096 tokens: numbers that were counted by another program, before this one was written."""
    T, K, base = 4096, rank * (rank + 3) // 2, 4 * m * n * 4096
    plain_lora = base + 6 * rank * (m + n) * T
    assert (base + flop(choose(T, m, n, K), T, m, n, K)) / plain_lora == pytest.approx(
        ratio, abs=0.0051
    )


def test_the_extremes():
    assert str(choose(1, 768, 768, 44)) == "f/f/f"
    assert str(choose(4096, 768, 768, 560)) == "d/d/d"
    # One more product of the base's size, where it may not be fused
    assert not choose(10**6, 4096, 4096, 8, fused=False).output
    assert choose(10**6, 4096, 4096, 8).output


def test_the_plan_followed_is_the_counted_one(monkeypatch):
    """In the layer's own precision W0 may be added to; below it may not, and the choice knows."""
    followed = []

    class Watched:
        @staticmethod
        def apply(source, plan, *tensors):
            followed.append(plan)
            return AdaptedProduct.apply(source, plan, *tensors)

    monkeypatch.setattr(seam, "AdaptedProduct", Watched)
    for dtype, (m, n), T in itertools.product(
        (torch.float32, torch.bfloat16), ((7, 12), (31, 37), (5, 1)), (1, 10, 300)
    ):
        model = testing.adapted(
            pk.PERA(rank=3), strategies.make_layer("Linear", m, n, dtype=dtype)
        ).train()
        model(torch.zeros(T, 1, n, dtype=dtype))
        fused = dtype == torch.float32
        if fused and way(T, m, n, 9).lean:
            assert not followed
        else:
            assert followed.pop() == choose(T, m, n, 9, fused=fused)
        with use_plan(PLANS[5]):
            model(torch.zeros(T, n, dtype=dtype))
        assert followed.pop() == PLANS[5]
        with use_plan(REFERENCE):
            model(torch.zeros(T, n, dtype=dtype))
        assert not followed


def test_plans_by_name():
    assert [str(plan) for plan in PLANS] == [
        "f/f/f",
        "f/f/d",
        "f/d/f",
        "f/d/d",
        "d/f/f",
        "d/f/d",
        "d/d/f",
        "d/d/d",
    ]
    assert Plan(output=True, input=False, factors=True) == PLANS[5]


# --- use_plan -------------------------------------------------------------------------------------


def asked_for():
    """(the plan, whether the plain way), None and False where nobody asks."""
    return plans.wanted, plans.switched_off


def test_a_plan_holds_within_its_block():
    with use_plan(PLANS[1]):
        with use_plan(REFERENCE):
            assert asked_for() == (None, True)
            with use_plan(None):
                assert asked_for() == (None, False)
            with fast.off():
                assert asked_for() == (None, True)
            assert asked_for() == (None, True)
        assert asked_for() == (PLANS[1], False)
        with pytest.raises(ZeroDivisionError), use_plan(PLANS[2]):
            1 / 0  # noqa: B018
        assert asked_for() == (PLANS[1], False)
    assert asked_for() == (None, False)


def test_a_plan_holds_for_the_backward_pass_too():
    """Of what was computed in its block, wherever that runs."""
    T, m, n, K = 19, 7, 11, 5
    for plan in PLANS:
        x = torch.ones(T, n, requires_grad=True)
        with Counter() as counter:
            with use_plan(plan):
                y = fast.forward(x, torch.ones(m, n), None, F.linear, [given_factors(m, n, K)])
            with use_plan(REFERENCE):
                y.sum().backward()
        assert counter.flop - 4 * m * n * T == flop(plan, T, m, n, K)


@pytest.mark.parametrize(
    "plan",
    [
        "fast",
        "f/f/f",
        3,
        True,
        (True, True, True),
        (),
        [],
        Plan(2, 0, 0),
        np.ones(3),
        torch.ones(3),
        Plan,
    ],
    ids=repr,
)
def test_what_is_no_plan_is_refused(plan):
    with pytest.raises(pk.PerakitError) as error, use_plan(plan):
        raise AssertionError("the block was entered")
    assert str(error.value).startswith("plan=")
    assert str(error.value).endswith(
        " is none: pass one of perakit.fast.plans.PLANS, 'reference', 'lean' or None"
    )
    assert asked_for() == (None, False)
