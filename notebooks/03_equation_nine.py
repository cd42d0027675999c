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
# # 03 Equation 9, with symbols in place of numbers
#
# At the end you will be able to put letters where a program expects numbers, read its formula off
# the result, and prove an identity about it with sympy, Python's computer algebra. You will do that
# with Eq. 9 of the paper on PERA (arXiv 2604.11841), with its gradients, and with formulas that are
# wrong. You need PERA's update from [notebook 02](02_polynomial_expansion.ipynb). About 25 minutes
# to read, 15 seconds to run.

# %% [markdown]
# ## Letters in arrays
#
# `np.allclose` tells that two results agree at the numbers that were tried. It cannot tell that
# they agree at *all* numbers. Algebra can. NumPy arrays may hold any Python object
# (`dtype=object`), and sympy has objects that stand for an unknown number, **symbols**. They can be
# added and multiplied like numbers. So a function that only adds and multiplies arrays does not
# notice the difference, and its result is its formula.
#
# We build $B$ and $A$ of symbols, for a $2 \times 2$ layer and rank 2, and one coefficient $h_{ij}$
# for each pair $i \le j$.

# %%
import matplotlib.pyplot as plt
import numpy as np
import sympy as sp
from IPython.display import Math, display

import perakit as pk
from perakit import formulas, plots, theory
from perakit.theory import symbolic

plt.style.use(plots.STYLE)


def letters(letter, rows, columns):
    """A matrix of symbols, such as b_{12}: counted from 1, as in the paper."""
    return np.array(
        [
            [sp.Symbol(f"{letter}_{{{p}{q}}}") for q in range(1, columns + 1)]
            for p in range(1, rows + 1)
        ],
        dtype=object,
    )


m, n, r = 2, 2, 2
B, A = letters("b", m, r), letters("a", r, n)
h = np.array(sp.symbols("h_{11} h_{12} h_{22}"), dtype=object)

delta = formulas.pera(B, A, h)  # the same function that takes numbers
Math(r"\Delta W_{11} = " + sp.latex(sp.expand(delta[0, 0])))

# %% [markdown]
# Two terms of LoRA, three products with their coefficients. Nobody typed this polynomial: it came
# out of the function that took numbers in notebook 02, and that perakit's layers are tested
# against.
#
# ## Is it Eq. 9?
#
# The paper states (arXiv 2604.11841, Eq. 9), with columns $b_i$ of $B$ and rows $a_i$ of $A$,
#
# $$\Delta W = \sum_i b_i a_i^\top + \sum_{i \le j} h_{ij}\, (b_i \circ b_j)(a_i \circ a_j)^\top .$$
#
# We type it a second time, as literally as we can, and compare. There is a trap here. What will
# `==` say about $(x+y)^2$ and $x^2 + 2xy + y^2$?

# %%
x, y = sp.symbols("x y")
print("(x + y)**2 == x**2 + 2*x*y + y**2:", (x + y) ** 2 == x**2 + 2 * x * y + y**2)
print("their difference, multiplied out:  ", sp.expand((x + y) ** 2 - (x**2 + 2 * x * y + y**2)))


def first_difference(left, right):
    """The first entry of left - right that is not zero when multiplied out; 0 if there is none."""
    differences = (sp.expand(entry) for entry in np.subtract(left, right).flat)
    return next((entry for entry in differences if entry != 0), sp.Integer(0))


pairs = [(0, 0), (0, 1), (1, 1)]
equation_9 = sum(np.outer(B[:, i], A[i]) for i in range(r))
equation_9 = equation_9 + sum(
    c * np.outer(B[:, i] * B[:, j], A[i] * A[j]) for c, (i, j) in zip(h, pairs, strict=True)
)

print("code minus Eq. 9:", first_difference(delta, equation_9))
assert first_difference(delta, equation_9) == 0

# %% [markdown]
# In sympy `==` asks whether two expressions are *written* alike. To ask whether they are *equal*,
# take the difference and multiply it out: a polynomial is zero everywhere exactly if all its terms
# cancel.
#
# They cancel, in all four entries. So the code computes Eq. 9 for every choice of $B$, $A$ and $h$
# of these sizes, without exception: an exact argument, and one that runs. What it takes to get from
# these sizes to all comes below.
#
# Three more equations of the paper are special cases. Without coefficients there is LoRA (Eq. 8),
# with $i = j$ only the squares remain (Eq. 10), and with $i < j$ only the cross terms (Eq. 11).

# %%
linear = B @ A
squares = sum(h[k] * np.outer(B[:, k] ** 2, A[k] ** 2) for k in range(r))
cross = h[0] * np.outer(B[:, 0] * B[:, 1], A[0] * A[1])

