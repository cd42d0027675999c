"""Interaction strength: hand-computed Hessians, a double loop of autograd, and models that are left
as they were.
"""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import perakit as pk
from perakit import strategies
from perakit.theory.interaction import interaction_strength, layer_interaction
from perakit.toy import GPT2, Config

LAYER = "transformer.h.0.mlp.c_fc"


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- of a function --------------------------------------------------------------------------------


def test_hand_computed():
    """x0 x1²: H = [[0, 2 x1], [2 x1, 2 x0]], whose absolute values are averaged, not its values."""
    points = np.array([[1.0, 2.0], [-5.0, -4.0]])
    expected = np.array([[0.0, 6.0], [6.0, 6.0]])
    assert np.array_equal(interaction_strength(lambda x: x[0] * x[1] ** 2, points), expected)


def test_a_quartic():
    """(Σ x)⁴ has every second derivative 12 (Σ x)²; Σ x⁴ only those on the diagonal, 12 x²."""
    points = np.array([[1.0, 2.0, -1.0]])
    assert np.allclose(interaction_strength(lambda x: x.sum() ** 4, points), 12 * 4.0, rtol=1e-14)
    assert np.array_equal(
        interaction_strength(lambda x: (x**4).sum(), points), np.diag([12.0, 48.0, 12.0])
    )


def mlp(inputs=5, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Linear(inputs, 7), nn.Tanh(), nn.Linear(7, 1), nn.Flatten(0)
        ).double()


def second_derivative(f, x, i, j):
    """∂²f/∂x_i∂x_j by two calls of autograd."""
    x = x.clone().requires_grad_()
    (first,) = torch.autograd.grad(f(x), x, create_graph=True)
    return torch.autograd.grad(first[i], x)[0][j].item()


def test_an_mlp_against_a_double_loop():
    net, points = mlp(), normal(3, 5)

    def f(x):
        return net(x)[0]

    expected = np.array(
        [
            [np.mean([abs(second_derivative(f, x, i, j)) for x in points]) for j in range(5)]
            for i in range(5)
        ]
    )
    assert expected.min() > 1e-4
    for chunk in (None, 1, 2, 7):
        assert np.allclose(interaction_strength(f, points, chunk), expected, rtol=1e-12)


@pytest.mark.parametrize(
    "method", [pk.LoRA(rank=2), pk.PERA(rank=2), pk.PERA(rank=3, terms="cross", degree=3)], ids=repr
)
def test_one_linear_layer_has_none_whatever_the_method(method):
    """x -> wᵀ(W0 + ΔW)x is linear in x, though ΔW is polynomial in its factors; a network around
    the layer changes that.
    """
    net = nn.Sequential(nn.Linear(5, 3), nn.Tanh())
    pk.attach(net, method, ["0"])
    strategies.move(net)
    w, points = normal(3).float(), normal(4, 5).float()
    assert pk.delta_weights(net)["0"].abs().min() > 0
    assert not interaction_strength(lambda x: w @ net[0](x), points).any()
    assert interaction_strength(lambda x: w @ net(x), points).all()


@pytest.mark.parametrize(
    "f", [lambda x: torch.tensor(3.0), lambda x: x.detach().square().sum(), lambda x: 2 * x.sum()]
)
def test_no_curvature_is_exactly_zero(f):
    assert np.array_equal(interaction_strength(f, np.ones((2, 3))), np.zeros((3, 3)))


def test_precision_is_that_of_the_points():
    seen = []

    def f(x):
        seen.append(x.dtype)
        return x.prod()

    for points in (
        torch.ones(2, 3),
        np.ones((2, 3), np.float32),
        torch.ones(2, 3, dtype=torch.int64),
        [[1, 1, 1]],
    ):
        interaction_strength(f, points)
    assert list(dict.fromkeys(seen)) == [torch.float32, torch.float64]
    assert seen.count(torch.float32) * 3 == seen.count(torch.float64)


@pytest.mark.parametrize("points", [np.ones((2, 3)), torch.ones(2, 3)])
def test_points_are_not_written_to(points):
    def f(x):
        x += 1
        return "after the write"

    with pytest.raises(pk.PerakitError, match="f returned str 'after the write'"):
        interaction_strength(f, points)
    assert (points == 1).all()


