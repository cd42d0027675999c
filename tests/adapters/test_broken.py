"""Methods of one's own that are wrong, and the law and message that says so; and correct ones that
are unlike most, which pass.

None has an oracle or a name that the laws know. What is broken inside perakit is in
tests/test_mutations.py.
"""

from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings

import perakit as pk
from perakit import fast, formulas, laws, strategies, testing
from perakit.adapters import Additive, DeLoRA, DoRA, HiRA, Quadratic
from perakit.adapters.base import start_factors
from perakit.adapters.dora import DoRAAdapter
from perakit.laws.training import is_excused, only_a_sign

quick = fast.forward
BEFORE = set(pk.Method.registry)


class PlainAdapter(Additive):
    def factors(self):
        return self.method.scale * self.B, self.A


class Plain(pk.Method):
    """LoRA under another name: what the broken ones differ from."""

    name = "test-plain"
    adapter = PlainAdapter

    def update(self, W0, **factors):
        return self.scale * formulas.lora(**factors)


# --- wrong ----------------------------------------------------------------------------------------


class UnscaledPatternAdapter(pk.Adapter):
    def reset(self, W0):
        start_factors(self.method, self.B, self.A)


class UnscaledPattern(HiRA):
    """Not additive, and layer and `update` forget the scale alike."""

    name = "test-unscaled-pattern"
    adapter = UnscaledPatternAdapter

    def update(self, W0, **factors):
        return formulas.hira(W0, **factors)


class UnscaledReading(Plain):
    name = "test-unscaled-reading"

    def update(self, W0, **factors):
        return formulas.lora(**factors)


class CachingAdapter(PlainAdapter):
    """Keeps what it computed without gradients, for ever."""

    kept = None

    def factors(self):
        if self.training or torch.is_grad_enabled():
            return super().factors()
        if self.kept is None:
            self.kept = super().factors()
        return self.kept


class Caching(Plain):
    name = "test-caching"
    adapter = CachingAdapter


class CachingDeltaAdapter(UnscaledPatternAdapter):
    """Keeps ΔW itself: a copy that is asked for a second opinion has kept it too."""

    kept = None

    def delta(self, W0):
        fresh = self.method.scale * (W0 * (self.B @ self.A))
        if self.training or torch.is_grad_enabled():
            return fresh
        self.kept = fresh if self.kept is None else self.kept
        return self.kept.to(W0.dtype)


class CachingDelta(HiRA):
    name = "test-caching-delta"
    adapter = CachingDeltaAdapter


class SevenfoldAdapter(PlainAdapter):
    def forward(self, x, W0):
        return 7 * super().forward(x, W0)


class Sevenfold(Plain):
    name = "test-sevenfold"
    adapter = SevenfoldAdapter


class Miscounted(Plain):
    name = "test-miscounted"

    def count(self, m, n):
        return 1


class Loose(HiRA):
    """Not additive, of rank r, with a bound that no factors attain."""

    name = "test-loose"

    def update(self, W0, **factors):
        return self.scale * formulas.lora(**factors)


def refuse(*_, **__):
    raise pk.PerakitError("this update is not linear in the input: keep it attached")


class BottleneckAdapter(pk.Adapter):
    """s B σ(A x)."""

    def sigma(self, z):
        return z

    def forward(self, x, W0):
        x = F.dropout(x, self.method.dropout, self.training).to(self.A.dtype)
        return self.method.scale * F.linear(self.sigma(F.linear(x, self.A)), self.B)

    def reset(self, W0):
        start_factors(self.method, self.B, self.A)

    delta = product = refuse


class Bottleneck(pk.Method):
    """A LoRA that calls itself no matrix: half the laws would not apply."""

    name = "test-bottleneck"
    adapter = BottleneckAdapter
    mergeable = False

    def rank_bound(self, m, n):
        return min(m, self.rank)


