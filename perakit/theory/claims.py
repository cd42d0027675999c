"""The registry of claims: what is said about PERA and its relatives, and what a check finds.

    from perakit.theory import claims
    print(claims["theorem-1"].check())                 # the verdict, and what supports it
    claims["hadamard-series"].check(formula=mine)      # the same question of a rule of your own

The words are kept apart. "proved": an exact argument, written out, in the range that it names; what
of it is finite runs, and so does the question whether the rule is what the argument speaks of.
"verified": no counterexample in N examples. "refuted": a counterexample, with a proof that it is
one. "qualified": true in one sense and not in another.
"open": not decided here. A check can fail, and then says on what.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from perakit import formulas
from perakit.errors import PerakitError
from perakit.formulas import check_count
from perakit.theory.findings import EXAMPLES, Finding, equal, factors, search

__all__ = ["EXAMPLES", "VERDICTS", "Claim", "Claims", "Evidence", "Finding", "claims", "search"]

VERDICTS = ("proved", "verified", "refuted", "qualified", "open")


@dataclass(frozen=True, repr=False)
class Evidence:
    """The outcome of one check: the claim, its verdict, whether that stands, and the finding."""

    claim: str
    verdict: str
    finding: Finding
    seed: int
    seconds: float
    formula: str | None = None  # the name of a rule that stood in for the claim's own
    range: str = ""  # where a proved claim is proved

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

    def __repr__(self) -> str:
        return str(self)

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON."""
        finding = self.finding
        return {
            "claim": self.claim,
            "verdict": self.verdict,
            "range": self.range,
            "verdict_stands": self.holds,
            "formula": self.formula,
            "summary": self.summary,
            "numbers": _plain(finding.numbers),
            "examples": finding.examples,
            "counterexample": _plain(finding.counterexample),
            "seed": self.seed,
            "seconds": round(self.seconds, 3),
        }

    def __str__(self) -> str:
        verdict = f"{self.verdict} ({self.range})" if self.range else self.verdict
        verdict = verdict if self.holds else f"{verdict} DOES NOT STAND"
        if self.formula:
            verdict = f"{'holds' if self.holds else 'FAILS'} for {self.formula}"
        lines = [f"{self.claim}: {verdict} ({self.seconds:.1f} s)", self.summary]
        if self.counterexample:
            lines += [
                "counterexample:",
                *(f"  {name} = {_show(value)}" for name, value in self.counterexample.items()),
            ]
        return "\n".join(lines)


Argument = Callable[[Callable[..., Any], int, int], Finding]


