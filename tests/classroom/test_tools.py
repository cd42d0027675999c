"""The real tools grade what `perakit assignment export` writes: otter's check, and nbgrader from
release to gradebook.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from perakit.classroom import assignments, export
from perakit.classroom.assignment import SOLUTION

# otter and nbgrader start a kernel for each submission, and each of those imports torch
pytestmark = pytest.mark.thorough
ID = "lora"
TASK = assignments()[ID]
TRAINABLE, COST = "return rank * (m + n)", "return tokens * rank * (m + n)"
# What becomes of the two solutions in a submission.
CHANGES = {
    "reference": {},
    "mistaken": {TRAINABLE: "return rank * m * n"},  # the check `count`
    # The checks `count` and `cost`
    "reckless": {TRAINABLE: "while True:\n        pass", COST: "exit()"},
}


def changed(notebook, changes):
    """The text of a notebook with other solutions, each of them in one place."""
    text = notebook.read_text(encoding="utf-8")
    for old, new in changes.items():
        old, new = (json.dumps(f"    {line}\n", ensure_ascii=False)[1:-1] for line in (old, new))
        assert text.count(old) == 1
        text = text.replace(old, new)
    return text


def filled(starter, solution):
    """A starter's notebook in which the student has written the reference's solutions."""
    cells = {
        cell["source"][0]: cell["source"]
        for cell in json.loads(solution.read_text(encoding="utf-8"))["cells"]
    }
    notebook = json.loads(starter.read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        if "raise NotImplementedError" in "".join(cell["source"]) and cell["cell_type"] == "code":
            cell["source"] = cells[cell["source"][0]]
    starter.write_text(json.dumps(notebook, ensure_ascii=False), encoding="utf-8")


def start(folder, *command):
    """One of the tools, as a teacher would run it in a shell, without the settings of whoever runs
    the tests.
    """
    settings = {
        "JUPYTER_CONFIG_DIR": str(folder / ".jupyter"),
        "IPYTHONDIR": str(folder / ".ipython"),
    }
    # nbgrader looks for `alembic` on the path: the environment is active in a teacher's shell, not
    # in that of make test.
    settings["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = (
        os.environ
        | settings
        | {
            "OMP_NUM_THREADS": "1",
            "PYTHONIOENCODING": "utf-8",
            "MPLBACKEND": "Agg",
        }
    )
    given = {
        "stdout": subprocess.PIPE,
        "stderr": subprocess.STDOUT,
        "text": True,
        "encoding": "utf-8",
    }
    return subprocess.Popen([sys.executable, "-m", *command], cwd=folder, env=environment, **given)


def output(process):
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    return said


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    found = tmp_path_factory.mktemp("teacher")
    export(ID, found)
    return found


# --- otter ----------------------------------------------------------------------------------------


def results(said):
    """Which checks otter says have passed, and which have failed with which message."""
    if "All tests passed!" in said:
        return {check.id for check in TASK.checks}, {}
    passed, failed, name = set(), {}, ""
    for line in said.splitlines():
        name = line.split(" results:")[0] if " results:" in line else name
        if "All test cases passed!" in line:
            passed.add(name)
        if "AssertionError: " in line:
            failed[name] = line.partition("AssertionError: ")[2]
    return passed, failed


@pytest.fixture(scope="module")
def otter(folder):
    """The results of `otter check` for the starter and for each submission; all at once, since most
    of it is importing.
    """
    pytest.importorskip("otter")
    place = folder / "otter"
    processes = {"starter": start(place, "otter", "check", f"{ID}.ipynb", "-t", "tests")}
    (place / "filled.ipynb").write_bytes((place / f"{ID}.ipynb").read_bytes())
    filled(place / "filled.ipynb", folder / f"{ID}_solution.ipynb")
    for name in ("reference", "mistaken"):
        (place / f"{name}.ipynb").write_text(
            changed(place / "filled.ipynb", CHANGES[name]), encoding="utf-8"
        )
        processes[name] = start(place, "otter", "check", f"{name}.ipynb", "-t", "tests")
    return {name: results(output(process)) for name, process in processes.items()}


ALL = {check.id for check in TASK.checks}


def test_otter_passes_the_reference(otter):
    assert otter["reference"] == (ALL, {})


def test_otter_fails_the_starter_in_every_check_and_says_why(otter):
    passed, failed = otter["starter"]
    assert passed == set()
    assert set(failed) == ALL
    assert all("is not written yet" in said for said in failed.values())


def test_otter_shows_the_smallest_input_that_breaks_a_function(otter):
    passed, failed = otter["mistaken"]
    assert passed == ALL - {"count"}
    assert (
        "smallest input that breaks it: m=1 n=1 rank=1 · expected 2 got 1 · hint: B has m r entries"
        in failed["count"]
    )


def test_what_otter_wants_leaves_nothing_in_the_students_folder(otter, folder):
    left = {
        path.name
        for path in (folder / "otter").iterdir()
        if path.name != "tests" and path.suffix != ".ipynb"
    }
    assert left <= {".OTTER_LOG", ".ipython", ".jupyter"}


# --- nbgrader -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def gradebook(folder):
    """Scores and hand-marked points from nbgrader's gradebook, after release and autograding."""
    pytest.importorskip("nbgrader")
    from nbgrader.api import Gradebook

    course = folder / "nbgrader"
    output(start(course, "nbgrader", "generate_assignment", ID))
    source, release = (course / name / ID / f"{ID}.ipynb" for name in ("source", "release"))
    submissions = {"starter": release.read_text(encoding="utf-8")}
    submissions |= {name: changed(source, CHANGES[name]) for name in ("reference", "reckless")}
    for name, text in submissions.items():
        place = course / "submitted" / name / ID
        place.mkdir(parents=True)
        (place / f"{ID}.ipynb").write_text(text, encoding="utf-8")
    output(start(course, "nbgrader", "autograde", ID))
    with Gradebook(f"sqlite:///{course / 'gradebook.db'}") as book:
        return {
            name: (found.score, found.max_score, found.needs_manual_grade)
            for name in submissions
            for found in [book.find_submission(ID, name)]
        }


