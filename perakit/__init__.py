"""perakit: PERA and LoRA from first principles, to learn, teach, check and use.

import perakit as pk

model = pk.toy.load("tiny")
print(pk.attach(model, pk.PERA(rank=8), targets=["c_attn", "c_proj"]))
"""

from perakit import formulas, theory, toy
from perakit.adapters import PERA, Adapter, LoRA, Method
from perakit.errors import PerakitError
from perakit.models import adapters, attach, bake, delta_weights, detach, disabled, load, merge, save, unmerge

__version__ = "0.1.0"

__all__ = [
    "PERA",
    "Adapter",
    "LoRA",
    "Method",
    "PerakitError",
    "adapters",
    "attach",
    "bake",
    "delta_weights",
    "detach",
    "disabled",
    "formulas",
    "load",
    "merge",
    "save",
    "theory",
    "toy",
    "unmerge",
]
