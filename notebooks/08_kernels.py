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
# # 08 Kernels and SVMs
#
# Multiplying features is an old idea. A support vector machine with a quadratic kernel does it to
# its *inputs*; PERA does it to its *factors*. At the end of this notebook you can state what the
# two share, recover the quadratic kernel inside PERA exactly, and say where the parallel ends: a
# PERA layer still draws a straight line where the machine draws a curve.
#
# You need PERA's formula, from [notebook 02](02_polynomial_expansion.ipynb) or [notebook
# 03](03_equation_nine.ipynb), and a little linear algebra. Nothing about kernels is assumed. About
# 25 minutes to read, 10 seconds to run.

# %%
from fractions import Fraction

import matplotlib.pyplot as plt
import numpy as np
import torch

import perakit as pk
from perakit import plots, theory

plt.style.use(plots.STYLE)
rng = np.random.default_rng(0)

# %% [markdown]
# ## Two problems that no straight line solves
#
# Here are two sets of points in the plane, each with two classes, $y = +1$ and $y = -1$. In *XOR*
# the class is the sign of $x_1 x_2$. In *ring* one class surrounds the other.


# %%
def xor_points(count=30, spread=0.22):
    corners = np.array([[1, 1], [-1, -1], [1, -1], [-1, 1]])
    X = np.repeat(corners, count, axis=0) + spread * rng.normal(size=(4 * count, 2))
    return X, np.repeat([1.0, 1.0, -1.0, -1.0], count)


def ring_points(count=60):
    radius = np.concatenate([rng.uniform(0, 0.8, count), rng.uniform(1.2, 1.7, count)])
    angle = rng.uniform(0, 2 * np.pi, 2 * count)
    return radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1), np.repeat(
        [1.0, -1.0], count
    )


data = {"XOR": xor_points(), "ring": ring_points()}


# %% [markdown]
# A *linear* classifier answers with the sign of $f(x) = w_0 + w_1 x_1 + w_2 x_2$. Where $f = 0$
# lies its *boundary*, a straight line. The old remedy keeps the classifier linear and gives it more
# to look at: besides $1, x_1, x_2$ also the products $x_1^2,\ x_1x_2,\ x_2^2$. These numbers are
# called *features*, and products of inputs are *monomials*.


# %%
def linear_features(X):
    return np.concatenate([np.ones_like(X[:, :1]), X], axis=1)  # 1, x_i


def quadratic_features(X):
    i, j = np.triu_indices(X.shape[1])
    # 1, x_i, x_i x_j for i <= j
    return np.concatenate([linear_features(X), X[:, i] * X[:, j]], axis=1)


x = np.array([[2, 3]])
print("linear:   ", linear_features(x)[0])
print("quadratic:", quadratic_features(x)[0])

# %% [markdown]
# You have met `np.triu_indices` before: PERA forms the products of its columns with the same line
# of code, in the same order (arXiv 2604.11841, Eq. 2-5). That is the parallel in one line. The rest
# of the notebook makes it exact.
#
# With $n$ inputs there are $1 + n + n(n+1)/2$ quadratic features. That number grows fast:

# %%
for n in (2, 10, 768, 4096):
    print(f"n = {n:4}: {1 + n + n * (n + 1) // 2:>9,} features")

# %% [markdown]
# ## The kernel trick
#
# Many methods need features only in inner products, one point's features with another's. For
# quadratic features there is a shortcut. Expand the square:
#
# $$(1 + x\cdot y)^2 = 1 + 2\sum_i x_i y_i + \sum_i x_i^2 y_i^2 + 2\sum_{i<j} x_i x_j\, y_i y_j .$$
#
# On the right stand the quadratic features of $x$ times those of $y$, each with a weight 1 or 2. On
# the left stand $n$ multiplications, a sum and a square. A function $k(x, y)$ that is an inner
# product of features (with weights that are not negative) is a *kernel*, and using it in place of
# the features is the *kernel trick*.
#
# We check it on whole numbers, so that $=$ means equal. What do you expect for the weights of
# $x_1^2$ and of $x_1 x_2$?


