"""The paper's experiments at a size anyone can repeat: `perakit experiment NAME`."""

from perakit.experiments import (
    batch,
    components,
    cost,
    curvature,
    data,
    forgetting,
    function,
    interaction,
    loss,
    placement,
    rank,
    share,
    small,
    smollm2,
    teacher,
    terms,
    variants,
)
from perakit.experiments.arms import Options
from perakit.experiments.experiment import Experiment

# In the order of docs/evidence.md.
_ALL = (
    components,
    variants,
    share,
    terms,
    loss,
    rank,
    batch,
    curvature,
    data,
    placement,
    forgetting,
    interaction,
    function,
    teacher,
    cost,
    small,
    smollm2,
)
EXPERIMENTS: dict[str, Experiment] = {one.EXPERIMENT.name: one.EXPERIMENT for one in _ALL}

__all__ = ["EXPERIMENTS", "Experiment", "Options"]
