"""Layer kinds: how a layer stores its weight. Only this room knows of orientation and storage."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Product = Callable[[Tensor, Tensor, Tensor | None], Tensor]  # (x, W0, bias) -> W0 x + b


class LayerKind:
    """How to read a layer's weight as an (m, n) = (d_out, d_in) matrix, and how to write one back.

    Kinds are used as classes, never made: `kind_of(module)` finds the one that fits.
    """

    name: ClassVar[str]

    @staticmethod
    def fits(module: nn.Module) -> bool:
        """Is `module` a layer of this kind, whose forward is W x + b and nothing else?"""
        raise NotImplementedError

    @staticmethod
    def matrix(stored: Tensor) -> Tensor:
        """A stored weight as an (m, n) view, or such a matrix as it is stored: its own inverse."""
        raise NotImplementedError

    @staticmethod
    def weight(module: nn.Module) -> Tensor:
        """W (m, n), a view of the layer's own memory."""
        raise NotImplementedError

    @classmethod
    def shape(cls, module: nn.Module) -> tuple[int, int]:
        """(m, n) of the layer's weight."""
        m, n = cls.weight(module).shape
        return m, n

    @classmethod
    def dtype(cls, module: nn.Module) -> torch.dtype:
        """The dtype in which the layer multiplies."""
        return cls.weight(module).dtype

    @staticmethod
    def lost(module: nn.Module) -> float | None:
        """‖W − W0‖/‖W‖, where the layer keeps W in fewer bits, as a W0; None where it does not."""
        return None

    @classmethod
    def stored(cls, module: nn.Module, W: Tensor) -> Tensor:
        """W (m, n) in the orientation in which the layer shows its weight."""
        return cls.matrix(W)

    @staticmethod
    def product(module: nn.Module) -> Product:
        """How the layer multiplies: (x, W0, bias) -> W0 x + b."""
        return F.linear

    @classmethod
    def written(cls, module: nn.Module, W: Tensor) -> nn.Module:
        """The layer with W (m, n) as its weight.

        It is the same layer with the same parameter, of other memory, where it stores floats.
        """
        module.get_parameter("weight").data = cls.matrix(W)
        return module


class Linear(LayerKind):
    """torch.nn.Linear, and subclasses that keep its forward: stored (m, n)."""

    name = "Linear"

    @staticmethod
    def fits(module: nn.Module) -> bool:
        return isinstance(module, nn.Linear) and type(module).forward is nn.Linear.forward

    @staticmethod
    def matrix(stored: Tensor) -> Tensor:
        return stored

    @staticmethod
    def weight(module: nn.Module) -> Tensor:
        return cast(Tensor, module.weight)


class Conv1D(LayerKind):
    """GPT-2's Conv1D, of transformers (known by its name, so that nothing is imported) or of `toy`:
    stored (n, m).
    """

    name = "Conv1D"

    @staticmethod
    def fits(module: nn.Module) -> bool:
        return type(module).__name__ == "Conv1D" and isinstance(getattr(module, "nf", None), int)

    @staticmethod
    def matrix(stored: Tensor) -> Tensor:
        return stored.T

    @staticmethod
    def weight(module: nn.Module) -> Tensor:
        return cast(Tensor, module.weight).T


# Of weights that can be adapted
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
KINDS: tuple[type[LayerKind], ...] = (Linear, Conv1D)  # of layers that store their weight as it is
# Of layers of our own that store it in another form: the file that has the layer adds its kind
OTHER_KINDS: list[type[LayerKind]] = []


def kind_of(module: nn.Module) -> type[LayerKind] | None:
    """The kind of a layer that can be adapted, else None.

    None also where the layer's own W x + b would not be what runs: a weight computed from others
    (weight_norm), or a forward replaced on the object.
    """
    for kind in OTHER_KINDS:
        if kind.fits(module):
            return kind
    weight = module._parameters.get("weight")
    if (
        weight is None
        or weight.dtype not in DTYPES
        or weight.ndim != 2
        or "forward" in vars(module)
    ):
        return None
    return next((kind for kind in KINDS if kind.fits(module)), None)


def why_not(module: nn.Module) -> str:
    """Why a module cannot be adapted, in one clause; empty where it can."""
    return "" if kind_of(module) else f"{type(module).__name__} is no layer of W x + b"
