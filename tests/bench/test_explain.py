"""What `pk.explain` says of a layer is what the layer does: the way, its operations, its bytes."""

import json
from contextlib import nullcontext
from dataclasses import dataclass

import pytest
import torch
from torch import nn

import perakit as pk
from perakit import fast
from perakit.adapters.base import Additive
from perakit.adapters.lora import LoRAAdapter
from perakit.bench import explain as explaining
from perakit.bench import memory
from perakit.bench.explain import measure
from perakit.bench.measured import as_json
from perakit.bench.memory import METHODS, PLAIN, Case
from perakit.bench.ways import DENSE, LEAN
from perakit.bench.ways import PLAIN as PLAIN_WAY
from perakit.cli import main
from perakit.fast import plans, seam
from perakit.fast.plans import PLANS, choose, flop, use_plan
from perakit.models.adapted import adapted_layers
from perakit.toy.gpt2 import Conv1D

# z kept; dense factor gradients; more columns than the layer has inputs; a dense output
SHAPES = [(23, 13, 7, 3), (512, 31, 37, 8), (5, 3, 2, 4), (64, 31, 37, 2)]


def model_with(method, m=29, n=37, dtype=torch.float32):
    model = nn.Sequential(nn.Linear(n, m).to(dtype))
    pk.attach(model, method, ["0"])
    return model


def only(model, tokens, **where):
    """The one group of a model, and its part where it has one."""
    (group,) = pk.explain(model, tokens, **where).groups
    return group, group.parts[0] if group.parts else None


# --- operations and bytes -------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_operations_are_those_of_the_plans(dtype):
    for T, m, n, r in SHAPES:
        group, part = only(model_with(pk.PERA(r), m, n, dtype), T)
        K, fused = r * (r + 3) // 2, dtype == torch.float32
        assert part.inner == K
        counted = {way.name: way.flop for way in part.ways}
        assert counted == {str(plan): flop(plan, T, m, n, K, fused) for plan in PLANS} | {
            LEAN: 6 * K * (m + n) * T,
            PLAIN_WAY: 6 * K * (m + n) * T,
        }
        way = plans.way(T, m, n, K, fused)
        lean = way.lean and fused
        assert part.chosen.name == (LEAN if lean else str(way.plan))
        assert group.place.base == 4 * m * n * T
        assert group.lora.flop == 6 * r * (m + n) * T
        assert group.flop == group.place.base + part.chosen.flop


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_bytes_are_those_of_the_closed_forms(name, dtype):
    for T, m, n, r in SHAPES:
        saved = memory.predicted(name, Case(T, m, n, r, dtype))["saved"]
        method = pk.Method.registry["lora" if name == PLAIN else name](r)
        group, part = only(model_with(method, m, n, dtype), T)
        assert (group.lora if name == PLAIN else part.chosen).kept == saved, (T, m, n, r)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["pera", "lora", "quadratic", "dora"])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_bytes_are_what_autograd_keeps_whatever_the_way(name, dropout, dtype):
    T, method = 19, pk.Method.registry[name](rank=3, dropout=dropout)
    model = model_with(method, dtype=dtype)
    _, part = only(model, T)
    asked = {str(plan): plan for plan in PLANS}
    asked |= {PLAIN_WAY: "reference", DENSE: None, LEAN: "lean"}
    held = [*model.parameters(), *model.buffers()]
    x = torch.randn(T, 37, dtype=dtype, requires_grad=True)
    for way in part.ways:
        with use_plan(asked[way.name]):
            _, saved = memory.saved_bytes(lambda: model(x), held)
        # The formula's indices, two of NumPy's that are used twice, count each time
        indices = 2 * 88 if (name, way.name) == ("pera", PLAIN_WAY) else 0
        assert way.kept == saved + indices, way.name


def test_products_of_a_formed_update_are_counted():
    """Forward ΔW = W0∘(B A), W x; back G = gᵀx, g W and the gradients by B and A."""
    T, m, n, r = 19, 29, 37, 3
    one, through = 2 * m * n * T, 2 * m * n * r
    _, fused = only(model_with(pk.HiRA(r)), T)
    assert fused.chosen.name == DENSE
    assert fused.chosen.flop == one + 3 * through
    _, apart = only(model_with(pk.HiRA(r), dtype=torch.bfloat16), T)
    assert apart.chosen.flop == 3 * one + 3 * through
    assert "one product more" in apart.why
    _, part = only(model_with(pk.Quadratic(r)), T)
    assert [(way.name, way.flop) for way in part.ways] == [(PLAIN_WAY, 6 * r * (m + n) * T)]


