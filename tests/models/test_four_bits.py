"""Adapters on a 4-bit base, as a user meets them: attach, train, merge, bake, save and load, and
what is refused.
"""

import copy

import pytest
import torch
from torch import nn

import perakit as pk
from perakit.models import NF4Layer
from perakit.models import adapted as models_adapted
from perakit.strategies import make_layer, move
from perakit.toy.gpt2 import Conv1D

EVERY = pytest.mark.parametrize(
    "name",
    sorted(
        name for name, cls in pk.Method.registry.items() if cls.__module__.startswith("perakit.")
    ),
)


def bare(dtype=torch.float32):
    """A Linear and a Conv1D of sizes that blocks of 64 do not divide, and a head."""
    layers = [
        make_layer("Linear", 13, 11, dtype=dtype),
        nn.Tanh(),
        make_layer("Conv1D", 7, 13, dtype=dtype, seed=1),
    ]
    return nn.Sequential(*layers, make_layer("Linear", 3, 7, dtype=dtype, seed=2)).eval()


def adapted(method=None, dtype=torch.float32, quantize="nf4", seed=0):
    model = bare(dtype)
    torch.manual_seed(seed)
    pk.attach(model, method or pk.PERA(rank=2), ["0", "2"], quantize=quantize)
    return move(model, seed)


@pytest.fixture
def x():
    return torch.randn(5, 11, generator=torch.Generator().manual_seed(7))


def dequantised(model):
    """The plain model whose weights are those that the 4 bits stand for."""
    twin = bare(next(model.parameters()).dtype)
    for name in ("0", "2"):
        base = model.get_submodule(name)
        base = base.base if hasattr(base, "base") else base
        twin.get_submodule(name).weight.data.copy_(base.weight)
    return twin


@EVERY
def test_a_fresh_adapter_on_4_bits_answers_as_the_4_bit_base(name, x):
    model = bare()
    report = pk.attach(model, pk.Method.registry[name](rank=2), ["0", "2"], quantize="nf4")
    assert {row[1] for row in report.rows} == {"NF4"}
    # a weight counts by its entries, in however few bits
    assert report.base == sum(p.numel() for p in bare().parameters())
    with pk.disabled(model):
        base = model(x)
    assert torch.equal(model(x), base)
    # a Conv1D multiplies in another order
    torch.testing.assert_close(base, dequantised(model)(x), rtol=1e-5, atol=1e-5)
    assert not torch.equal(base, bare()(x))


@EVERY
def test_training_moves_the_adapter_and_no_bit_of_the_base(name, x):
    model = adapted(pk.Method.registry[name](rank=2)).train()
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
    losses = []
    for _ in range(20):
        loss = (model(x) - 1).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]) == ("adapters" not in key), key


@EVERY
def test_save_and_load_quantise_the_same_way(name, tmp_path, x):
    model = adapted(pk.Method.registry[name](rank=2), quantize=pk.NF4(block=32, double=False))
    pk.save(model, tmp_path)
    fresh = bare()
    pk.load(fresh, tmp_path)
    assert fresh[0].base.config == pk.NF4(block=32, double=False)
    assert torch.equal(fresh(x), model(x))
    again = bare()
    pk.quantize(again, ["0", "2"], pk.NF4(block=32, double=False))
    pk.load(again, tmp_path)
    assert torch.equal(again(x), model(x))


def test_merge_says_how(x):
    model = adapted()
    before, state = model(x), copy.deepcopy(model.state_dict())
    message = (
        "cannot merge layer '0': its weight is in 4 bits, which W0 + ΔW does not fit; say"
        " dequantize=True for a full float32 weight, or leave the adapter unmerged"
    )
    for use in (pk.merge, pk.bake):
        with pytest.raises(pk.PerakitError) as error:
            use(model)
        assert str(error.value) == message
        assert torch.equal(model(x), before)
    report = pk.merge(model, dequantize=True)
    assert report.quantized == {
        name: pytest.approx(float(model.get_submodule(name).base.error)) for name in ("0", "2")
    }
    assert "4-bit error of W0" in str(report)
    assert "4-bit error of W0" not in str(pk.merge(adapted(quantize=None)))
    torch.testing.assert_close(model(x), before, rtol=1e-5, atol=1e-5)
    pk.unmerge(model)
    assert torch.equal(model(x), before)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_the_reported_error_is_that_of_the_weights():
    model, plain = adapted(), bare()
    for name, reported in pk.merge(model, dequantize=True).quantized.items():
        W, stood = (
            plain.get_submodule(name).weight.double(),
            model.get_submodule(name).base.weight.double(),
        )
        assert reported == pytest.approx(
            (torch.linalg.norm(stood - W) / torch.linalg.norm(W)).item(), rel=1e-6
        )


