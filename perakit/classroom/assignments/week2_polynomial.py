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
#   down; nothing crashes. The grader's example has rank 2 and one coefficient that is not zero.
# - *All ordered pairs.* A sum over all i and j counts cross terms twice: with every h = 1 that is
#   (BA)∘(BA), a special case of PERA, and not PERA.
# - *h in both factors* of the expansion: the product then has h². In Poly2(B) alone it gives the
#   right product and the wrong factors; only one check sees it.
# - *The square's factor 2.* Vectorised code that assigns to rows (`to_A[i] += ...` with an index
#   array) silently keeps one of several additions; `np.add.at` or a loop adds them all.
# - *Differences in place.* `x[k] += step` changes the caller's array, and the grader says so if it
#   is not put back.
#
# All examples are small whole numbers, on which central differences of a quadratic are exact: the
# checks of the gradients compare with those, not with a second derivation.
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


def polynomial(u, h):
    """φ_h(u), of r numbers, or of r arrays entry by entry."""
    total, k = sum(u), 0
    for i in range(len(u)):
        for j in range(i, len(u)):
            total, k = total + h[k] * u[i] * u[j], k + 1
    return total


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


def listed(work, rank, *terms):
    i, j = parts(work.pairs(rank, *terms), "i", "j")
    return list(zip(np.ravel(i).tolist(), np.ravel(j).tolist(), strict=False))


def gradient(work, which, B, A, h, G):
    """One of the three gradients, 0 by B, 1 by A, 2 by h."""
    name = ("∂L/∂B", "∂L/∂A", "∂L/∂h")[which]
    got = parts(work.gradients(B, A, h, G), "∂L/∂B", "∂L/∂A", "∂L/∂h")[which]
    expect(got is not None, f"{name} is still None")
    shape = (B, A, h)[which].shape
    try:
        array = np.asarray(got, dtype=float)
    except (TypeError, ValueError):
        fail(f"{name}: expected an array of shape {shape} got {show(got)}")
    expect(array.shape == shape, f"{name}: expected the shape {shape} got {array.shape}")
    return array


@check(
    1,
    "each pair i <= j is there, once",
    "pairs",
    examples=drawn({"rank": ranks}),
    hint="i = j belongs to it, and (1, 0) does not",
)
def pairs_all(work, rank):
    expected = {(i, j) for i in range(rank) for j in range(i, rank)}
    got = listed(work, rank)
    expect(
        set(got) == expected and len(got) == len(expected), f"expected {sorted(expected)} got {got}"
    )


@check(
    1,
    "the pairs come row by row",
    "pairs",
    examples=drawn({"rank": ranks}),
    hint="the row is i: (0, 0), (0, 1), (0, 2), (1, 1) ...",
)
def pairs_order(work, rank):
    for terms in ("full", "square", "cross"):
        got = listed(work, rank, terms)
        expect(
            terms != "full" or len(got) >= rank * (rank - 1) // 2,
            f"expected {rank * (rank + 1) // 2} pairs got {got}",
        )
        expect(got == sorted(got), f"{terms}: expected the order {sorted(got)} got {got}")


@check(
    1,
    "squares are i = j, cross terms i < j",
    "pairs",
    examples=drawn({"rank": ranks, "terms": st.sampled_from(["square", "cross"])}),
    hint="together they are all pairs",
)
def pairs_terms(work, rank, terms):
    expected = {
        (i, j) for i in range(rank) for j in range(i, rank) if (i == j) == (terms == "square")
    }
    got = listed(work, rank, terms)
    expect(
        set(got) == expected and len(got) == len(expected), f"expected {sorted(expected)} got {got}"
    )


@check(
    1,
    "linear features first, then the pairs",
    "expand",
    examples=arrays(B="m r", A="r n"),
    hint="[b_i ; b_i∘b_j], the products in the order of np.triu_indices",
)
def expand_order(work, B, A):
    rank = len(A)
    both = [(i, j) for i in range(rank) for j in range(i, rank)]
    left, right = parts(work.expand(B, A, np.ones(len(both))), "Poly2(B)", "Poly2_H(A)")
    expect_equal(
        left,
        np.array([*B.T, *(B[:, i] * B[:, j] for i, j in both)]).T,
        what="with every h = 1, Poly2(B)",
    )
    expect_equal(
        right, np.array([*A, *(A[i] * A[j] for i, j in both)]), what="with every h = 1, Poly2_H(A)"
    )


@check(
    1,
    "h stands in the second factor only",
    "expand",
    examples=layers(),
    hint="Eq. 2: Poly2(B) knows nothing of h",
)
def expand_h(work, B, A, h):
    with_h = parts(work.expand(B, A, h), "Poly2(B)", "Poly2_H(A)")[0]
    without = parts(work.expand(B, A, np.zeros(len(h))), "Poly2(B)", "Poly2_H(A)")[0]
    shape = (len(B), len(A) + len(h))
    expect(np.shape(with_h) == shape, f"Poly2(B): expected the shape {shape} got {show(with_h)}")
    same = np.array_equal(with_h, without)
    expect(
        same,
        f"Poly2(B) depends on h: with this h it is {show(with_h)}, with h = 0 it is"
        f" {show(without)}",
    )


