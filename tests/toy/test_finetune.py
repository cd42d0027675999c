"""Trials: what is matched, and what a comparison reports."""

import pytest

import perakit as pk
from perakit.models.attach import adapt, report
from perakit.toy import GPT2, Config, finetune


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
