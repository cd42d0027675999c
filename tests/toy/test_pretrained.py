"""Trained GPT-2s: the one that ships, checkpoint folders good and bad, and the hub that is not
there.
"""

import json
import os
import re
import sys
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file, save_model

from perakit import PerakitError, toy
from perakit.models.gpt2 import GELU_NEW
from perakit.toy import checkpoint
from perakit.toy.pretrained import TINY

CONFIG = toy.Config(vocab_size=31, n_positions=11, n_embd=6, n_layer=2, n_head=3)
PROMPTS = (b"Return a list of ", b"This method will ", b"If this argument ", b"The function has ")
IDS = torch.arange(22).view(2, 11)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return toy.GPT2(CONFIG).eval()


@pytest.fixture
def folder(model, tmp_path):
    return write(tmp_path, model)


def write(path, model, state=None, **config):
    """A checkpoint folder of `model`, with other tensors or settings where given."""
    state = (
        {k: v.clone() for k, v in model.state_dict().items() if k != "lm_head.weight"}
        if state is None
        else state
    )
    save_file(state, path / "model.safetensors")
    (path / "config.json").write_text(json.dumps(CONFIG.to_dict() | config))
    return path


def same(one, other):
    with torch.no_grad():
        return torch.equal(one(IDS), other(IDS))


class TestFolder:
    def test_it_comes_back(self, folder, model):
        for source in (folder, str(folder)):
            loaded = toy.load(source)
            assert same(loaded, model)
            assert loaded.config == CONFIG
            assert not loaded.training
            assert loaded.lm_head.weight is loaded.transformer.wte.weight
            assert all(
                p.requires_grad and p.dtype == torch.float32 and p.device.type == "cpu"
                for p in loaded.parameters()
            )

    def test_keys_without_the_prefix(self, model, tmp_path):
        state = {
            k.removeprefix("transformer."): v.clone()
            for k, v in model.state_dict().items()
            if k != "lm_head.weight"
        }
        assert same(toy.load(write(tmp_path, model, state)), model)

    def test_with_the_head_and_the_masks_of_old_checkpoints(self, model, tmp_path):
        state = {k: v.clone() for k, v in model.state_dict().items()}
        # As three versions of transformers wrote them
        for dtype, size in ((torch.float32, 11), (torch.uint8, 11), (torch.bool, 16)):
            for i in range(CONFIG.n_layer):
                mask = torch.ones(1, 1, size, size).tril().to(dtype)
                state[f"transformer.h.{i}.attn.bias"] = mask
                state[f"transformer.h.{i}.attn.masked_bias"] = torch.tensor(-1e4).bfloat16()
            assert same(toy.load(write(tmp_path, model, state)), model)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
    def test_every_dtype_becomes_float32(self, model, tmp_path, dtype):
        loaded = toy.load(
            write(tmp_path, model, {k: v.to(dtype) for k, v in model.state_dict().items()})
        )
        assert {p.dtype for p in loaded.parameters()} == {torch.float32}
        assert same(loaded, model.to(dtype).float())

    def test_the_model_can_be_trained_and_the_file_is_left_alone(self, folder):
        before = (folder / "model.safetensors").read_bytes()
        loaded = toy.load(folder)
        with torch.no_grad():
            for parameter in loaded.parameters():
                parameter.add_(1)
        assert (folder / "model.safetensors").read_bytes() == before

    def test_the_model_does_not_lean_on_the_file(self, folder, model):
        loaded = toy.load(folder)
        # In place, as cp writes: a view would read the new numbers
        file = folder / "model.safetensors"
        with open(file, "r+b") as changed:
            changed.write(bytes(file.stat().st_size))
        assert same(loaded, model)


