"""A training step as a CUDA graph: recorded once, then one launch where there were hundreds.

A small model's step is mostly the time that Python takes to launch it. Recorded are the forward
pass, the backward pass and the clipping. The optimiser stays outside: it makes few launches, and so
a loss that is not finite stops the run before it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch
from torch import Tensor, nn

Work = Callable[[], tuple[Tensor, ...]]
Again = Callable[[], object]

LEAST = 20  # steps that are worth it: to record is the work of about four
WARM_UP = 3  # before a recording, as torch's notes on CUDA graphs ask


def on_cuda(
    work: Work, clear: Callable[[], None], device: torch.device
) -> tuple[Again, tuple[Tensor, ...]]:
    """`work` recorded: what runs it again, and the tensors in which its results then are.

    clear: drops the gradients, so that the recorded backward pass writes and does not add. Source:
    docs.pytorch.org/docs/stable/notes/cuda.html, "Whole-network capture".
    """
    with torch.cuda.device(device):
        aside, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(WARM_UP):
                clear()
                work()
        torch.cuda.current_stream().wait_stream(aside)
        clear()
        with torch.cuda.graph(graph):
            results = work()
    return graph.replay, results


RECORDERS = {"cuda": on_cuda}  # by type of device; elsewhere a step runs as it stands


class Captured:
    """work(x, y), recorded at the second call: it writes gradients and returns tensors.

    clear: drops the gradients; model: what work runs; steps: calls to come, of which few are not
    worth it. The first call runs as it stands, and so do all where it draws random numbers, since a
    recording would not draw those of the step's seed, where it writes buffers, or where a hook of
    the model waits for a call. What cannot be recorded runs as it stands too, after a sentence on
    stderr.
    """

    def __init__(
        self,
        work: Callable[[Tensor, Tensor], tuple[Tensor, ...]],
        clear: Callable[[], None],
        model: nn.Module,
        device: torch.device,
        steps: int,
    ) -> None:
        self.work, self.clear, self.model, self.device = work, clear, model, device
        self.places: tuple[Tensor, ...] = ()  # where a recording reads x and y
        pays = device.type in RECORDERS and steps >= LEAST and not _hooked(model)
        self.call = self._first if pays else self._plain

    def __call__(self, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        """What `work` returns."""
        return self.call(x, y)

    def _first(self, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        before = self._state()
        results = self._plain(x, y)
        self.call = self._second if self._state() == before else self._plain
        return results

    def _second(self, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        self.places = x.clone(), y.clone()
        record = RECORDERS[self.device.type]
        try:
            recorded = record(lambda: self.work(*self.places), self.clear, self.device)
        except RuntimeError as error:  # torch's and CUDA's, out of memory among them
            first = str(error).strip().partition("\n")[0]
            print(f"perakit: the steps run without a CUDA graph: {first}", file=sys.stderr)
            self.call = self._plain
        else:
            (self.again, self.results), self.call = recorded, self._replay
        return self.call(x, y)

    def _replay(self, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        for place, new in zip(self.places, (x, y), strict=True):
            place.copy_(new)
        self.again()
        return self.results

    def _plain(self, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        self.clear()
        return self.work(x, y)

    def _state(self) -> tuple[object, ...]:
        """Of the generators that a step may draw from, and how often each buffer was written."""
        state = [torch.get_rng_state()]
        if self.device.type == "cuda":
            state.append(torch.cuda.get_rng_state(self.device))
        written = [buffer._version for buffer in self.model.buffers()]
        return *(part.numpy().tobytes() for part in state), written


def _hooked(model: nn.Module) -> bool:
    return any(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        for module in model.modules()
    )
