"""`perakit/fast` may be deleted: in a copy of the package without it every law holds, for every
method.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import perakit as pk
from perakit import laws

PACKAGE = Path(pk.__file__).parent
METHODS = sorted(
    name for name, cls in pk.Method.registry.items() if cls.__module__.startswith("perakit.")
)
# Each kind of layer and each dtype, and one layer that the plain way could stumble over. A layer in
# float32 is compiled too.
LAYERS = (
    "a 5 x 3 Linear, torch.float32",
    "a 5 x 3 Conv1D, torch.float64",
    "a 5 x 3 NF4, torch.bfloat16",
    "a 5 x 3 Linear, torch.float16",
    "a 5 x 3 Linear with a row and a column of zeros, torch.float64",
)

# Runs beside the copy, which is given, as are the layers. It notes whatever was asked, so that
# nothing can be left out unseen.
RUN = """
import functools, importlib.util, json, pathlib, sys

copy, layers = pathlib.Path(sys.argv[1]), json.loads(sys.argv[2])

def check_absent():
    there = importlib.util.find_spec("perakit.fast")
    assert there is None, f"perakit.fast is there: {there.origin}"
    assert not [name for name in sys.modules if name.startswith("perakit.fast")]

def noted(law):
    @functools.wraps(law)
    def ask(method, layer, seed):
        law(method, layer, seed)
        asked.append((method.name, law.__name__, where[id(layer)]))
    return ask

def few_layers(seed):
    for name, layer in every_layer(seed):
        if name in layers:
            where[id(layer)] = name
            yield name, layer

check_absent()
import torch
from perakit import laws
from perakit.adapters import Method

assert pathlib.Path(laws.__file__).is_relative_to(copy), laws.__file__
torch.set_num_threads(1)
asked, where, every_layer = [], {}, laws.every_layer
laws.every_layer = few_layers
ask = {law: noted(law) for law in laws.LAWS}
laws.LAWS, laws.WITH_FORMULA = tuple(ask.values()), ()
laws.law_12_compile = ask[laws.law_12_compile]
for method in Method.registry.values():
    laws.assert_adapter_laws(method(rank=2))
check_absent()
print(json.dumps(asked))
"""


def run_beside(copy):
    return subprocess.run(
        [sys.executable, "-c", RUN, str(copy), json.dumps(LAYERS)],
        cwd=copy.parent,  # where `import perakit` finds the copy first
        capture_output=True,
        text=True,
        env={"OMP_NUM_THREADS": "1"},
    )


@pytest.fixture
def copy(tmp_path):
    """The package without its weights, which no law needs."""
    ignored = shutil.ignore_patterns("weights", "__pycache__")
    return shutil.copytree(PACKAGE, tmp_path.resolve() / "perakit", ignore=ignored)


def test_every_law_holds_for_every_method_with_fast_deleted(copy):
    shutil.rmtree(copy / "fast", ignore_errors=True)
    done = run_beside(copy)
    assert done.returncode == 0, done.stdout + done.stderr
    asked = {tuple(case) for case in json.loads(done.stdout)}
    assert asked == {
        (method, law.__name__, layer)
        for method in METHODS
        for law in laws.LAWS
        for layer in LAYERS
        if law is not laws.law_12_compile or layer.endswith(", torch.float32")
    }


def test_a_copy_that_still_has_fast_is_refused(copy):
    """Or the test above could pass with `fast` in use."""
    (copy / "fast").mkdir(exist_ok=True)
    (copy / "fast/__init__.py").touch()
    done = run_beside(copy)
    assert done.returncode == 1
    assert f"AssertionError: perakit.fast is there: {copy}/fast/__init__.py" in done.stderr
