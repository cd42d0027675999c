"""Torch adapters, one method a file. A file put here is found by itself; its class is then in `Method.registry`."""

from importlib import import_module
from pkgutil import iter_modules

from perakit.adapters.base import Adapter, Additive, Method
from perakit.adapters.lora import LoRA
from perakit.adapters.pera import PERA

__all__ = ["PERA", "Adapter", "Additive", "LoRA", "Method"]

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
