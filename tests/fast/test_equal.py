"""The law of the room: what `fast` answers, the plain way answers too, and so with gradients."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import forward_ad
from torch.func import functional_call, grad, jvp, vmap

import perakit as pk
from perakit import fast, formulas, strategies, testing
from perakit.adapters import Adapter, Additive, Method, Quadratic
from perakit.adapters.pera import PERAAdapter
from perakit.fast import seam, use_plan
from perakit.fast.expanded import Expanded
from perakit.fast.plans import PLANS
from perakit.fast.sources import Given
from perakit.models.adapted import names

WAYS = (*PLANS, "lean", None)
NAMES = sorted(
    name for name, cls in Method.registry.items() if cls.__module__.startswith("perakit.")
)
OWN_FORWARD = {"quadratic"}  # no matrix, so nothing to make quicker
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 4e-2, torch.float16: 5e-3}

# How x lies in memory. A Conv1D has the first alone: the plain way asks the base, which takes no
# other.
LAYOUTS = {
    "contiguous": lambda x: x,
    "transposed": lambda x: x.mT.contiguous().mT if x.ndim > 1 else x,
    "every second": lambda x: torch.stack([x, x], -1).flatten(-2)[..., ::2],
}
LEADING = [(4,), (40,), (2, 3), (0,), (2, 0), (1,), (), (1, 1)]


def random(*shape, dtype, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def answer(model, x, g=None):
    """The output and, of g (as the output), the gradients by all that asks for one; by name."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)  # of dropout
        y = model(x)
    if g is None or not y.requires_grad:
        return {"output": y.detach()}
    named = {"x": x, **dict(model.named_parameters())}
    by = {name: tensor for name, tensor in named.items() if tensor.requires_grad}
    found = torch.autograd.grad(y, list(by.values()), g, allow_unused=True)
    return {"output": y.detach()} | dict(zip(by, found, strict=True))


def assert_equal(found, plain, tolerance, way="None"):
    """Equal to `tolerance` of the largest entry, or of 1; so are shape, dtype and who has none."""
    assert found.keys() == plain.keys()
    for name, right in plain.items():
        one = found[name]
        assert (one is None) == (right is None), f"{way}: {name} is {one}"
        if right is None:
            continue
        assert (one.shape, one.dtype) == (right.shape, right.dtype), f"{way}: {name}"
        if right.numel():
            scale = max(1, right.double().abs().max())
            error = (one.double() - right.double()).abs().max() / scale
            assert error <= tolerance, f"{way}: {name} is off by {error:.2g}"


def assert_the_law(model, x, g, tolerance, ways=WAYS):
    """With a graph by every plan; and twice without one, by the counted one."""
    with fast.off():
        plain = answer(model, x, g)
    for way in ways:
        with use_plan(way):
            assert_equal(answer(model, x, g), plain, tolerance, way)
    for mode, _ in itertools.product((torch.no_grad, torch.inference_mode), range(2)):
        with mode():
            assert_equal(answer(model, x), {"output": plain["output"]}, tolerance, mode.__name__)


@st.composite
def cases(draw, name, dtype):
    """(model, x, g): one layer with an adapter of the method `name`, and perhaps another one."""
    kind = draw(st.sampled_from(sorted(strategies.LAYERS)), "kind")
    m, n, _ = draw(strategies.shapes(), "shape")
    layer = strategies.make_layer(kind, m, n, draw(st.booleans(), "bias"), dtype, seed=3)
    model = testing.adapted(draw(strategies.methods(name), "method"), layer)
    for other in draw(st.lists(strategies.methods(), max_size=1), "another"):
        pk.attach(model, other, ["0"], name="other")
    pk.activate(model, *draw(st.permutations(names(model)), "order"))
    seed = draw(strategies.seeds(), "seed")
    for adapter in model[0].active_adapters:
        for k, parameter in enumerate(adapter.parameters()):
            moved = random(*parameter.shape, dtype=parameter.dtype, seed=seed + k)
            parameter.data.copy_(0.1 * moved + 0.2 * moved.sign())
    if kind != "NF4":  # whose codes cannot train
        model[0].base.requires_grad_(draw(st.booleans(), "W0 trains"))
    lies = "contiguous" if kind == "Conv1D" else draw(st.sampled_from(sorted(LAYOUTS)), "x lies")
    leading = draw(st.sampled_from(LEADING), "leading")
    x = LAYOUTS[lies](random(*leading, n, dtype=dtype, seed=seed + 8))
    x.requires_grad_(draw(st.booleans(), "x asks"))
    model.train(draw(st.booleans(), "training"))
    return model, x, random(*leading, m, dtype=dtype, seed=seed + 9)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=4, derandomize=True)