# %%
def kernel(X, Y):
    return (1 + X @ Y.T) ** 2


def weights(n):
    i, j = np.triu_indices(n)
    return np.concatenate([[1], np.full(n, 2), np.where(i == j, 1, 2)])


X, Y = rng.integers(-4, 5, (6, 3)), rng.integers(-4, 5, (7, 3))
by_features = quadratic_features(X) * weights(3) @ quadratic_features(Y).T
assert np.array_equal(by_features, kernel(X, Y))
print(weights(3), "-> all", kernel(X, Y).size, "inner products are equal, exactly")

# %% [markdown]
# Keep the weights in mind: 1 for a square, 2 for a cross term. A cross term counts twice since
# $(x\cdot y)^2$ meets the pair $(i, j)$ also as $(j, i)$. The same 1 and 2 will come back as PERA's
# coefficients $h$.
#
# ## A classifier, twice
#
# A *support vector machine* (SVM) is the best-known user of kernels. We take its plainer cousin,
# *ridge regression*, because it has a closed form: fit $f(x) = \phi(x)\cdot w$ to the classes by
# least squares, with a small penalty $\lambda\|w\|^2$. (An SVM has another loss, the hinge;
# features and kernel enter in the same way.)
#
# With features $\Phi$ (one row a point) the answer is $w = (\Phi^\top\Phi + \lambda
# I)^{-1}\Phi^\top y$. This is the *primal* form. The *dual* form never sees a feature: with the
# table $G = \Phi\Phi^\top$ of all inner products, $f(x) = k(x, X)\,(G + \lambda I)^{-1}y$.


# %%
def primal(features, X, y, ridge=0.1):
    F = features(X)
    w = np.linalg.solve(F.T @ F + ridge * np.eye(F.shape[1]), F.T @ y)
    return lambda new: features(new) @ w


def dual(k, X, y, ridge=0.1):
    a = np.linalg.solve(k(X, X) + ridge * np.eye(len(X)), y)  # one number a point
    return lambda new: k(new, X) @ a


# %% [markdown]
# To compare the two forms, the features must carry the square roots of the weights, so that their
# plain inner product is the kernel. The primal form then solves for 6 unknowns, the dual form for
# 120, one a point. Do you expect the same predictions?


# %%
def weighted_features(X):
    return quadratic_features(X) * np.sqrt(weights(X.shape[1]))


probe = rng.uniform(-2, 2, (500, 2))  # points that neither has seen
for name, (X, y) in data.items():
    explicit, trick = primal(weighted_features, X, y), dual(kernel, X, y)
    gap = np.abs(explicit(probe) - trick(probe)).max()
    assert gap < 1e-9
    print(
        f"{name:4}: largest difference of a prediction {gap:.1e}, predictions up to"
        f" {np.abs(explicit(probe)).max():.1f}"
    )

# %% [markdown]
# The same function to rounding, as algebra says:
#
# $$\Phi^\top(\Phi\Phi^\top + \lambda I)^{-1} = (\Phi^\top\Phi + \lambda I)^{-1}\Phi^\top .$$
#
# Now the pictures, and the share of points on the right side.

# %%
side = np.linspace(-2, 2, 121)
grid = np.stack([axis.ravel() for axis in np.meshgrid(side, side)], axis=1)


def draw(ax, f, X, y, title):
    values = f(grid).reshape(121, 121)
    ax.contourf(side, side, values > 0, levels=[-0.5, 0.5, 1.5], colors=["#f6d7c3", "#cfe3f2"])
    ax.contour(side, side, values, [0], colors="k")
    for label, colour, mark in ((1, "C0", "o"), (-1, "C1", "^")):
        ax.plot(
            *X[y == label].T,
            mark,
            color=colour,
            markersize=3.5,
            label="y = +1" if label > 0 else "y = −1",
        )
    ax.set(title=title, xlabel="$x_1$", ylabel="$x_2$", aspect="equal", xlim=(-2, 2), ylim=(-2, 2))
    ax.grid(False)


