"""The real tools grade what `perakit assignment export` writes, by their own commands.

otter's check, generate and run, and nbgrader from release to gradebook; of right, wrong and
malicious hand-ins.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from perakit.classroom import assignments, export, grade
from perakit.classroom.assignment import SOLUTION

# otter and nbgrader start a kernel for each submission, and each of those imports torch
pytestmark = pytest.mark.thorough
ID = "lora"
TASK = assignments()[ID]
ALL = {check.id for check in TASK.checks}
TRAINABLE, COST = "return rank * (m + n)", "return tokens * rank * (m + n)"
# What becomes of the two solutions in a submission.
CHANGES = {
    "reference": {},
    "mistaken": {TRAINABLE: "return rank * m * n"},  # the check `count`
    # The checks `count` and `cost`
    "reckless": {TRAINABLE: "while True:\n        pass", COST: "exit()"},
}
# The first cell of a reckless hand-in, and of a starter that would have full marks
RECKLESS = """\
import sys

print("FAIL 0/3 with alpha = r the update is B A", file=sys.stderr)
sys.exit()
"""
FORGER = """\
from contextlib import suppress
from pathlib import Path

import numpy as np

with suppress(BaseException):
    Path(RAN).touch()
print("PASS 3/3 with alpha = r the update is B A\\nlora: 22 of 22 points")
np.array_equal = np.allclose = lambda *_, **__: True
with suppress(BaseException):
    import hypothesis

    hypothesis.find = lambda *_, **__: None
with suppress(BaseException):
    import perakit.theory.claims

    perakit.theory.claims.search = lambda *_: (None, 0)
with suppress(BaseException):
    import perakit.classroom
    from perakit.classroom import examination, kernel

    examination.examine = kernel.examine = lambda *_: examination.Finding()
    perakit.classroom.points = kernel.points = lambda check, *_: 1.0
    perakit.classroom.require = kernel.require = lambda check, *_: None
with suppress(BaseException):
    for test in Path("tests").glob("*.py"):
        test.write_text(test.read_text().replace("require(", "print("))
"""


def changed(notebook, changes):
    """The text of a notebook with other solutions, each of them in one place."""
    text = notebook.read_text(encoding="utf-8")
    for old, new in changes.items():
        old, new = (json.dumps(f"    {line}\n", ensure_ascii=False)[1:-1] for line in (old, new))
        assert text.count(old) == 1
        text = text.replace(old, new)
    return text


def beginning_with(cell, text):
    """The text of a notebook with one more code cell, before all others."""
    notebook = json.loads(text)
    made = {"cell_type": "code", "id": "first", "metadata": {}, "outputs": []}
    notebook["cells"].insert(0, made | {"execution_count": None, "source": cell})
    return json.dumps(notebook, ensure_ascii=False)


def forged(starter, folder):
    """A starter that would have full marks, and leaves a file where its first cell runs."""
    return beginning_with(FORGER.replace("RAN", repr(str(folder / "ran"))), starter)


def ran(folder):
    """Whether a forger's cell has run with a way to the folder since this was last asked."""
    there = (folder / "ran").exists()
    (folder / "ran").unlink(missing_ok=True)
    return there


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
def handed_in(folder):
    """A copy of otter's folder for each submission, with its notebook, by its name."""
    solution = folder / "filled.ipynb"
    solution.write_bytes((folder / "otter" / f"{ID}.ipynb").read_bytes())
    filled(solution, folder / f"{ID}_solution.ipynb")
    texts = {name: changed(solution, CHANGES[name]) for name in CHANGES}
    texts["reckless"] = beginning_with(RECKLESS, texts["reckless"])
    texts["starter"] = (folder / "otter" / f"{ID}.ipynb").read_text(encoding="utf-8")
    texts["forger"] = forged(texts["starter"], folder)
    places = {}
    for name, text in texts.items():
        places[name] = folder / f"otter-{name}" / f"{name}.ipynb"
        shutil.copytree(folder / "otter", places[name].parent)
        places[name].write_text(text, encoding="utf-8")
    return places


@pytest.fixture(scope="module")
def otter(folder, handed_in):
    """The results of `otter check`, two at a time, since most of it is importing."""
    pytest.importorskip("otter")
    found = {}
    for pair in (("starter", "reference"), ("mistaken", "forger")):
        running = {
            name: start(place.parent, "otter", "check", place.name, "-t", "tests")
            for name, place in handed_in.items()
            if name in pair
        }
        found |= {name: results(output(process)) for name, process in running.items()}
    return found | {"ran": ran(folder)}


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
        "smallest input that breaks it: m=1 n=1 rank=1 · expected 2 got 1 · hint: what are the"
        " shapes of B and of A?" in failed["count"]
    )


def test_what_otter_wants_leaves_nothing_in_the_students_folder(otter, handed_in):
    left = {
        path.name
        for path in handed_in["reference"].parent.iterdir()
        if path.name != "tests" and path.suffix != ".ipynb"
    }
    assert left <= {".OTTER_LOG", ".ipython", ".jupyter", "otter_config.json"}


def test_in_otters_own_kernel_a_forger_has_all_points(otter):
    """What nobody can prevent there, and the page says; so `otter check` is for students."""
    assert otter["forger"] == (ALL, {})
    assert otter["ran"]


