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
# # 05 The theorem that is not one: refuting and repairing Theorem 1
#
# The PERA paper accompanies its method with an approximation theorem, whose inequality is turned
# round. By the end of this notebook you can say where its proof fails, prove with exact arithmetic
# that the statement is false, and prove the theorem that holds. You will also have met a target
# that looks like a second counterexample and is not, and you will keep apart what is *proved*,
# *verified* and *found*. The method itself is untouched by all this.
#
# You need rank and singular values from [notebook 04](04_rank.ipynb). About 45 minutes to read,
# about 15 seconds to run.

# %%
from fractions import Fraction

import matplotlib.pyplot as plt
import numpy as np
import scipy.optimize
import sympy as sp

import perakit as pk
from perakit import formulas, plots, theory
from perakit.theory import distance, theorem1

plt.style.use(plots.STYLE)

# %% [markdown]
# ## What the theorem says
#
# Write $S(r)$ for the set of all PERA updates of rank $r$ on an $m \times n$ layer (arXiv
# 2604.11841, Eq. 9),
#
# $$\Delta W = \sum_i b_i a_i^\top + \sum_{i \le j} h_{ij}\,(b_i \circ b_j)(a_i \circ a_j)^\top ,$$
#
# and $K = r(r+3)/2$ for the number of its terms. $E$ is a *target*: the update that we would like
# to have. Theorem 1 of the paper says that for every $E$
#
# $$\min_{\Delta W \in S(r)} \lVert \Delta W - E \rVert_2 \;\le\; \sigma_{K+1}(E) .$$
#
# Here $\lVert \cdot \rVert_2$ is the spectral norm, the largest singular value, and
# $\sigma_{K+1}(E)$ is the singular value number $K + 1$ of $E$. The right-hand side is a familiar
# quantity: by the theorem of Eckart and Young it is the distance from $E$ to the nearest matrix of
# rank at most $K$. So Theorem 1 says that PERA of rank $r$ approximates as well as LoRA of rank
# $K$.
#
# A special case is easy to test. If $E$ itself has rank $K$, then $\sigma_{K+1}(E) = 0$, and the
# theorem says that PERA reaches $E$ exactly.
#
# ## The smallest test
#
# Take $r = 1$, so $K = 2$. An update has one column $b$, one row $a^\top$ and one number $h$:
#
# $$\Delta W = u + h\, u \circ u, \qquad u = b\,a^\top .$$
#
# The layer is $3 \times 3$, and the target has rank 2: its third row is the sum of the other two.

# %%
E = np.array([[1, 2, 3], [4, 5, 7], [5, 7, 10]])

print("exact rank of E:", theory.exact_rank(E))
print("singular values:", np.linalg.svd(E, compute_uv=False))
assert theory.exact_rank(E) == 2  # so σ₃ is 0: the last number printed is rounding
assert tuple(map(tuple, E.tolist())) == theorem1.COUNTEREXAMPLE

# %% [markdown]
# If Theorem 1 is right, some $b$, $a$, $h$ give this $E$. Seven numbers, nine entries. Let us
# search: minimise the squared Frobenius distance $\lVert \Delta W - E \rVert_F^2$, the sum of the
# squared errors of all entries, from twelve random starts. (The spectral norm is never larger than
# the Frobenius norm and both vanish together, so a distance of 0 in one is a distance of 0 in the
# other.) What do you expect to find?


# %%
def loss(parameters, target):
    b, a, h = parameters[:3], parameters[3:6], parameters[6]
    u = np.outer(b, a)
    error = u + h * u * u - target
    by_u = 2 * error * (1 + 2 * h * u)  # derivative of the loss by u
    return np.sum(error**2), np.concatenate([by_u @ a, by_u.T @ b, [2 * np.sum(error * u * u)]])


def search(target, starts=12):
    rng = np.random.default_rng(0)
    options = {"method": "BFGS", "jac": True, "options": {"maxiter": 300}}
    found = [
        scipy.optimize.minimize(loss, rng.standard_normal(7), args=(target,), **options)
        for _ in range(starts)
    ]
    return np.sort([np.sqrt(stop.fun) for stop in found])


stops = search(E)
print("distances at which twelve searches stopped:\n", stops.round(4))
assert stops[0] > 0.33

# %% [markdown]
# None of them came to 0. Is the theorem refuted? perakit has a better optimiser, with second
# derivatives; we give it 80 starts.

# %%
best = theory.best_approximation(E, pk.PERA(1), starts=80)
print(best)
assert best.error_fro < stops[0]

