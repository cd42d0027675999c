# %% [markdown]
# # The polynomial expansion and its gradients
#
# PERA (arXiv 2604.11841) trains the factors of LoRA, $B$ (m, r) and $A$ (r, n), and one more number
# $h_{ij}$ for each pair $i \le j$ of their columns and rows. With $b_i$ a column of $B$, $a_i$ a
# row of $A$ and $\circ$ the product entry by entry, the update is (Eq. 9)
#
# $$\Delta W = \sum_i b_i a_i^\top + \sum_{i \le j} h_{ij}\,(b_i \circ b_j)(a_i \circ a_j)^\top .$$
#
# You will write it in three ways, derive its gradients on paper, and test them by finite
# differences. It takes about two hours. Notebooks 02 and 03 of perakit prepare for it.
#
# Replace each `raise NotImplementedError` by your code. Keep the names and the arguments of the
# functions. Use NumPy only. A function leaves its arguments as they are. No function needs another
# one of yours, so that a mistake does not spread: where you need the pairs, ask `np.triu_indices`.
# Run `perakit grade` on this file as often as you like: it shows the smallest input that breaks
# your function. Cells with the tag `experiment` are yours: the grader does not run them.

# %%
import numpy as np

# %% [markdown]
# ## 1. Which pairs?
#
# The coefficients $h$ come as a list, so everybody has to agree on the order of the pairs. It is
# the order in which one reads the upper triangle of an r x r matrix, row by row: for $r = 2$ the
# pairs are (0, 0), (0, 1), (1, 1), counted from 0 as Python does. That is also the order of
# `np.triu_indices(r)`.
#
# The paper studies two parts of the sum: the squares $i = j$ alone (Eq. 10) and the cross terms $i
# < j$ alone (Eq. 11).


# %%
def pairs(rank, terms="full"):
    """The pairs (i, j), row by row: two integer arrays of the same length.

    terms: "full" i <= j, "square" i = j, "cross" i < j.
    """
    # BEGIN SOLUTION
    i, j = np.triu_indices(rank)
    keep = {"full": i <= j, "square": i == j, "cross": i < j}[terms]
    return i[keep], j[keep]
    # END SOLUTION


# %% tags=["experiment"]
for terms in ("full", "square", "cross"):
    print(terms, [(int(p), int(q)) for p, q in zip(*pairs(3, terms), strict=True)])

# %% [markdown]
# ## 2. First way: two larger factors
#
# A sum of outer products is a product of two matrices. Put the columns $b_i$ and then the products
# $b_i \circ b_j$ side by side, and the rows $a_i$ and then the products $h_{ij}\,(a_i \circ a_j)$
# below each other (Eq. 2-5):
#
# $$\mathrm{Poly}_2(B) = [\, b_i \;;\; b_i \circ b_j \,], \qquad \mathrm{Poly}_{2,H}(A) = [\, a_i
# \;;\; h_{ij}\,(a_i \circ a_j) \,] .$$
#
# The coefficients stand in one of the two factors only. What would happen if they stood in both?


# %%
def expand(B, A, h):
    """PERA's two factors: Poly2(B) (m, K) and Poly2_H(A) (K, n).

    Linear features come first, then the pairs in order.
    B (m, r), A (r, n), h (r(r+1)/2,).
    """
    # BEGIN SOLUTION
    i, j = np.triu_indices(A.shape[0])
    left = np.concatenate([B, B[:, i] * B[:, j]], axis=1)
    right = np.concatenate([A, h[:, None] * A[i] * A[j]], axis=0)
    return left, right
    # END SOLUTION


# %% [markdown]
# How many columns has $\mathrm{Poly}_2(B)$? Count them: r linear features, r squares, and the cross
# terms. This number $K$ bounds the rank of $\Delta W$. And how many numbers does PERA *train* on an
# m x n layer? (Not what the two large factors hold.)


# %%
def counts(m, n, rank):
    """(K, the number of trained parameters), two integers."""
    # BEGIN SOLUTION
    return rank * (rank + 3) // 2, rank * (m + n) + rank * (rank + 1) // 2
    # END SOLUTION


# %% tags=["experiment"]
for rank in (1, 2, 4, 8, 16, 32):
    bound, trained = counts(768, 768, rank)
    print(f"rank {rank:2}: K = {bound:3}, {trained:,} trained; LoRA trains {rank * (768 + 768):,}")

# %% [markdown]
# ## 3. Second way: the sum
#
# Write the update of Eq. 9 itself. A loop over the pairs is fine; so is one line with `B[:, i]` and
# `A[i]`. Before you run it, decide: how often does the pair (0, 1) count, and how often (1, 1)?


# %%
def update(B, A, h):
    """ΔW of Eq. 9.

    B (m, r), A (r, n), h (r(r+1)/2,) in the order of the pairs; returns (m, n).
    """
    # BEGIN SOLUTION
    i, j = np.triu_indices(A.shape[0])
    return B @ A + (B[:, i] * B[:, j]) @ (h[:, None] * A[i] * A[j])
    # END SOLUTION


# %% [markdown]
# ## 4. Third way: entry by entry
#
# The entry of $\Delta W$ in row p and column q sees row p of $B$ and column q of $A$, and nothing
# else. Call $u$ their product entry by entry, $u_i = B_{pi} A_{iq}$. Then the entry is
#
# $$\Delta W_{pq} = \varphi_h(u), \qquad \varphi_h(u) = \sum_i u_i + \sum_{i \le j} h_{ij}\, u_i
# u_j .$$
#
# It is *one* quadratic polynomial for all entries.


