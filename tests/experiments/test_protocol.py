"""Fairness, as a plan: a lab that runs nothing records what an experiment would do."""

import json
import math
from collections import defaultdict
from dataclasses import asdict, replace

import pytest

from perakit.adapters import PERA, LoRA
from perakit.errors import PerakitError
from perakit.experiments import (
    Options,
    batch,
    cost,
    forgetting,
    rank,
    share,
    teacher,
    terms,
)
from perakit.experiments.arms import TUNING_SEEDS, arm, judged
from perakit.experiments.report import (
    INCONCLUSIVE,
    NOT_REPRODUCED,
    REPRODUCED,
    REVERSED,
    UNSIZED,
    below,
    compared,
    comparison,
    everywhere,
    in_each,
    margin,
    order_share,
    recovery,
    span,
    verdict,
    weakest,
)
from perakit.experiments.results import Results
from perakit.experiments.statistics import interval, paired

TRAINED = [
    "components",
    "variants",
    "share",
    "terms",
    "loss",
    "rank",
    "batch",
    "data",
    "placement",
    "forgetting",
    "interaction",
]


@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize(
    "options", [Options(), Options(small=True, seeds=2)], ids=["full", "small"]
)
def test_every_arm_has_the_same_chances(name, options, planned):
    tuning, runs, budget = defaultdict(list), defaultdict(list), defaultdict(set)
    for job in planned(name, options):
        recipe = job.settings.get("recipe", {})
        if job.role == "tuning":
            budget[job.label].add(recipe["steps"])
            assert recipe["seed"] in options.tuning_seeds
            assert options.seeds <= TUNING_SEEDS[0]
            assert job.settings["judge"] is False
            tuning[job.label].append((recipe["lr"], recipe["seed"]))
        elif job.role == "judged":
            assert job.settings["judge"] is True
            runs[job.label].append((recipe["seed"], recipe["lr"]))
            budget[job.label].add(recipe["steps"])
    # Of LoRA with a constant alpha only the best rate is asked
    assert all(", alpha " in label for label in tuning.keys() - runs.keys())
    # As long when a rate is chosen as when it is judged
    assert all(len(steps) == 1 for steps in budget.values())
    assert len({tuple(rates) for rates in tuning.values()}) == 1  # the same for all
    for rates in tuning.values():
        assert len(set(rates)) == len(rates)
        assert {lr for lr, _ in rates} == set(options.rates)
        # All but the highest, which is too far behind, on every tuning seed
        on_all = {lr for lr, seed in rates if seed == options.tuning_seeds[-1]}
        assert on_all == set(options.rates if options.small else options.rates[:-1])
    best = {0.012} if options.small else {0.006, 0.012}
    for label, found in runs.items():
        rates = {lr for _, lr in found}
        assert rates == best if label in tuning else (", lr " in label and len(rates) == 1)
        assert sorted(found) == [
            (seed, lr) for seed in range(options.seeds) for lr in sorted(rates)
        ]


@pytest.mark.parametrize("name", [name for name in TRAINED if name != "batch"])
def test_arms_differ_only_in_what_their_labels_say(name, planned):
    jobs = [
        job
        for job in planned(name, Options())
        if job.role == "judged" and job.settings["recipe"]["seed"] == 0
    ]
    # Each is in a label
    varied = {"method", "recipe", "text", "targets", "matched", "fraction", "h_std", "train"}
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
    expected = {"components": {"LoRA, PERA's time"}}
    expected["terms"] = {label for label in steps if label.endswith(", 400 steps")}
    assert longer == expected.get(name, set())


