"""The door of `toy.train(..., out=folder)`: a run that goes on from its checkpoint and metrics.

A run that goes on must end with the bits of one that was never stopped, and with its metrics.
"""

import contextlib
import json
import math
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from defects import ANY, half, unfrozen
from lines import LINES, bare, contents, difference, plain, rows, unsealed, written
from mutations import CONTENT, Draft, Entry, Files, metadata, pack, unpack
from runner import Door, Trial, demand
from targets import bits, fingerprint
from torch import nn

import perakit as pk
from perakit.toy import GPT2, Config, training
from perakit.toy.corpus import Corpus
from perakit.toy.training import DivergedError, Recipe, Run, train

METRICS, CHECKPOINT = "metrics.jsonl", "checkpoint.safetensors"
TEXT = Corpus("fuzz", bytes(range(64)) * 2, bytes(range(64, 96)), "made up")
RECIPE = Recipe(
    steps=4, batch=1, context=4, warmup=1, eval_every=2, eval_windows=1, checkpoint_every=2
)
CLOCKED = ("seconds", "peak_bytes")  # what two runs do not share


def adapted() -> nn.Module:
    model = whole()
    pk.attach(model, pk.PERA(rank=2, dropout=0.25), ["c_attn"])
    return model


def whole() -> nn.Module:
    torch.manual_seed(1)
    return GPT2(Config(n_positions=4, n_embd=2, n_layer=1, n_head=1))


MODELS = {"adapter": adapted, "whole model": whole}


def opens(model: nn.Module, folder: Path) -> Run:
    return train(model, TEXT, RECIPE, out=folder, progress=False)


class StoppedError(Exception):
    """A run that was killed."""


def stopped(model: nn.Module, folder: Path, after: int) -> None:
    """A run that is killed in the step that follows `after` of them."""
    steps = iter(range(after))

    def kill(module: nn.Module, _: object) -> None:
        if module.training and next(steps, None) is None:
            raise StoppedError

    model.register_forward_pre_hook(kill)
    with (
        contextlib.suppress(StoppedError),
        patch.object(time, "perf_counter", lambda: 0.0),  # the same files in every run
        patch.object(training, "peak_bytes", lambda _: 2**20),
    ):
        train(model, TEXT, RECIPE, out=folder, progress=False)


@dataclass
class Saved(Draft):
    """A checkpoint and its metrics: `config` is what the checkpoint says of the run."""

    others: list[dict[str, Entry]] = field(default_factory=list)  # tensors at other steps

    @property
    def metadata(self) -> dict[str, str]:
        text = json.dumps(self.config) if self.text is None else self.text.decode(errors="replace")
        return {"run": text}


class Source(NamedTuple):
    """The files of a run that was stopped, sealed by hashes or not, and how it would have ended."""

    model: str
    checkpoint: bytes
    metrics: bytes
    ended: dict[str, bytes]  # parameters
    told: list[Any]  # metrics
    others: list[dict[str, Entry]]
    sealed: bool

    def draft(self) -> Saved:
        lines = self.metrics.split(b"\n")[:-1]
        if not self.checkpoint:
            return Saved(lines=lines, data=b"")
        said = json.loads(metadata(self.checkpoint)["run"])
        tensors = unpack(self.checkpoint)
        return Saved(said, tensors, lines, others=[dict(other) for other in self.others])


def step(draw: Random, draft: Saved) -> None:
    """The checkpoint says another step."""
    draft.config["step"] = draw.choice(
        [0, 1, 2, 3, 4, 5, -1, 10**9, 10**30, 1.0, 2.5, "2", None, True]
    )


def another_time(draw: Random, draft: Saved) -> None:
    """Tensors of another step under the same words, all or one of them."""
    other = draw.choice(draft.others)
    name = draw.choice(list(other))
    draft.tensors |= other if draw.random() < 0.5 else {name: other[name]}


def another_run(draw: Random, draft: Saved) -> None:
    draft.config["fingerprint"] = draw.choice(
        ["0" * 64, "", None, 0, draft.config["fingerprint"][1:]]
    )


def before_hashes(checkpoint: bytes, metrics: bytes) -> tuple[bytes, bytes]:
    """Both files as they were written before they had hashes."""
    said = json.loads(metadata(checkpoint)["run"])
    run = {"run": json.dumps({name: said[name] for name in ("step", "fingerprint")})}
    return pack(unpack(checkpoint), run), written(unsealed(metrics.split(b"\n")[:-1]))


KINDS = {
    **LINES,
    **{
        kind: entry
        for kind, entry in CONTENT.items()
        if kind.split(":")[0] not in ("both", "path", "nothing") and kind != "json: patterns"
    },
    "run: step": (8, step),
    "run: another": (2, another_run),
    "run: tensors of another step": (8, another_time),
}


