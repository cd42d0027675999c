"""Several adapters on one model: one in effect, or a sum; swapping writes and copies nothing.

Two defects of another library are looked for by name: a partial merge that drops adapters, and an
adapter that stays in effect, or is lost, where merging meets disabling.
"""

import copy
import functools
import tracemalloc

import numpy as np
import pytest
import torch
from torch import nn

import perakit as pk
from perakit.models.adapted import AdaptedLayer, names
from perakit.strategies import make_layer, move

TASKS = {
    "code": pk.PERA(rank=2, alpha=3),
    "prose": pk.LoRA(rank=3),
    "maths": pk.PERA(rank=1, terms="square"),
}


def bare(dtype=torch.float64):
    return nn.Sequential(
        make_layer("Linear", 5, 7, dtype=dtype),
        nn.Tanh(),
        make_layer("Conv1D", 3, 5, dtype=dtype, seed=1),
    ).eval()


def several(dtype=torch.float64):
    """Three adapters, off their start; "maths" sits on the second layer only."""
    model = bare(dtype)
    for k, (name, method) in enumerate(TASKS.items()):
        pk.attach(model, method, ["2"] if name == "maths" else ["0", "2"], name=name)
        move(model, seed=k)
    return model


def alone(name, dtype=torch.float64):
    """A model that has only this adapter, with the numbers it has in `several`."""
    model, source = bare(dtype), several(dtype)
    pk.attach(model, TASKS[name], list(pk.adapters(source, name)), name=name)
    for layer, adapter in pk.adapters(source, name).items():
        pk.adapters(model)[layer].load_state_dict(adapter.state_dict())
    return model


