"""Arrays modulo a prime: each operation against Python's integers, its derivatives against a
difference that is exact, since along one direction every rule is a polynomial.
"""

import math
from fractions import Fraction

import numpy as np
import pytest
import sympy
import torch

import perakit as pk
from perakit.theory.field import PRIMES
from perakit.theory.residues import NotPolynomialError, Residues

PRIME, COUNT = PRIMES[0], 3
SHAPES = {"x": (3, 4), "y": (3, 4), "s": (3, 3), "v": (4,), "z": (2, 3, 4), "c": ()}
LEFT = np.array([[1, 2, 0], [0, 3, -1]])  # constants of a rule
COLUMN = np.array([[2], [-5], [3]])
MASK = np.array([True, False, True])

# Read by residues as by NumPy: of x, y (3, 4), s (3, 3), v (4,), z (2, 3, 4), c ()
RULES = {
    "add": lambda x, y, **_: x + y,
    "add, broadcast both ways": lambda x, v, z, c, **_: (z + x) + (v + c) + (x[:, :1] + v),
    "subtract": lambda x, v, **_: (x - v) - (v - x) - 3,
    "multiply": lambda x, y, **_: x * y * x,
    "multiply, broadcast both ways": lambda x, v, z, c, **_: (z * x) * (v * c) + x * z,
    "matmul": lambda x, s, **_: s @ s @ x,
    "matmul by a vector": lambda x, s, v, z, **_: (x @ v) @ s @ x * (v @ v) + z @ v @ x,
    "matmul of stacks": lambda x, s, z, **_: (
        s @ z + z @ x.T @ x + z @ (z[::-1].transpose((0, 2, 1)) @ x)
    ),
    "a vector by a stack": lambda s, z, **_: s[0] @ z,
    "a stack by a stack that is longer": lambda z, **_: z[:1] @ z[:, None].transpose((0, 1, 3, 2)),
    "constants on the left": lambda x, **_: LEFT @ x + 7 * x[:2] - (1 - x[:2]),
    "constants on the right": lambda x, s, **_: (
        x.T @ LEFT.T * np.int8(2) + np.True_ * x.T[:, :2] - 2
    ),
    "a constant under a factor": lambda x, **_: LEFT[0] * x.T,
    "whole powers": lambda x, **_: x**0 + x**1 - x**2 + x**7 + x ** np.int64(3) + np.square(x),
    "a large power": lambda v, **_: v**1000,
    "signs": lambda x, **_: -x + +x - (-x) * 2,
    "rows and columns": lambda x, **_: x[1] * x[:, 2:3] + x[-1, None] * x[..., 0, None],
    "no index, one entry": lambda c, v, x, **_: c[()] * v[2] * x[0, -1] * v[...],
    "index arrays": lambda x, **_: x[:, [0, 2, 2]] * x[[1, 1, 0]][:, :3],
    "index arrays of two axes": lambda x, **_: x[[0, 1, 2], [3, 0, 1]],
    # As many entries as directions: axes that are confused have the right shape
    "index arrays apart": lambda z, **_: z[[0, 1, 1], :, [0, 3, 2]] + z[0, :, [1, 2, 3]],
    "index arrays and an ellipsis": lambda z, **_: (
        z[..., [0, 1, 1]] * z[[1, 0, 1], ..., 0][:, None, :1].T
    ),
    "masks": lambda x, y, **_: x[MASK] * y[MASK, :] + x[:, [True] * 4][:2],
    "a mask of two axes": lambda x, **_: x[np.tri(3, 4, dtype=bool)] ** 2,
    "iteration": lambda x, **_: [row * row for row in x][1] + sum(row for row in x),
    "sum and prod of Python": lambda x, y, **_: sum([x, y, x]) + math.prod([x, y]),
    "sums": lambda x, z, **_: (
        x.sum() + x.sum(0) * np.sum(z, axis=(0, -2)) + z.sum((1, 2), keepdims=True)
    ),
    "the sum of no axes": lambda c, v, **_: c.sum() * v,
    "concatenation": lambda x, y, **_: np.concatenate([x, y[:1] * x, np.ones((1, 4), int)], axis=0),
    "concatenation, flat": lambda x, v, **_: np.concatenate([x, v, COLUMN], axis=None),
    "concatenation, last axis": lambda x, y, **_: np.concatenate([x, x * y, COLUMN], -1),
    "stacks": lambda x, y, **_: np.stack([x, y * y], -1) @ np.stack([x, y], axis=-2),
    "a stack with constants": lambda v, **_: np.stack([v, np.arange(4), v * v]),
    "outer, dot": lambda v, x, s, c, **_: (
        np.outer(v, v) * np.dot(x.T, x) * np.dot(v, v) + np.dot(3, c)
    ),
    "shapes": lambda x, z, **_: (
        x.reshape(4, -1) @ x.ravel().reshape((3, 4)) @ z.reshape(2, -1)[0, :4]
    ),
    "transposes": lambda x, z, **_: (
        np.transpose(z, (2, 0, 1)) * z.T.transpose((0, 2, 1)) * x.T[:, None]
    ),
    "a transpose of one axis": lambda v, **_: v.T * v.transpose(),
    "einsum": lambda x, y, z, **_: np.einsum("kij, lj, li -> ki", z, x, y[:, :3]),
    "einsum, without an arrow": lambda x, s, **_: np.einsum("ba,bc", x, s),
    "einsum, with a constant": lambda x, **_: np.einsum("ri,ij->j", LEFT, x),
    "division": lambda x, **_: x / 4 + x / COLUMN,
    "size": lambda x, **_: x * np.shape(x)[0] * x.ndim * np.ndim(x) * np.size(x) * len(x),
    "a copy": lambda x, **_: x.copy() * x.flatten().reshape(3, 4),
}