class Checkpoint(Door):
    """checkpoint.safetensors and metrics.jsonl of one run, spoiled together."""

    name = "checkpoint"
    content = KINDS
    opens = staticmethod(opens)

    def sources(self, scratch: Path) -> dict[str, Any]:
        made = {}
        for name, make in MODELS.items():
            model = make()
            run = train(model, TEXT, RECIPE, progress=False)
            ended, told = parameters(model), unclocked(run.metrics)
            kept: dict[int, tuple[bytes, bytes]] = {}
            for after in range(1, RECIPE.steps + 1):
                folder = scratch / name / str(after)
                stopped(make(), folder, after)
                path = folder / CHECKPOINT
                kept[after] = (
                    path.read_bytes() if path.exists() else b"",
                    (folder / METRICS).read_bytes(),
                )
            tensors = {after: unpack(files[0]) for after, files in kept.items() if files[0]}
            for after, (checkpoint, metrics) in kept.items():
                others = [other for at, other in tensors.items() if at != after]
                rest = (ended, told, others)
                made[f"{name}, {after} steps"] = Source(name, checkpoint, metrics, *rest, True)
            old = before_hashes(*kept[2])
            made[f"{name}, without hashes"] = Source(name, *old, *rest, False)
        shutil.rmtree(scratch)
        return made

    def files(self, draft: Draft, sealed: bool) -> Files:
        data = pack(draft.tensors, draft.metadata) if draft.data is None else draft.data
        there: Files = {CHECKPOINT: data} if data else {}
        return {**there, METRICS: written(draft.lines), **draft.extra}

    def trial(self, source: Source, target: str, folder: Path, opens: Callable[..., Any]) -> Trial:
        model, files = MODELS[source.model](), contents(folder)
        before = fingerprint(model)
        old = not source.sealed or bool(bare(folder, METRICS))
        without = not os.path.lexists(folder / METRICS)

        def use() -> Run | None:
            try:
                return opens(model, folder)
            except DivergedError:
                if source.sealed:
                    raise
                return None  # of numbers that were altered, which nobody could see

        def right(run: Run | None) -> None:
            if run is None:
                return
            judge_files(model, folder, run)
            demand(not source.sealed or parameters(model) == source.ended, "another end")
            judge_metrics(source.told, unclocked(run.metrics), old, without)

        def changed() -> str:
            return difference(folder, files) or "the model" * (fingerprint(model) != before)

        return Trial(use, right, changed)


def parameters(model: nn.Module) -> dict[str, bytes]:
    return {name: bits(p) for name, p in model.named_parameters()}


def unclocked(metrics: list[Any]) -> list[Any]:
    return [{key: row[key] for key in plain(row) if key not in CLOCKED} for row in metrics]


def judge_files(model: nn.Module, folder: Path, run: Run) -> None:
    """The files have the end and the metrics that the run has."""
    stored = unpack((folder / CHECKPOINT).read_bytes())
    for name, p in model.named_parameters():
        there = stored.get(f"parameter/{name}")
        demand(not p.requires_grad or (there and there[2] == bits(p)), f"{name} is not in the file")
        demand(bool(p.isfinite().all()), f"{name} is not finite")
    told = [plain(row) for row in rows(folder / METRICS)]
    demand(told == run.metrics, "the file says what the run does not")


def judge_metrics(wanted: list[Any], told: list[Any], old: bool, without: bool) -> None:
    """They are those of a run that was never stopped.

    old: some had no checksum, so that an altered number cannot be seen; without: somebody had
    removed the file, so that they begin after the checkpoint.
    """
    numbers = [value for row in told for value in row.values()]
    finite = all(type(one) in (int, float) and math.isfinite(one) for one in numbers)
    demand(finite, "what is no number")
    if old:
        learned = [row["step"] for row in told if "loss" in row]
        wanted = list(range(RECIPE.steps - len(learned) + 1, RECIPE.steps + 1))
        demand(bool(learned) and learned == wanted, f"rows of steps {learned}")
    else:
        wanted = wanted[len(wanted) - len(told) :] if without else wanted
        demand(told == wanted, f"other metrics: {told}, not {wanted}")


def without_moments(checkpoint: bytes) -> bytes:
    """A checkpoint in which AdamW has seen no gradient, without a hash to say so."""
    said = json.loads(metadata(checkpoint)["run"])
    run = {"run": json.dumps({name: said[name] for name in ("step", "fingerprint")})}
    tensors = {
        name: (dtype, shape, bytes(len(data)) if name.startswith("exp_avg") else data)
        for name, (dtype, shape, data) in unpack(checkpoint).items()
    }
    return pack(tensors, run)


def forgetful(opens: Callable[..., Any]) -> Callable[..., Any]:
    """Goes on without AdamW's moments."""

    def broken(model: nn.Module, folder: Path) -> Run:
        path = folder / CHECKPOINT
        small = path.is_file() and not path.is_symlink() and path.stat().st_size < 2**20
        saved = path.read_bytes() if small else b""
        with contextlib.suppress(Exception):
            path.write_bytes(without_moments(saved))
        try:
            return opens(model, folder)
        except pk.PerakitError:
            if small:
                path.write_bytes(saved)
            raise

    return broken


Checkpoint.defects = ANY | {
    "half": (half, "half changed", 30),
    "unfrozen": (unfrozen, "half changed", 30),
    "forgetful": (forgetful, "wrongly taken", 60),
}
