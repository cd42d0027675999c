"""A change of a model that is made whole or not at all, also under an interrupt."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import Tensor, nn

TABLES = ("_modules", "_parameters", "_buffers")


@contextmanager
def whole(model: nn.Module, written: Iterable[Tensor] = ()) -> Iterator[None]:
    """Within the block the model changes; an exception, also KeyboardInterrupt, undoes all of it.

    What is undone: which modules, parameters and buffers stand where, attributes of modules, which
    parameters require grad, and their gradients. Numbers are not copied: none may be written in
    place, but a tensor of `written` may be given other numbers by `tensor.data = ...`.
    """
    modules = [
        (module, vars(module).copy(), [vars(module)[table].copy() for table in TABLES])
        for module in model.modules()
    ]
    flags = [
        (parameter, parameter.requires_grad, parameter.grad) for parameter in model.parameters()
    ]
    numbers = [(tensor, tensor.data) for tensor in written]
    try:
        yield
    except BaseException:
        for module, attributes, tables in modules:
            vars(module).clear()
            vars(module).update(attributes)
            for table, before in zip(TABLES, tables, strict=True):
                # The same dictionary: others may hold it
                attributes[table].clear()
                attributes[table].update(before)
        for parameter, required, gradient in flags:
            parameter.requires_grad_(required)
            parameter.grad = gradient
        for tensor, data in numbers:
            tensor.data = data
        raise
