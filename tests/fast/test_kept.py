"""The expansion that PERA keeps in eval mode: found again as long as nothing changed, however it
would have changed.
"""

import copy
import gc
import io
import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from weakref import ref

import pytest
import torch
from torch.func import functional_call, grad, vmap
from torch.utils._pytree import tree_leaves

import perakit as pk
from perakit import formulas, strategies, testing
from perakit.adapters import Additive
from perakit.fast import expanded, gathered, kept, rows, seam, windows

METHOD = pk.PERA(rank=2, alpha=3)
# By the adapter itself, by the formula again, and where nobody asks for a derivative
EXPANSIONS = (
    (Additive, "factors"),
    (formulas, "expand"),
    (rows, "factors"),
    (windows, "features"),
    (gathered, "features"),
)


@pytest.fixture
def made(monkeypatch):
    """One entry for each expansion that is made."""
    calls = []
    for owner, name in EXPANSIONS:
        expand = getattr(owner, name)
        monkeypatch.setattr(
            owner,
            name,
            lambda *arguments, expand=expand: calls.append(arguments) or expand(*arguments),
        )
    monkeypatch.setattr(seam, "BY_RULE", Additive.factors)  # watched, and still nobody's own
    return calls


def model_of(dtype=torch.float32, kind="Linear", seed=1):
    """A model of one adapted layer, in eval mode."""
    return testing.adapted(METHOD, strategies.make_layer(kind, 7, 11, dtype=dtype, seed=3), seed)


def x_for(model, *leading):
    return torch.randn(*(leading or (5,)), 11, generator=torch.Generator().manual_seed(0)).to(
        model[0].W0.dtype
    )


def unkept(model, x):
    """What the model answers where nothing is kept."""
    with torch.enable_grad():
        return model(x).detach()


@torch.no_grad()
def check(model, x):
    """The answer has the bits that it has where nothing is kept."""
    assert torch.equal(model(x), unkept(model, x)), "an expansion of other parameters was used"


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_the_second_call_expands_nothing(mode, made):
    model = model_of()
    with mode():
        answers = [model(x_for(model)) for _ in range(3)]
    assert len(made) == 1
    with mode():
        model(x_for(model, 6))  # of the same parameters, however many inputs
    assert len(made) == 1
    assert all(torch.equal(answer, unkept(model, x_for(model))) for answer in answers)


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [("Conv1D", torch.float64), ("Linear", torch.bfloat16), ("NF4", torch.float32)],
    ids=str,
)
def test_whatever_the_base_is_the_bits_are_the_same(kind, dtype, made):
    model = model_of(dtype, kind)
    for _ in range(2):
        for leading in ((5,), (2, 3), (0,)):
            check(model, x_for(model, *leading))
    with torch.no_grad():
        before = len(made)
        model(x_for(model))
    assert len(made) == before


def _step(model):
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
    with torch.enable_grad():
        model(x_for(model)).square().sum().backward()
    optimizer.step()


def _replaced(model, name="B"):
    setattr(
        model[0].adapter, name, torch.nn.Parameter(getattr(model[0].adapter, name).detach() * 2)
    )


def _new_data(model):
    model[0].adapter.A.data = model[0].adapter.A.data * 2


def _in_the_memory(model):
    model[0].adapter.A.detach().numpy()[0, 0] += 1  # leaves no trace on the tensor


