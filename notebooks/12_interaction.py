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
# # 12 Interaction strength, and what it measures
#
# Do two inputs act *together* on an output, or each on its own? The paper on PERA answers with a
# number, the interaction strength (arXiv 2604.11841, Eq. 12). At the end of this notebook you can
# compute it by hand, prove that it is zero for one layer with LoRA or PERA, measure it in a small
# language model with intervals, and say what a difference between two models does and does not
# show.
#
# You need PERA's formula, from [notebook 03](03_equation_nine.ipynb), and partial derivatives.
# [Notebook 10](10_fine_tuning.ipynb) helps with the second half. About 30 minutes to read, 20
# seconds to run.

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch

import perakit as pk
from perakit import plots, theory

plt.style.use(plots.STYLE)
_ = torch.manual_seed(0)

WINDOWS = 12  # pieces of text: 48 for narrower intervals, about four times as long
STEPS = 20  # training steps: 300 for models that differ more from the base, half a minute

# %% [markdown]
# ## Acting together
#
# Let $f(x)$ be one number that depends on a vector of features $x_1, \dots, x_d$. If $f(x) =
# g_1(x_1) + g_2(x_2)$, each feature acts on its own: what a change of $x_1$ does is the same for
# every $x_2$. The second derivative $\partial^2 f/\partial x_1\partial x_2$ is then zero
# everywhere. Where it is not zero, the effect of $x_1$ depends on $x_2$. The interaction strength
# is its mean size over some points $x$ (arXiv 2604.11841, Eq. 12):
#
# $$S_{ij} = \mathbb E\,\Bigl|\frac{\partial^2 f}{\partial x_i\,\partial x_j}\Bigr| .$$
#
# **A clash of names.** The paper writes $h_i$ for the features here, and $h_{ij}$ for PERA's
# trained coefficients elsewhere. They have nothing to do with each other. We write $x_i$ for
# features and keep $h$ for coefficients.
#
# From first principles, a second derivative is a difference of differences, with a small step
# $\varepsilon$:
#
# $$\frac{\partial^2 f}{\partial x_i\,\partial x_j} \approx
# \frac{f(x + e_i + e_j) - f(x + e_i - e_j) - f(x - e_i + e_j) + f(x - e_i -
# e_j)}{4\varepsilon^2},$$
#
# where $e_i$ is a step of length $\varepsilon$ in coordinate $i$.


# %%
def by_differences(f, points, step=1e-3):
    d = points.shape[1]
    S, e = np.zeros((d, d)), step * torch.eye(d, dtype=points.dtype)
    for i in range(d):
        for j in range(d):
            for x in points:
                a, b = e[i], e[j]
                second = (f(x + a + b) - f(x + a - b) - f(x - a + b) + f(x - a - b)) / (4 * step**2)
                S[i, j] += abs(float(second)) / len(points)
    return S


# %% [markdown]
# A function small enough to do on paper: $f(x) = x_1x_2^2 + \sin x_3$. Before you run the cell,
# write down the 3 × 3 table of second derivatives. Which entries are zero? Which do not depend on
# the point?


# %%
def small(x):
    return x[0] * x[1] ** 2 + torch.sin(x[2])


points = torch.tensor([[1.0, 2.0, 0.5], [1.0, -4.0, 0.5]], dtype=torch.float64)
print(by_differences(small, points).round(4))
exact = np.array([[0, 6, 0], [6, 2, 0], [0, 0, np.sin(0.5)]])
assert np.allclose(by_differences(small, points), exact, atol=1e-5)

# %% [markdown]
# $\partial^2 f/\partial x_1\partial x_2 = 2x_2$, so 4 and −8 at the two points: their *sizes* have
# the mean 6. $S_{22} = 2$ comes from $2x_1$, and $S_{33}$ from the sine alone.
#
# **A first trap.** $S_{33}$ is not zero, yet $x_3$ acts on its own. The diagonal measures curvature
# in one feature, not two features together. In this notebook a mean over pairs leaves the diagonal
# out.
#
# Differences have a weakness: the step. Too large, and the formula is inexact; too small, and
# rounding, divided by $\varepsilon^2$, takes over. Automatic differentiation has no step: it
# applies the rules of calculus to each operation, twice.


# %%
def by_autograd(f, points):
    # The (d, d) table of second derivatives
    tables = [torch.autograd.functional.hessian(f, x) for x in points]
    return torch.stack(tables).abs().mean(0).numpy()


