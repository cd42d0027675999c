"""The ways people train: a plain loop and transformers' Trainer on a real GPT2LMHeadModel, compile,
autocast, checkpointing.
"""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

import perakit as pk
from perakit import toy
from perakit.adapters import Method

transformers = pytest.importorskip("transformers")

METHODS = sorted(
    name for name, method in Method.registry.items() if method.__module__.startswith("perakit.")
)
BASES = (None, "nf4")
TARGETS = ["c_attn", "mlp.c_proj"]
CASES = [(method, base) for method in METHODS for base in BASES]
# In transformers 5.2x; before, and until v6 with a warning, gradient_checkpointing
RENAMED = "activation_checkpointing"
CHECKPOINTING = (
    RENAMED
    if RENAMED in transformers.TrainingArguments.__dataclass_fields__
    else "gradient_checkpointing"
)
IDS = [f"{method}-{base or 'full'}" for method, base in CASES]
cases = pytest.mark.parametrize(("method", "base"), CASES, ids=IDS)


def texts(count=16, length=12):
    """Rows that a model can learn: each counts up from its first token."""
    starts = torch.randint(0, 20, (count, 1), generator=torch.Generator().manual_seed(0))
    return starts + torch.arange(length)


def make(method="pera", base=None, moved=True):
    """transformers' GPT-2, very small, with adapters of rank 2 that are off their start."""
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=32,
        n_positions=16,
        n_embd=20,
        n_layer=2,
        n_head=2,
        attn_pdrop=0,
        embd_pdrop=0,
        resid_pdrop=0,
        initializer_range=0.1,
    )
    model = transformers.GPT2LMHeadModel(config)
    pk.attach(model, Method.registry[method](rank=2), TARGETS, quantize=base)
    if moved:
        with torch.no_grad():
            for parameter in trainable(model).values():
                parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def trainable(model):
    return {
        name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad
    }


def copied(tensors):
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def frozen(model):
    """Every tensor of the model that is not an adapter's: W0, in 4 bits or not, and all the
    rest.
    """
    return {name: tensor for name, tensor in model.state_dict().items() if ".adapters." not in name}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def plain_loop(model, batches, lr=0.02):
    """The loss of each step."""
    optimizer, losses = torch.optim.AdamW(trainable(model).values(), lr=lr, weight_decay=0.0), []
    model.train()
    for batch in batches:
        loss = model(input_ids=batch, labels=batch).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trainable(model).values(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    return losses


def trainer(model, folder, steps=12, **options):
    """transformers' Trainer with the plain loop's settings; the batches that it chose, and their
    losses.
    """
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=4,
        learning_rate=0.02,
        lr_scheduler_type="constant",
        weight_decay=0.0,
        max_grad_norm=1.0,
        optim="adamw_torch",
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        **options,
    )
    batches = []

    def see(_, args, kwargs):
        batches.append(kwargs["input_ids"].clone())

    handle = model.register_forward_pre_hook(see, with_kwargs=True)
    # Trainer divides by the number of labels; the first of a row has no prediction, so it is to be
    # no label.
    rows = [
        {"input_ids": row, "labels": torch.cat([torch.tensor([-100]), row[1:]])} for row in texts()
    ]
    train = transformers.Trainer(model=model, args=arguments, train_dataset=rows)
    train.train()
    handle.remove()
    return batches, [row["loss"] for row in train.state.log_history if "loss" in row]