# %%
def phi(u, h):
    """The entry polynomial φ_h(u), a number; u (r,), h (r(r+1)/2,) in the order of the pairs."""
    # BEGIN SOLUTION
    first, second = np.triu_indices(len(u))
    return u.sum() + (h * u[first] * u[second]).sum()
    # END SOLUTION


# %% tags=["experiment"]
import matplotlib.pyplot as plt

from perakit import plots

plt.style.use(plots.STYLE)
rng = np.random.default_rng(0)
B, A, h = rng.normal(size=(6, 2)), rng.normal(size=(2, 8)), np.array([0.6, -0.8, 0.4])
left, right = expand(B, A, h)
entries = np.array([[phi(B[p] * A[:, q], h) for q in range(8)] for p in range(6)])
print("two factors against the sum:", abs(left @ right - update(B, A, h)).max())
print("entries against the sum:    ", abs(entries - update(B, A, h)).max())

figure, ax = plt.subplots()
u = B[:, :, None] * A[None]  # (m, r, n)
plots.plot_entry_polynomial(h, span=1.05 * abs(u).max(), ax=ax)
ax.plot(u[:, 0].ravel(), u[:, 1].ravel(), "o", color="k", markersize=3)
_ = ax.set_title("Where the 48 entries of ΔW read φ")

# %% [markdown]
# ## 5. Finite differences
#
# Soon you will derive gradients, and you will want to know whether they are right. A test that
# needs no derivation: change one entry of x by a small step, forward and back, and see what f does,
#
# $$\frac{\partial f}{\partial x_k} \approx \frac{f(x + s\,e_k) - f(x - s\,e_k)}{2 s} .$$
#
# This *central* difference is exact if f is a polynomial of degree 2 in $x_k$, whatever the step.
# The *forward* difference $(f(x + s\,e_k) - f(x)) / s$ is exact at degree 1 only. What degree has
# an entry of $\Delta W$ in one entry of $A$?


# %%
def central(f, x, step):
    """The gradient of f at x by central differences, an array of the shape of x.

    f: a function of an array like x that returns a number; x: an array of any shape, which stays as
    it is.
    """
    # BEGIN SOLUTION
    gradient = np.zeros(x.shape)
    for k in np.ndindex(x.shape):
        change = np.zeros(x.shape)
        change[k] = step
        gradient[k] = (f(x + change) - f(x - change)) / (2 * step)
    return gradient
    # END SOLUTION


# %% [markdown]
# ## 6. The gradients
#
# Let a loss $L$ depend on $\Delta W$, and let $G = \partial L / \partial \Delta W$ (m, n) be known.
# Derive on paper the gradients of $L$ by $h$, by $A$ and by $B$. Two ways lead there:
#
# - *Term by term.* $L$ changes with $h_{ij}$ as $\sum_{pq} G_{pq} (b_i \circ b_j)_p (a_i \circ
#   a_j)_q$. With $h_{ij}$ and $B$ fixed, which rows of $A$ does the pair (i, j) touch? And the pair
#   (i, i)?
# - *Entry by entry.* $\partial L / \partial A_{kq} = \sum_p G_{pq}\, \varphi_k(u)\, B_{pk}$, where
#   $\varphi_k$ is the derivative of $\varphi_h$ by $u_k$. What is it?
#
# With $h = 0$ you must find LoRA's gradients $B^\top G$ and $G A^\top$ again. Write one gradient
# after the other: you may begin with `return None, None, to_h`, and the grader already gives you
# the points for $h$.


# %%
def gradients(B, A, h, G):
    """(∂L/∂B (m, r), ∂L/∂A (r, n), ∂L/∂h (r(r+1)/2,)) from G = ∂L/∂ΔW (m, n), in closed form.

    B (m, r), A (r, n), h (r(r+1)/2,).
    """
    # BEGIN SOLUTION
    i, j = np.triu_indices(A.shape[0])
    products_B, products_A = B[:, i] * B[:, j], A[i] * A[j]  # (m, pairs), (pairs, n)
    to_h = ((products_B.T @ G) * products_A).sum(axis=1)
    to_B, to_A = G @ A.T, B.T @ G
    for k, (p, q) in enumerate(zip(i, j, strict=True)):
        through_B = h[k] * (G @ products_A[k])  # (m,): the gradient by b_p∘b_q
        to_B[:, p] += through_B * B[:, q]
        # p = q comes here twice, as it should: the derivative of b² is 2b
        to_B[:, q] += through_B * B[:, p]
        through_A = h[k] * (products_B[:, k] @ G)  # (n,): the gradient by a_p∘a_q
        to_A[p] += through_A * A[q]
        to_A[q] += through_A * A[p]
    return to_B, to_A, to_h
    # END SOLUTION


# %% [markdown]
# Now test your gradients with your differences, on a loss of your choice. Which step is the best
# one? Guess before you look: is a smaller step always better?

# %% tags=["experiment"]
target = rng.normal(size=(6, 8))


def loss(A):
    return 0.5 * ((update(B, A, h) - target) ** 2).sum()


