"""Claims about cost, about experiments, and about what a measured number means."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from perakit import formulas
from perakit.theory.claims import claims
from perakit.theory.families import of_rule
from perakit.theory.findings import Finding
from perakit.theory.measured import measured_rank
from perakit.theory.rank import order_share, predicted_share
from perakit.theory.statements.arguments import PAPER, fails

# PERA's and LoRA's rows of the paper's Tables 1 and 2: model, rule, rank, "#Params (%)"
PERCENTAGES = (
    ("llama2-7b", "lora", 32, 0.8256),
    ("llama2-7b", "pera", 16, 0.4148),
    ("llama2-7b", "pera", 32, 0.8268),
    ("llama3-8b", "lora", 16, 0.3513),
    ("llama3-8b", "lora", 32, 0.7002),
    ("llama3-8b", "pera", 16, 0.3515),
    ("llama3-8b", "pera", 32, 0.7012),
    ("qwen2.5-7b", "lora", 16, 0.3541),
    ("qwen2.5-7b", "pera", 16, 0.3543),
)
# Table 4, average accuracy
COMPONENTS = {"LoRA": 82.80, "cross": 86.83, "square": 87.48, "PERA": 87.38}


@claims.register(
    "parameter-count",
    title="Trainable parameters, and the paper's percentages",
    statement=(
        r"$r(m+n) + r(r+1)/2$ per layer; the paper's #Params (%) follow from layer shapes to $\pm"
        r" 0.0001$, as "
        r"trainable/(total + trainable)"
    ),
    source=f"{PAPER}, Eq. 9, Tables 1 and 2",
    verdict="verified",
    about=formulas.parameter_count,
)
def _parameter_count(formula: Any, seed: int, examples: int) -> Finding:
    from perakit.models import catalogue
    from perakit.theory.families import pera

    generator = np.random.default_rng(seed)
    for m, n, rank in generator.integers(1, 50, (examples, 3)).tolist():
        arrays = sum(math.prod(shape) for shape in pera(rank).shapes(m, n).values())
        if not formula(m, n, rank, "pera") == arrays == rank * (m + n) + rank * (rank + 1) // 2:
            return fails("the count is not that of the factors", {"m": m, "n": n, "r": rank})
    worst = 0.0
    for model, rule, rank, stated in PERCENTAGES:
        architecture = catalogue.describe(model)
        trainable = sum(formula(m, n, rank, rule) for _, m, n in catalogue.select(architecture))
        worst = max(worst, abs(100 * trainable / (architecture.total + trainable) - stated))
    summary = (
        f"{examples} random layers; {len(PERCENTAGES)} percentages of the paper, within {worst:.5f}"
    )
    return Finding(
        worst <= 1e-4,
        summary,
        {"largest difference": worst},
        examples,
        None if worst <= 1e-4 else {"difference": worst},
    )


@claims.register(
    "no-inference-cost",
    title='"No inference cost"',
    statement=(
        r"Merged: $W_0 + \Delta W$ is one $(m, n)$ matrix, at the base's cost. Unmerged: $K(m+n)$"
        r" multiply-adds a token, "
        r"those of a rank-$K$ LoRA"
    ),
    source=f"{PAPER}, abstract; its Table 5 measures the unmerged form",
    verdict="qualified",
    about=formulas.expand,
)
def _no_inference_cost(formula: Any, seed: int, examples: int) -> Finding:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    m, n, rank, tokens = 48, 64, 4, 10
    K = formulas.rank_bound(rank)
    generator = torch.Generator().manual_seed(seed)
    x, W0, B, A, h = (
        torch.randn(size, generator=generator)
        for size in ((tokens, n), (m, n), (m, rank), (rank, n), (K - rank,))
    )
    B_hat, A_hat = formula(B, A, h)
    merged = W0 + B_hat @ A_hat
    costs: list[int] = []
    for layer in (
        lambda: x @ W0.T,
        lambda: x @ merged.T,
        lambda: x @ W0.T + (x @ A_hat.T) @ B_hat.T,
    ):
        with FlopCounterMode(display=False) as counter:
            layer()
        costs.append(counter.get_total_flops() // (2 * tokens))
    base, with_merge, unmerged = costs
    same_update = torch.allclose(B_hat @ A_hat, formulas.pera(B, A, h), rtol=1e-4, atol=1e-4)
    holds = same_update and with_merge == base == m * n and unmerged == m * n + K * (m + n)
    summary = (
        f"{m} x {n}, r = {rank}: {base} multiply-adds a token merged, as the base; {unmerged}"
        f" unmerged, K(m+n) = {K * (m + n)} more"
    )
    return Finding(
        holds,
        summary,
        {"base": base, "unmerged": unmerged},
        counterexample=None if holds else {"counted": costs},
    )


def _linear_layer(x: Any, W0: Any, B: Any, A: Any, h: Any) -> Any:
    return x @ (W0 + formulas.pera(B, A, h)).T


@claims.register(
    "interaction-vanishes",
    title="Interaction strength vanishes for one linear layer",
    statement=(
        r"$S_{ij} = \mathbb E\,\lvert\partial^2 f/\partial h_i\partial h_j\rvert = 0$ for $f(h) ="
        r" w^\top(W_0 + \Delta W)h$, "
        r"LoRA or PERA:"
        r" differences come from the nonlinear network around the layer"
    ),
    source=f"{PAPER}, Eq. 12",
    verdict="proved",
    about=_linear_layer,
)
def _interaction_vanishes(formula: Any, seed: int, examples: int) -> Finding:
    import sympy
    import torch

    from perakit.theory import symbolic
    from perakit.theory.interaction import interaction_strength

    m, n, rank = 2, 3, 2
    made = symbolic.symbols(m, n, rank)
    x, w, W0 = (
        np.array(sympy.symbols(f"{name}:{size}"), dtype=object)
        for name, size in (("x", n), ("w", m), ("v", m * n))
    )
    f = w @ formula(x, W0.reshape(m, n), made["B"], made["A"], made["h"])
    second = {str((a, b)): sympy.expand(sympy.diff(f, a, b)) for a in x for b in x}
    nonzero = {name: value for name, value in second.items() if value != 0}
    generator = torch.Generator().manual_seed(seed)
    V, B, A, h = (
        torch.randn(size, generator=generator, dtype=torch.float64)
        for size in ((m, n), (m, rank), (rank, n), (3,))
    )
    points = torch.randn(8, n, generator=generator, dtype=torch.float64)
    around = float(
        interaction_strength(lambda z: torch.tanh(formula(z, V, B, A, h)).sum(), points).max()
    )
    summary = (
        "every second derivative is zero, in symbols; with tanh around the same layer the largest"
        f" is {around:.2f}"
    )
    if nonzero:
        return fails("a second derivative is not zero", nonzero)
    return Finding(around > 0, summary, {"with tanh": around})


@claims.register(
    "share-at-the-start",
    title="At the published start no part of the update is high-order",
    statement=(
        r"With $h = 0$ the share $\lVert\text{high-order part}\rVert / \lVert\text{linear"
        r" part}\rVert$ of $\Delta W$ is 0"
    ),
    source=f"{PAPER}, initialisation",
    verdict="verified",
    about=formulas.pera,
)
def _share_at_the_start(formula: Any, seed: int, examples: int) -> Finding:
    generator = np.random.default_rng(seed)
    for _ in range(examples):
        n, rank = (int(k) for k in generator.integers(1, 5, 2))
        A, B = generator.uniform(-1, 1, (rank, n)) / math.sqrt(n), generator.normal(size=(2, rank))
        high = formula(B, A, np.zeros(rank * (rank + 1) // 2)) - formulas.lora(B, A)
        if not np.abs(high).max() <= 1e-12:
            return fails("an update with h = 0 has a high-order part", {"B": B, "A": A})
    wide, small = predicted_share(4096, 16, 1e-4, 1000), predicted_share(96, 4, 3e-3, 300)
    summary = (
        f"0 at h = 0 in {examples} examples; at n = 4096, r = 16, lr 1e-4, {wide}; at n = 96, r ="
        f" 4, lr 3e-3, {small}"
    )
    return Finding(
        True, summary, {"wide": (wide.low, wide.high), "small": (small.low, small.high)}, examples
    )


@claims.register(
    "square-terms-matter-most",
    title='"Square terms matter most"',
    statement=(
        "Among LoRA, cross-only, square-only and full PERA, the square terms bring most of the gain"
    ),
    source=f"{PAPER}, abstract and Table 4",
    verdict="open",
    about=formulas.pera,
)
def _square_terms_matter_most(formula: Any, seed: int, examples: int) -> Finding:
    """What expressiveness says: which ablation reaches the higher rank changes with r."""
    found: dict[int, dict[str, int]] = {}
    for rank in (1, 2, 3, 4):
        found[rank] = {
            terms: measured_rank(40, 50, of_rule(formula, rank, terms), seed=seed)
            for terms in ("square", "cross")
        }
    either = found[1]["square"] > found[1]["cross"] and found[4]["square"] < found[4]["cross"]
    order = ", ".join(
        f"{name} {accuracy:.2f}"
        for name, accuracy in sorted(COMPONENTS.items(), key=lambda item: item[1])
    )
    ranks = "; ".join(
        f"r = {rank}: {pair['square']} against {pair['cross']}" for rank, pair in found.items()
    )
    summary = (
        f"not decided here. The paper's Table 4, r = 16, no interval: {order}. Generic rank, square"
        f" against cross: {ranks}; which is larger changes with r, so counting ranks gives no"
        " order. Trained, at a small size, with intervals: docs/evidence.md"
    )
    return Finding(
        either,
        summary if either else "the ablations have no such ranks",
        {"rank of a 40 x 50 update": found},
    )


@claims.register(
    "gain-is-high-order",
    title="Whether PERA's gain over LoRA comes from the high-order terms",
    statement=(
        "At equal rank and learning rate PERA trains better than LoRA because of its products"
    ),
    source=f"{PAPER}, section 4",
    verdict="open",
    about=formulas.pera,
)
def _gain_is_high_order(formula: Any, seed: int, examples: int) -> Finding:
    """Without training: the share is a number any run can report; it scales with feature_scale."""
    generator = np.random.default_rng(seed)
    B, A, h = (generator.normal(size=size) for size in ((6, 2), (2, 5), (3,)))
    share = float(order_share((B, A, h)))
    high = np.linalg.norm(formula(B, A, h) - formulas.lora(B, A)) / np.linalg.norm(
        formulas.lora(B, A)
    )
    measurable = math.isclose(share, float(high), rel_tol=1e-9)
    summary = (
        "not decided here: needs trained models, seeds and intervals, which docs/evidence.md has at"
        " a small size. What a run must report with it, `order_share`, reads the rule"
    )
    return Finding(
        measurable,
        summary if measurable else "order_share does not measure this rule",
        {"share of a random update": share},
    )
