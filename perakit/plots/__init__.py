"""Every figure: a function of numbers that draws on an Axes and returns it."""

from perakit.plots.intervals import plot_gains, plot_intervals
from perakit.plots.matrices import plot_grid, plot_interaction, plot_matrix
from perakit.plots.peers import plot_along_input, plot_levels, plot_rounding
from perakit.plots.plane import plot_plane
from perakit.plots.products import (
    plot_entry_polynomial,
    plot_gauge,
    plot_gauge_dimension,
    plot_order_share,
    plot_share_of_steps,
)
from perakit.plots.rates import plot_rates
from perakit.plots.sets import (
    SETS,
    Trial,
    plot_approximation,
    plot_capture,
    plot_dimension,
    plot_sandwich,
    plot_spectra,
)
from perakit.plots.speed import plot_ratio, plot_step_time
from perakit.plots.style import LINES, MARKERS, STYLE
from perakit.plots.training import Curves, plot_heldout, plot_loss, plot_scores, training_figure

__all__ = [
    "LINES",
    "MARKERS",
    "SETS",
    "STYLE",
    "Curves",
    "Trial",
    "plot_along_input",
    "plot_approximation",
    "plot_capture",
    "plot_dimension",
    "plot_entry_polynomial",
    "plot_gains",
    "plot_gauge",
    "plot_gauge_dimension",
    "plot_grid",
    "plot_heldout",
    "plot_interaction",
    "plot_intervals",
    "plot_levels",
    "plot_loss",
    "plot_matrix",
    "plot_order_share",
    "plot_plane",
    "plot_rates",
    "plot_ratio",
    "plot_rounding",
    "plot_sandwich",
    "plot_scores",
    "plot_share_of_steps",
    "plot_spectra",
    "plot_step_time",
    "training_figure",
]
