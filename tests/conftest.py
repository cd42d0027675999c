"""Shared settings: deterministic Hypothesis, no network, one thread a worker, no figure left open
for the next test.
"""

import functools
import os
import sysconfig
from pathlib import Path

# Before NumPy is imported: two workers with two threads each wait for one another
os.environ["OMP_NUM_THREADS"] = "1"
# Before transformers is imported: tests never reach for the network
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("MPLBACKEND", "Agg")

import hypothesis
import matplotlib.pyplot as plt
import pytest
import torch

from perakit.toy import corpus

torch.set_num_threads(1)

_common = {"deadline": None, "suppress_health_check": [hypothesis.HealthCheck.too_slow]}
hypothesis.settings.register_profile(
    "default", derandomize=True, database=None, max_examples=25, **_common
)
hypothesis.settings.register_profile("dev", max_examples=50, **_common)
hypothesis.settings.register_profile("thorough", max_examples=500, **_common)
hypothesis.settings.load_profile(os.environ.get("PERAKIT_HYPOTHESIS", "default"))


@pytest.fixture(autouse=True)
def _no_figure_left_open():
    """Files share a worker in no fixed order: what one leaves in pyplot, another would count."""
    yield
    plt.close("all")


@pytest.fixture(scope="session", autouse=True)
def _standard_library_parsed_once():
    """Its 2,000 files take 5 seconds, are a text of many tests, and stay as they are."""
    parse, library = corpus._passages, Path(sysconfig.get_paths()["stdlib"])
    kept = functools.cache(parse)

    def passages(path, prose):
        return list((kept if library in path.parents else parse)(path, prose))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpus, "_passages", passages)
        yield