@check(
    2,
    "the product of the two factors is ΔW",
    "expand",
    examples=layers(),
    hint="row k of the products of A is multiplied by h[k]",
)
def expand_product(work, B, A, h):
    left, right = map(np.asarray, parts(work.expand(B, A, h), "Poly2(B)", "Poly2_H(A)"))
    fits = left.ndim == right.ndim == 2 and left.shape[1] == right.shape[0]
    expect(
        fits, f"shapes {left.shape} and {right.shape} do not multiply: (m, K) and (K, n) are needed"
    )
    expect_equal(left @ right, entrywise(B, A, h), what="the product")


@check(
    1,
    "K features, and so many numbers are trained",
    "counts",
    examples=drawn({"m": st.integers(1, 9), "n": st.integers(1, 9), "rank": ranks}),
    hint="K = r + r + r(r-1)/2; trained are the entries of B, of A and of h",
)
def counted(work, m, n, rank):
    bound, trained = parts(work.counts(m, n, rank), "K", "trained")
    products = sum(1 for i in range(rank) for _ in range(i, rank))
    expect_equal(bound, rank + products, what="K")
    expect_equal(trained, m * rank + rank * n + products, what="trained parameters")


@check(
    2,
    "the update is Eq. 9",
    "update",
    examples=layers(),
    hint="each pair i <= j counts once, with its own h, in the order of np.triu_indices",
)
def updated(work, B, A, h):
    expect_equal(work.update(B, A, h), entrywise(B, A, h))


@check(
    2,
    "φ is the polynomial of one entry",
    "phi",
    examples=layers().map(lambda example: {"u": example["A"][:, 0], "h": example["h"]}),
    hint="u_i alone has the coefficient 1, u_i u_j has h_ij, each pair once",
)
def entry(work, u, h):
    expect_equal(work.phi(u, h), polynomial(u, h))


@check(
    1,
    "the differences are central: exact on squares",
    "central",
    examples=drawn({"c": st.integers(-3, 3), "x": st.integers(-3, 3)}),
    hint="one step forward and one back, divided by both",
)
def central_exact(work, c, x):
    got = work.central(lambda X: c * float(np.sum(np.square(X))), np.array([float(x)]), 0.5)
    expect_equal(got, np.array([2.0 * c * x]), what="f(x) = c x², step 0.5")
    got = work.central(lambda X: c * float(np.sum(X**3)), np.array([float(x)]), 0.5)
    expect_equal(
        got,
        np.array([c * (3.0 * x**2 + 0.25)]),
        what="f(x) = c x³, step 0.5, which adds c step² to the derivative",
    )


@check(
    1,
    "they change one entry at a time",
    "central",
    examples=arrays(x="m n", c="m n"),
    hint="the result has the shape of x; np.ndindex(x.shape) runs over all entries",
)
def central_entries(work, x, c):
    expect_equal(
        work.central(lambda X: float(np.sum(c * X)), x, 0.5), c, what="f(x) = Σ c∘x, step 0.5"
    )


@check(
    2,
    "the gradient by h",
    "gradients",
    examples=layers(G="m k"),
    hint="∂L/∂h_ij = (b_i∘b_j)ᵀ G (a_i∘a_j): h is not in it",
)
def gradient_h(work, B, A, h, G):
    expected = slope(lambda X: np.sum(G * entrywise(B, A, X)), h)
    expect_equal(gradient(work, 2, B, A, h, G), expected, what="∂L/∂h")


@check(
    2,
    "the gradient by A, without squares",
    "gradients",
    examples=layers("cross", G="m k"),
    hint="Bᵀ G, and each pair gives row i a part with a_j, and row j one with a_i",
)
def gradient_A(work, B, A, h, G):
    expected = slope(lambda X: np.sum(G * entrywise(B, X, h)), A)
    expect_equal(gradient(work, 1, B, A, h, G), expected, what="∂L/∂A")


@check(
    2,
    "the gradient by B, without squares",
    "gradients",
    examples=layers("cross", G="m k"),
    hint="as by A: ΔWᵀ is the update of Aᵀ, Bᵀ and the same h",
)
def gradient_B(work, B, A, h, G):
    expected = slope(lambda X: np.sum(G * entrywise(X, A, h)), B)
    expect_equal(gradient(work, 0, B, A, h, G), expected, what="∂L/∂B")


@check(
    2,
    "what squares add to the gradients by A and B",
    "gradients",
    examples=layers("square", G="m k"),
    hint="the derivative of u² is 2u: i = j counts twice",
)
def gradient_squares(work, B, A, h, G):
    zero = np.zeros(len(h))
    by_A = slope(lambda X: np.sum(G * (entrywise(B, X, h) - entrywise(B, X, zero))), A)
    by_B = slope(lambda X: np.sum(G * (entrywise(X, A, h) - entrywise(X, A, zero))), B)
    for which, expected, name in ((1, by_A, "A"), (0, by_B, "B")):
        added = gradient(work, which, B, A, h, G) - gradient(work, which, B, A, zero, G)
        expect_equal(added, expected, what=f"∂L/∂{name} at this h, less that at h = 0")


@check(
    2,
    "PERA is linear in its input, the contrast is not",
    "answers",
    examples=layers(x="T k"),
    hint="PERA multiplies rows of A and never entries of x: first make ΔW, then x ΔWᵀ",
)
def inputs(work, x, B, A, h):
    linear, squared = parts(work.answers(x, B, A, h), "PERA", "contrast")
    expect_equal(linear, x @ entrywise(B, A, h).T, what="PERA's answer")
    expected = [
        [sum(B[p, k] * np.dot(A[k], row) ** 2 for k in range(len(A))) for p in range(len(B))]
        for row in x
    ]
    expect_equal(squared, np.array(expected), what="the contrast's answer")
