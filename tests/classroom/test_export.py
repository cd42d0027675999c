"""What a teacher exports, and what students install: a wheel with the checks, no solutions."""

import base64
import csv
import hashlib
import io
import json
import os
import subprocess
import sys
import zipfile
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest

import perakit as pk
from perakit import cli
from perakit.classroom import Assignment, assignments, export
from perakit.classroom.assignment import FOLDER, SOLUTION, STUB, hidden_checks
from perakit.classroom.student import imports
from perakit.classroom.submission import parse_percent, to_notebook, to_percent
from perakit.classroom.without_solutions import export_without_solutions, without_solutions

ABOUT = f"perakit-{version('perakit')}.dist-info"
LORA = assignments()["lora"]
TRAINABLE = "return rank * (m + n)"


# --- for a teacher --------------------------------------------------------------------------------


def test_the_list_and_the_export_have_everything(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["assignment", "list"]) == 0
    listed = capsys.readouterr().out
    assert [task.title for task in assignments().values() if task.title not in listed] == []
    assert cli.main(["assignment", "export", "lora"]) == 0
    names = {
        str(path.relative_to(tmp_path / "lora-teacher"))
        for path in (tmp_path / "lora-teacher").rglob("*")
        if path.is_file()
    }
    checks = {f"otter/tests/{check.id}.py" for check in LORA.checks}
    files = {
        "lora_solution.py",
        "lora_solution.ipynb",
        "lora_teacher.md",
        "lora_hidden.py",
        "otter/lora.ipynb",
        "otter/otter_config.json",
    }
    assert names == checks | files | {
        "nbgrader/nbgrader_config.py",
        "nbgrader/source/lora/lora.ipynb",
    }
    assert "## Rubric" in (tmp_path / "lora-teacher" / "lora_teacher.md").read_text()
    assert len(hidden_checks(tmp_path / "lora-teacher" / "lora_hidden.py")) == 1


# --- for students ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return export_without_solutions(tmp_path_factory.mktemp("given"))


