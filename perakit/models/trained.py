"""Modules that train in full beside an adapter: a classifier's head, embeddings that were resized.

Each adapter that trains one has a copy of it. So base and adapters stay apart here too: `disabled`,
`activate` and `detach` are exact, and a file has what a state dict has of each copy.
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from perakit.errors import PerakitError, listed, short
from perakit.models.adapted import everywhere, plain, shared_weights, stand_ins, walk
from perakit.models.numbers import gathered, is_sharded, missing
from perakit.models.quantize import NF4Layer
from perakit.models.stand_in import StandIn
from perakit.models.targets import hooked


class TrainedModule(StandIn):
    """A module that trains in full: the adapter in effect has a copy of it, which answers.

    Base keeps its numbers, so that to disable or to detach brings them back. Of the adapters that
    are in effect in a model, one at most has a copy.
    """

    OWN = ("base", "adapters", "wanted", "blocks", "training")

    @property
    def chosen(self) -> nn.Module:
        """The module that answers: the copy in effect, or the base."""
        active = self.active
        return self.adapters[active[0]] if active and self.enabled else self.base

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """What the module that answers makes of its inputs."""
        return self.chosen(*inputs, **named)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set what is the module's on the one that answers, from which it is read, too."""
        if name in self.OWN or name.startswith("_"):
            super().__setattr__(name, value)
        else:
            setattr(self.chosen, name, value)

    def __bool__(self) -> bool:
        return True  # with a length or without

    def __len__(self) -> int:
        return len(self.chosen)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.chosen)  # type: ignore[call-overload]

    def __getitem__(self, index: Any) -> Any:
        return self.chosen[index]  # type: ignore[index]

    def __getattr__(self, name: str) -> Any:
        """What this lacks (weight, out_features ...) is read from the module that answers."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            # Not there yet while a copy is being made
            if name in ("base", "_modules") or name.startswith("__"):
                raise
            return getattr(self.chosen, name)


def trained_modules(model: nn.Module, name: str | None = None) -> dict[str, nn.Module]:
    """Module -> the copy that adapter `name` trains; None: the copy in effect, where there is one.

    In the model's order.
    """
    found: dict[str, nn.Module] = {}
    for place, module in walk(model):
        if isinstance(module, TrainedModule):
            owner = next(iter(module.active), "") if name is None else name
            if owner in module.adapters:
                found[place] = module.adapters[owner]
    return found


def select(model: nn.Module, train: Any, name: str) -> list[str]:
    """The modules that `train` means, by name or dotted suffix; adapter `name` can train them.

    train: names, one name, or None for none.
    """
    if (not isinstance(train, Iterable) and train is not None) or isinstance(train, nn.Module):
        raise PerakitError(
            f"train={short(train)} is no name: pass a list of names, as in train=['classifier']"
        )
    modules = {place: module for place, module in walk(model) if place}
    first = {id(module): place for place, module in modules.items()}
    # A module may stand at several places, and is meant by each of their names
    places = {place: first[id(one)] for place, one in everywhere(model) if id(one) in first}
    chosen: set[str] = set()
    for target in [train] if isinstance(train, str) else train or ():
        matches = {one for place, one in places.items() if _ends(place, target)}
        if not matches or not target:
            near = difflib.get_close_matches(str(target), modules, n=3, cutoff=0.4)
            raise PerakitError(
                f"train={short(target)} names no module of the model"
                + (f"; nearest: {', '.join(near)}" if near else "")
                + ": pass a list of names or dotted suffixes, as in train=['classifier']"
            )
        # A part that ends alike trains with the module that it is in
        chosen.update(one for one in matches if not within(one, matches - {one}))
    found = [place for place in modules if place in chosen]
    check(model, found, name)
    return found


def check(model: nn.Module, chosen: Sequence[str], name: str) -> None:
    """Refuse modules, by exact name, that adapter `name` cannot train in full."""
    modules = {place: module for place, module in walk(model) if place}
    check_outside(model, chosen)
    for place in chosen:
        _check(place, modules, chosen, name)
    _check_shared(model, modules, chosen)


def check_outside(model: nn.Module, places: Iterable[str]) -> None:
    """Refuse what is a part of a module that trains in full: the copy that answers is not it."""
    whole = [place for place, one in stand_ins(model).items() if isinstance(one, TrainedModule)]
    for place in places:
        around = next((one for one in whole if place.startswith(f"{one}.")), None)
        if around is not None:
            raise PerakitError(
                f"{place!r} is a part of {around!r}, which an adapter trains in full: delete that"
                " adapter first, or leave it out"
            )


def _ends(place: str, target: Any) -> bool:
    return f".{place}".endswith(f".{target}")


def within(place: str, modules: Iterable[str]) -> bool:
    """Is `place` one of `modules`, or a part of one?"""
    return any(place == module or place.startswith(f"{module}.") for module in modules)


def _check(place: str, modules: dict[str, nn.Module], chosen: Sequence[str], name: str) -> None:
    """Refuse a module that cannot stand in a model twice."""
    module = modules[place]
    base = plain(module)
    inside = {key: part for key, part in modules.items() if within(key, [place])}
    busy = [
        key
        for key, part in inside.items()
        if isinstance(plain(part), NF4Layer)
        or (isinstance(part, StandIn) and not (part is module and isinstance(part, TrainedModule)))
    ]
    wrong = ""
    if isinstance(module, TrainedModule) and name in module.adapters:
        wrong = f"adapter {name!r} trains it already: pass another name"
    elif busy:
        wrong = f"{busy[0]!r} carries an adapter or is in 4 bits: train what is neither"
    elif any(within(place, [other]) for other in chosen if other != place):
        wrong = "it is part of another module of train: leave one of them out"
    elif not any(p.is_floating_point() for p in base.parameters()):
        wrong = "it has no parameters: name one that has"
    elif hooked(inside.values()):
        wrong = "it has hooks, which a copy would not have: remove them, and hook it after attach"
    elif {"base", "adapters"} & set(base._modules):
        wrong = "it has a part called base or adapters, as its stand-in does: rename that"
    elif lacks := next(filter(None, map(missing, (*base.parameters(), *base.buffers()))), ""):
        wrong = f"a tensor of it {lacks}"
    elif type(base).forward is nn.Module.forward:
        wrong = "it is a container that is never called: name the modules in it"
    if wrong:
        raise PerakitError(f"cannot train {place!r}, a {type(base).__name__}, in full: {wrong}")


def _check_shared(model: nn.Module, modules: dict[str, nn.Module], chosen: Sequence[str]) -> None:
    """Refuse a weight that a module outside of `chosen` has too: a copy would no longer be it."""
    others = {
        id(parameter): place
        for place, module in modules.items()
        if not within(place, chosen)
        for parameter in plain(module)._parameters.values()
        if parameter is not None
    }
    shared = shared_weights(model) if chosen else {}
    for place, module in modules.items():
        if within(place, chosen):
            base = plain(module)
            found = [others.get(id(p)) for p in base._parameters.values() if p is not None]
            same = shared.get(id(base))
            found += [same] if same is not None and not within(same, chosen) else []
            other = next(filter(None, found), None)
            if other is not None:
                raise PerakitError(
                    f"cannot train {place!r} in full: its weight is shared with {other!r}, which"
                    " would keep the old one; pass both in train=[...], or untie them first"
                )


def copies(model: nn.Module, chosen: Sequence[str]) -> dict[str, nn.Module]:
    """A copy to train of each module; weights that they share are shared among the copies too."""
    modules, memo = dict(walk(model)), dict[int, Any]()
    made = {}
    for place in chosen:
        try:
            made[place] = copy.deepcopy(plain(modules[place]), memo)
        except (RuntimeError, TypeError) as error:  # of what a module may hold besides tensors
            raise PerakitError(
                f"cannot train {place!r} in full: it cannot be copied ({short(str(error))})"
            ) from error
        for part in made[place].modules():
            for key, buffer in part._buffers.items():
                if buffer is not None and 0 in buffer.stride():  # expanded: no file could fill it
                    part._buffers[key] = buffer.contiguous()
    return made


def numbers_of(place: str, module: nn.Module) -> dict[str, Tensor]:
    """Name -> value of what a file holds of a module that trains in full."""
    state: dict[str, Any] = module.state_dict(keep_vars=True)
    known = {id(tensor) for tensor in (*module.parameters(), *module.buffers())}
    for key, value in state.items():
        if id(value) not in known:
            raise PerakitError(
                f"cannot write {place!r}, which trains in full: its {key!r} is no parameter and no"
                " buffer; leave it out of train"
            )
        if lacks := "" if is_sharded(value) else missing(value):
            raise PerakitError(f"cannot write '{place}.{key}', which trains in full: it {lacks}")
    # A copy each: the file format refuses a weight that two modules share, unless it is told twice
    return {key: gathered(value.detach()).clone() for key, value in state.items()}


def check_finite(doing: str, modules: Mapping[str, nn.Module]) -> None:
    """Refuse to go on with a module that trains in full and holds NaN or inf.

    doing: what is refused, in words: "export".
    """
    for place, module in modules.items():
        for key, value in module.state_dict().items():
            if not value.isfinite().all():
                raise PerakitError(
                    f"cannot {doing} {place!r}, which trains in full: NaN or inf in its {key}; load"
                    " a good adapter or train with a lower lr"
                )


def untaken(model: nn.Module) -> Iterator[str]:
    """Parameters that require grad and that no adapter has, which no file would carry."""
    for place, module in walk(model):
        for key, parameter in plain(module)._parameters.items():
            if parameter is not None and parameter.requires_grad:
                yield f"{place}.{key}" if place else key


def check_taken(model: nn.Module, doing: str) -> None:
    """Refuse to write an adapter of a model in which more than adapters trains.

    doing: what is refused, in words: "save", "export".
    """
    lost = list(untaken(model))
    if lost:
        module = lost[0].rpartition(".")[0]
        raise PerakitError(
            f"cannot {doing} the adapter: {listed(lost)} require grad and are no part of it, so"
            f" what they learned would be lost; pass train=[{module!r}] to pk.attach, or"
            " requires_grad_(False) where they do not train"
        )


def check_one(model: nn.Module, names: Sequence[str]) -> None:
    """Refuse to put adapters into effect of which two train one module in full."""
    for place, module in stand_ins(model).items():
        owners = [name for name in names if name in module.adapters]
        if isinstance(module, TrainedModule) and len(owners) > 1:
            raise PerakitError(
                f"adapters {owners[0]!r} and {owners[1]!r} both train {place!r} in full, and it"
                " cannot be both: activate one of them"
            )
