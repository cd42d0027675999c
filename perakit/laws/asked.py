"""Which method is meant, where the laws are asked of a class."""

from __future__ import annotations

from typing import Any

from perakit.adapters import Adapter, Method
from perakit.errors import PerakitError, listed, short


def method_of(given: Any) -> Method:
    """The method given to the laws: itself, its class at rank 2, or that of an adapter's class."""
    if isinstance(given, Method):
        return given
    if isinstance(given, type) and issubclass(given, Adapter):
        given = _method_with(given)
    if not isinstance(given, type) or not issubclass(given, Method) or given is Method:
        raise PerakitError(
            f"method={short(given)} is not a method: pass one such as MyMethod(rank=2), or its"
            " class, or its adapter's"
        )
    try:
        return given(rank=2)
    except (TypeError, PerakitError) as error:
        raise PerakitError(
            f"{given.__name__}(rank=2) is refused ({error}): pass the method itself,"
            f" {given.__name__}(...)"
        ) from error


def _method_with(adapter: type[Adapter]) -> type[Method]:
    """The one registered method with this adapter from which no other such method derives."""
    makers = [cls for cls in Method.registry.values() if getattr(cls, "adapter", None) is adapter]
    last = [
        cls
        for cls in makers
        if not any(other is not cls and issubclass(other, cls) for other in makers)
    ]
    if not last:
        raise PerakitError(
            f"no method makes {adapter.__name__}: define one, class MyMethod(perakit.Method) with"
            f" adapter = {adapter.__name__}"
        )
    if len(last) > 1:
        names = listed([cls.__name__ for cls in last])
        raise PerakitError(
            f"{adapter.__name__} is the adapter of {names}: pass the method that is meant,"
            f" {last[0].__name__}(rank=2)"
        )
    return last[0]
