"""The one-page GPT-2 against transformers' own."""

import dataclasses
import json

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from perakit import PerakitError, toy
from perakit.toy.gpt2 import FIXED

SHAPES = [
    {"vocab_size": 61, "n_positions": 19, "n_embd": 12, "n_layer": 3, "n_head": 3},
    {"vocab_size": 256, "n_positions": 32, "n_embd": 20, "n_layer": 2, "n_head": 5, "n_inner": 13},
    {
        "vocab_size": 7,
        "n_positions": 5,
        "n_embd": 4,
        "n_layer": 1,
        "n_head": 1,
        "layer_norm_epsilon": 1e-2,
    },
]


def shaken(model, seed=0):
    """The model with every parameter, biases and norms too, off its initial value."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model.eval()


def theirs(shape):
    transformers = pytest.importorskip("transformers")
    return shaken(transformers.GPT2LMHeadModel(transformers.GPT2Config(**shape)))


def some_ids(shape, batch=2, seed=1):
    time = shape["n_positions"]
    return torch.randint(
        shape["vocab_size"], (batch, time), generator=torch.Generator().manual_seed(seed)
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_state_dict_keys_and_shapes_are_transformers(shape):
    ours, other = toy.GPT2(toy.Config(**shape)).state_dict(), theirs(shape).state_dict()
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in other.items()}
    assert list(ours) == list(other)


@pytest.mark.parametrize("shape", SHAPES)
def test_their_checkpoint_gives_our_logits(shape, tmp_path):
    other = theirs(shape)
    other.save_pretrained(tmp_path)
    ours, ids = toy.load(tmp_path), some_ids(shape)
    assert ours.config == toy.Config(**shape)
    with torch.no_grad():
        torch.testing.assert_close(ours(ids), other(ids).logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_our_checkpoint_gives_their_logits(shape, tmp_path):
    transformers = pytest.importorskip("transformers")
    ours, ids = shaken(toy.GPT2(toy.Config(**shape))), some_ids(shape)
    (tmp_path / "config.json").write_text(json.dumps(ours.config.to_dict()))
    state = {name: tensor for name, tensor in ours.state_dict().items() if name != "lm_head.weight"}
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with torch.no_grad():
        other = transformers.GPT2LMHeadModel.from_pretrained(tmp_path).eval()(ids).logits
        torch.testing.assert_close(other, ours(ids), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_loss_and_gradients_are_transformers(shape):
    other = theirs(shape).double()
    ours = toy.GPT2(toy.Config(**shape)).double()
    ours.load_state_dict(other.state_dict())
    ids = some_ids(shape)
    loss = F.cross_entropy(ours(ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    expected = other(ids, labels=ids).loss
    # They take the loss in float32
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0, check_dtype=False)
    loss.backward()
    expected.backward()
    wanted = {name: p.grad for name, p in other.named_parameters()}
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(
            parameter.grad,
            wanted[name],
            rtol=1e-5,
            atol=1e-6,
            msg=lambda text, name=name: f"{name}: {text}",
        )


def test_a_token_sees_only_what_stands_before_it():
    model, ids = shaken(toy.GPT2(toy.Config(**SHAPES[0]))), some_ids(SHAPES[0], batch=1)
    with torch.no_grad():
        before = model(ids)
        for changed in (0, 7, 18):
            other = ids.clone()
            other[0, changed] = (other[0, changed] + 1) % 61
            after = model(other)
            torch.testing.assert_close(
                after[:, :changed], before[:, :changed], rtol=1e-5, atol=1e-6
            )
            assert not torch.allclose(after[:, changed:], before[:, changed:], atol=1e-3)
            # And all that follow see it
            assert (after[0, changed:] != before[0, changed:]).any(-1).all()


def test_a_start_of_the_text_gives_the_same_logits():
    model, ids = shaken(toy.GPT2(toy.Config(**SHAPES[1]))), some_ids(SHAPES[1])
    with torch.no_grad():
        torch.testing.assert_close(model(ids)[:, :11], model(ids[:, :11]), rtol=1e-5, atol=1e-5)


def test_the_head_is_the_embedding():
    model = toy.GPT2(toy.Config())
    assert model.lm_head.weight is model.transformer.wte.weight
    assert (
        sum(p.numel() for p in model.parameters())
        == (256 + 256) * 128 + 4 * (12 * 128**2 + 13 * 128) + 2 * 128
    )


def test_initial_weights():
    torch.manual_seed(0)
    state = toy.GPT2(toy.Config(n_embd=64, n_layer=8)).state_dict()
    std = {
        key: state[key].std().item() for key in ("transformer.wte.weight", "transformer.wpe.weight")
    }
    std |= {
        key: state[f"transformer.h.0.{key}.weight"].std().item()
        for key in ("attn.c_attn", "mlp.c_fc", "attn.c_proj", "mlp.c_proj")
    }
    residual = 0.02 / 16**0.5
    wanted = {key: residual if "c_proj" in key else 0.02 for key in std}
    assert std == pytest.approx(wanted, rel=0.05)


def test_more_tokens_than_positions():
    with pytest.raises(
        PerakitError, match=r"20 tokens exceed this model's context of 19: pass fewer tokens"
    ):
        toy.GPT2(toy.Config(**SHAPES[0]))(torch.zeros(1, 20, dtype=torch.long))


class TestGenerate:
    model = shaken(toy.GPT2(toy.Config(**SHAPES[0])))
    ids = some_ids(SHAPES[0])[:, :4]

    def test_the_seed_fixes_the_draw_and_touches_no_global_one(self):
        state = torch.get_rng_state()
        first, again, other = (self.model.generate(self.ids, 40, seed=seed) for seed in (3, 3, 4))
        assert torch.equal(first, again)
        assert not torch.equal(first, other)
        assert torch.equal(torch.get_rng_state(), state)

    def test_shape_and_prompt(self):
        out = self.model.generate(self.ids, 40)  # longer than the context of 19
        assert out.shape == (2, 44)
        assert torch.equal(out[:, :4], self.ids)
        assert torch.equal(self.model.generate(self.ids, 0), self.ids)
        assert not out.requires_grad

    def test_temperature_zero_takes_the_likeliest(self):
        out = self.model.generate(self.ids, 30, temperature=0, seed=5)
        for end in range(4, 34):
            with torch.no_grad():
                likeliest = self.model(out[:, max(0, end - 19) : end])[:, -1].argmax(-1)
            assert torch.equal(out[:, end], likeliest)
        assert torch.equal(out, self.model.generate(self.ids, 30, temperature=0, seed=6))

    def test_low_temperature_comes_close_to_it(self):
        greedy = self.model.generate(self.ids, 10, temperature=0)
        assert torch.equal(self.model.generate(self.ids, 10, temperature=1e-4), greedy)

    def test_draws_follow_the_probabilities(self):
        prompt = self.ids[:1].repeat(4000, 1)
        drawn = self.model.generate(prompt, 1, temperature=0.7)[:, -1]
        with torch.no_grad():
            expected = (self.model(self.ids[:1])[0, -1] / 0.7).softmax(-1)
        share = torch.bincount(drawn, minlength=61) / 4000
        # Four standard deviations of the widest
        assert (share - expected).abs().max() < 4 * (0.25 / 4000) ** 0.5

    @pytest.mark.parametrize("temperature", [-1.0, float("nan")])
    def test_a_temperature_below_zero_is_refused(self, temperature):
        with pytest.raises(PerakitError, match="temperature"):
            self.model.generate(self.ids, 1, temperature=temperature)

    def test_an_empty_prompt_is_refused(self):
        with pytest.raises(PerakitError, match="prompt"):
            self.model.generate(self.ids[:, :0], 1)


@pytest.mark.parametrize("name", ["vocab_size", "n_positions", "n_embd", "n_layer", "n_head"])
@pytest.mark.parametrize("value", [0, -1, 2.0, True, "4", None, float("nan")])
def test_sizes_must_be_positive_integers(name, value):
    with pytest.raises(PerakitError, match=rf"GPT-2 {name}={value!r} must be an integer >= 1"):
        toy.Config(**{name: value})
    with pytest.raises(PerakitError, match=f"GPT-2 {name}="):
        toy.Config.from_dict(toy.Config().to_dict() | {name: value})


@pytest.mark.parametrize("value", [0, -1, 2.0, True, "4"])
def test_n_inner_must_be_null_or_a_positive_integer(value):
    with pytest.raises(PerakitError, match=rf"GPT-2 n_inner={value!r} must be an integer >= 1"):
        toy.Config(n_inner=value)


@pytest.mark.parametrize("value", [-1e-5, float("nan"), "1e-5", None, 10**400])
def test_the_epsilon_must_be_a_positive_number(value):
    with pytest.raises(PerakitError, match="layer_norm_epsilon"):
        toy.Config(layer_norm_epsilon=value)


def test_heads_must_divide_the_width():
    with pytest.raises(PerakitError, match=r"GPT-2 n_embd=10 must be a multiple of n_head=4"):
        toy.Config(n_embd=10, n_head=4)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model_type", "llama"),
        ("activation_function", "relu"),
        ("activation_function", "gelu"),
        ("scale_attn_weights", False),
        ("scale_attn_by_inverse_layer_idx", True),
        ("add_cross_attention", True),
    ],
)
def test_a_setting_that_changes_the_function_is_refused(name, value):
    with pytest.raises(
        PerakitError,
        match=(
            rf"config.json has {name}={value!r}; this GPT-2 implements only {FIXED[name]!r}: load"
            r" the model"
        ),
    ):
        toy.Config.from_dict(toy.Config().to_dict() | {name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("quantization_config", {"load_in_8bit": True}),
        ("pruned_heads", {"0": [1]}),
        ("auto_map", {"AutoModel": "modeling.Mine"}),
    ],
)
def test_a_setting_of_another_kind_of_model_is_refused(name, value):
    with pytest.raises(
        PerakitError,
        match=rf"config.json has {name}=.*; this GPT-2 implements none: load the model with",
    ):
        toy.Config.from_dict(toy.Config().to_dict() | {name: value})
    for none in (None, {}):
        assert toy.Config.from_dict(toy.Config().to_dict() | {name: none}) == toy.Config()


def test_a_size_under_both_of_its_names():
    fields = toy.Config().to_dict()
    assert toy.Config.from_dict(fields | {"hidden_size": 128}) == toy.Config()
    with pytest.raises(
        PerakitError, match="has n_embd=128 and hidden_size=64, which are one setting: correct it"
    ):
        toy.Config.from_dict(fields | {"hidden_size": 64})


@pytest.mark.parametrize("value", [None, "yes", 1, [False]])
def test_tied_or_not_is_true_or_false(value):
    with pytest.raises(PerakitError, match=r"GPT-2 tie_word_embeddings=.* must be true or false"):
        toy.Config.from_dict(toy.Config().to_dict() | {"tie_word_embeddings": value})


def test_a_head_of_its_own():
    shape = {"n_embd": 8, "n_layer": 1, "n_head": 2}
    torch.manual_seed(0)
    model = toy.GPT2(toy.Config(**shape, tie_word_embeddings=False))
    drawn = torch.rand(1)
    assert model.lm_head.weight is not model.transformer.wte.weight
    assert model.lm_head.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert "tie_word_embeddings=False" in repr(model.config)
    torch.manual_seed(0)
    tied = toy.GPT2(toy.Config(**shape))
    # What is drawn after a tied model is what it always was, and its config reads as it did
    assert torch.equal(tied.transformer.wpe.weight, model.transformer.wpe.weight)
    assert not torch.equal(torch.rand(1), drawn)
    assert repr(tied.config) == (
        "Config(vocab_size=256, n_positions=256, n_embd=8, n_layer=1, n_head=2, n_inner=None,"
        " layer_norm_epsilon=1e-05)"
    )


# Fields of transformers' GPT2Config that do nothing to the logits of a model in eval mode
INERT = {
    *("attn_pdrop", "embd_pdrop", "resid_pdrop", "summary_first_dropout"),  # dropout
    *("summary_activation", "summary_proj_to_labels", "summary_type", "summary_use_proj"),  # heads
    *("id2label", "label2id", "problem_type", "architectures"),
    *("bos_token_id", "eos_token_id", "pad_token_id", "use_cache"),  # generation
    *("output_attentions", "output_hidden_states", "return_dict"),  # what else is returned
    "initializer_range",  # the start of the weights
    "reorder_and_upcast_attn",  # a rounding of half precision
    "chunk_size_feed_forward",  # one product or several
    *("dtype", "transformers_version", "_name_or_path", "is_encoder_decoder"),
}


def test_every_setting_of_transformers_is_decided():
    transformers = pytest.importorskip("transformers")
    theirs = transformers.GPT2Config().to_dict()
    assert {name: theirs[name] for name in FIXED} == FIXED
    ours = {f.name for f in dataclasses.fields(toy.Config)}
    assert theirs.keys() - ours - FIXED.keys() - INERT == set()
    assert theirs["tie_word_embeddings"] is toy.Config().tie_word_embeddings


def test_config_there_and_back():
    config = toy.Config(vocab_size=61, n_inner=13, n_embd=24, layer_norm_epsilon=1e-6)
    assert toy.Config.from_dict(config.to_dict() | {"resid_pdrop": 0.1, "n_ctx": 7}) == config
