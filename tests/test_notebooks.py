"""Every notebook runs, is what its source says, and leads somewhere."""

import importlib.util
import re
from importlib import import_module
from itertools import pairwise
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[1]
spec = importlib.util.spec_from_file_location("notebooks_make", ROOT / "notebooks" / "make.py")
make = importlib.util.module_from_spec(spec)
spec.loader.exec_module(make)
LIMIT = 60  # seconds, on 2 cores; twice that where the other core is busy with another test


def test_there_are_thirteen_in_order():
    assert [source.stem[:2] for source in make.SOURCES] == [f"{k:02}" for k in range(1, 14)]


@pytest.mark.parametrize("source", make.SOURCES, ids=lambda source: source.stem)
def test_a_notebook_is_what_its_source_says_byte_for_byte(source):
    path = source.with_suffix(".ipynb")
    assert path.read_text(encoding="utf-8") == make.text(make.notebook(source)), (
        f"run: python notebooks/make.py {source.stem}"
    )
    assert not any(cell.get("outputs") for cell in nbformat.read(path, 4).cells)


# `make test` runs this one; all thirteen are run by `make docs`, and by `make test-rest`
QUICK = ("01",)


@pytest.mark.parametrize(
    "source",
    [
        pytest.param(
            source,
            id=source.stem,
            marks=[] if source.stem.startswith(QUICK) else pytest.mark.thorough,
        )
        for source in make.SOURCES
    ],
)
def test_a_notebook_runs_without_complaint(source):
    folder = ROOT / "build" / "notebooks"
    # `make docs` has run it, if it was made before: from this source, with this package
    if not make.is_fresh(source, folder):
        make.execute(source, folder)
    copy = nbformat.read(folder / f"{source.stem}.ipynb", 4)
    assert copy.metadata["perakit"]["seconds"] < 2 * LIMIT
    outputs = [output for cell in copy.cells for output in cell.get("outputs", [])]
    checked = [cell.outputs for cell in copy.cells if "self-check" in cell.metadata.get("tags", [])]
    assert all(output.text.endswith(": not answered yet.\n") for [output] in checked)
    assert [
        output.text
        for output in outputs
        if output.output_type == "stream" and output.name == "stderr"
    ] == []
    assert [
        text
        for output in outputs
        for text in output.get("data", {}).get("text/plain", "").splitlines()
        if text.startswith("<Axes")
    ] == []
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 2, (
        "figures carry the argument"
    )


@pytest.mark.parametrize("source", make.SOURCES, ids=lambda source: source.stem)
def test_a_notebook_has_a_title_and_a_way_on(source):
    cells = make.notebook(source).cells
    prose = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    headings = re.findall(r"^(#+) (.*)$", prose, flags=re.MULTILINE)
    assert headings[0] == ("#", headings[0][1])
    assert headings[0][1].startswith(source.stem[:2])
    levels = [len(marks) for marks, _ in headings]
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels)), (
        "no level of headings is skipped"
    )
    assert "assert" in "\n".join(cell.source for cell in cells if cell.cell_type == "code"), (
        "what it says is held to"
    )
    assert "Where to go next" in cells[-1].source


# --- exercises ------------------------------------------------------------------------------------

HINT = r"<details><summary>Hint %d</summary>\n\n.+?\n\n</details>"
EXERCISE = re.compile(
    r"^### Exercise (?P<number>\d+)(: [^\n]+)?\n\n"
    r"\*(?P<minutes>\d+) minutes · difficulty [1-5] of 5\*\n\n"
    rf"(?P<question>.+?)\n\n{HINT % 1}\n\n{HINT % 2}(\n\n{HINT % 3})?\Z",
    flags=re.DOTALL | re.MULTILINE,
)
HIDDEN = {"source_hidden": True, "outputs_hidden": True}


def tags(cell):
    return cell.metadata.get("tags", [])


def is_answer(cell):
    """Closed until a student opens it: code with what it prints, or prose."""
    prose = cell.source.startswith("<details><summary>Answer</summary>\n\n")
    return prose if cell.cell_type == "markdown" else tags(cell) == ["hide-cell"]


def exercises(cells):
    """(where it begins, number) of all that call themselves an exercise, however they look."""
    return [
        (k, int(number))
        for k, cell in enumerate(cells)
        if cell.cell_type == "markdown"
        for number in re.findall(r"^#+ Exercise (\d+)", cell.source, flags=re.MULTILINE)
    ]


