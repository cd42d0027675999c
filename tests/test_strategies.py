"""The strategies: every bound holds, every interesting case is reached, and each shrinks to what
its docstring says.
"""

import math
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st
from hypothesis.errors import NoSuchExample

import perakit as pk
from perakit import formulas, strategies
from perakit.adapters.base import INITS, SCALINGS
from perakit.models.adapted import adapted_layers
from perakit.models.layers import kind_of
from perakit.models.quantize import NF4Layer
from perakit.theory import Formula, exact_rank, measured_rank
from perakit.toy.gpt2 import GPT2, Conv1D

SEARCH = settings(
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=2000,
    suppress_health_check=list(HealthCheck),
)
OPTIONS = [(terms, degree) for terms in formulas.TERMS for degree in (2, 3)]


def reached(strategy, condition):
    """An example of `strategy` where `condition` holds; fails if there is none. Not shrunk, which
    takes most of the time.
    """
    return find(strategy, condition, settings=settings(SEARCH, phases=[Phase.generate]))


def smallest(strategy, condition=lambda _: True):
    """What a user would be shown of a test that fails where `condition` holds."""
    return find(strategy, condition, settings=SEARCH)


def never_reached(strategy, condition):
    """Sought as hard as what is reached: 2000 examples, in which Hypothesis favours the ends of
    every range.
    """
    with pytest.raises(NoSuchExample):
        reached(strategy, condition)


# --- bounds ---------------------------------------------------------------------------------------


@given(strategies.seeds())
def test_seeds_are_those_of_torch(seed):
    assert 0 <= seed < 2**16
    torch.Generator().manual_seed(seed)


@given(st.data(), st.integers(1, 9))
def test_shapes_cannot_lie(data, most):
    m, n, r = data.draw(strategies.shapes(most))
    assert {m, n} <= {1, 2, 3, 5, 7, 11}
    assert m != n or m == 1
    assert 1 <= r <= most


@pytest.mark.parametrize(("terms", "degree"), OPTIONS)
@pytest.mark.parametrize("integers", [False, True])
@given(data=st.data())
def test_factors_fit_the_formula_and_their_bounds(terms, degree, integers, data):
    B, A, h = data.draw(strategies.factors(terms=terms, degree=degree, integers=integers))
    rank = B.shape[1]
    assert h.shape == (formulas.rank_bound(rank, terms, degree) - rank,)
    assert formulas.pera(B, A, h, terms, degree).shape == (B.shape[0], A.shape[1])
    for entries in (B, A, h):
        assert entries.dtype == (np.int64 if integers else np.float64)
        assert np.abs(entries).max(initial=0) <= (3 if integers else 10)
        assert not (np.abs(entries[entries != 0]) < np.finfo(float).tiny).any()


@given(st.data(), st.integers(1, 4), st.sampled_from(OPTIONS), st.booleans())
def test_coefficients_are_the_h_of_factors(data, rank, options, integers):
    h = data.draw(strategies.coefficients(rank, *options, integers=integers))
    formulas.expand(np.ones((2, rank)), np.ones((rank, 3)), h, *options)
    assert h.dtype == (np.int64 if integers else np.float64)


@pytest.mark.parametrize("kind", strategies.TARGETS)
@given(data=st.data(), integers=st.booleans())
def test_targets_are_what_their_kind_says(kind, data, integers):
    shape = data.draw(strategies.shapes())
    integers = integers and kind != "power law"
    E = data.draw(strategies.targets(kind, shape=st.just(shape), integers=integers))
    m, n, r = shape
    k = min(m, n)
    assert E.shape == (m, n)
    assert E.dtype == (np.int64 if integers else np.float64)
    if kind == "power law":
        values = np.linalg.svd(E, compute_uv=False)
        powers = [np.arange(1, k + 1) ** -p for p in (0.5, 1.0, 2.0)]
        assert any(np.allclose(values, expected, rtol=1e-9) for expected in powers)
        return
    assert (np.rint(E) == E).all()
    assert np.abs(E).max() < 2**53
    if kind == "zeros":
        assert not E.any()
    elif kind == "identity":
        assert np.array_equal(E, E[0, 0] * np.eye(m, n))
        assert abs(E[0, 0]) in (1, 2, 3)
    elif kind == "low rank":
        assert exact_rank(E) <= min(k, r)
    elif kind == "full rank":
        assert exact_rank(E) == k


