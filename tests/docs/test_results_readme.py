"""docs/results/README.md, executed: its row comes out again, its experiment runs."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from perakit.experiments.jobs import HAS, MAY_HAVE, ledgers, read

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/results/README.md").read_text()
ROW, EXPERIMENT = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)


def run(code, folder):
    """The output of a block, saved as a file and run in `folder`."""
    (folder / "block.py").write_text(code)
    done = subprocess.run(
        [sys.executable, "block.py"],
        cwd=folder,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_page_explains_every_field_of_a_row():
    explained = set(re.findall(r"`(\w+)`", PAGE))
    assert explained >= HAS | MAY_HAVE | {"sha"}
    roles = {row["role"] for path in ledgers(ROOT / "docs/results") for row in read(path)[1]}
    assert {"tuning", "judged", "other"} <= roles


def test_a_row_comes_out_again(tmp_path):
    (tmp_path / "docs/results").mkdir(parents=True)
    shutil.copy(ROOT / "docs/results/function.jsonl", tmp_path / "docs/results")
    found, stored = map(eval, run(ROW, tmp_path).splitlines())
    assert found == pytest.approx(stored, rel=1e-5)


@pytest.mark.thorough  # nine trainings, in processes of their own
def test_the_experiment_of_the_page_runs(tmp_path):
    run(EXPERIMENT, tmp_path)
    page = (tmp_path / "mine/mine.md").read_text()
    assert "# Where to adapt" in page
    assert "| LoRA on q, k, v | " in page
    assert "**Small setting**" in page
    assert (tmp_path / "mine/mine.png").stat().st_size > 1000
    header, *rows = map(json.loads, (tmp_path / "mine/mine.jsonl").read_text().splitlines())
    assert header["options"]["small"] is True
    assert {row["label"] for row in rows} == {"unadapted", "LoRA", "LoRA on q, k, v"}
