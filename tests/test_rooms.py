"""The rooms of the house: every import goes one way, and no module comes back to itself.

All imports count: at the top of a file, inside a function, and those under TYPE_CHECKING, since a
file that names the type of another has to be read with it. Only `perakit/__init__.py` is let off:
it names what every room offers. That a folder's `__init__` runs before its files is not counted.
"""

import importlib.util
import json
import re
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
_spec = importlib.util.spec_from_file_location("architecture", ROOT / "docs/making/architecture.py")
house = importlib.util.module_from_spec(_spec)
sys.modules["architecture"] = house
_spec.loader.exec_module(house)
FOUND = house.imports(ROOT / "perakit")


def test_every_import_goes_down():
    wrong = house.upward(FOUND)
    assert not wrong, "\n".join(wrong)


def test_no_module_imports_itself_by_a_detour():
    chain = house.circle(FOUND)
    assert not chain, "\n".join(map(str, chain))


def test_every_file_is_in_a_room_and_every_room_has_a_file():
    parts = {name.split(".")[1] for name in house.modules(ROOT / "perakit") if "." in name}
    assert parts == {part for parts in house.ROOMS.values() for part in parts}


def test_strategies_theory_and_their_like_are_read():
    """The reader is no use if it finds nothing: some imports that are known to be there."""
    pairs = {(one.source, one.target) for one in FOUND}
    assert {
        ("perakit.families", "perakit.formulas"),  # from perakit import formulas
        ("perakit.theory.statements.ranks", "perakit.theory.symbolic"),  # a file of a folder
        ("perakit.strategies", "perakit.models"),  # a name that a folder has
        ("perakit.explorer", "perakit.theory"),  # inside a function
        ("perakit.plots.products", "perakit.theory.rank"),  # for a type
    } <= pairs


# --- a house that is wrong is noticed -------------------------------------------------------------


@pytest.fixture
def built(tmp_path):
    """Build a small package of these files, and read its imports."""

    def build(files):
        for name, text in files.items():
            path = tmp_path / "perakit" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            for folder in {tmp_path / "perakit", path.parent}:
                (folder / "__init__.py").touch()
            path.write_text(text)
        return house.imports(tmp_path / "perakit")

    return build


UP = {
    "at the top": "from perakit.toy import gpt2",
    "whole": "import perakit.toy.gpt2",
    "of the package": "from perakit import toy",
    "with dots": "from ..toy.gpt2 import GPT2",
    "in a function": "def f():\n    from perakit.toy.gpt2 import GPT2",
    "for a type": "import typing\nif typing.TYPE_CHECKING:\n    import perakit.toy.gpt2",
    "by its name": "from importlib import import_module\nimport_module('perakit.toy.gpt2')",
}


@pytest.mark.parametrize("way", UP)
def test_an_import_that_goes_up_is_named(built, way):
    found = built({"theory/rank.py": UP[way], "toy/gpt2.py": ""})
    (message,) = house.upward(found)
    line = len(UP[way].splitlines())
    assert message.startswith(f"perakit/theory/rank, line {line}, imports perakit.toy")
    assert message.endswith(": toy comes after theory")


def test_what_the_package_offers_is_not_for_the_lower_rooms(built):
    found = built({"theory/rank.py": "import perakit as pk", "cli.py": "import perakit"})
    assert house.upward(found) == [
        "perakit/theory/rank, line 1, imports perakit: theory may not know what the whole package"
        " offers"
    ]


def test_the_package_itself_may_name_every_room(built):
    found = built(
        {"cli.py": "from perakit import __version__", "__init__.py": "import perakit.cli"}
    )
    assert house.upward(found) == []
    assert house.circle(found) == []


def test_a_circle_is_named_with_each_of_its_imports(built):
    files = {
        "theory/rank.py": "def f():\n    from perakit.theory.claims import search",
        "theory/claims.py": "from perakit.theory.words import word",
        "theory/words.py": "import perakit.theory.rank",
        "theory/alone.py": "from perakit.theory import rank",
    }
    assert sorted(str(one) for one in house.circle(built(files))) == [
        "perakit/theory/claims, line 1, imports perakit.theory.words",
        "perakit/theory/rank, line 2, imports perakit.theory.claims",
        "perakit/theory/words, line 1, imports perakit.theory.rank",
    ]


def test_a_file_in_no_room_is_named(built):
    with pytest.raises(KeyError, match=r"perakit\.utils is in no room: add it to ROOMS"):
        house.upward(built({"utils.py": "import perakit.errors", "errors.py": ""}))


# --- the page -------------------------------------------------------------------------------------


def test_the_page_has_the_imports_of_today():
    page = (ROOT / "docs/architecture.md").read_text()
    assert house.renewed(page, FOUND) == page, "run python docs/making/architecture.py docs"


def test_the_page_names_files_that_are_there_and_every_room():
    page = (ROOT / "docs/architecture.md").read_text()
    for path in re.findall(r"`((?:perakit|tests|docs)/[^` ]*)`", page):
        assert (ROOT / path).exists(), path
    parts = {part for parts in house.ROOMS.values() for part in parts}
    rows = re.findall(r"^\| (`.*?) \|", page, flags=re.MULTILINE)
    assert {
        name.split("/")[0].removesuffix(".py") for name in re.findall(r"`([^`]+)`", str(rows))
    } == parts


def test_the_picture_has_the_imports_of_today():
    """And lines within a fifth: not every commit draws it again."""
    with Image.open(ROOT / "docs/architecture.png") as picture:
        drawn = json.loads(picture.info["Description"])
    again = "run python docs/making/architecture.py docs"
    today = house.arrows(FOUND)
    assert {room: list(to) for room, to in drawn["imports"].items()} == {
        room: list(to) for room, to in today.items()
    }, again
    lines = house.sizes(ROOT / "perakit")
    assert set(drawn["lines"]) == set(lines), again
    for room, count in lines.items():
        assert abs(drawn["lines"][room] - count) <= max(count / 5, 50), f"{room}: {again}"
