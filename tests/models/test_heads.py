"""What trains beside an adapter is saved, loaded, exported and read by PEFT, or refused by name."""

import json

import pytest
import torch
from torch import nn

import perakit as pk

transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

pytestmark = pytest.mark.filterwarnings(
    # PEFT 0.21 asks transformers 5.2x for a name that is old there
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
)

TARGETS = {"bert": ["query", "value"], "gpt2": ["c_attn"]}
HEADS = {"bert": "classifier", "gpt2": "score"}


def classifier(family):
    """A tiny one of transformers, the same at each call."""
    torch.manual_seed(0)
    if family == "bert":
        config = transformers.BertConfig(
            vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
            intermediate_size=24, max_position_embeddings=12, num_labels=3,
        )  # fmt: skip
        return transformers.BertForSequenceClassification(config).eval()
    config = transformers.GPT2Config(
        vocab_size=50, n_positions=12, n_embd=16, n_layer=2, n_head=2, num_labels=3,
        pad_token_id=0, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0,
    )  # fmt: skip
    return transformers.GPT2ForSequenceClassification(config).eval()


@pytest.fixture
def ids():
    return torch.randint(1, 50, (5, 7), generator=torch.Generator().manual_seed(1))


def trained(family, ids, train=None, method=None):
    """Five steps on a task that the head has to learn too."""
    model = classifier(family)
    method = method or pk.PERA(rank=2)
    pk.attach(model, method, TARGETS[family], train=[HEADS[family]] if train is None else train)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.05)
    labels = torch.tensor([0, 1, 2, 0, 1])
    for _ in range(5):
        optimizer.zero_grad()
        model(ids, labels=labels).loss.backward()
        optimizer.step()
    return model


def close(one, other):
    assert (one - other).norm() <= 1e-5 * other.norm()


@pytest.mark.parametrize("family", TARGETS)
def test_a_head_is_saved_loaded_exported_and_read_by_peft(family, ids, tmp_path):
    model = trained(family, ids)
    with torch.no_grad():
        logits, base = model(ids).logits, classifier(family)(ids).logits
        assert (logits - base).norm() > 0.5 * base.norm()
        pk.save(model, tmp_path / "adapter")
        loaded = classifier(family)
        report = pk.load(loaded, tmp_path / "adapter")
        assert torch.equal(loaded(ids).logits, logits)
        assert [place for place, _ in report.trained] == [HEADS[family]]
        # The base is as it was, and the head of it too
        with pk.disabled(loaded):
            assert torch.equal(loaded(ids).logits, base)
        exported = pk.export_peft(model, tmp_path / "peft")
        assert exported.trained == [HEADS[family]]
        theirs = peft.PeftModel.from_pretrained(classifier(family), tmp_path / "peft").eval()
        close(theirs(ids).logits, logits)
        back = classifier(family)
        pk.import_peft(back, tmp_path / "peft")
        close(back(ids).logits, logits)
        pk.detach(back)
        assert torch.equal(back(ids).logits, base)
        pk.bake(model)
        close(model(ids).logits, logits)
        assert type(getattr(model, HEADS[family])) is nn.Linear


@pytest.mark.parametrize("family", TARGETS)
def test_peft_s_own_head_is_read(family, ids, tmp_path):
    config = peft.LoraConfig(
        task_type="SEQ_CLS", r=2, target_modules=TARGETS[family], fan_in_fan_out=family == "gpt2"
    )
    theirs = peft.get_peft_model(classifier(family), config)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in theirs.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.3)
        theirs.save_pretrained(tmp_path)
        mine = classifier(family)
        report = pk.import_peft(mine, tmp_path)
        close(mine(ids).logits, theirs.eval()(ids).logits)
    assert HEADS[family] in dict(report.trained)


def test_what_trains_beside_the_adapter_and_is_not_in_it_is_refused_by_name(ids, tmp_path):
    model = classifier("bert")
    pk.attach(model, pk.LoRA(rank=2), ["query"])
    model.classifier.requires_grad_(True)
    for doing, write in (("save", pk.save), ("export", pk.export_peft)):
        with pytest.raises(
            pk.PerakitError,
            match=rf"cannot {doing} the adapter: 'classifier.weight', 'classifier.bias' require"
            r" grad .* pass train=\['classifier'\] to pk.attach, or requires_grad_\(False\)",
        ):
            write(model, tmp_path / doing)
        assert not (tmp_path / doing).exists()
    model.classifier.requires_grad_(False)
    pk.save(model, tmp_path / "adapter")


