# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 13 Property-based testing for machine learning: write a claim, break it, repair it
#
# A test with one example says something about one example. A **property** is a statement about all
# inputs, and a program looks for an input that breaks it. At the end of this notebook you can write
# such properties for an update rule, read the counterexample that comes back, avoid the traps that
# floats set, test your tests by breaking the code on purpose, and hold an adapter of your own to
# perakit's laws.
#
# You need [notebook 01](01_low_rank_adaptation.ipynb) (LoRA), [notebook 03](03_equation_nine.ipynb)
# (the PERA update) and [notebook 04](04_rank.ipynb) (its rank). About 45 minutes to read, about 20
# seconds to run.

# %%
import tempfile
from dataclasses import dataclass
from random import Random

import hypothesis
import matplotlib.pyplot as plt
import numpy as np
import torch
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st
from hypothesis.errors import NoSuchExample
from hypothesis.extra import numpy as hnp

import perakit as pk
from perakit import formulas, plots, strategies
from perakit.theory import claims, exact_rank, numerical_rank

plt.style.use(plots.STYLE)
EXAMPLES = 100  # tried for each property; 2000 look harder and take some minutes
# The same examples on every run
SAME = {"derandomize": True, "database": None, "deadline": None, "report_multiple_bugs": False}
QUIET = settings(max_examples=EXAMPLES, **SAME)
scratch = tempfile.TemporaryDirectory()
hypothesis.configuration.set_hypothesis_home_dir(scratch.name)  # where Hypothesis keeps its notes

# %% [markdown]
# ## One example, four wrong formulas
#
# The update of LoRA is $\Delta W = \frac{\alpha}{r} B A$ with $B$ $(m, r)$ and $A$ $(r, n)$ (arXiv
# 2106.09685, section 4.1). Here it is, and four mistakes that people make.


# %%
def right(B, A, alpha):
    return alpha / A.shape[0] * (B @ A)


def scale_forgotten(B, A, alpha):
    return B @ A


def transposed(B, A, alpha):
    return alpha / A.shape[0] * (A.T @ B.T)


def swapped(B, A, alpha):
    return alpha / A.shape[0] * (A @ B)


def divided_by_rows(B, A, alpha):
    return alpha / B.shape[0] * (B @ A)


RULES = (right, scale_forgotten, transposed, swapped, divided_by_rows)


# %% [markdown]
# And a test, such as one writes after lunch: a small square matrix, the identity as the other
# factor, $\alpha = r$ as in many configurations. Which of the four mistakes will it find?


# %%
def test_with_an_example(rule):
    B, A = np.array([[1.0, 2.0], [2.0, 1.0]]), np.eye(2)
    return np.allclose(rule(B, A, alpha=2), [[1, 2], [2, 1]])


for rule in RULES:
    print(f"{rule.__name__:16} {'passes' if test_with_an_example(rule) else 'FAILS'}")
assert all(test_with_an_example(rule) for rule in RULES)

# %% [markdown]
# None. With $\alpha = r$ the scale is 1; with a square layer every product fits; a symmetric result
# hides a transpose; the identity commutes with everything; and $m = r$ hides the wrong division.
# Each choice was the most convenient one, and convenient inputs are exactly those on which wrong
# formulas agree with right ones.
#
# ## From an example to a property
#
# Hypothesis is a library that draws inputs. A **strategy** describes which values to draw.
# `st.integers(-3, 3)` is a strategy for whole numbers, `strategies.factors(integers=True)` one for
# the factors $(B, A, h)$ of a PERA update, with entries from $-3$ to $3$ and a shape of its own
# each time. `@given(strategy)` turns a function of one input into a function that draws many inputs
# and calls the original with each. Let us look at what is drawn.

# %%
drawn = []


@settings(QUIET, max_examples=12)
@given(strategies.shapes())
def look(shape):
    drawn.append(shape)


look()
print("(m, n, r):", *drawn)

# %% [markdown]
# The sizes $m$ and $n$ are 1 or a prime and are never equal, except in a layer of $1 \times 1$, so
# a transposed or swapped product does not fit by accident. Ranks above $\min(m, n)$ occur too.
# Nobody would type these by hand.
#
# Now the property. We say what the update is in another way, so slow and plain that it can hardly
# be wrong, and demand that the two agree for *every* input. A second, independent way to know the
# answer is called an **oracle**.


# %%
def by_hand(B, A, alpha):
    """(α/r) Σ_i B[p,i] A[i,q], entry by entry."""
    (m, r), n = B.shape, A.shape[1]
    return np.array(
        [[alpha / r * sum(B[p, i] * A[i, q] for i in range(r)) for q in range(n)] for p in range(m)]
    )


def agrees_with_oracle(rule):
    @QUIET
    @given(strategies.factors(integers=True), st.integers(1, 4))
    def test(factors, alpha):
        B, A, _ = factors  # no h in LoRA
        got, expected = rule(B, A, alpha), by_hand(B, A, alpha)
        assert got.shape == expected.shape
        assert np.allclose(got, expected)

    return test


