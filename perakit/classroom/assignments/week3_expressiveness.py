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
# it.
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
# the factors in $b_i \to d_i b_i$, $a_i \to a_i / d_i$. At all sizes that were measured these are
# all (notebook 06), unless the layer is too small: no set can have more dimensions than there are
# entries.


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
# LoRA: $B \to B M$, $A \to M^{-1} A$ for every invertible $M$. PERA allows fewer: $M$ may permute
# the columns and scale them. What has to happen to $h$ when columns change places? And which $M$
# would you try in order to change PERA's update and not LoRA's?


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
# ## 5. How near does PERA come?
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
# ## 6. An infimum that is no minimum
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
# ## 7. In your own words (marked by your teacher, 4 points)
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
# tolerance; rank against dimension; which way a bound goes when a set grows; an infimum that is not
# attained. Students need rank, singular values and patience with fractions.
#
# ### How it is checked
#
# Constructions are verified, not compared: the grader forms the update in fractions and counts its
# rank exactly. Any right answer passes, and a float is refused even if it is right, because the
# next one will not be.
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
# Why no update of rank 1 is equal to x1ᵀ + 1yᵀ (section 6): take second differences of u + h u².
# With rows p, p' and columns q, q' they are (b - b')(a - a')(1 + h (b + b')(a + a')), and must
# vanish. All b are different, since all x are, and all a likewise; so (b + b')(a + a') = -1/h for
# every choice, and with three rows b₁ + b₂ = b₁ + b₃: two are equal.
#
# ### In class
#
# Ten minutes on the figure of section 6. Predict the dashed curve first: why does the error in
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


def exact(value, what, *axes):
    """An object array of Fractions with one axis for each of `axes`.

    Fails on floats, and on other shapes.
    """
    try:
        array = np.array(value, dtype=object)
    except ValueError:
        array = np.array(None)
    if (
        array.ndim != len(axes)
        or 0 in array.shape
        or any(isinstance(entry, list | tuple) for entry in array.flat)
    ):
        fail(f"{what}: expected an array ({', '.join(axes)}) got {show(value)}")
    for entry in array.flat:
        if isinstance(entry, float | np.floating):
            fail(
                f"{what} has the float {float(entry)}: use whole numbers and Fraction(1, 2), and"
                " no /"
            )
        expect(
            isinstance(entry, Rational),
            f"{what} has the entry {entry!r}: expected whole numbers and Fractions",
        )
    numbers = [Fraction(int(entry.numerator), int(entry.denominator)) for entry in array.flat]
    return np.array([*numbers, None], dtype=object)[:-1].reshape(array.shape)


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


def text(matrix):
    if np.size(matrix) > 24:
        return f"a matrix of shape {matrix.shape}"
    return str([[str(entry) for entry in row] for row in matrix.tolist()]).replace("'", "")


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


# Random matrices nearly always have full rank, products of thin ones do not; and some on which a
# hasty elimination goes wrong.
matrices = arrays(M="r n").map(lambda example: {"M": example["M"].astype(int).tolist()})
matrices |= arrays(P="r m", Q="m n").map(
    lambda example: {"M": (example["P"] @ example["Q"]).astype(int).tolist()}
)
matrices |= st.sampled_from(
    [{"M": [[0], [1]]}, {"M": [[0], [0], [1]]}, {"M": [[1, 1], [1, 1], [1, 1]]}]
)
one_more = [{"B": [[1, 2], [3, 1], [2, 5]], "A": [[2, 3, 1], [1, 4, 3]], "h": [1, 2, 4]}]
one_more += [{"B": [[2, 1], [1, 3]], "A": [[1, 2, 5], [3, 1, 2]], "h": [3, -1, 1]}]
generic = st.sampled_from(one_more).map(
    lambda example: {name: np.array(value) for name, value in example.items()}
)


@check(
    3,
    "the rank of small matrices",
    "exact_rank",
    examples=matrices,
    hint=(
        "at a zero pivot look further down; a column without pivot is passed over, and its row is"
        " not used up"
    ),
)
def rank_small(work, M):
    expect_equal(work.exact_rank([list(row) for row in M]), rank_by_minors(M))


