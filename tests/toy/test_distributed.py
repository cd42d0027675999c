"""Two processes that train one model: the result of one process, and one message where something is
wrong.

Run as a program, this file is the launcher: `python test_distributed.py FOLDER` imports torch once
and forks two processes for every scenario; what they leave in FOLDER is looked at by the tests.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import traceback
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import perakit as pk
from perakit import PerakitError, files, toy
from perakit.adapters import Method
from perakit.cli import main
from perakit.plots import training_figure
from perakit.rows import LIMIT, read_rows
from perakit.toy import distributed

ROOT = Path(pk.__file__).parents[1]
CONFIG = toy.Config(n_positions=16, n_embd=16, n_layer=1, n_head=2)
TEXT = toy.corpus.load("synthetic", limit=20_000)
RECIPE = toy.Recipe(
    steps=10, batch=4, context=16, warmup=4, eval_every=5, eval_windows=4, checkpoint_every=2
)
FLOAT32 = 1e-5  # relative to the largest weight: the house's tolerance of float32, over ten steps
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

# --- the table: every method, on every kind of layer ----------------------------------------------

METHODS = sorted(
    name for name, method in Method.registry.items() if method.__module__.startswith("perakit.")
)
KINDS = ("Linear", "Conv1D", "NF4")
CELLS = [(method, kind) for method in METHODS for kind in KINDS]


def mlp(method, kind):
    """5 -> 7 -> 3 with adapters of rank 2 that are off their start, in float64 (a 4-bit base:
    float32).
    """
    torch.manual_seed(0)
    layers = (
        [toy.gpt2.Conv1D(7, 5), toy.gpt2.Conv1D(3, 7)]
        if kind == "Conv1D"
        else [nn.Linear(5, 7), nn.Linear(7, 3)]
    )
    for layer in layers:
        nn.init.normal_(layer.weight, std=0.4)
    model = nn.Sequential(layers[0], nn.Tanh(), layers[1])
    if kind != "NF4":
        model.double()
    pk.attach(
        model,
        Method.registry[method](rank=2),
        ["0", "2"],
        quantize="nf4" if kind == "NF4" else None,
    )
    with torch.no_grad():
        for parameter in trainable(model).values():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def steps(forward, model, rank=0, size=1):
    """Six steps of SGD on this process's share of the batches; the loss of each."""
    draw = torch.Generator().manual_seed(1)
    dtype = next(iter(trainable(model).values())).dtype
    optimizer, losses = torch.optim.SGD(trainable(model).values(), lr=0.05, momentum=0.9), []
    for _ in range(6):
        x, y = (
            torch.randn(8, width, generator=draw, dtype=torch.float64).to(dtype)[rank::size]
            for width in (5, 3)
        )
        loss = F.mse_loss(forward(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def every_cell(folder):
    """Train each cell by a plain loop around torch's own DistributedDataParallel."""
    with distributed.process_group():
        for method, kind in CELLS:
            model = mlp(method, kind)
            steps(DistributedDataParallel(model), model, distributed.rank(), 2)
            save_file(
                trainable(model), folder / f"{method}-{kind}-{distributed.rank()}.safetensors"
            )


def trainable(model):
    return {
        name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad
    }


def largest_difference(one, other):
    """Relative to the largest entry of each tensor."""
    assert one.keys() == other.keys()
    return max(
        ((one[name] - other[name]).abs().max() / other[name].abs().max()).item()
        for name in one
        if one[name].numel()
    )


@pytest.mark.parametrize(
    ("method", "kind"), CELLS, ids=[f"{method}-{kind}" for method, kind in CELLS]
)
def test_each_method_trains_in_two_processes_as_in_one(method, kind, results):
    alone = mlp(method, kind)
    start = {name: parameter.detach().clone() for name, parameter in trainable(alone).items()}
    steps(alone, alone)
    first, second = (
        load_file(results / f"table/{method}-{kind}-{rank}.safetensors") for rank in (0, 1)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert largest_difference(first, trainable(alone)) < (FLOAT32 if kind == "NF4" else 1e-12)
    assert largest_difference(first, start) > 1e-3  # they did move


# --- toy.train ------------------------------------------------------------------------------------

TRAINED = {
    "lora": pk.LoRA(3),
    "pera": pk.PERA(3),
    "empty-h": pk.PERA(1, terms="cross"),
    "dropout": pk.PERA(3, dropout=0.3),
}


def make(method=TRAINED["pera"], seed=0):
    torch.manual_seed(seed)
    model = toy.GPT2(CONFIG)
    pk.attach(model, method, ["c_attn", "mlp.c_proj"])
    with torch.no_grad():
        # Off the start, where Adam would only see the sign of a gradient
        for parameter in trainable(model).values():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def weights(model):
    return {
        name: parameter.detach()
        for name, parameter in model.named_parameters()
        if name != "lm_head.weight"
    }


def stop_after(steps, done):
    if done == steps:
        raise InterruptedError


def train(method, folder, stop=0, recipe=RECIPE):
    """Train in a group of two, or alone where there is none; leave the weights and the metrics of
    each process behind.
    """
    with distributed.process_group():
        model = make(method)
        try:
            run = toy.train(model, TEXT, recipe, folder, after_step=partial(stop_after, stop))
        except InterruptedError:
            return
        rank = distributed.rank()
    save_file(weights(model), folder / f"weights-{rank}.safetensors")
    (folder / f"run-{rank}.json").write_text(json.dumps(run.metrics))


def numbers(rows):
    """Step, and what was measured on it but time and memory."""
    return [
        [
            row["step"],
            *(
                row[key]
                for key in ("loss", "lr", "grad_norm", "heldout_bits_per_byte")
                if key in row
            ),
        ]
        for row in rows
    ]


@pytest.mark.parametrize(
    "name", ["lora", "pera", "empty-h", "one-then-two", "two-then-one", "two-then-two"]
)
def test_two_processes_end_where_one_does(name, results):
    alone = make(TRAINED.get(name, TRAINED["pera"]))
    expected = toy.train(alone, TEXT, RECIPE)
    found = load_file(results / name / "weights-0.safetensors")
    assert largest_difference(found, weights(alone)) < FLOAT32
    rows = json.loads((results / name / "run-0.json").read_text())
    assert [row[0] for row in numbers(rows)] == [row[0] for row in numbers(expected.metrics)]
    for row, other in zip(numbers(rows), numbers(expected.metrics), strict=True):
        assert row == pytest.approx(other, rel=1e-4)
    written = read_rows(results / name / "metrics.jsonl", LIMIT, "")
    assert [row.values for row in written] == rows


@pytest.mark.parametrize(
    "name", ["lora", "pera", "empty-h", "dropout", "one-then-two", "two-then-two"]
)
def test_both_processes_hold_and_return_the_same(name, results):
    first, second = (load_file(results / name / f"weights-{rank}.safetensors") for rank in (0, 1))
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert (results / name / "run-0.json").read_text() == (
        results / name / "run-1.json"
    ).read_text()


def test_two_processes_resumed_end_with_the_same_bits(results):
    whole, resumed = (
        load_file(results / name / "weights-0.safetensors") for name in ("pera", "two-then-two")
    )
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)


def test_each_process_drops_other_inputs(results):
    masks = [json.loads((results / f"masks/{rank}.json").read_text()) for rank in (0, 1)]
    assert masks[0]["step 0"] != masks[1]["step 0"]
    assert masks[0]["step 0"] != masks[0]["step 1"]
    seen = masks[0]["windows"] + masks[1]["windows"]
    # Both took their share of the one batch that a single process draws
    assert seen == masks[0]["whole batch"]


def masks(folder):
    """What two processes draw for the first two steps."""
    with distributed.process_group():
        ids, drawn = toy.training.Bytes().encode(TEXT.train), {}
        for step in (0, 1):
            x, _ = toy.training._batch(ids, RECIPE, step, torch.device("cpu"))
            drawn[f"step {step}"] = torch.rand(20).tolist()
            drawn.setdefault("windows", x.tolist())
        rank = distributed.rank()
    drawn["whole batch"] = toy.training._batch(ids, RECIPE, 0, torch.device("cpu"))[0].tolist()
    (folder / f"{rank}.json").write_text(json.dumps(drawn))


# --- what goes wrong ------------------------------------------------------------------------------


class NotANumber(nn.Module):
    """A model whose loss is nan, in process 1 alone."""

    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(256))

    def forward(self, ids):
        return self.bias.expand(*ids.shape, 256) * (
            float("nan") if distributed.rank() == 1 and self.training else 1
        )


class Fails(toy.training.Bytes):
    """A tokenizer that fails in process 1 alone."""

    def __init__(self, error):
        self.error = error

    def encode(self, text):
        if distributed.rank() == 1:
            raise self.error
        return super().encode(text)


def mine(first, second):
    """One value in process 0, another in process 1."""
    return second if distributed.rank() == 1 else first


DISAGREE = (
    "the processes disagree on the model, its adapters, the text or the recipe: process 1 has"
    " another than process 0; start all with"
)


def in_use(out):
    """Process 0 has the folder already; what follows its name in the message."""
    with ExitStack() as held:
        if distributed.rank() == 0:
            held.enter_context(files.alone(out))
        try:
            toy.train(make(), TEXT, RECIPE, out)
        except PerakitError as error:
            raise PerakitError(str(error).partition(str(out))[2]) from error


MISTAKES = {
    "in-use": (in_use, "' is in use by process "),
    "batch": (
        lambda out: toy.train(make(), TEXT, replace(RECIPE, batch=3), out),
        "batch=3 does not divide among 2 processes: choose a",
    ),
    "rank": (
        lambda out: toy.train(make(mine(pk.PERA(3), pk.PERA(2))), TEXT, RECIPE, out),
        DISAGREE,
    ),
    "alpha": (
        lambda out: toy.train(make(mine(pk.PERA(3), pk.PERA(3, alpha=1.0))), TEXT, RECIPE, out),
        DISAGREE,
    ),
    "start": (lambda out: toy.train(make(seed=mine(0, 1)), TEXT, RECIPE, out), DISAGREE),
    "recipe": (
        lambda out: toy.train(make(), TEXT, replace(RECIPE, lr=mine(1e-2, 1e-3)), out),
        DISAGREE,
    ),
    "text": (
        lambda out: toy.train(make(), mine(TEXT, replace(TEXT, heldout=b"x" * 99)), RECIPE, out),
        DISAGREE,
    ),
    "no-folder": (
        lambda out: toy.train(make(mine(pk.PERA(3), pk.PERA(2))), TEXT, RECIPE),
        DISAGREE,
    ),
    "steps": (
        lambda out: toy.train(make(), TEXT, replace(RECIPE, steps=mine(10, 1)), out),
        DISAGREE,
    ),
    "one-refuses": (
        lambda out: toy.train(make(), TEXT, RECIPE, out, Fails(PerakitError("tokens: none"))),
        "tokens: none",
    ),
    "one-fails": (
        lambda out: toy.train(make(), TEXT, RECIPE, out, Fails(KeyError("gone"))),
        "process 1 failed: KeyError: 'gone'",
    ),
    "held-out": (
        lambda out: toy.train(make(), replace(TEXT, heldout=b"x"), RECIPE),
        "held-out text has 1 tokens, a window needs 17",
    ),
    "folder": (
        lambda out: toy.train(make(), TEXT, RECIPE, out.parent / "file" / "out"),
        "cannot write",
    ),
    "nan": (
        lambda out: toy.train(NotANumber(), TEXT, RECIPE),
        "loss nan, gradient norm nan at step 0: lower lr=0.01",
    ),
}


def mistakes(folder):
    """Make every mistake, one after the other in one group: after each, the processes can go on."""
    (folder / "file").write_text("in the way")
    messages = {}
    with distributed.process_group():
        for name, (mistake, _) in MISTAKES.items():
            try:
                mistake(folder / name)
            except (PerakitError, KeyError) as error:
                messages[name] = f"{type(error).__name__}: {error}"
        rank = distributed.rank()
    (folder / f"messages-{rank}.json").write_text(json.dumps(messages))


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_error_in_both_processes(name, results):
    first, second = (
        json.loads((results / f"mistakes/messages-{rank}.json").read_text()) for rank in (0, 1)
    )
    kind = "DivergedError" if name == "nan" else "PerakitError"
    assert first[name].startswith(f"{kind}: {MISTAKES[name][1]}")
    assert second[name] == ("KeyError: 'gone'" if name == "one-fails" else first[name])
    assert not (results / "mistakes" / name).exists()


def killed(folder):
    """Process 1 dies at step 5, as by a lack of memory."""

    def die(done):
        if done == 5 and distributed.rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    with distributed.process_group():
        toy.train(make(), TEXT, RECIPE, folder, after_step=die)


def test_a_process_that_is_killed_ends_the_other_and_the_run_can_go_on(results):
    status = json.loads((results / "status.json").read_text())
    assert status["killed"][1] == -signal.SIGKILL
    # Gloo sees the loss at once, and may still hang when it is taken down
    assert status["killed"][0] in (1, -signal.SIGTERM)
    whole, resumed = (
        load_file(results / name / "weights-0.safetensors") for name in ("pera", "killed")
    )
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)


