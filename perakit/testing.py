"""The laws of an adapter, one function each: call them on your own method, or all at once.

from perakit.testing import assert_adapter_laws
assert_adapter_laws(MyMethod(rank=2))  # or MyMethod, or MyAdapter, which mean the same

Each law takes (method, layer, seed): a method, a bare layer (`strategies.layers()` draws some), and
a seed from which inputs and factors are drawn. It raises AssertionError with the law's name. The
layer itself is copied, never changed. `formula(method, parameters, W0) -> ΔW`, scale included, is
an oracle for a method that perakit does not know; without one the laws that need a second opinion
compare the layer with its own `delta`, in float64. What a correct method may do otherwise than most
it says in class attributes: `proportional`, `exact_gradient`, `exact_in_float64`, `mergeable`
(docs/adding-a-method.md); no law asks for a method's name. A method that is not `mergeable` has no
ΔW: its oracle is `formula(method, parameters, x) -> what it adds to the output`, and the laws on ΔW
and merging become one, that all of it is refused with the reason and nothing has changed.
"""

# The laws themselves are in `perakit.laws`, one theme a file; here are the names that a user types.
from perakit.laws import (
    INPUTS,
    LAWS,
    ORACLES,
    TOLERANCE,
    WITH_FORMULA,
    adapted,
    assert_adapter_laws,
    entries_mora,
    hadamard_loha,
    hadamard_lora,
    hadamard_pera,
    inputs,
    law_1_no_op_at_init,
    law_2_differs,
    law_3_dense_forward,
    law_3_scale,
    law_4_merge,
    law_5_restore,
    law_6_idempotent,
    law_7_save_load,
    law_8_gradients,
    law_9_dense_gradients,
    law_10_readings,
    law_11_rank,
    law_12_compile,
    law_12_copies,
    law_12_dtypes,
    law_12_state_dict,
    law_12_tied,
    law_dropout,
    law_sum,
    outer_delora,
    pattern_hira,
    rows_dora,
    sum_quadratic,
)
from perakit.laws import Formula as Formula  # a type: importable, not on the page of functions

__all__ = [
    "INPUTS",
    "LAWS",
    "ORACLES",
    "TOLERANCE",
    "WITH_FORMULA",
    "adapted",
    "assert_adapter_laws",
    "entries_mora",
    "hadamard_loha",
    "hadamard_lora",
    "hadamard_pera",
    "inputs",
    "law_1_no_op_at_init",
    "law_2_differs",
    "law_3_dense_forward",
    "law_3_scale",
    "law_4_merge",
    "law_5_restore",
    "law_6_idempotent",
    "law_7_save_load",
    "law_8_gradients",
    "law_9_dense_gradients",
    "law_10_readings",
    "law_11_rank",
    "law_12_compile",
    "law_12_copies",
    "law_12_dtypes",
    "law_12_state_dict",
    "law_12_tied",
    "law_dropout",
    "law_sum",
    "outer_delora",
    "pattern_hira",
    "rows_dora",
    "sum_quadratic",
]
