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
# # 07 How well can it approximate? The sandwich
#
# At the end you can say how near a family of updates comes to a target matrix: what is a theorem,
# what an optimiser merely found, and what a number must be accompanied by before you quote it. You
# need the singular value decomposition, the update of [notebook 02](02_polynomial_expansion.ipynb)
# and the two inclusions of [notebook 05](05_theorem_one.ipynb). About 30 minutes to read; the cells
# run in about 25 seconds.

# %%
import matplotlib.pyplot as plt
import numpy as np

import perakit as pk
from perakit import formulas, plots, theory

plt.style.use(plots.STYLE)
STARTS = 8  # of each search; 64 finds lower errors, in about eight times the time

# %% [markdown]
# ## The question
#
# Suppose somebody told us the best change $E$ of a weight matrix. How near can an update $\Delta W$
# of a given family come? We measure the distance in Frobenius norm, $\lVert \Delta W - E\rVert_F =
# \bigl(\sum_{pq} (\Delta W - E)_{pq}^2\bigr)^{1/2}$. The matrix $E$ is the **target**. The smallest
# distance, or the limit that distances can come near, is the **infimum**; if some update reaches
# it, it is the **minimum**. (They can differ, as we shall see.)
#
# For LoRA of rank $r$ the question was answered in 1936. Write $E = \sum_i \sigma_i u_i v_i^\top$
# with singular values $\sigma_1 \ge \sigma_2 \ge \dots$. Keep the first $r$ terms: the **truncated
# SVD**. No matrix of rank at most $r$ is nearer to $E$ (Eckart and Young), and the error is what
# was cut off, the **tail**:
#
# $$\mathrm{dist}(E,\ \mathrm{rank}\le r) = \bigl(\sigma_{r+1}^2 + \sigma_{r+2}^2 +
# \dots\bigr)^{1/2}.$$
#
# Our first target has independent normal entries. It has full rank and no structure.

# %%
targets = theory.targets(8, 10, seed=4)
E = targets["gaussian"]
U, sigma, Vt = np.linalg.svd(E, full_matrices=False)


def tail(k):
    """Distance of E from the matrices of rank <= k."""
    return np.sqrt((sigma[k:] ** 2).sum())


for rank in (1, 2, 3):
    nearest = (U[:, :rank] * sigma[:rank]) @ Vt[:rank]
    print(f"rank {rank}: error {np.linalg.norm(nearest - E):.4f}, tail {tail(rank):.4f}")
    assert np.isclose(np.linalg.norm(nearest - E), tail(rank))

# %% [markdown]
# That is all of it for LoRA: a formula, a minimiser, a proof. No search is needed.
#
# ## PERA: descend by hand
#
# For PERA we know no such formula. The update is a polynomial of degree five in the parameters, and
# $L = \tfrac12\lVert \Delta W(B, A, h) - E\rVert_F^2$ may have many valleys. We search. With $G =
# \partial L/\partial\Delta W = \Delta W - E$ the gradients by $B$, $A$, $h$ come in closed form
# from `theory.pera_gradients`, and gradient descent is a few lines. One detail: a fixed step is too
# long in narrow valleys, so a step that does not lower the error is taken back and halved, and each
# good step makes the next one longer.


# %%
def descend(factors, E, steps=1500, rate=0.003):
    """Gradient descent on the squared error from factors (B, A, h).

    Returns the error after each step, and where it ends.
    """
    G = formulas.pera(*factors) - E
    errors = [np.linalg.norm(G)]
    for _ in range(steps):
        gradient = theory.pera_gradients(G, *factors)
        trial = [x - rate * gradient[name] for x, name in zip(factors, "BAh", strict=True)]
        residual = formulas.pera(*trial) - E
        if np.linalg.norm(residual) < errors[-1]:
            factors, G, rate = trial, residual, 1.2 * rate
        else:
            rate = rate / 2
        errors.append(np.linalg.norm(G))
    return np.array(errors), factors


# %% [markdown]
# Rank 1, from eight random starts and from the truncated SVD with $h = 0$. Two lines help to read
# the result: the tail beyond rank 1 (LoRA's best), and the tail beyond rank $K = 2$. What do you
# expect: do all runs end at the same error? Can one end above LoRA's?

# %%
rng = np.random.default_rng(3)
starts = [
    (rng.normal(size=(8, 1)), rng.normal(size=(1, 10)), 0.3 * rng.normal(size=1)) for _ in range(8)
]
runs = [descend(start, E)[0] for start in starts]
root = np.sqrt(sigma[:1])
from_svd, _ = descend((U[:, :1] * root, root[:, None] * Vt[:1], np.zeros(1)), E)

fig, ax = plt.subplots(figsize=(7.2, 4.2))
for k, errors in enumerate(runs):
    ax.semilogx(
        1 + np.arange(1501),
        errors,
        color="C0",
        alpha=0.6,
        linewidth=1.2,
        label="random starts" if k == 0 else None,
    )
