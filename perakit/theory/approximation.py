"""How near a family of updates comes to a target E: the best update found, between proven bounds.

For a family that contains LoRA of rank r and only matrices of rank <= K, the infimum of ‖ΔW − E‖
lies between the tail of E's singular values beyond K and the tail beyond r, in any unitarily
invariant norm: the sandwich. What the optimiser finds is an upper bound on the infimum, never a
proof that it is the minimum; and there may be no minimum. With PERA, b = (1 − εx)/√ε, a = (1 −
εy)/√ε, h = −ε comes as near as you like to x1ᵀ + 1yᵀ, while the factors diverge.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.func import vjp, vmap

from perakit import formulas
from perakit.errors import PerakitError
from perakit.theory.families import (
    Family,
    check_family,
    check_layer,
    check_matrix,
    evaluate,
    factor_rank,
)
from perakit.theory.rank import spectrum, tail
from perakit.theory.recovery import recover

DIVERGING = 100.0  # growth of an attained optimum is a few; of a sequence that runs away, thousands
LARGEST = 2**27  # parameters x entries of E: the Jacobian of one start takes 1 GiB
# An error this near to the lower bound, relative to ‖E‖, is called the minimum to that precision
CLOSE = 1e-6
TIE = 1e-12  # errors this near to each other, relative to ‖E‖, are one error

# (share of the starts that go on, iterations): most starts are hopeless, and soon known to be.
ROUNDS = ((1.0, 40), (0.5, 40), (0.125, 220))
SMALL = 2**8  # parameters x entries of E up to which many starts cost little, and none is given up
STARTS, MANY = 20, 160
# Starts of `recover`, on an E that may be a member by its rank, and on others, to be near
RECOVERIES, GLANCES = 100, 25
GAUSS_NEWTON = 10  # iterations before the exact Hessian takes over


@dataclass(frozen=True)
class Approximation:
    """An update near to the target, and what its distance means.

    Read `certificate` before you quote `error_fro`.
    error_fro, error_spec: ‖ΔW − E‖ of this one solution, which was sought in Frobenius norm.
    factors, delta: the solution (m, n). lower_fro, lower_spec: no update of the family is nearer,
    since its rank is at most `rank_bound`. upper_fro, upper_spec: the infimum is not above it,
    since the family contains LoRA of that rank; inf where it does not.
    errors: what each start came to, in the order of the starts, that of `recover` last. exact: the
    bounds meet, so error_fro is the minimum, to rounding.
    growth: ‖(θ_k ∂ΔW/∂θ_k)_k‖ / ‖ΔW‖ over all parameters θ_k, the condition of ΔW in relative
    changes of the factors; unchanged by b_i -> c b_i, a_i -> a_i/c, √2 for LoRA of rank 1, large
    where large terms cancel.
    diverging: growth > 100. A sign, no proof, that the error falls for ever while the factors grow.
    settled: the optimiser came to rest. If not, the error was still falling, often since the
    factors grow slowly and without end.
    """

    error_fro: float
    error_spec: float
    delta: np.ndarray = field(repr=False)
    factors: dict[str, np.ndarray] = field(repr=False)
    lower_fro: float
    lower_spec: float
    upper_fro: float
    upper_spec: float
    norm_fro: float
    rank_bound: int
    errors: tuple[float, ...]
    growth: float
    settled: bool
    exact: bool
    seed: int

    @property
    def diverging(self) -> bool:
        """Whether the factors look as if they run away: growth > 100."""
        return not self.exact and self.growth > DIVERGING

    @property
    def error(self) -> float:
        """error_fro relative to ‖E‖."""
        return self.error_fro / self.norm_fro if self.norm_fro else self.error_fro

    @property
    def certificate(self) -> str:
        """What error_fro is, in one sentence."""
        bound = (
            f"lower bound {self.lower_fro:.4g}, from rank <= {self.rank_bound}"
            if self.lower_fro
            else "no lower bound but 0"
        )
        if self.exact:
            return (
                "the minimum: the truncated SVD is in the family, and no matrix of rank <="
                f" {self.rank_bound} is nearer (Eckart-Young)"
            )
        if self.diverging:
            signs = f"the factors look as if they diverge (growth {self.growth:.2g})"
            return f"an upper bound on the infimum; {bound}; {signs}, so it may not be attained"
        if self.error <= TIE:
            return "E is in the family, to rounding"
        if self.error_fro - self.lower_fro <= CLOSE * self.norm_fro:
            return (
                f"the minimum to {CLOSE:g} of ‖E‖: no matrix of rank <= {self.rank_bound} is nearer"
                f" than {self.lower_fro:.6g}"
            )
        rest = (
            "" if self.settled else "; the error was still falling when the optimiser was stopped"
        )
        return (
            f"an upper bound on the infimum, the best of {len(self.errors)} starts; {bound}{rest}"
        )

    def __str__(self) -> str:
        return (
            f"error {self.error_fro:.6g} ({self.error:.3g} ‖E‖), spectral {self.error_spec:.6g}:"
            f" {self.certificate}"
        )


def best_approximation(
    E: Any,
    method: Family,
    seed: int = 0,
    starts: int | None = None,
    W0: Any = None,
    progress: bool = False,
) -> Approximation:
    """The update of a family nearest to a target in Frobenius norm, as near as the optimiser gets.

    E: target (m, n), finite; method: `perakit.PERA(2)`, or any family, such as `theory.Formula`
    of a rule of your own that torch can differentiate; seed: of the starts, the same seed gives the
    same result.
    starts: more of them usually find lower errors, in proportional time. None: 20, and 160 where
    parameters x entries <= 256. That takes seconds for 32 x 32 at r = 2, minutes for 64 x 64 at r =
    4.
    W0 (m, n): the frozen weight, for rules that read its entries (DoRA, HiRA, DeLoRA).
    progress: show a bar.

    Where the family contains the truncated SVD, that is the first start, so the result is never
    worse than LoRA. Where no update can be nearer (LoRA itself), it is returned as exact. For PERA
    with K < min(m, n) the factors that `recover` reads off E are one start more; where they make E,
    that ends the search. The other starts are random, or large and nearly cancelling. Computed in
    float64 by damped Newton steps on all starts at once; needs (parameters)² memory.

    Raises PerakitError for a bad target, sizes, a rule that torch cannot differentiate, or one that
    reads a W0 not given.

    >>> import perakit as pk
    >>> best = pk.theory.best_approximation([[3, 0], [0, 1]], pk.LoRA(1))
    >>> round(best.error_fro, 6), best.exact
    (1.0, True)
    """
    E = check_matrix("E", E)
    if E.any() and not 1e-100 < np.abs(E).max() < 1e100:
        raise PerakitError(
            f"the largest entry of E is {np.abs(E).max():.3g}: rescale E, its square must fit a"
            " float64"
        )
    formulas.check_count("seed", seed, least=0)
    with torch.inference_mode(False), torch.enable_grad():
        return _best_approximation(E, method, seed, starts, W0, progress)


def _best_approximation(
    E: np.ndarray, method: Family, seed: int, starts: int | None, W0: Any, progress: bool
) -> Approximation:
    problem = _Problem(E, check_family(method), W0)
    starts = (MANY if problem.small else STARTS) if starts is None else starts
    formulas.check_count("starts", starts)
    sigma = spectrum(E)
    sigma[sigma <= 1e-14 * sigma[0]] = 0  # rounding, which bounds nothing
    bound = min(*E.shape, problem.bound)
    lora = problem.lora_start()
    rank = problem.rank if lora is not None else -1
    lower, upper = (
        tail(sigma, bound),
        (tail(sigma, rank) if lora is not None else (math.inf, math.inf)),
    )
    exact = lora is not None and upper[0] <= lower[0] + 1e-14 * problem.norm
    if exact:
        theta, settled = torch.as_tensor(lora)[None], torch.ones(1, dtype=torch.bool)
    else:
        begun = torch.as_tensor(_starts(problem, lora, starts, np.random.default_rng(seed)))
        theta, settled = _with_recovered(problem, sigma, seed, begun, progress)
    errors = [float(np.linalg.norm(problem.delta(t) - E)) for t in theta]
    if not np.isfinite(errors).any():
        raise PerakitError(
            f"the formula is not finite at any of {starts} starts: it must be defined for factors"
            " of any size"
        )
    best = min(e for e in errors if math.isfinite(e))
    if best < lower[0] - 1e-9 * problem.norm:
        raise PerakitError(
            f"rank_bound={bound} is too small: an update at {best:.4g} was found, below the"
            f" {lower[0]:.4g} of that rank"
        )
    tied = [k for k, e in enumerate(errors) if e <= best + TIE * problem.norm]
    growth = {k: problem.growth(theta[k]) for k in tied}
    k = min(tied, key=lambda k: growth[k])
    delta = problem.delta(theta[k])
    return Approximation(
        error_fro=errors[k],
        error_spec=float(np.linalg.norm(delta - E, 2)),
        delta=delta,
        factors={
            name: factor.numpy().copy() for name, factor in problem.unflatten(theta[k]).items()
        },
        lower_fro=lower[0],
        lower_spec=lower[1],
        upper_fro=upper[0],
        upper_spec=upper[1],
        norm_fro=float(np.linalg.norm(E)),
        rank_bound=bound,
        errors=tuple(errors),
        growth=growth[k],
        settled=bool(settled[k]),
        exact=exact,
        seed=int(seed),
    )


# --- the problem, as functions of one flat vector -------------------------------------------------


class _Problem:
    """‖ΔW(θ) − E‖² / 2‖E‖² and its derivatives, θ (p,) all factors in a row."""

    def __init__(self, E: np.ndarray, method: Family, W0: Any) -> None:
        self.E, self.method, self.shape = E, method, (E.shape[0], E.shape[1])
        self.norm = float(np.linalg.norm(E)) or 1.0
        self.target = torch.as_tensor(E / self.norm)
        self.shapes = _check_shapes(method, *self.shape)
        self.sizes = [math.prod(shape) for shape in self.shapes.values()]
        self.p = sum(self.sizes)
        if self.p * E.size > LARGEST:
            raise PerakitError(
                f"{self.p} parameters x {E.size} entries of E exceed {LARGEST}: take a block of E"
                " or a lower rank"
            )
        self.small = self.p * E.size <= SMALL
        self.bound = method.rank_bound(*self.shape)
        formulas.check_count("rank_bound", self.bound, least=0)
        self.W0: Tensor | None = None
        if W0 is not None:
            self.W0 = torch.as_tensor(check_matrix("W0", W0))
            if tuple(self.W0.shape) != self.shape:
                raise PerakitError(
                    f"W0 has shape {tuple(self.W0.shape)} and E {self.shape}: pass the weight that"
                    " E is an update of"
                )
        self.rank = factor_rank(method, *self.shape) or 0
        check_layer(*self.shape, self.rank or None)
        theta = torch.linspace(0.5, 1.5, self.p, dtype=torch.float64, requires_grad=True)
        if self.W0 is None:
            self.W0 = self._stand_in(theta.detach())
        self._check_rule(theta)

    def unflatten(self, theta: Tensor) -> dict[str, Tensor]:
        parts = torch.split(theta, self.sizes)
        return {
            name: part.reshape(shape)
            for (name, shape), part in zip(self.shapes.items(), parts, strict=True)
        }

    def update(self, theta: Tensor) -> Tensor:
        delta: Tensor = self.method.update(self.W0, **self.unflatten(theta))
        return delta / self.norm

    def delta(self, theta: Tensor) -> np.ndarray:
        return np.asarray(self.method.update(self.W0, **self.unflatten(theta)))

    def loss(self, theta: Tensor) -> Tensor:
        return (self.update(theta) - self.target).square().sum() / 2

    def derivatives(self, theta: Tensor, newton: bool = True) -> tuple[Tensor, Tensor, Tensor]:
        """Gradient (p,), Hessian or JᵀJ (p, p), and squared norms of the Jacobian's columns (p,).

        The gradient Jᵀ ρ is taken as a function of θ and of the residual ρ: its derivative by ρ is
        J, and that by θ what the Hessian has besides JᵀJ.
        """

        def gradient_of(theta: Tensor, residual: Tensor) -> Tensor:
            return vjp(self.update, theta)[1](residual)[0]

        residual = self.update(theta) - self.target
        gradient, derivative = vjp(gradient_of, theta, residual)  # type: ignore[misc]
        # (p, p) and (p, m, n); in pieces, so that what leads to the p Jacobian columns need not be
        # held at once
        rest, J = vmap(derivative, chunk_size=max(1, 2**24 // self.E.size))(
            torch.eye(self.p, dtype=torch.float64)
        )
        JJ = J.flatten(1) @ J.flatten(1).T
        return gradient, JJ + rest if newton else JJ, JJ.diagonal()

    def growth(self, theta: Tensor) -> float:
        """‖(θ_k ∂ΔW/∂θ_k)_k‖ / ‖ΔW‖; 0 where both vanish."""
        change = float((theta.square() * self.derivatives(theta)[2]).sum().sqrt())
        size = float(self.update(theta).norm())
        return change / size if size else (math.inf if change else 0.0)

    def lora_start(self) -> np.ndarray | None:
        """θ at the truncated SVD of E, all but B and A zero; None where the family lacks it."""
        if not self.rank:
            return None
        r, parts = self.rank, {name: np.zeros(shape) for name, shape in self.shapes.items()}
        U, sigma, Vt = np.linalg.svd(self.E, full_matrices=False)
        root = np.sqrt(sigma[:r])
        parts["B"], parts["A"] = U[:, :r] * root, root[:, None] * Vt[:r]
        wanted = parts["B"] @ parts["A"]
        theta = np.concatenate([part.ravel() for part in parts.values()])
        found = self.delta(torch.as_tensor(theta))
        if not np.isfinite(found).all():
            return None
        # alpha/r of a method
        scale = float((found * wanted).sum()) / (float((wanted**2).sum()) or 1.0) or 1.0
        if not np.allclose(found, scale * wanted, rtol=0, atol=1e-12 * abs(scale) * self.norm):
            return None
        parts["B"] = parts["B"] / scale
        return np.concatenate([part.ravel() for part in parts.values()])

    def _stand_in(self, theta: Tensor) -> Tensor | None:
        """What the rule gets where no W0 was passed.

        None if it takes that, zeros if it reads the shape alone; else it is refused.
        """
        factors, weight = (
            self.unflatten(theta),
            torch.linspace(0.5, 1.5, self.E.size, dtype=torch.float64).reshape(self.shape),
        )
        try:
            self.method.update(None, **factors)
            return None
        except Exception:  # a user's rule may raise anything
            pass
        try:
            one, other = (
                self.method.update(weight, **factors),
                self.method.update(1 + weight**2, **factors),
            )
            same = torch.equal(one, other)
        except Exception:  # not for want of a weight: `_check_rule` says why
            return None
        if not same:
            m, n = self.shape
            raise PerakitError(
                f"{self.method!r} reads the frozen weight: pass W0=, the ({m}, {n}) matrix that E"
                " is an update of"
            )
        return torch.zeros_like(weight)

    def _check_rule(self, theta: Tensor) -> None:
        remedy = (
            "write it with operators that NumPy and torch share, without branches on the values"
        )
        try:
            found = self.method.update(self.W0, **self.unflatten(theta))
            if not isinstance(found, Tensor):
                raise PerakitError(
                    f"the formula made {type(found).__name__} of torch tensors, which cannot be"
                    f" differentiated: {remedy}"
                )
            evaluate(self.method, self.W0, self.unflatten(theta), self.shape)
            if not found.requires_grad or found.dtype != torch.float64:
                raise PerakitError(
                    f"the formula detaches its result, or changes its type (to {found.dtype}):"
                    f" {remedy}"
                )
            vmap(self.derivatives)(theta.detach()[None])
        except PerakitError:
            raise
        except Exception as error:  # a user's rule may raise anything
            raise PerakitError(
                f"torch cannot evaluate and differentiate the formula ({error}): {remedy}; a NumPy"
                " constant goes in by Formula(..., constants={name: array})"
            ) from error


def _check_shapes(method: Family, m: int, n: int) -> dict[str, tuple[int, ...]]:
    shapes = method.shapes(m, n)
    if not isinstance(shapes, Mapping) or not all(
        isinstance(name, str)
        and isinstance(shape, tuple)
        and all(isinstance(k, int | np.integer) and k >= 0 for k in shape)
        for name, shape in shapes.items()
    ):
        raise PerakitError(
            f"shapes({m}, {n}) returned {shapes!r}: return name -> tuple of sizes, as {{'B': (m,"
            " 2), 'A': (2, n)}"
        )
    if not sum(map(math.prod, shapes.values())):
        raise PerakitError(
            f"shapes({m}, {n}) returned {shapes!r}, no parameter at all: a family has at least one"
        )
    return dict(shapes)


# --- starts ---------------------------------------------------------------------------------------


def _starts(
    problem: _Problem, lora: np.ndarray | None, count: int, rng: np.random.Generator
) -> np.ndarray:
    """Starting points (count, p), the truncated SVD first.

    Then in turn: random factors, large ones that cancel, products, and perturbed SVDs.
    """
    rms = problem.norm / math.sqrt(problem.E.size)
    border = any(len(shape) == 1 and shape[0] for shape in problem.shapes.values())
    found = [] if lora is None else [lora]
    for k in range(count - len(found)):
        kind, turn = k % 6, k // 6
        if kind == 1 and border:
            found.append(_border_start(problem, rms, (1e-5, 1e-3)[turn % 2], rng))
        elif kind in (2, 5) and border:
            found.append(_product_start(problem, rms, rng))
        elif kind == 4 and lora is not None:
            found.append(
                lora * (1 + 0.3 * rng.normal(size=problem.p))
                + _random_start(problem, 0.01 * rms, rng, coefficients=0.003)
            )
        else:
            plain = (kind + turn) % 2 == 0
            size = rms if plain else rms * 10 ** rng.uniform(-1, 0.5)
            found.append(_random_start(problem, size, rng, coefficients=0.0 if plain else 0.3))
    return np.array(found)


def _with_recovered(
    problem: _Problem, sigma: np.ndarray, seed: int, begun: Tensor, progress: bool
) -> tuple[Tensor, Tensor]:
    """As `_minimise`, with what `recover` reads off E as the last row; a member ends the search."""
    found = _recovered_start(problem, sigma, seed)
    if found is None:
        return _minimise(problem, begun, progress)
    recovered, settled = torch.as_tensor(found)[None], torch.ones(1, dtype=torch.bool)
    reached = float(np.linalg.norm(problem.delta(recovered[0]) - problem.E))
    if reached <= TIE * problem.norm:
        return recovered, settled
    theta, finished = _minimise(problem, begun, progress)
    # It has been refined already, and so takes no part in the rounds unless it leads at their end
    if problem.loss(recovered[0]) < min(problem.loss(row) for row in theta):
        recovered, settled = _minimise(problem, recovered, progress)
    return torch.cat([theta, recovered]), torch.cat([finished, settled])


def _recovered_start(problem: _Problem, sigma: np.ndarray, seed: int) -> np.ndarray | None:
    """θ of the factors that `recover` reads off E, of singular values sigma; None if it cannot."""
    m, n = problem.shape
    if problem.bound >= min(m, n) or set(problem.shapes) != {"B", "A", "h"}:
        return None
    try:
        starts = GLANCES if sigma[problem.bound] else RECOVERIES
        factors = recover(problem.E, problem.method, seed, starts).factors
    except PerakitError:  # other products than PERA's
        return None
    return np.concatenate([factors[name].ravel() for name in problem.shapes])


def _random_start(
    problem: _Problem, rms: float, rng: np.random.Generator, coefficients: float
) -> np.ndarray:
    """Gaussian factors whose product is of E's size; vectors (h) are small."""
    parts = []
    for shape in problem.shapes.values():
        # Small beside 1/rms, the h at which the products are as large as B A
        size = (
            coefficients / rms
            if len(shape) == 1
            else math.sqrt(rms / math.sqrt(min(shape, default=1) or 1))
        )
        parts.append(size * rng.normal(size=shape).ravel())
    return np.concatenate(parts)