class Once(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return x.sum()

    @staticmethod
    def setup_context(context, inputs, output):
        pass

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(context, gradient):
        return gradient * np.ones(3)


@pytest.mark.parametrize(
    ("f", "points", "message"),
    [
        (torch.sum, np.ones(3), r"points has shape \(3,\)"),
        (torch.sum, np.ones((0, 3)), r"points has shape \(0, 3\)"),
        (torch.sum, [[1.0, np.nan]], r"points\[0, 1\] is nan"),
        (torch.sum, [["a"]], "points is no matrix of real numbers"),
        (
            lambda x: x,
            np.ones((2, 3)),
            r"f returned a torch.float64 tensor \(3,\): return a scalar",
        ),
        (lambda x: (x > 0).sum(), np.ones((2, 3)), "f returned a torch.int64 tensor"),
        (
            lambda x: float(x[0]),
            np.ones((2, 3)),
            r"f returned float '1.0': return a scalar float tensor, made with torch",
        ),
        (
            lambda x: x[7],
            np.ones((2, 3)),
            r"f fails on a torch vector \(3,\) \(IndexError: .*write it with torch",
        ),
        (3, np.ones((2, 3)), "f fails on a torch vector .*not callable"),
        (
            lambda x: x.sum() * x[0].item(),
            np.ones((2, 3)),
            "f has no second derivative that torch can compute .*: write it with smooth",
        ),
        (Once.apply, np.ones((2, 3)), "f has no second derivative that torch can compute"),
        (
            lambda x: x.norm(),
            np.zeros((2, 3)),
            "second derivative by features 0 and 0 is nan at some point: move the points",
        ),
    ],
)
def test_bad_input_of_a_function(f, points, message):
    with pytest.raises(pk.PerakitError, match=message):
        interaction_strength(f, points)


@pytest.mark.parametrize("chunk", [0, 1.5, True])
def test_bad_chunk(chunk):
    with pytest.raises(pk.PerakitError, match=r"chunk=.* must be an integer >= 1"):
        interaction_strength(torch.sum, np.ones((2, 3)), chunk)


# --- of a layer in a model ------------------------------------------------------------------------


@pytest.fixture
def model():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        net = GPT2(Config(vocab_size=19, n_positions=8, n_embd=8, n_layer=2, n_head=2)).double()
    pk.attach(net, pk.PERA(rank=2), ["c_fc"])
    return strategies.move(net)


@pytest.fixture
def tokens():
    return torch.randint(0, 19, (3, 5), generator=torch.Generator().manual_seed(0))


def shifted(model, layer, window, position, chosen, output):
    """f of one window as a function of what is added to the layer's input there, by another kind of
    hook.
    """

    def f(z):
        def hook(_, args):
            x = args[0].clone()
            x[0, position, chosen] = x[0, position, chosen] + z
            return (x, *args[1:])

        handle = model.get_submodule(layer).register_forward_pre_hook(hook)
        try:
            return output(model(window[None]))
        finally:
            handle.remove()

    return f


@pytest.mark.parametrize(
    "layer", ["transformer.h.0", "transformer.h.0.attn.c_attn", LAYER, "transformer.ln_f"]
)
@pytest.mark.parametrize("position", [-1, 1])
def test_a_model_against_a_double_loop(model, tokens, layer, position):
    """The default f: log p of the token that is likeliest at `position`, window by window."""
    chosen, expected = [6, 1, 3], np.zeros((3, 3))
    for window in tokens:
        likeliest = model(window[None])[0, position].argmax()

        def output(logits, token=likeliest):
            return logits[0, position, token] - logits[0, position].logsumexp(0)

        f = shifted(model, layer, window, position, chosen, output)
        with sdpa_kernel(SDPBackend.MATH):
            expected += (
                np.abs(
                    [
                        [second_derivative(f, torch.zeros(3).double(), i, j) for j in range(3)]
                        for i in range(3)
                    ]
                )
                / 3
            )
    found = layer_interaction(model, layer, tokens, chosen, position)
    assert expected.min() > 1e-9
    assert np.allclose(found, expected, rtol=1e-9)


def test_output_is_the_callers(model, tokens):
    """A logit is linear in the head's input; an earlier position does not see a later one."""
    assert not layer_interaction(
        model, "lm_head", tokens, 4, output=lambda logits: logits[:, -1, 5]
    ).any()
    assert not layer_interaction(
        model, LAYER, tokens, 4, position=2, output=lambda logits: logits[:, 1].logsumexp(-1)
    ).any()
    assert layer_interaction(
        model, LAYER, tokens, 4, position=2, output=lambda logits: logits[:, 3].logsumexp(-1)
    ).all()
    assert not layer_interaction(model, LAYER, tokens, 4, output=lambda logits: torch.ones(3)).any()


def test_adapter_and_seed_matter(model, tokens):
    found = layer_interaction(model, LAYER, tokens, 4)
    assert found.shape == (4, 4)
    assert np.array_equal(found, layer_interaction(model, LAYER, tokens.numpy(), 4))
    assert not np.allclose(found, layer_interaction(model, LAYER, tokens, 4, seed=1))
    assert np.array_equal(
        layer_interaction(model, LAYER, tokens, 8),
        layer_interaction(model, LAYER, tokens, range(8)),
    )
    with pk.disabled(model):
        assert not np.allclose(found, layer_interaction(model, LAYER, tokens, 4))


def test_trainable_weights_are_not_features(tokens):
    """What depends on parameters that train, but not on the features, or only linearly, is zero
    like any other.
    """
    net = nn.Sequential(nn.Embedding(19, 8), nn.Linear(8, 3))
    assert not layer_interaction(net, "1", tokens, 4, output=lambda logits: logits[:, -1, 0]).any()
    assert not layer_interaction(
        net, "1", tokens, 4, output=lambda logits: net[1].weight.square().sum().expand(3)
    ).any()


def test_dropout_does_not_act(tokens):
    net = nn.Sequential(nn.Embedding(19, 8), nn.Linear(8, 8), nn.Dropout(0.5)).train()
    first, again = (layer_interaction(net, "1", tokens, 4) for _ in range(2))
    assert np.array_equal(first, again)
    assert first.all()


def snapshot(model):
    hooks = [
        (len(m._forward_pre_hooks), len(m._forward_hooks), m.training) for m in model.modules()
    ]
    return (
        hooks,
        [(p.requires_grad, p.grad) for p in model.parameters()],
        copy.deepcopy(model.state_dict()),
    )


def fails(logits):
    raise ZeroDivisionError


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({}, None),
        ({"output": fails}, ZeroDivisionError),
        ({"output": lambda logits: logits}, pk.PerakitError),
        ({"features": [99]}, pk.PerakitError),
        ({"layer": "transformer.wte"}, pk.PerakitError),
    ],
)
def test_the_model_is_left_as_it_was(model, tokens, options, error):
    model.train()
    model.transformer.h[1].eval()  # a mixed state, which model.train(True) would not bring back
    model.transformer.wpe.register_forward_pre_hook(lambda *_: None)
    seed, before = torch.get_rng_state(), snapshot(model)
    arguments = {"layer": LAYER, "tokens": tokens, "features": 3, **options}
    if error:
        with pytest.raises(error):
            layer_interaction(model, **arguments)
    else:
        layer_interaction(model, **arguments)
    after = snapshot(model)
    assert after[:2] == before[:2]
    assert all(torch.equal(after[2][name], value) for name, value in before[2].items())
    assert torch.equal(torch.get_rng_state(), seed)
    assert torch.is_grad_enabled()


