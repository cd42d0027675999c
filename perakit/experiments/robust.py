"""What becomes of the verdicts when tuning is disturbed: a rate less, or another seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from perakit.experiments.arms import Contender, Options, tuning_costs
from perakit.experiments.jobs import Job
from perakit.experiments.rates import complete
from perakit.experiments.report import Finding
from perakit.experiments.results import Results
from perakit.table import Table

ANOTHER = 1003  # a tuning seed that chooses nothing on the pages
AGAIN = "tuning again"  # the role of its runs


def again(
    arms: Sequence[Contender], options: Options, rows: Sequence[Mapping[str, Any]]
) -> list[Job]:
    """Every rate that was tuned on all seeds, on another one; rows: of the tuning.

    None in a small setting, which has a single seed.
    """
    costs = {} if options.small else tuning_costs(rows)
    return [
        one.job(options, ANOTHER, lr, AGAIN)
        for one in arms
        if one.label in costs
        for lr in complete(costs[one.label])
    ]


def disturbed(results: Results) -> dict[str, Results]:
    """The results as another tuning would have found them.

    Each rate is left out in turn, and each tuning seed gives way to another. Only rates at which an
    arm was judged take part: of others nobody knows the outcome.
    """
    judged = {(row["label"], _lr(row)) for row in results.of("judged")}
    tuning = [row for row in results.of("tuning") if (row["label"], _lr(row)) in judged]
    others = [row for row in results.rows if row["role"] != "tuning"]
    fresh: list[Mapping[str, Any]] = [{**row, "role": "tuning"} for row in results.of(AGAIN)]
    fresh = [row for row in fresh if (row["label"], _lr(row)) in judged]
    found = {
        f"without {lr:g}": [row for row in tuning if _lr(row) != lr]
        for lr in sorted({lr for _, lr in judged})
    }
    for seed in sorted({_seed(row) for row in tuning}) if fresh else ():
        kept = [row for row in tuning if _seed(row) != seed]
        found[f"seed {ANOTHER} for {seed}"] = kept + fresh
    return {what: Results(results.header, [*rows, *others]) for what, rows in found.items()}


def steadiness(results: Results, find: Callable[[Results], Sequence[Finding]]) -> Table:
    """Of each verdict, how many of the disturbed tunings leave it as it is.

    find: the findings that results show, in one order.
    """
    others = disturbed(results)
    found = {what: find(other) for what, other in others.items()}
    rows = []
    for k, one in enumerate(find(results)):
        tuned = [label for label in one.arms if label in results.tuning]
        told = {
            what: found[what][k].told
            for what, other in others.items()
            if all(label in other.tuning for label in tuned)
        }
        changed = [f"{now} ({what})" for what, now in told.items() if now != one.told]
        kept = f"{len(told) - len(changed)} of {len(told)}"
        rows.append([one.claim, one.told, kept, "; ".join(changed)])
    foot = (
        "Disturbed: a rate left out of the grid, for all arms at once, or another seed in place of"
        " one of the tuning seeds. Left aside\nis what would need runs at a rate at which an arm"
        " was not judged, since it is not possible."
    )
    return Table(("claim", "verdict", "kept", "otherwise"), rows, foot, numbers=False)


def _lr(row: Mapping[str, Any]) -> float:
    return float(row["settings"]["recipe"]["lr"])


def _seed(row: Mapping[str, Any]) -> int:
    return int(row["settings"]["recipe"]["seed"])
