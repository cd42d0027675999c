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
# read, about half a minute to run.

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
# The same, drawn. Where lines coincide, the upper one is dashed or dotted.

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8))
plots.plot_loss(result.runs, ax=left)
_ = plots.plot_heldout(result.runs, ax=right).set_title("Held-out code")

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
# ### Exercise 1: the first step
#
# Adapt two models with the same seed, one by LoRA and one by PERA, and compute the gradients of the
# loss on one batch, before any step. Compare the gradients by $B$, and look at the gradient by $h$.
# What follows for the first step of training?

# %% tags=["hide-cell"] jupyter={"source_hidden": true}
rows = torch.tensor([list(code.train[k : k + CONTEXT + 1]) for k in (0, 500, 1000, 1500)])
gradients = []
for method in (pk.LoRA(rank=8), pk.PERA(rank=8)):
    one, _ = adapted(method, seed=0)
    F.cross_entropy(one(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten()).backward()
    gradients.append({name: p.grad for name, p in one.named_parameters() if p.grad is not None})
for name, gradient in gradients[1].items():
    if name.endswith(".h"):
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
# `theory.predicted_share(n, rank, lr, steps)` forecasts a band for the order share of a layer with
# $n$ inputs from sizes alone. The learning rate of our schedule is about 0.005 on average. Is the
# measured share within the band? What does the forecast say of a large model, $n = 4096$, rank 16,
# learning rate 0.0001, after 1000 steps?

# %% tags=["hide-cell"] jupyter={"source_hidden": true}
band = theory.predicted_share(n=192, rank=8, lr=0.005, steps=STEPS)
print(band, f"; measured {share.overall:.2e}", sep="")
print(theory.predicted_share(n=4096, rank=16, lr=1e-4, steps=1000))
assert band.low < share.overall < band.high

# %% [markdown]
# It is within the band, which is wide: it lies between entries that drift at random and entries
# that all move one way. For the large model the upper end of the band is below one in a thousand. A
# forecast of sizes is no bound: measure the share in your own run.
#
# ### Exercise 3: referee a claim
#
# A report says: "PERA r=8 reached 1.9312 bits per byte, LoRA r=8 1.9345, on the same text. The
# products help." Name at least four things that you would ask before you believe the second
# sentence.
#
# <details><summary>Answer</summary>
#
# How many seeds, and is the difference of the same sign in each? Were the start and the windows the
# same, or does each row have its own draw? Was the learning rate tuned for both, with the same
# effort? What is the order share: if it is far below one percent, the products are a poor
# explanation. Is there a LoRA with matched parameters? Was the held-out text used to choose
# something, such as the number of steps? What happened to the old domain? And a control in which
# the products are taken out of the trained PERA ($h = 0$): does the cost change?
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
