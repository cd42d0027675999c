"""Attach, merge, unmerge, disable, save, load, detach in any order, against a plain-Python model of what should be."""

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
METHODS = [pk.LoRA(rank=2, alpha=3), pk.PERA(rank=2), pk.PERA(rank=1, alpha=0.5, terms="square")]


class Net(nn.Module):
    """Linear, Conv1D, Linear in a row; widths 7, 5, 3, 1."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(7, 5), nn.ModuleList([Conv1D(3, 5)]), nn.Linear(3, 1, bias=False)

    def forward(self, x):
        return self.c(torch.tanh(self.b[0](torch.tanh(self.a(x)))))


def delta(method, A, B, h=()):
    """ΔW term by term, as the papers write it."""
    pairs = [(i, j) for i in range(len(A)) for j in range(i, len(A)) if i == j or method.terms == "full"] if len(h) else []
    products = [c * np.outer(B[:, i] * B[:, j], A[i] * A[j]) for c, (i, j) in zip(h, pairs, strict=True)]
    return (method.alpha or method.rank) / method.rank * (B @ A + sum(products))


class Lifecycle(RuleBasedStateMachine):
    """The expected state: attached (name -> method, factors), merged names, enabled names, saved adapters."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.model = Net().double()
        nn.init.normal_(self.model.b[0].weight)
        self.model.a.bias.requires_grad_(False)
        self.modules = {name: self.model.get_submodule(name) for name in NAMES}
        self.parameters = {name: (p, p.requires_grad, p.detach().clone()) for name, p in self.model.named_parameters()}
        self.x = torch.randn(4, 7, dtype=torch.float64)
        self.base = self.model(self.x).detach()
        self.attached, self.merged, self.disabled, self.blocks = {}, set(), set(), []
        self.folder, self.saved, self.numbers = Path(tempfile.mkdtemp()), [], itertools.count(1)

    def teardown(self):
        while self.blocks:
            self.leave()
        shutil.rmtree(self.folder)

    # what the model should hold

    def remember(self, names):
        for name in names:
            adapter = pk.adapters(self.model)[name]
            self.attached[name] = adapter.method, {key: p.detach().numpy().copy() for key, p in adapter.named_parameters()}

    def oracle(self):
        """The output in float64 NumPy, from the expected state."""
        y = self.x.numpy()
        for name in NAMES:
            layer = self.modules[name]
            W = layer.weight.detach().numpy()
            W = W.T if isinstance(layer, Conv1D) else W
            if name in self.attached and name not in self.disabled:
                method, arrays = self.attached[name]
                W = W + delta(method, **arrays)
            y = y @ W.T + (0 if layer.bias is None else layer.bias.detach().numpy())
            y = y if name == "c" else np.tanh(y)
        return y

    # what may happen

    @initialize(names=st.sampled_from([["a"], ["b.0", "c"], NAMES]), method=st.sampled_from(METHODS))
    def start(self, names, method):
        """Most of what can go wrong needs an adapter to begin with."""
        self.attach(names, method)
        self.perturb()

    @rule(names=st.lists(st.sampled_from(NAMES), min_size=1, max_size=3, unique=True), method=st.sampled_from(METHODS))
    def attach(self, names, method):
        if set(names) & set(self.attached):
            with pytest.raises(pk.PerakitError, match="has an adapter already"):
                pk.attach(self.model, method, names)
        else:
            before = self.model(self.x)
            pk.attach(self.model, method, names)
            assert torch.equal(self.model(self.x), before) or before.requires_grad  # a frozen model is answered bitwise
            self.remember(names)

    @precondition(lambda self: self.attached)
    @rule()
    def perturb(self):
        """As a training step would: not where merged, whose factors are out of the forward pass."""
        generator = torch.Generator().manual_seed(next(self.numbers))
        names = [name for name in self.attached if name not in self.merged]
        with torch.no_grad():
            for name in names:
                for p in pk.adapters(self.model)[name].parameters():
                    p.copy_(torch.randn(p.shape, generator=generator))
        self.remember(names)

    @rule()
    def merge(self):
        if not self.attached:
            with pytest.raises(pk.PerakitError, match="no adapter"):
                pk.merge(self.model)
            return
        report = pk.merge(self.model)
        assert {row[0] for row in report.rows} == set(self.attached) - self.merged
        self.merged = set(self.attached)

    @precondition(lambda self: self.attached)
    @rule()
    def merge_twice(self):
        self.merge()
        before, held = self.model(self.x), [m.merged for m in self.model.modules() if isinstance(m, AdaptedLayer)]
        self.merge()
        assert torch.equal(self.model(self.x), before)
        assert all(a is b.merged for a, b in zip(held, (m for m in self.model.modules() if isinstance(m, AdaptedLayer)), strict=True))

    @rule()
    def unmerge(self):
        pk.unmerge(self.model)
        self.merged = set()

    @rule()
    def merge_and_back(self):
        """Law 5: bitwise."""
        self.unmerge()
        before = self.model(self.x)
        if self.attached:
            pk.merge(self.model)
        for _ in range(2):
            pk.unmerge(self.model)
            assert torch.equal(self.model(self.x), before)

    @precondition(lambda self: len(self.blocks) < 3)
    @rule()
    def enter(self):
        block = pk.disabled(self.model)
        block.__enter__()
        self.blocks.append((block, set(self.attached), set(self.disabled)))
        self.disabled |= set(self.attached)

    @precondition(lambda self: self.blocks)
    @rule(fails=st.booleans())
    def leave(self, fails=False):
        block, layers, before = self.blocks.pop()
        if fails:
            assert not block.__exit__(KeyError, KeyError(), None)
        else:
            block.__exit__(None, None, None)
        self.disabled = (self.disabled - layers) | (before & layers)

    @precondition(lambda self: self.attached and len(self.blocks) < 2)
    @rule(fails=st.booleans())
    def disable_nested(self, fails):
        """Law 6: leaving the inner block changes nothing."""
        self.enter()
        self.enter()
        self.leave(fails)
        self.the_flags_are_those_expected()
        self.leave()

    @rule()
    def save(self):
        if not self.attached:
            with pytest.raises(pk.PerakitError, match="the model has no adapter"):
                pk.save(self.model, self.folder / "bare")
            return
        folder = pk.save(self.model, self.folder / str(len(self.saved) % 2))  # now and then over an old one
        kept = [(where, state) for where, state in self.saved if where != folder]
        self.saved = [*kept, (folder, {name: (method, dict(arrays)) for name, (method, arrays) in self.attached.items()})]

    @precondition(lambda self: self.saved)
    @rule(which=st.integers(0, 1))
    def load(self, which):
        folder, state = self.saved[which % len(self.saved)]
        fits = not self.attached or {n: m for n, (m, _) in self.attached.items()} == {n: m for n, (m, _) in state.items()}
        if fits and not self.merged:
            pk.load(self.model, folder)
            self.attached = {name: (method, dict(arrays)) for name, (method, arrays) in state.items()}
        else:
            with pytest.raises(pk.PerakitError, match="is merged" if fits else "belongs to another model"):
                pk.load(self.model, folder)

    @precondition(lambda self: self.attached and not self.blocks)
    @rule()
    def save_and_load(self):
        """Law 7: bitwise, from a bare model."""
        self.unmerge()
        before = self.model(self.x)
        self.save()
        self.detach()
        folder, state = self.saved[-1]
        pk.load(self.model, folder)
        self.attached = {name: (method, dict(arrays)) for name, (method, arrays) in state.items()}
        assert torch.equal(self.model(self.x), before)

    @precondition(lambda self: self.attached and not self.blocks)
    @rule()
    def detach(self):
        for _ in range(2):
            pk.detach(self.model)
        self.attached, self.merged, self.disabled = {}, set(), set()

    # what always holds

    @invariant()
    def the_base_never_moves(self):
        for p, requires_grad, value in self.parameters.values():
            assert torch.equal(p, value)
            assert p.requires_grad == (requires_grad and not self.attached)
        if not self.attached:
            assert [name for name, _ in self.model.named_parameters()] == list(self.parameters)
            assert all(self.model.get_submodule(name) is module for name, module in self.modules.items())

    @invariant()
    def the_factors_are_those_expected(self):
        found = pk.adapters(self.model)
        assert list(found) == [name for name in NAMES if name in self.attached]
        for name, (method, arrays) in self.attached.items():
            assert found[name].method == method
            assert {key for key, _ in found[name].named_parameters()} == set(arrays)
            for key, p in found[name].named_parameters():
                assert p.requires_grad
                assert np.array_equal(p.detach().numpy(), arrays[key])

    @invariant()
    def the_flags_are_those_expected(self):
        layers = {name: self.model.get_submodule(name) for name in self.attached}
        assert {name for name, layer in layers.items() if layer.merged is not None} == self.merged
        assert {name for name, layer in layers.items() if not layer.enabled} == self.disabled

    @invariant()
    def the_output_is_the_oracles(self):
        y = self.model(self.x).detach()
        np.testing.assert_allclose(y.numpy(), self.oracle(), rtol=1e-12, atol=1e-12)
        if self.disabled == set(self.attached):
            assert torch.equal(y, self.base)


TestLifecycle = Lifecycle.TestCase
TestLifecycle.settings = settings(max_examples=30, stateful_step_count=20)


def test_the_machine_notices_a_forgotten_merge(monkeypatch):
    """A check of the check: with an unmerge that does nothing, the machine fails."""
    monkeypatch.setattr(pk, "unmerge", lambda model: None)
    machine = Lifecycle()
    machine.attach(["a"], METHODS[1])
    machine.perturb()
    machine.merge()
    machine.unmerge()
    with pytest.raises(AssertionError):
        machine.the_flags_are_those_expected()
    machine.teardown()
