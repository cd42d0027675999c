"""The adapted product under every plan, beside the dense formula: outer products, differentiated by
autograd, in float64.
"""

import itertools
import platform
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.autograd import forward_ad
from torch.autograd.functional import jacobian
from torch.func import functional_call, grad, hessian, jacfwd, jvp, linearize, vmap
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

import perakit as pk
from perakit import fast, formulas, strategies, testing
from perakit.adapters import DeLoRA, DoRA, HiRA, LoHa, MoRA
from perakit.fast import product, seam
from perakit.fast.plans import PLANS, Plan, choose, use_plan
from perakit.models.quantize import NF4, NF4Layer

FACTORED, DENSE, REFERENCE = PLANS[0], PLANS[-1], "reference"
WAYS = (*PLANS, REFERENCE, None)
PERA = pk.PERA(rank=2, alpha=3, degree=3, feature_scale=0.5)
POLYNOMIALS = [
    pk.PERA(rank=2, alpha=3, terms=terms, degree=degree, feature_scale=0.5)
    for terms in formulas.TERMS
    for degree in (2, 3)
]
METHODS = [
    pk.LoRA(rank=3, alpha=5),
    pk.PERA(rank=3),
    *POLYNOMIALS,
    *(cls(rank=2, alpha=3) for cls in (LoHa, DeLoRA, MoRA, DoRA, HiRA)),
]
every_method = pytest.mark.parametrize(
    "method", METHODS, ids=lambda method: "-".join(map(str, method.to_dict().values()))
)
every_way = pytest.mark.parametrize("way", WAYS, ids=str)
every_plan = pytest.mark.parametrize("plan", PLANS, ids=str)

# How a tensor of some shape lies in memory: a leaf of the graph need not be contiguous, nor need a
# gradient that comes back.
LAYOUTS = {
    "contiguous": lambda *shape: _randn(*shape),
    "transposed": lambda *shape: _randn(*reversed(shape)).permute(*reversed(range(len(shape)))),
    "every second": lambda *shape: _randn(*shape, 2)[..., 0],
    "one row for all": lambda *shape: _randn(*(1 for _ in shape[:-1]), shape[-1]).expand(shape),
    "one number for all": lambda *shape: _randn(1).expand(shape),  # what sum().backward() sends
}


def _randn(*shape):
    return torch.randn(
        shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape))
    )


def adapted(method, kind="Linear", m=7, n=11, bias=True, dtype=torch.float64):
    """A model of one adapted layer, in training mode."""
    return testing.adapted(
        method, strategies.make_layer(kind, m, n, bias, dtype, seed=3), seed=1
    ).train()


def short(name):
    """The name of a parameter as the formula has it: A of 0.adapters.default.A."""
    return name.rpartition(".")[2]


def tensors(layer, x):
    """What a layer's output can be differentiated by, by name: x, W0, the bias and the
    parameters.
    """
    named = {
        "x": x,
        "W0": layer.base.weight,
        "bias": layer.bias,
        **dict(layer.adapter.named_parameters()),
    }
    return {name: tensor for name, tensor in named.items() if tensor is not None}


def dense(layer, x, dropped=None):
    """x W0ᵀ + b + x ΔWᵀ, with ΔW by outer products: no code of `formulas`, nor of the adapters."""
    parameters = dict(layer.adapter.named_parameters())
    delta = testing.ORACLES[layer.adapter.method.name](layer.adapter.method, parameters, layer.W0)
    y = x @ layer.W0.T + (x if dropped is None else dropped) @ delta.T
    return y if layer.bias is None else y + layer.bias


def assert_same(actual, expected, tolerance=1e-12):
    """Equal to `tolerance` of the largest entry, or of 1."""
    assert actual.keys() == expected.keys()
    for name, right in expected.items():
        assert actual[name].shape == right.shape, (
            f"{name} has shape {tuple(actual[name].shape)}, not {tuple(right.shape)}"
        )
        if right.numel():
            error = (actual[name].double() - right.double()).abs().max() / max(1, right.abs().max())
            assert error <= tolerance, f"{name} is off by {error:.2g}"


