"""Files that are the old one or the new one."""

import errno
import os
import signal
import stat
import time
from pathlib import Path

import pytest

from perakit import PerakitError
from perakit.files import LOCK, alone, as_folder, open_plain, read_plain, write_atomically


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


# --- one process in a folder ----------------------------------------------------------------------

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def holding(folder):
    """A process that holds the folder until it is killed."""
    reads, writes = os.pipe()
    child = os.fork()
    if child == 0:
        with alone(folder):
            os.write(writes, b"!")
            time.sleep(60)
        os._exit(1)
    os.read(reads, 1)
    os.close(reads)
    os.close(writes)
    return child


def test_within_the_block_nobody_else_is(tmp_path):
    folder = tmp_path / "new" / "folder"
    told = f"in use by process {os.getpid()}: wait for it, or choose another folder"
    for before in ([], ["result"]):
        with alone(folder):
            assert sorted(os.listdir(folder)) == [LOCK, *before]
            with pytest.raises(PerakitError, match=told), alone(folder):
                raise AssertionError
            with alone(tmp_path):  # another folder
                pass
            (folder / "result").touch()
        assert os.listdir(folder) == ["result"]


def test_an_error_frees_the_folder_and_takes_an_empty_one_away(tmp_path):
    for error in (KeyboardInterrupt, PerakitError):
        with pytest.raises(error), alone(tmp_path / "new"):
            raise error
        assert os.listdir(tmp_path) == []


@needs_fork
def test_another_process_is_named_and_a_kill_frees_its_folder(tmp_path):
    child = holding(tmp_path)
    told = f"'.*' is in use by process {child}: wait"
    with pytest.raises(PerakitError, match=told), alone(tmp_path):
        raise AssertionError
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert os.listdir(tmp_path) == [LOCK]
    with alone(tmp_path):
        pass
    assert os.listdir(tmp_path) == []


@needs_fork
def test_of_many_that_try_again_and_again_one_is_in_it(tmp_path):
    """Each makes a file and takes it away: in two at once, one would find that of the other."""
    (tmp_path / "folder").mkdir()
    children = []
    for _ in range(4):
        children.append(os.fork())
        if children[-1] == 0:
            done = 0
            while done < 50:
                try:
                    with alone(tmp_path / "folder"):
                        os.close(os.open(tmp_path / "mine", os.O_CREAT | os.O_EXCL))
                        (tmp_path / "mine").unlink()
                        done += 1
                except PerakitError as error:
                    if "in use by" not in str(error):
                        os._exit(2)
                except BaseException:
                    os._exit(3)
            os._exit(0)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
    assert os.listdir(tmp_path / "folder") == []


@pytest.mark.parametrize("another", [False, True])
def test_a_lock_on_a_file_that_was_taken_away_is_none(tmp_path, monkeypatch, another):
    """Between opening and locking, whoever had it has removed it, and the next has made another."""
    opened, real = [], os.open

    def late(path, *more):
        opened.append(real(path, *more))
        if len(opened) == 1:
            Path(path).unlink()
            if another:
                Path(path).write_text("of the next")
        return opened[-1]

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", late)
        with alone(tmp_path):
            assert len(opened) == 2
            assert (tmp_path / LOCK).read_text() == str(os.getpid())
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["file", "file/below", "null\0", 300 * "a"])
def test_a_folder_that_cannot_be(tmp_path, name):
    (tmp_path / "file").write_text("mine")
    told = r"cannot write .*; choose a folder that can be written"
    with pytest.raises(PerakitError, match=told), alone(tmp_path / name):
        raise AssertionError
    assert os.listdir(tmp_path) == ["file"]


def test_something_else_in_the_place_of_the_lock(tmp_path):
    (tmp_path / LOCK).mkdir()
    with pytest.raises(PerakitError, match=r"cannot write .*Is a directory"), alone(tmp_path):
        raise AssertionError
    (tmp_path / LOCK).rmdir()
    for target in ("/dev/zero", tmp_path / "none" / "none"):
        (tmp_path / LOCK).symlink_to(target)
        with pytest.raises(PerakitError, match=r"cannot write .*; choose"), alone(tmp_path):
            raise AssertionError
        (tmp_path / LOCK).unlink()


def test_what_a_killed_process_was_writing_is_removed(tmp_path):
    for name in (".results.json.123.tmp", ".mine.tmp", "a.123.tmp", ".b.123.tmp.txt"):
        (tmp_path / name).touch()
    with alone(tmp_path):
        assert sorted(os.listdir(tmp_path)) == [".b.123.tmp.txt", ".mine.tmp", LOCK, "a.123.tmp"]


def test_a_file_system_without_locks_is_said(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")

    def none(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    with pytest.warns(UserWarning, match="no locks on this file system"), alone(tmp_path):
        pass
