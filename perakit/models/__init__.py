"""What one does to a model: attach, merge, save, and back."""

from perakit.models.adapted import AdaptedLayer, active, adapters, delta_weights
from perakit.models.attach import AttachReport, activate, attach, delete, detach, disabled, quantize
from perakit.models.export import ExportReport, export_peft
from perakit.models.import_peft import import_peft
from perakit.models.merge import MergeReport, bake, merge, unmerge
from perakit.models.quantize import NF4, NF4Layer
from perakit.models.storage import load, save

__all__ = [
    "NF4",
    "AdaptedLayer",
    "AttachReport",
    "ExportReport",
    "MergeReport",
    "NF4Layer",
    "activate",
    "active",
    "adapters",
    "attach",
    "bake",
    "delete",
    "delta_weights",
    "detach",
    "disabled",
    "export_peft",
    "import_peft",
    "load",
    "merge",
    "quantize",
    "save",
    "unmerge",
]
