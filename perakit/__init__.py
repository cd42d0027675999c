"""perakit: PERA and LoRA from first principles, to learn, teach, check and use.

import perakit as pk

model = pk.toy.load("tiny")
print(pk.attach(model, pk.PERA(rank=8), targets=["c_attn", "c_proj"]))

What a name stands for is imported when somebody asks for it (PEP 562). `import perakit.formulas`
therefore needs NumPy alone, and nobody waits for sympy or matplotlib to attach an adapter.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

__version__ = "0.1.0"

# Where each public name lives. Type checkers read the imports below; a test holds the two equal.
_NAMES = {
    "perakit.adapters": (
        "PERA",
        "Adapter",
        "DeLoRA",
        "DoRA",
        "HiRA",
        "LoHa",
        "LoRA",
        "Method",
        "MoRA",
        "Quadratic",
    ),
    "perakit.bench.explain": ("explain",),
    "perakit.errors": ("PerakitError",),
    "perakit.fast.plans": ("use_plan",),
    "perakit.models.adapted": ("active", "adapters", "delta_weights"),
    "perakit.models.attach": ("activate", "attach", "delete", "detach", "disabled", "quantize"),
    "perakit.models.export": ("export_peft",),
    "perakit.models.import_peft": ("import_peft",),
    "perakit.models.merge": ("bake", "merge", "unmerge"),
    "perakit.models.quantize": ("NF4",),
    "perakit.models.storage": ("load", "save"),
}
_STARRED = ("formulas", "theory", "toy")  # the rooms that `from perakit import *` brings
_ROOMS = (
    *_STARRED,
    "bench",
    "classroom",
    "cli",
    "errors",
    "experiments",
    "explorer",
    "fast",
    "files",
    "laws",
    "models",
    "peft",
    "plots",
    "strategies",
    "table",
    "testing",
)
_HOME = {name: home for home, names in _NAMES.items() for name in names}

__all__ = sorted([*_HOME, *_STARRED])

if TYPE_CHECKING:
    from perakit import bench as bench
    from perakit import classroom as classroom
    from perakit import cli as cli
    from perakit import errors as errors
    from perakit import experiments as experiments
    from perakit import explorer as explorer
    from perakit import fast as fast
    from perakit import files as files
    from perakit import formulas as formulas
    from perakit import laws as laws
    from perakit import models as models
    from perakit import peft as peft
    from perakit import plots as plots
    from perakit import strategies as strategies
    from perakit import table as table
    from perakit import testing as testing
    from perakit import theory as theory
    from perakit import toy as toy
    from perakit.adapters import PERA as PERA
    from perakit.adapters import Adapter as Adapter
    from perakit.adapters import DeLoRA as DeLoRA
    from perakit.adapters import DoRA as DoRA
    from perakit.adapters import HiRA as HiRA
    from perakit.adapters import LoHa as LoHa
    from perakit.adapters import LoRA as LoRA
    from perakit.adapters import Method as Method
    from perakit.adapters import MoRA as MoRA
    from perakit.adapters import Quadratic as Quadratic
    from perakit.bench.explain import explain as explain
    from perakit.errors import PerakitError as PerakitError
    from perakit.fast.plans import use_plan as use_plan
    from perakit.models.adapted import active as active
    from perakit.models.adapted import adapters as adapters
    from perakit.models.adapted import delta_weights as delta_weights
    from perakit.models.attach import activate as activate
    from perakit.models.attach import attach as attach
    from perakit.models.attach import delete as delete
    from perakit.models.attach import detach as detach
    from perakit.models.attach import disabled as disabled
    from perakit.models.attach import quantize as quantize
    from perakit.models.export import export_peft as export_peft
    from perakit.models.import_peft import import_peft as import_peft
    from perakit.models.merge import bake as bake
    from perakit.models.merge import merge as merge
    from perakit.models.merge import unmerge as unmerge
    from perakit.models.quantize import NF4 as NF4
    from perakit.models.storage import load as load
    from perakit.models.storage import save as save
else:  # a type checker that saw a __getattr__ would take every misspelt name for a good one

    def __getattr__(name):
        """The public name or the room `name`, imported now and kept for the next time."""
        if name in _HOME:
            value = getattr(_imported(_HOME[name], name), name)
        elif name in _ROOMS:
            value = _imported(f"{__name__}.{name}", name)
        else:
            raise _no_such(name)
        globals()[name] = value
        return value

    def __dir__():
        return sorted({*__all__, *_ROOMS, *filter(_shown, globals())})

    def _imported(module, name):
        try:
            return import_module(module)
        except ModuleNotFoundError as error:
            if not f"{module}.".startswith(f"{error.name}."):  # a library that is needed: say so
                raise
            raise _no_such(name) from error  # a room that was taken away

    def _no_such(name):
        # In Python's own words, and with what it needs to add "Did you mean".
        text = f"module {__name__!r} has no attribute {name!r}"
        return AttributeError(text, name=name, obj=sys.modules[__name__])

    def _shown(name):
        return name.startswith("__") or not (name.startswith("_") or name in _MACHINERY)

    _MACHINERY = {"ModuleType", "TYPE_CHECKING", "import_module", "sys"}


class _Package(ModuleType):
    """Keeps `pk.adapters` the function, also once the package `perakit.adapters` is imported."""

    def __setattr__(self, name: str, value: object) -> None:
        # Python sets a submodule as an attribute of its package, over whatever is there
        if not (isinstance(value, ModuleType) and name in _HOME):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
