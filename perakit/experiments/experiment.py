"""What an experiment is: what it computes, and what it makes of that."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from perakit.errors import PerakitError, short
from perakit.experiments.arms import Options
from perakit.experiments.jobs import RESTORE, Ledger, ledgers, read, vouched
from perakit.experiments.lab import Lab
from perakit.experiments.report import Report, publish
from perakit.experiments.results import Results
from perakit.files import alone
from perakit.toy.pretrained import require


@dataclass(frozen=True)
class Experiment:
    """One experiment.

    name: in the command; title: of its page; question: the paper's claim in a sentence, with its
    place; collect: runs what is needed; report: says what the results show, from the rows alone;
    own: options that it decides itself, where its question is about them.
    """

    name: str
    title: str
    question: str
    collect: Callable[[Lab, Options], None]
    report: Callable[[Results], Report]
    own: Mapping[str, Any] = field(default_factory=dict)

    def run(self, options: Options, out: Path, resume: bool = False) -> tuple[Results, Report]:
        """Run what is not there yet, and write NAME.jsonl, NAME.png and NAME.md into `out`.

        resume: go on with the options that `out` was begun with, instead of `options`.
        Raises PerakitError where another process is at work in `out`, where it has results of
        another version or of other options, where there is nothing to resume, and where the
        experiment is about another model than the one that is asked for, or one that is not here.
        """
        with alone(out):
            ledger = Ledger(out, self.name)
            stored = _options(ledger.header, ledger.path)
            options = self._with_own(options)
            if resume:
                if not ledger.header:
                    raise PerakitError(
                        f"{str(ledger.path)!r} is not there, so there is nothing to resume: run"
                        " without --resume"
                    )
                options = stored
            # What is there is never dropped
            seeds = max(options.seeds, stored.seeds if ledger.header else 0)
            options = replace(options, seeds=seeds)
            lab = Lab(ledger, options.device)
            ledger.begin(asdict(options))
            # Of rows without checksums nobody knows whether they are what was found
            suspects = _blaming(lambda: [path for path in ledgers(out) if not vouched(path)])
            with lab, suspects:
                self.collect(lab, options)
            ledger.finish(lab.plan)
            results, report = self.read(ledger.path)
            publish(self.name, self.title, self.question, results, report, out)
            return results, report

    def _with_own(self, options: Options) -> Options:
        """The options with the experiment's own; PerakitError where others are asked for.

        A model of its own has to be here, or it says what is missing before anything is written.
        """
        usual = Options()
        for name, value in self.own.items():
            asked = getattr(options, name)
            if asked not in (value, getattr(usual, name)):
                raise PerakitError(
                    f"experiment {self.name} is about {name} {value!r}, not {short(asked)}: leave"
                    f" --{name} out"
                )
        if "model" in self.own:
            require(self.own["model"])
        return replace(options, **self.own)

    def read(self, path: Path) -> tuple[Results, Report]:
        """The results in a file, and what they show."""
        header, rows = read(path)
        if not header:
            raise PerakitError(f"{str(path)!r} has no results: {RESTORE}")
        _options(header, path)
        results = Results(header, rows)
        with _blaming(lambda: [path]):  # it is made of the file and of nothing else
            return results, self.report(results)


def _options(header: Mapping[str, Any], path: Path) -> Options:
    """The options in the first line of a ledger, the usual ones where there is none."""
    found, usual = header.get("options", {}), asdict(Options())
    for name, value in found.items():
        known = (str, type(None)) if name == "old" else (type(usual.get(name)),)
        if name not in usual or type(value) not in known:
            raise PerakitError(
                f"{str(path)!r} says {short(name)}: {short(value)}, which no experiment is asked:"
                f" {RESTORE}"
            )
    return Options(**found)


@contextmanager
def _blaming(suspects: Callable[[], list[Path]]) -> Iterator[None]:
    """Blame the first of `suspects` for rows that lack what the block asks of them."""
    try:
        yield
    except (LookupError, TypeError, ValueError, ArithmeticError, StopIteration) as error:
        if not (found := suspects()):
            raise
        raise PerakitError(
            f"{str(found[0])!r} does not have what the experiment needs ({type(error).__name__}:"
            f" {error}): {RESTORE}"
        ) from error