class TestBadFolder:
    def test_nothing_there(self, tmp_path):
        with pytest.raises(
            PerakitError,
            match=r"is not a checkpoint folder \(.*\): it needs config.json and model.safetensors",
        ):
            toy.load(tmp_path)

    @pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
    def test_one_file_missing(self, folder, name):
        (folder / name).unlink()
        with pytest.raises(
            PerakitError,
            match=(
                rf"is not a checkpoint folder \(.*{name}.*\): it needs config.json and"
                r" model.safetensors"
            ),
        ):
            toy.load(folder)

    @pytest.mark.parametrize("text", [b"", b"{", b"\xff", b"[" * 100_000])
    def test_damaged_config(self, folder, text):
        (folder / "config.json").write_bytes(text)
        with pytest.raises(
            PerakitError, match=r"the checkpoint in '.*' is damaged: copy it again \(.*\)"
        ):
            toy.load(folder)

    @pytest.mark.parametrize("text", ["[]", "null", "3", '"gpt2"'])
    def test_config_of_another_kind(self, folder, text):
        (folder / "config.json").write_text(text)
        with pytest.raises(
            PerakitError,
            match=r"config.json in '.*' is not a JSON object: copy the checkpoint again",
        ):
            toy.load(folder)

    @pytest.mark.parametrize("keep", [0, 4, 100, -1])
    def test_truncated_weights(self, folder, keep):
        file = folder / "model.safetensors"
        file.write_bytes(file.read_bytes()[:keep])
        with pytest.raises(
            PerakitError, match=r"the checkpoint in '.*' is damaged: copy it again \(.*\)"
        ):
            toy.load(folder)

    def test_a_pickle_in_disguise(self, folder, model):
        torch.save(model.state_dict(), folder / "model.safetensors")
        with pytest.raises(PerakitError, match=r"is damaged"):
            toy.load(folder)

    def test_weights_that_are_a_folder(self, folder):
        (folder / "model.safetensors").unlink()
        (folder / "model.safetensors").mkdir()
        with pytest.raises(PerakitError, match=r"checkpoint"):
            toy.load(folder)

    def test_another_architecture(self, model, tmp_path):
        write(tmp_path, model, model_type="llama")
        with pytest.raises(
            PerakitError,
            match=r"config.json has model_type='llama'; this GPT-2 implements only 'gpt2'",
        ):
            toy.load(tmp_path)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"n_layer": 3}, "transformer.h.2.attn.c_attn.bias: absent, config.json wants 18"),
            ({"vocab_size": 32}, "transformer.wte.weight: 31 x 6, config.json wants 32 x 6"),
            ({"n_layer": 1}, "transformer.h.1.attn.c_attn.bias: 18, config.json wants absent"),
            ({"n_inner": 23}, "transformer.h.0.mlp.c_fc.bias: 24, config.json wants 23"),
            ({"n_embd": 9}, "transformer.h.0.attn.c_attn.bias: 18, config.json wants 27"),
        ],
    )
    def test_weights_of_another_config(self, model, tmp_path, change, message):
        write(tmp_path, model, **change)
        with pytest.raises(
            PerakitError, match=rf"the weights of '.*' are not those of its config.json: {message}"
        ):
            toy.load(tmp_path)

    def test_a_tensor_too_many(self, model, tmp_path):
        write(
            tmp_path,
            model,
            {k: v.clone() for k, v in model.state_dict().items()}
            | {"score.weight": torch.zeros(2, 6)},
        )
        with pytest.raises(PerakitError, match=r"score.weight: 2 x 6, config.json wants absent"):
            toy.load(tmp_path)

    @pytest.mark.parametrize("name", ["vocab_size", "n_positions", "n_embd", "n_layer", "n_head"])
    def test_a_size_that_config_json_does_not_give(self, tmp_path, name):
        config = toy.Config(vocab_size=31, n_positions=11, n_embd=12, n_layer=2, n_head=3)
        write(tmp_path, toy.GPT2(config))
        (tmp_path / "config.json").write_text(
            json.dumps({k: v for k, v in config.to_dict().items() if k != name})
        )
        # a guessed n_head would be wrong in silence
        with pytest.raises(PerakitError, match=rf"config.json has no {name}"):
            toy.load(tmp_path)

    def test_a_head_that_is_not_in_the_file(self, model, tmp_path):
        write(tmp_path, model, tie_word_embeddings=False)
        with pytest.raises(PerakitError, match=r"lm_head.weight: absent, config.json wants 31 x 6"):
            toy.load(tmp_path)

    def test_the_same_tensor_under_two_names(self, model, tmp_path):
        state = full(model)
        state["wpe.weight"] = state["transformer.wpe.weight"] + 1
        with pytest.raises(
            PerakitError, match=r"have transformer.wpe.weight twice, also as '.*wpe.weight': keep"
        ):
            toy.load(write(tmp_path, model, state))

    @pytest.mark.parametrize(
        ("dtype", "name"),
        [
            (torch.int8, "I8"),
            (torch.bool, "BOOL"),
            (torch.complex64, "C64"),
            (torch.float8_e4m3fn, "F8_E4M3"),
            (torch.int64, "I64"),
        ],
    )
    def test_numbers_that_do_not_multiply(self, model, tmp_path, dtype, name):
        state = full(model)
        state["transformer.h.1.mlp.c_fc.weight"] = state["transformer.h.1.mlp.c_fc.weight"].to(
            dtype
        )
        with pytest.raises(
            PerakitError,
            match=rf"transformer.h.1.mlp.c_fc.weight of '.*' has numbers of type {name}, a GPT-2"
            " computes with F64, F32, BF16, F16: save the model in one of these",
        ):
            toy.load(write(tmp_path, model, state))

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e300])
    def test_numbers_that_are_none(self, model, tmp_path, value):
        state = full(model)
        state["transformer.ln_f.bias"] = state["transformer.ln_f.bias"].double()
        state["transformer.ln_f.bias"][3] = value
        with pytest.raises(
            PerakitError, match=r"transformer.ln_f.bias of '.*' has a number that is not finite"
        ):
            toy.load(write(tmp_path, model, state))

    @pytest.mark.parametrize(
        ("name", "mask"),
        [
            ("h.0.attn.bias", torch.ones(1, 1, 11, 11)),  # sees the future
            ("h.1.attn.bias", torch.ones(1, 1, 11, 11).tril().triu(-4)),  # a window
            ("h.0.attn.bias", torch.ones(1, 1, 10, 10).tril()),  # shorter than the context
            ("h.0.attn.bias", torch.ones(11, 11).tril()),
            ("h.0.attn.bias", torch.ones(1, 1)),
            ("h.0.attn.bias", torch.ones(1, 1, 11, 11, dtype=torch.complex64).tril()),
            ("h.0.attn.bias", torch.zeros(1, 1, 11, 11)),
            ("h.0.attn.masked_bias", torch.tensor(-1.0)),
            ("h.0.attn.masked_bias", torch.tensor(float("nan"))),
        ],
    )
    def test_a_mask_of_another_kind(self, model, tmp_path, name, mask):
        with pytest.raises(
            PerakitError, match=rf"transformer.{name} of '.*' is not GPT-2's mask of the future"
        ):
            toy.load(write(tmp_path, model, full(model) | {f"transformer.{name}": mask}))

    @pytest.mark.parametrize("name", ["transformer.h.2.attn.bias", "score.attn.bias"])
    def test_a_mask_of_no_layer(self, model, tmp_path, name):
        write(tmp_path, model, full(model) | {name: torch.ones(1, 1, 11, 11).tril()})
        with pytest.raises(
            PerakitError, match=rf"{name}: 1 x 1 x 11 x 11, config.json wants absent"
        ):
            toy.load(tmp_path)

    def test_more_than_the_machine_holds(self, folder, monkeypatch):
        monkeypatch.setattr(checkpoint, "_memory", lambda: 5000)
        with pytest.raises(
            PerakitError, match=r"needs 5,\d+ bytes in float32, this machine has 5,000"
        ):
            toy.load(folder)


