"""The larger byte-level GPT-2, which a user makes once with `make small`.

It is in a folder of the user's, so that `--model small` finds it from everywhere.
"""

from __future__ import annotations

import os
from pathlib import Path

from perakit.errors import PerakitError
from perakit.toy import checkpoint
from perakit.toy.gpt2 import GPT2

NAME = "small"
CARD = "card.json"
COMMAND = "python -m perakit.toy.pretrain --size small"
VARIABLE = "PERAKIT_SMALL"  # in the environment: another folder


def folder() -> Path:
    """Where it is: the folder that PERAKIT_SMALL names, or else `~/.cache/perakit/small`."""
    return Path(os.path.expanduser(os.environ.get(VARIABLE) or "~/.cache/perakit/small"))


def require() -> None:
    """Raise a PerakitError, with the command that makes the model, where it has not been made."""
    where = str(folder())
    if not checkpoint.is_whole(folder()):
        raise PerakitError(
            f"there is no model in {where!r}, where 'small' belongs: make it with {COMMAND} (half"
            f" an hour on 2 cores, some minutes on a GPU), or set {VARIABLE} to the folder that has"
            " it"
        )


def load() -> GPT2:
    """The model, in eval mode, float32, on the CPU.

    PerakitError where it has not been made, or its files are damaged.
    """
    require()
    try:
        return checkpoint.read(folder(), str(folder()))
    except PerakitError as error:
        raise PerakitError(f"{error}; or make it again with {COMMAND}") from error
