"""The grader: whatever a submission does costs only the checks of the function that does it, and
its file stays as it is.
"""

import json
import os
import subprocess
import sys
import time
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import strategies as st

import perakit as pk
from perakit import cli
from perakit.classroom import (
    Grader,
    arrays,
    assignments,
    check,
    expect_equal,
    grade,
    marks,
    points,
    require,
)
from perakit.classroom.assignment import hidden_checks
from perakit.classroom.cells import Cell
from perakit.classroom.checks import Check, show, show_arguments
from perakit.classroom.examination import examine
from perakit.classroom.student import Room, Work, run
from perakit.classroom.submission import parse_percent, to_notebook, to_percent

LORA = assignments()["lora"]
REFERENCE = to_percent(LORA.solution())
COUNT = "    return rank * (m + n)\n"  # the body of one function, on which one check depends


@pytest.fixture(scope="module")
def grader():
    with Grader() as grader:
        yield grader


# Checks before and after `count`, of another function each: quick ones, to be asked beside it.
BESIDE = ("seeded", "count", "forward_factored")


@pytest.fixture(params=["some", pytest.param("all", marks=pytest.mark.long)])
def graded(request, grader, tmp_path, only):
    """Grade the reference with another body for `trainable`; its file is read, never written.

    Once by `BESIDE` and the checks in `also`, and once by all there are.
    """

    def grade(body, text=REFERENCE, name="work.py", also=()):
        if request.param == "some":
            only(*BESIDE, *also)
        assert text.count(COUNT) == 1
        path = tmp_path / name
        path.write_text(text.replace(COUNT, body), encoding="utf-8")
        before = path.stat().st_mtime_ns, sorted(tmp_path.iterdir())
        report = grader.grade(path)
        assert (path.stat().st_mtime_ns, sorted(tmp_path.iterdir())) == before
        return report

    return grade


def failures(report):
    return {outcome.id: outcome.said for outcome in report.outcomes if outcome.said}


ACCIDENTS = {
    "endless loop": (
        "    while True:\n        pass\n",
        "it did not finish within 6 s: an endless loop, or a sleep?",
    ),
    "sleep": (
        "    import time\n    time.sleep(1000)\n",
        "it did not finish within 6 s: an endless loop, or a sleep?",
    ),
    "print storm": (
        "    while True:\n        print('x' * 1000)\n",
        "it prints or writes without end",
    ),
    "huge array": (
        "    return np.ones((10**6, 10**6))\n",
        "it asks for more memory than a check may use",
    ),
    "growing list": (
        "    x = []\n    while True:\n        x.append('a' * 10**8)\n",
        "it asks for more memory than a check may use",
    ),
    "exit": ("    exit()\n", "it calls exit(), which ends Python: return instead (line "),
    "hard exit": (
        "    import os\n    os._exit(0)\n",
        "it ended the Python process (os._exit): return instead",
    ),
    "crash": ("    import ctypes\n    ctypes.string_at(0)\n", "it made Python crash (SIGSEGV)"),
    "fork": ("    import os\n    os.fork()\n" + COUNT, "it starts another process (os.fork)"),
    "program": (
        "    import subprocess\n    subprocess.run(['true'])\n",
        "it starts another program (subprocess)",
    ),
    "shell": (
        "    import os\n    os.system('true')\n" + COUNT,
        "it starts another program (os.system)",
    ),
    "network": (
        "    import socket\n    socket.create_connection(('127.0.0.1', 9))\n",
        "it uses the network",
    ),
    "datagram": (
        (
            "    import socket\n    socket.socket(type=socket.SOCK_DGRAM).sendto(b'', ('127.0.0.1',"
            " 9))\n"
        ),
        "it uses the network",
    ),
    "question": (
        "    return int(input('rank? '))\n",
        "it raises EOFError: EOF when reading a line (line ",
    ),
    "recursion": ("    return trainable(m, n, rank)\n", "it calls itself without end"),
    "exception": ("    return rank / 0\n", "it raises ZeroDivisionError: division by zero (line "),
    "no return": ("    rank * (m + n)\n", "expected 2 got None: is a `return` missing?"),
    "text": ("    return 'many'\n", "expected 2 got str 'many'"),
    "nan": ("    return float('nan')\n", "expected 2 got nan"),
    "shape": (
        "    return [rank * (m + n)] * 2\n",
        "expected 2 of shape () got [2, 2] of shape (2,)",
    ),
    "memory": (
        "    CALLS.append(0)\n    return rank * (m + n) + len(CALLS) % 2\n\nCALLS = []\n",
        "gives two answers for the same input",
    ),
    "hidden behind except": (
        "    try:\n        import os\n        os.fork()\n    except OSError:\n        pass\n"
        + COUNT,
        "os.fork",
    ),
}