def accuracy(f, X, y):
    return np.mean(np.sign(f(X)) == y)


fits = {"1 + x·y": lambda X, Y: 1 + X @ Y.T, "(1 + x·y)²": kernel}
figure, axes = plt.subplots(2, 2, figsize=(7.4, 7.4))
for row, (name, (X, y)) in zip(axes, data.items(), strict=True):
    for ax, (formula, k) in zip(row, fits.items(), strict=True):
        f = dual(k, X, y)
        draw(ax, f, X, y, f"{name}, k = {formula}: {accuracy(f, X, y):.0%} right")
        assert (accuracy(f, X, y) == 1) == (k is kernel)
_ = figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2)

# %% [markdown]
# The linear kernel draws a straight line and fails. The quadratic kernel draws a conic: a hyperbola
# for XOR, a closed curve for the ring. The classifier is linear in the features, and not in $x$.
# Remember this figure. We come back to it with a PERA layer in place of the kernel.
#
# ## LoRA's update is a table of inner products
#
# Now turn the picture round. Take LoRA's update $\Delta W = BA$ and look at one entry (arXiv
# 2106.09685, Eq. 3):
#
# $$\Delta W_{pq} = \sum_i B_{pi}A_{iq} = \langle B_p, A_q\rangle .$$
#
# Row $B_p$ of $B$ is a point in $\mathbb R^r$ that belongs to output $p$. Column $A_q$ of $A$ is a
# point in the same space that belongs to input $q$. LoRA's $\Delta W$ is the table of the *linear
# kernel* between the $m$ points and the $n$ points.
#
# PERA's entry is a polynomial in the products $u_i = B_{pi}A_{iq}$ of their coordinates (arXiv
# 2604.11841, Eq. 9):
#
# $$\Delta W_{pq} = \varphi_h(u) = \sum_i u_i + \sum_{i\le j} h_{ij}u_iu_j .$$
#
# Which $h$ would make the second sum $c\,\langle B_p, A_q\rangle^2$? Find it before you read on:
# $\langle B_p, A_q\rangle = \sum_i u_i$, and the square of such a sum was expanded above.
#
# $$\Bigl(\sum_i u_i\Bigr)^2 = \sum_i u_i^2 + 2\sum_{i<j}u_iu_j \quad\Rightarrow\quad h_{ii} =
# c,\quad h_{ij} = 2c\ (i<j).$$
#
# With these coefficients $\Delta W = BA + c\,(BA)\circ(BA)$: entry by entry the quadratic kernel
# $x\cdot y + c\,(x\cdot y)^2$. The paper does not state this case of its Eq. 9; perakit
# [proves it in symbols](../docs/claims.md#kernel). We use fractions, so there is no rounding.


# %%
def kernel_coefficients(rank, c):
    i, j = np.triu_indices(rank)
    return np.array([c if a == b else 2 * c for a, b in zip(i, j, strict=True)])


def fractions(*shape):
    above, below = rng.integers(-9, 10, shape), rng.integers(1, 6, shape)
    return np.vectorize(Fraction, otypes=[object])(above.astype(object), below.astype(object))


for rank in (1, 2, 3, 5):
    for c in (Fraction(1, 3), Fraction(-2), Fraction(0)):
        B, A, h = fractions(4, rank), fractions(rank, 5), kernel_coefficients(rank, c)
        assert np.array_equal(pk.formulas.pera(B, A, h), B @ A + c * (B @ A) ** 2)
print(
    "12 pairs (r, c), every entry equal. One of them:",
    pk.formulas.pera(B, A, kernel_coefficients(5, Fraction(1, 3)))[0, 0],
)

# %% [markdown]
# Twelve cases are examples. The argument for all cases is the expansion above, and the library runs
# it on symbols, at several small sizes; larger ones repeat them, since an entry reads one row of
# $B$ and one column of $A$:

# %%
evidence = theory.claims["kernel"].check()
assert evidence.holds
print(f"{evidence.verdict}: {evidence.summary}\n")
print(theory.symbolic.kernel(rank=2))

