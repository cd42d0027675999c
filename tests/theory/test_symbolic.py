"""Derivations: they hold where the mathematics says so, and fail when the rule is wrong."""

import functools
import math
import re
from itertools import combinations_with_replacement

import numpy as np
import pytest
import sympy
import torch

from perakit import formulas
from perakit.errors import PerakitError
from perakit.theory import gradients, symbolic

RULES = [
    ("full", 2),
    ("square", 2),
    ("cross", 2),
    ("full", 3),
    ("square", 3),
    ("cross", 3),
    ("none", 2),
]
RULE_NAMES = [f"{terms}{degree}" for terms, degree in RULES]
DERIVATIONS = {
    "expansion": symbolic.expansion,
    "entry_polynomial": symbolic.entry_polynomial,
    "gradients": symbolic.gradients,
    "kernel": symbolic.kernel,
    "gauge": symbolic.gauge,
    "tangent_space": symbolic.tangent_space,
}


@functools.cache
def derived(name, mutant=None):
    return DERIVATIONS[name](formula=mutant and MUTANTS[mutant])


def sym(names):
    return sympy.symbols(names, real=True, seq=True)


def loops(B, A, h, rows):
    """One entry after the other, one product after the other: the definition, without array
    operations.
    """
    delta = np.zeros((len(B), A.shape[1]), dtype=object)
    for p, q in np.ndindex(*delta.shape):
        u = [B[p, i] * A[i, q] for i in range(len(A))]
        delta[p, q] = sum(u) + sum(
            c * math.prod(u[i] for i in row) for c, row in zip(h, rows, strict=True)
        )
    return delta


def products(rank, terms, degree):
    """The index tuples of h, found without `formulas`."""
    rows = [
        row for d in range(2, degree + 1) for row in combinations_with_replacement(range(rank), d)
    ]
    keep = {
        "full": lambda row: True,
        "square": lambda row: len(set(row)) == 1,
        "cross": lambda row: len(set(row)) > 1,
    }[terms]
    return [row for row in rows if keep(row)]


# --- wrong rules ----------------------------------------------------------------------------------


def pair_sum(B, A, h, weight=lambda i, j: 1, left=lambda x, y: x * y, shift=0):
    r = len(A)
    total = B @ A
    for c, (i, j) in zip(h, combinations_with_replacement(range(r), 2), strict=True):
        total = total + weight(i, j) * c * np.outer(
            left(B[:, i], B[:, j]), A[i] * A[(j + shift) % r]
        )
    return total


MUTANTS = {
    "twice h": lambda B, A, h: formulas.pera(B, A, 2 * h),
    "no cross terms": lambda B, A, h: pair_sum(B, A, h, weight=lambda i, j: int(i == j)),
    "no h": lambda B, A, h: formulas.pera(B, A, 0 * h + 1),
    "wrong pair": lambda B, A, h: pair_sum(B, A, h, shift=1),
    "cubic": lambda B, A, h: pair_sum(B, A, h, left=lambda x, y: x * x * y),
    "no linear part": lambda B, A, h: formulas.pera(B, A, h) - B @ A,
    "h backwards": lambda B, A, h: formulas.pera(B, A, h[::-1]),
    "LoRA": lambda B, A, h: B @ A,
}
UNSEEN = {  # mutants of which a derivation's claims remain true
    "expansion": set(),
    "gradients": set(),
    "entry_polynomial": set(),
    "kernel": {"h backwards"},  # at rank 2 the coefficients c, 2c, c are a palindrome
    "gauge": {"twice h", "h backwards"},  # symmetric in the same way
    # The same number of directions
    "tangent_space": {"twice h", "h backwards", "cubic", "wrong pair"},
}


@pytest.mark.parametrize("mutant", MUTANTS)
@pytest.mark.parametrize("name", DERIVATIONS)
def test_a_wrong_rule_fails(name, mutant):
    """And where it does not, the derivation claims nothing that the mutation breaks: the table
    above says which.
    """
    assert derived(name, mutant).holds == (mutant in UNSEEN[name])


