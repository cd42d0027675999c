"""The twelve laws of an adapter: each a property of every registered method x layer kind x dtype.

The checks themselves are `perakit.testing`, whose tolerances come from the dtype (`TOLERANCE`);
tests/test_mutations.py shows that each of them can fail.
"""

import copy
import importlib.util
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

import perakit as pk
from perakit import formulas, strategies, testing
from perakit.theory.exact import exact_rank

KINDS = {name: name for name in strategies.LAYERS}
if importlib.util.find_spec("transformers"):
    from transformers.pytorch_utils import Conv1D

    KINDS["transformers.Conv1D"] = lambda m, n, bias: Conv1D(m, n)

every_cell = pytest.mark.parametrize(
    "dtype", strategies.DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch.")
)
every_kind = pytest.mark.parametrize("kind", KINDS)
every_method = pytest.mark.parametrize("name", sorted(pk.Method.registry))


def each(share):
    """Every cell of the grid is visited; within it Hypothesis draws `share` of the profile's
    examples, fewer the more methods there are.

    Three at least: the first is always the simplest there is, rank 1 on a 1 x 1 layer, where almost
    any rule is right.
    """

    def decorate(test):
        examples = max(3, round(settings().max_examples * share * 4 / len(pk.Method.registry)))
        return every_method(
            every_kind(every_cell(settings(max_examples=examples)(given(data=st.data())(test))))
        )

    return decorate


def case(data, name, kind, dtype, **options):
    """A method, a layer and a seed: what a law takes."""
    method = data.draw(strategies.methods(name, **options), "method")
    return (
        method,
        data.draw(strategies.layers([KINDS[kind]], [dtype]), "layer"),
        data.draw(strategies.seeds(), "seed"),
    )


@each(0.2)
def test_law_1_no_op_at_init(name, kind, dtype, data):
    testing.law_1_no_op_at_init(*case(data, name, kind, dtype))


@each(0.2)
def test_law_2_differs(name, kind, dtype, data):
    testing.law_2_differs(*case(data, name, kind, dtype))


@each(0.3)
def test_law_3_dense_forward(name, kind, dtype, data):
    testing.law_3_dense_forward(*case(data, name, kind, dtype))


@each(0.3)
def test_law_3_scale(name, kind, dtype, data):
    testing.law_3_scale(*case(data, name, kind, dtype))


@each(0.3)
def test_law_4_merge(name, kind, dtype, data):
    testing.law_4_merge(*case(data, name, kind, dtype))


@each(0.2)
def test_law_5_restore(name, kind, dtype, data):
    testing.law_5_restore(*case(data, name, kind, dtype))


@each(0.1)
def test_law_6_idempotent(name, kind, dtype, data):
    testing.law_6_idempotent(*case(data, name, kind, dtype))


@each(0.1)
def test_law_7_save_load(name, kind, dtype, data):
    testing.law_7_save_load(*case(data, name, kind, dtype))


@each(0.1)
def test_law_8_gradients(name, kind, dtype, data):
    testing.law_8_gradients(*case(data, name, kind, dtype, dropout=(0.0,)))


@each(0.1)
def test_law_9_dense_gradients(name, kind, dtype, data):
    testing.law_9_dense_gradients(*case(data, name, kind, dtype, max_rank=2))


@each(0.1)
def test_law_10_readings(name, kind, dtype, data):
    testing.law_10_readings(*case(data, name, kind, dtype, max_rank=3))


@each(0.2)
def test_law_11_rank(name, kind, dtype, data):
    testing.law_11_rank(*case(data, name, kind, dtype))


@each(0.1)
def test_law_12_copies(name, kind, dtype, data):
    testing.law_12_copies(*case(data, name, kind, dtype))


@each(0.1)
def test_law_12_dtypes(name, kind, dtype, data):
    testing.law_12_dtypes(*case(data, name, kind, dtype))


@each(0.1)
def test_law_12_state_dict(name, kind, dtype, data):
    testing.law_12_state_dict(*case(data, name, kind, dtype))


@each(0.1)
def test_law_12_tied(name, kind, dtype, data):
    testing.law_12_tied(*case(data, name, kind, dtype))