exact = gradients(B, A, h, update(B, A, h) - target)[1]
steps = 10.0 ** np.arange(-12, 0)
# Moves column 0 of A
forward = [abs((loss(A + s * np.eye(2, 8)[0]) - loss(A)) / s - exact[:, 0].sum()) for s in steps]
errors = [abs(central(loss, A, s) - exact).max() for s in steps]
figure, ax = plt.subplots()
ax.loglog(steps, errors, "o-", label="central, largest error of all entries")
ax.loglog(steps, forward, "s--", label="forward, along one direction")
ax.set(
    xlabel="step",
    ylabel="error of the gradient by A",
    title="Too large a step, and too small a one",
)
_ = ax.legend()
print("smallest error", min(errors), "at step", steps[np.argmin(errors)])

# %% [markdown]
# ## 7. Polynomial in what?
#
# The update is a polynomial of the *parameters*. What is the layer in its input? Write two adapters
# that have the same factors. The first is PERA: it adds $\Delta W x$. The second is made up for
# contrast: it adds $B\,(z \circ z)$ with $z = A x$. One row of `x` is one input.


# %%
def answers(x, B, A, h):
    """What the two adapters add to the output: (x ΔWᵀ, (z∘z) Bᵀ with z = x Aᵀ), both (T, m).

    x (T, n), B (m, r), A (r, n), h (r(r+1)/2,).
    """
    # BEGIN SOLUTION
    i, j = np.triu_indices(A.shape[0])
    delta = B @ A + (B[:, i] * B[:, j]) @ (h[:, None] * A[i] * A[j])
    z = x @ A.T
    return x @ delta.T, z**2 @ B.T
    # END SOLUTION


# %% tags=["experiment"]
direction = rng.normal(size=(1, 8))
t = np.linspace(-2, 2, 41)
lines = [answers(step * direction, B, A, h) for step in t]
named = {"PERA": [line[0][0, 0] for line in lines], "contrast": [line[1][0, 0] for line in lines]}
_ = plots.plot_along_input(t, named)

# %% [markdown] tags=["rubric"]
# ## 8. In your own words (marked by your teacher, 4 points)
#
# **a.** A friend reads "polynomial" in the title of the paper and says: "So a stack of PERA layers
# without activation functions can compute the exclusive-or of two inputs." What do you answer?
# Which of your functions shows it, and how? (2 points)
#
# **b.** Training begins at $B = 0$ and $h = 0$ with a random $A$. Read off your formulas which of
# the three gradients vanish there. What follows for the first step of gradient descent, compared
# with LoRA from the same $A$? From which step on can $h$ change? (2 points)
#
# | points | what the answer has |
# |:--|:--|
# | 2 | the reason, read off a formula or shown by a run, and the conclusion |
# | 1 | the right conclusion without the reason |
# | 0 | a guess, or an answer that would also fit the opposite |

# %% tags=["experiment"]
# Your answers, as comments or in a Markdown cell:

# %% [markdown] tags=["instructor"]
# ### What it teaches
#
# One formula in three forms (two factors, a sum, a polynomial read at mn points); a chain rule with
# a square in it; finite differences as a test of a derivation; that "polynomial" is about the
# parameters. Students need partial derivatives and NumPy indexing; no PyTorch, no automatic
# differentiation.
#
# ### Where they stumble
#
# - *The order of h.* Squares first, then cross terms, is the order of the formula that many write
#   down; nothing crashes. A check of its own sets one coefficient to 1 and says which pair it met.
# - *All ordered pairs.* A sum over all i and j counts cross terms twice: with every h = 1 that is
#   (BA)∘(BA), a special case of PERA, and not PERA. The check on the terms gives every pair the
#   same coefficient, so that it does not see their order, and says which pair counts how often.
# - *h in both factors* of the expansion: the product then has h². In Poly2(B) alone it gives the
#   right product and the wrong factors; only one check sees it.
# - *The square's factor 2.* Vectorised code that assigns to rows (`to_A[i] += ...` with an index
#   array) silently keeps one of several additions; `np.add.at` or a loop adds them all.
# - *Differences in place.* `x[k] += step` changes the caller's array, and the grader says so if it
#   is not put back. One check, for all functions, is about that.
# - *Half a difference.* Divided by `step` in place of `2 * step`, or forward in place of central: a
#   line shows the one, the lowest point of a parabola the other.
#
# All examples are small whole numbers, on which central differences of a quadratic are exact: the
# checks of the gradients compare with those, not with a second derivation. A gradient with the
# wrong sign, or twice too large, costs its own check; the one on squares measures in multiples of
# it.
#
# ### Written answers
#
# a: no. With fixed parameters ΔW is a matrix, and a stack of linear maps is one linear map;
# exclusive-or is not linear (nor affine). `answers` shows it: the first adapter gives f(x + y) =
# f(x) + f(y) for any h, the second does not.
#
# b: the gradients by A and by h vanish, since each of their terms contains B (by A: Bᵀ G and
# b_i∘b_j; by h: b_i∘b_j). The one by B is G Aᵀ, LoRA's. So the first step is LoRA's. After it B is
# not zero, so from the second step on h has a gradient.
#
# ### In class
#
# Fifteen minutes on the plot of section 6: why a V, and where is the lowest point of each curve
# (about the cube root and the square root of the rounding error)? Then replace the loss by the sum
# of the entries of ΔW: the left branch stays, the right one vanishes, since a central difference of
# a quadratic is exact.

