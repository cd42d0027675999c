"""What a GPU waits for, measured on a CPU: layers so small that a step is Python and calls."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from perakit.bench.contenders import Contender, installed
from perakit.bench.timing import Step

SIZE, TOKENS, RANKS = 64, 8, (8, 32, 64)
STEPS = 400  # of each contender, over all visits; each is timed by itself
PAIRS = (
    ("lora", "plain lora"),
    ("pera", "plain lora"),
    ("pera plain", "plain lora"),
    ("peft r", "plain lora"),
    ("authors", "plain lora"),
    ("pera", "authors"),
)


def pairs() -> list[list[Contender]]:
    """The two of each cell: a model has one kind of adapter, and a third's code empties caches."""
    return [
        [Contender(name, rank) for name in pair]
        for rank in RANKS
        for pair in PAIRS
        if installed(pair) == list(pair)
    ]


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread within the block: a product of 64 columns is not worth a second one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def operations(step: Step) -> int:
    """How many of torch's operations that are no views a step makes: on a GPU, its launches.

    step: one that has run before, so that what is kept from step to step is there.
    """
    step.reset()
    # Where a mode watches, perakit takes nothing that was kept, and makes it again: this mode
    # changes nothing and is not to be seen.
    seen = torch._C._len_torch_dispatch_stack
    torch._C._len_torch_dispatch_stack = lambda: 0
    try:
        with _Counted() as counted:
            step.run()
    finally:
        torch._C._len_torch_dispatch_stack = seen
    return counted.count


class _Counted(TorchDispatchMode):
    """Counts the operations that autograd leaves, forward and backward, but for views."""

    count = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.count += not function.is_view
        return function(*args, **(kwargs or {}))
