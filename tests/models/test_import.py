"""Import: what the real PEFT saved, as the same function; everything else is refused in one
sentence.
"""

import copy
import importlib
import json
import re
import struct
import tracemalloc
import warnings

import numpy as np
import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

import perakit as pk
from perakit.adapters import DoRA
from perakit.models.adapted import adapted_layers
from perakit.models.export import export_peft
from perakit.models.import_peft import import_peft

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}
pytestmark = pytest.mark.filterwarnings(
    "ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"
)


class MLP(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(
            nn.ModuleDict({"up": nn.Linear(7, 13), "down": nn.Linear(13, 7, bias=False)})
            for _ in range(12)
        )
        self.emb, self.head = nn.Embedding(3, 7), nn.Linear(7, 5)

    def forward(self, x):
        for layer in self.layers:
            x = x + layer["down"](torch.tanh(layer["up"](x)))
        return self.head(x)


def make(kind="gpt2", dtype=torch.float32):
    torch.manual_seed(0)
    if kind == "mlp":
        model, x = MLP(), torch.randn(3, 7, dtype=dtype)
    else:
        config = GPT2Config(
            vocab_size=29,
            n_positions=16,
            n_embd=22,
            n_layer=2,
            n_head=2,
            n_inner=34,
            bos_token_id=0,
            eos_token_id=0,
        )
        model, x = GPT2LMHeadModel(config), torch.randint(0, 29, (2, 11))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2)
    return model.to(dtype).eval(), x


def logits(model, x):
    with torch.no_grad():
        output = model(x)
    return output.logits if hasattr(output, "logits") else output


def saved(base, folder, size=0.3, **options):
    """A moved adapter of the real PEFT on a copy of the base, saved to `folder`; the PEFT model."""
    options = {
        "r": 3,
        "lora_alpha": 5,
        "target_modules": ["c_attn", "c_proj"] if hasattr(base, "transformer") else ["up", "down"],
    } | options
    config = peft.LoraConfig(fan_in_fan_out=hasattr(base, "transformer"), **options)
    model = peft.get_peft_model(copy.deepcopy(base), config).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                noise = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
                parameter.copy_(
                    parameter * (1 + 0.3 * noise) if "magnitude" in name else size * noise
                )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about a base model's card, which there is not
        model.save_pretrained(folder)
    return model


def edit(folder, **changes):
    """Change entries of adapter_config.json; None... removes nothing, `...` does."""
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not ...}))


def refused(model, folder, message):
    """import_peft refuses with `message` (a regular expression), and the model is as it was."""
    keys, layers = list(model.state_dict()), [type(module) for module in model.modules()]
    grads = [parameter.requires_grad for parameter in model.parameters()]
    with pytest.raises(pk.PerakitError, match=message):
        import_peft(model, folder)
    assert list(model.state_dict()) == keys
    assert [type(module) for module in model.modules()] == layers
    assert [parameter.requires_grad for parameter in model.parameters()] == grads


# --- the same function ----------------------------------------------------------------------------

ADAPTERS = {
    "lora": {},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "dora-rslora": {"use_dora": True, "use_rslora": True},
    "gaussian": {"init_lora_weights": "gaussian"},
    "float alpha": {"lora_alpha": 2.5},
    "dropout": {"lora_dropout": 0.25},
}


