"""The self-checks of notebooks 07 to 13: right, not yet, not answered, and never the answer."""

import importlib
import importlib.util
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import nbformat
import pytest

import perakit as pk
from perakit.classroom.checks import Wrong
from perakit.classroom.exercises import answers, lesson10, lesson13
from perakit.errors import PerakitError

ROOT = Path(__file__).parents[2]
spec = importlib.util.spec_from_file_location("notebooks_make", ROOT / "notebooks" / "make.py")
make = importlib.util.module_from_spec(spec)
spec.loader.exec_module(make)
LESSONS = ("07", "08", "09", "10", "11", "12", "13")
SOURCES = [source for source in make.SOURCES if source.stem[:2] in LESSONS]


@dataclass(frozen=True)
class Sample:
    """Code that sets `answer`: one that is right, and some that are not.

    secret: what no message may show.
    """

    right: str
    wrong: tuple[str, ...]
    secret: tuple[str, ...] = ()


PRELUDE = """
import numpy as np
import torch
import perakit as pk
from perakit import formulas, theory
"""

RECOVER = """
def answer(merged, W0):
    E = merged - W0
    V = np.linalg.svd(E)[0][:, :2]
    squares = np.stack([V[:, 0] ** 2, V[:, 0] * V[:, 1], V[:, 1] ** 2], axis=1)
    p, q, s = np.linalg.svd(squares - V @ (V.T @ squares))[2][-1]
    x = V @ (np.array([p, q / 2]) if abs(p) > abs(s) else np.array([q / 2, s]))
    a, c = np.linalg.lstsq(np.stack([x, x * x], axis=1), E, rcond=None)[0]
    return x, a, (c @ (a * a)) / ((a * a) @ (a * a))
"""

METHOD = """
from dataclasses import dataclass
from perakit.adapters.base import Adapter, Method, start_factors

class KernelAdapter(Adapter):
    def reset(self, W0):
        start_factors(self.method, self.B, self.A)
        torch.nn.init.zeros_(self.c)

@dataclass(frozen=True)
class Mine(Method):
    name = "mine"
    adapter = KernelAdapter

    def shapes(self, m, n):
        return super().shapes(m, n) | {"c": (1,)}

    def rank_bound(self, m, n):
        return min(m, n, formulas.rank_bound(self.rank))

    def update(self, W0, **factors):
        product = factors["B"] @ factors["A"]
        return self.scale * (product + factors["c"] * product * product)

answer = Mine(rank=2)
"""

COEFFICIENTS = """
from math import factorial, prod

def answer(rank, c2, c3):
    c = {2: c2, 3: c3}
    return [
        c[len(row)] * factorial(len(row))
        / prod(factorial(k) for k in np.unique(row, return_counts=True)[1].tolist())
        for block in formulas.monomials(rank, "full", 3) for row in block.T
    ]
"""

CONSTANT = """
def answer(B, A):
    ones = np.ones
    return np.c_[B, ones(len(B))], np.r_[A, ones((1, A.shape[1]))], [1, 2, 1, 1, 1, 0]
"""

SEARCH = """
found = theory.best_approximation(
    theory.targets(8, 10, seed=4)["gaussian"], pk.PERA(1), starts=8
).factors
answer = tuple(found[name] for name in "BAh")
"""

LORA = """
U, s, Vt = np.linalg.svd(theory.targets(8, 10, seed=4)["gaussian"])
answer = U[:, :1] * s[:1], Vt[:1], np.zeros(1)
"""

