"""Which changes of the factors an update does not see, at factors that you have."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice, product
from typing import Any

import numpy as np

from perakit import formulas
from perakit.errors import PerakitError
from perakit.formulas import Array
from perakit.theory import field
from perakit.theory.families import Factors, as_float64, check_layer, pera, products
from perakit.theory.jacobian import jacobian_rank

# Multiplications that a count at the factors may take, some seconds; beyond it none is made
LARGEST_COUNT = 5e9
SHOWN = 1000  # permutations that are counted one by one


@dataclass(frozen=True, eq=False)
class Gauge:
    """What leaves ΔW alone at some factors: a general linear group for each class of columns.

    ΔW depends on the columns of a class c only through the product B_c A_c, so B_c X and X⁻¹ A_c,
    with any invertible X of size r_c, are factors of the same ΔW, with the same h. Under the
    hypotheses of the gauge theorem nothing else near them is (`theory.claims["gauge-theorem"]`).

    factors: B (m, r), A (r, n) and, but for LoRA, h; terms, degree: what h multiplies; "none" is
    LoRA. classes: the columns, from 0, with equal rows of H (at degrees above 2: equal derivatives
    of φ_h); H is symmetric, H_ii = h_ii and H_ij = h_ij/2. kernel: the dimension of the null space
    of ΔW's derivative at these factors, None where it was not counted; how: in which way it was.
    """

    factors: Mapping[str, np.ndarray]
    terms: str
    degree: int
    classes: tuple[tuple[int, ...], ...]
    kernel: int | None
    how: str

    @property
    def dimension(self) -> int:
        """Σ r_c² over the classes: the dimension of the group that keeps h."""
        return sum(len(members) ** 2 for members in self.classes)

    @property
    def holds(self) -> bool | None:
        """Whether the group's directions are all there are at these factors; None: not counted."""
        return None if self.kernel is None else self.kernel == self.dimension

    def directions(self) -> Iterator[dict[str, np.ndarray]]:
        """The group's directions δB = B X, δA = -X A, δh = 0, one for each X = E_ik.

        i and k run over the columns of a class. The derivative of ΔW along each is zero: of whole
        numbers or Fractions exactly, of floats up to rounding. They are independent where B or A
        has rank r.
        """
        for members in self.classes:
            for i, k in product(members, repeat=2):
                moved = {name: 0 * value for name, value in self.factors.items()}
                moved["B"][:, k] = self.factors["B"][:, i]
                moved["A"][i] = -self.factors["A"][k]
                yield moved

    def permutations(self) -> Iterator[tuple[int, ...]]:
        """The orders of the columns that keep h too, as `gauge_orbit` takes them.

        One for each way to exchange whole classes, the identity first; those inside a class belong
        to its linear group. Every other order keeps ΔW as well, but renumbers h.
        """
        # φ_h is a polynomial in the sums over classes: h at one column of each says which
        place = {members[0]: c for c, members in enumerate(self.classes)}
        coefficients = {
            tuple(place[k] for k in row): value
            for row, value in zip(self._products(), self._coefficients(), strict=True)
            if place.keys() >= set(row)
        }
        for images in _automorphisms(coefficients, [len(members) for members in self.classes]):
            order = [0] * self.factors["B"].shape[1]
            for members, image in zip(self.classes, images, strict=True):
                for k, moved in zip(members, self.classes[image], strict=True):
                    order[k] = moved
            yield tuple(order)

    def _products(self) -> list[tuple[int, ...]]:
        return products(self.factors["B"].shape[1], self.terms, self.degree)

    def _coefficients(self) -> list[Any]:
        return self.factors["h"].tolist() if "h" in self.factors else []

    def __str__(self) -> str:
        rank = self.factors["B"].shape[1]
        name = "LoRA" if self.terms == "none" else "PERA"
        sets = ", ".join("{" + ", ".join(str(k) for k in members) + "}" for members in self.classes)
        sizes = Counter(len(members) for members in self.classes)
        groups = " x ".join(f"GL({size})" + f"^{k}" * (k > 1) for size, k in sizes.items())
        count = len(list(islice(self.permutations(), SHOWN + 1)))
        orders = f"more than {SHOWN}" if count > SHOWN else str(count)
        m, n = self.factors["B"].shape[0], self.factors["A"].shape[1]
        found = "not counted" if self.kernel is None else str(self.kernel)
        if self.kernel is not None and self.kernel > self.dimension:
            found += f", {self.kernel - self.dimension} more than the group has"
        return "\n".join(
            (
                f"{name} of rank {rank} on a {m} x {n} layer: ΔW stays under {groups}, of dimension"
                f" {self.dimension}",
                f"classes of columns, from 0: {sets}",
                f"exchanges of whole classes that keep h: {orders}, with the identity",
                f"directions without effect at these factors: {found} ({self.how})",
            )
        )


