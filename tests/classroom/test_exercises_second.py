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
    """Code that sets `answer`: one that is right, and some that are not, with what is said.

    secret: what no message may show.
    """

    right: str
    wrong: tuple[tuple[str, str], ...]
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
mine = theory.best_approximation(
    theory.targets(8, 10, seed=4)["gaussian"], pk.PERA(1), starts=8
).factors
answer = tuple(mine[name] for name in "BAh")
"""

LORA = """
U, s, Vt = np.linalg.svd(theory.targets(8, 10, seed=4)["gaussian"])
answer = U[:, :1] * s[:1], Vt[:1], np.zeros(1)
"""

NEARER_IN_BOTH = """
b = [0.09, 1.47, -0.34, 0.01, -0.07, 0.4, 0.49, 2.02]
a = [0.86, 0.5, -0.25, 0.77, -0.44, 2.77, -0.67, 3.56, -0.62, -0.66]
answer = np.array([b]).T, np.array([a]), np.array([-0.14])
"""

SAMPLES = {
    "07.1": Sample(
        SEARCH,
        (
            (LORA, "In Frobenius norm this update is no nearer to E than LoRA's best."),
            (
                "answer = np.zeros((8, 1)), np.zeros((1, 10)), np.zeros(1)",
                "In Frobenius norm this update is no nearer to E than LoRA's best.",
            ),
            ("answer = 'lower'", "The answer is to be 3 values: (B, A, h)."),
            (
                "answer = np.ones((10, 1)), np.ones((1, 8)), np.ones(1)",
                "B has the shape (10, 1), and is to have (8, 1).",
            ),
            (NEARER_IN_BOTH, "In spectral norm this update is as near to E as LoRA's best."),
        ),
    ),
    "07.2": Sample(
        "answer = -0.5",
        (
            ("answer = 0.5", "The sign is wrong: a positive h lowers the error here."),
            ("answer = 0", "It is not zero at this v: b∘b and the residual meet."),
            ("answer = -0.25", "The sign is right, the size is not."),
        ),
        ("0.5", "1/2"),
    ),
    "07.3": Sample(
        "answer = 55",
        (
            ("answer = 54", "At this rank the coefficients still cost less."),
            ("answer = 56", "A smaller rank is enough."),
            ("answer = 39.2", "The answer is to be a whole number."),
            ("answer = 0", "A rank is at least 1."),
        ),
        ("55",),
    ),
    "07.4": Sample(
        RECOVER,
        (
            (
                RECOVER.replace("E = merged - W0", "E = merged"),
                "On a layer of 8 x 10 the factors found make another update",
            ),
            (
                RECOVER.replace("q / 2", "q"),
                "On a layer of 8 x 10 the factors found make another update",
            ),
            (
                RECOVER.replace("return x, a, (c", "return x, a, -(c"),
                "On a layer of 8 x 10 the factors found make another update",
            ),
            (
                "answer = lambda merged, W0: (merged[:, 0], merged[0], 0)",
                "On a layer of 8 x 10 the factors found make another update",
            ),
            ("answer = theory.recover", "PerakitError: array"),
            (
                "answer = lambda merged, W0: (merged[0], merged[:, 0], 0)",
                "On a layer of 8 x 10 b is to have 8 entries, a 10, and h one.",
            ),
        ),
    ),
    "07.5": Sample(
        """
def answer(B, A):
    X = np.array([[1, 1], [0, 1]])
    return B @ X, np.linalg.inv(X) @ A
