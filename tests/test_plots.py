"""Figures draw the numbers they are given, on the Axes they are given, and change nothing else."""

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest

from perakit import plots
from perakit.toy import Run


@pytest.fixture
def runs():
    def run(shift):
        rows = [{"step": k, "loss": shift + 1 / k} for k in range(1, 31)]
        return Run([{"step": 0, "heldout_bits_per_byte": 3.0}, *rows, {"step": 30, "heldout_bits_per_byte": 2.0 + shift}])

    return {"LoRA": run(0.0), "PERA": run(0.5)}


def test_loss_curves_are_running_means_of_the_metrics(runs):
    before = dict(matplotlib.rcParams)
    _, given = plt.subplots()
    ax = plots.plot_loss(runs, window=10, ax=given)
    assert ax is given
    assert [line.get_label() for line in ax.lines] == ["LoRA", "PERA"]
    assert len({line.get_linestyle() for line in ax.lines}) == 2
    x, y = ax.lines[1].get_data()
    assert list(x) == list(range(10, 31))
    assert y[0] == pytest.approx(0.5 + np.mean([1 / k for k in range(1, 11)]))
    assert dict(matplotlib.rcParams) == before
    plt.close("all")


def test_heldout_points_are_the_evaluations(runs):
    ax = plots.plot_heldout(runs)
    assert [tuple(line.get_ydata()) for line in ax.lines] == [(3.0, 2.0), (3.0, 2.5)]
    assert ax.get_ylabel() == "bits per byte"
    plt.close("all")


def test_the_training_figure_needs_no_pyplot_state(runs):
    figure = plots.training_figure(runs)
    assert len(figure.axes) == 2
    assert plt.get_fignums() == []