def gauge(factors: Factors | Sequence[Array], terms: str = "full", degree: int = 2) -> Gauge:
    """The changes of these factors that leave ΔW alone, and whether there are no others.

    factors: (B, A, h) or {"B": B, "A": A, "h": h} with B (m, r), A (r, n), h as `formulas.pera`
    takes it, without h LoRA's; arrays of numbers or tensors. terms, degree: what h multiplies.
    Returns a `Gauge`.

    Columns i and k are in one class if rows i and k of H are equal, and equal means equal: floats
    are compared as they are, so round an h that was trained before you ask. The gauge theorem
    counts the directions for K <= min(m, n) and generic B, A. Whether these are generic enough is
    looked at: if the features of degree 2k - 1 (k: the degree) of B and of A are independent they
    are; else the null space of the derivative is counted where that takes seconds. Both modulo a
    prime, floats as the dyadic numbers they are, so nothing is rounded (Fractions are, to floats,
    where the null space is counted). A count that is the group's is proved; a larger one is right
    unless two primes near 2^23 both divide every larger minor.
    Source: follows from arXiv 2604.11841, Eq. 9.

    >>> B, A = np.arange(1, 21).reshape(10, 2) ** 2, np.arange(1, 25).reshape(2, 12) ** 2
    >>> [pk.theory.gauge((B, A, np.array(h))).dimension for h in ((0, 0, 0), (1, 2, 1), (1, 3, 1))]
    [4, 4, 2]
    >>> list(pk.theory.gauge((B, A, np.array([1, 3, 1]))).permutations())
    [(0, 1), (1, 0)]
    """
    given = _named(factors)
    B, A = given["B"], given["A"]
    if "h" not in given:
        terms = "none"
        formulas.lora(B, A)  # refuses factors that do not match
    else:
        formulas.expand(B, A, given["h"], terms, degree)
    m, rank, n = *B.shape, A.shape[1]
    check_layer(m, n, rank)
    classes = column_classes(given.get("h", np.zeros(0)), rank, terms, degree)
    kernel, how = _kernel(given, terms, degree, sum(len(members) ** 2 for members in classes))
    return Gauge(given, terms, degree, classes, kernel, how)


def column_classes(
    h: Array, rank: int, terms: str = "full", degree: int = 2
) -> tuple[tuple[int, ...], ...]:
    """The columns from 0, those together whose derivatives ∂φ_h/∂u_i are the same polynomial.

    At degree 2 that is: whose rows of H are equal. h: coefficients as `formulas.pera` takes them,
    none for LoRA; rank: r; terms, degree: what they multiply, "none" is LoRA.

    >>> from perakit.theory.gauge import column_classes
    >>> column_classes(np.array([1, 2, 7, 1, 7, 5]), 3)
    ((0, 1), (2,))
    """
    slopes: list[dict[tuple[int, ...], Any]] = [{} for _ in range(rank)]
    for row, value in zip(products(rank, terms, degree), h.tolist(), strict=True):
        # So that 3 h_iij of a float is not rounded
        value = Fraction(value) if isinstance(value, float) else value
        for i in set(row) if value else ():
            rest = list(row)
            rest.remove(i)
            slopes[i][tuple(rest)] = row.count(i) * value
    classes: dict[Any, list[int]] = {}
    for i, slope in enumerate(slopes):
        classes.setdefault(frozenset(slope.items()), []).append(i)
    return tuple(map(tuple, classes.values()))