ax.semilogx(
    1 + np.arange(1501), from_svd, "--", color="C1", linewidth=2, label="start at the truncated SVD"
)
# Wide and pale, so that a curve which lies on it leaves it visible
for k, name in ((1, "best of rank r = 1 (LoRA)"), (2, "best of rank K = 2")):
    ax.axhline(tail(k), color="0.85", linewidth=5, zorder=0)
    ax.text(1, tail(k) - 0.09, name, va="top", color="0.35")
ax.set(
    xlabel="step",
    ylabel="error ‖ΔW − E‖",
    ylim=(tail(2) - 0.4, 10),
    title="One loss, nine starts, several ends",
)
_ = ax.legend(loc="upper right")

ends = np.array([errors[-1] for errors in runs])
print("random starts end at", np.sort(ends).round(3))
print(
    f"start at the SVD ends at {from_svd[-1]:.3f}; LoRA's best {tail(1):.3f}; best of rank 2"
    f" {tail(2):.3f}"
)
assert tail(2) < ends.min() < from_svd[-1] < tail(1) < ends.max()

# %% [markdown]
# Three things to see.
#
# - Runs end at different errors, some while they still fall. *Where you start decides where you
#   end*; none of these numbers is "the" error of PERA.
# - Some end **above** LoRA's best, although PERA contains LoRA. The family is not worse; the search
#   is.
# - The start at the truncated SVD can only go down from LoRA's best, so it is never worse. It need
#   not be the best, either.
#
# ## The sandwich
#
# What can be said without any search? Two inclusions. With $h = 0$ PERA is LoRA, so it contains
# every matrix of rank at most $r$. And a PERA update is a sum of $K = r(r+3)/2$ terms of rank one,
# so it has rank at most $K$:
#
# $$\{\mathrm{rank} \le r\} \;\subset\; S_{\mathrm{PERA}}(r) \;\subset\; \{\mathrm{rank} \le K\}.$$
#
# The distance to a larger set is smaller or equal. Hence, for every target
# ([proved](../docs/claims.md#sandwich)),
#
# $$\mathrm{dist}(E,\ \mathrm{rank}\le K) \;\le\; \inf_{\Delta W \in
# S_{\mathrm{PERA}}(r)}\lVert\Delta W - E\rVert
# \;\le\; \mathrm{dist}(E,\ \mathrm{rank}\le r).$$
#
# Both ends are tails. The paper's Theorem 1 (arXiv 2604.11841) states the left one the other way
# round; [notebook 05](05_theorem_one.ipynb) is about that.
#
# `theory.best_approximation` searches between the two ends: damped Newton steps (they use second
# derivatives) from several kinds of starts, the truncated SVD among them. It returns what it found
# *and* what is known about it, the `certificate`.

# %%
found = {rank: theory.best_approximation(E, pk.PERA(rank), starts=STARTS) for rank in (1, 2, 3)}
for rank, result in found.items():
    print(
        f"r = {rank}: {result.lower_fro:.3f} <= infimum <="
        f" {min(result.error_fro, result.upper_fro):.3f}"
    )
    print("   ", result.certificate)
    assert np.isclose(result.lower_fro, tail(formulas.rank_bound(rank)))
    assert np.isclose(result.upper_fro, tail(rank))
    assert result.lower_fro <= result.error_fro <= result.upper_fro
print(f"\nour luckiest descent at r = 1: {ends.min():.3f}")
assert ends.min() < found[1].error_fro

# %% [markdown]
# At $r = 1$ one of our own eight starts, by plain descent, ended lower than the library's search.
# Both are upper bounds, and the lower one is the better one; neither is known to be the infimum. A
# good search is one that loses such contests rarely, not one that cannot lose.
#
# Read a certificate before you quote its number. "An upper bound on the infimum" says: there *is*
# an update this near, perhaps a nearer one, too. (Factors that *diverge* have a section further
# down.) Three kinds of statement need three words: the bounds are *proved*, the error is *found*,
# and the infimum, between the lower bound and the error, is in general *unknown*.

# %%
_, ax = plt.subplots(figsize=(7.2, 4.4))
_ = plots.plot_sandwich(sigma, list(found), [result.error_fro for result in found.values()], ax=ax)

# %% [markdown]
# The grey band is what the theorem leaves open. What was found lies inside, and at no rank near the
# lower edge. At $r = 3$, $K = 9$ exceeds the size of the matrix: the lower bound is 0 and says
# nothing.
#
# ## When the search meets the bound
#
# The identity is kinder. The $2\times2$ identity has rank 2, so LoRA of rank 1 leaves an error
# of 1. PERA of rank 1 has it exactly: $b = a = (1, -1)^\top/\sqrt2$, $h = 2$. By hand: $b a^\top$
# is $\tfrac12$ with signs $+,-,-,+$, and $h\,(b\circ b)(a\circ a)^\top$ is $2\cdot\tfrac14$
# everywhere. The sum is 1 on the diagonal, 0 beside it. Inside a larger identity the same corner
# serves. What is the best of rank 1 for the $6\times6$ identity?

# %%
b = np.array([[1.0], [-1.0]]) / np.sqrt(2)
print(formulas.pera(b, b.T, np.array([2.0])).round(12) + 0.0)  # + 0.0 turns -0 into 0
assert np.allclose(formulas.pera(b, b.T, np.array([2.0])), np.eye(2), atol=1e-15)