def run(test):
    """Run a property; print the counterexample, if there is one.

    Returns whether none was found.
    """
    try:
        test()
    except AssertionError as error:
        print("\n".join(error.__notes__))
        return False
    print(f"no counterexample in at most {EXAMPLES} examples")
    return True


outcome = {}
for rule in RULES:
    print(f"--- {rule.__name__}")
    outcome[rule] = run(agrees_with_oracle(rule))
assert [outcome[rule] for rule in RULES] == [True, False, False, False, False]

# %% [markdown]
# All four are found, and each comes with an input to look at. (The third array is $h$, which LoRA
# does not use.) A comment such as `# or any other generated value` says that this part does not
# matter for the failure. The inputs are small: mostly zeros and ones, in a small shape. They were
# not found in that form.
#
# ## Shrinking
#
# When Hypothesis has found an input that breaks the property, it goes on: it tries simpler ones,
# with fewer rows, smaller numbers, zeros, and keeps each one that still breaks the property, until
# it knows none that is simpler. That is **shrinking**. `find(strategy, condition)` does the same
# for any condition: it returns a simple example that satisfies it.
#
# Here is a statement about PERA that is false: its update has rank at most $r$, as LoRA's. We look
# for factors with a larger rank and write down the size of every example that is tried.

# %%
# (m, n, r)
small = strategies.factors(
    st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 2)), integers=True
)
tried = []


def has_larger_rank(factors):
    B, A, h = factors
    larger = exact_rank(formulas.pera(B, A, h)) > B.shape[1]
    tried.append((sum(np.abs(X).sum() for X in factors), larger))
    return larger


found = find(small, has_larger_rank, settings=QUIET, random=Random(0))
size, breaks = np.array([size for size, _ in tried]), np.array([larger for _, larger in tried])
first = int(np.argmax(breaks))

# %%
figure, ax = plt.subplots()
at = np.arange(1, len(size) + 1)
ax.plot(at[~breaks], size[~breaks], ".", color="0.7", label="the statement holds")
ax.plot(at[breaks], size[breaks], "o", color="C1", markersize=5, label="the statement is broken")
ax.plot(
    at[first:],
    np.minimum.accumulate(np.where(breaks, size, np.inf))[first:],
    color="C1",
    label="smallest that breaks it",
)
ax.axvline(first + 1, color="0.45", linewidth=1, linestyle=":")
ax.text(
    first + 1,
    0.97,
    "  found, now shrinking",
    color="0.35",
    va="top",
    transform=ax.get_xaxis_transform(),
)
ax.set(
    xlabel="example tried",
    ylabel="size: Σ |entries| of B, A and h",
    ylim=(-1, 1.6 * size[breaks].max()),
)
ax.set_title("First any counterexample, then simpler and simpler ones")
_ = ax.legend(loc="upper right")

# %%
for name, value in zip("BAh", found, strict=True):
    print(name, "=", value.tolist())
print("ΔW =", formulas.pera(*found).tolist())
assert exact_rank(formulas.pera(*found)) > found[0].shape[1]
assert size[breaks].min() < size[first]

# %% [markdown]
# The grey dots after the line are attempts to simplify that went too far: they no longer break the
# statement. (What counts as simpler is not quite our size, so an orange dot may also lie higher
# than one before it.) What is left at the end can be read as a proof on a napkin. In the run
# printed here a column and a row of $\pm 1$ give a product with the signs $\begin{pmatrix} 1 & -1
# \\ -1 & 1 \end{pmatrix}$, its elementwise square is all ones, and their sum is a multiple of the
# identity: rank 2 from rank 1 (claim [identity](../docs/claims.md#identity)). Hypothesis knew
# nothing of this.
#
# "Smallest" means: no simpler one among those it tried. Shrinking is a local search, and with a
# larger strategy it can stop at a less pretty example.
#
# ## Floats: true statements that fail
#
# So far all numbers were whole. With floats a new kind of failure appears. Take the identity that
# [notebook 09](09_merging.ipynb) is about: merged equals factored, $(W_0 + BA)\,x = W_0 x + B(Ax)$.
# It is *true*. We ask four times, and change only the numbers and the way of comparing. Which of
# the four will be broken?


# %%
def merged_equals_factored(elements, equal, dtype=np.float64):
    def arrays(*shape):
        return hnp.arrays(dtype, shape, elements=elements)

    @QUIET
    @given(arrays(1, 2), arrays(1, 1), arrays(1, 2), arrays(2))
    def test(W0, B, A, x):
        with np.errstate(all="ignore"):
            assert equal((W0 + B @ A) @ x, W0 @ x + B @ (A @ x))

    return test


