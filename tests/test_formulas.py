"""The formulas against oracles that share no code with them: loops, another form of the sum, exact
rationals.
"""

import itertools
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import sympy
import torch
from hypothesis import given
from hypothesis import strategies as st

import perakit as pk
from perakit import formulas, strategies
from perakit.cli import main

TERMS_AND_DEGREES = [(terms, degree) for terms in formulas.TERMS for degree in (2, 3, 4)]
every_expansion = pytest.mark.parametrize(("terms", "degree"), TERMS_AND_DEGREES)


def products(rank, terms, degree):
    """The multi-indices of PERA in order, by a filter on all tuples."""
    for d in range(2, degree + 1):
        for row in itertools.product(range(rank), repeat=d):
            ordered, same = all(a <= b for a, b in itertools.pairwise(row)), len(set(row)) == 1
            if ordered and (terms == "full" or same == (terms == "square")):
                yield row


def loop(B, A, h, terms, degree):
    """ΔW[p, q] = φ_h(u), u = B[p] ∘ A[:, q], by a triple loop in Python numbers; and the sum of
    absolute terms.
    """
    (m, rank), n = B.shape, A.shape[1]
    delta, size = np.zeros((m, n), dtype=object), np.zeros((m, n))
    for p, q in itertools.product(range(m), range(n)):
        u = [B[p, i] * A[i, q] for i in range(rank)]
        terms_ = u + [
            h[k] * math.prod(u[i] for i in row)
            for k, row in enumerate(products(rank, terms, degree))
        ]
        delta[p, q], size[p, q] = sum(terms_), sum(map(abs, terms_))
    return delta, size


# --- monomials ------------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", [1, 2, 3, 7, 16])
def test_pairs_come_in_the_order_of_triu_indices(rank):
    i, j = formulas.pairs(rank)
    rows, columns = np.triu_indices(rank)
    assert np.array_equal(i, rows)
    assert np.array_equal(j, columns)


@pytest.mark.parametrize("rank", [1, 2, 3, 7])
def test_square_and_cross_pairs_divide_the_full_ones(rank):
    full, square, cross = (
        list(zip(*formulas.pairs(rank, terms), strict=True)) for terms in formulas.TERMS
    )
    assert square == [(i, i) for i in range(rank)]
    assert cross == [(i, j) for i in range(rank) for j in range(i + 1, rank)]
    assert sorted(square + cross) == full


def test_degree_three_has_every_monomial_of_degree_three():
    two, three = formulas.monomials(2, degree=3)
    assert two.T.tolist() == [[0, 0], [0, 1], [1, 1]]
    assert three.T.tolist() == [[0, 0, 0], [0, 0, 1], [0, 1, 1], [1, 1, 1]]
    assert formulas.monomials(2, "square", 3)[1].T.tolist() == [[0, 0, 0], [1, 1, 1]]
    assert formulas.monomials(2, "cross", 3)[1].T.tolist() == [[0, 0, 1], [0, 1, 1]]


@every_expansion
@pytest.mark.parametrize("rank", [1, 2, 3, 5])
def test_monomials_are_the_filtered_tuples(rank, terms, degree):
    found = [
        tuple(row) for block in formulas.monomials(rank, terms, degree) for row in block.T.tolist()
    ]
    assert found == list(products(rank, terms, degree))


@pytest.mark.parametrize(
    ("rank", "bound"), [(1, 2), (2, 5), (4, 14), (8, 44), (16, 152), (32, 560)]
)
def test_rank_bound_is_the_papers_k(rank, bound):
    assert formulas.rank_bound(rank) == bound == rank * (rank + 3) // 2


@every_expansion
@given(data=st.data())
def test_rank_bound_is_the_number_of_columns(terms, degree, data):
    B, A, h = data.draw(strategies.factors(terms=terms, degree=degree, integers=True))
    B_hat, A_hat = formulas.expand(B, A, h, terms, degree)
    K = formulas.rank_bound(B.shape[1], terms, degree)
    assert B_hat.shape == (B.shape[0], K)
    assert A_hat.shape == (K, A.shape[1])
    assert np.array_equal(B_hat[:, : B.shape[1]], B)  # linear features first
    assert np.array_equal(A_hat[: A.shape[0]], A)


# --- the update -----------------------------------------------------------------------------------


@every_expansion
@given(data=st.data())
def test_pera_is_the_entrywise_polynomial_exactly_on_integers(terms, degree, data):
    """ΔW[p, q] = φ_h(B[p] ∘ A[:, q]): one polynomial read at mn points (mathematics.md, section
    2).
    """
    B, A, h = data.draw(strategies.factors(terms=terms, degree=degree, integers=True))
    expected, _ = loop(B.astype(object), A.astype(object), h.astype(object), terms, degree)
    assert np.array_equal(formulas.pera(B, A, h, terms, degree), expected)