CHANGES = {
    "in place": lambda model: strategies.move(model, 7),
    "one entry of h": lambda model: model[0].adapter.h.data[1].add_(0.5),
    "p.data.copy_": lambda model: model[0].adapter.B.data.copy_(torch.ones(7, 2)),
    "p.data =": _new_data,
    "another parameter": _replaced,
    "by way of NumPy": _in_the_memory,
    "optimizer.step": _step,
    "load_state_dict": lambda model: model.load_state_dict(model_of(seed=9).state_dict()),
    "load_state_dict, assign": lambda model: model.load_state_dict(
        model_of(seed=9).state_dict(), assign=True
    ),
    "vector_to_parameters": lambda model: torch.nn.utils.vector_to_parameters(
        torch.ones(2 * 18 + 3), model[0].adapter.parameters()
    ),
    ".to(float64)": lambda model: model.double(),
    ".to(float64) and back": lambda model: strategies.move(model.double(), 7).float(),
    "scale": lambda model: setattr(model[0].adapter, "method", replace(METHOD, alpha=8)),
    "feature_scale": lambda model: setattr(
        model[0].adapter, "method", replace(METHOD, feature_scale=8.0)
    ),
}


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("name", CHANGES)
def test_nothing_is_used_that_was_made_of_other_parameters(name, mode):
    model = model_of()
    with mode():
        before = model(x_for(model))
    CHANGES[name](model)
    x = x_for(model)
    with mode():
        after = model(x)
    assert torch.equal(after, unkept(model, x)), "an expansion of other parameters was used"
    assert not torch.equal(after.float(), before.float())
    check(model, x)


BLIND = {  # a change, and what does not see it
    "in place": lambda old, new: True,
    "p.data.copy_": lambda old, new: old is new and old._version == new._version,
    "by way of NumPy": (
        lambda old, new: old.data_ptr() == new.data_ptr() and old._version == new._version
    ),
}


@pytest.mark.parametrize("name", [*BLIND, "scale"])
def test_a_comparison_that_sees_less_is_noticed(name, monkeypatch):
    """No look at the parameters; by identity and version, as most code does it; by value, but
    without the settings.
    """
    last = []

    def factors(adapter, source, parameters):
        B_and_A = parameters[:2]  # h comes multiplied, which is a tensor of its own each time
        if not last or not all(map(BLIND.get(name, torch.equal), last[-1][0], B_and_A)):
            last.append((B_and_A, source.value(*(one.detach() for one in parameters))))
        return last[-1][1]

    monkeypatch.setattr(kept, "factors", factors)
    with pytest.raises(AssertionError, match=r"^an expansion of other parameters was used"):
        test_nothing_is_used_that_was_made_of_other_parameters(name, torch.no_grad)


def test_a_parameter_that_is_no_number_is_followed():
    """NaN is not equal to itself: expanded each time, and never an old number in its place."""
    model = model_of()
    check(model, x_for(model))
    model[0].adapter.h.data[0] = torch.nan
    for _ in range(2):
        with torch.no_grad():
            assert model(x_for(model)).isnan().all()
    model[0].adapter.h.data[0] = 1
    check(model, x_for(model))
    with torch.no_grad():
        assert model(x_for(model)).isfinite().all()


def kept_bytes(model):
    """Of each memory once."""
    tensors = [
        tensor
        for tensor in tree_leaves(kept.last.get(model[0].adapter))
        if isinstance(tensor, torch.Tensor)
    ]
    return sum(
        {
            tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
            for tensor in tensors
        }.values()
    )


@torch.no_grad()
def test_training_and_copies_start_with_nothing_kept():
    model = model_of()
    model(x_for(model))
    keys = model.state_dict().keys()
    r, K = 2, 5
    # The expansion; B and A, of which it was made; h, twice: in the weight, and by itself
    assert kept_bytes(model) == 4 * ((K + r) * (7 + 11) + K + 3)
    model(x_for(model, 12))  # so many go another way
    # What is around the expansion in memory, and a pair that is there twice
    rows = (K + 1 + 3 * r) + r
    assert kept_bytes(model) == 4 * (rows * (7 + 11) + (K + 1) + 3)
    assert keys == model_of().state_dict().keys()
    assert [name for name, _ in model.named_buffers()] == [
        name for name, _ in model_of().named_buffers()
    ]
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    for twin in (
        copy.deepcopy(model),
        pickle.loads(pickle.dumps(model)),
        torch.load(file, weights_only=False),
    ):
        assert kept_bytes(twin) == 0
        assert twin[0].adapter not in kept.last
        check(twin, x_for(model))
    assert kept_bytes(model) > 0
    for training in (torch.no_grad, torch.enable_grad):
        model.eval()(x_for(model))
        assert kept_bytes(model) > 0
        assert model.train() is model  # returns itself, as any module
        with training():
            model(x_for(model))
        assert kept_bytes(model) == 0