def full(model):
    """The state dict, with nothing shared."""
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


class TestDoors:
    """What is no plain file, or lies about its size, is one sentence at once."""

    @pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
    @pytest.mark.parametrize("kind", ["pipe", "device"])
    def test_no_plain_file(self, folder, name, kind):
        (folder / name).unlink()
        if kind == "pipe":
            os.mkfifo(folder / name)
        else:
            (folder / name).symlink_to("/dev/zero")
        with pytest.raises(PerakitError, match=rf"{name}' is a device or a pipe, not a plain file"):
            toy.load(folder)

    def test_a_config_that_is_a_folder(self, folder):
        (folder / "config.json").unlink()
        (folder / "config.json").mkdir()
        with pytest.raises(PerakitError, match=r"cannot read '.*config.json': Is a directory"):
            toy.load(folder)

    def test_giants(self, folder):
        os.truncate(folder / "config.json", 2**40)
        with pytest.raises(PerakitError, match=r"config.json' is larger than the 1,048,576 bytes"):
            toy.load(folder)
        (folder / "config.json").write_text(json.dumps(CONFIG.to_dict()))
        weights = folder / "model.safetensors"
        os.truncate(weights, 2**40)
        with pytest.raises(PerakitError, match=r"is damaged: .*1,099,511,627,776 bytes"):
            toy.load(folder)
        with open(weights, "r+b") as file:
            file.write((2**39).to_bytes(8, "little"))
        with pytest.raises(PerakitError, match=r"is damaged: .*its header claims 549,755,813,888"):
            toy.load(folder)

    @pytest.mark.parametrize("source", ["a\0b", 300 * "a", "/dev/zero", None, 3, b"tiny"])
    def test_no_name_of_a_folder(self, source):
        with pytest.raises(PerakitError, match=r"no model .*: give 'tiny', 'small', 'smollm2', a"):
            toy.load(source)

    def test_a_long_header_is_not_read(self, model, tmp_path):
        save_file(full(model), tmp_path / "model.safetensors", {"said": 2**20 * "a"})
        (tmp_path / "config.json").write_text(json.dumps(CONFIG.to_dict()))
        with pytest.raises(PerakitError, match=r"is damaged: copy it again .its header claims"):
            toy.load(tmp_path)