# %% [markdown]
# It found a nearer update, and calls its own result *an upper bound on the infimum*. That is the
# first lesson. **An optimiser shows how near one can come. It never shows that one cannot come
# nearer.** The best of twelve searches stopped at one distance, and another search went below it.
# Perhaps a longer one would reach 0. To refute the theorem we need an argument.
#
# ## Where the inequality turns
#
# First, why should one doubt the theorem at all? Its proof rests on an inclusion that is true: an
# update has $K$ terms, so its rank is at most $K$,
#
# $$S(r) \subset \{\text{rank} \le K\} .$$
#
# Now compare the two distances. The nearest point of the *larger* set is at least as near, because
# there is more to choose from. So the inclusion gives
#
# $$\min_{S(r)} \lVert \Delta W - E \rVert_2 \;\ge\; \min_{\text{rank} \le K} \lVert X - E \rVert_2
# = \sigma_{K+1}(E) ,$$
#
# with $\ge$ where the theorem has $\le$. For $\le$ one would need the opposite inclusion: every
# matrix of rank $K$ would have to be a PERA update. In a picture:

# %%
_, ax = plt.subplots(figsize=(6.4, 3.2))
along = np.linspace(-1, 1, 200)
ax.add_patch(plt.Rectangle((-1.4, -1), 2.8, 2, facecolor="0.9", edgecolor="0.6"))
ax.plot(1.2 * along, 0.7 * along**3 - 0.45 * along - 0.2, linewidth=2.4)
ax.plot([0.55], [0.6], "s", color="C1")
ax.plot([0.55, 0.34], [0.58, -0.28], ":", color="C1", linewidth=1.4)
ax.text(-1.33, 0.8, "all matrices of rank ≤ K", color="0.35")
ax.text(-1.1, -0.55, "S(r): the PERA updates", color="C0")
ax.text(0.62, 0.56, "E, of rank K", color="C1")
ax.text(1.5, 0.56, "in the grey area: distance 0 from it", color="C1")
ax.text(1.5, 0.1, "dotted: the distance from the curve", color="C1")
ax.set(xlim=(-1.5, 3.1), ylim=(-1.1, 1.1), title="A smaller set is farther away (a sketch)")
ax.set_axis_off()

# %% [markdown]
# In the sketch the set of updates is a thin curve in a grey area. Is it really that thin? That can
# be counted.
#
# ## Too few dimensions: 6 against 8
#
# The **dimension** of a set of matrices is the number of independent directions in which its
# parameters can move the matrix: the rank of the Jacobian, the matrix of the derivatives of all
# entries by all parameters. Here it is by hand, exactly, at random whole factors, for both sets:
# $S(1)$ with its 7 parameters, and $\{\text{rank} \le 2\}$ written as $PQ$ with 12.

# %%
h, *free = sp.symbols("h b1:4 a1:4 p1:13")
b, a = sp.Matrix(free[:3]), sp.Matrix(free[3:6]).T
P, Q = sp.Matrix(3, 2, free[6:12]), sp.Matrix(2, 3, free[12:18])
u = b * a
member, product = u + h * u.multiply_elementwise(u), P * Q

rng = np.random.default_rng(0)
point = {symbol: int(rng.integers(1, 20)) for symbol in (h, *free)}
dimensions = {}
for name, entries, parameters in (
    ("S(1)", member, [*free[:6], h]),
    ("rank <= 2", product, free[6:]),
):
    jacobian = sp.Matrix(list(entries)).jacobian(parameters).subs(point)  # (9, parameters)
    dimensions[name] = theory.exact_rank(np.array(jacobian))
    print(f"{name:9} {len(parameters):2} parameters, dimension {dimensions[name]}")
assert dimensions == {"S(1)": 6, "rank <= 2": 8}

for m, n, r in ((2, 2, 1), (3, 3, 1), (5, 5, 2), (768, 768, 4), (4096, 4096, 16)):
    count = theorem1.dimensions(m, n, r)
    print(count)
    assert count.theorem_fails == ((m, n, r) != (2, 2, 1))

