"""The self-checks of notebooks 01 to 06: right answers, wrong ones, none, and what they tell."""

import re
from fractions import Fraction

import numpy as np
import pytest
import sympy as sp

from perakit import formulas
from perakit.classroom.exercises import self_check


def by_least_squares(B, A, E, triangle=np.triu_indices, less=1):
    """The h of Exercise 03.2; mistaken with another order, or if BA is not taken from E."""
    i, j = triangle(A.shape[0])
    columns = [np.outer(B[:, p] * B[:, q], A[p] * A[q]).ravel() for p, q in zip(i, j, strict=True)]
    return np.linalg.lstsq(np.transpose(columns), (E - less * B @ A).ravel(), rcond=None)[0]


def by_descent(B, A, E):
    """The same h in another way: the normal equations of the products' inner products."""
    i, j = np.triu_indices(A.shape[0])
    C, R = B[:, i] * B[:, j], A[i] * A[j]
    return np.linalg.solve((C.T @ C) * (R @ R.T), np.diag(C.T @ (E - B @ A) @ R.T))


def ones(rows):
    return np.eye(3, dtype=int)[rows]


E = [[1, 2, 3], [4, 5, 7], [5, 7, 10]]
OTHER = [[1, 2, 4], [3, 5, 7], [4, 7, 11]]  # the third row is the sum of the others
NAMES = {"multiple", "transpose", "order"}
root = 2**-0.5
big = np.array([[1, 1, 1], [1, 2, 4], [1, 3, 9]])