# "sleep" and the next test wait for 12 and 14 seconds; an endless loop is over after 6
@pytest.mark.parametrize(
    "accident",
    [
        pytest.param(accident, marks=pytest.mark.thorough if accident == "sleep" else [])
        for accident in ACCIDENTS
    ],
)
def test_an_accident_costs_only_its_check_and_is_said_in_a_sentence(accident, graded):
    body, said = ACCIDENTS[accident]
    start = time.monotonic()
    report = graded(body)
    assert list(failures(report)) == ["count"]
    assert said in failures(report)["count"]
    assert "ForbiddenError" not in str(report)
    assert time.monotonic() - start < 60, "a loop or a sleep ends after some seconds"


@pytest.mark.thorough
def test_a_loop_that_catches_everything_is_killed(graded):
    body = (
        "    while True:\n        try:\n            while True:\n                pass\n       "
        " except BaseException:\n            pass\n"
    )
    said = failures(graded(body))
    assert list(said) == ["count"]
    assert "within 6 s" in said["count"] or "could not be interrupted" in said["count"]


def test_printing_costs_nothing_and_is_not_shown(graded):
    report = graded("    print('looking at', m)\n" + COUNT)
    assert not failures(report)
    assert "looking at" not in str(report)
    assert "note: your file prints while it is graded; that costs nothing" in str(report)


@pytest.mark.parametrize(
    "body",
    [
        "    open({path!r}, 'w')\n",
        "    import os\n    os.remove({path!r})\n",
        "    import os\n    os.rename({path!r}, 'x')\n",
        "    import os\n    open('x', 'w').close()\n    os.replace('x', {path!r})\n",
        "    import os\n    os.utime({path!r}, (0, 0))\n",
        "    import sqlite3\n    sqlite3.connect({path!r})\n",
    ],
)
def test_files_of_the_student_cannot_be_changed_by_accident(body, graded, tmp_path):
    diary = tmp_path / "diary.txt"
    diary.write_text("mine")
    said = failures(graded(body.format(path=str(diary)) + COUNT))
    assert "it changes a file outside its own folder (diary.txt)" in said["count"]
    assert diary.read_text() == "mine"


def test_a_file_beside_the_submission_is_not_taken_for_a_library(graded, tmp_path):
    (tmp_path / "numpy.py").write_text("raise SystemExit")
    assert not failures(graded(COUNT))


def test_a_module_that_was_never_imported_here_may_be_imported(tmp_path, monkeypatch, only):
    """Python would keep its bytecode, outside of the check's folder; that is not the student's
    doing.
    """
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    monkeypatch.delenv("PYTHONPYCACHEPREFIX", raising=False)
    (tmp_path / "library").mkdir()
    (tmp_path / "library" / "never_imported.py").write_text("two = 2\n")
    places = [str(tmp_path / "library"), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, places)))
    path = tmp_path / "work.py"
    path.write_text(REFERENCE.replace(COUNT, "    import never_imported\n" + COUNT))
    only("count")
    with Grader() as grader:
        report = grader.grade(path)
    assert not failures(report)
    assert report.points > 0