print("by autograd:", np.abs(by_autograd(small, points) - exact).max(), "away from the exact table")
assert np.allclose(by_autograd(small, points), exact, rtol=1e-12)
assert np.allclose(
    by_autograd(small, points), theory.interaction_strength(small, points), rtol=1e-12
)

# %%
steps = np.logspace(-7, 0, 29)
errors = [np.abs(by_differences(small, points, step) - exact).max() for step in steps]
_, ax = plt.subplots(figsize=(6.0, 3.4))
ax.plot(steps, errors, marker="o", markersize=4)
ax.set(xscale="log", yscale="log", xlabel=r"step $\varepsilon$", ylabel="largest error of an entry")
_ = ax.set_title("Errors of differences: rounding on the left, a coarse step on the right")
assert min(errors) < 1e-6 < errors[0]

# %% [markdown]
# The best step is near the fourth root of the machine precision, $10^{-4}$. From here on we use
# `theory.interaction_strength`, which is `by_autograd` with all points at once.
#
# ## One linear layer: zero
#
# Take one layer with an adapter, and as $f$ any fixed combination of its outputs, $f(x) =
# w^\top\bigl((W_0 + \Delta W)x + b\bigr)$. What is $S$ for LoRA? For PERA, which multiplies columns
# and rows? The proof is one line:
#
# $$\nabla f(x) = (W_0 + \Delta W)^\top w \ \text{ does not depend on } x, \text{ so its derivative
# is } 0. \qquad\square$$
#
# It does not ask how $\Delta W$ was made. PERA's products are products of *factors* and not of
# inputs ([notebook 08](08_kernels.ipynb) has this difference at length).

# %%
generator = torch.Generator().manual_seed(0)
m, n, rank = 8, 6, 2
shapes = ((m, n), (m, rank), (rank, n), (3,), (m,), (200, n))
W0, B, A, h, w, points = (
    0.5 * torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes
)
updates = {"no adapter": 0 * W0, "LoRA": pk.formulas.lora(B, A), "PERA": pk.formulas.pera(B, A, h)}

for name, delta in updates.items():
    f = lambda x, W=W0 + delta: w @ (W @ x)  # noqa: E731
    S, rough = theory.interaction_strength(f, points), by_differences(f, points[:3], step=1e-6)
    print(f"{name:11} autograd {S.max()}, differences {rough.max():.0e}")
    assert not S.any()

# %% [markdown]
# Exactly zero, all three. The differences with a small step show something all the same: rounding,
# divided by $\varepsilon^2$. **A second trap:** who computes $S$ of a linear layer by differences,
# or in low precision, may "find" interaction. The claim is also [proved in
# symbols](../docs/claims.md#interaction-vanishes):

# %%
evidence = theory.claims["interaction-vanishes"].check()
assert evidence.holds
print(f"{evidence.verdict}: {evidence.summary}")

# %% [markdown]
# ## Something nonlinear around it
#
# Now put a tanh behind the layer, $f(x) = \sum_p w_p\tanh\bigl((Wx)_p\bigr)$ with $W = W_0 + \Delta
# W$. For which of the three do you expect $S > 0$? Calculus gives the answer in closed form:
#
# $$\frac{\partial^2 f}{\partial x_i\,\partial x_j} = \sum_p
# w_p\,\tanh''\bigl((Wx)_p\bigr)\,W_{pi}W_{pj},
# \qquad \tanh'' = -2\tanh\,(1 - \tanh^2).$$


# %%
def network(W):
    return lambda x: w @ torch.tanh(W @ x)


def closed_form(W):
    t = torch.tanh(points @ W.T)  # (N, n) @ (n, m) -> (N, m)
    return torch.einsum("kp,pi,pj->kij", w * -2 * t * (1 - t**2), W, W).abs().mean(0).numpy()


strengths = {
    name: theory.interaction_strength(network(W0 + delta), points)
    for name, delta in updates.items()
}
for name, delta in updates.items():
    assert np.allclose(strengths[name], closed_form(W0 + delta), rtol=1e-10)
    assert strengths[name].min() > 0


# %%
def draw_side_by_side(found):
    """Heat maps with one scale of colours for all."""
    axes = plt.figure(figsize=(10.4, 3.2)).subplots(1, len(found))
    top = max(S.max() for S in found.values())
    for ax, (name, S) in zip(axes, found.items(), strict=True):
        plots.plot_interaction(S, ax=ax).set_title(name)
        ax.images[0].set_clim(0, top)
    for ax in axes[:-1]:
        ax.images[0].colorbar.remove()


