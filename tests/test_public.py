"""What `import perakit as pk` gives: every name on its first use, its type before, and no more."""

import ast
import json
import os
import pickle
import pkgutil
import subprocess
import sys
import types
from importlib.util import find_spec
from pathlib import Path

import pytest

import perakit as pk

ROOT = Path(pk.__file__).parents[1]
# `dir(pk)` of version 0.1, whose __init__ imported everything: a user's code may hold any of them.
NAMES = [
    *("Adapter", "DeLoRA", "DoRA", "HiRA", "LoHa", "LoRA", "Method", "MoRA", "NF4", "PERA"),
    *("PerakitError", "Quadratic", "activate", "active", "adapters", "attach", "bake", "delete"),
    *("delta_weights", "detach", "disabled", "export_peft", "import_peft", "load", "merge"),
    *("quantize", "save", "unmerge", "use_plan"),
]
ROOMS = ["errors", "files", "formulas", "models", "plots", "table", "theory", "toy"]
STARRED = sorted([*NAMES, "formulas", "theory", "toy"])
HEAVY = {"scipy", "sympy", "matplotlib", "hypothesis"}
EXTRA = {"torch", "safetensors", "tqdm"}


def python(code, *arguments, **environment):
    """What `code` prints in a Python of its own, which finds this copy of perakit."""
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env=os.environ | {"PYTHONPATH": str(ROOT), **environment},
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


# --- names -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_names_of_version_0_1(name):
    value = getattr(pk, name)
    assert not isinstance(value, types.ModuleType)
    assert value is getattr(sys.modules[pk._HOME[name]], name)
    assert pickle.loads(pickle.dumps(value)) is value


def rooms():
    """Every module and package directly below perakit that a name of `pk` may stand for."""
    found = {module.name for module in pkgutil.iter_modules(pk.__path__)}
    return sorted(found - {"__main__", "adapters"})  # pk.adapters is a function


@pytest.mark.parametrize("name", sorted({*ROOMS, *rooms()}))
def test_every_room_is_an_attribute(name):
    assert getattr(pk, name) is sys.modules[f"perakit.{name}"]


def test_the_star_brings_what_it_brought():
    assert sorted(set(pk.__all__) - {"explain"}) == STARRED
    brought = {}
    exec("from perakit import *", brought)
    assert set(brought) - {"__builtins__"} == set(pk.__all__)


def test_dir_is_what_there_is():
    listed = dir(pk)
    assert listed == sorted(set(listed))
    shown = [name for name in listed if not name.startswith("__")]
    assert {*NAMES, *rooms()} <= set(shown)
    assert all(hasattr(pk, name) for name in shown)
    assert not {"import_module", "sys", "ModuleType", "TYPE_CHECKING"} & set(shown)


def test_dir_shows_what_a_user_adds(monkeypatch):
    monkeypatch.setattr(pk, "mine", 1, raising=False)
    assert "mine" in dir(pk)


@pytest.mark.parametrize("name", ["LoRa", "attack", "__wrapped__", "_HOMES"])
def test_a_name_that_is_not_there(name):
    with pytest.raises(AttributeError) as caught:
        getattr(pk, name)
    assert str(caught.value) == f"module 'perakit' has no attribute '{name}'"
    assert (caught.value.name, caught.value.obj) == (name, pk)  # for "Did you mean"
    with pytest.raises(ImportError, match=f"cannot import name '{name}' from 'perakit'"):
        exec(f"from perakit import {name}")


def test_a_room_that_was_taken_away_and_a_name_that_lived_there(monkeypatch):
    monkeypatch.setattr(pk, "_ROOMS", (*pk._ROOMS, "taken_away"))
    monkeypatch.setitem(pk._HOME, "gone", "perakit.taken_away.part")
    for name in ("taken_away", "gone"):
        with pytest.raises(AttributeError, match=f"^module 'perakit' has no attribute '{name}'$"):
            getattr(pk, name)


def test_a_room_whose_library_is_missing_says_which(monkeypatch):
    monkeypatch.delitem(sys.modules, "perakit.explorer", raising=False)
    monkeypatch.delitem(vars(pk), "explorer", raising=False)
    monkeypatch.setitem(sys.modules, "perakit.formulas", None)
    with pytest.raises(ImportError, match=r"formulas"):
        _ = pk.explorer


