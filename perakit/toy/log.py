"""What a training run keeps: metrics, a row a step, and the checkpoint from which it goes on."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as from_safetensors
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

from perakit.errors import PerakitError, listed, short
from perakit.files import open_plain, sync, write_atomically
from perakit.models.tensors import read_header
from perakit.rows import Row, append, read_rows, sealed, unsealed

ADAM_STATE = ("step", "exp_avg", "exp_avg_sq")
# What a row of metrics has besides its step: of a step, or of a look at the held-out text
LEARNED = {"loss", "lr", "grad_norm", "seconds"}
LOOKED = {"heldout_bits_per_byte", "peak_bytes"}
COUNTS = (torch.float32, torch.float64)  # the types in which AdamW counts its steps
ROW = 512  # bytes that a row may have, and what the header of a checkpoint says of one tensor
AGAIN = "delete it to start again"
WITHOUT = "delete it to go on without its rows"


class Log:
    """The metrics and the checkpoint of one run, in memory and, given a folder, on disk.

    rows: the metrics so far; fingerprint: hash of all that decides the run.
    """

    def __init__(self, out: Path | None, fingerprint: str) -> None:
        self.rows: list[dict[str, Any]] = []
        self.fingerprint = fingerprint
        self.metrics = out and out / "metrics.jsonl"
        self.saved = out and out / "checkpoint.safetensors"

    def write(self, row: dict[str, Any]) -> None:
        """Add a row to the metrics."""
        self.rows.append(row)
        if self.metrics:
            # It comes to the disk with the checkpoint that has its step; nothing asks before
            append(self.metrics, row, "choose a folder that can be written", synced=False)

    def checkpoint(
        self, step: int, trainable: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer
    ) -> None:
        """Save all that the steps after `step` need."""
        if not self.saved or not self.metrics:
            return
        sync(self.metrics)
        found = {f"parameter/{name}": p.detach() for name, p in trainable.items()}
        for name, p in trainable.items():
            found |= {
                f"{key}/{name}": optimizer.state[p][key]
                for key in ADAM_STATE
                if p in optimizer.state
            }
        tensors = {key: tensor.contiguous().cpu() for key, tensor in found.items()}
        state = {
            "step": step,
            "fingerprint": self.fingerprint,
            "rows": len(self.rows),
            "tensors": _digest(tensors),
        }
        # One key: safetensors does not order several
        run = sealed(state).decode().rstrip()
        write_atomically(self.saved, to_safetensors(tensors, {"run": run}))

    def resume(
        self, steps: int, trainable: Mapping[str, nn.Parameter]
    ) -> tuple[int, dict[str, Tensor]]:
        """Steps done and tensors of the last checkpoint, from where the metrics go on.

        (0, none) where there is no checkpoint. steps: of the whole run; trainable: name ->
        parameter. Raises PerakitError for a checkpoint of another run, and for one or metrics that
        are not as they were written.
        """
        if not self.saved or not self.metrics:
            return 0, {}
        state, tensors = dict[str, Any](step=0), dict[str, Tensor]()
        if os.path.lexists(self.saved):
            state, tensors = _read_checkpoint(self.saved, self.fingerprint, steps, trainable)
        found = list[Row]()
        # Whoever has removed them goes on without
        if state["step"] and os.path.lexists(self.metrics):
            found = _read_metrics(self.metrics, steps, state["step"], state.get("rows"))
        self.rows = [row.values for row in found]
        write_atomically(self.metrics, b"".join(row.line + b"\n" for row in found))
        return state["step"], tensors


def _read_checkpoint(
    path: Path, fingerprint: str, steps: int, trainable: Mapping[str, nn.Parameter]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What a checkpoint says of its run, and its tensors, which are those of `trainable`."""
    place = f"checkpoint {str(path)!r}"
    damaged = f"{place} is cut short or altered, {AGAIN}"
    try:
        with open_plain(path) as file:
            header = read_header(file, _allowance(trainable), damaged)
            # A file of somebody else says nothing of a run
            run = unsealed(header.metadata.get("run", "{}").encode(errors="replace"), place, AGAIN)
            state = run.values
            if state.get("fingerprint") != fingerprint:
                raise PerakitError(
                    f"{str(path.parent)!r} holds a run of another model, text or recipe: choose"
                    " another folder or delete it"
                )
            known = {"step", "fingerprint"} | ({"rows", "tensors"} if run.vouched else set())
            if state.keys() != known or not _is_count(state["step"], steps):
                raise PerakitError(f"{damaged} (it says {short(state)})")
            shapes = _shapes(trainable, header.shapes.keys())
            if odd := sorted({key for key, _ in shapes.items() ^ header.shapes.items()}):
                raise PerakitError(f"{damaged} (of other names or shapes: {listed(odd)})")
            file.seek(0)
            data = file.read(os.fstat(file.fileno()).st_size)  # as long as the header says
    except OSError as error:
        raise PerakitError(f"cannot read {place}: {error.strerror or error}; {AGAIN}") from error
    try:
        tensors = from_safetensors(data)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise PerakitError(f"{damaged} ({error})") from error
    if run.vouched and state["tensors"] != _digest(tensors):
        raise PerakitError(f"{damaged} (its checksum is another)")
    if odd := [key for key in tensors if not _fits(key, tensors[key], trainable, state["step"])]:
        raise PerakitError(f"{damaged} (of another type or count: {listed(odd)})")
    return state, tensors