free, bounded = (
    st.floats(allow_nan=False, allow_infinity=False),
    st.floats(-10, 10, allow_subnormal=False),
)
questions = {
    "any finite floats, np.allclose": merged_equals_factored(free, np.allclose),
    "floats in [-10, 10], equal": merged_equals_factored(bounded, np.array_equal),
    "floats in [-10, 10], within 1e-9": merged_equals_factored(
        bounded, lambda y, z: np.abs(y - z).max() <= 1e-9
    ),
    "whole numbers from -3 to 3, equal": merged_equals_factored(
        st.integers(-3, 3), np.array_equal, np.int64
    ),
}
held = {}
for name, test in questions.items():
    print(f"--- {name}")
    held[name] = run(test)
assert list(held.values()) == [False, False, True, True]

# %% [markdown]
# The first counterexample has entries so large that a product overflows to infinity on one side
# only, or gives `nan`, or has lost all digits. It is a fact about float64, not about adapters. The
# second is rounding: both sides are right to the last digit or two, and "equal" was too much to
# ask. The third bounds the numbers and says how close is close. The fourth needs no tolerance at
# all: sums and products of small whole numbers are exact, so a single wrong unit is seen.
#
# Hence the rule in `perakit.strategies`: floats in $[-10, 10]$ with a stated tolerance, or whole
# numbers from $-3$ to $3$ and equality. The bounds belong into the strategy, where everybody sees
# them.
#
# ## Numerical rank is a trap
#
# Here is a theorem of linear algebra: $\operatorname{rank}(XY) \le \min(\operatorname{rank} X,
# \operatorname{rank} Y)$. We test it with NumPy's rank, which counts singular values above a
# tolerance.

# %%
square = hnp.arrays(np.float64, (2, 2), elements=bounded)


@QUIET
@given(square, square)
def rank_of_a_product(X, Y):
    rank = np.linalg.matrix_rank
    assert rank(X @ Y) <= min(rank(X), rank(Y))


run(rank_of_a_product)

X, Y = np.diag([1, 1e-17]), np.diag([1e-17, 1])
print(
    "numerical:",
    numerical_rank(X).rank,
    numerical_rank(Y).rank,
    "product",
    numerical_rank(X @ Y).rank,
)
print("exact:    ", exact_rank(X), exact_rank(Y), "product", exact_rank(X @ Y))
assert (numerical_rank(X).rank, numerical_rank(Y).rank, numerical_rank(X @ Y).rank) == (1, 1, 2)
assert (exact_rank(X), exact_rank(Y), exact_rank(X @ Y)) == (2, 2, 2)

# %% [markdown]
# Two lessons. Numerically each factor has rank 1 and the product has rank 2: the theorem is broken,
# not by mathematics but by the tolerance, since $10^{-17}$ counts as nothing beside 1, and as
# something beside $10^{-17}$. Statements about rank therefore need exact arithmetic: perakit's
# `exact_rank` eliminates in fractions.
#
# And compare what the search said with the two matrices we typed. A counterexample can exist that a
# hundred random examples do not meet: few random matrices have one entry $10^{17}$ times as large
# as another. Keep two words apart. **Verified**: no counterexample in $N$ examples. **Proved**: an
# argument that covers all inputs. Only the second excludes this.
#
# ## Write a claim, break it, repair it
#
# The claim "rank at most $r$" is broken. What would be true? The update is a product of expanded
# factors with $K = r(r+3)/2$ columns and rows (arXiv 2604.11841, Eq. 2-5), so $K$ is a bound. A
# first repair:


# %%
@QUIET
@given(strategies.factors(integers=True))
def rank_at_most_K(factors):
    B, A, h = factors
    r = B.shape[1]
    assert exact_rank(formulas.pera(B, A, h)) <= r * (r + 3) // 2


@QUIET
@given(strategies.factors(integers=True))
def rank_at_most_min(factors):
    B, A, h = factors
    assert exact_rank(formulas.pera(B, A, h)) <= min(B.shape[0], A.shape[1])


assert run(rank_at_most_K)
assert run(rank_at_most_min)

# %% [markdown]
# Both pass, and only one says anything. Every $m \times n$ matrix has rank at most $\min(m, n)$:
# the second property holds for a formula that returns random numbers. A repair is easy to overdo.
# So ask the opposite as well: is the bound **attained**? If some factors reach rank $K$, no smaller
# bound is true. `find` answers; we let it stop at the first hit, without shrinking.

# %%
ANY = settings(max_examples=EXAMPLES, phases=[Phase.generate], **SAME)
attained = {}
for r, wide in ((1, 3), (2, 7)):
    K = r * (r + 3) // 2
    factors = strategies.factors(st.just((wide, wide + 1, r)), integers=True)
    B, A, h = find(
        factors,
        lambda drawn, K=K: exact_rank(formulas.pera(*drawn)) == K,
        settings=ANY,
        random=Random(0),
    )
    attained[r] = exact_rank(formulas.pera(B, A, h))
    print(f"r = {r}: rank {attained[r]} = K on a {wide} x {wide + 1} layer")
assert attained == {1: 2, 2: 5}