def test_every_batch_size_reads_as_many_windows_and_warms_up_for_a_tenth(planned):
    recipes = {
        job.label: job.settings["recipe"]
        for job in planned("batch", Options())
        if job.label != "unadapted"
    }
    assert {recipe["batch"] for recipe in recipes.values()} == {1, 2, 4, 8, 16, 32}
    for recipe in recipes.values():
        left = 400 - recipe["batch"] * recipe["steps"]
        assert 0 <= left < recipe["batch"]
        assert recipe["warmup"] == max(recipe["steps"] // 10, 1)
    usual = Options().recipe
    assert all(
        recipe | {"lr": 0, "seed": 0} == asdict(replace(usual, lr=1, seed=0)) | {"lr": 0}
        for label, recipe in recipes.items()
        if label.endswith(", batch 4")
    )


def test_what_was_predicted_to_be_equal_is_judged_so():
    least = 0.1
    for gains, expected in (
        ([0.01, 0.02, 0.0], REPRODUCED),
        ([0.2, 0.21, 0.22], NOT_REPRODUCED),
        ([-0.2, -0.21, -0.22], NOT_REPRODUCED),
        ([0.0, 0.2, -0.1], INCONCLUSIVE),
    ):
        assert terms.neither(interval(gains), least) == expected


@pytest.mark.parametrize(
    ("first", "last", "fallen", "kept", "grown"),
    [
        ([0.012], [0.006], REPRODUCED, REPRODUCED, NOT_REPRODUCED),
        ([0.012, 0.024], [0.003], REPRODUCED, NOT_REPRODUCED, NOT_REPRODUCED),
        ([0.012], [0.012], NOT_REPRODUCED, REPRODUCED, NOT_REPRODUCED),
        ([0.006, 0.012], [0.006], INCONCLUSIVE, REPRODUCED, NOT_REPRODUCED),
        ([0.006], [0.012], NOT_REPRODUCED, REPRODUCED, REPRODUCED),
        ([0.003, 0.006], [0.024], NOT_REPRODUCED, NOT_REPRODUCED, REPRODUCED),
        ([0.003, 0.006], [0.006, 0.024], NOT_REPRODUCED, INCONCLUSIVE, INCONCLUSIVE),
    ],
)
def test_verdicts_on_best_rates(first, last, fallen, kept, grown):
    assert rank.falls(first, last) == fallen
    assert rank.stays(first, last) == kept
    assert batch.grows(first, last) == grown


def test_the_last_comparison_has_seeds_that_chose_nothing(planned):
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


def test_equal_time_gives_lora_the_steps_that_peras_time_is_worth(planned):
    steps = {
        job.label: job.settings["recipe"]["steps"]
        for job in planned("components", Options())
        if job.role == "judged"
    }
    assert steps["LoRA, PERA's time"] == round(Options().recipe.steps * 1.2)


def test_shared_runs_are_shared(planned):
    keys = {
        name: {
            job.key
            for job in planned(name, Options(text="synthetic", old=None))
            if (job.label, job.role) == ("PERA", "judged")
        }
        for name in ("components", "loss", "share")
    }
    assert keys["components"] == keys["loss"] == keys["share"] != set()
    assert len(keys["loss"]) == 2 * Options().seeds


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


def test_a_case_that_turns_with_its_rates_is_open_and_no_case_against():
    gain, none = interval([0.5, 0.51, 0.49]), interval([0.0, 0.01, -0.01])
    sure, turns, without = {(1, 1): gain}, {(1, 1): gain, (1, 2): none}, {(1, 1): none}
    assert in_each([sure, sure], 0.1) == REPRODUCED
    assert in_each([sure, turns], 0.1) == INCONCLUSIVE
    assert in_each([sure, turns, without], 0.1) == NOT_REPRODUCED


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


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        ([REPRODUCED, REPRODUCED], REPRODUCED),
        ([REVERSED, REVERSED], REVERSED),
        ([REVERSED, NOT_REPRODUCED], NOT_REPRODUCED),
        ([REPRODUCED, UNSIZED], UNSIZED),
        ([REPRODUCED, NOT_REPRODUCED], INCONCLUSIVE),
        ([REPRODUCED, REVERSED], INCONCLUSIVE),
        ([REVERSED, INCONCLUSIVE], INCONCLUSIVE),
        ([NOT_REPRODUCED, UNSIZED], INCONCLUSIVE),
    ],
)
def test_a_verdict_is_what_holds_at_every_rate(verdicts, expected):
    assert weakest(verdicts) == weakest(verdicts[::-1]) == expected


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
                    "settings": {"recipe": {"lr": lr, "seed": 7}},
                    "measured": {"validation": 2 + lr},
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


def test_fixed_rates_are_not_tuned(recorder):
    judged(recorder, [arm("a", LoRA(2), lr=0.5), arm("b", PERA(2))], Options(seeds=2))
    assert {job.label for job in recorder.jobs if job.role == "tuning"} == {"b"}
    assert {job.settings["recipe"]["lr"] for job in recorder.jobs if job.label == "a"} == {0.5}


def two_rates(costs, tuning):
    """Made-up results at two rates: label -> rate -> costs of the seeds, of the tuning seeds."""
    header = {"format": 1, "experiment": "x", "options": {"seeds": 3}}
    rows = [
        {
            "label": label,
            "role": role,
            "settings": {"recipe": {"lr": lr, "seed": seed}},
            "measured": {what: value, "share": None, "trainable": 1000}
            | ({"diverged": "it did"} if value is None else {}),
        }
        for role, what, found in (("judged", "new", costs), ("tuning", "validation", tuning))
        for label, at in found.items()
        for lr, values in at.items()
        for seed, value in enumerate(values)
    ]
    return Results(header, rows)


UNDECIDED = {0.1: [2.0, 2.004, 2.001], 0.2: [2.003, 2.0, 2.001]}


