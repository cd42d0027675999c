"""What was promised of speed and memory, held against a measurement.

Each statement comes with its limit and its worst cell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from perakit.bench.memory import PLAIN
from perakit.bench.ratios import Cell, counted, find, paired, place, ranks

# Every limit of this page. Ratios are medians of paired rounds.
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
FEW, MANY = 256, 4096  # tokens
HALVED = (8, 16, 32)  # ranks at which the expansion is to cost half of what the prototype's cost

# (cell, rank, counted ratio of the two contenders) -> the most that the measured ratio may be;
# None: nothing was promised there.
Limit = Callable[[Cell, int, float], float | None]


class Finding(NamedTuple):
    """A ratio that was measured, where, and what it may be."""

    where: str
    ratio: float
    limit: float

    @property
    def holds(self) -> bool:
        """Is the ratio within its limit?"""
        return self.ratio <= self.limit


@dataclass(frozen=True)
class Verdict:
    """A statement about cells, and what was found in each.

    share: how many of them must keep it for the statement to hold, 1 = all.
    """

    statement: str
    findings: list[Finding]
    share: float = 1.0

    @property
    def misses(self) -> list[Finding]:
        """Where it does not hold, the worst first."""
        return sorted((one for one in self.findings if not one.holds), key=_excess, reverse=True)

    @property
    def holds(self) -> bool | None:
        """Does it? None where nothing was measured."""
        count = len(self.findings)
        return count - len(self.misses) >= self.share * count if count else None

    def __str__(self) -> str:
        if self.holds is None:
            return f"not measured: {self.statement}"
        count, worst = len(self.findings), max(self.findings, key=_excess)
        found = (
            f"{'kept' if self.holds else 'BROKEN, kept'} in {count - len(self.misses)} of {count}"
        )
        return (
            f"{found}: {self.statement}; worst {worst.ratio:.3f}, limit {worst.limit:.3f}, at"
            f" {worst.where}"
        )


def verdicts(document: dict[str, Any]) -> list[Verdict]:
    """Every statement, with its findings in the document; with none where nothing was measured."""
    layers, models, inference = (
        document.get(part, []) for part in ("layers", "models", "inference")
    )
    large = [model for model in models if model["model"] == "124M" and model["tokens"] >= 1024]
    many = [layer for layer in layers if layer["tokens"] == MANY]
    more = [layer for layer in layers if layer["tokens"] >= MANY]
    chosen = [
        Finding(one.where, one.ratio, PLAN)
        for cell in document.get("plans", [])
        for one in choices(cell)
    ]
    return [
        Verdict(
            f"a step with PERA is never slower than with the authors' algorithm (up to {NOISE:g},"
            " noise)",
            compare(layers, "pera", "authors", _always(NOISE)),
        ),
        Verdict(
            f"from {MANY} tokens on PERA is as many times faster than the authors' algorithm:"
            f" {_listed(FASTER)}",
            compare(more, "pera", "authors", lambda cell, rank, _: FASTER.get(rank)),
        ),
        Verdict(
            f"at {MANY} tokens PERA over plain LoRA of its rank is at most {COUNTED:g} of the"
            " counted ratio",
            compare(many, "pera", PLAIN, lambda cell, rank, ratio: COUNTED * ratio),
        ),
        Verdict(
            f"at {FEW} tokens PERA costs at most half of what its prototype costs beyond the"
            f" counted ratio, at ranks {_words(HALVED)}",
            compare(layers, "pera", PLAIN, _half_of_the_prototype),
        ),
        Verdict(
            f"LoRA is never slower than PEFT's of its rank (up to {NOISE:g}, noise)",
            compare(layers, "lora", "peft r", _always(NOISE)),
        ),
        Verdict(
            f"at {MANY} tokens LoRA takes at most {PEFT:g} of the time of PEFT's",
            compare(many, "lora", "peft r", _always(PEFT)),
        ),
        Verdict(
            "a training step of the 124M GPT-2 with PERA of rank 8 is no slower than with PEFT's"
            f" LoRA of rank 8 (up to {NOISE:g}, noise)",
            compare(large, "pera", "peft r", lambda cell, rank, _: NOISE if rank == 8 else None),
        ),
        Verdict(
            f"the counted plan is within {100 * (PLAN - 1):.0f} % of the best plan in at least"
            f" {100 * PLAN_SHARE:.0f} % of the cells",
            chosen,
            PLAN_SHARE,
        ),
        Verdict(
            f"merged inference takes at most {MERGED:g} of the base's time",
            compare(inference, "merged", "base", _always(MERGED)),
        ),
        Verdict(
            f"PERA keeps at most {KEPT:g} times the activations of plain LoRA and T K floats",
            _kept(document.get("memory", [])),
        ),
    ]


def _always(limit: float) -> Limit:
    return lambda cell, rank, ratio: limit


def compare(cells: Iterable[Cell], over: str, under: str, limit: Limit) -> list[Finding]:
    """The paired ratio of two contenders wherever both were measured and something was promised."""
    found = []
    for cell in cells:
        for rank in ranks(cell):
            ours, theirs = find(cell, over, rank), find(cell, under, rank)
            if ours and theirs and (most := limit(cell, rank, counted(ours, theirs))) is not None:
                found.append(Finding(where(cell, rank), paired(ours, theirs).median, most))
    return found


class Choice(NamedTuple):
    """The plan taken by counting, and the best of all that were measured; ratio: of their times."""

    contender: str
    rank: int
    best: str
    ratio: float
    where: str


def choices(cell: Cell) -> list[Choice]:
    """How far the counted choice is from the best plan, for each contender and rank.

    cell: of the part "plans".
    """
    found = []
    for contender in dict.fromkeys(result["contender"] for result in cell["results"]):
        for rank in ranks(cell):
            chosen = find(cell, contender, rank)
            others = [
                one
                for one in cell["results"]
                if (one["contender"], one["rank"]) == (contender, rank) and one["plan"] != "auto"
            ]
            if chosen and others:
                ratio, best = max((paired(chosen, other).median, other["plan"]) for other in others)
                found.append(
                    Choice(contender, rank, best, ratio, f"{where(cell, rank)}, {contender}")
                )
    return found


def where(cell: Cell, rank: int) -> str:
    """A cell in words."""
    return f"{place(cell)}, T={cell['tokens']}, r={rank}, {cell['dtype']} on {cell['device']}"


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


def case_of(row: dict[str, Any]) -> tuple[Any, ...]:
    """The layer that a row of memory is about."""
    return tuple(row[key] for key in ("m", "n", "tokens", "rank", "dtype"))


def _words(numbers: Iterable[int]) -> str:
    return ", ".join(map(str, numbers))


def _listed(limits: dict[int, float]) -> str:
    return ", ".join(f"{1 / limit:.2f} at rank {rank}" for rank, limit in limits.items())


def _excess(finding: Finding) -> float:
    return finding.ratio / finding.limit
