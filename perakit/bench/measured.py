"""What every measurement carries, and how it gets into a file or a page."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from perakit import formulas
from perakit.errors import PerakitError

# --- what it was measured on ----------------------------------------------------------------------


def machine(*packages: str) -> dict[str, Any]:
    """Processor, cores, torch's threads, load now, and versions of Python, torch and `packages`."""
    return {
        "cpu": cpu(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1),
        "versions": _versions("torch", *packages),
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


def in_words(about: Mapping[str, Any]) -> str:
    """A `machine`, as pages say it."""
    versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
    return (
        f"{about['cpu']}, {about['cores']} cores, {about['threads']} threads, load"
        f" {about['load']:g}; {versions}"
    )


def made_from(seed: int) -> dict[str, Any]:
    """What decides computed numbers: the seed, the versions, the rules, and the processor."""
    return {
        "seed": seed,
        "versions": _versions("torch", "numpy", "scipy", "matplotlib"),
        "formulas_sha256": hashlib.sha256(Path(formulas.__file__).read_bytes()).hexdigest(),
        "hardware": f"cpu, {torch.get_num_threads()} threads, {platform.machine()}",
    }


def _versions(*packages: str) -> dict[str, str]:
    return {"python": platform.python_version()} | {name: version(name) for name in packages}


# --- how it is measured, and where it goes --------------------------------------------------------


def in_process(module: str, *arguments: str, **environment: str) -> Any:
    """What `python -m module arguments` prints, as JSON; environment: variables set for it alone.

    A fresh process has its own memory, and has read and cached nothing yet.
    """
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env=os.environ | environment,
    )
    return json.loads(done.stdout)


def plain(value: Any) -> Any:
    """As JSON values, floats to six digits: beyond them machines differ."""
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, np.ndarray | list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, np.generic):
        value = value.item()
    return float(f"{value:.6g}") if isinstance(value, float) else value


def as_json(value: Any) -> bytes:
    """The text of a JSON file; ValueError for NaN and infinity, which JSON does not have."""
    return (json.dumps(value, indent=1, allow_nan=False) + "\n").encode()


def renewed(page: str, command: str, text: str) -> str:
    """The page with its measured part replaced by `text`.

    That part is between `<!-- measured: command -->` and `<!-- end of measured -->`.
    """
    start, end = f"<!-- measured: {command} -->", "<!-- end of measured -->"
    before, found, rest = page.partition(start)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise PerakitError(f"the page has no measured part: it goes between {start!r} and {end!r}")
    return f"{before}{start}\n{text}\n{end}{after}"