@every_method
@every_kind
@pytest.mark.parametrize(
    "dtype",
    [torch.float32, pytest.param(torch.bfloat16, marks=pytest.mark.thorough)],
    ids=["float32", "bfloat16"],
)
@settings(max_examples=2)  # a compilation takes a quarter of a second
@given(data=st.data())
def test_law_12_compile(name, kind, dtype, data):
    testing.law_12_compile(*case(data, name, kind, dtype))


@each(0.1)
def test_dropout_is_for_the_update_alone(name, kind, dtype, data):
    testing.law_dropout(*case(data, name, kind, dtype))


@each(0.05)
def test_law_sum(name, kind, dtype, data):
    testing.law_sum(*case(data, name, kind, dtype))


@every_method
@settings(max_examples=10)
@given(data=st.data())
def test_a_method_counts_as_its_rule_says(name, data):
    """The number beside the rule in `formulas`, the method's own, and the parameters that are
    there.
    """
    method, (m, n, _) = data.draw(strategies.methods(name)), data.draw(strategies.shapes())
    options = {"terms": method.terms, "degree": method.degree} if name == "pera" else {}
    said = formulas.parameter_count(m, n, method.rank, name, **options)
    assert method.count(m, n) == said
    assert sum(p.numel() for p in method.adapter(method, torch.zeros(m, n)).parameters()) == said


def test_the_grid_reaches_what_it_claims():
    """Strategies that never draw the hard case prove nothing: reachability, not only truth."""
    wanted = {
        "rank above min(m, n)": lambda method, m, n: method.rank > min(m, n),
        "K above min(m, n)": (
            lambda method, m, n: method.rank_bound(m, n) == min(m, n) > method.rank
        ),
        "degree 3": lambda method, m, n: method.degree == 3,
        "an empty h": lambda method, m, n: method.shapes(m, n)["h"] == (0,),
        "a scale that is not 1": lambda method, m, n: method.scale not in (0, 1),
        "size one": lambda method, m, n: 1 in (m, n),
        "wide": lambda method, m, n: m < n,
    }
    seen = set()

    @settings(max_examples=200)
    @given(strategies.methods("pera"), strategies.shapes(), strategies.methods())
    def draw(method, shape, any_method):
        seen.update(name for name, condition in wanted.items() if condition(method, *shape[:2]))
        seen.add(any_method.name)

    draw()
    assert seen == set(wanted) | set(pk.Method.registry)


# --- single statements about the layer ------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "scale"),
    [
        (pk.LoRA(rank=4), 1.0),
        (pk.PERA(rank=4, alpha=8), 2.0),
        (pk.PERA(rank=4, alpha=2), 0.5),
        (pk.LoRA(rank=4, alpha=8, scaling="rslora"), 4.0),
        (pk.PERA(rank=16, scaling="rslora"), 4.0),
    ],
)
def test_scale_is_alpha_over_r_or_over_its_root(method, scale):
    assert method.scale == scale
    layer = strategies.make_layer("Linear", 5, 3, dtype=torch.float64)
    plain = type(method)(rank=method.rank)
    with_scale, without = (
        pk.delta_weights(testing.adapted(x, layer, seed=1))["0"] for x in (method, plain)
    )
    assert torch.equal(with_scale, scale * without)  # powers of two: exact


def test_feature_scale_multiplies_the_polynomial_part_only():
    layer = strategies.make_layer("Linear", 5, 3, dtype=torch.float64)
    linear = pk.delta_weights(testing.adapted(pk.LoRA(rank=2), layer, seed=1))["0"]
    one, four = (
        pk.delta_weights(testing.adapted(pk.PERA(rank=2, feature_scale=s), layer, seed=1))["0"]
        for s in (1.0, 4.0)
    )
    torch.testing.assert_close(four - linear, 4 * (one - linear), rtol=1e-12, atol=1e-14)


@every_kind
@every_cell
def test_no_op_at_init_on_a_layer_of_real_size(kind, dtype):
    """Other kernels run there than on primes; so do they for strided inputs, and, in torch itself,
    for a frozen weight: freeze both.
    """
    layer = strategies.make_layer(KINDS[kind], 64, 96, dtype=dtype).requires_grad_(False)
    model = testing.adapted(pk.PERA(rank=4), layer, start=True)
    wide = testing.inputs(layer, 0, (40, 4))
    # Conv1D takes none, adapted or not
    strided = [wide[::2], wide.transpose(0, 1)] if kind == "Linear" else []
    for x in (wide, *strided):
        assert torch.equal(model(x), layer(x))


