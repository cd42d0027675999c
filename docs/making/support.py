"""What works with what, found out by trying: each method with each kind of layer, dtype and use.

`python docs/making/support.py` runs every cell and prints the table; `make methods` puts it into
docs/methods.md. A cell tries laws of `perakit.testing` on a 7 x 5 layer, with factors moved off
their start. It says yes, or what is the case instead, or FAILS and why; a cell that fails ends the
command with status 1.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn
from tqdm.auto import tqdm

from perakit import models, testing
from perakit.adapters import PERA, DeLoRA, DoRA, HiRA, LoHa, LoRA, Method, MoRA, Quadratic
from perakit.bench.measured import renewed
from perakit.errors import PerakitError
from perakit.files import write_atomically
from perakit.strategies import make_layer, move
from perakit.table import Table
from perakit.toy.distributed import parallel

RANK = 2
COMMAND = "make methods"
METHODS: tuple[Method, ...] = (
    LoRA(RANK),
    PERA(RANK),
    DoRA(RANK),
    HiRA(RANK),
    MoRA(RANK),
    DeLoRA(RANK),
    LoHa(RANK),
    Quadratic(RANK),
)
IN_USE = (
    testing.law_1_no_op_at_init,
    testing.law_2_differs,
    testing.law_3_dense_forward,
    testing.law_7_save_load,
    testing.law_8_gradients,
    testing.law_sum,
)
FULL, BOTH = (torch.float64, torch.float32), ("Linear", "Conv1D")


def _hold(
    method: Method,
    laws: Sequence[Callable[..., None]],
    kinds: Sequence[str],
    dtypes: Sequence[torch.dtype],
) -> None:
    """All laws on all layers; AssertionError at the first that is broken."""
    for kind in kinds:
        for dtype in dtypes:
            for law in laws:
                law(method, make_layer(kind, 7, 5, True, dtype, seed=3), 3)


def _used(kinds: Sequence[str], dtypes: Sequence[torch.dtype]) -> Callable[[Method], str]:
    def check(method: Method) -> str:
        _hold(method, IN_USE, kinds, dtypes)
        return "yes"

    return check


def _merge(method: Method) -> str:
    _hold(method, (testing.law_4_merge,), (*BOTH, "NF4"), (*FULL, torch.bfloat16))
    return "yes" if method.mergeable else "refused"


def _unmerge(method: Method) -> str:
    _hold(
        method,
        (testing.law_5_restore, testing.law_6_idempotent),
        (*BOTH, "NF4"),
        (*FULL, torch.bfloat16),
    )
    return "bitwise" if method.mergeable else "refused"


def _export(method: Method) -> str:
    """To PEFT's format and back, as LoRAs on a bare model: ΔW is the same to 1e-6 of its size."""
    model = nn.Sequential(make_layer("Linear", 17, 19), make_layer("Conv1D", 13, 17))
    models.attach(model, method, "all-linear")
    move(model, seed=3)
    with tempfile.TemporaryDirectory() as folder:
        try:
            models.export_peft(model, folder)
        except PerakitError:
            assert not method.mergeable, "export refuses an update that is a matrix"
            return "refused"
        assert method.mergeable, "what is no matrix was exported"
        bare = nn.Sequential(make_layer("Linear", 17, 19), make_layer("Conv1D", 13, 17))
        models.import_peft(bare, folder)
    there, back = models.delta_weights(model), models.delta_weights(bare)
    for name, delta in there.items():
        error = torch.linalg.norm(back[name] - delta) / torch.linalg.norm(delta)
        assert error < 1e-6, f"layer {name}: what comes back differs by {error:.1e}"
    return f"exact, rank {models.adapters(bare)['0'].method.rank}"


def _compile(method: Method) -> str:
    _hold(method, (testing.law_12_compile,), (*BOTH, "NF4"), (torch.float32,))
    return "one graph"


# --- two processes --------------------------------------------------------------------------------


def _trained(method: Method, rank: int, size: int) -> dict[str, Tensor]:
    """The adapters after three steps, of process `rank` of `size` on its share of a batch of 8."""
    model = nn.Sequential(
        make_layer("Linear", 7, 5, True, torch.float64),
        nn.Tanh(),
        make_layer("Conv1D", 3, 7, True, torch.float64),
    )
    models.attach(model, method, "all-linear")
    move(model, seed=3)
    draw = torch.Generator().manual_seed(3)
    forward = parallel(model)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.05)
    for _ in range(3):
        x, y = (
            torch.randn(8, width, generator=draw, dtype=torch.float64)[rank::size]
            for width in (5, 3)
        )
        optimizer.zero_grad()
        (forward(x) - y).square().mean().backward()
        optimizer.step()
    return {
        f"{method.name}/{key}": p.detach().contiguous()
        for key, p in model.named_parameters()
        if p.requires_grad
    }


def _child(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    try:
        trained = {
            key: value for method in METHODS for key, value in _trained(method, rank, 2).items()
        }
        if rank == 0:
            save_file(trained, f"{folder}/trained.safetensors")
    finally:
        dist.destroy_process_group()


@cache
def _two_processes() -> dict[str, Tensor]:
    """The adapters of every method as two processes under DistributedDataParallel leave them."""
    with tempfile.TemporaryDirectory() as folder:
        spawn(_child, (folder,), nprocs=2)
        return load_file(Path(folder) / "trained.safetensors")


def _ddp(method: Method) -> str:
    for key, value in _trained(method, 0, 1).items():
        difference = (value - _two_processes()[key]).abs().max().item()
        assert difference < 1e-12, f"{key}: two processes differ from one by {difference:.1e}"
    return "yes"


CHECKS: dict[str, Callable[[Method], str]] = {
    "Linear": _used(["Linear"], FULL),
    "Conv1D": _used(["Conv1D"], FULL),
    "bf16": _used(BOTH, (torch.bfloat16,)),
    "NF4 base": _used(["NF4"], (torch.float32, torch.bfloat16)),
    "merge": _merge,
    "unmerge": _unmerge,
    "export": _export,
    "compile": _compile,
    "DDP": _ddp,
}


def cell(method: Method, column: str) -> str:
    """One cell: what the check says, or FAILS and why."""
    try:
        return CHECKS[column](method)
    except Exception as error:  # whatever goes wrong is what the cell is there to show
        return f"FAILS: {type(error).__name__}: {next(iter(str(error).splitlines()), '')}"


def table() -> Table:
    """Every cell, about half a minute."""
    rows = []
    for method in tqdm(METHODS, desc="methods", leave=False):
        rows.append([type(method).__name__, *(cell(method, column) for column in CHECKS)])
    return Table(("method", *CHECKS), rows)


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns 0, or 1 where a cell fails."""
    parser = argparse.ArgumentParser(prog="python docs/making/support.py", description=__doc__)
    parser.add_argument("--markdown", action="store_true", help="as in docs/methods.md")
    parser.add_argument(
        "--into", type=Path, metavar="PAGE", help="renew the table of docs/methods.md too"
    )
    arguments = parser.parse_args(argv)
    made = table()
    print(made.markdown() if arguments.markdown else made)
    if arguments.into:
        write_atomically(
            arguments.into, renewed(arguments.into.read_text(), COMMAND, made.markdown()).encode()
        )
    return int(any(entry.startswith("FAILS") for row in made.rows for entry in row))


if __name__ == "__main__":
    sys.exit(main())
