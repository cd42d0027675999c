"""What stands around an adapted layer in other people's programs: in-place layers, exporters,
tracers, other devices and precisions.
"""

import pytest
import torch
from torch import nn

import perakit as pk
from perakit import strategies, testing
from perakit.adapters.pera import PERAAdapter
from perakit.fast import product, seam

METHODS = [pk.LoRA(rank=2), pk.PERA(rank=2, alpha=3, feature_scale=0.5)]
every_method = pytest.mark.parametrize("method", METHODS, ids=["lora", "pera"])


def model_of(method, m=48, n=40, dtype=torch.float32):
    return testing.adapted(method, strategies.make_layer("Linear", m, n, dtype=dtype), seed=1)


@every_method
@pytest.mark.parametrize("shape", [(40,), (3, 40), (2, 3, 40), (2, 300, 40)], ids=str)
@pytest.mark.parametrize("strided", [False, True])
def test_the_output_can_be_changed_in_place(method, shape, strided):
    """As an in-place ReLU does."""
    model, other = model_of(method), model_of(method)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    if strided:
        x = x.expand(2, *shape).transpose(0, 1)[:, 0] if len(shape) < 3 else x.transpose(0, 1)
    y = model(x)
    y += 1
    y.sum().backward()
    (other(x) + 1).sum().backward()
    mine, theirs = ([p.grad for p in one.parameters() if p.requires_grad] for one in (model, other))
    assert mine
    assert all(map(torch.equal, mine, theirs))


@pytest.mark.thorough
@every_method
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_compiled_once_for_all_lengths(method):
    """The second length makes sizes symbolic; two layers, since a compiler treats their numbers as
    one where they are equal.
    """
    torch._dynamo.reset()
    model = nn.Sequential(model_of(method)[0], model_of(method, 40, 48)[0])
    compiled = torch.compile(model, fullgraph=True)
    for tokens in (10, 20, 300):
        x = torch.randn(tokens, 40, generator=torch.Generator().manual_seed(tokens))
        torch.testing.assert_close(compiled(x), model(x), rtol=1e-4, atol=1e-5)
        compiled(x).sum().backward()


@every_method
def test_exported_with_any_number_of_tokens(method):
    model, tokens = model_of(method).eval(), torch.export.Dim("tokens", min=2, max=100_000)
    exported = torch.export.export(
        model, (torch.randn(30, 40),), dynamic_shapes=({0: tokens},)
    ).module()
    x = torch.randn(3000, 40, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(exported(x), model(x), rtol=1e-4, atol=1e-5)


@every_method
@pytest.mark.filterwarnings(
    "ignore:.*torch.jit:DeprecationWarning", "ignore::torch.jit.TracerWarning"
)
def test_a_traced_model_follows_its_parameters(method):
    """Nothing kept is baked in: not even where it was kept when the model was traced."""
    model, x = (
        model_of(method).eval(),
        torch.randn(3, 40, generator=torch.Generator().manual_seed(0)),
    )
    with torch.no_grad():
        model(x)
        traced = torch.jit.trace(model, x)
        model[0].adapter.B.mul_(3)
        torch.testing.assert_close(traced(x), model(x), rtol=1e-4, atol=1e-5)


@every_method
def test_the_meta_device_gives_shapes(method):
    model = model_of(method).to("meta")
    x = torch.randn(5, 40, device="meta", requires_grad=True)
    y = model(x)
    assert y.shape == (5, 48)
    assert torch.autograd.grad(y.sum(), x)[0].shape == (5, 40)


@every_method
def test_gradients_of_many_outputs_at_once(method):
    model, x = model_of(method, 4, 5, torch.float64), torch.randn(3, 5, dtype=torch.float64)
    A, each = model[0].adapter.A, torch.eye(12, dtype=torch.float64).view(12, 3, 4)
    batched = torch.func.vmap(lambda g: torch.autograd.grad(model(x), A, g)[0])(each)
    torch.testing.assert_close(
        batched, torch.stack([torch.autograd.grad(model(x), A, g)[0] for g in each])
    )


@pytest.mark.parametrize("method", [pk.PERA(rank=2), pk.DoRA(rank=2)], ids=["pera", "dora"])
@pytest.mark.parametrize(("precision", "added"), [("ieee", True), ("bf16", False), ("tf32", False)])
def test_where_products_are_rounded_the_update_stays_apart(method, precision, added, monkeypatch):
    """TF32 and bfloat16 keep 10 and 7 bits of what they multiply: an update of 2^-12 of W0 would be
    gone.
    """
    weights = []

    def seen(W0, *factors):
        weights.append(W0)
        return product.merged(W0, *factors)

    monkeypatch.setattr(seam, "merged", seen)
    monkeypatch.setattr(
        seam,
        "multiply",
        lambda dense, x, W0, *rest: weights.append(W0) or product.multiply(dense, x, W0, *rest),
    )
    model, setting = model_of(method, 64, 64), torch.backends.mkldnn.matmul
    before, setting.fp32_precision = setting.fp32_precision, precision
    try:
        with torch.no_grad():
            model(torch.zeros(4096, 64))
    finally:
        setting.fp32_precision = before
    assert any(W0 is not None for W0 in weights) is added


def test_other_factors_of_a_subclass_are_obeyed():
    """By the forward pass as by ΔW."""

    class Doubled(PERAAdapter):
        def factors(self):
            B_hat, A_hat = super().factors()
            return 2 * B_hat, A_hat

    model = model_of(pk.PERA(rank=2), 5, 7, torch.float64)
    layer, x = model[0], torch.randn(3, 7, dtype=torch.float64)
    layer.adapter.__class__ = Doubled
    torch.testing.assert_close(
        model(x), x @ (layer.W0 + layer.delta).T + layer.bias, rtol=1e-12, atol=1e-12
    )