""",
        (
            (
                "answer = lambda B, A: (B, A)",
                "Each of these columns is one of the old ones, up to a factor",
            ),
            (
                "answer = lambda B, A: (2 * B[:, ::-1], A[::-1] / 2)",
                "Each of these columns is one of the old ones, up to a factor",
            ),
            (
                "answer = lambda B, A: (B @ np.array([[1, 1], [0, 1]]), A)",
                "With these factors and h = (1, 2, 1) the update is another one.",
            ),
        ),
    ),
    "07.6": Sample(
        "answer = 14, 522, 512",
        (
            ("answer = 4, 522, 512", "The rank K is not right."),
            ("answer = 14, 512, 522", "PERA's count is not right."),
            ("answer = 14, 526, 512", "PERA's count is not right."),
            (
                "answer = 14",
                "The answer is to be 3 values: (The rank K, PERA's count, LoRA's count).",
            ),
        ),
        ("14", "522", "512"),
    ),
    "08.1": Sample(
        COEFFICIENTS,
        (
            (
                COEFFICIENTS.replace("factorial(len(row))", "len(row)"),
                "At rank 1, c2 = 2, c3 = 3 the update is another one.",
            ),
            (
                "answer = lambda rank, c2, c3: [c2] * 3 + [c3] * 4",
                "h has the shape (7,), and is to have (2,).",
            ),
            (
                "answer = [1, 2, 1]",
                "The answer is to be a function of (rank, c2, c3)",
            ),
        ),
    ),
    "08.2": Sample(
        CONSTANT,
        (
            (
                CONSTANT.replace("[1, 2, 1, 1, 1, 0]", "[1, 2, 1, 1, 1, 1]"),
                "The update of these factors is not (1 + BA)∘(1 + BA).",
            ),
            (
                CONSTANT.replace("[1, 2, 1, 1, 1, 0]", "[1, 2, 2, 1, 2, 1]"),
                "The update of these factors is not (1 + BA)∘(1 + BA).",
            ),
            (
                "answer = lambda B, A: (B, A, [1, 2, 1])",
                "B has the shape (4, 2), and is to have (4, 3).",
            ),
        ),
        ("1, 2, 1, 1, 1, 0", "[1,2,1,1,1,0]"),
    ),
    "08.3": Sample(
        "answer = [[0, 2]]",
        (
            (
                "answer = [[0, 1]]",
                "At these points the table has no negative eigenvalue: a kernel would pass, too.",
            ),
            (
                "answer = [[3, 0], [0, 1], [1, 1]]",
                "At these points the table has no negative eigenvalue: a kernel would pass, too.",
            ),
            ("answer = [0, 2]", "Give the points as rows of two numbers."),
            ("answer = []", "Give the points as rows of two numbers."),
            ("answer = [[1, 2, 3]]", "Give the points as rows of two numbers."),
        ),
    ),
    "08.4": Sample(
        "answer = np.eye(2), np.eye(2), np.array([[1, 0], [0, 2]])",
        (
            (
                "answer = np.zeros((2, 2)), np.eye(2), np.ones((2, 2))",
                "With these numbers the step stays in the slice.",
            ),
            (
                "answer = np.eye(2), np.eye(2), np.array([[0.5, 0], [0, 2]])",
                "Give whole numbers, to be exact.",
            ),
            (
                "answer = np.eye(3), np.eye(3), np.eye(3)",
                "The shapes are to be (m, 2), (2, n) and (m, n).",
            ),
        ),
    ),
    "09.1": Sample(
        "answer = 7, 8",
        (
            ("answer = 8, 9", "Upwards: 2^-k does not move the 1."),
            ("answer = 7, 7", "Downwards: half of 2^-k moves it, too."),
            ("answer = 8, 8", "Upwards: 2^-k does not move the 1."),
            ("answer = 7", "The answer is to be 2 values: (k upwards, k downwards)."),
        ),
        ("7", "8"),
    ),
    "09.2": Sample(
        """
