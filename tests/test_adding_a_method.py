"""docs/adding-a-method.md, executed: its two blocks, put into a copy of perakit, make a working
method.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

USE = """
import torch, perakit as pk
from perakit.adapters.adalora import AdaLoRA

torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Tanh(), torch.nn.Linear(7, 3)).double()
x = torch.randn(4, 5).double()
before = model(x)
report = pk.attach(model, AdaLoRA(rank=2, alpha=6), "all-linear")
shapes = ((7, 5), (3, 7))
assert report.trainable == sum(pk.formulas.parameter_count(*mn, 2, "adalora") for mn in shapes)
assert torch.equal(model(x), before)
for adapter in pk.adapters(model).values():
    torch.nn.init.normal_(adapter.lam)
    B, A, lam = (p.detach().numpy() for p in (adapter.B, adapter.A, adapter.lam))
    numpy = torch.from_numpy(3 * pk.formulas.adalora(B, A, lam))
    torch.testing.assert_close(numpy, adapter.delta().detach(), rtol=1e-12, atol=0)
after = model(x)
assert not torch.equal(after, before)
pk.save(model, "saved")
pk.merge(model)
torch.testing.assert_close(model(x), after, rtol=1e-12, atol=1e-14)
pk.detach(model)
assert torch.equal(model(x), before)
pk.load(model, "saved")
assert torch.equal(model(x), after)
assert pk.theory.measured_dimension(9, 7, AdaLoRA(rank=2)) == 2 * (9 + 7 - 2)
"""


@pytest.mark.thorough  # every law on every kind and dtype, in a process of its own
def test_the_two_blocks_of_the_page_make_a_method(tmp_path):
    page = (ROOT / "docs/adding-a-method.md").read_text()
    function, file = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    shutil.copytree(
        ROOT / "perakit",
        tmp_path / "perakit",
        ignore=shutil.ignore_patterns("weights", "__pycache__"),
    )
    with open(tmp_path / "perakit/formulas.py", "a") as formulas:
        formulas.write("\n\n" + function)
    (tmp_path / "perakit/adapters/adalora.py").write_text(file)
    shutil.copytree(ROOT / "tests/adapters", tmp_path / "tests/adapters")
    shutil.copy(ROOT / "tests/conftest.py", tmp_path / "tests")
    laws = [
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--import-mode=importlib",
        "tests/adapters/test_laws.py",
        "-k",
        "adalora",
    ]
    for command in (
        laws,
        ["-c", USE],
        ["-m", "perakit", "params", "--model", "gpt2", "--method", "adalora"],
    ):
        done = subprocess.run(
            [sys.executable, *command],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            env={"OMP_NUM_THREADS": "1"},
        )
        assert done.returncode == 0, done.stdout + done.stderr
    assert "adalora" in done.stdout
