# %% [markdown]
# # LoRA and merging
#
# A weight matrix $W_0$ (m, n) is frozen. LoRA (arXiv 2106.09685) adds a product of two thin
# matrices to it,
#
# $$W = W_0 + \Delta W, \qquad \Delta W = s\,B A, \qquad s = \alpha / r,$$
#
# with $B$ (m, r), $A$ (r, n) and the rank $r$ much smaller than m and n. Only $B$ and $A$ are
# trained. You will write the update, its start, the two ways to compute a layer's output, and a
# merge that can be undone exactly. It takes about two hours. Notebooks 01 and 09 of perakit prepare
# for it.
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
# leave: if $B$ and $A$ are both zero, both gradients are zero, and nothing ever moves. LoRA's own
# code sets $B = 0$ and draws $A$ at random.


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
# ## 4. The forward pass, factored
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
# ## 5. Merging
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
# ## 6. And back
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

        As in section 5, formed in float64 and rounded once to the dtype of W0.
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
# ## 7. In your own words (marked by your teacher, 4 points)
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
# Shapes and scale of an update; why one factor starts at zero; factored against merged; round once,
# keep $W_0$. Students need matrix products and NumPy; no training, no PyTorch.
#
# ### Where they stumble
#
# - *Scale.* `alpha / B.shape[0]` (m instead of r) passes on square examples; the checks draw
#   others, too. A forgotten scale passes wherever alpha = r, so only the check on scaling sees it.
# - *Merging in place* (`W0 += delta`): the grader passes copies and says that an argument was
#   changed.
# - *Rounding delta first*: `W0 + delta.astype(W0.dtype)` rounds twice. The example has one entry on
#   which the two differ by the last bit: 1 + 2⁻¹¹(1 + 2⁻¹³).
# - *Unmerge by subtraction*: loses bits on some of the entries, which the experiment of section 6
#   counts; discuss why no tolerance belongs in that test.
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
# Twenty minutes on the experiment of section 6: let them predict the percentage first. Written
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
layer = {"x": "T n", **factors, "alpha": alphas}
drawn = st.fixed_dictionaries


@check(
    3,
    "with alpha = r the update is B A",
    "update",
    examples=arrays(**factors),
    hint="the matrix product is @, and with alpha = r the scale is 1",
)
def product(work, B, A):
    expect_equal(work.update(B, A, float(len(A))), B @ A)


@check(
    2,
    "scaling is alpha/r",
    "update",
    examples=arrays(**factors, alpha=alphas),
    hint="r is the number of rows of A",
)
def scaling(work, B, A, alpha):
    # Right or wrong: here only its size counts
    unit = np.asarray(work.update(B, A, float(len(A))), dtype=float)
    expect_equal(work.update(B, A, alpha), alpha / len(A) * unit)


@check(
    1,
    "r(m+n) numbers are trained",
    "trainable",
    examples=drawn(sizes),
    hint="B has m r entries; and A?",
)
def count(work, m, n, rank):
    expect_equal(work.trainable(m, n, rank), rank * (m + n))


def start(work, m, n, rank, seed):
    """The student's B and A."""
    got = parts(work.start(m, n, rank, seed), "B", "A")
    try:
        return tuple(np.asarray(factor, dtype=float) for factor in got)
    except (TypeError, ValueError):
        fail(f"expected two arrays, (B, A), got {show(got)}")


@check(
    1,
    "at the start nothing changes",
    "start",
    examples=drawn(sizes | {"seed": seed}),
    hint="B starts at zero",
)
def no_change(work, m, n, rank, seed):
    B, A = start(work, m, n, rank, seed)
    expect(
        (B.shape, A.shape) == ((m, rank), (rank, n)),
        f"expected shapes {(m, rank)} and {(rank, n)} got {B.shape} and {A.shape}",
    )
    expect(not (B @ A).any(), f"expected B A = 0 got {show(B @ A)}")


@check(
    1,
    "and the update can leave zero",
    "start",
    examples=drawn({"seed": seed}),
    hint="∂L/∂B contains A, which must not be zero",
)
def can_move(work, seed):
    _, A = start(work, 7, 11, 2, seed)
    expect(np.any(A), "A is zero: with B = 0 as well, both gradients are zero for ever")


@check(
    1,
    "A has standard deviation 1/√n",
    "start",
    examples=drawn({"seed": seed}),
    count=5,
    hint="rng.normal has standard deviation 1",
)
def spread(work, seed):
    _, A = start(work, 5, 400, 20, seed)
    expect(
        not np.any(A) or 0.9 < np.std(A) * 20 < 1.1, f"expected 1/√400 = 0.05 got {np.std(A):.3g}"
    )


@check(
    1,
    "the seed decides the start",
    "start",
    examples=drawn({"seed": seed}),
    hint="np.random.default_rng(seed)",
)
def seeded(work, seed):
    (_, first), (_, again), (_, other) = (start(work, 3, 4, 2, k) for k in (seed, seed, seed + 1))
    expect(np.array_equal(first, again), "the same seed gives different factors")
    expect(
        not np.any(first) or not np.array_equal(first, other),
        f"the seeds {seed} and {seed + 1} give the same A: is `seed` used?",
    )