SAMPLES = {
    "07.1": Sample(
        SEARCH,
        (
            LORA,
            "answer = np.zeros((8, 1)), np.zeros((1, 10)), np.zeros(1)",
            "answer = 'lower'",
            "answer = np.ones((10, 1)), np.ones((1, 8)), np.ones(1)",
        ),
    ),
    "07.2": Sample(
        "answer = -0.5", ("answer = 0.5", "answer = 0", "answer = -0.25"), ("0.5", "1/2")
    ),
    "07.3": Sample("answer = 55", ("answer = 54", "answer = 56", "answer = 39.2"), ("55",)),
    "07.4": Sample(
        RECOVER,
        (
            RECOVER.replace("E = merged - W0", "E = merged"),
            RECOVER.replace("q / 2", "q"),
            RECOVER.replace("return x, a, (c", "return x, a, -(c"),
            "answer = lambda merged, W0: (merged[:, 0], merged[0], 0)",
            "answer = theory.recover",
        ),
    ),
    "07.5": Sample(
        """
def answer(B, A):
    X = np.array([[1, 1], [0, 1]])
    return B @ X, np.linalg.inv(X) @ A
""",
        (
            "answer = lambda B, A: (B, A)",
            "answer = lambda B, A: (2 * B[:, ::-1], A[::-1] / 2)",
            "answer = lambda B, A: (B @ np.array([[1, 1], [0, 1]]), A)",
        ),
    ),
    "07.6": Sample(
        "answer = 14, 522, 512",
        ("answer = 4, 522, 512", "answer = 14, 512, 522", "answer = 14, 526, 512", "answer = 14"),
        ("14", "522", "512"),
    ),
    "08.1": Sample(
        COEFFICIENTS,
        (
            COEFFICIENTS.replace("factorial(len(row))", "len(row)"),
            "answer = lambda rank, c2, c3: [c2] * 3 + [c3] * 4",
            "answer = COEFFICIENTS = [1, 2, 1]",
        ),
    ),
    "08.2": Sample(
        CONSTANT,
        (
            CONSTANT.replace("[1, 2, 1, 1, 1, 0]", "[1, 2, 1, 1, 1, 1]"),
            CONSTANT.replace("[1, 2, 1, 1, 1, 0]", "[1, 2, 2, 1, 2, 1]"),
            "answer = lambda B, A: (B, A, [1, 2, 1])",
        ),
        ("1, 2, 1, 1, 1, 0", "[1,2,1,1,1,0]"),
    ),
    "08.3": Sample(
        "answer = [[0, 2]]",
        (
            "answer = [[0, 1]]",
            "answer = [[3, 0], [0, 1], [1, 1]]",
            "answer = [0, 2]",
            "answer = []",
            "answer = [[1, 2, 3]]",
        ),
    ),
    "08.4": Sample(
        "answer = np.eye(2), np.eye(2), np.array([[1, 0], [0, 2]])",
        (
            "answer = np.zeros((2, 2)), np.eye(2), np.ones((2, 2))",
            "answer = np.eye(2), np.eye(2), np.array([[0.5, 0], [0, 2]])",
            "answer = np.eye(3), np.eye(3), np.eye(3)",
        ),
    ),
    "09.1": Sample(
        "answer = 7, 8",
        ("answer = 8, 9", "answer = 7, 7", "answer = 8, 8", "answer = 7"),
        ("7", "8"),
    ),
    "09.2": Sample(
        """
from perakit.models import nf4
answer = (nf4.levels()[6] / 2, nf4.levels()[8] / 2)
""",
        ("answer = -0.0398, 0.0398", "answer = -0.091, 0.0796", "answer = 0.0398, -0.0455"),
        ("0.0398", "0.0455", "0.04", "0.05"),
    ),
    "09.3": Sample(
        "answer = 9.8", ("answer = 1 / 9.8", "answer = 3", "answer = -9.8"), ("9.", "10")
    ),
    "09.4": Sample(
        "answer = 30 * 768**2, 768**2 + 30 * (8 * 2 * 768 + 36)",
        (
            "answer = 30 * 768**2, 768**2 + 30 * 8 * 2 * 768",
            "answer = 30 * 768**2, 30 * (8 * 2 * 768 + 36)",
            "answer = 768**2, 768**2 + 30 * (8 * 2 * 768 + 36)",
        ),
        ("17694720", "17,694,720", "959544", "959,544"),
    ),
    "10.1": Sample(
        "answer = {'A', 'h'}",
        ("answer = {'h'}", "answer = {'B', 'h'}", "answer = set()", "answer = 'A'"),
        ("{'A', 'h'}", "{'h', 'A'}"),
    ),
    "10.2": Sample(
        "answer = theory.predicted_share(n=4096, rank=16, lr=1e-4, steps=1000).high",
        (
            "answer = theory.predicted_share(n=4096, rank=16, lr=1e-4, steps=1000).low",
            "answer = theory.predicted_share(n=192, rank=8, lr=0.005, steps=20).high",
            "answer = 1.5",
        ),
        ("3.2", "0.0003"),
    ),
    "10.3": Sample(
        "answer = {0.012, 0.024, 0.048}",
        (
            "answer = {0.012}",
            "answer = {0.003, 0.006}",
            "answer = {0.01}",
            "answer = set()",
            "answer = 0.012",
        ),
        ("0.012", "0.024", "0.048"),
    ),
    "10.4": Sample(
        "answer = {(0.006, 0.006), (0.006, 0.012), (0.012, 0.006), (0.012, 0.012)}",
        (
            "answer = {(0.006, 0.012)}",
            "answer = {(0.006, 0.006), (0.012, 0.012)}",
            "answer = {(a, b) for a in (0.006, 0.012) for b in (0.006, 0.012, 0.024)}",
            "answer = {0.006, 0.012}",
            "answer = {(0.006, 0.006), (0.006, 0.012), (0.012, 0.012)}",
        ),
        ("0.006", "0.012"),
    ),
    "10.5": Sample("answer = 6", ("answer = 5", "answer = 7", "answer = 3"), ("6",)),
    "11.1": Sample(
        "answer = 'rows scaled', 'HiRA', 1",
        (
            "answer = 'rows scaled', 'DoRA', 3",
            "answer = 'rows scaled', 'HiRA', 4",
            "answer = 'low rank', 'PERA', 2",
            "answer = 'rows scaled'",
        ),
        ("rows scaled", "HiRA"),
    ),
    "11.2": Sample(
        """
def answer(E, side):
    return np.array([[E[p::side, q::side].mean() for q in range(side)] for p in range(side)])
""",
        (
            "answer = lambda E, side: E[:side, :side]",
            "answer = lambda E, side: np.zeros((side, side))",
            """
def answer(E, side):
    return np.array([[E[p::side, q::side].sum() for q in range(side)] for p in range(side)])
""",
            "answer = np.zeros((11, 11))",
        ),
    ),
    "11.3": Sample(
        METHOD,
        (
            METHOD.replace("self.scale * ", "") + "\nanswer = Mine(rank=2, alpha=4)",
            METHOD.replace("start_factors(self.method, self.B, self.A)", "pass"),
            METHOD.replace("product * product)", "product)"),
            METHOD.replace("Mine(rank=2)", "Mine"),
            "answer = pk.PERA(2)",
        ),
    ),
    "12.1": Sample(
        "answer = 0, 0.8",
        ("answer = 0, 0", "answer = 0.8, 0.8", "answer = 0, 1", "answer = 0"),
        ("0.8",),
    ),
    "12.2": Sample(
        "answer = lambda d: 1 / abs(np.outer(d, d))",
        (
            "answer = lambda d: 1 / np.outer(d, d)",
            "answer = lambda d: abs(np.outer(d, d))",
            "answer = lambda d: 1 / abs(d)",
        ),
        ("outer", "1/"),
    ),
    "12.3": Sample(
        "answer = 1.3**-0.5",
        ("answer = 1.3", "answer = 1 / 1.3", "answer = 1.3**0.5", "answer = -0.877"),
        ("0.87", "0.88"),
    ),
    "13.1": Sample(
        "answer = 0.1 + 0.2, 1.0, -0.3, 0.7",
        (
            "answer = 1.0, 2.0, 3.0, 4.0",
            "answer = 1.0, 1.0, -1.0, 1.0",
            "answer = 1e200, 1e200, -1.0, 1.0",
            "answer = 1.0, 1.0",
        ),
    ),
    "13.2": Sample(
        """
def answer(f, B, A, h):
    i, j = np.triu_indices(B.shape[1])
    return np.array_equal(f(B, A, np.where(i == j, 1, 2)), B @ A + (B @ A) ** 2)
""",
        (
            "answer = lambda f, B, A, h: np.array_equal(f(B, A, 0 * h), B @ A)",
            "answer = lambda f, B, A, h: np.array_equal(f(B, A, h), B @ A)",
            "answer = lambda f, B, A, h: f(B, A, h).shape == (len(B), A.shape[1])",
            "answer = True",
        ),
        ("np.where", "(BA)"),
    ),
    "13.3": Sample(
        "answer = [[0, 1], [1, 1]], [[1], [1]], [[1, 1]]",
        (
            "answer = [[1, 1], [1, 1]], [[1], [1]], [[1, 1]]",
            "answer = [[0, 1], [1, 1]], [[1, 0], [1, 0]], [[1, 1], [0, 0]]",
            "answer = [[0, 1], [1, 1]], [[1, 1]], [[1], [1]]",
            "answer = [[0, 0.5], [1, 1]], [[1], [1]], [[1, 1]]",
        ),
    ),
    "13.4": Sample(
        "answer = 0.999**100",
        ("answer = 0.1", "answer = 1 - 0.999**100", "answer = 1 - 100 / 1000", "answer = 90.5"),
        ("0.90", "0.91"),
    ),
}