@given(strategies.targets("pera", shape=strategies.shapes(1), integers=True))
def test_a_pera_target_is_the_rule_of_rank_one_products(E):
    """At rank 1 every entry is u + h u² + h' u³ with |u| <= 9 and |h| <= 3; beyond LoRA's 9 the
    products were there.
    """
    assert np.abs(E).max() <= 9 + 3 * 9**2 + 3 * 9**3


@given(st.data(), st.sampled_from(sorted(pk.Method.registry)), st.integers(1, 5))
def test_methods_keep_to_their_arguments(data, name, most):
    method = data.draw(strategies.methods(name, max_rank=most, dropout=(0.25,)))
    assert type(method) is pk.Method.registry[name]
    assert 1 <= method.rank <= most
    assert method.dropout == 0.25
    assert method.alpha in (None, 1, 0.5, 8.0)
    assert method.scaling in SCALINGS
    assert method.init in INITS
    assert math.frexp(getattr(method, "feature_scale", 1.0))[0] == 0.5  # a power of two


@given(st.data())
def test_rules_are_families_that_the_probes_take(data):
    rule = data.draw(strategies.rules())
    m, n = data.draw(st.sampled_from([(5, 3), (3, 7), (2, 5)]))
    assert 1 <= measured_rank(m, n, rule) <= rule.rank_bound(m, n)


@given(strategies.layers())
def test_layers_are_of_the_kinds_and_dtypes_and_finite(layer):
    assert isinstance(layer, torch.nn.Linear | NF4Layer | Conv1D)
    W0 = kind_of(layer).weight(layer)
    assert W0.dtype in strategies.DTYPES
    y = layer(torch.ones(2, W0.shape[1], dtype=W0.dtype))
    assert y.shape == (2, W0.shape[0])
    assert torch.isfinite(y).all()


@pytest.mark.parametrize("kind", strategies.LAYERS)
def test_a_layer_is_the_same_on_every_call_and_another_with_another_seed(kind):
    before = torch.random.get_rng_state()
    first, again, other = (
        strategies.make_layer(kind, 5, 3, seed=seed).state_dict() for seed in (1, 1, 2)
    )
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


@settings(max_examples=30)
@given(st.data(), st.sampled_from(strategies.MODELS), st.booleans())
def test_models_run_on_their_input(data, kind, adapt):
    before = torch.random.get_rng_state()
    model, x = data.draw(strategies.models(kind, method=strategies.methods() if adapt else None))
    assert torch.equal(before, torch.random.get_rng_state())
    assert not model.training
    with torch.no_grad():
        y = model(x)
    assert torch.isfinite(y).all()
    assert y.shape[: x.dim() - (kind == "mlp")] == x.shape[: x.dim() - (kind == "mlp")]
    assert bool(adapted_layers(model)) == adapt
    if adapt:
        with pk.disabled(model), torch.no_grad():
            assert not torch.equal(model(x), y)
    elif kind == "mlp":
        widths = [layer.in_features for layer in model[::2]] + [model[-1].out_features]
        assert set(widths) <= {2, 3, 5, 7, 11}
        assert all(a != b for a, b in pairwise(widths))
    else:
        assert model.config.n_embd // model.config.n_head in (3, 5)


def test_a_model_is_the_same_whenever_it_is_drawn_again():
    """Hypothesis runs an example again to shrink it: the same choices give the same numbers."""
    kept = []

    @settings(max_examples=10, database=None, derandomize=True)
    @given(strategies.models(method=strategies.methods("pera")))
    def draw(drawn):
        kept.append([*drawn[0].state_dict().values(), drawn[1], drawn[0](drawn[1])])

    draw()
    half = len(kept)
    draw()
    for first, again in zip(kept[:half], kept[half:], strict=True):
        assert all(map(torch.equal, first, again))


@given(strategies.seeds(), st.sampled_from([0.01, 0.3, 2.0]))
def test_move_leaves_no_parameter_near_its_start(seed, size):
    model = torch.nn.Sequential(strategies.make_layer("Linear", 5, 3))
    pk.attach(model, pk.PERA(rank=2), ["0"])
    assert strategies.move(model, seed, size) is model
    for parameter in pk.adapters(model)["0"].parameters():
        assert ((parameter.abs() >= 0.49 * size) & (parameter.abs() <= 1.51 * size)).all()