@check(
    1,
    "factored forward = forward with W0 + B A",
    "forward",
    examples=arrays(x="T n", W0="m n", **factors),
    hint="y = x Wᵀ: transpose both factors",
)
def forward_product(work, x, W0, B, A):
    expect_equal(work.forward(x, W0, B, A, float(len(A))), x @ (W0 + B @ A).T)


@check(
    1,
    "the forward pass scales by alpha/r",
    "forward",
    examples=arrays(x="T n", **factors, alpha=alphas),
    hint="the factor that `update` has",
)
def forward_scale(work, x, B, A, alpha):
    zero = np.zeros((len(B), A.shape[1]))
    unit = np.asarray(work.forward(x, zero, B, A, float(len(A))), dtype=float)
    expect_equal(work.forward(x, zero, B, A, alpha), alpha / len(A) * unit)


@check(
    1,
    "B A is never formed",
    "forward",
    examples=drawn({"power": st.integers(160, 200)}),
    hint="multiply x by Aᵀ first: here B A is too large for a float, and x Aᵀ is 1",
)
def forward_factored(work, power):
    x, A, zero = np.array([[10.0**-power]]), np.array([[10.0**power]]), np.zeros((1, 1))
    expect_equal(work.forward(x, zero, A, A, 1.0), A, what=f"x = 1e-{power}, A = B = 1e{power}")


@check(
    1,
    "the factored pass costs T r (m+n)",
    "multiplications",
    examples=drawn(sizes | {"tokens": seed}),
    hint="x Aᵀ: (T, n)(n, r)",
)
def cost(work, m, n, rank, tokens):
    expect_equal(work.multiplications(m, n, rank, tokens), tokens * rank * (m + n))


@check(
    2,
    "merging adds, and leaves W0 alone",
    "merge",
    examples=arrays(**matrices),
    hint="W0 += delta changes the caller's W0",
    alone=True,
)
def merged(work, W0, delta):
    expect_equal(work.merge(W0, delta), W0 + delta)


# W0 = 1 and an update of about half the distance to the next float16: who rounds it first loses the
# last bit.
@check(
    2,
    "the sum is rounded once, to W0's dtype",
    "merge",
    examples=drawn({"k": st.integers(-3, 3)}),
    hint="add in float64, then .astype(W0.dtype)",
)
def rounding(work, k):
    W0, delta = np.ones((1, 1), np.float16), np.full((1, 1), 2.0**-11 * (1 + k * 2.0**-13))
    expected, got = (W0.astype(float) + delta).astype(np.float16), np.asarray(work.merge(W0, delta))
    expect(got.dtype == np.float16, f"W0 is float16: expected float16 got {got.dtype}")
    expect(
        np.array_equal(got, expected),
        f"W0 = 1, delta = {delta.item():.10g}: expected {expected.item():.10g} got"
        f" {got.item():.10g}",
    )
    other = np.asarray(work.merge(W0.astype(np.float32), delta)).dtype
    expect(other == np.float32, f"W0 is float32: expected float32 got {other}")


@check(
    2,
    "unmerge restores W0 bit for bit",
    "Layer",
    examples=arrays(**matrices, merges=st.integers(1, 2)),
    hint="keep W0, not the weight in use; do not subtract",
)
def restored(work, W0, delta, merges):
    W0, delta = W0.astype(np.float16) / np.float16(3), delta / 0.7
    layer = work.Layer(W0, delta)
    for _ in range(merges):
        layer.merge()
    layer.unmerge()
    expect(
        np.array_equal(layer.weight, W0),
        f"expected {show(W0)} got {show(layer.weight)}: not every bit is back",
    )


@check(
    1,
    "merging twice is merging once",
    "Layer",
    examples=arrays(**matrices),
    hint="form the sum from W0, not from the weight in use",
)
def twice(work, W0, delta):
    layer = work.Layer(W0, delta)
    layer.merge()
    once = np.array(layer.weight)
    layer.merge()
    expect_equal(layer.weight, once, what="the weight after two merges")


@check(
    1,
    "merge makes the weight W0 + delta",
    "Layer",
    examples=arrays(**matrices),
    hint="set self.weight in merge",
)
def layer_merges(work, W0, delta):
    layer = work.Layer(W0, delta)
    expect_equal(layer.weight, W0, what="before a merge")
    layer.merge()
    expect_equal(layer.weight, W0 + delta, what="after a merge")
    half, third = W0.astype(np.float16), delta / 3
    layer = work.Layer(half, third)
    layer.merge()
    got, expected = np.asarray(layer.weight), (half.astype(float) + third).astype(np.float16)
    expect(
        got.dtype == np.float16,
        f"W0 is float16, delta/3 in place of delta: expected float16 after a merge got {got.dtype}",
    )
    expect(
        np.array_equal(got, expected),
        f"W0 is float16, delta/3 in place of delta: expected {show(expected)} got {show(got)}",
    )
