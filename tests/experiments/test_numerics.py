"""The declared numerics version is honest: stored rows come out again, to every digit shown.

Two kinds of rows are computed again here. Those of docs/results were made on an Intel Xeon. Before
rows were chosen, the code that had made them was run on an AMD EPYC. Equal in all six stored digits
were single layers (float64) that end at an error, and the costs of the model without an adapter. Of
ten trainings of a hundred steps (float32), eight were equal but for the sixth digit. Not equal were
errors that are rounding alone (1e-16), learning rates chosen among equals, interactions (second
derivatives in float32), and trainings at a rate so high that they do not settle. Those say nothing
about a version. A committed training is computed again in test_run.py, which needs this Python's
library to be the text that the row was trained on.

Those of ledgers-0.1 were made by version 0.1 on that AMD EPYC, small and on text that is the same
everywhere. There PyTorch's slowest instructions move the sixth digit of a training and no other.
"""

import shutil
from pathlib import Path

import pytest
import torch

from perakit.bench.measured import plain
from perakit.experiments import EXPERIMENTS, Options, jobs, regression, tuning
from perakit.experiments.jobs import NUMERICS, Ledger, folder_hash, key_of, read
from perakit.experiments.lab import Lab
from perakit.experiments.tuning import text_hash
from perakit.rows import LIMIT, read_rows
from perakit.toy.pretrained import TINY

RESULTS = Path(__file__).parents[2] / "docs" / "results"
OF_0_1 = Path(__file__).parent / "ledgers-0.1"
COMPUTE = {"regression": regression, "tuning": tuning}
STORED = [name for name in EXPERIMENTS if (RESULTS / f"{name}.jsonl").exists()]
# Relative: pages show at most four decimals of a cost, and three digits of a share. Shares and
# second derivatives in float32 differ more between machines than costs do.
PRINTED, LOOSER = 1e-5, {"/share": 2e-4, "/interaction": 2e-4}


def again(row):
    """What the row's computation gives now, on one thread as in a Lab."""
    module, function = row["compute"].split(".")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return plain(getattr(COMPUTE[module], function)(row["settings"]))
    finally:
        torch.set_num_threads(threads)


def leaves(value, path=""):
    """Every number of a result, under its place; nan where it has none."""
    if isinstance(value, dict | list):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        return {k: leaf for key, part in pairs for k, leaf in leaves(part, f"{path}/{key}").items()}
    return {path: float("nan") if value is None else value}


def stored(name, label):
    """The first row of that label."""
    return next(row for row in read(RESULTS / f"{name}.jsonl")[1] if row["label"] == label)


@pytest.mark.parametrize(
    ("name", "label"),
    [
        *(("share", f"n = {n}") for n in (16, 64, 256, 1024)),
    ],
)
def test_a_committed_layer_comes_out_again_to_all_six_digits(name, label):
    row = stored(name, label)
    assert again(row) == row["measured"]


def test_committed_predictions_come_out_again_to_all_six_digits():
    """Of targets that a PERA made: the order of h is in them."""
    rows = [
        row
        for row in read(RESULTS / "teacher.jsonl")[1]
        if row["compute"] == "regression.predict"
        and row["label"] in ("PERA-generated: LoRA", "PERA-generated: LoRA, r = 3")
    ]
    assert len(rows) == 10
    assert [again(row) for row in rows] == [row["measured"] for row in rows]


def test_the_committed_cost_without_an_adapter_comes_out_again_to_all_six_digits():
    row = stored("components", "unadapted")
    if text_hash(row["settings"]) != row["data"]:
        pytest.skip("the standard library of this Python is another text than that of the row")
    assert again(row) == row["measured"]


@pytest.mark.parametrize(
    ("name", "every"), [("function", 1), ("interaction", 3), ("loss", 1), ("share", 1)]
)
def test_what_version_0_1_computed_comes_out_again_to_every_printed_digit(name, every):
    """LoRA, PERA, DoRA, HiRA: a rate tried and rates judged, with warm-up, h at zero and not."""
    rows = read(OF_0_1 / f"{name}.jsonl")[1]
    for row in rows[::every]:
        found, known = (leaves(what) for what in (again(row), row["measured"]))
        for one in (found, known):
            one.pop("/seconds", None)
        assert found.keys() == known.keys()
        for path, number in known.items():
            rel = next((rel for what, rel in LOOSER.items() if path.startswith(what)), PRINTED)
            told = row["label"], path
            assert found[path] == pytest.approx(number, rel=rel, nan_ok=True), told


def test_what_version_0_1_read_is_read_again():
    """The data hash, of text that is the same on every machine."""
    rows = [row for path in OF_0_1.glob("*.jsonl") for row in read(path)[1] if row["data"]]
    assert len(rows) > 10
    assert {row["data"] for row in rows} == {text_hash(row["settings"]) for row in rows}
    assert len({row["data"] for row in rows}) == 1


def test_a_package_is_read_as_version_0_1_read_it(tmp_path, monkeypatch):
    """The data hash, of Python source and docstrings: those of a package that is made here."""
    package = tmp_path / "made_up_for_text"
    package.mkdir()
    for k in range(40):
        said = " ".join(f"Line {line} of file {k} says what it says." for line in range(20))
        body = "".join(f"    {name} = {k} * {k + 1}\n" for name in "abcdef")
        source = f'"""{said}"""\n\n\ndef f{k}():\n    """Short."""\n{body}    return a + {k}\n'
        (package / f"m{k}.py").write_text(source)
    (package / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    settings = {"text": f"package:{package.name}", "old": f"prose:{package.name}", "limit": 4000}
    assert text_hash(settings) == "471121735927335dfe32a3d66e2eeab66617b75a8209750bb1587ecde98776fb"


@pytest.mark.parametrize("name", STORED)
def test_keys_of_committed_rows_follow_from_what_they_say(name):
    _, rows = read(RESULTS / f"{name}.jsonl")
    for row in rows:
        assert row["numerics"] == NUMERICS
        assert row["key"] == key_of(row)
        usual = folder_hash(str(TINY)) if "model" in row["settings"] else ""
        if "model" in EXPERIMENTS[name].own:
            assert len(row["model"]) == 64
        else:
            assert row["model"] == usual


@pytest.mark.parametrize("name", STORED)
def test_nothing_is_left_to_run_of_what_is_committed(name, tmp_path, monkeypatch):
    """Every job of every plan finds its row, whatever text this Python's library is."""
    if "model" in EXPERIMENTS[name].own:
        pytest.skip("it is about a model that does not ship")
    shutil.copy(RESULTS / f"{name}.jsonl", tmp_path)
    before = [*read_rows(tmp_path / f"{name}.jsonl", LIMIT, "")][1:]
    known = {_text(row.values["settings"]): row.values["data"] for row in before}
    monkeypatch.setattr(jobs, "text_hash", lambda settings: known[_text(settings)])
    ledger = Ledger(tmp_path, name)
    lab = Lab(ledger, "cpu")
    monkeypatch.setattr(lab, "_run", lambda todo: pytest.fail(f"{len(todo)} runs are foreign"))
    monkeypatch.setattr(lab, "_estimate", lambda *_: None)
    EXPERIMENTS[name].collect(lab, Options())
    ledger.finish(lab.plan)
    after = [*read_rows(tmp_path / f"{name}.jsonl", LIMIT, "")][1:]
    assert [list(row.values.items()) for row in after] == [
        list(row.values.items()) for row in before
    ]


def _text(settings):
    return settings.get("text"), settings.get("old"), settings.get("limit")