def test_the_mutants_reader_is_right():
    """`pair_sum` without its mutations is PERA, so that the mutants differ by what their name
    says.
    """
    made = symbolic.symbols(2, 3, 3)
    difference = pair_sum(**made) - formulas.pera(**made)
    assert all(sympy.expand(entry) == 0 for entry in difference.flat)


def test_rank_three_sees_a_gauge_that_rank_two_cannot():
    assert not symbolic.gauge(3, 3, 3, formula=MUTANTS["h backwards"]).holds


@pytest.mark.parametrize("name", ["expansion", "entry_polynomial", "gradients", "kernel"])
def test_one_wrong_entry_is_enough(name):
    def rule(B, A, h):
        delta = formulas.pera(B, A, h)
        if delta.size > 1:  # the polynomial itself is read from a 1 x 1 layer
            delta[-1, -1] = delta[-1, -1] * 2
        return delta

    assert not DERIVATIONS[name](formula=rule).holds


def test_a_wrong_lora_fails():
    for derive in (symbolic.expansion, symbolic.gradients, symbolic.gauge):
        assert not derive(terms="none", formula=lambda B, A: B @ A + (B * B) @ A).holds


def test_a_wrong_cubic_rule_fails():
    def halved(B, A, h, terms, degree):
        return formulas.pera(B, A, h / 2, terms, degree)

    for derive in (symbolic.expansion, symbolic.gradients):
        assert derive(2, 1, 2, "cross", 3).holds
        assert not derive(2, 1, 2, "cross", 3, formula=halved).holds
    assert not symbolic.kernel(2, 1, 2, 3, formula=halved).holds


def test_terms_and_degree_reach_the_formula_only_off_their_defaults():
    seen = []

    def rule(B, A, h, **options):
        seen.append(options)
        return formulas.pera(B, A, h, **options)

    for terms, degree in RULES[:-1]:
        assert symbolic.expansion(2, 1, 2, terms, degree, formula=rule).holds
    assert seen == [{}, *({"terms": terms, "degree": degree} for terms, degree in RULES[1:-1])]


# --- symbols --------------------------------------------------------------------------------------


def test_symbols_by_hand():
    made = symbolic.symbols(1, 2, 2)
    assert made["B"].tolist() == [list(sym("b_{1\\,1} b_{1\\,2}"))]
    assert made["A"].tolist() == [
        list(sym("a_{1\\,1} a_{1\\,2}")),
        list(sym("a_{2\\,1} a_{2\\,2}")),
    ]
    assert made["h"].tolist() == list(sym("h_{11} h_{12} h_{22}"))
    assert sympy.latex(made["B"][0, 1] ** 2) == "b_{1,2}^{2}"
    assert all(s.is_real for array in made.values() for s in array.flat)


def test_coefficients_are_named_after_their_product():
    assert [s.name for s in symbolic.symbols(1, 1, 2, "cross", 3)["h"]] == [
        "h_{12}",
        "h_{112}",
        "h_{122}",
    ]
    assert [s.name for s in symbolic.symbols(1, 1, 2, "square", 3)["h"]] == [
        "h_{11}",
        "h_{22}",
        "h_{111}",
        "h_{222}",
    ]
    assert set(symbolic.symbols(2, 3, 1, "none")) == {"B", "A"}
    eleventh = symbolic.symbols(1, 1, 11, "cross")["h"]
    assert [s.name for s in eleventh[8:10]] == ["h_{1,10}", "h_{1,11}"]
    assert len(set(eleventh)) == 55


# --- expansion ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("terms", "degree"), RULES, ids=RULE_NAMES)
@pytest.mark.parametrize("sizes", [(1, 1, 1), (2, 3, 1), (1, 3, 2), (3, 2, 3)])
def test_expansion_holds(sizes, terms, degree):
    assert symbolic.expansion(*sizes, terms, degree).holds


def test_expansion_at_the_promised_size():
    assert symbolic.expansion(4, 4, 3).holds


@pytest.mark.parametrize(("terms", "degree"), RULES[:-1], ids=RULE_NAMES[:-1])
def test_expansion_shows_the_definition(terms, degree):
    """The third step's right-hand side against loops."""
    made = symbolic.symbols(1, 1, 2, terms, degree)
    shown = symbolic.expansion(1, 1, 2, terms, degree).steps[2].expression.rhs
    expected = loops(made["B"], made["A"], made["h"], products(2, terms, degree))[0, 0]
    assert sympy.expand(shown - expected) == 0


