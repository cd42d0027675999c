"""Mistakes in the assignment on LoRA: (check that fails, old text, new text, what the message
says). A tuple of checks where none of them can hold.
"""

UPDATE, START, FORWARD = (
    "return alpha / A.shape[0] * (B @ A)",
    "return np.zeros((m, rank)), rng.normal(size=(rank, n)) / np.sqrt(n)",
    "return x @ W0.T + alpha / A.shape[0] * ((x @ A.T) @ B.T)",
)
COUNT, COST, MERGE = (
    "return rank * (m + n)",
    "return tokens * rank * (m + n)",
    "return (W0.astype(np.float64) + delta).astype(W0.dtype)",
)
STEP, MOVES = (
    "return B - lr * G @ A.T, A - lr * B.T @ G",
    "return bool(A.any()), bool(B.any())",
)
SEED = "rng = np.random.default_rng(seed)"
INIT = "self.weight = W0\n"
MERGED = "self.weight = (self.W0.astype(np.float64) + self.delta).astype(self.W0.dtype)"
BACK = "self.weight = self.W0\n"
# From the body of `merge` to that of `unmerge`
SAVED = f"""{MERGED}
        # END SOLUTION

    def unmerge(self):
        \"\"\"From now on `.weight` is W0 again, bit for bit.\"\"\"
        # BEGIN SOLUTION
        {BACK}"""


def scaled(scale):
    """The update and the forward pass with another scale."""
    return (
        UPDATE.replace("alpha / A.shape[0]", scale),
        FORWARD.replace("alpha / A.shape[0]", scale),
    )


# (scale, what the message calls it)
SCALES = [
    ("1", "your scale seems to be 1: neither alpha nor r is in it"),
    ("alpha", "your scale seems to be alpha: r is not in it"),
    ("1 / A.shape[0]", "your scale seems to be 1/r: alpha is not in it"),
    ("alpha * A.shape[0]", "your scale seems to be alpha·r"),
    ("A.shape[0] / alpha", "your scale seems to be r/alpha"),
    # Rank-stabilised LoRA
    ("alpha / np.sqrt(A.shape[0])", "your scale seems to be alpha/√r"),
    ("(alpha / A.shape[0]) ** 2", "your scale seems to be (alpha/r)²"),
    # m in place of r
    ("alpha / B.shape[0]", "your scale seems to be alpha/m or alpha/n"),
    # n in place of r
    ("alpha / A.shape[1]", "your scale seems to be alpha/m or alpha/n"),
    # Whole division
    ("alpha // A.shape[0]", "your scale seems to be alpha/r without its decimals"),
    # A sign
    ("-alpha / A.shape[0]", "your scale seems to be -alpha/r"),
    # No scale that has a name
    ("alpha / max(A.shape)", "B=[[1.],[0.]] A=[[1.,0.]] alpha=1 · expected [[1.,0."),
]

