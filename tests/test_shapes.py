"""Documented shapes are executable: the grammar, the watch, and every formula on drawn sizes."""

import inspect
import pickle
import re
import sys
import types

import numpy as np
import pytest
import shapes
import torch
from hypothesis import given
from hypothesis import strategies as st

from perakit import formulas
from perakit.models import nf4

# --- the grammar ----------------------------------------------------------------------------------


def value(text, names=(), **sizes):
    (dim,) = shapes.parse(text, names)
    return shapes._value(dim, sizes)


@pytest.mark.parametrize(
    ("text", "sizes", "wanted"),
    [
        ("3,", {}, 3),
        ("m,", {"m": 7}, 7),
        ("K - r,", {"K": 9, "r": 2}, 7),
        ("K − r,", {"K": 9, "r": 2}, 7),
        ("2r,", {"r": 5}, 10),
        ("m n,", {"m": 3, "n": 5}, 15),
        ("r²,", {"r": 5}, 25),
        ("r(r+1)/2,", {"r": 3}, 6),
        ("(r+1)(r-1),", {"r": 4}, 15),
        ("m - 2n + 1,", {"m": 9, "n": 2}, 6),
        ("ceil(m n / b),", {"m": 3, "n": 5, "b": 4}, 4),
        ("min(m, n),", {"m": 3, "n": 5}, 3),
        ("r̂,", {"r̂": 6}, 6),
        ("d_out,", {"d_out": 6}, 6),
    ],
)
def test_arithmetic_is_read(text, sizes, wanted):
    assert value(text, **sizes) == wanted


def test_a_word_is_a_size_only_where_it_is_an_argument():
    assert shapes.parse("rank, n") is None
    assert value("rank,", ["rank"], rank=4) == 4
    assert len(shapes.parse("m, rank", ["rank"])) == 2
    assert shapes.parse("B, A", [], ["B", "A"]) is None


@pytest.mark.parametrize(
    "text", ["m", "Eq. 9", "LoRA, PEFT", "i <= j, r", "a, , b", "r +,", "0.5,", "arXiv 2312.03732"]
)
def test_what_is_no_shape_is_left_alone(text):
    assert shapes.parse(text) is None


def test_a_scalar_and_any_number_of_axes_are_shapes():
    assert shapes.parse("") == ()
    assert shapes.parse("..., n")[0] is ...
    assert shapes.parse("...") == (...,)


def read(docstring, *arguments):
    """What a docstring states, of a function with these arguments."""
    source = f"def function({', '.join(arguments)}):\n    return None"
    function = _compiled(source, docstring)
    said = shapes.stated(function)
    takes = {shape.name: shape.text for shape in said.arguments}
    return takes, [(shape.name, shape.text) for shape in said.results], list(said.loose)


def _compiled(source, docstring):
    space = {"__name__": "perakit.theory.of_a_test"}
    exec(source, space)
    function = space["function"]
    function.__doc__ = docstring
    return function


@pytest.mark.parametrize(
    ("docstring", "takes", "gives"),
    [
        ("B (m, r), A (r, n); returns ΔW (m, n).", {"B": "(m, r)", "A": "(r, n)"}, ["(m, n)"]),
        ("A, B (m, r): factors.", {"A": "(m, r)", "B": "(m, r)"}, []),
        ("B g (m,): the length.", {"B": "(m,)"}, []),
        ("B = ∂L/∂ΔW (m, n), given.", {"B": "(m, n)"}, []),
        ("B: target (m, n), finite.", {"B": "(m, n)"}, []),
        ("B: (m, n), any array.", {"B": "(m, n)"}, []),
        ("Line.\n\nReturns (B_hat (m, K), A_hat (K, n)), factors.", {}, ["(m, K)", "(K, n)"]),
        ('Returns {"B" (m, r), "h" (K - r,)}.', {}, ["(m, r)", "(K - r,)"]),
        ("Returns codes (k,) int8; mean (), float32.", {}, ["(k,)", "()"]),
        ("Returns (m,). Source: B (m, r).", {"B": "(m, r)"}, ["(m,)"]),
        ("Which (r, n) is it that returns nothing?", {}, []),
    ],
)
def test_a_docstring_is_read(docstring, takes, gives):
    found = read(docstring, "B", "A")
    assert found[0] == takes
    assert [text for _, text in found[1]] == gives


def test_a_shape_that_is_of_nothing_is_named():
    assert read("The rows of V (m, n).", "B")[2] == ["(m, n)"]
    assert read("V (m, n), and B (m, n).", "B")[2] == []  # stated where it is watched
    assert read("On an (m, n) layer, f(v, v) and pairs (i <= j, say).", "B")[2] == []
    assert read("Line.\n\n>>> f((1, 2))\nV (m, n)\n", "B")[2] == []


# --- a call beside its docstring ------------------------------------------------------------------