BROKEN = [
    (
        UnscaledPattern,
        testing.law_3_scale,
        r"^law 3, ΔW is proportional to method\.scale .*or is proportional = False meant",
    ),
    (UnscaledReading, testing.law_10_readings, r"^law 10, NumPy reading at a float point: "),
    (
        Caching,
        testing.law_3_dense_forward,
        r"^law 3, the output after the parameters have changed \(is something cached\?\): ",
    ),
    (
        CachingDelta,
        testing.law_3_dense_forward,
        r"^law 3, the output after the parameters have changed \(is something cached\?\): ",
    ),
    (
        Sevenfold,
        testing.law_3_dense_forward,
        r"^law 3, forward = dense formula: error ",
    ),
    (
        Miscounted,
        testing.law_8_gradients,
        r"^law 8: count\(5, 3\) is 1, and the adapter has 16 parameters$",
    ),
    (
        Loose,
        testing.law_11_rank,
        r"^law 11: rank 2 in ten draws, generic factors should attain rank_bound, 3$",
    ),
    (
        Bottleneck,
        testing.law_3_dense_forward,
        (
            r"^law 3: mergeable = False, but the update is linear in the input: give delta\(W0\),"
            r" and merge$"
        ),
    ),
]


# --- right ----------------------------------------------------------------------------------------


class RectifiedAdapter(BottleneckAdapter):
    """Twice the input gives twice the update, and it is no matrix all the same."""

    def sigma(self, z):
        return z.relu()


class Rectified(Bottleneck):
    name = "test-rectified"
    adapter = RectifiedAdapter


class OwnDoRA(pk.Method):
    """DoRA with nothing inherited but the adapter: its three class attributes are what the laws go
    by.
    """

    name = "test-dora"
    adapter = DoRAAdapter
    proportional = exact_gradient = exact_in_float64 = False
    rank_bound, update = DoRA.rank_bound, DoRA.update

    def shapes(self, m, n):
        return super().shapes(m, n) | {"magnitude": (m,)}


class OwnDeLoRA(DeLoRA):
    name = "test-delora"


class OwnMoRA(pk.MoRA):
    name = "test-mora"


class OwnQuadratic(Quadratic):
    name = "test-quadratic"


RIGHT = (Plain, Rectified, OwnDoRA, OwnDeLoRA, OwnMoRA, OwnQuadratic)
# Other files do not see them
OWN = {name: pk.Method.registry.pop(name) for name in set(pk.Method.registry) - BEFORE}


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    for name, cls in OWN.items():
        monkeypatch.setitem(pk.Method.registry, name, cls)


@pytest.mark.parametrize(
    ("cls", "law", "message"), BROKEN, ids=lambda value: getattr(value, "name", None)
)
def test_a_broken_method_is_refused_by_the_law_that_it_breaks(cls, law, message):
    with pytest.raises(AssertionError, match=message):
        law(cls(rank=2), strategies.make_layer("Linear", 5, 3, dtype=torch.float64))
    with pytest.raises(
        AssertionError,
        match=rf"^{law.__name__} on a 5 x 3 Linear, torch\.float32: AssertionError: {message[1:]}",
    ):
        testing.assert_adapter_laws(cls(rank=2), compiled=False)


@pytest.mark.parametrize(
    "cls",
    [*RIGHT[:2], *(pytest.param(cls, marks=pytest.mark.thorough) for cls in RIGHT[2:])],
    ids=lambda cls: cls.name,
)
def test_a_correct_method_under_a_name_that_no_law_knows_passes(cls):
    testing.assert_adapter_laws(
        cls(rank=2), testing.rows_dora if cls is OwnDoRA else None, compiled=False
    )


@pytest.mark.parametrize("attribute", ["proportional", "exact_gradient", "exact_in_float64"])
def test_each_class_attribute_of_dora_is_needed(attribute, monkeypatch):
    """Without one of the three a law refuses DoRA, by a formula that divides by the exact length:
    none is there for nothing.
    """
    monkeypatch.setattr(OwnDoRA, attribute, True)
    law = {
        "proportional": "law_3_scale",
        "exact_gradient": "law_9_dense_gradients",
        "exact_in_float64": "law_4_merge",
    }[attribute]
    with pytest.raises(AssertionError, match=rf"^{law} on a "):
        testing.assert_adapter_laws(OwnDoRA(rank=2), testing.rows_dora, compiled=False)


