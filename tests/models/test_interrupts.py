"""An interrupt at any line of what changes a model: it is as before or as after, never between."""

import copy
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import nn

import perakit as pk
from perakit.models.adapted import adapted_layers, wrapped

HOUSE = Path(pk.__file__).parent
# An interrupt between opening a file and the block that closes it: the collector does
pytestmark = pytest.mark.filterwarnings(
    "ignore:unclosed file:ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)


class Net(nn.Module):
    """A Linear, a 4-bit candidate, a tied pair, a norm and a head."""

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(5, 6)
        self.b = nn.Linear(6, 6, bias=False)
        self.norm = nn.BatchNorm1d(6)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.norm(torch.tanh(self.b(torch.tanh(self.a(x))))))


def net():
    torch.manual_seed(0)
    model = Net().eval()
    model.a.bias.requires_grad_(False)
    return model


def moved(model):
    with torch.no_grad():
        for name in pk.adapters(model, "one"):
            for parameter in pk.adapters(model, "one")[name].parameters():
                parameter.normal_(std=0.3)
        for module in wrapped(model).values():
            for parameter in module.adapters.parameters():
                parameter.grad = torch.ones_like(parameter)
    return model


def adapted():
    model = net()
    pk.attach(model, pk.PERA(rank=2), ["a", "b"], name="one", train=["head", "norm"])
    return moved(model)


def twice():
    model = adapted()
    pk.attach(model, pk.DoRA(rank=2), ["b"], name="two")
    return model


def both():
    model = twice()
    pk.activate(model, "one", "two")
    return model


def merged():
    model = both()
    pk.merge(model)
    return model