# --- the choice -----------------------------------------------------------------------------------


@dataclass
class Spy:
    """What adapted layers did: the plans of their products, those apart from W0, the plain way."""

    plans: list
    apart: list
    plain: list


@pytest.fixture
def spy(monkeypatch):
    seen = Spy([], [], [])
    apply, forward = seam.AdaptedProduct.apply, fast.forward

    class Product:
        @staticmethod
        def apply(source, plan, x, W0, *rest):
            seen.plans.append(str(plan))
            seen.apart.append(W0 is None)
            return apply(source, plan, x, W0, *rest)

    def asked(*arguments):
        y = forward(*arguments)
        seen.plain.append(y is None)
        return y

    monkeypatch.setattr(seam, "AdaptedProduct", Product)
    monkeypatch.setattr(fast, "forward", asked)
    return seen


def two(model):
    pk.attach(model, pk.LoRA(2), ["0"], name="other")
    pk.activate(model, "default", "other")


def hooked(model):
    pk.adapters(model)["0"].register_forward_hook(lambda *_: None)


class WiderAdapter(LoRAAdapter):
    def factors(self):
        return self.B.double(), self.A.double()


def wider(model):
    pk.adapters(model)["0"].__class__ = WiderAdapter


def in_four_bits(model):
    pk.detach(model)
    pk.attach(model, pk.PERA(3), ["0"], quantize="nf4")


def half(model):
    model.bfloat16()


def eval_mode(model):
    model.eval()


def conv(model):
    pk.detach(model)
    model[0] = Conv1D(29, 37)
    pk.attach(model, pk.PERA(2), ["0"])


def nothing(model):
    pass