# %% tags=["checks"]
import numpy as np
from hypothesis import strategies as st

from perakit.classroom import arrays, check, expect, expect_equal, fail, parts, show

drawn = st.fixed_dictionaries
ranks = st.integers(1, 4)
# Not symmetric, so that a forgotten transpose shows; square, so that it raises nothing.
S = np.array([[1.0, 2.0], [4.0, 3.0]])
WIDE, TALL = np.array([[1.0, 3, 4], [2, 1, 5]]), np.array([[1.0, 4], [2, 1], [3, 5]])


def layers(coefficients="full", **more):
    """Examples B, A, more arrays, and h.

    coefficients: which may differ from zero, those of "square" pairs, of "cross" pairs, or all.
    Their simplest entries are 1, those of h are 0: then the smallest example shows which
    coefficient matters.
    """

    def with_h(example):
        i, j = np.triu_indices(len(example["A"]))
        kept = {"full": i <= j, "square": i == j, "cross": i < j}[coefficients]
        h = np.array(example["h"][::-1][: len(i)]) * kept + 0.0  # turned round, as `arrays` does
        return {name: value + 1 for name, value in example.items() if name != "h"} | {"h": h}

    most = st.lists(st.integers(-3, 3), min_size=6, max_size=6)  # rank 3 has 6 pairs
    return arrays(B="m r", A="r k", h=most, **more).map(with_h)


def level(example):
    """The same number for every pair: then their order does not matter."""
    return example | {"h": np.full(len(example["h"]), example["h"][0])}


def both(rank):
    """The pairs (i, j) of that rank in order."""
    return [(i, j) for i in range(rank) for j in range(i, rank)]


def polynomial(u, h):
    """φ_h(u), of r numbers, or of r arrays entry by entry."""
    return sum(u) + sum(c * u[i] * u[j] for c, (i, j) in zip(h, both(len(u)), strict=True))


def entrywise(B, A, h):
    return polynomial([np.outer(B[:, k], A[k]) for k in range(len(A))], h)


def slope(f, X):
    """The gradient of f, a polynomial of degree 2 in each entry of X.

    So differences with step 1 are exact.
    """
    gradient = np.zeros(X.shape)
    for k in np.ndindex(X.shape):
        up, down = X.copy(), X.copy()
        up[k], down[k] = X[k] + 1, X[k] - 1
        gradient[k] = (f(up) - f(down)) / 2
    return gradient


def ratio(got, unit):
    """The number c with got = c·unit; None where there is none."""
    try:
        got = np.asarray(got, dtype=float)
    except (TypeError, ValueError):
        return None
    if got.shape != unit.shape:
        return None
    size = np.sum(unit * unit)
    c = np.sum(got * unit) / size if size else 1.0
    fits = np.abs(got - c * unit).max() <= 1e-6 * max(1.0, np.abs(got).max())
    return c if fits and c else None


# --- which pair gets which coefficient ------------------------------------------------------------


def weights(f):
    """What a sum of pairs does: row k has what h[k] = 1 gives to each pair; None for no sum.

    f: (B, A, h) -> an array like ΔW, at rank 2. The last row is that of the linear part.
    """
    products = [np.outer(TALL[:, i] * TALL[:, j], WIDE[i] * WIDE[j]).ravel() for i, j in both(2)]
    basis = np.array([*products, *(np.outer(TALL[:, k], WIDE[k]).ravel() for k in range(2))]).T
    zero = np.array(f(TALL, WIDE, np.zeros(3)), dtype=float)
    rows = [np.array(f(TALL, WIDE, one), dtype=float) - zero for one in np.eye(3)]
    if not all(row.shape == (3, 3) for row in (*rows, zero)):
        return None
    found = [np.linalg.lstsq(basis, row.ravel(), rcond=None)[0] for row in (*rows, zero)]
    right = [
        np.abs(basis @ c - row.ravel()).max() < 1e-6
        for c, row in zip(found, (*rows, zero), strict=True)
    ]
    return np.round(found, 6) if all(right) else None


def diagnosis(f):
    """What is wrong with a sum of pairs, as the end of a sentence; nothing where it is unclear."""
    try:
        table = weights(f)
    except (TypeError, ValueError):
        table = None
    if table is None:
        return ""
    linear, pairs = table[3, 3:], table[:3, :3]
    if (linear != 1).any():
        return f": at rank 2 and h = 0, the linear terms count {show(linear)} times"
    total = pairs.sum(axis=0)
    for (i, j), times in zip(both(2), total, strict=True):
        if times != 1:
            return f": at rank 2 the pair ({i}, {j}) counts {times:g} times"
    for k, (i, j) in enumerate(both(2)):
        if pairs[k, k] != 1:
            p, q = both(2)[int(pairs[k].argmax())]
            return f": at rank 2, h[{k}] belongs to ({i}, {j}), and yours multiplies ({p}, {q})"
    return ""


def expect_sum(got, expected, f, what=""):
    """Fail unless they are equal, with a diagnosis of f."""
    expect_equal(got, expected, np.inf, what)
    wrong = np.abs(np.asarray(got, dtype=float) - expected).max() > 1e-6 * max(
        1.0, np.abs(expected).max()
    )
    if wrong:
        head = f"{what}: " if what else ""
        fail(f"{head}expected {show(expected)} got {show(got)}{diagnosis(f)}")


