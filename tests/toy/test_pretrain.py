"""Models that a user makes: the command, its card, and `small` from the folder where it is."""

import hashlib
import json
from dataclasses import replace

import pytest
import torch

from perakit import PerakitError, toy
from perakit.toy import corpus, pretrain, small
from perakit.toy.pretrained import TINY

RECIPE = toy.Recipe(
    steps=6, batch=2, context=16, warmup=2, eval_every=3, eval_windows=2, checkpoint_every=2
)
CONFIG = toy.Config(n_embd=16, n_layer=1, n_head=2, n_positions=16)
SIZE = pretrain.Size({"model": "a toy", "command": "none"}, "synthetic", CONFIG, RECIPE)


@pytest.fixture(autouse=True)
def short_texts(monkeypatch):
    """Of every text a little, so that a model is made in a second."""
    load = corpus.load
    monkeypatch.setattr(corpus, "load", lambda spec: load(spec, 3_000))


@pytest.fixture
def home(tmp_path, monkeypatch):
    """The folder of `small`, with nothing in it."""
    monkeypatch.setenv(small.VARIABLE, str(tmp_path / "small"))
    return tmp_path / "small"


def weights(folder):
    return (folder / "model.safetensors").read_bytes()


def test_it_is_loaded_from_its_folder(home):
    pretrain.pretrain(SIZE, home)
    model = toy.load("small")
    assert model.config == CONFIG
    assert not model.training
    assert [int(token) for token in toy.tokenizer("small", model).encode(b"PERA")] == [*b"PERA"]
    text = corpus.load("synthetic").heldout
    bits = json.loads((home / "card.json").read_text())["heldout_bits_per_byte"]
    assert toy.bits_per_byte(model, text, 16) == pytest.approx(bits["all held-out prose"], abs=1e-4)


def test_the_card_says_what_it_is_made_of(home):
    card = pretrain.pretrain(SIZE, home)
    assert json.loads((home / "card.json").read_text()) == card
    assert card["parameters"] == sum(p.numel() for p in toy.GPT2(CONFIG).parameters())
    assert card["recipe"]["steps"] == 6
    assert card["data"] == corpus.load("synthetic").describe()
    assert card["weights_sha256"] == hashlib.sha256(weights(home)).hexdigest()
    assert card["versions"]["torch"] == str(torch.__version__)
    assert "threads" in card["hardware"]
    assert card["training_seconds"] >= 0
    assert (card["model"], card["command"]) == ("a toy", "none")


