"""The factors that made an update are found again, to the last bits; and mistakes are seen."""

import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import perakit as pk
from perakit import formulas
from perakit.theory import recover, recovery
from perakit.theory.families import Formula, pera

W = np.random.default_rng(0).normal(size=(9, 7))


def drawn(m, n, method, seed, h=None):
    """N(0, 1) factors of a method, and their update."""
    rng = np.random.default_rng(seed)
    factors = {name: rng.normal(size=shape) for name, shape in sorted(method.shapes(m, n).items())}
    if h is not None:
        factors["h"] = np.array(h, dtype=float)
    return factors, method.update(None, **factors)


def same_but_for_order_and_scale(found, factors):
    """Whether B, A and h are the given ones: by rank-one parts and their products."""
    parts = [np.einsum("pi,iq->ipq", x["B"], x["A"]) for x in (found, factors)]
    order = [int(abs(parts[1] - part).sum((1, 2)).argmin()) for part in parts[0]]
    i, j = formulas.pairs(len(order))
    tables = []
    for x in (found, factors):
        table = np.zeros((len(order),) * 2)
        table[i, j] = table[j, i] = x["h"]
        tables.append(table)
    return (
        sorted(order) == list(range(len(order)))
        and np.allclose(parts[0], parts[1][order], atol=1e-9)
        and np.allclose(tables[0], tables[1][np.ix_(order, order)], atol=1e-9)
    )


# --- exact members --------------------------------------------------------------------------------


