# %% [markdown]
# # A fair fine-tuning comparison
#
# Two methods were trained, and one number is smaller. Is that method better? You will write the
# parts of an honest comparison: equal budgets, a learning rate chosen without a look at the test
# text, an interval from paired seeds, a verdict that does not claim too much and does not hang on
# one rate, and a number that says how far PERA (arXiv 2604.11841) has become something else than
# LoRA (arXiv 2106.09685) at all. At the end you put your functions to work on a small GPT-2. It
# takes about two hours. Notebook 10 of perakit prepares for it; from weeks 1 and 2 you need the two
# update rules.
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
# ## 4. The other rates that it could have been
#
# Cost against learning rate is a U: too small a rate has not arrived yet, too large a rate
# overshoots. Here are three real ones: LoRA on the small GPT-2, bits per byte on validation text
# after 100 steps, one tuning seed (perakit 0.1, docs/results/rank.jsonl).
#
# | rate | rank 1 | rank 8 | rank 32 |
# |--:|--:|--:|--:|
# | 0.003 | 2.0286 | 1.9837 | 1.9466 |
# | 0.006 | 2.0106 | 1.9612 | 1.9403 |
# | 0.012 | 2.0019 | 1.9676 | 2.0076 |
# | 0.024 | 2.0047 | 2.0152 | 2.9894 |
# | 0.048 | 2.0320 | 3.7784 | 4.1705 |
#
# Which rate is the best at each rank? Which way does the U move as the rank grows? And what would a
# table say that compares rank 1 with rank 32 at 0.012, "the same rate for all, to be fair"?
#
# At the bottom a U is flat. The second best rate is 0.003 behind at rank 1, and another tuning seed
# might have chosen it. So a rate is **possible** if its mean validation score is at most
#
# $$\text{the lowest mean} + \text{the standard deviation of the scores at that best rate}$$
#
# over the tuning seeds, with $N - 1$ as in the next section. As before, a rate at which any seed
# diverged is out.


# %%
def possible_rates(rows, method):
    """The rates of `method` that the tuning seeds cannot tell from the best one: a list.

    Their order does not matter.
    rows: as `at_best_rate` takes them, two seeds or more at each rate.
    """
    # BEGIN SOLUTION
    found = {}
    for row in rows:
        if row["method"] == method:
            found.setdefault(row["rate"], []).append(row["validation"])
    means = {rate: np.mean(scores) for rate, scores in found.items() if np.isfinite(scores).all()}
    best = min(means, key=means.get)
    limit = means[best] + np.std(found[best], ddof=1)
    return [rate for rate in means if means[rate] <= limit]
    # END SOLUTION


# %% [markdown]
# The page behind the table above ran one tuning seed, so it has no scatter at the other rates. But
# five more seeds were run at the best rate of each rank, and we draw their standard deviation as a
# band. Which rates are possible at rank 1, which at rank 32?

# %% tags=["experiment"]
import matplotlib.pyplot as plt

rates = [0.003, 0.006, 0.012, 0.024, 0.048]
costs = {  # perakit 0.1, docs/results/rank.jsonl: LoRA, validation, tuning seed 1000
    1: [2.02863, 2.01056, 2.00193, 2.00471, 2.03201],
    8: [1.98371, 1.96117, 1.96765, 2.01516, 3.77843],
    32: [1.94665, 1.94033, 2.00756, 2.98942, 4.17046],
}
at_the_best = {  # the same file: seeds 0 to 4
    1: [2.00757, 2.0017, 2.00287, 2.00109, 1.9954],
    8: [1.96688, 1.95721, 1.95702, 1.94914, 1.95261],
    32: [1.95149, 1.92781, 1.93764, 1.93181, 1.94],
}
figure, ax = plt.subplots()
for (rank, cost), color in zip(costs.items(), ("C0", "C1", "C2"), strict=True):
    ax.semilogx(rates, cost, "o-", color=color, label=f"rank {rank}")
    ax.axhspan(min(cost), min(cost) + np.std(at_the_best[rank], ddof=1), color=color, alpha=0.3)
ax.set_xticks(rates, [f"{rate:g}" for rate in rates])
ax.minorticks_off()
ax.set(ylim=(1.92, 2.06), xlabel="learning rate", ylabel="validation, bits per byte")
_ = ax.legend(title="LoRA; three points lie above")

# %% [markdown]
# ## 5. Differences, seed by seed
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
# ## 6. A verdict
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
# Each method ran at the rate that was chosen for it. Had another possible rate been chosen, would
# the verdict be the same? Then it is about the methods. If not, it was the grid's. So compare every
# possible rate of the method with every possible rate of the baseline. The **robust** verdict is
# the weakest: `"better"` if all pairs say so, `"worse"` if all say that, and otherwise `"no
# difference shown"`. Such a table may look like this one (invented):
#
# | method's rate | baseline's rate | interval | verdict |
# |--:|--:|:--|:--|
# | 0.012 | 0.006 | 0.043 to 0.051 | worse |
# | 0.006 | 0.006 | −0.002 to 0.005 | no difference shown |


