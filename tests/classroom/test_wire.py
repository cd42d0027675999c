"""Values that cross: what was sent comes out, and whatever else comes is refused."""

import json
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from perakit.classroom import wire
from perakit.classroom.wire import Encoder, NotPlainError, Reference, decode

BIG = 10**300
REAL = st.floats(allow_nan=True, width=64)
dtypes = st.one_of(
    hnp.boolean_dtypes(),
    hnp.integer_dtypes(endianness="="),
    hnp.unsigned_integer_dtypes(endianness=">"),
    hnp.floating_dtypes(endianness="="),
    hnp.complex_number_dtypes(endianness="="),
    st.sampled_from([np.dtype("f2"), np.dtype("longdouble"), np.dtype("clongdouble")]),
)
shapes = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=3)
arrays = hnp.arrays(dtypes, shapes)
fractions = st.fractions() | st.builds(
    lambda n, d: Fraction(n, d), st.integers(-BIG, BIG), st.integers(1, BIG)
)
objects = st.lists(fractions | st.none(), min_size=1, max_size=4).map(
    lambda items: np.array(items, dtype=object)
)
leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers() | st.integers(-BIG, BIG),
    REAL,
    st.complex_numbers(allow_nan=True),
    st.text(),
    fractions,
    arrays,
    arrays.map(lambda array: array.ravel()[0] if array.size else array),  # a NumPy scalar
    objects,
)
keys = st.text() | st.integers() | st.booleans() | fractions
values = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(keys, inner, max_size=3)
    ),
    max_leaves=8,
)


def nothing_stays(value):
    raise AssertionError(f"{value!r} is plain")


def across(value):
    """As it comes out at the other end."""
    return decode(json.loads(json.dumps(Encoder(nothing_stays)(value))), nothing_stays)


def same(one, other):
    """Equal to the last bit, sign and type; NaN is NaN."""
    if type(one) is not type(other):
        return False
    if isinstance(one, np.ndarray | np.generic):
        if one.dtype != other.dtype or np.shape(one) != np.shape(other):
            return False
        if one.dtype == object:
            return all(map(same, one.ravel(), other.ravel()))
        nan = one != one
        equal = np.array_equal(nan, other != other) and np.array_equal(one[~nan], other[~nan])
        real = one.dtype.kind == "f"
        return bool(equal and (not real or np.array_equal(np.signbit(one), np.signbit(other))))
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return same(list(one.items()), list(other.items()))
    if isinstance(one, complex):
        return same(one.real, other.real) and same(one.imag, other.imag)
    if isinstance(one, float):
        nans = math.isnan(one) and math.isnan(other)
        return nans or (one == other and math.copysign(1, one) == math.copysign(1, other))
    return one == other


@given(values)
@example(-0.0)
@example(np.float16(-0.0))
@example(np.zeros((0, 3, 0), np.float16))
@example(np.array(5, dtype=">i2"))
@example([float("nan"), (np.longdouble(1) / 3,)])
@example({True: 1, "1": Fraction(BIG, 7)})
@example(2**63)
@example("\ud800")
def test_what_is_sent_comes_out(value):
    assert same(across(value), value)


@given(values)
def test_a_message_that_came_out_is_sent_the_same_way_again(value):
    encode = Encoder(nothing_stays)
    assert json.dumps(encode(across(value))) == json.dumps(encode(value))


# --- whatever else comes --------------------------------------------------------------------------

KINDS = sorted(wire._DECODERS)
anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=6)
    | st.sampled_from(["<f8", "|b1", "|O", "<U3", "<M8", "0x7", "AAAA", "AAAAAAAAAAA="]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from([*KINDS, "other"]), inner, max_size=2)
        | st.builds(lambda kind, content: {kind: content}, st.sampled_from(KINDS), inner)
    ),
    max_leaves=12,
)
PLAIN = (type(None), bool, int, float, complex, str, Fraction, Reference, np.generic)


