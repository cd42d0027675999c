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
# # 01 Low-rank adaptation from a blank page
#
# At the end you will have written LoRA (low-rank adaptation, arXiv 2106.09685) yourself in a few
# lines of NumPy: the update, its gradients and the training loop. You will know what its rank costs
# and what a rank that is too small loses, and you will have done the same with perakit and seen the
# same numbers. You need NumPy and the idea of a linear layer; no earlier notebook, no GPU and no
# data. About 20 minutes to read, 10 seconds to run.

# %% [markdown]
# ## A frozen layer and a task
#
# A **linear layer** multiplies its input $x$ (a vector of $n$ numbers) by a **weight** matrix $W_0$
# with $m$ rows and $n$ columns. The answer $y = W_0 x$ has $m$ numbers.
#
# Someone trained $W_0$ at great cost. Now there is a new task, for which a slightly different
# matrix $W_0 + E$ would be right. We keep $W_0$ **frozen**: it never changes. We learn the
# *change*, which we call the **update** $\Delta W$.
#
# Here is such a task in small. The wanted change $E$ is made of two simple pieces; we will come to
# that. The rows of `X` are $N$ inputs, the rows of `Y` the answers that we want.

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch

import perakit as pk
from perakit import plots

plt.style.use(plots.STYLE)
STEPS = 400  # of every training run below

rng = np.random.default_rng(0)
m, n, N = 12, 16, 64  # outputs, inputs, examples

W0 = rng.normal(size=(m, n)) / np.sqrt(n)
U, _ = np.linalg.qr(rng.normal(size=(m, m)))  # columns of length 1, at right angles
V, _ = np.linalg.qr(rng.normal(size=(n, m)))
E = 3 * np.outer(U[:, 0], V[:, 0]) + 1 * np.outer(U[:, 1], V[:, 1])

X = np.sqrt(N) * np.linalg.qr(rng.normal(size=(N, n)))[0]  # (N, n), and XᵀX/N is the identity
Y = X @ (W0 + E).T  # (N, n) @ (n, m) -> (N, m)

# %% [markdown]
# The inputs have been prepared so that $X^\top X / N$ is the identity matrix: no direction of $x$
# is more frequent than another. That keeps the arithmetic below clean. It is not needed for LoRA.
#
# ## Why not train the whole change?
#
# We could let all $mn$ numbers of $\Delta W$ be free. Let us count what that means for one layer of
# a large language model, 4096 by 4096. Training with the common optimiser Adam needs three more
# numbers beside each trained number: its gradient and two running averages. And every task that we
# fine-tune for needs a copy of its own.
#
# LoRA trains two thin matrices instead, $B$ with $r$ columns and $A$ with $r$ rows. How many
# numbers do you expect for $r = 8$?

# %%
big_m = big_n = 4096
print(f"{'':12}{'trained':>12}{'with Adam':>12}{'share':>9}")
for name, trained in [("everything", big_m * big_n)] + [
    (f"LoRA r = {r}", r * (big_m + big_n)) for r in (1, 8, 64, 2048)
]:
    print(f"{name:12}{trained:12,}{4 * trained:12,}{trained / (big_m * big_n):9.2%}")

# %% [markdown]
# At $r = 8$ it is less than half a percent. The full count grows like $mn$, LoRA's like $r(m+n)$: a
# product has turned into a sum. The last line is where the saving ends: at $r = mn/(m+n)$ LoRA
# trains as many numbers as there are weights.
#
# The saving has a price. Not every matrix can be written with two thin ones. To see which can, we
# need the word *rank*.
#
# ## Rank: how many simple pieces
#
# The simplest matrix that is not zero is an **outer product** $b\,a^\top$: entry $(p, q)$ is $b_p
# a_q$. All its rows are multiples of one row $a$. The **rank** of a matrix is the least number of
# outer products that it is a sum of.
#
# Multiplying a thin $B$ by a thin $A$ adds up such pieces, one for each column $b_i$ of $B$ and row
# $a_i$ of $A$:
#
# $$B A = \sum_{i=1}^{r} b_i\, a_i^\top .$$

