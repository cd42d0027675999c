"""The classroom: assignments whose checks explain themselves, and a grader.

Nothing that a student writes can stop the grader.
"""

from perakit.classroom.assignment import Assignment, assignments
from perakit.classroom.checks import Check, arrays, check, expect, expect_equal, fail, parts, show
from perakit.classroom.export import export, new
from perakit.classroom.grading import Grader, Outcome, Report, grade, marks, points, require

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
    "grade",
    "marks",
    "new",
    "parts",
    "points",
    "require",
    "show",
]
