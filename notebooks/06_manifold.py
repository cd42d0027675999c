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
# # 06 The shape of the manifold: dimension, gauge, the critical start
#
# At the end you can count how many dimensions a family of updates fills, say which changes of the
# factors an update does not notice, and say what is special about $h = 0$, where every PERA run
# starts. You need the update and its rank ([notebook 02](02_polynomial_expansion.ipynb), [notebook
# 04](04_rank.ipynb)), the chain rule, and the rank of a matrix. About 35 minutes to read; the cells
# run in about 10 seconds.

# %%
import matplotlib.pyplot as plt
import numpy as np
import sympy as sp
import torch

import perakit as pk
from perakit import formulas, plots, theory

plt.style.use(plots.STYLE)

# %% [markdown]
# ## Counting directions
#
# A *family* is the set of all updates that a rule can make. How large is it? Counting its
# parameters is a first answer, and it is too large if some parameters do the same work.
#
# Take LoRA with rank 1 on a $2\times2$ layer: $\Delta W = b\,a^\top$, four parameters for four
# entries. Does it make every $2\times2$ matrix? It cannot, since $\det(b a^\top) = 0$. So the
# family has fewer than four dimensions.
#
# The **dimension** of a family is the number of independent directions in which small changes of
# the parameters move $\Delta W$, at a generic point (a random one: all but exceptional parameters
# give the same number). Small changes are what the **Jacobian** describes: the matrix with one row
# for each entry of $\Delta W$, one column for each parameter, filled with derivatives. Its rank is
# the number we want. What do you expect for these four parameters?

# %%
b1, b2, a1, a2 = parameters = sp.symbols("b1 b2 a1 a2")
update = sp.Matrix([b1, b2]) * sp.Matrix([[a1, a2]])
J = sp.Matrix(list(update)).jacobian(parameters)
silent = sp.Matrix([b1, b2, -a1, -a2])
print("rank of the Jacobian:", J.rank())
print("J times (b, -a):     ", list((J * silent).expand()))
assert J.rank() == 3
assert (J * silent).expand() == sp.zeros(4, 1)
J

# %% [markdown]
# Rank 3, with symbols, so this is exact. One direction is lost, and we can name it: lengthen $b$
# and shorten $a$ by the same share, and $b a^\top$ stays. A vector that $J$ sends to zero is a
# **null vector**: a change of the parameters that the update does not notice, to first order.
#
# Rule to remember: *dimension = parameters − independent null vectors*.
#
# Now PERA with rank 1, on a $3\times3$ layer: $\Delta W = b a^\top + h\,(b\circ b)(a\circ a)^\top$
# (arXiv 2604.11841, Eq. 9 at $r = 1$). It has $3 + 3 + 1 = 7$ parameters. Does the coefficient $h$
# add a dimension?
#
# Elimination with symbols is slow. There is a shorter way to an exact answer, from two sides. A
# null vector, found in symbols, says: *at most* 6, everywhere. And the rank at one point of whole
# numbers says: *at least* that, generically (a rank of 6 means that some $6 \times 6$ determinant
# inside $J$ is not zero; a polynomial that is not zero at one point is zero only at exceptional
# ones).

# %%
b, a, h = sp.symbols("b1:4"), sp.symbols("a1:4"), sp.Symbol("h")
update = sp.Matrix(3, 3, lambda p, q: b[p] * a[q] + h * b[p] ** 2 * a[q] ** 2)
J = sp.Matrix(list(update)).jacobian([*b, *a, h])
silent = sp.Matrix([*b, *(-x for x in a), 0])
at_a_point = J.subs(dict(zip([*b, *a, h], [1, 2, 3, 2, -1, 5, 1], strict=True)))
print("parameters:", J.shape[1], " J times (b, -a, 0):", list((J * silent).expand()))
print("rank at a point:", at_a_point.rank())
assert (J * silent).expand() == sp.zeros(9, 1)
assert at_a_point.rank() == 6

# %% [markdown]
# At most $7 - 1 = 6$ and at least 6: six dimensions, LoRA's five and one for $h$. The same null
# vector survives, and needs no change of $h$.
#
# These six dimensions already decide something. Matrices of rank at most 2 in the $3\times3$
# matrices have $2(3 + 3 - 2) = 8$ dimensions, and PERA's updates of rank $K = 2$ only 6. Most
# matrices of rank 2 are out of its reach; [notebook 05](05_theorem_one.ipynb) makes a theorem of
# that.
#
# ## The Jacobian by hand, any rank
#
# Symbols are slow for larger layers. The chain rule gives the whole Jacobian in a few lines. Every
# entry of the update is one polynomial (notebook 02), read at $u_k = B_{pk} A_{kq}$:
#
# $$\Delta W_{pq} = \varphi_h(u) = \sum_k u_k + \sum_{i\le j} h_{ij} u_i u_j .$$
#
# Let $s_k = \partial\varphi_h/\partial u_k = 1 + \sum_{j} H_{kj} u_j$, where $H$ is symmetric,
# $H_{kk} = 2h_{kk}$ and $H_{ij} = h_{ij}$ off the diagonal. Then
#
# $$\frac{\partial \Delta W_{pq}}{\partial B_{pk}} = s_k A_{kq},\qquad
# \frac{\partial \Delta W_{pq}}{\partial A_{kq}} = s_k B_{pk},\qquad
# \frac{\partial \Delta W_{pq}}{\partial h_{ij}} = u_i u_j .$$
#
# At $h = 0$ all $s_k = 1$, and the first two are LoRA's. With whole numbers in, whole numbers come
# out: nothing is rounded.