SIZE = """
from dataclasses import dataclass


@dataclass
class Size:
    m: int
    n: int

    @property
    def count(self):
        assert Size.__annotations__["m"] is KIND
        return self.m + self.n
"""


def test_a_dataclass_of_the_student_works(graded):
    body = "    return rank * Size(m, n).count\n"
    assert not failures(graded(body + SIZE.replace("KIND", "int")))
    text = (
        REFERENCE
        + f"\n# %%\nfrom __future__ import annotations\n{SIZE.replace('KIND', repr('int'))}"
    )
    text = text.replace(" is ", " == ")
    assert not failures(graded(body, text))


def test_a_name_from_an_experiment_is_said_to_be_left_out(graded):
    text = REFERENCE + '\n# %% tags=["experiment"]\ndef total(m, n):\n    return m + n\n'
    said = failures(graded("    return rank * total(m, n)\n", text))
    assert (
        "`total` is defined in an experiment cell, which the grader does not run: move it"
        in said["count"]
    )


def test_a_line_that_ends_as_on_an_old_computer_is_found():
    work = run([Cell("code", "x = 1\ry = 2\rz = 1 / 0")])
    assert work.problems == ["it raises ZeroDivisionError: division by zero (line 3: z = 1 / 0)"]


def test_a_line_as_long_as_a_file_is_cut(graded):
    report = graded(COUNT, REFERENCE + "\n# %%\nx = 1 / 0; y = '" + "\u221e" * 100_000 + "'\n")
    assert not failures(report)
    assert "it raises ZeroDivisionError: division by zero" in str(report)
    assert len(str(report)) < 5000


def test_a_start_that_returns_something_else_is_told_what_is_expected(graded):
    start = "return np.zeros((m, rank)), rng.normal(size=(rank, n)) / np.sqrt(n)"
    for wrong, shown in (
        ("", "got None"),
        ("return np.zeros((m, rank))", "got"),
        ("return 'B', 'A'", "expected two arrays, (B, A), got"),
    ):
        starts = ["shapes", "can_move", "spread", "seeded"]
        said = failures(graded(COUNT, REFERENCE.replace(start, wrong), also=starts))
        assert set(starts) <= set(said) <= {*starts, "no_change"}
        assert all(shown in sentence and "library" not in sentence for sentence in said.values())


def test_an_argument_changed_in_place_is_noticed(graded):
    text = REFERENCE.replace(
        "return (W0.astype(np.float64) + delta).astype(W0.dtype)", "W0 += delta\n    return W0"
    )
    said = failures(graded(COUNT, text, also=["untouched"]))
    assert list(said) == ["untouched"]
    assert "merge changes its argument [[1.,2.],[4.,3.]] in place, to " in said["untouched"]


SHADOWS = [
    ("np = 3", "`np` (now 3)"),
    ("sum = 0", "`sum` (now 0)"),
    ("import math\nmath = [1]", "`math` (now [1])"),
]


@pytest.mark.parametrize(("line", "said"), SHADOWS)
def test_a_shadowed_library_is_named(line, said, graded):
    text = REFERENCE.replace(
        "# ## 2. How many", "# %%\n" + line + "\n\n# %% [markdown]\n# ## 2. How many"
    )
    report = graded(
        "    return sum([rank * m, rank * n]) + math.floor(0) + int(np.zeros(1)[0])\n", text
    )
    assert (
        f"your file gives another meaning to {said}: rename that variable"
        in failures(report)["count"]
    )


def test_a_library_that_is_changed_is_the_students_own_only(graded):
    text = REFERENCE.replace("import numpy as np\n", "import numpy as np\n\nnp.std = None\n")
    assert not failures(graded(COUNT, text, also=["spread"])), "the judge has another NumPy"