linear = theory.interaction_strength(lambda x: w @ ((W0 + updates["PERA"]) @ x), points)
draw_side_by_side({"PERA, no tanh": linear} | {f"{name}, tanh": S for name, S in strengths.items()})

# %% [markdown]
# (Features are counted from 0.) All three networks with a tanh have interaction, also the one
# without an adapter, and LoRA's as well. What made it is the tanh. $\Delta W$ enters the closed
# form through $W = W_0 + \Delta W$ and in no other way. Two conclusions follow.
#
# First, $S$ cannot see which method made a matrix. A PERA update is also a LoRA update, of rank $K
# = r(r+3)/2$ ([notebook 02](02_polynomial_expansion.ipynb)). Written in either way, it has one and
# the same $S$:

# %%
# PERA's rank-2 factors as factors of a LoRA of rank K = 5
B_hat, A_hat = pk.formulas.expand(B, A, h)
as_lora = theory.interaction_strength(network(W0 + pk.formulas.lora(B_hat, A_hat)), points)
print(
    "rank of the LoRA:",
    B_hat.shape[1],
    " largest difference of S:",
    np.abs(as_lora - strengths["PERA"]).max(),
)
assert np.allclose(as_lora, strengths["PERA"], rtol=1e-12)

# %% [markdown]
# Second, $S$ depends on much that is no property of a method. Two examples, with the same $B$ and
# $A$ throughout. On the left all points are multiplied by a factor. On the right PERA's
# coefficients are: $t\,h$ in place of $h$, so $t = 0$ is LoRA and $t = 1$ the PERA above. Do more
# of the products give more $S$?


# %%
def mean_of_pairs(S):
    return S[~np.eye(len(S), dtype=bool)].mean()  # without the diagonal


spreads, multiples, means = np.logspace(-1.5, 1.5, 25), np.linspace(-8, 8, 33), {}
_, (left, right) = plt.subplots(1, 2, figsize=(10.4, 3.8))
for (name, delta), line in zip(updates.items(), ("-", "--", ":"), strict=True):
    means[name] = [
        mean_of_pairs(theory.interaction_strength(network(W0 + delta), spread * points))
        for spread in spreads
    ]
    left.plot(spreads, means[name], line, label=name)
left.set(
    xscale="log",
    xlabel="factor of the points",
    ylabel="mean of $S_{ij}$, $i \\neq j$",
    title="Other points, other order",
)
left.legend()
along = [
    mean_of_pairs(theory.interaction_strength(network(W0 + pk.formulas.pera(B, A, t * h)), points))
    for t in multiples
]
right.plot(multiples, along)
right.plot([0, 1], [mean_of_pairs(strengths[name]) for name in ("LoRA", "PERA")], "ko")
for t, name in ((0, "LoRA"), (1, "PERA")):
    right.annotate(name, (t, mean_of_pairs(strengths[name])), (6, -12), textcoords="offset points")
_ = right.set(xlabel="t, the multiple of h", title="More of the products is not always more S")
assert means["PERA"][0] > means["LoRA"][0]
assert means["PERA"][-1] < means["LoRA"][-1]
assert min(along) < mean_of_pairs(strengths["LoRA"])

# %% [markdown]
# Left: at small points PERA's network is above LoRA's, at large points below. Nothing about the
# matrices changed. Far out a tanh is flat, so $S$ falls towards zero for all of them. Right: with
# the sign of $h$ turned, a little of the products gives *less* $S$ than LoRA. These are random
# factors of one seed. They show what is possible, not what is usual.
#
# There is a third dependence, so plain that it is easy to forget: the second derivative of $2f$ is
# twice that of $f$. $S$ has a unit: the unit of $f$, per unit of $x_i$ and per unit of $x_j$. Other
# units give other numbers.
#
# ## In a language model
#
# Now a small GPT-2 that reads bytes. As features we take some entries of the vector that enters a
# layer, at the last position of a piece of text; as $f$ the log-probability of the token that the
# model finds most likely there. `theory.layer_interaction` does this, and averages over the pieces,
# called *windows*.
#
# First two adapted models: LoRA and PERA of equal rank, trained for a few steps on Python code,
# with the same batches.