@check(
    2,
    "no rounding: numbers that no float holds",
    "exact_rank",
    examples=drawn({"power": st.integers(0, 25), "d": st.integers(0, 1)}),
    hint="Fraction(entry) at the start, and never float, np.linalg or a tolerance",
)
def rank_exact(work, power, d):
    N = 10**power
    M = [[1, N], [N, N * N + d]]
    expect_equal(work.exact_rank(M), 1 + d, what=f"[[1, N], [N, N² + {d}]], N = 10^{power}")
    third = Fraction(1, 3)
    expect_equal(
        work.exact_rank([[third, 1], [1, 3 + Fraction(d, N)]]),
        1 + d,
        what=f"[[1/3, 1], [1, 3 + {d}/10^{power}]]",
    )


@check(
    1,
    "two of numerical rank 1, a product of rank 2",
    "rank_trap",
    hint=(
        "NumPy compares each singular value with the largest one of the same matrix; diagonal"
        " matrices will do"
    ),
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
        f"expected the numerical ranks 1, 1 and (of the product) 2 got {found[0]}, {found[1]} and"
        f" {found[2]}",
    )


@check(
    2,
    "PERA of rank 1 is the 2 x 2 identity",
    "beyond_lora",
    hint=(
        "u + h u² is 0 at u = 0 and at u = -1/h: let u be -1/h off the diagonal, and the other sign"
        " on it"
    ),
)
def identity(work):
    delta = update(*factors_of(work.beyond_lora(1), 1))
    same = delta.shape == (2, 2) and (delta == np.eye(2, dtype=int)).all()
    expect(same, f"expected [[1, 0], [0, 1]] got {text(delta)}")


@check(
    2,
    "the update's rank is above r",
    "beyond_lora",
    examples=drawn({"rank": st.integers(2, 4)}),
    hint=(
        "put the 2 x 2 identity into a corner, and one 1 for each further column; mind the order"
        " of h"
    ),
)
def beyond(work, rank):
    delta = update(*factors_of(work.beyond_lora(rank), rank))
    found = true_rank(delta)
    expect(found > rank, f"expected a rank of at least {rank + 1} got {found}: {text(delta)}")


@check(
    2,
    "some factors reach K",
    "high_rank",
    examples=drawn({"rank": st.integers(1, 3)}),
    hint="the layer needs at least K rows and K columns; no h is zero; do the powers overflow?",
)
def reaches(work, rank):
    found, bound = (
        true_rank(update(*factors_of(work.high_rank(rank, False), rank))),
        rank * (rank + 3) // 2,
    )
    expect(found == bound, f"expected the rank K = {bound} got {found}")


@check(
    2,
    "sign factors reach r(r+1)/2 + 1, and no more",
    "high_rank",
    examples=drawn({"rank": st.integers(2, 3)}),
    hint=(
        "each b_i∘b_i is the column of ones, so r squares count as one; take many different rows of"
        " signs"
    ),
)
def signed(work, rank):
    B, A, h = factors_of(work.high_rank(rank, True), rank)
    for name, factor in (("B", B), ("A", A)):
        other = [entry for entry in factor.flat if entry not in (1, -1)]
        expect(
            not other, f"{name} has the entry {other[0] if other else ''}: expected 1 and -1 only"
        )
    found, most = true_rank(update(B, A, h)), rank * (rank + 1) // 2 + 1
    expect(found == most, f"expected the rank {most} got {found}")


