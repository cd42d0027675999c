"""4 bits: levels, blocks, packing and double quantisation against loops, and the layer that stands
for a dense one.
"""

import copy
import io
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm
from torch import nn
from torch.func import functional_call
from transformers.pytorch_utils import Conv1D as HFConv1D

import perakit as pk
from perakit import fast
from perakit.errors import PerakitError
from perakit.models import nf4
from perakit.models.layers import DTYPES
from perakit.models.quantize import BLOCKS, NF4, NF4Layer, parse
from perakit.toy.gpt2 import Conv1D

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
# odd, prime, many blocks
SHAPES = [(1, 1), (1, 2), (1, 67), (67, 1), (3, 5), (13, 17), (31, 29), (40, 16), (128, 129)]
CONFIGS = [NF4(), NF4(32, False), NF4(128), NF4(4096, False)]
ULP = 2.0**-23  # relative step of float32
MAKERS = {
    "Linear": lambda m, n: nn.Linear(n, m),
    "Linear without bias": lambda m, n: nn.Linear(n, m, bias=False),
    "Conv1D": Conv1D,
    "transformers' Conv1D": HFConv1D,
}


def weight(m, n, seed=0, dtype=torch.float32):
    """W (m, n), with entries of very different size, as blocks of a trained layer have."""
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(m, n, generator=generator) * torch.rand(m, 1, generator=generator).exp()
    ).to(dtype)


def make(name, m, n, dtype=torch.float32, device="cpu", seed=0):
    """A layer with the weight of `weight(m, n)` and a bias that is not zero."""
    layer = MAKERS[name](m, n).to(dtype)
    with torch.no_grad():
        layer.weight.copy_(weight(m, n, seed) if "Linear" in name else weight(m, n, seed).T)
        if layer.bias is not None:
            layer.bias.copy_(weight(1, m, seed + 1)[0])
    return layer.to(device)


def dense(layer):
    """The weight of a layer from `make` as an (m, n) matrix, read without perakit."""
    return (layer.weight if isinstance(layer, nn.Linear) else layer.weight.T).detach()


def inputs(n, *batch, dtype=torch.float32, device="cpu"):
    return torch.randn(*batch, n, generator=torch.Generator().manual_seed(5)).to(device, dtype)


def same(a, b):
    assert a.dtype == b.dtype
    assert a.shape == b.shape
    assert torch.equal(
        a.contiguous().flatten().view(torch.uint8), b.contiguous().flatten().view(torch.uint8)
    )


def oracle_levels():
    """QLoRA's construction, by SciPy's quantile."""
    positive, negative = (
        [norm.ppf(p) for p in np.linspace(0.9677083, 0.5, k)[:-1]] for k in (9, 8)
    )
    return np.array(sorted([-v for v in negative] + [0.0] + positive)) / max(positive)