@pytest.fixture
def x():
    return torch.randn(4, 7, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def loops(model, wanted, x):
    """The forward pass in NumPy, ΔW of every wanted adapter added up entry by entry."""
    y = x.numpy()
    for name, act in (("0", np.tanh), ("2", lambda y: y)):
        layer = model.get_submodule(name)
        W = layer.base.weight.detach().numpy()
        W = W.T.copy() if name == "2" else W.copy()
        for task in wanted:
            if task in layer.adapters:
                adapter, method = layer.adapters[task], TASKS[task]
                B, A = adapter.B.detach().numpy(), adapter.A.detach().numpy()
                h = iter(adapter.h.tolist() if isinstance(method, pk.PERA) else [])
                s = (method.alpha or method.rank) / method.rank
                for i in range(method.rank):
                    W += s * np.outer(B[:, i], A[i])
                if isinstance(method, pk.PERA):
                    for i in range(method.rank):
                        for j in range(i, method.rank):
                            if i == j or method.terms == "full":
                                W += s * next(h) * np.outer(B[:, i] * B[:, j], A[i] * A[j])
        y = act(y @ W.T + layer.bias.detach().numpy())
    return y


def test_the_adapter_that_is_attached_is_the_one_in_effect(x):
    model = several()
    assert pk.active(model) == ("maths",)
    assert names(model) == ("code", "prose", "maths")
    assert list(pk.adapters(model)) == ["2"]
    assert {name: list(pk.adapters(model, name)) for name in TASKS} == {
        "code": ["0", "2"],
        "prose": ["0", "2"],
        "maths": ["2"],
    }
    assert [row[0] for row in pk.attach(model, pk.LoRA(rank=1), ["0"], name="fourth").rows] == ["0"]


@pytest.mark.parametrize("name", TASKS)
def test_one_of_several_answers_bitwise_as_if_alone(name, x):
    model = several()
    pk.activate(model, name)
    assert torch.equal(model(x), alone(name)(x))


@pytest.mark.parametrize(
    "wanted", [("code",), ("code", "prose"), ("prose", "maths"), ("maths", "code", "prose")]
)
def test_a_sum_is_the_sum_of_the_updates(wanted, x):
    model = several()
    pk.activate(model, *wanted)
    assert set(pk.active(model)) == set(wanted)
    expected = loops(model, wanted, x)
    np.testing.assert_allclose(model(x).detach(), expected, rtol=1e-12, atol=1e-13)
    pk.merge(model)
    np.testing.assert_allclose(model(x).detach(), expected, rtol=1e-12, atol=1e-13)
    single = {name: pk.delta_weights(alone(name)) for name in wanted}
    for layer, delta in pk.delta_weights(model).items():
        total = sum(single[name][layer] for name in wanted if layer in single[name])
        torch.testing.assert_close(delta, torch.as_tensor(total), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_sum_is_rounded_once(dtype):
    """On 1 x 1: the base's 1, and two updates of 0.6 half steps each, which rounded singly would
    vanish.
    """
    model = nn.Sequential(nn.Linear(1, 1, bias=False)).to(dtype)
    model[0].weight.data.fill_(1)
    step = torch.finfo(dtype).eps
    for name in ("a", "b"):
        pk.attach(model, pk.LoRA(rank=1), ["0"], name=name)
        adapter = pk.adapters(model)["0"]
        adapter.A.data.fill_(0.3 * step)
        adapter.B.data.fill_(1)
    pk.activate(model, "a", "b")
    one = torch.ones(1, 1, dtype=dtype)
    assert model(one).item() == 1 + step
    pk.merge(model)
    assert model(one).item() == 1 + step


def test_a_sum_drops_inputs_of_each_adapter_by_itself():
    """Dropout 0.5 on one adapter and none on the other: only the first's part changes from call to
    call.
    """
    model = nn.Sequential(make_layer("Linear", 3, 5, dtype=torch.float64))
    for name, dropout in (("a", 0.5), ("b", 0.0)):
        pk.attach(model, pk.LoRA(rank=2, dropout=dropout), ["0"], name=name)
        move(model, 1)
    pk.activate(model, "a", "b")
    x = torch.eye(5, dtype=torch.float64)
    torch.manual_seed(0)
    drops = model.train()(x) - model.eval()(x)
    a = x @ pk.adapters(model, "a")["0"].delta().T
    # Rows of the identity: an input is dropped (-1) or doubled (+1)
    ratio = (drops * a).sum(1) / a.square().sum(1)
    assert torch.allclose(ratio.abs(), torch.ones(5).double())


def test_only_the_active_train(x):
    model = several()
    pk.activate(model, "code", "maths")
    model(x).square().sum().backward()
    for layer in (model[0], model[2]):
        for name, adapter in layer.adapters.items():
            for parameter in adapter.parameters():
                assert parameter.requires_grad == (name in ("code", "maths"))
                assert (parameter.grad is not None) == (name in ("code", "maths"))
        assert all(p.grad is None for p in layer.base.parameters())


def test_swapping_copies_and_writes_nothing():
    """Two layers of 4 MiB: a hundred swaps allocate no tensor, and every parameter stays where it
    was, bit for bit.
    """
    model = nn.Sequential(nn.Linear(1024, 1024), nn.Linear(1024, 1024))
    for name in ("a", "b"):
        pk.attach(model, pk.PERA(rank=4), "all-linear", name=name)
    where = {key: (p.data_ptr(), p._version) for key, p in model.named_parameters()}
    made = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            made.append(function)
            return function(*args, **(kwargs or {}))

    tracemalloc.start()
    with Watch():
        for _ in range(50):
            pk.activate(model, "a")
            pk.activate(model, "b")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert made == []
    assert peak < 2**18
    assert {key: (p.data_ptr(), p._version) for key, p in model.named_parameters()} == where


def test_swapping_there_and_back_is_bitwise(x):
    model = several()
    before = {}
    for name in TASKS:
        pk.activate(model, name)
        before[name] = model(x)
    for name in reversed(TASKS):
        pk.activate(model, name)
        assert torch.equal(model(x), before[name])


def test_state_dict_pickle_and_copy_keep_every_adapter(x):
    model = several()
    pk.activate(model, "code", "prose")
    twin = copy.deepcopy(model)
    assert pk.active(twin) == ("code", "prose")
    assert torch.equal(twin(x), model(x))
    other = several()
    pk.activate(other, "code", "prose")
    move_all(other)
    assert not torch.equal(other(x), model(x))
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(x), model(x))


def move_all(model):
    with torch.no_grad():
        for layer in (model[0], model[2]):
            for parameter in layer.adapters.parameters():
                parameter.mul_(1.5)


# --- merging --------------------------------------------------------------------------------------


def test_a_partial_merge_drops_nothing(x):
    """Merging with one of several active, and back, leaves all of them as they were; the others can
    be merged next.
    """
    model = several()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    outputs = {}
    for name in TASKS:
        pk.activate(model, name)
        outputs[name] = model(x)
    for name in TASKS:
        pk.activate(model, name)
        pk.merge(model)
        torch.testing.assert_close(model(x), outputs[name], rtol=1e-12, atol=1e-13)
        pk.unmerge(model)
        assert torch.equal(model(x), outputs[name])
    assert names(model) == tuple(TASKS)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_merged_while_disabled_and_disabled_while_merged(x):
    model, base = several(), bare()(x)
    pk.activate(model, "code", "prose")
    expected = model(x)
    with pk.disabled(model):
        pk.merge(model)
        assert torch.equal(model(x), base)
    torch.testing.assert_close(model(x), expected, rtol=1e-12, atol=1e-13)
    with pk.disabled(model):
        pk.unmerge(model)
        assert torch.equal(model(x), base)
        pk.activate(model, "maths")
        assert torch.equal(model(x), base)
    assert torch.equal(model(x), alone("maths")(x))


def test_a_merged_sum_cannot_be_swapped_under_the_users_feet(x):
    model = several()
    pk.activate(model, "code")
    pk.merge(model)
    before = model(x)
    message = "layer '0' is merged with code, which would go on answering: pk.unmerge(model) first"
    for change in (
        lambda: pk.activate(model, "prose"),
        lambda: pk.activate(model, "code", "prose"),
        lambda: pk.delete(model, "code"),
        lambda: pk.attach(model, pk.LoRA(rank=1), ["2"], name="fourth"),
    ):
        with pytest.raises(pk.PerakitError) as error:
            change()
        assert str(error.value) == message
        assert torch.equal(model(x), before)
        assert (names(model), pk.active(model)) == (tuple(TASKS), ("code",))
    pk.activate(model, "code")  # what is in effect already
    pk.delete(model, "prose")  # no part of what is merged
    assert torch.equal(model(x), before)


def test_bake_refuses_to_lose_an_adapter(x):
    model = several()
    pk.activate(model, "code", "maths")
    expected = model(x)
    with pytest.raises(
        pk.PerakitError,
        match=r"adapter 'prose' is not active and would be lost: pk.delete\(model, 'prose'\)",
    ):
        pk.bake(model)
    pk.delete(model, "prose")
    pk.bake(model)
    assert not any(isinstance(module, AdaptedLayer) for module in model.modules())
    torch.testing.assert_close(model(x), expected, rtol=1e-12, atol=1e-13)


# --- deleting -------------------------------------------------------------------------------------


def test_delete(x):
    model, base = several(), bare()
    pk.activate(model, "code", "prose")
    pk.delete(model, "code")
    assert (names(model), pk.active(model)) == (("prose", "maths"), ("prose",))
    assert torch.equal(model(x), alone("prose")(x))
    pk.delete(model, "prose")
    assert (names(model), pk.active(model)) == (("maths",), ())
    assert type(model[0]) is nn.Linear  # nothing is on it any more
    assert torch.equal(model(x), base(x))
    with pytest.raises(
        pk.PerakitError,
        match=r"none of the adapters maths is active: pk.activate\(model, 'maths'\) first",
    ):
        pk.merge(model)
    pk.activate(model, "maths")
    assert torch.equal(model(x), alone("maths")(x))
    pk.delete(model, "maths")
    assert list(model.state_dict()) == list(base.state_dict())
    assert all(p.requires_grad for p in model.parameters())
    assert torch.equal(model(x), base(x))


# --- saving ---------------------------------------------------------------------------------------


def test_each_is_saved_and_loaded_by_itself(tmp_path, x):
    model = several()
    for name in TASKS:
        pk.save(model, tmp_path / name, name=name)
    fresh = bare()
    for name in TASKS:
        pk.load(fresh, tmp_path / name, name=name)
        assert pk.active(fresh) == (name,)
    for wanted in [("code",), ("prose", "maths"), tuple(TASKS)]:
        pk.activate(model, *wanted)
        pk.activate(fresh, *wanted)
        assert torch.equal(fresh(x), model(x))
    pk.activate(fresh, "code")
    # Over the one that is there, which comes into effect as a new one would
    pk.load(fresh, tmp_path / "prose", name="prose")
    assert pk.active(fresh) == ("prose",)
    # And where it was in effect already, others stay so too
    pk.activate(fresh, "code", "prose")
    pk.load(fresh, tmp_path / "prose", name="prose")
    assert pk.active(fresh) == ("code", "prose")


def test_without_a_name_the_active_one_is_saved(tmp_path, x):
    model = several()
    pk.activate(model, "code")
    pk.save(model, tmp_path)
    fresh = bare()
    pk.load(fresh, tmp_path)
    assert names(fresh) == ("default",)
    assert torch.equal(fresh(x), model(x))
    pk.activate(model, "code", "prose")
    with pytest.raises(
        pk.PerakitError,
        match=(
            r"active: code \+ prose, of the adapters code, prose, maths, where one is needed:"
            r" name it"
        ),
    ):
        pk.save(model, tmp_path)


# --- where several layers, models and optimisers meet ---------------------------------------------


def test_the_order_of_a_sum_survives_what_happens_to_other_adapters(x):
    """a on one layer, b on both, c on the other: the layers alone could not tell the order."""
    model = bare()
    for name, layers in (("a", ["2"]), ("b", ["0", "2"]), ("c", ["0"])):
        move(model, 0) if pk.active(model) else None
        pk.attach(model, pk.LoRA(rank=2), layers, name=name)
    move(model, 1)
    pk.activate(model, "a", "b")
    assert pk.active(model) == ("a", "b")
    before = model(x)
    pk.merge(model)
    merged = model(x)
    pk.activate(model, *pk.active(model))  # what is in effect already
    pk.delete(model, "c")  # no part of what is merged
    assert torch.equal(model(x), merged)
    pk.unmerge(model)
    assert pk.active(model) == ("a", "b")
    assert torch.equal(model(x), before)


def test_bake_of_a_part_with_another_adapter_loses_nothing():
    model = nn.ModuleDict({"x": bare(), "y": bare()})
    pk.attach(model, pk.LoRA(rank=2), ["0", "2"], name="a")
    pk.attach(model["x"], pk.LoRA(rank=2), ["0"], name="b")  # "a" is now idle on x alone
    state = copy.deepcopy(model.state_dict())
    with pytest.raises(pk.PerakitError, match="adapter 'a' is not active and would be lost"):
        pk.bake(model)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_two_adapters_on_different_layers_are_not_one(tmp_path):
    model = bare()
    pk.attach(model, pk.LoRA(rank=2), ["0"], name="a")
    pk.attach(model, pk.PERA(rank=2), ["2"], name="b")
    pk.activate(model, "a", "b")
    for use in (pk.adapters, lambda model: pk.save(model, tmp_path / "adapter")):
        with pytest.raises(
            pk.PerakitError, match=r"active: a \+ b, of the adapters a, b, where one is needed"
        ):
            use(model)
    assert not (tmp_path / "adapter").exists()


@pytest.mark.parametrize("to_none", [True, False])
def test_a_frozen_adapter_keeps_its_numbers_under_a_shared_optimiser(to_none, x):
    model = several()
    pk.activate(model, "code", "prose")
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model(x).square().sum().backward()
    optimizer.step()
    pk.activate(model, "prose")
    kept = {key: p.detach().clone() for key, p in model.named_parameters() if ".code." in key}
    for _ in range(2):
        optimizer.zero_grad(set_to_none=to_none)
        model(x).square().sum().backward()
        optimizer.step()
    assert all(torch.equal(p, kept[key]) for key, p in model.named_parameters() if ".code." in key)


def test_a_second_adapter_freezes_a_base_that_was_thawed():
    model = bare().requires_grad_(False)
    pk.attach(model, pk.LoRA(rank=2), ["0"], name="a")
    model.requires_grad_(True)
    pk.attach(model, pk.LoRA(rank=2), ["0"], name="b")
    assert {key for key, p in model.named_parameters() if p.requires_grad} == {
        "0.adapters.b.A",
        "0.adapters.b.B",
    }


@pytest.mark.parametrize(
    "wrap",
    [functools.partial(torch.compile, backend="eager"), nn.DataParallel],
    ids=["compile", "DataParallel"],
)
def test_a_wrapped_model_has_the_names_of_the_model(wrap, tmp_path, x):
    """Else what it saves and exports would fit no other model, and PEFT would load it as
    nothing.
    """
    model = several()
    pk.activate(model, "code")
    wrapped = wrap(model)
    assert list(pk.adapters(wrapped)) == ["0", "2"]
    pk.save(wrapped, tmp_path / "saved")
    pk.export_peft(wrapped, tmp_path / "exported")
    for use, folder in ((pk.load, "saved"), (pk.import_peft, "exported")):
        for fresh in (bare(), wrap(bare())):
            use(fresh, tmp_path / folder)
            inner = getattr(fresh, "_orig_mod", getattr(fresh, "module", fresh))
            torch.testing.assert_close(inner(x), model(x), rtol=1e-12, atol=1e-13)
    pk.attach(wrapped, pk.LoRA(rank=1), ["0"], name="fourth")
    assert "fourth" in names(model)
    pk.detach(wrapped)
    assert list(model.state_dict()) == list(bare().state_dict())
    assert all(p.requires_grad for p in model.parameters())
    bound = wrap(bare())
    pk.attach(bound, pk.LoRA(rank=1), "all-linear")
    pk.detach(bound)
    assert all(p.requires_grad for p in bound.parameters())


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (
            (),
            (
                "no adapter is named: pass one name or more, or use pk.disabled(model) for the base"
                " alone"
            ),
        ),
        (("latin",), "no adapter is called 'latin': the model has 'code', 'prose', 'maths'"),
        (
            ("code", "code"),
            "names=('code', 'code') holds a name twice: an adapter is in the sum once",
        ),
        ((3,), "no adapter is called 3: the model has 'code', 'prose', 'maths'"),
    ],
)
def test_names_that_cannot_be_activated(wanted, message, x):
    model = several()
    before = model(x)
    with pytest.raises(pk.PerakitError) as error:
        pk.activate(model, *wanted)
    assert str(error.value) == message
    assert torch.equal(model(x), before)


