"""Bytes are tokens; a pretrained tokenizer is read, or refused with one clear sentence."""

import json
import os
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


def test_transformers_reads_it_as_we_do(folder):
    transformers = pytest.importorskip("transformers")
    found = transformers.AutoTokenizer.from_pretrained(folder)
    text = "the lowest of the low, <|endoftext|> slower: é\n\n  now"
    assert (
        toy.tokenizer(folder, model_of(260)).encode(text.encode()).tolist()
        == (found(text)["input_ids"])
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


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"model": 3}', b"\xff\xfe", b"[" * 10**5])
def test_a_damaged_tokenizer(folder, damage):
    (folder / "tokenizer.json").write_bytes(damage)
    with pytest.raises(
        PerakitError, match=r"the tokenizer of '.*' is damaged \(.*\): copy it again"
    ):
        toy.tokenizer(folder, model_of(300))


def test_a_tokenizer_that_is_no_plain_file(folder):
    (folder / "tokenizer.json").unlink()
    os.mkfifo(folder / "tokenizer.json")
    with pytest.raises(PerakitError, match=r"tokenizer.json' is a device or a pipe"):
        toy.tokenizer(folder, model_of(300))
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.json").touch()
    os.truncate(folder / "tokenizer.json", 2**40)
    with pytest.raises(PerakitError, match=r"is larger than the 6,291,456 bytes"):
        toy.tokenizer(folder, model_of(300))


class TestTwoHundredFiftySix:
    """As many tokens as bytes, whose ids are not the bytes: GPT-2's own alphabet."""

    @pytest.fixture
    def alphabet(self, folder):
        """Made by tokenizers: the 256 letters of byte-level pairs, in their order."""
        tokenizers = pytest.importorskip("tokenizers")
        trained = tokenizers.ByteLevelBPETokenizer()
        trained.train_from_iterator(["low"], vocab_size=256, show_progress=False)
        trained.save(str(folder / "tokenizer.json"))
        return folder

    def test_it_is_used(self, alphabet):
        from tokenizers import Tokenizer

        found = toy.tokenizer(alphabet, model_of(256))
        text = "Tea, é\n"
        assert found.encode(text.encode()).tolist() == (
            Tokenizer.from_file(str(alphabet / "tokenizer.json")).encode(text).ids
        )
        assert found.encode(b"!").tolist() == [0]
        assert found.decode(found.encode(text.encode())) == text
        assert found.vocab_size == 256

    def test_gpt2s_own_two_files(self, alphabet):
        pytest.importorskip("tokenizers")
        wanted = toy.tokenizer(alphabet, model_of(256)).encode("low é".encode())
        as_two_files(alphabet)
        assert torch.equal(toy.tokenizer(alphabet, model_of(256)).encode("low é".encode()), wanted)

    @pytest.mark.parametrize("name", ["tokenizer_config.json", "vocab.json", "spiece.model"])
    def test_a_file_of_a_tokenizer_is_not_passed_over(self, tmp_path, name):
        pytest.importorskip("tokenizers")
        (tmp_path / name).write_text("{}")
        with pytest.raises(PerakitError, match=rf"no tokenizer at .*, and '{name}' is not enough"):
            toy.tokenizer(tmp_path, model_of(256))

    def test_the_tiny_one_reads_bytes(self):
        assert isinstance(toy.tokenizer("tiny", model_of(256)), Bytes)
        with pytest.raises(
            PerakitError, match="the tokenizer of 'tiny' has 256 tokens, the model 9"
        ):
            toy.tokenizer("tiny", model_of(9))


def as_two_files(folder):
    """The tokenizer of a folder as GPT-2's own files have it."""
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
    merges = "\n".join(" ".join(pair) for pair in model["merges"])
    (folder / "merges.txt").write_text(f"#version: 0.2\n{merges}\n")
    (folder / "tokenizer.json").unlink()


class TestTwoFiles:
    def test_they_are_the_whole_one(self, folder):
        text = "lowest slow low é, the lowest\n".encode()
        wanted = toy.tokenizer(folder, model_of(260)).encode(text)
        as_two_files(folder)
        assert torch.equal(toy.tokenizer(folder, model_of(260)).encode(text), wanted)

    def test_the_end_of_a_text_is_one_token(self, folder):
        as_two_files(folder)
        vocabulary = json.loads((folder / "vocab.json").read_text())
        (folder / "vocab.json").write_text(json.dumps(vocabulary | {"<|endoftext|>": 260}))
        found = toy.tokenizer(folder, model_of(261))
        assert found.encode(b"low<|endoftext|>")[-1] == 260
        assert found.decode(torch.tensor([260])) == "<|endoftext|>"

    @pytest.mark.parametrize(
        ("name", "content", "said"),
        [
            ("added_tokens.json", {"<new>": 260}, "<new>"),
            ("tokenizer_config.json", {"added_tokens_decoder": {"260": {"content": "<s>"}}}, "<s>"),
            ("tokenizer_config.json", {"add_bos_token": True}, "add_bos_token"),
        ],
    )
    def test_what_they_do_not_say_is_refused(self, folder, name, content, said):
        as_two_files(folder)
        (folder / name).write_text(json.dumps(content))
        with pytest.raises(PerakitError, match=f"has '{said}' beside vocab.json: save it with"):
            toy.tokenizer(folder, model_of(300))

    def test_a_space_before_the_text(self, folder):
        as_two_files(folder)
        (folder / "tokenizer_config.json").write_text('{"add_prefix_space": true}')
        found = toy.tokenizer(folder, model_of(260))
        assert found.decode(found.encode(b"low")) == " low"