@every_expansion
@given(data=st.data())
def test_pera_is_the_triple_loop_on_floats(terms, degree, data):
    """To 1e-12 of the sum of absolute terms, which bounds the rounding of any order of adding
    them.
    """
    B, A, h = data.draw(strategies.factors(terms=terms, degree=degree))
    expected, size = loop(B, A, h, terms, degree)
    assert (np.abs(formulas.pera(B, A, h, terms, degree) - expected) <= 1e-12 * size + 1e-300).all()


@every_expansion
@given(data=st.data())
def test_torch_reads_what_numpy_reads(terms, degree, data):
    B, A, h = data.draw(strategies.factors(terms=terms, degree=degree))
    tensors = [torch.as_tensor(x) for x in (B, A, h)]
    for numpy_part, torch_part in zip(
        formulas.expand(B, A, h, terms, degree),
        formulas.expand(*tensors, terms, degree),
        strict=True,
    ):
        assert np.array_equal(numpy_part, torch_part.numpy())  # products alone: the same bits
    _, size = loop(B, A, h, terms, degree)
    error = np.abs(
        formulas.pera(*tensors, terms, degree).numpy() - formulas.pera(B, A, h, terms, degree)
    )
    assert (error <= 1e-12 * size + 1e-300).all()


@every_expansion
@given(data=st.data())
def test_sympy_reads_exactly_what_numpy_reads(terms, degree, data):
    """At rational points, thirds and quarters, with == and no tolerance: symbols, then values;
    Fractions; the loop.
    """
    B, A, h = data.draw(
        strategies.factors(
            st.sampled_from([(1, 1, 1), (1, 2, 2), (2, 1, 3)]),
            terms=terms,
            degree=degree,
            integers=True,
        )
    )
    symbols = [
        np.array(sympy.symbols(f"{name}:{x.size}"), dtype=object).reshape(x.shape)
        for name, x in zip("bah", (B, A, h), strict=True)
    ]
    rationals = [
        np.array([sympy.Rational(int(v), q) for v in x.flat], dtype=object).reshape(x.shape)
        for x, q in ((B, 3), (A, 4), (h, 5))
    ]
    values = {
        s: v
        for S, X in zip(symbols, rationals, strict=True)
        for s, v in zip(S.flat, X.flat, strict=True)
    }
    read_at_values = formulas.pera(*rationals, terms, degree)
    read_then_valued = np.vectorize(lambda entry: entry.subs(values), otypes=[object])(
        formulas.pera(*symbols, terms, degree)
    )
    expected, _ = loop(*rationals, terms, degree)
    assert np.array_equal(read_at_values, expected)
    assert np.array_equal(read_then_valued, expected)
    floats = formulas.pera(B / 3, A / 4, h / 5, terms, degree)
    assert np.allclose(floats, expected.astype(float), rtol=1e-12, atol=1e-13)


@every_expansion
@given(data=st.data())
def test_h_zero_is_lora(terms, degree, data):
    B, A, h = data.draw(strategies.factors(terms=terms, degree=degree, integers=True))
    assert np.array_equal(formulas.pera(B, A, 0 * h, terms, degree), formulas.lora(B, A))
    assert np.array_equal(formulas.lora(B, A), np.einsum("mr,rn->mn", B, A))


def test_the_identity_is_a_rank_one_pera():
    """b = a = (1, -1)/√2, h = 2 gives the 2 x 2 identity, exactly: LoRA of rank 1 cannot."""
    root = sympy.sqrt(2) / 2
    b = np.array([[root], [-root]], dtype=object)
    delta = formulas.pera(b, b.T, np.array([sympy.Integer(2)], dtype=object))
    assert delta.tolist() == [[1, 0], [0, 1]]


@given(strategies.factors(integers=True), st.integers(-3, 3))
def test_kernel_special_case(factors, c):
    """h_ii = c, h_ij = 2c: ΔW = BA + c (BA)∘(BA), the inhomogeneous quadratic kernel of the
    factors' rows.
    """
    B, A, _ = factors
    i, j = formulas.pairs(B.shape[1])
    linear = B @ A
    assert np.array_equal(
        formulas.pera(B, A, np.where(i == j, c, 2 * c)), linear + c * linear * linear
    )


@given(strategies.factors(integers=True))
def test_full_is_square_and_cross_together(factors):
    B, A, h = factors
    i, j = formulas.pairs(B.shape[1])
    square, cross = (
        formulas.pera(B, A, h[mask], terms)
        for terms, mask in (("square", i == j), ("cross", i != j))
    )
    assert np.array_equal(formulas.pera(B, A, h), square + cross - formulas.lora(B, A))


# --- parameter counts -----------------------------------------------------------------------------