def _product_start(problem: _Problem, rms: float, rng: np.random.Generator) -> np.ndarray:
    """Coefficients h far above 1/rms: products of E's size beside a small linear part."""
    h = 10 ** rng.uniform(0, 2.5) / rms
    parts = []
    for shape in problem.shapes.values():
        signs, spread = rng.choice((-1, 1), shape), 1 + 0.3 * rng.normal(size=shape)
        # (rms/h)^¼: h times four such entries is of E's size
        parts.append((h if len(shape) == 1 else (rms / h) ** 0.25) * (signs * spread).ravel())
    return np.concatenate(parts)


def _border_start(
    problem: _Problem, rms: float, epsilon: float, rng: np.random.Generator
) -> np.ndarray:
    """b and a near the constant √(rms/ε), h = −ε/rms: terms of size rms/ε that cancel."""
    # Best approximations run away in this direction
    parts = []
    for shape in problem.shapes.values():
        if len(shape) == 1:
            part = np.zeros(shape)
            part[:1] = -epsilon / rms
        else:
            part = math.sqrt(rms / epsilon) * (1 + epsilon * rng.normal(size=shape))
            if shape == problem.shapes.get("B"):
                part[:, 1:] = math.sqrt(rms) * rng.normal(size=part[:, 1:].shape)
            elif shape == problem.shapes.get("A"):
                part[1:] = math.sqrt(rms) * rng.normal(size=part[1:].shape)
        parts.append(part.ravel())
    return np.concatenate(parts)


