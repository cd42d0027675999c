"""What the probes do with a family: name one, check it, give it a layer and whole factors.

`perakit.families` says what a family is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from perakit import formulas
from perakit.adapters import PERA, HiRA, LoHa, LoRA, MoRA
from perakit.errors import PerakitError
from perakit.families import FAMILIES, Family, Formula, Shapes, pera
from perakit.formulas import Array

__all__ = [
    "FAMILIES",
    "Factors",
    "Family",
    "Formula",
    "Shapes",
    "as_family",
    "as_float64",
    "check_family",
    "check_layer",
    "check_matrix",
    "check_update",
    "evaluate",
    "factor_rank",
    "held_factors",
    "known",
    "of_rule",
    "pera",
    "products",
    "proved_dimension",
    "proved_rank",
    "whole_array",
]

Factors = Mapping[str, Array]
METHODS = (HiRA, LoHa, MoRA)  # their bounds are claims that are proved


def of_rule(rule: Callable[..., Array], rank: int, terms: str = "full", degree: int = 2) -> Formula:
    """The family of a rule called as `formulas.pera`, or `formulas.lora` where terms is "none"."""
    family = pera(rank, terms, degree)
    if rule in (formulas.pera, formulas.lora):
        return family
    # Only what is not the default: a rule need not take terms and degree
    options = (
        {}
        if terms == "none" or (terms, degree) == ("full", 2)
        else {"terms": terms, "degree": degree}
    )

    def update(**named: Array) -> Array:
        # By position, whatever the rule names its arguments
        return rule(*(named[name] for name in ("B", "A", "h") if name in named), **options)

    return Formula(update, family.factors, family.bound)


def products(rank: int, terms: str, degree: int) -> list[tuple[int, ...]]:
    """The columns that each coefficient multiplies, in the order of h; none for LoRA."""
    if terms == "none":
        return []
    return [
        tuple(row) for index in formulas.monomials(rank, terms, degree) for row in index.T.tolist()
    ]


def as_family(m: int, n: int, rank: int | Family, terms: str = "full", degree: int = 2) -> Family:
    """The family that a probe's arguments name: a rank with `terms` and `degree`, or a family."""
    if not np.isscalar(rank):
        check_layer(m, n)
        family = check_family(rank)
        check_layer(m, n, factor_rank(family, m, n))
        return family
    check_layer(m, n, rank)  # type: ignore[arg-type]  # which refuses whatever is no integer
    return pera(rank, terms, degree)  # type: ignore[arg-type]


def check_family(method: Any) -> Family:
    """Refuse what is no family: a class instead of a method, a bare function, a name."""
    if isinstance(method, type) or not isinstance(method, Family):
        name = method.__name__ if isinstance(method, type) else repr(method)
        raise PerakitError(
            f"{name} is no family of updates: pass a method with its rank, perakit.PERA(2), or"
            " theory.Formula(rule, shapes)"
        )
    return method


def factor_rank(family: Family, m: int, n: int) -> int | None:
    """r of a family with factors B (m, r) and A (r, n); None for others."""
    shapes = family.shapes(m, n)
    A, B = shapes.get("A", ()), shapes.get("B", ())
    return A[0] if len(A) == len(B) == 2 and A[0] and A[1] == n and (m, A[0]) == B else None


def known(family: Family, m: int, n: int) -> tuple[int, str, int] | None:
    """(r, terms, degree) of a family that is PERA or LoRA ("none") as defined here, else None."""
    if isinstance(family, Formula):
        options = family.rule.keywords if isinstance(family.rule, partial) else {}
        rule = family.rule.func if isinstance(family.rule, partial) else family.rule
        if rule not in (formulas.pera, formulas.lora) or family.constants:
            return None
        rank = factor_rank(family, m, n)
        terms = "none" if rule is formulas.lora else options.get("terms", "full")
        return None if rank is None else (rank, terms, options.get("degree", 2))
    if type(family) is LoRA:  # a subclass may have another rule
        return family.rank, "none", 2
    return (family.rank, family.terms, family.degree) if type(family) is PERA else None


def proved_rank(family: Family, m: int, n: int) -> int:
    """The largest rank of ΔW that is proved: that of a method of this library, else min(m, n)."""
    found = known(family, m, n)
    if found is not None:
        rank, terms, degree = found
        return min(m, n, rank if terms == "none" else formulas.rank_bound(rank, terms, degree))
    return min(m, n, family.rank_bound(m, n)) if type(family) in METHODS else min(m, n)


def proved_dimension(family: Family, m: int, n: int) -> int:
    """The largest dimension that is proved: P, less r for PERA's scalings, r² for LoRA's GL(r)."""
    parameters = sum(math.prod(shape) for shape in family.shapes(m, n).values())
    found = known(family, m, n)
    if found is not None:
        rank, terms, _ = found
        parameters -= rank * rank if terms == "none" else rank
    return min(m * n, parameters)