@given(data=st.data())
def test_what_is_fast_is_equal_to_what_is_plain(name, dtype, data):
    """Every method, kind of layer, plan and shape of x; dropout with the same seed; sums; W0 and
    the bias where they train.
    """
    assert_the_law(*data.draw(cases(name, dtype)), TOLERANCE[dtype])


@pytest.mark.parametrize("kind", strategies.LAYERS)
@pytest.mark.parametrize("name", NAMES)
def test_so_it_is_alone_and_in_a_sum_with_and_without_dropout(name, kind):
    """Each of the eight, where everything asks for a gradient."""
    x, g = (random(3, size, dtype=torch.float64, seed=size) for size in (5, 7))
    x.requires_grad_()
    for dropout, others in itertools.product((0.0, 0.5), ((), (pk.LoRA(rank=1, alpha=3),))):
        layer = strategies.make_layer(kind, 7, 5, dtype=torch.float64, seed=3)
        model = testing.adapted(Method.registry[name](rank=2, alpha=3, dropout=dropout), layer)
        for other in others:
            pk.attach(model, other, ["0"], name="other")
            model[0].adapters["other"].B.data.fill_(0.5)
        pk.activate(model, *names(model))
        if kind != "NF4":
            model[0].base.requires_grad_(True)
        for training in (True, False):
            assert_the_law(model.train(training), x, g, 1e-12)


@pytest.mark.parametrize("kind", strategies.LAYERS)
@pytest.mark.parametrize("name", NAMES)
def test_every_method_that_is_a_matrix_has_a_fast_answer(name, kind):
    """So that the law says something: `fast` returns None to none of them."""
    cls = Method.registry[name]
    assert (name in OWN_FORWARD) == (not cls.mergeable)
    model = testing.adapted(cls(rank=2), strategies.make_layer(kind, 5, 3))
    layer, x = model[0], random(2, 3, dtype=torch.float32, seed=0)
    linear = layer.kind.product(layer.base)
    y = fast.forward(x, layer.W0, layer.bias, linear, layer.active_adapters)
    assert (y is None) == (name in OWN_FORWARD)


# --- a method of a user's own ---------------------------------------------------------------------


class ByTheRule(Additive):
    """All that a method says of a rule that has a quicker way."""

    rule = staticmethod(formulas.expand)

    def arguments(self):
        return self.B, self.A, self.h, self.method.terms, self.method.degree


class ByTheRulesDefaults(Additive):
    rule = staticmethod(formulas.expand)

    def arguments(self):
        return self.B, self.A, self.h


class OtherArguments(PERAAdapter):
    def arguments(self):
        B, A, h, *settings = super().arguments()
        return 2 * B, A.tanh(), h**2, *settings


class WithFactors(Additive):
    def factors(self):
        return self.B * 2, self.A * self.h[0]


class WiderFactors(Additive):
    """In more precision than the parameters have."""

    def factors(self):
        return self.B.double(), self.A.double()


class RuleAndFactors(ByTheRule):
    """Who has both means the factors."""

    def factors(self):
        B_hat, A_hat = super().factors()
        return B_hat.tanh(), A_hat


def of_my_own(B, A, h):
    return B * h.mean(), A


