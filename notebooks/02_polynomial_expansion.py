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
# # 02 Polynomial expansion, three ways to see it
#
# At the end you will be able to write PERA's update (Polynomial Expansion Rank Adaptation, arXiv
# 2604.11841) from memory in one line, to read it in two other ways, and to say in what it is
# polynomial and in what it is not. You need LoRA's update $\Delta W = BA$ from [notebook
# 01](01_low_rank_adaptation.ipynb). About 20 minutes to read, 10 seconds to run.

# %% [markdown]
# ## One line of code
#
# LoRA adds up outer products $b_i a_i^\top$ of the columns $b_i$ of $B$ and the rows $a_i$ of $A$.
# PERA adds more outer products to these, made from the same columns and rows: it multiplies two
# columns entry by entry, multiplies the two rows that belong to them in the same way, and gives the
# pair a **coefficient** $h_{ij}$ of its own, which is trained (arXiv 2604.11841, Eq. 9):
#
# $$\Delta W = \sum_{i} b_i a_i^\top + \sum_{i \le j} h_{ij}\,(b_i \circ b_j)(a_i \circ a_j)^\top
# .$$
#
# The sign $\circ$ means the product entry by entry, the **Hadamard product**: in NumPy it is `*`.
# The pairs $i \le j$ include $i = j$, so that columns are also multiplied by themselves.
# `np.triu_indices(r)` lists the pairs. For $r = 2$ there are three: $(1,1)$, $(1,2)$ and $(2,2)$;
# Python counts from 0.

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch

import perakit as pk
from perakit import plots, theory

plt.style.use(plots.STYLE)
rng = np.random.default_rng(0)
m, n, r = 6, 8, 2  # outputs, inputs, rank

B, A = rng.normal(size=(m, r)), rng.normal(size=(r, n))
h = np.array([0.6, -0.8, 0.4])  # one for each pair, in the order of the pairs

i, j = np.triu_indices(r)
one_line = B @ A + (B[:, i] * B[:, j]) @ (h[:, None] * A[i] * A[j])

print(
    "pairs:",
    [(int(p), int(q)) for p, q in zip(i, j, strict=True)],
    " shape of the update:",
    one_line.shape,
)
assert np.allclose(one_line, pk.formulas.pera(B, A, h))

# %% [markdown]
# That line is the whole method. `B[:, i]` takes the columns $b_i$ in the order of the pairs, `B[:,
# j]` the columns $b_j$, and their product has one column $b_i \circ b_j$ for each pair.
#
# The paper writes it as one product of two larger factors (arXiv 2604.11841, Eq. 2-5). The columns
# of $B$ and their products stand side by side; the rows of $A$ and their products, each with its
# coefficient, stand below each other:
#
# $$\mathrm{Poly}_2(B) = [\, b_i \;;\; b_i \circ b_j \,], \qquad
# \mathrm{Poly}_{2,H}(A) = [\, a_i \;;\; h_{ij}\,(a_i \circ a_j) \,], \qquad
# \Delta W = \mathrm{Poly}_2(B)\,\mathrm{Poly}_{2,H}(A).$$
#
# For $r = 2$, how many columns does $\mathrm{Poly}_2(B)$ have?

# %%
B_hat = np.concatenate([B, B[:, i] * B[:, j]], axis=1)  # columns side by side
A_hat = np.concatenate([A, h[:, None] * A[i] * A[j]], axis=0)  # rows below each other
print("expanded factors:", B_hat.shape, A_hat.shape)
assert np.allclose(B_hat @ A_hat, one_line)

theirs = pk.formulas.expand(B, A, h)
assert np.array_equal(B_hat, theirs[0])
assert np.allclose(A_hat, theirs[1])

