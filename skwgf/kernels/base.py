r"""What every kernel of the package can do.

A kernel :math:`k(x, y)` enters a Stein flow through two quantities of a cloud x_1..x_n with
scores :math:`s_i = \nabla \log \pi(x_i)` [1]_ [2]_: the velocity

.. math:: v(x_i) = \frac1n \sum_j \big[k(x_j, x_i) \, s_j + \nabla_{x_j} k(x_j, x_i)\big]

and the Stein kernel, whose mean over all pairs is the squared kernel Stein discrepancy,

.. math:: k_\pi(x, y) = s(x) \cdot s(y) \, k + s(x) \cdot \nabla_y k + s(y) \cdot \nabla_x k
    + \mathrm{tr} \, \nabla_x \nabla_y k .

References
----------
.. [1] Q. Liu, D. Wang. *Stein variational gradient descent: a general purpose Bayesian inference
   algorithm*. NeurIPS 2016, arXiv:1608.04471.
.. [2] Q. Liu, J. Lee, M. Jordan. *A kernelized Stein discrepancy for goodness-of-fit tests*.
   ICML 2016, arXiv:1602.03253.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, NamedTuple

from sklearn.base import BaseEstimator
from torch import Tensor

if TYPE_CHECKING:
    from skwgf.kernels.combined import Scaled, Sum


class SteinField(NamedTuple):
    r"""The Stein velocity of a cloud and its discrepancy, made from the same tiles.

    Attributes
    ----------
    velocity : Tensor of shape (n, d)
        The velocity v(x_i) of each particle, in flow time.

    discrepancy : Tensor of shape (n,)
        :math:`\frac1n \sum_j k_\pi(x_i, x_j)`. Its mean is the squared kernel Stein discrepancy
        as a V-statistic (a particle's pair with itself counts), which is not negative but for
        rounding. NaN for kernels without :attr:`Kernel.has_discrepancy`.

    Examples
    --------
    >>> import torch
    >>> from skwgf.kernels import Gaussian
    >>> x = torch.tensor([[1.0], [2.0], [3.0]], dtype=torch.float64)
    >>> field = Gaussian(1.0).stein(x, scores=-x)  # the target is N(0, 1)
    >>> bool((field.velocity < 0).all()), bool(field.discrepancy.mean() > 0)
    (True, True)
    """

    velocity: Tensor
    discrepancy: Tensor


class Kernel(BaseEstimator, ABC):
    """A positive definite kernel between points of :math:`R^d`.

    Parameters given as rules, such as a bandwidth "median", become numbers in :meth:`resolve`;
    all other methods want numbers. Kernels add with ``+`` and are scaled with ``*``.

    Examples
    --------
    >>> import torch
    >>> from skwgf.kernels import Gaussian, Kernel, Linear
    >>> kernel = 0.5 * Gaussian("median") + Linear()
    >>> isinstance(kernel, Kernel), kernel.has_discrepancy
    (True, True)
    >>> x = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    >>> resolved = kernel.resolve(x)  # the bandwidth is a number now
    >>> resolved.gram(x, x).shape
    torch.Size([2, 2])
    """

    @property
    def has_discrepancy(self) -> bool:
        """Whether the kernel is smooth enough for a kernel Stein discrepancy."""
        return True

    @abstractmethod
    def resolve(self, x: Tensor) -> Kernel:
        """Return a copy with the numbers that suit a cloud `x`, of shape (n, d), for its rules.

        The answer is a function of `x` alone: what is estimated from a subset always takes the
        same rows.
        """

    @abstractmethod
    def gram(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the matrix k(x_i, y_j), of shape (n, m), for x (n, d) and y (m, d)."""

    @abstractmethod
    def product(self, x: Tensor, v: Tensor) -> Tensor:
        """Return the Gram matrix of `x` times `v`, of shape (n, q), without keeping the matrix."""

    @abstractmethod
    def stein(self, x: Tensor, scores: Tensor) -> SteinField:
        """Return the Stein velocity and discrepancy of a cloud `x` with `scores`, both (n, d)."""

    @abstractmethod
    def stein_gram(self, x: Tensor, scores_x: Tensor, y: Tensor, scores_y: Tensor) -> Tensor:
        """Return the matrix of the Stein kernel between x (n, d) and y (m, d), shape (n, m).

        Raises
        ------
        ValueError
            If the kernel is too rough to have one.
        """

    @abstractmethod
    def stein_diagonal(self, x: Tensor, scores: Tensor) -> Tensor:
        """Return the Stein kernel of each point with itself, of shape (n,).

        Raises
        ------
        ValueError
            If the kernel is too rough to have one.
        """

    def __add__(self, other: Kernel) -> Sum:
        """Return the sum of two kernels."""
        from skwgf.kernels.combined import Sum

        return Sum(self, other) if isinstance(other, Kernel) else NotImplemented

    def __mul__(self, factor: float) -> Scaled:
        """Return the kernel times a positive number."""
        from skwgf.kernels.combined import Scaled

        return Scaled(self, factor) if isinstance(factor, int | float) else NotImplemented

    __rmul__ = __mul__
