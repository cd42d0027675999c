"""What is written to an adapted layer takes effect or is refused; what it keeps is its own."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import perakit as pk
from perakit.models.parts import Parts

LOST = "what is written to it would be lost. Write to layer.base.weight, which is W0, pk.bake"


def model(method=None, dtype=torch.float32, **options):
    torch.manual_seed(0)
    made = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)).to(dtype).eval()
    pk.attach(made, method or pk.LoRA(rank=2), ["0", "2"], **options)
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.requires_grad:
                parameter.normal_()
    return made


@pytest.fixture
def x():
    return torch.randn(6, 5, generator=torch.Generator().manual_seed(1))


WRITES = {
    "copy_": lambda W: W.copy_(torch.ones_like(W)),
    "init": lambda W: nn.init.xavier_uniform_(W),
    "data": lambda W: W.data.normal_(),
    "detach": lambda W: W.detach().zero_(),
    "data =": lambda W: setattr(W, "data", torch.ones_like(W)),
    "row": lambda W: W[0].fill_(1),
    "item": lambda W: W.__setitem__(0, 1.0),
    "item of data": lambda W: W.data.__setitem__((0, 0), 1.0),
    "transposed": lambda W: W.T.mul_(2),
    "+=": lambda W: W.__iadd__(1),
    "clamp_": lambda W: W.clamp_(0, 1),
}


@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize("write", WRITES)
def test_writing_to_the_weight_is_refused(write, merged, x):
    one = model()
    if merged:
        pk.merge(one)
    before, W = one(x), one[0].weight
    with torch.no_grad(), pytest.raises(pk.PerakitError, match=LOST):
        WRITES[write](W)
    assert torch.equal(one(x), before)


def test_the_weight_is_read_as_any_tensor(x):
    one = model()
    W = one[0].weight
    assert torch.equal(W, one[0].W0 + one[0].delta)
    (W**2).sum().backward()  # and its gradient reaches the factors
    assert all(p.grad is not None for p in pk.adapters(one)["0"].parameters())
    W = W.detach()
    assert W.numpy().shape == (4, 5)
    assert type(W + 1) is type(copy.deepcopy(W)) is type(pickle.loads(pickle.dumps(W)))
    assert type(W + 1) is torch.Tensor
    assert repr(W).startswith("tensor(")
    # Where nothing is added it is the base's own, and may be written
    with pk.disabled(one), torch.no_grad():
        one[0].weight.zero_()
    assert not one[0].W0.any()


def test_a_weight_cannot_be_set_nor_tied(x):
    one = model()
    for name in ("weight", "bias"):
        with pytest.raises(pk.PerakitError, match=f"{name} cannot be set on a layer with an adap"):
            setattr(one[0], name, nn.Parameter(torch.ones(4, 5)))
    gpt2 = pk.toy.GPT2(pk.toy.Config(n_embd=8, n_layer=1, n_head=2, vocab_size=11))
    pk.attach(gpt2, pk.LoRA(rank=2), ["lm_head"])
    with pytest.raises(pk.PerakitError, match=r"set it \(or tie it\) before pk.attach"):
        gpt2.tie_weights()


def test_an_average_of_a_merged_model_pairs_buffers_rightly(x):
    """AveragedModel pairs buffers by position: the merged weight is none of them."""
    one = model()
    average = AveragedModel(one, multi_avg_fn=get_ema_multi_avg_fn(0.5), use_buffers=True)
    pk.merge(one)
    average.update_parameters(one)
    assert torch.equal(average.module[1].running_var, one[1].running_var)
    assert not any("merged" in name for name, _ in one.named_buffers())
    pk.unmerge(one)
    assert torch.equal(average(x), one(x))


def test_a_merged_weight_moves_with_the_model(x):
    one = model()
    pk.merge(one)
    y = one(x)
    copied = copy.deepcopy(one)
    assert torch.equal(copied(x), y)
    assert torch.equal(pickle.loads(pickle.dumps(one))(x), y)
    one.double()
    assert one[0].merged.dtype == torch.float64
    assert copied[0].merged.dtype == torch.float32
    one.to("meta")
    assert one[0].merged.is_meta


class Doubled(nn.Module):
    def forward(self, A):
        return 2 * A


def test_a_parametrized_factor_is_saved_and_exported_by_value(tmp_path, x):
    one = model()
    for adapter in pk.adapters(one).values():
        parametrize.register_parametrization(adapter, "A", Doubled())
    y = one(x)
    pk.save(one, tmp_path / "adapter")
    pk.export_peft(one, tmp_path / "peft")
    for read, folder in ((pk.load, "adapter"), (pk.import_peft, "peft")):
        other = model()
        pk.detach(other)
        read(other, tmp_path / folder)
        torch.testing.assert_close(other(x), y)
    before = one(x)
    with pytest.raises(pk.PerakitError, match=r"'0.A' is no parameter .*remove_parametrizations"):
        pk.load(one, tmp_path / "adapter")
    assert torch.equal(one(x), before)


def test_a_parameter_that_the_method_does_not_name_is_not_left_out(tmp_path):
    one = model()
    pk.adapters(one)["0"].more = nn.Parameter(torch.zeros(1))
    with pytest.raises(pk.PerakitError, match=r"parameter 'more', which .* add it to shapes"):
        pk.save(one, tmp_path)


METHODS = [pk.DoRA(rank=2), pk.LoRA(rank=2), Parts.on(pk.DoRA(rank=1), "qv")]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_precision_is_part_of_what_is_saved(method, tmp_path, x):
    """DoRA rounds its row lengths as the magnitude was rounded when it was made."""
    x = x.double()

    def double():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(5, 3), nn.Linear(3, 3)).double()

    one = double().float()
    pk.attach(one, method, ["0", "1"])
    one.double()
    with torch.no_grad():
        for parameter in one.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) / 3)
    pk.save(one, tmp_path)
    other = double().float().double()
    pk.load(other, tmp_path)
    assert torch.equal(other(x), one(x))
    pk.save(other, tmp_path / "again")
    assert (tmp_path / "again" / "adapter.json").read_bytes() == (
        tmp_path / "adapter.json"
    ).read_bytes()
    third = double().float().double()
    pk.attach(third, method, ["0", "1"])  # begun in float64
    pk.load(third, tmp_path)
    assert torch.equal(third(x), one(x))


def test_a_float32_dora_is_the_same_function_in_float64(tmp_path, x):
    one = model(pk.DoRA(rank=2))
    pk.save(one, tmp_path)
    wide = copy.deepcopy(one).double()
    other = model(pk.LoRA(rank=1))
    pk.detach(other)
    pk.load(other.double(), tmp_path)
    assert torch.equal(other(x.double()), wide(x.double()))


def test_factors_follow_the_base_down_to_float32_and_no_further():
    one = model(dtype=torch.float64)
    assert {p.dtype for p in one[0].adapter.parameters()} == {torch.float64}
    one.half()
    assert {p.dtype for p in one[0].adapter.parameters()} == {torch.float32}
    one.bfloat16()
    assert {p.dtype for p in one[0].adapter.parameters()} == {torch.float32}