class TestShards:
    @pytest.fixture
    def sharded(self, model, tmp_path):
        halves = [{}, {}]
        for n, (name, tensor) in enumerate(full(model).items()):
            halves[n % 2][name] = tensor
        for n, half in enumerate(halves):
            save_file(half, tmp_path / f"model-0000{n + 1}-of-00002.safetensors")
        (tmp_path / "config.json").write_text(json.dumps(CONFIG.to_dict()))
        index(tmp_path, *(f"model-0000{n + 1}-of-00002.safetensors" for n in range(2)))
        return tmp_path

    def test_they_are_one_model(self, sharded, model):
        assert same(toy.load(sharded), model)

    def test_one_is_missing(self, sharded):
        (sharded / "model-00002-of-00002.safetensors").unlink()
        with pytest.raises(
            PerakitError, match=r"lacks 'model-00002-of-00002.safetensors', which .*: copy the"
        ):
            toy.load(sharded)

    def test_one_is_not_named(self, sharded):
        index(sharded, "model-00001-of-00002.safetensors")
        with pytest.raises(PerakitError, match=r"absent, config.json wants"):
            toy.load(sharded)

    def test_both_ways(self, sharded, model):
        write(sharded, model)
        with pytest.raises(
            PerakitError, match=r"has its weights twice, in model.safetensors and in"
        ):
            toy.load(sharded)
        # transformers removes old shards, and leaves their index
        for n in range(2):
            (sharded / f"model-0000{n + 1}-of-00002.safetensors").unlink()
        assert same(toy.load(sharded), model)

    @pytest.mark.parametrize(
        "names", [[], ["../model.safetensors"], ["/etc/x.safetensors"], ["x.bin"], [3], [".."]]
    )
    def test_an_index_of_no_files(self, sharded, names):
        index(sharded, *names)
        with pytest.raises(PerakitError, match=r"is damaged: copy it again .*names no files"):
            toy.load(sharded)

    def test_a_pickle(self, folder, model):
        (folder / "model.safetensors").unlink()
        torch.save(model.state_dict(), folder / "pytorch_model.bin")
        with pytest.raises(
            PerakitError,
            match=r"are a pickle, pytorch_model.bin, which can run code: save them with",
        ):
            toy.load(folder)