@pytest.mark.parametrize("dtype", TOLERANCE, ids=["float64", "float32"])
@pytest.mark.parametrize("kind", ["gpt2", "mlp"])
@pytest.mark.parametrize("name", ADAPTERS)
def test_adapters_of_peft_answer_the_same(name, kind, dtype, tmp_path):
    base, x = make(kind, dtype)
    theirs = saved(base, tmp_path, **ADAPTERS[name])
    model = copy.deepcopy(base)
    report = import_peft(model, tmp_path)
    expected = logits(theirs, x)
    assert (expected - logits(base, x)).norm() > 0.1 * expected.norm()
    assert (logits(model, x) - expected).norm() <= TOLERANCE[dtype] * expected.norm()
    wrapped = [
        name
        for name, module in theirs.named_modules()
        if isinstance(module, peft.tuners.lora.Linear)
    ]
    assert [f"base_model.model.{row[0]}" for row in report.rows] == wrapped
    method = pk.adapters(model)[report.rows[0][0]].method
    assert type(method) is (DoRA if "dora" in name else pk.LoRA)
    assert method.dropout == ADAPTERS[name].get("lora_dropout", 0)
    assert method.scaling == ("rslora" if "rslora" in name else "standard")


@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
@pytest.mark.parametrize("kind", ["gpt2", "mlp"])
def test_merged_weights_are_those_of_peft(kind, dora, tmp_path):
    base, _ = make(kind, torch.float64)
    theirs = saved(base, tmp_path, use_dora=dora).merge_and_unload().state_dict()
    model = copy.deepcopy(base)
    import_peft(model, tmp_path)
    pk.bake(model)
    for key, weight in model.state_dict().items():
        assert (weight - theirs[key]).norm() <= 1e-12 * theirs[key].norm()


@pytest.mark.parametrize(
    "options",
    [
        {"rank_pattern": {"c_attn": 2}, "alpha_pattern": {"c_proj": 7}},
        {
            "rank_pattern": {"^transformer.h.0.attn.c_attn": 2, "mlp.c_proj": 4},
            "alpha_pattern": {r"h\.[0-9].attn.c_proj": 1.5},
        },
        # The first one counts, in the order of the file, which PEFT sorts
        {"rank_pattern": {"1.*c_proj": 5, "c_proj": 1}},
        {"rank_pattern": {"proj": 5, "c_(attn|fc)": 2}, "use_rslora": True},
        {"rank_pattern": {"attn.c_proj|c_attn": 2}},
        {"target_modules": r".*\.h\.1\.(attn|mlp)\.c_proj"},
        {"target_modules": ["c_attn"], "layers_to_transform": [1]},
        {"target_modules": ["c_attn"], "layers_to_transform": 0, "layers_pattern": "h"},
        {
            "target_modules": ["c_attn", "transformer.h.0.attn.c_proj"],
            "layers_to_transform": [1],
            "layers_pattern": ["x", "h"],
        },
        {
            "target_modules": ["c_attn", "c_proj"],
            "exclude_modules": ["mlp.c_proj", "h.0.attn.c_attn"],
        },
        {"target_modules": ["c_attn", "c_proj"], "exclude_modules": r".*0\.attn.*"},
        {"target_modules": "all-linear"},
    ],
)
def test_patterns_and_targets_mean_what_they_mean_to_peft(options, tmp_path):
    base, x = make()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that one of several patterns is of no use
        theirs = saved(base, tmp_path, **options)
    model = copy.deepcopy(base)
    report = import_peft(model, tmp_path)
    wrapped = {
        key: module
        for key, module in theirs.named_modules()
        if isinstance(module, peft.tuners.lora.Linear)
    }
    assert [f"base_model.model.{row[0]}" for row in report.rows] == list(wrapped)
    for name, adapter in pk.adapters(model).items():
        assert adapter.method.rank == wrapped[f"base_model.model.{name}"].r["default"]
        assert adapter.method.scale == wrapped[f"base_model.model.{name}"].scaling["default"]
    expected = logits(theirs, x)
    assert (logits(model, x) - expected).norm() <= 1e-5 * expected.norm()


def test_block_numbers_are_read_as_peft_reads_them(tmp_path):
    base, x = make("mlp")
    theirs = saved(base, tmp_path, layers_to_transform=[1, 11], layers_pattern="layers")
    model = copy.deepcopy(base)
    report = import_peft(model, tmp_path)
    assert [row[0] for row in report.rows] == [
        f"layers.{i}.{end}" for i in (1, 11) for end in ("up", "down")
    ]
    assert (logits(model, x) - logits(theirs, x)).norm() <= 1e-5 * logits(theirs, x).norm()