# %% [markdown]
# One of the seven parameters is wasted: multiplying $b$ by a number and dividing $a$ by it changes
# nothing. So $S(1)$ has dimension at most 6, and the matrices of rank $\le 2$ have at least the 8
# that were measured. A set of dimension 6 cannot fill one of dimension 8, as a curve cannot fill a
# cube. Hence *almost every* $3 \times 3$ matrix of rank 2 is out of PERA's reach at $r = 1$, limits
# of updates included: they add no dimension.
#
# The lines below the first two are the same count for other layers; the dimension of $\{\text{rank}
# \le K\}$ is $K(m + n - K)$. For every $r$ and every layer with $K \le \min(m, n)$ the count
# refutes Theorem 1, with one exception: on a $2 \times 2$ layer at $r = 1$ the numbers are equal,
# and the count says nothing. (The proof for all sizes is in [the note on Theorem
# 1](../docs/theorem-1.md#why-it-is-no-accident).)
#
# This is a proof, and it has a limit: "almost every" names no matrix. It does not say that *our*
# $E$ is out of reach.
#
# ## A certificate for one matrix
#
# We want an exact argument about this one $E$. The idea: find equations that every update
# satisfies, and see that $E$ violates one.
#
# **Step 1: a hidden matrix of rank one.** Put $t = h\,u$. From $\Delta W = u + h\,u \circ u$
# follows, entry by entry,
#
# $$t^2 + t = h^2 u^2 + h u = h\,\Delta W .$$
#
# And $t$, a multiple of $u = b a^\top$, has rank one: each of its $2 \times 2$ minors $t_{11}
# t_{22} - t_{12} t_{21}$ is zero. (A *minor* is the determinant that remains when one keeps two
# rows and two columns.) An example with fractions:

# %%
b, a, h0 = (
    [Fraction(1), Fraction(2), Fraction(3)],
    [Fraction(1, 2), Fraction(-1), Fraction(2)],
    Fraction(2, 3),
)
u = np.outer(b, a)  # of Fractions: exact
W = u + h0 * u * u
t = h0 * u

assert (t * t + t == h0 * W).all()
assert t[0, 0] * t[1, 1] == t[0, 1] * t[1, 0]
print("W =", theorem1.show(W.tolist()), "is a member of S(1), with h =", h0)

# %% [markdown]
# **Step 2: eliminate $t$.** Given only four entries $w$ of $W$, we know neither $t$ nor $h$. But
# each $t$ is one of the two roots of $t^2 + t = h w$. So the minor is one of $2^4 = 16$ expressions
# in $h$, one for each choice of roots. Their product $N(h)$ is a polynomial in $h$, and it vanishes
# at the $h$ of the member, because one of its factors does.
#
# The tool is the **resultant**: the resultant of two polynomials in $t$ is an expression in their
# coefficients which is zero exactly when they share a root $t$ (or both lose their leading
# coefficient). Taking it against $t^2 + t - hw$ multiplies over the two roots, and so removes that
# $t$. Four times, with symbols for $w$:

# %%
t = sp.symbols("t11 t12 t21 t22")


def norm(w):
    """N(h) of the minor w11 w22 - w12 w21, as a polynomial in h."""
    N = t[0] * t[3] - t[1] * t[2]
    for root, value in zip(t, w, strict=True):
        N = sp.resultant(N, root**2 + root - h * value, root)
    return sp.Poly(sp.expand(N), h)


N = norm(sp.symbols("w11 w12 w21 w22"))
print("degree in h:", N.degree(), " lowest power of h:", N.monoms()[-1][0])
print("coefficient of the lowest power:", sp.factor(N.coeff_monomial(h**11)))
assert (N.degree(), N.monoms()[-1][0]) == (16, 11)

# %% [markdown]
# $N$ has degree 16, and $h^{11}$ divides all of it. For a member with $h \ne 0$ we may divide: its
# $h$ is a root of the **quintic** $Q(h) = N(h) / h^{11}$, a polynomial of degree 5. (Keep an eye on
# the printed coefficient. It will matter.)
#
# **Step 3: nine minors, one $h$.** A $3 \times 3$ matrix has nine minors, hence nine quintics. A
# member has *one* $h$, so this $h$ must be a root of all nine at once. The figure shows their real
# roots, for the member above and for $E$.


# %%
def quintic(w):
    N = norm(w)
    return sp.Poly([N.coeff_monomial(h**k) for k in range(16, 10, -1)], h)


def minors(W):
    pairs = ((0, 1), (0, 2), (1, 2))
    return [[W[i][j], W[i][q], W[p][j], W[p][q]] for i, p in pairs for j, q in pairs]


def rational(W):
    return [[sp.Rational(v) for v in row] for row in np.asarray(W).tolist()]