@given(strategies.methods(), strategies.shapes())
def test_parameter_count_is_what_an_adapter_has(method, shape):
    m, n, _ = shape
    model = torch.nn.Sequential(torch.nn.Linear(n, m))
    report = pk.attach(model, method, "all-linear")
    options = {"terms": method.terms, "degree": method.degree} if method.name == "pera" else {}
    count = formulas.parameter_count(m, n, method.rank, method.name, **options)
    assert count == sum(p.numel() for p in pk.adapters(model)["0"].parameters()) == report.trainable


def test_parameter_count_of_the_papers():
    assert formulas.parameter_count(768, 768, 8, "lora") == 8 * (768 + 768)
    assert formulas.parameter_count(768, 768, 8, "pera") == 8 * (768 + 768) + 36
    assert formulas.parameter_count(5, 3, 4, "pera", terms="square") == 4 * 8 + 4
    assert formulas.parameter_count(5, 3, 4, "pera", terms="cross") == 4 * 8 + 6
    assert formulas.parameter_count(5, 3, 2, "pera", degree=3) == 2 * 8 + 3 + 4


# --- what is refused ------------------------------------------------------------------------------

B, A, H = np.ones((5, 2)), np.ones((2, 3)), np.ones(3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: formulas.pairs(0), "rank=0 must be an integer >= 1"),
        (lambda: formulas.pairs(-1), "rank=-1 must be an integer >= 1"),
        (lambda: formulas.rank_bound(2.5), "rank=2.5 must be an integer >= 1"),
        (lambda: formulas.rank_bound(True), "rank=True must be an integer >= 1"),
        (lambda: formulas.rank_bound("8"), "rank='8' must be an integer >= 1"),
        (lambda: formulas.rank_bound(2, degree=1), "degree=1 must be an integer >= 2"),
        (lambda: formulas.rank_bound(2, degree=2.0), "degree=2.0 must be an integer >= 2"),
        (
            lambda: formulas.pairs(2, "diag"),
            "terms='diag' is unknown: choose from 'full', 'square', 'cross'",
        ),
        (
            lambda: formulas.pera(B, A, H, "diag"),
            "terms='diag' is unknown: choose from 'full', 'square', 'cross'",
        ),
        (lambda: formulas.pera(B, A, H, degree=1), "degree=1 must be an integer >= 2"),
        (
            lambda: formulas.pera(B, A, H[:2]),
            "h has shape (2,): rank 2, terms='full', degree 2 need (3,)",
        ),
        # Would broadcast
        (
            lambda: formulas.pera(B, A, H[:1]),
            "h has shape (1,): rank 2, terms='full', degree 2 need (3,)",
        ),
        (
            lambda: formulas.pera(B, A, H[None]),
            "h has shape (1, 3): rank 2, terms='full', degree 2 need (3,)",
        ),
        (
            lambda: formulas.pera(B, A, H, "cross"),
            "h has shape (3,): rank 2, terms='cross', degree 2 need (1,)",
        ),
        (
            lambda: formulas.pera(B, A, H, degree=3),
            "h has shape (3,): rank 2, terms='full', degree 3 need (7,)",
        ),
        (
            lambda: formulas.pera(B, A.T, H),
            "B (5, 2) and A (3, 2) do not match: need (m, r) and (r, n)",
        ),
        (
            lambda: formulas.lora(B, A[:1]),
            "B (5, 2) and A (1, 3) do not match: need (m, r) and (r, n)",
        ),
        (
            lambda: formulas.lora(B[0], A),
            "B (2,) and A (2, 3) do not match: need (m, r) and (r, n)",
        ),
        (
            lambda: formulas.lora(torch.ones(5, 2), torch.ones(3, 3)),
            "B (5, 2) and A (3, 3) do not match: need (m, r) and (r, n)",
        ),
    ],
)
def test_bad_arguments_are_refused_with_the_value_and_the_remedy(call, message):
    with pytest.raises(pk.PerakitError) as error:
        call()
    assert str(error.value) == message


def test_unknown_method_is_refused_with_the_known_ones():
    with pytest.raises(
        pk.PerakitError, match=r"^unknown method 'lorra': choose from .*lora.*, .*pera"
    ):
        formulas.parameter_count(5, 3, 2, "lorra")


@pytest.mark.parametrize("rank", [np.int64(2), np.int32(2)])
def test_numpy_integers_are_ranks(rank):
    assert formulas.rank_bound(rank) == 5


