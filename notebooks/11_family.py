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
# # 11 LoRA's family: DoRA, HiRA, MoRA, DeLoRA, LoHa
#
# LoRA was followed by many methods that spend about the same number of trained numbers in another
# way. At the end of this notebook you can write the update of six of them in a line or two of
# NumPy, say for each what it can and what it cannot express, and test such a statement on a target
# that was made for it. You will also add a method of your own and hold it to perakit's laws.
#
# You need [notebook 01](01_low_rank_adaptation.ipynb) (LoRA), [notebook 03](03_equation_nine.ipynb)
# (PERA) and the idea of [notebook 07](07_approximation.ipynb), that a set of updates has a best
# approximation to a target. About 35 minutes to read, about 20 seconds to run.

# %%
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import nn

import perakit as pk
from perakit import formulas, plots, theory
from perakit.table import Table

plt.style.use(plots.STYLE)
STARTS = 2  # of every search below; 16 for lower errors: about 1 minute

# %% [markdown]
# ## One frame for all
#
# A layer multiplies its input by a frozen weight $W_0$, with $m$ outputs and $n$ inputs. Each
# method has some trained numbers, its **parameters**, and a rule that makes an $(m, n)$ matrix of
# them: the **update** $\Delta W$. The layer then multiplies by $W_0 + \Delta W$. So a method is a
# function from a short list of numbers to a matrix, and can be studied as one, without any
# training.
#
# Some rules also read $W_0$. So that we can see what they take from it, ours has a pattern: its
# entries grow from the top row to the bottom row, and it has a hole, a block of weights that are
# zero.

# %%
m, n, r = 24, 36, 2
rng = np.random.default_rng(0)
W0 = rng.normal(size=(m, n)) * np.linspace(0.2, 1.2, m)[:, None]
W0[6:12, 8:16] = 0

B, A = rng.normal(size=(m, r)), rng.normal(size=(r, n))  # the two factors, which most methods have
lora = B @ A
assert np.allclose(lora, formulas.lora(B, A))

# %% [markdown]
# That last line is LoRA (arXiv 2106.09685, Eq. 3): $\Delta W = BA$, of rank at most $r$. All
# methods multiply their update by a fixed scale; we leave it at 1 throughout.
#
# ## Products of entries: LoHa and PERA
#
# The **Hadamard product** $X \circ Y$ multiplies two matrices entry by entry. LoHa (arXiv
# 2108.06098, Proposition 1) takes two LoRA updates and multiplies them so:
#
# $$\Delta W = (B_1 A_1) \circ (B_2 A_2).$$
#
# It trains $2r(m+n)$ numbers, as many as LoRA of rank $2r$. Each factor has rank $r$. What do you
# expect the rank of the product to be?

# %%
B2, A2 = rng.normal(size=(m, r)), rng.normal(size=(r, n))
loha = (B @ A) * (B2 @ A2)

assert np.allclose(loha, formulas.loha(B, A, B2, A2))
print("rank of LoHa's update:", np.linalg.matrix_rank(loha), "at r =", r)

# %% [markdown]
# It is $r^2$: written out, each of the $r$ outer products of one update meets each of the other's,
# and $(b\,a^\top) \circ (b'\,a'^\top) = (b \circ b')(a \circ a')^\top$ is an outer product again.
#
# PERA (arXiv 2604.11841, Eq. 9) has such products too, but within one pair of factors, and beside
# $BA$:
#
# $$\Delta W = BA + \sum_{i \le j} h_{ij}\, (b_i \circ b_j)(a_i \circ a_j)^\top .$$
#
# So how are they related? Give both pairs of LoHa the same factors, and PERA the coefficients
# $h_{ii} = 1$ and $h_{ij} = 2$ for $i < j$, as in $(x+y)^2 = x^2 + 2xy + y^2$:

# %%
i, j = formulas.pairs(r)
h = np.where(i == j, 1.0, 2.0)
products = sum(h[k] * np.outer(B[:, i[k]] * B[:, j[k]], A[i[k]] * A[j[k]]) for k in range(len(h)))
pera = B @ A + products

assert np.allclose(pera, formulas.pera(B, A, h))
assert np.allclose(products, formulas.loha(B, A, B, A))  # LoHa whose two pairs are one
print(
    "terms:",
    r * r,
    "in LoHa,",
    len(h),
    "in PERA; claim loha-and-pera is",
    theory.claims["loha-and-pera"].check().verdict,
)

# %% [markdown]
# PERA's products are a LoHa whose two pairs are one ([claim](../docs/claims.md#loha-and-pera)).
# That leaves $r(r+1)/2$ different terms out of $r^2$, for half the factors; in exchange each term
# has a coefficient of its own. LoHa in turn has no linear part.
#
# ## Rules that read the weight: HiRA and DoRA
#
# HiRA (Huang et al., ICLR 2025) multiplies a LoRA update by the weight itself:
#
# $$\Delta W = W_0 \circ (BA).$$
#
# Each weight is multiplied by its own factor $1 + (BA)_{pq}$. What happens to a weight that is
# zero?

# %%
hira = W0 * (B @ A)

assert np.allclose(hira, formulas.hira(W0, B, A))
assert not hira[W0 == 0].any()  # it stays zero, whatever is trained
print("rank of HiRA's update:", np.linalg.matrix_rank(hira), "at r =", r)

# %% [markdown]
# The rank is full here: its bound is $r$ times the rank of $W_0$. But a high rank is not much
# freedom: where $W_0$ has no zeros, $\Delta W / W_0$, entry by entry, is $BA$ again, of rank at
# most $r$.
#
# DoRA (arXiv 2402.09353, Eq. 5) takes each row of a new weight apart, into a direction and a
# length. LoRA moves the direction; the lengths $g$ are trained on their own:
#
# $$W_0 + \Delta W = \mathrm{diag}\!\left(\frac{g}{\lVert V \rVert_{\mathrm{row}}}\right) V, \qquad
# V = W_0 + BA .$$

# %%
# At the start of training it is the row length of W0
g = np.linalg.norm(W0, axis=1) * rng.uniform(0.5, 2.0, m)
V = W0 + B @ A
dora = (g / np.linalg.norm(V, axis=1))[:, None] * V - W0

assert np.allclose(dora, formulas.dora(W0, B, A, g))
assert np.allclose(np.linalg.norm(W0 + dora, axis=1), g)  # the length of every row is what g says
print("rank of DoRA's update:", np.linalg.matrix_rank(dora), "at r =", r)

# %% [markdown]
# DoRA can stretch every output by a factor of its own, which would cost LoRA one rank for each
# output. Its $BA$ cannot change the length of a row of the new weight: only $g$ does. (The paper
# measures columns. PEFT and perakit measure rows, one length for each output: see [DoRA's
# page](../docs/methods/dora.md).)
#
# ## A square, repeated: MoRA
#
# MoRA (arXiv 2405.12130; here its form that shares rows and columns) drops the two thin factors. It
# trains one square matrix $M$ of side $\hat r \approx \sqrt{(m+n)\,r}$, which has about as many
# entries as LoRA's factors, and lays it over the layer like tiles:
#
# $$\Delta W_{pq} = M_{\,p \bmod \hat r,\; q \bmod \hat r}.$$

# %%
side = formulas.mora_size(m, n, r)
M = rng.normal(size=(side, side))
mora = M[np.arange(m) % side][:, np.arange(n) % side]

assert np.allclose(mora, formulas.mora(M, m, n))
assert np.array_equal(mora[side:], mora[:-side])  # row p + 11 is row p
assert np.array_equal(mora[:, side:], mora[:, :-side])
print(f"side {side}: {side**2} numbers (LoRA {r * (m + n)}), rank {np.linalg.matrix_rank(mora)}")

