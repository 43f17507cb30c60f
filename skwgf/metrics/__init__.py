"""Distances between samples, and figures of the quality of a sample."""

from skwgf.metrics.adaptation import (
    CircularScorer,
    EntropyScorer,
    ImportanceWeightedScorer,
    NeighborScorer,
)
from skwgf.metrics.discrepancies import (
    mmd,
    sinkhorn_divergence,
    sliced_wasserstein,
    wasserstein_distance,
)
from skwgf.metrics.importance import pareto_k
from skwgf.metrics.quality import (
    ModeCoverage,
    mode_coverage,
    neighbor_distance_ratio,
    two_sample_accuracy,
)
from skwgf.metrics.stein import ksd

__all__ = [
    "CircularScorer",
    "EntropyScorer",
    "ImportanceWeightedScorer",
    "ModeCoverage",
    "NeighborScorer",
    "ksd",
    "mmd",
    "mode_coverage",
    "neighbor_distance_ratio",
    "pareto_k",
    "sinkhorn_divergence",
    "sliced_wasserstein",
    "two_sample_accuracy",
    "wasserstein_distance",
]