def test_a_cell_that_does_not_parse_costs_what_it_defines(graded):
    report = graded("    return rank * (m + n\n")
    assert list(failures(report)) == ["count"]
    assert "your file does not define `trainable`" in failures(report)["count"]
    assert (
        "is not Python ('(' was never closed): 'return rank * (m + n'" in failures(report)["count"]
    )
    assert "note: a cell did not run: line " in str(report)


def test_a_script_without_cells_that_does_not_parse_scores_nothing_and_says_why(grader, tmp_path):
    path = tmp_path / "work.py"
    path.write_text("# perakit assignment `lora`\ndef update(B, A, alpha:\n    return B @ A\n")
    report = grader.grade(path)
    assert report.points == 0
    assert all("is not Python" in outcome.said for outcome in report.outcomes)


def test_a_missing_function_and_one_that_is_none(graded):
    text = (
        REFERENCE.replace("def multiplications(", "def multiplication(") + "\n# %%\nforward = 3\n"
    )
    named = ["forward_product", "forward_scale", "forward_factored", "cost"]
    said = failures(graded(COUNT, text, also=named))
    assert set(named) <= set(said)
    assert said["cost"] == "your file does not define `multiplications`"
    assert said["forward_scale"] == "`forward` is no function: define it with `def`"


def test_a_loop_outside_of_the_functions_is_said_to_be_there(grader, tmp_path, monkeypatch):
    monkeypatch.setattr("perakit.classroom.process.RUNNING", 1.0)
    path = tmp_path / "work.py"
    path.write_text(REFERENCE + "\n# %%\nwhile True:\n    pass\n")
    start = time.monotonic()
    report = grader.grade(path)
    assert report.points == 0
    assert time.monotonic() - start < 30, "it is waited for once, and not for every check"
    for outcome in report.outcomes:
        assert outcome.said == (
            "your file did not finish within 1 s: an endless loop, or a sleep, outside of the"
            " functions? A long experiment belongs into a cell with the tag `experiment`"
        )


def test_notebooks_with_magics_and_experiments_are_graded(grader, tmp_path):
    cells = LORA.solution()
    document = json.loads(to_notebook(cells))
    magic = {
        "cell_type": "code",
        "metadata": {},
        "execution_count": None,
        "outputs": [],
        "source": ["%matplotlib inline\n", "!ls\n", "x = 1"],
    }
    endless = magic | {"metadata": {"tags": ["experiment"]}, "source": ["while True: pass"]}
    document["cells"] += [magic, endless]
    path = tmp_path / "work.ipynb"
    path.write_text(json.dumps(document))
    report = grader.grade(path)
    assert not failures(report)
    assert not report.problems


# --- what cannot be graded ------------------------------------------------------------------------


BAD_FILES = [
    ("work.txt", b"x", "is neither a .py nor an .ipynb file"),
    ("work.ipynb", b"{", "is no notebook"),
    ("work.ipynb", b"[]", "is no notebook (it has no list of cells)"),
    ("work.ipynb", b'{"cells": [3]}', "is no notebook (cell 1 has no text)"),
    ("work.py", b"\xff\xfe", "is not UTF-8 text"),
    ("work.py", b"print(1)", "does not say which assignment it is: pass --assignment"),
    (
        "work.py",
        b"# perakit assignment `lora` or perakit assignment `comparison`",
        "names several assignments (comparison, lora)",
    ),
    ("work.py", b"# perakit assignment `none`", "no assignment 'none': choose from lora"),
    ("work.py", b"#" * 11_000_000, "has more than 10,485,760 bytes"),
]


@pytest.mark.parametrize(("name", "data", "said"), BAD_FILES)
def test_a_file_that_cannot_be_graded_is_one_sentence(name, data, said, tmp_path):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(pk.PerakitError) as error:
        grade(tmp_path / name)
    assert said in str(error.value)


def test_a_missing_file_is_one_sentence(tmp_path):
    with pytest.raises(
        pk.PerakitError,
        match=r"cannot read .*: No such file or directory; pass the file that was handed in",
    ):
        grade(tmp_path / "none.py")


