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
# # 09 Merging, precision and 4-bit
#
# A trained adapter is put into the model by one addition, $W_0 + \Delta W$. At the end of this
# notebook you can say how exact that addition is in float64, float32, float16 and bfloat16, why it
# cannot be undone by a subtraction, when it erases a small update, and what changes when $W_0$ is
# kept in 4 bits. You will round a weight to 4 bits by hand, and rebuild a PERA update from the
# files of a plain LoRA.
#
# You need [notebook 01](01_low_rank_adaptation.ipynb) (LoRA) and [notebook
# 03](03_equation_nine.ipynb) (the PERA update and its expanded factors). About 35 minutes to read,
# about 10 seconds to run.

# %%
import json
import tempfile
from pathlib import Path
from statistics import NormalDist

import matplotlib.pyplot as plt
import numpy as np
import torch
from safetensors.torch import load_file

import perakit as pk
from perakit import formulas, plots
from perakit.models import nf4

plt.style.use(plots.STYLE)
DTYPES = {
    "float64": torch.float64,
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}


def distance(X, Y):
    """‖X − Y‖ / ‖Y‖ in float64 (Frobenius norm)."""
    return ((X.double() - Y.double()).norm() / Y.double().norm()).item()


# %% [markdown]
# ## Merged and factored
#
# A layer with a PERA adapter can be computed in two ways. With the expanded factors $\hat B$ $(m,
# K)$ and $\hat A$ $(K, n)$, whose product is $\Delta W$ (arXiv 2604.11841, Eq. 2-5),
#
# $$\text{merged:}\quad y = (W_0 + \hat B \hat A)\,x \qquad\qquad \text{factored:}\quad y = W_0 x +
# \hat B\,(\hat A x).$$
#
# On paper they are the same vector: matrix multiplication is associative and distributive. In a
# computer they are not, since each operation rounds its result to a number that the format has. The
# **unit roundoff** $u$ of a format is the largest relative error of one rounding: half the gap
# between 1 and the next number, which is `finfo(dtype).eps / 2`.
#
# What do you expect: how far apart are the two vectors, in units of $u$? Here is one layer, drawn
# in float64, then rounded to each format and computed in it.


