# %% [markdown]
# # LoRA and merging
#
# A weight matrix $W_0$ (m, n) is frozen. LoRA (arXiv 2106.09685) adds a product of two thin
# matrices to it,
#
# $$W = W_0 + \Delta W, \qquad \Delta W = s\,B A, \qquad s = \alpha / r,$$
#
# with $B$ (m, r), $A$ (r, n) and the rank $r$ much smaller than m and n. Only $B$ and $A$ are
# trained. You will write the update, its start and its first step, the two ways to compute a
# layer's output, and a merge that can be undone exactly. It takes about two hours. Notebooks 01 and
# 09 of perakit prepare for it.
#
# Replace each `raise NotImplementedError` by your code. Keep the names and the arguments of the
# functions. Use NumPy only. A function leaves its arguments as they are. No function needs another
# one of yours, so that a mistake does not spread. Run `perakit grade` on this file as often as you
# like: it shows the smallest input that breaks your function. Cells with the tag `experiment` are
# yours: the grader does not run them.

# %%
import numpy as np

# %% [markdown]
# ## 1. The update
#
# The rank $r$ is the number of rows of $A$. Think of a layer with m = 3 outputs and n = 2 inputs,
# and check the shapes on paper before you write the line.


# %%
def update(B, A, alpha):
    """ΔW = (alpha / r) B A.

    B (m, r), A (r, n), alpha a number; returns an array (m, n).
    """
    # BEGIN SOLUTION
    return alpha / A.shape[0] * (B @ A)
    # END SOLUTION


# %% [markdown]
# ## 2. How many numbers are trained?
#
# A full update of an m x n layer trains m n numbers. How many does LoRA train?


# %%
def trainable(m, n, rank):
    """The number of trained entries of one LoRA layer, an integer."""
    # BEGIN SOLUTION
    return rank * (m + n)
    # END SOLUTION


# %% tags=["experiment"]
for rank in (1, 8, 64):
    print(f"rank {rank}: {trainable(768, 768, rank):,} of {768 * 768:,}")

# %% [markdown]
# ## 3. The start
#
# Training must begin at the model as it is: with $\Delta W = 0$, *exactly*. And it must be able to
# leave. LoRA's own code sets $B = 0$ and draws $A$ at random. Why not both zero? That is section 4.


# %%
def start(m, n, rank, seed):
    """Factors (B (m, r), A (r, n)) to begin with.

    B zero, A normal with standard deviation 1/√n from `seed`.
    """
    # BEGIN SOLUTION
    rng = np.random.default_rng(seed)
    return np.zeros((m, rank)), rng.normal(size=(rank, n)) / np.sqrt(n)
    # END SOLUTION


# %% [markdown]
# ## 4. The first step
#
# Let a loss $L$ depend on $\Delta W$, and let $G = \partial L / \partial \Delta W$ (m, n) be known.
# With the scale 1, the chain rule gives the gradients of the two factors,
#
# $$\frac{\partial L}{\partial B} = G A^\top, \qquad \frac{\partial L}{\partial A} = B^\top G .$$
#
# Check the shapes on paper. Gradient descent subtracts from each factor the learning rate times its
# gradient. Both gradients are taken *before* anything moves.


# %%
def first_step(B, A, G, lr):
    """(B, A) after one step of gradient descent with the learning rate lr, at the scale 1.

    B (m, r), A (r, n), G = ∂L/∂ΔW (m, n), lr a number; returns two new arrays.
    """
    # BEGIN SOLUTION
    return B - lr * G @ A.T, A - lr * B.T @ G
    # END SOLUTION


# %% [markdown]
# Now predict, without taking the step. Which of the two factors moves, for almost every $G$? Think
# of three starts: both zero, only $B$ zero, and neither zero. Then run the cell below it.


# %%
def who_moves(B, A):
    """(whether B moves, whether A moves) in a step along almost every G: two booleans.

    B (m, r), A (r, n).
    """
    # BEGIN SOLUTION
    return bool(A.any()), bool(B.any())
    # END SOLUTION