@pytest.mark.parametrize("source", make.SOURCES, ids=lambda source: source.stem)
def test_an_exercise_has_minutes_hints_a_cell_of_the_students_and_a_closed_answer(source):
    cells, lesson = make.notebook(source).cells, source.stem[:2]
    found = exercises(cells)
    assert [number for _, number in found] == list(range(1, len(found) + 1)) != []
    for k, number in found:
        question, mine, check, answer = cells[k : k + 4]
        name, form = f"answer_{number}", EXERCISE.search(question.source)
        assert form, f"exercise {number} is not in the form of the others"
        assert 1 <= int(form["minutes"]) <= 60
        assert f"`{name}`" in form["question"], "it says what the answer is to be"
        assert tags(mine) == ["your-turn"]
        assert re.fullmatch(rf"# Your turn\n{name} = \.\.\.( *#.*)?", mine.source)
        call = f'pk.classroom.self_check("{lesson}.{number}", {name})'
        assert (tags(check), check.source) == (["self-check"], call)
        assert is_answer(answer), f"exercise {number} has no answer"
    asked = {k + offset for k, _ in found for offset in (1, 2)}
    for k, cell in enumerate(cells):
        if k not in asked:
            assert not {"your-turn", "self-check"} & set(tags(cell))
            assert cell.cell_type == "markdown" or not re.search(r"\banswer_\d", cell.source), (
                "a cell of ours needs a student's answer"
            )
        if "hide-cell" in tags(cell):
            assert cell.metadata["jupyter"] == HIDDEN, "closed in JupyterLab as on the site"
            assert "assert" in cell.source


@pytest.mark.parametrize("source", make.SOURCES, ids=lambda source: source.stem)
def test_each_exercise_has_its_self_check_and_each_check_its_exercise(source):
    lesson = import_module(f"perakit.classroom.exercises.lesson{source.stem[:2]}")
    assert list(lesson.CHECKS) == [number for _, number in exercises(make.notebook(source).cells)]


def anchors(path):
    """The places in a page or notebook that a link can name."""
    text = (
        path.read_text(encoding="utf-8")
        if path.suffix == ".md"
        else "\n".join(cell.source for cell in nbformat.read(path, 4).cells)
    )
    headings = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    slugs = {
        re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings
    }
    return slugs | set(re.findall(r'<a id="([^"]+)">', text))


@pytest.mark.parametrize("source", make.SOURCES, ids=lambda source: source.stem)
def test_the_links_of_a_notebook_lead_somewhere(source):
    prose = "\n".join(
        cell.source for cell in make.notebook(source).cells if cell.cell_type == "markdown"
    )
    targets = [
        target
        for target in re.findall(r"\]\(([^)\s]+)\)", prose)
        if not re.match(r"[a-z]+:", target)
    ]
    broken = []
    for target in targets:
        name, _, anchor = target.partition("#")
        path = (source.parent / name) if name else source.with_suffix(".ipynb")
        if not path.exists() or (anchor and anchor not in anchors(path)):
            broken.append(target)
    assert broken == []


def test_a_notebook_that_fails_is_noticed_and_leaves_no_copy(tmp_path):
    source = tmp_path / "99_broken.py"
    source.write_text("# %%\nassert 1 == 2\n")
    with pytest.raises(make.CellExecutionError, match="assert 1 == 2"):
        make.execute(source, tmp_path / "copies")
    assert not make.is_fresh(source, tmp_path / "copies")


def test_a_copy_is_fresh_until_its_source_changes(tmp_path):
    source = tmp_path / "99_small.py"
    source.write_text("# %%\n1 + 1\n")
    make.execute(source, tmp_path)
    assert make.is_fresh(source, tmp_path)
    source.write_text("# %%\n1 + 2\n")
    assert not make.is_fresh(source, tmp_path)


def test_what_follows_a_figure_of_ours_is_shown_too(tmp_path):
    """Jupyter's backend is loaded by the first figure; within a style's context it would be
    switched off again at the end.
    """
    source = tmp_path / "99_figures.py"
    cells = (
        "from perakit import plots",
        "_ = plots.plot_matrix([[1]])",
        "import matplotlib.pyplot as plt\n_ = plt.figure().gca()",
    )
    source.write_text("".join(f"# %%\n{cell}\n" for cell in cells))
    make.execute(source, tmp_path)
    executed = nbformat.read(tmp_path / "99_figures.ipynb", 4).cells
    assert [
        any("image/png" in output.get("data", {}) for output in cell.outputs) for cell in executed
    ] == [False, True, True]
