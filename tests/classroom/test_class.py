"""A whole class in one call: 45 hand-ins of every kind, two at a time, each as if it were alone."""

import csv
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from perakit.classroom import assignments, grade_all
from perakit.classroom.submission import to_notebook, to_percent

LORA = assignments()["lora"]
REFERENCE = to_percent(LORA.solution())
COUNT = "    return rank * (m + n)\n"
IDS = ("lora", "polynomial", "expressiveness", "comparison")
# Bodies of `trainable`, and the points that they cost
BODIES = {
    "right.py": (COUNT, 0),
    "wrong.py": ("    return rank * m * n\n", 1),
    "shouts.py": ("    print('PASS 9/9 all')\n" + COUNT, 0),
    "warns.py": ("    import warnings\n    warnings.warn('x')\n" + COUNT, 0),
    "raises.py": ("    raise ValueError('\\x1b[2J\\ud800\\nPASS 1/1 all')\n", 1),
    "leaves.py": ("    exit()\n", 1),
    "dies.py": ("    import os\n    os._exit(0)\n", 1),
    "crashes.py": ("    import ctypes\n    ctypes.string_at(0)\n", 1),
    "writes.py": ("    open('../perakit-stray', 'w').write('x')\n" + COUNT, 1),
    "reads.py": ("    open('/etc/../proc/self/environ').read()\n" + COUNT, 1),
    "starts.py": ("    import subprocess\n    subprocess.run(['true'])\n" + COUNT, 1),
    "fills.py": ("    return np.ones((10**6, 10**6))\n", 1),
    "forgets.py": ("    rank * (m + n)\n", 1),
    "guesses.py": ("    import random\n    return random.random()\n", 1),
    "recurses.py": ("    return trainable(m, n, rank)\n", 1),
    "threads.py": (
        "    import threading, time\n"
        "    threading.Thread(target=time.sleep, args=(60,)).start()\n" + COUNT,
        0,
    ),
    "later.py": ("    import atexit, os\n    atexit.register(os._exit, 3)\n" + COUNT, 0),
    "array.py": ("    return np.array(rank * (m + n))\n", 0),
    "text.py": ("    return str(rank * (m + n))\n", 0),
    "unwritten.py": ("    raise NotImplementedError\n", 1),
}
# Files that are not what one hopes for, and what is said of them
ODD = {
    "none.py": (None, "cannot read"),
    "bytes.py": (b"\xff\xfe", "is not UTF-8 text"),
    "cut.ipynb": (to_notebook(LORA.solution()).encode()[:2000], "is no notebook"),
    "foreign.ipynb": (b'{"cells": [], "nbformat": 4}', "does not say which assignment"),
    "old.ipynb": (b'{"worksheets": [], "nbformat": 3}', "is no notebook (it has format 3"),
    "list.ipynb": (b"[]", "it has no list of cells"),
    "deep.ipynb": (b"[" * 100_000, "is no notebook"),
    "empty.py": (b"", "does not say which assignment"),
    "work.docx": (b"PK", "is neither a .py nor an .ipynb file"),
    "huge.py": (b"#" * 11_000_000, "has more than 10,485,760 bytes"),
    "folder.py": ("folder", "Is a directory"),
    os.fsdecode(b"M\xfcller.py"): (b"x = 1", "does not say which assignment"),
}
MAGICS = """
%matplotlib inline
x = !ls
t = %timeit -n1 -r1 1 + 1
trainable?
?trainable
import asyncio
await asyncio.sleep(0)
text = '''
%% no magic
'''
rest = (7
        % 4)
%time y = 3
z = y + rest
"""


@pytest.fixture(scope="module")
def hand_ins(tmp_path_factory):
    """The folder of a class, and of each file the points that it deserves (None: not graded)."""
    folder, points = tmp_path_factory.mktemp("class"), {}

    def put(name, text, worth):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))
        points[name] = worth

    for id in IDS:
        task = assignments()[id]
        put(f"{id}.py", to_percent(task.solution()), task.points)
        put(f"{id}_starter.ipynb", to_notebook(task.starter()), 0)
    for name, (body, cost) in BODIES.items():
        put(name, REFERENCE.replace(COUNT, body), LORA.points - cost)
    put("bob/lora.py", REFERENCE, LORA.points)  # a name that another has, too
    put("peft.py", "# %%\nimport peft\n\n" + REFERENCE, LORA.points)
    put("bom.py", "\ufeff" + REFERENCE, LORA.points)
    book = json.loads(to_notebook(LORA.solution()))
    cell = {"cell_type": "code", "metadata": {}, "execution_count": None, "outputs": []}
    used = "def trainable(m, n, rank):\n    assert z == 6 and not x and t is None\n" + COUNT
    book["cells"] += [cell | {"source": MAGICS}, cell | {"source": used}]
    put("magics.ipynb", json.dumps(book), LORA.points)
    timed = json.dumps(book).replace("def trainable", "%%time\\ndef trainable")
    put("timed.ipynb", timed, LORA.points)
    for name, (data, _) in ODD.items():
        points[name] = None
        if data == "folder":
            (folder / name).mkdir()
        elif data is not None:
            put(name, data, None)
    return folder, points


