"""Fine-tune one model with several methods on the same text, and put the results side by side."""

from __future__ import annotations

import io
import json
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from perakit.adapters import Additive, LoRA, Method
from perakit.errors import PerakitError
from perakit.files import write_atomically
from perakit.models import adapters, fused, merge, save, unmerge
from perakit.models.attach import adapt, report
from perakit.models.layers import kind_of
from perakit.models.quantize import NF4, parse
from perakit.models.targets import Targets
from perakit.plots import training_figure
from perakit.table import Table
from perakit.theory import order_share
from perakit.toy import distributed
from perakit.toy.corpus import Corpus
from perakit.toy.language import generate, logits, sizes
from perakit.toy.pretrained import load, tokenizer
from perakit.toy.tokens import Tokenizer
from perakit.toy.training import Recipe, Run, bits_per_byte, only_run, train

SAMPLE_PROMPT, SAMPLE_TOKENS = 96, 120
NOTES = """\
new domain, old domain: held-out bits per byte, lower is better
peak: memory of the whole process while training (on CUDA, of torch's tensors)
merged - factored: largest difference of a logit between W0 + ΔW and W0 with factors; \
"-": it cannot be merged
order share: ‖high-order part‖ / ‖linear part‖ of the update, if it has both; \
near 0: it is, numerically, LoRA's
One seed and one learning rate for all: a difference of a few thousandths of a bit is noise."""


@dataclass(frozen=True)
class Trial:
    """One way to adapt the model: a label, and the method of every adapted layer."""

    label: str
    methods: Mapping[str, Method]

    @property
    def folder(self) -> str:
        """The label as a folder name."""
        return "".join(c if c.isalnum() or c in "=.-" else "-" for c in self.label.lower()).strip(
            "-"
        )


@dataclass(frozen=True)
class Outcome:
    """What one trial came to.

    Text costs are held-out bits per byte; new and old are the two domains.
    """

    label: str
    trainable: int
    percent: float
    new: float
    old: float | None
    seconds: float
    peak_bytes: int
    merge_gap: float | None
    merge_gap_relative: float | None
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
        columns = (
            "method",
            "trainable",
            "new domain",
            "old domain",
            "seconds",
            "peak MiB",
            "merged - factored",
            "order share",
        )
        start = ["before", "0", f"{self.before[0]:.4f}", _bits(self.before[1]), "", "", "", ""]
        rows = [
            [
                o.label,
                f"{o.trainable:,}",
                f"{o.new:.4f}",
                _bits(o.old),
                f"{o.seconds:.1f}",
                f"{o.peak_bytes / 2**20:.0f}",
                "-" if o.merge_gap is None else f"{o.merge_gap:.1e}",
                "" if o.order_share is None else f"{o.order_share:.3%}",
            ]
            for o in self.outcomes
        ]
        return Table(columns, [start, *rows], NOTES)

    def markdown(self) -> str:
        """The whole report."""
        facts = self.facts
        lines = [
            "# Fine-tuning report",
            "",
            self.table().markdown(),
            "",
            "![training loss and held-out cost](loss.png)",
            "",
        ]
        lines += ["## What this was made from", ""]
        lines += [
            f"- {key}: {json.dumps(value) if isinstance(value, dict) else value}"
            for key, value in facts.items()
        ]
        lines += [
            "",
            "## Samples",
            "",
            "Each continues the same held-out prompt:",
            "",
            _fenced(self.prompt),
        ]
        for label, text in [
            ("before", self.sample_before),
            *((o.label, o.sample) for o in self.outcomes),
        ]:
            lines += [f"### {label}", "", _fenced(text)]
        return "\n".join(lines)


def uniform(model: nn.Module, method: Method, targets: Targets, label: str | None = None) -> Trial:
    """The same method on every targeted layer."""
    return Trial(
        label or f"{type(method).__name__} r={method.rank}",
        fused.methods(model, method, targets),
    )


