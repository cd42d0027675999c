"""The report of attach ends with what was not adapted, and why."""

import pytest
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

import perakit as pk


def left(model, targets, **options):
    report = pk.attach(model, pk.LoRA(rank=1), targets, **options)
    shown = str(report)
    assert all(str(one) in shown for one in report.left[:4])
    assert ("and" in shown and f"and {len(report.left) - 4} more" in shown) == (
        len(report.left) > 4
    )
    return [(one.place, one.modules, one.parameters, one.why) for one in report.left]


def test_experts_attention_and_embeddings_are_named():
    transformers = pytest.importorskip("transformers")
    config = transformers.MixtralConfig(
        vocab_size=10, hidden_size=8, intermediate_size=12, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, num_local_experts=4,
    )  # fmt: skip
    found = left(transformers.MixtralForCausalLM(config), ["q_proj", "k_proj", "v_proj", "o_proj"])
    place, modules, parameters, why = found[0]
    assert (place, modules, parameters) == ("model.layers.*.mlp.experts", 2, 2 * 4 * 3 * 8 * 12)
    assert "its weights are stacked in 3 dimensions or more (gate_up_proj" in why
    assert ("model.embed_tokens", 1, 80, "an embedding looks rows up and is no W x + b") in found
    assert ("lm_head", 1, 80, "not among the targets") in found


def test_attention_of_torch_keeps_three_matrices_in_one():
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2)
    assert left(encoder, "all-linear") == [
        (
            "layers.*.self_attn",
            2,
            2 * 3 * 64,
            "it keeps three matrices in one, in_proj_weight, for which there is no layer",
        )
    ]


def test_layers_that_are_skipped_say_why():
    model = nn.Sequential(
        nn.Linear(3, 3), weight_norm(nn.Linear(3, 3)), nn.Conv2d(2, 2, 1), nn.LayerNorm(3)
    )
    found = {place: why for place, _, _, why in left(model, ["0"])}
    assert list(found) == ["1", "2"]
    assert "weight_norm" in found["1"] or "parametriz" in found["1"]
    # "0" is the layer, not the module called 0 that computes the weight of layer 1
    assert list(pk.adapters(model)) == ["0"]


def test_what_trains_and_what_is_tied_is_not_left():
    model = pk.toy.GPT2(pk.toy.Config(n_embd=8, n_layer=1, n_head=2, vocab_size=11))
    found = left(model, "all-linear", train=["wpe", "wte", "lm_head"])
    assert found == []
    pk.detach(model)
    found = left(model, "all-linear")
    assert [one[:3] for one in found] == [
        ("transformer.wpe", 1, 256 * 8),
        ("transformer.wte", 1, 11 * 8),  # the head is this weight too, and counts once
    ]


def test_nothing_left_says_nothing():
    report = pk.attach(nn.Sequential(nn.Linear(2, 2)), pk.LoRA(rank=1), ["0"])
    assert "not adapted" not in str(report)