@dataclass(frozen=True)
class Claim:
    r"""One statement and the argument that decides it.

    id: its name in the registry; title: a line; statement: LaTeX; source: who says so; verdict: one
    of `VERDICTS`;
    about: the function that the claim speaks of, as a rule in `perakit.formulas`; argument:
    (formula, seed, examples) -> Finding, which looks at nothing but `formula` where it could be
    `about` or a rule of your own, and whose docstring is the proof; range: where a proved claim is
    proved, "all sizes" or the sizes named.
    """

    id: str
    title: str
    statement: str
    source: str
    verdict: str
    about: Callable[..., Any]
    argument: Argument
    range: str = ""

    def __post_init__(self) -> None:
        if self.verdict not in VERDICTS:
            raise PerakitError(
                f"verdict={self.verdict!r} is unknown: choose from {', '.join(map(repr, VERDICTS))}"
            )
        if (self.verdict == "proved") != bool(self.range):
            raise PerakitError(
                f"verdict={self.verdict!r} with range={self.range!r}: a proved claim, and no other,"
                " says where it is proved, as range='all sizes'"
            )

    @property
    def label(self) -> str:
        """The verdict with its range: "proved (all sizes)", "verified"."""
        return f"{self.verdict} ({self.range})" if self.range else self.verdict

    @property
    def proof(self) -> str:
        """What the argument's docstring says: a proof to read, in Markdown with LaTeX."""
        return inspect.getdoc(self.argument) or ""

    def check(
        self, seed: int = 0, examples: int = EXAMPLES, formula: Callable[..., Any] | None = None
    ) -> Evidence:
        """Run the argument.

        seed: of everything random; examples: how many a "verified" argument tries; formula: a rule
        of your own in place of `about`, called like it. Returns Evidence. An error inside your
        formula is a PerakitError that shows it.

        >>> from perakit import theory
        >>> theory.claims["hadamard-series"].check().holds
        True
        >>> theory.claims["hadamard-series"].check(formula=lambda B, A, h: B @ A).holds
        False
        """
        check_count("seed", seed, least=0)
        check_count("examples", examples)
        if formula is not None and not callable(formula):
            raise PerakitError(
                f"formula={formula!r} cannot be called: pass a function like {_name(self.about)},"
                " or None"
            )
        start = time.perf_counter()
        finding = (
            self.argument(self.about, seed, examples)
            if formula is None
            else self._try(formula, seed, examples)
        )
        if not isinstance(finding, Finding):
            raise PerakitError(f"the argument of {self.id} returned {finding!r}: return a Finding")
        return Evidence(
            self.id,
            self.verdict,
            finding,
            seed,
            time.perf_counter() - start,
            None if formula is None else _name(formula),
            self.range,
        )

    def _try(self, formula: Callable[..., Any], seed: int, examples: int) -> Finding:
        """The argument with a formula of the user's own, which may return anything."""
        try:
            finding = self.argument(_guarded(formula), seed, examples)
            if isinstance(finding, Finding) and not finding.holds:
                return self._with_smallest_difference(finding, formula, seed, examples)
            return finding
        except PerakitError:
            raise
        except Exception as error:
            problem = (
                f"{self.id} could not use what {_name(formula)} returned ({type(error).__name__}:"
                f" {error})"
            )
            raise PerakitError(f"{problem}: return what {_name(self.about)} does") from error

    def _with_smallest_difference(
        self, finding: Finding, formula: Callable[..., Any], seed: int, examples: int
    ) -> Finding:
        """A failure without factors, with the smallest at which the rule is not PERA's (LoRA's)."""
        if "B" in (finding.counterexample or {}) or self.about not in (
            formulas.pera,
            formulas.lora,
        ):
            return finding

        def values(rule: Callable[..., Any]) -> Callable[..., Any]:
            return lambda B, A, h: rule(B, A, h) if self.about is formulas.pera else rule(B, A)

        try:
            found = equal(
                factors(), values(_guarded(formula)), values(self.about), seed, examples, ""
            ).counterexample
        except PerakitError:  # a formula for one size or rank only: what was found stands
            return finding
        return replace(
            finding, counterexample=dict(finding.counterexample or {}) | dict(found or {})
        )

    def __str__(self) -> str:
        return (
            f"{self.id}: {self.title}\n{self.statement}\nsource: {self.source}\nverdict:"
            f" {self.label}"
        )

    def _repr_markdown_(self) -> str:
        return f"**{self.title}** ({self.label}): {self.statement}"


