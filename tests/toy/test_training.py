"""The training loop: seeded, measured, and resumable to the bit.

Run as a program, this file is the worker of the kill test: `python test_training.py FOLDER`.
"""

import json
import math
import os
import random
import signal
import subprocess
import sys
import time
import traceback
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

import perakit as pk
from perakit import PerakitError, files, rows, toy

CONFIG = toy.Config(n_positions=16, n_embd=16, n_layer=1, n_head=2)
TEXT = toy.corpus.load("synthetic", limit=20_000)
RECIPE = toy.Recipe(
    steps=24, batch=2, context=16, warmup=4, eval_every=5, eval_windows=4, checkpoint_every=3
)


def make(kind="lora", seed=0):
    """A model to train, always the same for the same seed: with adapters, or all of it; with
    dropout.
    """
    torch.manual_seed(seed)
    model = toy.GPT2(CONFIG)
    if kind == "full":
        return nn.Sequential(model, nn.Dropout(0.1))
    method = {"lora": pk.LoRA(3, dropout=0.2), "pera": pk.PERA(3, dropout=0.2)}[kind]
    pk.attach(model, method, ["c_attn", "mlp.c_proj"])
    return model


class Uniform(nn.Module):
    """Knows nothing: every byte costs log2(256) = 8 bits."""

    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(256))

    def forward(self, ids):
        return self.bias.expand(*ids.shape, 256)


class Noisy(Uniform):
    """With a loss that is not a number."""

    def forward(self, ids):
        return super().forward(ids) * math.nan


def parameters(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def without_clock(rows):
    """Metrics but what the machine decides."""
    return [
        {key: value for key, value in row.items() if key not in ("seconds", "peak_bytes")}
        for row in rows
    ]


def read(path):
    return [row.values for row in rows.read_rows(path, rows.LIMIT, "")]


class TestRecipe:
    def test_learning_rate_by_hand(self):
        recipe = toy.Recipe(steps=10, warmup=4, lr=0.12)
        rates = [recipe.lr_at(step) for step in range(10)]
        assert rates == pytest.approx([0.03, 0.06, 0.09, 0.12, 0.12, 0.10, 0.08, 0.06, 0.04, 0.02])

    @pytest.mark.parametrize("warmup", [0, 1])
    def test_without_warmup(self, warmup):
        assert [
            toy.Recipe(steps=4, warmup=warmup, lr=1.0).lr_at(step) for step in range(4)
        ] == pytest.approx([1, 0.75, 0.5, 0.25] if warmup == 0 else [1, 1, 2 / 3, 1 / 3])

    @pytest.mark.parametrize(("steps", "warmup"), [(1, 10), (7, 7), (120, 10), (3, 100)])
    def test_it_stays_within_the_peak_and_above_zero(self, steps, warmup):
        recipe = toy.Recipe(steps=steps, warmup=warmup, lr=0.5)
        assert all(0 < recipe.lr_at(step) <= 0.5 for step in range(steps))

    @pytest.mark.parametrize(
        "name", ["steps", "batch", "context", "eval_every", "eval_windows", "checkpoint_every"]
    )
    @pytest.mark.parametrize("value", [0, -1, 1.0, True, "8", None])
    def test_counts(self, name, value):
        with pytest.raises(PerakitError, match=rf"{name}={value!r} must be an integer >= 1"):
            toy.Recipe(**{name: value})

    @pytest.mark.parametrize("name", ["lr", "clip"])
    @pytest.mark.parametrize("value", [0, -1e-3, math.nan, math.inf, "1e-3", None])
    def test_positive_numbers(self, name, value):
        with pytest.raises(PerakitError, match=rf"{name}={value!r} must be a positive number"):
            toy.Recipe(**{name: value})

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("beta2", 1.0),
            ("beta2", -0.1),
            ("weight_decay", -0.1),
            ("weight_decay", math.nan),
            ("warmup", -1),
        ],
    )
    def test_the_other_numbers(self, name, value):
        with pytest.raises(PerakitError, match=rf"{name}="):
            toy.Recipe(**{name: value})


