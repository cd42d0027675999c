"""Whole models on a device: 4 bits, files, what is read off them, and `perakit finetune`."""

import copy
import json

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import perakit as pk
from perakit import strategies, theory, toy
from perakit.cli import main
from perakit.models.quantize import NF4, NF4Layer


def net(device="cpu", dtype=torch.float32):
    first, second = (
        strategies.make_layer(kind, *shape, dtype=dtype, seed=3)
        for kind, shape in (("Linear", (53, 37)), ("Conv1D", (29, 53)))
    )
    return nn.Sequential(first, nn.Tanh(), second).to(device).eval()


def adapted(device, method, dtype=torch.float32, **options):
    model = net(device, dtype)
    pk.attach(model, method, "all-linear", **options)
    return strategies.move(model, size=0.1)


def inputs(device, dtype=torch.float32):
    x = torch.randn(11, 37, generator=torch.Generator().manual_seed(5))
    return x.to(device, dtype)


def test_a_block_is_rounded_to_4_bits_as_on_a_cpu(device):
    layer, config = strategies.make_layer("Linear", 53, 64, seed=3), NF4(double=False)
    here, there = (NF4Layer.of(one, config) for one in (layer, copy.deepcopy(layer).to(device)))
    assert torch.equal(there.codes.cpu(), here.codes)
    assert torch.equal(there.absmax.cpu(), here.absmax)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "method",
    [pk.LoRA(rank=4), pk.PERA(rank=4), pk.DoRA(rank=4)],
    ids=lambda method: f"{method.name}-{method.rank}",
)
def test_a_base_of_4_bits(method, dtype, device):
    model, x = adapted(device, method, dtype, quantize="nf4"), inputs(device, dtype)
    y, tolerance = model(x).detach(), 1e-5 if dtype == torch.float32 else 4e-2
    close = {"rtol": tolerance, "atol": tolerance * float(y.abs().max())}
    torch.testing.assert_close(y.cpu(), copy.deepcopy(model).cpu()(x.cpu()), **close)
    model.train()(x).float().square().sum().backward()
    for adapter in pk.adapters(model).values():
        for name, parameter in adapter.named_parameters():
            assert parameter.grad.isfinite().all(), name
            assert parameter.grad.any(), name
    pk.merge(model.eval(), dequantize=True)
    torch.testing.assert_close(model(x), y, **close)
    pk.unmerge(model)
    assert torch.equal(model(x), y)


@pytest.mark.parametrize("options", [{}, {"quantize": "nf4"}], ids=["full", "nf4"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_what_one_device_saves_another_loads(dtype, options, device, tmp_path):
    model, x = adapted(device, pk.PERA(rank=3), dtype, **options), inputs(device, dtype)
    y = model(x)
    pk.save(model, tmp_path)
    for start in (device, "cpu"):
        loaded = net(device, dtype)
        if options:  # rounded here, since other devices may round a mean otherwise
            pk.quantize(loaded)
        pk.load(loaded.to(start), tmp_path)
        assert {p.device.type for p in loaded.parameters()} == {start}
        assert torch.equal(loaded.to(device)(x), y)


def test_what_is_read_off_a_model_is_what_the_cpu_reads(device, tmp_path):
    model, x = adapted(device, pk.PERA(rank=3)), inputs(device)
    on_cpu = copy.deepcopy(model).cpu()
    for name, delta in pk.delta_weights(model).items():
        torch.testing.assert_close(delta.cpu(), pk.delta_weights(on_cpu)[name])
    shares = [theory.order_share(one).overall for one in (model, on_cpu)]
    assert shares[0] == pytest.approx(shares[1], rel=1e-4)
    y = model(x)
    for one, folder in ((model, "device"), (on_cpu, "cpu")):
        pk.export_peft(one, tmp_path / folder)
        pk.bake(one)
    found, expected = (
        load_file(tmp_path / folder / "adapter_model.safetensors") for folder in ("device", "cpu")
    )
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(model(x), y, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bf16", [False, True])
def test_training_is_the_same_whether_or_not_somebody_looks_on(bf16, device):
    """On CUDA a step is a recorded graph as long as nobody does."""
    text, losses = toy.corpus.load("synthetic", limit=20_000), []
    recipe = toy.Recipe(steps=24, batch=4, context=16, bf16=bf16)
    for after_step in (None, lambda done: None):
        torch.manual_seed(0)
        model = toy.GPT2(toy.Config(n_positions=16, n_embd=16, n_layer=1, n_head=2)).to(device)
        pk.attach(model, pk.PERA(rank=4), "all-linear")
        run = toy.train(model, text, recipe, after_step=after_step, progress=False)
        losses.append([loss for _, loss in run.losses])
    assert losses[0] == pytest.approx(losses[1], rel=1e-2 if bf16 else 1e-4)
    assert losses[0][-1] < losses[0][0] - 0.1


def test_finetune_learns_and_a_cpu_loads_its_adapters(device, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("perakit.toy.finetune.SAMPLE_TOKENS", 4)  # they take longer than the steps
    arguments = "--text synthetic --limit 20000 --steps 24 --context 32 --batch 4 --rank 2"
    more = ["--method", "lora", "pera", "--device", device, "--out", str(tmp_path)]
    assert main(["finetune", *arguments.split(), *more]) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    text, model = toy.corpus.load("synthetic", limit=20_000), toy.load("tiny")
    for outcome, name in zip(results["outcomes"], ("lora", "pera"), strict=True):
        assert outcome["new"] < results["before"][0] - 1
        assert outcome["merge_gap_relative"] < 1e-4
        pk.load(model, tmp_path / f"{name}-r=2" / "adapter")
        found = toy.bits_per_byte(model, text.heldout, context=32, windows=64)
        assert found == pytest.approx(outcome["new"], rel=1e-4)
        pk.detach(model)
