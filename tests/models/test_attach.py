"""Attaching: which layers, what the report says, what is frozen, and that a refusal changes
nothing.
"""

import copy
from contextlib import contextmanager

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

import perakit as pk
from perakit.models.adapted import AdaptedLayer
from perakit.toy.gpt2 import GPT2, Config, Conv1D

CONFIG = Config(vocab_size=11, n_positions=7, n_embd=6, n_layer=2, n_head=2, n_inner=13)
PERA, LORA = pk.PERA(rank=2, alpha=3), pk.LoRA(rank=3)


def gpt2():
    torch.manual_seed(0)
    return GPT2(CONFIG)


def mlp():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(7, 5), nn.LayerNorm(5), nn.Linear(5, 1), nn.Linear(1, 3, bias=False)
    )


def move(model):
    """Move all factors off their initial value, where ΔW is zero."""
    with torch.no_grad():
        for adapter in pk.adapters(model).values():
            for parameter in adapter.parameters():
                parameter.normal_()


def fingerprint(model):
    """Everything that attach may change: modules, keys, bits, requires_grad, training mode,
    attributes, random state.
    """
    bits = {
        name: (id(p), p.requires_grad, p.detach().clone())
        for name, p in model.named_parameters(remove_duplicate=False)
    }
    modules = {
        name: (id(m), m.training, sorted(vars(m)))
        for name, m in model.named_modules(remove_duplicate=False)
    }
    return list(model.state_dict()), modules, bits, torch.get_rng_state()


def same(before, after):
    keys, modules, bits, rng = before
    assert after[:2] == (keys, modules)
    assert torch.equal(after[3], rng)
    for name, (identity, requires_grad, value) in bits.items():
        assert after[2][name][:2] == (identity, requires_grad), name
        assert value.dtype == after[2][name][2].dtype
        assert torch.equal(value.view(torch.uint8), after[2][name][2].view(torch.uint8)), name


def backward_hooked():
    model = nn.Sequential(nn.Linear(4, 3))
    model[0].register_full_backward_hook(print)
    return model


def hooked():
    model = nn.Sequential(nn.Linear(4, 3))
    model[0].register_forward_hook(print)
    return model


@contextmanager
def refused(model, *fragments):
    """The block raises PerakitError, says these things, and leaves the model alone."""
    lazy = any(isinstance(p, nn.UninitializedParameter) for p in model.parameters())
    before = list(model.modules()) if lazy else fingerprint(model)
    with pytest.raises(pk.PerakitError) as caught:
        yield
    for fragment in fragments:
        assert fragment in str(caught.value)
    if lazy:
        assert before == list(model.modules())
    else:
        same(before, fingerprint(model))


# --- which layers ---------------------------------------------------------------------------------

BLOCK = ["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"]
ALL = [f"transformer.h.{i}.{name}" for i in range(2) for name in BLOCK]


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (["c_attn"], [name for name in ALL if name.endswith("c_attn")]),
        (["c_proj"], [name for name in ALL if name.endswith("c_proj")]),
        (["mlp.c_proj"], [name for name in ALL if name.endswith("mlp.c_proj")]),
        (["transformer.h.1.mlp.c_fc"], ["transformer.h.1.mlp.c_fc"]),
        (
            ("mlp.c_proj", "c_attn", "c_attn"),
            [name for name in ALL if name.endswith(("mlp.c_proj", "c_attn"))],
        ),
        (iter(["c_attn"]), [name for name in ALL if name.endswith("c_attn")]),
        (r".*\.h\.0\..*c_.*", ALL[:4]),
        (r".*mlp\.c_(fc|proj)", [name for name in ALL if "mlp" in name]),
        ("lm_head", ["lm_head"]),
        ("all-linear", ALL),
        (
            lambda name, module: isinstance(module, Conv1D) and module.nf == 13,
            [name for name in ALL if "c_fc" in name],
        ),
        (lambda name, module: name.endswith("1.attn.c_proj"), ["transformer.h.1.attn.c_proj"]),
    ],
)
def test_targets(targets, expected):
    model = gpt2()
    report = pk.attach(model, PERA, targets)
    assert list(pk.adapters(model)) == [row[0] for row in report.rows] == expected


