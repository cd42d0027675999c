"""A few of the kills of `tests/kills.py`, which has many more."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import perakit as pk

ROOT = Path(pk.__file__).parents[1]


@pytest.mark.thorough  # 2 minutes; the training of test_training.py is killed in every run
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
@pytest.mark.parametrize("kind", ["save", "finetune", "experiment", "bench"])
def test_what_is_killed_loses_nothing(kind, tmp_path):
    done = subprocess.run(
        [
            sys.executable,
            Path(__file__).with_name("kills.py"),
            kind,
            "--kills",
            "3",
            "--out",
            tmp_path,
        ],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "nothing lost, every result that of a whole run" in done.stdout
