r"""Kernels of the distance, :math:`k(x, y) = \varphi(|x - y|^2 / \ell^2)`.

The bandwidth :math:`\ell` is a length, in the unit of the coordinates, as the length scales of
:mod:`sklearn.gaussian_process.kernels` are.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from copy import copy
from typing import ClassVar, Self

import torch
from torch import Tensor

from skwgf.kernels._fields import (
    GAUSSIAN,
    RADIAL,
    PairSums,
    radial_gram,
    radial_stein_gram,
)
from skwgf.kernels._parameters import check_bandwidth, check_number, squared_bandwidth
from skwgf.kernels._tiles import Profile
from skwgf.kernels.base import Kernel, SteinField

_CUT = {torch.float32: 80.0, torch.float64: 700.0}  # exponentials beyond are negligible, and slow


class Radial(Kernel):
    r"""Base of the kernels of the distance.

    Bandwidths may be given as a rule, which sets a squared length h from the cloud: with m the
    median of the squared distances between its points (of 1000 rows at even spacing where there
    are more), "scale" takes :math:`h = m`, and "median" :math:`h = m / \log(n + 1)`, the choice of
    Liu and Wang. Where all points coincide, m is 1. The bandwidth is :math:`\sqrt h`, but
    :math:`\sqrt{h / 2}` for the Gaussian, which is then :math:`\exp(-r^2 / h)`.
    """

    bandwidth: float | str
    _share: ClassVar[float] = 1.0  # squared bandwidth over h
    _sums: ClassVar[PairSums] = RADIAL

    @abstractmethod
    def _profile(self, u: Tensor, d: int) -> Profile:
        """Return the kernel of bandwidth one at squared distances `u`, which may be reused."""

    def resolve(self, x: Tensor) -> Self:
        """Return a copy with a number for the bandwidth."""
        bandwidth = check_bandwidth(self.bandwidth)
        if isinstance(bandwidth, str):
            bandwidth = math.sqrt(self._share * squared_bandwidth(x, bandwidth))
        resolved = copy(self)
        resolved.bandwidth = bandwidth
        return resolved

    def gram(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the matrix k(x_i, y_j), of shape (n, m), for x (n, d) and y (m, d)."""
        length = self._length()
        return radial_gram(self._profile, x / length, y / length)

    def product(self, x: Tensor, v: Tensor) -> Tensor:
        """Return the Gram matrix of `x` times `v`, of shape (n, q), without keeping the matrix."""
        return self._sums.product(self._profile, self._length(), x, v)

    def stein(self, x: Tensor, scores: Tensor) -> SteinField:
        """Return the Stein velocity and discrepancy of a cloud `x` with `scores`, both (n, d).

        The discrepancy is NaN for a kernel without one.
        """
        return self._sums.field(self._profile, self._length(), x, scores)

    def stein_gram(self, x: Tensor, scores_x: Tensor, y: Tensor, scores_y: Tensor) -> Tensor:
        """Return the matrix of the Stein kernel between x (n, d) and y (m, d), shape (n, m)."""
        length = self._length()
        self._check_smooth()
        scaled = radial_stein_gram(
            self._profile, x / length, length * scores_x, y / length, length * scores_y
        )
        return scaled / length**2

    def stein_diagonal(self, x: Tensor, scores: Tensor) -> Tensor:
        """Return the Stein kernel of each point with itself, of shape (n,)."""
        length = self._length()
        self._check_smooth()
        value, _, trace = self._profile(x.new_zeros(1), x.shape[1])
        assert trace is not None
        return value * scores.square().sum(1) - trace / length**2

    def _length(self) -> float:
        """Return the bandwidth, which must be a number by now."""
        bandwidth = check_bandwidth(self.bandwidth)
        if isinstance(bandwidth, str):
            raise ValueError(
                f"bandwidth={bandwidth!r} is a rule that needs a cloud: call resolve(x) first "
                "and use the kernel that it returns, or give a number."
            )
        return bandwidth

    def _check_smooth(self) -> None:
        """Raise a ValueError if the kernel has no discrepancy."""
        if not self.has_discrepancy:
            raise ValueError(
                f"{type(self).__name__} is too rough for a kernel Stein discrepancy: its second "
                "derivatives are infinite at r = 0. Use InverseMultiquadric, Gaussian or Matern."
            )


class Gaussian(Radial):
    r"""The Gaussian kernel, :math:`k(x, y) = \exp(-|x - y|^2 / (2 \ell^2))`.

    Parameters
    ----------
    bandwidth : float or {"median", "scale"}, default="median"
        The standard deviation :math:`\ell`, in the unit of the coordinates. "median" gives
        :math:`\exp(-r^2 / h)` with :math:`h = m / \log(n + 1)`, and "scale" with :math:`h = m`,
        m the median of the squared distances in the cloud.

    Notes
    -----
    The Stein velocity and discrepancy take one power of two for every two pairs and two matrix
    products. In high dimension the median rule makes the particles' variances shrink.

    Examples
    --------
    >>> import torch
    >>> from skwgf.kernels import Gaussian
    >>> x = torch.tensor([[-1.0], [1.0]])
    >>> Gaussian(bandwidth=1.0).gram(x, x)
    tensor([[1.0000, 0.1353],
            [0.1353, 1.0000]])

    The velocity of two particles with the scores of N(0, 1):

    >>> Gaussian(bandwidth=2.0).stein(x, scores=-x).velocity
    tensor([[ 0.0451],
            [-0.0451]])
    """

    _share: ClassVar[float] = 0.5
    _sums: ClassVar[PairSums] = GAUSSIAN

    def __init__(self, bandwidth: float | str = "median") -> None:
        self.bandwidth = bandwidth

    def _profile(self, u: Tensor, d: int) -> Profile:
        """Return the kernel of bandwidth one at squared distances `u`."""
        value = torch.exp(-0.5 * u.clamp(max=2 * _CUT[u.dtype]))
        return Profile(value, -0.5 * value, value * (u - d))


