"""An explorer for Jupyter: move r and h; see ΔW's spectrum, its rank from r to K, and φ_h.

from perakit import explorer
explorer.explore()

The numbers and the figure need no widgets: `figure(2, [0.5, -1, 0.5])`. Widgets are imported where
they are made.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

from perakit import formulas, plots
from perakit.errors import PerakitError, short
from perakit.formulas import check_count

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Entries of b_i and a_i are ±1 ... ±99 over this: about 1 in size, and exact in binary
LARGEST_ENTRY, SHARPNESS = 99, 64
LARGEST_RANK = 4  # of the slider; K = 14 then
SINGLE = 2  # up to this rank every coefficient has a slider, above it one moves the size of all
LIMIT, STEP = 2.0, 0.25  # of a coefficient's slider
LARGEST = 1e200  # of a singular value on a logarithmic axis, whose margins have to be floats too
START = {"h₁₁": 0.5, "h₁₂": -1.0, "h₂₂": 0.5}

_numbers = itertools.count()
# Arguments of `explore` -> where its sliders stood
_last: dict[tuple[int, int, int], dict[str, Any]] = {}


@dataclass(frozen=True)
class Numbers:
    """What the figure shows, of one update.

    rank: r; bound: K; shape: (m, n); h (K - r,); spectrum, lora (min(m, n),): singular values of ΔW
    and of B A alone;
    exact_rank: of ΔW, without rounding; measured_rank: up to rounding, of the singular values;
    order_share: ‖high-order part‖_F / ‖linear part‖_F.
    """

    rank: int
    bound: int
    shape: tuple[int, int]
    h: np.ndarray
    spectrum: np.ndarray
    lora: np.ndarray
    exact_rank: int
    measured_rank: int
    order_share: float

    def __str__(self) -> str:
        return (
            f"r = {self.rank}, rank(ΔW) = {self.exact_rank}, K = {self.bound}; order share"
            f" {self.order_share:.2g}"
        )


# --- numbers and figure ---------------------------------------------------------------------------


def compute(
    rank: int, h: Sequence[float], terms: str = "full", m: int = 11, n: int = 13, seed: int = 0
) -> Numbers:
    """The numbers of ΔW = B A + Σ h_ij (b_i∘b_j)(a_i∘a_j)ᵀ with factors drawn from `seed`.

    rank: r, at most min(m, n); h: as many coefficients as `formulas.pera` takes, any finite floats;
    terms: as there; m, n: the layer. b_i and a_i depend on the seed and on i alone: a larger rank
    adds columns and keeps those that were there. Raises PerakitError for a rank or an h that do not
    fit.

    >>> from perakit import explorer
    >>> numbers = explorer.compute(rank=2, h=[1.0, 0.0, 0.0], m=4, n=5)
    >>> numbers.bound, numbers.exact_rank
    (5, 3)
    """
    from perakit import theory

    B, A = _factors(rank, m, n, seed)
    c = np.asarray(h, dtype=float)
    with np.errstate(all="ignore"):
        delta = formulas.pera(B, A, c, terms)
    if not np.isfinite(delta).all():
        raise PerakitError(
            f"h={c.tolist()} makes entries of ΔW that are not finite: choose finite, smaller ones"
        )
    return Numbers(
        rank=rank,
        bound=formulas.rank_bound(rank, terms),
        shape=(m, n),
        h=c,
        spectrum=theory.spectrum(delta),
        lora=theory.spectrum(B @ A),
        exact_rank=theory.exact_rank(formulas.pera(_exact(B), _exact(A), _exact(c), terms)),
        measured_rank=theory.numerical_rank(delta).rank,
        order_share=theory.order_share((B, A, c), terms).overall,
    )


def figure(
    rank: int, h: Sequence[float], terms: str = "full", m: int = 11, n: int = 13, seed: int = 0
) -> tuple[Figure, Numbers]:
    """Spectrum, rank and polynomial of one update, side by side, and the numbers they show.

    Arguments as in `compute`, which takes larger h: here no singular value may be above 1e200. The
    figure is not one of pyplot's: nothing has to be closed. Returns (figure, numbers).
    """
    from matplotlib import style
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    numbers = compute(rank, h, terms, m, n, seed)
    if numbers.spectrum[0] > LARGEST:
        raise PerakitError(
            f"h={short(list(h))} makes singular values up to {numbers.spectrum[0]:.1e}, and no axis"
            f" goes beyond {LARGEST:.0e}: choose smaller coefficients"
        )
    # Fitting a layout doubles the time of a redraw
    with style.context([plots.STYLE, {"figure.constrained_layout.use": False}]):
        figure = Figure(figsize=(12, 4.2))
        FigureCanvasAgg(figure)
        figure.subplots_adjust(left=0.06, right=0.95, bottom=0.22, top=0.92, wspace=0.32)
        left, middle, right = figure.subplots(1, 3, width_ratios=(1.15, 0.8, 1))
        drawn = {"PERA": numbers.spectrum.tolist(), "LoRA (h = 0)": numbers.lora.tolist()}
        plots.plot_spectra(
            drawn, rank=rank, bound=numbers.bound if numbers.bound <= min(m, n) else None, ax=left
        )
        # The same while sliders move
        left.set(title="Spectrum of ΔW", ylim=(1e-18, max(1e4, 4 * numbers.spectrum[0])))
        _draw_ranks(middle, numbers)
        plots.plot_entry_polynomial(numbers.h, rank, terms=terms, ax=right)
        right.set_title(
            r"$\varphi_h(u)$: every entry of ΔW"
            if rank <= SINGLE
            else rf"$\varphi_h(u_1, u_2, 0, …)$ of {rank} coordinates"
        )
    return figure, numbers


def _draw_ranks(ax: Axes, numbers: Numbers) -> None:
    """r <= rank(ΔW) <= K, as three bars, and the size of the layer, which no rank exceeds."""
    rows = {"r": numbers.rank, "rank of ΔW": numbers.exact_rank, "K": numbers.bound}
    bars = ax.barh(list(rows), list(rows.values()), color=["0.75", "#0072B2", "0.75"])
    ax.bar_label(bars, padding=3)
    ax.axvline(
        min(numbers.shape),
        color="0.45",
        linewidth=1,
        linestyle="--",
        label=f"min(m, n) = {min(numbers.shape)}",
    )
    ax.invert_yaxis()
    ax.set(
        xlim=(0, 1.15 * max(*rows.values(), *numbers.shape)),
        xlabel=f"order share: {numbers.order_share:.2g}",
        title="Rank, exactly",
    )
    ax.grid(axis="y", visible=False)
    ax.legend(fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.14))


def _factors(rank: int, m: int, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """B (m, r) and A (r, n): of each i a stream of its own, so that the rank can grow."""
    from perakit.theory.families import check_layer, whole_array

    check_layer(m, n, rank)
    check_count("seed", seed, least=0)
    drawn = [
        whole_array(np.random.default_rng((seed, i)), (m + n,), LARGEST_ENTRY) / SHARPNESS
        for i in range(rank)
    ]
    return np.stack([x[:m] for x in drawn], axis=1), np.stack([x[m:] for x in drawn])


def _exact(x: np.ndarray) -> np.ndarray:
    """Its floats as the fractions they are: in products of these nothing is rounded."""
    return np.array([Fraction(value) for value in x.ravel().tolist()], dtype=object).reshape(
        x.shape
    )


# --- widgets --------------------------------------------------------------------------------------


def explore(m: int = 11, n: int = 13, seed: int = 0, fresh: bool = False) -> Explorer:
    """Sliders over the figure: r, the terms, the coefficients h, and the draw of the factors.

    m, n: the layer, r goes up to min(m, n, 4); seed: of the first draw; fresh: False goes on where
    the sliders of a call with the same m, n and seed stood last, so that a cell may be run again;
    True begins anew. Up to r = 2 every coefficient has a slider in [-2, 2], above it one slider
    multiplies a random h. Below the sliders stands a plain picture, which is what a page without a
    kernel shows: the state at the start. Returns the explorer; as the last line of a cell it is
    displayed.
    Raises PerakitError without ipywidgets.
    """
    return Explorer(m, n, seed, fresh)


class Explorer:
    """What `explore` makes: `controls` (an ipywidgets box), `numbers`, `picture` (a PNG)."""

    controls: Any
    numbers: Numbers  # what the picture shows at the moment
    picture: bytes

    def __init__(self, m: int, n: int, seed: int, fresh: bool = False) -> None:
        widgets = _widgets()
        self.shape, self.key = (m, n), (m, n, seed)
        last = {} if fresh else _last.get(self.key, {})
        _factors(1, m, n, seed)  # refuses what is no layer before any widget is there
        options = {"style": {"description_width": "90px"}, "layout": widgets.Layout(width="420px")}
        self.rank = widgets.IntSlider(
            last.get("rank", min(2, m, n)),
            1,
            min(LARGEST_RANK, m, n),
            description="rank r",
            **options,
        )
        self.terms = widgets.Dropdown(
            options=formulas.TERMS, value=last.get("terms", "full"), description="terms", **options
        )
        self.draw = widgets.IntSlider(
            last.get("draw", seed), 0, max(99, seed), description="draw again", **options
        )
        self.values: dict[str, float] = {**START, **last.get("values", {})}
        self.sliders: dict[str, Any] = {}
        self.coefficients = widgets.VBox()
        self.controls = widgets.HBox(
            [widgets.VBox([self.rank, self.terms, self.draw]), self.coefficients]
        )
        self.display_id = f"perakit-explorer-{next(_numbers)}"
        self.shown = False
        self._slider = lambda name, value: widgets.FloatSlider(
            value, min=-LIMIT, max=LIMIT, step=STEP, description=name, **options
        )
        for control in (self.rank, self.terms):
            control.observe(self._other_coefficients, names="value")
        self.draw.observe(self._redraw, names="value")
        self._other_coefficients()

    def h(self) -> np.ndarray:
        """The coefficients (K - r,) that the sliders say."""
        values = np.array([slider.value for slider in self.sliders.values()])
        if self.rank.value <= SINGLE:
            return values
        count = formulas.rank_bound(self.rank.value, self.terms.value) - self.rank.value
        return values[0] * np.random.default_rng((self.draw.value, LARGEST_RANK)).choice(
            (-1.0, -0.5, 0.5, 1.0), count
        )

    def _other_coefficients(self, _: Any = None) -> None:
        """A slider for every product, or one for all; one that comes back stands where it stood."""
        rank = self.rank.value
        products = zip(*formulas.pairs(rank, self.terms.value), strict=True)
        names = (
            [f"h{_subscript(i)}{_subscript(j)}" for i, j in products]
            if rank <= SINGLE
            else ["size of h"]
        )
        for slider in self.sliders.values():
            slider.unobserve_all()
            slider.close()
        self.sliders = {name: self._slider(name, self.values.get(name, 1.0)) for name in names}
        for slider in self.sliders.values():
            slider.observe(self._redraw, names="value")
        self.coefficients.children = tuple(self.sliders.values())
        self._redraw()

    def _redraw(self, _: Any = None) -> None:
        self.values |= {name: slider.value for name, slider in self.sliders.items()}
        _last[self.key] = {
            "rank": self.rank.value,
            "terms": self.terms.value,
            "draw": self.draw.value,
            "values": dict(self.values),
        }
        drawn, self.numbers = figure(
            self.rank.value, self.h().tolist(), self.terms.value, *self.shape, self.draw.value
        )
        buffer = io.BytesIO()
        drawn.savefig(buffer, format="png", dpi=80)
        self.picture = buffer.getvalue()
        if self.shown:
            from IPython.display import update_display

            update_display(self._image(), display_id=self.display_id)

    def _image(self) -> Any:
        from IPython.display import Image

        return Image(self.picture, format="png", alt=str(self.numbers))

    def _ipython_display_(self) -> None:
        """The sliders, then the picture."""
        from IPython.display import display

        display(self.controls)
        # An output of its own, which stays when there is no kernel any more
        display(self._image(), display_id=self.display_id)
        self.shown = True


def _subscript(i: int) -> str:
    return "₁₂₃₄"[i]


def _widgets() -> Any:
    try:
        return import_module("ipywidgets")
    except ImportError as error:
        raise PerakitError(
            f'the explorer needs ipywidgets ({error}): pip install "perakit[notebooks]", or call'
            " explorer.figure"
        ) from error
