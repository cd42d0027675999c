"""Loaders that are broken on purpose, to see that the fuzzer notices."""

import contextlib
import os
import signal
import time
from pathlib import Path

import torch
from fuzz_formats import Loader
from fuzz_mutations import unpack
from torch import nn

import perakit as pk
from perakit.models.adapted import adapted_layers


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


def key_error(load: Loader) -> Loader:
    """Reads what it has not checked."""

    def broken(model: nn.Module, folder: Path) -> object:
        try:
            return load(model, folder)
        except pk.PerakitError as error:
            raise KeyError("lora_A") from error

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


def greedy(load: Loader) -> Loader:
    """Takes 300 MiB to say no (and 100 more than the limit lets it)."""

    def broken(model: nn.Module, folder: Path) -> object:
        bytearray(300 * 2**20)
        return load(model, folder)

    return broken


def stuck(load: Loader) -> Loader:
    """Waits for ever where it should refuse."""

    def broken(model: nn.Module, folder: Path) -> object:
        try:
            return load(model, folder)
        except pk.PerakitError:
            while True:
                time.sleep(1)

    return broken


def dead(load: Loader) -> Loader:
    """Takes the interpreter down."""

    def broken(model: nn.Module, folder: Path) -> object:
        try:
            return load(model, folder)
        except pk.PerakitError:
            os.kill(os.getpid(), signal.SIGSEGV)
            raise

    return broken


# name -> (what breaks a loader, how the fuzzer calls it, cases that show it)
DEFECTS = {
    "half": (half, "the model changed", 30),
    "unfrozen": (unfrozen, "the model changed", 30),
    "key_error": (key_error, "KeyError", 30),
    "any_shape": (any_shape, "a wrong load", 60),
    "turned": (turned, "a wrong load", 60),
    "greedy": (greedy, "MemoryError", 10),
    "stuck": (stuck, "hang", 2),
    "dead": (dead, "the process died", 4),
}
