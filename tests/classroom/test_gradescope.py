"""`Report.gradescope()` is a results.json as Gradescope documents it.

The form is that of gradescope-autograders.readthedocs.io/en/latest/specs (sections "Output format",
"Controlling test case visibility", "Test case status", "Output string formatting"): all fields are
optional but a score, at the top or in every test.
"""

import json
import math
from dataclasses import replace

import pytest

from perakit import cli
from perakit.classroom import Outcome, Report

VISIBILITY = {"hidden", "after_due_date", "after_published", "visible"}
FORMATS = {"text", "html", "simple_format", "md", "ansi"}


def number(value):
    return type(value) in (int, float) and math.isfinite(value)


def text(value):
    return isinstance(value, str)


def one_of(*words):
    return lambda value: isinstance(value, str) and value in words


def texts(value):
    return isinstance(value, list) and all(map(text, value))


def anything(value):
    return isinstance(value, dict)


def cases(value):
    return isinstance(value, list) and not any(problems(test, TEST) for test in value)


def board(value):
    return isinstance(value, list) and not any(problems(row, ROW) for row in value)


TOP = {
    "score": number,
    "execution_time": number,
    "output": text,
    "output_format": one_of(*FORMATS),
    "test_output_format": one_of(*FORMATS),
    "test_name_format": one_of(*FORMATS),
    "visibility": one_of(*VISIBILITY),
    "stdout_visibility": one_of(*VISIBILITY),
    "extra_data": anything,
    "tests": cases,
    "leaderboard": board,
}
TEST = {
    "score": number,
    "max_score": number,
    "status": one_of("passed", "failed"),
    "name": text,
    "name_format": one_of(*FORMATS),
    "number": text,
    "output": text,
    "output_format": one_of(*FORMATS),
    "tags": texts,
    "visibility": one_of(*VISIBILITY),
    "extra_data": anything,
}
ROW = {"name": text, "value": lambda value: number(value) or text(value), "order": one_of("asc")}


def problems(value, form):
    """What is not as the form says."""
    if not isinstance(value, dict):
        return [f"{value!r} is no object"]
    unknown = [f"{name} is no field" for name in value if name not in form]
    return unknown + [
        f"{name}: {value[name]!r}"
        for name, right in form.items()
        if name in value and not right(value[name])
    ]


def wrong(results):
    """Everything that Gradescope would not take, of results as they are read from a file."""
    found = problems(results, TOP)
    given = results.get("tests")
    scored = isinstance(given, list) and given and all("score" in test for test in given)
    return found + ([] if "score" in results or scored else ["there is no score"])


def as_written(report):
    """What Gradescope reads, once it was a file of JSON; NaN and the like are none."""
    return json.loads(json.dumps(report.gradescope(), allow_nan=False).encode("utf-8"))


RIGHT = Outcome("product", "with alpha = r the update is B A", 3, 3)
FAILED = Outcome("scaling", "scaling is alpha/r", 0, 2, "expected [[1.]] got [[2.]]", "a hint")
HIDDEN = Outcome("doubled", "twice the alpha", 2, 2, hidden=True)
ODD = "\ud800 \x1b[2J \x00 \u202e </pre><script> ñ 𝔸 \r\n PASS 2/2"
REPORTS = {
    "full marks": Report("ada.py", "lora", [RIGHT]),
    "none": Report("ada.py", "lora", [FAILED]),
    "half points": Report("ada.py", "lora", [replace(RIGHT, points=0.5, of=0.5)]),
    "hidden": Report("ada.py", "lora", [RIGHT, HIDDEN, replace(HIDDEN, points=0, said="no")]),
    "problems": Report("ada.py", "lora", [FAILED], ["line 3 is not Python"], ["peft"], 9, "a file"),
    "not graded": Report("ada.py", error="cannot read 'ada.py'"),
    "odd": Report(ODD, "lora", [replace(FAILED, said=ODD)], [ODD], [ODD], refused=ODD),
    "odd error": Report("ada.py", error=ODD),
}


@pytest.mark.parametrize("which", REPORTS)
def test_a_report_has_the_documented_form(which):
    assert wrong(as_written(REPORTS[which])) == []