# %% tags=["experiment"]
rng = np.random.default_rng(0)
target, thin, tall = rng.normal(size=(6, 8)), rng.normal(size=(2, 8)), rng.normal(size=(6, 2))
starts = {
    "both zero": (0 * tall, 0 * thin),
    "B zero": (0 * tall, thin / np.sqrt(8)),
    "A zero": (tall / np.sqrt(2), 0 * thin),
}
for name, (B, A) in starts.items():
    losses = []
    for _ in range(200):
        losses.append(0.5 * ((B @ A - target) ** 2).sum())
        B, A = first_step(B, A, B @ A - target, 0.05)
    print(
        f"{name:9}: loss {losses[0]:.2f} at first, {losses[1]:.2f} a step later, {losses[-1]:.2f}"
    )

# %% [markdown]
# ## 5. The forward pass, factored
#
# For inputs $x$ of shape (T, n), one row a token, the layer answers $x W^\top$ of shape (T, m).
# While we train we do not form $\Delta W$: we multiply by $A^\top$ first, then by $B^\top$.


# %%
def forward(x, W0, B, A, alpha):
    """x W0ᵀ + (alpha / r) (x Aᵀ) Bᵀ, without forming an (m, n) update.

    x (T, n), W0 (m, n), B (m, r), A (r, n); returns (T, m).
    """
    # BEGIN SOLUTION
    return x @ W0.T + alpha / A.shape[0] * ((x @ A.T) @ B.T)
    # END SOLUTION


# %% [markdown]
# How many multiplications does the adapter add for T tokens in this order? Count those of the two
# products, and not those with $s$. (Multiplying $B A$ first would cost m n r for the product
# alone.)


# %%
def multiplications(m, n, rank, tokens):
    """Multiplications of (x Aᵀ) Bᵀ for that many tokens, an integer."""
    # BEGIN SOLUTION
    return tokens * rank * (m + n)
    # END SOLUTION


# %% [markdown]
# ## 6. Merging
#
# After training, $W_0 + \Delta W$ is one matrix, and the layer costs what it did before. The new
# matrix must have the precision of $W_0$. Half precision (`float16`) has 11 binary digits, so it
# matters *how often* you round: form the sum in `float64`, and round once.


# %%
def merge(W0, delta):
    """W0 + delta, formed in float64 and rounded once to the dtype of W0; W0 itself stays as it is.

    W0 (m, n) of any float dtype, delta (m, n) in float64; returns a new array (m, n).
    """
    # BEGIN SOLUTION
    return (W0.astype(np.float64) + delta).astype(W0.dtype)
    # END SOLUTION


# %% [markdown]
# ## 7. And back
#
# Some libraries undo a merge by subtracting $\Delta W$ again. In floating point that does not give
# $W_0$ back:


# %% tags=["experiment"]
W0 = np.random.default_rng(0).normal(size=1000).astype(np.float16)
delta = np.random.default_rng(1).normal(size=1000) / 10
back = (merge(W0, delta).astype(np.float64) - delta).astype(np.float16)
print(f"{(back != W0).mean():.1%} of the weights are not what they were")

# %% [markdown]
# Write a layer that keeps what it needs, so that `unmerge` restores every bit. Merging twice is
# merging once.


# %%
class Layer:
    """A weight that can be merged and unmerged.

    `Layer(W0, delta)`, then `.merge()`, `.unmerge()`, `.weight`.
    """

    def __init__(self, W0, delta):
        # BEGIN SOLUTION
        self.W0, self.delta = W0, delta
        self.weight = W0
        # END SOLUTION

    def merge(self):
        """From now on `.weight` is W0 + delta.

        As in section 6, formed in float64 and rounded once to the dtype of W0.
        """
        # BEGIN SOLUTION
        self.weight = (self.W0.astype(np.float64) + self.delta).astype(self.W0.dtype)
        # END SOLUTION

    def unmerge(self):
        """From now on `.weight` is W0 again, bit for bit."""
        # BEGIN SOLUTION
        self.weight = self.W0
        # END SOLUTION


# %% [markdown] tags=["rubric"]
# ## 8. In your own words (marked by your teacher, 4 points)
#
# **a.** Someone starts with $B$ and $A$ both drawn at random, "so that training moves at once".
# What happens to the model before the first step, and why is that worse than a start at which
# nothing changes? (2 points)
#
# **b.** You merge an adapter into a `float16` model, and a colleague finds that a third of the
# weights did not change at all. Is that a bug? What would you tell her to look at? (2 points)
#
# | points | what the answer has |
# |:--|:--|
# | 2 | the mechanism, and what one would measure to see it |
# | 1 | the right direction without the mechanism |
# | 0 | a guess, or an answer that would also fit the opposite |

