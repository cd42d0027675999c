"""PERA, and every other method of perakit, as methods of PEFT.

    from perakit.peft import PeraConfig
    model = peft.get_peft_model(model, PeraConfig(r=8, target_modules="all-linear"))

PEFT finds the layers, saves, switches and converts; what an adapter computes and how it is merged
stays perakit's. Importing this module makes the methods known to PEFT.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from perakit.adapters import Method
from perakit.errors import PerakitError
from perakit.models import hosted
from perakit.models.adapted import AdaptedLayer
from perakit.models.layers import KINDS, LayerKind, kind_of, why_not

try:
    from peft import PeftConfig, PeftType
    from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer, check_adapters_to_merge
    from peft.utils import register_peft_method
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
    from peft.utils.other import get_pattern_key
except ImportError as error:
    raise PerakitError(
        f"perakit.peft needs PEFT 0.18 or later ({error}): pip install 'perakit[hf]'"
    ) from error

# Where a configuration names no layers: as PEFT's LoRA
TARGETS = {
    model: list(names)
    for model, names in TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING.items()
}


def _named(name: str) -> PeftType:
    """The member of PEFT's list of methods, which is an enum: it has no way to add one."""
    if name not in PeftType.__members__:
        new: Any = str.__new__(PeftType, name)
        new._name_ = new._value_ = name
        setattr(PeftType, name, new)
        PeftType._member_names_.append(name)
        PeftType._member_map_[name] = PeftType._value2member_map_[name] = new
    return PeftType(name)


@dataclass
class MethodConfig(PeftConfig):
    """How PEFT adapts a model with any method of perakit: `MethodConfig(method=pk.MoRA(8))`.

    method: a `pk.Method`, or what its `to_dict` gives; required. rank_pattern, alpha_pattern: layer
    (its name or the end of it, a regular expression) -> another rank, another alpha.
    target_modules, exclude_modules, layers_to_transform, layers_pattern and modules_to_save are as
    in PEFT's LoraConfig. Raises PerakitError for what `Method.from_dict` does not read.

    >>> from peft import get_peft_model
    >>> from perakit.peft import MethodConfig
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 5))
    >>> model = get_peft_model(model, MethodConfig(method=pk.MoRA(rank=2), target_modules=["0"]))
    >>> sum(p.numel() for p in model.parameters() if p.requires_grad)
    16
    """

    registered: ClassVar[str] = "PERAKIT"

    method: Any = None
    target_modules: list[str] | str | None = None
    exclude_modules: list[str] | str | None = None
    layers_to_transform: list[int] | int | None = None
    layers_pattern: list[str] | str | None = None
    rank_pattern: dict[str, int] = field(default_factory=dict)
    alpha_pattern: dict[str, float] = field(default_factory=dict)
    modules_to_save: list[str] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = _named(self.registered)
        for name in ("target_modules", "exclude_modules"):
            if isinstance(value := getattr(self, name), list):
                setattr(self, name, set(value))
        if isinstance(self.method, Method):
            self.method = self.method.to_dict()  # as JSON keeps it
        self.usual()

    def usual(self) -> Method:
        """The method of a layer that no pattern names."""
        return hosted.usual({**vars(self), "peft_type": self.registered})

    def of(self, layer: str) -> Method:
        """The method of one layer."""
        method = self.usual()
        for option, pattern in (("rank", self.rank_pattern), ("alpha", self.alpha_pattern)):
            key = get_pattern_key(list(pattern), layer)
            if key in pattern:
                method = replace(method, **{option: pattern[key]})  # type: ignore[arg-type]
        return method


@dataclass
class PeraConfig(MethodConfig):
    """How PEFT adapts a model with PERA, arXiv 2604.11841: `PeraConfig(r=8)`.

    r: rank; alpha: the update is multiplied by alpha/r, None = r; terms, degree, feature_scale,
    scaling, dropout and init as in `pk.PERA`; the others as in `MethodConfig`, but `method`,
    which these are in place of. Raises PerakitError for options that no PERA has.

    >>> from peft import get_peft_model
    >>> from perakit.peft import PeraConfig
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 5))
    >>> model = get_peft_model(model, PeraConfig(r=2, target_modules=["0"]))
    >>> sum(p.numel() for p in model.parameters() if p.requires_grad)  # r (m + n) + r (r + 1) / 2
    19
    """

    registered: ClassVar[str] = "PERA"

    r: int = 8
    alpha: float | None = None
    terms: str = "full"
    degree: int = 2
    feature_scale: float = 1.0
    scaling: str = "standard"
    dropout: float = 0.0
    init: str = "zero_B"


