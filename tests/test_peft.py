"""PERA inside of PEFT: the same laws as outside, and what PEFT asks of a method of its own.

The cases of the second part are those of PEFT's tests for custom models, written anew.
"""

import copy
import json
import pickle
import subprocess
import sys

import pytest
import torch
from torch import nn

import perakit as pk
from perakit import toy
from perakit.adapters import Method

peft = pytest.importorskip("peft", reason="the extra hf is not installed")
transformers = pytest.importorskip("transformers", reason="the extra hf is not installed")
hosted = pytest.importorskip("perakit.peft")
MethodConfig, PeraConfig, PeraLayer = hosted.MethodConfig, hosted.PeraConfig, hosted.PeraLayer

# PEFT's own, with transformers 5.23
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is depre:FutureWarning")

METHODS = sorted(
    name for name, method in Method.registry.items() if method.__module__.startswith("perakit.")
)
MERGEABLE = [name for name in METHODS if Method.registry[name].mergeable]
CONFIGS = {
    "pera": {"r": 3},
    "pera alpha": {"r": 3, "alpha": 7.0},
    "pera rslora": {"r": 3, "scaling": "rslora"},
    "pera square": {"r": 2, "terms": "square"},
    "pera cross": {"r": 2, "terms": "cross"},
    "pera degree 3": {"r": 2, "degree": 3},
    "pera scale 50": {"r": 2, "feature_scale": 50.0},
    "pera rank 1": {"r": 1},
    "pera zero_A": {"r": 2, "init": "zero_A"},
    **{f"method {name}": {"method": Method.registry[name](2)} for name in METHODS},
}
NAMES = {"linear": ["first", "last"], "conv": ["c_attn", "c_proj"]}


class Layers(nn.Module):
    """Two layers, not square, and a head."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(7, 11)
        self.last = nn.Linear(11, 5, bias=False)
        self.head = nn.Linear(5, 3)

    def forward(self, x):
        return self.head(torch.relu(self.last(torch.relu(self.first(x)))))


class Conv(nn.Module):
    """A GPT-2, whose layers store their weights the other way round."""

    def __init__(self):
        super().__init__()
        self.gpt2 = toy.GPT2(
            toy.Config(vocab_size=64, n_positions=16, n_embd=12, n_layer=1, n_head=2)
        )

    def forward(self, x):
        ids = (x.abs().sum(-1, keepdim=True) * 7).long() % 64
        return self.gpt2(torch.cat([ids, ids + 1, ids], 1) % 64)


def base(kind, dtype=torch.float32):
    torch.manual_seed(0)
    return {"linear": Layers, "conv": Conv}[kind]().to(dtype).eval()


def inputs(dtype=torch.float32):
    return torch.randn(4, 7, generator=torch.Generator().manual_seed(1)).to(dtype)


def config_of(name, kind=None, **more):
    cls = PeraConfig if name.startswith("pera") else MethodConfig
    return cls(**CONFIGS[name] | {"target_modules": NAMES.get(kind)} | more)


def usual(name):
    return config_of(name).usual()


def move(model, seed=2, std=0.3):
    """Take the adapters off their start."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for layer in layers(model).values():
            for name in layer.active_adapters:
                if name in layer.adapters:
                    for parameter in layer.adapters[name].parameters():
                        parameter.add_(std * torch.randn_like(parameter))
    return model


def layers(model):
    return {
        name.removeprefix("base_model.model."): module
        for name, module in model.named_modules()
        if isinstance(module, hosted.MethodLayer)
    }


def wrapped(name, kind, moved=True, dtype=torch.float32, **more):
    model = peft.get_peft_model(base(kind, dtype), config_of(name, kind, **more)).eval()
    return move(model) if moved else model


def distance(one, other):
    return ((one - other).abs().max() / other.abs().max()).item()


cases = pytest.mark.parametrize("kind", NAMES)
configs = pytest.mark.parametrize("name", CONFIGS)


# --- the laws of an adapter -----------------------------------------------------------------------


@cases
@configs
def test_it_changes_nothing_at_its_start(name, kind):
    x = inputs()
    assert torch.equal(wrapped(name, kind, moved=False)(x), base(kind)(x))
    assert distance(wrapped(name, kind)(x), base(kind)(x)) > 1e-3