@pytest.mark.parametrize(
    "method",
    [pk.LoRA(rank=3, alpha=4), pk.PERA(rank=3), DoRA(rank=2)],
    ids=lambda method: method.name,
)
@pytest.mark.parametrize("kind", ["gpt2", "mlp"])
def test_export_and_import_come_back_to_the_same_function(kind, method, tmp_path):
    base, x = make(kind)
    model = copy.deepcopy(base)
    pk.attach(model, method, ["c_attn", "c_proj"] if kind == "gpt2" else ["up", "down"])
    with torch.no_grad():
        for adapter in pk.adapters(model).values():
            for name, parameter in adapter.named_parameters():
                parameter.copy_(
                    torch.rand_like(parameter) + 0.5
                    if name == "magnitude"
                    else 0.3 * torch.randn_like(parameter)
                )
    export_peft(model, tmp_path / "first")
    back = copy.deepcopy(base)
    import_peft(back, tmp_path / "first")
    assert (logits(back, x) - logits(model, x)).norm() <= 1e-5 * logits(model, x).norm()
    assert (logits(back, x) - logits(base, x)).norm() > 0.01 * logits(base, x).norm()
    export_peft(back, tmp_path / "second")
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


def test_options_that_change_nothing_are_read(tmp_path):
    """merge_weights of old PEFT; MiCA; and a loftq_config beside another start, as PEFT has it."""
    base, x = make()
    theirs = saved(base, tmp_path, init_lora_weights="mica")
    edit(tmp_path, merge_weights=True, loftq_config={"loftq_bits": 4, "loftq_iter": 1})
    import_peft(base, tmp_path)
    assert (logits(base, x) - logits(theirs, x)).norm() <= 1e-5 * logits(theirs, x).norm()


def test_import_beside_another_adapter(tmp_path):
    base, x = make()
    theirs = saved(base, tmp_path)
    model = copy.deepcopy(base)
    pk.attach(model, pk.PERA(rank=2), ["c_fc"], name="mine")
    before = logits(model, x)
    import_peft(model, tmp_path, name="theirs")
    assert pk.active(model) == ("theirs",)
    assert (logits(model, x) - logits(theirs, x)).norm() <= 1e-5 * logits(theirs, x).norm()
    pk.activate(model, "mine")
    assert torch.equal(logits(model, x), before)


@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
def test_import_onto_a_4_bit_base(dora, tmp_path):
    base, x = make()
    saved(base, tmp_path, use_dora=dora)
    model = copy.deepcopy(base)
    pk.quantize(model, ["c_attn", "c_proj"])
    import_peft(model, tmp_path)
    with torch.no_grad():  # the same adapter on a full base that holds the dequantised weights
        for name, layer in adapted_layers(model).items():
            base.get_submodule(name).weight.copy_(layer.base.weight)
    import_peft(base, tmp_path)
    assert (logits(model, x) - logits(base, x)).norm() <= 1e-5 * logits(base, x).norm()


