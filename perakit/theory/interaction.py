"""Interaction strength: how two features act together on one output (arXiv 2604.11841, Eq. 12).

    S_ij = E |∂²f / ∂h_i ∂h_j|

It belongs to the function around the features. One linear layer x -> (W0 + ΔW) x has S = 0 exactly,
whatever method made ΔW: PERA is polynomial in its parameters and linear in its input.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from textwrap import shorten
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import jacrev, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from perakit.errors import PerakitError
from perakit.formulas import check_count
from perakit.theory.families import check_matrix


def interaction_strength(
    f: Callable[[Tensor], Tensor], points: Any, chunk: int | None = None
) -> np.ndarray:
    """S_ij = E |∂²f/∂h_i∂h_j|, the mean over `points`.

    f: torch function of one vector (d,) that returns a scalar tensor, twice differentiable; points:
    (N, d), one a row; a float tensor keeps its precision and device, anything else is read as
    float64. chunk: points that are worked on at a time, None = all N (memory grows with chunk ·
    d²).
    Returns (d, d), symmetric, >= 0; exactly 0 where f is linear, and for i ≠ j where it is a sum of
    functions of one entry each. Source: arXiv 2604.11841, Eq. 12.

    >>> interaction_strength(lambda x: x[0] * x[1] ** 2, [[1.0, 2.0], [1.0, -4.0]])
    array([[0., 6.],
           [6., 2.]])
    """
    checked = check_matrix("points", points)
    floating = isinstance(points, Tensor) and points.is_floating_point()
    # a copy: f may write to its argument
    where = points.detach().clone() if floating else torch.tensor(checked)
    if chunk is not None:
        check_count("chunk", chunk)
    _check_scalar(f, where[0])
    total = torch.zeros(where.shape[1], where.shape[1], dtype=torch.float64, device=where.device)
    for part in where.split(chunk or len(where)):
        try:
            # (chunk, d, d); more operations can reverse twice than go forward
            second = vmap(jacrev(jacrev(f)))(part).detach()
        except Exception as error:  # f is the caller's: torch may refuse it in many ways
            raise PerakitError(
                f"f has no second derivative that torch can compute ({_short(error)}): write it"
                " with smooth torch operations"
            ) from error
        total += second.double().abs().sum(0)
    return _finite(total / len(where))


def layer_interaction(
    model: nn.Module,
    layer: str,
    tokens: Any,
    features: int | Sequence[int] = 16,
    position: int = -1,
    output: Callable[[Any], Tensor] | None = None,
    seed: int = 0,
) -> np.ndarray:
    """S_ij of a live language model, as a function of one layer's input; the mean over windows.

    layer: name of a module whose first input is (N, T, n), with or without adapter; tokens: ids (N,
    T), one batch;
    features: which coordinates of the input vector are h, as indices, or how many to draw from
    `seed` (ascending).
    position: where in the window the vector sits, negative from the end. output: what the model
    returns -> (N,), one scalar f a window; by default the log-probability, at `position`, of the
    token that the model finds most likely there, the token held fixed. Computed in eval mode and in
    the model's precision; the model is afterwards as it was. Returns (d, d) in the order of
    `features`. Source: arXiv 2604.11841, Eq. 12.

    >>> model = pk.toy.GPT2(pk.toy.Config(n_embd=8, n_layer=1, n_head=2))
    >>> tokens = torch.tensor([[80, 69, 82, 65]])
    >>> S = pk.theory.layer_interaction(model, "transformer.h.0.mlp.c_fc", tokens, features=3)
    >>> S.shape, np.allclose(S, S.T)
    ((3, 3), True)
    """
    tokens = _check_tokens(model, tokens)
    module = _module(model, layer)
    time = tokens.shape[1]
    if not _is_integer(position) or not -time <= position < time:
        raise PerakitError(
            f"position={position!r} is outside a window of {time} tokens: choose {-time} ..."
            f" {time - 1}"
        )
    position %= time
    inputs: list[Tensor] = []

    def shift(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        x = _check_input(layer, args, tokens)  # (N, T, n)
        chosen = _choose(features, x.shape[-1], seed)
        z = x.new_zeros(len(x), len(chosen), requires_grad=True)  # (N, d)
        inputs.append(z)
        rows = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)[chosen]
        here = torch.tensor([position], device=x.device)
        return (x.index_add(1, here, (z @ rows)[:, None]), *args[1:])  # (N, d) @ (d, n) -> (N, n)

    # only the MATH kernel of attention has a second derivative
    with _untouched(model), torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        handle = module.register_forward_pre_hook(shift)
        try:
            answer = model(tokens)
        except IndexError as error:
            raise PerakitError(
                f"the model refuses tokens {int(tokens.min())} ... {int(tokens.max())}"
                f" ({_short(error)}): pass ids of its vocabulary"
            ) from error
        finally:
            handle.remove()
        if len(inputs) != 1:
            raise PerakitError(
                f"layer {layer!r} is used {len(inputs)} times in one forward pass: choose one that"
                " is used once"
            )
        value = _log_probability(answer, position) if output is None else output(answer)
        if (
            not isinstance(value, Tensor)
            or value.shape != (len(tokens),)
            or not value.is_floating_point()
        ):
            raise PerakitError(
                f"output returned {_describe(value)}: return one float a window, a tensor"
                f" ({len(tokens)},)"
            )
        return _finite(_mean_absolute_hessian(value, inputs[0]))


def _mean_absolute_hessian(value: Tensor, z: Tensor) -> Tensor:
    """Mean over n of |∂²value_n / ∂z_n∂z_n|: (N,), (N, d) -> (d, d)."""
    try:
        # Windows are independent: the derivatives of sums over n are those of each
        first = _gradient(value.sum(), z, again=True)  # (N, d)
        rows = [_gradient(first[:, k].sum(), z) for k in range(z.shape[1])]
    except (RuntimeError, NotImplementedError) as error:
        raise PerakitError(
            f"the model has no second derivative ({_short(error)}): load it with plain attention"
        ) from error
    return torch.stack(rows, dim=1).detach().double().abs().mean(0)


def _gradient(y: Tensor, z: Tensor, again: bool = False) -> Tensor:
    if not y.requires_grad:  # y is constant
        return torch.zeros_like(z)
    return torch.autograd.grad(
        (y,), (z,), retain_graph=True, create_graph=again, materialize_grads=True
    )[0]


def _log_probability(answer: Any, position: int) -> Tensor:
    logits = getattr(answer, "logits", answer)  # a tensor, or what transformers returns
    if not isinstance(logits, Tensor) or logits.ndim != 3:
        raise PerakitError(
            f"the model returned {_describe(logits)}, not logits (N, T, vocabulary): pass output, a"
            " function of it"
        )
    scores = logits[:, position].log_softmax(-1)  # (N, vocabulary)
    return scores.gather(1, scores.detach().argmax(-1, keepdim=True))[:, 0]


@contextmanager
def _untouched(model: nn.Module) -> Iterator[None]:
    """Within the block every module is in eval mode; afterwards each in its own."""
    before = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        yield
    finally:
        for module, training in before:
            module.training = training


# --- what callers get wrong -----------------------------------------------------------------------


def _check_scalar(f: Callable[[Tensor], Tensor], x: Tensor) -> None:
    try:
        value = f(x)
    except Exception as error:
        raise PerakitError(
            f"f fails on a torch vector ({len(x)},) ({_short(error)}): write it with torch"
            " operations"
        ) from error
    if not isinstance(value, Tensor) or value.shape != () or not value.is_floating_point():
        raise PerakitError(
            f"f returned {_describe(value)}: return a scalar float tensor, made with torch"
            " operations"
        )


def _check_tokens(model: Any, tokens: Any) -> Tensor:
    if not isinstance(model, nn.Module):
        raise PerakitError(f"the first argument is the model, a torch.nn.Module, not {model!r}")
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    try:
        ids = torch.as_tensor(tokens, device=device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise PerakitError(
            f"tokens are no array of integers ({_short(error)}): pass ids (N, T)"
        ) from error
    if (
        ids.ndim != 2
        or not ids.numel()
        or ids.is_floating_point()
        or ids.is_complex()
        or ids.dtype == torch.bool
    ):
        raise PerakitError(
            f"tokens are {_describe(ids)}: pass integer ids (N, T), one window a row"
        )
    return ids.long()


def _module(model: nn.Module, layer: Any) -> nn.Module:
    modules: dict[str, nn.Module] = dict(model.named_modules())
    if isinstance(layer, str) and layer in modules:
        return modules[layer]
    names = [name for name in modules if name]
    near = difflib.get_close_matches(str(layer), names, n=3, cutoff=0.4) or names[:3]
    raise PerakitError(
        f"the model has no layer {layer!r}: choose one such as {', '.join(near) or repr('')}"
    )


def _check_input(layer: str, args: tuple[Any, ...], tokens: Tensor) -> Tensor:
    x = args[0] if args else None
    if (
        not isinstance(x, Tensor)
        or x.ndim != 3
        or x.shape[:2] != tokens.shape
        or not x.is_floating_point()
    ):
        raise PerakitError(
            f"layer {layer!r} gets {_describe(x)} as its first input, not floats"
            f" {(*tokens.shape, 'n')}: choose a layer inside a block"
        )
    return x


def _choose(features: Any, width: int, seed: int) -> list[int]:
    if _is_integer(features):
        check_count("features", features)
        if features > width:
            raise PerakitError(
                f"features={features} is more than the layer's {width} inputs: choose at most"
                f" {width}"
            )
        return sorted(
            np.random.default_rng(seed).choice(width, int(features), replace=False).tolist()
        )
    try:
        chosen = list(features)
    except TypeError as error:
        raise PerakitError(
            f"features={features!r} is neither a count nor indices: pass 16, or [0, 5, 7]"
        ) from error
    for k in chosen:
        if not _is_integer(k) or not 0 <= k < width:
            raise PerakitError(
                f"feature {k!r} is not an input of the layer: choose from 0 ... {width - 1}"
            )
    if not chosen or len(set(chosen)) < len(chosen):
        raise PerakitError(
            f"features={chosen} must be distinct indices, at least one: leave out what is there"
            " twice"
        )
    return [int(k) for k in chosen]


def _is_integer(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _finite(strength: Tensor) -> np.ndarray:
    array = strength.cpu().numpy()
    if not np.isfinite(array).all():
        i, j = (int(k) for k in np.argwhere(~np.isfinite(array))[0])
        raise PerakitError(
            f"the second derivative by features {i} and {j} is {array[i, j]} at some point: move"
            " the points to where f is smooth"
        )
    return array


def _describe(value: Any) -> str:
    return (
        f"a {value.dtype} tensor {tuple(value.shape)}"
        if isinstance(value, Tensor)
        else f"{type(value).__name__} {str(value)[:40]!r}"
    )


def _short(error: BaseException) -> str:
    return f"{type(error).__name__}: {shorten(str(error), 100, placeholder=' ...')}"