def drawn(seed=0):
    """Small whole numbers, and as small derivatives of each, (COUNT, *shape)."""
    generator = np.random.default_rng(seed)
    values = {name: generator.integers(-9, 9, shape) for name, shape in SHAPES.items()}
    along = {name: generator.integers(-9, 9, (COUNT, *s)) for name, s in SHAPES.items()}
    return values, along


def exactly(rule, values):
    """The rule in fractions."""
    found = rule(**{k: np.vectorize(Fraction, otypes=[object])(v) for k, v in values.items()})
    return np.asarray(found, dtype=object)


def residue(exact):
    number = Fraction(exact)
    return number.numerator * pow(number.denominator, -1, PRIME) % PRIME


def as_residues(values, along=None):
    return {
        name: Residues(
            np.array(value, dtype=float), PRIME, along and along[name].astype(float), degree=1
        )
        for name, value in values.items()
    }


@pytest.mark.parametrize("name", RULES)
def test_a_rule_is_read_as_numpy_reads_it(name):
    """The value; and each derivative: of f(x + t dx), the coefficient of t."""
    rule, (values, along) = RULES[name], drawn()
    found = rule(**as_residues(values, along))
    exact = exactly(rule, values)
    assert found.shape == exact.shape
    assert [int(v) % PRIME for v in found.value.flat] == [residue(v) for v in exact.flat]
    assert np.abs(found.value).max() <= PRIME // 2 + 1
    assert np.abs(found.along).max() <= PRIME // 2 + 1
    assert found.along.shape == (COUNT, *exact.shape)
    step = Fraction(1, 10**40)  # so small that the terms in t², t³ ... round away
    for k in range(COUNT):
        moved = {
            name: np.vectorize(Fraction, otypes=[object])(values[name]) + step * along[name][k]
            for name in values
        }
        if "large" in name:
            slope = 1000 * exactly(lambda v, **_: v**999, values) * along["v"][k]
        else:
            slopes = (exactly(rule, moved) - exact) / step
            slope = [x.limit_denominator(100) for x in slopes.flat]
        assert [int(v) % PRIME for v in found.along[k].flat] == [
            residue(x) for x in np.ravel(slope)
        ]


@pytest.mark.parametrize("name", RULES)
def test_without_directions_there_are_no_derivatives(name):
    values, _ = drawn()
    assert RULES[name](**as_residues(values)).along is None


def test_a_caller_s_arrays_stay():
    """Whatever a rule does with what it was given, the numbers that were drawn are not written."""
    values, along = drawn()
    given = as_residues(values, along)
    for rule in RULES.values():
        rule(**given)
    for name, one in given.items():
        assert (one.value == values[name]).all()
        assert (one.along == along[name]).all()


@pytest.mark.parametrize(
    ("rule", "degree"),
    [
        (lambda x, y, **_: x + y * y, 2),
        (lambda x, **_: x**5 * x - 3, 6),
        (lambda x, **_: x**0, 0),
        (lambda x, **_: x**2.0 + True * x ** np.int64(3), 3),
        (lambda x, s, **_: s @ s @ x, 3),
        (lambda x, y, **_: np.concatenate([x, x * y, np.ones((1, 4))]), 2),
        (lambda x, y, s, **_: np.einsum("ij,ij,ik->k", x, y, s), 3),
        (lambda x, **_: (x - x) * x, 2),  # at most
    ],
)
def test_degrees(rule, degree):
    assert rule(**as_residues(drawn()[0])).degree == degree


T = torch.tensor([[1.0, 2.0, 0.5, -1.0]] * 3)


