"""A short run of every fuzzer, and proof that each notices doors that are broken on purpose."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import settings

import perakit as pk

FUZZER = Path(__file__).with_name("run.py")
DOORS = ("adapter", "peft", "gpt2", "tokenizer", "config", "checkpoint", "ledger", "cells")
CASES = settings.default.max_examples * 8 // 5  # 40 a door; in `make test-thorough` 800
ROOT = str(Path(pk.__file__).parent.parent)
pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="the fuzzers read their memory from /proc"
)


def fuzz(*arguments):
    """The fuzzers in a process of their own, since they fork and limit memory."""
    path = os.pathsep.join([ROOT, os.environ.get("PYTHONPATH", "")])
    env = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(FUZZER), "--seed", "1", *arguments]
    return subprocess.run(
        command, env=env, capture_output=True, text=True, timeout=300 + 8 * CASES, check=False
    )


def test_spoiled_files_are_taken_for_what_they_are_or_refused():
    """One run of all: a fixture would run once in every worker."""
    run = fuzz("--door", *DOORS, "--count", str(CASES))
    lines = [line for line in run.stdout.splitlines() if line.startswith("{")]
    figures = {found["door"]: found for found in map(json.loads, lines)}
    assert list(figures) == list(DOORS), run.stdout[-3000:] + run.stderr
    failed = [line for line in run.stdout.splitlines() if "FAILED" in line]
    for door, found in figures.items():
        assert found["failures"] == 0, failed
        assert found["cases"] == CASES == found["right"] + found["refused"], door
        assert found["right"] >= CASES // 20, door
        assert found["refused"] >= CASES // 3, door
    # The cases come deep: to the files, the JSON, the model, the options and the tensors
    for function in (
        "read_plain",
        "_read_config",
        "_check_layers",
        "_read_tensors",
        "_check_names",
        "read_header",
    ):
        assert f": refused in {function}\n" in run.stdout, function


DEFECTS = {
    "adapter": ("half", "unfrozen", "turned", "any_shape"),
    "peft": ("half", "unfrozen", "turned"),
    "gpt2": ("headless", "another function"),
    "tokenizer": ("shifted",),
    "config": ("uncounted",),
    "checkpoint": ("half", "unfrozen", "forgetful"),
    "ledger": ("rounded", "forgetful", "careless"),
    "cells": ("halved", "tidy", "eager"),
}
ANY = ("key_error", "greedy", "stuck", "dead")


@pytest.mark.thorough  # a fuzzer once for each defect
def test_a_broken_door_is_noticed():
    """And the cases are the same in every run."""
    doors = DOORS if CASES > 100 else ("adapter", "gpt2", "ledger")  # all in `make test-thorough`
    checked = fuzz("--door", *doors, "--self-check")
    found = checked.stdout + checked.stderr
    for door in doors:
        for defect in (*ANY, *DEFECTS[door]):
            assert f"{door}: {defect}: noticed: " in found, found
    again = fuzz("--door", *doors, "--count", "20")
    digests = [
        re.findall(r"folders of the first 20 cases: (\w{16})", run.stdout)
        for run in (checked, again)
    ]
    assert len(digests[0]) == len(doors)
    assert digests[0] == digests[1]
