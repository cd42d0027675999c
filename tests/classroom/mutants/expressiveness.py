"""Mistakes in the assignment on expressiveness: (check that fails, old text, new text, what the
message says).
"""

PIVOT = "pivot = next((k for k in range(rank, len(rows)) if rows[k][column] != 0), None)"
ROWS = "rows = [[Fraction(entry) for entry in row] for row in M]"
BELOW = "for k in range(rank + 1, len(rows)):"
SKIP = "        if pivot is None:\n            continue\n"
FACTOR = "factor = rows[k][column] / rows[rank][column]"
COUNTED = "        rank += 1\n    return rank\n"
TRAP = "return np.diag([1.0, 1e-17]), np.diag([1e-17, 1.0])"
H, SIGNS = "h = [2] + [0] * (rank * (rank + 1) // 2 - 1)", "return every, np.array(every).T, h"
CORNER = "B[:2, 0], A[0, :2] = [1, -1], [Fraction(1, 2), Fraction(-1, 2)]"
ONE, EACH = "B[k + 1, k] = A[k, k + 1] = 1", "for k in range(1, rank):"
B = "B = [[x**power for power in powers] for x in range(1, rank * (rank + 3) // 2 + 1)]"
LAST = "return B, np.array(B, dtype=object).T, h"
ALL_H = "    h = [1] * (rank * (rank + 1) // 2)\n    if signs:"
DIMENSIONS = "return min(m * n, rank * (m + n) + rank * (rank - 1) // 2), rank * (m + n) - rank**2"
MOVED = "return B * np.array([2, -1]), A * np.array([[Fraction(1, 2)], [-1]]), h"
SWAP = "B, A, h = B[:, ::-1], A[::-1], h[::-1]"
SHEAR = "return B @ M, inverse @ A, h"
MATRICES = "M, inverse = np.array([[1, 1], [0, 1]]), np.array([[1, -1], [0, 1]])"
EQUAL = "rows = [tuple(row) for row in H + H.T]  # of 2 H, so that nothing is halved"
SQUARES = "return sum(rows.count(row) for row in rows)  # each of a class's c rows counts c"
P, Q = (
    "p = next(k for k in range(len(b)) if b[k] != 0)",
    "q = next(k for k in range(len(b)) if b[k] not in (0, b[p]))",
)
K = "k = next(k for k in range(len(a)) if a[k] != 0)"
SLOPE, ZERO = (
    "slope = (W[q] / b[q] - W[p] / b[p]) / (b[q] - b[p])  # h a∘a",
    "a = W[p] / b[p] - b[p] * slope",
)
FOUND = "return a, slope[k] / a[k] ** 2"
SANDWICH = "return np.sqrt((sigma[bound:] ** 2).sum()), np.sqrt((sigma[rank:] ** 2).sum())"
BOUND = "    bound = rank * (rank + 3) // 2\n    return np.sqrt"
NEAR = "return (1 - epsilon * x) / epsilon, 1 - epsilon * y, -epsilon"

