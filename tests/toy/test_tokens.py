"""Bytes are tokens; a pretrained tokenizer is read, or refused with one clear sentence."""

import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from perakit import PerakitError, toy
from perakit.toy.tokens import Bytes, Pretrained


@given(st.binary(max_size=64))
def test_every_byte_is_one_token(text):
    ids = Bytes().encode(text)
    assert ids.tolist() == list(text)
    assert ids.ndim == 1


@given(st.text(max_size=64))
def test_text_comes_back(text):
    assert Bytes().decode(Bytes().encode(text.encode())) == text


def test_half_a_character_is_shown_not_raised():
    assert Bytes().decode(Bytes().encode("é".encode()[:1] + b"a")) == "\ufffda"


def test_a_byte_vocabulary_needs_no_tokenizer(tmp_path):
    assert isinstance(toy.tokenizer(tmp_path, toy.GPT2(toy.Config(n_layer=1, n_embd=8))), Bytes)


@pytest.fixture
def folder(tmp_path):
    """A checkpoint folder with a small byte-pair tokenizer, made here."""
    tokenizers = pytest.importorskip("tokenizers")
    pytest.importorskip("transformers")
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=260, initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(["low lower lowest"] * 9, trainer)
    bpe.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "PreTrainedTokenizerFast"}'
    )
    return tmp_path


def model_of(vocab):
    return toy.GPT2(toy.Config(vocab_size=vocab, n_layer=1, n_embd=8, n_positions=8))


def test_a_pretrained_tokenizer(folder):
    found = toy.tokenizer(folder, model_of(260))
    assert isinstance(found, Pretrained)
    text = "lowest slow é\n"
    ids = found.encode(text.encode())
    assert found.vocab_size == 260
    assert ids.ndim == 1
    assert len(ids) < len(text.encode())  # pairs were merged
    assert int(ids.max()) < 260
    assert found.decode(ids) == text


def test_it_is_the_one_that_tokenizers_reads(folder):
    from tokenizers import Tokenizer

    assert toy.tokenizer(str(folder), model_of(300)).encode(b"slower lows").tolist() == (
        Tokenizer.from_file(str(folder / "tokenizer.json")).encode("slower lows").ids
    )


def test_it_serves_the_training_loop(folder):
    text = b"the lowest of the low is lower than low; " * 4
    uniform = model_of(260)
    torch.nn.init.zeros_(uniform.transformer.wte.weight)  # tied: all logits zero
    found = toy.tokenizer(folder, uniform)
    tokens = len(found.encode(text))
    assert toy.bits_per_byte(uniform, text, context=8, tokenizer=found) == pytest.approx(
        torch.tensor(260.0).log2().item() * tokens / len(text), rel=1e-5
    )


def test_more_tokens_than_the_model_has(folder):
    with pytest.raises(PerakitError, match=r"the tokenizer of '.*' has 260 tokens, the model 259"):
        toy.tokenizer(folder, model_of(259))


def test_no_tokenizer_in_the_folder(tmp_path):
    with pytest.raises(
        PerakitError, match=r"no tokenizer at '.*': put tokenizer.json beside the checkpoint"
    ):
        toy.tokenizer(tmp_path, model_of(300))


def test_no_tokenizer_beside_a_config(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(
        PerakitError, match=r"no tokenizer at '.*': put tokenizer.json beside the checkpoint"
    ):
        toy.tokenizer(tmp_path, model_of(300))


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"model": 3}', b"\xff\xfe"])
def test_a_damaged_tokenizer(folder, damage):
    (folder / "tokenizer.json").write_bytes(damage)
    with pytest.raises(PerakitError, match="tokenizer"):
        toy.tokenizer(folder, model_of(300))


def test_a_hub_tokenizer_offline():
    pytest.importorskip("transformers")
    with pytest.raises(PerakitError, match="no tokenizer at 'gpt2'"):
        toy.tokenizer("gpt2", model_of(50257))


def test_transformers_missing(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(
        PerakitError, match=r"the tokenizer of '.*' needs transformers: pip install 'perakit\[hf\]'"
    ):
        toy.tokenizer(tmp_path, model_of(300))