# %% [markdown]
# "At most $K$, and $K$ is reached" is the repaired claim. The first half we have only verified. It
# can also be proved, and is: perakit shows with symbols that $\Delta W$ is a product of an $(m, K)$
# and a $(K, n)$ matrix, which covers all numbers at once, at the sizes that it names. perakit's
# registry of claims keeps the words apart.

# %%
for name in ("rank-bound", "generic-rank"):
    evidence = claims[name].check()
    print(f"{name}: {evidence.verdict} - {evidence.summary}")
    assert evidence.holds

# %% [markdown]
# ## Test the tests
#
# Nine green properties may mean that the code is right, or that the properties are weak. **Mutation
# testing** decides: break the code on purpose and see which property goes red. A broken version is
# a **mutant**; a mutant that no property notices **survives**.
#
# Here are eight mutants of PERA's rule (arXiv 2604.11841, Eq. 9). Each is a plausible slip.


# %%
def pera_with(coefficients=lambda h, i, j: h, linear=1):
    """PERA's rule, with a part exchanged: `coefficients` says what is done to h_ij."""

    def rule(B, A, h):
        i, j = np.triu_indices(B.shape[1])
        c = coefficients(h, i, j)
        return linear * (B @ A) + (B[:, i] * B[:, j]) @ (c[:, None] * A[i] * A[j])

    return rule


def only_one_factor_of_a(B, A, h):
    i, j = np.triu_indices(B.shape[1])
    return B @ A + (B[:, i] * B[:, j]) @ (h[:, None] * A[i])


correct = pera_with()
mutants = {
    "h ignored": pera_with(lambda h, i, j: np.ones_like(h)),
    "h squared": pera_with(lambda h, i, j: h * h),
    "h in reverse order": pera_with(lambda h, i, j: h[::-1]),
    "h halved": pera_with(lambda h, i, j: h / 2),
    "A not multiplied": only_one_factor_of_a,
    "cross terms lost": pera_with(lambda h, i, j: h * (i == j)),
    "linear part twice": pera_with(linear=2),
    "transposed": lambda B, A, h: correct(B, A, h).T,
}

# %% [markdown]
# And nine properties, each a function that answers yes or no. The first is a single example with a
# known answer, the last repeats the formula as a loop. The others are **relations**: what must
# happen to the output when the input is changed in a certain way. They need no oracle, which is
# their charm when none is at hand.


# %%
def loop(B, A, h):
    """Eq. 9 entry by entry."""
    (m, r), n = B.shape, A.shape[1]
    delta = np.zeros((m, n))
    for p in range(m):
        for q in range(n):
            u = [B[p, i] * A[i, q] for i in range(r)]
            products = [u[i] * u[j] for i in range(r) for j in range(i, r)]
            delta[p, q] = sum(u) + sum(c * product for c, product in zip(h, products, strict=True))
    return delta


def renamed(rule, B, A, h):
    """Columns and rows in reverse order, and h with them: the same update."""
    i, j = np.triu_indices(B.shape[1])
    H = np.zeros((B.shape[1],) * 2, dtype=h.dtype)
    H[i, j] = H[j, i] = h
    return np.array_equal(rule(B[:, ::-1], A[::-1], H[::-1, ::-1][i, j]), rule(B, A, h))


def signs(B):
    # Only the first column and row change their sign
    return np.where(np.arange(B.shape[1]) == 0, -1, 1)


properties = {
    "one example": lambda f, B, A, h: np.array_equal(
        f(np.ones((2, 1)), np.ones((1, 2)), np.ones(1)), [[2, 2], [2, 2]]
    ),
    "B = 0 gives 0": lambda f, B, A, h: not f(0 * B, A, h).any(),
    "shape (m, n)": lambda f, B, A, h: f(B, A, h).shape == (B.shape[0], A.shape[1]),
    "h = 0 is LoRA": lambda f, B, A, h: np.array_equal(f(B, A, 0 * h), B @ A),
    "affine in h": lambda f, B, A, h: np.array_equal(
        f(B, A, 2 * h) - f(B, A, h), f(B, A, h) - f(B, A, 0 * h)
    ),
    "columns renamed": renamed,
    "b → −b, a → −a": lambda f, B, A, h: np.array_equal(
        f(B * signs(B), A * signs(B)[:, None], h), f(B, A, h)
    ),
    "roles exchanged": lambda f, B, A, h: np.array_equal(f(A.T, B.T, h), f(B, A, h).T),
    "the loop": lambda f, B, A, h: np.array_equal(f(B, A, h), loop(B, A, h)),
}

# %% [markdown]
# We draw one pool of examples and put every pair of a mutant and a property to it. A mutant is
# caught when some example breaks the property. The right formula must pass everywhere, or the
# property itself is wrong. Before you look: which column will be empty, and which mutant will be
# caught by the fewest?


# %%
def pool_of(strategy, count=EXAMPLES):
    """A pool of examples, as @given draws them."""
    pool = []

    @settings(QUIET, max_examples=count)
    @given(strategy)
    def collect(factors):
        pool.append(factors)

    collect()
    return pool


