"""What the old domain costs after tuning on a new one, for two new domains."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from perakit.adapters import PERA, LoRA
from perakit.experiments.arms import RANK, Arm, Options, Results, arm, judged, unadapted
from perakit.experiments.experiment import Experiment
from perakit.experiments.lab import Lab
from perakit.experiments.loss import HIGHER, METHODS
from perakit.experiments.report import Finding, Report, comparison, margin, verdict
from perakit.plots import plot_gains
from perakit.table import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PACKAGES = "package:sympy+package:matplotlib"


def _arms(options: Options) -> list[Arm]:
    found = [arm(label, method) for label, method in METHODS.items()]
    found.append(arm("LoRA, PERA's parameters", PERA(RANK), matched=True))
    return found + [
        arm(f"{label}, packages", method, text=PACKAGES)
        for label, method in (("LoRA", LoRA(RANK)), ("PERA", PERA(RANK)))
    ]


def _collect(lab: Lab, options: Options) -> None:
    options = options if options.old else replace(options, old="prose")
    lab.run(
        [
            unadapted(options),
            replace(unadapted(options, text=PACKAGES), label="unadapted, packages"),
        ]
    )
    judged(lab, _arms(options), options, () if options.small else HIGHER)


def _report(results: Results) -> Report:
    least, start = margin(results, "LoRA"), results.one("unadapted")["old"]
    findings = []
    for label, over in (
        ("PERA", "LoRA"),
        ("PERA, packages", "LoRA, packages"),
        ("DoRA", "LoRA"),
        ("HiRA", "LoRA"),
    ):
        gain = results.gain(label, over, "old")
        findings.append(
            Finding(
                f"{label}: forgets less than {over}",
                None,
                f"{gain.signed} bits",
                verdict(gain, least),
            )
        )
    gain = results.gain("PERA, packages", "LoRA, packages")
    findings.append(
        Finding(
            "PERA beats LoRA on the packages' source",
            None,
            f"{gain.signed} bits",
            verdict(gain, least),
        )
    )
    rows = [
        [
            label,
            str(results.mean(label, "old")),
            results.mean(label, lambda one: one["old"] - start).signed,
        ]
        for label in results.labels()
    ]
    rows.insert(0, ["unadapted", f"{start:.4f}", ""])
    old = Table(
        ("arm", "old domain, bits per byte", "worse than unadapted by"),
        rows,
        "Mean of the seeds [95 % bootstrap interval].",
    )

    def draw(figure: Figure) -> None:
        ax = figure.subplots()
        worse = {
            label: results.mean(label, lambda one: one["old"] - start) for label in results.labels()
        }
        plot_gains(worse, what="mean of the seeds, 95 % bootstrap interval", ax=ax)
        ax.set(
            xlabel="bits per byte that prose got worse",
            title="Forgetting, after the library's code or packages",
        )

    notes = [
        (
            "Learning rates were chosen for the new domain. Who learned more may have forgotten"
            " more: read both tables together."
        ),
        (
            "The arms on packages learn the source of sympy and matplotlib in place of the standard"
            " library's."
        ),
        f"Called a difference: a clear one of at least {least:.4f} bits per byte.",
    ]
    caption = "How much worse the old domain got, mean and 95 % bootstrap interval"
    packages = [label for label in results.labels() if "packages" in label]
    library = [label for label in results.labels() if label not in packages]
    tables = [
        ("Old domain", old),
        ("New domain: the standard library", comparison(results, "LoRA", library)),
        (
            "New domain: packages",
            comparison(results, "LoRA, packages", packages, "unadapted, packages"),
        ),
    ]
    return Report(tables, draw, findings, caption, notes)


EXPERIMENT = Experiment(
    "forgetting",
    "What the old domain costs afterwards",
    "The paper does not measure forgetting; whoever tunes a model wants to know (arXiv 2604.11841"
    " has no such table).",
    _collect,
    _report,
)
