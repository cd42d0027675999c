"""Mistakes in the assignment on expressiveness: (check that fails, old text, new text, what the
message says).
"""

PIVOT = "pivot = next((k for k in range(rank, len(rows)) if rows[k][column] != 0), None)"
ROWS = "rows = [[Fraction(entry) for entry in row] for row in M]"
BELOW = "for k in range(rank + 1, len(rows)):"
TRAP = "return np.diag([1.0, 1e-17]), np.diag([1e-17, 1.0])"
H, SIGNS = "h = [2] + [0] * (rank * (rank + 1) // 2 - 1)", "return every, np.array(every).T, h"
B = "B = [[x**power for power in powers] for x in range(1, rank * (rank + 3) // 2 + 1)]"
DIMENSIONS = "return min(m * n, rank * (m + n) + rank * (rank - 1) // 2), rank * (m + n) - rank**2"
MOVED = "return B * np.array([2, -1]), A * np.array([[Fraction(1, 2)], [-1]]), h"
SHEAR = "return B @ M, inverse @ A, h"
SANDWICH = "return np.sqrt((sigma[bound:] ** 2).sum()), np.sqrt((sigma[rank:] ** 2).sum())"
NEAR = "return (1 - epsilon * x) / epsilon, 1 - epsilon * y, -epsilon"

MUTANTS = [
    (
        "rank_small",
        PIVOT,
        "pivot = rank if rank < len(rows) and rows[rank][column] != 0 else None",
        "M=[[0], [1]] · expected 1 got 0",
    ),
    (
        "rank_small",
        PIVOT,
        PIVOT.replace("len(rows))", "min(rank + 2, len(rows)))"),
        "expected 1 got 0",
    ),
    ("rank_small", BELOW, BELOW.replace("len(rows))", "min(rank + 2, len(rows)))"), "expected"),
    (
        "rank_small",
        "        rank += 1\n    return rank\n",
        "        rank += 1\n    return max(rank, 1)\n",
        "M=[[0]] · expected 0 got 1",
    ),
    (
        "rank_exact",
        ROWS,
        f"return int(np.linalg.matrix_rank(np.array(M, dtype=float)))\n    {ROWS}",
        "N² + 1]], N = 10^",
    ),
    (
        "trap",
        TRAP,
        "return np.diag([1.0, 1e-17]), np.diag([1.0, 1e-17])",
        "(of the product) 2 got 1, 1 and 1",
    ),
    (
        "trap",
        TRAP,
        "return np.diag([1.0, 1e-3]), np.diag([1e-3, 1.0])",
        "(of the product) 2 got 2, 2 and 2",
    ),
    (
        "identity",
        H,
        "h = [1] + [0] * (rank * (rank + 1) // 2 - 1)",
        "expected [[1, 0], [0, 1]] got [[3/4, -1/4], [-1/4, 3/4]]",
    ),
    (
        "beyond",
        H,
        "h = [0] * (rank * (rank + 1) // 2 - 1) + [2]",
        "rank=2 · expected a rank of at least 3 got 2: [[1/2, -1/2, 0], [",
    ),
    (
        "reaches",
        B,
        "B = [[x**power for power in powers] for x in range(1, rank * (rank + 1) // 2 + 1)]",
        "rank=1 · expected the rank K = 2 got 1",
    ),
    (
        "reaches",
        "powers = [3**k for k in range(rank)]",
        "powers = [2**k for k in range(rank)]",
        "rank=2 · expected the rank K = 5 got 4",
    ),
    (
        "reaches",
        B,
        f"{B}\n    B = (np.array(B) / 2).tolist()",
        "B has the float 0.5: use whole numbers and Fraction(1, 2), and no /",
    ),
    (
        "signed",
        "for row in range(2**rank)]",
        "for row in range(rank)]",
        "rank=2 · expected the rank 4 got 2",
    ),
    (
        "signed",
        "1 - 2 * (row >> k & 1)",
        "(row >> k & 1)",
        "B has the entry 0: expected 1 and -1 only",
    ),
    (
        "counted",
        DIMENSIONS,
        "return min(m * n, rank * (m + n) + rank * (rank + 1) // 2), rank * (m + n) - rank**2",
        "PERA: expected 18 got 19",
    ),
    (
        "counted",
        DIMENSIONS,
        "return min(m * n, rank * (m + n) + rank * (rank - 1) // 2), rank * (m + n)",
        "LoRA: expected 17 got 18",
    ),
    (
        "capped",
        DIMENSIONS,
        "return rank * (m + n) + rank * (rank - 1) // 2, rank * (m + n) - rank**2",
        "and there are 4 entries",
    ),
    ("moved", "B[:, ::-1], A[::-1], h[::-1]", "B[:, ::-1], A[::-1], h", "the update was [["),
    ("moved", MOVED, "return B * np.array([2, -1]), A * np.array([[2], [-1]]), h", "and is now [["),
    ("other", MOVED, "return B, A, h", "new column 0 is equal to the old column 1: scale it, too"),
    (
        "other",
        "B, A, h = B[:, ::-1], A[::-1], h[::-1]",
        "B, A, h = B, A, h",
        "no multiple of the old column 1, [[2,1,5]]",
    ),
    ("broken", SHEAR, "return B @ M, M @ A, h", "B A was [["),
    (
        "broken",
        SHEAR,
        "return B[:, ::-1], A[::-1], h",
        "each new column is a multiple of an old one, B = [[2, 1], [",
    ),
    (
        "upper",
        SANDWICH,
        SANDWICH.replace("sigma[rank:]", "sigma[rank : rank + 1]"),
        "upper: expected 1.41421 got 1",
    ),
    (
        "lower",
        SANDWICH,
        SANDWICH.replace("sigma[bound:]", "sigma[rank + 1 :]"),
        "rank=2 · lower: expected 0 got 1",
    ),
    (
        "lower",
        SANDWICH,
        SANDWICH.replace("sigma[bound:]", "sigma[bound - 1 :]"),
        "rank=1 · lower: expected 0 got 1",
    ),
    (
        "limit",
        NEAR,
        NEAR.replace("-epsilon\n", "epsilon").replace(", -epsilon", ", epsilon"),
        "ε = 1/10000: the target is [[0]], the update [[20000.]]",
    ),
    (
        "limit",
        NEAR,
        "return (1 - epsilon * x) / epsilon, 1 - epsilon * y, -epsilon * epsilon",
        "away",
    ),
]