# %% tags=["experiment"]
# Your answers, as comments or in a Markdown cell:

# %% [markdown] tags=["instructor"]
# ### What it teaches
#
# Shapes and scale of an update; why one factor, and only one, starts at zero; factored against
# merged; round once, keep $W_0$. Students need matrix products, the chain rule as it is given, and
# NumPy; no training, no PyTorch.
#
# ### Where they stumble
#
# - *Scale.* alpha alone, 1/r, alpha/√r, alpha/m (`B.shape[0]`): the check on scaling names the
#   scale that it found. It looks at one entry, where every way to multiply the two factors agrees;
#   the check on the product takes any multiple of B A. So each mistake costs its own check.
# - *The step in two lines.* `B = B - lr * G @ A.T` first, and then a gradient by A from the *new*
#   B: from B = 0 both factors move then. Ask what the experiment of section 4 would show.
# - *Two factors at zero.* Most students know that the gradient is zero there. Fewer see that it
#   stays so: the next step begins at the same point. And from B = 0 it is A, the factor that is
#   *not* zero, that rests in the first step: which gradient contains which factor?
# - *Merging in place* (`W0 += delta`): the grader passes copies and says that an argument was
#   changed. One check, for all functions, is about that.
# - *Rounding delta first*: `W0 + delta.astype(W0.dtype)` rounds twice. The example has one entry on
#   which the two differ by the last bit: 1 + 2⁻¹¹(1 + 2⁻¹³).
# - *Unmerge by subtraction*: loses bits on some of the entries, which the experiment of section 7
#   counts; discuss why no tolerance belongs in that test.
# - *A function without `return`* costs all checks of its value: nothing came back.
#
# ### Written answers
#
# a: random noise disturbs the pretrained output, and the first steps have to undo it; measure the
# loss before step 1.
# b: no bug. An update smaller than half the distance to the neighbouring float is rounded away;
# compare the size of the update with that distance, or read perakit's merge report.
#
# ### In class
#
# Five minutes on the experiment of section 4: which of the three lines shows one loss three times,
# and why?
#
# Twenty minutes on the experiment of section 7: let them predict the percentage first. Written
# answer (b) has a follow-up in notebook 09, where the share of unchanged weights is drawn against
# the size of the update.

# %% tags=["checks"]
import numpy as np
from hypothesis import strategies as st

from perakit.classroom import arrays, check, expect, expect_equal, fail, parts, show

sizes = {"m": st.integers(1, 9), "n": st.integers(1, 9), "rank": st.integers(1, 4)}
seed = st.integers(0, 9)
alphas = st.integers(1, 8).map(float)
factors, matrices = {"B": "m r", "A": "r n"}, {"W0": "m n", "delta": "m n"}
drawn = st.fixed_dictionaries
# Not symmetric, so that a forgotten transpose shows; square, so that it raises nothing.
S = np.array([[1.0, 2.0], [4.0, 3.0]])


# --- a product and its scale, apart ---------------------------------------------------------------


def ratio(got, unit):
    """The number c with got = c·unit; None where there is none."""
    try:
        got = np.asarray(got, dtype=float)
    except (TypeError, ValueError):
        return None
    if got.shape != unit.shape:
        return None
    size = np.sum(unit * unit)
    c = np.sum(got * unit) / size if size else 1.0
    fits = np.abs(got - c * unit).max() <= 1e-9 * max(1.0, np.abs(got).max())
    return c if fits and c else None


def expect_multiple(got, unit, name):
    """Fail unless got = c·unit for one number c that is not zero."""
    expect_equal(got, unit, np.inf)  # its kind and its shape
    expect(
        ratio(got, unit) is not None,
        f"expected a multiple of {name} = {show(unit)} got {show(got)}",
    )


def times(example):
    """With alpha a multiple of r, so that a scale that is rounded to a whole number is not 0."""
    return example | {"alpha": example["alpha"] * len(example["A"])}


