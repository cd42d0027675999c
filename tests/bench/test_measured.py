"""What numbers carry into a file or a page."""

import os

import numpy as np
import pytest

from perakit.bench.measured import as_json, in_process, in_words, machine, plain, renewed
from perakit.errors import PerakitError


def test_a_machine_says_what_it_is():
    about = machine("numpy")
    assert {"python", "torch", "numpy"} == set(about["versions"])
    assert about["cores"] >= 1
    assert about["threads"] >= 1
    assert in_words(about).startswith(f"{about['cpu']}, {about['cores']} cores, ")


def test_a_page_without_a_place_for_the_table_is_refused():
    with pytest.raises(PerakitError, match="the page has no measured part"):
        renewed("# A page", "a command", "numbers")


def test_the_last_digits_in_which_machines_differ_are_dropped():
    value = {1: np.array([1 / 3, 2.0]), "n": np.int64(3), "t": (True, "a", None)}
    assert plain(value) == {"1": [0.333333, 2.0], "n": 3, "t": [True, "a", None]}


def test_what_json_does_not_have_is_refused():
    assert as_json({"a": [1]}) == b'{\n "a": [\n  1\n ]\n}\n'
    with pytest.raises(ValueError, match="JSON"):
        as_json(float("nan"))


def test_a_process_has_its_own_settings(tmp_path, monkeypatch):
    (tmp_path / "told.py").write_text(
        "import json, os, sys\nprint(json.dumps([sys.argv[1:], os.environ['PERAKIT_TOLD']]))"
    )
    monkeypatch.chdir(tmp_path)
    assert in_process("told", "a", "b", PERAKIT_TOLD="so") == [["a", "b"], "so"]
    assert "PERAKIT_TOLD" not in os.environ
