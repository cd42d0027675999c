"""Attach, activate, merge, unmerge, disable, delete, save, load, detach in any order, against a
plain-Python model of what should be.
"""

import itertools
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from torch import nn

import perakit as pk
from perakit.models.adapted import AdaptedLayer
from perakit.toy.gpt2 import Conv1D

NAMES = ["a", "b.0", "c"]
ADAPTERS = ["default", "other"]
METHODS = [pk.LoRA(rank=2, alpha=3), pk.PERA(rank=2), pk.PERA(rank=1, alpha=0.5, terms="square")]


class Net(nn.Module):
    """Linear, Conv1D, Linear in a row; widths 7, 5, 3, 1."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = (
            nn.Linear(7, 5),
            nn.ModuleList([Conv1D(3, 5)]),
            nn.Linear(3, 1, bias=False),
        )

    def forward(self, x):
        return self.c(torch.tanh(self.b[0](torch.tanh(self.a(x)))))


def delta(method, A, B, h=()):
    """ΔW term by term, as the papers write it."""
    pairs = (
        [
            (i, j)
            for i in range(len(A))
            for j in range(i, len(A))
            if i == j or method.terms == "full"
        ]
        if len(h)
        else []
    )
    products = [
        c * np.outer(B[:, i] * B[:, j], A[i] * A[j]) for c, (i, j) in zip(h, pairs, strict=True)
    ]
    return (method.alpha or method.rank) / method.rank * (B @ A + sum(products))


class Lifecycle(RuleBasedStateMachine):
    """The expected state: attached (adapter -> layer -> method, factors), active adapters, merged
    and disabled layers, saved adapters.
    """

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.model = Net().double()
        nn.init.normal_(self.model.b[0].weight)
        self.model.a.bias.requires_grad_(False)
        self.modules = {name: self.model.get_submodule(name) for name in NAMES}
        self.parameters = {
            name: (p, p.requires_grad, p.detach().clone())
            for name, p in self.model.named_parameters()
        }
        self.x = torch.randn(4, 7, dtype=torch.float64)
        self.base = self.model(self.x).detach()
        self.attached, self.active, self.merged, self.disabled, self.blocks = (
            {},
            (),
            set(),
            set(),
            [],
        )
        self.folder, self.saved, self.numbers = Path(tempfile.mkdtemp()), [], itertools.count(1)

    def teardown(self):
        while self.blocks:
            self.leave()
        shutil.rmtree(self.folder)

    # what the model should hold

    @property
    def adapted(self):
        return {layer for layers in self.attached.values() for layer in layers}

    def on(self, layer, adapters=None):
        """Those of `adapters` (by default of the active ones) that sit on `layer`."""
        return tuple(
            name
            for name in (self.active if adapters is None else adapters)
            if layer in self.attached.get(name, ())
        )

    def conflict(self, wanted):
        """Would a merged weight answer for other adapters than those wanted?"""
        return any(self.on(layer) != self.on(layer, wanted) for layer in self.merged)

    def remember(self, adapter, layers):
        for layer in layers:
            found = pk.adapters(self.model, adapter)[layer]
            factors = {key: p.detach().numpy().copy() for key, p in found.named_parameters()}
            self.attached.setdefault(adapter, {})[layer] = found.method, factors

    def oracle(self):
        """The output in float64 NumPy, from the expected state."""
        y = self.x.numpy()
        for name in NAMES:
            layer = self.modules[name]
            W = layer.weight.detach().numpy()
            W = W.T if isinstance(layer, Conv1D) else W
            if name not in self.disabled:
                for adapter in self.on(name):
                    method, arrays = self.attached[adapter][name]
                    W = W + delta(method, **arrays)
            y = y @ W.T + (0 if layer.bias is None else layer.bias.detach().numpy())
            y = y if name == "c" else np.tanh(y)
        return y

    # what may happen

    @initialize(
        names=st.sampled_from([["a"], ["b.0", "c"], NAMES]), method=st.sampled_from(METHODS)
    )
    def start(self, names, method):
        """Most of what can go wrong needs an adapter to begin with."""
        self.attach(names, method, "default")
        self.perturb()

    @rule(
        names=st.lists(st.sampled_from(NAMES), min_size=1, max_size=3, unique=True),
        method=st.sampled_from(METHODS),
        adapter=st.sampled_from(ADAPTERS),
    )
    def attach(self, names, method, adapter):
        taken = set(names) & set(self.attached.get(adapter, ()))
        if taken or self.conflict((adapter,)):
            with pytest.raises(
                pk.PerakitError, match="has an adapter already" if taken else "is merged with"
            ):
                pk.attach(self.model, method, names, name=adapter)
            return
        fresh = not self.attached.get(adapter)
        pk.attach(self.model, method, names, name=adapter)
        self.remember(adapter, names)
        self.active = (adapter,)
        if fresh:
            # a fresh adapter alone changes nothing
            assert torch.equal(self.model(self.x), self.base) or self.base.requires_grad

    @precondition(lambda self: self.attached)
    @rule()
    def perturb(self):
        """As a training step would: not where merged, whose factors are out of the forward pass."""
        generator = torch.Generator().manual_seed(next(self.numbers))
        for adapter, layers in self.attached.items():
            names = [name for name in layers if name not in self.merged]
            with torch.no_grad():
                for name in names:
                    for p in pk.adapters(self.model, adapter)[name].parameters():
                        p.copy_(torch.randn(p.shape, generator=generator))
            self.remember(adapter, names)

    @rule(wanted=st.lists(st.sampled_from(ADAPTERS), min_size=1, unique=True).map(tuple))
    def activate(self, wanted):
        unknown = set(wanted) - set(self.attached)
        if unknown or self.conflict(wanted):
            with pytest.raises(
                pk.PerakitError, match="no adapter is called" if unknown else "is merged with"
            ):
                pk.activate(self.model, *wanted)
        else:
            pk.activate(self.model, *wanted)
            self.active = wanted

    @precondition(lambda self: not self.blocks)
    @rule(adapter=st.sampled_from(ADAPTERS))
    def delete(self, adapter):
        left = tuple(name for name in self.active if name != adapter)
        if adapter not in self.attached or self.conflict(left):
            with pytest.raises(
                pk.PerakitError,
                match="is merged with" if adapter in self.attached else "no adapter is called",
            ):
                pk.delete(self.model, adapter)
            return
        pk.delete(self.model, adapter)
        del self.attached[adapter]
        self.active = left
        self.disabled &= self.adapted

    @rule()
    def merge(self):
        if not self.active:
            with pytest.raises(
                pk.PerakitError, match="is active" if self.attached else "no adapter"
            ):
                pk.merge(self.model)
            return
        report = pk.merge(self.model)
        wanted = {layer for layer in self.adapted if self.on(layer)}
        assert {row[0] for row in report.rows} == wanted - self.merged
        self.merged |= wanted

    @precondition(lambda self: self.active)
    @rule()
    def merge_twice(self):
        self.merge()
        before, held = (
            self.model(self.x),
            [m.merged for m in self.model.modules() if isinstance(m, AdaptedLayer)],
        )
        self.merge()
        assert torch.equal(self.model(self.x), before)
        assert all(
            a is b.merged
            for a, b in zip(
                held, (m for m in self.model.modules() if isinstance(m, AdaptedLayer)), strict=True
            )
        )

    @rule()
    def unmerge(self):
        pk.unmerge(self.model)
        self.merged = set()

    @rule()
    def merge_and_back(self):
        """Law 5: bitwise."""
        self.unmerge()
        before = self.model(self.x)
        if self.active:
            pk.merge(self.model)
        for _ in range(2):
            pk.unmerge(self.model)
            assert torch.equal(self.model(self.x), before)

    @precondition(lambda self: len(self.blocks) < 3)
    @rule()
    def enter(self):
        block = pk.disabled(self.model)
        block.__enter__()
        self.blocks.append((block, self.adapted))
        self.disabled |= self.adapted

    @precondition(lambda self: self.blocks)
    @rule(fails=st.booleans(), which=st.integers(0, 2))
    def leave(self, fails=False, which=-1):
        """Blocks may overlap: any of them can be the first to be left."""
        block, _ = self.blocks.pop(which % len(self.blocks))
        if fails:
            assert not block.__exit__(KeyError, KeyError(), None)
        else:
            block.__exit__(None, None, None)
        self.disabled &= set().union(*(layers for _, layers in self.blocks))

    @precondition(lambda self: self.attached and len(self.blocks) < 2)
    @rule(fails=st.booleans())
    def disable_nested(self, fails):
        """Law 6: leaving the inner block changes nothing."""
        self.enter()
        self.enter()
        self.leave(fails)
        self.the_flags_are_those_expected()
        self.leave()

    @rule(adapter=st.sampled_from(ADAPTERS))
    def save(self, adapter):
        if adapter not in self.attached:
            message = "no adapter is called" if self.attached else "the model has no adapter"
            with pytest.raises(pk.PerakitError, match=message):
                pk.save(self.model, self.folder / "bare", name=adapter)
            return
        # Now and then over an old one
        folder = pk.save(self.model, self.folder / str(len(self.saved) % 2), name=adapter)
        kept = [(where, state) for where, state in self.saved if where != folder]
        state = {
            name: (method, dict(arrays))
            for name, (method, arrays) in self.attached[adapter].items()
        }
        self.saved = [*kept, (folder, state)]

    @precondition(lambda self: self.saved)
    @rule(which=st.integers(0, 1), adapter=st.sampled_from(ADAPTERS))
    def load(self, which, adapter):
        folder, state = self.saved[which % len(self.saved)]
        present = self.attached.get(adapter, {})
        fits = not present or {n: m for n, (m, _) in present.items()} == {
            n: m for n, (m, _) in state.items()
        }
        stays = present and adapter in self.active
        stale = self.merged & set(present) or (not stays and self.conflict((adapter,)))
        if fits and not stale:
            pk.load(self.model, folder, name=adapter)
            self.attached[adapter] = {
                name: (method, dict(arrays)) for name, (method, arrays) in state.items()
            }
            self.active = self.active if stays else (adapter,)
        else:
            with pytest.raises(
                pk.PerakitError, match="is merged" if fits else "belongs to another model"
            ):
                pk.load(self.model, folder, name=adapter)

    @precondition(lambda self: len(self.active) == 1 and not self.blocks)
    @rule()
    def save_and_load(self):
        """Law 7: bitwise, from a bare model."""
        self.unmerge()
        before, (name,) = self.model(self.x), self.active
        self.save(name)
        self.detach()
        folder, state = self.saved[-1]
        pk.load(self.model, folder, name=name)
        self.attached = {
            name: {layer: (method, dict(arrays)) for layer, (method, arrays) in state.items()}
        }
        self.active = (name,)
        assert torch.equal(self.model(self.x), before)

    @precondition(lambda self: self.attached and not self.blocks)
    @rule()
    def detach(self):
        for _ in range(2):
            pk.detach(self.model)
        self.attached, self.active, self.merged, self.disabled = {}, (), set(), set()

    # what always holds

    @invariant()
    def the_base_never_moves(self):
        for p, requires_grad, value in self.parameters.values():
            assert torch.equal(p, value)
            assert p.requires_grad == (requires_grad and not self.attached)
        if not self.attached:
            assert [name for name, _ in self.model.named_parameters()] == list(self.parameters)
            assert all(
                self.model.get_submodule(name) is module for name, module in self.modules.items()
            )

    @invariant()
    def the_factors_are_those_expected(self):
        assert set(pk.active(self.model)) == set(self.active)
        for adapter, layers in self.attached.items():
            found = pk.adapters(self.model, adapter)
            assert list(found) == [name for name in NAMES if name in layers]
            for name, (method, arrays) in layers.items():
                assert found[name].method == method
                assert {key for key, _ in found[name].named_parameters()} == set(arrays)
                for key, p in found[name].named_parameters():
                    assert p.requires_grad == (adapter in self.active)
                    assert np.array_equal(p.detach().numpy(), arrays[key])

    @invariant()
    def the_flags_are_those_expected(self):
        layers = {name: self.model.get_submodule(name) for name in self.adapted}
        assert {
            name for name, module in self.model.named_modules() if isinstance(module, AdaptedLayer)
        } == set(layers)
        assert {name for name, layer in layers.items() if layer.merged is not None} == self.merged
        assert {name for name, layer in layers.items() if not layer.enabled} == self.disabled
        assert all(layer.active == self.on(name) for name, layer in layers.items())

    @invariant()
    def the_output_is_the_oracles(self):
        y = self.model(self.x).detach()
        np.testing.assert_allclose(y.numpy(), self.oracle(), rtol=1e-12, atol=1e-12)
        if self.disabled == self.adapted:
            assert torch.equal(y, self.base)


TestLifecycle = Lifecycle.TestCase
TestLifecycle.settings = settings(max_examples=30, stateful_step_count=20)


def test_the_machine_notices_a_forgotten_merge(monkeypatch):
    """A check of the check: with an unmerge that does nothing, the machine fails."""
    monkeypatch.setattr(pk, "unmerge", lambda model: None)
    machine = Lifecycle()
    machine.attach(["a"], METHODS[1], "default")
    machine.perturb()
    machine.merge()
    machine.unmerge()
    with pytest.raises(AssertionError):
        machine.the_flags_are_those_expected()
    machine.teardown()