def index(folder, *names):
    """An index of shards that names these files."""
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": {f"name{n}": it for n, it in enumerate(names)}})
    )


def theirs(**settings):
    """A GPT2LMHeadModel of transformers, every parameter off its start."""
    transformers = pytest.importorskip("transformers")
    shape = {name: getattr(CONFIG, name) for name in ("vocab_size", "n_embd", "n_layer", "n_head")}
    config = transformers.GPT2Config(
        **shape | {"n_positions": 11, "bos_token_id": None, "eos_token_id": None} | settings
    )
    made = transformers.GPT2LMHeadModel(config).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return made


def as_theirs(folder, made):
    """The model in a folder, whose logits must be those of `made`; relative 1e-5."""
    ours = toy.load(folder)
    with torch.no_grad():
        wanted = made.float()(IDS).logits
        found = ours(IDS)
    assert (found - wanted).abs().max() <= 1e-5 * wanted.abs().max()
    return ours


def config_of(made, folder, **changes):
    made.config.save_pretrained(folder)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


class TestFilesOfOtherTools:
    """Logits as transformers computes them, from files that transformers and safetensors wrote."""

    def test_their_language_model(self, tmp_path):
        made = theirs()
        made.save_pretrained(tmp_path)
        assert as_theirs(tmp_path, made).config == CONFIG

    def test_their_model_without_a_head(self, tmp_path):
        made = theirs()
        made.transformer.save_pretrained(tmp_path)
        assert "wte.weight" in load_file(tmp_path / "model.safetensors")
        assert as_theirs(tmp_path, made).config == CONFIG

    @pytest.mark.parametrize("said", [False, True])
    def test_their_head_of_its_own(self, tmp_path, said):
        made = theirs(tie_word_embeddings=False)
        made.save_pretrained(tmp_path)
        # Transformers, too, believes the tensors where config.json says that they are tied
        config_of(made, tmp_path, tie_word_embeddings=said)
        ours = as_theirs(tmp_path, made)
        assert ours.config == replace(CONFIG, tie_word_embeddings=False)
        assert ours.lm_head.weight is not ours.transformer.wte.weight
        ours.tie_weights()
        assert not torch.equal(ours.lm_head.weight, ours.transformer.wte.weight)
        # And there and back through our own files
        write(tmp_path, ours, full(ours), **ours.config.to_dict())
        assert same(toy.load(tmp_path), ours)

    def test_a_head_that_says_it_is_its_own_and_is_equal(self, tmp_path):
        made = theirs()
        config_of(made, tmp_path, tie_word_embeddings=False)
        save_file(full(made), tmp_path / "model.safetensors")
        ours = as_theirs(tmp_path, made)
        assert ours.lm_head.weight is not ours.transformer.wte.weight

    def test_save_model_of_safetensors(self, tmp_path):
        made = theirs()
        config_of(made, tmp_path)
        save_model(made, str(tmp_path / "model.safetensors"))
        names = load_file(tmp_path / "model.safetensors").keys()
        assert "lm_head.weight" in names
        assert "transformer.wte.weight" not in names
        ours = as_theirs(tmp_path, made)
        assert ours.lm_head.weight is ours.transformer.wte.weight

    def test_their_shards(self, tmp_path):
        made = theirs()
        made.save_pretrained(tmp_path, max_shard_size="2KB")
        assert not (tmp_path / "model.safetensors").exists()
        as_theirs(tmp_path, made)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_their_half_precision(self, tmp_path, dtype):
        made = theirs().to(dtype)
        made.save_pretrained(tmp_path)
        as_theirs(tmp_path, made)

    @pytest.mark.parametrize("name", GELU_NEW)
    def test_other_names_of_gelu_new(self, tmp_path, name):
        made = theirs(activation_function=name)
        made.save_pretrained(tmp_path)
        assert as_theirs(tmp_path, made).config == CONFIG

    def test_settings_that_do_nothing_do_nothing(self, tmp_path):
        odd = theirs(
            **dict.fromkeys(("attn_pdrop", "resid_pdrop", "embd_pdrop"), 0.5),
            attn_implementation="eager",
            reorder_and_upcast_attn=True,
            initializer_range=0.5,
            summary_type="mean",
            pad_token_id=2,
            use_cache=False,
            num_labels=5,
            n_ctx=3,
        )
        odd.save_pretrained(tmp_path)
        as_theirs(tmp_path, odd)
        plain = theirs()
        plain.load_state_dict(odd.state_dict())
        as_theirs(tmp_path, plain)

    def test_the_names_of_other_models(self, tmp_path):
        made = theirs()
        made.save_pretrained(tmp_path)
        names = {"n_embd": "hidden_size", "n_layer": "num_hidden_layers"}
        path = tmp_path / "config.json"
        fields = json.loads(path.read_text())
        path.write_text(json.dumps({names.get(key, key): fields[key] for key in fields}))
        as_theirs(tmp_path, made)

    def test_a_classifier_says_which_tensor_has_no_place(self, tmp_path):
        transformers = pytest.importorskip("transformers")
        transformers.GPT2ForSequenceClassification(theirs().config).save_pretrained(tmp_path)
        with pytest.raises(PerakitError, match=r"score.weight: 2 x 6, config.json wants absent"):
            toy.load(tmp_path)