def evaluate(
    family: Family, W0: Array, factors: Mapping[str, Array], shape: tuple[int, int]
) -> Array:
    """ΔW of `factors`, of `shape` or refused; a PerakitError shows what the rule raised."""
    try:
        delta = family.update(W0, **factors)
    except PerakitError:
        raise
    except Exception as error:  # a rule of the user's own may raise anything
        kinds = ", ".join(
            f"{name} {type(x).__name__} {tuple(np.shape(x))}" for name, x in factors.items()
        )
        tensors = any(hasattr(type(x), "detach") for x in factors.values())
        hint = "; a NumPy constant goes in by Formula(..., constants={name: array})"
        raise PerakitError(
            f"the formula raised {type(error).__name__}: {error}; it was given {kinds}, and must"
            f" take NumPy and torch alike{hint if tensors else ''}"
        ) from error
    check_update(delta, shape)
    return delta


def check_update(delta: Any, shape: tuple[int, int]) -> None:
    """Refuse anything but an array of `shape`."""
    found = getattr(delta, "shape", None)
    if found is None:
        hint = "is `return` missing?" if delta is None else "return an array"
        raise PerakitError(
            f"the formula returned {type(delta).__name__} where ΔW is {shape}: {hint}"
        )
    if tuple(found) != shape:
        raise PerakitError(
            f"the formula returned shape {tuple(found)} where the layer is {shape}: return ΔW (m,"
            " n), one entry per weight"
        )


def check_layer(m: int, n: int, rank: int | None = None) -> None:
    """Refuse sizes that are no counts, and a rank above min(m, n)."""
    formulas.check_count("m", m)
    formulas.check_count("n", n)
    if rank is not None:
        formulas.check_count("rank", rank)
        if rank > min(m, n):
            raise PerakitError(
                f"rank={rank} is above min(m, n) = {min(m, n)} of a {m} x {n} layer: choose a"
                " smaller rank"
            )


def as_float64(x: Any) -> np.ndarray:
    """Any real array or tensor (any dtype or device, gradient or none) as NumPy float64.

    Raises ValueError, as NumPy does, for what is no array of numbers.
    """
    if hasattr(x, "detach"):
        x = x.detach().cpu()
        x = x.double().numpy() if not x.is_complex() else x.numpy()
    array = np.asarray(x)
    if array.dtype.kind == "c":
        raise PerakitError("complex numbers were given: pass real ones")
    if array.dtype.kind in "USV" or np.ma.is_masked(x):
        raise ValueError("text or masked entries")
    return np.asarray(array, dtype=np.float64)


def check_matrix(name: str, matrix: Any) -> np.ndarray:
    """A real matrix as float64; refused unless two-dimensional, non-empty and finite."""
    try:
        array = as_float64(matrix)
    except (TypeError, ValueError, OverflowError, NotImplementedError) as error:
        raise PerakitError(
            f"{name} is no matrix of real numbers ({error}): pass an array (m, n)"
        ) from error
    if array.ndim != 2 or not array.size:
        raise PerakitError(f"{name} has shape {array.shape}: pass a non-empty matrix (m, n)")
    if not np.isfinite(array).all():
        where = tuple(int(k) for k in np.argwhere(~np.isfinite(array))[0])
        raise PerakitError(f"{name}{list(where)} is {array[where]}: every entry must be finite")
    return array


def held_factors(family: Family, m: int, n: int, at: Factors | None) -> dict[str, np.ndarray]:
    """The factors in `at` in their shapes; refused if they are unknown, not finite, or misfits."""
    shapes, held = dict(family.shapes(m, n)), dict(at or {})
    unknown = set(held) - set(shapes)
    if unknown:
        raise PerakitError(
            f"at={sorted(unknown)} names no factor: the family has {', '.join(shapes)}"
        )
    for name, value in held.items():
        if not np.isfinite(as_float64(value)).all():
            raise PerakitError(f"at has {value} for {name}: every entry must be finite")
    try:
        return {
            name: np.broadcast_to(as_float64(value), shapes[name]).copy()
            for name, value in held.items()
        }
    except ValueError as error:
        raise PerakitError(
            f"at has shapes { ({name: np.shape(x) for name, x in held.items()}) } where the factors"
            f" have {shapes}"
        ) from error


def whole_array(generator: np.random.Generator, shape: tuple[int, ...], size: int) -> np.ndarray:
    """Random whole numbers of size 1 ... size, of different sizes while there are enough."""
    count = int(np.prod(shape))
    # Different, since equal rows or columns lower the rank
    sizes = 1 + (
        generator.permutation(size)[:count] if count <= size else generator.integers(0, size, count)
    )
    return (sizes.reshape(shape) * generator.choice((-1, 1), shape)).astype(np.float64)
