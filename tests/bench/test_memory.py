"""What autograd keeps is what the closed forms say, to the byte; and PERA keeps little more than
LoRA.
"""

import pytest
import torch
from torch import nn

import perakit as pk
from perakit.bench import memory
from perakit.bench.memory import KINDS, METHODS, PLAIN, Case
from perakit.fast.plans import choose, use_plan, way
from perakit.models import catalogue

DTYPES = (torch.float32, torch.bfloat16)
# z kept; T = 1; dense factor gradients; more columns than the layer has inputs; a dense output with
# factored gradients
SHAPES = [
    (23, 13, 7, 3),
    (1, 13, 7, 2),
    (64, 37, 29, 4),
    (512, 31, 37, 8),
    (5, 3, 2, 4),
    (64, 31, 37, 2),
]


def test_the_shapes_take_every_way_of_keeping():
    plans = {choose(T, m, n, r * (r + 3) // 2) for T, m, n, r in SHAPES}
    assert {(plan.output, plan.factors) for plan in plans} >= {
        (False, False),
        (True, False),
        (True, True),
    }


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_measured_is_predicted(name, dtype):
    for T, m, n, r in SHAPES:
        row = memory.row(name, Case(T, m, n, r, dtype), seed=0)
        assert row["measured"] == row["predicted"], (T, m, n, r)
        assert list(row["measured"]) == list(KINDS)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rank", [4, 8, 16, 32])
def test_pera_keeps_at_most_a_tenth_more_than_lora_and_z(rank, dtype):
    """1.1 times (what plain LoRA keeps and T K floats), K = r(r+3)/2, on layers, also long and wide
    ones, and one token. Where calls decide what a step takes, it keeps 2 MiB of features besides.
    """
    K = rank * (rank + 3) // 2
    for T, m, n in ((256, 768, 768), (1, 768, 768), (1024, 128, 96), (16, 97, 211), (300, 512, 64)):
        case = Case(T, m, n, rank, dtype)
        pera, plain = (
            memory.row(name, case, seed=0)["measured"]["saved"] for name in ("pera", PLAIN)
        )
        lean = dtype == torch.float32 and way(T, m, n, K).lean
        most = 1.1 * (plain + 4 * T * K)
        assert pera <= (most + 2 * 2**20 if lean else most), case


def test_the_formula_by_autograd_keeps_more():
    """The bound above is no matter of course: expanded factors that are kept break it."""
    case = Case(256, 768, 768, 32)
    with use_plan("reference"):
        pera = memory.row("pera", case, seed=0)["measured"]["saved"]
    assert pera > 1.1 * (memory.row(PLAIN, case, seed=0)["measured"]["saved"] + 4 * 256 * 560)


def test_bytes_are_counted_once_whole_and_without_what_is_held():
    x, w = torch.ones(3, 5, requires_grad=True), nn.Parameter(torch.ones(3, 5))
    large = torch.ones(100, requires_grad=True)
    saved = {
        "x of x w, not the parameter": (lambda: x * w, 4 * 15),
        "x once, and the result of exp": (lambda: (x * x.detach() * x).exp(), 3 * 4 * 15),
        "a view keeps all of its memory": (
            lambda: large[:2] * torch.ones(2, requires_grad=True),
            4 * 102,
        ),
        "a sum keeps nothing": (lambda: x + w, 0),
    }
    for words, (run, expected) in saved.items():
        y, found = memory.saved_bytes(run, held=[w])
        assert found == expected, words
        y.sum().backward()  # the graph is whole


def test_a_model_is_the_sum_of_its_layers():
    gpt2 = catalogue.describe("gpt2")
    found = memory.of_model(gpt2, "pera", tokens=1024, rank=8)
    count, _ = catalogue.count(gpt2, pk.PERA(rank=8), "all-linear")
    assert found["parameters"] == found["gradients"] == 4 * count
    # A, B and h of 48 layers: AdamW counts its steps for each
    assert found["optimizer"] == 8 * count + 4 * 3 * 48
    plain = memory.of_model(gpt2, PLAIN, tokens=1024, rank=8)
    assert plain["saved"] == 4 * 1024 * 12 * (3 * 768 + 3072 + 4 * 8)


def test_the_rows_are_those_that_the_page_needs(monkeypatch):
    """Every method on the layer of the first row, and PERA beside plain LoRA on each other
    layer.
    """
    monkeypatch.setattr(memory, "row", lambda name, case, seed: (name, case, seed))
    rows = memory.measure(seed=7)
    assert [name for name, case, _ in rows if case == rows[0][1]] == list(METHODS)
    others = {case for _, case, _ in rows if case != rows[0][1]}
    assert all(
        {name for name, here, _ in rows if here == case} == {PLAIN, "pera"} for case in others
    )
    assert {case.tokens for case in others} >= {1, 256}
    assert {case.rank for case in others} == {4, 8, 16, 32}
    assert {case.dtype for case in others} == set(DTYPES)
    assert {seed for *_, seed in rows} == {7}
