"""Parts of a fused layer: q and v of c_attn, each with factors of its own."""

import numpy as np
import pytest
import torch
from torch import nn

import perakit as pk
from perakit.models.parts import Parts, rows
from perakit.strategies import make_layer
from perakit.testing import LAWS

# Not MoRA: its parts share their row space, and the sum of their ranks is not attained (law 11)
METHODS = [pk.LoRA(2), pk.PERA(2), pk.DoRA(2), pk.HiRA(2), pk.LoHa(2), pk.DeLoRA(2)]
CASES = [*((method, "qv") for method in METHODS), (pk.LoRA(2), "k"), (pk.PERA(2), "qkv")]


@pytest.mark.parametrize(("method", "parts"), CASES, ids=lambda one: getattr(one, "name", one))
def test_every_law_holds_for_parts(method, parts):
    for kind, dtype in (("Conv1D", torch.float32), ("Linear", torch.bfloat16)):
        layer = make_layer(kind, 12, 5, True, dtype, 0)
        for law in LAWS:
            if law.__name__ != "law_12_compile":
                law(Parts.on(method, parts), layer, 0)


@pytest.mark.thorough
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_a_base_in_4_bits_float64_and_compile(method):
    for kind, dtype in (("NF4", torch.float32), ("Conv1D", torch.float64)):
        layer = make_layer(kind, 9, 7, False, dtype, 1)
        for law in LAWS:
            if law.__name__ != "law_12_compile" or (kind == "Conv1D" and method.name == "pera"):
                law(Parts.on(method, "kv"), layer, 1)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return pk.toy.GPT2(pk.toy.Config(n_embd=8, n_layer=2, n_head=2, vocab_size=11)).eval()


def test_targets_name_parts(model, tmp_path):
    report = pk.attach(model, pk.PERA(rank=2), ["c_attn[q,v]", "mlp.c_proj"])
    assert [row[:5] for row in report.rows[:2]] == [
        ("transformer.h.0.attn.c_attn", "Conv1D[q,v]", (24, 8), 2, 8),
        ("transformer.h.0.mlp.c_proj", "Conv1D", (8, 32), 2, 5),
    ]
    assert report.rows[0][5] == 2 * (2 * 16 + 3)
    with torch.no_grad():
        for adapter in pk.adapters(model).values():
            for parameter in adapter.parameters():
                parameter.normal_(std=0.5)
    ids = torch.arange(10)[None]
    delta = pk.delta_weights(model)["transformer.h.0.attn.c_attn"]
    assert not delta[8:16].any()  # k is not touched
    assert delta[:8].any()
    assert delta[16:].any()
    on_q = pk.adapters(model)["transformer.h.0.attn.c_attn"].get_submodule("q")
    torch.testing.assert_close(delta[:8], on_q.delta())
    with torch.no_grad():
        logits = model(ids)
        pk.save(model, tmp_path / "adapter")
        pk.export_peft(model, tmp_path / "peft")
        other = pk.toy.GPT2(model.config).eval()
        other.load_state_dict({k.replace(".base.", "."): v for k, v in model.state_dict().items()
                               if ".adapters." not in k})  # fmt: skip
        bare = other(ids)
        pk.load(other, tmp_path / "adapter")
        assert torch.equal(other(ids), logits)
        pk.detach(other)
        assert torch.equal(other(ids), bare)
        pk.import_peft(other, tmp_path / "peft")
        torch.testing.assert_close(other(ids), logits, rtol=1e-5, atol=1e-5)
        pk.bake(model)
        torch.testing.assert_close(model(ids), logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (["c_attn[q,w]"], "names parts that no layer has: write c_attn.q,k,v. or fewer"),
        (["c_attn[]"], "names parts that no layer has"),
        (["c_attn[q,q]"], "names parts that no layer has"),
        (["c_proj[q]"], "is not known to be q, k and v above one another"),
        (["c_attn[q]", "c_attn[v]"], "twice"),
        (["c_attn", "c_attn[v]"], "twice"),
        (["c_atn[q]"], "no layer matches 'c_atn'; nearest: c_attn"),
    ],
)
def test_targets_that_are_refused(model, targets, message):
    with pytest.raises(pk.PerakitError, match=message):
        pk.attach(model, pk.LoRA(rank=2), targets)
    assert not any("adapters" in name for name, _ in model.named_modules())


def test_parts_are_thirds_in_order():
    W0 = np.arange(12).reshape(6, 2)
    assert rows(W0, "k").tolist() == [[4, 5], [6, 7]]
    method = Parts.on(pk.LoRA(rank=1), "qv")
    assert method.to_dict() == pk.LoRA(rank=1).to_dict() | {"parts": ["q", "v"]}
    assert "parts" not in pk.Method.registry
    for parts in ("", "vq", "x"):
        with pytest.raises(pk.PerakitError, match="name some of q, k, v, in this order"):
            Parts.on(pk.LoRA(rank=1), parts)


def test_a_method_without_a_matrix_has_no_parts(model):
    with pytest.raises(pk.PerakitError, match="'quadratic' has no matrix ΔW, of which parts"):
        pk.attach(model, pk.Quadratic(rank=2), ["c_attn[q,v]"])


def test_a_file_with_parts_that_do_not_fit_is_refused(tmp_path):
    layer = nn.ModuleDict({"c_attn": nn.Linear(4, 12)})
    pk.attach(layer, pk.LoRA(rank=1), ["c_attn[v]"])
    pk.save(layer, tmp_path)
    whole = nn.ModuleDict({"c_attn": nn.Linear(4, 12)})
    pk.attach(whole, pk.LoRA(rank=1), ["c_attn"])
    with pytest.raises(pk.PerakitError, match="belongs to another model"):
        pk.load(whole, tmp_path)