# --- every case is reached ------------------------------------------------------------------------

SHAPE_CASES = {
    "m = n = 1": lambda m, n, r: m == n == 1,
    "m < r": lambda m, n, r: m < r,
    "r > min(m, n)": lambda m, n, r: r > min(m, n) > 1,
    "one row": lambda m, n, r: m == 1 < n,
    "one column": lambda m, n, r: n == 1 < m,
    "tall": lambda m, n, r: m > n > 1,
    "wide": lambda m, n, r: n > m > 1,
    "largest": lambda m, n, r: (m, n, r) == (11, 7, 4),
}
FACTOR_CASES = {
    "h = 0 at an update": lambda B, A, h: not h.any() and (B @ A).any(),
    "h != 0": lambda B, A, h: h.any(),
    "no coefficient": lambda B, A, h: h.size == 0,
    "a negative entry in each": lambda B, A, h: (B < 0).any() and (A < 0).any() and (h < 0).any(),
    "B = 0": lambda B, A, h: not B.any() and A.any(),
    "two columns of B are equal": (
        lambda B, A, h: B.shape[1] > 1 and len(np.unique(B, axis=1).T) < B.shape[1] and B.any()
    ),
}
FLOAT_CASES = {
    "the bound": lambda B, A, h: max(np.abs(x).max(initial=0) for x in (B, A, h)) == 10,
    "no whole number": lambda B, A, h: (np.rint(B) != B).any(),
    "-0.0": lambda B, A, h: (np.signbit(B) & (B == 0)).any(),
    "tiny": lambda B, A, h: (np.abs(B[B != 0]) < 1e-6).any(),
}
WHOLE_CASES = {
    "the bound": lambda B, A, h: max(np.abs(x).max(initial=0) for x in (B, A, h)) == 3,
    "K not reached": (
        lambda B, A, h: (
            exact_rank(formulas.pera(B, A, h)) < min(len(B), A.shape[1])
            and formulas.pera(B, A, h).any()
        )
    ),
    "the rank of no LoRA": lambda B, A, h: exact_rank(formulas.pera(B, A, h)) > B.shape[1],
}


@pytest.mark.parametrize("case", SHAPE_CASES)
def test_shapes_reach(case):
    reached(strategies.shapes(), lambda drawn: SHAPE_CASES[case](*drawn))


@pytest.mark.thorough  # some thousand draws
def test_ends_are_reached_and_not_passed():
    reached(strategies.seeds(), lambda seed: seed == 2**16 - 1)
    never_reached(strategies.seeds(), lambda seed: not 0 <= seed < 2**16)
    assert all(m != n or m == 1 for m, n in strategies.SHAPES)
    assert {size for shape in strategies.SHAPES for size in shape} == {1, 2, 3, 5, 7, 11}
    never_reached(
        strategies.targets("low rank", shape=strategies.shapes(1)), lambda E: exact_rank(E) > 1
    )


@pytest.mark.parametrize("case", FACTOR_CASES)
@pytest.mark.parametrize("integers", [False, True])
def test_factors_reach(case, integers):
    terms = "cross" if case == "no coefficient" else "full"
    reached(
        strategies.factors(terms=terms, integers=integers), lambda drawn: FACTOR_CASES[case](*drawn)
    )


@pytest.mark.parametrize("case", FLOAT_CASES)
def test_float_factors_reach(case):
    reached(strategies.factors(), lambda drawn: FLOAT_CASES[case](*drawn))


@pytest.mark.parametrize("case", WHOLE_CASES)
def test_whole_factors_reach(case):
    reached(strategies.factors(integers=True), lambda drawn: WHOLE_CASES[case](*drawn))


@pytest.mark.parametrize("kind", strategies.TARGETS)
def test_targets_reach_every_kind_and_both_sides(kind):
    for wide in (True, False):
        reached(
            strategies.targets(kind),
            lambda E, wide=wide: E.shape[0] != E.shape[1] and wide == (E.shape[0] < E.shape[1]),
        )


