"""Merging: the sum, its one rounding, what the report says of it, and the ways back."""

import copy
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn

import perakit as pk
from perakit.models.adapted import AdaptedLayer
from perakit.toy.gpt2 import GPT2, Config, Conv1D

PERA = pk.PERA(rank=2, alpha=3)
# Of the output's scale
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 4e-2, torch.float16: 4e-3}
DTYPES = list(TOLERANCE)


def adapted(dtype=torch.float32, size=1.0):
    """Linear, Conv1D and a Linear of width one, with factors off their initial value."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(7, 5), Conv1D(3, 5), nn.Linear(3, 1, bias=False)).to(dtype)
    nn.init.normal_(model[1].weight)
    pk.attach(model, PERA, ["0", "1"])
    pk.attach(model, pk.LoRA(rank=2), ["2"])
    move(model, size)
    return model


@torch.no_grad()
def move(model, size=1.0):
    for adapter in pk.adapters(model).values():
        for parameter in adapter.parameters():
            parameter.normal_(std=size)


def bits(tensor):
    return tensor.detach().contiguous().view(torch.uint8).clone()


def numpy_delta(adapter):
    """ΔW in float64, from NumPy and the formulas alone."""
    arrays = {name: p.detach().double().numpy() for name, p in adapter.named_parameters()}
    method = adapter.method
    scale = (method.alpha or method.rank) / method.rank
    return scale * (
        pk.formulas.pera(**arrays) if method.name == "pera" else pk.formulas.lora(**arrays)
    )


def x_for(dtype, *shape):
    return torch.randn(*shape, 7, generator=torch.Generator().manual_seed(1)).to(dtype)


# --- the report -----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1.0, 0.03])
@pytest.mark.parametrize("dtype", DTYPES)
def test_report_agrees_with_numpy(dtype, size):
    model = adapted(dtype, size)
    report = pk.merge(model)
    assert [row[:2] for row in report.rows] == [
        (name, str(dtype).removeprefix("torch.")) for name in "012"
    ]
    for name, _, update, lost, unchanged in report.rows:
        layer = model[int(name)]
        W0, delta = layer.W0.double().numpy(), numpy_delta(layer.adapter)
        rounded = torch.tensor(W0 + delta).to(dtype)
        # NumPy adds up the products in another order
        exact = 1e-12 if dtype == torch.float64 else 0
        np.testing.assert_allclose(
            layer.merged.double().numpy(), rounded.double().numpy(), rtol=exact, atol=exact
        )
        assert update == pytest.approx(np.linalg.norm(delta) / np.linalg.norm(W0), rel=1e-9)
        error = np.linalg.norm(rounded.double().numpy() - (W0 + delta)) / np.linalg.norm(delta)
        assert lost == pytest.approx(error, rel=1e-6, abs=1e-15)
        assert unchanged == np.mean(rounded.double().numpy() == W0)
    assert report.worst == max(row[3] for row in report.rows)


def test_a_small_update_of_a_bf16_model_is_mostly_lost_and_the_report_says_so():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(61, 53, bias=False)).bfloat16()
    pk.attach(model, pk.LoRA(rank=1), ["0"])
    move(model)
    # ‖ΔW‖ = 1e-3 ‖W0‖: most entries are below half a step of bfloat16, 2^-9 of the entry
    with torch.no_grad():
        delta = pk.delta_weights(model)["0"]
        model[0].adapter.B.mul_(1e-3 * model[0].W0.float().norm() / delta.norm())
    report = pk.merge(model)
    _, _, update, lost, unchanged = report.rows[0]
    assert update == pytest.approx(1e-3, rel=1e-3)
    assert unchanged == pytest.approx((model[0].merged == model[0].W0).double().mean().item())
    assert unchanged > 0.5
    assert report.worst == lost > 0.5
    assert str(report).splitlines()[2].split() == [
        "0",
        "bfloat16",
        "1.00e-03",
        f"{lost:.2e}",
        f"{unchanged:.2%}",
    ]


def test_report_of_no_update_is_zero():
    model = nn.Sequential(nn.Linear(3, 2))
    pk.attach(model, PERA, ["0"])
    report = pk.merge(model)
    assert report.rows == [("0", "float32", 0.0, 0.0, 0.0)]
    assert torch.equal(model[0].merged, model[0].W0)
    with torch.no_grad():
        model[0].base.weight.zero_()
    assert pk.bake(model).rows[0][2:] == (0.0, 0.0, 0.0)


def test_report_prints_and_is_escaped():
    model = nn.ModuleDict({"<b>": nn.Linear(3, 2)})
    pk.attach(model, PERA, ["<b>"])
    report = pk.merge(model)
    assert str(report).splitlines()[0].split("  ")[0] == "layer"
    assert "<td>&lt;b&gt;</td>" in report._repr_html_()


# --- the sum --------------------------------------------------------------------------------------


def nearest(exact, candidate, dtype):
    """Is candidate (a tensor of one entry) a value of `dtype` nearest to the Fraction `exact`, ties
    to even?
    """
    inf = torch.tensor(torch.inf, dtype=dtype)
    distance = [
        abs(Fraction(v.item()) - exact)
        for v in (torch.nextafter(candidate, -inf), candidate, torch.nextafter(candidate, inf))
    ]
    even = candidate.view(torch.int16).item() % 2 == 0 if dtype.itemsize == 2 else True
    return distance[1] <= min(distance) and (even or distance.count(distance[1]) == 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_merged_weight_is_the_rounded_exact_sum(dtype):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(13, 11)).to(dtype)
    pk.attach(model, pk.LoRA(rank=1), ["0"])
    layer, adapter = model[0], model[0].adapter
    with torch.no_grad():  # multiples of 2^-12 below 2^4: products and sums are exact in float64
        for parameter in adapter.parameters():
            parameter.copy_((torch.randn(parameter.shape) * 2**12).round() / 2**12)
    pk.merge(model)
    B, A = adapter.B.flatten().tolist(), adapter.A.flatten().tolist()
    for i in range(11):
        for j in range(13):
            exact = Fraction(layer.W0[i, j].item()) + Fraction(B[i]) * Fraction(A[j])
            assert nearest(exact, layer.merged[i, j].detach(), dtype)


@pytest.mark.parametrize(("dtype", "half_step"), [(torch.bfloat16, 2**-8), (torch.float16, 2**-11)])
def test_rounding_happens_once(dtype, half_step):
    """1 + half a step + a little rounds up; by way of float32 the little would be lost first, and
    the tie go down.
    """
    model = nn.Sequential(nn.Linear(1, 1, bias=False)).to(dtype)
    nn.init.ones_(model[0].weight)
    pk.attach(model, pk.LoRA(rank=1), ["0"])
    with torch.no_grad():
        model[0].adapter.A.fill_(half_step * (1 + 2**-20))
        model[0].adapter.B.fill_(1)
    pk.merge(model)
    assert model[0].merged.item() == 1 + 2 * half_step


@pytest.mark.parametrize("dtype", DTYPES)
def test_merged_answers_as_unmerged(dtype):
    model = adapted(dtype)
    x = x_for(dtype, 2, 11)
    with torch.no_grad():
        y = model(x)
        pk.merge(model)
        merged = model(x)
        assert merged.dtype == y.dtype == dtype
        assert (merged - y).abs().max() <= TOLERANCE[dtype] * y.abs().max()
        with pk.disabled(model):
            base = model(x)
        pk.unmerge(model)
        assert torch.equal(bits(model(x)), bits(y))
    assert not torch.allclose(base, y, rtol=0.1)


@pytest.mark.parametrize("shape", [(2, 11), (11,), ()])
@pytest.mark.parametrize("dtype", DTYPES)
def test_baked_is_merged_bitwise_in_plain_layers(dtype, shape):
    model = adapted(dtype)
    keys = ["0.weight", "0.bias", "1.weight", "1.bias", "2.weight"]
    modules = [layer.base for layer in model]
    x = x_for(dtype, *shape)
    with torch.no_grad():
        first = pk.merge(model)
        y = model(x)
        report = pk.bake(model)
        assert torch.equal(bits(model(x)), bits(y))
    assert report == first
    assert list(model) == modules
    assert list(model.state_dict()) == keys
    assert all(p.requires_grad for p in model.parameters())
    assert not any(isinstance(module, AdaptedLayer) for module in model.modules())


def test_bake_needs_no_merge_and_keeps_frozen_what_was():
    model = adapted()
    merged = copy.deepcopy(model)
    pk.merge(merged)
    bare = nn.Sequential(nn.Linear(7, 5), nn.ReLU())
    bare[0].bias.requires_grad_(False)
    pk.attach(bare, PERA, ["0"])
    pk.bake(bare)
    assert [p.requires_grad for p in bare.parameters()] == [True, False]
    pk.bake(model)
    for layer, kept in zip(model, merged, strict=True):
        assert torch.equal(layer.weight, kept.weight)


# --- states ---------------------------------------------------------------------------------------


def test_merging_twice_and_unmerging_twice():
    model = adapted()
    x = x_for(torch.float32, 3)
    y = model(x)
    assert len(pk.merge(model).rows) == 3
    held, merged = [layer.merged for layer in model], model(x)
    again = pk.merge(model)
    assert again.rows == []
    assert again.worst == 0.0
    assert "nothing to do" in str(again)
    assert all(layer.merged is tensor for layer, tensor in zip(model, held, strict=True))
    assert torch.equal(model(x), merged)
    for _ in range(2):
        pk.unmerge(model)
        assert torch.equal(model(x), y)


def test_unmerge_and_detach_restore_every_bit_of_the_base():
    model = adapted(torch.bfloat16)
    W0 = [bits(layer.W0) for layer in model]
    state = {key: bits(value) for key, value in model.state_dict().items()}
    pk.merge(model)
    assert list(model.state_dict()) == list(state)
    assert all(torch.equal(bits(value), state[key]) for key, value in model.state_dict().items())
    pk.unmerge(model)
    pk.detach(model)
    assert all(
        torch.equal(bits(layer.weight.T if isinstance(layer, Conv1D) else layer.weight), w)
        for layer, w in zip(model, W0, strict=True)
    )


def test_attaching_more_after_a_merge():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(7, 5), nn.Linear(5, 3))
    pk.attach(model, PERA, ["0"])
    move(model)
    pk.merge(model)
    pk.attach(model, pk.LoRA(rank=2), ["1"])
    with torch.no_grad():
        model[1].adapter.B.normal_()
    x = x_for(torch.float32, 3)
    y = model(x)
    dense = nn.Sequential(nn.Linear(7, 5), nn.Linear(5, 3))
    dense.load_state_dict(
        {
            f"{i}.{key}": getattr(layer.base, key)
            for i, layer in enumerate(model)
            for key in ("weight", "bias")
        }
    )
    with torch.no_grad():
        for i, layer in enumerate(model):
            dense[i].weight += torch.tensor(numpy_delta(layer.adapter)).float()
    torch.testing.assert_close(y, dense(x), rtol=1e-5, atol=1e-5)
    assert [row[0] for row in pk.merge(model).rows] == ["1"]
    torch.testing.assert_close(model(x), y, rtol=1e-5, atol=1e-5)
    pk.unmerge(model)
    assert [layer.merged for layer in model] == [None, None]
    torch.testing.assert_close(model(x), y, rtol=1e-5, atol=1e-5)


def test_load_state_dict_refreshes_a_merged_model():
    model = adapted()
    state = copy.deepcopy(model.state_dict())
    move(model)
    pk.merge(model)
    stale = [layer.merged.clone() for layer in model]
    model.load_state_dict(state)
    fresh = adapted()
    pk.merge(fresh)
    for layer, old, right in zip(model, stale, fresh, strict=True):
        assert torch.equal(layer.merged, right.merged)
        assert not torch.equal(layer.merged, old)


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize("action", [pk.merge, pk.bake])
@pytest.mark.parametrize("model", [nn.Linear(3, 2), nn.Sequential()], ids=["Linear", "empty"])
def test_a_bare_model_is_refused(model, action):
    with pytest.raises(pk.PerakitError, match=r"no adapter: pk\.attach\(model"):
        action(model)
    pk.unmerge(model)  # nothing is merged: nothing to do


@pytest.mark.parametrize("action", [pk.merge, pk.bake])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize(("layer", "key"), [(0, "A"), (1, "h"), (2, "B")])
def test_factors_that_are_not_finite_are_refused(action, value, layer, key):
    model = adapted()
    with torch.no_grad():
        getattr(model[layer].adapter, key).view(-1)[-1] = value
    before = {name: bits(p) for name, p in model.named_parameters()}
    with pytest.raises(
        pk.PerakitError, match=rf"cannot merge layer '{layer}': NaN or inf in {key};"
    ):
        action(model)
    assert [layer.merged for layer in model] == [None] * 3
    assert all(torch.equal(bits(p), before[name]) for name, p in model.named_parameters())


@pytest.mark.parametrize("action", [pk.merge, pk.bake])
def test_fp16_overflow_is_refused(action):
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1)).half()
    pk.attach(model, pk.LoRA(rank=1), ["0", "1"])
    with torch.no_grad():
        model[1].adapter.A.fill_(300)
        model[1].adapter.B.fill_(300)
    before = bits(model[0].W0)
    with pytest.raises(
        pk.PerakitError, match=r"layer '1': W0 \+ ΔW overflows torch\.float16; .* wider dtype"
    ):
        action(model)
    assert [layer.merged for layer in model] == [None, None]
    assert torch.equal(bits(model[0].W0), before)
    model.float()
    pk.merge(model)


def tie_same(model):
    model.lm_head.weight = model.transformer.wte.weight


def tie_view(model):
    model.lm_head.weight = nn.Parameter(model.transformer.wte.weight.detach())


def tie_part(model):
    model.lm_head = nn.Linear(6, 8, bias=False)
    model.lm_head.weight = nn.Parameter(model.transformer.wte.weight.detach()[3:])


@pytest.mark.parametrize("action", [pk.merge, pk.bake])
@pytest.mark.parametrize("tie", [tie_same, tie_view, tie_part])
def test_tied_weights_are_refused(tie, action):
    model = GPT2(Config(vocab_size=11, n_positions=7, n_embd=6, n_layer=1, n_head=2))
    tie(model)
    pk.attach(model, PERA, ["c_attn", "lm_head"])
    move(model)
    before = bits(model.transformer.wte.weight)
    with pytest.raises(
        pk.PerakitError,
        match=r"cannot merge layer 'lm_head': its weight is shared with 'transformer\.wte'.*clone",
    ):
        action(model)
    assert model.lm_head.merged is None
    assert model.transformer.h[0].attn.c_attn.merged is None
    assert torch.equal(bits(model.transformer.wte.weight), before)


def test_two_tied_adapted_layers_are_refused():
    model = nn.Sequential(nn.Linear(5, 5), nn.Linear(5, 5))
    model[1].weight = model[0].weight
    pk.attach(model, PERA, ["0", "1"])
    with pytest.raises(pk.PerakitError, match="'0': its weight is shared with '1'"):
        pk.merge(model)


def test_parts_of_one_buffer_that_do_not_overlap_can_be_merged():
    whole = torch.randn(7, 3)
    model = nn.Sequential(nn.Linear(3, 4, bias=False), nn.Linear(3, 3, bias=False))
    model[0].weight, model[1].weight = nn.Parameter(whole[:4]), nn.Parameter(whole[4:])
    pk.attach(model, PERA, ["0", "1"])
    assert len(pk.merge(model).rows) == 2


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (torch.float32, torch.float64),
        (torch.bfloat16, torch.float32),
        (torch.float64, torch.bfloat16),
    ],
)
def test_a_merged_model_moved_to_another_dtype_merges_again(before, after):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(7, 5)).to(before)
    pk.attach(model, pk.PERA(rank=3), ["0"])
    with torch.no_grad():
        for parameter in model[0].adapter.parameters():
            parameter.normal_()
    pk.merge(model)
    model.to(after)
    moved = model[0].merged
    pk.unmerge(model)
    pk.merge(model)
    assert moved.dtype == after
    assert torch.equal(moved, model[0].merged)


def test_a_base_that_is_not_finite_is_named_as_the_cause():
    model = nn.Sequential(nn.Linear(3, 2))
    with torch.no_grad():
        model[0].weight[0, 0] = torch.nan
    pk.attach(model, pk.LoRA(rank=1), ["0"])
    with pytest.raises(
        pk.PerakitError, match=r"cannot merge layer '0': NaN or inf in its own weight W0"
    ):
        pk.merge(model)
