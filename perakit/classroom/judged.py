"""otter-grader and nbgrader with perakit's own judge: a hand-in never runs in their kernel.

Both run a hand-in and its checks in one kernel, where the one can change the other. What
`perakit assignment export` writes has them call these instead, and then keep the books. The names
are in `otter/otter_config.json` and `nbgrader/nbgrader_config.py`.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

import nbformat

from perakit.classroom.grading import grade
from perakit.classroom.report import Report
from perakit.errors import PerakitError

# What otter's kernel runs in place of a submission: there its tests find no checker, and soon end
NOTHING = """\
import sys
import types

sys.modules["perakit.classroom"] = types.SimpleNamespace(require=None)
"""
GRADED = re.compile(r'^points\("(\w+)/(\w+)",', re.MULTILINE)  # what an exported cell says


def judged(path: str | Path, assignment: str) -> Report:
    """The report of one hand-in, also where it cannot be graded.

    path: a .py or .ipynb file; assignment: its id, whatever the file says.
    """
    try:
        return grade(path, assignment)
    except PerakitError as error:
        return Report(str(path), assignment, error=str(error))


class Otter:
    """A plugin of otter-grader for `otter run`: the marks of its tests are those of `judged`.

    path: of the submission; metadata: not used; config: {"assignment": id}.
    Source: otter-grader.readthedocs.io/en/latest/plugins/creating_plugins.html.
    """

    def __init__(self, path: str, metadata: dict[str, Any], config: dict[str, Any]) -> None:
        self.path, self.assignment = path, config["assignment"]

    def before_execution(self, submission: Any) -> Any:
        """What otter's kernel runs in place of the submission: `NOTHING` of it."""
        cells = [nbformat.v4.new_code_cell(NOTHING)]
        return nbformat.v4.new_notebook(cells=cells, metadata=submission.metadata)

    def after_grading(self, results: Any) -> None:
        """Each test has passed if its check has, whatever happened in the kernel."""
        report = judged(self.path, self.assignment)
        outcomes = {outcome.id: outcome for outcome in report.outcomes}
        for name, test in results.results.items():
            for case in test.test_case_results:
                case.passed = name in outcomes and not outcomes[name].said
                case.message = str(outcomes.get(name, report))


def in_nbgrader(notebook: Any, resources: Any) -> tuple[Any, Any]:
    """A preprocessor of nbgrader's autograde: the graded cells show what `judged` says.

    It stands in the place of nbgrader's Execute. Returns the notebook, changed, and resources.
    """
    # nbgrader has written these cells again, so that they are the teacher's
    cells = [
        (cell, found[1], found[2])
        for cell in notebook.cells
        if "nbgrader" in cell.metadata and cell.metadata.nbgrader.get("grade")
        if (found := GRADED.search(cell.source))
    ]
    if cells:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "submission.ipynb"
            path.write_text(nbformat.writes(notebook), encoding="utf-8")
            report = judged(path, cells[0][1])
        outcomes = {outcome.id: outcome for outcome in report.outcomes}
        for cell, _, check in cells:
            said, points = str(outcomes.get(check, report)), 0.0
            if check in outcomes:
                points = float(outcomes[check].points)
            cell.outputs = [
                nbformat.v4.new_output("stream", name="stdout", text=f"{said}\n"),
                nbformat.v4.new_output("execute_result", {"text/plain": repr(points)}),
            ]
    return notebook, resources