def test_expansion_by_hand():
    b, a, h = sym("b_{1\\,1} a_{1\\,1} h_{11}")
    first, second, third = (step.expression for step in symbolic.expansion(1, 1, 1).steps[:3])
    assert first.rhs == sympy.ImmutableMatrix([[b, b**2]])
    assert second.rhs == sympy.ImmutableMatrix([[a], [h * a**2]])
    assert third.rhs == a * b + h * a**2 * b**2


# --- entry polynomial -----------------------------------------------------------------------------


def test_entry_polynomial_by_hand():
    u1, u2, h11, h12, h22, h122, h112 = sym("u_{1} u_{2} h_{11} h_{12} h_{22} h_{122} h_{112}")
    assert (
        symbolic.entry_polynomial(2).polynomial
        == u1 + u2 + h11 * u1**2 + h12 * u1 * u2 + h22 * u2**2
    )
    assert (
        symbolic.entry_polynomial(2, "cross", 3).polynomial
        == u1 + u2 + h12 * u1 * u2 + h112 * u1**2 * u2 + h122 * u1 * u2**2
    )
    assert symbolic.entry_polynomial(2, "none").polynomial == u1 + u2


@pytest.mark.parametrize(
    ("rank", "terms", "degree", "in_u", "total"),
    [
        (1, "none", 2, 1, 2),
        (1, "full", 2, 2, 5),
        (3, "full", 2, 2, 5),
        (2, "cross", 2, 2, 5),
        (2, "square", 3, 3, 7),
        (2, "full", 4, 4, 9),
    ],
)
def test_degrees(rank, terms, degree, in_u, total):
    found = symbolic.entry_polynomial(rank, terms, degree)
    assert (found.degree, found.total_degree, found.holds) == (in_u, total, True)


def test_without_products_the_polynomial_is_linear():
    """Cross terms of rank 1: there is no pair."""
    found = symbolic.entry_polynomial(1, "cross")
    assert (found.degree, found.total_degree, found.holds) == (1, 2, True)


# --- gradients ------------------------------------------------------------------------------------


def floats(m, n, rank, terms="full", degree=2, seed=0):
    generator = np.random.default_rng(seed)
    shapes = [(m, n), (m, rank), (rank, n), (len(products(rank, terms, degree)),)]
    return [generator.standard_normal(shape) for shape in shapes]


@pytest.mark.parametrize(("terms", "degree"), RULES, ids=RULE_NAMES)
@pytest.mark.parametrize("sizes", [(1, 1, 1), (3, 2, 1), (1, 2, 2), (2, 1, 3)])
def test_gradients_hold(sizes, terms, degree):
    assert symbolic.gradients(*sizes, terms, degree).holds


@pytest.mark.parametrize(
    ("terms", "degree"), [*RULES[:-1], ("full", 4)], ids=[*RULE_NAMES[:-1], "full4"]
)
@pytest.mark.parametrize("sizes", [(1, 1, 1), (5, 3, 2), (2, 7, 3)])
def test_gradients_are_torchs(sizes, terms, degree):
    G, *factors = floats(*sizes, terms, degree)
    leaves = [torch.tensor(x, requires_grad=True) for x in factors]
    (torch.tensor(G) * formulas.pera(*leaves, terms, degree)).sum().backward()
    found = gradients.pera_gradients(G, *factors, terms, degree)
    on_tensors = gradients.pera_gradients(
        torch.tensor(G), *(leaf.detach() for leaf in leaves), terms, degree
    )
    for name, leaf in zip("BAh", leaves, strict=True):
        expected = np.zeros(leaf.shape) if leaf.grad is None else leaf.grad.numpy()
        np.testing.assert_allclose(found[name], expected, rtol=1e-11, atol=1e-11)
        np.testing.assert_allclose(on_tensors[name].numpy(), expected, rtol=1e-11, atol=1e-11)


