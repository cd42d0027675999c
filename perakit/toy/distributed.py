"""Several processes that train one model, asked in one place.

It asks torch's own process group and DistributedDataParallel. Without a process group every
function here does its work in the one process and adds nothing to it. Within one, an error of one
process is raised by all, so that none waits for ever and one message is enough.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from perakit.errors import PerakitError

T = TypeVar("T")
# Buffers are the same in all processes, as `agree` has seen: not to be sent again at every step.
# Torch 2.13 renamed the option.
_OPTIONS = inspect.signature(DistributedDataParallel).parameters
NOT_AGAIN: dict[str, Any] = {
    "forward_sync_buffers" if "forward_sync_buffers" in _OPTIONS else "broadcast_buffers": False
}
LAUNCHED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # what torchrun tells its processes


@contextmanager
def process_group(device: str = "cpu") -> Iterator[str]:
    """Within the block, the processes that torchrun started are one group.

    Where it started none, nothing changes. Yields the device of this process.

    device: "cpu", or "cuda" for one GPU a process (cuda:LOCAL_RANK): gloo carries CPU tensors, NCCL
    those on GPUs.
    At the end the processes wait for each other and the group is destroyed; after an exception it
    is destroyed at once.
    Raises PerakitError where the group cannot be made.
    """
    if not all(os.environ.get(name) for name in LAUNCHED):
        yield device
        return
    cuda = device == "cuda" and torch.cuda.is_available()
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo")
    except (ValueError, RuntimeError) as error:
        found = ", ".join(f"{name}={os.environ[name]!r}" for name in LAUNCHED)
        raise PerakitError(
            f"no process group from {found} ({error}): start the processes with torchrun"
        ) from error
    try:
        yield _own_gpu() if cuda else device
        # Torchrun ends all processes as soon as one has failed: first each says what it has to say
        together(lambda: None)
    except KeyboardInterrupt:
        if rank() == 0:
            raise
        raise SystemExit(130) from None  # one message is enough
    finally:
        dist.destroy_process_group()


def _own_gpu() -> str:
    local, count = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if local < count:
        torch.cuda.set_device(local)
    # One that is not there is refused with the other checks of a run, in all processes
    return f"cuda:{local}"


def size() -> int:
    """Processes that work together; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Number of this process, 0 ... size-1; process 0 alone writes and prints."""
    return dist.get_rank() if size() > 1 else 0


def together(work: Callable[[], T]) -> T:
    """Do `work` in every process; an error in one of them is raised in all.

    Its message is that of the first that failed.
    """
    if size() == 1:
        return work()
    results: list[T] = []
    failure: Exception | None = None
    try:
        results.append(work())
    except Exception as error:
        failure = error
    failed = torch.tensor(int(failure is not None))
    dist.all_reduce(failed, dist.ReduceOp.MAX)
    if failed:
        if failure is None or isinstance(failure, PerakitError):
            raise PerakitError(next(filter(None, _gather(failure and str(failure))))) from failure
        _gather(f"process {rank()} failed: {type(failure).__name__}: {failure}")
        raise failure
    return results[0]


def on_main(work: Callable[[], Any]) -> None:
    """Do `work` in process 0, while the others wait; its error is raised in all."""
    together(work if rank() == 0 else lambda: None)


def from_main(work: Callable[[], T]) -> T:
    """As `on_main`, but all processes return what `work` returns, which must be picklable."""
    if size() == 1:
        return work()
    found: list[Any] = [together(work if rank() == 0 else lambda: None)]
    dist.broadcast_object_list(found, device=torch.device("cpu"))
    return found[0]


def agree(what: str, value: Any) -> None:
    """Refuse, in all processes, a `value` (plain data) that is not the same in all.

    what: what it is, in words.
    """
    if size() == 1:
        return
    values = _gather(value)
    others = [str(number) for number, theirs in enumerate(values) if theirs != values[0]]
    if others:
        raise PerakitError(
            f"the processes disagree on {what}: process {', '.join(others)} has another than"
            " process 0; start all with the same command, files and versions"
        )


def mean(value: Tensor) -> Tensor:
    """The mean of `value` over the processes."""
    if size() == 1:
        return value
    total = value.clone()
    dist.all_reduce(total)
    return total / size()


def parallel(model: nn.Module) -> nn.Module:
    """`model` in torch's DistributedDataParallel: gradients are means over the processes."""
    return model if size() == 1 else DistributedDataParallel(model, **NOT_AGAIN)


def _gather(value: Any) -> list[Any]:
    """`value` of every process, in their order."""
    values: list[Any] = [None] * size()
    dist.all_gather_object(values, value)
    return values
