"""A training step as people take it: repeated, checkpointed, compiled, captured, on a stream."""

import copy
import socket

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

import perakit as pk
from perakit import strategies
from perakit.toy import distributed

METHODS = [pk.LoRA(rank=4), pk.PERA(rank=4), pk.DoRA(rank=4)]
every_method = pytest.mark.parametrize(
    "method", METHODS, ids=lambda method: f"{method.name}-{method.rank}"
)
every_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)


def net(method, device, dtype=torch.float32, wide=False):
    """Linear, tanh, Conv1D, both adapted and off their start; and inputs."""
    n, k, m = (512, 768, 256) if wide else (40, 48, 24)
    first, second = (
        strategies.make_layer(kind, *shape, dtype=dtype, seed=3)
        for kind, shape in (("Linear", (k, n)), ("Conv1D", (m, k)))
    )
    model = nn.Sequential(first, nn.Tanh(), second).to(device)
    pk.attach(model, method, "all-linear")
    generator = torch.Generator().manual_seed(5)
    return strategies.move(model, size=0.05).train(), lambda T: torch.randn(
        T, n, generator=generator
    ).to(device, dtype)


def trainable(model):
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def gradients(model, x, run=None):
    """By x and by every parameter, of Σ sin y."""
    x = x.detach().requires_grad_()
    y = (run or model)(x)
    return torch.autograd.grad(y.float().sin().sum(), [x, *trainable(model)])


def assert_all(check, found, expected):
    for one, other in zip(found, expected, strict=True):
        assert check(one, other)


@every_dtype
@pytest.mark.parametrize("rank", [8, 32])
@pytest.mark.parametrize("make", [pk.LoRA, pk.PERA])
def test_a_step_has_the_same_bits_every_time(make, rank, dtype, device):
    on_gpu = device == "cuda"
    for T in (64, 1024, 8192) if on_gpu else (64,):
        runs = []
        for _ in range(3):
            model, inputs = net(make(rank=rank), device, dtype, wide=on_gpu)
            runs.append(gradients(model, inputs(T)))
        for again in runs[1:]:
            assert_all(torch.equal, again, runs[0])


@every_dtype
@every_method
def test_checkpointed_activations_change_no_bit(method, dtype, device):
    model, inputs = net(method, device, dtype)
    x = inputs(11)
    found = gradients(model, x, lambda x: checkpoint(model, x, use_reentrant=False))
    assert_all(torch.equal, found, gradients(model, x))


@pytest.mark.filterwarnings("default")  # the compiler's own must not cost a GPU's minutes
@every_method
def test_a_compiled_model_is_one_graph_with_the_same_step(method, device):
    model, inputs = net(method, device)
    torch._dynamo.reset()
    # On a CPU the default asks for a C++ compiler
    backend = "inductor" if device == "cuda" else "aot_eager"
    compiled, x = torch.compile(model, fullgraph=True, backend=backend), inputs(11)

    def close(one, other):
        return torch.allclose(one, other, rtol=1e-3, atol=1e-5)

    assert close(compiled(x), model(x))
    assert_all(close, gradients(model, x, compiled), gradients(model, x))


def captured(work, before=lambda: None):
    """A CUDA graph of `work`, which has run three times on a side stream, and what it returns.

    before: done before each, off the graph.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            before()
            work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    before()
    with torch.cuda.graph(graph):
        result = work()
    return graph, result


@every_dtype
@every_method
def test_a_captured_forward_pass_follows_its_input(method, dtype, cuda):
    model, inputs = net(method, cuda, dtype)
    x = inputs(64)
    with torch.no_grad():
        graph, y = captured(lambda: model.eval()(x))
        first = model(x)
        for _ in range(2):
            x.copy_(inputs(64))
            graph.replay()
            torch.testing.assert_close(y, model(x))
            assert not torch.equal(y, first)


class Trained:
    """A model, inputs that stay where they are, an optimizer, and the step that is captured."""

    def __init__(self, model, x):
        self.model, self.x = model, x
        self.optimizer = torch.optim.AdamW(trainable(model), lr=1e-2, capturable=True)

    def clear(self):
        """Then the gradients that a graph makes are its own."""
        self.optimizer.zero_grad(set_to_none=True)

    def step(self):
        loss = self.model(self.x).float().square().mean()
        loss.backward()
        self.optimizer.step()
        return loss


@every_dtype
@every_method
def test_a_captured_training_step_is_the_eager_one(method, dtype, cuda):
    model, inputs = net(method, cuda, dtype)
    one = Trained(model, inputs(64))
    graph, loss = captured(one.step, one.clear)  # three steps are done; capturing does none
    other = Trained(copy.deepcopy(model), one.x.clone())
    other.optimizer.load_state_dict(copy.deepcopy(one.optimizer.state_dict()))
    start = [parameter.detach().clone() for parameter in trainable(model)]
    tolerance = 1e-3 if dtype == torch.float32 else 4e-2  # of Adam, to which a small change is one
    for _ in range(5):
        one.x.copy_(inputs(64))
        other.x.copy_(one.x)
        other.clear()
        graph.replay()
        torch.testing.assert_close(loss, other.step(), rtol=tolerance, atol=0)
    for mine, theirs, before in zip(
        trainable(one.model), trainable(other.model), start, strict=True
    ):
        assert (mine - theirs).norm() <= tolerance * (theirs - before).norm()
        assert (theirs - before).norm() > 0


@every_method
def test_a_step_on_another_stream_has_the_same_bits(method, cuda):
    model, inputs = net(method, cuda)
    x, stream = inputs(64), torch.cuda.Stream()
    right = gradients(model, x)
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        found = gradients(model, x)
        with torch.no_grad():
            y = model.eval()(x)
    torch.cuda.current_stream().wait_stream(stream)
    assert_all(torch.equal, found, right)
    with torch.no_grad():
        assert torch.equal(y, model(x))


def test_a_group_of_one_process_takes_the_same_step(device, monkeypatch):
    """NCCL on CUDA, gloo on a CPU, and torch's own DistributedDataParallel."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    for name, value in zip(distributed.LAUNCHED, ("0", "1", "localhost", port), strict=True):
        monkeypatch.setenv(name, value)
    with distributed.process_group(device) as own:
        assert own == ("cuda:0" if device == "cuda" else "cpu")
        model, inputs = net(pk.PERA(rank=4), own)
        x = inputs(11)
        expected = gradients(model, x)
        parallel = DistributedDataParallel(model, **distributed.NOT_AGAIN)
        parallel(x).sin().sum().backward()
        assert_all(torch.equal, [p.grad for p in trainable(model)], expected[1:])
        total = x.clone()
        dist.all_reduce(total)
        assert torch.equal(total, x)