def caught(rule, holds, pool):
    return any(not holds(rule, *factors) for factors in pool)


pool = pool_of(strategies.factors(integers=True))
assert not any(caught(correct, holds, pool) for holds in properties.values())
seen = np.array(
    [[caught(mutant, holds, pool) for holds in properties.values()] for mutant in mutants.values()]
)

# %%
figure, ax = plt.subplots(figsize=(8.4, 4.2))
_ = plots.plot_grid(
    seen,
    list(mutants),
    list(properties),
    title="Which property (column) sees which mistake (row)",
    ax=ax,
)

# %%
by_property = dict(zip(properties, seen.sum(axis=0).tolist(), strict=True))
print("mutants caught:", by_property)
assert by_property["B = 0 gives 0"] == 0
assert by_property["the loop"] == len(mutants)
halved = seen[list(mutants).index("h halved")]
assert {name for name, sees in zip(properties, halved, strict=True) if sees} == {
    "one example",
    "the loop",
}
assert seen[list(mutants).index("cross terms lost")].sum() == 1

# %% [markdown]
# - *B = 0 gives 0* sees nothing. It tests the formula where an adapter starts, and at $B = 0$ all
#   eight mutants give zeros. It is a test that none of them can fail, and a tempting one: a fresh
#   adapter is the easiest to test.
# - *Cross terms lost* and *h halved* keep every symmetry, every shape, and LoRA at $h = 0$. The
#   first is even a respectable rule of its own, the square-only variant (arXiv 2604.11841, Eq. 10).
#   Only properties that state a *value* notice them. Relations of this kind do not pin down a
#   formula: somewhere a number must be known.
# - *The loop* sees everything. An independent oracle is the strongest property there is, where one
#   can be had. It is as good as it is independent: a loop that shares a mistake with the code sees
#   nothing.
# - *One example* sees some mistakes and misses others for accidental reasons: its $h$ is 1, so *h
#   squared* is right there, and its rank is 1, so there is no cross term to lose.
#
# ## Two more tests that cannot fail
#
# A formula returns `nan`, from an overflow, say. Every comparison `<`, `<=`, `>`, `>=` with `nan`
# is false. What does each of these two tests say?

# %%
expected, got = np.ones(3), np.array([1.0, np.nan, 1.0])
too_far = bool((np.abs(got - expected) > 1e-6).any())
near_enough = bool((np.abs(got - expected) <= 1e-6).all())
print(
    f"'not too far': {'passes' if not too_far else 'fails'};  'near enough':"
    f" {'passes' if near_enough else 'fails'}"
)
assert not too_far
assert not near_enough

# %% [markdown]
# Assert that the error *is small*, never that it *is not large*. (`np.allclose` does it right.) The
# other classic is to compare a thing with itself, as in "merged equals merged": the layer's forward
# pass against a dense product that uses the layer's own $\Delta W$ cannot see a wrong $\Delta W$.
#
# ## Do the interesting cases occur?
#
# A property can also be weak because of its strategy. If a strategy never draws what matters,
# nothing is tested. So test the strategy: for every interesting case, `find` must be able to reach
# it. We compare perakit's strategy with a careless one: square layers of rank 1.

# %%
careless = strategies.factors(st.integers(1, 3).map(lambda side: (side, side, 1)), integers=True)
cases = {
    "m ≠ n": lambda B, A, h: B.shape[0] != A.shape[1],
    "r > min(m, n)": lambda B, A, h: B.shape[1] > min(B.shape[0], A.shape[1]),
    "three different entries of h": lambda B, A, h: len(set(h.tolist())) >= 3,
    "a cross term that is not 0": (
        lambda B, A, h: (
            B.shape[1] > 1 and h[1] * (B[:, 0] * B[:, 1]).any() * (A[0] * A[1]).any() != 0
        )
    ),
    "an update of rank above r": lambda B, A, h: exact_rank(formulas.pera(B, A, h)) > B.shape[1],
    "ΔW = 0 though B, A, h are not": lambda B, A, h: bool(
        B.any() and A.any() and h.any() and not formulas.pera(B, A, h).any()
    ),
}


def reaches(strategy, case):
    try:
        find(
            strategy,
            lambda factors: case(*factors),
            settings=settings(ANY, max_examples=200),
            random=Random(0),
        )
    except NoSuchExample:
        return False
    return True


reached = {
    name: (reaches(strategies.factors(integers=True), case), reaches(careless, case))
    for name, case in cases.items()
}
print(f"{'':32}perakit   careless")
for name, (ours, theirs) in reached.items():
    print(f"{name:32}{'yes' if ours else 'no':10}{'yes' if theirs else 'no'}")
assert all(ours for ours, _ in reached.values())
assert [theirs for _, theirs in reached.values()][:4] == [False] * 4

# %% [markdown]
# A "no" means: not in 200 examples. Here four of them are no accident, since no square layer of
# rank 1 can show such a case.
#
# What does the careless strategy cost? Take the strongest property, the loop, and count after how
# many examples each mutant is caught.


