"""λmax by Lanczos iterations, beside all eigenvalues of a small model's full Hessian."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from perakit.adapters import PERA, LoRA
from perakit.errors import PerakitError
from perakit.experiments import sharpness
from perakit.experiments.arms import Options, arm
from perakit.experiments.in_full import unfreeze
from perakit.experiments.sharpness import largest
from perakit.models import adapters, attach
from perakit.toy.gpt2 import GPT2, Config

OPTIONS = Options(small=True, text="synthetic", old=None)


def settings(method, seed=0, **changes):
    return arm("x", method, windows=1, **changes).job(OPTIONS, seed, 1e-2, "judged").settings


def small(method):
    """A GPT-2 in float64 with something that trains, and its loss as a function of that."""
    torch.manual_seed(0)
    config = Config(vocab_size=16, n_positions=8, n_embd=8, n_layer=1, n_head=2)
    model = GPT2(config).double()
    if isinstance(method, str):
        unfreeze(model, method)
    else:
        attach(model, method, ["attn.c_attn", "mlp.c_proj"])
    ids = torch.randint(16, (3, 9), generator=torch.Generator().manual_seed(1))
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    parameters = [p for p in model.parameters() if p.requires_grad]

    def loss(*values):
        with sdpa_kernel(SDPBackend.MATH):
            given = dict(zip(names, values, strict=True))
            logits = torch.func.functional_call(model, given, (ids[:, :-1],))
        return F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())

    return model, parameters, loss


def full_hessian(loss, parameters):
    rows = torch.autograd.functional.hessian(loss, tuple(p.detach() for p in parameters))
    blocks = [
        [block.reshape(a.numel(), b.numel()) for block, b in zip(row, parameters, strict=True)]
        for row, a in zip(rows, parameters, strict=True)
    ]
    return torch.cat([torch.cat(row, 1) for row in blocks]).numpy()


@pytest.mark.parametrize("method", [LoRA(2), PERA(2), "biases", "last block"])
def test_it_is_the_largest_of_all_eigenvalues(method):
    _, parameters, loss = small(method)
    every = np.linalg.eigvalsh(full_hessian(loss, parameters))
    for seed in (0, 1):
        value, products, residual = largest(loss(*parameters), parameters, seed)
        assert value == pytest.approx(every[-1], rel=1e-4)
        assert residual <= sharpness.TOLERANCE
        assert products <= 100


def test_at_loras_start_the_hessian_is_indefinite():
    """With B = 0 its block of A is zero, and the block of A and B is not."""
    model, parameters, loss = small(LoRA(2))
    hessian = full_hessian(loss, parameters)
    assert np.linalg.eigvalsh(hessian)[0] < -1e-3
    at = 0
    for p in parameters:
        block = hessian[at : at + p.numel(), at : at + p.numel()]
        at += p.numel()
        is_A = any(p is adapter.A for adapter in adapters(model).values())
        assert (np.abs(block).max() < 1e-12) == is_A


def test_the_most_negative_eigenvalue_is_not_taken_for_the_largest():
    x = torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64, requires_grad=True)
    weights = torch.tensor([-100.0, 3.0, 1.0], dtype=torch.float64)
    value, _, residual = largest((weights * x.square()).sum() / 2, [x], 0)
    assert value == pytest.approx(3)
    assert residual < 1e-6


def test_the_same_settings_give_the_same_number():
    asked = settings(LoRA(2))
    asked["recipe"] |= {"context": 16}
    found = sharpness.sharpness(asked)
    assert found.keys() == {"lambda", "iterations", "residual"}
    assert found["residual"] <= sharpness.TOLERANCE
    assert 10 <= found["iterations"] <= 100
    assert found == sharpness.sharpness(asked)


def test_where_h_is_zero_pera_starts_as_sharp_as_lora_and_the_scale_does_not_matter():
    found = []
    for method in (LoRA(2), PERA(2), PERA(2, feature_scale=1920)):
        _, parameters, loss = small(method)
        found.append(largest(loss(*parameters), parameters, 0)[0])
    assert found[1:] == pytest.approx([found[0]] * 2, rel=1e-4)


def test_a_loss_that_is_not_finite_has_no_curvature():
    x = nn.Parameter(torch.zeros(3))
    with pytest.raises(PerakitError, match=r"the loss, nan, has a gradient that is not finite"):
        largest((x / 0 * x).sum(), [x], 0)


def test_a_text_that_fills_no_window_is_refused(tmp_path):
    path = tmp_path / "short.txt"
    path.write_text("too short " * 3)
    with pytest.raises(PerakitError, match=r"the training text has \d+ tokens, a window needs 65"):
        sharpness.sharpness(settings(LoRA(2), text=str(path)))
