"""What a method refuses, how it starts, how it is written down, and that a new one needs no change
in the library.
"""

import dataclasses
import json
import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given
from torch import nn

import perakit as pk
from perakit import strategies, testing
from perakit.adapters import PERA, DeLoRA, DoRA, HiRA, LoHa, LoRA, MoRA, Quadratic
from perakit.laws.cases import weight

ALL = (LoRA, PERA, DoRA, HiRA, MoRA, DeLoRA, LoHa, Quadratic)
every = pytest.mark.parametrize("method", ALL, ids=lambda cls: cls.name)
with_two_factors = pytest.mark.parametrize(
    "method", [LoRA, PERA, DoRA, HiRA, DeLoRA], ids=lambda cls: cls.name
)
ALPHA = "must be a finite number > 0 or None, which means alpha = rank"
SHARE = "must be a number in [0, 1): the share of inputs to drop"


# --- what is refused ------------------------------------------------------------------------------


@every
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 0}, "rank=0 must be an integer >= 1"),
        ({"rank": -1}, "rank=-1 must be an integer >= 1"),
        ({"rank": 4.0}, "rank=4.0 must be an integer >= 1"),
        ({"rank": True}, "rank=True must be an integer >= 1"),
        ({"rank": "8"}, "rank='8' must be an integer >= 1"),
        ({"rank": None}, "rank=None must be an integer >= 1"),
        ({"alpha": 0}, f"alpha=0 {ALPHA}"),
        ({"alpha": -2.0}, f"alpha=-2.0 {ALPHA}"),
        ({"alpha": math.nan}, f"alpha=nan {ALPHA}"),
        ({"alpha": math.inf}, f"alpha=inf {ALPHA}"),
        ({"alpha": "16"}, f"alpha='16' {ALPHA}"),
        ({"alpha": True}, f"alpha=True {ALPHA}"),
        ({"scaling": "rsLoRA"}, "scaling='rsLoRA' is unknown: choose from 'standard', 'rslora'"),
        ({"scaling": None}, "scaling=None is unknown: choose from 'standard', 'rslora'"),
        ({"init": "gaussian"}, "init='gaussian' is unknown: choose from 'zero_B', 'zero_A'"),
        ({"dropout": 1}, f"dropout=1 {SHARE}"),
        ({"dropout": -0.1}, f"dropout=-0.1 {SHARE}"),
        ({"dropout": math.nan}, f"dropout=nan {SHARE}"),
        ({"dropout": "0.1"}, f"dropout='0.1' {SHARE}"),
        ({"dropout": False}, f"dropout=False {SHARE}"),
    ],
)
def test_bad_arguments_of_any_method(method, options, message):
    with pytest.raises(pk.PerakitError) as error:
        method(**{"rank": 2, **options})
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"terms": "diag"}, "terms='diag' is unknown: choose from 'full', 'square', 'cross'"),
        ({"terms": None}, "terms=None is unknown: choose from 'full', 'square', 'cross'"),
        ({"degree": 1}, "degree=1 must be an integer >= 2"),
        ({"degree": 2.0}, "degree=2.0 must be an integer >= 2"),
        ({"degree": True}, "degree=True must be an integer >= 2"),
        (
            {"feature_scale": 0},
            "feature_scale=0 must be a finite number > 0 (for no polynomial part, use LoRA)",
        ),
        (
            {"feature_scale": math.nan},
            "feature_scale=nan must be a finite number > 0 (for no polynomial part, use LoRA)",
        ),
        (
            {"feature_scale": "n"},
            "feature_scale='n' must be a finite number > 0 (for no polynomial part, use LoRA)",
        ),
    ],
)
def test_bad_arguments_of_pera(options, message):
    with pytest.raises(pk.PerakitError) as error:
        pk.PERA(rank=2, **options)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: DeLoRA(rank=2, lam=0),
            "lam=0 must be a finite number > 0 at which the strength λ starts",
        ),
        (
            lambda: DeLoRA(rank=2, lam=math.nan),
            "lam=nan must be a finite number > 0 at which the strength λ starts",
        ),
        (
            lambda: DeLoRA(rank=2, lam="15"),
            "lam='15' must be a finite number > 0 at which the strength λ starts",
        ),
        (
            lambda: MoRA(rank=2, init="zero_A"),
            "init='zero_A' does not apply to MoRA: its one matrix M starts at zero; leave init out",
        ),
        (
            lambda: Quadratic(rank=2, init="zero_A"),
            (
                "init='zero_A' does not apply to Quadratic: with U = 0 both gradients are zero and"
                " nothing would ever train; leave init out"
            ),
        ),
    ],
)
def test_bad_arguments_of_one_method(make, message):
    with pytest.raises(pk.PerakitError) as error:
        make()
    assert str(error.value) == message