def test_nbgrader_releases_no_solution(gradebook, folder):
    text = (folder / "nbgrader" / "release" / ID / f"{ID}.ipynb").read_text(encoding="utf-8")
    assert "SOLUTION" not in text
    solutions = [
        line
        for cell in TASK.cells
        for found in SOLUTION.finditer(cell.source)
        for line in found[2].splitlines()
    ]
    assert [line for line in solutions if json.dumps(line, ensure_ascii=False)[1:-1] in text] == []


def test_nbgrader_gives_the_reference_all_points_and_the_starter_none(gradebook):
    assert gradebook["reference"][0] == TASK.points
    assert gradebook["starter"][0] == 0


def test_nbgrader_an_endless_loop_and_an_exit_cost_their_checks_only(gradebook):
    assert gradebook["reckless"][0] == TASK.points - 2


def test_nbgrader_asks_for_the_points_of_the_written_answers(gradebook):
    assert gradebook["reference"] == (TASK.points, TASK.points + 4, True)


def test_the_graded_cells_are_silent_but_for_the_outcome(gradebook, folder):
    """nbgrader gives no points to a cell that writes to stderr, so no warning of ours may go
    there.
    """
    notebook = json.loads(
        (folder / "nbgrader" / "autograded" / "reference" / ID / f"{ID}.ipynb").read_text(
            encoding="utf-8"
        )
    )
    graded = [cell for cell in notebook["cells"] if "points(" in "".join(cell["source"])]
    streams = [
        out.get("name")
        for cell in graded
        for out in cell["outputs"]
        if out["output_type"] == "stream"
    ]
    assert len(streams) >= len(TASK.checks)
    assert set(streams) == {"stdout"}


def test_experiments_are_not_run_while_nbgrader_grades(gradebook, folder):
    notebook = json.loads(
        (folder / "nbgrader" / "autograded" / "reference" / ID / f"{ID}.ipynb").read_text(
            encoding="utf-8"
        )
    )
    experiments = [
        cell
        for cell in notebook["cells"]
        if "experiment" in cell["metadata"].get("tags", []) and "nbgrader" not in cell["metadata"]
    ]
    assert len(experiments) >= 2
    assert not any(cell["outputs"] for cell in experiments)
