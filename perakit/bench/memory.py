"""What training one adapted layer holds, measured and predicted.

Bytes are counted from the tensors of a real step, and stand beside what a closed form predicts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import is_fake
from tqdm import tqdm

from perakit import formulas
from perakit.adapters import PERA, DeLoRA, DoRA, HiRA, LoHa, LoRA, Method, MoRA
from perakit.bench.contenders import BUILDERS, draw
from perakit.fast import plans, windows
from perakit.models import attach
from perakit.models.catalogue import Architecture

PLAIN = "plain lora"
METHODS = (PLAIN, *(method.name for method in (LoRA, PERA, DoRA, HiRA, MoRA, DeLoRA, LoHa)))
KINDS = ("parameters", "gradients", "optimizer", "saved")
WIDE = 4  # bytes of a float32, which adapters are in


@dataclass(frozen=True)
class Case:
    """One layer and its input: tokens T, weight (m, n), rank r; dtype: of the base and of x."""

    tokens: int
    m: int
    n: int
    rank: int
    dtype: torch.dtype = torch.float32

    @property
    def wide(self) -> bool:
        """Are base and x as precise as the adapter, so that nothing is copied to float32?"""
        return self.dtype == torch.float32


# --- predicted ------------------------------------------------------------------------------------


def inner(name: str, case: Case) -> int:
    """K, the columns of B̂: r, r(r+3)/2 (PERA), r̂ (MoRA), r² (LoHa); 0: ΔW is formed instead."""
    products = {
        "pera": formulas.rank_bound(case.rank),
        "mora": formulas.mora_size(case.m, case.n, case.rank),
        "loha": case.rank**2,
    }
    return (products | {"dora": 0, "hira": 0}).get(name, case.rank)


def kept(name: str, case: Case) -> int:
    """Bytes that a method keeps for its backward pass, besides x and z = x Âᵀ.

    With them autograd can go back from (B̂, Â), or from ΔW, to its parameters.

    LoRA at scale 1 keeps nothing, nor does PERA, which expands again. Others keep the factors
    K(m+n) where these are not the parameters themselves, or W0 + ΔW (m, n) where that is formed,
    and what it is made of.
    """
    m, n, r, K = case.m, case.n, case.rank, inner(name, case)
    # DeLoRA: squares of B and A in float64, lengths of rows and columns
    lengths = 8 * r * (m + n) + 48 * r + WIDE * (n + 1)
    return {
        PLAIN: 0,
        "pera": 0,
        "lora": 0,
        "mora": WIDE * K * (m + n) + 8 * m,  # and which row of M each row repeats
        "loha": WIDE * K * (m + n),
        "delora": WIDE * K * (m + n) + lengths,
        # W0 + ΔW and V = W0 + s B A; lengths of V's rows, and g over them
        "dora": WIDE * (2 * m * n + 2 * m),
        "hira": WIDE * m * n * (1 if case.wide else 2),  # W0 + ΔW; W0 in float32
    }[name]


def predicted(name: str, case: Case) -> dict[str, int]:
    """Bytes of each of KINDS for a method on one layer, with P parameters.

    They are 4 P, 4 P, 8 P + 4 a tensor (AdamW), and

        saved = T n (x) + 4 T K (z, where the plan makes it in the forward pass and needs it again)
        + `kept`, and where they are small 4 K (m + n + 1): PERA's features and their weights.
    """
    method = Method.registry["lora" if name == PLAIN else name](case.rank)
    shapes = method.shapes(case.m, case.n)
    count, K = method.count(case.m, case.n), inner(name, case)
    # Where autograd keeps what it multiplied, it keeps it in float32
    x, z = WIDE * case.tokens * case.n, WIDE * case.tokens * K
    if name != PLAIN and K:
        way = plans.way(case.tokens, case.m, case.n, K, fused=case.wide)
        lean, plan = way.lean and case.wide, way.plan
        # Where perakit multiplies by factors, x is kept in the base's dtype
        x = case.dtype.itemsize * case.tokens * case.n
        if lean and name == "mora":  # one of its factors is no parameter: autograd needs no x
            x = 0
        # PERA's z has K columns, or in windows up to 15 more
        gathered = lean or (way.keep and not way.lean)
        windowed = isinstance(method, PERA) and not gathered
        columns = windows.count(case.rank, "full") if windowed else K
        z = 0 if plan.output or plan.factors else WIDE * case.tokens * columns
        if isinstance(method, PERA) and gathered and way.keep:
            z += WIDE * K * (case.m + case.n + 1)
    return {
        "parameters": WIDE * count,
        "gradients": WIDE * count,
        "optimizer": 2 * WIDE * count + WIDE * len(shapes),
        "saved": x + z + kept(name, case),
    }


def of_model(architecture: Architecture, name: str, tokens: int, rank: int) -> dict[str, int]:
    """`predicted`, summed over a model's linear layers in float32; each sees `tokens` tokens."""
    layers = [predicted(name, Case(tokens, m, n, rank)) for _, m, n in architecture.layers]
    return {kind: sum(layer[kind] for layer in layers) for kind in KINDS}


