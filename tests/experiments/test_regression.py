"""One layer on made-up targets: against what singular values and a linear function say."""

import numpy as np
import pytest

from perakit.adapters import PERA, LoRA
from perakit.experiments.regression import TARGETS, fit, imitate, target


def test_targets_are_what_they_are_called():
    sigma = {
        kind: np.linalg.svd(target(kind, 10, 12, 2, seed=3), compute_uv=False) for kind in TARGETS
    }
    assert all(np.linalg.norm(values) == pytest.approx(1) for values in sigma.values())
    assert {kind: int((values > 1e-12).sum()) for kind, values in sigma.items()} == {
        "low rank": 2,
        "PERA-generated": 5,  # K of r = 2
        "full rank": 10,
        "power law": 10,
    }
    assert sigma["power law"][0] / sigma["power law"][6] == pytest.approx(7)


@pytest.mark.parametrize("kind", ["full rank", "PERA-generated"])
def test_lora_ends_at_the_distance_that_eckart_and_young_give(kind):
    settings = {
        "m": 5,
        "n": 7,
        "target": kind,
        "teacher_rank": 2,
        "seed": 1,
        "rates": [0.001, 0.05],
        "steps": 800,
    }
    found = imitate(settings | {"methods": [LoRA(2).to_dict()]})
    sigma = np.linalg.svd(target(kind, 5, 7, 2, 1), compute_uv=False)
    assert found["error"] == pytest.approx(np.linalg.norm(sigma[2:]), rel=1e-3)
    assert (found["lr"], found["share"], found["trainable"]) == (0.05, 0, 2 * 12)


@pytest.mark.parametrize("method", [LoRA(4), PERA(4)])
def test_a_linear_function_is_fitted_and_a_quadratic_part_is_not(method):
    settings = {
        "m": 4,
        "n": 8,
        "seed": 0,
        "rates": [0.03],
        "steps": 400,
        "methods": [method.to_dict()],
    }
    assert fit(settings | {"curvature": 0.0})["explained"] > 0.99
    assert fit(settings | {"curvature": 2.0})["explained"] < 0.3
