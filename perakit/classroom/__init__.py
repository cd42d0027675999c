"""The classroom: assignments whose checks explain themselves, and a grader.

Nothing that a student writes can stop the grader.
"""

from perakit.classroom.assignment import Assignment, assignments
from perakit.classroom.checks import Check, arrays, check, expect, expect_equal, fail, parts, show
from perakit.classroom.exercises import folded, self_check
from perakit.classroom.export import export, new
from perakit.classroom.grading import Grader, grade, grade_all
from perakit.classroom.kernel import points, require
from perakit.classroom.report import Outcome, Report, marks

__all__ = [
    "Assignment",
    "Check",
    "Grader",
    "Outcome",
    "Report",
    "arrays",
    "assignments",
    "check",
    "expect",
    "expect_equal",
    "export",
    "fail",
    "folded",
    "grade",
    "grade_all",
    "marks",
    "new",
    "parts",
    "points",
    "require",
    "self_check",
    "show",
]
