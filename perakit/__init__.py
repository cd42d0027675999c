"""perakit: PERA and LoRA from first principles, to learn, teach, check and use.

import perakit as pk

model = pk.toy.load("tiny")
print(pk.attach(model, pk.PERA(rank=8), targets=["c_attn", "c_proj"]))
"""

from perakit import fast, formulas, theory, toy
from perakit.adapters import PERA, Adapter, DeLoRA, DoRA, HiRA, LoHa, LoRA, Method, MoRA, Quadratic
from perakit.fast.plans import use_plan
from perakit.errors import PerakitError
from perakit.models import (
    NF4,
    activate,
    active,
    adapters,
    attach,
    bake,
    delete,
    delta_weights,
    detach,
    disabled,
    export_peft,
    import_peft,
    load,
    merge,
    quantize,
    save,
    unmerge,
)

__version__ = "0.1.0"

__all__ = [
    "NF4",
    "PERA",
    "Adapter",
    "DeLoRA",
    "DoRA",
    "HiRA",
    "LoHa",
    "LoRA",
    "Method",
    "MoRA",
    "PerakitError",
    "Quadratic",
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
    "formulas",
    "import_peft",
    "load",
    "merge",
    "quantize",
    "save",
    "theory",
    "toy",
    "unmerge",
    "use_plan",
]
