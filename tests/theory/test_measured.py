"""Ranks and dimensions of any size and degree, against elimination that shares nothing with ours:
FLINT's, on updates and Jacobians that loops over Python's integers write down.
"""

import copy
import itertools
import json
import math
import pickle

import flint
import numpy as np
import pytest
import torch

import perakit as pk
from perakit import formulas
from perakit.theory import (
    FloatRank,
    Formula,
    ModularRank,
    families,
    field,
    jacobian_rank,
    measured_dimension,
    measured_rank,
)
from perakit.theory import measured as measured_module
from perakit.theory.families import of_rule
from perakit.theory.field import PRIMES

MERSENNE = 2**61 - 1  # a prime that has nothing to do with ours


def exponents(rank, terms, degree):
    """Of every product: how often it takes each column."""
    for powers in itertools.product(range(degree + 1), repeat=rank):
        if 2 <= sum(powers) <= degree:
            columns = sum(power > 0 for power in powers)
            if {"full": True, "square": columns == 1, "cross": columns > 1, "none": False}[terms]:
                yield powers


def by_hand(m, n, rank, terms, degree, seed):
    """Ranks of ΔW (m, n) and of its Jacobian, entry by entry, by FLINT modulo MERSENNE.

    ΔW[p, q] = φ(u), u_i = B[p, i] A[i, q], φ(u) = Σ u_i + Σ h_e Π u_i^e_i.
    """
    generator = np.random.default_rng(seed)
    monomials = list(exponents(rank, terms, degree))

    def whole(count):
        return [int(k) for k in generator.integers(0, MERSENNE, count)]

    B, A = [whole(rank) for _ in range(m)], [whole(n) for _ in range(rank)]
    h = whole(len(monomials))
    update, jacobian = [], []
    for p, q in itertools.product(range(m), range(n)):
        u = [B[p][i] * A[i][q] % MERSENNE for i in range(rank)]
        value, slope = sum(u), [1] * rank  # φ, and its derivative by each u_i
        features = []
        for powers, coefficient in zip(monomials, h, strict=True):
            feature = math.prod(pow(x, e, MERSENNE) for x, e in zip(u, powers, strict=True))
            features.append(feature % MERSENNE)
            value += coefficient * feature
            for k in range(rank):
                lower = [e - (i == k) for i, e in enumerate(powers)]
                if powers[k]:
                    slope[k] += (
                        coefficient
                        * powers[k]
                        * math.prod(pow(x, e, MERSENNE) for x, e in zip(u, lower, strict=True))
                    )
        by_B = [slope[i] * A[i][q] * (row == p) for row in range(m) for i in range(rank)]
        by_A = [slope[i] * B[p][i] * (column == q) for i in range(rank) for column in range(n)]
        update.append(value % MERSENNE)
        jacobian.extend(x % MERSENNE for x in (*by_B, *by_A, *features))
    parameters = rank * (m + n) + len(monomials)
    return (
        flint.nmod_mat(m, n, update, MERSENNE).rank(),
        flint.nmod_mat(m * n, parameters, jacobian, MERSENNE).rank(),
    )


def cases(count=40):
    """(m, n, rank, terms, degree) up to 14 x 14, r = 4 and degree 14, of at most 150 products."""
    generator = np.random.default_rng(2026)
    found = []
    while len(found) < count:
        m, n = (int(size) for size in generator.integers(1, 15, 2))
        rank = int(generator.integers(1, min(m, n, 4) + 1))
        terms = ("full", "square", "cross", "none")[len(found) % 4]
        degree = int(generator.integers(2, 15))
        if math.comb(rank + degree, degree) <= 150:
            found.append((m, n, rank, terms, degree))
    return found


@pytest.mark.parametrize(("m", "n", "rank", "terms", "degree"), cases())
def test_forty_cases_against_flint(m, n, rank, terms, degree):
    ranks = (
        measured_rank(m, n, rank, terms, degree),
        measured_dimension(m, n, rank, terms, degree),
    )
    assert ranks == by_hand(m, n, rank, terms, degree, seed=7)
    assert ranks[0].proved


def test_the_cases_are_wide():
    sizes = cases()
    assert max(degree for *_, degree in sizes) == 14
    assert max(m for m, *_ in sizes) == max(n for _, n, *_ in sizes) == 14
    assert {rank for _, _, rank, *_ in sizes} == {1, 2, 3, 4}


@pytest.mark.parametrize("rank", range(1, 11))
def test_high_degrees_on_ten_by_ten(rank):
    """What floats call 4, 5 or 6 at r = 1: factors of degree 10 leave their range."""
    found = measured_rank(10, 10, rank, degree=10)
    assert found == 10
    assert found.proved