def test_formulas_need_neither_torch_nor_sympy():
    """The NumPy reading is a reference that runs anywhere: loaded alone, beside errors.py, without
    the package's __init__.
    """
    code = """
import sys, types
package = types.ModuleType("perakit")
package.__path__ = [sys.argv[1]]
sys.modules["perakit"] = package
import numpy as np
from perakit import formulas
delta = formulas.pera(np.ones((5, 2)), np.ones((2, 3)), np.ones(3))
assert (delta == 5).all()
heavy = {"torch", "sympy", "scipy", "matplotlib", "hypothesis"}
print(sorted({name.split(".")[0] for name in sys.modules} & heavy))
"""
    result = subprocess.run(
        [sys.executable, "-c", code, str(Path(formulas.__file__).parent)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert result.stderr == ""
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("m", "n", "rank"), [(0, 5, 1), (4, 5, 0), (4, 5, -1), (4, 5, 1.5), (4.5, 5, 2), (4, 5, True)]
)
@pytest.mark.parametrize("method", ["lora", "pera"])
def test_counts_of_impossible_sizes_are_refused(m, n, rank, method):
    with pytest.raises(pk.PerakitError, match="must be an integer >= 1"):
        formulas.parameter_count(m, n, rank, method)


def test_counts_with_an_unknown_option_are_refused():
    with pytest.raises(pk.PerakitError, match="lora does not take the options terms"):
        formulas.parameter_count(4, 5, 1, "lora", terms="full")


# --- updates that depend on W0 --------------------------------------------------------------------


@given(strategies.shapes(), strategies.seeds())
def test_hira_and_dora_by_loops(shape, seed):
    m, n, rank = shape
    generator = np.random.default_rng(seed)
    W0, B, A = (generator.normal(size=size) for size in ((m, n), (m, rank), (rank, n)))
    g, scale = generator.uniform(0.5, 2, m), 0.75
    hira, dora = np.zeros((m, n)), np.zeros((m, n))
    for p in range(m):
        row = [W0[p, q] + scale * sum(B[p, i] * A[i, q] for i in range(rank)) for q in range(n)]
        length = math.sqrt(sum(entry * entry for entry in row))
        for q in range(n):
            hira[p, q] = W0[p, q] * sum(B[p, i] * A[i, q] for i in range(rank))
            dora[p, q] = g[p] * row[q] / length - W0[p, q]
    tensors = [torch.from_numpy(array) for array in (W0, B, A, g)]
    for expected, numpy, torch_ in (
        (hira, formulas.hira(W0, B, A), formulas.hira(*tensors[:3])),
        (dora, formulas.dora(W0, B, A, g, scale), formulas.dora(*tensors, scale)),
    ):
        np.testing.assert_allclose(numpy, expected, rtol=1e-12, atol=1e-13)
        np.testing.assert_allclose(torch_.numpy(), expected, rtol=1e-12, atol=1e-13)


def test_dora_in_symbols():
    """W0 = (3, 4), B A = 0: length 5, so magnitude 10 doubles the row; exact, no floats."""
    W0, B, A = (
        np.array(x, dtype=object)
        for x in (
            [[sympy.Integer(3), sympy.Integer(4)]],
            [[sympy.Integer(0)]],
            [[sympy.Integer(1), sympy.Integer(1)]],
        )
    )
    assert formulas.dora(W0, B, A, np.array([sympy.Integer(10)], dtype=object)).tolist() == [[3, 4]]
    g = np.array([sympy.Symbol("g")], dtype=object)
    assert formulas.dora(W0, B, A, g)[0, 1] == sympy.Symbol("g") * 4 / 5 - 4


def test_dora_of_a_zero_row_is_finite_and_its_norm_can_be_held():
    W0, B, A = np.zeros((2, 3)), np.zeros((2, 1)), np.ones((1, 3))
    assert not formulas.dora(W0, B, A, np.ones(2)).any()
    half = torch.zeros(2, 3, requires_grad=True)
    formulas.dora(half, torch.zeros(2, 1), torch.ones(1, 3), torch.zeros(2)).sum().backward()
    assert torch.isfinite(half.grad).all()
    V = np.array([[3.0, 4.0]])
    held = formulas.dora(
        V, np.zeros((1, 1)), np.ones((1, 2)), np.array([1.0]), norm=np.array([2.0])
    )
    np.testing.assert_allclose(held, V / 2 - V)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: formulas.hira(np.ones((3, 3)), np.ones((3, 2)), np.ones((2, 4))),
            r"W0 \(3, 3\) does not match B A, which is \(3, 4\)",
        ),
        (
            lambda: formulas.dora(np.ones((3, 4)), np.ones((3, 2)), np.ones((3, 4)), np.ones(3)),
            r"B \(3, 2\) and A \(3, 4\) do not match",
        ),
        (
            lambda: formulas.dora(np.ones((3, 4)), np.ones((3, 2)), np.ones((2, 4)), np.ones(4)),
            r"magnitude \(4,\) and norm \(3,\) need one entry per row: \(3,\)",
        ),
    ],
)
def test_weights_that_do_not_match_are_refused(call, message):
    with pytest.raises(pk.PerakitError, match="^" + message):
        call()


def test_hira_and_dora_count_their_parameters():
    assert formulas.parameter_count(7, 5, 2, "hira") == 24
    assert formulas.parameter_count(7, 5, 2, "dora") == 31


# --- MoRA, DeLoRA, LoHa and the contrast, by loops ------------------------------------------------


def arrays(seed, *shapes):
    generator = np.random.default_rng(seed)
    return [generator.normal(size=shape) for shape in shapes]