# %%
def first_catch(mutant, pool):
    """The number of the first example on which a mutant differs from the loop.

    Infinite if none does.
    """
    return next(
        (k for k, factors in enumerate(pool, 1) if not properties["the loop"](mutant, *factors)),
        np.inf,
    )


pools = {"perakit's strategy": pool, "square layers of rank 1": pool_of(careless)}
figure, ax = plt.subplots()
alive = {}
for (name, examples), line in zip(pools.items(), ("-", "--"), strict=True):
    catches = {mutant: first_catch(rule, examples) for mutant, rule in mutants.items()}
    alive[name] = [mutant for mutant, k in catches.items() if np.isinf(k)]
    counts = np.arange(len(examples) + 1)
    wide = {"linewidth": 6, "alpha": 0.35} if line == "-" else {}  # seen where the two coincide
    ax.step(
        counts,
        [sum(k > count for k in catches.values()) for count in counts],
        line,
        where="post",
        label=name,
        **wide,
    )
ax.set(xlabel="examples tried", ylabel="mutants alive", ylim=(-0.3, 8.5), xlim=(0, 60))
ax.set_title("More examples do not help where the strategy is blind")
_ = ax.legend()

# %%
print("alive at the end:", alive)
assert alive["perakit's strategy"] == []
assert set(alive["square layers of rank 1"]) >= {"cross terms lost", "h in reverse order"}

# %% [markdown]
# With rank 1 there is one coefficient and no cross term: reversing $h$, or losing the cross terms,
# changes nothing, whatever the number of examples. Both curves use the best property we have.
#
# ## Hold an adapter of your own to the laws
#
# perakit tests its adapters with twelve laws: a fresh adapter changes no bit, the forward pass is
# the dense formula, merged equals unmerged, unmerging restores the bits, gradients are right, the
# rank bound is attained, and so on. They are functions in `perakit.testing`, for your adapters as
# well.
#
# Let us invent one. PERA trains a coefficient for each pair. Keep a single number $c$ for all of
# them, with the pattern $h_{ii} = c$, $h_{ij} = 2c$. Then $\Delta W = BA + c\,(BA) \circ (BA)$, the
# quadratic-kernel special case of PERA (claim [kernel](../docs/claims.md#kernel)). A method is one
# class that describes it and one that holds the parameters ([adding a
# method](../docs/adding-a-method.md)). We write the update *twice*, on purpose: `update` as above,
# and `factors` through PERA's expansion. The laws hold one against the other.

# %%
from perakit.adapters.base import Additive, Method
from perakit.testing import assert_adapter_laws


class KernelAdapter(Additive):
    def reset(self, W0):
        super().reset(W0)  # A random, B zero
        torch.nn.init.zeros_(self.c)

    def factors(self):
        i, j = formulas.pairs(self.method.rank)
        h = self.c * torch.as_tensor(np.where(i == j, 1.0, 2.0), dtype=self.c.dtype)
        B_hat, A_hat = formulas.expand(self.B, self.A, h)
        return self.method.scale * B_hat, A_hat


@dataclass(frozen=True)
class Kernel(Method):
    name = "kernel"
    adapter = KernelAdapter

    def shapes(self, m, n):
        return super().shapes(m, n) | {"c": (1,)}

    def rank_bound(self, m, n):
        return min(m, n, formulas.rank_bound(self.rank))

    def update(self, W0, B, A, c):
        return self.scale * (B @ A + c * (B @ A) * (B @ A))


# compiled=True compiles the layer too, which is slow
assert_adapter_laws(Kernel(rank=2), compiled=False)
print("every law holds, on every kind of layer and every dtype")

# %% [markdown]
# A green light is worth what a red one would have been. So break it, in five ways, each as small as
# a slip of the pen, and read what the laws say. Which of them would the demo "it trains and the
# loss goes down" have missed?


# %%
class NoScale(KernelAdapter):
    """The scale α/r forgotten."""

    def factors(self):
        B_hat, A_hat = super().factors()
        return B_hat / self.method.scale, A_hat


class NoDouble(KernelAdapter):
    """h_ij = c for cross terms too."""

    def factors(self):
        h = self.c.expand(formulas.rank_bound(self.method.rank) - self.method.rank)
        B_hat, A_hat = formulas.expand(self.B, self.A, h)
        return self.method.scale * B_hat, A_hat


class RandomStart(KernelAdapter):
    """B starts at random: the untrained adapter changes the model."""

    def reset(self, W0):
        super().reset(W0)
        torch.nn.init.normal_(self.B, std=0.02)


class AllZero(KernelAdapter):
    """A starts at zero too."""

    def reset(self, W0):
        super().reset(W0)
        torch.nn.init.zeros_(self.A)


@dataclass(frozen=True)
class TooLowBound(Kernel):
    """The rank bound of LoRA, copied."""

    name = "too low a bound"

    def rank_bound(self, m, n):
        return min(m, n, self.rank)