# %%
corpus = pk.toy.corpus.load("code", limit=200_000)  # source code of Python's own standard library
ids, heldout = (torch.tensor(list(text)) for text in (corpus.train, corpus.heldout))


def adapted(method, batch=8, context=32):
    model, generator = pk.toy.load("tiny"), torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    pk.attach(model, method, ["c_attn", "c_proj", "c_fc"])
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], lr=1e-2, weight_decay=0
    )
    for _ in range(STEPS):
        starts = torch.randint(0, len(ids) - context - 1, (batch, 1), generator=generator)
        text = ids[starts + torch.arange(context + 1)]  # (batch, context + 1)
        loss = torch.nn.functional.cross_entropy(
            model(text[:, :-1]).flatten(0, 1), text[:, 1:].flatten()
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"{method.name:5} loss of the last batch {loss.item() / np.log(2):.3f} bits per byte")
    return model


models = {"LoRA": adapted(pk.LoRA(4)), "PERA": adapted(pk.PERA(4))}
print(f"PERA's order share: {theory.order_share(models['PERA']).overall:.3%}")

# %% [markdown]
# The *order share* is the size of PERA's polynomial part beside its linear part. With the published
# start and so few steps it is small, so the two adapters are nearly the same matrices. What does
# that let you predict about their $S$?
#
# We keep one table for each window, to see how much windows differ. The features are 6 entries of
# the 192, fixed in advance. That makes 15 pairs.

# %%
LAYERS = [f"transformer.h.{k}.mlp.c_fc" for k in (1, 2, 3)]  # blocks are counted from 0
FEATURES = range(0, 192, 32)
starts = torch.linspace(0, len(heldout) - 17, WINDOWS).long()
windows = heldout[starts[:, None] + torch.arange(16)]  # (WINDOWS, 16), text that was not trained on


def tables(model, layer):
    return np.stack(
        [theory.layer_interaction(model, layer, window[None], FEATURES) for window in windows]
    )


found = {name: {layer: tables(model, layer) for layer in LAYERS} for name, model in models.items()}
with pk.disabled(models["LoRA"]):
    found = {"no adapter": {layer: tables(models["LoRA"], layer) for layer in LAYERS}} | found

# All windows in one call
together = theory.layer_interaction(models["PERA"], LAYERS[2], windows, FEATURES)
assert np.allclose(together, found["PERA"][LAYERS[2]].mean(0), rtol=1e-2, atol=1e-6)

# %%
draw_side_by_side(
    {f"{name}, block 2": by_layer[LAYERS[1]].mean(0) for name, by_layer in found.items()}
)

# %% [markdown]
# The diagonal stands out: curvature, not interaction. LoRA and PERA look alike, and the model
# without an adapter a little different. Is that little more than chance? We take the mean over the
# pairs in each window, and ask how well so few windows determine it. A *standard error* is the
# standard deviation over $\sqrt N$, here for $N$ windows. An interval of two standard errors to
# each side of the mean holds, in roughly 95 % of such experiments, the mean over all text of this
# kind.
#
# The three models saw the *same* windows. So we can also take the difference in each window and the
# interval of that. Windows differ a lot, and what two models have in common at a window cancels.
# This is called a *paired* comparison. Which of the differences do you expect to have narrow
# intervals?


# %%
def interval(values):
    return values.mean(), 2 * values.std(ddof=1) / np.sqrt(len(values))


per_window = {
    name: [np.array([mean_of_pairs(S) for S in by_layer[layer]]) for layer in LAYERS]
    for name, by_layer in found.items()
}
paired = {
    f"{one} − {other}": [a - b for a, b in zip(per_window[one], per_window[other], strict=True)]
    for one, other in (("LoRA", "no adapter"), ("PERA", "no adapter"), ("PERA", "LoRA"))
}

_, axes = plt.subplots(1, 2, figsize=(10.4, 3.8))
for ax, lines in zip(axes, (per_window, paired), strict=True):
    for k, (mark, (name, by_layer)) in enumerate(zip("os^", lines.items(), strict=True)):
        middle, half = np.array([interval(values) for values in by_layer]).T
        ax.errorbar(
            np.array([1, 2, 3]) + 0.12 * (k - 1), middle, half, fmt=mark, capsize=3, label=name
        )
    ax.set(xlabel="block of the model", xticks=[1, 2, 3])
    ax.legend()
