"""Questions about updates, answered with numbers."""

from perakit.theory.exact import exact_rank
from perakit.theory.families import Formula
from perakit.theory.jacobian import jacobian_rank
from perakit.theory.manifold import curvature, dimension, gauge_orbit, gauge_path, measured_dimension, tangent_dimension
from perakit.theory.rank import (
    OrderShare,
    amplification,
    effective_rank,
    measured_rank,
    numerical_rank,
    order_share,
    predicted_share,
    spectrum,
    stable_rank,
    subspace_similarity,
)

__all__ = [
    "Formula",
    "OrderShare",
    "amplification",
    "curvature",
    "dimension",
    "effective_rank",
    "exact_rank",
    "gauge_orbit",
    "gauge_path",
    "jacobian_rank",
    "measured_dimension",
    "measured_rank",
    "numerical_rank",
    "order_share",
    "predicted_share",
    "spectrum",
    "stable_rank",
    "subspace_similarity",
    "tangent_dimension",
]
