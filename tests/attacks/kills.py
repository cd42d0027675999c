"""Kill what writes, at random moments, again and again; nothing that was kept may be lost.

`python tests/attacks/kills.py --out FOLDER` kills `pk.save` in a loop, `perakit finetune`, `perakit
experiment --small` and `perakit bench`, each --kills times: three of four by SIGKILL, the others by
SIGINT. After each kill it looks at what is on the disk, and the same command goes on. A run that
has come to its end is compared with one that nobody has killed. Where this program itself was
stopped, the same command goes on.

One process imports torch once and forks a child for every sitting. It needs fork, so no Windows.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

import perakit as pk
from perakit import toy
from perakit.bench import command as bench
from perakit.bench import timing
from perakit.cli import main
from perakit.experiments import lab
from perakit.experiments.jobs import read
from perakit.rows import LIMIT, read_rows, unsealed

# What the clock and the machine decide
MEASURED = ("seconds", "peak_bytes", "machine", "facts")


# --- what is killed: run in a folder, looked at after a kill, and compared at the end -------------


class Save:
    """`pk.save` in a loop: what is there is the last that was saved, or the one after it."""

    def run(self, folder: Path) -> None:
        model, before = _adapted(), self._found(folder)
        for k in range(before + 1, before + 401):
            with torch.no_grad():
                for p in _factors(model).values():
                    p.fill_(k)
            pk.save(model, folder / "adapter")
            (folder / "saved").write_bytes(b"%9d" % k)

    def kept(self, folder: Path) -> int:
        found, saved = self._found(folder), folder / "saved"
        said = int(saved.read_bytes() or found) if saved.exists() else found
        assert found in (said, said + 1), f"saved {said}, found {found}"
        return found

    def _found(self, folder: Path) -> int:
        if not (folder / "adapter" / "adapter.json").exists():
            return 0
        model = _adapted()
        pk.load(model, folder / "adapter")
        (value,) = {x for p in _factors(model).values() for x in p.detach().unique().tolist()}
        return int(value)

    def result(self, folder: Path) -> Any:
        left = sorted(path.suffix for path in (folder / "adapter").iterdir())
        return {"files": left}


class Finetune:
    """`perakit finetune` of two methods; what is kept: steps in checkpoints."""

    def run(self, folder: Path) -> None:
        base = folder.parent / "model"
        short = "--steps 40 --context 16 --batch 2 --rank 2 --eval-every 3 --method lora pera"
        where = ["--model", str(base), "--text", "synthetic", "--out", str(folder)]
        _command(["finetune", *where, *short.split()])

    def prepare(self, folder: Path) -> None:
        (folder / "model").mkdir(parents=True)
        torch.manual_seed(0)
        model = toy.GPT2(toy.Config(n_embd=16, n_layer=1, n_head=2, n_positions=32))
        weights = {k: v for k, v in model.state_dict().items() if k != "lm_head.weight"}
        save_file(weights, folder / "model" / "model.safetensors")
        (folder / "model" / "config.json").write_text(json.dumps(model.config.to_dict()))

    def kept(self, folder: Path) -> int:
        steps = 0
        for path in folder.glob("*/checkpoint.safetensors"):
            with open(path, "rb") as file:
                header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
            steps += unsealed(header["__metadata__"]["run"].encode(), "", "").values["step"]
        return steps

    def result(self, folder: Path) -> Any:
        tensors = {
            str(path.relative_to(folder)): {k: v.tolist() for k, v in load_file(path).items()}
            for path in folder.rglob("*.safetensors")
        }
        rows = [
            [row.values for row in read_rows(path, LIMIT, "")]
            for path in sorted(folder.rglob("metrics.jsonl"))
        ]
        files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
        return [files, tensors, rows, json.loads((folder / "results.json").read_text())]


class Experiment:
    """`perakit experiment NAME --small`; what is kept: rows of its ledger, as they were."""

    def __init__(self, name: str, *more: str) -> None:
        self.name, self.more = name, more

    def run(self, folder: Path) -> None:
        short = ["--seeds", "2", "--small", *self.more, "--out", str(folder)]
        _command(["experiment", self.name, *short])

    def kept(self, folder: Path) -> int:
        return len(self._rows(folder))

    def _rows(self, folder: Path) -> list[Any]:
        path = folder / f"{self.name}.jsonl"
        return read(path)[1] if path.exists() else []

    def result(self, folder: Path) -> Any:
        return [sorted(path.name for path in folder.iterdir()), self._rows(folder)]


class Bench:
    """`perakit bench`; what is kept: visits to cells, as they were."""

    def run(self, folder: Path) -> None:
        short = "--layers 8x6 --tokens 4 5 --ranks 2 --repeats 3 --parts layers plans inference"
        _command(["bench", "--out", str(folder), *short.split()])

    def kept(self, folder: Path) -> int:
        now = bench._read(folder / bench.CELLS)
        beside = folder.with_name(f"{folder.name}-seen.json")
        before = json.loads(beside.read_text()) if beside.exists() else {}
        assert all(now.get(key) == cell for key, cell in before.items()), "a cell is lost"
        beside.parent.mkdir(exist_ok=True)
        beside.write_text(json.dumps(now))
        return len(now)

    def result(self, folder: Path) -> Any:
        files = sorted(path.name for path in folder.iterdir())
        document = json.loads((folder / bench.report.NUMBERS["cpu"]).read_text())
        parts = {part: document[part] for part in bench.PARTS}
        return [files, len(bench._read(folder / bench.CELLS)), parts]


KINDS: dict[str, list[Any]] = {
    "save": [Save()],
    "finetune": [Finetune()],
    "experiment": [
        Experiment("function"),
        Experiment("interaction", "--text", "synthetic", "--old", "synthetic:1"),
    ],
    "bench": [Bench()],
}


def _adapted() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(40, 50), nn.Linear(50, 40))
    pk.attach(model, pk.PERA(rank=16), "all-linear")
    return model


def _factors(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def _command(arguments: list[str]) -> None:
    status = main(arguments)
    if status:
        sys.exit(status)


def without_clock(value: Any) -> Any:
    """A result but for what the clock decides."""
    if isinstance(value, dict):
        return {key: without_clock(x) for key, x in value.items() if key not in MEASURED}
    return [without_clock(one) for one in value] if isinstance(value, list) else value


# --- a sitting ------------------------------------------------------------------------------------


def sitting(
    work: Callable[[], None], said: Path, seconds: float | None = None, how: int = signal.SIGKILL
) -> str:
    """Do `work` in a forked child, and send it `how` after `seconds`.

    "whole" where it came to its end, else the name of the signal; said: takes what it prints.
    """
    child = os.fork()
    if child == 0:
        status = 0
        try:
            signal.signal(signal.SIGINT, signal.default_int_handler)  # a job behind & ignores it
            output = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(output, 1)
            os.dup2(output, 2)
            sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
            sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
            work()
        except KeyboardInterrupt:
            status = 130
        except SystemExit as error:
            status = int(error.code or 0)
        except BaseException:
            traceback.print_exc()
            status = 1
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, how)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status in (-signal.SIGKILL, 130):
        return "SIGINT" if status == 130 else "SIGKILL"
    assert status == 0, f"status {status}: {said.read_text()[-2000:]}"
    return "whole"


def killed(name: str, kind: Any, folder: Path, tally: dict[str, int], seed: int) -> None:
    """One run from its beginning to its end, killed again and again, and compared with a whole one.

    tally: kills so far, by signal, and those that are still wanted.
    """
    whole, work, said = folder / "whole", folder / "killed", folder / "said.txt"
    if not (folder / "seconds").exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        if prepare := getattr(kind, "prepare", None):
            prepare(folder)
        whole.mkdir()
        began = time.perf_counter()
        assert sitting(lambda: kind.run(whole), said) == "whole"
        (folder / "seconds").write_text(str(time.perf_counter() - began))
    length = float((folder / "seconds").read_text())
    work.mkdir(exist_ok=True)
    before, how = kind.kept(work), ""
    while how != "whole":
        draw = random.Random(f"{seed}/{name}/{tally}")
        signum = signal.SIGINT if draw.random() < 0.25 else signal.SIGKILL
        seconds = draw.uniform(0, length) if tally["wanted"] > 0 else None
        how = sitting(lambda: kind.run(work), said, seconds, signum)
        now = kind.kept(work)
        assert now >= before, f"{before} were kept, {now} are there"
        before = now
        if how != "whole":
            tally["wanted"] -= 1
        if how == "SIGINT":
            assert "Traceback" not in said.read_text(), said.read_text()
        tally[how] = tally.get(how, 0) + 1
    one, other = (without_clock(kind.result(where)) for where in (work, whole))
    assert one == other, f"{folder}: the result is another than that of a whole run"
    shutil.rmtree(work)
    for beside in folder.glob("killed-*"):
        beside.unlink()


def warm() -> None:
    """What would take long in every child is done once, here."""
    torch.set_num_threads(1)
    p = nn.Parameter(torch.zeros(1))
    p.grad = torch.zeros(1)
    torch.optim.AdamW([p]).step()  # the first step imports much of torch
    lab.os.cpu_count = lambda: 1  # a pool would import torch in every process
    lab._pace = lambda job: 0.01  # the estimate, of which nothing is kept
    timing.TURN = 0.001
    timing.speed = lambda device, dtype: 1e9


def run() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("kinds", nargs="*", default=list(KINDS), help="what to kill")
    parser.add_argument("--kills", type=int, default=25, help="of each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="it goes on from what is there")
    arguments = parser.parse_args()
    warm()
    arguments.out.mkdir(parents=True, exist_ok=True)
    kills = 0
    for name in arguments.kinds:
        path = arguments.out / f"{name}.json"
        tally = {"wanted": arguments.kills, "runs": 0}
        if path.exists():
            tally = json.loads(path.read_text())
        while tally["wanted"] > 0:
            which = tally["runs"] % len(KINDS[name])
            kind = KINDS[name][which]
            killed(name, kind, arguments.out / f"{name}-{which}", tally, arguments.seed)
            tally["runs"] += 1
            path.write_text(json.dumps(tally))
        print(
            f"{name}: {tally.get('SIGKILL', 0)} SIGKILL, {tally.get('SIGINT', 0)} SIGINT in"
            f" {tally['runs']} runs; nothing lost, every result that of a whole run",
            flush=True,
        )
        kills += tally.get("SIGKILL", 0) + tally.get("SIGINT", 0)
    row = {
        "promised": f"{', '.join(arguments.kinds)}: nothing that was kept is lost",
        "attacked": "SIGKILL and SIGINT at random times, then the same again until it is whole",
        "times": f"{kills:,}",
        "came_out": "0 lost, every result that of a whole run",
    }
    print(json.dumps(row))


if __name__ == "__main__":
    run()
