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
# # 04 Rank, and what "without increasing rank" means
#
# The abstract of the PERA paper says that its update becomes more expressive "without increasing
# rank" (arXiv 2604.11841). By the end of this notebook you can say in which sense that is true and
# in which it is not. You can also measure a rank so that the number means something: exactly for
# whole numbers, and with a stated tolerance and gap for floats.
#
# You need the expansion of [notebook 02](02_polynomial_expansion.ipynb) and the formula of
# [notebook 03](03_equation_nine.ipynb). About 30 minutes to read, about 10 seconds to run.

# %%
from fractions import Fraction

import matplotlib.pyplot as plt
import numpy as np

import perakit as pk
from perakit import formulas, plots, theory

plt.style.use(plots.STYLE)

# %% [markdown]
# ## Rank is a number of terms
#
# The product $x y^\top$ of a column and a row, neither of them zero, is called a *rank-one* matrix:
# all of its rows are multiples of one row. The **rank** of a matrix is the smallest number of
# rank-one matrices that add up to it. Equally, it is the number of rows that are left when the
# others have been reduced to zero by elimination.
#
# The second description is an algorithm. Here it is by hand, with `Fraction`, Python's exact
# rational numbers, so that nothing is rounded. `.tolist()` turns NumPy's numbers into Python's own,
# which never overflow.


# %%
def rank_by_elimination(M):
    rows = [[Fraction(x) for x in row] for row in np.asarray(M).tolist()]
    rank = 0
    for column in range(len(rows[0])):
        pivot = next((k for k in range(rank, len(rows)) if rows[k][column] != 0), None)
        if pivot is None:
            continue  # nothing to eliminate with in this column
        rows[rank], rows[pivot] = rows[pivot], rows[rank]
        for k in range(rank + 1, len(rows)):
            factor = rows[k][column] / rows[rank][column]
            rows[k] = [x - factor * y for x, y in zip(rows[k], rows[rank], strict=True)]
        rank += 1
    return rank


# %% [markdown]
# A sum of three random rank-one matrices should have rank 3, and never more. perakit has the same
# function under the name `theory.exact_rank`; the two must agree.

# %%
rng = np.random.default_rng(0)
columns, rows = rng.integers(-3, 4, (3, 6)), rng.integers(-3, 4, (3, 8))
M = sum(np.outer(x, y) for x, y in zip(columns, rows, strict=True))  # (6, 8), three terms

print("rank", rank_by_elimination(M), "of a matrix of shape", M.shape)
assert rank_by_elimination(M) == theory.exact_rank(M) == 3

# %% [markdown]
# ## How many terms does an update have?
#
# A LoRA update of rank $r$ is $\Delta W = BA = \sum_i b_i a_i^\top$: $r$ rank-one terms, so its
# rank is at most $r$ (arXiv 2106.09685, Eq. 3). A PERA update adds one more for every pair $i \le
# j$ (arXiv 2604.11841, Eq. 9):
#
# $$\Delta W = \sum_{i} b_i a_i^\top + \sum_{i \le j} h_{ij}\,(b_i \circ b_j)(a_i \circ a_j)^\top
# .$$
#
# Each product is again a column times a row, so it too is a rank-one matrix. There are $r$ linear
# terms and $r(r+1)/2$ products. Together they are
#
# $$K = r + \frac{r(r+1)}{2} = \frac{r(r+3)}{2},$$
#
# and that count is all there is to the proof of $\operatorname{rank} \Delta W \le K$. What do you
# expect $K$ to be at $r = 16$?

# %%
for r in (1, 2, 4, 8, 16, 32):
    pairs = sum(1 for i in range(r) for j in range(i, r))
    print(f"r = {r:2}: {r:2} linear terms + {pairs:3} products = K = {r + pairs}")
    assert r + pairs == r * (r + 3) // 2 == formulas.rank_bound(r)

# %% [markdown]
# $K$ grows with the *square* of $r$: 152 at $r = 16$. It is an upper bound, one that counts terms.
# Whether an update has that rank is a question to be measured.
#
# ## "Without increasing rank"
#
# Predict before you run. We draw whole numbers for $B$, $A$ and $h$ at $r = 4$, so that $\Delta W$
# is a matrix of whole numbers and its rank is exact. Is it 4?