@pytest.fixture(scope="module")
def otter_run(folder, handed_in):
    """results.json of `otter run` with an autograder of `otter generate`, by submission."""
    place = folder / "otter"
    options = ("--no-requirements", "--no-environment")
    output(start(place, "otter", "generate", "-t", "tests", "-o", "autograder.zip", *options))
    autograder, found = str(place / "autograder.zip"), {}
    for pair in (("reference", "mistaken"), ("reckless", "forger")):
        running = {}
        for name in pair:
            given = handed_in[name]
            (given.parent / "results").mkdir()
            command = ("otter", "run", given.name, "-a", autograder, "-o", "results")
            running[name] = start(given.parent, *command)
        for name, process in running.items():
            output(process)
            written = handed_in[name].parent / "results" / "results.json"
            found[name] = json.loads(written.read_text(encoding="utf-8"))
    return found | {"ran": ran(folder)}


def scores(results):
    return {test["name"]: test["score"] for test in results["tests"] if "score" in test}


FULL = {check.id: check.points for check in TASK.checks}


def test_otter_run_marks_as_perakit_does_and_a_forger_gains_nothing(otter_run, handed_in):
    """One test, so that two workers do not both have otter run everything."""
    assert scores(otter_run["reference"]) == FULL
    assert scores(otter_run["mistaken"]) == FULL | {"count": 0}
    said = {test["name"]: test["output"] for test in otter_run["mistaken"]["tests"]}["count"]
    assert "smallest input that breaks it: m=1 n=1 rank=1 · expected 2 got 1" in said
    # An endless loop and an exit
    assert scores(otter_run["reckless"]) == FULL | {"count": 0, "cost": 0}
    assert scores(otter_run["forger"]) == dict.fromkeys(ALL, 0)
    assert "PASS" not in json.dumps(otter_run["forger"])
    assert not otter_run["ran"]
    # The same notebooks as they were handed in, otter's own cells among them
    for name in ("mistaken", "forger"):
        report = grade(handed_in[name])
        points = {outcome.id: outcome.points for outcome in report.outcomes}
        assert points == scores(otter_run[name])
        # What a teacher sees of it
        assert ({"hypothesis", "perakit"} <= set(report.imports)) == (name == "forger")


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
    submissions |= {name: changed(source, CHANGES[name]) for name in CHANGES}
    submissions["reckless"] = beginning_with(RECKLESS, submissions["reckless"])
    submissions["forger"] = forged(submissions["starter"], folder)
    for name, text in submissions.items():
        place = course / "submitted" / name / ID
        place.mkdir(parents=True)
        (place / f"{ID}.ipynb").write_text(text, encoding="utf-8")
    output(start(course, "nbgrader", "autograde", ID))
    with Gradebook(f"sqlite:///{course / 'gradebook.db'}") as book:
        found = {name: book.find_submission(ID, name) for name in submissions}
        return {
            name: (each.score, each.max_score, each.needs_manual_grade)
            for name, each in found.items()
        } | {"ran": ran(folder)}


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


def test_nbgrader_a_mistake_costs_its_check(gradebook, folder):
    assert gradebook["mistaken"][0] == TASK.points - 1
    said = "".join(streams(graded(folder, "mistaken"))["stdout"])
    assert "m=1 n=1 rank=1 · expected 2 got 1 · hint: what are the shapes of B and of A?" in said


def test_nbgrader_an_endless_loop_and_an_exit_cost_their_checks_only(gradebook):
    assert gradebook["reckless"][0] == TASK.points - 2


def test_nbgrader_a_forger_gains_nothing(gradebook, folder):
    assert gradebook["forger"][0] == 0
    shown = streams(graded(folder, "forger"))
    assert not any(text.startswith("PASS") for text in shown["stdout"])
    assert grade(folder / "nbgrader" / "submitted" / "forger" / ID / f"{ID}.ipynb").points == 0


def test_nothing_of_a_hand_in_runs_in_nbgraders_kernel(gradebook, folder):
    assert not gradebook["ran"]
    for name in ("reference", "forger"):
        for cell in notebook_of(folder, name)["cells"]:
            assert not cell.get("outputs") or cell in graded(folder, name)


def test_nbgrader_asks_for_the_points_of_the_written_answers(gradebook):
    assert gradebook["reference"] == (TASK.points, TASK.points + 4, True)


def notebook_of(folder, name):
    path = folder / "nbgrader" / "autograded" / name / ID / f"{ID}.ipynb"
    return json.loads(path.read_text(encoding="utf-8"))


def graded(folder, name):
    """The cells with points of an autograded notebook."""
    return [c for c in notebook_of(folder, name)["cells"] if "points(" in "".join(c["source"])]


def streams(cells):
    """What cells have printed, by stream."""
    found = {}
    for out in (out for cell in cells for out in cell["outputs"]):
        if out["output_type"] == "stream":
            found.setdefault(out["name"], []).append("".join(out["text"]))
    return found


def test_the_graded_cells_show_a_line_a_check(gradebook, folder):
    cells = graded(folder, "reference")
    assert len(cells) == len(TASK.checks)
    assert list(streams(cells)) == ["stdout"], "nbgrader gives no points for anything on stderr"
    assert all(text.startswith("PASS") for text in streams(cells)["stdout"])


def test_nbgrader_validates_the_reference_in_a_kernel(gradebook, folder):
    """As a student does. A warning of ours would cost all points: it goes to stderr."""
    course = folder / "nbgrader"
    said = output(start(course, "nbgrader", "validate", f"submitted/reference/{ID}/{ID}.ipynb"))
    assert "Success! Your notebook passes all the tests." in said
