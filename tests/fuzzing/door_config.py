"""The door of `perakit params --model`: a config.json, of which the parameters are counted.

The judge lists every weight that a model of that configuration has, from the same JSON.
"""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from defects import ANY
from lines import contents, difference
from mutations import CONTENT, NUMBERS, Draft, Files
from runner import Door, Trial, demand

import perakit as pk
from perakit.models.catalogue import Architecture, describe, table

RANK = 2
LLAMAS = ("llama", "mistral", "qwen2")
Shapes = dict[str, tuple[int, ...]]


def opens(path: Path, targets: str | None) -> tuple[Architecture, str]:
    """What `perakit params` does with a file."""
    found = describe(path)
    return found, str(table(found, [pk.LoRA(RANK), pk.PERA(RANK + 1)], targets))


class Source(NamedTuple):
    config: dict[str, Any]

    def draft(self) -> Draft:
        return Draft(json.loads(json.dumps(self.config)))


# As transformers writes them, without what no shape depends on
GPT2 = {
    "activation_function": "gelu_new",
    "add_cross_attention": False,
    "architectures": ["GPT2LMHeadModel"],
    "layer_norm_epsilon": 1e-05,
    "model_type": "gpt2",
    "n_embd": 12,
    "n_head": 3,
    "n_inner": None,
    "n_layer": 2,
    "n_positions": 5,
    "tie_word_embeddings": True,
    "vocab_size": 7,
}
LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "head_dim": 4,
    "hidden_act": "silu",
    "hidden_size": 12,
    "intermediate_size": 17,
    "max_position_embeddings": 19,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": 3,
    "num_hidden_layers": 2,
    "num_key_value_heads": 1,
    "tie_word_embeddings": False,
    "vocab_size": 7,
}
BERT = {
    "add_cross_attention": False,
    "architectures": ["BertForMaskedLM"],
    "hidden_act": "gelu",
    "hidden_size": 12,
    "intermediate_size": 17,
    "max_position_embeddings": 19,
    "model_type": "bert",
    "num_attention_heads": 3,
    "num_hidden_layers": 2,
    "tie_word_embeddings": True,
    "type_vocab_size": 2,
    "vocab_size": 7,
}
SOURCES = {
    "gpt2": GPT2,
    "gpt2, untied": GPT2 | {"n_inner": 17, "tie_word_embeddings": False},
    "llama": LLAMA,
    "llama, biased": LLAMA | {"attention_bias": True, "mlp_bias": True},
    "mistral": LLAMA | {"model_type": "mistral", "head_dim": None},
    "qwen2": LLAMA | {"model_type": "qwen2", "tie_word_embeddings": True},
    "bert": BERT,
    "roberta": BERT | {"model_type": "roberta", "type_vocab_size": 1},
    "large": GPT2 | {"vocab_size": 50257, "n_embd": 768, "n_head": 12, "n_layer": 12},
}


def size(draw: Random, draft: Draft) -> None:
    """A size that is none, or of a model that nobody has."""
    keys = [key for key, value in draft.config.items() if type(value) is int]
    huge = [10**5, 10**6, 10**7, 10**9, 2**24, 2**24 + 1, 2**31, 2**63, 10**15, 10**4000]
    draft.config[draw.choice(keys)] = draw.choice([*NUMBERS, *huge, True, "12", None, [12]])


def family(draw: Random, draft: Draft) -> None:
    draft.config["model_type"] = draw.choice(
        ["gpt2", "llama", "mistral", "qwen2", "roberta", "bert", "GPT2", "mixtral", "t5", "", None]
    )


def flag(draw: Random, draft: Draft) -> None:
    key = draw.choice(
        [
            "tie_word_embeddings",
            "add_cross_attention",
            "attention_bias",
            "mlp_bias",
            "head_dim",
            "n_inner",
            "num_key_value_heads",
        ]
    )
    draft.config[key] = draw.choice([True, False, None, 0, 1, 5, "true", "", []])