checks = {
    "Eq. 8,  h = 0": (formulas.pera(B, A, 0 * h), linear),
    "Eq. 10, squares": (formulas.pera(B, A, h[:2], terms="square"), linear + squares),
    "Eq. 11, cross terms": (formulas.pera(B, A, h[:1], terms="cross"), linear + cross),
}
for name, (left, right) in checks.items():
    print(f"{name:20} difference:", first_difference(left, right))
    assert first_difference(left, right) == 0

# %% [markdown]
# ## Derivations that show their steps
#
# `perakit.theory.symbolic` has such arguments ready, each a list of steps. A step with a tick
# claims something and has been found to be exactly so. In a notebook a derivation is set as
# mathematics; `print` gives plain text. This one derives the polynomial $\varphi_h$ that every
# entry reads ([notebook 02](02_polynomial_expansion.ipynb)).

# %%
derivation = symbolic.entry_polynomial(rank=2)
assert derivation.holds
derivation

# %% [markdown]
# The last two steps speak of degrees. The **degree** of a term is the number of letters that are
# multiplied in it, and the degree of a polynomial is that of its highest term. In $u$ the
# polynomial is quadratic. In the parameters it is not: each $u_i$ is itself a product $B_{pi}
# A_{iq}$. What is the degree of an entry of LoRA in all its parameters? And of PERA's $h_{12}\,
# b_{11} b_{12}\, a_{11} a_{21}$? The last line of the cell also tries `degree=3`, where three
# columns are multiplied.

# %%
everything = [*B.flat, *A.flat, *h.flat]
cubic_h = letters("h", 1, 7)[0]  # three products of two columns, four of three
cubic = formulas.pera(B, A, cubic_h, degree=3)
degrees = []
for name, update, coefficients in (
    ("LoRA", linear, h),
    ("PERA", delta, h),
    ("PERA, degree=3", cubic, cubic_h),
):
    degrees.append(sp.Poly(update[0, 0], *B.flat, *A.flat, *coefficients).total_degree())
    parts = [sp.Poly(update[0, 0], *part.flat).total_degree() for part in (B, A, coefficients)]
    print(
        f"{name:15} degree {degrees[-1]} in all parameters: {parts[0]} in B, {parts[1]} in A,"
        f" {parts[2]} in h"
    )
assert degrees == [2, 5, 7]

# %% [markdown]
# LoRA 2, PERA $2 + 2 + 1 = 5$; with products of up to $k$ columns it is $2k + 1$. And yet the
# layer's *input* occurs in none of these terms: given the parameters, the layer is one matrix.
#
# A polynomial is a list of terms, and a term is a list of exponents. So the whole update can be
# shown as a table: a row for each term of each entry, a column for each parameter, and in it the
# exponent. Before you look: which columns will the terms of $\Delta W_{12}$ use?

# %%
terms = [
    (p, q, powers)
    for p, q in np.ndindex(m, n)
    for powers in sorted(sp.Poly(delta[p, q], *everything).monoms(), key=sum)
]
exponents = np.array([powers for _, _, powers in terms])

figure, ax = plt.subplots(figsize=(8, 5.6))
image = ax.imshow(exponents, cmap=plt.get_cmap("Blues", 3), vmin=-0.5, vmax=2.5, aspect="auto")
figure.colorbar(image, ax=ax, ticks=[0, 1, 2], label="exponent")
ax.set_xticks(range(len(everything)), [f"${s}$" for s in everything])
ax.set_yticks(
    [5 * k + 2 for k in range(m * n)],
    [rf"$\Delta W_{{{p + 1}{q + 1}}}$" for p, q in np.ndindex(m, n)],
)
for line in (4.5, 9.5, 14.5):
    ax.axhline(line, color="0.3", linewidth=1)
for line in (3.5, 7.5):
    ax.axvline(line, color="0.3", linewidth=1)
ax.grid(False)
_ = ax.set(
    xlabel="parameter",
    ylabel="terms of each entry",
    title="20 terms, 5 for each entry: one row of B, one column of A, all of h",
)

assert exponents.shape == (20, 11)
for p, q, powers in terms:
    used = {s for s, power in zip(everything, powers, strict=True) if power}
    assert used <= {*B[p], *A[:, q], *h}

