"""What `perakit bench` is asked to measure, checked before anything runs."""

from __future__ import annotations

import math
import os
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from itertools import product
from typing import Any

import torch

from perakit.bench import host, models
from perakit.errors import PerakitError, short
from perakit.formulas import LARGEST_RANK, check_count, rank_bound

LAYER_PARTS = ("layers", "plans", "inference")
PARTS = (*LAYER_PARTS, "host", "models", "memory")
MODELS = tuple(models.MODELS)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
# Each cell is visited so often, with the other cells in between: each visit finds other memory and
# another state of the machine.
VISITS = 3
# Beyond these a number is a mistake
LARGEST_SIZE, MOST_REPEATS = 2**31 - 1, 10_000
LOW_RANK = 64  # so far a rank may go on any layer, however small


@dataclass(frozen=True)
class Settings:
    """What to measure.

    device: "cpu" or "cuda"; dtype: of the base and its inputs, keys of DTYPES; layers: (m, n) of
    each; tokens: T; ranks: of the layers' adapters; repeats: rounds of a cell that count, over all
    its visits, see `rounds`; parts: of PARTS; models: of MODELS; model_ranks: of their adapters;
    seed: of weights, factors and inputs. Raises PerakitError for what cannot be measured here.
    """

    device: str = "cpu"
    dtype: tuple[str, ...] = ("float32",)
    layers: tuple[tuple[int, int], ...] = ((768, 768), (3072, 768))
    tokens: tuple[int, ...] = (256, 1024, 4096)
    ranks: tuple[int, ...] = (4, 8, 16, 32)
    repeats: int = 9
    parts: tuple[str, ...] = PARTS
    models: tuple[str, ...] = MODELS
    model_ranks: tuple[int, ...] = (8,)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.device not in ("cpu", "cuda") or (
            self.device == "cuda" and not torch.cuda.is_available()
        ):
            raise PerakitError(f"device {self.device!r} is not available here: use --device cpu")
        for name, known in (("dtype", DTYPES), ("parts", PARTS), ("models", MODELS)):
            for value in getattr(self, name):
                if value not in known:
                    raise PerakitError(
                        f"{name}: {short(value)} is unknown, choose from {', '.join(known)}"
                    )
        for value in self.tokens:
            check_count("tokens", value, most=LARGEST_SIZE)
        for name in ("ranks", "model_ranks"):
            for value in getattr(self, name):
                check_count(name, value, most=LARGEST_RANK)
        for size in (size for layer in self.layers for size in layer):
            check_count("layers", size, most=LARGEST_SIZE)
        check_count("repeats", self.repeats, most=MOST_REPEATS)
        check_count("seed", self.seed, least=0, most=2**63 - 1)
        if "models" in self.parts and not find_spec("transformers"):
            others = " ".join(part for part in self.parts if part != "models")
            raise PerakitError(
                "the part models needs transformers: pip install 'perakit[hf]', or choose --parts"
                f" {others or 'layers'}"
            )
        self._check_ranks()
        self._check_layers()

    def _check_ranks(self) -> None:
        """No large rank above that of the layer: PERA's r²/2 products would take for ever."""
        widths = {name: models.MODELS[name].config.n_embd for name in self.models}
        sizes = {f"layer {m}x{n}": min(m, n) for m, n in self.layers}
        timed = [
            ("ranks", self.ranks, sizes if set(LAYER_PARTS) & set(self.parts) else {}),
            ("model_ranks", self.model_ranks, widths if "models" in self.parts else {}),
        ]
        for name, ranks, most in timed:
            for where, size in most.items():
                if max(ranks, default=0) > max(size, LOW_RANK):
                    raise PerakitError(
                        f"{name}={max(ranks)} is more than the rank of {where}: choose"
                        f" {max(size, LOW_RANK)} at most"
                    )

    def _check_layers(self) -> None:
        """Refuse a layer with so many tokens that this machine cannot hold it."""
        if not set(LAYER_PARTS) & set(self.parts):
            return
        inner = [rank_bound(rank) for rank in self.ranks]
        for (m, n), tokens in product(self.layers, self.tokens):
            # The weights as drawn and as used, inputs and outputs with their gradients; of each
            # rank the expanded factors; and of the largest their product with the inputs.
            entries = 2 * (m * n + tokens * (m + n)) + sum(inner) * (m + n)
            check_memory(
                f"layer {m}x{n} with {tokens} tokens",
                4 * (entries + max(inner, default=0) * tokens),
                "a smaller layer, fewer tokens or a smaller rank",
            )

    def rounds(self, part: str) -> int:
        """How many rounds one visit to a cell of that part has.

        Inference has twice as many, as its promise has the narrowest limit. Plans have a third, as
        they measure nine variants of each contender. A round of the host is one step, and their
        number is its own.
        """
        if part == "host":
            return math.ceil(host.STEPS / VISITS)
        share = {"inference": 2.0, "plans": 1 / 3}.get(part, 1.0)
        return math.ceil(share * self.repeats / VISITS)

    @property
    def command(self) -> str:
        """The command that measures this, in full."""
        words = asdict(self) | {"layers": [f"{m}x{n}" for m, n in self.layers]}
        options = [f"--{name.replace('_', '-')} {_words(value)}" for name, value in words.items()]
        return " ".join(["perakit bench", *options])


def usual(device: str, page: bool = False) -> Settings:
    """What is measured where nothing is said: some minutes on 2 cores.

    On CUDA fewer layers, of two dtypes and up to many tokens, and the 124M GPT-2: some minutes on a
    large GPU. page: for docs/performance.md; on a CPU every part and model, and many rounds.
    """
    if device == "cuda":
        return Settings(
            device,
            ("float32", "bfloat16"),
            layers=((768, 768), (4096, 4096)),
            tokens=(256, 4096, 16384),
            ranks=(8, 32),
            parts=_possible("layers", "inference", "models"),
            models=("124M",),
        )
    if page:
        return Settings(device, repeats=33)
    return Settings(
        device, parts=_possible(*(part for part in PARTS if part != "plans")), models=("tiny",)
    )


def _possible(*parts: str) -> tuple[str, ...]:
    """Of these parts those that can be measured with what is installed."""
    return tuple(part for part in parts if part != "models" or find_spec("transformers"))


def layer(text: str) -> tuple[int, int]:
    """(m, n) from "MxN"."""
    m, found, n = text.partition("x")
    digits = len(str(LARGEST_SIZE))
    if not found or not all(size.isdecimal() and len(size) <= digits for size in (m, n)):
        raise PerakitError(
            f"layer {short(text)} is not written MxN, outputs and inputs: as in 3072x768, sizes to"
            f" {LARGEST_SIZE}"
        )
    return int(m), int(n)


def check_memory(what: str, needed: int, remedy: str) -> None:
    """Refuse what needs more bytes than this machine has, as far as the system says it.

    what, remedy: the beginning and the end of the message; needed: bytes, at least.
    """
    if "SC_PHYS_PAGES" not in getattr(os, "sysconf_names", {}):  # Windows
        return
    there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > there:
        raise PerakitError(
            f"{what} needs {needed:,} bytes at least, and this machine has {there:,}: choose"
            f" {remedy}"
        )


def _words(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple | list) else str(value)
