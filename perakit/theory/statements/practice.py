"""Claims about cost, about experiments, and about what a measured number means."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np

from perakit import formulas
from perakit.theory.claims import claims
from perakit.theory.families import of_rule
from perakit.theory.findings import Finding
from perakit.theory.measured import measured_rank
from perakit.theory.rank import order_share, predicted_share
from perakit.theory.statements.arguments import (
    PAPER,
    Case,
    cases,
    every,
    fails,
    identical,
    loop,
)
from perakit.theory.statements.relatives import drawn_cases, lora_cases, multiplied

# PERA's and LoRA's rows of the paper's Tables 1 and 2: model, rule, rank, "#Params (%)"
PERCENTAGES = (
    ("llama2-7b", "lora", 32, "0.8256"),
    ("llama2-7b", "pera", 16, "0.4148"),
    ("llama2-7b", "pera", 32, "0.8268"),
    ("llama3-8b", "lora", 16, "0.3513"),
    ("llama3-8b", "lora", 32, "0.7002"),
    ("llama3-8b", "pera", 16, "0.3515"),
    ("llama3-8b", "pera", 32, "0.7012"),
    ("qwen2.5-7b", "lora", 16, "0.3541"),
    ("qwen2.5-7b", "pera", 16, "0.3543"),
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
    verdict="proved",
    range="the count: all sizes; the percentages: nine rows of the tables",
    about=formulas.parameter_count,
)
def _parameter_count(formula: Any, seed: int, examples: int) -> Finding:
    r"""$B$ has $mr$ entries, $A$ has $rn$, and $h$ has one for each pair $i \le j$: $r$ with $i =
    j$ and $r(r-1)/2$ with $i < j$, together $r(r+1)/2$.

    The percentages are arithmetic with whole numbers: the layers of each model that the paper
    adapts, and all its parameters. They are compared as fractions, so nothing is rounded.
    """
    from perakit.models import catalogue
    from perakit.theory.families import pera

    generator = np.random.default_rng(seed)
    ranks = range(1, 65)
    for rank in ranks:
        for largest in (50, 20_000):
            m, n = generator.integers(1, largest, 2).tolist()
            arrays = sum(math.prod(shape) for shape in pera(rank).shapes(m, n).values())
            if not formula(m, n, rank, "pera") == arrays == rank * (m + n) + math.comb(rank + 1, 2):
                return fails("the count is not that of the factors", {"m": m, "n": n, "r": rank})
    worst = Fraction(0)
    for model, rule, rank, stated in PERCENTAGES:
        architecture = catalogue.describe(model)
        trainable = sum(formula(m, n, rank, rule) for _, m, n in catalogue.select(architecture))
        found = Fraction(100 * trainable, architecture.total + trainable)
        worst = max(worst, abs(found - Fraction(stated)))
    summary = (
        f"the count at r = 1 to {ranks[-1]}, on small and large layers; {len(PERCENTAGES)}"
        f" percentages of the paper, within {float(worst):.6f}"
    )
    holds = worst <= Fraction(1, 10_000)
    return Finding(
        holds,
        summary,
        {"largest difference": float(worst)},
        counterexample=None if holds else {"difference": float(worst)},
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
    r"""Merged, the update is added to $W_0$ once, and the sum is a matrix of the same shape: $mn$
    multiply-adds a token, as before. Unmerged, a token meets $\mathrm{Poly}_H(A)$, which is $(K,
    n)$, and then $\mathrm{Poly}(B)$, which is $(m, K)$: $Kn + mK$ more, and a LoRA of rank $K$
    costs the same. The paper's Table 5 measures this second form, so both readings are of one
    sentence.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    def product(case: Case, k: int, B: Any, A: Any, h: Any) -> Any:
        B_hat, A_hat = formula(B, A, h, **case.options)
        return B_hat @ A_hat

    found = cases(formula, seed, ["full"])
    same = identical(
        found,
        seed,
        product,
        lambda case, k, **drawn: loop(case, seed, k),
        "the factors multiply to the update",
    )
    if not same.holds:
        return same
    for case in found:
        B_hat, A_hat = formula(*case.draw(seed, 0).values(), **case.options)
        width = formulas.rank_bound(case.rank, case.terms, case.degree)
        if (B_hat.shape[1], A_hat.shape[0]) != (width, width):
            return fails(
                f"{B_hat.shape[1]} and {A_hat.shape[0]} features where K is {width}",
                {"case": str(case)},
            )
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
        f" unmerged, K(m+n) = {K * (m + n)} more; {same.summary}, each of width K"
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
    range="all sizes",
    about=_linear_layer,
)
def _interaction_vanishes(formula: Any, seed: int, examples: int) -> Finding:
    r"""$\Delta W$ is made of the factors and their coefficients alone, not of the input, which the
    paper calls $h$ here. So $f$ is linear in the input, its first derivatives $(W_0 + \Delta
    W)^\top w$ are constant, and its second derivatives are zero: at any point, for any distribution
    of inputs.

    What is run of a rule is $f(x + y) + f(0) = f(x) + f(y)$. The derivative of both sides by $x_i$
    and $y_j$, at $y = 0$, is $\partial^2 f/\partial x_i\,\partial x_j = 0$.
    """
    import sympy
    import torch

    from perakit.theory import symbolic
    from perakit.theory.interaction import interaction_strength

    additive = identical(
        drawn_cases(seed, x="n", y="n", W0="mn", B="mr", A="rn", h="h"),
        seed,
        lambda case, k, x, y, **at: formula(x + y, *at.values()) + formula(0 * x, *at.values()),
        lambda case, k, x, y, **at: formula(x, *at.values()) + formula(y, *at.values()),
        "the layer's output is additive in its input",
    )
    if not additive.holds:
        return additive
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
        f"{additive.summary}; every second derivative is zero, in symbols at {m} x {n}, r ="
        f" {rank}; with tanh around the same layer the largest"
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
    verdict="proved",
    range="all sizes, terms and degrees",
    about=formulas.pera,
)
def _share_at_the_start(formula: Any, seed: int, examples: int) -> Finding:
    r"""Every product has a coefficient of $h$ as a factor, so at $h = 0$ the high-order part
    $\Delta W - BA$ is the zero matrix. At the published start $B$ or $A$ is zero too, and both
    parts are. The first step moves that factor and leaves $h$ (`first-step`), so after it the share
    is still 0.
    """
    generator = np.random.default_rng(seed)
    for _ in range(examples):
        n, rank = (int(k) for k in generator.integers(1, 5, 2))
        A, B = generator.uniform(-1, 1, (rank, n)) / math.sqrt(n), generator.normal(size=(2, rank))
        high = formula(B, A, np.zeros(rank * (rank + 1) // 2)) - formulas.lora(B, A)
        if not np.abs(high).max() <= 1e-12:
            return fails("an update with h = 0 has a high-order part", {"B": B, "A": A})
    wide, small = predicted_share(4096, 16, 1e-4, 1000), predicted_share(96, 4, 3e-3, 300)
    summary = (
        f"0 in {examples} examples in floats; at n = 4096, r = 16, lr 1e-4, {wide}; at n = 96, r ="
        f" 4, lr 3e-3, {small}"
    )
    numbers = {"wide": (wide.low, wide.high), "small": (small.low, small.high)}
    return every(
        identical(
            cases(formula, seed),
            seed,
            lambda case, k, B, A, h: formula(B, A, 0 * h, **case.options),
            lambda case, k, B, A, h: multiplied(B, A, B.prime),
            "at h = 0 the update is B A",
        ),
        Finding(True, summary, numbers, examples),
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
    r"""What expressiveness says. Generically the rank of square-only PERA is $2r$, that of
    cross-only $r + r(r-1)/2 = r(r+1)/2$, if the layer is large enough. So the square terms reach
    the higher rank for $r < 3$, the cross terms for $r > 3$, and at the paper's $r = 16$ it is 32
    against 136. Ranks therefore do not say which terms matter in training.
    """
    found, due = {}, {}
    for m, n, rank in (*((40, 50, rank) for rank in (1, 2, 3, 4, 7, 12)), (127, 131, 5)):
        where = f"{m} x {n}, r = {rank}"
        found[where] = {
            terms: int(measured_rank(m, n, of_rule(formula, rank, terms), seed=seed))
            for terms in ("square", "cross")
        }
        due[where] = {"square": 2 * rank, "cross": min(m, n, rank * (rank + 1) // 2)}
    order = ", ".join(
        f"{name} {accuracy:.2f}"
        for name, accuracy in sorted(COMPONENTS.items(), key=lambda item: item[1])
    )
    ranks = "; ".join(
        f"{where}: {pair['square']} against {pair['cross']}" for where, pair in found.items()
    )
    summary = (
        f"not decided here. The paper's Table 4, r = 16, no interval: {order}. Generic rank, square"
        f" against cross: {ranks}; which is larger changes with r, so counting ranks gives no"
        " order. Trained, at a small size, with intervals: docs/evidence.md"
    )
    return Finding(
        found == due,
        summary if found == due else "the ablations have no such ranks",
        {"rank": found},
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
    r"""The share $\lVert\Delta W - BA\rVert_F / \lVert BA\rVert_F$ says how much of an update is
    high-order, and any run can report it: where it is near 0, the products cannot have made the
    gain. Where it is not, they may have, and only runs that differ in nothing else can tell.
    """
    shares = {}
    for case in lora_cases(seed):
        generator = np.random.default_rng((seed, case.rank))
        m, n, rank = case.m, case.n, case.rank
        B, A, h = (
            generator.normal(size=size)
            for size in ((m, rank), (rank, n), (rank * (rank + 1) // 2,))
        )
        linear = formulas.lora(B, A)
        high = np.linalg.norm(formula(B, A, h) - linear) / np.linalg.norm(linear)
        shares[str(case)] = (float(order_share((B, A, h))), float(high))
    measurable = all(math.isclose(*pair, rel_tol=1e-9) for pair in shares.values())
    summary = (
        "not decided here: needs trained models, seeds and intervals, which docs/evidence.md has at"
        " a small size. What a run must report with it, `order_share`, reads the rule"
    )
    return Finding(
        measurable,
        summary if measurable else "order_share does not measure this rule",
        {"share of a random update": {where: pair[0] for where, pair in shares.items()}},
    )
