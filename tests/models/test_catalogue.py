"""The catalogue against transformers (built on the meta device) and against the paper's tables."""

import json
import os
import re

import pytest
import torch

import perakit as pk
from perakit.models import catalogue, layers
from perakit.models.layers import kind_of
from perakit.models.targets import select

transformers = pytest.importorskip("transformers")

CLASSES = {
    "gpt2": ("GPT2Config", "GPT2LMHeadModel"),
    "llama": ("LlamaConfig", "LlamaForCausalLM"),
    "mistral": ("MistralConfig", "MistralForCausalLM"),
    "qwen2": ("Qwen2Config", "Qwen2ForCausalLM"),
    "roberta": ("RobertaConfig", "RobertaForMaskedLM"),
    "bert": ("BertConfig", "BertForMaskedLM"),
}
LLAMA = {
    "vocab_size": 101,
    "hidden_size": 24,
    "intermediate_size": 37,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
}
BERT = {
    "vocab_size": 101,
    "hidden_size": 12,
    "intermediate_size": 29,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 23,
    "type_vocab_size": 3,
}
GPT2 = {"vocab_size": 101, "n_positions": 23, "n_embd": 12, "n_layer": 3, "n_head": 4}
SMALL = [
    ("gpt2", GPT2),
    ("gpt2", GPT2 | {"n_inner": 31}),
    ("gpt2", GPT2 | {"tie_word_embeddings": False, "n_layer": 1}),
    ("llama", LLAMA),
    ("llama", {key: value for key, value in LLAMA.items() if key != "num_key_value_heads"}),
    ("llama", LLAMA | {"head_dim": 14, "tie_word_embeddings": True}),
    ("llama", LLAMA | {"attention_bias": True}),
    ("llama", LLAMA | {"mlp_bias": True}),
    ("mistral", LLAMA | {"head_dim": 14}),
    ("qwen2", LLAMA),
    ("qwen2", LLAMA | {"tie_word_embeddings": True, "num_hidden_layers": 11}),
    ("roberta", BERT),
    ("roberta", BERT | {"tie_word_embeddings": False}),
    ("bert", BERT),
    ("bert", BERT | {"tie_word_embeddings": False, "num_hidden_layers": 1}),
]


def build(family, fields):
    """transformers' own model of this config, without memory."""
    config, model = (getattr(transformers, name) for name in CLASSES[family])
    with torch.device("meta"):
        return model(config(**fields))


def linear_layers(model):
    """(name, d_out, d_in) of the Linear and Conv1D layers in the blocks, from the modules
    themselves.
    """
    found = []
    for name, module in model.named_modules():
        if re.search(r"\.\d+\.", name) and type(module).__name__ in ("Linear", "Conv1D"):
            shape = tuple(module.weight.shape)
            found.append((name, *(shape if isinstance(module, torch.nn.Linear) else shape[::-1])))
    return found


def assert_same(architecture, model):
    assert architecture.layers == linear_layers(model)
    assert architecture.total == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", catalogue.names())
def test_a_named_model_is_the_one_transformers_builds(name):
    fields = dict(catalogue.CONFIGS[name])
    family = fields.pop("model_type")
    assert_same(catalogue.describe(name), build(family, fields))


@pytest.mark.parametrize(
    ("name", "total"),  # as published with the weights
    [
        ("gpt2", 124_439_808),
        ("gpt2-medium", 354_823_168),
        ("gpt2-large", 774_030_080),
        ("gpt2-xl", 1_557_611_200),
        ("llama2-7b", 6_738_415_616),
        ("llama3-8b", 8_030_261_248),
        ("qwen2.5-7b", 7_615_616_512),
    ],
)
def test_published_sizes(name, total):
    assert catalogue.describe(name).total == total


@pytest.mark.parametrize(("family", "fields"), SMALL)
def test_a_local_config_is_the_model_transformers_builds(family, fields, tmp_path):
    model = build(family, fields)
    (tmp_path / "written.json").write_text(json.dumps({"model_type": family, **fields}))
    assert_same(catalogue.describe(tmp_path / "written.json"), model)
    model.config.save_pretrained(tmp_path)  # and the file that transformers itself writes
    assert_same(catalogue.describe(tmp_path), model)
    assert_same(catalogue.describe(str(tmp_path / "config.json")), model)


@pytest.fixture
def shapeless(monkeypatch):
    """Models of this size are built without numbers, and are not refused for it."""
    monkeypatch.setattr(layers, "missing", lambda _: "")