for method in (pk.LoRA(1), pk.PERA(1)):
    result = theory.best_approximation(np.eye(6), method, starts=STARTS)
    print(
        f"\n{type(method).__name__} of rank 1: error {result.error_fro:.4f}\n  "
        f" {result.certificate}"
    )
assert np.isclose(result.error_fro, 2)
assert np.isclose(result.lower_fro, 2)

# %% [markdown]
# PERA's error is 2, and no matrix of rank $K = 2$ is nearer than 2. Here the upper bound that was
# found meets the lower bound that is proved, so this *is* the minimum (up to the $10^{-6}$ of the
# certificate). LoRA's $\sqrt5$ is a theorem, and needs no luck.
#
# ## Does the product help, to first order?
#
# Stand at LoRA's best, the truncated SVD, and look at $h$. Its gradient is
#
# $$\frac{\partial L}{\partial h_{ij}} = (b_i\circ b_j)^\top\, G\, (a_i\circ a_j),\qquad G = \Delta
# W - E .$$
#
# If one of these is not zero, a small step in $h$ lowers the error: then PERA's infimum is
# *strictly* below LoRA's. That is a proof, and a cheap one. If all are zero it proves nothing.
# Compute them at $r = 1$ for six targets: besides *gaussian* a matrix with singular values $1,
# \frac12, \frac13, \dots$ (*power law*), the *identity*, one with entries on and beside the
# diagonal only (*banded*), one of two diagonal blocks (*block*), and one made by a PERA of rank 2
# (*pera*).


# %%
def h_gradient(E, rank):
    """The gradient by h at the truncated SVD of E, relative to the sizes of its parts."""
    U, s, Vt = np.linalg.svd(E, full_matrices=False)
    B, A = U[:, :rank] * np.sqrt(s[:rank]), np.sqrt(s[:rank])[:, None] * Vt[:rank]
    i, j = np.triu_indices(rank)
    G = B @ A - E
    gradient = ((B[:, i] * B[:, j]) * (G @ (A[i] * A[j]).T)).sum(0)
    assert np.allclose(gradient, theory.pera_gradients(G, B, A, np.zeros(len(i)))["h"])
    return abs(gradient).max() / (np.linalg.norm(G) * s[0] ** 2)


for name, target in targets.items():
    print(f"{name:10} {h_gradient(target, 1):.1e}")
    assert (
        h_gradient(target, 1) < 1e-12
        if name in ("block", "identity")
        else h_gradient(target, 1) > 1e-3
    )

# %% [markdown]
# Not zero for four of them: there PERA of rank 1 can do strictly better than LoRA. Zero, up to
# rounding, for two.
#
# - **block** consists of two diagonal blocks of rank one each. The truncated SVD takes one block;
#   $b\circ b$ and $a\circ a$ live in *that* block, and the residual $G$ in the other. They never
#   meet.
# - **identity**: numerically the first singular vector is $e_1$, and the same happens.
#
# So at these two points a small step in $h$ gains nothing. Yet we have just seen that PERA gains on
# the identity. *A stationary point is not an optimum*: exercise 2, and the block target further
# down.
#
# ## Three targets, two axes
#
# Now for several ranks at once. `theory.error_curve` runs one search for each family and rank. The
# targets: *gaussian* from above, *block*, and *pera*, which was made by a PERA of rank 2 with
# normal factors, so that PERA of rank 2 reaches it exactly. LoRA's points are theorems, PERA's are
# upper bounds. Where do you expect the largest gap between the two, and where none?

# %%
chosen = ("gaussian", "block", "pera")
curves = {
    name: theory.error_curve(
        targets[name], {"LoRA": pk.LoRA, "PERA": pk.PERA}, (1, 2, 3), starts=STARTS
    )
    for name in chosen
}
fig, axes = plt.subplots(2, 3, figsize=(10.5, 6.6), sharey=True)
for column, (name, curve) in zip(axes.T, curves.items(), strict=True):
    for ax, against in zip(column, ("rank", "parameters"), strict=True):
        plots.plot_approximation(curve.lines(), against=against, ax=ax)
        ax.set(title=f"{name}: at equal {against}", ylim=(1e-2, 1.5))
for ax in axes.flat[1:]:
    ax.get_legend().remove()
    ax.set(ylabel=axes[0, 0].get_ylabel() if ax is axes[1, 0] else "")
_ = axes[0, 0].legend(loc="lower left")

for name, curve in curves.items():
    print(f"{name:9} r   LoRA's error (numbers)   PERA's error (numbers)")
    for plain, expanded in zip(curve.line("LoRA"), curve.line("PERA"), strict=True):
        columns = (
            f"{point.error:14.1e} ({point.parameters})".ljust(24) for point in (plain, expanded)
        )
        print(f"{plain.rank:11} {''.join(columns).rstrip()}")
        assert expanded.error <= plain.error + 1e-9
assert curves["pera"].line("PERA")[1].error < 1e-9
assert curves["pera"].line("LoRA")[1].error > 0.1