# %% [markdown]
# Five: two columns and three products. So the update is a sum of five outer products, although only
# $B$, $A$ and three more numbers are trained. `pk.formulas.expand` returns the same two factors.
#
# ## The second view: entry by entry
#
# What does *one* entry of the update see? Entry $(p, q)$ is made of row $p$ of $B$ and column $q$
# of $A$. Multiply those two entry by entry and call the result $u$, a list of $r$ numbers: $u_i =
# B_{pi} A_{iq}$. Then
#
# $$\Delta W_{pq} = \varphi_h(u), \qquad \varphi_h(u) = \sum_i u_i + \sum_{i \le j} h_{ij}\, u_i
# u_j .$$
#
# This $\varphi_h$ is a **quadratic polynomial** of $u$: a sum of numbers times $u_i$ and numbers
# times $u_i u_j$. It is the *same* polynomial for every entry. The cell below writes that down with
# plain loops.

# %%


def phi(u, h):
    """The sum of u and of the products of its entries, each with its coefficient."""
    total, k = sum(u), 0
    for first in range(len(u)):
        for second in range(first, len(u)):
            total += h[k] * u[first] * u[second]
            k += 1
    return total


by_entries = np.array([[phi(B[p] * A[:, q], h) for q in range(n)] for p in range(m)])
assert np.allclose(by_entries, one_line)
print("largest difference from the one line:", abs(by_entries - one_line).max())

# %% [markdown]
# So we can draw the update of a whole layer as points on one graph. At rank 1 there is one number
# $u$ for each entry, and the graph is a curve. At rank 2 there are two, and the graph is a surface,
# drawn here by its level lines. With $h = 0$, for LoRA, the curve is a straight line and the
# surface a plane. Where will the $6 \times 8 = 48$ entries lie?

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.6))

u = np.outer(B[:, 0], A[0])  # rank 1: the first column and row alone
entries = pk.formulas.pera(B[:, :1], A[:1], h[:1])
plots.plot_entry_polynomial(h[:1], rank=1, span=1.05 * abs(u).max(), ax=left)
left.plot(
    u.ravel(), entries.ravel(), "o", color="k", markersize=4, label=f"the {m * n} entries of ΔW"
)
left.set_title("Rank 1: every entry lies on one curve")
left.legend()

M = [np.outer(B[:, k], A[k]) for k in range(r)]  # u_1 and u_2 of every entry
plots.plot_entry_polynomial(h, span=1.05 * abs(np.array(M)).max(), ax=right)
right.plot(M[0].ravel(), M[1].ravel(), "o", color="k", markersize=3)
_ = right.set_title(f"Rank 2: where the {m * n} entries read the surface")

# %% [markdown]
# On the left all 48 points lie on the parabola. On the right each dot is an entry of $\Delta W$,
# and the colour under it is its value. Training moves the dots (through $B$ and $A$) and bends the
# surface (through $h$). All dots share one surface: with three coefficients for 48 entries, $h$
# cannot be fitted to each of them.
#
# Most dots lie near the centre, where all $u_i$ are small. At the centre the curve has LoRA's line
# as its tangent, and the solid line $\varphi_h = 0$ touches a dashed one: for small $u$ the
# products $u_i u_j$ are much smaller than the $u_i$, and the surface is almost LoRA's plane. Keep
# this in mind for the end of the notebook.
#
# ## The third view: a Hadamard series
#
# Call $M_i = b_i a_i^\top$ the rank-one pieces of LoRA. Their entries are just the $u_i$. So the
# update is
#
# $$\Delta W = \sum_i M_i + \sum_{i \le j} h_{ij}\; M_i \circ M_j ,$$
#
# a power series of matrices that stops at the second power, with $\circ$ in place of the matrix
# product.

# %%
pieces = {"$M_1$": M[0], "$M_2$": M[1]}
for k, (p, q) in enumerate(zip(i, j, strict=True)):
    pieces[rf"${h[k]}\;M_{p + 1} \circ M_{q + 1}$"] = h[k] * M[p] * M[q]
series = sum(pieces.values())

assert np.allclose(series, one_line)
assert np.allclose(series, by_entries)
assert all(np.linalg.matrix_rank(piece) == 1 for piece in pieces.values())