# %%
def draw(seed, m=96, n=64, rank=4):
    """A weight W0 (m, n), the factors of a PERA update on it, and an input x (n,), all float64."""
    generator = torch.Generator().manual_seed(seed)
    shapes = ((m, n), (m, rank), (rank, n), (rank * (rank + 1) // 2,), (n,))
    W0, B, A, h, x = (
        torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes
    )
    B_hat, A_hat = formulas.expand(B, A / n**0.5, h)
    return W0 / n**0.5, B_hat, A_hat, x


def merged_and_factored(seed, dtype):
    W0, B_hat, A_hat, x = (tensor.to(dtype) for tensor in draw(seed))
    return (W0 + B_hat @ A_hat) @ x, W0 @ x + B_hat @ (A_hat @ x)


apart = {
    name: [distance(*merged_and_factored(seed, dtype)) for seed in range(30)]
    for name, dtype in DTYPES.items()
}
for name, dtype in DTYPES.items():
    u = torch.finfo(dtype).eps / 2
    print(
        f"{name:8} u = {u:.1e}   typical difference {np.median(apart[name]):.1e} ="
        f" {np.median(apart[name]) / u:.1f} u"
    )

# %%
figure, ax = plt.subplots()
u = np.array([torch.finfo(dtype).eps / 2 for dtype in DTYPES.values()])
ax.plot(u, u, "--", color="0.45", label="difference = u")
for k, name in enumerate(DTYPES):
    ax.plot(np.full(30, u[k]), apart[name], "o", alpha=0.4, label=f"{name}, 30 layers")
    assert max(apart[name]) < 10 * u[k]
ax.set(
    xscale="log",
    yscale="log",
    xlabel="unit roundoff u of the format",
    ylabel="‖merged − factored‖ / ‖factored‖",
)
ax.set_title("Merged and factored differ by a few roundings, in every format")
_ = ax.legend(loc="upper left")

# %% [markdown]
# The two outputs differ by a few $u$ in every format, although every entry is a sum of 64 products:
# rounding errors have random signs and mostly cancel, and the half formats are usually summed in
# float32 and rounded at the end. So "merged = factored" is a true statement with a tolerance, and
# the tolerance belongs to the format. A test with the tolerance $10^{-2}$ passes in float64 for a
# layer that is badly wrong; one with $10^{-6}$ fails in bfloat16 for a layer that is right. perakit
# tests its layers with one tolerance for each format:

# %%
from perakit.testing import TOLERANCE

print({str(dtype): tolerance for dtype, tolerance in TOLERANCE.items()})
assert all(max(apart[name]) < TOLERANCE[dtype] for name, dtype in DTYPES.items())

# %% [markdown]
# ## In, and out again
#
# To go back from $W_0 + \Delta W$ to $W_0$, many programs subtract: `W += d` to merge, `W -= d` to
# unmerge. bfloat16 has 8 significant bits. Between 1 and 2 its numbers are $1/128$ apart, between
# $1/2$ and 1 they are $1/256$ apart. Before you run this, work out on paper what `1 + 0.003` is,
# and then what comes out at the end.

# %%
W = torch.tensor(1.0, dtype=torch.bfloat16)
d = torch.tensor(0.003, dtype=torch.bfloat16)
inside = W + d
back = inside - d
print("W =", W.item(), "  W + d =", inside.item(), "  (W + d) − d =", back.item())
assert inside == 1
assert back == 1 - 1 / 256

# %% [markdown]
# The sum is nearer to 1 than to the next number, so the update disappears. The difference is taken
# from that 1, and now $1 - 0.003$ is nearer to $1 - 1/256$ than to 1. The weight has moved by more
# than the update, and the update was never in it.
#
# Now a whole matrix, and two habits: the same adapter is put in and taken out again and again, or a
# different adapter each time, as a server does that swaps tasks. Each update is 1 % of the weight,
# $\lVert\Delta W\rVert = 0.01\,\lVert W_0\rVert$. What do you expect to happen over 200 swaps?


# %%
def small_update(seed, size, W0):
    """A PERA update with ‖ΔW‖ = size ‖W0‖, float64."""
    _, B_hat, A_hat, _ = draw(seed)
    delta = B_hat @ A_hat
    return size * W0.norm() / delta.norm() * delta


W0 = draw(0)[0]
swaps = 200
figure, ax = plt.subplots()
drift = {}
for color, (name, dtype) in enumerate(list(DTYPES.items())[1:]):
    for habit, line in (("the same adapter", ":"), ("another each time", "-")):
        W, path = W0.to(dtype), []
        for k in range(1, swaps + 1):
            d = small_update(k if habit == "another each time" else 1, 0.01, W0).to(dtype)
            W = (W + d) - d
            path.append(distance(W, W0.to(dtype)))
        drift[name, habit] = path
        ax.plot(range(1, swaps + 1), path, line, color=f"C{color}", label=f"{name}, {habit}")
ax.set(
    xscale="log",
    yscale="log",
    xlabel="times merged and unmerged by subtraction",
    ylabel="‖W − W0‖ / ‖W0‖",
)
ax.set_title("Subtraction does not bring the weight back: drift by number of swaps")
ax.set_ylim(1e-9, 2)
_ = ax.legend(ncols=2, fontsize="small", loc="upper center")

# %%
once, all_swaps = (
    drift["bfloat16", "another each time"][0],
    drift["bfloat16", "another each time"][-1],
)
print(
    f"bfloat16: {once:.1e} after one swap, {all_swaps:.1e} after {swaps}, {all_swaps / once:.0f}"
    " times as much"
)
# flat: after the first time nothing new happens
assert np.ptp(drift["bfloat16", "the same adapter"]) == 0
assert all_swaps > 5 * once

# %% [markdown]
# The dotted lines are flat. After the first time every weight is a number from which this one
# update comes back, and nothing new happens. A test that merges and unmerges *one* adapter a
# hundred times would report a small constant and miss the problem. With different adapters the
# errors add up like the steps of a random walk, about as the square root of the number of swaps.
# float32 drifts too, by less.
#
# perakit does not subtract. It keeps $W_0$ untouched beside the merged matrix, and unmerging
# forgets the merged matrix. That costs the memory of one more matrix a layer while merged, and it
# is exact: not close, but the same bits. The state dict is also the same, merged or not, so a
# checkpoint saved at the wrong moment holds no trace of the merge.

# %%
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(64, 96)).to(torch.bfloat16)
bare = model[0].weight.detach().clone()
pk.attach(model, pk.PERA(rank=4), ["0"])
pk.strategies.move(model, seed=0, size=0.1)  # as if trained: no parameter at its start value
x = torch.randn(5, 64, dtype=torch.bfloat16)

before, state = model(x), {key: value.clone() for key, value in model.state_dict().items()}
pk.merge(model)
while_merged = model(x)
same_state = list(state) == list(model.state_dict()) and all(
    torch.equal(state[key], value) for key, value in model.state_dict().items()
)
pk.unmerge(model)

assert same_state
assert torch.equal(model(x), before)  # every bit
assert torch.equal(model[0].base.weight, bare)
print("state dict the same merged or not, output and W0 back bit for bit")
print(f"merged and unmerged output, relative difference: {distance(while_merged, before):.1e}")

# %% [markdown]
# ## Small updates vanish
#
# The weight 1 above did not notice the update 0.003. In a matrix every weight has its own gap to
# the next number, proportional to its size, and an update smaller than half that gap is rounded
# away. So the question is how many of the weights stay where they are, as a function of the
# relative size of the update. Fine-tuning changes weights little. What share do you expect at 1 %?


# %%
def unchanged(size, dtype, seed=0):
    """The share of weights that the update leaves where they were."""
    W = W0.to(dtype)
    merged = (W.double() + small_update(seed, size, W0)).to(dtype)
    return (merged == W).double().mean().item()


sizes = np.logspace(-5, -1, 13)
share = {
    name: [unchanged(size, DTYPES[name]) for size in sizes]
    for name in ("float32", "float16", "bfloat16")
}
figure, ax = plt.subplots()
for (name, values), marker in zip(share.items(), plots.MARKERS, strict=False):
    ax.plot(sizes, values, marker=marker, markerfacecolor="none", label=name)
ax.set(
    xscale="log",
    xlabel="relative size of the update ‖ΔW‖ / ‖W0‖",
    ylabel="share of weights unchanged",
    ylim=(-0.03, 1.03),
)
ax.set_title("Half precision does not see small updates")
_ = ax.legend(loc="center right")

# %%
at = {name: unchanged(0.01, DTYPES[name]) for name in share}
print({name: f"{value:.1%}" for name, value in at.items()}, "of the weights do not move at 1 %")
assert 0.1 < at["bfloat16"] < 0.4
assert at["float16"] < 0.1
assert at["float32"] < 1e-3
assert 0.25 < unchanged(0.005, torch.bfloat16) < 0.45
assert unchanged(1e-4, torch.bfloat16) > 0.95

# %% [markdown]
# At 1 % about a fifth of these bfloat16 weights do not move at all (the share depends on how evenly
# an update is spread); at 0.01 % nearly all stay. float16 has three more bits and is eight times
# finer, so its curve is the same one moved to the left. It pays with its range: the largest float16
# is 65504.
#
# No error is raised when this happens, and the model answers as if it had been trained less. So
# perakit reports it: `pk.merge` returns a table with one row a layer. Here are four real weights,
# of the tiny GPT-2 that comes with perakit, in bfloat16, with updates that get smaller from layer
# to layer.

# %%
model = pk.toy.load("tiny").to(torch.bfloat16)
pk.attach(model, pk.PERA(rank=4), ["c_fc"])
pk.strategies.move(model, seed=0, size=0.1)
for k, adapter in enumerate(pk.adapters(model).values()):
    adapter.B.data *= 10.0**-k

report = pk.merge(model)
print(report)

# %%
lost = [row[3] for row in report.rows]
assert lost == sorted(lost)
assert lost[0] < 0.1
assert lost[-1] > 0.5
print(f"the largest update loses {lost[0]:.1%} of itself, the smallest {lost[-1]:.0%}")

# %% [markdown]
# Read the last two columns. *Lost in rounding* is $\lVert \mathrm{round}(W_0 + \Delta W) - (W_0 +
# \Delta W)\rVert / \lVert\Delta W\rVert$: how large the rounding error is beside the update. Near 1
# the merge has destroyed as much as it added. *Weights unchanged* counts those that should have
# moved and did not.
#
# What helps is to leave such an adapter unmerged. Its factors stay in float32 (perakit keeps them
# there even when the model is moved to bfloat16), and $\hat B(\hat A x)$ is added to the output,
# never to the weight.

# %% [markdown]
# ## Add in float64, round once
#
# perakit forms $\Delta W$ and the sum in float64 and rounds the result once. The cheap way is to
# round $\Delta W$ to bfloat16 and add there. Does the careful way rescue the small updates? Make a
# guess. On the left is one update of different sizes; on the right many adapters, each 0.1 % of the
# weight, are merged one after the other, each sum rounded to bfloat16, or summed first and rounded
# once.


# %%
def lost_share(merged, exact, W):
    return ((merged.double() - exact).norm() / (exact - W.double()).norm()).item()


W, bf16 = W0.to(torch.bfloat16), torch.bfloat16
sizes, counts = np.logspace(-4, 0, 9), (1, 2, 4, 8, 16, 32, 64)
single = {"in float64, rounded once": [], "ΔW rounded, added in bfloat16": []}
for size in sizes:
    exact = W.double() + small_update(0, size, W0)
    single["in float64, rounded once"].append(lost_share(exact.to(bf16), exact, W))
    single["ΔW rounded, added in bfloat16"].append(
        lost_share(W + small_update(0, size, W0).to(bf16), exact, W)
    )

many = {"summed in float64, rounded once": [], "one after the other in bfloat16": []}
for count in counts:
    updates = [small_update(seed, 0.001, W0) for seed in range(count)]
    exact, step = W.double() + sum(updates), W
    for update in updates:
        step = step + update.to(bf16)
    many["summed in float64, rounded once"].append(lost_share(exact.to(bf16), exact, W))
    many["one after the other in bfloat16"].append(lost_share(step, exact, W))

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(9.6, 3.9), sharey=True)
for ax, x, lines in ((left, sizes, single), (right, counts, many)):
    for (name, values), (line, marker, width) in zip(
        lines.items(), (("-", "o", 4), ("--", "s", 1.5)), strict=True
    ):
        ax.plot(x, values, line, marker=marker, linewidth=width, label=name)
    ax.set(xscale="log", yscale="log")
    ax.legend(loc="lower left")
