"""What a layer is, decided from what it is; and the true reason where it cannot be adapted.

Layers are made unfit by the tools that do so in life, and made fit again by the remedy that the
message names.
"""

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import (
    parametrizations,
    parametrize,
    prune,
    remove_spectral_norm,
    remove_weight_norm,
    spectral_norm,
    weight_norm,
)

import perakit as pk
from perakit.models.adapted import shared_weights
from perakit.models.layers import TensorClass, kind_of, why_not
from perakit.models.numbers import missing

LORA = pk.LoRA(rank=2)


def mlp(n=12, hidden=7, m=5):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(n, hidden), nn.GELU(), nn.Linear(hidden, m))


def move(model):
    """Factors off their start, so that nothing is a no-op."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.3)
    return model


# --- the zoo --------------------------------------------------------------------------------------


def quietly(make):
    """Of tools that torch calls deprecated, and that people use."""

    def made():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return make()

    return made


def linear(**change):
    layer = nn.Linear(4, 3)
    for name, value in change.items():
        layer.register_parameter(name, nn.Parameter(value, requires_grad=False))
    return layer


def pruned():
    return prune.l1_unstructured(nn.Linear(4, 3), "weight", 0.5)


def replaced():
    layer = nn.Linear(4, 3)
    layer.forward = lambda x: F.linear(x, layer.weight)
    return layer


def offloaded(tool):
    accelerate = pytest.importorskip("accelerate")
    return getattr(accelerate, tool)(nn.Sequential(nn.Linear(4, 3)))[0]


def hooked_for_a_device():
    accelerate = pytest.importorskip("accelerate")
    hook = accelerate.hooks.AlignDevicesHook(execution_device="cpu")
    return accelerate.hooks.add_hook_to_module(nn.Linear(4, 3), hook)


def dynamic():
    model = nn.Sequential(nn.Linear(4, 3))
    return torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)[0]


class Experts(nn.Module):
    """As transformers keeps them: one parameter for all."""

    def __init__(self):
        super().__init__()
        self.gate_up_proj = nn.Parameter(torch.ones(8, 4, 6))


class Norm(nn.Linear):
    def forward(self, x):
        return super().forward(x).tanh()


class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, 4))


def no_parameter():
    layer = nn.Linear(4, 3)
    weight = layer.weight.detach()
    del layer.weight
    layer.weight = weight
    return layer


def freed():
    layer = nn.Linear(4, 3)
    layer.weight.untyped_storage().resize_(0)
    return layer


def partitioned():
    """As DeepSpeed's ZeRO-3 leaves a parameter between uses."""
    layer = nn.Linear(4, 3)
    layer.weight.ds_numel = 12
    layer.weight.data = torch.empty(0)
    return layer


def restored(tool):
    def remedy(layer):
        tool(layer)
        return layer

    return remedy


def unhooked(layer):
    return pytest.importorskip("accelerate").hooks.remove_hook_from_module(layer)


def unforwarded(layer):
    del layer.forward
    return layer


def plain_again(layer):
    parametrize.remove_parametrizations(layer, "weight")
    return layer


def passed(layer):
    layer(torch.ones(1, 4))
    return layer