# %% [markdown]
# - *gaussian*: PERA's points are below LoRA's at each rank.
# - *block*: at $r = 1$ the two points coincide on the page, with the few starts used here. The
#   target has rank 2 and $K = 2$, so the lower bound is zero, and still hardly anything was *found*
#   below LoRA. From $r = 2$ on both are exact, so they have left the axis at the bottom. We come
#   back to this one.
# - *pera*: at $r = 2$ PERA is exact, since the target was made that way, and LoRA of rank 2 is far
#   off. A method shines on targets of its own kind. Whether the changes that a model needs are of
#   this kind is a question about models, and no figure on this page answers it.
#
# ## What is a fair comparison?
#
# At equal *rank* PERA has more parameters than LoRA. At equal *parameters* (lower row) a point of
# PERA must be held against what LoRA does with as many numbers. On an $8\times10$ layer the
# difference is small; on a real one it is tiny: $r(r+1)/2$ beside $r(m+n)$. How tiny?

# %%
for m, n, rank in ((8, 10, 2), (768, 768, 16), (4096, 4096, 16)):
    plain, expanded = (formulas.parameter_count(m, n, rank, name) for name in ("lora", "pera"))
    wide = formulas.rank_bound(rank) * (m + n)
    print(
        f"{m} x {n}, r = {rank}: LoRA {plain:,}, PERA {expanded:,}"
        f" (+{(expanded - plain) / plain:.2%}), LoRA of rank K {wide:,}"
    )
assert (
    formulas.parameter_count(768, 768, 16, "pera") - formulas.parameter_count(768, 768, 16, "lora")
    < 768 + 768
)

# %% [markdown]
# At equal parameters PERA of rank 16 stands against LoRA of rank 16 there: its 136 extra numbers do
# not even pay for a 17th rank. Held against LoRA of rank $K$ PERA *must* lose or tie in
# approximation, whatever the target, since its updates are among LoRA's of that rank; but that LoRA
# has many times the numbers. Say which comparison you make.
#
# ## A trap: what a search did not find
#
# At $r = 1$ the block target looked like a case in which PERA gains nothing. All that we know is
# that the search from a few starts found next to nothing. Give it more starts, on this block target
# and on the one of another seed.

# %%
for seed in (4, 0):
    target = theory.targets(8, 10, seed=seed)["block"]
    for starts in (8, 64):
        result = theory.best_approximation(target, pk.PERA(1), starts=starts)
        print(
            f"block, seed {seed}, {starts:2} starts: LoRA {result.upper_fro:.4f}, PERA"
            f" {result.error_fro:.4f}"
        )
        if (seed, starts) == (4, 64):
            assert result.error_fro < 0.7 * result.upper_fro

# %% [markdown]
# With 64 starts there is an update at little more than half of LoRA's error. It was there all the
# time. (How can rank-one factors serve two blocks? An entry $u + hu^2$ is zero at $u = 0$ and at $u
# = -1/h$: PERA can make the two empty blocks small without small factors. How well depends on the
# numbers in the blocks.) For the other seed 64 starts find nothing. Does that mean there is
# nothing? We do not know. That the gradient by $h$ was zero told us about the neighbourhood of one
# point, and no more.
#
# A harder case. Here is a target of another draw, made by a PERA of rank 2: its infimum is 0.
# Descend on it from twelve random starts, as at the top of this page. What do they say?

# %%
hard = theory.targets(8, 10, seed=0)["pera"]
rng = np.random.default_rng(0)
ends = []
for _ in range(12):
    start = rng.normal(size=(8, 2)), rng.normal(size=(2, 10)), 0.3 * rng.normal(size=3)
    ends.append(descend(start, hard)[0][-1] / np.linalg.norm(hard))
print("relative errors at the end:", np.sort(ends).round(3))
assert min(ends) > 0.01

# %% [markdown]
# They stop well above zero, at several different errors. If we did not know how the target was
# made, it would be tempting to conclude that PERA of rank 2 cannot reach it. **A search that fails
# proves nothing about the family.**
#
# ## The factors found again
#
# And yet the factors can be *read off* this matrix, without luck. Look at its column space $V$, the
# set of all $Ec$ for a matrix $E$. The columns are combinations of five vectors, the **features**
# $b_1, b_2, b_1\circ b_1, b_1\circ b_2, b_2\circ b_2$. A subspace forgets which of its vectors were
# the $b_i$ and which the products. But we can multiply vectors of $V$ by each other, entry by
# entry, and ask whether we are still in $V$:
#
# - $b_1\circ b_1$ is, and so is the square of any combination of $b_1$ and $b_2$;
# - the square of $b_1\circ b_1$ has degree four. There is no reason why it should be in $V$.
#
# So here is a test that tells the two kinds apart. Walk in $V$ from $b_1$ to $b_1\circ b_1$, and
# measure which part of $x\circ x$ leaves $V$. Where is it zero?

# %%
rng = np.random.default_rng(1)
B, A, h = rng.normal(size=(12, 2)), rng.normal(size=(2, 14)), rng.normal(size=3)
merged = formulas.pera(B, A, h)
V = np.linalg.svd(merged)[0][:, :5]