left.set(
    xlabel="relative size of the update",
    ylabel="lost in rounding: ‖error‖ / ‖update‖",
    title="One update: the two ways hardly differ",
)
right.set(xlabel="number of adapters merged", title="Many adapters: round once")
right.set_xticks(counts, [str(count) for count in counts])
_ = right.set_xticks([], minor=True)

# %%
print(
    f"one update of 1 %:        {single['in float64, rounded once'][4]:.4f} against"
    f" {single['ΔW rounded, added in bfloat16'][4]:.4f}"
)
print(
    f"one as large as W0:       {single['in float64, rounded once'][-1]:.4f} against"
    f" {single['ΔW rounded, added in bfloat16'][-1]:.4f}"
)
print(
    f"64 adapters of 0.1 %:     {many['summed in float64, rounded once'][-1]:.4f} against"
    f" {many['one after the other in bfloat16'][-1]:.4f}"
)
assert all(
    a <= b
    for a, b in zip(
        single["in float64, rounded once"], single["ΔW rounded, added in bfloat16"], strict=True
    )
)
assert many["one after the other in bfloat16"][-1] > 3 * many["summed in float64, rounded once"][-1]

# %% [markdown]
# For one small update both ways lose the same: the loss is the *last* rounding, of the sum, and no
# care before it can help. Rounding once is never worse, and for an update as large as the weight it
# is a little better. It matters where roundings would pile up: many adapters merged in turn leave
# most of their sum behind, while summed in float64 they add up to something that bfloat16 can see.
# With `pk.activate(model, "a", "b")` the active adapters are summed in that way before `pk.merge`
# rounds.