from perakit.models import nf4
answer = (nf4.levels()[6] / 2, nf4.levels()[8] / 2)
""",
        (
            ("answer = -0.0398, 0.0398", "The lower end is not right."),
            (
                "answer = -0.091, 0.0796",
                "The lower end: this weight is nearer to the next level than to 0.",
            ),
            ("answer = 0.0398, -0.0455", "One end lies below 0 and the other above."),
        ),
        ("0.0398", "0.0455", "0.04", "0.05"),
    ),
    "09.3": Sample(
        "answer = 9.8",
        (
            ("answer = 1 / 9.8", "The other one of the two changes the output more."),
            (
                "answer = 3",
                "Not within 15 % of it",
            ),
            ("answer = -9.8", "A ratio of two distances is positive."),
            (
                "answer = 5",
                "Not within 15 % of it",
            ),
        ),
        ("9.", "10"),
    ),
    "09.4": Sample(
        "answer = 30 * 768**2, 768**2 + 30 * (8 * 2 * 768 + 36)",
        (
            ("answer = 30 * 768**2, 768**2 + 30 * 8 * 2 * 768", "The count factored is not right."),
            ("answer = 30 * 768**2, 30 * (8 * 2 * 768 + 36)", "The count factored is not right."),
            ("answer = 768**2, 768**2 + 30 * (8 * 2 * 768 + 36)", "The count merged is not right."),
        ),
        ("17694720", "17,694,720", "959544", "959,544"),
    ),
    "10.1": Sample(
        "answer = {'A', 'h'}",
        (
            ("answer = {'h'}", "One is missing whose gradient is zero."),
            ("answer = {'B', 'h'}", "One of these has a gradient that is not zero."),
            ("answer = set()", "One is missing whose gradient is zero."),
            ("answer = 'A'", 'The answer is to be a set of letters out of "B", "A", "h".'),
            ("answer = {'B', 'x'}", 'Only the letters "B", "A" and "h" may stand in it.'),
        ),
        ("{'A', 'h'}", "{'h', 'A'}"),
    ),
    "10.2": Sample(
        "answer = theory.predicted_share(n=4096, rank=16, lr=1e-4, steps=1000).high",
        (
            (
                "answer = theory.predicted_share(n=4096, rank=16, lr=1e-4, steps=1000).low",
                "That is not the upper end of the band.",
            ),
            (
                "answer = theory.predicted_share(n=192, rank=8, lr=0.005, steps=20).high",
                "That is not the upper end of the band.",
            ),
            (
                "answer = 1.5",
                "The share of this forecast is a number between 0 and 1, no percentage.",
            ),
            ("answer = 0.032", "That is not the upper end of the band."),
        ),
        ("3.2", "0.0003"),
    ),
    "10.3": Sample(
        "answer = {0.012, 0.024, 0.048}",
        (
            ("answer = {0.012}", "A rate is missing at which rank 1 has the lower cost."),
            (
                "answer = {0.003, 0.006}",
                "At one of these rates, at least, rank 32 has the lower cost.",
            ),
            ("answer = {0.01}", "Only rates of the grid may stand in it."),
            ("answer = set()", "A rate is missing at which rank 1 has the lower cost."),
            ("answer = 0.012", "The answer is to be a set of learning rates."),
            (
                "answer = {0.006, 0.012, 0.024, 0.048}",
                "At one of these rates, at least, rank 32 has the lower cost.",
            ),
            ("answer = {0.024, 0.048}", "A rate is missing at which rank 1 has the lower cost."),
        ),
        ("0.012", "0.024", "0.048"),
    ),
    "10.4": Sample(
        "answer = {(0.006, 0.006), (0.006, 0.012), (0.012, 0.006), (0.012, 0.012)}",
        (
            ("answer = {(0.006, 0.012)}", "A possible rate of LoRA is missing."),
            (
                "answer = {(0.006, 0.006), (0.012, 0.012)}",
                "The rates are right, but not all of their pairs are there.",
            ),
            (
                "answer = {(a, b) for a in (0.006, 0.012) for b in (0.006, 0.012, 0.024)}",
                "One of DoRA's rates costs more than the best one and the scatter together.",
            ),
            ("answer = {0.006, 0.012}", "A pair has the shape (), and is to have (2,)."),
            (
                "answer = {(0.006, 0.006), (0.006, 0.012), (0.012, 0.012)}",
                "The rates are right, but not all of their pairs are there.",
            ),
            ("answer = {(0.007, 0.006)}", "LoRA was not tried at all of these rates."),
            ("answer = {(0.006, 0.024)}", "A possible rate of LoRA is missing."),
            ("answer = {(0.006, 0.006), (0.012, 0.006)}", "A possible rate of DoRA is missing."),
            ("answer = 4", "The answer is to be a set of pairs, (LoRA's rate, DoRA's rate)."),
        ),
        ("0.006", "0.012"),
    ),
    "10.5": Sample(
        "answer = 6",
        (
            ("answer = 5", "So many coins show the same side more often than that."),
            ("answer = 7", "Fewer seeds are enough."),
            ("answer = 3", "So many coins show the same side more often than that."),
            ("answer = 0", "It takes one seed at least."),
        ),
        ("6",),
    ),
    "11.1": Sample(
        "answer = 'rows scaled', 'HiRA', 1",
        (
            (
                "answer = 'rows scaled', 'DoRA', 3",
                "For this method the target was made: which other one has a zero there?",
            ),
            ("answer = 'rows scaled', 'HiRA', 4", "The rank is not the smallest that is enough."),
            ("answer = 'low rank', 'PERA', 2", "This target is not the one."),
            (
                "answer = 'rows scaled'",
                "The answer is to be 3 values: (the target, the method, the rank).",
            ),
            ("answer = 'tiled', 'MoRA', 1", "This target is not the one."),
            ("answer = 'rows scaled', 'PERA', 1", "This method has no zero on that target."),
            (
                "answer = 1, 2, 3",
                "Target and method are to be given by their names in the picture.",
            ),
        ),
        ("rows scaled", "HiRA"),
    ),
    "11.2": Sample(
        """
