"""Wasserstein gradient flows as scikit-learn estimators."""

from skwgf import datasets, flows, functionals, inspection, kernels, metrics, targets
from skwgf.estimators import (
    DomainAdapter,
    GWGSampler,
    MeanFieldClassifier,
    MeanFieldRegressor,
    SinkhornFlowGenerator,
    SourceOnly,
    SVGDSampler,
    W2FlowGenerator,
    WSFNOptimizer,
)
from skwgf.persistence import load
from skwgf.pipeline import sample_pipeline

__version__ = "0.1.0.dev0"

__all__ = [
    "DomainAdapter",
    "GWGSampler",
    "MeanFieldClassifier",
    "MeanFieldRegressor",
    "SVGDSampler",
    "SinkhornFlowGenerator",
    "SourceOnly",
    "W2FlowGenerator",
    "WSFNOptimizer",
    "__version__",
    "datasets",
    "flows",
    "functionals",
    "inspection",
    "kernels",
    "load",
    "metrics",
    "sample_pipeline",
    "targets",
]