def met_twice(f):
    """Whether two coefficients multiply the same pair, so that there is no order to be wrong."""
    try:
        table = weights(f)
    except (TypeError, ValueError):
        return False
    return table is not None and len(set(np.abs(table[:3, :3]).argmax(axis=1))) < 3


def expect_own(f, B, A, k, given=""):
    """Fail unless h[k] multiplies its own pair, by whatever number.

    given: what the message says of B and A, if the example does not.
    """
    i, j = both(len(A))[k]
    one = np.eye(len(both(len(A))))[k]
    mine = outer_of(B, A, i, j)
    after, before = f(B, A, one), f(B, A, 0 * one)
    for got in (after, before):
        expect_equal(got, mine, np.inf, given)
    change = np.asarray(after, dtype=float) - np.asarray(before, dtype=float)
    if np.any(change) and ratio(change, mine) is None and not met_twice(f):
        fail(
            f"{given}h[{k}] = 1 adds {show(change)}, expected what the pair ({i}, {j}) has,"
            f" {show(mine)}{diagnosis(f)}"
        )


def outer_of(B, A, i, j):
    """The product of a pair."""
    return np.outer(B[:, i] * B[:, j], A[i] * A[j])


# --- pairs ----------------------------------------------------------------------------------------


def listed(work, rank, *terms):
    got = work.pairs(rank, *terms)
    several = isinstance(got, list | tuple) and len(got) != 2
    if several and all(np.shape(pair) == (2,) for pair in got):
        return [tuple(map(int, pair)) for pair in got]  # a list of pairs: `pairs_all` minds
    i, j = parts(got, "i", "j")
    return list(zip(np.ravel(i).tolist(), np.ravel(j).tolist(), strict=False))


def upper(pairs):
    """Each with the smaller index first."""
    return [(min(pair), max(pair)) for pair in pairs]


@check(
    1,
    "each pair i <= j is there, once",
    "pairs",
    examples=drawn({"rank": ranks}),
    count=10,
    hint="how many pairs are there? Is (0, 0) one of them, and (1, 0)?",
)
def pairs_all(work, rank):
    expected = set(both(rank))
    parts(work.pairs(rank), "i", "j")
    got = listed(work, rank)
    expect(
        set(got) == expected and len(got) == len(expected), f"expected {sorted(expected)} got {got}"
    )


@check(
    1,
    "the pairs come row by row",
    "pairs",
    examples=drawn({"rank": st.integers(3, 4)}),
    count=5,
    hint="first all pairs with i = 0, then those with i = 1 ...",
)
def pairs_order(work, rank):
    got = listed(work, rank)
    expect(got, "expected some pairs, got none")
    for terms in ("full", "cross"):
        got = listed(work, rank, terms)
        if upper(got) != sorted(upper(got)):  # (1, 0) for (0, 1) is for the check above
            expect(got == sorted(got), f"{terms}: expected the order {sorted(got)} got {got}")


@check(
    1,
    "squares are i = j, cross terms i < j",
    "pairs",
    examples=drawn({"rank": st.integers(3, 4), "terms": st.sampled_from(["square", "cross"])}),
    count=10,
    hint="every pair is one or the other",
)
def pairs_terms(work, rank, terms):
    def some(pairs):
        return {(i, j) for i, j in pairs if (i == j) == (terms == "square")}

    got = upper(listed(work, rank, terms))
    # Of the student's own pairs, too: which they are is a check of its own
    own = some(upper(listed(work, rank)))
    expected = some(both(rank))
    expect(
        got and set(got) in (expected, own) and (len(got) == len(set(got)) or own == set(got)),
        f"expected {sorted(expected)} got {got}",
    )


# --- two larger factors ---------------------------------------------------------------------------


def expanded(work, B, A, h):
    """The student's two factors."""
    got = parts(work.expand(B, A, h), "Poly2(B)", "Poly2_H(A)")
    left, right = map(np.asarray, got)
    fits = left.ndim == right.ndim == 2 and left.shape[1] == right.shape[0]
    expect(
        fits, f"shapes {left.shape} and {right.shape} do not multiply: (m, K) and (K, n) are needed"
    )
    return left, right


def together(work):
    """(B, A, h) -> the product of the student's two factors, of which h is in one.

    Who puts it into both has h² here; that is for `expand_h`, so the left one is that of h = 1.
    """

    def product(B, A, h):
        left, right = expanded(work, B, A, h)
        clean, _ = expanded(work, B, A, np.ones(len(h)))
        squared = ratio(clean @ right, entrywise(B, A, h)) == 1
        return clean @ right if squared else left @ right

    return product


def sums_right(work):
    """Whether the pairs have their coefficients in the product, at one example."""
    f, h = together(work), np.array([2.0, -1.0, 3.0])
    change = f(TALL, WIDE, h) - f(TALL, WIDE, 0 * h)
    return ratio(change, entrywise(TALL, WIDE, h) - TALL @ WIDE) == 1


