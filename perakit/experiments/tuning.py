"""One fine-tuning run as an experiment sees it: settings in, numbers out."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from perakit.adapters import Additive, Method
from perakit.bench.memory import saved_bytes
from perakit.bench.timing import Step, interleave
from perakit.errors import PerakitError
from perakit.experiments.in_full import own, unfreeze
from perakit.files import read_plain, write_atomically
from perakit.models import adapters
from perakit.models.adapted import adapted_layers
from perakit.models.attach import adapt
from perakit.rows import LONGEST, sealed, unsealed
from perakit.theory import order_share
from perakit.theory.interaction import layer_interaction
from perakit.toy import corpus
from perakit.toy.corpus import Corpus
from perakit.toy.finetune import matched_lora, uniform
from perakit.toy.language import logits, sizes
from perakit.toy.pretrained import load, tokenizer
from perakit.toy.training import DivergedError, Recipe, bits_per_byte, train

VALIDATION_SHARE = 10  # the last tenth of the training text chooses the learning rate
SHARE_POINTS = 10  # how often a run looks at its order share
CURVE_POINTS = 25  # of the training loss that a result keeps
PASSAGE = 512  # bytes, about fifteen lines of code: a part of the text is drawn in such passages


@dataclass(frozen=True)
class Texts:
    """What a run learns from, chooses its learning rate by, is judged by, and may forget."""

    train: Corpus
    validation: bytes
    test: bytes
    old: bytes | None


@cache
def texts(new: str, old: str | None, limit: int) -> Texts:
    """The new domain in three parts, and the old one's held-out text.

    limit: bytes of training and validation text.
    """
    whole, names = corpus.load(new, limit), [new] if os.path.isfile(new) else new.split("+")
    parts = [corpus.load(name, -(-limit // len(names))).train for name in names]
    # Each of several joined texts is cut: all are in the validation text, as in the test text
    cuts = [len(part) - len(part) // VALIDATION_SHARE for part in parts]
    train = b"\n\n".join(part[:cut] for part, cut in zip(parts, cuts, strict=True))
    validation = b"\n\n".join(part[cut:] for part, cut in zip(parts, cuts, strict=True))
    forgotten = corpus.load(old, limit).heldout if old else None
    return Texts(
        replace(whole, train=train, heldout=validation), validation, whole.heldout, forgotten
    )


def some(text: bytes, fraction: float, seed: int) -> bytes:
    """Passages of a text, drawn from all of it, until they make up `fraction` of it."""
    if fraction == 1:
        return text
    passages = [text[at : at + PASSAGE] for at in range(0, len(text), PASSAGE)]
    # With the same seed, a larger part contains a smaller one
    order = np.random.default_rng(seed).permutation(len(passages))
    return b"\n".join(passages[k] for k in order[: math.ceil(len(passages) * fraction)])


def text_hash(settings: Mapping[str, Any]) -> str:
    """Hash of all the text of a run."""
    found = texts(settings["text"], settings["old"], settings["limit"])
    digest = hashlib.sha256(found.train.sha256.encode())
    for part in (found.test, found.old or b""):
        digest.update(b"%d:" % len(part) + part)
    return digest.hexdigest()


def methods(settings: Mapping[str, Any], model: nn.Module) -> dict[str, Method]:
    """The method of every adapted layer; none where the model itself trains (settings["train"]).

    PerakitError where the model has no such projection, or no such part.
    """
    if "train" in settings:
        own(model, settings["train"])  # or it says why not
        return {}
    targets = settings["targets"]
    trial = uniform(
        model,
        Method.from_dict(settings["method"]),
        targets if isinstance(targets, str) else list(targets),
    )
    return dict((matched_lora(model, trial) if settings["matched"] else trial).methods)


def adapted(settings: Mapping[str, Any]) -> nn.Module:
    """The model with its adapters at their random start.

    settings["train"], where it is given, names the part of the model that trains instead
    (`in_full`); no adapter is attached then, and nothing asks for the method or its targets.

    The start of a layer is drawn from the seed and the layer's name. So two methods that draw the
    same shape start from the same factors, whatever rank other layers have. settings["h_std"],
    where it is given, draws PERA's coefficients from N(0, h_std²) instead of leaving them at zero;
    ΔW starts at zero either way.
    """
    model = load(settings["model"]).to(settings["device"])
    if "train" in settings:
        unfreeze(model, settings["train"])
        return model
    adapt(model, methods(settings, model))
    for name, layer in adapted_layers(model).items():
        torch.manual_seed(
            int.from_bytes(
                hashlib.sha256(f"{settings['recipe']['seed']}/{name}".encode()).digest()[:7], "big"
            )
        )
        layer.adapter.reset(layer.W0)
        if settings.get("h_std"):
            nn.init.normal_(layer.adapter.h, std=settings["h_std"])  # type: ignore[arg-type]
    return model


def tune(settings: Mapping[str, Any], folder: Path | None = None) -> dict[str, Any]:
    """Fine-tune and measure; an unfinished run in `folder` goes on.

    Costs are in held-out bits per byte. Where settings["judge"] is False, only the validation text
    is read: such a run helps to choose a learning rate. A run that diverges is a result as well: it
    has no costs and says why under "diverged".
    """
    found = texts(settings["text"], settings["old"], settings["limit"])
    recipe = Recipe(**settings["recipe"])
    model = adapted(settings)
    tokens = tokenizer(settings["model"], model)
    part = replace(found.train, train=some(found.train.train, settings["fraction"], recipe.seed))
    judge, seen = settings["judge"], folder and folder / "shares.json"
    shares = _seen(seen) if seen else {}  # from before an interruption
    attached = adapters(model).values()
    split = bool(attached) and all(
        isinstance(adapter, Additive) and adapter.linear for adapter in attached
    )
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)

    every = max(recipe.steps // SHARE_POINTS, 1)
    looks = {*range(every, recipe.steps + 1, every), recipe.steps} if judge and split else set()

    def look(done: int) -> None:
        if done in looks:
            try:
                shares[done] = order_share(model).overall
            except PerakitError as error:  # an update that is not finite, before a loss says it
                why = f"{error}; after step {done}: lower lr={recipe.lr:g}"
                raise DivergedError(why) from error
            if seen:
                write_atomically(seen, sealed({"shares": sorted(shares.items())}))

    try:
        run = train(model, part, recipe, folder, tokens, after_step=look, progress=False)
    except DivergedError as error:
        return _diverged(str(error), trainable, settings)
    model.eval()

    def cost(text: bytes, windows: int) -> float:
        return bits_per_byte(model, text, recipe.context, windows, tokenizer=tokens)

    losses = np.array([loss for _, loss in run.losses])
    if len(losses) != recipe.steps or shares.keys() != looks:
        raise PerakitError(
            f"{str(folder)!r} has lost a part of what was seen of its run: delete it to start again"
        )
    chunks = np.array_split(np.arange(len(losses)), min(CURVE_POINTS, len(losses)))
    result: dict[str, Any] = {
        "trainable": trainable,
        "validation": run.heldout[-1][1],
        "seconds": run.seconds,
        "loss": [[int(chunk[-1]) + 1, float(losses[chunk].mean())] for chunk in chunks],
    }
    if judge:
        windows = 4 * recipe.eval_windows
        result |= {
            "new": cost(found.test, windows),
            "old": None if found.old is None else cost(found.old, windows // 2),
        }
        # A text that it was not watched on can find what the validation text has not
        for what in ("new", "old"):
            if result[what] is not None and not math.isfinite(result[what]):
                why = f"cost {result[what]:g} on the {what} text at the end: lower lr={recipe.lr:g}"
                return _diverged(why, trainable, settings)
        result |= {
            "share": None,
            "shares": [list(one) for one in sorted(shares.items())],
            "share_by_inputs": {},
            "amplification": None,
            "amplification_random": None,
        }
        if split:
            share = order_share(model)
            result |= {"share": share.overall, "share_by_inputs": _by_inputs(model, share.layers)}
        if attached:
            result["amplification"], result["amplification_random"] = amplification(model)
    if settings["interaction"]:
        result["interaction"] = interaction(model, settings, found.test)
    return result


def _diverged(why: str, trainable: int, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The result of a run that diverged; a judged one has all that others have, without numbers."""
    result: dict[str, Any] = {"diverged": why, "validation": None}
    if settings["judge"]:
        result |= {"trainable": trainable, "seconds": None, "loss": [], "new": None, "old": None}
        result |= {"share": None, "shares": [], "share_by_inputs": {}}
        result |= {"amplification": None, "amplification_random": None}
    if settings["interaction"]:
        result["interaction"] = None
    return result