# %% [markdown]
# ## Four bits by hand
#
# Frozen weights can be kept far more coarsely than in bfloat16, since they are only read. NF4
# (QLoRA, arXiv 2305.14314, section 3) keeps 16 numbers, the **levels**, between −1 and 1. A
# **block** of 64 weights stores its largest magnitude, the **absmax**, in full, and for each weight
# the number (4 bits) of the level nearest to weight / absmax.
#
# Trained weights are spread roughly like a normal distribution, many near 0 and few far away, so
# the levels are put where a normal distribution has its mass: at quantiles $\Phi^{-1}(p)$ for
# equally spaced $p$. Eight of them are positive, seven negative, and one is exactly 0, so that a
# zero weight stays zero. The largest $p$ cannot be 1, whose quantile is infinite; QLoRA's code
# takes 0.9677083.

# %%
quantile = NormalDist().inv_cdf
positive = [quantile(p) for p in np.linspace(0.9677083, 0.5, 9)[:-1]]
negative = [-quantile(p) for p in np.linspace(0.9677083, 0.5, 8)[:-1]]
levels = np.array(sorted([*negative, 0.0, *positive])) / max(positive)
print(levels.round(4))
assert len(levels) == 16
assert np.allclose(levels, nf4.levels(), atol=1e-12)

# %% [markdown]
# Next, one block of real weights: the first 64 in row 0 of a layer of the tiny model. Divide by the
# absmax, look for the nearest level, multiply back. perakit's `nf4.encode` must give the same
# codes.

# %%
layer = pk.toy.load("tiny").transformer.h[0].mlp.c_fc
weights = layer.weight.detach().T.contiguous()  # (768, 192): GPT-2's Conv1D stores W transposed
block = weights[0, :64].double().numpy()

