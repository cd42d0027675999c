"""What is put around a model, or a part of it, whose layers then have other names."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import nn

# (Library, class) -> where in it the model is. A class of another library is none, whatever it is
# called, and so is a child that happens to be called `module`; a subclass is one.
WRAPPERS = {
    ("torch", "OptimizedModule"): "_orig_mod",  # torch.compile
    ("torch", "DataParallel"): "module",
    ("torch", "DistributedDataParallel"): "module",
    ("torch", "FullyShardedDataParallel"): "_fsdp_wrapped_module",
    ("torch", "ActivationWrapper"): "_checkpoint_wrapped_module",  # of checkpoints, of offloading
    ("torch", "AveragedModel"): "module",
    ("lightning_fabric", "_FabricModule"): "_forward_module",
    ("lightning", "_FabricModule"): "_forward_module",
    ("deepspeed", "DeepSpeedEngine"): "module",
}


def inside(module: nn.Module) -> nn.Module | None:
    """The module that a wrapper is around; None where it is no wrapper."""
    place = _place(type(module))  # type: ignore[arg-type]
    return None if place is None else module._modules.get(place)


@lru_cache(1024)  # asked of every module of a model, again and again
def _place(kind: type[nn.Module]) -> str | None:
    """Where modules of a class keep the one that they are around, if they are wrappers."""
    found = (WRAPPERS.get((cls.__module__.partition(".")[0], cls.__name__)) for cls in kind.__mro__)
    return next(filter(None, found), None)


# Those that keep processes alike, by the parameters that they found when they were made
ALIKE = ("DistributedDataParallel", "FullyShardedDataParallel", "DeepSpeedEngine")


def too_late(model: nn.Module) -> str:
    """Why parameters that are made now would train in each process by themselves, or ""."""
    distributed = torch.distributed
    if not distributed.is_available() or not distributed.is_initialized():
        return ""
    found = (
        cls.__name__ for module in model.modules() for cls in type(module).__mro__ if inside(module)
    )
    name = next((name for name in found if name in ALIKE), None)
    processes = distributed.get_world_size()
    if name is None or processes == 1:
        return ""
    return (
        f"{name} keeps {processes} processes alike by the parameters that it found, and would"
        " leave out a new adapter's: attach or load it first, then wrap the model"
    )