def shapes(model, targets):
    """(layer, m, n) of what attach would adapt."""
    chosen = [(name, model.get_submodule(name)) for name in select(model, targets)]
    return [(name, *kind_of(layer).shape(layer)) for name, layer in chosen]


@pytest.mark.parametrize("name", catalogue.names())
def test_targets_as_suffixes_mean_what_attach_means(name, shapeless):
    architecture = catalogue.describe(name)
    fields = dict(catalogue.CONFIGS[name])
    depth = "n_layer" if "n_layer" in fields else "num_hidden_layers"
    model = build(fields.pop("model_type"), fields | {depth: 1})
    one = catalogue.Architecture(
        name, [layer for layer in architecture.layers if ".0." in layer[0]], 0, architecture.aliases
    )
    for targets in ("all-linear", *([suffix] for suffix in architecture.aliases.values())):
        rows = [row for row in shapes(model, targets) if ".0." in row[0]]  # not RoBERTa's head
        assert rows == catalogue.select(one, targets)


@pytest.mark.parametrize(
    ("name", "method", "percent"),
    [
        ("llama3-8b", pk.LoRA(16), 0.3513),
        ("llama3-8b", pk.PERA(16), 0.3515),
        ("llama3-8b", pk.LoRA(32), 0.7002),
        ("llama3-8b", pk.PERA(32), 0.7012),
        ("llama2-7b", pk.PERA(16), 0.4148),
        ("llama2-7b", pk.LoRA(32), 0.8256),
        ("llama2-7b", pk.PERA(32), 0.8268),
        ("qwen2.5-7b", pk.LoRA(16), 0.3541),
        ("qwen2.5-7b", pk.PERA(16), 0.3543),
    ],
)
def test_percentages_of_the_paper(name, method, percent):
    assert catalogue.count(catalogue.describe(name), method)[1] == pytest.approx(percent, abs=1e-4)


def test_count_by_hand():
    # Llama-3-8B, r = 16: per block q 8192, k and v 5120 each, up and down 18432 each = 55,296 = sum
    # of m + n
    llama = catalogue.describe("llama3-8b")
    assert catalogue.count(llama, pk.LoRA(16), "q,k,v,up,down")[0] == 32 * 16 * (
        8192 + 2 * 5120 + 2 * 18432
    )
    assert (
        catalogue.count(llama, pk.PERA(16), "q,k,v,up,down")[0] == 28_311_552 + 160 * 16 * 17 // 2
    )
    trainable, percent = catalogue.count(llama, pk.LoRA(16))
    assert percent == 100 * trainable / (8_030_261_248 + trainable)


def test_count_equals_attach(shapeless):
    fields = dict(catalogue.CONFIGS["gpt2"])
    model = build(fields.pop("model_type"), fields)
    chosen = shapes(model, ["c_attn", "c_fc", "mlp.c_proj"])
    trainable = sum(pk.PERA(8).count(m, n) for _, m, n in chosen)
    base = sum(parameter.numel() for parameter in model.parameters())
    assert catalogue.count(catalogue.describe("gpt2"), pk.PERA(8)) == (
        trainable,
        100 * trainable / (base + trainable),
    )


def names_of(name, targets):
    return [
        layer
        for layer, _, _ in catalogue.select(catalogue.describe(name), targets)
        if ".0." in layer
    ]


@pytest.mark.parametrize(
    ("name", "targets", "chosen"),
    [
        ("gpt2", "q,k,v", ["attn.c_attn"]),
        ("gpt2", "down,q", ["attn.c_attn", "mlp.c_proj"]),  # the model's order
        ("gpt2", "o", ["attn.c_proj"]),
        ("gpt2", ["c_proj"], ["attn.c_proj", "mlp.c_proj"]),
        ("gpt2", ("mlp.c_proj", "down"), ["mlp.c_proj"]),
        ("gpt2", ["transformer.h.0.mlp.c_fc"], ["mlp.c_fc"]),
        ("llama3-8b", " q , o,gate", ["self_attn.q_proj", "self_attn.o_proj", "mlp.gate_proj"]),
        ("roberta-base", "q,down", ["attention.self.query", "output.dense"]),
        ("roberta-base", "o", ["attention.output.dense"]),
        # a suffix, as attach reads it
        ("roberta-base", ["output.dense"], ["attention.output.dense", "output.dense"]),
        ("roberta-base", ["k", "up"], ["attention.self.key", "intermediate.dense"]),
    ],
)
def test_select(name, targets, chosen):
    found = names_of(name, targets)
    assert [layer.split(".0.")[1] for layer in found] == chosen


