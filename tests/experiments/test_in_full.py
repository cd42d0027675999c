"""Which parameters of a model train where no adapter does."""

import pytest
import torch
from torch import nn

from perakit.errors import PerakitError
from perakit.experiments.in_full import own, unfreeze
from perakit.toy.gpt2 import GPT2, Config

CONFIG = Config(n_embd=8, n_layer=3, n_head=2)


def trained(model):
    return [name for name, p in model.named_parameters() if p.requires_grad]


def test_everything_counts_a_tied_head_once():
    model = GPT2(CONFIG)
    unfreeze(model, "everything")
    found = own(model, "everything")
    assert len(found) == len({id(p) for p in found}) == len(model.state_dict()) - 1  # the head
    assert "transformer.wte.weight" in trained(model)
    assert model.lm_head.weight is model.transformer.wte.weight


def test_biases_are_those_of_linear_layers_and_of_norms():
    model = GPT2(CONFIG)
    unfreeze(model, "biases")
    block = ["ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj"]
    names = [f"transformer.h.{k}.{name}.bias" for k in range(3) for name in block]
    assert trained(model) == [*names, "transformer.ln_f.bias"]


def test_the_last_block_is_without_the_norm_after_it():
    model = GPT2(CONFIG)
    unfreeze(model, "last block")
    found = trained(model)
    assert len(found) == len(list(model.transformer.h[2].parameters())) == 12
    assert all(name.startswith("transformer.h.2.") for name in found)


def test_blocks_are_the_largest_list_of_modules():
    """Not a list of experts inside a block, nor a short list beside them, nor an empty one."""

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.experts = nn.ModuleList(nn.Linear(4, 4) for _ in range(8))

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(Block() for _ in range(2))
            self.heads = nn.ModuleList([nn.Linear(4, 4)])
            self.none = nn.ModuleList()

    model = Model()
    unfreeze(model, "last block")
    assert {name.rsplit(".", 3)[0] for name in trained(model)} == {"layers.1"}


class Bare(nn.Module):
    """A parameter that is neither weight nor bias, and a list of blocks without one."""

    def __init__(self):
        super().__init__()
        self.token = nn.Parameter(torch.zeros(3))
        self.blocks = nn.ModuleList()


@pytest.mark.parametrize("part", ["biases", "last block"])
def test_a_model_without_such_a_part_is_refused(part):
    with pytest.raises(PerakitError, match=f"Bare has no {part} to train: choose everything or "):
        unfreeze(Bare(), part)
    unfreeze(Bare(), "everything")


def test_what_was_frozen_trains_again_and_what_trained_is_frozen():
    model = GPT2(CONFIG).requires_grad_(False)
    unfreeze(model, "biases")
    unfreeze(model, "everything")
    assert all(p.requires_grad for p in model.parameters())
    unfreeze(model, "biases")
    assert 0 < len(trained(model)) < len(list(model.parameters()))


@pytest.mark.parametrize("part", ["all", "", None, ["biases"], 3])
def test_another_part_is_refused(part):
    with pytest.raises(
        PerakitError, match=r"is no part of a model: choose everything, biases, last block"
    ):
        unfreeze(GPT2(CONFIG), part)


def test_a_llama_has_no_bias():
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 2}
    config = transformers.LlamaConfig(
        vocab_size=16, num_hidden_layers=2, num_key_value_heads=2, **sizes
    )
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(config)
    with pytest.raises(
        PerakitError,
        match=r"LlamaForCausalLM has no biases to train: choose everything or last block",
    ):
        unfreeze(model, "biases")
    assert all(p.requires_grad for p in model.parameters())  # a refusal changes nothing
    unfreeze(model, "last block")
    assert trained(model)
    assert all(name.startswith("model.layers.1.") for name in trained(model))