def agree(rule, given, expected, *options):
    """NumPy and torch give the loop's numbers, to the rounding of short float64 sums."""
    expected, tensors = (
        np.array(expected, dtype=float),
        [torch.from_numpy(array) for array in given],
    )
    for found in (rule(*given, *options), rule(*tensors, *options).numpy()):
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


@given(strategies.shapes(), strategies.seeds())
def test_mora_by_loops(shape, seed):
    m, n, rank = shape
    size = formulas.mora_size(m, n, rank)
    (M,) = arrays(seed, (size, size))
    expected = [[M[p % size, q % size] for q in range(n)] for p in range(m)]
    agree(formulas.mora, (M,), expected, m, n)
    assert np.array_equal(formulas.mora(M, m, n), expected)  # nothing is added but zeros: exact
    x = np.arange(1.0, n + 1)
    # f_comp: inputs summed ...
    groups = [sum(x[q] for q in range(n) if q % size == k) for k in range(size)]
    # ... and f_dec: outputs repeated
    output = [sum(M[p % size, k] * groups[k] for k in range(size)) for p in range(m)]
    np.testing.assert_allclose(formulas.mora(M, m, n) @ x, output, rtol=1e-12, atol=1e-12)


@given(st.integers(1, 10**6), st.integers(1, 10**6), st.integers(1, 4096))
def test_the_side_of_moras_square_is_rounded_exactly(m, n, rank):
    """floor(√t + 1/2) = side, which squares to (2 side - 1)² <= 4t < (2 side + 1)²: whole numbers,
    where a float root may slip.
    """
    side = formulas.mora_size(m, n, rank)
    assert (2 * side - 1) ** 2 <= 4 * (m + n) * rank < (2 * side + 1) ** 2
    assert formulas.parameter_count(m, n, rank, "mora") == side * side
    assert isinstance(side, int)


@pytest.mark.parametrize(
    ("m", "n", "rank", "side"),
    [(4096, 4096, 8, 256), (768, 768, 8, 111), (1, 1, 1, 1), (5, 1, 1, 2), (1, 5, 7, 6)],
)
def test_sizes_of_mora(m, n, rank, side):
    """256 at rank 8 on 4096 x 4096 is the paper's own example."""
    assert formulas.mora_size(m, n, rank) == side


@given(strategies.shapes(), strategies.seeds())
def test_delora_by_loops(shape, seed):
    m, n, rank = shape
    W0, B, A, lam = arrays(seed, (m, n), (m, rank), (rank, n), (1,))
    B[:, 0] *= 1e-6  # shorter than 1e-4
    expected = np.zeros((m, n))
    for i, p, q in itertools.product(range(rank), range(m), range(n)):
        b = max(math.sqrt(sum(B[k, i] ** 2 for k in range(m))), 1e-4)
        a = max(math.sqrt(sum(A[i, k] ** 2 for k in range(n))), 1e-4)
        expected[p, q] += (
            lam[0]
            / rank
            * B[p, i]
            / b
            * A[i, q]
            / a
            * math.sqrt(sum(W0[k, q] ** 2 for k in range(m)))
        )
    agree(formulas.delora, (W0, B, A, lam), expected)


def test_delora_in_rationals():
    """W0's columns have lengths 5 and 13, b is 3 long and a 5: λ = 2 gives 2/15 b aᵀ times those;
    and b = 0 counts as 1e-4 long.
    """
    exact = np.vectorize(sympy.Integer, otypes=[object])
    W0, B, A, lam = exact([[3, 5], [4, 12]]), exact([[1], [2]]), exact([[3, 4]]), exact([2])
    root = sympy.sqrt(5)
    assert formulas.delora(W0, B, A, lam).tolist() == [
        [6 / root, sympy.Rational(104, 5) / root],
        [12 / root, sympy.Rational(208, 5) / root],
    ]
    assert not formulas.delora(W0, 0 * B, A, lam).any()
    tiny = np.array([[sympy.Rational(1, 10**6)], [sympy.Integer(0)]], dtype=object)
    assert (
        formulas.delora(W0, tiny, A, lam)[0, 0]
        == 2 * sympy.Rational(1, 100) * sympy.Rational(3, 5) * 5
    )
    symbol = np.array([[sympy.Symbol("b", positive=True)], [sympy.Integer(0)]], dtype=object)
    # The length of a symbol is a root, and no maximum
    assert formulas.delora(W0, symbol, A, lam)[0, 0] == 6


