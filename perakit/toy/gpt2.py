"""GPT-2 under the laboratory's name.

The network is `perakit.models.gpt2`: what draws models for a test (`perakit.strategies`) needs it
too, and knows no laboratory.
"""

from perakit.models.gpt2 import (
    FIXED,
    GPT2,
    MLP,
    Attention,
    Block,
    Config,
    Conv1D,
    Transformer,
)

__all__ = ["FIXED", "GPT2", "MLP", "Attention", "Block", "Config", "Conv1D", "Transformer"]