@check(
    1,
    "linear features first, then the pairs in order",
    "expand",
    examples=arrays(B="m r", A="r n"),
    count=30,
    hint="which columns are those of B itself, and in which order do the others come?",
)
def expand_order(work, B, A):
    rank = len(A)
    h = np.ones(len(both(rank)))
    left, right = expanded(work, B, A, h)
    wide = [*B.T, *(B[:, i] * B[:, j] for i, j in both(rank))]
    deep = [*A, *(A[i] * A[j] for i, j in both(rank))]
    # Where the pairs are wrong, and not only their places, the linear features alone count here
    some = slice(None if sums_right(work) else rank)
    said = "with every h = 1, " + ("" if some.stop is None else "the linear part of ")
    expect_equal(left[:, some], np.array(wide[some]).T, what=said + "Poly2(B)")
    expect_equal(right[some], np.array(deep[some]), what=said + "Poly2_H(A)")


@check(
    1,
    "h stands in the second factor only",
    "expand",
    examples=layers(),
    count=30,
    hint="Eq. 2: is there an h in Poly2(B)?",
)
def expand_h(work, B, A, h):
    with_h, without = (expanded(work, B, A, some)[0] for some in (h, 0 * h))
    expect(
        np.array_equal(with_h, without),
        f"Poly2(B) depends on h: with this h it is {show(with_h)}, with h = 0 it is"
        f" {show(without)}",
    )


@check(
    2,
    "in their product each pair has its own h, once",
    "expand",
    examples=layers(),
    hint="multiply the two factors for rank 1: which number stands before b² a²?",
)
def expand_product(work, B, A, h):
    f = together(work)
    expected = entrywise(B, A, h) - B @ A
    expect_sum(
        f(B, A, h) - f(B, A, 0 * h), expected, f, "the product at this h, less that at h = 0"
    )


@check(
    1,
    "K counts every feature",
    "counts",
    examples=drawn({"m": st.integers(1, 9), "n": st.integers(1, 9), "rank": ranks}),
    hint="count the columns of Poly2(B) for r = 1 and r = 2 on paper",
)
def bound(work, m, n, rank):
    got = parts(work.counts(m, n, rank), "K", "trained")
    expect_equal(got[0], rank + len(both(rank)), what="K")


@check(
    1,
    "every trained number is counted once",
    "counts",
    examples=drawn({"m": st.integers(1, 9), "n": st.integers(1, 9), "rank": ranks}),
    hint="which three arrays are trained, and what are their shapes?",
)
def trained(work, m, n, rank):
    got = parts(work.counts(m, n, rank), "K", "trained")
    known = m * rank + rank * n + len(both(rank)), rank + len(both(rank))
    if tuple(map(show, got)) != tuple(map(show, known)):  # the other order is for the check above
        expect_equal(got[1], known[0], what="trained parameters")


# --- the sum, and its entries ---------------------------------------------------------------------


@check(
    2,
    "the update has every term of Eq. 9, once",
    "update",
    examples=layers().map(level),
    hint="how often does each pair count? And what is left at h = 0?",
)
def updated(work, B, A, h):
    expect_sum(work.update(B, A, h), entrywise(B, A, h), work.update)


@check(
    1,
    "in the update each pair has its own h",
    "update",
    examples=arrays(B="m r", A="r k", k=st.integers(0, 5)),
    hint="in which order do the pairs come, and which number has (0, 1)?",
)
def update_order(work, B, A, k):
    expect_own(work.update, B, A, k % len(both(len(A))))


def entry_of(work):
    """φ as a function like ΔW, entry by entry."""

    def f(B, A, h):
        return np.array([[work.phi(row * column, h) for column in A.T] for row in B], dtype=float)

    return f


def one_entry(example):
    return {"u": example["A"][:, 0], "h": example["h"]}


@check(
    1,
    "φ has every term, once",
    "phi",
    examples=layers().map(level).map(one_entry),
    hint="what is φ at h = 0? And how often does u_i u_j count?",
)
def entry(work, u, h):
    expect_sum(work.phi(u, h), polynomial(u, h), entry_of(work))


@check(
    1,
    "in φ each pair has its own h",
    "phi",
    examples=drawn({"rank": st.integers(1, 3), "k": st.integers(0, 5)}),
    hint="in which order do the pairs come, and which number has (0, 1)?",
)
def entry_order(work, rank, k):
    rows = np.array([[1.0, 2, 3], [2, 5, 7], [3, 1, 4]])[:, :rank]
    expect_own(
        entry_of(work),
        rows,
        np.ones((rank, 1)),
        k % len(both(rank)),
        f"for u = {show(rows[0])}, {show(rows[1])}, {show(rows[2])}: ",
    )


# --- finite differences ---------------------------------------------------------------------------

points = {"c": st.integers(1, 3), "x": st.integers(0, 3)}


@check(
    1,
    "a straight line has its slope",
    "central",
    examples=drawn(points),
    hint="how far apart are the two points at which you call f?",
)
def central_slope(work, c, x):
    got = work.central(lambda X: c * float(np.sum(X)), np.array([float(x)]), 0.5)
    expect_equal(got, np.array([float(c)]), 1e-6, what="f(x) = c x, step 0.5")


@check(
    1,
    "the differences are central: zero at the lowest point of a square",
    "central",
    examples=drawn(points),
    hint="one point on each side of x",
)
def central_exact(work, c, x):
    got = work.central(lambda X: c * float(np.sum((X - x) ** 2)), np.array([float(x)]), 0.5)
    expect_equal(got, np.zeros(1), 1e-6, what=f"f(t) = c (t - {x})², step 0.5, at t = {x}")


