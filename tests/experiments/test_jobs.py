"""What decides a result decides its key; what is in a ledger stays there."""

import errno
import json
import shutil
from dataclasses import replace

import pytest

from perakit.errors import PerakitError
from perakit.experiments import jobs
from perakit.experiments.arms import Options
from perakit.experiments.jobs import Job, Ledger, read
from perakit.experiments.regression import imitate, predict
from perakit.experiments.tuning import texts, tune
from perakit.toy import pretrained

JOB = Job("a", "measured", imitate, {"seed": 0}, 1.0)
OPTIONS = {"seeds": 2, "small": True}


def row(key="k", label="a", role="measured", **more):
    known = {
        "key": key,
        "label": label,
        "role": role,
        "compute": "regression.imitate",
        "code": jobs.code_version("regression.imitate"),
    }
    return known | {"measured": {"x": 1.5}} | more


def started(tmp_path, *rows):
    ledger = Ledger(tmp_path, "function")
    ledger.begin(OPTIONS)
    for one in rows:
        ledger.add(one)
    return ledger


def test_the_key_depends_on_settings_and_computation_and_not_on_names():
    assert replace(JOB, settings={"seed": 1}).key != JOB.key
    assert replace(JOB, compute=predict).key != JOB.key
    assert replace(JOB, label="b", role="other", work=7.0, alone=True).key == JOB.key


def test_the_key_follows_the_code(monkeypatch):
    before = JOB.key
    monkeypatch.setattr(jobs, "code_version", lambda computation: "another")
    assert JOB.key != before


def test_the_key_follows_the_text(tmp_path):
    text = tmp_path / "text"
    keys = []
    for words in (b"to be or not to be ", b"or to be something else"):
        text.write_bytes(words * 500)
        texts.cache_clear()
        settings = Options(small=True, text=str(text), old=None).settings()
        keys.append(Job("a", "judged", tune, settings, 1.0).key)
    assert keys[0] != keys[1]


def test_the_key_follows_the_weights_in_a_folder(tmp_path):
    for file in pretrained.TINY.iterdir():
        shutil.copy(file, tmp_path)
    job = replace(JOB, settings={"model": str(tmp_path)})
    before = job.key
    assert len(job.model) == 64
    with open(tmp_path / "model.safetensors", "r+b") as file:
        file.seek(-1, 2)
        file.write(b"!")
    jobs.folder_hash.cache_clear()
    assert job.key != before
    assert replace(JOB, settings={"model": "tiny"}).model == ""


def test_code_of_another_computation_does_not_count():
    assert jobs.code_version("tuning.tune") == jobs.code_version("tuning.pace")
    assert jobs.code_version("tuning.tune") != jobs.code_version("regression.fit")


def test_what_was_added_is_there_again_and_once(tmp_path):
    started(tmp_path, row(), row(), row(label="b"))
    again = Ledger(tmp_path, "function")
    assert [one["label"] for one in again.rows] == ["a", "b"]
    assert again.known["k"]["measured"] == {"x": 1.5}
    assert again.header["options"] == OPTIONS


def test_a_line_that_a_kill_cut_off_is_dropped_and_the_others_stay(tmp_path):
    path = started(tmp_path, row("k1"), row("k2")).path
    path.write_text(path.read_text()[:-9])
    ledger = Ledger(tmp_path, "function")
    assert [one["key"] for one in ledger.rows] == ["k1"]
    ledger.begin(OPTIONS)
    ledger.add(row("k2"))
    assert [one["key"] for one in read(path)[1]] == ["k1", "k2"]


def test_a_damaged_line_in_between_is_refused(tmp_path):
    path = started(tmp_path, row("k1"), row("k2")).path
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], lines[1][:-5], lines[2]]))
    with pytest.raises(
        PerakitError, match=r"line 2 of .* is damaged .*: restore the file or move it away"
    ):
        Ledger(tmp_path, "function")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"format": 99},
            r"holds results of another version \(format 99, not 1\): choose another --out",
        ),
        ({"experiment": "rank"}, r"another version \(experiment 'rank', not 'function'\)"),
    ],
)
def test_another_version_is_refused_and_untouched(tmp_path, change, message):
    path = started(tmp_path, row()).path
    lines = path.read_text().splitlines()
    path.write_text("\n".join([json.dumps(json.loads(lines[0]) | change), *lines[1:]]))
    before = path.read_bytes()
    with pytest.raises(PerakitError, match=message):
        Ledger(tmp_path, "function")
    assert path.read_bytes() == before


def test_results_of_other_code_are_refused(tmp_path):
    started(tmp_path, row(code="0123"))
    with pytest.raises(
        PerakitError, match=r"another version \(regression.imitate of code 0123, not [0-9a-f]{16}\)"
    ):
        Ledger(tmp_path, "function")


def test_other_options_are_refused_but_more_seeds_are_not(tmp_path):
    path = started(tmp_path, row()).path
    ledger = Ledger(tmp_path, "function")
    before = path.read_bytes()
    with pytest.raises(
        PerakitError, match=r"other options \(small=True there, False now\): choose another --out"
    ):
        ledger.begin({"seeds": 2, "small": False})
    assert path.read_bytes() == before
    ledger.begin({"seeds": 5, "small": True})
    assert read(path)[0]["options"]["seeds"] == 5


def test_what_another_experiment_has_computed_is_found(tmp_path):
    started(tmp_path, row("shared"))
    other = Ledger(tmp_path, "teacher")
    assert "shared" in other.known
    assert other.rows == []


def test_a_full_disk_is_one_sentence_and_keeps_what_was_there(tmp_path, monkeypatch):
    ledger = started(tmp_path, row("k1"))

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(jobs.os, "fsync", full)
        with pytest.raises(
            PerakitError,
            match=(
                "No space left on device; finished runs are kept, make room and run the same"
                " command again"
            ),
        ):
            ledger.add(row("k2"))
    assert "k1" in {one["key"] for one in Ledger(tmp_path, "function").rows}


def test_finish_puts_the_plan_in_order_and_drops_nothing(tmp_path):
    ledger = started(tmp_path, row("k3"), row("k1"), row("k2"), row("old"))
    ledger.finish([row("k1"), row("k2"), row("k3")])
    assert [one["key"] for one in read(ledger.path)[1]] == ["k1", "k2", "k3", "old"]


def test_a_file_that_is_no_result_is_refused(tmp_path):
    (tmp_path / "function.jsonl").write_text(
        '{"format": 1, "experiment": "function"}\n[1, 2]\n{"key": "k"}\n'
    )
    with pytest.raises(PerakitError, match=r"line 2 of .* is no result: '\[1, 2\]'"):
        Ledger(tmp_path, "function")