def test_suffix_is_dotted_and_regex_matches_in_full():
    model = nn.ModuleDict({"my_proj": nn.Linear(3, 2), "proj": nn.Linear(3, 2)})
    pk.attach(model, LORA, ["proj"])
    assert list(pk.adapters(model)) == ["proj"]
    with refused(model, "no layer matches 'my'"):
        pk.attach(model, LORA, "my")


def test_all_linear_leaves_out_the_head_of_transformers_gpt2():
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(vocab_size=11, n_positions=7, n_embd=6, n_layer=1, n_head=2)
    model = transformers.GPT2LMHeadModel(config)
    report = pk.attach(model, PERA, "all-linear")
    assert list(pk.adapters(model)) == [f"transformer.h.0.{name}" for name in BLOCK]
    assert {row[1] for row in report.rows} == {"Conv1D"}
    assert [row[2] for row in report.rows] == [(18, 6), (6, 6), (24, 6), (6, 24)]


@pytest.mark.parametrize("tied", [True, False])
def test_all_linear_leaves_out_the_head_of_llama(tied):
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=31,
        hidden_size=8,
        intermediate_size=11,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    config.tie_word_embeddings = tied
    model = transformers.LlamaForCausalLM(config)
    pk.attach(model, LORA, "all-linear")
    parts = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"]
    parts += ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]
    assert list(pk.adapters(model)) == [f"model.layers.0.{part}" for part in parts]
    ids = torch.tensor([[1, 2, 3]])
    with pk.disabled(model):
        base = model(ids).logits
    move(model)
    assert not torch.equal(model(ids).logits, base)


def test_all_linear_knows_a_head_by_its_tie():
    model = nn.ModuleDict(
        {
            "embedding": nn.Embedding(7, 5),
            "body": nn.Linear(5, 5),
            "out": nn.Linear(5, 7, bias=False),
        }
    )
    model["out"].weight = model["embedding"].weight
    pk.attach(model, LORA, "all-linear")
    assert list(pk.adapters(model)) == ["body"]


# --- the report -----------------------------------------------------------------------------------


def test_report_counts():
    model = gpt2()
    base = sum(p.numel() for p in model.parameters())
    report = pk.attach(model, PERA, ["c_fc", "attn.c_proj"])
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trainable == 2 * (2 * (13 + 6) + 3) + 2 * (2 * (6 + 6) + 3)
    assert (report.base, report.trainable) == (base, trainable)
    assert report.percent == pytest.approx(100 * trainable / (base + trainable), rel=1e-12)
    assert report.rows[:2] == [
        ("transformer.h.0.attn.c_proj", "Conv1D", (6, 6), 2, 5, 27),
        ("transformer.h.0.mlp.c_fc", "Conv1D", (13, 6), 2, 5, 41),
    ]


def test_report_prints():
    # 40 + 10 + 6 + 3 = 59 frozen, 36 + 12 = 48 trainable
    report = pk.attach(mlp(), LORA, ["0", "3"])
    assert (
        str(report) == "layer    kind  shape  rank  K  trainable  percent\n"
        "-----  ------  -----  ----  -  ---------  -------\n"
        "0      Linear  5 x 7     3  3         36  33.6449\n"
        "3      Linear  3 x 1     3  1         12  11.2150\n"
        "2 layers: 48 trainable of 107 parameters (44.8598 %)\n"
        "K: the largest rank that ΔW can have\n"
        "not adapted:\n"
        "  2, 5 parameters: not among the targets"
    )


def test_report_in_a_notebook_is_escaped():
    html = pk.attach(nn.ModuleDict({"<script>": nn.Linear(3, 2)}), LORA, "all-linear")._repr_html_()
    assert "<td>&lt;script&gt;</td>" in html
    assert "<script>" not in html
    assert "1 layer: 15 trainable of 23 parameters" in html


