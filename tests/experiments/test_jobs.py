"""What decides a result decides its key; what is in a ledger stays there."""

import errno
import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import damage
import pytest

from perakit.cli import main
from perakit.errors import PerakitError
from perakit.experiments import EXPERIMENTS, jobs, lab
from perakit.experiments.arms import Options
from perakit.experiments.jobs import Job, Ledger, read
from perakit.experiments.regression import imitate, predict
from perakit.experiments.tuning import texts, tune
from perakit.files import alone
from perakit.rows import LIMIT, read_rows, sealed, unsealed
from perakit.toy import pretrained

JOB = Job("a", "measured", imitate, {"seed": 0}, 1.0)
OPTIONS = {"seeds": 2, "small": True}


def row(key="k", label="a", role="measured", **more):
    known = {
        "key": key,
        "label": label,
        "role": role,
        "compute": "regression.imitate",
        "numerics": jobs.NUMERICS,
        "settings": {},
    }
    return known | {"measured": {"x": 1.5}} | more


def started(tmp_path, *rows):
    ledger = Ledger(tmp_path, "function")
    ledger.begin(OPTIONS)
    for one in rows:
        ledger.add(one)
    return ledger


def values(line):
    """The row of a line, without its checksum."""
    return unsealed(line.rstrip(), "a line", "").values


def test_the_key_depends_on_settings_and_computation_and_not_on_names():
    assert replace(JOB, settings={"seed": 1}).key != JOB.key
    assert replace(JOB, compute=predict).key != JOB.key
    assert replace(JOB, label="b", role="other", work=7.0, alone=True).key == JOB.key


def test_the_key_follows_the_numerics_version_and_no_source_file(monkeypatch):
    before = JOB.key
    monkeypatch.setattr(jobs, "NUMERICS", jobs.NUMERICS + 1)
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
    assert job.model == replace(JOB, settings={"model": "tiny"}).model != ""
    with open(tmp_path / "model.safetensors", "r+b") as file:
        file.seek(-1, 2)
        file.write(b"!")
    jobs.folder_hash.cache_clear()
    assert job.key != before
    assert JOB.model == ""  # it reads none


def test_the_key_follows_the_weights_that_ship(tmp_path, monkeypatch):
    for file in pretrained.TINY.iterdir():
        shutil.copy(file, tmp_path)
    job = replace(JOB, settings={"model": "tiny"})
    before = job.key
    monkeypatch.setattr(jobs, "TINY", tmp_path)
    assert job.key == before  # where they lie does not count
    with open(tmp_path / "model.safetensors", "r+b") as file:
        file.seek(-1, 2)
        file.write(b"!")
    jobs.folder_hash.cache_clear()
    assert job.key != before


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
            r"holds results of another version \(format 99, not 2\): choose another --out",
        ),
        ({"experiment": "rank"}, r"another version \(experiment 'rank', not 'function'\)"),
    ],
)
def test_another_version_is_refused_and_untouched(tmp_path, change, message):
    path = started(tmp_path, row()).path
    header, *rows = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([sealed(values(header) | change), *rows]))
    before = path.read_bytes()
    with pytest.raises(PerakitError, match=message):
        Ledger(tmp_path, "function")
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"numerics": jobs.NUMERICS + 1}, "of numerics 2, not numerics 1"),
        ({"numerics": "1"}, "of numerics '1', not numerics 1"),
        ({"code": "0123"}, "of code '0123', not numerics 1"),  # as version 0.1 wrote it
        ({}, "of code None, not numerics 1"),
    ],
)
def test_results_of_another_version_are_refused_and_untouched(tmp_path, change, told):
    odd = {key: value for key, value in row().items() if key != "numerics"} | change
    path = started(tmp_path, odd).path
    before = path.read_bytes()
    with pytest.raises(PerakitError, match=r"another version \(") as caught:
        Ledger(tmp_path, "function")
    assert f"(regression.imitate {told}): choose another --out" in str(caught.value)
    assert path.read_bytes() == before
    Ledger(tmp_path, "teacher").begin(OPTIONS)  # beside it, it stands in nobody's way


# --- ledgers of version 0.1, made by it ----------------------------------------------------------


@pytest.fixture
def old(tmp_path):
    """A folder with results of version 0.1."""
    return shutil.copytree(Path(__file__).parent / "ledgers-0.1", tmp_path / "old")


def test_a_ledger_of_version_0_1_is_complete_for_this_one(old, capsys):
    name = "interaction"
    lines = [row.values for row in read_rows(old / f"{name}.jsonl", LIMIT, "")]
    EXPERIMENTS[name].run(Options(), old, resume=True)
    assert "runs to do" not in capsys.readouterr().err
    found = [*read_rows(old / f"{name}.jsonl", LIMIT, "")]
    assert all(row.vouched for row in found)
    header, *rows = [row.values for row in found]
    assert header == lines[0] | {"format": jobs.FORMAT}
    for row, before in zip(rows, lines[1:], strict=True):
        assert row == before | {name: row[name] for name in ("key", "numerics", "model")}
        assert row["numerics"] == 1
        assert row["key"] == jobs.key_of(row)


