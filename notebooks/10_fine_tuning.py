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
# # 10 Fine-tuning GPT-2: tiny here, 124M with your own weights
#
# At the end you can adapt a language model to a new kind of text with LoRA and with PERA, measure
# what it learned and what it forgot, and read the table of results without fooling yourself. You
# will write the training loop by hand once. The model is a GPT-2 with 1.9 million parameters that
# ships with perakit; the last section runs the same steps on a GPT-2 of 124 million, if you have
# its weights.
#
# You need [notebook 01](01_low_rank_adaptation.ipynb) (LoRA), [notebook 03](03_equation_nine.ipynb)
# (the PERA update) and, for the end, [notebook 09](09_merging.ipynb) (merging). About 35 minutes to
# read, about 40 seconds to run.

# %%
import math
import tempfile
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from IPython.utils.capture import capture_output

import perakit as pk
from perakit import plots, theory
from perakit.toy import corpus, finetune

plt.style.use(plots.STYLE)
STEPS = 20  # of every training run; 300 for smoother curves and larger effects: about 4 minutes
BATCH, CONTEXT = 4, 64  # a step sees 4 windows of 64 bytes
SEEDS = (0, 1, 2)  # the first is that of all single runs

# %% [markdown]
# ## The model and two kinds of text
#
# The model reads **bytes**: its vocabulary is the 256 values that a byte can have, so it needs no
# tokenizer. It was trained on English prose, the documentation strings of Python libraries.
#
# We take our texts from your own disk. *Prose* is the documentation strings of Python's standard
# library, *code* is the source of the same library without them. Each is split by file: nine files
# in ten to train on, one in ten **held out**. We only ever measure on held-out text, since a model
# can learn its training text by heart.

# %%
model = pk.toy.load("tiny")
prose = corpus.load("prose", limit=150_000)
code = corpus.load("code", limit=150_000)

print(
    f"{sum(p.numel() for p in model.parameters()):,} parameters, {model.config.n_layer} blocks of"
    f" width {model.config.n_embd}"
)
for text in (prose, code):
    facts = text.describe()
    print(
        f"{facts['text']}: {facts['train_bytes']:,} bytes to train on, {facts['heldout_bytes']:,}"
        f" held out; {facts['source']}"
    )
# Somewhere in the held-out code, where a function begins
start = code.heldout.index(b"    def ", 2000)
print("\n" + code.heldout[start : start + 200].decode(errors="replace"))

# %% [markdown]
# ## What a byte costs
#
# A language model gives each possible next byte a probability. If the byte that comes had
# probability $p$, we say that it **cost** $-\log_2 p$ bits: nothing at $p = 1$, one bit at $p =
# 1/2$, eight bits at $p = 1/256$, which is blind guessing. The mean over a text is its **bits per
# byte**. Lower is better.
#
# By hand, on one window of the held-out code. Position $t$ of the model's answer is about byte
# $t+1$, so inputs and targets are the same text shifted by one:

# %%
window = code.heldout[: CONTEXT + 1]
ids = torch.tensor(list(window))[None]  # (1, 65)
with torch.no_grad():
    logits = model(ids[:, :-1])  # (1, 64, 256)
# The probability of the byte that came
p = logits.softmax(-1)[0, torch.arange(CONTEXT), ids[0, 1:]]
by_hand = -p.log2().mean().item()

assert abs(by_hand - pk.toy.bits_per_byte(model, window, CONTEXT)) < 1e-4
print(
    f"{by_hand:.4f} bits per byte; dearest byte {-p.min().log2():.1f} bits, cheapest"
    f" {-p.max().log2():.4f}"
)

# %% [markdown]
# Now many windows, of both texts. Which one do you expect to be dearer? And what will happen if the
# model sees more of the text before each byte?