# --- what changes ---------------------------------------------------------------------------------


def test_all_but_the_adapters_is_frozen():
    model = gpt2()
    pk.attach(model, PERA, ["c_attn"])
    factors = {id(p) for adapter in pk.adapters(model).values() for p in adapter.parameters()}
    assert {id(p) for p in model.parameters() if p.requires_grad} == factors


def test_attach_is_reproducible_and_in_the_order_of_the_model():
    drawn = []
    for targets in (["c_fc", "c_attn"], ["c_attn", "c_fc"]):
        model = gpt2()
        torch.manual_seed(3)
        pk.attach(model, PERA, targets)
        drawn.append(
            [p.clone() for adapter in pk.adapters(model).values() for p in adapter.parameters()]
        )
    assert all(torch.equal(a, b) for a, b in zip(*drawn, strict=True))
    assert not torch.equal(
        pk.adapters(model)["transformer.h.0.attn.c_attn"].A,
        pk.adapters(model)["transformer.h.1.attn.c_attn"].A,
    )


def test_detach_restores_everything():
    model = gpt2()
    model.transformer.h[0].requires_grad_(False)
    model.transformer.h[1].mlp.c_fc.bias.requires_grad_(False)
    model.transformer.h[1].attn.eval()
    before = fingerprint(model)
    pk.attach(model, PERA, ["c_attn", "mlp.c_proj"])
    move(model)
    pk.merge(model)
    pk.attach(model, LORA, ["lm_head"])
    pk.detach(model)
    same((*before[:3], torch.get_rng_state()), fingerprint(model))
    pk.detach(model)  # a bare model stays as it is
    same((*before[:3], torch.get_rng_state()), fingerprint(model))


def test_attaching_to_a_part_is_undone_through_the_whole():
    model = gpt2()
    model.transformer.h[1].ln_1.bias.requires_grad_(False)
    before = fingerprint(model)
    pk.attach(model.transformer.h[1], PERA, ["c_attn"])
    pk.attach(model, LORA, ["c_fc"])
    pk.detach(model)
    same((*before[:3], torch.get_rng_state()), fingerprint(model))


