"""`pk.explain` and `perakit explain`: what every adapted layer does in a step, and why."""

from __future__ import annotations

import copy
import html
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from perakit.adapters import Method
from perakit.bench.contenders import BUILDERS, draw, training_step
from perakit.bench.measured import machine, made_from, plain
from perakit.bench.ratios import Spread
from perakit.bench.settings import LARGEST_SIZE, check_memory
from perakit.bench.timing import Step, interleave
from perakit.bench.ways import DENSE, LEAN, PLAIN, Part, Place, Way, in_words, part, situation
from perakit.errors import PerakitError, printable, short
from perakit.fast.plans import PLANS
from perakit.formulas import check_count
from perakit.models.adapted import AdaptedLayer, require_adapters
from perakit.models.catalogue import label
from perakit.models.layers import DTYPES
from perakit.models.parts import Parts
from perakit.table import Table

LORA = "plain LoRA"
ROUNDS = 9  # of a measurement
LEGEND = (
    "a plan, as f/d/f: output / input gradient / factor gradients, by the factors (f) or dense (d)"
    "\nlean: by the factors, with the fewest calls; kept: for the backward pass of one layer"
)


@dataclass(frozen=True)
class Group:
    """Layers that go alike.

    layers: their names; place: where each multiplies; parts: one for each adapter that runs; idle:
    why none does, or ""; ratios: of measured times over plain LoRA's, one a round.
    """

    layers: tuple[str, ...]
    place: Place
    parts: tuple[Part, ...]
    idle: str
    ratios: Mapping[str, list[float]] = field(default_factory=dict)

    @property
    def lora(self) -> Way:
        """LoRA as anybody would write it, of the same rank; of several adapters, their sum."""
        T, m, n, *_ = self.place
        rank = sum(part.method.rank for part in self.parts)
        kept = self.place.wide.itemsize * T * (n + rank)
        return Way(f"{LORA}, r = {rank}", 6 * rank * (m + n) * T, kept)

    @property
    def flop(self) -> int:
        """Operations of one layer as chosen, its base's too."""
        return self.place.base + sum(part.chosen.flop for part in self.parts)

    @property
    def title(self) -> str:
        """The layers, their shape, and where they multiply."""
        T, m, n, dtype, device = self.place
        ends = [
            next((word for word in reversed(name.split(".")) if not word.isdecimal()), name)
            for name in self.layers
        ]
        names = ", ".join(f"{name} x {count}" for name, count in Counter(ends).items())
        size, unit = _unit(self.place.base, 1000, FLOP)
        return (
            f"{printable(names if len(ends) > 1 else self.layers[0])}: {m} x {n}, T = {T:,},"
            f" {in_words(dtype)} on {device}, base {self.place.base / size:,.3f} {unit}"
        )

    def blocks(self) -> list[str | Table]:
        """What is shown of the group: its title, and a table for each adapter."""
        shown: list[str | Table] = ["\n" + self.title, *([self.idle] if self.idle else [])]
        for one in self.parts:
            several = f"adapter {one.adapter!r}: " if len(self.parts) > 1 else ""
            K = "" if one.inner is None else f", K = {one.inner}"
            shown.append(f"{several}{_method(one.method)} r = {one.method.rank}{K}")
            ways = (*one.ways, self.lora)
            flop, flops = _unit(self.place.base, 1000, FLOP)
            size, sizes = _unit(max(way.kept for way in ways), 1024, BYTES)
            rows = [
                [
                    way.name + " <- chosen" * (way is one.chosen),
                    f"{way.flop / flop:,.3f}",
                    f"{1 + way.flop / max(1, self.place.base):.2f}",
                    f"{way.kept / size:,.2f}",
                ]
                for way in ways
            ]
            foot = [f"chosen: {one.why}", *(self._measured() if one is self.parts[-1] else ())]
            columns = ("way", f"{flops} beside the base", "step / base", f"{sizes} kept")
            shown.append(Table(columns, rows, "\n".join(foot)))
        return shown

    def _measured(self) -> list[str]:
        """Medians and quartiles of what was measured, in words."""
        spreads = {name: Spread.of(ratios) for name, ratios in self.ratios.items()}
        return [
            f"measured: {name} takes {one.median:.2f} ({one.low:.2f} to {one.high:.2f}) of plain"
            " LoRA's time"
            for name, one in spreads.items()
        ]

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON."""
        T, m, n, dtype, device = self.place
        return {
            "layers": list(self.layers),
            "tokens": T,
            "m": m,
            "n": n,
            "dtype": in_words(dtype),
            "device": str(device),
            "flop": {"base": self.place.base, "chosen": self.flop},
            "idle": self.idle,
            "plain_lora": _way(self.lora),
            "adapters": [
                {
                    "name": one.adapter,
                    "method": one.method.to_dict(),
                    "inner": one.inner,
                    "ways": [_way(way) for way in one.ways],
                    "chosen": one.chosen.name,
                    "why": one.why,
                }
                for one in self.parts
            ],
            "over_plain_lora": plain(self.ratios),
        }


@dataclass(frozen=True)
class Explanation:
    """What the adapted layers of a model do in one step, forward and backward; prints as tables.

    groups: the layers, those together that go alike.
    """

    groups: tuple[Group, ...]

    def flop(self) -> dict[str, int]:
        """Operations of all adapted layers: the frozen base, with plain LoRA, and as chosen."""
        return {
            name: sum(len(group.layers) * count(group) for group in self.groups)
            for name, count in TOTALS.items()
        }

    def blocks(self) -> list[str | Table]:
        """What is shown: the sums, then each group."""
        total, tokens = self.flop(), self.groups[0].place.tokens
        base = total["frozen base"]
        size, unit = _unit(base, 1000, FLOP)
        rows = [[name, f"{n / size:,.3f}", f"{n / max(1, base):.2f}"] for name, n in total.items()]
        layers = sum(len(group.layers) for group in self.groups)
        title = f"{layers} adapted layer{'s' * (layers > 1)}, {tokens:,} tokens"
        head = Table((title, f"{unit} a step", "step / base"), rows, LEGEND)
        return [head, *(block for group in self.groups for block in group.blocks())]

    def to_dict(self, seed: int = 0) -> dict[str, Any]:
        """As plain JSON, with what the numbers depend on; seed: of measured layers."""
        measured = {"machine": machine()} if any(group.ratios for group in self.groups) else {}
        return {
            "made_from": made_from(seed) | measured,
            "flop": self.flop(),
            "groups": [group.to_dict() for group in self.groups],
        }

    def __str__(self) -> str:
        return "\n".join(map(str, self.blocks()))

    def _repr_html_(self) -> str:
        return "".join(
            block._repr_html_() if isinstance(block, Table) else f"<p>{html.escape(block)}</p>"
            for block in self.blocks()
        )


TOTALS: dict[str, Callable[[Group], int]] = {
    "frozen base": lambda group: group.place.base,
    "with plain LoRA": lambda group: group.place.base + group.lora.flop,
    "as chosen": lambda group: group.flop,
}


def explain(
    model: nn.Module,
    tokens: int,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Explanation:
    """For every adapted layer: the ways that it can go, counted, the one that it goes, and why.

    Nothing is run: operations and bytes are those of one step, with gradients of the input and of
    every factor, and the choice is the one that the layer itself would make if it were called now.
    So it sees what is disabled, merged or active, dropout, autocast and `use_plan`.
    model: with adapters; tokens: T, the rows that a layer is given in one step, batch times
    context; dtype, device: as if the model were moved there first, None: as it is.
    Operations are multiplications and additions of products; making PERA's features is not in them.
    Returns an `Explanation`, which prints as tables; `to_dict()` is JSON. Layers of equal shape and
    method are shown together.
    Raises PerakitError for a model without adapters, tokens below 1, a dtype in which no layer
    multiplies, and a device that is not here.

    >>> model = torch.nn.Sequential(torch.nn.Linear(96, 64))
    >>> report = pk.attach(model, pk.PERA(rank=4), ["0"])
    >>> (group,) = pk.explain(model, tokens=512).groups
    >>> group.parts[0].chosen.name, group.parts[0].why
    ('d/d/f', 'the fewest operations of the eight plans')
    """
    layers = require_adapters(model)
    check_count("tokens", tokens, most=LARGEST_SIZE)
    if dtype is not None and dtype not in DTYPES:
        raise PerakitError(
            f"dtype={short(dtype)} has no plan: choose one of {', '.join(map(str, DTYPES))}, or"
            " None for each layer's own"
        )
    there = None if device is None else _there(device)
    alike: dict[Any, list[str]] = {}
    for name, layer in layers.items():
        here = situation(layer, _place(layer, int(tokens), dtype, there))
        alike.setdefault(here, []).append(name)
    groups = []
    for here, names in alike.items():
        layer = layers[names[0]]
        named = zip(layer.active, layer.active_adapters, strict=True)
        with torch.inference_mode(False), torch.enable_grad():
            parts = () if here.idle else tuple(part(here, *one) for one in named)
        groups.append(Group(tuple(names), here.place, parts, here.idle))
    return Explanation(tuple(groups))


def _place(
    layer: AdaptedLayer, tokens: int, dtype: torch.dtype | None, device: torch.device | None
) -> Place:
    m, n = layer.kind.shape(layer.base)
    own = next(iter((*layer.base.parameters(), *layer.base.buffers()))).device
    return Place(tokens, m, n, dtype or layer.kind.dtype(layer.base), device or own)


def _there(device: Any) -> torch.device:
    """The device, which must be here and hold numbers."""
    found: torch.device | None
    try:
        found = torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, NotImplementedError, TypeError, ImportError):
        found = None
    if found is None or found.type == "meta":
        raise PerakitError(
            f"device={short(device)} is not available here: choose cpu, or None for the model's own"
        )
    return found


# --- measuring ------------------------------------------------------------------------------------


def measure(
    explanation: Explanation, model: nn.Module, rounds: int = ROUNDS, seed: int = 0
) -> Explanation:
    """The same, with times: of one layer of each group, as chosen and otherwise, over plain LoRA.

    A copy of the group's first layer takes steps as chosen, by the plan with the fewest operations
    where that is another one, and the plain way, and plain LoRA on the same base takes turns with
    them. model: the one that was explained; rounds: how often each is measured; seed: of inputs.
    """
    check_count("rounds", rounds)
    layers = require_adapters(model)
    return Explanation(
        tuple(
            group if group.idle else replace(group, ratios=_ratios(layers, group, rounds, seed))
            for group in tqdm(explanation.groups, desc="measuring", unit="layer", disable=None)
        )
    )


def _ratios(
    layers: Mapping[str, AdaptedLayer], group: Group, rounds: int, seed: int
) -> dict[str, list[float]]:
    T, m, n, dtype, device = group.place
    if device.type == "meta":
        raise PerakitError(f"{group.title}: nothing takes time there, load the model first")
    numbers = 2 * m * n + 2 * T * (m + n)
    check_memory(group.title, dtype.itemsize * numbers, "fewer tokens")
    layer = copy.deepcopy(layers[group.layers[0]]).to(device, dtype)
    generator = torch.Generator().manual_seed(seed)
    x, g = (torch.randn(T, width, generator=generator).to(device, dtype) for width in (n, m))
    x.requires_grad_()
    rank = sum(one.method.rank for one in group.parts)
    beside = BUILDERS["plain lora"](layer.base, draw(m, n, rank, layer.W0, seed))
    steps: dict[str, Step] = {
        name: training_step(layer, plan, x, g) for name, plan in _timed(group.parts).items()
    }
    seconds = interleave(steps | {LORA: training_step(beside, None, x, g)}, rounds, device)
    return {
        name: [a / b for a, b in zip(seconds[name], seconds[LORA], strict=True)] for name in steps
    }


def _timed(parts: tuple[Part, ...]) -> dict[str, Any]:
    """What is timed, and what `use_plan` takes for it; of several adapters each chooses itself."""
    asked = {str(plan): plan for plan in PLANS} | {PLAIN: "reference", LEAN: "lean", DENSE: None}
    if len(parts) > 1:
        return {"as chosen": None, PLAIN: "reference"}
    (one,) = parts
    fewest = min(one.ways, key=lambda way: way.flop)
    names = dict.fromkeys((one.chosen.name, fewest.name, PLAIN))
    return {name: asked[name] for name in names}


# --- in words -------------------------------------------------------------------------------------


def _method(method: Method) -> str:
    """Its name and its options, without the rank."""
    if isinstance(method, Parts):
        return f"{_method(method.of)} on {', '.join(method.parts)}, each"
    return label(method, with_rank=False)


def _way(way: Way) -> dict[str, Any]:
    return {"way": way.name, "flop": way.flop, "kept": way.kept}


FLOP = ("FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP", "PFLOP")
BYTES = ("B", "KiB", "MiB", "GiB", "TiB")


def _unit(largest: int, step: int, names: tuple[str, ...]) -> tuple[int, str]:
    """The largest unit that `largest` has one of: how many it is, and its name."""
    power = next((k for k in range(len(names)) if largest < step ** (k + 1)), len(names) - 1)
    return step**power, names[power]
