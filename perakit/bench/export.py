"""What leaving and swapping cost, measured on a GPT-2.

`python -m perakit.bench.export docs` writes export.json and a table of export.md. The GPT-2 has the
shape of the 124M model and random weights (nothing is downloaded), with PERA of rank 16 on all
projections.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from perakit.adapters import PERA
from perakit.bench.measured import as_json, in_words, machine, renewed
from perakit.bench.models import SEED, SHAPE
from perakit.files import write_atomically
from perakit.models import activate, adapters, attach, export_peft
from perakit.table import Table
from perakit.toy import GPT2

COMMAND = "python -m perakit.bench.export docs"
METHOD = PERA(rank=16)
EXPORTS: dict[str, dict[str, Any]] = {
    "exact": {},
    "cut to rank 64": {"rank": 64},
    "exact, padded to 256": {"pad": True},
}
COLUMNS = ("124M shape, PERA of rank 16", "seconds", "spread", "rank", "MiB", "worst error")


class _Operations(TorchDispatchMode):
    """Counts torch's operations within the block: each copy, write or allocation of a tensor."""

    count = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.count += 1
        return function(*args, **(kwargs or {}))


def make() -> GPT2:
    """The adapted model, factors off their start."""
    torch.manual_seed(SEED)
    model = GPT2(SHAPE).eval()
    attach(model, METHOD, "all-linear")
    for adapter in adapters(model).values():
        for parameter in adapter.parameters():
            torch.nn.init.normal_(parameter, std=0.05)
    return model


def exporting(model: GPT2, options: dict[str, Any], repeats: int) -> dict[str, Any]:
    """Seconds of each export with reading back, bytes written, rank, and worst error of a layer."""
    seconds = []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            report = export_peft(model, folder, **options)
            seconds.append(time.perf_counter() - start)
    return {"seconds": seconds, "bytes": report.size, "rank": report.rank, "error": report.worst}


def swapping(model: GPT2, repeats: int) -> dict[str, Any]:
    """Seconds of each swap between two adapters, and the tensor operations of all swaps."""
    attach(model, METHOD, "all-linear", name="other")
    seconds = []
    with _Operations() as operations:
        for turn in range(repeats):
            start = time.perf_counter()
            activate(model, ("default", "other")[turn % 2])
            seconds.append(time.perf_counter() - start)
    return {"seconds": seconds, "operations": operations.count}


def measure(repeats: int) -> dict[str, Any]:
    """All of it, some seconds a repeat."""
    about, model, exports = machine("safetensors"), make(), {}
    for name, options in EXPORTS.items():
        print(f"export: {name}", file=sys.stderr)
        exports[name] = exporting(model, options, repeats)
    return {
        "seed": SEED,
        "repeats": repeats,
        "method": METHOD.to_dict(),
        "machine": about,
        "export": exports,
        "swap": swapping(model, 20 * repeats),
    }


def table(data: dict[str, Any]) -> str:
    """The measured part of docs/export.md."""
    rows = [_row(name, one) for name, one in data["export"].items()]
    seconds, operations = data["swap"]["seconds"], data["swap"]["operations"]
    milliseconds = 1e3 * statistics.median(seconds)
    return f"""{in_words(data["machine"])}; seed {data["seed"]};
median and spread of {data["repeats"]} runs. Numbers: `export.json`.

{Table(COLUMNS, rows).markdown()}

Swapping between two such adapters with `pk.activate` takes {milliseconds:.1f} ms,
and {len(seconds)} swaps make {operations} tensor operations: nothing is copied,
written or allocated."""


def _row(name: str, one: dict[str, Any]) -> tuple[str, ...]:
    seconds = one["seconds"]
    return (
        f"export, {name}",
        f"{statistics.median(seconds):.2f}",
        f"{min(seconds):.2f} ... {max(seconds):.2f}",
        str(one["rank"]),
        f"{one['bytes'] / 2**20:.1f}",
        f"{one['error']:.1e}",
    )


def main() -> None:
    """Measure, print, and where a folder is given write export.json and the table of export.md."""
    parser = argparse.ArgumentParser(
        prog="python -m perakit.bench.export", description="Time export and swapping."
    )
    parser.add_argument(
        "folder",
        nargs="?",
        type=Path,
        help="docs: export.json and export.md are renewed there; default: print only",
    )
    parser.add_argument("--repeats", type=int, default=5, help="default: %(default)s")
    arguments = parser.parse_args()
    data = measure(arguments.repeats)
    print(table(data))
    if arguments.folder:
        page = arguments.folder / "export.md"
        text = renewed(page.read_text(), COMMAND, table(data))
        write_atomically(arguments.folder / "export.json", as_json(data))
        write_atomically(page, text.encode())


if __name__ == "__main__":
    main()
