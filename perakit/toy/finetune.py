"""Fine-tune one model with several methods on the same text, and put the results side by side."""

from __future__ import annotations

import io
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from perakit.adapters import Additive, LoRA, Method
from perakit.errors import PerakitError
from perakit.files import write_atomically
from perakit.models import adapters, merge, save, unmerge
from perakit.models.attach import Targets, adapt, report, select
from perakit.models.layers import kind_of
from perakit.plots import training_figure
from perakit.table import Table
from perakit.theory import order_share
from perakit.toy.corpus import Corpus
from perakit.toy.gpt2 import GPT2
from perakit.toy.pretrained import load, tokenizer
from perakit.toy.tokens import Tokenizer
from perakit.toy.training import Recipe, Run, bits_per_byte, train

SAMPLE_PROMPT, SAMPLE_TOKENS = 96, 120
NOTES = """\
new domain, old domain: held-out bits per byte, lower is better
peak: memory of the whole process while training (on CUDA, of torch's tensors)
merged - factored: largest difference of a logit between W0 + ΔW and W0 with factors
order share: ‖high-order part‖ / ‖linear part‖ of the update; near 0 means that it is, numerically, LoRA's
One seed and one learning rate for all: a difference of a few thousandths of a bit is noise."""


@dataclass(frozen=True)
class Trial:
    """One way to adapt the model: a label, and the method of every adapted layer."""

    label: str
    methods: Mapping[str, Method]

    @property
    def folder(self) -> str:
        """The label as a folder name."""
        return "".join(c if c.isalnum() or c in "=.-" else "-" for c in self.label.lower()).strip("-")


@dataclass(frozen=True)
class Outcome:
    """What one trial came to; text costs are held-out bits per byte, new and old are the two domains."""

    label: str
    trainable: int
    percent: float
    new: float
    old: float | None
    seconds: float
    peak_bytes: int
    merge_gap: float
    merge_gap_relative: float
    order_share: float | None
    sample: str


@dataclass(frozen=True)
class Comparison:
    """All outcomes beside the unadapted model's costs; `facts` say what they were made from."""

    before: tuple[float, float | None]
    outcomes: list[Outcome]
    runs: dict[str, Run]
    prompt: str
    sample_before: str
    facts: dict[str, Any]

    def table(self) -> Table:
        """The result, one line a method."""
        columns = ("method", "trainable", "new domain", "old domain", "seconds", "peak MiB", "merged - factored", "order share")
        start = ["before", "0", f"{self.before[0]:.4f}", _bits(self.before[1]), "", "", "", ""]
        rows = [
            [
                o.label,
                f"{o.trainable:,}",
                f"{o.new:.4f}",
                _bits(o.old),
                f"{o.seconds:.1f}",
                f"{o.peak_bytes / 2**20:.0f}",
                f"{o.merge_gap:.1e}",
                "" if o.order_share is None else f"{o.order_share:.3%}",
            ]
            for o in self.outcomes
        ]
        return Table(columns, [start, *rows], NOTES)

    def markdown(self) -> str:
        """The whole report."""
        facts = self.facts
        lines = ["# Fine-tuning report", "", self.table().markdown(), "", "![training loss and held-out cost](loss.png)", ""]
        lines += ["## What this was made from", ""]
        lines += [f"- {key}: {json.dumps(value) if isinstance(value, dict) else value}" for key, value in facts.items()]
        lines += ["", "## Samples", "", "Each continues the same held-out prompt:", "", _fenced(self.prompt)]
        for label, text in [("before", self.sample_before), *((o.label, o.sample) for o in self.outcomes)]:
            lines += [f"### {label}", "", _fenced(text)]
        return "\n".join(lines)


def uniform(model: GPT2, method: Method, targets: Targets, label: str | None = None) -> Trial:
    """The same method on every targeted layer."""
    return Trial(label or f"{type(method).__name__} r={method.rank}", dict.fromkeys(select(model, targets), method))


def matched_lora(model: GPT2, trial: Trial) -> Trial:
    """LoRA with as many trainable parameters as `trial`, or as few less as whole ranks allow.

    Starts from the trial's ranks, with its scale, and gives one more rank to layer after layer, the cheapest first,
    until not even the cheapest fits.
    """
    shapes = {name: _shape(model, name) for name in trial.methods}
    room = sum(method.count(*shapes[name]) for name, method in trial.methods.items())
    ranks = {name: method.rank for name, method in trial.methods.items()}
    room -= sum(LoRA(rank).count(*shapes[name]) for name, rank in ranks.items())
    by_cost = sorted(ranks, key=lambda name: sum(shapes[name]))
    while room >= sum(shapes[by_cost[0]]):
        for name in by_cost:
            if sum(shapes[name]) <= room:
                room -= sum(shapes[name])
                ranks[name] += 1
    methods = {name: LoRA(rank, alpha=trial.methods[name].scale * rank) for name, rank in ranks.items()}
    low, high = min(ranks.values()), max(ranks.values())
    return Trial(f"LoRA r={low}" + (f"-{high}" if high > low else "") + " (matched)", methods)