axes[0].set(
    ylabel="mean of $S_{ij}$, $i \\neq j$",
    title=f"Means over {WINDOWS} windows, ± 2 standard errors",
    ylim=(0, None),
)
axes[1].axhline(0, color="0.5", linewidth=1, zorder=0)
_ = axes[1].set(title="Paired differences, ± 2 standard errors")

# %%
for name, by_layer in paired.items():
    print(
        f"{name:17}", "  ".join("{:+.1e} ± {:.0e}".format(*interval(values)) for values in by_layer)
    )
for layer in range(3):
    assert abs(paired["PERA − LoRA"][layer].mean()) < 0.02 * per_window["no adapter"][layer].mean()
    assert interval(paired["PERA − LoRA"][layer])[1] < 0.05 * interval(per_window["PERA"][layer])[1]

# %% [markdown]
# On the left the intervals are wide and overlap: windows differ a lot. On the right, pairing helps
# less against the model without an adapter, since training has changed some windows much and others
# hardly. Between PERA and LoRA it helps enormously: those intervals shrink to less than a
# twentieth, too small to draw. For each one, see whether it leaves zero out. PERA and LoRA differ
# by less than 2 % of $S$: they are nearly the same network.
#
# **A third trap.** Pairing makes intervals so narrow that in the last line one may well leave zero
# out, at a difference that is a tiny part of $S$. That would mean: these two *trained networks*
# differ on such windows. It would not mean that the two *methods* do. For that the thing to repeat
# is the training, with other seeds, and the interval must run over seeds. Here each method was
# trained once. Whether PERA's products cause anything in training is an open question
# ([claim](../docs/claims.md#gain-is-high-order)); this figure does not decide it.
#
# ## What a difference would show, and what not
#
# Suppose that some careful run finds larger $S$ with PERA. What follows? "PERA's layer multiplies
# features" does not, by the proof above. Only this follows: training led to weights at which the
# network *around* the layer bends more at these points. The same happens without any change of
# method. Take the LoRA model and multiply its update by $t$:

# %%
last = LAYERS[2]
model = models["LoRA"]
factors = [adapter.B for adapter in pk.adapters(model).values()]
kept = [B.detach().clone() for B in factors]
by_size = {}
with torch.no_grad():
    for t in (0.0, 0.5, 1.0, 2.0, 4.0):
        for B, original in zip(factors, kept, strict=True):
            B.copy_(t * original)
        by_size[t] = mean_of_pairs(theory.layer_interaction(model, last, windows, FEATURES))
    for B, original in zip(factors, kept, strict=True):
        B.copy_(original)
print("LoRA's update times t:", "  ".join(f"t = {t:g}: {S:.5f}" for t, S in by_size.items()))
spread = max(by_size.values()) - min(by_size.values())
assert np.isclose(by_size[0.0], per_window["no adapter"][2].mean(), rtol=1e-2)
assert spread > 10 * abs(paired["PERA − LoRA"][2].mean())

# %% [markdown]
# At $t = 0$ it is the model without an adapter. One method, one direction of update, and $S$ moves
# much more than it did between the methods. So a comparison of methods must say how large the
# updates are: a higher learning rate or a larger alpha is another explanation for another $S$.
#
# The output has its unit too. With one logit as $f$, doubling all logits doubles $S$ exactly. With
# the log-probability it does not: the softmax reacts to the scale. What do you expect there, more
# or less than twice?

# %%
plain = models["PERA"]
target = plain(windows)[:, -1].argmax(-1, keepdim=True)  # the likeliest next byte of each window


def measure(scale, log_probability):
    def output(logits):
        scores = scale * logits[:, -1]
        scores = scores.log_softmax(-1) if log_probability else scores
        return scores.gather(1, target)[:, 0]

    return mean_of_pairs(theory.layer_interaction(plain, last, windows, FEATURES, output=output))


for name, log_probability in (("one logit", False), ("log-probability", True)):
    once, twice = measure(1, log_probability), measure(2, log_probability)
    print(f"{name:15} S {once:.5f}, logits doubled {twice:.5f}: {twice / once:.3f} times")
    assert np.isclose(twice, 2 * once, rtol=1e-5) != log_probability

# %% [markdown]
# Doubled logits rank all tokens as before, so the model's top choices are the same, and $S$ is
# another. The ratio for the log-probability depends on how sure the model is at these windows;
# there is no rule such as 2 or 4.
#
# Last, merging. The merged layer is one matrix with the same function, so $S$ must stay, up to
# rounding:

# %%
before = theory.layer_interaction(plain, last, windows, FEATURES)
pk.merge(plain)
after = theory.layer_interaction(plain, last, windows, FEATURES)
print(
    "largest change by merging, as a share of the largest S:"
    f" {np.abs(after - before).max() / before.max():.0e}"
)
assert np.allclose(after, before, rtol=0, atol=1e-2 * before.max())

# %% [markdown]
# To sum up:
#
# | a difference of $S$ between two adapted models ... | |
# |:--|:--|
# | shows that their functions bend differently at the chosen points | yes |
# | shows that one adapter multiplies features of the input | no: for one layer $S = 0$ |
# | is independent of the unit of $f$ and of the features | no |
# | is independent of the size of the update, learning rate, steps | no |
# | explains a better or worse result | no: it goes with it, or not; a cause needs an intervention |
# | holds for the methods | only over repeated training, with intervals over seeds |
#
# An *intervention* changes one thing and keeps the rest: for example, train PERA, set $h = 0$
# afterwards, and measure the result again.
#
# ## Exercises
#
# Write your answer into the cell under an exercise, then run the check below it. Use names of your
# own there: the folded cell after each, which has our answer, goes on with those of this page.
#
# ### Exercise 1
#
# *15 minutes · difficulty 2 of 5*
#
# ReLU is a broken line: 0 for negative numbers, the number itself otherwise. Take first $f(x) =
# \mathrm{relu}(x_1 + x_2)$ at the one point $x = (0.1, 0.1)$. What is $S_{12}$ by autograd, and
# what by differences with the large step 0.5? Then put ReLU in place of tanh in `network`, and
# predict the same two. Which of the two would you believe about whether features act together?
# `answer_1` is the pair of numbers for the small function, `(by autograd, by differences)`.
#
# <details><summary>Hint 1</summary>
#
# What kind of function is $f$ in a small disc around the point? And does the step of 0.5 stay in
# that disc?
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# By differences it takes four values of $f$, at $0.1 \pm 0.5$ in both coordinates. Two of the four
# have the same sum, which is also that of the point itself.
#
# </details>

# %% tags=["your-turn"]
# Your turn
answer_1 = ...  # (by autograd, by differences)

# %% tags=["self-check"]
pk.classroom.self_check("12.1", answer_1)

# %% tags=["hide-cell"] jupyter={"source_hidden": true, "outputs_hidden": true}
with pk.classroom.folded():
    two = lambda x: torch.relu(x[0] + x[1])  # noqa: E731
    near = torch.tensor([[0.1, 0.1]], dtype=torch.float64)
    print(
        "the small function: autograd",
        by_autograd(two, near)[0, 1],
        " differences",
        by_differences(two, near, step=0.5)[0, 1].round(6),
    )
    assert by_autograd(two, near)[0, 1] == 0
    assert np.isclose(by_differences(two, near, step=0.5)[0, 1], 0.8)

    W = W0 + updates["PERA"]
    broken = lambda x: w @ torch.relu(W @ x)  # noqa: E731
    print("the network: autograd", theory.interaction_strength(broken, points).max())
    print(
        "differences, step 0.5: mean over pairs",
        round(mean_of_pairs(by_differences(broken, points[:20], step=0.5)), 3),
    )
    assert theory.interaction_strength(broken, points).max() == 0
    assert mean_of_pairs(by_differences(broken, points[:20], step=0.5)) > 0.01

# %% [markdown]
# <details><summary>Answer</summary>
#
# Autograd gives exactly 0: between its kinks the function is linear, and no point lies on a kink.
# Features do act together, since $\mathrm{relu}(x_1 + x_2)$ is no sum of two functions. Eq. 12 sees
# only bending at the points themselves. So $S$ also depends on the smoothness of the activation,
# and $S = 0$ does not prove that features act alone.
#
# </details>
#
# ### Exercise 2
#
# *20 minutes · difficulty 4 of 5*
#
# Build two networks that compute the *same function* of the input, and whose hidden layers have
# different $S$. Take $z = Vx$ as hidden features and $f = w^\top\tanh(Wz)$ behind them. Let the
# second network have the hidden features $Dz$, with $D$ a diagonal matrix. By what factor does
# $S_{ij}$ change? Use powers of two and check it exactly. `answer_2` is a function `(d)` that takes
# the diagonal of $D$, an array of any length whose entries may be negative, and returns the table
# of factors $S'_{ij} / S_{ij}$.
#
# <details><summary>Hint 1</summary>
#
# For the second network to compute the same, what must stand in place of $W$ behind $Dz$?
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# Its $f$ at $z'$ is the first one's at $D^{-1}z'$. The chain rule gives one factor for each of the
# two derivatives; and $S$ is a mean of sizes.
#
# </details>