def test_the_gradient_of_delora_at_its_start_is_finite():
    """√ has an infinite slope at 0: the squares are kept above 1e-8 first. B moves at once, by λ/(r
    1e-4 ‖a‖) a.
    """
    B = torch.zeros(3, 2, dtype=torch.float64, requires_grad=True)
    W0, A, lam = (
        torch.eye(3, 4, dtype=torch.float64) + 1,
        torch.ones(2, 4, dtype=torch.float64),
        torch.tensor([15.0]).double(),
    )
    formulas.delora(W0, B, A, lam).sum().backward()
    assert B.grad.isfinite().all()
    columns = sum(math.sqrt(sum(W0[p, q].item() ** 2 for p in range(3))) for q in range(4))
    np.testing.assert_allclose(B.grad.numpy(), 15 / 2 / 1e-4 / 2 * columns, rtol=1e-12)


@given(strategies.shapes(), strategies.seeds())
def test_loha_by_loops(shape, seed):
    m, n, rank = shape
    B1, A1, B2, A2 = given_ = arrays(seed, (m, rank), (rank, n), (m, rank), (rank, n))
    expected = np.zeros((m, n))
    for p, q in itertools.product(range(m), range(n)):
        first, second = (
            sum(B[p, i] * A[i, q] for i in range(rank)) for B, A in ((B1, A1), (B2, A2))
        )
        expected[p, q] = first * second
    agree(formulas.loha, given_, expected)
    B_hat, A_hat = formulas.khatri_rao(*given_)
    assert B_hat.shape == (m, rank**2)
    for i, j in itertools.product(range(rank), repeat=2):  # j fastest
        assert np.array_equal(B_hat[:, i * rank + j], B1[:, i] * B2[:, j])
        assert np.array_equal(A_hat[i * rank + j], A1[i] * A2[j])


@pytest.mark.parametrize("leading", [(), (4,), (2, 3), (0,)])
@given(strategies.shapes(), strategies.seeds())
def test_quadratic_by_loops(leading, shape, seed):
    m, n, rank = shape
    x, U, P = given_ = arrays(seed, (*leading, n), (rank, n), (m, rank))
    expected = np.zeros((*leading, m))
    for at in itertools.product(*map(range, leading)):
        for p in range(m):
            expected[at][p] = sum(
                P[p, i] * sum(U[i, q] * x[at][q] for q in range(n)) ** 2 for i in range(rank)
            )
    agree(formulas.quadratic, given_, expected)


def test_the_new_rules_in_symbols():
    """One entry of each, written out."""

    def named(name, *shape):
        return np.array(sympy.symbols(f"{name}:{math.prod(shape)}"), dtype=object).reshape(shape)

    M, x, U, P = named("m", 2, 2), named("x", 2), named("u", 1, 2), named("p", 3, 1)
    assert formulas.mora(M, 3, 5).tolist() == [
        [M[p % 2, q % 2] for q in range(5)] for p in range(3)
    ]
    assert (
        sympy.expand(
            formulas.quadratic(x, U, P)[2] - P[2, 0] * (x[0] * U[0, 0] + x[1] * U[0, 1]) ** 2
        )
        == 0
    )
    B1, A1, B2, A2 = (
        named(name, *shape)
        for name, shape in (("b", (3, 2)), ("a", (2, 3)), ("c", (3, 2)), ("d", (2, 3)))
    )
    entry = formulas.loha(B1, A1, B2, A2)[2, 1]
    assert sympy.expand(entry - (B1[2] @ A1[:, 1]) * (B2[2] @ A2[:, 1])) == 0


def test_dora_of_a_zero_row_in_rationals_is_what_it_is_in_floats():
    exact = np.vectorize(sympy.Integer, otypes=[object])
    assert not formulas.dora(exact([[0, 0]]), exact([[0]]), exact([[1, 1]]), exact([1])).any()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: formulas.mora(np.ones((2, 3)), 5, 7),
            "M (2, 3) is not square: MoRA needs (r̂, r̂), formulas.mora_size(m, n, rank) on a side",
        ),
        (
            lambda: formulas.mora(np.ones(4), 5, 7),
            "M (4,) is not square: MoRA needs (r̂, r̂), formulas.mora_size(m, n, rank) on a side",
        ),
        (lambda: formulas.mora(np.ones((2, 2)), 0, 7), "m=0 must be an integer >= 1"),
        (lambda: formulas.mora(np.ones((2, 2)), 5, 7.0), "n=7.0 must be an integer >= 1"),
        (lambda: formulas.mora_size(5, 7, True), "rank=True must be an integer >= 1"),
        (
            lambda: formulas.delora(np.ones((5, 3)), B, A, np.ones(2)),
            "lam has shape (2,): DeLoRA trains one number, (1,)",
        ),
        (
            lambda: formulas.delora(np.ones((3, 5)), B, A, np.ones(1)),
            "W0 (3, 5) does not match B A, which is (5, 3)",
        ),
        (
            lambda: formulas.delora(np.ones((5, 3)), B, A.T, np.ones(1)),
            "B (5, 2) and A (3, 2) do not match: need (m, r) and (r, n)",
        ),
        (
            lambda: formulas.loha(B, A, B, A.T),
            "B2 (5, 2) and A2 (3, 2) do not match: need (m, r) and (r, n)",
        ),
        (
            lambda: formulas.loha(B, A, B[:1], A),
            (
                "B1, A1, B2, A2 have shapes (5, 2), (2, 3), (1, 2), (2, 3): both pairs need (m, r)"
                " and (r, n)"
            ),
        ),
        (
            lambda: formulas.loha(B, A, B[:, :1], A[:1]),
            (
                "B1, A1, B2, A2 have shapes (5, 2), (2, 3), (5, 1), (1, 3): both pairs need (m, r)"
                " and (r, n)"
            ),
        ),
        (
            lambda: formulas.quadratic(np.ones((4, 5)), A, B),
            "x (4, 5) and U (2, 3) do not match: need (..., n) and (r, n)",
        ),
        (
            lambda: formulas.quadratic(np.ones((4, 3)), B, A),
            "P (2, 3) and U (5, 2) do not match: need (m, r) and (r, n)",
        ),
    ],
)
def test_factors_that_do_not_match_are_refused(call, message):
    with pytest.raises(pk.PerakitError) as error:
        call()
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("method", "count"),
    [
        ("dora", 2 * 12 + 7),
        ("hira", 2 * 12),
        ("mora", 5 * 5),
        ("delora", 2 * 12 + 1),
        ("loha", 4 * 12),
        ("quadratic", 2 * 12),
    ],
)
def test_counts_in_closed_form(method, count):
    assert formulas.parameter_count(7, 5, 2, method) == count  # r̂ = floor(√24 + 1/2) = 5


