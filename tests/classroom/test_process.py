"""A student's process as the judge sees it: without fork, when it lies, when it stands still."""

import json
import os
import re
import runpy
import signal
import stat
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from perakit.classroom import assignments, check, expect_equal, grade, grading
from perakit.classroom.calls import FORKS, REFUSED
from perakit.classroom.cells import Cell
from perakit.classroom.examination import examine
from perakit.classroom.folder import FILES, ROOM, Folder
from perakit.classroom.process import EndedError, Process
from perakit.classroom.submission import to_percent

ACCIDENTS = runpy.run_path(str(Path(__file__).with_name("test_grading.py")))["ACCIDENTS"]
REFERENCE = to_percent(assignments()["lora"].solution())
COUNT = "    return rank * (m + n)\n"
UNIX = hasattr(os, "fork")

# --- without fork, as under Windows ---------------------------------------------------------------


@pytest.mark.parametrize(
    "accident",
    [
        pytest.param(
            accident,
            marks=[]
            if accident in ("hard exit", "exception", "print storm")
            else [pytest.mark.thorough, pytest.mark.long],
        )
        for accident in ACCIDENTS
    ],
)
def test_without_fork_an_accident_costs_the_same(accident, tmp_path, monkeypatch):
    whose = grading.assignment_of

    def some(cells, given=None):
        task = whose(cells, given)
        chosen = [one for one in task.checks if one.id in ("seeded", "count", "forward_factored")]
        return replace(task, checks=[replace(one, seconds=2.0) for one in chosen])

    monkeypatch.setattr(grading, "assignment_of", some)
    path = tmp_path / "work.py"
    body, _ = ACCIDENTS[accident]
    # The function of a later check prints: what an earlier one has printed leaves it room
    later = "    print('x' * 10_000)\n    return x @ W0.T"
    text = REFERENCE.replace("    return x @ W0.T", later)
    path.write_text(text.replace(COUNT, body), encoding="utf-8")
    reports = []
    for fork in (True, False) if UNIX else (False,):
        monkeypatch.setattr(grading, "Process", partial(Process, fork=fork))
        reports.append(grade(path))
    for report in reports:
        assert [outcome.id for outcome in report.outcomes if outcome.said] == ["count"], str(report)


def test_without_fork_there_is_one_process_for_all_checks():
    with Process(
        [Cell("code", "import os\n\ndef number():\n    return os.getpid()")], False
    ) as one:
        numbers = []
        for _ in range(2):
            assert one.begin(["number"], 2.0) == ""
            request = {"of": "number", "arguments": {"list": []}, "options": {"dict": []}}
            numbers.append(one.answer(request, lambda _: {})["value"])
            one.end()
    assert numbers[0] == numbers[1] != os.getpid()


# --- a process that says anything -----------------------------------------------------------------

texts = st.text(max_size=3) | st.sampled_from(
    ["value", "raised", "late", "ask", "ended", "missing"]
)
anything = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
SAID = ("value", "raised", "late", "unwritten", "changed", "refused", "ask", "ended")
words = st.fixed_dictionaries({}, optional=dict.fromkeys(SAID, anything))
NONCE, CHECKS = "the nonce of the question", "the nonce of the check"


class Puppet(Process):
    """A process that says what it was told to, and then ends."""

    def __init__(self, lines):
        super().__init__([], False)
        self.lines = list(lines)
        self._begun = CHECKS

    def _send(self, request):
        return NONCE

    def _line(self):
        return self.lines.pop(0) if self.lines else b""

    def close(self):
        self._process = None


lines = st.one_of(
    st.binary(max_size=20).map(lambda data: data + b"\n"),
    anything.map(lambda value: json.dumps(value).encode() + b"\n"),
    words.map(lambda message: json.dumps(message | {"nonce": NONCE}).encode() + b"\n"),
    words.map(lambda message: json.dumps(message | {"nonce": "another"}).encode() + b"\n"),
)


@check(1, "two", "f")
def two(work):
    expect_equal(work.f(lambda x: x), 2.5)


def line(nonce=NONCE, **message):
    return json.dumps(message | {"nonce": nonce}).encode() + b"\n"


def once(_, holds, *__):
    """In place of Hypothesis, which does not look for an input while it looks for another."""
    return (None if holds() else {}), 1


@given(st.lists(lines, max_size=4))
@example([line(raised="")] * 20)
@example([line(raised=0)])
@example([line(unwritten="")] * 20)
@example([line(CHECKS, ended="")] * 20)
@example([line(CHECKS, ended=[])])
@example([line(value=2.5, refused="x")])
def test_whatever_a_process_says_the_check_fails_in_a_sentence(said):
    with patch("perakit.classroom.examination.search", once):
        finding = examine(two, Puppet(said).answer)
    assert finding.said
    assert len(finding.said) < 5000