def _seen(path: Path) -> dict[int, float]:
    """Step -> order share, as a run that was interrupted has left them; empty where it has none."""
    if not os.path.lexists(path):
        return {}
    place, remedy = repr(str(path)), "delete its folder to start again"
    line = read_plain(path, LONGEST, remedy).removesuffix(b"\n")
    if line.startswith(b"["):  # as version 0.1 wrote them
        line = b'{"shares": ' + line + b"}"
    values = unsealed(line, place, remedy).values
    found = values.get("shares")
    if not isinstance(found, list) or not all(map(_is_look, found)) or len(values) > 1:
        raise PerakitError(f"{place} has no order shares: {remedy}")
    return dict(found)


def _is_look(pair: Any) -> bool:
    kinds = [type(one) for one in pair] if isinstance(pair, list) else []
    return kinds in ([int, float], [int, int])


def _by_inputs(model: nn.Module, shares: Mapping[str, float]) -> dict[str, float]:
    """Inputs n -> mean share of the layers with n inputs."""
    widths = {
        name: layer.kind.shape(layer.base)[1] for name, layer in adapted_layers(model).items()
    }
    return {
        str(n): float(np.mean([shares[name] for name in widths if widths[name] == n]))
        for n in sorted(set(widths.values()))
    }


@torch.no_grad()
def amplification(model: nn.Module) -> tuple[float, float]:
    """How much an update strengthens what W0 had in its directions, mean over layers.

    It is ‖ΔW‖_F / ‖UᵀW0V‖_F. U, V: the first r singular vectors of ΔW, r the method's rank. The
    second number is the same with r random directions in their place.
    Source: arXiv 2106.09685, section 7.3.
    """
    found, generator = [], torch.Generator().manual_seed(0)
    for layer in adapted_layers(model).values():
        W0, delta, r = (
            layer.W0.cpu().double(),
            layer.exact_delta().cpu().double(),
            layer.adapter.method.rank,
        )
        U, sigma, Vt = torch.linalg.svd(delta, full_matrices=False)
        size = sigma[:r].norm()
        P, Q = (
            torch.linalg.qr(torch.randn(k, r, generator=generator, dtype=torch.float64))[0]
            for k in W0.shape
        )
        found.append(
            [
                (size / (U[:, :r].T @ W0 @ Vt[:r].T).norm()).item(),
                (size / (P.T @ W0 @ Q).norm()).item(),
            ]
        )
    learned, random = np.mean(found, axis=0)
    return float(learned), float(random)


