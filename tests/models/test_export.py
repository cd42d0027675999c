"""Export: a file that the real PEFT loads without a word, the same function before merging, the
same bits after.
"""

import copy
import json
import os
import re
import threading
import warnings
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import peft
import pytest
import torch
from peft.tuners.tuners_utils import check_target_module_exists
from peft.utils.other import get_pattern_key
from safetensors.numpy import load_file
from safetensors.torch import save_file
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.pytorch_utils import Conv1D

import perakit as pk
from perakit.adapters import DeLoRA, DoRA, HiRA, LoHa, Method, MoRA, Quadratic
from perakit.cli import main
from perakit.models import export
from perakit.models.export import export_peft, target_modules
from perakit.models.truncation import factorise

# Ranks such that K < min(m, n) on most layers and K > min(m, n) on some; scales other than 1.
METHODS = {
    "lora": pk.LoRA(rank=3, alpha=4),
    "rslora": pk.LoRA(rank=3, alpha=4, scaling="rslora"),
    "pera": pk.PERA(rank=3, alpha=2),
    "square": pk.PERA(rank=2, terms="square", degree=3, feature_scale=2.0),
    "wide": pk.PERA(rank=9),  # K = 54: more than the layers are wide
    "dora": DoRA(rank=2, alpha=3),
    "hira": HiRA(rank=2, alpha=3),
    "mora": MoRA(rank=2, alpha=3),
    "delora": DeLoRA(rank=2, alpha=3),
    "loha": LoHa(rank=2, alpha=3),
}
# In float32 an update of the size of W0 is summed from K terms: 1e-5 of the logits' scale, as
# everywhere in perakit.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}
# transformers' word to PEFT, not about the adapter
OLD_NAME = ".is_gradient_checkpointing. is deprecated"
TARGETS = {"gpt2": ["c_attn", "c_proj", "c_fc"], "mlp": ["up", "down"]}


class MLP(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down, self.head = (
            nn.Linear(17, 23),
            nn.Linear(23, 19, bias=False),
            nn.Linear(19, 5),
        )

    def forward(self, x):
        return self.head(torch.tanh(self.down(torch.tanh(self.up(x)))))


def make(kind="gpt2", dtype=torch.float32):
    """A small random base in eval mode, in double precision or less, and an input."""
    torch.manual_seed(0)
    if kind == "mlp":
        model, x = MLP(), torch.randn(3, 17, dtype=dtype)
    else:
        model = GPT2LMHeadModel(
            GPT2Config(
                vocab_size=29,
                n_positions=16,
                n_embd=22,
                n_layer=2,
                n_head=2,
                n_inner=34,
                bos_token_id=0,
                eos_token_id=0,
            )
        )
        x = torch.randint(0, 29, (2, 11))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2)
    return model.to(dtype).eval(), x


def move(model, size=0.3, seed=1):
    """Factors off their start; ΔW about as large as W0, so that a mistake in it shows."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for adapter in [
            part
            for layer in pk.models.adapted.adapted_layers(model).values()
            for part in layer.adapters.values()
        ]:
            for name, parameter in adapter.named_parameters():
                noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                parameter.copy_(1 + 0.3 * noise if name in ("magnitude", "lam") else size * noise)


def adapted(method, kind="gpt2", dtype=torch.float32, targets=None):
    """(base, the same with a moved adapter, input)."""
    base, x = make(kind, dtype)
    model = copy.deepcopy(base)
    pk.attach(model, method, targets or TARGETS[kind])
    move(model)
    return base, model, x


def logits(model, x):
    with torch.no_grad():
        output = model(x)
    return output.logits if hasattr(output, "logits") else output


def in_peft(base, folder):
    """The adapter in the real PEFT, on a copy of the base; any warning is an error
    (pyproject.toml), said again here.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", OLD_NAME, FutureWarning)
        return peft.PeftModel.from_pretrained(copy.deepcopy(base), folder).eval()


def numpy_deltas(model):
    """ΔW of each layer in float64, by the formulas read with NumPy, from parameters and W0."""
    found = {}
    for name, layer in pk.models.adapted.adapted_layers(model).items():
        W0 = layer.W0.detach().double().numpy()
        total = np.zeros(W0.shape)
        for adapter in layer.active_adapters:
            total += adapter.method.update(
                W0, **{key: p.detach().double().numpy() for key, p in adapter.named_parameters()}
            )
        found[name] = total
    return found


def read(folder):
    """Layer -> (B, A) as they are in the file, in float64, and the configuration."""
    tensors = load_file(folder / "adapter_model.safetensors")
    config = json.loads((folder / "adapter_config.json").read_text())
    names = sorted({key.rsplit(".", 2)[0].removeprefix("base_model.model.") for key in tensors})
    assert len(tensors) == 2 * len(names)
    pairs = {
        name: tuple(
            tensors[f"base_model.model.{name}.lora_{key}.weight"].astype(np.float64) for key in "BA"
        )
        for name in names
    }
    return pairs, config


def is_dense(layer):
    """Is ΔW written beside an identity?"""
    factors = layer.adapter.product(layer.W0)
    return len(factors) == 1 or factors[0].shape[1] > min(layer.W0.shape)


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_every_mergeable_method_is_exported_here():
    ours = {
        name: cls for name, cls in Method.registry.items() if cls.__module__.startswith("perakit.")
    }
    assert {method.name for method in METHODS.values()} == {
        name for name, cls in ours.items() if cls.mergeable
    }


# --- the same function in PEFT --------------------------------------------------------------------


@pytest.mark.parametrize("dtype", TOLERANCE, ids=["float64", "float32"])
@pytest.mark.parametrize("kind", TARGETS)
@pytest.mark.parametrize("method", METHODS)
def test_peft_answers_as_perakit_before_merging(method, kind, dtype, tmp_path):
    base, model, x = adapted(METHODS[method], kind, dtype)
    export_peft(model, tmp_path)
    expected, before = logits(model, x), logits(base, x)
    # a thousand times the tolerance: it is the update that agrees
    assert (expected - before).norm() > 0.01 * before.norm()
    assert (logits(in_peft(base, tmp_path), x) - expected).norm() <= TOLERANCE[
        dtype
    ] * expected.norm()