class TestTraining:
    @cases
    def test_a_plain_loop_learns_and_moves_adapters_only(self, method, base):
        model = make(method, base, moved=False)
        before, start = copied(frozen(model)), copied(trainable(model))
        losses = plain_loop(model, [texts()] * 12)
        assert losses[-1] < losses[0] - 0.02
        assert same(frozen(model), before)
        assert all(".adapters." in name for name in start)
        assert not any(
            torch.equal(parameter, start[name])
            for name, parameter in trainable(model).items()
            if parameter.numel()
        )

    @cases
    def test_trainer_does_what_the_plain_loop_does(self, method, base, tmp_path, capsys):
        model, other = make(method, base), make(method, base)
        before = copied(frozen(model))
        batches, losses = trainer(model, tmp_path)
        assert len(batches) == 12
        assert losses == pytest.approx(plain_loop(other, batches), abs=1e-4)
        assert same(frozen(model), before)
        for name, parameter in trainable(other).items():
            torch.testing.assert_close(trainable(model)[name], parameter, rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize(("method", "base"), [("pera", None), ("lora", "nf4")])
    def test_what_trainer_trained_is_saved_and_loaded_bitwise(self, method, base, tmp_path, capsys):
        model = make(method, base)
        trainer(model, tmp_path / "trainer", steps=3)
        pk.save(model, tmp_path / "adapter")
        fresh = make(method, base)
        pk.detach(fresh)
        pk.load(fresh, tmp_path / "adapter")
        assert same(trainable(fresh), trainable(model))
        fresh.eval()
        model.eval()
        with torch.no_grad():
            assert torch.equal(fresh(texts()).logits, model(texts()).logits)

    def test_trainer_with_gradient_checkpointing(self, tmp_path, capsys):
        model, other = make(), make()
        _, losses = trainer(model, tmp_path / "a", **{CHECKPOINTING: True})
        _, expected = trainer(other, tmp_path / "b")
        assert losses == pytest.approx(expected, abs=1e-6)


class TestSaving:
    def test_bake_then_save_pretrained_is_a_plain_model(self, tmp_path):
        model = make()
        plain_loop(model, [texts()] * 3)
        model.eval()
        with torch.no_grad():
            expected = model(texts()).logits
            pk.bake(model)
            model.save_pretrained(tmp_path)
            again = transformers.GPT2LMHeadModel.from_pretrained(tmp_path).eval()
            torch.testing.assert_close(again(texts()).logits, expected, rtol=1e-5, atol=1e-5)

    def test_a_state_dict_holds_base_and_adapters_and_loads_bitwise(self):
        model, other = make(), make()
        plain_loop(model, [texts()] * 3)
        other.load_state_dict(model.state_dict())
        assert same(other.state_dict(), model.state_dict())
        names = {name.split(".adapters.")[1] for name in model.state_dict() if ".adapters." in name}
        assert names == {"default.A", "default.B", "default.h"}


def gradients(model, run):
    """Gradients of the adapters after one backward pass of `run(model)`."""
    model.zero_grad()
    run(model).backward()
    return {name: parameter.grad.clone() for name, parameter in trainable(model).items()}


def cost(model):
    return model(input_ids=texts(), labels=texts()).loss


class TestCompile:
    # Law 12 compiles a layer of each method; a whole model with PERA stands for the others here
    @pytest.mark.parametrize(
        ("method", "base"),
        [
            pytest.param(
                *case,
                marks=[] if case == ("pera", None) else pytest.mark.thorough,
            )
            for case in (*((name, None) for name in METHODS), ("lora", "nf4"), ("pera", "nf4"))
        ],
    )
    def test_the_whole_model_in_one_graph(self, method, base):
        torch.manual_seed(0)
        model = toy.GPT2(toy.Config(vocab_size=32, n_positions=16, n_embd=20, n_layer=1, n_head=2))
        pk.attach(model, Method.registry[method](rank=2), TARGETS, quantize=base)
        with torch.no_grad():
            for parameter in trainable(model).values():
                parameter.add_(0.05 * torch.randn_like(parameter))
        torch.compiler.reset()
        compiled = torch.compile(model, backend="aot_eager", fullgraph=True)

        def loss(forward):
            return F.cross_entropy(forward(texts()[:, :-1]).flatten(0, 1), texts()[:, 1:].flatten())

        with torch.no_grad():
            torch.testing.assert_close(compiled(texts()), model(texts()), rtol=1e-5, atol=1e-6)
        expected = gradients(model, loss)
        found = gradients(model, lambda _: loss(compiled))
        for name, gradient in expected.items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-7)


class TestAutocast:
    @cases
    def test_parameters_and_gradients_stay_float32(self, method, base):
        model = make(method, base)
        expected = gradients(model, cost)

        def autocast(model):
            with torch.autocast("cpu", torch.bfloat16):
                return cost(model)

        found = gradients(model, autocast)
        for name, gradient in found.items():
            assert trainable(model)[name].dtype == gradient.dtype == torch.float32
            assert gradient.isfinite().all()
        total = math.sqrt(sum(gradient.square().sum().item() for gradient in expected.values()))
        away = math.sqrt(
            sum(
                (found[name] - gradient).square().sum().item()
                for name, gradient in expected.items()
            )
        )
        # The house's tolerance of bf16; 0 would say that nothing was cast
        assert 0 < away < 4e-2 * total


class TestCheckpointing:
    @cases
    def test_the_models_own(self, method, base):
        model = make(method, base)
        model.train()
        expected = gradients(model, cost)
        getattr(model, f"{CHECKPOINTING}_enable")()
        seen = []
        handle = model.transformer.h[0].ln_1.register_forward_hook(lambda *_: seen.append(1))
        found = gradients(model, cost)
        handle.remove()
        assert len(seen) == 2  # forward, and again in backward
        assert same(found, expected)

    @cases
    def test_torchs_with_dropout(self, method, base):
        torch.manual_seed(0)
        model = toy.GPT2(toy.Config(vocab_size=32, n_positions=16, n_embd=20, n_layer=2, n_head=2))
        pk.attach(model, Method.registry[method](rank=2, dropout=0.3), TARGETS, quantize=base)
        model.train()

        def run(wrap):
            torch.manual_seed(1)
            x = model.transformer.wte(texts())
            for block in model.transformer.h:
                x = wrap(block, x)
            return model.lm_head(model.transformer.ln_f(x)).square().mean()

        expected = gradients(model, lambda _: run(lambda block, x: block(x)))
        found = gradients(
            model, lambda _: run(lambda block, x: checkpoint(block, x, use_reentrant=False))
        )
        assert same(found, expected)
        again = copy.deepcopy(model)  # what evaluation on a copy needs
        assert same(again.state_dict(), model.state_dict())
