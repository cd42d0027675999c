"""Mistakes in the assignment on the polynomial: (check that fails, old text, new text, what the
message says). A tuple of checks where none of them can hold.
"""

PAIRS, KEPT, LEFT, RIGHT = (
    'keep = {"full": i <= j, "square": i == j, "cross": i < j}[terms]',
    "return i[keep], j[keep]",
    "left = np.concatenate([B, B[:, i] * B[:, j]], axis=1)",
    "right = np.concatenate([A, h[:, None] * A[i] * A[j]], axis=0)",
)
TRIANGLE = "i, j = np.triu_indices(rank)"
BOTH = f"{LEFT}\n    {RIGHT}"
EXPAND = f"i, j = np.triu_indices(A.shape[0])\n    {LEFT}"
FACTORS = "return left, right"
COUNTS = "return rank * (rank + 3) // 2, rank * (m + n) + rank * (rank + 1) // 2"
UPDATE = "return B @ A + (B[:, i] * B[:, j]) @ (h[:, None] * A[i] * A[j])"
PHI = "return u.sum() + (h * u[first] * u[second]).sum()"
ZEROS = "gradient = np.zeros(x.shape)\n"
CENTRAL = "gradient[k] = (f(x + change) - f(x - change)) / (2 * step)"
CHANGE = f"change = np.zeros(x.shape)\n        change[k] = step\n        {CENTRAL}"
TO_H = "to_h = ((products_B.T @ G) * products_A).sum(axis=1)"
LINEAR = "to_B, to_A = G @ A.T, B.T @ G"
THROUGH_A = "through_A = h[k] * (products_B[:, k] @ G)"
GRADIENTS = "return to_B, to_A, to_h"
DELTA = "delta = B @ A + (B[:, i] * B[:, j]) @ (h[:, None] * A[i] * A[j])"
ANSWERS = "return x @ delta.T, z**2 @ B.T"
SQUARES_FIRST = "order = np.argsort(i != j, kind='stable')\n    i, j = i[order], j[order]"

COLUMNS = """i, j = i[keep], j[keep]
    order = np.lexsort((i, -j)) if terms == "cross" else slice(None)
    return i[order], j[order]"""

