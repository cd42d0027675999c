"""GPT-2 in one page, with the state dict of Hugging Face's `GPT2LMHeadModel`.

Source: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners".
A laboratory animal: no dropout, no key/value cache, nothing but the forward pass.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perakit.errors import PerakitError, short
from perakit.formulas import check_count

# Settings of a GPT-2 config.json that change the function computed, with the one value implemented
# here. What is neither here nor in `Config` does nothing to the logits of a model in eval mode:
# dropouts, token ids, the start of the weights, other heads, generation. reorder_and_upcast_attn
# only moves a rounding of half precision.
FIXED = {
    "model_type": "gpt2",
    "activation_function": "gelu_new",
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
}

# Other names that transformers has for the same function. The last one's constant has ten digits,
# which is the same float32.
GELU_NEW = ("gelu_new", "gelu_pytorch_tanh", "gelu_python_tanh", "gelu_accurate", "gelu_fast")

# Settings of a model of another shape, of other numbers or of its own code: none, or refused
ABSENT = ("pruned_heads", "quantization_config", "auto_map")

# The names that all of transformers' models share, which it reads in a GPT-2's file too
ALIASES = {
    "max_position_embeddings": "n_positions",
    "hidden_size": "n_embd",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
}

SIZES = ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head")
LARGEST = 2**24  # beyond this a size is a mistake, or a file that lies


@dataclass(frozen=True)
class Config:
    """Shape of a GPT-2, in the words of its `config.json`.

    vocab_size: tokens (256: raw bytes); n_positions: longest context, in tokens; n_embd: width;
    n_layer, n_head: blocks, and attention heads in each; n_inner: width of the MLP, None = 4
    n_embd; tie_word_embeddings: the output head is the token embedding, False = has a weight of its
    own. Raises PerakitError on a size or a setting that no GPT-2 has.

    >>> config = pk.toy.Config(n_embd=8, n_layer=1, n_head=2)
    >>> sum(p.numel() for p in pk.toy.GPT2(config).parameters())
    4984
    """

    vocab_size: int = 256
    n_positions: int = 256
    n_embd: int = 128
    n_layer: int = 4
    n_head: int = 4
    n_inner: int | None = None
    layer_norm_epsilon: float = 1e-5
    tie_word_embeddings: bool = True

    def __post_init__(self) -> None:
        for name in (*SIZES, "n_inner"):
            if name != "n_inner" or self.n_inner is not None:
                check_count(f"GPT-2 {name}", getattr(self, name), most=LARGEST)
        epsilon = self.layer_norm_epsilon
        if (
            isinstance(epsilon, bool)
            or not isinstance(epsilon, int | float)
            or not 0 < epsilon <= torch.finfo(torch.float32).max
        ):
            raise PerakitError(
                f"GPT-2 layer_norm_epsilon={short(epsilon)} must be a positive number: correct"
                " config.json"
            )
        if self.n_embd % self.n_head:
            raise PerakitError(
                f"GPT-2 n_embd={self.n_embd} must be a multiple of n_head={self.n_head}: correct"
                " config.json"
            )
        if not isinstance(self.tie_word_embeddings, bool):
            raise PerakitError(
                f"GPT-2 tie_word_embeddings={short(self.tie_word_embeddings)} must be true or"
                " false: correct config.json"
            )

    def __repr__(self) -> str:
        # A shared head goes unsaid: the fingerprints of earlier runs hash this text
        shown = {
            name: value
            for name, value in asdict(self).items()
            if name != "tie_word_embeddings" or not value
        }
        return f"Config({', '.join(f'{name}={value!r}' for name, value in shown.items())})"

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> Config:
        """Read a parsed `config.json`; refuse a setting that would change the function."""
        for name, value in FIXED.items():
            same = GELU_NEW if name == "activation_function" else (value,)
            if config.get(name, value) not in same:
                raise PerakitError(
                    f"config.json has {name}={short(config[name])}; this GPT-2 implements only"
                    f" {value!r}: load the model with transformers instead"
                )
        for name in ABSENT:
            if config.get(name):
                raise PerakitError(
                    f"config.json has {name}={short(config[name])}; this GPT-2 implements none:"
                    " load the model with transformers instead, and save it without"
                )
        sizes = {name: _size(config, name) for name in SIZES}
        others = {f.name: config[f.name] for f in fields(cls) if f.name in config}
        return cls(**(others | sizes))

    def to_dict(self) -> dict[str, Any]:
        """The `config.json` of this model: what `from_dict` and transformers read."""
        return {**FIXED, "architectures": ["GPT2LMHeadModel"], **asdict(self)}


def _size(config: Mapping[str, Any], name: str) -> Any:
    """A size, under either of its names."""
    names = [name, *(alias for alias in ALIASES if ALIASES[alias] == name)]
    given = [key for key in names if key in config]
    if not given:
        raise PerakitError(f"config.json has no {name}: add it, an integer >= 1")
    first, *others = given
    for other in others:
        if config[other] != config[first]:
            raise PerakitError(
                f"config.json has {first}={short(config[first])} and"
                f" {other}={short(config[other])}, which are one setting: correct it"
            )
    return config[first]


class Conv1D(nn.Module):
    """GPT-2's linear layer, y = x W + b, whose weight is stored (n_in, n_out)."""

    def __init__(self, nf: int, nx: int) -> None:
        super().__init__()
        self.nf, self.nx = nf, nx
        self.weight = nn.Parameter(torch.empty(nx, nf))
        self.bias = nn.Parameter(torch.zeros(nf))
        nn.init.normal_(self.weight, std=0.02)

    def extra_repr(self) -> str:
        return f"nf={self.nf}, nx={self.nx}"

    def forward(self, x: Tensor) -> Tensor:
        y = torch.addmm(self.bias, x.reshape(-1, self.nx), self.weight)  # (T, n) @ (n, m) -> (T, m)
        return y.view(*x.shape[:-1], self.nf)


