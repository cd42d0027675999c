# %% [markdown]
# # Rank and expressiveness: proofs by example
#
# Which matrices are updates of PERA (arXiv 2604.11841, Eq. 9) of rank $r$,
#
# $$\Delta W = \sum_i b_i a_i^\top + \sum_{i \le j} h_{ij}\,(b_i \circ b_j)(a_i \circ a_j)^\top \;
# ?$$
#
# A claim such as "some update has a rank above $r$" is proved by one example, if the example is
# *exact*. So this assignment counts in whole numbers and fractions. You will construct examples,
# and the grader verifies what you construct: **for most functions there are many right answers, and
# any of them gets the points.** It takes about two hours. Notebooks 04 to 06 of perakit prepare for
# it, and 07 shows more of section 5.
#
# Where fractions are asked for, every number you return is an `int`, a NumPy integer, or a
# `Fraction`. A float such as 0.5 is refused, even where it would be exact. Matrices may be nested
# lists or NumPy arrays; arrays of fractions have `dtype=object`, and `@`, `*` and `+` work on them
# as usual. A matrix of whole numbers times a `Fraction` is an array of fractions, but `/` makes
# floats.
#
# Replace each `raise NotImplementedError` by your code. Keep the names and the arguments of the
# functions. NumPy and `fractions` are enough. A function leaves its arguments as they are, and none
# needs another one of yours. The grader: `perakit grade` and the name of this file. Cells with the
# tag `experiment` are yours: the grader does not run them.

# %%
from fractions import Fraction

import numpy as np

# %% [markdown]
# ## 1. A rank that rounding cannot change
#
# The rank is the number of pivots that elimination finds. Go through the columns. Look for a row,
# among those that are not used yet, with an entry that is not zero in this column: the pivot. If
# there is one, swap it up, and subtract multiples of it from the rows below so that their entries
# in this column become zero. With fractions each zero is a true zero, and no tolerance has to be
# chosen.


# %%
def exact_rank(M):
    """The rank of a matrix of integers and Fractions, by elimination in Fractions, never floats.

    M: a list of rows, each a list; it stays as it is. Returns an integer.
    """
    # BEGIN SOLUTION
    rows = [[Fraction(entry) for entry in row] for row in M]
    rank = 0
    for column in range(len(rows[0])):
        pivot = next((k for k in range(rank, len(rows)) if rows[k][column] != 0), None)
        if pivot is None:
            continue
        rows[rank], rows[pivot] = rows[pivot], rows[rank]
        for k in range(rank + 1, len(rows)):
            factor = rows[k][column] / rows[rank][column]
            rows[k] = [
                entry - factor * above for entry, above in zip(rows[k], rows[rank], strict=True)
            ]
        rank += 1
    return rank
    # END SOLUTION


# %% tags=["experiment"]
for power in (1, 2, 3, 4, 8, 20):
    N = 10**power
    M = [[1, N], [N, N * N + 1]]  # its determinant is 1
    print(
        f"N = 10^{power}: exact rank {exact_rank(M)}, NumPy says"
        f" {np.linalg.matrix_rank(np.array(M, dtype=float))}"
    )

# %% [markdown]
# NumPy's answer is not careless. It is about a matrix that was rounded when it was written down,
# and about a tolerance. It can mislead even where nothing was rounded. There are two matrices of
# *numerical* rank 1 whose product has numerical rank 2, although a theorem says rank(XY) <=
# min(rank X, rank Y). Find two. What is a singular value compared with when NumPy decides whether
# it counts?


# %%
def rank_trap():
    """(X, Y): two float matrices, each of rank 1, whose product has rank 2.

    All three ranks are what np.linalg.matrix_rank says.
    """
    # BEGIN SOLUTION
    return np.diag([1.0, 1e-17]), np.diag([1e-17, 1.0])
    # END SOLUTION


# %% tags=["experiment"]
for M in (*rank_trap(), rank_trap()[0] @ rank_trap()[1]):
    print(
        "numerical rank",
        np.linalg.matrix_rank(M),
        "and exact rank",
        exact_rank([[Fraction(x) for x in row] for row in M.tolist()]),
    )

# %% [markdown]
# ## 2. Beyond LoRA
#
# Write $S_\mathrm{LoRA}(r)$ and $S_\mathrm{PERA}(r)$ for the sets of all updates with $r$ columns
# in $B$. With $h = 0$ PERA is LoRA (Eq. 8), so the first set lies in the second. A LoRA update has
# rank at most $r$. To show that PERA's set is *larger*, one update of a higher rank is enough.
#
# Begin with $r = 1$: find $b$, $a$ and $h$ whose update is the 2 x 2 identity, which has rank 2. On
# paper: with $u_{pq} = b_p a_q$ the entries are $u + h u^2$. Which two values of $u$ give 0? Which
# give 1? Then think of a larger matrix in blocks. `pera` is given, so that you can try what you
# have found.


# %%
def pera(B, A, h):
    """The update of Eq. 9, for arrays or lists of integers and fractions."""
    B, A, h = (np.array(values, dtype=object) for values in (B, A, h))
    i, j = np.triu_indices(len(A))
    return B @ A + (B[:, i] * B[:, j]) @ (h[:, None] * A[i] * A[j])