# %%
def jacobian(B, A, h):
    """(mn, P): one row per entry of ΔW, one column per parameter, in the order B, A, h."""
    (m, r), n = B.shape, A.shape[1]
    i, j = np.triu_indices(r)
    H = np.zeros((r, r), dtype=B.dtype)
    np.add.at(H, (i, j), h)
    H = H + H.T  # the diagonal is doubled, as it should be
    u = B[:, None, :] * A.T[None, :, :]  # (m, n, r)
    s = 1 + u @ H
    to_B = np.einsum("pqk,kq,pP->pqPk", s, A, np.eye(m, dtype=B.dtype)).reshape(m * n, m * r)
    to_A = np.einsum("pqk,pk,qQ->pqkQ", s, B, np.eye(n, dtype=B.dtype)).reshape(m * n, r * n)
    to_h = (u[:, :, i] * u[:, :, j]).reshape(m * n, -1)
    return np.concatenate([to_B, to_A, to_h], axis=1)


# %% [markdown]
# Is it right? Compare with torch's automatic differentiation of `formulas.pera`, on random whole
# numbers. We keep this layer, $5\times7$ with $r = 2$, for the rest of the notebook.

# %%
m, n, r = 5, 7, 2
rng = np.random.default_rng(0)
# h11, h12, h22
B, A, h = rng.integers(1, 10, (m, r)), rng.integers(1, 10, (r, n)), np.array([1, -2, 3])
parts = torch.func.jacrev(formulas.pera, argnums=(0, 1, 2))(
    *(torch.tensor(x, dtype=torch.float64) for x in (B, A, h))
)
automatic = np.concatenate([part.reshape(m * n, -1).numpy() for part in parts], axis=1)
J = jacobian(B, A, h)
assert np.array_equal(J, automatic)
print("Jacobian:", J.shape, J.dtype)

# %% [markdown]
# Equal, to the last digit. For the rank we use elimination in fractions (`theory.exact_rank`),
# since a numerical rank needs a tolerance ([notebook 04](04_rank.ipynb)). Which numbers do you
# expect for LoRA and for PERA? LoRA's Jacobian consists of the columns that belong to $B$ and $A$,
# taken at $h = 0$.

# %%
P = m * r + r * n
rank_pera, rank_lora = theory.exact_rank(J), theory.exact_rank(jacobian(B, A, 0 * h)[:, :P])
print(f"LoRA: {P} parameters, rank {rank_lora}:  {P - rank_lora} null vectors")
print(f"PERA: {J.shape[1]} parameters, rank {rank_pera}:  {J.shape[1] - rank_pera} null vectors")
assert rank_lora == theory.dimension(m, n, r, "none") == P - r**2
assert rank_pera == theory.dimension(m, n, r) == r * (m + n) + r * (r - 1) // 2

# %% [markdown]
# LoRA loses four directions, $r^2$. PERA loses two, $r$. The closed forms, for $r \le \min(m, n)$
# and as long as they do not exceed $mn$, are
#
# | family | parameters | null vectors | dimension |
# |:--|:--|:--|:--|
# | LoRA | $r(m+n)$ | $r^2$ | $r(m+n) - r^2$ |
# | PERA, cross terms | $r(m+n) + r(r-1)/2$ | $r$ | $r(m+n) - r + r(r-1)/2$ |
# | PERA, squares | $r(m+n) + r$ | $r$ | $r(m+n)$ |
# | PERA | $r(m+n) + r(r+1)/2$ | $r$ | $r(m+n) + r(r-1)/2$ |
#
# perakit calls them *verified*: the exact rank of the Jacobian agreed in every random example
# ([claims](../docs/claims.md#dimension)); that is not a proof for all sizes.
# `theory.measured_dimension` does what we did, for any family and any size.

# %%
print(f"{'':12}" + "".join(f"{terms:>8}" for terms in ("none", "cross", "square", "full")))
for rank in (1, 2, 3, 4):
    closed = [
        theory.dimension(11, 13, rank, terms) for terms in ("none", "cross", "square", "full")
    ]
    measured = [
        theory.measured_dimension(11, 13, rank, terms)
        for terms in ("none", "cross", "square", "full")
    ]
    print(f"11 x 13, r={rank}" + "".join(f"{value:8}" for value in measured))
    assert closed == measured

# %% [markdown]
# At $r = 1$ cross terms add nothing: there is no pair $i < j$. Now the lines for a larger layer,
# and with them all matrices of rank at most $K = r(r+3)/2$, the largest rank of a PERA update.
# Before you look: PERA reaches rank $K$. Is its line near that of all matrices of rank $K$, or near
# LoRA's?

# %%
_, ax = plt.subplots(figsize=(6.4, 4.6))
_ = plots.plot_dimension(64, 48, range(1, 9), ax=ax)

# %% [markdown]
# Near LoRA's. *High rank is not many dimensions.* A PERA update can have rank 14 at $r = 4$, but
# its fourteen rank-one terms are made of the same four columns and four rows. The family is a thin
# surface inside the matrices of rank 14.

# %% [markdown]
# ## Where LoRA's missing dimensions went
#
# $r^2$ null vectors, for every LoRA. A change of the factors that leaves the update as it is, is
# called a **gauge** change, and all of them together the **gauge group**. For LoRA it is $GL(r)$,
# all invertible $r \times r$ matrices $X$:
#
# $$(BX)(X^{-1}A) = BA .$$
#
# Its null vectors are the small changes with $X = I + tY$: $\delta B = BY$, $\delta A = -YA$, for
# any $r\times r$ matrix $Y$. Which of them does PERA keep? We multiply all four basis matrices $Y$
# with both Jacobians.

