"""Fairness, as a plan: a lab that runs nothing records what an experiment would do."""

import json
from collections import defaultdict

import pytest

from perakit.adapters import PERA, LoRA
from perakit.errors import PerakitError
from perakit.experiments import EXPERIMENTS, Options, cost, share, teacher
from perakit.experiments.arms import TUNING_SEED, Results, arm, choose, judged
from perakit.experiments.report import (
    INCONCLUSIVE,
    NOT_REPRODUCED,
    REPRODUCED,
    REVERSED,
    UNSIZED,
    below,
    comparison,
    everywhere,
    verdict,
)
from perakit.experiments.statistics import interval

TRAINED = ["components", "share", "loss", "rank", "data", "placement", "forgetting", "interaction"]


class Recorder:
    """In the place of a Lab: remembers every job and makes up its numbers."""

    def __init__(self):
        self.jobs = []

    def run(self, jobs, later=0.0):
        self.jobs += jobs
        return [row(job) for job in jobs]


def row(job):
    recipe = job.settings.get("recipe", {})
    cost = 2.0 + abs(recipe.get("lr", 0) - 0.012)  # the third rate is the best for all
    measured = {
        "validation": cost,
        "new": cost,
        "training": {"PERA": [1.2, 1.2, 1.2], "LoRA": [1.0, 1.0, 1.0]},
    }
    return {"label": job.label, "role": job.role, "settings": job.settings, "measured": measured}


def planned(name, options):
    lab = Recorder()
    EXPERIMENTS[name].collect(lab, options)
    return lab.jobs


@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize(
    "options", [Options(), Options(small=True, seeds=2)], ids=["full", "small"]
)
def test_every_arm_has_the_same_chances(name, options):
    tuning, runs, budget = defaultdict(list), defaultdict(list), defaultdict(set)
    for job in planned(name, options):
        recipe = job.settings.get("recipe", {})
        if job.role == "tuning":
            budget[job.label].add(recipe["steps"])
            assert recipe["seed"] == TUNING_SEED >= options.seeds
            assert job.settings["judge"] is False
            tuning[job.label].append(recipe["lr"])
        elif job.role == "judged":
            assert job.settings["judge"] is True
            runs[job.label].append((recipe["seed"], recipe["lr"]))
            budget[job.label].add(recipe["steps"])
    assert tuning.keys() <= runs.keys()
    # As long when a rate is chosen as when it is judged
    assert all(len(steps) == 1 for steps in budget.values())
    assert len({tuple(rates) for rates in tuning.values()}) == 1  # the same for all
    assert all(set(options.rates) <= set(rates) for rates in tuning.values())
    for label, found in runs.items():
        assert [seed for seed, _ in found] == list(range(options.seeds))
        assert len({lr for _, lr in found}) == 1
        if label in tuning:
            assert found[0][1] == 0.012  # the best of the recorder
        else:
            assert ", lr " in label  # compared at one rate on purpose


@pytest.mark.parametrize("name", TRAINED)
def test_arms_differ_only_in_what_their_labels_say(name):
    jobs = [
        job
        for job in planned(name, Options())
        if job.role == "judged" and job.settings["recipe"]["seed"] == 0
    ]
    # Each is in a label
    varied = {"method", "recipe", "text", "targets", "matched", "fraction", "h_std"}
    assert (
        len(
            {
                json.dumps([value for key, value in job.settings.items() if key not in varied])
                for job in jobs
            }
        )
        == 1
    )
    own = {"seed", "lr", "steps", "eval_every"}
    assert (
        len(
            {
                json.dumps(
                    {key: value for key, value in job.settings["recipe"].items() if key not in own}
                )
                for job in jobs
            }
        )
        == 1
    )
    steps = {job.label: job.settings["recipe"]["steps"] for job in jobs}
    usual = Options().recipe.steps
    longer = {label for label, count in steps.items() if count != usual}
    assert longer == ({"LoRA, PERA's time"} if name == "components" else set())