# --- the optimiser --------------------------------------------------------------------------------


def _minimise(problem: _Problem, theta: Tensor, progress: bool) -> tuple[Tensor, Tensor]:
    """Levenberg-Marquardt from every row of theta (starts, p), in the rounds of `ROUNDS`.

    No row ends above its start.
    Returns theta, and for each row whether it came to rest; if not, it was left while it descended.
    """
    from tqdm import tqdm

    runs = _Runs(problem, theta)
    with tqdm(
        total=sum(steps for _, steps in ROUNDS),
        disable=not progress,
        desc="best approximation",
        leave=False,
    ) as bar:
        for share, steps in ROUNDS:
            runs.keep(len(theta) if problem.small else math.ceil(share * len(theta)))
            for _ in range(steps):
                if runs.active.any():
                    runs.step()
                bar.update()
    return runs.theta, runs.finished


class _Runs:
    """All starts, each with its own damping λ: steps −(H + λD)⁻¹ g with D = diag(JᵀJ).

    A step is only taken where it descends.
    """

    def __init__(self, problem: _Problem, theta: Tensor) -> None:
        S, p = theta.shape
        self.problem, self.theta = problem, theta.clone()
        self.loss_of = vmap(problem.loss)
        self.loss = self.loss_of(theta)
        self.gradient, self.columns = torch.zeros_like(theta), torch.zeros_like(theta)
        self.hessian = torch.zeros(S, p, p, dtype=theta.dtype)
        self.damping = torch.full((S,), 1e-2, dtype=theta.dtype)
        self.stalled = torch.zeros(S, dtype=torch.int64)
        self.active = torch.isfinite(self.loss)
        self.finished = ~self.active
        self.moved = self.active.clone()
        self.steps = 0

    def keep(self, count: int) -> None:
        """Go on with the best `count` runs only."""
        order = torch.where(torch.isfinite(self.loss), self.loss, torch.inf).argsort(stable=True)
        self.active[:] = False
        self.active[order[:count]] = True
        self.active &= ~self.finished

    def step(self) -> None:
        """One trial step of every active run."""
        if self.steps == GAUSS_NEWTON:
            self.moved[:] = True
        # JᵀJ finds the way from afar. Targets out of reach leave a large residual, at which
        # Gauss-Newton crawls: they need the exact Hessian.
        self._differentiate(self.steps >= GAUSS_NEWTON)
        self.steps += 1
        k = self.active.nonzero().flatten()
        if not len(k):
            return
        step, predicted = self._solve(k)
        trial = self.theta[k] + step
        loss = self.loss_of(trial)
        gain = self.loss[k] - loss
        good = (gain > 0) & torch.isfinite(step).all(1)
        ratio = gain / predicted
        slow = ~good | (gain <= 1e-13 * self.loss[k])
        self.theta[k] = torch.where(good[:, None], trial, self.theta[k])
        self.loss[k] = torch.where(good, loss, self.loss[k])
        factor = torch.where(
            good,
            torch.where(ratio > 0.75, 0.2, torch.where(ratio < 0.25, 2.0, torch.ones_like(ratio))),
            4.0,
        )
        self.damping[k] = (factor * self.damping[k]).clamp_min(1e-15)
        self.moved[k] = good
        self.stalled[k] = torch.where(slow, self.stalled[k] + good, 0)
        self.finished[k] = (
            (self.stalled[k] >= 3) | (self.damping[k] > 1e12) | (self.loss[k] < 1e-32)
        )
        self.active &= ~self.finished

    def _differentiate(self, newton: bool) -> None:
        k = (self.active & self.moved).nonzero().flatten()
        if len(k):
            chunk = max(1, 2**24 // (self.problem.p * self.problem.E.size))
            derivatives = vmap(
                lambda theta: self.problem.derivatives(theta, newton), chunk_size=chunk
            )
            self.gradient[k], self.hessian[k], columns = derivatives(self.theta[k])
            self.columns[k] = torch.cat(
                [_away_from_zero(part) for part in torch.split(columns, self.problem.sizes, dim=1)],
                dim=1,
            )

    def _solve(self, k: Tensor) -> tuple[Tensor, Tensor]:
        """Step (k, p) and the gain in loss (k,) that the quadratic model promises."""
        q = self.columns[k].rsqrt()
        H = q[:, :, None] * self.hessian[k] * q[:, None, :]
        L, failed = torch.linalg.cholesky_ex(
            H + torch.diag_embed(self.damping[k, None].expand_as(q))
        )
        g = (q * self.gradient[k])[:, :, None]
        step = -torch.cholesky_solve(g, L)  # (k, p, 1)
        predicted = -(g * step).sum((1, 2)) - (step * (H @ step)).sum((1, 2)) / 2
        # NaN where H + λD is not positive: such a step is never taken
        return torch.where(failed[:, None] == 0, q * step[:, :, 0], torch.nan), predicted


def _away_from_zero(columns: Tensor) -> Tensor:
    """The columns, none below 1e-12 of the largest of the same factor."""
    # Factors have units: by a relative bound, E in other units takes the same path
    largest = columns.amax(1, keepdim=True) if columns.shape[1] else columns
    return torch.where(largest > 0, columns.maximum(1e-12 * largest), 1.0)
