"""What one does to a model: attach, merge, save, and back."""

from perakit.models.adapted import AdaptedLayer, adapters, delta_weights
from perakit.models.attach import AttachReport, attach, detach, disabled
from perakit.models.merge import MergeReport, bake, merge, unmerge
from perakit.models.storage import load, save

__all__ = [
    "AdaptedLayer",
    "AttachReport",
    "MergeReport",
    "adapters",
    "attach",
    "bake",
    "delta_weights",
    "detach",
    "disabled",
    "load",
    "merge",
    "save",
    "unmerge",
]