# --- entries that are large, small, or of a narrow type -------------------------------------------


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_zero_rows_and_columns_are_zero_in_every_precision(dtype):
    """The floors 1e-36 and 1e-8 are 0 in float16, and 0/0 is no number."""
    W0, B, A, one = (np.ones(shape, dtype) for shape in ((2, 3), (2, 1), (1, 3), (1,)))
    for to in (np.asarray, torch.from_numpy):
        zero_row = formulas.dora(to(0 * W0), to(0 * B), to(A), to(np.ones(2, dtype)))
        zero_column = formulas.delora(to(W0), to(0 * B), to(A), to(one))
        assert zero_row.shape == zero_column.shape == (2, 3)
        assert not zero_row.any()
        assert not zero_column.any()
        lengths = formulas.row_norm(to(np.array([[3, 4], [0, 0]], dtype)))
        assert lengths.dtype.itemsize == max(4, np.dtype(dtype).itemsize)
        np.testing.assert_allclose(np.asarray(lengths), [5, 1e-18], rtol=1e-7)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.int32, np.int64])
def test_lengths_of_whole_numbers_do_not_overflow(dtype):
    """100² = 16 in int8; and in int64 the square of 4e9 does not fit."""
    size = min(100 * 10**9, int(np.iinfo(dtype).max))
    V = np.full((1, 4), size, dtype)
    assert formulas.row_norm(V).tolist() == [2.0 * size]
    np.testing.assert_allclose(
        formulas.row_norm(torch.from_numpy(V)).tolist(), [2.0 * size], rtol=1e-7
    )
    column = formulas.delora(V.T, np.ones((4, 1)), np.ones((1, 1)), np.ones(1))
    np.testing.assert_allclose(np.linalg.norm(column), 2.0 * size, rtol=1e-12)


@pytest.mark.parametrize("size", [1e-30, 1e20, 1e37])
def test_lengths_of_large_and_small_floats(size):
    """Squares of 1e20 are infinite in float32, and those of 1e-30 are zero."""
    for V in (np.full((1, 4), size, np.float32), torch.full((1, 4), size)):
        np.testing.assert_allclose(np.asarray(formulas.row_norm(V, 0)), [2 * size], rtol=1e-6)


def test_a_length_grows_along_its_row():
    V = torch.from_numpy(np.random.default_rng(0).normal(size=(7, 5))).requires_grad_()
    length = formulas.row_norm(V)
    gradient = torch.autograd.grad(length.sum(), V)[0]
    np.testing.assert_allclose(gradient, V.detach() / length.detach()[:, None], rtol=1e-14)
    for shape in ((0, 3), (3, 0), (0, 0)):
        assert formulas.row_norm(torch.zeros(shape), 0).tolist() == [0] * shape[0]


def test_delora_on_very_large_weights_is_finite():
    layer = torch.nn.Sequential(torch.nn.Linear(5, 3))
    with torch.no_grad():
        layer[0].weight.mul_(1e20)
    x = torch.ones(2, 5)
    before = layer(x)
    pk.attach(layer, pk.DeLoRA(2), ["0"])
    assert torch.equal(layer(x), before)
    with torch.no_grad():
        pk.adapters(layer)["0"].B.fill_(1.0)
    delta = pk.delta_weights(layer)["0"]
    assert delta.isfinite().all()
    assert delta.any()


