"""What 4 bits save and cost: `python -m perakit.bench.quantising docs` writes nf4.json and
the table of methods/qlora.md.

Two GPT-2s: the tiny one that ships, and one of the shape of the 124M model with random weights
(nothing is downloaded; time and memory do not depend on the values). Memory is the peak of a fresh
process; forward passes alternate.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from perakit.adapters import PERA
from perakit.bench.measured import machine, renewed
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
    """The model with its projections in 4 bits, in place; each dense weight is freed as soon as it
    is rounded.
    """
    for parent in list(model.modules()):
        for key, child in list(parent.named_children()):
            if key in PROJECTIONS:
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
    """Seconds of a forward pass of TOKENS tokens in float32 and in 4 bits, in turn, and of
    dequantising all projections.
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
    """Bytes that the process holds before the model and ready to train, and its peak over two steps
    of PERA with AdamW.
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


def measure(repeats: int) -> dict[str, Any]:
    """All tasks, each in a process of its own."""
    data: dict[str, Any] = {
        "seed": SEED,
        "repeats": repeats,
        "tokens": TOKENS,
        "batch": BATCH,
        "method": METHOD.to_dict(),
    }
    data["machine"] = machine()
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
    print(f"quantize_benchmark: {task} {' '.join(map(str, arguments))}", file=sys.stderr)
    environment = dict(os.environ)
    # Glibc gives freed memory back at once (slower); other systems ignore it
    if task == "training":
        environment |= {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    command = [sys.executable, "-m", __spec__.name, "--task", json.dumps([task, *arguments])]
    return json.loads(
        subprocess.run(
            command, stdout=subprocess.PIPE, text=True, check=True, env=environment
        ).stdout
    )


def tables(data: dict[str, Any]) -> str:
    """The measured part of docs/methods/qlora.md, Markdown."""
    kept = Table(
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
    speed = Table(
        (
            "model",
            "quantising",
            "forward, float32",
            "forward, NF4",
            "ratio",
            "of which dequantising",
        ),
        [(MODELS[name], *_speed(data[name])) for name in MODELS],
    )
    memory = Table(
        ("model", "base", "ready to train, MiB", "peak of a step, MiB", "peak in the process, MiB"),
        [
            (
                MODELS[name],
                base,
                _mebibytes(one["ready"] - one["empty"]),
                _mebibytes(one["peak"] - one["empty"]),
                _mebibytes(one["peak"]),
            )
            for name in MODELS
            for base, one in data[name]["training"].items()
        ],
    )
    about = data["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
    return f"""{about["cpu"]}, {about["cores"]} cores, {about["threads"]} threads; {versions}; seed {data["seed"]}.
Numbers: `docs/nf4.json`. Load of the machine when it was measured: {about["load"]:g}, which times suffer from where it is above 0.
In 4 bits are the projections of all blocks, not the embedding and the norms.

{kept.markdown()}

Bits a weight are those of the 4-bit layers, from the bytes of their buffers. Error: ‖deq(Q(W)) − W‖ / ‖W‖, least and
largest of a layer. Bits per byte: cost of held-out prose, before any adapter is trained.

{speed.markdown()}

Seconds; median of {data["repeats"]} passes over {data["batch"]} x {data["tokens"]} tokens (3 for quantising), float32 and NF4 in turn.

{memory.markdown()}

{data["method"]["method"].upper()} of rank {data["method"]["rank"]} on the same projections, AdamW, {data["batch"]} x {data["tokens"]}
tokens. The first two columns leave out what Python and torch hold before there is a model, which is more than all of the
tiny one: what it saves is below what such a measurement shows."""


def _speed(data: dict[str, Any]) -> list[str]:
    seconds = {key: statistics.median(values) for key, values in data["forward"].items()}
    cells = [statistics.median(data["quantising"]), seconds["float32"], seconds["NF4"]]
    return [
        *(f"{cell:.3f}" for cell in cells),
        f"{seconds['NF4'] / seconds['float32']:.2f}",
        f"{seconds['dequantise']:.3f}",
    ]


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
    page = arguments.folder / "methods" / "qlora.md" if arguments.folder else None
    data = measure(arguments.repeats)
    if page is None:
        print(tables(data))
        return
    text = renewed(page.read_text(), COMMAND, tables(data))
    write_atomically(arguments.folder / "nf4.json", (json.dumps(data, indent=2) + "\n").encode())
    write_atomically(page, text.encode())


if __name__ == "__main__":
    main()
