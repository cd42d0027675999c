"""The door of `toy.load`: checkpoint folders of GPT-2s, as other tools write them.

The judge computes the logits from the same two files, with a GPT-2 in NumPy and float64.
"""

import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import numpy as np
import torch
from defects import ANY
from door_adapter import compare, with_tail
from lines import contents, difference
from mutations import CONTENT, NUMBERS, SIZES, Draft, Files, pack, unpack
from runner import Door, Trial, demand
from targets import bits
from torch import nn

import perakit as pk

FIXTURES = Path(__file__).parent.parent / "fixtures" / "gpt2"
FOLDERS = sorted(path.name for path in FIXTURES.iterdir() if path.is_dir())


class Source(NamedTuple):
    config: str
    data: bytes

    def draft(self) -> Draft:
        return Draft(json.loads(self.config), unpack(self.data))


# --- what is spoiled here alone -------------------------------------------------------------------


def size(draw: Random, draft: Draft) -> None:
    """One size of config.json is another, near, huge or none."""
    key = draw.choice(["vocab_size", "n_positions", "n_embd", "n_layer", "n_head", "n_inner"])
    old = draft.config.get(key) or 8
    huge = [10**5, 10**7, 2**24, 2**24 + 1, 2**31, 2**63, 10**30, 10**4000]
    draft.config[key] = draw.choice(
        [1, 2, 3, 4, 5, 6, 8, old + 1, old - 1, old * 2, *huge, *NUMBERS, True, str(old), None]
    )


def function(draw: Random, draft: Draft) -> None:
    """A setting that makes it another function, or none."""
    values = {
        "activation_function": [
            *("gelu", "gelu_pytorch_tanh", "gelu_new", "gelu_fast", "relu", "silu", "tanh"),
            *("GELU_NEW", "", None, ["gelu_new"], 0),
        ],
        "layer_norm_epsilon": [1e-5, 1e-3, 1e-12, 0.0, -1e-5, 1.0, 1e-320, 1e308, 10**400, "1e-5"],
        "scale_attn_weights": [True, False, None, 1, 0, "false"],
        "scale_attn_by_inverse_layer_idx": [True, False, None, 1],
        "reorder_and_upcast_attn": [True, False],
        "add_cross_attention": [True, False, None],
        "tie_word_embeddings": [True, False, None, 0, "no"],
        "model_type": ["gpt2", "GPT2", "gpt_neo", "gpt2-xl", None, "", ["gpt2"]],
        "architectures": [["GPT2ForSequenceClassification"], ["GPT2Model"], None, "GPT2", []],
        "quantization_config": [{"quant_method": "bitsandbytes", "load_in_8bit": True}, None, {}],
        "n_ctx": [3, 5, 1024, None],
    }
    key = draw.choice(list(values))
    draft.config[key] = draw.choice(values[key])


def layers(draw: Random, draft: Draft) -> None:
    """A block gone, twice, or under another number, in the tensors or in both files."""
    count = draft.config["n_layer"]
    last = {name: one for name, one in draft.tensors.items() if f"h.{count - 1}." in name}
    change = draw.choice(["gone", "twice", "renamed"])
    if change != "twice":
        draft.tensors = {name: one for name, one in draft.tensors.items() if name not in last}
    if change != "gone":
        at = draw.choice([count, count + 1, -1, 0, "00", "1_0", "x"])
        draft.tensors |= {
            name.replace(f"h.{count - 1}.", f"h.{at}."): one for name, one in last.items()
        }
    if draw.random() < 0.6:
        draft.config["n_layer"] = count + {"gone": -1, "twice": 1, "renamed": 0}[change]


