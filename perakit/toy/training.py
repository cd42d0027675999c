"""A training loop for small experiments: seeded, measured, and resumable to the bit.

Nothing random is carried from step to step: the batch and the dropout of step t are drawn from
(seed, t). A checkpoint therefore holds only the trainable parameters and AdamW's two moments, and a
run that is killed and resumed ends with the same bits, on one CPU with one number of threads, as
one that was not.

Within a process group of torch (perakit.toy.distributed) the processes share the same batches.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from perakit.errors import PerakitError
from perakit.files import alone
from perakit.formulas import check_count
from perakit.models.adapted import adapted_layers
from perakit.toy import captured, distributed
from perakit.toy.corpus import Corpus
from perakit.toy.language import logits
from perakit.toy.log import ADAM_STATE, Log
from perakit.toy.memory import peak_bytes, reset_peak
from perakit.toy.tokens import Bytes, Tokenizer


class DivergedError(PerakitError):
    """A loss or a gradient that is not finite any more."""


@dataclass(frozen=True)
class Recipe:
    """How to train: AdamW, linear warm-up then linear decay to zero.

    steps, batch (windows a step), context (tokens a window); lr: peak learning rate; warmup: steps;
    clip: largest gradient norm; eval_every, checkpoint_every: steps; eval_windows: held-out windows
    per evaluation; bf16: autocast the forward pass; seed: of batches and dropout.

    >>> recipe = pk.toy.Recipe(steps=100, batch=8, context=64)
    >>> recipe.steps * recipe.batch * recipe.context  # tokens that are trained on
    51200
    """

    steps: int = 100
    batch: int = 8
    context: int = 256
    lr: float = 1e-2
    warmup: int = 10
    weight_decay: float = 0.0
    beta2: float = 0.999
    clip: float = 1.0
    seed: int = 0
    eval_every: int = 25
    eval_windows: int = 64
    checkpoint_every: int = 25
    bf16: bool = False

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "context", "eval_every", "eval_windows", "checkpoint_every"):
            check_count(name, getattr(self, name))
        for name in ("seed", "warmup"):
            check_count(name, getattr(self, name), least=0, most=2**63 - 1)
        for name in ("lr", "clip", "weight_decay", "beta2"):
            value = getattr(self, name)
            number = (
                isinstance(value, int | float)
                and not isinstance(value, bool)
                and 0 <= value < math.inf
            )
            if name in ("lr", "clip") and not (number and value > 0):
                raise PerakitError(f"{name}={value!r} must be a positive number")
            if not number or (name == "beta2" and value >= 1):
                raise PerakitError(
                    f"{name}={value!r} must be a number"
                    f" {'in [0, 1)' if name == 'beta2' else '>= 0'}"
                )

    def lr_at(self, step: int) -> float:
        """Learning rate of step 0 ... steps-1."""
        rise = (step + 1) / max(self.warmup, 1)
        fall = (self.steps - step) / max(self.steps - self.warmup, 1)
        return self.lr * min(rise, fall, 1.0)


@dataclass(frozen=True)
class Run:
    """What training left behind.

    metrics: one dict a step, and one for each look at the held-out text.
    """

    metrics: list[dict[str, Any]]

    @property
    def losses(self) -> list[tuple[int, float]]:
        """(step, training loss in bits per token)."""
        return [(row["step"], row["loss"]) for row in self.metrics if "loss" in row]

    @property
    def heldout(self) -> list[tuple[int, float]]:
        """(steps done, held-out bits per byte)."""
        return [
            (row["step"], row["heldout_bits_per_byte"])
            for row in self.metrics
            if "heldout_bits_per_byte" in row
        ]

    @property
    def seconds(self) -> float:
        """Time spent in training steps, over all sittings."""
        return sum(row.get("seconds", 0.0) for row in self.metrics)

    @property
    def peak_bytes(self) -> int:
        """Most memory held while training: on CUDA by torch, else by the whole process."""
        return max((row.get("peak_bytes", 0) for row in self.metrics), default=0)


def _windows(
    ids: Tensor, starts: Tensor, context: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Inputs and targets (windows, context), shifted by one token."""
    rows = ids[starts[:, None] + torch.arange(context + 1)].long().to(device)
    return rows[:, :-1], rows[:, 1:]


def _check_length(ids: Tensor, context: int, what: str) -> None:
    if len(ids) < context + 1:
        raise PerakitError(
            f"{what} has {len(ids)} tokens, a window needs {context + 1}: bring a longer text or a"
            " shorter context"
        )


@contextmanager
def _mode(model: nn.Module, training: bool) -> Iterator[None]:
    """Train or evaluate within the block; then every part is in the mode it was in."""
    before = [(module, module.training) for module in model.modules()]
    model.train(training)
    try:
        yield
    finally:
        for module, mode in before:
            module.training = mode