class Attention(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.n_head = config.n_head
        self.c_attn = Conv1D(3 * config.n_embd, config.n_embd)
        self.c_proj = Conv1D(config.n_embd, config.n_embd)

    def forward(self, x: Tensor) -> Tensor:
        batch, time, width = x.shape
        heads = (batch, time, self.n_head, width // self.n_head)
        # (b, h, t, d)
        q, k, v = (part.view(heads).transpose(1, 2) for part in self.c_attn(x).split(width, dim=2))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)  # (b, h, t, d)
        return self.c_proj(y.transpose(1, 2).reshape(batch, time, width))


class MLP(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        inner = config.n_inner or 4 * config.n_embd
        self.c_fc = Conv1D(inner, config.n_embd)
        self.c_proj = Conv1D(config.n_embd, inner)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(F.gelu(self.c_fc(x), approximate="tanh"))  # "gelu_new"


class Block(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd, config.layer_norm_epsilon)
        self.attn = Attention(config)
        self.ln_2 = nn.LayerNorm(config.n_embd, config.layer_norm_epsilon)
        self.mlp = MLP(config)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.n_positions, config.n_embd)
        self.h = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd, config.layer_norm_epsilon)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.wte(ids) + self.wpe(torch.arange(ids.shape[1], device=ids.device))  # (b, t, width)
        for block in self.h:
            x = block(x)
        return self.ln_f(x)


class GPT2(nn.Module):
    """A causal language model: token ids (batch, time) -> logits (batch, time, vocab_size).

    The output head shares the embedding's weight, unless the config says otherwise. `Config()` is a
    small byte-level model with random weights; `perakit.toy.load` gives trained ones.

    >>> model = pk.toy.GPT2(pk.toy.Config(n_embd=8, n_layer=1, n_head=2))
    >>> model(torch.tensor([[80, 69, 82, 65]])).shape
    torch.Size([1, 4, 256])
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.transformer = Transformer(config)
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        for name, parameter in self.named_parameters():
            if name.endswith(("wte.weight", "wpe.weight")):
                nn.init.normal_(parameter, std=0.02)
            elif name.endswith("c_proj.weight"):  # residual layers, Radford et al. 2019 section 2.3
                nn.init.normal_(parameter, std=0.02 / (2 * config.n_layer) ** 0.5)
        self.tie_weights()
        if not config.tie_word_embeddings:
            nn.init.normal_(self.lm_head.weight, std=0.02)

    def tie_weights(self) -> None:
        """Make the output head read the token embedding's weight, if the config ties them."""
        if self.config.tie_word_embeddings:
            self.lm_head.weight = self.transformer.wte.weight

    def forward(self, ids: Tensor) -> Tensor:
        time = ids.shape[1]
        if time > self.config.n_positions:
            raise PerakitError(
                f"{time} tokens exceed this model's context of {self.config.n_positions}: pass"
                " fewer tokens"
            )
        # (b, t, width) @ (width, vocab) -> (b, t, vocab)
        return self.lm_head(self.transformer(ids))

    @torch.no_grad()
    def generate(self, ids: Tensor, tokens: int, temperature: float = 0.8, seed: int = 0) -> Tensor:
        """Continue `ids` (batch, time) by `tokens` sampled tokens; returns (batch, time + tokens).

        temperature: below 1 favours likely tokens, 0 always takes the likeliest; seed: fixes the
        draw.
        """
        if not 0 <= temperature < math.inf:
            raise PerakitError(
                f"temperature={temperature!r} must be a number >= 0; 0 takes the likeliest token"
            )
        if ids.shape[1] == 0:
            raise PerakitError("the prompt has no token: give at least one")
        generator = torch.Generator().manual_seed(seed)
        for _ in range(tokens):
            logits = self(ids[:, -self.config.n_positions :])[:, -1].float().cpu()  # (b, vocab)
            if temperature == 0:
                new = logits.argmax(-1, keepdim=True)
            else:
                new = torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator)
            ids = torch.cat([ids, new.to(ids.device)], dim=1)
        return ids