# %% [markdown]
# The rank is $\hat r$, far above $r$. The price: rows $p$ and $p + \hat r$ are equal, whatever is
# trained, and so are columns ([claim](../docs/claims.md#mora-repeats)). One output alone cannot be
# changed if it has a twin, and LoRA of rank 1 can do that.
#
# ## Direction and strength: DeLoRA
#
# DeLoRA (arXiv 2503.18225) makes each column $b_i$ and each row $a_i$ a unit vector. One trained
# number $\lambda$ sets the strength; the lengths of $W_0$'s columns share it out over the inputs:
#
# $$\Delta W = \sum_{i=1}^r \frac{\lambda}{r}\, \frac{b_i}{\lVert b_i \rVert}
# \frac{a_i^\top}{\lVert a_i \rVert}\;
# \mathrm{diag}\,\lVert W_0 \rVert_{\mathrm{column}} .$$
#
# Now let the factors run away, to a thousand times their size. What happens to LoRA's update, and
# what to this one?

# %%
lam = np.array([15.0])
columns = np.linalg.norm(W0, axis=0)
delora = (
    (B / np.linalg.norm(B, axis=0)) @ (A / np.linalg.norm(A, axis=1)[:, None]) * columns * lam / r
)

assert np.allclose(delora, formulas.delora(W0, B, A, lam))
for size in (1, 1000):
    norms = [
        np.linalg.norm(x)
        for x in (formulas.lora(size * B, size * A), formulas.delora(W0, size * B, size * A, lam))
    ]
    print(
        f"factors times {size:4}: norm of LoRA's update {norms[0]:12.1f}, of DeLoRA's"
        f" {norms[1]:.4f}"
    )
assert np.linalg.norm(delora) <= lam[0] * columns.max()

# %% [markdown]
# DeLoRA's update cannot grow by its factors: $\lVert \Delta W \rVert_F \le \lambda \max_q \lVert
# W_{0,:q} \rVert$ ([claim](../docs/claims.md#delora-bounded)). Too large a step of the factors
# turns it, and does not blow it up. But since $\lambda$ is trained too, the *set* of matrices it
# can reach is LoRA's, where no column of $W_0$ is zero
# ([claim](../docs/claims.md#delora-is-loras-set)). The two differ in how they get there.
#
# ## Seven updates of the same weight
#
# All with the same random $B$ and $A$, where they have them. Before you look at the titles: which
# picture is which?

# %%
updates = {
    "LoRA": lora,
    "PERA": pera,
    "LoHa": loha,
    "HiRA": hira,
    "DoRA": dora,
    "MoRA": mora,
    "DeLoRA": delora,
}
figure, axes = plt.subplots(2, 4, figsize=(14, 6), sharex=True, sharey=True)
for ax, (name, matrix) in zip(axes.flat, {"W0, frozen": W0, **updates}.items(), strict=True):
    plots.plot_matrix(matrix, title=name, ax=ax)
    ax.label_outer()

# %% [markdown]
# - **LoRA** has two patterns, mixed: the checked look of low rank. **DeLoRA** is the same mixture
#   with other weights; its columns are also multiplied by the lengths of the columns of $W_0$,
#   which here are much alike.
# - **PERA** and **LoHa** are spiky: a product of two normal numbers is often near zero and now and
#   then large.
# - **HiRA** shows the weight through the pattern: pale at the top, and the hole is still there.
# - **DoRA** has filled the hole, by its $BA$, and its rows have different strengths.
# - **MoRA** repeats itself after 11 rows and 11 columns.
#
# ## Their spectra
#
# The **singular values** of a matrix say how large its pieces of rank one are, from the largest on;
# where they drop to zero is the rank ([notebook 04](04_rank.ipynb)). We divide each list by its
# largest value, and leave out what is zero to rounding.

