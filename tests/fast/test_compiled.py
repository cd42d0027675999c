"""torch.compile of a model with adapters: one graph, eager's numbers, and no graph made twice."""

from __future__ import annotations

import pytest
import torch
from functorch.compile import make_boxed_func
from torch import nn
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.testing import CompileCounter

import perakit as pk
from perakit import strategies


@pytest.fixture(autouse=True)
def _fresh():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


class Block(nn.Module):  # torch.compile passes over a Sequential's own forward
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(7, 11), nn.Linear(11, 7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(self.up(x).tanh())


def stack(blocks: int = 1) -> nn.Sequential:
    """Nothing is attached yet."""
    torch.manual_seed(0)
    return nn.Sequential(*(Block() for _ in range(blocks)))


X = torch.linspace(-1, 1, 35).reshape(5, 7)


def results(model: nn.Module, compiled=None) -> dict[str, torch.Tensor]:
    """The output, and the gradients of what trains."""
    model.zero_grad()
    output = (model if compiled is None else compiled)(X)
    output.square().mean().backward()
    grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {"output": output.detach(), **grads}


def assert_near(found, expected):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        scale = float(tensor.abs().max())
        torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-5 * scale, msg=name)


# --- how often ------------------------------------------------------------------------------------


def _states(model, compiled):
    """The name of every state that a model with the adapters "a" and "b" is in during its work."""
    for names in (["a"], ["b"], ["a", "b"]):
        pk.activate(model, *names)
        results(model, compiled)
        yield f"training {names}"
    with torch.no_grad():
        compiled(X)
        yield "without gradients"
        compiled.eval()(X)
        yield "evaluated"
        with pk.disabled(model):
            compiled(X)
        yield "disabled"
        compiled(X)
        yield "enabled again"
        pk.merge(model)
        compiled(X)
        yield "merged"
        with pk.disabled(model):
            compiled(X)
        yield "merged and disabled"
        pk.unmerge(model)
        compiled(X)
        yield "unmerged"
    compiled.train()


def test_each_state_is_compiled_once():
    model, counter = stack(), CompileCounter()
    for name, rank in (("a", 2), ("b", 5)):
        pk.attach(model, pk.PERA(rank=rank), "all-linear", name=name)
    compiled = torch.compile(model, fullgraph=True, backend=counter)
    new, before = [], 0
    for state in _states(model, compiled):
        if counter.frame_count > before:
            new.append(state)
        before = counter.frame_count
    assert new == [
        "training ['a']",
        "training ['b']",
        "training ['a', 'b']",
        "without gradients",
        "disabled",
        "merged",
    ]
    assert all(counter.frame_count == len(new) for _ in _states(model, compiled))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch's
def test_blocks_share_a_graph_where_they_share_a_rank():
    model, counter = stack(5), CompileCounter()
    for place, rank in enumerate((3, 2, 3, 2, 3)):
        pk.attach(model[place], pk.PERA(rank=rank), "all-linear")
        strategies.move(model[place], place)
    expected = results(model)
    for block in model:
        block.compile(fullgraph=True, backend=counter)
    assert_near(results(model), expected)
    # One for each rank, and one for the first block, whose input needs no gradient.
    assert counter.frame_count == 3


# --- what is in it --------------------------------------------------------------------------------


def test_the_graph_of_a_large_rank_is_no_larger_and_holds_no_numbers():
    """The pairs are no list of hundreds of numbers, which a GPU would be sent at every step."""
    sizes = {}
    for rank in (4, 32):
        graphs = []

        def keep(graph, _, graphs=graphs):
            graphs.append(graph)
            return make_boxed_func(graph)

        torch.compiler.reset()
        model = nn.Sequential(nn.Linear(7, 5))
        pk.attach(model, pk.PERA(rank=rank), ["0"])
        backend = aot_autograd(fw_compiler=keep, bw_compiler=keep)
        torch.compile(model, fullgraph=True, backend=backend)(X).sum().backward()
        assert len(graphs) == 2
        nodes = [node for graph in graphs for node in graph.graph.nodes]
        assert not [node for node in nodes if node.op == "get_attr"]
        sizes[rank] = len(nodes)
    assert sizes[4] == sizes[32]


def test_what_is_no_cpu_has_one_graph_too():
    """The meta device goes the way of a GPU."""
    model, counter = stack(), CompileCounter()
    pk.attach(model, pk.PERA(rank=3), "all-linear")
    torch.compile(model.to("meta"), fullgraph=True, backend=counter)(X.to("meta")).sum().backward()
    assert counter.frame_count == 1


# --- what it says ---------------------------------------------------------------------------------


@pytest.mark.thorough  # inductor: ten seconds
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_inductor_has_eagers_numbers():
    model = stack()
    pk.attach(model, pk.PERA(rank=3), "all-linear")
    strategies.move(model, 0)
    expected = results(model)
    assert_near(results(model, torch.compile(model, fullgraph=True)), expected)
