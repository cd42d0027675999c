"""The pictures of docs/methods and the numbers in them: `python docs/making/peers.py FOLDER`.

Each method on the same small layer: the weight, the update that random factors make of it, and how
its singular values fall beside LoRA's of the same rank.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from drawing import Drawn, draw_into, write_numbers

from perakit import formulas, plots
from perakit.adapters import PERA, DeLoRA, DoRA, HiRA, LoHa, LoRA, Method, MoRA
from perakit.bench.measured import made_from
from perakit.errors import PerakitError
from perakit.models import nf4
from perakit.plots.pictures import new_figure
from perakit.theory.rank import spectrum

M, N, RANK = 24, 36, 2  # the layer of every picture
METHODS: tuple[Method, ...] = (
    LoRA(RANK),
    PERA(RANK),
    DoRA(RANK),
    HiRA(RANK),
    MoRA(RANK),
    DeLoRA(RANK),
    LoHa(RANK),
)


def weight(seed: int) -> np.ndarray:
    """A frozen weight (M, N): normal entries, larger in later rows, in waves along the columns."""
    draw = np.random.default_rng(seed)
    return (
        draw.normal(size=(M, N))
        * np.linspace(0.2, 1.2, M)[:, None]
        * (1.1 + np.sin(np.arange(N) / 3.0))
    )


def factors(method: Method, seed: int) -> dict[str, np.ndarray]:
    """Random factors of `method`: normal; λ positive."""
    draw = np.random.default_rng([seed, 1])
    drawn = {name: draw.normal(size=shape) for name, shape in method.shapes(M, N).items()}
    if "magnitude" in drawn:
        # Between a half and twice the lengths of W0's rows
        drawn["magnitude"] = formulas.row_norm(weight(seed)) * draw.uniform(0.5, 2.0, M)
    if "lam" in drawn:
        drawn["lam"] = np.array([15.0])
    return drawn


def of_method(method: Method, seed: int) -> Drawn:
    """W0, ΔW, and the spectrum of ΔW beside LoRA's."""
    W0 = weight(seed)
    delta = method.update(W0, **factors(method, seed))
    name, lora, bound = type(method).__name__, LoRA(RANK), method.rank_bound(M, N)
    other = lora.update(W0, **factors(lora, seed))
    spectra = {f"LoRA r = {RANK}": spectrum(other), f"{name} r = {RANK}": spectrum(delta)}
    shares = {
        label: np.where(values > 1e-13 * values[0], values / values[0], 0.0)
        for label, values in spectra.items()
    }
    shares = shares if name != "LoRA" else {f"LoRA r = {RANK}": shares[f"LoRA r = {RANK}"]}
    figure = new_figure(12.0, 3.6)
    # Each heat map has a scale of its own
    left, middle, right = figure.subplots(1, 3, width_ratios=(1, 1, 1.15))
    plots.plot_matrix(W0, title=f"W0, frozen ({M} × {N})", ax=left)
    plots.plot_matrix(delta, title=f"ΔW of {name}, random factors", ax=middle)
    plots.plot_spectra({label: list(values) for label, values in shares.items()}, ax=right)
    right.axvline(bound + 0.5, color="0.45", linewidth=1, zorder=0)
    right.set(
        ylabel="$\\sigma_i / \\sigma_1$",
        title=f"Spectrum of ΔW: rank at most {bound}",
        xlim=(0, 26),
        ylim=(1e-3, 2),
    )
    rank = int((spectra[f"{name} r = {RANK}"] > 1e-13 * spectra[f"{name} r = {RANK}"][0]).sum())
    return figure, {
        "method": method.to_dict(),
        "trainable": method.count(M, N),
        "rank_bound": bound,
        "rank": rank,
        "spectrum": spectra,
    }