def test_a_verdict_that_turns_with_the_rate_is_none():
    """The fault that this protocol mends: tuning preferred one of two equal rates by chance."""
    costs = {
        "a": {0.1: [2.0, 2.01, 2.02], 0.2: [2.2, 2.21, 2.22]},
        "b": {0.1: [2.1, 2.11, 2.12], 0.2: [2.1, 2.11, 2.12]},
    }
    made = two_rates(costs, {"a": UNDECIDED, "b": UNDECIDED})
    found = compared(made, "a beats b", "a", "b", 0.01)
    assert found.verdict == INCONCLUSIVE
    assert found.rates == "-0.10000 ... +0.10000 bits, 2 pairs of rates"
    sure = {0.1: [2.0, 2.001, 2.002], 0.2: [2.01, 2.011, 2.012]}
    found = compared(two_rates(costs, {"a": sure, "b": sure}), "a beats b", "a", "b", 0.01)
    assert (found.verdict, found.rates) == (REPRODUCED, "one pair of rates")


def test_a_run_that_diverges_is_a_result():
    costs = {
        "a": {0.1: [2.0, 2.01, 2.02], 0.2: [2.0, None, 2.02]},
        "b": {0.1: [2.1, 2.11, 2.12], 0.2: [2.1, 2.11, 2.12]},
    }
    made = two_rates(costs, {"a": UNDECIDED, "b": UNDECIDED})
    found = compared(made, "a beats b", "a", "b", 0.01)
    assert found.verdict == INCONCLUSIVE
    assert found.rates == "diverged ... +0.10000 bits, 2 pairs of rates"
    # One seed of three is no clear difference; all of them are
    assert made.gain("b", "a", rates=(0.2, 0.2)).clear == 0
    assert paired([math.inf] * 3, [2.0] * 3).clear == 1
    assert paired([2.0] * 3, [math.inf] * 3).clear == -1
    assert paired([math.inf] * 3, [math.inf, 2.0, 2.0]).clear == 0
    assert str(made.gain("b", "a", rates=(0.2, 0.2))) == "diverged on a seed"


def test_a_cost_of_which_a_seed_diverged_has_an_infinite_mean_and_a_page():
    both = {0.1: [2.1, 2.11, 2.12], 0.2: [2.1, 2.11, 2.12]}
    costs = {"LoRA": {0.1: [2.0, None, 2.02], 0.2: [2.2, 2.2, 2.2]}, "full fine-tuning": both}
    sure = {0.1: [2.0, 2.001, 2.002], 0.2: [2.1, 2.101, 2.102]}
    made = two_rates(costs, dict.fromkeys(costs, sure))
    start = {"label": "unadapted", "role": "other", "settings": {}, "measured": {"new": 3.0}}
    made = Results(made.header, [start, *made.rows])
    assert made.mean("LoRA").mean == float("inf")
    # Of the seeds that have a gain
    assert margin(made, "LoRA") == pytest.approx(0.01 * (3 - 2.01))
    (lora,) = [row for row in comparison(made, "full fine-tuning").rows if row[0] == "LoRA"]
    assert lora[1:3] == ["diverged on a seed"] * 2
    for full, told in (("LoRA", "diverged on a seed"), ("full fine-tuning", "100.0")):
        label = {"LoRA": "full fine-tuning", "full fine-tuning": "LoRA"}[full]
        swapped = {label: costs["LoRA"], full: both}
        rows = two_rates(swapped, dict.fromkeys(costs, sure)).rows
        rows = recovery(Results(made.header, [start, *rows])).rows
        assert {row[0] for row in rows} == set(costs)
        assert rows[0][2].startswith(told)


def test_neither_arms_divergence_hides_in_a_span():
    none, some = interval([1.0, 1.1]), replace(interval([1.0, 1.1]), mean=float("nan"))
    for found in ({(0.1, 0.1): none, (0.2, 0.2): some}, {(0.2, 0.2): some, (0.1, 0.1): none}):
        assert span(found) == "diverged ... +1.05000 bits, 2 pairs of rates"


def test_a_share_that_one_seed_alone_has_stands_without_an_interval():
    assert order_share([0.01, float("inf"), None]) == "1 %"


def test_the_rates_of_the_plane_do_not_depend_on_the_order_of_the_rows():
    costs = {0.1: {2: 2.5, 1: 2.0}, 0.2: {1: 2.1, 2: 2.0}}
    assert forgetting.learning(costs) == [0.1, 0.2]


def test_the_span_of_one_rate_says_so():
    one = interval([1.0, 1.1])
    assert span({0.1: one}) == "one rate"
    assert span({(0.1, 0.2): one}) == "one pair of rates"
    assert span({0.1: one, 0.2: one}, ".1f", "times") == "1.1 ... 1.1 times, 2 rates"