# %%
for context in (16, 64, 256):
    costs = [
        pk.toy.bits_per_byte(model, text.heldout, context, windows=2048 // context)
        for text in (prose, code)
    ]
    print(f"windows of {context:3}: prose {costs[0]:.3f}, code {costs[1]:.3f} bits per byte")

# %% [markdown]
# Longer windows make every byte cheaper: the first bytes of a window are guessed from almost
# nothing. So a cost means something only beside the window length, and two costs may be compared
# only at the same one. Below it is 64 throughout.
#
# Which text is cheaper does not say which one the model *knows* better. The texts are not equally
# hard: code, for one, repeats its own names, and prose does not. The fair question is how the cost
# of **one** text changes.
#
# Before any training, let the model continue the first lines of a class. Each next byte is drawn
# from its probabilities.


# %%
PROMPT = b"class Stack:\n    def __init__(self, items):\n        self.items = "
prompt = torch.tensor(list(PROMPT))[None]


def show(model):
    """How the model goes on, with a bar where it takes over."""
    text = bytes(model.generate(prompt, 80, temperature=0.7)[0].tolist())
    print(PROMPT.decode(), text[len(PROMPT) :].decode(errors="replace"), sep="▌")


show(model)

# %% [markdown]
# What comes after the bar is the model's own. Documentation has a few lines of Python in it here
# and there, so code is not quite new to the model; but it does not keep it up for long.
#
# ## Three ways to adapt it
#
# **Fine-tuning** means to train a trained model a little more, on the new **domain**, here code. We
# freeze the model and put an adapter on each of its 16 linear layers.
#
# - LoRA of rank 8: $\Delta W = BA$ (arXiv 2106.09685, Eq. 3).
# - PERA of rank 8: $\Delta W = BA + \sum_{i \le j} h_{ij}\,(b_i \circ b_j)(a_i \circ a_j)^\top$
#   (arXiv 2604.11841, Eq. 9). It trains $r(r+1)/2 = 36$ more numbers a layer, the $h_{ij}$.
# - LoRA **with matched parameters**: some layers get rank 9, until LoRA has as many numbers as
#   PERA, or as nearly as whole ranks allow without having more. Without this row a reader could
#   say: of course the larger one wins.

# %%
TARGETS = "all-linear"


def adapted(method, seed=0):
    """A fresh model with adapters whose start is drawn from `seed`.

    And the report of what was attached.
    """
    fresh = pk.toy.load("tiny")
    torch.manual_seed(seed)
    return fresh, pk.attach(fresh, method, TARGETS)


for method in (pk.LoRA(rank=8), pk.PERA(rank=8)):
    fresh, report = adapted(method)
    # An adapter that is not trained yet changes nothing, bit for bit
    assert torch.equal(fresh(ids), model(ids))
    print(
        f"{method.name}: {report.trainable:,} trained numbers in {len(report.rows)} layers,"
        f" {report.percent:.2f} % of the model"
    )

matched = finetune.matched_lora(model, finetune.uniform(model, pk.PERA(rank=8), TARGETS))
print(
    f"{matched.label}: rank 9 in",
    [name for name, method in matched.methods.items() if method.rank == 9],
)

# %% [markdown]
# The 576 numbers that PERA has more are little: they buy one more rank in one layer out of 16. So
# the matched LoRA is almost the same model as the plain one. Keep that in mind; it will be useful.
#
# ## The training loop, by hand
#
# A step takes some random windows of the training text, asks the model for the probability of every
# next byte, and moves the trained numbers so that the cost falls. **AdamW** is the usual way to
# move them: gradient descent in which every number has a step length of its own. PyTorch's
# `cross_entropy` is the mean of $-\ln p$; dividing by $\ln 2$ turns it into bits.


# %%
def train_by_hand(model, text, steps, lr=5e-3, seed=0):
    """Train what requires grad.

    Returns the cost of each step's windows before that step, in bits per byte.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=lr, weight_decay=0.0)
    text = torch.frombuffer(bytearray(text), dtype=torch.uint8)
    draw = torch.Generator().manual_seed(seed)
    costs = []
    for _ in range(steps):
        starts = torch.randint(len(text) - CONTEXT, (BATCH,), generator=draw)
        rows = torch.stack([text[k : k + CONTEXT + 1] for k in starts]).long()  # (4, 65)
        loss = F.cross_entropy(model(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        costs.append(loss.item() / math.log(2))
    return costs


fresh, _ = adapted(pk.LoRA(rank=8))
frozen = fresh.transformer.h[0].mlp.c_fc.base.weight.clone()
costs = train_by_hand(fresh, code.train, STEPS)

assert torch.equal(frozen, fresh.transformer.h[0].mlp.c_fc.base.weight)  # the base has not moved
print(
    f"training windows, bits per byte: first 10 steps {np.mean(costs[:10]):.3f}, last 10 steps"
    f" {np.mean(costs[-10:]):.3f}"
)

# %% [markdown]
# That is all there is to it. The dozen lines never ask which method they train: they see numbers
# that require a gradient.
#
# The two means are noisy, since every step has other windows. To know what was learned we have to
# measure on held-out text. And for a comparison a loop should do some more: let the learning rate
# rise over the first steps and fall to zero, cut off gradients that are too large, look at held-out
# text now and then, and survive being interrupted. `perakit.toy.train` is our loop with these
# additions.
#
# ## A fair comparison
#
# Before looking at any result, write down what makes it fair. All methods must have
#
# - the same training text, in the same order: the same **seed** for the random windows;
# - the same number of steps, and the same held-out windows at the end;
# - the same learning rate, or each its own best one, tuned with equal effort;
# - the same start, as far as they share one: LoRA and PERA of the same rank draw the same $A$ from
#   the same seed;
# - the same number of trained numbers, or a row that shows what the difference buys;
# - several seeds.
#
# One table is rarely all of that. The paper, for instance, takes its LoRA results from other
# papers, which used other learning rates (arXiv 2604.11841, section 4). Ours has one learning rate
# for all, which nobody tuned, and at first one seed.
#
# `finetune.compare` trains each trial from the same start and measures it. What do you expect:
# which row wins, and by how much?

# %%
recipe = pk.toy.Recipe(
    steps=STEPS, batch=BATCH, context=CONTEXT, lr=1e-2, warmup=10, eval_every=10, eval_windows=32
)
trials = [
    finetune.uniform(model, method, TARGETS) for method in (pk.LoRA(rank=8), pk.PERA(rank=8))
] + [matched]
folder = tempfile.TemporaryDirectory()
with capture_output():  # of the progress bars
    result = finetune.compare("tiny", trials, code, prose, recipe, Path(folder.name))
result.table()

# %% [markdown]
# *New domain* and *old domain* are held-out costs of code and prose. Read the table from the right.
#
# 1. **Order share** first: the size of PERA's polynomial part beside its linear part, $\lVert \sum
#    h_{ij} (\dots) \rVert_F \,/\, \lVert BA \rVert_F$. It is a fraction of one percent. Numerically
#    this PERA is nearly a LoRA.
# 2. **Merged − factored**: whether the layer computes the matrix that it claims. It does, to the
#    rounding of float32 ([notebook 09](09_merging.ipynb)).
# 3. Then the costs. PERA and LoRA of rank 8 agree to 0.002 bits, usually in every digit that is
#    printed. That was to be expected: same start, same windows, and almost the same update.
# 4. The matched LoRA differs from plain LoRA by one rank in one layer, *and by its random start*:
#    the larger factor of that layer took more random numbers, so all later layers got other ones.
#    Its distance from plain LoRA is therefore a mixture of the rank and of chance. How large is
#    chance? One seed cannot say.

# %%
lora, pera, other = result.outcomes
assert pera.order_share < 0.01
assert abs(pera.new - lora.new) < 0.002
assert all(outcome.merge_gap_relative < 1e-5 for outcome in result.outcomes)
print(
    f"PERA − LoRA:         {pera.new - lora.new:+.5f} bits per byte, order share"
    f" {pera.order_share:.4%}"
)
print(f"matched LoRA − LoRA: {other.new - lora.new:+.5f} bits per byte")

# %% [markdown]
# So this comparison says nothing about whether products help, in either direction. **A tie is a
# result**: it says that from the published start, in a run as short as this of this small model,
# the two methods did the same. Without the share we would have seen equal numbers and not known
# why.
#
# The same, drawn. Where lines coincide, the lower one is wide and pale.

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8))
plots.plot_loss(result.runs, ax=left)
plots.plot_heldout(result.runs, ax=right).set_title("Held-out code")
for ax in (left, right):
    for line, width, alpha in zip(ax.lines, (8, 4, 1.4), (0.35, 0.6, 1), strict=True):
        line.set(linewidth=width, alpha=alpha, markersize=2 + width, linestyle="-")
    ax.legend(handlelength=2.8, fontsize="small")

# %% [markdown]
# (A token of this model is a byte.) The training loss jumps about, because each step has other
# windows; over so few steps it may even seem to rise. All three runs saw the same ones, so they
# jump together. The held-out cost falls smoothly; it is always measured on the same windows.
#
# ## Why is the share so small, and where?
#
# Adapters can be loaded again from where the comparison saved them. `theory.order_share` reads the
# share, layer by layer:

# %%
published = pk.toy.load("tiny")
pk.load(published, Path(folder.name) / trials[1].folder / "adapter")
share = theory.order_share(published)
h = torch.cat([adapter.h.detach() for adapter in pk.adapters(published).values()])
A = torch.cat([adapter.A.detach().flatten() for adapter in pk.adapters(published).values()])
B = torch.cat([adapter.B.detach().flatten() for adapter in pk.adapters(published).values()])
print(
    f"typical size of an entry: A {A.abs().median():.3f}, B {B.abs().median():.3f}, h"
    f" {h.abs().median():.3f}"
)
print(f"a linear term B A: {B.abs().median() * A.abs().median():.1e}")
print(f"a product h B B A A: {h.abs().median() * (B.abs().median() * A.abs().median()) ** 2:.1e}")
assert share.overall == pera.order_share

# %% [markdown]
# All these numbers are well below 1, and a product of small numbers is smaller still. A linear term
# multiplies two of them, a polynomial term five. $h$ starts at zero, and AdamW moves no number by
# much more than the learning rate in a step.
#
# One way out is a constant: `PERA(feature_scale=s)` multiplies the polynomial part by $s$. It is
# not in the paper; there $s = 1$. Here we take $s = 192$, the width of the model. What do you
# expect of the share, and what of the cost?

# %%
scaled, _ = adapted(pk.PERA(rank=8, feature_scale=192))
with capture_output():
    pk.toy.train(scaled, code, recipe)
new_domain = pk.toy.bits_per_byte(scaled, code.heldout, CONTEXT, recipe.eval_windows)
scaled_share = theory.order_share(scaled)
print(f"LoRA:                order share {0:8.3%}, new domain {lora.new:.4f}")
print(f"feature_scale = 1:   order share {share.overall:8.3%}, new domain {pera.new:.4f}")
print(f"feature_scale = 192: order share {scaled_share.overall:8.3%}, new domain {new_domain:.4f}")
assert all(scaled_share.layers[name] > 20 * share.layers[name] for name in share.layers)

# %%
figure, axes = plt.subplots(1, 2, figsize=(11, 4.6), sharex=True, sharey=True)
for ax, one, s in zip(axes, (share, scaled_share), (1, 192), strict=True):
    plots.plot_order_share(one, ax=ax).set_title(
        f"How much of the update is high-order? feature_scale = {s}"
    )
axes[1].set_ylabel("")
_ = axes[0].set_xlim(1e-5, 1)

# %% [markdown]
# The share is much larger in every layer. Now the polynomial part is really there, and the
# comparison could show something. Compare the costs above: how far is this one from LoRA's? Before
# we make anything of the answer, we need to know how far is far.
#
# ## One seed is noise
#
# A **seed** decides the random start and the random windows. Another seed gives another number, for
# no better reason. How far apart would two runs of *the same* method be? Three seeds are the least
# that shows it. For each seed all methods get the same start and the same windows, so that they can
# be compared in pairs. The runs above had seed 0; we add two more.

# %%
methods = {
    "LoRA": pk.LoRA(rank=8),
    "PERA": pk.PERA(rank=8),
    "PERA, scale 192": pk.PERA(rank=8, feature_scale=192),
}


def costs_of(model):
    """Held-out cost of the new and of the old domain."""
    return [
        pk.toy.bits_per_byte(model, text.heldout, CONTEXT, recipe.eval_windows)
        for text in (code, prose)
    ]


runs = {
    "LoRA": [(lora.new, lora.old)],
    "PERA": [(pera.new, pera.old)],
    "PERA, scale 192": [costs_of(scaled)],
}
for name, method in methods.items():
    for seed in SEEDS[1:]:
        one, _ = adapted(method, seed)
        with capture_output():
            pk.toy.train(one, code, replace(recipe, seed=seed, eval_every=STEPS))
        runs[name].append(costs_of(one))
new = {name: [cost for cost, _ in found] for name, found in runs.items()}
old = {name: [cost for _, cost in found] for name, found in runs.items()}

# %%
figure, axes = plt.subplots(1, 2, figsize=(11, 3.6), sharey=True)
plots.plot_scores(new, xlabel="held-out bits per byte of code", title="New domain", ax=axes[0])
plots.plot_scores(
    old,
    xlabel="held-out bits per byte of prose",
    title="Old domain",
    baseline=result.before[1],
    ax=axes[1],
)
for ax in axes:
    ax.locator_params(axis="x", nbins=5)
axes[1].set_ylabel("")

spread = np.ptp(new["LoRA"])
for name in ("PERA", "PERA, scale 192"):
    assert np.abs(np.subtract(new[name], new["LoRA"])).max() < spread
    print(
        f"{name} − LoRA, seed by seed:", *(f"{d:+.4f}" for d in np.subtract(new[name], new["LoRA"]))
    )
print(f"LoRA, largest − smallest over seeds: {spread:.4f}")

# %% [markdown]
# The dots of one row, which are seeds, lie apart; those of one column, which are methods, nearly
# coincide. Whoever ran LoRA with one seed and PERA with another could "find" that either is better.
#
# The bar is a 95 % interval for the mean of each method. With three seeds it is wide: three numbers
# say little about a spread. For methods that ran on the same seeds look at the printed differences
# instead, seed by seed. A difference is worth reporting when it has the same sign in many seeds and
# is larger than its own spread, and when the share says that there was something to differ. Three
# equal signs are nothing: three coins show the same side in one case of four.
#
# Whether PERA's products ever bring more than LoRA of equal cost is an open question; the
# [claim](../docs/claims.md#gain-is-high-order) says what an answer would need. Nothing here answers
# it: a few steps, one small model, one learning rate.
#
# ## What was forgotten
#
# The right picture has the other half of the story. Every dot is to the right of the dashed line,
# the cost of prose before training: the model became better at code and worse at prose. This is
# **forgetting**. With an adapter it is not final, because the base is untouched:

# %%
assert min(map(min, old.values())) > result.before[1]
assert max(map(max, new.values())) < result.before[0]

with pk.disabled(published):
    without = pk.toy.bits_per_byte(published, prose.heldout, CONTEXT, recipe.eval_windows)
assert without == result.before[1]  # not nearly: the same number
print(
    f"prose: before {result.before[1]:.4f}, adapted {pera.old:.4f}, adapter switched off"
    f" {without:.4f}"
)

# %% [markdown]
# A report of a fine-tuning run that has no number for the old domain leaves out half of the result.
#
# ## The learning rate is a part of the result
#
# All runs above had one learning rate, which nobody tuned. How much of a result is the rate? To see
# that takes more runs than fit on this page. perakit has them stored, with their settings, in the
# folder [docs/results](../docs/results/rank.md) of its repository. `rank.jsonl` there has LoRA and
# PERA at several ranks. Each was trained at several rates; **validation text**, which is neither
# trained on nor used for the final cost, chose among them.
#
# What do you expect the cost to do as the rate grows? And is the best rate the same for rank 1, 8
# and 32?

# %%
from perakit.classroom.exercises.lesson10 import stored, tuned

costs = tuned("rank")  # arm -> learning rate -> validation cost; from docs/results/rank.jsonl
steps = {row["settings"]["recipe"]["steps"] for row in stored("rank").of("tuning")}
best = {}
figure, ax = plt.subplots(figsize=(7.2, 4.4))
for k, rank in enumerate((1, 8, 32)):
    for name, style in (
        ("LoRA", {"linewidth": 7, "alpha": 0.3}),
        ("PERA", {"linewidth": 1.2, "marker": "o", "markersize": 5, "markerfacecolor": "white"}),
    ):
        curve = costs[f"{name} r={rank}"]
        ax.plot(
            list(curve), list(curve.values()), color=f"C{k}", label=f"{name}, rank {rank}", **style
        )
    best[rank] = min(curve, key=curve.get)
    ax.plot(best[rank], curve[best[rank]], "*", color=f"C{k}", markersize=14)
lowest = min(min(curve.values()) for curve in costs.values())
ax.set(
    xscale="log",
    ylim=(lowest - 0.02, lowest + 0.2),
    xlabel="learning rate",
    ylabel="validation bits per byte",
    title=f"A U for each rank, after {max(steps)} steps; a star at its lowest point",
)
ax.set_xticks(list(curve), [f"{rate:g}" for rate in curve])
ax.set_xticks([], minor=True)
_ = figure.legend(ncols=3, fontsize="small", loc="outside lower center")

# %%
print("learning rate", *(f"{rate:>9g}" for rate in curve))
for rank in (1, 8, 32):
    for name in ("LoRA", "PERA"):
        found = costs[f"{name} r={rank}"]
        print(f"{name}, rank {rank:2}", *(f"{cost:9.4f}" for cost in found.values()))
        assert min(found, key=found.get) == best[rank]
    lora_costs, pera_costs = costs[f"LoRA r={rank}"], costs[f"PERA r={rank}"]
    assert all(abs(lora_costs[x] - pera_costs[x]) < 1e-3 for x in curve if x <= best[rank])
assert best[1] > best[32]

# %% [markdown]
# Each curve is a U. With too small a rate the run is not done when the steps are over; with too
# large a one it shakes, or blows up, and its points leave the frame. PERA's thin line lies on
# LoRA's wide one, at every rate up to the best: the tie from above again.
#
# And the U moves to the left as the rank grows, its right wall most visibly. (On so coarse a grid
# two ranks may share a star.) Here $\alpha = r$, so the scale $\alpha/r$ is 1 at every rank, and a
# larger rank has more terms that move in each step. So who compares two ranks at *one* rate
# compares a place on one U with another place on another U. Exercise 3 makes a verdict of that.
#
# ## Reading a table of evidence
#
# The same question comes back in every table. Here is one about forgetting, made from
# [docs/results/forgetting.jsonl](../docs/results/forgetting.md): three methods, each at the rate
# that one tuning seed preferred, on the same seeds. Read it with the rate beside the result.

# %%
evidence = stored("forgetting")
costs_by_arm = {arm: tuned("forgetting")[arm] for arm in ("LoRA", "DoRA", "HiRA")}
chosen = {arm: min(by_rate, key=by_rate.get) for arm, by_rate in costs_by_arm.items()}
scatter = {
    arm: np.std(evidence.scores(arm, "validation", lr=chosen[arm]), ddof=1) for arm in costs_by_arm
}

print("arm    learning rate   new domain   old domain   scatter of the validation cost")
for arm, rate in chosen.items():
    on_new, on_old = (np.mean(evidence.scores(arm, what, lr=rate)) for what in ("new", "old"))
    print(f"{arm:6} {rate:13g} {on_new:12.4f} {on_old:12.4f} {scatter[arm]:12.4f}")
on_old = {arm: evidence.scores(arm, "old", lr=chosen[arm]) for arm in ("DoRA", "LoRA")}
more = np.subtract(on_old["DoRA"], on_old["LoRA"])
print("DoRA − LoRA, old domain, seed by seed:", *(f"{d:+.4f}" for d in more))
assert (more > 0).all()

rates = sorted(set.union(*map(set, costs_by_arm.values())))
print("\nvalidation cost by learning rate, on one tuning seed:")
print("arm   ", *(f"{rate:>8g}" for rate in rates))
for arm, by_rate in costs_by_arm.items():
    print(f"{arm:6}", *(f"{by_rate[rate]:8.4f}" if rate in by_rate else 8 * " " for rate in rates))

# %% [markdown]
# The table says: DoRA forgets more than LoRA. The sign is the same on all seeds, and the difference
# is large beside its own spread. Would you publish it?
#
# Look at the rates first, and at the lower part, from which they were chosen. A tuning run is one
# draw of a start and of windows; another seed would have had another cost. The *scatter* is the
# standard deviation of such costs over the seeds. How far apart are DoRA's two lowest costs, beside
# its scatter? A rate that lies within the scatter of the best was not beaten by it. A verdict about
# *methods* has to hold at every rate that was not beaten, for both arms. One that turns round when
# the rate changes was the grid's. Exercise 4 tries it.
#
# ## Merge, sample, save and load
#
# **Merging** puts $W_0 + \Delta W$ into each layer, so that the model answers at the cost of the
# base ([notebook 09](09_merging.ipynb)). `unmerge` brings the old bits back. The same prompt as at
# the start, with the merged PERA model:

# %%
factored = published(prompt)
report = pk.merge(published)
gap = (published(prompt) - factored).abs().max() / factored.abs().max()
show(published)
print(f"\nlargest difference of a logit, merged and factored: {gap:.0e} of the largest logit")
assert gap < 1e-5

# %%
pk.unmerge(published)
assert torch.equal(published(prompt), factored)

with tempfile.TemporaryDirectory() as place:
    files = pk.save(published, Path(place) / "code-adapter")
    print(
        *(f"{file.name}: {file.stat().st_size:,} bytes" for file in sorted(files.iterdir())),
        sep="\n",
    )
    again = pk.toy.load("tiny")
    pk.load(again, files)
assert torch.equal(again(prompt), factored)  # the same bits
folder.cleanup()

# %% [markdown]
# The sample is still nonsense: 20 steps of 256 bytes are five kilobytes of text. One sample proves
# nothing about a model anyway. That is why we measured costs.
#
# The saved adapter is a fraction of the model: only what was trained, and a description. It belongs
# to this base and to no other.
#
# ## With your own 124M weights
#
# The same steps work on OpenAI's GPT-2, with 124 million parameters. You need a folder with its
# `config.json`, `model.safetensors` and `tokenizer.json`, as model hubs offer it; perakit downloads
# nothing by itself here. Reading the tokenizer takes the extra `pip install "perakit[hf]"`.
#
# GPT-2 reads **tokens**, pieces of several bytes. The cost is still given in bits per *byte*, so
# that models with different tokenizers can be compared. The model is much larger: a step of this
# size takes seconds on one core. Its learning rate is usually smaller; the value below is a first
# guess that nobody tuned.

# %%
GPT2_FOLDER = None  # a folder with config.json, model.safetensors, tokenizer.json

if GPT2_FOLDER is None:
    print(
        "Not run: put the path of a folder with GPT-2's weights into GPT2_FOLDER and run this cell"
        " again."
    )
else:
    large = pk.toy.load(GPT2_FOLDER)
    methods = (pk.LoRA(rank=8), pk.PERA(rank=8), pk.PERA(rank=8, feature_scale=large.config.n_embd))
    labels = (None, None, f"PERA r=8, scale {large.config.n_embd}")
    trials = [
        finetune.uniform(large, method, TARGETS, label)
        for method, label in zip(methods, labels, strict=True)
    ]
    trials.append(finetune.matched_lora(large, trials[1]))
    out = Path("gpt2-code")  # a run that is interrupted goes on from here
    result = finetune.compare(GPT2_FOLDER, trials, code, prose, replace(recipe, lr=1e-3), out)
    print(result.table())
    print(result.outcomes[1].sample)

# %% [markdown]
# ## Exercises
#
# Write your answer into the cell under an exercise, then run the check below it. Use names of your
# own there: the folded cell after each, which has our answer, goes on with those of this page.
#
# ### Exercise 1: the first step
#
# *20 minutes · difficulty 3 of 5*
#
# Adapt two models with the same seed, one by LoRA and one by PERA, and compute the gradients of the
# loss on one batch, before any step. Compare the gradients by $B$, and look at those by $A$ and by
# $h$. What follows for the first step of training? `answer_1` is the set of the letters out of
# `"B"`, `"A"`, `"h"` whose gradients in PERA are zero, in every layer.
#
# <details><summary>Hint 1</summary>
#
# `adapted(pk.PERA(rank=8))[0]` is a fresh model. After `loss.backward()` look at `p.grad` for
# `name, p in model.named_parameters()`.
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# On paper: $B = 0$ and $h = 0$ at the start. Which derivatives of $BA + \sum h_{ij}(b_i\circ
# b_j)(a_i\circ a_j)^\top$ are not zero there?
#
# </details>

# %% tags=["your-turn"]
# Your turn
answer_1 = ...  # a set of letters

# %% tags=["self-check"]
pk.classroom.self_check("10.1", answer_1)

# %% tags=["hide-cell"] jupyter={"source_hidden": true, "outputs_hidden": true}
with pk.classroom.folded():
    rows = torch.tensor([list(code.train[k : k + CONTEXT + 1]) for k in (0, 500, 1000, 1500)])
    gradients = []
    for method in (pk.LoRA(rank=8), pk.PERA(rank=8)):
        one, _ = adapted(method, seed=0)
        F.cross_entropy(one(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten()).backward()
        gradients.append({name: p.grad for name, p in one.named_parameters() if p.grad is not None})
    for name, gradient in gradients[1].items():
        if name.endswith((".A", ".h")):
            assert not gradient.any()
        else:
            torch.testing.assert_close(gradient, gradients[0][name], rtol=1e-4, atol=1e-7)
    print(
        "B = 0, so every product is zero: h gets no gradient, A none either, and B gets LoRA's. The"
        " first step is LoRA's."
    )
    print("Claim first-step:", theory.claims["first-step"].check().verdict)

# %% [markdown]
# ### Exercise 2: forecast the share
#
# *10 minutes · difficulty 1 of 5*
#
# `theory.predicted_share(n, rank, lr, steps)` forecasts a band for the order share of a layer with
# $n$ inputs from sizes alone. The learning rate of our schedule is about 0.005 on average. Is the
# measured share within the band? What does the forecast say of a large model, $n = 4096$, rank 16,
# learning rate 0.0001, after 1000 steps? `answer_2` is the upper end of the band for the large
# model, as a fraction and not in per cent.
#
# <details><summary>Hint 1</summary>
#
# The layers of our model have 192 inputs (one kind has 768). The run had `STEPS` steps, and its
# share is `share.overall`.
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# Print what `predicted_share` returns: it shows the band. The band has the attributes `low` and
# `high`.
#
# </details>

# %% tags=["your-turn"]
# Your turn
answer_2 = ...  # a number

# %% tags=["self-check"]
pk.classroom.self_check("10.2", answer_2)

# %% tags=["hide-cell"] jupyter={"source_hidden": true, "outputs_hidden": true}
with pk.classroom.folded():
    band = theory.predicted_share(n=192, rank=8, lr=0.005, steps=STEPS)
    print(band, f"; measured {share.overall:.2e}", sep="")
    print(theory.predicted_share(n=4096, rank=16, lr=1e-4, steps=1000))
    assert band.low < share.overall < band.high

# %% [markdown]
# <details><summary>Answer</summary>
#
# It is within the band, which is wide: it lies between entries that drift at random and entries
# that all move one way. For the large model the upper end of the band is below one in a thousand. A
# forecast of sizes is no bound: measure the share in your own run.
#
# </details>
#
# ### Exercise 3: one rate for all
#
# *15 minutes · difficulty 3 of 5*
#
# Two groups ask whether rank 32 is better than rank 1. Each trains LoRA at both ranks with one
# learning rate, the same for both, "to be fair". Read `costs` from above: at which rates would a
# group report that rank 1 is better? And what comes out if each rank has its own best rate?
# `answer_3` is the set of those rates of the grid at which the cost of rank 1 is below that of rank
# 32.
#
# <details><summary>Hint 1</summary>
#
# In the figure: where is the curve of rank 1 below that of rank 32? Some of the points lie above
# the frame, so read the numbers.
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# `costs["LoRA r=1"]` and `costs["LoRA r=32"]` have the same keys, the learning rates. Compare them
# key by key.
#
# </details>

# %% tags=["your-turn"]
# Your turn
answer_3 = ...  # a set of learning rates

# %% tags=["self-check"]
pk.classroom.self_check("10.3", answer_3)

# %% tags=["hide-cell"] jupyter={"source_hidden": true, "outputs_hidden": true}
with pk.classroom.folded():
    low, high = costs["LoRA r=1"], costs["LoRA r=32"]
    for rate in low:
        winner = "rank 1" if low[rate] < high[rate] else "rank 32"
        print(
            f"rate {rate:g}: rank 1 {low[rate]:.4f}, rank 32 {high[rate]:.4f}: {winner} is better"
        )
    gain = min(low.values()) - min(high.values())
    print(f"each at its own best rate: rank 32 is better by {gain:.4f} bits per byte")
    turned = {rate for rate in low if low[rate] < high[rate]}
    assert gain > 0
    assert min(low, key=low.get) in turned  # rank 1's own best rate turns the comparison round
    assert turned < set(low)

# %% [markdown]
# <details><summary>Answer</summary>
#
# The group that takes rank 1's best rate finds that rank 1 is better, and so does every group with
# a higher rate. With its own best rate each, rank 32 is better. "The same learning rate for all" is
# not fair to both: it is a place on two different Us. Fair is the same *effort* of tuning, and a
# verdict that says at which rates it holds.
#
# </details>
#
# ### Exercise 4: a verdict that was the grid's
#
# *25 minutes · difficulty 4 of 5*
#
# Read the table above: "DoRA forgets more than LoRA", at the rates that tuning chose. Call a rate
# of an arm *possible* if its validation cost is at most the scatter of that arm above its best one.
# At which pairs of rates must the two be compared, before the sentence is one about methods? Then
# train both at those rates with `adapted` and `pk.toy.train`, and look at what each forgets.
# `answer_4` is the set of all possible pairs, `{(LoRA's rate, DoRA's rate), ...}`; the table shows
# one of them.
#
# <details><summary>Hint 1</summary>
#
# Two steps. First a list of possible rates for LoRA, and one for DoRA: both are printed above, with
# the scatter. Then all pairs of the two lists.
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# `costs_by_arm[arm]` maps rates to costs and `scatter[arm]` is the standard deviation. Keep the
# rates with `cost <= min(costs.values()) + scatter`. `{(a, b) for a in one for b in other}` is the
# set of pairs.
#
# </details>

# %% tags=["your-turn"]
# Your turn
answer_4 = ...  # a set of pairs

# %% tags=["self-check"]
pk.classroom.self_check("10.4", answer_4)

# %% tags=["hide-cell"] jupyter={"source_hidden": true, "outputs_hidden": true}
with pk.classroom.folded():
    possible = {
        arm: [
            rate for rate, cost in by_rate.items() if cost <= min(by_rate.values()) + scatter[arm]
        ]
        for arm, by_rate in costs_by_arm.items()
    }
    forgotten = {}
    for arm, method in (("LoRA", pk.LoRA(rank=8)), ("DoRA", pk.DoRA(rank=8))):
        for rate in possible[arm]:
            one, _ = adapted(method)
            with capture_output():
                pk.toy.train(one, code, replace(recipe, lr=rate, eval_every=STEPS))
            forgotten[arm, rate] = costs_of(one)[1] - result.before[1]
    differences = {
        (a, b): forgotten["DoRA", b] - forgotten["LoRA", a]
        for a in possible["LoRA"]
        for b in possible["DoRA"]
    }
    for (a, b), difference in differences.items():
        mark = "   <- the table's pair" if (a, b) == (chosen["LoRA"], chosen["DoRA"]) else ""
        print(f"LoRA at {a:g}, DoRA at {b:g}: DoRA forgets {difference:+.4f} bits per byte{mark}")
    by_rate = costs_by_arm["DoRA"]
    assert by_rate[chosen["LoRA"]] - by_rate[chosen["DoRA"]] < scatter["DoRA"] / 100
    shown = differences[chosen["LoRA"], chosen["DoRA"]]
    equal = [difference for (a, b), difference in differences.items() if a == b]
    assert min(differences.values()) < 0 < shown
    assert equal
    assert max(map(abs, equal)) < shown / 3

# %% [markdown]
# <details><summary>Answer</summary>
#
# In these short runs (one seed, `STEPS` steps) the difference has one sign at the table's pair and
# the other sign at the opposite pair. At equal rates it is a small part of the table's. So most of
# the difference came with the rate: who trains with a larger rate moves farther, and forgets more.
# Tuning had preferred DoRA's larger rate by less than a hundredth of its scatter.
#
# A careful table has every possible rate of both arms, and its verdict is the weakest of them. Here
# that is: undecided. (One more caution. The scatter is that of costs over seeds. Arms and rates
# that share a seed share their windows, so *differences* scatter less. A sharper rule would compare
# the rates seed by seed, and it needs several tuning seeds: so do the pages of
# [docs/results](../docs/results/forgetting.md), whose first edition had this very table.)
#
# </details>
#
# ### Exercise 5: referee a claim
#
# *15 minutes · difficulty 3 of 5*
#
# A report says: "PERA r=8 reached 1.9312 bits per byte, LoRA r=8 1.9345, on the same text. The
# products help." Name at least four things that you would ask before you believe the second
# sentence. One of them is the number of seeds. If the two methods were equal, each seed would be a
# coin. How many seeds with the *same* sign does it take, so that coins, all showing one side or all
# the other, would do it in fewer than one case of twenty? `answer_5` is this number.
#
# <details><summary>Hint 1</summary>
#
# Who ran what, on how many seeds, at which rates, and how large was the order share?
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# Above it says: three coins show the same side in one case of four. How does that number come
# about, and what is it for one coin more?
#
# </details>

# %% tags=["your-turn"]
# Your turn
answer_5 = ...  # a whole number

# %% tags=["self-check"]
pk.classroom.self_check("10.5", answer_5)

# %% [markdown]
# <details><summary>Answer</summary>
#
# How many seeds, and is the difference of the same sign in each? All of $N$ coins show one side
# with probability $2 \cdot 2^{-N}$, which is below $1/20$ from $N = 6$ on. Were the start and the
# windows the same, or does each row have its own draw? Was the learning rate tuned for both, with
# the same effort, and does the sign hold at every rate that tuning could not tell apart? What is
# the order share: if it is far below one percent, the products are a poor explanation. Is there a
# LoRA with matched parameters? Was the held-out text used to choose something, such as the number
# of steps? What happened to the old domain? And a control in which the products are taken out of
# the trained PERA ($h = 0$): does the cost change?
#
# </details>

# %% [markdown]
# ## Where to go next
#
# - [Notebook 11](11_family.ipynb): LoRA's other relatives, on the same layers.
# - [Notebook 12](12_interaction.ipynb): whether features act together, before and after
#   fine-tuning.
# - [Methods](../docs/methods.md): one page for each method, and what works with what.
# - Claims: [whether the gain is high-order](../docs/claims.md#gain-is-high-order), open; [the share
#   at the start](../docs/claims.md#share-at-the-start), verified.
