"""What is put around a model: seen through where it is one, left alone where it only looks so."""

import functools
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.optim.swa_utils import AveragedModel

import perakit as pk
from perakit.models.adapted import everywhere, unwrapped, walk

NAMES = ["", "block", "block.fc", "block.act", "head"]


class Block(nn.Module):
    def __init__(self, n, m):
        super().__init__()
        self.fc, self.act = nn.Linear(n, m), nn.GELU()

    def forward(self, x):
        return self.act(self.fc(x))


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.block, self.head = Block(12, 7), nn.Linear(7, 5)

    def forward(self, x):
        return self.head(self.block(x))


def move(model):
    for parameter in model.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.3)
    return model


@pytest.fixture
def alone(tmp_path):
    """A process group of this process."""
    torch.distributed.init_process_group(
        "gloo", store=torch.distributed.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1
    )
    yield
    torch.distributed.destroy_process_group()


def standing_in(library, name, *places):
    """A wrapper of a library that need not be installed, as it keeps the model."""

    def init(self, model):
        nn.Module.__init__(self)
        for place in places:
            setattr(self, place, model)

    def forward(self, x):
        return getattr(self, places[0])(x)

    return type(name, (nn.Module,), {"__init__": init, "forward": forward, "__module__": library})


def sharded(model):
    from torch.distributed.fsdp import FullyShardedDataParallel, ShardingStrategy

    return FullyShardedDataParallel(
        model,
        use_orig_params=True,
        device_id=torch.device("cpu"),
        sharding_strategy=ShardingStrategy.NO_SHARD,
    )


def checkpointed(model):
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

    return checkpoint_wrapper(model)


def fabric(model):
    wrappers = pytest.importorskip("lightning_fabric.wrappers")
    strategies = pytest.importorskip("lightning_fabric.strategies")
    return wrappers._FabricModule(model, strategies.SingleDeviceStrategy())


def prepared(model):
    accelerate = pytest.importorskip("accelerate")
    return accelerate.Accelerator(cpu=True, mixed_precision="bf16").prepare(model)


Fabric = standing_in(
    "lightning_fabric.wrappers", "_FabricModule", "_forward_module", "_original_module"
)
DeepSpeed = standing_in("deepspeed.runtime.engine", "DeepSpeedEngine", "module")
WRAPS = {
    "compile": functools.partial(torch.compile, backend="eager"),
    "DataParallel": nn.DataParallel,
    "DistributedDataParallel": nn.parallel.DistributedDataParallel,
    "AveragedModel": AveragedModel,
    "checkpoint_wrapper": checkpointed,
    "FullyShardedDataParallel": sharded,
    "Fabric, as it keeps the model": Fabric,
    "Fabric": fabric,
    "DeepSpeed, as it keeps the model": DeepSpeed,
    "accelerate": prepared,
    "two": lambda model: Fabric(nn.DataParallel(model)),
    "a subclass": type("Mine", (nn.DataParallel,), {}),
}


# Which takes seconds to import, and stands in test_named.py too
COMPILE = pytest.param("compile", marks=pytest.mark.thorough)


@pytest.mark.parametrize("name", [COMPILE, *list(WRAPS)[1:]])
def test_the_names_are_those_of_the_model(name, alone, tmp_path):
    """Those of `walk`, of targets, of the saved file and of PEFT's."""
    wrap, model = WRAPS[name], Model()
    pk.attach(model, pk.PERA(2), ["block.fc", "head"])
    before = pk.delta_weights(move(model))
    wrapped = wrap(model)
    assert [key for key, _ in walk(wrapped)] == NAMES
    assert [key for key, _ in everywhere(wrapped)] == NAMES
    assert type(unwrapped(wrapped)) is Model
    assert list(pk.adapters(wrapped)) == ["block.fc", "head"]
    pk.save(wrapped, tmp_path / "saved")
    pk.export_peft(wrapped, tmp_path / "peft")
    keys = load_file(tmp_path / "peft" / "adapter_model.safetensors")
    assert {key.removeprefix("base_model.model.").split(".lora_")[0] for key in keys} == {
        "block.fc",
        "head",
    }
    for use, folder in ((pk.load, "saved"), (pk.import_peft, "peft")):
        for other in (Model(), wrap(Model())):
            use(other, tmp_path / folder)
            torch.testing.assert_close(pk.delta_weights(other), before, rtol=1e-5, atol=1e-6)
    pk.detach(wrapped)
    assert [key for key, _ in walk(wrapped)] == NAMES


@pytest.mark.parametrize("name", [COMPILE, "checkpoint_wrapper", "FullyShardedDataParallel"])
def test_a_part_that_is_wrapped_has_the_names_of_the_model_too(name, alone):
    """FSDP and checkpointing wrap blocks; a full name still names the layer."""
    model = Model()
    model.block = WRAPS[name](model.block)
    assert [key for key, _ in walk(model)] == NAMES
    report = pk.attach(model, pk.LoRA(2), ["block.fc"])
    assert [row[0] for row in report.rows] == ["block.fc"]
    pk.detach(model)
    assert [row[0] for row in pk.attach(model, pk.LoRA(2), "block.fc|head").rows] == NAMES[2::2]


