"""QLoRA's base: a layer that keeps its weight in 4 bits and multiplies in the precision it had.

Source: Dettmers et al. 2023, "QLoRA", arXiv 2305.14314. Plain torch, on a CPU and on CUDA;
`perakit.models.nf4` has the rounding. What the bits lose is lost for good: nothing here gives the
original weight back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perakit.adapters import Adapter
from perakit.errors import PerakitError
from perakit.models import nf4
from perakit.models.layers import OTHER_KINDS, LayerKind, TensorClass, kind_of, why_not
from perakit.models.numbers import missing

BLOCKS = tuple(2**k for k in range(5, 13))  # 32 ... 4096
# By NF4.double
STATISTICS = {True: ("absmax_codes", "absmax_scale", "absmax_mean"), False: ("absmax",)}


@dataclass(frozen=True)
class NF4:
    """4-bit NormalFloat: W ≈ absmax · level.

    There are 16 levels for all weights, and one absmax for each block.
    block: weights that share an absmax, 32, 64 ... 4096, along the rows of W; smaller is closer and
    takes more bits;
    double: the absmax are themselves rounded, to 8 bits. 64 weights with float32 absmax take 4 +
    32/64 = 4.5 bits each, with double quantisation 4 + 8/64 + 32/(64 · 256) = 4.127.

    >>> model = torch.nn.Sequential(torch.nn.Linear(64, 1, bias=False))
    >>> _ = model[0].weight.data.copy_(torch.linspace(0, 1, 64) ** 2)
    >>> errors = pk.quantize(model, config=pk.NF4(block=32, double=False))
    >>> round(errors["0"], 3)  # 0.088 in one block of 64
    0.083
    """

    block: int = 64
    double: bool = True

    def __post_init__(self) -> None:
        if (
            not isinstance(self.block, int)
            or isinstance(self.block, bool)
            or self.block not in BLOCKS
        ):
            raise PerakitError(
                f"NF4 block={self.block!r} is no block size: choose one of"
                f" {', '.join(map(str, BLOCKS))}"
            )
        if not isinstance(self.double, bool):
            raise PerakitError(
                f"NF4 double={self.double!r} must be True or False: whether the absmax are rounded"
                " to 8 bits too"
            )

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON; `from_dict` reads it back."""
        return {"type": "nf4", **asdict(self)}

    @staticmethod
    def from_dict(config: Any) -> NF4:
        """The configuration that `to_dict` wrote; PerakitError on anything else."""
        if (
            not isinstance(config, dict)
            or config.get("type") != "nf4"
            or set(config) != {"type", "block", "double"}
        ):
            raise PerakitError(
                f"quantization {config!r} is unknown: perakit reads {NF4().to_dict()}, with these"
                " three keys"
            )
        return NF4(config["block"], config["double"])


def parse(value: Any) -> NF4 | None:
    """What a user may say: "nf4", an NF4, or None for no quantisation."""
    if value is None or isinstance(value, NF4):
        return value
    if isinstance(value, str) and value == "nf4":
        return NF4()
    raise PerakitError(
        f"quantize={value!r} is unknown: pass 'nf4', pk.NF4(block=64, double=True), or None for"
        " none"
    )