def test_a_ledger_of_version_0_1_that_was_interrupted_is_continued(old, capsys, monkeypatch):
    monkeypatch.setattr(lab.os, "cpu_count", lambda: 1)  # a pool would import torch again
    path = old / "interaction.jsonl"
    before = path.read_bytes()
    path.write_bytes(before[: len(before) // 2])
    kept = len(read(path)[1])
    EXPERIMENTS["interaction"].run(Options(), old, resume=True)
    assert f"{9 - kept} runs to do" in capsys.readouterr().err
    assert len(read(path)[1]) == 9


def test_a_ledger_of_version_0_1_is_not_written_by_reading_it(old):
    before = (old / "interaction.jsonl").read_bytes()
    assert read(old / "interaction.jsonl")[0]["format"] == jobs.FORMAT_OF_0_1
    Ledger(old, "interaction")
    assert (old / "interaction.jsonl").read_bytes() == before


def test_rows_of_version_0_1_belong_to_the_weights_that_shipped_with_it(old, monkeypatch):
    monkeypatch.setattr(jobs, "folder_hash", lambda folder: "of later weights")
    job = replace(JOB, compute=tune, settings=read(old / "interaction.jsonl")[1][1]["settings"])
    assert job.key not in Ledger(old, "interaction").known


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
        '{"format": 1, "experiment": "function", "options": {}}\n{"key": "k"}\n'
    )
    with pytest.raises(PerakitError, match=r"""line 2 of .* is no result: '{"key": "k"}'"""):
        Ledger(tmp_path, "function")


@pytest.mark.parametrize(
    "damage",
    [
        {"settings": None},
        {"settings": []},
        *(
            {"without": name}
            for name in ("key", "label", "role", "compute", "settings", "measured")
        ),
    ],
)
def test_a_row_without_what_every_result_has_is_refused(tmp_path, damage):
    path = started(tmp_path, row("k1"), row("k2")).path
    header, first, second = path.read_bytes().splitlines(keepends=True)
    odd = values(first) | damage
    odd.pop(odd.pop("without", ""), None)
    path.write_bytes(b"".join([header, sealed(odd), second]))
    with pytest.raises(PerakitError, match=r"line 2 of .* is no result"):
        Ledger(tmp_path, "function")


# --- damage ---------------------------------------------------------------------------------------


def kept(path):
    """What a ledger has, in no order."""
    ledger = Ledger(path.parent, "function")
    return ledger.header, sorted(one["key"] for one in ledger.rows)


@pytest.fixture
def ledger(tmp_path):
    return started(tmp_path, *(row(f"k{k}", f"{k}") for k in range(5))).path


def test_no_flipped_bit_changes_a_result(ledger):
    whole, right = ledger.read_bytes(), kept(ledger)
    for changed in damage.flipped(whole, every=7):
        ledger.write_bytes(changed)
        found, said = damage.tried(lambda: kept(ledger))
        assert found in (None, right)
        assert said is None or said.endswith("restore the file or move it away")
        assert ledger.read_bytes() == changed


def test_a_ledger_that_was_cut_off_keeps_its_whole_rows(ledger):
    whole, (header, keys) = ledger.read_bytes(), kept(ledger)
    for changed in damage.cut(whole):
        ledger.write_bytes(changed)
        found, _ = damage.tried(lambda: kept(ledger))
        lines = changed.count(b"\n")
        if lines:
            assert found in [(header, keys[: lines - 1]), (header, keys[:lines])]
        else:  # a first line is written at once, no kill can cut it off
            assert found == ({}, [])


def test_lines_in_another_order_are_the_same_results_or_refused(ledger):
    whole, right = ledger.read_bytes(), kept(ledger)
    lines = whole.splitlines(keepends=True)
    for changed in damage.rearranged(whole):
        ledger.write_bytes(changed)
        found, said = damage.tried(lambda: kept(ledger))
        if changed == b"".join([lines[0], *lines[2:]]):
            assert found == (right[0], right[1][1:]), "a row that is not there is computed again"
        elif sorted(changed.splitlines()) == sorted(whole.splitlines()) or found:
            assert found == right or "does not begin the results" in said
        else:
            assert said.endswith("restore the file or move it away")


def test_two_results_of_one_run_are_refused(ledger):
    with open(ledger, "ab") as file:
        file.write(sealed(row("k1", "1", measured={"x": 2.0})))
    with pytest.raises(PerakitError, match=r"line 7 of .* is another result of a run that is"):
        kept(ledger)


@pytest.mark.parametrize("what", damage.ODD)
def test_what_is_no_ledger_is_refused_at_once(ledger, what):
    damage.put_in_place(ledger, what)
    found, said = damage.tried(lambda: kept(ledger))
    if what.startswith("/proc"):
        assert found == ({}, []), "it is empty, and nothing is lost where it is written anew"
    else:
        assert re.search("restore the file or move it away|pass a file", said)


@pytest.mark.parametrize("where", ["settings", "data", "numerics", "key", "compute"])
def test_a_row_without_a_checksum_has_the_key_of_its_settings(tmp_path, where):
    path = shutil.copy(Path(__file__).parents[2] / "docs/results/cost.jsonl", tmp_path)
    header, line = Path(path).read_text().splitlines()
    odd = json.loads(line)
    odd[where] = {"settings": odd["settings"] | {"rounds": 3}, "numerics": 2}.get(where, "other")
    Path(path).write_text(f"{header}\n{line}\n")
    assert len(Ledger(tmp_path, "cost").rows) == 1
    Path(path).write_text(f"{header}\n{json.dumps(odd)}\n")
    with pytest.raises(PerakitError, match=r"line 2 of .* is no result"):
        Ledger(tmp_path, "cost")


def test_a_row_of_version_0_1_has_the_key_of_its_settings(old):
    path = old / "interaction.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"steps": ', b'"steps": 1'))
    with pytest.raises(PerakitError, match=r"line 2 of .* is no result"):
        Ledger(old, "interaction")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"seeds": "2"}, "says 'seeds': '2'"),
        ({"seeds": True}, "says 'seeds': True"),
        ({"small": 1}, "says 'small': 1"),
        ({"text": None}, "says 'text': None"),
        ({"steps": 3}, "says 'steps': 3"),
        ({"old": 3}, "says 'old': 3"),
    ],
    ids=str,
)
@pytest.mark.parametrize("resume", [True, False])
def test_options_that_no_experiment_has_are_refused(old, change, told, resume):
    path = old / "interaction.jsonl"
    header, *rows = path.read_text().splitlines()
    header = json.loads(header)
    header["options"] |= change
    path.write_text("\n".join([json.dumps(header), *rows, ""]))
    for ask in (
        lambda: EXPERIMENTS["interaction"].run(Options(), old, resume=resume),
        lambda: EXPERIMENTS["interaction"].read(path),
    ):
        with pytest.raises(PerakitError, match=f"{told}, which no experiment is asked: restore"):
            ask()