TARGET_CASES = {
    "zeros": lambda E: not E.any() and E.size > 1,
    "the identity": lambda E: E.shape == (2, 3) and np.array_equal(E, np.eye(2, 3)),
    "minus three times the identity": (
        lambda E: E.size > 1 and np.array_equal(E, -3 * np.eye(*E.shape))
    ),
    "rank-deficient and not zero": lambda E: 0 < exact_rank(E) < min(E.shape),
    "full rank and not diagonal": (
        lambda E: exact_rank(E) == min(E.shape) > 1 and np.count_nonzero(E) > min(E.shape)
    ),
    "not whole": lambda E: any(Fraction(float(x)).denominator > 1 for x in E.ravel()),
    "whole": lambda E: E.any() and (np.rint(E) == E).all(),
}


@pytest.mark.parametrize("case", TARGET_CASES)
def test_targets_reach(case):
    reached(strategies.targets(), TARGET_CASES[case])


def test_integer_targets_are_never_of_a_power_law():
    with pytest.raises(pk.PerakitError, match="has no whole entries"):
        strategies.targets("power law", integers=True)


@pytest.mark.parametrize("name", sorted(pk.Method.registry))
def test_methods_reach_every_method_and_option(name):
    reached(strategies.methods(), lambda method: method.name == name)
    drawn = strategies.methods(name)
    reached(drawn, lambda method: method.rank == 4 and method.alpha == 8.0)
    reached(drawn, lambda method: method.alpha is None and method.dropout == 0.5)
    reached(drawn, lambda method: method.scaling == "rslora")


@pytest.mark.parametrize(("terms", "degree"), OPTIONS)
def test_methods_and_rules_reach_every_pera(terms, degree):
    for scale in (1.0, 0.5, 8.0):
        reached(
            strategies.methods("pera"),
            lambda method, scale=scale: (
                (method.terms, method.degree, method.feature_scale) == (terms, degree, scale)
            ),
        )
    bound = formulas.rank_bound(2, terms, degree)
    reached(
        strategies.rules("pera"),
        lambda rule: (
            rule.rule.keywords == {"terms": terms, "degree": degree} and rule.bound(99, 99) == bound
        ),
    )


def test_rules_reach_every_method_that_is_a_matrix():
    for name, cls in pk.Method.registry.items():
        if cls.mergeable and name not in ("lora", "pera"):
            reached(strategies.rules(), lambda rule, cls=cls: type(rule) is cls and rule.rank == 2)
    reached(
        strategies.rules(), lambda rule: isinstance(rule, Formula) and rule.rule is formulas.lora
    )
    with pytest.raises(pk.PerakitError, match="rule 'quadratic' is unknown"):
        smallest(strategies.rules("quadratic"))


@pytest.mark.parametrize("dtype", strategies.DTYPES)
@pytest.mark.parametrize("kind", strategies.LAYERS)
@pytest.mark.parametrize("bias", [True, False])
def test_layers_reach_every_kind_and_dtype(kind, dtype, bias):
    cls = {"Linear": torch.nn.Linear, "Conv1D": Conv1D, "NF4": NF4Layer}[kind]
    if kind != "Conv1D" or bias:  # a Conv1D always has one
        reached(
            strategies.layers(),
            lambda layer: (
                type(layer) is cls
                and (layer.bias is not None) == bias
                and kind_of(layer).weight(layer).dtype == dtype
            ),
        )


MODEL_CASES = {
    "three layers": lambda model: isinstance(model, torch.nn.Sequential) and len(model) == 5,
    "an MLP with bias": (
        lambda model: isinstance(model, torch.nn.Sequential) and model[0].bias is not None
    ),
    "two blocks of two heads": (
        lambda model: (
            isinstance(model, GPT2) and (model.config.n_layer, model.config.n_head) == (2, 2)
        )
    ),
    "float64": lambda model: next(model.parameters()).dtype == torch.float64,
}


@pytest.mark.parametrize("case", MODEL_CASES)
def test_models_reach(case):
    reached(strategies.models(), lambda drawn: MODEL_CASES[case](drawn[0]))


# --- shrinking ------------------------------------------------------------------------------------