def test_it_works_without_grad(model, tokens):
    expected = layer_interaction(model, LAYER, tokens, 3)
    with torch.no_grad():
        assert np.array_equal(layer_interaction(model, LAYER, tokens, 3), expected)


class Twice(nn.Module):
    """One layer used twice, one not at all."""

    def __init__(self):
        super().__init__()
        self.embed, self.layer, self.idle = nn.Embedding(19, 8), nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, ids):
        return self.layer(self.layer(self.embed(ids)))


@pytest.mark.parametrize(("layer", "times"), [("layer", 2), ("idle", 0)])
def test_a_layer_must_be_used_once(tokens, layer, times):
    with pytest.raises(
        pk.PerakitError, match=f"layer '{layer}' is used {times} times in one forward pass"
    ):
        layer_interaction(Twice(), layer, tokens, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": 3}, "the first argument is the model, a torch.nn.Module, not 3"),
        (
            {"layer": "transformer.h.0.mlp.c_fd"},
            r"no layer 'transformer.h.0.mlp.c_fd': choose one such as transformer.h.0.mlp.c_fc",
        ),
        ({"layer": 7}, "no layer 7: choose one such as transformer, transformer.wte"),
        (
            {"layer": "transformer.wte"},
            (
                r"'transformer.wte' gets a torch.int64 tensor \(3, 5\) as its first input, not"
                r" floats \(3, 5, 'n'\)"
            ),
        ),
        ({"tokens": [1, 2]}, r"tokens are a torch.int64 tensor \(2,\): pass integer ids \(N, T\)"),
        ({"tokens": [[0.5]]}, "tokens are a torch.float32 tensor"),
        ({"tokens": [[]]}, r"tokens are .* \(1, 0\)"),
        ({"tokens": [["a"]]}, "tokens are no array of integers"),
        (
            {"tokens": [[5, 19]]},
            r"the model refuses tokens 5 ... 19 \(IndexError.*pass ids of its vocabulary",
        ),
        ({"tokens": [[1] * 9]}, "9 tokens exceed this model's context of 8"),
        ({"position": 5}, r"position=5 is outside a window of 5 tokens: choose -5 ... 4"),
        ({"position": -6}, "position=-6 is outside"),
        ({"position": 1.0}, "position=1.0 is outside"),
        ({"features": 9}, "features=9 is more than the layer's 8 inputs: choose at most 8"),
        ({"features": 0}, "features=0 must be an integer >= 1"),
        ({"features": [0, 8]}, r"feature 8 is not an input of the layer: choose from 0 ... 7"),
        ({"features": [-1]}, "feature -1 is not an input"),
        ({"features": [1, 1]}, r"features=\[1, 1\] must be distinct"),
        ({"features": []}, r"features=\[\] must be distinct indices, at least one"),
        ({"features": None}, "features=None is neither a count nor indices"),
        (
            {"output": lambda logits: logits.sum()},
            (
                r"output returned a torch.float64 tensor \(\): return one float a window, a tensor"
                r" \(3,\)"
            ),
        ),
        (
            {"output": lambda logits: logits[:, 0, 0] / 0},
            "output|second derivative by features 0 and 0 is nan",
        ),
        (
            {
                "model": nn.Sequential(nn.Embedding(19, 8), nn.Linear(8, 4), nn.Flatten()),
                "layer": "1",
            },
            "not logits .*: pass output",
        ),
    ],
)
def test_bad_input_of_a_model(model, tokens, options, message):
    arguments = {"model": model, "layer": LAYER, "tokens": tokens, "features": 3, **options}
    with pytest.raises(pk.PerakitError, match=message):
        layer_interaction(**arguments)