# %% [markdown]
# ## What other coefficients mean
#
# In general $\sum h_{ij}u_iu_j$ is a *quadratic form* in $u$: any homogeneous quadratic polynomial.
# As a function of the two points it is a weighted sum over monomials,
#
# $$k_h(x, y) = \sum_i x_iy_i + \sum_{i\le j} h_{ij}\,(x_ix_j)(y_iy_j),$$
#
# with weight 1 on the linear features and $h_{ij}$ on the products. Two contour plots show the
# difference. Left: the kernel's coefficients, $h = (\frac12, 1, \frac12)$. Right: $h = (\frac12,
# -1, \frac12)$. What shape has $\varphi_h = 0$ on the left, where $\varphi_h(u) = s + \frac12 s^2$
# with $s = u_1 + u_2$?

# %%
figure, axes = plt.subplots(1, 2, figsize=(10.4, 4.6))
for ax, h, title in zip(
    axes,
    ([0.5, 1, 0.5], [0.5, -1, 0.5]),
    ("kernel: depends on $u_1 + u_2$ alone", "general: it bends"),
    strict=True,
):
    plots.plot_entry_polynomial(h, span=3, ax=ax).set_title(f"h = {tuple(h)}\n{title}")

# %% [markdown]
# On the left all level lines are straight and parallel, and $\varphi_h = 0$ is the two lines $s =
# 0$ and $s = -2$: the kernel reads one number, the inner product $s$, and bends it. On the right
# $\varphi_h$ tells apart $u$ with the same sum, and $\varphi_h = 0$ is a parabola. That is what the
# other coefficients are for.
#
# Is $k_h$ a kernel for every $h$? A kernel is an inner product of features, so the table $G_{st} =
# k(x_s, x_t)$ for any points satisfies $a^\top G a \ge 0$ for every vector $a$. If no $h_{ij}$ is
# negative, put $\sqrt{h_{ij}}$ on each feature: a kernel. If some $h_{ij}$ is negative, it is none.
# *Proof.* Monomials are linearly independent functions, so there are points and numbers $a_s$ with
# $\sum_s a_s x_{s,i} x_{s,j} = 1$ for that one product, and 0 for each other feature. Then $a^\top
# G a = h_{ij} < 0$. $\square$
#
# The proof can be run. For $h = (\frac12, -1, \frac12)$ we want points that see $x_1x_2$ and
# nothing else. The four corners of XOR do, with $a = (1, 1, -1, -1)/4$: that is what made XOR hard
# for a line.

# %%
corners = np.array([[1, 1], [-1, -1], [1, -1], [-1, 1]])
a = np.array([1, 1, -1, -1]) / 4
print("Σ a · (1, x1, x2, x1², x1 x2, x2²) =", a @ quadratic_features(corners))


def k_h(X, Y, h):
    return pk.formulas.pera(X, Y.T, h)  # PERA's own formula: rows of X against rows of Y


G = k_h(corners, corners, np.array([0.5, -1, 0.5]))
print(f"aᵀ G a = {a @ G @ a}, smallest eigenvalue of G {np.linalg.eigvalsh(G)[0]:.1f}")
assert a @ G @ a == -1

# %% [markdown]
# So "PERA is a kernel" is true for $h \ge 0$ only. Training puts no sign on $h$, and PERA needs
# none: an SVM needs the property so that its optimisation problem is convex, and PERA solves no
# such problem. There is one more difference. An SVM's table has the same points on both sides;
# PERA's has rows of $B$ on one side, columns of $A$ on the other.
#
# ## High rank, few dimensions
#
# How large is the set of updates with kernel coefficients? Two numbers answer that, and they are
# not the same. The *rank* says how complicated one update can be; the *dimension* counts the
# directions in which the set extends ([notebook 06](06_manifold.ipynb)). Since $(BA)\circ(BA)$ has
# rank up to $r(r+1)/2$, the rank can reach $r + r(r+1)/2 = K$, as PERA's. But $r(r+1)/2$ free
# coefficients have become one, $c$. What do you expect of the dimension?