# %%
spectra = {name: np.linalg.svd(matrix, compute_uv=False) for name, matrix in updates.items()}
shown = {
    name: np.where(values > 1e-12 * values[0], values / values[0], 0)
    for name, values in spectra.items()
}
figure, ax = plt.subplots(figsize=(8, 4.2))
plots.plot_spectra(shown, ax=ax)
ax.set(
    ylabel=r"$\sigma_i / \sigma_1$",
    title="Where each line ends is the rank of the update (r = 2)",
    xlim=(0, 31),
    ylim=(1e-3, 2),
)
ax.legend(loc="center right", fontsize="small", handlelength=2.8)
ranks = {name: int((values > 0).sum()) for name, values in shown.items()}
print(ranks)
assert ranks == {"LoRA": 2, "PERA": 5, "LoHa": 4, "HiRA": 24, "DoRA": 24, "MoRA": 11, "DeLoRA": 2}

# %% [markdown]
# There are three ways to a rank in this picture. LoRA, DeLoRA, PERA and LoHa stop after a fixed
# number of pieces. HiRA and DoRA do not stop: they inherit the rank of $W_0$. MoRA stops at the
# side of its square.
#
# ## The table
#
# The same, as numbers. *Reads W0*: do the same parameters give another update on another weight?
# *Linear*: is the update of a sum of parameters the sum of the updates? Both are measured here, not
# quoted. Which methods do you expect to be linear?

# %%
METHODS = [pk.LoRA(r), pk.PERA(r), pk.LoHa(r), pk.HiRA(r), pk.DoRA(r), pk.MoRA(r), pk.DeLoRA(r)]


def draw(method, m, n, seed):
    """Random parameters, all positive: a length or a strength below zero would make no sense."""
    generator = np.random.default_rng(seed)
    return {name: generator.uniform(0.5, 2.0, shape) for name, shape in method.shapes(m, n).items()}


rows, linear = [], []
for method in METHODS:
    one, two = draw(method, m, n, 1), draw(method, m, n, 2)
    both = {name: one[name] + two[name] for name in one}
    reads = not np.allclose(method.update(W0, **one), method.update(W0 + 1, **one))
    total, summed = method.update(W0, **both), method.update(W0, **one) + method.update(W0, **two)
    linear.append(np.allclose(total, summed))
    yes = {True: "yes", False: "no"}
    counts = (
        method.count(m, n),
        method.count(768, 768),
        method.rank_bound(m, n),
        method.rank_bound(768, 768),
    )
    rows.append(
        [type(method).__name__, *(f"{count:,}" for count in counts), yes[reads], yes[linear[-1]]]
    )

assert [row[0] for row, found in zip(rows, linear, strict=True) if found] == ["MoRA"]
Table(
    (
        "r = 2",
        "trained, 24 × 36",
        "trained, 768 × 768",
        "rank up to",
        "rank up to, 768 × 768",
        "reads W0",
        "linear",
    ),
    rows,
)

# %% [markdown]
# Only MoRA is linear in its parameters. LoRA is *bilinear*: linear in $B$ for a fixed $A$, and in
# $A$ for a fixed $B$, but not in both together. All seven are **linear in the layer's input**: each
# is one matrix, and merges.
#
# Being linear has a use. MoRA's set is a flat subspace of the space of matrices, so it has exactly
# one best approximation to any target, found by averaging (exercise 2). LoRA has one in the
# truncated singular value decomposition. For most of the others a search can end in the wrong
# valley.
#
# ## A pattern that LoHa makes and LoRA does not
#
# Rank $r^2$ sounds like a lot. For the same number of parameters LoRA has rank $2r$, which is as
# much at $r = 2$. In fact LoHa of rank 2 only makes matrices of rank 4 or less, and LoRA of rank 4
# makes *all* of those. So at $r = 2$ LoHa cannot win. From $r = 3$ on it can. Here is a pattern of
# signs of rank 9 in which a coarse pattern is multiplied by a fine one:

# %%
H = np.array([[1, 1, 1], [1, -1, 1], [1, 1, -1]])
ones = np.ones
B1, A1 = np.kron(np.eye(3), ones((6, 1))), np.kron(H, ones((1, 6)))  # coarse: three blocks of six
# fine
B2, A2 = (
    np.kron(ones((3, 1)), np.kron(np.eye(3), ones((2, 1)))),
    np.kron(ones((1, 3)), np.kron(H, ones((1, 2)))),
)
signs = (B1 @ A1) * (B2 @ A2)

left_out = np.sqrt((np.linalg.svd(signs, compute_uv=False)[6:] ** 2).sum()) / np.linalg.norm(signs)
assert np.array_equal(formulas.loha(B1, A1, B2, A2), signs)
assert pk.LoHa(3).count(18, 18) == pk.LoRA(6).count(18, 18)
assert np.linalg.matrix_rank(signs) == 9
print(
    f"{pk.LoHa(3).count(18, 18)} numbers each: LoHa(3) makes it exactly; the best LoRA(6) has an"
    f" error of {left_out:.1%}"
)

figure, axes = plt.subplots(1, 3, figsize=(11, 3.1))
for ax, matrix, title in zip(
    axes,
    (B1 @ A1, B2 @ A2, signs),
    ("coarse, rank 3", "fine, rank 3", "their product, rank 9"),
    strict=True,
):
    plots.plot_matrix(matrix, title=title, ax=ax)

# %% [markdown]
# LoRA's error is the exact minimum, by the theorem of Eckart and Young: the best approximation of
# rank 6 keeps the six largest singular values. LoHa's is exact because we wrote the factors down.
# No search was needed on either side.
#
# ## Who wins where?
#
# Now a tournament that should make you suspicious of tournaments. We choose six targets on a 16 ×
# 16 layer and ask for the best update of each method, at about equal numbers of parameters: rank 4
# for most, rank 2 for LoHa, rank 3 for DoRA.
#
# - **low rank**: a matrix of rank 2.
# - **rows scaled**: each row of $W_0$ times a factor of its own.
# - **weight masked**: $W_0$ times a matrix of rank 2, entry by entry.
# - **tiled**: a random square, repeated.
# - **signs**: +1 on and above the diagonal, −1 below.
# - **identity**: 1 on the diagonal, 0 elsewhere.
#
# `theory.best_approximation` searches from several starts and reports $\lVert \Delta W - E \rVert_F
# / \lVert E \rVert_F$, where 0 is perfect and 1 is what $\Delta W = 0$ reaches. DeLoRA is left out:
# its set is LoRA's, so its column would be LoRA's. Before you run it: put a cross where you expect
# a zero.

# %%
size = 16
weight = rng.normal(size=(size, size))
row, column = np.indices((size, size))
thin = rng.normal(size=(size, 2)) @ rng.normal(size=(2, size))
side = formulas.mora_size(size, size, 4)
targets = {
    "low rank": thin,
    "rows scaled": rng.normal(size=(size, 1)) * weight,
    "weight masked": weight * thin,
    "tiled": formulas.mora(rng.normal(size=(side, side)), size, size),
    "signs": np.where(column >= row, 1.0, -1.0),
    "identity": np.eye(size),
}
players = {
    "LoRA": pk.LoRA(4),
    "DoRA": pk.DoRA(3),
    "HiRA": pk.HiRA(4),
    "MoRA": pk.MoRA(4),
    "LoHa": pk.LoHa(2),
    "PERA": pk.PERA(4),
}
found = {}
for target, E in targets.items():
    for name, method in players.items():
        found[target, name] = theory.best_approximation(E, method, starts=STARTS, W0=weight)
errors = np.array([[found[target, name].error for name in players] for target in targets])

# %%
columns = [f"{name}, {method.count(size, size)}" for name, method in players.items()]
figure, ax = plt.subplots(figsize=(8.4, 4.4))
_ = plots.plot_grid(
    errors,
    list(targets),
    columns,
    label="relative error of the best update found",
    title="Upper bounds on the error",
    spec=".2f",
    ax=ax,
)

