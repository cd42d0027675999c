"""What 4 bits save and cost, measured on two GPT-2s.

`python -m perakit.bench.quantising docs` writes nf4.json and the tables of methods/qlora.md. The
GPT-2s are the tiny one that ships, and one of the shape of the 124M model with random weights
(nothing is downloaded; time and memory do not depend on the values). Memory is the peak of a fresh
process; forward passes in float32 and in 4 bits take turns.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from perakit.adapters import PERA
from perakit.bench.measured import as_json, in_process, in_words, machine, renewed
from perakit.bench.models import PROJECTIONS, SEED, SHAPE
from perakit.files import write_atomically
from perakit.models import attach
from perakit.models.quantize import NF4, NF4Layer
from perakit.table import Table
from perakit.toy import GPT2, bits_per_byte, corpus, load
from perakit.toy.memory import peak_bytes, reset_peak

MODELS = {"tiny": "tiny, trained", "124M": "124M shape, random weights"}
METHOD = PERA(rank=8)
TOKENS, BATCH = 256, 1
BASES = {"float32": None, "NF4": NF4(), "NF4, float32 absmax": NF4(double=False)}
COMMAND = "python -m perakit.bench.quantising docs"
CPU = torch.device("cpu")


def make(name: str) -> GPT2:
    """The model called `name` in MODELS, with the same weights at each call."""
    torch.manual_seed(SEED)
    return load("tiny") if name == "tiny" else GPT2(SHAPE).eval()


def quantised(model: GPT2, config: NF4) -> GPT2:
    """The model with its projections in 4 bits, in place."""
    for parent in list(model.modules()):
        for key, child in list(parent.named_children()):
            if key in PROJECTIONS:
                # Each dense weight is freed as soon as it is rounded
                setattr(parent, key, NF4Layer.of(child, config))
    return model


def size(model: nn.Module) -> int:
    """Bytes of all parameters and saved buffers, shared ones once."""
    return sum(
        {tensor.data_ptr(): tensor.nbytes for tensor in model.state_dict().values()}.values()
    )


def sizes(name: str) -> dict[str, Any]:
    """Bytes of the model with each base, and what the projections lose."""
    found: dict[str, Any] = {}
    for base, config in BASES.items():
        model = make(name)
        if config is not None:
            quantised(model, config)
        layers = [module for module in model.modules() if isinstance(module, NF4Layer)]
        found[base] = {"bytes": size(model)}
        if layers:
            weights = [layer.out_features * layer.in_features for layer in layers]
            bits = sum(layer.bits * count for layer, count in zip(layers, weights, strict=True))
            errors = [layer.error.item() for layer in layers]
            found[base] |= {
                "projections": sum(weights),
                "bits": bits / sum(weights),
                "errors": [min(errors), max(errors)],
            }
        if name == "tiny":
            found[base]["bits_per_byte"] = bits_per_byte(
                model, corpus.load("prose").heldout, model.config.n_positions, windows=64
            )
    return found


def quantising(name: str, repeats: int) -> list[float]:
    """Seconds to quantise all projections."""
    seconds = []
    for _ in range(repeats):
        model = make(name)
        start = time.perf_counter()
        quantised(model, NF4())
        seconds.append(time.perf_counter() - start)
    return seconds


def forward(name: str, repeats: int) -> dict[str, list[float]]:
    """Seconds of a forward pass in float32 and in 4 bits, and of dequantising all projections.

    Passes are of TOKENS tokens; the three take turns.
    """
    dense, four = make(name), quantised(make(name), NF4())
    ids = torch.randint(
        dense.config.vocab_size, (BATCH, TOKENS), generator=torch.Generator().manual_seed(SEED)
    )
    layers = [module for module in four.modules() if isinstance(module, NF4Layer)]
    work: dict[str, Callable[[], object]] = {
        "float32": lambda: dense(ids),
        "NF4": lambda: four(ids),
        "dequantise": lambda: [layer.dequantize() for layer in layers],
    }
    seconds: dict[str, list[float]] = {key: [] for key in work}
    with torch.no_grad():
        for turn in range(repeats + 1):
            for key, run in work.items():
                start = time.perf_counter()
                run()
                if turn:  # the first is to warm up
                    seconds[key].append(time.perf_counter() - start)
    return seconds


def training(name: str, base: str) -> dict[str, int]:
    """Bytes of the process before the model, ready to train, and at the peak of two steps.

    The steps are of PERA with AdamW.
    """
    empty = _resident()
    model = make(name)
    attach(model, METHOD, PROJECTIONS, quantize=BASES[base])
    gc.collect()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    ids = torch.randint(
        model.config.vocab_size, (BATCH, TOKENS + 1), generator=torch.Generator().manual_seed(SEED)
    )
    ready = _resident()
    reset_peak(CPU)
    for _ in range(2):
        optimizer.zero_grad()
        F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten()).backward()
        optimizer.step()
    return {"empty": empty, "ready": ready, "peak": peak_bytes(CPU)}


def _resident() -> int:
    reset_peak(CPU)
    return peak_bytes(CPU)


TASKS: dict[str, Callable[..., Any]] = {
    "sizes": sizes,
    "quantising": quantising,
    "forward": forward,
    "training": training,
}
# glibc gives freed memory back at once, which is slower; other systems ignore these
AT_ONCE = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


def measure(repeats: int) -> dict[str, Any]:
    """All tasks, each in a process of its own."""
    data: dict[str, Any] = {
        "seed": SEED,
        "repeats": repeats,
        "tokens": TOKENS,
        "batch": BATCH,
        "method": METHOD.to_dict(),
        "machine": machine(),
    }
    for name in MODELS:
        data[name] = {
            "sizes": _process("sizes", name),
            "quantising": _process("quantising", name, 3),
            "forward": _process("forward", name, repeats),
            "training": {base: _process("training", name, base) for base in ("float32", "NF4")},
        }
    return data


def _process(task: str, *arguments: Any) -> Any:
    """What one task returns in a fresh process."""
    print(f"quantising: {task} {' '.join(map(str, arguments))}", file=sys.stderr)
    settings = AT_ONCE if task == "training" else {}
    return in_process(__spec__.name, "--task", json.dumps([task, *arguments]), **settings)


# --- the page -------------------------------------------------------------------------------------


def tables(data: dict[str, Any]) -> str:
    """The measured part of docs/methods/qlora.md, Markdown."""
    passes = f"{data['batch']} x {data['tokens']}"
    method, rank = data["method"]["method"].upper(), data["method"]["rank"]
    return f"""{in_words(data["machine"])}; seed {data["seed"]}.