def test_a_bare_model_has_nothing_to_activate_or_delete():
    for change in (lambda: pk.activate(bare(), "a"), lambda: pk.delete(bare(), "a")):
        with pytest.raises(pk.PerakitError, match="no adapter is called 'a': the model has none"):
            change()
    assert pk.active(bare()) == ()


@pytest.mark.parametrize("name", ["", "a.b", "a b", "keys", "x" * 101, None, 3, "training"])
def test_names_that_an_adapter_cannot_have(name):
    model = bare()
    with pytest.raises(pk.PerakitError) as error:
        pk.attach(model, pk.LoRA(rank=1), ["0"], name=name)
    said = (
        f"name={name!r} cannot name an adapter: use letters, digits, '_' and '-', and no name of a"
        " dict's methods"
    )
    assert str(error.value) == said
    assert list(model.state_dict()) == list(bare().state_dict())


def test_a_name_that_is_taken():
    model = several()
    with pytest.raises(
        pk.PerakitError,
        match=r"layer '0' has an adapter already: .*name=\.\.\. \(taken: code, prose\)",
    ):
        pk.attach(model, pk.LoRA(rank=1), ["0"], name="code")


@pytest.mark.thorough  # dynamo takes seconds to import
def test_a_compiled_model_takes_any_number_of_adapters_under_one_name(tmp_path, x):
    """As the FAQ says: in place of an adapter each, which torch gives up at the ninth."""
    from torch._dynamo.testing import CompileCounter

    for k in range(10):
        model = bare()
        pk.attach(model, pk.LoRA(rank=2), ["0", "2"])
        with torch.no_grad():
            model[0].adapter.B.fill_(k)
        pk.save(model, tmp_path / str(k))
    model = bare().eval()
    counter = CompileCounter()
    compiled = torch.compile(model, fullgraph=True, backend=counter)
    for k in range(10):
        pk.load(model, tmp_path / str(k), name="task")
        torch.testing.assert_close(compiled(x), model(x))
    assert counter.frame_count == 1