# %% [markdown]
# Entry $(p, q)$ uses row $p$ of $B$, column $q$ of $A$, and the coefficients; nothing else. And
# each product uses two columns at most. This is why small sizes say so much about large ones. We
# come back to it at the end.
#
# ## A kernel in disguise
#
# Suppose that the coefficients are not free but all made from one number $c$: $h_{ii} = c$ and
# $h_{ij} = 2c$ for $i < j$. Then $\sum_{i \le j} h_{ij} u_i u_j = c\,(u_1 + u_2 + \dots)^2$, by the
# binomial formula. But $u_1 + u_2 + \dots$ is the entry of $BA$. So the update should be
#
# $$\Delta W = BA + c\,(BA) \circ (BA).$$
#
# Entry by entry this is $s + c s^2$, with $s$ the product of a row of $B$ and a column of $A$: up
# to a factor and a constant the inhomogeneous quadratic kernel $(s + \tfrac{1}{2c})^2$ of the
# support-vector machine. It is a case of Eq. 9 that the paper does not state.

# %%
c = sp.Symbol("c")
as_kernel = formulas.pera(B, A, np.array([c, 2 * c, c], dtype=object))
by_powers = B @ A + c * (B @ A) * (B @ A)
assert first_difference(as_kernel, by_powers) == 0
assert symbolic.kernel(2, 3, rank=3).holds  # perakit's derivation, a larger case

figure = plt.figure(figsize=(11, 5))
left, right = figure.add_subplot(1, 2, 1, projection="3d"), figure.add_subplot(1, 2, 2)
plots.plot_entry_polynomial([0.6, -0.8, 0.4], ax=left)
plots.plot_entry_polynomial([0.3, 0.6, 0.3], ax=right)
left.set_title("Free coefficients: a bent surface\n")
left.set_box_aspect(None, zoom=1.0)
_ = right.set_title("Kernel coefficients, c = 0.3: straight level lines")

# %% [markdown]
# On the left is the graph of $\varphi_h$ for three free coefficients, with LoRA's plane in grey. On
# the right, with kernel coefficients, all level lines are straight and parallel to LoRA's: the
# polynomial depends on $u_1 + u_2$ alone, so on the entry of $BA$ alone. PERA contains this kernel
# and, with free coefficients, more. [Notebook 08](08_kernels.ipynb) goes on from here.
#
# ## Gradients
#
# What do the parameters learn from? Let $L$ be any loss and $G = \partial L / \partial \Delta W$.
# The derivative of $L$ by a parameter is that of $\sum_{pq} G_{pq} \Delta W_{pq}$, with $G$ held
# fixed (the chain rule). For a coefficient this is quickly done by hand, since $h_{ij}$ multiplies
# one outer product:
#
# $$\frac{\partial L}{\partial h_{ij}} = (b_i \circ b_j)^\top\, G\, (a_i \circ a_j).$$
#
# `theory.pera_gradients` has closed forms for $B$, $A$ and $h$. We put both to sympy, which
# differentiates by rules of its own.

# %%
G = letters("g", m, n)
loss = (G * delta).sum()

by_hand = (B[:, 0] * B[:, 1]) @ G @ (A[0] * A[1])
assert sp.expand(by_hand - sp.diff(loss, h[1])) == 0

closed = theory.pera_gradients(G, B, A, h)
for name, parameters in (("B", B), ("A", A), ("h", h)):
    derivatives = np.array([sp.diff(loss, s) for s in parameters.flat], dtype=object).reshape(
        parameters.shape
    )
    print(f"closed form minus derivative by {name}:", first_difference(closed[name], derivatives))
    assert first_difference(closed[name], derivatives) == 0

# %% [markdown]
# All three are right. In [notebook 01](01_low_rank_adaptation.ipynb) finite differences said the
# same up to rounding and at one point; here it is exact and at every point.
#
# Now put in the start of training, $B = 0$. Which of the three gradients survive, and do they still
# contain $h$?

# %%
start = dict.fromkeys(B.flat, 0)
at_start = {
    name: np.array([sp.expand(e).subs(start) for e in gradient.flat]).reshape(gradient.shape)
    for name, gradient in closed.items()
}
for name in ("B", "A", "h"):
    display(
        Math(rf"\partial L/\partial {name} = " + sp.latex(sp.Matrix(np.atleast_2d(at_start[name]))))
    )

assert first_difference(at_start["B"], G @ A.T) == 0
assert not at_start["A"].any()
assert not at_start["h"].any()

# %% [markdown]
# Only $B$ moves, and its gradient is $G A^\top$: LoRA's, to the letter, whatever $h$ is. So the
# first step of gradient descent is the same for PERA and for LoRA, a fact about every run that
# starts at $B = 0$.
#
# ## A wrong formula
#
# A test is worth something if it can fail. Suppose that a student forgets to multiply the rows of
# $A$: the columns are $b_i \circ b_j$ as they should be, but each stands next to $a_i$ alone. The
# code runs and gives no warning. `symbolic.expansion` takes a rule of one's own as `formula=`. At
# rank 1 the answer fits on a few lines.

