"""The picture of the house: `python docs/making/architecture.py docs` writes architecture.png.

It is drawn from the imports of perakit's files, and so is the table of docs/architecture.md, which
the same command renews. `tests/test_rooms.py` holds the imports to the order of ROOMS.
"""

from __future__ import annotations

import ast
import json
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]

# From the ground up: a room imports from those before it. What is named is a file or a folder.
ROOMS = {
    "errors": ("errors", "files", "rows", "table"),
    "formulas": ("formulas", "families"),
    "adapters": ("adapters",),
    "fast": ("fast",),
    "models": ("models", "peft"),
    "strategies": ("strategies",),
    "theory": ("theory",),
    "laws": ("laws", "testing"),
    "plots": ("plots",),
    "explorer": ("explorer",),
    "toy": ("toy",),
    "bench": ("bench",),
    "experiments": ("experiments",),
    "classroom": ("classroom",),
    "cli": ("cli", "__main__"),
}
DOOR = "perakit"  # perakit/__init__.py, which names what is in every room
USES_DOOR = ("bench", "experiments", "classroom", "cli")
ORDER = tuple(ROOMS)
BEGIN = "<!-- imports: made by docs/making/architecture.py -->"
END = "<!-- end of imports -->"


class Import(NamedTuple):
    """One import: the file's module, the line, and the module that it imports."""

    source: str
    line: int
    target: str

    def __str__(self) -> str:
        return f"{self.source.replace('.', '/')}, line {self.line}, imports {self.target}"


# --- reading --------------------------------------------------------------------------------------


def modules(package: Path) -> dict[str, Path]:
    """Every module of the package by its dotted name; a folder's `__init__.py` has the folder's."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(package: Path) -> list[Import]:
    """All imports of the package from itself: at the top of a file, in functions, for types."""
    known = modules(package)
    found = []
    for name, path in known.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom | ast.Call):
                targets = dict.fromkeys(_targets(node, name, path, known))
                found += [Import(name, node.lineno, target) for target in targets]
    return [one for one in found if one.target.split(".")[0] == package.name]


def _targets(
    node: ast.Import | ast.ImportFrom | ast.Call, name: str, path: Path, known: dict[str, Path]
) -> list[str]:
    """The modules that a statement of the module `name` imports."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        base = _base(node, name, path)
        # `from perakit.theory import rank` imports a file, `import claims` what the folder has
        named = [f"{base}.{alias.name}" for alias in node.names]
        return [one if one in known else base for one in named]
    if _called(node) == "import_module" and node.args and isinstance(node.args[0], ast.Constant):
        return [str(node.args[0].value)]
    return []


def _base(node: ast.ImportFrom, name: str, path: Path) -> str:
    """The module that is imported from, also where it is written with dots."""
    if not node.level:
        return node.module or ""
    folder = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    parts = folder[: len(folder) - node.level + 1]
    return ".".join([*parts, *([node.module] if node.module else [])])


def _called(node: ast.Call) -> str:
    function = node.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def room_of(module: str) -> str:
    """The room of a module, or DOOR; KeyError for one that is in no room."""
    if "." not in module:
        return DOOR
    part = module.split(".")[1]
    for room, parts in ROOMS.items():
        if part in parts:
            return room
    raise KeyError(f"{module} is in no room: add it to ROOMS in docs/making/architecture.py")


# --- the order, and circles -----------------------------------------------------------------------


def upward(found: Iterable[Import]) -> list[str]:
    """The imports against the order, each as a sentence; none of the door's, which names all."""
    wrong = []
    for one in found:
        source, target = room_of(one.source), room_of(one.target)
        if source == DOOR:
            continue
        if target == DOOR:
            if source not in USES_DOOR:
                wrong.append(f"{one}: {source} may not know what the whole package offers")
        elif ORDER.index(target) > ORDER.index(source):
            wrong.append(f"{one}: {target} comes after {source}")
    return wrong


def circle(found: Iterable[Import]) -> list[Import]:
    """A shortest chain of imports that ends where it began; empty if there is none."""
    steps: dict[str, list[Import]] = {}
    for one in found:
        if one.source != DOOR and one.target != one.source:
            steps.setdefault(one.source, []).append(one)
    chains = (_back_to(start, steps) for start in steps)
    return min((chain for chain in chains if chain), key=len, default=[])