def test_shapes_and_seeds_shrink():
    assert smallest(strategies.seeds()) == 0
    assert smallest(strategies.shapes()) == (1, 1, 1)
    assert smallest(strategies.shapes(), lambda drawn: drawn[0] * drawn[1] > 20) == (3, 7, 1)
    assert smallest(strategies.shapes(), lambda drawn: drawn[2] > 2) == (1, 1, 3)


@pytest.mark.parametrize("integers", [False, True])
def test_factors_shrink_to_zeros(integers):
    B, A, h = smallest(strategies.factors(integers=integers))
    assert [x.tolist() for x in (B, A, h)] == [[[0]], [[0]], [0]]
    assert smallest(strategies.coefficients(2, integers=integers)).tolist() == [0, 0, 0]
    assert smallest(strategies.coefficients(1, "cross")).shape == (0,)


@pytest.mark.parametrize("name", sorted(pk.Method.registry))
def test_a_method_shrinks_to_rank_one_and_its_defaults(name):
    assert smallest(strategies.methods(name)) == pk.Method.registry[name](rank=1)


def test_rules_shrink_to_the_full_terms_of_degree_two():
    rule = smallest(strategies.rules("pera"))
    assert rule.shapes(5, 7) == {"B": (5, 1), "A": (1, 7), "h": (1,)}
    assert rule.rule.keywords == {"terms": "full", "degree": 2}
    assert smallest(strategies.rules("hira")) == pk.HiRA(rank=1)


@pytest.mark.parametrize(
    ("kind", "entry"), list(zip(strategies.TARGETS, (0, 1, 0, 1, 0, 1), strict=True))
)
def test_targets_shrink(kind, entry):
    assert smallest(strategies.targets(kind)).tolist() == [[entry]]
    assert smallest(strategies.targets()).tolist() == [[0]]


def test_a_full_rank_target_shrinks_to_ones_on_a_diagonal():
    E = smallest(strategies.targets("full rank", integers=True), lambda E: min(E.shape) == 3)
    assert np.array_equal(E, np.eye(*E.shape))


def test_layers_shrink_to_one_weight():
    layer = smallest(strategies.layers())
    assert (layer.weight.shape, layer.bias, layer.weight.dtype) == ((1, 1), None, torch.float32)
    assert (
        type(smallest(strategies.layers(kinds=("Conv1D", "Linear"), dtypes=(torch.bfloat16,))))
        is Conv1D
    )


def test_models_shrink():
    model, x = smallest(strategies.models())
    assert [
        (type(layer), layer.in_features, layer.out_features, layer.bias) for layer in model
    ] == [(torch.nn.Linear, 2, 3, None)]
    assert (x.shape, x.dtype) == ((3, 2), torch.float32)
    model, ids = smallest(strategies.models("gpt2"))
    assert (model.config.n_layer, model.config.n_head, model.config.n_embd) == (1, 1, 3)
    assert ids.shape == (2, 5)


def test_a_failing_example_says_how_a_rule_was_made(capsys):
    @settings(database=None, derandomize=True, report_multiple_bugs=False)
    @given(strategies.rules("pera"))
    def fails(rule):
        raise AssertionError("always")

    with pytest.raises(AssertionError, match="always") as error:
        fails()
    notes = "\n".join(getattr(error.value, "__notes__", []))
    assert "terms='full', degree=2" in notes


# --- arguments ------------------------------------------------------------------------------------

