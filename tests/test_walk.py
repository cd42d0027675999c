"""How far a reader walks: the functions of ours that one pass of an adapted layer enters."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import perakit as pk
from perakit.fast.plans import PLANS

HOUSE = Path(pk.__file__).parent


def entered(model, x):
    """(file, function) of every call into perakit, in order, comprehensions included."""
    calls = []

    def see(frame, event, _):
        place = Path(frame.f_code.co_filename)
        if event == "call" and place.is_relative_to(HOUSE):
            calls.append((place.relative_to(HOUSE).as_posix(), frame.f_code.co_qualname))

    model(x)  # once before: the first pass fills what fast/ remembers
    sys.setprofile(see)
    try:
        model(x)
    finally:
        sys.setprofile(None)
    return calls


def layer(method):
    model = nn.Sequential(nn.Linear(64, 64))
    pk.attach(model, method, ["0"])
    return model


METHODS = [pk.PERA(rank=8), pk.PERA(rank=32, alpha=8), pk.LoRA(rank=8)]


@pytest.mark.parametrize("method", [*METHODS, pk.PERA(rank=4, degree=3)], ids=str)
def test_the_plain_way_enters_twelve_functions_in_five_files(method):
    """From the layer to the equation: everything that a student steps through."""
    with pk.fast.off():
        calls = entered(layer(method), torch.randn(8, 64))
    assert len(set(calls)) <= 12, calls
    assert len({file for file, _ in calls}) <= 5, calls
    if isinstance(method, pk.PERA):
        assert ("formulas.py", "expand") in calls
    assert not any(file.startswith("fast/") for file, _ in calls), calls


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_the_quick_way_by_a_plan_enters_22_in_nine(method):
    """As layers go where arithmetic takes longer than calls."""
    with pk.use_plan(PLANS[0]):
        calls = entered(layer(method), torch.randn(8, 64))
    assert ("fast/product.py", "AdaptedProduct.forward") in calls
    assert not any(file == "fast/lean.py" for file, _ in calls), calls
    assert len(set(calls)) <= 22, calls
    assert len({file for file, _ in calls}) <= 9, calls


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_the_lean_way_enters_sixteen_in_ten_and_of_lora_eleven_in_seven(method):
    """As so small a layer goes by itself; each function once, since calls are what it saves."""
    calls = entered(layer(method), torch.randn(8, 64))
    pera = isinstance(method, pk.PERA)
    assert ("fast/lean.py", "LeanProduct.forward" if pera else "by_graph") in calls
    assert ("fast/product.py", "AdaptedProduct.forward") not in calls
    assert len(calls) == len(set(calls)) <= (16 if pera else 11), calls
    assert len({file for file, _ in calls}) <= (10 if pera else 7), calls


def test_a_method_is_a_page_and_a_line_is_a_line():
    """Methods of at most 80 lines; no line of Python beyond 100 columns."""
    for path in (HOUSE / "adapters").glob("*.py"):
        if path.stem not in ("__init__", "base"):
            assert len(path.read_text().splitlines()) <= 80, path.name
    for folder in ("perakit", "docs", "tests", "notebooks"):
        for path in sorted((HOUSE.parent / folder).rglob("*.py")):
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
                table = folder == "notebooks" and line.startswith("# |")
                assert len(line) <= 100 or table, f"{path.relative_to(HOUSE.parent)}:{number}"
