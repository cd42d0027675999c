"""What a benchmark says: tables and verdicts for a terminal, and docs/performance.md."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from perakit.adapters import Method
from perakit.bench.figures import drawings, figures, floor_of
from perakit.bench.measured import renewed
from perakit.bench.memory import KINDS, METHODS, PLAIN, of_model
from perakit.bench.promises import ROUNDS, verdicts
from perakit.bench.ratios import (
    TITLES,
    Cell,
    Result,
    Spread,
    counted,
    find,
    group,
    of_medians,
    paired,
    place,
    ranks,
)
from perakit.bench.verdicts import case_of, choices, where
from perakit.models.catalogue import describe
from perakit.table import Table

__all__ = ["figures", "page", "table"]

# Of each device, what renews its part of the page, and the file of its numbers
COMMANDS = {"cpu": "perakit bench --docs docs", "cuda": "perakit bench --docs docs --device cuda"}
NUMBERS = {"cpu": "performance.json", "cuda": "performance-cuda.json"}
STEP = (
    ("pera", "authors"),
    ("pera mkl", "authors"),
    ("prototype", "authors"),
    ("prototype", PLAIN),
    ("pera", PLAIN),
    ("lora", PLAIN),
    ("lora", "peft r"),
    ("pera", "lora"),
    ("pera", "peft r"),
    ("pera", "peft K"),
)
INFERENCE = (
    ("merged", "base"),
    ("pera cached", "base"),
    ("pera expanded", "base"),
    (PLAIN, "base"),
    ("pera cached", PLAIN),
)
# Pairs for which the ratio of counted operations stands beside the measured one
COUNTED = (("pera", PLAIN), ("pera cached", PLAIN))
PLACE = ("where", "tokens", "rank")
RIVALS = ("authors", PLAIN, "peft r", "peft K")  # of PERA, named where they are faster
GPT2, TOKENS, RANK = "gpt2", 1024, 8  # of the memory of a whole model


class Section(NamedTuple):
    """A table, and what it is of."""

    title: str
    table: Table


def table(document: dict[str, Any]) -> str:
    """For a terminal: the tables, the machine, and a line for each promise."""
    parts = [f"{section.title}\n\n{section.table}" for section in sections(document)]
    return "\n\n".join([*parts, made_from(document), "\n".join(promises(document))])


def page(document: dict[str, Any], before: str) -> str:
    """docs/performance.md with the measured part of the document's device renewed.

    before: the page as it is. Raises PerakitError where that has no such part.
    """
    pictures = [
        f"![{name.removesuffix('.png').replace('-', ' ')}]({name})" for name in drawings(document)
    ]
    parts = [
        f"### {section.title}\n\n{section.table.markdown()}"
        for section in (*misses(document), *sections(document), *slower(document))
    ]
    text = [
        made_from(document),
        "### What was promised",
        "\n".join(promises(document)),
        *pictures,
        *parts,
    ]
    return renewed(before, COMMANDS[device_of(document)], "\n\n".join(text))


def promises(document: dict[str, Any]) -> list[str]:
    """Each verdict in a line, numbered, but for those about other devices."""
    here = device_of(document)
    return [
        f"{number}. {verdict}"
        for number, verdict in enumerate(verdicts(document), start=1)
        if verdict.findings or here in verdict.devices
    ]


def device_of(document: Mapping[str, Any]) -> str:
    """ "cpu", or "cuda" of whatever name."""
    return "cpu" if document["made_from"]["machine"]["device"] == "cpu" else "cuda"


def made_from(document: dict[str, Any]) -> str:
    """The machine, the versions, the seed and the rounds, in a sentence each."""
    about = document["made_from"]
    machine = about["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    lines = [
        f"{_host(machine)}; device {machine['device']};",
        (
            f"{versions}; seed {about['seed']}; formulas {about['formulas_sha256'][:12]};"
            f" {about['repeats']} rounds, of inference twice, of plans a third as many."
        ),
        f"Measured by `{about['command']}`; numbers: `{NUMBERS[device_of(document)]}`.",
    ]
    if "note" in about:  # where somebody had more to say of a run than the command knows
        lines.append(about["note"])
    if about["repeats"] < ROUNDS:
        lines.append(f"Fewer than {ROUNDS} rounds are a glance: nothing follows from them.")
    if "peft" not in machine["versions"]:
        lines.append("PEFT was not installed: its columns are missing.")
    return "\n".join(lines)


def _host(machine: dict[str, Any]) -> str:
    """The processor, or that it was not written down: an older document may lack it."""
    if "cpu" not in machine:
        return "The processor was not recorded"
    return (
        f"{machine['cpu']}, {machine['cores']} cores, {machine['threads']} threads, load"
        f" {machine['load']:g}"
    )


def sections(document: dict[str, Any]) -> Iterator[Section]:
    """The tables of all parts that were measured."""
    for part, title, pairs in (
        ("layers", "One layer, forward and backward", STEP),
        ("models", "A whole training step, AdamW included", STEP),
        ("inference", "Inference, one layer", INFERENCE),
    ):
        for cells in groups(document.get(part, [])):
            dtype, device = cells[0]["dtype"], cells[0]["device"]
            words = f"{title}: milliseconds, {dtype} on {device}"
            yield Section(words, times(cells))
            yield Section(f"{title}: ratios, {dtype} on {device}", ratios(cells, pairs))
    if document.get("host"):
        yield Section("A tiny layer, one thread, two contenders at a time", host(document["host"]))
    if document.get("plans"):
        yield Section("The counted plan against the best of all", plans(document["plans"]))
    if document.get("memory"):
        yield Section("Memory of one layer in training, KiB", memory(document["memory"]))
        yield Section(
            f"Memory of the 124M GPT-2 in training, rank {RANK} on all projections, {TOKENS}"
            " tokens: predicted MiB",
            memory_of_model(),
        )


def misses(document: dict[str, Any]) -> Iterator[Section]:
    """Every cell that breaks a promise, the worst of each first; no table where there is none."""
    rows = [
        [f"{number}", miss.where, *miss.numbers]
        for number, verdict in enumerate(verdicts(document), start=1)
        for miss in verdict.misses
    ]
    if rows:
        yield Section(
            "Where a promise is broken", Table(("promise", "cell", "ratio", "limit"), rows)
        )


def slower(document: dict[str, Any]) -> Iterator[Section]:
    """Every cell in which PERA's step took longer than another's; no table where there is none."""
    found = [
        (paired(ours, theirs), where(cell, rank), TITLES[rival], counted(ours, theirs))
        for cell in (*document.get("layers", []), *document.get("models", []))
        for rank in ranks(cell)
        for rival in RIVALS
        if (ours := find(cell, "pera", rank)) and (theirs := find(cell, rival, rank))
    ]
    rows = [
        [cell, rival, _ratio(spread), f"{floor:.2f}"]
        for spread, cell, rival, floor in sorted(found, reverse=True)
        if spread.median > 1
    ]
    if rows:
        foot = f"{len(rows)} of {len(found)} comparisons; counted: the ratio of counted operations."
        yield Section(
            "Where PERA is slower", Table(("cell", "than", "ratio", "counted"), rows, foot)
        )


# --- time -----------------------------------------------------------------------------------------


def groups(cells: Sequence[Cell]) -> list[list[Cell]]:
    """The cells of each device and dtype."""
    return [
        [cell for cell in cells if group(cell) == key] for key in dict.fromkeys(map(group, cells))
    ]


def times(cells: Sequence[Cell]) -> Table:
    """Median milliseconds of each contender, and the floor of PERA's counted operations."""
    names = list(dict.fromkeys(result["contender"] for cell in cells for result in cell["results"]))
    rows = []
    for cell in cells:
        for rank in ranks(cell):
            least = floor_of(cell, rank)
            row = [_milliseconds(find(cell, name, rank)) for name in names]
            row.append(_short(1e3 * least) if least else "")
            rows.append([place(cell), f"{cell['tokens']}", f"{rank}", *row])
    foot = "Median ± half the distance of the quartiles."
    if any(row[-1] for row in rows):
        foot += " Counted: what PERA's operations take at the speed of the base."
    return _without_empty(
        Table([*PLACE, *(TITLES[name] for name in names), "PERA, counted"], rows, foot)
    )