def unit(rows, columns):
    """A single 1, in the corner.

    Of two such matrices every product has it there, also the wrong ones.
    """
    matrix = np.zeros((rows, columns))
    matrix[0, 0] = 1
    return matrix


def units(*shapes):
    """Examples B (m, r) and A (r, m) of that kind, and alpha; shapes: pairs (m, r)."""
    given = drawn({"shape": st.sampled_from(shapes), "alpha": alphas})

    def example(one):
        m, r = one["shape"]
        return {"B": unit(m, r), "A": unit(r, m), "alpha": one["alpha"]}

    return given.map(example)


# Where m or r is 1, even A @ B and B * A raise nothing
THIN = ((1, 1), (1, 2), (1, 3), (2, 1), (3, 1))
SCALES = {
    "1: neither alpha nor r is in it": lambda alpha, r, m: 1,
    "alpha: r is not in it": lambda alpha, r, m: alpha,
    "1/r: alpha is not in it": lambda alpha, r, m: 1 / r,
    "alpha·r": lambda alpha, r, m: alpha * r,
    "r/alpha": lambda alpha, r, m: r / alpha,
    "alpha/√r": lambda alpha, r, m: alpha / np.sqrt(r),
    "alpha/r²": lambda alpha, r, m: alpha / r**2,
    "(alpha/r)²": lambda alpha, r, m: (alpha / r) ** 2,
    "-alpha/r": lambda alpha, r, m: -alpha / r,
    "alpha/m or alpha/n": lambda alpha, r, m: alpha / m,
    "alpha/r without its decimals": lambda alpha, r, m: alpha // r,
}


def named(scale):
    """Which of `SCALES` that function of (alpha, r, m) is, as the end of a sentence."""
    probes = ((3.0, 2, 1), (8.0, 3, 1), (5.0, 1, 3))
    got = [scale(*probe) for probe in probes]
    for name, known in SCALES.items():
        if np.allclose(got, [known(*probe) for probe in probes], rtol=1e-6):
            return f": your scale seems to be {name}"
    return ""


def corner(got):
    """The scale, where both factors are `unit`; nan for an answer without numbers."""
    try:
        return np.ravel(np.asarray(got, dtype=float))[0]
    except (TypeError, ValueError, IndexError):
        return np.nan


def expect_scale(got, expected, alpha, r, others):
    """Fail unless the corner has alpha/r.

    others: the scale as a function of (alpha, r, m), to find its name; None: where it has none.
    """
    if got is None:
        expect_equal(got, expected)
    # Whether it was rounded to float32 is not the question here
    if not abs(corner(got) - alpha / r) <= 1e-6 * alpha:
        fail(f"expected {show(expected)} got {show(got)}{named(others) if others else ''}")


@check(
    3,
    "the update is a multiple of B A",
    "update",
    examples=arrays(**factors, alpha=st.integers(1, 3).map(float)).map(times),
    hint="which factor comes first, and which sign is the matrix product?",
)
def product(work, B, A, alpha):
    expect_multiple(work.update(B, A, alpha), B @ A, "B A")


@check(
    2,
    "scaling is alpha/r",
    "update",
    examples=units(*THIN),
    hint="which size of which matrix is r?",
)
def scaling(work, B, A, alpha):
    def scale(alpha, r, m):
        return corner(work.update(unit(m, r), unit(r, m), alpha))

    r = len(A)
    expect_scale(work.update(B, A, alpha), alpha / r * (B @ A), alpha, r, scale)


@check(
    1,
    "every trained entry is counted once",
    "trainable",
    examples=drawn(sizes),
    hint="what are the shapes of B and of A?",
)
def count(work, m, n, rank):
    expect_equal(work.trainable(m, n, rank), rank * (m + n))


# --- the start ------------------------------------------------------------------------------------


def start(work, m, n, rank, seed):
    """The student's B and A."""
    got = parts(work.start(m, n, rank, seed), "B", "A")
    try:
        return tuple(np.asarray(factor, dtype=float) for factor in got)
    except (TypeError, ValueError):
        fail(f"expected two arrays, (B, A), got {show(got)}")


def sorted_start(work, m, n, rank, seed):
    """B and A, also where they come as (A, B): their order is a check of its own."""
    first, second = start(work, m, n, rank, seed)
    turned = (first.shape, second.shape) == ((rank, n), (m, rank))
    return (second, first) if turned else (first, second)