def test_old_rows_without_what_was_measured_are_blamed(old):
    path = old / "interaction.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"validation":', b'"valuation":'))
    with pytest.raises(
        PerakitError,
        match=r"does not have what the experiment needs \(KeyError: 'validation'\): restore",
    ):
        EXPERIMENTS["interaction"].run(Options(), old, resume=True)


def test_an_error_of_our_own_is_not_blamed_on_rows_with_checksums(old):
    def wrong(*_):
        raise KeyError("ours")

    ours = replace(EXPERIMENTS["interaction"], collect=wrong)
    with pytest.raises(PerakitError, match=r"does not have what the experiment needs .*ours"):
        ours.run(Options(), old, resume=True)
    for name in ("loss", "share", "function"):
        (old / f"{name}.jsonl").unlink()
    EXPERIMENTS["interaction"].run(Options(), old, resume=True)  # it writes checksums
    with pytest.raises(KeyError, match="ours"):
        ours.run(Options(), old, resume=True)


def test_a_report_blames_its_file(old):
    """It has nothing else to blame, with checksums or without."""
    path = old / "interaction.jsonl"
    header, *rows = (row.values for row in read_rows(path, LIMIT, ""))
    for row in rows:
        row["measured"].pop("validation", None)
    path.write_bytes(b"".join(map(sealed, (header, *rows))))
    with pytest.raises(
        PerakitError, match=r"interaction\.jsonl' does not have what .* 'validation'"
    ):
        EXPERIMENTS["interaction"].read(path)


def test_a_second_experiment_in_the_folder_is_told_so(old, capsys):
    before = (old / "interaction.jsonl").read_bytes()
    with alone(old):
        assert main(["experiment", "interaction", "--resume", "--out", str(old)]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"perakit: {str(old)!r} is in use by process {os.getpid()}: wait for it")
    assert said.count("\n") == 1
    assert (old / "interaction.jsonl").read_bytes() == before
    assert {path.suffix for path in old.iterdir()} == {".jsonl"}


def test_what_a_kill_has_left_beside_a_finished_run_is_cleared(old, monkeypatch):
    left = old / ".running" / read(old / "interaction.jsonl")[1][3]["key"]
    left.mkdir(parents=True)
    (left / "metrics.jsonl").write_text("of a run that is in the ledger")
    EXPERIMENTS["interaction"].run(Options(), old, resume=True)
    assert not (old / ".running").exists()