def gradients(y, by, g):
    return dict(zip(by, torch.autograd.grad(y, list(by.values()), g), strict=True)) | {
        "output": y.detach()
    }


@every_way
@every_method
@settings(max_examples=6)
@given(data=st.data())
def test_output_and_gradients_are_those_of_the_dense_formula(method, way, data):
    """Any plan, shape, layout in memory; also W0 and the bias may train."""
    kind, bias = data.draw(
        st.sampled_from([("Linear", True), ("Linear", False), ("Conv1D", True)]), "kind, bias"
    )
    m, n = data.draw(st.sampled_from([(7, 11), (11, 7), (1, 5), (5, 1), (1, 1), (2, 3)]), "shape")
    leading = data.draw(
        st.sampled_from([(40,), (2, 3), (2, 1, 3), (1,), (), (0,), (2, 0)]), "leading"
    )
    x_lies, g_lies = data.draw(
        st.tuples(*2 * [st.sampled_from(sorted(LAYOUTS))]), "layouts of x and g"
    )
    layer = adapted(method, kind, m, n, bias)[0]
    layer.base.requires_grad_(True)
    x, g = LAYOUTS[x_lies](*leading, n), LAYOUTS[g_lies](*leading, m)
    if way == REFERENCE and kind == "Conv1D":  # the plain way asks the base, which takes no other x
        x = x.contiguous()
    by = tensors(layer, x.requires_grad_())
    with use_plan(way):
        found = gradients(layer(x), by, g)
    assert_same(found, gradients(dense(layer, x), by, g))


@every_plan
@pytest.mark.parametrize(
    "method",
    [pk.LoRA(rank=1), pk.LoRA(rank=3), pk.PERA(rank=2, alpha=3), pk.PERA(rank=4, alpha=9)],
    ids=str,
)
@pytest.mark.parametrize("tokens", [0, 29])
@pytest.mark.parametrize("kind", ["Linear", "Conv1D"])
def test_nor_does_it_who_multiplies(plan, method, tokens, kind, onednn):
    """oneDNN has float32 products: here all of them, of K = 1, 3, 5, 14 columns, on either side of
    NARROW.
    """
    layer = adapted(method, kind, 17, 23, dtype=torch.float32)[0]
    x, g = (
        torch.randn(tokens, width, generator=torch.Generator().manual_seed(width))
        for width in (23, 17)
    )
    by = tensors(layer, x.requires_grad_())
    by = {name: tensor for name, tensor in by.items() if tensor.requires_grad}
    with use_plan(plan):
        found = gradients(layer(x), by, g)
    assert onednn
    layer, x, g = layer.double(), x.detach().double().requires_grad_(), g.double()
    by = {name: tensor for name, tensor in tensors(layer, x).items() if tensor.requires_grad}
    assert_same(found, gradients(dense(layer, x), by, g), 3e-6)


@pytest.fixture
def onednn(monkeypatch):
    """Every product counts as large; (M, L, N) of those that oneDNN makes."""
    made, multiply = [], torch.ops.mkldnn._linear_pointwise

    def spy(left, weight, *rest):
        assert weight.is_contiguous() or weight.T.is_contiguous()
        made.append((*left.shape, weight.shape[0]))
        return multiply(left, weight, *rest)

    monkeypatch.setattr(product, "LARGE", 0)
    monkeypatch.setattr(product, "ONEDNN", True)  # whatever the processor is
    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", spy)
    if not product._onednn("AuthenticAMD"):
        pytest.skip("this torch has no MKL, or no oneDNN")
    return made