@given(strategies.methods())
def test_frozen_and_hashable(method):
    with pytest.raises(dataclasses.FrozenInstanceError):
        method.rank = 3
    assert hash(method) == hash(dataclasses.replace(method))


# --- the start ------------------------------------------------------------------------------------


@with_two_factors
@pytest.mark.parametrize(("init", "zero", "random"), [("zero_B", "B", "A"), ("zero_A", "A", "B")])
@pytest.mark.parametrize("kind", strategies.LAYERS)
def test_one_factor_starts_at_zero_the_other_is_random(method, init, zero, random, kind):
    layer = strategies.make_layer(kind, 300, 200)
    model = testing.adapted(method(rank=7, init=init), layer, start=True)
    testing.law_1_no_op_at_init(method(rank=7, init=init), layer)
    adapter = pk.adapters(model)["0"]
    assert not getattr(adapter, zero).any()
    assert getattr(adapter, random).all()  # no entry is zero
    # variance 1/(3n) for A, uniform in ±1/√n, and 1/(3m) for the Gaussian B
    fan = {"A": 200, "B": 300}[random]
    assert getattr(adapter, random).std().item() == pytest.approx((3 * fan) ** -0.5, rel=0.05)
    if random == "A":
        assert getattr(adapter, random).abs().max().item() <= 200**-0.5
    if method is pk.PERA:
        assert adapter.h.shape == (28,)
        assert not adapter.h.any()


@pytest.mark.parametrize("kind", strategies.LAYERS)
@pytest.mark.parametrize("dtype", strategies.DTYPES, ids=str)
def test_doras_magnitude_starts_as_the_row_lengths(kind, dtype):
    """Of the weight, whose rows are outputs in either storage, rounded once to the magnitude's
    dtype.
    """
    layer = strategies.make_layer(kind, 300, 200, dtype=dtype)
    adapter = pk.adapters(testing.adapted(DoRA(rank=2), layer, start=True))["0"]
    lengths = [math.sqrt(math.fsum(w * w for w in row)) for row in weight(layer).tolist()]
    # float64 adds 200 squares with an error of at most 200 units, which the root halves; float32 is
    # rounded once, after that
    eps = torch.finfo(adapter.magnitude.dtype).eps * (100 if dtype == torch.float64 else 1)
    assert adapter.magnitude.dtype == torch.promote_types(dtype, torch.float32)
    np.testing.assert_allclose(adapter.magnitude.detach().double().numpy(), lengths, rtol=eps)
    testing.law_1_no_op_at_init(DoRA(rank=2), layer)


def test_a_row_of_zeros_is_no_trouble_to_dora():
    """Its length is floored, so start and training stay finite; and merging leaves the row what it
    was.
    """
    layer = strategies.make_layer("Linear", 5, 3)
    layer.weight.data[1] = 0
    model = testing.adapted(DoRA(rank=2), layer, start=True)
    x = torch.ones(4, 3)
    assert torch.equal(model(x), layer(x))
    model(x).square().sum().backward()
    assert all(
        parameter.grad.isfinite().all() for parameter in pk.adapters(model)["0"].parameters()
    )
    pk.merge(model)
    assert torch.equal(model[0].merged, layer.weight)