@torch.no_grad()
def bits_per_byte(
    model: nn.Module,
    text: bytes,
    context: int = 256,
    windows: int | None = None,
    batch: int = 16,
    tokenizer: Tokenizer | None = None,
) -> float:
    """Mean cost of a byte of `text` under `model`, in bits: the lower, the better.

    8 is knowing nothing.
    The text is cut into windows of `context` predicted tokens that do not overlap, so that early
    tokens of each see little before them; windows: use this many, evenly spread (None: all).

    >>> text = b"Return the number of rows, or None where the file has no rows."
    >>> round(pk.toy.bits_per_byte(pk.toy.load("tiny"), text, context=32), 1)
    1.2
    """
    ids = (tokenizer or Bytes()).encode(text)
    _check_length(ids, context, "held-out text")
    device = next(model.parameters()).device
    starts = torch.arange(0, len(ids) - context, context)
    if windows is not None and windows < len(starts):
        starts = starts[torch.linspace(0, len(starts) - 1, windows).long()]
    nats = 0.0
    with _mode(model, training=False):
        for part in starts.split(batch):
            x, y = _windows(ids, part, context, device)
            nats += F.cross_entropy(
                logits(model, x).float().flatten(0, 1), y.flatten(), reduction="sum"
            ).item()
    return nats / (len(starts) * context) / math.log(2) * len(ids) / len(text)


def train(
    model: nn.Module,
    corpus: Corpus,
    recipe: Recipe,
    out: str | Path | None = None,
    tokenizer: Tokenizer | None = None,
    label: str = "train",
    after_step: Callable[[int], None] | None = None,
    progress: bool = True,
) -> Run:
    """Train what requires grad in `model`, in place, on `corpus.train`.

    out: folder for `metrics.jsonl` and `checkpoint.safetensors`; where it holds an unfinished run
    of exactly this model, text and recipe, that run goes on from its last checkpoint. None: nothing
    is written.
    label: text before the progress bar (stderr), progress: False shows none; after_step: called
    with the number of steps done before these are in a checkpoint, so that a run that goes on tells
    of each step, of some again. Within a process group every process takes its share of the same
    batches, gradients are averaged by torch's DistributedDataParallel, and process 0 alone writes
    and evaluates: the result is that of one process, to rounding, and a run may go on with another
    number of processes. Dropout is the exception: each process draws masks of its own.
    Returns the metrics; raises PerakitError on short text, a checkpoint that is foreign or damaged,
    a folder where another run is at work, or a loss that is not finite, and, before anything is
    written, on a batch that does not divide or processes that disagree.

    >>> model = pk.toy.GPT2(pk.toy.Config(n_positions=8, n_embd=8, n_layer=1, n_head=1))
    >>> text = pk.toy.corpus.load("synthetic", 4000)
    >>> recipe = pk.toy.Recipe(steps=2, batch=2, context=8, eval_every=2, eval_windows=2)
    >>> run = pk.toy.train(model, text, recipe, progress=False)
    >>> len(run.losses)
    2
    """
    tokenizer = tokenizer or Bytes()
    ids, trainable, log = distributed.together(
        lambda: _prepare(model, corpus, recipe, Path(out) if out else None, tokenizer)
    )
    distributed.agree("the model, its adapters, the text or the recipe", log.fingerprint)
    with only_run(Path(out) if out else None):
        return _train(
            model, corpus, recipe, tokenizer, ids, trainable, log, label, after_step, progress
        )


@contextmanager
def only_run(out: Path | None) -> Iterator[None]:
    """Within the block no other run writes into `out` (None: into no folder).

    Of a process group process 0 holds it. Raises PerakitError where another run has it.
    """
    with ExitStack() as held:
        if out:
            distributed.on_main(lambda: held.enter_context(alone(out)))
        yield