class MethodLayer(nn.Module, BaseTunerLayer):
    """What PEFT puts in the place of a layer. It holds perakit's own adapters, by their names.

    Its weights are named as PEFT wants them; what they compute is the AdaptedLayer of the same
    base and the same adapters.
    """

    adapter_layer_names = ("perakit_adapters",)

    def __init__(self, base_layer: nn.Module, kind: type[LayerKind]) -> None:
        super().__init__()
        self.base_layer, self.kind = base_layer, kind
        self.inner = (AdaptedLayer(base_layer, kind),)  # in a tuple, or its names would be seen too
        setattr(self, self.adapter_layer_names[0], self.inner[0].adapters)
        self.merged_adapters: list[str] = []
        self.kept: Tensor | None = None  # W0 (m, n), while adapters are merged into the base

    @property
    def adapters(self) -> Any:
        """Name -> adapter."""
        return self.inner[0].adapters

    @property
    def W0(self) -> Tensor:
        """The frozen weight (m, n)."""
        return self.kind.weight(self.base_layer).detach() if self.kept is None else self.kept

    def add(self, name: str, method: Method, frozen: bool) -> None:
        """A new adapter at its start."""
        adapter = method.adapter(method, self.W0)
        if not any(parameter.is_meta for parameter in adapter.parameters()):
            adapter.reset(self.W0)  # on the meta device PEFT has made it to be loaded into
        self.adapters[name] = adapter
        self.set_adapter(self.active_adapters, inference_mode=frozen)

    def forward(self, x: Tensor) -> Tensor:
        """y = W0 x + b + Σ ΔW x over the active adapters."""
        if self.disable_adapters and self.merged:
            self.unmerge()
        if self.disable_adapters or self.merged:
            return self.base_layer(x)
        self.inner[0].wanted = tuple(self.active_adapters)
        return self.inner[0](x)

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """W0 + ΔW in the place of W0, summed in float64 on a CPU and rounded once."""
        chosen = check_adapters_to_merge(self, adapter_names) or []
        if not (new := [name for name in chosen if name in self.adapters]):
            return
        merged, base, layer = [*self.merged_adapters, *new], self.base_layer, self.inner[0]
        before, W0 = self.kind.weight(base).detach(), self.W0
        try:
            self.kind.written(base, W0)
            layer.wanted = tuple(merged)
            total = layer.sum_with(layer.exact_delta())
            if safe_merge and not torch.isfinite(total).all():
                raise ValueError(f"NaNs or infinities would be merged of {', '.join(merged)}")
        except BaseException:
            self.kind.written(base, before)
            raise
        self.kept, self.merged_adapters = W0, merged  # first: what is kept can always come back
        self.kind.written(base, total)

    def unmerge(self) -> None:
        """W0 in its place again, to the bit."""
        if self.kept is None:
            warnings.warn("Already unmerged. Nothing to do.", stacklevel=2)
            return
        self.kind.written(self.base_layer, self.kept)
        self.kept, self.merged_adapters = None, []

    def get_delta_weight(self, adapter: str) -> Tensor:
        """ΔW, stored as the base stores its weight."""
        return self.kind.stored(self.base_layer, self.adapters[adapter].delta(self.W0))

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        """Whether the update is one matrix, which a LoRA of its rank equals."""
        return adapter_name not in self.adapters or self.adapters[adapter_name].method.mergeable

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> MethodLayer:
        super()._apply(fn, recurse)
        self.kept = None if self.kept is None else fn(self.kept)
        return self


class PeraLayer(MethodLayer):
    """The same for `PeraConfig`, under the names in its files."""

    adapter_layer_names = ("pera_adapters",)


class MethodModel(BaseTuner):
    """PEFT's driver of `MethodConfig`."""

    prefix = "perakit_"
    tuner_layer_cls = MethodLayer
    target_module_mapping = TARGETS

    def _create_and_replace(  # type: ignore[override]
        self,
        peft_config: MethodConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        **_: Any,
    ) -> None:
        method, layer = peft_config.of(current_key), target
        if not isinstance(layer, self.tuner_layer_cls):
            kind = kind_of(target)
            if kind is None or kind not in KINDS:
                why = f"PEFT cannot merge into a {kind.name}" if kind else why_not(target)
                raise PerakitError(f"{method.name} cannot adapt {current_key!r}: {why}")
            layer = self.tuner_layer_cls(target, kind)
            layer._active_adapter = self.active_adapters
            self._replace_module(parent, target_name, layer, target)
        layer.add(adapter_name, method, peft_config.inference_mode)


class PeraModel(MethodModel):
    """PEFT's driver of `PeraConfig`."""

    prefix = "pera_"
    tuner_layer_cls = PeraLayer


for _config, _model in ((MethodConfig, MethodModel), (PeraConfig, PeraModel)):
    _named(_config.registered)
    register_peft_method(name=_config.registered.lower(), config_cls=_config, model_cls=_model)
