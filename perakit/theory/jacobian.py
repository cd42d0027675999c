"""The rank of a rule's Jacobian, in whole numbers: the directions factors can move an update in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.func import jvp, vmap

from perakit.errors import PerakitError
from perakit.formulas import check_count
from perakit.theory import exact
from perakit.theory.families import (
    RANGES,
    Factors,
    Family,
    as_family,
    evaluate,
    whole_array,
    whole_factors,
)

CHUNK = 64  # parameters whose derivatives are taken at once
# For rules that are no polynomials: singular values below this share of the largest count as zero
FLOAT_GAP = 1e-9


@dataclass(frozen=True)
class JacobianRank:
    """Rank of the Jacobian (mn, P) of an update rule at one point.

    rank: the number; parameters: P; entries: rows of the Jacobian that were formed; exact: whether
    the derivatives were whole numbers, so that the rank is that of elimination modulo a prime (a
    lower bound on the generic rank, and but for a chance of about 1/8,000,000 the rank at this
    point); else it comes from singular values, with `gap` the ratio of the last counted one to the
    next.
    """

    rank: int
    parameters: int
    entries: int
    exact: bool
    gap: float | None = None

    def __str__(self) -> str:
        how = "exact, modulo a prime" if self.exact else f"from singular values, gap {self.gap:.1e}"
        return (
            f"rank {self.rank} of {self.parameters} parameters ({how}; {self.entries:,} entries"
            " of ΔW)"
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
    random factors, whole numbers.

    The (mn, P) matrix is not formed where it is large: elimination runs on 2P of its mn rows, and
    the null vectors that it finds are then multiplied by all the rows; if one does not vanish
    there, more rows are taken.

    >>> from perakit import theory
    >>> theory.jacobian_rank(7, 6, rank=2, at={"h": 0}).rank
    25
    """
    family = as_family(m, n, rank, terms, degree)
    check_count("seed", seed, least=0)
    generator = np.random.default_rng(seed)
    for size in RANGES:
        columns = _Columns(
            family, m, n, whole_factors(family, m, n, size, at, generator), size, generator
        )
        if columns.exact():
            try:
                return _modular(columns, generator)
            except _NotWholeError:
                break
    return _floating(columns)


class _NotWholeError(Exception):
    """A derivative is no whole number, so elimination modulo a prime would mean nothing."""


class _Columns:
    """The Jacobian of a rule at one point, column by column, on any subset of the entries of ΔW."""

    def __init__(
        self,
        family: Family,
        m: int,
        n: int,
        factors: Factors,
        size: int,
        generator: np.random.Generator,
    ) -> None:
        self.shape, self.family = (m, n), family
        self.W0 = torch.from_numpy(whole_array(generator, (m, n), size))
        self.names = list(factors)
        self.values = tuple(map(torch.from_numpy, factors.values()))
        self.parameters = sum(value.numel() for value in self.values)

    def update(self, *values: Tensor) -> Tensor:
        return evaluate(
            self.family, self.W0, dict(zip(self.names, values, strict=True)), self.shape
        )

    def derivative(self, tangents: Tensor, values: tuple[Tensor, ...] | None = None) -> Tensor:
        """The derivatives (count, mn) along `tangents` (count, P)."""
        values = self.values if values is None else values

        def along(tangent: Tensor) -> Tensor:
            parts = torch.split(tangent, [value.numel() for value in values])
            directions = tuple(
                part.view_as(value) for part, value in zip(parts, values, strict=True)
            )
            return jvp(self.update, values, directions)[1].flatten()

        try:
            return vmap(along)(tangents)
        except PerakitError:
            raise
        except (TypeError, RuntimeError, AttributeError) as error:
            raise PerakitError(
                f"torch cannot differentiate the formula ({error}): write it with operators that"
                " tensors have"
            ) from error

    def block(self, start: int) -> Tensor:
        """Columns `start` ... `start` + CHUNK of the Jacobian, transposed: (count, mn)."""
        count = min(CHUNK, self.parameters - start)
        tangents = torch.zeros(count, self.parameters, dtype=torch.float64)
        tangents[torch.arange(count), start + torch.arange(count)] = 1
        return self.derivative(tangents)

    def whole_block(self, start: int) -> np.ndarray:
        """As `block`, of whole numbers only."""
        found: np.ndarray = self.block(start).numpy()
        if not (found == np.rint(found)).all():
            raise _NotWholeError
        return found

    def exact(self) -> bool:
        """Whether float64 holds every derivative, were it whole: then no sum was rounded."""
        # All columns added, all signs alike: bounds each
        spread = torch.ones(1, self.parameters, dtype=torch.float64)
        largest = self.derivative(spread, tuple(value.abs() for value in self.values))
        return bool(torch.isfinite(largest).all()) and float(largest.abs().max()) < exact.EXACT

    def rows(self, entries: np.ndarray, block: Callable[[int], np.ndarray]) -> np.ndarray:
        """Jacobian rows at `entries` of the flattened ΔW, from its blocks: (len(entries), P)."""
        found = np.empty((entries.size, self.parameters))
        for start in range(0, self.parameters, CHUNK):
            found[:, start : start + CHUNK] = block(start)[:, entries].T
        return found


def _modular(columns: _Columns, generator: np.random.Generator) -> JacobianRank:
    total, count = columns.shape[0] * columns.shape[1], 2 * columns.parameters
    order = sample(generator, total)
    while True:
        entries = order[:count]
        U, pivots = exact.echelon(columns.rows(entries, columns.whole_block))
        if count >= total or _vanish(columns, exact.null_space(U, pivots)):
            return JacobianRank(len(pivots), columns.parameters, min(count, total), exact=True)
        count *= 2


def sample(generator: np.random.Generator, total: int) -> np.ndarray:
    """The order in which entries of ΔW are looked at."""
    return generator.permutation(total)


def _vanish(columns: _Columns, vectors: np.ndarray) -> bool:
    """Whether J x = 0 mod the prime on every entry, for every column x of `vectors` (P, count)."""
    product = np.zeros((columns.shape[0] * columns.shape[1], vectors.shape[1]))
    for start in range(0, columns.parameters, CHUNK):
        block = columns.whole_block(start).T.copy()
        exact.reduce_(block)
        product += block @ vectors[start : start + CHUNK]
        exact.reduce_(product)
    return not product.any()


def _floating(columns: _Columns) -> JacobianRank:
    m, n = columns.shape
    derivatives = columns.rows(np.arange(m * n), lambda start: columns.block(start).numpy())
    if not np.isfinite(derivatives).all():
        raise PerakitError(
            "the formula's derivative is not finite at random factors: it must be defined there"
        )
    values = np.linalg.svd(derivatives, compute_uv=False)
    rank = int((values > FLOAT_GAP * values[0]).sum())
    gap = values[rank - 1] / values[rank] if 0 < rank < values.size and values[rank] else np.inf
    return JacobianRank(rank, columns.parameters, m * n, exact=False, gap=float(gap))
