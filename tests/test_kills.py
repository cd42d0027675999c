"""A few of the kills of `tests/attacks/kills.py`, which has many more."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import perakit as pk

ROOT = Path(pk.__file__).parents[1]


@pytest.mark.thorough  # half a minute; training and experiments are killed in their own tests too
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
@pytest.mark.parametrize("kind", ["save"])
def test_what_is_killed_loses_nothing(kind, tmp_path):
    done = subprocess.run(
        [
            sys.executable,
            Path(__file__).parent / "attacks" / "kills.py",
            kind,
            "--kills",
            "2",
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
