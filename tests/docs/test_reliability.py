"""docs/making/reliability.py puts what fuzzers print into the page."""

import json

import pytest
import reliability

import perakit as pk

RUN = {
    "door": "ledger",
    "cases": 10000,
    "right": 2000,
    "refused": 7999,
    "failures": 1,
    "half_changed": 0,
    "worst_seconds": 0.25,
    "worst_mib": 12.0,
    "seconds": 60,
    "seed": 1,
    "versions": {"python": "3.12.1", "torch": "2.13.0"},
}
OTHER = {"promised": "nothing lost", "attacked": "kills", "times": "60", "came_out": "0 lost"}


@pytest.fixture
def docs(tmp_path):
    found = {"fuzzing": [RUN | {"cases": 5}], "others": [OTHER]}
    (tmp_path / "reliability.json").write_text(json.dumps(found))
    page = f"Prose.\n<!-- measured: {reliability.COMMAND} -->\nold\n<!-- end of measured -->\nMore."
    (tmp_path / "reliability.md").write_text(page)
    return tmp_path


def test_a_run_takes_the_place_of_the_one_before(docs):
    output = f"tables\n{json.dumps(RUN)}\n"
    reliability.write(docs, [output])
    page = (docs / "reliability.md").read_text()
    assert "| `experiment --out` | 10,000 | 2,000 | 7,999 | 1 | 0 | 0.25 | 12.0 | 1 |" in page
    assert "2,000 right, 7,999 refused by a PerakitError, 1 failures" in page
    assert "| nothing lost | kills | 60 | 0 lost |" in page
    assert "python 3.12.1, torch 2.13.0" in page
    assert page.startswith("Prose.")
    assert page.endswith("More.")
    assert "old" not in page
    assert json.loads((docs / "reliability.json").read_text())["fuzzing"] == [RUN]


def test_an_attack_takes_the_place_of_the_one_before(docs):
    row = OTHER | {"times": "100"}
    reliability.write(docs, [f"text\n{json.dumps(row)}\n", json.dumps(OTHER | {"promised": "new"})])
    others = json.loads((docs / "reliability.json").read_text())["others"]
    assert others == [row, OTHER | {"promised": "new"}]


def test_renewed_twice_is_the_same(docs):
    reliability.write(docs)
    once = (docs / "reliability.md").read_text()
    reliability.write(docs)
    assert (docs / "reliability.md").read_text() == once


def test_a_door_that_is_none_is_refused(docs):
    with pytest.raises(pk.PerakitError, match="no door is named 'window': choose of adapter, peft"):
        reliability.write(docs, [json.dumps(RUN | {"door": "window"})])