def with_adapter(cls):
    return type(
        cls.__name__, (Kernel,), {"name": cls.__name__, "adapter": cls, "__doc__": cls.__doc__}
    )


said = {}
for method in (*map(with_adapter, (NoScale, NoDouble, RandomStart, AllZero)), TooLowBound):
    try:
        assert_adapter_laws(method(rank=2), compiled=False)
    except AssertionError as error:
        said[method.__name__] = str(error)
        print(f"{method.__doc__}\n    {str(error).splitlines()[0]}")
assert len(said) == 5

# %% [markdown]
# Each message names the law, the layer, the dtype and the likely place. At least the first two
# would have trained happily: a wrong scale is a wrong learning rate, and another pattern of $h$ is
# another method under the same name. The second is noticed only because there are two readings of
# the update.
#
# ## Hold a formula to a claim
#
# A formula alone, without a layer, can be held to perakit's claims: `check(formula=mine)` puts your
# function where perakit's stood. First a different but right way to write PERA, then one of the
# mutants.


# %%
def mine(B, A, h):
    """As a Hadamard series: Σ M_i + Σ h_ij M_i∘M_j with M_i = b_i a_iᵀ."""
    M = [B[:, [i]] * A[[i]] for i in range(B.shape[1])]
    pairs = zip(*np.triu_indices(len(M)), strict=True)
    return sum(M) + sum(c * M[i] * M[j] for c, (i, j) in zip(h, pairs, strict=True))


for name, formula in (("mine", mine), ("h squared", mutants["h squared"])):
    evidence = claims["readings"].check(formula=formula)
    print(f"{name}: {'holds' if evidence.holds else 'FAILS'} - {evidence.summary}")
    if evidence.counterexample:
        print(
            "   ",
            ", ".join(
                f"{key} = {np.asarray(value).tolist()}"
                for key, value in evidence.counterexample.items()
            ),
        )
    assert evidence.holds == (name == "mine")

# %% [markdown]
# ## Exercises
#
# Write your answer into the cell under an exercise, then run the check below it. Use names of your
# own there: the folded cell after each, which has our answer, goes on with those of this page.
#
# ### Exercise 1
#
# *15 minutes · difficulty 3 of 5*
#
# A friend tests "merged equals factored" with floats in $[-10, 10]$ and a purely relative
# tolerance, `np.allclose(y, z, rtol=1e-9, atol=0)`, and a hundred examples pass. Find by hand a $1
# \times 1$ layer, that is four numbers $w_0, b, a, x$, on which it fails although every rounding
# error is tiny. Then repair the comparison. `answer_1` is the tuple `(w0, b, a, x)`; the test
# compares `(w0 + b * a) * x` with `w0 * x + b * (a * x)`.
#
# <details><summary>Hint 1</summary>
#
# The rounding errors are about $10^{-16}$ of the *terms*. When is that much, beside the result?
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# Let $w_0 + ba$ be nearly, but not exactly, zero. Which sum of two short decimals is famous for not
# being the third?
#
# </details>

# %% tags=["your-turn"]
# Your turn
answer_1 = ...  # (w0, b, a, x)

# %% tags=["self-check"]
pk.classroom.self_check("13.1", answer_1)

# %% tags=["hide-cell"] jupyter={"source_hidden": true, "outputs_hidden": true}
with pk.classroom.folded():
    w0, b, a, x = 0.1 + 0.2, 1.0, -0.3, 0.7
    merged, factored = (w0 + b * a) * x, w0 * x + b * (a * x)
    print(f"merged {merged:.3g}, factored {factored:.3g}")
    assert not np.allclose(merged, factored, rtol=1e-9, atol=0)
    # Large terms cancel: the sum is near 0, its rounding errors are those of the large terms.
    # Compare with the size of the terms.
    assert abs(merged - factored) <= 1e-14 * (abs(w0) + abs(b * a)) * abs(x)

# %% [markdown]
# ### Exercise 2
#
# *20 minutes · difficulty 4 of 5*
#
# *h halved* was caught only by the properties that know a value. Find a relation between PERA and
# LoRA that catches it, without a loop, without a second implementation of Eq. 9, and without typed
# numbers as the expected result. Which other mutants does it catch? `answer_2` is a function `(f,
# B, A, h)`, as the properties above: True where the rule `f` satisfies the relation on these
# factors.
#
# <details><summary>Hint 1</summary>
#
# The relation may call `f` with an $h$ of its own choice. For which $h$ do you know the update of
# PERA in terms of $BA$ alone?
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# Look at the pattern of $h$ in the adapter above, with $c = 1$. `np.triu_indices(r)` tells which
# entries of $h$ belong to $i = j$.
#
# </details>

# %% tags=["your-turn"]
# Your turn
answer_2 = ...  # a function (f, B, A, h) -> True or False

# %% tags=["self-check"]
pk.classroom.self_check("13.2", answer_2)


