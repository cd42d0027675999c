"""The assignments hold: the reference has full marks, the starter none, and every mistake costs
exactly the check made for it.
"""

import runpy
from dataclasses import replace
from pathlib import Path

import jupytext
import pytest

from perakit.classroom import Grader, assignments
from perakit.classroom.cells import EXPERIMENT
from perakit.classroom.student import run
from perakit.classroom.submission import to_notebook, to_percent

IDS = list(assignments())
# Mistakes in the reference, in a file for each assignment: (check that fails, old text, new text,
# what the message says).
MUTANTS = [
    (id, *mutant)
    for id in IDS
    for mutant in runpy.run_path(str(Path(__file__).with_name("mutants") / f"{id}.py"))["MUTANTS"]
]


@pytest.fixture(scope="module")
def grader():
    with Grader() as grader:
        yield grader


@pytest.fixture
def graded(grader, tmp_path):
    def grade(text, name="work.py"):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        report = grader.grade(path)
        assert path.read_text(encoding="utf-8") == text, "the grader changed a submission"
        return report

    return grade


def test_there_are_four_for_four_weeks():
    assert IDS == ["lora", "polynomial", "expressiveness", "comparison"]


@pytest.mark.parametrize(
    ("write", "name"),
    [(to_percent, "work.py"), pytest.param(to_notebook, "work.ipynb", marks=pytest.mark.thorough)],
    ids=["script", "notebook"],
)
@pytest.mark.parametrize("id", IDS)
def test_the_reference_has_full_marks_as_a_script_and_as_a_notebook(id, write, name, graded):
    task = assignments()[id]
    report = graded(write(task.solution()), name)
    assert [outcome.said for outcome in report.outcomes if outcome.said] == []
    assert report.points == report.of == task.points
    assert not report.problems


@pytest.mark.parametrize("id", IDS)
def test_the_starter_has_none_and_every_message_says_so(id, graded):
    report = graded(to_percent(assignments()[id].starter()))
    assert report.points == 0
    assert not report.problems
    for outcome in report.outcomes:
        assert "is not written yet" in outcome.said, outcome


def mistaken(id, old, new):
    """The reference with a mistake."""
    text = to_percent(assignments()[id].solution())
    assert text.count(old) == 1, "the mistake is made in one place"
    return text.replace(old, new)


def mutants(*ids):
    """The mutants of these assignments as cases."""
    return pytest.mark.parametrize(
        ("id", "check", "old", "new", "said"),
        [
            pytest.param(*mutant, id=f"{mutant[0]}-{mutant[1]}-{k}")
            for k, mutant in enumerate(MUTANTS)
            if mutant[0] in ids
        ],
    )


# The thorough test below asks as much, and more, of all four
@mutants("lora", "polynomial")
def test_a_mistake_is_caught_by_its_check_in_these_words(id, check, old, new, said, graded, only):
    only(check)
    (outcome,) = graded(mistaken(id, old, new)).outcomes
    assert outcome.id == check
    assert outcome.said
    assert said in str(outcome)


@pytest.mark.thorough
@mutants(*IDS)
def test_a_mistake_costs_exactly_its_check(id, check, old, new, said, graded):
    task = assignments()[id]
    report = graded(mistaken(id, old, new))
    failed = {outcome.id: outcome for outcome in report.outcomes if outcome.said}
    assert list(failed) == [check], "\n".join(map(str, failed.values()))
    assert said in str(failed[check])
    assert report.points == task.points - failed[check].of


@pytest.mark.parametrize("id", IDS)
def test_every_check_has_a_mistake_that_it_catches(id):
    assert {check.id for check in assignments()[id].checks} == {
        mutant[1] for mutant in MUTANTS if mutant[0] == id
    }


@pytest.mark.parametrize("id", IDS)
def test_what_a_student_gets_is_what_jupytext_reads_and_has_no_answers(id):
    starter = assignments()[id].starter()
    for text in (to_percent(starter), to_notebook(starter)):
        assert "SOLUTION" not in text
        assert "instructor" not in text
    theirs = jupytext.reads(to_percent(starter), fmt="py:percent").cells
    assert [(cell.cell_type, cell.source) for cell in theirs] == [
        (cell.kind, cell.source.strip()) for cell in starter
    ]


@pytest.mark.parametrize("id", IDS)
def test_each_has_a_rubric_notes_and_hints(id):
    task = assignments()[id]
    assert "| points |" in task.rubric()
    assert len(task.notes()) > 400
    assert all(check.hint and check.points > 0 for check in task.checks)
    assert not any("instructor" in cell.tags for cell in task.solution())


@pytest.mark.parametrize(
    "id",
    [
        # Its experiment trains models
        pytest.param(id, marks=pytest.mark.thorough if id == "comparison" else [])
        for id in IDS
    ],
)
def test_the_reference_runs_from_top_to_bottom_experiments_too(id, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cells = [
        replace(cell, tags=tuple(tag for tag in cell.tags if tag != EXPERIMENT))
        for cell in assignments()[id].solution()
    ]
    assert run(cells).problems == []