def leaves(x):
    """Which share of x∘x is outside V."""
    square = x * x
    return np.linalg.norm(square - V @ (V.T @ square)) / np.linalg.norm(square)


def unit(x):
    return x / np.linalg.norm(x)


angles = np.linspace(-np.pi / 2, np.pi / 2, 181)
b1, b2 = unit(B[:, 0]), unit(B[:, 1])
fig, ax = plt.subplots()
for end, name in ((unit(b1 * b1), "towards b₁∘b₁"), (b2, "towards b₂")):
    walk = [leaves(np.cos(angle) * b1 + np.sin(angle) * end) for angle in angles]
    ax.plot(angles, walk, label=name)
ax.set(
    xlabel="angle from b₁",
    ylabel="share of x∘x outside V",
    title="Only combinations of the b's have their squares in V",
)
_ = ax.legend()
assert leaves(b1 - 3 * b2) < 1e-12 < 0.01 < leaves(b1 * b1)

# %% [markdown]
# Along $b_2$ it is zero all the way, and towards $b_1\circ b_1$ only where we start. So *look for
# $x$ in $V$ with $x\circ x$ in $V$*: five unknown numbers in place of 55, and whatever we find is a
# combination of the $b_i$. From there on it is linear algebra. All $y$ in $V$ with $x\circ y$ in
# $V$ give the plane of the $b_i$; with it the rows follow; one $2\times2$ eigenproblem tells $b_1$
# and $b_2$ apart; then $h$ is linear. `theory.recover` does this, and tests itself: do the factors
# make the matrix?

# %%
recovered = theory.recover(merged, pk.PERA(2))
print(recovered)
print(
    "h that made it:",
    np.sort(h[[0, 2]]).round(6),
    " h found:",
    np.sort(recovered.h[[0, 2]]).round(6),
)
assert recovered.member
assert np.allclose(np.sort(recovered.h[[0, 2]]), np.sort(h[[0, 2]]))
print("the hard one: ", theory.recover(hard, pk.PERA(2)))
assert theory.recover(hard, pk.PERA(2)).member

# %% [markdown]
# The factors come back in some order and with some scale of each $b_i$ (the $a_i$ takes it back),
# and nothing else is left open: that is the small symmetry group of [notebook
# 06](06_manifold.ipynb). A LoRA keeps its factors to itself: $BA = (BX)(X^{-1}A)$ for every
# invertible $X$.
#
# `best_approximation` starts from these factors, so it is exact on all such targets, and that is
# all that it tells about other ones. The trick needs $K < \min(m, n)$, or $V$ is the whole space;
# with fewer than $K + r$ rows and columns it has too few equations. With noise it goes to the
# nearest update that it can reach, and says how near that is:

# %%
noise = rng.normal(size=merged.shape)
for share in (1e-6, 1e-2):
    noisy = merged + share * noise * np.linalg.norm(merged) / np.linalg.norm(noise)
    recovered = theory.recover(noisy, pk.PERA(2))
    print(recovered)
    assert recovered.relative < share
    assert not recovered.member

# %% [markdown]
# ## When there is no best update
#
# So far "infimum" could have been "minimum". Not always. Take $E = x\mathbf 1^\top + \mathbf 1
# y^\top$, entries $x_p + y_q$, for instance $1 \dots 9$ in rows of three, and
#
# $$b = \frac{\mathbf 1 - \varepsilon x}{\sqrt\varepsilon},\qquad a = \frac{\mathbf 1 - \varepsilon
# y}{\sqrt\varepsilon},\qquad
# h = -\varepsilon .$$
#
# With $u = (1 - \varepsilon x_p)(1 - \varepsilon y_q)/\varepsilon$ an entry is $u - \varepsilon
# u^2$: two numbers of size $1/\varepsilon$ that cancel, and leave $x_p + y_q$ up to terms of size
# $\varepsilon$. Make $\varepsilon$ small and watch distance and factors.

# %%
x, y = np.array([0.0, 3.0, 6.0]), np.array([1.0, 2.0, 3.0])
nine = x[:, None] + y[None]
steps = np.logspace(-1, -6, 11)
distances, sizes = [], []
for e in steps:
    b, a = (1 - e * x) / np.sqrt(e), (1 - e * y) / np.sqrt(e)
    distances.append(np.linalg.norm(formulas.pera(b[:, None], a[None], np.array([-e])) - nine))
    sizes.append(abs(b).max())
fig, ax = plt.subplots()
ax.loglog(steps, distances, "o-", label="distance to the target")
ax.loglog(steps, sizes, "s--", label="largest entry of b")
ax.invert_xaxis()
ax.set(xlabel="ε, decreasing", ylabel="size", title="Nearer and nearer, with factors that run away")
_ = ax.legend(loc="lower left")
assert distances[-1] < 1e-3 < 100 < sizes[-1]

result = theory.best_approximation(nine, pk.PERA(1), starts=4 * STARTS)
print(f"error {result.error_fro:.2e}, growth {result.growth:.1e}, diverging: {result.diverging}")
print(result.certificate)
assert result.error_fro < 0.05
assert result.diverging

