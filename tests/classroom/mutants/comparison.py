"""Mistakes in the assignment on comparisons: (check that fails, old text, new text, what the
message says).
"""

LORA, PERA = (
    "lora = sum(rank * (m + n) for m, n in layers)",
    "pera = sum(rank * (m + n) + rank * (rank + 1) // 2 for m, n in layers)",
)
PAIR = "return lora, pera"
MATCHED, BITS = (
    "return budget // sum(m + n for m, n in layers)",
    "return nats / np.log(2) / bytes_per_token",
)
BEST = "    best = min(means, key=means.get)\n    return best, {"
# `at_best_rate` and `possible_rates` begin alike: what follows tells them apart
FOUND, MEANS = (
    """            found.setdefault(row["rate"], []).append(row["validation"])
""",
    """    means = {rate: np.mean(scores) for rate, scores in found.items() if np.isfinite(scores).all()}
""",
)
CHOSEN = f"{FOUND}{MEANS}{BEST}"
LIMIT = "    limit = means[best] + np.std(found[best], ddof=1)\n"
LOOKED = f"{FOUND}{MEANS}    best = min(means, key=means.get)\n{LIMIT}"
MINE = '        if row["method"] == method:\n'
POSSIBLE = "return [rate for rate in means if means[rate] <= limit]"
TESTS = (
    'row["seed"]: row["test"] for row in rows if row["method"] == method and row["rate"] == best'
)
D = "d = np.array([method[seed] - baseline[seed] for seed in method])"
STUDENT = "stats.t.ppf(0.975, len(d) - 1) * d.std(ddof=1) / np.sqrt(len(d))"
AROUND = "return mean, mean - half, mean + half"
BETTER, WORSE = (
    'if high < 0:\n        return "better"',
    'return "worse" if low > 0 else "no difference shown"',
)
PAIRS = "pairs = [intervals[mine, theirs] for mine in method_rates for theirs in baseline_rates]"
ALL_BETTER = 'if all(high < 0 for _, high in pairs):\n        return "better"'
ALL_WORSE = 'return "worse" if all(low > 0 for low, _ in pairs) else "no difference shown"'
INDICES = "np.triu_indices(A.shape[0])"
HIGH, RATIO = (
    "high = (B[:, i] * B[:, j]) @ (h[:, None] * A[i] * A[j])",
    "return np.linalg.norm(high) / np.linalg.norm(B @ A)",
)

