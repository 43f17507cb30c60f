"""The kernel Stein discrepancy: how far a sample is from a density known up to a constant."""

from __future__ import annotations

import math
from typing import Any

from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from skwgf._tensor import to_tensor
from skwgf.kernels import InverseMultiquadric, Kernel
from skwgf.kernels.discrepancy import ksd_squared
from skwgf.metrics._checks import check_sample
from skwgf.targets import Target


def ksd(X: Any, target: Target, *, kernel: Kernel | None = None) -> float:
    r"""Kernel Stein discrepancy of a sample from a target density.

    .. math:: KSD^2 = \frac{1}{n^2} \sum_{i, j} k_\pi(z_i, z_j), \quad
        k_\pi(z, z') = s(z) \cdot s(z') \, k + s(z) \cdot \nabla_{z'} k
        + s(z') \cdot \nabla_z k + \mathrm{tr} \, \nabla_z \nabla_{z'} k ,

    with the gradient s of the log density: its normalising constant is not needed, and no draws of
    the target are either. The root of this V-statistic is returned, which counts the pairs of a
    row with itself. :func:`skwgf.flows.stein.ksd_squared` has the U-statistic without them as
    well, whose mean is right but which may be negative.

    Parameters
    ----------
    X : array-like or Tensor of shape (n, p)
        Sample, in the coordinates of the user.

    target : Target
        The density, fitted unless it is a bare one, whose dimension is then that of `X`. What is
        compared is its law in unconstrained coordinates z.

    kernel : Kernel, default=None
        None takes ``InverseMultiquadric(bandwidth=1.0)``, which is the same for all samples, so
        that figures compare. A bandwidth given as a rule follows each sample.

    Returns
    -------
    float
        Not negative, and 0 only for the target. For n independent draws of the target its mean
        square is that of :math:`k_\pi(z, z) / n`; particles that repel each other can be below.

    Raises
    ------
    ValueError
        If the sample does not fit the target or its support, or the kernel is too rough.

    sklearn.exceptions.NotFittedError
        If a target that learns from data has not been fitted.

    Notes
    -----
    A discrepancy of one kind of error can be small where another remains: like every such figure
    it hardly sees the wrong masses of modes that lie far apart.

    References
    ----------
    J. Gorham, L. Mackey, "Measuring sample quality with kernels", ICML 2017, arXiv 1703.01717.

    Q. Liu, J. Lee, M. Jordan, "A kernelized Stein discrepancy for goodness-of-fit tests", ICML
    2016, arXiv 1602.03253.

    Examples
    --------
    >>> import numpy as np
    >>> from skwgf.metrics import ksd
    >>> from skwgf.targets import Gaussian
    >>> X = np.random.default_rng(0).normal(size=(400, 2))
    >>> ksd(X, Gaussian()) < 0.1 < ksd(X + 0.5, Gaussian())
    True
    """
    X = check_sample(X, "X")
    if not hasattr(target, "n_dim_"):
        if target.learns_from_data:
            raise NotFittedError(
                f"{type(target).__name__} learns from data: fit it to them before ksd, which only "
                "judges the sample."
            )
        target = clone(target).fit(X)
    z = target.unconstrain(to_tensor(X, device=target.device_, dtype=target.dtype_))
    resolved = (InverseMultiquadric(bandwidth=1.0) if kernel is None else kernel).resolve(z)
    return math.sqrt(ksd_squared(z, target.grad_log_prob(z), resolved))
