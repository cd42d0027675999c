"""The cells of a benchmark: one layer or model, tokens, device and dtype, with all contenders."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

from perakit.bench import contenders, host, models
from perakit.bench.contenders import Contender
from perakit.bench.ratios import place
from perakit.bench.settings import DTYPES, LAYER_PARTS, Settings
from perakit.bench.timing import WARM_UP, Step


@dataclass(frozen=True)
class Task:
    """One cell of a part of the benchmark, before it is measured.

    cell: what it says of itself; flop: counted operations of each contender; steps: makes their
    steps.
    """

    part: str
    cell: dict[str, Any]
    flop: dict[Contender, int]
    steps: Callable[[], Mapping[Contender, Step]]

    def work(self, settings: Settings) -> int:
        """Counted operations of one visit, all its rounds."""
        return (settings.rounds(self.part) + WARM_UP) * sum(self.flop.values())

    @property
    def title(self) -> str:
        """The cell in a few words."""
        return f"{self.part}: {place(self.cell)}, T={self.cell['tokens']}, {self.cell['dtype']}"


def tasks(settings: Settings) -> list[Task]:
    """All cells, in the order of the parts. Memory has none: it is counted and not timed."""
    found = []
    for part, dtype in product(settings.parts, settings.dtype):
        if part == "host" and dtype == settings.dtype[0]:  # it has its own
            found += [_of_host(settings, pair) for pair in host.pairs()]
        elif part in LAYER_PARTS:
            found += [
                _of_layer(part, settings, dtype, m, n, tokens)
                for (m, n), tokens in product(settings.layers, settings.tokens)
            ]
        elif part == "models":
            found += [
                _of_model(settings, dtype, name, rank)
                for name, rank in product(settings.models, settings.model_ranks)
            ]
    return found


def _of_layer(part: str, settings: Settings, dtype: str, m: int, n: int, tokens: int) -> Task:
    device, fused, products = settings.device, dtype == "float32", 2 * m * n * tokens
    mkl, training = (device, dtype) == ("cpu", "float32"), part != "inference"
    who = contenders.contenders(part, settings.ranks, mkl)
    if training:
        flop = {one: 2 * products + one.flop(tokens, m, n, fused) for one in who}
    else:
        flop = {one: products + one.forward_flop(tokens, m, n, fused) for one in who}
    cell = {"device": device, "dtype": dtype, "m": m, "n": n, "tokens": tokens}
    shape = (m, n, tokens, DTYPES[dtype], device, settings.seed, training)
    return Task(part, cell, flop, partial(contenders.steps, who, *shape))


def _of_host(settings: Settings, who: list[Contender]) -> Task:
    m, n, tokens = host.SIZE, host.SIZE, host.TOKENS
    cell = {"device": "cpu", "dtype": "float32", "m": m, "n": n, "tokens": tokens}
    flop = {one: 4 * m * n * tokens + one.flop(tokens, m, n, True) for one in who}
    shape = (m, n, tokens, DTYPES["float32"], "cpu", settings.seed)
    return Task("host", cell, flop, partial(contenders.steps, who, *shape))


def _of_model(settings: Settings, dtype: str, name: str, rank: int) -> Task:
    model, who = models.MODELS[name], models.contenders(rank)
    cell = {
        "model": name,
        "tokens": model.batch * model.context,
        "batch": model.batch,
        "context": model.context,
        "rank": rank,
    }
    flop = {one: models.flop(one, model, dtype == "float32") for one in who}
    steps = partial(models.steps, who, model, DTYPES[dtype], settings.device, settings.seed)
    return Task("models", cell | {"device": settings.device, "dtype": dtype}, flop, steps)
