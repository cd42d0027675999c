# %% [markdown]
# # A fair fine-tuning comparison
#
# Two methods were trained, and one number is smaller. Is that method better? You will write the
# parts of an honest comparison: equal budgets, a learning rate chosen without a look at the test
# text, an interval from paired seeds, a verdict that does not claim too much, and a number that
# says how far PERA (arXiv 2604.11841) has become something else than LoRA (arXiv 2106.09685) at
# all. At the end you put your functions to work on a small GPT-2. It takes about two hours.
# Notebook 10 of perakit prepares for it; from weeks 1 and 2 you need the two update rules.
#
# Replace each `raise NotImplementedError` by your code. Keep the names and the arguments of the
# functions. Use NumPy, and SciPy where the text says so. A function leaves its arguments as they
# are. Run `perakit grade` on this file as often as you like: it shows the smallest input that
# breaks your function. Cells with the tag `experiment` are yours: the grader does not run them.

# %%
import numpy as np
from scipy import stats

# %% [markdown]
# ## 1. Equal budgets
#
# A method that trains more numbers may win for that reason alone. So count first. On one m x n
# layer LoRA of rank r trains $B$ (m, r) and $A$ (r, n). PERA trains these two and one coefficient
# $h_{ij}$ for each pair $i \le j$ of the r columns (arXiv 2604.11841, Eq. 9). A model has many
# layers, each with factors and coefficients of its own.