@pytest.fixture
def said(capsys, monkeypatch):
    """said(exercise, code) is what the self-check prints about the answer that the code makes."""
    monkeypatch.setattr(pk.Method, "registry", dict(pk.Method.registry))  # of one test only

    def said(exercise, code):
        student = ModuleType("student")  # pickle finds a class by its module
        monkeypatch.setitem(sys.modules, "student", student)
        exec(PRELUDE + code, vars(student))
        capsys.readouterr()
        pk.classroom.self_check(exercise, student.answer)
        return capsys.readouterr().out

    return said


def test_every_exercise_has_samples():
    assert list(SAMPLES) == [
        f"{lesson}.{number}"
        for lesson in LESSONS
        for number in importlib.import_module(f"perakit.classroom.exercises.lesson{lesson}").CHECKS
    ]


@pytest.mark.parametrize("exercise", SAMPLES)
def test_a_right_answer_is_right(exercise, said):
    assert said(exercise, SAMPLES[exercise].right) == f"Exercise {exercise[3:]}: right.\n"


@pytest.mark.parametrize(
    ("exercise", "number"), [(one, k) for one in SAMPLES for k in range(len(SAMPLES[one].wrong))]
)
def test_a_wrong_answer_is_not_yet_right_and_nothing_is_given_away(exercise, number, said):
    sample = SAMPLES[exercise]
    text = said(exercise, sample.wrong[number])
    assert text.startswith(f"Exercise {exercise[3:]}: not yet. ")
    assert text.strip().endswith((".", "?")) or "Error: " in text
    sentence = text.partition("not yet. ")[2]
    assert not [secret for secret in sample.secret if secret in sentence], text


