"""Train the tiny model that perakit ships: `python -m perakit.toy.pretrain OUT` (resumable; about an hour on 2 cores).

The text is docstring prose that is on every user's disk: the standard library's and that of perakit's own
dependencies, and in a second, shorter stage the same with the standard library's repeated, so that its plain English
is not drowned. OUT receives config.json, model.safetensors and card.json, the three files of `perakit/toy/weights`.
"""

from __future__ import annotations

import json
import platform
import sys
from dataclasses import asdict, replace
from pathlib import Path

import torch
from safetensors.torch import save as to_safetensors

from perakit.files import write_atomically
from perakit.toy import corpus
from perakit.toy.gpt2 import GPT2, Config
from perakit.toy.training import Recipe, bits_per_byte, train

TEXT = "prose+prose:numpy+prose:scipy+prose:sympy+prose:matplotlib+prose:torch"
CONFIG = Config(n_embd=192, n_layer=4, n_head=6, n_positions=256)
FIRST = Recipe(
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
STAGES = {
    "all": (TEXT, FIRST),
    "prose": ("prose+" * 5 + TEXT, replace(FIRST, steps=3500, lr=1.5e-3, warmup=100, seed=1)),
}


def main(out: Path) -> None:
    """Train with the settings above and write the model and its card to `out`."""
    torch.manual_seed(FIRST.seed)
    model = GPT2(CONFIG)
    runs = {name: train(model, corpus.load(text), recipe, out / name, label=name) for name, (text, recipe) in STAGES.items()}
    model.eval()
    text, stdlib = corpus.load(TEXT), corpus.load("prose")
    card = {
        "model": "perakit tiny, a byte-level GPT-2",
        "parameters": sum(p.numel() for p in model.parameters()),
        "license": "MIT",
        "command": "python -m perakit.toy.pretrain OUT",
        "data": text.describe(),
        "stages": {name: {"text": spec, **asdict(recipe)} for name, (spec, recipe) in STAGES.items()},
        "heldout_bits_per_byte": {
            "all held-out prose": round(bits_per_byte(model, text.heldout, CONFIG.n_positions), 4),
            "of which standard library": round(bits_per_byte(model, stdlib.heldout, CONFIG.n_positions), 4),
        },
        "training_seconds": {name: round(run.seconds) for name, run in runs.items()},
        "versions": {"python": platform.python_version(), "torch": str(torch.__version__)},
        "hardware": f"{torch.get_num_threads()} CPU threads, {platform.machine()}",
    }
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
    write_atomically(out / "model.safetensors", to_safetensors(state, {"format": "pt"}))
    write_atomically(out / "config.json", (json.dumps(CONFIG.to_dict(), indent=2) + "\n").encode())
    write_atomically(out / "card.json", (json.dumps(card, indent=2) + "\n").encode())
    print(json.dumps(card, indent=2))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
