"""The lean way: where it is taken, what it keeps and calls, and that it is the plain way."""

import copy
import itertools
import pickle
from concurrent.futures import ThreadPoolExecutor
from weakref import ref

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

import perakit as pk
from perakit import strategies, testing
from perakit.bench import host, memory
from perakit.bench.timing import Step
from perakit.fast import gathered, seam
from perakit.fast.lean import LeanProduct
from perakit.fast.plans import FEW, GATHERED, LARGE, PLANS, Way, small, use_plan, way

LORA, PERA = pk.LoRA(rank=3, alpha=5), pk.PERA(rank=3, alpha=5)
METHODS = [
    LORA,
    PERA,
    pk.PERA(rank=3),  # a scale of 1
    pk.PERA(rank=17, alpha=5),  # the gradient is a sum, no product
    pk.PERA(rank=2, alpha=3, terms="square", feature_scale=0.5),
    pk.PERA(rank=18, alpha=3, terms="square"),
    pk.PERA(rank=4, alpha=3, terms="cross"),
    pk.PERA(rank=18, alpha=3, terms="cross"),
]
every_method = pytest.mark.parametrize(
    "method", METHODS, ids=lambda method: "-".join(map(str, method.to_dict().values()))
)
both = pytest.mark.parametrize("method", [LORA, PERA], ids=["lora", "pera"])
lean_and_plain = ("lean", "reference")