figure, axes = plt.subplots(1, 2, sharey=True, figsize=(8, 3.8))
figure.suptitle("Real roots of the nine quintics", fontsize="medium")
for ax, name, matrix in zip(axes, (f"W, a member with h = {h0}", "E"), (W, E), strict=True):
    for k, w in enumerate(minors(rational(matrix)), start=1):
        roots = sorted({float(root) for root in quintic(w).real_roots()})
        ax.plot(roots, [k] * len(roots), "o", color="C0")
    ax.set_xscale("symlog", linthresh=0.1)
    ax.set(
        xlabel="h",
        title=name,
        yticks=range(1, 10),
        xlim=(-0.3, 2e4),
        xticks=[-0.1, 0, 0.1, 1, 10, 100, 1000, 10000],
    )
axes[0].axvline(float(h0), color="C1", linewidth=1.4, zorder=0)
axes[0].set_ylabel("minor")
assert all(quintic(w).eval(sp.Rational(2, 3)) == 0 for w in minors(rational(W)))

# %% [markdown]
# On the left the orange line $h = 2/3$ goes through a root of every quintic: the member gives
# itself away. On the right no vertical line meets a root in all nine rows. Dots in a figure are
# rounded, though, and a quintic has complex roots besides. So the last step is exact.
#
# **Step 4: a number that must be zero.** Two quintics with a common root have resultant zero. For
# polynomials of degree 5 this resultant is a $10 \times 10$ determinant of the coefficients, and so
# a polynomial in the entries of the matrix. One pair of minors is enough; we take the first and the
# fifth. Predict: which of these are zero? (The *closure* of $S(1)$, in the code and below, is
# $S(1)$ together with all limits of its members.)


# %%
def certificate(W):
    """Zero on S(1), hence on its closure: nonzero proves that W is out of reach."""
    one, other = (quintic(minors(rational(W))[k]) for k in (0, 4))
    # So that sympy's resultant is the 10 x 10 determinant
    assert one.degree() == other.degree() == 5
    return sp.resultant(one, other)


print("the member W:", certificate(W))
for _ in range(2):
    # Entries all different
    b, a = ([Fraction(int(v), 3) for v in rng.permutation(np.arange(1, 9))[:3]] for _ in range(2))
    u = np.outer(b, a)
    print("a random member:", certificate(u - 5 * u * u))
    assert certificate(u - 5 * u * u) == 0
print("E:", certificate(E))
assert certificate(W) == 0 != certificate(E)

# %% [markdown]
# At $E$ the number is not zero. Therefore:
#
# - $E$ is no member with $h \ne 0$, since there the resultant vanishes. It is no member with $h =
#   0$ either: those have rank 1, and $E$ has rank 2.
# - $E$ is no *limit* of members. A polynomial is continuous, so if it is zero at members
#   arbitrarily near to $E$, it is zero at $E$. (A member with $h = 0$ is itself a limit of members
#   with small $h$, so the resultant vanishes there, too.)
#
# The second point is what we need. The members stay away from $E$ by a positive distance, while
# $\sigma_3(E) = 0$. **Theorem 1 is false**, and each step of this was exact. $\square$
#
# perakit does it for all $\binom{9}{2} = 36$ pairs of minors, and checks the premises: the identity
# of step 1 in symbols, and that all 36 vanish at members, at LoRA's points and at limits. One
# nonzero resultant would have been enough.

# %%
proof = theorem1.certificate(E)
print(proof)
assert proof.holds
assert proof.nonzero == 36
assert not theorem1.certificate(W).holds  # it can also say no: nothing is proved about a member

# %% [markdown]
# ## How far away is $E$?
#
# The certificate says that the distance is positive, and not how large it is.
# `distance.lower_bound` proves a number. It cuts the line of all $h$ into intervals and shows on
# each, with integers that are rounded outward, that no matrix within the distance has a hidden
# matrix $t$ of rank one. That makes a proof independent of the resultants. Together with the best
# update found, the distance is enclosed. (How it is done: if $u$ has rank one then $\log|u_{ij}|$
# is a number for the row plus a number for the column. So every weighted sum of these logarithms is
# zero in which the weights of each row and each column add up to zero. The best weights are
# Lagrange multipliers of the nearest update: [the note](../docs/theorem-1.md) has the formula.)

# %%
bounds = {
    name: distance.lower_bound(E, norm=name, digits=digits)
    for name, digits in (("spectral", 2), ("frobenius", 4))
}
for bound, found in zip(bounds.values(), (best.error_spec, best.error_fro), strict=True):
    print(f"{bound.norm}: proved {float(bound.distance)}, found {found:.4f}")
    assert 0 < bound.distance < found