@cases
@configs
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_it_is_the_adapter_of_perakit(name, kind, dtype):
    """The same numbers in both: the same answer, and the same gradients."""
    model, x = wrapped(name, kind, dtype=dtype), inputs(dtype)
    ours = base(kind, dtype)
    pk.attach(ours, usual(name), NAMES[kind])
    for place, adapter in pk.adapters(ours).items():
        adapter.load_state_dict(layers(model)[place].adapters["default"].state_dict())
    assert torch.equal(model(x), ours(x))
    ours(x).square().sum().backward()
    model(x).square().sum().backward()
    for place, adapter in pk.adapters(ours).items():
        hosted_one = layers(model)[place].adapters["default"]
        for key, parameter in adapter.named_parameters():
            assert torch.equal(parameter.grad, hosted_one.get_parameter(key).grad)


@cases
@configs
@pytest.mark.parametrize(
    ("dtype", "most"), [(torch.float32, 1e-5), (torch.float64, 1e-12)], ids=["float32", "float64"]
)
def test_merged_answers_as_factored_and_unmerging_is_bitwise(name, kind, dtype, most):
    if not usual(name).mergeable:
        pytest.skip("its update is no matrix")
    model, x = wrapped(name, kind, dtype=dtype), inputs(dtype)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with torch.no_grad():
        factored = model(x)
        model.merge_adapter()
        assert distance(model(x), factored) < most
        assert not torch.equal(model.state_dict()[weight_of(kind)], before[weight_of(kind)])
        model.unmerge_adapter()
        assert torch.equal(model(x), factored)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    merged = model.merge_and_unload()
    assert distance(merged(x), factored) < most
    assert not layers(merged)


def weight_of(kind):
    place = {"linear": "first", "conv": "gpt2.transformer.h.0.attn.c_attn"}[kind]
    return f"base_model.model.{place}.base_layer.weight"


@cases
@configs
def test_saved_and_loaded_it_is_the_same_to_the_bit(name, kind, tmp_path):
    model, x = wrapped(name, kind), inputs()
    model.save_pretrained(tmp_path)
    told = json.loads((tmp_path / "adapter_config.json").read_text())
    assert told["peft_type"] == ("PERA" if name.startswith("pera") else "PERAKIT")
    again = peft.PeftModel.from_pretrained(base(kind), tmp_path)
    assert torch.equal(again(x), model(x))
    assert again.peft_config["default"].usual() == usual(name)
    quick = peft.PeftModel.from_pretrained(base(kind), tmp_path, low_cpu_mem_usage=True)
    assert torch.equal(quick(x), model(x))


@cases
@configs
def test_only_the_adapter_trains(name, kind):
    model, x = wrapped(name, kind), inputs()
    trained = {key for key, p in model.named_parameters() if p.requires_grad}
    assert trained
    assert all(hosted.MethodModel.prefix in key or "pera_adapters" in key for key in trained)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 0.1)
    model.train()(x).square().mean().backward()
    optimizer.step()
    moved = {
        key for key, value in model.state_dict().items() if not torch.equal(value, before[key])
    }
    assert moved
    assert moved <= trained


# --- what PEFT asks of a method -------------------------------------------------------------------


def test_several_adapters_are_switched_added_up_and_deleted():
    x, plain = inputs(), base("linear")(inputs())
    model = wrapped("pera", "linear")
    first = model(x)
    model.add_adapter("second", config_of("pera square", target_modules=["last", "head"]))
    assert torch.equal(model(x), first)  # one that is added is not active
    assert not any(p.requires_grad for p in layers(model)["head"].adapters.parameters())
    model.set_adapter("second")
    assert torch.equal(model(x), plain)
    move(model, seed=3)
    second = model(x)
    model.base_model.set_adapter(["default", "second"])
    both = model(x)
    assert not torch.equal(both, first)
    assert not torch.equal(both, second)
    delta = sum(layers(model)["last"].get_delta_weight(name) for name in ("default", "second"))
    summed = copy.deepcopy(model).merge_and_unload()
    weight = base("linear").last.weight + delta
    assert distance(summed.last.weight, weight) < 1e-6
    assert distance(summed(x), both) < 1e-5
    model.set_adapter("default")
    assert torch.equal(model(x), first)
    model.delete_adapter("second")
    assert list(layers(model)["last"].adapters) == ["default"]
    assert torch.equal(model(x), first)