# %% tags=["your-turn"]
# Your turn
answer_2 = ...  # a function (d) -> the table of factors

# %% tags=["self-check"]
pk.classroom.self_check("12.2", answer_2)

# %% tags=["hide-cell"] jupyter={"source_hidden": true, "outputs_hidden": true}
with pk.classroom.folded():
    V = torch.randn(n, n, generator=generator, dtype=torch.float64)
    D = 2.0 ** torch.tensor([1, 0, -1, 2, 0, -2], dtype=torch.float64)  # the diagonal
    first, second = network(W0), network(W0 / D)  # of z, and of D z
    x = points[0]
    assert first(V @ x) == second((D[:, None] * V) @ x)  # the same function of x
    S_first, S_second = (
        theory.interaction_strength(f, scale * (points @ V.T))
        for f, scale in ((first, 1), (second, D))
    )
    assert np.array_equal(S_second, S_first / np.outer(D, D))
    print(
        f"mean over pairs: {mean_of_pairs(S_first):.4f} and {mean_of_pairs(S_second):.4f}, for one"
        " and the same function"
    )

# %% [markdown]
# <details><summary>Answer</summary>
#
# The second network's $f$ at $z' = Dz$ is the first one's at $D^{-1}z'$, so by the chain rule
# $S'_{ij} = S_{ij} / |d_i d_j|$. Replacing $V$ by $DV$ and $W$ by $WD^{-1}$ turns each network of
# one kind into one of the other: the same class of functions. In a GPT-2 the gain of a LayerNorm
# and the layer behind it can trade such a $D$. So $S$ at a hidden layer is also a fact about how
# the function is written down.
#
# </details>
#
# ### Exercise 3
#
# *15 minutes · difficulty 3 of 5*
#
# A report says: "At layer 20 the mean interaction strength is 30 % higher with PERA than with LoRA.
# This shows that PERA captures high-order interactions, which explains its better accuracy." List
# the questions that you would ask. To see how little 30 % may be: take a network and multiply all
# its hidden features by one factor, as in exercise 2, so that it computes the same as before. Which
# factor makes $S$ 30 % higher? `answer_3` is this factor, a positive number, to three digits.
#
# <details><summary>Hint 1</summary>
#
# Unit, points, intervals, size of the update, order share, a control: what does the report say
# about each of them?
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# In exercise 2 put the same number into each entry of the diagonal. By how much does $S_{ij}$
# change then?
#
# </details>

# %% tags=["your-turn"]
# Your turn
answer_3 = ...  # a positive number

# %% tags=["self-check"]
pk.classroom.self_check("12.3", answer_3)

# %% [markdown]
# <details><summary>Answer</summary>
#
# - What is $f$, and in which unit? Were both models measured at the same points, positions and
#   features? A factor $s$ of all features divides $S$ by $s^2$, so $s = 1/\sqrt{1.3} \approx 0.877$
#   makes 30 % more of nothing.
# - Are there intervals, and over what: windows, or repeated training? Why layer 20, and what about
#   the others?
# - Were learning rate, alpha and steps the same, and how large were the two updates? A larger
#   update is another explanation.
# - What was PERA's order share? Near zero, PERA's matrices are nearly LoRA's, and the products
#   cannot be the reason.
# - What is $S$ of the model without an adapter, and of LoRA at other learning rates? That is the
#   scale for "30 %".
# - Where is the intervention? Set $h = 0$ after training, or train with other `terms`, and see
#   whether accuracy follows. As it stands, two numbers rose together.
# - "Captures": one layer with PERA has $S = 0$. So what bends is the network around it.
#
# </details>
#
# ## Where to go next
#
# - [Notebook 13](13_property_testing.ipynb): state such properties so that a machine looks for the
#   counterexample.
# - [Notebook 10](10_fine_tuning.ipynb): training runs, order share, and what a tie means.
# - [Interaction strength vanishes for one linear layer](../docs/claims.md#interaction-vanishes),
#   with its evidence.
# - [Asking questions of an update rule](../docs/theory.md#do-two-inputs-act-together): the same
#   measurement on a trained model.
