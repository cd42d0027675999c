"""Tests of the tests: break the code on purpose, and see the law that forbids it go red.

Each mutation is a mistake that somebody made: the released code of the paper, a well-known library,
or a tired evening.
"""

import contextlib
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import perakit as pk
from perakit import fast, formulas, models, strategies, testing
from perakit.adapters import DeLoRA, DoRA, HiRA, LoHa, MoRA, Quadratic, base
from perakit.adapters.delora import DeLoRAAdapter
from perakit.adapters.dora import DoRAAdapter
from perakit.adapters.loha import LoHaAdapter
from perakit.adapters.lora import LoRAAdapter
from perakit.adapters.mora import MoRAAdapter
from perakit.adapters.pera import PERAAdapter
from perakit.adapters.quadratic import QuadraticAdapter
from perakit.fast import gathered, kept, lean, plans, product, seam, windows
from perakit.fast.expanded import Expanded, Gathered
from perakit.fast.lean import LeanProduct
from perakit.fast.plans import PLANS, Way, use_plan
from perakit.models.adapted import AdaptedLayer, adapted_layers
from perakit.models.stand_in import Block

expand, monomials, rank_bound, windows_gradients = (
    formulas.expand,
    formulas.monomials,
    formulas.rank_bound,
    windows.gradients,
)
dora, normalise, khatri_rao = formulas.dora, formulas.normalise, formulas.khatri_rao
merged, multiply, product_gradients, to_factors = (
    product.merged,
    product.multiply,
    product._by_hand,
    product._to_factors,
)
FACTORED, DENSE = PLANS[0], PLANS[-1]
PERA_VALUE, PERA_GRADIENTS = Expanded.value, Expanded.gradients
LEAN_FORWARD, LEAN_BACKWARD = LeanProduct.forward, LeanProduct.backward
gathered_index, gathered_gradients = gathered.index, gathered.gradients
lean_expanded, by_graph, GATHERED_VALUE = lean.expanded, lean.by_graph, Gathered.value
quick, state_dict = fast.forward, torch.nn.Sequential.state_dict
# Shadowed by their functions
attaching, merging = sys.modules["perakit.models.attach"], sys.modules["perakit.models.merge"]
adapt, forward = attaching.adapt, AdaptedLayer.forward
plain, count, PLAIN_FACTORS = base.Additive.forward, base.Method.count, LoRAAdapter.factors
planned, arguments = seam._multiplied, PERAAdapter.arguments


@dataclass
class Mutation:
    """What is broken, how, and which law sees it on which case."""

    name: str
    law: Callable[..., None]
    where: tuple[object, str]
    broken: object
    method: pk.Method = field(default_factory=lambda: pk.PERA(rank=3, alpha=5))
    dtype: torch.dtype = torch.float64

    def case(self) -> tuple[pk.Method, torch.nn.Module]:
        return self.method, strategies.make_layer("Linear", 7, 11, dtype=self.dtype, seed=2)


# --- the formula ----------------------------------------------------------------------------------


def without_polynomial(B, A, h, *options):
    return expand(B, A, 0 * h, *options)


def value_without_polynomial(self, B, A, h):
    return PERA_VALUE(self, B, A, 0 * h)


def value_without_h(self, B, A, h):
    return PERA_VALUE(self, B, A, 1 + 0 * h)


def value_of_h_squared(self, B, A, h):
    return PERA_VALUE(self, B, A, h * h)


def value_of_another_h(self, B, A, h):
    """(b_i∘b_j)(a_i∘a_j)ᵀ meets the h of another pair."""
    return PERA_VALUE(self, B, A, h.flip(0))


def column_order(rank, terms="full", degree=2):
    """The pairs of `np.tril_indices` transposed: the same set, another order of h."""
    return [
        block[:, sorted(range(block.shape[1]), key=lambda k: tuple(block[::-1, k]))]
        for block in monomials(rank, terms, degree)
    ]


def strictly_less(rank, terms="full", degree=2):
    return monomials(rank, "cross" if terms == "full" else terms, degree)


def bound_of_strictly_less(rank, terms="full", degree=2):
    return rank_bound(rank, "cross" if terms == "full" else terms, degree)


def h_without_gradient(*arguments):
    to_B, to_A, to_h = PERA_GRADIENTS(*arguments)
    return to_B, to_A, 0 * to_h


def too_low_bound(self, m, n):
    return min(m, n, 2 * self.rank)


def loose_bound(self, m, n):
    return min(m, n)


def squares_differentiated_as_products(room, r, *rest):
    """b_i∘b_i has the gradient b_i, not 2 b_i."""
    room[4 * r : 5 * r] /= 2
    return windows_gradients(room, r, *rest)


def gradient_of_A_without_h(self, parameters, factors, to_left, to_right, to_weight):
    return PERA_GRADIENTS(
        self, parameters, factors, to_left, to_right.div_(factors.weight[:, None]), to_weight
    )


# --- the product ----------------------------------------------------------------------------------


def under(plan, law):
    """The law where every layer follows `plan`."""

    def law_under_plan(method, layer):
        with use_plan(plan):
            law(method, layer)

    law_under_plan.__name__ = law.__name__
    return law_under_plan


