"""Mistakes in the assignment on the polynomial: (check that fails, old text, new text, what the
message says).
"""

PAIRS, LEFT, RIGHT = (
    'keep = {"full": i <= j,',
    "left = np.concatenate([B, B[:, i] * B[:, j]], axis=1)",
    "right = np.concatenate([A, h[:, None] * A[i] * A[j]], axis=0)",
)
BOTH = f"{LEFT}\n    {RIGHT}"
COUNTS = "return rank * (rank + 3) // 2, rank * (m + n) + rank * (rank + 1) // 2"
UPDATE = "return B @ A + (B[:, i] * B[:, j]) @ (h[:, None] * A[i] * A[j])"
PHI = "return u.sum() + (h * u[first] * u[second]).sum()"
CENTRAL = "gradient[k] = (f(x + change) - f(x - change)) / (2 * step)"
TO_H = "to_h = ((products_B.T @ G) * products_A).sum(axis=1)"
LINEAR = "to_B, to_A = G @ A.T, B.T @ G"
ANSWERS = "return x @ delta.T, z**2 @ B.T"

COLUMNS = """i, j = i[keep], j[keep]
    order = np.lexsort((i, -j)) if terms == "cross" else slice(None)
    return i[order], j[order]"""

MUTANTS = [
    ("pairs_all", PAIRS, 'keep = {"full": i < j,', "rank=1 · expected [(0, 0)] got []"),
    (
        "pairs_order",
        "return i[keep], j[keep]",
        "return i[keep][::-1], j[keep][::-1]",
        "expected the order [(0, 0), (0, 1), (1, 1)] got",
    ),
    (
        "pairs_order",
        "i, j = np.triu_indices(rank)",
        "j, i = np.tril_indices(rank)",
        "got [(0, 0), (0, 1), (1, 1), (0, 2)",
    ),
    (
        "pairs_order",
        "return i[keep], j[keep]",
        COLUMNS,
        "cross: expected the order [(0, 1), (0, 2), (1, 2)] got [(0, 2), (1, 2), (0, 1)]",
    ),
    (
        "pairs_terms",
        '"cross": i < j}',
        '"cross": i != i}',
        "rank=2 terms='cross' · expected [(0, 1)] got []",
    ),
    (
        "expand_order",
        BOTH,
        (
            "left = np.concatenate([B[:, i] * B[:, j], B], axis=1)\n    right ="
            " np.concatenate([h[:, None] * A[i] * A[j], A])"
        ),
        "with every h = 1, Poly2(B): expected",
    ),
    (
        "expand_h",
        BOTH,
        (
            "left = np.concatenate([B, h * B[:, i] * B[:, j]], axis=1)\n    right ="
            " np.concatenate([A, A[i] * A[j]])"
        ),
        "Poly2(B) depends on h: with this h it is",
    ),
    (
        "expand_product",
        RIGHT,
        "right = np.concatenate([A, A[i] * A[j]], axis=0)",
        "the product: expected [[1.]] got [[2.]]",
    ),
    (
        "expand_product",
        RIGHT,
        "right = np.concatenate([A, h[::-1, None] * A[i] * A[j]], axis=0)",
        "the product: expected",
    ),
    (
        "counted",
        COUNTS,
        "return rank * (rank + 1) // 2, rank * (m + n) + rank * (rank + 1) // 2",
        "rank=1 · K: expected 2 got 1",
    ),
    (
        "counted",
        COUNTS,
        "return rank * (rank + 3) // 2, rank * (m + n) + rank * (rank + 3) // 2",
        "trained parameters: expected 3 got 4",
    ),
    (
        "updated",
        UPDATE,
        "return (B[:, i] * B[:, j]) @ (h[:, None] * A[i] * A[j])",
        "B=[[1.]] A=[[1.]] h=[0.] · expected [[1.]] got [[0.]]",
    ),
    (
        "updated",
        UPDATE,
        "return B @ A + ((2 - (i == j)) * B[:, i] * B[:, j]) @ (h[:, None] * A[i] * A[j])",
        "h=[0.,1.,0.] · expected",
    ),
    (
        "updated",
        UPDATE,
        "return B @ A + (h * B[:, i] * B[:, j]) @ (h[:, None] * A[i] * A[j])",
        "expected [[0.]] got [[2.]]",
    ),
    (
        "updated",
        UPDATE,
        f"order = np.argsort(i != j, kind='stable')\n    i, j = i[order], j[order]\n    {UPDATE}",
        "h=[0.,1.,0.] · expected",
    ),
    ("entry", PHI, "return (h * u[first] * u[second]).sum()", "u=[1.] h=[0.] · expected 1 got 0"),
    (
        "entry",
        PHI,
        "return u.sum() + (h * u[first] * u[second] / (1 + (first == second))).sum()",
        "u=[1.] h=[1.] · expected 2 got 1.5",
    ),
    (
        "central_exact",
        CENTRAL,
        "gradient[k] = (f(x + change) - f(x)) / step",
        "c=1 x=0 · f(x) = c x², step 0.5: expected [0.] got [0.5]",
    ),
    (
        "central_exact",
        "gradient = np.zeros(x.shape)\n",
        "gradient, step = np.zeros(x.shape), 1e-5\n",
        "f(x) = c x³, step 0.5, which adds c step²",
    ),
    (
        "central_entries",
        "change[k] = step",
        "change[...] = step",
        "f(x) = Σ c∘x, step 0.5: expected [[1.,0.]] got [[1.,1.]]",
    ),
    (
        "gradient_h",
        TO_H,
        "to_h = ((products_B.T @ G) * h[:, None] * products_A).sum(axis=1)",
        "∂L/∂h: expected [1.] got [0.]",
    ),
    (
        "gradient_h",
        TO_H,
        "to_h = ((products_B.T @ G) * products_A).mean(axis=1)",
        "∂L/∂h: expected",
    ),
    ("gradient_A", "to_A[q] += through_A * A[p]", "to_A[q] += through_A * A[q]", "∂L/∂A: expected"),
    (
        "gradient_A",
        LINEAR,
        "to_B, to_A = G @ A.T, np.zeros(A.shape)",
        "h=[0.] · ∂L/∂A: expected [[1.]] got [[0.]]",
    ),
    (
        "gradient_B",
        "to_B[:, q] += through_B * B[:, p]",
        "to_B[:, q] += through_B * B[:, q]",
        "∂L/∂B: expected",
    ),
    (
        "gradient_B",
        LINEAR,
        "to_B, to_A = 2 * G @ A.T, B.T @ G",
        "h=[0.] · ∂L/∂B: expected [[1.]] got [[2.]]",
    ),
    (
        "gradient_squares",
        "to_A[q] += through_A",
        "to_A[q] += (p != q) * through_A",
        "less that at h = 0: expected [[2.]] got [[1.]]",
    ),
    (
        "gradient_squares",
        "to_B[:, q] += through_B",
        "to_B[:, q] += (p != q) * through_B",
        "less that at h = 0: expected [[2.]] got [[1.]]",
    ),
    (
        "inputs",
        ANSWERS,
        "return z @ B.T + (h * z[:, i] * z[:, j]) @ (B[:, i] * B[:, j]).T, z**2 @ B.T",
        "PERA's answer: expected",
    ),
    ("inputs", ANSWERS, "return x @ delta.T, z @ B.T", "the contrast's answer: expected"),
]