def test_resized_embeddings_and_a_norm(ids, tmp_path):
    def resized():
        torch.manual_seed(0)
        config = transformers.GPT2Config(
            vocab_size=50, n_positions=12, n_embd=16, n_layer=2, n_head=2
        )
        model = transformers.GPT2LMHeadModel(config).eval()
        model.resize_token_embeddings(53, mean_resizing=False)
        return model

    model = resized()
    with pytest.raises(pk.PerakitError, match=r"shared with 'lm_head', .* pass both in train"):
        pk.attach(model, pk.LoRA(rank=2), ["c_attn"], train=["wte"])
    with pytest.raises(pk.PerakitError, match=r"shared with 'transformer.wte'"):
        pk.attach(model, pk.LoRA(rank=2), ["c_attn"], train=["lm_head"])
    pk.attach(model, pk.LoRA(rank=2), ["c_attn"], train=["wte", "lm_head", "ln_f"])
    assert model.lm_head.weight is model.transformer.wte.weight  # the copies are tied as well
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
        logits = model(ids).logits
        pk.save(model, tmp_path)
        other = resized()
        pk.load(other, tmp_path)
        assert torch.equal(other(ids).logits, logits)
        assert other.lm_head.weight is other.transformer.wte.weight
        pk.detach(other)
        assert torch.equal(other(ids).logits, resized()(ids).logits)


def test_each_adapter_has_a_head_of_its_own(ids, tmp_path):
    model = classifier("bert")
    base = model(ids).logits
    seen = {}
    for name in ("law", "art"):
        pk.attach(model, pk.LoRA(rank=2), ["query"], name=name, train="classifier")
        with torch.no_grad():
            model.classifier.weight.normal_()
        seen[name] = model(ids).logits
    pk.attach(model, pk.LoRA(rank=2), ["query"], name="bare")
    assert torch.equal(model(ids).logits, base)  # no head of its own: the base's
    for name, logits in seen.items():
        pk.activate(model, name)
        assert torch.equal(model(ids).logits, logits)
        assert model.classifier.adapters[name].weight.requires_grad
        assert not model.classifier.base.weight.requires_grad
    with pytest.raises(pk.PerakitError, match="'law' and 'art' both train 'classifier' in full"):
        pk.activate(model, "law", "art")
    pk.activate(model, "law", "bare")
    assert torch.equal(model(ids).logits, seen["law"])
    pk.delete(model, "law")
    pk.activate(model, "art")
    assert torch.equal(model(ids).logits, seen["art"])
    pk.delete(model, "art")
    pk.delete(model, "bare")
    assert type(model.classifier) is nn.Linear
    assert torch.equal(model(ids).logits, base)


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (["clasifier"], r"train='clasifier' names no module .* nearest: classifier"),
        ([3], "train=3 names no module"),
        (["dropout"], "a Dropout, in full: it has no parameters"),
        (["bert.encoder.layer"], "a container that is never called"),
        (["query"], "is to train in full and to carry an adapter"),
        (["bert.pooler", "bert.pooler.dense"], "part of another module of train"),
    ],
)
def test_what_cannot_train_in_full(train, message):
    model = classifier("bert")
    before = {name: (id(p), p.requires_grad) for name, p in model.named_parameters()}
    with pytest.raises(pk.PerakitError, match=message):
        pk.attach(model, pk.LoRA(rank=2), ["query"], train=train)
    assert before == {name: (id(p), p.requires_grad) for name, p in model.named_parameters()}


def test_all_linear_leaves_out_what_trains():
    model = classifier("bert")
    report = pk.attach(model, pk.LoRA(rank=2), "all-linear", train=["pooler", "classifier"])
    assert not any("pooler" in row[0] for row in report.rows)
    assert dict(report.trained) == {"bert.pooler": 16 * 17, "classifier": 3 * 17}
    assert "classifier: trains in full, 51 parameters" in str(report)
    assert report.trainable == sum(p.numel() for p in model.parameters() if p.requires_grad)


