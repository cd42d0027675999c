"""Trained GPT-2s: the one that ships, checkpoint folders good and bad, and the hub that is not
there.
"""

import json
import re
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from perakit import PerakitError, toy
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
        for i in range(CONFIG.n_layer):
            state[f"transformer.h.{i}.attn.bias"] = torch.ones(1, 1, 11, 11).tril()
            state[f"transformer.h.{i}.attn.masked_bias"] = torch.tensor(-1e4)
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
            PerakitError, match=r"the checkpoint in '.*' is damaged \(.*\): copy it again"
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
            PerakitError, match=r"the checkpoint in '.*' is damaged \(.*\): copy it again"
        ):
            toy.load(folder)

    def test_a_pickle_in_disguise(self, folder, model):
        torch.save(model.state_dict(), folder / "model.safetensors")
        with pytest.raises(PerakitError, match="is damaged"):
            toy.load(folder)

    def test_weights_that_are_a_folder(self, folder):
        (folder / "model.safetensors").unlink()
        (folder / "model.safetensors").mkdir()
        with pytest.raises(PerakitError, match="checkpoint"):
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

    def test_weights_untied_in_the_file(self, model, tmp_path):
        state = {k: v.clone() for k, v in model.state_dict().items()}
        # config.json says tied: transformers reads such a file with the embedding as head
        state["lm_head.weight"] += 1
        assert same(toy.load(write(tmp_path, model, state)), model)


@pytest.mark.parametrize("source", ["gpt3", "nowhere/at/all"])
def test_no_such_model(source):
    with pytest.raises(
        PerakitError,
        match=re.escape(
            f"no model '{source}': give 'tiny', a checkpoint folder, or one of gpt2, gpt2-medium"
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

    def test_transformers_missing(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "transformers", None)
        with pytest.raises(
            PerakitError,
            match=(
                r"model 'gpt2-xl' comes through transformers: pip install 'perakit\[hf\]', or"
                r" give a"
            ),
        ):
            toy.load("gpt2-xl")

    def test_what_transformers_finds_is_read(self, model, folder, monkeypatch):
        transformers = pytest.importorskip("transformers")
        found = transformers.GPT2LMHeadModel.from_pretrained(folder)
        monkeypatch.setattr(
            transformers.GPT2LMHeadModel, "from_pretrained", lambda name, **options: found
        )
        loaded = toy.load("gpt2")
        assert same(loaded, model)
        assert loaded.config == CONFIG

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
