"""One run: paired starts, three texts that do not overlap, the same numbers again, and numbers that
mean what they say.
"""

import json
import shutil
from dataclasses import replace

import damage
import numpy as np
import pytest
import torch
from safetensors.torch import save_model
from torch import nn

from perakit import toy
from perakit.adapters import PERA, DoRA, HiRA, LoRA
from perakit.errors import PerakitError
from perakit.experiments import tuning
from perakit.experiments.arms import Options, arm, check
from perakit.experiments.jobs import Job
from perakit.experiments.tuning import adapted, amplification, before, pace, some, texts, tune
from perakit.models import adapters, attach, delta_weights
from perakit.models.adapted import adapted_layers
from perakit.models.attach import report

OPTIONS = Options(small=True, text="synthetic", old="synthetic:1")


def settings(method, role="judged", seed=0, **changes):
    return arm("x", method, **changes).job(OPTIONS, seed, 1e-2, role).settings


def test_the_same_seed_starts_from_the_same_factors_whatever_the_method():
    lora, pera = (adapters(adapted(settings(method))) for method in (LoRA(4), PERA(4)))
    assert all(torch.equal(lora[name].A, pera[name].A) for name in lora)


def test_another_rank_in_one_layer_changes_no_other_layers_start():
    plain = adapters(adapted(settings(PERA(8))))
    matched = adapters(adapted(settings(PERA(8), matched=True)))
    same = [name for name in plain if plain[name].A.shape == matched[name].A.shape]
    assert 0 < len(same) < len(plain)
    assert all(torch.equal(plain[name].A, matched[name].A) for name in same)


def test_another_seed_starts_elsewhere():
    first, second = (adapters(adapted(settings(LoRA(4), seed=seed))) for seed in (0, 1))
    assert not any(torch.equal(first[name].A, second[name].A) for name in first)


def test_training_validation_and_test_text_are_apart():
    found = texts("code", None, 200_000)
    assert found.train.heldout == found.validation
    assert len(found.validation) == pytest.approx(len(found.train.train) / 9, rel=0.01)
    parts = {"train": found.train.train, "validation": found.validation, "test": found.test}
    for one, other in (("validation", "train"), ("test", "train"), ("test", "validation")):
        windows = [parts[one][at : at + 128] for at in range(0, len(parts[one]) - 128, 128)]
        assert len(windows) > 100
        # licences, tables of constants
        assert sum(window in parts[other] for window in windows) <= 0.01 * len(windows)


def test_the_validation_text_is_of_every_text_that_is_joined():
    found = texts("synthetic+synthetic:1", None, 20_000)
    for name in ("synthetic", "synthetic:1"):
        own = toy.corpus.load(name, 10_000).train
        assert own[:9000] in found.train.train
        assert own[9000:] in found.validation


def test_a_part_of_a_text_is_drawn_from_all_of_it_and_lies_in_the_larger_part():
    text = b"".join((b"%03d" % k * 171)[:512] for k in range(200))  # each passage is one number
    small, large, other = some(text, 0.1, 0), some(text, 0.5, 0), some(text, 0.1, 1)
    assert len(small) == pytest.approx(len(text) / 10, rel=0.02)
    assert large.startswith(small)
    assert other != small
    places = [k for k in range(200) if b"%03d" % k * 50 in small]
    assert len(places) >= 20
    assert min(places) < 50 < 150 < max(places)
    assert some(text, 1.0, 0) == text


def test_the_same_settings_give_the_same_numbers():
    first, second = (tune(settings(PERA(3))) for _ in range(2))
    for once in (first, second):
        once.pop("seconds")
    assert first == second