proved = float(bounds["frobenius"].distance)
assert best.error_fro - proved < 1e-4
_, ax = plt.subplots(figsize=(6.4, 2.4))
ax.axvspan(0, proved, color="0.85", label=f"proved: no update within {proved:.4f}")
ax.plot(stops, np.full(len(stops), 1), "o", color="C0", label="where twelve searches stopped")
ax.plot(best.error_fro, 1, "D", color="C2", label="the best update found")
ax.plot(0, 1, "X", markersize=10, color="C1", label="what Theorem 1 says", clip_on=False)
ax.set(
    xlabel=r"Frobenius distance $\|\Delta W - E\|_F$",
    yticks=[],
    ylim=(0.5, 2.4),
    xlim=(0, 0.85),
    title="How near does PERA of rank 1 come to E?",
)
_ = ax.legend(loc="upper right", ncols=2, fontsize="small")

# %% [markdown]
# The distance of $E$ from $S(1)$ lies between the end of the grey area and the diamond. The grey
# area is a theorem. The diamond is a find: an upper bound. Here the two meet to four digits, so no
# other search will come clearly lower. In the spectral norm, in which Theorem 1 speaks, they leave
# a gap.
#
# ## A trap: the second counterexample is none
#
# Now another target of rank 2. Its rows form the best known $3 \times 3$ matrix of all.

# %%
E2 = np.arange(1, 10).reshape(3, 3)
stops2 = search(E2)
print(E2)
print("exact rank:", theory.exact_rank(E2))
print("distances at which twelve searches stopped:\n", stops2.round(4))
assert theory.exact_rank(E2) == 2
assert stops2[0] > 0.03

# %% [markdown]
# It looks just like the first: rank 2, and all searches stop well above 0. By these numbers $E_2$
# is a second counterexample, even a better one. What does the certificate say?

# %%
print("resultant of the first and the fifth quintic:", certificate(E2))
print(theorem1.certificate(E2))
assert certificate(E2) == 0
assert theorem1.certificate(E2).nonzero == 0

# %% [markdown]
# All 36 are zero, and *nothing is proved*. A zero does not say that $E_2$ can be reached. But it
# makes one look again, and there is a reason. $E_2 = x \mathbf 1^\top + \mathbf 1 y^\top$ with $x =
# (0, 3, 6)$ and $y = (1, 2, 3)$: entry $(i, j)$ is $x_i + y_j$. Take a small $\varepsilon > 0$ and
#
# $$u = \frac1\varepsilon\,(\mathbf 1 - \varepsilon x)(\mathbf 1 - \varepsilon y)^\top, \qquad h =
# -\varepsilon .$$
#
# What is $u + h\, u \circ u$? Expand it in powers of $\varepsilon$ by hand, then let sympy do it.

# %%
eps = sp.Symbol("epsilon", positive=True)
x, y = sp.Matrix([0, 3, 6]), sp.Matrix([1, 2, 3])
u = (sp.ones(3, 1) - eps * x) * (sp.ones(3, 1) - eps * y).T / eps
update = (u - eps * u.multiply_elementwise(u)).applyfunc(sp.expand)

print("limit:", update.limit(eps, 0).tolist())
print("coefficient of ε:", update.applyfunc(lambda v: v.coeff(eps, 1)).tolist())
assert update.limit(eps, 0) == sp.Matrix(E2.tolist())

# %% [markdown]
# The terms with $1/\varepsilon$ cancel, and what is left is $E_2$ and an error proportional to
# $\varepsilon$. Members of $S(1)$ come as near to $E_2$ as one likes. **The infimum is 0**, for a
# target at which twelve searches stopped far above it. (The infimum of a set of numbers is its
# largest lower bound; it is a minimum if some member attains it.)
#
# What happens to the factors on the way? We follow the sequence twice: with fractions, and with
# floats.

# %%
exponents = np.arange(1, 15)
factor, exact, rounded = [], [], []
for k in exponents:
    # b carries the 1/ε
    B, A, h_exact = theorem1.limit_sequence((0, 3, 6), (1, 2, 3), Fraction(1, 10 ** int(k)))
    exact.append(np.linalg.norm((formulas.pera(B, A, h_exact) - E2).astype(float)))
    B, A, h_float = theorem1.limit_sequence((0, 3, 6), (1, 2, 3), 10.0**-k)
    rounded.append(np.linalg.norm(formulas.pera(B, A, h_float) - E2))
    factor.append(np.abs(B).max())