# %%
def numbers(layers, rank):
    """How many numbers LoRA and PERA of that rank train: a pair of integers (lora, pera).

    layers: a list of shapes (m, n), one for each adapted layer.
    """
    # BEGIN SOLUTION
    lora = sum(rank * (m + n) for m, n in layers)
    pera = sum(rank * (m + n) + rank * (rank + 1) // 2 for m, n in layers)
    return lora, pera
    # END SOLUTION


# %% [markdown]
# To be fair to LoRA, give it the highest rank that it can pay for. A rank is a whole number, the
# same in all layers here, and it must not cost more than the budget. If not even rank 1 can be
# paid, the answer is 0.


# %%
def matched_rank(layers, budget):
    """The highest rank at which LoRA trains at most `budget` numbers, an integer.

    The rank is the same in all layers.
    layers: a list of shapes (m, n); budget: an integer >= 0.
    """
    # BEGIN SOLUTION
    return budget // sum(m + n for m, n in layers)
    # END SOLUTION


# %% [markdown]
# Predict before you run: PERA of rank 8 has the budget of LoRA of which rank, in layers of width
# 64, 768 and 4096?

# %% tags=["experiment"]
for width in (64, 768, 4096):
    for rank in (8, 64):
        lora, pera = numbers([(width, width)], rank)
        print(f"width {width}: PERA r={rank} trains {pera:,}, {pera / lora - 1:.2%} more;", end=" ")
        print(f"LoRA can pay for r={matched_rank([(width, width)], pera)}")

# %% [markdown]
# ## 2. One unit for all models
#
# A training loop reports the mean of $-\ln p$ over the tokens of a text, in **nats** per token.
# Tokens are not the same in all models, so a comparison wants **bits per byte**: one bit is $\ln 2$
# nats, and a token stands for several bytes.


# %%
def bits_per_byte(nats, bytes_per_token):
    """Bits per byte, from the cost of a token in nats and the bytes in a token.

    Both are means.
    """
    # BEGIN SOLUTION
    return nats / np.log(2) / bytes_per_token
    # END SOLUTION


# %% [markdown]
# From here on a **score** is a cost in bits per byte: lower is better.
#
# ## 3. Choose on one text, report on another
#
# Each method gets the learning rate that suits it; a rate that was tuned for one method alone
# favours that method. But the best of five test scores is too good, even if all five rates are
# equally good and differ by luck. So the rate is chosen on **validation** text, and the score that
# counts is measured on **test** text that had no part in the choice.
#
# Each run is a row, a dict such as `{"method": "LoRA", "rate": 0.01, "seed": 0, "validation": 2.05,
# "test": 1.98}`. A run that diverged has the score `nan`. A rate at which any seed diverged is not
# chosen. Of the others, the one with the lowest *mean* validation score over its seeds is chosen,
# not the one with the luckiest seed.


# %%
def at_best_rate(rows, method):
    """The rate of `method` that is best on validation, and its test scores.

    A pair (rate, {seed: test score}).
    rows: a list of dicts with the keys method, rate, seed, validation, test; every method has a
    rate without nan.
    """
    # BEGIN SOLUTION
    found = {}
    for row in rows:
        if row["method"] == method:
            found.setdefault(row["rate"], []).append(row["validation"])
    means = {rate: np.mean(scores) for rate, scores in found.items() if np.isfinite(scores).all()}
    best = min(means, key=means.get)
    return best, {
        row["seed"]: row["test"] for row in rows if row["method"] == method and row["rate"] == best
    }
    # END SOLUTION


# %% [markdown]
# How much would a choice on test text have flattered a method? Here all rates are equally good:
# every score is 2 bits per byte and noise. Guess the first number before you run the cell.

# %% tags=["experiment"]
draw = np.random.default_rng(0)
for count in (1, 5, 25):
    validation, test = 2 + 0.02 * draw.normal(size=(2, 10_000, count))
    on_test = test.min(axis=1).mean()
    on_validation = np.take_along_axis(test, validation.argmin(axis=1)[:, None], axis=1).mean()
    print(
        f"best of {count:2} rates, mean test score: chosen on test {on_test:.4f}, chosen on"
        f" validation {on_validation:.4f}"
    )

# %% [markdown]
# ## 4. Differences, seed by seed
#
# A **seed** decides the random start and the order of the text. Some orders are kinder than others,
# to every method. If two methods ran on the same N seeds, this common luck cancels in the
# differences
#
# $$d_s = \text{method}_s - \text{baseline}_s.$$
#
# Their mean $\bar d$ comes with Student's 95 % interval,
#
# $$\bar d \pm t \, \frac{\sigma}{\sqrt N}, \qquad \sigma^2 = \frac{1}{N-1} \sum_s (d_s - \bar
# d)^2,$$
#
# where $t$ is the 0.975 quantile of Student's distribution with $N - 1$ degrees of freedom:
# `stats.t.ppf(0.975, N - 1)`. It is 12.7 at N = 2, 4.3 at N = 3, and comes down to 1.96 only for
# many seeds. One seed says nothing about the spread: then the interval is the whole line.


# %%
def paired(method, baseline):
    """Mean of method − baseline over the seeds, and its 95 % interval: a triple (mean, low, high).

    method, baseline: dicts {seed: score} with the same seeds, perhaps not in the same order; with
    one seed low is -np.inf and high np.inf.
    """
    # BEGIN SOLUTION
    d = np.array([method[seed] - baseline[seed] for seed in method])
    mean = d.mean()
    if len(d) == 1:
        return mean, -np.inf, np.inf
    half = stats.t.ppf(0.975, len(d) - 1) * d.std(ddof=1) / np.sqrt(len(d))
    return mean, mean - half, mean + half
    # END SOLUTION


# %% [markdown]
# What pairing is worth: both methods are equally good, and a seed's luck (0.05) is larger than what
# a method adds of its own (0.01). We make 2,000 comparisons with three seeds each, pair them, and
# then pair them wrongly. How often should zero lie outside of a 95 % interval?

# %% tags=["experiment"]
draw = np.random.default_rng(1)
trials = []
for _ in range(2000):
    luck = 2 + 0.05 * draw.normal(size=3)
    first, second = luck + 0.01 * draw.normal(size=(2, 3))
    right = paired(dict(enumerate(first)), dict(enumerate(second)))
    wrong = paired(dict(enumerate(first)), dict(enumerate(np.roll(second, 1))))
    d = first - second
    naive = abs(d.mean()) > 1.96 * d.std() / np.sqrt(3)  # neither N - 1 nor Student
    trials.append((right[2] - right[1], wrong[2] - wrong[1], not right[1] <= 0 <= right[2], naive))
right, wrong, false, naive = np.mean(trials, axis=0)
print(f"mean length of the interval: {right:.3f} if paired by seed, {wrong:.3f} if not")
print(
    f"'differences' between equal methods: {false:.1%} of the intervals; {naive:.1%} with 1.96 and"
    " ddof=0"
)

# %% [markdown]
# ## 5. A verdict
#
# A difference of scores was `method − baseline`, and lower is better. If the whole interval lies
# below zero the method is `"better"`, if it lies above zero `"worse"`. If zero is in it, an end
# point included, the answer is `"no difference shown"`. It is never "equal": an interval from −0.5
# to 0.5 would also fit a large difference.


# %%
def verdict(low, high):
    """The word "better", "worse" or "no difference shown", from the interval (low, high).

    It is that of method − baseline, and low <= high.
    """
    # BEGIN SOLUTION
    if high < 0:
        return "better"
    return "worse" if low > 0 else "no difference shown"
    # END SOLUTION


# %% [markdown]
# ## 6. Is it another method at all?
#
# PERA's update has a linear part, which is LoRA's, and a high-order part:
#
# $$\Delta W = \sum_i b_i a_i^\top + \sum_{i \le j} h_{ij} (b_i \circ b_j)(a_i \circ a_j)^\top$$
#
# (arXiv 2604.11841, Eq. 9). Here $b_i$ are the columns of $B$, $a_i$ the rows of $A$, $\circ$ is
# the elementwise product, and `h` lists the pairs in the order of `np.triu_indices(r)`. The **order
# share** is the Frobenius norm of the second sum divided by that of the first. (The Frobenius norm
# of a matrix is the root of the sum of its squared entries.) At a share near zero the trained PERA
# is, numerically, a LoRA, whatever it is called.


# %%
def order_share(B, A, h):
    """‖high-order part‖ / ‖B A‖ in Frobenius norms, a number.

    B (m, r), A (r, n), with B A not zero; h (r(r+1)/2,).
    """
    # BEGIN SOLUTION
    i, j = np.triu_indices(A.shape[0])
    high = (B[:, i] * B[:, j]) @ (h[:, None] * A[i] * A[j])
    return np.linalg.norm(high) / np.linalg.norm(B @ A)
    # END SOLUTION


# %% [markdown]
# ## 7. A line that can stand alone
#
# Whoever reads one line of your table should not have to ask what it was made from. Collect it in a
# dict with these keys:
#
# | key | value |
# |:--|:--|
# | `"method"`, `"trainable"`, `"order share"` | as given |
# | `"seeds"` | a list of the seeds, in increasing order |
# | `"mean"` | the mean test score over the seeds |
# | `"difference"` | the mean difference from the baseline |
# | `"interval"` | the pair (low, high) of that difference |


# %%
def report(method, trainable, scores, difference, share):
    """The line of one method: a dict with the keys above.

    method: a name; trainable: an integer; scores: a dict {seed: test score}; difference: a triple
    (mean, low, high) as `paired` returns it; share: the order share.
    """
    # BEGIN SOLUTION
    mean, low, high = difference
    return {
        "method": method,
        "trainable": trainable,
        "seeds": sorted(scores),
        "mean": np.mean(list(scores.values())),
        "difference": mean,
        "interval": (low, high),
        "order share": share,
    }
    # END SOLUTION


# %% [markdown]
# ## 8. The comparison
#
# Now a small GPT-2 that was trained on prose learns Python code: two methods, three rates, three
# seeds. Its tokens are bytes. Half of the held-out code is for validation, half for the test.
# Everything that a reader could call unfair is a line at the top: change it, and see what your
# table says then. Add `"PERA x 192": pk.PERA(rank=8, feature_scale=192)` for a PERA whose
# high-order part is multiplied by the width of the model, which is not in the paper. It takes about
# half a minute. Before it has finished, write down what you expect, and what you would believe if
# the opposite came out.

# %% tags=["experiment"]
import contextlib
import io

import torch

import perakit as pk
from perakit.toy import corpus

METHODS = {"LoRA": pk.LoRA(rank=8), "PERA": pk.PERA(rank=8)}  # the first is the baseline
RATES = (3e-3, 1e-2, 3e-2)
SEEDS = (0, 1, 2)
STEPS = 12  # 120 for a larger effect: some minutes

torch.set_num_threads(1)  # in so small a model several threads mostly wait for each other
code = corpus.load("code", limit=100_000)
half = len(code.heldout) // 2
parts = {"validation": code.heldout[:half], "test": code.heldout[half:]}
rows, shares, layers = [], {}, []
for name, method in METHODS.items():
    for rate in RATES:
        print(f"{name}, rate {rate:g}")
        for seed in SEEDS:
            model = pk.toy.load("tiny")
            torch.manual_seed(seed)  # the start; with the same seed both methods draw the same A
            pk.attach(model, method, "all-linear")
            recipe = pk.toy.Recipe(
                steps=STEPS,
                batch=4,
                context=48,
                lr=rate,
                warmup=3,
                seed=seed,
                eval_every=STEPS,
                eval_windows=2,
            )
            with contextlib.redirect_stderr(io.StringIO()):  # of the progress bars
                pk.toy.train(model, code, recipe)
            scores = {
                part: pk.toy.bits_per_byte(model, text, context=48, windows=16)
                for part, text in parts.items()
            }
            rows.append({"method": name, "rate": rate, "seed": seed} | scores)
            # The factors of every layer; the feature scale belongs to h.
            adapters = pk.adapters(model).values()
            layers = [(a.B.shape[0], a.A.shape[1]) for a in adapters]
            factors = [
                [x.detach().numpy() for x in (a.B, a.A, a.h * method.feature_scale)]
                for a in adapters
                if hasattr(a, "h")
            ]
            shares[name, rate, seed] = max((order_share(*three) for three in factors), default=0.0)

# %% [markdown]
# The table. Your functions do all of it: `at_best_rate` chooses, `paired` compares, `numbers`
# counts, `report` collects. The order share is that of the layer where it is largest, in the seed
# where it is largest.

# %% tags=["experiment"]
trained = dict(zip(("LoRA", "PERA"), numbers(layers, 8), strict=True))
_, baseline = at_best_rate(rows, next(iter(METHODS)))
chosen, lines = {}, []
for name in METHODS:
    rate, scores = at_best_rate(rows, name)
    share = max(shares[name, rate, seed] for seed in SEEDS)
    line = report(name, trained[name.split()[0]], scores, paired(scores, baseline), share)
    chosen[f"{name}, rate {rate:g}"] = list(scores.values())
    low, high = line["interval"]
    print(
        f"{name}: {line['trainable']:,} trained, rate {rate:g}, {len(line['seeds'])} seeds,"
        f" {line['mean']:.4f} bits per byte"
    )
    if name != next(iter(METHODS)):
        print(
            f"    minus baseline {line['difference']:+.1e}, 95 % interval {low:+.1e} ..."
            f" {high:+.1e}: {verdict(low, high)}"
        )
        print(f"    largest order share {share:.3%}")
print(f"LoRA can pay for rank {matched_rank(layers, trained['PERA'])} with PERA's budget")

# %% [markdown]
# Before you believe a table, ask it three things. Is a chosen rate the smallest or the largest of
# the sweep? Then the best one may lie outside, and the sweep is not finished. Is the interval short
# enough for the difference that would matter to you? And was there anything that could differ?

# %% tags=["experiment"]
import matplotlib.pyplot as plt

from perakit import plots

figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.8), layout="constrained")
for name, marker in zip(METHODS, "os^v", strict=False):
    means = [
        np.mean([row["validation"] for row in rows if (row["method"], row["rate"]) == (name, rate)])
        for rate in RATES
    ]
    left.semilogx(
        RATES,
        means,
        marker,
        linestyle=":",
        fillstyle="none",
        markersize=11 if marker == "o" else 6,
        label=name,
    )