@pytest.mark.parametrize(
    "rule",
    [
        lambda t, x: t + x - (x - t) + (t - x),
        lambda t, x: t * x + x * t,
        lambda t, x: x / 2 + x / (t * 2),
        lambda t, x: t.T @ x,
        lambda t, x: x.T @ t,
        lambda t, x: torch.matmul(t.T, x) + torch.mm(x.T, x),
        lambda t, x: torch.cat([x, t], dim=1) * torch.cat([t, x], -1),
        lambda t, x: torch.stack([x, t], dim=0).sum(0),
        lambda t, x: torch.sum(x * t, dim=1, keepdim=True) * x,
        lambda t, x: torch.transpose(x, 0, 1) @ t + x.transpose(0, 1) @ x,
        lambda t, x: torch.einsum("ij,kj->ik", x, t),
        lambda t, x: torch.outer(x[0], t[0]) * torch.reshape(x, (4, 3))[:, 1:2],
        lambda t, x: x[:, torch.tensor([0, 2])],
    ],
)
def test_rules_in_torch_s_words(rule):
    """Against the same rule on a tensor, of numbers that float64 holds."""
    values = drawn()[0]["x"]
    expected = rule(T.double(), torch.tensor(values, dtype=torch.float64)).numpy()
    found = rule(T, Residues(values.astype(float), PRIME, degree=1))
    assert found.shape == expected.shape
    assert [int(v) % PRIME for v in found.value.flat] == [residue(float(v)) for v in expected.flat]


def in_place(x):
    x += 1


def written(x):
    table = np.zeros((3, 4))
    table[0] = x[0]


def written_by_entries(x):
    table = np.zeros((3, 4))
    table[0, 0] = x[0, 0]


def over_a_part(x):
    whole = x * 1
    row = whole[0]
    row[0] = 1  # in NumPy the whole changes too


def over(x):
    x.value.setflags(write=False)  # as those that are drawn
    x[0] = 1


@pytest.mark.parametrize(
    ("rule", "operation"),
    [
        (lambda x: np.exp(x), r"np\.exp"),
        (lambda x: torch.sin(x), r"torch\.sin"),
        (lambda x: x.clamp(min=0), r"\.clamp"),
        (lambda x: np.linalg.norm(x), r"np\.norm"),
        (lambda x: np.kron(x, x), r"np\.kron"),
        (lambda x: x.dtype, r"\.dtype"),
        (lambda x: 1 / x, r"division by a factor"),
        (lambda x: x / 0, r"division by a multiple of 8388593"),
        (lambda x: x**0.5, r"the exponent 0\.5"),
        (lambda x: x**-1, r"the exponent -1 \(a division by a factor\)"),
        (lambda x: 2**x, r"a factor as an exponent"),
        (lambda x: x > 0, r"np\.greater"),
        (lambda x: x if x[0, 0] else -x, r"a branch on a factor's value"),
        (lambda x: np.where(x, 1, 2), r"np\.where"),
        (lambda x: float(x[0, 0]), r"a factor as one Python number"),
        (lambda x: x[x], r"an index that is a factor"),
        (lambda x: np.array([x[0], x[1]]), r"a factor's entries in an array of numbers"),
        (in_place, r"np\.add in place \(x \+= y for x = x \+ y\)"),
        (written, r"a factor's entries in an array of numbers \(np\.array\(\[\.\.\.\]\) or x"),
        (over, r"a write into a factor's array"),
        (over_a_part, r"a write into a factor's array or a part of one"),
        (lambda x: x * math.pi * 1j, r"a constant of the rule \(numbers of type complex128"),
        (lambda x: x * math.inf, r"a constant of the rule \(an entry is not finite\)"),
        (lambda x: x * sympy.sqrt(2), r"a constant of the rule \(sqrt\(2\) has no residue"),
        (lambda x: np.einsum("ii", x[:, :3]), r"einsum of 'ii' \(an ellipsis, or a letter twice\)"),
        (lambda x: np.dot(x[None], x.T), r"np\.dot of more than two axes"),
        (lambda x: np.sum(x, dtype=int), r"np\.sum so called"),
        (lambda x: np.add.reduce(x), r"np\.add so called"),
    ],
)
def test_what_a_prime_field_cannot_read_is_named(rule, operation):
    x = as_residues(drawn()[0])["x"]
    with pytest.raises(NotPolynomialError, match="^" + operation) as caught:
        rule(x)
    assert "cannot be read modulo a prime: exact answers need a polynomial rule" in str(
        caught.value
    )
    assert isinstance(caught.value, pk.PerakitError)
    assert (x.value == drawn()[0]["x"]).all()
    with pytest.raises(ValueError, match="sequence") as caught:
        written_by_entries(x)
    assert isinstance(caught.value.__cause__, NotPolynomialError)


@pytest.mark.parametrize(
    "rule",
    [lambda x: x @ x, lambda x: x[5], lambda x: x.sum(2), lambda x: np.einsum("ij,jk", x, x)],
)
def test_what_numpy_refuses_is_refused(rule):
    with pytest.raises((ValueError, IndexError)):
        rule(as_residues(drawn()[0])["x"])
