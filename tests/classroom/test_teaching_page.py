"""docs/teaching.md shows what the grader really says, and the assignment that it writes out is
one.
"""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from perakit.classroom import Assignment, assignments, export, grade, require
from perakit.classroom.submission import to_percent

ID = "lora"
TASK = assignments()[ID]
PAGE = (Path(__file__).parents[2] / "docs" / "teaching.md").read_text(encoding="utf-8")
BLOCKS = dict(
    zip(
        ("hidden", "own"),
        re.findall(r"^```py\n(.*?)^```$", PAGE, flags=re.DOTALL | re.MULTILINE),
        strict=True,
    )
)
# What the page's two students wrote in place of the reference's update, and the checks whose
# messages it shows.
UPDATE = "return alpha / A.shape[0] * (B @ A)"
MERGE = "return (W0.astype(np.float64) + delta).astype(W0.dtype)"
STUDENTS = [
    ("return alpha / B.shape[0] * (B @ A)", MERGE, "W0 += delta\n    return W0", 30, 33),
    ("return (alpha / A.shape[0]) ** 2 * (B @ A)", "", "", 31, 35),
]


@pytest.mark.parametrize(
    ("update", "old", "new", "points", "of"), STUDENTS, ids=["first", "hidden"]
)
def test_the_page_shows_what_the_grader_says(update, old, new, points, of, tmp_path):
    text = to_percent(TASK.solution())
    assert (text.count(UPDATE), not old or text.count(old)) == (1, 1)
    (tmp_path / "work.py").write_text(
        text.replace(UPDATE, update).replace(old or "\0", new), encoding="utf-8"
    )
    (tmp_path / "hidden.py").write_text(BLOCKS["hidden"], encoding="utf-8")
    report = grade(tmp_path / "work.py", hidden=tmp_path / "hidden.py" if of == 35 else None)
    shown = [line for line in str(report).splitlines() if line in PAGE.splitlines()]
    assert (report.points, report.of) == (points, of)
    assert shown[-1] == f"{ID}: {points} of {of} points"
    failed = [str(outcome) for outcome in report.outcomes if outcome.said]
    assert sum(line in shown for line in failed) == 2


def test_the_page_lists_the_assignments_that_there_are():
    said = subprocess.run(
        [sys.executable, "-m", "perakit", "assignment", "list"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert said in PAGE
    for task in assignments().values():
        written = re.search(r"marked by your teacher, (\d+) points", task.rubric())[1]
        assert f"| `{task.id}` | {len(task.checks)}, {task.points:g} + {written} |" in PAGE


def test_the_assignment_on_the_page_is_one(tmp_path, monkeypatch):
    monkeypatch.setattr("perakit.classroom.assignment.FOLDER", tmp_path)
    (tmp_path / "week5_traces.py").write_text(BLOCKS["own"], encoding="utf-8")
    try:
        task = assignments()["traces"]
        assert (task.title, task.points) == ("Traces", 2)
        assert len(export("traces", tmp_path / "teacher")) == 9
        require("traces/trace", lambda B, A: np.sum(B * A.T))
        with pytest.raises(AssertionError, match="smallest input that breaks it: B="):
            require("traces/trace", lambda B, A: np.sum(B * A.T) + A[0, 0])
    finally:
        Assignment.load.cache_clear()


def test_the_page_has_the_table_of_the_attacks():
    table = (Path(__file__).with_name("attacks") / "table.md").read_text(encoding="utf-8")
    missing = [line for line in table.splitlines() if line[:1] in ("|", "-") and line not in PAGE]
    assert missing == []
    counts = [int(line.split("|")[2]) for line in table.splitlines()[2:] if line[:1] == "|"]
    assert f"We have tried {sum(counts)} attacks" in PAGE