# %%


def forgotten(B, A, h):
    i, j = np.triu_indices(A.shape[0])
    return B @ A + (B[:, i] * B[:, j]) @ (h[:, None] * A[i])


derivation = symbolic.expansion(1, 1, rank=1, formula=forgotten)
assert not derivation.holds
print(derivation)

# %% [markdown]
# Step 5 fails, and shows what is left when Eq. 9 is subtracted: a term with one $a_{11}$ where
# there should be two. That is the mistake itself.
#
# perakit keeps a list of **claims**, statements about update rules with the argument that decides
# each. A claim can also be put to another formula. When that fails, a search follows, for the
# smallest whole numbers on which the formula is not PERA's.

# %%
for name in ("lora-equation", "total-degree", "hadamard-series"):
    evidence = theory.claims[name].check(formula=forgotten)
    print(f"{name}: {'holds' if evidence.holds else 'FAILS'}\n    {evidence.summary}")

print("\nsmallest numbers that show it:")
for name, value in evidence.counterexample.items():
    print(f"  {name} = {value.tolist() if isinstance(value, np.ndarray) else value}")
assert not evidence.holds

# %% [markdown]
# Each claim sees what it asks for. With $h = 0$ the mistake has no effect, so "without coefficients
# PERA is LoRA" holds. The degree and the Hadamard series give it away. And the numbers at the end
# can be checked in one's head: a $1 \times 1$ layer in which $a^2$ and $a$ differ.

# %% [markdown]
# ### Exercise 1
#
# *10 minutes · difficulty 2 of 5*
#
# Here is a mistake that is harder to see: the pairs in another order, those of the *lower*
# triangle.
#
# ```python
# def lower(B, A, h):
#     i, j = np.tril_indices(A.shape[0])
#     return B @ A + (B[:, i] * B[:, j]) @ (h[:, None] * A[i] * A[j])
# ```
#
# Write down the pairs for $r = 2$ and for $r = 3$, in this order and in that of `np.triu_indices`.
# At which of the ranks 1, 2, 3 and 4 does `symbolic.expansion(1, 1, rank, formula=lower)` hold?
# `answer_1` is the set of these ranks, such as `{4}`.
#
# <details><summary>Hint 1</summary>
#
# `list(zip(*np.tril_indices(2)))` shows the pairs. The pair $(1, 0)$ is the same two columns as
# $(0, 1)$, and their product is the same.
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# The coefficient number $k$ goes to the pair number $k$. So the formula is right as long as the
# pair number $k$ is made of the same two columns in both orders, for every $k$.
#
# </details>

# %% tags=["your-turn"]
# Your turn
answer_1 = ...

# %% tags=["self-check"]
pk.classroom.self_check("03.1", answer_1)

# %% tags=["hide-cell"] jupyter={"source_hidden": true, "outputs_hidden": true}


def lower(B, A, h):
    i, j = np.tril_indices(A.shape[0])
    return B @ A + (B[:, i] * B[:, j]) @ (h[:, None] * A[i] * A[j])


with pk.classroom.folded():
    holds = [symbolic.expansion(1, 1, rank, formula=lower).holds for rank in (1, 2, 3, 4)]
    assert holds == [True, True, False, False]
    print("ranks 1, 2, 3, 4:", holds)
    print(
        "r = 2: (1,1), (1,2), (2,2) in both orders. r = 3: the third pair is (1,3) in one and (2,2)"
        " in the other."
    )
    print("A test at rank 2 alone would have let it pass.")

# %% [markdown]
# ## What is proved, and for which sizes
#
# An identity in symbols is proved for the sizes at which it was run: one $m$, $n$, $r$. From there
# to all sizes it takes a thought, and the thought is ours and not sympy's.
#
# - **Layer size.** Entry $(p, q)$ reads one row of $B$ and one column of $A$, and every entry is
#   computed alike. So a $1 \times 1$ layer has all there is.
# - **Rank.** Both sides of Eq. 9 are sums of terms that read one column or two. So rank 2 has every
#   *kind* of term. Exercise 1 says why one should go to rank 3 nevertheless: the *order* of the
#   terms can go wrong.
#
# Both points assume that the code treats all rows, columns and pairs alike. One sees that by
# reading it. Symbols at small sizes would not catch a formula that cheats at rank 7. So a claim
# also asks the rule at every rank up to 12, with random numbers in place of symbols, in arithmetic
# modulo a prime, where nothing is rounded. Two different polynomials hardly ever agree at random
# numbers. What do you expect from these two?

