"""A weight to look at: what is written to it would be lost, and so it is refused."""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from torch import Tensor

from perakit.errors import PerakitError

KEPT = ("requires_grad_", "retain_grad_")  # end as methods do that write numbers, and write none


def _refuse(*_: Any, **__: Any) -> NoReturn:
    raise PerakitError(
        "this weight is W0 + ΔW, computed to be looked at: what is written to it would be lost."
        " Write to layer.base.weight, which is W0, pk.bake(model) first, or clone() it to have one"
        " of your own"
    )


_OWN: dict[str, Any] = {name: getattr(Tensor, name) for name in ("data", "T")}


class Shown(Tensor):
    """A computed tensor that refuses to be written to.

    It is read and differentiated as any other, and so is what is made from it. Covered are the
    views that people write through: data, detach, T and an index. Not covered are others, such as
    the array of numpy().
    """

    # Then torch takes it for a plain tensor: the fused kernels of its transformer layers want one.
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]
    __setitem__ = _refuse
    data = property(lambda self: shown(_OWN["data"].__get__(self)), _refuse)
    T = property(lambda self: shown(_OWN["T"].__get__(self)))

    def detach(self) -> Tensor:
        """As a plain tensor's, and as little to be written to."""
        return shown(super().detach())

    def __getitem__(self, index: Any) -> Tensor:
        return shown(super().__getitem__(index))

    def __deepcopy__(self, memo: Any) -> Tensor:
        return self.as_subclass(Tensor).__deepcopy__(memo)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.as_subclass(Tensor).__reduce_ex__(protocol)

    def __repr__(self) -> str:  # type: ignore[override]
        return repr(self.as_subclass(Tensor))


for _name in dir(Tensor):
    _writes = _name.endswith("_") and not _name.startswith("_") and _name not in KEPT
    # __iadd__ and its like; torch has them for the operators that it has
    _augments = _name.startswith("__i") and f"__{_name[3:]}" in dir(Tensor)
    if _writes or _augments:
        setattr(Shown, _name, _refuse)


def shown(tensor: Tensor) -> Tensor:
    """`tensor`, the same numbers and gradients, as one that refuses to be written to.

    A tensor of another kind, or one that is compiled or transformed, stays what it is.
    """
    watched = torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()
    plain = type(tensor) in (Tensor, Shown) and not watched
    return tensor.as_subclass(Shown) if plain else tensor