def of_idea(seed: int) -> Drawn:
    """PERA at rank 2 as a sum of five pictures: two outer products (LoRA) and their products."""
    from matplotlib.lines import Line2D

    del seed  # waves that the eye can follow, nothing random
    rows, columns, h = np.arange(M), np.arange(N), np.array([0.8, -1.2, 0.8])
    B = np.stack([np.sin(rows / 3.0), np.cos(rows / 7.0)], axis=1)
    A = np.stack([np.cos(columns / 4.0), np.sin(columns / 9.0 - 1.5)])
    B_hat, A_hat = formulas.expand(B, A, h)  # the one rule, term by term
    terms = [np.outer(B_hat[:, k], A_hat[k]) for k in range(B_hat.shape[1])]
    names = ["$b_1 a_1^T$", "$b_2 a_2^T$"] + [
        rf"$h_{{{i}{j}}}\,(b_{i}\!\circ b_{j})(a_{i}\!\circ a_{j})^T$"
        for i, j in ((1, 1), (1, 2), (2, 2))
    ]
    figure = new_figure(12.6, 2.7)
    tiles = [*terms, sum(terms)]
    largest = max(np.abs(tile).max() for tile in tiles)
    # Tiles and the words under them are placed by hand
    figure.set_layout_engine("none")
    width, step = 0.132, 0.166
    for k, (matrix, name, sign) in enumerate(
        zip(tiles, [*names, r"$\Delta W$"], ["", *"++++="], strict=True)
    ):
        ax = figure.add_axes((0.01 + k * step, 0.26, width, 0.56))
        ax.imshow(
            matrix, cmap="PuOr", vmin=-largest, vmax=largest, aspect="auto", interpolation="nearest"
        )
        ax.set_xticks([])
        ax.set_yticks([])
        ax.grid(False)
        ax.set_title(name, loc="center")
        figure.text(
            0.01 + k * step - (step - width) / 2, 0.54, sign, fontsize=20, ha="center", va="center"
        )
    said = (
        (0, 1, "LoRA"),
        (2, 4, "PERA adds the products of their columns and rows, with a trained h for each"),
        (5, 5, "one matrix"),
    )
    for first, last, text in said:
        left, right = 0.012 + first * step, 0.008 + last * step + width
        figure.add_artist(Line2D([left, right], [0.19, 0.19], color="0.55", linewidth=1))
        figure.text((left + right) / 2, 0.15, text, color="0.2", ha="center", va="top")
    return figure, {"h": h, "largest": [float(np.abs(term).max()) for term in tiles]}


def of_input(seed: int) -> Drawn:
    """What PERA and the quadratic contrast add to one output along the line t x."""
    draw = np.random.default_rng(seed)
    x, steps, pera = draw.normal(size=N) / 6, np.linspace(-2, 2, 81), PERA(RANK)
    delta = pera.update(None, **factors(pera, seed))
    U, P = draw.normal(size=(RANK, N)), draw.normal(size=(M, RANK))
    outputs = {
        "PERA: polynomial in its factors": (steps[:, None] * x) @ delta[0],
        "quadratic: polynomial in x": 2 * formulas.quadratic(steps[:, None] * x, U, P)[:, 0],
    }
    figure = new_figure(7.6, 4.0)
    plots.plot_along_input(
        list(steps), {name: list(values) for name, values in outputs.items()}, ax=figure.subplots()
    )
    return figure, {"t": steps, **outputs}


def of_four_bits(seed: int) -> Drawn:
    """Normal weights as shares of their block's largest, beside NF4's levels and 16 equal steps.

    It shows the error of both.
    """
    W = torch.randn(512, 512, generator=torch.Generator().manual_seed(seed))
    _, absmax = nf4.encode(W, 64)
    shares = (W.flatten().view(-1, 64) / absmax[:, None]).numpy()
    uniform = np.linspace(-1, 1, 16)
    levels = {"NF4": nf4.LEVELS.double().numpy(), "16 equal steps": uniform}
    errors = {}
    for name, values in levels.items():
        nearest = values[np.abs(shares[..., None] - values).argmin(-1)]
        size = absmax.numpy()[:, None]
        errors[name] = float(
            np.linalg.norm((nearest - shares) * size) / np.linalg.norm(shares * size)
        )
    figure = new_figure(7.6, 4.2)
    labels = {f"{name}: error {errors[name]:.1%}": list(values) for name, values in levels.items()}
    plots.plot_levels(shares, labels, ax=figure.subplots())
    return figure, {"levels": levels, "relative_error": errors}


FIGURES: dict[str, Callable[[int], Drawn]] = {
    **{method.name: partial(of_method, method) for method in METHODS},
    "idea": of_idea,
    "quadratic": of_input,
    "nf4": of_four_bits,
}


def draw(folder: str | Path, seed: int = 0) -> list[Path]:
    """Make every picture, a PNG each, and `numbers.json` with what is drawn; returns the paths.
    Some seconds.
    """
    folder, written, numbers = Path(folder), [], {}
    for name, make in FIGURES.items():
        written.append(folder / f"{name}.png")
        numbers[name] = draw_into(written[-1], partial(make, seed))
    record = {"made_from": made_from(seed), "layer": [M, N], "figures": numbers}
    return [*written, write_numbers(folder, record)]


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns 0, or 2 for a PerakitError, printed as one sentence."""
    parser = argparse.ArgumentParser(prog="python docs/making/peers.py", description=__doc__)
    parser.add_argument("folder", type=Path, help="where the figures and numbers.json go")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)
    try:
        for path in draw(arguments.folder, arguments.seed):
            print(path)
    except PerakitError as error:
        print(f"perakit: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