# %% [markdown]
# The number beside each name is its count of parameters. Read it row by row.
#
# Where a target was made for a method, that method has an error of 0, and now and then another one
# that happens to contain the target. **Each wins where the target is made for it, and none wins
# everywhere.** Whoever shows one row of this picture has shown what the target is made of.
#
# LoHa's column is never below LoRA's. That is no accident: it is what we said about rank 4 above.
# And PERA's is never above LoRA's, which is no merit either: with $h = 0$ PERA *is* LoRA, and the
# search starts there.
#
# In the last two rows, which were made for nobody, PERA's number is the lowest. Does that mean
# anything? Two traps lie in the way.

# %%
error = {key: one.error for key, one in found.items()}
zero = [
    ("low rank", "LoRA"),
    ("low rank", "PERA"),
    ("rows scaled", "DoRA"),
    ("weight masked", "HiRA"),
    ("tiled", "MoRA"),
]
assert all(error[key] < 1e-5 for key in zero)
# None wins everywhere
assert all(max(error[target, name] for target in targets) > 0.1 for name in players)
for target in targets:
    assert error[target, "PERA"] <= error[target, "LoRA"] + 1e-9 <= error[target, "LoHa"] + 2e-9
assert [list(players)[k] for k in errors[-2:].argmin(1)] == ["PERA", "PERA"]

# %% [markdown]
# ### First trap: these are upper bounds
#
# Of LoRA's numbers we know that they are the minimum (Eckart and Young), of MoRA's too (least
# squares), and of the zeros. The others are the best that a search found, from `STARTS` starts.
# Look at DoRA on the low-rank target. If we let the lengths $g$ be those of the rows of $V$, the
# division cancels and $\Delta W = BA$: DoRA contains every LoRA update of its rank. So its true
# minimum is 0:

# %%
U, sigma, Vt = np.linalg.svd(thin)
B, A = U[:, :3] * sigma[:3], Vt[:3]  # thin = B A, with a third column that is zero to rounding
by_hand = formulas.dora(weight, B, A, np.linalg.norm(weight + B @ A, axis=1))
print(
    f"DoRA(3) on a matrix of rank 2: by hand {np.linalg.norm(by_hand - thin):.0e}, by search"
    f" {error['low rank', 'DoRA']:.3f}"
)
assert np.allclose(by_hand, thin)

# %% [markdown]
# For PERA the same test: a target that PERA of rank 4 made, so that PERA of rank 4 can reach it
# exactly.

# %%
truth = pk.PERA(4).update(
    None, **{name: rng.normal(size=shape) for name, shape in pk.PERA(4).shapes(size, size).items()}
)
fit = theory.best_approximation(truth, pk.PERA(4), starts=STARTS)
print(f"the true minimum is 0; the search stopped at {fit.error:.3f}")
print("certificate:", fit.certificate)

# %% [markdown]
# An error in the picture says "at most this", and a comparison of two such numbers is a comparison
# of two searches.
#
# ### Second trap: a set is not a training run
#
# A search over the set of all updates may use any factors, of any size. Training starts somewhere
# and takes some hundred small steps. How large is the polynomial part, beside the linear one, in
# what the search found for PERA?

# %%
shares = {}
for target in targets:
    fit = found[target, "PERA"]
    shares[target] = theory.order_share(
        (fit.factors["B"], fit.factors["A"], fit.factors["h"])
    ).overall
    print(
        f"{target:14} order share {shares[target]:8.2%}   growth"
        f" {fit.growth:8.1f}{'   (diverging)' if fit.diverging else ''}"
    )
assert max(shares.values()) > 0.1