COMPUTED = "its weight is computed from other parameters by "
# What it is -> (made how, said what, mended how)
ZOO = {
    "weight_norm": (
        quietly(lambda: weight_norm(nn.Linear(4, 3))),
        f"{COMPUTED}weight_norm: torch.nn.utils.remove_weight_norm(layer) first",
        restored(remove_weight_norm),
    ),
    "weight_norm, parametrized": (
        lambda: parametrizations.weight_norm(nn.Linear(4, 3)),
        f"{COMPUTED}a parametrization (WeightNorm): first torch.nn.utils.parametrize.remove_p",
        plain_again,
    ),
    "spectral_norm": (
        lambda: spectral_norm(nn.Linear(4, 3)),
        f"{COMPUTED}spectral_norm: torch.nn.utils.remove_spectral_norm(layer) first",
        restored(remove_spectral_norm),
    ),
    "spectral_norm, parametrized": (
        lambda: parametrizations.spectral_norm(nn.Linear(4, 3)),
        f"{COMPUTED}a parametrization (SpectralNorm)",
        plain_again,
    ),
    "orthogonal": (
        lambda: parametrizations.orthogonal(nn.Linear(4, 3)),
        f"{COMPUTED}a parametrization (Orthogonal)",
        plain_again,
    ),
    "prune": (
        pruned,
        f"{COMPUTED}prune: torch.nn.utils.prune.remove(layer, 'weight') first",
        restored(lambda layer: prune.remove(layer, "weight")),
    ),
    "LazyLinear": (
        lambda: nn.LazyLinear(3),
        "LazyLinear has no shape yet: pass one batch through the model first",
        passed,
    ),
    "LazyConv2d": (lambda: nn.LazyConv2d(3, 1), "LazyConv2d has no shape yet", None),
    "int8": (
        lambda: linear(weight=torch.ones(3, 4, dtype=torch.int8)),
        "its weight is int8, whole numbers that stand for others and have no gradient",
        None,
    ),
    "float8": (
        lambda: nn.Linear(4, 3).to(torch.float8_e4m3fn),
        "its weight is float8_e4m3fn, in which torch.nn.Linear does not multiply",
        lambda layer: layer.to(torch.bfloat16),
    ),
    "complex": (
        lambda: nn.Linear(4, 3, dtype=torch.complex64),
        "its weight is complex64, complex, and adapters are of real numbers",
        None,
    ),
    "sparse": (
        lambda: linear(weight=torch.eye(3, 4).to_sparse()),
        "its weight is sparse_coo, no plain matrix: layer.weight.to_dense() makes one",
        lambda layer: linear(weight=layer.weight.to_dense()),
    ),
    "replaced forward": (
        replaced,
        "its forward was replaced on the object, and need not be W x + b: del layer.forward",
        unforwarded,
    ),
    "cpu_offload": (
        lambda: offloaded("cpu_offload"),
        "accelerate offloads its weight and has replaced its forward on the object: load",
        unhooked,
    ),
    "a hook of accelerate": (
        hooked_for_a_device,
        "accelerate moves its input and has replaced its forward on the object",
        unhooked,
    ),
    "torch.ao int8": (
        quietly(dynamic),
        "torch.ao keeps its weight packed in integers, and its product has no gradient: adapt",
        None,
    ),
    "a forward of its own": (
        lambda: Norm(4, 3),
        "its class Norm has a forward of its own, which need not be W x + b",
        None,
    ),
    "no parameter": (
        no_parameter,
        "its weight is a tensor and no parameter (FSDP's use_orig_params=False, or computed",
        restored(
            lambda layer: layer.__setattr__("weight", nn.Parameter(vars(layer).pop("weight")))
        ),
    ),
    "a flat shard": (
        lambda: linear(weight=torch.ones(7)),
        "its weight has shape (7,) and is no matrix (m, n); where FSDP or DeepSpeed keep a shard",
        None,
    ),
    "ZeRO-3": (partitioned, "its weight has shape (0,) and is no matrix (m, n); where FSDP", None),
    "freed": (
        freed,
        "its weight has its storage freed (an FSDP or DeepSpeed shard): gather the parameters",
        None,
    ),
    "meta": (
        lambda: nn.Linear(4, 3, device="meta"),
        "its weight is on the meta device and has no numbers: load the model first",
        lambda layer: layer.to_empty(device="cpu"),
    ),
    "Embedding": (lambda: nn.Embedding(4, 3), "an embedding looks rows up and is no W x + b", None),
    "Conv2d": (lambda: nn.Conv2d(1, 1, 1), "a convolution multiplies by no matrix W x + b", None),
    "LayerNorm": (lambda: nn.LayerNorm(3), "it is no W x + b that perakit knows", None),
    "an unknown class": (Own, "it is no W x + b that perakit knows", None),
    "experts": (
        Experts,
        "its weights are stacked in 3 dimensions or more (gate_up_proj (8, 4, 6)), as those of",
        None,
    ),
    "GELU": (nn.GELU, "it has no weight of its own: perakit adapts Linear and Conv1D layers", None),
}