@given(st.lists(lines, max_size=2))
@example([line(CHECKS, missing=[[]])])
def test_whatever_is_said_to_be_missing_is_text_or_an_end(said):
    puppet = Puppet(said)
    puppet._process = "started"
    try:
        said = puppet.begin(["f"], 1.0)
    except EndedError as error:
        said = str(error) or None
    assert isinstance(said, str)


def test_the_right_answer_passes():
    right = json.dumps({"value": 2.5, "nonce": NONCE}).encode() + b"\n"
    assert examine(two, Puppet([right]).answer).said == ""


# --- a process that stands still ------------------------------------------------------------------


@pytest.mark.skipif(not UNIX, reason="no signal to stop a process")
def test_a_process_that_reads_nothing_does_not_keep_the_judge(monkeypatch):
    monkeypatch.setattr("perakit.classroom.process.GRACE", 0.5)
    with Process([Cell("code", "def f(x):\n    return 1")]) as process:
        assert process.begin(["f"], 0.2) == ""
        os.killpg(process._process.pid, signal.SIGSTOP)
        request = {"of": "f", "arguments": {"list": ["x" * 10**6]}, "options": {"dict": []}}
        start = time.monotonic()
        said = ""
        for _ in range(20):  # more than the pipe and the queue take
            try:
                process._send(request)
            except EndedError as error:
                said = str(error)
                break
        assert "could not be interrupted" in said
        assert time.monotonic() - start < 20
        assert process._process is None


# --- its folder -----------------------------------------------------------------------------------


def test_a_folder_is_removed_whatever_is_in_it(tmp_path):
    keep = tmp_path / "keep"
    keep.mkdir()
    (keep / "file").write_text("mine")
    folder = Folder()
    inside = Path(folder.path)
    (inside / "link").symlink_to(keep)
    (inside / "closed" / "within").mkdir(parents=True)
    (inside / "closed" / "within" / "file").write_text("x")
    for path in (inside / "closed" / "within", inside / "closed", inside):
        path.chmod(0)
    folder.remove()
    assert not inside.exists()
    assert (keep / "file").read_text() == "mine"


def test_a_folder_deeper_than_any_path_is_removed():
    folder = Folder()
    here = os.open(".", os.O_RDONLY)
    try:
        os.chdir(folder.path)
        for _ in range(1100):
            os.mkdir("deeper")
            os.chdir("deeper")
    finally:
        os.fchdir(here)
        os.close(here)
    assert folder.full
    folder.remove()
    assert not os.path.lexists(folder.path)


def test_a_folder_exchanged_for_a_link_leaves_what_it_leads_to(tmp_path):
    (tmp_path / "file").write_text("mine")
    folder = Folder()
    os.rmdir(folder.path)
    os.symlink(tmp_path, folder.path)
    folder.remove()
    assert not os.path.lexists(folder.path)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_is_full_by_bytes_or_by_files():
    folder = Folder()
    try:
        assert not folder.full
        with open(f"{folder.path}/large", "wb") as file:
            file.truncate(ROOM + 1)
        assert folder.full
        os.unlink(f"{folder.path}/large")
        for k in range(FILES + 1):
            Path(folder.path, str(k)).touch()
        assert folder.full
    finally:
        folder.remove()


def test_a_folder_is_for_its_owner_only():
    folder = Folder()
    try:
        assert stat.S_IMODE(os.stat(folder.path).st_mode) == 0o700
    finally:
        folder.remove()


# --- system calls ---------------------------------------------------------------------------------

HEADERS = [
    Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    Path("/usr/include/asm-generic/unistd.h"),
]


@pytest.mark.parametrize("column", [0, 1])
def test_system_calls_have_the_numbers_of_the_kernels_headers(column):
    if not HEADERS[column].exists():
        pytest.skip("the kernel's headers are not installed")
    numbers = dict(re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", HEADERS[column].read_text()))
    known = {name: ours[column] for name, ours in (REFUSED | FORKS).items() if name in numbers}
    assert len(known) > 40
    assert known == {name: int(numbers[name]) for name in known}
    if numbers.keys() & {"chmod"}:
        assert all(ours[0] is not None for ours in REFUSED.values())


@pytest.mark.skipif(sys.platform != "linux", reason="a filter of Linux")
def test_honest_work_needs_none_of_the_calls_that_are_refused():
    cells = [
        "import asyncio, threading, tempfile\nimport numpy as np",
        "await asyncio.sleep(0)",
        "worker = threading.Thread(target=print)\nworker.start()\nworker.join()",
        "with tempfile.TemporaryFile() as file:\n    np.save(file, np.ones(3))",
        "np.save('kept', np.ones(3))\nassert np.load('kept.npy').sum() == 3",
        "def f():\n    return 1",
    ]
    with Process([Cell("code", text) for text in cells]) as process:
        assert process.begin(["f"], 2.0) == ""
        assert process.problems == []
        assert process.refused == ""