def answer(E, side):
    return np.array([[E[p::side, q::side].mean() for q in range(side)] for p in range(side)])
""",
        (
            (
                "answer = lambda E, side: E[:side, :side]",
                "On a target of 8 x 8 with side 3 there is a square that comes nearer.",
            ),
            (
                "answer = lambda E, side: np.zeros((side, side))",
                "On a target of 8 x 8 with side 3 there is a square that comes nearer.",
            ),
            (
                """
def answer(E, side):
    return np.array([[E[p::side, q::side].sum() for q in range(side)] for p in range(side)])
""",
                "On a target of 8 x 8 with side 3 there is a square that comes nearer.",
            ),
            (
                "answer = np.zeros((11, 11))",
                "The answer is to be a function of (E, side)",
            ),
        ),
    ),
    "11.3": Sample(
        METHOD,
        (
            (
                METHOD.replace("self.scale * ", "") + "\nanswer = Mine(rank=2, alpha=4)",
                "`update` is another matrix than scale · (BA + c (BA)∘(BA)).",
            ),
            (
                METHOD.replace("start_factors(self.method, self.B, self.A)", "pass"),
                "law 8: all gradients at the start are zero",
            ),
            (
                METHOD.replace("product * product)", "product)"),
                "`update` is another matrix than scale · (BA + c (BA)∘(BA)).",
            ),
            (
                METHOD.replace("Mine(rank=2)", "Mine"),
                "The answer is to be a method, an instance of your class at rank 2.",
            ),
            ("answer = pk.PERA(2)", "The third parameter is to be one number."),
            (METHOD.replace("Mine(rank=2)", "Mine(rank=3)"), "The rank is to be 2."),
        ),
    ),
    "12.1": Sample(
        "answer = 0, 0.8",
        (
            (
                "answer = 0, 0",
                "By differences: four values of the function, over 4 times the step squared.",
            ),
            (
                "answer = 0.8, 0.8",
                "By autograd: what is the function near the point, within a small disc?",
            ),
            (
                "answer = 0, 1",
                "By differences: four values of the function, over 4 times the step squared.",
            ),
            ("answer = 0", "The answer is to be 2 values: (by autograd, by differences)."),
        ),
        ("0.8",),
    ),
    "12.2": Sample(
        "answer = lambda d: 1 / abs(np.outer(d, d))",
        (
            (
                "answer = lambda d: 1 / np.outer(d, d)",
                "S is a mean of sizes, so no factor is zero or negative.",
            ),
            (
                "answer = lambda d: abs(np.outer(d, d))",
                "With another diagonal the factors are different from these.",
            ),
            (
                "answer = lambda d: 1 / abs(d)",
                "The table of factors has the shape (2,), and is to have (2, 2).",
            ),
        ),
        ("outer", "1/"),
    ),
    "12.3": Sample(
        "answer = 1.3**-0.5",
        (
            ("answer = 1.3", "Larger numbers for the features make S smaller."),
            ("answer = 1 / 1.3", "S has the unit of a feature in its denominator: how often?"),
            ("answer = 1.3**0.5", "Larger numbers for the features make S smaller."),
            ("answer = -0.877", "Give a positive factor."),
            ("answer = 0.5", "S has the unit of a feature in its denominator: how often?"),
        ),
        ("0.87", "0.88"),
    ),
    "13.1": Sample(
        "answer = 0.1 + 0.2, 1.0, -0.3, 0.7",
        (
            (
                "answer = 1.0, 2.0, 3.0, 4.0",
                "On this layer the friend's comparison passes: there is not enough cancellation.",
            ),
            (
                "answer = 1.0, 1.0, -1.0, 1.0",
                "On this layer the friend's comparison passes: there is not enough cancellation.",
            ),
            (
                "answer = 1e200, 1e200, -1.0, 1.0",
                "Your friend draws from [-10, 10]: one of the numbers lies outside.",
            ),
            ("answer = 1.0, 1.0", "The answer is to be 4 values: (w0, b, a, x)."),
            (
                "answer = 5e-324, 1.0, 5e-324, 0.5",
                "The rounding error is not tiny beside the terms.",
            ),
        ),
    ),
    "13.2": Sample(
        """