def test_gradients_of_a_number_by_hand():
    """1 x 1, rank 1, B = 2, A = 3, h = 5, G = 7: ΔW = ba + h b²a² has derivatives a + 2hba², b +
    2hb²a, b²a².
    """
    found = gradients.pera_gradients(
        np.array([[7]]), np.array([[2]]), np.array([[3]]), np.array([5])
    )
    assert found["B"].tolist() == [[7 * (3 + 2 * 5 * 2 * 9)]]
    assert found["A"].tolist() == [[7 * (2 + 2 * 5 * 4 * 3)]]
    assert found["h"].tolist() == [7 * 36]


def test_gradients_leave_their_arguments_alone():
    arrays = floats(3, 2, 2)
    kept = [x.copy() for x in arrays]
    gradients.pera_gradients(*arrays)
    for before, after in zip(kept, arrays, strict=True):
        np.testing.assert_array_equal(before, after)


def test_the_first_step_is_loras():
    """At B = 0: no gradient for h, LoRA's for B and A."""
    G, B, A, h = floats(5, 3, 2)
    found, lora = gradients.pera_gradients(G, 0 * B, A, h), gradients.lora_gradients(G, 0 * B, A)
    assert not found["h"].any()
    np.testing.assert_array_equal(found["B"], lora["B"])
    np.testing.assert_array_equal(found["A"], lora["A"])
    np.testing.assert_allclose(
        lora["B"], [[sum(G[p, q] * A[i, q] for q in range(3)) for i in range(2)] for p in range(5)]
    )


# --- kernel ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("degree", [2, 3, 4])
@pytest.mark.parametrize("sizes", [(1, 1, 1), (2, 3, 2), (1, 2, 3)])
def test_kernel_holds(sizes, degree):
    assert symbolic.kernel(*sizes, degree).holds


def test_kernel_coefficients_by_hand():
    c2, c3 = sym("c_{2} c_{3}")
    assert list(symbolic.kernel(2, 2, 2).steps[0].expression.rhs) == [c2, 2 * c2, c2]
    assert list(symbolic.kernel(1, 1, 2, 3).steps[0].expression.rhs) == [
        c2,
        2 * c2,
        c2,
        c3,
        3 * c3,
        3 * c3,
        c3,
    ]
    assert list(symbolic.kernel(1, 1, 3, 3).steps[0].expression.rhs).count(6 * c3) == 1


# --- gauge ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sizes", "terms", "degree"),
    [((3, 4, 1), *rule) for rule in RULES]
    + [((5, 4, 2), *rule) for rule in RULES[:3]]
    + [((5, 5, 2), "full", 3), ((6, 6, 3), "cross", 2), ((3, 3, 3), "none", 2)],
)
def test_gauge_holds_and_is_all_of_the_null_space(sizes, terms, degree):
    derivation = symbolic.gauge(*sizes, terms, degree)
    rank = sizes[2]
    assert derivation.holds
    assert derivation.steps[-1].expression.rhs == (rank**2 if terms == "none" else rank)
    assert "they span the null space" in derivation.steps[-1].text


def test_gauge_tries_every_permutation():
    orders = re.findall(r"in the order ([\d, ]+) times", str(symbolic.gauge(3, 3, 3)))
    assert sorted(orders) == ["1, 2, 3", "1, 3, 2", "2, 1, 3", "2, 3, 1", "3, 1, 2", "3, 2, 1"]
    orders = re.findall(r"in the order ([\d, ]+) times", str(symbolic.gauge(4, 4, 4)))
    assert orders == ["2, 1, 3, 4", "2, 3, 4, 1"]


def test_a_small_layer_has_a_larger_null_space():
    """3 x 3, rank 2: 15 parameters, 9 directions, so 6 of null space where the gauge has 2."""
    derivation = symbolic.gauge(3, 3, 2)
    assert derivation.holds
    assert derivation.steps[-1].expression.rhs == 6
    assert "the layer is small" in derivation.steps[-1].text


def test_the_first_entry_after_a_swap():
    a1, a2, b1, b2, h11, h12, h22 = sym(
        "a_{1\\,1} a_{2\\,1} b_{1\\,1} b_{1\\,2} h_{11} h_{12} h_{22}"
    )
    u, h = (step.expression.rhs for step in derived("gauge").steps[:2])
    assert list(u) == [a2 * b2, a1 * b1]
    assert list(h) == [h22, h12, h11]