# %%
def robust_verdict(intervals, method_rates, baseline_rates):
    """The weakest verdict over all pairs of possible rates: one of the three words.

    intervals: a dict {(method's rate, baseline's rate): (low, high)} of method − baseline, for the
    possible pairs and perhaps for others, which do not count; no end point is 0.
    method_rates, baseline_rates: lists of the possible rates.
    """
    # BEGIN SOLUTION
    pairs = [intervals[mine, theirs] for mine in method_rates for theirs in baseline_rates]
    if all(high < 0 for _, high in pairs):
        return "better"
    return "worse" if all(low > 0 for low, _ in pairs) else "no difference shown"
    # END SOLUTION


# %% [markdown]
# ## 7. Is it another method at all?
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
# ## 8. A line that can stand alone
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
# ## 9. The comparison
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
# counts, `report` collects, `possible_rates` and `robust_verdict` ask whether it was the rate. The
# order share is that of the layer where it is largest, in the seed where it is largest.

# %% tags=["experiment"]
trained = dict(zip(("LoRA", "PERA"), numbers(layers, 8), strict=True))
first = next(iter(METHODS))
_, baseline = at_best_rate(rows, first)
possible = {name: possible_rates(rows, name) for name in METHODS}
tests = {}  # {(method, rate): {seed: test score}}
for row in rows:
    tests.setdefault((row["method"], row["rate"]), {})[row["seed"]] = row["test"]
chosen = {}
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
    if name != first:
        intervals = {
            (mine, theirs): paired(tests[name, mine], tests[first, theirs])[1:]
            for mine in possible[name]
            for theirs in possible[first]
        }
        print(
            f"    minus baseline {line['difference']:+.1e}, 95 % interval {low:+.1e} ..."
            f" {high:+.1e}: {verdict(low, high)}"
        )
        print(
            f"    possible rates {possible[name]} against {possible[first]}:"
            f" {robust_verdict(intervals, possible[name], possible[first])}"
        )
        print(f"    largest order share {share:.3%}")
print(f"LoRA can pay for rank {matched_rank(layers, trained['PERA'])} with PERA's budget")

# %% [markdown]
# Before you believe a table, ask it three things. Is a chosen rate the smallest or the largest of
# the sweep? Then the best one may lie outside, and the sweep is not finished. Is the interval short
# enough for the difference that would matter to you? And was there anything that could differ?

# %% tags=["experiment"]
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
# ## 10. In your own words (marked by your teacher, 5 points)
#
# **a.** A comparison of LoRA and PERA ends with "no difference shown", and PERA's order share
# is 0.1 %. Name one thing that may be concluded from it, and two that may not. What would you
# change to find out more? (3 points)
#
# **b.** perakit 0.1 has a page on forgetting (docs/results/forgetting.md). It says: "DoRA forgets
# 0.047 bits more than LoRA, interval 0.044 to 0.051, five seeds". Each method ran at the best rate
# of a sweep with one tuning seed: LoRA at 0.006, DoRA at 0.012. The sweep, bits per byte on
# validation text of the *new* domain:
#
# | rate | 0.003 | 0.006 | 0.012 | 0.024 |
# |:--|--:|--:|--:|--:|
# | LoRA | 1.98371 | 1.96117 | 1.96765 | 2.01516 |
# | DoRA | 1.97781 | 1.95538 | 1.95533 | 2.00533 |
#
# The scores of five seeds at one rate have a standard deviation near 0.007. Which rates are
# possible for each method? Why may the verdict be the grid's, and what has to be run before it can
# stand? (2 points)
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
# What makes a comparison fair, how little three seeds say, and how a verdict may be the grid's.
# Students need means and standard deviations; Student's quantile is given. No training knowledge:
# the loop of section 9 is written.
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
# - *The U.* "The same rate for all" favours the rank whose U has its bottom there. The scatter is
#   that of the scores at the best rate, over seeds; not the standard error, not the range, and not
#   the scatter of the rate that is judged.
# - *The grid's verdict.* `zip(method_rates, baseline_rates)` compares few of the pairs. A majority
#   of the pairs is no verdict: the weakest counts.
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
# b: LoRA: 0.006, and 0.012 at 1.96765 <= 1.96117 + 0.007 just so. DoRA: 0.006 and 0.012, which
# differ by 0.00005; one tuning seed chose between them. A larger rate moves the weights farther, so
# it may forget more in either method; LoRA was judged at the smaller rate, DoRA at the larger. To
# run: every possible rate of both with several tuning seeds, the old domain judged at each pair on
# the same seeds; the verdict is the weakest. One point for the rates, one for the reason with the
# runs. Whoever notes that the rate was chosen for the new domain, and forgetting is measured on the
# old one, has understood more than was asked.
#
# ### In class
#
# Let half of the class run section 9 with the seeds 0, 1, 2 and the other half with 3, 4, 5, and
# collect the verdicts on the board before anybody argues. Then change `STEPS`, add the scaled PERA,
# and ask what may now be said. Do not announce an expected result: the table is what it is.