# --- perakit finetune -----------------------------------------------------------------------------

SHORT = [
    "finetune",
    "--text",
    "synthetic",
    "--steps",
    "4",
    "--context",
    "16",
    "--batch",
    "2",
    "--eval-every",
    "2",
    "--rank",
    "2",
]


def command(folder, more=(), second=()):
    """Run the command in this process, whose exit status it is; process 1 may be given other
    arguments.
    """
    out = [] if "--out" in more else ["--out", str(folder / "out")]
    rank = int(os.environ.get("RANK", "0"))
    return main(
        [
            *SHORT,
            "--model",
            str(folder.parent / "model"),
            *out,
            *more,
            *(second if rank == 1 else ()),
        ]
    )


COMMANDS = {
    "finetune": {},
    "finetune-batch": {
        "more": ["--batch", "3"],
        "says": "batch=3 does not divide among 2 processes: choose a multiple of 2",
    },
    "finetune-text": {"more": ["--text", "no-such-file"], "says": "no text file 'no-such-file'"},
    "finetune-device": {
        "more": ["--device", "cuda:99"],
        "says": "device 'cuda:99' is not available here: use --device cpu, or ",
    },
    "finetune-alpha": {
        "second": ["--alpha", "7"],
        "says": "the processes disagree on the methods, the texts or the recipe: process 1 has",
    },
    "finetune-methods": {
        "second": ["--method", "lora"],
        "says": "the processes disagree on the methods, the texts or the recipe",
    },
    "finetune-one": {"second": ["--text", "no-such-file"], "says": "no text file 'no-such-file'"},
    "finetune-model": {"second": ["--model", "no-such-model"], "says": "no model 'no-such-model'"},
}