# exercise: (right answers, wrong answers); each of the wrong ones is one that somebody gave or may
EXERCISES = {
    "01.1": ([5, 5.0, Fraction(5), np.float64(5)], [0, 0.5, 10, float("nan"), "stays", None]),
    "01.2": ([4, 4.0, 3.9999999], [2, 1, 2**0.5, 8, (4, 4)]),
    "02.1": (
        [
            ([root, -root], [root, -root], 2),
            ([1, -1], [0.5, -0.5], 2.0),
            (np.array([[-3.0], [3.0]]), np.array([[-1 / 6, 1 / 6]]), [2]),
        ],
        [
            ([1, 0], [0, 1], 1),
            ([1, -1], [1, -1], 2),
            ([1, -1], [0.5, -0.5], -2),
            ([1, -1], [0.5, -0.5]),
            ([1, -1, 0], [0.5, -0.5], 2),
            np.eye(2),
        ],
    ),
    "02.2": (
        [(3, 6, 10), [3, 6, 10]],
        [(3, 3, 1), (3, 6, 9), (3, 9, 27), 19],
    ),
    "02.3": ([(0, -2), [0.0, -2.0]], [(-2, 0), (0, 2), (0, 0), False, (1, -2)]),
    "03.1": (
        [{1, 2}, [2, 1], (1, 2), np.array([1, 2])],
        [{1}, {1, 2, 3}, {3, 4}, set(), {2}, 2, "12"],
    ),
    "03.2": (
        [by_least_squares, by_descent],
        [
            lambda B, A, E: by_least_squares(B, A, E, np.tril_indices),
            lambda B, A, E: by_least_squares(B, A, E, less=0),
            lambda B, A, E: np.zeros(B.shape[1] * (B.shape[1] + 1) // 2),
            lambda B, A, E: by_least_squares(B, A, E)[None],
            lambda B, A: 0,
            np.zeros(3),
        ],
    ),
    "04.1": (
        [(38, 0.1002), (38, 59109 / 768**2), (38, 0.1)],
        [(38, 10.02), (37, 0.1), (39, 0.1), (38, 58368 / 768**2), 38],
    ),
    "04.2": (
        [
            ones([0, 0, 1, 1, 1, 2, 2, 2]),
            ones([0, 1, 2, 1]).tolist(),
            ones([0, 1, 2, 1]) * [1, -2, 3],  # multiples of zeros and ones
            big[[0, 1, 1, 2, 0]],  # any three different rows
            0.1 * big[[0, 1, 1, 2, 0]],
        ],
        [
            ones([0, 1, 2]),  # three rows: excluded
            np.ones((5, 3)),  # dependent columns
            np.vstack([ones([0, 1, 2, 1]), np.zeros((1, 3))]),
            np.array([[1, 1, 1], [1, -1, 1], [1, 1, -1], [1, -1, -1]]),  # signs: products are new
            np.arange(12).reshape(4, 3) ** 2 + 1,
            ones([0, 0, 1, 1, 2, 2]).T,
            "ones",
        ],
    ),
    "04.3": ([(1372, 454), [1372, 454]], [(1568, 458), (454, 1372), (14, 14), (1372, 458), True]),
    "05.1": ([(3, ">="), [3, ">="]], [(2, "=="), (1, ">="), (3, "<="), (3, "=="), 3, (3, "≥")]),
    "05.2": (
        [
            ([1, -1], [Fraction(1, 2), Fraction(-1, 2)], 2),
            ([Fraction(-3), 3], [Fraction(-1, 6), Fraction(1, 6)], Fraction(2)),
            ([1, -1], [0.5, -0.5], 2.0),  # these floats are fractions, exactly
            ([sp.Integer(1), sp.Integer(-1)], [sp.Rational(1, 2), sp.Rational(-1, 2)], 2),
            (np.array([1, -1]), np.array([0.5, -0.5]), np.int64(2)),
        ],
        [
            ([root, -root], [root, -root], 2),  # nearly
            ([1, -1], [Fraction(1, 2), Fraction(1, 2)], 2),
            ([1, -1], [Fraction(1, 2), Fraction(-1, 2)], 4),
            ([1], [1], 0),
        ],
    ),
    "05.3": (
        [(OTHER, NAMES), (np.array(OTHER), list(NAMES)), (-3 * np.array(E), NAMES)],
        [
            (E, NAMES),
            (OTHER, NAMES | {"diagonal"}),
            (OTHER, {"multiple"}),
            (np.arange(1, 10).reshape(3, 3), NAMES),  # the trap of the notebook
            (np.eye(3), NAMES),
            (np.ones((3, 3)), NAMES),
            (OTHER, "multiple"),
            OTHER,
        ],
    ),
    "06.1": (
        [((4, 12), (6, 12)), [[4, 12], [6, 12]]],
        [((4, 16), (6, 18)), ((4, 12), (10, 12)), ((4, 12), (6, 6)), ((6, 12), (4, 12)), (4, 6)],
    ),
    "06.2": ([(21, 23), [21, 23]], [(25, 25), (21, 25), (23, 23), (20, 23), 21]),
    "06.3": (
        [(10, 14, 0), [10, 14, 0]],
        [(14, 10, 0), (10, 10, 0), (10, 14, 1), (10, 14, False), 24],
    ),
    "06.4": (
        [(9, 5, 3, 3), [9, 5, 3, 3]],
        [(9, 9, 3, 3), (9, 3, 3, 3), (9, 5, 3, 1), (9, 5, 0, 2), (9, 5, 3)],
    ),
    "06.5": (
        [([1, 1], [1, 2], np.eye(2)), ([[1], [0]], [[3, 0]], [[-1, 5], [5, 5]])],
        [
            ([0, 0], [1, 2], np.eye(2)),
            ([1, 1], [1, 1], [[1, 0], [0, -1]]),
            ([1, 1], [1, 2], np.zeros((2, 2))),
            ([1, 1], [1, 2], 1),
            ([1, 1], [1, 2]),
        ],
    ),
}


def said(capsys, exercise, *answer):
    self_check(exercise, *answer)
    out, err = capsys.readouterr()
    assert err == ""
    number = exercise.partition(".")[2]
    assert out.startswith(f"Exercise {number}: ")
    assert len(out.splitlines()) == 1
    return out.removeprefix(f"Exercise {number}: ").strip()


CASES = {
    kind: [
        pytest.param(exercise, answer, id=f"{exercise}-{k}")
        for exercise, answers in EXERCISES.items()
        for k, answer in enumerate(answers[wrong])
    ]
    for wrong, kind in enumerate(("right", "wrong"))
}


@pytest.mark.parametrize(("exercise", "answer"), CASES["right"])
def test_any_right_answer_is_right(exercise, answer, capsys):
    assert said(capsys, exercise, answer) == "right."


@pytest.mark.parametrize(("exercise", "answer"), CASES["wrong"])
def test_a_wrong_answer_is_told_so_and_not_what_is_right(exercise, answer, capsys):
    message = said(capsys, exercise, answer)
    assert message.startswith("not yet. ")
    told = set(re.findall(r"-?\d+\.?\d*", message.replace("not yet. The answer is to be", "")))
    assert not told & set(map(str, SECRETS.get(exercise, ()))), message
    assert not any(str(right) in message for right in EXERCISES[exercise][0])


# Numbers that would give an answer away; the others have answers that are no numbers, or that are
# digits of their own question
SECRETS = {
    "01.1": (5, 10),
    "01.2": (4, 2, 16),
    "02.2": (6, 10),
    "02.3": (0, -2),
    "03.1": (1, 2),
    "04.1": (38, 59109, 0.1),
    "04.3": (1372, 454),
    "05.1": (3,),
    "06.1": (4, 6, 12, 16, 18),
    "06.2": (21, 23, 25),
    "06.3": (10, 14),
    "06.4": (9, 5, 3),
}


@pytest.mark.parametrize("exercise", EXERCISES)
def test_nothing_is_no_mistake(exercise, capsys):
    assert said(capsys, exercise) == "not answered yet."
    assert said(capsys, exercise, ...) == "not answered yet."


def test_every_exercise_is_here_with_at_least_two_mistakes():
    from perakit.classroom.exercises import (
        lesson01,
        lesson02,
        lesson03,
        lesson04,
        lesson05,
        lesson06,
    )

    lessons = (lesson01, lesson02, lesson03, lesson04, lesson05, lesson06)
    for lesson, module in enumerate(lessons, 1):
        assert list(module.CHECKS) == list(range(1, len(module.CHECKS) + 1))
        for number in module.CHECKS:
            right, wrong = EXERCISES[f"{lesson:02}.{number}"]
            assert right
            assert len(wrong) >= 2
    assert sum(len(module.CHECKS) for module in lessons) == len(EXERCISES)


def test_the_rank_of_the_expanded_factor_is_that_of_the_worst_update():
    """What exercise 04.2 is judged by: other A and h than those of its check agree with it."""
    rng = np.random.default_rng(1)
    for rows in ([0, 1, 2, 1, 0], [0, 0, 1, 1, 2, 2, 1]):
        for B in (ones(rows), big[rows]):
            made = formulas.pera(B, rng.integers(-9, 10, (3, 9)), rng.integers(-9, 10, 6))
            assert np.linalg.matrix_rank(made) <= 3
    signs = np.array(EXERCISES["04.2"][1][3])
    made = formulas.pera(signs, rng.integers(-9, 10, (3, 9)), rng.integers(1, 10, 6))
    assert np.linalg.matrix_rank(made) > 3