def test_one_exact_name_is_one_layer():
    assert catalogue.select(catalogue.describe("gpt2"), ["transformer.h.1.mlp.c_fc"]) == [
        ("transformer.h.1.mlp.c_fc", 3072, 768)
    ]


def test_default_targets_of_every_family():
    for name in catalogue.names():
        architecture = catalogue.describe(name)
        assert (
            catalogue.select(architecture, None)
            == catalogue.select(architecture)
            == catalogue.select(architecture, "q,k,v,up,down")
        )


def test_table():
    text = str(
        catalogue.table(
            catalogue.describe("llama3-8b"), [pk.LoRA(16), pk.PERA(16)], "q,k,v,up,down"
        )
    ).splitlines()
    assert text[0].split() == ["method", "layers", "trainable", "total", "percent"]
    assert text[2].split() == ["lora", "160", "28,311,552", "8,058,572,800", "0.35132"]
    assert text[3].split()[:4] == ["pera", "160", "28,333,312", "8,058,594,560"]
    assert (
        text[4]
        == "llama3-8b, rank 16, targets q,k,v,up,down; percent = 100 trainable / total, total ="
        " model + trainable"
    )


def test_table_names_the_options_of_a_row():
    table = catalogue.table(
        catalogue.describe("gpt2"), [pk.PERA(8), pk.PERA(8, terms="cross", degree=3)]
    )
    assert [row[:2] for row in table.rows] == [["pera", "36"], ["pera:terms=cross,degree=3", "36"]]
    assert "targets q,k,v,up,down;" in table.foot


def test_table_names_the_rank_of_a_row_where_ranks_differ():
    table = catalogue.table(
        catalogue.describe("gpt2"), [pk.LoRA(4), pk.PERA(8, terms="square")], ["c_attn"]
    )
    assert [row[:2] for row in table.rows] == [
        ["lora:rank=4", "12"],
        ["pera:rank=8,terms=square", "12"],
    ]
    assert "rank 4, 8, targets c_attn;" in table.foot


@pytest.mark.parametrize(
    ("asked", "first"),
    [("llama3", "llama3-8b"), ("GPT2-Medum", "gpt2-medium"), ("roberta_large", "roberta-large")],
)
def test_an_unknown_model_lists_the_names_nearest_first(asked, first):
    with pytest.raises(
        pk.PerakitError,
        match=rf"unknown model '{asked}': give one of {first}, .*, or the path of a config.json",
    ) as caught:
        catalogue.describe(asked)
    assert all(name in str(caught.value) for name in catalogue.names())


@pytest.mark.parametrize(
    "targets", ["wq", ["q", "gate"], ["c_pro"], ["h.0"], ["attn.c_attn.weight"]]
)
def test_an_unknown_target_lists_what_there_is(targets):
    with pytest.raises(
        pk.PerakitError,
        match=(
            r"gpt2 has no target '.*': give an alias \(q, k, v, o, up, down\), a suffix"
            r" \(attn.c_attn, .*\)"
        ),
    ):
        catalogue.select(catalogue.describe("gpt2"), targets)


