"""How exact a step is, in every dtype: against the same model in float64, the plain way."""

import copy

import pytest
import torch
import torch.nn.functional as F

import perakit as pk
from perakit import laws, strategies, toy

METHODS = [  # of PERA, ranks that are expanded in two ways
    pk.LoRA(rank=8),
    pk.PERA(rank=8),
    pk.PERA(rank=40),
    pk.PERA(rank=41, terms="cross"),
    pk.PERA(rank=42, terms="square", alpha=20),
    pk.DoRA(rank=4),
]
SMALL = {pk.LoRA(rank=5): 5e-3, pk.PERA(rank=3): 7e-3}  # method: the size of its parameters
every_method, every_small = (
    pytest.mark.parametrize("method", methods, ids=lambda method: f"{method.name}-{method.rank}")
    for methods in (METHODS, SMALL)
)
# float16 alone is not the house's: its products round z = x Âᵀ, and factors larger than ΔW
TOLERANCE = laws.TOLERANCE | {torch.float16: 1e-2}


def step(model, x, g):
    """The output and the gradients by x and the parameters, of g (as the output); by name."""
    named = {"x": x} | {name: p for name, p in model.named_parameters() if p.requires_grad}
    y = model(x)
    found = torch.autograd.grad(y, list(named.values()), g)
    return {"output": y.detach(), **dict(zip(named, found, strict=True))}


