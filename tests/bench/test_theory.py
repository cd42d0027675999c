"""The theory's benchmark: what a process reports back, and the page that is made of it."""

import json
import re

import pytest

from perakit.bench import theory as benchmark
from perakit.bench.theory import Measured
from perakit.toy.gpt2 import Config

FOUND = [
    Measured(
        "verify",
        [4.0, 6.0, 5.0],
        300,
        "0 fail",
        {f"claim-{k}": [k / 10, k / 10 + 1, k / 10 + 0.5] for k in range(12)},
    ),
    Measured("dimension-256", [9.0], 800, "4124", {}),
    Measured("dense-8", [3.0], 500, "rank 44", {"48 layers": [2.0, 2.5, 2.25]}),
]
ABOUT = {"cpu": "a processor", "cores": 2, "threads": 1, "load": 0.1, "versions": {"torch": "2"}}


def test_medians_and_spreads_stand_beside_the_targets():
    rows = benchmark.table(FOUND).rows
    assert rows[0] == ("perakit verify, all claims", "5.0", "4.0 ... 6.0", "300", "60", "0 fail")
    assert rows[1][4] == "30, 2048 MiB"
    assert rows[2][4] == "-"


def test_the_slowest_parts_come_first_and_the_rest_is_left_out():
    rows = benchmark.parts(FOUND).rows
    assert [row[1] for row in rows] == [*(f"claim-{k}" for k in range(11, 1, -1)), "48 layers"]
    assert rows[0] == ("perakit verify, all claims", "claim-11", "1.60", "1.10 ... 2.10")


def test_the_page_holds_both_tables():
    page = benchmark.page(FOUND, ABOUT, 3)
    assert "median of 3 runs; a processor, 2 cores, 1 threads, load 0.1; torch 2.\n" in page
    assert benchmark.table(FOUND).markdown() in page
    assert benchmark.parts(FOUND).markdown() in page


def test_a_task_is_run_in_a_process_of_its_own():
    found = benchmark.measure("symbolic", repeats=1)
    assert (found.task, found.result, found.parts) == ("symbolic", "True", {})
    assert len(found.seconds) == 1
    assert found.seconds[0] > 0
    assert found.mebibytes > 50


def test_both_ways_to_the_spectra_find_the_same_ranks(monkeypatch):
    monkeypatch.setattr(
        benchmark, "SHAPE", Config(vocab_size=11, n_positions=4, n_embd=24, n_head=2, n_layer=2)
    )
    core, dense = benchmark._spectra(3), benchmark._dense_spectra(3)
    assert core.text == dense.text == "rank 9"
    assert list(core.parts) == ["8 layers, by the K x K core"]
    assert list(dense.parts) == ["8 layers, by the singular values of ΔW"]


def test_the_command_writes_what_it_measured(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(
        benchmark,
        "measure",
        lambda name, repeats: Measured(
            name, [1.0] * repeats, 100, "found", {"a part": [0.5] * repeats}
        ),
    )
    monkeypatch.setattr("sys.argv", ["benchmark", str(tmp_path), "--repeats", "2"])
    benchmark.main()
    data = json.loads((tmp_path / "theory-speed.json").read_text())
    assert [task["task"] for task in data["tasks"]] == list(benchmark.TASKS)
    assert data["tasks"][0]["seconds"] == [1.0, 1.0]
    assert (data["repeats"], data["seed"]) == (2, benchmark.SEED)
    assert re.fullmatch("[0-9a-f]{64}", data["formulas_sha256"])
    assert {"python", "torch", "numpy", "sympy"} <= set(data["machine"]["versions"])
    printed = capsys.readouterr()
    assert "a part" in printed.out
    assert "a part" in (tmp_path / "theory-speed.md").read_text()
    assert printed.err.splitlines()[0] == "benchmark: perakit verify, all claims"


def test_an_unknown_task_is_refused(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["benchmark", "--task", "nope"])
    with pytest.raises(SystemExit):
        benchmark.main()
    assert "invalid choice: 'nope'" in capsys.readouterr().err