def _back_to(start: str, steps: dict[str, list[Import]]) -> list[Import]:
    """A shortest chain from `start` to itself, found breadth first."""
    ways: dict[str, list[Import]] = {start: []}
    for module in (queue := [start]):
        for one in steps.get(module, ()):
            if one.target == start:
                return [*ways[module], one]
            if one.target not in ways:
                ways[one.target] = [*ways[module], one]
                queue.append(one.target)
    return []


# --- the house, as numbers ------------------------------------------------------------------------


def arrows(found: Iterable[Import]) -> dict[str, dict[str, int]]:
    """Room -> room that it imports -> how many files of it are named; in the order of ROOMS."""
    count = Counter(
        (room_of(one.source), room_of(one.target))
        for one in {(one.source, one.target): one for one in found}.values()
    )
    return {
        room: {other: count[room, other] for other in ORDER if other != room and count[room, other]}
        for room in ORDER
    }


def sizes(package: Path) -> dict[str, int]:
    """Lines of Python of each room that there is."""
    total: Counter[str] = Counter()
    for name, path in modules(package).items():
        if (room := room_of(name)) != DOOR:
            total[room] += len(path.read_text(encoding="utf-8").splitlines())
    return {room: total[room] for room in ORDER if room in total}


def table(found: Iterable[Import]) -> str:
    """The imports between rooms as the page shows them."""
    rows = [
        f"| {room} | {', '.join(targets) or 'nothing of perakit'} |"
        for room, targets in arrows(found).items()
    ]
    return "\n".join(["| room | imports, as its files are today |", "|:--|:--|", *rows])


# --- the picture ----------------------------------------------------------------------------------


WORDS = """\
A dot is an import: the room at the end of its row
uses the room at the head of its column.
Larger dots are more imports. No arrow points down:
no room knows a later one."""


def draw(lines: dict[str, int], edges: dict[str, dict[str, int]], path: Path) -> None:
    """Rooms as boxes down a staircase; a dot below a box, and left of another: an import."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rooms = list(lines)
    figure = Figure(figsize=(11, 7.2), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    ax = figure.add_subplot()
    for row, room in enumerate(rooms):
        used = [k for k, other in enumerate(rooms) if other in edges[room]]
        users = [k for k, other in enumerate(rooms) if room in edges[other]]
        ax.plot([min(used, default=row), row], [row, row], color="#c9cdd2", lw=1, zorder=1)
        _arrow(ax, row, max(users, default=row))
        sizes = [min(14 + 9 * edges[room][rooms[k]], 160) for k in used]
        ax.scatter(used, [row] * len(used), s=sizes, color="#00608f", zorder=3, lw=0)
        _box(ax, row, room, f"{lines[room]:,} lines")
    ax.text(0.985, 0.975, WORDS, transform=ax.transAxes, ha="right", va="top", fontsize=10)
    ax.set(xlim=(-0.8, len(rooms) - 0.2), ylim=(len(rooms) - 0.5, -0.5))
    ax.axis("off")
    about = json.dumps({"lines": lines, "imports": edges})
    figure.savefig(path, metadata={"Description": about, "Software": None})


def _arrow(ax: Any, place: int, last: int) -> None:
    """From the last row that uses a room up to its box."""
    look = {"arrowstyle": "-|>", "color": "#8a9099", "lw": 1, "shrinkB": 0}
    if last > place:
        ax.annotate("", (place, place + 0.28), (place, last), arrowprops=look, zorder=1)


def _box(ax: Any, place: int, name: str, below: str) -> None:
    from matplotlib.patches import FancyBboxPatch

    corner, shape = (place - 0.62, place - 0.27), "round,pad=0.02,rounding_size=0.12"
    ax.add_patch(FancyBboxPatch(corner, 1.24, 0.54, shape, fc="#eaf3f8", ec="#00608f", zorder=2))
    text = {"ha": "center", "va": "center", "zorder": 4}
    ax.text(place, place - 0.06, name, fontsize=8, weight="bold", **text)
    ax.text(place, place + 0.15, below, fontsize=7, **text)


def renewed(page: str, found: Iterable[Import]) -> str:
    """The page with its table of imports made anew."""
    before, rest = page.split(BEGIN)
    return f"{before}{BEGIN}\n\n{table(found)}\n\n{rest[rest.index(END) :]}"


def main(folder: str) -> None:
    """Write FOLDER/architecture.png, and the table in FOLDER/architecture.md."""
    package, page = ROOT / "perakit", Path(folder) / "architecture.md"
    found = imports(package)
    draw(sizes(package), arrows(found), Path(folder) / "architecture.png")
    page.write_text(renewed(page.read_text(encoding="utf-8"), found), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
