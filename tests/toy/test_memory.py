"""The peak is measured anew after each reset."""

import sys

import pytest
import torch

from perakit.toy.memory import peak_bytes, reset_peak

CPU = torch.device("cpu")


def grow(mib):
    """Hold so much memory for a moment, every page touched."""
    return bytearray(mib * 2**20)[::4096]


def test_peak_counts_what_is_held():
    reset_peak(CPU)
    before = peak_bytes(CPU)
    grow(256)
    assert peak_bytes(CPU) >= before + 128 * 2**20


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a process reset its peak")
def test_reset_forgets_an_earlier_peak():
    grow(256)
    high = peak_bytes(CPU)
    reset_peak(CPU)
    assert peak_bytes(CPU) <= high - 128 * 2**20


def test_without_proc_the_peak_is_the_one_of_the_process(monkeypatch):
    import perakit.toy.memory as memory

    class Nowhere:
        def __init__(self, path):
            pass

        def read_text(self):
            raise FileNotFoundError

        write_text = read_text

    monkeypatch.setattr(memory, "Path", lambda path: Nowhere(path))
    monkeypatch.setattr(Nowhere, "write_text", lambda self, text: self.read_text())
    memory.reset_peak(CPU)
    assert memory.peak_bytes(CPU) > 2**20
