"""Peak memory of a stretch of work."""

from __future__ import annotations

import resource
import sys
from contextlib import suppress
from pathlib import Path

import torch


def reset_peak(device: torch.device) -> None:
    """Start a new measurement, where the system can: on CUDA, and on Linux for the process."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    # Not Linux, or a container that forbids it: the peak is then since the process began
    with suppress(OSError):
        # "5" resets the peak resident size (man 5 proc)
        Path("/proc/self/clear_refs").write_text("5")


def peak_bytes(device: torch.device) -> int:
    """Most memory since `reset_peak`: allocated by torch on CUDA, else resident in the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        status = Path("/proc/self/status").read_text()
        return 1024 * int(status.split("VmHWM:")[1].split()[0])
    except (OSError, IndexError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # in bytes on macOS
        return peak if sys.platform == "darwin" else 1024 * peak
