"""The registry of claims: what is said about PERA and its relatives, and what becomes of it when it is checked.

    from perakit.theory import claims
    print(claims["theorem-1"].check())                 # the verdict, and what supports it
    claims["hadamard-series"].check(formula=mine)      # the same question of a rule of your own

The words are kept apart. "proved": an exact argument that runs (a symbolic identity, an elimination, an inclusion).
"verified": no counterexample in N examples. "refuted": a counterexample, with a proof that it is one. "qualified": true
in one sense and not in another. "open": not decided here. A check can fail, and then says on what.
"""

from __future__ import annotations

import difflib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from perakit.errors import PerakitError
from perakit.formulas import check_count

VERDICTS = ("proved", "verified", "refuted", "qualified", "open")
EXAMPLES = 100


@dataclass(frozen=True)
class Finding:
    """What an argument found: whether the verdict stands, a sentence, numbers behind it, and what breaks it.

    examples: how many were tried, 0 for an exact argument; counterexample: the smallest that was found (for a refuted
    claim the one that refutes it), by name.
    """

    holds: bool
    summary: str
    numbers: Mapping[str, Any] = field(default_factory=dict)
    examples: int = 0
    counterexample: Mapping[Any, Any] | None = None


@dataclass(frozen=True)
class Evidence:
    """The outcome of one check: the claim, its verdict, whether that stands, and the finding behind it."""

    claim: str
    verdict: str
    finding: Finding
    seed: int
    seconds: float

    @property
    def holds(self) -> bool:
        """Whether the verdict stands. For a refuted claim: whether the refutation does."""
        return self.finding.holds

    @property
    def summary(self) -> str:
        """A sentence."""
        return self.finding.summary

    @property
    def counterexample(self) -> Mapping[Any, Any] | None:
        """The smallest counterexample that was found, by name; None if there is none."""
        return self.finding.counterexample

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON."""
        finding = self.finding
        return {
            "claim": self.claim,
            "verdict": self.verdict,
            "holds": self.holds,
            "summary": self.summary,
            "numbers": _plain(finding.numbers),
            "examples": finding.examples,
            "counterexample": _plain(finding.counterexample),
            "seed": self.seed,
            "seconds": round(self.seconds, 3),
        }

    def __str__(self) -> str:
        lines = [f"{self.claim}: {self.verdict if self.holds else f'{self.verdict} DOES NOT STAND'} ({self.seconds:.1f} s)", self.summary]
        if self.counterexample:
            lines += ["counterexample:", *(f"  {name} = {_show(value)}" for name, value in self.counterexample.items())]
        return "\n".join(lines)


Argument = Callable[[Callable[..., Any], int, int], Finding]


@dataclass(frozen=True)
class Claim:
    r"""One statement and the argument that decides it.

    id: its name in the registry; title: a line; statement: LaTeX; source: who says so; verdict: one of `VERDICTS`;
    about: the function that the claim speaks of, as a rule in `perakit.formulas`; argument: (formula, seed, examples) ->
    Finding, which looks at nothing but `formula` where it could be `about` or a rule of your own.
    """

    id: str
    title: str
    statement: str
    source: str
    verdict: str
    about: Callable[..., Any]
    argument: Argument

    def __post_init__(self) -> None:
        if self.verdict not in VERDICTS:
            raise PerakitError(f"verdict={self.verdict!r} is unknown: choose from {', '.join(map(repr, VERDICTS))}")

    def check(self, seed: int = 0, examples: int = EXAMPLES, formula: Callable[..., Any] | None = None) -> Evidence:
        """Run the argument.

        seed: of everything random; examples: how many a "verified" argument tries; formula: a rule of your own in place
        of `about`, called like it. Returns Evidence. An error inside your formula is a PerakitError that shows it.
        """
        check_count("seed", seed, least=0)
        check_count("examples", examples)
        if formula is not None and not callable(formula):
            raise PerakitError(f"formula={formula!r} cannot be called: pass a function like {_name(self.about)}, or None")
        start = time.perf_counter()
        finding = self.argument(self.about if formula is None else _guarded(formula), seed, examples)
        return Evidence(self.id, self.verdict, finding, seed, time.perf_counter() - start)

    def __str__(self) -> str:
        return f"{self.id}: {self.title}\n{self.statement}\nsource: {self.source}\nverdict: {self.verdict}"

    def _repr_latex_(self) -> str:
        return rf"\textbf{{{self.title}}} ({self.verdict}): {self.statement}"


class Claims(Mapping[str, Claim]):
    """Claims by id; iterates over ids, as a dict does."""

    def __init__(self) -> None:
        self._claims: dict[str, Claim] = {}
        self._loaded = False

    def register(
        self, id: str, *, title: str, statement: str, source: str, verdict: str, about: Callable[..., Any]
    ) -> Callable[[Argument], Argument]:
        """Decorate an argument (formula, seed, examples) -> Finding: it becomes a claim, under an id that is not taken."""

        def remember(argument: Argument) -> Argument:
            self.add(Claim(id, title, statement, source, verdict, about, argument))
            return argument

        return remember

    def add(self, claim: Claim) -> None:
        """Take up a claim; refuses an id that is taken."""
        if claim.id in self._claims:
            raise PerakitError(f"the claim {claim.id!r} exists already: choose another id")
        self._claims[claim.id] = claim

    def __getitem__(self, id: str) -> Claim:
        self._load()
        if id not in self._claims:
            near = difflib.get_close_matches(str(id), self._claims, n=3, cutoff=0.3)
            hint = f"did you mean {', '.join(near)}? " if near else ""
            raise PerakitError(f"unknown claim {id!r}: {hint}`perakit verify --list` shows all {len(self._claims)}")
        return self._claims[id]

    def __contains__(self, id: object) -> bool:
        self._load()
        return id in self._claims

    def __iter__(self) -> Iterator[str]:
        self._load()
        return iter(list(self._claims))

    def __len__(self) -> int:
        self._load()
        return len(self._claims)

    def _load(self) -> None:
        if not self._loaded:
            self._loaded = True
            from perakit.theory import statements  # noqa: F401  # registers; on first use, since it needs sympy


claims = Claims()


def search(examples: Any, holds: Callable[..., bool], seed: int, count: int) -> tuple[dict[str, Any] | None, int]:
    """Look for arguments on which `holds` is false: the smallest that were found, or None, and how many were tried.

    examples: a Hypothesis strategy of dicts; holds: takes one as keywords; count: how many to try, at most: a strategy
    may have fewer.
    """
    from random import Random

    import hypothesis

    settings = hypothesis.settings(
        max_examples=count, database=None, deadline=None, derandomize=False, suppress_health_check=list(hypothesis.HealthCheck)
    )
    tried = 0

    def broken(example: dict[str, Any]) -> bool:
        nonlocal tried
        tried += 1
        return not holds(**example)

    try:
        return hypothesis.find(examples, broken, settings=settings, random=Random(seed)), tried
    except hypothesis.errors.NoSuchExample:
        return None, tried


def _guarded(formula: Callable[..., Any]) -> Callable[..., Any]:
    """The formula, whose errors become a PerakitError with what it was given."""

    def call(*arguments: Any, **options: Any) -> Any:
        try:
            return formula(*arguments, **options)
        except PerakitError:
            raise
        except Exception as error:
            shapes = ", ".join(str(np.shape(argument)) for argument in arguments)
            raise PerakitError(
                f"{_name(formula)} raised {type(error).__name__}: {error}, called with arrays of shape {shapes}"
                + (f" and {options}" if options else "")
            ) from error

    return call


def _name(formula: Callable[..., Any]) -> str:
    return getattr(formula, "__qualname__", type(formula).__name__)


def _show(value: Any) -> str:
    return str(np.asarray(value).tolist()) if isinstance(value, np.ndarray) else str(value)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, np.ndarray | list | tuple):
        return [_plain(entry) for entry in (value.tolist() if isinstance(value, np.ndarray) else value)]
    if isinstance(value, np.generic):
        return value.item()
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