def test_second_method_on_other_layers():
    model = mlp()
    x = torch.randn(3, 7)
    pk.attach(model, LORA, ["0"])
    report = pk.attach(model, PERA, ["2"])
    assert [(row[0], row[3], row[4]) for row in report.rows] == [("0", 3, 3), ("2", 2, 1)]
    assert {name: type(adapter.method) for name, adapter in pk.adapters(model).items()} == {
        "0": pk.LoRA,
        "2": pk.PERA,
    }
    assert all(
        p.requires_grad for adapter in pk.adapters(model).values() for p in adapter.parameters()
    )
    assert sum(p.requires_grad for p in model.parameters()) == 5
    move(model)
    dense = copy.deepcopy(model)
    deltas = pk.delta_weights(model)
    pk.detach(dense)
    with torch.no_grad():
        for name, delta in deltas.items():
            dense[int(name)].weight += delta
        torch.testing.assert_close(model(x), dense(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "targets", [["0"], ["2", "0"], "all-linear", lambda name, module: name == "0"]
)
def test_second_method_on_the_same_layer_is_refused(targets):
    model = mlp()
    pk.attach(model, LORA, ["0"])
    with refused(model, "layer '0' has an adapter already", "pk.detach(model)", "pk.bake(model)"):
        pk.attach(model, PERA, targets)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_factors_are_wide_and_on_the_device(dtype):
    model = mlp().to(dtype)
    pk.attach(model, PERA, ["0"])
    assert {p.dtype for p in pk.adapters(model)["0"].parameters()} == {
        torch.promote_types(dtype, torch.float32)
    }
    assert model(torch.ones(2, 7, dtype=dtype)).dtype == dtype


def test_training_mode_is_inherited():
    model = mlp()
    model[0].eval()
    pk.attach(model, pk.LoRA(rank=2, dropout=0.9), ["0", "2"])
    assert {m.training for m in model[0].modules()} == {False}
    assert {m.training for m in model[2].modules()} == {True}
    move(model)
    model.eval()
    x = torch.randn(3, 7)
    assert torch.equal(model(x), model(x))


# --- layers in odd places -------------------------------------------------------------------------


class Twice(nn.Module):
    """One Linear at two places."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(5, 5)
        self.inner = nn.ModuleList([nn.ReLU(), self.first])

    def forward(self, x):
        return self.inner[1](self.first(x))


def test_shared_module_gets_one_adapter_at_both_places():
    model = Twice()
    linear, keys = model.first, list(model.state_dict())
    report = pk.attach(model, LORA, ["first"])
    assert isinstance(model.first, AdaptedLayer)
    assert model.first is model.inner[1]
    assert report.trainable == 30
    move(model)
    x = torch.randn(2, 5)
    W = linear.weight + pk.delta_weights(model)["first"]
    torch.testing.assert_close(
        model(x), (x @ W.T + linear.bias) @ W.T + linear.bias, rtol=1e-5, atol=1e-5
    )
    pk.detach(model)
    assert model.first is linear is model.inner[1]
    assert list(model.state_dict()) == keys


@pytest.mark.parametrize("source", ["perakit.toy.gpt2", "transformers.pytorch_utils"])
def test_square_conv1d_is_not_transposed(source):
    model = nn.Sequential(pytest.importorskip(source).Conv1D(5, 5)).double()
    weight, bias = model[0].weight, model[0].bias
    pk.attach(model, PERA, ["0"])
    move(model)
    x = torch.randn(3, 5, dtype=torch.float64)
    delta = pk.delta_weights(model)["0"]
    assert torch.equal(model[0].W0, weight.T)
    torch.testing.assert_close(model(x), x @ (weight + delta.T) + bias, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(model[0].weight, weight + delta.T, rtol=1e-12, atol=1e-12)


def dense(model):
    """The same model without adapters, W0 + ΔW written into its layers by hand."""
    plain = copy.deepcopy(model)
    pk.detach(plain)
    with torch.no_grad():
        for name, delta in pk.delta_weights(model).items():
            plain.get_submodule(name).weight += delta
    return plain


def test_multihead_attention_feels_the_adapter():
    # Torch rounds it differently where not frozen
    model = nn.MultiheadAttention(6, 2, batch_first=True).requires_grad_(False)
    x = torch.randn(2, 3, 6)
    base = model(x, x, x)[0]
    pk.attach(model, PERA, ["out_proj"])
    move(model)
    y = model(x, x, x)[0]
    torch.testing.assert_close(y, dense(model)(x, x, x)[0], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(y, base, atol=1e-2)
    y.sum().backward()
    assert all(
        p.grad is not None and p.grad.abs().max() > 0
        for p in pk.adapters(model)["out_proj"].parameters()
    )
    with pk.disabled(model):
        assert torch.equal(model(x, x, x)[0], base)


def test_fast_path_of_the_encoder_layer_feels_the_adapter(monkeypatch):
    model = nn.TransformerEncoderLayer(6, 2, dim_feedforward=7, batch_first=True).eval()
    calls, fast = [], torch._transformer_encoder_layer_fwd
    monkeypatch.setattr(
        torch, "_transformer_encoder_layer_fwd", lambda *a: calls.append(1) or fast(*a)
    )
    x = torch.randn(2, 3, 6)
    with torch.no_grad():
        base = model(x)
        pk.attach(model, PERA, "all-linear")
        assert list(pk.adapters(model)) == ["self_attn.out_proj", "linear1", "linear2"]
        assert torch.equal(model(x), base)
        move(model)
        y = model(x)
        torch.testing.assert_close(y, dense(model)(x), rtol=1e-4, atol=1e-4)
        assert not torch.allclose(y, base, atol=1e-2)
        pk.merge(model)
        torch.testing.assert_close(model(x), y, rtol=1e-4, atol=1e-4)
        with pk.disabled(model):
            assert torch.equal(model(x), base)
    assert len(calls) == 6  # every one of these passes took the fast path
    torch.testing.assert_close(model(x), y, rtol=1e-4, atol=1e-4)  # and the slow path agrees


# --- disabled -------------------------------------------------------------------------------------


def test_disabled_nests_and_survives_an_exception():
    model = mlp()
    x = torch.randn(3, 7)
    base = model(x)
    pk.attach(model, PERA, ["0", "2"])
    move(model)
    y = model(x)
    with pk.disabled(model):
        with pk.disabled(model):
            assert torch.equal(model(x), base)
        assert torch.equal(model(x), base)
        with pytest.raises(ZeroDivisionError), pk.disabled(model):
            raise ZeroDivisionError
        assert torch.equal(model(x), base)
    assert torch.equal(model(x), y)
    with pytest.raises(ZeroDivisionError), pk.disabled(model):
        raise ZeroDivisionError
    assert torch.equal(model(x), y)


# --- refusals -------------------------------------------------------------------------------------


class Quantised(nn.Linear):
    """As a 4-bit layer: a Linear by inheritance, with a forward of its own."""

    def forward(self, x):
        return super().forward(x).round()


def quantised():
    return nn.Sequential(Quantised(4, 3))


def own_forward():
    model = nn.Sequential(nn.Linear(4, 3))
    model[0].forward = lambda x: x[..., :3]
    return model


def integer():
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    model[0].weight = nn.Parameter(torch.ones(3, 4, dtype=torch.int8), requires_grad=False)
    return model


NONE = "no layer matches"
BAD = {
    "method class": (gpt2, pk.LoRA, ["c_attn"], "is not a method", "pk.PERA(rank=8)"),
    "method string": (gpt2, "lora", ["c_attn"], "method='lora' is not a method"),
    "method without a rule": (gpt2, pk.Method(2), ["c_attn"], "is not a method"),
    "typo": (gpt2, LORA, ["c_atn"], f"{NONE} 'c_atn'", "nearest: c_attn"),
    "typo among good names": (
        gpt2,
        LORA,
        ["c_attn", "mlp.c_porj"],
        f"{NONE} 'mlp.c_porj'",
        "c_proj",
    ),
    "nothing near": (
        gpt2,
        LORA,
        ["zzz"],
        f"{NONE} 'zzz'",
        "layers that can be adapted: c_attn, c_proj, c_fc, lm_head",
    ),
    "no layer at all": (
        lambda: nn.Sequential(nn.ReLU()),
        LORA,
        "all-linear",
        "the model has no Linear or Conv1D layer to adapt",
    ),
    "empty list": (gpt2, LORA, [], f"{NONE} []", "layers that can be adapted: c_attn"),
    "empty name": (gpt2, LORA, [""], "targets=['']", "layer names"),
    "predicate says no": (gpt2, LORA, lambda name, module: False, NONE),
    "None": (gpt2, LORA, None, "targets=None", "'all-linear'"),
    "number": (gpt2, LORA, [3], "targets=[3]", "layer names"),
    "class as a predicate": (gpt2, LORA, nn.Linear, "torch.nn.modules.linear.Linear", "predicate"),
    "bad regex": (
        gpt2,
        LORA,
        "c_attn(",
        "targets='c_attn('",
        "no regular expression",
        "list of names",
    ),
    "string meant as a suffix": (
        gpt2,
        LORA,
        "c_attn",
        f"{NONE} 'c_attn' in full",
        "use ['c_attn']",
    ),
    "LayerNorm": (
        gpt2,
        LORA,
        ["ln_1"],
        "'transformer.h.0.ln_1' (LayerNorm) cannot be adapted",
        "Linear and Conv1D",
    ),
    "Embedding": (
        gpt2,
        LORA,
        ["wte"],
        "'transformer.wte' (Embedding) cannot be adapted",
        "Linear and Conv1D",
    ),
    "regex with LayerNorm": (
        gpt2,
        LORA,
        r".*h\.0.*",
        "'transformer.h.0.ln_1' (LayerNorm) cannot be adapted",
    ),
    "container": (
        gpt2,
        LORA,
        ["attn"],
        "(Attention) cannot be adapted",
        "target its layers c_attn, c_proj",
    ),
    "quantised": (quantised, LORA, ["0"], "'0' (Quantised) cannot be adapted"),
    "quantised, all-linear": (
        quantised,
        LORA,
        "all-linear",
        "1 of 1 Linear or Conv1D layers cannot be adapted: its class Quantised has a forward",
    ),
    "forward of its own": (own_forward, LORA, ["0"], "'0' (Linear) cannot be adapted"),
    "weight_norm": (
        lambda: nn.Sequential(weight_norm(nn.Linear(4, 3))),
        LORA,
        ["0"],
        "cannot be adapted",
    ),
    "integer weight": (
        integer,
        LORA,
        ["0"],
        "'0' (Linear) cannot be adapted",
        "floating-point weight",
    ),
    "float8 weight": (
        lambda: mlp().to(torch.float8_e4m3fn),
        LORA,
        ["0"],
        "'0' (Linear) cannot be adapted",
    ),
    "lazy": (
        lambda: nn.Sequential(nn.LazyLinear(3), nn.Linear(3, 2)),
        LORA,
        ["0"],
        "cannot be adapted",
    ),
    "lazy elsewhere": (
        lambda: nn.Sequential(nn.LazyLinear(3), nn.Linear(3, 2)),
        LORA,
        ["1"],
        "'0.weight'",
        "batch",
    ),
    "hooked": (hooked, LORA, ["0"], "'0' has hooks", "after attach"),
    "backward hook": (backward_hooked, LORA, ["0"], "'0' has hooks", "after attach"),
    "model is a Linear": (
        lambda: nn.Linear(4, 3),
        LORA,
        "all-linear",
        "itself a Linear",
        "torch.nn.Sequential",
    ),
    "model is a Conv1D": (lambda: Conv1D(4, 3), LORA, lambda name, module: True, "itself a Conv1D"),
}


@pytest.mark.parametrize("case", BAD)
def test_refusals_say_why_and_change_nothing(case):
    make, method, targets, *fragments = BAD[case]
    model = make()
    with refused(model, *fragments):
        pk.attach(model, method, targets)


def test_a_layer_in_two_places_answers_to_both_names():
    model = nn.Module()
    model.a = model.b = nn.Linear(4, 3)
    pk.attach(model, LORA, ["b"])
    assert model.a is model.b
    assert list(pk.adapters(model)) == ["a"]


def test_the_size_of_an_adapted_layer_is_that_of_its_base():
    model = nn.Sequential(nn.Linear(4, 3), Conv1D(5, 3))
    pk.attach(model, LORA, "all-linear")
    assert (model[0].in_features, model[0].out_features, model[1].nf, model[1].nx) == (4, 3, 5, 3)
    with pytest.raises(AttributeError, match="no_such_thing"):
        model[0].no_such_thing  # noqa: B018


def test_what_is_not_a_model_is_refused(tmp_path):
    for call in (lambda: pk.attach(3, LORA, ["0"]), lambda: pk.load(str(tmp_path), mlp())):
        with pytest.raises(
            pk.PerakitError, match=r"the first argument is the model, a torch\.nn\.Module, not "
        ):
            call()


def test_a_copy_is_of_the_adapted_layer_even_where_the_base_copies_itself_its_own_way():
    class Stubborn(nn.Linear):
        def __deepcopy__(self, memo):
            return nn.Linear(4, 3)

    model = nn.Sequential(Stubborn(4, 3))
    pk.attach(model, LORA, ["0"])
    assert isinstance(copy.deepcopy(model)[0], AdaptedLayer)