def test_an_adapter_in_half_precision_is_read_exactly(tmp_path):
    base, _ = make("mlp")
    saved(base, tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    tensors = {key: tensor.bfloat16() for key, tensor in load_file(path).items()}
    save_file(tensors, path)
    import_peft(base, tmp_path)
    layer = adapted_layers(base)["layers.3.up"]
    assert layer.adapter.A.dtype == torch.float32
    assert torch.equal(
        layer.adapter.A, tensors["base_model.model.layers.3.up.lora_A.weight"].float()
    )


class Odd(nn.Module):
    """Names full of what is special in a regular expression."""

    def __init__(self):
        super().__init__()
        names = (
            "a*b+c?d{2}e*f*g*h",
            "-1-",
            "a-b-c-d-e",
            "(x)*",
            "[y]+",
            "^z$",
            "up|down",
            "\\\\d",
            "w w",
            "é",
        )
        self.blocks = nn.ModuleDict(
            {name: nn.ModuleDict({"up": nn.Linear(6, 6)}) for name in names}
        )
        self.up = nn.Linear(6, 6)

    def forward(self, x):
        for block in self.blocks.values():
            x = block["up"](x)
        return self.up(x)


@pytest.mark.parametrize("outer", [False, True], ids=["all", "one"])
def test_own_exports_are_read_whatever_the_names(outer, tmp_path):
    torch.manual_seed(0)
    base, x = Odd(), torch.randn(3, 6)
    model = copy.deepcopy(base)
    names = (
        ["up"]
        if outer
        else [name for name, module in base.named_modules() if isinstance(module, nn.Linear)]
    )
    for k, name in enumerate(names):
        pk.attach(model, pk.LoRA(rank=1 + k % 3), re.escape(name))
    with torch.no_grad():
        for adapter in pk.adapters(model).values():
            adapter.B.normal_()
    export_peft(model, tmp_path)
    assert (
        isinstance(
            json.loads((tmp_path / "adapter_config.json").read_text())["target_modules"], str
        )
        is outer
    )
    back = copy.deepcopy(base)
    import_peft(back, tmp_path)
    assert {name: adapter.method.rank for name, adapter in pk.adapters(back).items()} == {
        n: 1 + k % 3 for k, n in enumerate(names)
    }
    assert (logits(back, x) - logits(model, x)).norm() <= 1e-5 * logits(model, x).norm()


def test_a_pattern_of_many_lazy_parts(tmp_path):
    """As fine-tuning libraries build it from lists of kinds and names."""
    base, x = make()
    ends = "c_attn|c_proj|q_proj|k_proj|v_proj|o_proj"
    pattern = (
        r"(?:.*?(?:vision|image|language|text|transformer)"
        rf".*?(?:self_attn|attention|attn|mlp|ffn).*?(?:{ends}).*?)"
        rf"|(?:\bmodel\.layers\.[\d]{{1,}}\.(?:self_attn|attention|attn|mlp)\.(?:{ends}))"
    )
    theirs = saved(base, tmp_path, target_modules=pattern)
    import_peft(base, tmp_path)
    assert len(pk.adapters(base)) == 6
    assert (logits(base, x) - logits(theirs, x)).norm() <= 1e-5 * logits(theirs, x).norm()


def test_an_adapter_of_a_tied_head_says_how_to_save_it(tmp_path):
    base, x = make()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PEFT, about the tied weight
        theirs = saved(base, tmp_path, target_modules=["lm_head"])
    refused(
        base,
        tmp_path,
        r"the file has weights of the base beside the adapter: '.*lm_head.base_layer.weight'.*;"
        r" where they are not trained, save it "
        r"with PEFT's save_pretrained\(folder, save_embedding_layers=False\)",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs.save_pretrained(tmp_path, save_embedding_layers=False)
    import_peft(base, tmp_path)
    assert (logits(base, x) - logits(theirs, x)).norm() <= 1e-5 * logits(theirs, x).norm()


@pytest.mark.parametrize(
    "options",
    [
        {"target_modules": r".*up", "layers_to_transform": [1]},
        {"target_modules": r".*up", "layers_to_transform": []},
        {"target_modules": r".*up", "layers_pattern": "layers"},
        {"target_modules": ["up"], "layers_pattern": "layers"},
    ],
)
def test_numbers_of_blocks_that_peft_refuses(options, tmp_path):
    with pytest.raises(
        ValueError,
        match=(
            r"cannot be used when `target_modules` is a str|`layers_to_transform` must also be"
            r" specified"
        ),
    ):
        peft.LoraConfig(**options)
    base, _ = make("mlp")
    saved(base, tmp_path, target_modules=r".*up")
    edit(tmp_path, **options)
    refused(base, tmp_path, "PEFT refuses too")


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"peft_type": "LOHA"},
            r"peft_type='LOHA' cannot be imported: perakit reads LORA, with or without use_dora",
        ),
        ({"peft_type": ...}, r"peft_type=None cannot be imported"),
        (
            {"bias": "all"},
            r"bias='all' cannot be imported: perakit trains no bias; train with bias='none'",
        ),
        ({"bias": "lora_only"}, r"bias='lora_only' cannot be imported"),
        *(
            (
                {"init_lora_weights": start},
                (
                    rf"init_lora_weights='{start}' cannot be imported: it changes the base's"
                    r" weights; save with PEFT's path"
                ),
            )
            for start in ("pissa", "pissa_niter_4", "olora", "corda", "loftq", "lora_ga")
        ),
        *(
            (
                {key: value},
                (
                    rf"{key}=.* cannot be imported: perakit reads plain LoRA and DoRA, which this"
                    r" option changes"
                ),
            )
            for key, value in {
                "trainable_token_indices": [1],
                "layer_replication": [[0, 1]],
                "alora_invocation_tokens": [5],
                "use_qalora": True,
                "lora_bias": True,
                "target_parameters": ["w"],
                "megatron_config": {"a": 1},
                "arrow_config": {"top_k": 3},
                "velora_config": {"num_groups": 2},
                "monteclora_config": {"num_samples": 2},
                "use_bdlora": {"nblocks": 2},
                "kasa_config": {"beta": 1},
                "ensure_weight_tying": True,
                "something_new_in_peft": "yes",
            }.items()
        ),
        ({"r": "3"}, r"r='3' in .* must be an integer"),
        ({"r": True}, r"r=True in .* must be an integer"),
        ({"r": ...}, r"has no r, for which PEFT would take a default"),
        (
            {"lora_alpha": ...},
            (
                r"has no lora_alpha, for which PEFT would take a default: write the value of the"
                r" training run"
            ),
        ),
        ({"lora_alpha": None}, r"lora_alpha=None in .* must be a number"),
        ({"target_modules": ...}, r"has no target_modules"),
        (
            {"lora_alpha": 0},
            (
                r"lora_alpha 0 of layer 'layers.0.up' must be a finite number > 0: a minus sign can"
                r" go into its lora_B, and a layer with 0 can"
            ),
        ),
        (
            {"lora_alpha": -1.0},
            r"lora_alpha -1.0 of layer 'layers.0.up' must be a finite number > 0",
        ),
        (
            {"lora_alpha": float("nan")},
            r"lora_alpha nan of layer 'layers.0.up' must be a finite number > 0",
        ),
        (
            {"alpha_pattern": {"down": -2}},
            r"lora_alpha -2 of layer 'layers.0.down' must be a finite number > 0",
        ),
        ({"lora_alpha": 10**400}, r"alpha=10+ .* must be a finite number > 0"),
        ({"r": 0}, r"rank 0 of layer 'layers.0.up', 13 x 7, must be an integer from 1 to 512"),
        ({"r": 2**40}, r"rank 1099511627776 of layer .* must be an integer from 1 to 512"),
        (
            {"rank_pattern": {"up": 2.0}},
            r"rank 2.0 of layer 'layers.0.up', 13 x 7, must be an integer from 1 to 512",
        ),
        (
            {"rank_pattern": {"up": "2"}},
            r"rank_pattern=\{'up': '2'\} in .* must be an object of numbers",
        ),
        ({"rank_pattern": ["up"]}, r"rank_pattern=\['up'\] in .* must be an object of numbers"),
        (
            {"rank_pattern": {"up": 4}},
            (
                r"this adapter does not fit: '.*layers.0.up.lora_A.weight' has shape \[3, 7\], the"
                r" model and rank need \[4, 7\]"
            ),
        ),
        ({"use_rslora": "no"}, r"use_rslora='no' in .* must be true or false"),
        (
            {"use_dora": True},
            (
                r"does not fit: the file lacks tensors that .* speaks of:"
                r" '.*lora_magnitude_vector'"
            ),
        ),
        ({"lora_dropout": 1.5}, r"dropout=1.5 must be a number in \[0, 1\)"),
        ({"lora_dropout": "a"}, r"lora_dropout='a' in .* must be a number"),
        (
            {"target_modules": ["up", 3]},
            r"target_modules=\['up', 3\] in .* must be a list of names or a regular expression",
        ),
        (
            {"target_modules": ["q_proj"]},
            r"target_modules=\['q_proj'\] matches no layer: this adapter belongs to another model",
        ),
        (
            {"target_modules": ["up"]},
            (
                r"does not fit: the file has tensors that nothing asks for: .* and 20 more. Import"
                r" it onto the model"
            ),
        ),
        (
            {"target_modules": ["up", "down", "head"]},
            (
                r"does not fit: the file lacks tensors that adapter_config.json speaks of:"
                r" '.*head.lora_A"
            ),
        ),
        (
            {"target_modules": ["up", "down", "emb"]},
            r"the adapter targets 'emb' \(Embedding\), which cannot be adapted: an embedding looks",
        ),
        (
            {"target_modules": "(up"},
            r"pattern '\(up' is no regular expression \(.*\): copy the adapter again",
        ),
        (
            {"target_modules": "(.*)*up"},
            (
                r"pattern '\(\.\*\)\*up' could take for ever on the names of this model, for it"
                r" repeats a group, or .*: write the names out"
            ),
        ),
        ({"target_modules": "a?" * 30 + "a" * 30}, r"could take for ever"),
        ({"target_modules": "(.|.)" * 40}, r"could take for ever"),
        ({"exclude_modules": "(|)" * 40 + "x"}, r"could take for ever"),
        ({"rank_pattern": {"(?:u|u)" * 40: 3}}, r"could take for ever"),
        (
            {"layers_to_transform": [1], "layers_pattern": ["layers", "(.|.)" * 40]},
            r"could take for ever",
        ),
        (
            {"target_modules": r"layers\.1\..*", "layers_to_transform": [1]},
            (
                r"layers_to_transform beside a target_modules that is a regular expression, PEFT"
                r" refuses too: put the numbers into it"
            ),
        ),
        (
            {"target_modules": "layers.*", "layers_pattern": "layers"},
            r"layers_pattern beside a target_modules that is a regular",
        ),
        ({"rank_pattern": {"a)|(b": 3}}, r"pattern 'a\)\|\(b' is no regular expression"),
        ({"alpha_pattern": {"up(?i)": 3}}, r"pattern 'up\(\?i\)' is no regular expression"),
        ({"exclude_modules": {}}, r"exclude_modules=\{\} in .* must be a list of names"),
        ({"layers_to_transform": [1.5]}, r"layers_to_transform=\[1.5\] in .* must be an integer"),
        ({"layers_pattern": 3}, r"layers_pattern=3 in .* must be a name"),
    ],
)
def test_configurations_that_are_refused(changes, message, tmp_path):
    base, _ = make("mlp")
    saved(base, tmp_path)
    edit(tmp_path, **changes)
    refused(base, tmp_path, message)


