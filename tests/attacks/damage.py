"""What can befall a file: flipped bits, cuts, lines elsewhere, something else in its place."""

import os

from perakit import PerakitError

JUNK = {
    "deep": b"[" * 100_000,
    "deep row": b'{"step": ' + b"[" * 100_000,
    "huge number": b'{"step": ' + b"9" * 100_000 + b"}",
    "huge exponent": b'{"step": 1e999, "loss": -1e999}',
    "nan": b'{"step": NaN, "loss": NaN, "lr": NaN, "grad_norm": NaN, "seconds": NaN}',
    "no text": bytes(range(128, 256)),
    "utf-16": '{"step": 1}'.encode("utf-16"),
    "list": b"[1, 2]",
    "blank": b"",
    "nothing": b"null",
    "many": b"[" + b"{}," * 1_000_000 + b"0]",
}


def flipped(data, every=97):
    """`data` with one bit flipped, at every so many bytes."""
    for at in range(0, len(data), every):
        yield data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :]


def cut(data, count=40):
    """The first part of `data`, in many lengths."""
    for k in range(count):
        yield data[: k * len(data) // count]


def rearranged(data):
    """Lines swapped, twice, left out, or with junk among them."""
    lines = data.splitlines(keepends=True)
    first, second, third = lines[:3]
    yield b"".join([second, first, *lines[2:]])
    yield b"".join([first, third, second, *lines[3:]])
    yield b"".join([*lines[:-2], lines[-1], lines[-2]])
    yield b"".join([first, second, second, *lines[2:]])
    yield b"".join([*lines, lines[-1]])
    yield b"".join([first, *lines[2:]])
    for junk in JUNK.values():
        yield b"".join([first, junk, b"\n", *lines[1:]])


def put_in_place(path, what):
    """In the place of a file: a thing without an end, or that nobody writes to, or no file."""
    if path.is_dir():
        path.rmdir()
    else:
        path.unlink(missing_ok=True)
    if what == "fifo":
        os.mkfifo(path)
    elif what == "folder":
        path.mkdir()
    elif what == "giant":
        with open(path, "wb") as file:
            file.truncate(10**12)
    else:
        path.symlink_to(what)


ODD = ("fifo", "folder", "giant", "/dev/zero", "/dev/null", "/proc/self/pagemap")


def tried(use):
    """(what `use` returns, None), or (None, the one sentence that it raises)."""
    try:
        return use(), None
    except PerakitError as error:
        said = str(error)
        assert "\n" not in said, said
        assert said.isprintable(), said
        assert len(said) <= 600, said
        return None, said