@pytest.fixture(scope="module")
def files(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_the_name_is_one_that_pip_takes(wheel):
    assert wheel.name == f"perakit-{pk.__version__}-py3-none-any.whl"


def test_everything_of_the_package_is_in_it_and_no_cache(files):
    package = Path(pk.__file__).parent
    there = {
        f"perakit/{path.relative_to(package).as_posix()}"
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {name for name in files if name.startswith("perakit/")} == there


def test_only_assignments_are_changed(files):
    package = Path(pk.__file__).parent
    changed = {
        name
        for name, data in files.items()
        if name.startswith("perakit/") and data != (package.parent / name).read_bytes()
    }
    assert changed == {f"perakit/classroom/assignments/{path.name}" for path in _sources()}


def _sources():
    return sorted(FOLDER.glob("week*_*.py"))


def test_no_line_of_a_solution_is_left_where_it_stood(files):
    for path in _sources():
        text = files[f"perakit/classroom/assignments/{path.name}"].decode()
        solutions = list(SOLUTION.finditer(path.read_text(encoding="utf-8")))
        assert text.count(STUB) == len(solutions) > 0
        assert "SOLUTION" not in text
        # Some lines stand elsewhere as well: week 3 gives what week 2 asks for
        given = SOLUTION.sub("", path.read_text(encoding="utf-8"))
        asked = {line for found in solutions for line in found[2].splitlines() if line.strip()}
        assert [line for line in asked if line in text and line not in given] == []


def test_no_cell_for_the_teacher_is_left(files):
    for path in _sources():
        text = files[f"perakit/classroom/assignments/{path.name}"].decode()
        notes = [
            cell for cell in parse_percent(path.read_text("utf-8")) if "instructor" in cell.tags
        ]
        assert notes
        for cell in notes:
            for line in cell.source.splitlines():
                assert len(line) < 20 or line not in text
        assert {"instructor"} & {tag for cell in parse_percent(text) for tag in cell.tags} == set()


def test_the_starter_the_checks_and_the_usual_imports_are_the_same(files, tmp_path, monkeypatch):
    """`imports`: a report names what a submission imports beside these."""
    full = {id: (task, to_notebook(task.starter())) for id, task in assignments().items()}
    for path in _sources():
        data = files[f"perakit/classroom/assignments/{path.name}"]
        (tmp_path / path.name).write_bytes(data)
    monkeypatch.setattr("perakit.classroom.assignment.FOLDER", tmp_path)
    Assignment.load.cache_clear()
    try:
        for id, (task, starter) in full.items():
            given = Assignment.load(id)
            assert to_notebook(given.starter()) == to_notebook(given.solution()) == starter
            assert (given.title, given.rubric(), given.notes()) == (task.title, task.rubric(), "")
            what = [
                [replace(check, test=None, examples=None) for check in some.checks]
                for some in (given, task)
            ]
            assert what[0] == what[1]
            assert imports(given.solution()) == imports(task.solution())
            with pytest.raises(pk.PerakitError, match="has no reference solutions"):
                export(id, tmp_path / "teacher")
        assert not (tmp_path / "teacher").exists()
    finally:
        Assignment.load.cache_clear()


def test_a_stub_stands_where_its_solution_stood():
    text = "# %%\ndef f():\n    # BEGIN SOLUTION\n    return 1\n    # END SOLUTION\n"
    assert without_solutions(text).endswith(f"# %%\ndef f():\n    {STUB}\n")


def test_the_record_has_every_file_with_its_hash_and_size(files):
    rows = list(csv.reader(io.StringIO(files[f"{ABOUT}/RECORD"].decode())))
    assert {name for name, _, _ in rows} == set(files)
    for name, hashed, size in rows:
        digest = base64.urlsafe_b64encode(hashlib.sha256(files[name]).digest()).rstrip(b"=")
        ours = (
            ("", "")
            if name.endswith("RECORD")
            else (f"sha256={digest.decode()}", str(len(files[name])))
        )
        assert (hashed, size) == ours


def test_the_metadata_is_that_of_the_installation_without_its_place(files):
    about = {name.partition("/")[2] for name in files if name.startswith(ABOUT)}
    assert about == {"METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE"}
    assert f"Version: {pk.__version__}\n" in files[f"{ABOUT}/METADATA"].decode()
    assert b"perakit = perakit.__main__:main" in files[f"{ABOUT}/entry_points.txt"]
    assert files[f"{ABOUT}/WHEEL"].decode().splitlines()[-1] == "Tag: py3-none-any"


def test_twice_made_it_is_the_same_and_nothing_is_overwritten(wheel, tmp_path):
    again = export_without_solutions(tmp_path)
    assert again.read_bytes() == wheel.read_bytes()
    again.write_bytes(b"mine")
    with pytest.raises(pk.PerakitError, match="is there already: choose another folder"):
        export_without_solutions(tmp_path)
    assert again.read_bytes() == b"mine"
    assert list(tmp_path.iterdir()) == [again]


def test_what_lies_about_in_a_clone_is_not_given_to_students(tmp_path, monkeypatch):
    package = tmp_path / "perakit"
    folder = package / "classroom" / "assignments"
    for name in ("lora_hidden.py", "week9_traces.py", "week9_traces.py.orig", ".secret"):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("# %%\nx = 1\n")
    for name in ("__pycache__/a.py", ".ipynb_checkpoints/a.py", "old.pyc", "kept.py"):
        (package / name).parent.mkdir(exist_ok=True)
        (package / name).write_text("")
    monkeypatch.setattr("perakit.classroom.without_solutions.PACKAGE", package)
    monkeypatch.setattr("perakit.classroom.without_solutions.FOLDER", folder)
    with zipfile.ZipFile(export_without_solutions(tmp_path / "given")) as archive:
        names = {name for name in archive.namelist() if not name.startswith(ABOUT)}
    assert names == {"perakit/kept.py", "perakit/classroom/assignments/week9_traces.py"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["lora", "--without-solutions"], "leave out 'lora'"),
        ([], "say which assignment (see `perakit assignment list`), or --without-solutions"),
    ],
)
def test_one_or_the_other_is_exported(arguments, said, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["assignment", "export", *arguments]) == 2
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_version_that_is_not_the_installed_one_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr("perakit.classroom.without_solutions.__version__", "9.9")
    with pytest.raises(pk.PerakitError, match=r"perakit 9.9 runs here, and .* is installed"):
        export_without_solutions(tmp_path)