left.set_xticks(RATES, [f"{rate:g}" for rate in RATES])
left.minorticks_off()
left.set(
    xlabel="learning rate", ylabel="validation, bits per byte", title="The choice: mean over seeds"
)
left.legend()
_ = plots.plot_scores(
    chosen, xlabel="test, bits per byte", title="The result: each dot is one seed", ax=right
)

# %% [markdown] tags=["rubric"]
# ## 9. In your own words (marked by your teacher, 5 points)
#
# **a.** A comparison of LoRA and PERA ends with "no difference shown", and PERA's order share
# is 0.1 %. Name one thing that may be concluded from it, and two that may not. What would you
# change to find out more? (3 points)
#
# **b.** A paper tunes its new method over five learning rates, and takes the baseline's score from
# another paper. Name two reasons why the new method may come out ahead although it is no better,
# and how you would take each of them away. (2 points)
#
# | points | what the answer has |
# |:--|:--|
# | full | conclusions that follow, those that do not, and the experiment that would decide |
# | 1 less | the right conclusion, without the experiment |
# | 1 | a true sentence on statistics that does not use the numbers given |
# | 0 | a verdict on which method is better |

# %% tags=["experiment"]
# Your answers, as comments or in a Markdown cell:

# %% [markdown] tags=["instructor"]
# ### What it teaches
#
# What makes a comparison fair, and how little three seeds say. Students need means and standard
# deviations; Student's quantile is given. No training knowledge: the loop of section 8 is written.
#
# ### Where they stumble
#
# - *Budgets.* At usual widths the matched rank is r itself: PERA's r(r+1)/2 numbers do not buy a
#   further rank, which costs m + n. A budget is "at or below": `round` gives LoRA too much.
# - *The sweep.* Choosing by `row["test"]` is the mistake that the experiment of section 3 makes
#   visible. `np.nanmean` hides a run that diverged: a rate that fails one time in three is not a
#   good rate. `min` over all rows picks the luckiest seed.
# - *Student.* NumPy's `std` has `ddof=0` by default; 1.96 is the quantile for many seeds. The check
#   shows two seeds, where the right interval is nine times as long as with both mistakes.
# - *Pairing.* `sqrt(var(x)/N + var(y)/N)` is the unpaired interval: correct for independent runs,
#   far too long here. Two dicts with the same seeds in another order are a trap for
#   `zip(x.values(), y.values())`.
# - *Verdict.* "equal" is never an answer. With one seed the interval is the whole line, and the
#   verdict follows by itself.
#
# ### Written answers
#
# a: May be concluded: at this start, rate and length of training, on this text, PERA did the same
# as LoRA, and the share says why: its update *was* LoRA's to 0.1 %, so the high-order terms were
# not tested. Not: that high-order terms are useless (they were hardly there); that the methods are
# equal (the interval has a length); that larger models, longer runs or other starts behave alike.
# To find out more: more seeds for a shorter interval; runs in which the share is large
# (`feature_scale`, a larger rate for h), compared with LoRA again; a target that is known to be
# polynomial. Whether PERA's high-order terms bring a gain is an open question; full points do not
# depend on an opinion about it.
#
# b: Tuned against untuned (give both the same sweep); the best of five on the test text (choose on
# validation); other seeds, data order, budget, code or evaluation windows (run the baseline
# yourself, paired). Any two with their remedy.
#
# ### In class
#
# Let half of the class run section 8 with the seeds 0, 1, 2 and the other half with 3, 4, 5, and
# collect the verdicts on the board before anybody argues. Then change `STEPS`, add the scaled PERA,
# and ask what may now be said. Do not announce an expected result: the table is what it is.

