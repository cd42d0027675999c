"""What stands in a module's place: the module itself below, and what each adapter has for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn


class Block:
    """One `with pk.disabled(model)`: on from its beginning to its end, for all layers at once."""

    on = False

    def __deepcopy__(self, _: Any) -> Block:
        return self  # a copy of the model is disabled for as long as the model is

    def __reduce__(self) -> tuple[type[Block], tuple[()]]:
        return Block, ()  # and what a file gives back is not


class StandIn(nn.Module):
    """Stands where `base` stood, whose parameters are never written.

    adapters: by name, any number: what each has for this module; wanted: the names that are to be
    in effect in the model, in the order of their sum; active: those of them that this module has.
    enabled: False within `pk.disabled`, where base answers alone; blocks: those it may be within.
    """

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base
        self.adapters = nn.ModuleDict()
        self.wanted: tuple[str, ...] = ()
        self.blocks: tuple[Block, ...] = ()
        # Not train(), which would go down into a base whose parts are in modes of their own
        self.training = self.adapters.training = base.training

    @property
    def enabled(self) -> bool:
        """Whether no block of `pk.disabled` is on."""
        return not any(block.on for block in self.blocks)

    @property
    def active(self) -> tuple[str, ...]:
        """Names of adapters in effect, in the order of their sum; none: the base alone answers."""
        return tuple(name for name in self.wanted if name in self.adapters)

    def activate(self, names: Sequence[str]) -> None:
        """Put those of `names` that this module has into effect.

        They train; the others are frozen and their gradients dropped.
        """
        self.wanted = tuple(names)
        for name, adapter in self.adapters.items():
            for parameter in adapter.parameters():
                parameter.requires_grad_(name in self.wanted and parameter.is_floating_point())
            if name not in self.wanted:
                # Or an optimiser that holds it would go on stepping with the old one
                adapter.zero_grad()