def test_a_file_that_trains_another_module_is_refused(ids, tmp_path):
    pk.save(trained("bert", ids), tmp_path)
    model = classifier("bert")
    model.classifier = nn.Linear(16, 2)
    with pytest.raises(
        pk.PerakitError, match=r"'classifier.bias' is \[2\], in the file \[3\]. Load it onto"
    ):
        pk.load(model, tmp_path)
    del model.classifier
    with pytest.raises(pk.PerakitError, match="trains 'classifier' in full, which the model lacks"):
        pk.load(model, tmp_path)
    bare = classifier("bert")
    pk.attach(bare, pk.PERA(rank=2), TARGETS["bert"])
    with pytest.raises(pk.PerakitError, match="'classifier' trains in full in the file only"):
        pk.load(bare, tmp_path)


class Head(nn.Module):
    """What heads can have besides a weight."""

    def __init__(self):
        super().__init__()
        self.out, self.scale = nn.Linear(4, 2), 1.0
        self.norm = nn.BatchNorm1d(4)
        self.index = nn.Parameter(torch.arange(3), requires_grad=False)
        self.register_buffer("ones", torch.ones(1).expand(4))  # one number at four places

    def forward(self, x):
        return self.out(self.norm(x)) * self.scale


def with_head(head):
    torch.manual_seed(0)
    model = nn.Sequential()
    model.body, model.head = nn.Linear(4, 4), head
    return model


def headed(head=None, name="a"):
    model = with_head(head or nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)))
    pk.attach(model, pk.LoRA(rank=1), ["body"], name=name, train=["head"])
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_()
    return model


INSIDE = {
    "quantize": lambda m: pk.quantize(m, ["head.0"]),
    "attach": lambda m: pk.attach(m, pk.LoRA(rank=1), ["head.0"], name="b"),
    "train": lambda m: pk.attach(m, pk.LoRA(rank=1), ["body"], name="b", train=["head.1"]),
}


@pytest.mark.parametrize("door", INSIDE)
def test_a_part_of_a_head_is_left_alone(door):
    model = headed()
    with pytest.raises(pk.PerakitError, match=r"'head.[01]' is a part of 'head', which an adapter"):
        INSIDE[door](model)
    report = pk.attach(model, pk.LoRA(rank=1), "all-linear", name="b")
    assert [row[0] for row in report.rows] == ["body"]
    # Which has no copy of the head: the base's answers, and the report says so
    assert [(one.place, one.modules) for one in report.left] == [("head.*", 2)]
    with pytest.raises(pk.PerakitError, match="trains in full with an adapter, and can carry none"):
        pk.attach(headed(nn.Linear(4, 2)), pk.LoRA(rank=1), ["head"], name="b")


def test_a_head_with_buffers_integers_and_settings(tmp_path):
    model, x = headed(Head()), torch.randn(8, 4)
    model.train()(x)  # moves the running mean of the copy, not of the base
    model.head.scale = 3.0  # set and read on the module that answers
    model.eval()
    assert model.head.chosen.scale == 3.0
    assert model.head.base.scale == 1.0
    assert not model.head.base.norm.running_mean.any()
    y = model(x)
    pk.save(model, tmp_path, name="a")
    other = with_head(Head()).eval()
    pk.load(other, tmp_path)
    other.head.scale = 3.0
    assert torch.equal(other(x), y)
    pk.bake(model)
    assert model.head.scale == 3.0
    torch.testing.assert_close(model(x), y)


def test_a_head_is_used_as_what_it_is():
    model = headed()
    assert len(model.head) == 2
    assert [type(part) for part in model.head] == [nn.Linear, nn.Linear]
    assert model.head[1] is model.head.chosen[1]
    assert bool(headed(nn.Linear(4, 2)).head)
    model.head.extra = nn.Identity()
    assert model.head.chosen.extra is model.head.extra
    with pytest.raises(TypeError):
        len(headed(nn.Linear(4, 2)).head)


class Stateful(nn.Linear):
    def get_extra_state(self):
        return torch.ones(1)

    def set_extra_state(self, state):
        pass