figure, axes = plt.subplots(2, 3, figsize=(10, 5))
for ax, (title, piece) in zip(axes.flat, [*pieces.items(), ("ΔW, their sum", series)], strict=True):
    plots.plot_matrix(piece, title=title, ax=ax)

# %% [markdown]
# The asserts say that all three views give the same matrix. The pictures say what the products do.
# Squaring ($M_1 \circ M_1$) makes every entry positive before the coefficient is applied, and lets
# the large entries stand out. The cross product $M_1 \circ M_2$ is strong where *both* pieces are.
# And each picture but the last has rank one: its rows are multiples of each other.

# %% [markdown]
# ### Exercise 1
#
# *10 minutes · difficulty 3 of 5*
#
# LoRA of rank 1 cannot make the $2 \times 2$ identity matrix, which has rank 2. PERA of rank 1 can,
# exactly. Find $b$, $a$ and $h$ with $u_{pq} + h u_{pq}^2$ equal to 1 on the diagonal and 0
# elsewhere, where $u_{pq} = b_p a_q$. `answer_1` is `(b, a, h)`: two lists of two numbers, and a
# number.
#
# <details><summary>Hint 1</summary>
#
# Which two values of $u$ does $\varphi_h(u) = u + h u^2$ send to 0? The entries off the diagonal
# have to be among them, and none of the four entries can be 0 (why?).
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# $u$ has rank one, so $u_{11} u_{22} = u_{12} u_{21}$. That says how large the two entries on the
# diagonal are, if they are equal. Then ask that $\varphi_h$ sends them to 1.
#
# </details>

# %% tags=["your-turn"]
# Your turn
answer_1 = ...

# %% tags=["self-check"]
pk.classroom.self_check("02.1", answer_1)

# %% tags=["hide-cell"] jupyter={"source_hidden": true, "outputs_hidden": true}
with pk.classroom.folded():
    b = a = np.array([1, -1]) / np.sqrt(2)
    identity = pk.formulas.pera(b[:, None], a[None, :], np.array([2.0]))
    assert np.allclose(identity, np.eye(2))
    print(
        "u + h u² is 0 at u = 0 and u = -1/h. With b = a = (1, -1)/√2 the entries of u are 1/2 and"
        " -1/2; h = 2 does it:"
    )
    print(abs(identity.round(12)))

# %% [markdown]
# ## Counting
#
# How many outer products are there, and what do they cost? LoRA has $r$. There are $r$ **squares**
# ($i = j$) and $r(r-1)/2$ **cross terms** ($i < j$). Together they make the **expanded rank**
#
# $$K = r + r + \tfrac{r(r-1)}{2} = \tfrac{r(r+3)}{2},$$
#
# which is a bound on the rank of $\Delta W$. The paper also studies squares alone (Eq. 10) and
# cross terms alone (Eq. 11); in perakit that is `terms="square"` and `terms="cross"`. One need not
# stop at products of two. With all products of up to $k$ columns, **degree** $k$, there are $K_k =
# \binom{r+k}{k} - 1$ pieces. The paper stops at 2.
#
# What is *trained* grows much more slowly: $r(m+n)$ numbers for $B$ and $A$, as in LoRA, and one
# for each product.

# %%
size = 4096
print(
    "one layer of 4096 x 4096\n   r  squares  cross only  full, K  degree 3   LoRA trains   PERA"
    " trains"
)
for rank in (1, 2, 4, 8, 16, 32):
    square, cross, full = (
        pk.formulas.rank_bound(rank, terms) for terms in ("square", "cross", "full")
    )
    cubic = pk.formulas.rank_bound(rank, degree=3)
    trained = [pk.formulas.parameter_count(size, size, rank, method) for method in ("lora", "pera")]
    print(f"{rank:4}{square:9}{cross:12}{full:9}{cubic:10}{trained[0]:14,}{trained[1]:14,}")
    assert full == rank * (rank + 3) // 2
    assert trained[1] - trained[0] == rank * (rank + 1) // 2

