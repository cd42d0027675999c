"""What an argument finds: a finding, and the search for a counterexample that makes one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

EXAMPLES = 100


@dataclass(frozen=True)
class Finding:
    """What an argument found: whether the verdict stands, a sentence, and the numbers behind it.

    examples: how many were tried, 0 for an exact argument; counterexample: the smallest that was
    found (for a refuted claim the one that refutes it), by name.
    """

    holds: bool
    summary: str
    numbers: Mapping[str, Any] = field(default_factory=dict)
    examples: int = 0
    counterexample: Mapping[Any, Any] | None = None


def search(
    examples: Any, holds: Callable[..., bool], seed: int, count: int
) -> tuple[dict[str, Any] | None, int]:
    """The smallest arguments found on which `holds` is false, or None, and how many were tried.

    examples: a Hypothesis strategy of dicts, which `holds` takes as keywords, or of tuples, by
    position; count: how many to try, at most: a strategy may have fewer.

    >>> from hypothesis import strategies as st
    >>> from perakit import theory
    >>> theory.search(st.tuples(st.integers(0, 100)), lambda x: x * x < 50, seed=0, count=100)[0]
    {'0': 8}
    """
    from random import Random

    import hypothesis

    settings = hypothesis.settings(
        max_examples=count,
        database=None,
        deadline=None,
        derandomize=False,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    tried = 0

    def broken(example: Any) -> bool:
        nonlocal tried
        tried += 1
        return not (holds(**example) if isinstance(example, Mapping) else holds(*example))

    try:
        found = hypothesis.find(examples, broken, settings=settings, random=Random(seed))
    except hypothesis.errors.NoSuchExample:
        return None, tried
    return (
        dict(found)
        if isinstance(found, Mapping)
        else {str(k): value for k, value in enumerate(found)}
    ), tried


def factors(terms: str = "full", degree: int = 2) -> SearchStrategy[dict[str, np.ndarray]]:
    """{B, A, h} of small whole numbers, for which every update is exact."""
    from perakit import strategies  # needs hypothesis: not before something is searched

    return strategies.factors(terms=terms, degree=degree, integers=True).map(
        lambda drawn: dict(zip("BAh", drawn, strict=True))
    )


def verified(
    drawn: Any, holds: Callable[..., bool], seed: int, examples: int, what: str
) -> Finding:
    """No counterexample in N examples, or the smallest one."""
    found, tried = search(drawn, holds, seed, examples)
    summary = (
        f"no counterexample in {tried} examples: {what}"
        if found is None
        else f"falsified: not so that {what}"
    )
    return Finding(found is None, summary, {}, tried, found)


def equal(
    drawn: Any,
    got: Callable[..., Any],
    expected: Callable[..., Any],
    seed: int,
    examples: int,
    what: str,
) -> Finding:
    """As `verified`, of two things that should be the same; a counterexample comes with both."""
    finding = verified(
        drawn, lambda **example: same(got(**example), expected(**example)), seed, examples, what
    )
    if finding.counterexample is None:
        return finding
    both = {"expected": expected(**finding.counterexample), "got": got(**finding.counterexample)}
    return replace(finding, counterexample=dict(finding.counterexample) | both)


def same(left: Any, right: Any) -> bool:
    """Equal shapes, and entries equal up to float rounding (exactly for integers)."""
    if np.shape(left) != np.shape(right):
        return False
    return np.allclose(
        np.asarray(left, dtype=np.float64),
        np.asarray(right, dtype=np.float64),
        rtol=1e-9,
        atol=1e-9,
    )