def four_bit():
    model = net()
    pk.attach(model, pk.LoRA(rank=2), ["a", "b"], name="one", quantize="nf4", train=["norm"])
    return moved(model)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Files of an adapter, and of one that PEFT reads, other than the adapter of `adapted`."""
    model = adapted()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(1)
    where = tmp_path_factory.mktemp("files")
    pk.save(model, where / "adapter")
    pk.export_peft(model, where / "peft")
    quantised = four_bit()
    pk.save(quantised, where / "four")
    return where


def off(model):
    """As `disabled` does it, and its state within."""
    with pk.disabled(model):
        model.within = [module.enabled for module in wrapped(model).values()]


def overlapping(model):
    one, two = pk.disabled(model), pk.disabled(model)
    one.__enter__()
    try:
        two.__enter__()
    finally:
        one.__exit__(None, None, None)
    two.__exit__(None, None, None)


CASES = {
    "attach": (net, lambda m, f: pk.attach(m, pk.PERA(rank=2), "all-linear", train=["norm"])),
    "attach a second": (adapted, lambda m, f: pk.attach(m, pk.LoRA(rank=1), ["a"], name="two")),
    "attach on 4 bits": (net, lambda m, f: pk.attach(m, pk.LoRA(rank=1), ["a"], quantize="nf4")),
    "activate": (twice, lambda m, f: pk.activate(m, "one")),
    "detach": (twice, lambda m, f: pk.detach(m)),
    "delete": (twice, lambda m, f: pk.delete(m, "one")),
    "delete the last": (adapted, lambda m, f: pk.delete(m, "one")),
    "load": (net, lambda m, f: pk.load(m, f / "adapter")),
    "load over it": (twice, lambda m, f: pk.load(m, f / "adapter", name="one")),
    "load onto 4 bits": (net, lambda m, f: pk.load(m, f / "four")),
    "import": (net, lambda m, f: pk.import_peft(m, f / "peft")),
    "quantize": (net, lambda m, f: pk.quantize(m, ["a", "b"])),
    "merge": (both, lambda m, f: pk.merge(m)),
    "unmerge": (merged, lambda m, f: pk.unmerge(m)),
    "bake": (both, lambda m, f: pk.bake(m)),
    "bake the merged": (merged, lambda m, f: pk.bake(m)),
    "bake 4 bits": (four_bit, lambda m, f: pk.bake(m, dequantize=True)),
    "disabled": (both, lambda m, f: off(m)),
    "disabled, overlapping": (both, lambda m, f: overlapping(m)),
    "save": (both, lambda m, f: pk.save(m, f / "again", name="one")),
    "export": (both, lambda m, f: pk.export_peft(m, f / "again-peft", name="one")),
}


def state(model):
    """All of a model that a user can see: names, types, bits, flags, gradients, what answers."""
    found = {}
    for name, module in model.named_modules(remove_duplicate=False):
        found[f"{name} is"] = type(module)
        for key, tensor in (*module._parameters.items(), *module._buffers.items()):
            found[f"{name}.{key}"] = None if tensor is None else (
                tensor.detach().clone(), tensor.requires_grad, copy.deepcopy(tensor.grad)
            )  # fmt: skip
    for name, module in wrapped(model).items():
        found[f"{name} in effect"] = (module.wanted, module.enabled)
    for name, layer in adapted_layers(model).items():
        found[f"{name} merged"] = None if layer.merged is None else layer.merged.clone()
    x = torch.linspace(-1, 1, 20).reshape(4, 5)
    with torch.no_grad():
        found["answer"] = model(x)
    return found


def same(one, other):
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and torch.equal(one, other)
    if isinstance(one, tuple):
        return isinstance(other, tuple) and all(map(same, one, other))
    return one == other


def equal(one, other):
    return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)


class Interrupt:
    """Raises KeyboardInterrupt before our line number `at`; only counts them where at is None."""

    def __init__(self, at=None):
        self.at, self.lines = at, 0

    def __enter__(self):
        sys.settrace(self.see)
        return self

    def __exit__(self, *_):
        sys.settrace(None)

    def see(self, frame, event, _):
        ours = Path(frame.f_code.co_filename).is_relative_to(HOUSE)
        if event == "line" and ours:
            self.lines += 1
            if self.lines == self.at:
                raise KeyboardInterrupt
        return self.see if ours or event == "line" else None


def run(case, folders, at):
    """The model after the case, interrupted at that line; and whether it was."""
    make, do = CASES[case]
    model = make()
    torch.manual_seed(1)
    with Interrupt(at) as trace:
        try:
            do(model, folders)
        except KeyboardInterrupt:
            return model, trace
    return model, trace


def check(case, folders, places):
    """Interrupt at these lines (a function of how many there are): none may be between."""
    make, _ = CASES[case]
    before = state(make())
    run(case, folders, None)  # the first takes lines that others do not: imports on use
    finished, trace = run(case, folders, None)
    after, mixed = state(finished), []
    assert trace.lines > 10
    for at in places(trace.lines):
        model, stopped = run(case, folders, at)
        assert stopped.lines == at
        now = state(model)
        if not (equal(now, before) or equal(now, after)):
            mixed.append((at, sorted(k for k in now if not same(now.get(k), before.get(k)))[:3]))
    assert not mixed, f"{len(mixed)} of {trace.lines} lines leave a mixture: {mixed[:3]}"
    return trace.lines


@pytest.mark.parametrize("case", CASES)
def test_an_interrupt_at_some_lines_leaves_no_mixture(case, folders):
    """The last eighty lines, where things change, by tens, and one in each third before."""
    check(case, folders, lambda n: sorted({n // 3, 2 * n // 3} | set(range(max(1, n - 70), n, 10))))


@pytest.mark.thorough
@pytest.mark.parametrize("case", CASES)
def test_an_interrupt_at_every_line_leaves_no_mixture(case, folders):
    lines = check(case, folders, lambda n: range(1, n + 1))
    print(f"interrupted: {case}: {lines}")


def test_a_change_that_is_not_whole_is_noticed(folders, monkeypatch):
    merge = sys.modules["perakit.models.merge"]  # pk.models.merge is the function
    monkeypatch.setattr(merge, "whole", lambda *_: nullcontext())
    with pytest.raises(AssertionError, match="lines leave a mixture"):
        check("merge", folders, lambda n: range(n - 9, n + 1))
