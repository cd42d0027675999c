"""Train the tiny model that perakit ships: `python -m perakit.toy.pretrain OUT`.

It takes about an hour on 2 cores and is resumable. The text is docstring prose that is on every
user's disk: the standard library's and that of perakit's own dependencies. OUT receives
config.json, model.safetensors and card.json, the three files of `perakit/toy/weights`.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save as to_safetensors

from perakit.errors import PerakitError
from perakit.files import write_atomically
from perakit.toy import corpus
from perakit.toy.gpt2 import GPT2, Config
from perakit.toy.training import Recipe, bits_per_byte, train

TEXT = "prose+prose:numpy+prose:scipy+prose:sympy+prose:matplotlib+prose:torch"
CONFIG = Config(n_embd=192, n_layer=4, n_head=6, n_positions=256)
RECIPE = Recipe(
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


def main(out: Path) -> None:
    """Train with the settings above and write the model and its card to `out`."""
    text, stdlib = corpus.load(TEXT), corpus.load("prose")
    torch.manual_seed(RECIPE.seed)
    model = GPT2(CONFIG)
    run = train(model, text, RECIPE, out / "run", label="pretrain")
    model.eval()
    card = {
        "model": "perakit tiny, a byte-level GPT-2",
        "license": "MIT",
        "parameters": sum(p.numel() for p in model.parameters()),
        "heldout_bits_per_byte": {
            "all held-out prose": round(bits_per_byte(model, text.heldout, CONFIG.n_positions), 4),
            "of which standard library": round(
                bits_per_byte(model, stdlib.heldout, CONFIG.n_positions), 4
            ),
        },
        "command": "python -m perakit.toy.pretrain OUT",
        "data": text.describe(),
        "recipe": asdict(RECIPE),
        "versions": {"python": platform.python_version(), "torch": str(torch.__version__)},
        "hardware": f"{os.cpu_count()} CPU cores, {platform.machine()}",
        "training_seconds": round(run.seconds),
    }
    state = {
        name: tensor.contiguous()
        for name, tensor in model.state_dict().items()
        if name != "lm_head.weight"
    }
    write_atomically(out / "model.safetensors", to_safetensors(state, {"format": "pt"}))
    for name, content in (("config.json", CONFIG.to_dict()), ("card.json", card)):
        write_atomically(out / name, (json.dumps(content, indent=2) + "\n").encode())
    print(json.dumps(card, indent=2))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m perakit.toy.pretrain OUT")
    try:
        main(Path(sys.argv[1]))
    except PerakitError as error:
        sys.exit(f"perakit: {error}")