def test_an_interrupted_run_goes_on_to_the_same_bits(tmp_path, monkeypatch):
    pretrain.pretrain(SIZE, tmp_path / "whole")
    step = torch.optim.AdamW.step
    calls = iter(range(100))

    def interrupted(*arguments):
        if next(calls) == 5:
            raise KeyboardInterrupt
        return step(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(torch.optim.AdamW, "step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            pretrain.pretrain(SIZE, tmp_path / "cut")
    assert not (tmp_path / "cut" / "model.safetensors").exists()
    losses = (tmp_path / "cut" / "run" / "metrics.jsonl").read_text().splitlines()
    assert losses  # it goes on from these, and does not begin again
    counted = []
    monkeypatch.setattr(
        torch.optim.AdamW, "step", lambda *arguments: counted.append(1) or step(*arguments)
    )
    pretrain.pretrain(SIZE, tmp_path / "cut")
    assert len(counted) == 2  # after the checkpoint of step 4
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")
    counted.clear()
    pretrain.pretrain(SIZE, tmp_path / "cut")  # what is done is not done again
    assert not counted
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")


def test_other_settings_do_not_go_on_with_it(tmp_path):
    pretrain.pretrain(SIZE, tmp_path)
    before = weights(tmp_path)
    other = replace(SIZE, recipe=replace(RECIPE, lr=0.5))
    with pytest.raises(PerakitError, match="holds a run of another model, text or recipe"):
        pretrain.pretrain(other, tmp_path)
    assert weights(tmp_path) == before


def test_missing_it_says_how_it_is_made(home):
    expected = (
        f"there is no model in '{home}', where 'small' belongs: make it with"
        " python -m perakit.toy.pretrain --size small (half an hour on 2 cores, some minutes on a"
        " GPU), or set PERAKIT_SMALL to the folder that has it"
    )
    for _ in range(2):
        with pytest.raises(PerakitError) as caught:
            toy.load("small")
        assert str(caught.value) == expected
        # While it is being made there is a run and no model
        (home / "run").mkdir(parents=True, exist_ok=True)


def test_damaged_it_says_so_and_can_be_made_again(home):
    pretrain.pretrain(SIZE, home)
    whole = weights(home)
    (home / "model.safetensors").write_bytes(whole[:-8])
    with pytest.raises(PerakitError, match=r"is damaged.*or make it again with python -m perakit"):
        toy.load("small")
    pretrain.pretrain(SIZE, home)
    assert weights(home) == whole


def test_it_is_in_the_cache_unless_the_environment_says_otherwise(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    for value in (None, ""):
        monkeypatch.delenv(small.VARIABLE, raising=False)
        if value is not None:
            monkeypatch.setenv(small.VARIABLE, value)
        assert small.folder() == tmp_path / ".cache" / "perakit" / "small"
    monkeypatch.setenv(small.VARIABLE, "~/elsewhere")
    assert small.folder() == tmp_path / "elsewhere"


@pytest.mark.parametrize(("device", "millions"), [("cpu", 6.4), ("cuda", 25.5)])
def test_what_small_is(device, millions, monkeypatch):
    size = pretrain.larger(device)
    with torch.device("meta"):
        model = toy.GPT2(size.config)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.05)
    assert size.text.startswith("prose+prose:numpy+prose:scipy+prose:sympy")
    assert "prose:mpmath" in size.text.split("+")  # a dependency of sympy
    assert size.about["command"].endswith(f"--device {device}")
    for amx in (True, False):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": amx})  # noqa: B023
        size = pretrain.larger(device)
        assert size.recipe.bf16 == (amx or device == "cuda")
        assert ("bfloat16" in size.about["arithmetic"]) == size.recipe.bf16
    # torch 2.10 does not say what a CPU can do
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert pretrain.larger(device).recipe.bf16 == (device == "cuda")


def test_what_is_not_installed_is_left_out(monkeypatch):
    monkeypatch.setattr(pretrain, "MORE", "no_such_package_anywhere mpmath")
    assert pretrain.larger("cpu").text.split("+")[-2:] == ["prose:torch", "prose:mpmath"]


class TestCommand:
    @pytest.fixture(autouse=True)
    def quick(self, monkeypatch):
        monkeypatch.setattr(pretrain, "larger", lambda device: SIZE)
        monkeypatch.setattr(pretrain, "tiny", lambda: replace(SIZE, text="synthetic:1"))

    def test_small_goes_where_it_is_looked_for(self, home, capsys):
        pretrain.main(["--size", "small", "--device", "cpu"])
        said = capsys.readouterr()
        assert json.loads(said.out) == json.loads((home / "card.json").read_text())
        assert f"6 steps; into {home}" in said.err
        assert toy.load("small").config == CONFIG

    def test_tiny_goes_into_the_folder_that_is_named(self, tmp_path, capsys):
        pretrain.main([str(tmp_path)])
        assert json.loads(capsys.readouterr().out)["data"]["text"] == "synthetic:1"
        assert toy.load(tmp_path).config == CONFIG

    def test_tiny_without_a_folder_is_refused(self, capsys):
        with pytest.raises(SystemExit):
            pretrain.main([])
        assert "give OUT, the folder of the model" in capsys.readouterr().err

    def test_a_device_that_is_not_there(self, home, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        with pytest.raises(PerakitError, match="'cuda' is not available here: use --device cpu"):
            pretrain.main(["--size", "small", "--device", "cuda"])
        assert not home.exists()


def test_tiny_is_as_its_card_says():
    card, size = json.loads((TINY / "card.json").read_text()), pretrain.tiny()
    assert card["data"]["text"] == size.text
    assert card["command"] == size.about["command"]
    assert toy.Recipe(**card["recipe"]) == size.recipe
    assert toy.load("tiny").config == size.config
