"""Every verdict stands, and every check can fail: for each claim a wrong rule that it catches."""

import functools
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import strategies as st

import perakit as pk
from perakit import formulas
from perakit.theory import claims
from perakit.theory.claims import VERDICTS, Claims, Evidence, Finding, search
from perakit.theory.report import verify

# --- wrong rules ----------------------------------------------------------------------------------
# Mistakes that somebody makes: a forgotten coefficient, a doubled one, a product of the wrong
# columns, a third factor.


def pera(B, A, h, terms="full", degree=2):
    return formulas.pera(B, A, h, terms, degree)


def twice_h(B, A, h, terms="full", degree=2):
    return pera(B, A, 2 * h, terms, degree)


def without_h(B, A, h, terms="full", degree=2):
    return pera(B, A, 0 * h + 1, terms, degree)


def shifted_h(B, A, h, terms="full", degree=2):
    return pera(B, A, h + 1, terms, degree)


def without_products(B, A, h, terms="full", degree=2):
    return formulas.lora(B, A)


def ignores_terms(B, A, h, terms="full", degree=2):
    rank = A.shape[0]
    coefficients = h if len(h) else 0 * B.reshape(-1)[:1]
    return pera(B, A, coefficients[[k % len(coefficients) for k in range(rank * (rank + 1) // 2)]])


def squares_only(B, A, h, terms="full", degree=2):
    i, j = formulas.pairs(A.shape[0])
    return pera(B, A, h * (1 - (i < j))) if (terms, degree) == ("full", 2) else formulas.lora(B, A)


def crosses_only(B, A, h, terms="full", degree=2):
    i, j = formulas.pairs(A.shape[0])
    return pera(B, A, h * (1 * (i < j))) if (terms, degree) == ("full", 2) else formulas.lora(B, A)


def wrong_pair(B, A, h, terms="full", degree=2):
    """(b_i∘b_j) meets the rows of A in another order."""
    return formulas.lora(B, A) + pera(B, A[::-1], h, terms, degree) - formulas.lora(B, A[::-1])


def cubic(B, A, h, terms="full", degree=2):
    return pera(B, A, h, terms, degree) + formulas.lora(B, A) ** 3


def with_free_h(B, A, h, terms="full", degree=2):
    """The coefficients act although B is zero."""
    return pera(B, A, h, terms, degree) + h.sum()


def with_positions(B, A, h, terms="full", degree=2):
    return pera(B, A, h, terms, degree) + np.outer(np.arange(len(B)) ** 2, np.arange(A.shape[1]))


def rank_K(B, A, h, terms="full", degree=2):
    """Free factors of rank 2 instead of products at r = 1: all of {rank <= K}."""
    return formulas.lora(B, A) + formulas.lora(B[::-1], A) * h[0]


def of_a_row(B, A, h, terms="full", degree=2):
    """One coefficient more a row: h depends on B's first column."""
    return pera(B, A, h, terms, degree) * (1 + B[:, :1])


def swapped_expansion(B, A, h, terms="full", degree=2):
    B_hat, A_hat = formulas.expand(B, A, h, terms, degree)
    return np.concatenate([B_hat[:, 1:], B_hat[:, :1]], 1), A_hat


def padded_expansion(B, A, h, terms="full", degree=2):
    """One feature too many, although of zeros."""
    B_hat, A_hat = formulas.expand(B, A, h, terms, degree)
    join = torch.cat if isinstance(B, torch.Tensor) else np.concatenate
    return join([B_hat, 0 * B_hat[:, :1]], 1), join([A_hat, A_hat[:1]], 0)


def input_squared(x, B, A, h):
    """Polynomial in the input: no matrix to merge."""
    return formulas.lora(B, A) @ x**2


def squared_layer(x, W0, B, A, h):
    return (x @ (W0 + formulas.pera(B, A, h)).T) ** 2


def lora_plus(B, A):
    return formulas.lora(B, A) + 1


def lora_of_a_row(B, A):
    return formulas.lora(B, A) * (1 + B[:, :1])


def lora_with_squares(B, A):
    return B @ A + B**2 @ A**2


def dora_without_norm(W0, B, A, magnitude, scale=1, norm=None):
    return magnitude[:, None] * (B @ A)


def dora_by_columns(W0, B, A, magnitude, scale=1, norm=None):
    V = W0 + B @ A
    return magnitude[:, None] * V / np.maximum(np.sqrt((V * V).sum(0)), 1e-9) - W0


def hira_with_one(W0, B, A):
    return W0 * (1 + B @ A) + np.eye(*W0.shape, dtype=int)


def hira_squared(W0, B, A):
    return W0 * (B @ A) ** 2


def mora_with_positions(M, m, n):
    return formulas.mora(M, m, n) + np.diag(np.arange(1, max(m, n) + 1) ** 3)[:m, :n]


def mora_by_blocks(M, m, n):
    """Neighbours share an entry: p // 2 in place of p mod r̂."""
    return M[np.arange(m) // 2 % len(M)][:, np.arange(n) // 2 % len(M)]


def delora_plus(W0, B, A, lam):
    return formulas.delora(W0, B, A, lam) + np.eye(*W0.shape)


def delora_without_lengths(W0, B, A, lam):
    return lam[0] / len(A) * (B @ A)


def delora_of_fixed_strength(W0, B, A, lam):
    return formulas.delora(W0, B, A, 0 * lam + 15)


def lengths(X, axis):
    return np.maximum(np.linalg.norm(X, axis=axis, keepdims=True), 1e-4)


def delora_zero(W0, B, A, lam):
    return 0.0 * formulas.delora(W0, B, A, lam)


def delora_half(W0, B, A, lam):
    return formulas.delora(W0, B, A, lam) / 2


def delora_whole_B(W0, B, A, lam):
    return lam / len(A) * (B / lengths(B, None)) @ (A / lengths(A, 1)) * np.linalg.norm(W0, axis=0)


def delora_whole_A(W0, B, A, lam):
    return lam / len(A) * (B / lengths(B, 0)) @ (A / lengths(A, None)) * np.linalg.norm(W0, axis=0)


def delora_with_a_soft_length(W0, B, A, lam):
    """1 + ‖a‖ in place of ‖a‖."""
    return (
        lam / len(A) * (B / lengths(B, 0)) @ (A / (1 + lengths(A, 1))) * np.linalg.norm(W0, axis=0)
    )


def delora_by_the_longest_column(W0, B, A, lam):
    return (
        lam / len(A) * (B / lengths(B, 0)) @ (A / lengths(A, 1)) * np.linalg.norm(W0, axis=0).max()
    )


def one_entry(*arguments):
    return np.zeros((1, 1))


def delora_flipped(W0, B, A, lam):
    """The rank is right, the shape is not."""
    return formulas.delora(W0, B, A, lam).T


def dora_backwards(W0, B, A, magnitude, scale=1, norm=None):
    return formulas.dora(W0, B, A, -magnitude, scale, norm)


def dora_without_division(W0, B, A, magnitude, scale=1, norm=None):
    return magnitude[:, None] * (W0 + scale * (B @ A)) - W0


def dora_of_unit_rows(W0, B, A, magnitude, scale=1, norm=None):
    """A zero row gets the length g too."""
    V = W0 + scale * (B @ A)
    V = np.where((V == 0).all(1, keepdims=True), 1.0, V)
    return (magnitude / np.linalg.norm(V, axis=1))[:, None] * V - W0


def loha_of_one_pair(B1, A1, B2, A2):
    return (B1 @ A1) * (B1 @ A1)


def loha_swapped(B1, A1, B2, A2):
    return (B1 @ A2) * (B2 @ A1)


def loha_with_one(B1, A1, B2, A2):
    return (B1 @ A1) * (1 + B2 @ A2) + np.eye(len(B1), A1.shape[1], dtype=int)


def loha_without_its_second_pair(B1, A1, B2, A2):
    return B1 @ A1


def linear_in_the_input(x, U, P):
    return x @ U.T @ P.T


def count_without_h(m, n, rank, method, **options):
    return rank * (m + n)


def in_place(B, A, h, terms="full", degree=2):
    B *= 2
    return pera(B, A, h, terms, degree)


MUTANTS = {
    "expanded-factors": swapped_expansion,
    "lora-equation": shifted_h,
    "hadamard-series": twice_h,
    "square-only": ignores_terms,
    "cross-only": ignores_terms,
    "degree-three": squares_only,
    "entry-polynomial": wrong_pair,
    "total-degree": without_h,
    "kernel": squares_only,
    "gradients": twice_h,
    "first-step": with_free_h,
    "linear-in-the-input": input_squared,
    "readings": wrong_pair,
    "lora-inside-pera": without_products,
    "identity": twice_h,
    "rank-bound": cubic,
    "generic-rank": crosses_only,
    "hadamard-square-rank": lora_plus,
    "sign-factors": with_positions,
    "without-increasing-rank": without_products,
    "pera-inside-rank-K": padded_expansion,
    "more-than-lora": rank_K,
    "dimension": without_h,
    "dimension-square": without_products,
    "dimension-cross": without_products,
    "dimension-lora": lora_with_squares,
    "dimension-degree-k": squares_only,
    "dimension-strip": without_products,
    "dimension-gap": of_a_row,
    "gauge-theorem": of_a_row,
    "gauge-group": wrong_pair,
    "identifiability": of_a_row,
    "free-dimensions": without_h,
    "lora-is-critical": without_h,
    "start-directions": with_free_h,
    "lora-is-singular": without_products,
    "lora-curvature": of_a_row,
    "theorem-1": rank_K,
    "theorem-1-generically": of_a_row,
    "sandwich": cubic,
    "infimum-not-attained": twice_h,
    "optimisers-stop": rank_K,
    "cone": cubic,
    "capture-bound": cubic,
    "lora-rank": lora_plus,
    "lora-gauge": lora_of_a_row,
    "dora-is-not-linear": dora_without_norm,
    "dora-row-lengths": dora_by_columns,
    "hira-rank": hira_with_one,
    "hira-is-bilinear": hira_squared,
    "orders": cubic,
    "dora-rank": dora_without_norm,
    "mora-rank": mora_with_positions,
    "mora-repeats": mora_by_blocks,
    "delora-rank": delora_plus,
    "delora-bounded": delora_without_lengths,
    "delora-is-loras-set": delora_of_fixed_strength,
    "loha-rank": loha_with_one,
    "loha-and-pera": loha_without_its_second_pair,
    "quadratic-is-no-matrix": linear_in_the_input,
    "parameter-count": count_without_h,
    "no-inference-cost": padded_expansion,
    "interaction-vanishes": squared_layer,
    "share-at-the-start": shifted_h,
    "square-terms-matter-most": ignores_terms,
    "gain-is-high-order": twice_h,
}


MORE_MUTANTS = [
    *(
        ("delora-bounded", rule)
        for rule in (
            delora_zero,
            delora_half,
            delora_whole_B,
            delora_whole_A,
            delora_with_a_soft_length,
            delora_by_the_longest_column,
            one_entry,
        )
    ),
    *(
        ("delora-rank", rule)
        for rule in (delora_zero, delora_by_the_longest_column, delora_flipped, one_entry)
    ),
    *(
        ("delora-is-loras-set", rule)
        for rule in (
            delora_zero,
            delora_half,
            delora_whole_B,
            delora_by_the_longest_column,
            one_entry,
        )
    ),
    *(
        ("dora-row-lengths", rule)
        for rule in (dora_backwards, dora_without_division, dora_of_unit_rows, one_entry)
    ),
    *(("dora-rank", rule) for rule in (dora_without_division, dora_backwards, one_entry)),
    *(("loha-and-pera", rule) for rule in (loha_of_one_pair, loha_swapped, loha_with_one)),
    # Of rank at most r, r², r̂ too, but not the rule that the proof is of
    *(("loha-rank", rule) for rule in (loha_of_one_pair, loha_swapped)),
    ("hira-rank", hira_squared),
    ("mora-rank", mora_by_blocks),
    ("delora-bounded", delora_flipped),
]


@pytest.mark.thorough  # `test_every_check_can_fail` has one rule for each claim
@pytest.mark.parametrize(("id", "rule"), MORE_MUTANTS)
def test_rules_that_look_right_are_refused(id, rule):
    evidence = claims[id].check(formula=rule)
    assert not evidence.holds, evidence
    json.dumps(evidence.to_dict())


@pytest.mark.parametrize("id", ["delora-bounded", "delora-rank", "delora-is-loras-set"])
def test_what_is_said_of_delora_holds_for_another_writing_of_it(id):
    """Sums over i, p and q in place of a matrix product: the checks ask for what is stated, not for
    one order of operations.
    """

    def loops(W0, B, A, lam):
        terms = [
            np.outer(B[:, i] / lengths(B[:, i], None), A[i] / lengths(A[i], None))
            for i in range(len(A))
        ]
        return sum(lam[0] / len(A) * term for term in terms) * np.linalg.norm(W0, axis=0)

    assert claims[id].check(formula=loops).holds


def test_every_claim_has_a_wrong_rule():
    assert set(MUTANTS) == set(claims)


@pytest.mark.parametrize("id", claims)
def test_every_verdict_stands(id):
    evidence = claims[id].check(seed=1, examples=10)  # the command's own number is thorough
    assert evidence.holds, evidence
    assert evidence.verdict == claims[id].verdict
    assert (claims[id].verdict == "verified") <= (evidence.finding.examples > 0)
    json.dumps(evidence.to_dict(), allow_nan=False)


# Their wrong rules take 2 to 5 seconds each, mostly to shrink the counterexample
SLOW = {
    "degree-three",
    "dimension-degree-k",
    "entry-polynomial",
    "free-dimensions",
    "gauge-group",
    "kernel",
    "lora-is-singular",
    "lora-rank",
    "orders",
    "readings",
}


@pytest.mark.parametrize(
    "id",
    [pytest.param(id, marks=pytest.mark.thorough if id in SLOW else []) for id in claims],
)
def test_every_check_can_fail(id):
    evidence = claims[id].check(formula=MUTANTS[id])
    assert not evidence.holds, evidence
    assert f"{id}: FAILS for {MUTANTS[id].__name__}" in str(evidence)
    json.dumps(evidence.to_dict())


# --- rules that are wrong far away ----------------------------------------------------------------


def only(id, where):
    """The claim's own rule, and its wrong one where `where` says so of the arguments."""
    right, wrong = claims[id].about, MUTANTS[id]

    @functools.wraps(right)
    def rule(*arguments, **options):
        return (wrong if where(arguments, options) else right)(*arguments, **options)

    return rule


def matrices(arguments):
    return [x for x in arguments if getattr(x, "ndim", 0) == 2]


def at_rank_seven(arguments, options):
    """B (m, 7), A (7, n); MoRA's square of that rank; a count of parameters."""
    found = matrices(arguments)
    if not found:
        return arguments[2] == 7
    if len(found) == 1:
        return len(found[0]) == formulas.mora_size(*arguments[1:], 7)
    return found[-1].shape[0] == 7


def at_degree_four(arguments, options):
    return options.get("degree") == 4


def on_large_layers(arguments, options):
    sizes = [size for x in arguments for size in ([x] if isinstance(x, int) else np.shape(x))]
    return max(sizes) >= 100


# What has no degree: other methods, LoRA, one layer of degree 2, and what is said of degree 2 alone
OF_DEGREE_TWO = {id for id in claims if claims[id].about not in (formulas.pera, formulas.expand)}
OF_DEGREE_TWO |= {"square-terms-matter-most", "gain-is-high-order"}
FAR_AWAY = [
    (id, where)
    for id in claims
    for where in (at_rank_seven, at_degree_four, on_large_layers)
    if id != "optimisers-stop"  # 3 x 3, rank 1, measured: no other size is spoken of
    and not (where is at_degree_four and id in OF_DEGREE_TWO)
]


@pytest.mark.parametrize(("id", "where"), FAR_AWAY)
def test_a_rule_that_is_wrong_far_away_only_is_refused(id, where):
    evidence = claims[id].check(formula=only(id, where), examples=5)
    assert not evidence.holds, evidence


# --- the registry ---------------------------------------------------------------------------------


def test_the_registry_is_a_mapping():
    assert len(claims) == len(list(claims)) >= 24
    assert [claim.id for claim in claims.values()] == list(claims)
    assert "theorem-1" in claims
    assert "nope" not in claims
    assert pk.theory.claims is claims
    assert {claim.verdict for claim in claims.values()} == set(VERDICTS)
    for claim in claims.values():
        assert claim.title
        assert claim.source
        assert claim.statement.count("$") % 2 == 0, claim.id
        assert claim.title in claim._repr_markdown_()
        assert str(claim).startswith(f"{claim.id}: {claim.title}")


def test_a_claim_of_your_own_and_its_shrunk_counterexample():
    mine = Claims()

    @mine.register(
        "sum",
        title="h adds up",
        statement="$x$",
        source="me",
        verdict="verified",
        about=formulas.pera,
    )
    def always_small(formula, seed, examples):
        drawn = st.fixed_dictionaries({"h": st.integers(0, 100)})
        found, tried = search(
            drawn,
            lambda h: formula(np.ones((1, 1)), np.ones((1, 1)), np.array([h]))[0, 0] < 50,
            seed,
            examples,
        )
        return Finding(found is None, "smaller than 50", {"limit": 50}, tried, found)

    evidence = mine["sum"].check()
    assert not evidence.holds
    assert evidence.counterexample == {"h": 49}  # 1 + h >= 50: the smallest
    assert "counterexample:\n  h = 49" in str(evidence)
    assert mine["sum"].check(formula=lambda B, A, h: 0 * B).holds
    with pytest.raises(
        pk.PerakitError, match=r"^the claim 'sum' exists already: choose another id$"
    ):
        mine.register("sum", title="", statement="", source="", verdict="open", about=len)(
            always_small
        )


def test_a_counterexample_is_shrunk():
    evidence = claims["readings"].check(formula=wrong_pair)
    B, A, h = (evidence.counterexample[name] for name in "BAh")
    assert B.shape == (1, 2)  # two columns are the fewest that show it
    assert A.shape == (2, 1)
    assert sum(np.abs(array).sum() for array in (B, A, h)) <= 6
    assert not np.array_equal(wrong_pair(B, A, h), formulas.pera(B, A, h))


def test_a_failure_in_symbols_comes_with_the_smallest_factors():
    found = claims["hadamard-series"].check(formula=twice_h).counterexample
    assert found["expected"].tolist() == formulas.pera(found["B"], found["A"], found["h"]).tolist()
    assert (
        found["got"].tolist()
        == twice_h(found["B"], found["A"], found["h"]).tolist()
        != found["expected"].tolist()
    )
    assert found["B"].shape == found["A"].shape == (1, 1)


def test_a_formula_for_one_rank_only_keeps_its_finding():
    """The search for the smallest difference fails on it; what the claim itself found does not get
    lost.
    """

    def at_rank_one(B, A, h, terms="full", degree=2):
        if A.shape[0] > 1:
            raise ValueError("rank 1 only")
        return rank_K(B, A, h)

    evidence = claims["theorem-1"].check(formula=at_rank_one)
    assert not evidence.holds
    assert "nothing is proved about E" in evidence.summary


def test_a_claim_added_first_does_not_lose_the_others():
    code = "from perakit.theory import claims\n" + "import perakit as pk\n"
    code += (
        "try:\n    claims.register('theorem-1', title='', statement='', source='', verdict='open',"
        " about=len)(len)\n"
    )
    code += "except pk.PerakitError as error:\n    print(error)\nprint(len(claims))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "the claim 'theorem-1' exists already: choose another id",
        str(len(claims)),
    ]


def test_an_argument_must_return_a_finding():
    claim = pk.theory.Claim("mine", "", "", "", "open", len, lambda formula, seed, examples: True)
    with pytest.raises(
        pk.PerakitError, match=r"^the argument of mine returned True: return a Finding$"
    ):
        claim.check()


def test_search_takes_tuples_too():
    found, tried = search(
        st.tuples(st.integers(0, 9), st.integers(0, 9)), lambda a, b: a + b < 12, 0, 200
    )
    assert sum(found.values()) == 12
    assert tried > 1


def test_the_seed_decides_what_is_tried_and_the_number_is_what_was_tried():
    runs = []

    def recording(B, A, h, terms="full", degree=2):
        runs[-1].append(B.tolist())
        return formulas.pera(B, A, h, terms, degree)

    for seed in (0, 0, 5):
        runs.append([])
        assert claims["readings"].check(seed, 20, recording).finding.examples == 20
    assert runs[0] == runs[1] != runs[2]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: claims["theorem1"],
            (
                r"unknown claim 'theorem1': did you mean theorem-1, .*\? `perakit verify --list`"
                r" shows all \d+"
            ),
        ),
        (lambda: claims[""], r"unknown claim '': `perakit verify --list` shows all"),
        (lambda: claims["readings"].check(seed=-1), r"seed=-1 must be an integer >= 0"),
        (lambda: claims["readings"].check(examples=0), r"examples=0 must be an integer >= 1"),
        (
            lambda: claims["readings"].check(formula=3),
            r"formula=3 cannot be called: pass a function like pera, or None",
        ),
        (
            lambda: claims["hadamard-series"].check(formula=lambda B, A, h: B),
            r"the formula returned shape \(\d+, 1\) where the layer is",
        ),
        (
            lambda: claims["dimension"].check(formula=lambda B, A, h: B[:, :1]),
            r"the formula returned shape",
        ),
        (
            lambda: claims["readings"].check(formula=lambda B, A: B @ A),
            r".*<lambda> raised TypeError: .*it was called with ndarray \(1, 1\)",
        ),
        (
            lambda: claims["hadamard-series"].check(formula=lambda B, A, h: np.sqrt(B) @ A),
            r"np\.sqrt cannot be read modulo a prime: exact answers need a polynomial rule",
        ),
        (
            lambda: claims["readings"].check(formula=lambda B, A, h: (B @ A).astype(np.float32)),
            r".*returned float32: keep the precision",
        ),
        (
            lambda: claims["share-at-the-start"].check(formula=lambda B, A, h: B @ A * np.nan),
            r".*returned entries that are not finite",
        ),
        (
            lambda: claims["gradients"].check(formula=in_place),
            r"np\.multiply in place \(x \+= y for x = x \+ y\) cannot be read",
        ),
        (
            lambda: claims["readings"].check(formula=in_place),
            r"in_place changes an argument in place: copy it first",
        ),
        (
            lambda: claims["first-step"].check(formula=lambda B, A, h: None),
            r"first-step could not use what .* returned \(TypeError",
        ),
        (
            lambda: claims["dimension"].check(formula=lambda B, A, h: None),
            r"the formula returned NoneType where ΔW is .*is `return` missing",
        ),
        (
            lambda: claims["theorem-1"].check(formula=lambda B, A, h: [1]),
            r"the formula returned list where ΔW is \(3, 3\): return an array",
        ),
        (
            lambda: verify("readings"),
            r"ids='readings' is a string: pass a list of claims, \['readings'\]",
        ),
        (lambda: verify(["readings", "no-such-claim"]), r"unknown claim 'no-such-claim'"),
        (
            lambda: pk.theory.Claim("x", "", "", "", "true", len, len),
            r"verdict='true' is unknown: choose from 'proved', 'verified'",
        ),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(pk.PerakitError, match="^" + message):
        call()


def test_a_report_says_what_failed(monkeypatch):
    broken = Evidence("readings", "verified", Finding(False, "no"), 0, 0.0)
    monkeypatch.setattr(pk.theory.Claim, "check", lambda self, seed, examples: broken)
    report = verify(["readings"])
    assert report.failed == ["readings"]
    assert str(report) == "1 claim: 1 verified; 1 do not stand: readings (0 s)"
    assert "**verified, DOES NOT STAND**: no" in report.markdown()
    entry = report.to_dict()["claims"][0]
    assert entry["verdict_stands"] is False
    assert entry["title"] == claims["readings"].title
    assert math.isclose(entry["seconds"], 0)


@pytest.mark.thorough  # all claims once more, at the examples of the command
def test_the_page_of_verdicts_is_what_the_registry_says():
    """docs/claims.md, character for character; `make claims` writes it."""
    page = Path(__file__).parents[2] / "docs/claims.md"
    assert page.read_text() == verify().markdown()
