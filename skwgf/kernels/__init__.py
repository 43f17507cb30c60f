"""Kernels, and the Stein velocity and discrepancy of a cloud that they make."""

from skwgf.kernels.base import Kernel, SteinField
from skwgf.kernels.combined import Preconditioned, Scaled, Sum
from skwgf.kernels.linear import Linear
from skwgf.kernels.radial import Gaussian, InverseMultiquadric, Laplace, Matern
from skwgf.kernels.riesz import RieszKernel

__all__ = [
    "Gaussian",
    "InverseMultiquadric",
    "Kernel",
    "Laplace",
    "Linear",
    "Matern",
    "Preconditioned",
    "RieszKernel",
    "Scaled",
    "SteinField",
    "Sum",
]