@pytest.mark.parametrize(
    "field",
    [
        "peft_type",
        "bias",
        "init_lora_weights",
        "lora_alpha",
        "r",
        "target_modules",
        "layers_pattern",
        "x" * 40,
    ],
)
@pytest.mark.parametrize(
    "value", ["long" * 1000, 10**900, ["long"] * 1000], ids=["text", "number", "list"]
)
def test_messages_stay_short(field, value, tmp_path):
    base, _ = make("mlp")
    saved(base, tmp_path)
    edit(tmp_path, **{field: value})
    with pytest.raises(pk.PerakitError) as caught:
        import_peft(base, tmp_path)
    assert len(str(caught.value)) < 500 + len(str(tmp_path))


def test_every_option_of_peft_is_read_or_harmless_or_refused(tmp_path):
    """A field that a newer PEFT adds is refused when it is set: none passes by unseen."""
    # The package's attribute of this name is the function
    module = importlib.import_module("perakit.models.import_peft")
    fields = set(peft.LoraConfig.__dataclass_fields__)
    assert fields >= module.READ
    assert fields >= module.HARMLESS - {"runtime_config", "merge_weights"}  # of an older one
    base, _ = make("mlp")
    saved(base, tmp_path)
    for field in sorted(fields - module.READ - module.HARMLESS):
        edit(tmp_path, **{field: {"a": 1}})
        refused(base, tmp_path, f"{field}=.* cannot be imported")
        edit(tmp_path, **{field: None})
    import_peft(base, tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", r"adapter_config.json' is damaged \(JSONDecodeError\): copy the adapter again"),
        (b"\xff\xfe\x00", r"is damaged \(UnicodeDecodeError\)"),
        (b"[" * 100_000, r"is damaged \(RecursionError\)"),
        (
            b"[1, 2]",
            r"is not an adapter's configuration: pass a folder that PEFT's save_pretrained wrote",
        ),
        (b'{"r": ' + b"1" * 5000 + b"}", r"is damaged \(ValueError\)"),
        (b" " * (16 * 2**20 + 1), r"is not an adapter's configuration"),
    ],
    ids=["empty", "binary", "deep", "list", "huge number", "huge file"],
)
def test_a_configuration_that_is_none(text, message, tmp_path):
    base, _ = make("mlp")
    saved(base, tmp_path)
    (tmp_path / "adapter_config.json").write_bytes(text)
    refused(base, tmp_path, message)


