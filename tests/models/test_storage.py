"""Adapters on disk: bitwise there and back, strict about everything, and whole whatever happens."""

import builtins
import errno
import hashlib
import json
import os
import pickle
import random
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save as to_safetensors
from torch import nn

import perakit as pk
from perakit.models import storage
from perakit.toy.gpt2 import Conv1D

DAMAGED = "cut short or altered"


def bare(seed=0, dtype=torch.float32):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(7, 5), nn.ModuleList([Conv1D(3, 5), nn.Linear(1, 3)]), nn.Linear(5, 5)
    ).to(dtype)


def adapted(seed=0, dtype=torch.float32):
    """Three layers, two kinds, two methods, factors off their initial value."""
    model = bare(seed, dtype)
    pk.attach(model, pk.PERA(rank=2, alpha=3, terms="cross"), ["0", "1.0"])
    pk.attach(model, pk.LoRA(rank=3, scaling="rslora", dropout=0.25), ["1.1"])
    with torch.no_grad():
        for adapter in pk.adapters(model).values():
            for parameter in adapter.parameters():
                parameter.normal_()
    return model


def factors(model):
    return {
        f"{name}.{key}": p.detach().clone()
        for name, adapter in pk.adapters(model).items()
        for key, p in adapter.named_parameters()
    }


def equal(a, b):
    return list(a) == list(b) and all(
        x.dtype == b[key].dtype and torch.equal(x, b[key]) for key, x in a.items()
    )