absmax = np.abs(block).max()
codes = np.abs(block[:, None] / absmax - levels[None, :]).argmin(axis=1)  # (64, 16) -> (64,)
restored = absmax * levels[codes]

theirs, their_absmax = nf4.encode(weights[:1, :64], block=64)
assert np.array_equal(codes, theirs.numpy())
assert np.isclose(absmax, their_absmax.item())
for w, code, new in zip(block[:5], codes[:5], restored[:5], strict=True):
    print(f"{w:+.5f}  ->  level {code:2}  ->  {new:+.5f}")

# %%
gap = np.diff(levels).max()
print(
    f"largest error in the block {np.abs(restored - block).max():.5f}, bound absmax · (largest"
    f" gap)/2 = {absmax * gap / 2:.5f}"
)
print(f"relative error of the block {np.linalg.norm(restored - block) / np.linalg.norm(block):.3f}")
assert np.abs(restored - block).max() <= absmax * gap / 2 + 1e-7
unit = weights.reshape(-1, 64) / weights.reshape(-1, 64).abs().amax(1, keepdim=True)
_ = plots.plot_levels(unit.numpy(), {"NF4": levels, "16 equal steps": np.linspace(-1, 1, 16)})

# %% [markdown]
# The error is about a tenth of the weights; in bfloat16 no weight is off by more than 0.4 %. Look
# at the outer levels: they are far apart, since few weights lie there, and the bound above comes
# from the widest gap. The two spikes at the ends are the absmax themselves, one a block, which are
# kept without error.
#
# ### How long should a block be?
#
# Every block pays for its absmax: 32 bits for 64 weights are half a bit for each. **Double
# quantisation** rounds the absmax themselves to 8 bits. A longer block is cheaper, and coarser, for
# its absmax is the largest of more weights. How much coarser? Try normal weights, and the same
# weights where one in a thousand is ten times as large. Such **outliers** do occur in trained
# models.

# %%
from perakit.models.quantize import NF4Layer


def as_nf4(W, block, double=True):
    """A Linear with the weight W, in 4 bits; it knows its error and its bits a weight."""
    linear = torch.nn.Linear(*W.T.shape, bias=False)
    linear.weight.data = W.clone()
    return NF4Layer.of(linear, pk.NF4(block=block, double=double))


generator = torch.Generator().manual_seed(0)
normal = torch.randn(512, 512, generator=generator)
outliers = torch.where(torch.rand(512, 512, generator=generator) < 0.001, 10 * normal, normal)
lengths = (32, 64, 128, 256, 512, 1024, 2048, 4096)
by_block = {
    name: [as_nf4(W, k) for k in lengths]
    for name, W in (("normal", normal), ("one in 1000 ten times as large", outliers))
}

figure, ax = plt.subplots()
for (name, made), marker in zip(by_block.items(), plots.MARKERS, strict=False):
    ax.plot(lengths, [layer.error.item() for layer in made], marker=marker, label=name)
ax.set(
    xscale="log", xlabel="weights in a block", ylabel="relative error of the matrix", ylim=(0, None)
)
ax.set_xticks(
    lengths,
    [f"{k}\n{layer.bits:.2f}" for k, layer in zip(lengths, by_block["normal"], strict=True)],
)
ax.set_xticks([], minor=True)
ax.set_title("Error of NF4 against the block (below it: bits a weight)")
_ = ax.legend()

# %%
error = {name: [layer.error.item() for layer in made] for name, made in by_block.items()}
assert error["normal"] == sorted(error["normal"])
assert error["normal"][-1] < 1.4 * error["normal"][0]
assert error["one in 1000 ten times as large"][-1] > 3 * error["one in 1000 ten times as large"][0]
double, single_absmax = as_nf4(normal, 64), as_nf4(normal, 64, double=False)
assert single_absmax.bits - double.bits > 1 / 3
assert double.error < 1.02 * single_absmax.error
print(
    f"block 64: {single_absmax.bits:.3f} bits, error {single_absmax.error:.4f}; doubly quantised"
    f" {double.bits:.3f} bits, {double.error:.4f}"
)

# %% [markdown]
# For normal weights the length of the block matters little: the largest of 4096 normal numbers is
# typically less than twice the largest of 32. One outlier in a block, however, makes all its
# neighbours coarse, and long blocks nearly all have one. A short block confines the damage. QLoRA
# takes 64 for the precision, and double quantisation for the memory (section 3); the latter saves
# more than a third of a bit and costs almost nothing here.