@pytest.mark.parametrize("kind", TARGETS)
@pytest.mark.parametrize("method", METHODS)
def test_float64_weights_after_merging_are_bitwise_those_of_bake(method, kind, tmp_path):
    base, model, x = adapted(METHODS[method], kind, torch.float64)
    export_peft(model, tmp_path)
    merged = in_peft(base, tmp_path).merge_and_unload()
    pk.bake(model)
    assert list(merged.state_dict()) == list(model.state_dict()) == list(base.state_dict())
    for name, weight in merged.state_dict().items():
        assert torch.equal(weight, model.state_dict()[name]), name
    assert torch.equal(logits(merged, x), logits(model, x))


@pytest.mark.parametrize("kind", TARGETS)
@pytest.mark.parametrize("method", METHODS)
def test_float32_weights_after_merging_are_bitwise_w0_plus_delta(method, kind, tmp_path):
    base, model, _ = adapted(METHODS[method], kind)
    export_peft(model, tmp_path)
    merged = dict(in_peft(base, tmp_path).merge_and_unload().named_modules())
    for name, layer in pk.models.adapted.adapted_layers(model).items():
        # two factors: the float32 ΔW of delta_weights; an identity beside ΔW: the exact ΔW, rounded
        # once
        delta = layer.exact_delta().float() if is_dense(layer) else layer.delta
        assert torch.equal(layer.kind.weight(merged[name]), layer.W0 + delta), name


@pytest.mark.parametrize("kind", TARGETS)
@pytest.mark.parametrize("method", METHODS)
def test_float32_weights_after_merging_differ_from_merge_by_rounding_alone(method, kind, tmp_path):
    base, model, _ = adapted(METHODS[method], kind)
    export_peft(model, tmp_path)
    merged = dict(in_peft(base, tmp_path).merge_and_unload().named_modules())
    factors, _ = read(tmp_path)
    pk.merge(model)
    for name, layer in pk.models.adapted.adapted_layers(model).items():
        exact, (B, A) = layer.merged.double().numpy(), factors[name]
        difference = np.abs(layer.kind.weight(merged[name]).detach().double().numpy() - exact)
        # merge rounds once, PEFT's sum once too; its ΔW adds up K products, and the factors took up
        # to ten roundings to make
        terms = 0 if is_dense(layer) else B.shape[1] + 10
        allowed = 2**-23 * np.maximum(np.abs(exact), np.abs(exact) + difference) + 2**-24 * (
            terms + 1
        ) * (np.abs(B) @ np.abs(A))
        assert np.all(difference <= allowed), (name, (difference / allowed).max())
        assert difference.max() <= 2 * np.spacing(np.abs(exact).max().astype(np.float32)), name


# --- the files ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TARGETS)
@pytest.mark.parametrize("method", METHODS)
def test_factors_in_the_file_multiply_to_delta_by_numpy(method, kind, tmp_path):
    _, model, _ = adapted(METHODS[method], kind, torch.float64)
    report = export_peft(model, tmp_path)
    factors, config = read(tmp_path)
    deltas = numpy_deltas(model)
    assert list(deltas) == [row[0] for row in report.rows]
    assert set(factors) == set(deltas)
    for name, (m, n), K, rank, cut, error, sigma in report.rows:
        B, A = factors[name]
        assert B.shape == (m, rank)
        assert A.shape == (rank, n)
        assert rank == min(K, m, n)
        assert np.linalg.norm(B @ A - deltas[name]) <= 1e-13 * np.linalg.norm(deltas[name])
        assert (cut, sigma) == (0, 0)
        assert error <= 1e-13
    assert config["r"] == config["lora_alpha"] == report.rank


COLUMNS = {
    "lora": 3,
    "rslora": 3,
    "pera": 3 + 6,
    "square": 2 * 3,
    "wide": 9 + 45,
    "delora": 2,
    "loha": 2 * 2,
}


@pytest.mark.parametrize("method", METHODS)
def test_k_is_what_the_method_needs(method, tmp_path):
    _, model, _ = adapted(METHODS[method])
    for _, (m, n), K, rank, *_ in export_peft(model, tmp_path).rows:
        other = {"dora": min(m, n), "hira": min(m, n), "mora": int((2 * (m + n)) ** 0.5 + 0.5)}
        assert (K, rank) == ((COLUMNS | other)[method], min(m, n, (COLUMNS | other)[method]))


def test_configuration_and_tensors_in_full(tmp_path):
    _, model, _ = adapted(pk.PERA(rank=2))
    report = export_peft(model, tmp_path)
    assert sorted(contents(tmp_path)) == ["adapter_config.json", "adapter_model.safetensors"]
    assert report.size == sum(map(len, contents(tmp_path).values()))
    assert read(tmp_path)[1] == {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": None,
        "inference_mode": True,
        "r": 5,
        "lora_alpha": 5,
        "rank_pattern": {},
        "alpha_pattern": {},
        "target_modules": ["c_attn", "c_proj", "c_fc"],
        "fan_in_fan_out": True,
        "lora_dropout": 0.0,
        "bias": "none",
    }
    data = (tmp_path / "adapter_model.safetensors").read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    assert header.pop("__metadata__") == {"format": "pt"}
    assert {entry["dtype"] for entry in header.values()} == {"F32"}
    assert header["base_model.model.transformer.h.1.attn.c_attn.lora_A.weight"]["shape"] == [5, 22]
    assert header["base_model.model.transformer.h.1.attn.c_attn.lora_B.weight"]["shape"] == [66, 5]


@pytest.mark.parametrize(
    ("dtype", "stored"),
    [(torch.float64, "float64"), (torch.float32, "float32"), (torch.bfloat16, "float32")],
)
def test_numbers_have_the_dtype_of_the_adapter(dtype, stored, tmp_path):
    _, model, _ = adapted(DoRA(rank=2), "mlp", dtype)
    export_peft(model, tmp_path)
    assert {
        str(array.dtype) for array in load_file(tmp_path / "adapter_model.safetensors").values()
    } == {stored}
    assert read(tmp_path)[1]["task_type"] is None
    assert read(tmp_path)[1]["fan_in_fan_out"] is False


