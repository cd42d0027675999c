"""Training parameters of the model itself, in place of an adapter: what adapters are measured by.

Nothing is drawn here: such a run starts from the model, and its seed decides the batches alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from perakit.errors import PerakitError, short


def own(model: nn.Module, part: Any) -> list[nn.Parameter]:
    """The parameters of one part of the model, each once.

    part: "everything", also a head that shares the embedding's weight; "biases", those of linear
    layers and norms (BitFit, arXiv 2106.10199); "last block", the last transformer block, without
    the norm after it, which belongs to no block. Raises PerakitError for another part, and where
    the model has nothing of that kind.
    """
    if not isinstance(part, str) or part not in PARTS:
        raise PerakitError(f"train={short(part)} is no part of a model: choose {', '.join(PARTS)}")
    found = PARTS[part](model)
    if not found:
        others = " or ".join(other for other in PARTS if other != part)
        raise PerakitError(f"{type(model).__name__} has no {part} to train: choose {others}")
    return found


def unfreeze(model: nn.Module, part: Any) -> None:
    """Let exactly one part of the model train; arguments and errors as in `own`."""
    chosen = own(model, part)
    model.requires_grad_(False)
    for parameter in chosen:
        parameter.requires_grad_(True)


def _biases(model: nn.Module) -> list[nn.Parameter]:
    return [p for name, p in model.named_parameters() if name.rpartition(".")[2] == "bias"]


def _last_block(model: nn.Module) -> list[nn.Parameter]:
    """The parameters of the last entry of the largest list of modules, which is that of blocks."""
    lists = [one for one in model.modules() if isinstance(one, nn.ModuleList) and len(one)]
    blocks = max(lists, key=lambda one: sum(p.numel() for p in one.parameters()), default=None)
    return [] if blocks is None else list(blocks[-1].parameters())


PARTS: dict[str, Callable[[nn.Module], list[nn.Parameter]]] = {
    "everything": lambda model: list(model.parameters()),
    "biases": _biases,
    "last block": _last_block,
}
