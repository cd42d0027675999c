"""What torch.compile gains: eager and compiled training steps in turn, and their gradients.

`python -m perakit.bench.compiled docs` writes compile.json and the table of compile.md. Compiled is
the model, as a user does it; the loss is in it, AdamW is not.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perakit.adapters import PERA, LoRA, Method
from perakit.bench.measured import as_json, in_words, machine, renewed
from perakit.bench.timing import Step, interleave
from perakit.files import write_atomically
from perakit.models import attach
from perakit.strategies import move
from perakit.table import Table
from perakit.toy import load

COMMAND = "python -m perakit.bench.compiled docs"
SEED = 0
COLUMNS = ("model", "method", "eager ms", "compiled ms", "ratio", "spread", "first step s", "error")


class Square(nn.Module):
    """One layer, 64 x 64, and the mean square of what it says."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 64)

    def forward(self, x: Tensor) -> Tensor:
        """The mean square."""
        return self.layer(x).square().mean()


class Cost(nn.Module):
    """The shipped tiny GPT-2, and the cost of the next token."""

    def __init__(self) -> None:
        super().__init__()
        self.model = load("tiny")

    def forward(self, ids: Tensor) -> Tensor:
        """The mean cost, in nats."""
        logits = self.model(ids)[:, :-1].flatten(0, 1)  # (batch (time - 1), vocabulary)
        return F.cross_entropy(logits, ids[:, 1:].flatten())


class Case(NamedTuple):
    """A model with its input, and who takes part."""

    make: Callable[[], nn.Module]
    draw: Callable[[], Tensor]
    threads: int
    methods: tuple[Method, ...]


CASES = {
    "64 x 64, 8 tokens, 1 thread": Case(
        Square, lambda: torch.randn(8, 64), 1, (LoRA(8), PERA(8), PERA(32))
    ),
    "tiny GPT-2, 64 tokens, 2 threads": Case(
        Cost, lambda: torch.randint(256, (1, 64)), 2, (LoRA(8), PERA(8))
    ),
    "tiny GPT-2, 1024 tokens, 2 threads": Case(
        Cost, lambda: torch.randint(256, (4, 256)), 2, (LoRA(8), PERA(8))
    ),
}


def adapted(case: Case, method: Method, device: str) -> nn.Module:
    """The model, factors off their start."""
    torch.manual_seed(SEED)
    model = case.make().requires_grad_(False)
    attach(model, method, "all-linear")
    move(model, SEED)
    return model.to(device).train()


def gradients(model: nn.Module, cost: Callable[[Tensor], Tensor], x: Tensor) -> list[Tensor]:
    """Of one pass."""
    model.zero_grad()
    cost(x).backward()
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


def training(model: nn.Module, cost: Callable[[Tensor], Tensor], x: Tensor) -> Step:
    """One step: forward, backward, AdamW; gradients are dropped off the clock."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)

    def run() -> None:
        cost(x).backward()
        optimizer.step()

    return Step(run, optimizer.zero_grad)


def measure(case: Case, repeats: int, device: str = "cpu", **compiler: Any) -> list[dict[str, Any]]:
    """For each method seconds of the first compiled step and of all others, and the error.

    The error is the largest of a gradient's difference over its norm. compiler: options of
    torch.compile.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(case.threads)
    torch.compiler.reset()
    try:
        torch.manual_seed(SEED)
        x, steps, found = case.draw().to(device), {}, []
        for method in case.methods:
            eager, model = adapted(case, method, device), adapted(case, method, device)
            compiled = torch.compile(model, fullgraph=True, **compiler)
            start = time.perf_counter()
            mine = gradients(model, compiled, x)
            first = time.perf_counter() - start
            pairs = zip(gradients(eager, eager, x), mine, strict=True)
            error = max(float((one - other).norm() / one.norm()) for one, other in pairs)
            found.append({"method": method.to_dict(), "first": first, "error": error})
            steps[method, "eager"] = training(eager, eager, x)
            steps[method, "compiled"] = training(model, compiled, x)
        seconds = interleave(steps, repeats, device)
        for method, row in zip(case.methods, found, strict=True):
            row.update((way, seconds[method, way]) for way in ("eager", "compiled"))
    finally:
        torch.set_num_threads(threads)
        torch.compiler.reset()
    return found


def table(data: dict[str, Any]) -> str:
    """The measured part of docs/compile.md."""
    rows = [_row(name, one) for name, found in data["cases"].items() for one in found]
    return f"""{in_words(data["machine"])}; device {data["device"]}, seed {data["seed"]};
{data["repeats"]} rounds in turn, medians; ratio and spread: compiled over eager, round by round.
Numbers: `compile.json`.

{Table(COLUMNS, rows).markdown()}"""


def _row(name: str, one: dict[str, Any]) -> tuple[str, ...]:
    ratios = [new / old for new, old in zip(one["compiled"], one["eager"], strict=True)]
    low, _, high = statistics.quantiles(ratios, n=4)
    return (
        name,
        f"{one['method']['method']}, r = {one['method']['rank']}",
        f"{1e3 * statistics.median(one['eager']):.2f}",
        f"{1e3 * statistics.median(one['compiled']):.2f}",
        f"{statistics.median(ratios):.2f}",
        f"{low:.2f} ... {high:.2f}",
        f"{one['first']:.1f}",
        f"{one['error']:.0e}",
    )


def main() -> None:
    """Measure, print, and where a folder is given write compile.json and the table."""
    parser = argparse.ArgumentParser(
        prog="python -m perakit.bench.compiled", description="Time torch.compile."
    )
    parser.add_argument(
        "folder",
        nargs="?",
        type=Path,
        help="docs: compile.json and compile.md are renewed there; default: print only",
    )
    parser.add_argument("--repeats", type=int, default=30, help="default: %(default)s")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    arguments = parser.parse_args()
    data = {
        "seed": SEED,
        "repeats": arguments.repeats,
        "device": arguments.device,
        "machine": machine(),
        "cases": {},
    }
    torch.compiler.config.force_disable_caches = True  # the first step is to be a first one
    for name, case in CASES.items():
        print(f"compiled: {name}", file=sys.stderr)
        data["cases"][name] = measure(case, arguments.repeats, arguments.device)
    print(table(data))
    if arguments.folder:
        page = arguments.folder / "compile.md"
        text = renewed(page.read_text(), COMMAND, table(data))
        write_atomically(arguments.folder / "compile.json", as_json(data))
        write_atomically(page, text.encode())


if __name__ == "__main__":
    main()