@check(
    1,
    "the step is the one that was given",
    "central",
    examples=drawn(points),
    hint="is `step` in your code wherever a step is taken?",
)
def central_step(work, c, x):
    # As a multiple of the slope of a line, which is a check of its own
    unit = work.central(lambda X: float(np.sum(X)), np.array([float(x)]), 0.5)
    expect_equal(unit, np.ones(1), np.inf)
    got = work.central(lambda X: c * float(np.sum((X - x) ** 3)), np.array([float(x)]), 0.5)
    expected = 0.25 * c * np.asarray(unit, dtype=float)
    expect_equal(got, expected, 1e-6, what=f"f(t) = c (t - {x})³, step 0.5, at t = {x}")


@check(
    1,
    "they change one entry at a time",
    "central",
    examples=arrays(x="m n", c="m n"),
    count=30,
    hint="the result has the shape of x, and its entry k comes from moving the entry k alone",
)
def central_entries(work, x, c):
    got = work.central(lambda X: float(np.sum(c * X)), x, 0.5)
    expect_equal(got, c, np.inf, what="f(x) = Σ c∘x, step 0.5")
    expect(
        ratio(got, c) is not None,  # the number is for `central_slope`
        f"f(x) = Σ c∘x, step 0.5: expected a multiple of {show(c)} got {show(got)}",
    )


# --- gradients ------------------------------------------------------------------------------------

NAMES = ("∂L/∂B", "∂L/∂A", "∂L/∂h")


def gradient(work, which, B, A, h, G):
    """One of the three gradients, 0 by B, 1 by A, 2 by h."""
    got = parts(work.gradients(B, A, h, G), *NAMES)[which]
    expect(got is not None, f"{NAMES[which]} is still None")
    shape = (B, A, h)[which].shape
    try:
        array = np.asarray(got, dtype=float)
    except (TypeError, ValueError):
        fail(f"{NAMES[which]}: expected an array of shape {shape} got {show(got)}")
    expect(array.shape == shape, f"{NAMES[which]}: expected the shape {shape} got {array.shape}")
    return array


def true_gradient(which, B, A, h, G):
    """The same by differences with step 1, which are exact here."""

    def loss(X):
        return np.sum(G * entrywise(*(X if k == which else (B, A, h)[k] for k in range(3))))

    return slope(loss, (B, A, h)[which])


def expect_gradient(got, expected, which):
    """Fail unless they are equal; says so if one is a multiple of the other, or out of order."""
    c = ratio(got, expected)
    said = ""
    if c is not None and np.any(expected):
        said = f", which is {c:g} times that"
    elif sorted(got.ravel()) == sorted(expected.ravel()):
        said = ": the numbers are right, their places are not"
    if not np.abs(got - expected).max() <= 1e-6 * max(1.0, np.abs(expected).max()):
        fail(f"{NAMES[which]}: expected {show(expected)} got {show(got)}{said}")


@check(
    2,
    "the gradient by h",
    "gradients",
    examples=layers(G="m k"),
    hint="ΔW is linear in each h_ij: what is it multiplied by?",
)
def gradient_h(work, B, A, h, G):
    expect_gradient(gradient(work, 2, B, A, h, G), true_gradient(2, B, A, h, G), 2)


@check(
    2,
    "the gradient by A, without squares",
    "gradients",
    examples=layers("cross", G="m k"),
    hint="what is it at h = 0? And which two rows of A does a pair i < j touch?",
)
def gradient_A(work, B, A, h, G):
    expect_gradient(gradient(work, 1, B, A, h, G), true_gradient(1, B, A, h, G), 1)


@check(
    2,
    "the gradient by B, without squares",
    "gradients",
    examples=layers("cross", G="m k"),
    hint="as by A: ΔWᵀ is the update of Aᵀ, Bᵀ and the same h",
)
def gradient_B(work, B, A, h, G):
    expect_gradient(gradient(work, 0, B, A, h, G), true_gradient(0, B, A, h, G), 0)


def without_squares(work, which):
    """By which number the gradient is wrong where there are no squares; None if by no number."""
    given = TALL, WIDE, np.array([0.0, 2.0, 0.0]), TALL @ S @ WIDE
    return ratio(gradient(work, which, *given), true_gradient(which, *given))


@check(
    2,
    "what squares add to the gradients by A and B",
    "gradients",
    examples=layers("square", G="m k"),
    count=40,
    hint="what is the derivative of u² by u?",
)
def gradient_squares(work, B, A, h, G):
    times = {which: without_squares(work, which) for which in (1, 0)}
    expect(any(times.values()), "∂L/∂A and ∂L/∂B are wrong without squares: look at those first")
    for which, c in times.items():
        if c is None:
            continue  # that is one of the checks above
        expected = [true_gradient(which, B, A, some, G) for some in (h, 0 * h)]
        got = [gradient(work, which, B, A, some, G) for some in (h, 0 * h)]
        expect_equal(
            (got[0] - got[1]) / c,
            expected[0] - expected[1],
            1e-6,
            what=f"{NAMES[which]} at this h, less that at h = 0",
        )


# --- polynomial in what? --------------------------------------------------------------------------


