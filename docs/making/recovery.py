"""What `recover` finds, and what it does for `best_approximation`: docs/theory/recovery.json.

`python docs/making/recovery.py docs/theory`, about five minutes on one core. Two tables:

- *members*: PERA updates made of N(0, 1) factors, and how many of twenty draws are found again, by
  size, rank, size of h, feature scale and noise;
- *targets*: the six targets of docs/theory.md and four more members of PERA, with and without
  noise; the error of `best_approximation`, and that of the same search without the start from
  `recover`, given as many starts as the same processor time pays for (and never fewer).
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from perakit import PERA
from perakit.bench.measured import as_json, made_from
from perakit.files import write_atomically
from perakit.theory import approximation, best_approximation, recover, targets

DRAWS = 20
SHAPE, RANKS, STARTS = (16, 20), (1, 2, 3), 20  # those of docs/theory.md and its searches


def member(m: int, n: int, method: PERA, seed: int, h: float = 1.0, noise: float = 0.0) -> Any:
    """An update of N(0, 1) factors, h times `h`, and noise of that share of its norm."""
    rng = np.random.default_rng((seed, m, n, method.rank))
    factors = {name: rng.normal(size=shape) for name, shape in method.shapes(m, n).items()}
    update = method.update(None, **factors | {"h": h * factors["h"]})
    error = rng.normal(size=(m, n))
    return update + noise * error * np.linalg.norm(update) / np.linalg.norm(error)


def members() -> list[dict[str, Any]]:
    """How many draws of each kind `recover` finds."""
    plain: list[tuple[int, int, dict[str, Any]]] = [
        (side, rank, {}) for rank, sides in
        {2: (8, 12), 3: (12, 15, 24), 4: (20, 24, 28, 40, 64)}.items() for side in sides
    ]  # fmt: skip
    kinds = plain + [
        (side, rank, options)
        for side, rank in ((12, 2), (32, 4))
        for options in (
            {"h": 0.01},
            {"h": 100.0},
            {"feature_scale": 50.0},
            {"terms": "square"},
            {"terms": "cross"},
            {"noise": 1e-6},
            {"noise": 1e-3},
        )
    ]
    kinds += [(24, 2, {"degree": 3}), (64, 3, {"degree": 3})]
    return [_members(*kind) for kind in kinds]


def _members(side: int, rank: int, options: dict[str, Any]) -> dict[str, Any]:
    drawn = {name: options[name] for name in ("h", "noise") if name in options}
    method = PERA(rank, **{name: options[name] for name in options if name not in drawn})
    errors, seconds, good = [], [], 0
    for seed in range(DRAWS):
        update = member(side, side, method, seed, **drawn)
        found, took = timed(partial(recover, update, method))
        good += found.relative <= drawn.get("noise", found.tolerance)
        errors.append(found.relative)
        seconds.append(took)
    return {
        "side": side,
        "rank": rank,
        "K": method.rank_bound(10**6, 10**6),
        "options": options,
        "found": good,
        "draws": DRAWS,
        "median_error": statistics.median(errors),
        "worst_error": max(errors),
        "median_seconds": round(statistics.median(seconds), 3),
        "worst_seconds": round(max(seconds), 3),
    }


def ten_targets() -> dict[str, np.ndarray]:
    """The six targets of the docs, and four that PERA made, three of them with noise."""
    return targets(*SHAPE) | {
        "pera, another draw": member(*SHAPE, PERA(2), 1),
        "pera, noise 1 %": member(*SHAPE, PERA(2), 2, noise=0.01),
        "pera, noise 10 %": member(*SHAPE, PERA(2), 3, noise=0.1),
        "square, noise 1 %": member(*SHAPE, PERA(2, terms="square"), 4, noise=0.01),
    }


def comparison() -> list[dict[str, Any]]:
    """Every target at every rank, with the start from `recover` and without."""
    return [_compared(name, E, rank) for name, E in ten_targets().items() for rank in RANKS]


def _compared(name: str, E: np.ndarray, rank: int) -> dict[str, Any]:
    def search(starts: int) -> tuple[Any, float]:
        return timed(lambda: best_approximation(E, PERA(rank), starts=starts))

    ours, seconds = search(STARTS)
    with mock.patch.object(approximation, "_recovered_start", return_value=None):
        starts = STARTS
        plain, alone = search(starts)
        if alone < seconds:
            starts = max(STARTS + 1, round(STARTS * seconds / alone))
            plain, alone = search(starts)
    row = {
        "target": name,
        "rank": rank,
        "error": ours.error,
        "seconds": round(seconds, 2),
        "plain_error": plain.error,
        "plain_starts": starts,
        "plain_seconds": round(alone, 2),
    }
    print(row, flush=True)
    return row


def timed(run: Callable[[], Any]) -> tuple[Any, float]:
    """What it returns, and the processor seconds that it took."""
    start = time.process_time()
    return run(), time.process_time() - start


def main() -> None:
    """Write recovery.json into a folder."""
    parser = argparse.ArgumentParser(prog="python docs/making/recovery.py")
    parser.add_argument("folder", type=Path, help="where recovery.json goes")
    folder = parser.parse_args().folder
    torch.set_num_threads(1)
    best_approximation(np.eye(5), PERA(1))  # what torch does once is no part of the times
    data = {"made_from": made_from(0), "starts": STARTS, "shape": SHAPE}
    write_atomically(
        folder / "recovery.json", as_json(data | {"members": members(), "targets": comparison()})
    )


if __name__ == "__main__":
    main()