def test_kernel_coefficients_have_a_larger_group():
    """A special point: h = (c, 2c, c) and any X in GL(2), here [[1, 1], [0, 1]]; not so for other
    h.
    """
    B, A = np.array([[1, 2], [3, 5], [7, 1]]), np.array([[2, 1, 4], [1, 3, 6]])
    X, inverse = np.array([[1, 1], [0, 1]]), np.array([[1, -1], [0, 1]])
    for h, invariant in (([3, 6, 3], True), ([3, 5, 3], False)):
        moved = formulas.pera(B @ X, inverse @ A, np.array(h))
        assert np.array_equal(moved, formulas.pera(B, A, np.array(h))) == invariant


# --- jacobian and ranks ---------------------------------------------------------------------------


def test_jacobian_by_hand():
    J = symbolic.jacobian(1, 1, 1)
    b, a, h = J.point.values()
    assert list(J.matrix) == [a + 2 * h * b * a**2, b + 2 * h * b**2 * a, b**2 * a**2]
    assert [s.name for s in J.parameters] == ["b_{1,1}", "a_{1,1}", "h_{11}"]
    assert (J.rank, J.nullity) == (1, 2)


@pytest.mark.parametrize("at", symbolic.POINTS)
@pytest.mark.parametrize(("terms", "degree"), RULES, ids=RULE_NAMES)
def test_jacobian_is_torchs(terms, degree, at):
    J = symbolic.jacobian(3, 2, 2, terms, degree, at, seed=3)
    values = torch.tensor([float(value) for value in J.point.values()], dtype=torch.float64)

    def update(flat):
        B, A, h = flat[:6].reshape(3, 2), flat[6:10].reshape(2, 2), flat[10:]
        return (B @ A if terms == "none" else formulas.pera(B, A, h, terms, degree)).flatten()

    expected = torch.autograd.functional.jacobian(update, values).numpy()
    np.testing.assert_allclose(np.array(J.matrix, dtype=float), expected, rtol=1e-12)


def test_points_have_the_zeros_they_promise():
    def zeros(at):
        return {
            name for name, value in symbolic.jacobian(2, 2, 1, at=at).point.items() if value == 0
        }

    b1, b2, h = sym("b_{1\\,1} b_{2\\,1} h_{11}")
    assert (zeros("generic"), zeros("lora"), zeros("start")) == (set(), {h}, {b1, b2, h})


def test_the_seed_draws_the_point():
    first, again, other = (symbolic.jacobian(2, 2, 1, seed=seed).point for seed in (0, 0, 1))
    assert first == again != other


@pytest.mark.parametrize(
    ("sizes", "terms", "degree", "generic", "lora"),
    [  # by hand: generic r(m+n) + K - 2r, with h = 0 r(m+n) - r² + K - r; none: r(m+n) - r²
        ((4, 7, 2), "full", 2, 23, 21),
        ((5, 4, 2), "square", 2, 18, 16),
        ((4, 5, 2), "cross", 2, 17, 15),
        ((6, 5, 2), "full", 3, 27, 25),
        ((7, 5, 2), "none", 2, 20, 20),
        ((3, 4, 1), "full", 2, 7, 7),
        ((7, 7, 3), "full", 2, 45, 39),
        ((3, 3, 2), "full", 2, 9, 9),
        ((1, 4, 1), "full", 2, 4, 4),
    ],
)
def test_ranks_at_the_three_points(sizes, terms, degree, generic, lora):
    m, _, r = sizes
    derivation = symbolic.tangent_space(*sizes, terms, degree)
    assert derivation.holds
    assert [step.expression.rhs for step in derivation.steps[1:]] == [generic, lora, m * r]


@pytest.mark.parametrize(
    ("sizes", "terms", "degree", "expected"),
    [
        ((7, 8, 2), "full", 2, 5),
        ((7, 8, 2), "square", 2, 4),
        ((7, 8, 2), "cross", 2, 3),
        ((7, 8, 2), "none", 2, 2),
        ((9, 11, 2), "full", 3, 9),
        ((5, 4, 1), "full", 3, 3),
        ((3, 4, 2), "full", 2, 3),
        ((16, 15, 4), "full", 2, 14),
        ((1, 1, 1), "cross", 2, 1),
    ],
)
def test_generic_rank(sizes, terms, degree, expected):
    assert symbolic.generic_rank(*sizes, terms, degree) == expected