def test_an_empty_submission_scores_nothing(tmp_path, grader):
    path = tmp_path / "empty.py"
    path.write_text("")
    with pytest.raises(pk.PerakitError, match="does not say which assignment"):
        grader.grade(path)
    with Grader("lora") as named:
        report = named.grade(path)
    assert report.points == 0
    assert "your file does not define `update`" in str(report)


# --- hidden checks, and checks of one's own -------------------------------------------------------

HIDDEN = """
from perakit.classroom import arrays, check, expect_equal

@check(3, "counts what a large layer trains", "trainable", hint="r(m+n)")
def large(work):
    expect_equal(work.trainable(4096, 4096, 16), 131072)
"""


def test_hidden_checks_count_and_are_told_apart(tmp_path):
    (tmp_path / "hidden.py").write_text(HIDDEN)
    (tmp_path / "work.py").write_text(REFERENCE)
    with Grader(hidden=tmp_path / "hidden.py") as grader:
        report = grader.grade(tmp_path / "work.py")
    assert report.points == report.of == LORA.points + 3
    assert [outcome.hidden for outcome in report.outcomes][-2:] == [False, True]
    assert report.gradescope()["tests"][-1]["visibility"] == "after_published"


def test_hidden_checks_may_have_dataclasses(tmp_path):
    size = (
        "from dataclasses import dataclass\n\n\n@dataclass\nclass Size:\n    m: int\n\n\nassert"
        " Size.__annotations__ == {'m': int}\n"
    )
    (tmp_path / "hidden.py").write_text(size + HIDDEN)
    assert len(hidden_checks(tmp_path / "hidden.py")) == 1


BAD_HIDDEN = [
    ("x = 1", "defines no checks"),
    ("1 / 0", "do not run: ZeroDivisionError: division by zero"),
    (
        HIDDEN.replace("def large", "def scaling"),
        "hidden check scaling is also one of lora: give it another name",
    ),
    (
        "from perakit.classroom import check\ncheck(1, 'nothing')",
        "check 'nothing' names no function",
    ),
    (
        "from perakit.classroom import check\ncheck(-1, 'less', 'f')",
        "check 'less' is worth -1 points: give a number >= 0",
    ),
    (
        "from perakit.classroom import check\ncheck(1, 'none', 'f', count=0)",
        "count of check 'none'=0 must be an integer >= 1",
    ),
]


@pytest.mark.parametrize(("text", "said"), BAD_HIDDEN)
def test_a_hidden_file_that_does_not_work_is_one_sentence(text, said, tmp_path):
    (tmp_path / "hidden.py").write_text(text)
    (tmp_path / "work.py").write_text(REFERENCE)
    with pytest.raises(pk.PerakitError) as error:
        grade(tmp_path / "work.py", hidden=tmp_path / "hidden.py")
    assert said in str(error.value)
    with pytest.raises(
        pk.PerakitError, match=r"cannot read .*; give a Python file with the hidden"
    ):
        hidden_checks(tmp_path / "none.py")


def _endless(path):
    path.write_text("while True:\n    pass")


# Name -> how such a file is made, and what is said of it
DOORS = {
    "a pipe": (os.mkfifo, "is a device or a pipe, not a plain file"),
    "no end": (lambda path: os.symlink("/dev/zero", path), "is a device or a pipe"),
    "a giant": (lambda path: _truncated(path, 2**40), "is larger than the 10,485,760 bytes"),
    "a folder": (lambda path: path.mkdir(), "Is a directory"),
    "other bytes": (
        lambda path: path.write_bytes(b"\xff\xfe"),
        "not UTF-8 text (invalid start byte",
    ),
    "no Python": (lambda path: path.write_text("def f(:"), "do not run: SyntaxError"),
    "deep": (lambda path: path.write_text("(" * 100_000), "do not run: "),
    "exits": (lambda path: path.write_text("raise SystemExit(0)"), "do not run: SystemExit: 0"),
    "leaves": (
        lambda path: path.write_text("class Stop(BaseException): pass\nraise Stop('\x1b')"),
        "do not run: Stop: \\x1b",
    ),
    "endless": (_endless, "do not end within 0.2 s"),
}


