"""What an experiment is: what it computes, and what it makes of that."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from perakit.errors import PerakitError
from perakit.experiments.arms import Options, Results
from perakit.experiments.jobs import Ledger, read
from perakit.experiments.lab import Lab
from perakit.experiments.report import Report, publish


@dataclass(frozen=True)
class Experiment:
    """One experiment.

    name: in the command; title: of its page; question: the paper's claim in a sentence, with its
    place; collect: runs what is needed; report: says what the results show, from the rows alone.
    """

    name: str
    title: str
    question: str
    collect: Callable[[Lab, Options], None]
    report: Callable[[Results], Report]

    def run(self, options: Options, out: Path, resume: bool = False) -> tuple[Results, Report]:
        """Run what is not there yet, and write NAME.jsonl, NAME.png and NAME.md into `out`.

        resume: go on with the options that `out` was begun with, instead of `options`.
        Raises PerakitError where `out` has results of another version or of other options, and
        where there is nothing to resume.
        """
        ledger = Ledger(out, self.name)
        if resume:
            if not ledger.header:
                raise PerakitError(
                    f"{str(ledger.path)!r} is not there, so there is nothing to resume: run without"
                    " --resume"
                )
            options = Options(
                **{key: value for key, value in ledger.header["options"].items() if key in _OPTIONS}
            )
        # What is there is never dropped
        seeds = max(options.seeds, ledger.header.get("options", {}).get("seeds", 0))
        options = Options(**(asdict(options) | {"seeds": seeds}))
        lab = Lab(ledger, options.device)
        ledger.begin(asdict(options))
        self.collect(lab, options)
        ledger.finish(lab.plan)
        results, report = self.read(ledger.path)
        publish(self.name, self.title, self.question, results, report, out)
        return results, report

    def read(self, path: Path) -> tuple[Results, Report]:
        """The results in a file, and what they show."""
        header, rows = read(path)
        results = Results(header, rows)
        return results, self.report(results)


_OPTIONS = {field.name for field in fields(Options)}
