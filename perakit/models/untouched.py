"""What an attach leaves alone, and why: what nobody mentions is easily taken for adapted."""

from __future__ import annotations

import re
from dataclasses import dataclass

from torch import nn

from perakit.models.adapted import AdaptedLayer, plain, walk
from perakit.models.layers import why_not
from perakit.models.trained import TrainedModule


@dataclass(frozen=True)
class Untouched:
    """Weights of one kind and one place in the blocks of a model.

    place: the module's name, of several with * for the number of a block; modules: how many;
    parameters: of all of them; why: they are not adapted.
    """

    place: str
    modules: int
    parameters: int
    why: str

    def __str__(self) -> str:
        times = f"{self.modules} x " if self.modules > 1 else ""
        return f"  {times}{self.place}, {self.parameters:,} parameters: {self.why}"


def untouched(model: nn.Module) -> list[Untouched]:
    """The weights of `model`, matrices and larger, that no adapter changes, the largest first."""
    found: dict[tuple[str, str], Untouched] = {}
    seen: set[int] = set()
    inside: tuple[str, ...] = ()
    modules = dict(walk(model))
    for name, module in modules.items():
        if isinstance(module, TrainedModule) and module.active:
            inside += (f"{name}.",)
        answers = isinstance(module, AdaptedLayer | TrainedModule) and bool(module.active)
        if answers or name.startswith(inside or "\0"):
            continue
        module = plain(module)  # of a stand-in that is idle the base answers
        weights = [p for p in module._parameters.values() if p is not None and p.ndim > 1]
        count = sum(p.numel() for p in weights if id(p) not in seen)  # a tied one counts once
        seen |= set(map(id, weights))
        if count:
            # A parametrized weight is its layer's
            name, computed, _ = name.partition(".parametrizations.")
            place = re.sub(r"(?<![^.])\d+(?![^.])", "*", name)
            owner = plain(modules[name]) if computed else module
            # The clause without its remedy
            why = why_not(owner).partition(": ")[0] or "not among the targets"
            old = found.get((place, why), Untouched(place, 0, 0, why))
            shown = place if old.modules else name or "the model itself"
            found[place, why] = Untouched(shown, old.modules + 1, old.parameters + count, why)
    return sorted(found.values(), key=lambda one: -one.parameters)