def test_the_gradient_of_dora_is_the_chain_rules_but_for_the_part_along_the_row():
    """c G here; c (G - (G·v) v) for the function itself: the difference is what the docstring says
    is left in.
    """
    layer = strategies.make_layer("Linear", 5, 3, dtype=torch.float64)
    model = testing.adapted(DoRA(rank=2, alpha=3), layer, seed=3)
    adapter, W0 = pk.adapters(model)["0"], model[0].W0
    G = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    B, A, g = (
        adapter.get_parameter(name).detach().requires_grad_() for name in ("B", "A", "magnitude")
    )
    V = W0 + 1.5 * (B @ A)
    full = torch.autograd.grad(((g / V.norm(dim=1))[:, None] * V * G).sum(), (B, A, g))
    held = torch.autograd.grad(
        (adapter.delta(W0) * G).sum(), (adapter.B, adapter.A, adapter.magnitude)
    )
    v = (V / V.norm(dim=1, keepdim=True)).detach()
    c = (g / V.norm(dim=1)).detach()[:, None]
    along = c * (G * v).sum(1, keepdim=True) * v  # what is left in, by row of V
    torch.testing.assert_close(
        held[0] - full[0], 1.5 * along @ A.detach().T, rtol=1e-10, atol=1e-12
    )
    torch.testing.assert_close(
        held[1] - full[1], 1.5 * B.detach().T @ along, rtol=1e-10, atol=1e-12
    )
    torch.testing.assert_close(held[2], full[2], rtol=1e-10, atol=1e-12)
    assert (held[0] - full[0]).abs().max() > 1e-3


def test_mora_starts_at_zero_and_trains_only_what_it_reads():
    # r̂ = 4 at r = 2: rows 2 and 3 of M are beyond the layer
    layer = strategies.make_layer("Linear", 2, 7)
    model = testing.adapted(MoRA(rank=2), layer, start=True)
    adapter = pk.adapters(model)["0"]
    assert adapter.M.shape == (4, 4)
    assert not adapter.M.any()
    model(torch.ones(1, 7)).sum().backward()
    # 7 = 4 + 3 inputs a row
    assert adapter.M.grad.tolist() == [[2, 2, 2, 1], [2, 2, 2, 1], [0, 0, 0, 0], [0, 0, 0, 0]]


@pytest.mark.parametrize(("init", "zero"), [("zero_B", "B2"), ("zero_A", "A2")])
def test_one_factor_of_loha_starts_at_zero(init, zero):
    layer = strategies.make_layer("Linear", 300, 200)
    adapter = pk.adapters(testing.adapted(LoHa(rank=7, init=init), layer, start=True))["0"]
    for name, fan in (("A1", 200), ("B1", 7), ("A2", 200), ("B2", 7)):
        factor = adapter.get_parameter(name)
        if name == zero:
            assert not factor.any()
        else:
            assert factor.std().item() == pytest.approx((3 * fan) ** -0.5, rel=0.05)
            assert factor.abs().max().item() <= fan**-0.5


@pytest.mark.parametrize("lam", [15.0, 2.0])
def test_deloras_strength_starts_where_it_is_told(lam):
    layer = strategies.make_layer("Linear", 5, 3)
    adapter = pk.adapters(testing.adapted(DeLoRA(rank=2, lam=lam), layer, start=True))["0"]
    assert adapter.lam.tolist() == [lam]
    assert DeLoRA(rank=2).lam == 15.0


def test_delora_reads_the_weight_as_it_is_now():
    """Column lengths are no stale copy: a base that was replaced after attach counts."""
    layer = strategies.make_layer("Linear", 5, 3, dtype=torch.float64)
    model = testing.adapted(DeLoRA(rank=2), layer, seed=1)
    before = pk.delta_weights(model)["0"]
    model[0].base.weight.data *= 2
    torch.testing.assert_close(pk.delta_weights(model)["0"], 2 * before, rtol=1e-12, atol=0)