def test_intels_processors_keep_mkl():
    """As Linux and Windows name them; on a processor that nobody knows, oneDNN where there is a
    choice.
    """
    assert not product._onednn("processor\t: 0\nvendor_id\t: GenuineIntel\ncpu family\t: 6\n")
    assert not product._onednn("Intel64 Family 6 Model 85 Stepping 7, GenuineIntel")
    choice = torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()
    for other in (
        "vendor_id\t: AuthenticAMD",
        "AMD64 Family 25 Model 1 Stepping 1, AuthenticAMD",
        "arm",
        "",
    ):
        assert product._onednn(other) == choice
    assert product._onednn(product._processor()) == product.ONEDNN


def test_where_no_file_tells_of_the_processor_python_does(monkeypatch):
    monkeypatch.setattr(product, "Path", lambda name: Path("no/such", name.removeprefix("/")))
    assert product._processor() == platform.processor()


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_product_is_the_same_however_its_factors_lie(onednn, data):
    """The largest error of a sum of L products in float32 is at most L ulp of the sum of their
    absolute values.
    """
    (M, L, N), lie = (
        data.draw(st.tuples(*3 * [st.sampled_from([0, 1, 2, 7, 16, 31])]), "M, L, N"),
        st.sampled_from(sorted(LAYOUTS)),
    )
    left, right = (LAYOUTS[data.draw(lie)](*shape).float() for shape in ((M, L), (L, N)))
    onednn.clear()
    found, place = product.matmul(left, right), torch.empty(M, N + 1)[:, 1:]  # rows that lie apart
    assert found.dtype == torch.float32
    assert product.matmul(left, right, place) is place
    assert torch.equal(place, found)
    assert onednn == [(M, L, N)] * 2 * (L > 0)
    left, right = left.double().numpy(), right.double().numpy()
    exact = np.array(
        [[sum(left[i, k] * right[k, j] for k in range(L)) for j in range(N)] for i in range(M)]
    ).reshape(M, N)
    assert (np.abs(found.numpy() - exact) <= L * 2.0**-23 * (np.abs(left) @ np.abs(right))).all()


def test_who_multiplies_is_for_size_and_dtype_and_torchs_switch_to_say(onednn, monkeypatch):
    left, right = torch.randn(6, 5), torch.randn(5, 4)
    one = product.matmul(left, right)
    assert torch.equal(product.matmul(left, right), one), "the same bits every time"
    assert onednn == [(6, 5, 4)] * 2
    onednn.clear()
    assert torch.equal(
        product.matmul(left.double(), right.double()), left.double() @ right.double()
    )
    with FlopCounterMode(display=False) as counter:  # who counts operations knows torch's own
        product.matmul(left, right)
    assert counter.get_total_flops() == 2 * 6 * 5 * 4
    monkeypatch.setattr(product, "LARGE", 31)  # the numbers of (6, 5) are 30
    assert torch.equal(product.matmul(left, right), left @ right)
    monkeypatch.setattr(product, "LARGE", 30)
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
    assert torch.equal(product.matmul(left, right), left @ right)
    assert onednn == []


@every_plan
def test_any_of_the_tensors_may_be_frozen(plan):
    """The gradients of each subset of x, W0, bias, A, B and h, the empty one too, are those that
    all of them have.
    """
    layer, x, g = adapted(PERA, "Conv1D")[0], _randn(5, 11), _randn(5, 7)
    by = tensors(layer, x)
    for tensor in by.values():
        tensor.requires_grad_(True)
    everything = gradients(dense(layer, x), by, g)
    for wanted in itertools.product((False, True), repeat=len(by)):
        moving = {
            name: by[name].requires_grad_(True)
            for name, want in zip(by, wanted, strict=True)
            if want
        }
        for name in by.keys() - moving.keys():
            by[name].requires_grad_(False)
        with use_plan(plan):
            y = layer(x)
        assert y.requires_grad == any(wanted)
        if moving:
            assert_same(
                gradients(y, moving, g), {name: everything[name] for name in (*moving, "output")}
            )


# --- what torch can do with a function ------------------------------------------------------------


def _leaves(p, x):
    return {
        name: tensor.detach().requires_grad_() for name, tensor in p.items()
    }, x.detach().requires_grad_()


