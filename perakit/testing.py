"""The laws of an adapter, one function each: call them on your own method, or all at once.

from perakit.testing import assert_adapter_laws
assert_adapter_laws(MyMethod(rank=2))  # or MyMethod, or MyAdapter, which mean the same

Each law takes (method, layer, seed): a method, a bare layer (`strategies.layers()` draws some), and
a seed from which inputs and factors are drawn. It raises AssertionError with the law's name. The
layer itself is copied, never changed; it may be on any device. `formula(method, parameters, W0) ->
ΔW`, scale included, is an oracle for a method that perakit does not know; without one the laws that
need a second opinion compare the layer with its own `delta`, in float64. What a correct method may
do otherwise than most it says in class attributes: `proportional`, `exact_gradient`,
`exact_in_float64`, `mergeable` (docs/adding-a-method.md); no law asks for a method's name. A method
that is not `mergeable` has no ΔW: its oracle is `formula(method, parameters, x) -> what it adds to
the output`, and the laws on ΔW and merging become one, that all of it is refused with the reason
and nothing has changed.
"""

# The laws themselves are in `perakit.laws`, one theme a file; here are the names that a user types.
from perakit import laws
from perakit.laws import *  # noqa: F403

# Formula is a type: importable, and not on the page of functions.
__all__ = [name for name in laws.__all__ if name != "Formula"]
