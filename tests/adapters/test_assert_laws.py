"""`testing.assert_adapter_laws`, as a user calls it on an adapter of their own: what it accepts,
and what it says.

Which law sees which mistake is in test_broken.py and tests/test_mutations.py; here are the call and
its message.
"""

from dataclasses import dataclass

import pytest
import torch

import perakit as pk
from perakit import formulas, laws, testing
from perakit.adapters import Additive
from perakit.adapters.lora import LoRAAdapter

BEFORE = set(pk.Method.registry)


class WeighedAdapter(Additive):
    """ΔW = s B diag(λ) A, from docs/adding-a-method.md."""

    def factors(self):
        return self.method.scale * self.B * self.lam, self.A

    def reset(self, W0):
        torch.nn.init.normal_(self.A)
        torch.nn.init.normal_(self.B)
        torch.nn.init.zeros_(self.lam)


@dataclass(frozen=True)
class Weighed(pk.Method):
    name = "test-weighed"
    adapter = WeighedAdapter

    def shapes(self, m, n):
        return super().shapes(m, n) | {"lam": (self.rank,)}

    def update(self, W0, **factors):
        return self.scale * formulas.lora(factors["B"] * factors["lam"], factors["A"])


def weighed(method, parameters, W0):
    """The oracle: a sum of outer products."""
    B, A, lam = (parameters[name] for name in ("B", "A", "lam"))
    return method.scale * sum(lam[i] * B[:, i, None] * A[None, i] for i in range(method.rank))


class StartsAdapter(WeighedAdapter):
    """Its update is there before the first step."""

    def reset(self, W0):
        super().reset(W0)
        torch.nn.init.ones_(self.lam)


class Starts(Weighed):
    name = "test-starts"
    adapter = StartsAdapter


class UnscaledAdapter(WeighedAdapter):
    """alpha is forgotten."""

    def factors(self):
        return self.B * self.lam, self.A


class Unscaled(Weighed):
    name = "test-unscaled"
    adapter = UnscaledAdapter


class DetachedAdapter(WeighedAdapter):
    """λ never learns."""

    def factors(self):
        return self.method.scale * self.B * self.lam.detach(), self.A


class Detached(Weighed):
    name = "test-detached"
    adapter = DetachedAdapter


class BoundAdapter(WeighedAdapter):
    pass


class TooHighBound(Weighed):
    """Says that rank m is reached."""

    name = "test-too-high-bound"
    adapter = BoundAdapter

    def rank_bound(self, m, n):
        return m


class SharedAdapter(WeighedAdapter):
    pass


class One(Weighed):
    name = "test-one"
    adapter = SharedAdapter


class Other(Weighed):
    name = "test-other"
    adapter = SharedAdapter


class LastAdapter(WeighedAdapter):
    pass


class First(Weighed):
    name = "test-first"
    adapter = LastAdapter


class Last(First):
    """Derives from the other method of its adapter."""

    name = "test-last"


class NobodysAdapter(WeighedAdapter):
    pass


class Picky(Weighed):
    """Has no rank 2."""

    name = "test-picky"
    adapter = NobodysAdapter

    def __post_init__(self):
        super().__post_init__()
        if self.rank % 4:
            raise pk.PerakitError(f"rank={self.rank} must be a multiple of 4")


# Other files do not see them
OWN = {
    name: pk.Method.registry.pop(name) for name in list(pk.Method.registry) if name not in BEFORE
}


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    for name, cls in OWN.items():
        if name != "test-picky":
            monkeypatch.setitem(pk.Method.registry, name, cls)


@pytest.fixture
def asked(monkeypatch):
    """Which methods the laws are asked of, without asking."""
    seen = []
    monkeypatch.setattr(laws, "LAWS", (lambda method, layer, seed: seen.append(method),))
    return seen


def test_a_correct_adapter_passes():
    testing.assert_adapter_laws(WeighedAdapter, weighed, compiled=False)


BROKEN = [
    (Starts, "law_1_no_op_at_init", "Linear, torch.float32"),
    (Unscaled, "law_3_scale", "Linear, torch.float32"),
    (Detached, "law_8_gradients", "Linear, torch.float32"),
    (TooHighBound, "law_11_rank", "Linear, torch.float32"),
]


@pytest.mark.parametrize(("cls", "law", "where"), BROKEN, ids=[cls.name for cls, *_ in BROKEN])
def test_a_broken_one_fails_with_the_law_the_layer_and_the_dtype(cls, law, where):
    said = []
    for given in (cls(rank=2), cls, cls.adapter):
        with pytest.raises(AssertionError) as error:
            testing.assert_adapter_laws(given, compiled=False)
        said.append(str(error.value))
    assert said[0].startswith(
        f"{law} on a 5 x 3 {where}: AssertionError: {law[:5].replace('_', ' ')}"
    )
    assert said[0] == said[1] == said[2]


def test_the_oracle_is_asked_too():
    with pytest.raises(
        AssertionError,
        match=r"^law_3_dense_forward on a 5 x 3 Linear, torch\.float32: AssertionError: law 3",
    ):
        testing.assert_adapter_laws(
            Weighed, lambda *arguments: 2 * weighed(*arguments), compiled=False
        )


def test_classes_are_asked_at_rank_two(asked):
    for given in (Weighed, WeighedAdapter, Weighed(rank=3)):
        testing.assert_adapter_laws(given)
    assert set(asked) == {Weighed(rank=2), Weighed(rank=3)}


@pytest.mark.parametrize("name", sorted(BEFORE))
def test_every_method_of_perakit_is_found_by_its_adapter(name, asked):
    cls = pk.Method.registry[name]
    testing.assert_adapter_laws(cls.adapter)
    assert set(asked) == {cls(rank=2)}


def test_of_methods_that_derive_from_one_another_the_last_is_meant(asked):
    testing.assert_adapter_laws(LastAdapter)
    assert {type(method) for method in asked} == {Last}


BAD = [
    (
        "lora",
        (
            r"^method='lora' is not a method: pass one such as MyMethod\(rank=2\), or its class, or"
            r" its adapter's$"
        ),
    ),
    (None, r"^method=None is not a method: "),
    (torch.nn.Linear, r"^method=<class 'torch\.nn\.modules\.linear\.Linear'> is not a method: "),
    (
        LoRAAdapter(pk.LoRA(rank=1), torch.zeros(2, 3)),
        r"^method=LoRAAdapter\(LoRA\(rank=1.* is not a method: ",
    ),
    (pk.Method, r"^method=<class 'perakit\.adapters\.base\.Method'> is not a method: "),
    (
        NobodysAdapter,
        (
            r"^no method makes NobodysAdapter: define one, class MyMethod\(perakit\.Method\) with"
            r" adapter = NobodysAdapter$"
        ),
    ),
    (
        SharedAdapter,
        (
            r"^SharedAdapter is the adapter of 'One', 'Other': pass the method that is meant,"
            r" One\(rank=2\)$"
        ),
    ),
    (
        Picky,
        (
            r"^Picky\(rank=2\) is refused \(rank=2 must be a multiple of 4\): pass the method"
            r" itself, Picky\(\.\.\.\)$"
        ),
    ),
]


@pytest.mark.parametrize(("given", "message"), BAD, ids=[message[1:25] for _, message in BAD])
def test_what_is_no_method_is_refused_and_told_what_to_pass(given, message, asked):
    with pytest.raises(pk.PerakitError, match=message):
        testing.assert_adapter_laws(given)
    assert asked == []
