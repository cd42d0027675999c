"""Which way an adapted layer goes, and what each way costs: told without running the layer.

Plans are counted by `perakit.fast.plans`. All else is found by running the layer's operations on
fake tensors, which have a device and no numbers: the way it goes, products, what autograd keeps.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from perakit import fast
from perakit.adapters import Adapter, Method
from perakit.bench.memory import saved_bytes
from perakit.errors import PerakitError
from perakit.fast import plans, seam
from perakit.fast.plans import PLANS, Plan, use_plan
from perakit.fast.product import AdaptedProduct
from perakit.fast.sources import Dense
from perakit.models.adapted import AdaptedLayer

# Names of ways that are no plan
DENSE, LEAN, PLAIN = "ΔW formed", "lean", "plain way"


class Place(NamedTuple):
    """Where a layer multiplies: T tokens, its weight (m, n), the dtype of W0 and x, the device."""

    tokens: int
    m: int
    n: int
    dtype: torch.dtype
    device: torch.device

    @property
    def base(self) -> int:
        """Operations of the frozen base in one step: x W0ᵀ, and g W0."""
        return 4 * self.m * self.n * self.tokens

    @property
    def wide(self) -> torch.dtype:
        """The dtype of the adapters."""
        return torch.promote_types(self.dtype, torch.float32)


@dataclass(frozen=True)
class Way:
    """One way through a layer and back.

    name: a plan's, DENSE, LEAN or PLAIN; flop: counted operations of a step beside the 4 m n T of
    its base; kept: bytes that autograd keeps for the backward pass, parameters left out.
    """

    name: str
    flop: int
    kept: int


@dataclass(frozen=True)
class Part:
    """What one adapter in effect does.

    adapter: its name; inner: K, the columns of B̂, None where ΔW has no factors; ways: those that
    there are for it here; chosen: the one that it goes; why: in words.
    """

    adapter: str
    method: Method
    inner: int | None
    ways: tuple[Way, ...]
    chosen: Way
    why: str


class Situation(NamedTuple):
    """All that decides how a layer goes; equal ones go alike.

    idle: why no adapter runs, or ""; formula: why the formula itself has to, or ""; apart: why the
    update is not added to W0, or ""; beside: because of the base or of other adapters; adapters:
    name, method in words and dropping of each in effect.
    """

    place: Place
    idle: str
    formula: str
    apart: str
    beside: bool
    adapters: tuple[tuple[str, str, bool], ...]


def situation(layer: AdaptedLayer, place: Place) -> Situation:
    """How things stand with a layer that is called now, with an x (T, n) as `place` says."""
    active = layer.active_adapters
    x = torch.empty(0, place.n, dtype=place.dtype, device=place.device)
    told = tuple(
        (name, repr(adapter.method), _drops(adapter))
        for name, adapter in zip(layer.active, active, strict=True)
    )
    idle = _idle(layer)
    if idle:
        return Situation(place, idle, "", "", False, told)
    beside = len(active) > 1 or layer.kind.product(layer.base) is not F.linear
    return Situation(place, "", _formula(active, x), _apart(layer, active, x), beside, told)


def _idle(layer: AdaptedLayer) -> str:
    if not layer.enabled:
        return "disabled: the base answers alone"
    if layer.merged is not None:
        return "merged: one product, with W0 + ΔW in the place of W0"
    return "" if layer.active else "no adapter in effect: the base answers alone"


def _formula(active: Sequence[Adapter], x: Tensor) -> str:
    """Why the seam leaves the layer to the plain way, or ""."""
    if plans.switched_off:
        return "asked for: the formula by autograd"
    if seam._watched(x):
        return "autocast, tracing or torch.func is at work, which need the formula itself"
    for adapter in active:
        name = adapter.method.name
        if type(adapter).forward not in seam.PLAIN:
            return f"{name} has a forward pass of its own"
        if (
            adapter._forward_pre_hooks
            or adapter._backward_pre_hooks
            or adapter._forward_hooks
            or adapter._backward_hooks
        ):
            return f"a hook waits for the call of {name}"
    return ""


def _apart(layer: AdaptedLayer, active: Sequence[Adapter], x: Tensor) -> str:
    """Why the update stays apart from W0, where a dense product is one more, or ""."""
    if len(active) > 1:
        return f"{len(active)} adapters in effect, whose updates are summed"
    if _drops(active[0]):
        return "dropout gives the update an input of its own"
    if layer.kind.product(layer.base) is not F.linear:
        return f"W0 is kept as {layer.kind.kept(layer.base)}"
    if x.dtype.itemsize < 4:
        return f"W0 is {in_words(x.dtype)}, to which the update is never added"
    return "" if seam._exact(x) else "float32 is multiplied by fewer bits here"


def _drops(adapter: Adapter) -> bool:
    return adapter.training and adapter.method.dropout > 0


def in_words(dtype: torch.dtype) -> str:
    """Without the library."""
    return str(dtype).removeprefix("torch.")


# --- what each way costs --------------------------------------------------------------------------


def part(here: Situation, name: str, like: Adapter) -> Part:
    """What the adapter `like`, called `name`, does in a situation in which it runs."""
    (T, m, n, dtype, device), method = here.place, like.method
    with FakeTensorMode(allow_non_fake_inputs=True):
        W0 = torch.empty(m, n, dtype=dtype, device=device)
        adapter: Adapter = type(like)(method, W0).train(like.training)
        plain, _ = _by_running(adapter, here, PLAIN, "reference")
        if here.formula:
            return Part(name, method, None, (plain,), plain, here.formula)
        source, parameters = seam._source(adapter, W0)
        apart = here.apart
        if not apart and parameters[-1].dtype != dtype:
            apart = f"its factors are {in_words(parameters[-1].dtype)}, wider than W0"
        if isinstance(source, Dense):
            way, _ = _by_running(adapter, here, DENSE)
            more = f"; {apart}, so it is one product more" if apart else ""
            why = f"{method.name} has no factors: ΔW itself is made, and one product{more}"
            return Part(name, method, None, (way, plain), way, why)
        (_, K), fused = source.shape(*parameters), not apart
        ways = {}
        for plan in PLANS:
            flop = plans.flop(plan, T, m, n, K, fused)
            way, took = _by_running(adapter, here, str(plan), plan, flop)
            if took:  # on a GPU a half-precision base is multiplied in one way
                ways[way.name] = way
        # The seam itself is asked
        factored = plans.flop(PLANS[0], T, m, n, K)
        lean, took = _by_running(adapter, here, LEAN, flop=factored)
        chosen = ways[str(took[0])] if took else lean
        if took:
            lean, other = _by_running(adapter, here, LEAN, "lean", factored)
        if not took or not other:
            ways[LEAN] = lean
    why = "the fewest operations of the eight plans" if took else "few operations, so calls decide"
    if not took and dtype.itemsize < 4:
        why = f"products in {in_words(dtype)}, as the base's; the update is never added to W0"
    why = "asked for" if plans.wanted else why
    why += f"; {apart}, so a dense product is one more" if took and apart else ""
    return Part(name, method, K, (*ways.values(), plain), chosen, why)


def _by_running(
    adapter: Adapter, here: Situation, name: str, plan: Any = None, flop: int | None = None
) -> tuple[Way, list[Plan]]:
    """A way's bytes and products, as a step of fake tensors has them, and the plans that it took.

    plan: what `use_plan` takes, None: what it takes now; flop: its products where they are known,
    None: they are counted.
    """
    T, m, n, dtype, device = here.place
    W0 = torch.empty(m, n, dtype=dtype, device=device)
    x = torch.empty(T, n, dtype=dtype, device=device, requires_grad=True)
    linear = _base if here.beside else F.linear

    def run() -> Tensor:
        with use_plan(plan) if plan else nullcontext():
            y = None if plans.switched_off else fast.forward(x, W0, None, linear, [adapter])
            return (F.linear(x, W0) + adapter(x, W0)).to(dtype) if y is None else y

    held = [W0, *adapter.parameters(), *adapter.buffers()]
    try:
        if flop is not None:
            y, kept = saved_bytes(run, held)
            return Way(name, flop, kept), _plans(y)
        with FlopCounterMode(display=False) as counter:
            y, kept = saved_bytes(run, held)
            y.backward(torch.ones_like(y))
    except (RuntimeError, NotImplementedError) as error:
        raise PerakitError(
            f"{adapter.method.name} reads numbers while it multiplies, and cannot be counted"
            f" without them: {error}"
        ) from error
    return Way(name, counter.get_total_flops() - here.place.base, kept), []


def _plans(y: Tensor) -> list[Plan]:
    """The plans by which y was multiplied."""
    found, todo = [], [y.grad_fn]
    while todo:
        node: Any = todo.pop()
        if node is not None:
            todo += [before for before, _ in node.next_functions]
            if node.name() == f"{AdaptedProduct.__name__}Backward":
                found.append(node.plan)
    return found


def _base(x: Tensor, W0: Tensor, bias: Tensor | None) -> Tensor:
    """A base's product that the seam does not take for F.linear, so that the update stays apart."""
    return F.linear(x, W0, bias)