# %%
def beyond_lora(rank):
    """Factors (B (m, r), A (r, n), h (r(r+1)/2,)) whose update has rank r + 1 at least.

    They are integers and Fractions.
    At rank 1 the update is the 2 x 2 identity, exactly; at higher ranks the layer is yours to
    choose, up to 40 x 40.
    """
    # BEGIN SOLUTION
    B = np.zeros((rank + 1, rank), dtype=object)
    A = np.zeros((rank, rank + 1), dtype=object)
    B[:2, 0], A[0, :2] = [1, -1], [Fraction(1, 2), Fraction(-1, 2)]
    for k in range(1, rank):
        B[k + 1, k] = A[k, k + 1] = 1
    h = [2] + [0] * (rank * (rank + 1) // 2 - 1)
    return B, A, h
    # END SOLUTION


# %% [markdown]
# ## 3. How high does it go?
#
# The update has $K = r(r+3)/2$ terms of rank one, so its rank is at most $K$. Is $K$ ever reached?
# Construct factors that do. You can draw whole numbers at random and count with `exact_rank`, or
# think: an update is a product of an (m, K) and a (K, n) matrix; when are both of full rank? (Large
# powers overflow in NumPy's `int64` without a word; Python's own integers do not, nor do arrays
# with `dtype=object`.)
#
# Then construct *sign factors*, all of whose entries are 1 or -1. On these $K$ is out of reach for
# $r \ge 2$: what is $b_i \circ b_i$? Count the terms that are left, and reach that number.


# %%
def high_rank(rank, signs):
    """Factors (B (m, r), A (r, n), h) whose update has the highest rank that there is.

    They are integers and Fractions.
    signs False: K = r(r+3)/2. signs True: each entry of B and A is 1 or -1 (h is free), and the
    rank is the highest that such factors can have; only asked for rank >= 2. The layer is yours to
    choose, up to 40 x 40.
    """
    # BEGIN SOLUTION
    h = [1] * (rank * (rank + 1) // 2)
    if signs:
        # Each pattern of signs
        every = [[1 - 2 * (row >> k & 1) for k in range(rank)] for row in range(2**rank)]
        return every, np.array(every).T, h
    powers = [3**k for k in range(rank)]  # sums of one or two of these are all different
    B = [[x**power for power in powers] for x in range(1, rank * (rank + 3) // 2 + 1)]
    return B, np.array(B, dtype=object).T, h
    # END SOLUTION


# %% tags=["experiment"]
for rank in (2, 3, 4):
    found = [exact_rank(pera(*high_rank(rank, signs)).tolist()) for signs in (False, True)]
    print(f"r = {rank}: K = {rank * (rank + 3) // 2}, reached {found[0]}; with signs {found[1]}")

# %% [markdown]
# ## 4. Rank is not dimension
#
# "Rank up to $K$" does not say that PERA reaches every matrix of rank $K$. The *dimension* of a set
# of matrices is the number of independent directions in which its parameters can move the matrix.
# LoRA has $r(m+n)$ parameters and wastes $r^2$ of them: any invertible r x r matrix can be put
# between $B$ and $A$ and undone. PERA has $r(m+n) + r(r+1)/2$ parameters and wastes at least $r$:
# the factors in $b_i \to d_i b_i$, $a_i \to a_i / d_i$. For most $h$ these are all (notebook 06),
# unless the layer is too small: no set can have more dimensions than there are entries.


# %%
def dimensions(m, n, rank):
    """(dimension of S_PERA(r), dimension of S_LoRA(r)) on an m x n layer, in closed form.

    Two integers; rank <= min(m, n).
    """
    # BEGIN SOLUTION
    return min(m * n, rank * (m + n) + rank * (rank - 1) // 2), rank * (m + n) - rank**2
    # END SOLUTION


# %% tags=["experiment"]
print(
    "m = n = 3, r = 1: PERA",
    dimensions(3, 3, 1)[0],
    "and all matrices of rank <= 2:",
    dimensions(3, 3, 2)[1],
)
print(
    "m = 64, n = 48, r = 4: PERA",
    dimensions(64, 48, 4)[0],
    "and all matrices of rank <= 14:",
    dimensions(64, 48, 14)[1],
)

# %% [markdown]
# Where do the wasted parameters come from? From moves that change the factors and not the update.
# LoRA: $B \to B M$, $A \to M^{-1} A$ for every invertible $M$. PERA allows fewer: for most $h$,
# $M$ may only permute the columns and scale them. What has to happen to $h$ when columns change
# places? And which $M$ would you try in order to change PERA's update and not LoRA's?


# %%
def other_factors(B, A, h, keep):
    """Other factors (B, A, h) of integers and Fractions, of the same shapes.

    B (m, 2), A (2, n), h (3,) are integer arrays.
    keep "PERA": the update is the same, and the new column 0 is a multiple of the old column 1, the
    new column 1 one of the old column 0, and neither is equal to it. keep "LoRA": B A is the same
    and h is the old h, but PERA's update is another one, and at least one new column is not a
    multiple of any old one.
    """
    # BEGIN SOLUTION
    if keep == "PERA":
        B, A, h = B[:, ::-1], A[::-1], h[::-1]
        return B * np.array([2, -1]), A * np.array([[Fraction(1, 2)], [-1]]), h
    M, inverse = np.array([[1, 1], [0, 1]]), np.array([[1, -1], [0, 1]])
    return B @ M, inverse @ A, h
    # END SOLUTION


# %% [markdown]
# For most $h$, we said. For which not? Write $u_i = b_{pi} a_{iq}$. Then an entry of the update is
#
# $$\Delta W_{pq} = \sum_i u_i + \sum_{i \le j} h_{ij}\,u_i u_j = \sum_i u_i + u^\top H u ,$$
#
# with *one* symmetric matrix $H$: the term $h_{ij} u_i u_j$ is shared by $H_{ij}$ and $H_{ji}$. The
# **gauge theorem** (perakit's docs/claims.md proves it, for generic $B$, $A$ and $K \le
# \min(m, n)$) says: the update cannot tell column $i$ from column $k$ exactly if rows $i$ and $k$
# of $H$ are equal. Columns with equal rows of $H$ form a class. Inside a class of $c$ columns you
# may use every invertible $c \times c$ matrix $M$, as in LoRA. Between classes you may mix
# nothing. How many independent directions does that make?


# %%
def unseen(h, rank):
    """In how many independent directions the factors can move while the update stays: an integer.

    It is the sum of c² over the classes, c columns each, of equal rows of H.
    h: r(r+1)/2 whole numbers, a list, in the order of the pairs (0, 0), (0, 1), ..., (1, 1), ...
    """
    # BEGIN SOLUTION
    H = np.zeros((rank, rank), dtype=int)
    H[np.triu_indices(rank)] = h
    rows = [tuple(row) for row in H + H.T]  # of 2 H, so that nothing is halved
    return sum(rows.count(row) for row in rows)  # each of a class's c rows counts c
    # END SOLUTION


# %% tags=["experiment"]
from perakit import theory

draw = np.random.default_rng(0)
B, A = draw.integers(-9, 10, (14, 3)), draw.integers(-9, 10, (3, 14))
for h in ([0, 0, 0, 0, 0, 0], [1, 2, 2, 1, 2, 1], [0, 0, 0, 0, 0, 5], [1, 1, 1, 1, 1, 1]):
    counted = theory.gauge((B, A, np.array(h))).kernel  # of the update's derivative, exactly
    print(f"h = {h}: {unseen(h, 3)} directions, and perakit counts {counted}")

# %% [markdown]
# ## 5. Factors from a merged weight
#
# The update has been added to a weight, and the factors are lost. Are they? Take $r = 1$:
#
# $$W_{pq} = b_p a_q + h\,b_p^2 a_q^2 .$$
#
# The columns of $W$ are combinations of $b$ and $b \circ b$. In the space of these combinations $b$
# is, up to a factor, the only vector whose square lies there, too (on four rows or more, for most
# $b$). That is how `column` finds it; it is given. You do the second half. Divide row $p$ by $b_p$.
# What is left in column $q$ is a straight line in $b_p$: what are its slope and its value at zero?
# How many rows do you need? The scale of $b$ stays unknown: it is the gauge. Does $h$ depend on it?


# %%
def column(W):
    """A multiple of b, from an exact W of at least 4 rows and 2 columns."""
    x, y = W[:, 0], W[:, 1]

    def volume(rows, z):
        (p, q, s), minor = rows, lambda i, j: x[i] * y[j] - x[j] * y[i]
        return z[p] * minor(q, s) - z[q] * minor(p, s) + z[s] * minor(p, q)

    # (x + t y)² lies in the space if two volumes are zero: two equations in t and t²
    first, second = (
        [volume(rows, z) for z in (x * x, x * y, y * y)] for rows in ((0, 1, 2), (0, 1, 3))
    )
    t = (first[2] * second[0] - second[2] * first[0]) / (
        first[1] * second[2] - second[1] * first[2]
    )
    return x + t / 2 * y


# %%
def recover(W, b):
    """(a (n,), h a number), integers and Fractions, with W = b aᵀ + h (b∘b)(a∘a)ᵀ exactly.

    There are such a and h, with h not zero and a not all zero.
    W (m, n), b (m,): arrays of Fractions, so that / is exact here; b may have zeros and equal
    entries, but at least two that are different and not zero.
    """
    # BEGIN SOLUTION
    p = next(k for k in range(len(b)) if b[k] != 0)
    q = next(k for k in range(len(b)) if b[k] not in (0, b[p]))
    slope = (W[q] / b[q] - W[p] / b[p]) / (b[q] - b[p])  # h a∘a
    a = W[p] / b[p] - b[p] * slope
    k = next(k for k in range(len(a)) if a[k] != 0)
    return a, slope[k] / a[k] ** 2
    # END SOLUTION


# %% tags=["experiment"]
lost = [[Fraction(2), Fraction(3), Fraction(-1), Fraction(5)]], [[Fraction(1), Fraction(-4)]]
W = pera(np.array(lost[0]).T, lost[1], [Fraction(-1, 3)])
b = column(W)
a, h = recover(W, b)
print("found b =", *b, " a =", *a, " h =", h)
print("the same update:", (pera(b[:, None], a[None], [h]) == W).all())

# %% [markdown]
# ## 6. How near does PERA come?
#
# $E$ is a target with singular values $\sigma_1 \ge \sigma_2 \ge \dots$ The theorem of Eckart and
# Young says: among the matrices of rank at most $k$, the one nearest to $E$ in the Frobenius norm
# has the distance $(\sum_{i > k} \sigma_i^2)^{1/2}$. Now
#
# $$S_\mathrm{LoRA}(r) = \{\text{rank} \le r\} \;\subset\; S_\mathrm{PERA}(r) \;\subset\;
# \{\text{rank} \le K\} .$$
#
# Which of the two outer sets gives a number that the distance of $E$ to $S_\mathrm{PERA}(r)$ cannot
# be *below*, and which one that it cannot be *above*?


# %%
def sandwich(sigma, rank):
    """(lower, upper) bounds on the Frobenius distance of a target to S_PERA(r), in floats.

    sigma: all singular values of the target, the largest first, a float array; there may be fewer
    than r or K of them.
    """
    # BEGIN SOLUTION
    bound = rank * (rank + 3) // 2
    return np.sqrt((sigma[bound:] ** 2).sum()), np.sqrt((sigma[rank:] ** 2).sum())
    # END SOLUTION


# %% tags=["experiment"]
target = np.array([[1, 2, 3], [4, 5, 7], [5, 7, 10]])
low, high = sandwich(np.linalg.svd(target, compute_uv=False), 1)
print(f"a target of rank 2, at r = 1: between {low:.2g} (0, but for rounding) and {high:.4g}")

# %% [markdown]
# ## 7. An infimum that is no minimum
#
# Let $E_{pq} = x_p + y_q$, which is $x 1^\top + 1 y^\top$, of rank at most 2. If all entries of $x$
# are different, and all of $y$, then no PERA update of rank 1 is equal to $E$ on a layer of three
# rows and two columns or more. But updates come as near as one likes, if their factors may grow.
# Try
#
# $$u = \tfrac{1}{\varepsilon}\,(1 - \varepsilon x)(1 - \varepsilon y)^\top, \qquad
# \text{entry by entry}\quad u_{pq} = \tfrac{1}{\varepsilon}\,(1 - \varepsilon x_p)(1 - \varepsilon
# y_q) ,$$
#
# and write $s = \varepsilon u$. For which $h$, depending on $\varepsilon$, is $u + h\,u \circ u =
# \tfrac{1}{\varepsilon}\, s \circ (1 - s)$? Multiply out: what is left as $\varepsilon \to 0$?


# %%
def near(x, y, epsilon):
    """Factors (b (m,), a (n,), h a number) of rank 1 that come near x1ᵀ + 1yᵀ.

    They are integers and Fractions.
    x (m,), y (n,): integer arrays with entries from -3 to 3; epsilon: a Fraction between 0 and
    1/10000. No entry of the update is farther than 1000 epsilon from the target's.
    """
    # BEGIN SOLUTION
    return (1 - epsilon * x) / epsilon, 1 - epsilon * y, -epsilon
    # END SOLUTION


# %% tags=["experiment"]
import matplotlib.pyplot as plt

from perakit import plots

plt.style.use(plots.STYLE)
x = y = np.arange(-3, 4)
E = x[:, None] + y
epsilons = [Fraction(1, 3**k) for k in range(1, 26)]
exact, rounded, largest = [], [], []
for epsilon in epsilons:
    b, a, h = near(x, y, epsilon)
    u = np.outer(b, a)
    exact.append(float(abs(u + h * u * u - E).max()))
    largest.append(float(abs(u).max()))
    v = u.astype(float)  # the same u, rounded to float64
    rounded.append(abs(v + float(h) * v * v - E).max())
figure, ax = plt.subplots()
ax.loglog(epsilons, exact, "o-", label="error in fractions")
ax.loglog(epsilons, rounded, "s--", label="error in float64")
ax.loglog(epsilons, largest, ":", label="largest entry of u")
ax.set(xlabel="ε", title="Nearer and nearer, with factors that grow")
_ = ax.legend()

# %% [markdown] tags=["rubric"]
# ## 8. In your own words (marked by your teacher, 4 points)
#
# **a.** Somebody argues: "$S_\mathrm{PERA}(r)$ lies in the matrices of rank at most $K$. Hence the
# distance of $E$ to $S_\mathrm{PERA}(r)$ is at most $\sigma_{K+1}(E)$, the distance (in the
# spectral norm) to those." Where is the mistake? Use your numbers for $m = n = 3$ and $r = 1$ to
# show that the conclusion is false for most $E$ of rank 2. (2 points)
#
# **b.** You have *one* example of rank $K$. A colleague has run a million random factors through
# `np.linalg.matrix_rank` and never seen less than $K$. Who has proved what? Which of the two claims
# does your sign example refute: "some factors reach $K$", or "all do"? (2 points)
#
# | points | what the answer has |
# |:--|:--|
# | 2 | the reason, with the numbers or the example that show it |
# | 1 | the right conclusion without the reason |
# | 0 | a guess, or an answer that would also fit the opposite |

# %% tags=["experiment"]
# Your answers, as comments or in a Markdown cell:

# %% [markdown] tags=["instructor"]
# ### What it teaches
#
# One exact example proves "there is" and refutes "all"; a numerical rank is an answer about a
# tolerance; rank against dimension; what an update hides of its factors, and what it tells; which
# way a bound goes when a set grows; an infimum that is not attained. Students need rank, singular
# values and patience with fractions.
#
# ### How it is checked
#
# Constructions are verified, not compared: the grader forms the update in fractions and counts its
# rank exactly. Any right answer passes. A float costs one check of its function, even if it is
# right, because the next one will not be; the function's other checks take it for the fraction that
# was meant. The message shows the factors that were returned and what they make, so that a student
# can do the arithmetic; large ones it shows by their shape.
#
# ### Where they stumble
#
# - *Elimination.* No swap at a zero pivot; `rows = M`, which eliminates in the caller's matrix.
# - *Floats that slip in.* An array of integers divided by an integer; `np.linalg.inv`. `A *
#   Fraction(1, 2)` stays exact.
# - *int64.* Powers for a Vandermonde matrix overflow silently; the rank is then wrong, in either
#   direction.
# - *Rank 1 only.* At higher ranks h has more entries than they think, and the 2 has to stay with
#   the pair (0, 0).
# - *h is forgotten when columns are swapped.* With the old h the update changes.
# - *h_ij in H.* Half of it stands in row i and half in row j. With all of it in both, h = (1, 1, 1)
#   seems to have equal rows and (1, 2, 1) does not; it is the other way round.
# - *The slope of the line* in `recover` is h a², not h. And not every row or column will do: b or a
#   may be zero there, or two entries of b equal.
# - *The sandwich.* The larger set gives the lower bound. It is easily turned round, as in the
#   paper's Theorem 1.
#
# ### A model answer for the bound K
#
# B with the columns x^(3^k), x = 1 ... K: the columns of Poly2(B) are x to the powers 3^i and 3^i +
# 3^j, which are all different. Such a generalised Vandermonde matrix with positive, different x is
# invertible; so is Poly2(A), and with no h zero so is the product. With signs: all 2^r rows of
# signs make 1, b_i and b_i∘b_j (i < j) orthogonal, r(r+1)/2 + 1 of them; the squares are all the
# same matrix.
#
# ### Written answers
#
# a: the nearest point of a larger set is at least as near, so the inclusion gives "at least". On a
# 3 x 3 layer at r = 1 S_PERA has dimension 6 and the matrices of rank <= 2 have 8: most of these
# are out of reach, while σ₃ = 0 says distance 0. (This is Theorem 1 of arXiv 2604.11841 as stated;
# notebook 05 has the certificate for one matrix.)
#
# b: the example proves "some". It even proves "almost all": some K x K minor of ΔW is a polynomial
# in the factors that is not zero at the example, hence zero only on a set of measure zero. The
# million runs prove nothing, and are about a tolerance. The sign example refutes "all".
#
# Why no update of rank 1 is equal to x1ᵀ + 1yᵀ (section 7): take second differences of u + h u².
# With rows p, p' and columns q, q' they are (b - b')(a - a')(1 + h (b + b')(a + a')), and must
# vanish. All b are different, since all x are, and all a likewise; so (b + b')(a + a') = -1/h for
# every choice, and with three rows b₁ + b₂ = b₁ + b₃: two are equal.
#
# Why b is found in the column space (section 5): let x = s b + t b∘b have its square there. It is
# x∘x = s² b² + 2 s t b³ + t² b⁴. If b, b², b³ and b⁴ are independent, which needs four rows, then
# t = 0.
#
# ### In class
#
# Five minutes on what section 4 prints. With h = (1, 2, 2, 1, 2, 1) the update is
# B A + (B A)∘(B A), which knows B A only. Which other h has 9 directions? Which has 5?
#
# Ten minutes on the figure of section 7. Predict the dashed curve first: why does the error in
# float64 grow again, and which line tells where it turns? (Two numbers of size 1/ε are subtracted;
# their rounding error is about 1e-16/ε.)

# %% tags=["checks"]
from fractions import Fraction
from itertools import combinations, permutations
from numbers import Rational, Real

import numpy as np
from hypothesis import strategies as st

from perakit.classroom import arrays, check, expect, expect_equal, fail, parts, show
from perakit.theory import exact_rank as true_rank

drawn = st.fixed_dictionaries
LARGEST_SIDE = 40
SMALL = 24  # entries of an array that a message shows in full
FEW = 25  # examples where a few inputs say it all

# --- what a student returned ----------------------------------------------------------------------


def array_of(value, what, *axes):
    """An object array with one axis for each of `axes`; fails on other shapes, and on text."""
    try:
        array = np.array(value, dtype=object)
    except ValueError:
        array = np.array(None)
    if array.ndim != len(axes) or 0 in array.shape:
        fail(f"{what}: expected an array ({', '.join(axes)}) got {show(value)}")
    for entry in array.flat:
        expect(
            isinstance(entry, Real) and entry - entry == 0,  # so that nan and inf fail
            f"{what} has the entry {show(entry)}: expected whole numbers and Fractions",
        )
    return array


def exact(value, what, *axes):
    """The same in Fractions.

    A float counts as the fraction that was meant: that it is one costs its own check.
    """
    array = array_of(value, what, *axes)
    found = np.empty(array.size, dtype=object)
    for k, entry in enumerate(array.flat):
        found[k] = (
            Fraction(int(entry.numerator), int(entry.denominator))
            if isinstance(entry, Rational)
            else Fraction(float(entry)).limit_denominator(10**9)
        )
    return found.reshape(array.shape)


def number(got):
    """One number, whatever it is."""
    expect(isinstance(got, Real), f"expected a whole number got {show(got)}")
    return got


def no_floats(got, *axes_of):
    """Fail at the first number that is no whole number and no Fraction.

    axes_of: for each of the values its name and its axes, in one string: "B m r".
    """
    for value, (what, *axes) in zip(
        parts(got, *(named.split()[0] for named in axes_of)),
        (named.split() for named in axes_of),
        strict=True,
    ):
        for entry in array_of(value, what, *axes).flat:
            expect(
                isinstance(entry, Rational),
                f"{what} has the float {float(entry)!r}: it is a rounded number, or the next one"
                " will be",
            )


def factors_of(got, rank):
    """(B, A, h) as a function returned them, in Fractions."""
    got = parts(got, "B", "A", "h")
    B, A, h = (
        exact(got[0], "B", "m", "r"),
        exact(got[1], "A", "r", "n"),
        exact(got[2], "h", "r(r+1)/2"),
    )
    pairs = rank * (rank + 1) // 2
    fits = (
        B.shape[1] == rank == A.shape[0]
        and len(h) == pairs
        and max(B.shape[0], A.shape[1]) <= LARGEST_SIDE
    )
    expect(
        fits,
        f"expected shapes (m, {rank}), ({rank}, n), ({pairs},), m and n at most {LARGEST_SIDE}, got"
        f" {B.shape}, {A.shape}, {h.shape}",
    )
    return B, A, h


def update(B, A, h):
    total, k = B @ A, 0
    for i in range(len(A)):
        for j in range(i, len(A)):
            total, k = total + h[k] * np.outer(B[:, i] * B[:, j], A[i] * A[j]), k + 1
    return total


# --- what a message shows -------------------------------------------------------------------------


def text(array):
    """An array of Fractions in a line, [[1, 1/2]]; a large one by its shape."""
    if np.size(array) > SMALL:
        return f"an array of shape {array.shape}"

    def nested(entries):
        if isinstance(entries, list):
            return "[" + ", ".join(map(nested, entries)) + "]"
        return str(entries)

    return nested(np.asarray(array, dtype=object).tolist())


def yours(B, A, h):
    """The factors that were returned, so that the student can do the arithmetic."""
    return f"your factors are B = {text(B)}, A = {text(A)}, h = {text(h)}"


def judged(B, A, h):
    """The factors, and what the judge makes of them: the update, and its rank."""
    delta = update(B, A, h)
    found = true_rank(delta)
    shown = f"ΔW = {text(delta)}" if delta.size <= SMALL else f"a ΔW of shape {delta.shape}"
    return delta, found, f"{yours(B, A, h)}, which make {shown}, of rank {found}"


# --- 1. rank --------------------------------------------------------------------------------------


def determinant(rows):
    """By Leibniz's formula."""
    total = 0
    for order in permutations(range(len(rows))):
        sign = (-1) ** sum(order[i] > order[j] for i in range(len(order)) for j in range(i))
        product = sign
        for row, column in enumerate(order):
            product *= rows[row][column]
        total += product
    return total


def rank_by_minors(M):
    """The size of the largest minor that is not zero."""
    for size in range(min(len(M), len(M[0])), 0, -1):
        for rows in combinations(M, size):
            if any(
                determinant([[row[k] for k in columns] for row in rows])
                for columns in combinations(range(len(M[0])), size)
            ):
                return size
    return 0


def signs(array):
    return np.sign(array).astype(int)


# Random matrices nearly always have full rank, products of thin ones do not; and some on which a
# hasty elimination goes wrong. Where a pivot divides it is ±1, ±2 or ±4, so that even floats do not
# round here: they cost the next check.
matrices = arrays(M="r n").map(lambda example: {"M": signs(example["M"]).tolist()})
matrices |= arrays(P="r m", Q="m n").map(
    lambda example: {"M": (signs(example["P"]) @ signs(example["Q"])).tolist()}
)
matrices |= st.sampled_from(
    [
        {"M": [[0], [1]]},
        {"M": [[0], [0], [1]]},
        {"M": [[1, 1], [2, 2]]},
        {"M": [[2, 2], [1, 1]]},
        {"M": [[1, 1], [1, 1], [1, 1]]},
    ]
)


@check(
    3,
    "the rank of small matrices",
    "exact_rank",
    examples=matrices,
    hint=(
        "do this matrix on paper: which row has the pivot of each column, and which rows lie below"
        " it?"
    ),
)
def rank_small(work, M):
    expect_equal(work.exact_rank([list(row) for row in M]), rank_by_minors(M))


# Compared with the student's own answers at N = 2, so that a mistake in the elimination is the
# other check's. Who says the same of every matrix has no answers to compare.
@check(
    2,
    "no rounding: numbers that no float holds",
    "exact_rank",
    examples=drawn({"power": st.integers(1, 25), "d": st.integers(0, 1)}),
    hint="where in your function does a number become a float, or is compared with a tolerance?",
)
def rank_exact(work, power, d):
    found = [number(work.exact_rank(M)) for M in ([[0]], [[1]], [[1, 0], [0, 1]])]
    expect(
        not found[0] == found[1] == found[2],
        f"[[0]], [[1]] and [[1, 0], [0, 1]] have the ranks 0, 1 and 2, and you say {show(found[0])}"
        " of all",
    )
    third = Fraction(1, 3)
    for said, matrix in (
        (f"[[1, N], [N, N² + {d}]]", lambda N: [[1, N], [N, N * N + d]]),
        (f"[[1/3, 1], [1, 3 + {d}/N]]", lambda N: [[third, 1], [1, 3 + Fraction(d, N)]]),
    ):
        small, got = (number(work.exact_rank(matrix(N))) for N in (2, 10**power))
        expect(
            got == small,
            f"{said} has the same rank for every N > 1: you say {show(small)} at N = 2, and"
            f" {show(got)} at N = 10^{power}",
        )


@check(
    1,
    "two of numerical rank 1, a product of rank 2",
    "rank_trap",
    hint="NumPy compares each singular value with the largest one of the same matrix",
)
def trap(work):
    got = parts(work.rank_trap(), "X", "Y")
    try:
        X, Y = (np.asarray(factor, dtype=float) for factor in got)
    except (TypeError, ValueError):
        fail(f"expected two float matrices got {show(got)}")
    fits = X.ndim == Y.ndim == 2 and X.shape[1] == Y.shape[0]
    expect(fits, f"expected two float matrices that can be multiplied, got {show(X)} and {show(Y)}")
    expect(np.isfinite(X).all() and np.isfinite(Y).all(), "not every entry is finite")
    found = [int(np.linalg.matrix_rank(matrix)) for matrix in (X, Y, X @ Y)]
    expect(
        found == [1, 1, 2],
        f"X = {text(X)}, Y = {text(Y)} and X Y = {text(X @ Y)}: expected the numerical ranks 1, 1"
        f" and (of the product) 2 got {found[0]}, {found[1]} and {found[2]}",
    )


# --- 2. beyond LoRA -------------------------------------------------------------------------------

FACTORS = ("B m r", "A r n", "h r(r+1)/2")
FLOATS = "np.zeros and np.ones make floats, and so does / between whole numbers"


@check(
    2,
    "PERA of rank 1 is the 2 x 2 identity",
    "beyond_lora",
    hint=(
        "u + h u² is 0 at u = 0 and at one other u. Which entries can b aᵀ have on the diagonal, if"
        " those off it are all that u?"
    ),
)
def identity(work):
    delta, _, said = judged(*factors_of(work.beyond_lora(1), 1))
    same = delta.shape == (2, 2) and (delta == np.eye(2, dtype=int)).all()
    expect(same, f"{said}: expected [[1, 0], [0, 1]]")


@check(
    2,
    "the update's rank is above r",
    "beyond_lora",
    examples=drawn({"rank": st.integers(2, 4)}),
    hint=(
        "you have a block of rank 2 with one column of B: what can each further column add? Mind"
        " which pair each entry of h belongs to"
    ),
)
def beyond(work, rank):
    _, found, said = judged(*factors_of(work.beyond_lora(rank), rank))
    expect(found > rank, f"{said}: expected at least {rank + 1}")


@check(
    1,
    "no floats among these factors",
    "beyond_lora",
    examples=drawn({"rank": st.integers(1, 4)}),
    hint=FLOATS,
)
def beyond_exact(work, rank):
    no_floats(work.beyond_lora(rank), *FACTORS)


# --- 3. the highest rank --------------------------------------------------------------------------


@check(
    2,
    "some factors reach K",
    "high_rank",
    examples=drawn({"rank": st.integers(1, 3)}),
    hint=(
        "how large must the layer be? is an h zero? are two products the same? has int64"
        " overflowed?"
    ),
)
def reaches(work, rank):
    _, found, said = judged(*factors_of(work.high_rank(rank, False), rank))
    bound = rank * (rank + 3) // 2
    expect(found == bound, f"{said}: expected the rank K = {bound}")


@check(
    2,
    "factors of signs reach the highest rank that signs allow",
    "high_rank",
    examples=drawn({"rank": st.integers(2, 3)}),
    hint="what is b_i∘b_i, for each i? and do B and A have enough different rows of signs?",
)
def signed(work, rank):
    B, A, h = factors_of(work.high_rank(rank, True), rank)
    for name, factor in (("B", B), ("A", A)):
        other = [entry for entry in factor.flat if entry not in (1, -1)]
        expect(
            not other,
            f"{name} = {text(factor)} has the entry {other[0] if other else ''}: expected 1 and -1"
            " only",
        )
    _, found, said = judged(B, A, h)
    most = rank * (rank + 1) // 2 + 1
    expect(found == most, f"{said}: signs can reach more")


@check(
    1,
    "no floats among these factors either",
    "high_rank",
    examples=drawn({"rank": st.integers(2, 3), "signs": st.booleans()}),
    hint=FLOATS,
)
def high_exact(work, rank, signs):
    no_floats(work.high_rank(rank, signs), *FACTORS)


# --- 4. dimension, and what the update does not see -----------------------------------------------

layers = drawn({"m": st.integers(9, 12), "n": st.integers(9, 12), "rank": st.integers(1, 3)})


def two_dimensions(work, m, n, rank):
    got = parts(work.dimensions(m, n, rank), "PERA", "LoRA")
    expect(
        all(isinstance(value, Real) for value in got),
        f"expected two integers, (PERA, LoRA), got {show(got)}",
    )
    return got


# PERA's set has LoRA's in it, so its dimension is the larger of the two numbers: who gives them in
# the other order loses LoRA's check, and that alone.
@check(
    1,
    "PERA's dimension",
    "dimensions",
    examples=layers,
    hint="how many parameters are there, each h counted once, and how many of them are wasted?",
    count=FEW,
)
def pera_dimension(work, m, n, rank):
    expected = rank * (m + n) + sum(range(rank + 1)) - rank
    expect_equal(max(two_dimensions(work, m, n, rank)), expected, what="PERA")


@check(
    1,
    "LoRA's dimension, the second of the two",
    "dimensions",
    examples=layers,
    hint="(PERA, LoRA), in this order; how many entries has the matrix that can be undone?",
    count=FEW,
)
def lora_dimension(work, m, n, rank):
    expect_equal(two_dimensions(work, m, n, rank)[1], rank * (m + n - rank), what="LoRA")


@check(
    1,
    "no more dimensions than entries",
    "dimensions",
    examples=drawn({"m": st.integers(2, 4), "n": st.integers(2, 4)}),
    hint="how many numbers describe an m x n matrix completely?",
)
def capped(work, m, n):
    rank = min(m, n)
    got, _ = two_dimensions(work, m, n, rank)
    expect_equal(got, m * n, what=f"rank {rank} on {m} x {n} entries, PERA")


one_more = [{"B": [[1, 2], [3, 1], [2, 5]], "A": [[2, 3, 1], [1, 4, 3]], "h": [1, 2, 4]}]
one_more += [{"B": [[2, 1], [1, 3]], "A": [[1, 2, 5], [3, 1, 2]], "h": [3, -1, 1]}]
generic = st.sampled_from(one_more).map(
    lambda example: {name: np.array(value) for name, value in example.items()}
)


def moved_by(work, B, A, h, keep):
    """The factors before and after, in Fractions."""
    new = factors_of(work.other_factors(B, A, h, keep), 2)
    expect(
        new[0].shape == B.shape and new[1].shape == A.shape,
        f"expected the shapes {B.shape} and {A.shape} got {new[0].shape} and {new[1].shape}",
    )
    old = [exact(values, "", *axes) for values, axes in ((B, "mr"), (A, "rn"), (h, "k"))]
    return old, new


@check(
    2,
    "permuted and scaled: the same update",
    "other_factors",
    examples=generic,
    hint=(
        'this is keep="PERA": what multiplies a column of B, does it divide the row of A? To which'
        " pair does each entry of h belong, once the columns have changed places?"
    ),
)
def moved(work, B, A, h):
    old, new = moved_by(work, B, A, h, "PERA")
    expected, got = update(*old), update(*new)
    expect(
        (got == expected).all(),
        f"{yours(*new)}; the update was {text(expected)} and is now {text(got)}",
    )


def multiples(first, second):
    """Whether one of two columns is a multiple of the other."""
    return true_rank(np.stack([first, second])) < 2


@check(
    1,
    "both columns change places and length",
    "other_factors",
    examples=generic,
    hint='this is keep="PERA": exchange the columns, and multiply each by a number that is not 1',
)
def other(work, B, A, h):
    _, (new, _, _) = moved_by(work, B, A, h, "PERA")
    for k in (0, 1):
        old = B[:, 1 - k]
        placed, scaled = multiples(new[:, k], old) and new[:, k].any(), (new[:, k] != old).any()
        expect(
            placed,
            f"your B is {text(new)}: its column {k} is no multiple of the old column {1 - k},"
            f" {text(old)}",
        )
        expect(
            scaled,
            f"your B is {text(new)}: its column {k} is equal to the old column {1 - k}: scale it,"
            " too",
        )


@check(
    1,
    "a move that LoRA does not notice",
    "other_factors",
    examples=generic,
    hint='this is keep="LoRA": what multiplies B from the right, is it undone on the left of A?',
)
def unnoticed(work, B, A, h):
    old, new = moved_by(work, B, A, h, "LoRA")
    before, after = old[0] @ old[1], new[0] @ new[1]
    expect(
        (before == after).all(),
        f"{yours(*new)}; B A was {text(before)} and is now {text(after)}",
    )
    expect((new[2] == old[2]).all(), f"h was {text(old[2])} and is now {text(new[2])}: keep it")


@check(
    1,
    "PERA does: it mixes columns, and the update is another one",
    "other_factors",
    examples=generic,
    hint=(
        'this is keep="LoRA": a permutation or a scale is a symmetry of PERA. Which M puts two old'
        " columns into one new column?"
    ),
)
def noticed(work, B, A, h):
    old, new = moved_by(work, B, A, h, "LoRA")
    mixed = any(
        not multiples(new[0][:, k], B[:, 0]) and not multiples(new[0][:, k], B[:, 1])
        for k in (0, 1)
    )
    expect(mixed, f"your B is {text(new[0])}: each of its columns is a multiple of an old one")
    same = update(*new).tolist() == update(*old).tolist()
    expect(not same, f"{yours(*new)}; PERA's update is still {text(update(*old))}")


@check(
    1,
    "no floats among the moved factors",
    "other_factors",
    examples=generic,
    hint="np.linalg.inv returns floats; a matrix of whole numbers times a Fraction is exact",
)
def moved_exact(work, B, A, h):
    for keep in ("PERA", "LoRA"):
        no_floats(work.other_factors(B, A, h, keep), *FACTORS)


def of_squares(diagonal):
    """h with these h_ii, and no cross terms."""
    rank, h = len(diagonal), []
    for i in range(rank):
        h += [diagonal[i]] + [0] * (rank - 1 - i)
    return h


@check(
    2,
    "every class of equal rows counts its size squared",
    "unseen",
    examples=st.lists(st.integers(0, 3), min_size=1, max_size=4).map(
        lambda diagonal: {"h": of_squares(diagonal), "rank": len(diagonal)}
    ),
    hint="write H down: which of its rows are equal, and how many columns has each class?",
)
def classes(work, h, rank):
    H = np.diag([h[k * rank - k * (k - 1) // 2] for k in range(rank)])
    equal = [[(H[i] == H[k]).all() for k in range(rank)] for i in range(rank)]
    expect_equal(work.unseen(h, rank), np.sum(equal), what=f"H = {text(H)}")


# Compared with the student's own answers where there are no cross terms
@check(
    1,
    "a cross term is shared by two rows of H",
    "unseen",
    examples=drawn({"c": st.integers(1, 3), "rank": st.integers(2, 4)}),
    hint="in uᵀHu the product u_i u_j comes twice, from H_ij and from H_ji: what is H_ij then?",
)
def shared(work, c, rank):
    pairs = [(i, j) for i in range(rank) for j in range(i, rank)]
    all_different = of_squares(range(1, rank + 1))
    one = number(work.unseen([0] * len(pairs), rank))
    many = number(work.unseen(all_different, rank))
    expect(
        one != many,
        f"you say {show(one)} for h = 0, where all rows of H are equal, and for h ="
        f" {all_different}, where all are different",
    )
    for h, expected, rows in (
        ([c if i == j else 2 * c for i, j in pairs], one, "equal"),
        ([c for _ in pairs], many, "different"),
    ):
        got = number(work.unseen(h, rank))
        expect(
            got == expected,
            f"h = {h}: all rows of H are {rows}, and for such rows your own answer is"
            f" {show(expected)}; here it is {show(got)}",
        )


# --- 5. factors from a merged weight --------------------------------------------------------------

lost = drawn(
    {
        "b": st.lists(st.sampled_from([1, 2, 3, -1, -2]), min_size=2, max_size=3, unique=True),
        "a": st.lists(st.sampled_from([1, 2, 3, -1]), min_size=1, max_size=3),
        "h": st.sampled_from([1, 2, -1, Fraction(1, 2), Fraction(-2, 3)]),
    }
)


def merged(b, a, h):
    """(W, b) in Fractions."""
    b, a = (exact(values, "", "k") for values in (b, a))
    return update(b[:, None], a[None], [Fraction(h)]), b


def recovered(got, n):
    got = parts(got, "a", "h")
    a, h = exact(got[0], "a", "n"), exact(got[1], "h")
    expect(len(a) == n, f"expected a of shape ({n},) got {a.shape}")
    return a, h.item()


@check(
    2,
    "the factors found make the merged weight again",
    "recover",
    examples=lost,
    hint="W[p] / b[p] = a + b[p] g: two rows give a and g. How does g hang together with h?",
)
def again(work, b, a, h):
    W, column = merged(b, a, h)
    found, factor = recovered(work.recover(W, column), len(a))
    back = update(column[:, None], found[None], [factor])
    expect(
        (back == W).all(),
        f"W = {text(W)}: your a = {text(found)} and h = {factor} make {text(back)} of b ="
        f" {text(column)}",
    )


# Compared with the student's own answer for the weight without them
@check(
    1,
    "zeros and equal entries do no harm",
    "recover",
    examples=drawn(
        {"b": st.just([1, 2]), "a": st.just([1, 3]), "h": st.just(2), "more": st.integers(0, 3)}
    ),
    hint="may you divide by that entry of b, by that difference, by that entry of a? choose others",
)
def harmless(work, b, a, h, more):
    W, column = merged(b, a, h)
    found, factor = recovered(work.recover(W, column), len(a))
    if more == 0:
        longer, wider, what = [*b, 0], a, "a further row with b = 0"
    elif more == 1:
        longer, wider, what = [0, *b], a, "a first row with b = 0"
    elif more == 2:
        longer, wider, what = [b[0], *b], a, "the first row twice"
    else:
        longer, wider, what = b, [0, *a], "a first column with a = 0"
    got, again = recovered(work.recover(*merged(longer, wider, h)), len(wider))
    expected = [Fraction(0), *found] if more == 3 else list(found)
    expect(
        list(got) == expected and again == factor,
        f"with {what}, b = {longer}, nothing else changes: expected your own a ="
        f" {text(np.array(expected, dtype=object))} and h = {factor}, got a = {text(got)} and h ="
        f" {again}",
    )


@check(
    1,
    "no floats among what was found",
    "recover",
    examples=drawn({"b": st.just([1, 2]), "a": st.just([1, 3]), "h": st.integers(1, 3)}),
    hint="Fraction / Fraction is exact: where does a float come in?",
    count=FEW,
)
def found_exact(work, b, a, h):
    no_floats(work.recover(*merged(b, a, h)), "a n", "h")


# --- 6. how near ----------------------------------------------------------------------------------


def bounds(work, sigma, rank):
    got = parts(work.sandwich(sigma, rank), "lower", "upper")
    expect(
        all(isinstance(value, Real) for value in got),
        f"expected two numbers, (lower, upper), got {show(got)}",
    )
    return got


def ending_in_one(last):
    """Singular values, the last of them 1, as many as `last` says for the rank, or one fewer.

    A tail that begins there is [1], or empty: the same in every norm.
    """
    return drawn(
        {
            "rank": st.integers(1, 2),
            "tail": st.integers(0, 1),
            "steps": st.lists(st.integers(0, 2), min_size=6, max_size=6),
        }
    ).map(
        lambda example: {
            "sigma": 1.0
            + np.cumsum(
                [0, *example["steps"]][: last(example["rank"]) - 1 + example["tail"]],
                dtype=float,
            )[::-1],
            "rank": example["rank"],
        }
    )


# The upper bound is the larger number: who gives the two in the other order loses the lower one's
# check, and that alone.
@check(
    1,
    "the upper bound: the right σ are left",
    "sandwich",
    examples=ending_in_one(lambda rank: rank + 1),
    hint="which σ are left when the r largest are gone? The text counts from 1, Python from 0",
)
def upper(work, sigma, rank):
    expect_equal(max(bounds(work, sigma, rank)), sum(sigma[rank:]), what="upper")


@check(
    1,
    "the lower bound, the first of the two: the right σ are left",
    "sandwich",
    examples=ending_in_one(lambda rank: rank * (rank + 3) // 2 + 1),
    hint="(lower, upper), in this order; which of the two sets is the larger, and what is K?",
)
def lower(work, sigma, rank):
    expect_equal(bounds(work, sigma, rank)[0], sum(sigma[rank * (rank + 3) // 2 :]), what="lower")


@check(
    1,
    "both are Frobenius norms of what is left",
    "sandwich",
    examples=drawn({"rank": st.integers(1, 2), "more": st.integers(2, 3)}).map(
        lambda example: {
            "sigma": np.arange(
                float(example["rank"] * (example["rank"] + 3) // 2 + example["more"])
            )[::-1]
            + 2,
            "rank": example["rank"],
        }
    ),
    hint="the theorem of Eckart and Young, once more: squares, all of them, and a root",
)
def frobenius(work, sigma, rank):
    # Wherever it begins: that is for the other two to say
    tails = [sum(value**2 for value in sigma[k:]) ** 0.5 for k in range(len(sigma) + 1)]
    for got in bounds(work, sigma, rank):
        expect(
            min(abs(got - tail) for tail in tails) <= 1e-9,
            f"{got:.6g} is not (σ_i² + ... + σ_N²)^½, whichever i it begins with",
        )


# --- 7. an infimum --------------------------------------------------------------------------------


# The errors of the model answer are ε (|xy| + (x + y)²) and smaller terms, below 50 ε for entries
# up to 3; others may be larger.
@check(
    2,
    "as near to x1ᵀ + 1yᵀ as ε",
    "near",
    examples=arrays(x="m", y="n"),
    hint="u = b aᵀ is given. Put u = s/ε into u + h u² and compare with (s - s²)/ε: what is h?",
)
def limit(work, x, y):
    x, y = x.astype(int), y.astype(int)
    for epsilon in (Fraction(1, 10**4), Fraction(1, 10**7)):
        got = parts(work.near(x, y, epsilon), "b", "a", "h")
        b, a, h = exact(got[0], "b", "m"), exact(got[1], "a", "n"), exact(got[2], "h")
        expect(
            (b.shape, a.shape) == (x.shape, y.shape),
            f"expected shapes {x.shape} and {y.shape} got {b.shape} and {a.shape}",
        )
        u = np.outer(b, a)
        delta = u + h.item() * u * u
        error = max(abs(entry) for entry in (delta - (x[:, None] + y)).flat)
        said = (
            f"ε = {epsilon}: your b = {text(b)}, a = {text(a)}, h = {h.item()} make"
            f" {show(delta.astype(float))}, and the target is {show(x[:, None] + y)}"
        )
        expect(error <= 1000 * epsilon, f"{said}: {float(error):.3g} away")


@check(
    1,
    "no floats, however near",
    "near",
    examples=arrays(x="m", y="n"),
    hint="an array of whole numbers times a Fraction is exact; float(...) and 1e-4 are not",
    count=FEW,
)
def near_exact(work, x, y):
    no_floats(work.near(x.astype(int), y.astype(int), Fraction(1, 10**4)), "b m", "a n", "h")


# The grader sees whether an argument was changed, and says so in the check of this name alone.
@check(
    1,
    "no function changes its arguments",
    "exact_rank",
    "other_factors",
    "unseen",
    "recover",
    "near",
    hint="rows that are exchanged or divided are the caller's: make a copy first",
    alone=True,
)
def untouched(work):
    work.exact_rank([[0, 2, 1], [3, 1, 2], [3, 3, 3]])
    B, A = np.array([[1, 2], [3, 4], [5, 7]]), np.array([[2, 3, 5], [7, 11, 13]])
    for keep in ("PERA", "LoRA"):
        work.other_factors(B, A, np.array([2, 3, 5]), keep)
    work.unseen([1, 2, 3], 2)
    b, a = (np.array([Fraction(k) for k in entries]) for entries in ((1, 2, 3, 5), (1, 4)))
    work.recover(*merged(b, a, Fraction(1, 2)))
    work.near(np.array([1, 2]), np.array([3, 4]), Fraction(1, 10**4))