def test_merging_one_after_the_other_is_merging_both_at_once():
    model = wrapped("pera", "linear")
    model.add_adapter("second", config_of("pera square", "linear"))
    model.base_model.set_adapter("second")
    move(model, seed=3)
    model.base_model.set_adapter(["default", "second"])
    at_once = copy.deepcopy(model)
    at_once.merge_adapter()
    model.merge_adapter(["default"])
    with pytest.warns(UserWarning, match="additionally merging second"):
        model.merge_adapter(["second"])
    for name, layer in layers(model).items():
        assert layer.merged_adapters == ["default", "second"]
        assert torch.equal(layer.base_layer.weight, layers(at_once)[name].base_layer.weight)
    model.unmerge_adapter()
    assert torch.equal(layers(model)["last"].base_layer.weight, base("linear").last.weight)
    with pytest.warns(UserWarning, match="Already unmerged"):
        model.unmerge_adapter()


def test_disabled_answers_as_the_base_also_when_merged():
    model, x, plain = wrapped("pera", "conv"), inputs(), base("conv")(inputs())
    with model.disable_adapter():
        assert torch.equal(model(x), plain)
    factored = model(x)
    model.merge_adapter()
    with model.disable_adapter():
        assert torch.equal(model(x), plain)
    assert distance(model(x), factored) < 1e-5
    model.unload()
    assert torch.equal(model.base_model.model(x), plain)


def test_a_safe_merge_of_numbers_that_are_not_finite_changes_nothing():
    model = wrapped("pera", "linear")
    with torch.no_grad():
        layers(model)["last"].adapters["default"].h[0] = float("nan")
    before = base("linear").last.weight
    with pytest.raises(ValueError, match="would be merged of default"):
        model.merge_and_unload(safe_merge=True)
    assert torch.equal(layers(model)["last"].base_layer.weight, before)


def test_a_safe_merge_that_fails_leaves_what_was_merged_before():
    model = wrapped("pera", "linear")
    model.add_adapter("second", config_of("pera", "linear"))
    layer = layers(model)["last"]
    layer.merge()
    merged = layer.base_layer.weight.clone()
    with torch.no_grad():
        layer.adapters["second"].B[0, 0] = float("inf")
    with (
        pytest.warns(UserWarning, match="additionally merging second"),
        pytest.raises(ValueError, match="would be merged of default, second"),
    ):
        layer.merge(safe_merge=True, adapter_names=["second"])
    assert torch.equal(layer.base_layer.weight, merged)
    assert layer.merged_adapters == ["default"]
    layer.unmerge()
    assert torch.equal(layer.base_layer.weight, base("linear").last.weight)


def test_converted_to_a_lora_of_rank_k_it_is_the_same_function():
    """PEFT's own conversion, a singular value decomposition: exact from rank K on."""
    model, x = wrapped("pera", "linear", dtype=torch.float64, r=2), inputs(torch.float64)
    assert model.supports_lora_conversion()
    assert pk.formulas.rank_bound(2) == 5
    y = model(x)
    config, state = peft.convert_to_lora(model, rank=5, progressbar=False)
    lora = peft.get_peft_model(base("linear", torch.float64), config)
    peft.set_peft_model_state_dict(lora, state)
    assert distance(lora(x), y) < 1e-6
    assert not wrapped("method quadratic", "linear").supports_lora_conversion()


def test_a_head_trains_and_is_saved_with_it(tmp_path):
    model, x = wrapped("pera", "linear", modules_to_save=["head"]), inputs()
    trained = {key for key, p in model.named_parameters() if p.requires_grad}
    assert "base_model.model.head.modules_to_save.default.weight" in trained
    with torch.no_grad():
        model.base_model.model.head.modules_to_save["default"].weight.mul_(2)
    model.save_pretrained(tmp_path)
    again = peft.PeftModel.from_pretrained(base("linear"), tmp_path)
    assert torch.equal(again(x), model(x))