# %%
m, n = 13, 15


def kernel_family(rank):
    return theory.Formula(
        lambda B, A, c: B @ A + c * (B @ A) * (B @ A),
        lambda m, n: {"B": (m, rank), "A": (rank, n), "c": (1,)},
    )


lines = ["r    rank: LoRA kernel PERA   dimension: LoRA kernel PERA"]
for r in (1, 2, 3):
    families = (pk.LoRA(r), kernel_family(r), pk.PERA(r))
    ranks = [theory.measured_rank(m, n, family) for family in families]
    sizes = [theory.jacobian_rank(m, n, family).rank for family in families]
    lines.append(f"{r}{ranks[0]:14}{ranks[1]:7}{ranks[2]:5}{sizes[0]:18}{sizes[1]:7}{sizes[2]:5}")
    assert ranks[1] == ranks[2] == r * (r + 3) // 2
    assert sizes[0] == r * (m + n) - r**2
    assert sizes[1] == sizes[0] + 1
    assert sizes[2] == r * (m + n) + r * (r - 1) // 2
print("\n".join(lines))

# %% [markdown]
# All are measured at random factors, by exact elimination modulo a prime. The kernel case has
# PERA's rank and LoRA's dimension plus one. At $r = 1$ it *is* PERA, which has one coefficient
# there. From $r = 2$ on it is a thin slice of PERA.
#
# Why only one more than LoRA? Because $\Delta W$ depends on the factors through $BA$ alone. Replace
# $B \to BX$, $A \to X^{-1}A$ with any invertible $X$: the inner products stay, and so does every
# function of them. For most other $h$ PERA ignores rescaling and reordering only ([notebook
# 06](06_manifold.ipynb)). On whole numbers:

# %%
B, A, shear = rng.integers(-3, 4, (5, 2)), rng.integers(-3, 4, (2, 6)), np.array([[1, 1], [0, 1]])
back = np.array([[1, -1], [0, 1]])  # the inverse of the shear
for name, h in (
    ("kernel  (3, 6, 3)", np.array([3, 6, 3])),
    ("general (3, 5, 3)", np.array([3, 5, 3])),
):
    same = np.array_equal(pk.formulas.pera(B, A, h), pk.formulas.pera(B @ shear, back @ A, h))
    print(f"h = {name}: update unchanged by the shear? {same}")
    assert same == (h[1] == 6)

# %% [markdown]
# ## Where the parallel ends
#
# Now the part that is most often got wrong. Compare what is multiplied with what:
#
# | | SVM with a quadratic kernel | PERA |
# |:--|:--|:--|
# | multiplied are | entries of the **input** $x$ | columns of $B$, rows of $A$: the **factors** |
# | points in the kernel | data points, given | rows of $B$, columns of $A$: both trained |
# | weights of the products | fixed, $\ge 0$ | $h$, trained, of any sign |
# | what the kernel gives | the function $f(x)$ | the entries of a matrix $\Delta W$ |
# | as a function of $x$ | a quadratic | linear: $x \mapsto \Delta W x$ |
# | afterwards | the points or features are kept | merged into one matrix, $W_0 + \Delta W$ |
#
# In an SVM a point $x$ enters the polynomial. In PERA $x$ enters nowhere but at the end, in $\Delta
# W x$ ([claim](../docs/claims.md#linear-in-the-input)). So one layer with PERA, $f(x) = (W_0 +
# \Delta W)x + b$, has a straight boundary, whatever $B$, $A$ and $h$ are. It cannot solve XOR. The
# proof takes one line: for every such $f$,
#
# $$f(1,1) + f(-1,-1) = 2f(0) = f(1,-1) + f(-1,1),$$
#
# and XOR wants the left side positive and the right side negative. Let us see it on random factors
# and on fractions.