def _named(factors: Any) -> dict[str, np.ndarray]:
    """B, A and perhaps h as arrays of finite numbers, whole ones and Fractions as they are."""
    if not isinstance(factors, Mapping):
        if not isinstance(factors, tuple | list) or len(factors) not in (2, 3):
            raise PerakitError(
                f"{type(factors).__name__} is no set of factors: pass (B, A, h), or (B, A) of LoRA"
            )
        factors = dict(zip("BAh", factors, strict=False))
    if set(factors) not in ({"B", "A"}, {"B", "A", "h"}):
        raise PerakitError(
            f"the factors are named {', '.join(map(str, factors))}: pass B, A and h, or B and A of"
            " LoRA"
        )
    found = {}
    for name in sorted(factors, key="BAh".index):
        value = factors[name]
        try:
            if not np.isfinite(as_float64(value)).all():
                raise ValueError("an entry is not finite")
            array = as_float64(value) if hasattr(value, "detach") else np.asarray(value)
            field.residues(array, field.PRIMES[0])
        except (TypeError, ValueError) as error:
            raise PerakitError(
                f"{name} is no array of finite real numbers ({error}): pass arrays or tensors"
            ) from error
        found[name] = array
    return found


def _kernel(
    factors: Mapping[str, np.ndarray], terms: str, degree: int, stated: int
) -> tuple[int | None, str]:
    """The dimension of the null space of ΔW's derivative at the factors, and how it was found."""
    B, A = factors["B"], factors["A"]
    m, rank, n = *B.shape, A.shape[1]
    # Of this degree is the derivative of B's features along a direction of that null space
    power = 1 if terms == "none" else 2 * degree - 1
    count = math.comb(rank + power, power) - 1
    small = count <= min(m, n) and (m + n) * count**2 <= LARGEST_COUNT
    if small and all(_feature_rank(X, power) == count for X in (B, A.T)):
        what = f"the {count} features of degree {power} of B and of A are independent"
        return stated, "the gauge theorem; " + (what if power > 1 else "B and A have rank r")
    parameters = sum(value.size for value in factors.values())
    if m * n * parameters**2 > LARGEST_COUNT:
        bound = rank if terms == "none" else formulas.rank_bound(rank, "full", degree)
        what = (
            f"the gauge theorem speaks of generic factors, K = {bound} <= min(m, n)"
            if bound <= min(m, n)
            else f"K = {bound} is above min(m, n) = {min(m, n)}, where the gauge theorem is silent"
        )
        return None, f"{what}; the layer is too large to count"
    found = jacobian_rank(m, n, pera(rank, terms, degree), at=factors)
    how = "a rank modulo primes" if found.exact else "by singular values"
    return found.parameters - found.rank, f"null space of the derivative, {how}"


def _feature_rank(X: np.ndarray, power: int) -> int:
    """Rank modulo a prime of the monomials of degree 1 ... power in X's columns: a lower bound."""
    prime = field.PRIMES[0]
    columns = field.residues(X, prime).T
    shorter: dict[tuple[int, ...], np.ndarray] = {(i,): x for i, x in enumerate(columns)}
    features = shorter
    for _ in range(power - 1):
        shorter = {
            (*row, i): field.reduce_(monomial * columns[i], prime)
            for row, monomial in shorter.items()
            for i in range(row[-1], len(columns))
        }
        features = features | shorter
    return len(field.echelon(np.stack(list(features.values())), prime)[1])


def _automorphisms(
    coefficients: Mapping[tuple[int, ...], Any], sizes: Sequence[int]
) -> Iterator[list[int]]:
    """Permutations of the classes that keep their sizes and every coefficient."""

    def extended(images: list[int]) -> Iterator[list[int]]:
        if len(images) == len(sizes):
            yield images
            return
        last = len(images)
        for image in range(len(sizes)):
            if image in images or sizes[image] != sizes[last]:
                continue
            tried = [*images, image]
            if all(
                value == coefficients[tuple(sorted(tried[c] for c in row))]
                for row, value in coefficients.items()
                if max(row) == last
            ):
                yield from extended(tried)

    return extended([])
