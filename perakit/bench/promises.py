"""The promises of docs/performance.md, in its order: their limits, and the cells each speaks of.

On a GPU launches decide, not counted operations: promises that follow from counting, or from the
prototype's times on a CPU, are about a CPU alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from perakit.bench.memory import PLAIN
from perakit.bench.ratios import Cell, find, of_medians, paired
from perakit.bench.verdicts import (
    Finding,
    Limit,
    Verdict,
    case_of,
    choices,
    compare,
    operations,
)

# Every limit of this page. Ratios are medians of paired rounds; on tiny layers, of two medians.
ROUNDS = 9  # with fewer, nothing follows from a median
NOISE = 1.05  # by so much a median still moves between two runs of the same code
# Rank -> PERA's time over the authors', from MANY tokens on; the prototype's: 1/1.20, 1/1.22, 1/1.4
FASTER = {8: 1 / 1.15, 16: 1 / 1.15, 32: 1 / 1.4}
COUNTED = 1.05  # over the counted ratio: memory is read and written too, which is not counted
PEFT = 0.9  # LoRA's time over PEFT's at MANY tokens: a dense plan saves what PEFT cannot
# Counting does not see caches: its plan is to be near the best, and in most cells
PLAN, PLAN_SHARE = 1.05, 0.9
MERGED = 1.02  # a merged layer makes the same product as its base
KEPT = 1.1  # besides z, PERA has to keep x, A, B and h alone
FEW, MANY, MOST = 256, 4096, 16384  # tokens
HALVED = (8, 16, 32)  # ranks at which the expansion is to cost half of what the prototype's cost
HOST_LORA, HOST_PERA = 1.3, {8: 2.3, 32: 4.2}  # over plain LoRA, where nothing but calls takes time
OPERATIONS = {"lora": 12, "pera": 26}  # that are no views, of a step; plain LoRA makes 10
TINY = 1.15  # PERA's training step over LoRA's
GPU_MODEL, GPU_HALF = 1.2, 2.0  # PERA's over PEFT's LoRA, and over plain LoRA in half precision

CPU, CUDA, BOTH = ("cpu",), ("cuda",), ("cpu", "cuda")


def verdicts(document: dict[str, Any]) -> list[Verdict]:
    """Every statement, with its findings in the document; with none where nothing was measured."""

    def cells(part: str, devices: tuple[str, ...] = BOTH) -> list[Cell]:
        return [cell for cell in document.get(part, []) if cell["device"] in devices]

    here, host = cells("layers", CPU), cells("host")
    many = [layer for layer in here if layer["tokens"] == MANY]
    more = [layer for layer in here if layer["tokens"] >= MANY]
    tiny = [model for model in cells("models", CPU) if model["model"] == "tiny"]
    large, gpus = (
        [
            model
            for model in cells("models", devices)
            if model["model"] == "124M" and model["tokens"] >= 1024
        ]
        for devices in (CPU, CUDA)
    )
    half = [
        layer
        for layer in cells("layers", CUDA)
        if (layer["m"], layer["n"], layer["tokens"], layer["dtype"])
        == (4096, 4096, MOST, "bfloat16")
    ]
    chosen = [
        Finding(one.where, one.ratio, PLAN) for cell in cells("plans") for one in choices(cell)
    ]
    return [
        Verdict(
            f"a step with PERA is never slower than with the authors' algorithm (up to {NOISE:g},"
            " noise)",
            compare(cells("layers"), "pera", "authors", _always(NOISE)),
            BOTH,
        ),
        Verdict(
            f"from {MANY} tokens on PERA is as many times faster than the authors' algorithm:"
            f" {_listed(FASTER)}",
            compare(more, "pera", "authors", _at(FASTER)),
        ),
        Verdict(
            f"at {MANY} tokens PERA over plain LoRA of its rank is at most {COUNTED:g} of the"
            " counted ratio",
            compare(many, "pera", PLAIN, lambda cell, rank, ratio: COUNTED * ratio),
        ),
        Verdict(
            f"at {FEW} tokens PERA costs at most half of what its prototype costs beyond the"
            f" counted ratio, at ranks {_words(HALVED)}",
            compare(here, "pera", PLAIN, _half_of_the_prototype),
        ),
        Verdict(
            f"LoRA is never slower than PEFT's of its rank (up to {NOISE:g}, noise)",
            compare(cells("layers"), "lora", "peft r", _always(NOISE)),
            BOTH,
        ),
        Verdict(
            f"at {MANY} tokens LoRA takes at most {PEFT:g} of the time of PEFT's",
            compare(many, "lora", "peft r", _always(PEFT)),
        ),
        Verdict(
            "a training step of the 124M GPT-2 with PERA of rank 8 is no slower than with PEFT's"
            f" LoRA of rank 8 (up to {NOISE:g}, noise)",
            compare(large, "pera", "peft r", _at({8: NOISE})),
        ),
        Verdict(
            f"the counted plan is within {100 * (PLAN - 1):.0f} % of the best plan in at least"
            f" {100 * PLAN_SHARE:.0f} % of the cells",
            chosen,
            share=PLAN_SHARE,
        ),
        Verdict(
            f"merged inference takes at most {MERGED:g} of the base's time",
            compare(cells("inference"), "merged", "base", _always(MERGED)),
            BOTH,
        ),
        Verdict(
            f"PERA keeps at most {KEPT:g} times the activations of plain LoRA and T K floats",
            _kept(document.get("memory", [])),
        ),
        Verdict(
            f"on tiny layers, one thread, LoRA's median time is at most {HOST_LORA:g} of plain"
            " LoRA's",
            compare(host, "lora", PLAIN, _always(HOST_LORA), of_medians),
        ),
        Verdict(
            "on tiny layers, one thread, PERA's median time over plain LoRA's is at most"
            f" {', '.join(f'{most:g} at rank {rank}' for rank, most in HOST_PERA.items())}",
            compare(host, "pera", PLAIN, _at(HOST_PERA), of_medians),
        ),
        Verdict(
            "on tiny layers, one thread, PERA's median time is below that of the authors'"
            " algorithm",
            compare(host, "pera", "authors", _always(1.0), of_medians),
        ),
        Verdict(
            "a step makes at most so many operations that are no views: LoRA"
            f" {OPERATIONS['lora']}, PERA {OPERATIONS['pera']}",
            operations(host, OPERATIONS),
        ),
        Verdict(
            f"a training step of the tiny GPT-2 with PERA of rank 8 takes at most {TINY:g} of"
            " LoRA's",
            compare(tiny, "pera", "lora", _at({8: TINY})),
        ),
        Verdict(
            "a training step of the tiny GPT-2 with LoRA is no slower than with PEFT's of its rank"
            f" (up to {NOISE:g}, noise)",
            compare(tiny, "lora", "peft r", _always(NOISE)),
        ),
        Verdict(
            f"a step with LoRA takes at most {NOISE:g} of the time of plain LoRA's",
            compare(here, "lora", PLAIN, _always(NOISE)),
        ),
        Verdict(
            "on a GPU a training step of the 124M GPT-2 with PERA of rank 8 takes at most"
            f" {GPU_MODEL:g} of that with PEFT's LoRA of rank 8",
            compare(gpus, "pera", "peft r", _at({8: GPU_MODEL})),
            CUDA,
        ),
        Verdict(
            "on a GPU a training step of the 124M GPT-2 with LoRA is no slower than with PEFT's of"
            f" its rank (up to {NOISE:g}, noise)",
            compare(gpus, "lora", "peft r", _always(NOISE)),
            CUDA,
        ),
        Verdict(
            f"on a GPU, at 4096 x 4096 and {MOST} tokens in bfloat16, PERA of rank 32 takes at"
            f" most {GPU_HALF:g} of the time of plain LoRA",
            compare(half, "pera", PLAIN, _at({32: GPU_HALF})),
            CUDA,
        ),
    ]


def _always(limit: float) -> Limit:
    return lambda cell, rank, ratio: limit


def _at(limits: dict[int, float]) -> Limit:
    """A limit of each rank; nothing is promised of others."""
    return lambda cell, rank, ratio: limits.get(rank)


def _half_of_the_prototype(cell: Cell, rank: int, floor: float) -> float | None:
    """Half way from the prototype's ratio, of the same rounds, to the counted one."""
    before, plain = find(cell, "prototype", rank), find(cell, PLAIN, rank)
    if not before or not plain or rank not in HALVED or cell["tokens"] != FEW:
        return None
    return (paired(before, plain).median + floor) / 2


def _kept(rows: Iterable[dict[str, Any]]) -> list[Finding]:
    """PERA's saved bytes over plain LoRA's and T K floats, of the same layer."""
    saved = {(row["method"], *case_of(row)): row["measured"]["saved"] for row in rows}
    found = []
    for row in rows:
        plain = saved.get((PLAIN, *case_of(row)))
        if row["method"] == "pera" and plain is not None:
            allowed = plain + 4 * row["tokens"] * row["inner"]
            words = f"{row['m']} x {row['n']}, T={row['tokens']}, r={row['rank']}, {row['dtype']}"
            found.append(Finding(words, row["measured"]["saved"] / allowed, KEPT))
    return found


def _words(numbers: Iterable[int]) -> str:
    return ", ".join(map(str, numbers))


def _listed(limits: dict[int, float]) -> str:
    return ", ".join(f"{1 / limit:.2f} at rank {rank}" for rank, limit in limits.items())