def oracle(W, config):
    """(codes, rounded W) of a NumPy matrix, one weight at a time, in float32."""
    values, flat = oracle_levels(), W.astype(np.float32).reshape(-1)
    absmax, codes = [], []
    for start in range(0, flat.size, config.block):
        block = flat[start : start + config.block]
        absmax.append(max(abs(v) for v in block))
        for v in block:
            unit = v / absmax[-1] if absmax[-1] > 0 else np.float32(0)
            codes.append(min(range(16), key=lambda k: abs(values[k] - float(unit))))
    if config.double:
        mean, rounded = np.float32(np.mean(np.array(absmax, dtype=np.float64))), []
        for start in range(0, len(absmax), 256):
            group = [a - mean for a in absmax[start : start + 256]]
            scale = max(abs(g) for g in group) / np.float32(127)
            rounded += [
                max(
                    mean + np.float32(np.rint(g / scale) if scale > 0 else 0) * scale, np.float32(0)
                )
                for g in group
            ]
        absmax = rounded
    values = values.astype(np.float32)
    return codes, np.array(
        [values[c] * absmax[i // config.block] for i, c in enumerate(codes)]
    ).reshape(W.shape)


def test_the_levels_are_quantiles_of_the_normal_distribution():
    levels = nf4.levels()
    assert levels.dtype == torch.float64
    assert len(levels) == 16
    assert (levels.diff() > 0).all()
    assert levels[0] == -1
    assert levels[7] == 0
    assert levels[15] == 1
    np.testing.assert_allclose(levels, oracle_levels(), rtol=0, atol=1e-14)
    assert pytest.approx((31 / 32 + 29 / 30) / 2, abs=5e-8) == nf4.TAIL
    # QLoRA, appendix E
    published = [-0.6961928009986877, -0.09105003625154495, 0.07958029955625534, 0.7229568362236023]
    # Theirs come from a float32 grid
    np.testing.assert_allclose(levels[[1, 6, 8, 14]], published, rtol=0, atol=1.1e-7)


@pytest.mark.parametrize("config", CONFIGS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_quantised_weights_equal_a_loop(shape, config):
    W = weight(*shape)
    layer = nn.Linear(*shape[::-1])
    layer.weight.data.copy_(W)
    quantised = NF4Layer.of(layer, config)
    codes, rounded = oracle(W.numpy(), config)
    assert nf4.unpack(quantised.codes, W.numel()).tolist() == codes
    # Each product is rounded once, the reconstructed absmax twice more, relative to the largest.
    np.testing.assert_allclose(
        quantised.dequantize(), rounded, rtol=ULP, atol=2 * ULP * np.abs(rounded).max()
    )
    expected = np.linalg.norm(rounded.astype(np.float64) - W.numpy()) / np.linalg.norm(
        W.numpy().astype(np.float64)
    )
    assert quantised.error.item() == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_more_than_256_blocks_have_a_scale_each():
    W = weight(150, 128)
    W[75:] *= 100  # 300 blocks of 64: the second group of scales serves the last 44
    codes, absmax = nf4.encode(W, 64)
    eight, scale, mean = nf4.compress(absmax)
    assert (eight.dtype, eight.shape, scale.shape, mean.shape) == (torch.int8, (300,), (2,), ())
    assert eight.abs().max() == 127
    _, rounded = oracle(W.numpy(), NF4())
    actual = nf4.decode(nf4.pack(codes), nf4.expand(eight, scale, mean), (150, 128), 64, nf4.PAIRS)
    np.testing.assert_allclose(actual, rounded, rtol=ULP, atol=2 * ULP * np.abs(rounded).max())


@given(
    st.lists(
        st.floats(-(2.0**60), 2.0**60, width=32, allow_subnormal=False), min_size=1, max_size=200
    ),
    st.sampled_from(BLOCKS),
)
def test_each_code_is_the_nearest_level_and_the_error_is_bounded(values, block):
    W = torch.tensor([values])
    codes, absmax = nf4.encode(W, block)
    levels, flat = nf4.levels(), W.double().view(-1)
    each = absmax.double().repeat_interleave(block)[: flat.numel()]
    distance = (flat[:, None] - each[:, None] * levels).abs()
    chosen = distance.gather(1, codes.long()[:, None]).view(-1)
    assert (chosen <= distance.amin(1) + 2 * ULP * each).all()
    single = (
        nf4.decode(nf4.pack(codes), absmax, (1, len(values)), block, nf4.PAIRS).double().view(-1)
    )
    bound = each * (levels.diff().max() / 2 + 2 * ULP)
    assert ((single - flat).abs() <= bound).all()
    # Double quantisation moves an absmax by half a scale at most, and with it the weights that are
    # not 0.
    eight, scale, mean = nf4.compress(absmax)
    again = nf4.expand(eight, scale, mean)
    step = scale.double().repeat_interleave(256)[: absmax.numel()] / 2 + 2 * ULP * (
        absmax.double() + mean.double()
    )
    assert ((again.double() - absmax.double()).abs() <= step).all()
    assert (again >= 0).all()
    double = (
        nf4.decode(nf4.pack(codes), again, (1, len(values)), block, nf4.PAIRS).double().view(-1)
    )
    assert (
        (double - flat).abs() <= bound + step.repeat_interleave(block)[: flat.numel()] * (1 + ULP)
    ).all()


@given(
    st.integers(1, 300),
    st.integers(0, 2**31),
    st.sampled_from(BLOCKS),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float64]),
)
def test_quantising_again_changes_nothing(size, seed, block, dtype):
    W = weight(1, size, seed, dtype)
    codes, absmax = nf4.encode(W, block)
    rounded = nf4.decode(nf4.pack(codes), absmax, (1, size), block, nf4.PAIRS)
    again, maxima = nf4.encode(rounded.to(dtype), block)
    same(again, codes)
    same(maxima, absmax)


@given(st.lists(st.integers(0, 15), min_size=1, max_size=20))
def test_two_codes_share_a_byte_the_first_in_the_high_half(codes):
    packed = nf4.pack(torch.tensor(codes, dtype=torch.uint8))
    padded = [*codes, 0] if len(codes) % 2 else codes
    assert packed.tolist() == [16 * a + b for a, b in zip(padded[::2], padded[1::2], strict=True)]
    assert nf4.unpack(packed, len(codes)).tolist() == codes


def test_normal_weights_lose_less_than_on_an_even_grid():
    W = torch.randn(1000, 640, generator=torch.Generator().manual_seed(0))
    codes, absmax = nf4.encode(W, 64)
    rounded = nf4.decode(nf4.pack(codes), absmax, tuple(W.shape), 64, nf4.PAIRS)
    blocks = W.view(-1, 64) / absmax[:, None]
    even = (((blocks + 1) * 7.5).round() / 7.5 - 1) * absmax[:, None]  # 16 levels from -1 to 1
    assert (rounded - W).square().mean().sqrt().item() == pytest.approx(0.092, abs=5e-4)
    assert (even.view_as(W) - W).square().mean().sqrt().item() == pytest.approx(0.1005, abs=5e-4)


def test_a_block_of_zeros_stays_zero():
    for config in (NF4(32), NF4(32, False)):
        layer = make("Linear", 4, 32)
        layer.weight.data[1] = 0
        assert not NF4Layer.of(layer, config).dequantize()[1].any()
        nn.init.zeros_(layer.weight)
        quantised = NF4Layer.of(layer, config)
        assert not quantised.dequantize().any()
        assert quantised.error == 0


def test_one_large_block_leaves_the_signs_of_the_small_ones():
    W = weight(51, 32)
    # The 8-bit step is then larger than every other absmax, and theirs are rounded down: 127/50 is
    # nearer to 3
    W[0] *= 1e6
    eight, scale, mean = nf4.compress(nf4.encode(W, 32)[1])
    assert (mean + eight[1:] * scale < 0).all()
    assert not nf4.expand(eight, scale, mean)[1:].any()
    layer = nn.Linear(32, 51, bias=False)
    layer.weight.data.copy_(W)
    assert (NF4Layer.of(layer, NF4(32)).dequantize() * W >= 0).all()


@pytest.mark.parametrize(
    ("config", "bits"),
    [(NF4(), 4.127), (NF4(64, False), 4.5), (NF4(128), 4.064), (NF4(4096, False), 4.008)],
    ids=str,
)
def test_bits_a_weight_are_those_of_the_memory(config, bits):
    layer = NF4Layer.of(nn.Linear(1024, 1024, bias=False), config)
    state = layer.state_dict()
    assert (
        layer.bits
        == 8 * sum(tensor.numel() * tensor.element_size() for tensor in state.values()) / 2**20
    )
    assert layer.bits == pytest.approx(bits, abs=1e-3)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("config", [NF4(), NF4(64, False)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", MAKERS)
def test_the_layer_multiplies_by_the_rounded_weight(name, dtype, config, device):
    layer = make(name, 13, 17, dtype, device).eval()
    before = {key: value.clone() for key, value in layer.state_dict().items()}
    quantised = NF4Layer.of(layer, config)
    W, x = quantised.dequantize(), inputs(17, 2, 3, dtype=dtype, device=device)
    assert (quantised.in_features, quantised.out_features) == (17, 13)
    assert not quantised.training
    assert quantised.bias is layer.bias
    assert W.dtype == dtype
    same(W, quantised.dequantize())
    same(quantised(x), F.linear(x, W, layer.bias))
    same(quantised.weight, W if "Linear" in name else W.T)
    assert 0.05 < ((W - dense(layer)).double().norm() / dense(layer).double().norm()).item() < 0.15
    for key, value in layer.state_dict().items():
        same(value, before[key])


def test_half_precision_rounds_the_same_weight_once():
    layer = make("Linear", 13, 17)
    # So that all three dtypes start from the same numbers
    layer.weight.data = layer.weight.bfloat16().float()
    full = NF4Layer.of(layer, NF4()).dequantize()
    for dtype in (torch.bfloat16, torch.float64):
        same(NF4Layer.of(copy.deepcopy(layer).to(dtype), NF4()).dequantize(), full.to(dtype))


def test_to_changes_the_dtype_of_the_product_and_not_the_statistics():
    quantised = NF4Layer.of(make("Linear", 13, 17), NF4())
    before = {key: value.clone() for key, value in quantised.state_dict().items()}
    full, bias = quantised.dequantize(), quantised.bias.detach().clone()
    for move in (
        nn.Module.double,
        nn.Module.bfloat16,
        nn.Module.half,
        lambda module: module.type(torch.float32),
    ):
        moved = move(copy.deepcopy(quantised))
        dtype = moved.bias.dtype
        same(moved.dequantize(), full.to(dtype))
        same(moved.bias, bias.to(dtype))
        x = inputs(17, 3, dtype=dtype)
        same(moved(x), F.linear(x, full.to(dtype), moved.bias))
        for key, value in moved.state_dict().items():
            if key != "bias":
                same(value, before[key])
    back = quantised.bfloat16().float()
    same(back.dequantize(), full)  # no bit of the weight is lost on the way


@pytest.mark.parametrize("config", [NF4(), NF4(32, False)], ids=str)
def test_a_state_dict_brings_back_every_bit(config):
    first, second = (NF4Layer.of(make("Conv1D", 13, 17, seed=seed), config) for seed in (0, 8))
    expected = {"bias", "codes", "error"} | (
        {"absmax_codes", "absmax_scale", "absmax_mean"} if config.double else {"absmax"}
    )
    assert set(first.state_dict()) == expected
    assert not torch.equal(second.dequantize(), first.dequantize())
    second.load_state_dict(first.state_dict())
    for key, value in first.state_dict().items():
        same(second.state_dict()[key], value)
    same(second.dequantize(), first.dequantize())


@pytest.mark.parametrize("name", MAKERS)
def test_copies_are_whole_and_their_own(name):
    quantised = NF4Layer.of(make(name, 13, 17), NF4())
    x, file = inputs(17, 3), io.BytesIO()
    expected = quantised(x)
    torch.save(quantised, file)
    file.seek(0)
    for twin in (
        copy.deepcopy(quantised),
        pickle.loads(pickle.dumps(quantised)),
        torch.load(file, weights_only=False),
    ):
        same(twin(x), expected)
        assert type(twin.plain(twin.dequantize())) is type(MAKERS[name](1, 1))
        twin.codes.zero_()
        same(quantised(x), expected)


@pytest.mark.parametrize("name", MAKERS)
def test_plain_is_the_original_class_with_the_given_weight(name):
    layer = make(name, 13, 17).eval()
    quantised = NF4Layer.of(layer, NF4())
    W, x = weight(13, 17, seed=3), inputs(17, 3)
    plain = quantised.plain(W)
    assert type(plain) is type(layer)
    assert repr(plain) == repr(layer)
    assert list(plain.state_dict()) == list(layer.state_dict())
    assert not plain.training
    assert plain.bias is layer.bias
    assert plain.weight.requires_grad
    assert plain.weight.is_contiguous()
    same(dense(plain), W)
    torch.testing.assert_close(plain(x), F.linear(x, W, layer.bias), rtol=1e-5, atol=1e-5)
    W.zero_()
    assert dense(plain).any(), "the layer has memory of its own"
    assert not NF4Layer.of(layer.requires_grad_(False), NF4()).plain(W).weight.requires_grad
    with pytest.raises(PerakitError, match=r"W has shape \(17, 13\), the layer \(13, 17\)"):
        quantised.plain(W.T)


@pytest.mark.parametrize("batch", [(), (3,), (2, 3), (0,)], ids=str)
def test_gradients_are_those_of_the_rounded_weight(batch):
    quantised = NF4Layer.of(make("Conv1D", 13, 17), NF4()).double()
    W, b = quantised.dequantize(), quantised.bias
    x = inputs(17, *batch, dtype=torch.float64).requires_grad_()
    direction = inputs(13, *batch, dtype=torch.float64)
    actual = torch.autograd.grad((quantised(x) * direction).sum(), (x, b))
    expected = torch.autograd.grad((F.linear(x, W, b) * direction).sum(), (x, b))
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=1e-12, atol=1e-12)
    assert torch.autograd.gradcheck(
        lambda x, b: quantised.linear(x, quantised.dequantize(), b), (x, b)
    )
    assert torch.autograd.gradgradcheck(
        lambda x, b: quantised.linear(x, quantised.dequantize(), b).square(), (x, b)
    )


def test_no_gradient_is_asked_for_where_none_is_needed():
    quantised = NF4Layer.of(make("Linear", 13, 17).requires_grad_(False), NF4())
    assert not quantised(inputs(17, 3)).requires_grad
    quantised.bias.requires_grad_()
    quantised(inputs(17, 3)).sum().backward()
    same(quantised.bias.grad, torch.full((13,), 3.0))


def kept(module, x):
    """Sizes of the float tensors that autograd keeps for the backward pass."""
    sizes = []

    def note(tensor):
        sizes.append(tensor.numel() if tensor.is_floating_point() else 0)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        y = module(x)
    y.sum().backward()
    return sizes


def test_the_dense_weight_is_not_kept_for_the_backward_pass():
    layer = make("Linear", 61, 47)
    quantised = NF4Layer.of(layer, NF4())
    frozen = copy.deepcopy(layer).requires_grad_(False)
    assert max(kept(frozen, inputs(47, 3).requires_grad_())) == 61 * 47, "as a dense layer does"
    sizes = kept(quantised, inputs(47, 3).requires_grad_())
    assert sizes
    assert max(sizes) <= 512

    adapter = with_factors(torch.ones(61, 2), torch.ones(2, 47))

    def adapted(x):
        W0 = quantised.dequantize()
        return fast.forward(x, W0, quantised.bias, quantised.linear, [adapter])

    assert max(kept(adapted, inputs(47, 3).requires_grad_())) <= 512


def with_factors(B, A):
    """A LoRA adapter of these factors, scale 1."""
    adapter = pk.LoRA.adapter(pk.LoRA(rank=A.shape[0]), B @ A)
    with torch.no_grad():
        adapter.B.copy_(B)
        adapter.A.copy_(A)
    return adapter


def test_an_adapter_on_top_has_the_gradients_of_the_dense_formula():
    quantised = NF4Layer.of(make("Conv1D", 13, 17), NF4()).double()
    x = inputs(17, 3, dtype=torch.float64).requires_grad_()
    adapter = with_factors(weight(13, 2, 1, torch.float64), weight(2, 17, 2, torch.float64))
    B, A = adapter.B, adapter.A
    W0 = quantised.dequantize()
    actual = fast.forward(x, W0, quantised.bias, quantised.linear, [adapter])
    expected = F.linear(x, quantised.dequantize() + B @ A, quantised.bias)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)
    for a, e in zip(
        *(torch.autograd.grad(y.square().sum(), (x, B, A)) for y in (actual, expected)), strict=True
    ):
        torch.testing.assert_close(a, e, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_autocast_is_that_of_a_dense_layer(dtype):
    quantised = NF4Layer.of(make("Linear", 13, 17, dtype), NF4())
    W, b = quantised.dequantize(), quantised.bias
    x = inputs(17, 2, 3, dtype=dtype).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        actual, expected = quantised(x), F.linear(x, W, b)
    assert actual.dtype == torch.bfloat16
    same(actual, expected)
    for a, e in zip(
        *(torch.autograd.grad(y.float().square().sum(), (x, b)) for y in (actual, expected)),
        strict=True,
    ):
        assert a.dtype == dtype
        torch.testing.assert_close(a, e, rtol=2**-7, atol=2**-7 * e.abs().max().item())


@pytest.mark.parametrize("config", [NF4(), NF4(64, False)], ids=str)
@pytest.mark.parametrize("name", ["Linear", "Conv1D"])
def test_compiles_as_one_graph(name, config):
    torch._dynamo.reset()
    quantised = NF4Layer.of(make(name, 13, 17), config)
    compiled = torch.compile(quantised, fullgraph=True, backend="aot_eager")
    x = inputs(17, 2, 3).requires_grad_()
    for autocast in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            actual, expected = compiled(x), quantised(x)
        same(actual, expected)
        for a, e in zip(
            *(
                torch.autograd.grad(y.float().square().sum(), (x, quantised.bias))
                for y in (actual, expected)
            ),
            strict=True,
        ):
            torch.testing.assert_close(
                a,
                e,
                rtol=2**-7 if autocast else 1e-6,
                atol=2**-7 * e.abs().max().item() if autocast else 1e-6,
            )


def test_functional_call_and_checkpointing():
    quantised, other = (NF4Layer.of(make("Linear", 13, 17, seed=seed), NF4()) for seed in (0, 8))
    x = inputs(17, 3).requires_grad_()
    same(functional_call(quantised, other.state_dict(), (x,)), other(x))
    again = torch.utils.checkpoint.checkpoint(quantised, x, use_reentrant=False)
    same(again, quantised(x))
    same(*(torch.autograd.grad(y.square().sum(), x)[0] for y in (again, quantised(x))))


def test_parse():
    assert parse(None) is None
    assert parse("nf4") == NF4(block=64, double=True)
    assert parse(NF4(128)) == NF4(128)
    for wrong in ("NF4", "int8", 4, True, NF4, {"type": "nf4"}):
        with pytest.raises(PerakitError, match=r"is unknown: pass 'nf4', pk\.NF4") as caught:
            parse(wrong)
        assert repr(wrong) in str(caught.value)


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("double", [True, False])
def test_a_configuration_survives_json(block, double):
    config = NF4(block, double)
    assert config.to_dict() == {"type": "nf4", "block": block, "double": double}
    assert NF4.from_dict(config.to_dict()) == config


@pytest.mark.parametrize(
    "block", [0, 16, 63, 64.0, "64", None, True, 8192, -64, float("nan"), [64]]
)
def test_other_block_sizes_are_refused(block):
    with pytest.raises(
        PerakitError,
        match=r"is no block size: choose one of 32, 64, 128, 256, 512, 1024, 2048, 4096",
    ) as caught:
        NF4(block)
    assert f"block={block!r}" in str(caught.value)
    with pytest.raises(PerakitError, match="is no block size"):
        NF4.from_dict({"type": "nf4", "block": block, "double": True})


@pytest.mark.parametrize("double", [1, None, "true"])
def test_double_is_a_truth_value(double):
    with pytest.raises(PerakitError, match=f"double={double!r} must be True or False"):
        NF4(64, double)


@pytest.mark.parametrize(
    "config",
    [
        *(
            None,
            "nf4",
            3,
            [],
            {},
            {"type": "nf4"},
            {"type": "nf4", "block": 64},
            {"block": 64, "double": True},
        ),
        *(
            {"type": "int8", "block": 64, "double": True},
            {"type": "nf4", "block": 64, "double": True, "bits": 4},
        ),
    ],
    ids=str,
)
def test_other_configurations_are_refused(config):
    with pytest.raises(
        PerakitError,
        match=(
            r"perakit reads \{'type': 'nf4', 'block': 64, 'double': True\}, with these three keys"
        ),
    ):
        NF4.from_dict(config)


def integer():
    layer = nn.Linear(4, 3)
    layer.weight = nn.Parameter(torch.zeros(3, 4, dtype=torch.int8), requires_grad=False)
    return layer


def counting():
    layer = nn.Linear(4, 3)
    layer.register_buffer("calls", torch.zeros(()))
    return layer


@pytest.mark.parametrize(
    ("module", "said"),
    [
        (
            nn.LayerNorm(3),
            (
                "LayerNorm with a weight of torch.float32 cannot be quantised: pass a Linear or"
                " Conv1D layer"
            ),
        ),
        (nn.Sequential(nn.Linear(2, 2)), "Sequential cannot be quantised"),
        (nn.Conv2d(1, 1, 1), "Conv2d with a weight of torch.float32 cannot be quantised"),
        (integer(), "Linear with a weight of torch.int8 cannot be quantised"),
        (
            nn.Linear(4, 3, device="meta"),
            "is on the meta device and has no numbers: load the model first",
        ),
        (counting(), "Linear has calls besides weight and bias, which would be lost"),
        (torch.zeros(3, 4), "Tensor cannot be quantised"),
        (
            NF4Layer.of(nn.Linear(4, 3), NF4()),
            "the layer is in 4 bits already, NF4(block=64, double=True)",
        ),
    ],
    ids=["LayerNorm", "Sequential", "Conv2d", "int8", "meta", "buffer", "tensor", "4 bits"],
)
def test_other_modules_are_refused(module, said):
    with pytest.raises(PerakitError) as caught:
        NF4Layer.of(module, NF4())
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("value", "dtype"),
    [(float("nan"), torch.float32), (float("inf"), torch.bfloat16), (1e300, torch.float64)],
)
def test_a_weight_that_is_no_number_is_refused(value, dtype):
    layer = make("Linear", 13, 17, dtype)
    layer.weight.data[3, 5] = value
    with pytest.raises(
        PerakitError, match="has NaN, inf or a number beyond float32: load a good model"
    ):
        NF4Layer.of(layer, NF4())


def test_a_weight_at_the_end_of_its_dtype_is_refused():
    layer = nn.Linear(64, 5).half()
    layer.weight.data[:, 0] = torch.tensor([65504.0, 3000.0, 65504.0, 65504.0, 65504.0])
    assert NF4Layer.of(layer, NF4(64, double=False)).dequantize().isfinite().all()
    assert NF4Layer.of(copy.deepcopy(layer).float(), NF4()).dequantize().abs().max() > 65520, (
        "the 8-bit absmax is the larger"
    )
    with pytest.raises(
        PerakitError,
        match=(
            r"near the end of torch.float16 and rounds beyond it in 4 bits: move the layer to a"
            r" wider dtype"
        ),
    ):
        NF4Layer.of(layer, NF4())


def test_the_wrong_configuration_object_is_refused():
    with pytest.raises(PerakitError, match="config='nf4' is not an NF4"):
        NF4Layer.of(nn.Linear(4, 3), "nf4")


def test_repr_says_how_it_is_kept():
    assert (
        repr(NF4Layer.of(Conv1D(5, 4), NF4(128)))
        == "NF4Layer(4, 5, bias=True, was=Conv1D, NF4(block=128, double=True))"
    )