@check(
    1,
    "B is (m, r) and A is (r, n), in this order",
    "start",
    examples=drawn(sizes | {"seed": seed}),
    count=20,
    hint="as in the update: B A is (m, n)",
)
def shapes(work, m, n, rank, seed):
    B, A = start(work, m, n, rank, seed)
    expect(
        (B.shape, A.shape) == ((m, rank), (rank, n)),
        f"expected shapes {(m, rank)} and {(rank, n)} got {B.shape} and {A.shape}",
    )


@check(
    1,
    "B is zero: at the start nothing changes",
    "start",
    examples=drawn({"seed": seed}),
    count=5,
    hint="one factor is zero, the other is drawn: which?",
)
def no_change(work, seed):
    B, _ = sorted_start(work, 2, 3, 1, seed)
    expect(not B.any(), f"m = 2, n = 3, r = 1: expected B = 0 got {show(B)}")


@check(
    1,
    "and the update can leave zero",
    "start",
    examples=drawn({"seed": seed}),
    count=5,
    hint="∂L/∂B contains A, and ∂L/∂A contains B",
)
def can_move(work, seed):
    B, A = start(work, 7, 11, 2, seed)
    expect(np.any(A) or np.any(B), "B and A are both zero: then both gradients are zero for ever")


@check(
    1,
    "A has standard deviation 1/√n",
    "start",
    examples=drawn({"seed": seed}),
    count=5,
    hint="what is the standard deviation of c·x, if that of x is 1?",
)
def spread(work, seed):
    m, n, rank = 5, 400, 30
    _, A = sorted_start(work, m, n, rank, seed)
    got = np.std(A)
    known = {"1": 1, "√n": np.sqrt(n), "1/n, the variance": 1 / n}
    known |= {"1/√r": rank**-0.5, "1/r": 1 / rank, "1/√m": m**-0.5}
    near = [f" That is about {name}." for name, value in known.items() if 0.9 < got / value < 1.1]
    expect(
        not np.any(A) or 0.9 < got * np.sqrt(n) < 1.1,
        f"m = {m}, n = {n}, r = {rank}: expected 1/√{n} = {n**-0.5:g} got {got:.3g}."
        + "".join(near),
    )


@check(
    1,
    "the seed decides the start",
    "start",
    examples=drawn({"seed": seed}),
    count=5,
    hint="draw from a generator that is made from `seed`, inside of the function",
)
def seeded(work, seed):
    firsts, agains, others = (start(work, 3, 4, 2, k) for k in (seed, seed, seed + 1))
    for first, again in zip(firsts, agains, strict=True):
        expect(np.array_equal(first, again), "the same seed gives different factors")
    expect(
        not any(map(np.any, firsts)) or not all(map(np.array_equal, firsts, others)),
        f"the seeds {seed} and {seed + 1} give the same factors: is `seed` used?",
    )


# --- the first step -------------------------------------------------------------------------------


def moves(work, B, A, G, lr):
    """By how much B and A move, also where (A, B) come back, or the changes alone."""
    rest = parts(work.first_step(B, A, 0 * G, lr), "B", "A")
    there = parts(work.first_step(B, A, G, lr), "B", "A")
    turned = ratio(parts(work.first_step(S, S + 1, 0 * S, 1.0), "B", "A")[0], S + 1) == 1
    both = []
    for before, after, like in zip(rest, there, (A, B) if turned else (B, A), strict=True):
        expect_equal(before, like, np.inf)
        expect_equal(after, like, np.inf)
        both.append(np.asarray(after, dtype=float) - np.asarray(before, dtype=float))
    return both[::-1] if turned else both


rates = st.sampled_from([0.5, 2.0])
square = {"B": "k k", "A": "k k", "G": "k k"}