@settings(max_examples=12, deadline=None)
@given(
    st.sampled_from([(8, 8), (7, 11), (13, 7), (12, 12)]),
    st.sampled_from([1, 2]),
    st.sampled_from([0.01, 1.0, 100.0]),
    st.integers(0, 99),
)
def test_factors_of_pera_are_found(shape, rank, size, seed):
    rng = np.random.default_rng(seed)
    h = size * rng.normal(size=rank * (rank + 1) // 2)
    factors, update = drawn(*shape, pera(rank), seed, h)
    found = recover(update, pera(rank))
    assert found.relative < 1e-13
    assert found.member
    assert found.residual == pytest.approx(np.linalg.norm(formulas.pera(**found.factors) - update))
    if max(shape) > 8:  # so few rows may have other solutions
        assert same_but_for_order_and_scale(
            found.factors | {"h": found.h / size}, factors | {"h": h / size}
        )


@pytest.mark.parametrize(
    ("side", "rank", "options"),
    [
        (24, 3, {}),
        (32, 4, {}),
        (12, 3, {"terms": "square"}),
        (16, 2, {"terms": "cross"}),
        (8, 1, {"degree": 3}),
        (24, 2, {"degree": 3}),
        (24, 2, {"terms": "square", "degree": 3}),
    ],
)
def test_every_kind_of_products(side, rank, options):
    _, update = drawn(side, side + 1, pera(rank, **options), 1)
    found = recover(update, pera(rank, **options))
    assert found.member
    assert found.relative < 1e-13


@pytest.mark.parametrize(
    ("rank", "h", "unique"),
    [
        (2, [0, 0, 0], False),  # LoRA
        (2, [1, 2, 1], False),  # the kernel: both rows of H are (1, 1)
        (3, [1, 2, 0.3, 1, 0.3, -1], False),  # rows 1 and 2 are equal
        (2, [0.7, 0, -1.2], None),
        (2, [0.7, 0, 0], None),
        (2, [0, 0.7, 0], None),
        (2, [1, 0.5, 1], True),  # rows are equal but for their order
        (3, [0.5, 0, 0, 0, -1, 0.8], None),
    ],
)
def test_any_h(rank, h, unique):
    side = 36
    _, update = drawn(side, side, pera(rank), 3, h)
    found = recover(update, pera(rank))
    assert found.member
    assert found.unique is unique
    assert found.reason.startswith(
        {False: "no, ", None: "not known: ", True: "up to order"}[unique]
    )


def test_the_methods_scales_are_undone():
    method = pk.PERA(2, alpha=7, feature_scale=50.0, scaling="rslora")
    factors, update = drawn(12, 13, method, 0)
    found = recover(update, method)
    np.testing.assert_allclose(method.update(None, **found.factors), update, atol=1e-11)
    np.testing.assert_allclose(sorted(found.h), sorted(factors["h"]), rtol=1e-9)
    other = Formula(lambda B, A, h: -3 * formulas.pera(B, A, h), pera(2).factors, pera(2).bound)
    _, update = drawn(12, 13, other, 0)
    found = recover(update, other)
    np.testing.assert_allclose(other.update(None, **found.factors), update, atol=1e-11)


@pytest.mark.parametrize("size", [1e-60, 2.0**40])
def test_the_size_of_the_update_does_not_matter(size):
    factors, update = drawn(12, 12, pera(2), 5)
    found = recover(size * update, pera(2))
    assert found.relative < 1e-14
    np.testing.assert_allclose(sorted(size * found.h), sorted(factors["h"]), rtol=1e-9)


def test_factors_of_the_update_do_as_well():
    factors, update = drawn(200, 90, pera(3), 2)
    found = recover(formulas.expand(**factors), pera(3))
    assert found.member
    assert found.unique
    np.testing.assert_allclose(formulas.pera(**found.factors), update, atol=1e-10)
    assert str(found).startswith("a member: ΔW is reproduced to ")
    assert str(found).endswith("; unique: up to order and scale")


def test_one_eigenproblem_gives_order_and_scale():
    """Without refinement, which would hide a wrong weight: G = Σ H_ij (s_i s_j)(t_i t_j)."""
    rng = np.random.default_rng(0)
    S, h, squares = rng.normal(size=(3, 3)), rng.normal(size=6), recovery.monomials_of(3, "full", 2)
    X, Y = rng.normal(size=(20, 3)), rng.normal(size=(3, 20))
    B, A = X @ S, np.linalg.inv(S) @ Y
    quadratic = formulas.pera(B, A, h) - B @ A
    left, right = recovery.features(X, squares), recovery.features(Y.T, squares)
    G = np.linalg.pinv(left) @ quadratic @ np.linalg.pinv(right.T)
    for power in (1, 2):
        found = np.linalg.inv(S) @ recovery._common_eigenvectors(G, squares, 3, power)
        found = abs(found / abs(found).max(0))
        np.testing.assert_allclose(np.sort(found, axis=0), [[0] * 3, [0] * 3, [1] * 3], atol=1e-8)


def test_a_float32_update_has_float32_rounding():
    factors, update = drawn(24, 24, pera(2), 2)
    found = recover(torch.tensor(update, dtype=torch.float32), pera(2))
    assert found.member
    assert 1e-9 < found.relative < found.tolerance < 1e-4
    parts = [torch.tensor(part, dtype=torch.float32) for part in formulas.expand(**factors)]
    assert recover(tuple(parts), pera(2)).tolerance == found.tolerance
    np.testing.assert_allclose(sorted(found.h), sorted(factors["h"]), rtol=1e-3)


def test_the_canonical_factors():
    _, update = drawn(24, 30, pera(3), 4)
    found = recover(update, pera(3))
    b, a = np.linalg.norm(found.B, axis=0), np.linalg.norm(found.A, axis=1)
    np.testing.assert_allclose(a, b, rtol=1e-12)
    assert (np.diff(b) <= 0).all()
    assert (found.B[abs(found.B).argmax(0), range(3)] > 0).all()
    moved = recover(
        formulas.pera(
            found.B[:, [2, 0, 1]] * [-2, 0.5, 3],
            found.A[[2, 0, 1]] / np.array([[-2], [0.5], [3]]),
            found.h[[5, 2, 4, 0, 1, 3]],  # of the pairs 22, 02, 12, 00, 01, 11
        ),
        pera(3),
        seed=7,
    )
    for name, factor in found.factors.items():
        np.testing.assert_allclose(moved.factors[name], factor, atol=1e-8)


def test_a_wrong_order_of_h_is_noticed():
    _, update = drawn(24, 24, pera(2), 6)
    found = recover(update, pera(2))
    wrong = formulas.pera(found.B, found.A, found.h[::-1])
    assert np.linalg.norm(wrong - update) > 0.01 * np.linalg.norm(update)


# --- what is no member ----------------------------------------------------------------------------


@pytest.mark.parametrize("noise", [1e-6, 1e-3])
def test_noise_leaves_the_nearest(noise):
    """Nearer than the factors that were there, and no nearer than rank K allows."""
    _, update = drawn(12, 16, pera(2), 8)
    error = np.random.default_rng(1).normal(size=update.shape)
    noisy = update + noise * error * np.linalg.norm(update) / np.linalg.norm(error)
    found = recover(noisy, pera(2))
    assert not found.member
    assert found.unique is None
    tail = np.sqrt((np.linalg.svd(noisy)[1][5:] ** 2).sum()) / np.linalg.norm(noisy)
    assert tail < found.relative < noise
    assert found.proof == f"and no matrix of rank <= 5 is nearer than {tail:.3g} (Eckart-Young)"
    assert str(found) == (
        f"the nearest found leaves {found.relative:.3g} of ΔW ({found.residual:.4g}), {found.proof}"
    )


def test_what_is_out_of_reach_is_no_member():
    out = np.array([[1.0, 2, 3], [4, 5, 7], [5, 7, 10]])
    found = recover(out, pera(1))
    assert found.residual > 0.33  # an upper bound, as always
    assert not found.proof
    assert "which proves nothing: no better factors were found" in str(found)


def test_a_limit_is_no_member():
    found = recover(np.arange(1.0, 10).reshape(3, 3), pera(1))
    assert not found.member
    assert found.relative < 1e-4
    assert found.cancelling > 1e3
    assert str(found).endswith("cancel: the factors may diverge")


def test_lora_is_the_truncated_svd_and_never_unique():
    found = recover(W, pk.LoRA(3, alpha=6))
    U, sigma, Vt = np.linalg.svd(W, full_matrices=False)
    np.testing.assert_allclose(2 * found.B @ found.A, (U[:, :3] * sigma[:3]) @ Vt[:3], atol=1e-13)
    assert found.h is None
    assert set(found.factors) == {"B", "A"}
    assert found.residual == pytest.approx(np.linalg.norm(sigma[3:]))
    exact = recover(W, pk.LoRA(7))
    assert exact.member
    assert exact.unique is False
    assert exact.reason == "no, B A = (B X)(X⁻¹ A) for every invertible X"
    assert recover(W[:, :1] @ W[:1], pk.LoRA(1)).unique


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (7, 1)])
def test_sides_of_one(shape):
    assert recover(np.ones(shape), pk.LoRA(1)).member
    assert recover(np.ones(shape), pk.PERA(1)).member  # h = 0 does
    zero = recover(np.zeros(shape), pk.PERA(1))
    assert zero.member
    assert not zero.B.any()


