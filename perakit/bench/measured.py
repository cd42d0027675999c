"""What every measurement carries, and how its table gets into a page."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from perakit import formulas
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


def made_from(seed: int) -> dict[str, Any]:
    """What goes beside every number: the seed, the versions, the rules, and what it ran on."""
    return {
        "seed": seed,
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "numpy", "scipy", "matplotlib")},
        },
        "formulas_sha256": hashlib.sha256(Path(formulas.__file__).read_bytes()).hexdigest(),
        "hardware": f"cpu, {torch.get_num_threads()} threads, {platform.machine()}",
    }


def plain(value: Any) -> Any:
    """As JSON values, floats to six digits: beyond them machines differ."""
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, np.ndarray | list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, np.generic):
        value = value.item()
    return float(f"{value:.6g}") if isinstance(value, float) else value


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