# --- installed ------------------------------------------------------------------------------------

# What a student and a teacher do with it, in one process, since each of them imports PyTorch
SESSION = """
import contextlib, io, json, sys
import perakit
from perakit.cli import main

said = {}
for name, *command in json.load(sys.stdin):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(command)
    said[name] = [code, out.getvalue(), err.getvalue()]
print(json.dumps([perakit.__file__, said]))
"""


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """Where it is installed, and what its commands say, by name: exit status, stdout, stderr."""
    place = tmp_path_factory.mktemp("installed")
    pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command = [*pip, "--no-index", "--target", str(place / "site"), str(wheel)]
    subprocess.run([sys.executable, *command], check=True)
    right = to_percent(LORA.solution())
    assert right.count(TRAINABLE) == 1
    (place / "right.py").write_text(right, encoding="utf-8")
    wrong = right.replace(TRAINABLE, "return rank * m * n")
    (place / "wrong.py").write_text(wrong, encoding="utf-8")
    commands = [
        ("grade", "grade", "right.py", "wrong.py", "--json", "marks.json"),
        ("new", "assignment", "new", "lora", "-o", "hw1"),
        ("starter", "grade", "hw1/lora.ipynb"),
        ("export", "assignment", "export", "lora", "-o", "teacher"),
        ("again", "assignment", "export", "--without-solutions", "-o", "again"),
    ]
    done = subprocess.run(
        [sys.executable, "-c", SESSION],
        input=json.dumps(commands),
        cwd=place,
        env=os.environ | {"PYTHONPATH": str(place / "site"), "PYTHONIOENCODING": "utf-8"},
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        check=True,
    )
    found, said = json.loads(done.stdout)
    assert Path(found).is_relative_to(place / "site"), "it is the installed one that runs"
    return place, said


@pytest.mark.thorough
def test_installed_it_grades_as_the_teachers_does(installed):
    place, said = installed
    assert said["grade"][0] == 0
    right, wrong = json.loads((place / "marks.json").read_text(encoding="utf-8"))
    assert right["points"] == right["of"] == LORA.points
    failed = [outcome for outcome in wrong["checks"] if outcome["said"]]
    assert [outcome["id"] for outcome in failed] == ["count"]
    assert "m=1 n=1 rank=1 · expected 2 got 1" in failed[0]["said"]


@pytest.mark.thorough
def test_installed_it_begins_an_assignment(installed):
    place, said = installed
    assert said["new"][0] == 0
    text = (place / "hw1" / "lora.ipynb").read_text(encoding="utf-8")
    assert text == to_notebook(LORA.starter())
    assert said["starter"][1].splitlines()[-1] == f"lora: 0 of {LORA.points:g} points"


@pytest.mark.thorough
def test_installed_it_has_no_solutions_to_export(installed):
    place, said = installed
    code, out, err = said["export"]
    assert (code, out) == (2, "")
    assert "this installation has no reference solutions: export from the one" in err
    assert not (place / "teacher").exists()


@pytest.mark.thorough
def test_installed_it_makes_the_same_wheel_again(installed, wheel):
    place, said = installed
    assert said["again"][0] == 0
    assert (place / "again" / wheel.name).read_bytes() == wheel.read_bytes()