# --- the code under test, broken ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "broken"),
    [
        ("_common_eigenvectors", lambda G, squares, r, power: np.eye(r)),
        ("_canonical", lambda B, A, h, rule: (B, A, h[::-1])),
        ("planes", lambda basis, rule, rng, count: iter([[basis.whole[:, : rule.r]]] * count)),
    ],
)
def test_a_broken_step_is_noticed(monkeypatch, name, broken):
    _, update = drawn(24, 24, pera(3), 9)
    monkeypatch.setattr(recovery, name, broken)
    monkeypatch.setattr(recovery, "refine", lambda W, factors, rule, patience=0: factors)
    assert not recover(update, pera(3), starts=25).member


# --- messages -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"delta": W * [[math.nan]]}, "delta[0, 0] is nan: every entry must be finite"),
        ({"delta": W + 1j}, "complex numbers were given: pass real ones"),
        ({"delta": W[0]}, "delta has shape (7,): pass a non-empty matrix (m, n)"),
        ({"delta": [["a"]]}, "delta is no matrix of real numbers"),
        ({"delta": (W, W)}, "left (9, 7) and right (9, 7) do not match: need (m, k) and (k, n)"),
        ({"delta": (W, W.T * np.inf)}, "right[0, 0] is "),
        ({"delta": 1e-200 * W}, "the entries of ΔW are of size 3e-200: rescale it"),
        ({"method": pk.PERA(8)}, "rank=8 is above min(m, n) = 7 of a 9 x 7 layer"),
        ({"method": pk.PERA(3)}, "K = 9 is not below min(m, n) = 7 of this 9 x 7 update: its"),
        ({"method": pk.DoRA(2)}, "is no sum of B A and products of the columns of B and A"),
        ({"method": pk.HiRA(2)}, "is no sum of B A and products of the columns of B and A"),
        ({"method": pk.MoRA(2)}, "is no sum of B A and products of the columns of B and A"),
        ({"method": pk.LoHa(2)}, "recover reads perakit.PERA, perakit.LoRA and families"),
        ({"method": pk.Quadratic(2)}, "recover reads perakit.PERA, perakit.LoRA and families"),
        ({"method": pk.PERA}, "PERA is no family of updates: pass a method with its rank"),
        ({"method": 2}, "2 is no family of updates: pass a method with its rank"),
        ({"seed": -1}, "seed=-1 must be an integer >= 0"),
        ({"starts": 0}, "starts=0 must be an integer >= 1"),
        ({"tolerance": -1.0}, "tolerance=-1.0 must be a finite number >= 0"),
        ({"tolerance": True}, "tolerance=True must be a finite number >= 0"),
    ],
)
def test_messages(arguments, message):
    with pytest.raises(pk.PerakitError, match=re.escape(message)):
        recover(**{"delta": W, "method": pk.PERA(1)} | arguments)