# %% [markdown]
# ## An adapter on a 4-bit base
#
# QLoRA's idea: the base is in 4 bits and frozen, the adapter on top is in float32 and is trained.
# Any method can stand on such a base. What should merging do? $W_0 + \Delta W$ is a full matrix,
# which does not fit into 4 bits. perakit refuses to choose for you:

# %%
model = pk.toy.load("tiny")
original = model.transformer.h[0].mlp.c_fc.weight.detach().T.clone()
pk.attach(model, pk.PERA(rank=4), ["h.0.mlp.c_fc"], quantize="nf4")
pk.strategies.move(model, seed=0, size=0.02)
try:
    pk.merge(model)
except pk.PerakitError as error:
    print(error)
    refused = True
assert refused

# %% [markdown]
# With `dequantize=True` the merged weight is a full float32 matrix: the rounded base plus the
# update. The report has one more column, the error that the base had before training began.

# %%
report = pk.merge(model, dequantize=True)
print(report)
rounded = model.transformer.h[0].mlp.c_fc.W0
delta = pk.delta_weights(model)["transformer.h.0.mlp.c_fc"].double()
error_of_base, size_of_update = distance(rounded, original), (delta.norm() / original.norm()).item()
print(
    f"\n4-bit error of the base {error_of_base:.1%}; size of the update {size_of_update:.1%} of the"
    " weight"
)
assert abs(report.quantized["transformer.h.0.mlp.c_fc"] - error_of_base) < 1e-4
assert error_of_base > 5 * size_of_update

# %% [markdown]
# The rounding of the base is many times larger than this update (whose size we chose; a trained one
# may be larger). It is not repaired by merging: the original weights are gone. What saves the day
# is that the adapter is *trained on the rounded base*. It sees those errors during training and
# belongs to that base, so the right weight to merge into is the rounded one.
#
# Why not round the merged weight to 4 bits again? Predict, with the bfloat16 curve in mind, what
# becomes of the update.

# %%
merged = rounded.double() + delta
again = as_nf4(merged.float(), 64).dequantize()
moved = nf4.encode(merged, 64)[0] != nf4.encode(rounded, 64)[0]
print(f"weights that go to another level: {moved.double().mean():.2%}")
print(
    "lost: ‖rounded again − (W0 + ΔW)‖ / ‖ΔW‖ ="
    f" {((again.double() - merged).norm() / delta.norm()).item():.2f}"
)
assert (again.double() - merged).norm() > delta.norm()

# %% [markdown]
# The weights of a rounded matrix sit *on* the levels, and a small update does not carry them over
# to the next. More is lost than was added: it is the bfloat16 story again, with 16 numbers in place
# of 65,536. perakit never quantises a merged weight by itself.

# %% [markdown]
# ## What a merge saves
#
# The paper says that PERA has "no inference cost" (arXiv 2604.11841, abstract). Count multiply-adds
# for one token on an $m \times n$ layer. Merged there is one matrix: $mn$, whatever the adapter.
# Unmerged there is $W_0 x$, then $\hat A x$ ($Kn$) and $\hat B(\cdot)$ ($Km$): $K(m+n)$ more, or
# $2K(m+n)$ floating-point operations, those of a LoRA of rank $K = r(r+3)/2$. So the sentence is
# true *merged*.

# %%
m = n = 768
print("  r    K   merged   LoRA unmerged   PERA unmerged   PERA, extra / base")
for rank in (1, 2, 4, 8, 16, 32):
    K = formulas.rank_bound(rank)
    print(
        f"{rank:3} {K:4}  {m * n:7,}   {m * n + rank * (m + n):13,}   {m * n + K * (m + n):13,}  "
        f" {K * (m + n) / (m * n):18.2f}"
    )
evidence = pk.theory.claims["no-inference-cost"].check()
print(evidence.verdict, "-", evidence.summary)
assert evidence.verdict == "qualified"
assert evidence.holds

# %% [markdown]
# At $r = 32$ the factors take more multiply-adds than the layer itself, since $K(m+n) > mn$. The
# verdict of the claim is therefore *qualified*: true in one sense and not in another. (An
# implementation is free to form $\Delta W$ first when that is cheaper; the count above is that of
# the factored form.)
#
# ## Out of the house: PERA as a plain LoRA
#
# The same expanded factors are also the way out. $\Delta W = \hat B \hat A$ *is* a LoRA update of
# rank $K$, so every program that reads LoRA adapters can run a PERA adapter, if it is written as
# one. `pk.export_peft` writes the two files of the PEFT format. Read them with nothing but a JSON
# parser and a tensor reader, and rebuild $\Delta W$ by hand.

# %%
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(24, 40)).double()
pk.attach(model, pk.PERA(rank=4, alpha=8), ["0"])
pk.strategies.move(model, seed=0)