def test_generic_rank_reads_the_formula():
    assert symbolic.generic_rank(7, 8, 2, formula=MUTANTS["LoRA"]) == 2
    assert symbolic.generic_rank(7, 8, 2, formula=MUTANTS["no cross terms"]) == 4


def test_floats_in_a_formula_are_read_as_rationals():
    def scaled(B, A, h):
        return 0.5 * formulas.pera(B, A, h)

    assert symbolic.jacobian(3, 4, 1, formula=scaled).rank == 7
    assert symbolic.generic_rank(5, 6, 2, formula=scaled) == 5


# --- what is written ------------------------------------------------------------------------------


def check_latex(text):
    """Braces, \\left/\\right and environments balanced, one display, and only characters that every
    engine knows.
    """
    assert text.startswith("$$")
    assert text.endswith("$$")
    assert text.count("$") == 4
    assert text.isascii()
    depth = 0
    for mark in re.findall(r"(?<!\\)[{}]", text):
        depth += 1 if mark == "{" else -1
        assert depth >= 0
    assert depth == 0
    assert len(re.findall(r"\\left(?![a-z])", text)) == len(re.findall(r"\\right(?![a-z])", text))
    stack = []
    for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", text):
        if kind == "begin":
            stack.append(name)
        else:
            assert stack.pop() == name
    assert not stack
    for inner in re.findall(r"\\text(?:bf)?\{([^{}]*)\}", text):
        assert not re.search(r"(?<!\\)[_^&%#]", inner)


@pytest.mark.parametrize("mutant", [None, "wrong pair"])
@pytest.mark.parametrize("name", DERIVATIONS)
def test_every_derivation_can_be_read(name, mutant):
    derivation = derived(name, mutant)
    latex, text = derivation._repr_latex_(), str(derivation)
    check_latex(latex)
    assert text.startswith(f"{derivation.title}\n({derivation.source})\n")
    assert "2604.11841, Eq. 9" in derivation.source
    for step in derivation.steps:
        assert step.text in text
        assert sympy.latex(step.expression) in latex
    assert (
        text.count("✓") == sum(step.holds is True for step in derivation.steps) + derivation.holds
    )
    assert text.count("✗") == sum(step.holds is False for step in derivation.steps) + (
        not derivation.holds
    )
    assert ("fails" in latex) == (not derivation.holds) == ("DOES NOT HOLD" in text)
    assert (r"\checkmark" in latex) == any(step.holds for step in derivation.steps)
    assert not re.search(r"[{}\\]", text)


@pytest.mark.parametrize(("terms", "degree"), RULES, ids=RULE_NAMES)
def test_every_rule_can_be_read(terms, degree):
    for derive in (symbolic.expansion, symbolic.gradients):
        check_latex(derive(2, 1, 2, terms, degree)._repr_latex_())


def test_the_latex_check_can_fail():
    for broken in (
        r"$$\frac{1}{2$$",
        r"$$\begin{a}\end{b}$$",
        r"$$\left( x$$",
        r"$$\text{a_b}$$",
        "$$Δ$$",
        "$x$",
    ):
        with pytest.raises(AssertionError):
            check_latex(broken)


def test_text_of_your_own_is_escaped():
    step = symbolic.Step("a_b & 5 % of #3", sympy.Eq(sympy.Symbol("x"), 1))
    derivation = symbolic.Derivation("x_y", "my_notes", (step,))
    check_latex(derivation._repr_latex_())
    assert r"\text{a\_b \& 5 \% of \#3}" in derivation._repr_latex_()
    assert "1. a_b & 5 % of #3" in str(derivation)


def test_the_equation_of_the_paper_is_cited():
    cited = {
        terms: symbolic.expansion(1, 1, 1, terms).source
        for terms in ("full", "square", "cross", "none")
    }
    assert {terms: source.split(", ")[1] for terms, source in cited.items()} == {
        "full": "Eq. 9",
        "square": "Eq. 10",
        "cross": "Eq. 11",
        "none": "Eq. 8",
    }