@pytest.mark.parametrize("source", ["gpt3", "nowhere/at/all"])
def test_no_such_model(source):
    with pytest.raises(
        PerakitError,
        match=re.escape(
            f"no model '{source}': give 'tiny', 'small', 'smollm2', a checkpoint folder, or one of"
            " gpt2, gpt2-medium"
        ),
    ):
        toy.load(source)


class TestHub:
    def test_offline(self):
        pytest.importorskip("transformers")
        wanted = (
            "model 'gpt2' is not in the local cache and the hub cannot be reached: give a"
            " checkpoint folder"
        )
        with pytest.raises(PerakitError, match=wanted):
            toy.load("gpt2")

    def test_an_unreachable_hub_is_said_soon(self, monkeypatch, tmp_path):
        constants = pytest.importorskip("huggingface_hub").constants
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
        monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody listens
        monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail("it waits to ask again"))
        with pytest.raises(PerakitError, match=r"the hub cannot be reached: give a checkpoint"):
            toy.load("gpt2-medium")

    def test_the_hub_package_missing(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "huggingface_hub", None)
        with pytest.raises(
            PerakitError,
            match=(
                r"model 'gpt2-xl' comes through huggingface_hub: pip install 'perakit\[hf\]', or"
                r" give a"
            ),
        ):
            toy.load("gpt2-xl")

    def test_the_cache_is_read(self, model, folder, monkeypatch, tmp_path_factory):
        hub = pytest.importorskip("huggingface_hub")
        cache = tmp_path_factory.mktemp("hub")
        monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(cache))
        kept = cache / "models--gpt2"
        (kept / "refs").mkdir(parents=True)
        (kept / "refs" / "main").write_text(40 * "a")
        (kept / "snapshots").mkdir()
        (kept / "snapshots" / (40 * "a")).symlink_to(folder)
        loaded = toy.load("gpt2")
        assert same(loaded, model)
        assert loaded.config == CONFIG
        # What came half is not enough
        (folder / "model.safetensors").unlink()
        with pytest.raises(
            PerakitError, match=r"model 'gpt2' is not in the local cache and the hub"
        ):
            toy.load("gpt2")

    @pytest.mark.parametrize(
        ("width", "depth", "heads", "parameters"),
        [
            (768, 12, 12, 124_439_808),
            (1024, 24, 16, 354_823_168),
            (1280, 36, 20, 774_030_080),
            (1600, 48, 25, 1_557_611_200),
        ],
    )
    def test_the_four_sizes(self, width, depth, heads, parameters):
        config = {
            "vocab_size": 50257,
            "n_positions": 1024,
            "n_embd": width,
            "n_layer": depth,
            "n_head": heads,
        }
        with torch.device("meta"):
            built = toy.GPT2(toy.Config.from_dict(config))
        assert sum(p.numel() for p in built.parameters()) == parameters


