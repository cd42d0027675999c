"""Curvature against rate: what is measured, what is asked of the rates, and the verdict."""

import pytest

from perakit.experiments import Options, curvature
from perakit.experiments.report import INCONCLUSIVE, NOT_REPRODUCED, REPRODUCED
from perakit.experiments.results import Results


def test_every_arm_is_measured_at_three_starts_and_tuned_as_elsewhere(planned):
    jobs = planned("curvature", Options())
    measured = [job for job in jobs if job.role == "curvature"]
    labels = {job.label for job in measured}
    assert len(measured) == 3 * len(labels) == 3 * 16
    assert {job.name for job in measured} == {"sharpness.sharpness"}
    assert {job.label for job in jobs if job.role == "tuning"} == labels
    assert "full fine-tuning" in labels
    assert not any(job.role == "judged" for job in jobs)
    starts = [job.settings["recipe"]["seed"] for job in measured if job.label == "LoRA r=8"]
    assert starts == [0, 1, 2]


def rows(rates):
    """label -> {rate: costs of three tuning seeds}."""
    return [
        {
            "label": label,
            "role": "tuning",
            "settings": {"recipe": {"lr": lr, "seed": seed}},
            "measured": {"validation": cost},
        }
        for label, found in rates.items()
        for lr, costs in found.items()
        for seed, cost in enumerate(costs)
    ]


SURE, WORSE = [2.0, 2.001, 2.002], [2.015, 2.016, 2.017]
EITHER = {0.1: [2.0, 2.004, 2.001], 0.2: [2.003, 2.0, 2.001]}


def test_the_correlation_is_of_ranks_at_the_best_and_at_the_ends_of_what_is_possible():
    found = Results(
        {"options": {}},
        rows(
            {
                "a": {0.1: WORSE, 0.4: SURE},
                "b": EITHER,
                "c": {0.05: SURE, 0.1: WORSE},
            }
        ),
    )
    told = curvature.correlations(found, {"a": 1.0, "b": 10.0, "c": 100.0}, ["a", "b", "c"])
    assert told == pytest.approx({"best": -1.0, "lowest": -1.0, "highest": -1.0})
    told = curvature.correlations(found, {"a": 1.0, "b": 0.1, "c": 100.0}, ["a", "b", "c"])
    assert told["best"] == pytest.approx(-0.5)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ({"best": -0.9, "lowest": -0.6, "highest": -0.8}, REPRODUCED),
        ({"best": -0.9, "lowest": -0.4, "highest": -0.8}, INCONCLUSIVE),
        ({"best": 0.1, "lowest": -0.4, "highest": 0.8}, NOT_REPRODUCED),
    ],
)
def test_the_verdict_holds_at_both_ends(found, expected):
    assert curvature.falls(found) == expected