def update_alone(W0, *factors):
    return merged(None, *factors)


def bias_again(dense, x, W0, bias, *factors):
    y, z = multiply(dense, x, W0, bias, *factors)
    return (y if bias is None else y + bias), z


def base_without_gradient(rule, plan, made, needs, g, z, x, W0, *rest):
    to_x, *others = product_gradients(rule, plan, made, needs, g, z, x, W0, *rest)
    return to_x - g @ W0, *others


def no_input_gradient(*arguments):
    _, *others = product_gradients(*arguments)
    return None, *others


def other_rows(rule, plan, made, needs, g, z, *rest):
    """z kept, and in another order than x."""
    return product_gradients(rule, plan, made, needs, g, None if z is None else z.flip(0), *rest)


def other_inputs(rule, plan, made, needs, g, z, x, *rest):
    """The right gradient by x, and those by the parameters from its rows in another order."""
    return (
        product_gradients(rule, plan, made, needs, g, z, x, *rest)[0],
        *product_gradients(rule, plan, made, needs, g, z, x.flip(0), *rest)[1:],
    )


def unweighted(dense, x, W0, bias, factors):
    return multiply(dense, x, W0, bias, factors._replace(weight=None))


def unscaled_gradient_of_h(self, *arguments):
    to_B, to_A, to_h = PERA_GRADIENTS(self, *arguments)
    return to_B, to_A, to_h / self.scale


def gradient_by_the_scaled_h(self):
    """The gradient by feature_scale · h, taken for that by h."""
    B, A, h, *rest = arguments(self)
    return B, A, self.h + (h - self.h).detach(), *rest


def unweighted_sums(factors, *pairs):
    """Where many tokens are summed, or through (m, n)."""
    return to_factors(factors._replace(weight=torch.ones_like(factors.weight)), *pairs)


# --- the lean way ---------------------------------------------------------------------------------


def leanly(law):
    return under("lean", law)


def made_again(law):
    """The law where the lean way keeps no features: the backward pass makes them again."""

    def law_made_again(method, layer):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(plans, "asked", lambda *_: Way(FACTORED, lean=True, keep=False))
            law(method, layer)

    law_made_again.__name__ = law.__name__
    return law_made_again


def other_pairs(*of):
    """One place further, in the gather alone: the gradients are of what was asked for."""
    index = gathered_index(*of)
    return index._replace(pairs=index.pairs.roll(1))


def other_rows_beside(*of):
    """And the other way round."""
    index = gathered_index(*of)
    return index._replace(to_rows=index.to_rows.flip(0))


def squares_once(rows, to_features, m, terms, index):
    """b_i∘b_i has the gradient b_i, not 2 b_i."""
    i, j = formulas.pairs(len(index.ones), terms)
    halved = torch.ones(len(to_features), 1, dtype=to_features.dtype)
    halved[len(index.ones) :][torch.as_tensor(i == j)] = 0.5
    return gathered_gradients(rows, to_features * halved, m, terms, index)


def diagonal_stays(rows, to_features, m, terms, index):
    """Where there are no squares, something else stands in their place."""
    return gathered_gradients(rows, to_features, m, "full", index)


def parameters_for_features(rows, to_features, m, terms, index):
    """Of A its rows in another order."""
    return gathered_gradients(rows.flip(0), to_features, m, terms, index)


def expanded_without_h(source, dtype, B, A, h, index):
    return lean_expanded(source, dtype, B, A, 1 + 0 * h, index)


def expanded_without_scale(source, dtype, B, A, h, index):
    features, weight = lean_expanded(source, dtype, B, A, h, index)
    return features, weight / source.scale


def value_of_another_h_without_a_graph(self, B, A, h):
    return GATHERED_VALUE(self, B, A, h.flip(0))


@staticmethod
def lean_bias_again(ctx, source, keep, x, W0, bias, *rest):
    return LEAN_FORWARD(ctx, source, keep, x, W0, bias, *rest) + bias


@staticmethod
def lean_without_base(ctx, source, keep, x, W0, *rest):
    return LEAN_FORWARD(ctx, source, keep, x, 0 * W0, *rest)


def with_gradients(change):
    """LeanProduct's backward pass, with the gradients by x, B, A and h as `change` says."""

    def backward(ctx, g):
        source, keep, to_x, W0, bias, *others = LEAN_BACKWARD(ctx, g)
        return source, keep, *change(ctx, g, to_x, W0, bias, *others)

    return staticmethod(backward)


def with_saved(change):
    """LeanProduct's backward pass, of what `change` makes of the tensors that were saved."""

    def backward(ctx, g):
        saved = change(*ctx.saved_tensors)
        return LEAN_BACKWARD(
            SimpleNamespace(
                saved_tensors=saved,
                source=ctx.source,
                index=ctx.index,
                needs_input_grad=ctx.needs_input_grad,
            ),
            g,
        )

    return staticmethod(backward)


@with_gradients
def lean_h_without_gradient(ctx, g, *gradients):
    *others, to_h = gradients
    return *others, 0 * to_h


