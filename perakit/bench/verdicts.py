"""How a promise of speed or memory is held against a measurement: cells, worst, limit."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from perakit.bench.ratios import Cell, Result, counted, find, paired, place, ranks

# (cell, rank, counted ratio of the two contenders) -> the most that the measured ratio may be;
# None: nothing was promised there.
Limit = Callable[[Cell, int, float], float | None]


class Finding(NamedTuple):
    """A ratio that was measured, or a number of operations; where; and what it may be."""

    where: str
    ratio: float
    limit: float

    @property
    def numbers(self) -> tuple[str, str]:
        """The ratio and the limit in digits; whole numbers are counts."""
        ratio, limit = (
            str(one) if isinstance(one, int) else f"{one:.3f}" for one in (self.ratio, self.limit)
        )
        return ratio, limit

    @property
    def holds(self) -> bool:
        """Is the ratio within its limit?"""
        return self.ratio <= self.limit


@dataclass(frozen=True)
class Verdict:
    """A statement about cells, and what was found in each.

    devices: of which it is said, "cpu" or "cuda"; share: how many of the cells must keep it for the
    statement to hold, 1 = all.
    """

    statement: str
    findings: list[Finding]
    devices: tuple[str, ...] = ("cpu",)
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
        ratio, limit = worst.numbers
        return f"{found}: {self.statement}; worst {ratio}, limit {limit}, at {worst.where}"


def compare(
    cells: Iterable[Cell],
    over: str,
    under: str,
    limit: Limit,
    ratio: Callable[[Result, Result], float] = lambda ours, theirs: paired(ours, theirs).median,
) -> list[Finding]:
    """The ratio of two contenders wherever both were measured and something was promised."""
    found = []
    for cell in cells:
        for rank in ranks(cell):
            ours, theirs = find(cell, over, rank), find(cell, under, rank)
            if ours and theirs and (most := limit(cell, rank, counted(ours, theirs))) is not None:
                found.append(Finding(where(cell, rank), ratio(ours, theirs), most))
    return found


def operations(cells: Iterable[Cell], limits: dict[str, int]) -> list[Finding]:
    """The operations of a step of each contender that has a limit, at every rank."""
    found = (
        Finding(f"{where(cell, one['rank'])}, {one['contender']}", one["operations"], most)
        for cell in cells
        for one in cell["results"]
        if (most := limits.get(one["contender"])) is not None
    )
    return list(dict.fromkeys(found))  # who stands in two pairs is counted once


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


def case_of(row: dict[str, Any]) -> tuple[Any, ...]:
    """The layer that a row of memory is about."""
    return tuple(row[key] for key in ("m", "n", "tokens", "rank", "dtype"))


def _excess(finding: Finding) -> float:
    return finding.ratio / finding.limit