class TestBitsPerByte:
    def test_knowing_nothing_costs_eight_bits(self):
        assert toy.bits_per_byte(Uniform(), TEXT.heldout, context=16) == pytest.approx(8, rel=1e-6)

    def test_knowing_one_byte(self):
        model = Uniform()
        with torch.no_grad():
            model.bias[ord("a")] = math.log(255)  # probability 1/2; each of the others 1/510
        assert toy.bits_per_byte(model, b"a" * 50, context=7) == pytest.approx(1, rel=1e-6)
        assert toy.bits_per_byte(model, b"b" * 50, context=7) == pytest.approx(
            math.log2(510), rel=1e-6
        )

    @pytest.mark.parametrize(
        ("length", "context", "batch"),
        [(17, 16, 16), (100, 7, 3), (113, 16, 1), (34, 16, 16), (33, 16, 16), (32, 16, 9)],
    )
    def test_it_equals_an_explicit_loop(self, length, context, batch):
        torch.manual_seed(0)
        model, text = toy.GPT2(CONFIG).eval(), TEXT.heldout[:length]
        costs = []
        for start in range(0, length, context):
            window = text[start : start + context + 1]
            if len(window) == context + 1:
                with torch.no_grad():
                    logits = model(torch.tensor([list(window[:-1])]))[0].double()
                probabilities = logits.exp() / logits.exp().sum(-1, keepdim=True)
                costs += [-math.log2(probabilities[t, byte]) for t, byte in enumerate(window[1:])]
        assert len(costs) >= context
        assert toy.bits_per_byte(model, text, context=context, batch=batch) == pytest.approx(
            sum(costs) / len(costs), rel=1e-5
        )

    def test_fewer_windows_are_spread_evenly(self):
        model = Uniform()
        with torch.no_grad():
            model.bias[ord("a")] = 3
        # 5 windows of 8 targets: a b a b a
        text = b"b" + b"a" * 8 + b"b" * 8 + b"a" * 8 + b"b" * 8 + b"a" * 8
        a, b = (toy.bits_per_byte(model, c * 9, context=8) for c in (b"a", b"b"))
        assert toy.bits_per_byte(model, text, context=8, windows=3) == pytest.approx(a, rel=1e-6)
        # First and last
        assert toy.bits_per_byte(model, text, context=8, windows=2) == pytest.approx(a, rel=1e-6)
        assert toy.bits_per_byte(model, text, context=8, windows=99) == pytest.approx(
            (3 * a + 2 * b) / 5, rel=1e-6
        )

    def test_a_model_of_transformers(self):
        transformers = pytest.importorskip("transformers")
        theirs = transformers.GPT2LMHeadModel(
            transformers.GPT2Config(vocab_size=256, n_positions=16, n_embd=16, n_layer=1, n_head=2)
        )
        ours = toy.GPT2(CONFIG)
        ours.load_state_dict(theirs.state_dict())
        assert toy.bits_per_byte(theirs, TEXT.heldout, 16) == pytest.approx(
            toy.bits_per_byte(ours, TEXT.heldout, 16), rel=1e-5
        )

    def test_dropout_is_off_and_the_mode_comes_back(self):
        model = make("full")
        for module in (model, model[0]):
            module.train()
        noisy = [toy.bits_per_byte(model, TEXT.heldout, 16) for _ in range(2)]
        assert noisy[0] == noisy[1]
        assert all(module.training for module in model.modules())
        model.eval()
        assert toy.bits_per_byte(model, TEXT.heldout, 16) == noisy[0]
        assert not any(module.training for module in model.modules())

    def test_a_part_in_another_mode_stays_so(self):
        model = make("full").train()
        model[1].eval()  # a reader has switched this dropout off
        toy.bits_per_byte(model, TEXT.heldout, 16)
        assert not model[1].training
        assert model[0].training

    def test_the_mode_comes_back_after_an_error(self):
        model = make("full").train()
        with pytest.raises(PerakitError, match="exceed this model's context of 16"):
            toy.bits_per_byte(model, TEXT.heldout, context=17)
        assert model.training

    def test_it_makes_no_graph_and_draws_nothing(self):
        model, state = make("full"), torch.get_rng_state()
        toy.bits_per_byte(model, TEXT.heldout, 16)
        assert torch.equal(torch.get_rng_state(), state)
        assert all(p.grad is None for p in model.parameters())

    def test_short_text(self):
        with pytest.raises(
            PerakitError,
            match=(
                r"held-out text has 16 tokens, a window needs 17: bring a longer text or a shorter"
                r" context"
            ),
        ):
            toy.bits_per_byte(Uniform(), b"x" * 16, context=16)