def _allowance(trainable: Mapping[str, nn.Parameter]) -> int:
    """Bytes that a header may have: a name is written with at most six for each of its own."""
    parts = len(ADAM_STATE) + 1
    # Room for another model, so that it is told from damage
    return 2**20 + parts * sum(ROW + 6 * len(name.encode()) for name in trainable)


def _shapes(
    trainable: Mapping[str, nn.Parameter], found: Collection[str]
) -> dict[str, tuple[int, ...]]:
    """The shapes of a checkpoint's tensors by name. found: the names that it has."""
    shapes = {f"parameter/{name}": tuple(p.shape) for name, p in trainable.items()}
    for name, p in trainable.items():
        # A parameter that no loss has reached has no moments
        if any(f"{key}/{name}" in found for key in ADAM_STATE):
            shapes |= {
                f"{key}/{name}": () if key == "step" else tuple(p.shape) for key in ADAM_STATE
            }
    return shapes


def _fits(key: str, tensor: Tensor, trainable: Mapping[str, nn.Parameter], steps: int) -> bool:
    """Whether a tensor has the type of its parameter, and AdamW's own count is one."""
    part, _, name = key.partition("/")
    if part == "step":
        return tensor.dtype in COUNTS and tensor.item() in range(steps + 1)
    return tensor.dtype == trainable[name].dtype


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """Hash of tensors and their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype} ".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _read_metrics(path: Path, steps: int, step: int, count: int | None) -> list[Row]:
    """The rows of `path` up to `step`; count: how many these are, if the checkpoint says it."""
    found = []
    for row in read_rows(path, 2 * ROW * (steps + 1), WITHOUT):
        if not _is_metric(row, steps):
            raise PerakitError(f"{row.place} is no row of metrics: {WITHOUT}")
        # Later ones are from after the last checkpoint of a killed run
        if row.values["step"] <= step:
            found.append(row)
    learned = [row.values["step"] for row in found if "loss" in row.values]
    looked = [row.values["step"] for row in found if "loss" not in row.values]
    order = [(row.values["step"], "loss" not in row.values) for row in found]
    whole = (
        learned == list(range(step - len(learned) + 1, step + 1))
        and len(set(looked)) == len(looked)
        and order == sorted(order)
        and count in (None, len(found))
    )
    if not whole:
        raise PerakitError(
            f"{str(path)!r} does not have the rows of the checkpoint's {step} steps, each once and"
            f" in order: {WITHOUT}"
        )
    return found


def _is_metric(row: Row, steps: int) -> bool:
    rest = {name: value for name, value in row.values.items() if name != "step"}
    return (
        (rest.keys() in (LEARNED, LOOKED) or rest.keys() == {"heldout_bits_per_byte"})
        and _is_count(row.values.get("step"), steps)
        and all(type(value) in (int, float) for value in rest.values())
        # A run goes on while its loss is finite; a look at other text may have found what is not
        and (row.vouched or all(abs(value) < sys.float_info.max for value in rest.values()))
    )


def _is_count(value: Any, most: int) -> bool:
    return type(value) is int and 0 <= value <= most
