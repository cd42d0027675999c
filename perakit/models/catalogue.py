"""Layer shapes of well-known models: how much a method trains, counted without weights.

Nothing is downloaded.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perakit.adapters import Method
from perakit.errors import PerakitError, short
from perakit.files import as_folder, read_plain
from perakit.models import fused
from perakit.models.gpt2 import LARGEST
from perakit.table import Table

Layer = tuple[str, int, int]  # full name, m = d_out, n = d_in
TARGETS = ("q", "k", "v", "up", "down")  # the placement of the papers' tables
JSON_LIMIT = 2**20  # bytes; parsed, hostile JSON takes 40 times its size
DEEPEST = 10_000  # blocks; each layer of each is listed
CONVENTION = "percent = 100 trainable / total, total = model + trainable"


@dataclass(frozen=True)
class Architecture:
    """The linear layers in a model's blocks, and the model's size.

    name: what `describe` was given; layers: (full name, m, n) in the model's order, embeddings and
    output head left out; total: parameters of the model with its language-model head, tied weights
    once, as transformers counts them;
    aliases: q, k, v, o, gate, up, down -> the layer's path within a block.
    """

    name: str
    layers: list[Layer]
    total: int
    aliases: dict[str, str]


def names() -> list[str]:
    """The models that `describe` knows by name."""
    return list(CONFIGS)


def describe(source: str | Path) -> Architecture:
    """The architecture of a model known by name, or of the `config.json` at a path.

    The path is that of the file, or of its folder.
    A name of `names()` comes first: write ./gpt2 for a folder of that name. Families: gpt2, llama,
    mistral, qwen2, roberta, bert. Raises PerakitError on anything else, or a field that is missing
    or makes no sense.
    """
    path = as_folder(source)
    known = CONFIGS.get(str(source))
    config = _Config(known, f"model {str(source)!r}") if known else _read(path)
    family = config.fields.get("model_type")
    if not isinstance(family, str) or family not in FAMILIES:
        raise PerakitError(
            f"{config.source} has model_type={short(family)}: supported are {', '.join(FAMILIES)}"
        )
    return FAMILIES[family](str(source), config)


def select(architecture: Architecture, targets: str | Iterable[str] | None = None) -> list[Layer]:
    """The layers that `targets` means, each once, in the model's order.

    targets: a list, or one string with commas, of aliases ("q", "up"), exact names or dotted
    suffixes as in `attach` ("c_attn", "mlp.c_proj"); "all-linear" is all; None is TARGETS. An alias
    that means a fused layer (GPT-2's q, k, v) counts it once.
    """
    wanted = _split(targets)
    found = {layer for target in wanted for layer in _matches(architecture, target)}
    return [layer for layer in architecture.layers if layer in found]


def count(
    architecture: Architecture, method: Method, targets: str | Iterable[str] | None = None
) -> tuple[int, float]:
    """Trainable parameters of `method` on `targets`, and their percentage.

    The percentage is 100 trainable / (total + trainable).
    """
    trainable = sum(method.count(m, n) for _, m, n in select(architecture, targets))
    return trainable, 100 * trainable / (architecture.total + trainable)


def table(
    architecture: Architecture,
    methods: Sequence[Method],
    targets: str | Iterable[str] | None = None,
) -> Table:
    """One row a method: layers, trainable parameters, total with them, percent."""
    wanted = _split(targets)
    layers = f"{len(select(architecture, wanted))}"
    ranks = list(dict.fromkeys(method.rank for method in methods))
    rows = []
    for method in methods:
        trainable, percent = count(architecture, method, wanted)
        rows.append(
            [
                label(method, len(ranks) > 1),
                layers,
                f"{trainable:,}",
                f"{architecture.total + trainable:,}",
                f"{percent:.5f}",
            ]
        )
    foot = (
        f"{architecture.name}, rank {', '.join(map(str, ranks))}, targets {','.join(wanted)};"
        f" {CONVENTION}"
    )
    return Table(("method", "layers", "trainable", "total", "percent"), rows, foot)


def label(method: Method, with_rank: bool) -> str:
    """`name:option=value,...`, as the command line takes it.

    Only the options that are not at their default.
    """
    shown = [field for field in dataclasses.fields(method) if with_rank or field.name != "rank"]
    changed = [
        f"{field.name}={getattr(method, field.name)}"
        for field in shown
        if getattr(method, field.name) != field.default
    ]
    return f"{method.name}:{','.join(changed)}" if changed else method.name


def _split(targets: str | Iterable[str] | None) -> list[str]:
    targets = TARGETS if targets is None else targets
    parts = fused.split(targets) if isinstance(targets, str) else list(targets)
    wanted = [part.strip() if isinstance(part, str) else "" for part in parts]
    if not wanted or not all(wanted):
        raise PerakitError(f"targets={targets!r} must name layers: for example {','.join(TARGETS)}")
    return wanted


def _matches(architecture: Architecture, target: str) -> list[Layer]:
    path = architecture.aliases.get(target)
    if path:  # the whole path within a block: RoBERTa's output.dense is not attention.output.dense
        pattern = re.compile(rf".*\.\d+\.{re.escape(path)}")
        return [layer for layer in architecture.layers if pattern.fullmatch(layer[0])]
    if target == "all-linear":
        return architecture.layers
    found = [
        layer
        for layer in architecture.layers
        if layer[0] == target or layer[0].endswith(f".{target}")
    ]
    if not found:
        aliases, suffixes = (
            ", ".join(architecture.aliases),
            ", ".join(dict.fromkeys(architecture.aliases.values())),
        )
        raise PerakitError(
            f"{architecture.name} has no target {target!r}: give an alias ({aliases}), a suffix"
            f" ({suffixes}) or all-linear"
        )
    return found


@dataclass(frozen=True)
class _Config:
    """A parsed config.json, read field by field; source: its name in messages."""

    fields: dict[str, Any]
    source: str

    def size(self, name: str, default: int | None = None, most: int = LARGEST) -> int:
        """A positive integer up to `most`; absent or null means `default`, if there is one."""
        value = self.fields.get(name)
        if value is None and default is not None:
            return default
        if value is None:
            raise PerakitError(f"{self.source} has no {name}: add it, a positive integer")
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise PerakitError(
                f"{self.source} has {name}={short(value)}: it must be a positive integer"
            )
        if value > most:
            raise PerakitError(
                f"{self.source} has {name}={short(value)}, more than the {most:,} that a model has:"
                " copy the model's config.json again"
            )
        return value

    def depth(self, name: str) -> int:
        """The number of blocks."""
        return self.size(name, most=DEEPEST)

    def flag(self, name: str, default: bool = False) -> bool:
        """True or false; absent means `default`."""
        value = self.fields.get(name, default)
        if not isinstance(value, bool):
            raise PerakitError(f"{self.source} has {name}={short(value)}: it must be true or false")
        return value

    def no_cross_attention(self) -> None:
        if self.flag("add_cross_attention"):
            raise PerakitError(
                f"{self.source} has add_cross_attention=True: only models without cross-attention"
                " can be counted"
            )


def _read(path: Path) -> _Config:
    if not os.path.exists(path):
        near = difflib.get_close_matches(str(path).lower(), CONFIGS, n=len(CONFIGS), cutoff=0)
        raise PerakitError(
            f"unknown model {short(str(path))}: give one of {', '.join(near)}, or the path of a"
            " config.json"
        )
    file = path / "config.json" if os.path.isdir(path) else path
    text = read_plain(file, JSON_LIMIT, "give the folder of a model, or its config.json")
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise PerakitError(
            f"{str(file)!r} is not JSON ({error}): copy the model's config.json again"
        ) from error
    if not isinstance(fields, dict):
        raise PerakitError(
            f"{str(file)!r} is not a JSON object: copy the model's config.json again"
        )
    return _Config(fields, repr(str(file)))


def _layers(blocks: str, depth: int, shapes: dict[str, tuple[int, int]]) -> list[Layer]:
    return [(f"{blocks}.{i}.{path}", m, n) for i in range(depth) for path, (m, n) in shapes.items()]


def _gpt2(name: str, config: _Config) -> Architecture:
    config.no_cross_attention()
    vocab, positions, width = map(config.size, ("vocab_size", "n_positions", "n_embd"))
    depth = config.depth("n_layer")
    inner = config.size("n_inner", 4 * width)
    shapes = {
        "attn.c_attn": (3 * width, width),
        "attn.c_proj": (width, width),
        "mlp.c_fc": (inner, width),
        "mlp.c_proj": (width, inner),
    }
    # Weights and biases, two layer norms
    block = sum(m * n + m for m, n in shapes.values()) + 4 * width
    head = 0 if config.flag("tie_word_embeddings", True) else vocab * width
    total = (vocab + positions) * width + depth * block + 2 * width + head
    fused = dict.fromkeys(("q", "k", "v"), "attn.c_attn")
    aliases = fused | {"o": "attn.c_proj", "up": "mlp.c_fc", "down": "mlp.c_proj"}
    return Architecture(name, _layers("transformer.h", depth, shapes), total, aliases)


def _llama(name: str, config: _Config) -> Architecture:
    """Llama, and Mistral and Qwen2, which differ in nothing but biases."""
    family = config.fields["model_type"]
    vocab, width, inner = map(config.size, ("vocab_size", "hidden_size", "intermediate_size"))
    depth, heads = config.depth("num_hidden_layers"), config.size("num_attention_heads")
    groups = config.size("num_key_value_heads", heads if family == "llama" else None)
    if width % heads and config.fields.get("head_dim") is None:
        raise PerakitError(
            f"{config.source} has hidden_size={width}, not a multiple of"
            f" num_attention_heads={heads}: add head_dim"
        )
    head_dim = config.size("head_dim", width // heads)
    shapes = {
        "self_attn.q_proj": (heads * head_dim, width),
        "self_attn.k_proj": (groups * head_dim, width),
        "self_attn.v_proj": (groups * head_dim, width),
        "self_attn.o_proj": (width, heads * head_dim),
        "mlp.gate_proj": (inner, width),
        "mlp.up_proj": (inner, width),
        "mlp.down_proj": (width, inner),
    }
    biased = {
        "llama": [
            *("qkvo" if config.flag("attention_bias") else ""),
            *(("gate", "up", "down") if config.flag("mlp_bias") else ()),
        ],
        "mistral": [],
        "qwen2": ["q", "k", "v"],
    }[family]
    aliases = {path.split(".")[1].removesuffix("_proj"): path for path in shapes}
    # Two RMS norms
    block = (
        sum(m * n for m, n in shapes.values())
        + sum(shapes[aliases[a]][0] for a in biased)
        + 2 * width
    )
    head = 0 if config.flag("tie_word_embeddings") else vocab * width
    return Architecture(
        name,
        _layers("model.layers", depth, shapes),
        vocab * width + depth * block + width + head,
        aliases,
    )


def _roberta(name: str, config: _Config) -> Architecture:
    """RoBERTa and BERT, with their masked-language-model head."""
    config.no_cross_attention()
    vocab, width, inner = map(config.size, ("vocab_size", "hidden_size", "intermediate_size"))
    depth = config.depth("num_hidden_layers")
    positions, kinds = config.size("max_position_embeddings"), config.size("type_vocab_size")
    shapes = {
        "attention.self.query": (width, width),
        "attention.self.key": (width, width),
        "attention.self.value": (width, width),
        "attention.output.dense": (width, width),
        "intermediate.dense": (inner, width),
        "output.dense": (width, inner),
    }
    # Weights and biases, two layer norms
    block = sum(m * n + m for m, n in shapes.values()) + 4 * width
    embeddings = (vocab + positions + kinds) * width + 2 * width
    untied = 0 if config.flag("tie_word_embeddings", True) else vocab * width + vocab
    head = width * width + 3 * width + vocab + untied  # dense, layer norm, bias of the vocabulary
    aliases = dict(zip(("q", "k", "v", "o", "up", "down"), shapes, strict=True))
    layers = _layers(f"{config.fields['model_type']}.encoder.layer", depth, shapes)
    return Architecture(name, layers, embeddings + depth * block + head, aliases)


FAMILIES: dict[str, Callable[[str, _Config], Architecture]] = {
    "gpt2": _gpt2,
    "llama": _llama,
    "mistral": _llama,
    "qwen2": _llama,
    "roberta": _roberta,
    "bert": _roberta,
}


def _gpt2_config(width: int, depth: int) -> dict[str, Any]:
    return {
        "model_type": "gpt2",
        "vocab_size": 50257,
        "n_positions": 1024,
        "n_embd": width,
        "n_layer": depth,
        "n_head": width // 64,
    }


def _roberta_config(width: int, depth: int) -> dict[str, Any]:
    sizes = {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": depth,
        "num_attention_heads": width // 64,
    }
    return {
        "model_type": "roberta",
        "vocab_size": 50265,
        "max_position_embeddings": 514,
        "type_vocab_size": 1,
        **sizes,
    }


def _llama_config(
    family: str, vocab: int, width: int, inner: int, depth: int, heads: int, groups: int
) -> dict[str, Any]:
    sizes = {
        "vocab_size": vocab,
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": depth,
    }
    return {
        "model_type": family,
        **sizes,
        "num_attention_heads": heads,
        "num_key_value_heads": groups,
    }


# The fields of each model's config.json that decide its shapes.
CONFIGS: dict[str, dict[str, Any]] = {
    "gpt2": _gpt2_config(width=768, depth=12),
    "gpt2-medium": _gpt2_config(width=1024, depth=24),
    "gpt2-large": _gpt2_config(width=1280, depth=36),
    "gpt2-xl": _gpt2_config(width=1600, depth=48),
    "llama2-7b": _llama_config(
        "llama", vocab=32000, width=4096, inner=11008, depth=32, heads=32, groups=32
    ),
    "llama3-8b": _llama_config(
        "llama", vocab=128256, width=4096, inner=14336, depth=32, heads=32, groups=8
    ),
    "qwen2.5-7b": _llama_config(
        "qwen2", vocab=152064, width=3584, inner=18944, depth=28, heads=28, groups=4
    ),
    "roberta-base": _roberta_config(width=768, depth=12),
    "roberta-large": _roberta_config(width=1024, depth=24),
}