@check(
    2,
    "each factor moves by -lr times its gradient",
    "first_step",
    examples=arrays(**factors, G="m n", lr=rates),
    count=40,
    hint="∂L/∂B = G Aᵀ and ∂L/∂A = Bᵀ G; downhill is against the gradient",
)
def step(work, B, A, G, lr):
    # From B = 0 a gradient that sees the new B or the new A is the same for B; from A = 0, for A
    of_B = "from B = 0, the change of B", moves(work, 0 * B, A, G, lr)[0], -lr * G @ A.T
    of_A = "from A = 0, the change of A", moves(work, B, 0 * A, G, lr)[1], -lr * B.T @ G
    for what, got, expected in (of_B, of_A):
        c = ratio(got, expected)
        if c is not None and abs(c - 1) > 1e-6:
            fail(
                f"{what}: expected {show(expected)} got {show(got)}, which is {c:g} times that"
                + (": uphill" if c < 0 else "")
            )
        expect_equal(got, expected, 1e-6, what)


@check(
    1,
    "with G = 0 the factors come back, as (B, A)",
    "first_step",
    examples=arrays(**square, lr=rates),
    count=10,
    hint="the new factors are the old ones and a change",
)
def step_base(work, B, A, G, lr):
    got = parts(work.first_step(B, A, 0 * G, lr), "B", "A")
    expect_equal(got[0], B, what="with G = 0, B")
    expect_equal(got[1], A, what="with G = 0, A")


@check(
    1,
    "both gradients are those of the old factors",
    "first_step",
    examples=arrays(**square, lr=rates),
    count=30,
    hint="what is in `B`, or in `A`, at the moment when you use it?",
)
def step_old(work, B, A, G, lr):
    # The change of B has no B in it, and that of A no A: compare with those from zero
    got, of_B, of_A = (moves(work, *two, G, lr) for two in ((B, A), (0 * B, A), (B, 0 * A)))
    for name, other, mine, alone in (("B", "A", got[0], of_B[0]), ("A", "B", got[1], of_A[1])):
        expect(
            np.abs(mine - alone).max() <= 1e-6,
            f"{name} changes by {show(mine)}, and from {name} = 0 by {show(alone)}: its gradient"
            f" has no {name} in it. Was {other} already the new one?",
        )


@check(
    1,
    "two factors at zero never move",
    "who_moves",
    examples=drawn(sizes),
    count=10,
    hint="put B = 0 and A = 0 into both gradients",
)
def zeros_stay(work, m, n, rank):
    got = work.who_moves(np.zeros((m, rank)), np.zeros((rank, n)))
    expect_equal(got, (False, False), what="B = 0 and A = 0")


def one_zero(example):
    """With the factor that is named set to zero: by chance it would seldom be."""
    return {name: example[name] * (example["zero"] != name) for name in ("B", "A")}


@check(
    1,
    "else each factor moves if its gradient is not zero",
    "who_moves",
    examples=arrays(**factors, zero=st.sampled_from("BA-"))
    .map(one_zero)
    .filter(lambda example: example["B"].any() or example["A"].any()),
    count=30,
    hint="which factor is in the gradient of B, and which in that of A?",
)
def movers(work, B, A):
    expect_equal(work.who_moves(B, A), (bool(A.any()), bool(B.any())))


# --- the forward pass -----------------------------------------------------------------------------


def frozen_is_right(work):
    """On square matrices, where a forgotten transpose raises nothing."""
    got = work.forward(S, S + 1, 0 * S, S, 2.0)
    return ratio(got, S @ (S + 1).T) == 1


def product_is_right(work):
    """Up to a multiple, on square matrices."""
    got = work.forward(S, 0 * S, S + 1, S + 5, 2.0)
    return ratio(got, S @ (S + 5).T @ (S + 1).T) is not None


@check(
    1,
    "with B = 0 the frozen layer answers",
    "forward",
    examples=arrays(x="T k", W0="k k", A="k k", alpha=alphas),
    count=30,
    hint="look at the transpose of W0, and at what you multiply by the scale",
)
def forward_frozen(work, x, W0, A, alpha):
    expect_equal(work.forward(x, W0, 0 * A, A, alpha), x @ W0.T, what="with B = 0")


@check(
    1,
    "with W0 = 0 it is a multiple of x Aᵀ Bᵀ",
    "forward",
    examples=arrays(x="T n", **factors, alpha=st.integers(1, 3).map(float)).map(times),
    hint="one row of x is one token: what are the shapes of x, A and B?",
)
def forward_product(work, x, B, A, alpha):
    if len({*x.shape, *B.shape, *A.shape}) > 1 and not frozen_is_right(work):
        return  # x @ W0 raises here: that is the check above
    W0 = np.zeros((len(B), A.shape[1]))
    expect_multiple(work.forward(x, W0, B, A, alpha), x @ A.T @ B.T, "x Aᵀ Bᵀ")


