"""Questions about updates, answered: derivations, exact ranks, measurements, verdicts, evidence."""

from perakit.theory.approximation import Approximation, best_approximation
from perakit.theory.capture import CaptureBound, capture_bound, captured
from perakit.theory.claims import Claim, Evidence, claims
from perakit.theory.curves import error_curve, targets
from perakit.theory.exact import exact_rank
from perakit.theory.families import Formula
from perakit.theory.findings import Finding, search
from perakit.theory.gauge import Gauge, gauge
from perakit.theory.gradients import pera_gradients
from perakit.theory.interaction import interaction_strength, layer_interaction
from perakit.theory.jacobian import jacobian_rank
from perakit.theory.layers import LayerSpectra, layer_spectra
from perakit.theory.manifold import (
    curvature,
    dimension,
    gauge_orbit,
    gauge_path,
    measured_dimension,
    tangent_dimension,
)
from perakit.theory.measured import FloatRank, ModularRank, measured_rank
from perakit.theory.rank import (
    OrderShare,
    amplification,
    effective_rank,
    numerical_rank,
    order_share,
    predicted_share,
    spectrum,
    stable_rank,
    subspace_similarity,
)
from perakit.theory.recovery import Recovery, recover
from perakit.theory.report import Report, verify

__all__ = [
    "Approximation",
    "CaptureBound",
    "Claim",
    "Evidence",
    "Finding",
    "FloatRank",
    "Formula",
    "Gauge",
    "LayerSpectra",
    "ModularRank",
    "OrderShare",
    "Recovery",
    "Report",
    "amplification",
    "best_approximation",
    "capture_bound",
    "captured",
    "claims",
    "curvature",
    "dimension",
    "effective_rank",
    "error_curve",
    "exact_rank",
    "gauge",
    "gauge_orbit",
    "gauge_path",
    "interaction_strength",
    "jacobian_rank",
    "layer_interaction",
    "layer_spectra",
    "measured_dimension",
    "measured_rank",
    "numerical_rank",
    "order_share",
    "pera_gradients",
    "predicted_share",
    "recover",
    "search",
    "spectrum",
    "stable_rank",
    "subspace_similarity",
    "tangent_dimension",
    "targets",
    "verify",
]


def _statements() -> None:
    # Here, since the statements import the registry; on first use, since they need sympy.
    from perakit.theory import statements  # noqa: F401


claims.fill_by(_statements)
