"""How the cost of a step grows: the figures of a benchmark."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from perakit import plots
from perakit.bench.memory import PLAIN
from perakit.bench.ratios import (
    TITLES,
    Cell,
    Spread,
    counted,
    find,
    group,
    paired,
    place,
    ranks,
)
from perakit.plots.pictures import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RANK = 8  # of the panels against tokens and width, where it was measured


def figures(document: dict[str, Any]) -> dict[str, Figure]:
    """File name -> figure, two for each device and dtype whose layers were measured.

    They are step times, and ratios where there are rivals.
    """
    return {name: draw() for name, draw in drawings(document).items()}


def drawings(document: dict[str, Any]) -> dict[str, Callable[[], Figure]]:
    """File name -> what draws the figure, for a page that needs the names alone."""
    found: dict[str, Callable[[], Figure]] = {}
    layers = document.get("layers", [])
    for device, dtype in dict.fromkeys(map(group, layers)):
        cells = [cell for cell in layers if group(cell) == (device, dtype)]
        found[f"performance-step-time-{device}-{dtype}.png"] = partial(step_times, cells)
        took_part = {result["contender"] for cell in cells for result in cell["results"]}
        rivals = [rival for rival in ("authors", PLAIN) if {rival, "pera"} <= took_part]
        if rivals:
            found[f"performance-ratios-{device}-{dtype}.png"] = partial(ratios, cells, rivals)
    return found


def step_times(cells: list[Cell]) -> Figure:
    """Seconds of a step against rank, against tokens and against the size of the layer.

    The other two are held each time; a line for each contender.
    """
    from matplotlib import style

    one_layer = [cell for cell in cells if place(cell) == place(cells[0])]
    longest = max(one_layer, key=lambda cell: cell["tokens"])
    rank = RANK if RANK in ranks(longest) else ranks(longest)[0]
    held = f"{longest['tokens']:,} tokens"
    of_equal_length = [cell for cell in cells if cell["tokens"] == longest["tokens"]]
    with style.context(plots.STYLE):
        figure = new_figure(11.0, 4.4)
        panels = figure.subplots(1, 3)
        against_rank = [(r, longest, r) for r in ranks(longest)]
        against_tokens = [(cell["tokens"], cell, rank) for cell in one_layer]
        against_size = [(cell["m"] * cell["n"], cell, rank) for cell in of_equal_length]
        _panel(panels[0], "rank r", f"{place(longest)}, {held}", against_rank)
        _panel(panels[1], "tokens T", f"{place(longest)}, rank {rank}", against_tokens)
        _panel(panels[2], "weights m n", f"{held}, rank {rank}", against_size)
        _share_legend(figure, panels, columns=4)
    return figure


def _panel(ax: Any, xlabel: str, title: str, points: list[tuple[int, Cell, int]]) -> None:
    """The lines of one panel, from (x, cell, rank)."""
    lines = {
        name: [
            (x, Spread.of(result["seconds"]).median)
            for x, cell, rank in points
            if (result := find(cell, contender, rank))
        ]
        for contender, name in TITLES.items()
        if contender not in ("pera mkl", "prototype")  # whose lines would lie on PERA's
    }
    floor = [(x, seconds) for x, cell, rank in points if (seconds := floor_of(cell, rank))]
    plots.plot_step_time(
        {name: line for name, line in lines.items() if line},
        floor=floor,
        xlabel=xlabel,
        title=title,
        ax=ax,
    )


def floor_of(cell: Cell, rank: int) -> float | None:
    """Seconds that PERA's counted operations would take at the base's speed in the same cell."""
    base, pera = find(cell, "base", rank), find(cell, "pera", rank)
    return Spread.of(base["seconds"]).median * counted(pera, base) if base and pera else None


def ratios(cells: list[Cell], rivals: list[str]) -> Figure:
    """PERA's time over that of each rival, against tokens.

    A row a rival, a column a layer, a line a rank.
    """
    from matplotlib import style

    layers = list(dict.fromkeys(map(place, cells)))
    with style.context(plots.STYLE):
        figure = new_figure(1.2 + 3.4 * len(layers), 0.8 + 2.8 * len(rivals))
        panels = figure.subplots(len(rivals), len(layers), sharey="row", sharex=True, squeeze=False)
        for row, under in zip(panels, rivals, strict=True):
            for ax, layer in zip(row, layers, strict=True):
                _ratio_panel(ax, layer, under, [cell for cell in cells if place(cell) == layer])
                ax.label_outer()
        _share_legend(figure, panels.ravel(), columns=5)
    return figure


def _ratio_panel(ax: Any, layer: str, under: str, cells: list[Cell]) -> None:
    """The paired ratios of one layer, one line a rank; beside plain LoRA the counted ones."""
    lines: dict[str, list[tuple[float, Spread]]] = {}
    counts: dict[str, list[tuple[float, float]]] = {}
    for cell in cells:
        for rank in ranks(cell):
            ours, theirs = find(cell, "pera", rank), find(cell, under, rank)
            if ours and theirs:
                lines.setdefault(f"r = {rank}", []).append((cell["tokens"], paired(ours, theirs)))
                counts.setdefault(f"r = {rank}", []).append((cell["tokens"], counted(ours, theirs)))
    plots.plot_ratio(
        lines, counted=counts, xlabel="tokens T", title=f"{layer}: PERA / {TITLES[under]}", ax=ax
    )


def _share_legend(figure: Figure, panels: Iterable[Any], columns: int) -> None:
    """One legend below all panels in the place of one in each."""
    handles = {
        label: handle
        for ax in panels
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)
    }
    for ax in panels:
        ax.get_legend().remove()
    figure.legend(
        handles.values(),
        handles.keys(),
        loc="outside lower center",
        ncols=columns,
        frameon=False,
        handlelength=2.8,
    )