@check(
    1,
    "the forward pass scales by alpha/r",
    "forward",
    examples=units(*THIN, (2, 2), (3, 3)),
    hint="only the adapter is scaled, as in `update`: where is r?",
)
def forward_scale(work, B, A, alpha):
    def answer(B, A, alpha):
        return work.forward(unit(1, len(B)), np.zeros((len(B), len(B))), B, A, alpha)

    def scale(alpha, r, m):
        return corner(answer(unit(m, r), unit(r, m), alpha))

    thin = B.shape[0] != B.shape[1]
    if thin and not product_is_right(work):
        return  # x @ A raises here: that is the check above
    r = len(A)
    expected = alpha / r * unit(1, len(B))
    known = scale if product_is_right(work) else None
    expect_scale(answer(B, A, alpha), expected, alpha, r, known)


@check(
    1,
    "B A is never formed",
    "forward",
    examples=drawn({"power": st.integers(20, 30)}),
    count=5,
    hint="what do you multiply first? In B A the 1 is lost beside the large number",
)
def forward_factored(work, power):
    large = 10.0**power
    # B A = [[large + 1, large - 1], [1, 1]], in which the 1 is rounded away; x Aᵀ = [[0, 2]].
    # All are symmetric, so that a forgotten transpose does not show.
    x, A, B = np.array([[1.0, -1.0]]), np.array([[1.0, 1], [1, -1]]), np.array([[large, 1], [1, 0]])
    got = np.asarray(work.forward(x, np.zeros((2, 2)), B, A, 2.0))
    expect(
        got.shape == (1, 2) and got[0, 0] != 0,
        f"x = {show(x)}, A = {show(A)}, B = [[1e{power},1],[1,0]], alpha = 2: expected [[2.,0.]]"
        f" got {show(got)}",
    )


@check(
    1,
    "both products are counted, in this order",
    "multiplications",
    examples=drawn(sizes | {"tokens": seed}),
    hint="x Aᵀ is (T, n) times (n, r): each of its T r entries needs n multiplications",
)
def cost(work, m, n, rank, tokens):
    expect_equal(work.multiplications(m, n, rank, tokens), tokens * rank * (m + n))


# --- merging --------------------------------------------------------------------------------------


@check(
    1,
    "merging adds",
    "merge",
    examples=arrays(**matrices),
    count=40,
    hint="entry by entry",
)
def merged(work, W0, delta):
    expect_equal(work.merge(W0, delta), W0 + delta)


@check(
    1,
    "the merged weight has the dtype of W0",
    "merge",
    examples=drawn({"dtype": st.sampled_from(["float16", "float32", "float64"])}),
    count=10,
    hint="which dtype has a float16 array plus a float64 array?",
)
def dtype(work, dtype):
    got = np.asarray(work.merge(np.ones((1, 2), dtype), np.ones((1, 2)))).dtype
    expect(got == dtype, f"W0 is {dtype}: expected {dtype} got {got}")


# W0 = 1 and an update of about half the distance to the next float16: who rounds it first loses the
# last bit.
@check(
    2,
    "the sum is rounded once",
    "merge",
    examples=drawn({"k": st.integers(-3, 3)}),
    hint="form the sum in float64: how often is a number rounded on the way?",
)
def rounding(work, k):
    W0, delta = np.ones((1, 1), np.float16), np.full((1, 1), 2.0**-11 * (1 + k * 2.0**-13))
    expected, got = (W0.astype(float) + delta).astype(np.float16), np.asarray(work.merge(W0, delta))
    expect_equal(got, expected, np.inf)
    if got.dtype != np.float16 or 0 < abs(got.item() - 1) < 2.0**-10:
        return  # the dtype, or the sum, is wrong: those are the checks above
    expect(
        got == expected,
        f"W0 = 1 in float16, delta = {delta.item():.10g}: expected {expected.item():.10g} got"
        f" {got.item():.10g}",
    )