@pytest.mark.parametrize("name", ZOO)
def test_the_reason_is_the_true_one_and_its_remedy_helps(name):
    make, said, mend = ZOO[name]
    layer = make()
    assert said in why_not(layer), why_not(layer)
    model = nn.Sequential(layer, nn.ReLU())
    before = {key: id(value) for key, value in model.named_parameters()}
    for targets in (["0"], lambda name, module: module is layer):
        if targets != ["0"] and not list(layer.parameters(recurse=False)):
            continue  # a predicate is asked about weights
        with pytest.raises(pk.PerakitError) as caught:
            pk.attach(model, LORA, targets)
        assert f"layer '0' ({type(layer).__name__}) cannot be adapted: {said}" in str(caught.value)
    assert model[0] is layer
    assert {key: id(value) for key, value in model.named_parameters()} == before
    if mend is not None:
        model[0] = mend(layer)
        assert why_not(model[0]) == ""
        assert len(pk.attach(model, LORA, ["0"]).rows) == 1


@pytest.mark.parametrize("name", ZOO)
def test_all_linear_never_says_that_a_model_with_linear_layers_has_none(name):
    layer, said = ZOO[name][0](), ZOO[name][1]
    with pytest.raises(pk.PerakitError) as caught:
        pk.attach(nn.Sequential(layer, nn.ReLU()), LORA, "all-linear")
    none = "the model has no Linear or Conv1D layer to adapt"
    linear = any("Linear" in cls.__name__ for cls in type(layer).__mro__)
    assert (none in str(caught.value)) != linear, caught.value
    assert (said in str(caught.value)) == linear, caught.value


def test_the_commonest_reason_is_said_with_its_number():
    model = nn.Sequential(*(Norm(3, 3) for _ in range(3)), nn.Linear(3, 3, dtype=torch.complex64))
    for targets in ("all-linear", ["fc"], "fc.*"):
        with pytest.raises(pk.PerakitError) as caught:
            pk.attach(model, LORA, targets)
        assert "4 of 4 Linear or Conv1D layers cannot be adapted" in str(caught.value)
        assert "its class Norm has a forward" in str(caught.value)
        assert str(caught.value).endswith("(3 of them)")


def test_a_reason_is_given_exactly_where_there_is_no_kind():
    for name, (make, _, _) in ZOO.items():
        numbers = name in ("meta", "freed")  # a layer all the same
        assert bool(kind_of(make())) == numbers, name
    for layer in (nn.Linear(4, 3), nn.Linear(4, 3).half(), pk.toy.gpt2.Conv1D(3, 4)):
        assert kind_of(layer) is not None
        assert why_not(layer) == ""


def test_a_parametrized_bias_is_no_reason():
    """Only the weight must be the layer's own."""
    layer = nn.Linear(4, 3)
    parametrize.register_parametrization(layer, "bias", nn.Tanh())
    assert why_not(layer) == ""
    x = torch.randn(2, 4)
    model = nn.Sequential(layer)
    before = model(x)
    pk.attach(model, LORA, "0")
    assert torch.equal(model(x), before)


# --- tensor classes -------------------------------------------------------------------------------

TOKENS = (1, 7, 16, 48, 300)


class Int8(torch.Tensor):
    """A stand-in for torchao's: int8 codes, a product of its own, and no other operation."""

    read = 0  # how often any of them was dequantised

    @staticmethod
    def __new__(cls, codes, scale):
        return torch.Tensor._make_wrapper_subclass(cls, codes.shape, dtype=scale.dtype)

    def __init__(self, codes, scale):
        self.codes, self.scale = codes, scale

    @classmethod
    def of(cls, W):
        scale = W.abs().amax(1, keepdim=True) / 127
        return cls((W / scale).round().to(torch.int8), scale)

    def __tensor_flatten__(self):
        return ["codes", "scale"], None

    @classmethod
    def __tensor_unflatten__(cls, parts, context, size, stride):
        return cls(parts["codes"], parts["scale"])

    def dequantize(self):
        type(self).read += 1
        return self.codes.to(self.scale.dtype) * self.scale

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func is F.linear:
            x, W, *bias = args
            return F.linear(x, W.codes.to(W.scale.dtype) * W.scale, *bias)
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        if func in (torch.ops.aten.detach.default, torch.ops.aten.clone.default):
            return cls(func(args[0].codes), func(args[0].scale))
        raise NotImplementedError(f"{cls.__name__} does not know {func}")