@pytest.mark.thorough
@pytest.mark.parametrize("count", [9, pytest.param(45, marks=pytest.mark.long)])
def test_hand_ins_two_at_a_time_are_marked_as_one_by_one(count, hand_ins, tmp_path, monkeypatch):
    folder, deserved = hand_ins
    assert len(deserved) >= 45
    if count < 45:  # some of every kind
        names = list(deserved)
        chosen = {
            *names[4:6],
            *names[8::11],
            "array.py",
            "peft.py",
            "magics.ipynb",
            "M\udcfcller.py",
        }
        deserved = {name: points for name, points in deserved.items() if name in chosen}
        assert len(deserved) >= count
    command = [sys.executable, "-m", "perakit", "grade", *deserved, "--jobs", "2"]
    command += ["--csv", str(tmp_path / "marks.csv"), "--json", str(tmp_path / "marks.json")]
    done = subprocess.run(
        command,
        cwd=folder,
        capture_output=True,
        env=os.environ | {"PYTHONIOENCODING": "ascii", "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 2  # some could not be graded
    assert b"\x1b" not in done.stdout + done.stderr
    odd = sum(points is None for points in deserved.values())
    assert f"{odd} of {len(deserved)} submissions could not be graded" in done.stderr.decode()
    together = json.loads((tmp_path / "marks.json").read_bytes())
    for found, (name, points) in zip(together, deserved.items(), strict=True):
        if points is None:
            assert ODD[name][1] in found["error"], name
        else:
            assert (found["points"], found["error"]) == (points, ""), (name, found["checks"])
    with open(tmp_path / "marks.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(deserved), "each file has its row"
    assert [row["points"] for row in rows] == [
        "" if points is None else f"{points:g}" for points in deserved.values()
    ]
    assert next(row for row in rows if row["file"] == "peft.py")["imports"] == "peft"

    monkeypatch.chdir(folder)
    alone = [report.to_dict() for report in grade_all(list(deserved))]
    assert [_told(report) for report in alone] == [_told(report) for report in together]
    assert not Path(tempfile.gettempdir(), "perakit-stray").exists()  # beside their folders


def _told(report):
    """A report without what two runs of one random function need not share."""
    checks = [(check["id"], check["points"], bool(check["said"])) for check in report["checks"]]
    return {key: report[key] for key in ("file", "points", "of", "error", "imports")}, checks


def test_marks_are_written_after_each_submission(tmp_path, monkeypatch):
    """An interrupt, or a grader that is killed, costs no mark that was known."""
    from perakit import cli

    seen = []

    def reports(files, *_):
        for file in files:
            seen.append((tmp_path / "marks.csv").exists() and (tmp_path / "marks.csv").read_text())
            yield cli.classroom.Report(str(file), "lora")
        raise KeyboardInterrupt

    monkeypatch.setattr(cli.classroom, "grade_all", reports)
    monkeypatch.chdir(tmp_path)
    assert cli.main(["grade", "a.py", "b.py", "--csv", "marks.csv"]) == 130
    assert [bool(text) for text in seen] == [False, True]
    assert (tmp_path / "marks.csv").read_text().splitlines()[1:] == [
        "a.py,lora,0,0,,",
        "b.py,lora,0,0,,",
    ]


def test_what_was_given_twice_is_graded_once(tmp_path, capsys, monkeypatch):
    from perakit import cli

    monkeypatch.chdir(tmp_path)
    for name in ("ada.py", "ada.ipynb"):
        (tmp_path / name).write_text("")
    assert cli.main(["grade", "ada.py", "./ada.py", "ada.ipynb", "--csv", "marks.csv"]) == 2
    said = capsys.readouterr().err
    assert "'ada.py' was given twice: it is graded once" in said
    assert "'ada.py' and 'ada.ipynb' have one name: both are graded" in said
    assert len((tmp_path / "marks.csv").read_text().splitlines()) == 3


def test_a_spreadsheet_finds_no_formula_in_the_marks():
    from perakit.classroom import Report, marks

    row = marks([Report("=cmd.py", error="-1+1 \x1b")]).splitlines()[1]
    assert row == "'=cmd.py,,,,,'-1+1 \\x1b"
