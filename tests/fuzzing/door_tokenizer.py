"""The door of `toy.tokenizer`: a tokenizer.json beside a checkpoint.

The judge is the library `tokenizers`, which reads the file on its own.
"""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import torch
from defects import ANY
from door_gpt2 import FIXTURES
from lines import contents, difference
from mutations import CONTENT, Draft, Files, places
from runner import Door, Trial, demand

import perakit as pk
from perakit.toy import GPT2, Config
from perakit.toy.tokens import Bytes

TEXTS = (b"the other text", "é, π\n".encode(), bytes(range(32, 127)))
CONFIG = {"model_type": "gpt2", "n_positions": 5, "n_embd": 2, "n_layer": 1, "n_head": 1}


class Source(NamedTuple):
    text: str

    def draft(self) -> Draft:
        return Draft(json.loads(self.text))


def token(draw: Random, draft: Draft) -> None:
    """An id that another token has, or that no model has."""
    vocab = draft.config["model"]["vocab"]
    vocab[draw.choice(list(vocab))] = draw.choice([0, 1, 255, 256, 299, 300, 2**31, 2**32, -1, "0"])


def merge(draw: Random, draft: Draft) -> None:
    draft.config["model"]["merges"].append(
        draw.choice([["t", "h"], ["q", "q"], ["t"], "t h", None, ["", ""], ["x" * 99, "y"]])
    )


def part(draw: Random, draft: Draft) -> None:
    """A part that another tokenizer has."""
    node, key = draw.choice([one for one in places(draft.config) if one[1] == "type"])
    node[key] = draw.choice(["BPE", "WordLevel", "WordPiece", "Unigram", "ByteLevel", "Split", ""])


def added(draw: Random, draft: Draft) -> None:
    """A token beside the vocabulary."""
    flags = ("single_word", "lstrip", "rstrip", "normalized", "special")
    one = {"id": draw.choice([256, 259, 300, 2**31, 0]), "content": draw.choice(["<s>", "e", ""])}
    draft.config["added_tokens"].append(one | {flag: draw.random() < 0.3 for flag in flags})


KINDS = {
    **{
        kind: one
        for kind, one in CONTENT.items()
        if kind.startswith(("no", "json")) and kind != "json: patterns"
    },
    "tokenizer: id": (8, token),
    "tokenizer: merge": (4, merge),
    "tokenizer: part": (5, part),
    "tokenizer: added": (5, added),
}
VOCABULARIES = {"256": (2, 256), "259": (3, 259), "300": (3, 300)}


class Tokenizer(Door):
    """tokenizer.json and config.json; the model's vocabulary is larger, as large, or too small."""

    name = "tokenizer"
    content = KINDS
    targets = VOCABULARIES
    opens = staticmethod(pk.toy.tokenizer)

    def sources(self, scratch: Path) -> dict[str, Any]:
        names = ("tokenizer-256", "tokenizer-259")
        return {name: Source((FIXTURES / f"{name}.json").read_text()) for name in names}

    def files(self, draft: Draft, sealed: bool) -> Files:
        text = json.dumps(draft.config).encode() if draft.text is None else draft.text
        return {"tokenizer.json": text, "config.json": json.dumps(CONFIG).encode(), **draft.extra}

    def trial(self, source: Source, target: str, folder: Path, opens: Callable[..., Any]) -> Trial:
        before, vocabulary = contents(folder), self.targets[target][1]

        def use() -> Any:
            found = opens(folder, model(vocabulary))
            return found, [found.encode(text) for text in TEXTS], found.decode(torch.tensor([5, 6]))

        return Trial(use, partial(judge, folder, vocabulary), lambda: difference(folder, before))


def model(vocabulary: int) -> GPT2:
    with torch.device("meta"):
        return GPT2(Config(vocab_size=vocabulary, n_positions=5, n_embd=2, n_layer=1, n_head=1))


def judge(folder: Path, vocabulary: int, found: Any) -> None:
    """The ids are those of the file, and the model has them all."""
    import tokenizers

    tokenizer, encoded, decoded = found
    there = folder / "tokenizer.json"
    if isinstance(tokenizer, Bytes):
        demand(not there.exists() and not there.is_symlink(), "tokenizer.json is left out")
        demand(vocabulary == 256, "bytes are not the tokens of this model")
        return
    theirs = tokenizers.Tokenizer.from_str(there.read_bytes().decode())
    theirs.no_truncation()
    theirs.no_padding()
    known = theirs.get_vocab()
    demand(len(set(known.values())) == len(known), "two tokens of one id: which one is it?")
    most = max(known.values())
    demand(most < vocabulary, f"a token of id {most}")
    for text, ids in zip(TEXTS, encoded, strict=True):
        demand(ids.tolist() == theirs.encode(text.decode()).ids, f"the ids of {text!r}")
        demand(bool((ids < vocabulary).all()), f"an id that the model has not, of {text!r}")
    demand(decoded == theirs.decode([5, 6], skip_special_tokens=False), "the text of two ids")
    demand(tokenizer.vocab_size <= vocabulary, "more tokens than the model has")


def shifted(opens: Callable[..., Any]) -> Callable[..., Any]:
    """Gives every token the id after its own."""

    def broken(*arguments: Any) -> Any:
        found = opens(*arguments)
        encode = found.encode
        found.encode = lambda text: encode(text) + 1
        return found

    return broken


Tokenizer.defects = ANY | {"shifted": (shifted, "wrongly taken", 60)}
