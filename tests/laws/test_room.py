"""The room of the laws: no law is written and then forgotten, and users find all of them where they
always did.
"""

import importlib
import inspect
import pkgutil

from perakit import laws, testing

# What users may import from `perakit.testing`, since it was one file
THERE = """
    Formula INPUTS LAWS ORACLES TOLERANCE WITH_FORMULA adapted assert_adapter_laws inputs
    entries_mora hadamard_loha hadamard_lora hadamard_pera outer_delora pattern_hira rows_dora
    sum_quadratic law_1_no_op_at_init law_2_differs law_3_dense_forward law_3_scale law_4_merge
    law_5_restore law_6_idempotent law_7_save_load law_8_gradients law_9_dense_gradients
    law_10_readings law_11_rank law_12_copies law_12_dtypes law_12_state_dict law_12_compile
    law_12_tied law_dropout law_sum
"""
NAMES = THERE.split()

WRITTEN = {
    name: law
    for file in pkgutil.iter_modules(laws.__path__, "perakit.laws.")
    for name, law in vars(importlib.import_module(file.name)).items()
    if name.startswith("law_")
}


def test_every_law_that_is_written_is_asked():
    assert set(laws.LAWS) == set(WRITTEN.values())
    assert len(laws.LAWS) == len(WRITTEN) == 19


def test_every_law_that_takes_an_oracle_is_given_it():
    takes = {law for law in laws.LAWS if "formula" in inspect.signature(law).parameters}
    assert set(laws.WITH_FORMULA) == takes


def test_every_law_begins_with_its_number():
    for name, law in WRITTEN.items():
        number = name.split("_")[1]
        if number.isdigit():
            assert law.__doc__.startswith((f"Law {number}: ", f"Law {number}, ")), name


def test_testing_passes_every_name_on():
    for name in NAMES:
        assert getattr(testing, name) is getattr(laws, name), name
    assert {*testing.__all__, "Formula"} == set(laws.__all__) == set(NAMES)
