"""Parity with PEFT: the same factors give the same output and the same gradients."""

import copy

import numpy as np
import peft
import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

import perakit as pk
from perakit.adapters import DeLoRA, DoRA, HiRA, LoHa

RANK = 3
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}  # of the norm of what is compared
LORA = {"A": "lora_A.default.weight", "B": "lora_B.default.weight"}

# method -> (perakit's, PEFT's configuration, perakit's parameter -> PEFT's)
METHODS = {
    "lora": (pk.LoRA(RANK, alpha=5), peft.LoraConfig(r=RANK, lora_alpha=5), LORA),
    "rslora": (
        pk.LoRA(RANK, alpha=5, scaling="rslora"),
        peft.LoraConfig(r=RANK, lora_alpha=5, use_rslora=True),
        LORA,
    ),
    "dora": (
        DoRA(RANK, alpha=5),
        peft.LoraConfig(r=RANK, lora_alpha=5, use_dora=True),
        LORA | {"magnitude": "lora_magnitude_vector.default.weight"},
    ),
    "hira": (HiRA(RANK), peft.HiraConfig(r=RANK), {"A": "hira_A.default", "B": "hira_B.default"}),
    "delora": (
        DeLoRA(RANK),
        peft.DeloraConfig(r=RANK),
        {"A": "delora_A.default", "B": "delora_B.default", "lam": "delora_lambda.default"},
    ),
    "loha": (
        # PEFT keeps the scale as a float32 number, also for float64 layers: 1.5 is one
        LoHa(RANK, alpha=4.5),
        peft.LoHaConfig(r=RANK, alpha=4.5),
        {
            "B1": "hada_w1_a.default",
            "A1": "hada_w1_b.default",
            "B2": "hada_w2_a.default",
            "A2": "hada_w2_b.default",
        },
    ),
}
ON_CONV1D = ("lora", "rslora", "dora", "hira")  # PEFT refuses the others there
CASES = [(name, "Linear") for name in METHODS] + [(name, "Conv1D") for name in ON_CONV1D]


def make(kind, dtype):
    """Two layers, not square, with a bend between them."""
    torch.manual_seed(0)
    sizes = ((7, 11), (11, 5))
    first, second = (nn.Linear(n, m) if kind == "Linear" else Conv1D(m, n) for n, m in sizes)
    model = nn.Sequential(first, nn.Tanh(), second)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5)
    return model.to(dtype)


def in_peft(base, name):
    config = copy.deepcopy(METHODS[name][1])
    config.target_modules = {"0", "2"}
    if hasattr(config, "fan_in_fan_out"):
        config.fan_in_fan_out = isinstance(base[0], Conv1D)
    return peft.get_peft_model(copy.deepcopy(base), config)


def pair(name, kind, dtype):
    """The same base with the same moved factors, in perakit and in PEFT."""
    base = make(kind, dtype)
    ours, theirs = copy.deepcopy(base), in_peft(base, name)
    pk.attach(ours, METHODS[name][0], ["0", "2"])
    with torch.no_grad():
        for layer, adapter in pk.adapters(ours).items():
            for key, parameter in adapter.named_parameters():
                noise = torch.randn(parameter.shape, dtype=torch.float64)
                parameter.copy_(
                    {"lam": 7 + noise, "magnitude": parameter * (1 + 0.3 * noise)}.get(key, noise)
                )
                other = theirs.get_parameter(f"base_model.model.{layer}.{METHODS[name][2][key]}")
                assert other.shape == parameter.shape
                assert other.dtype == parameter.dtype == dtype
                other.copy_(parameter)
    return base, ours.train(), theirs.train()


def close(ours, theirs, dtype):
    return (ours - theirs).norm() <= TOLERANCE[dtype] * theirs.norm()


@pytest.mark.parametrize("dtype", TOLERANCE, ids=["float64", "float32"])
@pytest.mark.parametrize(("name", "kind"), CASES)
def test_output_and_gradients(name, kind, dtype):
    base, ours, theirs = pair(name, kind, dtype)
    x, weight = torch.randn(2, 3, 7, dtype=dtype), torch.randn(2, 3, 5, dtype=dtype)
    inputs = x.clone().requires_grad_(), x.clone().requires_grad_()
    outputs = ours(inputs[0]), theirs(inputs[1])
    assert (outputs[0] - base(x)).norm() > 0.1 * base(x).norm()
    assert close(*outputs, dtype)
    for output in outputs:
        # squares: no gradient of one number is a sum that cancels
        (output * weight + output**2).sum().backward()
    assert close(inputs[0].grad, inputs[1].grad, dtype)
    trained = []
    for layer, adapter in pk.adapters(ours).items():
        for key, parameter in adapter.named_parameters():
            trained.append(f"base_model.model.{layer}.{METHODS[name][2][key]}")
            assert parameter.grad.norm() > 0.1
            assert close(parameter.grad, theirs.get_parameter(trained[-1]).grad, dtype), (
                layer,
                key,
            )
    assert sorted(trained) == sorted(
        key for key, parameter in theirs.named_parameters() if parameter.requires_grad
    )