def uncounted(opens: Callable[..., Any]) -> Callable[..., Any]:
    """Leaves the head out where it is not tied."""

    def broken(path: Path, targets: str | None) -> tuple[Architecture, str]:
        found, shown = opens(path, targets)
        config = json.loads((path / "config.json" if path.is_dir() else path).read_bytes())
        if not config.get("tie_word_embeddings", config["model_type"] not in LLAMAS):
            width = config.get("n_embd") or config["hidden_size"]
            found = replace(found, total=found.total - config["vocab_size"] * width)
        return found, shown

    return broken


KINDS = {
    **{kind: one for kind, one in CONTENT.items() if kind.startswith(("no", "json"))},
    "config: size": (14, size),
    "config: family": (5, family),
    "config: flag": (8, flag),
}
# What is described, and the layers that are counted
TARGETS = {
    "file": (2, ("config.json", None)),
    "folder": (2, ("", None)),
    "folder, all-linear": (1, ("", "all-linear")),
    "file, q and down": (1, ("config.json", "q,down")),
}


class Config(Door):
    """A config.json, by its own path or by its folder's."""

    name = "config"
    content = KINDS
    targets = TARGETS
    opens = staticmethod(opens)
    defects = ANY | {"uncounted": (uncounted, "wrongly taken", 40)}

    def sources(self, scratch: Path) -> dict[str, Any]:
        return {name: Source(config) for name, config in SOURCES.items()}

    def files(self, draft: Draft, sealed: bool) -> Files:
        text = json.dumps(draft.config).encode() if draft.text is None else draft.text
        return {"config.json": text, **draft.extra}

    def trial(self, source: Source, target: str, folder: Path, opens: Callable[..., Any]) -> Trial:
        name, wanted = self.targets[target][1]
        before = contents(folder)

        def right(found: tuple[Architecture, str]) -> None:
            judge(json.loads((folder / "config.json").read_bytes()), wanted, *found)

        return Trial(
            lambda: opens(folder / name, wanted), right, lambda: difference(folder, before)
        )