def test_the_contrast_starts_with_its_output_matrix_at_zero():
    adapter = pk.adapters(
        testing.adapted(Quadratic(rank=3), strategies.make_layer("Linear", 5, 7), start=True)
    )["0"]
    assert adapter.U.shape == (3, 7)
    assert adapter.U.all()
    assert adapter.P.shape == (5, 3)
    assert not adapter.P.any()


REASON = (
    r"^Quadratic's update is polynomial in the input, not a matrix: there is no ΔW to merge, export"
    r" or read; "
    r"keep it attached, or use pk\.PERA, which is polynomial in its parameters and merges$"
)


@pytest.mark.parametrize(
    "call",
    [
        pk.merge,
        pk.bake,
        pk.delta_weights,
        lambda model: model[0].weight,
        lambda model: model[0].exact_delta(),
        lambda model: pk.adapters(model)["0"].product(model[0].W0),
        lambda model: pk.adapters(model)["0"].method.update(model[0].W0, U=None, P=None),
        lambda model: pk.theory.measured_rank(5, 3, Quadratic(2)),
    ],
)
def test_what_needs_a_matrix_is_refused_by_the_contrast(call):
    model = testing.adapted(Quadratic(rank=2), strategies.make_layer("Linear", 5, 3))
    with pytest.raises(pk.PerakitError, match=REASON):
        call(model)


def test_the_contrast_squares_its_input():
    """Twice x, four times the update; one merged matrix could not do that."""
    model = testing.adapted(
        Quadratic(rank=2), strategies.make_layer("Linear", 5, 3, dtype=torch.float64)
    )
    adapter, W0, x = pk.adapters(model)["0"], model[0].W0, torch.randn(4, 3, dtype=torch.float64)
    assert torch.equal(adapter(2 * x, W0), 4 * adapter(x, W0))


@pytest.mark.parametrize(
    ("m", "n", "rank", "span"), [(5, 3, 2, 2), (5, 1, 4, 1), (9, 2, 8, 3), (2, 7, 4, 2)]
)
def test_the_span_of_the_contrast(m, n, rank, span):
    assert Quadratic(rank=rank).rank_bound(m, n) == span
    testing.law_11_rank(Quadratic(rank=rank), strategies.make_layer("Linear", m, n))


@pytest.mark.parametrize("kind", strategies.LAYERS)
def test_adapters_of_different_methods_add_up(kind):
    """Each as if it were alone on W0, the contrast among them; every sum from the left."""
    layer, x = (
        strategies.make_layer(kind, 5, 3, dtype=torch.float64),
        torch.randn(4, 3, dtype=torch.float64),
    )
    model = nn.Sequential(layer)
    base = model(x)
    updates = []
    for cls in ALL:
        pk.attach(model, cls(rank=2), ["0"], name=cls.name)
        strategies.move(model, seed=len(updates))
        updates.append(model(x) - base)
    pk.activate(model, *(cls.name for cls in ALL))
    torch.testing.assert_close(model(x) - base, sum(updates), rtol=1e-12, atol=1e-12)


def test_two_layers_start_from_different_draws():
    model = nn.Sequential(nn.Linear(3, 5), nn.Linear(3, 5))
    pk.attach(model, pk.PERA(rank=2), "all-linear")
    first, second = pk.adapters(model).values()
    assert not torch.equal(first.A, second.A)


def test_the_first_step_of_pera_is_loras():
    """At B = 0, h = 0 the gradient by h vanishes and the others are LoRA's (mathematics.md, section
    3).
    """
    layer, x = (
        strategies.make_layer("Linear", 5, 3, dtype=torch.float64),
        torch.randn(4, 3, dtype=torch.float64),
    )
    gradients = {}
    for method in (pk.LoRA(rank=2), pk.PERA(rank=2)):
        model = testing.adapted(method, layer, seed=4, start=True)  # the same seed: the same A
        model(x).square().sum().backward()
        gradients[method.name] = pk.adapters(model)["0"]
    lora, pera = gradients["lora"], gradients["pera"]
    assert torch.equal(lora.A, pera.A)
    assert torch.allclose(lora.B.grad, pera.B.grad, rtol=1e-12)
    assert lora.B.grad.any()
    assert not pera.A.grad.any()
    assert not pera.h.grad.any()


