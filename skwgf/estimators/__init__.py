"""One estimator a file."""

from skwgf.estimators.gwg import GWGSampler
from skwgf.estimators.mean_field import MeanFieldClassifier, MeanFieldRegressor
from skwgf.estimators.sinkhorn_flow import SinkhornFlowGenerator
from skwgf.estimators.svgd import SVGDSampler
from skwgf.estimators.w2_flow import W2FlowGenerator
from skwgf.estimators.wsfn import WSFNOptimizer

__all__ = [
    "GWGSampler",
    "MeanFieldClassifier",
    "MeanFieldRegressor",
    "SVGDSampler",
    "SinkhornFlowGenerator",
    "W2FlowGenerator",
    "WSFNOptimizer",
]
