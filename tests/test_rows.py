"""Rows with checksums: what was written comes back, and whatever else is there is refused."""

import json
import math
import os
import re

import damage
import pytest

from perakit import PerakitError
from perakit import rows as rows_module
from perakit.rows import LIMIT, LONGEST, append, read_rows, sealed, unsealed

ROWS = [
    {"step": 0, "cost": 0.1 + 0.2, "name": "ΔW \u2028 \x85"},
    {"step": 1, "cost": 1e-300, "list": [[1, 2], {"a": None}]},
    {"step": 2, "cost": math.pi, "sha": "of our own"},
    {"step": 3, "cost": -0.0, "name": 'a, "sha": "0123456789abcdef"}'},
]
REMEDY = "delete it"


def found(path, limit=LIMIT):
    return [row.values for row in read_rows(path, limit, REMEDY)]


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "folder" / "rows.jsonl"
    for row in ROWS:
        append(path, row, REMEDY)
    return path


def test_rows_come_back_as_they_were(path):
    rows = list(read_rows(path, LIMIT, REMEDY))
    assert [row.values for row in rows] == ROWS
    assert all(row.vouched for row in rows)
    assert b"".join(row.line + b"\n" for row in rows) == path.read_bytes()
    assert [row.place for row in rows][1:2] == [f"line 2 of {str(path)!r}"]
    assert path.read_bytes().count(b"\n") == len(ROWS)
    for line, row in zip(path.read_text().splitlines(), ROWS, strict=True):
        assert json.loads(line).items() >= {k: v for k, v in row.items() if k != "sha"}.items()


def test_a_row_with_a_number_that_json_does_not_have_comes_back():
    values = unsealed(sealed({"cost": math.nan, "most": math.inf})[:-1], "it", "").values
    assert math.isnan(values["cost"])
    assert values["most"] == math.inf


def test_rows_without_checksums_are_told_apart(path):
    path.write_bytes(b'{"old": 1}\n' + path.read_bytes() + b'{"new": 2}\n')
    rows = list(read_rows(path, LIMIT, REMEDY))
    assert [row.vouched for row in rows] == [False, *[True] * len(ROWS), False]
    assert rows[-1].values == {"new": 2}


def test_no_flipped_bit_is_taken_for_what_was_written(path):
    """At every byte: it is refused, or it is a row that says itself that nothing vouches for it."""
    whole = path.read_bytes()
    for changed in damage.flipped(whole, every=1):
        path.write_bytes(changed)
        rows, said = damage.tried(lambda: list(read_rows(path, LIMIT, REMEDY)))
        if said:
            assert said.endswith(f": {REMEDY}")
            continue
        # A key "sha" that is one no more: its row is there, and no checksum
        assert len(rows) == len(ROWS), changed
        assert sum(not row.vouched for row in rows) == 1, changed
        assert all(row.values in ROWS for row in rows if row.vouched), changed


def test_of_a_file_that_was_cut_off_the_whole_rows_are_there(path):
    whole = path.read_bytes()
    ends = [0, *(at + 1 for at, byte in enumerate(whole) if byte == 10)]
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        # A last line may lack its end alone
        assert found(path) == ROWS[: sum(end - 1 <= length for end in ends) - 1], length


def test_a_last_line_that_is_no_beginning_of_a_row_is_refused(path):
    whole = path.read_bytes()
    for rest in (b"x", b"{}x", whole.splitlines()[0] + b"\x0b", b"\0\0", b"{" * (LONGEST + 1)):
        path.write_bytes(whole + rest)
        with pytest.raises(
            PerakitError, match=r"^line 5 of .* is (damaged \(.*\)|no row): delete it$"
        ):
            found(path)


@pytest.mark.parametrize("name", damage.JUNK)
def test_junk_is_one_sentence(path, name):
    path.write_bytes(path.read_bytes() + damage.JUNK[name] + b"\n" + sealed(ROWS[0]))
    rows, said = damage.tried(lambda: list(read_rows(path, LIMIT, REMEDY)))
    if name in ("huge exponent", "nan"):  # these are rows, which their readers judge
        assert [row.vouched for row in rows] == [True] * 4 + [False, True]
    else:
        assert said.startswith(f"line 5 of {str(path)!r} is ")
        assert said.endswith(f": {REMEDY}")


@pytest.mark.parametrize("name", damage.JUNK)
def test_junk_with_a_checksum_is_one_sentence_too(path, name):
    text = b'{"junk": ' + damage.JUNK[name] + b"}"
    seal = sealed({"of": "another"}).replace(b'{"of": "another"', text[:-1])
    seal = re.sub(rb'"sha": ".*"', b'"sha": "' + rows_module._checksum(text) + b'"', seal)
    path.write_bytes(seal)
    _, said = damage.tried(lambda: found(path))
    assert said is None or re.fullmatch(r"line 1 of .* is damaged \(.*\): delete it", said)
    assert (said is None) == (name in ("list", "nothing", "many", "nan", "huge exponent"))


@pytest.mark.parametrize("what", damage.ODD)
def test_what_is_no_file_is_refused_at_once(path, what):
    damage.put_in_place(path, what)
    if what.startswith("/proc"):
        assert found(path) == []  # a file of the system that says it is empty
        return
    with pytest.raises(PerakitError, match=r"rows\.jsonl'.*(: delete it|pass a file|; delete it)$"):
        found(path)


def test_a_file_beyond_its_limit_is_not_read(path):
    size = path.stat().st_size
    assert found(path, size) == ROWS
    with pytest.raises(PerakitError, match=rf"larger than the {size - 1} bytes .*: delete it$"):
        found(path, size - 1)


@pytest.mark.parametrize("step", ["write", "fsync"])
def test_a_row_that_does_not_fit_is_not_there_at_all(path, monkeypatch, step):
    whole = path.read_bytes()
    if step == "fsync":

        def full(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        told = "No space left on device"
    else:
        resource = pytest.importorskip("resource")
        signal = pytest.importorskip("signal")
        before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 10, limits[1]))
        told = "File too large"
    try:
        with pytest.raises(
            PerakitError, match=rf"cannot write '.*rows\.jsonl': {told}; make room$"
        ):
            append(path, ROWS[0], "make room")
    finally:
        if step == "write":
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            signal.signal(signal.SIGXFSZ, before)
    assert path.read_bytes() == whole
    monkeypatch.undo()
    append(path, ROWS[0], "make room")
    assert found(path) == [*ROWS, ROWS[0]]


@pytest.mark.parametrize("synced", [True, False])
def test_a_row_is_on_the_disk_when_it_is_asked_to_be(path, monkeypatch, synced):
    sizes = []
    monkeypatch.setattr(os, "fsync", lambda file: sizes.append(os.fstat(file).st_size))
    append(path, ROWS[0], REMEDY, synced)
    assert sizes == [path.stat().st_size] * synced


@pytest.mark.parametrize("name", ["a\0b", 300 * "a"])
def test_a_name_that_no_file_can_have(tmp_path, name):
    with pytest.raises(PerakitError, match=r"cannot write .*; make room$"):
        append(tmp_path / name, ROWS[0], "make room")
