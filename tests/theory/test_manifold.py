"""Dimension, symmetry and curvature: closed forms against Jacobians, Jacobians against SymPy,
symmetry against the formula.
"""

import math

import numpy as np
import pytest
import sympy
import torch
from hypothesis import given
from hypothesis import strategies as st

import perakit as pk
from perakit import formulas, strategies
from perakit.theory import (
    Formula,
    curvature,
    dimension,
    gauge_orbit,
    gauge_path,
    jacobian_rank,
    measured_dimension,
    measured_rank,
    tangent_dimension,
)
from perakit.theory import jacobian as jacobian_module
from perakit.theory.families import FAMILIES, pera

FOUR = ("none", "cross", "square", "full")


def cases(count=40):
    """(m, n, rank, terms, degree), drawn once from seed 2604: sizes 1 ... 12, degrees to 4, rank to
    min(m, n, 4).
    """
    generator = np.random.default_rng(2604)
    for _ in range(count):
        m, n = (int(size) for size in generator.integers(1, 13, 2))
        rank = int(generator.integers(1, min(m, n, 4) + 1))
        yield m, n, rank, str(generator.choice(FOUR)), int(generator.integers(2, 5))


@pytest.mark.parametrize(("m", "n", "rank", "terms", "degree"), list(cases()))
def test_forty_random_cases_agree_with_the_closed_forms(m, n, rank, terms, degree):
    assert measured_dimension(m, n, rank, terms, degree) == dimension(m, n, rank, terms, degree)
    bound = rank if terms == "none" else formulas.rank_bound(rank, terms, degree)
    assert measured_rank(m, n, rank, terms, degree) == min(m, n, bound)


@pytest.mark.parametrize(
    ("m", "n", "rank", "terms", "degree"), [case for case in cases() if case[3] != "none"]
)
def test_special_points_agree_with_their_closed_forms(m, n, rank, terms, degree):
    for at, held in (("lora", {"h": 0}), ("start", {"B": 0, "h": 0})):
        assert jacobian_rank(m, n, rank, terms, degree, at=held).rank == tangent_dimension(
            m, n, rank, terms, degree, at
        )


def test_published_cases():
    """3 x 3, r = 1: dimension 6, beside 8 for all matrices of rank 2; LoRA 5. And the free r² - r
    dimensions.
    """
    assert [dimension(3, 3, 1, terms) for terms in FOUR] == [5, 5, 6, 6]
    assert dimension(64, 64, 8) == 8 * 128 + 28 == dimension(64, 64, 8, "none") + 8 * 23 // 2
    assert dimension(64, 64, 8) - tangent_dimension(64, 64, 8) == 8 * 8 - 8
    assert tangent_dimension(64, 48, 8, at="start") == 64 * 8


def sympy_rank(m, n, rank, terms, degree, seed):
    """The Jacobian by sympy's derivative, its rank over the rationals at a random point: no torch,
    no prime.
    """
    family, generator = pera(rank, terms, degree), np.random.default_rng(seed)
    symbols = {
        name: np.array(sympy.symbols(f"{name}:{math.prod(shape)}"), dtype=object).reshape(shape)
        for name, shape in family.shapes(m, n).items()
    }
    flat = [symbol for array in symbols.values() for symbol in array.ravel()]
    values = dict(zip(flat, [int(k) for k in 1 + generator.permutation(len(flat))], strict=True))
    return sympy.Matrix(family.update(None, **symbols).ravel()).jacobian(flat).subs(values).rank()


@pytest.mark.parametrize(
    ("m", "n", "rank", "terms", "degree"),
    [
        (3, 2, 1, "full", 2),
        (3, 4, 2, "full", 2),
        (3, 4, 2, "none", 2),
        (4, 3, 2, "cross", 2),
        (5, 2, 1, "square", 3),
    ],
)
def test_the_jacobian_rank_is_sympys(m, n, rank, terms, degree):
    assert jacobian_rank(m, n, rank, terms, degree).rank == sympy_rank(
        m, n, rank, terms, degree, seed=3
    )


