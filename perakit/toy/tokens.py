"""Text to token ids and back: raw bytes for the tiny model, GPT-2's vocabulary when pretrained."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from perakit.errors import PerakitError


class Tokenizer(Protocol):
    """What the training loop asks of a tokenizer."""

    vocab_size: int

    def encode(self, text: bytes) -> Tensor:
        """Token ids (tokens,) of `text`."""

    def decode(self, ids: Tensor) -> str:
        """The text of token ids (tokens,)."""


class Bytes:
    """Every byte is a token: 256 of them, any text, nothing to download."""

    vocab_size = 256

    def encode(self, text: bytes) -> Tensor:
        # Widened to int64 a batch at a time
        return torch.tensor(bytearray(text), dtype=torch.uint8)

    def decode(self, ids: Tensor) -> str:
        return bytes(ids.tolist()).decode(errors="replace")


class Pretrained:
    """The tokenizer that lies beside a checkpoint, read by transformers (extra `hf`)."""

    def __init__(self, source: str | Path) -> None:
        try:
            from transformers import AutoTokenizer
        except ImportError as error:
            raise PerakitError(
                f"the tokenizer of {str(source)!r} needs transformers: pip install 'perakit[hf]'"
            ) from error
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(
                str(source), local_files_only=Path(source).is_dir()
            )
        # a damaged file raises whatever its parser meets: KeyError, TypeError, Exception
        except Exception as error:
            raise PerakitError(
                f"no tokenizer at {str(source)!r}: put tokenizer.json beside the checkpoint"
            ) from error
        self.vocab_size = len(self._tokenizer)
        # Beside a config.json alone, transformers makes an empty one
        if not self.encode(b"text").numel():
            raise PerakitError(
                f"no tokenizer at {str(source)!r}: put tokenizer.json beside the checkpoint"
            )

    def encode(self, text: bytes) -> Tensor:
        ids = self._tokenizer(text.decode(errors="replace"), verbose=False)["input_ids"]
        return torch.tensor(ids, dtype=torch.int32)

    def decode(self, ids: Tensor) -> str:
        return str(self._tokenizer.decode(ids.tolist()))