def test_degree_fourteen_on_five_by_five():
    found = jacobian_rank(5, 5, 1, degree=14)
    assert found.rank == measured_dimension(5, 5, 1, degree=14) == 22
    assert found.exact
    assert found.proved
    assert found.gap is None
    assert by_hand(5, 5, 1, "full", 14, seed=3) == (5, 22)


# --- three kinds of answer ------------------------------------------------------------------------

KERNEL = Formula(
    lambda B, A, c: B @ A + c * (B @ A) * (B @ A),
    lambda m, n: {"B": (m, 2), "A": (2, n), "c": (1,)},
)


def test_a_rule_of_one_s_own_is_right_but_for_a_chance():
    """No bound is proved of it below min(m, n): so 5 is right but for the chance of two draws."""
    found = measured_rank(11, 13, KERNEL)
    assert found == 5
    assert not found.proved
    # a minor of 6 rows, of entries of degree 5
    assert found.chance == pytest.approx(math.prod(6 * 5 / p for p in PRIMES))
    assert repr(found) == "5 (at 11 x 13, but for a chance of 1e-11)"
    moved = jacobian_rank(11, 13, KERNEL)
    assert moved.rank == 45
    assert moved.exact
    assert not moved.proved
    assert moved.rank.chance == pytest.approx(math.prod(46 * 5 / p for p in PRIMES))
    assert str(moved) == (
        "rank 45 (at 11 x 13, but for a chance of 8e-10) of 49 parameters, by 113 entries of ΔW"
    )


def test_a_chance_is_at_most_one():
    assert measured_module.chance(10**6, 10**6) == 1
    assert measured_module.chance(0, 0) == pytest.approx(1 / math.prod(PRIMES))


def test_a_bound_that_its_author_states_is_no_proof():
    """Formula's `bound` is taken at its word by nobody: of PERA, K is known."""
    stated = Formula(KERNEL.rule, KERNEL.factors, lambda m, n: 5)
    assert not measured_rank(11, 13, stated).proved
    assert not measured_rank(11, 13, of_rule(lambda B, A, h: formulas.pera(B, A, h), 2)).proved
    wrong = Formula(
        formulas.pera, lambda m, n: {"B": (m, 2), "A": (2, n), "h": (3,)}, lambda m, n: 4
    )
    assert repr(measured_rank(11, 13, wrong)) == "5 (proved at 11 x 13)"
    degree = Formula(
        formulas.pera,
        lambda m, n: {"B": (m, 2), "A": (2, n), "h": (7,)},
        constants={"degree": 3},
    )
    assert measured_rank(11, 13, degree) == 9
    assert families.proved_rank(degree, 11, 13) == 11
    # but no matrix has more than min(m, n)
    assert measured_rank(3, 4, KERNEL).proved
    assert measured_dimension(3, 3, pk.LoHa(2)).proved


@pytest.mark.parametrize(
    ("method", "rank", "dimension"),
    [
        (pk.LoRA(2, alpha=3), 2, 44),
        (pk.PERA(2, alpha=1, scaling="rslora", feature_scale=0.1), 5, 49),
        (pk.PERA(2, terms="cross"), 3, 47),
        (pk.LoHa(2), 4, None),
        (pk.MoRA(2), 7, 49),
        (pk.HiRA(2), 11, None),
    ],
)
def test_bounds_of_methods_are_proved(method, rank, dimension):
    found = measured_rank(11, 13, method)
    assert repr(found) == f"{rank} (proved at 11 x 13)"
    if dimension is not None:
        assert repr(measured_dimension(11, 13, method)) == f"{dimension} (proved at 11 x 13)"


def test_a_rule_that_ignores_its_factors():
    table = np.arange(12.0).reshape(3, 4)
    constant = Formula(lambda B: table, lambda m, n: {"B": (m, 1)})
    assert measured_rank(3, 4, constant) == 2
    assert measured_dimension(3, 4, constant) == 0


def test_both_primes_are_drawn_with(monkeypatch):
    used = []
    draw = field.draw
    monkeypatch.setattr(
        field,
        "draw",
        lambda generator, shape, prime: used.append(prime) or draw(generator, shape, prime),
    )
    measured_rank(11, 13, KERNEL)
    assert used == [PRIMES[0]] * 4 + [PRIMES[1]] * 4  # B, A, c, W0
    used.clear()
    jacobian_rank(11, 13, KERNEL)
    assert used == [PRIMES[0]] * 4 + [PRIMES[1]] * 4
    used.clear()
    measured_rank(11, 13, 2)  # one draw is a proof
    assert set(used) == {PRIMES[0]}