class NF4Layer(nn.Module):
    """Stands where a Linear or Conv1D stood: y = deq(Q(W)) x + b. Made by `NF4Layer.of`.

    config: block size and double quantisation; kind, original: how to store a dense weight again,
    and the class and attributes of the layer that did. in_features n, out_features m; bias: the
    parameter of the original layer, or None;
    dtype: in which W is multiplied, that of the original weight until `.to(dtype)`. error ():
    ‖deq(Q(W)) − W‖/‖W‖, Frobenius, when it was quantised. The rounded weight itself is in buffers:
    codes (ceil(m n / 2),) and the statistics.
    """

    bias: nn.Parameter | None
    codes: Tensor
    error: Tensor
    pairs: Tensor

    def __init__(self, module: nn.Module, kind: type[LayerKind], config: NF4) -> None:
        super().__init__()
        weight = module.get_parameter("weight")
        W = kind.weight(module).detach()
        self.config, self.kind, self.dtype = config, kind, weight.dtype
        self.original = (
            type(module),
            {key: value for key, value in vars(module).items() if key not in vars(nn.Module())},
        )
        self.trainable = weight.requires_grad
        self.out_features, self.in_features = W.shape
        self.register_parameter("bias", module._parameters.get("bias"))
        codes, absmax = nf4.encode(W, config.block)
        self.register_buffer("codes", nf4.pack(codes))
        for name, statistic in zip(
            STATISTICS[config.double],
            nf4.compress(absmax) if config.double else (absmax,),
            strict=True,
        ):
            self.register_buffer(name, statistic)
        self.register_buffer("pairs", nf4.PAIRS.to(W.device), persistent=False)
        rounded = self.dequantize()
        if not rounded.isfinite().all():
            raise PerakitError(
                f"a weight is near the end of {W.dtype} and rounds beyond it in 4 bits: move the"
                " layer to a wider dtype"
            )
        wide = torch.promote_types(W.dtype, torch.float32)
        size, lost = (
            torch.linalg.vector_norm(part, dtype=torch.float64)
            for part in (W, rounded.to(wide) - W.to(wide))
        )
        self.register_buffer("error", torch.where(size > 0, lost / size, 0.0).float())
        self.train(module.training)

    @classmethod
    def of(cls, module: nn.Module, config: NF4) -> NF4Layer:
        """The 4-bit layer for a Linear or Conv1D, which stays as it is.

        Raises PerakitError for any other module, for a weight of a dtype that is not float64,
        float32, bfloat16 or float16, and for one that is not finite in float32.
        """
        if not isinstance(config, NF4):
            raise PerakitError(
                f"config={config!r} is not an NF4: pass pk.NF4(block=64, double=True)"
            )
        kind = (
            kind_of(module)
            if isinstance(module, nn.Module) and not isinstance(module, cls)
            else None
        )
        refusal = _refusal(module, kind)
        if kind is None or refusal:
            raise PerakitError(refusal)
        return cls(module, kind, config)

    @property
    def statistics(self) -> tuple[Tensor, ...]:
        """What `absmax` is made of: itself, or its codes, their scales and their mean."""
        return tuple(getattr(self, name) for name in STATISTICS[self.config.double])

    @property
    def bits(self) -> float:
        """Bits of memory a weight: those of all saved buffers, over m n."""
        size = sum(buffer.nbytes for buffer in (self.codes, *self.statistics, self.error))
        return 8 * size / (self.out_features * self.in_features)

    def dequantize(self) -> Tensor:
        """W (m, n): absmax · level in float32, rounded once to the layer's dtype.

        New memory at each call.
        """
        return _dequantize(
            (self.out_features, self.in_features),
            self.config.block,
            self.pairs,
            self.codes,
            *self.statistics,
        ).to(self.dtype)

    def stored(self, W: Tensor) -> Tensor:
        """W (m, n) in the orientation of the original layer's weight."""
        return self.kind.matrix(W)

    @property
    def weight(self) -> Tensor:
        """The dequantised weight, stored as the original layer stored its own."""
        return self.stored(self.dequantize())

    def linear(self, x: Tensor, W0: Tensor, bias: Tensor | None) -> Tensor:
        """W0 x + b with W0 (m, n) = `dequantize()`, not kept: the backward pass makes it again."""
        # Then W0 is not kept anyway; and torch.compile cannot take the Function where nothing is to
        # differentiate
        if not x.requires_grad:
            return F.linear(x, W0, bias)
        return _Linear.apply(
            x, W0, bias, self.config.block, self.pairs, self.codes, *self.statistics
        )

    def forward(self, x: Tensor) -> Tensor:
        """x (..., n) -> (..., m)."""
        return self.linear(x, self.dequantize(), self.bias)

    def plain(self, W: Tensor) -> nn.Module:
        """A layer of the original class with weight W (m, n), in W's dtype, and this one's bias."""
        if W.shape != (self.out_features, self.in_features):
            raise PerakitError(
                f"W has shape {tuple(W.shape)}, the layer ({self.out_features},"
                f" {self.in_features}): pass one that fits"
            )
        cls, attributes = self.original
        layer = cls.__new__(cls)
        nn.Module.__init__(layer)
        vars(layer).update(attributes)
        layer.weight = nn.Parameter(
            self.stored(W.detach()).clone(memory_format=torch.contiguous_format),
            requires_grad=self.trainable,
        )
        layer.register_parameter("bias", self._parameters["bias"])
        return layer.train(self.training)

    def __getattr__(self, name: str) -> Any:
        """What the original layer had (nf, nx ...) is read as if it stood here."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            original = vars(self).get("original", (None, {}))[1]
            if name not in original:
                raise
            return original[name]

    def extra_repr(self) -> str:
        """Shape, what it was, and how it is kept."""
        return (
            f"{self.in_features}, {self.out_features}, bias={self.bias is not None},"
            f" was={self.original[0].__name__}, {self.config}"
        )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> NF4Layer:
        """Move as torch does: `.to(dtype)` changes the dtype of W and of the bias."""
        before = dict(self._buffers)
        self.dtype = fn(torch.empty(0, dtype=self.dtype, device=self.codes.device)).dtype
        super()._apply(fn, recurse)
        for name, buffer in before.items():
            moved = self._buffers[name]
            # Codes and statistics only ever move to another device
            if buffer is not None and moved is not None and moved.dtype != buffer.dtype:
                self._buffers[name] = buffer.to(moved.device)
        # In no state dict: `to_empty` would leave it without its numbers
        self.pairs = nf4.PAIRS.to(self.codes.device)
        return self


class FourBits(LayerKind):
    """A Linear or Conv1D whose weight is kept in 4 bits."""

    name = "NF4"

    @staticmethod
    def fits(module: nn.Module) -> bool:
        return isinstance(module, NF4Layer)

    @staticmethod
    def weight(module: nn.Module, readers: Sequence[Adapter] | None = None) -> Tensor:
        return _four_bit(module).dequantize()

    @classmethod
    def shape(cls, module: nn.Module) -> tuple[int, int]:
        return _four_bit(module).out_features, _four_bit(module).in_features

    @classmethod
    def dtype(cls, module: nn.Module) -> torch.dtype:
        return _four_bit(module).dtype

    @staticmethod
    def lost(module: nn.Module) -> float:
        return _four_bit(module).error.item()

    @staticmethod
    def kept(module: nn.Module) -> str:
        return "in 4 bits"

    @classmethod
    def stored(cls, module: nn.Module, W: Tensor) -> Tensor:
        return _four_bit(module).stored(W)

    @staticmethod
    def product(module: nn.Module) -> Callable[[Tensor, Tensor, Tensor | None], Tensor]:
        return _four_bit(module).linear

    @classmethod
    def written(cls, module: nn.Module, W: Tensor) -> nn.Module:
        return _four_bit(module).plain(W)


OTHER_KINDS.append(FourBits)


def _four_bit(module: nn.Module) -> NF4Layer:
    """The module as what `FourBits.fits` found it to be."""
    return cast(NF4Layer, module)


def _refusal(module: Any, kind: type[LayerKind] | None) -> str:
    """Why a module cannot be quantised, or an empty text."""
    if isinstance(module, NF4Layer):
        return (
            f"the layer is in 4 bits already, {module.config}: quantise the original layer instead"
        )
    if kind is None:
        weight = getattr(module, "weight", None)
        kept = f" with a weight of {weight.dtype}" if isinstance(weight, Tensor) else ""
        why = f" ({why_not(module)})" if isinstance(module, nn.Module) else ""
        return (
            f"{type(module).__name__}{kept} cannot be quantised: pass a Linear or Conv1D layer with"
            f" a floating-point weight (m, n){why}"
        )
    if kind is TensorClass:
        name = type(module.weight).__name__
        return f"the layer's weight is a {name} already: quantise the original layer instead"
    besides = {*module._parameters, *module._buffers, *module._modules} - {"weight", "bias"}
    if besides:
        return (
            f"{type(module).__name__} has {', '.join(sorted(besides))} besides weight and bias,"
            " which would be lost: target other layers"
        )
    W = kind.weight(module)
    if lacks := missing(W):
        return f"the layer's weight {lacks}"
    if not W.to(torch.float32).isfinite().all():
        return (
            "the layer's weight has NaN, inf or a number beyond float32: load a good model before"
            " quantising it"
        )
    return ""


def _dequantize(
    shape: tuple[int, int], block: int, pairs: Tensor, codes: Tensor, *statistics: Tensor
) -> Tensor:
    absmax = statistics[0] if len(statistics) == 1 else nf4.expand(*statistics)
    return nf4.decode(codes, absmax, shape, block, pairs)


class _Linear(torch.autograd.Function):
    """F.linear whose backward needs W only while it runs."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor,
        W: Tensor,
        bias: Tensor | None,
        block: int,
        pairs: Tensor,
        codes: Tensor,
        *statistics: Tensor,
    ) -> Tensor:
        return F.linear(x, W, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, W, _, block, *buffers = inputs
        ctx.shape, ctx.block = tuple(W.shape), block
        ctx.dtype, ctx.precision = x.dtype, W.dtype
        ctx.save_for_backward(*buffers)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        # (..., m), in the dtype of the product: lower than that of x and W under autocast
        (grad,) = grads
        by_x = by_bias = None
        if ctx.needs_input_grad[0]:
            W = _dequantize(ctx.shape, ctx.block, *ctx.saved_tensors).to(ctx.precision)
            by_x = (grad @ W.to(grad.dtype)).to(ctx.dtype)  # (..., m) @ (m, n) -> (..., n)
        if ctx.needs_input_grad[2]:
            by_bias = grad.reshape(-1, grad.shape[-1]).sum(0)
        return (by_x, None, by_bias, *(None for _ in ctx.needs_input_grad[3:]))
