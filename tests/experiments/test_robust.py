"""Verdicts under another tuning: on made-up rows, and on those that are stored."""

from pathlib import Path

import pytest

from perakit.adapters import LoRA
from perakit.experiments import EXPERIMENTS, Options
from perakit.experiments.arms import RANK, arm
from perakit.experiments.jobs import read
from perakit.experiments.report import INCONCLUSIVE, REPRODUCED, compared
from perakit.experiments.results import Results
from perakit.experiments.robust import AGAIN, ANOTHER, again, disturbed, steadiness

RESULTS = Path(__file__).parents[2] / "docs" / "results"
# What the pages say first, and what must not hang on a rate or a seed of tuning
MAIN = {
    "components": (
        "PERA beats LoRA at equal rank",
        "PERA beats LoRA at equal trainable parameters",
        "PERA beats LoRA in equal time",
        "PERA beats LoRA from the paper's start (A = 0, B random)",
        "Square terms beat LoRA",
        f"Full fine-tuning beats LoRA of rank {RANK}",
    )
}


def row(label, role, lr, seed, value, what="new"):
    settings = {"recipe": {"lr": lr, "seed": seed}}
    return {"label": label, "role": role, "settings": settings, "measured": {what: value}}


def made(costs, tuning, fresh):
    """Results of two arms at two rates; fresh: costs on the seed that chose nothing."""
    rows = []
    for label in ("a", "b"):
        for k, lr in enumerate((0.1, 0.2)):
            rows += [
                row(label, "judged", lr, seed, costs[label][k] + seed / 1000) for seed in range(3)
            ]
            rows += [
                row(label, "tuning", lr, seed, tuning[label][k] + seed / 1e5, "validation")
                for seed in (7, 8, 9)
            ]
            rows.append(row(label, AGAIN, lr, ANOTHER, fresh[label][k], "validation"))
    return Results({"options": {"seeds": 3}}, rows)


def verdicts(results):
    return [compared(results, "a beats b", "a", "b", 0.01)]


def test_every_rate_and_every_tuning_seed_is_disturbed_once():
    sure = {"a": (2.0, 2.1), "b": (2.0, 2.1)}
    others = disturbed(made({"a": (2.0, 2.2), "b": (2.1, 2.1)}, sure, sure))
    assert list(others) == [
        *("without 0.1", "without 0.2"),
        *(f"seed {ANOTHER} for {seed}" for seed in (7, 8, 9)),
    ]
    assert others["without 0.1"].lr("a") == 0.2
    assert sorted(others[f"seed {ANOTHER} for 8"].tuning["a"][0.1]) == [7, 9, ANOTHER]


def test_a_verdict_that_hangs_on_a_rate_is_said_to():
    sure = {"a": (2.0, 2.1), "b": (2.0, 2.1)}
    found = made({"a": (2.0, 2.2), "b": (2.1, 2.2)}, sure, sure)
    assert verdicts(found)[0].verdict == REPRODUCED
    (told,) = steadiness(found, verdicts).rows
    assert told == ["a beats b", "holds", "4 of 5", "does not hold (without 0.1)"]


def test_a_verdict_that_hangs_on_a_tuning_seed_is_said_to():
    sure = {"a": (2.0, 2.01), "b": (2.0, 2.1)}
    found = made({"a": (2.0, 2.2), "b": (2.1, 2.2)}, sure, {"a": (2.03, 2.0), "b": (2.0, 2.1)})
    assert verdicts(found)[0].verdict == REPRODUCED
    (told,) = steadiness(found, verdicts).rows
    assert told[2] == "1 of 5"
    assert f"{INCONCLUSIVE} (seed {ANOTHER} for 7)" in told[3]


def test_rates_at_which_nobody_was_judged_take_no_part():
    sure = {"a": (2.0, 2.1), "b": (2.0, 2.1)}
    whole = made({"a": (2.0, 2.2), "b": (2.1, 2.2)}, sure, sure)
    rows = [one for one in whole.rows if one["role"] != "judged" or _lr(one) == 0.1]
    found = Results(whole.header, rows)
    assert "without 0.2" not in disturbed(found)
    # Without its only rate an arm cannot be judged: that is left aside, and not counted
    assert steadiness(found, verdicts).rows[0][2] == "3 of 3"


def test_another_seed_is_run_at_the_rates_that_all_seeds_tried():
    arms = [arm("a", LoRA(2)), arm("fixed", LoRA(2), lr=0.1)]
    tuned = [
        row("a", "tuning", lr, seed, 2.0, "validation") for lr in (0.1, 0.2) for seed in (7, 8)
    ]
    tuned.append(row("a", "tuning", 0.4, 7, 3.0, "validation"))
    jobs = again(arms, Options(), tuned)
    assert {(job.label, job.settings["recipe"]["lr"]) for job in jobs} == {("a", 0.1), ("a", 0.2)}
    assert all(job.settings["recipe"]["seed"] == ANOTHER for job in jobs)
    assert not any(job.settings["judge"] for job in jobs)
    assert again(arms, Options(small=True), tuned) == []


@pytest.mark.parametrize(("name", "claims"), MAIN.items())
def test_the_main_verdicts_keep_under_another_tuning(name, claims):
    """On the stored rows: a rate dropped from the grid, another tuning seed."""
    results = Results(*read(RESULTS / f"{name}.jsonl"))
    tables = dict(EXPERIMENTS[name].report(results).tables)
    rows = {row[0]: row for row in tables["The verdicts under another tuning"].rows}
    for claim in claims:
        _, verdict, kept, otherwise = rows[claim]
        assert verdict != INCONCLUSIVE
        steady, tried = kept.split(" of ")
        assert steady == tried, (claim, otherwise)
        assert int(tried) >= 5


def _lr(one):
    return one["settings"]["recipe"]["lr"]