# %%
B = rng.normal(size=(m, 2))
A = rng.normal(size=(2, n))
pieces = [np.outer(B[:, i], A[i]) for i in range(2)]

assert np.allclose(B @ A, pieces[0] + pieces[1])
print("rank of each piece:", [int(np.linalg.matrix_rank(piece)) for piece in pieces])
print("rank of their sum: ", np.linalg.matrix_rank(B @ A))

figure, axes = plt.subplots(1, 3, figsize=(10, 2.9))
titles = (r"$b_1 a_1^\top$, rank 1", r"$b_2 a_2^\top$, rank 1", r"$BA$, their sum, rank 2")
for ax, matrix, title in zip(axes, [*pieces, B @ A], titles, strict=True):
    plots.plot_matrix(matrix, title=title, ax=ax)

# %% [markdown]
# The colour of each small square is one entry of the matrix. In the two left pictures every row
# shows the same pattern, stronger, weaker or with the sign turned round. In the sum the rows are no
# longer multiples of each other, although only two patterns are mixed in it.
#
# Our wanted change $E$ was built in this way, from two outer products: it has rank 2.
#
# ## The update
#
# LoRA (arXiv 2106.09685, Eq. 3 and the text after it) writes the update as
#
# $$\Delta W = s\, B A, \qquad s = \frac{\alpha}{r},$$
#
# with $B$ of shape $(m, r)$ and $A$ of shape $(r, n)$. $B$ and $A$ are called the **factors** and
# are trained. The **scale** $s$ is a fixed number. One chooses $\alpha$ (`alpha`) once; dividing by
# $r$ is meant to keep the update at about the same size when $r$ is changed.
#
# Where should training begin? A sensible beginning is the model as it was. LoRA starts with $B = 0$
# and a random $A$. Then $BA$ is zero, not nearly but exactly.

# %%
r, alpha = 2, 4
s = alpha / r


def start(r, seed=0):
    """B zero, A random and small: (m, r) and (r, n)."""
    return np.zeros((m, r)), np.random.default_rng(seed).uniform(-1, 1, (r, n)) / np.sqrt(n)


B, A = start(r)
assert np.array_equal(W0 + s * B @ A, W0)  # equal to the last bit
print("the start changes", np.count_nonzero(s * B @ A), "of", m * n, "weights")

# %% [markdown]
# ## Gradients by hand
#
# To train we need a **loss**, a number that says how wrong we are. We take half the mean squared
# distance between the answers and the wanted answers,
#
# $$L(\Delta W) = \frac{1}{2N} \sum_{k=1}^{N} \left\lVert (W_0 + \Delta W)\, x_k - y_k
# \right\rVert^2 .$$
#
# Let $G = \partial L / \partial \Delta W$, an $(m, n)$ matrix with the derivative by each entry of
# $\Delta W$. If $R$ is the $(N, m)$ matrix of the errors, one row for each example, then $G =
# R^\top X / N$. That is all calculus that involves the data.
#
# How do the factors feel $G$? Entry $(p, q)$ of the update is $s \sum_i B_{pi} A_{iq}$. The number
# $B_{pi}$ appears in row $p$ only, each time next to $A_{iq}$. So its derivative collects that row
# of $G$, weighted by row $i$ of $A$:
#
# $$\frac{\partial L}{\partial B_{pi}} = s \sum_q G_{pq} A_{iq},
# \qquad\text{that is}\qquad
# \frac{\partial L}{\partial B} = s\, G A^\top, \qquad \frac{\partial L}{\partial A} = s\, B^\top G
# .$$

# %%


def loss_and_gradient(delta, Y):
    """L at W0 + delta (a number) and G = ∂L/∂delta (m, n)."""
    R = X @ (W0 + delta).T - Y  # (N, n) @ (n, m) -> (N, m)
    return 0.5 * (R**2).sum() / N, R.T @ X / N  # (m, N) @ (N, n) -> (m, n)