@pytest.mark.parametrize("seed", range(5))
def test_an_untrained_dora_changes_nothing_after_double(seed):
    """Lengths are rounded as the magnitude was when it was made; a wider one would be off by 1e-8
    of W0.
    """
    torch.manual_seed(seed)
    layer = torch.nn.Sequential(torch.nn.Linear(37, 23))
    x = torch.randn(5, 37)
    pk.attach(layer, pk.DoRA(2), ["0"])
    layer.double()
    with pk.disabled(layer):
        before = layer(x.double())
    assert torch.equal(layer(x.double()), before)
    pk.merge(layer)
    assert torch.equal(layer(x.double()), before)


# --- what is no array -----------------------------------------------------------------------------

HUGE = 10**5000  # Python does not even print it


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: formulas.mora(np.ones((0, 0)), 2, 2),
            "M (0, 0) is empty: MoRA needs (r̂, r̂), formulas.mora_size(m, n, rank) on a side",
        ),
        (
            lambda: formulas.mora([[1.0]], 2, 2),
            "M=[[1.0]] is no array: pass a NumPy array or a torch tensor",
        ),
        (lambda: formulas.loha(B[:, :0], A[:0], B[:, :0], A[:0]), "rank=0 must be an integer >= 1"),
        (
            lambda: formulas.loha(B, A, None, A),
            "B2=None is no array: pass a NumPy array or a torch tensor",
        ),
        (
            lambda: formulas.delora(np.ones((5, 3)), B[:, :0], A[:0], np.ones(1)),
            "rank=0 must be an integer >= 1",
        ),
        (
            lambda: formulas.delora(np.ones((5, 3)), B, A, 15.0),
            "lam=15.0 is no array: pass a NumPy array or a torch tensor",
        ),
        (
            lambda: formulas.dora(np.ones((5, 3)), B, A, magnitude=3.0),
            "magnitude=3.0 is no array: pass a NumPy array or a torch tensor",
        ),
        (
            lambda: formulas.dora(np.ones((5, 3)), B, A, np.ones(5), norm=1.0),
            "norm=1.0 is no array: pass a NumPy array or a torch tensor",
        ),
        (lambda: formulas.hira(None, B, A), "W0=None is no array: pass the frozen weight (5, 3)"),
        (
            lambda: formulas.lora([[1]], [[1]]),
            "B=[[1]] is no array: pass a NumPy array or a torch tensor",
        ),
        (
            lambda: formulas.pera(B, A, None),
            "h=None is no array: pass a NumPy array or a torch tensor",
        ),
        (
            lambda: formulas.quadratic(None, A, B),
            "x=None is no array: pass a NumPy array or a torch tensor",
        ),
        (
            lambda: pk.MoRA(2).update(None, M=np.ones((5, 5))),
            "W0=None has no shape: MoRA reads no more of it; pass any array (m, n)",
        ),
        (
            lambda: pk.DoRA(2).update(None, B=B, A=A, magnitude=np.ones(5)),
            "W0=None is no array: pass the frozen weight (5, 3)",
        ),
        (
            lambda: formulas.parameter_count(4, 4, 2, ["x"]),
            (
                "unknown method ['x']: choose from delora, dora, hira, loha, lora, mora, pera,"
                " quadratic"
            ),
        ),
        (
            lambda: formulas.parameter_count(4, 4, HUGE, "lora", x=1),
            "lora does not take the options x: pass those of its rule",
        ),
        (
            lambda: pk.DeLoRA(2, lam=10**400),
            (
                f"lam=1{'0' * 59} ... (401 characters) must be a finite number > 0 at which the"
                " strength λ starts"
            ),
        ),
        (
            lambda: pk.DeLoRA(2, lam=HUGE),
            (
                "lam=an integer of 16,610 bits must be a finite number > 0 at which the strength λ"
                " starts"
            ),
        ),
        (lambda: pk.LoRA(HUGE), "rank=an integer of 16,610 bits must be an integer <= 1048576"),
    ],
)
def test_what_is_no_array_or_no_number_is_refused_in_one_line(call, message):
    with pytest.raises(pk.PerakitError) as error:
        call()
    assert str(error.value) == message


@pytest.mark.parametrize("name", ["DoRA", "dora", "DORA:alpha=2"])
def test_the_command_line_takes_a_method_in_any_case(name, capsys):
    """As the classes are called: pk.DoRA is dora."""
    assert main(["params", "--model", "gpt2", "--method", name]) == 0
    shown = capsys.readouterr().out
    assert main(["params", "--model", "gpt2", "--method", name.lower()]) == 0
    assert shown == capsys.readouterr().out
    assert "dora" in shown.lower()


def test_the_command_line_names_an_unknown_method_as_it_was_typed(capsys):
    assert main(["params", "--model", "gpt2", "--method", "DoRAA"]) == 2
    assert "unknown method 'DoRAA': known here are " in capsys.readouterr().err