# %% tags=["checks"]
import math
import statistics

import numpy as np
from hypothesis import strategies as st
from scipy import stats

from perakit.classroom import check, expect, expect_equal, show

drawn = st.fixed_dictionaries
shapes = st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=3)
RATES = (0.001, 0.01, 0.1)


def scores(count, least=0, most=6):
    """Whole scores."""
    return st.lists(st.integers(least, most), min_size=count, max_size=count)


def pair_of(least, most):
    """Scores of two methods on the same seeds."""
    return st.integers(least, most).flatmap(
        lambda count: drawn({"method": scores(count), "baseline": scores(count)})
    )


def vary(method, baseline):
    """Whether the differences do.

    An interval around equal ones has no length, and SciPy calls it nan.
    """
    return len({m - b for m, b in zip(method, baseline, strict=True)}) > 1


def by_seed(values):
    return {seed: float(value) for seed, value in enumerate(values)}


def table(method, validation, test=None):
    """Rows of one method: validation[rate][seed], and the same for test.

    By default the two are the same.
    """
    return [
        {
            "method": method,
            "rate": rate,
            "seed": seed,
            "validation": float(score),
            "test": float(test[k][seed] if test else score),
        }
        for k, (rate, found) in enumerate(zip(RATES, validation, strict=False))
        for seed, score in enumerate(found)
    ]