@pytest.mark.parametrize("changes", [{}, {"train": "everything"}, {"train": "biases"}])
def test_an_interrupted_run_ends_as_one_that_was_not(tmp_path, monkeypatch, changes):
    asked = settings(PERA(3), **changes)
    asked["recipe"] |= {"checkpoint_every": 2}
    whole = tune(asked)

    class KillError(Exception):
        pass

    def die(*arguments, **options):
        def until(done):
            options["after_step"](done)
            if done == 5:
                raise KillError

        return train(*arguments, **options | {"after_step": until})

    train = tuning.train
    with monkeypatch.context() as patch:
        patch.setattr(tuning, "train", die)
        with pytest.raises(KillError):
            tune(asked, tmp_path)
    again = tune(asked, tmp_path)
    for once in (whole, again):
        once.pop("seconds")
    assert again == whole


@pytest.mark.thorough  # the order alone is seen in tests/toy/test_log.py
def test_a_kill_beside_a_checkpoint_loses_no_look(tmp_path, monkeypatch):
    """Every step is looked at, and every second is in a checkpoint: the look comes first."""
    from perakit.toy.log import Log

    class KillError(Exception):
        pass

    asked = settings(PERA(3))
    asked["recipe"] |= {"checkpoint_every": 2}
    whole, write = tune(asked), Log.checkpoint
    assert [done for done, _ in whole["shares"]] == list(range(1, 9))
    for last in (4, 8):

        def checkpoint(self, step, *more, last=last):
            write(self, step, *more)
            if step == last:
                raise KillError

        with monkeypatch.context() as patch:
            patch.setattr(Log, "checkpoint", checkpoint)
            with pytest.raises(KillError):
                tune(asked, tmp_path)
    again = tune(asked, tmp_path)
    for once in (whole, again):
        once.pop("seconds")
    assert again == whole


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A run that is done, and has not been taken into a ledger; and what it found."""
    folder, asked = tmp_path_factory.mktemp("stopped"), settings(PERA(2))
    return folder, asked, tune(asked, folder)


@pytest.mark.parametrize("name", ["metrics.jsonl", "shares.json"])
def test_what_a_run_has_seen_is_not_left_out_in_silence(stopped, tmp_path, name):
    folder, asked, found = stopped
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    assert tune(asked, tmp_path) == found
    (tmp_path / name).unlink()
    with pytest.raises(
        PerakitError, match=r"has lost a part of what was seen of its run: delete it to start again"
    ):
        tune(asked, tmp_path)


def test_shares_are_what_was_written(stopped, tmp_path):
    path = tmp_path / "shares.json"
    whole = (stopped[0] / "shares.json").read_bytes()
    path.write_bytes(whole)
    right = tuning._seen(path)
    assert [list(one) for one in right.items()] == stopped[2]["shares"]
    path.write_text(json.dumps(sorted(right.items())))  # as 0.1 wrote them
    assert tuning._seen(path) == right
    assert tuning._seen(tmp_path / "none") == {}
    junk = [*damage.JUNK.values(), b'[[1, "2"]]', b"[[1.5, 2]]", b"[3]", b'{"shares": 3}']
    for changed in [*damage.flipped(whole, every=3), *damage.cut(whole), *junk]:
        path.write_bytes(changed)
        found, said = damage.tried(lambda: tuning._seen(path))
        assert found in (None, right) or changed == junk[-1]
        assert said is None or said.endswith(": delete its folder to start again")
    for what in damage.ODD:
        damage.put_in_place(path, what)
        _, said = damage.tried(lambda: tuning._seen(path))
        assert said


def test_choosing_a_learning_rate_never_reads_the_test_text(monkeypatch):
    asked = settings(LoRA(2), role="tuning")
    found = tune(asked)
    assert found.keys() == {"trainable", "validation", "seconds", "loss"}
    whole = texts(asked["text"], asked["old"], asked["limit"])
    monkeypatch.setattr(tuning, "texts", lambda *_: replace(whole, test=None, old=None))
    assert tune(asked)["validation"] == found["validation"]
    with pytest.raises(TypeError):  # it would have been noticed
        tune(settings(LoRA(2)))


@pytest.mark.parametrize(
    ("method", "lr", "why"),
    [
        (PERA(4, feature_scale=1e30), 1e4, "gradient norm inf at step 1"),  # a gradient
        (PERA(4), 1e20, "is inf: every entry must be finite; after step 1"),  # an update
        (LoRA(4), 1e30, "loss nan"),  # a loss
    ],
)
def test_a_run_that_diverges_is_a_result_of_the_search_and_of_a_comparison(method, lr, why):
    searching, judging = (settings(method, role=role) for role in ("tuning", "judged"))
    for asked in (searching, judging):
        asked["recipe"] |= {"lr": lr}
    found = tune(searching)
    assert found.keys() == {"diverged", "validation"}
    judged = tune(judging)
    assert found["validation"] is judged["validation"] is judged["new"] is judged["old"] is None
    assert why in judged["diverged"]
    for one in (found, judged):
        assert one["diverged"].endswith(f": lower lr={lr:g}")


def test_a_judged_run_that_diverges_has_all_that_others_have():
    asked = settings(LoRA(2), interaction={"layer": "transformer.h.2.mlp.c_fc", "windows": 2})
    asked["interaction"] |= {"features": 2}
    lost = asked | {"recipe": asked["recipe"] | {"lr": 1e30}}
    whole, lost = tune(asked), tune(lost)
    assert lost.keys() - whole.keys() == {"diverged"}
    assert whole.keys() <= lost.keys()
    assert lost["trainable"] == whole["trainable"]


@pytest.mark.parametrize("text", ["new", "old"])
def test_a_cost_that_is_not_finite_is_a_run_that_diverged(monkeypatch, text):
    asked = settings(LoRA(2))
    found = texts(asked["text"], asked["old"], asked["limit"])
    lost = {"new": found.test, "old": found.old}[text]
    measure = tuning.bits_per_byte

    def cost(model, text, *more, **options):
        return float("inf") if text is lost else measure(model, text, *more, **options)

    monkeypatch.setattr(tuning, "bits_per_byte", cost)
    told = tune(asked)
    assert told["diverged"] == f"cost inf on the {text} text at the end: lower lr=0.01"
    assert told["validation"] is told["new"] is told["old"] is None


@pytest.mark.parametrize("train", ["everything", "biases", "last block"])
def test_the_model_itself_trains_in_place_of_an_adapter(train):
    asked = settings(LoRA(2), train=train)
    check([arm("x", LoRA(2), train=train)], OPTIONS)
    model = adapted(asked)
    own = [p for p in model.parameters() if p.requires_grad]
    assert adapters(model) == {}
    found = tune(asked | {"method": None})  # which nothing asks for
    assert found["trainable"] == sum(p.numel() for p in own)
    assert found["new"] != before(asked)["new"]
    assert found["share"] is found["amplification"] is found["amplification_random"] is None
    assert (found["shares"], found["share_by_inputs"]) == ([], {})


@pytest.mark.parametrize("train", ["everything", "biases", "last block"])
def test_a_part_that_trains_is_all_that_moves(monkeypatch, train):
    seen, run = [], tuning.train

    def watched(model, *more, **options):
        names = [name for name, p in model.named_parameters() if p.requires_grad]
        start = {name: p.detach().clone() for name, p in model.named_parameters()}
        done = run(model, *more, **options)
        moved = [name for name, p in model.named_parameters() if not torch.equal(p, start[name])]
        seen.append((names, moved))
        return done

    monkeypatch.setattr(tuning, "train", watched)
    tune(settings(LoRA(2), role="tuning", train=train))
    ((asked, moved),) = seen
    assert asked == moved


def test_what_trains_is_counted_as_attach_counts_it():
    for method in (LoRA(3), PERA(3), DoRA(2), HiRA(2)):
        model = adapted(settings(method))
        assert tune(settings(method, role="tuning"))["trainable"] == report(model).trainable


def test_a_part_that_the_model_does_not_have_is_refused_before_anything_runs():
    with pytest.raises(
        PerakitError, match=r"bare cannot run on 'tiny': train='the head' is no part of a model"
    ):
        check([arm("bare", LoRA(2), train="the head")], OPTIONS)


def test_nothing_of_a_part_is_in_settings_that_do_not_ask_for_it():
    assert "train" not in settings(LoRA(2))
    assert settings(LoRA(2), train="biases")["train"] == "biases"


def test_loras_share_is_zero_and_peras_is_what_order_share_says():
    lora, pera = (tune(settings(method)) for method in (LoRA(3), PERA(3)))
    assert lora["share"] == 0
    assert 0 < pera["share"] < 1
    assert pera["shares"][-1][1] == pera["share"]
    assert set(pera["share_by_inputs"]) == {"192", "768"}
    low, high = min(pera["share_by_inputs"].values()), max(pera["share_by_inputs"].values())
    assert low <= pera["share"] * 3
    assert pera["share"] <= high * 3


def test_it_is_judged_by_the_test_text_and_the_old_domains():
    """An adapter that has hardly moved costs what the model costs on held-out text, which is read
    here once more.
    """
    asked = settings(LoRA(2))
    asked["recipe"] |= {"lr": 1e-12}
    found, start = tune(asked), before(asked)
    model, windows = toy.load("tiny"), 4 * asked["recipe"]["eval_windows"]
    new, old = (
        toy.corpus.load(name, asked["limit"]).heldout for name in ("synthetic", "synthetic:1")
    )
    assert start["new"] == toy.bits_per_byte(model, new, asked["recipe"]["context"], windows)
    assert start["old"] == toy.bits_per_byte(model, old, asked["recipe"]["context"], windows // 2)
    assert (found["new"], found["old"]) == pytest.approx((start["new"], start["old"]), rel=1e-6)


def test_training_lowers_the_cost():
    asked = settings(LoRA(4))
    asked["recipe"] |= {"steps": 40, "eval_every": 40}
    start = before(asked)
    found = tune(asked)
    assert found["new"] < start["new"]
    assert start["old"] != start["new"]


def test_a_fraction_of_the_text_is_what_is_trained_on():
    whole, part = (
        tune(settings(LoRA(2), role="tuning", fraction=fraction)) for fraction in (1.0, 0.1)
    )
    assert whole["loss"] != part["loss"]


def test_amplification_against_a_loop():
    model = adapted(settings(LoRA(2), targets=["mlp.c_fc"]))
    for layer in adapted_layers(model).values():
        torch.nn.init.normal_(layer.adapter.B)
    found = []
    for layer in adapted_layers(model).values():
        delta, W0 = (
            x.detach().double().numpy() for x in (layer.adapter.B @ layer.adapter.A, layer.W0)
        )
        U, sigma, Vt = np.linalg.svd(delta)
        inside = sum((U[:, i] @ W0 @ Vt[j]) ** 2 for i in range(2) for j in range(2)) ** 0.5
        found.append(np.sqrt(sigma[0] ** 2 + sigma[1] ** 2) / inside)
    assert amplification(model)[0] == pytest.approx(np.mean(found), rel=1e-5)


def test_interaction_is_measured_where_it_is_asked_for():
    where = {"layer": "transformer.h.2.mlp.c_fc", "windows": 2, "features": 3}
    found = np.array(tune(settings(PERA(2), interaction=where))["interaction"])
    assert found.shape == (3, 3)
    assert (found >= 0).all()
    assert found.max() > 0


def test_pace_times_every_arm_in_every_round():
    arms = {
        "none": None,
        "LoRA": {"method": LoRA(2).to_dict()},
        "PERA": {"method": PERA(2).to_dict()},
    }
    found = pace(OPTIONS.settings() | {"arms": arms, "rounds": 2})
    assert set(found["inference"]) == set(arms)
    assert set(found["training"]) == {"LoRA", "PERA"}
    assert all(
        len(times) == 2 and min(times) > 0
        for kind in ("training", "inference")
        for times in found[kind].values()
    )
    layers = 16
    more = layers * 3 * 4 * 4  # h of rank 2, in float32, as parameter, gradient and two moments
    assert found["bytes"]["PERA"]["trained"] - found["bytes"]["LoRA"]["trained"] == more


def test_a_feature_scale_is_a_learning_rate_of_h():
    """With Adam, which moves a parameter by its rate whatever the size of its gradient."""
    scale, target = 7.0, torch.linspace(-1, 1, 35, dtype=torch.float64).reshape(5, 7)

    def trained(method, factor):
        torch.manual_seed(0)
        layer = nn.Sequential(nn.Linear(7, 5, dtype=torch.float64))
        attach(layer, method, "all-linear")
        (adapter,) = adapters(layer).values()
        W0 = torch.zeros(5, 7, dtype=torch.float64)
        groups = [{"params": [adapter.B, adapter.A]}, {"params": [adapter.h], "lr": 1e-2 * factor}]
        optimizer = torch.optim.Adam(groups, lr=1e-2, eps=1e-30)
        for _ in range(30):
            optimizer.zero_grad()
            (adapter.delta(W0) - target).square().sum().backward()
            optimizer.step()
        return adapter.delta(W0)

    assert torch.allclose(
        trained(PERA(2, feature_scale=scale), 1), trained(PERA(2), scale), rtol=1e-9, atol=1e-12
    )
    assert not torch.allclose(
        trained(PERA(2, feature_scale=scale), 1), trained(PERA(2), 1), rtol=1e-3
    )


def test_coefficients_that_do_not_start_at_zero_leave_the_update_at_zero():
    model = adapted(settings(PERA(3), h_std=0.5))
    found = list(adapters(model).values())
    assert all(adapter.h.std() > 0.1 for adapter in found)
    assert all(not delta.any() for delta in delta_weights(model).values())


def test_a_model_without_the_named_projection_is_refused_before_anything_runs():
    with pytest.raises(PerakitError, match=r"here cannot run on 'tiny': .*gate_proj"):
        check([arm("here", LoRA(2), targets=["gate_proj"])], OPTIONS)


def test_text_that_is_read_is_part_of_the_key():
    one, other = (
        Job("x", "judged", tune, Options(small=True, text=text, old=None).settings(), 1.0).data
        for text in ("synthetic", "synthetic:1")
    )
    assert one != other


def test_a_checkpoint_with_byte_pairs_of_its_own_is_one_option_away(tmp_path):
    """As GPT-2's weights would be: a folder, tokens of several bytes, costs a byte all the same."""
    tokenizers = pytest.importorskip("tokenizers")
    pairs = tokenizers.Tokenizer(tokenizers.models.BPE())
    pairs.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    pairs.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet)
    pairs.train_from_iterator([toy.corpus.load("synthetic", 20_000).train.decode()], trainer)
    pairs.save(str(tmp_path / "tokenizer.json"))
    model = toy.GPT2(toy.Config(vocab_size=300, n_embd=16, n_layer=1, n_head=2, n_positions=64))
    config = {"model_type": "gpt2", "vocab_size": 300, "n_positions": 64, "n_embd": 16}
    config |= {"n_layer": 1, "n_head": 2}
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_model(model, str(tmp_path / "model.safetensors"))

    options = replace(OPTIONS, model=str(tmp_path))
    job = arm("x", PERA(2)).job(options, 0, 1e-2, "judged")
    assert len(job.model) == 64
    found, start = tune(job.settings), before(options.settings())
    tokens = toy.tokenizer(tmp_path, toy.load(tmp_path))
    text = texts("synthetic", "synthetic:1", 200_000).test
    assert len(tokens.encode(text)) < len(text) / 1.2
    # A model that knows nothing: log2(300) bits a token, and less than one token a byte
    expected = np.log2(300) * len(tokens.encode(text)) / len(text)
    assert start["new"] == pytest.approx(expected, rel=0.02)
    assert found["new"] < start["new"]
    assert options.waking == 160