# %% [markdown]
# The first three columns of numbers are bounds on the rank. At $r = 8$ PERA trains 36 numbers more
# than LoRA, about 0.05 %, and its updates have rank up to 44 instead of 8.
#
# A bound is one thing and a rank another. Are the five pieces of our small example really
# independent? The singular values tell: the rank is where they drop to rounding errors.

# %%
figure, ax = plt.subplots()
spectra = {
    "PERA, r = 2": np.linalg.svd(one_line, compute_uv=False),
    "LoRA, r = 2": np.linalg.svd(B @ A, compute_uv=False),
}
plots.plot_spectra(spectra, rank=2, bound=5, ax=ax)
ax.set_ylim(top=1e4)

assert np.linalg.matrix_rank(one_line) == 5
assert np.linalg.matrix_rank(B @ A) == 2
print("dimension of all PERA updates with r = 2:   ", theory.dimension(m, n, 2))
print("dimension of all 6 x 8 matrices of rank <= 5:", 5 * (m + n - 5))
assert theory.dimension(m, n, 2) == 29

# %% [markdown]
# They are. For randomly drawn factors the rank reaches $K$ (or the size of the layer, where that is
# less).
#
# Here is a trap. From "rank up to 5" it does **not** follow that PERA can make every matrix of
# rank 5. The five pieces share their columns and rows. The two printed numbers count in how many
# independent directions each set extends: 29 against 45. Most matrices of rank 5 are out of reach.
# [Notebook 05](05_theorem_one.ipynb) tells what this does to a theorem of the paper.

# %% [markdown]
# ### Exercise 2
#
# *5 minutes · difficulty 2 of 5*
#
# For $r = 3$ and degree 3, count by hand: how many pieces of degree 1, 2 and 3? Check the sum
# against $\binom{r+k}{k} - 1$, and your lists against `pk.formulas.monomials`. `answer_2` is the
# three counts, `(degree 1, degree 2, degree 3)`.
#
# <details><summary>Hint 1</summary>
#
# A piece of degree 2 is a pair $i \le j$ of columns, the pairs of a column with itself included.
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# A piece of degree 3 is a triple $i \le j \le k$. Count those with three equal columns, those with
# two, and those with none, one after the other.
#
# </details>

# %% tags=["your-turn"]
# Your turn
answer_2 = ...

# %% tags=["self-check"]
pk.classroom.self_check("02.2", answer_2)

# %% tags=["hide-cell"] jupyter={"source_hidden": true, "outputs_hidden": true}
with pk.classroom.folded():
    by_degree = [3] + [block.shape[1] for block in pk.formulas.monomials(3, degree=3)]
    assert by_degree == [3, 6, 10]
    assert sum(by_degree) == pk.formulas.rank_bound(3, degree=3) == 19
    print("degree 1, 2, 3:", by_degree, "sum:", sum(by_degree), "= C(6, 3) - 1 = 20 - 1")
    print(
        "the last block, as index triples:",
        [tuple(map(int, row)) for row in pk.formulas.monomials(3, degree=3)[1].T],
    )

# %% [markdown]
# ## Polynomial in what?
#
# The paper calls its update nonlinear. A reader may now picture a layer that squares its input.
# That is **not** what happens. The products are taken of the *parameters* $B$ and $A$. Once these
# are fixed, $\Delta W$ is a matrix like any other, and the layer computes $(W_0 + \Delta W)\, x$
# (and adds its bias): one matrix times the input $x$.
#
# For contrast perakit has an adapter that does square the input, `pk.Quadratic`: it adds $P\,((Ux)
# \circ (Ux))$ to the output, with trained $U$ and $P$. We put both on the same layer, give them
# random numbers, and ask the question that decides: is the answer to $x + y$ the sum of the answers
# to $x$ and to $y$?

