"""The pictures of docs/methods: made again, their numbers are those that are committed."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import peers
import pytest

import perakit as pk
from perakit.bench.measured import plain

ROOT = Path(__file__).parents[2]
COMMITTED = json.loads((ROOT / "docs/methods/numbers.json").read_text())


def test_each_method_has_a_page_with_its_picture():
    ours = {
        name for name, cls in pk.Method.registry.items() if cls.__module__.startswith("perakit.")
    }
    assert {*ours, "nf4", "idea"} == set(peers.FIGURES) == set(COMMITTED["figures"])
    for name in ours:
        page = (ROOT / f"docs/methods/{name}.md").read_text()
        assert f"]({name}.png)" in page
        for owed in ("**Can**", "**Cannot**", "*Source*", f"perakit.formulas.{name}"):
            assert owed in page, (name, owed)
    assert "](nf4.png)" in (ROOT / "docs/methods/qlora.md").read_text()


@pytest.mark.parametrize("name", peers.FIGURES)
def test_the_numbers_are_those_of_the_picture(name):
    _, numbers = peers.FIGURES[name](COMMITTED["made_from"]["seed"])
    made, committed = plain(numbers), COMMITTED["figures"][name]
    assert made.keys() == committed.keys()
    for key, value in made.items():
        if key == "spectrum":
            for label, values in value.items():
                np.testing.assert_allclose(
                    values, committed[key][label], rtol=1e-4, atol=1e-10 * values[0]
                )
        elif isinstance(value, list):
            np.testing.assert_allclose(value, committed[key], rtol=1e-4, atol=1e-6)
        elif key not in ("levels", "relative_error"):
            assert value == committed[key]


def test_random_factors_attain_the_rank_bound():
    """The picture shows the rank that the page states: a degenerate draw would show less."""
    for method in peers.METHODS:
        assert (
            COMMITTED["figures"][method.name]["rank"]
            == COMMITTED["figures"][method.name]["rank_bound"]
            == method.rank_bound(24, 36)
        )


def test_nf4_is_nearer_than_equal_steps():
    errors = COMMITTED["figures"]["nf4"]["relative_error"]
    assert errors["NF4"] == pytest.approx(0.092, abs=5e-4)
    assert errors["16 equal steps"] == pytest.approx(0.101, abs=5e-4)


@pytest.mark.thorough
def test_the_command(tmp_path, capsys):
    assert peers.main([str(tmp_path)]) == 0
    names = {Path(line).name for line in capsys.readouterr().out.split()}
    assert names == {f"{name}.png" for name in peers.FIGURES} | {"numbers.json"}
    assert all((tmp_path / name).stat().st_size > 1000 for name in names)
    (tmp_path / "file").write_text("")
    assert peers.main([str(tmp_path / "file")]) == 2
    assert "cannot write" in capsys.readouterr().err


def test_it_is_a_script_that_runs_from_anywhere(tmp_path):
    command = [sys.executable, ROOT / "docs/making/peers.py", "--help"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: python docs/making/peers.py ")