# %% tags=["hide-cell"] jupyter={"source_hidden": true, "outputs_hidden": true}
def kernel_identity(f, B, A, h):
    """h_ii = 1, h_ij = 2 gives BA + (BA)∘(BA): the quadratic kernel."""
    i, j = np.triu_indices(B.shape[1])
    L = formulas.lora(B, A)
    return np.array_equal(f(B, A, np.where(i == j, 1, 2)), L + L * L)


with pk.classroom.folded():
    assert not caught(correct, kernel_identity, pool)
    sees = [name for name, mutant in mutants.items() if caught(mutant, kernel_identity, pool)]
    print("caught:", ", ".join(sees))
    assert sees == list(mutants)  # all eight, as the loop does

# %% [markdown]
# ### Exercise 3
#
# *15 minutes · difficulty 3 of 5*
#
# HiRA's update is $W_0 \circ (BA)$ (ICLR 2025). Break the claim "its rank is at most $r$" with
# `find`, look at the counterexample, and repair the claim to $\operatorname{rank}(W_0)\, r$.
# `answer_3` is a counterexample of whole numbers, the tuple `(W0, B, A)` of arrays of the shapes
# $(m, n)$, $(m, r)$ and $(r, n)$.
#
# <details><summary>Hint 1</summary>
#
# You need a strategy that draws $W_0$ beside the factors. `strategies.factors(sizes,
# integers=True)` draws $(B, A, h)$; `hnp.arrays` draws a matrix of the shape that fits. In a
# function with `@st.composite` one can draw the one after the other.
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# By hand it goes, too: let $BA$ be all ones, of rank 1. What is the update then, and which rank can
# it have?
#
# </details>

# %% tags=["your-turn"]
# Your turn
answer_3 = ...  # (W0, B, A)

# %% tags=["self-check"]
pk.classroom.self_check("13.3", answer_3)

# %% tags=["hide-cell"] jupyter={"source_hidden": true, "outputs_hidden": true}
with pk.classroom.folded():
    sizes = st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 2))

    @st.composite
    def weight_and_factors(draw):
        B, A, _ = draw(strategies.factors(sizes, integers=True))
        return (
            draw(hnp.arrays(np.int64, (B.shape[0], A.shape[1]), elements=st.integers(-3, 3))),
            B,
            A,
        )

    W0, B, A = find(
        weight_and_factors(),
        lambda f: exact_rank(formulas.hira(*f)) > f[1].shape[1],
        settings=QUIET,
        random=Random(0),
    )
    # With B A all ones, the update is W0 itself
    print("W0 =", W0.tolist(), " B =", B.tolist(), " A =", A.tolist())
    assert exact_rank(formulas.hira(W0, B, A)) > B.shape[1]

    @QUIET
    @given(weight_and_factors())
    def repaired(f):
        assert exact_rank(formulas.hira(*f)) <= exact_rank(f[0]) * f[1].shape[1]

    assert run(repaired)

# %% [markdown]
# ### Exercise 4
#
# *10 minutes · difficulty 2 of 5*
#
# A report says: "Our test suite ran 10,000 random examples, so the formula is correct." What may it
# say? And what is lost with `derandomize=True`, which this notebook uses? To get a feeling for
# "none was found": a formula is wrong on one input in a thousand. `answer_4` is the probability
# that a hundred random examples, drawn independently, all miss it, to three digits.
#
# <details><summary>Hint 1</summary>
#
# Two words were kept apart above: verified, and proved. Which one fits?
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# One example misses it in 999 cases of 1000. All hundred miss it: multiply.
#
# </details>

# %% tags=["your-turn"]
# Your turn
answer_4 = ...  # a probability

# %% tags=["self-check"]
pk.classroom.self_check("13.4", answer_4)

# %% [markdown]
# <details><summary>Answer</summary>
#
# It may say "no counterexample in 10,000 examples", with the strategy that drew them and the
# mutants that it catches. A hundred examples miss what is wrong on one input in a thousand with
# probability $0.999^{100} \approx 0.905$; ten thousand miss it with $0.999^{10000} \approx
# 0.00005$, and what is wrong on one input in a million they nearly always miss. Correct for all
# inputs needs a proof, for instance the identity in symbols. With `derandomize=True` every run
# draws the same examples: a failure is reproducible and a green suite stays green, but running it
# again looks at nothing new. Projects therefore often run the fixed examples on every change, and
# fresh ones, and more of them, at night.
#
# </details>

# %% [markdown]
# ## Where to go next
#
# - [Notebook 05](05_theorem_one.ipynb): a published claim, a counterexample, and the repaired
#   theorem.
# - [Notebook 09](09_merging.ipynb): what "equal up to rounding" means in each number format.
# - [Adding a method](../docs/adding-a-method.md): the adapter above as a part of perakit.
# - [All claims with their verdicts](../docs/claims.md), for example
#   [rank-bound](../docs/claims.md#rank-bound) and [readings](../docs/claims.md#readings).
