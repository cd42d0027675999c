"""Mistakes in the assignment on comparisons: (check that fails, old text, new text, what the
message says).
"""

LORA, PERA = (
    "lora = sum(rank * (m + n) for m, n in layers)",
    "pera = sum(rank * (m + n) + rank * (rank + 1) // 2 for m, n in layers)",
)
MATCHED, BITS = (
    "return budget // sum(m + n for m, n in layers)",
    "return nats / np.log(2) / bytes_per_token",
)
MEANS = (
    "means = {rate: np.mean(scores) for rate, scores in found.items() if np.isfinite(scores).all()}"
)
TESTS = (
    'row["seed"]: row["test"] for row in rows if row["method"] == method and row["rate"] == best'
)
D = "d = np.array([method[seed] - baseline[seed] for seed in method])"
STUDENT = "stats.t.ppf(0.975, len(d) - 1) * d.std(ddof=1) / np.sqrt(len(d))"
BETTER, WORSE = (
    'if high < 0:\n        return "better"',
    'return "worse" if low > 0 else "no difference shown"',
)
HIGH, RATIO = (
    "high = (B[:, i] * B[:, j]) @ (h[:, None] * A[i] * A[j])",
    "return np.linalg.norm(high) / np.linalg.norm(B @ A)",
)

MUTANTS = [
    (
        "counted",
        LORA,
        "lora = sum(rank * m * n for m, n in layers)",
        "layers=[(1, 1)] rank=1 · expected (2, 3) got (1, 3)",
    ),
    (
        "counted",
        PERA,
        "pera = sum(rank * (m + n) + rank**2 for m, n in layers)",
        "rank=2 · expected (4, 7) got (4, 8)",
    ),
    (
        "counted",
        PERA,
        "pera = lora + rank * (rank + 1) // 2",
        "layers=[(1, 1), (1, 1)] rank=1 · expected (4, 6) got (4, 5)",
    ),
    (
        "affordable",
        MATCHED,
        "return round(budget / sum(m + n for m, n in layers))",
        "expected 1 got 2",
    ),
    (
        "affordable",
        MATCHED,
        "return max(1, budget // sum(m + n for m, n in layers))",
        "layers=[(1, 1)] budget=0 · expected 0 got 1",
    ),
    (
        "affordable",
        MATCHED,
        "return budget // (layers[0][0] + layers[0][1])",
        "layers=[(1, 1), (1, 1)] budget=2 · expected 0 got 1",
    ),
    (
        "bits",
        BITS,
        "return nats / bytes_per_token",
        "bits=1 bytes_per_token=1 nats=0.693147 · expected 1 got 0.693147",
    ),
    (
        "bits",
        BITS,
        "return nats / np.log(2) * bytes_per_token",
        "bytes_per_token=2 nats=0.693147 · expected 0.5 got 2",
    ),
    (
        "on_validation",
        'append(row["validation"])',
        'append(row["test"])',
        "expected for PERA the rate 0.001 got 0.01",
    ),
    (
        "on_validation",
        '        if row["method"] == method:\n',
        "        if True:\n",
        "expected for PERA the rate",
    ),
    ("over_seeds", "np.mean(scores) for rate", "np.min(scores) for rate", "expected the rate"),
    (
        "diverged",
        MEANS,
        "means = {rate: np.nanmean(scores) for rate, scores in found.items()}",
        "expected the rate 0.01 got 0.001",
    ),
    (
        "diverged",
        MEANS,
        "means = {rate: np.mean(scores) for rate, scores in found.items()}",
        "expected the rate 0.01 got 0.001",
    ),
    (
        "reported",
        TESTS,
        TESTS.replace('row["test"]', 'row["validation"]'),
        "expected {0: 0.0, 1: 0.0} got {0: 1.0, 1: 1.0}",
    ),
    ("reported", TESTS, TESTS.replace('row["method"] == method and ', ""), "got {0: 9.0, 1: 9.0}"),
    (
        "mean",
        D,
        D.replace("method[seed] - baseline[seed]", "baseline[seed] - method[seed]"),
        "expected",
    ),
    ("length", STUDENT, STUDENT.replace("ddof=1", ""), "method=[0, 1]"),
    (
        "length",
        STUDENT,
        STUDENT.replace("stats.t.ppf(0.975, len(d) - 1)", "1.96"),
        "expected 12.7062 got 1.96",
    ),
    (
        "length",
        STUDENT,
        STUDENT.replace("len(d) - 1", "len(d)"),
        "at N = 2 seeds and a baseline of 1",
    ),
    ("length", STUDENT, STUDENT.replace("0.975", "0.95"), "expected 12.7062 got 6.31375"),
    ("length", STUDENT, STUDENT.replace(" / np.sqrt(len(d))", ""), "expected"),
    (
        "cancels",
        STUDENT,
        STUDENT.replace(
            "d.std(ddof=1)",
            "np.hypot(*(np.std(list(x.values()), ddof=1) for x in (method, baseline)))",
        ),
        "high - low with `luck` added to both",
    ),
    (
        "together",
        D,
        "d = np.array(list(method.values())) - np.array(list(baseline.values()))",
        "which has the same scores",
    ),
    (
        "one_seed",
        "        return mean, -np.inf, np.inf",
        "        return mean, mean, mean",
        "expected low = -inf and high = inf got 0 and 0",
    ),
    (
        "one_seed",
        "    if len(d) == 1:\n        return mean, -np.inf, np.inf\n",
        "",
        "expected low = -inf and high = inf got nan and nan",
    ),
    (
        "one_side",
        BETTER,
        'if high < 0:\n        return "worse"',
        "low=-1 high=-1 · expected 'better' got 'worse'",
    ),
    (
        "one_side",
        WORSE,
        'return "better" if low > 0 else "no difference shown"',
        "low=1 high=1 · expected 'worse' got 'better'",
    ),
    (
        "nothing_shown",
        BETTER,
        'if high <= 0:\n        return "better"',
        "expected 'no difference shown' got 'better'",
    ),
    (
        "nothing_shown",
        WORSE,
        'return "worse" if low > 0 else "equal"',
        "low=0 high=0 · expected 'no difference shown' got 'equal'",
    ),
    ("share", "np.triu_indices(A.shape[0])", "np.tril_indices(A.shape[0])", "expected"),
    (
        "share",
        HIGH,
        "high = (h[:, None] * B.T[i] * B.T[j]).T @ (h[:, None] * A[i] * A[j])",
        "expected",
    ),
    (
        "share",
        RATIO,
        "return np.linalg.norm(high) / np.linalg.norm(B @ A + high)",
        "B=[[1.]] A=[[1.]] h=[1.] · expected 1 got 0.5",
    ),
    ("share", RATIO, "return np.linalg.norm(high, 2) / np.linalg.norm(B @ A, 2)", "expected"),
    ("share", RATIO, "return (high**2).sum() / ((B @ A) ** 2).sum()", "expected"),
    ("line", '        "seeds": sorted(scores),\n', "", "the key 'seeds' is missing"),
    (
        "line",
        '"seeds": sorted(scores)',
        '"seeds": len(scores)',
        "expected [3, 7] of shape (2,) got 2",
    ),
    (
        "line",
        "np.mean(list(scores.values()))",
        "np.mean(list(scores))",
        "'mean', for the seeds 7 and 3",
    ),
]