# %%
m, n, r = 40, 50, 4
B, A, h = (
    rng.integers(-9, 10, (m, r)),
    rng.integers(-9, 10, (r, n)),
    rng.integers(1, 10, r * (r + 1) // 2),
)

print("columns of B:", B.shape[1])
print("rank of LoRA's update:", rank_by_elimination(formulas.lora(B, A)))
print("rank of PERA's update:", rank_by_elimination(formulas.pera(B, A, h)))
assert rank_by_elimination(formulas.lora(B, A)) == 4
assert rank_by_elimination(formulas.pera(B, A, h)) == formulas.rank_bound(4) == 14

finding = theory.claims["without-increasing-rank"].check()
print(finding)
assert finding.holds

# %% [markdown]
# So the phrase mixes two numbers that LoRA taught us not to tell apart, because in LoRA they are
# equal.
#
# - The number of columns of the factors, the **setting** $r$, is the same for both. In this sense
#   nothing was increased, and the trainable parameters are LoRA's and $r(r+1)/2$ coefficients $h$.
# - The **rank of the update** went from 4 to 14. That the update leaves the matrices of rank $\le
#   r$ is what the method is for.
#
# perakit files the phrase under *qualified*, true in one sense and not in another: the last two
# lines of the output are its own check, at random factors.
#
# ## Which terms give which rank?
#
# `theory.measured_rank(m, n, r, terms, degree)` puts random whole numbers into the rule, as we did,
# and takes the exact rank of the result. (It computes modulo a prime, which is fast, and which can
# miss a rank only downwards. So a rank that meets its upper bound is proved, and `repr` says so;
# else two primes are drawn with, and it names the chance that both missed.) Let us ask it for LoRA,
# for PERA with the cross terms only ($i < j$, arXiv 2604.11841, Eq. 11), with squares only
# ($i = j$, Eq. 10), with both, and with all products up to degree 3, which the paper leaves open.
#
# Which has the larger rank at $r = 2$, squares or cross terms? And at $r = 8$?

# %%
families = {
    "LoRA": ("none", 2),
    "cross only": ("cross", 2),
    "squares only": ("square", 2),
    "PERA": ("full", 2),
    "degree 3": ("full", 3),
}
ranks = range(1, 9)
measured = {
    name: [theory.measured_rank(m, n, r, *family) for r in ranks]
    for name, family in families.items()
}

print("r".ljust(13), *(f"{r:3}" for r in ranks))
for name, found in measured.items():
    print(name.ljust(13), *(f"{k:3}" for k in found))
assert measured["PERA"] == [min(m, n, formulas.rank_bound(r)) for r in ranks]
assert measured["squares only"] == [2 * r for r in ranks]
assert measured["cross only"] == [r + r * (r - 1) // 2 for r in ranks]

_, ax = plt.subplots()
ax.axhline(min(m, n), color="0.45", linewidth=1)
ax.text(1, min(m, n) + 0.7, f"min(m, n) = {min(m, n)}", color="0.35")
# Open markers of different sizes: where two curves meet, both are seen
markers = zip(families, "osD^v", ("-", "--", ":", "-", "-."), (5, 9, 6, 8, 11), strict=True)
for name, marker, line, size in markers:
    style = {"marker": marker, "markersize": size, "fillstyle": "none", "linestyle": line}
    ax.plot(ranks, measured[name], **style, label=name)
ax.set(
    xlabel="rank setting r",
    ylabel="rank of the update ΔW",
    title=f"Rank of a random update on a {m} × {n} layer",
    ylim=(0, 45),
)
_ = ax.legend(
    *(x[::-1] for x in ax.get_legend_handles_labels()), loc="upper left", bbox_to_anchor=(0, 0.87)
)

# %% [markdown]
# Random factors reach the bound: the measured rank of PERA is $\min(m, n, K)$ at each $r$. Squares
# add $r$ terms, and lead at first. Cross terms add $r(r-1)/2$, none at $r = 1$, draw level at $r =
# 3$, and lead after that. Above the grey line there is nothing: a $40 \times 50$ matrix has rank at
# most 40, so a larger $K$ says nothing more.
#
# Read the verdicts with care. $\operatorname{rank} \le K$ is *proved*, by counting terms. That
# random factors reach it is *verified*: seen in each of many draws, which is not a proof.
#
# ## Two ranks for floats
#
# The factors of a trained adapter are floats. Now rank has two meanings, and each of them can
# mislead. First: the matrix $\operatorname{diag}(1, 10^{-17})$. What is its rank?

# %%
X = np.diag([1, 1e-17])
print("exact rank:     rank", theory.exact_rank(X))
print("numerical rank:", theory.numerical_rank(X))

# %% [markdown]
# Both answers are right, to different questions.
#
# - The **exact rank** takes the entries as the numbers that they are. $10^{-17}$ is not zero, so
#   the rank is 2.
# - The **numerical rank** asks how many *singular values* are too large to be a rounding error.
#   (The singular values $\sigma_1 \ge \sigma_2 \ge \dots \ge 0$ of a matrix are the factors by
#   which it stretches along its principal directions; as many of them are nonzero as the rank
#   says.) It counts those above a tolerance, by default $\max(m, n) \cdot \varepsilon \cdot
#   \sigma_1$, where $\varepsilon$ is the relative rounding error of the number format.
#
# The printed form says all three things that one needs: the count, the **tolerance**, and the
# **gap**, the last counted singular value over the next one (over the tolerance, where none is
# left). With a gap of $10^{17}$ any tolerance in between would have given the same answer.
#
# With floats the exact rank can mislead just as well. Here is a product of one column and one row.
# What is its rank?

# %%
product = np.outer(rng.uniform(size=4), rng.uniform(size=4))
print("exact rank of the rounded product: rank", theory.exact_rank(product))
print("numerical rank:                   ", theory.numerical_rank(product))
assert theory.exact_rank(product) > 1
assert theory.numerical_rank(product).rank == 1

# %% [markdown]
# Each of the sixteen products was rounded to 53 binary digits, and the rounding errors of one row
# are not a multiple of those of another. Taken literally, the matrix is not rank one any more. So:
# **exact rank for whole numbers and fractions, numerical rank for the results of float
# arithmetic.**
#
# ### The product trap
#
# A theorem says $\operatorname{rank}(XY) \le \min(\operatorname{rank} X, \operatorname{rank} Y)$.
# It is the reason why LoRA's rank is at most $r$. A test of it with floats, with $X$ as above and
# its mirror image $Y$:

# %%
Y = np.diag([1e-17, 1])
for name, matrix in (("X", X), ("Y", Y), ("X Y", X @ Y)):
    print(
        f"{name:4} numerical {theory.numerical_rank(matrix)}; exact rank"
        f" {theory.exact_rank(matrix)}"
    )
assert [theory.numerical_rank(M).rank for M in (X, Y, X @ Y)] == [1, 1, 2]
assert [theory.exact_rank(M) for M in (X, Y, X @ Y)] == [2, 2, 2]

# %% [markdown]
# The product of two matrices of numerical rank 1 has numerical rank 2. The theorem is not broken:
# it is about exact rank, and the last column obeys it. The product is $10^{-17}$ times the
# identity. Its singular values are equal, and "large" and "small" are judged against the largest,
# which is now tiny itself. A property-based test of the theorem with numerical rank *will* find
# this ([notebook 13](13_property_testing.ipynb)).
#
# ### When there is no gap
#
# Some spectra have no edge at all. The next matrix has the singular values $1, 10^{-1}, 10^{-2},
# \dots, 10^{-19}$.

# %%
staircase = np.diag(10.0 ** -np.arange(20))
found = theory.numerical_rank(staircase)
print(found)
assert found.rank == 15
assert not found.clear
assert theory.exact_rank(staircase) == 20

# %% [markdown]
# It says *not clear*: the count of 15 is an answer about the tolerance, not about the matrix.
# perakit calls a numerical rank clear where the gap is at least 1000.
#
# ## Spectra: a picture says more than a count
#
# The **spectrum** of an update is the list of its singular values. Plotted on a logarithmic axis,
# the rank is where the curve falls off a cliff. Here are float updates of a $64 \times 64$ layer at
# $r = 4$, from Gaussian factors.

# %%
m = n = 64
r, K = 4, formulas.rank_bound(4)
rng = np.random.default_rng(1)
gaussian = rng.standard_normal((m, r)), rng.standard_normal((r, n)), rng.standard_normal(K - r)

updates = {"PERA": formulas.pera(*gaussian), "LoRA (h = 0)": formulas.lora(*gaussian[:2])}
ax = plots.plot_spectra(
    {name: theory.spectrum(delta) for name, delta in updates.items()}, rank=r, bound=K
)
ax.set_ylim(1e-16, 1e6)  # room for the names of the two lines
for name, delta in updates.items():
    print(f"{name:12} {theory.numerical_rank(delta)}")
assert [theory.numerical_rank(delta).rank for delta in updates.values()] == [K, r]
assert all(theory.numerical_rank(delta).gap > 1e10 for delta in updates.values())

# %% [markdown]
# LoRA falls after the fourth value, PERA after the fourteenth, both by more than ten orders of
# magnitude, into the noise of rounding. What lies down there is not part of the update. The gap is
# huge, so these ranks are clear.
#
# ## Rank 14, but only barely
#
# Gaussian factors are not what training gives. At the usual start $B$ and $h$ are zero, and $A$ has
# entries of size about $(3n)^{-1/2}$; a few hundred steps of a small learning rate leave all of
# them small. The factors below are drawn with such sizes; nothing was trained for them.
#
# A product $b_i \circ b_j$ multiplies two small numbers, $a_i \circ a_j$ does so again, and
# $h_{ij}$ is a fifth small factor. What do you expect the last ten singular values to look like?

# %%
rng = np.random.default_rng(1)
B = 0.03 * rng.standard_normal((m, r))
A = rng.uniform(-1, 1, (r, n)) / n**0.5  # Kaiming's start: variance 1/(3n)
h = 0.03 * rng.standard_normal(K - r)
small = B, A, h

# Of the factors (m, K) and (K, n): accurate for tiny values too
values = theory.spectrum(formulas.expand(*small))
print("first four: ", values[:4])
print("last ten:   ", values[4:])
assert values[4] < 1e-3 * values[3]

update = formulas.pera(*small)
in_double, in_single = (
    theory.numerical_rank(update),
    theory.numerical_rank(update.astype(np.float32)),
)
print("float64:", in_double)
print("float32:", in_single)
assert (in_double.rank, in_double.clear, in_single.clear) == (14, True, False)

# %% [markdown]
# Four singular values carry the update, ten are thousands of times smaller. Is its rank 14? That
# depends on who asks. In double precision it has rank 14, clearly. In single precision, in which
# many adapters are trained, some of the fourteen directions are below what rounding does to the
# matrix, and the number is not clear. The rank is $K$, but barely.
#
# A rank *counts* directions and does not weigh them. Two other numbers weigh:
#
# - the **stable rank** $\sum_i \sigma_i^2 / \sigma_1^2$,
# - the **effective rank** $\exp(-\sum_i p_i \log p_i)$ with $p_i = \sigma_i / \sum_k \sigma_k$: so
#   many equal singular values would have the same entropy (Roy and Vetterli, EUSIPCO 2007).
#
# Both are 14 when fourteen singular values are equal, and neither notices a value that is next to
# nothing. Beside them we print `order_share`, the norm of the polynomial part over that of the
# linear part. First by hand:


# %%
def stable_rank(s):
    return np.sum(s**2) / s[0] ** 2


def effective_rank(s):
    p = s[s > 0] / s.sum()
    return np.exp(-np.sum(p * np.log(p)))


for name, factors in {"Gaussian": gaussian, "small": small}.items():
    s = theory.spectrum(formulas.expand(*factors))
    assert np.isclose(stable_rank(s), theory.stable_rank(formulas.pera(*factors)))
    assert np.isclose(effective_rank(s), theory.effective_rank(formulas.pera(*factors)))
    share = float(theory.order_share(factors))
    print(
        f"{name:9} stable {stable_rank(s):5.2f}, effective {effective_rank(s):5.2f}, order share"
        f" {share:.2%}"
    )
assert 3.9 < theory.effective_rank(formulas.pera(*small)) < 4
assert theory.order_share(gaussian).overall > 1 > 1000 * theory.order_share(small).overall

# %% [markdown]
# The small factors have an effective rank just below 4, as a LoRA update of rank 4 could have, and
# their polynomial part is about a ten-thousandth of the linear part. With the Gaussian factors,
# whose entries are about 1, the products are larger than the linear part. (Their stable rank is low
# all the same: one singular value stands out.)
#
# None of this says whether ten tiny directions matter to a trained network. That is [an open
# question](../docs/claims.md#gain-is-high-order), which [notebook 10](10_fine_tuning.ipynb) takes
# up. It does say that "the update has rank $K$" is no evidence either way.
#
# ## Where the bound is not reached
#
# Take factors whose entries are all $+1$ or $-1$. Then each square $b_i \circ b_i$ is the column of
# ones, and so is each $a_i \circ a_i$. The $r$ square terms are all multiples of one matrix, and
# count as one: $r + 1 + r(r-1)/2 = r(r+1)/2 + 1$ terms are left. At $r = 4$ that makes 11 instead
# of 14. Whole numbers again, so the check of 50 draws is exact. The figure then shows the three
# kinds of factors side by side: where does each curve end, and how deep has it fallen before?

# %%
most = 0
for seed in range(50):
    rng = np.random.default_rng(seed)
    signs = rng.choice((-1, 1), (16, r)), rng.choice((-1, 1), (r, 18)), rng.integers(1, 9, K - r)
    most = max(most, theory.exact_rank(formulas.pera(*signs)))
print(f"largest rank of 50 updates from sign factors: {most}, bound K = {K}")
assert most == r * (r + 1) // 2 + 1 == 11

rng = np.random.default_rng(1)
signs = (
    rng.choice((-1.0, 1.0), (m, r)),
    rng.choice((-1.0, 1.0), (r, n)),
    rng.integers(1, 9, K - r).astype(float),
)
spectra = {
    name: theory.spectrum(formulas.expand(*factors))
    for name, factors in (("Gaussian", gaussian), ("signs", signs), ("small", small))
}
ax = plots.plot_spectra(spectra, rank=r, bound=K)
ax.set(title="PERA at r = 4: three kinds of factors, three answers", ylim=(1e-17, 1e4))
_ = ax.legend(loc="lower left")

# %% [markdown]
# The Gaussian curve goes on to $K$ without a fall. The sign curve falls off after the eleventh
# value, into rounding. The small factors make a step *down* after $r = 4$ and go on, far below,
# to 14. A real training run gives the same picture: see the spectra in [the theory
# page](../docs/theory.md#what-is-its-rank).
#
# How clear a rank is can be seen in one more way: count the singular values above *every*
# tolerance. A clear rank is a long flat step.

# %%
tolerances = np.logspace(-16, 0.5, 400)  # as shares of the largest singular value
_, ax = plt.subplots()
shown = {
    "Gaussian": spectra["Gaussian"],
    "small": spectra["small"],
    "diag(1, 0.1, 0.01, …)": np.diag(staircase),
}
for (name, s), line, width in zip(shown.items(), ("-", "--", ":"), (6, 1.8, 1.8), strict=True):
    above = [(s > t * s[0]).sum() for t in tolerances]
    # The first two coincide at 14: the one below is wide and pale
    ax.step(tolerances, above, line, linewidth=width, alpha=0.4 if width > 5 else 1, label=name)
for epsilon, name in ((1.2e-7, "float32"), (2.2e-16, "float64")):
    ax.axvline(64 * epsilon, color="0.45", linewidth=1)
    ax.text(64 * epsilon, 18.5, f" {name}'s default", color="0.35")
ax.set(
    xscale="log",
    xlabel="tolerance, as a share of σ₁",
    ylabel="singular values above it",
    ylim=(0, 20),
    yticks=range(0, 21, 2),
)
ax.set_title("A clear rank is a long flat step")
_ = ax.legend(loc="lower left")

# %% [markdown]
# The grey lines are the default tolerance of a $64 \times 64$ matrix in either format. Gaussian
# factors give 14 at both. The small factors have *two* steps: a long one at 4, and one at 14 that
# begins only further left; the float32 line cuts the stairs between them. For the staircase matrix
# each answer is as good as the next.
#
# ## Other ways to a high rank
#
# Elementwise products raise rank elsewhere, too. If $X$ is a sum of $p$ rank-one terms and $Y$ of
# $q$, then multiplying out gives $X \circ Y$ as a sum of $pq$ terms $(x_i \circ u_j)(y_i \circ
# v_j)^\top$. So $\operatorname{rank}(X \circ Y) \le \operatorname{rank} X \cdot \operatorname{rank}
# Y$. Two cases:
#
# - HiRA's update is $W_0 \circ (BA)$ (HiRA, ICLR 2025): rank at most $\operatorname{rank}(W_0)\,
#   r$, whatever the frozen weight offers.
# - In the square $(BA) \circ (BA)$ the terms $(i, j)$ and $(j, i)$ are the same matrix, so
#   $r(r+1)/2$ are left.
#
# Both on whole numbers, with a frozen weight of rank 5:

# %%
rng = np.random.default_rng(2)
r, W0 = 3, rng.integers(-5, 6, (24, 5)) @ rng.integers(-5, 6, (5, 30))  # (24, 30), rank 5
B, A = rng.integers(-5, 6, (24, r)), rng.integers(-5, 6, (r, 30))

hira, square = theory.exact_rank(formulas.hira(W0, B, A)), theory.exact_rank((B @ A) * (B @ A))
print(
    f"rank(W0) = {theory.exact_rank(W0)}, r = {r}: HiRA's update has rank {hira}, (BA)∘(BA) has"
    f" rank {square}"
)
assert hira == theory.exact_rank(W0) * r == 15
assert square == r * (r + 1) // 2 == 6

# %% [markdown]
# A weight of full rank lets HiRA have full rank at $r = 1$. A count of ranks therefore puts no
# order on methods: it measures how complicated *one* update can be, and not how many different
# updates there are.
#
# ## Rank is not dimension
#
# The clearest example has a single parameter. The family $\{c \cdot I\}$ of multiples of the
# identity has updates of full rank, and can do next to nothing: it fills one **dimension**. The
# dimension of a family is the number of independent directions in which its parameters can move
# $\Delta W$; perakit measures it as the rank of a Jacobian, the matrix of the derivatives of all
# entries of $\Delta W$ by all parameters.
#
# Four families on an $11 \times 13$ layer. "Kernel" is $BA + c\,(BA)\circ(BA)$ with $r = 2$ and one
# coefficient: a PERA update with $h_{ii} = c$ and $h_{ij} = 2c$. Which of the four have the same
# rank? Which has the most room?

# %%
kernel = theory.Formula(
    lambda B, A, c: B @ A + c * (B @ A) * (B @ A),
    lambda m, n: {"B": (m, 2), "A": (2, n), "c": (1,)},
)

table = {}
for name, family in {
    "LoRA(2)": pk.LoRA(2),
    "kernel": kernel,
    "PERA(2)": pk.PERA(2),
    "LoRA(5)": pk.LoRA(5),
}.items():
    table[name] = theory.measured_rank(11, 13, family), theory.measured_dimension(11, 13, family)
    print(f"{name:8} rank {table[name][0]}, dimension {table[name][1]}")
assert table == {"LoRA(2)": (2, 44), "kernel": (5, 45), "PERA(2)": (5, 49), "LoRA(5)": (5, 95)}

# %% [markdown]
# The kernel, PERA(2) and LoRA(5) all have rank 5, and 45, 49 and 95 dimensions. PERA(2) makes
# *some* matrices of rank 5, few of all that there are. The paper's Theorem 1 overlooks this
# difference, and [notebook 05](05_theorem_one.ipynb) takes it apart. Dimension itself, and where
# PERA's extra dimensions come from, is the subject of [notebook 06](06_manifold.ipynb).
#
# ## Exercises

# %% [markdown]
# ### Exercise 1
#
# *5 minutes · difficulty 2 of 5*
#
# The hidden state of a model is 768 wide, so a layer is $768 \times 768$. From which $r$ on is $K
# \ge 768$, so that the bound no longer limits the rank? How many trainable parameters does PERA
# have there, as a share of the layer's own $768^2$? `answer_1` is the pair `(r, share)`, the share
# a number between 0 and 1.
#
# <details><summary>Hint 1</summary>
#
# $K = r(r+3)/2$ is about $r^2/2$. Try a few values of $r$ by hand, or all of them in a loop.
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# The factors have $2 \cdot 768\, r$ numbers, and there is one coefficient for each pair $i \le j$.
# `formulas.parameter_count` counts both.
#
# </details>

# %% tags=["your-turn"]
# Your turn
answer_1 = ...

# %% tags=["self-check"]
pk.classroom.self_check("04.1", answer_1)

# %% tags=["hide-cell"] jupyter={"source_hidden": true, "outputs_hidden": true}
with pk.classroom.folded():
    r = next(r for r in range(1, 768) if r * (r + 3) // 2 >= 768)
    parameters = formulas.parameter_count(768, 768, r, "pera")
    print(
        f"r = {r}: K = {formulas.rank_bound(r)}, {parameters:,} parameters,"
        f" {parameters / 768**2:.1%} of the layer"
    )
    assert (r, formulas.rank_bound(r - 1), formulas.rank_bound(r)) == (38, 740, 779)
    assert parameters == 38 * 2 * 768 + 38 * 39 // 2

# %% [markdown]
# ### Exercise 2
#
# *15 minutes · difficulty 4 of 5*
#
# Sign factors lose $r - 1$ of the $K$ terms. Find a matrix $B$ at $r = 3$, with at least four rows,
# for which the rank of the update is at most 3, whatever $A$ and $h$ are. To make it worth the
# effort: the three columns of $B$ are linearly independent, and no row is zero. `answer_2` is such
# a matrix.
#
# <details><summary>Hint 1</summary>
#
# The columns of the update are mixtures of the columns $b_i$ and of their products $b_i \circ b_j$.
# So the products must bring nothing new. When is $b_i \circ b_j$ zero, and when is $b_i \circ b_i$
# no new column?
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# Zeros and ones are enough. What is $b \circ b$ for a column of zeros and ones? And where must the
# ones of two columns not meet?
#
# </details>

# %% tags=["your-turn"]
# Your turn
answer_2 = ...

# %% tags=["self-check"]
pk.classroom.self_check("04.2", answer_2)

# %% tags=["hide-cell"] jupyter={"source_hidden": true, "outputs_hidden": true}
with pk.classroom.folded():
    # One 1 in each row: b_i∘b_j = 0 for i ≠ j, and b_i∘b_i = b_i
    B = np.eye(3, dtype=int)[[0, 0, 1, 1, 1, 2, 2, 2]]
    rng = np.random.default_rng(3)
    found = [
        theory.exact_rank(formulas.pera(B, rng.integers(-9, 10, (3, 9)), rng.integers(-9, 10, 6)))
        for _ in range(50)
    ]
    print("largest rank in 50 draws of A and h:", max(found))
    assert max(found) == 3
    # Proof: ΔW = Σ b_i (a_i + h_ii a_i∘a_i)ᵀ, which has three terms.

# %% [markdown]
# ### Exercise 3
#
# *10 minutes · difficulty 3 of 5*
#
# A colleague says: "PERA of rank 4 has rank 14, so it can do what LoRA of rank 14 does, with fewer
# parameters." Which half of this is right, and which kind of number from this notebook answers the
# other half? `answer_3` is the pair of these numbers on a $64 \times 48$ layer, `(LoRA of rank 14,
# PERA of rank 4)`.
#
# <details><summary>Hint 1</summary>
#
# One half is about how complicated *one* update can be, the other about how many *different*
# updates there are.
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# *Rank is not dimension*, says a heading above. `theory.measured_dimension` was used there;
# `theory.dimension` has the closed form, of LoRA with `"none"` as the kind of terms.
#
# </details>

# %% tags=["your-turn"]
# Your turn
answer_3 = ...

# %% tags=["self-check"]
pk.classroom.self_check("04.3", answer_3)

# %% [markdown]
# <details><summary>Answer</summary>
#
# It is right that the rank of an update goes up to 14, and that each PERA update of rank 4 *is* a
# LoRA update of rank 14 (its expanded factors are the LoRA factors). The converse is wrong: LoRA of
# rank 14 has updates that PERA of rank 4 has not. The dimensions say so. On a $64 \times 48$ layer
# LoRA(14) fills $14\,(64 + 48 - 14) = 1372$ dimensions and PERA(4) only 454 (`theory.dimension(64,
# 48, 4)`). Fewer parameters, and fewer possible updates. Which of the two trains better on a given
# task is another question, which neither number answers.
#
# </details>

# %% tags=["hide-cell"] jupyter={"source_hidden": true, "outputs_hidden": true}
with pk.classroom.folded():
    both = theory.dimension(64, 48, 14, "none"), theory.dimension(64, 48, 4)
    print("dimensions on a 64 x 48 layer, LoRA of rank 14 and PERA of rank 4:", both)
    assert both == (1372, 454)

# %% [markdown]
# ## Where to go next
#
# - [Notebook 05](05_theorem_one.ipynb): the paper's Theorem 1 takes "has rank up to $K$" for
#   "reaches every matrix of rank $K$". We refute it, exactly, and put a theorem in its place.
# - [Notebook 06](06_manifold.ipynb): dimension, and the symmetries behind it.
# - The claims with their evidence: [without increasing
#   rank](../docs/claims.md#without-increasing-rank), [generic
#   rank](../docs/claims.md#generic-rank), [sign factors](../docs/claims.md#sign-factors).
# - [Asking questions of an update rule](../docs/theory.md): the same probes for a rule of your own.
