"""Times taken side by side, compared round by round: what slowed one moment slowed both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from perakit.errors import PerakitError

# One place of measurement: a layer or a model, tokens, device, dtype, and its results
Cell = dict[str, Any]
Result = dict[str, Any]  # one contender there: rank, plan, flop, and the seconds of each round

TITLES = {  # of contenders
    "base": "frozen base",
    "plain lora": "plain LoRA",
    "lora": "LoRA",
    "pera": "PERA",
    "pera mkl": "PERA, MKL",
    "pera plain": "PERA, plain way",
    "prototype": "prototype",
    "authors": "authors",
    "peft r": "PEFT r",
    "peft K": "PEFT K",
    "merged": "merged",
    "pera cached": "PERA, kept",
    "pera expanded": "PERA, expanded",
}


class Spread(NamedTuple):
    """The median of some numbers, and their lower and upper quartile."""

    median: float
    low: float
    high: float

    @staticmethod
    def of(values: Sequence[float]) -> Spread:
        """The spread of `values`, of which there must be one at least."""
        low, median, high = np.quantile(values, (0.25, 0.5, 0.75)).tolist()
        return Spread(median, low, high)


def paired(over: Result, under: Result) -> Spread:
    """The spread of over's seconds / under's seconds, each ratio taken within one round."""
    ours, theirs = over["seconds"], under["seconds"]
    if len(ours) != len(theirs) or not ours:
        raise PerakitError(
            f"{over['contender']} has {len(ours)} rounds and {under['contender']} {len(theirs)}:"
            " only equally many, and one at least, pair"
        )
    return Spread.of([a / b for a, b in zip(ours, theirs, strict=True)])


def of_medians(over: Result, under: Result) -> float:
    """The median of over's seconds / that of under's.

    For two whose single steps take turns: a step is quicker after one of its own than after the
    other's, and each round has one of either kind, so that `paired` compares unlike ones.
    """
    return Spread.of(over["seconds"]).median / Spread.of(under["seconds"]).median


def find(cell: Cell, contender: str, rank: int) -> Result | None:
    """The contender's result at that rank, with the plan that the library chose, or None."""
    results = (
        result
        for result in cell["results"]
        if (result["contender"], result["rank"]) == (contender, rank)
    )
    return next((result for result in results if result["plan"] in ("auto", None)), None)


def counted(over: Result, under: Result) -> float:
    """over's counted operations / under's: the ratio of their times if nothing else took time."""
    return float(over["flop"] / under["flop"])


def ranks(cell: Cell) -> list[int]:
    """The ranks measured in a cell, in order."""
    return sorted({result["rank"] for result in cell["results"]})


def place(cell: Cell) -> str:
    """Which layer, or which model."""
    return cell["model"] if "model" in cell else f"{cell['m']} x {cell['n']}"


def group(cell: Cell) -> tuple[str, str]:
    """What stands in one table or figure: device and dtype."""
    return cell["device"], cell["dtype"]