@with_gradients
def lean_gradient_of_h_unscaled(ctx, g, *gradients):
    *others, to_h = gradients
    return *others, to_h / ctx.source.scale


@with_gradients
def lean_without_input_gradient(ctx, g, to_x, *others):
    return None, *others


@with_gradients
def lean_base_without_gradient(ctx, g, to_x, *others):
    return to_x - g @ ctx.saved_tensors[2], *others


@with_saved
def lean_z_of_other_rows(z, *others):
    return z.flip(0), *others


@with_saved
def lean_z_with_the_weights(z, *others):
    """What is kept has the weights already, and gets them once more."""
    return z * others[-1], *others


@with_saved
def lean_features_of_the_weights(*tensors):
    *others, features, weight = tensors
    return *others, features * weight[:, None], weight


@with_saved
def lean_made_again_without_h(z, x, W0, bias, B, A, h):
    return z, x, W0, bias, B, A, 0 * h


def by_graph_unscaled(x, W0, bias, scale, B, A):
    return by_graph(x, W0, bias, 1, B, A)


def by_graph_bias_again(x, W0, bias, *rest):
    return by_graph(x, W0, bias, *rest) + bias


def by_graph_detached(x, W0, bias, scale, B, A):
    return by_graph(x, W0, bias, scale, B, A.detach())


def by_graph_wide(x, W0, bias, scale, B, A):
    """In the parameters' precision, and back to nobody's."""
    return torch.nn.functional.linear(x, W0, bias) + scale * (x.to(A.dtype) @ A.T @ B.T)


# --- the layer ------------------------------------------------------------------------------------


def unscaled(self):
    return self.B, self.A


def bias_twice(x, W0, bias, *rest):
    return quick(x, W0, bias, *rest) + (0 if bias is None else bias)


def bias_in_the_update(self, x, W0):
    return plain(self, x, W0) + 1


def dropout_on_base(x, W0, bias, linear, adapters):
    (adapter,) = adapters
    dropped = torch.nn.functional.dropout(x, adapter.method.dropout, adapter.training)
    return no_dropout(dropped, W0, bias, linear, adapters)


def no_dropout(x, W0, bias, linear, adapters):
    (adapter,) = adapters
    training, adapter.training = adapter.training, False
    y = quick(x, W0, bias, linear, adapters)
    adapter.training = training
    return y


def no_plain_dropout(self, x, W0):
    B_hat, A_hat = self.factors()
    return x.to(A_hat.dtype) @ A_hat.T @ B_hat.T


def wide_output(x, W0, bias, *rest):
    return quick(x.float(), W0.float(), bias.float(), *rest)


def both_random(self, W0):
    torch.nn.init.normal_(self.A)
    torch.nn.init.normal_(self.B)


def moves_as_any_module(self, fn, recurse=True):
    return torch.nn.Module._apply(self, fn, recurse)


def dead(self, x):
    return self.base(x)


# --- what one does to a model ---------------------------------------------------------------------


def add_into_the_weight(model, dequantize=False):
    """W0 += ΔW, as much code does it ..."""
    for layer in adapted_layers(model).values():
        if layer.merged is None:
            delta = layer.adapter.delta(layer.W0).detach()
            layer.W0.data += delta.to(layer.W0.dtype)
            layer.merged = layer.W0.detach()


def subtract_from_the_weight(model):
    """... and W0 -= ΔW."""
    for layer in adapted_layers(model).values():
        if layer.merged is not None:
            layer.W0.data -= layer.adapter.delta(layer.W0).detach().to(layer.W0.dtype)
            layer.merged = None


def sum_in_base_precision(self, delta):
    return self.W0 + delta.to(self.W0.dtype)


def delta_in_adapter_precision(self):
    return self.adapter.delta(self.W0).detach()


def nothing_to_unmerge(model):
    return None


def state_with_the_sum(self, *args, **kwargs):
    state = state_dict(self, *args, **kwargs)
    if self[0].merged is not None:
        state["0.merged"] = self[0].merged
    return state


def sum_stays_after_loading(layer, _):
    return None


def not_frozen(model, methods, *given, **options):
    adapt(model, methods, *given, **options)
    for layer in adapted_layers(model).values():
        layer.base.requires_grad_(True)


def nothing_shared(model):
    return {}


@contextlib.contextmanager
def nothing(model):
    yield


@contextlib.contextmanager
def enable_on_exit(model):
    """Forgets that an outer block was there."""
    block = Block()
    block.on = True
    for layer in adapted_layers(model).values():
        layer.blocks = (block,)
    yield
    for layer in adapted_layers(model).values():
        layer.blocks = ()


def graph_break(self, x):
    print(end="")
    return forward(self, x)


def half_read_weight(self, W0=None):
    """ΔW rounded to the base's precision before it is used."""
    B_hat, A_hat = self.factors()
    return (B_hat @ A_hat).to(torch.bfloat16).to(B_hat.dtype)


# --- other methods --------------------------------------------------------------------------------


def dora_by_columns(W0, B, A, magnitude, scale=1, norm=None):
    V = W0 + scale * (B @ A)
    return magnitude[:, None] * V / (V * V).sum(0).sqrt() - W0