def test_more_columns_than_the_layer_is_wide_become_an_identity_beside_delta(tmp_path):
    _, model, _ = adapted(pk.PERA(rank=9), "mlp")
    report = export_peft(model, tmp_path)
    factors, _ = read(tmp_path)
    for name, (m, n), K, rank, _, error, _ in report.rows:
        assert (K, rank) == (54, min(m, n))
        eye, delta = factors[name] if m <= n else factors[name][::-1]
        np.testing.assert_array_equal(eye, np.eye(rank))
        exact = numpy_deltas(model)[name]
        # One rounding of each entry
        assert np.all(np.abs(delta - exact) <= 2**-24 * 1.001 * np.abs(exact))
        assert error <= 2**-24
    assert {m <= n for _, (m, n), *_ in report.rows} == {True, False}


def test_merged_and_disabled_models_give_the_same_files(tmp_path):
    _, model, _ = adapted(DoRA(rank=2))
    export_peft(model, tmp_path / "plain")
    with pk.disabled(model):
        export_peft(model, tmp_path / "disabled")
    pk.merge(model)
    export_peft(model, tmp_path / "merged")
    assert (
        contents(tmp_path / "plain")
        == contents(tmp_path / "disabled")
        == contents(tmp_path / "merged")
    )


def test_the_model_is_left_as_it_was(tmp_path):
    _, model, x = adapted(DoRA(rank=2))
    before, expected = copy.deepcopy(model.state_dict()), logits(model, x)
    export_peft(model, tmp_path, rank=3)
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    assert torch.equal(logits(model, x), expected)


def test_an_update_of_zero_is_exported(tmp_path):
    base, x = make()
    model = copy.deepcopy(base)
    pk.attach(model, pk.PERA(rank=2), ["c_attn"])
    report = export_peft(model, tmp_path, rank=2)
    assert {row[3:] for row in report.rows} == {(2, 0.0, 0.0, 0.0)}
    assert torch.equal(logits(in_peft(base, tmp_path), x), logits(base, x))


def test_the_adapter_of_the_toy_gpt2_loads_onto_transformers(tmp_path):
    base, x = make()
    toy = pk.toy.GPT2(
        pk.toy.Config(vocab_size=29, n_positions=16, n_embd=22, n_layer=2, n_head=2, n_inner=34)
    ).eval()
    toy.load_state_dict(base.state_dict())
    pk.attach(toy, pk.PERA(rank=3), "all-linear")
    move(toy)
    export_peft(toy, tmp_path)
    with torch.no_grad():
        expected = toy(x)
    assert read(tmp_path)[1]["task_type"] == "CAUSAL_LM"
    assert (logits(in_peft(base, tmp_path), x) - expected).norm() <= 1e-5 * expected.norm()


# --- truncation -----------------------------------------------------------------------------------


def mixed(kind="gpt2", dtype=torch.float32):
    """A model with K = 2, 14 and min(m, n) on different layers."""
    base, x = make(kind, dtype)
    model = copy.deepcopy(base)
    pk.attach(model, pk.PERA(rank=4), ["c_attn"])
    pk.attach(model, pk.LoRA(rank=2), ["attn.c_proj"])
    pk.attach(model, DoRA(rank=2), ["h.1.mlp.c_fc"])
    move(model)
    return base, model, x


def test_truncation_is_the_nearest_and_its_error_is_certified(tmp_path):
    _, model, _ = mixed()
    report = export_peft(model, tmp_path, rank=5)
    factors, _ = read(tmp_path)
    for name, shape, K, rank, cut, error, sigma in report.rows:
        target = numpy_deltas(model)[name]
        values, size = np.linalg.svd(target, compute_uv=False), np.linalg.norm(target)
        assert target.shape == shape
        assert rank == min(K, 5)
        measured = np.linalg.norm(factors[name][0] @ factors[name][1] - target) / size
        assert error == pytest.approx(measured, rel=1e-6, abs=1e-12)
        if K <= 5:
            assert (cut, sigma) == (0, 0)
            continue
        # DoRA's row lengths are float32 numbers, those of its formula are not
        rel = 1e-6 if name.endswith("c_fc") else 1e-9
        assert cut == pytest.approx(np.linalg.norm(values[5:]) / size, rel=rel)
        assert sigma == pytest.approx(values[5], rel=rel)
        assert cut * (1 - 1e-12) <= error <= cut + 1e-6
        assert cut > 0.01
    assert {row[2:4] for row in report.rows} == {(14, 5), (2, 2), (22, 5)}
    assert report.worst == max(row[5] for row in report.rows)


def test_truncation_splits_the_singular_values_evenly(tmp_path):
    _, model, _ = adapted(pk.PERA(rank=4), "mlp")
    export_peft(model, tmp_path, rank=3)
    for B, A in read(tmp_path)[0].values():
        np.testing.assert_allclose(B.T @ B, A @ A.T, atol=1e-6 * np.linalg.norm(A) ** 2)


def test_layers_below_the_rank_keep_their_factors(tmp_path):
    _, model, _ = mixed()
    export_peft(model, tmp_path / "exact")
    export_peft(model, tmp_path / "cut", rank=5)
    exact, cut = read(tmp_path / "exact")[0], read(tmp_path / "cut")[0]
    name = "transformer.h.0.attn.c_proj"
    assert all(np.array_equal(a, b) for a, b in zip(exact[name], cut[name], strict=True))


def test_the_full_rank_cuts_nothing(tmp_path):
    _, model, _ = mixed()
    report = export_peft(model, tmp_path / "cut", rank=22)
    export_peft(model, tmp_path / "exact")
    assert report.rank == 22
    assert {row[4] for row in report.rows} == {0.0}
    assert contents(tmp_path / "cut") == contents(tmp_path / "exact")