# %% [markdown]
# In [notebook 10](10_fine_tuning.ipynb) this share, after training from the published start, was a
# fraction of a percent. *Growth* is large where large terms cancel. So the picture says which
# matrices a set *contains*; it does not say which ones training finds, nor which ones a task needs.
# Low errors on these targets are no evidence that a method trains better.
#
# ## Adding a method
#
# In perakit a method is one function and one file: [adding a method](../docs/adding-a-method.md)
# does it for AdaLoRA, on a page that is itself a test. Nothing has to be registered: a class that
# derives from `Method` is known by its name, even in a notebook. Exercise 3 does that.
#
# ## Exercises
#
# Write your answer into the cell under an exercise, then run the check below it. Use names of your
# own there: the folded cell after each, which has our answer, goes on with those of this page.
#
# ### Exercise 1: an unplanned zero
#
# *15 minutes · difficulty 3 of 5*
#
# One target in the picture has a zero for two methods, although it was made for one of them only,
# and they do not contain each other. Find it, and prove the second zero in one line. What rank is
# needed for it? `answer_1` is the tuple `(target, method, rank)`: the target's name, the method for
# which it was not made, and the smallest rank at which that method makes it exactly.
#
# <details><summary>Hint 1</summary>
#
# Look for a row with two zeros, and leave out the pairs of which one method contains the other.
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# Divide the target by $W_0$, entry by entry. What does the quotient look like, and what is its
# rank?
#
# </details>

# %% tags=["your-turn"]
# Your turn
answer_1 = ...  # (target, method, rank), two names and a number

# %% tags=["self-check"]
pk.classroom.self_check("11.1", answer_1)

# %% tags=["hide-cell"] jupyter={"source_hidden": true, "outputs_hidden": true}
with pk.classroom.folded():
    d = rng.normal(size=size)
    assert np.allclose(np.diag(d) @ weight, weight * np.outer(d, np.ones(size)))
    assert error["rows scaled", "HiRA"] < 1e-5
    print("rows scaled: diag(d) W0 = W0 ∘ (d 1ᵀ), and d 1ᵀ has rank 1. HiRA of rank 1 makes it.")

# %% [markdown]
# ### Exercise 2: the best MoRA, without a search
#
# *15 minutes · difficulty 2 of 5*
#
# Each entry of $M$ is read at several places of the layer. Which value of it is best for a target
# $E$, in the sum of squares? Compute the best MoRA of the identity in NumPy, and compare its error
# with the picture. `answer_2` is a function `(E, side)` that returns the best square $M$, for a
# target of any size.
#
# <details><summary>Hint 1</summary>
#
# Entry $M_{pq}$ appears in some terms of the sum of squares and in no others. So each entry has a
# small problem of its own: which one number is nearest to several given ones?
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# Their mean. The places that read $M_{pq}$ are `E[p::side, q::side]`.
#
# </details>

# %% tags=["your-turn"]
# Your turn
answer_2 = ...  # a function (E, side) -> M

# %% tags=["self-check"]
pk.classroom.self_check("11.2", answer_2)

# %% tags=["hide-cell"] jupyter={"source_hidden": true, "outputs_hidden": true}
with pk.classroom.folded():
    E = targets["identity"]
    best = np.zeros((side, side))
    for p in range(side):
        for q in range(side):
            best[p, q] = E[p::side, q::side].mean()  # the mean of all places that read it
    by_hand = np.linalg.norm(formulas.mora(best, size, size) - E) / np.linalg.norm(E)
    print(f"side {side}: error {by_hand:.4f} by hand, {error['identity', 'MoRA']:.4f} by search")
    assert abs(by_hand - error["identity", "MoRA"]) < 1e-6