def _truncated(path, size):
    with open(path, "wb") as file:
        file.truncate(size)


@pytest.mark.parametrize("door", DOORS)
def test_what_is_no_file_of_checks_is_one_sentence(door, tmp_path, monkeypatch):
    monkeypatch.setattr("perakit.classroom.assignment.SECONDS", 0.2)
    make, said = DOORS[door]
    make(tmp_path / "hidden.py")
    with pytest.raises(pk.PerakitError) as error:
        hidden_checks(tmp_path / "hidden.py")
    assert said in str(error.value)
    (tmp_path / "work.py").write_text("# perakit assignment `lora`")
    with pytest.raises(pk.PerakitError):
        Grader(hidden=tmp_path / "hidden.py")


@pytest.mark.parametrize("door", ["a pipe", "no end", "a giant", "a folder"])
def test_what_is_no_file_of_work_is_one_sentence(door, tmp_path):
    DOORS[door][0](tmp_path / "work.py")
    with pytest.raises(pk.PerakitError):
        grade(tmp_path / "work.py")


def test_hidden_checks_may_begin_with_a_mark_of_their_encoding(tmp_path):
    (tmp_path / "hidden.py").write_text("\ufeff" + HIDDEN, encoding="utf-8")
    assert len(hidden_checks(tmp_path / "hidden.py")) == 1


def test_an_interrupt_while_hidden_checks_are_read_is_one(tmp_path):
    (tmp_path / "hidden.py").write_text("raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        hidden_checks(tmp_path / "hidden.py")


def test_hidden_checks_are_read_where_the_teacher_is(tmp_path, monkeypatch):
    """The judge runs them; the student's process has neither the file nor its folder."""
    text = "from pathlib import Path\nTABLE = Path('table.txt').read_text()\n"
    (tmp_path / "hidden.py").write_text(text + HIDDEN)
    (tmp_path / "work.py").write_text(REFERENCE)
    with pytest.raises(pk.PerakitError, match="do not run: FileNotFoundError"):
        Grader(hidden=tmp_path / "hidden.py")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "table.txt").write_text("1 2 3")
    report = grade("work.py", hidden="hidden.py")
    assert report.points == LORA.points + 3


def test_an_assignment_without_a_name_is_refused(tmp_path):
    (tmp_path / "work.py").write_text("x = 1")
    with pytest.raises(pk.PerakitError, match="no assignment ''"):
        grade(tmp_path / "work.py", "")


def a_check(test, examples=None, **options):
    return check(1, "a title", "f", examples=examples, **options)(test)


def found(check, f):
    """What is said of a function in this process."""
    return examine(check, Room(Work({"f": f}), check.seconds).answer).said


def test_the_smallest_input_is_shown_with_expected_and_got():
    def twice(work, A):
        expect_equal(work.f(A), 2 * A)

    said = found(a_check(twice, arrays(A="m n")), lambda A: 2 * np.abs(A))
    assert said == "smallest input that breaks it: A=[[-1.]] · expected [[-2.]] got [[2.]]"
    assert found(a_check(twice, arrays(A="m n")), lambda A: A + A) == ""


def test_arguments_of_every_kind_are_passed_and_watched():
    def keeps(work, A, rows, fractions, number):
        work.f(A, rows, fractions, number)

    examples = arrays(
        A="m",
        rows=st.just([[1, 2]]),
        fractions=st.just(np.array([Fraction(1, 3)])),
        number=st.just(2),
    )
    watches = a_check(keeps, examples, alone=True)
    assert found(watches, lambda *given: 0) == ""
    for k, shown in ((0, "[0.]"), (1, "[[1, 2]]"), (2, "[Fraction(1, 3)]")):
        changes = lambda *given, k=k: given[k].__setitem__(0, 7)  # noqa: E731
        changes.__name__ = "f"
        assert f"f changes its argument {shown} in place, to [7" in found(watches, changes)
        assert found(a_check(keeps, examples), changes) == "", "that is another check's to find"


