"""Wasserstein gradient flows as scikit-learn estimators."""

from skwgf import datasets, flows, metrics
from skwgf.estimators import SinkhornFlowGenerator, W2FlowGenerator

__version__ = "0.1.0.dev0"

__all__ = [
    "SinkhornFlowGenerator",
    "W2FlowGenerator",
    "__version__",
    "datasets",
    "flows",
    "metrics",
]