def compared(work, method, baseline):
    """The student's mean, low and high."""
    got = work.paired(by_seed(method), by_seed(baseline))
    expect(
        isinstance(got, tuple | list) and len(got) == 3,
        f"expected a triple (mean, low, high) got {show(got)}",
    )
    return tuple(map(float, got))


def rate_of(work, rows, method):
    got = work.at_best_rate(rows, method)
    expect(
        isinstance(got, tuple | list) and len(got) == 2,
        f"expected a pair (rate, scores) got {show(got)}",
    )
    return got


@check(
    1,
    "LoRA and PERA are counted in every layer",
    "numbers",
    examples=drawn({"layers": shapes, "rank": st.integers(1, 4)}),
    hint="r(m+n) for both; PERA has r(r+1)/2 coefficients more, in each layer",
)
def counted(work, layers, rank):
    lora = sum(rank for m, n in layers for _ in range(m + n))
    pera = lora + sum(1 for _ in layers for i in range(rank) for j in range(rank) if i <= j)
    expect_equal(work.numbers(list(layers), rank), (lora, pera))


@check(
    2,
    "the matched rank is the highest that the budget pays for",
    "matched_rank",
    examples=drawn({"layers": shapes, "budget": st.integers(0, 40)}),
    hint="at or below the budget: round down, also to 0",
)
def affordable(work, layers, budget):
    ranks = [rank for rank in range(budget + 1) if rank * sum(m + n for m, n in layers) <= budget]
    expect_equal(work.matched_rank(list(layers), budget), max(ranks))