with tempfile.TemporaryDirectory() as folder:
    pk.export_peft(model, folder)
    config = json.loads((Path(folder) / "adapter_config.json").read_text())
    tensors = load_file(Path(folder) / "adapter_model.safetensors")

print({key: config[key] for key in ("peft_type", "r", "lora_alpha", "target_modules")})
for name, tensor in tensors.items():
    print(name, tuple(tensor.shape))

# %%
lora_A, lora_B = (tensors[f"base_model.model.0.lora_{letter}.weight"] for letter in "AB")
rebuilt = config["lora_alpha"] / config["r"] * (lora_B @ lora_A)  # what any LoRA server computes

adapter = pk.adapters(model)["0"]
B, A, h = (parameter.detach().numpy() for parameter in (adapter.B, adapter.A, adapter.h))
by_equation_nine = 8 / 4 * formulas.pera(B, A, h)  # alpha / r times arXiv 2604.11841, Eq. 9

assert config["r"] == 4 * (4 + 3) // 2 == 14
assert torch.equal(rebuilt, pk.delta_weights(model)["0"])  # every bit
assert np.allclose(rebuilt, by_equation_nine, rtol=0, atol=1e-13 * np.abs(by_equation_nine).max())
print(f"largest difference from Eq. 9: {np.abs(rebuilt.numpy() - by_equation_nine).max():.1e}")

# %% [markdown]
# Rank 4 has become rank 14, `lora_alpha` equals `r`, so that $\alpha/r$ is 1, and PERA's own scale
# $8/4$ is inside `lora_B`. Nothing was approximated. The price is size: the file holds $K(m+n)$
# numbers, where the adapter has $r(m+n) + r(r+1)/2$.

# %% [markdown]
# ## Exercises
#
# Write your answer into the cell under an exercise, then run the check below it. Use names of your
# own there: the folded cell after each, which has our answer, goes on with those of this page.
#
# ### Exercise 1
#
# *10 minutes · difficulty 2 of 5*
#
# Which is the smallest power of two $2^{-k}$ that moves the bfloat16 weight 1 upwards, and which
# moves it downwards? Why are they different? (Where a result lies exactly in the middle of two
# numbers, it goes to the one whose last bit is 0, and that of 1.0 is 0.) `answer_1` is the pair of
# the two $k$, `(k upwards, k downwards)`.
#
# <details><summary>Hint 1</summary>
#
# How far is it from 1 to the next number above, and how far to the next one below?
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# An update of half a gap is a tie, and the tie goes back to 1. So you need more than half a gap;
# which power of two is the first?
#
# </details>

# %% tags=["your-turn"]
# Your turn
answer_1 = ...  # (k upwards, k downwards)

# %% tags=["self-check"]
pk.classroom.self_check("09.1", answer_1)

# %% tags=["hide-cell"] jupyter={"source_hidden": true, "outputs_hidden": true}
with pk.classroom.folded():
    one = torch.tensor(1.0, dtype=torch.bfloat16)
    up = max(k for k in range(20) if one + 2.0**-k != one)
    down = max(k for k in range(20) if one - 2.0**-k != one)
    print(f"upwards 2^-{up}, downwards 2^-{down}")
    # Above 1 the numbers are 2^-7 apart, below 1 they are 2^-8 apart. Half a gap, 2^-8 or 2^-9, is
    # a tie and goes back to 1.
    assert (up, down) == (7, 8)

# %% [markdown]
# ### Exercise 2
#
# *15 minutes · difficulty 2 of 5*
#
# Take 64 weights from a standard normal distribution and put one weight of 20 among them. How many
# of the others become exactly 0 in NF4, and how many without the outlier? First work out, from the
# levels, between which two values of $w$ / absmax a weight becomes 0. `answer_2` is this pair,
# `(lower end, upper end)`, to four decimals.
#
# <details><summary>Hint 1</summary>
#
# A weight goes to the level that is nearest. Where is the border between the level 0 and the next
# one?
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# The border lies in the middle between two levels. `levels` is sorted, so look for its 0, and at
# its neighbours on both sides; they are not equally far away.
#
# </details>

# %% tags=["your-turn"]
# Your turn
answer_2 = ...  # (lower end, upper end)

# %% tags=["self-check"]
pk.classroom.self_check("09.2", answer_2)