def lie(docstring, result, *arrays, arguments=("B", "A"), **options):
    source = f"def function({', '.join(arguments)}):\n    return None"
    return shapes.Contract(_compiled(source, docstring)).lie(arrays, options, result)


def zeros(*shape):
    return np.zeros(shape)


PRODUCT = "B (m, r), A (r, n); returns ΔW (m, n)."


def test_what_holds_is_not_complained_of():
    assert lie(PRODUCT, zeros(5, 3), zeros(5, 2), zeros(2, 3)) is None
    assert lie("B (..., n); returns (..., m).", zeros(2, 7, 4), zeros(2, 7, 3)) is None
    assert lie("B (m, r), A (K - r,); returns (K,).", zeros(7), zeros(5, 2), zeros(5)) is None
    assert lie("B (m, n), A (m,).", None, zeros(5, 2), None) is None


@pytest.mark.parametrize(
    ("docstring", "result", "arrays", "message"),
    [
        (
            PRODUCT,
            zeros(3, 5),
            (zeros(5, 2), zeros(2, 3)),
            r"ΔW is documented \(m, n\), and is \(3, 5\) where m = 5, r = 2, n = 3",
        ),
        (PRODUCT, zeros(5, 3), (zeros(5, 2), zeros(3, 2)), r"A is documented \(r, n\)"),
        (PRODUCT, zeros(5), (zeros(5, 2), zeros(2, 3)), r"ΔW is documented .* is \(5,\)"),
        (PRODUCT, (zeros(5, 3), zeros(1)), (zeros(5, 2), zeros(2, 3)), "returns 2 arrays"),
        ("B (r, r).", None, (zeros(5, 2),), r"B is documented \(r, r\)"),
        ("B (..., n); returns (..., n).", zeros(2, 4), (zeros(3, 4),), r"result .* is \(2, 4\)"),
        ("B (r,); returns (r(r+1)/2,).", zeros(5), (zeros(3),), r"is \(5,\) where r = 3"),
        ('Returns {"B" (m,)}.', {"C": zeros(2)}, (), r"returns \['C'\], documented \['B'\]"),
        ("B (m n,).", None, (zeros(6),), r"leaves \['m', 'n'\] open"),
    ],
)
def test_a_docstring_that_lies_is_seen(docstring, result, arrays, message):
    assert re.search(message, lie(docstring, result, *arrays) or "nothing was said")


def test_the_value_of_an_argument_is_a_size():
    arguments = ("B", "block: int = 4")
    assert lie("B (block,).", None, zeros(4), arguments=arguments) is None
    assert lie("B (block,).", None, zeros(4), arguments=arguments, block=3) is not None


# --- the watch ------------------------------------------------------------------------------------


def lying(monkeypatch):
    """A module of the library in which one docstring lies: its second result is transposed."""
    made = types.ModuleType("perakit.theory.of_a_test")
    source = "def split(B, A=None):\n    return B[:, :1], B.T"
    exec(source, made.__dict__)
    made.split.__doc__ = "B (m, r); returns (first (m, 1), all (m, r))."
    monkeypatch.setitem(sys.modules, made.__name__, made)
    return made


def test_a_lying_docstring_goes_red(monkeypatch):
    watch, module = shapes.Watch(), lying(monkeypatch)
    split, code = module.split, module.split.__code__
    watch.resume()
    try:
        assert [x.shape for x in split(zeros(3, 2))] == [(3, 1), (2, 3)]  # and the call goes on
        assert "split: all is documented (m, r), and is (2, 3)" in watch.complaint()
        assert watch.complaint() == ""
        assert module.split is split  # tables that are keyed by it still find it
        assert list(inspect.signature(split).parameters) == ["B", "A"]
        with pytest.raises(TypeError):
            split(3)  # no array: what it raises is its own
    finally:
        watch.pause()
    assert split.__code__ is code
    assert not hasattr(split, "__wrapped__")
    split(zeros(3, 2))
    assert watch.complaint() == ""


def test_the_watch_is_on_and_disturbs_nothing():
    assert formulas.lora in shapes.WATCH.watched
    assert pickle.loads(pickle.dumps(formulas.lora)) is formulas.lora
    assert "def lora" in inspect.getsource(formulas.lora)
    entered = []
    sys.setprofile(lambda frame, event, _: entered.append(frame.f_code.co_filename))
    formulas.lora(zeros(3, 2), zeros(2, 5))
    sys.setprofile(None)
    ours = [file for file in entered if file.endswith("formulas.py")]
    assert entered.count(shapes.__file__) > 0  # of the watch itself, which is of another file
    assert ours


@pytest.mark.unwatched
def test_the_watch_can_be_switched_off():
    assert not shapes.WATCH.on
    assert not hasattr(formulas.lora, "__wrapped__")


# --- every formula, on sizes that cannot be mistaken for one another ------------------------------