MUTANTS = [
    # --- the update
    # No scale; the README shows it
    (
        "scaling",
        UPDATE,
        "return B @ A",
        "B=[[1.]] A=[[1.]] alpha=2 · expected [[2.]] got [[1.]]: your scale seems to be 1",
    ),
    # A product with signs lost
    (
        "product",
        UPDATE,
        "return alpha / A.shape[0] * (np.abs(B) @ A)",
        "expected a multiple of B A =",
    ),
    # `*` for `@`
    ("product", UPDATE, "return alpha / A.shape[0] * (B[:, :1] * A[:1])", "a multiple of B A ="),
    # Transposed
    ("product", UPDATE, "return alpha / A.shape[0] * (B @ A).T", "got [[0.],[0.]] of shape (2, 1)"),
    # B and A swapped, and forced into shape
    ("product", UPDATE, "return alpha / A.shape[0] * (A.T @ B.T)", "of shape (2, 1)"),
    # The Hadamard product with all entries of the factors summed
    ("product", UPDATE, "return alpha / A.shape[0] * np.outer(B.sum(1), A.sum(0))", "a multiple"),
    # A square
    ("product", UPDATE, "return alpha / A.shape[0] * (B @ A) ** 2", "expected a multiple of B A ="),
    # A missing return
    (("product", "scaling"), UPDATE, UPDATE.removeprefix("return "), "is a `return` missing?"),
    # print in place of return
    (
        ("product", "scaling"),
        UPDATE,
        "print(alpha / A.shape[0] * (B @ A))",
        "is a `return` missing?",
    ),
    # In place on an argument; the value is right
    (
        "untouched",
        UPDATE,
        "B *= alpha / A.shape[0]\n    return B @ A",
        "update changes its argument",
    ),
    # float32 inside
    (
        "precise",
        UPDATE,
        "return alpha / A.shape[0] * (B.astype(np.float32) @ A.astype(np.float32))",
        "B in update: a change in the ninth digit does not change the answer",
    ),
    (
        "precise",
        UPDATE,
        "return np.float32(alpha / A.shape[0]) * (B @ A)",
        "alpha in update: a change in the ninth digit",
    ),
    *(("scaling", UPDATE, scaled(scale)[0], said) for scale, said in SCALES),
    # --- how many numbers
    # m n of the full update
    ("count", COUNT, "return rank * m * n", "m=1 n=1 rank=1 · expected 2 got 1"),
    # B alone
    ("count", COUNT, "return rank * m", "expected 2 got 1"),
    # r² for a matrix between the two
    ("count", COUNT, "return rank * (m + n) + rank**2", "expected 2 got 3"),
    ("count", COUNT, COUNT.removeprefix("return "), "is a `return` missing?"),
    # --- the start
    # Both drawn
    (
        "no_change",
        START,
        "return rng.normal(size=(m, rank)), rng.normal(size=(rank, n)) / np.sqrt(n)",
        "expected B = 0 got",
    ),
    # A is zero, and B is drawn
    (
        "no_change",
        START,
        "return rng.normal(size=(m, rank)) / np.sqrt(n), np.zeros((rank, n))",
        "expected B = 0 got",
    ),
    # Both zero
    (
        "can_move",
        START,
        "return np.zeros((m, rank)), np.zeros((rank, n))",
        "both gradients are zero for ever",
    ),
    # A vector
    (
        "shapes",
        START,
        "return np.zeros(m), rng.normal(size=(rank, n)) / np.sqrt(n)",
        "expected shapes (1, 1) and (1, 1) got (1,) and (1, 1)",
    ),
    # A transposed
    (
        "shapes",
        START,
        "return np.zeros((m, rank)), rng.normal(size=(n, rank)) / np.sqrt(n)",
        "expected shapes (1, 2) and (2, 1) got (1, 2) and (1, 2)",
    ),
    # The other order
    (
        "shapes",
        START,
        "return rng.normal(size=(rank, n)) / np.sqrt(n), np.zeros((m, rank))",
        "expected shapes (1, 2) and (2, 1) got (2, 1) and (1, 2)",
    ),
    # Not scaled
    (
        "spread",
        START,
        "return np.zeros((m, rank)), rng.normal(size=(rank, n))",
        "expected 1/√400 = 0.05 got 0.999. That is about 1.",
    ),
    # The variance for the standard deviation
    (
        "spread",
        START,
        "return np.zeros((m, rank)), rng.normal(size=(rank, n)) / n",
        "got 0.0025. That is about 1/n, the variance.",
    ),
    # r for n
    (
        "spread",
        START,
        "return np.zeros((m, rank)), rng.normal(size=(rank, n)) / np.sqrt(rank)",
        "That is about 1/√r.",
    ),
    # Multiplied for divided
    (
        "spread",
        START,
        "return np.zeros((m, rank)), rng.normal(size=(rank, n)) * np.sqrt(n)",
        "That is about √n.",
    ),
    # A uniform distribution of that width
    (
        "spread",
        START,
        "return np.zeros((m, rank)), rng.uniform(-1, 1, size=(rank, n)) / np.sqrt(n)",
        "expected 1/√400 = 0.05 got 0.0289.",
    ),
    # Always the same seed
    ("seeded", SEED, "rng = np.random.default_rng(0)", "the seeds 0 and 1 give the same factors"),
    # No seed
    ("seeded", SEED, "rng = np.random.default_rng()", "the same seed gives different factors"),
    # NumPy's global generator
    ("seeded", SEED, "rng = np.random", "the same seed gives different factors"),
    # --- the first step
    # Uphill
    (
        "step",
        STEP,
        "return B + lr * G @ A.T, A + lr * B.T @ G",
        "which is -1 times that: uphill",
    ),
    # No learning rate
    ("step", STEP, "return B - G @ A.T, A - B.T @ G", "which is 2 times that"),
    # A factor 2
    ("step", STEP, "return B - 2 * lr * G @ A.T, A - 2 * lr * B.T @ G", "which is 2 times that"),
    # One sign
    ("step", STEP, "return B - lr * G @ A.T, A + lr * B.T @ G", "from A = 0, the change of A"),
    # A mean for a sum
    (
        "step",
        STEP,
        "return B - lr * G @ A.T / len(G), A - lr * B.T @ G / len(G)",
        "which is 0.5 times that",
    ),
    # The new B in the gradient by A
    (
        "step_old",
        STEP,
        "B = B - lr * G @ A.T\n    return B, A - lr * B.T @ G",
        "its gradient has no A in it. Was B already the new one?",
    ),
    # The new A in the gradient by B
    (
        "step_old",
        STEP,
        "A = A - lr * B.T @ G\n    return B - lr * G @ A.T, A",
        "its gradient has no B in it. Was A already the new one?",
    ),
    # The changes, not the factors
    (
        "step_base",
        STEP,
        "return -lr * G @ A.T, -lr * B.T @ G",
        "with G = 0, A: expected [[1.]] got [[0.]]",
    ),
    # The other order
    (
        "step_base",
        STEP,
        "return A - lr * B.T @ G, B - lr * G @ A.T",
        "with G = 0, B: expected",
    ),
    # A missing return
    (("step", "step_base", "step_old"), STEP, STEP.removeprefix("return "), "is the `return`"),
    # Arguments changed in place
    (
        "untouched",
        STEP,
        "old = B.copy()\n    B -= lr * G @ A.T\n    A -= lr * old.T @ G\n    return B, A",
        "first_step changes its argument",
    ),
    # A learning rate in float32
    (
        "precise",
        STEP,
        "lr = np.float32(lr)\n    " + STEP,
        "lr in first_step, for B: a change in the ninth digit",
    ),
    # "Gradients are never zero"
    ("zeros_stay", MOVES, "return bool(A.any() or not B.any()), bool(B.any())", "B = 0 and A = 0"),
    # The factor itself, not the other one
    ("movers", MOVES, "return bool(B.any()), bool(A.any())", ") got ("),
    # Both or none
    (
        "movers",
        MOVES,
        "both = bool(A.any() or B.any())\n    return both, both",
        ") got (True, True)",
    ),
    # all for any
    ("movers", MOVES, "return bool(A.all()), bool(B.all())", ") got ("),
    # A missing return
    (("zeros_stay", "movers"), MOVES, MOVES.removeprefix("return "), "is a `return` missing?"),
    # --- the forward pass
    *(("forward_scale", FORWARD, scaled(scale)[1], said) for scale, said in SCALES),
    # The frozen part is forgotten
    (
        "forward_frozen",
        FORWARD,
        "return alpha / A.shape[0] * ((x @ A.T) @ B.T)",
        "with B = 0: expected",
    ),
    # W0 not transposed
    ("forward_frozen", FORWARD, FORWARD.replace("W0.T", "W0"), "with B = 0: expected"),
    # The frozen part is scaled, too
    (
        "forward_frozen",
        FORWARD,
        "return alpha / A.shape[0] * (x @ W0.T + (x @ A.T) @ B.T)",
        "with B = 0: expected",
    ),
    # A and B not transposed
    ("forward_product", FORWARD, FORWARD.replace("(x @ A.T) @ B.T", "(x @ A) @ B"), "line "),
    # A product with signs lost
    (
        "forward_product",
        FORWARD,
        FORWARD.replace("B.T", "np.abs(B).T"),
        "expected a multiple of x Aᵀ Bᵀ =",
    ),
    # B A first
    (
        "forward_factored",
        FORWARD,
        "return x @ (W0 + alpha / A.shape[0] * (B @ A)).T",
        "alpha = 2: expected [[2.,0.]] got [[0.,0.]]",
    ),
    (
        "forward_factored",
        FORWARD,
        "return x @ W0.T + alpha / A.shape[0] * (x @ (A.T @ B.T))",
        "expected [[2.,0.]] got [[0.,0.]]",
    ),
    # In place on an argument
    (
        "untouched",
        FORWARD,
        "A *= alpha / A.shape[0]\n    return x @ W0.T + (x @ A.T) @ B.T",
        "forward changes its argument",
    ),
    # float32 inside
    (
        "precise",
        FORWARD,
        FORWARD.replace("((x @", "((x.astype(np.float32) @"),
        "x in forward, with W0 = 0: a change in the ninth digit",
    ),
    # A missing return
    (
        ("forward_frozen", "forward_product", "forward_scale", "forward_factored"),
        FORWARD,
        FORWARD.removeprefix("return "),
        "None",
    ),
    # The full product
    ("cost", COST, "return tokens * rank * m * n", "tokens=1 · expected 2 got 1"),
    # B A first
    ("cost", COST, "return m * n * rank + tokens * m * n", "expected 0 got 1"),
    # One of the two products
    ("cost", COST, "return tokens * rank * n", "tokens=1 · expected 2 got 1"),
    # --- merging
    # A sign
    (
        "merged",
        MERGE,
        "return (W0.astype(np.float64) - delta).astype(W0.dtype)",
        "delta=[[1.]] · expected [[1.]] got [[-1.]]",
    ),
    # The update in place of the sum: no sum, so that its rounding cannot be right either
    (("merged", "rounding"), MERGE, "return delta.astype(W0.dtype)", "got"),
    # In place on W0; the value is right
    ("untouched", MERGE, "W0 += delta\n    return W0", "merge changes its argument"),
    # No rounding to the dtype
    ("dtype", MERGE, "return W0 + delta", "W0 is float16: expected float16 got float64"),
    # Always half precision
    (
        "dtype",
        MERGE,
        "return (W0.astype(np.float64) + delta).astype(np.float16)",
        "W0 is float32: expected float32 got float16",
    ),
    # The update rounded before the sum
    ("rounding", MERGE, "return W0 + delta.astype(W0.dtype)", "expected 1.000976562 got 1"),
    # float32 inside
    (
        "rounding",
        MERGE,
        "return (W0.astype(np.float32) + delta.astype(np.float32)).astype(W0.dtype)",
        "expected 1.000976562 got 1",
    ),
    # --- and back
    # By subtraction
    (
        "restored",
        "self.weight = self.W0\n        # END",
        "self.weight = (self.weight - self.delta).astype(self.W0.dtype)\n        # END",
        "not every bit is back",
    ),
    # What `merge` saved is the merged weight, after two merges
    (
        "restored",
        SAVED,
        SAVED.replace(MERGED, f"self.saved = self.weight\n        {MERGED}").replace(
            BACK, "self.weight = self.saved"
        ),
        "merges=2",
    ),
    # The weight comes back, but is not set
    ("restored", "self.weight = self.W0\n        # END", "return self.W0\n        # END", "bit"),
    # A second merge adds once more
    (
        "twice",
        MERGED,
        "self.weight = (self.weight.astype(np.float64) + self.delta).astype(self.W0.dtype)",
        "the weight after two merges: expected [[1.]] got [[2.]]",
    ),
    # In place: W0 is gone, so that neither a second merge nor unmerge can be right
    (("restored", "twice"), MERGED, "self.weight += self.delta", "expected"),
    # Not rounded to the dtype
    (
        "layer_rounds",
        MERGED,
        "self.weight = self.W0 + self.delta",
        "expected float16 after a merge got float64",
    ),
    # The update rounded before the sum
    (
        "layer_rounds",
        MERGED,
        "self.weight = self.W0 + self.delta.astype(self.W0.dtype)",
        "W0 is float16, delta/3 in place of delta: expected",
    ),
    # The sum is returned, not kept
    (
        "layer_merges",
        MERGED,
        MERGED.replace("self.weight =", "return"),
        "after a merge: expected [[1.]] got [[0.]]",
    ),
    # Merged from the beginning
    ("layer_merges", INIT, "self.weight = W0 + delta\n", "before a merge: expected [[0.]] got"),
]