def _by_autograd(f, p, x, run=lambda call: call()):
    p, x = _leaves(p, x)
    (run(lambda: f(p, x)) ** 3).sum().backward()
    return [tensor.grad for tensor in (*p.values(), x)]


def _derivatives(f, p, x, order):
    p, x = _leaves(p, x)
    by = [*p.values(), x]
    total = (f(p, x) ** 3).sum()
    for _ in range(order - 1):
        total = sum(
            (gradient**2).sum() for gradient in torch.autograd.grad(total, by, create_graph=True)
        )
    return torch.autograd.grad(total, by)


def _batched(f, p, x):
    p, x = _leaves(p, x)
    y = f(p, x[0])
    return torch.autograd.grad(
        y, [*p.values(), x], torch.eye(len(y), dtype=y.dtype), is_grads_batched=True
    )


def _twice(f, p, x):
    p, x = _leaves(p, x)
    y = f(p, x)
    for _ in range(2):
        (y**2).sum().backward(retain_graph=True)
    return [tensor.grad for tensor in (*p.values(), x)]


def _micro_batches(f, p, x):
    p, x = _leaves(p, x)
    for rows in x.split(2):
        f(p, rows).exp().sum().backward()
    return [tensor.grad for tensor in (*p.values(), x)]


def _checkpointed(f, p, x, reentrant):
    names = list(p)
    call = lambda x, *values: f(dict(zip(names, values, strict=True)), x)  # noqa: E731
    return _by_autograd(
        lambda p, x: checkpoint(call, x, *p.values(), use_reentrant=reentrant), p, x
    )


def _with_hooks(call):
    with torch.autograd.graph.saved_tensors_hooks(torch.clone, torch.clone):
        return call()


def _dual(f, p, x):
    with forward_ad.dual_level():
        y = f(
            {name: forward_ad.make_dual(tensor, tensor**2) for name, tensor in p.items()},
            forward_ad.make_dual(x, x**2),
        )
        return forward_ad.unpack_dual(y)


def _squares(f):
    return lambda p, x: (f(p, x) ** 2).sum()


def _direction(p, x):
    return {name: tensor**2 for name, tensor in p.items()}, x**2


BACKWARD = {  # which goes through the plan
    "autograd": _by_autograd,
    "second derivative": lambda f, p, x: _derivatives(f, p, x, 2),
    "third derivative": lambda f, p, x: _derivatives(f, p, x, 3),
    "is_grads_batched": _batched,
    "jacobian": lambda f, p, x: jacobian(lambda x: f(p, x), x),
    "jacobian, vectorised": lambda f, p, x: jacobian(lambda x: f(p, x), x, vectorize=True),
    "backward twice": _twice,
    "micro-batches": _micro_batches,
    "output written over": lambda f, p, x: _by_autograd(lambda p, x: f(p, x).relu_(), p, x),
    "checkpoint": lambda f, p, x: _checkpointed(f, p, x, reentrant=False),
    "checkpoint, reentrant": lambda f, p, x: _checkpointed(f, p, x, reentrant=True),
    "saved_tensors_hooks": lambda f, p, x: _by_autograd(f, p, x, _with_hooks),
}
OTHERS = {  # which have the formula itself to go through
    "dual numbers": _dual,
    "grad": lambda f, p, x: grad(_squares(f))(p, x),
    "gradient for each sample": lambda f, p, x: vmap(grad(_squares(f)), (None, 0))(p, x),
    "stacked adapters": lambda f, p, x: vmap(f, (0, None))(
        {name: torch.stack([t, -t, 2 * t]) for name, t in p.items()}, x
    ),
    "stacked adapters, a gradient each": lambda f, p, x: vmap(grad(_squares(f)), (0, None))(
        {name: torch.stack([t, 2 * t]) for name, t in p.items()}, x
    ),
    "hessian": lambda f, p, x: hessian(lambda p: _squares(f)(p, x))(p),
    "jvp": lambda f, p, x: jvp(f, (p, x), _direction(p, x)),
    "jacfwd": lambda f, p, x: jacfwd(f, (0, 1))(p, x),
    "linearize": lambda f, p, x: linearize(f, p, x)[1](*_direction(p, x)),
}