# --- on paper -------------------------------------------------------------------------------------


@given(strategies.methods())
def test_to_dict_and_back(method):
    written = json.loads(json.dumps(method.to_dict()))
    assert written["method"] == method.name
    assert pk.Method.from_dict(written) == method


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"method": "lorra", "rank": 2}, r"^unknown method 'lorra': known here are .*lora.*pera"),
        ({"rank": 2}, r"^unknown method None: known here are "),
        ({"method": ["lora"], "rank": 2}, r"^unknown method \['lora'\]: known here are "),
        (None, r"^unknown method None: known here are "),
        (
            {"method": "lora", "rank": 2, "terms": "full"},
            r"^method 'lora' has no option terms: it takes rank, alpha, scaling, dropout, init$",
        ),
        (
            {"method": "lora"},
            r"^method 'lora' needs a rank: it takes rank, alpha, scaling, dropout, init$",
        ),
        ({"method": "pera", "rank": 0}, r"^rank=0 must be an integer >= 1$"),
    ],
)
def test_from_dict_refuses_what_it_does_not_know(config, message):
    with pytest.raises(pk.PerakitError, match=message):
        pk.Method.from_dict(config)


def test_from_dict_leaves_its_argument_alone():
    config = {"method": "lora", "rank": 2}
    pk.Method.from_dict(config)
    assert config == {"method": "lora", "rank": 2}


def test_a_method_needs_a_name_of_its_own(monkeypatch):
    monkeypatch.setattr(pk.Method, "registry", dict(pk.Method.registry))
    before = dict(pk.Method.registry)
    with pytest.raises(
        pk.PerakitError,
        match=r"Nameless needs a name of its own, a string, not None: files find the method by it$",
    ):

        class Nameless(pk.LoRA):
            pass

    with pytest.raises(
        pk.PerakitError,
        match=(
            r"Impostor needs a name of its own, a string, not 'pera': files find the method by it$"
        ),
    ):

        class Impostor(pk.LoRA):
            name = "pera"

    assert pk.Method.registry == before


def test_a_method_may_be_defined_again_where_it_was(monkeypatch):
    """A notebook cell is run twice, a module is reloaded: no error, and the new class counts."""
    monkeypatch.setattr(pk.Method, "registry", dict(pk.Method.registry))

    def cell():
        class Mine(pk.LoRA):
            name = "mine-in-a-cell"

        return Mine

    first, second = cell(), cell()
    assert pk.Method.registry["mine-in-a-cell"] is second is not first


# --- methods of one's own: nothing in the library knows them --------------------------------------


class MultipliedAdapter(pk.Adapter):
    """Not additive: ΔW = s W0 ∘ (B A)."""

    def reset(self, W0):
        nn.init.normal_(self.A)

    def delta(self, W0):
        # W0 may be bfloat16: what it meets first must be float32
        return self.method.scale * (W0 * (self.B @ self.A))


@dataclass(frozen=True)
class Multiplied(pk.Method):
    name = "test-multiplied"
    adapter = MultipliedAdapter

    def rank_bound(self, m, n):
        return min(m, n)


class DiagonalAdapter(pk.Adapter):
    """Additive, with parameters of its own names and an option of its own: ΔW = s·gain Σ d_k b_k
    a_kᵀ.
    """

    def reset(self, W0):
        nn.init.normal_(self.A)
        nn.init.normal_(self.B)
        nn.init.zeros_(self.d)

    def product(self, W0):
        return self.method.scale * self.method.gain * self.B * self.d, self.A

    def delta(self, W0):
        B_hat, A_hat = self.product(W0)
        return B_hat @ A_hat


@dataclass(frozen=True)
class Diagonal(pk.Method):
    name = "test-diagonal"
    adapter = DiagonalAdapter
    gain: float = 1.0

    def shapes(self, m, n):
        return super().shapes(m, n) | {"d": (self.rank,)}


