"""The assignments hold: the reference has full marks, the starter none, and every mistake costs
exactly the check made for it.
"""

import re
import runpy
from dataclasses import replace
from pathlib import Path

import jupytext
import pytest

from perakit.classroom import Grader, Outcome, assignments
from perakit.classroom.assignment import STUB
from perakit.classroom.cells import EXPERIMENT
from perakit.classroom.examination import examine
from perakit.classroom.student import Room, run
from perakit.classroom.submission import parse_percent, to_notebook, to_percent

IDS = list(assignments())
# Mistakes in the reference, in a file for each assignment: (check that fails, old text, new text,
# what the message says). Of a mistake with which several checks cannot hold: a tuple of checks.
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


def several(checks):
    """One check, or a tuple of them, as a tuple."""
    return (checks,) if isinstance(checks, str) else checks


def mutants(*ids, first=False, most=None):
    """The mutants of these assignments as cases; first: one for each check.

    most: more of an assignment's, every so many apart, only `make test-thorough` runs.
    """
    cases, seen = [], set()
    counts = {id: sum(mutant[0] == id for mutant in MUTANTS) for id in IDS}
    starts = {id: min(k for k, mutant in enumerate(MUTANTS) if mutant[0] == id) for id in IDS}
    for k, (id, checks, *mutant) in enumerate(MUTANTS):
        known = (id, *several(checks)) in seen
        seen.add((id, *several(checks)))
        if id in ids and not (first and (known or not isinstance(checks, str))):
            name = "-".join([id, *several(checks), str(k)])
            spare = most is not None and (k - starts[id]) % (counts[id] // most)
            marks = [pytest.mark.long] if spare else []
            cases.append(pytest.param(id, several(checks), *mutant, id=name, marks=marks))
    return pytest.mark.parametrize(("id", "checks", "old", "new", "said"), cases)


# The thorough test below asks as much, and more, of every mistake in all four
@mutants("lora", first=True)
def test_a_mistake_is_caught_by_its_check_in_these_words(id, checks, old, new, said, graded, only):
    only(*checks)
    (outcome,) = graded(mistaken(id, old, new)).outcomes
    assert (outcome.id,) == checks
    assert outcome.said
    assert said in str(outcome)


def concerned(id, old):
    """The checks of the functions that the cell with `old` defines: no function calls another."""
    (cell,) = (cell for cell in assignments()[id].solution() if old in cell.source)
    defined = set(re.findall(r"^(?:def|class) (\w+)", cell.source, flags=re.MULTILINE))
    return [check for check in assignments()[id].checks if defined & set(check.functions)]


@pytest.mark.thorough
@mutants(*IDS, most=22)
@pytest.mark.filterwarnings("ignore")  # as in a student's process
def test_a_mistake_costs_exactly_its_check(id, checks, old, new, said):
    """Here in one process: the mistakes are ours, and there are hundreds."""
    work = run(parse_percent(mistaken(id, old, new)))
    assert not work.problems
    asked = concerned(id, old)
    assert set(checks) <= {check.id for check in asked}
    outcomes = [
        Outcome.of_check(check, examine(check, Room(work, check.seconds).answer)) for check in asked
    ]
    failed = {outcome.id: str(outcome) for outcome in outcomes if outcome.said}
    assert set(failed) == set(checks), "\n".join(failed.values())
    for outcome in failed.values():
        assert said in outcome


@pytest.mark.thorough
@pytest.mark.parametrize("id", IDS)
def test_a_mistake_costs_its_check_of_all(id, graded):
    """One mistake of each assignment, as a student's file, with every check there is."""
    _, checks, old, new, said = next(
        mutant for mutant in MUTANTS if mutant[0] == id and isinstance(mutant[1], str)
    )
    report = graded(mistaken(id, old, new))
    (failed,) = (outcome for outcome in report.outcomes if outcome.said)
    assert failed.id == checks
    assert said in str(failed)
    assert report.points == report.of - failed.of


@pytest.mark.parametrize("id", ["lora", "polynomial"])
def test_the_twenty_commonest_mistakes_are_there_and_each_costs_one_check(id):
    """But for an answer that is missing, or that takes several properties with it."""
    costs = [len(several(mutant[1])) for mutant in MUTANTS if mutant[0] == id]
    assert costs.count(1) >= 20
    assert sum(cost > 1 for cost in costs) <= 0.1 * len(costs)
    assert len({mutant[1:4] for mutant in MUTANTS if mutant[0] == id}) == len(costs)


@pytest.mark.thorough
@pytest.mark.parametrize("id", ["lora", pytest.param("polynomial", marks=pytest.mark.long)])
def test_a_function_that_returns_nothing_gets_nothing_for_its_answer(id, graded):
    """Its checks say so; only those on its arguments and its precision can still hold."""
    text = to_percent(assignments()[id].starter())
    assert text.count(STUB) > 5
    report = graded(text.replace(STUB, "pass"))
    held = {outcome.id for outcome in report.outcomes if not outcome.said}
    assert held <= {"untouched", "precise"}


@pytest.mark.parametrize("id", IDS)
def test_every_check_has_a_mistake_that_it_catches(id):
    found = {mutant[1] for mutant in MUTANTS if mutant[0] == id and isinstance(mutant[1], str)}
    assert {check.id for check in assignments()[id].checks} == found


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