DROPPING = pk.PERA(3, dropout=0.5)
# Method, what is done to the model, what is on while it is called and explained, what is said
CASES = {
    "float32": (pk.PERA(3), nothing, nullcontext, "the fewest operations of the eight plans"),
    "many columns": (pk.PERA(16), nothing, nullcontext, "the fewest operations"),
    "float64": (pk.PERA(3), lambda model: model.double(), nullcontext, "the fewest operations"),
    "Conv1D": (pk.PERA(3), conv, nullcontext, "the fewest operations"),
    "LoRA": (pk.LoRA(3), nothing, nullcontext, "the fewest operations"),
    "DeLoRA": (pk.DeLoRA(3), nothing, nullcontext, "the fewest operations"),
    "bfloat16": (pk.PERA(3), half, nullcontext, "W0 is bfloat16, to which the update is never"),
    "4 bits": (pk.PERA(3), in_four_bits, nullcontext, "W0 is kept as "),
    "dropout": (DROPPING, nothing, nullcontext, "dropout gives the update an input of its own"),
    "dropout that is off": (DROPPING, eval_mode, nullcontext, "the fewest operations"),
    "two adapters": (pk.PERA(3), two, nullcontext, "2 adapters in effect"),
    "wider": (pk.LoRA(3), wider, nullcontext, "its factors are float64, wider than W0"),
    "asked for": (pk.PERA(3), nothing, lambda: use_plan(PLANS[3]), "asked for"),
    "lean": (pk.PERA(3), nothing, lambda: use_plan("lean"), "asked for"),
    "lean LoRA in bfloat16": (pk.LoRA(3), half, lambda: use_plan("lean"), "asked for"),
    "reference": (pk.PERA(3), nothing, fast.off, "asked for: the formula by autograd"),
    "autocast": (pk.PERA(3), nothing, lambda: torch.autocast("cpu"), "autocast, tracing or"),
    "hook": (pk.PERA(3), hooked, nullcontext, "a hook waits for the call of pera"),
    "Quadratic": (pk.Quadratic(3), nothing, nullcontext, "has a forward pass of its own"),
    "DoRA": (pk.DoRA(3), nothing, nullcontext, "dora has no factors: ΔW itself is made"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("tokens", [1, 700])
def test_the_choice_is_what_the_layer_does(case, tokens, spy):
    method, change, on, said = CASES[case]
    model = model_with(method)
    change(model)
    dtype = adapted_layers(model)["0"].kind.dtype(model[0].base)
    with on():
        group, first = only(model, tokens)
        del spy.plans[:], spy.apart[:], spy.plain[:]
        model(torch.randn(tokens, 37, dtype=dtype, requires_grad=True))
    if first.chosen.name == LEAN and said != "asked for":
        said = "few operations, so calls decide"
    assert said in first.why
    chosen = [part.chosen.name for part in group.parts]
    assert [name for name in chosen if name not in (PLAIN_WAY, DENSE, LEAN)] == spy.plans
    assert all("one more" in part.why for part in group.parts) == all(spy.apart) or not spy.plans
    assert (chosen == [PLAIN_WAY]) == (spy.plain != [False])


def test_float32_by_fewer_bits_keeps_the_update_apart(spy):
    setting, model = torch.backends.mkldnn.matmul, model_with(pk.PERA(16))
    before, setting.fp32_precision = setting.fp32_precision, "bf16"
    try:
        _, part = only(model, 700)
        del spy.plans[:], spy.apart[:]
        model(torch.randn(700, 37))
    finally:
        setting.fp32_precision = before
    assert (spy.plans, spy.apart) == ([part.chosen.name], [True])
    assert "float32 is multiplied by fewer bits here, so a dense product is one more" in part.why


def test_a_half_precision_base_on_a_gpu_has_one_way(monkeypatch):
    monkeypatch.setattr(seam, "_in_low_precision", lambda x, *_: x.dtype == torch.bfloat16)
    _, part = only(model_with(pk.PERA(3), dtype=torch.bfloat16), 700)
    assert [way.name for way in part.ways] == [LEAN, PLAIN_WAY]
    assert part.chosen.name == LEAN
    assert part.why == "products in bfloat16, as the base's; the update is never added to W0"


def test_the_wider_adapter_is_one_of_the_seam():
    assert WiderAdapter.forward is Additive.forward


@pytest.mark.parametrize("way", ["disabled", "merged"])
def test_where_no_adapter_runs_there_is_nothing_beside_the_base(way):
    model = model_with(pk.PERA(3))
    with pk.disabled(model) if way == "disabled" else nullcontext():
        if way == "merged":
            pk.merge(model)
        explanation = pk.explain(model, 8)
    (group,) = explanation.groups
    assert group.parts == ()
    assert group.idle.startswith(way)
    assert group.idle in str(explanation)
    assert set(explanation.flop().values()) == {4 * 29 * 37 * 8}


def test_a_layer_without_the_active_adapter_is_its_base():
    model = nn.Sequential(nn.Linear(5, 5), nn.Linear(5, 5))
    pk.attach(model, pk.LoRA(1), ["0"])
    pk.attach(model, pk.LoRA(1), ["1"], name="other")
    first, second = pk.explain(model, 8).groups
    assert first.idle == "no adapter in effect: the base answers alone"
    assert [part.adapter for part in second.parts] == ["other"]


def test_as_if_the_model_were_moved():
    model = model_with(pk.PERA(4))
    foreseen = pk.explain(model, 50, dtype=torch.bfloat16, device="cpu")
    assert foreseen == pk.explain(model.bfloat16(), 50)
    assert foreseen.groups[0].place.dtype == torch.bfloat16


def test_layers_on_different_devices_are_apart():
    model = nn.Sequential(nn.Linear(5, 5), nn.Linear(5, 5), nn.Linear(5, 5))
    pk.attach(model, pk.LoRA(1), "all-linear")
    model[1].to("meta")
    groups = pk.explain(model, 3).groups
    assert [(group.layers, str(group.place.device)) for group in groups] == [
        (("0", "2"), "cpu"),
        (("1",), "meta"),
    ]
    with pytest.raises(
        pk.PerakitError, match=r"float32 on meta, base 300.000 FLOP: nothing takes time"
    ):
        measure(pk.explain(model, 3), model, rounds=1)


def one_second(steps, *_):
    return {name: [1.0] for name in steps}


# --- the report -----------------------------------------------------------------------------------


@pytest.fixture
def gpt2():
    model = pk.toy.load("tiny")
    pk.attach(model, pk.PERA(2), ["c_attn[q,v]", "mlp.c_proj"])
    return model


def test_sums_are_those_of_every_layer(gpt2):
    explanation = pk.explain(gpt2, 100)
    assert sorted(name for group in explanation.groups for name in group.layers) == sorted(
        adapted_layers(gpt2)
    )
    base = 4 * 4 * 100 * (3 * 192 * 192 + 4 * 192 * 192)
    lora = base + 4 * 6 * 2 * 100 * (4 * 192 + 5 * 192)
    chosen = base + sum(4 * group.parts[0].chosen.flop for group in explanation.groups)
    assert list(explanation.flop().values()) == [base, lora, chosen]


def test_it_prints_as_tables(gpt2):
    text = str(pk.explain(gpt2, 100))
    lines = text.splitlines()
    assert " ".join(lines[0].split()) == "8 adapted layers, 100 tokens MFLOP a step step / base"
    assert "c_attn x 4: 576 x 192, T = 100, float32 on cpu, base 44.237 MFLOP" in lines
    assert "pera on q, v, each r = 2, K = 10" in lines
    assert "pera r = 2, K = 5" in lines
    chosen = [line for line in lines if "<- chosen" in line]
    assert [line.split()[0] for line in chosen] == ["f/f/f", "f/f/f"]
    assert max(map(len, lines)) <= 100
    assert "<td>frozen base</td>" in pk.explain(gpt2, 100)._repr_html_()


def test_several_adapters_have_a_table_each():
    model = model_with(pk.PERA(3))
    two(model)
    text = str(pk.explain(model, 100))
    assert "adapter 'default': pera r = 3, K = 9" in text
    assert "adapter 'other': lora r = 2, K = 2" in text
    assert "plain LoRA, r = 5" in text


def test_a_table_has_one_unit_in_which_the_largest_number_is_one_at_least():
    units = {0: "FLOP", 999: "FLOP", 1000: "kFLOP", 999_999_999: "MFLOP", 10**20: "PFLOP"}
    found = {count: explaining._unit(count, 1000, explaining.FLOP) for count in units}
    assert {count: name for count, (_, name) in found.items()} == units
    assert {count: size for count, (size, _) in found.items()} == {
        0: 1, 999: 1, 1000: 10**3, 999_999_999: 10**6, 10**20: 10**15
    }  # fmt: skip


@pytest.mark.filterwarnings("ignore:Initializing zero-element")
def test_names_and_sizes_may_be_anything():
    model = nn.Sequential()
    model.add_module("a\x1b[2J", nn.Linear(0, 4))
    pk.attach(model, pk.LoRA(1), "all-linear")
    text = str(pk.explain(model, 3))
    assert "a\\x1b[2J: 4 x 0, T = 3, float32 on cpu, base 0.000 FLOP" in text
    assert "\x1b" not in text


def test_json_has_all_of_it(gpt2):
    explanation = pk.explain(gpt2, 100)
    document = json.loads(as_json(explanation.to_dict(seed=3)))
    assert document == explanation.to_dict(seed=3)
    assert document["made_from"]["seed"] == 3
    assert {"versions", "formulas_sha256"} < set(document["made_from"])
    (one, _) = document["groups"]
    assert one["adapters"][0]["method"]["parts"] == ["q", "v"]
    assert len(one["adapters"][0]["ways"]) == 10


def test_to_explain_and_to_measure_leave_the_model_alone():
    model = model_with(pk.PERA(4, dropout=0.5))
    model(torch.randn(3, 37)).sum().backward()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    gradients = {name: p.grad for name, p in model.named_parameters()}
    copies = {name: grad.clone() for name, grad in gradients.items() if grad is not None}
    state, modes = torch.get_rng_state(), [module.training for module in model.modules()]
    with torch.inference_mode():
        explanation = pk.explain(model, 200)
    assert torch.equal(torch.get_rng_state(), state)
    measured = measure(explanation, model, rounds=2)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name])
        assert parameter.grad is gradients[name]
        assert name not in copies or torch.equal(parameter.grad, copies[name])
    assert modes == [module.training for module in model.modules()]
    (group,) = measured.groups
    assert list(group.ratios) == [group.parts[0].chosen.name, PLAIN_WAY]
    assert all(len(ratios) == 2 and min(ratios) > 0 for ratios in group.ratios.values())
    assert "measured: plain way takes " in str(measured)
    assert measured.to_dict()["made_from"]["machine"]["cores"] >= 1