def gradients(B, A, s, Y):
    """∂L/∂B (m, r) and ∂L/∂A (r, n)."""
    _, G = loss_and_gradient(s * B @ A, Y)
    return s * G @ A.T, s * B.T @ G


# %% [markdown]
# Never trust a gradient that was derived by hand. The check is old and good: move one number a
# little up and a little down and look at how the loss moves. This is called **finite differences**.
# We check at a random point, since at the start, where $B = 0$, half of a mistake would be
# multiplied by zero.

# %%


def measured(f, P, eps=1e-5):
    """The derivative of f(P) by each entry of P, by moving it up and down by eps."""
    slopes = np.zeros_like(P)
    for where in np.ndindex(P.shape):
        step = np.zeros_like(P)
        step[where] = eps
        slopes[where] = (f(P + step) - f(P - step)) / (2 * eps)
    return slopes


B, A = rng.normal(size=(m, r)), rng.normal(size=(r, n))
to_B, to_A = gradients(B, A, s, Y)
by_moving_B = measured(lambda P: loss_and_gradient(s * P @ A, Y)[0], B)
by_moving_A = measured(lambda P: loss_and_gradient(s * B @ P, Y)[0], A)

print(
    f"largest difference for B: {abs(to_B - by_moving_B).max():.1e}, of entries up to"
    f" {abs(to_B).max():.1f}"
)
print(
    f"largest difference for A: {abs(to_A - by_moving_A).max():.1e}, of entries up to"
    f" {abs(to_A).max():.1f}"
)
assert np.allclose(to_B, by_moving_B, rtol=1e-6, atol=1e-6)
assert np.allclose(to_A, by_moving_A, rtol=1e-6, atol=1e-6)

# %% [markdown]
# They agree to many digits. What is left is rounding, made larger by the division by a small
# number.
#
# Now it is your turn. Under each exercise there is a cell for your answer, and one that says
# whether it is right: put something in place of the three dots and run both. The hints open with a
# click. The closed cell after that is our answer, for afterwards.

# %% [markdown]
# ### Exercise 1
#
# *10 minutes · difficulty 2 of 5*
#
# Why is only *one* of the factors zero at the start? Put both to zero, compute `gradients` there,
# and think through what training does from that point: each step subtracts a multiple of the
# gradients. What is the loss $L$ of the task above after 400 such steps? And after as many as you
# like? `answer_1` is that loss, a number.
#
# <details><summary>Hint 1</summary>
#
# Call `gradients(np.zeros((m, r)), np.zeros((r, n)), s, Y)` and look at what comes back. Which
# factor stands in $\partial L/\partial B$, and which in $\partial L/\partial A$?
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# What has gradient zero stays where it is. So the factors after the last step are those of the
# first, and `loss_and_gradient` gives the loss of their $\Delta W$.
#
# </details>

# %% tags=["your-turn"]
# Your turn
answer_1 = ...

# %% tags=["self-check"]
pk.classroom.self_check("01.1", answer_1)

# %% tags=["hide-cell"] jupyter={"source_hidden": true, "outputs_hidden": true}
with pk.classroom.folded():
    to_B_at_zero, to_A_at_zero = gradients(np.zeros((m, r)), np.zeros((r, n)), s, Y)
    assert not to_B_at_zero.any()
    assert not to_A_at_zero.any()
    stuck, _ = loss_and_gradient(np.zeros((m, n)), Y)
    assert np.isclose(stuck, (3**2 + 1**2) / 2)  # half the squares of the two pieces of E
    print(
        "Both gradients are zero: ∂L/∂B has the factor A and ∂L/∂A the factor B. No step ever"
        f" leaves this point, and the loss stays {stuck:.1f}."
    )
    print("Nor would another optimiser: Adam, which steps by gradients too, makes no step either.")
    print("One factor at zero is enough for ΔW = 0; the other, at random, gives it a gradient.")

# %% [markdown]
# ## Training
#
# The loop below is **gradient descent**: step after step, each factor moves a little against its
# gradient. There is one trap in it. Both gradients belong to the *old* factors, so both new factors
# have to be computed before either is replaced. The double assignment does that.
#
# We train with rank 1, 2 and 4, each with $\alpha = 2r$, so that $s = 2$ in all three. The wanted
# change has rank 2. What do you expect of each?