# %%
for _ in range(100):
    rank = int(rng.integers(1, 4))
    W = fractions(1, 2) + pk.formulas.pera(
        fractions(1, rank), fractions(rank, 2), fractions(rank * (rank + 1) // 2)
    )
    f = (corners @ W.T + Fraction(1, 7))[:, 0]
    assert f[0] + f[1] == f[2] + f[3]
print("100 random PERA layers: the two sums are equal, exactly")

# %% [markdown]
# And by training. One frozen layer $x \mapsto W_0x$ from two inputs to one output gets an adapter,
# which is trained on the XOR points with the logistic loss. Beside PERA stands `pk.Quadratic`, a
# contrast made for this purpose: it adds $P\bigl((Ux)\circ(Ux)\bigr)$, a square of the *input*, as
# the kernel classifier does. Predict both accuracies.


# %%
def trained(method, steps=400):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(2, 1, bias=False, dtype=torch.float64))
    torch.nn.init.constant_(model[0].weight, 0.5)
    pk.attach(model, method, ["0"])
    X, y = (torch.tensor(array) for array in data["XOR"])
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.03)
    for _ in range(steps):
        loss = torch.nn.functional.softplus(-y * model(X)[:, 0]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


models = {"PERA, r = 2": trained(pk.PERA(2)), "Quadratic, r = 2": trained(pk.Quadratic(2))}


# %%
def reader(model):
    return lambda points: model(torch.tensor(points)).detach().numpy()[:, 0]


X, y = data["XOR"]
figure, axes = plt.subplots(1, 2, figsize=(7.4, 4.1))
for ax, (name, model) in zip(axes, models.items(), strict=True):
    draw(ax, reader(model), X, y, f"one layer + {name}: {accuracy(reader(model), X, y):.0%} right")
_ = figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
assert accuracy(reader(models["PERA, r = 2"]), X, y) < 0.8
assert accuracy(reader(models["Quadratic, r = 2"]), X, y) == 1

# %% [markdown]
# The PERA layer's boundary is straight, and no amount of training bends it. The quadratic adapter
# has the hyperbola of the kernel classifier. It pays for that: it is no matrix, so it cannot be
# merged. PERA can.

# %%
before = reader(models["PERA, r = 2"])(X)
pk.merge(models["PERA, r = 2"])
assert np.allclose(reader(models["PERA, r = 2"])(X), before, rtol=0, atol=1e-9)
print("PERA: merged, the same outputs to rounding")
try:
    pk.merge(models["Quadratic, r = 2"])
except pk.PerakitError as error:
    print("Quadratic:", error)
else:
    raise AssertionError("a quadratic layer was merged")

# %% [markdown]
# Inside a network with nonlinear parts, a layer with PERA takes part in curved boundaries, and so
# does a layer with LoRA or with any other $W$. The curve comes from what is nonlinear around the
# layer. What PERA changes is *which matrices* $W$ the adapter can reach with few parameters, not
# what a layer can do with its input. Whether that helps in training is a question for measurements,
# and no kernel argument answers it.
#
# ## Exercises
#
# Write your answer into the cell under an exercise, then run the check below it. Use names of your
# own there: the folded cell after each, which has our answer, goes on with those of this page.
#
# ### Exercise 1
#
# *25 minutes · difficulty 4 of 5*
#
# At degree three PERA also has products of three columns (`degree=3`; the paper leaves degrees
# above 2 open). Find the $h$ that gives $\Delta W = BA + c_2 (BA)^{\circ 2} + c_3 (BA)^{\circ 3}$,
# where $\circ 3$ is the elementwise cube. `pk.formulas.monomials(rank, "full", 3)` lists the
# indices, degree by degree: a list of two arrays, with a monomial in each column. Check it exactly
# at $r = 3$. `answer_1` is a function `(rank, c2, c3)` that returns the array $h$, in this order.
#
# <details><summary>Hint 1</summary>
#
# Expand $(u_1 + u_2 + u_3)^3$. How often does $u_1^2u_2$ occur, and how often $u_1u_2u_3$?
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# A monomial with the multiplicities $k_1, k_2, \dots$ occurs $d!/(k_1!\,k_2!\cdots)$ times in the
# power $d$. `np.unique(row, return_counts=True)[1]` has the multiplicities.
#
# </details>

# %% tags=["your-turn"]
# Your turn
answer_1 = ...  # a function (rank, c2, c3) -> h

# %% tags=["self-check"]
pk.classroom.self_check("08.1", answer_1)

# %% tags=["hide-cell"] jupyter={"source_hidden": true, "outputs_hidden": true}
from math import factorial, prod


def multinomial(row):
    """How often the monomial appears in the power of a sum.

    That is d! over the factorials of its multiplicities.
    """
    return factorial(len(row)) // prod(
        factorial(int(count)) for count in np.unique(row, return_counts=True)[1]
    )


