"""One estimator a file."""

from skwgf.estimators.domain_adapter import DomainAdapter
from skwgf.estimators.gwg import GWGSampler
from skwgf.estimators.mean_field import MeanFieldClassifier, MeanFieldRegressor
from skwgf.estimators.sinkhorn_flow import SinkhornFlowGenerator
from skwgf.estimators.source_only import SourceOnly
from skwgf.estimators.svgd import SVGDSampler
from skwgf.estimators.w2_flow import W2FlowGenerator
from skwgf.estimators.wsfn import WSFNOptimizer

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
]