# --- the package adapters and the function adapters ------------------------------------------


def test_adapters_is_the_function_and_still_a_package():
    from perakit.adapters import lora
    from perakit.models import adapters

    assert pk.adapters is adapters
    assert lora.LoRA is pk.LoRA
    assert sys.modules["perakit.adapters"].LoRA is pk.LoRA


def test_a_name_can_be_replaced(monkeypatch):
    monkeypatch.setattr(pk, "adapters", len)
    assert pk.adapters is len
    monkeypatch.undo()
    assert pk.adapters.__module__ == "perakit.models.adapted"


# --- what is imported, and when ---------------------------------------------------------------

REFUSE = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in sys.argv[1].split():
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Refuse())
"""

NUMPY_ALONE = """
import numpy as np
import perakit.formulas
from perakit import PerakitError, formulas

rng = np.random.default_rng(0)
m, n, r = 5, 7, 3
W0, B, A = rng.normal(size=(m, n)), rng.normal(size=(m, r)), rng.normal(size=(r, n))
i, j = formulas.pairs(r)
h, g = rng.normal(size=len(i)), rng.uniform(1, 2, m)
pera = B @ A + (B[:, i] * B[:, j]) @ (h[:, None] * A[i] * A[j])
assert np.allclose(formulas.lora(B, A), B @ A, rtol=1e-12)
assert np.allclose(formulas.pera(B, A, h), pera, rtol=1e-12)
left, right = formulas.expand(B, A, h)
assert np.allclose(left @ right, pera, rtol=1e-12)
V = W0 + B @ A
length = np.linalg.norm(V, axis=1)
assert np.allclose(formulas.dora(W0, B, A, g) + W0, V * (g / length)[:, None], rtol=1e-12)
assert np.allclose(formulas.hira(W0, B, A), W0 * (B @ A), rtol=1e-12)
assert np.allclose(formulas.loha(B, A, B, A), (B @ A) ** 2, rtol=1e-12)
M = rng.normal(size=(6, 6))
assert formulas.mora(M, m=m, n=n).shape == (m, n)
assert formulas.delora(W0, B, A, np.array([15.0])).shape == (m, n)
assert np.allclose(formulas.quadratic(W0, A, B), (W0 @ A.T) ** 2 @ B.T, rtol=1e-12)
assert (formulas.rank_bound(r), formulas.parameter_count(m, n, r, "pera")) == (9, 42)
try:
    formulas.parameter_count(m, n, 0, "pera")
except PerakitError as error:
    assert "rank=0" in str(error)
else:
    raise AssertionError("rank 0 was taken")
print(*sorted({name.partition(".")[0] for name in sys.modules} & set(sys.argv[1].split())))
"""


def test_formulas_need_numpy_alone():
    assert python(REFUSE + NUMPY_ALONE, " ".join(HEAVY | EXTRA)) == "\n"


def test_without_torch_a_layer_says_so():
    code = REFUSE + "import perakit as pk\ntry: pk.LoRA\nexcept ImportError as error: print(error)"
    assert python(code, "torch") == "No module named 'torch'\n"


FRESH = """
import json, pickle, sys, time
import torch
began = time.process_time()
import perakit as pk
pk.LoRA
seconds = time.process_time() - began
heavy = sorted({name.partition(".")[0] for name in sys.modules} & set(sys.argv[1].split()))
method = pickle.loads(bytes.fromhex(sys.argv[2]))
dir(pk)
pk.attach, pk.merge, pk.save, pk.adapters
import perakit.adapters
from perakit import adapters
told = {
    "seconds": seconds,
    "heavy": heavy,
    "method": repr(method),
    "adapters": type(adapters).__name__ + type(perakit.adapters).__name__,
    "later": sorted({name.partition(".")[0] for name in sys.modules} & set(sys.argv[1].split())),
}
print(json.dumps(told))
"""


def test_an_adapter_waits_for_nothing_but_torch():
    told = json.loads(python(FRESH, " ".join(HEAVY), pickle.dumps(pk.PERA(3)).hex()))
    assert told["seconds"] <= 0.3  # of the processor: the clock also counts what else runs here
    assert told["heavy"] == told["later"] == []
    assert told["method"] == repr(pk.PERA(3))
    assert told["adapters"] == "functionfunction"


# --- types ------------------------------------------------------------------------------------


def test_the_table_is_what_type_checkers_read():
    tree = ast.parse(Path(pk.__file__).read_text(encoding="utf-8"))
    (block,) = [
        node.body
        for node in tree.body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    ]
    read = {}
    for line in block:
        assert isinstance(line, ast.ImportFrom)
        for name in line.names:
            assert name.asname == name.name  # so that a strict user's mypy sees it exported
            read[name.name] = line.module
    assert read == pk._HOME | dict.fromkeys(pk._ROOMS, "perakit")


USER = """
from typing import assert_type