def hooked():
    head = nn.Linear(4, 2)
    head.register_forward_hook(lambda *_: None)
    return head


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (lambda: nn.ModuleDict({"base": nn.Linear(4, 2)}), "a part called base or adapters"),
        (hooked, "it has hooks, which a copy would not have"),
        (lambda: nn.Linear(4, 2, device="meta"), "is on the meta device and has no numbers"),
    ],
)
def test_heads_that_are_refused(head, message):
    model = with_head(head())
    with pytest.raises(pk.PerakitError, match=message):
        pk.attach(model, pk.LoRA(rank=1), ["body"], train=["head"])


def test_what_a_file_cannot_hold_of_a_head_is_refused(tmp_path):
    with pytest.raises(pk.PerakitError, match="its '_extra_state' is no parameter and no buffer"):
        pk.save(headed(Stateful(4, 2)), tmp_path)
    model = headed()
    with torch.no_grad():
        model.head[1].weight[0, 0] = torch.nan
    for doing, write in (("export", lambda: pk.export_peft(model, tmp_path)), ("bake", None)):
        with pytest.raises(
            pk.PerakitError, match=rf"cannot {doing} 'head', .* NaN or inf in its 1"
        ):
            write() if write else pk.bake(model)
    assert not (tmp_path / "adapter_config.json").exists()


def test_a_head_at_two_places(tmp_path):
    def twice():
        torch.manual_seed(0)
        model = nn.Sequential()
        model.body, model.a = nn.Linear(4, 4), nn.Linear(4, 4)
        model.b = model.a
        return model

    for name in ("a", "b"):  # either name means it
        model = twice()
        pk.attach(model, pk.LoRA(rank=1), ["body"], train=[name])
        assert model.a is model.b
        with pytest.raises(pk.PerakitError, match="'a', which trains in full, stands at several"):
            pk.export_peft(model, tmp_path)


@pytest.mark.parametrize("train", [None, (), []])
def test_nothing_trains_by_default(train):
    assert (
        pk.attach(with_head(nn.Linear(4, 2)), pk.LoRA(rank=1), ["body"], train=train).trained == []
    )
    with pytest.raises(pk.PerakitError, match="is no name: pass a list of names, as in train="):
        pk.attach(with_head(nn.Linear(4, 2)), pk.LoRA(rank=1), ["body"], train=nn.Linear(1, 1))


def test_a_module_that_somebody_took_out_does_not_stop_detach():
    model = headed()
    model.head = nn.Linear(4, 2)
    pk.detach(model)
    assert type(model.body) is nn.Linear


def test_parts_of_a_head_keep_their_modes():
    head = nn.Sequential(nn.Dropout(), nn.Linear(3, 2))
    model = nn.ModuleDict({"body": nn.Linear(3, 3), "head": head})
    head[0].eval()
    pk.attach(model, pk.LoRA(rank=1), ["body"], train=["head"])
    for one in (head, model["head"].adapters["default"]):
        assert [part.training for part in one] == [False, True]
    model.eval()
    assert not model["head"].adapters["default"][1].training
    pk.detach(model)
    assert model["head"] is head
    assert not head[1].training


def test_tied_copies_take_no_two_answers(tmp_path):
    def tied():
        model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3), nn.Linear(4, 3))
        model[2].weight = model[1].weight
        return model

    model = tied()
    pk.attach(model, pk.LoRA(rank=1), ["0"], train=["1", "2"])
    pk.export_peft(model, tmp_path)
    from safetensors.torch import load_file, save_file

    tensors = load_file(tmp_path / "adapter_model.safetensors")
    pk.import_peft(tied(), tmp_path)
    tensors["base_model.model.2.weight"] += 1
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    with pytest.raises(pk.PerakitError, match=r"'1.weight' shares its numbers with another"):
        pk.import_peft(tied(), tmp_path)


def test_without_heads_the_format_is_that_of_version_1(tmp_path):
    model = nn.Sequential(nn.Linear(4, 4))
    pk.attach(model, pk.LoRA(rank=1), ["0"])
    pk.save(model, tmp_path)
    assert json.loads((tmp_path / "adapter.json").read_text())["version"] == 1