class TestTrain:
    def test_the_loss_goes_down(self):
        torch.manual_seed(0)
        run = toy.train(toy.GPT2(CONFIG), TEXT, replace(RECIPE, steps=60, batch=8, lr=1e-2))
        losses = [loss for _, loss in run.losses]
        assert losses[0] == pytest.approx(8, abs=0.3)
        assert sum(losses[-5:]) / 5 < 5
        assert run.heldout[-1][1] < 5 < run.heldout[0][1]

    @pytest.mark.parametrize("kind", ["lora", "pera"])
    def test_only_adapters_move(self, kind):
        model = make(kind)
        before = parameters(model)
        toy.train(model, TEXT, RECIPE)
        for name, parameter in model.named_parameters():
            assert torch.equal(parameter, before[name]) != parameter.requires_grad, name

    def test_metrics(self, tmp_path):
        run = toy.train(make(), TEXT, RECIPE, tmp_path)
        assert [row["step"] for row in run.metrics if "loss" in row] == list(range(1, 25))
        assert [step for step, _ in run.heldout] == [0, 5, 10, 15, 20, 24]
        for row in run.metrics:
            if "loss" in row:
                assert set(row) == {"step", "loss", "lr", "grad_norm", "seconds"}
                assert row["lr"] == RECIPE.lr_at(row["step"] - 1)
                assert row["grad_norm"] > 0
            else:
                assert (
                    {"step", "heldout_bits_per_byte"}
                    <= set(row)
                    <= {"step", "heldout_bits_per_byte", "peak_bytes"}
                )
        assert run.losses == [(row["step"], row["loss"]) for row in run.metrics if "loss" in row]
        assert run.seconds == pytest.approx(sum(row.get("seconds", 0) for row in run.metrics))
        assert read(tmp_path / "metrics.jsonl") == run.metrics

    def test_the_held_out_rows_are_bits_per_byte(self):
        model = make()
        first = toy.bits_per_byte(model, TEXT.heldout, 16, windows=4)
        run = toy.train(model, TEXT, RECIPE)
        assert run.heldout[0] == (0, first)
        assert run.heldout[-1] == (24, toy.bits_per_byte(model, TEXT.heldout, 16, windows=4))

    @pytest.mark.parametrize("clip", [1e-3, 1e9])
    def test_it_is_adamw_by_hand(self, clip):
        recipe = replace(RECIPE, steps=7, clip=clip, weight_decay=0.1, beta2=0.9)
        torch.manual_seed(0)
        ours, theirs = toy.GPT2(CONFIG), toy.GPT2(CONFIG)
        theirs.load_state_dict(ours.state_dict())
        seen = []
        ours.register_forward_pre_hook(
            lambda module, args: seen.append(args[0].clone()) if module.training else None
        )
        run = toy.train(ours, TEXT, recipe)
        text = bytes(TEXT.train)
        optimizer = torch.optim.AdamW(theirs.parameters(), betas=(0.9, 0.9), weight_decay=0.1)
        for step, x in enumerate(seen):
            starts = [text.index(bytes(row.tolist())) for row in x]
            y = torch.tensor([list(text[start + 1 : start + 17]) for start in starts])
            loss = F.cross_entropy(theirs(x).flatten(0, 1), y.flatten())
            optimizer.zero_grad()
            loss.backward()
            norm = math.sqrt(sum(p.grad.square().sum().item() for p in theirs.parameters()))
            for p in theirs.parameters():
                p.grad.mul_(min(1.0, clip / norm))
            optimizer.param_groups[0]["lr"] = recipe.lr_at(step)
            optimizer.step()
            row = [row for row in run.metrics if "loss" in row][step]
            assert row["loss"] == pytest.approx(loss.item() / math.log(2), rel=1e-4)
            assert row["grad_norm"] == pytest.approx(norm, rel=1e-3)
        assert len(seen) == 7
        for name, p in theirs.named_parameters():
            torch.testing.assert_close(p, ours.get_parameter(name), rtol=1e-3, atol=2e-4)

    def test_batches_depend_on_seed_and_step_only(self):
        def batches(seed, steps, kind):
            seen, model = [], make(kind)
            part = model if kind == "lora" else model[0]
            part.register_forward_pre_hook(
                lambda module, args: (
                    seen.append(args[0].clone()) if torch.is_grad_enabled() else None
                )
            )
            torch.manual_seed(random.randrange(10**6))  # what came before does not matter
            toy.train(model, TEXT, replace(RECIPE, seed=seed, steps=steps, eval_every=steps))
            return torch.stack(seen)

        long = batches(3, 8, "lora")
        # Nor does the model, its dropout, or the length of the run
        assert torch.equal(batches(3, 5, "full"), long[:5])
        assert not torch.equal(batches(4, 8, "lora"), long)
        assert len({tuple(batch.flatten().tolist()) for batch in long}) == 8

    @pytest.mark.parametrize("kind", ["lora", "full"])
    def test_the_same_twice(self, kind):
        one, other = make(kind), make(kind)
        first = toy.train(one, TEXT, RECIPE)
        torch.rand(7)
        # Reports change nothing
        second = toy.train(other, TEXT, replace(RECIPE, eval_every=7, checkpoint_every=11))
        assert equal(parameters(one), parameters(other))
        assert first.losses == second.losses

    def test_the_callers_randomness_is_left_alone(self):
        model = make("full")
        torch.manual_seed(5)
        state, python = torch.get_rng_state(), random.getstate()
        toy.train(model, TEXT, replace(RECIPE, steps=2))
        assert torch.equal(torch.get_rng_state(), state)
        assert random.getstate() == python

    @pytest.mark.parametrize("mode", [True, False])
    def test_the_mode_comes_back(self, mode):
        model = make("full").train(mode)
        toy.train(model, TEXT, replace(RECIPE, steps=2))
        assert {module.training for module in model.modules()} == {mode}

    def test_the_mode_comes_back_after_an_error(self):
        model = make("full").eval()
        with pytest.raises(PerakitError, match="exceed this model's context"):
            toy.train(model, TEXT, replace(RECIPE, context=17))
        assert not model.training

    def test_after_step(self):
        done = []
        toy.train(make(), TEXT, replace(RECIPE, steps=5), after_step=done.append)
        assert done == [1, 2, 3, 4, 5]

    def test_bf16(self):
        run = toy.train(make("full"), TEXT, replace(RECIPE, bf16=True))
        assert run.losses[0][1] != toy.train(make("full"), TEXT, RECIPE).losses[0][1]
        assert all(math.isfinite(loss) for _, loss in run.losses)

    def test_without_a_folder_nothing_is_written(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        toy.train(make(), TEXT, replace(RECIPE, steps=2))
        assert not list(tmp_path.iterdir())


class TestErrors:
    def test_short_text(self):
        short = toy.corpus.Corpus("x", b"x" * 16, b"x" * 99, "")
        with pytest.raises(
            PerakitError,
            match=(
                r"training text has 16 tokens, a window needs 17: bring a longer text or a shorter"
                r" context"
            ),
        ):
            toy.train(make(), short, RECIPE)

    def test_short_held_out_text(self):
        short = toy.corpus.Corpus("x", b"x" * 99, b"", "")
        with pytest.raises(PerakitError, match=r"held-out text has 0 tokens, a window needs 17"):
            toy.train(make(), short, RECIPE)

    def test_one_window_is_enough(self):
        toy.train(
            make(), toy.corpus.Corpus("x", b"x" * 17, b"x" * 17, ""), replace(RECIPE, steps=1)
        )

    def test_nothing_to_train(self):
        with pytest.raises(
            PerakitError,
            match=r"no parameter requires grad: attach an adapter first, or unfreeze the model",
        ):
            toy.train(toy.GPT2(CONFIG).requires_grad_(False), TEXT, RECIPE)

    def test_a_loss_that_is_not_a_number(self):
        model = Noisy()
        with pytest.raises(
            PerakitError,
            match=f"loss nan, gradient norm nan at step 0: lower lr={toy.Recipe().lr:g}",
        ):
            toy.train(model, TEXT, RECIPE)
        assert torch.equal(model.bias, torch.zeros(256))  # stopped before the step

    def test_a_learning_rate_far_too_high(self):
        with pytest.raises(PerakitError, match=r"at step \d+: lower lr=1e\+30"):
            toy.train(make("full"), TEXT, replace(RECIPE, lr=1e30))

    def test_a_folder_that_is_a_file(self, tmp_path):
        (tmp_path / "out").write_text("")
        with pytest.raises(
            PerakitError, match=r"cannot write '.*': .*; choose a folder that can be written"
        ):
            toy.train(make(), TEXT, RECIPE, tmp_path / "out")


def test_a_last_step_that_diverges_is_no_result():
    """Nothing comes after it but the held-out cost."""
    recipe = replace(RECIPE, steps=1, warmup=0, lr=1e30)
    with pytest.raises(PerakitError, match=r"cost (nan|inf) after step 1: lower lr=1e\+30"):
        toy.train(make("full"), TEXT, recipe, progress=False)


def interrupted(model, folder, steps=10, recipe=RECIPE, text=TEXT):
    """A run that stops after `steps` steps."""

    def stop(done):
        if done == steps:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        toy.train(model, text, recipe, folder, after_step=stop)


class TestResume:
    @pytest.mark.parametrize("kind", ["lora", "pera", "full"])
    @pytest.mark.parametrize("steps", [1, 3, 10, 23])
    def test_an_interrupted_run_ends_with_the_same_bits(self, kind, steps, tmp_path):
        whole, half, rest = make(kind), make(kind), make(kind)
        expected = toy.train(whole, TEXT, RECIPE)
        interrupted(half, tmp_path, steps)
        seen = []
        run = toy.train(rest, TEXT, RECIPE, tmp_path, after_step=seen.append)
        # From the last checkpoint on; the step that it was told of last is in none yet
        assert seen == list(range((steps - 1) // 3 * 3 + 1, 25))
        assert equal(parameters(rest), parameters(whole))
        assert without_clock(run.metrics) == without_clock(expected.metrics)
        assert read(tmp_path / "metrics.jsonl") == run.metrics

    def test_a_finished_run_is_read_not_repeated(self, tmp_path):
        first, again = make(), make()
        expected, seen = toy.train(first, TEXT, RECIPE, tmp_path), []
        run = toy.train(again, TEXT, RECIPE, tmp_path, after_step=seen.append)
        assert seen == []
        assert run == expected
        assert equal(parameters(first), parameters(again))

    def test_the_files(self, tmp_path):
        model = make()
        toy.train(model, TEXT, RECIPE, tmp_path / "new" / "folder")
        assert {path.name for path in (tmp_path / "new" / "folder").iterdir()} == {
            "metrics.jsonl",
            "checkpoint.safetensors",
        }
        saved = load_file(tmp_path / "new" / "folder" / "checkpoint.safetensors")
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        assert set(saved) == {
            f"{part}/{name}"
            for name in trained
            for part in ("parameter", "step", "exp_avg", "exp_avg_sq")
        }
        assert all(torch.equal(saved[f"parameter/{name}"], p) for name, p in trained.items())

    @pytest.mark.parametrize(
        "change",
        [
            {"steps": 25},
            {"batch": 3},
            {"context": 15},
            {"lr": 1e-3},
            {"seed": 1},
            {"warmup": 5},
            {"clip": 2.0},
            {"bf16": True},
        ],
    )
    def test_another_recipe_is_refused(self, change, tmp_path):
        interrupted(make(), tmp_path)
        with pytest.raises(
            PerakitError,
            match=(
                r"holds a run of another model, text or recipe: choose another folder or delete it"
            ),
        ):
            toy.train(make(), TEXT, replace(RECIPE, **change), tmp_path)

    def test_other_reports_are_not_another_recipe(self, tmp_path):
        interrupted(make(), tmp_path)
        toy.train(
            make(),
            TEXT,
            replace(RECIPE, eval_every=3, eval_windows=2, checkpoint_every=7),
            tmp_path,
        )

    def test_another_text_is_refused(self, tmp_path):
        interrupted(make(), tmp_path)
        for other in (
            replace(TEXT, train=TEXT.train[:-1] + b"!"),
            replace(TEXT, heldout=TEXT.heldout + b"!"),
        ):
            with pytest.raises(PerakitError, match="another model, text or recipe"):
                toy.train(make(), other, RECIPE, tmp_path)

    @pytest.mark.parametrize(
        "other",
        [
            lambda: make("pera"),
            lambda: make("full"),
            lambda: make(seed=1),
            lambda: adapted(pk.LoRA(3, dropout=0.2), ["c_attn"]),
            lambda: adapted(pk.LoRA(3, dropout=0.3)),
            lambda: adapted(pk.LoRA(3, alpha=6, dropout=0.2)),
            lambda: adapted(pk.LoRA(3, dropout=0.2), n_head=4),
            lambda: adapted(pk.LoRA(3, dropout=0.2), layer_norm_epsilon=1e-3),
        ],
        ids=["method", "full", "weights", "targets", "dropout", "alpha", "heads", "epsilon"],
    )
    def test_another_model_is_refused(self, other, tmp_path):
        interrupted(make(), tmp_path)
        with pytest.raises(PerakitError, match="another model, text or recipe"):
            toy.train(other(), TEXT, RECIPE, tmp_path)

    def test_another_tokenizer_is_refused(self, tmp_path):
        class Reversed(toy.training.Bytes):
            def encode(self, text):
                return 255 - super().encode(text)

        interrupted(make(), tmp_path)
        with pytest.raises(PerakitError, match="holds a run of another"):
            toy.train(make(), TEXT, RECIPE, tmp_path, tokenizer=Reversed())

    @pytest.mark.parametrize("keep", [0, 5, 200, -1])
    def test_a_damaged_checkpoint(self, keep, tmp_path):
        interrupted(make(), tmp_path)
        file = tmp_path / "checkpoint.safetensors"
        file.write_bytes(file.read_bytes()[:keep])
        with pytest.raises(
            PerakitError,
            match=(
                r"checkpoint '.*checkpoint.safetensors' is cut short or altered, delete it to start"
                r" again \(.*\)$"
            ),
        ):
            toy.train(make(), TEXT, RECIPE, tmp_path)

    def test_a_foreign_file_in_its_place(self, tmp_path):
        save_file({"x": torch.zeros(1)}, tmp_path / "checkpoint.safetensors")
        with pytest.raises(PerakitError, match="another model, text or recipe"):
            toy.train(make(), TEXT, RECIPE, tmp_path)

    def test_metrics_lost(self, tmp_path):
        interrupted(make(), tmp_path)
        (tmp_path / "metrics.jsonl").unlink()
        whole, rest = make(), make()
        toy.train(whole, TEXT, RECIPE)
        run = toy.train(rest, TEXT, RECIPE, tmp_path)
        assert equal(parameters(rest), parameters(whole))
        assert [step for step, _ in run.losses] == list(range(10, 25))

    def test_a_folder_that_cannot_be_written_later(self, tmp_path, monkeypatch):
        def full(self, *_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(files.os, "fsync", full)
        with pytest.raises(
            PerakitError,
            match=(
                r"cannot write '.*': No space left on device; choose a folder that can be written"
            ),
        ):
            toy.train(make(), TEXT, RECIPE, tmp_path)


def adapted(method, targets=("c_attn", "mlp.c_proj"), **config):
    torch.manual_seed(0)
    model = toy.GPT2(replace(CONFIG, **config))
    pk.attach(model, method, targets)
    return model


# Killing. One process imports torch once and forks a child for every sitting; the child is killed
# with SIGKILL, by its parent at a random moment or by itself in the middle of a write.

LONG = replace(RECIPE, steps=60)
TRAPS = ("line", "write", "sync", "replaced")


def sitting(kind, folder):
    """Train to the end, and leave the final weights behind."""
    model = make(kind)
    toy.train(model, TEXT, LONG, folder)
    save_file(
        {name: p.detach().clone() for name, p in model.named_parameters()},
        folder / "final.safetensors",
    )


def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def booby_trap(event, countdown):
    """Kill this process at the `countdown`-th event of its kind: in the middle of a line or of a
    file, or around the renaming.
    """

    def fatal():
        nonlocal countdown
        countdown -= 1
        return countdown == 0

    def opened(path, mode, *more, **options):
        file = open(path, mode, *more, **options)  # noqa: SIM115
        if mode == "rb":
            return file
        write = file.write

        class Torn:
            def __enter__(self):
                return self

            def __exit__(self, *_):
                file.close()

            def write(self, data):
                if fatal():
                    write(data[: len(data) // 2])
                    file.flush()
                    die()
                return write(data)

            flush, fileno, tell = file.flush, file.fileno, file.tell

        return Torn()

    def then_die(function):
        def wrapped(*arguments):
            function(*arguments)
            if fatal():
                die()

        return wrapped

    if event == "line":
        rows.open = opened
    elif event == "write":
        files.open = opened
    elif event == "sync":
        os.fsync = then_die(os.fsync)
    elif event == "replaced":
        os.replace = then_die(os.replace)


def in_a_child(work, seconds=None):
    """Do `work` in a forked child, kill it after `seconds`; was it killed?"""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0, "training failed"
    return False


def killed_and_resumed(kind, folder):
    """A whole run in `folder`/whole, one that is killed and resumed in `folder`/killed; returns the
    kills.
    """
    whole, killed = folder / "whole", folder / "killed"
    in_a_child(lambda: sitting(kind, whole))
    began = time.perf_counter()
    in_a_child(lambda: sitting(kind, folder / "timed"))
    length, draw, kills = time.perf_counter() - began, random.Random(kind), []
    # Each strikes within nine steps: all of them before the run is over
    for event in draw.sample(TRAPS, len(TRAPS)):
        countdown = draw.randint(1, 3)

        def trapped(event=event, countdown=countdown):
            booby_trap(event, countdown)
            sitting(kind, killed)

        kills += [event] * in_a_child(trapped)
    for _ in range(3):
        kills += ["clock"] * in_a_child(
            lambda: sitting(kind, killed), draw.uniform(0, 0.5) * length
        )
    assert not in_a_child(lambda: sitting(kind, killed))
    return kills


def worker(folder):
    """All kinds of runs, in one process; prints the kills of each."""
    torch.set_num_threads(1)
    warm = nn.Parameter(torch.zeros(1))
    warm.grad = torch.zeros(1)
    # The first step imports much of torch: once here, not in every child
    torch.optim.AdamW([warm]).step()
    print(
        json.dumps(
            {kind: killed_and_resumed(kind, folder / kind) for kind in ("lora", "pera", "full")}
        )
    )


@pytest.fixture(scope="module")
def killed_runs(tmp_path_factory):
    """(folder, kills of each kind)."""
    folder = tmp_path_factory.mktemp("killed")
    environment = os.environ | {"PYTHONPATH": str(Path(pk.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, __file__, folder],
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
@pytest.mark.parametrize("kind", ["lora", "pera", "full"])
def test_a_run_killed_again_and_again_ends_with_the_same_bits(kind, killed_runs):
    folder, kills = killed_runs
    assert set(TRAPS) <= set(kills[kind])
    whole, killed = folder / kind / "whole", folder / kind / "killed"
    assert (killed / "final.safetensors").read_bytes() == (whole / "final.safetensors").read_bytes()
    assert equal(
        load_file(killed / "checkpoint.safetensors"), load_file(whole / "checkpoint.safetensors")
    )
    assert without_clock(read(killed / "metrics.jsonl")) == without_clock(
        read(whole / "metrics.jsonl")
    )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
def test_killed_runs_leave_no_litter(killed_runs):
    for kind in killed_runs[1]:
        left = {path.name for path in (killed_runs[0] / kind / "killed").iterdir()}
        assert left == {"metrics.jsonl", "checkpoint.safetensors", "final.safetensors"}


if __name__ == "__main__":
    worker(Path(sys.argv[1]))


@pytest.mark.parametrize("seed", [None, "a", -1, 2**63, 1.5])
def test_a_seed_is_a_whole_number(seed):
    with pytest.raises(PerakitError, match=r"seed=.* must be an integer"):
        toy.Recipe(seed=seed)


def test_a_merged_model_is_not_trained():
    model = toy.GPT2(CONFIG)
    pk.attach(model, pk.LoRA(2), "all-linear")
    pk.merge(model)
    with pytest.raises(PerakitError, match=r"the model is merged.*pk\.unmerge\(model\) first"):
        toy.train(model, TEXT, RECIPE)


def test_only_its_own_leftovers_are_removed(tmp_path):
    (tmp_path / ".mine.tmp").write_text("kept")
    (tmp_path / ".checkpoint.safetensors.123.tmp").write_text("left by a kill")
    toy.train(toy.GPT2(CONFIG), TEXT, RECIPE, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        ".mine.tmp",
        "metrics.jsonl",
        "checkpoint.safetensors",
    }