def test_ranks_and_alphas_of_single_layers(tmp_path):
    more = {"rank_pattern": {"last": 4}, "alpha_pattern": {"fir.*": 6.0}}
    model = wrapped("pera", "linear", **more)
    methods = {name: layer.adapters["default"].method for name, layer in layers(model).items()}
    assert methods == {"first": pk.PERA(3, 6.0), "last": pk.PERA(4)}
    model.save_pretrained(tmp_path)
    again = peft.PeftModel.from_pretrained(base("linear"), tmp_path)
    assert torch.equal(again(inputs()), model(inputs()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
def test_on_a_half_precision_base_the_factors_stay_in_float32(dtype):
    model, x = wrapped("pera", "linear", dtype=dtype), inputs(dtype)
    assert {p.dtype for layer in layers(model).values() for p in layer.adapters.parameters()} == {
        torch.float32
    }
    y = model(x)
    assert y.dtype == dtype
    model.merge_adapter()
    assert layers(model)["last"].base_layer.weight.dtype == dtype
    assert distance(model(x).float(), y.float()) < 4e-2


def test_moved_while_merged_it_can_still_be_unmerged():
    model = wrapped("pera", "linear")
    model.merge_adapter()
    model.double()
    model.unmerge_adapter()
    weight = layers(model)["last"].base_layer.weight
    assert weight.dtype == torch.float64
    assert torch.equal(weight, base("linear").last.weight.double())


@pytest.mark.parametrize(
    ("more", "found"),
    [
        ({"target_modules": "all-linear"}, {"c_attn", "c_proj", "c_fc"}),
        ({"target_modules": "all-linear", "exclude_modules": ["c_attn"]}, {"c_proj", "c_fc"}),
        ({"target_modules": r".*mlp\.c_.*"}, {"c_proj", "c_fc"}),
        ({}, {"c_attn"}),  # as PEFT's LoRA for a GPT-2
    ],
)
def test_which_layers_is_for_peft_to_say(more, found):
    model = peft.get_peft_model(gpt2(), PeraConfig(r=1, **more))
    assert {name.rpartition(".")[2] for name in layers(model)} == found


def test_a_copy_a_pickle_and_a_compiled_model_answer_alike():
    model, x = wrapped("pera", "linear"), inputs()
    y = model(x)
    assert torch.equal(copy.deepcopy(model)(x), y)
    assert torch.equal(pickle.loads(pickle.dumps(model))(x), y)
    compiled = torch.compile(model, backend="aot_eager")
    assert distance(compiled(x), y) < 1e-5


def test_the_plain_way_is_the_quick_one():
    model, x = wrapped("pera", "linear", dtype=torch.float64), inputs(torch.float64)
    y = model(x)
    with pk.fast.off():
        assert distance(model(x), y) < 1e-12


# --- files convert both ways ----------------------------------------------------------------------


def ours_and_hosted(name, kind, folder, **more):
    """The adapter that PEFT saved, in a model of perakit's."""
    model = wrapped(name, kind, **more)
    model.save_pretrained(folder)
    ours = base(kind)
    pk.import_peft(ours, folder)
    return ours, model


@cases
@configs
def test_what_peft_saved_perakit_reads(name, kind, tmp_path):
    ours, model = ours_and_hosted(name, kind, tmp_path)
    assert torch.equal(ours(inputs()), model(inputs()))
    assert {one.method for one in pk.adapters(ours).values()} == {usual(name)}


@cases
@configs
def test_what_perakit_wrote_peft_reads_and_trains_on(name, kind, tmp_path):
    if not usual(name).mergeable:
        pytest.skip("its update is no matrix")
    ours, model = ours_and_hosted(name, kind, tmp_path / "theirs")
    report = pk.export_peft(ours, tmp_path / "ours", expand=False)
    assert report.worst == 0
    again = peft.PeftModel.from_pretrained(base(kind), tmp_path / "ours", is_trainable=True)
    assert torch.equal(again(inputs()), model(inputs()))
    again(inputs()).sum().backward()
    assert all(p.grad is not None for p in again.parameters() if p.requires_grad)
    told = [json.loads((tmp_path / one / "adapter_config.json").read_text()) for one in
            ("theirs", "ours")]  # fmt: skip
    assert told[1]["peft_type"] == ("PERA" if name == "method pera" else told[0]["peft_type"])


def test_patterns_heads_and_other_options_are_converted_too(tmp_path):
    more = {"rank_pattern": {"last": 4}, "alpha_pattern": {"fir.*": 6.0}}
    ours, model = ours_and_hosted("pera", "linear", tmp_path, modules_to_save=["head"], **more)
    assert torch.equal(ours(inputs()), model(inputs()))
    pk.export_peft(ours, tmp_path / "ours", expand=False)
    again = peft.PeftModel.from_pretrained(base("linear"), tmp_path / "ours")
    assert torch.equal(again(inputs()), model(inputs()))
    third = base("linear")
    pk.import_peft(third, tmp_path / "ours")
    methods = {name: one.method for name, one in pk.adapters(third).items()}
    assert methods == {"first": pk.PERA(3, 6.0), "last": pk.PERA(4)}


def attached(*methods):
    model = base("linear")
    for place, method in zip(("first", "last"), methods, strict=True):
        pk.attach(model, method, [place], name=place)
    pk.activate(model, "first", "last")
    return model


def test_what_one_configuration_cannot_say_is_refused(tmp_path):
    with pytest.raises(pk.PerakitError, match=r"^'last' differ from PERA\(rank=2.* more than rank"):
        pk.export_peft(attached(pk.PERA(2), pk.LoRA(2)), tmp_path, expand=False)
    with pytest.raises(pk.PerakitError, match=r"^rank and pad are about the expanded update"):
        pk.export_peft(attached(pk.PERA(2), pk.PERA(2)), tmp_path, rank=3, expand=False)
    model = base("linear")
    for name in ("one", "two"):
        pk.attach(model, pk.PERA(2), ["first"], name=name)
    pk.activate(model, "one", "two")
    with pytest.raises(pk.PerakitError, match="several active adapters, whose sum is none of them"):
        pk.export_peft(model, tmp_path, expand=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"terms": "cubes"}, "terms='cubes'"),
        ({"r": 4}, "this adapter does not fit"),
        ({"r": 2.5}, "r=2.5 in .* must be an integer"),
        ({"rank_pattern": {"first": -1}}, "rank=-1"),
        ({"lora_dropout": 0.1}, "lora_dropout=0.1 cannot be imported: perakit reads the options"),
        ({"target_modules": None}, "target_modules=None in .* must be a list of names"),
        ({"method": {"method": "lora", "rank": 2}}, "method=.* beside peft_type='PERA'"),
        ({"peft_type": "PERAKIT"}, "unknown method None"),
        ({"peft_type": "HRA"}, "peft_type='HRA' cannot be imported: perakit reads LORA"),
        ({"peft_type": ["PERA"]}, "peft_type=.* cannot be imported"),
    ],
)
def test_a_configuration_that_was_altered_is_refused(change, why, tmp_path):
    wrapped("pera", "linear").save_pretrained(tmp_path)
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    model = base("linear")
    with pytest.raises(pk.PerakitError, match=why):
        pk.import_peft(model, tmp_path)
    assert not pk.active(model)