@check(
    1,
    "the dimensions of both sets",
    "dimensions",
    examples=drawn({"m": st.integers(9, 12), "n": st.integers(9, 12), "rank": st.integers(1, 3)}),
    hint="the parameters less those that are wasted",
)
def counted(work, m, n, rank):
    got = parts(work.dimensions(m, n, rank), "PERA", "LoRA")
    lora = rank * (m + n - rank)
    expect_equal(got[0], lora + rank**2 + rank * (rank - 1) // 2, what="PERA")
    expect_equal(got[1], lora, what="LoRA")


@check(
    1,
    "no more dimensions than entries",
    "dimensions",
    examples=drawn({"m": st.integers(2, 4), "n": st.integers(2, 4)}),
    hint="an m x n matrix has mn entries",
)
def capped(work, m, n):
    got = parts(work.dimensions(m, n, min(m, n)), "PERA", "LoRA")
    expect(isinstance(got[0], Real), f"expected two integers, (PERA, LoRA), got {show(got)}")
    expect(
        got[0] <= m * n,
        f"rank {min(m, n)}: PERA's dimension is {show(got[0])}, and there are {m * n} entries",
    )


@check(
    2,
    "permuted and scaled: the same update",
    "other_factors",
    examples=generic,
    hint=(
        "what multiplies a column of B divides a row of A; if the columns change places, h_00 and"
        " h_11 do"
    ),
)
def moved(work, B, A, h):
    got = update(*factors_of(work.other_factors(B, A, h, "PERA"), 2))
    expected = update(
        *(exact(values, "", *axes) for values, axes in ((B, "mr"), (A, "rn"), (h, "k")))
    )
    same = got.shape == expected.shape and (got == expected).all()
    expect(same, f"the update was {text(expected)} and is now {text(got)}")


def multiples(first, second):
    """Whether one of two columns is a multiple of the other."""
    return true_rank(np.stack([first, second])) < 2


@check(
    1,
    "both columns change places and length",
    "other_factors",
    examples=generic,
    hint=(
        "first exchange the columns, then multiply each by a number that is not 1; this is about"
        ' keep="PERA"'
    ),
)
def other(work, B, A, h):
    new, _, _ = factors_of(work.other_factors(B, A, h, "PERA"), 2)
    expect(new.shape == B.shape, f"expected B of shape {B.shape} got {new.shape}")
    for k in (0, 1):
        old = B[:, 1 - k]
        placed, scaled = multiples(new[:, k], old) and new[:, k].any(), (new[:, k] != old).any()
        expect(
            placed,
            f"new column {k} is {text(new[:, [k]].T)}: no multiple of the old column {1 - k},"
            f" [{show(old)}]",
        )
        expect(scaled, f"new column {k} is equal to the old column {1 - k}: scale it, too")


@check(
    2,
    "a move that LoRA does not notice, and PERA does",
    "other_factors",
    examples=generic,
    hint="B M and M⁻¹ A with M = [[1, 1], [0, 1]], say: new columns are then sums of old ones",
)
def broken(work, B, A, h):
    new = factors_of(work.other_factors(B, A, h, "LoRA"), 2)
    old = [exact(values, "", *axes) for values, axes in ((B, "mr"), (A, "rn"), (h, "k"))]
    expect(
        new[0].shape == B.shape and new[1].shape == A.shape,
        f"the shapes are {new[0].shape} and {new[1].shape}",
    )
    before, after = old[0] @ old[1], new[0] @ new[1]
    expect((before == after).all(), f"B A was {text(before)} and is now {text(after)}")
    expect((new[2] == old[2]).all(), f"h was {show(h)} and is now {text(new[2][None])}: keep it")
    mixed = any(
        not multiples(new[0][:, k], B[:, 0]) and not multiples(new[0][:, k], B[:, 1])
        for k in (0, 1)
    )
    expect(
        mixed,
        f"each new column is a multiple of an old one, B = {text(new[0])}: that is a symmetry of"
        " PERA as well",
    )
    expect((update(*new) != update(*old)).any(), "PERA's update is still the same")


singular = drawn(
    {"sigma": st.lists(st.integers(0, 4), min_size=3, max_size=7), "rank": st.integers(1, 2)}
).map(lambda example: example | {"sigma": np.sort(np.array(example["sigma"], dtype=float))[::-1]})


def bounds(work, sigma, rank):
    return parts(work.sandwich(sigma, rank), "lower", "upper")


@check(
    1,
    "the distance is not above LoRA's",
    "sandwich",
    examples=singular,
    hint="the root of the sum of σ_i² over i > r, counted from 1",
)
def upper(work, sigma, rank):
    expect_equal(
        bounds(work, sigma, rank)[1], sum(value**2 for value in sigma[rank:]) ** 0.5, what="upper"
    )


@check(
    1,
    "and not below that to rank K",
    "sandwich",
    examples=singular,
    hint="K = r(r+3)/2: the larger set is at least as near",
)
def lower(work, sigma, rank):
    bound = rank + rank * (rank + 1) // 2
    expect_equal(
        bounds(work, sigma, rank)[0], sum(value**2 for value in sigma[bound:]) ** 0.5, what="lower"
    )


# The errors of the model answer are ε (|xy| + (x + y)²) and smaller terms, below 50 ε for entries
# up to 3; others may be larger.
@check(
    2,
    "as near to x1ᵀ + 1yᵀ as ε",
    "near",
    examples=arrays(x="m", y="n"),
    hint="b = (1 - εx)/ε, a = 1 - εy; and (1/ε)(s - s²) = u + h u² gives h",
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
            f"ε = {epsilon}: the target is {show(x[:, None] + y)}, the update"
            f" {show(delta.astype(float))}"
        )
        expect(error <= 1000 * epsilon, f"{said}, {float(error):.3g} away")
