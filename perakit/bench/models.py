"""Whole training steps, token ids to AdamW, of a random GPT-2 that each contender has adapted."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from perakit.bench.contenders import Contender, draw, installed
from perakit.bench.timing import Step
from perakit.toy.gpt2 import Config

SEED = 0
# Of the 124M GPT-2
SHAPE = Config(vocab_size=50257, n_positions=1024, n_embd=768, n_layer=12, n_head=12)
PROJECTIONS = ("c_attn", "c_proj", "c_fc")  # of every block
NAMES = ("lora", "pera", "authors", "peft r", "peft K")
OPTIONS: dict[str, Any] = {
    "resid_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "attn_pdrop": 0.0,
    "use_cache": False,
    "bos_token_id": None,
    "eos_token_id": None,
}


class Model(NamedTuple):
    """A shape, and the batch (windows) of context (tokens) that one step takes."""

    config: Config
    batch: int
    context: int


# tiny: the one that ships, on a batch as `perakit finetune` takes it
MODELS = {"tiny": Model(Config(n_embd=192, n_head=6), 8, 256), "124M": Model(SHAPE, 1, 1024)}


def contenders(rank: int) -> list[Contender]:
    """Who takes part."""
    return [Contender(name, rank) for name in installed(NAMES)]


def make(model: Model, dtype: torch.dtype, device: str, seed: int) -> nn.Module:
    """transformers' GPT-2 of that shape, frozen, with random weights and no dropout."""
    from transformers import GPT2Config, GPT2LMHeadModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made: nn.Module = GPT2LMHeadModel(GPT2Config(**asdict(model.config), **OPTIONS))
    return made.requires_grad_(False).to(device, dtype).train()


def adapted(model: nn.Module, contender: Contender, seed: int) -> nn.Module:
    """A copy with the contender's adapters on its projections; it shares the frozen tensors."""
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    twin = copy.deepcopy(model, shared)
    for name, module in list(twin.named_modules()):
        parent, _, key = name.rpartition(".")
        if key in PROJECTIONS:
            n, m = module.weight.shape
            setattr(
                twin.get_submodule(parent),
                key,
                contender.build(module, draw(m, n, contender.rank, module.weight, seed)),
            )
    return twin


def steps(
    contenders: Sequence[Contender], model: Model, dtype: torch.dtype, device: str, seed: int
) -> dict[Contender, Step]:
    """A training step of each contender, on the same tokens and frozen weights."""
    base = make(model, dtype, device, seed)
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(
        model.config.vocab_size, (model.batch, model.context), generator=generator
    ).to(device)
    return {one: training_step(adapted(base, one, seed), ids) for one in contenders}


def training_step(model: nn.Module, ids: torch.Tensor) -> Step:
    """One step on the cost of the next token: forward, loss, backward, AdamW."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)

    def run() -> None:
        logits = model(ids).logits[:, :-1].flatten(0, 1)  # (batch (context - 1), vocabulary)
        F.cross_entropy(logits, ids[:, 1:].flatten()).backward()
        optimizer.step()

    # Gradients are dropped before a step, off the clock
    return Step(run, optimizer.zero_grad)


def flop(contender: Contender, model: Model, fused: bool) -> int:
    """Counted operations of one training step.

    They are 4 m n T and the adapter of each projection, 4 T d V of the output head, and 12 T c d of
    each block's attention, of context c and width d, as if nothing were masked. Beside them the
    optimiser and the norms are nothing.
    """
    config, T = model.config, model.batch * model.context
    d = config.n_embd
    inner = config.n_inner or 4 * d
    projections = ((3 * d, d), (d, d), (inner, d), (d, inner))
    layers = sum(4 * m * n * T + contender.flop(T, m, n, fused) for m, n in projections)
    return config.n_layer * (layers + 12 * T * model.context * d) + 4 * T * d * config.vocab_size