def test_plain_text_by_hand():
    lines = [line.rstrip() for line in str(symbolic.expansion(1, 1, 1)).splitlines()]
    start = next(k for k, line in enumerate(lines) if line.startswith("3."))
    assert lines[start + 1 : start + 3] == [
        "             2    2",
        "   ΔW₁₁ = a₁₁ ⋅b₁₁ ⋅h₁₁ + a₁₁⋅b₁₁",
    ]


def test_indices_from_ten_on_stay_apart():
    shown = str(symbolic.expansion(1, 1, 10, "none"))
    assert "b₁,₁₀" in shown
    assert "b₁₁" in shown


def test_a_difference_is_shown():
    shown = symbolic.expansion(1, 1, 1, formula=lambda B, A, h: formulas.pera(B, A, 2 * h)).steps[
        -1
    ]
    b, a, h = sym("b_{1\\,1} a_{1\\,1} h_{11}")
    assert shown.holds is False
    assert shown.expression.rhs == h * a**2 * b**2


# --- bad input ------------------------------------------------------------------------------------

ONE = np.ones((1, 1))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: symbolic.symbols(0, 2, 1), "m=0 must be an integer >= 1"),
        (lambda: symbolic.symbols(2, 2.0, 1), "n=2.0 must be an integer >= 1"),
        (lambda: symbolic.expansion(2, 2, 0), "rank=0 must be an integer >= 1"),
        (
            lambda: symbolic.expansion(terms="all"),
            "terms='all' is unknown: choose from 'full', 'square', 'cross', 'none'",
        ),
        (lambda: symbolic.entry_polynomial(2, degree=1), "degree=1 must be an integer >= 2"),
        (lambda: symbolic.kernel(degree=1), "degree=1 must be an integer >= 2"),
        (
            lambda: symbolic.gauge(2, 3, 3),
            "rank=3 is above min(m, n) = 2 of a 2 x 3 layer: choose a smaller rank",
        ),
        (
            lambda: symbolic.tangent_space(2, 3, 3),
            "rank=3 is above min(m, n) = 2 of a 2 x 3 layer: choose a smaller rank",
        ),
        (
            lambda: symbolic.generic_rank(2, 3, 3),
            "rank=3 is above min(m, n) = 2 of a 2 x 3 layer: choose a smaller rank",
        ),
        (
            lambda: symbolic.jacobian(2, 3, 1, at="end"),
            "at='end' is unknown: choose from 'generic', 'lora', 'start'",
        ),
        (lambda: symbolic.jacobian(2, 3, 1, seed=-1), "seed=-1 must be an integer >= 0"),
        (
            lambda: symbolic.expansion(formula=3),
            "formula=3 cannot be called: pass a rule like perakit.formulas.pera",
        ),
        (
            lambda: symbolic.expansion(2, 3, formula=lambda B, A, h: B),
            "the formula returned shape (2, 2) where the layer is (2, 3)",
        ),
        (
            lambda: symbolic.jacobian(1, 1, 1, formula=lambda B, A, h: 1 / (A - A)),
            "the formula gives zoo for an entry of ΔW",
        ),
        (
            lambda: symbolic.jacobian(1, 1, 1, formula=lambda B, A, h: A ** sympy.Rational(1, 2)),
            "exact ranks need a rational function",
        ),
        (
            lambda: symbolic.entry_polynomial(1, formula=lambda B, A, h: 1 / (B @ A)),
            "no polynomial in its parameters",
        ),
        (
            lambda: gradients.pera_gradients(np.ones((2, 1)), ONE, ONE, np.ones(1)),
            "G has shape (2, 1) where the update has (1, 1)",
        ),
        (
            lambda: gradients.lora_gradients(np.ones((1, 2)), ONE, ONE),
            "G has shape (1, 2) where the update has (1, 1)",
        ),
        (
            lambda: gradients.pera_gradients(ONE, ONE, ONE, np.ones(2)),
            "h has shape (2,): rank 1, terms='full', degree 2 need (1,)",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(PerakitError, match=re.escape(message)):
        call()