def matched_lora(model: nn.Module, trial: Trial) -> Trial:
    """LoRA with as many trainable parameters as `trial`, or as few less as whole ranks allow.

    Starts from the trial's ranks, with its scale, and gives one more rank to layer after layer, the
    cheapest first, until not even the cheapest fits.
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
    methods = {
        name: LoRA(rank, alpha=trial.methods[name].scale * rank) for name, rank in ranks.items()
    }
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
    quantize: str | NF4 | None = None,
) -> Comparison:
    """Run every trial from the same start, and write what it came to into `out`.

    That is report.md, loss.png, metrics.jsonl, the adapters and results.json.

    source: what `toy.load` takes; new, old: the text to learn, and the text whose cost is watched
    (None: not watched); out: folder; a trial that was interrupted there goes on from its last
    checkpoint.
    quantize: "nf4" or an NF4 keeps the adapted layers' own weights in 4 bits, None as they are;
    "before" is the model in full precision either way. Within a process group of torch the
    processes train each trial together (see `train`), process 0 writes and measures, and all return
    the same; memory and seconds are those of process 0. Raises PerakitError where another process
    is at work in `out`.
    """
    model, tokens, plan = distributed.together(
        lambda: _begin(source, trials, new, old, recipe, device, quantize)
    )
    distributed.agree("the methods, the texts or the recipe", plan)
    with only_run(out):
        prompt = min(SAMPLE_PROMPT, sizes(model).context // 2)
        ids = tokens.encode(new.heldout[:4096])[:prompt].long()[None].to(device)
        before = distributed.from_main(
            lambda: (_costs(model, new, old, recipe, tokens), _sample(model, ids, tokens))
        )
        outcomes, runs = [], {}
        for trial in trials:
            adapted = distributed.together(
                partial(_adapted, source, trial, recipe, device, quantize)
            )
            run = train(adapted, new, recipe, out / trial.folder, tokens, label=trial.label)
            adapted.eval()
            distributed.on_main(partial(save, adapted, out / trial.folder / "adapter"))
            measured = partial(
                _outcome,
                trial,
                adapted,
                run,
                ids,
                partial(_costs, new=new, old=old, recipe=recipe, tokens=tokens),
                tokens,
            )
            outcomes.append(distributed.from_main(measured))
            runs[trial.label] = run
        facts = _facts(source, new, old, recipe, device, quantize)
        result = Comparison(
            before[0], outcomes, runs, tokens.decode(ids[0].cpu()), before[1], facts
        )
        distributed.on_main(lambda: _write(result, out))
        return result


def _begin(
    source: str | Path,
    trials: Sequence[Trial],
    new: Corpus,
    old: Corpus | None,
    recipe: Recipe,
    device: str,
    quantize: str | NF4 | None,
) -> tuple[nn.Module, Tokenizer, list[Any]]:
    """The bare model, its tokenizer, and the plan that all processes must share, as plain data."""
    if len({trial.folder for trial in trials}) < len(trials):
        raise PerakitError(
            f"two trials have the same name: {', '.join(trial.label for trial in trials)}; leave"
            " one out"
        )
    if device != "cpu" and not _available(device):
        gpus = (
            f", or {torch.cuda.device_count()} processes, one for each GPU"
            if distributed.size() > 1
            else ""
        )
        raise PerakitError(f"device {device!r} is not available here: use --device cpu{gpus}")
    model = load(source).to(device)
    methods = [
        [trial.label, {name: method.to_dict() for name, method in trial.methods.items()}]
        for trial in trials
    ]
    return (
        model,
        tokenizer(source, model),
        [methods, new.sha256, old and old.sha256, asdict(recipe), str(parse(quantize))],
    )


def _available(device: str) -> bool:
    try:
        found = torch.device(device)
    except RuntimeError:  # no device has such a name
        return False
    return found.type == "cuda" and (found.index or 0) < torch.cuda.device_count()


def _adapted(
    source: str | Path, trial: Trial, recipe: Recipe, device: str, quantize: str | NF4 | None
) -> nn.Module:
    model = load(source).to(device)
    torch.manual_seed(recipe.seed)  # so that every method draws the same factors
    adapt(model, trial.methods, quantize=quantize)
    return model


def _outcome(
    trial: Trial,
    model: nn.Module,
    run: Run,
    ids: Tensor,
    costs: Callable[[nn.Module], tuple[float, float | None]],
    tokens: Tokenizer,
) -> Outcome:
    gap, size = _merge_gap(model, ids)
    counts, (new, old) = report(model), costs(model)
    return Outcome(
        label=trial.label,
        trainable=counts.trainable,
        percent=counts.percent,
        new=new,
        old=old,
        seconds=run.seconds,
        peak_bytes=run.peak_bytes,
        merge_gap=gap,
        merge_gap_relative=None if gap is None else gap / size,
        order_share=_share(model),
        sample=_sample(model, ids, tokens),
    )


def _costs(
    model: nn.Module, new: Corpus, old: Corpus | None, recipe: Recipe, tokens: Tokenizer
) -> tuple[float, float | None]:
    """Held-out bits per byte of the new and the old domain."""

    def cost(text: Corpus) -> float:
        return bits_per_byte(
            model, text.heldout, recipe.context, recipe.eval_windows, tokenizer=tokens
        )

    return cost(new), None if old is None else cost(old)


def _sample(model: nn.Module, ids: Tensor, tokens: Tokenizer) -> str:
    text = generate(model, ids, SAMPLE_TOKENS, temperature=0.7)
    return tokens.decode(text[0, ids.shape[1] :].cpu())


@torch.no_grad()
def _merge_gap(model: nn.Module, ids: Tensor) -> tuple[float | None, float]:
    """Largest |merged - factored| logit, None where an update is no matrix; and largest logit."""
    factored = logits(model, ids)
    size = factored.abs().max().item()
    if not all(adapter.method.mergeable for adapter in adapters(model).values()):
        return None, size
    merge(model, dequantize=True)
    merged = logits(model, ids)
    unmerge(model)
    return (merged - factored).abs().max().item(), size


def _share(model: nn.Module) -> float | None:
    """The order share, of updates that have a linear and a high-order part."""
    split = all(
        isinstance(adapter, Additive) and adapter.linear for adapter in adapters(model).values()
    )
    return order_share(model).overall if split else None


def _shape(model: nn.Module, name: str) -> tuple[int, int]:
    module = model.get_submodule(name)
    kind = kind_of(module)
    assert kind is not None
    m, n = kind.weight(module).shape
    return m, n


def _facts(
    source: str | Path,
    new: Corpus,
    old: Corpus | None,
    recipe: Recipe,
    device: str,
    quantize: str | NF4 | None,
) -> dict[str, Any]:
    return {
        "model": str(source),
        "adapted layers": str(parse(quantize) or "in full precision"),
        "new domain": new.describe(),
        "old domain": old.describe() if old else "not watched",
        "recipe": asdict(recipe),
        "seed": recipe.seed,
        "versions": {
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "numpy": np.__version__,
        },
        "hardware": (
            f"{_processes()}{device}, {torch.get_num_threads()} threads, {platform.machine()}"
        ),
    }


def _processes() -> str:
    return f"{distributed.size()} processes, the first on " if distributed.size() > 1 else ""


def _write(result: Comparison, out: Path) -> None:
    rows = [{"method": label} | row for label, run in result.runs.items() for row in run.metrics]
    write_atomically(
        out / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode()
    )
    results = {
        "before": result.before,
        "outcomes": [asdict(o) for o in result.outcomes],
        "facts": result.facts,
    }
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