@check(
    2,
    "unmerge restores W0 bit for bit",
    "Layer",
    examples=arrays(**matrices, merges=st.integers(1, 2)),
    hint="a sum that was rounded does not know what it was made from: what must the layer keep?",
)
def restored(work, W0, delta, merges):
    W0, delta = W0.astype(np.float16) / np.float16(3), delta / 0.7
    layer = work.Layer(W0, delta)
    for _ in range(merges):
        layer.merge()
    layer.unmerge()
    expect(
        np.array_equal(layer.weight, W0),
        f"W0/3 in float16, delta/0.7: expected {show(W0)} got {show(layer.weight)}: not every"
        " bit is back",
    )


@check(
    1,
    "merging twice is merging once",
    "Layer",
    examples=arrays(**matrices),
    count=30,
    hint="to what do you add delta the second time?",
)
def twice(work, W0, delta):
    layer = work.Layer(W0, delta)
    layer.merge()
    once = np.array(layer.weight)
    layer.merge()
    expect_equal(layer.weight, once, what="the weight after two merges")


@check(
    1,
    "the weight is W0, and after merge W0 + delta",
    "Layer",
    examples=arrays(**matrices),
    count=30,
    hint="`.weight` is what the layer computes with: who sets it, and when?",
)
def layer_merges(work, W0, delta):
    layer = work.Layer(W0, delta)
    expect_equal(layer.weight, W0, what="before a merge")
    layer.merge()
    expect_equal(layer.weight, W0 + delta, what="after a merge")


@check(
    1,
    "the layer rounds once, to the dtype of W0",
    "Layer",
    examples=arrays(**matrices),
    count=40,
    hint="as in section 6",
)
def layer_rounds(work, W0, delta):
    half, third = W0.astype(np.float16), delta / 3
    layer = work.Layer(half, third)
    before = np.array(layer.weight)
    layer.merge()
    got, expected = np.asarray(layer.weight), (half.astype(float) + third).astype(np.float16)
    if np.array_equal(got, before):
        return  # nothing was merged: that is the check above
    expect(
        got.dtype == np.float16,
        f"W0 is float16, delta/3 in place of delta: expected float16 after a merge got {got.dtype}",
    )
    expect(
        np.array_equal(got, expected),
        f"W0 is float16, delta/3 in place of delta: expected {show(expected)} got {show(got)}",
    )


# --- all functions --------------------------------------------------------------------------------


# The grader sees whether an argument was changed, and says so in the check of this name alone.
@check(
    1,
    "no function changes its arguments",
    "update",
    "first_step",
    "forward",
    "merge",
    hint="`+=` and `*=` on an argument change the caller's array: make a new one",
    alone=True,
)
def untouched(work):
    work.update(S, S + 1, 4.0)
    work.first_step(S, S + 1, S + 2, 0.5)
    work.forward(S, S + 1, S + 2, S + 3, 4.0)
    work.merge(S, S + 1)


def part(got, k):
    """One of several answers; None where there are none: that is for the other checks."""
    return got[k] if isinstance(got, list | tuple) and len(got) > k else None


def rounds(call):
    """Whether call(t) depends on t, but not on its ninth digit."""
    at = [call(t) for t in (1.0, 2.0, 1 - 2.0**-30)]
    return not np.array_equal(at[0], at[1]) and np.array_equal(at[0], at[2])


@check(
    1,
    "nothing is rounded to float32",
    "update",
    "first_step",
    "forward",
    hint="float32 has seven digits, float64 sixteen: which dtype do your arrays have?",
)
def precise(work):
    B, A, G, zero = S, S + 1, S + 2, 0 * S
    calls = {
        "B in update": lambda t: work.update(B * t, A, 2.0),
        "alpha in update": lambda t: work.update(B, A, 2.0 * t),
        "lr in first_step, for B": lambda t: part(work.first_step(B, A, G, t), 0),
        "lr in first_step, for A": lambda t: part(work.first_step(B, A, G, t), 1),
        "x in forward, with B = 0": lambda t: work.forward(G * t, A, zero, A, 2.0),
        "x in forward, with W0 = 0": lambda t: work.forward(G * t, zero, B, A, 2.0),
        "alpha in forward": lambda t: work.forward(G, zero, B, A, 2.0 * t),
    }
    for name, call in calls.items():
        expect(not rounds(call), f"{name}: a change in the ninth digit does not change the answer")