# %%
J_lora = jacobian(B, A, 0 * h)[:, :P]
for k in range(r):
    for q in range(r):
        Y = np.zeros((r, r), dtype=int)
        Y[k, q] = 1
        change = np.concatenate([(B @ Y).ravel(), (-Y @ A).ravel()])
        for_lora, for_pera = J_lora @ change, J @ np.concatenate([change, 0 * h])
        print(
            "Y =",
            Y.tolist(),
            " LoRA moves by",
            abs(for_lora).max(),
            " PERA by up to",
            abs(for_pera).max(),
        )
        assert not for_lora.any()
        assert for_pera.any() == (k != q)

# %% [markdown]
# The diagonal ones survive, the others do not. A product of columns, $b_i \circ b_j$, allows each
# column to be rescaled, but not two columns to be mixed. What remains for PERA, besides rescaling,
# is to reorder the columns: the **monomial matrices** $X = PD$, with a permutation matrix $P$ and
# an invertible diagonal $D$. Then $h$ is reordered and otherwise stays. In particular $h_{ij}$ is
# *not* divided by anything: the scale of $b_i$ and that of $a_i$ cancel in each product.
# `theory.gauge_orbit` makes such factors.

# %%
moved_B, moved_A, moved_h = theory.gauge_orbit(
    B, A, h, scales=np.array([2.0, -4.0]), permutation=[1, 0]
)
print("h before:", h, " after:", moved_h)
# Powers of two: no rounding
assert np.array_equal(formulas.pera(moved_B, moved_A, moved_h), formulas.pera(B, A, h))
X = np.array([[1, 1], [0, 1]])  # mixes the columns
mixed_B, mixed_A = B @ X, np.array([[1, -1], [0, 1]]) @ A
print("mixed columns: LoRA the same:", np.array_equal(mixed_B @ mixed_A, B @ A))
print(
    "               PERA the same:",
    np.array_equal(formulas.pera(mixed_B, mixed_A, h), formulas.pera(B, A, h)),
)

# %% [markdown]
# Now along whole paths. `theory.gauge_path` walks along $B e^{tX}$, $e^{-tX} A$ with $h$ held, and
# says how far the update has moved. We take two directions $X$: a rotation, which mixes the
# columns, and a scaling. And four coefficients, in the order $(h_{11}, h_{12}, h_{22})$.
#
# Predict: which of the four return along the rotation, and when? A quarter turn exchanges the
# columns, up to a sign.

# %%
rotation, scaling = np.array([[0, 1], [-1, 0]]), np.diag([1, -1])
cases = {
    "LoRA: h = 0": (0, 0, 0),
    "h = (1, 3, -2)": (1, 3, -2),
    "h = (1, 3, 1)": (1, 3, 1),
    "h = (1, 2, 1)": (1, 2, 1),
}
small_B, small_A = rng.normal(size=(m, r)), rng.normal(size=(r, n))
walks = {}
fig, axes = plt.subplots(1, 2, figsize=(9.6, 3.6), sharey=True)
for ax, X, times in (
    (axes[0], rotation, np.linspace(0, np.pi, 101)),
    (axes[1], scaling, np.linspace(0, 1, 101)),
):
    for k, (name, coefficients) in enumerate(cases.items()):
        path = theory.gauge_path(small_B, small_A, np.array(coefficients, dtype=float), X, t=times)
        size = np.linalg.norm(formulas.pera(small_B, small_A, np.array(coefficients)))
        walks[name, ax is axes[0]] = path.update / size
        # Those that stay at zero coincide: the first is wide and pale, the rest thinner each time
        style = {"linewidth": (8, 4, 2.6, 1.4)[k], "alpha": 1 if k else 0.4}
        ax.plot(times, path.update / size, plots.LINES[k], **style, label=name)
axes[0].set(
    xlabel="angle t of the rotation",
    ylabel="update moved by, as a share of ‖ΔW‖",
    title="Mixing the columns",
)
axes[0].set_xticks([0, np.pi / 2, np.pi], ["0", "quarter turn", "half turn"])
axes[1].set(
    xlabel="t, with columns scaled by $e^t$ and $e^{-t}$",
    title="Scaling the columns: nothing moves",
)
_ = axes[1].legend(handlelength=2.8, loc="upper right")

assert all(walks[name, False].max() < 1e-12 for name in cases)  # scaling: a symmetry for any h
assert walks["h = (1, 3, -2)", True][50] > 0.1
assert walks["h = (1, 3, -2)", True][100] < 1e-12
assert walks["h = (1, 3, 1)", True][25] > 0.1
assert walks["h = (1, 3, 1)", True][50] < 1e-12
assert walks["LoRA: h = 0", True].max() < 1e-12
assert walks["h = (1, 2, 1)", True].max() < 1e-12