# %% tags=["hide-cell"] jupyter={"source_hidden": true, "outputs_hidden": true}
with pk.classroom.folded():
    sample = torch.randn(1, 64, generator=torch.Generator().manual_seed(0))
    spoiled = sample.clone()
    spoiled[0, 0] = 20.0
    zeros = []
    for W in (sample, spoiled):
        codes, _ = nf4.encode(W, block=64)
        zeros.append(int((codes[1:] == 7).sum()))  # level 7 is the 0
    print(
        f"becomes 0 between {levels[6] / 2:.4f} and {levels[8] / 2:.4f} of the absmax;"
        f" {zeros[0]} zeros without the outlier, {zeros[1]} with it"
    )
    assert zeros[1] > 3 * zeros[0]

# %% [markdown]
# ### Exercise 3
#
# *15 minutes · difficulty 3 of 5*
#
# An adapter was trained on a 4-bit base and saved. A colleague loads it onto the *original* float32
# model. Compare three outputs of one layer on random inputs: (a) rounded base with adapter, (b)
# original base with adapter, (c) rounded base alone. Take `rounded`, `original` and `delta` from
# above, and many inputs. Is (b) closer to (a) than (c) is? `answer_3` is the ratio $\lVert (b) -
# (a)\rVert / \lVert (c) - (a)\rVert$, to about 10 %.
#
# <details><summary>Hint 1</summary>
#
# The outputs are $(W + \Delta W)x$ with one or the other base, and $Wx$. `torch.randn(192, 256)` is
# 256 inputs of this layer at once. Compute in float64.
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# (b) − (a) has nothing of the adapter in it: it is (original − rounded) $x$. And (c) − (a) is
# $-\Delta W x$.
#
# </details>

# %% tags=["your-turn"]
# Your turn
answer_3 = ...  # a number

# %% tags=["self-check"]
pk.classroom.self_check("09.3", answer_3)

# %% tags=["hide-cell"] jupyter={"source_hidden": true, "outputs_hidden": true}
with pk.classroom.folded():
    x = torch.randn(192, 256, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    a, b, c = ((rounded + delta) @ x, (original + delta) @ x, rounded.double() @ x)
    print(
        f"the wrong base changes the output by {distance(b, a):.1%}, taking the adapter away by"
        f" {distance(c, a):.1%}: {distance(b, a) / distance(c, a):.1f} times as much"
    )
    assert distance(b, a) > 3 * distance(c, a)
    # For this small update the base matters more than the adapter: an adapter belongs to the base
    # it was trained on.

# %% [markdown]
# ### Exercise 4
#
# *15 minutes · difficulty 2 of 5*
#
# You serve thirty adapters on one bfloat16 base, a request names its adapter, and the updates are
# about 0.5 % of the weights. Merge, or not? Give two reasons, and a third in numbers: how many
# numbers must be kept for one $768 \times 768$ layer with thirty PERA adapters of rank 8, as thirty
# merged matrices, and as one base with thirty sets of $B$, $A$ and $h$? `answer_4` is this pair,
# `(merged, factored)`.
#
# <details><summary>Hint 1</summary>
#
# What happens in one batch, when each request has another matrix? And what did the bfloat16 curve
# say about updates of this size?
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# A set of PERA's factors has $r(m+n) + r(r+1)/2$ numbers. The base is kept once.
#
# </details>

# %% tags=["your-turn"]
# Your turn
answer_4 = ...  # (numbers when merged, numbers when factored)

# %% tags=["self-check"]
pk.classroom.self_check("09.4", answer_4)

# %% [markdown]
# <details><summary>Answer</summary>
#
# Not. First, swapping: merged, each adapter needs a matrix of its own or a merge at each swap, and
# requests for different adapters cannot share the product $W_0 x$ in one batch. Second, precision:
# at 0.5 % about a third of the weights of the matrix above would not move, and a good part of the
# update is lost in rounding, while float32 factors beside the base keep it whole (only the output
# is rounded). Third, memory: thirty merged matrices are $30 \cdot 768^2 = 17{,}694{,}720$ numbers,
# one base with thirty adapters is $768^2 + 30\,(8 \cdot 1536 + 36) = 959{,}544$. The cost is
# $K(m+n)$ multiply-adds a token and layer. With one adapter, a float32 base and a small latency
# budget the answer is the opposite.
#
# </details>

# %% [markdown]
# ## Where to go next
#
# - [Notebook 10](10_fine_tuning.ipynb): train adapters, and compare what they cost and gain.
# - [Notebook 13](13_property_testing.ipynb): how to test "merged = factored", and how such tests go
#   wrong.
# - [Leaving: any adapter as a standard LoRA](../docs/export.md) and [a base in 4
#   bits](../docs/methods/qlora.md), with measurements.
# - The claim ["No inference cost"](../docs/claims.md#no-inference-cost), with its verdict and
#   evidence.