# %%


def train(r, alpha, Y, steps=STEPS, lr=0.05):
    """Plain gradient descent from LoRA's start.

    Returns the factors and the loss before each step.
    """
    s, losses = alpha / r, []
    B, A = start(r)
    for _ in range(steps):
        value, G = loss_and_gradient(s * B @ A, Y)
        losses.append(value)
        B, A = B - lr * s * G @ A.T, A - lr * s * B.T @ G
    return B, A, losses


runs = {r: train(r, 2 * r, Y) for r in (1, 2, 4)}

figure, ax = plt.subplots()
# Two of the curves nearly coincide: the one below is wide and pale
for (r, (_, _, losses)), line, width in zip(runs.items(), "--:", (1.5, 6, 2), strict=True):
    ax.plot(losses, line, linewidth=width, alpha=0.4 if width > 5 else 1, label=f"r = {r}")
ax.set(
    yscale="log",
    ylim=(1e-12, 20),
    xlabel="step",
    ylabel="loss L",
    title="Rank 2 is enough for a change of rank 2; rank 1 is not",
)
_ = ax.legend()

# %% [markdown]
# All three begin slowly: $A$ is small and $B$ is zero, so both gradients are small. Then the loss
# falls to about one half. There rank 1 comes to a halt, and no number of further steps would help.
# Rank 2 and rank 4 only pause, and then go down until the picture ends. Why one half? Let us look
# at what was learnt.
#
# ## What was learnt: singular values
#
# The **singular values** $\sigma_1 \ge \sigma_2 \ge \dots \ge 0$ of a matrix are the sizes of its
# pieces, when it is cut into outer products that are at right angles to each other. As many of them
# are nonzero as its rank says. We made $E$ from pieces of size 3 and 1, so those are its singular
# values.

# %%
updates = {r: 2.0 * B @ A for r, (B, A, _) in runs.items()}
values = {r: np.linalg.svd(delta, compute_uv=False) for r, delta in updates.items()}

figure, ax = plt.subplots()
_ = plots.plot_spectra(
    {
        "wanted, E": np.linalg.svd(E, compute_uv=False),
        **{f"learnt, r = {r}": v for r, v in values.items()},
    },
    ax=ax,
)

assert np.allclose(updates[2], E, atol=1e-6)
assert np.allclose(values[1][:2], [3, 0], atol=1e-6)
assert np.allclose(values[4][:3], [3, 1, 0], atol=1e-6)

# %% [markdown]
# What lies near $10^{-16}$ in the figure is zero up to rounding. With rank 2 the two singular
# values of $E$ were found, and with them $E$ itself, entry for entry. With rank 4 they were found
# too; two of the four pieces were not needed and have gone to zero. Rank 1 found the larger piece,
# of size 3, and had no room for the other.
#
# The factors are not the ones that we built $E$ from, by the way. Any invertible $2 \times 2$
# matrix $T$ gives other factors, $BT$ and $T^{-1}A$, with the same product. Only $\Delta W$ has a
# meaning.
#
# ## When the rank is too small
#
# Because $X^\top X/N$ is the identity, our loss is $L = \frac12 \lVert \Delta W - E \rVert_F^2$,
# half the sum of the squared differences of all entries. So rank-1 training looks for the matrix of
# rank 1 nearest to $E$. How near can it come? The **Eckart-Young theorem** answers: the nearest
# matrix of rank $r$ keeps the $r$ largest pieces and drops the others, and the squared distance is
# the sum of the squared sizes of what was dropped:
#
# $$\min_{\operatorname{rank} \Delta W \le r} \tfrac12 \lVert \Delta W - E \rVert_F^2 = \tfrac12
# \sum_{i > r} \sigma_i(E)^2 .$$
#
# For $E$ and $r = 1$ this is $\frac12 \cdot 1^2$: the one half at which the loss came to a halt.
# And rank 2 paused there because it learnt the larger piece first.
#
# A real task may well ask for a change with many singular values, some large and many small. Let us
# take $4, 2, 1, \frac12, \dots$ and train once for each rank.