def int8(model, cls=Int8):
    """The model with its weights in int8, and one with the plain weights that they stand for."""
    plain = copy.deepcopy(model)
    for layer, twin in zip(model, plain, strict=True):
        if isinstance(layer, nn.Linear):
            kept = cls.of(layer.weight.detach())
            layer.weight = nn.Parameter(kept, requires_grad=False)
            twin.weight = nn.Parameter(kept.codes * kept.scale)
    return model, plain


def copy_factors(source, target):
    with torch.no_grad():
        for a, b in zip(pk.adapters(source).values(), pk.adapters(target).values(), strict=True):
            for theirs, ours in zip(a.parameters(), b.parameters(), strict=True):
                ours.copy_(theirs)


@pytest.mark.parametrize("method", [LORA, pk.PERA(2), pk.DoRA(2), pk.DeLoRA(2), pk.Quadratic(2)])
def test_a_tensor_class_is_adapted_through_its_own_product(method):
    """For every number of tokens and both ways, forward and gradients are those of plain W0."""
    model, plain = int8(mlp())
    for one in (model, plain):
        pk.attach(one, method, "all-linear")
    assert {layer.kind for layer in model if hasattr(layer, "kind")} == {TensorClass}
    copy_factors(move(plain), model)
    for tokens in TOKENS:
        for plan in (None, "reference"):
            found = []
            for one in (model, plain):
                x = torch.randn(tokens, 12, generator=torch.Generator().manual_seed(1))
                with pk.use_plan(plan):
                    y = one(x.requires_grad_())
                trained = [p for p in one.parameters() if p.requires_grad]
                found.append([y, *torch.autograd.grad(y.square().sum(), [x, *trained])])
            for ours, theirs in zip(*found, strict=True):
                torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", [LORA, pk.PERA(2)], ids=str)
def test_a_forward_pass_does_not_dequantise_what_nothing_reads(method):
    model, _ = int8(mlp())
    pk.attach(model, method, "all-linear")
    read = Int8.read
    for plan in (None, "reference"):
        with pk.use_plan(plan):
            model(torch.randn(48, 12)).sum().backward()
    assert Int8.read == read
    pk.delta_weights(model)
    assert Int8.read > read  # the count counts


def test_a_tensor_class_is_merged_baked_saved_and_exported_as_the_numbers_it_stands_for(tmp_path):
    model, plain = int8(mlp())
    for one in (model, plain):
        pk.attach(one, pk.PERA(2), "all-linear")
    copy_factors(move(plain), model)
    x = torch.randn(5, 12)
    before = model(x)
    with pytest.raises(pk.PerakitError) as caught:
        pk.merge(model)
    assert "cannot merge layer '0': its weight is a Int8, which W0 + ΔW does" in str(caught.value)
    assert "dequantize=True" in str(caught.value)
    pk.merge(model, dequantize=True)
    pk.merge(plain)
    assert torch.equal(model[0].merged, plain[0].merged)
    torch.testing.assert_close(model(x), before, rtol=1e-4, atol=1e-5)
    pk.unmerge(model)
    assert torch.equal(model(x), before)
    pk.save(model, tmp_path / "saved")
    pk.export_peft(model, tmp_path / "peft")
    for use, folder in ((pk.load, "saved"), (pk.import_peft, "peft")):
        for other in int8(mlp()):
            use(other, tmp_path / folder)
            torch.testing.assert_close(other(x), before, rtol=1e-4, atol=1e-5)
    kept = model[0].base
    pk.bake(model, dequantize=True)
    assert type(model[0].weight) is nn.Parameter
    assert isinstance(kept.weight, Int8)  # the old layer is as it was
    assert repr(model) == repr(mlp())
    torch.testing.assert_close(model(x), before, rtol=1e-4, atol=1e-5)