# Other files do not see them
OWN = {cls.name: pk.Method.registry.pop(cls.name) for cls in (Multiplied, Diagonal)}


def multiplied(method, parameters, W0):
    return (
        method.scale
        * W0
        * sum(parameters["B"][:, k, None] * parameters["A"][None, k] for k in range(method.rank))
    )


def diagonal(method, parameters, W0):
    outer = (
        parameters["d"][k] * parameters["B"][:, k, None] * parameters["A"][None, k]
        for k in range(method.rank)
    )
    return method.scale * method.gain * sum(outer)


@pytest.fixture
def registered(monkeypatch):
    for name, cls in OWN.items():
        monkeypatch.setitem(pk.Method.registry, name, cls)


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize(
    ("method", "formula"),
    [
        (Multiplied(rank=2, alpha=3), multiplied),
        (Diagonal(rank=2, alpha=4, gain=0.5, dropout=0.1), diagonal),
    ],
    ids=["not additive", "additive"],
)
def test_a_method_of_ones_own_obeys_every_law(method, formula):
    testing.assert_adapter_laws(method, formula, compiled=False)
    # Without an oracle: against its own delta
    testing.law_3_dense_forward(method, strategies.make_layer("Linear", 3, 7))


@pytest.mark.usefixtures("registered")
def test_a_method_of_ones_own_saves_and_loads(tmp_path):
    layer = strategies.make_layer("Conv1D", 5, 3)
    model, x = testing.adapted(Diagonal(rank=2, gain=0.5), layer, seed=1), torch.randn(4, 3)
    pk.save(model, tmp_path)
    bare = nn.Sequential(strategies.make_layer("Conv1D", 5, 3))
    report = pk.load(bare, tmp_path)
    assert pk.adapters(bare)["0"].method == Diagonal(rank=2, gain=0.5)
    assert report.trainable == 2 * (5 + 3) + 2
    assert torch.equal(bare(x), model(x))


def test_a_file_of_a_method_that_is_not_there_is_refused(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setitem(pk.Method.registry, Diagonal.name, Diagonal)
        pk.save(testing.adapted(Diagonal(rank=2), strategies.make_layer("Linear", 5, 3)), tmp_path)
    with pytest.raises(pk.PerakitError, match=r"^unknown method 'test-diagonal': known here are "):
        pk.load(nn.Sequential(nn.Linear(3, 5)), tmp_path)


@given(strategies.methods(), strategies.shapes())
def test_shapes_are_the_parameters(method, shape):
    m, n, _ = shape
    adapter = method.adapter(method, torch.zeros(m, n))
    assert {name: tuple(p.shape) for name, p in adapter.named_parameters()} == method.shapes(m, n)
    # Without ΔW: of the outputs
    assert 1 <= method.rank_bound(m, n) <= (min(m, n) if method.mergeable else m)


def test_numpy_numbers_are_accepted_and_can_be_saved(tmp_path):
    """`for rank in np.array([2, 4])` is how sweeps are written."""
    method = pk.PERA(rank=np.int64(2), alpha=np.float64(4.0), feature_scale=np.float32(2.0))
    model = testing.adapted(method, strategies.make_layer("Linear", 5, 3))
    pk.save(model, tmp_path)
    bare = nn.Sequential(strategies.make_layer("Linear", 5, 3)).eval()
    pk.load(bare, tmp_path)
    assert torch.equal(bare(torch.ones(1, 3)), model(torch.ones(1, 3)))


def test_options_by_position_come_in_the_documented_order():
    assert pk.LoRA(4, 8, "rslora", 0.1, "zero_A") == pk.LoRA(
        rank=4, alpha=8, scaling="rslora", dropout=0.1, init="zero_A"
    )
    assert pk.PERA(4, 8, "square", 3, 2.0) == pk.PERA(
        rank=4, alpha=8, terms="square", degree=3, feature_scale=2.0
    )
