"""The last expansion of each adapter that answers without gradients, to be found again.

Generating text asks the same layer for the same factors again and again. They are kept beside a
copy of what they were made of, and compared by value at each use, since a parameter can be written
in ways that leave no trace (`p.data.copy_`): r (m + n) numbers are read where K (m + n) would be
written.
"""

from __future__ import annotations

from collections.abc import Sequence
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from perakit.adapters.base import Adapter
from perakit.fast.product import recorded
from perakit.fast.sources import Factors, Given, Source

# A weak key: what is kept goes with its adapter, and a copy or a pickle of that has nothing kept.
last: WeakKeyDictionary[Adapter, tuple[Source, tuple[Tensor, ...], Factors]] = WeakKeyDictionary()


def factors(adapter: Adapter, source: Source, parameters: Sequence[Tensor]) -> Factors:
    """The factors of these parameters, made again only if anything is different.

    An adapter in training mode keeps nothing; on a GPU nothing is kept, since to compare would be
    to wait; nor under torch.compile, whose graph a comparison would break.
    """
    if isinstance(source, Given) or parameters[0].device.type != "cpu" or recorded():
        return source.value(*parameters)
    if adapter.training:
        last.pop(adapter, None)
        return source.value(*parameters)
    # Read once and written whole: another thread may ask meanwhile.
    found = last.get(adapter)
    if found is None or found[0] != source or not all(map(_same, found[1], parameters)):
        copies = tuple(parameter.detach().clone() for parameter in parameters)
        found = last[adapter] = source, copies, source.value(*copies)
    return found[2]


def _same(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one, other)