def dora_adds_only(W0, B, A, magnitude, scale=1, norm=None):
    """The sum is not taken back to W0: W' in place of ΔW."""
    return dora(W0, B, A, magnitude, scale, norm) + W0


def length_with_gradient(self, W0):
    return formulas.row_norm(W0 + self.method.scale * (self.B @ self.A))


def length_of_the_start(self, W0):
    """The length of W0's rows, not of V's."""
    return formulas.row_norm(W0.detach())


def length_of_no_rounding(self, W0):
    """Exact when it merges, where the magnitude is not."""
    return formulas.row_norm((W0 + self.method.scale * (self.B @ self.A)).detach().double()).to(
        W0.dtype
    )


def hira_with_one(W0, B, A):
    return W0 * (1 + B @ A)


def hira_without_weight(W0, B, A):
    return B @ A + 0 * W0


def blocks_for_remainders(M, m, n):
    """p div, where p mod is meant."""
    size = M.shape[0]
    rows, columns = (np.minimum(np.arange(k) // -(-k // size), size - 1) for k in (m, n))
    return M[rows], torch.as_tensor(np.arange(size)[:, None] == columns, dtype=M.dtype)


def clamped_after_the_root(V, floor=1e-36):
    """√ first: its slope at zero is infinite, and inf · 0 is no number."""
    return (V * V).sum(1).sqrt().clamp(min=floor**0.5)


def without_columns(W0, B, A, lam):
    return normalise(torch.ones_like(W0) / W0.shape[0] ** 0.5, B, A, lam)


def without_rank(W0, B, A, lam):
    """λ, not λ/r."""
    return normalise(W0, B, A, lam * A.shape[0])


def unscaled_product(self, W0):
    return formulas.normalise(W0, self.B, self.A, self.lam)


def one_pair(B1, A1, B2, A2):
    """b1_i∘b2_i alone: r terms of r²."""
    return B1 * B2, A1 * A2


def without_second_B(B1, A1, B2, A2):
    return khatri_rao(B1, A1, torch.ones_like(B2), A2)


def both_pairs_random(self, W0):
    for factor in self.parameters():
        torch.nn.init.normal_(factor)


def not_squared(x, U, P):
    return x @ U.T @ P.T


def zero_everywhere(self, W0):
    for factor in self.parameters():
        torch.nn.init.zeros_(factor)


def a_matrix_after_all(self, W0):
    """What it does to the identity."""
    return self(torch.eye(W0.shape[1], dtype=W0.dtype), W0).T


def linear_update(self, x, W0):
    return self.method.scale * (x @ self.U.T @ self.P.T)


def twice_in_a_sum(x, W0, *rest):
    return (2 if W0 is None else 1) * planned(x, W0, *rest)


def twice(self, x, W0):
    return 2 * plain(self, x, W0)


def drops_others(x, W0, bias, linear, adapters):
    return quick(x, W0, bias, linear, adapters[:1])


def unscaled_update(self, W0, **factors):
    return formulas.lora(**factors)


def unscaled_pattern(self, W0, **factors):
    return formulas.hira(W0, **factors)


def dora_unscaled(self, W0, **factors):
    """The scale is inside, so only the reading can tell."""
    return formulas.dora(W0, **factors)


def kept_for_ever(self):
    if getattr(self, "kept", None) is None:
        self.kept = PLAIN_FACTORS(self)
    return self.kept


def one_too_few(self, m, n):
    return count(self, m, n) - 1


def rank_alone(self, m, n):
    return min(m, n, self.rank)


LORA = pk.LoRA(rank=3, alpha=5)
DORA, HIRA, MORA, DELORA, LOHA, QUADRATIC = (
    cls(rank=2, alpha=3) for cls in (DoRA, HiRA, MoRA, DeLoRA, LoHa, Quadratic)
)
DROPPING = pk.PERA(rank=3, dropout=0.3)
MUTATIONS = [
    Mutation(
        "polynomial part dropped",
        under(FACTORED, testing.law_3_dense_forward),
        (Expanded, "value"),
        value_without_polynomial,
    ),
    Mutation(
        "polynomial part dropped, plain",
        testing.law_4_merge,
        (PERAAdapter, "rule"),
        staticmethod(without_polynomial),
    ),
    Mutation(
        "h is not trained",
        under(FACTORED, testing.law_8_gradients),
        (Expanded, "gradients"),
        h_without_gradient,
    ),
    Mutation(
        "h is not used",
        under(FACTORED, testing.law_3_dense_forward),
        (Expanded, "value"),
        value_without_h,
    ),
    Mutation(
        "h is not trained, against finite differences",
        under(FACTORED, testing.law_9_dense_gradients),
        (Expanded, "gradients"),
        h_without_gradient,
    ),
    Mutation(
        "squares differentiated as products",
        under(FACTORED, testing.law_9_dense_gradients),
        (windows, "gradients"),
        squares_differentiated_as_products,
    ),
    Mutation(
        "A's gradient without h",
        under(FACTORED, testing.law_9_dense_gradients),
        (Expanded, "gradients"),
        gradient_of_A_without_h,
    ),
    Mutation(
        "the weight forgotten",
        under(FACTORED, testing.law_3_dense_forward),
        (product, "multiply"),
        unweighted,
    ),
    Mutation(
        "the weight forgotten in the dense sum",
        under(DENSE, testing.law_3_dense_forward),
        (product, "multiply"),
        unweighted,
    ),
    Mutation(
        "the weight forgotten in sums",
        under(DENSE, testing.law_9_dense_gradients),
        (product, "_to_factors"),
        unweighted_sums,
    ),
    Mutation(
        "the scale forgotten in the gradient",
        under(FACTORED, testing.law_9_dense_gradients),
        (Expanded, "gradients"),
        unscaled_gradient_of_h,
    ),
    Mutation(
        "feature_scale forgotten in the gradient",
        testing.law_9_dense_gradients,
        (PERAAdapter, "arguments"),
        gradient_by_the_scaled_h,
        pk.PERA(rank=2, feature_scale=8.0),
    ),
    Mutation(
        "W0 forgotten in the dense sum",
        under(DENSE, testing.law_3_dense_forward),
        (product, "merged"),
        update_alone,
    ),
    Mutation(
        "bias twice, factored",
        under(FACTORED, testing.law_3_dense_forward),
        (product, "multiply"),
        bias_again,
    ),
    Mutation(
        "bias twice, dense, at the start",
        under(DENSE, testing.law_1_no_op_at_init),
        (product, "multiply"),
        bias_again,
    ),
    Mutation(
        "W0 forgotten in the gradient",
        under(DENSE, testing.law_9_dense_gradients),
        (product, "_by_hand"),
        base_without_gradient,
    ),
    Mutation(
        "no gradient by the input",
        under(FACTORED, testing.law_8_gradients),
        (product, "_by_hand"),
        no_input_gradient,
    ),
    Mutation(
        "z of other rows",
        under(FACTORED, testing.law_9_dense_gradients),
        (product, "_by_hand"),
        other_rows,
    ),
    Mutation(
        "x of other rows",
        under(DENSE, testing.law_9_dense_gradients),
        (product, "_by_hand"),
        other_inputs,
    ),
    Mutation(
        "an expansion kept for ever",
        testing.law_3_dense_forward,
        (kept, "_same"),
        lambda one, other: True,
    ),
    Mutation(
        "h squared",
        under(FACTORED, testing.law_3_dense_forward),
        (Expanded, "value"),
        value_of_h_squared,
    ),
    Mutation(
        "h squared, gradient",
        under(FACTORED, testing.law_9_dense_gradients),
        (Expanded, "value"),
        value_of_h_squared,
    ),
    Mutation(
        "h in another order",
        under(FACTORED, testing.law_3_dense_forward),
        (Expanded, "value"),
        value_of_another_h,
    ),
    Mutation(
        "pairs in column order",
        under("reference", testing.law_3_dense_forward),
        (formulas, "monomials"),
        column_order,
    ),
    Mutation(
        "other pairs, lean", leanly(testing.law_3_dense_forward), (gathered, "index"), other_pairs
    ),
    Mutation(
        "h is not used, lean",
        leanly(testing.law_3_dense_forward),
        (lean, "expanded"),
        expanded_without_h,
    ),
    Mutation(
        "scale forgotten, lean",
        leanly(testing.law_3_dense_forward),
        (lean, "expanded"),
        expanded_without_scale,
    ),
    Mutation(
        "bias twice, lean",
        leanly(testing.law_1_no_op_at_init),
        (LeanProduct, "forward"),
        lean_bias_again,
    ),
    Mutation(
        "W0 forgotten, lean",
        leanly(testing.law_3_dense_forward),
        (LeanProduct, "forward"),
        lean_without_base,
    ),
    Mutation(
        "h in another order, lean, without a graph",
        leanly(testing.law_3_dense_forward),
        (Gathered, "value"),
        value_of_another_h_without_a_graph,
    ),
    *(
        Mutation(
            f"{name}, rank {rank}, lean",
            leanly(testing.law_9_dense_gradients),
            (gathered, where),
            broken,
            pk.PERA(rank, alpha=5, terms=terms),
        )
        for name, where, broken, terms in (
            ("squares differentiated as products", "gradients", squares_once, "full"),
            ("squares alone differentiated as products", "gradients", squares_once, "square"),
            ("other rows beside", "gradients", parameters_for_features, "full"),
            ("gradients to other rows", "index", other_rows_beside, "full"),
        )
        for rank in (3, 17)
        if not (where == "index" and rank == 17)
    ),
    Mutation(
        "the diagonal stays, lean",
        leanly(testing.law_9_dense_gradients),
        (gathered, "gradients"),
        diagonal_stays,
        pk.PERA(rank=17, alpha=5, terms="cross"),
    ),
    Mutation(
        "h is not trained, lean",
        leanly(testing.law_8_gradients),
        (LeanProduct, "backward"),
        lean_h_without_gradient,
    ),
    *(
        Mutation(
            f"{name}, lean",
            leanly(testing.law_9_dense_gradients),
            (LeanProduct, "backward"),
            broken,
        )
        for name, broken in (
            ("h is not trained, against finite differences", lean_h_without_gradient),
            ("the scale forgotten in the gradient", lean_gradient_of_h_unscaled),
            ("W0 forgotten in the gradient", lean_base_without_gradient),
            ("z of other rows", lean_z_of_other_rows),
            ("z kept with the weights", lean_z_with_the_weights),
            ("features kept with the weights", lean_features_of_the_weights),
        )
    ),
    Mutation(
        "features made again without h",
        made_again(testing.law_9_dense_gradients),
        (LeanProduct, "backward"),
        lean_made_again_without_h,
    ),
    Mutation(
        "no gradient by the input, lean",
        leanly(testing.law_8_gradients),
        (LeanProduct, "backward"),
        lean_without_input_gradient,
    ),
    Mutation(
        "scale forgotten, by graph",
        leanly(testing.law_3_dense_forward),
        (seam, "by_graph"),
        by_graph_unscaled,
        LORA,
    ),
    Mutation(
        "bias twice, by graph",
        leanly(testing.law_1_no_op_at_init),
        (seam, "by_graph"),
        by_graph_bias_again,
        LORA,
    ),
    Mutation(
        "A is not trained, by graph",
        leanly(testing.law_8_gradients),
        (seam, "by_graph"),
        by_graph_detached,
        LORA,
    ),
    Mutation(
        "output in float32, by graph",
        leanly(testing.law_3_dense_forward),
        (seam, "by_graph"),
        by_graph_wide,
        LORA,
        torch.bfloat16,
    ),
    Mutation("PERA read as LoRA", testing.law_10_readings, (PERAAdapter, "factors"), unscaled),
    Mutation("rank bound 2r", testing.law_11_rank, (pk.PERA, "rank_bound"), too_low_bound),
    Mutation(
        "rank bound min(m, n)",
        testing.law_11_rank,
        (pk.PERA, "rank_bound"),
        loose_bound,
        method=pk.PERA(rank=1),
    ),
    Mutation(
        "scale forgotten", testing.law_3_dense_forward, (LoRAAdapter, "factors"), unscaled, LORA
    ),
    Mutation(
        "scale forgotten, no oracle", testing.law_3_scale, (LoRAAdapter, "factors"), unscaled, LORA
    ),
    Mutation(
        "scale forgotten, reading",
        testing.law_10_readings,
        (LoRAAdapter, "factors"),
        unscaled,
        LORA,
    ),
    Mutation(
        "scale forgotten, merged", testing.law_4_merge, (LoRAAdapter, "factors"), unscaled, LORA
    ),
    Mutation("bias passed twice", testing.law_3_dense_forward, (fast, "forward"), bias_twice),
    Mutation(
        "bias in the update, plain",
        under("reference", testing.law_1_no_op_at_init),
        (base.Additive, "forward"),
        bias_in_the_update,
    ),
    Mutation(
        "bias passed twice, at the start",
        testing.law_1_no_op_at_init,
        (fast, "forward"),
        bias_twice,
    ),
    Mutation(
        "dropout on the base",
        testing.law_dropout,
        (fast, "forward"),
        dropout_on_base,
        DROPPING,
    ),
    Mutation(
        "dropout on the base, at the start",
        testing.law_1_no_op_at_init,
        (fast, "forward"),
        dropout_on_base,
        DROPPING,
    ),
    Mutation(
        "dropout stored, unused",
        testing.law_dropout,
        (fast, "forward"),
        no_dropout,
        DROPPING,
    ),
    Mutation(
        "dropout stored, unused, plain",
        under("reference", testing.law_dropout),
        (base.Additive, "forward"),
        no_plain_dropout,
        DROPPING,
    ),
    Mutation(
        "output in float32",
        testing.law_3_dense_forward,
        (fast, "forward"),
        wide_output,
        dtype=torch.bfloat16,
    ),
    Mutation(
        "both factors random",
        testing.law_1_no_op_at_init,
        (LoRAAdapter, "reset"),
        both_random,
        LORA,
    ),
    Mutation("adapter ignored", testing.law_2_differs, (AdaptedLayer, "forward"), dead),
    Mutation(
        "adapter follows .half()",
        testing.law_12_dtypes,
        (base.Adapter, "_apply"),
        moves_as_any_module,
        dtype=torch.float32,
    ),
    Mutation("base not frozen", testing.law_8_gradients, (attaching, "adapt"), not_frozen),
    Mutation(
        "merge adds in the base's precision",
        testing.law_4_merge,
        (AdaptedLayer, "sum_with"),
        sum_in_base_precision,
        dtype=torch.bfloat16,
    ),
    Mutation(
        "ΔW rounded before the sum",
        testing.law_4_merge,
        (PERAAdapter, "delta"),
        half_read_weight,
        dtype=torch.bfloat16,
    ),
    Mutation(
        "ΔW multiplied in float32",
        testing.law_4_merge,
        (AdaptedLayer, "exact_delta"),
        delta_in_adapter_precision,
        dtype=torch.float32,
    ),
    Mutation(
        "unmerge does nothing", testing.law_5_restore, (models, "unmerge"), nothing_to_unmerge
    ),
    Mutation("disabled does nothing", testing.law_5_restore, (models, "disabled"), nothing),
    Mutation(
        "disabled enables on exit", testing.law_6_idempotent, (models, "disabled"), enable_on_exit
    ),
    Mutation(
        "the sum in the state dict",
        testing.law_12_state_dict,
        (torch.nn.Sequential, "state_dict"),
        state_with_the_sum,
    ),
    Mutation(
        "the sum is stale after loading",
        testing.law_12_state_dict,
        (models.adapted, "_merge_again"),
        sum_stays_after_loading,
    ),
    Mutation(
        "DoRA measures columns",
        testing.law_3_dense_forward,
        (formulas, "dora"),
        dora_by_columns,
        DORA,
    ),
    Mutation(
        "DoRA measures columns, merged",
        testing.law_4_merge,
        (formulas, "dora"),
        dora_by_columns,
        DORA,
    ),
    Mutation(
        "DoRA gives W' for ΔW",
        testing.law_1_no_op_at_init,
        (formulas, "dora"),
        dora_adds_only,
        DORA,
    ),
    Mutation(
        "DoRA's length has a gradient",
        testing.law_9_dense_gradients,
        (DoRAAdapter, "length"),
        length_with_gradient,
        DORA,
    ),
    Mutation(
        "DoRA divides by W0's length",
        testing.law_3_dense_forward,
        (DoRAAdapter, "length"),
        length_of_the_start,
        DORA,
    ),
    Mutation(
        "DoRA's merge has a length of its own",
        testing.law_1_no_op_at_init,
        (DoRAAdapter, "length"),
        length_of_no_rounding,
        DORA,
        torch.float32,
    ),
    Mutation(
        "HiRA is W0∘(1 + BA)", testing.law_1_no_op_at_init, (formulas, "hira"), hira_with_one, HIRA
    ),
    Mutation(
        "HiRA is LoRA", testing.law_3_dense_forward, (formulas, "hira"), hira_without_weight, HIRA
    ),
    Mutation(
        "HiRA is LoRA, rank", testing.law_11_rank, (formulas, "hira"), hira_without_weight, HIRA
    ),
    Mutation(
        "MoRA divides for remainders",
        testing.law_3_dense_forward,
        (MoRAAdapter, "rule"),
        staticmethod(blocks_for_remainders),
        MORA,
    ),
    Mutation("MoRA of rank r", testing.law_11_rank, (MoRA, "rank_bound"), rank_alone, MORA),
    Mutation(
        "DeLoRA clamps after the root",
        testing.law_8_gradients,
        (formulas, "row_norm"),
        clamped_after_the_root,
        DELORA,
    ),
    Mutation(
        "DeLoRA forgets W0's columns",
        testing.law_3_dense_forward,
        (formulas, "normalise"),
        without_columns,
        DELORA,
    ),
    Mutation(
        "DeLoRA forgets the rank",
        testing.law_3_dense_forward,
        (formulas, "normalise"),
        without_rank,
        DELORA,
    ),
    Mutation(
        "DeLoRA forgets the scale",
        testing.law_3_scale,
        (DeLoRAAdapter, "product"),
        unscaled_product,
        DELORA,
    ),
    Mutation(
        "DeLoRA of rank min(m, n)", testing.law_11_rank, (DeLoRA, "rank_bound"), loose_bound, DELORA
    ),
    Mutation(
        "LoHa has r terms",
        testing.law_3_dense_forward,
        (LoHaAdapter, "rule"),
        staticmethod(one_pair),
        LOHA,
    ),
    Mutation(
        "LoHa has r terms, rank",
        testing.law_11_rank,
        (LoHaAdapter, "rule"),
        staticmethod(one_pair),
        LOHA,
    ),
    Mutation(
        "LoHa misses a factor",
        testing.law_4_merge,
        (LoHaAdapter, "rule"),
        staticmethod(without_second_B),
        LOHA,
    ),
    Mutation(
        "LoHa misses a factor, gradient",
        testing.law_8_gradients,
        (LoHaAdapter, "rule"),
        staticmethod(without_second_B),
        LOHA,
    ),
    Mutation(
        "LoHa starts anywhere",
        testing.law_1_no_op_at_init,
        (LoHaAdapter, "reset"),
        both_pairs_random,
        LOHA,
    ),
    Mutation(
        "Quadratic is linear",
        testing.law_3_dense_forward,
        (formulas, "quadratic"),
        not_squared,
        QUADRATIC,
    ),
    Mutation(
        "Quadratic starts at a saddle",
        testing.law_8_gradients,
        (QuadraticAdapter, "reset"),
        zero_everywhere,
        QUADRATIC,
    ),
    Mutation(
        "Quadratic pretends to be a matrix",
        testing.law_4_merge,
        (QuadraticAdapter, "delta"),
        a_matrix_after_all,
        QUADRATIC,
    ),
    Mutation(
        "Quadratic of too small a span",
        testing.law_11_rank,
        (Quadratic, "rank_bound"),
        lambda self, m, n: 1,
        QUADRATIC,
    ),
    Mutation(
        "Quadratic is a matrix",
        testing.law_3_dense_forward,
        (QuadraticAdapter, "forward"),
        linear_update,
        QUADRATIC,
    ),
    Mutation(
        "scale forgotten in the reading",
        testing.law_10_readings,
        (pk.LoRA, "update"),
        unscaled_update,
        pk.LoRA(rank=3),
    ),
    Mutation(
        "scale forgotten in layer and reading",
        testing.law_3_scale,
        (HiRA, "update"),
        unscaled_pattern,
        HiRA(rank=2),
    ),
    Mutation(
        "DoRA's reading forgets the scale",
        testing.law_10_readings,
        (DoRA, "update"),
        dora_unscaled,
        DoRA(rank=2),
    ),
    Mutation(
        "a scale of 1 hides nothing, forward",
        testing.law_3_dense_forward,
        (LoRAAdapter, "factors"),
        unscaled,
        pk.LoRA(rank=3),
    ),
    Mutation(
        "a scale of 1 hides nothing, merge",
        testing.law_4_merge,
        (LoRAAdapter, "factors"),
        unscaled,
        pk.LoRA(rank=3),
    ),
    Mutation(
        "a scale of 1 hides nothing, gradient",
        testing.law_9_dense_gradients,
        (LoRAAdapter, "factors"),
        unscaled,
        pk.LoRA(rank=3),
    ),
    Mutation(
        "factors kept for ever",
        testing.law_3_dense_forward,
        (LoRAAdapter, "factors"),
        kept_for_ever,
        LORA,
    ),
    Mutation(
        "an update twice too large in a sum",
        testing.law_sum,
        (seam, "_multiplied"),
        twice_in_a_sum,
    ),
    Mutation(
        "an update twice too large in a sum, plain",
        under("reference", testing.law_sum),
        (base.Additive, "forward"),
        twice,
    ),
    Mutation("a forward without the others", testing.law_sum, (fast, "forward"), drops_others),
    Mutation(
        "a forward without the others, half precision",
        testing.law_sum,
        (fast, "forward"),
        drops_others,
        dtype=torch.bfloat16,
    ),
    Mutation(
        "one parameter is not counted", testing.law_8_gradients, (base.Method, "count"), one_too_few
    ),
    Mutation(
        "a tied weight is merged", testing.law_12_tied, (merging, "shared_weights"), nothing_shared
    ),
]
mutations = pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)


@mutations
def test_the_law_is_red_when_the_code_is_broken(mutation, monkeypatch):
    method, layer = mutation.case()
    mutation.law(method, layer)  # green first: red is then the mutation's doing
    monkeypatch.setattr(*mutation.where, mutation.broken)
    with pytest.raises(AssertionError) as error:
        mutation.law(method, layer)
    number = mutation.law.__name__.removeprefix("law_").split("_")[0]
    assert str(error.value).startswith(f"law {number}" if number.isdigit() else number)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=["bfloat16", "float32"])