# %% tags=["checks"]
import math
import statistics
from numbers import Real

import numpy as np
from hypothesis import strategies as st
from scipy import stats

from perakit.classroom import check, expect, expect_equal, parts, show

drawn = st.fixed_dictionaries
shapes = st.tuples(st.integers(1, 5), st.integers(1, 5))
RATES = (0.001, 0.01, 0.1)
FEW = 25  # examples where a few inputs say it all


def scores(count, least=0, most=6):
    """Whole scores."""
    return st.lists(st.integers(least, most), min_size=count, max_size=count)


def numbers_of(got, *names):
    """So many numbers, as a tuple."""
    got = tuple(
        value.item() if isinstance(value, np.ndarray) and value.ndim == 0 else value
        for value in parts(got, *names)
    )
    expect(
        all(isinstance(value, Real) for value in got),
        f"expected {len(names)} numbers, ({', '.join(names)}), got {show(got)}",
    )
    return got


# --- 1. budgets -----------------------------------------------------------------------------------


def trained(work, layers, rank):
    """The student's two numbers."""
    return numbers_of(work.numbers(list(layers), rank), "lora", "pera")


# Who gives the two in the other order loses this check alone.
@check(
    1,
    "LoRA's numbers of a layer, the first of the two",
    "numbers",
    examples=drawn({"layer": shapes, "rank": st.integers(1, 4)}),
    hint="(lora, pera), in this order; how many entries have B and A?",
    count=FEW,
)
def lora_counted(work, layer, rank):
    m, n = layer
    expected = sum(m + n for _ in range(rank))
    expect_equal(trained(work, [layer], rank)[0], expected, what=f"one layer {layer}, LoRA")


@check(
    1,
    "PERA has one coefficient more for each pair i <= j",
    "numbers",
    examples=drawn({"layer": shapes, "rank": st.integers(1, 4)}),
    hint="write the pairs of 3 columns down: is (1, 0) another one than (0, 1)? is (0, 0) one?",
    count=FEW,
)
def pera_counted(work, layer, rank):
    m, n = layer
    pairs = sum(1 for i in range(rank) for j in range(rank) if i <= j)
    got, expected = trained(work, [layer], rank), rank * (m + n) + pairs
    # LoRA's own number, which PERA's may be made from, is the other check's
    if expected not in got and abs(got[1] - got[0]) != pairs:
        expect_equal(got[1], expected, what=f"one layer {layer}, PERA")


# Compared with the student's own numbers of one layer
@check(
    1,
    "both are summed over all layers",
    "numbers",
    examples=drawn({"layers": st.lists(shapes, min_size=2, max_size=3), "rank": st.integers(1, 3)}),
    hint="each layer has a B, an A and, for PERA, an h of its own",
)
def all_layers(work, layers, rank):
    single = [trained(work, [layer], rank) for layer in layers]
    got = trained(work, layers, rank)
    for k, name in enumerate(("lora", "pera")):
        expect_equal(got[k], sum(pair[k] for pair in single), what=f"{name}, of all layers")


@check(
    1,
    "the matched rank is the highest that the budget pays for",
    "matched_rank",
    examples=drawn({"layer": shapes, "budget": st.integers(0, 40)}).map(
        lambda x: x | {"budget": x["budget"] + sum(x["layer"])}
    ),
    hint="what does this rank cost, what the next one, and what is there to spend?",
)
def affordable(work, layer, budget):
    ranks = [rank for rank in range(budget + 1) if rank * sum(layer) <= budget]
    expect_equal(work.matched_rank([layer], budget), max(ranks), what=f"one layer {layer}")


@check(
    1,
    "nothing can be paid with nothing",
    "matched_rank",
    examples=drawn({"layer": shapes}),
    hint="with a budget of 0 not even rank 1 can be paid",
    count=FEW,
)
def nothing_to_spend(work, layer):
    expect_equal(work.matched_rank([layer], 0), 0, what=f"one layer {layer}, budget 0")


# Compared with the student's own answers, so that what one layer costs is the first check's
@check(
    1,
    "all layers are paid from one budget",
    "matched_rank",
    examples=drawn(
        {
            "layer": shapes,
            "copies": st.integers(2, 3),
            "budget": st.integers(0, 30),
            "other": shapes,
        }
    ),
    hint="the rank is the same in all layers: what does one more cost in all of them together?",
)
def one_budget(work, layer, copies, budget, other):
    (expected,) = numbers_of([work.matched_rank([layer], budget)], "rank")
    expect_equal(
        work.matched_rank([layer] * copies, copies * budget),
        expected,
        what=f"{copies} layers {layer} and the budget {copies * budget}, as for one layer and"
        f" {budget}",
    )
    expect_equal(
        work.matched_rank([other, layer], budget),
        work.matched_rank([layer, other], budget),
        what=f"the layers {[other, layer]}, as for {[layer, other]}, with the budget {budget}",
    )