def test_truncated_adapter_in_peft(tmp_path):
    base, model, x = mixed()
    report = export_peft(model, tmp_path, rank=5)
    factors, _ = read(tmp_path)
    manual = copy.deepcopy(base).double()
    for name, (B, A) in factors.items():
        manual.get_submodule(name).weight.data += torch.tensor(B @ A).T
    expected = logits(manual, x)
    assert (logits(in_peft(base, tmp_path), x).double() - expected).norm() <= 1e-5 * expected.norm()
    assert report.worst > 0.01


def test_a_model_of_both_kinds(tmp_path):
    torch.manual_seed(0)
    base, x = (
        nn.Sequential(nn.Linear(5, 7), Conv1D(7, 7), nn.Linear(7, 7), Conv1D(3, 7)),
        torch.randn(2, 5),
    )
    model = copy.deepcopy(base)
    pk.attach(model, pk.LoRA(rank=2), "all-linear")
    move(model)
    export_peft(model, tmp_path)
    # PEFT, which has one setting for all layers, sets it for each
    with pytest.warns(UserWarning, match="fan_in_fan_out") as said:
        loaded = peft.PeftModel.from_pretrained(copy.deepcopy(base), tmp_path)
    assert all("fan_in_fan_out is set to" in str(warning.message) for warning in said)
    expected = logits(model, x)
    assert (logits(loaded, x) - expected).norm() <= 1e-5 * expected.norm()


# --- padding and mixed ranks ----------------------------------------------------------------------


@pytest.mark.parametrize(("rank", "padded"), [(1, 1), (2, 8), (8, 8), (9, 16), (16, 16), (17, 32)])
def test_padding_is_zeros_up_to_the_next_rank_that_servers_take(rank, padded, tmp_path):
    base, model, x = adapted(pk.LoRA(rank=rank), "mlp")
    report = export_peft(model, tmp_path / "padded", pad=True)
    export_peft(model, tmp_path / "exact")
    assert {row[3] for row in report.rows} == {padded}
    for name, (B, A) in read(tmp_path / "padded")[0].items():
        B0, A0 = read(tmp_path / "exact")[0][name]
        k = B0.shape[1]
        np.testing.assert_array_equal(B, np.hstack([B0, np.zeros((len(B), padded - k))]))
        np.testing.assert_array_equal(A, np.vstack([A0, np.zeros((padded - k, A.shape[1]))]))
    assert read(tmp_path / "padded")[1]["r"] == padded
    expected = logits(model, x)
    assert (
        logits(in_peft(base, tmp_path / "padded"), x) - expected
    ).norm() <= 1e-5 * expected.norm()


def test_padding_makes_mixed_ranks_uniform(tmp_path):
    _, model, _ = mixed()
    report = export_peft(model, tmp_path, pad=True)
    assert {row[3] for row in report.rows} == {32}
    assert read(tmp_path)[1]["rank_pattern"] == {}
    report = export_peft(model, tmp_path, rank=7, pad=True)
    assert {row[3] for row in report.rows} == {8}


def test_mixed_ranks_are_patterns_of_the_whole_name(tmp_path):
    base, model, x = mixed()
    export_peft(model, tmp_path)
    config = read(tmp_path)[1]
    # The largest, for which servers make room
    assert (config["r"], config["lora_alpha"]) == (22, 22)
    assert (
        config["rank_pattern"]
        == config["alpha_pattern"]
        == {
            r"^transformer\.h\.0\.attn\.c_attn": 14,
            r"^transformer\.h\.0\.attn\.c_proj": 2,
            r"^transformer\.h\.1\.attn\.c_attn": 14,
            r"^transformer\.h\.1\.attn\.c_proj": 2,
        }
    )
    loaded = in_peft(base, tmp_path)
    layers = [module for module in loaded.modules() if isinstance(module, peft.tuners.lora.Linear)]
    assert sorted(module.r["default"] for module in layers) == [2, 2, 14, 14, 22]
    assert {module.scaling["default"] for module in layers} == {1.0}
    expected = logits(model, x)
    assert (logits(loaded, x) - expected).norm() <= 1e-5 * expected.norm()


