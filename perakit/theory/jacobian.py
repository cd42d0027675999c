"""The rank of a rule's Jacobian: in how many directions the factors can move an update."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.func import jvp, vmap

from perakit.errors import PerakitError
from perakit.formulas import check_count
from perakit.theory import field
from perakit.theory.families import (
    Factors,
    Family,
    as_family,
    evaluate,
    held_factors,
    proved_dimension,
)
from perakit.theory.measured import FloatRank, ModularRank, chance, drawn, read, reason
from perakit.theory.residues import Residues

CHUNK = 2**20  # entries of the derivatives that are taken at once: they stay in the cache
MORE = 64  # rows of the Jacobian that are taken beyond what its rank needs
# For rules that are no polynomials: singular values below this share of the largest count as zero
FLOAT_GAP = 1e-9


@dataclass(frozen=True)
class JacobianRank:
    """Rank of the Jacobian (mn, P) of an update rule at one point.

    rank: the number, an int that says how it was found; parameters: P; entries: rows of the
    Jacobian that were formed.
    """

    rank: ModularRank | FloatRank
    parameters: int
    entries: int

    @property
    def exact(self) -> bool:
        """Whether the rank is that of elimination modulo primes, and not of singular values."""
        return isinstance(self.rank, ModularRank)

    @property
    def proved(self) -> bool:
        """Whether the rank meets an upper bound that is proved."""
        return isinstance(self.rank, ModularRank) and self.rank.proved

    @property
    def gap(self) -> float | None:
        """Of a float answer, the last counted singular value over the next."""
        return None if isinstance(self.rank, ModularRank) else self.rank.gap

    def __str__(self) -> str:
        return (
            f"rank {self.rank!r} of {self.parameters} parameters, by {self.entries:,} entries of ΔW"
        )


def jacobian_rank(
    m: int,
    n: int,
    rank: int | Family,
    terms: str = "full",
    degree: int = 2,
    *,
    at: Factors | None = None,
    seed: int = 0,
) -> JacobianRank:
    """Rank of the derivative of the update by its factors: how many directions they can move it in.

    m, n, rank, terms, degree: as in `measured_dimension`. at: factors to hold at given values, the
    others are random: {"h": 0} is a point of LoRA, {"B": 0, "h": 0} the usual start. seed: of the
    random factors, residues modulo a prime.

    The (mn, P) matrix is not formed where it is large: elimination runs on a few more than P of its
    mn rows. If that rank falls short of its upper bound, the null vectors it finds are put to the
    rule: where the update moves along one, more rows are taken.

    >>> pk.theory.jacobian_rank(7, 6, rank=2, at={"h": 0}).rank == 25
    True
    """
    family = as_family(m, n, rank, terms, degree)
    check_count("seed", seed, least=0)
    best = degree = entries = 0
    bound = proved_dimension(family, m, n)
    parameters = sum(int(np.prod(shape)) for shape in family.shapes(m, n).values())
    for k, prime in enumerate(field.PRIMES):
        generator = np.random.default_rng((seed, k))
        try:
            point = _Point(family, m, n, *drawn(family, m, n, prime, generator, at))
            found, entries = point.rank(bound, generator)
        except PerakitError as error:
            return _in_floats(family, m, n, at, generator, reason(error))
        best = max(best, found)
        if best == bound:
            return JacobianRank(ModularRank(best, True, 0.0, f"{m} x {n}"), parameters, entries)
        degree = max(degree, point.degree)  # no entry of the Jacobian has a larger one
    modular = ModularRank(best, False, chance(best, degree), f"{m} x {n}")
    return JacobianRank(modular, parameters, entries)


class _Point:
    """A rule at one point modulo a prime, and its derivatives there."""

    def __init__(
        self, family: Family, m: int, n: int, W0: Residues, factors: dict[str, Residues]
    ) -> None:
        self.family, self.shape, self.W0, self.factors = family, (m, n), W0, factors
        self.prime = W0.prime
        self.parameters = sum(value.size for value in factors.values())
        self.degree = self.along({}).degree

    def along(self, directions: dict[str, np.ndarray]) -> Residues:
        """The update, with its derivatives along `directions` (count, *shape) of some factors."""
        moved = {
            name: Residues(value.value, value.prime, directions.get(name), value.degree)
            for name, value in self.factors.items()
        }
        return read(self.family, self.W0, moved, self.shape)

    def columns(self) -> Iterator[tuple[slice, np.ndarray]]:
        """Columns of the Jacobian, transposed: where they stand, and (count, mn)."""
        start = 0
        for name, value in self.factors.items():
            chunk = max(1, CHUNK // (self.shape[0] * self.shape[1]))
            for first in range(0, value.size, chunk):
                count = min(chunk, value.size - first)
                unit = np.zeros((count, value.size))
                unit[np.arange(count), first + np.arange(count)] = 1
                found = self.along({name: unit.reshape(count, *value.shape)}).along
                where = slice(start + first, start + first + count)
                yield where, np.zeros((count, 1)) if found is None else found.reshape(count, -1)
            start += value.size

    def rank(self, bound: int, generator: np.random.Generator) -> tuple[int, int]:
        """The rank here, and how many rows it took; no more than show that it meets `bound`."""
        order, count = sample(generator, *self.shape), self.parameters + MORE
        while True:
            entries = order[:count]
            rows = np.empty((entries.size, self.parameters))
            for where, found in self.columns():
                rows[:, where] = found[:, entries].T if found.shape[1] > 1 else found.T
            U, pivots = field.echelon(rows, self.prime)
            if len(pivots) == bound or count >= order.size or self._still(U, pivots):
                return len(pivots), entries.size
            count *= 2

    def _still(self, U: np.ndarray, pivots: list[int]) -> bool:
        """Whether the update stands still along every null vector of the rows that were taken."""
        vectors = field.null_space(U, pivots, self.prime).T
        sizes = np.cumsum([value.size for value in self.factors.values()])[:-1]
        chunk = max(1, CHUNK // (self.shape[0] * self.shape[1]))
        for start in range(0, len(vectors), chunk):
            parts = np.split(vectors[start : start + chunk], sizes, axis=1)
            moved = self.along(
                {
                    name: part.reshape(len(part), *value.shape)
                    for (name, value), part in zip(self.factors.items(), parts, strict=True)
                }
            ).along
            if moved is not None and moved.any():
                return False
        return True


def sample(generator: np.random.Generator, m: int, n: int) -> np.ndarray:
    """The order in which the mn entries of ΔW are looked at: the first show all of it alike.

    Along diagonals that leave ΔW at one side and come in at the other, rows and columns shuffled.
    """
    step, shift = np.arange(m * n), generator.permutation(math.gcd(m, n))
    rows, columns = generator.permutation(m), generator.permutation(n)
    return rows[step % m] * n + columns[(step + shift[step // math.lcm(m, n)]) % n]


def _in_floats(
    family: Family,
    m: int,
    n: int,
    at: Factors | None,
    generator: np.random.Generator,
    reason: str,
) -> JacobianRank:
    """The rank by singular values, with torch's derivatives."""
    held = held_factors(family, m, n, at)
    factors = {
        name: torch.from_numpy(held[name] if name in held else generator.standard_normal(shape))
        for name, shape in family.shapes(m, n).items()
    }
    W0 = torch.from_numpy(generator.standard_normal((m, n)))
    names, values = list(factors), tuple(factors.values())
    sizes = [value.numel() for value in values]

    def update(*values: Tensor) -> Tensor:
        return evaluate(family, W0, dict(zip(names, values, strict=True)), (m, n))

    def derivative(direction: Tensor) -> Tensor:
        parts = torch.split(direction, sizes)
        shaped = tuple(p.view_as(v) for p, v in zip(parts, values, strict=True))
        return jvp(update, values, shaped)[1].flatten()

    try:
        J = vmap(derivative, chunk_size=64)(torch.eye(sum(sizes), dtype=torch.float64)).numpy()
    except PerakitError:
        raise
    except (TypeError, RuntimeError, AttributeError) as error:
        raise PerakitError(
            f"torch cannot differentiate the formula ({error}): write it with operators that"
            " tensors have; a NumPy constant goes in by Formula(..., constants={name: array})"
        ) from error
    if not np.isfinite(J).all():
        raise PerakitError(
            "the formula's derivative is not finite at random factors: it must be defined there"
        )
    singular = np.linalg.svd(J, compute_uv=False)
    rank = int((singular > FLOAT_GAP * singular[0]).sum())
    full = rank in (0, singular.size) or not singular[rank]
    gap = np.inf if full else float(singular[rank - 1] / singular[rank])
    return JacobianRank(FloatRank(rank, gap, reason), sum(sizes), m * n)