# %%
sizes = 4 * 0.5 ** np.arange(m)
rich = (U * sizes) @ V.T  # (m, m) @ (m, n): all twelve pieces
rich_Y = X @ (W0 + rich).T

ranks = range(1, 6)
reached = [train(r, 2 * r, rich_Y, steps=5 * STEPS)[2][-1] for r in ranks]
floor = [0.5 * (sizes[r:] ** 2).sum() for r in ranks]
assert all(below <= got * (1 + 1e-9) for below, got in zip(floor, reached, strict=True))
assert np.allclose(reached, floor, rtol=1e-4)

figure, ax = plt.subplots()
ax.plot(ranks, floor, color="0.4", label="Eckart-Young: no matrix of rank r does better")
ax.plot(ranks, reached, "o", markersize=8, label="reached by training")
ax.set(
    yscale="log",
    xticks=ranks,
    xlabel="rank r",
    ylabel="loss L",
    title="Training comes down to what the rank permits",
)
_ = ax.legend()

# %% [markdown]
# Each further rank buys the next piece, and each piece is smaller than the last: here, about a
# quarter of the loss remains for every rank added. Whether a small rank is enough is a question
# about the *task*, that is, about how fast the singular values of the wanted change fall.
#
# A warning about what the picture does not show. Gradient descent came down to the floor on this
# small and clean problem. In a deep network nobody knows $E$, and the loss at which training ends
# is only an upper bound of the least loss that the rank permits.
#
# ## Merging
#
# While we train, an input passes both through $W_0$ and through the factors: $W_0 x + s\, B (A x)$.
# This costs $mn + r(m+n)$ multiplications for each input. After training we can **merge**: compute
# $W = W_0 + s B A$ once and use it in place of $W_0$. The layer is then one matrix again, with the
# cost of the layer that we began with.
#
# To switch to another task one would like to go back. Is it good enough to subtract $\Delta W$
# again? The second half of the cell tries it in single precision (float32). What do you expect?

# %%
B, A, _ = runs[2]
s = 2.0
W = W0 + s * B @ A

x = rng.normal(size=n)
assert np.allclose(W @ x, W0 @ x + s * B @ (A @ x))
print(f"this layer, multiplications an input: with factors {m * n + 2 * (m + n)}, merged {m * n}")
print(
    f"4096 x 4096 with r = 8: with factors {big_m * big_n + 8 * (big_m + big_n):,}, merged"
    f" {big_m * big_n:,}"
)

w0, delta = W0.astype(np.float32), (s * B @ A).astype(np.float32)
back = (w0 + delta) - delta
changed = np.count_nonzero(back != w0)
print(
    f"added and subtracted again: {changed} of {m * n} weights are not what they were, by up to"
    f" {abs(back - w0).max():.0e}"
)
assert changed > 0

# %% [markdown]
# Each addition rounds, and what was rounded away does not come back. The differences are small, but
# the model is no longer *the* model, and they can add up if one merges and unmerges often. The
# remedy is to keep $W_0$ beside $W$ and never to recover it by subtraction. That is what perakit
# does, at the price of the memory for both.
#
# ## The same with perakit
#
# Now a real layer, in PyTorch. `pk.attach` puts an adapter on the layers that are named as targets
# and freezes everything else. An **adapter** is the factors together with the rule that makes
# $\Delta W$ of them.
#
# A fresh adapter changes nothing, to the last bit. We then give it the same $A$ to start from as
# our own run had, and train with PyTorch's gradient descent, which finds the gradients by itself.

# %%
model = torch.nn.Sequential(torch.nn.Linear(n, m, bias=False, dtype=torch.float64))
model[0].weight.data = torch.from_numpy(W0.copy())
inputs, wanted = torch.from_numpy(X), torch.from_numpy(Y)
before = model(inputs)