class TestEveryByteCounts:
    def test_a_text_that_is_cut_inside_a_character(self, folder):
        found = toy.tokenizer(folder, model_of(260))
        text = "low é €low".encode()
        for start in range(len(text)):
            for end in range(start, len(text) + 1):
                ids = found.encode(text[start:end])
                raw = b"".join(token_bytes(folder, int(token)) for token in ids)
                assert raw == text[start:end]
        # A whole text is what tokenizers makes of it
        assert found.decode(found.encode(text)) == text.decode()

    def test_no_replacement_character_is_made_up(self, folder):
        found = toy.tokenizer(folder, model_of(260))
        latin, replaced = found.encode(b"caf\xe9 low"), found.encode("caf\ufffd low".encode())
        assert not torch.equal(latin, replaced)
        assert torch.equal(found.encode("\ufffd".encode())[:1], found.encode(b"\xef"))

    def test_a_tokenizer_of_characters_refuses_broken_ones(self, folder):
        tokenizers = pytest.importorskip("tokenizers")
        words = tokenizers.models.WordLevel({"[UNK]": 0, "text": 1, "low": 2}, "[UNK]")
        tokenizers.Tokenizer(words).save(str(folder / "tokenizer.json"))
        found = toy.tokenizer(folder, model_of(3))
        assert found.encode(b"low").tolist() == [2]
        with pytest.raises(
            PerakitError, match=r"the text is not UTF-8 at byte 1, and the tokenizer of '.*' reads"
        ):
            found.encode(b"a\xe9")

    @pytest.mark.parametrize("space", [False, True])
    def test_a_letter_that_the_alphabet_lacks(self, folder, space):
        spec = json.loads((folder / "tokenizer.json").read_text())
        spec["pre_tokenizer"]["add_prefix_space"] = space
        for letter in ("Z", "Ã"):
            spec["model"]["vocab"].pop(letter)
        (folder / "tokenizer.json").write_text(json.dumps(spec))
        found = toy.tokenizer(folder, model_of(260))
        assert found.decode(found.encode(b"low")).strip() == "low"
        for text, byte in ((b"Zoo", "0x5a"), ("é".encode(), "0xc3")):
            with pytest.raises(
                PerakitError,
                match=rf"the tokenizer of '.*' has no token for the bytes {byte}: pass",
            ):
                found.encode(text)

    def test_a_character_that_the_alphabet_lacks(self, folder):
        from tokenizers import Tokenizer, models, pre_tokenizers

        letters = Tokenizer(models.BPE({"A": 0, "C": 1, "G": 2, "T": 3, "AC": 4}, [("A", "C")]))
        letters.pre_tokenizer = pre_tokenizers.Whitespace()
        letters.save(str(folder / "tokenizer.json"))
        found = toy.tokenizer(folder, model_of(5))
        assert found.encode(b"GAC T").tolist() == [2, 4, 3]
        with pytest.raises(
            PerakitError, match=r"the tokenizer of '.*' has no token for 'X', 'é': "
        ):
            found.encode("GéAXC".encode())

    def test_no_token_at_all(self, folder):
        from tokenizers import Tokenizer, models

        Tokenizer(models.BPE()).save(str(folder / "tokenizer.json"))
        with pytest.raises(
            PerakitError, match=r"the tokenizer of '.*' has no token: copy it again"
        ):
            toy.tokenizer(folder, model_of(5))

    def test_a_tokenizer_that_says_to_cut_texts(self, folder):
        from tokenizers import Tokenizer

        cutting = Tokenizer.from_file(str(folder / "tokenizer.json"))
        wanted = cutting.encode("low lowest " * 9).ids
        cutting.enable_truncation(3)
        cutting.enable_padding(length=90)
        cutting.save(str(folder / "tokenizer.json"))
        assert toy.tokenizer(folder, model_of(260)).encode(b"low lowest " * 9).tolist() == wanted


def token_bytes(folder, token):
    """The bytes of one token, by GPT-2's table of letters, written down in its own way."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in printable]
    table = {chr(byte): byte for byte in printable}
    table |= {chr(256 + n): byte for n, byte in enumerate(rest)}
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    letters = next(text for text, number in vocabulary.items() if number == token)
    return bytes(table[letter] for letter in letters)


def test_ids_with_gaps(folder):
    spec = json.loads((folder / "tokenizer.json").read_text())
    spec["model"]["vocab"]["lowest!"] = 400
    (folder / "tokenizer.json").write_text(json.dumps(spec))
    with pytest.raises(PerakitError, match=r"the tokenizer of '.*' has 401 tokens, the model 400"):
        toy.tokenizer(folder, model_of(400))
    assert toy.tokenizer(folder, model_of(401)).vocab_size == 401


def test_a_hub_tokenizer_offline():
    pytest.importorskip("huggingface_hub")
    with pytest.raises(
        PerakitError, match="tokenizer 'gpt2' is not in the local cache and the hub cannot be"
    ):
        toy.tokenizer("gpt2", model_of(50257))


def test_tokenizers_missing(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(
        PerakitError,
        match=r"the tokenizer of '.*' needs the package tokenizers: pip install 'perakit\[hf\]'",
    ):
        toy.tokenizer(tmp_path, model_of(300))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere/at/all", "tokenizer 'nowhere/at/all' is no folder, and no name that the hub"),
        ("a\0b", "is no folder, and no name that the hub"),
        (None, "is a path, a str or a Path, not None"),
    ],
)
def test_a_tokenizer_of_nothing(source, message):
    pytest.importorskip("huggingface_hub")
    with pytest.raises(PerakitError, match=message):
        toy.tokenizer(source, model_of(300))