@pytest.mark.parametrize("name", [name for name in COMMANDS if "says" in COMMANDS[name]])
def test_a_mistake_on_the_command_line_is_said_once(name, results):
    assert json.loads((results / "status.json").read_text())[name] == [2, 2]
    first, second = ((results / name / f"{rank}.txt").read_text() for rank in (0, 1))
    assert first.startswith(f"perakit: {COMMANDS[name]['says']}")
    assert first.count("\n") == 1
    assert second == ""
    assert not (results / name / "out").exists()


def test_finetune_prints_and_writes_once(results):
    assert json.loads((results / "status.json").read_text())["finetune"] == [0, 0]
    first, second = ((results / "finetune" / f"{rank}.txt").read_text() for rank in (0, 1))
    assert second == ""
    assert first.count("Fine-tuning ") == 1
    assert "pera r=2" in first
    assert {path.name for path in (results / "finetune/out").iterdir()} == {
        *("report.md", "loss.png", "metrics.jsonl", "results.json", "lora-r=2", "pera-r=2")
    }


def close_reports(one, other):
    """Are the outcomes of two reports the same, to rounding?"""
    one, other = (json.loads((folder / "results.json").read_text()) for folder in (one, other))
    assert one["before"] == other["before"]
    for outcome, expected in zip(one["outcomes"], other["outcomes"], strict=True):
        assert outcome["new"] == pytest.approx(expected["new"], rel=1e-5)
        assert outcome["trainable"] == expected["trainable"]
        assert outcome["order_share"] == pytest.approx(expected["order_share"], rel=1e-3)