# --- 2. units -------------------------------------------------------------------------------------


@check(
    1,
    "nats become bits",
    "bits_per_byte",
    examples=drawn({"bits": st.integers(1, 8)}).map(lambda x: {"nats": math.log(2 ** x["bits"])}),
    hint="one bit is ln 2 = 0.693 nats: are there more bits, or more nats?",
)
def bits(work, nats):
    got = work.bits_per_byte(nats, 1)
    expect_equal(got, math.log2(math.exp(nats)), what="a token of 1 byte")


# Compared with the student's own bits of a token
@check(
    1,
    "a token's bits are shared by its bytes",
    "bits_per_byte",
    examples=drawn({"nats": st.integers(1, 8), "bytes_per_token": st.integers(2, 4)}),
    hint="a token of 4 bytes with 8 bits: how many are that for each byte?",
    count=FEW,
)
def per_byte(work, nats, bytes_per_token):
    (whole,) = numbers_of([work.bits_per_byte(float(nats), 1)], "bits")
    expect_equal(
        work.bits_per_byte(float(nats), bytes_per_token),
        whole / bytes_per_token,
        what=f"{bytes_per_token} bytes, your bits of the token being {whole:.6g}",
    )


# --- 3. the best rate -----------------------------------------------------------------------------


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


def said(rows):
    """A table in a line."""
    return "; ".join(
        f"{row['method']} rate {row['rate']:g} seed {row['seed']} validation"
        f" {row['validation']:g}, test {row['test']:g}"
        for row in rows
    )


def rate_of(work, rows, method):
    return parts(work.at_best_rate(rows, method), "rate", "scores")


two = st.permutations([1, 2])


@check(
    1,
    "the rate that is best on validation",
    "at_best_rate",
    examples=drawn({"validation": two, "test": two}),
    hint="the text on which a score is reported has no part in the choice",
)
def on_validation(work, validation, test):
    rows = table("LoRA", *([[x] for x in values] for values in (validation, test)))
    got, _ = rate_of(work, rows, "LoRA")
    best = RATES[validation.index(min(validation))]
    expect(got == best, f"{said(rows)}: expected the rate {best:g} got {show(got)}")


# Compared with the student's own choice from this method's rows alone
@check(
    1,
    "each method has its own rate",
    "at_best_rate",
    examples=drawn({"mine": two, "theirs": two}),
    hint="whose rows is the choice made from?",
)
def its_own(work, mine, theirs):
    # Both texts say the same here
    rows = [table("LoRA", [[20 + x] for x in mine]), table("PERA", [[5 * x] for x in theirs])]
    expected, _ = rate_of(work, rows[0], "LoRA")
    for both in (rows[0] + rows[1], rows[1] + rows[0]):
        got, _ = rate_of(work, both, "LoRA")
        expect(
            got == expected,
            f"{said(both)}: for LoRA you choose {show(got)}, and {show(expected)} without PERA's"
            " rows",
        )