def files(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def fingerprint(model):
    """Modules, parameters by identity and bits, requires_grad, attributes."""
    modules = [(name, id(module), sorted(vars(module))) for name, module in model.named_modules()]
    parameters = [
        (name, id(p), p.requires_grad, p.detach().view(torch.uint8).tolist())
        for name, p in model.named_parameters()
    ]
    return modules, parameters


def refused(model, folder, *fragments):
    """Loading raises PerakitError, says this, and leaves the model alone."""
    before, rng = fingerprint(model), torch.get_rng_state()
    with pytest.raises(pk.PerakitError) as caught:
        pk.load(model, folder)
    for fragment in fragments:
        assert fragment in str(caught.value)
    assert fingerprint(model) == before
    assert torch.equal(torch.get_rng_state(), rng)


def seal(folder, config, tensors=None):
    """Write adapter.json with a checksum that is right, and the tensor file with a hash and a name
    that are right.
    """
    config = {key: value for key, value in config.items() if key != "checksum"}
    if tensors is not None:
        digest = hashlib.sha256(tensors).hexdigest()
        config |= {"tensors": f"adapter-{digest[:16]}.safetensors", "sha256": digest}
        (folder / config["tensors"]).write_bytes(tensors)
    canonical = json.dumps(config, sort_keys=True, separators=(",", ":"))
    (folder / "adapter.json").write_text(
        json.dumps(config | {"checksum": hashlib.sha256(canonical.encode()).hexdigest()})
    )


@pytest.fixture
def folder(tmp_path):
    return pk.save(adapted(), tmp_path / "adapter")


def parts(folder):
    """(parsed adapter.json, path of the tensor file)."""
    config = json.loads((folder / "adapter.json").read_text())
    return config, folder / config["tensors"]


# --- there and back -------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_round_trip_is_bitwise(tmp_path, dtype):
    model = adapted(dtype=dtype)
    assert pk.save(model, str(tmp_path / "new" / "folder")) == tmp_path / "new" / "folder"
    other = bare(dtype=dtype)
    rng = torch.get_rng_state()
    report = pk.load(other, tmp_path / "new" / "folder")
    assert torch.equal(torch.get_rng_state(), rng)
    assert equal(factors(other), factors(model))
    assert [adapter.method for adapter in pk.adapters(other).values()] == [
        adapter.method for adapter in pk.adapters(model).values()
    ]
    assert (
        report.trainable
        == sum(p.numel() for p in other.parameters() if p.requires_grad)
        == sum(map(torch.numel, factors(model).values()))
    )
    model.eval()
    other.eval()
    for width, one, two in (
        (7, model[0], other[0]),
        (5, model[1][0], other[1][0]),
        (1, model[1][1], other[1][1]),
    ):
        x = torch.randn(4, width).to(dtype)
        assert torch.equal(one(x), two(x))


def test_load_onto_an_adapted_model_of_the_same_method(folder):
    model = adapted(seed=1)
    saved = factors(adapted())
    assert not equal(factors(model), saved)
    identities = [id(p) for p in model.parameters()]
    pk.load(model, folder)
    assert equal(factors(model), saved)
    assert [id(p) for p in model.parameters()] == identities  # an optimiser that holds them goes on


def test_files_are_the_same_merged_disabled_or_not(tmp_path):
    model = adapted()
    plain = files(pk.save(model, tmp_path / "plain"))
    assert files(pk.save(model, tmp_path / "again")) == plain
    pk.merge(model)
    assert files(pk.save(model, tmp_path / "merged")) == plain
    with pk.disabled(model):
        assert files(pk.save(model, tmp_path / "disabled")) == plain
    assert sorted(plain) == sorted(["adapter.json", json.loads(plain["adapter.json"])["tensors"]])


def test_factors_without_elements(tmp_path):
    model = nn.Sequential(nn.Linear(3, 2))
    pk.attach(model, pk.PERA(rank=1, terms="cross"), ["0"])
    other = nn.Sequential(nn.Linear(3, 2))
    pk.load(other, pk.save(model, tmp_path))
    assert equal(factors(other), factors(model))


def test_numpy_numbers_as_arguments(tmp_path):
    model = nn.Sequential(nn.Linear(3, 2))
    pk.attach(model, pk.LoRA(rank=np.int64(2), alpha=np.float32(1.5)), ["0"])
    other = nn.Sequential(nn.Linear(3, 2))
    pk.load(other, pk.save(model, tmp_path))
    assert pk.adapters(other)["0"].method == pk.LoRA(rank=2, alpha=1.5)


def test_a_saved_adapter_replaces_the_old_one_and_leaves_foreign_files(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    pk.save(adapted(), tmp_path)
    new = adapted(seed=1)
    pk.save(new, tmp_path)
    model = bare()
    pk.load(model, tmp_path)
    assert equal(factors(model), factors(new))
    assert len(files(tmp_path)) == 3
    assert files(tmp_path)["notes.txt"] == b"mine"


def test_nothing_is_unpickled(folder, monkeypatch):
    def never(*_, **__):
        raise AssertionError("unpickled")

    for module, name in (
        (pickle, "load"),
        (pickle, "loads"),
        (pickle, "Unpickler"),
        (torch, "load"),
    ):
        monkeypatch.setattr(module, name, never)
    pk.load(bare(), folder)


# --- strictness: another model --------------------------------------------------------------------


def test_saving_a_bare_model_is_refused(tmp_path):
    with pytest.raises(pk.PerakitError, match=r"^the model has no adapter: pk\.attach"):
        pk.save(bare(), tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


@pytest.mark.parametrize("attached", [True, False])
def test_another_model_is_refused_with_every_difference(folder, attached):
    model = nn.Sequential(nn.Linear(6, 5), nn.ModuleList([Conv1D(3, 4)]), nn.Linear(5, 5))
    fragments = [
        "lacks: '1.1'",
        "'0' is 5 x 6, in the file 5 x 7",
        "'1.0' is 3 x 4, in the file 3 x 5",
    ]
    if attached:
        pk.attach(model, pk.PERA(rank=2, alpha=3, terms="cross"), ["0", "1.0", "2"])
        fragments.append("the model has adapters that the file lacks: '2'")
    refused(model, folder, "belongs to another model", *fragments)


@pytest.mark.parametrize(
    "method", [pk.PERA(rank=2), pk.PERA(rank=1, alpha=3, terms="cross"), pk.LoRA(rank=2, alpha=3)]
)
def test_another_method_is_refused(folder, method):
    model = bare()
    pk.attach(model, method, ["0", "1.0"])
    pk.attach(model, pk.LoRA(rank=3, scaling="rslora", dropout=0.25), ["1.1"])
    refused(
        model,
        folder,
        f"layer '0' carries {method}, the file PERA(rank=2, alpha=3",
        "layer '1.0' carries",
    )


def test_a_merged_model_is_refused(folder):
    model = adapted(seed=1)
    pk.merge(model)
    merged = model[0].merged.clone()
    refused(model, folder, "layer '0' is merged", "pk.unmerge(model) first")
    assert torch.equal(model[0].merged, merged)


def test_a_layer_that_cannot_be_adapted_or_has_no_name(tmp_path, folder):
    refused(
        nn.Sequential(nn.LayerNorm(5), nn.ModuleList([Conv1D(3, 5), nn.Linear(1, 3)])),
        folder,
        "lacks: '0'",
    )
    model = nn.Sequential(nn.Linear(3, 2))
    pk.attach(model, pk.LoRA(rank=1), ["0"])
    config, _ = parts(pk.save(model, tmp_path / "one"))
    config["layers"] = {"": config["layers"]["0"]}
    seal(tmp_path / "one", config)
    refused(nn.Linear(3, 2), tmp_path / "one", "belongs to another model")


def test_wide_factors_are_not_rounded_silently(tmp_path):
    folder = pk.save(adapted(dtype=torch.float64), tmp_path)
    refused(bare(), folder, "is torch.float64", "model.double()")
    refused(adapted(), folder, "is torch.float64", "model.double()")
    model = bare().double()
    pk.load(model, folder)
    assert equal(factors(model), factors(adapted(dtype=torch.float64)))


# --- strictness: another file ---------------------------------------------------------------------


def test_a_newer_format_is_refused(folder):
    config, _ = parts(folder)
    (folder / "adapter.json").write_text(json.dumps(config | {"version": 4}))
    refused(bare(), folder, "format version 4, this perakit reads up to 3: upgrade")


@pytest.mark.parametrize(
    "field", ["format", "version", "written_with", "tensors", "sha256", "layers", "checksum"]
)
@pytest.mark.parametrize("change", ["byte", "gone", "null"])
def test_every_field_of_the_json_is_guarded(folder, field, change):
    config, _ = parts(folder)
    assert set(config) == {
        "format",
        "version",
        "written_with",
        "tensors",
        "sha256",
        "layers",
        "checksum",
    }
    if change == "byte":  # one letter or digit of the field's value, the JSON still valid
        text = json.dumps(config[field])
        at = next(i for i in range(len(text) // 2, -1, -1) if text[i].isalnum())
        config[field] = json.loads(text[:at] + ("0" if text[at] != "0" else "1") + text[at + 1 :])
    elif change == "null":
        config[field] = None
    else:
        del config[field]
    (folder / "adapter.json").write_text(json.dumps(config))
    refused(bare(), folder, "is not a perakit adapter" if field == "format" else DAMAGED)


def test_every_offset_of_the_tensor_file_is_guarded(folder):
    _, path = parts(folder)
    data = path.read_bytes()
    for at in {0, 7, 8, 9, len(data) // 3, len(data) - 4, len(data) - 1}:
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        refused(bare(), folder, path.name, DAMAGED)
        path.write_bytes(data[:at])
        refused(bare(), folder, path.name, DAMAGED)
    path.write_bytes(data + b"\0")
    refused(bare(), folder, path.name, DAMAGED)
    path.write_bytes(data + bytes(10**6))
    refused(bare(), folder, path.name, "is larger than")
    path.unlink()
    refused(bare(), folder, path.name, "cannot read", "No such file")


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "/etc/passwd",
        "",
        "adapter.json",
        "adapter-0123456789abcdef.safetensors\n",
        3,
        None,
        ["a"],
        "{own}/../{own}",
    ],
)
def test_tricks_with_the_name_of_the_tensor_file(folder, name):
    config, path = parts(folder)
    (folder.parent / "x").write_bytes(path.read_bytes())
    config["tensors"] = name.replace("{own}", path.name) if isinstance(name, str) else name
    seal(folder, config)
    refused(bare(), folder, DAMAGED, "its tensor file is")


@pytest.mark.parametrize(
    "claim",
    [
        {"rank": 10**7},
        {"rank": 10**12},
        {"rank": 10**30},
        {"rank": 10**3000},
        {"degree": 10**7},
        {"rank": 2 * 10**5, "degree": 2 * 10**5},
        {"rank": 2, "degree": 10**4000},
        {"shape": [10**12, 7]},
        {"shape": [10**3000, 10**3000]},
        {"shape": [10**12, 10**12], "rank": 10**12},
    ],
    ids=lambda claim: ",".join(f"{key}~{len(str(value))} digits" for key, value in claim.items()),
)
def test_huge_claims_cost_nothing(folder, claim, monkeypatch):
    config, _ = parts(folder)
    config["layers"]["0"] |= claim
    seal(folder, config)
    monkeypatch.setattr(storage, "adapt", lambda *_, **__: pytest.fail("attached"))
    model, start = bare(), time.perf_counter()
    tracemalloc.start()
    try:
        refused(model, folder)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2**21
    assert time.perf_counter() - start < 1


def test_a_large_json_is_not_read(folder):
    with open(folder / "adapter.json", "r+b") as file:
        file.truncate(2**40)  # sparse
    refused(bare(), folder, "is larger than")


def test_nested_json():
    """Every depth around Python's recursion limit: reading and the checksum give up at different
    ones.
    """
    limit = sys.getrecursionlimit()
    head = json.dumps({"format": storage.FORMAT, "version": 1})[:-1]
    folder = Path(os.environ.get("TMPDIR", "/tmp")) / f"perakit-nested-{os.getpid()}"
    folder.mkdir()
    try:
        for depth in [3, 100, *range(limit - 150, limit + 20), 10**5]:
            (folder / "adapter.json").write_text(f'{head}, "x": {"[" * depth}{"]" * depth}}}')
            with pytest.raises(pk.PerakitError, match=DAMAGED):
                pk.load(bare(), folder)
    finally:
        (folder / "adapter.json").unlink()
        folder.rmdir()


def garbage():
    yield "empty", b""
    yield "random", random.Random(0).randbytes(999)
    yield "invalid UTF-8", b'{"format": "\xff"}'
    yield "UTF-16", '{"format": "perakit-adapter"}'.encode("utf-16")
    yield "NaN", b'{"format": "perakit-adapter", "version": NaN}'
    yield "long number", b'{"format": "perakit-adapter", "version": ' + b"9" * 5000 + b"}"
    yield "pickle", pickle.dumps({"format": "perakit-adapter"})
    yield "list", b"[]"
    yield "number", b"3"
    yield "null", b"null"
    yield "surrogate", b'{"format": "perakit-adapter", "version": 1, "layers": {"\\ud800": {}}}'


@pytest.mark.parametrize(("name", "data"), list(garbage()), ids=[name for name, _ in garbage()])
def test_garbage(folder, name, data):
    _, path = parts(folder)
    good = path.read_bytes()
    path.write_bytes(data)
    refused(bare(), folder, DAMAGED)
    path.write_bytes(good)
    (folder / "adapter.json").write_bytes(data)
    refused(bare(), folder, "adapter.json")


def test_tensor_files_that_are_well_formed_but_wrong(folder):
    config, path = parts(folder)
    good = factors(adapted())
    first = next(iter(good))
    wrong = {
        "renamed": {("x" + key if key == first else key): value for key, value in good.items()},
        "missing": {key: value for key, value in good.items() if key != first},
        "more": good | {"more": torch.ones(2)},
        "reshaped": good | {first: good[first].T.contiguous()},
        "integers": good | {first: good[first].to(torch.int32)},
        "complex": good | {first: good[first].to(torch.complex64)},
        "booleans": good | {first: good[first] > 0},
    }
    for tensors in wrong.values():
        seal(folder, config, to_safetensors(tensors))
        refused(bare(), folder, "does not hold the tensors", "save the adapter again")
    seal(folder, config, to_safetensors(good | {first: good[first].to(torch.float8_e4m3fn)}))
    refused(bare(), folder)
    seal(folder, config, path.read_bytes())
    pk.load(bare(), folder)


def test_pickle_in_the_place_of_tensors(folder, tmp_path):
    config, _ = parts(folder)
    torch.save(factors(adapted()), tmp_path / "weights.pt")
    seal(folder, config, (tmp_path / "weights.pt").read_bytes()[:900])
    refused(bare(), folder, DAMAGED)


@pytest.mark.parametrize("name", ["nowhere", "a/b/c", "file", "file/below", "adapter\0"])
def test_no_folder(tmp_path, name):
    (tmp_path / "file").write_text("")
    refused(bare(), tmp_path / name, "adapter.json")


# --- atomicity ------------------------------------------------------------------------------------


def intact(folder, model):
    """The adapter of `model`, bitwise, and no temporary file, once something is saved again."""
    fresh = bare()
    pk.load(fresh, folder)
    assert equal(factors(fresh), factors(model))
    pk.save(adapted(seed=2), folder)
    assert len(files(folder)) == 2


class FullDisk:
    """A file that takes half of what is written."""

    def __init__(self, file):
        self.file = file

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def write(self, data):
        self.file.write(data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("step", ["open", "write", "fsync", "replace"])
@pytest.mark.parametrize("nth", [1, 2])
def test_a_full_disk_at_any_step_keeps_the_old_adapter(tmp_path, monkeypatch, step, nth):
    old = adapted()
    folder = pk.save(old, tmp_path / "adapter")
    calls, real_open, real_fsync, real_replace = [], open, os.fsync, os.replace

    def count():
        calls.append(1)
        return len(calls) == nth

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    def fails_open(path, mode="r", *args, **kwargs):
        if "w" not in mode or not count():
            return real_open(path, mode, *args, **kwargs)
        return FullDisk(real_open(path, mode)) if step == "write" else full()

    with monkeypatch.context() as patch:
        if step in ("open", "write"):
            patch.setattr(builtins, "open", fails_open)
        elif step == "fsync":
            patch.setattr(os, "fsync", lambda fd: full() if count() else real_fsync(fd))
        else:
            patch.setattr(os, "replace", lambda a, b: full() if count() else real_replace(a, b))
        with pytest.raises(
            pk.PerakitError, match=r"cannot write .*No space left on device; choose a folder"
        ):
            pk.save(adapted(seed=1), folder)
    assert len(calls) == nth
    assert not [name for name in files(folder) if name.endswith(".tmp")]
    intact(folder, old)


def test_old_files_that_cannot_be_removed_do_not_spoil_a_save(tmp_path, monkeypatch):
    folder = pk.save(adapted(), tmp_path)
    new = adapted(seed=1)

    real = Path.unlink

    def denied(path, missing_ok=False):
        if path.name.startswith("adapter-"):
            raise PermissionError(errno.EPERM, "Operation not permitted")
        real(path, missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", denied)
        pk.save(new, folder)  # the new adapter is in place: this is no failure
    intact(folder, new)


CHILD = """
import os, resource, signal, sys
import torch
import perakit as pk
from torch import nn
from perakit.toy.gpt2 import Conv1D

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

folder, how = sys.argv[1:]
torch.manual_seed(1)
middle = nn.ModuleList([Conv1D(3, 5), nn.Linear(1, 3)])
model = nn.Sequential(nn.Linear(7, 5), middle, nn.Linear(5, 5))
pk.attach(model, pk.PERA(rank=40), ["0", "1.0", "1.1"])  # 30 kB of tensors
if how == "full":
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
elif how == "written":  # the temporary file is there, under its temporary name
    os.replace = die
elif how == "replaced":  # new tensors are there, adapter.json is the old one
    real = os.replace
    os.replace = lambda a, b: (real(a, b), die())
try:
    pk.save(model, folder)
except pk.PerakitError as error:
    print(error)
    sys.exit(3)
"""


@pytest.mark.parametrize(("how", "status"), [("full", 3), ("written", -9), ("replaced", -9)])
def test_a_real_full_disk_and_a_real_kill(tmp_path, how, status):
    old = adapted()
    folder = pk.save(old, tmp_path / "adapter")
    before = files(folder)
    path = os.pathsep.join([str(Path(pk.__file__).parent.parent), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-c", CHILD, str(folder), how]
    done = subprocess.run(
        command,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == status, done.stderr
    assert ("File too large; choose a folder" in done.stdout) == (how == "full")
    left = files(folder)
    assert {name: left.pop(name) for name in before} == before
    assert len(left) == (how != "full")
    intact(folder, old)


@pytest.mark.parametrize("name", ["file", "file/below", "file/far/below", "null\0"])
def test_a_folder_that_cannot_be_written(tmp_path, name):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(pk.PerakitError, match=r"cannot write .*choose a folder"):
        pk.save(adapted(), tmp_path / name)
    assert files(tmp_path) == {"file": b"mine"}


# --- what is no plain file ------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["json", "tensors"])
@pytest.mark.parametrize("kind", ["fifo", "/dev/zero", "/dev/null", "/proc/self/pagemap"])
def test_a_device_or_a_pipe_is_no_adapter(folder, which, kind):
    path = folder / "adapter.json" if which == "json" else parts(folder)[1]
    path.unlink()
    if kind == "fifo":
        os.mkfifo(path)
    else:
        path.symlink_to(kind)
    start = time.perf_counter()
    refused(
        bare(),
        folder,
        path.name,
        DAMAGED if kind.startswith("/proc") else "not a plain file: pass a file",
    )
    assert time.perf_counter() - start < 1


def test_json_that_parses_into_much_is_not_parsed(folder):
    (folder / "adapter.json").write_text("[" + "{}," * (storage.JSON_LIMIT // 3) + "0]")
    refused(bare(), folder, "is larger than")


@pytest.mark.parametrize("rank", [2**19, 2**20])
def test_an_adapter_far_larger_than_a_bare_model_is_not_read(folder, rank):
    config, path = parts(folder)
    for entry in config["layers"].values():
        entry |= {"rank": rank, "method": "lora", "alpha": None}
        for key in ("terms", "degree", "feature_scale"):
            entry.pop(key, None)
    seal(folder, config)
    os.truncate(path, 40 * rank)
    refused(bare(), folder, "this adapter can need", "pk.attach(model, ...) it first")