def test_a_tensor_class_is_not_quantised_again():
    model, _ = int8(mlp())
    with pytest.raises(pk.PerakitError, match=r"layer '0': the layer's weight is a Int8 already"):
        pk.quantize(model)


class Dumb(Int8):
    """It does not say what numbers it stands for."""

    dequantize = torch.Tensor.dequantize


class Deaf(Int8):
    """As torchao's int8 activations: a product without a gradient."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        with torch.no_grad():
            return super().__torch_function__(func, types, args, kwargs)


class Broken(Int8):
    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func is F.linear:
            raise NotImplementedError("no kernel")
        return super().__torch_function__(func, types, args, kwargs)


class Sticky(Int8):
    """Its product is of its own class again."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        y = super().__torch_function__(func, types, args, kwargs)
        return Int8.of(y) if func is F.linear else y


@pytest.mark.parametrize(
    ("cls", "said"),
    [
        (Dumb, "a Dumb, a tensor class that does not say by dequantize() what numbers it stands"),
        (Deaf, "a Deaf, whose product has no gradient for its input, so that nothing before it"),
        (Broken, "a Broken, with which a product or dequantize() fails (NotImplementedError)"),
        (Sticky, "a Sticky, whose product and numbers are no plain tensors"),
    ],
)
def test_other_tensor_classes_are_refused_by_what_they_cannot_do(cls, said):
    model, _ = int8(mlp(), cls)
    with pytest.raises(pk.PerakitError) as caught:
        pk.attach(model, LORA, ["0"])
    assert f"layer '0' (Linear) cannot be adapted: its weight is {said}" in str(caught.value)


def test_classes_of_torch_are_refused_with_a_reason():
    from torch.masked import masked_tensor

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        masked = masked_tensor(torch.ones(3, 4), torch.ones(3, 4) > 0)
        nested = torch.nested.nested_tensor([torch.ones(2, 4)], layout=torch.jagged)
    for weight, said in (
        (masked, "its weight is a MaskedTensor, a tensor class that does not say"),
        (nested, "its weight"),
    ):
        layer = nn.Linear(4, 3)
        layer._parameters["weight"] = weight
        assert why_not(layer).startswith(said), why_not(layer)
        assert kind_of(layer) is None


def test_a_class_without_operations_of_its_own_is_a_plain_weight():
    class Named(torch.Tensor):
        pass

    layer = nn.Linear(4, 3)
    layer.weight = nn.Parameter(torch.randn(3, 4).as_subclass(Named))
    assert (kind_of(layer).name, why_not(layer)) == ("Linear", "")


def test_a_tensor_class_in_a_conv1d_is_refused():
    layer = pk.toy.gpt2.Conv1D(3, 4)
    layer.weight = nn.Parameter(Int8.of(layer.weight.detach()), requires_grad=False)
    assert why_not(layer) == (
        "its weight is a Int8: perakit adapts tensor classes in torch.nn.Linear alone"
    )


def test_torchaos_int8_is_adapted():
    quantization = pytest.importorskip("torchao.quantization")
    model = mlp(64, 64, 32)
    quantization.quantize_(model, quantization.Int8WeightOnlyConfig())
    pk.attach(model, pk.PERA(2), "all-linear")
    move(model)
    x = torch.randn(48, 64)
    before = model(x)
    torch.testing.assert_close(torch.cat([model(row[None]) for row in x]), before)
    pk.bake(model, dequantize=True)
    torch.testing.assert_close(model(x), before, rtol=1e-4, atol=1e-5)


# --- whose weight is shared -----------------------------------------------------------------------


def test_what_has_no_memory_of_its_own_is_not_shared():
    """Freed storages, wrapper tensors and empty ones all have a `data_ptr()` of 0."""
    free = nn.Sequential(freed(), freed(), partitioned(), partitioned())
    wrapped, _ = int8(mlp())
    sparse = nn.Sequential(ZOO["sparse"][0](), ZOO["sparse"][0]())
    meta = mlp().to("meta")
    for model in (free, wrapped, sparse, meta):
        assert shared_weights(model) == {}