# %%
torch.manual_seed(0)
models = {"PERA": pk.PERA(rank=2), "Quadratic": pk.Quadratic(rank=2)}
for name, method in models.items():
    models[name] = torch.nn.Sequential(torch.nn.Linear(n, m, dtype=torch.float64))
    pk.attach(models[name], method, targets=["0"])
    for parameter in pk.adapters(models[name])["0"].parameters():
        torch.nn.init.normal_(parameter, std=0.7)


@torch.no_grad()
def added(model, x):
    """What the adapter adds to the output for the input x."""
    with pk.disabled(model):
        base = model(x)
    return model(x) - base


x, y = torch.randn(2, n, dtype=torch.float64)
gaps = {
    name: (added(model, x + y) - added(model, x) - added(model, y)).abs().max().item()
    for name, model in models.items()
}
for name, gap in gaps.items():
    print(f"{name:10} f(x + y) - f(x) - f(y): up to {gap:.1e}")
assert gaps["PERA"] < 1e-12
assert gaps["Quadratic"] > 0.1

# %% [markdown]
# PERA is additive up to rounding, although $h$ is far from zero here. The quadratic adapter is not.
#
# The same can be seen along one line. Take an input $x$ and feed in $t x$, for $t$ from $-2$ to 2.
# What shape do you expect for each of the two?

# %%
steps = np.linspace(-2, 2, 41)
outputs = {name: [added(model, t * x)[0].item() for t in steps] for name, model in models.items()}

figure, ax = plt.subplots()
_ = plots.plot_along_input(steps, outputs, ax=ax)

assert np.allclose(outputs["PERA"], steps * added(models["PERA"], x)[0].item())
assert np.allclose(outputs["Quadratic"], steps**2 * added(models["Quadratic"], x)[0].item())

# %% [markdown]
# A straight line through zero, and a parabola. This difference has a practical consequence. An
# update that is a matrix can be **merged**: $W_0 + \Delta W$ is computed once and afterwards the
# layer costs what it cost before. What will `pk.merge` say to the quadratic adapter?

# %%
with_factors = models["PERA"](x).detach()
pk.merge(models["PERA"])
assert torch.allclose(models["PERA"](x), with_factors, rtol=0, atol=1e-12)
print("PERA is merged: one matrix, the same answers.")

try:
    pk.merge(models["Quadratic"])
except pk.PerakitError as error:
    refusal = str(error)
print("Quadratic:", refusal)
assert "not a matrix" in refusal

# %% [markdown]
# It refuses and gives the reason: there is no matrix to add.

# %% [markdown]
# ### Exercise 3
#
# *10 minutes · difficulty 2 of 5*
#
# A friend says: "PERA makes the layers nonlinear, so a stack of adapted linear layers without
# activation functions in between can learn the exclusive-or of two inputs." Is that so? Look at
# $f(0,0) + f(1,1) - f(0,1) - f(1,0)$. What is this number if $f$ is such a stack with one output,
# whatever its parameters are? And what is it for the exclusive-or, which is 1 if exactly one of its
# inputs is 1, and else 0? `answer_3` is the pair `(for every stack, for the exclusive-or)`.
#
# <details><summary>Hint 1</summary>
#
# Once $B$, $A$ and $h$ are fixed, what does one adapted layer do to its input? And what do two of
# them do, one after the other?
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# Such a stack is $f(x) = w^\top x + c$ with some $w$ and $c$. Put in the four inputs and see what
# cancels.
#
# </details>

# %% tags=["your-turn"]
# Your turn
answer_3 = ...

# %% tags=["self-check"]
pk.classroom.self_check("02.3", answer_3)

