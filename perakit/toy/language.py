"""What the laboratory asks of a language model: our GPT-2, or one of transformers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from perakit.toy.gpt2 import GPT2


@dataclass(frozen=True)
class Sizes:
    """Sizes of a language model: tokens that it knows, longest context, width, blocks."""

    vocabulary: int
    context: int
    width: int
    depth: int


def sizes(model: nn.Module) -> Sizes:
    """The sizes of a model, whose config names them as GPT-2's does, or as transformers do."""
    config: Any = model.config
    if isinstance(model, GPT2):
        return Sizes(config.vocab_size, config.n_positions, config.n_embd, config.n_layer)
    return Sizes(
        config.vocab_size,
        config.max_position_embeddings,
        config.hidden_size,
        config.num_hidden_layers,
    )


def logits(model: nn.Module, ids: Tensor) -> Tensor:
    """Logits (batch, time, vocabulary) of token ids (batch, time)."""
    output = model(ids)
    return output if isinstance(output, Tensor) else output.logits  # transformers wraps its logits


@torch.no_grad()
def generate(
    model: nn.Module, ids: Tensor, tokens: int, temperature: float, seed: int = 0
) -> Tensor:
    """Continue `ids` (batch, time) by `tokens` sampled tokens; returns them with what they follow.

    A model of transformers may end earlier, with its token for the end.
    """
    if isinstance(model, GPT2):
        return model.generate(ids, tokens, temperature, seed)
    transformer: Any = model
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return transformer.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=tokens,
            do_sample=True,
            temperature=temperature,
            use_cache=True,
        )
