"""A short run of the loading fuzzer, and proof that it notices loaders that are broken on
purpose.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import settings

import perakit as pk

FUZZER = Path(__file__).with_name("fuzz_loading.py")
CASES = 10 * settings.default.max_examples  # 250; in `make test-thorough` 5000
ROOT = str(Path(pk.__file__).parent.parent)
pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="the fuzzer reads its memory from /proc"
)


def fuzz(*arguments):
    """The fuzzer in a process of its own, since it forks and limits memory."""
    path = os.pathsep.join([ROOT, os.environ.get("PYTHONPATH", "")])
    env = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(FUZZER), "--seed", "1", *arguments]
    return subprocess.run(
        command, env=env, capture_output=True, text=True, timeout=300 + CASES, check=False
    )


@pytest.fixture(scope="module")
def short_run():
    return fuzz("--count", str(CASES))


@pytest.fixture(scope="module")
def self_check():
    return fuzz("--self-check")


def test_spoiled_folders_load_or_are_refused(short_run):
    assert short_run.returncode == 0, short_run.stdout + short_run.stderr
    counts = re.search(
        rf"{CASES} cases of seed 1, \d+ s: (\d+) loaded and right, (\d+) refused, 0 failures",
        short_run.stdout,
    )
    assert counts, short_run.stdout
    assert int(counts[1]) >= 15
    assert int(counts[2]) >= 150
    # the fuzz comes to the files, the JSON, the model, the options and the tensors, in both formats
    for function in (
        "read_plain",
        "_read_config",
        "_check_layers",
        "check_count",
        "_read_tensors",
        "_check_names",
        "read_header",
    ):
        assert f": refused in {function}\n" in short_run.stdout, function


@pytest.mark.thorough  # the fuzzer once for each defect
@pytest.mark.parametrize(
    "defect", ["half", "unfrozen", "key_error", "any_shape", "turned", "greedy", "stuck", "dead"]
)
def test_a_broken_loader_is_noticed(self_check, defect):
    assert f"{defect}: noticed: " in self_check.stdout, self_check.stdout + self_check.stderr


@pytest.mark.thorough
def test_cases_are_the_same_in_every_run(short_run, self_check):
    digests = [
        re.search(r"folders of the first 20 cases: (\w{16})", run.stdout)[1]
        for run in (short_run, self_check)
    ]
    assert digests[0] == digests[1]