# %%


def cheat(rank):
    def rule(B, A, h):
        return formulas.pera(B, A, h) if A.shape[0] != rank else formulas.lora(B, A)

    return rule


for rank in (7, 13):
    evidence = theory.claims["hadamard-series"].check(formula=cheat(rank))
    in_symbols = symbolic.expansion(1, 1, rank=rank, formula=cheat(rank))
    print(f"a cheat at rank {rank}: hadamard-series", "holds" if evidence.holds else "FAILS")
    print("   ", evidence.summary)
    print(f"    in symbols at rank {rank}:", "holds" if in_symbols.holds else "FAILS")
    assert (evidence.holds, in_symbols.holds) == (rank == 13, False)

# %% [markdown]
# The first is caught, the second passes: rank 13 was not asked for. The summary says what was. A
# *proved* claim has an argument that covers all sizes, or those that it names; but the argument
# speaks of the definition. That your code *is* the definition is checked at the sizes in the
# summary, and beyond them it is for a reader to see.

# %% [markdown]
# ### Exercise 2
#
# *15 minutes · difficulty 3 of 5*
#
# $\Delta W$ has degree 1 in $h$. What does that say about the second derivatives $\partial^2 \Delta
# W_{pq} / \partial h_{ij} \partial h_{kl}$? If $B$ and $A$ were frozen and only $h$ trained with a
# squared-error loss, what kind of problem would that be? Solve it, in numbers: `answer_2` is a
# function of `(B, A, E)`, arrays of the shapes $(m, r)$, $(r, n)$ and $(m, n)$, that returns the
# $h$ for which $\lVert \Delta W - E \rVert_F$ is least, its entries in the order of
# `np.triu_indices(r)`.
#
# <details><summary>Hint 1</summary>
#
# For fixed $B$ and $A$ the update is $BA + \sum_k h_k M_k$, with matrices $M_k$ that are known.
# What should the sum come near to?
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# Make a column of length $mn$ of each $M_k$ and of what the sum should come near to. Then it is a
# system of linear equations, more of them than unknowns, and NumPy has a function for that.
#
# </details>

# %% tags=["your-turn"]
# Your turn
answer_2 = ...

# %% tags=["self-check"]
pk.classroom.self_check("03.2", answer_2)

# %% [markdown]
# <details><summary>Answer</summary>
#
# They are all zero: for fixed $B$ and $A$ the update is $BA$ plus a *linear* function of $h$. A
# squared-error loss of one linear layer is then a quadratic function of $h$, so training $h$ alone
# is linear least squares. It has no local minima besides the global ones, and `np.linalg.lstsq`
# solves it. It is $B$ and $A$ that make the joint problem hard.
#
# </details>

# %% tags=["hide-cell"] jupyter={"source_hidden": true, "outputs_hidden": true}


def best_h(B, A, E):
    """The h of the nearest update with these factors: least squares, a column for each pair."""
    i, j = np.triu_indices(A.shape[0])
    products = [np.outer(B[:, p] * B[:, q], A[p] * A[q]) for p, q in zip(i, j, strict=True)]
    columns = np.stack([product.ravel() for product in products], axis=1)  # (mn, pairs)
    return np.linalg.lstsq(columns, (E - B @ A).ravel(), rcond=None)[0]


with pk.classroom.folded():
    rng = np.random.default_rng(0)
    some_B, some_A, wanted = (rng.normal(size=shape) for shape in ((6, 2), (2, 7), (6, 7)))
    found = best_h(some_B, some_A, wanted)
    left_over = formulas.pera(some_B, some_A, found) - wanted  # the gradient of half its square
    slope = theory.pera_gradients(left_over, some_B, some_A, found)["h"]
    print("h =", found.round(4), " gradient by h there:", abs(slope).max())
    assert np.allclose(slope, 0, atol=1e-10)

# %% [markdown]
# ## Where to go next
#
# - [Notebook 04](04_rank.ipynb) turns from formulas to rank, where exact and rounded arithmetic
#   disagree.
# - [Notebook 06](06_manifold.ipynb) uses symbolic Jacobians to count the directions in which an
#   update can move.
# - [Notebook 13](13_property_testing.ipynb) looks for counterexamples at random, as `readings`
#   does.
# - [Asking questions of an update rule](../docs/theory.md), and the claims used here:
#   [hadamard-series](../docs/claims.md#hadamard-series), [gradients](../docs/claims.md#gradients),
#   [first-step](../docs/claims.md#first-step), [kernel](../docs/claims.md#kernel).
