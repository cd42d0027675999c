"""Several pieces of work timed in turn, so that what disturbs the machine disturbs them alike."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

Key = TypeVar("Key")

WARM_UP = 2  # rounds that do not count: the first, with an empty allocator, is up to a fifth slower
TURN = 0.02  # seconds: a shorter step is repeated within its turn, and the mean is kept


@dataclass(frozen=True)
class Step:
    """What is timed, and what puts things back before it, off the clock."""

    run: Callable[[], object]
    reset: Callable[[], object] = lambda: None


def interleave(
    steps: Mapping[Key, Step],
    repeats: int,
    device: torch.device | str = "cpu",
    progress: Callable[[], object] = lambda: None,
) -> dict[Key, list[float]]:
    """Seconds of every step in each of `repeats` rounds.

    Entry k of every list comes from round k, so ratios are taken entry by entry.

    device: "cuda" waits for the GPU before the clock starts and before it stops; progress: called
    after every round, warm-up included.
    """
    loops, seconds = dict.fromkeys(steps, 1), dict[Key, list[float]]()
    gc.collect()
    enabled = gc.isenabled()
    gc.disable()
    try:
        for turn in range(-WARM_UP, repeats):
            if turn == 0:
                loops = {key: max(1, round(TURN / times[-1])) for key, times in seconds.items()}
            if turn <= 0:
                seconds = {key: [] for key in steps}
            for key in order(list(steps), turn):
                seconds[key].append(
                    sum(_clocked(steps[key], torch.device(device)) for _ in range(loops[key]))
                    / loops[key]
                )
            progress()
    finally:
        if enabled:
            gc.enable()
    return seconds


def order(keys: Sequence[Key], turn: int) -> list[Key]:
    """The keys in the order of round `turn`.

    They stand in a circle, which is read at the places 0, 1, −1, 2, −2, ... and turns by one place
    each round; an odd number of keys is read backwards in every second round. So within len(keys)
    rounds, or twice as many for an odd number, each key follows every other one equally often
    (Williams 1949): no key always finds the caches as the same other one left them.
    """
    circle = keys[::-1] if turn * len(keys) % 2 else keys
    zigzag = [(k + 1) // 2 * (-1) ** (k + 1) for k in range(len(keys))]
    return [circle[(place + turn) % len(keys)] for place in zigzag]


def speed(device: torch.device | str, dtype: torch.dtype) -> float:
    """Operations a second of a 1024 x 1024 x 1024 product.

    Counted operations over it are the least time that they take.
    """
    X = torch.ones(1024, 1024, device=device, dtype=dtype)
    return 2 * 1024**3 / min(interleave({"product": Step(lambda: X @ X)}, 3, device)["product"])


def _clocked(step: Step, device: torch.device) -> float:
    step.reset()
    _wait(device)
    start = time.perf_counter()
    step.run()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