@pytest.mark.parametrize("targets", ["", [], "q,,k", ["q", 3], [""]])
def test_empty_targets(targets):
    with pytest.raises(
        pk.PerakitError, match=r"targets=.* must name layers: for example q,k,v,up,down"
    ):
        catalogue.select(catalogue.describe("gpt2"), targets)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"config.json' is not JSON \(.*\): copy the model's config.json again"),
        ("[" * 100_000, "is not JSON"),
        ("\xff", "is not JSON"),
        ("[]", "is not a JSON object"),
        ("{}", r"has model_type=None: supported are gpt2, llama, mistral, qwen2, roberta, bert"),
        ({"model_type": "t5"}, "has model_type='t5': supported are gpt2, llama"),
        ({"model_type": ["gpt2"]}, r"has model_type=\['gpt2'\]: supported are"),
        (
            {"model_type": "gpt2", **GPT2, "n_layer": None},
            "has no n_layer: add it, a positive integer",
        ),
        (
            {"model_type": "gpt2", **GPT2, "n_layer": 0},
            "has n_layer=0: it must be a positive integer",
        ),
        (
            {"model_type": "gpt2", **GPT2, "n_embd": -12},
            "has n_embd=-12: it must be a positive integer",
        ),
        (
            {"model_type": "gpt2", **GPT2, "n_inner": 1.5},
            "has n_inner=1.5: it must be a positive integer",
        ),
        (
            {"model_type": "gpt2", **GPT2, "vocab_size": True},
            "has vocab_size=True: it must be a positive integer",
        ),
        (
            {"model_type": "gpt2", **GPT2, "add_cross_attention": True},
            "add_cross_attention=True: only models without",
        ),
        (
            {"model_type": "gpt2", **GPT2, "tie_word_embeddings": "yes"},
            "has tie_word_embeddings='yes': it must be true or false",
        ),
        (
            {"model_type": "llama", **LLAMA, "hidden_size": "24"},
            "has hidden_size='24': it must be a positive integer",
        ),
        (
            {"model_type": "llama", **LLAMA, "num_attention_heads": 7},
            "hidden_size=24, not a multiple of num_attention_heads=7: add head_dim",
        ),
        (
            {"model_type": "mistral", **LLAMA, "num_key_value_heads": None},
            "has no num_key_value_heads",
        ),
        (
            {"model_type": "qwen2", **LLAMA, "num_key_value_heads": None},
            "has no num_key_value_heads",
        ),
        ({"model_type": "roberta", **BERT, "type_vocab_size": None}, "has no type_vocab_size"),
        (
            {"model_type": "bert", **BERT, "add_cross_attention": True},
            "only models without cross-attention",
        ),
    ],
)
def test_a_bad_config_says_what_and_what_to_do(text, message, tmp_path):
    data = text.encode("latin-1") if isinstance(text, str) else json.dumps(text).encode()
    (tmp_path / "config.json").write_bytes(data)
    with pytest.raises(pk.PerakitError, match=message):
        catalogue.describe(tmp_path)


@pytest.mark.parametrize("family", ["gpt2", "llama", "roberta"])
def test_sizes_that_no_model_has(family, tmp_path):
    fields = {"gpt2": GPT2, "llama": LLAMA, "roberta": BERT}[family]
    for name in fields:
        if name in ("n_head", "num_attention_heads") and family != "llama":
            continue  # in no shape
        (tmp_path / "config.json").write_text(
            json.dumps({"model_type": family, **fields, name: 10**12})
        )
        with pytest.raises(
            pk.PerakitError, match=rf"has {name}=1000000000000, more than the [0-9,]+ that a model"
        ):
            catalogue.describe(tmp_path)


def test_the_deepest_model_is_described_soon(tmp_path):
    config = {"model_type": "gpt2", **GPT2, "n_layer": 10_000}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert len(catalogue.describe(tmp_path).layers) == 40_000
    (tmp_path / "config.json").write_text(json.dumps(config | {"n_layer": 10_001}))
    with pytest.raises(pk.PerakitError, match=r"has n_layer=10001, more than the 10,000 that a"):
        catalogue.describe(tmp_path)


def test_no_plain_file(tmp_path):
    os.mkfifo(tmp_path / "config.json")
    for path in (tmp_path, tmp_path / "config.json", "/dev/zero"):
        with pytest.raises(pk.PerakitError, match=r"is a device or a pipe, not a plain file"):
            catalogue.describe(path)
    giant = tmp_path / "giant.json"
    giant.touch()
    os.truncate(giant, 2**40)
    with pytest.raises(pk.PerakitError, match=r"is larger than the 1,048,576 bytes"):
        catalogue.describe(giant)


@pytest.mark.parametrize("source", ["a\0b", 300 * "a"])
def test_a_name_that_no_file_has(source):
    with pytest.raises(pk.PerakitError, match=r"unknown model '.*: give one of"):
        catalogue.describe(source)


@pytest.mark.parametrize("source", [None, 3, b"gpt2"])
def test_what_is_no_path(source):
    with pytest.raises(pk.PerakitError, match=r"is a path, a str or a Path, not"):
        catalogue.describe(source)


def test_a_folder_without_config(tmp_path):
    with pytest.raises(
        pk.PerakitError,
        match=(
            r"cannot read '.*config.json': No such file or directory; give the folder of a model"
        ),
    ):
        catalogue.describe(tmp_path)


def test_a_name_comes_before_a_folder_of_that_name(tmp_path, monkeypatch):
    (tmp_path / "gpt2").mkdir()
    (tmp_path / "gpt2" / "config.json").write_text(json.dumps({"model_type": "gpt2", **GPT2}))
    monkeypatch.chdir(tmp_path)
    assert catalogue.describe("gpt2").total == 124_439_808
    assert catalogue.describe("./gpt2").total < 10_000