class InverseMultiquadric(Radial):
    r"""The inverse multiquadric, :math:`k(x, y) = (1 + |x - y|^2 / \ell^2)^{b}` with b < 0.

    Its tails are heavy: with b in (-1, 0) the kernel Stein discrepancy controls weak convergence
    for targets whose score grows at least like that of a Gaussian [1]_.

    Parameters
    ----------
    bandwidth : float or {"median", "scale"}, default="median"
        The length :math:`\ell`; the rules set its square to :math:`m / \log(n + 1)` and to m, the
        median of the squared distances in the cloud.

    exponent : float, default=-0.5
        The exponent b, negative.

    References
    ----------
    .. [1] J. Gorham, L. Mackey. *Measuring sample quality with kernels*. ICML 2017,
       arXiv:1703.01717.

    Examples
    --------
    >>> import torch
    >>> from skwgf.kernels import InverseMultiquadric
    >>> x = torch.tensor([[0.0], [3.0**0.5]])
    >>> InverseMultiquadric(bandwidth=1.0).gram(x, x)
    tensor([[1.0000, 0.5000],
            [0.5000, 1.0000]])
    """

    def __init__(self, bandwidth: float | str = "median", exponent: float = -0.5) -> None:
        self.bandwidth = bandwidth
        self.exponent = exponent

    def _profile(self, u: Tensor, d: int) -> Profile:
        """Return the kernel of bandwidth one at squared distances `u`."""
        b = check_number(self.exponent, "exponent", "a negative number", lambda b: b < 0)
        base = 1 + u
        value = base.pow(b)
        slope = (b * value).div_(base)
        # u = base - 1 turns 2 d slope + 4 u curvature into two terms of the slope alone.
        return Profile(value, slope, slope * (2 * d + 4 * (b - 1) - 4 * (b - 1) / base))


class Laplace(Radial):
    r"""The Laplace kernel, :math:`k(x, y) = \exp(-|x - y| / \ell)`.

    It is not differentiable at r = 0: the gradient between points that coincide counts as 0, and
    there is no kernel Stein discrepancy.

    Parameters
    ----------
    bandwidth : float or {"median", "scale"}, default="median"
        The length :math:`\ell`; the rules set its square to :math:`m / \log(n + 1)` and to m, the
        median of the squared distances in the cloud.

    Examples
    --------
    >>> import torch
    >>> from skwgf.kernels import Laplace
    >>> x = torch.tensor([[0.0], [1.0]])
    >>> Laplace(bandwidth=1.0).gram(x, x)
    tensor([[1.0000, 0.3679],
            [0.3679, 1.0000]])
    """

    def __init__(self, bandwidth: float | str = "median") -> None:
        self.bandwidth = bandwidth

    @property
    def has_discrepancy(self) -> bool:
        """False: the kernel is too rough for a kernel Stein discrepancy."""
        return False

    def _profile(self, u: Tensor, d: int) -> Profile:
        """Return the kernel of bandwidth one at squared distances `u`."""
        r = u.sqrt_()
        value = torch.exp(-r.clamp(max=_CUT[r.dtype]))
        slope = (-0.5 * value).div_(r).masked_fill_(r == 0, 0.0)
        return Profile(value, slope, None)


class Matern(Radial):
    r"""The Matérn kernels of smoothness 3/2 and 5/2.

    With :math:`z = \sqrt{2 \nu} \, |x - y| / \ell` they are :math:`(1 + z) e^{-z}` and
    :math:`(1 + z + z^2 / 3) e^{-z}`.

    Parameters
    ----------
    bandwidth : float or {"median", "scale"}, default="median"
        The length :math:`\ell`; the rules set its square to :math:`m / \log(n + 1)` and to m, the
        median of the squared distances in the cloud.

    nu : {1.5, 2.5}, default=1.5
        The smoothness :math:`\nu`.

    Examples
    --------
    >>> import torch
    >>> from skwgf.kernels import Matern
    >>> x = torch.tensor([[0.0], [1.0]])
    >>> Matern(bandwidth=1.0, nu=2.5).gram(x, x)
    tensor([[1.0000, 0.5240],
            [0.5240, 1.0000]])
    """

    def __init__(self, bandwidth: float | str = "median", nu: float = 1.5) -> None:
        self.bandwidth = bandwidth
        self.nu = nu

    def _profile(self, u: Tensor, d: int) -> Profile:
        """Return the kernel of bandwidth one at squared distances `u`."""
        if self.nu not in (1.5, 2.5):
            raise ValueError(f"nu must be 1.5 or 2.5, got {self.nu!r}.")
        z = u.mul_(2 * self.nu).sqrt_().clamp_(max=_CUT[u.dtype])
        decay = torch.exp(-z)
        if self.nu == 1.5:
            return Profile((1 + z).mul_(decay), -1.5 * decay, (3 * (z - d)).mul_(decay))
        linear = 1 + z
        square = z.square()
        trace = (square - d * linear).mul_(decay).mul_(5 / 3)
        return Profile((linear + square / 3).mul_(decay), linear.mul_(decay).mul_(-5 / 6), trace)
