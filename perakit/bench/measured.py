"""What every measurement carries, and how its table gets into a page."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from perakit.errors import PerakitError


def machine(*packages: str) -> dict[str, Any]:
    """Processor, cores, torch's threads, the load at this moment, and the versions of Python, torch
    and `packages`.
    """
    return {
        "cpu": cpu(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1),
        "versions": (
            {"python": platform.python_version()}
            | {name: version(name) for name in ("torch", *packages)}
        ),
    }


def cpu() -> str:
    """The name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next(
        (line.split(":")[1].strip() for line in lines if line.startswith("model name")),
        platform.machine(),
    )


def renewed(page: str, command: str, text: str) -> str:
    """The page with what stands between `<!-- measured: command -->` and `<!-- end of measured -->`
    replaced by `text`.
    """
    start, end = f"<!-- measured: {command} -->", "<!-- end of measured -->"
    before, found, rest = page.partition(start)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise PerakitError(f"the page has no measured part: it goes between {start!r} and {end!r}")
    return f"{before}{start}\n{text}\n{end}{after}"