@pytest.mark.parametrize("exercise", SAMPLES)
@pytest.mark.parametrize(
    "answer", ["None", "'?'", "True", "(..., ...)", "float('nan')", "object()"]
)
def test_what_is_no_answer_at_all_is_not_right(exercise, answer, said):
    assert "not yet. " in said(exercise, f"answer = {answer}")


@pytest.mark.parametrize("exercise", SAMPLES)
def test_nothing_is_not_answered_yet(exercise, capsys):
    pk.classroom.self_check(exercise, ...)
    assert capsys.readouterr().out == f"Exercise {exercise[3:]}: not answered yet.\n"


# --- the notebooks --------------------------------------------------------------------------------


def tagged(source, tag):
    return [cell for cell in make.notebook(source).cells if tag in cell.metadata.get("tags", [])]


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_each_exercise_has_its_cell_its_check_minutes_difficulty_and_two_hints(source):
    lesson = source.stem[:2]
    numbers = [int(one[3:]) for one in SAMPLES if one.startswith(lesson)]
    prose = "\n".join(
        cell.source for cell in make.notebook(source).cells if cell.cell_type == "markdown"
    )
    parts = re.split(r"^### Exercise (\d+).*$", prose, flags=re.MULTILINE)
    assert [int(number) for number in parts[1::2]] == numbers
    for text in parts[2::2]:
        minutes, difficulty = re.match(
            r"\s*\*(\d+) minutes · difficulty ([1-5]) of 5\*\n", text
        ).groups()
        assert 1 <= int(minutes) <= 60, difficulty
        assert [f"<summary>Hint {k}</summary>" in text for k in (1, 2, 3)] == [True, True, False]
        assert text.count("<details>") == text.count("</details>")
    assert [cell.source.splitlines()[:1] for cell in tagged(source, "your-turn")] == [
        ["# Your turn"]
    ] * len(numbers)
    assert [cell.source for cell in tagged(source, "self-check")] == [
        f'pk.classroom.self_check("{lesson}.{number}", answer_{number})' for number in numbers
    ]


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_no_cell_reads_a_student_answer_but_its_check(source):
    mine = ("your-turn", "self-check")
    for cell in make.notebook(source).cells:
        if not set(mine) & set(cell.metadata.get("tags", [])) and cell.cell_type == "code":
            assert not re.search(r"\banswer_\d", cell.source), cell.source
            assert max(map(len, cell.source.splitlines())) <= 100


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_answers_are_hidden_with_their_output(source):
    for cell in tagged(source, "hide-cell"):
        assert cell.metadata.jupyter == {"source_hidden": True, "outputs_hidden": True}