# --- measured -------------------------------------------------------------------------------------


def build(name: str, case: Case, seed: int) -> nn.Module:
    """The layer with `name` on it, its factors off their start."""
    torch.manual_seed(seed)
    base = nn.Linear(case.n, case.m).to(case.dtype).requires_grad_(False)
    if name == PLAIN:
        return BUILDERS[PLAIN](base, draw(case.m, case.n, case.rank, base.weight, seed))
    layer = nn.Sequential(base)
    attach(layer, Method.registry[name](case.rank), "all-linear")
    for parameter in _trained(layer):
        nn.init.normal_(parameter, std=0.05)
    return layer


def measured(layer: nn.Module, x: Tensor) -> dict[str, int]:
    """Bytes of each of KINDS, from the tensors of one step of AdamW.

    A step: x (T, n) -> forward, backward, step.
    """
    parameters = _trained(layer)
    y, saved = saved_bytes(lambda: layer(x), held=[*layer.parameters(), *layer.buffers()])
    y.backward(torch.ones_like(y))
    optimizer = torch.optim.AdamW(parameters)
    optimizer.step()
    states = [tensor for state in optimizer.state.values() for tensor in state.values()]
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    return {
        "parameters": _bytes(parameters),
        "gradients": _bytes(gradients),
        "optimizer": _bytes(states),
        "saved": saved,
    }


def saved_bytes(run: Callable[[], Tensor], held: Iterable[Tensor]) -> tuple[Tensor, int]:
    """What `run` returns, and the bytes that autograd keeps for its backward pass.

    Each storage counts whole and once; those of `held` do not count.
    """
    own = set(map(_storage, held))
    # The tensors are held: freed memory could be given out again at the same address
    found: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        found[_storage(tensor)] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = run()
    return y, sum(
        tensor.untyped_storage().nbytes() for place, tensor in found.items() if place not in own
    )


def _storage(tensor: Tensor) -> int:
    """Where its numbers are; of a fake tensor, which has none, which storage it has."""
    storage = tensor.untyped_storage()
    return storage._cdata if is_fake(tensor) else storage.data_ptr()


def measure(seed: int) -> list[dict[str, Any]]:
    """All rows: every method on one layer, and PERA beside plain LoRA on many.

    The many are over tokens, ranks and the base's dtype. Takes some seconds.
    """
    cases = [(name, Case(1024, 3072, 768, 8)) for name in METHODS]
    cases += [
        (name, Case(tokens, 768, 768, rank, dtype))
        for dtype in (torch.float32, torch.bfloat16)
        for tokens in (1, 256, 1024)
        for rank in (4, 8, 16, 32)
        for name in (PLAIN, "pera")
    ]
    return [row(name, case, seed) for name, case in tqdm(cases, desc="memory", disable=None)]


def row(name: str, case: Case, seed: int) -> dict[str, Any]:
    """One method on one layer: what it is, and the bytes of KINDS, measured and predicted."""
    layer = build(name, case, seed)
    x = torch.randn(case.tokens, case.n, dtype=case.dtype, requires_grad=True)
    return {
        "method": name,
        "dtype": str(case.dtype).removeprefix("torch."),
        "m": case.m,
        "n": case.n,
        "tokens": case.tokens,
        "rank": case.rank,
        "inner": inner(name, case),
        "measured": measured(layer, x),
        "predicted": predicted(name, case),
    }


def _trained(layer: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in layer.parameters() if parameter.requires_grad]


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)