def test_what_looks_the_same_is_said_to_differ():
    def third(work):
        expect_equal(work.f(), 1 / 3)

    assert (
        found(a_check(third), lambda: np.float32(1 / 3))
        == "expected 0.333333 got 0.333333, which differs by 1e-08: was it rounded, to float32"
        " perhaps?"
    )


def test_a_complex_result_is_not_cut_to_its_real_part():
    def one(work):
        expect_equal(work.f(), 1.0)

    assert "expected 1 got complex128 (1+1j)" in found(a_check(one), lambda: np.complex128(1 + 1j))


def test_a_check_that_is_broken_itself_says_what_it_got():
    def broken(work):
        work.f("two")
        raise KeyError("oracle")

    assert found(a_check(broken), len) == (
        "the check itself stopped with KeyError: 'oracle', on what it got: 3"
    )


def test_values_are_shown_in_a_line():
    assert show(np.array([[1, 0], [2, 3]])) == "[[1,0],[2,3]]"
    assert show(np.array([1 / 3])) == "[0.333333]"
    assert show(np.zeros((5, 7))) == "an array of shape (5, 7)"
    assert show_arguments({"A": np.ones((1, 2)), "alpha": 2.0, "r": 3}) == "A=[[1.,1.]] alpha=2 r=3"
    assert show([1, (True, None)]) == "[1, (True, None)]"
    assert show([{"rank": 1}]) == "[{rank: 1}]"
    assert show_arguments({"row": {"rank": 1}}) == "row={rank: 1}"


def test_checks_are_named_after_their_property():
    @check(1, "a title", "f")
    def property_name(work):
        pass

    assert isinstance(property_name, Check)
    assert property_name.id == "property_name"


# --- other graders, and the command line ----------------------------------------------------------


def test_points_is_a_float_and_says_why_on_stdout(capsys):
    assert points("lora/count", lambda m, n, rank: rank * (m + n)) == 1.0
    assert points("lora/count", lambda m, n, rank: rank * m * n) == 0.0
    out, err = capsys.readouterr()
    assert err == "", "nbgrader gives zero for anything on stderr"
    assert "PASS 1/1 every trained entry is counted once" in out
    assert "m=1 n=1 rank=1 · expected 2 got 1" in out
    with pytest.raises(AssertionError, match="expected 2 got 1"):
        require("lora/count", lambda m, n, rank: rank * m * n)
    require("lora/count", lambda m, n, rank: rank * (m + n))


def test_points_ends_a_loop_and_an_exit_of_the_notebook(capsys):
    space = {"exit": lambda: pytest.fail("Jupyter's exit would end the kernel")}
    exec(
        "def loops(m, n, rank):\n    while True:\n        pass\n\ndef leaves(m, n, rank):\n   "
        " exit()\n",
        space,
    )
    jupyter = space["exit"]
    assert points("lora/count", space["loops"]) == points("lora/count", space["leaves"]) == 0.0
    out = capsys.readouterr().out
    assert "it did not finish within 6 s: an endless loop, or a sleep?" in out
    assert "it calls exit(), which ends Python: return instead" in out
    assert space["exit"] is jupyter


@pytest.mark.parametrize(
    ("name", "functions", "said"),
    [
        ("lora/none", [len], "lora has no check 'none': choose from lora/product"),
        ("none/count", [len], "no assignment 'none'"),
        ("lora/count", [], "lora/count takes 1 functions, trainable, not 0"),
    ],
)
def test_points_refuses_what_is_no_check(name, functions, said):
    with pytest.raises(pk.PerakitError) as error:
        points(name, *functions)
    assert said in str(error.value)