def answer(f, B, A, h):
    i, j = np.triu_indices(B.shape[1])
    return np.array_equal(f(B, A, np.where(i == j, 1, 2)), B @ A + (B @ A) ** 2)
""",
        (
            (
                "answer = lambda f, B, A, h: np.array_equal(f(B, A, 0 * h), B @ A)",
                "It does not notice that h is halved.",
            ),
            (
                "answer = lambda f, B, A, h: np.array_equal(f(B, A, h), B @ A)",
                "The right formula breaks it, so it is no property of PERA.",
            ),
            (
                "answer = lambda f, B, A, h: f(B, A, h).shape == (len(B), A.shape[1])",
                "It does not notice that h is halved.",
            ),
            (
                "answer = True",
                "The answer is to be a function of (f, B, A, h)",
            ),
            (
                "answer = lambda f, B, A, h: False",
                "The right formula breaks it, so it is no property of PERA.",
            ),
        ),
        ("np.where", "(BA)"),
    ),
    "13.3": Sample(
        "answer = [[0, 1], [1, 1]], [[1], [1]], [[1, 1]]",
        (
            ("answer = [[1, 1], [1, 1]], [[1], [1]], [[1, 1]]", "This update has rank r at most."),
            (
                "answer = [[0, 1], [1, 1]], [[1, 0], [1, 0]], [[1, 1], [0, 0]]",
                "This update has rank r at most.",
            ),
            (
                "answer = [[0, 1], [1, 1]], [[1, 1]], [[1], [1]]",
                "The shapes are to be (m, n), (m, r) and (r, n).",
            ),
            (
                "answer = [[0, 0.5], [1, 1]], [[1], [1]], [[1, 1]]",
                "Give whole numbers, so that the rank is exact.",
            ),
        ),
    ),
    "13.4": Sample(
        "answer = 0.999**100",
        (
            ("answer = 0.1", "One example misses it with probability 0.999; all have to."),
            (
                "answer = 1 - 0.999**100",
                "One example misses it with probability 0.999; all have to.",
            ),
            (
                "answer = 1 - 100 / 1000",
                "One example misses it with probability 0.999; all have to.",
            ),
            ("answer = 90.5", "A probability lies between 0 and 1."),
        ),
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
    code, words = sample.wrong[number]
    text = said(exercise, code)
    start, _, sentence = text.partition("not yet. ")
    assert start == f"Exercise {exercise[3:]}: "
    assert words in sentence
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


@pytest.mark.long
@pytest.mark.thorough
@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_a_notebook_runs_with_right_answers_in_it(source, tmp_path):
    lesson, text = source.stem[:2], source.read_text(encoding="utf-8")
    for number in re.findall(r"^answer_(\d+) = \.\.\.", text, flags=re.MULTILINE):
        code = PRELUDE + SAMPLES[f"{lesson}.{number}"].right
        code = re.sub(r"\banswer\b", f"answer_{number}", code)
        empty = re.compile(rf"^answer_{number} = \.\.\..*$", flags=re.MULTILINE)
        text = empty.sub(lambda _, code=code: code, text)
    filled = tmp_path / source.name
    filled.write_text(text, encoding="utf-8")
    make.execute(filled, tmp_path / "copies")
    cells = nbformat.read(tmp_path / "copies" / f"{source.stem}.ipynb", 4).cells
    found = [
        "".join(output.text for output in cell.outputs)  # a line may come in two pieces
        for cell in cells
        if "self-check" in cell.metadata.get("tags", [])
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