# %% [markdown]
# MoRA does well on the identity here only since the side, 11, is not much smaller than the layer:
# no number of $M$ is read at more than four places. On a 768 × 768 layer at the same $r$ it is read
# at about a hundred, and the error is nearly 1.
#
# ### Exercise 3: a method of your own
#
# *45 minutes · difficulty 4 of 5*
#
# Make a method with $\Delta W = BA + c\,(BA) \circ (BA)$, where one number $c$ is trained beside
# $B$ and $A$. (With $h_{ii} = c$ and $h_{ij} = 2c$ it is a PERA: the quadratic kernel of [notebook
# 08](08_kernels.ipynb).) You need an `Adapter` whose `reset` draws the start, so that $\Delta W$ is
# exactly zero, and a `Method` with `shapes`, `rank_bound` and `update`. Give it a name of its own,
# such as `name = "mine"`. Then call `perakit.testing.assert_adapter_laws`. How many dimensions does
# its set have? `answer_3` is an instance of your method, at rank 2.
#
# <details><summary>Hint 1</summary>
#
# [Adding a method](../docs/adding-a-method.md) is the pattern: two classes of a few lines each,
# from `perakit.adapters.base`. `start_factors(self.method, self.B, self.A)` draws the start of
# LoRA's factors.
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# `shapes` is that of `Method` and `{"c": (1,)}` besides. The rank bound is PERA's,
# `formulas.rank_bound(self.rank)`, or the layer's smaller side. `update` must multiply all of it by
# `self.scale`. `theory.measured_dimension` counts the dimensions.
#
# </details>

# %% tags=["your-turn"]
# Your turn
answer_3 = ...  # an instance of your method, at rank 2

# %% tags=["self-check"]
pk.classroom.self_check("11.3", answer_3)

# %% tags=["hide-cell"] jupyter={"source_hidden": true, "outputs_hidden": true}
from perakit.adapters.base import Adapter, Method, start_factors
from perakit.testing import assert_adapter_laws


class OurKernelAdapter(Adapter):
    def reset(self, W0):
        start_factors(self.method, self.B, self.A)  # A random, B zero
        nn.init.zeros_(self.c)


@dataclass(frozen=True)
class OurKernel(Method):
    name = "our kernel"
    adapter = OurKernelAdapter

    def shapes(self, m, n):
        return super().shapes(m, n) | {"c": (1,)}

    def rank_bound(self, m, n):
        return min(m, n, formulas.rank_bound(self.rank))

    def update(self, W0, **factors):
        product = factors["B"] @ factors["A"]
        return self.scale * (product + factors["c"] * product * product)


with pk.classroom.folded():
    # Twelve laws, on every kind of layer and dtype
    assert_adapter_laws(OurKernel(rank=2), compiled=False)
    print(
        "all laws hold;",
        theory.measured_dimension(m, n, OurKernel(rank=2)),
        "dimensions,",
        OurKernel(rank=2).count(m, n),
        "numbers",
    )

# %% [markdown]
# <details><summary>Answer</summary>
#
# The set has $r(m+n) - r^2 + 1 = 117$ dimensions. The update depends on $B$ and $A$ through $BA$
# alone, so the $r^2$ free numbers of LoRA are free here too; $c$ adds one. The laws found nothing;
# to see that they can, break something: let $B$ start at random, or forget the scale. (To leave out
# the `zeros_` is none: while $B = 0$, any finite $c$ will do.)
#
# </details>
#
# From here on the method works like any other:

# %%
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(n, m), nn.ReLU(), nn.Linear(m, 4))
print(pk.attach(model, OurKernel(rank=2), "all-linear"))
x = torch.randn(5, n)
for adapter in pk.adapters(model).values():
    for parameter in adapter.parameters():
        nn.init.normal_(parameter, std=0.3)
factored = model(x)
pk.merge(model)
torch.testing.assert_close(model(x), factored, rtol=1e-4, atol=1e-4)

# %% [markdown]
# ## Where to go next
#
# - [Notebook 12](12_interaction.ipynb): whether features act together, and why no single linear
#   layer makes them.
# - [Notebook 13](13_property_testing.ipynb): how the laws that checked your method are written.
# - [The methods side by side](../docs/methods.md): a page for each, with sources, and what works
#   with what.
# - [Adding a method](../docs/adding-a-method.md), and the claim
#   [loha-and-pera](../docs/claims.md#loha-and-pera).
