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
    "    means = {rate: np.mean(scores) for rate, scores in found.items() if np.isfinite(scores)"
    ".all()}\n",
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
    ("lora_counted", LORA, LORA.replace("rank * (m + n)", "rank * m * n"), "expected 2 got 1"),
    # B alone
    ("lora_counted", LORA, LORA.replace("(m + n)", "m"), "expected 2 got 1"),
    # (pera, lora)
    ("lora_counted", PAIR, "return pera, lora", "expected 2 got 3"),
    # r² coefficients
    ("pera_counted", PERA, PERA.replace("rank * (rank + 1) // 2", "rank**2"), "expected 7 got 8"),
    # No squares: pairs i < j
    ("pera_counted", PERA, PERA.replace("(rank + 1)", "(rank - 1)"), "expected 3 got 2"),
    # K = r(r+3)/2 coefficients
    ("pera_counted", PERA, PERA.replace("(rank + 1)", "(rank + 3)"), "expected 3 got 4"),
    # Coefficients counted once instead of in every layer
    ("all_layers", PERA, "pera = lora + rank * (rank + 1) // 2", "expected 6 got 5"),
    # The first layer alone
    ("all_layers", LORA, "lora = rank * sum(layers[0])", "expected 4 got 2"),
    # Rounded to the nearest
    (
        "affordable",
        MATCHED,
        "return round(budget / sum(m + n for m, n in layers))",
        "expected 1 got 2",
    ),
    # Rounded up
    (
        "affordable",
        MATCHED,
        "return -(-budget // sum(m + n for m, n in layers))",
        "expected 1 got 2",
    ),
    # m n as the cost of a rank
    ("affordable", MATCHED, MATCHED.replace("m + n", "m * n"), "expected 1 got 2"),
    # At least rank 1
    (
        "nothing_to_spend",
        MATCHED,
        MATCHED.replace("return ", "return max(1, ") + ")",
        "expected 0 got 1",
    ),
    # The first layer alone
    ("one_budget", MATCHED, "return budget // sum(layers[0])", "expected 0 got 1"),
    # All layers are like the first
    ("one_budget", MATCHED, "return budget // (len(layers) * sum(layers[0]))", "expected 1 got 0"),
    # log 2 missing
    ("bits", BITS, "return nats / bytes_per_token", "expected 1 got 0.693147"),
    # Multiplied by ln 2
    ("bits", BITS, BITS.replace("nats / np", "nats * np"), "expected 1 got 0.480453"),
    # Multiplied by the bytes
    ("per_byte", BITS, BITS.replace("/ bytes", "* bytes"), "expected 0.721348 got 2.88539"),
    # Bytes forgotten
    ("per_byte", BITS, BITS.replace(" / bytes_per_token", ""), "expected 0.721348 got 1.4427"),
    # Chosen on test text
    (
        "on_validation",
        CHOSEN,
        CHOSEN.replace("validation", "test"),
        "expected the rate 0.001 got 0.01",
    ),
    # All methods' rows
    (
        "its_own",
        f"{MINE}{CHOSEN}",
        f"{MINE}{CHOSEN}".replace('row["method"] == method', "True"),
        "for LoRA you choose 0.01, and 0.001 without PERA's rows",
    ),
    # The luckiest seed
    (
        "over_seeds",
        CHOSEN,
        CHOSEN.replace("np.mean(", "np.min("),
        "expected the rate 0.01 got 0.001",
    ),
    # The median
    (
        "over_seeds",
        CHOSEN,
        CHOSEN.replace("np.mean(", "np.median("),
        "expected the rate 0.01 got 0.001",
    ),
    # The last seed: a dict that is overwritten
    (
        "over_seeds",
        CHOSEN,
        CHOSEN.replace("np.mean(scores)", "scores[-1]"),
        "expected the rate 0.01 got 0.001",
    ),
    # np.nanmean
    (
        "diverged",
        CHOSEN,
        CHOSEN.replace("np.mean(", "np.nanmean(").replace(" if np.isfinite(scores).all()", ""),
        "expected the rate 0.01 got 0.001",
    ),
    # nan is not looked for
    (
        "diverged",
        CHOSEN,
        CHOSEN.replace(" if np.isfinite(scores).all()", ""),
        "expected the rate 0.01 got 0.001",
    ),
    # Only a rate where all seeds diverged is left out
    (
        "diverged",
        CHOSEN,
        CHOSEN.replace(".all()", ".any()").replace("np.mean(", "np.nanmean("),
        "expected the rate 0.01 got 0.001",
    ),
    # Validation scores are reported
    (
        "reported",
        TESTS,
        TESTS.replace('row["test"]', 'row["validation"]'),
        "expected {0: 0, 1: 0} got {0: 1, 1: 1}",
    ),
    # Those of all methods
    (
        "reported",
        TESTS,
        TESTS.replace('row["method"] == method and ', ""),
        "expected {0: 0, 1: 0} got {0: 9, 1: 9}",
    ),
    # Those at all rates
    (
        "reported",
        TESTS,
        TESTS.replace(' and row["rate"] == best', ""),
        "expected {0: 0, 1: 0} got {0: 0, 1: 1}",
    ),
    # Only the best rate
    ("inside", POSSIBLE, "return [best]", "expected [0.001, 0.01, 0.1] got [0.001]"),
    # All rates that did not diverge
    ("inside", POSSIBLE, "return list(means)", "expected [0.001, 0.01] got [0.001, 0.01, 0.1]"),
    # Below the best: the sign
    (
        "inside",
        LIMIT,
        LIMIT.replace("] + np", "] - np") + "    limit = max(limit, means[best])\n",
        "expected [0.001, 0.01, 0.1] got [0.001]",
    ),
    # < in place of <=
    ("best_itself", POSSIBLE, POSSIBLE.replace("<=", "<"), "expected 0.001 in []"),
    # ddof=0
    (
        "inside",
        LIMIT,
        LIMIT.replace(", ddof=1", ""),
        "expected [0.001, 0.01, 0.1] got [0.001, 0.01]",
    ),
    # The standard error
    (
        "inside",
        LIMIT,
        LIMIT.replace("ddof=1)", "ddof=1) / np.sqrt(len(found[best]))"),
        "expected [0.001, 0.01, 0.1] got [0.001, 0.01]",
    ),
    # The range
    (
        "inside",
        LIMIT,
        LIMIT.replace("np.std(found[best], ddof=1)", "np.ptp(found[best])"),
        "expected [0.001, 0.01] got [0.001, 0.01, 0.1]",
    ),
    # The scatter of the rate that is judged
    (
        "inside",
        POSSIBLE,
        POSSIBLE.replace("limit", "means[best] + np.std(found[rate], ddof=1)"),
        "expected [0.001, 0.01, 0.1] got [0.001]",
    ),
    # np.nanmean
    (
        "not_possible",
        LOOKED,
        LOOKED.replace("np.mean(", "np.nanmean(").replace(" if np.isfinite(scores).all()", ""),
        "expected [0.01] got []",
    ),
    # nan is not looked for
    (
        "not_possible",
        LOOKED,
        LOOKED.replace(" if np.isfinite(scores).all()", ""),
        "expected [0.01] got []",
    ),
    # All methods' rows
    (
        "own_rows",
        f"{MINE}{LOOKED}",
        f"{MINE}{LOOKED}".replace('row["method"] == method', "True"),
        "for LoRA you say [0.001, 0.01], and [0.001] without PERA's rows",
    ),
    # baseline − method
    (
        "mean",
        D,
        D.replace("method[seed] - baseline[seed]", "baseline[seed] - method[seed]"),
        "expected -0.5 got 0.5",
    ),
    # The sum
    ("mean", "mean = d.mean()", "mean = d.sum()", "expected -0.5 got -1"),
    # An interval around zero
    ("middle", AROUND, "return mean, -half, half", "expected -0.5 got 0"),
    # One-sided
    ("middle", AROUND, "return mean, mean, mean + 2 * half", "expected -0.5 got 5.8531"),
    # ddof=0
    (
        "length",
        STUDENT,
        STUDENT.replace("ddof=1", ""),
        "which is the length with ddof=0, or with N in place of its root",
    ),
    # 1.96 in place of Student's quantile
    (
        "length",
        STUDENT,
        STUDENT.replace("stats.t.ppf(0.975, len(d) - 1)", "1.96"),
        "which is the length with 1.96 in place of Student's quantile",
    ),
    # Both
    (
        "length",
        STUDENT,
        STUDENT.replace("stats.t.ppf(0.975, len(d) - 1)", "1.96").replace("ddof=1", ""),
        "which is the length with 1.96 and ddof=0",
    ),
    # N degrees of freedom
    (
        "length",
        STUDENT,
        STUDENT.replace("len(d) - 1", "len(d)"),
        "which is the length with N degrees of freedom",
    ),
    # The 0.95 quantile
    (
        "length",
        STUDENT,
        STUDENT.replace("0.975", "0.95"),
        "which is the length with the 0.95 quantile",
    ),
    # No root of N
    (
        "length",
        STUDENT,
        STUDENT.replace(" / np.sqrt(len(d))", ""),
        "which is the length without the root of N",
    ),
    # N in place of its root
    (
        "length",
        STUDENT,
        STUDENT.replace("np.sqrt(len(d))", "len(d)"),
        "which is the length with ddof=0, or with N in place of its root",
    ),
    # The unpaired interval
    (
        "cancels",
        STUDENT,
        STUDENT.replace(
            "d.std(ddof=1)",
            "np.hypot(*(np.std(list(x.values()), ddof=1) for x in (method, baseline)))",
        ),
        "expected 12.7062 got 28.4119",
    ),
    # The spread of the method's scores alone
    (
        "cancels",
        STUDENT,
        STUDENT.replace("d.std(ddof=1)", "np.std(list(method.values()), ddof=1)"),
        "expected 12.7062 got 25.4124",
    ),
    # Seeds by their order
    (
        "together",
        D,
        "d = np.array(list(method.values())) - np.array(list(baseline.values()))",
        "expected (-0.333333, -1.76755, 1.10088) got (-0.333333, -4.12792, 3.4612",
    ),
    # One seed: no interval
    (
        "one_seed",
        "        return mean, -np.inf, np.inf",
        "        return mean, mean, mean",
        "expected low = -inf and high = inf got 0 and 0",
    ),
    # One seed: not thought of
    (
        "one_seed",
        "    if len(d) == 1:\n        return mean, -np.inf, np.inf\n",
        "",
        "expected low = -inf and high = inf got nan and nan",
    ),
    # Higher is better
    ("one_side", BETTER, BETTER.replace("better", "worse"), "expected 'better' got 'worse'"),
    # Any difference is a gain
    ("one_side", WORSE, WORSE.replace("worse", "better"), "expected 'worse' got 'better'"),
    # "equal"
    (
        "nothing_shown",
        WORSE,
        WORSE.replace("no difference shown", "equal"),
        "expected 'no difference shown' got 'equal'",
    ),
    # Another word
    (
        "nothing_shown",
        WORSE,
        WORSE.replace("no difference shown", "no difference"),
        "expected 'no difference shown' got 'no difference'",
    ),
    # <= at zero
    (
        "at_zero",
        BETTER,
        BETTER.replace("<", "<="),
        "expected that here, and not for the interval from 1 to 2; got 'better'",
    ),
    # >= at zero
    (
        "at_zero",
        WORSE,
        WORSE.replace(">", ">="),
        "expected that here, and not for the interval from 1 to 2; got 'worse'",
    ),
    # Higher is better
    (
        "unanimous",
        ALL_BETTER,
        ALL_BETTER.replace('"better"', '"worse"'),
        "expected 'better' got 'worse'",
    ),
    # Never worse
    (
        "unanimous",
        ALL_WORSE,
        'return "no difference shown"',
        "expected 'worse' got 'no difference shown'",
    ),
    # One pair is enough
    (
        "weakest",
        ALL_BETTER,
        ALL_BETTER.replace("all(", "any("),
        "expected 'no difference shown' (and not of every table) got 'better'",
    ),
    # The majority
    (
        "weakest",
        ALL_BETTER,
        ALL_BETTER.replace("all(high < 0 for _, high in pairs)", "np.median(pairs) < 0"),
        "expected 'no difference shown' (and not of every table) got 'better'",
    ),
    # The first pair: that of the best rates
    (
        "weakest",
        PAIRS,
        f"{PAIRS}[:1]",
        "expected 'no difference shown' (and not of every table) got 'worse'",
    ),
    # Rates side by side
    (
        "all_pairs",
        PAIRS,
        "pairs = [intervals[both] for both in zip(method_rates, baseline_rates)]",
        "you say 'better'",
    ),
    # Equal rates only
    (
        "all_pairs",
        PAIRS,
        "shared = [rate for rate in method_rates if rate in baseline_rates]\n"
        "    pairs = [intervals[rate, rate] for rate in shared]",
        "you say 'better'",
    ),
    # All intervals there are
    (
        "not_counted",
        PAIRS,
        "pairs = list(intervals.values())",
        "s` say 'worse': you say 'no difference shown', and 'better' without them",
    ),
    # The baseline's rates are not looked at
    (
        "not_counted",
        PAIRS,
        "pairs = [ends for (mine, _), ends in intervals.items() if mine in method_rates]",
        "s` say 'worse': you say 'no difference shown', and 'better' without them",
    ),
    # Divided by the norm of the sum
    ("share", RATIO, RATIO.replace("(B @ A)", "(B @ A + high)"), "expected 1 got 0.5"),
    # Upside down
    (
        "share",
        RATIO,
        "return np.linalg.norm(B @ A) / np.linalg.norm(high) if high.any() else 0.0",
        "expected 2 got 0.5",
    ),
    # The spectral norm
    (
        "share",
        RATIO,
        "return np.linalg.norm(high, 2) / np.linalg.norm(B @ A, 2)",
        "expected 2.4797 got 2.48027",
    ),
    # No roots
    ("share", RATIO, "return (high**2).sum() / ((B @ A) ** 2).sum()", "expected 2 got 4"),
    # Sums of absolute values
    ("share", RATIO, "return abs(high).sum() / abs(B @ A).sum()", "expected 1.84391 got 1.66667"),
    # h on both sides
    (
        "once",
        HIGH,
        "high = (h[:, None] * B.T[i] * B.T[j]).T @ (h[:, None] * A[i] * A[j])",
        "expected 2 got 1",
    ),
    # h twice off the diagonal
    (
        "once",
        HIGH,
        HIGH.replace("h[:, None]", "(h * (2 - (i == j)))[:, None]"),
        "expected 0.5 got 1",
    ),
    # Half of it off the diagonal
    (
        "once",
        HIGH,
        HIGH.replace("h[:, None]", "(h / (2 - (i == j)))[:, None]"),
        "expected 0.5 got 0.25",
    ),
    # Squares only
    ("once", HIGH, HIGH.replace("h[:, None]", "(h * (i == j))[:, None]"), "expected 0.5 got 0"),
    # The pairs of the lower triangle
    ("in_order", INDICES, INDICES.replace("triu", "tril"), "expected 0.25 got 1"),
    # By columns
    (
        "in_order",
        "i, j = " + INDICES,
        f"j, i = {INDICES.replace('triu', 'tril')}",
        "expected 0.25 got 1",
    ),
    # A key spelt in another way
    (
        "line",
        '"order share": share',
        '"order_share": share',
        "the key 'order share' is missing: the line has ['difference', 'interval'",
    ),
    # The whole triple as the interval
    (
        "line",
        '"interval": (low, high)',
        '"interval": difference',
        "expected (-0.75, -0.25) of shape (2,) got (-0.5, -0.75, -0.25) of shape ",
    ),
    # No seeds
    (
        "seeds",
        '        "seeds": sorted(scores),\n',
        "",
        "the key 'seeds' is missing: the line has ['difference', 'interval', 'mea",
    ),
    # How many
    (
        "seeds",
        '"seeds": sorted(scores)',
        '"seeds": len(scores)',
        "expected [3, 7] of shape (2,) got 2 of shape ()",
    ),
    # As they come
    ("seeds", '"seeds": sorted(scores)', '"seeds": list(scores)', "expected [3, 7] got [7, 3]"),
    # The mean of the seeds
    ("mean_score", "np.mean(list(scores.values()))", "np.mean(list(scores))", "expected 0 got 5"),
    # The mean of the difference
    ("mean_score", "np.mean(list(scores.values()))", "mean", "expected 0 got -0.5"),
    # The best seed
    ("mean_score", "np.mean(list(scores.values()))", "min(scores.values())", "expected 0.5 got 0"),
    # The baseline's scores are taken out
    (
        "untouched",
        D,
        "d = np.array([method[seed] - baseline.pop(seed) for seed in method])",
        "paired changes its argument {0: 1, 1: 4} in place, to {}: copy it first",
    ),
    # The rates are sorted in place
    (
        "untouched",
        PAIRS,
        f"method_rates.sort()\n    {PAIRS}",
        "robust_verdict changes its argument [0.2, 0.1] in place, to [0.1, 0.2]",
    ),
]