# %% [markdown]
# The distance goes to zero, and no update *is* at zero: the infimum is not attained
# ([proved](../docs/claims.md#infimum-not-attained) for this target). `growth` measures how strongly
# $\Delta W$ reacts to relative changes of the factors; it is $\sqrt2$ for LoRA of rank 1, and in
# the hundreds or more where large terms cancel. `diverging` reports growth above 100. It is a sign,
# and no proof.
#
# The search finds this only because some of its starts are large and nearly cancelling, and one is
# read off the column space. The best of 24 ordinary starts stops at 0.4943
# ([claim](../docs/claims.md#optimisers-stop)): one more upper bound that is not the infimum.
#
# ## The gain that is found shrinks as the matrix grows
#
# Small matrices flatter. Take Gaussian targets of growing size, $r = 1$ throughout, and ask which
# share of LoRA's error PERA was found to remove. Two targets of each size, to see how much chance
# there is in it.

# %%
sides, gains = (4, 8, 12, 16), []
for side in sides:
    results = [
        theory.best_approximation(
            theory.targets(side, side, seed=seed)["gaussian"], pk.PERA(1), starts=STARTS
        )
        for seed in (0, 1)
    ]
    gains.append([1 - result.error_fro / result.upper_fro for result in results])
fig, ax = plt.subplots()
ax.plot(sides, 100 * np.array(gains), "o", color="C0", alpha=0.5, label=["one target", None])
ax.plot(sides, 100 * np.mean(gains, axis=1), "-", color="C0", label="mean of two targets")
ax.set(
    xlabel="side of the matrix",
    ylabel="share of LoRA's error removed, %",
    title="PERA of rank 1, Gaussian targets: found",
    xticks=sides,
)
_ = ax.legend()
assert np.mean(gains[0]) > 3 * np.mean(gains[-1])

# %% [markdown]
# From about a quarter to a few per cent. Counting makes this plausible: over LoRA of the same rank,
# PERA gains $r(3r-1)/2$ dimensions, whatever the size of the layer ([notebook
# 06](06_manifold.ipynb)), and the target has $mn$ entries to be met. That is a count, no proof, and
# these are errors found, not minima.
#
# It is not special to random targets. On growing blocks of a *trained* full-rank update of the tiny
# GPT-2, at $r = 4$, the error that PERA was found to leave comes nearer to LoRA's, too:
# [docs/theory.md](../docs/theory.md) has the numbers and the figure, which take minutes.
#
# ## What this page does not say
#
# Nothing here says what training finds. Training never sees $E$: it descends a loss on data, from
# $B = 0$ and $h = 0$, for some number of steps. The nearest update to some matrix need not be the
# one with the lowest loss, and it need not be where the descent goes. "PERA can represent it" and
# "the run got there because of the products" are different sentences. For the second, look at the
# run ([notebook 10](10_fine_tuning.ipynb)).

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
# The sandwich holds in the spectral norm as well (the largest singular value of a difference):
# $\sigma_{K+1} \le \inf \le \sigma_{r+1}$. A search result has `error_spec`, `lower_spec` and
# `upper_spec`. Must `error_spec` lie between the other two? Decide which of the two inequalities is
# certain. Then break the other one on the Gaussian target `E`, with PERA of rank 1: find an update
# that is nearer to `E` than LoRA's best of rank 1 in Frobenius norm, and farther away in spectral
# norm. `answer_1` is a tuple of its factors, `(B, A, h)`, of the shapes (8, 1), (1, 10) and (1,).
#
# <details><summary>Hint 1</summary>
#
# Which of the two bounds holds for *every* update of the set, and which one only for the best?
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# A search minimises one norm and does not look at the other. Compare the two errors in `found[1]`,
# a result from above, with `tail(1)` and `sigma[1]`. It has its `factors`, too.
#
# </details>

# %% tags=["your-turn"]
# Your turn
answer_1 = ...  # (B, A, h)

# %% tags=["self-check"]
pk.classroom.self_check("07.1", answer_1)

# %% tags=["hide-cell"] jupyter={"source_hidden": true, "outputs_hidden": true}
with pk.classroom.folded():
    for rank, result in found.items():
        print(
            f"r = {rank}: lower {result.lower_spec:.3f}, found {result.error_spec:.3f}, upper"
            f" {result.upper_spec:.3f}"
        )
        assert result.lower_spec <= result.error_spec  # any single update obeys the lower bound
    print(
        "The upper bound is one for the infimum. A solution sought in Frobenius norm may lie above"
        " it in spectral norm. At r = 1 it does, and its factors are an answer."
    )
    our_example = tuple(found[1].factors[name] for name in ("B", "A", "h"))
    print("shapes:", *(factor.shape for factor in our_example))
    assert found[1].error_fro < tail(1)
    assert found[1].error_spec > sigma[1]