def test_folders_without_the_files(tmp_path):
    base, _ = make("mlp")
    refused(
        base,
        tmp_path / "nowhere",
        r"cannot read '.*adapter_config.json': No such file or directory; is this a folder that"
        r" PEFT",
    )
    saved(base, tmp_path)
    (tmp_path / "adapter_model.safetensors").rename(tmp_path / "other")
    refused(base, tmp_path, r"has no adapter_model.safetensors: save it with PEFT as safetensors")
    (tmp_path / "adapter_model.bin").write_bytes(b"pickle")
    refused(
        base,
        tmp_path,
        r"has no adapter_model.safetensors; its adapter_model.bin is a pickle, which can run code:"
        r" save it",
    )
    (tmp_path / "adapter_model.safetensors").mkdir()
    refused(base, tmp_path, r"cannot read '.*adapter_model.safetensors': Is a directory")
    with pytest.raises(pk.PerakitError, match="the first argument is the model"):
        import_peft(tmp_path, tmp_path)
    refused(base, None, r"the folder is a path, a str or a Path, not None")
    refused(
        base, str(tmp_path / "a\0b"), r"cannot read '.*': .*null byte; is this a folder that PEFT"
    )


def rewrite(folder, change):
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


KEY = "base_model.model.layers.2.up.lora_A.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t.pop(KEY),
            rf"lacks tensors that adapter_config.json speaks of: '{KEY}'\. Import it",
        ),
        (
            lambda t: t.update(extra=torch.ones(1)),
            r"the file has tensors that nothing asks for: 'extra'\. Import it",
        ),
        (
            lambda t: t.update({KEY.replace("base_model.model.", ""): t.pop(KEY)}),
            r"nothing asks for: 'layers.2.up.lora_A.weight'; the file lacks",
        ),
        (
            lambda t: t.update({KEY: t[KEY].T.contiguous()}),
            rf"'{KEY}' has shape \[7, 3\], the model and rank need \[3, 7\]",
        ),
        (
            lambda t: t[KEY].view(-1)[4:5].fill_(torch.nan),
            r"lora_A.weight of layer 'layers.2.up' holds NaN or inf: import another checkpoint",
        ),
        (
            lambda t: t.update({KEY: t[KEY].double()}),
            (
                r"lora_A.weight of layer 'layers.2.up' is torch.float64, the model would round it"
                r" to torch.float32"
            ),
        ),
        (
            lambda t: t.update({KEY: t[KEY].int()}),
            r"is cut short or altered: .* is I32\)",
        ),
    ],
    ids=["missing", "extra", "no prefix", "transposed", "nan", "double", "int"],
)
def test_tensors_that_are_refused(change, message, tmp_path):
    base, _ = make("mlp")
    saved(base, tmp_path)
    rewrite(tmp_path, change)
    refused(base, tmp_path, message)