def _train(
    model: nn.Module,
    corpus: Corpus,
    recipe: Recipe,
    tokenizer: Tokenizer,
    ids: Tensor,
    trainable: dict[str, nn.Parameter],
    log: Log,
    label: str,
    after_step: Callable[[int], None] | None,
    progress: bool,
) -> Run:
    """The steps that `log` does not have yet."""
    device = next(iter(trainable.values())).device
    optimizer = torch.optim.AdamW(
        trainable.values(),
        lr=recipe.lr,
        betas=(0.9, recipe.beta2),
        weight_decay=recipe.weight_decay,
    )
    start, tensors = distributed.from_main(lambda: log.resume(recipe.steps, trainable))
    _restore(trainable, optimizer, tensors)
    del tensors

    def evaluate(done: int) -> None:
        bits = bits_per_byte(
            model, corpus.heldout, recipe.context, recipe.eval_windows, tokenizer=tokenizer
        )
        if done and not math.isfinite(bits):  # before the first step its loss says it
            raise DivergedError(f"held-out cost {bits:g} after step {done}: lower lr={recipe.lr:g}")
        log.write({"step": done, "heldout_bits_per_byte": bits, "peak_bytes": peak_bytes(device)})

    def note(done: int, row: dict[str, Any]) -> None:
        log.write(row)
        if done % recipe.eval_every == 0 or done == recipe.steps:
            evaluate(done)

    pace = 0.2 if sys.stderr.isatty() else 15  # seconds between updates; a log file wants few
    quiet = not progress or distributed.rank() != 0
    bar = tqdm(
        total=recipe.steps,
        initial=start,
        desc=label,
        unit="step",
        leave=False,
        mininterval=pace,
        disable=quiet,
    )
    reset_peak(device)
    parallel = distributed.parallel(model)

    def passes(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        """The loss, and the norm of the gradients that it writes."""
        # No cache: a recording must not use casts that were made before it
        with torch.autocast(device.type, torch.bfloat16, enabled=recipe.bf16, cache_enabled=False):
            loss = F.cross_entropy(logits(parallel, x).float().flatten(0, 1), y.flatten())
        loss.backward()
        return loss.detach(), nn.utils.clip_grad_norm_(trainable.values(), recipe.clip)

    # Who looks on may change the model, and processes that wait for each other are not recorded
    steps = recipe.steps - start if after_step is None and distributed.size() == 1 else 0
    both_passes = captured.Captured(passes, optimizer.zero_grad, model, device, steps)
    with torch.random.fork_rng(), bar, _mode(model, training=True):
        if start == 0:
            distributed.on_main(partial(evaluate, 0))
        for step in range(start, recipe.steps):
            began = time.perf_counter()
            x, y = _batch(ids, recipe, step, device)
            for group in optimizer.param_groups:
                group["lr"] = recipe.lr_at(step)
            loss, norm = both_passes(x, y)
            cost = distributed.mean(loss).item()
            if not math.isfinite(cost) or not math.isfinite(norm.item()):
                raise DivergedError(
                    f"loss {cost:g}, gradient norm {norm.item():g} at step {step}: lower"
                    f" lr={recipe.lr:g}"
                )
            optimizer.step()
            done = step + 1
            row = {
                "step": done,
                "loss": cost / math.log(2),
                "lr": recipe.lr_at(step),
                "grad_norm": norm.item(),
            }
            distributed.on_main(
                partial(note, done, row | {"seconds": round(time.perf_counter() - began, 4)})
            )
            bar.set_postfix_str(f"loss {row['loss']:.3f} bits", refresh=False)
            bar.update()
            if after_step:
                after_step(done)
            if done % recipe.checkpoint_every == 0 or done == recipe.steps:
                distributed.on_main(partial(log.checkpoint, done, trainable, optimizer))
    return Run(distributed.from_main(lambda: log.rows))


def _prepare(
    model: nn.Module, corpus: Corpus, recipe: Recipe, out: Path | None, tokenizer: Tokenizer
) -> tuple[Tensor, dict[str, nn.Parameter], Log]:
    """The training tokens, the parameters to train and the log.

    Everything that can be refused before the first step is.
    """
    ids = tokenizer.encode(corpus.train)
    _check_length(ids, recipe.context, "training text")
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if any(layer.merged is not None for layer in adapted_layers(model).values()):
        raise PerakitError(
            "the model is merged, its factors are not in the forward pass: pk.unmerge(model) first"
        )
    if not trainable:
        raise PerakitError(
            "no parameter requires grad: attach an adapter first, or unfreeze the model"
        )
    processes = distributed.size()
    if recipe.batch % processes:
        raise PerakitError(
            f"batch={recipe.batch} does not divide among {processes} processes: choose a multiple"
            f" of {processes}"
        )
    return (
        ids,
        trainable,
        Log(out, _fingerprint(model, corpus, recipe, ids) if out or processes > 1 else ""),
    )


def _batch(ids: Tensor, recipe: Recipe, step: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """This process's share of one step's batch, as inputs and targets (windows, context).

    The dropout's seed is set.
    """
    torch.manual_seed(_step_seed(recipe.seed, step))
    starts = torch.randint(len(ids) - recipe.context, (recipe.batch,))
    if distributed.size() > 1:
        starts = starts.chunk(distributed.size())[distributed.rank()]
        torch.manual_seed(_step_seed(f"{recipe.seed}/process {distributed.rank()}", step))
    return _windows(ids, starts, recipe.context, device)


def _restore(
    trainable: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]
) -> None:
    """Put a checkpoint's tensors back, if there are any."""
    with torch.no_grad():
        for name, p in trainable.items() if tensors else ():
            p.copy_(tensors[f"parameter/{name}"])
            optimizer.state[p] = {
                key: tensors[f"{key}/{name}"].to(p.device if key != "step" else "cpu")
                for key in ADAM_STATE
                if f"{key}/{name}" in tensors
            }


def _step_seed(seed: int | str, step: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{step}".encode()).digest()[:7], "big")


def _fingerprint(model: nn.Module, corpus: Corpus, recipe: Recipe, ids: Tensor) -> str:
    """Hash of all that decides a run.

    That is the model and its state before step 0, text and tokens, the recipe but its reports.
    """
    silent = replace(recipe, eval_every=1, eval_windows=1, checkpoint_every=1)
    digest = hashlib.sha256(json.dumps([asdict(silent), corpus.sha256], sort_keys=True).encode())
    # alpha, dropout, heads: in no tensor
    digest.update(f"{model!r} {getattr(model, 'config', None)!r}".encode())
    digest.update(ids.contiguous().view(torch.uint8).numpy().tobytes())
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    for name, parameter in model.named_parameters():
        digest.update(f"{name} {parameter.requires_grad}".encode())
    return digest.hexdigest()