def plain(value):
    if isinstance(value, list | tuple):
        return all(map(plain, value))
    if isinstance(value, dict):
        return all(map(plain, [*value, *value.values()]))
    if type(value) is np.ndarray:
        return value.dtype.kind in "biufc" or all(map(plain, value.ravel()))
    return isinstance(value, PLAIN)


@given(anything)
def test_any_message_is_plain_data_or_refused(message):
    try:
        value = decode(json.loads(json.dumps(message)), lambda reference: reference)
    except NotPlainError:
        return
    assert plain(value)


DEEP = "it"
for _ in range(wire.DEEPEST):
    DEEP = {"list": [DEEP]}
REFUSED = {
    "no kind": {"lambda": "x"},
    "two kinds": {"list": [], "tuple": []},
    "a bare list": [1],
    "objects by dtype": {"array": ["|O8", [1], "AAAAAAAAAAA="]},
    "dates": {"array": ["<M8", [1], "AAAAAAAAAAA="]},
    "a record": {"array": ["f8,f8", [0], ""]},
    "a code to evaluate": {"array": ["<f8, (2,)", [0], ""]},
    "fewer bytes than entries": {"array": ["<f8", [2], "AAAAAAAAAAA="]},
    "more bytes than entries": {"array": ["<f8", [], "AAAAAAAAAAAAAAAAAAAAAA=="]},
    "a negative size": {"array": ["<f8", [-1], "AAAAAAAAAAA="]},
    "two negative sizes": {"array": ["<f8", [-1, -1], "AAAAAAAAAAA="]},
    "a size that is true": {"array": ["<f8", [True], "AAAAAAAAAAA="]},
    "empty and enormous": {"array": ["<f8", [2**40, 0], ""]},
    "many axes": {"array": ["<f8", [1] * 200, "AAAAAAAAAAA="]},
    "no base 64": {"array": ["<f8", [1], "-AAAAAAAAAA="]},
    "a scalar of two": {"scalar": ["<f8", [-2], "AAAAAAAAAAA="]},
    "fewer objects": {"objects": [[3], [1]]},
    "nothing below": {"fraction": [1, 0]},
    "a fraction of floats": {"fraction": [0.5, 2]},
    "a fraction of texts": {"fraction": ["1", "2"]},
    "an endless integer": {"integer": "f" * 10**6},
    "a text as integer": {"integer": "__import__"},
    "a list as key": {"dict": [[{"list": []}, 1]]},
    "equal hashes": {"dict": [[k * (2**61 - 1), 0] for k in range(10**5)]},
    "many values": {"list": [0] * (wire.MOST + 1)},
    "deep": DEEP,
    "an object by text": {"object": ["1", "Layer", "Layer()", True]},
    "parts of an object": {"object": [1]},
}


@pytest.mark.parametrize("message", REFUSED)
def test_a_message_that_lies_is_refused(message):
    with pytest.raises(NotPlainError):
        decode(REFUSED[message], lambda reference: reference)


def test_a_truth_value_of_any_byte_is_true_or_false():
    got = decode({"array": ["|b1", [3], "AAEH"]}, nothing_stays)  # bytes 0, 1, 7
    assert got.view(np.uint8).tolist() == [0, 1, 1]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (np.zeros(2**20 + 1), "it is larger than 8 MiB"),
        ("x" * (8 * 2**20 + 1), "it is larger than 8 MiB"),
        ([[0] * 1000] * 300, "it has more than 200,000 values"),
        (2 ** (4 * wire.DIGITS + 1), "it has an integer of more than 14,000 bits"),
        (dict.fromkeys(range(1001)), "it is a dict of more than 1,000 entries"),
    ],
    ids=["array", "text", "lists", "integer", "dict"],
)
def test_what_is_too_large_says_so(value, said):
    with pytest.raises(NotPlainError, match=said):
        across(value)


def test_a_list_that_holds_itself_says_so():
    endless = []
    endless.append(endless)
    with pytest.raises(NotPlainError, match="it has 40 levels or more"):
        across(endless)
