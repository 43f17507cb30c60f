"""One estimator a file."""

from skwgf.estimators.w2_flow import W2FlowGenerator

__all__ = ["W2FlowGenerator"]