def random(*shape, dtype=torch.float64, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def adapted(method, m=7, n=11, dtype=torch.float64, kind="Linear", bias=True):
    """A model of one adapted layer, off its start, in training mode."""
    layer = strategies.make_layer(kind, m, n, bias, dtype, seed=3)
    return testing.adapted(method, layer, seed=1).train()


def trained(model):
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def answer(model, x, g, wanted="lean"):
    """The output and the gradients by x and all that trains, by name, under `use_plan`."""
    by = ({"x": x} if x.requires_grad else {}) | trained(model)
    with use_plan(wanted):
        y = model(x)
    gradients = torch.autograd.grad(y, list(by.values()), g)
    return {"output": y.detach()} | dict(zip(by, gradients, strict=True))


def assert_same(found, right, tolerance=1e-12):
    """Equal to `tolerance` of the largest entry, or of 1; so are names, shapes and dtypes."""
    assert found.keys() == right.keys()
    for name, one in right.items():
        assert (found[name].shape, found[name].dtype) == (one.shape, one.dtype), name
        if one.numel():
            error = (found[name].double() - one.double()).abs().max() / max(1, one.abs().max())
            assert error <= tolerance, f"{name} is off by {error:.2g}"


@pytest.fixture
def taken(monkeypatch):
    """The lean calls: "lora", or whether PERA's features are kept."""
    calls, by_graph = [], seam.by_graph

    class Watched:
        @staticmethod
        def apply(source, keep, *tensors):
            calls.append(keep)
            return LeanProduct.apply(source, keep, *tensors)

    monkeypatch.setattr(seam, "LeanProduct", Watched)
    monkeypatch.setattr(seam, "by_graph", lambda *them: calls.append("lora") or by_graph(*them))
    return calls


# --- where it is taken ----------------------------------------------------------------------------

FFF = PLANS[0]
KEPT, MADE_AGAIN = Way(FFF, lean=True, keep=True), Way(FFF, lean=True)
BY_PLAN = {str(plan): Way(plan) for plan in PLANS}
CASES = [  # T, m, n, K, device, way; K: r, or r (r + 3) / 2
    # What a GPU waits for, on a CPU
    (8, 64, 64, 8, "cpu", KEPT),
    (8, 64, 64, 44, "cpu", KEPT),
    (8, 64, 64, 560, "cpu", KEPT),
    # No tokens
    (0, 64, 64, 44, "cpu", KEPT),
    # Features of 2 MiB, and one column more
    (1, 128, 128, 2048, "cpu", KEPT),
    (1, 128, 129, 2048, "cpu", MADE_AGAIN),
    # A W0 of 1 MiB is large; of one row less it is not
    (1, 512, 512, 8, "cpu", BY_PLAN["f/f/f"]),
    (1, 511, 512, 8, "cpu", KEPT),
    # Few operations: (4 m n + 6 K (m + n)) T < 2²⁴
    (15, 511, 511, 1, "cpu", KEPT),
    (16, 511, 511, 1, "cpu", BY_PLAN["f/f/f"]),
    # Not where a dense product is quicker
    (65, 64, 64, 8, "cpu", BY_PLAN["d/d/f"]),
    (64, 31, 37, 44, "cpu", BY_PLAN["d/d/d"]),
    # On a GPU W0 may be large, and everything is factored
    (64, 31, 37, 44, "cuda", KEPT),
    (1, 4096, 4096, 8, "cuda", KEPT),
    (16, 4096, 4096, 560, "cuda", MADE_AGAIN),  # 17.5 MiB, beside an x of 256 KiB
    (1024, 768, 768, 560, "cuda", MADE_AGAIN),  # 3.3 MiB, beside one of 3 MiB
    (2048, 768, 768, 560, "cuda", MADE_AGAIN),  # beside one of 6 MiB
    (1024, 3072, 768, 44, "cuda", KEPT),  # 660 KiB
    (4096, 3072, 768, 44, "cuda", BY_PLAN["d/d/f"]),  # 2³⁵ operations and more
    # Features of more than 2 MiB, and a quarter of x; x of one token less
    (520, 64, 4096, 128, "cuda", KEPT),
    (519, 64, 4096, 128, "cuda", MADE_AGAIN),
    (16384, 64, 64, 560, "cuda", KEPT),
    (16384, 768, 768, 8, "cuda", BY_PLAN["d/d/f"]._replace(keep=True)),  # a thousandth of x
    (2048, 576, 192, 44, "cpu", BY_PLAN["d/d/f"]._replace(keep=True)),  # a twelfth
    (1024, 576, 192, 44, "cpu", BY_PLAN["d/d/f"]),  # a sixth
    (4096, 768, 768, 152, "cpu", BY_PLAN["d/d/f"]),  # a fourteenth, and too many for one gather
]


@pytest.mark.parametrize(("T", "m", "n", "K", "device", "expected"), CASES)
def test_the_way_of_some_shapes(T, m, n, K, device, expected):
    """By shape and device alone; where ΔW may not be added to W0, lean stays lean."""
    assert way(T, m, n, K, device=device) == way(T, m, n, K, device=device) == expected
    if expected.lean:
        assert way(T, m, n, K, False, device) == expected


sizes = st.tuples(*2 * [st.integers(1, 1024)], st.integers(1, 600))  # m, n, K


@given(sizes=sizes, fused=st.booleans(), device=st.sampled_from(["cpu", "cuda"]))
def test_more_tokens_never_go_back_to_lean(sizes, fused, device):
    tokens = [0, 1, 2, 3, *(2**k + d for k in range(2, 22) for d in (0, 1))]
    taken = [way(T, *sizes, fused, device).lean for T in tokens]
    assert taken == sorted(taken, reverse=True)


@given(sizes=sizes, tokens=st.integers(0, 2**20), fused=st.booleans())
def test_on_a_cpu_lean_is_for_a_small_weight_few_operations_and_the_factored_plan(
    sizes, tokens, fused
):
    m, n, K = sizes
    found, on_a_gpu = way(tokens, *sizes, fused), way(tokens, *sizes, fused, "cuda")
    if found.lean:
        assert m * n < LARGE
        assert (4 * m * n + 6 * K * (m + n)) * tokens < FEW
        assert found.plan == FFF
        assert on_a_gpu.lean
    elif found.keep:
        assert K * (m + n) <= min(tokens * n / 10, GATHERED)


@every_method
def test_it_can_be_forced_anywhere(method, taken):
    """Whatever the size; and by nobody else there."""
    model, x = adapted(method, 513, 512), random(300, 512)
    model(x)
    assert taken == []
    with use_plan("lean"):
        model(x)
    assert taken == ["lora" if method.name == "lora" else True]
    taken.clear()
    for plan in PLANS:
        with use_plan(plan):
            adapted(method)(random(4, 11))
    assert taken == []
    adapted(method)(random(4, 11))
    assert len(taken) == 1


def test_the_way_says_whether_features_are_kept(taken):
    for T, m, n, rank in ((1, 128, 128, 62), (1, 128, 128, 64)):
        adapted(pk.PERA(rank=rank), m, n)(random(T, n))
        assert taken.pop() == way(T, m, n, rank * (rank + 3) // 2).keep
    assert way(1, 128, 128, 2015).keep
    assert not way(1, 128, 128, 2144).keep


@pytest.mark.parametrize("name", ["0.base.weight", "0.base.bias"])
def test_a_base_that_trains_has_its_gradient(name, taken):
    """PERA's goes by the plan then; LoRA's by autograd, which knows how."""
    for method in (LORA, PERA):
        model, x, g = adapted(method), random(4, 11), random(4, 7, seed=1)
        model.get_parameter(name).requires_grad_(True)
        found = answer(model, x, g)
        assert taken == (["lora"] if method is LORA else [])
        assert name in found
        assert_same(found, answer(model, x, g, "reference"))
        taken.clear()


NOT_LEAN = {
    "degree 3": (pk.PERA(rank=3, degree=3), torch.float64),
    "float16, whose small numbers are zero": (PERA, torch.float16),
    "LoRA in float16": (LORA, torch.float16),
}


@pytest.mark.parametrize("what", NOT_LEAN)
def test_what_is_never_lean(what, taken):
    method, dtype = NOT_LEAN[what]
    with use_plan("lean"):
        adapted(method, dtype=dtype)(random(4, 11, dtype=dtype))
    assert taken == []


@both
def test_nor_are_dropout_and_sums_and_4_bits(method, taken):
    x = random(4, 11, dtype=torch.float32)
    with use_plan("lean"):
        adapted(type(method)(rank=3, dropout=0.5), dtype=torch.float32)(x)
        adapted(method, dtype=torch.float32, kind="NF4")(x)
        model = adapted(method, dtype=torch.float32)
        pk.attach(model, pk.LoRA(rank=2), ["0"], name="other")
        pk.activate(model, "default", "other")
        model(x)
        assert taken == []
        pk.activate(model, "default")
        model(x)
        assert len(taken) == 1


# --- it is the plain way --------------------------------------------------------------------------

LEADING = [(4,), (1,), (0,), (2, 3), (2, 0), (1, 1), ()]
LAYOUTS = {
    "flat": lambda x: x,
    "transposed": lambda x: x.mT.contiguous().mT if x.ndim > 1 else x,
    "every second": lambda x: torch.stack([x, x], -1).flatten(-2)[..., ::2],
    "one row for all": lambda x: x[..., :1].expand(x.shape),
}


@every_method
@pytest.mark.parametrize("keep", [True, False], ids=["kept", "made again"])
def test_it_is_the_formula_differentiated(method, keep, monkeypatch):
    """All sizes, leading shapes and layouts, of x and of what comes back; x may ask or not."""
    monkeypatch.setattr(seam.plans, "asked", lambda *_: KEPT if keep else MADE_AGAIN)
    for m, n, bias in ((7, 11, True), (5, 1, False), (1, 2, True)):
        model = adapted(method, m, n, bias=bias)
        for put, leading in itertools.product(LAYOUTS.values(), LEADING):
            g = put(random(*leading, m, seed=1))
            for asks in {True, leading != (4,)}:
                x = put(random(*leading, n)).requires_grad_(asks)
                assert_same(answer(model, x, g, None), answer(model, x, g, "reference"))


@every_method
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_in_lower_precision_it_is_so_to_rounding(method, dtype, taken):
    model = adapted(method, 37, 41, dtype)
    x, g = random(13, 41, dtype=dtype).requires_grad_(), random(13, 37, dtype=dtype, seed=1)
    found, right = (answer(model, x, g, wanted) for wanted in lean_and_plain)
    assert len(taken) == 1
    assert_same(found, right, {torch.bfloat16: 4e-2, torch.float32: 1e-5}[dtype])
    assert {tensor.dtype for name, tensor in found.items() if name[0] == "0"} == {torch.float32}


@every_method
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_a_graph_changes_no_bit_nor_does_what_is_kept(method, dtype, monkeypatch):
    """Without a graph, in eval mode, for the second time, in inference mode; a step twice, and
    where features are made again.
    """
    for leading in ((8,), (1,), (2, 4)):
        model = adapted(method, 31, 37, dtype)
        x, g = random(*leading, 37, dtype=dtype), random(*leading, 31, dtype=dtype, seed=1)
        first, second = (answer(model, x, g) for _ in range(2))
        assert all(map(torch.equal, first.values(), second.values()))
        for training, mode in itertools.product(
            (True, False, False), (torch.no_grad, torch.inference_mode, torch.enable_grad)
        ):
            with mode(), use_plan("lean"):
                assert torch.equal(model.train(training)(x).detach(), first["output"])
        if dtype != torch.bfloat16:
            with monkeypatch.context() as patch:
                patch.setattr(seam.plans, "asked", lambda *_: MADE_AGAIN)
                assert_same(answer(model, x, g, None), first, 0)


@both
def test_a_small_gradient_on_a_bfloat16_base_is_not_rounded_away(method):
    """Of 2⁻⁴⁰, where the base's own is zero: x and g take W0, all ones, to zero."""
    model = adapted(method, 8, 12, torch.bfloat16)
    with torch.no_grad():
        model[0].base.weight.fill_(1)
        model[0].base.bias.zero_()
    for p in trained(model).values():
        p.data.mul_(1e-2)
    x, ones = (torch.tensor([1.0, -1.0]).repeat(4, k // 2) for k in (12, 8))
    x = x.bfloat16().requires_grad_()
    g = (2.0**-40 * ones).bfloat16()
    found, right = (answer(model, x, g, wanted) for wanted in lean_and_plain)
    for name, tensor in right.items():
        assert tensor.any(), name
        error = (found[name].double() - tensor.double()).abs().max() / tensor.double().abs().max()
        assert error < 0.02, f"{name}: off by {error:.2g} of it"


@every_method
def test_what_is_no_number_is_none_in_the_output_and_reaches_the_gradients(method):
    """In the output entry by entry. The gradients by B and A, which are products with zeros, may
    have it in more rows; in none where the plain way has none.
    """
    for no_number, name in itertools.product((torch.nan, torch.inf), (*method.shapes(7, 11), "x")):
        model, x, g = adapted(method), random(4, 11), random(4, 7, seed=1)
        where = x if name == "x" else model[0].adapter.get_parameter(name)
        where.data.view(-1)[1] = no_number
        found, right = (answer(model, x, g, wanted) for wanted in lean_and_plain)
        assert not right["output"].isfinite().all()
        assert torch.equal(found["output"].isfinite(), right["output"].isfinite())
        for key in right:
            assert found[key].isfinite().all() == right[key].isfinite().all(), key


# --- what torch can do with it --------------------------------------------------------------------


def _second(model, x):
    by = [x, *trained(model).values()]
    first = torch.autograd.grad((model(x) ** 3).sum(), by, create_graph=True)
    return torch.autograd.grad(sum((one**2).sum() for one in first), by)


def _batched(model, x):
    by, y = [x, *trained(model).values()], model(x)
    many = random(5, *y.shape, seed=2)
    return torch.autograd.grad(y, by, many, is_grads_batched=True)


def _twice(model, x):
    by, total = [x, *trained(model).values()], (model(x) ** 2).sum()
    return [
        *torch.autograd.grad(total, by, retain_graph=True),
        *torch.autograd.grad(total, by),
    ]


def _run(call):
    def gradients(model, x):
        by = [x, *trained(model).values()]
        for one in by:
            one.grad = None
        (call(model, x) ** 2).sum().backward()
        return [one.grad for one in by]

    return gradients


def _packed(model, x):
    with torch.autograd.graph.saved_tensors_hooks(torch.clone, torch.clone):
        return model(x)


def _functional(model, x):
    return functional_call(model, {name: 1 * p for name, p in trained(model).items()}, (x,))


def _written_over(model, x):
    y = model(x)
    y += 1
    return y.relu_()


def _autocast_in_the_backward_pass(model, x):
    by, y = [x, *trained(model).values()], model(x)
    with torch.autocast("cpu", torch.bfloat16):
        return torch.autograd.grad(y, by, torch.ones_like(y))


WHATEVER = {
    "second derivatives": _second,
    "gradients in batches": _batched,
    "the backward pass twice": _twice,
    "saved_tensors_hooks": _run(_packed),
    "functional_call": _run(_functional),
    "an output that is written over": _run(_written_over),
    "checkpoint": _run(lambda model, x: checkpoint(model, x, use_reentrant=False)),
    "checkpoint, reentrant": _run(lambda model, x: checkpoint(model, x, use_reentrant=True)),
}


@pytest.mark.parametrize("what", WHATEVER)
@every_method
def test_whatever_torch_does_with_it_it_does_with_the_formula(method, what):
    model = adapted(method, 3, 2)
    for leading in ((4,), (2, 2)):
        x, found = random(*leading, 2).requires_grad_(), []
        for wanted in lean_and_plain:
            with use_plan(wanted):
                found.append(dict(enumerate(WHATEVER[what](model, x))))
        assert any(one.any() for one in found[1].values())
        assert_same(*found)


@every_method
def test_autocast_that_starts_after_the_forward_pass_makes_no_error(method):
    """PERA's gradients are those without it; LoRA's torch rounds, as it does any layer's."""
    model, x = adapted(method, dtype=torch.float32), random(4, 11, dtype=torch.float32)
    g = torch.ones(4, 7)
    x.requires_grad_()
    with use_plan("lean"):
        found = _autocast_in_the_backward_pass(model, x)
    right = list(answer(model, x, g).values())[1:]
    if method.name == "pera":
        assert all(map(torch.equal, found, right))
    else:
        assert_same(dict(enumerate(found)), dict(enumerate(right)), 2e-2)


@every_method
def test_a_tensor_that_changes_before_the_backward_pass_is_noticed(method):
    for name in ("x", "A", "B", "h"):
        model, x = adapted(method), random(2, 3, 11).requires_grad_()
        parameter = dict(model[0].adapter.named_parameters()).get(name, x)
        if name == "h" and (parameter is x or method.feature_scale != 1):
            continue  # there is none, or it came multiplied
        with use_plan("lean"):
            y = model(x)
        with torch.no_grad():
            parameter.mul_(2)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            y.sum().backward()


@every_method
def test_copies_threads_and_inference_before_training_change_nothing(method):
    model, x, g = adapted(method), random(4, 11), random(4, 7, seed=1)
    right = answer(model, x, g)
    gathered._remembered.cache_clear()
    with torch.inference_mode(), use_plan("lean"):  # which makes the index
        model.eval()(x)
    for twin in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert_same(answer(twin.train(), x, g), right, 0)
    gathered._remembered.cache_clear()
    twins = [copy.deepcopy(model) for _ in range(2)]
    with use_plan("lean"), ThreadPoolExecutor(2) as pool:
        for found in pool.map(lambda k: answer(twins[k % 2], x, g), range(40)):
            assert_same(found, right, 0)


@both
def test_a_compiled_layer_answers_as_it_does(method):
    model, x, g = adapted(method), random(4, 11).requires_grad_(), random(4, 7, seed=1)
    torch._dynamo.reset()
    with use_plan("lean"):
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        y = compiled(x)
    found = torch.autograd.grad(y, [x, *trained(model).values()], g)
    right = answer(model, x, g)
    assert_same(dict(enumerate([y.detach(), *found])), dict(enumerate(right.values())))


# --- what it keeps, and what it calls -------------------------------------------------------------


@pytest.mark.parametrize(
    ("case", "keep"),
    [
        (memory.Case(8, 64, 64, 8), True),
        (memory.Case(3, 13, 7, 17), True),
        (memory.Case(1, 128, 128, 62), True),
        (memory.Case(1, 128, 128, 64), False),
        (memory.Case(2, 131, 127, 65), False),
    ],
    ids=str,
)
def test_it_keeps_what_is_predicted(case, keep):
    """To the byte. With features: those, their weights and z; else z alone."""
    K = memory.inner("pera", case)
    assert way(case.tokens, case.m, case.n, K) == Way(FFF, lean=True, keep=keep)
    for name in ("pera", "lora"):
        row = memory.row(name, case, seed=0)
        assert row["measured"] == row["predicted"]
    again = 4 * (case.tokens * case.n + case.tokens * K)  # x and z
    kept = 4 * K * (case.m + case.n + 1)
    assert memory.row("pera", case, seed=0)["measured"]["saved"] == again + keep * kept


def step_of(method):
    """A step of a layer of 64 x 64 with 8 tokens, made once already."""
    model, g = adapted(method, 64, 64, torch.float32), torch.ones(8, 64)
    x = random(8, 64, dtype=torch.float32).requires_grad_()

    def reset():
        for one in (x, *trained(model).values()):
            one.grad = None

    step = Step(lambda: model(x).backward(g), reset)
    step.run()
    return step


@both
def test_what_it_keeps_it_keeps_through_autograd(method):
    """Who packs what is saved has x free: nothing else holds it."""
    model, x = adapted(method), random(2, 3, 11)
    gone = ref(x)
    with torch.autograd.graph.saved_tensors_hooks(torch.clone, torch.clone), use_plan("lean"):
        y = model(x)
    del x
    assert gone() is None
    y.sum().backward()


@pytest.mark.parametrize("rank", [1, 2, 8, 16, 17, 32, 64])
def test_the_operations_that_were_promised(rank):
    """LoRA makes at most 12 that are no views, PERA 26, and two for a scale that is not 1."""
    for alpha, most in ((rank, 26), (2 * rank, 28)):
        assert host.operations(step_of(pk.LoRA(rank, alpha))) <= 12
        assert host.operations(step_of(pk.PERA(rank, alpha))) <= most


# --- what a plan keeps ----------------------------------------------------------------------------


@pytest.mark.parametrize(("T", "m", "n"), [(30, 3, 40), (400, 5, 7)], ids=str)
@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_features_that_a_plan_keeps_serve_every_backward_pass(plan, T, m, n):
    """Fewer tokens than inputs, and more: nothing is written over what is kept."""
    method = pk.PERA(rank=1, alpha=3)
    assert small(T, m, n, 2)
    model, x, g = adapted(method, m, n), random(T, n).requires_grad_(), random(T, m)
    leaves = [x, *model[0].adapter.parameters()]
    with pk.fast.off():
        plain = torch.autograd.grad(model(x), leaves, g)
    with use_plan(plan):
        y = model(x)
        assert y.grad_fn.source.keep
        first, second = (torch.autograd.grad(y, leaves, g, retain_graph=True) for _ in range(2))
    assert all(map(torch.equal, first, second))
    for found, right in zip(first, plain, strict=True):
        torch.testing.assert_close(found, right, rtol=1e-11, atol=1e-11)
