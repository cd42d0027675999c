"""An interrupt at any line of what changes a model: it is as before or as after, never between.

As a script, at every line: python tests/attacks/interrupts.py, which prints a figure for each case.
"""

import copy
import json
import multiprocessing
import sys
import tempfile
import warnings
from pathlib import Path

import torch
from torch import nn

import perakit as pk
from perakit.models.adapted import adapted_layers, stand_ins

HOUSE = Path(pk.__file__).parent


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
        for module in stand_ins(model).values():
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


def written(where):
    """Files of an adapter, of one on 4 bits, and of one that PEFT reads, in the folder `where`."""
    model = adapted()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(1)
    pk.save(model, where / "adapter")
    pk.export_peft(model, where / "peft")
    pk.save(four_bit(), where / "four")
    return where


def off(model):
    """As `disabled` does it, and its state within."""
    with pk.disabled(model):
        model.within = [module.enabled for module in stand_ins(model).values()]


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
    for name, module in stand_ins(model).items():
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
    """Interrupt at these lines (a function of how many there are): none may be between.

    Returns how many it was.
    """
    make, _ = CASES[case]
    before = state(make())
    run(case, folders, None)  # the first takes lines that others do not: imports on use
    finished, trace = run(case, folders, None)
    after, mixed, count = state(finished), [], 0
    assert trace.lines > 10
    for at in places(trace.lines):
        count += 1
        model, stopped = run(case, folders, at)
        assert stopped.lines == at
        now = state(model)
        if not (equal(now, before) or equal(now, after)):
            mixed.append((at, sorted(k for k in now if not same(now.get(k), before.get(k)))[:3]))
    assert not mixed, f"{len(mixed)} of {trace.lines} lines leave a mixture: {mixed[:3]}"
    return count


def every_line(case):
    """How many lines the case has, each interrupted once; with its name."""
    warnings.simplefilter("ignore", ResourceWarning)  # a file opened, and not yet in its block
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        return case, check(case, written(Path(folder)), lambda lines: range(1, lines + 1))


def row(figures):
    """Of docs/reliability.md, from the lines of each case."""
    return {
        "promised": f"{', '.join(sorted(figures))}: the model before or the model after",
        "attacked": "a KeyboardInterrupt before each line of perakit that runs",
        "times": f"{sum(figures.values()):,}",
        "came_out": "0 mixed states",
    }


if __name__ == "__main__":
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        figures = {}
        for case, count in pool.imap_unordered(every_line, sys.argv[1:] or CASES):
            figures[case] = count
            print(f"{case}: {count:,} lines, 0 mixed", file=sys.stderr, flush=True)
    print(json.dumps(row(figures)))