@pytest.mark.parametrize("constant", [PRIMES[0], np.float64(PRIMES[0]), torch.tensor(PRIMES[0])])
def test_what_vanishes_modulo_one_prime_is_seen_by_the_other(constant):
    """(B A + p (B A)∘(B A)) is B A modulo p: rank 2 in place of 5."""
    rule = Formula(lambda B, A: B @ A + constant * (B @ A) ** 2, families.pera(2, "none").factors)
    assert measured_rank(11, 13, rule) == 5
    vanishing = Formula(lambda B, A: constant * (B @ A), rule.factors)
    assert measured_rank(11, 13, vanishing) == 2
    assert measured_dimension(11, 13, vanishing) == 44


DORA = pk.DoRA(2)


def test_a_float_answer_says_so():
    found = measured_rank(8, 9, DORA)
    assert found == 8
    assert isinstance(found, FloatRank)
    assert found.gap > 1e9
    assert str(found) == repr(found) == f"{found}"
    assert str(found).startswith("8 (in float64, gap ")
    assert str(found).endswith(": .clamp cannot be read modulo a prime)")
    moved = jacobian_rank(7, 6, pk.DoRA(1))
    assert not moved.exact
    assert not moved.proved
    assert moved.gap == moved.rank.gap > 1e6
    assert ".clamp cannot be read modulo a prime) of " in str(moved)


def by_entries(B, A):
    delta = np.zeros((3, 4))
    for p, q in itertools.product(range(3), range(4)):
        delta[p, q] = B[p, 0] * A[0, q]
    return delta


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        (lambda B, A: np.exp(B @ A), "np.exp cannot be read modulo a prime"),
        (by_entries, "a factor as one Python number cannot be read modulo a prime"),
        (lambda B, A: (B @ A) / A[0, 0], "division by a factor cannot be read modulo a prime"),
        (
            lambda B, A: np.abs(B) @ A if isinstance(B, np.ndarray) else len(None),
            "the formula raised TypeError: object of type 'NoneType' has no len()",
        ),
    ],
)
def test_a_float_answer_says_why(rule, reason):
    found = measured_rank(3, 4, Formula(rule, lambda m, n: {"B": (m, 1), "A": (1, n)}))
    assert found.reason == reason


@pytest.mark.parametrize(
    "found",
    [
        ModularRank(5, False, 1e-11, "11 x 13"),
        ModularRank(5, True, 0.0, "2 x 2"),
        FloatRank(5, 7.0, "exp"),
    ],
)
def test_ranks_are_ints(found):
    for again in (
        pickle.loads(pickle.dumps(found)),
        copy.copy(found),
        copy.deepcopy(found),
    ):
        assert type(again) is type(found)
        assert again == found == 5
        assert vars(again) == vars(found)
        assert repr(again) == repr(found)
    assert json.dumps({"rank": found}) == '{"rank": 5}'
    assert hash(found) == hash(5)
    assert (found + 1, f"{found:3d}", f"{found:>4,}") == (6, "  5", "   5")
    assert type(found + 1) is int
    assert np.array([found]).dtype.kind == "i"


def test_digits_where_the_rank_is_exact():
    found = ModularRank(5, False, 1e-11, "11 x 13")
    assert (f"{found}", str(found)) == ("5", "5")
    assert f"{FloatRank(5, 7.0, 'exp')}" == "5 (in float64, gap 7e+00: exp)"


# --- constants ------------------------------------------------------------------------------------

C = np.random.default_rng(0).normal(size=(3, 4))


def test_a_numpy_constant_inside_a_rule_is_read_exactly():
    """As in VeRA: diag(b) C diag(a), with fixed random C; m + n - 1 dimensions."""

    def vera(b, a):
        return b[:, None] * C * a

    rule = Formula(vera, lambda m, n: {"b": (m,), "a": (n,)})
    named = Formula(lambda b, a, C: b[:, None] * C * a, rule.factors, constants={"C": C})
    for family in (rule, named):
        assert measured_rank(3, 4, family) == 3
        assert measured_dimension(3, 4, family) == 3 + 4 - 1
        assert jacobian_rank(3, 4, family).exact


def test_where_a_numpy_constant_cannot_go_the_message_names_constants():
    shapes = {"B": (4, 3)}
    inside = Formula(lambda B: abs(C @ B.T[:, :4].T @ C), lambda m, n: {"B": (n, m)})
    with pytest.raises(pk.PerakitError, match=r"constants=\{name: array\}"):
        jacobian_rank(3, 4, inside)
    named = Formula(lambda B, C: abs(C @ B @ C), lambda m, n: {"B": (n, m)}, constants={"C": C})
    assert isinstance(measured_dimension(3, 4, named), FloatRank)
    with pytest.raises(
        pk.PerakitError, match=r"^factors=\{'B': \(4, 3\)\} cannot be called: pass a fun"
    ):
        Formula(lambda B: B, shapes)
