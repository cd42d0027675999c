"""What version 0.1 wrote, today's code reads: the same bits, and the same function.

The files are in tests/fixtures/v0_1; its README.md says how they were made.
"""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import perakit as pk
from perakit import toy
from perakit.experiments.jobs import Ledger, read
from perakit.testing import TOLERANCE
from perakit.toy.gpt2 import Conv1D

OLD = Path(__file__).parent / "fixtures" / "v0_1"
EXPECTED = json.loads((OLD / "expected.json").read_text())
ANSWERS = load_file(OLD / "answers.safetensors")
METHODS = {"lora": pk.LoRA(3, alpha=4, scaling="rslora"), "pera": pk.PERA(3, alpha=2)}
RECIPE = toy.Recipe(
    steps=6, batch=2, context=8, warmup=2, eval_every=2, eval_windows=2, checkpoint_every=3
)
# Six steps of AdamW carry a rounding on: an entry whose gradient is almost zero moves by the whole
# learning rate or by none of it, so later parameters agree less closely than one forward pass does.
TRAINED = 1e-3


class Model(nn.Module):
    """Two layer kinds, sizes that are primes."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(7, 11), Conv1D(13, 11)

    def forward(self, x):
        return self.second(torch.tanh(self.first(x)))


def base(name=""):
    """The bare model, and its input, in the precision that the case of that name has."""
    model, dtype = Model(), torch.bfloat16 if name == "bf16" else torch.float32
    model.load_state_dict(load_file(OLD / "model.safetensors"))
    return model.to(dtype), load_file(OLD / "inputs.safetensors")["x"].to(dtype)


def hashes(model):
    """As expected.json has them."""
    return {
        f"{layer}.{name}": [
            str(p.dtype).removeprefix("torch."),
            list(p.shape),
            hashlib.sha256(p.detach().contiguous().view(torch.uint8).numpy().tobytes()).hexdigest(),
        ]
        for layer, adapter in pk.adapters(model).items()
        for name, p in adapter.named_parameters()
    }


def close(actual, expected, tolerance=None):
    """To the tolerance of the laws, by dtype, of the largest number."""
    tolerance = TOLERANCE[expected.dtype] if tolerance is None else tolerance
    assert (actual.dtype, actual.shape) == (expected.dtype, expected.shape)
    assert (actual - expected).abs().max() <= tolerance * expected.abs().max()


@torch.no_grad()
def check_answers(model, x, of):
    """Factored, disabled, merged, ΔW: all that was stored of a model."""
    stored = {key.removeprefix(of): t for key, t in ANSWERS.items() if key.startswith(of)}
    close(model(x), stored.pop("factored"))
    with pk.disabled(model):
        close(model(x), stored.pop("disabled"))
    if stored:
        for name, delta in pk.delta_weights(model).items():
            close(delta, stored.pop(f"delta.{name}"))
        pk.merge(model, dequantize=True)
        close(model(x), stored.pop("merged"))
        pk.unmerge(model)
    assert stored == {}


def described(folder, *changing):
    """The JSON file of a folder, without what two versions of torch say differently."""
    (path,) = folder.glob("*.json")
    return {key: v for key, v in json.loads(path.read_text()).items() if key not in changing}


def tensor_files(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}


# --- adapters ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EXPECTED["adapters"])
def test_a_saved_adapter(name, tmp_path):
    model, x = base(name)
    pk.load(model, OLD / "adapters" / name)
    assert hashes(model) == EXPECTED["adapters"][name]
    check_answers(model, x, f"adapters/{name}/")
    assert hashes(model) == EXPECTED["adapters"][name]
    pk.save(model, tmp_path)
    assert tensor_files(tmp_path) == tensor_files(OLD / "adapters" / name)
    changing = "written_with", "checksum"
    assert described(tmp_path, *changing) == described(OLD / "adapters" / name, *changing)


def test_every_method_is_there():
    methods = {
        entry["method"]
        for name in EXPECTED["adapters"]
        for entry in described(OLD / "adapters" / name)["layers"].values()
    }
    assert methods == {
        name
        for name in pk.Method.registry
        if pk.Method.registry[name].__module__.startswith("perakit.")
    }


@pytest.mark.parametrize("name", EXPECTED["exports"])
def test_a_peft_export(name, tmp_path):
    model, x = base(name)
    pk.import_peft(model, OLD / "exports" / name)
    assert hashes(model) == EXPECTED["exports"][name]
    check_answers(model, x, f"exports/{name}/")
    pk.export_peft(model, tmp_path)
    assert tensor_files(tmp_path) == tensor_files(OLD / "exports" / name)
    assert described(tmp_path) == described(OLD / "exports" / name)


@pytest.mark.parametrize("name", EXPECTED["exports"])
def test_a_saved_adapter_is_exported_as_it_was(name, tmp_path):
    model, _ = base(name)
    pk.load(model, OLD / "adapters" / name)
    pk.export_peft(model, tmp_path)
    assert described(tmp_path) == described(OLD / "exports" / name)
    file = "adapter_model.safetensors"
    now, then = load_file(tmp_path / file), load_file(OLD / "exports" / name / file)
    assert list(now) == list(then)
    for key, tensor in then.items():
        close(now[key], tensor)


def test_a_state_dict(tmp_path):
    model, x = base()
    pk.attach(model, METHODS["pera"], "all-linear")
    pk.attach(model, pk.DoRA(2, alpha=3), ["second"], name="other")
    pk.activate(model, "default", "other")
    stored = load_file(OLD / "state.safetensors")
    model.load_state_dict(stored)
    now = model.state_dict()
    assert set(now) == set(stored)
    assert all(torch.equal(now[key], tensor) for key, tensor in stored.items())
    with torch.no_grad():
        close(model(x), ANSWERS["state/factored"])
    save_file(now, tmp_path / "state.safetensors")
    assert tensor_files(tmp_path) == {"state.safetensors": (OLD / "state.safetensors").read_bytes()}


# --- training ---------------------------------------------------------------------------------


def started(name):
    """The GPT-2 of the fixtures with its adapters as they were before step 0."""
    model = toy.load(OLD / "checkpoint")
    pk.attach(model, METHODS[name], ["c_attn", "c_proj"])
    start, parameters = load_file(OLD / "checkpoint" / f"start-{name}.safetensors"), trained(model)
    assert set(parameters) == set(start)
    with torch.no_grad():
        for key, tensor in start.items():
            parameters[key].copy_(tensor)
    return model


def trained(model):
    return {key: p.detach() for key, p in model.named_parameters() if p.requires_grad}


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("name", METHODS)
def test_a_run_goes_on_from_its_checkpoint(name, tmp_path):
    shutil.copytree(OLD / "training" / name, tmp_path, dirs_exist_ok=True)
    before = load_file(tmp_path / "checkpoint.safetensors")
    model, first = started(name), []

    def note(module, _):  # what the first step of this sitting starts from
        if not first:
            first.append({key: p.clone() for key, p in trained(module).items()})

    model.register_forward_pre_hook(note)
    corpus, seen = toy.corpus.load(str(OLD / "text.txt")), []
    run = toy.train(model, corpus, RECIPE, tmp_path, after_step=seen.append, progress=False)
    assert seen == [4, 5, 6]
    assert all(torch.equal(p, before[f"parameter/{key}"]) for key, p in first[0].items())

    old, whole = (
        rows(OLD / "training" / name / "metrics.jsonl"),
        rows(OLD / "training" / f"{name}.jsonl"),
    )
    kept = [row for row in old if row["step"] <= 3]
    assert run.metrics[: len(kept)] == kept
    assert len(run.metrics) == len(whole)
    for now, then in zip(run.metrics, whole, strict=True):
        assert now.keys() == then.keys()
        measured = {"loss", "grad_norm", "heldout_bits_per_byte"} & now.keys()
        tolerance = TOLERANCE[torch.float32] if now["step"] <= 4 else TRAINED
        for key in now.keys() - {"seconds", "peak_bytes"}:
            wanted = pytest.approx(then[key], rel=tolerance) if key in measured else then[key]
            assert now[key] == wanted, (key, now["step"])
    after = load_file(tmp_path / "checkpoint.safetensors")
    assert list(after) == list(before)
    for key, p in trained(model).items():
        assert torch.equal(p, after[f"parameter/{key}"])
        close(p, ANSWERS[f"training/{name}/{key}"], TRAINED)


def test_a_finished_comparison_is_read_and_not_run_again(tmp_path, monkeypatch):
    monkeypatch.chdir(OLD)  # the report names its files as they were named to it
    shutil.copytree(OLD / "finetune", tmp_path, dirs_exist_ok=True)
    model = toy.load(OLD / "checkpoint")
    trials = [toy.finetune.uniform(model, METHODS["pera"], ["c_attn"])]
    corpus = toy.corpus.load("text.txt")
    torch.manual_seed(RECIPE.seed)
    toy.finetune.compare(Path("checkpoint"), trials, corpus, None, RECIPE, tmp_path)
    folder = trials[0].folder
    for file in ("checkpoint.safetensors", "metrics.jsonl"):
        assert (tmp_path / folder / file).read_bytes() == (
            OLD / "finetune" / folder / file
        ).read_bytes()
    assert tensor_files(tmp_path / folder / "adapter") == tensor_files(
        OLD / "finetune" / folder / "adapter"
    )
    assert rows(tmp_path / "metrics.jsonl") == rows(OLD / "finetune" / "metrics.jsonl")
    now, then = (
        json.loads((path / "results.json").read_text()) for path in (tmp_path, OLD / "finetune")
    )
    assert now["before"][0] == pytest.approx(then["before"][0], rel=1e-5)
    assert now["before"][1] is then["before"][1] is None
    (mine,), (theirs,) = now["outcomes"], then["outcomes"]
    assert mine.keys() == theirs.keys()
    for key in ("label", "trainable", "percent", "seconds", "peak_bytes"):
        assert mine[key] == theirs[key], key
    for key in ("new", "order_share"):
        assert mine[key] == pytest.approx(theirs[key], rel=1e-5), key
    changing = ("versions", "hardware")
    facts = [{k: v for k, v in one["facts"].items() if k not in changing} for one in (now, then)]
    assert facts[0] == facts[1]


# --- results ----------------------------------------------------------------------------------


def test_results_of_experiments(tmp_path):
    path = shutil.copy(OLD / "ledger" / "function.jsonl", tmp_path)
    header, *stored = rows(OLD / "ledger" / "function.jsonl")
    found_header, found = read(Path(path))
    assert found_header == header
    assert len(found) == len(stored) == 4
    for now, then in zip(found, stored, strict=True):
        assert {key: now[key] for key in then if key != "key"} == {
            key: value for key, value in then.items() if key != "key"
        }
    assert Ledger(tmp_path, "function").rows == found