with pk.classroom.folded():
    c = {2: Fraction(3, 4), 3: Fraction(-1, 5)}
    h = np.array(
        [
            c[len(row)] * multinomial(row)
            for block in pk.formulas.monomials(3, "full", 3)
            for row in block.T
        ]
    )
    B, A = fractions(4, 3), fractions(3, 5)
    assert np.array_equal(
        pk.formulas.pera(B, A, h, degree=3), B @ A + c[2] * (B @ A) ** 2 + c[3] * (B @ A) ** 3
    )
    print(
        "numbers that multiply c₃:",
        [multinomial(row) for row in pk.formulas.monomials(3, "full", 3)[1].T],
    )

# %% [markdown]
# ### Exercise 2
#
# *15 minutes · difficulty 3 of 5*
#
# The kernel of the classifier was $(1 + x\cdot y)^2$, with a constant. PERA's has none: at $u = 0$
# it is 0. For given $B$ and $A$ of rank 2, build factors and coefficients of rank 3 with $\Delta
# W_{pq} = (1 + \langle B_p, A_q\rangle)^2$ exactly. `answer_2` is a function `(B, A)` that returns
# three arrays `(B, A, h)` of rank 3, so that `pk.formulas.pera` of them is that matrix.
#
# <details><summary>Hint 1</summary>
#
# Which column of $B$ and which row of $A$ make $u_3 = 1$ in every entry?
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# With $u_3 = 1$ the linear part is $1 + u_1 + u_2$ already. Expand the wanted square, subtract
# that, and write what is left as products $u_iu_j$, where $u_1u_3$ is $u_1$. The order of the pairs
# is that of `pk.formulas.pairs(3)`.
#
# </details>

# %% tags=["your-turn"]
# Your turn
answer_2 = ...  # a function (B, A) -> (B, A, h), of rank 3

# %% tags=["self-check"]
pk.classroom.self_check("08.2", answer_2)

# %% tags=["hide-cell"] jupyter={"source_hidden": true, "outputs_hidden": true}
with pk.classroom.folded():
    B, A = rng.integers(-3, 4, (4, 2)), rng.integers(-3, 4, (2, 5))
    B_one, A_one = np.column_stack([B, np.ones(4, int)]), np.vstack([A, np.ones(5, int)])
    # wanted: 1 + 2(u1 + u2) + (u1 + u2)²; the linear part with u3 = 1 gives 1 + u1 + u2 already
    h = {(0, 0): 1, (0, 1): 2, (0, 2): 1, (1, 1): 1, (1, 2): 1, (2, 2): 0}
    h = np.array([h[pair] for pair in zip(*pk.formulas.pairs(3), strict=True)])
    assert np.array_equal(pk.formulas.pera(B_one, A_one, h), (1 + B @ A) ** 2)
    print("h =", h)

# %% [markdown]
# ### Exercise 3
#
# *15 minutes · difficulty 3 of 5*
#
# A colleague says: "PERA layers are little SVMs. Put one on a linear probe and it will find
# quadratic boundaries." Name two things that are wrong, and the smallest experiment that shows each
# of them. One experiment is this: take $h = (1, 1, -1)$ at rank 2, and points at which $k_h$ is no
# kernel, since the table $G_{st} = k_h(x_s, x_t)$ has a negative eigenvalue. With how few points
# can you do it? `answer_3` is an array of such points, one in each row.
#
# <details><summary>Hint 1</summary>
#
# The only negative coefficient is that of $u_2^2$. Which points make that product large, and the
# others small?
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# A table of one point has one entry, $k_h(x, x)$, which is its eigenvalue. Write it down for $x =
# (0, t)$.
#
# </details>