# %% [markdown]
# Scaling moves nothing, for any $h$. Along the rotation:
#
# - LoRA stays.
# - $h = (1, 3, -2)$ leaves, and is back only after a half turn, where $e^{tX} = -I$ rescales both
#   columns by $-1$.
# - $h = (1, 3, 1)$ is back after a quarter turn already: the columns have changed places, and
#   $h_{11} = h_{22}$ does not notice.
# - $h = (1, 2, 1)$ never leaves. This is a trap for anyone who says "PERA's symmetries are the
#   monomial matrices" and forgets the word *generic*. With $h_{11} = h_{22} = c$, $h_{12} = 2c$ the
#   update is $BA + c\,(BA)\circ(BA)$ ([claim](../docs/claims.md#kernel), and [notebook
#   08](08_kernels.ipynb)): it reads the product $BA$ alone, so it keeps all of LoRA's symmetry.
#
# ## One rule for all of them: the gauge theorem
#
# What do $h = 0$ and $h = (1, 2, 1)$ have in common? Write $h$ as the symmetric matrix $H$ of the
# Jacobian above: $\begin{pmatrix}2h_{11}&h_{12}\\h_{12}&2h_{22}\end{pmatrix}$. For these two,
# *both rows of $H$ are the same*. For $(1, 3, -2)$ and $(1, 3, 1)$ they differ.
#
# That is the whole rule, and it can be seen in one line. Row $k$ of $H$ is the slope of the entry's
# polynomial: $\partial\varphi_h/\partial u_k = 1 + \sum_j H_{kj}u_j$. If rows $i$ and $k$ are
# equal, so are the two slopes, everywhere. Then taking a little from $u_i$ and giving it to $u_k$
# changes nothing, so $\varphi_h$ depends on $u_i + u_k$ alone. And $u_i + u_k$ is an entry of
# $b_i a_i^\top + b_k a_k^\top$: a LoRA of rank 2, which does not mind if its columns are mixed.
#
# So sort the columns into **classes of equal rows of $H$**. Inside a class of $r_c$ columns you may
# mix as you like, an invertible $r_c\times r_c$ matrix: $r_c^2$ directions. Between classes you may
# not. The **gauge theorem** says that this is all: if $K \le \min(m, n)$, then for generic $B$ and
# $A$ and *any* $h$ the update does not see
#
# $$\sum_c r_c^2$$
#
# directions of the factors, to first order, and these are the mixings within the classes
# ([proved](../docs/claims.md#gauge-theorem), all sizes with $K \le\min(m, n)$, any degree). One
# class of all columns gives LoRA's $r^2$, classes of one column each give $r$.
#
# Four columns can be grouped in five ways. Before you look: how many directions for each?

# %%
rank, side = 4, formulas.rank_bound(4)  # K = 14, the smallest layer of which the theorem speaks
i, j = formulas.pairs(rank)
big_B, big_A = rng.integers(-30, 31, (side, rank)), rng.integers(-30, 31, (rank, side))
groups = {}
for parts in ((4,), (3, 1), (2, 2), (2, 1, 1), (1, 1, 1, 1)):
    place = np.repeat(np.arange(len(parts)), parts)  # which class column k is in
    between = 1 + np.add.outer(np.arange(len(parts)) ** 2, np.arange(len(parts)) ** 2)
    # Half of H has one number for each pair of classes, and no two rows of `between` are equal
    coefficients = between[place[i], place[j]] * np.where(i == j, 1, 2)
    groups[" + ".join(map(str, parts))] = found = theory.gauge((big_B, big_A, coefficients))
    print(f"{parts!s:14} classes {found.classes}: {found.dimension:2}, counted {found.kernel:2}")
    assert found.kernel == found.dimension == sum(part**2 for part in parts)
_ = plots.plot_gauge_dimension(groups)

# %% [markdown]
# The dots are counts: parameters minus the exact rank of the Jacobian at these whole numbers.
# `theory.gauge` takes factors, yours too, and says which classes they have, which directions, and
# whether it could check that there are no others: the theorem speaks of generic factors, and a
# program has to look whether yours are.

# %%
print(theory.gauge((B, A, np.array([1, 3, 1]))))

# %% [markdown]
# One class for each column, so no mixing. The line about exchanges is what brought the walk back
# after a quarter turn: the two columns may change places and $h = (1, 3, 1)$ does not notice.
#
# On large layers there is a statement without "to first order" as well: if no coefficient is zero,
# $\Delta W$ determines its factors up to these mixings and the order of the columns
# ([proved](../docs/claims.md#identifiability)). LoRA's factors are never determined.
#
# ## The accounts
#
# How many dimensions does PERA gain over LoRA of the same rank, and what did it pay? Subtract the
# closed forms (below $mn$):
#
# $$\underbrace{r(m+n) + \tfrac{r(r-1)}2}_{\text{PERA}} - \underbrace{\bigl(r(m+n) -
# r^2\bigr)}_{\text{LoRA}} = \frac{r(3r-1)}2
# = \underbrace{\frac{r(r+1)}2}_{\text{new parameters } h} + \underbrace{(r^2 -
# r)}_{\text{symmetries lost}} .$$
#
# It trains $r(r+1)/2$ more numbers. The other $r^2 - r$ dimensions cost no parameter: LoRA trains
# them already, and spends them on its gauge group. Without the symmetry they count
# ([claim](../docs/claims.md#free-dimensions)).

# %%
print(" r   gained   paid for by h   from broken symmetry")
for rank in range(1, 6):
    gained = theory.measured_dimension(23, 29, rank) - theory.measured_dimension(
        23, 29, rank, "none"
    )
    paid, free = rank * (rank + 1) // 2, rank**2 - rank
    print(f"{rank:2} {gained:8} {paid:15} {free:22}")
    assert gained == paid + free

# %% [markdown]
# At $r = 1$ nothing is free. And for scale: on this $23 \times 29$ layer LoRA of rank 5 has $5
# \cdot 52 - 25 = 235$ dimensions, so 35 more are a modest gain, and the share falls as the layer
# grows: LoRA's dimension grows with $m + n$, the gain does not.
#
# ## The critical start
#
# So far the point was generic. Training does not begin at a generic point: it begins at $h = 0$ (a
# point of LoRA), and with one factor zero, so that the adapter changes nothing at first. perakit
# follows the released code, $B = 0$; the paper has $A = 0$.
#
# At $h = 0$ the update *is* LoRA's, but the derivatives by $h$ are there: $\partial\Delta
# W/\partial h_{ij} = (b_i\circ b_j)(a_i\circ a_j)^\top$. The gauge directions of LoRA are null
# vectors again. So, for generic $B$ and $A$: LoRA's $r(m+n) - r^2$, plus $r(r+1)/2$ from $h$. That
# is $r^2 - r$ short of PERA's dimension. A point where the rank of the Jacobian is less than
# elsewhere is called **critical**.