# --- who hosts it ---------------------------------------------------------------------------------


def gpt2():
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=32, n_positions=16, n_embd=12, n_layer=1, n_head=2, bos_token_id=None,
        eos_token_id=None, attn_pdrop=0, embd_pdrop=0, resid_pdrop=0,
    )  # fmt: skip
    model = transformers.GPT2LMHeadModel(config).eval()
    model.loss_type = "ForCausalLM"
    return model


def rows():
    starts = torch.randint(0, 20, (8, 1), generator=torch.Generator().manual_seed(0))
    return [{"input_ids": row, "labels": row} for row in starts + torch.arange(10)]


def test_transformers_holds_it_as_one_of_its_own_adapters(tmp_path):
    model, ids = gpt2(), torch.arange(6)[None]
    plain = model(ids).logits
    model.add_adapter(PeraConfig(r=2, target_modules=["c_attn"]), adapter_name="mine")
    assert torch.equal(model(ids).logits, plain)
    move(model)
    tuned = model(ids).logits
    assert not torch.equal(tuned, plain)
    model.save_pretrained(tmp_path)
    again = gpt2()
    again.load_adapter(str(tmp_path), adapter_name="mine")
    assert torch.equal(again(ids).logits, tuned)
    model.disable_adapters()
    assert torch.equal(model(ids).logits, plain)