class ByARuleOfItsOwn(Additive):
    """A rule that no table knows."""

    rule = staticmethod(of_my_own)

    def arguments(self):
        return self.B, self.A, self.h


class Dense(Adapter):
    def delta(self, W0):
        return W0 * (self.B @ self.A) + self.h.sum()


class TwoFactors(Adapter):
    def product(self, W0):
        return W0 @ self.A.T @ self.A, self.A.T @ self.B.T @ self.B @ self.A

    def delta(self, W0):
        left, right = self.product(W0)
        return left @ right


class WithForward(ByTheRule):
    """What it says there is no matrix."""

    def forward(self, x, W0):
        return super().forward(x, W0).tanh() + self.h.sum()


OWN = {  # the adapter, and the source that `AdaptedProduct` is given; None: it is not asked
    ByTheRule: Expanded(1.5, "full", 2),
    ByTheRulesDefaults: Expanded(1.5, "full", 2),
    OtherArguments: Expanded(1.5, "full", 2),
    WithFactors: Given(),
    RuleAndFactors: Given(),
    WiderFactors: Given(),
    ByARuleOfItsOwn: Given(),
    TwoFactors: Given(),
    Dense: None,
    WithForward: None,
}


def of_a_user(adapter, kind="Linear", dtype=torch.float64):
    """A model of one layer (7, 11) with an adapter of that class, moved off its start."""
    model = testing.adapted(
        pk.PERA(rank=2, alpha=3), strategies.make_layer(kind, 7, 11, dtype=dtype, seed=3)
    )
    model[0].adapters["default"] = adapter(pk.PERA(rank=2, alpha=3), model[0].W0)
    return strategies.move(model, 5).train()


@pytest.fixture
def sources(monkeypatch):
    """Those that `AdaptedProduct` was given."""
    given, AdaptedProduct = [], seam.AdaptedProduct

    class Watched:
        @staticmethod
        def apply(source, *rest):
            given.append(source)
            return AdaptedProduct.apply(source, *rest)

    monkeypatch.setattr(seam, "AdaptedProduct", Watched)
    return given


@pytest.mark.parametrize("kind", ["Linear", "Conv1D", "NF4"])
@pytest.mark.parametrize("adapter", OWN, ids=lambda adapter: adapter.__name__)
def test_a_method_of_a_users_own_goes_the_way_that_it_says(adapter, kind, sources):
    for dtype in (torch.float64, torch.float32):
        model = of_a_user(adapter, kind, dtype)
        x = random(5, 11, dtype=dtype, seed=1).requires_grad_()
        with use_plan(PLANS[0]):
            model(x)
        source = OWN[adapter]
        assert sources == ([] if source is None else [source])
        for training in (True, False):
            g = random(5, 7, dtype=dtype, seed=2)
            assert_the_law(model.train(training), x, g, TOLERANCE[dtype])
        sources.clear()


def test_the_settings_of_the_rule_are_the_methods_own(sources):
    for terms, degree in itertools.product(formulas.TERMS, (2, 3)):
        method = pk.PERA(rank=3, alpha=6, terms=terms, degree=degree, feature_scale=2.0)
        model = testing.adapted(method, strategies.make_layer("Linear", 7, 11)).train()
        with use_plan(PLANS[0]):
            model(torch.ones(2, 11))
        assert sources.pop() == Expanded(2.0, terms, degree)


def test_one_adapter_with_a_forward_of_its_own_makes_the_sum_plain(sources):
    model = of_a_user(ByTheRule)
    pk.attach(model, Quadratic(rank=2), ["0"], name="second")
    pk.activate(model, "default", "second")
    x = random(5, 11, dtype=torch.float64, seed=1)
    model(x)
    assert not sources
    pk.activate(model, "default")
    with use_plan(PLANS[0]):
        model(x)
    assert sources == [Expanded(1.5, "full", 2)]


# --- where it steps aside -------------------------------------------------------------------------