BAD = [
    (lambda: strategies.shapes(0), r"^max_rank=0 must be an integer >= 1$"),
    (lambda: strategies.shapes(2.0), r"^max_rank=2\.0 must be an integer >= 1$"),
    (lambda: strategies.shapes(True), r"^max_rank=True must be an integer >= 1$"),
    (lambda: strategies.coefficients(0), r"^rank=0 must be an integer >= 1$"),
    (
        lambda: strategies.coefficients(2, "half"),
        r"^terms='half' is unknown: choose from 'full', 'square', 'cross'$",
    ),
    (lambda: strategies.coefficients(2, degree=1), r"^degree=1 must be an integer >= 2$"),
    (lambda: strategies.coefficients(2, integers=1), r"^integers=1 must be True or False$"),
    (lambda: strategies.factors(terms="half"), r"^terms='half' is unknown: choose from"),
    (lambda: strategies.factors(degree=1), r"^degree=1 must be an integer >= 2$"),
    (lambda: strategies.factors(integers="yes"), r"^integers='yes' must be True or False$"),
    (
        lambda: strategies.factors((3, 5, 2)),
        (
            r"^shape=\(3, 5, 2\) is no strategy: pass strategies\.shapes\(\), or st\.just\(\(3, 5,"
            r" 2\)\) for"
        ),
    ),
    (
        lambda: strategies.targets("gaussian"),
        r"^kind 'gaussian' is unknown: choose from 'full rank', 'identity', ",
    ),
    (lambda: strategies.targets(shape=(3, 5, 2)), r"^shape=\(3, 5, 2\) is no strategy: "),
    (lambda: strategies.targets(integers=None), r"^integers=None must be True or False$"),
    (
        lambda: strategies.targets("power law", integers=True),
        r"^kinds=\('power law',\) has no whole entries: leave integers=True out$",
    ),
    (lambda: strategies.methods(max_rank=0), r"^max_rank=0 must be an integer >= 1$"),
    (
        lambda: strategies.methods(dropout=0.5),
        r"^dropout=0\.5 must be a sequence of values to draw from: pass \(0\.0,\) for none$",
    ),
    (lambda: strategies.methods(dropout=()), r"^dropout=\(\) must be a sequence"),
    (
        lambda: smallest(strategies.methods("adalora")),
        r"^method 'adalora' is unknown: choose from 'delora', 'dora', ",
    ),
    (
        lambda: smallest(strategies.methods(pk.PERA)),
        r"^method <class 'perakit\.adapters\.pera\.PERA'> is unknown: choose from ",
    ),
    (lambda: strategies.rules(max_rank=-1), r"^max_rank=-1 must be an integer >= 1$"),
    (lambda: smallest(strategies.rules("adalora")), r"^rule 'adalora' is unknown: choose from "),
    (
        lambda: strategies.layers("Linear"),
        r"^kinds='Linear' must be a sequence of layer kinds: pass \('Linear',\) or leave it out$",
    ),
    (lambda: strategies.layers(()), r"^kinds=\(\) must be a sequence"),
    (
        lambda: strategies.layers(("Conv2d",)),
        r"^kind='Conv2d' is unknown: choose from 'Linear', 'Conv1D', 'NF4', or pass \(m, n, bias\)",
    ),
    (
        lambda: strategies.layers(dtypes=(torch.int8,)),
        r"^dtype=torch\.int8 is no real torch dtype: choose from torch\.float32, ",
    ),
    (
        lambda: strategies.layers(dtypes=()),
        r"^dtypes=\(\) must be a sequence of dtypes: pass \(torch\.float32,\)$",
    ),
    (
        lambda: strategies.layers(dtypes=torch.float32),
        r"^dtypes=torch\.float32 must be a sequence of dtypes",
    ),
    (lambda: strategies.make_layer("Conv2d", 3, 5), r"^kind='Conv2d' is unknown: "),
    (lambda: strategies.make_layer("Linear", 0, 5), r"^m=0 must be an integer >= 1$"),
    (lambda: strategies.make_layer("Linear", 3, 5.0), r"^n=5\.0 must be an integer >= 1$"),
    (
        lambda: strategies.make_layer("Linear", 3, 5, dtype=float),
        r"^dtype=<class 'float'> is no real torch dtype",
    ),
    (lambda: strategies.models("resnet"), r"^kind 'resnet' is unknown: choose from 'gpt2', 'mlp'$"),
    (
        lambda: strategies.models(method=pk.LoRA(2)),
        r"^method=LoRA\(rank=2.* is no strategy: pass strategies\.methods\('pera'\), or st\.just\(",
    ),
    (lambda: strategies.models(dtypes=[]), r"^dtypes=\[\] must be a sequence of dtypes"),
    (lambda: strategies.move(torch.nn.Linear(3, 5)), r"^the model has no adapter: pk\.attach"),
    (
        lambda: strategies.move(torch.nn.Linear(3, 5), size=0),
        r"^size=0 must be a finite number > 0$",
    ),
]


@pytest.mark.parametrize(("call", "message"), BAD, ids=[message[1:30] for _, message in BAD])
def test_bad_arguments_are_refused_with_the_remedy(call, message):
    with pytest.raises(pk.PerakitError, match=message):
        call()