def test_the_trainer_trains_it_and_goes_on_from_its_checkpoint(tmp_path):
    def trainer(steps, folder):
        arguments = transformers.TrainingArguments(
            folder, max_steps=steps, use_cpu=True, report_to=[], disable_tqdm=True, save_steps=2,
            logging_strategy="no", learning_rate=0.01, per_device_train_batch_size=4, seed=1,
            lr_scheduler_type="constant",
        )  # fmt: skip
        model = peft.get_peft_model(gpt2(), PeraConfig(r=2, target_modules=["c_attn"]))
        found = transformers.Trainer(model=model, args=arguments, train_dataset=rows())
        found.remove_callback(transformers.PrinterCallback)
        return found

    whole = trainer(4, tmp_path / "whole")
    whole.train()
    assert whole.state.global_step == 4
    saved = tmp_path / "whole" / "checkpoint-2"
    assert {"adapter_config.json", "adapter_model.safetensors"} <= {p.name for p in saved.iterdir()}
    assert not (saved / "model.safetensors").exists()  # the adapter, and nothing of the base
    halves = trainer(4, tmp_path / "halves")
    halves.train(resume_from_checkpoint=str(saved))
    one, other = (
        {k: v for k, v in t.model.state_dict().items() if "pera_adapters" in k}
        for t in (whole, halves)
    )
    assert all(torch.equal(value, other[key]) for key, value in one.items())


def test_a_layer_that_cannot_be_adapted_is_named():
    with pytest.raises(pk.PerakitError, match=r"^pera cannot adapt 'transformer.wte': "):
        peft.get_peft_model(gpt2(), PeraConfig(r=1, target_modules=["wte"]))


@pytest.mark.parametrize(
    ("config", "why"),
    [
        (lambda: PeraConfig(r=0), "rank=0 must be an integer"),
        (lambda: PeraConfig(terms="cubes"), "terms='cubes'"),
        (lambda: PeraConfig(method=pk.LoRA(2)), "method=.* beside peft_type='PERA'"),
        (lambda: MethodConfig(), "unknown method None: known here are"),
        (lambda: MethodConfig(method={"method": "mora"}), "method 'mora' needs a rank"),
    ],
)
def test_a_configuration_that_no_method_has_is_refused(config, why):
    with pytest.raises(pk.PerakitError, match=f"^{why}"):
        config()


def test_without_peft_its_extra_is_named(tmp_path):
    (tmp_path / "peft.py").write_text("raise ImportError('none here')")
    code = "import sys; sys.path.insert(0, sys.argv[1]); import perakit.peft"
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert "PerakitError: perakit.peft needs PEFT 0.18 or later" in run.stderr
    assert "pip install 'perakit[hf]'" in run.stderr


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_trl_trains_it(tmp_path):
    trl = pytest.importorskip("trl", reason="TRL is not installed")
    datasets = pytest.importorskip("datasets")
    arguments = trl.SFTConfig(
        tmp_path, max_steps=3, use_cpu=True, report_to=[], bf16=False, disable_tqdm=True,
        dataset_kwargs={"skip_prepare_dataset": True},
    )  # fmt: skip
    found = [{key: value.tolist() for key, value in row.items()} for row in rows()]
    vocabulary = {f"w{k}": k for k in range(32)}
    words = pytest.importorskip("tokenizers")
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words.Tokenizer(words.models.WordLevel(vocabulary, unk_token="w0")),
        pad_token="w0", eos_token="w1", unk_token="w0",
    )  # fmt: skip
    trainer = trl.SFTTrainer(
        model=gpt2(),
        args=arguments,
        train_dataset=datasets.IterableDataset.from_generator(lambda: iter(found)),
        processing_class=tokenizer,
        peft_config=PeraConfig(r=2, target_modules=["c_attn"]),
    )
    trainer.train()
    trainer.save_model(tmp_path / "out")
    again = gpt2()
    pk.import_peft(again, tmp_path / "out")
    ids = torch.arange(6)[None]
    assert torch.equal(again(ids).logits, trainer.model.eval()(ids).logits)
    assert not torch.equal(again(ids).logits, gpt2()(ids).logits)
