"""Train a byte-level GPT-2: `python -m perakit.toy.pretrain [--size tiny|small] [OUT]`.

The text is docstring prose that is on the user's disk. "tiny" is the model that perakit ships: the
prose of the standard library and of perakit's own dependencies, an hour on 2 cores. "small" is
larger, of the prose of more packages, those of them that are installed: half an hour on 2 cores, or
a larger one yet on a GPU. Both are resumable, and a function of their settings, the text and the
versions: the number of steps is fixed, not the time. OUT receives config.json, model.safetensors
and card.json; `run` in it has the checkpoint, and may be deleted afterwards.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import save as to_safetensors

from perakit.errors import PerakitError
from perakit.files import write_atomically
from perakit.toy import checkpoint, corpus, small
from perakit.toy.gpt2 import GPT2, Config
from perakit.toy.training import Recipe, bits_per_byte, train

OWN = "numpy scipy sympy matplotlib torch"  # they are there wherever perakit is
# Packages with much prose: a text has those of them that are installed
MORE = (
    "networkx pandas sklearn skimage statsmodels xarray mpmath numba jax transformers"
    " huggingface_hub accelerate peft torchvision torchaudio sqlalchemy fontTools hypothesis"
    " IPython docutils sphinx setuptools"
)


@dataclass(frozen=True)
class Size:
    """A model to train.

    about: the first lines of its card; text: a spec of `corpus.load`; windows: of each held-out
    text, by which the card says what the model costs (None: all).
    """

    about: Mapping[str, str]
    text: str
    config: Config
    recipe: Recipe
    windows: int | None = None


def tiny() -> Size:
    """The model that perakit ships."""
    recipe = Recipe(
        steps=12000,
        batch=8,
        lr=3e-3,
        warmup=300,
        weight_decay=0.1,
        beta2=0.95,
        bf16=True,
        eval_every=500,
        checkpoint_every=500,
    )
    config = Config(n_embd=192, n_layer=4, n_head=6, n_positions=256)
    about = {
        "model": "perakit tiny, a byte-level GPT-2",
        "license": "MIT",
        "command": "python -m perakit.toy.pretrain OUT",
    }
    return Size(about, _prose(OWN), config, recipe)


def larger(device: str) -> Size:
    """The model "small": 25.5 million parameters where it trains on a GPU, else 6.4 million."""
    gpu = device == "cuda"
    quick = gpu or _quick_in_bf16()
    recipe = Recipe(
        steps=6000 if gpu else 5000,
        batch=64 if gpu else 8,
        lr=1e-3 if gpu else 2e-3,
        warmup=300,
        weight_decay=0.1,
        beta2=0.95,
        bf16=quick,
        eval_every=500,
        checkpoint_every=200,
    )
    width = 512 if gpu else 256
    config = Config(n_embd=width, n_layer=8, n_head=width // 64, n_positions=256)
    about = {
        "model": "perakit small, a byte-level GPT-2",
        "command": f"{small.COMMAND} --device {device}",
        "arithmetic": "bfloat16 autocast" if quick else "float32, since the CPU has no AMX",
    }
    return Size(about, _prose(f"{OWN} {MORE}"), config, recipe, windows=2048)


def _prose(packages: str) -> str:
    """The docstrings of the standard library and of those packages that are installed."""
    installed = [name for name in packages.split() if importlib.util.find_spec(name)]
    return "+".join(["prose", *(f"prose:{name}" for name in installed)])


def _quick_in_bf16() -> bool:
    """Whether this CPU multiplies tiles of bfloat16 (AMX).

    There a step of "small" took 0.57 of the time of one in float32. Without it bfloat16 is slow.
    """
    told = getattr(torch.cpu, "get_capabilities", None)  # torch 2.10 has no such function
    return bool(told and told().get("amx_bf16"))


def pretrain(size: Size, out: Path, device: str = "cpu") -> dict[str, object]:
    """Train, and write the model and its card to `out`. Returns the card.

    A run that was interrupted there goes on; one that is done is only written again. Raises
    PerakitError where `out/run` has a run of other settings or of another text.
    """
    text, stdlib = corpus.load(size.text), corpus.load("prose")
    torch.manual_seed(size.recipe.seed)
    model = GPT2(size.config).to(device)
    parameters, context = sum(p.numel() for p in model.parameters()), size.config.n_positions
    print(
        f"perakit: {parameters:,} parameters, {len(text.train):,} bytes of text,"
        f" {size.recipe.steps} steps; into {out}",
        file=sys.stderr,
    )
    run = train(model, text, size.recipe, out / "run", label="pretrain")
    model.eval()

    def cost(part: corpus.Corpus) -> float:
        return round(bits_per_byte(model, part.heldout, context, size.windows), 4)

    state = {
        name: tensor.cpu().contiguous()
        for name, tensor in model.state_dict().items()
        if name != checkpoint.HEAD
    }
    weights = to_safetensors(state, {"format": "pt"})
    card: dict[str, object] = {
        **size.about,
        "parameters": parameters,
        "heldout_bits_per_byte": {
            "all held-out prose": cost(text),
            "of which standard library": cost(stdlib),
        },
        "heldout_windows": size.windows or "all",
        "data": text.describe(),
        "recipe": asdict(size.recipe),
        "versions": {"python": platform.python_version(), "torch": str(torch.__version__)},
        "hardware": _hardware(device),
        "training_seconds": round(run.seconds),
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
    }
    write_atomically(out / checkpoint.SINGLE, weights)
    for name, content in ((checkpoint.CONFIG, size.config.to_dict()), (small.CARD, card)):
        write_atomically(out / name, (json.dumps(content, indent=2) + "\n").encode())
    return card


def _hardware(device: str) -> str:
    if device == "cuda":
        return torch.cuda.get_device_name()
    return f"{os.cpu_count()} CPU cores, {torch.get_num_threads()} threads, {platform.machine()}"


def main(arguments: Sequence[str]) -> None:
    """What the command does."""
    parser = argparse.ArgumentParser(
        prog="python -m perakit.toy.pretrain", description="Train a byte-level GPT-2."
    )
    parser.add_argument("out", type=Path, nargs="?", metavar="OUT")
    parser.add_argument("--size", choices=("tiny", small.NAME), default="tiny")
    gpu = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", choices=("cpu", "cuda"), help=f"of small (default here: {gpu})")
    asked = parser.parse_args(arguments)
    if asked.size == small.NAME:
        device = asked.device or gpu
        size, out = larger(device), asked.out or small.folder()
    else:
        device = asked.device or "cpu"  # as the shipped one was made
        size, out = tiny(), asked.out
    if out is None:
        parser.error("give OUT, the folder of the model")
    if device == "cuda" and gpu != device:
        raise PerakitError("device 'cuda' is not available here: use --device cpu")
    print(json.dumps(pretrain(size, out, device), indent=2))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except PerakitError as error:
        sys.exit(f"perakit: {error}")
    except KeyboardInterrupt:
        sys.exit("\nperakit: interrupted; the same command goes on from what it has kept")