@every_kind
def test_bias_is_added_once(kind):
    """A bias of 1e6 beside an output of order 1: twice is seen in any precision, in any mode."""
    layer = strategies.make_layer(KINDS[kind], 5, 3, dtype=torch.float64)
    layer.bias.data.fill_(1e6)
    model, x = testing.adapted(pk.PERA(rank=2), layer), torch.zeros(2, 3, dtype=torch.float64)
    bias = torch.full((2, 5), 1e6, dtype=torch.float64)
    assert torch.equal(model(x), bias)
    pk.merge(model, dequantize=True)
    assert torch.equal(model(x), bias)
    with pk.disabled(model):
        assert torch.equal(model(x), bias)


class Sizes(TorchDispatchMode):
    """Records the shape of every tensor that an operation makes."""

    def __init__(self):
        super().__init__()
        self.shapes = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        self.shapes += [
            tuple(x.shape)
            for x in (out if isinstance(out, tuple | list) else [out])
            if isinstance(x, torch.Tensor)
        ]
        return out


def test_forward_and_backward_never_build_an_n_r_r_tensor():
    """r^2 products a row are made by the released code, r(r+1)/2 are needed (mathematics.md,
    section 4).
    """
    # So that (m + n) r (r + 10) / 2 numbers, the most that are made at once, are fewer
    m, n, rank = 1, 13, 16
    model = testing.adapted(pk.PERA(rank=rank), strategies.make_layer("Linear", m, n))
    with Sizes() as sizes:
        model(torch.randn(2, n, requires_grad=True)).sum().backward()
    assert (160, n) in sizes.shapes  # A_hat, K = 152 and 8 to fill a tile: the recorder works
    assert max(np.prod(shape) for shape in sizes.shapes) < n * rank * rank


@pytest.mark.parametrize("training", [False, True])
def test_training_mode_is_inherited(training):
    model = torch.nn.Sequential(torch.nn.Linear(3, 5)).train(training)
    pk.attach(model, pk.PERA(rank=2, dropout=0.1), "all-linear")
    assert {module.training for module in model.modules()} == {training}


def test_sign_factors_do_not_attain_the_bound():
    """Entries ±1 make every square the all-ones matrix, so rank(ΔW) < K though K rank-one terms are
    added: 'generic' is needed.
    """
    method = pk.PERA(rank=4)
    model = testing.adapted(method, strategies.make_layer("Linear", 17, 19, dtype=torch.float64))
    # All 16 rows there are
    adapter, signs = (
        pk.adapters(model)["0"],
        torch.tensor(list(itertools.product([-1.0, 1.0], repeat=4))),
    )
    adapter.B.data.copy_(torch.cat([signs, signs[:1]]))
    adapter.A.data.copy_(torch.cat([signs, signs[:3]]).T)
    adapter.h.data.copy_(torch.arange(1, 11))
    rank = exact_rank(pk.delta_weights(model)["0"].numpy())
    assert method.rank_bound(17, 19) == 14
    assert rank == 4 + 6 + 1  # the columns, their products, and one square for all


def test_exact_rank_is_not_fooled_by_size():
    """Numerical rank is: diag(1, 1e-17) reads as rank 1."""
    assert exact_rank(np.diag([1.0, 1e-17])) == 2
    assert exact_rank(np.array([[1, 2, 3], [2, 4, 6]])) == 1
    assert exact_rank(np.zeros((2, 3))) == 0
    assert exact_rank(np.array([[0, 1], [1, 0]])) == 2


def test_strategies_make_the_same_layer_twice_and_leave_the_global_generator_alone():
    state = torch.get_rng_state()
    layer = strategies.make_layer("Linear", 5, 3, seed=7)
    assert torch.equal(layer.weight, strategies.make_layer("Linear", 5, 3, seed=7).weight)
    assert not torch.equal(layer.weight, strategies.make_layer("Linear", 5, 3, seed=8).weight)
    before = copy.deepcopy(layer.state_dict())
    model = testing.adapted(pk.PERA(rank=2), layer, seed=3)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(layer.weight, before["weight"])  # a law works on a copy
    assert layer.weight.requires_grad
    values = [abs(x) for p in pk.adapters(model)["0"].parameters() for x in p.flatten().tolist()]
    assert 0.149 < min(values) <= max(values) < 0.451
