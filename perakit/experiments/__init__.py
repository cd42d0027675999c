"""The paper's experiments at a size anyone can repeat: `perakit experiment NAME`."""

from perakit.experiments import (
    components,
    cost,
    data,
    forgetting,
    function,
    interaction,
    loss,
    placement,
    rank,
    share,
    teacher,
)
from perakit.experiments.arms import Options
from perakit.experiments.experiment import Experiment

# In the order of docs/evidence.md.
_ALL = (
    components,
    share,
    loss,
    rank,
    data,
    placement,
    forgetting,
    interaction,
    function,
    teacher,
    cost,
)
EXPERIMENTS: dict[str, Experiment] = {one.EXPERIMENT.name: one.EXPERIMENT for one in _ALL}

__all__ = ["EXPERIMENTS", "Experiment", "Options"]