def test_what_is_kept_goes_with_its_adapter():
    model = model_of()
    check(model, x_for(model))
    adapter, made = ref(model[0].adapter), ref(kept.last[model[0].adapter][2].A_hat)
    assert None not in (adapter(), made())
    del model
    gc.collect()
    assert (adapter(), made()) == (None, None)


def test_it_is_kept_for_no_derivative(made):
    """In training, in a graph, under torch.func: expanded each time, of the tensors that are asked
    about.
    """
    model, x = model_of(), x_for(model_of())
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]

    def of(p):
        return functional_call(model, dict(zip(names, p, strict=True)), (x,)).square().sum()

    parameters = [model.get_parameter(name).detach() for name in names]
    for call in (
        lambda: model(x).sum().backward(),
        lambda: grad(of)(parameters),
        lambda: vmap(of)([torch.stack([p, 2 * p]) for p in parameters]),
        lambda: torch.no_grad()(model.train())(x),
    ):
        call()
        assert kept_bytes(model) == 0
    assert len(made) >= 4
    model.eval()
    with torch.no_grad():
        of(parameters)
        assert torch.equal(of([2 * p for p in parameters]), of([2 * p for p in parameters]))
        check(model, x)
        model.get_parameter(names[0]).mul_(2)
        two = of([model.get_parameter(name) for name in names])
    assert torch.equal(two, unkept(model, x).square().sum())


def test_a_compiled_graph_makes_its_own(made):
    """And follows the parameters; what it is compared with is not in the graph."""
    model, x = model_of(), x_for(model_of())
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        for seed in (1, 2):
            strategies.move(model, seed)
            torch.testing.assert_close(compiled(x), unkept(model, x))
    assert kept_bytes(model) == 0


@torch.no_grad()
def test_merged_and_disabled_do_not_ask_for_it(made):
    model, x = model_of(), x_for(model_of())
    before = model(x)
    with pk.disabled(model):
        assert torch.equal(model(x), model[0].base(x))
    assert len(made) == 1
    pk.merge(model)
    strategies.move(model, 5)  # merged: the sum is that of before
    merges = len(made)
    torch.testing.assert_close(model(x), before)
    assert len(made) == merges
    pk.unmerge(model)
    check(model, x)
    assert not torch.allclose(model(x), before)


def test_what_inference_mode_made_serves_outside_of_it():
    model, x = model_of(), x_for(model_of())
    with torch.inference_mode():
        model(x)
    with torch.no_grad():
        y = model(x)
    assert not y.is_inference()
    assert torch.equal(y, unkept(model, x))
    y = model(x.requires_grad_())
    y.sum().backward()
    assert x.grad.any()


@torch.no_grad()
def test_what_is_kept_is_not_handed_out():
    """`factors()` and `delta` give tensors of their own, which may be written to."""
    model, x = model_of(), x_for(model_of())
    before = model(x)
    for factor in model[0].adapter.factors():
        factor.zero_()
    model[0].delta.zero_()
    assert torch.equal(model(x), before)


def test_threads_ask_the_same_model():
    model = model_of(torch.float64)
    x, right = x_for(model), unkept(model, x_for(model))

    @torch.no_grad()
    def ask(_):
        return torch.equal(model(x), right)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(ask, range(200)))


@torch.no_grad()
def test_a_thread_that_asks_while_another_expands_is_not_given_the_last_expansion(monkeypatch):
    """Nor nothing, where a third one trains meanwhile."""
    model = model_of()
    x, answers = x_for(model), []
    model(x)
    strategies.move(model, 7)
    right, value = unkept(model, x), expanded.Gathered.value

    def interrupted(self, *parameters):
        if not answers:
            answers.append(None)  # once
            answers[0] = model(x)
            model.train()(x)
            model.eval()
        return value(self, *parameters)

    monkeypatch.setattr(expanded.Gathered, "value", interrupted)
    assert torch.equal(model(x), right)
    assert torch.equal(answers[0], right)