# %% [markdown]
# ### Exercise 2
#
# *10 minutes · difficulty 2 of 5*
#
# At the identity the truncated SVD gave a zero gradient by $h$. But the singular vectors of the
# identity are not unique: $b = a = v$ is a best rank-one approximation for *any* unit vector $v$.
# Choose $v = (1, -1)^\top/\sqrt2$ for the $2\times2$ identity, and descend from there with
# `descend`. Where does it end? `answer_2` is the gradient by $h$ at the start, a number.
#
# <details><summary>Hint 1</summary>
#
# The formula is in the section on the first order: it takes $b\circ b$, $a\circ a$ and
# $G = ba^\top - E$.
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# $v\circ v$ has two equal entries. What is $v v^\top (v\circ v)$, and what is left of $G\,(v\circ
# v)$?
#
# </details>

# %% tags=["your-turn"]
# Your turn
answer_2 = ...  # a number

# %% tags=["self-check"]
pk.classroom.self_check("07.2", answer_2)

# %% tags=["hide-cell"] jupyter={"source_hidden": true, "outputs_hidden": true}
with pk.classroom.folded():
    v = np.array([[1.0], [-1.0]]) / np.sqrt(2)
    gradient = theory.pera_gradients(v @ v.T - np.eye(2), v, v.T, np.zeros(1))["h"]
    print("gradient by h:", gradient)
    assert gradient[0] < -0.1
    errors, (_, _, last_h) = descend((v, v.T, np.zeros(1)), np.eye(2))
    print(f"error after the descent: {errors[-1]:.1e}, h = {last_h[0]:.4f}")
    assert errors[-1] < 1e-4
    assert np.isclose(last_h[0], 2, atol=1e-3)

# %% [markdown]
# ### Exercise 3
#
# *5 minutes · difficulty 1 of 5*
#
# From which rank on do PERA's extra coefficients on a $768\times768$ layer cost as much as one more
# rank of LoRA? What does that mean for the comparison at equal parameters? `answer_3` is the rank,
# a whole number.
#
# <details><summary>Hint 1</summary>
#
# Write both prices down: that of the coefficients $h_{ij}$, $i \le j$, at rank $r$, and that of one
# more column of $B$ with one more row of $A$.
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# It is the first $r$ with $r(r+1)/2 \ge m + n$. A loop finds it, or a square root.
#
# </details>

# %% tags=["your-turn"]
# Your turn
answer_3 = ...  # a whole number

# %% tags=["self-check"]
pk.classroom.self_check("07.3", answer_3)

