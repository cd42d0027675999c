"""Contenders compute the same thing on the same layer, and what is counted is what they do."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from perakit import formulas
from perakit.bench import contenders, models
from perakit.bench.contenders import BUILDERS, Contender
from perakit.bench.timing import Step
from perakit.fast import windows
from perakit.fast.plans import PLANS, choose, flop, use_plan
from perakit.models.layers import Conv1D, kind_of
from perakit.toy.gpt2 import Config
from perakit.toy.gpt2 import Conv1D as ToyConv1D

M, N, T, RANK = 7, 5, 11, 3
LINEAR = ("plain lora", "lora", "peft r")
QUADRATIC = (
    "pera",
    "pera mkl",
    "pera plain",
    "prototype",
    "authors",
    "peft K",
    "merged",
    "pera cached",
    "pera expanded",
)
SMALL = models.Model(
    Config(vocab_size=31, n_positions=16, n_embd=12, n_layer=2, n_head=2), batch=3, context=16
)


@pytest.fixture
def case():
    """(base, factors, x, g): a frozen float64 layer, factors for it, inputs and a gradient of its
    output.
    """
    torch.manual_seed(0)
    base = nn.Linear(N, M, dtype=torch.float64).requires_grad_(False)
    factors = contenders.draw(M, N, RANK, base.weight, seed=0)
    return (
        base,
        factors,
        torch.randn(T, N, dtype=torch.float64),
        torch.randn(T, M, dtype=torch.float64),
    )


def by_the_formula(case, linear):
    """(y, gradient by x, gradients by B, A and h), of the dense formula."""
    base, factors, x, g = case
    x, *parameters = (tensor.clone().requires_grad_() for tensor in (x, *factors))
    delta = formulas.lora(*parameters[:2]) if linear else formulas.pera(*parameters)
    y = x @ (base.weight + delta).T + base.bias
    y.backward(g)
    return y, x.grad, [parameter.grad for parameter in parameters]


def stepped(layer, case, plan=None):
    """(y, gradient by x) after a step of the benchmark, whose gradients stay in the layer."""
    _, _, x, g = case
    x = x.clone().requires_grad_()
    step = contenders.training_step(layer, plan, x, g)
    step.run()
    once = x.grad.clone()
    step.reset()
    assert x.grad is None
    assert all(parameter.grad is None for parameter in layer.parameters())
    step.run()
    assert torch.equal(x.grad, once), "a step starts without the last one's gradients"
    with use_plan(plan):
        return layer(x), x.grad


def close(ours, theirs):
    return (ours - theirs).norm() <= 1e-12 * theirs.norm()


def test_every_contender_is_tested_here():
    assert {"base", *LINEAR, *QUADRATIC} == set(BUILDERS)


@pytest.mark.parametrize("name", [*LINEAR, *QUADRATIC])
def test_output_and_input_gradient_are_those_of_the_formula(case, name):
    base, factors, _, _ = case
    y, to_x, _ = by_the_formula(case, name in LINEAR)
    assert not close(y, by_the_formula(case, name not in LINEAR)[0]), "the two methods differ here"
    ours, to_ours = stepped(Contender(name, RANK).build(base, factors), case)
    assert close(ours, y)
    assert close(to_ours, to_x)


@pytest.mark.parametrize("plan", [None, *PLANS], ids=str)
@pytest.mark.parametrize("name", ["lora", "pera", "prototype", "authors", "plain lora"])
def test_factor_gradients_are_those_of_the_formula_under_every_plan(case, name, plan):
    base, factors, _, _ = case
    linear = name in LINEAR
    y, to_x, gradients = by_the_formula(case, linear)
    layer = Contender(name, RANK, plan).build(base, factors)
    ours, to_ours = stepped(layer, case, plan)
    assert close(ours, y)
    assert close(to_ours, to_x)
    found = {
        parameter_name.rpartition(".")[2]: parameter.grad
        for parameter_name, parameter in layer.named_parameters()
    }
    for key, gradient in zip("BAh"[: 2 if linear else 3], gradients, strict=False):
        assert close(found[key], gradient)
    assert found["weight"] is None, "the base is frozen"


def test_lora_and_peft_have_the_same_gradients(case):
    base, factors, _, _ = case
    ours, theirs = (Contender(name, RANK).build(base, factors) for name in ("lora", "peft r"))
    stepped(ours, case)
    stepped(theirs, case)
    for key in "AB":
        mine = next(
            parameter.grad
            for name, parameter in ours.named_parameters()
            if name.endswith(f".{key}")
        )
        assert close(mine, theirs.get_parameter(f"lora_{key}.default.weight").grad)


@pytest.mark.parametrize("part", ["layers", "plans", "inference"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_contenders_of_a_part_share_weights_and_dtypes(part, dtype, monkeypatch):
    built = {}
    monkeypatch.setattr(
        Contender,
        "build",
        lambda one, base, factors: built.setdefault(one, BUILDERS[one.name](base, factors)),
    )
    who = contenders.contenders(part, (2, 3))
    assert len(set(who)) == len(who)
    steps = contenders.steps(who, M, N, T, dtype, "cpu", seed=0, training=part != "inference")
    assert list(steps) == who
    for step in steps.values():
        step.reset()
        step.run()
    weights = {
        parameter.data_ptr()
        for layer in built.values()
        for name, parameter in layer.named_parameters()
        if not parameter.requires_grad
    }
    assert len(weights) == 2, "W0 and the bias, once"
    x = torch.randn(T, N, dtype=dtype)
    for layer in built.values():
        assert layer(x).dtype == dtype
        trained = [parameter for parameter in layer.parameters() if parameter.requires_grad]
        assert all(parameter.dtype == torch.float32 for parameter in trained)
        if part != "inference":
            assert all(parameter.grad is not None for parameter in trained)


def test_where_peft_is_not_installed_it_is_left_out(monkeypatch):
    everyone = {one.name for one in contenders.contenders("layers", (2,))}
    assert everyone == {"base", *LINEAR, "pera", "prototype", "authors", "peft K"}
    monkeypatch.setattr(contenders, "find_spec", lambda name: None)
    assert {one.name for one in contenders.contenders("layers", (2,))} == everyone - {
        "peft r",
        "peft K",
    }
    assert [one.name for one in models.contenders(2)] == ["lora", "pera", "authors"]


def test_pera_by_mkl_takes_part_where_there_is_a_choice_and_differs_in_nothing_else(monkeypatch):
    monkeypatch.setattr(contenders, "ONEDNN", True)
    names = [one.name for one in contenders.contenders("layers", (2,), mkl=True)]
    assert names[3:7] == ["pera", "pera mkl", "prototype", "authors"]
    assert "pera mkl" not in {
        one.name for one in contenders.contenders("inference", (2,), mkl=True)
    }
    monkeypatch.setattr(contenders, "ONEDNN", False)
    assert "pera mkl" not in {one.name for one in contenders.contenders("layers", (2,), mkl=True)}
    one, other = (Contender(name, 4) for name in ("pera", "pera mkl"))
    assert one.to_dict() | {"contender": "pera mkl"} == other.to_dict()
    assert one.flop(T, M, N, True) == other.flop(T, M, N, True)


def test_onednn_is_off_in_the_steps_of_pera_by_mkl_alone(monkeypatch):
    who, seen = [Contender(name, 2) for name in ("pera", "pera mkl")], []
    real = contenders.training_step

    def watched(layer, plan, x, g):
        step = real(layer, plan, x, g)
        return Step(lambda: seen.append(torch.backends.mkldnn.enabled) or step.run(), step.reset)

    monkeypatch.setattr(contenders, "training_step", watched)
    for step in contenders.steps(who, M, N, T, torch.float32, "cpu", seed=0).values():
        step.run()
    assert seen == [True, False]
    with pytest.raises(ZeroDivisionError):
        contenders.by_mkl(Step(lambda: 1 / 0)).run()
    assert torch.backends.mkldnn.enabled, "as it was before"


def test_what_a_result_says_of_a_contender():
    assert Contender("base", 8).to_dict() == {
        "contender": "base",
        "rank": 8,
        "inner": 0,
        "plan": None,
    }
    assert Contender("pera", 8).to_dict() == {
        "contender": "pera",
        "rank": 8,
        "inner": 44,
        "plan": "auto",
    }
    assert Contender("lora", 8, PLANS[2]).to_dict() == {
        "contender": "lora",
        "rank": 8,
        "inner": 8,
        "plan": "f/d/f",
    }
    assert Contender("peft K", 4).to_dict() == {
        "contender": "peft K",
        "rank": 4,
        "inner": 14,
        "plan": None,
    }


# --- operations -----------------------------------------------------------------------------------


def in_place(_, x_shape, y_shape, out_shape=None, **options):
    (rows, inner), (_, columns) = x_shape, y_shape
    return 2 * rows * inner * columns


def counted(step):
    """The operations of the matrix products that torch makes in a step; its counter does not know
    the one in place.
    """
    with FlopCounterMode(
        display=False, custom_mapping={torch.ops.aten.addmm_: in_place}
    ) as counter:
        step.run()
    return counter.get_total_flops()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("part", ["layers", "plans"])
def test_the_counted_operations_of_a_step_are_those_that_torch_makes(part, dtype):
    m, n, tokens = 24, 20, 40
    steps = contenders.steps(
        contenders.contenders(part, (2, 4)), m, n, tokens, dtype, "cpu", seed=0
    )
    fused = dtype == torch.float32
    beyond = {
        one: counted(step) - 4 * m * n * tokens - one.flop(tokens, m, n, fused)
        for one, step in steps.items()
    }
    for one in beyond:  # columns that only fill a tile are made, and no part of what is counted
        if one.name == "pera" and (columns := windows.count(one.rank, "full")) > one.inner:
            plan = one.plan or choose(tokens, m, n, one.inner, fused)
            beyond[one] -= flop(plan, tokens, m, n, columns, fused) - flop(
                plan, tokens, m, n, one.inner, fused
            )
    for one, extra in beyond.items():
        expansion = extra if one.name == "pera" else 0
        assert extra == expansion == beyond.get(Contender(one.name, one.rank), expansion), (
            f"{one}: the same by every plan"
        )
        assert 0 <= expansion <= 4 * one.rank * one.inner * (m + n), (
            "of the order of the expansion, whatever the tokens"
        )


def test_the_counted_operations_of_an_answer_are_the_fewest():
    m, n, tokens = 24, 20, 40
    steps = contenders.steps(
        contenders.contenders("inference", (2, 4)),
        m,
        n,
        tokens,
        torch.float32,
        "cpu",
        seed=0,
        training=False,
    )
    for one, step in steps.items():
        found = counted(step) - 2 * m * n * tokens
        if one.name.startswith("pera"):
            assert (
                one.forward_flop(tokens, m, n, True)
                == min(2 * one.inner * (m + n) * tokens, 2 * m * n * one.inner)
                <= found
            )
        else:
            assert one.forward_flop(tokens, m, n, True) == found, one


# --- whole models ---------------------------------------------------------------------------------


def test_models_of_contenders_compute_the_same_and_share_what_is_frozen():
    base = models.make(SMALL, torch.float32, "cpu", seed=0)
    frozen = {parameter.data_ptr() for parameter in base.parameters()}
    ids = torch.arange(12).view(2, 6)
    before, outputs = base(ids).logits, {}
    for one in models.contenders(2):
        model = models.adapted(base, one, seed=0)
        outputs[one.name] = model(ids).logits
        tensors = {
            parameter.data_ptr() for parameter in model.parameters() if not parameter.requires_grad
        }
        assert tensors == frozen
        layers = 4 * SMALL.config.n_layer
        assert sum(parameter.requires_grad for parameter in model.parameters()) == layers * (
            3 if one.name in ("pera", "authors") else 2
        )
    assert torch.equal(base(ids).logits, before), "the copies are adapted, not the model"
    for name, other in (("pera", "authors"), ("pera", "peft K"), ("lora", "peft r")):
        assert (outputs[name] - outputs[other]).norm() <= 1e-5 * outputs[other].norm()
    assert (outputs["lora"] - outputs["pera"]).norm() > 1e-3 * outputs["pera"].norm()


def test_a_training_step_moves_the_adapters_and_nothing_else():
    model = models.adapted(
        models.make(SMALL, torch.float32, "cpu", seed=0), Contender("pera", 2), seed=0
    )
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    step = models.training_step(model, torch.arange(32).view(2, 16) % 31)
    step.run()
    step.reset()
    for name, parameter in model.named_parameters():
        assert parameter.grad is None
        assert torch.equal(parameter, before[name]) != parameter.requires_grad, name


def test_the_counted_operations_of_a_model_are_those_that_torch_makes():
    """Which does not count attention on a CPU, and leaves out the gradient by the embeddings."""
    tokens, d = SMALL.batch * SMALL.context, SMALL.config.n_embd
    attention = 12 * tokens * SMALL.context * d * SMALL.config.n_layer
    steps = models.steps(models.contenders(2), SMALL, torch.float32, "cpu", seed=0)
    for one, step in steps.items():
        if one.name not in ("lora", "pera"):
            to_embeddings = 2 * tokens * d * (3 * d + one.inner)
            assert models.flop(one, SMALL, True) == counted(step) + attention + to_embeddings
    auto = {one.name: models.flop(one, SMALL, True) for one in steps}
    assert auto["lora"] <= auto["peft r"] < auto["pera"] <= auto["authors"] == auto["peft K"]


def test_the_tiny_model_of_the_benchmark_has_the_shape_of_the_shipped_one():
    from perakit.toy import load

    assert models.MODELS["tiny"].config == load("tiny").config
    assert kind_of(ToyConv1D(3, 2)) is Conv1D