@check(
    1,
    "nats per token become bits per byte",
    "bits_per_byte",
    examples=drawn({"bits": st.integers(1, 8), "bytes_per_token": st.integers(1, 4)}).map(
        lambda x: x | {"nats": math.log(2 ** x["bits"])}
    ),
    hint="a bit is ln 2 = 0.693 nats; a token's bits are shared by its bytes",
)
def bits(work, bits, bytes_per_token, nats):
    expect_equal(work.bits_per_byte(nats, bytes_per_token), bits / bytes_per_token)


@st.composite
def two_sweeps(draw):
    """Two methods, two rates each, one seed, no two scores alike."""
    validation, test = (draw(st.permutations([1, 2, 3, 4])) for _ in range(2))
    return {"validation": validation, "test": test}


@check(
    2,
    "each method has the rate that is best for it on validation",
    "at_best_rate",
    examples=two_sweeps(),
    hint="look at this method's rows only, and not at test",
)
def on_validation(work, validation, test):
    rows = [
        row
        for k, name in enumerate(("LoRA", "PERA"))
        for row in table(name, *([[x] for x in s[k::2]] for s in (validation, test)))
    ]
    for k, name in enumerate(("LoRA", "PERA")):
        mine = validation[k::2]
        got, _ = rate_of(work, rows, name)
        said = "; ".join(
            f"{r['method']} at rate {r['rate']} validation {r['validation']:g}, test {r['test']:g}"
            for r in rows
        )
        best = RATES[mine.index(min(mine))]
        expect(got == best, f"{said}: expected for {name} the rate {best:g} got {show(got)}")


@check(
    2,
    "the mean over seeds decides, not the luckiest seed",
    "at_best_rate",
    examples=drawn({"first": scores(3), "second": scores(3)}).filter(
        lambda x: sum(x["first"]) != sum(x["second"])
    ),
    hint="first the mean of each rate over its seeds, then the lowest mean",
)
def over_seeds(work, first, second):
    got, _ = rate_of(work, table("LoRA", (first, second)), "LoRA")
    best = RATES[sum(second) < sum(first)]
    expect(
        got == best,
        f"validation {show(first)} at rate 0.001, {show(second)} at 0.01: expected the rate"
        f" {best:g} got {show(got)}",
    )