_, (left, right) = plt.subplots(1, 2, figsize=(8, 3.4))
# They coincide at first: the line below is wide and pale
left.plot(10.0**-exponents, exact, "o-", linewidth=6, alpha=0.4, label="fractions")
left.plot(10.0**-exponents, rounded, "s--", markersize=4, label="floats")
left.set(ylabel=r"distance $\|\Delta W - E_2\|_F$", title="Nearer and nearer, until floats give up")
left.legend()
right.plot(10.0**-exponents, factor, "o-", label="largest entry of b")
right.plot(10.0**-exponents, 10.0**-exponents, "s--", label="|h|")
right.set(ylabel="size", title="The factors diverge, and h vanishes")
right.legend()
for ax in (left, right):
    ax.set(xscale="log", yscale="log", xlabel="ε")
    ax.invert_xaxis()
assert np.all(np.diff(exact) < 0)
assert np.argmin(rounded) < len(rounded) - 1

# %% [markdown]
# Read the axes from left to right, with $\varepsilon$ falling. Calculated with fractions, the
# distance falls for ever. With floats it turns round: terms of size $1/\varepsilon$ have to cancel,
# and what rounding leaves of them grows. On the right, $b$ grows without end while $h$ goes to
# zero. The factors run away and their updates converge.
#
# Is the infimum attained, by some perfect choice of factors? The quintics decide it:

# %%
print(theorem1.limit(x=(0, 3, 6), y=(1, 2, 3)))
roots = theorem1.common_roots(E2)
assert (roots.zero, roots.infinity, roots.elsewhere) == (1, 0, 0)

# %% [markdown]
# The nine quintics of $E_2$ share the root $h = 0$, and no other. A member with $h \ne 0$ would
# need its own $h$ among the common roots. A member with $h = 0$ has rank 1. So $E_2$ is no member:
# infimum 0, and no minimum. The "min" in Theorem 1 should be an "inf". The same thing is known from
# tensors, where limits of tensors of a given rank may have a higher rank; one says that they have
# that *border rank*.
#
# ### Losing the root
#
# The trap has a second door. Suppose that one computes $N(h)$ with the *numbers* of $E_2$ put in,
# sees which power of $h$ divides it, and divides by that.


# %%
def careless(w):
    N = norm(w)
    lowest = N.monoms()[-1][0]
    return lowest, sp.Poly([N.coeff_monomial(h**k) for k in range(16, lowest - 1, -1)], h)


(power, one), (_, other) = (careless(minors(rational(E2))[k]) for k in (0, 4))
print("N is divisible by h to the power", power)
print("what is left has the resultant", sp.resultant(one, other))
assert power == 12
assert sp.resultant(one, other) != 0

# %% [markdown]
# A nonzero number, and "hence $E_2$ is out of reach": a false proof of a false statement, every
# number of it exact. The mistake: the coefficient of $h^{11}$ has the factor $w_{11} - w_{12} -
# w_{21} + w_{22}$ (look at the output of step 2), which is zero at *every* minor of a matrix $x_i +
# y_j$. There $N$ is divisible by $h^{12}$, and dividing by it throws away the root $h = 0$ that the
# quintics share. Dividing by $h^{11}$, once, with symbols, keeps it.
#
# ## The theorem that holds
#
# **Theorem.** For every $E$ and every $r$, in the spectral norm,
#
# $$\sigma_{K+1}(E) \;\le\; \inf_{\Delta W \in S(r)} \lVert \Delta W - E \rVert_2 \;\le\;
# \sigma_{r+1}(E) ,$$
#
# and in every unitarily invariant norm (one that rotations do not change, as the Frobenius norm)
# the infimum lies between the distances from $E$ to $\{\text{rank} \le K\}$ and to $\{\text{rank}
# \le r\}$.
#
# *Proof.* With $h = 0$ PERA makes every matrix of rank $\le r$, and no update has rank above $K$:
# $\{\text{rank} \le r\} \subset S(r) \subset \{\text{rank} \le K\}$. The distance to a larger set
# is not larger, and the outer two distances are given by singular values (Eckart and Young 1936,
# Mirsky 1960). $\square$
#
# Two lines. A proof needs no test, but one may have misread it, so we check it over random targets.
# The upper end is reached by the truncated SVD, a LoRA update. The lower end must hold for every
# update, so we try updates around that one.