def test_a_method_that_is_drawn_takes_the_options_of_the_one_it_derives_from():
    """MoRA refuses another init than the first; so does what derives from it."""

    @settings(max_examples=20)
    @given(strategies.methods("test-mora"))
    def draw(method):
        assert method.init == "zero_B"

    draw()


def test_a_zero_gradient_is_excused_on_a_single_row_only(monkeypatch):
    """There DeLoRA reads signs; a parameter that is never read, or read without a gradient, is
    refused there too.
    """
    row, layer = (strategies.make_layer("Linear", m, 3) for m in (1, 5))
    testing.law_8_gradients(OwnDeLoRA(rank=2), row)
    assert only_a_sign(OwnDeLoRA(rank=2), row, "B", 0)
    assert not only_a_sign(OwnDeLoRA(rank=2), row, "lam", 0)
    assert is_excused(OwnDeLoRA(rank=2), row, "B", 0)
    assert not is_excused(OwnDeLoRA(rank=2), layer, "B", 0)
    # The two terms cancel
    unlucky = strategies.make_layer("Linear", 1, 1, dtype=torch.float16, seed=45804)
    testing.law_8_gradients(DeLoRA(rank=2, alpha=1, lam=1.0), unlucky, 45804)
    for rest in (lambda A: A.detach(), torch.ones_like):
        monkeypatch.setattr(
            PlainAdapter,
            "factors",
            lambda self, rest=rest: (self.method.scale * self.B, rest(self.A) + 0 * self.A),
        )
        with pytest.raises(
            AssertionError, match=r"^law 8: the gradient of adapter parameter A is zero$"
        ):
            testing.law_8_gradients(Plain(rank=2), row)


class NoFloorAdapter(DoRAAdapter):
    def length(self, W0):
        return (
            (W0 + self.method.scale * self.B @ self.A)
            .detach()
            .double()
            .norm(dim=1)
            .to(self.precision)
            .to(W0.dtype)
        )


def needs_a_bias(x, W0, bias, *rest):
    return quick(x, W0, 1 * bias, *rest)


class NeedsRowsAdapter(PlainAdapter):
    def factors(self):
        return self.method.scale * self.B, self.A / (len(self.B) - 1)


@pytest.mark.parametrize(
    ("cls", "adapter", "where"),
    [
        (
            OwnDoRA,
            NoFloorAdapter,
            (
                r"a 5 x 3 Linear with a row and a column of zeros, torch\.float64: AssertionError:"
                r" law 1, no-op at init"
            ),
        ),
        (None, needs_a_bias, r"a 5 x 3 Linear without bias, torch\.float64: TypeError: "),
        (
            Plain,
            NeedsRowsAdapter,
            r"a 1 x 3 Linear, torch\.float64: AssertionError: law 1, no-op at init",
        ),
    ],
    ids=["zeros", "bias", "one row"],
)
def test_layers_at_the_edge_are_among_those_of_all_laws(cls, adapter, where, monkeypatch):
    if cls is None:  # no adapter sees the bias: the layer's own forward pass is broken
        cls = Plain
        monkeypatch.setattr(fast, "forward", adapter)
    else:
        monkeypatch.setattr(cls, "adapter", adapter)
    monkeypatch.setattr(laws, "LAWS", (testing.law_1_no_op_at_init,))
    with pytest.raises(AssertionError, match=f"^law_1_no_op_at_init on {where}"):
        testing.assert_adapter_laws(cls(rank=2))


def test_a_class_inside_a_function_is_told_where_to_go():
    @dataclass(frozen=True)
    class Inside(Plain):
        name = "test-inside"

    try:
        with pytest.raises(AssertionError) as error:
            testing.law_12_copies(Inside(rank=2), strategies.make_layer("Linear", 5, 3))
    finally:
        del pk.Method.registry["test-inside"]
    assert str(error.value).startswith("law 12: Can't pickle ")
    assert str(error.value).endswith("so define the class at module level, not inside a function")