@check(
    1,
    "a rate at which a seed diverged is not chosen",
    "at_best_rate",
    examples=drawn(
        {
            "finite": scores(2),
            "diverged": scores(2),
            "seed": st.integers(0, 1),
            "place": st.integers(0, 1),
        }
    ),
    hint=(
        "a comparison with nan is always False, and np.nanmean leaves it out of the mean: look for"
        " nan yourself"
    ),
)
def diverged(work, finite, diverged, seed, place):
    broken = [math.nan if k == seed else float(score) for k, score in enumerate(diverged)]
    at = (broken, finite) if place == 0 else (finite, broken)
    got, _ = rate_of(work, table("LoRA", at), "LoRA")
    best = RATES[1 - place]
    expect(
        got == best,
        f"validation {show(at[0])} at rate 0.001, {show(at[1])} at 0.01: expected the rate {best:g}"
        f" got {show(got)}",
    )


@check(
    1,
    "what is reported are the test scores at that rate",
    "at_best_rate",
    examples=drawn({"validation": st.permutations([1, 2]), "test": scores(4)}),
    hint="of the rows with this method and this rate: a dict seed -> test",
)
def reported(work, validation, test):
    both = [test[:2], test[2:]]
    rows = table("LoRA", [[x, x] for x in validation], both) + table(
        "PERA", [[x, x] for x in validation], [[9, 9], [9, 9]]
    )
    rate, got = rate_of(work, rows, "LoRA")
    expect(rate in RATES[:2], f"expected one of the rates 0.001 and 0.01 got {show(rate)}")
    expect(isinstance(got, dict), f"expected a dict {{seed: test score}} got {show(got)}")
    mine = both[RATES.index(rate)]
    wanted = by_seed(mine)
    said = f"the seeds 0, 1 have test {show(mine)} at rate {rate:g}"
    expect({k: float(v) for k, v in got.items()} == wanted, f"{said}: expected {wanted} got {got}")


@check(
    1,
    "the mean is that of method − baseline, in the middle of the interval",
    "paired",
    examples=pair_of(2, 4).filter(lambda x: vary(**x)),
    hint="negative if the method costs less; low and high are equally far from the mean",
)
def mean(work, method, baseline):
    middle, low, high = compared(work, method, baseline)
    wanted = statistics.fmean(m - b for m, b in zip(method, baseline, strict=True))
    expect_equal(middle, wanted)
    expect_equal((low + high) / 2, wanted, what="(low + high) / 2")


# The baseline does not vary, so that who does not pair has the same length here.
@check(
    3,
    "the length of the interval is Student's",
    "paired",
    examples=st.integers(2, 5).flatmap(
        lambda count: drawn({"method": scores(count).filter(lambda x: len(set(x)) > 1)})
    ),
    hint="t at N - 1 degrees of freedom, np.std(..., ddof=1), and the root of N",
)
def length(work, method):
    _, low, high = compared(work, method, [1] * len(method))
    half = stats.t.isf(0.025, len(method) - 1) * statistics.stdev(method) / len(method) ** 0.5
    expect_equal(
        high - low, 2 * half, what=f"high - low, at N = {len(method)} seeds and a baseline of 1"
    )


@check(
    2,
    "what a seed does to both methods cancels",
    "paired",
    examples=drawn({"method": scores(2).filter(lambda x: x[0] != x[1]), "luck": scores(2)}),
    hint="take the differences first, then their standard deviation: not two standard deviations",
)
def cancels(work, method, luck):
    calm = compared(work, method, [0] * len(method))
    _, low, high = compared(work, [m + x for m, x in zip(method, luck, strict=True)], luck)
    expect_equal(
        high - low,
        calm[2] - calm[1],
        what="high - low with `luck` added to both, compared with a baseline of 0 and no luck",
    )


@check(
    1,
    "scores belong together by seed, in whatever order they come",
    "paired",
    examples=drawn({"method": scores(3), "baseline": scores(3)}).filter(
        lambda x: vary(**x) and vary(x["method"], x["baseline"][::-1])
    ),
    hint="baseline[seed] for each seed of method, not the two .values() side by side",
)
def together(work, method, baseline):
    first, second = by_seed(method), by_seed(baseline)
    turned = dict(reversed(second.items()))
    expect_equal(
        work.paired(first, turned),
        work.paired(first, second),
        what=f"baseline as {turned}, which has the same scores",
    )


