"""Trials: what is matched, and what a comparison reports."""

import json
import os

import pytest
import torch
from safetensors.torch import save_file

import perakit as pk
from perakit.adapters import Method
from perakit.cli import main
from perakit.files import LOCK, alone
from perakit.models.attach import adapt, report
from perakit.toy import GPT2, Config, Recipe, corpus, finetune


@pytest.fixture
def model():
    return GPT2(Config(n_embd=24, n_layer=2, n_head=2))


@pytest.mark.parametrize("rank", [1, 3, 8, 64])
def test_matched_lora_has_as_many_parameters_as_whole_ranks_allow(model, rank):
    trial = finetune.uniform(model, pk.PERA(rank, alpha=5.0), "all-linear")
    matched = finetune.matched_lora(model, trial)
    counts = []
    for each in (trial, matched):
        adapt(model, dict(each.methods))
        counts.append(report(model).trainable)
        assert {a.method.scale for a in pk.adapters(model).values()} == {5.0 / rank}
        pk.detach(model)
    pera, lora = counts
    assert 0 <= pera - lora < 24 + 24  # less than one more rank on the smallest layer
    assert set(matched.methods) == set(trial.methods)


def test_a_rank_that_fits_several_times_is_spread_over_layers(model):
    trial = finetune.uniform(model, pk.PERA(8), ["attn.c_proj"])
    matched = finetune.matched_lora(model, trial)
    assert sorted(m.rank for m in matched.methods.values()) == [8, 9]
    assert matched.label == "LoRA r=8-9 (matched)"


def test_trial_folders_are_plain_names():
    assert finetune.Trial("../PERA r=8 (x/y)", {}).folder == "..-pera-r=8--x-y"


TEXT = corpus.load("synthetic", limit=20_000)
SHORT = Recipe(steps=3, batch=2, context=16, eval_every=3, eval_windows=2)
METHODS = sorted(
    name for name, method in Method.registry.items() if method.__module__.startswith("perakit.")
)


@pytest.fixture
def small(tmp_path):
    """A folder with a very small byte-level GPT-2."""
    folder = tmp_path / "model"
    folder.mkdir()
    torch.manual_seed(0)
    model = GPT2(Config(n_embd=16, n_layer=1, n_head=2, n_positions=32))
    save_file(
        {k: v for k, v in model.state_dict().items() if k != "lm_head.weight"},
        folder / "model.safetensors",
    )
    (folder / "config.json").write_text(json.dumps(model.config.to_dict()))
    return folder


@pytest.mark.parametrize("quantize", [None, "nf4"])
def test_every_method_is_reported(small, quantize, tmp_path):
    bare = pk.toy.load(small)
    trials = [
        finetune.uniform(bare, Method.registry[name](2), ["c_attn", "mlp.c_proj"], name)
        for name in METHODS
    ]
    result = finetune.compare(small, trials, TEXT, None, SHORT, tmp_path / "out", quantize=quantize)
    assert [outcome.label for outcome in result.outcomes] == METHODS
    rows = {row[0]: row for row in result.table().rows}
    for outcome in result.outcomes:
        method = Method.registry[outcome.label]
        assert outcome.new != result.before[0]
        if method.mergeable:
            assert 0 <= outcome.merge_gap_relative < 1e-5
            assert rows[outcome.label][6] == f"{outcome.merge_gap:.1e}"
        else:
            assert (outcome.merge_gap, outcome.merge_gap_relative) == (None, None)
            assert rows[outcome.label][6] == "-"
        assert (outcome.order_share is not None) == (outcome.label in ("lora", "pera"))
        model = pk.toy.load(small)
        pk.load(model, tmp_path / "out" / outcome.label / "adapter")
        assert pk.toy.bits_per_byte(model, TEXT.heldout, 16, 2) == outcome.new
    text = "NF4(block=64, double=True)" if quantize else "in full precision"
    assert f"- adapted layers: {text}" in (tmp_path / "out/report.md").read_text()


def test_an_adapter_that_stands_on_four_bits_differs_from_one_on_full_weights(small, tmp_path):
    trials = [finetune.uniform(pk.toy.load(small), pk.LoRA(2), "all-linear")]
    full, four = (
        finetune.compare(small, trials, TEXT, None, SHORT, tmp_path / str(q), quantize=q)
        for q in (None, "nf4")
    )
    assert full.before == four.before
    assert full.outcomes[0].new != four.outcomes[0].new
    assert full.outcomes[0].trainable == four.outcomes[0].trainable


def test_an_unknown_quantization(small, tmp_path):
    trials = [finetune.uniform(pk.toy.load(small), pk.LoRA(2), "all-linear")]
    with pytest.raises(pk.PerakitError, match="quantize='int3' is unknown: pass 'nf4'"):
        finetune.compare(small, trials, TEXT, None, SHORT, tmp_path / "out", quantize="int3")
    assert not (tmp_path / "out").exists()


def test_the_command_line_quantizes(small, tmp_path, capsys):
    short = [
        "--steps",
        "2",
        "--context",
        "16",
        "--batch",
        "2",
        "--rank",
        "2",
        "--method",
        "pera",
        "quadratic",
    ]
    command = [
        "finetune",
        "--model",
        str(small),
        "--text",
        "synthetic",
        "--out",
        str(tmp_path / "out"),
        *short,
        "--quantize",
        "nf4",
    ]
    assert main(command) == 0
    assert "quadratic r=2" in capsys.readouterr().out
    assert (
        json.loads((tmp_path / "out/results.json").read_text())["facts"]["adapted layers"]
        == "NF4(block=64, double=True)"
    )


def test_a_second_comparison_in_the_folder_is_told_so(small, tmp_path, capsys):
    out, trials = tmp_path / "out", [finetune.uniform(pk.toy.load(small), pk.LoRA(2), "all-linear")]
    command = ["finetune", "--model", str(small), "--text", "synthetic", "--out", str(out)]
    with alone(out):
        assert main([*command, "--steps", "2", "--context", "16", "--batch", "2"]) == 2
        said = capsys.readouterr().err
        assert said.startswith(
            f"perakit: {str(out)!r} is in use by process {os.getpid()}: wait for"
        )
        assert said.count("\n") == 1
        assert [path.name for path in out.iterdir()] == [LOCK]
    finetune.compare(small, trials, TEXT, None, SHORT, out)
    assert not [path for path in out.rglob("*") if path.name == LOCK]


@pytest.mark.parametrize("name", ["checkpoint.safetensors", "metrics.jsonl"])
def test_damage_is_one_sentence_on_the_command_line(small, tmp_path, capsys, name):
    short = [
        "--text",
        "synthetic",
        "--steps",
        "2",
        "--context",
        "16",
        "--batch",
        "2",
        "--rank",
        "2",
        "--method",
        "lora",
    ]
    command = ["finetune", "--model", str(small), "--out", str(tmp_path / "out"), *short]
    assert main(command) == 0
    (path,) = (tmp_path / "out").glob(f"*/{name}")
    data = path.read_bytes()
    path.write_bytes(data[:-20] + bytes([data[-20] ^ 4]) + data[-19:])
    capsys.readouterr()
    assert main(command) == 2
    said = capsys.readouterr().err
    assert said.startswith("perakit: ")
    assert str(path) in said
    assert "delete it to" in said
    assert said.count("\n") == 1