def test_unmerge_by_subtraction_is_seen(dtype, monkeypatch):
    """W += ΔW; W -= ΔW does not come back: 0.8 % drift in bfloat16 in a library of the field."""
    method, layer = pk.PERA(rank=3), strategies.make_layer("Linear", 7, 11, dtype=dtype)
    monkeypatch.setattr(models, "merge", add_into_the_weight)
    monkeypatch.setattr(models, "unmerge", subtract_from_the_weight)
    with pytest.raises(AssertionError, match=r"^law 5"):
        testing.law_5_restore(method, layer)


def test_i_less_than_j_everywhere_is_seen(monkeypatch):
    """Even where pairs, bound and parameters agree with each other, and so do the layer and the
    NumPy reading.
    """
    monkeypatch.setattr(formulas, "monomials", strictly_less)
    monkeypatch.setattr(formulas, "rank_bound", bound_of_strictly_less)
    case = pk.PERA(rank=3, degree=3), strategies.make_layer("Linear", 7, 11, dtype=torch.float64)
    with fast.off():  # which remembers the monomials of before
        testing.law_10_readings(*case)  # the two readings share the mistake
        with pytest.raises(AssertionError, match="h has 10 entries for 16 products"):
            testing.law_3_dense_forward(*case)


def test_an_oracle_that_is_wrong_is_seen():
    """The comparison is a comparison: another formula than the method's is refused."""
    case = pk.PERA(rank=3), strategies.make_layer("Linear", 7, 11, dtype=torch.float64)
    for law in testing.WITH_FORMULA:
        with pytest.raises(AssertionError, match=r"^(law \d|sum, )"):
            law(*case, formula=testing.hadamard_lora)


def test_a_compilation_in_pieces_is_seen(monkeypatch):
    """A print splits the graph; fullgraph refuses."""
    monkeypatch.setattr(AdaptedLayer, "forward", graph_break)
    with pytest.raises(Exception, match="print"):
        testing.law_12_compile(pk.LoRA(rank=2), strategies.make_layer("Linear", 5, 3))