# %%
points = {
    "generic point": (B, A, h),
    "h = 0": (B, A, 0 * h),
    "start: B = 0, h = 0": (0 * B, A, 0 * h),
}
for name, point in points.items():
    print(f"{name:20} rank {theory.exact_rank(jacobian(*point))} of {J.shape[1]} parameters")
assert (
    theory.exact_rank(jacobian(*points["h = 0"]))
    == theory.tangent_dimension(m, n, r, at="lora")
    == rank_pera - (r**2 - r)
)
assert (
    theory.exact_rank(jacobian(*points["start: B = 0, h = 0"]))
    == theory.tangent_dimension(m, n, r, at="start")
    == m * r
)

# %% [markdown]
# At the start only $mr = 10$ directions are visible: those of $\delta B\,A$. Moving $A$ does
# nothing while $B = 0$, and moving $h$ does nothing either, since $b_i \circ b_j = 0$. This is
# LoRA's start, too: LoRA sees the same ten directions there.
#
# Ranks are whole numbers; singular values say how near to zero "nothing" is. We draw them for
# factors of ordinary size, and for a small $h$ besides. How many singular values fall when $h$
# becomes small, and how fast?

# %%
h_unit = np.array([1.0, -2.0, 3.0])
spectra = {
    "generic: h = (1, -2, 3)": jacobian(small_B, small_A, h_unit),
    "h = 0.001 (1, -2, 3)": jacobian(small_B, small_A, 1e-3 * h_unit),
    "h = 0": jacobian(small_B, small_A, 0 * h_unit),
    "start: B = 0, h = 0": jacobian(0 * small_B, small_A, 0 * h_unit),
}
sizes = np.logspace(-6, 0, 13)
weakest = np.array(
    [np.linalg.svd(jacobian(small_B, small_A, e * h_unit), compute_uv=False)[23:25] for e in sizes]
)

fig, axes = plt.subplots(1, 2, figsize=(9.6, 4.6))
for k, (name, matrix) in enumerate(spectra.items()):
    values = np.linalg.svd(matrix, compute_uv=False)
    axes[0].semilogy(
        np.arange(1, 28),
        values,
        plots.LINES[k],
        marker=plots.MARKERS[k],
        markersize=7 - 1.2 * k,
        label=name,
    )
axes[0].axhspan(1e-18, 1e-12, color="0.9", zorder=0)
axes[0].text(11, 3e-13, "zero, up to rounding", color="0.35", va="top")
axes[0].set(
    xlabel="index",
    ylabel="singular value of the Jacobian",
    ylim=(1e-18, 1e3),
    title="Directions seen: 25, 25, 23, 10",
)
axes[0].legend(fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2)
for k, column in enumerate(weakest.T):
    axes[1].loglog(
        sizes, column, plots.LINES[k], marker=plots.MARKERS[k], label=f"singular value {24 + k}"
    )
axes[1].set(
    xlabel="e, where h = e (1, -2, 3)",
    ylabel="singular value of the Jacobian",
    title="The last two go to zero with h",
)
_ = axes[1].legend()

slopes = np.diff(np.log(weakest[:7]), axis=0) / np.diff(np.log(sizes[:7]))[:, None]
print("slopes on the log axes, small h:", slopes.min().round(3), "to", slopes.max().round(3))
assert np.allclose(slopes, 1, atol=0.02)

# %% [markdown]
# Left: at a generic point 25 values are there and the last two are rounding. At $h = 0$ two more
# have gone; at the start ten are left. With $h$ a thousandth of that all 25 are there *as a rank*,
# but two of them are small. Right: those two, $r^2 - r$ in number, are proportional to $h$ (slope
# 1). They are the directions that mix columns: how far such a mixing moves the update is measured
# by $h$.
#
# So "25 dimensions" is true for every $h \ne 0$ that is generic, however small, and says little
# about how far one gets along them.
#
# ## The first step is LoRA's
#
# What a first-order optimiser sees at the start are the gradients. With $G = \partial
# L/\partial\Delta W$ they are the columns of the Jacobian, each multiplied with $G$. At $B = 0$,
# for any $h$: $\partial L/\partial h = 0$, $\partial L/\partial A = 0$, $\partial L/\partial B =
# GA^\top$, which is LoRA's ([proved in symbols](../docs/claims.md#first-step)).
#
# Here are LoRA and PERA from the same start on the same loss, $L = \tfrac12\lVert\Delta W -
# E\rVert_F^2$, so that $G = \Delta W - E$. When do they part?

# %%
E = rng.normal(size=(m, n))


def descend(steps, rate=0.1, with_h=True):
    """Gradient descent from the usual start: the update, the gradient by h, after each step."""
    B, A, h = np.zeros((m, r)), small_A.copy(), np.zeros(3)
    seen = []
    for _ in range(steps):
        gradient = theory.pera_gradients(formulas.pera(B, A, h) - E, B, A, h)
        B, A, h = (
            B - rate * gradient["B"],
            A - rate * gradient["A"],
            h - rate * with_h * gradient["h"],
        )
        seen.append((formulas.pera(B, A, h), np.linalg.norm(gradient["h"])))
    return seen


print("step   gradient by h   PERA's update minus LoRA's")
for step, ((with_products, size), (plain, _)) in enumerate(
    zip(descend(5), descend(5, with_h=False), strict=True), 1
):
    gap = np.linalg.norm(with_products - plain)
    print(f"{step:4} {size:15.6f} {gap:28.6f}")
    assert (size == 0 and gap == 0) if step == 1 else (size > 0 and gap > 0)

