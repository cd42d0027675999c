"""Doors that are broken on purpose, to see that the fuzzer notices."""

import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from mutations import unpack
from torch import nn

import perakit as pk
from perakit.models.adapted import adapted_layers

Opens = Callable[..., Any]
Loader = Callable[[nn.Module, Path], object]

# --- of any door ----------------------------------------------------------------------------------


def key_error(opens: Opens) -> Opens:
    """Reads what it has not checked."""

    def broken(*arguments: Any) -> Any:
        try:
            return opens(*arguments)
        except pk.PerakitError as error:
            raise KeyError("lora_A") from error

    return broken


def greedy(opens: Opens) -> Opens:
    """Takes 300 MiB to say no (and 100 more than the limit lets it)."""

    def broken(*arguments: Any) -> Any:
        bytearray(300 * 2**20)
        return opens(*arguments)

    return broken


def stuck(opens: Opens) -> Opens:
    """Waits for ever where it should refuse."""

    def broken(*arguments: Any) -> Any:
        try:
            return opens(*arguments)
        except pk.PerakitError:
            while True:
                time.sleep(1)

    return broken


def dead(opens: Opens) -> Opens:
    """Takes the interpreter down."""

    def broken(*arguments: Any) -> Any:
        try:
            return opens(*arguments)
        except pk.PerakitError:
            os.kill(os.getpid(), signal.SIGSEGV)
            raise

    return broken


# name -> (what breaks a door, how the fuzzer calls it, cases that show it)
ANY = {
    "key_error": (key_error, "KeyError", 30),
    "greedy": (greedy, "MemoryError", 10),
    "stuck": (stuck, "hang", 2),
    "dead": (dead, "the process died", 4),
}


# --- of adapters ----------------------------------------------------------------------------------


def half(load: Loader) -> Loader:
    """Refuses after it has begun to write."""

    def broken(model: nn.Module, folder: Path) -> object:
        try:
            return load(model, folder)
        except pk.PerakitError:
            next(model.parameters()).data.mul_(2)
            raise

    return broken


def unfrozen(load: Loader) -> Loader:
    """Refuses and leaves a parameter's requires_grad the other way."""

    def broken(model: nn.Module, folder: Path) -> object:
        try:
            return load(model, folder)
        except pk.PerakitError:
            parameter = next(model.parameters())
            parameter.requires_grad_(not parameter.requires_grad)
            raise

    return broken


def any_shape(load: Loader) -> Loader:
    """Takes tensors of as many numbers, whatever their shape."""

    def broken(model: nn.Module, folder: Path) -> object:
        with contextlib.suppress(pk.PerakitError):
            return load(model, folder)
        for path in folder.glob("*.safetensors"):
            try:
                stored = unpack(path.read_bytes())
            except Exception as error:
                raise pk.PerakitError(f"{path} is damaged") from error
            found = {
                f"{name}.{key}": p
                for name, a in pk.adapters(model).items()
                for key, p in a.named_parameters()
            }
            if set(found) == set(stored) and all(
                p.numel() * 4 == len(stored[name][2]) for name, p in found.items()
            ):
                for name, p in found.items():
                    p.data.copy_(
                        torch.frombuffer(bytearray(stored[name][2]), dtype=torch.float32).reshape(
                            p.shape
                        )
                    )
                return None
        raise pk.PerakitError("refused")

    return broken


def turned(load: Loader) -> Loader:
    """Puts one tensor in back to front."""

    def broken(model: nn.Module, folder: Path) -> object:
        done = load(model, folder)
        parameter = next(next(iter(adapted_layers(model).values())).adapter.parameters())
        parameter.data.copy_(parameter.data.flip(0).flip(-1))
        return done

    return broken


ADAPTERS = {
    "half": (half, "half changed", 30),
    "unfrozen": (unfrozen, "half changed", 30),
    "turned": (turned, "wrongly taken", 60),
    **ANY,
}
OWN_ADAPTERS = ADAPTERS | {"any_shape": (any_shape, "wrongly taken", 60)}