@pytest.fixture(scope="module")
def tiny():
    return toy.load("tiny")


@pytest.fixture(scope="module")
def prose():
    return toy.corpus.load("prose", limit=540_000)


class TestTiny:
    """The weights that ship: small, described, and better than knowing nothing."""

    def test_three_files_of_at_most_8_mib(self):
        files = {path.name: path.stat().st_size for path in TINY.iterdir()}
        assert set(files) == {"config.json", "model.safetensors", "card.json"}
        assert sum(files.values()) <= 8 * 2**20

    def test_the_card_says_what_made_it(self, tiny):
        card = json.loads((TINY / "card.json").read_bytes())
        assert re.fullmatch("[0-9a-f]{64}", card["data"]["sha256"])
        assert card["data"]["train_bytes"] > 1e6
        assert card["data"]["source"]
        assert card["recipe"]["steps"] > 0
        assert isinstance(card["recipe"]["seed"], int)
        assert set(card["versions"]) >= {"python", "torch"}
        assert card["hardware"]
        assert card["training_seconds"] > 0
        assert card["parameters"] == sum(p.numel() for p in tiny.parameters())
        assert set(card["heldout_bits_per_byte"]) == {
            "all held-out prose",
            "of which standard library",
        }
        assert all(1 < bits <= 1.9 for bits in card["heldout_bits_per_byte"].values())

    def test_the_file_holds_the_weights_once(self, tiny):
        state = load_file(TINY / "model.safetensors")
        assert set(state) == set(tiny.state_dict()) - {"lm_head.weight"}
        assert all(torch.isfinite(tensor).all() for tensor in state.values())

    def test_it_reads_bytes(self, tiny):
        assert toy.tokenizer("tiny", tiny).vocab_size == 256

    def test_it_has_learned_prose(self, tiny, prose):
        assert len(prose.heldout) == 60_000
        assert toy.bits_per_byte(tiny, prose.heldout, windows=96) < 1.95

    @pytest.mark.parametrize("temperature", [0.0, 0.5])
    def test_it_writes_words(self, tiny, prose, temperature):
        known = set(re.findall(rb"[a-z]{2,}", prose.train.lower()))
        reader = toy.tokenizer("tiny", tiny)
        prompts = torch.stack([reader.encode(text) for text in PROMPTS])
        written = tiny.generate(prompts.long(), 80, temperature=temperature)
        words = [
            word
            for row in written
            for word in re.findall(r"[a-z]{2,}", reader.decode(row[17:]).lower())
        ]
        assert len(words) > 15
        assert sum(word.encode() in known for word in words) / len(words) > 0.8


@pytest.mark.parametrize(
    ("name", "value"), [("vocab_size", 10**30), ("n_embd", 10**12), ("n_layer", 10**6)]
)
def test_a_config_that_claims_huge_sizes_is_refused_at_once(tmp_path, name, value):
    config = json.loads((TINY / "config.json").read_text()) | {name: value}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").symlink_to(TINY / "model.safetensors")
    with pytest.raises(PerakitError, match=str(value)):
        toy.load(tmp_path)