# %% [markdown]
# In the first step the gradient by $h$ is exactly zero and both updates are the same. In the second
# $B$ is no longer zero, so $h$ moves, and they part. Here the factors are large (entries of size 1)
# and so is the rate. At the published start they are small, and the products of small numbers are
# smaller: how much that leaves of the high-order part is measured with `theory.order_share`, in
# [notebook 10](10_fine_tuning.ipynb).
#
# ## Bent without bound
#
# A critical point can also be a point where the family is not smooth. To see what that means, a toy
# with the same mechanism and two entries only: two parameters $s$ and $h$, update $(h,\; h s)$. At
# $h = 0$ the parameter $s$ does nothing, as a mixing of columns does nothing in LoRA; where $h \ne
# 0$ it moves the update, in proportion to $h$.
#
# Walk through the point $s = 0$, $h = 0$ with velocities $(k, 1)$: $s = kt$, $h = t$. The update is
# $(t,\, k t^2)$. Draw it for several $k$.

# %%
toy = theory.Formula(
    lambda s, h: torch.stack([h, h * s], dim=1), lambda m, n: {"s": (1,), "h": (1,)}
)
t = np.linspace(-1, 1, 101)
fig, ax = plt.subplots()
for k in (0, 1, 2, 4, 8):
    bend = theory.curvature(toy, {"s": [0.0], "h": [0.0]}, {"s": [float(k)], "h": [1.0]})
    ax.plot(t, k * t**2, label=f"k = {k}: curvature {bend:.0f}")
    assert np.isclose(bend, 2 * k)
ax.plot(0, 0, "ko", zorder=5)
ax.set(
    xlabel="first entry, h",
    ylabel="second entry, h s",
    ylim=(-0.5, 2.5),
    title="One point, one velocity, any curvature",
)
_ = ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))

# %% [markdown]
# All these paths pass the same point with the same velocity $(1, 0)$, and bend as sharply as you
# like: the curvature is $2k$. On a smooth surface all paths with one velocity bend out of the
# surface by the same amount. Here the velocity does not know $k$ and the bending does.
#
# PERA at a point of LoRA does the same. Move along a gauge direction with speed $s$, and with $h$
# at a fixed speed: $(\delta B, \delta A, \delta h) = (s\,BX, -s\,XA, \delta h)$. `theory.curvature`
# computes $\lVert N f''\rVert / \lVert f'\rVert^2$, where $f'$ is the velocity of the update, $f''$
# its acceleration, and $N$ keeps what is orthogonal to all velocities that the parameters allow
# there.

# %%
point = {"B": small_B, "A": small_A, "h": np.zeros(3)}
print("speed s   X a rotation   X diagonal")
bends = {}
for s in (0, 1, 2, 4, 8, 16):
    for name, X in (("rotation", rotation), ("diagonal", np.diag([1.0, -2.0]))):
        bends[name, s] = theory.curvature(
            pk.PERA(r), point, {"B": s * small_B @ X, "A": -s * X @ small_A, "h": h_unit}
        )
    print(f"{s:7} {bends['rotation', s]:14.4f} {bends['diagonal', s]:12.4f}")
assert np.isclose(bends["rotation", 16], 16 * bends["rotation", 1])
assert bends["rotation", 1] > 0
assert all(bends["diagonal", s] == 0 for s in (0, 1, 2, 4, 8, 16))

# %% [markdown]
# In proportion to $s$ for the mixing direction, zero for the scaling, which is still a symmetry. In
# general, for $K \le\min(m, n)$: zero if $X$ mixes only columns with equal rows of $\delta h$'s
# $H$, else in proportion to $|s|$ ([proved](../docs/claims.md#lora-curvature)). An earlier version
# of this page said "unless $X$ is diagonal", of all layers. That is false, and nobody noticed as
# long as it was tried on layers like this one only
# ([refuted](../docs/claims.md#lora-is-singular)): on a layer with $m = r + 1$ it is zero for every
# $X$.

# %%
thin_B = small_B[: r + 1]
thin = theory.curvature(
    pk.PERA(r),
    {"B": thin_B, "A": small_A, "h": np.zeros(3)},
    {"B": thin_B @ rotation, "A": -rotation @ small_A, "h": h_unit},
)
print(f"{r + 1} x {n} layer, X a rotation: curvature {thin}")
assert thin == 0

# %% [markdown]
# Is that a fault of the parameters, or of the set of updates itself? In the toy it is the
# parameters': the velocities $(1, s)$ for all $s$ together span two dimensions, and two is what the
# family has. Ask PERA the same. One matrix $M = BA$ has many factors, $BX$ and $X^{-1}A$, and each
# pair allows its own velocities at $M$. If the family were a smooth surface of 25 dimensions around
# $M$, all of these velocities would fit into 25 dimensions. Do they?

# %%
mixings = [
    np.array([[1, k], [0, 1]]) @ np.array([[1, 0], [q, 1]]) for k in (0, 1, 2) for q in (0, 1, -1)
]
velocities = [jacobian(B @ X, np.rint(np.linalg.inv(X)).astype(int) @ A, 0 * h) for X in mixings]
span = theory.exact_rank(np.concatenate(velocities, axis=1))
print(f"velocities at one matrix of LoRA span {span} dimensions; PERA's family has {rank_pera}")
assert all(
    np.array_equal(B @ X @ np.rint(np.linalg.inv(X)).astype(int) @ A, B @ A) for X in mixings
)
assert span == rank_lora + 9 > rank_pera