class Claims(Mapping[str, Claim]):
    """Claims by id; iterates over ids, as a dict does."""

    def __init__(self) -> None:
        self._claims: dict[str, Claim] = {}
        self._contents: Callable[[], object] | None = None

    def fill_by(self, contents: Callable[[], object]) -> None:
        """What registers the first claims: called once, when somebody first asks for a claim."""
        self._contents = contents

    def register(
        self,
        id: str,
        *,
        title: str,
        statement: str,
        source: str,
        verdict: str,
        about: Callable[..., Any],
        range: str = "",
    ) -> Callable[[Argument], Argument]:
        """Decorate an argument (formula, seed, examples) -> Finding: it becomes a claim."""

        def remember(argument: Argument) -> Argument:
            # Refuses an id that is taken
            self.add(Claim(id, title, statement, source, verdict, about, argument, range))
            return argument

        return remember

    def add(self, claim: Claim) -> None:
        """Take up a claim; refuses an id that is taken."""
        self._load()
        if claim.id in self._claims:
            raise PerakitError(f"the claim {claim.id!r} exists already: choose another id")
        self._claims[claim.id] = claim

    def __getitem__(self, id: str) -> Claim:
        self._load()
        if id not in self._claims:
            near = difflib.get_close_matches(str(id), self._claims, n=3, cutoff=0.3)
            hint = f"did you mean {', '.join(near)}? " if near else ""
            raise PerakitError(
                f"unknown claim {id!r}: {hint}`perakit verify --list` shows all {len(self._claims)}"
            )
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

    def __repr__(self) -> str:
        counts = Counter(claim.verdict for claim in self.values())
        return (
            f"{len(self)} claims:"
            f" {', '.join(f'{counts[verdict]} {verdict}' for verdict in VERDICTS)}; `perakit verify"
            " --list`"
        )

    def _load(self) -> None:
        if self._contents:
            contents, self._contents = self._contents, None
            contents()


claims = Claims()  # `perakit.theory` says what fills it


def _guarded(formula: Callable[..., Any]) -> Callable[..., Any]:
    """The formula, whose mistakes raise a PerakitError: what it was given, and what to do."""

    @functools.wraps(formula)
    def call(*arguments: Any, **options: Any) -> Any:
        arrays = [
            argument
            for argument in (*arguments, *options.values())
            if isinstance(argument, np.ndarray)
        ]
        before = [array.copy() for array in arrays]
        try:
            result = formula(*arguments, **options)
        except PerakitError:
            raise
        except Exception as error:
            raise PerakitError(
                f"{_name(formula)} raised {type(error).__name__}: {error};"
                f" {_given(arguments, options)}"
            ) from error
        if any((old != new).any() for old, new in zip(before, arrays, strict=True)):
            raise PerakitError(f"{_name(formula)} changes an argument in place: copy it first")
        if isinstance(result, np.ndarray) and result.dtype.kind == "f":
            if result.dtype.itemsize < 8:
                raise PerakitError(
                    f"{_name(formula)} returned {result.dtype}: keep the precision of the"
                    " arguments, float64"
                )
            if not np.isfinite(result).all() and all(
                np.isfinite(array).all() for array in arrays if array.dtype.kind == "f"
            ):
                raise PerakitError(
                    f"{_name(formula)} returned entries that are not finite of finite arguments;"
                    f" {_given(arguments, options)}"
                )
        return result

    return call


def _given(arguments: tuple[Any, ...], options: Mapping[str, Any]) -> str:
    """What a formula was called with, and what such arrays can do."""
    named = [("", argument) for argument in arguments] + [
        (f"{name}=", value) for name, value in options.items()
    ]
    shown = [
        f"{name}{type(x).__name__} {tuple(x.shape)}" if hasattr(x, "shape") else f"{name}{x!r}"
        for name, x in named
    ]
    symbols = any(isinstance(x, np.ndarray) and x.dtype == object for _, x in named)
    kind = "the formula must take NumPy arrays and torch tensors alike"
    if symbols:
        kind = "symbols: np.zeros(..., dtype=object) and operators take them"
    if options:
        kind = "this claim passes options: take terms='full', degree=2, as formulas.pera does"
    return f"it was called with {', '.join(shown)} ({kind})"


def _name(formula: Callable[..., Any]) -> str:
    return getattr(formula, "__qualname__", type(formula).__name__)


def _show(value: Any) -> str:
    return str(np.asarray(value).tolist()) if isinstance(value, np.ndarray) else str(value)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, np.ndarray | list | tuple):
        return [
            _plain(entry) for entry in (value.tolist() if isinstance(value, np.ndarray) else value)
        ]
    if isinstance(value, np.generic):
        return value.item()
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
