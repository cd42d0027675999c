"""Torch adapters, one method a file.

A file put here is found by itself; its class is then in `Method.registry`.
"""

from importlib import import_module
from pkgutil import iter_modules

from perakit.adapters.base import Adapter, Additive, Method
from perakit.adapters.delora import DeLoRA
from perakit.adapters.dora import DoRA
from perakit.adapters.hira import HiRA
from perakit.adapters.loha import LoHa
from perakit.adapters.lora import LoRA
from perakit.adapters.mora import MoRA
from perakit.adapters.pera import PERA
from perakit.adapters.quadratic import Quadratic

__all__ = [
    "PERA",
    "Adapter",
    "Additive",
    "DeLoRA",
    "DoRA",
    "HiRA",
    "LoHa",
    "LoRA",
    "Method",
    "MoRA",
    "Quadratic",
]

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
