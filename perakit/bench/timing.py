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
    fill: float | None = None,
) -> dict[Key, list[float]]:
    """Seconds of every step in each of `repeats` rounds.

    Entry k of every list comes from round k, so ratios are taken entry by entry.

    device: on "cuda" a turn is a burst of steps, see `_burst`; progress: called after every round,
    warm-up included; fill: seconds of a turn, 0: one step, None: TURN.
    """
    fill = TURN if fill is None else fill
    loops, seconds = dict.fromkeys(steps, 1), dict[Key, list[float]]()
    mean = _burst if torch.device(device).type == "cuda" else _mean
    gc.collect()
    enabled = gc.isenabled()
    gc.disable()
    try:
        for turn in range(-WARM_UP, repeats):
            if turn == 0:
                loops = {key: max(1, round(fill / times[-1])) for key, times in seconds.items()}
            if turn <= 0:
                seconds = {key: [] for key in steps}
            for key in order(list(steps), turn):
                seconds[key].append(mean(steps[key], loops[key]))
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


def _mean(step: Step, loops: int) -> float:
    """Seconds of a step, the mean of `loops`."""
    return sum(_clocked(step) for _ in range(loops)) / loops


def _clocked(step: Step) -> float:
    step.reset()
    start = time.perf_counter()
    step.run()
    return time.perf_counter() - start


def _burst(step: Step, loops: int) -> float:
    """Seconds of a step as whoever trains on a GPU sees them: `loops` steps, then one wait.

    The host runs ahead of the GPU, and is in the time as far as the GPU waits for it. So are the
    microseconds of the resets between, the same for everybody.
    """
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    step.reset()
    torch.cuda.synchronize()
    start.record()
    for _ in range(loops):
        step.run()
        step.reset()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1000 / loops
