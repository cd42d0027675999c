"""Files that are the old one or the new one."""

import os
import stat
from pathlib import Path

import pytest

from perakit import PerakitError
from perakit.files import as_folder, open_plain, read_plain, write_atomically


def test_writes_and_makes_folders(tmp_path):
    path = tmp_path / "a" / "b" / "file"
    for data in (b"one", b"", bytes(range(256)) * 999):
        write_atomically(path, data)
        assert path.read_bytes() == data
        assert os.listdir(path.parent) == ["file"]


def test_everything_is_on_the_disk_before_the_name_changes(tmp_path, monkeypatch):
    path, seen = tmp_path / "file", []
    path.write_bytes(b"old")
    fsync, replace = os.fsync, os.replace

    def watched_fsync(descriptor):
        seen.append(("fsync", os.fstat(descriptor).st_size, path.read_bytes()))
        fsync(descriptor)

    def watched_replace(source, target):
        # The same disk, so that replace is one step
        assert os.path.dirname(source) == str(tmp_path)
        seen.append(("replace", os.path.getsize(source), path.read_bytes()))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(os, "replace", watched_replace)
    write_atomically(path, b"newer")
    assert seen == [("fsync", 5, b"old"), ("replace", 5, b"old")]
    assert path.read_bytes() == b"newer"


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failure_keeps_the_old_file_and_leaves_no_other(tmp_path, monkeypatch, step):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(
        PerakitError,
        match=r"cannot write '.*file': No space left on device; .* room for 1,234 bytes",
    ) as caught:
        write_atomically(path, bytes(1234))
    assert isinstance(caught.value.__cause__, OSError)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_an_interrupt_passes_and_leaves_no_file(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "file", b"new")
    assert os.listdir(tmp_path) == []


def test_a_folder_in_the_way(tmp_path):
    (tmp_path / "file" / "inside").mkdir(parents=True)
    with pytest.raises(PerakitError, match="cannot write"):
        write_atomically(tmp_path / "file", b"new")
    assert os.listdir(tmp_path) == ["file"]
    assert os.listdir(tmp_path / "file") == ["inside"]


def test_a_file_in_the_place_of_the_folder(tmp_path):
    (tmp_path / "file").write_bytes(b"old")
    with pytest.raises(PerakitError, match="choose a folder that can be written"):
        write_atomically(tmp_path / "file" / "below", b"new")
    assert (tmp_path / "file").read_bytes() == b"old"


def test_permissions_are_those_of_an_ordinary_file(tmp_path):
    (tmp_path / "ordinary").write_bytes(b"")
    write_atomically(tmp_path / "file", b"")
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == stat.S_IMODE(
        (tmp_path / "ordinary").stat().st_mode
    )


def test_a_name_that_no_file_can_have(tmp_path):
    for name in ("a\0b", "a\ud800b"):
        with pytest.raises(OSError, match=r"null byte|codec") as caught:
            open_plain(tmp_path / name)
        assert caught.value.strerror
        with pytest.raises(PerakitError, match="cannot write"):
            write_atomically(tmp_path / name, b"")


@pytest.mark.parametrize("path", [None, 3, b"bytes", ["list"], object()])
def test_what_is_no_path(path):
    with pytest.raises(
        PerakitError,
        match=r"the folder is a path, a str or a Path, not (None|3|b'bytes'|\['list'\]|<object)",
    ):
        as_folder(path)


def test_paths(tmp_path):
    assert as_folder(str(tmp_path)) == as_folder(tmp_path) == tmp_path
    assert as_folder("nowhere") == Path("nowhere")
    with pytest.raises(PerakitError, match=r"not 'x{20,79}$") as caught:
        as_folder(type("Long", (), {"__repr__": lambda self: "'" + 1000 * "x"})())
    assert len(str(caught.value)) < 150


def test_a_plain_file_is_read_up_to_its_limit(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    assert read_plain(path, 5, "pass another") == b"12345"
    with pytest.raises(PerakitError, match=r"larger than the 4 bytes .* \(5\): pass another"):
        read_plain(path, 4, "pass another")
    with pytest.raises(PerakitError, match=r"cannot read .*: No such file .*; pass another"):
        read_plain(tmp_path / "none", 4, "pass another")
    for name in ("a\0b", 300 * "a"):
        with pytest.raises(PerakitError, match=r"cannot read .*; pass another"):
            read_plain(tmp_path / name, 4, "pass another")
    os.mkfifo(tmp_path / "pipe")
    for odd in (tmp_path / "pipe", Path(os.devnull), Path("/dev/zero")):
        with pytest.raises(PerakitError, match="a device or a pipe"):
            read_plain(odd, 4, "pass another")
    with pytest.raises(PerakitError, match=r"cannot read .*: Is a directory; pass another"):
        read_plain(tmp_path, 4, "pass another")
