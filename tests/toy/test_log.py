"""The checkpoint and the metrics of a run: taken as they were written, or refused in a sentence."""

import importlib.util
import json
import os
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import perakit as pk
from perakit import PerakitError, toy
from perakit.files import alone
from perakit.rows import sealed
from perakit.toy import training
from perakit.toy.log import Log

_spec = importlib.util.spec_from_file_location("damage", Path(__file__).parents[1] / "damage.py")
damage = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(damage)

TEXT = toy.corpus.load("synthetic", limit=5_000)
RECIPE = toy.Recipe(
    steps=8, batch=2, context=8, warmup=2, eval_every=3, eval_windows=2, checkpoint_every=3
)


def make():
    torch.manual_seed(0)
    model = toy.GPT2(toy.Config(n_positions=8, n_embd=8, n_layer=1, n_head=1))
    pk.attach(model, pk.PERA(2), ["c_attn"])
    return model


def trainable(model):
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


class Stop(Exception):  # noqa: N818
    pass


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A run that stopped after step 7: its last checkpoint has 6 steps."""
    folder = tmp_path_factory.mktemp("stopped")

    def stop(done):
        if done == 7:
            raise Stop

    with pytest.raises(Stop):
        toy.train(make(), TEXT, RECIPE, folder, after_step=stop, progress=False)
    return folder


@pytest.fixture
def out(stopped, tmp_path):
    return shutil.copytree(stopped, tmp_path / "out")


@pytest.fixture(scope="module")
def resume():
    """Go on in a folder: steps done, tensors, rows."""
    model = make()
    ids = toy.tokens.Bytes().encode(TEXT.train)
    fingerprint = training._fingerprint(model, TEXT, RECIPE, ids)

    def go_on(folder):
        log = Log(folder, fingerprint)
        step, tensors = log.resume(RECIPE.steps, trainable(model))
        return step, {key: tensor.tolist() for key, tensor in tensors.items()}, log.rows

    return go_on


def test_what_is_there_is_what_the_run_goes_on_from(out, resume):
    step, tensors, rows = resume(out)
    assert step == 6
    assert tensors == {k: v.tolist() for k, v in load_file(out / "checkpoint.safetensors").items()}
    assert [row["step"] for row in rows] == [0, 1, 2, 3, 3, 4, 5, 6, 6]


@pytest.mark.parametrize("name", ["checkpoint.safetensors", "metrics.jsonl"])
def test_no_flipped_bit_is_gone_on_from(out, resume, name):
    whole, right = (out / name).read_bytes(), resume(out)
    taken = 0
    for changed in damage.flipped(whole):
        (out / name).write_bytes(changed)
        found, said = damage.tried(lambda: resume(out))
        assert found in (None, right)
        assert said is None or re.search("delete it", said)
        taken += found is not None
        (out / name).write_bytes(whole)
    assert taken == 0, "not one of these bits is without a meaning"


@pytest.mark.parametrize("name", ["checkpoint.safetensors", "metrics.jsonl"])
def test_a_file_that_is_cut_short_is_refused(out, resume, name):
    whole, right = (out / name).read_bytes(), resume(out)
    for changed in damage.cut(whole):
        (out / name).write_bytes(changed)
        found, said = damage.tried(lambda: resume(out))
        # The rows of step 7 are not asked for
        assert found in (None, right)
        assert said is None or "delete it" in said
        assert found is None or len(changed) > 0.8 * len(whole)


def test_rows_in_another_order_are_refused(out, resume):
    path = out / "metrics.jsonl"
    whole, right = path.read_bytes(), resume(out)
    for changed in damage.rearranged(whole):
        path.write_bytes(changed)
        found, said = damage.tried(lambda: resume(out))
        assert found in (None, right)
        assert said is None or "delete it to go on without its rows" in said
    lines = whole.splitlines(keepends=True)
    for wrong in ([*lines[:4], lines[3], *lines[4:]], lines[:8], lines[1:], [lines[0], *lines[2:]]):
        path.write_bytes(b"".join(wrong))
        with pytest.raises(PerakitError, match=r"the checkpoint's 6 steps, each once and in order"):
            resume(out)


def test_a_look_that_is_there_twice_is_refused_by_an_old_checkpoint_too(out, resume):
    rewritten(out / "checkpoint.safetensors", lambda t: t)  # it does not say how many rows
    lines = (out / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (out / "metrics.jsonl").write_bytes(b"".join([lines[0], *lines]))
    with pytest.raises(PerakitError, match=r"the checkpoint's 6 steps, each once and in order"):
        resume(out)


@pytest.mark.parametrize(
    "change",
    [
        {"step": 9},
        {"step": -1},
        {"step": True},
        {"step": "6"},
        {"step": 6.0},
        {"step": 10**400},
        {"loss": "low"},
        {"loss": None},
        {"extra": 1},
    ],
    ids=str,
)
def test_a_row_with_a_checksum_of_another_kind_is_refused(out, resume, change):
    values = {"step": 7, "loss": 1.0, "lr": 1.0, "grad_norm": 1.0, "seconds": 1.0}
    with open(out / "metrics.jsonl", "ab") as file:
        file.write(sealed(values | change))
    with pytest.raises(PerakitError, match=r"line 11 of .* is no row of metrics: delete it to"):
        resume(out)


@pytest.mark.parametrize("number", ["NaN", "1e999", "9" * 400])
def test_a_row_without_a_checksum_has_numbers(out, resume, number):
    with open(out / "metrics.jsonl", "a") as file:
        file.write(f'{{"step": 7, "heldout_bits_per_byte": {number}, "peak_bytes": 1}}\n')
    with pytest.raises(PerakitError, match=r"line 11 of .* is no row of metrics: delete it to"):
        resume(out)


@pytest.mark.parametrize("what", damage.ODD)
@pytest.mark.parametrize("name", ["checkpoint.safetensors", "metrics.jsonl"])
def test_what_is_no_file_is_refused_at_once(out, resume, name, what):
    damage.put_in_place(out / name, what)
    _, said = damage.tried(lambda: resume(out))
    assert said
    assert re.search("delete it|pass a file", said)


def rewritten(path, change, **state):
    """The checkpoint with other tensors, in the way of 0.1, which wrote no checksum."""
    tensors = load_file(path)
    with open(path, "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    run = json.loads(header["__metadata__"]["run"])
    run = {key: run[key] for key in ("step", "fingerprint")} | state
    save_file(change(tensors), path, {"run": json.dumps(run)})


A = "transformer.h.0.attn.c_attn.adapters.default.A"
DAMAGES = {
    "missing": (lambda t: {k: v for k, v in t.items() if k != f"parameter/{A}"}, "shapes"),
    "moment": (lambda t: {k: v for k, v in t.items() if k != f"exp_avg/{A}"}, "shapes"),
    "more": (lambda t: t | {"parameter/other": torch.zeros(1)}, "shapes"),
    "shape": (lambda t: t | {f"parameter/{A}": torch.zeros(2, 9)}, "shapes"),
    "turned": (lambda t: t | {f"parameter/{A}": torch.zeros(8, 2)}, "shapes"),
    "large": (lambda t: t | {f"parameter/{A}": torch.zeros(10**6)}, "shapes"),
    "double": (lambda t: t | {f"parameter/{A}": torch.zeros(2, 8).double()}, "type or count"),
    "whole numbers": (lambda t: t | {f"exp_avg/{A}": torch.zeros(2, 8).int()}, "type or count"),
    "count": (lambda t: t | {f"step/{A}": torch.tensor(7.0)}, "type or count"),
    "part of a step": (lambda t: t | {f"step/{A}": torch.tensor(1.5)}, "type or count"),
    "no number": (lambda t: t | {f"step/{A}": torch.tensor(float("nan"))}, "type or count"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_tensors_of_another_model_are_not_loaded(out, resume, name):
    change, told = DAMAGES[name]
    assert f"parameter/{A}" in load_file(out / "checkpoint.safetensors")
    rewritten(out / "checkpoint.safetensors", change)
    with pytest.raises(
        PerakitError, match=rf"is cut short or altered, delete it to start again \(of .*{told}.*\)"
    ):
        resume(out)


@pytest.mark.parametrize("step", [-1, 9, 1.0, True, "6", None, 10**400, [6], float("nan")], ids=str)
def test_a_step_that_the_run_does_not_have_is_refused(out, resume, step):
    rewritten(out / "checkpoint.safetensors", lambda t: t, step=step)
    with pytest.raises(PerakitError, match=r"delete it to start again \(it says "):
        resume(out)


def test_a_checkpoint_without_checksums_goes_on(out, resume):
    """As 0.1 wrote it; tests/test_fixtures.py reads its own."""
    right = resume(out)
    rewritten(out / "checkpoint.safetensors", lambda t: t)
    assert resume(out) == right


def test_a_parameter_that_no_loss_reaches_has_no_moments(tmp_path):
    def half():
        model = make()
        model.unused = torch.nn.Parameter(torch.ones(3))
        return model

    whole = toy.train(half(), TEXT, RECIPE, tmp_path, progress=False)
    assert "exp_avg/unused" not in load_file(tmp_path / "checkpoint.safetensors")
    assert toy.train(half(), TEXT, RECIPE, tmp_path, progress=False).losses == whole.losses


def test_metrics_are_on_the_disk_before_their_checkpoint(tmp_path, monkeypatch):
    seen, fsync = [], os.fsync

    def watched(file):
        seen.append(os.path.basename(os.readlink(f"/proc/self/fd/{file}")))
        fsync(file)

    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("files have names in Linux's /proc")
    monkeypatch.setattr(os, "fsync", watched)
    toy.train(make(), TEXT, RECIPE, tmp_path, progress=False)
    names = [name.split(".")[0] or name.split(".")[1] for name in seen]
    assert names == ["metrics", *3 * ["metrics", "checkpoint"]]


def test_a_step_is_told_of_before_it_is_in_a_checkpoint(tmp_path):
    """So that a kill between the two lets it be told again, and not never."""
    seen = []

    def look(done):
        path = tmp_path / "checkpoint.safetensors"
        seen.append(int(load_file(path)[f"step/{A}"]) if path.exists() else 0)

    toy.train(make(), TEXT, RECIPE, tmp_path, after_step=look, progress=False)
    assert seen == [0, 0, 0, 3, 3, 3, 6, 6]


# --- one run in a folder --------------------------------------------------------------------------


def test_a_second_run_in_the_folder_is_told_so(out):
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with alone(out), pytest.raises(PerakitError, match=rf"in use by process {os.getpid()}: wait"):
        toy.train(make(), TEXT, RECIPE, out, progress=False)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_the_folder_is_free_after_an_error(out):
    for _ in range(2):
        with pytest.raises(PerakitError, match="another model, text or recipe"):
            toy.train(make(), TEXT, toy.Recipe(steps=9, batch=2, context=8), out, progress=False)
    toy.train(make(), TEXT, RECIPE, out, progress=False)
    assert {path.name for path in out.iterdir()} == {"metrics.jsonl", "checkpoint.safetensors"}


def test_no_run_in_it_during_a_run(tmp_path):
    held = []

    def look(done):
        with pytest.raises(PerakitError, match="in use"), alone(tmp_path):
            pass
        held.append(done)

    toy.train(make(), TEXT, RECIPE, tmp_path, after_step=look, progress=False)
    assert held == list(range(1, 9))
