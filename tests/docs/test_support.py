"""Every cell of the table in docs/methods.md, tried again."""

import re
from pathlib import Path

import pytest
import support

import perakit as pk

PAGE = (Path(__file__).parents[2] / "docs/methods.md").read_text()


def committed():
    """(method, column) -> what the page says."""
    table = re.search(
        r"<!-- measured: make methods -->\n(.*?)<!-- end of measured -->", PAGE, re.DOTALL
    ).group(1)
    header, _, *rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in table.strip().splitlines()
    ]
    return {
        (row[0], column): cell
        for row in rows
        for column, cell in zip(header[1:], row[1:], strict=True)
    }


CELLS = committed()
METHODS = {type(method).__name__: method for method in support.METHODS}


def test_the_page_has_every_method_and_every_check():
    ours = {
        cls.__name__ for cls in pk.Method.registry.values() if cls.__module__.startswith("perakit.")
    }
    assert set(METHODS) == ours
    assert set(CELLS) == {(name, column) for name in ours for column in support.CHECKS}
    assert not any(cell.startswith("FAILS") for cell in CELLS.values())


@pytest.mark.thorough  # the table is made by the same cells; here each is made again
@pytest.mark.parametrize(("name", "column"), CELLS, ids=lambda part: part.replace(" ", "-"))
def test_each_cell_is_what_the_page_says(name, column):
    assert support.cell(METHODS[name], column) == CELLS[name, column]


def test_a_cell_can_fail(monkeypatch):
    """A merge that forgets the update is seen in the column merge, and not where nothing is
    merged.
    """
    monkeypatch.setattr(pk.models.AdaptedLayer, "sum_with", lambda layer, delta: layer.W0.clone())
    assert support.cell(pk.LoRA(2), "merge").startswith("FAILS: AssertionError: law 4")
    assert support.cell(pk.LoRA(2), "DDP") == "yes"


def test_two_processes_that_differ_are_seen(monkeypatch):
    other = {key: value + 1e-9 for key, value in support._trained(pk.LoRA(2), 0, 1).items()}
    monkeypatch.setattr(support, "_two_processes", lambda: other)
    assert support.cell(pk.LoRA(2), "DDP").startswith(
        "FAILS: AssertionError: lora/0.adapters.default.A: two processes differ"
    )


def test_a_failing_cell_fails_the_command(monkeypatch, capsys):
    def broken(method):
        raise AssertionError("no\nmore")

    monkeypatch.setattr(support, "CHECKS", {"Linear": lambda method: "yes", "merge": broken})
    monkeypatch.setattr(support, "METHODS", (pk.LoRA(2),))
    assert support.main(["--markdown"]) == 1
    assert "| LoRA | yes | FAILS: AssertionError: no |" in capsys.readouterr().out