def judge(config: dict[str, Any], wanted: str | None, found: Architecture, shown: str) -> None:
    """All layers, the number of all weights, and both rows of the table."""
    blocks, rest = {"gpt2": gpt2, "bert": bert, "roberta": bert}.get(config["model_type"], llama)(
        config
    )
    linear = [
        (name.removesuffix(".weight"), *shape) for name, shape in blocks.items() if len(shape) == 2
    ]
    demand(found.layers == linear, "the layers")
    total = sum(product(shape) for shape in (*blocks.values(), *rest.values()))
    demand(found.total == total, "the number of parameters")
    q, down = found.aliases["q"], found.aliases["down"]
    chosen = {
        None: [one for one in linear if not re.search(OUTPUT[config["model_type"]], one[0])],
        "all-linear": linear,
        "q,down": [one for one in linear if re.search(rf"\.\d+\.({q}|{down})$", one[0])],
    }[wanted]
    lora = sum(RANK * (m + n) for _, m, n in chosen)
    rank = RANK + 1
    pera = sum(rank * (m + n) + rank * (rank + 1) // 2 for _, m, n in chosen)
    for line, trainable in zip(shown.splitlines()[2:4], (lora, pera), strict=True):
        numbers = [int(number.replace(",", "")) for number in line.split()[1:4]]
        demand(numbers == [len(chosen), trainable, total + trainable], f"the row {line!r}")


# What the papers' tables leave out: the output of the attention, and a gate
OUTPUT = {
    "gpt2": r"attn\.c_proj$",
    **dict.fromkeys(LLAMAS, r"(o_proj|gate_proj)$"),
    **dict.fromkeys(("bert", "roberta"), r"attention\.output\.dense$"),
}


def sized(config: dict[str, Any], *names: str) -> list[int]:
    for name in names:
        value = config[name]
        demand(type(value) is int and value > 0, f"{name}={value!r} is no size")
    return [config[name] for name in names]


def gpt2(config: dict[str, Any]) -> tuple[Shapes, Shapes]:
    """Weights of the blocks, (m, n) whatever they are stored as, and all others."""
    demand(not config.get("add_cross_attention"), "cross-attention")
    vocab, positions, d, depth = sized(config, "vocab_size", "n_positions", "n_embd", "n_layer")
    inner = 4 * d if config.get("n_inner") is None else sized(config, "n_inner")[0]
    block = {"attn.c_attn": (3 * d, d), "attn.c_proj": (d, d)}
    block |= {"mlp.c_fc": (inner, d), "mlp.c_proj": (d, inner)}
    rest = {"wte": (vocab, d), "wpe": (positions, d), "ln_f": (2, d)}
    if not config.get("tie_word_embeddings", True):
        rest["lm_head"] = (vocab, d)
    norms = {"ln_1": (2 * d,), "ln_2": (2 * d,)}
    return stacked("transformer.h", depth, block, set(block), norms), rest


def llama(config: dict[str, Any]) -> tuple[Shapes, Shapes]:
    kind = config["model_type"]
    demand(kind in LLAMAS, f"model_type {kind!r}")
    vocab, d, inner = sized(config, "vocab_size", "hidden_size", "intermediate_size")
    depth, heads = sized(config, "num_hidden_layers", "num_attention_heads")
    groups = heads
    if config.get("num_key_value_heads") is not None:
        groups = sized(config, "num_key_value_heads")[0]
    else:
        demand(kind == "llama", "num_key_value_heads, which has a default of its own, is not there")
    demand(config.get("head_dim") is not None or d % heads == 0, "heads of no whole width")
    width = d // heads if config.get("head_dim") is None else sized(config, "head_dim")[0]
    block = {
        "self_attn.q_proj": (heads * width, d),
        "self_attn.k_proj": (groups * width, d),
        "self_attn.v_proj": (groups * width, d),
        "self_attn.o_proj": (d, heads * width),
        "mlp.gate_proj": (inner, d),
        "mlp.up_proj": (inner, d),
        "mlp.down_proj": (d, inner),
    }
    own = {name for name in block if config.get("mlp_bias" if "mlp" in name else "attention_bias")}
    biased = {"llama": own, "mistral": set(), "qwen2": set(list(block)[:3])}[kind]
    rest = {"embed_tokens": (vocab, d), "norm": (d,)}
    if not config.get("tie_word_embeddings", False):
        rest["lm_head"] = (vocab, d)
    norms = {"input_layernorm": (d,), "post_attention_layernorm": (d,)}
    return stacked("model.layers", depth, block, biased, norms), rest


def bert(config: dict[str, Any]) -> tuple[Shapes, Shapes]:
    demand(not config.get("add_cross_attention"), "cross-attention")
    vocab, d, inner = sized(config, "vocab_size", "hidden_size", "intermediate_size")
    depth, positions, kinds = sized(
        config, "num_hidden_layers", "max_position_embeddings", "type_vocab_size"
    )
    block = {f"attention.self.{name}": (d, d) for name in ("query", "key", "value")}
    block |= {"attention.output.dense": (d, d)}
    block |= {"intermediate.dense": (inner, d), "output.dense": (d, inner)}
    rest = {"word": (vocab, d), "position": (positions, d), "type": (kinds, d), "norm": (2 * d,)}
    rest |= {"transform": (d, d), "transform.bias": (d,), "head norm": (2 * d,), "bias": (vocab,)}
    if not config.get("tie_word_embeddings", True):
        rest |= {"decoder": (vocab, d), "decoder.bias": (vocab,)}
    norms = {"attention.output.LayerNorm": (2 * d,), "output.LayerNorm": (2 * d,)}
    name = f"{config['model_type']}.encoder.layer"
    return stacked(name, depth, block, set(block), norms), rest


def stacked(
    blocks: str,
    depth: int,
    weights: dict[str, tuple[int, int]],
    biased: set[str],
    norms: dict[str, tuple[int, ...]],
) -> Shapes:
    found: Shapes = {}
    for i in range(depth):
        for name, shape in weights.items():
            found[f"{blocks}.{i}.{name}.weight"] = shape
            if name in biased:
                found[f"{blocks}.{i}.{name}.bias"] = shape[:1]
        found |= {f"{blocks}.{i}.{name}": shape for name, shape in norms.items()}
    return found


def product(shape: tuple[int, ...]) -> int:
    number = 1
    for side in shape:
        number *= side
    return number
