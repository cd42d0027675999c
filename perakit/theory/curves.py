"""Errors of several families over several ranks, and targets to try them on."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from perakit import formulas
from perakit.errors import PerakitError
from perakit.theory.approximation import best_approximation
from perakit.theory.families import Family, check_layer, check_matrix, pera


@dataclass(frozen=True)
class Point:
    """One family at one rank: ‖ΔW − E‖_F / ‖E‖_F as found, its lower bound, and what they cost."""

    family: str
    rank: int
    parameters: int
    error: float
    lower: float
    exact: bool
    diverging: bool


@dataclass(frozen=True)
class Curve:
    """The errors of some families over some ranks, drawn against `rank` or `parameters`."""

    points: tuple[Point, ...]
    shape: tuple[int, int]
    seed: int
    starts: int | None

    def rows(self) -> list[dict[str, Any]]:
        """One dictionary of JSON values a point, each with the seed and the number of starts."""
        return [asdict(point) | {"seed": self.seed, "starts": self.starts} for point in self.points]

    def lines(self) -> dict[str, list[Point]]:
        """Family -> its points: what `plots.plot_approximation` draws."""
        return {
            family: self.line(family)
            for family in dict.fromkeys(point.family for point in self.points)
        }

    def line(self, family: str) -> list[Point]:
        """The points of one family, in the order of its ranks."""
        found = [point for point in self.points if point.family == family]
        if not found:
            raise PerakitError(
                f"no family {family!r} in this curve: it has"
                f" {', '.join(sorted({p.family for p in self.points}))}"
            )
        return found


def error_curve(
    E: Any,
    families: Mapping[str, Callable[[int], Family]],
    ranks: Iterable[int],
    seed: int = 0,
    starts: int | None = None,
    W0: Any = None,
    progress: bool = False,
) -> Curve:
    """`best_approximation` for every family and rank.

    For example `error_curve(E, {"LoRA": pk.LoRA, "PERA": pk.PERA}, (1, 2, 4))`.
    E: target (m, n), for example one of `targets`, or a trained update, of
    `perakit.delta_weights(model)`; families: name -> rank -> family; the other arguments as in
    `best_approximation`. Each point is found by itself: but for exact families an error may rise
    with the rank, which says that the optimiser failed there, not that the family is worse.

    >>> import perakit as pk
    >>> curve = pk.theory.error_curve([[3, 0], [0, 4]], {"LoRA": pk.LoRA}, ranks=(1, 2))
    >>> [round(point.error, 6) for point in curve.points]
    [0.6, 0.0]
    """
    from tqdm import tqdm

    E = check_matrix("E", E)
    if not isinstance(ranks, Iterable):
        raise PerakitError(f"ranks={ranks!r} is one number: pass several, (1, 2, 4)")
    ranks = list(ranks)
    if not families or not ranks:
        raise PerakitError(
            f"{len(families)} families and {len(ranks)} ranks make no curve: give at least one of"
            " each"
        )
    for rank in ranks:
        check_layer(E.shape[0], E.shape[1], rank)
    cases = [(name, make, rank) for name, make in families.items() for rank in sorted(set(ranks))]
    points = []
    for name, make in families.items():
        if not callable(make):
            raise PerakitError(
                f"families[{name!r}] = {make!r} makes no family of a rank: pass a function of it,"
                " perakit.PERA"
            )
    for name, make, rank in tqdm(cases, disable=not progress, desc="error curve"):
        family = make(rank)
        found = best_approximation(E, family, seed, starts, W0)
        parameters = sum(map(math.prod, family.shapes(*E.shape).values()))
        lower = found.lower_fro / (found.norm_fro or 1.0)
        points.append(
            Point(
                name, int(rank), int(parameters), found.error, lower, found.exact, found.diverging
            )
        )
    return Curve(tuple(points), (E.shape[0], E.shape[1]), int(seed), starts)


def targets(m: int, n: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Matrices (m, n) to approximate, each from a random stream of its own.

    gaussian: N(0, 1) entries; power law: σ_k = 1/k in random orthogonal bases; identity; banded:
    N(0, 1) on the diagonal and beside it; block: two diagonal blocks of rank 1; pera: made by a
    PERA of rank 2 with N(0, 1) factors: such a PERA reaches it exactly, and a search from
    random starts often does not (`recover` does).

    >>> from perakit import theory
    >>> list(theory.targets(4, 5))
    ['gaussian', 'power law', 'identity', 'banded', 'block', 'pera']
    """
    check_layer(m, n)
    formulas.check_count("seed", seed, least=0)
    rngs = [np.random.default_rng((seed, k)) for k in range(5)]
    k = min(m, n)
    U, V = (np.linalg.qr(rngs[1].normal(size=(size, k)))[0] for size in (m, n))
    row, column = np.indices((m, n))
    halves = (row < (m + 1) // 2) == (column < (n + 1) // 2)
    upper, lower = (np.outer(rngs[3].normal(size=m), rngs[3].normal(size=n)) for _ in range(2))
    teacher = {name: rngs[4].normal(size=shape) for name, shape in pera(2).shapes(m, n).items()}
    return {
        "gaussian": rngs[0].normal(size=(m, n)),
        "power law": (U / np.arange(1, k + 1)) @ V.T,
        "identity": np.eye(m, n),
        "banded": rngs[2].normal(size=(m, n)) * (abs(row - column) <= 1),
        "block": np.where(halves, np.where(row < (m + 1) // 2, upper, lower), 0.0),
        "pera": pera(2).update(None, **teacher),
    }
