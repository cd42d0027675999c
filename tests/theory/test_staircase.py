"""The corners of the staircases are enough: every layer lies above one or below one."""

import pytest

from perakit import formulas
from perakit.theory import staircase

FAMILIES = [
    (rank, terms, degree)
    for terms in formulas.TERMS
    for degree in range(2, 7)
    for rank in range(1, 9 if degree == 2 else 4)
]


def uncovered(rank, terms, degree, corners):
    """The layers (m, n), m <= n, that the corners decide nothing of; min(m, n) = r needs none.

    By counting alone: above a corner with mn >= P - r the null space is settled, below one with mn
    <= P - r every smaller layer. Beyond `last` nothing new comes: (r + 1, r + step) is a corner.
    """
    K = formulas.rank_bound(rank, terms, degree)

    def free(m, n):  # P - r
        return rank * (m + n) + K - 2 * rank

    both = {*corners, *((n, m) for m, n in corners)}
    narrow = [(m, n) for m, n in both if m * n >= free(m, n)]
    wide = [(m, n) for m, n in both if m * n <= free(m, n)]
    last = rank + staircase.step(rank, terms, degree) + 1
    return [
        (m, n)
        for m in range(rank + 1, last + 1)
        for n in range(m, last + 1)
        if not any(m >= a and n >= b for a, b in narrow)
        and not any(m <= a and n <= b for a, b in wide)
    ]


@pytest.mark.parametrize(("rank", "terms", "degree"), FAMILIES)
def test_every_layer_is_above_a_corner_or_below_one(rank, terms, degree):
    corners = staircase.corners(rank, terms, degree)
    assert uncovered(rank, terms, degree, corners) == []
    assert all(rank <= m <= n for m, n in corners)


@pytest.mark.parametrize(("rank", "terms"), [(2, "full"), (5, "full"), (4, "square"), (5, "cross")])
def test_no_corner_can_go(rank, terms):
    corners = staircase.corners(rank, terms)
    for corner in corners:
        others = [other for other in corners if other != corner]
        assert uncovered(rank, terms, 2, others), corner


@pytest.mark.parametrize(("rank", "terms", "degree"), FAMILIES)
def test_the_step_is_where_the_parameters_less_r_are_as_many_as_the_entries(rank, terms, degree):
    for m, n in ((rank + 1, rank + 2), (rank + 3, rank + 3), (2 * rank, 3 * rank)):
        parameters = formulas.parameter_count(m, n, rank, "pera", terms=terms, degree=degree)
        spare = (m - rank) * (n - rank) - staircase.step(rank, terms, degree)
        assert m * n - (parameters - rank) == spare