# %%
rng = np.random.default_rng(1)
tightest, r, K = np.inf, 2, formulas.rank_bound(2)
for _ in range(300):
    target = rng.standard_normal((7, 8))
    U, sigma, Vt = np.linalg.svd(target)
    B, A = U[:, :r] * sigma[:r], Vt[:r]
    error = np.linalg.norm(formulas.pera(B, A, np.zeros(K - r)) - target, 2)
    assert np.isclose(error, sigma[r])  # σ_{r+1}: the first index is 0
    for size in (0.01, 0.1, 1.0):
        nearby = formulas.pera(
            B + size * rng.standard_normal(B.shape), A, size * rng.standard_normal(K - r)
        )
        tightest = min(tightest, np.linalg.norm(nearby - target, 2) / sigma[K])
print(f"300 targets, 900 updates: smallest error / σ_(K+1) = {tightest:.3f}")
assert tightest >= 1

# %% [markdown]
# Where between the bounds does PERA lie? That depends on the target. Here are the best updates
# found for one Gaussian matrix at three ranks.

# %%
target = np.random.default_rng(0).standard_normal((10, 11))
ranks, errors = (1, 2, 3), []
for r in ranks:
    found = theory.best_approximation(target, pk.PERA(r), starts=4)
    errors.append(found.error_fro)
    assert found.lower_fro < found.error_fro < found.upper_fro
ax = plots.plot_sandwich(np.linalg.svd(target, compute_uv=False), ranks, errors)

# %% [markdown]
# The middle curve is what an optimiser found: the true infimum is on it or below it, inside the
# grey band. On this one target the find lies strictly between the bounds at each rank: nearer than
# every LoRA update of rank $r$, farther than the best matrix of rank $K$. Other targets are the
# subject of [notebook 07](07_approximation.ipynb). Whether training finds such updates is another
# question, which no approximation theorem answers.
#
# ## Proved, verified, found
#
# Three words for three kinds of knowledge, all of which appeared above. (The sandwich was verified
# before we trusted its proof; and the stops for $E_2$ are upper bounds of an infimum that is 0.)
#
# | word | what it means | here |
# |:--|:--|:--|
# | *proved* | an exact argument, in its range | resultants; dimensions; the limit; the sandwich |
# | *verified* | no counterexample in $N$ examples | the sandwich over 300 targets |
# | *found* | where an optimiser stopped: an upper bound | the diamond for $E$; stops for $E_2$ |
#
# perakit keeps its claims under such verdicts, each with a check that runs:

# %%
for name in ("theorem-1", "infimum-not-attained", "sandwich"):
    finding = theory.claims[name].check()
    print(finding, end="\n\n")
    assert finding.holds

# %% [markdown]
# ## Exercises

# %% [markdown]
# ### Exercise 1
#
# *5 minutes · difficulty 2 of 5*
#
# Here is a proof of Theorem 1 in four steps. Each but one is right. Which one is wrong, and what
# would make it right?
#
# 1. Every update is a sum of $K$ matrices of rank one, so $S(r) \subset \{\text{rank} \le K\}$.
# 2. By Eckart and Young the best approximation of $E$ in $\{\text{rank} \le K\}$ has the error
#    $\sigma_{K+1}(E)$.
# 3. So the best approximation of $E$ in $S(r)$ has at most the error $\sigma_{K+1}(E)$.
# 4. If the error in $S(r)$ is at most $\sigma_{K+1}(E)$, so is the infimum.
#
# `answer_1` is the number of the wrong step, and the sign that belongs between its two errors, best
# in $S(r)$ on the left and $\sigma_{K+1}(E)$ on the right: `"<="`, `">="` or `"=="`. As a pair:
# `(2, "==")`, if you think that it is step 2.
#
# <details><summary>Hint 1</summary>
#
# Who has more to choose from comes at least as near. Which of the two sets is the larger one?
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# Go back to the sketch above: $E$ lies in the grey area, and the curve is somewhere else. Which of
# the four steps says that this cannot be?
#
# </details>

# %% tags=["your-turn"]
# Your turn
answer_1 = ...

# %% tags=["self-check"]
pk.classroom.self_check("05.1", answer_1)

# %% [markdown]
# <details><summary>Answer</summary>
#
# Step 3. From $S(r) \subset \{\text{rank} \le K\}$ follows that the best error in $S(r)$ is *at
# least* the best error in the larger set: the best matrix of rank $K$ need not be in $S(r)$. With
# "at least" it is the left half of the sandwich. With "at most" it would need the inclusion
# $\{\text{rank} \le K\} \subset S(r)$, or at least in the closure of $S(r)$, which the dimensions
# exclude wherever they refute the theorem.
#
# </details>