def test_square_layers_of_the_wrong_rank_are_seen(tmp_path):
    model = nn.Sequential(nn.Linear(4, 4))
    pk.attach(model, pk.LoRA(rank=4), ["0"])
    export_peft(model, tmp_path)
    edit(tmp_path, r=3, lora_alpha=3)
    refused(
        nn.Sequential(nn.Linear(4, 4)),
        tmp_path,
        r"has shape \[4, 4\], the model and rank need \[3, 4\]",
    )


@pytest.mark.parametrize("kept", [0, 7, 8, 100, -1])
def test_a_file_that_is_cut(kept, tmp_path):
    base, _ = make("mlp")
    saved(base, tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    refused(base, tmp_path, r"adapter_model.safetensors' is cut short or altered")


def test_every_flipped_bit_of_the_header_is_refused_or_harmless(tmp_path):
    base, x = make("mlp")
    theirs = logits(saved(base, tmp_path, target_modules=["0.up"]), x)
    path = tmp_path / "adapter_model.safetensors"
    data = path.read_bytes()
    header = 8 + int.from_bytes(data[:8], "little")
    refusals = 0
    for position in range(header):
        path.write_bytes(
            data[:position] + bytes([data[position] ^ (1 << position % 8)]) + data[position + 1 :]
        )
        model = copy.deepcopy(base)
        try:
            import_peft(model, tmp_path)
        except pk.PerakitError:
            refusals += 1
            assert not adapted_layers(model)
        else:
            assert (logits(model, x) - theirs).norm() <= 1e-5 * theirs.norm()
    assert refusals > 0.5 * header


@pytest.mark.parametrize(
    "lie",
    [
        struct.pack("<Q", 2**62),  # a header of four exabytes
        struct.pack("<Q", 2**30) + b"{}",
        struct.pack("<Q", 2) + b"{}",
        None,  # the true file, and then nothing more of it
    ],
)
def test_a_file_that_lies_about_its_size_is_not_read(lie, tmp_path):
    base, _ = make("mlp")
    saved(base, tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes() if lie is None else lie)
    with open(path, "r+b") as file:
        file.truncate(2**33)  # eight gigabytes of nothing, which take no room on the disk
    tracemalloc.start()
    refused(base, tmp_path, r"is cut short or altered|does not fit")
    assert tracemalloc.get_traced_memory()[1] < 64 * 2**20
    tracemalloc.stop()


def test_a_taken_name_and_a_merged_model(tmp_path):
    base, _ = make("mlp")
    saved(base, tmp_path)
    import_peft(base, tmp_path)
    refused(
        base,
        tmp_path,
        r"the model has an adapter 'default' already: pass another name=, or pk.delete\(model,"
        r" 'default'\) first",
    )
    pk.merge(base)
    with pytest.raises(pk.PerakitError, match="merged"):
        import_peft(base, tmp_path, name="other")
    assert pk.active(base) == ("default",)
    assert np.all([list(layer.adapters) == ["default"] for layer in adapted_layers(base).values()])
