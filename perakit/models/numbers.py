"""Whether the numbers of a tensor can be read here, and the memory in which they lie.

A tensor has a shape and a dtype whether or not there is anything behind them: on the meta device
there is nothing, a shard holds a part, and a class of its own may keep codes for numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

GATHER = (
    "gather the parameters first (FSDP.summon_full_params(model, writeback=True),"
    " deepspeed.zero.GatheredParameters)"
)

_tensor, _parameter = cast(Any, Tensor), cast(Any, nn.Parameter)
TORCHS_OWN = (_tensor.__torch_function__.__func__, _parameter.__torch_function__)


def missing(tensor: Tensor, shape: Sequence[int] | None = None) -> str:
    """Why the numbers of `tensor` cannot be read here, as the rest of a sentence; "" if they can.

    shape: what the tensor must have, where the caller knows; None takes it at its word.

    >>> missing(torch.zeros(2, device="meta"))
    'is on the meta device and has no numbers: load the model first'
    >>> missing(torch.zeros(2))
    ''
    """
    if isinstance(tensor, UninitializedParameter | UninitializedBuffer):
        return "has no shape yet: pass one batch through the model first"
    if tensor.is_meta:
        return "is on the meta device and has no numbers: load the model first"
    if torch._subclasses.fake_tensor.is_fake(tensor):
        return "is a fake tensor and has no numbers: do it outside of FakeTensorMode"
    if is_sharded(tensor):
        mesh = tensor.device_mesh  # type: ignore[attr-defined]
        return (
            f"is a DTensor over {mesh.size()} process{'es' * (mesh.size() != 1)}, of which each"
            " holds a part: do it before fully_shard, or save the adapter and load it onto a model"
            " that is not sharded"
        )
    # ZeRO-3 takes the numbers away and notes how many there were
    whole = int(getattr(tensor, "ds_numel", tensor.numel()))
    if is_freed(tensor) or tensor.numel() < whole:
        return f"has its storage freed (an FSDP or DeepSpeed shard): {GATHER}"
    if shape is not None and tuple(tensor.shape) != tuple(shape):
        return (
            f"has shape {tuple(tensor.shape)} where {tuple(shape)} belongs (an FSDP or DeepSpeed"
            f" shard?): {GATHER}"
        )
    return ""


def is_plain(tensor: Tensor) -> bool:
    """Does torch itself compute with it, not a class of its own that says what operations do?"""
    kind: Any = type(tensor)
    own = getattr(kind.__torch_function__, "__func__", kind.__torch_function__)
    return kind.__torch_dispatch__ is Tensor.__torch_dispatch__ and own in TORCHS_OWN


def is_sharded(tensor: Tensor) -> bool:
    """Is it a DTensor, of which this process holds a part: a class that can gather itself?"""
    return callable(getattr(type(tensor), "full_tensor", None))


def is_freed(tensor: Tensor) -> bool:
    """Has its memory been given back, though its shape says that it has numbers?"""
    kept = is_plain(tensor) and tensor.layout == torch.strided and not tensor.is_meta
    return bool(kept and tensor.numel() and not tensor.untyped_storage().nbytes())


def gathered(tensor: Tensor) -> Tensor:
    """All of a DTensor, gathered from its processes, each of which has to ask; others as they are.

    Other classes give the plain tensor that they stand for, where they can (`dequantize`).
    """
    if is_sharded(tensor):
        full: Tensor = tensor.full_tensor()  # type: ignore[attr-defined]
        return full
    if not is_plain(tensor) and can_dequantize(tensor):
        return tensor.dequantize().to(tensor.dtype)
    return tensor


def can_dequantize(tensor: Tensor) -> bool:
    """Does its class say which plain tensor it stands for?"""
    return type(tensor).dequantize is not Tensor.dequantize


Span = tuple[str, int, int]  # device, first byte, byte after the last


def spans(tensor: Tensor) -> Iterator[Span]:
    """Where the bytes of a tensor are; one that has none of its own is its own place.

    A class that wraps other tensors is where those are.
    """
    if torch.utils._python_dispatch.is_traceable_wrapper_subclass(tensor):
        for name in tensor.__tensor_flatten__()[0]:
            part = getattr(tensor, name)
            if isinstance(part, Tensor):
                yield from spans(part)
    if missing(tensor) or not is_plain(tensor) or not _has_bytes(tensor):
        yield "none", id(tensor), id(tensor) + 1
        return
    last = sum(
        (size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True)
    )
    start = tensor.data_ptr()
    yield str(tensor.device), start, start + (last + 1) * tensor.element_size()


def _has_bytes(tensor: Tensor) -> bool:
    return bool(tensor.layout == torch.strided and tensor.numel() and tensor.data_ptr())
