"""A student's notebooks are the student's: what `make` does with them, on a small copy of the tree.

The tree has the Makefile, the scripts and two tiny lessons; `.venv/bin/jupyter` only says how it
was called.
"""

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from perakit import PerakitError

ROOT = Path(__file__).parents[1]
LESSON = """\
# %% [markdown]
# # {number} A tiny lesson
#
# See [the page](../docs/page.md) and [the other lesson](02_second.ipynb).

# %%
print({number} + 40)
"""
PAGES = {
    "conf.py": 'extensions = ["myst_nb"]\nnb_execution_mode = "off"\n',
    "index.md": "# Site\n\n```{toctree}\n:glob:\n\npage\nnotebooks/*\n```\n",
    "page.md": "# A page\n",
}
STUDENTS = "the student's own cell"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A clone with two tiny lessons and three pages, set up: nothing is to be installed."""
    tree = tmp_path_factory.mktemp("clone")
    for name in ("Makefile", "docs/build.py", "notebooks/make.py", "notebooks/mine.py"):
        (tree / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(ROOT / name, tree / name)
    for name in ("pyproject.toml", ".ci/constraints.txt"):
        (tree / name).parent.mkdir(exist_ok=True)
        (tree / name).write_text("")
    for name, text in PAGES.items():
        (tree / "docs" / name).write_text(text)
    for number, name in ((1, "01_first"), (2, "02_second")):
        (tree / f"notebooks/{name}.py").write_text(LESSON.format(number=number))
    (tree / "build/mathjax-3.2.2").mkdir(parents=True)  # so that npm is not asked
    (tree / ".venv/bin").mkdir(parents=True)
    for name, line in (
        ("python", f'exec {sys.executable} "$@"'),
        ("jupyter", 'echo "$@" > opened'),
    ):
        (tree / ".venv/bin" / name).write_text(f"#!/bin/sh\n{line}\n")
        (tree / ".venv/bin" / name).chmod(0o755)
    for extra in ("notebooks", "docs", "test", "demo"):
        (tree / f".venv/{extra}-ready").touch()
    run(tree, sys.executable, "notebooks/make.py")
    return tree


@pytest.fixture
def tree(made, tmp_path):
    """A clone of one's own, as above."""
    return shutil.copytree(made, tmp_path / "clone")


def run(tree, *command, fails=False):
    """What a command says, run in the tree."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    for name in ("MAKEFLAGS", "MAKELEVEL"):  # of a make that runs this test
        environment.pop(name, None)
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True)
    assert bool(done.returncode) == fails, done.stdout + done.stderr
    return done.stdout + done.stderr


def add_a_cell(path):
    """As a student does it: a cell more, run, in JupyterLab's format."""
    book = nbformat.read(path, 4)
    book.cells.append(nbformat.v4.new_code_cell(f"print({STUDENTS!r})", execution_count=1))
    nbformat.write(book, path)
    return path.read_bytes()


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