# %% [markdown]
# They do not: 29 dimensions, LoRA's 20 and nine more. So around this matrix the family is no smooth
# surface of its own dimension, however one chooses parameters: in the strict sense, this point of
# LoRA is **singular**. (The argument is exact, in whole numbers, for this one point.)
#
# ## What this does not say
#
# It is tempting to go on: "training starts at a singular point, therefore ...". Nothing follows so
# quickly.
#
# - *It says* what the first derivatives see at one point, exactly: which directions, how many, and
#   that the first step is LoRA's.
# - *It does not say* how a run ends. After two steps $h$ is not zero any more, and for generic $h
#   \ne 0$, however small, the Jacobian has the rank of a generic point.
# - *It does not say* that the start is bad. LoRA starts with $mr$ visible directions as well, and
#   is trained every day. Nor that more dimensions are better: whether they hold good updates
#   depends on the task.
# - *It does not say* that the products will be used. That is an open question which each run has to
#   answer with its `order_share` ([claim](../docs/claims.md#gain-is-high-order)).

# %% [markdown]
# ## Exercises

# %% [markdown]
# ### Exercise 1
#
# *10 minutes · difficulty 3 of 5*
#
# PERA with squares only trains $r$ coefficients more than LoRA. How many dimensions does it gain
# over LoRA of the same rank, how many are paid for by $h$, and how many come from broken symmetry?
# And with cross terms only? Write down both for $r = 4$, then measure the gains on an $11\times13$
# layer. `answer_1` is `((paid, free), (paid, free))` for $r = 4$: squares first, then cross terms.
#
# <details><summary>Hint 1</summary>
#
# Paid for is one dimension for each coefficient. How many pairs $i < j$ are there among four
# columns?
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# LoRA has $r^2$ null vectors. The table above says how many are left with squares, and how many
# with cross terms: the others were broken, and count now.
#
# </details>

# %% tags=["your-turn"]
# Your turn
answer_1 = ...

# %% tags=["self-check"]
pk.classroom.self_check("06.1", answer_1)