# linearize's own, on any function
@pytest.mark.filterwarnings("ignore:Attempted to insert a get_attr Node:UserWarning")
@pytest.mark.parametrize(
    ("name", "way"),
    [
        *itertools.product(
            BACKWARD, (FACTORED, Plan(True, False, False), Plan(False, True, True), DENSE, None)
        ),
        *((name, DENSE) for name in OTHERS),
    ],
    ids=str,
)
@pytest.mark.parametrize("method", [pk.LoRA(rank=2, alpha=3), PERA], ids=["lora", "pera"])
def test_whatever_torch_does_it_does_to_the_dense_formula(name, method, way):
    model, x = adapted(method, m=3, n=2), _randn(4, 2)
    parameters = {
        name: parameter.detach()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
    oracle, W0, bias = testing.ORACLES[method.name], model[0].W0.detach(), model[0].bias.detach()

    def formula(p, x):
        return (
            x @ (W0 + oracle(method, {short(name): value for name, value in p.items()}, W0)).T
            + bias
        )

    transform = {**BACKWARD, **OTHERS}[name]
    expected = tree_leaves(transform(formula, parameters, x))
    with use_plan(way):
        found = tree_leaves(transform(lambda p, x: functional_call(model, p, (x,)), parameters, x))
    assert any(tensor.any() for tensor in expected)
    assert_same(dict(enumerate(found)), dict(enumerate(expected)))


@every_plan
def test_the_second_derivative_is_that_of_finite_differences(plan):
    model = adapted(pk.PERA(rank=1, alpha=3), m=3, n=2)
    moving = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    names, parameters = zip(*moving, strict=True)

    def layer(x, *values):
        return functional_call(model, dict(zip(names, values, strict=True)), (x,))

    with use_plan(plan):
        assert torch.autograd.gradgradcheck(layer, (_randn(2, 2).requires_grad_(), *parameters))


@pytest.mark.parametrize(("training", "way"), [(True, DENSE), (False, None)], ids=str)
def test_compiled_as_one_graph(training, way):
    model, x = adapted(pk.PERA(rank=2, alpha=3)).train(training), _randn(5, 11).requires_grad_()
    by = {name: tensor for name, tensor in tensors(model[0], x).items() if tensor.requires_grad}
    torch._dynamo.reset()
    with use_plan(way):
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        found = gradients(compiled(x), by, torch.ones(5, 7, dtype=torch.float64))
        with torch.no_grad():
            assert_same({"output": compiled(x)}, {"output": found["output"]})
    assert_same(found, gradients(dense(model[0], x), by, torch.ones(5, 7, dtype=torch.float64)))


@every_plan
def test_an_input_that_changes_before_backward_is_noticed(plan):
    model, x = adapted(PERA), _randn(2, 3, 11)
    with use_plan(plan):
        y = model(x)
    x.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


# --- precision ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("kind", strategies.LAYERS)
@every_way
def test_gradients_of_low_precision(kind, dtype, way):
    """To the tolerance of the dtype; the parameters' are float32, as they are, the input's is of
    its own dtype.
    """
    layer = adapted(PERA, kind, dtype=dtype)[0]
    x, g = _randn(6, 11).to(dtype).requires_grad_(), _randn(6, 7).to(dtype)
    by = {"x": x, **dict(layer.adapter.named_parameters())}
    with use_plan(way):
        found = gradients(layer(x), by, g)
    assert {name: tensor.dtype for name, tensor in found.items()} == {
        "output": dtype, "x": dtype, "A": torch.float32, "B": torch.float32, "h": torch.float32
    }  # fmt: skip
    wide = adapted(PERA, kind, dtype=dtype).double()[0]
    x = x.detach().double().requires_grad_()
    assert_same(
        found,
        gradients(dense(wide, x), {"x": x, **dict(wide.adapter.named_parameters())}, g.double()),
        testing.TOLERANCE[dtype],
    )


# method: the size of its parameters
SMALL = {pk.LoRA(rank=5): 5e-3, pk.PERA(rank=3): 7e-3, LoHa(rank=3): 5e-2}
LOW = [
    ("Linear", torch.bfloat16),
    ("Conv1D", torch.bfloat16),
    ("NF4", torch.bfloat16),
    ("Linear", torch.float16),
    ("NF4", torch.float32),
]
every_low = pytest.mark.parametrize(
    ("kind", "dtype"), LOW, ids=lambda case: str(case).removeprefix("torch.")
)


def assert_a_small_update_is_seen(method, kind, dtype, tokens, autocast=False):
    """W0 is all ones, on which ΔW, of 1e-4, is lost in half precision; inputs that W0 takes to zero
    show it, and so do gradients.
    """
    m, n = 8, 12
    bare = strategies.make_layer("Linear" if kind == "NF4" else kind, m, n, dtype=dtype)
    with torch.no_grad():
        bare.weight.fill_(1)
        bare.bias.zero_()
    model = strategies.move(
        testing.adapted(method, NF4Layer.of(bare, NF4()) if kind == "NF4" else bare),
        size=SMALL[method],
    ).train()
    delta, half = pk.delta_weights(model)["0"], torch.bfloat16 if dtype == torch.float32 else dtype
    assert torch.equal(model[0].W0, torch.ones(m, n).to(dtype))
    assert 1e-5 < delta.abs().max() < 3e-4
    assert torch.equal((1 + delta).to(half), torch.ones(m, n).to(half))
    x, g = (torch.tensor([1.0, -1.0]).repeat(tokens, size // 2).to(dtype) for size in (n, m))
    x.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        y = model(x)
    _assert_seen("output", y, x.double() @ delta.double().T)
    y.backward(g.to(y.dtype))
    _assert_seen("input gradient", x.grad, g.double() @ delta.double())


def _assert_seen(what, found, expected):
    error = (found.double() - expected).abs().max() / expected.abs().max()
    assert error < 0.02, f"the update is lost in the {what}: off by {error:.2g} of it"


@every_low
@pytest.mark.parametrize("way", [None, "lean", DENSE, FACTORED, REFERENCE], ids=str)
@pytest.mark.parametrize("method", SMALL, ids=lambda method: method.name)
def test_a_small_update_is_not_rounded_away(method, kind, dtype, way):
    tokens = 4096
    columns = method.rank_bound(1000, 1000)
    # a large T asks for an (m, n) product ...
    assert choose(tokens, 8, 12, columns, fused=False).output
    assert not choose(2, 8, 12, columns, fused=False).output
    for T in (2, tokens):
        with use_plan(way):
            assert_a_small_update_is_seen(method, kind, dtype, T)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("way", [None, DENSE, FACTORED], ids=str)
def test_nor_is_it_under_autocast(dtype, way):
    for method, tokens in itertools.product(SMALL, (2, 4096)):
        with use_plan(way):
            assert_a_small_update_is_seen(method, "Linear", dtype, tokens, autocast=True)


@every_plan
def test_autocast_that_starts_after_forward_changes_no_gradient(plan):
    layer, x, g = (
        adapted(PERA, dtype=torch.float32)[0],
        _randn(6, 11).float().requires_grad_(),
        _randn(6, 7).float(),
    )
    by = {"x": x, **dict(layer.adapter.named_parameters())}
    with use_plan(plan):
        y = layer(x)
        expected = gradients(layer(x), by, g)
    with torch.autocast("cpu", torch.bfloat16):
        found = gradients(y, by, g)
    assert_same(found, expected, 0)


def added_in_the_precision_of_the_base(x, W0, bias, linear, adapters):
    (adapter,) = adapters
    B_hat, A_hat = adapter.factors()
    return F.linear(x, W0 + (B_hat @ A_hat).to(W0.dtype), bias)


def test_a_sum_in_the_precision_of_the_base_is_noticed(monkeypatch):
    monkeypatch.setattr(fast, "forward", added_in_the_precision_of_the_base)
    for kind, dtype in (
        ("Linear", torch.bfloat16),
        ("Conv1D", torch.bfloat16),
        ("Linear", torch.float16),
    ):
        with pytest.raises(
            AssertionError, match=r"^the update is lost in the output: off by 1 of it"
        ):
            assert_a_small_update_is_seen(pk.PERA(rank=3), kind, dtype, tokens=2)


def leanly_in_the_precision_of_the_base(x, W0, bias, scale, B, A):
    return F.linear(x, W0 + (scale * B @ A).to(W0.dtype), bias)


def test_so_it_is_on_the_lean_way(monkeypatch):
    def forward(ctx, source, keep, x, W0, bias, *parameters):
        return leanly_in_the_precision_of_the_base(x, W0, bias, 1, *source.plain(*parameters))

    monkeypatch.setattr(seam, "by_graph", leanly_in_the_precision_of_the_base)
    monkeypatch.setattr(seam.LeanProduct, "forward", staticmethod(forward))
    for method, kind in itertools.product((pk.LoRA(rank=5), pk.PERA(rank=3)), ("Linear", "Conv1D")):
        with (
            use_plan("lean"),
            pytest.raises(AssertionError, match=r"^the update is lost in the output: off by 1 of"),
        ):
            assert_a_small_update_is_seen(method, kind, torch.bfloat16, tokens=2)


def test_a_sum_under_autocast_is_noticed(monkeypatch):
    monkeypatch.setattr(seam, "_watched", lambda x: False)
    with use_plan(DENSE), pytest.raises(AssertionError, match=r"^the update is lost in the output"):
        assert_a_small_update_is_seen(
            pk.PERA(rank=3), "Linear", torch.float32, tokens=2, autocast=True
        )


# --- the layer around it --------------------------------------------------------------------------


@every_way
def test_gradients_of_several_adapters(way):
    model = adapted(PERA)
    for name, method in (("second", pk.LoRA(rank=2, alpha=3)), ("third", HiRA(rank=2))):
        pk.attach(model, method, ["0"], name=name)
    pk.activate(model, "second", "default", "third")
    layer, x, g = model[0], _randn(2, 3, 11).requires_grad_(), _randn(2, 3, 7)
    for seed, adapter in enumerate(layer.active_adapters):
        for parameter in adapter.parameters():
            parameter.data.copy_(_randn(*parameter.shape) * 0.3 + seed)
    by = {"x": x} | {
        name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad
    }
    assert len(by) == 1 + 3 + 2 + 2
    deltas = [
        testing.ORACLES[one.method.name](one.method, dict(one.named_parameters()), layer.W0)
        for one in layer.active_adapters
    ]
    with use_plan(way):
        found = gradients(model(x), by, g)
    assert_same(found, gradients(x @ (layer.W0 + sum(deltas)).T + layer.bias, by, g))


@every_way
def test_gradients_with_dropout(way):
    model = adapted(pk.PERA(rank=2, alpha=3, dropout=0.4))
    layer, x, g = model[0], _randn(6, 11).requires_grad_(), _randn(6, 7)
    by = {"x": x, **dict(layer.adapter.named_parameters())}
    with torch.random.fork_rng(devices=[]), use_plan(way):
        torch.manual_seed(5)
        found = gradients(model(x), by, g)
        torch.manual_seed(5)
        dropped = F.dropout(x, 0.4)
    assert (dropped == 0).any()
    assert_same(found, gradients(dense(layer, x, dropped), by, g))


@every_way
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_the_same_step_has_the_same_bits(way, dtype, monkeypatch):
    """Twice; with and without a graph; and no clock is read."""
    for clock in (
        "perf_counter",
        "perf_counter_ns",
        "monotonic",
        "time",
        "time_ns",
        "process_time",
    ):
        monkeypatch.setattr(time, clock, None)
    layer = adapted(PERA, m=37, n=41, dtype=dtype)[0]
    x, g = _randn(64, 41).to(dtype).requires_grad_(), _randn(64, 37).to(dtype)
    by = {"x": x, **dict(layer.adapter.named_parameters())}
    with use_plan(way):
        first, second = (gradients(layer(x), by, g) for _ in range(2))
        with torch.no_grad():
            second["without a graph"] = layer(x)
        with torch.inference_mode():
            second["in inference mode"] = layer(x)
        layer.eval()
        second["in eval mode"] = layer(x).detach()
    for name, tensor in second.items():
        assert torch.equal(tensor, first.get(name, first["output"])), f"{name} has other bits"


@every_plan
@pytest.mark.parametrize(
    ("kind", "method"),
    [
        ("Linear", pk.PERA(rank=3, alpha=5)),
        ("Conv1D", pk.PERA(rank=3)),
        ("Linear", pk.LoRA(rank=9)),
    ],
    ids=str,
)
def test_backward_keeps_the_input_and_the_parameters_alone(plan, kind, method):
    """Of x, W0 and the parameters no copy; beside them z = x Âᵀ (T, K) where it saves a product;
    nothing (m, n), nothing (K, m + n).
    """
    T, m, n = 13, 7, 11
    layer, x, saved = adapted(method, kind, m, n)[0], _randn(T, n).requires_grad_(), []
    known = {
        tensor.untyped_storage().data_ptr(): name for name, tensor in tensors(layer, x).items()
    }
    with (
        use_plan(plan),
        torch.autograd.graph.saved_tensors_hooks(
            lambda tensor: saved.append(tensor) or tensor, lambda tensor: tensor
        ),
    ):
        layer(x)
    others = [
        tuple(tensor.shape) for tensor in saved if tensor.untyped_storage().data_ptr() not in known
    ]
    assert others == ([] if plan.output or plan.factors else [(T, 9)])
    kept = {known.get(tensor.untyped_storage().data_ptr()) for tensor in saved} - {None, "bias"}
    assert kept == {"x", "W0", *method.shapes(m, n)}


@every_plan
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_4_bit_weight_is_not_kept_as_floats(plan, dtype):
    """Its codes are: nothing is added to what they stand for, in any precision."""
    layer, saved = adapted(pk.PERA(rank=3), "NF4", dtype=dtype)[0], []
    with (
        use_plan(plan),
        torch.autograd.graph.saved_tensors_hooks(
            lambda t: saved.append(tuple(t.shape)) or t, lambda t: t
        ),
    ):
        layer(_randn(13, 11).to(dtype).requires_grad_())
    assert (13, 11) in saved
    assert not {(7, 11), (11, 7)} & set(saved)


def test_the_formula_keeps_the_expansion():
    """So that the test above is seen to be able to fail."""
    saved = []
    layer, x = adapted(pk.PERA(rank=3), m=7, n=11)[0], _randn(13, 11).requires_grad_()
    with (
        use_plan(REFERENCE),
        torch.autograd.graph.saved_tensors_hooks(
            lambda t: saved.append(tuple(t.shape)) or t, lambda t: t
        ),
    ):
        layer(x)
    assert (9, 11) in saved or (11, 9) in saved


@every_plan
def test_every_law_of_the_layer_holds_under_every_plan(plan):
    """Where T = 4 of the laws would choose the factors; law 1 is about bits: W0 + 0 multiplied as
    W0 is.
    """
    with use_plan(plan):
        for kind, dtype in (
            ("Linear", torch.float64),
            ("Conv1D", torch.float32),
            ("NF4", torch.bfloat16),
        ):
            layer = strategies.make_layer(kind, 7, 11, dtype=dtype, seed=2)
            for law in (
                testing.law_1_no_op_at_init,
                testing.law_3_dense_forward,
                testing.law_5_restore,
                testing.law_8_gradients,
            ):
                law(PERA, layer)