@pytest.mark.parametrize("make", [freed, lambda: int8(mlp())[0][0], lambda: linear().to("meta")])
def test_the_same_parameter_twice_is_shared(make):
    model = nn.Sequential(make(), nn.Linear(4, 3))
    model[1].weight = model[0].weight
    assert shared_weights(model) == {id(model[0]): "1", id(model[1]): "0"}


def test_wrapper_tensors_are_shared_where_what_they_wrap_is():
    model, _ = int8(nn.Sequential(nn.Linear(4, 3), nn.Linear(4, 3)))
    kept = model[0].weight
    model[1].weight = nn.Parameter(Int8(kept.codes, kept.scale.clone()), requires_grad=False)
    assert shared_weights(model) == {id(model[0]): "1", id(model[1]): "0"}
    pk.attach(model, LORA, "0|1")
    with pytest.raises(pk.PerakitError, match="cannot merge layer '0': its weight is shared with"):
        pk.merge(model, dequantize=True)


# --- numbers that are not here --------------------------------------------------------------------


def test_every_door_says_that_a_model_on_the_meta_device_has_no_numbers(tmp_path):
    said = "is on the meta device and has no numbers: load the model first"
    model = mlp()
    pk.attach(model, LORA, "all-linear")
    pk.save(move(model), tmp_path / "saved")
    pk.export_peft(model, tmp_path / "peft")
    written = sorted(path.name for path in tmp_path.rglob("*"))
    bare, adapted = mlp().to("meta"), model.to("meta")
    doors = {
        "attach": lambda: pk.attach(bare, LORA, "all-linear"),
        "attach another": lambda: pk.attach(adapted, LORA, ["0"], name="b"),
        "quantize": lambda: pk.quantize(bare),
        "load": lambda: pk.load(bare, tmp_path / "saved"),
        "load again": lambda: pk.load(adapted, tmp_path / "saved"),
        "import": lambda: pk.import_peft(bare, tmp_path / "peft"),
        "merge": lambda: pk.merge(adapted),
        "bake": lambda: pk.bake(adapted),
        "save": lambda: pk.save(adapted, tmp_path / "saved"),
        "export": lambda: pk.export_peft(adapted, tmp_path / "peft"),
        "delta_weights": lambda: pk.delta_weights(adapted),
    }
    for door, call in doors.items():
        with pytest.raises(pk.PerakitError) as caught:
            call()
        assert said in str(caught.value), (door, str(caught.value))
    assert repr(bare) == repr(mlp())
    assert repr(adapted) == repr(model)
    assert sorted(path.name for path in tmp_path.rglob("*")) == written


def test_fake_tensors_have_no_numbers():
    with torch._subclasses.FakeTensorMode():
        layer = nn.Linear(4, 3)
        assert missing(layer.weight).startswith("is a fake tensor and has no numbers")
        with pytest.raises(pk.PerakitError, match="is a fake tensor"):
            pk.attach(nn.Sequential(layer), LORA, ["0"])


@pytest.mark.parametrize("door", [pk.save, pk.export_peft])
@pytest.mark.parametrize("what", ["freed", "flat", "weight", "no parameter"])
def test_a_shard_is_not_written(door, what, tmp_path):
    """As FSDP leaves parameters between uses; a shard that is written looks like an adapter."""
    model = mlp()
    pk.attach(model, LORA, ["0"])
    adapter = model[0].adapter
    if what == "freed":
        adapter.A.untyped_storage().resize_(0)
        said = "its A has its storage freed (an FSDP or DeepSpeed shard): gather the parameters"
    elif what == "flat":
        adapter.A.data = adapter.A.data.flatten()[:5]
        said = "its A has shape (5,) where (2, 12) belongs (an FSDP or DeepSpeed shard?)"
    elif what == "weight":
        model[0].base.weight.data = torch.ones(9)
        said = "its weight has shape (9,) and is no matrix (an FSDP or DeepSpeed shard): gather"
    else:
        A = adapter.A.detach()
        del adapter.A
        adapter.A = A
        said = "its A are no parameters now (FSDP's use_orig_params=False): gather the parameters"
    with pytest.raises(pk.PerakitError) as caught:
        door(model, tmp_path / "out")
    assert f"layer '0': {said}" in str(caught.value), str(caught.value)
    assert not (tmp_path / "out").exists()