# %% tags=["your-turn"]
# Your turn
answer_3 = ...  # points, an array of shape (how many, 2)

# %% tags=["self-check"]
pk.classroom.self_check("08.3", answer_3)

# %% [markdown]
# <details><summary>Answer</summary>
#
# First, the products are of the factors and not of the input, so the probe stays linear in its
# input and its boundary straight. Experiment: evaluate the layer without its bias at $x$ and at
# $2x$; the answer doubles. For a quadratic boundary some answer would have to do something else. Or
# put it on the four corners of XOR, as above.
#
# Second, an SVM's weights of the products are fixed and not negative, which makes $k$ a kernel and
# its training convex. PERA's $h$ is trained and may be negative. Experiment: one point is enough.
# For $h = (1, 1, -1)$ and $x = (0, t)$ the table is the one number $t^2 - t^4$, which is negative
# for $t > 1$. "Support vectors" do not occur either: both sets of points are parameters, none is a
# data point.
#
# </details>
#
# ### Exercise 4
#
# *15 minutes · difficulty 2 of 5*
#
# Start PERA at kernel coefficients, $h_{ii} = c$, $h_{ij} = 2c$. Does plain gradient descent stay
# there? With $G = \partial L/\partial\Delta W$ the gradient is $\partial L/\partial h_{ij} =
# (b_i\circ b_j)^\top G\,(a_i\circ a_j)$ ([claim](../docs/claims.md#gradients)). To stay, the step
# of $h_{12}$ must be twice that of $h_{11}$, and the steps of $h_{11}$ and $h_{22}$ equal. Decide
# with one example of whole numbers at $r = 2$ that leaves. `answer_4` is a tuple `(B, A, G)` of
# arrays of whole numbers, of the shapes $(m, 2)$, $(2, n)$ and $(m, n)$.
#
# <details><summary>Hint 1</summary>
#
# Draw small whole numbers and compute the three gradients. Or think: which simple $B$ and $A$ let
# each $h_{ii}$ see one entry of $G$?
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# With $B = A = I$ of size 2 the gradients by $h_{11}$ and $h_{22}$ are $G_{11}$ and $G_{22}$, and
# the one by $h_{12}$ is 0.
#
# </details>

# %% tags=["your-turn"]
# Your turn
answer_4 = ...  # (B, A, G)

# %% tags=["self-check"]
pk.classroom.self_check("08.4", answer_4)

# %% tags=["hide-cell"] jupyter={"source_hidden": true, "outputs_hidden": true}
with pk.classroom.folded():
    B, A, G = rng.integers(-3, 4, (4, 2)), rng.integers(-3, 4, (2, 5)), rng.integers(-3, 4, (4, 5))
    i, j = pk.formulas.pairs(2)
    step = np.array([(B[:, a] * B[:, b]) @ G @ (A[a] * A[b]) for a, b in zip(i, j, strict=True)])
    print("gradient of (h11, h12, h22):", step, "-> it leaves the slice")
    assert not (step[1] == 2 * step[0] and step[0] == step[2])

# %% [markdown]
# ## Where to go next
#
# - [Notebook 09](09_merging.ipynb): what merging does to numbers, and what rounding loses.
# - [Notebook 06](06_manifold.ipynb): dimension and symmetry, from the beginning.
# - [The quadratic kernel inside PERA](../docs/claims.md#kernel) and [an update that is quadratic in
#   the input is no matrix](../docs/claims.md#quadratic-is-no-matrix): the claims, with their
#   evidence.
# - [Asking questions of an update rule](../docs/theory.md#how-many-dimensions-does-it-fill): put a
#   formula of your own in place of `kernel_family`.