def test_the_last_comparison_has_seeds_that_chose_nothing():
    found = defaultdict(list)
    jobs = planned("share", Options())
    for job in jobs:
        if job.role == "fresh":
            found[job.label].append(job.settings)
    before = {job.settings["recipe"]["seed"] for job in jobs if job.role in ("tuning", "judged")}
    assert len(found) == 2
    assert "LoRA" in found
    for settings in found.values():
        seeds = [one["recipe"]["seed"] for one in settings]
        assert len(set(seeds)) == 20
        assert before.isdisjoint(seeds)
        assert all(one["judge"] for one in settings)


def test_which_arm_is_compared_last_is_the_validation_texts_choice():
    made = results(
        {
            "LoRA": [2.0, 2.0],
            "PERA": [2.0, 2.0],
            "PERA, scale 9": [1.0, 1.0],
            "PERA r=2": [0.5, 0.5],
            "PERA, lr 1": [0.5, 0.5],
        }
    )
    for row in made.rows:
        row["measured"]["validation"] = {"PERA": 1.5, "PERA, scale 9": 1.6}.get(row["label"], 0.1)
    assert share.best(made) == "PERA"


def test_equal_time_gives_lora_the_steps_that_peras_time_is_worth():
    steps = {
        job.label: job.settings["recipe"]["steps"]
        for job in planned("components", Options())
        if job.role == "judged"
    }
    assert steps["LoRA, PERA's time"] == round(Options().recipe.steps * 1.2)


def test_shared_runs_are_shared():
    keys = {
        name: {
            job.key
            for job in planned(name, Options(text="synthetic", old=None))
            if (job.label, job.role) == ("PERA", "judged")
        }
        for name in ("components", "loss", "share")
    }
    assert keys["components"] == keys["loss"] == keys["share"] != set()


def test_choosing_takes_the_best_validation_cost():
    rows = [
        {
            "label": label,
            "settings": {"recipe": {"lr": lr}},
            "measured": {"validation": cost, "new": 0.0},
        }
        for label, lr, cost in [("a", 0.1, 2.0), ("a", 0.2, 1.0), ("b", 0.1, 1.0), ("b", 0.2, 1.5)]
    ]
    assert choose(rows) == {"a": 0.2, "b": 0.1}
    rows[1]["measured"]["validation"] = None  # it diverged
    assert choose(rows) == {"a": 0.1, "b": 0.1}
    rows[0]["measured"]["validation"] = None
    with pytest.raises(
        PerakitError,
        match=r"a diverged at every learning rate, also at 0\.1: it cannot be compared here",
    ):
        choose(rows)


@pytest.mark.parametrize(
    ("gains", "expected"),
    [
        ([0.5, 0.51, 0.49], REPRODUCED),
        ([0.05, 0.051, 0.049], NOT_REPRODUCED),  # clear, and too small to matter
        ([-0.5, -0.51, -0.49], REVERSED),
        ([-0.05, -0.051, -0.049], NOT_REPRODUCED),
        # The bootstrap ends below the margin, Student's t does not
        ([-0.5, 0.09, 0.09, 0.09, 0.09], INCONCLUSIVE),
        ([0.01, -0.01, 0.02], NOT_REPRODUCED),
        ([0.05, 0.08, 0.11, 0.06, 0.1], UNSIZED),
        ([0.5, -0.4, 0.2], INCONCLUSIVE),
        ([0.2, 1.0], INCONCLUSIVE),  # two values
    ],
)
def test_verdicts(gains, expected):
    assert verdict(interval(gains), margin=0.1) == expected


@pytest.mark.parametrize(
    ("ratios", "most", "faster"),
    [
        ([0.5, 0.51, 0.49], REPRODUCED, REPRODUCED),
        ([1.5, 1.51, 1.49], NOT_REPRODUCED, REVERSED),
        ([0.5, 1.9], INCONCLUSIVE, INCONCLUSIVE),
        ([0.5, 1.4], INCONCLUSIVE, INCONCLUSIVE),
    ],
)
def test_verdicts_on_times(ratios, most, faster):
    assert below(interval(ratios), 1.2) == most
    assert cost.quicker(interval(ratios)) == faster


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        ([REPRODUCED, REPRODUCED], REPRODUCED),
        ([REPRODUCED, NOT_REPRODUCED], NOT_REPRODUCED),
        ([INCONCLUSIVE, REVERSED], NOT_REPRODUCED),
        ([REPRODUCED, INCONCLUSIVE], INCONCLUSIVE),
    ],
)
def test_one_case_without_a_gain_is_enough_against_a_gain_everywhere(verdicts, expected):
    assert everywhere(verdicts) == expected