def test_what_is_asked_for_is_timed_beside_the_fewest_operations(monkeypatch):
    asked = []
    monkeypatch.setattr(explaining, "interleave", one_second)
    training_step = explaining.training_step

    def step(layer, plan, *rest):
        asked.append(plan)
        return training_step(layer, plan, *rest)

    monkeypatch.setattr(explaining, "training_step", step)
    model = model_with(pk.PERA(4))
    with use_plan(PLANS[3]):
        explanation = pk.explain(model, 200)
    assert plans.wanted is None
    measure(explanation, model)
    assert asked == [PLANS[3], choose(200, 29, 37, 14), "reference", None]
    del asked[:]
    two(model)
    measure(pk.explain(model, 200), model)
    assert asked == [None, "reference", None]


# --- what cannot be explained ---------------------------------------------------------------------

WRONG = [
    ({"tokens": 0}, "tokens=0 must be an integer >= 1"),
    ({"tokens": 1.5}, "tokens=1.5 must be an integer >= 1"),
    ({"tokens": 2**31}, "tokens=2147483648 must be an integer <= 2147483647"),
    ({"dtype": torch.int8}, "dtype=torch.int8 has no plan: choose one of torch.float64"),
    ({"dtype": torch.complex64}, "dtype=torch.complex64 has no plan"),
    ({"dtype": "bfloat16"}, "dtype='bfloat16' has no plan"),
    ({"device": "cuda:99"}, "device='cuda:99' is not available here: choose cpu, or None"),
    ({"device": "tpu"}, "device='tpu' is not available here"),
    ({"device": "meta"}, "device='meta' is not available here"),
    ({"device": 1.5}, "device=1.5 is not available here"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG, ids=[message for _, message in WRONG])
def test_a_mistake_is_one_sentence(arguments, message):
    with pytest.raises(pk.PerakitError) as caught:
        pk.explain(model_with(pk.LoRA(1)), **{"tokens": 3} | arguments)
    assert str(caught.value).startswith(message)


def test_a_model_without_adapters_and_what_is_no_model():
    with pytest.raises(pk.PerakitError, match=r"^the model has no adapter: pk\.attach"):
        pk.explain(nn.Linear(2, 2), 3)
    with pytest.raises(pk.PerakitError, match=r"^the first argument is the model"):
        pk.explain(3, 3)


def test_a_method_that_reads_numbers_is_told():
    class Reading(LoRAAdapter):
        def factors(self):
            return self.B * self.A.abs().max().item(), self.A

    model = model_with(pk.LoRA(1))
    pk.adapters(model)["0"].__class__ = Reading
    with pytest.raises(pk.PerakitError, match=r"^lora reads numbers while it multiplies, and cann"):
        pk.explain(model, 3)


# --- the command ----------------------------------------------------------------------------------


def test_the_command_prints_and_writes(tmp_path, capsys):
    path = tmp_path / "why.json"
    words = ["explain", "--targets", "mlp.c_proj", "--rank", "3", "--tokens", "64"]
    assert main([*words, "--dtype", "bfloat16", "--seed", "5", "--json", str(path)]) == 0
    out, err = capsys.readouterr()
    assert "c_proj x 4: 192 x 768, T = 64, bfloat16 on cpu, base 37.749 MFLOP\npera r = 3, K" in out
    assert err == ""
    document = json.loads(path.read_text())
    assert document["made_from"]["seed"] == 5
    assert document["groups"][0]["dtype"] == "bfloat16"


def test_the_command_measures_and_takes_a_saved_adapter(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(explaining, "interleave", one_second)
    model = pk.toy.load("tiny")
    pk.attach(model, pk.LoRA(2, dropout=0.25), ["h.1.attn.c_proj"])
    pk.save(model, tmp_path / "saved")
    assert main(["explain", "--adapter", str(tmp_path / "saved"), "--measure"]) == 0
    out = capsys.readouterr().out
    assert "transformer.h.1.attn.c_proj: 192 x 192, T = 2,048, float32 on cpu" in out
    assert "lora:dropout=0.25 r = 2, K = 2" in out
    assert "dropout gives the update an input of its own" in out  # a step is one of training
    assert "measured: f/f/f takes 1.00 (1.00 to 1.00) of plain LoRA's time" in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--dtype", "int8"], "dtype='int8' has no plan: choose one of torch.float64"),
        (["--device", "tpu"], "device='tpu' is not available here"),
        (["--rank", "100000"], "rank 100000 is more than any layer here can have"),
        (["--method", "lora", "--adapter", "x"], "not allowed with argument --method"),
        (["--adapter", "nowhere"], "cannot read"),
        (["--tokens", "0"], "tokens=0 must be an integer >= 1"),
        (["--measure", "--tokens", "2000000000"], "bytes at least, and this machine has"),
    ],
)
def test_the_command_refuses_in_one_sentence(words, said, capsys):
    assert main(["explain", "--targets", "c_fc", *words]) == 2
    out, err = capsys.readouterr()
    assert said in err
    assert out == ""