MUTANTS = [
    # No row exchange: only the next row may be the pivot
    (
        "rank_small",
        PIVOT,
        "pivot = rank if rank < len(rows) and rows[rank][column] != 0 else None",
        "M=[[0], [1]] · expected 1 got 0",
    ),
    # The pivot is sought in two rows, not in all
    (
        "rank_small",
        PIVOT,
        PIVOT.replace("len(rows))", "min(rank + 2, len(rows)))"),
        "expected 1 got 0",
    ),
    # It is sought from the first row on, used rows too
    ("rank_small", PIVOT, PIVOT.replace("range(rank,", "range(0,"), "expected"),
    # Elimination in the next row alone
    ("rank_small", BELOW, BELOW.replace("len(rows))", "min(rank + 2, len(rows)))"), "expected"),
    # Integer division of the factor
    ("rank_small", FACTOR, FACTOR.replace(" / ", " // "), "expected"),
    # The factor upside down
    (
        "rank_small",
        FACTOR,
        "factor = rows[rank][column] / rows[k][column] if rows[k][column] else 0",
        "expected",
    ),
    # A column without a pivot ends it all
    ("rank_small", SKIP, SKIP.replace("continue", "break"), "expected"),
    # A column without a pivot uses up a row
    (
        "rank_small",
        SKIP,
        SKIP.replace("continue", "rank += 1; continue"),
        "expected",
    ),
    # The zero matrix has rank 1
    (
        "rank_small",
        COUNTED,
        COUNTED.replace("return rank", "return max(rank, 1)"),
        "M=[[0]] · expected 0 got 1",
    ),
    # The zero rows are counted, not the others
    (
        "rank_small",
        COUNTED,
        COUNTED.replace("return rank", "return len(rows) - rank"),
        "M=[[0]] · expected 0 got 1",
    ),
    # NumPy's rank
    (
        "rank_exact",
        ROWS,
        f"return int(np.linalg.matrix_rank(np.array(M, dtype=float)))\n    {ROWS}",
        "at N = 10^",
    ),
    # Elimination in floats
    ("rank_exact", ROWS, ROWS.replace("Fraction(entry)", "float(entry)"), "at N = 10^"),
    # A tolerance
    (
        "rank_exact",
        PIVOT,
        PIVOT.replace("rows[k][column] != 0", "abs(rows[k][column]) > 1e-9"),
        "at N = 10^",
    ),
    # Fractions of floats
    ("rank_exact", ROWS, ROWS.replace("Fraction(entry)", "Fraction(float(entry))"), "at N = 10^"),
    # Twice the same matrix
    (
        "trap",
        TRAP,
        "return np.diag([1.0, 1e-17]), np.diag([1.0, 1e-17])",
        "(of the product) 2 got 1, 1 and 1",
    ),
    # Small, but not below NumPy's tolerance
    (
        "trap",
        TRAP,
        "return np.diag([1.0, 1e-3]), np.diag([1e-3, 1.0])",
        "(of the product) 2 got 2, 2 and 2",
    ),
    # The h of u + h u² at another root
    ("identity", H, H.replace("[2]", "[1]"), "expected [[1, 0], [0, 1]]"),
    # The sign of h
    (
        "identity",
        H,
        H.replace("[2]", "[-2]"),
        "which make ΔW = [[0, -1], [-1, 0]], of rank 2: expected [[1, 0], [0, 1]]",
    ),
    # h in the order of the wrong pairs
    (
        "beyond",
        H,
        "h = [0] * (rank * (rank + 1) // 2 - 1) + [2]",
        "h = [0, 0, 2], which make ΔW = [[1/2, -1/2, 0], [",
    ),
    # Only rank 1 is written
    (
        "beyond",
        EACH,
        "for k in range(1, 1):",
        "rank=2 · your factors are B = [[1, 0], [-1, 0], [0, 0]]",
    ),
    # The further columns all use one place
    ("beyond", ONE, "B[2, k] = A[k, 2] = 1", "of rank 3: expected at least 4"),
    # 1/2 as a float
    (
        "beyond_exact",
        CORNER,
        CORNER.replace("Fraction(1, 2), Fraction(-1, 2)", "0.5, -0.5"),
        "A has the float 0.5",
    ),
    # Arrays of floats, whole as they are
    (
        "beyond_exact",
        "B = np.zeros((rank + 1, rank), dtype=object)",
        "B = np.zeros((rank + 1, rank))",
        "B has the float 1.0",
    ),
    # A layer with too few rows
    (
        "reaches",
        B,
        B.replace("(rank + 3)", "(rank + 1)"),
        "rank=1 · your factors are B = [[1]], A = [[1]], h = [1], which make ΔW = [[2]], of rank 1",
    ),
    # Powers of which two make a third
    (
        "reaches",
        "powers = [3**k for k in range(rank)]",
        "powers = [2**k for k in range(rank)]",
        "of rank 4: expected the rank K = 5",
    ),
    # h = 0
    (
        "reaches",
        LAST,
        LAST.replace(", h", ", [0] * len(h)"),
        "h = [0], which make ΔW = [[1, 2], [2, 4]], of rank 1",
    ),
    # Powers that overflow in int64
    (
        "reaches",
        LAST,
        "B = np.array(B, dtype=np.int64)\n    with np.errstate(over='ignore'):\n"
        "        B = B * np.int64(2**62)\n    return B, B.T, h",
        "-9223372036854775808",
    ),
    # Floats by a division
    (
        "high_exact",
        LAST,
        f"B = (np.array(B) / 2).tolist()\n    {LAST}",
        "signs=False · B has the float 0.5",
    ),
    # np.ones
    (
        "high_exact",
        SIGNS,
        "return np.array(every, dtype=float), np.array(every).T, h",
        "signs=True · B has the float 1.0",
    ),
    # Too few rows of signs
    (
        "signed",
        "for row in range(2**rank)]",
        "for row in range(rank)]",
        "which make ΔW = [[5, 1], [1, 5]], of rank 2: signs can reach more",
    ),
    # Bits in place of signs
    ("signed", "1 - 2 * (row >> k & 1)", "(row >> k & 1)", "has the entry 0"),
    # h with alternating signs, so that the squares cancel
    (
        "signed",
        SIGNS,
        SIGNS.replace(", h", ", [0] * len(h)"),
        "h = [0, 0, 0], which make",
    ),
    # The wasted parameters of PERA are forgotten
    (
        "pera_dimension",
        DIMENSIONS,
        DIMENSIONS.replace("rank * (rank - 1) // 2", "rank * (rank + 1) // 2"),
        "PERA: expected 18 got 19",
    ),
    # h is forgotten
    (
        "pera_dimension",
        DIMENSIONS,
        DIMENSIONS.replace("rank * (rank - 1) // 2", "-rank").replace("+ -", "- "),
        "PERA: expected 18 got 17",
    ),
    # h counted r² times
    (
        "pera_dimension",
        DIMENSIONS,
        DIMENSIONS.replace("rank * (rank - 1) // 2", "rank**2 - rank"),
        "PERA: expected 37 got 38",
    ),
    # LoRA without - r²
    (
        "lora_dimension",
        DIMENSIONS,
        DIMENSIONS.replace(" - rank**2", ""),
        "LoRA: expected 17 got 18",
    ),
    # LoRA wastes r
    (
        "lora_dimension",
        DIMENSIONS,
        DIMENSIONS.replace(" - rank**2", " - rank"),
        "LoRA: expected 32 got 34",
    ),
    # (LoRA, PERA)
    (
        "lora_dimension",
        DIMENSIONS,
        "return rank * (m + n) - rank**2, min(m * n, rank * (m + n) + rank * (rank - 1) // 2)",
        "LoRA: expected 17 got 18",
    ),
    # No cap
    (
        "capped",
        DIMENSIONS,
        "return rank * (m + n) + rank * (rank - 1) // 2, rank * (m + n) - rank**2",
        "rank 2 on 2 x 2 entries, PERA: expected 4 got 9",
    ),
    # h stays when the columns change places
    (
        "moved",
        SWAP,
        "B, A, h = B[:, ::-1], A[::-1], h",
        "A = [[1/2, 2, 3/2], [-2, -3, -1]], h = [1, 2, 4]; the update was [[",
    ),
    # A is multiplied by what multiplies B
    (
        "moved",
        MOVED,
        MOVED.replace("Fraction(1, 2)", "2"),
        "A = [[2, 8, 6], [-2, -3, -1]], h = [4, 2, 1]; the update was [[",
    ),
    # A stays
    (
        "moved",
        MOVED,
        "return B * np.array([2, -1]), A, h",
        "A = [[1, 4, 3], [2, 3, 1]], h = [4, 2, 1]; the update was [[",
    ),
    # Exchanged, not scaled
    ("other", MOVED, "return B, A, h", "its column 0 is equal to the old column 1: scale it, too"),
    # Scaled, not exchanged
    ("other", SWAP, "pass", "its column 0 is no multiple of the old column 1, [2, 1, 5]"),
    # M in place of its inverse
    ("unnoticed", SHEAR, "return B @ M, M @ A, h", "B A was [[4, 11, 7], ["),
    # The inverse on the wrong side
    ("unnoticed", SHEAR, "return B @ M, (A.T @ inverse).T, h", "B A was [[4, 11, 7], ["),
    # h is moved as well
    (
        "unnoticed",
        SHEAR,
        SHEAR.replace(", h", ", h + 1"),
        "h was [1, 2, 4] and is now [2, 3, 5]: keep it",
    ),
    # A permutation
    (
        "noticed",
        SHEAR,
        "return B[:, ::-1], A[::-1], h",
        "your B is [[2, 1], [1, 3], [5, 2]]: each of its columns is a multiple of an old one",
    ),
    # A scale
    (
        "noticed",
        MATRICES,
        MATRICES.replace("[[1, 1], [0, 1]]", "[[-1, 0], [0, 1]]").replace(
            "[[1, -1], [0, 1]]", "[[-1, 0], [0, 1]]"
        ),
        "each of its columns is a multiple of an old one",
    ),
    # np.linalg.inv
    ("moved_exact", SHEAR, "return B @ M, np.linalg.inv(M) @ A, h", "A has the float 1.0"),
    # 0.5
    ("moved_exact", MOVED, MOVED.replace("Fraction(1, 2)", "0.5"), "A has the float 0.5"),
    # The number of classes
    ("classes", SQUARES, "return len(set(rows))", "H = [[0, 0], [0, 0]]: expected 4 got 1"),
    # Columns without a partner are forgotten
    (
        "classes",
        SQUARES,
        "return sum(rows.count(row) for row in rows if rows.count(row) > 1)",
        "H = [[0]]: expected 1 got 0",
    ),
    # Only neighbours are compared: other_rows
    (
        "classes",
        SQUARES,
        "return len(rows) ** 2 if len(set(rows)) == 1 else len(rows)",
        "H = [[0, 0, 0], [0, 0, 0], [0, 0, 1]]: expected 5 got 3",
    ),
    # H_ij = h_ij
    (
        "shared",
        EQUAL,
        "rows = [tuple(row) for row in H + H.T - np.diag(np.diag(H))]",
        "all rows of H are equal, and for such rows your own answer is 4; here it is 2",
    ),
    # H without its lower half
    (
        "shared",
        EQUAL,
        "rows = [tuple(row) for row in H]",
        "all rows of H are equal, and for such rows your own answer is 4; here it is 2",
    ),
    # The slope for h: the square of a is forgotten
    (
        "again",
        FOUND,
        "return a, slope[k] / a[k]",
        "your a = [2] and h = 2 make [[10], [36]] of b = [1, 2]",
    ),
    # Multiplied by a², not divided
    ("again", FOUND, "return a, slope[k]", "your a = [2] and h = 4 make"),
    # The value at zero is read at b_p
    ("again", ZERO, "a = W[p] / b[p]", "your a = [2] and h = 1/4 make"),
    # W is not divided by b
    ("again", SLOPE, "slope = (W[q] - W[p]) / (b[q] - b[p])", "your a = [-2] and h = 1 make"),
    # The linear part alone: LoRA's factors
    ("again", FOUND, "return W[p] / b[p], 0", "your a = [2] and h = 0 make"),
    # The first row is taken
    ("harmless", P, "p = 0", "ZeroDivisionError"),
    # The second row is taken
    ("harmless", Q, "q = 1", "ZeroDivisionError"),
    # Equal entries are no trouble, are they
    ("harmless", Q, "q = next(k for k in range(p + 1, len(b)) if b[k] != 0)", "ZeroDivisionError"),
    # The first column is taken
    ("harmless", K, "k = 0", "ZeroDivisionError"),
    # Division in floats
    ("found_exact", FOUND, "return a, float(slope[k]) / float(a[k]) ** 2", "h has the float"),
    # A linear system in floats
    (
        "found_exact",
        FOUND,
        "X = np.array([[b[p], b[p] ** 2], [b[q], b[q] ** 2]], dtype=float)\n"
        "    a, slope = np.linalg.solve(X, np.array([W[p], W[q]], dtype=float))\n"
        "    return a, slope[k] / a[k] ** 2",
        "a has the float",
    ),
    # One σ of the tail
    (
        "upper",
        SANDWICH,
        SANDWICH.replace("sigma[rank:]", "sigma[rank + 1 :]"),
        "rank=1 · upper: expected 1 got 0",
    ),
    # r counted from 1
    (
        "upper",
        SANDWICH,
        SANDWICH.replace("sigma[rank:]", "sigma[rank - 1 :]"),
        "rank=1 · upper: expected 0 got 1",
    ),
    # K off by one
    (
        "lower",
        SANDWICH,
        SANDWICH.replace("sigma[bound:]", "sigma[bound + 1 :]"),
        "rank=1 · lower: expected 1 got 0",
    ),
    # K counted from 1
    (
        "lower",
        SANDWICH,
        SANDWICH.replace("sigma[bound:]", "sigma[bound - 1 :]"),
        "rank=1 · lower: expected 0 got 1",
    ),
    # r in place of K
    (
        "lower",
        SANDWICH,
        SANDWICH.replace("sigma[bound:]", "sigma[rank:]"),
        "rank=1 · lower: expected 0 got 1",
    ),
    # K = r(r+1)/2
    ("lower", BOUND, BOUND.replace("rank + 3", "rank + 1"), "rank=1 · lower: expected 0 got 1"),
    # Turned round, as in the paper's Theorem 1
    (
        "lower",
        SANDWICH,
        "return np.sqrt((sigma[rank:] ** 2).sum()), np.sqrt((sigma[bound:] ** 2).sum())",
        "rank=1 · lower: expected 0 got 1",
    ),
    # Sums of σ in place of squares
    (
        "frobenius",
        SANDWICH,
        "return sigma[bound:].sum(), sigma[rank:].sum()",
        "5 is not (σ_i² + ... + σ_N²)^½",
    ),
    # No root
    (
        "frobenius",
        SANDWICH,
        "return (sigma[bound:] ** 2).sum(), (sigma[rank:] ** 2).sum()",
        "13 is not (σ_i² + ... + σ_N²)^½",
    ),
    # The spectral norm
    (
        "frobenius",
        SANDWICH,
        "return sigma[bound:].max(initial=0), sigma[rank:].max(initial=0)",
        "3 is not (σ_i² + ... + σ_N²)^½",
    ),
    # The mean
    (
        "frobenius",
        SANDWICH,
        "root = lambda tail: np.sqrt((tail ** 2).mean()) if len(tail) else 0.0\n"
        "    return root(sigma[bound:]), root(sigma[rank:])",
        "2.54951 is not (σ_i² + ... + σ_N²)^½",
    ),
    # The sign of h
    (
        "limit",
        NEAR,
        NEAR.replace(", -epsilon", ", epsilon"),
        "h = 1/10000 make [[20000.]], and the target is [[0]]",
    ),
    # h = -ε²
    ("limit", NEAR, NEAR.replace(", -epsilon", ", -epsilon * epsilon"), "h = -1/100000000 make"),
    # h = -1/ε
    ("limit", NEAR, NEAR.replace(", -epsilon", ", -1 / epsilon"), "h = -10000 make"),
    # 1/ε is forgotten
    ("limit", NEAR, NEAR.replace(" / epsilon", ""), "your b = [1], a = [1]"),
    # 1/ε in both factors
    (
        "limit",
        NEAR,
        NEAR.replace("1 - epsilon * y,", "(1 - epsilon * y) / epsilon,"),
        "a = [10000], h = -1/10000 make",
    ),
    # h is a float
    (
        "near_exact",
        NEAR,
        NEAR.replace(", -epsilon", ", -float(epsilon)"),
        "h has the float -0.0001",
    ),
    # All is
    ("near_exact", NEAR, f"epsilon = float(epsilon)\n    {NEAR}", "b has the float 10000.0"),
    # Fractions are put into the caller's rows
    (
        "untouched",
        "rows = [[Fraction(entry) for entry in row] for row in M]",
        "rows = M\n    for row in rows:\n        row[:] = map(Fraction, row)",
        "exact_rank changes its argument [[0, 2, 1], [3, 1, 2], [3, 3, 3]] in place",
    ),
    # One of the other factors is made in the caller's array
    (
        "untouched",
        "return B @ M, inverse @ A, h",
        "B[:] = B @ M\n    return B, inverse @ A, h",
        "other_factors changes its argument [[1,2],[3,4],[5,7]] in place, to [[1,3],[3,7],[5,12]]",
    ),
]
