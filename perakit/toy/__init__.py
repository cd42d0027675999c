"""A laboratory for small experiments: GPT-2 in a page, text from your disk, a training loop."""

from perakit.toy import corpus, finetune
from perakit.toy.gpt2 import GPT2, Config
from perakit.toy.pretrained import load, tokenizer
from perakit.toy.training import Recipe, Run, bits_per_byte, train

__all__ = [
    "GPT2",
    "Config",
    "Recipe",
    "Run",
    "bits_per_byte",
    "corpus",
    "finetune",
    "load",
    "tokenizer",
    "train",
]