def random(*shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def moved(model):
    """Off its start by a little, so that W0 + ΔW is no smaller than W0."""
    for seed, parameter in enumerate(trainable(model)):
        change = 0.05 * random(*parameter.shape, seed=seed).to(parameter)
        parameter.data.add_(change)
    return model.train()


def trainable(model):
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def exact(model, x, g):
    """The same step in float64, the plain way."""
    wide = copy.deepcopy(model).double()
    with pk.use_plan("reference"):
        return step(wide, x.detach().double().requires_grad_(), g.double())


def off(found, right):
    """‖found - right‖ / ‖right‖."""
    found = found.detach().double()
    return float((found - right).norm() / right.norm())


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("kind", ["Linear", "Conv1D"])
@every_method
def test_a_step_is_that_of_float64(method, kind, dtype, device):
    m, n = (768, 512) if device == "cuda" else (48, 64)
    layer = strategies.make_layer(kind, m, n, dtype=dtype, seed=3).to(device)
    model = moved(laws.adapted(method, layer, start=True))
    for T in (1, 64, 1000, 16384) if device == "cuda" else (1, 64):
        x, g = (random(T, size, seed=size).to(device, dtype) for size in (n, m))
        found, right = step(model, x.requires_grad_(), g), exact(model, x, g)
        for name, tensor in found.items():
            wider = torch.promote_types(dtype, torch.float32)
            assert tensor.dtype == (dtype if name in ("output", "x") else wider)
            error = off(tensor, right[name])
            assert error <= TOLERANCE[dtype], f"{name} of {T} tokens is off by {error:.2g}"


def assert_a_small_update_is_seen(method, kind, dtype, tokens, device, autocast=None):
    """As in tests/fast: on a W0 of ones ΔW, of 1e-4, is lost in half precision; inputs that W0
    takes to zero show it, and so do gradients.
    """
    m, n = 8, 12
    layer = strategies.make_layer(kind, m, n, bias=False, dtype=dtype)
    with torch.no_grad():
        layer.weight.fill_(1)
        if layer.bias is not None:
            layer.bias.zero_()
    model = strategies.move(laws.adapted(method, layer.to(device)), size=SMALL[method]).train()
    delta = pk.delta_weights(model)["0"].double()
    assert 1e-5 < delta.abs().max() < 3e-4
    x, g = (
        torch.tensor([1.0, -1.0]).repeat(tokens, size // 2).to(device, dtype) for size in (n, m)
    )
    with torch.autocast(device, autocast, enabled=autocast is not None):
        y = model(x.requires_grad_())
    y.backward(g.to(y.dtype))
    for found, right in ((y, x.double() @ delta.T), (x.grad, g.double() @ delta)):
        assert (found.double() - right).abs().max() < 0.02 * right.abs().max(), "it is lost"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("kind", ["Linear", "Conv1D"])
@every_small
def test_a_small_update_is_not_rounded_away(method, kind, dtype, device):
    for tokens in (2, 4096):
        assert_a_small_update_is_seen(method, kind, dtype, tokens, device)
        assert_a_small_update_is_seen(method, kind, torch.float32, tokens, device, autocast=dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@every_small
def test_a_small_gradient_is_not_rounded_away(method, dtype, device):
    """Of a mean loss, early: products of g and B are far below float16's least number, 6e-8."""
    layer = strategies.make_layer("Linear", 64, 48, dtype=dtype, seed=3).to(device)
    model = laws.adapted(method, layer, start=True).train()
    with torch.no_grad():
        model[0].adapter.B.copy_(1e-4 * random(64, method.rank, seed=1))
    x, g = (scale * random(64, size, seed=size) for size, scale in ((48, 1), (64, 1e-5)))
    x, g = x.to(device, dtype), g.to(device, dtype)
    found, right = step(model, x.requires_grad_(), g), exact(model, x, g)
    for name, tensor in found.items():
        assert off(tensor, right[name]) < TOLERANCE[dtype], name


@every_small
def test_tf32_is_the_users_to_allow_and_loses_no_update(method, cuda):
    layer = strategies.make_layer("Linear", 768, 512, seed=3).to(cuda)
    model = moved(laws.adapted(method, layer, start=True))
    x, g = (random(4096, size, seed=size).to(cuda, torch.float32) for size in (512, 768))
    right, matmul = exact(model, x, g), torch.backends.cuda.matmul
    worst, before = {}, matmul.fp32_precision
    try:
        for precision in ("ieee", "tf32"):
            matmul.fp32_precision = precision
            found = step(model, x.requires_grad_(), g)
            worst[precision] = max(off(tensor, right[name]) for name, tensor in found.items())
            for tokens in (2, 4096):
                assert_a_small_update_is_seen(method, "Linear", torch.float32, tokens, cuda)
    finally:
        matmul.fp32_precision = before
    # 10 bits of TF32: more than 1e-2 would be a fault, less than 1e-4 that it was not used
    assert worst["ieee"] < 1e-5
    assert 1e-4 < worst["tf32"] < 1e-2


def gpt2(method, device, seed=0):
    """One block, every layer adapted but the head; texts to train on."""
    torch.manual_seed(seed)
    model = toy.GPT2(toy.Config(vocab_size=32, n_positions=16, n_embd=20, n_layer=1, n_head=2))
    pk.attach(model.to(device), method, "all-linear")
    texts = torch.randint(0, 32, (4, 16), generator=torch.Generator().manual_seed(1))
    return moved(model), texts.to(device)


def cost(model, texts):
    y = model(texts[:, :-1])
    return F.cross_entropy(y.float().flatten(0, 1), texts[:, 1:].flatten())


def away(found, right):
    """As `off`, of all gradients together."""
    return off(*(torch.cat([part.flatten() for part in parts]) for parts in (found, right)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@every_method
def test_autocast_costs_what_the_dtype_does(method, dtype, device):
    model, texts = gpt2(method, device)
    right = torch.autograd.grad(cost(model, texts), trainable(model))
    with torch.autocast(device, dtype):
        loss = cost(model, texts)
    found = torch.autograd.grad(loss, trainable(model))
    assert {gradient.dtype for gradient in found} == {torch.float32}
    assert 1e-4 < away(found, right) < TOLERANCE[dtype]  # less would say that nothing was cast


def test_scaled_losses_of_float16_train(device):
    """What a GPU without bfloat16 trains by: autocast to float16, and a scale that is undone."""
    model, texts = gpt2(pk.PERA(rank=4), device)
    optimizer, scaler = torch.optim.SGD(trainable(model), lr=1.0), torch.amp.GradScaler(device)
    right = torch.autograd.grad(cost(model, texts), trainable(model))
    before = [parameter.detach().clone() for parameter in trainable(model)]
    with torch.autocast(device, torch.float16):
        loss = cost(model, texts)
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    step = [one - other.detach() for one, other in zip(before, trainable(model), strict=True)]
    assert away(step, right) < TOLERANCE[torch.float16]