# %% tags=["hide-cell"] jupyter={"source_hidden": true, "outputs_hidden": true}
with pk.classroom.folded():
    rank = 4
    base = theory.measured_dimension(11, 13, rank, "none")
    for terms, paid in (("square", rank), ("cross", rank * (rank - 1) // 2)):
        gained = theory.measured_dimension(11, 13, rank, terms) - base
        free = gained - paid
        print(f"{terms}: gained {gained} = {paid} paid for by h + {free} from broken symmetry")
        assert gained == paid + rank**2 - rank  # either kind of product breaks the same symmetries

# %% [markdown]
# ### Exercise 2
#
# *15 minutes · difficulty 4 of 5*
#
# The rule $\Delta W = BA + c\,(BA)\circ(BA)$ has one coefficient $c$ in place of three at $r = 2$.
# Its rank is 5, as PERA's is. Which symmetries has it? Predict its dimension on a $5\times7$ layer
# and measure it with `theory.Formula`. Then predict the rank of *PERA's* Jacobian at the
# coefficients $(c, 2c, c)$: are the points of LoRA the only critical ones? `answer_2` is
# `(dimension of the rule, rank of PERA's Jacobian there)`.
#
# <details><summary>Hint 1</summary>
#
# The rule reads the product $BA$ and nothing else. Which changes of the factors leave $BA$ as it
# is? How many parameters has the rule, and how many null vectors?
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# At the coefficients $(c, 2c, c)$ PERA's update *is* this rule, so the mixings of columns are null
# vectors of PERA's Jacobian there. How many of them are none at a generic point?
#
# </details>

# %% tags=["your-turn"]
# Your turn
answer_2 = ...

# %% tags=["self-check"]
pk.classroom.self_check("06.2", answer_2)

# %% tags=["hide-cell"] jupyter={"source_hidden": true, "outputs_hidden": true}
with pk.classroom.folded():
    kernel = theory.Formula(
        lambda B, A, c: B @ A + c * (B @ A) * (B @ A),
        lambda m, n: {"B": (m, 2), "A": (2, n), "c": (1,)},
    )
    found = theory.measured_dimension(m, n, kernel)
    print(
        "dimension of the rule:",
        found,
        "= LoRA's",
        rank_lora,
        "+ 1: it reads B A alone, so it keeps all of GL(2)",
    )
    assert theory.measured_rank(m, n, kernel) == 5
    assert found == rank_lora + 1
    there = theory.exact_rank(jacobian(B, A, np.array([1, 2, 1])))
    print(
        "PERA's Jacobian at (c, 2c, c): rank",
        there,
        "- critical, as at h = 0: mixing columns is a null vector there too",
    )
    assert there == rank_pera - (r**2 - r)

# %% [markdown]
# ### Exercise 3
#
# *10 minutes · difficulty 3 of 5*
#
# The paper starts with $A = 0$ and a random $B$ (arXiv 2604.11841), the released code with $B = 0$.
# On a layer with $m = 5$ outputs and $n = 7$ inputs and with $r = 2$: how many directions does each
# see at $h = 0$? And in how many of these two starts does $h$ get a gradient in the first step?
# `answer_3` is `(directions at B = 0, directions at A = 0, number of such starts)`.
#
# <details><summary>Hint 1</summary>
#
# At $B = 0$ the update moves by $\delta B\, A$ and by nothing else. What is it at $A = 0$, and how
# many numbers are in it?
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# The derivative by $h_{ij}$ is $(b_i\circ b_j)(a_i\circ a_j)^\top$. What is left of it if one of
# the factors is zero?
#
# </details>

# %% tags=["your-turn"]
# Your turn
answer_3 = ...

# %% tags=["self-check"]
pk.classroom.self_check("06.3", answer_3)

# %% tags=["hide-cell"] jupyter={"source_hidden": true, "outputs_hidden": true}
with pk.classroom.folded():
    for zero in ("B", "A"):
        print(f"{zero} = 0, h = 0:", theory.jacobian_rank(m, n, r, at={zero: 0, "h": 0}))
    assert theory.jacobian_rank(m, n, r, at={"A": 0, "h": 0}).rank == n * r
    first = theory.pera_gradients(0 - E, small_B, 0 * small_A, np.zeros(3))
    assert not first["h"].any()
    assert not first["B"].any()
    assert first["A"].any()
    print("A = 0: only A has a gradient; h has none, since a_i∘a_j = 0")

# %% [markdown]
# ### Exercise 4
#
# *20 minutes · difficulty 4 of 5*
#
# Three columns, so $r = 3$, on a layer that is large enough for the gauge theorem. Three updates:
#
# 1. all terms, with $h = (1, 2, 2, 1, 2, 1)$, in the order $h_{11}, h_{12}, h_{13}, h_{22}, h_{23},
#    h_{33}$;
# 2. squares only, with $h = (0, 5, 0)$, in the order $h_{11}, h_{22}, h_{33}$;
# 3. cross terms only, with $h = (4, 4, 4)$, in the order $h_{12}, h_{13}, h_{23}$.
#
# Write down $H$ for each, and sort the columns into classes of equal rows. How many directions of
# the factors does each update not see? And in one of the three, two columns *of different classes*
# may change places with $h$ left as it is: in which? `answer_4` is `(directions in 1, directions in
# 2, directions in 3, number of that update)`. Then ask `theory.gauge`, with its argument `terms`.
#
# <details><summary>Hint 1</summary>
#
# $H$ is symmetric, $H_{kk} = 2h_{kk}$ and $H_{ij} = h_{ij}$ off the diagonal. A coefficient that
# does not exist is zero.
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# A class of $r_c$ columns counts $r_c^2$. Columns whose row of $H$ is zero are a class as well:
# what is the update to them? And for the last number: exchange two columns, so two rows *and* the
# same two columns of $H$. Is it the same $H$?
#
# </details>

# %% tags=["your-turn"]
# Your turn
answer_4 = ...

# %% tags=["self-check"]
pk.classroom.self_check("06.4", answer_4)

# %% tags=["hide-cell"] jupyter={"source_hidden": true, "outputs_hidden": true}
with pk.classroom.folded():
    three_B, three_A = rng.integers(-9, 10, (12, 3)), rng.integers(-9, 10, (3, 13))
    answers = {"full": ([1, 2, 2, 1, 2, 1], 9), "square": ([0, 5, 0], 5), "cross": ([4, 4, 4], 3)}
    for terms, (coefficients, expected) in answers.items():
        found = theory.gauge((three_B, three_A, np.array(coefficients)), terms)
        orders = len(list(found.permutations()))
        print(
            f"{terms:6} classes {found.classes}: {found.kernel} directions, {orders} orders keep h"
        )
        assert found.kernel == found.dimension == expected
    # full: all entries of H are equal: one class. Square: columns 0 and 2 are LoRA's. Cross: the
    # diagonal of H is zero and the rest is not, so no two rows are equal; but all look alike
    assert orders == 6

# %% [markdown]
# ### Exercise 5
#
# *10 minutes · difficulty 3 of 5*
#
# A friend says: "At $h = 0$ the gradient by $h$ vanishes, so $h$ never moves." Where is the
# mistake? Show it to them by an example at rank 1 on a $2 \times 2$ layer, with $h = 0$: `answer_5`
# is `(b, a, G)`, two lists of two numbers and a $2 \times 2$ matrix $G = \partial L/\partial\Delta
# W$, for which the gradient by $h$ is *not* zero.
#
# <details><summary>Hint 1</summary>
#
# The gradient by $h$ is the sum of $G_{pq}$ times the derivative of $\Delta W_{pq}$ by $h$. Does
# $h$ itself stand in it?
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# At rank 1 it is $(b \circ b)^\top G\, (a \circ a)$. When is that zero, and does it have to be?
#
# </details>

# %% tags=["your-turn"]
# Your turn
answer_5 = ...

# %% tags=["self-check"]
pk.classroom.self_check("06.5", answer_5)

# %% [markdown]
# <details><summary>Answer</summary>
#
# The gradient by $h_{ij}$ is $(b_i\circ b_j)^\top G\,(a_i\circ a_j)$. It vanishes where $b_i\circ
# b_j = 0$ or $a_i\circ a_j = 0$, so because a *factor* is zero, not because $h$ is. At $h = 0$ with
# both factors nonzero it is in general not zero: $h$ moves from the second step on, as the table of
# steps above shows. What is lost at $h = 0$ are the $r^2 - r$ directions that mix columns.
#
# An example: $b = (1, 1)$, $a = (1, 2)$ and $G$ the identity give $1 \cdot 1 + 1 \cdot 4 = 5$.
#
# </details>

# %% tags=["hide-cell"] jupyter={"source_hidden": true, "outputs_hidden": true}
with pk.classroom.folded():
    ours = np.ones((2, 1)), np.array([[1.0, 2.0]]), np.zeros(1)  # b, a, h
    by_h = theory.pera_gradients(np.eye(2), *ours)["h"]
    print("gradient by h, at h = 0:", by_h)
    assert by_h == 5

# %% [markdown]
# ## Where to go next
#
# - [Notebook 07](07_approximation.ipynb): how near such a family comes to a given target.
# - [Notebook 08](08_kernels.ipynb): the special coefficients $(c, 2c, c)$, and what they have to do
#   with kernels.
# - [Asking questions of an update rule](../docs/theory.md): the same probes on rules of your own.
# - The claims behind this page: [gauge-theorem](../docs/claims.md#gauge-theorem),
#   [gauge-group](../docs/claims.md#gauge-group),
#   [lora-is-critical](../docs/claims.md#lora-is-critical),
#   [start-directions](../docs/claims.md#start-directions).