class Trap(nn.Module):
    """Names of which one is the end, or as a pattern the twin, of another."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleDict(
            {name: nn.ModuleDict({"up": nn.Linear(6, 6)}) for name in ("h1", "h11", "h_1", "h-1")}
        )
        self.outer = nn.ModuleDict(
            {"blocks": nn.ModuleDict({"h1": nn.ModuleDict({"up": nn.Linear(6, 6)})})}
        )
        self.up = nn.Linear(6, 6)

    def forward(self, x):
        for block in [*self.blocks.values(), *self.outer["blocks"].values()]:
            x = block["up"](x)
        return self.up(x)


def test_patterns_never_match_another_layer(tmp_path):
    torch.manual_seed(0)
    base, x = Trap(), torch.randn(3, 6)
    model = copy.deepcopy(base)
    names = [name for name, module in base.named_modules() if isinstance(module, nn.Linear)]
    for k, name in enumerate(names):
        pk.attach(model, pk.LoRA(rank=1 + k % 4), re.escape(name))
    move(model)
    export_peft(model, tmp_path)
    config = read(tmp_path)[1]
    for k, name in enumerate(names):
        key = get_pattern_key(config["rank_pattern"], name)
        assert config["rank_pattern"].get(key, config["r"]) == 1 + k % 4
    expected = logits(model, x)
    assert (logits(in_peft(base, tmp_path), x) - expected).norm() <= 1e-5 * expected.norm()


# --- target_modules -------------------------------------------------------------------------------

GPT2_NAMES = [
    "transformer",
    *(
        f"transformer.h.{i}.{end}"
        for i in range(12)
        for end in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    ),
]


@pytest.mark.parametrize(
    ("modules", "adapted_names", "expected"),
    [
        (GPT2_NAMES, [n for n in GPT2_NAMES if n.endswith("c_attn")], ["c_attn"]),
        (GPT2_NAMES, [n for n in GPT2_NAMES if n.endswith(("c_proj", "c_fc"))], ["c_proj", "c_fc"]),
        (GPT2_NAMES, [n for n in GPT2_NAMES if n.endswith("mlp.c_proj")], ["mlp.c_proj"]),
        (GPT2_NAMES, ["transformer.h.1.attn.c_attn"], ["1.attn.c_attn"]),  # not of block 11
        (
            GPT2_NAMES,
            ["transformer.h.1.attn.c_attn", "transformer.h.11.attn.c_attn"],
            ["1.attn.c_attn", "11.attn.c_attn"],
        ),
        (["a.x.up", "b.x.up", "up"], ["a.x.up", "b.x.up"], ["x.up"]),
        (["a.up", "b.up", "up"], ["a.up", "b.up"], ["a.up", "b.up"]),
        # The whole name is the end of another: only a regular expression tells them apart
        (["up", "a.up"], ["up"], "up"),
        (["b.up", "a.b.up", "c+d"], ["b.up", "c+d"], r"b\.up|c\+d"),
    ],
)
def test_target_modules_are_the_shortest_that_peft_reads_as_these_layers(
    modules, adapted_names, expected
):
    found = target_modules(modules, adapted_names)
    assert found == expected
    config = SimpleNamespace(
        target_modules=found, exclude_modules=None, layers_to_transform=None, target_parameters=None
    )
    assert [name for name in modules if check_target_module_exists(config, name)] == adapted_names


@pytest.mark.parametrize(
    "targets",
    [
        ["up"],  # every one of them
        r"up",  # the outermost alone, whose name is the end of all others: a regular expression
        r"blocks\.h1\.up",  # whose name is the end of outer.blocks.h1.up
        r"blocks\.h1{2}\.up|outer.*",
        r"blocks\..*|up",
    ],
)
def test_targets_mean_the_same_layers_to_peft(targets, tmp_path):
    torch.manual_seed(0)
    base, x = Trap(), torch.randn(3, 6)
    model = copy.deepcopy(base)
    report = pk.attach(model, pk.LoRA(rank=2), targets)
    move(model)
    export_peft(model, tmp_path)
    loaded = in_peft(base, tmp_path)
    wrapped = {
        name.removeprefix("base_model.model.")
        for name, module in loaded.named_modules()
        if isinstance(module, peft.tuners.lora.Linear)
    }
    assert wrapped == {row[0] for row in report.rows}
    expected = logits(model, x)
    assert (logits(loaded, x) - expected).norm() <= 1e-5 * expected.norm()


# --- several adapters -----------------------------------------------------------------------------


@pytest.mark.parametrize("second", [pk.PERA(rank=2), DoRA(rank=2)], ids=["factors", "dense"])
def test_a_sum_of_adapters_is_one_adapter_in_the_file(second, tmp_path):
    base, model, x = adapted(pk.LoRA(rank=3, alpha=2), dtype=torch.float64)
    pk.attach(model, second, ["c_attn"], name="b")
    move(model)
    pk.activate(model, "default", "b")
    report = export_peft(model, tmp_path / "both")
    expected = logits(model, x)
    assert (
        logits(in_peft(base, tmp_path / "both"), x) - expected
    ).norm() <= 1e-12 * expected.norm()
    assert {row[3] for row in report.rows} == ({3, 8} if second.name == "pera" else {3, 22})
    export_peft(model, tmp_path / "b", name="b")
    pk.activate(model, "b")
    expected = logits(model, x)
    assert (logits(in_peft(base, tmp_path / "b"), x) - expected).norm() <= 1e-12 * expected.norm()
    export_peft(model, tmp_path / "active")
    assert contents(tmp_path / "active") == contents(tmp_path / "b")


def test_names_of_adapters_that_are_not_there(tmp_path):
    _, model, _ = adapted(pk.LoRA(rank=3))
    with pytest.raises(pk.PerakitError, match="no adapter is called 'c': the model has 'default'"):
        export_peft(model, tmp_path / "out", name="c")
    pk.attach(model, pk.LoRA(rank=1), ["c_attn"], name="b")
    pk.delete(model, "b")  # which was the active one
    with pytest.raises(
        pk.PerakitError,
        match=r"no adapter is active: pk.activate\(model, name\) first, or pass name=",
    ):
        export_peft(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    export_peft(model, tmp_path / "out", name="default")


# --- mistakes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 0}, "rank=0 must be an integer >= 1"),
        ({"rank": 2.0}, "rank=2.0 must be an integer >= 1"),
        ({"rank": True}, "rank=True must be an integer >= 1"),
        (
            {"rank": 23},
            "rank=23 is more than any layer has: choose 1 to 22, or leave rank out, which is exact",
        ),
    ],
)
def test_a_rank_that_cannot_be_had(options, message, tmp_path):
    _, model, _ = mixed()
    with pytest.raises(pk.PerakitError, match=re.escape(message)):
        export_peft(model, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_padding_above_what_servers_take_names_the_remedy(tmp_path):
    model = nn.Sequential(nn.Linear(521, 523))
    pk.attach(model, pk.LoRA(rank=513), ["0"])
    with pytest.raises(
        pk.PerakitError,
        match="pad=True: the largest rank is 513, servers take 512 at most: pass rank=512",
    ):
        export_peft(model, tmp_path / "out", pad=True)
    assert export_peft(model, tmp_path / "out", rank=512, pad=True).rank == 512


def test_numbers_that_are_not_finite(tmp_path):
    _, model, _ = adapted(pk.LoRA(rank=3), "mlp")
    export_peft(model, tmp_path)
    before = contents(tmp_path)
    with torch.no_grad():
        model.down.adapter.A[0, 0] = torch.nan
    with pytest.raises(
        pk.PerakitError,
        match=(
            "cannot export layer 'down': NaN or inf in A; load a good adapter or train with a"
            " lower lr"
        ),
    ):
        export_peft(model, tmp_path)
    with torch.no_grad():
        model.down.adapter.A.fill_(1)
        model.up.base.weight[0, 0] = torch.inf
    with pytest.raises(
        pk.PerakitError, match="cannot export layer 'up': NaN or inf in its own weight W0"
    ):
        export_peft(model, tmp_path)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("rank", [None, 2])
@pytest.mark.parametrize("columns", [9, 3], ids=["dense", "factors"])
@pytest.mark.parametrize(("dtype", "size"), [(torch.float32, 1e19), (torch.float64, 1e155)])
def test_an_update_that_overflows(dtype, size, columns, rank, tmp_path):
    _, model, _ = adapted(pk.PERA(rank=columns), "mlp", dtype)
    with torch.no_grad():
        model.up.adapter.A.fill_(size)
        model.up.adapter.B.fill_(size)
        model.up.adapter.h.fill_(1e10)
    with pytest.raises(
        pk.PerakitError,
        match=(
            rf"cannot export layer 'up': its ΔW overflows {dtype}; train with a lower lr or scale"
        ),
    ):
        export_peft(model, tmp_path / "out", rank=rank)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("rank", [None, 1])
@pytest.mark.parametrize("method", METHODS)
def test_updates_near_the_smallest_numbers_are_written_as_far_as_the_dtype_goes(
    method, rank, tmp_path
):
    for size in (1e-12, 1e-18, 1e-21, 1e-25):
        _, model, _ = adapted(METHODS[method], "mlp")
        with torch.no_grad():
            for adapter in pk.adapters(model).values():
                for name, parameter in adapter.named_parameters():
                    parameter.mul_(1 if name == "lam" else size)
        for name, (m, n), _, _, cut, *_ in export_peft(model, tmp_path, rank=rank).rows:
            (B, A), exact = read(tmp_path)[0][name], numpy_deltas(model)[name]
            allowed = 1e-4 * np.linalg.norm(B) * np.linalg.norm(A) + np.finfo(
                np.float32
            ).tiny * np.sqrt(m * n)
            assert np.linalg.norm(B @ A - exact) <= 1.001 * cut * np.linalg.norm(exact) + allowed


def test_arithmetic_that_underflows_is_not_blamed_on_the_method(tmp_path):
    _, model, _ = adapted(METHODS["loha"], "mlp")
    with torch.no_grad():
        for adapter in pk.adapters(model).values():
            for name, parameter in adapter.named_parameters():
                # B1 ∘ B2 is zero in float32, and ΔW need not be
                parameter.mul_(1e-25 if name.startswith("B") else 1e15)
    message = (
        r"cannot export layer 'up': its factors in torch.float32 miss the ΔW of float64 by a share"
        r" of 1.0e\+00: the square of "
    )
    with pytest.raises(
        pk.PerakitError, match=message + r"\de-\d\d underflows torch.float32; use model.double\(\)$"
    ):
        export_peft(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert export_peft(model.double(), tmp_path / "out").worst < 1e-12


def test_a_method_whose_factors_are_not_its_update(tmp_path, monkeypatch):
    _, model, _ = adapted(pk.LoRA(rank=3), "mlp")
    kind = type(model.up.adapter)
    factors = kind.factors
    monkeypatch.setattr(
        kind,
        "factors",
        lambda self: tuple((1 + (f.dtype == torch.float64) / 64) * f for f in factors(self)),
    )
    with pytest.raises(
        pk.PerakitError,
        match=(
            r"cannot export layer 'up': its factors in torch.float32 miss the ΔW of float64 by a"
            r" share of 3.1e-02"
        ),
    ):
        export_peft(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_update_that_is_no_matrix(tmp_path):
    _, model, _ = adapted(Quadratic(rank=2), "mlp")
    with pytest.raises(
        pk.PerakitError,
        match="cannot export layer 'up': the update of 'quadratic' is not linear in the input",
    ):
        export_peft(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("part", ["layer", "block"])
def test_a_layer_that_stands_at_two_places(part, tmp_path):
    shared = nn.Linear(5, 5) if part == "layer" else nn.Sequential(nn.Linear(5, 5))
    model = nn.Sequential(shared, nn.Tanh(), shared)
    report = pk.attach(model, pk.LoRA(rank=2), "all-linear")
    with pytest.raises(
        pk.PerakitError,
        match=(
            f"layer '{report.rows[0][0]}' stands at 2 places of the model, of which PEFT would"
            " fill one"
        ),
    ):
        export_peft(model, tmp_path / "out")


def test_no_model_and_no_adapter(tmp_path):
    with pytest.raises(pk.PerakitError, match=r"the first argument is the model"):
        export_peft(str(tmp_path), tmp_path)
    with pytest.raises(pk.PerakitError, match=r"the model has no adapter"):
        export_peft(make("mlp")[0], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_weight_that_another_module_uses(tmp_path):
    base, x = make()
    model = copy.deepcopy(base)
    assert model.lm_head.weight is model.transformer.wte.weight
    pk.attach(model, pk.LoRA(rank=2), ["lm_head", "c_attn"])
    with pytest.raises(
        pk.PerakitError,
        match=(
            r"cannot export layer 'lm_head': its weight is shared with 'transformer.wte', which"
            r" merging in PEFT would change too; "
            r"untie them \(give the layer a clone of the weight\)"
        ),
    ):
        export_peft(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    model = copy.deepcopy(base)
    model.config.tie_word_embeddings = False
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())
    untied = copy.deepcopy(model)
    pk.attach(model, pk.LoRA(rank=2), ["lm_head"])
    move(model)
    export_peft(model, tmp_path / "out")
    expected = logits(model, x)
    loaded = in_peft(untied, tmp_path / "out")
    assert (logits(loaded, x) - expected).norm() <= 1e-5 * expected.norm()
    assert (logits(loaded.merge_and_unload(), x) - expected).norm() <= 1e-5 * expected.norm()


@pytest.mark.parametrize("folder", [None, 3, b"bytes"])
def test_what_is_no_folder_is_refused_before_the_work(folder, monkeypatch):
    _, model, _ = adapted(pk.LoRA(rank=3), "mlp")
    monkeypatch.delattr(export, "factorise")
    with pytest.raises(pk.PerakitError, match="the folder is a path, a str or a Path, not "):
        export_peft(model, folder)


def test_a_folder_that_no_folder_can_be_called(tmp_path):
    _, model, _ = adapted(pk.LoRA(rank=3), "mlp")
    with pytest.raises(
        pk.PerakitError,
        match=r"cannot write '.*': .*null byte; choose a folder that can be written",
    ):
        export_peft(model, str(tmp_path / "a\0b"))


def test_a_folder_that_cannot_be_written(tmp_path):
    _, model, _ = adapted(pk.LoRA(rank=3), "mlp")
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(
        pk.PerakitError, match=r"cannot write .*file.*; choose a folder that can be written"
    ):
        export_peft(model, tmp_path / "file")
    assert (tmp_path / "file").read_text() == "not a folder"


# --- writing --------------------------------------------------------------------------------------


def test_an_older_export_is_replaced_and_other_files_stay(tmp_path):
    base, model, x = adapted(pk.LoRA(rank=3), "mlp")
    export_peft(model, tmp_path)
    (tmp_path / "README.md").write_text("mine")
    pk.detach(model)
    pk.attach(model, pk.PERA(rank=2), ["up"])
    move(model)
    export_peft(model, tmp_path)
    assert sorted(contents(tmp_path)) == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    assert torch.allclose(logits(in_peft(base, tmp_path), x), logits(model, x), rtol=0, atol=1e-5)


@pytest.mark.parametrize("damage", ["bits", "missing", "cut", "config", "no config"])
def test_what_is_read_back_wrong_is_refused_and_the_old_export_stays(damage, tmp_path, monkeypatch):
    _, model, _ = adapted(pk.LoRA(rank=3), "mlp")
    export_peft(model, tmp_path)
    before = contents(tmp_path)
    move(model, seed=2)
    write = export.write_synced

    def altered(path, data):
        if damage == "bits" and path.name.endswith("safetensors"):
            data = data[:-1] + bytes([data[-1] ^ 64])
        if damage == "missing":
            data = data.replace(b"up.lora_A", b"up.lora_C")
        if damage == "cut" and path.name.endswith("safetensors"):
            data = data[:-1]
        if damage == "config":
            data = data.replace(b'"r": 3', b'"r": 4')
        if damage == "no config" and path.name.endswith("json"):
            data = data[:10]
        write(path, data)

    monkeypatch.setattr(export, "write_synced", altered)
    message = (
        r"adapter_config.json was read back"
        if "config" in damage
        else r"adapter_model.safetensors was read back"
    )
    folder = re.escape(repr(str(tmp_path)))
    with pytest.raises(
        pk.PerakitError,
        match=message
        + rf" from {folder} with other (entries|numbers.*): check the disk and export again",
    ):
        export_peft(model, tmp_path)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("older", [True, False], ids=["older", "first"])
@pytest.mark.parametrize(
    "error",
    [OSError(28, "No space left on device"), KeyboardInterrupt()],
    ids=["full", "interrupt"],
)
@pytest.mark.parametrize(
    ("call", "step"), [("fsync", 0), ("fsync", 1), *(("replace", i) for i in range(4))]
)
def test_whatever_the_system_refuses_the_old_export_stays(
    call, step, error, older, tmp_path, monkeypatch
):
    _, model, _ = adapted(pk.LoRA(rank=3), "mlp")
    if older:
        export_peft(model, tmp_path)
    before = contents(tmp_path)
    move(model, seed=2)
    real, seen = getattr(os, call), []

    def failing(*arguments):
        seen.append(arguments)
        if len(seen) == step + 1:
            raise error
        return real(*arguments)

    monkeypatch.setattr(os, call, failing)
    with pytest.raises((pk.PerakitError, KeyboardInterrupt)) as caught:
        export_peft(model, tmp_path)
    if isinstance(error, OSError):
        folder = re.escape(repr(str(tmp_path)))
        message = (
            rf"cannot write {folder}: No space left on device; choose a folder that can be written"
            r" and has room for [0-9,]+ bytes"
        )
        assert re.fullmatch(message, str(caught.value))
    assert contents(tmp_path) == before
    monkeypatch.undo()
    export_peft(model, tmp_path)
    assert sorted(contents(tmp_path)) == ["adapter_config.json", "adapter_model.safetensors"]


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_folder_in_the_place_of_a_file_stays_and_so_does_the_other_file(name, tmp_path):
    _, model, _ = adapted(pk.LoRA(rank=3), "mlp")
    export_peft(model, tmp_path)
    (tmp_path / name).unlink()
    (other,) = contents(tmp_path).items()
    (tmp_path / name / "mine").mkdir(parents=True)
    move(model, seed=2)
    with pytest.raises(
        pk.PerakitError,
        match=r"cannot write .*: Is a directory; choose a folder that can be written",
    ):
        export_peft(model, tmp_path)
    assert (tmp_path / name / "mine").is_dir()
    assert (tmp_path / other[0]).read_bytes() == other[1]
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("step", range(5))
def test_a_kill_at_any_step_leaves_one_whole_export_or_none_that_loads(step, tmp_path):
    names = ("adapter_config.json", "adapter_model.safetensors")
    stage = tmp_path / "stage"
    stage.mkdir()
    for name in names:
        (tmp_path / name).write_text("old")
        (stage / name).write_text("new")
    child = os.fork()
    if not child:  # pragma: no cover
        real, left = os.replace, iter(range(step))
        export.os.replace = lambda *arguments: (
            real(*arguments) if next(left, None) is not None else os._exit(9)
        )
        export._replace(stage, tmp_path)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == (9 if step < 4 else 0)
    found = {name: (tmp_path / name).read_text() for name in names if (tmp_path / name).exists()}
    assert "adapter_config.json" not in found or len(set(found.values())) == 1 == len(found) - 1
    assert ("adapter_config.json" in found) is (step in (0, 4))


def test_what_a_killed_export_left_is_removed_by_a_later_one(tmp_path):
    _, model, _ = adapted(pk.LoRA(rank=3), "mlp")
    for age, name in ((0, "running"), (2 * export.STALE, "killed")):
        (tmp_path / f".export.{name}" / "old").mkdir(parents=True)
        os.utime(
            tmp_path / f".export.{name}", (0, (tmp_path / f".export.{name}").stat().st_mtime - age)
        )
    export_peft(model, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".export.running",
        "adapter_config.json",
        "adapter_model.safetensors",
    ]


def test_exports_at_the_same_time_do_not_disturb_each_other(tmp_path):
    _, model, _ = adapted(pk.LoRA(rank=3), "mlp")
    export_peft(model, tmp_path / "alone")
    start, errors = threading.Barrier(3), []

    def often():
        start.wait()
        for _ in range(8):
            try:
                export_peft(model, tmp_path / "together")
            except Exception as error:
                errors.append(error)

    threads = [threading.Thread(target=often) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert contents(tmp_path / "together") == contents(tmp_path / "alone")


def test_the_files_can_be_read_by_whom_ordinary_files_can(tmp_path):
    _, model, _ = adapted(pk.LoRA(rank=3), "mlp")
    (tmp_path / "ordinary").write_text("")
    export_peft(model, tmp_path)
    assert len({path.stat().st_mode for path in tmp_path.iterdir()}) == 1


# --- the report -----------------------------------------------------------------------------------


def test_report_prints(tmp_path):
    _, model, _ = mixed()
    report = export_peft(model, tmp_path, rank=5)
    lines = str(report).splitlines()
    assert lines[0].split() == ["layer", "shape", "K", "rank", "cut", "off", "error", "spectral"]
    name, shape, K, rank, cut, error, sigma = report.rows[0]
    assert lines[2].split() == [
        name,
        "66",
        "x",
        "22",
        "14",
        "5",
        f"{cut:.2e}",
        f"{error:.2e}",
        f"{sigma:.2e}",
    ]
    assert (K, rank, shape) == (14, 5, (66, 22))
    assert f"5 layers, rank up to 5, {report.size:,} bytes in {tmp_path}" in lines
    assert report._repr_html_().startswith("<table>")
    assert (
        str(export_peft(adapted(pk.LoRA(rank=3), "mlp", targets=["up"])[1], tmp_path))
        .splitlines()[-2]
        .startswith("1 layer, ")
    )


def test_factorise_is_exact_on_integers():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(7, 5))
    pk.attach(model, pk.PERA(rank=2), ["0"])
    with torch.no_grad():
        for parameter in model[0].adapter.parameters():
            parameter.copy_(torch.randint(-3, 4, parameter.shape))
    part = factorise([model[0].adapter], model[0].W0)
    assert np.array_equal((part.B @ part.A).numpy(), numpy_deltas(model)["0"])
    assert part.distance <= 1e-15 * part.size
    assert part.explained
    assert not replace(part, distance=1e-2 * part.size).explained
    assert part.size == pytest.approx(np.linalg.norm(numpy_deltas(model)["0"]), rel=1e-14)


# --- 4-bit bases ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TARGETS)
@pytest.mark.parametrize("method", ["pera", "dora"])
def test_on_a_4_bit_base_delta_belongs_to_the_dequantised_weights(method, kind, tmp_path):
    base, x = make(kind)
    model = copy.deepcopy(base)
    pk.attach(model, METHODS[method], TARGETS[kind], quantize="nf4")
    move(model)
    export_peft(model, tmp_path)
    assert read(tmp_path)[1]["fan_in_fan_out"] is (kind == "gpt2")
    with torch.no_grad():
        for name, layer in pk.models.adapted.adapted_layers(model).items():
            base.get_submodule(name).weight.copy_(layer.base.weight)
    expected = logits(model, x)
    assert (logits(in_peft(base, tmp_path), x) - expected).norm() <= 1e-5 * expected.norm()


# --- the command ----------------------------------------------------------------------------------


@pytest.fixture
def trained(tmp_path):
    """(folder of a GPT-2, folder of a perakit adapter on it, the model)."""
    torch.manual_seed(0)
    model = pk.toy.GPT2(pk.toy.Config(n_embd=16, n_layer=1, n_head=2, n_positions=32))
    folder = tmp_path / "model"
    folder.mkdir()
    save_file(
        {key: tensor for key, tensor in model.state_dict().items() if key != "lm_head.weight"},
        folder / "model.safetensors",
    )
    (folder / "config.json").write_text(json.dumps(model.config.to_dict()))
    pk.attach(model, pk.PERA(rank=4), "all-linear")
    move(model)
    return folder, pk.save(model, tmp_path / "adapter"), model


def test_the_command_writes_what_the_library_writes(trained, tmp_path, capsys):
    folder, adapter, model = trained
    assert (
        main(["export", str(adapter), "--out", str(tmp_path / "exact"), "--model", str(folder)])
        == 0
    )
    assert capsys.readouterr().out.splitlines()[0].split()[:4] == ["layer", "shape", "K", "rank"]
    assert (
        main(
            [
                "export",
                str(adapter),
                "--out",
                str(tmp_path / "cut"),
                "--model",
                str(folder),
                "--rank",
                "5",
                "--pad",
            ]
        )
        == 0
    )
    assert "4 layers, rank up to 8, " in capsys.readouterr().out
    export_peft(model, tmp_path / "own")
    assert contents(tmp_path / "own") == contents(tmp_path / "exact")
    export_peft(model, tmp_path / "own", rank=5, pad=True)
    assert contents(tmp_path / "own") == contents(tmp_path / "cut")


def test_the_command_takes_the_tiny_model_by_default(tmp_path, capsys):
    model = pk.toy.load("tiny")
    pk.attach(model, pk.LoRA(rank=2), ["c_attn"])
    pk.save(model, tmp_path / "adapter")
    assert main(["export", str(tmp_path / "adapter"), "--out", str(tmp_path / "out")]) == 0
    assert read(tmp_path / "out")[1]["r"] == 2
    assert capsys.readouterr().err == ""


def test_mistakes_of_the_command_are_one_sentence(trained, tmp_path, capsys):
    folder, adapter, _ = trained
    assert (
        main(
            [
                "export",
                str(adapter),
                "--out",
                str(tmp_path / "out"),
                "--model",
                str(folder),
                "--rank",
                "99",
            ]
        )
        == 2
    )
    assert (
        capsys.readouterr().err
        == "perakit: rank=99 is more than any layer has: choose 1 to 14, or leave rank out, which"
        " is exact\n"
    )
    assert main(["export", str(tmp_path / "none"), "--out", str(tmp_path / "out")]) == 2
    assert "cannot read" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
