"""The rows of an experiment, found by their labels, and what they say at each possible rate."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

from perakit.experiments.arms import Options, tuning_costs
from perakit.experiments.rates import Costs, Pair, best, pairs
from perakit.experiments.statistics import Interval, averaged, paired

What = str | Callable[[Mapping[str, Any]], float]  # a measured quantity's name, or a function


class Results:
    """What was measured. Where no rate is named, a number is that of the arm's best rate."""

    def __init__(self, header: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> None:
        self.header, self.rows = header, rows
        self.options = Options(**header["options"])
        self._pairs: dict[tuple[str, str], list[Pair]] = {}  # a page asks for each many times

    def of(self, role: str) -> list[Mapping[str, Any]]:
        """Rows of one role, in their order."""
        return [row for row in self.rows if row["role"] == role]

    def one(self, label: str) -> Mapping[str, Any]:
        """What was measured by the job of that label."""
        found: Mapping[str, Any] = next(
            row["measured"] for row in self.rows if row["label"] == label
        )
        return found

    def labels(self) -> list[str]:
        """Arms that were judged."""
        return list(dict.fromkeys(row["label"] for row in self.of("judged")))

    @cached_property
    def tuning(self) -> dict[str, Costs]:
        """Label -> rate -> tuning seed -> validation cost, infinite where the run diverged."""
        return tuning_costs(self.rows)

    def lr(self, label: str) -> float:
        """The learning rate of an arm: the best of its tuning, or the one it was given."""
        if label in self.tuning:
            return best(self.tuning[label])
        lr: float = next(
            row["settings"]["recipe"]["lr"] for row in self.of("judged") if row["label"] == label
        )
        return lr

    def rates(self, label: str) -> list[float]:
        """The rates of an arm that are possible, in rising order."""
        if label not in self.tuning:
            return [self.lr(label)]
        return sorted({one for one, _ in self.pairs(label, label)})

    def reach(self, label: str) -> Interval:
        """The best rate, between the lowest and the highest possible one."""
        found = self.rates(label)
        return Interval(self.lr(label), found[0], found[-1], self.tuning_seeds, 0.0)

    def tried(self) -> list[float]:
        """All learning rates that were tried, in rising order."""
        return sorted({lr for costs in self.tuning.values() for lr in costs})

    def edge(self, label: str) -> bool:
        """Whether the best rate is the lowest or highest tried: a better may lie beyond."""
        tried = self.tuning.get(label, {})
        return bool(tried) and self.lr(label) in (min(tried), max(tried))

    @property
    def tuning_seeds(self) -> int:
        """The fewest tuning seeds on which the rate of an arm was chosen; 0 where none was.

        An arm that diverges at every rate stays on the first seed, and says nothing here.
        """
        found = [costs[best(costs)] for costs in self.tuning.values()]
        trained = [one for one in found if math.isfinite(min(one.values()))]
        return min(map(len, trained or found), default=0)

    def pairs(self, label: str, over: str) -> list[Pair]:
        """The pairs of rates at which two arms are compared."""
        if label in self.tuning and over in self.tuning:
            if (label, over) not in self._pairs:
                self._pairs[label, over] = pairs(self.tuning[label], self.tuning[over])
            return self._pairs[label, over]
        return [(one, other) for one in self.rates(label) for other in self.rates(over)]

    def arm(
        self, label: str, role: str = "judged", lr: float | None = None
    ) -> list[Mapping[str, Any]]:
        """The rows of an arm at one rate, one a seed."""
        lr, found = self.lr(label) if lr is None else lr, dict[int, Mapping[str, Any]]()
        for row in self.of(role):
            if row["label"] == label and row["settings"]["recipe"]["lr"] == lr:
                # Of several the first: rows of earlier plans stand further down
                found.setdefault(row["settings"]["recipe"]["seed"], row)
        return [found[seed] for seed in sorted(found)]

    def scores(
        self, label: str, what: What = "new", role: str = "judged", lr: float | None = None
    ) -> list[Any]:
        """One number a seed, infinite for the cost of a run that diverged."""
        rows = [row["measured"] for row in self.arm(label, role, lr)]
        if callable(what):
            return [math.inf if "diverged" in one else what(one) for one in rows]
        return [math.inf if "diverged" in one and one[what] is None else one[what] for one in rows]

    def mean(self, label: str, what: What = "new") -> Interval:
        """Their mean, with its interval."""
        return averaged(self.scores(label, what))

    def means(self, label: str, what: What = "new") -> dict[float, Interval]:
        """Their mean at every possible rate."""
        return {lr: averaged(self.scores(label, what, lr=lr)) for lr in self.rates(label)}

    def gain(
        self,
        label: str,
        over: str,
        what: What = "new",
        role: str = "judged",
        rates: Pair | None = None,
    ) -> Interval:
        """How much lower `label`'s cost is than `over`'s, seed by seed: positive is better."""
        mine, theirs = rates or (self.lr(label), self.lr(over))
        return paired(self.scores(over, what, role, theirs), self.scores(label, what, role, mine))

    def gains(
        self, label: str, over: str, what: What = "new", role: str = "judged"
    ) -> dict[Pair, Interval]:
        """Their gain at every pair of possible rates."""
        return {one: self.gain(label, over, what, role, one) for one in self.pairs(label, over)}