@pytest.mark.parametrize("which", REPORTS)
def test_the_score_is_the_sum_of_the_tests(which):
    results = as_written(REPORTS[which])
    assert results["score"] == sum(test["score"] for test in results["tests"])
    assert all(0 <= test["score"] <= test["max_score"] for test in results["tests"])


def test_hidden_checks_are_seen_once_the_marks_are_published():
    results = as_written(REPORTS["hidden"])
    seen = [test["visibility"] for test in results["tests"]]
    assert seen == ["visible", "after_published", "after_published"]


def test_a_file_that_is_not_graded_has_no_points_and_says_why():
    results = as_written(REPORTS["not graded"])
    assert (results["score"], results["tests"]) == (0, [])
    assert "cannot read 'ada.py'" in results["output"]


def strings(value):
    if isinstance(value, dict | list):
        inner = value.values() if isinstance(value, dict) else value
        return [text for entry in inner for text in strings(entry)]
    return [value] if isinstance(value, str) else []


@pytest.mark.parametrize("which", ["odd", "odd error"])
def test_what_a_student_wrote_is_escaped_and_stays_in_its_line(which):
    shown = strings(as_written(REPORTS[which]))
    assert any("script" in line for line in shown), "the odd text is in it"
    for line in shown:
        line.encode("utf-8")  # a lone surrogate has no bytes
        assert all(character.isprintable() or character == "\n" for character in line)
        assert "\n PASS" not in line


@pytest.mark.parametrize("which", REPORTS)
def test_what_a_student_wrote_is_text_and_no_html(which):
    """By default the output at the top is HTML, and that of a test is text."""
    results = as_written(REPORTS[which])
    assert results["output_format"] == "text"
    formats = [test.get("output_format", "text") for test in results["tests"]]
    assert {*formats, results.get("test_output_format", "text")} == {"text"}


def test_the_command_writes_such_a_file(tmp_path, monkeypatch):
    """For a file that cannot be graded too: Gradescope shows a student nothing else."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "work.py").write_text("# perakit assignment `none`\n")
    assert cli.main(["grade", "work.py", "--gradescope", "results.json"]) == 2
    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert wrong(results) == []
    assert results["score"] == 0


# --- the form itself ------------------------------------------------------------------------------

EXAMPLE = {
    "score": 44.0,
    "execution_time": 136,
    "output": "Text relevant to the entire submission",
    "output_format": "simple_format",
    "test_output_format": "text",
    "test_name_format": "text",
    "visibility": "after_due_date",
    "stdout_visibility": "visible",
    "extra_data": {},
    "tests": [{"score": 2.0, "max_score": 2.0, "status": "passed", "number": "1.1", "tags": ["a"]}],
    "leaderboard": [
        {"name": "Accuracy", "value": 0.926},
        {"name": "Time", "value": 15.1, "order": "asc"},
        {"name": "Stars", "value": "*****"},
    ],
}
BROKEN = [
    {"score": "44"},
    {"score": True},
    {"score": None},
    {"score": float("nan")},
    {"visibility": "shown"},
    {"stdout_visibility": "never"},
    {"output_format": "markdown"},
    {"output": ["a", "b"]},
    {"extra_data": []},
    {"points": 44},
    {"tests": {}},
    {"tests": [[]]},
    {"tests": [{"score": 1, "status": "pass"}]},
    {"tests": [{"score": 1, "number": 1}]},
    {"tests": [{"score": 1, "max_score": "2"}]},
    {"tests": [{"score": 1, "visibility": "after published"}]},
    {"tests": [{"score": 1, "title": "x"}]},
    {"leaderboard": [{"name": "Time", "value": 1, "order": "up"}]},
]


def test_the_documents_own_example_has_the_form():
    assert wrong(EXAMPLE) == []
    assert wrong({"tests": [{"score": 1}]}) == []


@pytest.mark.parametrize("part", BROKEN, ids=map(repr, BROKEN))
def test_what_is_not_documented_has_not(part):
    assert wrong(EXAMPLE | part) != []


@pytest.mark.parametrize("results", [{}, {"tests": []}, {"tests": [{"score": 1}, {}]}])
def test_there_is_a_score_somewhere(results):
    assert wrong(results) == ["there is no score"]