@pytest.fixture
def answers(monkeypatch):
    """What `fast` said to the layer."""
    said, forward = [], fast.forward

    def watched(*arguments):
        said.append(forward(*arguments))
        return said[-1]

    monkeypatch.setattr(fast, "forward", watched)
    return said


def _autocast(model, x):
    with torch.autocast("cpu", torch.bfloat16):
        return model(x)


def _parameters(model):
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}


def _grad(model, x):
    return grad(lambda p: functional_call(model, p, (x,)).sum())(_parameters(model))


def _vmap(model, x):
    stacked = {name: torch.stack([p, 2 * p]) for name, p in _parameters(model).items()}
    return vmap(lambda p: functional_call(model, p, (x,)))(stacked)


def _dual(model, x):
    with forward_ad.dual_level():
        return model(forward_ad.make_dual(x, x))


def _traced(model, x):
    return torch.jit.trace(model, x, check_trace=False)(x)


def _reference(model, x):
    with use_plan("reference"):
        return model(x)


def _off(model, x):
    with fast.off():
        return model(x)


ASIDE = {
    "autocast": _autocast,
    "torch.func.grad": _grad,
    "torch.func.vmap": _vmap,
    "torch.func.jvp": lambda model, x: jvp(model, (x,), (x,)),
    "forward mode": _dual,
    "torch.jit.trace": _traced,
    "torch.export": lambda model, x: torch.export.export(model, (x,)).module()(x),
    'use_plan("reference")': _reference,
    "off()": _off,
}


# torch.jit's: that it is old, and that a trace does not see the checks of shapes
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("name", ["pera", "lora", "dora"])
@pytest.mark.parametrize("where", ASIDE)
def test_it_steps_aside_without_an_error(where, name, answers):
    """Where the formula itself has to run. The layer answers as ever; outside `fast` answers."""
    layer = strategies.make_layer("Linear", 7, 11, seed=3)
    model = testing.adapted(Method.registry[name](rank=2), layer).train()
    x = random(5, 11, dtype=torch.float32, seed=1)
    ASIDE[where](model, x)
    assert [one for one in answers if one is not None] == []
    answers.clear()
    model(x)
    assert [one is None for one in answers] == [False]


def test_the_last_word_is_dropouts_too(answers):
    """In training the update sees x with holes, the base does not, whichever way."""
    method = pk.PERA(rank=2, alpha=3, dropout=0.5)
    model = testing.adapted(method, strategies.make_layer("Linear", 7, 11, seed=3)).train()
    x = random(5, 11, dtype=torch.float32, seed=1)
    for model_is, way in itertools.product((True, False), (*WAYS, "reference")):
        model.train(model_is)
        with use_plan(way):
            found = answer(model, x)["output"]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(7)
            seen = F.dropout(x, 0.5, training=model_is)
        right = model[0].base(x) + seen @ model[0].delta.T
        torch.testing.assert_close(found, right.detach(), rtol=1e-5, atol=1e-5)


HOOKS = {
    "forward": lambda adapter, hook: adapter.register_forward_hook(hook),
    "forward_pre": lambda adapter, hook: adapter.register_forward_pre_hook(hook),
    "full_backward": lambda adapter, hook: adapter.register_full_backward_hook(hook),
    "full_backward_pre": lambda adapter, hook: adapter.register_full_backward_pre_hook(hook),
}


@pytest.mark.parametrize("kind", HOOKS)
def test_a_hook_on_an_adapter_is_called(kind):
    model, calls = torch.nn.Sequential(torch.nn.Linear(5, 3)), []
    pk.attach(model, pk.PERA(rank=2), ["0"])
    handle = HOOKS[kind](pk.adapters(model)["0"], lambda *_: calls.append(kind))
    x = torch.ones(2, 5, requires_grad=True)
    model(x).sum().backward()
    assert calls == [kind]
    handle.remove()
    model(x).sum().backward()
    assert calls == [kind]