class Flash(nn.Module):
    """A model that insists on the attention kernel without second derivative."""

    def __init__(self):
        super().__init__()
        self.embed, self.layer = nn.Embedding(19, 8), nn.Linear(8, 8)

    def forward(self, ids):
        x = self.layer(self.embed(ids))[:, None]  # (N, 1, T, 8): one head
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            return torch.nn.functional.scaled_dot_product_attention(x, x, x)[:, 0]


def test_a_model_without_second_derivative(tokens):
    with pytest.raises(
        pk.PerakitError,
        match=r"the model has no second derivative \(RuntimeError.*: load it with plain attention",
    ):
        layer_interaction(Flash(), "layer", tokens, 3)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_transformers(tokens, implementation):
    """The same numbers on transformers' GPT-2 with the same weights."""
    transformers = pytest.importorskip("transformers")
    config = Config(vocab_size=19, n_positions=8, n_embd=8, n_layer=2, n_head=2)
    ours = GPT2(config).double()
    theirs = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            **config.to_dict(), attn_implementation=implementation, bos_token_id=0, eos_token_id=0
        )
    ).double()
    theirs.load_state_dict(ours.state_dict())
    theirs.train()  # with dropout, which must not act
    for layer in (LAYER, "transformer.h.1"):
        assert np.allclose(
            layer_interaction(theirs, layer, tokens, 4),
            layer_interaction(ours, layer, tokens, 4),
            rtol=1e-9,
        )


def test_the_tiny_model():
    model = pk.toy.load("tiny")
    pk.attach(model, pk.PERA(rank=2), ["c_attn"])
    strategies.move(model, size=0.05)
    tokens = torch.randint(32, 127, (2, 12), generator=torch.Generator().manual_seed(0))
    found = layer_interaction(model, "transformer.h.2.attn.c_attn", tokens)
    assert found.shape == (16, 16)
    assert np.allclose(found, found.T, rtol=1e-2, atol=1e-6)  # float32
    assert found.min() > 0