@check(
    2,
    "the mean over seeds decides, not the luckiest seed",
    "at_best_rate",
    examples=drawn({"first": scores(3), "second": scores(3)}).filter(
        lambda x: sum(x["first"]) != sum(x["second"])
    ),
    hint="one number for each rate, from all its seeds; then the lowest of these",
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
    count=FEW,
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
    examples=drawn({"validation": two, "test": scores(4)}),
    hint="of the rows with this method and this rate: a dict seed -> test",
    count=FEW,
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
    wanted = {0: float(mine[0]), 1: float(mine[1])}
    at = f"the seeds 0, 1 have test {show(mine)} at rate {rate:g}"
    expect(got == wanted, f"{at}: expected {show(wanted)} got {show(got)}")


# --- 4. possible rates ----------------------------------------------------------------------------


def possible(work, rows, method):
    """The student's rates, sorted, each once."""
    got = work.possible_rates(rows, method)
    expect(isinstance(got, list | tuple | np.ndarray), f"expected a list of rates got {show(got)}")
    expect(
        all(isinstance(rate, float) for rate in got) and set(got) <= set(RATES),
        f"expected some of the rates {show(RATES)} got {show(got)}",
    )
    return sorted(set(got))


@st.composite
def bands(draw):
    """Scores at three rates: of the best one, and of two that are inside of its band or not.

    Some are just so, so that another width gives another answer; and their own scatter is another.
    """
    best = draw(st.sampled_from([[0, 4], [0, 2, 4], [0, 0, 3, 3]]))
    rates = [best]
    for _ in range(2):
        higher = draw(st.sampled_from([0.3, 0.95, 1.05, 7.0])) * statistics.stdev(best)
        mean, own = statistics.fmean(best) + higher, draw(st.sampled_from([0, 3]))
        rates.append([mean - own, *[mean] * (len(best) - 2), mean + own])
    turn = draw(st.integers(0, 2))
    return {"validation": rates[turn:] + rates[:turn]}


@check(
    3,
    "the rates inside of the band, and no others",
    "possible_rates",
    examples=bands(),
    hint=(
        "the band begins at the lowest mean. Its width is the standard deviation over seeds: with"
        " which ddof, and of which rate's scores?"
    ),
)
def inside(work, validation):
    means = [statistics.fmean(found) for found in validation]
    deviations = [statistics.stdev(found) for found in validation]
    top = min(means) + deviations[means.index(min(means))]
    wanted = [rate for rate, mean in zip(RATES, means, strict=True) if mean <= top]
    got = possible(work, table("LoRA", validation), "LoRA")
    expect(
        got == wanted,
        f"the rates {show(RATES)} have the mean scores {show(means)} and the standard deviations"
        f" {show(deviations)}, so the band goes from {min(means):.6g} to {top:.6g}: expected"
        f" {show(wanted)} got {show(got)}",
    )


@check(
    1,
    "the best rate is possible",
    "possible_rates",
    examples=drawn({"score": st.integers(0, 4), "others": scores(2, 10, 14)}),
    hint='"at most": what if all seeds have the same score, and the band has no width?',
    count=FEW,
)
def best_itself(work, score, others):
    rows = table("LoRA", ([score, score], [others[0]] * 2, [others[1]] * 2))
    got = possible(work, rows, "LoRA")
    expect(
        RATES[0] in got, f"{said(rows[:2])}, the others are worse: expected 0.001 in {show(got)}"
    )


@check(
    1,
    "a rate at which a seed diverged is not possible",
    "possible_rates",
    examples=drawn({"place": st.integers(0, 1), "seed": st.integers(0, 1)}),
    hint="as in `at_best_rate`: look for nan yourself",
)
def not_possible(work, place, seed):
    broken = [math.nan if k == seed else 0.0 for k in range(2)]
    at = [[1.0, 1.5]]
    at.insert(place, broken)
    got = possible(work, table("LoRA", at), "LoRA")
    wanted = [RATES[1 - place]]
    expect(
        got == wanted,
        f"validation {show(at[0])} at rate 0.001, {show(at[1])} at 0.01: expected {show(wanted)}"
        f" got {show(got)}",
    )


# Compared with the student's own answer from this method's rows alone
@check(
    1,
    "other methods' rows have no part in it",
    "possible_rates",
    examples=drawn({"mine": two, "theirs": two}),
    hint="whose rows is the choice made from?",
)
def own_rows(work, mine, theirs):
    rows = [
        table("LoRA", [[10 * x, 10 * x + 1] for x in mine]),
        table("PERA", [[10 * x - 9, 10 * x - 8] for x in theirs]),
    ]
    expected = possible(work, rows[0], "LoRA")
    for both in (rows[0] + rows[1], rows[1] + rows[0]):
        got = possible(work, both, "LoRA")
        expect(
            got == expected,
            f"{said(both)}: for LoRA you say {show(got)}, and {show(expected)} without PERA's rows",
        )


# --- 5. pairs -------------------------------------------------------------------------------------


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


def compared(work, method, baseline):
    """The student's mean, low and high."""
    return numbers_of(work.paired(by_seed(method), by_seed(baseline)), "mean", "low", "high")


@check(
    1,
    "the mean is that of method − baseline",
    "paired",
    examples=pair_of(2, 4).filter(lambda x: vary(**x)),
    hint="if the method costs less, which sign has the mean?",
    count=FEW,
)
def mean(work, method, baseline):
    middle, _, _ = compared(work, method, baseline)
    expect_equal(middle, statistics.fmean(m - b for m, b in zip(method, baseline, strict=True)))


@check(
    1,
    "the mean lies in the middle of the interval",
    "paired",
    examples=pair_of(2, 4).filter(lambda x: vary(**x)),
    hint="low and high are equally far from the mean",
    count=FEW,
)
def middle(work, method, baseline):
    middle, low, high = compared(work, method, baseline)
    expect_equal((low + high) / 2, middle, what="(low + high) / 2, compared with your own mean")


def mistaken_lengths(method):
    """What the half length would be after each of the usual mistakes."""
    count, q = len(method), stats.t.ppf
    right = statistics.stdev(method) / count**0.5
    student = q(0.975, count - 1)
    known = {
        "with 1.96 in place of Student's quantile": 1.96 * right,
        "with ddof=0": student * statistics.pstdev(method) / count**0.5,
        "with 1.96 and ddof=0": 1.96 * statistics.pstdev(method) / count**0.5,
        "with N degrees of freedom": q(0.975, count) * right,
        "with the 0.95 quantile": q(0.95, count - 1) * right,
        "without the root of N": student * right * count**0.5,
        "with N in place of its root": student * right / count**0.5,
    }
    return student * right, known


# The baseline does not vary, so that who does not pair has the same length here.
@check(
    3,
    "the length of the interval is Student's",
    "paired",
    examples=st.integers(2, 5).flatmap(
        lambda count: drawn({"method": scores(count).filter(lambda x: len(set(x)) > 1)})
    ),
    hint="three factors: the quantile and its degrees of freedom, σ with N − 1, and the root of N",
)
def length(work, method):
    _, low, high = compared(work, method, [1] * len(method))
    half, known = mistaken_lengths(method)
    like = [what for what, value in known.items() if abs(high - low - 2 * value) < 1e-9]
    expect(
        abs(high - low - 2 * half) <= 1e-9 * max(1, half),
        f"high - low, at N = {len(method)} seeds and a baseline of 1: expected {2 * half:.6g} got"
        f" {high - low:.6g}{', which is the length ' + ', or '.join(like) if like else ''}",
    )


@check(
    2,
    "what a seed does to both methods cancels",
    "paired",
    examples=drawn({"method": scores(2).filter(lambda x: x[0] != x[1]), "luck": scores(2)}),
    hint="of which numbers do you take the standard deviation: of scores, or of differences?",
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
    hint="a dict keeps the order in which it was filled, and .values() has lost the seeds",
    count=FEW,
)
def together(work, method, baseline):
    first, second = by_seed(method), by_seed(baseline)
    turned = dict(reversed(second.items()))
    expect_equal(
        work.paired(first, turned),
        numbers_of(work.paired(first, second), "mean", "low", "high"),
        what=f"baseline as {turned}, which has the same scores",
    )


@check(
    1,
    "one seed shows nothing",
    "paired",
    examples=pair_of(1, 1),
    hint="one difference has no spread, and ddof=1 divides by zero: that case is yours",
    count=FEW,
)
def one_seed(work, method, baseline):
    _, low, high = compared(work, method, baseline)
    expect(
        (low, high) == (-math.inf, math.inf),
        f"one seed: expected low = -inf and high = inf got {low:g} and {high:g}",
    )


# --- 6. verdicts ----------------------------------------------------------------------------------

WORDS = ("better", "worse", "no difference shown")
ends = st.tuples(st.integers(1, 5), st.integers(0, 4)).map(lambda x: (x[0], x[0] + x[1]))


@check(
    2,
    "an interval on one side of zero is a verdict",
    "verdict",
    examples=ends.flatmap(lambda x: st.sampled_from([x, (-x[1], -x[0])])).map(
        lambda x: {"low": x[0], "high": x[1]}
    ),
    hint="method − baseline below zero: which of the two costs less, and is that good?",
    count=FEW,
)
def one_side(work, low, high):
    wanted, got = "better" if high < 0 else "worse", work.verdict(low, high)
    expect(got == wanted, f"expected {wanted!r} got {show(got)}")


@check(
    1,
    "an interval around zero is never a proof that both are equal",
    "verdict",
    examples=drawn({"low": st.integers(-4, -1), "high": st.integers(1, 4)}),
    hint="what else would such an interval fit? The words are those of the text",
    count=FEW,
)
def nothing_shown(work, low, high):
    got = work.verdict(low, high)
    expect(got == "no difference shown", f"expected 'no difference shown' got {show(got)}")


# Compared with the student's own word for an interval around zero
@check(
    1,
    "an end point at zero counts as zero in it",
    "verdict",
    examples=drawn({"low": st.integers(-4, 0), "high": st.integers(0, 4)}).filter(
        lambda x: 0 in x.values()
    ),
    hint="< or <=?",
    count=FEW,
)
def at_zero(work, low, high):
    around, got = work.verdict(-1, 1), work.verdict(low, high)
    expect(isinstance(around, str), f"expected a word got {show(around)}")
    expect(
        got == around and work.verdict(1, 2) != around,
        f"of the interval from -1 to 1 you say {show(around)}: expected that here, and not for the"
        f" interval from 1 to 2; got {show(got)}",
    )


ONE = {"better": (-2.0, -1.0), "worse": (1.0, 2.0), "no difference shown": (-1.0, 1.0)}


def robust(work, words, rows, columns):
    """The student's word for a table of words: words[mine][theirs]."""
    intervals = {
        (RATES[p], RATES[q]): ONE[word] for p, row in enumerate(words) for q, word in enumerate(row)
    }
    got = work.robust_verdict(intervals, [RATES[p] for p in rows], [RATES[q] for q in columns])
    expect(got in WORDS, f"expected one of {show(WORDS)} got {show(got)}")
    return got


def seen(words, rows, columns):
    return "; ".join(
        f"{RATES[p]:g} against {RATES[q]:g} {words[p][q]}" for p in rows for q in columns
    )


clear = st.sampled_from(WORDS[:2])


@check(
    1,
    "what every pair says is the verdict",
    "robust_verdict",
    examples=drawn({"word": clear, "mine": st.integers(1, 3), "theirs": st.integers(1, 3)}),
    hint="an interval below zero says better, one above zero worse",
    count=FEW,
)
def unanimous(work, word, mine, theirs):
    words = [[word] * theirs for _ in range(mine)]
    got = robust(work, words, range(mine), range(theirs))
    expect(got == word, f"{seen(words, range(mine), range(theirs))}: expected {word!r} got {got!r}")


# A word for all tables is no verdict
@check(
    2,
    "the weakest pair decides",
    "robust_verdict",
    examples=drawn(
        {"word": clear, "odd": st.sampled_from(WORDS), "size": st.just(3), "at": st.integers(0, 2)}
    ).filter(lambda x: x["word"] != x["odd"]),
    hint="one possible pair that says something else: can the difference be the methods'?",
)
def weakest(work, word, odd, size, at):
    words = [[word] * size for _ in range(size)]
    words[at][at] = odd
    got = robust(work, words, range(size), range(size))
    clearer = [robust(work, [[other]], [0], [0]) for other in WORDS[:2]]
    expect(
        got == WORDS[2] and clearer != [got, got],
        f"all pairs say {word!r} but {RATES[at]:g} against {RATES[at]:g}, which says {odd!r}:"
        f" expected {WORDS[2]!r} (and not of every table) got {got!r}",
    )


# Compared with the student's own answer for an odd pair at equal rates
@check(
    1,
    "every possible rate meets every one of the other arm",
    "robust_verdict",
    examples=drawn({"word": clear, "mine": st.integers(0, 1)}),
    hint="2 rates and 2 rates make 4 pairs",
)
def all_pairs(work, word, mine):
    answers = {}
    for p, q in ((1, 1), (mine, 1 - mine)):
        words = [[word, word], [word, word]]
        words[p][q] = WORDS[2]
        answers[p, q] = robust(work, words, (0, 1), (0, 1))
    equal, unequal = answers[1, 1], answers[mine, 1 - mine]
    expect(
        equal == unequal,
        f"all pairs say {word!r} but one, which shows no difference. If it is {RATES[1]:g} against"
        f" {RATES[1]:g} you say {equal!r}, if it is {RATES[mine]:g} against {RATES[1 - mine]:g}"
        f" you say {unequal!r}",
    )


# Compared with the student's own answer for a table without these pairs
@check(
    1,
    "rates that are not possible do not count",
    "robust_verdict",
    examples=drawn({"word": clear, "other": st.sampled_from(WORDS), "arm": st.integers(0, 1)}),
    hint="intervals may have more pairs than the two lists of rates",
    count=FEW,
)
def not_counted(work, word, other, arm):
    words = [[word, other], [other, other]] if arm == 0 else [[word, word], [other, other]]
    rows, columns = ((0,), (0,)) if arm == 0 else ((0,), (0, 1))
    expected = robust(work, [words[0][: len(columns)]], rows, columns)
    got = robust(work, words, rows, columns)
    expect(
        got == expected,
        f"possible are {seen(words, rows, columns)}; the other pairs of `intervals` say {other!r}:"
        f" you say {got!r}, and {expected!r} without them",
    )


# --- 7. the order share ---------------------------------------------------------------------------


def positive(draw, rank):
    """B and A with entries of at least 1, so that B A is not zero."""

    def grid(rows, columns):
        return np.array(draw(scores(rows * columns, 1, 3)), float).reshape(rows, columns)

    return grid(draw(st.integers(1, 2)), rank), grid(rank, draw(st.integers(1, 3)))


@st.composite
def squares_only(draw):
    """Rank 1 or 2 with h_ii 0 or 1 and no cross term.

    No order of the pairs, and nothing that is done to cross terms, matters here.
    """
    rank = draw(st.integers(1, 2))
    B, A = positive(draw, rank)
    first, last = (draw(st.integers(0, 1)) for _ in range(2))
    return {"B": B, "A": A, "h": np.array([first, 0, last] if rank == 2 else [1], float)}


@check(
    2,
    "the order share is the ratio of two Frobenius norms",
    "order_share",
    examples=squares_only(),
    hint="square all entries, sum, root: of which matrix above, and of which below?",
)
def share(work, B, A, h):
    rank = len(A)
    linear = high = 0.0
    for p in range(len(B)):
        for q in range(A.shape[1]):
            u = [B[p, i] * A[i, q] for i in range(rank)]
            linear += sum(u) ** 2
            high += (h[0] * u[0] ** 2 + (h[2] * u[1] ** 2 if rank == 2 else 0)) ** 2
    expect_equal(work.order_share(B, A, h), math.sqrt(high / linear))


@st.composite
def equal_columns(draw):
    """All columns of B are equal, all rows of A: only the sum of h counts."""
    rank = draw(st.integers(2, 3))
    B, A = positive(draw, 1)
    h = np.array(draw(scores(rank * (rank + 1) // 2, 0, 2)), float)
    return {"B": np.repeat(B, rank, axis=1), "A": np.repeat(A, rank, axis=0), "h": h}


# Compared with the student's own answer where all of it is in h_00
@check(
    1,
    "each pair i <= j counts once, with its h",
    "order_share",
    examples=equal_columns().filter(lambda x: x["h"].any()),
    hint="with equal columns all products are the same: how often does your sum have each h?",
)
def once(work, B, A, h):
    together = np.zeros_like(h)
    together[0] = h.sum()
    expect_equal(
        work.order_share(B, A, h),
        *numbers_of([work.order_share(B, A, together)], "share"),
        what=f"columns that are all equal: the same as with h = {show(together)}",
    )


@st.composite
def three_columns(draw):
    B, A = positive(draw, 3)
    return {"B": B, "A": A, "h": np.array(draw(scores(6, 0, 3)), float)}


# Compared with the student's own answer for the columns in another order
@check(
    1,
    "h lists the pairs in the order of np.triu_indices",
    "order_share",
    examples=three_columns().filter(lambda x: x["h"].any()),
    hint="(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2): does your loop read h so?",
)
def in_order(work, B, A, h):
    order = [1, 2, 0]
    H = np.zeros((3, 3))
    H[np.triu_indices(3)] = h
    H = np.triu(H) + np.triu(H, 1).T
    moved = H[np.ix_(order, order)][np.triu_indices(3)]
    expect_equal(
        work.order_share(B, A, h),
        *numbers_of([work.order_share(B[:, order], A[order], moved)], "share"),
        what=f"the columns in the order 1, 2, 0 and h as {show(moved)} are the same update",
    )


# --- 8. the line ----------------------------------------------------------------------------------

lines = drawn({"trainable": st.integers(1, 99), "scores": scores(2), "share": st.integers(0, 9)})


def value_of(work, key, trainable, scores, share):
    """What the student's line has under that key."""
    given = {7: float(scores[0]), 3: float(scores[1])}
    got = work.report("PERA", trainable, given, (-0.5, -0.75, -0.25), share / 10)
    expect(isinstance(got, dict), f"expected a dict got {show(got)}")
    expect(key in got, f"the key {key!r} is missing: the line has {sorted(map(str, got))}")
    return got[key]


@check(
    1,
    "the line has what was given, under the keys of the text",
    "report",
    examples=lines,
    hint="the keys are spelt as in the table, and the triple is (mean, low, high)",
    count=FEW,
)
def line(work, trainable, scores, share):
    got = value_of(work, "method", trainable, scores, share)
    expect(got == "PERA", f"'method': expected 'PERA' got {show(got)}")
    wanted = {"trainable": trainable, "order share": share / 10}
    wanted |= {"difference": -0.5, "interval": (-0.75, -0.25)}
    for key, value in wanted.items():
        expect_equal(
            value_of(work, key, trainable, scores, share),
            value,
            what=f"{key!r}, of the difference (-0.5, -0.75, -0.25)"
            if key[0] in "di"
            else f"{key!r}",
        )


@check(
    1,
    "it names the seeds, in increasing order",
    "report",
    examples=lines,
    hint="a list of the keys of `scores`, which may come in any order",
    count=FEW,
)
def seeds(work, trainable, scores, share):
    got = value_of(work, "seeds", trainable, scores, share)
    expect_equal(got, [3, 7], what="'seeds', of scores for the seeds 7 and 3")


@check(
    1,
    "its mean is that of the test scores",
    "report",
    examples=lines,
    hint="a dict iterates over its keys: over which numbers is your mean taken?",
    count=FEW,
)
def mean_score(work, trainable, scores, share):
    got = value_of(work, "mean", trainable, scores, share)
    expect_equal(got, statistics.fmean(scores), what="'mean', for the seeds 7 and 3")


# The grader sees whether an argument was changed, and says so in the check of this name alone.
@check(
    1,
    "no function changes its arguments",
    "numbers",
    "matched_rank",
    "at_best_rate",
    "possible_rates",
    "paired",
    "robust_verdict",
    "order_share",
    "report",
    hint="`.pop`, `.sort`, `del` and `+=` change what the caller has: work on a copy",
    alone=True,
)
def untouched(work):
    shapes, rows = [(3, 2), (1, 4)], table("LoRA", [[3, 1], [2, 4]])
    work.numbers(shapes, 2)
    work.matched_rank(shapes, 40)
    work.at_best_rate(rows, "LoRA")
    work.possible_rates(rows, "LoRA")
    work.paired({1: 2.0, 0: 3.0}, {0: 1.0, 1: 4.0})
    work.robust_verdict({(0.1, 0.1): (1.0, 2.0), (0.2, 0.1): (-2.0, -1.0)}, [0.2, 0.1], [0.1])
    work.order_share(np.ones((2, 2)), np.ones((2, 2)), np.array([1.0, -2.0, 3.0]))
    work.report("LoRA", 5, {7: 2.0, 3: 1.0}, (0.5, 0.25, 0.75), 0.1)
