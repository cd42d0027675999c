"""Layer kinds: how a layer stores its weight. Nothing else in perakit knows about orientation or storage."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LayerKind:
    """How to read a layer's weight as an (m, n) = (d_out, d_in) matrix, and how to write one back.

    Kinds are used as classes, never made: `kind_of(module)` finds the one that fits.
    """

    name: str

    @staticmethod
    def fits(module: nn.Module) -> bool:
        """Is `module` a layer of this kind, whose forward is W x + b and nothing else?"""
        raise NotImplementedError

    @staticmethod
    def matrix(stored: Tensor) -> Tensor:
        """The stored weight as an (m, n) view, and an (m, n) matrix as a stored weight: its own inverse."""
        raise NotImplementedError

    @classmethod
    def weight(cls, module: nn.Module) -> Tensor:
        """W (m, n), a view of the layer's own memory."""
        return cls.matrix(module.get_parameter("weight"))

    @staticmethod
    def bias(module: nn.Module) -> Tensor | None:
        """b (m,), or None."""
        return getattr(module, "bias", None)

    @classmethod
    def write(cls, module: nn.Module, W: Tensor) -> None:
        """Replace the layer's weight by W (m, n), in place."""
        with torch.no_grad():
            cls.weight(module).copy_(W)


class Linear(LayerKind):
    """torch.nn.Linear, and subclasses that keep its forward: stored (m, n)."""

    name = "Linear"

    @staticmethod
    def fits(module: nn.Module) -> bool:
        return isinstance(module, nn.Linear) and type(module).forward is nn.Linear.forward

    @staticmethod
    def matrix(stored: Tensor) -> Tensor:
        return stored


class Conv1D(LayerKind):
    """GPT-2's Conv1D, of transformers (known by its name, so that nothing is imported) or of `toy`: stored (n, m)."""

    name = "Conv1D"

    @staticmethod
    def fits(module: nn.Module) -> bool:
        return type(module).__name__ == "Conv1D" and isinstance(getattr(module, "nf", None), int)

    @staticmethod
    def matrix(stored: Tensor) -> Tensor:
        return stored.T


DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)  # of weights that can be adapted
KINDS: tuple[type[LayerKind], ...] = (Linear, Conv1D)


def kind_of(module: nn.Module) -> type[LayerKind] | None:
    """The kind of a layer that can be adapted, else None.

    None also where the layer's own W x + b would not be what runs: a weight computed from others (weight_norm), or a
    forward replaced on the object.
    """
    weight = module._parameters.get("weight")
    if weight is None or weight.dtype not in DTYPES or weight.ndim != 2 or "forward" in vars(module):
        return None
    return next((kind for kind in KINDS if kind.fits(module)), None)