def ratios(cells: Sequence[Cell], pairs: Sequence[tuple[str, str]]) -> Table:
    """Paired ratios of contenders, and beside PERA / plain LoRA the counted one."""
    rows = []
    for cell in cells:
        for rank in ranks(cell):
            row = [place(cell), f"{cell['tokens']}", f"{rank}"]
            for over, under in pairs:
                ours, theirs = find(cell, over, rank), find(cell, under, rank)
                row.append(_ratio(paired(ours, theirs)) if ours and theirs else "")
                if (over, under) in COUNTED:
                    row.append(f"{counted(ours, theirs):.2f}" if ours and theirs else "")
            rows.append(row)
    columns = list(PLACE)
    for over, under in pairs:
        columns.append(f"{TITLES[over]} / {TITLES[under]}")
        if (over, under) in COUNTED:
            columns.append("counted")
    foot = "Median (lower ... upper quartile) of the ratios taken round by round."
    return _without_empty(Table(columns, rows, foot))


def host(cells: Sequence[Cell]) -> Table:
    """The two of each cell: median microseconds, their ratio, and the operations of a step."""
    rows = []
    for cell in cells:
        over, under = pair = cell["results"]
        row = [f"{over['rank']}", *(TITLES[one["contender"]] for one in pair)]
        row += [_short(1e6 * Spread.of(one["seconds"]).median) for one in pair]
        row += [f"{of_medians(over, under):.2f}", *(f"{one['operations']}" for one in pair)]
        rows.append(row)
    first = cells[0]
    foot = (
        f"{place(first)}, {first['tokens']} tokens. Medians of"
        f" {len(first['results'][0]['seconds'])} single steps each; the two take turns. Ratio: of"
        " the medians. Operations: of torch, of one step, that are no views; on a GPU each is a"
        " launch, but for an empty tensor."
    )
    columns = ("rank", "over", "under", "µs", "µs", "ratio", "operations", "operations")
    return Table(columns, rows, foot)