def interaction(model: nn.Module, settings: Mapping[str, Any], text: bytes) -> list[list[float]]:
    """Eq. 12 at the input of one layer, over windows of held-out text that do not overlap."""
    asked, context = settings["interaction"], settings["recipe"]["context"]
    ids = tokenizer(settings["model"], model).encode(text)[: asked["windows"] * context].long()
    windows = ids.view(-1, context).to(settings["device"])
    matrix: list[list[float]] = layer_interaction(
        model, asked["layer"], windows, asked["features"]
    ).tolist()
    return matrix


def before(settings: Mapping[str, Any], folder: Path | None = None) -> dict[str, Any]:
    """The costs of the model without an adapter."""
    found = texts(settings["text"], settings["old"], settings["limit"])
    recipe, model = Recipe(**settings["recipe"]), load(settings["model"]).to(settings["device"])
    tokens, windows = tokenizer(settings["model"], model), 4 * recipe.eval_windows
    result: dict[str, Any] = {
        "new": bits_per_byte(model, found.test, recipe.context, windows, tokenizer=tokens)
    }
    result["old"] = (
        None
        if found.old is None
        else bits_per_byte(model, found.old, recipe.context, windows // 2, tokenizer=tokens)
    )
    if settings["interaction"]:
        result["interaction"] = interaction(model, settings, found.test)
    return result


def untaught(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a computation that reads no text."""
    return {
        key: value
        for key, value in settings.items()
        if key not in ("text", "old", "limit", "fraction", "judge", "interaction")
    }


def pace(settings: Mapping[str, Any], folder: Path | None = None) -> dict[str, Any]:
    """Time training and inference of several methods, a step of each in turn.

    Returns the seconds of every round, and bytes.

    settings["arms"]: label -> what its settings change, or None for the model without an adapter,
    which does not train. bytes: what autograd keeps for one backward pass, and trainable parameters
    with their gradients and AdamW's moments.
    """
    recipe, device, found = Recipe(**settings["recipe"]), settings["device"], {}
    models = {
        label: load(settings["model"]).to(device) if arm is None else adapted(settings | arm)
        for label, arm in settings["arms"].items()
    }
    vocabulary = sizes(next(iter(models.values()))).vocabulary
    ids = torch.randint(
        vocabulary, (recipe.batch, recipe.context), generator=torch.Generator().manual_seed(0)
    ).to(device)
    trained = {
        label: [p for p in model.parameters() if p.requires_grad]
        for label, model in models.items()
        if settings["arms"][label]
    }

    def step(label: str, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        told = logits(models[label], ids)[:, :-1]
        F.cross_entropy(told.flatten(0, 1), ids[:, 1:].flatten()).backward()
        optimizer.step()

    for label, parameters in trained.items():
        models[label].train()
        held = [*models[label].parameters(), *models[label].buffers()]
        _, saved = saved_bytes(partial(models[label], ids), held=held)
        found[label] = {
            "saved": saved,
            "trained": 4 * sum(p.numel() * p.element_size() for p in parameters),
        }
    steps = {
        label: Step(partial(step, label, torch.optim.AdamW(parameters, lr=1e-5)))
        for label, parameters in trained.items()
    }
    training = interleave(steps, settings["rounds"], device)
    for model in models.values():
        model.eval()
    with torch.no_grad():
        inference = interleave(
            {label: Step(partial(model, ids)) for label, model in models.items()},
            settings["rounds"],
            device,
        )
    return {"training": training, "inference": inference, "bytes": found}
