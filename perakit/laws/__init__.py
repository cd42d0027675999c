"""The laws of an adapter, each a function that raises AssertionError where it is broken.

`perakit.testing` passes their names on to users, and says how to call them. Each has its place:

start       1 no-op at init, 2 differs once the factors do
forward     3 the dense formula, and its scale
merging     4 merged = unmerged, 5 the way back is bitwise, 6 twice is once
saving      7 save and load
training    8 only the adapter is trained, and all of it
gradients   9 those of the dense formula
readings   10 layer, NumPy and sympy agree
rank       11 the bound holds, and is attained
behaviour  12 copies, dtypes, state dict, torch.compile, tied weights
dropout, sums: two more, without a number

What they share: `cases` is what a law is tried on, `oracles` and `dense` are what it expects,
`comparing` says when that counts as equal, `asked` which method is meant.
"""

from __future__ import annotations

from collections.abc import Callable

from perakit.adapters import Adapter, Method
from perakit.laws.asked import method_of
from perakit.laws.behaviour import (
    law_12_compile,
    law_12_copies,
    law_12_dtypes,
    law_12_state_dict,
    law_12_tied,
)
from perakit.laws.cases import INPUTS, adapted, every_layer, inputs
from perakit.laws.comparing import TOLERANCE
from perakit.laws.dropout import law_dropout
from perakit.laws.forward import law_3_dense_forward, law_3_scale
from perakit.laws.gradients import law_9_dense_gradients
from perakit.laws.merging import law_4_merge, law_5_restore, law_6_idempotent
from perakit.laws.oracles import (
    ORACLES,
    Formula,
    entries_mora,
    hadamard_loha,
    hadamard_lora,
    hadamard_pera,
    outer_delora,
    pattern_hira,
    rows_dora,
    sum_quadratic,
)
from perakit.laws.rank import law_11_rank
from perakit.laws.readings import law_10_readings
from perakit.laws.saving import law_7_save_load
from perakit.laws.start import law_1_no_op_at_init, law_2_differs
from perakit.laws.sums import law_sum
from perakit.laws.training import law_8_gradients

__all__ = [
    "INPUTS",
    "LAWS",
    "ORACLES",
    "TOLERANCE",
    "WITH_FORMULA",
    "Formula",
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

LAWS: tuple[Callable[..., None], ...] = (
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
    law_12_copies,
    law_12_dtypes,
    law_12_state_dict,
    law_12_compile,
    law_12_tied,
    law_dropout,
    law_sum,
)
# Those that ask an oracle, and take the argument `formula`
WITH_FORMULA = (law_3_dense_forward, law_4_merge, law_9_dense_gradients, law_10_readings, law_sum)


def assert_adapter_laws(
    method: Method | type[Method] | type[Adapter],
    formula: Formula | None = None,
    seed: int = 0,
    compiled: bool = True,
) -> None:
    """Hold one method to every law, on every layer kind and dtype.

    Some of the layers have one row, one column, no bias, or zeros.

    method: `MyMethod(rank=2)`, with the options to test; or the class `MyMethod`, which is tested
    at rank 2 with its defaults; or the class `MyAdapter`, which stands for the one registered
    method that names it as its `adapter` (of methods that derive from one another the last), at
    rank 2. formula: ΔW as a function (method, parameters, W0), scale included, of any arrays;
    without one the laws that need a second opinion compare the layer with its own `delta` and the
    method's `update`. seed: of layers, inputs and factors. compiled: False leaves out
    torch.compile, the slow one.

    Takes a few seconds. Raises AssertionError at the first law that is broken, with the law, the
    layer and the dtype; PerakitError where no method, or more than one, is meant.

    >>> from perakit import LoRA
    >>> from perakit.testing import assert_adapter_laws
    >>> def product(method, parameters, W0):
    ...     return method.scale * parameters["B"] @ parameters["A"]
    >>> assert_adapter_laws(LoRA(rank=2), product, compiled=False)  # all hold: nothing is said

    A formula that LoRA does not follow, twice its ΔW, is where the first law fails:

    >>> assert_adapter_laws(LoRA(rank=2), lambda *given: 2 * product(*given), compiled=False)
    ... # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    AssertionError: law_3_dense_forward on a 5 x 3 Linear, torch.float32: AssertionError: law 3...
    """
    method = method_of(method)
    for where, layer in every_layer(seed):
        for law in LAWS:
            # Compiling is slow: one dtype of each kind of layer has to do
            if law is law_12_compile and not (compiled and where.endswith(", torch.float32")):
                continue
            options = {"formula": formula} if law in WITH_FORMULA else {}
            try:
                law(method, layer, seed, **options)
            # a wrong adapter fails anywhere: say where, and keep what it said
            except Exception as error:
                raise AssertionError(
                    f"{law.__name__} on {where}: {type(error).__name__}: {error}"
                ) from error
