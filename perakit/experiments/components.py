"""Which terms help (Table 4 and 12), at equal rank, equal parameters and equal time.

Each with both initialisations.
"""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

from perakit.adapters import PERA, LoRA
from perakit.experiments import paper
from perakit.experiments.arms import FULL, RANK, Arm, Options, arm, in_full, judged, unadapted
from perakit.experiments.experiment import Experiment
from perakit.experiments.jobs import Job
from perakit.experiments.lab import Lab
from perakit.experiments.report import Finding, Report, compared, comparison, margin, recovery
from perakit.experiments.results import Results
from perakit.experiments.robust import again, steadiness
from perakit.experiments.statistics import interval
from perakit.experiments.tuning import pace, untaught
from perakit.formulas import rank_bound
from perakit.plots import plot_gains

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TERMS = {"LoRA + cross": "cross", "LoRA + square": "square", "PERA": "full"}
K = rank_bound(RANK)
EXPORTED = f"LoRA, r = {K}"  # what PERA of that rank is when it is exported
PERA_LORA = {"LoRA": LoRA(RANK), "PERA": PERA(RANK)}


def speeds(options: Options) -> Job:
    """A training step of PERA beside one of LoRA."""
    arms = {label: {"method": method.to_dict()} for label, method in PERA_LORA.items()}
    return Job(
        "speeds",
        "other",
        pace,
        untaught(options.settings()) | {"arms": arms, "rounds": 3 if options.small else 21},
        100,
        alone=True,
    )


def _arms(options: Options, ratio: float) -> list[Arm]:
    """ratio: time of a PERA step over that of a LoRA step."""
    scale = options.waking
    return [
        arm("LoRA", LoRA(RANK)),
        *(arm(label, PERA(RANK, terms=terms)) for label, terms in TERMS.items()),
        arm("PERA of degree 3", PERA(RANK, degree=3)),
        arm("LoRA, PERA's parameters", PERA(RANK), matched=True),
        arm(
            "LoRA, PERA's time",
            LoRA(RANK),
            {"steps": max(round(options.recipe.steps * max(ratio, 1)), options.recipe.steps + 1)},
        ),
        arm(EXPORTED, LoRA(K)),
        *in_full().values(),
        arm("LoRA, A = 0", LoRA(RANK, init="zero_A")),
        arm("PERA, A = 0", PERA(RANK, init="zero_A")),
        *(
            arm(f"{label}, scale {scale:g}", PERA(RANK, terms=terms, feature_scale=scale))
            for label, terms in TERMS.items()
        ),
    ]


def _collect(lab: Lab, options: Options) -> None:
    found = lab.run([speeds(options), unadapted(options)])[0]["measured"]["training"]
    ratio = median(pera / lora for pera, lora in zip(found["PERA"], found["LoRA"], strict=True))
    arms = _arms(options, ratio)
    lab.run(again(arms, options, judged(lab, arms, options)))


def _findings(results: Results) -> list[Finding]:
    least = margin(results, "LoRA")
    numbers = paper.COMPONENTS

    def finding(claim: str, label: str, over: str, told: str | None) -> Finding:
        return compared(results, claim, label, over, least, told)

    scale = f", scale {results.options.waking:g}"
    both = f"{numbers['PERA']:.2f} against {numbers['LoRA']:.2f} accuracy, r = 16"
    return [
        finding("PERA beats LoRA at equal rank", "PERA", "LoRA", both),
        finding(
            "PERA beats LoRA at equal trainable parameters", "PERA", "LoRA, PERA's parameters", None
        ),
        finding("PERA beats LoRA in equal time", "PERA", "LoRA, PERA's time", None),
        finding(
            "PERA beats LoRA from the paper's start (A = 0, B random)",
            "PERA, A = 0",
            "LoRA, A = 0",
            both,
        ),
        finding(
            "Square terms bring more than cross terms",
            "LoRA + square",
            "LoRA + cross",
            f"{numbers['square']:.2f} against {numbers['cross']:.2f}",
        ),
        finding(
            "Square terms beat LoRA",
            "LoRA + square",
            "LoRA",
            f"{numbers['square']:.2f} against {numbers['LoRA']:.2f}",
        ),
        finding("A third degree helps further", "PERA of degree 3", "PERA", None),
        finding(
            f"LoRA of PERA's rank K = {K}, which an exported PERA is, beats PERA",
            EXPORTED,
            "PERA",
            None,
        ),
        finding(f"Full fine-tuning beats LoRA of rank {RANK}", FULL, "LoRA", None),
        finding("Bias-only training beats LoRA", "bias only", "LoRA", None),
        finding(
            f"With feature scale {results.options.waking:g}: square terms bring more than cross"
            " terms",
            f"LoRA + square{scale}",
            f"LoRA + cross{scale}",
            None,
        ),
        finding("With that scale: square terms beat LoRA", f"LoRA + square{scale}", "LoRA", None),
        finding("With that scale: cross terms beat LoRA", f"LoRA + cross{scale}", "LoRA", None),
    ]


def _report(results: Results) -> Report:
    least = margin(results, "LoRA")
    took = results.one("speeds")["training"]
    ratio = interval([pera / lora for pera, lora in zip(took["PERA"], took["LoRA"], strict=True)])
    longer = results.arm("LoRA, PERA's time")[0]["settings"]["recipe"]["steps"]
    labels = [label for label in results.labels() if label != "LoRA"]

    def draw(figure: Figure) -> None:
        ax = figure.subplots()
        plot_gains({label: results.gain(label, "LoRA") for label in labels}, margin=least, ax=ax)
        ax.set(
            xlabel="held-out bits per byte better than LoRA",
            title=f"{results.options.seeds} seeds, rank {RANK}",
        )

    notes = [
        (
            f"In equal time: a training step of PERA takes {ratio.shown('.3f')} times LoRA's here,"
            f" so LoRA takes {longer} steps for PERA's {results.options.recipe.steps}."
        ),
        (
            f"Called a gain: a clear one of at least {least:.4f} bits per byte, 1 % of what LoRA"
            " gains over the unadapted model."
        ),
        (
            "An order share near 0 says that PERA's update is LoRA's to that precision: such arms"
            " differ more in name than in what they do, and a tie of theirs says nothing about"
            " which terms would help if they were larger."
        ),
        (
            f"At scale {results.options.waking:g} the high-order part is no longer small"
            " ([share](share.md)); degree 3 was not tried there."
        ),
        (
            "The paper draws B at random where A = 0 and gives no variance; ours is 1/(3m), where"
            " that of A in the usual start is 1/(3n)."
        ),
        (
            "The paper's LoRA numbers come from other papers, with other learning rates; here every"
            " arm tries the same rates."
        ),
    ]
    caption = "How much better than LoRA each arm is, seed by seed; grey: too small to count"
    tables = [
        ("All arms", comparison(results, "LoRA")),
        ("What of full fine-tuning's gain each recovers", recovery(results)),
        ("The verdicts under another tuning", steadiness(results, _findings)),
    ]
    return Report(tables, draw, _findings(results), caption, notes)


EXPERIMENT = Experiment(
    "components",
    "Which terms help",
    "The paper says that the polynomial terms improve on LoRA, the square terms most (arXiv"
    " 2604.11841, abstract, Tables 4 and 12).",
    _collect,
    _report,
)