Numbers: `docs/nf4.json`. Where the load of the machine is above 0, the times suffer from it.
In 4 bits are the projections of all blocks, not the embedding and the norms.

{_sizes(data).markdown()}

Bits a weight are those of the 4-bit layers, from the bytes of their buffers.
Error: ‖deq(Q(W)) − W‖ / ‖W‖, least and largest of a layer.
Bits per byte: cost of held-out prose, before any adapter is trained.

{_times(data).markdown()}

Seconds; median of {data["repeats"]} passes over {passes} tokens (3 for quantising), float32 and
NF4 in turn.

{_memory(data).markdown()}

{method} of rank {rank} on the same projections, AdamW, {passes} tokens.
The first two columns leave out what Python and torch hold before there is a model. That is more
than all of the tiny model, so what 4 bits save there is too small for this measurement to show."""


def _sizes(data: dict[str, Any]) -> Table:
    return Table(
        ("model", "base", "model MiB", "bits a weight", "error of a layer", "bits per byte"),
        [
            (
                MODELS[name],
                base,
                _mebibytes(one["bytes"]),
                f"{one['bits']:.3f}" if "bits" in one else "32",
                " ... ".join(f"{error:.4f}" for error in one["errors"]) if "errors" in one else "0",
                f"{one['bits_per_byte']:.4f}" if "bits_per_byte" in one else "",
            )
            for name in MODELS
            for base, one in data[name]["sizes"].items()
        ],
    )


def _times(data: dict[str, Any]) -> Table:
    columns = ("forward, float32", "forward, NF4", "ratio", "of which dequantising")
    rows = []
    for name in MODELS:
        quantise = statistics.median(data[name]["quantising"])
        dense, four, dequantise = (
            statistics.median(data[name]["forward"][key])
            for key in ("float32", "NF4", "dequantise")
        )
        seconds = [f"{one:.3f}" for one in (quantise, dense, four)]
        rows.append((MODELS[name], *seconds, f"{four / dense:.2f}", f"{dequantise:.3f}"))
    return Table(("model", "quantising", *columns), rows)


def _memory(data: dict[str, Any]) -> Table:
    columns = ("ready to train, MiB", "peak of a step, MiB", "peak in the process, MiB")
    rows = [
        (
            MODELS[name],
            base,
            _mebibytes(one["ready"] - one["empty"]),
            _mebibytes(one["peak"] - one["empty"]),
            _mebibytes(one["peak"]),
        )
        for name in MODELS
        for base, one in data[name]["training"].items()
    ]
    return Table(("model", "base", *columns), rows)


def _mebibytes(count: float) -> str:
    return f"{count / 2**20:.1f}"


def main() -> None:
    """Run one task (`--task`), or all of them and write what was measured."""
    parser = argparse.ArgumentParser(
        prog="python -m perakit.bench.quantising", description="Measure the 4-bit base."
    )
    parser.add_argument(
        "folder",
        nargs="?",
        type=Path,
        help="docs: nf4.json and methods/qlora.md are renewed there; default: print only",
    )
    parser.add_argument(
        "--repeats", type=int, default=9, help="forward passes of each kind (default: %(default)s)"
    )
    parser.add_argument("--task", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.task:
        task, *rest = json.loads(arguments.task)
        print(json.dumps(TASKS[task](*rest)))
        return
    data = measure(arguments.repeats)
    if not arguments.folder:
        print(tables(data))
        return
    page = arguments.folder / "methods" / "qlora.md"
    text = renewed(page.read_text(), COMMAND, tables(data))
    write_atomically(arguments.folder / "nf4.json", as_json(data))
    write_atomically(page, text.encode())


if __name__ == "__main__":
    main()