@check(
    1,
    "one seed shows nothing",
    "paired",
    examples=pair_of(1, 1),
    hint="with one difference there is no spread: return -np.inf and np.inf",
)
def one_seed(work, method, baseline):
    _, low, high = compared(work, method, baseline)
    expect(
        (low, high) == (-math.inf, math.inf),
        f"one seed: expected low = -inf and high = inf got {low:g} and {high:g}",
    )


ends = st.tuples(st.integers(1, 5), st.integers(0, 4)).map(lambda x: (x[0], x[0] + x[1]))


@check(
    2,
    "an interval on one side of zero is a verdict",
    "verdict",
    examples=ends.flatmap(lambda x: st.sampled_from([x, (-x[1], -x[0])])).map(
        lambda x: {"low": x[0], "high": x[1]}
    ),
    hint="method − baseline below zero: the method costs less, and lower is better",
)
def one_side(work, low, high):
    wanted, got = "better" if high < 0 else "worse", work.verdict(low, high)
    expect(got == wanted, f"expected {wanted!r} got {show(got)}")


@check(
    1,
    "an interval with zero in it is never a proof that both are equal",
    "verdict",
    examples=drawn({"low": st.integers(-4, 0), "high": st.integers(0, 4)}),
    hint="an end point at zero counts as zero in it; the words are those of the text",
)
def nothing_shown(work, low, high):
    got = work.verdict(low, high)
    expect(got == "no difference shown", f"expected 'no difference shown' got {show(got)}")


@st.composite
def positive_factors(draw):
    """B and A with entries of at least 1, so that B A is not zero; h whole."""
    m, n, rank = (draw(st.integers(1, most)) for most in (2, 3, 3))

    def grid(rows, columns):
        return np.array(draw(scores(rows * columns, 1, 3)), float).reshape(rows, columns)

    return {
        "B": grid(m, rank),
        "A": grid(rank, n),
        "h": np.array(draw(scores(rank * (rank + 1) // 2, -2, 2)), float),
    }


@check(
    2,
    "the order share is the ratio of two Frobenius norms",
    "order_share",
    examples=positive_factors(),
    hint=(
        "each pair i <= j once, in the order of np.triu_indices; divide by the norm of B A, not of"
        " the sum"
    ),
)
def share(work, B, A, h):
    rank = len(A)
    pairs = [(i, j) for i in range(rank) for j in range(i, rank)]
    linear = high = 0.0
    for p in range(len(B)):
        for q in range(A.shape[1]):
            u = [B[p, i] * A[i, q] for i in range(rank)]
            linear += sum(u) ** 2
            high += sum(h[k] * u[i] * u[j] for k, (i, j) in enumerate(pairs)) ** 2
    expect_equal(work.order_share(B, A, h), math.sqrt(high / linear))


@check(
    2,
    "the line says all that it was made from",
    "report",
    examples=drawn(
        {"trainable": st.integers(1, 99), "scores": scores(2), "share": st.integers(0, 9)}
    ),
    hint=(
        "seven keys, spelt as in the text; seeds as a sorted list, and the mean of the scores, not"
        " of the seeds"
    ),
)
def line(work, trainable, scores, share):
    given = {7: float(scores[0]), 3: float(scores[1])}
    got = work.report("PERA", trainable, given, (-0.5, -0.75, -0.25), share / 10)
    expect(isinstance(got, dict), f"expected a dict got {show(got)}")
    wanted = {
        "method": "PERA",
        "trainable": trainable,
        "seeds": [3, 7],
        "mean": statistics.fmean(scores),
    }
    wanted |= {"difference": -0.5, "interval": (-0.75, -0.25), "order share": share / 10}
    for key, value in wanted.items():
        expect(key in got, f"the key {key!r} is missing: the line has {sorted(map(str, got))}")
        if key == "method":
            expect(got[key] == value, f"{key!r}: expected {value!r} got {show(got[key])}")
        else:
            expect_equal(got[key], value, what=f"{key!r}, for the seeds 7 and 3 with those scores")