# %% [markdown]
# <details><summary>Answer</summary>
#
# No. With any fixed $B$, $A$ and $h$ each adapted layer multiplies by one matrix and adds its bias.
# A stack of such layers without activation functions is again one matrix and one bias. The
# exclusive-or asks for $f(0,0) = f(1,1) = 0$ and $f(0,1) = f(1,0) = 1$. But for a matrix and a bias
# $f(0,0) + f(1,1) = f(0,1) + f(1,0)$ always, and $0 = 2$ is false. "Nonlinear" in the paper is a
# word about how $\Delta W$ depends on the *parameters*.
#
# </details>
#
# ## Do the products do anything?
#
# So far the factors had entries of about 1. In a real layer they are small. At the start of the
# paper's released code, which perakit follows, the entries of $A$ have a spread (standard
# deviation) of $1/\sqrt{3n}$, $B$ is zero, and $h$ is zero too. If $u$ is small, then $u^2$ is
# smaller still, and $h$ has to grow from zero.
#
# `theory.order_share` measures how large the polynomial part of an update is beside its linear
# part, $\lVert \text{products} \rVert_F / \lVert BA \rVert_F$. We draw random factors with entries
# of size $t$, a coefficient size, and watch the share. What do you expect when $t$ becomes ten
# times smaller?

# %%
sizes = np.logspace(-2.5, 0.5, 7)
normal_B, normal_A, normal_h = (
    rng.normal(size=(192, 4)),
    rng.normal(size=(4, 192)),
    rng.normal(size=10),
)

figure, ax = plt.subplots()
shares = {}
for size_h, line in zip((1, 0.03), plots.LINES, strict=False):
    shares[size_h] = [
        float(theory.order_share((t * normal_B, t * normal_A, size_h * normal_h))) for t in sizes
    ]
    ax.plot(sizes, shares[size_h], line, marker="o", label=f"coefficients of size {size_h}")
for width in (192, 4096):
    ax.axvline(1 / np.sqrt(3 * width), color="0.45", linewidth=1, zorder=0)
    ax.text(
        1 / np.sqrt(3 * width), 6e-7, f" start of A,\n n = {width}", color="0.35", fontsize="small"
    )
ax.set(
    xscale="log",
    yscale="log",
    xlabel="size t of the entries of B and A",
    ylabel="order share",
    title="Small factors, much smaller products",
)
_ = ax.legend(loc="lower right")

assert np.isclose(shares[1][2] / shares[1][0], 100)  # t ten times larger
fresh = torch.nn.Sequential(torch.nn.Linear(192, 192))
pk.attach(fresh, pk.PERA(rank=4), targets=["0"])
print("share at the published start:", float(theory.order_share(fresh)))
assert float(theory.order_share(fresh)) == 0

# %% [markdown]
# A hundred times smaller: the linear part has two factors of $t$, the products four, so the share
# falls like $t^2$. It is proportional to $h$ as well. At the start it is zero. At the vertical
# lines, that is with $A$ as it begins and a $B$ of the same size, it is far below one even with
# coefficients of size 1, and the wider the layer, the further to the left it begins.
#
# This does not say that the products are useless, nor that they are useful. It says that whether
# they do anything is a **question to ask of each run**. `theory.order_share(model)` answers one
# half of it: how large they are. For the other half, whether they help, one has to compare with
# LoRA of the same rank, tuned with the same care. `pk.PERA(feature_scale=...)` multiplies the
# products by a constant, to find out what happens if they are larger.

# %% [markdown]
# ## Play with it
#
# The sliders move all of it at once: the rank $r$, which terms are kept, and the coefficients.
# Watch three things. The spectrum drops after $K$ values, not after $r$. At $h = 0$ the polynomial
# becomes LoRA's plane, and the rank $r$. And with `square` the products of different features are
# gone. (On a page without a running notebook the sliders do nothing, and you see the start.)

# %%
from perakit import explorer

explorer.explore()

# %% [markdown]
# ## Where to go next
#
# - [Notebook 03](03_equation_nine.ipynb) reads the same line of code with symbols and proves what
#   was only checked here.
# - [Notebook 05](05_theorem_one.ipynb): which matrices of rank $K$ can be reached?
# - [Notebook 10](10_fine_tuning.ipynb) fine-tunes a small language model and asks the question of
#   the last section.
# - The statements with their evidence: [three readings](../docs/claims.md#hadamard-series), [linear
#   in the input](../docs/claims.md#linear-in-the-input), [an open
#   question](../docs/claims.md#gain-is-high-order).