MUTANTS = [
    # m n entries, as of the whole weight
    ("lora_counted", LORA, LORA.replace("rank * (m + n)", "rank * m * n"), ""),
    # B alone
    ("lora_counted", LORA, LORA.replace("(m + n)", "m"), ""),
    # (pera, lora)
    ("lora_counted", PAIR, "return pera, lora", ""),
    # r² coefficients
    ("pera_counted", PERA, PERA.replace("rank * (rank + 1) // 2", "rank**2"), ""),
    # No squares: pairs i < j
    ("pera_counted", PERA, PERA.replace("(rank + 1)", "(rank - 1)"), ""),
    # K = r(r+3)/2 coefficients
    ("pera_counted", PERA, PERA.replace("(rank + 1)", "(rank + 3)"), ""),
    # Coefficients counted once instead of in every layer
    ("all_layers", PERA, "pera = lora + rank * (rank + 1) // 2", ""),
    # The first layer alone
    ("all_layers", LORA, "lora = rank * sum(layers[0])", ""),
    # Rounded to the nearest
    ("affordable", MATCHED, "return round(budget / sum(m + n for m, n in layers))", ""),
    # Rounded up
    ("affordable", MATCHED, "return -(-budget // sum(m + n for m, n in layers))", ""),
    # m n as the cost of a rank
    ("affordable", MATCHED, MATCHED.replace("m + n", "m * n"), ""),
    # At least rank 1
    ("nothing_to_spend", MATCHED, MATCHED.replace("return ", "return max(1, ") + ")", ""),
    # The first layer alone
    ("one_budget", MATCHED, "return budget // sum(layers[0])", ""),
    # All layers are like the first
    ("one_budget", MATCHED, "return budget // (len(layers) * sum(layers[0]))", ""),
    # log 2 missing
    ("bits", BITS, "return nats / bytes_per_token", ""),
    # Multiplied by ln 2
    ("bits", BITS, BITS.replace("nats / np", "nats * np"), ""),
    # Multiplied by the bytes
    ("per_byte", BITS, BITS.replace("/ bytes", "* bytes"), ""),
    # Bytes forgotten
    ("per_byte", BITS, BITS.replace(" / bytes_per_token", ""), ""),
    # Chosen on test text
    ("on_validation", CHOSEN, CHOSEN.replace("validation", "test"), ""),
    # The largest
    ("on_validation", BEST, BEST.replace("min(means", "max(means"), ""),
    # All methods' rows
    (
        "its_own",
        f"{MINE}{CHOSEN}",
        f"{MINE}{CHOSEN}".replace('row["method"] == method', "True"),
        "",
    ),
    # The luckiest seed
    ("over_seeds", CHOSEN, CHOSEN.replace("np.mean(", "np.min("), ""),
    # The median
    ("over_seeds", CHOSEN, CHOSEN.replace("np.mean(", "np.median("), ""),
    # The last seed: a dict that is overwritten
    ("over_seeds", CHOSEN, CHOSEN.replace("np.mean(scores)", "scores[-1]"), ""),
    # np.nanmean
    (
        "diverged",
        CHOSEN,
        CHOSEN.replace("np.mean(", "np.nanmean(").replace(" if np.isfinite(scores).all()", ""),
        "",
    ),
    # nan is not looked for
    ("diverged", CHOSEN, CHOSEN.replace(" if np.isfinite(scores).all()", ""), ""),
    # Only a rate where all seeds diverged is left out
    (
        "diverged",
        CHOSEN,
        CHOSEN.replace(".all()", ".any()").replace("np.mean(", "np.nanmean("),
        "",
    ),
    # Validation scores are reported
    ("reported", TESTS, TESTS.replace('row["test"]', 'row["validation"]'), ""),
    # Those of all methods
    ("reported", TESTS, TESTS.replace('row["method"] == method and ', ""), ""),
    # Those at all rates
    ("reported", TESTS, TESTS.replace(' and row["rate"] == best', ""), ""),
    # Only the best rate
    ("inside", POSSIBLE, "return [best]", ""),
    # All rates that did not diverge
    ("inside", POSSIBLE, "return list(means)", ""),
    # Below the best: the sign
    (
        "inside",
        LIMIT,
        LIMIT.replace("] + np", "] - np") + "    limit = max(limit, means[best])\n",
        "",
    ),
    # < in place of <=
    ("best_itself", POSSIBLE, POSSIBLE.replace("<=", "<"), ""),
    # ddof=0
    ("width", LIMIT, LIMIT.replace(", ddof=1", ""), ""),
    # The standard error
    ("width", LIMIT, LIMIT.replace("ddof=1)", "ddof=1) / np.sqrt(len(found[best]))"), ""),
    # The range
    ("width", LIMIT, LIMIT.replace("np.std(found[best], ddof=1)", "np.ptp(found[best])"), ""),
    # The scatter of the rate that is judged
    ("width", POSSIBLE, POSSIBLE.replace("limit", "means[best] + np.std(found[rate], ddof=1)"), ""),
    # np.nanmean
    (
        "not_possible",
        LOOKED,
        LOOKED.replace("np.mean(", "np.nanmean(").replace(" if np.isfinite(scores).all()", ""),
        "",
    ),
    # nan is not looked for
    ("not_possible", LOOKED, LOOKED.replace(" if np.isfinite(scores).all()", ""), ""),
    # All methods' rows
    (
        "own_rows",
        f"{MINE}{LOOKED}",
        f"{MINE}{LOOKED}".replace('row["method"] == method', "True"),
        "",
    ),
    # baseline − method
    (
        "mean",
        D,
        D.replace("method[seed] - baseline[seed]", "baseline[seed] - method[seed]"),
        "",
    ),
    # The sum
    ("mean", "mean = d.mean()", "mean = d.sum()", ""),
    # An interval around zero
    ("middle", AROUND, "return mean, -half, half", ""),
    # One-sided
    ("middle", AROUND, "return mean, mean, mean + 2 * half", ""),
    # ddof=0
    ("length", STUDENT, STUDENT.replace("ddof=1", ""), ""),
    # 1.96 in place of Student's quantile
    ("length", STUDENT, STUDENT.replace("stats.t.ppf(0.975, len(d) - 1)", "1.96"), ""),
    # Both
    (
        "length",
        STUDENT,
        STUDENT.replace("stats.t.ppf(0.975, len(d) - 1)", "1.96").replace("ddof=1", ""),
        "",
    ),
    # N degrees of freedom
    ("length", STUDENT, STUDENT.replace("len(d) - 1", "len(d)"), ""),
    # The 0.95 quantile
    ("length", STUDENT, STUDENT.replace("0.975", "0.95"), ""),
    # No root of N
    ("length", STUDENT, STUDENT.replace(" / np.sqrt(len(d))", ""), ""),
    # N in place of its root
    ("length", STUDENT, STUDENT.replace("np.sqrt(len(d))", "len(d)"), ""),
    # The unpaired interval
    (
        "cancels",
        STUDENT,
        STUDENT.replace(
            "d.std(ddof=1)",
            "np.hypot(*(np.std(list(x.values()), ddof=1) for x in (method, baseline)))",
        ),
        "",
    ),
    # The spread of the method's scores alone
    (
        "cancels",
        STUDENT,
        STUDENT.replace("d.std(ddof=1)", "np.std(list(method.values()), ddof=1)"),
        "",
    ),
    # Seeds by their order
    (
        "together",
        D,
        "d = np.array(list(method.values())) - np.array(list(baseline.values()))",
        "",
    ),
    # One seed: no interval
    (
        "one_seed",
        "        return mean, -np.inf, np.inf",
        "        return mean, mean, mean",
        "",
    ),
    # One seed: not thought of
    ("one_seed", "    if len(d) == 1:\n        return mean, -np.inf, np.inf\n", "", ""),
    # Higher is better
    ("one_side", BETTER, BETTER.replace("better", "worse"), ""),
    # Any difference is a gain
    ("one_side", WORSE, WORSE.replace("worse", "better"), ""),
    # "equal"
    ("nothing_shown", WORSE, WORSE.replace("no difference shown", "equal"), ""),
    # The middle of the interval decides
    (
        "nothing_shown",
        BETTER,
        f'if low < 0 < high:\n        return "better" if low + high < 0 else "worse"\n    {BETTER}',
        "",
    ),
    # <= at zero
    ("at_zero", BETTER, BETTER.replace("<", "<="), ""),
    # >= at zero
    ("at_zero", WORSE, WORSE.replace(">", ">="), ""),
    # Higher is better
    ("unanimous", ALL_BETTER, ALL_BETTER.replace('"better"', '"worse"'), ""),
    # Never worse
    ("unanimous", ALL_WORSE, 'return "no difference shown"', ""),
    # One pair is enough
    ("weakest", ALL_BETTER, ALL_BETTER.replace("all(", "any("), ""),
    # The majority
    (
        "weakest",
        ALL_BETTER,
        ALL_BETTER.replace("all(high < 0 for _, high in pairs)", "np.median(pairs) < 0"),
        "",
    ),
    # The first pair: that of the best rates
    ("weakest", PAIRS, f"{PAIRS}[:1]", ""),
    # Rates side by side
    (
        "all_pairs",
        PAIRS,
        "pairs = [intervals[both] for both in zip(method_rates, baseline_rates)]",
        "",
    ),
    # Equal rates only
    (
        "all_pairs",
        PAIRS,
        "shared = [rate for rate in method_rates if rate in baseline_rates]\n"
        "    pairs = [intervals[rate, rate] for rate in shared]",
        "",
    ),
    # All intervals there are
    ("not_counted", PAIRS, "pairs = list(intervals.values())", ""),
    # The baseline's rates are not looked at
    (
        "not_counted",
        PAIRS,
        "pairs = [ends for (mine, _), ends in intervals.items() if mine in method_rates]",
        "",
    ),
    # Divided by the norm of the sum
    ("share", RATIO, RATIO.replace("(B @ A)", "(B @ A + high)"), ""),
    # Upside down
    (
        "share",
        RATIO,
        "return np.linalg.norm(B @ A) / np.linalg.norm(high) if high.any() else 0.0",
        "",
    ),
    # The spectral norm
    ("share", RATIO, "return np.linalg.norm(high, 2) / np.linalg.norm(B @ A, 2)", ""),
    # No roots
    ("share", RATIO, "return (high**2).sum() / ((B @ A) ** 2).sum()", ""),
    # Sums of absolute values
    ("share", RATIO, "return abs(high).sum() / abs(B @ A).sum()", ""),
    # h on both sides
    ("once", HIGH, "high = (h[:, None] * B.T[i] * B.T[j]).T @ (h[:, None] * A[i] * A[j])", ""),
    # h twice off the diagonal
    ("once", HIGH, HIGH.replace("h[:, None]", "(h * (2 - (i == j)))[:, None]"), ""),
    # Half of it off the diagonal
    ("once", HIGH, HIGH.replace("h[:, None]", "(h / (2 - (i == j)))[:, None]"), ""),
    # Squares only
    ("once", HIGH, HIGH.replace("h[:, None]", "(h * (i == j))[:, None]"), ""),
    # The pairs of the lower triangle
    ("in_order", INDICES, INDICES.replace("triu", "tril"), ""),
    # By columns
    ("in_order", "i, j = " + INDICES, f"j, i = {INDICES.replace('triu', 'tril')}", ""),
    # A key spelt in another way
    ("line", '"order share": share', '"order_share": share', ""),
    # The whole triple as the interval
    ("line", '"interval": (low, high)', '"interval": difference', ""),
    # No seeds
    ("seeds", '        "seeds": sorted(scores),\n', "", ""),
    # How many
    ("seeds", '"seeds": sorted(scores)', '"seeds": len(scores)', ""),
    # As they come
    ("seeds", '"seeds": sorted(scores)', '"seeds": list(scores)', ""),
    # The mean of the seeds
    ("mean_score", "np.mean(list(scores.values()))", "np.mean(list(scores))", ""),
    # The mean of the difference
    ("mean_score", "np.mean(list(scores.values()))", "mean", ""),
    # The best seed
    ("mean_score", "np.mean(list(scores.values()))", "min(scores.values())", ""),
]