def test_the_command_grades_many_and_writes_marks(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["assignment", "new", "lora", "-o", "hw1"]) == 0
    assert "perakit grade hw1/lora.py" in capsys.readouterr().out
    (tmp_path / "ada.py").write_text(REFERENCE)
    assert (
        cli.main(
            [
                "grade",
                "ada.py",
                "hw1/lora.ipynb",
                "none.py",
                "--csv",
                "marks.csv",
                "--json",
                "marks.json",
            ]
        )
        == 2
    )
    out, err = capsys.readouterr()
    assert f"lora: {LORA.points:g} of {LORA.points:g} points" in out
    assert "cannot read 'none.py'" in err
    assert "1 of 3 submissions could not be graded" in err
    header, ada, starter, none = (tmp_path / "marks.csv").read_text().splitlines()
    assert header.startswith("file,assignment,points,of,product,")
    assert ada.startswith(f"ada.py,lora,{LORA.points:g},{LORA.points:g},3,")
    assert starter.startswith(f"hw1/lora.ipynb,lora,0,{LORA.points:g},0,")
    assert none.startswith("none.py,,,,")
    assert "No such file or directory" in none
    first, _, last = json.loads((tmp_path / "marks.json").read_text())
    assert "No such file or directory" in last["error"]
    assert first["facts"]["seed"] == 0
    assert {"python", "perakit", "numpy", "torch", "hypothesis"} == set(first["facts"]["versions"])
    assert len(first["facts"]["submission_sha256"]) == 64


def test_the_command_in_a_process_of_its_own_is_silent_on_stderr(tmp_path):
    (tmp_path / "work.py").write_text(REFERENCE)
    command = [sys.executable, "-m", "perakit", "grade", "work.py", "--gradescope", "results.json"]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONIOENCODING": "utf-8"},
    )
    assert done.stderr == ""
    assert done.stdout.splitlines()[-1] == f"lora: {LORA.points:g} of {LORA.points:g} points"
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["score"] == LORA.points
    assert {"name", "number", "score", "max_score", "status", "output", "visibility"} == set(
        results["tests"][0]
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "results.json",
        "work.py",
    ], "nothing else is left behind"


def test_nothing_is_overwritten(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["assignment", "new", "lora"]) == 0
    work = tmp_path / "lora" / "lora.py"
    work.write_text("my work")
    (tmp_path / "lora" / "lora.ipynb").unlink()
    assert cli.main(["assignment", "new", "lora"]) == 2
    assert (
        "is there already: choose another folder, or move your work away; nothing was written"
        in capsys.readouterr().err
    )
    assert work.read_text() == "my work"
    assert not (tmp_path / "lora" / "lora.ipynb").exists()


def test_the_notebooks_of_other_graders_are_graded_too(tmp_path, grader):
    cli.main(["assignment", "export", "lora", "-o", str(tmp_path / "teacher")])
    report = grader.grade(tmp_path / "teacher" / "nbgrader" / "source" / "lora" / "lora.ipynb")
    assert report.points == report.of
    assert not report.problems
    starter = grader.grade(tmp_path / "teacher" / "otter" / "lora.ipynb")
    assert starter.points == 0
    assert not starter.problems


def test_marks_of_different_assignments_share_a_table(tmp_path, grader):
    reports = []
    for id in ("lora", "polynomial"):
        (tmp_path / f"{id}.py").write_text(to_percent(assignments()[id].starter()))
        reports.append(grader.grade(tmp_path / f"{id}.py"))
    rows = marks(reports).splitlines()
    assert len({row.count(",") for row in rows}) == 1


def test_a_percent_script_is_read_back_as_it_was_written():
    cells = LORA.solution()
    again = parse_percent(to_percent(cells))
    assert [(cell.kind, cell.source, cell.tags) for cell in again] == [
        (cell.kind, cell.source.strip("\n"), cell.tags) for cell in cells
    ]