def head(draw: Random, draft: Draft) -> None:
    """A head that is the embedding, another one, of another size or type, or none."""
    name = next(name for name in draft.tensors if name.endswith("wte.weight"))
    dtype, (vocab, width), data = draft.tensors[name]
    heads = {
        "the same": (dtype, (vocab, width), data),
        "another": (dtype, (vocab, width), data[::-1]),
        "nearly": (dtype, (vocab, width), bytes([data[0] ^ 1]) + data[1:]),
        "turned": (dtype, (width, vocab), data),
        "longer": (dtype, (vocab + 1, width), data + data[: len(data) // vocab]),
        "bytes": ("I8", (vocab, width), data[: vocab * width]),
        "double": ("F64", (vocab, width), (data * 4)[: 8 * vocab * width]),
    }
    chosen = draw.choice([*heads, "instead"])
    draft.tensors.pop("lm_head.weight", None)
    if chosen == "instead":
        draft.tensors["lm_head.weight"] = draft.tensors.pop(name)
    else:
        draft.tensors["lm_head.weight"] = heads[chosen]
    if draw.random() < 0.5:
        draft.config["tie_word_embeddings"] = draw.random() < 0.5


def prefix(draw: Random, draft: Draft) -> None:
    """Names as another class or tool has them, all or one of them."""
    odd = ["", "transformer.", "model.", "module.", "transformer.transformer.", "_orig_mod."]
    new = draw.choice(odd)
    some = list(draft.tensors) if draw.random() < 0.7 else [draw.choice(list(draft.tensors))]
    renamed = {name: new + name.removeprefix("transformer.") for name in some}
    draft.tensors = {renamed.get(name, name): one for name, one in draft.tensors.items()}


def mask(draw: Random, draft: Draft) -> None:
    """A causal mask among the weights: right, of no layer, or no causal mask."""
    at = draw.choice([0, 0, 0, 1, 9])
    # Another change may have made it huge, or no number
    side = positions if type(positions := draft.config.get("n_positions")) is int else 8
    side = min(max(side, 1), 64)
    causal = np.tril(np.ones((side, side), "<f4"))
    shown = draw.choice([causal, causal, causal.T.copy(), np.ones_like(causal), causal * 0])
    name = draw.choice(["attn.bias", "attn.bias", "attn.masked_bias", "crossattention.bias"])
    at_top = "transformer." if any(one.startswith("transformer.") for one in draft.tensors) else ""
    draft.tensors[f"{at_top}h.{at}.{name}"] = ("F32", (1, 1, side, side), shown.tobytes())


def whole_bytes(draw: Random, draft: Draft) -> None:
    """Weights of eight bits or of whole numbers."""
    dtype = draw.choice(["I8", "U8", "I64", "BOOL", "F8_E4M3", "I32"])
    for name, (_, shape, data) in list(draft.tensors.items()):
        if draw.random() < 0.5:
            size = SIZES[dtype] * math.prod(shape)
            draft.tensors[name] = (dtype, shape, (data * 9)[:size])


def not_a_number(draw: Random, draft: Draft) -> None:
    name = draw.choice(list(draft.tensors))
    dtype, shape, data = draft.tensors[name]
    odd = {"F32": ["0000c07f", "0000807f", "000080ff"], "BF16": ["c07f", "807f"]}[dtype]
    one = bytes.fromhex(draw.choice(odd))
    at = len(one) * draw.randrange(len(data) // len(one))
    draft.tensors[name] = (dtype, shape, data[:at] + one + data[at + len(one) :])


def split(draw: Random, draft: Draft) -> None:
    """Half of the tensors in a second file, as large models are saved."""
    names = list(draft.tensors)
    second = {name: draft.tensors.pop(name) for name in names[len(names) // 2 :]}
    draft.extra["model-00002-of-00002.safetensors"] = pack(second, draft.metadata)
    index = {"weight_map": dict.fromkeys(second, "model-00002-of-00002.safetensors")}
    draft.extra["model.safetensors.index.json"] = json.dumps(index).encode()


OTHERS = ("both", "path: name in json", "json: patterns")  # of adapters


KINDS = {
    **{kind: one for kind, one in CONTENT.items() if not kind.startswith(OTHERS)},
    "config: size": (14, size),
    "config: function": (12, function),
    "both: layers": (5, layers),
    "both: head": (9, head),
    "tensors: prefix": (5, prefix),
    "tensors: mask": (4, mask),
    "tensors: whole numbers": (4, whole_bytes),
    "tensors: no number": (5, not_a_number),
    "files: two": (2, split),
}


class GPT2(Door):
    """config.json and model.safetensors."""

    name = "gpt2"
    content = KINDS
    opens = staticmethod(pk.toy.load)

    def sources(self, scratch: Path) -> dict[str, Any]:
        return {
            name: Source(
                (FIXTURES / name / "config.json").read_text(),
                (FIXTURES / name / "model.safetensors").read_bytes(),
            )
            for name in FOLDERS
        }

    def files(self, draft: Draft, sealed: bool) -> Files:
        data = pack(draft.tensors, draft.metadata) if draft.data is None else draft.data
        text = json.dumps(draft.config).encode() if draft.text is None else draft.text
        files = {"config.json": text, "model.safetensors": with_tail(data, draft.tail)}
        return files | draft.extra

    def trial(self, source: Source, target: str, folder: Path, opens: Callable[..., Any]) -> Trial:
        before, random = contents(folder), bits(torch.get_rng_state())

        def changed() -> str:
            other = "the generator" * (random != bits(torch.get_rng_state()))
            return difference(folder, before) or other

        def right(model: nn.Module) -> None:
            demand(not changed(), changed())
            judge(folder, model)

        return Trial(partial(opens, folder), right, changed)


# --- the judge ------------------------------------------------------------------------------------


def judge(folder: Path, model: nn.Module) -> None:
    """Every tensor is in the model, or is a mask that says what the model does; and its logits."""
    config = json.loads((folder / "config.json").read_bytes())
    stored = {
        name.removeprefix("transformer."): entry
        for name, entry in unpack((folder / "model.safetensors").read_bytes()).items()
    }
    demand(config.get("model_type", "gpt2") == "gpt2", "another model")
    demand(not config.get("add_cross_attention"), "cross-attention")
    depth, positions = config["n_layer"], config["n_positions"]
    for i in range(depth):
        stored.pop(f"h.{i}.attn.masked_bias", None)
        if f"h.{i}.attn.bias" in stored:
            seen = values(stored.pop(f"h.{i}.attn.bias")) != 0
            demand(seen.size >= positions**2, "a mask of fewer positions")
            demand(np.array_equal(seen, np.tril(np.ones_like(seen))), "a mask that is not causal")
    state = {name.removeprefix("transformer."): p for name, p in model.state_dict().items()}
    tied = config.get("tie_word_embeddings", True)
    if "wte.weight" not in stored:
        demand(bool(tied), "an embedding that is not there")
        stored["wte.weight"] = stored["lm_head.weight"]
    if "lm_head.weight" not in stored:
        demand(bool(tied), "a head that is not there")
        stored["lm_head.weight"] = stored["wte.weight"]
    compare(state, stored)
    weights = {name: values(entry).astype("<f4").astype("<f8") for name, entry in stored.items()}
    odd = [name for name, weight in weights.items() if not np.isfinite(weight).all()]
    demand(not odd, f"not finite: {odd}")
    if max(np.abs(weight).max(initial=0) for weight in weights.values()) > 1e3:
        return  # float32 has another end than float64
    ids = np.arange(min(positions, 4)) % config["vocab_size"]
    wanted = logits(config, weights, ids)
    with torch.no_grad():
        found = model(torch.from_numpy(ids)[None])[0].numpy()
    scale = np.abs(wanted).max() + 1e-30
    demand(np.abs(found - wanted).max() <= 2e-4 * scale, f"logits {found[0]}, not {wanted[0]}")


def values(entry: tuple[str, tuple[int, ...], bytes]) -> np.ndarray:
    dtype, shape, data = entry
    kinds = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "BOOL": "?", "U8": "u1"}
    numbers = np.frombuffer(data, kinds[dtype]).reshape(shape)
    return (numbers.astype("<u4") << 16).view("<f4") if dtype == "BF16" else numbers


def tanh_gelu(x: np.ndarray) -> np.ndarray:
    return x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


ACTIVATIONS = {
    "gelu_new": tanh_gelu,
    "gelu_pytorch_tanh": tanh_gelu,
    "gelu_fast": tanh_gelu,
    "gelu": lambda x: x / 2 * (1 + np.vectorize(math.erf)(x / math.sqrt(2))),
    "relu": lambda x: np.maximum(x, 0),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "tanh": np.tanh,
}


def logits(config: dict[str, Any], w: dict[str, np.ndarray], ids: np.ndarray) -> np.ndarray:
    """GPT-2 as its paper has it: (time,) -> (time, vocabulary)."""
    activation = ACTIVATIONS[config.get("activation_function", "gelu_new")]
    epsilon, heads = config.get("layer_norm_epsilon", 1e-5), config["n_head"]

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        centred = x - x.mean(-1, keepdims=True)
        spread = np.sqrt((centred**2).mean(-1, keepdims=True) + epsilon)
        return centred / spread * w[f"{name}.weight"] + w[f"{name}.bias"]

    def linear(x: np.ndarray, name: str) -> np.ndarray:
        return x @ w[f"{name}.weight"] + w[f"{name}.bias"]  # (t, n) @ (n, m) -> (t, m)

    x = w["wte.weight"][ids] + w["wpe.weight"][: len(ids)]
    hidden = np.triu(np.ones((len(ids), len(ids)), bool), 1)
    for i in range(config["n_layer"]):
        parts = np.split(linear(norm(x, f"h.{i}.ln_1"), f"h.{i}.attn.c_attn"), 3, -1)
        q, k, v = (np.stack(np.split(part, heads, -1)) for part in parts)  # (h, t, d)
        scores = q @ k.transpose(0, 2, 1)  # (h, t, d) @ (h, d, t) -> (h, t, t)
        if config.get("scale_attn_weights", True):
            scores = scores / math.sqrt(q.shape[-1])
        if config.get("scale_attn_by_inverse_layer_idx", False):
            scores = scores / (i + 1)
        scores = np.where(hidden, -np.inf, scores)
        chances = np.exp(scores - scores.max(-1, keepdims=True))
        seen = chances / chances.sum(-1, keepdims=True) @ v  # (h, t, t) @ (h, t, d) -> (h, t, d)
        x = x + linear(np.concatenate(list(seen), -1), f"h.{i}.attn.c_proj")
        inner = activation(linear(norm(x, f"h.{i}.ln_2"), f"h.{i}.mlp.c_fc"))
        x = x + linear(inner, f"h.{i}.mlp.c_proj")
    return norm(x, "ln_f") @ w["lm_head.weight"].T  # (t, n) @ (n, vocabulary)


# --- broken on purpose ----------------------------------------------------------------------------


def headless(opens: Callable[..., Any]) -> Callable[..., Any]:
    """Takes the embedding for the head, whatever the file has."""

    def broken(folder: Path) -> nn.Module:
        model = opens(folder)
        model.lm_head.weight = nn.Parameter(model.transformer.wte.weight.detach().flip(0))
        return model

    return broken


def plain_gelu(opens: Callable[..., Any]) -> Callable[..., Any]:
    """Another function, of weights that are all right."""

    def broken(folder: Path) -> nn.Module:
        model = opens(folder)
        model.transformer.ln_f.eps *= 1.5
        model.transformer.h[0].ln_1.eps += 0.1
        return model

    return broken


GPT2.defects = ANY | {
    "headless": (headless, "wrongly taken", 40),
    "another function": (plain_gelu, "wrongly taken", 40),
}