def test_bake_gives_full_layers_of_the_classes_they_were(x):
    model = adapted()
    expected = model(x)
    pk.bake(model, dequantize=True)
    assert type(model[0]) is nn.Linear
    assert type(model[2]) is Conv1D
    assert list(model.state_dict()) == list(bare().state_dict())
    assert all(p.requires_grad for p in model.parameters())
    torch.testing.assert_close(model(x), expected, rtol=1e-5, atol=1e-5)


def test_detach_leaves_the_4_bits(x):
    model = adapted()
    with pk.disabled(model):
        base = model(x)
    pk.detach(model)
    assert isinstance(model[0], NF4Layer)
    assert torch.equal(model(x), base)
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {
        "0.bias",
        "2.bias",
        "3.weight",
        "3.bias",
    }
    pk.attach(model, pk.LoRA(rank=1), ["0"])  # on the 4 bits that are there
    assert torch.equal(model(x), base)


def test_a_second_adapter_shares_the_4_bits(x):
    model = adapted()
    one, codes = model(x), model[0].base.codes
    pk.attach(model, pk.DoRA(rank=1), ["0"], name="other", quantize="nf4")
    assert model[0].base.codes is codes
    pk.activate(model, "default")
    assert torch.equal(model(x), one)


def test_quantize_alone(x):
    model = bare()
    errors = pk.quantize(model, ["0", "2"])
    assert set(errors) == {"0", "2"}
    assert all(0.05 < error < 0.15 for error in errors.values())
    assert isinstance(model[2], NF4Layer)
    assert type(model[3]) is nn.Linear
    torch.testing.assert_close(model(x), dequantised(model)(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_dtypes_are_answered_in_their_own(dtype, x):
    model = adapted(dtype=dtype)
    y = model(x.to(dtype))
    assert y.dtype == dtype
    assert {p.dtype for name, p in model.named_parameters() if "adapters" in name} == {
        torch.promote_types(dtype, torch.float32)
    }
    assert model[0].base.codes.dtype == torch.uint8


def test_what_the_original_layer_had_can_be_read(x):
    class Odd(nn.Linear):
        def __init__(self):
            super().__init__(11, 13)
            self._hidden, self.shown = 3, 4

    model = nn.Sequential(Odd(), nn.Tanh(), make_layer("Conv1D", 7, 13))
    pk.attach(model, pk.PERA(rank=2), ["0", "2"], quantize="nf4")
    assert (model[2].nf, model[2].nx, model[0].shown, model[0].in_features) == (7, 13, 4, 11)
    with pytest.raises(AttributeError):
        _ = model[0].nowhere
    pk.bake(model, dequantize=True)
    assert (type(model[0]), model[0]._hidden, model[0].shown) == (Odd, 3, 4)


def test_numbers_survive_the_meta_device(x):
    model = bare()
    pk.quantize(model, ["0", "2"])
    expected, state = model(x), copy.deepcopy(model.state_dict())
    model.to("meta").to_empty(device="cpu")
    model.load_state_dict(state)
    assert torch.equal(model(x), expected)


def test_vmap_and_second_derivatives_go_through_4_bits(x):
    model = adapted()
    per_row = torch.func.vmap(torch.func.grad(lambda row: model(row).square().sum()))(x)
    x = x.requires_grad_()
    (whole,) = torch.autograd.grad(model(x).square().sum(), x)
    torch.testing.assert_close(per_row, whole, rtol=1e-5, atol=1e-5)
    strength = pk.theory.interaction_strength(lambda h: model(h).square().sum(), x.detach()[:2])
    assert strength.shape == (11, 11)
    assert strength.any()


def test_many_layers_are_attached_and_merged_in_linear_time():
    """Whose weight is shared is asked once for all layers: 60 of them read each parameter's place a
    few times, not 60.
    """
    model = nn.Sequential(*(nn.Linear(2, 2) for _ in range(60)))
    calls = []
    real = models_adapted.spans
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models_adapted, "spans", lambda tensor: calls.append(1) or real(tensor))
        pk.attach(model, pk.LoRA(rank=1), "all-linear", quantize="nf4")
        pk.merge(model, dequantize=True)
    assert 120 <= len(calls) < 5 * 120, len(calls)


# --- what is refused ------------------------------------------------------------------------------


def untouched(model, change, message):
    before = {key: value.clone() for key, value in model.state_dict().items()}
    flags = [(name, p.requires_grad) for name, p in model.named_parameters()]
    with pytest.raises(pk.PerakitError) as error:
        change(model)
    assert message in str(error.value)
    assert list(model.state_dict()) == list(before)
    assert all(
        torch.equal(value.nan_to_num(), before[key].nan_to_num())
        for key, value in model.state_dict().items()
    )
    assert flags == [(name, p.requires_grad) for name, p in model.named_parameters()]


@pytest.mark.parametrize("wrong", ["nf8", "NF4", 4, True, {"type": "nf4"}])
def test_unknown_quantisations(wrong):
    untouched(
        bare(),
        lambda model: pk.attach(model, pk.LoRA(1), ["0"], quantize=wrong),
        f"quantize={wrong!r} is unknown",
    )


def test_weights_that_cannot_be_quantised():
    def attach(model):
        pk.attach(model, pk.LoRA(1), ["0", "2"], quantize="nf4")

    model = bare()
    model[2].weight.data[0, 0] = float("nan")
    untouched(model, attach, "cannot quantise layer '2': ")
    tied = bare()
    tied[3] = nn.Linear(11, 13)
    tied[3].weight = tied[0].weight
    untouched(
        tied,
        attach,
        "cannot quantise layer '0': its weight is shared with '3'; leave it out of the targets",
    )


def test_quantize_refuses_what_it_cannot_do():
    untouched(
        bare(), lambda model: pk.quantize(model, ["0"], None), "config=None names no quantisation"
    )
    message = (
        "layer '0' carries adapters on its full weight, it cannot become NF4(block=64, double=True)"
    )
    untouched(adapted(quantize=None), lambda model: pk.quantize(model, ["0"]), message)
    four = adapted()
    codes = four[0].base.codes
    assert set(pk.quantize(four, ["0"])) == {"0"}  # as it is already
    assert four[0].base.codes is codes
    assert pk.active(four) == ("default",)
    assert list(pk.adapters(four)) == ["0", "2"]


def test_an_adapted_or_4_bit_layer_is_not_quantised_again():
    message = (
        "layer '0' carries adapters on its full weight, it cannot become NF4(block=64, double=True)"
    )
    untouched(
        adapted(quantize=None),
        lambda model: pk.attach(model, pk.LoRA(1), ["0"], name="b", quantize="nf4"),
        message,
    )
    other = (
        "layer '0' is NF4(block=64, double=True) already, it cannot become NF4(block=32,"
        " double=True)"
    )
    untouched(
        adapted(),
        lambda model: pk.attach(model, pk.LoRA(1), ["0"], name="b", quantize=pk.NF4(block=32)),
        other,
    )


def test_an_adapter_of_another_storage_is_refused(tmp_path):
    pk.save(adapted(), tmp_path / "four")
    pk.save(adapted(quantize=None), tmp_path / "full")
    four, full = "NF4(block=64, double=True)", "a full weight"
    untouched(
        adapted(quantize=None),
        lambda model: pk.load(model, tmp_path / "four"),
        f"layer '0' has {full}, the file {four}",
    )
    untouched(
        adapted(),
        lambda model: pk.load(model, tmp_path / "full"),
        f"layer '0' has {four}, the file {full}",
    )
    quantised = bare()
    pk.quantize(quantised, ["0", "2"], pk.NF4(block=128))
    untouched(
        quantised,
        lambda model: pk.load(model, tmp_path / "four"),
        f"layer '0' has NF4(block=128, double=True), the file {four}",
    )


def test_the_whole_model_goes_through_a_state_dict(x):
    model, other = adapted(), adapted(seed=5)
    for module in (other[0].base, other[2].base):
        module.codes.zero_()
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(x), model(x))