print(pk.attach(model, pk.LoRA(rank=2, alpha=4), targets=["0"]))
assert torch.equal(model(inputs), before)

adapter = pk.adapters(model)["0"]
adapter.A.data = torch.from_numpy(start(2)[1])
optimiser = torch.optim.SGD(adapter.parameters(), lr=0.05)
torch_losses = []
for _ in range(STEPS):
    loss = 0.5 * ((model(inputs) - wanted) ** 2).sum() / N
    torch_losses.append(loss.item())
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()

assert np.allclose(torch_losses, runs[2][2], rtol=1e-9, atol=1e-12)  # step for step
assert np.allclose(pk.delta_weights(model)["0"].detach(), updates[2], atol=1e-9)  # the same update
print(f"\nloss after {STEPS} steps: {torch_losses[-1]:.2e}, ours {runs[2][2][-1]:.2e}")

# %% [markdown]
# The table says which layer was given an adapter ("0" is the name of the first layer in a
# `Sequential`), its shape and rank, and how much is trained. On so small a layer that is a large
# share.
#
# The loss is the same at every step, and so is the update at the end: the gradients that we derived
# by hand are the ones that PyTorch uses.
#
# `pk.merge` makes one matrix of each layer. Its report says how large the update is beside the
# weight and how much of the update was lost in rounding. `pk.unmerge` goes back. We check both
# promises.

# %%
with_factors = model(inputs).detach()
report = pk.merge(model)
assert torch.allclose(model(inputs), with_factors, rtol=0, atol=1e-12)

pk.unmerge(model)
assert torch.equal(model(inputs), with_factors)  # to the last bit
assert torch.equal(model[0].base.weight, torch.from_numpy(W0))
report

# %% [markdown]
# After `unmerge` the answers and the weight are the old ones bit for bit, because $W_0$ was kept
# and nothing was subtracted.

# %% [markdown]
# ### Exercise 2
#
# *10 minutes · difficulty 2 of 5*
#
# Double $\alpha$ and leave everything else. By what factor does the change of $\Delta W$ in the
# *first* step of gradient descent grow? Predict it from the formulas, then measure it with
# `train(2, alpha, Y, steps=1)`. `answer_2` is the factor, a number.
#
# <details><summary>Hint 1</summary>
#
# $\alpha$ acts through $s = \alpha/r$ alone. The first step moves $B$ only, since the gradient of
# $A$ is zero there. How often does $s$ stand in the step of $B$?
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# Once in $\partial L/\partial B = s\, G A^\top$. Then $\Delta W = s\, B A$ is computed from the
# moved $B$: does $s$ stand anywhere else?
#
# </details>

# %% tags=["your-turn"]
# Your turn
answer_2 = ...

# %% tags=["self-check"]
pk.classroom.self_check("01.2", answer_2)

# %% tags=["hide-cell"] jupyter={"source_hidden": true, "outputs_hidden": true}


def first_change(alpha):
    B, A, _ = train(2, alpha, Y, steps=1)
    return alpha / 2 * B @ A


with pk.classroom.folded():
    growth = np.linalg.norm(first_change(8)) / np.linalg.norm(first_change(4))
    assert np.isclose(growth, 4)
    print(
        f"By {growth:.0f}. The step of B has a factor s, since ∂L/∂B = s G Aᵀ, and ΔW = s B A has"
        " another: s² in all."
    )
    print(
        "So doubling alpha does to this step what a fourfold learning rate would. In the first step"
    )
    print("of Adam, whose size does not depend on the gradient's, the factor would be 2.")

# %% [markdown]
# ## Where to go next
#
# - [Notebook 02](02_polynomial_expansion.ipynb) adds products of the columns and rows to $BA$:
#   polynomial expansion, PERA.
# - [Notebook 04](04_rank.ipynb) asks what rank means for numbers in a computer.
# - [Notebook 09](09_merging.ipynb) merges in half precision, where rounding does matter.
# - All that is claimed about LoRA and PERA, with its evidence: [claims and
#   verdicts](../docs/claims.md#lora-rank).
