"""Law 7: what is saved comes back."""

from __future__ import annotations

import copy
import tempfile

from torch import nn

from perakit import models
from perakit.adapters import Method
from perakit.laws.cases import adapted, inputs
from perakit.laws.comparing import same_bits


def law_7_save_load(method: Method, layer: nn.Module, seed: int = 0) -> None:
    """Law 7: what save wrote, load puts on a bare model: same method, same bits, same output."""
    model, bare = adapted(method, layer, seed), nn.Sequential(copy.deepcopy(layer)).eval()
    x = inputs(layer, seed)
    with tempfile.TemporaryDirectory() as folder:
        models.save(model, folder)
        models.load(bare, folder)
    assert models.adapters(bare)["0"].method == method, "law 7: another method came back"
    for name, tensor in model.state_dict().items():
        same_bits(bare.state_dict()[name], tensor, f"law 7, save and load, {name}")
    same_bits(bare(x), model(x), "law 7, save and load")
