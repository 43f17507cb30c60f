"""One estimator a file."""

from skwgf.estimators.gwg import GWGSampler
from skwgf.estimators.sinkhorn_flow import SinkhornFlowGenerator
from skwgf.estimators.svgd import SVGDSampler
from skwgf.estimators.w2_flow import W2FlowGenerator
from skwgf.estimators.wsfn import WSFNOptimizer

__all__ = ["GWGSampler", "SVGDSampler", "SinkhornFlowGenerator", "W2FlowGenerator", "WSFNOptimizer"]
