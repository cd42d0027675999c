"""The figures of docs/theory.md and the numbers in them: `python docs/making/gallery.py FOLDER`."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from drawing import Drawn, draw_into, write_numbers

from perakit import formulas, plots
from perakit.adapters import PERA, Additive, LoRA
from perakit.bench.measured import made_from
from perakit.errors import PerakitError
from perakit.models import adapters, attach, disabled
from perakit.plots.pictures import new_figure
from perakit.theory.approximation import best_approximation
from perakit.theory.capture import captured
from perakit.theory.curves import Point, error_curve, targets
from perakit.theory.families import pera
from perakit.theory.gauge import gauge
from perakit.theory.interaction import interaction_strength, layer_interaction
from perakit.theory.manifold import dimension, measured_dimension
from perakit.theory.rank import order_share, spectrum, tail
from perakit.toy import GPT2, Recipe, corpus, load, train

Lines = dict[str, list[dict[str, Any]]]  # family -> its points, as JSON

# (192, 192); its inputs are the outputs of 6 heads of width 32
LAYER = "transformer.h.3.attn.c_proj"
INTERACTION_LAYER = "transformer.h.2.mlp.c_fc"
ORDER = ("none", "cross", "square", "full")  # of drawing: a line may hide those before it
FAMILIES = {plots.SETS[terms]: partial(pera, terms=terms) for terms in ORDER}
# Family -> the families whose sets its own contains
INSIDE = {name: (plots.SETS["none"], name) for name in FAMILIES} | {
    plots.SETS["full"]: tuple(FAMILIES)
}
COEFFICIENTS = (0.4, -0.9, 0.3)  # h of the surface: h_11, h_12, h_22
SHOWN = 32  # singular values
ZERO, FLOOR = 1e-9, 1e-2  # errors below ZERO are rounding; an axis that has some ends at FLOOR


class _Trial(NamedTuple):
    rank: int
    parameters: int
    error: float


@dataclass(frozen=True)
class Size:
    """How much is computed: shapes (m, n), ranks r, starts of each search, and training steps."""

    text: str = "code"
    recipe: Recipe = field(
        default_factory=lambda: Recipe(
            steps=60, batch=8, context=128, eval_every=60, eval_windows=32
        )
    )
    rank: int = 4
    windows: tuple[int, int] = (8, 64)
    layer: tuple[int, int] = (24, 40)
    layer_ranks: tuple[int, ...] = tuple(range(1, 11))
    gaussian: tuple[int, int] = (20, 24)
    gaussian_ranks: tuple[int, ...] = (1, 2, 3, 4, 5, 6)
    target: tuple[int, int] = (16, 20)
    target_ranks: tuple[int, ...] = (1, 2, 3, 4)
    block: int = 32
    block_ranks: tuple[int, ...] = (1, 2, 3, 4)
    blocks: tuple[int, ...] = (16, 24, 32, 40, 48)
    capture: tuple[tuple[int, int], ...] = ((16, 16), (24, 20), (32, 32))
    capture_ranks: tuple[int, ...] = (1, 2, 3)
    draws: int = 5
    starts: int = 6


SMALL = Size(
    text="synthetic",
    recipe=Recipe(steps=3, batch=2, context=24, eval_every=3, eval_windows=2),
    rank=2,
    windows=(2, 12),
    layer=(5, 7),
    layer_ranks=(1, 2),
    gaussian=(3, 4),
    gaussian_ranks=(1,),
    target=(4, 6),
    target_ranks=(1,),
    block=6,
    block_ranks=(1,),
    blocks=(2, 6),
    capture=((4, 5), (5, 4)),
    capture_ranks=(1,),
    draws=2,
    starts=1,
)


def draw(
    folder: str | Path, seed: int = 0, small: bool = False, only: Iterable[str] | None = None
) -> list[Path]:
    """Make the figures, a PNG each, and `numbers.json` with every number drawn.

    folder: where; seed: of all random factors, targets, searches and training; small: tiny sizes,
    in seconds, to see that it runs; only: names in `FIGURES`, None = all, in at most 6 minutes on
    one core.
    numbers.json also says what a number was made from. It holds the figures of this call alone and
    is written after each.
    Returns the paths.
    Raises PerakitError for a folder that cannot be written, or an unknown name.
    """
    formulas.check_count("seed", seed, least=0)
    if isinstance(only, str):
        raise PerakitError(f"only={only!r} is one name: pass a list of names")
    names = list(FIGURES) if only is None else list(only)
    if not names:
        raise PerakitError("only is empty: name a figure, or None for all")
    for name in names:
        if name not in FIGURES:
            raise PerakitError(f"no figure {name!r}: choose from {', '.join(FIGURES)}")
    lab, folder, written = _Lab(seed, SMALL if small else Size()), Path(folder), []
    numbers: dict[str, Any] = {"made_from": made_from(seed) | {"small": small}, "figures": {}}
    for count, name in enumerate(names, start=1):
        start = time.perf_counter()
        written.append(folder / f"{name}.png")
        numbers["figures"][name] = draw_into(written[-1], partial(FIGURES[name], lab))
        numbers["made_from"] |= lab.training
        write_numbers(folder, numbers)
        seconds = time.perf_counter() - start
        print(f"{count}/{len(names)} {written[-1]} ({seconds:.1f} s)", file=sys.stderr)
    return [*written, folder / "numbers.json"]


# --- what is trained ------------------------------------------------------------------------------


class _Lab:
    """One seed, one size, and what several figures share.

    They share the text, models with a trained adapter, a full update.
    """

    def __init__(self, seed: int, size: Size) -> None:
        self.seed, self.size = seed, size
        self.recipe = replace(size.recipe, seed=seed)
        self.training: dict[str, Any] = {}

    def random(self, stream: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, stream))

    @cached_property
    def text(self) -> corpus.Corpus:
        found = corpus.load(self.size.text, limit=300_000)
        self.training["corpus"] = found.describe()
        return found

    def _train(self, model: GPT2, recipe: Recipe, label: str, what: str) -> None:
        run = train(model, self.text, recipe, label=label)
        before, after = (bits for _, bits in (run.heldout[0], run.heldout[-1]))
        described = {
            "what": what,
            "recipe": asdict(recipe),
            "heldout_bits_per_byte": {"before": before, "after": after},
        }
        self.training.setdefault("training", {})[label] = described

    def _adapted(self, feature_scale: float) -> GPT2:
        model = load("tiny")
        method = PERA(self.size.rank, feature_scale=feature_scale)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            attach(model, method, "all-linear")
        self._train(
            model,
            self.recipe,
            f"PERA, feature_scale={feature_scale:g}",
            f"{method} on every projection of the tiny model",
        )
        return model

    @cached_property
    def curves(self) -> dict[str, Lines]:
        """Target -> what was found for it."""
        return {
            name: _search(self, E, self.size.target_ranks)
            for name, E in targets(*self.size.target, seed=self.seed).items()
        }

    @cached_property
    def published(self) -> GPT2:
        return self._adapted(1.0)

    @cached_property
    def scaled(self) -> GPT2:
        return self._adapted(192.0)

    @cached_property
    def full_update(self) -> np.ndarray:
        """ΔW (m, n) of LAYER, trained with all its weights free and all else frozen."""
        model = load("tiny")
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name == f"{LAYER}.weight")
        weight = model.get_parameter(f"{LAYER}.weight")  # (n, m): Conv1D stores the transpose
        start = weight.detach().clone()
        self.base_norm = float(start.norm())
        what = f"all {weight.numel():,} weights of {LAYER} of the tiny model, nothing else"
        self._train(model, replace(self.recipe, lr=1e-3), "full fine-tuning of one layer", what)
        return np.asarray((weight.detach().double() - start.double()).T)


def _update(model: GPT2, layer: str) -> np.ndarray:
    """ΔW (m, n) of an adapter, multiplied out in float64."""
    adapter = adapters(model)[layer]
    assert isinstance(adapter, Additive)
    # In float32 rounding would hide its rank
    B_hat, A_hat = (factor.detach().double().numpy() for factor in adapter.factors())
    return np.asarray(B_hat @ A_hat)  # (m, K) @ (K, n)


# --- figures --------------------------------------------------------------------------------------


def _entry_polynomial(lab: _Lab) -> Drawn:
    figure = new_figure(9.2, 4.2)
    plots.plot_entry_polynomial(COEFFICIENTS, ax=figure.add_subplot(1, 2, 1)).set_title("")
    plots.plot_entry_polynomial(
        COEFFICIENTS, ax=figure.add_subplot(1, 2, 2, projection="3d")
    ).set_title("")
    figure.suptitle(
        r"One polynomial gives every entry: $\Delta W_{pq} = \varphi_h(u)$, $u_i = B_{pi} A_{iq}$"
    )
    return figure, {"h": COEFFICIENTS}


def _dimensions(lab: _Lab) -> Drawn:
    (m, n), ranks = lab.size.layer, lab.size.layer_ranks
    figure = new_figure(6.8, 4.4)
    ax = plots.plot_dimension(m, n, ranks, ax=figure.add_subplot())
    closed = {plots.SETS[terms]: [dimension(m, n, r, terms) for r in ranks] for terms in ORDER}
    measured = {
        plots.SETS[terms]: [measured_dimension(m, n, r, terms, seed=lab.seed) for r in ranks]
        for terms in ORDER
    }
    for k, found in enumerate(measured.values()):
        ax.plot(ranks, found, "k.", markersize=3, label=None if k else "measured")
    ax.legend(fontsize="small", handlelength=2.8, loc="lower right", labelcolor="0.1")
    return figure, {"shape": (m, n), "ranks": ranks, "closed form": closed, "measured": measured}


def _gauge(lab: _Lab) -> Drawn:
    """Rank 4, every way to group the columns: H has one number for each pair of groups."""
    rank, size = 4, formulas.rank_bound(4)
    generator = lab.random(3)
    B, A = generator.integers(-30, 31, (size, rank)), generator.integers(-30, 31, (rank, size))
    i, j = formulas.pairs(rank)
    found, coefficients = {}, {}
    for sizes in ((4,), (3, 1), (2, 2), (2, 1, 1), (1, 1, 1, 1)):
        group = np.repeat(np.arange(len(sizes)), sizes)
        # 1, 2, 3 ... on and above the diagonal, so that rows of different groups differ
        H = np.zeros((len(sizes),) * 2, dtype=int)
        H[np.triu_indices(len(sizes))] = range(1, len(sizes) * (len(sizes) + 1) // 2 + 1)
        h = np.maximum(H, H.T)[group[i], group[j]] * np.where(i == j, 1, 2)
        name = " + ".join(map(str, sizes))
        found[name], coefficients[name] = gauge((B, A, h)), h
    found = {"h = 0": gauge((B, A, 0 * h)), **found}
    figure = new_figure(6.8, 4.4)
    plots.plot_gauge_dimension(found, ax=figure.add_subplot())
    return figure, {
        "shape": (size, size),
        "rank": rank,
        "h": coefficients,
        "dimension": {name: group.dimension for name, group in found.items()},
        "counted": {name: group.kernel for name, group in found.items()},
    }


def _spectra(lab: _Lab) -> Drawn:
    rank, (m, n) = lab.size.rank, lab.full_update.shape
    generator = lab.random(0)
    B, A = generator.normal(size=(m, rank)), generator.normal(size=(rank, n))
    random = {}
    for name, make in FAMILIES.items():
        coefficients = {
            key: generator.normal(size=shape)
            for key, shape in make(rank).shapes(m, n).items()
            if key == "h"
        }
        random[name] = make(rank).update(None, B=B, A=A, **coefficients)
    trained = {
        "all weights trained": lab.full_update,
        "PERA, feature_scale = 192": _update(lab.scaled, LAYER),
        "PERA as published": _update(lab.published, LAYER),
    }
    figure = new_figure(9.6, 4.2)
    left, right = figure.subplots(1, 2, sharey=True)
    values = [
        {name: _relative(update) for name, update in updates.items()}
        for updates in (random, trained)
    ]
    for ax, drawn, title in zip(
        (left, right),
        values,
        ("Random factors", f"{lab.recipe.steps} training steps, {LAYER}"),
        strict=True,
    ):
        plots.plot_spectra(drawn, rank=rank, bound=formulas.rank_bound(rank), ax=ax)
        ax.set(title=title, ylabel=r"$\sigma_i / \sigma_1$")
        ax.set_ylim(top=300)
        ax.legend(handlelength=2.8, fontsize="small", loc="center right")
    shares = {
        "as published": order_share(lab.published),
        "feature_scale=192": order_share(lab.scaled),
    }
    share = {
        name: {"whole model": found.overall, LAYER: found.layers[LAYER]}
        for name, found in shares.items()
    }
    return figure, {
        "shape": (m, n),
        "rank": rank,
        "random": values[0],
        "trained": values[1],
        "order_share": share,
    }


def _relative(update: np.ndarray) -> list[float]:
    values = spectrum(update)[:SHOWN]
    return [float(value) for value in values / values[0]]


def _sandwich(lab: _Lab) -> Drawn:
    (m, n), ranks = lab.size.gaussian, lab.size.gaussian_ranks
    E = lab.random(1).normal(size=(m, n))
    found = [best_approximation(E, pera(r), seed=lab.seed, starts=lab.size.starts) for r in ranks]
    # PERA of rank r contains PERA of rank r - 1
    errors = np.minimum.accumulate([fit.error_fro for fit in found])
    figure = new_figure(6.8, 4.4)
    plots.plot_sandwich(
        spectrum(E).tolist(), ranks, errors.tolist(), ax=figure.add_subplot()
    ).set_title(f"A Gaussian {m} × {n} target")
    bounds = {"lower": [fit.lower_fro for fit in found], "upper": [fit.upper_fro for fit in found]}
    return figure, {
        "shape": (m, n),
        "ranks": ranks,
        "norm": np.linalg.norm(E),
        "starts": lab.size.starts,
        "found": errors,
        **bounds,
    }


def _targets(lab: _Lab, against: str) -> Drawn:
    figure = new_figure(9.6, 5.8)
    axes = figure.subplots(2, 3, sharex=True)
    for ax, (name, lines) in zip(axes.flat, lab.curves.items(), strict=True):
        _plot_lines(ax, lines, against, name)
        ax.get_legend().remove()
        ax.set_ylabel(ax.get_ylabel() if ax in axes[:, 0] else "")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, handlelength=2.8)
    return figure, {"shape": lab.size.target, "starts": lab.size.starts, "targets": lab.curves}


def _real_update(lab: _Lab) -> Drawn:
    size, update = lab.size, lab.full_update
    block = update[: size.block, : size.block]
    lines = _search(lab, block, size.block_ranks)
    sizes = {k: _search(lab, update[:k, :k], (size.rank,)) for k in size.blocks}
    figure = new_figure(12.0, 4.2)
    axes = figure.subplots(1, 3)
    for ax, against in zip(axes, ("rank", "parameters"), strict=False):
        _plot_lines(ax, lines, against, f"{size.block} × {size.block} block")
    axes[1].get_legend().remove()
    for name, line, marker in zip(FAMILIES, plots.LINES, plots.MARKERS, strict=False):
        axes[2].plot(
            size.blocks, [found[name][0]["error"] for found in sizes.values()], line, marker=marker
        )
    title = f"k × k blocks, r = {size.rank}"
    axes[2].set(title=title, xlabel="k", ylabel=axes[0].get_ylabel(), ylim=(0, None))
    figure.suptitle(f"A real update: {LAYER}, all weights trained")
    ranks = (*size.block_ranks, *(formulas.rank_bound(r) for r in size.block_ranks))
    whole = {
        int(r): tail(spectrum(update), r)[0] / np.linalg.norm(update) for r in sorted(set(ranks))
    }
    return figure, {
        "layer": LAYER,
        "shape": update.shape,
        "relative_norm": np.linalg.norm(update) / lab.base_norm,
        "spectrum": spectrum(update),
        "whole layer, error of the best matrix of each rank": whole,
        "block": f"outputs and inputs 0 ... {size.block - 1}",
        "starts": size.starts,
        "errors": lines,
        "rank": size.rank,
        "blocks": sizes,
    }


def _interaction(lab: _Lab) -> Drawn:
    model, size = lab.published, lab.size
    layer = model.get_submodule(INTERACTION_LAYER)
    generator, (windows, time_) = lab.random(2), size.windows
    features = sorted(generator.choice(192, 16, replace=False).tolist())
    ids = torch.tensor(list(lab.text.heldout[: windows * time_])).view(windows, time_)
    x, w, points = (
        torch.tensor(generator.normal(size=shape), dtype=torch.float32)
        for shape in (192, 768, (8, 16))
    )
    rows = torch.eye(192)[features]
    # (16,) @ (16, 192) -> (192,)
    single = interaction_strength(lambda z: layer(x + z @ rows) @ w, points)
    adapted = layer_interaction(model, INTERACTION_LAYER, ids, features)
    with disabled(model):
        plain = layer_interaction(model, INTERACTION_LAYER, ids, features)
    found = {
        "one linear layer, with PERA": single,
        "tiny GPT-2, no adapter": plain,
        "tiny GPT-2, trained PERA": adapted,
    }
    figure = new_figure(10.4, 3.4)
    axes = figure.subplots(1, 3)
    for ax, (name, strength) in zip(axes, found.items(), strict=True):
        plots.plot_interaction(strength, ax=ax).set_title(name)
        ax.images[0].set_clim(0, max(plain.max(), adapted.max()))
    for ax in axes[:2]:
        ax.images[0].colorbar.remove()  # one scale for all three
    means = {name: strength.mean() for name, strength in found.items()}
    return figure, {
        "layer": INTERACTION_LAYER,
        "features": features,
        "windows": size.windows,
        "mean": means,
        "strength": found,
    }


def _capture(lab: _Lab) -> Drawn:
    """The share of Gaussian targets that updates capture: of LoRA exactly, of PERA as found."""
    sizes, ranks = lab.size.capture, lab.size.capture_ranks
    figure = new_figure(3.6 * len(sizes), 3.8)
    axes = figure.subplots(1, len(sizes), sharey=True, squeeze=False)[0]
    numbers: dict[str, Any] = {"draws": lab.size.draws, "starts": lab.size.starts, "sizes": {}}
    for ax, (m, n) in zip(axes, sizes, strict=True):
        random = lab.random(7)
        drawn = [random.standard_normal((m, n)) for _ in range(lab.size.draws)]
        kinds: dict[str, tuple[Callable[[int], LoRA | PERA], str]] = {
            plots.SETS["none"]: (LoRA, "lora"),
            plots.SETS["full"]: (PERA, "pera"),
            "best of rank K": (lambda r: LoRA(formulas.rank_bound(r)), "pera"),
        }
        shares = {
            name: {
                formulas.parameter_count(m, n, r, rule): [
                    captured(E, method(r), lab.seed, lab.size.starts) for E in drawn
                ]
                for r in ranks
            }
            for name, (method, rule) in kinds.items()
        }
        plots.plot_capture(shares, entries=m * n, ax=ax).set_title(f"{m} x {n}")
        numbers["sizes"][f"{m} x {n}"] = shares
    for ax in axes[1:]:
        ax.set_ylabel("")
        ax.get_legend().remove()
    return figure, numbers


# --- helpers --------------------------------------------------------------------------------------


def _search(lab: _Lab, E: np.ndarray, ranks: Sequence[int]) -> Lines:
    """The relative error of every family at every rank.

    Under "search" is what the search at this point alone found. The error is the least that was
    found in any set that the family's set contains: LoRA, the parts of PERA, lower ranks. Like the
    search's it is an upper bound on the infimum, and never a worse one.
    """
    points = error_curve(E, FAMILIES, ranks, lab.seed, lab.size.starts).points

    def least(point: Point) -> float:
        return min(
            other.error
            for other in points
            if other.family in INSIDE[point.family] and other.rank <= point.rank
        )

    return {
        name: [
            asdict(p) | {"error": least(p), "search": p.error} for p in points if p.family == name
        ]
        for name in FAMILIES
    }


def _plot_lines(ax: Any, lines: Lines, against: str, title: str) -> None:
    trials = {
        name: [_Trial(point["rank"], point["parameters"], point["error"]) for point in line]
        for name, line in lines.items()
    }
    plots.plot_approximation(trials, against=against, ax=ax).set_title(title)
    errors = [trial.error for line in trials.values() for trial in line]
    if min(errors) < ZERO:  # to rounding; an axis that shows it would flatten everything else
        ax.set_ylim(FLOOR, 1.1)
        ax.text(
            0.98,
            0.98,
            "below the axis: 0, to rounding",
            color="0.35",
            fontsize="small",
            ha="right",
            va="top",
            transform=ax.transAxes,
        )


FIGURES: dict[str, Callable[[_Lab], Drawn]] = {
    "entry-polynomial": _entry_polynomial,
    "dimensions": _dimensions,
    "gauge": _gauge,
    "sandwich": _sandwich,
    "targets-by-rank": partial(_targets, against="rank"),
    "targets-by-parameters": partial(_targets, against="parameters"),
    "spectra": _spectra,
    "interaction": _interaction,
    "real-update": _real_update,
    "capture": _capture,
}


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns 0, or 2 for a PerakitError, printed as one sentence."""
    parser = argparse.ArgumentParser(prog="python docs/making/gallery.py", description=__doc__)
    parser.add_argument("folder", type=Path, help="where the figures and numbers.json go")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--small", action="store_true", help="tiny sizes, in seconds: to see that it runs"
    )
    parser.add_argument("--only", nargs="+", metavar="FIGURE", help=f"some of {', '.join(FIGURES)}")
    arguments = parser.parse_args(argv)
    try:
        draw(arguments.folder, arguments.seed, arguments.small, arguments.only)
    except PerakitError as error:
        print(f"perakit: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
