"""The forward and backward passes of adapted layers, quicker: equal to the plain way, to rounding.

`perakit.models.AdaptedLayer` asks `forward` first (seam.py), and goes the plain way where that
returns None: base(x) + adapter(x), by autograd. Nothing else in perakit needs this folder; without
it every law and every notebook still holds. A rule of `perakit.formulas` gets a quicker way by an
entry in `seam.RULES`; no method's file changes.
"""

from perakit.fast.plans import off, use_plan
from perakit.fast.seam import forward

__all__ = ["forward", "off", "use_plan"]