def test_large_jacobians_are_sampled_and_then_checked_everywhere(monkeypatch):
    measured = jacobian_rank(23, 29, 2)
    assert (measured.rank, measured.parameters) == (2 * 52 + 1, 107)
    assert measured.proved
    assert measured.entries == 107 + jacobian_module.MORE < 23 * 29
    assert str(measured) == (
        f"rank 105 (proved at 23 x 29) of 107 parameters, by {measured.entries} entries of ΔW"
    )

    # Entries in order instead of at random: the first of ΔW say nothing of the last rows of B.
    monkeypatch.setattr(jacobian_module, "sample", lambda generator, m, n: np.arange(m * n))
    unlucky = jacobian_rank(23, 29, 2)
    assert unlucky.rank == 105
    assert unlucky.proved
    assert unlucky.entries > measured.entries


@pytest.mark.parametrize(("m", "n"), [(1, 5), (12, 12), (12, 8), (8, 12), (23, 29)])
def test_the_sample_shows_each_row_and_each_column_alike(m, n):
    order = jacobian_module.sample(np.random.default_rng(0), m, n)
    assert sorted(order) == list(range(m * n))
    first = order[: math.lcm(m, n)]
    assert set(np.bincount(first // n, minlength=m)) == {math.lcm(m, n) // m}
    assert set(np.bincount(first % n, minlength=n)) == {math.lcm(m, n) // n}


def test_any_family_is_measured():
    W0 = np.random.default_rng(0).normal(size=(7, 6))
    assert measured_dimension(7, 6, pk.PERA(2)) == dimension(7, 6, 2)
    assert (
        measured_dimension(7, 6, pk.LoRA(2))
        == dimension(7, 6, 2, "none")
        == measured_dimension(7, 6, pk.LoRA(2, alpha=3))
    )
    hadamard = Formula(
        lambda A1, B1, A2, B2: (B1 @ A1) * (B2 @ A2),
        lambda m, n: {"A1": (1, n), "B1": (m, 1), "A2": (1, n), "B2": (m, 1)},
    )
    assert measured_dimension(7, 6, hadamard) == 7 + 6 - 1  # a product of rank-one matrices is one
    dora = Formula(
        lambda B, A, g: formulas.dora(torch.as_tensor(W0), B, A, g),
        lambda m, n: {"B": (m, 1), "A": (1, n), "g": (m,)},
    )
    measured = jacobian_rank(7, 6, dora)
    assert not measured.exact  # square roots are no whole numbers
    assert measured.rank == 7 + 7 + 6 - 1
    assert measured.gap > 1e6
    assert "(in float64, gap" in str(measured)


def test_a_rule_in_torch_s_words_with_fractions_is_read_exactly():
    """Derivatives of 1, 5/4 and 3/2, and constants that are tensors: rank 208."""

    def rule(B, s, A):
        columns = torch.zeros(2, A.shape[1], dtype=torch.float64)
        columns[0, 0] = columns[1, 1] = 1
        return B @ A + torch.stack([1.25 * s, 1.5 * s], 1) @ columns

    measured = jacobian_rank(
        70, 70, Formula(rule, lambda m, n: {"B": (m, 1), "s": (m,), "A": (1, n)})
    )
    assert measured.exact
    # rank-one matrices, and s less what a change of B already does
    assert measured.rank == 70 + 70 - 1 + 70 - 1


def test_a_scale_does_not_change_the_dimension():
    assert measured_dimension(5, 4, pk.PERA(2, alpha=1, scaling="rslora")) == dimension(5, 4, 2)


@given(strategies.factors(integers=True), st.data())
def test_the_gauge_orbit_leaves_the_update(factors, data):
    """In exact rationals, for every permutation and every nonzero scale."""
    B, A, h = factors
    rank = A.shape[0]
    scales = np.array(
        [sympy.Rational(data.draw(st.sampled_from((-2, -1, 1, 3))), 2) for _ in range(rank)],
        dtype=object,
    )
    moved = gauge_orbit(
        B.astype(object), A.astype(object), h, scales, data.draw(st.permutations(range(rank)))
    )
    assert (formulas.pera(*moved) == formulas.pera(B, A, h)).all()
    assert sorted(moved[2]) == sorted(h)


@pytest.mark.parametrize("terms", formulas.TERMS)
def test_the_gauge_orbit_at_degree_three(terms):
    generator = np.random.default_rng(1)
    B, A = generator.normal(size=(3, 3)), generator.normal(size=(3, 5))
    h = generator.normal(size=formulas.rank_bound(3, terms, 3) - 3)
    moved = gauge_orbit(B, A, h, np.array([2.0, -1.0, 0.5]), [2, 0, 1], terms, 3)
    np.testing.assert_allclose(
        formulas.pera(*moved, terms, 3), formulas.pera(B, A, h, terms, 3), rtol=1e-12, atol=1e-12
    )
    # h moves along
    assert not np.allclose(
        formulas.pera(moved[0], moved[1], h, terms, 3), formulas.pera(B, A, h, terms, 3)
    )


def test_lora_gauge_is_broken_by_the_products():
    generator = np.random.default_rng(2)
    B, A, h, X = (generator.normal(size=size) for size in ((5, 2), (2, 4), (3,), (2, 2)))
    for coefficients, direction, moves in (
        (0 * h, X, False),
        (h, np.diag([1.0, -2.0]), False),
        (h, X, True),
    ):
        path = gauge_path(B, A, coefficients, direction, [0.0, 0.1, 1.0])
        assert path.factors[0] == path.update[0] == 0
        assert (np.diff(path.factors) > 0).all()
        assert (path.update[1:] > 1e-3).all() if moves else (path.update < 1e-12).all()


def test_curvature_of_a_circle():
    """ΔW = (cos t, sin t) s at s = 2: along t the curve bends with 1/2 inside the plane it lies in,
    so relative to it not at all.
    """
    circle = Formula(
        lambda t: torch.stack([torch.cos(t), torch.sin(t)]).T * 2, lambda m, n: {"t": (1,)}
    )
    assert curvature(circle, {"t": [0.3]}, {"t": [1.7]}) == pytest.approx(1 / 2)
    plane = Formula(
        lambda t, s: torch.stack([torch.cos(t), torch.sin(t)]).T * s,
        lambda m, n: {"t": (1,), "s": (1,)},
    )
    assert curvature(plane, {"t": [0.3], "s": [2.0]}, {"t": [1.0], "s": [0.0]}) == 0.0


def test_curvature_of_lora_by_hand():
    """b aᵀ at b = a = e₁ along δb = δa = e₂: f'' = 2 e₂e₂ᵀ is normal, ‖f'‖² = 2, so the curvature
    is 1.
    """
    e1, e2 = np.array([[1.0], [0.0], [0.0]]), np.array([[0.0], [1.0], [0.0]])
    bent = curvature(pera(1, "none"), {"B": e1, "A": e1.T}, {"B": e2, "A": e2.T})
    assert bent == pytest.approx(1.0)
    assert curvature(pera(1, "none"), {"B": e1, "A": e1.T}, {"B": e2, "A": 0 * e1.T}) == 0.0


def test_points_of_lora_are_singular():
    """The velocity does not see the gauge part of the direction, the acceleration does: curvature
    grows with it without bound.
    """
    generator = np.random.default_rng(3)
    B, A, h, X = (generator.normal(size=size) for size in ((7, 2), (2, 6), (3,), (2, 2)))

    def bent(s, X):
        return curvature(
            pera(2), {"B": B, "A": A, "h": 0 * h}, {"B": s * B @ X, "A": -s * X @ A, "h": h}
        )

    assert bent(0, X) == 0.0
    assert bent(1, X) > 0
    assert bent(64, X) == pytest.approx(64 * bent(1, X), rel=1e-6)
    assert bent(1, np.diag([1.0, 2.0])) == 0.0


B, A, H = np.ones((3, 2)), np.ones((2, 4)), np.ones(3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: dimension(3, 4, 5),
            r"rank=5 is above min\(m, n\) = 3 of a 3 x 4 layer: choose a smaller rank",
        ),
        (lambda: measured_dimension(3, 4, 4), r"rank=4 is above min\(m, n\) = 3"),
        (lambda: measured_rank(3, 4, 4), r"rank=4 is above min\(m, n\) = 3"),
        (lambda: dimension(0, 4, 1), r"m=0 must be an integer >= 1"),
        (lambda: dimension(4, 2.5, 1), r"n=2\.5 must be an integer >= 1"),
        (lambda: measured_dimension(4, 4, "two"), r"rank='two' must be an integer >= 1"),
        (
            lambda: dimension(4, 4, 1, "diag"),
            r"terms='diag' is unknown: choose from 'full', 'square', 'cross', 'none'",
        ),
        (lambda: dimension(4, 4, 1, degree=1), r"degree=1 must be an integer >= 2"),
        (
            lambda: tangent_dimension(4, 4, 1, at="end"),
            r"at='end' is unknown: choose from 'lora', 'start'",
        ),
        (
            lambda: jacobian_rank(4, 4, 1, at={"C": 0}),
            r"at=\['C'\] names no factor: the family has B, A, h",
        ),
        (
            lambda: jacobian_rank(4, 4, 1, at={"B": np.ones((3, 1))}),
            r"at has shapes \{'B': \(3, 1\)\} where the factors have \{'B': \(4, 1\)",
        ),
        (
            lambda: measured_dimension(3, 4, Formula(lambda B: B, lambda m, n: {"B": (m, 2)})),
            r"the formula returned shape \(3, 2\) where the layer is \(3, 4\)",
        ),
        (
            lambda: measured_dimension(3, 4, Formula(lambda B: None, lambda m, n: {"B": (m, 2)})),
            r"the formula returned NoneType where ΔW is \(3, 4\): is `return` missing",
        ),
        (
            lambda: measured_dimension(
                3, 4, Formula(lambda B: np.sin(np.kron(B, B)), lambda m, n: {"B": (4,)})
            ),
            (
                r"the formula raised RuntimeError: .*; it was given B Tensor \(4,\), and must take"
                r" NumPy and torch alike; a NumPy constant goes in by Formula\(\.\.\., constants="
            ),
        ),
        (
            lambda: measured_dimension(4, 4, pk.PERA),
            r"PERA is no family of updates: pass a method with its rank, perakit\.PERA\(2\)",
        ),
        (lambda: measured_dimension(4, 4, None), r"None is no family of updates"),
        (lambda: measured_dimension(3, 4, pk.PERA(4)), r"rank=4 is above min\(m, n\) = 3"),
        (lambda: measured_dimension(4, 4, 2, seed=-1), r"seed=-1 must be an integer >= 0"),
        (
            lambda: jacobian_rank(4, 4, 2, at={"h": math.nan}),
            r"at has nan for h: every entry must be finite",
        ),
        (lambda: gauge_orbit(B, A, H[:2], np.ones(2)), r"h has shape \(2,\)"),
        (
            lambda: gauge_orbit(B, A, H, np.array([1.0, 0.0])),
            r"scales .* do not fit rank 2: need 2 nonzero scales, each column once",
        ),
        (
            lambda: gauge_orbit(B, A, H, np.ones(2), [0, 0]),
            r".*permutation \[0, 0\] do not fit rank 2",
        ),
        (
            lambda: gauge_path(B, A, H, np.ones((3, 3)), [0.0]),
            r"X has shape \(3, 3\): a direction of rank-2 factors is \(2, 2\)",
        ),
        (
            lambda: gauge_path(B, A, H, np.full((2, 2), math.nan), [0.0]),
            r"X\[0, 0\] is nan: every entry must be finite",
        ),
        (
            lambda: curvature(pera(2), {"B": B, "A": A, "h": H}, {"B": B, "A": A}),
            r"direction .* needs the factors' shapes",
        ),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(pk.PerakitError, match="^" + message):
        call()


def test_the_families_are_those_of_the_formulas():
    assert (*formulas.TERMS, "none") == FAMILIES
    for terms in FAMILIES:
        family = pera(2, terms)
        arrays = {name: np.ones(shape) for name, shape in family.shapes(3, 5).items()}
        count = (
            formulas.parameter_count(3, 5, 2, "lora")
            if terms == "none"
            else formulas.parameter_count(3, 5, 2, "pera", terms=terms)
        )
        assert sum(array.size for array in arrays.values()) == count
        assert family.update(None, **arrays).shape == (3, 5)
