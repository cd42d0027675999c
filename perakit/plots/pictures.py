"""Figures and numbers on disk, as every report of the laboratory writes them."""

from __future__ import annotations

import hashlib
import io
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from perakit import formulas

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def new_figure(width: float, height: float) -> Figure:
    """A figure that knows nothing of pyplot; width and height in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure


def png(figure: Figure) -> bytes:
    """The figure as a PNG of at most 256 colours, a third of the size."""
    from PIL import Image

    full, small = io.BytesIO(), io.BytesIO()
    figure.savefig(full, format="png", dpi=120)
    Image.open(full).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(
        small, format="png", optimize=True
    )
    return small.getvalue()


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
