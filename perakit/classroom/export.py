"""What a teacher and a student take away.

Starters, solutions, and the folders that otter-grader and nbgrader read.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from perakit.classroom.assignment import STUB, Assignment
from perakit.classroom.cells import OTHERS, Cell
from perakit.classroom.checks import Check
from perakit.classroom.submission import to_notebook, to_percent
from perakit.errors import PerakitError
from perakit.files import write_atomically

HIDDEN = '''\
"""Checks of your own for `perakit grade FILE --hidden {id}_hidden.py`.

Keep this file to yourself.
"""

from perakit.classroom import check, expect


@check(0, "an example, worth nothing", "{function}", hint="what to think about")
def example(work):
    expect(callable(work.{function}), "a sentence for the student")
'''
OTTER = """\
from otter.test_files import test_case

from perakit.classroom import require

OK_FORMAT = False

name = {id!r}
points = {points:g}


@test_case(points={points:g}, hidden=False)
def test_{id}({arguments}):
    require({check!r}, {arguments})
"""
WRITTEN = re.compile(r"marked by your teacher, (\d+) points")  # in the heading of a rubric
NBGRADER = """\
c = get_config()
c.CourseDirectory.course_id = "perakit"
c.ClearSolutions.begin_solution_delimeter = "BEGIN SOLUTION"
c.ClearSolutions.end_solution_delimeter = "END SOLUTION"
# As nbgrader's own, but that perakit's grader runs a hand-in, apart from what marks it
c.Autograde.autograde_preprocessors = [
    "perakit.classroom.judged.in_nbgrader",  # in place of nbgrader.preprocessors.Execute
    "nbgrader.preprocessors.IgnorePattern",
    "nbconvert.preprocessors.ClearMetadataPreprocessor",
    "nbgrader.preprocessors.LimitOutput",
    "nbgrader.preprocessors.SaveAutoGrades",
    "nbgrader.preprocessors.AssignLatePenalties",
    "nbgrader.preprocessors.CheckCellMetadata",
]
# For `nbgrader validate`, which runs a notebook in a kernel of its own
c.ExecutePreprocessor.timeout = 120  # seconds a cell: the first one imports PyTorch
c.ExecutePreprocessor.skip_cells_with_tag = "experiment"  # those are the student's own
"""


def new(id: str, folder: str | Path) -> list[Path]:
    """Write what a student begins with, as {id}.py and {id}.ipynb, into `folder`.

    A file that is there is never overwritten.
    """
    task = Assignment.load(id)
    return write(
        Path(folder),
        {f"{id}.py": to_percent(task.starter()), f"{id}.ipynb": to_notebook(task.starter())},
    )


def export(id: str, folder: str | Path) -> list[Path]:
    """Write what a teacher needs into `folder`; a file that is there is never overwritten.

    solution.py and .ipynb; teacher.md with notes, rubric and points; a file for hidden checks;
    otter/ with the starter and its test files; nbgrader/ with a course folder, whose source has
    solutions and points. Returns the paths written. PerakitError where perakit was installed from a
    wheel without solutions.
    """
    task = Assignment.load(id)
    if any(STUB in cell.source for cell in task.cells):
        raise PerakitError(
            "this installation has no reference solutions: export from the one that a teacher has"
        )
    files = {
        f"{id}_solution.py": to_percent(task.solution()),
        f"{id}_solution.ipynb": to_notebook(task.solution()),
        f"{id}_teacher.md": _teacher(task),
        f"{id}_hidden.py": HIDDEN.format(id=id, function=task.checks[0].functions[0]),
        f"otter/{id}.ipynb": to_notebook(_with_otter(task)),
        "otter/otter_config.json": _otter_config(task),
        "nbgrader/nbgrader_config.py": NBGRADER,
        f"nbgrader/source/{id}/{id}.ipynb": _nbgrader(task),
    }
    for check in task.checks:
        arguments = ", ".join(check.functions)
        test = OTTER.format(
            id=check.id, points=check.points, arguments=arguments, check=f"{id}/{check.id}"
        )
        files[f"otter/tests/{check.id}.py"] = test
    return write(Path(folder), files)


def write(folder: Path, files: Mapping[str, str | bytes]) -> list[Path]:
    """Write files by their names in `folder`, each of them whole; their paths.

    PerakitError where one of them is there already, and then nothing is written.
    """
    paths = {folder / name: data for name, data in files.items()}
    there = [str(path) for path in paths if os.path.lexists(path)]
    if there:
        raise PerakitError(
            f"{there[0]!r} is there already: choose another folder, or move your work away; nothing"
            " was written"
        )
    for path, data in paths.items():
        write_atomically(path, data if isinstance(data, bytes) else data.encode())
    return list(paths)


def _teacher(task: Assignment) -> str:
    lines = [
        f"# {task.title}: for the teacher",
        "",
        task.notes(),
        "",
        "## Rubric",
        "",
        task.rubric(),
        "",
        "## Checks",
        "",
    ]
    lines += [
        f"- `{check.id}` ({check.points:g}): {check.title}. Hint after a failure: {check.hint}"
        for check in task.checks
    ]
    return "\n".join([*lines, "", f"Together {task.points:g} points.", ""])


def _with_otter(task: Assignment) -> list[Cell]:
    """The starter, with otter's own lines: one check a cell, at the end."""
    begin = Cell(
        "code",
        f'import otter\n\ngrader = otter.Notebook("{task.id}.ipynb", tests_dir="tests")',
        (OTHERS,),
    )
    return [
        begin,
        *task.starter(),
        *(Cell("code", f'grader.check("{check.id}")', (OTHERS,)) for check in task.checks),
    ]


def _otter_config(task: Assignment) -> str:
    """For `otter generate`: perakit's grader runs a hand-in, apart from what marks it."""
    plugin = {"perakit.classroom.judged.Otter": {"assignment": task.id}}
    return json.dumps({"plugins": [plugin]}, indent=2) + "\n"


def _nbgrader(task: Assignment) -> str:
    """The solution, with a graded cell for each check.

    nbgrader clears what is between the markers.
    """
    cells, metadata = [], []
    for number, cell in enumerate(task.solution()):
        cells.append(cell)
        metadata.append(
            _cell(f"part{number}", solution=True) if "# BEGIN SOLUTION" in cell.source else {}
        )
        if "rubric" in cell.tags and (worth := WRITTEN.search(cell.source)):
            cells.append(Cell("markdown", "*Your answers:*"))
            metadata.append(_cell("written", solution=True, grade=True, points=float(worth[1])))
    for check in task.checks:
        cells.append(Cell("code", _graded(task.id, check), (OTHERS,)))
        metadata.append(_cell(check.id, grade=True, points=check.points))
    return to_notebook(cells, metadata)


def _graded(id: str, check: Check) -> str:
    return (
        f'from perakit.classroom import points\n\npoints("{id}/{check.id}",'
        f" {', '.join(check.functions)})"
    )


def _cell(
    id: str, *, solution: bool = False, grade: bool = False, points: float | None = None
) -> dict[str, Any]:
    """nbgrader's own metadata of a cell; one that is both solution and graded is marked by hand."""
    kind = {
        "schema_version": 3,
        "grade_id": id,
        "grade": grade,
        "solution": solution,
        "locked": grade and not solution,
        "task": False,
    }
    return {"nbgrader": kind | ({"points": points} if points is not None else {})}
