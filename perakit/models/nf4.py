"""NormalFloat: a block of weights is rounded to 16 numbers, quantiles of a normal distribution.

Source: Dettmers et al. 2023, "QLoRA", arXiv 2305.14314, section 3. Pure functions of tensors, on
any device.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Probability of the largest quantile, (31/32 + 29/30) / 2 to the digits of QLoRA's code; that of 1
# is infinite
TAIL = 0.9677083
GROUP = 256  # absmax that share an 8-bit scale under double quantisation


def levels() -> Tensor:
    """The 16 levels, ascending from -1 to 1 with an exact 0, float64.

    8 positive and 7 negative: Φ⁻¹ at equidistant probabilities from TAIL down to (not including)
    1/2, and 0, all divided by the largest. One more on the positive side, since 16 - 1 is odd.
    """
    positive, negative = (
        torch.special.ndtri(torch.linspace(TAIL, 0.5, count, dtype=torch.float64)[:-1])
        for count in (9, 8)
    )
    return (
        torch.cat([-negative, torch.zeros(1, dtype=torch.float64), positive.flip(0)]) / positive[0]
    )


LEVELS = levels().float()
MIDPOINTS = ((LEVELS[1:].double() + LEVELS[:-1].double()) / 2).float()
# (256, 2): the two levels that a byte holds
PAIRS = torch.stack([LEVELS.repeat_interleave(16), LEVELS.repeat(16)], 1)


def encode(W: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """Round each block of `block` weights to absmax times the nearest level.

    W (m, n), flattened by rows; the last block may be shorter. Returns the codes (m n,), uint8 in 0
    ... 15, and absmax (ceil(m n / block),), float32, the largest |weight| of each block.
    """
    flat = W.to(torch.float32).reshape(-1)
    count = -(-flat.numel() // block)
    blocks = torch.nn.functional.pad(flat, (0, count * block - flat.numel())).view(count, block)
    absmax = blocks.abs().amax(1)
    unit = blocks / torch.where(absmax > 0, absmax, 1.0)[:, None]  # a block of zeros stays one
    codes = torch.bucketize(unit, MIDPOINTS.to(W.device), out_int32=True).to(torch.uint8)
    return codes.view(-1)[: flat.numel()], absmax


def pack(codes: Tensor) -> Tensor:
    """Two codes a byte, the first in the high half; a missing last one is 0.

    codes (k,), each 0 ... 15. Returns the bytes (ceil(k / 2),).
    """
    first, second = codes[::2], codes[1::2]
    return first << 4 | torch.nn.functional.pad(second, (0, first.numel() - second.numel()))


def unpack(packed: Tensor, count: int) -> Tensor:
    """The first `count` codes of `pack`.

    packed: as `pack` returns them. Returns the codes (count,), uint8.
    """
    return torch.stack([packed >> 4, packed & 15], 1).view(-1)[:count]


def compress(absmax: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Double quantisation: absmax (k,) ≈ mean + scale * code, each code a signed byte.

    Returns codes (k,) int8; scale (ceil(k / 256),) float32, of which each serves 256 codes; and
    mean (), float32.
    """
    mean = absmax.double().mean().float()
    groups = torch.nn.functional.pad(absmax - mean, (0, -absmax.numel() % GROUP)).view(-1, GROUP)
    scale = groups.abs().amax(1) / 127
    codes = (
        (groups / torch.where(scale > 0, scale, 1.0)[:, None])
        .round()
        .clamp(-127, 127)
        .to(torch.int8)
    )
    return codes.view(-1)[: absmax.numel()], scale, mean


def expand(codes: Tensor, scale: Tensor, mean: Tensor) -> Tensor:
    """absmax from what `compress` made of it, within half a scale.

    codes (k,), scale (ceil(k / 256),), mean (). Returns absmax (k,), never below 0, which would
    turn the signs of a block.
    """
    each = scale[:, None].expand(-1, GROUP).reshape(-1)[: codes.numel()]
    return (mean + codes * each).clamp(min=0)


def decode(
    packed: Tensor, absmax: Tensor, shape: tuple[int, int], block: int, pairs: Tensor
) -> Tensor:
    """The weight that codes stand for: absmax times level.

    packed (p,): the codes of all weights, two a byte; absmax (q,): one a block; shape: of the
    weight; block: weights that share an absmax; pairs (256, 2): `PAIRS`, on the device of the
    codes. Returns W (m, n), float32, with m, n = shape.
    """
    size = shape[0] * shape[1]
    # Two floats are fetched as one integer: a look-up for each byte costs a fifth of one for each
    # code.
    both = pairs.view(torch.int64).view(-1).index_select(0, packed.int())  # (ceil(m n / 2),)
    flat = both.view(torch.float32)[:size]
    whole = size // block
    flat[: whole * block].view(whole, block).mul_(absmax[:whole, None])
    flat[whole * block :].mul_(absmax[whole:])  # at most one block, the shorter last one
    return flat.view(shape)