class Head(nn.Module):
    """A user's module, with a child that happens to be called as wrappers call theirs."""

    def __init__(self, place):
        super().__init__()
        self.add_module(place, nn.Linear(12, 5))


PLACES = ["module", "_orig_mod", "_forward_module", "_fsdp_wrapped_module"]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("cls", [Head, type("DataParallel", (Head,), {"__module__": "mine"})])
def test_a_users_own_module_is_no_wrapper(cls, place):
    """Neither by the name of its child nor by its own."""
    model = nn.Sequential(cls(place))
    assert [key for key, _ in walk(model)] == ["", "0", f"0.{place}"]
    assert [row[0] for row in pk.attach(model, pk.LoRA(2), "all-linear").rows] == [f"0.{place}"]


def test_a_layer_at_two_places_is_found_by_both_names_inside_of_a_wrapper():
    model = Model()
    model.again = model.block
    wrapped = nn.DataParallel(model)
    assert [key for key, _ in everywhere(wrapped)] == [*NAMES, "again", "again.fc", "again.act"]
    assert [row[0] for row in pk.attach(wrapped, pk.LoRA(2), ["again.fc"]).rows] == ["block.fc"]


# --- several processes ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["DistributedDataParallel", "FullyShardedDataParallel", "DeepSpeed"]
)
def test_an_adapter_for_several_processes_comes_before_the_wrapper(name, alone, monkeypatch):
    """What keeps the processes alike does so for the parameters that it found."""
    wrapped = (DeepSpeed if name == "DeepSpeed" else WRAPS[name])(Model())
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda *_: 2)
    with pytest.raises(pk.PerakitError) as caught:
        pk.attach(wrapped, pk.LoRA(2), ["head"])
    assert "keeps 2 processes alike" in str(caught.value)
    assert "attach or load it first, then wrap the model" in str(caught.value)
    assert list(pk.adapters(wrapped)) == []
    pk.attach(nn.DataParallel(Model()), pk.LoRA(2), ["head"])  # copies the model at each call


def shards(folder):
    """Save, export, and every refusal, under fully_shard; the model that comes out, and said."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (torch.distributed.get_world_size(),))
    model, x = Model(), torch.randn(3, 12, generator=torch.Generator().manual_seed(0))
    pk.attach(model, pk.PERA(2), ["block.fc", "head"])
    before = move(model)(x).detach()
    for part in (model.block, model):
        fully_shard(part, mesh=mesh)
    assert [key for key, _ in walk(model)] == NAMES
    assert type(model.head.adapter.A).__name__ == "DTensor"
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.0)
    model(x).sum().backward()
    optimizer.step()
    assert torch.equal(model(x), before)
    pk.save(model, folder / "saved")
    pk.export_peft(model, folder / "peft")
    for use, place in ((pk.load, "saved"), (pk.import_peft, "peft")):
        other = Model()
        use(other, folder / place)
        torch.testing.assert_close(other(x), before, rtol=1e-5, atol=1e-6)
    bare = Model()
    for part in (bare.block, bare):
        fully_shard(part, mesh=mesh)
    doors = {
        "attach": lambda: pk.attach(bare, pk.LoRA(2), "all-linear"),
        "quantize": lambda: pk.quantize(bare),
        "load": lambda: pk.load(bare, folder / "saved"),
        "load again": lambda: pk.load(model, folder / "saved"),
        "import": lambda: pk.import_peft(bare, folder / "peft"),
        "merge": lambda: pk.merge(model),
        "bake": lambda: pk.bake(model),
        "delta_weights": lambda: pk.delta_weights(model),
    }
    for door, call in doors.items():
        with pytest.raises(pk.PerakitError) as caught:
            call()
        said = str(caught.value)
        assert "is a DTensor over" in said, (door, said)
        assert "do it before fully_shard" in said, (door, said)
    assert torch.equal(model(x), before)


def test_what_fully_shard_spreads_is_gathered_to_save_and_export(alone, tmp_path):
    shards(tmp_path)


@pytest.mark.thorough
def test_two_processes_gather_too(tmp_path):
    """Each by itself, as torchrun starts them: forks of a process that has trained can hang."""
    started = []
    for rank in range(2):
        (tmp_path / str(rank)).mkdir()
        command = [sys.executable, __file__, str(rank), str(tmp_path)]
        started.append(subprocess.Popen(command, stderr=subprocess.PIPE, text=True))
    try:
        for process in started:
            _, said = process.communicate(timeout=120)
            assert process.returncode == 0, said
    finally:
        for process in started:
            process.kill()
    first, second = (tmp_path / rank / "saved" / "adapter.json" for rank in "01")
    assert first.read_bytes() == second.read_bytes()


if __name__ == "__main__":
    rank, folder = int(sys.argv[1]), Path(sys.argv[2])
    store = torch.distributed.FileStore(str(folder / "store"), 2)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    shards(folder / str(rank))
    torch.distributed.destroy_process_group()