def rule(*names, **options):
    """Arguments of an update rule, by the names that the library has for arrays."""

    def draw(data, array, m, n, r):
        terms, degree = data.draw(st.sampled_from(formulas.TERMS)), data.draw(st.integers(2, 3))
        K = formulas.rank_bound(r, terms, degree)
        side = formulas.mora_size(m, n, r)
        sizes = {
            "W0": (m, n),
            "V": (m, n),
            "B": (m, r),
            "A": (r, n),
            "B1": (m, r),
            "A1": (r, n),
            "B2": (m, r),
            "A2": (r, n),
            "h": (K - r,),
            "to_B_hat": (m, K),
            "to_A_hat": (K, n),
            "magnitude": (m,),
            "norm": (m,),
            "M": (side, side),
            "lam": (1,),
            "x": (11, 2, n),
            "U": (r, n),
            "P": (m, r),
        }
        plain = {"m": m, "n": n, "terms": terms, "degree": degree, "size": side}
        return {name: array(sizes[name]) if name in sizes else plain[name] for name in names}

    return draw


POLYNOMIAL = rule("B", "A", "h", "terms", "degree")
RULES = {
    "lora": rule("B", "A"),
    "pera": POLYNOMIAL,
    "expand": POLYNOMIAL,
    "expand_gradients": rule("B", "A", "h", "to_B_hat", "to_A_hat", "terms", "degree"),
    "hira": rule("W0", "B", "A"),
    "dora": rule("W0", "B", "A", "magnitude", "norm"),
    "row_norm": rule("V"),
    "mora": rule("M", "m", "n"),
    "tile": rule("M", "m", "n"),
    "tile_index": rule("size", "m", "n"),
    "delora": rule("W0", "B", "A", "lam"),
    "normalise": rule("W0", "B", "A", "lam"),
    "loha": rule("B1", "A1", "B2", "A2"),
    "khatri_rao": rule("B1", "A1", "B2", "A2"),
    "quadratic": rule("x", "U", "P"),
}
FOUR_BITS = {
    "encode": lambda m, n: (torch.randn(m, 64 * n), 64),
    "pack": lambda m, n: (torch.ones(2 * m + 1, dtype=torch.uint8),),
    "unpack": lambda m, n: (torch.ones(2 * m, dtype=torch.uint8), 4 * m - 1),
    "compress": lambda m, n: (torch.rand(100 * m * n),),
    "expand": lambda m, n: nf4.compress(torch.rand(100 * m * n)),
    "decode": lambda m, n: (
        nf4.pack(nf4.encode(torch.ones(m, n), 32)[0]),
        torch.ones(-(-m * n // 32)),
        (m, n),
        32,
        nf4.PAIRS,
    ),
}


def contracts(module):
    found = (shapes.Contract(f) for f in shapes.documented() if f.__module__ == module.__name__)
    return {contract.name.rpartition(".")[2]: contract for contract in found if contract.claims}


def hold(contract, function, args, kwargs):
    """The docstring holds in this call, and nothing in it is left unlooked at."""
    result = function(*args, **kwargs)
    assert contract.lie(args, kwargs, result) is None
    left = set(contract.claims) - contract.checked(args, kwargs, result)
    assert not left, f"{contract.name}: {left} is not put to the test"


@given(st.data())
@pytest.mark.parametrize("array", [np.ones, torch.ones], ids=["numpy", "torch"])
@pytest.mark.parametrize("name", sorted(contracts(formulas)))
def test_the_shapes_of_formulas_are_those_documented(name, array, data):
    assert name in RULES, f"formulas.{name} states shapes: say here what to call it with"
    m, n, r = data.draw(st.permutations((3, 5, 7)))
    hold(contracts(formulas)[name], getattr(formulas, name), (), RULES[name](data, array, m, n, r))


@given(m=st.sampled_from((3, 5)), n=st.sampled_from((7, 11)))
@pytest.mark.parametrize("name", sorted(contracts(nf4)))
def test_the_shapes_of_nf4_are_those_documented(name, m, n):
    assert name in FOUR_BITS, f"nf4.{name} states shapes: say here what to call it with"
    hold(contracts(nf4)[name], getattr(nf4, name), FOUR_BITS[name](m, n), {})


# Of each array in a list; two names
NO_SHAPES = {"monomials": ("(d, K_d)",), "pairs": ("(i, j)",)}


@pytest.mark.parametrize("module", [formulas, nf4], ids=["formulas", "nf4"])
def test_no_shape_is_written_where_nothing_watches_it(module):
    """Else it could lie: a shape of nothing is one that the grammar cannot read."""
    own = [f for f in shapes.documented() if f.__module__ == module.__name__]
    loose = {f.__name__: said for f in own if (said := shapes.stated(f).loose)}
    assert {name: said for name, said in loose.items() if said != NO_SHAPES.get(name)} == {}