@pytest.fixture(scope="module")
def mine():
    """The script as a module, with its neighbour."""
    sys.path.insert(0, str(ROOT / "notebooks"))
    try:
        spec = importlib.util.spec_from_file_location("mine", ROOT / "notebooks/mine.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield module
    finally:
        sys.path.remove(str(ROOT / "notebooks"))
        sys.modules.pop("make", None)


@pytest.fixture
def deliver(mine, tree):
    """deliver(): the names of what `make notebooks` has put into my-notebooks."""

    def call():
        sources = sorted((tree / "notebooks").glob("[0-9]*.py"))
        return [path.name for path in mine.deliver(sources, tree / "my-notebooks")]

    return call


def lessons(tree):
    return {path.name: path.read_bytes() for path in (tree / "notebooks").glob("*.ipynb")}


def stamp(path):
    """Changes if anything is written there, even the same again."""
    found = os.lstat(path)
    return found.st_ino, found.st_mtime_ns, found.st_size, found.st_mode


# --- every command --------------------------------------------------------------------------------


def test_a_students_cells_outlive_every_command(tree):
    """`make notebooks`, `docs`, `test`, `clean`; and the site shows the lesson, not the student's
    cell.
    """
    run(tree, "make", "notebooks")
    own, lesson = tree / "my-notebooks/01_first.ipynb", tree / "notebooks/01_first.ipynb"
    written = {path: add_a_cell(path) for path in (own, lesson)}
    sources = {path: path.read_bytes() for path in (tree / "notebooks").glob("*.py")}
    (tree / "tests").mkdir()
    shutil.copyfile(ROOT / "tests/test_notebooks.py", tree / "tests/test_notebooks.py")

    before = contents(tree / "notebooks"), contents(tree / "my-notebooks")
    run(tree, "make", "docs")
    page = (tree / "build/site/notebooks/01_first.html").read_text()
    assert re.search(r">41\s*<", page), "what the lesson prints"
    assert STUDENTS not in page
    run(tree, "make", "notebooks")
    (tree / "build/notebooks/01_first.ipynb").unlink()  # so that the test runs it again
    test = "tests/test_notebooks.py::test_a_notebook_runs_without_complaint"
    said = run(tree, "make", "test", f"TESTS={test}", fails=True)
    assert said.count("figures carry the argument") >= 2  # tiny lessons have none
    run(tree, sys.executable, "notebooks/make.py", "--execute", "build/other", "01")
    refusal = run(tree, sys.executable, "notebooks/make.py", fails=True)
    assert "01_first.ipynb is not as make.py wrote it" in refusal
    assert "02_second" not in refusal
    run(tree, "make", "clean")
    assert not (tree / "build").exists()

    after = contents(tree / "notebooks"), contents(tree / "my-notebooks")
    assert after == before
    assert {path: path.read_bytes() for path in written} == written
    assert {path: path.read_bytes() for path in sources} == sources


def test_no_other_target_names_the_students_folder():
    rules = (ROOT / "Makefile").read_text().split("\n\n")
    assert [rule.splitlines()[1].split(":")[0] for rule in rules if "my-notebooks" in rule] == [
        "notebooks"
    ]
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    assert "my-notebooks/" in ignored


def test_what_jupyterlab_is_opened_on(tree):
    """On the copies; with the clone as its root, so that links to pages lead somewhere."""
    assert "new in my-notebooks: 01_first" in run(tree, "make", "notebooks", "LAB=--no-browser")
    root, first, more = (tree / "opened").read_text().split()[1:]
    assert root == "--ServerApp.root_dir=."
    assert first == "--FileContentsManager.preferred_dir=my-notebooks"
    assert more == "--no-browser"


def test_executed_copies_go_neither_to_the_lessons_nor_to_a_student(tree, deliver):
    deliver()
    before = contents(tree / "notebooks"), contents(tree / "my-notebooks")
    for folder in ("notebooks", "build/../my-notebooks"):
        refusal = run(tree, sys.executable, "notebooks/make.py", "--execute", folder, fails=True)
        assert "name another one" in refusal
    refusal = run(tree, sys.executable, "notebooks/mine.py", "notebooks", fails=True)
    assert "name another folder" in refusal
    assert (contents(tree / "notebooks"), contents(tree / "my-notebooks")) == before


# --- what is delivered ----------------------------------------------------------------------------


def test_a_student_sees_one_file_a_lesson_and_nothing_else(tree, deliver):
    assert deliver() == ["01_first.ipynb", "02_second.ipynb"]
    assert sorted(os.listdir(tree / "my-notebooks")) == ["01_first.ipynb", "02_second.ipynb"]
    assert contents(tree / "my-notebooks") == lessons(tree)


def test_links_lead_from_the_copies_to_where_they_lead_from_the_lessons(tree, deliver):
    deliver()
    for folder in ("notebooks", "my-notebooks"):
        for target in ("../docs/page.md", "02_second.ipynb"):
            assert (tree / folder / target).is_file()


def test_nothing_new_writes_nothing(tree, deliver):
    deliver()
    folder = tree / "my-notebooks"
    add_a_cell(folder / "02_second.ipynb")
    before = {path: stamp(path) for path in folder.iterdir()}
    assert deliver() == []
    assert {path: stamp(path) for path in folder.iterdir()} == before


def test_a_newer_lesson_comes_beside_the_students_file(tree, deliver):
    deliver()
    folder, source = tree / "my-notebooks", tree / "notebooks/01_first.py"
    older = add_a_cell(folder / "01_first.ipynb")
    source.write_text(source.read_text() + "\n# %%\nprint('news')\n")
    os.utime(source, (0, 0))  # an old time stamp says nothing
    assert deliver() == ["01_first-2.ipynb"]
    assert (folder / "01_first.ipynb").read_bytes() == older
    assert b"news" in (folder / "01_first-2.ipynb").read_bytes()
    assert deliver() == []
    source.write_text(source.read_text() + "\n# %%\nprint('more news')\n")
    assert deliver() == ["01_first-3.ipynb"]
    os.utime(source)  # a new one says nothing either
    assert deliver() == []


def test_a_deleted_copy_is_delivered_again_and_a_renamed_one_is_not(tree, deliver):
    deliver()
    folder = tree / "my-notebooks"
    (folder / "01_first.ipynb").unlink()
    (folder / "02_second.ipynb").rename(folder / "my own name.ipynb")
    assert deliver() == ["01_first.ipynb"]
    assert sorted(contents(folder)) == ["01_first.ipynb", "my own name.ipynb"]


TAKEN = {
    "torn": b'{"cells": [], "metadata": {"perakit": {"les',
    "empty": b"",
    "no metadata": b'{"cells": [], "metadata": [1]}',
    "latin": b'{"metadata": "\xe9"}',
    "deep": b"[" * 100_000,
}


@pytest.mark.parametrize("kind", [*TAKEN, "folder", "link"])
def test_a_name_that_something_else_has_is_left_to_it(tree, deliver, kind, capsys):
    """And the rest comes."""
    folder = tree / "my-notebooks"
    folder.mkdir()
    taken = folder / "01_first.ipynb"
    if kind == "folder":
        taken.mkdir()
    elif kind == "link":
        taken.symlink_to("nowhere")
    else:
        taken.write_bytes(TAKEN[kind])
    before = stamp(taken)
    assert deliver() == ["01_first-2.ipynb", "02_second.ipynb"]
    assert stamp(taken) == before
    if kind in ("folder", "link"):
        assert capsys.readouterr().err.startswith("mine.py: ")


def test_a_folder_that_cannot_be_written_is_said_in_a_sentence(tree):
    (tree / "my-notebooks").write_text("a file")
    said = run(tree, sys.executable, "notebooks/mine.py", fails=True)
    assert said.startswith("mine.py: cannot write")
    assert len(said.splitlines()) == 1


# --- all or nothing -------------------------------------------------------------------------------


@pytest.mark.parametrize("moment", range(4))
def test_an_interrupt_leaves_whole_files_and_the_next_call_brings_the_rest(
    tree, deliver, moment, monkeypatch
):
    """Control-C while the first or the second file is written, or takes its place."""
    folder, seen = tree / "my-notebooks", []

    def interrupted(function):
        def called(*arguments):
            seen.append(function)
            if len(seen) > moment:
                raise KeyboardInterrupt
            return function(*arguments)

        return called

    with monkeypatch.context() as patch:
        patch.setattr("perakit.files.os.fsync", interrupted(os.fsync))
        patch.setattr("perakit.files.os.replace", interrupted(os.replace))
        with pytest.raises(KeyboardInterrupt):
            deliver()
    whole = ["01_first.ipynb"] * (moment // 2)
    assert (os.listdir(folder) if folder.exists() else []) == whole
    deliver()
    assert contents(folder) == lessons(tree)


@pytest.mark.skipif(os.name != "posix", reason="a signal that nothing can catch")
def test_a_kill_leaves_nothing_that_a_student_sees_and_the_next_call_mends_it(tree):
    code = (
        "import os, sys; sys.path.insert(0, 'notebooks'); import mine, perakit.files\n"
        "perakit.files.os.replace = lambda *_: os.kill(os.getpid(), 9)\n"
        "mine.main([])"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tree, env=environment)
    assert done.returncode == -signal.SIGKILL
    assert all(name.startswith(".") for name in os.listdir(tree / "my-notebooks"))
    run(tree, "make", "notebooks")
    assert sorted(os.listdir(tree / "my-notebooks")) == ["01_first.ipynb", "02_second.ipynb"]


def test_two_deliveries_at_once_do_not_meet(mine, tree, deliver):
    with mine.alone(tree / "my-notebooks"), pytest.raises(PerakitError, match="in use"):
        deliver()


# --- what make.py overwrites ----------------------------------------------------------------------


def change_a_letter(text):
    return text.replace("A tiny lesson", "A tiny lessen")


def add_an_output(text):
    book = json.loads(text)
    book["cells"][1]["outputs"] = [{"name": "stdout", "output_type": "stream", "text": ["41\n"]}]
    return json.dumps(book, indent=1)


def put_in_front(text):
    book = nbformat.reads(text, 4)
    book.cells.insert(0, nbformat.v4.new_markdown_cell("Ours."))
    return nbformat.writes(book)


def of_somebody_else(text):
    book = json.loads(text)
    del book["metadata"]["perakit"]
    return json.dumps(book)


@pytest.mark.parametrize("change", [change_a_letter, add_an_output, put_in_front, of_somebody_else])
def test_make_overwrites_no_notebook_that_a_person_changed(mine, tree, change):
    path = tree / "notebooks/01_first.ipynb"
    path.write_text(change(path.read_text()))
    theirs = path.read_bytes()
    with pytest.raises(PerakitError) as refused:
        sys.modules["make"].write(path.with_suffix(".py"))
    assert str(refused.value) == (
        "01_first.ipynb is not as make.py wrote it, so it is left as it is: move it out of"
        " notebooks/ if you want to keep it, delete it if not, and run this again"
    )
    assert path.read_bytes() == theirs


def test_make_writes_what_a_source_says_now_over_what_it_said_before(mine, tree):
    source, path = tree / "notebooks/01_first.py", tree / "notebooks/01_first.ipynb"
    source.write_text(source.read_text().replace("tiny", "small"))
    # JupyterLab has opened it, and saved it in its own way: nothing in it is anybody's
    book = json.loads(path.read_text())
    book["metadata"]["language_info"]["version"] = "3.12"
    path.write_text(json.dumps(book))
    sys.modules["make"].write(source)
    assert "small" in path.read_text()
