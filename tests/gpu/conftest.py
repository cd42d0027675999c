"""Where the tests of this folder run: on CUDA if PERAKIT_DEVICE=cuda asks for it (`make test-gpu`).

Else on the CPU by the lean path, the one that most steps on a GPU take: so these files are run, and
cannot rot, where there is no GPU.
"""

import os

import pytest
import torch

from perakit.fast import use_plan

ASKED = os.environ.get("PERAKIT_DEVICE", "cpu")


def pytest_configure(config):
    if ASKED not in ("cpu", "cuda"):
        raise pytest.UsageError(f"PERAKIT_DEVICE={ASKED!r} is no device: use cpu or cuda")
    if ASKED == "cuda" and not torch.cuda.is_available():
        raise pytest.UsageError(
            f"there is no CUDA device here (torch {torch.__version__}): run these tests on a"
            " machine with one, or on the CPU with make test"
        )


@pytest.fixture
def device():
    """ "cuda", or "cpu" within the lean path."""
    if ASKED == "cuda":
        yield ASKED
        return
    with use_plan("lean"):
        yield ASKED


@pytest.fixture
def cuda(device):
    """For what a CPU does not have: "cuda", or the test is skipped."""
    if device != "cuda":
        pytest.skip("needs CUDA: make test-gpu")
    return device
