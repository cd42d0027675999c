"""Notebook 09: merging, precision and 4-bit."""

from __future__ import annotations

from typing import Any

import torch

import perakit as pk
from perakit import formulas
from perakit.classroom.checks import expect
from perakit.classroom.exercises.answers import number, several, whole
from perakit.models import nf4
from perakit.models.adapted import adapted_layers

LAYER = "transformer.h.0.mlp.c_fc"  # of the tiny model, for exercise 3
SERVED, SIDE, RANK = 30, 768, 8  # adapters, layer and rank of exercise 4


def smallest_moves(answer: Any) -> None:
    """The largest k for which 1 + 2^-k, and for which 1 - 2^-k, is not 1 in bfloat16."""
    one = torch.tensor(1.0, dtype=torch.bfloat16)
    for value, sign, name in zip(
        several(answer, "k upwards", "k downwards"), (1, -1), ("Upwards", "Downwards"), strict=True
    ):
        k = whole(value, f"k {name.lower()}")
        expect(bool(one + sign * 2.0**-k != one), f"{name}: 2^-k does not move the 1.")
        expect(bool(one + sign * 2.0 ** -(k + 1) == one), f"{name}: half of 2^-k moves it, too.")


def becomes_zero(answer: Any) -> None:
    """The ends of the interval of w / absmax that NF4 rounds to 0."""
    names = ("the lower end", "the upper end")
    low, high = (
        number(value, name) for value, name in zip(several(answer, *names), names, strict=True)
    )
    expect(low < 0 < high, "One end lies below 0 and the other above.")
    levels = nf4.levels()
    zero = int((levels == 0).nonzero()[0])
    for value, level, name in ((low, zero - 1, names[0]), (high, zero + 1, names[1])):
        border = levels[level].item() / 2
        expect(
            abs(value) < 1.5 * abs(border),
            f"{name.capitalize()}: this weight is nearer to the next level than to 0.",
        )
        expect(abs(value - border) < 2e-4, f"{name.capitalize()} is not right.")


def wrong_base(answer: Any) -> None:
    """How many times more the wrong base changes the output than taking the adapter away."""
    model = pk.toy.load("tiny")
    original = model.get_parameter(f"{LAYER}.weight").detach().T.double()
    pk.attach(model, pk.PERA(rank=4), [LAYER], quantize="nf4")
    pk.strategies.move(model, seed=0, size=0.02)
    rounded = adapted_layers(model)[LAYER].W0.double()
    delta = pk.delta_weights(model)[LAYER].double()
    ratio = ((rounded - original).norm() / delta.norm()).item()
    value = number(answer)
    expect(value > 0, "A ratio of two distances is positive.")
    expect((value > 1) == (ratio > 1), "The other one of the two changes the output more.")
    expect(
        abs(value / ratio - 1) < 0.15,
        "Not within 15 % of it: divide ‖(b) − (a)‖ by ‖(c) − (a)‖, over many random inputs.",
    )


def memory_of_thirty(answer: Any) -> None:
    """Numbers in thirty merged matrices, and in one base with thirty sets of B, A, h."""
    names = ("merged", "factored")
    right = (
        SERVED * SIDE**2,
        SIDE**2 + SERVED * formulas.parameter_count(SIDE, SIDE, RANK, "pera"),
    )
    for value, expected, name in zip(several(answer, *names), right, names, strict=True):
        expect(whole(value, name) == expected, f"The count {name} is not right.")


CHECKS = {1: smallest_moves, 2: becomes_zero, 3: wrong_base, 4: memory_of_thirty}