@pytest.mark.parametrize(
    ("predicted", "errors", "expected"),
    [
        ("PERA", [0.1, 0.11, 0.09], REPRODUCED),
        ("PERA", [-0.1, -0.11, -0.09], REVERSED),
        ("PERA", [0.0, 0.001, -0.001], NOT_REPRODUCED),
        ("PERA", [0.1, -0.1, 0.3], INCONCLUSIVE),
        ("LoRA", [-0.1, -0.11, -0.09], REPRODUCED),
        ("LoRA", [0.1, 0.11, 0.09], REVERSED),
        ("the same", [0.0, 0.001, -0.001], REPRODUCED),
        ("the same", [0.1, 0.11, 0.09], NOT_REPRODUCED),
        ("open", [0.1, 0.11, 0.09], INCONCLUSIVE),
    ],
)
def test_predictions_are_judged_as_claims_are(predicted, errors, expected):
    found = interval(errors)
    assert teacher.judge(predicted, teacher.call(found), found) == expected


def results(costs):
    """Made-up results: label -> one cost a seed."""
    header = {"format": 1, "experiment": "x", "options": {"seeds": 3}}
    rows = [{"label": "unadapted", "role": "other", "settings": {}, "measured": {"new": 3.0}}]
    for label, values in costs.items():
        for lr in (0.1, 0.2):
            rows.append(
                {
                    "label": label,
                    "role": "tuning",
                    "settings": {"recipe": {"lr": lr}},
                    "measured": {},
                }
            )
        for seed, new in enumerate(values):
            measured = {"new": new, "trainable": 1000, "share": None}
            rows.append(
                {
                    "label": label,
                    "role": "judged",
                    "settings": {"recipe": {"seed": seed, "lr": 0.1}},
                    "measured": measured,
                }
            )
    return Results(header, rows)


def test_differences_are_taken_seed_by_seed_whatever_the_order_of_the_rows():
    found = results({"LoRA": [2.0, 3.0, 4.0], "PERA": [1.9, 2.9, 3.9]})
    backwards = Results(found.header, found.rows[::-1])
    for one in (found, backwards):
        gain = one.gain("PERA", "LoRA")
        assert gain.mean == pytest.approx(0.1)
        assert gain.high - gain.low == pytest.approx(0)


def test_what_an_earlier_plan_left_behind_is_not_counted():
    found = results({"LoRA": [2.0, 3.0, 4.0]})
    stale = [row | {"measured": {"new": 99.0}} for row in found.rows if row["role"] == "judged"]
    assert Results(found.header, [*found.rows, *stale]).scores("LoRA") == [2.0, 3.0, 4.0]


def test_a_table_shows_intervals_and_marks_rates_at_the_edge():
    text = str(comparison(results({"LoRA": [2.0, 3.0, 4.0], "PERA": [1.9, 2.9, 3.9]}), "LoRA"))
    assert "+0.10000 [+0.10000, +0.10000]" in text
    assert "0.1*" in text
    assert "a better one may lie beyond" in text


def test_one_seed_is_refused():
    with pytest.raises(PerakitError, match="seeds=1 must be an integer >= 2"):
        Options(seeds=1)


def test_fixed_rates_are_not_tuned():
    lab = Recorder()
    judged(lab, [arm("a", LoRA(2), lr=0.5), arm("b", PERA(2))], Options(seeds=2))
    assert {job.label for job in lab.jobs if job.role == "tuning"} == {"b"}
    assert {job.settings["recipe"]["lr"] for job in lab.jobs if job.label == "a"} == {0.5}