def compare(
    source: str | Path,
    trials: Sequence[Trial],
    new: Corpus,
    old: Corpus | None,
    recipe: Recipe,
    out: Path,
    device: str = "cpu",
) -> Comparison:
    """Run every trial from the same start and write report.md, loss.png, metrics.jsonl, the adapters and results.json.

    source: what `toy.load` takes; new, old: the text to learn, and the text whose cost is watched (None: not
    watched); out: folder; a trial that was interrupted there goes on from its last checkpoint.
    """
    if len({trial.folder for trial in trials}) < len(trials):
        raise PerakitError(f"two trials have the same name: {', '.join(trial.label for trial in trials)}; leave one out")
    if device != "cpu" and not torch.cuda.is_available():
        raise PerakitError(f"device {device!r} is not available here: use --device cpu")
    model = load(source).to(device)
    tokens = tokenizer(source, model)
    prompt = min(SAMPLE_PROMPT, model.config.n_positions // 2)
    ids = tokens.encode(new.heldout[:4096])[:prompt].long()[None].to(device)
    before = _costs(model, new, old, recipe, tokens)
    sample_before = _sample(model, ids, tokens)
    outcomes, runs = [], {}
    for trial in trials:
        model = load(source).to(device)
        torch.manual_seed(recipe.seed)  # so that every method draws the same factors
        adapt(model, dict(trial.methods))
        run = train(model, new, recipe, out / trial.folder, tokens, label=trial.label)
        model.eval()
        save(model, out / trial.folder / "adapter")
        gap, size = _merge_gap(model, ids)
        counts, costs = report(model), _costs(model, new, old, recipe, tokens)
        runs[trial.label] = run
        outcomes.append(
            Outcome(
                label=trial.label,
                trainable=counts.trainable,
                percent=counts.percent,
                new=costs[0],
                old=costs[1],
                seconds=run.seconds,
                peak_bytes=run.peak_bytes,
                merge_gap=gap,
                merge_gap_relative=gap / size,
                order_share=_share(model),
                sample=_sample(model, ids, tokens),
            )
        )
    facts = _facts(source, new, old, recipe, device)
    result = Comparison(before, outcomes, runs, tokens.decode(ids[0].cpu()), sample_before, facts)
    _write(result, out)
    return result


def _costs(model: GPT2, new: Corpus, old: Corpus | None, recipe: Recipe, tokens: Tokenizer) -> tuple[float, float | None]:
    """Held-out bits per byte of the new and the old domain."""

    def cost(text: Corpus) -> float:
        return bits_per_byte(model, text.heldout, recipe.context, recipe.eval_windows, tokenizer=tokens)

    return cost(new), None if old is None else cost(old)


def _sample(model: GPT2, ids: Tensor, tokens: Tokenizer) -> str:
    return tokens.decode(model.generate(ids, SAMPLE_TOKENS, temperature=0.7)[0, ids.shape[1] :].cpu())


@torch.no_grad()
def _merge_gap(model: GPT2, ids: Tensor) -> tuple[float, float]:
    """Largest |merged - factored| logit, and the largest logit."""
    factored = model(ids)
    merge(model)
    merged = model(ids)
    unmerge(model)
    return (merged - factored).abs().max().item(), factored.abs().max().item()


def _share(model: GPT2) -> float | None:
    """The order share, of updates that have a linear and a high-order part."""
    return order_share(model).overall if all(isinstance(a, Additive) for a in adapters(model).values()) else None


def _shape(model: nn.Module, name: str) -> tuple[int, int]:
    module = model.get_submodule(name)
    kind = kind_of(module)
    assert kind is not None
    m, n = kind.weight(module).shape
    return m, n


def _facts(source: str | Path, new: Corpus, old: Corpus | None, recipe: Recipe, device: str) -> dict[str, Any]:
    return {
        "model": str(source),
        "new domain": new.describe(),
        "old domain": old.describe() if old else "not watched",
        "recipe": asdict(recipe),
        "seed": recipe.seed,
        "versions": {"python": platform.python_version(), "torch": str(torch.__version__), "numpy": np.__version__},
        "hardware": f"{device}, {torch.get_num_threads()} threads, {platform.machine()}",
    }


def _write(result: Comparison, out: Path) -> None:
    rows = [{"method": label} | row for label, run in result.runs.items() for row in run.metrics]
    write_atomically(out / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())
    results = {"before": result.before, "outcomes": [asdict(o) for o in result.outcomes], "facts": result.facts}
    write_atomically(out / "results.json", (json.dumps(results, indent=2) + "\n").encode())
    picture = io.BytesIO()
    training_figure(result.runs).savefig(picture, format="png")
    write_atomically(out / "loss.png", picture.getvalue())
    write_atomically(out / "report.md", (result.markdown() + "\n").encode())


def _bits(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _fenced(text: str) -> str:
    fence = "`" * 3
    while fence in text:
        fence += "`"
    return f"{fence}text\n{text}\n{fence}\n"