@pytest.mark.thorough
@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_a_notebook_runs_with_right_answers_in_it(source, tmp_path):
    lesson, text = source.stem[:2], source.read_text(encoding="utf-8")
    for number in re.findall(r"^answer_(\d+) = \.\.\.", text, flags=re.MULTILINE):
        code = re.sub(r"\banswer\b", f"answer_{number}", SAMPLES[f"{lesson}.{number}"].right)
        text = re.sub(rf"^answer_{number} = \.\.\..*$", lambda _: code, text, flags=re.MULTILINE)  # noqa: B023
    filled = tmp_path / source.name
    filled.write_text(text, encoding="utf-8")
    make.execute(filled, tmp_path / "copies")
    cells = nbformat.read(tmp_path / "copies" / f"{source.stem}.ipynb", 4).cells
    found = [
        cell.outputs[0].text for cell in cells if "self-check" in cell.metadata.get("tags", [])
    ]
    assert found == [f"Exercise {k + 1}: right.\n" for k in range(len(found))]
    assert len(found) == len([one for one in SAMPLES if one.startswith(lesson)])


# --- what the checks stand on ---------------------------------------------------------------------


def test_stored_results_that_are_not_there_are_said(monkeypatch, tmp_path):
    monkeypatch.setattr(lesson10.perakit, "__file__", str(tmp_path / "perakit" / "__init__.py"))
    monkeypatch.chdir(tmp_path)
    lesson10.stored.cache_clear()
    with pytest.raises(PerakitError, match=r"docs/results/rank\.jsonl is not here: it comes with"):
        lesson10.stored("rank")
    monkeypatch.chdir(ROOT / "docs" / "results")  # from a folder of the repository they are found
    assert lesson10.stored("rank").labels()
    lesson10.stored.cache_clear()


def test_a_rate_that_diverged_is_no_possible_one(monkeypatch):
    def row(role, seed, lr, cost):
        settings = {"recipe": {"seed": seed, "lr": lr}}
        measured = {"validation": cost}
        return {"label": "X", "role": role, "settings": settings, "measured": measured}

    rows = [row("tuning", 9, 1, 2.0), row("tuning", 9, 2, 2.05), row("tuning", 9, 4, None)]
    rows += [row("tuning", 9, 0.5, 2.2)] + [row("judged", k, 1, 2 + k / 10) for k in (0, 1)]
    results = lesson10.Results({"options": {}}, rows)
    monkeypatch.setattr(lesson10, "stored", lambda name: results)
    assert lesson10.tuned("any") == {"X": {0.5: 2.2, 1: 2.0, 2: 2.05, 4: float("inf")}}
    assert lesson10.possible_rates("any", "X") == [1, 2]  # two seeds, 0.1 apart: scatter 0.07


def test_the_check_of_a_relation_tries_layers_that_show_cross_terms():
    shapes = [(len(B), A.shape[1], B.shape[1]) for B, A, _ in lesson13._pool()]
    assert any(rank > 1 for *_, rank in shapes)
    assert all(m != n for m, n, _ in shapes[:4])


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: answers.number([1, 2]), "The answer is to be one number."),
        (lambda: answers.number(True), "The answer is to be one number."),
        (lambda: answers.number(1j), "The answer is to be made of finite real numbers."),
        (lambda: answers.whole(1.5, "K"), "K is to be a whole number."),
        (lambda: answers.array("two"), "The answer is to be made of numbers."),
        (lambda: answers.array([[1], [2, 3]]), "The answer is to be made of numbers."),
        (
            lambda: answers.array([1], "h", (3,)),
            "h has the shape (1,), and is to have (3,).",
        ),
        (lambda: answers.several(3, "m", "n"), "The answer is to be 2 values: (m, n)."),
        (
            lambda: answers.arrays(([1], [float("inf")]), b=None, a=None),
            "a is to be made of finite real numbers.",
        ),
        (
            lambda: answers.function(3, "(B, A)"),
            "The answer is to be a function of (B, A): give its name, and do not call it.",
        ),
    ],
)
def test_an_answer_of_another_form_is_told_the_form(call, sentence):
    with pytest.raises(Wrong) as error:
        call()
    assert str(error.value) == sentence