# %% tags=["hide-cell"] jupyter={"source_hidden": true, "outputs_hidden": true}
with pk.classroom.folded():
    rank = next(r for r in range(1, 769) if r * (r + 1) // 2 >= 768 + 768)
    print(
        "r =",
        rank,
        "with",
        rank * (rank + 1) // 2,
        "coefficients; one rank of LoRA costs",
        768 + 768,
    )
    assert rank == 55
    print(
        "Below that, equal parameters and equal rank are nearly the same comparison on this layer."
    )

# %% [markdown]
# ### Exercise 4: factors from a merged weight
#
# *30 minutes · difficulty 5 of 5*
#
# Somebody publishes a merged weight $W_0 + \Delta W$, and you have $W_0$ as well. The update was
# made by a PERA of rank 1, $\Delta W = b a^\top + h\,(b\circ b)(a\circ a)^\top$. Find $b$, $a$ and
# $h$, with linear algebra alone: no search, and no `theory.recover`. The column space $V$ has two
# dimensions now, so any $x$ in it is $c_1v_1 + c_2v_2$ with an orthonormal basis $v_1, v_2$.
# `answer_4` is a function `(merged, W0)` that returns three values `(b, a, h)`, with $m$ entries,
# $n$ entries and one. The check calls it on weights of its own, and asks whether the factors make
# the update.
#
# <details><summary>Hint 1</summary>
#
# Write $x\circ x$ as a combination of three vectors that you know. Take away from each of the three
# the part that lies in $V$, as `X - V @ (V.T @ X)` does. Which combination of what is left is zero?
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# The three numbers of that combination tell $c_1 : c_2$, so you have $x$, which is $b$ up to a
# factor. Then $\Delta W = x\,\alpha^\top + (x\circ x)\,\beta^\top$, with two rows that least
# squares finds (`np.linalg.lstsq`). Take $b = x$ and $a = \alpha$. How does $\beta$ depend on $h$?
#
# </details>

# %% tags=["your-turn"]
# Your turn
answer_4 = ...  # a function (merged, W0) -> (b, a, h)

# %% tags=["self-check"]
pk.classroom.self_check("07.4", answer_4)


# %% tags=["hide-cell"] jupyter={"source_hidden": true, "outputs_hidden": true}
def factors_of(merged_weight, W0):
    """b, a and h of a rank-1 PERA update, up to a factor of b that a takes back."""
    delta = merged_weight - W0
    V = np.linalg.svd(delta)[0][:, :2]
    squares = np.stack([V[:, 0] ** 2, V[:, 0] * V[:, 1], V[:, 1] ** 2], axis=1)
    # The combination whose part outside V is zero: (c1², 2 c1 c2, c2²) up to a factor
    p, q, s = np.linalg.svd(squares - V @ (V.T @ squares))[2][-1]
    x = V @ (np.array([p, q / 2]) if abs(p) > abs(s) else np.array([q / 2, s]))
    alpha, beta = np.linalg.lstsq(np.stack([x, x * x], axis=1), delta, rcond=None)[0]
    return x, alpha, beta @ alpha**2 / (alpha**2 @ alpha**2)  # β = h α∘α


with pk.classroom.folded():
    b, a, h_one, W0 = (
        np.random.default_rng(5).normal(size=size) for size in ((9, 1), (1, 7), 1, (9, 7))
    )
    b_again, a_again, h_again = factors_of(W0 + formulas.pera(b, a, h_one), W0)
    print(f"h that made it {h_one[0]:.6f}, h found {h_again:.6f}")
    print("b found / b, entry by entry:", (b_again / b[:, 0]).round(6))
    assert np.isclose(h_again, h_one[0])
    assert np.ptp(b_again / b[:, 0]) < 1e-9
    # A factor of b is taken back by a, and h stays as it is: the merged weight gives away h
    # exactly, and b and a up to one number. A LoRA of rank 1 gives away as much, and one of rank 2
    # does not.

# %% [markdown]
# ### Exercise 5
#
# *15 minutes · difficulty 3 of 5*
#
# Take $h = (1, 2, 1)$. Written out, the update is $BA + (BA)\circ(BA)$. Can `recover` find the $B$
# and $A$ that made it? Decide it by an example: other factors that make the same update.
# `answer_5` is a function `(B, A)`, for $B$ $(m, 2)$ and $A$ $(2, n)$, that returns another such
# pair with the same update at this $h$. Its columns must not be those of $B$ in another order or
# with other scales.
#
# <details><summary>Hint 1</summary>
#
# What of $B$ and $A$ does $BA + (BA)\circ(BA)$ depend on?
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# $BA = (BX)(X^{-1}A)$. Which invertible $X$ mixes the two columns?
#
# </details>

# %% tags=["your-turn"]
# Your turn
answer_5 = ...  # a function (B, A) -> (another B, another A)

# %% tags=["self-check"]
pk.classroom.self_check("07.5", answer_5)

# %% tags=["hide-cell"] jupyter={"source_hidden": true, "outputs_hidden": true}
with pk.classroom.folded():
    kernel_h, shear = np.array([1.0, 2.0, 1.0]), np.array([[1.0, 1.0], [0.0, 1.0]])
    kernel = formulas.pera(B, A, kernel_h)
    assert np.allclose(formulas.pera(B @ shear, np.linalg.inv(shear) @ A, kernel_h), kernel)

    recovered = theory.recover(kernel, pk.PERA(2))
    print(recovered)
    again = formulas.pera(**recovered.factors)
    print("h:", recovered.h.round(6), " the update:", np.allclose(again, kernel))
    assert recovered.member
    assert recovered.unique is False
    assert np.allclose(again, kernel)
    assert np.allclose(recovered.B @ recovered.A, B @ A)
    print("It finds some B and A with the same product. Only B A enters, so no one can tell which.")

# %% [markdown]
# ### Exercise 6
#
# *15 minutes · difficulty 2 of 5*
#
# A report says: "On our $64\times64$ target PERA of rank 4 has error 0.31, LoRA 0.35, so PERA's
# optimum is 11 % better." Name what is missing, and rewrite the sentence. Three of the missing
# facts are numbers that you can work out: the rank $K$ beyond which the tail is a lower bound, and
# how many numbers each of the two trains. `answer_6` is the tuple `(K, PERA's, LoRA's)`.
#
# <details><summary>Hint 1</summary>
#
# Ask of each of the two errors: is it a minimum, or what a search found? What does one have to know
# about a search?
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# $K = r(r+3)/2$; `formulas.parameter_count` counts what is trained.
#
# </details>

# %% tags=["your-turn"]
# Your turn
answer_6 = ...  # (K, PERA's numbers, LoRA's numbers)

# %% tags=["self-check"]
pk.classroom.self_check("07.6", answer_6)

# %% [markdown]
# <details><summary>Answer</summary>
#
# LoRA's 0.35 is the minimum (Eckart-Young). PERA's 0.31 is what a search found: an upper bound on
# the infimum, which may be lower and may not be attained. Missing: the number of starts and the
# seed, the lower bound (the tail beyond $K = 14$), whether the factors diverge, and the trainable
# parameters of both. For example: "The best of 16 starts (seed 0) leaves 0.31, which is an upper
# bound; no matrix of rank 14 leaves less than the tail beyond 14. LoRA of rank 4 leaves at least
# 0.35. PERA trains 522 numbers, LoRA 512. This is about representing the target, and not about
# training."
#
# </details>

# %% [markdown]
# ## Where to go next
#
# - [Notebook 08](08_kernels.ipynb): PERA's update as a quadratic kernel of the factor rows.
# - [Notebook 10](10_fine_tuning.ipynb): what a training run finds, with its `order_share`.
# - [Asking questions of an update rule](../docs/theory.md): six targets, larger sizes, a real
#   update.
# - The claims behind this page: [sandwich](../docs/claims.md#sandwich),
#   [identity](../docs/claims.md#identity), [optimisers-stop](../docs/claims.md#optimisers-stop).