def test_finetune_equals_one_process(results, tmp_path, capsys):
    assert command(results / "finetune", ["--out", str(tmp_path)]) == 0
    assert "1 threads" in (tmp_path / "report.md").read_text()
    assert "2 processes" not in (tmp_path / "report.md").read_text()
    assert "2 processes, the first on cpu" in (results / "finetune/out/report.md").read_text()
    close_reports(results / "finetune/out", tmp_path)


def torchrun(results, *arguments):
    start = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "perakit",
        *SHORT,
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    model = ["--model", str(results / "model")]
    return subprocess.run(
        [*start, *model, *arguments], capture_output=True, text=True, env=environment, timeout=120
    )


@pytest.mark.thorough
def test_torchrun(results, tmp_path):
    done = torchrun(results, "--out", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Fine-tuning ") == 1
    assert re.findall("Warning|Error", done.stderr) == []
    close_reports(tmp_path / "out", results / "finetune/out")


@pytest.mark.thorough
def test_torchrun_fails_with_one_sentence_and_no_delay(results, tmp_path):
    done = torchrun(results, "--out", str(tmp_path / "out"), "--batch", "3")
    assert done.returncode != 0
    assert re.findall("perakit: .*", done.stderr) == [
        "perakit: batch=3 does not divide among 2 processes: choose a multiple of 2"
    ]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("missing", distributed.LAUNCHED)
def test_without_torchrun_there_is_no_group(missing, monkeypatch):
    for name in distributed.LAUNCHED:
        monkeypatch.setenv(name, "1")
    monkeypatch.delenv(missing)
    with distributed.process_group("cpu") as device:
        assert (device, distributed.size(), distributed.rank()) == ("cpu", 1, 0)


def test_an_environment_that_is_none_of_torchruns(monkeypatch):
    for name, value in zip(distributed.LAUNCHED, ("first", "2", "localhost", "29501"), strict=True):
        monkeypatch.setenv(name, value)
    with pytest.raises(
        PerakitError,
        match=(
            r"no process group from RANK='first', WORLD_SIZE='2'.*: start the processes with"
            r" torchrun"
        ),
    ):
        distributed.process_group().__enter__()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_nccl(results, tmp_path):
    count = str(min(2, torch.cuda.device_count()))
    start = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        count,
        "-m",
        "perakit",
        *SHORT,
    ]
    arguments = ["--model", str(results / "model"), "--out", str(tmp_path), "--device", "cuda"]
    done = subprocess.run(
        [*start, *arguments],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    found, expected = (
        json.loads((folder / "results.json").read_text())
        for folder in (tmp_path, results / "finetune/out")
    )
    for outcome, other in zip(found["outcomes"], expected["outcomes"], strict=True):
        # Each method on a GPU draws other factors than on a CPU
        assert outcome["new"] == pytest.approx(other["new"], rel=1e-2)


# --- the launcher ---------------------------------------------------------------------------------


def child(work, rank, port, output):
    """Fork a process that does `work` as process `rank` of two, or alone where rank is None;
    returns its id.
    """
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        with open(output, "w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        if rank is not None:
            os.environ |= {
                "RANK": str(rank),
                "WORLD_SIZE": "2",
                "MASTER_ADDR": "localhost",
                "MASTER_PORT": str(port),
            }
        status = work() or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def processes(work, folder, ranks=(0, 1)):
    """Do `work(folder)` in a process for each rank; their exit statuses, negative for a signal."""
    folder.mkdir(exist_ok=True)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    children = [
        child(partial(work, folder), rank, port, folder / f"{rank or 0}.txt") for rank in ranks
    ]
    return waited_for(children)


def waited_for(children, patience=5.0):
    """Exit statuses; as torchrun does, a process that goes on after another has failed is sent
    SIGTERM.
    """
    statuses, failed = {}, None
    while len(statuses) < len(children):
        for one in set(children) - statuses.keys():
            done, status = os.waitpid(one, os.WNOHANG)
            if done:
                statuses[one] = os.waitstatus_to_exitcode(status)
                failed = failed or (time.monotonic() if statuses[one] else None)
            elif failed and time.monotonic() - failed > patience:
                os.kill(one, signal.SIGTERM)
        time.sleep(0.01)
    return [statuses[one] for one in children]


def launch(folder):
    """Every scenario, and the exit statuses of each in status.json."""
    torch.set_num_threads(1)
    warm = nn.Parameter(torch.zeros(1))
    warm.grad = torch.zeros(1)
    # The first step imports much of torch: once here, not in every child
    torch.optim.AdamW([warm]).step()
    training_figure({"warm": toy.Run([{"step": 1, "loss": 1.0, "heldout_bits_per_byte": 1.0}])})
    (folder / "model").mkdir()
    model = toy.GPT2(replace(CONFIG, n_positions=32))
    save_file(
        {k: v for k, v in model.state_dict().items() if k != "lm_head.weight"},
        folder / "model/model.safetensors",
    )
    (folder / "model/config.json").write_text(json.dumps(model.config.to_dict()))
    status = {"table": processes(every_cell, folder / "table")}
    for name, method in TRAINED.items():
        status[name] = processes(partial(train, method), folder / name)
    for name, first, second in [
        ("one-then-two", [None], [0, 1]),
        ("two-then-one", [0, 1], [None]),
        ("two-then-two", [0, 1], [0, 1]),
    ]:
        begun = processes(partial(train, TRAINED["pera"], stop=5), folder / name, first)
        status[name] = begun + processes(partial(train, TRAINED["pera"]), folder / name, second)
    status["masks"] = processes(masks, folder / "masks")
    status["mistakes"] = processes(mistakes, folder / "mistakes")
    status["killed"] = processes(killed, folder / "killed")
    status["resumed"] = processes(partial(train, TRAINED["pera"]), folder / "killed")
    for name, scenario in COMMANDS.items():
        status[name] = processes(
            partial(command, more=scenario.get("more", ()), second=scenario.get("second", ())),
            folder / name,
        )
    (folder / "status.json").write_text(json.dumps(status))


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """The folder in which the launcher has run every scenario."""
    folder = tmp_path_factory.mktemp("distributed")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, __file__, folder],
        capture_output=True,
        text=True,
        env=environment,
        timeout=150,
    )
    assert done.returncode == 0, done.stderr
    status = json.loads((folder / "status.json").read_text())
    shown = "".join(path.read_text() for path in folder.glob("*/*.txt"))
    assert all(
        set(status[name]) == {0} for name in ("table", *TRAINED, "masks", "mistakes", "resumed")
    ), shown
    return folder


if __name__ == "__main__":
    launch(Path(sys.argv[1]))