from torch import Tensor, nn

import perakit as pk
from perakit import LoRA, toy
from perakit.models import AttachReport, MergeReport
from perakit.toy import GPT2

model = pk.toy.load("tiny")
assert_type(model, GPT2)
assert_type(toy.load("tiny"), GPT2)
assert_type(pk.LoRA(4), LoRA)
assert_type(pk.PERA(rank=8, terms="cross").rank, int)
assert_type(pk.attach(model, pk.PERA(rank=8), targets=["c_attn"]), AttachReport)
assert_type(pk.adapters(model), dict[str, pk.Adapter])
assert_type(pk.delta_weights(model), dict[str, Tensor])
assert_type(pk.merge(model), MergeReport)
assert_type(pk.active(model), tuple[str, ...])
assert_type(pk.NF4(64).double, bool)
assert_type(pk.formulas.rank_bound(4), int)
assert_type(pk.__version__, str)
pk.PERA(rank="8")  # E: arg-type
pk.attach(model)  # E: call-arg
pk.attack  # E: attr-defined
from perakit import LoRa  # E: attr-defined
"""
# Of torch mypy reads this, and of other libraries nothing: it then needs seconds, not minutes.
TORCH = """
from collections.abc import Callable
from typing import Any, TypeVar
from torch import nn as nn

Function = TypeVar("Function", bound=Callable[..., object])

class Tensor: ...
class no_grad:
    def __call__(self, function: Function) -> Function: ...

def __getattr__(name: str) -> Any: ...
"""
NN = """
from typing import Any

class Module: ...

def __getattr__(name: str) -> Any: ...
"""
SETTINGS = """
[mypy]
strict = true
follow_imports = skip
[mypy-perakit.*,torch,torch.nn]
follow_imports = silent
"""


@pytest.mark.skipif(find_spec("mypy") is None, reason="mypy comes with the extra `test`")
def test_every_name_has_its_type(tmp_path):
    names = [*NAMES, *rooms()]
    user, settings = tmp_path / "user.py", tmp_path / "mypy.ini"
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.pyi").write_text(TORCH)
    (tmp_path / "torch" / "nn.pyi").write_text(NN)
    user.write_text(USER + "".join(f"reveal_type(pk.{name})\n" for name in names))
    settings.write_text(SETTINGS)
    result = subprocess.run(
        [sys.executable, "-m", "mypy", "--cache-dir", os.devnull, "--config-file", settings, user],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
        cwd=tmp_path,
        env=os.environ | {"MYPYPATH": str(ROOT)},
    )
    assert result.stderr == ""
    lines = [line.removeprefix("user.py:") for line in result.stdout.splitlines()]
    wanted = {
        f"{number}: [{line.partition('# E: ')[2]}]"
        for number, line in enumerate(USER.splitlines(), 1)
        if "# E: " in line
    }
    errors = [line for line in lines if ": error: " in line]
    assert {f"{line.partition(':')[0]}: {line.rpartition('  ')[2]}" for line in errors} == wanted
    told = [line.partition('Revealed type is "')[2][:-1] for line in lines if "Revealed" in line]
    assert len(told) == len(names)
    for name, revealed in zip(names, told, strict=True):
        assert revealed not in ("Any", "object"), name
        assert ("ModuleType" in revealed) == (name in rooms()), (name, revealed)


def test_the_package_says_that_it_is_typed():
    assert (Path(pk.__file__).parent / "py.typed").is_file()
