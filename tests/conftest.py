"""What all tests share: a deterministic Hypothesis, no network, one thread, shapes watched."""

import functools
import importlib.util
import os
import sys
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


# --- documented shapes are watched ----------------------------------------------------------------


def _shapes():
    """tests/shapes.py; None where this file was copied without it."""
    path = Path(__file__).with_name("shapes.py")
    if not path.exists():
        return None
    # By hand, since pytest's importlib mode puts this folder on no path
    spec = importlib.util.spec_from_file_location("shapes", path)
    sys.modules["shapes"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SHAPES = _shapes()


def pytest_configure(config):
    config.addinivalue_line("markers", "unwatched: documented shapes are not compared with calls")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """Fail a test in which a function took or returned another shape than its docstring says."""
    if SHAPES is None:
        return (yield)
    if item.get_closest_marker("unwatched"):
        SHAPES.WATCH.pause()
    else:
        SHAPES.WATCH.resume()
    try:
        result = yield
    except BaseException as error:
        if lies := SHAPES.WATCH.complaint():
            error.add_note(f"docstrings that do not hold:\n{lies}")
        raise
    if lies := SHAPES.WATCH.complaint():
        pytest.fail(f"docstrings that do not hold:\n{lies}", pytrace=False)
    return result
