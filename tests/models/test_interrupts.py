"""Interrupts at some lines of what changes a model; tests/attacks/interrupts.py takes them all."""

import sys
from contextlib import nullcontext

import pytest
from interrupts import CASES, check, written

# An interrupt between opening a file and the block that closes it: the collector does
pytestmark = pytest.mark.filterwarnings(
    "ignore:unclosed file:ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return written(tmp_path_factory.mktemp("files"))


@pytest.mark.parametrize("case", CASES)
def test_an_interrupt_at_some_lines_leaves_no_mixture(case, folders):
    """The last forty lines, where things change, by tens, and one in the middle."""
    check(case, folders, lambda n: sorted({n // 2} | set(range(max(1, n - 40), n, 10))))


def test_a_change_that_is_not_whole_is_noticed(folders, monkeypatch):
    merge = sys.modules["perakit.models.merge"]  # pk.models.merge is the function
    monkeypatch.setattr(merge, "whole", lambda *_: nullcontext())
    with pytest.raises(AssertionError, match="lines leave a mixture"):
        check("merge", folders, lambda n: range(n - 9, n + 1))