def contrast(x, B, A):
    return np.array(
        [
            [sum(B[p, k] * np.dot(A[k], row) ** 2 for k in range(len(A))) for p in range(len(B))]
            for row in x
        ]
    )


def contrast_is_right(work):
    """On square matrices, where a forgotten transpose raises nothing."""
    got = parts(work.answers(S, S + 1, S + 5, np.zeros(3)), "PERA", "contrast")[1]
    return ratio(got, contrast(S, S + 1, S + 5)) == 1


def turned(work):
    """Whether the two answers come in the other order."""
    got = parts(work.answers(S, S + 1, S + 5, np.zeros(3)), "PERA", "contrast")[0]
    return ratio(got, contrast(S, S + 1, S + 5)) == 1


@check(
    1,
    "PERA's answer is linear in x",
    "answers",
    examples=arrays(x="T k", y="T k", B="k k", A="k k"),
    count=30,
    hint="may entries of x be multiplied by one another?",
)
def answer_linear(work, x, y, B, A):
    h = np.ones(len(both(len(A))))
    place = int(turned(work))
    got = [parts(work.answers(some, B, A, h), "PERA", "contrast")[place] for some in (x, y, x + y)]
    for one in got:
        expect_equal(one, np.zeros((len(x), len(B))), np.inf)
    one, other, whole = (np.asarray(some, dtype=float) for some in got)
    expect(
        np.abs(whole - one - other).max() <= 1e-6 * max(1.0, np.abs(whole).max()),
        f"every h = 1: f(x) = {show(one)} and f(y) = {show(other)}, and f(x + y) = {show(whole)}",
    )


@check(
    1,
    "PERA's answer comes first, and reads off ΔW",
    "answers",
    examples=layers(),
    count=40,
    hint="what is x ΔWᵀ, if x has a single 1?",
)
def answer_delta(work, B, A, h):
    if len({*B.shape, *A.shape}) > 1 and not contrast_is_right(work):
        return  # x @ A raises here: that is the check below

    def f(B, A, h):
        return np.asarray(parts(work.answers(np.eye(A.shape[1]), B, A, h), "PERA", "contrast")[0]).T

    got = parts(work.answers(np.eye(A.shape[1]), B, A, h), "PERA", "contrast")[0]
    expect_sum(got, entrywise(B, A, h).T, f, "x = the identity, PERA's answer")


@check(
    1,
    "the contrast squares z",
    "answers",
    examples=arrays(x="T k", B="k k", A="k k"),
    count=30,
    hint="z = x Aᵀ: what is squared, and what is multiplied by Bᵀ?",
)
def answer_contrast(work, x, B, A):
    got = parts(work.answers(x, B, A, np.zeros(len(both(len(A))))), "PERA", "contrast")
    expect_equal(got[0 if turned(work) else 1], contrast(x, B, A), 1e-6, "the contrast's answer")


# --- all functions --------------------------------------------------------------------------------

H = np.array([2.0, -1.0, 3.0])


# The grader sees whether an argument was changed, and says so in the check of this name alone.
@check(
    1,
    "no function changes its arguments",
    "expand",
    "update",
    "phi",
    "central",
    "gradients",
    "answers",
    hint="`+=`, `*=` and `x[k] = ...` on an argument change the caller's array: copy it first",
    alone=True,
)
def untouched(work):
    work.expand(S, S + 1, H)
    work.update(S, S + 1, H)
    work.phi(S[0], H)
    work.central(lambda X: float(np.sum(X)), S, 0.5)
    work.gradients(S, S + 1, H, S + 2)
    work.answers(S, S + 1, S + 2, H)


def part(got, k):
    """One of several answers; None where there are none: that is for the other checks."""
    return got[k] if isinstance(got, list | tuple) and len(got) > k else None


def rounds(call):
    """Whether call(t) depends on t, but not on its ninth digit."""
    at = [call(t) for t in (1.0, 2.0, 1 - 2.0**-30)]
    return not np.array_equal(at[0], at[1]) and np.array_equal(at[0], at[2])


@check(
    1,
    "nothing is rounded to float32",
    "expand",
    "update",
    "phi",
    "central",
    "gradients",
    "answers",
    hint="float32 has seven digits, float64 sixteen: which dtype do your arrays have?",
)
def precise(work):
    B, A = S, S + 1
    calls = {
        "B in expand": lambda t: part(work.expand(B * t, A, H), 0),
        "h in expand": lambda t: part(work.expand(B, A, H * t), 1),
        "B in update": lambda t: work.update(B * t, A, H),
        "h in update": lambda t: work.update(B, A, H * t),
        "u in phi": lambda t: work.phi(S[0] * t, H),
        "f in central": lambda t: work.central(lambda X: float(np.sum(t * X)), S, 0.5),
        "x in answers, PERA": lambda t: part(work.answers(S * t, B, A, H), 0),
        "x in answers, the contrast": lambda t: part(work.answers(S * t, B, A, H), 1),
        "G in ∂L/∂B": lambda t: part(work.gradients(B, A, H, S * t), 0),
        "G in ∂L/∂A": lambda t: part(work.gradients(B, A, H, S * t), 1),
        "G in ∂L/∂h": lambda t: part(work.gradients(B, A, H, S * t), 2),
    }
    for name, call in calls.items():
        expect(not rounds(call), f"{name}: a change in the ninth digit does not change the answer")