def plans(cells: Sequence[Cell]) -> Table:
    """The time of the counted choice over that of the best plan, and which plan that was.

    A row for a cell and contender.
    """
    columns = sorted({rank for cell in cells for rank in ranks(cell)})
    rows = []
    for cell in cells:
        found = {(choice.contender, choice.rank): choice for choice in choices(cell)}
        for name in dict.fromkeys(contender for contender, _ in found):
            here = (found.get((name, rank)) for rank in columns)
            row = [f"{choice.ratio:.2f} ({choice.best})" if choice else "" for choice in here]
            rows.append([place(cell), f"{cell['tokens']}", cell["dtype"], TITLES[name], *row])
    foot = (
        "Time of the plan chosen by counting / time of the fastest (output/input gradient/factor"
        " gradients: f factored, d dense)."
    )
    return Table((*PLACE[:2], "dtype", "adapter", *(f"r = {rank}" for rank in columns)), rows, foot)


# --- memory ---------------------------------------------------------------------------------------


def memory(rows: Sequence[dict[str, Any]]) -> Table:
    """Measured bytes of every method on the first row's layer, and predicted where they differ."""
    same = [row for row in rows if case_of(row) == case_of(rows[0])]
    cells = [
        [_method(row["method"]), f"{row['inner']}", *(_kibibytes(row, kind) for kind in KINDS)]
        for row in same
    ]
    first = rows[0]
    exact = sum(row["measured"] == row["predicted"] for row in rows)
    foot = (
        f"{first['m']} x {first['n']}, {first['tokens']} tokens, rank {first['rank']},"
        f" {first['dtype']}. Predicted to the byte in {exact} of {len(rows)} layers, all of them in"
        " the JSON; where it differs the prediction stands behind."
    )
    return Table(("method", "K", *KINDS), cells, foot)


def memory_of_model() -> Table:
    """MiB of every method on the whole GPT-2, by the closed forms."""
    rows = []
    for name in METHODS:
        found = of_model(describe(GPT2), name, TOKENS, RANK)
        rows.append([_method(name), *(f"{found[kind] / 2**20:.1f}" for kind in KINDS)])
    foot = (
        "Saved: by the adapted layers alone; attention, norms and the frozen weights come on top."
    )
    return Table(("method", *KINDS), rows, foot)


def _method(name: str) -> str:
    return TITLES[PLAIN] if name == PLAIN else Method.registry[name].__name__


def _kibibytes(row: dict[str, Any], kind: str) -> str:
    measured, predicted = (row[side][kind] / 2**10 for side in ("measured", "predicted"))
    behind = "" if measured == predicted else f" (predicted {predicted:.1f})"
    return f"{measured:.1f}{behind}"


# --- cells of tables ------------------------------------------------------------------------------


def _milliseconds(result: Result | None) -> str:
    if result is None:
        return ""
    spread = Spread.of(result["seconds"])
    half = (spread.high - spread.low) / 2
    return f"{_short(1e3 * spread.median)} ± {_short(1e3 * half, digits=2)}"


def _short(value: float, digits: int = 3) -> str:
    """So many digits, and never fewer than stand before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.{digits}g}"


def _ratio(spread: Spread) -> str:
    return f"{spread.median:.2f} ({spread.low:.2f} ... {spread.high:.2f})"


def _without_empty(table: Table) -> Table:
    """The table without columns in which nothing was measured."""
    filled = [k for k in range(len(table.columns)) if any(row[k] for row in table.rows)]
    rows = [[row[k] for k in filled] for row in table.rows]
    return Table([table.columns[k] for k in filled], rows, table.foot)
