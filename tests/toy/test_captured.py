"""Training by a recorded step: the bits of training without one, and when nothing is recorded.

A CPU has no CUDA graphs. Here a stand-in records as one does: fixed places for what goes in and
comes out, and gradients that are written where they were, not added and not put back if dropped.
"""

from dataclasses import replace

import pytest
import torch
from torch import nn

import perakit as pk
from perakit import toy
from perakit.toy import captured
from perakit.toy.training import DivergedError

TEXT = toy.corpus.load("synthetic", limit=20_000)
RECIPE = toy.Recipe(
    steps=7, batch=2, context=8, warmup=2, eval_every=3, eval_windows=2, checkpoint_every=2
)


class Recorder:
    """What `captured.on_cuda` is on a GPU."""

    def __init__(self):
        self.recorded = self.replayed = 0
        self.error = None

    def __call__(self, work, clear, device):
        for _ in range(3):
            clear()
            work()
        clear()
        if self.error:
            raise self.error
        self.recorded += 1
        results = work()
        trained = [p for group in clear.__self__.param_groups for p in group["params"]]
        places = [p.grad for p in trained]

        def again():
            self.replayed += 1
            held = [p.grad for p in trained]
            clear()
            for place, new in zip(results, work(), strict=True):
                place.copy_(new)
            for p, place, before in zip(trained, places, held, strict=True):
                place.copy_(p.grad)
                p.grad = before

        return again, results


@pytest.fixture
def recorder(monkeypatch):
    """Takes part as if the CPU could record; three steps are worth it."""
    recorder = Recorder()
    monkeypatch.setitem(captured.RECORDERS, "cpu", recorder)
    monkeypatch.setattr(captured, "LEAST", 3)
    return recorder


PERA = pk.PERA(rank=2)


def make(method=PERA):
    torch.manual_seed(0)
    model = toy.GPT2(toy.Config(n_positions=8, n_embd=8, n_layer=1, n_head=2))
    pk.attach(model, method, "all-linear")
    return model


def trained(recipe=RECIPE, out=None, model=None, **options):
    """The parameters after training, and the rows without their clock."""
    model = model or make()
    run = toy.train(model, TEXT, recipe, out, progress=False, **options)
    rows = [
        {key: value for key, value in row.items() if key not in ("seconds", "peak_bytes")}
        for row in run.metrics
    ]
    return [p.detach().clone() for p in model.parameters()], rows


def assert_same(one, other):
    assert one[1] == other[1]
    assert all(map(torch.equal, one[0], other[0]))


def unrecorded(monkeypatch, **arguments):
    with monkeypatch.context() as without:
        without.delitem(captured.RECORDERS, "cpu")
        return trained(**arguments)


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("method", [pk.LoRA(rank=2), PERA], ids=lambda one: one.name)
def test_the_bits_of_a_run_that_is_not_recorded(method, bf16, recorder, monkeypatch):
    recipe = replace(RECIPE, bf16=bf16)
    expected = unrecorded(monkeypatch, recipe=recipe, model=make(method))
    assert_same(trained(recipe, model=make(method)), expected)
    assert (recorder.recorded, recorder.replayed) == (1, RECIPE.steps - 1)


def test_a_run_that_was_stopped_goes_on(recorder, monkeypatch, tmp_path):
    expected = unrecorded(monkeypatch, out=tmp_path / "whole")
    monkeypatch.setattr(
        toy.log.Log, "checkpoint", _stop_after(toy.log.Log.checkpoint, 2), raising=True
    )
    with pytest.raises(KeyboardInterrupt):
        trained(out=tmp_path / "run")
    assert recorder.recorded == 1
    assert_same(trained(out=tmp_path / "run"), expected)
    assert recorder.recorded == 2
    files = [tmp_path / name / "checkpoint.safetensors" for name in ("whole", "run")]
    assert len({file.read_bytes() for file in files}) == 1


def _stop_after(checkpoint, step):
    stopped = []

    def then(self, done, *rest):
        checkpoint(self, done, *rest)
        if done == step and not stopped:
            stopped.append(done)
            raise KeyboardInterrupt

    return then


def test_a_loss_that_is_not_finite_stops_it_at_the_same_step(recorder, monkeypatch):
    recipe, models, messages = replace(RECIPE, lr=1e30), [make(), make()], []
    for model, go in zip(models, (lambda **k: unrecorded(monkeypatch, **k), trained), strict=True):
        with pytest.raises(DivergedError) as caught:
            go(recipe=recipe, model=model)
        messages.append(str(caught.value))
    assert recorder.recorded == 1
    assert messages[0] == messages[1]
    assert all(map(torch.equal, models[0].parameters(), models[1].parameters()))


@pytest.mark.parametrize("error", [RuntimeError, torch.OutOfMemoryError])
def test_what_cannot_be_recorded_runs_as_it_stands(error, recorder, monkeypatch, capsys):
    recorder.error = error("operation not permitted\nwhen stream is capturing")
    expected = unrecorded(monkeypatch)
    assert_same(trained(), expected)
    assert capsys.readouterr().err == (
        "perakit: the steps run without a CUDA graph: operation not permitted\n"
    )


class Counting(nn.Module):
    """A model that writes a buffer at each step."""

    def __init__(self, model):
        super().__init__()
        self.model = model
        self.register_buffer("steps", torch.zeros(()))

    def forward(self, ids):
        self.steps += self.training
        return self.model(ids)


def _hooked():
    model = make()
    model.lm_head.register_forward_hook(lambda *_: None)
    return model


@pytest.mark.parametrize(
    "arguments",
    [
        {"model": lambda: make(pk.PERA(rank=2, dropout=0.5))},
        {"model": lambda: Counting(make())},
        {"model": _hooked},
        {"after_step": lambda: lambda _: None},
        {"recipe": lambda: replace(RECIPE, steps=2)},
    ],
    ids=["draws", "writes a buffer", "has a hook", "is looked at", "few steps"],
)
def test_what_is_not_recorded(arguments, recorder, monkeypatch):
    expected = unrecorded(monkeypatch, **{key: make() for key, make in arguments.items()})
    assert_same(trained(**{key: make() for key, make in arguments.items()}), expected)
    assert recorder.recorded == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu(monkeypatch, capsys):
    recipe = replace(RECIPE, steps=captured.LEAST)
    found, rows = trained(recipe, model=make().cuda())
    assert "without a CUDA graph" not in capsys.readouterr().err
    monkeypatch.delitem(captured.RECORDERS, "cuda")
    expected, others = trained(recipe, model=make().cuda())
    assert rows[-1]["heldout_bits_per_byte"] == pytest.approx(
        others[-1]["heldout_bits_per_byte"], rel=1e-4
    )
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