# %% [markdown]
# ### Exercise 2
#
# *10 minutes · difficulty 3 of 5*
#
# On a $2 \times 2$ layer the count of dimensions says nothing. Find fractions $b$, $a$, $h$ of a
# PERA update of rank setting 1 which is exactly the identity, a matrix of rank $2 = K$. `answer_2`
# is `(b, a, h)`: two lists of two numbers and a number, whole numbers or `Fraction`s.
#
# <details><summary>Hint 1</summary>
#
# $u = b a^\top$ has rank one and should be positive on the diagonal and negative off it. What signs
# have $b$ and $a$ then?
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# If all entries of $u$ have the same size, $u \circ u$ is a multiple of the all-ones matrix. Then
# $h$ has to cancel the entries off the diagonal, and to make 1 of those on it.
#
# </details>

# %% tags=["your-turn"]
# Your turn
answer_2 = ...

# %% tags=["self-check"]
pk.classroom.self_check("05.2", answer_2)

# %% tags=["hide-cell"] jupyter={"source_hidden": true, "outputs_hidden": true}
with pk.classroom.folded():
    b, a = np.array([Fraction(1), Fraction(-1)]), np.array([Fraction(1, 2), Fraction(-1, 2)])
    u = np.outer(b, a)  # [[1/2, -1/2], [-1/2, 1/2]], and u∘u is 1/4 everywhere
    print((u + 2 * u * u).tolist())
    assert (u + 2 * u * u == np.eye(2, dtype=int)).all()  # 1/2 + 2/4 = 1, and -1/2 + 2/4 = 0

# %% [markdown]
# ### Exercise 3
#
# *20 minutes · difficulty 3 of 5*
#
# Find another $3 \times 3$ matrix of whole numbers and of rank 2 that refutes Theorem 1. Does the
# count of dimensions say how long you have to look? Then find out which of these are
# counterexamples as well: $-3E$ (call it `"multiple"`), $E^\top$ (`"transpose"`), $E$ with its rows
# in another order (`"order"`), $DE$ with $D = \operatorname{diag}(1, 2, 3)$ (`"diagonal"`). For
# which of them could you have known without a calculation, because the change of $E$ is one that
# $S(1)$ goes into itself under? `answer_3` is the pair `(matrix, names)`, with the set of those
# names.
#
# <details><summary>Hint 1</summary>
#
# A product of a whole $3 \times 2$ and a whole $2 \times 3$ matrix has rank at most 2. Draw one and
# ask `theorem1.certificate(...).holds`.
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# Take a member $u + h\, u \circ u$ and change it in each of the four ways. Can you say, with
# letters, which $b$, $a$ and $h$ make the changed matrix? Where you can, for every member, it was
# known.
#
# </details>

# %% tags=["your-turn"]
# Your turn
answer_3 = ...

# %% tags=["self-check"]
pk.classroom.self_check("05.3", answer_3)

# %% tags=["hide-cell"] jupyter={"source_hidden": true, "outputs_hidden": true}
with pk.classroom.folded():
    rng = np.random.default_rng(4)
    for _ in range(5):
        another = rng.integers(1, 9, (3, 2)) @ rng.integers(1, 9, (2, 3))
        print(another.tolist(), "refutes Theorem 1:", theorem1.certificate(another).holds)

    family = {
        "multiple": -3 * E,
        "transpose": E.T,
        "order": E[[2, 0, 1]],
        "diagonal": np.diag([1, 2, 3]) @ E,
    }
    for name, matrix in family.items():
        print(f"{name:12}", theorem1.certificate(matrix).holds)
        assert theorem1.certificate(matrix).holds

    # Almost every matrix of rank 2 will do, so the first draws are likely to. S(1) goes into itself
    # under multiples (c b, a, h/c), transposition (b and a change places) and reordering: for those
    # it was known. Not so for DE, as D b has the squares D² (b∘b): a fact about E does not carry
    # over, and the certificate has to be asked.

# %% [markdown]
# ## Where to go next
#
# - [Notebook 06](06_manifold.ipynb): why the dimensions are what they are, and which changes of the
#   factors PERA ignores.
# - [Notebook 07](07_approximation.ipynb): how near LoRA and PERA come to targets of several kinds.
# - [A note on Theorem 1](../docs/theorem-1.md): the same story as a short paper, with a second
#   proof and a third.
# - The claims: [Theorem 1](../docs/claims.md#theorem-1), [the corrected
#   theorem](../docs/claims.md#sandwich), [a best approximation need not
#   exist](../docs/claims.md#infimum-not-attained).