@pytest.mark.parametrize("dtype", TOLERANCE, ids=["float64", "float32"])
@pytest.mark.parametrize(("name", "kind"), CASES)
def test_merged_weights(name, kind, dtype):
    _, ours, theirs = pair(name, kind, dtype)
    pk.bake(ours)
    merged = theirs.merge_and_unload().state_dict()
    assert list(merged) == list(ours.state_dict())
    for key, weight in ours.state_dict().items():
        assert close(weight, merged[key], dtype), key


@pytest.mark.parametrize("name", METHODS)
def test_as_many_trainable_parameters(name):
    _, ours, theirs = pair(name, "Linear", torch.float32)
    count = sum(parameter.numel() for parameter in theirs.parameters() if parameter.requires_grad)
    assert (
        sum(parameter.numel() for parameter in ours.parameters() if parameter.requires_grad)
        == count
    )


@pytest.mark.parametrize("name", ["lora", "rslora", "dora", "hira", "delora"])
def test_both_start_at_zero(name):
    """LoHa is left out: PEFT's start of it is zero by w2_b, which is our init="zero_A"."""
    base = make("Linear", torch.float32)
    theirs, x = in_peft(base, name), torch.randn(4, 7)
    ours = copy.deepcopy(base)
    pk.attach(ours, METHODS[name][0], ["0", "2"])
    assert torch.equal(ours(x), base(x))
    assert close(theirs(x), base(x), torch.float32)
    for layer, adapter in pk.adapters(ours).items():
        for key, parameter in adapter.named_parameters():
            other = theirs.get_parameter(f"base_model.model.{layer}.{METHODS[name][2][key]}")
            assert bool(parameter.any()) == bool(other.any()), key
            if key in ("magnitude", "lam"):
                assert close(parameter, other, torch.float32)
            elif key == "A":  # the same uniform distribution: same bound, neither reaching it
                bound = parameter.shape[1] ** -0.5
                assert parameter.abs().max() <= bound
                assert other.abs().max() <= bound


def test_loha_starts_as_in_peft_with_zero_a():
    base = make("Linear", torch.float32)
    theirs, ours = in_peft(base, "loha"), copy.deepcopy(base)
    pk.attach(ours, LoHa(RANK, alpha=5, init="zero_A"), ["0", "2"])
    for layer, adapter in pk.adapters(ours).items():
        for key, parameter in adapter.named_parameters():
            assert bool(parameter.any()) == bool(
                theirs.get_parameter(f"base_model.model.{layer}.{METHODS['loha'][2][key]}").any()
            )


@pytest.mark.parametrize("name", sorted(set(METHODS) - set(ON_CONV1D)))
def test_conv1d_where_peft_refuses_it(name):
    """There PEFT cannot be the oracle: the layer must do what a Linear with the transposed weight
    does, which PEFT has checked.
    """
    conv, linear = make("Conv1D", torch.float64), make("Linear", torch.float64)
    with pytest.raises((TypeError, ValueError), match=r"Conv1D|[Uu]nsupported|not supported"):
        in_peft(conv, name)
    with torch.no_grad():
        for i in (0, 2):
            linear[i].weight.copy_(conv[i].weight.T)
            linear[i].bias.copy_(conv[i].bias)
    _, moved, _ = pair(name, "Linear", torch.float64)
    x, gradients, outputs = torch.randn(4, 7, dtype=torch.float64), [], []
    for model in (conv, linear):
        pk.attach(model, METHODS[name][0], ["0", "2"])
        for layer, adapter in pk.adapters(model).items():
            adapter.load_state_dict(pk.adapters(moved)[layer].state_dict())
        outputs.append(model(x))
        outputs[-1].square().sum().backward()
        gradients.append(
            torch.cat(
                [p.grad.flatten() for a in pk.adapters(model).values() for p in a.parameters()]
            )
        )
    assert close(*outputs, torch.float64)
    assert close(*gradients, torch.float64)


def test_the_oracle_would_see_a_difference():
    _, ours, theirs = pair("dora", "Conv1D", torch.float64)
    x = torch.randn(4, 7, dtype=torch.float64)
    assert close(ours(x), theirs(x), torch.float64)
    with torch.no_grad():
        theirs.get_parameter("base_model.model.2.lora_B.default.weight")[0, 0] *= 1 + 1e-9
    assert not close(ours(x), theirs(x), torch.float64)
    assert np.isfinite(ours(x).detach().numpy()).all()
