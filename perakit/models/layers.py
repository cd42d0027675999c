"""Layer kinds: how a layer stores its weight. Only this room knows of orientation and storage."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin

from perakit.adapters import Adapter
from perakit.adapters.base import Additive
from perakit.models import reasons
from perakit.models.numbers import gathered, is_plain, missing
from perakit.models.reasons import DTYPES as DTYPES

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
    def weight(module: nn.Module, readers: Sequence[Adapter] | None = None) -> Tensor:
        """W (m, n), a view of the layer's own memory.

        readers: the adapters for which a forward pass asks. Where they read no numbers of W, a kind
        that would have to compute them may answer with what it stores; None: they are read.
        """
        raise NotImplementedError

    @classmethod
    def shape(cls, module: nn.Module) -> tuple[int, int]:
        """(m, n) of the layer's weight; of a shard of it, what it has."""
        return cast(tuple[int, int], tuple(cls.weight(module).shape))

    @classmethod
    def dtype(cls, module: nn.Module) -> torch.dtype:
        """The dtype in which the layer multiplies."""
        return cls.weight(module).dtype

    @staticmethod
    def lost(module: nn.Module) -> float | None:
        """‖W − W0‖/‖W‖, where the layer keeps W in fewer bits, as a W0; None where it does not."""
        return None

    @staticmethod
    def kept(module: nn.Module) -> str:
        """In what form the layer keeps W, in words, where that is not (m, n) floats."""
        return ""

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
    def weight(module: nn.Module, readers: Sequence[Adapter] | None = None) -> Tensor:
        return cast(Tensor, module.weight)


class Conv1D(LayerKind):
    """GPT-2's Conv1D, of transformers (known by its name, so that nothing is imported) or of `toy`:
    stored (n, m).
    """

    name = "Conv1D"

    @staticmethod
    def fits(module: nn.Module) -> bool:
        named = (base for base in type(module).__mro__ if base.__name__ == "Conv1D")
        cls: Any = next(named, None)  # itself, or what fully_shard made a subclass of
        own = cls is not None and type(module).forward is cls.forward
        return own and isinstance(getattr(module, "nf", None), int)

    @staticmethod
    def matrix(stored: Tensor) -> Tensor:
        return stored.T

    @staticmethod
    def weight(module: nn.Module, readers: Sequence[Adapter] | None = None) -> Tensor:
        return cast(Tensor, module.weight).T


class TensorClass(Linear):
    """A Linear whose weight is a tensor class of its own, such as torchao's int8.

    The class multiplies; the numbers that its weight stands for are `dequantize()`.
    """

    name = "Tensor class"

    @staticmethod
    def fits(module: nn.Module) -> bool:
        return Linear.fits(module) and not reasons.of_tensor_class(Linear.weight(module))

    @staticmethod
    def weight(module: nn.Module, readers: Sequence[Adapter] | None = None) -> Tensor:
        kept = Linear.weight(module)
        unread = readers is not None and all(isinstance(one, Additive) for one in readers)
        return kept if unread else gathered(kept)

    @classmethod
    def shape(cls, module: nn.Module) -> tuple[int, int]:
        return Linear.shape(module)

    @classmethod
    def dtype(cls, module: nn.Module) -> torch.dtype:
        return Linear.weight(module).dtype

    @staticmethod
    def lost(module: nn.Module) -> float:
        return math.nan  # of a weight that was never seen

    @staticmethod
    def kept(module: nn.Module) -> str:
        return f"a {type(Linear.weight(module)).__name__}"

    @staticmethod
    def product(module: nn.Module) -> Product:
        return lambda x, W0, bias: F.linear(x, Linear.weight(module), bias)

    @classmethod
    def written(cls, module: nn.Module, W: Tensor) -> nn.Module:
        """A copy of the layer, with W (m, n) as a plain weight."""
        layer = copy.copy(module)
        layer._parameters = dict(module._parameters)
        layer.weight = nn.Parameter(W.detach().clone(), requires_grad=False)
        return layer


KINDS: tuple[type[LayerKind], ...] = (Linear, Conv1D)  # of layers that store their weight as it is
# Of layers of our own that store it in another form: the file that has the layer adds its kind
OTHER_KINDS: list[type[LayerKind]] = []


def kind_of(module: nn.Module) -> type[LayerKind] | None:
    """The kind of a layer that can be adapted, else None, and `why_not` says why.

    None also where the layer's own W x + b would not be what runs: a weight computed from others
    (weight_norm), or a forward replaced on the object.
    """
    for kind in OTHER_KINDS:
        if kind.fits(module):
            return kind
    if reasons.of_state(module):
        return None
    weight = module._parameters["weight"]
    assert weight is not None
    kinds = KINDS if is_plain(weight) or missing(weight) else (TensorClass,)
    return next((kind for kind in kinds if kind.fits(module)), None)


def why_not(module: nn.Module) -> str:
    """Why a module cannot be adapted, in one clause, or "" where it can.

    It cannot where it has no kind, and while its weight has no numbers here.
    """
    kind = kind_of(module)
    if kind is None:
        return reason(module)
    weight = module._parameters.get("weight")
    lacks = "" if weight is None else missing(weight)
    return lacks and f"its weight {lacks}"


def reason(module: nn.Module) -> str:
    """Why `kind_of` finds no kind for a module."""
    fitting = [kind for kind in KINDS if kind.fits(module)]
    if not fitting and not isinstance(module, LazyModuleMixin):
        return reasons.of_class(module)
    return reasons.of_state(module) or reasons.of_tensor_class(
        cast(Tensor, module.weight), multiplied=fitting == [Linear]
    )
