"""Mistakes in the assignment on LoRA: (check that fails, old text, new text, what the message
says).
"""

UPDATE, START, FORWARD = (
    "return alpha / A.shape[0] * (B @ A)",
    "return np.zeros((m, rank)), rng.normal(size=(rank, n)) / np.sqrt(n)",
    "alpha / A.shape[0] * ((x @ A.T) @ B.T)",
)
COUNT, COST, MERGE = (
    "return rank * (m + n)",
    "return tokens * rank * (m + n)",
    "return (W0.astype(np.float64) + delta).astype(W0.dtype)",
)
MERGED = "self.weight = (self.W0.astype(np.float64) + self.delta).astype(self.W0.dtype)"

BACK = "self.weight = self.W0\n"
SAVED = f"""{MERGED}
        # END SOLUTION

    def unmerge(self):
        \"\"\"From now on `.weight` is W0 again, bit for bit.\"\"\"
        # BEGIN SOLUTION
        {BACK}"""

MUTANTS = [
    (
        "product",
        UPDATE,
        "return alpha / A.shape[0] * (np.abs(B) @ A)",
        "expected [[-1.]] got [[1.]]",
    ),
    (
        "scaling",
        UPDATE,
        "return B @ A",
        "B=[[1.,0.]] A=[[1.],[0.]] alpha=1 · expected [[0.5]] got [[1.]]",
    ),
    (
        "scaling",
        UPDATE,
        "return alpha / max(A.shape) * (B @ A) if alpha != A.shape[0] else B @ A",
        "expected",
    ),
    ("count", COUNT, "return rank * m * n", "m=1 n=1 rank=1 · expected 2 got 1"),
    (
        "no_change",
        START,
        "return rng.normal(size=(m, rank)), rng.normal(size=(rank, n)) / np.sqrt(n)",
        "expected B A = 0 got",
    ),
    (
        "can_move",
        START,
        "return np.zeros((m, rank)), np.zeros((rank, n))",
        "both gradients are zero for ever",
    ),
    (
        "spread",
        START,
        "return np.zeros((m, rank)), rng.normal(size=(rank, n))",
        "expected 1/√400 = 0.05 got",
    ),
    (
        "seeded",
        "rng = np.random.default_rng(seed)",
        "rng = np.random.default_rng(0)",
        "the seeds 0 and 1 give the same A",
    ),
    ("forward_product", FORWARD, "alpha / A.shape[0] * ((x @ A.T) @ np.abs(B).T)", "expected"),
    (
        "forward_scale",
        FORWARD,
        "(x @ A.T) @ B.T",
        "x=[[1.]] B=[[1.,0.]] A=[[1.],[0.]] alpha=1 · expected [[0.5]] got [[1.]]",
    ),
    (
        "forward_factored",
        FORWARD,
        "x @ (alpha / A.shape[0] * (B @ A)).T",
        "x = 1e-160, A = B = 1e160: expected [[1.e+160]] got [[inf]]",
    ),
    ("cost", COST, "return tokens * rank * m * n", "tokens=1 · expected 2 got 1"),
    (
        "merged",
        MERGE,
        "return (W0.astype(np.float64) + np.abs(delta)).astype(W0.dtype)",
        "delta=[[-1.]] · expected [[-1.]] got [[1.]]",
    ),
    ("rounding", MERGE, "return W0 + delta.astype(W0.dtype)", "expected 1.000976562 got 1"),
    (
        "rounding",
        MERGE,
        "return (W0.astype(np.float64) + delta).astype(np.float16)",
        "W0 is float32: expected float32 got float16",
    ),
    (
        "no_change",
        START,
        "return np.zeros(m), rng.normal(size=(rank, n)) / np.sqrt(n)",
        "expected shapes (1, 1) and (1, 1) got (1,) and (1, 1)",
    ),
    (
        "restored",
        "self.weight = self.W0\n        # END",
        "self.weight = (self.weight - self.delta).astype(self.W0.dtype)\n        # END",
        "not every bit is back",
    ),
    (
        "twice",
        MERGED,
        "self.weight = (self.weight.astype(np.float64) + self.delta).astype(self.W0.dtype)",
        "the weight after two merges: expected [[1.]] got [[2.]]",
    ),
    (
        "restored",
        SAVED,
        SAVED.replace(MERGED, f"self.saved = self.weight\n        {MERGED}").replace(
            BACK, "self.weight = self.saved"
        ),
        "merges=2",
    ),
    (
        "layer_merges",
        MERGED,
        "self.weight = self.W0 + self.delta",
        "expected float16 after a merge got float64",
    ),
    (
        "layer_merges",
        MERGED,
        "self.weight = self.W0 + self.delta.astype(self.W0.dtype)",
        "W0 is float16, delta/3 in place of delta: expected",
    ),
    ("layer_merges", MERGED, "pass", "after a merge: expected [[1.]] got [[0.]]"),
]