MUTANTS = [
    # --- pairs
    # Squares missing
    ("pairs_all", PAIRS, PAIRS.replace("i <= j", "i < j"), "rank=1 · expected [(0, 0)] got []"),
    # All ordered pairs
    (
        "pairs_all",
        PAIRS,
        f"if terms == 'full':\n        return np.indices((rank, rank)).reshape(2, -1)\n    {PAIRS}",
        "rank=2 · expected [(0, 0), (0, 1), (1, 1)] got [(0, 0), (0, 1), (1, 0), (1, 1)]",
    ),
    # The lower triangle
    ("pairs_all", KEPT, "return j[keep], i[keep]", "got [(0, 0), (1, 0), (1, 1)]"),
    # A rank off by one
    (
        "pairs_all",
        TRIANGLE,
        "i, j = np.triu_indices(rank - 1)",
        "rank=1 · expected [(0, 0)] got []",
    ),
    # Counted from 1
    ("pairs_all", KEPT, "return i[keep] + 1, j[keep] + 1", "expected [(0, 0)] got [(1, 1)]"),
    # A list of pairs in place of two arrays
    ("pairs_all", KEPT, "return list(zip(i[keep], j[keep]))", "expected 2 values, (i, j), got"),
    # Backwards
    (
        "pairs_order",
        KEPT,
        "return i[keep][::-1], j[keep][::-1]",
        "full: expected the order [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)] got [(2, 2)",
    ),
    # Column by column
    (
        "pairs_order",
        TRIANGLE,
        "j, i = np.tril_indices(rank)",
        "got [(0, 0), (0, 1), (1, 1), (0, 2)",
    ),
    # Squares first
    (
        "pairs_order",
        KEPT,
        f"i, j = i[keep], j[keep]\n    {SQUARES_FIRST}\n    return i, j",
        "got [(0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2)]",
    ),
    # Column by column, cross terms only
    (
        "pairs_order",
        KEPT,
        COLUMNS,
        "cross: expected the order [(0, 1), (0, 2), (1, 2)] got [(0, 2), (1, 2), (0, 1)]",
    ),
    # No cross terms
    (
        "pairs_terms",
        PAIRS,
        PAIRS.replace("i < j", "i != i"),
        "terms='cross' · expected [(0, 1), (0, 2), (1, 2)] got []",
    ),
    # `terms` is ignored
    ("pairs_terms", PAIRS, "keep = i <= j", "terms='square' · expected [(0, 0), (1, 1), (2, 2)]"),
    # The two swapped
    (
        "pairs_terms",
        PAIRS,
        PAIRS.replace("i == j", "i < i + j - i").replace('"cross": i < j', '"cross": i == j'),
        "terms='square'",
    ),
    # --- two larger factors
    # Pairs first
    (
        "expand_order",
        BOTH,
        (
            "left = np.concatenate([B[:, i] * B[:, j], B], axis=1)\n    right ="
            " np.concatenate([h[:, None] * A[i] * A[j], A])"
        ),
        "with every h = 1, Poly2(B): expected",
    ),
    # Squares first in both factors, each with its own h
    (
        "expand_order",
        RIGHT,
        (
            f"{RIGHT}\n    r = A.shape[0]\n    order = np.concatenate([np.arange(r), r +"
            " np.argsort(i != j, kind='stable')])\n    left, right = left[:, order], right[order]"
        ),
        "with every h = 1, Poly2(B): expected",
    ),
    # The linear features forgotten
    (
        "expand_order",
        BOTH,
        "left, right = B[:, i] * B[:, j], h[:, None] * A[i] * A[j]",
        "with every h = 1, Poly2(B): expected",
    ),
    # h in the first factor
    (
        "expand_h",
        BOTH,
        (
            "left = np.concatenate([B, h * B[:, i] * B[:, j]], axis=1)\n    right ="
            " np.concatenate([A, A[i] * A[j]])"
        ),
        "Poly2(B) depends on h: with this h it is",
    ),
    # h in both factors
    (
        "expand_h",
        LEFT,
        "left = np.concatenate([B, h * B[:, i] * B[:, j]], axis=1)",
        "Poly2(B) depends on h: with this h it is",
    ),
    # h forgotten
    (
        "expand_product",
        RIGHT,
        "right = np.concatenate([A, A[i] * A[j]], axis=0)",
        "expected [[1.]] got [[0.]]: at rank 2 the pair (0, 0) counts 0 times",
    ),
    # h backwards
    (
        "expand_product",
        RIGHT,
        "right = np.concatenate([A, h[::-1, None] * A[i] * A[j]], axis=0)",
        "at rank 2, h[0] belongs to (0, 0), and yours multiplies (1, 1)",
    ),
    # h for squares first, in features of the right order
    (
        "expand_product",
        RIGHT,
        ("h = h[np.argsort(np.argsort(i != j, kind='stable'), kind='stable')]\n    " + RIGHT),
        "at rank 2, h[1] belongs to (0, 1), and yours multiplies (1, 1)",
    ),
    # Squares missing
    (
        "expand_product",
        EXPAND,
        EXPAND.replace("\n", "\n    i, j, h = i[i < j], j[i < j], h[i < j]\n", 1),
        "at rank 2 the pair (0, 0) counts 0 times",
    ),
    # Cross terms missing
    (
        "expand_product",
        EXPAND,
        EXPAND.replace("\n", "\n    i, j, h = i[i == j], j[i == j], h[i == j]\n", 1),
        "at rank 2 the pair (0, 1) counts 0 times",
    ),
    # h² in one factor
    (
        "expand_product",
        RIGHT,
        "right = np.concatenate([A, h[:, None] ** 2 * A[i] * A[j]], axis=0)",
        "expected [[-1.]] got [[1.]]",
    ),
    # Cross terms twice
    (
        "expand_product",
        RIGHT,
        "right = np.concatenate([A, (2 - (i == j))[:, None] * h[:, None] * A[i] * A[j]], axis=0)",
        "at rank 2 the pair (0, 1) counts 2 times",
    ),
    # A missing return
    (("expand_order", "expand_h", "expand_product"), FACTORS, "pass", "got None: is the `return`"),
    # Half of the answer: no check of the two factors can hold
    (
        ("expand_order", "expand_h", "expand_product"),
        FACTORS,
        "return left",
        "expected 2 values, (Poly2(B), Poly2_H(A)), got",
    ),
    # In place on an argument
    (
        "untouched",
        LEFT,
        f"{LEFT}\n    h *= 1 + 0 * h.sum()\n    A += 1\n    A -= 2\n    A += 1 + 1e-13",
        "expand changes its argument",
    ),
    # float32 inside
    ("precise", RIGHT, RIGHT.replace("h[:, None]", "h[:, None].astype(np.float32)"), "h in expand"),
    # --- how many
    # Pairs only
    (
        "bound",
        COUNTS,
        COUNTS.replace("rank * (rank + 3) // 2", "rank * (rank + 1) // 2"),
        "rank=1 · K: expected 2 got 1",
    ),
    # All ordered pairs
    (
        "bound",
        COUNTS,
        COUNTS.replace("rank * (rank + 3) // 2", "rank + rank**2"),
        "rank=2 · K: expected 5 got 6",
    ),
    # Squares missing
    (
        "bound",
        COUNTS,
        COUNTS.replace("rank * (rank + 3) // 2", "rank + rank * (rank - 1) // 2"),
        "rank=1 · K: expected 2 got 1",
    ),
    # The other order
    (
        "bound",
        COUNTS,
        "return rank * (m + n) + rank * (rank + 1) // 2, rank * (rank + 3) // 2",
        "K: expected 2 got 3",
    ),
    # h has K entries
    (
        "trained",
        COUNTS,
        COUNTS.replace("rank * (rank + 1) // 2", "rank * (rank + 3) // 2"),
        "trained parameters: expected 3 got 4",
    ),
    # h is forgotten
    (
        "trained",
        COUNTS,
        COUNTS.replace(" + rank * (rank + 1) // 2", ""),
        "trained parameters: expected 3 got 2",
    ),
    # What the two large factors hold
    (
        "trained",
        COUNTS,
        "return rank * (rank + 3) // 2, rank * (rank + 3) // 2 * (m + n)",
        "trained parameters: expected 3 got 4",
    ),
    # --- the sum
    # The linear part is forgotten
    (
        "updated",
        UPDATE,
        UPDATE.replace("B @ A + ", ""),
        "expected [[1.]] got [[0.]]: at rank 2 and h = 0, the linear terms count [0.,0.] times",
    ),
    # h twice off the diagonal
    (
        "updated",
        UPDATE,
        UPDATE.replace("(B[:, i]", "((2 - (i == j)) * B[:, i]"),
        "at rank 2 the pair (0, 1) counts 2 times",
    ),
    # h half on the diagonal
    (
        "updated",
        UPDATE,
        UPDATE.replace("(B[:, i]", "((1 - (i == j) / 2) * B[:, i]"),
        "at rank 2 the pair (0, 0) counts 0.5 times",
    ),
    # Squares missing
    (
        "updated",
        UPDATE,
        UPDATE.replace("(B[:, i]", "((i != j) * B[:, i]"),
        "at rank 2 the pair (0, 0) counts 0 times",
    ),
    # Cross terms missing
    (
        "updated",
        UPDATE,
        UPDATE.replace("(B[:, i]", "((i == j) * B[:, i]"),
        "at rank 2 the pair (0, 1) counts 0 times",
    ),
    # h forgotten
    (
        "updated",
        UPDATE,
        UPDATE.replace("h[:, None] * ", ""),
        "h=[0.] · expected [[1.]] got [[2.]]",
    ),
    # h in both factors
    (
        "updated",
        UPDATE,
        UPDATE.replace("(B[:, i]", "(h * B[:, i]"),
        "h=[-1.] · expected [[0.]] got [[2.]]",
    ),
    # Squares first
    (
        "update_order",
        UPDATE,
        f"{SQUARES_FIRST}\n    {UPDATE}",
        "at rank 2, h[1] belongs to (0, 1), and yours multiplies (1, 1)",
    ),
    # Column by column
    (
        "update_order",
        UPDATE,
        f"order = np.lexsort((i, j))\n    i, j = i[order], j[order]\n    {UPDATE}",
        "h[2] = 1 adds [[1.]], expected what the pair (0, 2) has, [[0.]]",
    ),
    # h backwards
    (
        "update_order",
        UPDATE,
        UPDATE.replace("h[:, None]", "h[::-1, None]"),
        "at rank 2, h[0] belongs to (0, 0), and yours multiplies (1, 1)",
    ),
    # A missing return
    (("updated", "update_order"), UPDATE, UPDATE.removeprefix("return "), "None"),
    # In place on an argument
    ("untouched", UPDATE, f"h *= 2\n    {UPDATE.replace('h[', '0.5 * h[')}", "update changes its"),
    # float32 inside
    (
        "precise",
        UPDATE,
        f"B = B.astype(np.float32)\n    {UPDATE}",
        "B in update: a change in the ninth digit",
    ),
    # --- one entry
    # The linear part is forgotten
    ("entry", PHI, PHI.replace("u.sum() + ", ""), "u=[1.] h=[0.] · expected 1 got 0"),
    # Squares half
    (
        "entry",
        PHI,
        PHI.replace("u[second]", "u[second] / (1 + (first == second))"),
        "u=[1.] h=[1.] · expected 2 got 1.5: at rank 2 the pair (0, 0) counts 0.5 times",
    ),
    # Cross terms twice
    (
        "entry",
        PHI,
        PHI.replace("u[second]", "u[second] * (2 - (first == second))"),
        "at rank 2 the pair (0, 1) counts 2 times",
    ),
    # u_i² in place of u_i u_j
    ("entry", PHI, PHI.replace("u[second]", "u[first]"), "expected"),
    # Squares first
    (
        "entry_order",
        PHI,
        (
            "order = np.argsort(first != second, kind='stable')\n    first, second ="
            f" first[order], second[order]\n    {PHI}"
        ),
        "at rank 2, h[1] belongs to (0, 1), and yours multiplies (1, 1)",
    ),
    # h backwards
    ("entry_order", PHI, PHI.replace("(h *", "(h[::-1] *"), "h[0] belongs to (0, 0)"),
    # float32 inside
    ("precise", PHI, f"u = u.astype(np.float32)\n    {PHI}", "u in phi: a change in the ninth"),
    # In place on an argument
    (
        "untouched",
        PHI,
        f"v = u.copy()\n    u *= 2\n    u = v\n    {PHI}",
        "phi changes its argument",
    ),
    # --- finite differences
    # Forward, not central
    (
        "central_exact",
        CENTRAL,
        "gradient[k] = (f(x + change) - f(x)) / step",
        "c=1 x=0 · f(t) = c (t - 0)², step 0.5, at t = 0: expected [0.] got [0.5]",
    ),
    # Backward
    (
        "central_exact",
        CENTRAL,
        "gradient[k] = (f(x) - f(x - change)) / step",
        "expected [0.] got [-0.5]",
    ),
    # Divided by step
    (
        "central_slope",
        CENTRAL,
        "gradient[k] = (f(x + change) - f(x - change)) / step",
        "f(x) = c x, step 0.5: expected [1.] got [2.]",
    ),
    # Not divided
    (
        "central_slope",
        CENTRAL,
        "gradient[k] = (f(x + change) - f(x - change)) / 2",
        "f(x) = c x, step 0.5: expected [1.] got [0.5]",
    ),
    # The other sign
    (
        "central_slope",
        CENTRAL,
        "gradient[k] = (f(x - change) - f(x + change)) / (2 * step)",
        "expected [1.] got [-1.]",
    ),
    # A step of its own
    (
        "central_step",
        ZEROS,
        "gradient, step = np.zeros(x.shape), 1e-5\n",
        "f(t) = c (t - 0)³, step 0.5, at t = 0: expected [0.25] got",
    ),
    # All entries at once
    (
        "central_entries",
        "change[k] = step",
        "change[...] = step",
        "f(x) = Σ c∘x, step 0.5: expected a multiple of",
    ),
    # A vector in place of the shape of x
    (
        "central_entries",
        "gradient[k] = (f(x + change) - f(x - change)) / (2 * step)\n    return gradient",
        "gradient[k] = (f(x + change) - f(x - change)) / (2 * step)\n    return gradient.ravel()",
        "f(x) = Σ c∘x, step 0.5: expected",
    ),
    # In place, and put back half
    (
        "untouched",
        CHANGE,
        (
            "x[k] += step\n        up = f(x)\n        x[k] -= 2 * step\n        gradient[k] ="
            " (up - f(x)) / (2 * step)"
        ),
        "central changes its argument",
    ),
    # float32 inside
    ("precise", ZEROS, "gradient = np.zeros(x.shape, np.float32)\n", "f in central: a change"),
    # A missing return
    (
        ("central_slope", "central_exact", "central_step", "central_entries"),
        f"{CENTRAL}\n    return gradient",
        f"{CENTRAL}\n    print(gradient)",
        "got None: is a `return` missing?",
    ),
    # --- gradients
    # h in the gradient by h
    (
        "gradient_h",
        TO_H,
        "to_h = ((products_B.T @ G) * h[:, None] * products_A).sum(axis=1)",
        "∂L/∂h: expected [1.] got [0.]",
    ),
    # A mean
    (
        "gradient_h",
        TO_H,
        "to_h = ((products_B.T @ G) * products_A).mean(axis=1)",
        "∂L/∂h: expected",
    ),
    # The wrong sign
    (
        "gradient_h",
        TO_H,
        "to_h = -((products_B.T @ G) * products_A).sum(axis=1)",
        "which is -1 times that",
    ),
    # Squares first
    (
        "gradient_h",
        TO_H,
        f"{TO_H}\n    to_h = to_h[np.argsort(i != j, kind='stable')]",
        "the numbers are right, their places are not",
    ),
    # Squares twice: the derivative is by h
    ("gradient_h", TO_H, f"{TO_H} * (1 + (i == j))", "which is 2 times that"),
    # One row of two
    ("gradient_A", "to_A[q] += through_A * A[p]", "to_A[q] += through_A * A[q]", "∂L/∂A: expected"),
    # The linear part is forgotten
    (
        "gradient_A",
        LINEAR,
        "to_B, to_A = G @ A.T, np.zeros(A.shape)",
        "h=[0.] · ∂L/∂A: expected [[1.]] got [[0.]]",
    ),
    # The wrong sign
    (
        "gradient_A",
        GRADIENTS,
        "return to_B, -to_A, to_h",
        "∂L/∂A: expected [[1.]] got [[-1.]], which is -1 times that",
    ),
    # Twice
    ("gradient_A", GRADIENTS, "return to_B, 2 * to_A, to_h", "which is 2 times that"),
    # h is forgotten
    ("gradient_A", THROUGH_A, THROUGH_A.replace("h[k] * ", ""), "∂L/∂A: expected"),
    # One of the two rows, with b and not a
    (
        "gradient_B",
        "to_B[:, q] += through_B * B[:, p]",
        "to_B[:, q] += through_B * B[:, q]",
        "∂L/∂B: expected",
    ),
    # Twice, in the linear part
    (
        "gradient_B",
        LINEAR,
        "to_B, to_A = 2 * G @ A.T, B.T @ G",
        "h=[0.] · ∂L/∂B: expected [[1.]] got [[2.]]",
    ),
    # The wrong sign
    ("gradient_B", GRADIENTS, "return -to_B, to_A, to_h", "which is -1 times that"),
    # The square without its factor 2
    (
        "gradient_squares",
        "to_A[q] += through_A",
        "to_A[q] += (p != q) * through_A",
        "∂L/∂A at this h, less that at h = 0: expected [[2.]] got [[1.]]",
    ),
    (
        "gradient_squares",
        "to_B[:, q] += through_B",
        "to_B[:, q] += (p != q) * through_B",
        "∂L/∂B at this h, less that at h = 0: expected [[2.]] got [[1.]]",
    ),
    # Squares forgotten
    (
        "gradient_squares",
        THROUGH_A,
        f"{THROUGH_A} * (p != q)",
        "∂L/∂A at this h, less that at h = 0: expected [[2.]] got [[0.]]",
    ),
    # float32 inside
    ("precise", GRADIENTS, "return to_B, to_A.astype(np.float32), to_h", "G in ∂L/∂A: a change"),
    # In place on an argument
    (
        "untouched",
        GRADIENTS,
        "G *= 2\n    return to_B, to_A, to_h",
        "gradients changes its argument",
    ),
    # --- polynomial in what?
    # A polynomial in x
    (
        "answer_linear",
        ANSWERS,
        "return z @ B.T + (h * z[:, i] * z[:, j]) @ (B[:, i] * B[:, j]).T, z**2 @ B.T",
        "every h = 1: f(x) =",
    ),
    # A constant
    ("answer_linear", ANSWERS, "return x @ delta.T + (x == 0).all(), z**2 @ B.T", "every h = 1"),
    # The linear part is forgotten
    (
        "answer_delta",
        DELTA,
        DELTA.replace("B @ A + ", ""),
        "x = the identity, PERA's answer: expected [[1.]] got [[0.]]: at rank 2 and h = 0",
    ),
    # Cross terms twice
    (
        "answer_delta",
        DELTA,
        DELTA.replace("(B[:, i]", "((2 - (i == j)) * B[:, i]"),
        "at rank 2 the pair (0, 1) counts 2 times",
    ),
    # Squares first
    ("answer_delta", DELTA, f"{SQUARES_FIRST}\n    {DELTA}", "at rank 2, h[1] belongs to (0, 1)"),
    # The other order
    ("answer_delta", ANSWERS, "return z**2 @ B.T, x @ delta.T", "PERA's answer: expected"),
    # No square
    ("answer_contrast", ANSWERS, "return x @ delta.T, z @ B.T", "the contrast's answer: expected"),
    # x squared, not z
    (
        "answer_contrast",
        ANSWERS,
        "return x @ delta.T, (x**2 @ A.T) @ B.T",
        "the contrast's answer: expected",
    ),
    # A not transposed: square matrices hide the shape, not the value
    (
        "answer_contrast",
        ANSWERS,
        "return x @ delta.T, (x @ A) ** 2 @ B.T",
        "the contrast's answer: expected",
    ),
    # float32 inside
    ("precise", "z = x @ A.T", "z = (x @ A.T).astype(np.float32)", "x in answers, the contrast"),
    # In place on an argument
    (
        "untouched",
        ANSWERS,
        "y = x.copy()\n    x **= 2\n    return y @ delta.T, z**2 @ B.T",
        "answers changes",
    ),
]
